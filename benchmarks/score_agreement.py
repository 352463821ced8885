"""How far each training-free proxy agrees with published ImageNet top-1, and what it would choose by itself.

    python benchmarks/score_agreement.py [networks|seeds|picks|summary ...]    (all of them by default)

networks: every proxy on every network of benchmarks/data/published_top1.csv, fresh weights, half its resolution.
seeds: 20 sampled architectures under 3 seeds. picks: what 100 random samples and 150 mutations under a cap of 0.8 GMACs
choose. summary: Kendall's tau with bootstrap intervals, and the plot. Results go to results/training_free/.
"""

import csv
import json
import platform
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import combinations
from math import isfinite, log, sqrt
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy
import timm
import torch
from scipy.stats import kendalltau, spearmanr
from torch import nn

from mvig_nas import kernels, scores
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.network import build
from mvig_nas.scores.fresh_networks import labels, noise
from mvig_nas.scores.gradient_proxies import NORMS
from mvig_nas.search_space import SearchSpace

mpl.use("Agg")

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "benchmarks" / "data" / "published_top1.csv"
OUT = ROOT / "results" / "training_free"
SPACE = SearchSpace.from_toml(ROOT / "search_spaces" / "mobilevig.toml")
PROXIES = tuple(name for name in scores.NAMES if not name.startswith("log_"))
SEED = 0
STABILITY_SEEDS = (0, 1, 2)
STABILITY_SAMPLES = 20
MACS_CAP = 800_000_000
RANDOM_SAMPLES, MUTATIONS = 100, 150
SIMILAR_MACS = 1.5
BOOTSTRAPS = 2000


def published() -> list[dict[str, str]]:
    with PUBLISHED.open(newline="") as file:
        return list(csv.DictReader(file))


def fresh(name: str, resolution: int, generator: torch.Generator, unit: bool = False) -> nn.Module:
    """A network of timm or of ours as `scores` prepares its own: Kaiming or N(0, 1) weights, layer scales 1."""
    if name in PRESETS:
        module: nn.Module = build(PRESETS[name])
    else:
        try:
            module = timm.create_model(name, img_size=resolution)
        except TypeError:
            module = timm.create_model(name)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                part.weight.normal_(0, 1 if unit else sqrt(2 / part.weight[0].numel()), generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, NORMS) and hasattr(part, "reset_parameters"):
                part.reset_parameters()
        for key, parameter in module.named_parameters():
            if key.endswith((".gamma", ".scale", "layer_scale")):
                parameter.fill_(1)
    return module.train()


def proxy_values(name: str, resolution: int) -> dict[str, float]:
    """Every proxy of this network at half of `resolution`; without those that have no value for it."""
    side = resolution // 2
    values = {}
    for proxy in PROXIES:
        gen = torch.Generator().manual_seed(SEED)
        inputs = [noise(16 if proxy == "naswot" else 8, side, gen) for _ in range(2)]
        targets = [labels(8, gen) for _ in range(2)]
        module = fresh(name, side, gen, unit=proxy == "zen")
        with suppress(MvigNasError):
            if proxy == "zen":
                values[proxy] = scores.zen(module, *inputs)
            elif proxy == "zico":
                values[proxy] = scores.zico(module, list(zip(inputs, targets, strict=True)))
            elif proxy in ("grad_norm", "snip"):
                values[proxy] = getattr(scores, proxy)(module, inputs[0], targets[0])
            else:
                values[proxy] = getattr(scores, proxy)(module, inputs[0])
    module = fresh(name, resolution, gen).eval()
    totals = kernels.totals(kernels.trace(module, (1, 3, resolution, resolution)))
    values["log_macs"] = log(totals.macs)
    values["log_params"] = log(sum(parameter.numel() for parameter in module.parameters()))
    return {proxy: value for proxy, value in values.items() if isfinite(value)}


def networks() -> None:
    rows = []
    for row in published():
        start = time.perf_counter()
        try:
            values = proxy_values(row["network"], int(row["resolution"]))
        except (RuntimeError, ValueError, AssertionError) as error:  # fixed-size attention, mostly
            print(f"{row['network']}: left out: {str(error).splitlines()[0][:100]}", flush=True)
            continue
        print(f"{row['network']}: {time.perf_counter() - start:.1f} s, {values}", flush=True)
        rows.append(row | {proxy: f"{values[proxy]:.6g}" if proxy in values else "" for proxy in scores.NAMES})
        write("networks.csv", rows)


def seeds() -> None:
    rng = random.Random(SEED)
    sample = [SPACE.sample(rng) for _ in range(STABILITY_SAMPLES)]
    rows = []
    for name in scores.NAMES:
        values = np.array([[scores.load(name, seed=seed)(a) for a in sample] for seed in STABILITY_SEEDS])
        pairs = list(combinations(range(len(STABILITY_SEEDS)), 2))
        rank = np.mean([spearmanr(values[i], values[j]).statistic for i, j in pairs])
        noise_share = values.std(axis=0).mean() / values.mean(axis=0).std()
        rows.append({"score": name, "spearman_between_seeds": f"{rank:.4f}", "seed_sd_over_sd": f"{noise_share:.4f}"})
        print(rows[-1], flush=True)
        write("seeds.csv", rows)


def macs(architecture: Architecture) -> int:
    return kernels.totals(kernels.of(architecture)).macs


def within_cap(draw: Callable[[], Architecture]) -> Architecture:
    while True:
        architecture = draw()
        if macs(architecture) <= MACS_CAP:
            return architecture


def picks() -> None:
    rows = []
    for name in ("naswot", "synflow", "zico", "zen"):
        score, rng, start = scores.load(name, seed=SEED), random.Random(SEED), time.perf_counter()
        best = max((within_cap(partial(SPACE.sample, rng)) for _ in range(RANDOM_SAMPLES)), key=score)
        value = random_value = score(best)
        for _ in range(MUTATIONS):
            child = within_cap(partial(SPACE.mutate, best, rng))
            if (child_value := score(child)) > value:
                best, value = child, child_value
        totals = kernels.totals(kernels.of(best))
        row = {
            "score": name,
            "value": f"{value:.6g}",
            "random_best": f"{random_value:.6g}",
            **{preset: f"{score(PRESETS[preset]):.6g}" for preset in PRESETS},
            "gmacs": f"{totals.macs / 1e9:.3f}",
            "params_m": f"{totals.parameters / 1e6:.2f}",
            "resolution": best.resolution,
            "head_width": best.head_width,
        }
        for place, s in enumerate(best.stages, start=1):
            conv = f"{s.conv_depth}x conv e{s.conv_expansion} k{s.conv_kernel}" if s.conv_depth else "no conv"
            step = f" K{s.graph_step}" if s.graph_step else ""
            graph = f"{s.graph_depth}x {s.graph_operator}{step} f{s.ffn_expansion} g{s.graph_groups}"
            row[f"stage{place}"] = f"{s.width}: {conv} + {graph if s.graph_depth else 'no graph'} {s.activation}"
        rows.append(row)
        print(json.dumps(row), f"{time.perf_counter() - start:.0f} s", flush=True)
        write("picks.csv", rows)


def pairs_agree(rows: list[dict[str, str]], name: str, similar: bool) -> tuple[int, int]:
    """Concordant less discordant pairs, and pairs, within recipes; `similar`: only of MACs within SIMILAR_MACS."""
    difference = total = 0
    groups = defaultdict(list)
    for row in rows:
        if row[name]:
            groups[row["recipe"]].append((float(row["top1_percent"]), float(row[name]), float(row["log_macs"])))
    for group in groups.values():
        for (top1, value, cost), (other_top1, other, other_cost) in combinations(group, 2):
            if top1 == other_top1 or (similar and abs(cost - other_cost) > log(SIMILAR_MACS)):
                continue
            total += 1
            difference += int(np.sign((top1 - other_top1) * (value - other)))
    return difference, total


def share(rows: list[dict[str, str]], name: str, similar: bool) -> float:
    difference, total = pairs_agree(rows, name, similar)
    return difference / total if total else float("nan")


def interval(rows: list[dict[str, str]], name: str, similar: bool) -> tuple[float, float]:
    """90 % bootstrap interval over networks, drawn within each recipe."""
    rng = np.random.default_rng(SEED)
    groups = defaultdict(list)
    for row in rows:
        groups[row["recipe"]].append(row)
    draws = []
    for _ in range(BOOTSTRAPS):
        drawn = [group[place] for group in groups.values() for place in rng.integers(len(group), size=len(group))]
        draws.append(share(drawn, name, similar))
    low, high = np.nanquantile(draws, [0.05, 0.95])
    return float(low), float(high)


def summary() -> None:
    with (OUT / "networks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    table = []
    for name in scores.NAMES:
        entry: dict[str, str] = {"score": name}
        for recipe in recipes:
            group = [row for row in rows if row["recipe"] == recipe]
            entry[f"tau_{recipe}"] = f"{tau(group, name):.2f}"
        vig = [row for row in rows if row["network"].startswith("mobilevig")]
        entry["tau_mobilevig"] = f"{tau(vig, name):.2f}"
        for label, similar in (("tau_within", False), ("tau_within_similar_macs", True)):
            low, high = interval(rows, name, similar)
            entry[label] = f"{share(rows, name, similar):.2f}"
            entry[f"{label}_90"] = f"{low:.2f} to {high:.2f}"
        entry["networks"] = str(sum(bool(row[name]) for row in rows))
        entry["similar_pairs"] = str(pairs_agree(rows, name, True)[1])
        table.append(entry)
        print(entry, flush=True)
    write("agreement.csv", table)
    plot(rows, recipes, table)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    print(versions | {"numpy": np.__version__, "scipy": scipy.__version__, "matplotlib": mpl.__version__})


def tau(rows: list[dict[str, str]], name: str) -> float:
    rows = [row for row in rows if row[name]]
    return float(kendalltau(column(rows, "top1_percent"), column(rows, name)).statistic)


def column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def plot(rows: list[dict[str, str]], recipes: list[str], table: list[dict[str, str]]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(15, 7), sharey=True, layout="constrained")
    for axis, entry in zip(axes.flat, table, strict=True):
        name = entry["score"]
        for label in (*recipes, "MobileViG"):
            group = [r for r in rows if label == ("MobileViG" if r["network"].startswith("mobilevig") else r["recipe"])]
            group = [row for row in group if row[name]]
            style = "k*-" if label == "MobileViG" else "o"
            axis.plot(column(group, name), column(group, "top1_percent"), style, ms=5, label=label)
        axis.set_title(f"{name}: tau within recipes {entry['tau_within']}")
        if name in ("grad_norm", "snip"):
            axis.set_xscale("log")
    axes[0, 0].legend()
    for axis in axes[:, 0]:
        axis.set_ylabel("published ImageNet top-1, %")
    figure.savefig(OUT / "agreement.png", dpi=90)


def write(name: str, rows: list[dict[str, Any]]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


STEPS = {"networks": networks, "seeds": seeds, "picks": picks, "summary": summary}

if __name__ == "__main__":
    for step in sys.argv[1:] or STEPS:
        STEPS[step]()
