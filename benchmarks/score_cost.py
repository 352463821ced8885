"""Seconds a score, and its ratio to one forward pass of the same network at batch 8 and half resolution.

    python benchmarks/score_cost.py

One core; the median over 20 architectures of the mobilevig-ti space and over repeats of MobileViG-Ti, in processor
seconds. A score builds the network, draws its weights and runs the proxy's passes; every architecture is new to the
backend, as in a search. Writes results/training_free/cost.csv.
"""

import csv
import platform
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mvig_nas import scores
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.scores.fresh_networks import fresh_network, noise, scaled
from mvig_nas.search_space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5
SAMPLES = 20


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def forward_seconds(architecture: Architecture) -> float:
    generator = torch.Generator().manual_seed(0)
    half = scaled(architecture, None)
    network, images = fresh_network(half, generator), noise(8, half.resolution, generator, channels_last=True)
    with torch.no_grad():
        return min(seconds(lambda: network(images)) for _ in range(REPEATS))


def main() -> None:
    torch.set_num_threads(1)
    space = SearchSpace.from_toml(ROOT / "search_spaces" / "mobilevig-ti.toml")
    rng = random.Random(0)
    sample = [space.sample(rng) for _ in range(SAMPLES)]
    preset = PRESETS["mobilevig_ti"]
    forward = forward_seconds(preset)
    print(f"one forward pass of mobilevig_ti, batch 8, half resolution: {forward * 1e3:.0f} ms")
    rows = []
    for name in scores.NAMES:
        score = scores.load(name)
        score(preset)
        own = statistics.median(seconds(partial(score, preset)) for _ in range(REPEATS))
        sampled = [seconds(partial(score, architecture)) for architecture in sample]
        row = {
            "score": name,
            "seconds_mobilevig_ti": f"{own:.4f}",
            "forward_passes": f"{own / forward:.2f}",
            "seconds_sampled_median": f"{statistics.median(sampled):.4f}",
            "seconds_sampled_largest": f"{max(sampled):.4f}",
        }
        rows.append(row)
        print(row, flush=True)
    with (ROOT / "results" / "training_free" / "cost.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}")


if __name__ == "__main__":
    main()
