"""Does a supernet's ranking agree with stand-alone training, and does a search by it find better networks?

    python -m benchmarks.ranking_imagenette --data IMAGENETTE supernet sandwich-kl    (a variant; see VARIANTS)
    python -m benchmarks.ranking_imagenette --data IMAGENETTE alone                   (may run twice at once)
    python -m benchmarks.ranking_imagenette --data IMAGENETTE winners                 (searches, then trains)
    python -m benchmarks.ranking_imagenette --data IMAGENETTE calibration
    python -m benchmarks.ranking_imagenette --data IMAGENETTE report
    python -m benchmarks.ranking_imagenette --data IMAGENETTE summary                 (of ranking.csv, needs no runs)
    python -m benchmarks.ranking_imagenette --data IMAGENETTE scored                  (of networks trained on a GPU)
    python -m benchmarks.ranking_imagenette --data IMAGENETTE free                    (of both, needs no runs)

On Imagenette at 64 px, one thread. Runs go to results/runs/ranking/, figures to results/ranking_imagenette/, and the
summary to results/ranking/. Everything resumes where it was stopped.
"""

import csv
import json
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
import torch

from mvig_nas import scores, shipped
from mvig_nas.architecture import Architecture, Stage
from mvig_nas.budget import Budget
from mvig_nas.image_data import LabelledImages, hold_out, read_split
from mvig_nas.latency import ArchitectureLatency, LatencyPredictor
from mvig_nas.ranking import (
    Ranked,
    StandAlone,
    StandAlonePlan,
    agreement,
    partial_tau,
    proxies,
    rank,
    stand_alone,
    stratified,
    tau_difference,
    write_ranking,
)
from mvig_nas.scores import SupernetScore, fit_calibrated
from mvig_nas.search import search
from mvig_nas.search_space import SearchSpace
from mvig_nas.training import Execution, Progress, Recipe, SupernetPlan, train_supernet

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "results" / "runs" / "ranking"
OUT = ROOT / "results" / "ranking_imagenette"
SUMMARY = ROOT / "results" / "ranking" / "summary.json"
SPACE = "micro"
DEVICE = "iphone-13-mini"
COUNT, SEED = 24, 0
HOLD_OUT = 0.15
RECIPE = Recipe(
    epochs=20, batch_size=64, learning_rate=3e-3, warmup_epochs=1, clip=5.0, clip_mode="norm", hold_out=HOLD_OUT
)
SUPERNET_EPOCHS = 30
MAIN = "sandwich-kl"
VARIANTS = {
    MAIN: SupernetPlan(),
    "sandwich-labels": SupernetPlan(distillation=None),
    "uniform": SupernetPlan(sampling="uniform", distillation=None),
}
SEARCH_PROXIES = ("naswot",)  # the best of them, by `report`
EVALUATIONS = 80
WINNER_SEEDS = (0, 1)
CALIBRATED = (f"supernet {MAIN}", "naswot")  # what the calibrated score is fitted to
FREE = ("naswot", "log_macs", "log_params")  # what one without a supernet is fitted to
GPU_LOG, GPU_ROWS, GPU_COUNT = ROOT / "results" / "gpu" / "log.txt", "ranking_gpu.csv", 40
CALIBRATION_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
REFERENCE_SIZE = 8000
EXECUTION = Execution(channels_last=True, checkpoint_minutes=3, in_memory=True)

# MobileViG-Ti's shape: its depths but for 4 of the 6 blocks of stage 3, its widths times 3/8, rounded to the space.
PRESET_SHAPED = Architecture(
    (
        Stage(16, conv_depth=2),
        Stage(32, conv_depth=2),
        Stage(64, conv_depth=4),
        Stage(96, graph_depth=2, graph_step=1),
    ),
    head_width=256,
    resolution=64,
)


def space() -> SearchSpace:
    return SearchSpace.from_toml(shipped.space_path(SPACE))


def latency() -> ArchitectureLatency:
    return ArchitectureLatency(LatencyPredictor.load(shipped.predictor_folder(DEVICE)))


def training_images(data: Path) -> LabelledImages:
    return hold_out(read_split(data, "train"), HOLD_OUT)[0]


def shown(name: str, progress: Progress) -> None:
    if progress.message or progress.step % 100 == 0:
        print(
            time.strftime("%H:%M:%S"),
            name,
            f"{progress.step}/{progress.steps} loss {progress.loss:.3f} {progress.images_per_second:.0f} images/s",
            progress.message or "",
            flush=True,
        )


def trained(data: Path, architectures: Sequence[Architecture], seeds: Sequence[int]) -> list[StandAlone]:
    images = training_images(data), read_split(data, "val")
    plan = StandAlonePlan(*images, RECIPE, seeds, EXECUTION)
    return stand_alone(
        architectures, plan, RUNS / "alone", on_progress=lambda index, progress: shown(str(index), progress)
    )


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / name).open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


@click.group()
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.pass_context
def main(ctx: click.Context, data: Path) -> None:
    torch.set_num_threads(1)
    ctx.obj = data


@main.command()
@click.argument("variant", type=click.Choice(list(VARIANTS)))
@click.pass_obj
def supernet(data: Path, variant: str) -> None:
    folder = RUNS / variant
    train_supernet(
        space(),
        training_images(data),
        replace(RECIPE, epochs=SUPERNET_EPOCHS),
        folder,
        plan=VARIANTS[variant],
        execution=replace(EXECUTION, resume=(folder / "state.pt").is_file()),
        on_progress=lambda progress: shown(variant, progress),
    )


@main.command()
@click.pass_obj
def alone(data: Path) -> None:
    architectures = stratified(space(), latency(), COUNT, SEED)
    # In an order that covers the whole range early.
    order = sorted(range(COUNT), key=lambda place: int(f"{place:05b}"[::-1], 2))
    for row in trained(data, [architectures[place] for place in order], [SEED]):
        print(row.architecture.fingerprint, f"{row.accuracy:.4f}", f"{row.seconds:.0f} s")


def budget_ms() -> float:
    """The preset-shaped network's predicted latency, which all others must keep."""
    return float(latency().predict_ms([PRESET_SHAPED])[0])


def found(data: Path) -> dict[str, Architecture]:
    """The preset-shaped network, and the winner of a search by each score; searched once."""
    path = RUNS / "winners.json"
    if path.is_file():
        return {name: Architecture.from_dict(values) for name, values in json.loads(path.read_text()).items()}
    winners = {"preset-shaped": PRESET_SHAPED}
    for name in (f"supernet:{RUNS / MAIN}", *SEARCH_PROXIES):
        score = scores.load(name, seed=SEED, data=data, space=space())
        study = search(space(), score, latency(), Budget(latency_ms=budget_ms()), evaluations=EVALUATIONS, seed=SEED)
        assert study.winner is not None
        winners[name.partition(":")[0]] = study.winner.architecture
        print(name, study.winner.score, study.winner.latency_ms, study.predictor_error, flush=True)
    path.write_text(json.dumps({name: winner.to_dict() for name, winner in winners.items()}))
    return winners


@main.command()
@click.pass_obj
def winners(data: Path) -> None:
    architectures = found(data)
    predicted = latency().predict_ms(list(architectures.values()))
    rows = []
    for (name, architecture), latency_ms in zip(architectures.items(), predicted.tolist(), strict=True):
        results = trained(data, [architecture], WINNER_SEEDS)
        accuracies = [result.accuracy for result in results]
        row = {"chosen_by": name, "latency_ms": f"{latency_ms:.4f}", "top1": f"{mean(accuracies):.4f}"}
        row |= {f"seed{result.seed}": f"{result.accuracy:.4f}" for result in results}
        rows.append({**row, "fingerprint": architecture.fingerprint, "architecture": architecture.to_json()})
        print(row, flush=True)
    write("winners.csv", rows)


@main.command()
@click.pass_obj
def calibration(data: Path) -> None:
    """How far top-1 and the order of a dozen sub-networks are from those with nearly all images, by sample size."""
    architectures = stratified(space(), latency(), COUNT, SEED)[::2]
    values = {
        size: [SupernetScore(RUNS / MAIN, data, calibration_images=size)(a) for a in architectures]
        for size in (0, *CALIBRATION_SIZES, REFERENCE_SIZE)
    }
    reference = np.array(values[REFERENCE_SIZE])
    rows = []
    for size, top1 in values.items():
        tau = agreement(top1, reference).kendall_tau.value
        error = float(np.abs(np.array(top1) - reference).mean())
        rows.append({"images": size, "mean_absolute_difference": f"{error:.4f}", "tau_to_reference": f"{tau:.3f}"})
        print(rows[-1], flush=True)
    write("calibration.csv", rows)


@main.command()
@click.pass_obj
def report(data: Path) -> None:
    architectures = stratified(space(), latency(), COUNT, SEED)
    done = [a for a in architectures if (RUNS / "alone" / f"{a.fingerprint}-seed{SEED}" / "result.json").is_file()]
    results = trained(data, done, [SEED])
    estimators: dict[str, Any] = {}
    for variant in VARIANTS:
        if (RUNS / variant / "supernet.safetensors").is_file():
            estimators[f"supernet {variant}"] = SupernetScore(RUNS / variant, data)
    estimators[f"supernet {MAIN}, not recalibrated"] = SupernetScore(RUNS / MAIN, data, calibration_images=0)
    rows = rank(results, estimators | proxies(), latency(), RUNS)
    OUT.mkdir(parents=True, exist_ok=True)
    write_ranking(rows, architectures, OUT, f"supernet {MAIN}")
    write("agreement_within_macs.csv", within_macs(rows))
    about = {
        "python": platform.python_version(),
        "threads": 1,
        **{name: version(name) for name in ("mvig-nas", "torch", "timm", "numpy")},
        "trained_alone": len(done),
        "seconds_alone": round(sum(result.seconds for result in results)),
    }
    (OUT / "versions.json").write_text(json.dumps(about, indent=1) + "\n")
    print((OUT / "agreement.md").read_text())


@main.command()
def scored() -> None:
    """The networks that were trained on a GPU, by the log that is left of that, with the training-free scores."""
    drawn = {each.fingerprint: each for each in stratified(space(), latency(), GPU_COUNT, SEED)}
    found = re.findall(r"ranking/alone/(\w+) +seed 0 ([\d.]+)", GPU_LOG.read_text())
    known = [drawn[fingerprint] for fingerprint, _ in found]
    estimators = proxies()
    rows = []
    for architecture, latency_ms, (fingerprint, top1) in zip(known, latency().predict_ms(known), found, strict=True):
        values = {name: f"{estimate(architecture):.6g}" for name, estimate in estimators.items()}
        own = {"fingerprint": fingerprint, "accuracy": top1, "latency_ms": f"{latency_ms:.5f}"}
        rows.append({**own, **values, "architecture": architecture.to_json()})
        print(fingerprint, top1, values, flush=True)
    write(GPU_ROWS, rows)


@main.command()
def free() -> None:
    """Training-free scores, and a calibrated one of them, on the networks trained on a CPU and on a GPU together."""
    rows = []
    for name in ("ranking.csv", GPU_ROWS):
        with (OUT / name).open(newline="") as file:
            rows += list(csv.DictReader(file))
    top1 = [float(row["accuracy"]) for row in rows]
    estimates = {name: [float(row[name]) for row in rows] for name in proxies() if name in rows[0]}
    fitted = {name: estimates[name] for name in FREE}
    whole = fit_calibrated(fitted, top1)
    assert whole.left_out is not None
    calibrated = "calibrated, free scores alone"
    estimates[calibrated] = [left_out(fitted, top1, index) for index in range(len(rows))]
    table = []
    for name, values in estimates.items():
        each = agreement(values, top1)
        tau = each.kendall_tau
        figures = {"tau": f"{tau.value:.3f}", "low": f"{tau.low:.3f}", "high": f"{tau.high:.3f}"}
        table.append(
            {
                "estimate": name,
                **figures,
                "ndcg5": f"{each.ndcg.value:.3f}",
                "regret_points": f"{100 * each.regret.value:.2f}",
            }
        )
    apart = tau_difference(estimates[calibrated], estimates["naswot"], top1)
    write("free.csv", sorted(table, key=lambda row: -float(row["tau"])))
    print((OUT / "free.csv").read_text())
    print(f"{len(rows)} networks; calibrated over naswot {apart.value:.3f} ({apart.low:.3f} to {apart.high:.3f})")
    told = f"mean error {100 * whole.left_out.mean_error:.2f} points, coverage {whole.left_out.coverage:.2f}"
    print(f"{told}, of {whole.scores}")


@main.command()
def summary() -> None:
    """What each estimate is worth, the calibrated score among them, whose predictions are of networks left out."""
    with (OUT / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    top1 = [float(row["accuracy"]) for row in rows]
    own = ("fingerprint", "accuracy", "latency_ms", "macs", "architecture")
    estimates = {name: [float(row[name]) for row in rows] for name in rows[0] if name not in own}
    pair = {name: estimates[name] for name in CALIBRATED}
    whole = fit_calibrated(pair, top1)
    assert whole.left_out is not None
    estimates["calibrated"] = [left_out(pair, top1, index) for index in range(len(rows))]
    found = {name: agreement(values, top1) for name, values in estimates.items()}
    table: dict[str, dict[str, Any]] = {
        name: {
            "tau": round(each.kendall_tau.value, 3),
            "low": round(each.kendall_tau.low, 3),
            "high": round(each.kendall_tau.high, 3),
            "ndcg5": round(each.ndcg.value, 3),
            "regret_points": round(100 * each.regret.value, 2),
            "mae_points": None,
            "coverage": None,
        }
        for name, each in found.items()
    }
    table["calibrated"] |= {
        "mae_points": round(100 * whole.left_out.mean_error, 2),
        "coverage": round(whole.left_out.coverage, 2),
    }
    apart = tau_difference(estimates["calibrated"], estimates["naswot"], top1)
    seeds = {"networks": len(rows), "seeds": 1, "seed_ceiling_tau": None, "transfer_tau": None}
    above = {"value": round(apart.value, 3), "low": round(apart.low, 3), "high": round(apart.high, 3)}
    SUMMARY.parent.mkdir(parents=True, exist_ok=True)
    SUMMARY.write_text(json.dumps({**seeds, "calibrated_over_naswot_tau": above, "estimates": table}, indent=1) + "\n")
    print(SUMMARY.read_text())


def left_out(estimates: dict[str, list[float]], top1: list[float], index: int) -> float:
    """Top-1 of one network, predicted by a fit to all others."""
    others = [row for row in range(len(top1)) if row != index]
    known = {name: [own[row] for row in others] for name, own in estimates.items()}
    fit = fit_calibrated(known, [top1[row] for row in others])
    return float(fit.predict(np.array([[estimates[name][index] for name in fit.scores]]))[0])


def within_macs(rows: Sequence[Ranked]) -> list[dict[str, str]]:
    """Kendall's tau over pairs of similar MACs, which cost alone does not order."""
    accuracies, macs = [row.accuracy for row in rows], [float(row.macs) for row in rows]
    table = []
    for name in rows[0].estimates:
        tau = partial_tau([row.estimates[name] for row in rows], accuracies, macs)
        table.append({"estimate": name, "tau": f"{tau.value:.2f}", "low": f"{tau.low:.2f}", "high": f"{tau.high:.2f}"})
    return sorted(table, key=lambda row: -float(row["tau"]))


if __name__ == "__main__":
    main()
