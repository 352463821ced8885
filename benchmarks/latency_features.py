"""`python -m benchmarks.latency_features [out]`: do padded rows, or dispatches near the floor, explain published rows?

The Neural Engine is said to pad the last axis of a map to 64 bytes, 32 numbers in fp16, so that a row of 7 pixels costs
what 32 do. Every map's megabytes are counted so, and families are left out as in `benchmarks.latency_published`, by
the sums of features and by the physics with its process (one bag); `spilled` pads what leaves the on-chip memory alone.
Then, over rows near the fixed cost, how well the number of kernels orders them, beside the prediction. Writes
features.csv and near_the_floor.csv into results/latency_published. It takes 3 minutes of one core.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.latency_published import OUTPUT, PUBLISHED, errors, fit, leave_families_out, op_sums, with_laboratories
from mvig_nas.kernels import Kernel
from mvig_nas.latency.features import FEATURES, network_features
from mvig_nas.latency.held_out import KNOWN, hold_out_pooled, parts_of
from mvig_nas.latency.published import load_kernels, read_published
from mvig_nas.latency.rows import Rows

LOT = 32  # numbers of fp16 in 64 bytes
FLOORS_MS = (0.7, 0.8, 1.0)
SPILLED = FEATURES.index("mb_spilled")


def padded(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The same kernels, whose maps of four axes take as many bytes as with rows of whole lots."""
    made = [kernel.bytes_out * _lots(kernel.shape) for kernel in kernels]
    found = []
    for kernel, bytes_out in zip(kernels, made, strict=True):
        plain_in = sum(kernels[source].bytes_out for source in kernel.inputs if source >= 0)
        padded_in = sum(made[source] for source in kernel.inputs if source >= 0)
        share = padded_in / plain_in if plain_in else 1.0
        found.append(replace(kernel, bytes_in=round(kernel.bytes_in * share), bytes_out=round(bytes_out)))
    return tuple(found)


def _lots(shape: Sequence[int]) -> float:
    return ceil(shape[-1] / LOT) * LOT / shape[-1] if len(shape) == 4 else 1.0


def main(out: Path) -> None:
    """Run everything."""
    rows = read_published(PUBLISHED)
    known = load_kernels(PUBLISHED / "kernels.npz")
    features = network_features([padded(known[name]) for name in rows.networks])
    spilled = rows.features.copy()
    spilled[:, SPILLED] = features[:, SPILLED]
    lines = [["features", "model", "median error %", "mean error %", "Spearman", "MobileViG mean error %"]]
    mobilevig = np.array([family == "MobileViG" for family in rows.families])
    for name, seen in (("as shipped", rows.features), ("padded to 32", features), ("spilled padded", spilled)):
        tried = replace(rows, features=seen)
        parts = parts_of(rows.families)
        models = {
            "op-level sums, NNLS": leave_families_out(tried, with_laboratories(op_sums)),
            "physics + GP, one bag": hold_out_pooled(
                tried, parts, lambda train: fit(train, {}, bags=1, calibration_folds=0)
            )[KNOWN],
        }
        for model, answers in models.items():
            every, own = errors(tried, answers), errors(tried, answers, mobilevig)
            figures = (100 * every.median_error, 100 * every.mean_error, every.spearman, 100 * own.mean_error)
            lines.append([name, model, *(f"{value:.{3 if value < 1 else 1}f}" for value in figures)])
            print(*lines[-1], sep=", ", flush=True)
    _write(out / "features.csv", lines)
    _write(out / "near_the_floor.csv", near_the_floor(rows, known, out))


def near_the_floor(rows: Rows, known: dict[str, tuple[Kernel, ...]], out: Path) -> list[list[str]]:
    """Rank correlations with the published milliseconds of rows below a limit, over each laboratory's mean."""
    with (out / "out_of_fold.csv").open(newline="") as file:
        predicted = np.array([float(row["predicted_ms"]) for row in csv.DictReader(file)])
    dispatches = np.array([sum(is_dispatched(kernel) for kernel in known[name]) for name in rows.networks], np.float64)
    macs = np.array([sum(kernel.macs for kernel in known[name]) for name in rows.networks], np.float64)
    lines = [["published below, ms", "rows", "Spearman: prediction", "number of kernels", "MACs"]]
    for floor in FLOORS_MS:
        near = rows.latencies_ms < floor
        levels = [_levelled(values[near], np.array(rows.groups)[near]) for values in (predicted, dispatches, macs)]
        target = _levelled(rows.latencies_ms[near], np.array(rows.groups)[near])
        correlations = [float(spearmanr(each, target)[0]) for each in levels]
        lines.append([f"{floor}", f"{int(near.sum())}", *(f"{value:.2f}" for value in correlations)])
        print(*lines[-1], sep=", ", flush=True)
    return lines


def is_dispatched(kernel: Kernel) -> bool:
    """Whether a kernel is one that the engine is told of: ReLU is part of the one before."""
    return kernel.kind not in ("relu", "relu6", "clip")


def _levelled(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    logs = np.log(values)
    return logs - np.array([logs[groups == group].mean() for group in groups])


def _write(path: Path, lines: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
