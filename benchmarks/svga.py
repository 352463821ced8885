"""SVGA forward pass: the doubling form against the reference code's loop of rolls, in pairs on one thread.

Run: python -m benchmarks.svga
Prints, per map size, the median time of each and the median of the paired ratios (loop / ours; budget: 5 at 14x14,
10 from 28x28 up, 1 at 7x7). K = 2, batch 1, channels as MobileViG has them at that size; results equal to the bit.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mvig_nas.graph_operators import OPERATORS, GraphOperator
from mvig_nas.network.torch_maps import linked, linked_as_reference

CASES = ((7, 256, 1.0), (14, 168, 5.0), (28, 84, 10.0), (56, 42, 10.0))  # size, channels, least ratio


Form = Callable[[GraphOperator, Tensor, int], Tensor]
SVGA = OPERATORS["svga"]


def seconds(form: Form, x: Tensor, repeats: int) -> float:
    """Of one call, the mean of `repeats`."""
    began = time.perf_counter()
    for _ in range(repeats):
        form(SVGA, x, 2)
    return (time.perf_counter() - began) / repeats


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=31)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, K = 2, batch 1, {pairs} pairs")
    print(f"{'map':>8} {'channels':>8} {'loop us':>10} {'ours us':>10} {'ratio':>7} {'at least':>8} equal")
    for size, channels, least in CASES:
        x = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(size))
        repeats = max(3, 20_000 // size**2)
        for form in (linked_as_reference, linked):
            seconds(form, x, 3)
        times = [(seconds(linked_as_reference, x, repeats), seconds(linked, x, repeats)) for _ in range(pairs)]
        loop, ours = (statistics.median(column) * 1e6 for column in zip(*times, strict=True))
        ratio = statistics.median(one / other for one, other in times)
        equal = torch.equal(linked(SVGA, x, 2), linked_as_reference(SVGA, x, 2))
        print(f"{size:>4}x{size:<3} {channels:>8} {loop:>10.1f} {ours:>10.1f} {ratio:>7.2f} {least:>8.1f} {equal}")


if __name__ == "__main__":
    main()
