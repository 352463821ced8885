"""Every graph operator's forward pass against the authors' loop over links, in pairs on one thread.

Run: MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000 python -m benchmarks.operators \
    --out results/family
The two settings let glibc keep what was freed; else some processes fetch every large map from the system anew.
Writes operators.csv: per operator, map size and K, the median CPU time of the loop and of ours, and the median of the
paired ratios (loop / ours; at least 1 from 14x14 up). CPU time is this process's own, so that other work on the machine
disturbs it less. Batch 1, channels as MobileViG has them at that size, K as MobileViGv2 has it there, 2 for LSGC.
Answers are compared, too.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mvig_nas.graph_operators import OPERATORS, GraphOperator
from mvig_nas.network.torch_maps import linked, linked_as_reference

CASES = ((7, 256, 2), (14, 168, 2), (28, 84, 4), (56, 42, 8))  # size, channels, K
Form = Callable[[GraphOperator, Tensor, int], Tensor]


def seconds(form: Form, operator: GraphOperator, x: Tensor, step: int, repeats: int) -> float:
    """CPU time of one call, the mean of `repeats`."""
    began = time.process_time()
    for _ in range(repeats):
        form(operator, x, step)
    return (time.process_time() - began) / repeats


@torch.inference_mode()
def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, batch 1, {arguments.pairs} pairs, CPU time")
    rows = []
    for name, operator in OPERATORS.items():
        if type(operator).reference is GraphOperator.reference:
            continue  # the authors' code has no other way
        for size, channels, published_step in CASES:
            step = 2 if name == "lsgc" else published_step
            x = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(size))
            repeats = max(3, 8_000 // size**2)
            times = []
            for _ in range(arguments.pairs):
                pair = [seconds(form, operator, x, step, repeats) for form in (linked_as_reference, linked)]
                times.append((pair[0], pair[1]))
            loop, ours = (statistics.median(column) * 1e6 for column in zip(*times, strict=True))
            difference = linked(operator, x, step) - linked_as_reference(operator, x, step)
            rows.append(
                {
                    "operator": name,
                    "map": f"{size}x{size}",
                    "channels": channels,
                    "K": step,
                    "loop_us": round(loop, 1),
                    "ours_us": round(ours, 1),
                    "ratio": round(statistics.median(one / other for one, other in times), 2),
                    "largest_difference": float(difference.abs().max()),
                }
            )
            print(rows[-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "operators.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    slow = [row for row in rows if row["ratio"] < 1 and row["map"] != "7x7"]
    print("slower than the loop from 14x14 up:", slow or "none")


if __name__ == "__main__":
    main()
