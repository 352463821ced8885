"""A training step of a sub-network inside the supernet over one of the same architecture alone: time and peak memory.

Run: python -m benchmarks.supernet_step [--spaces micro mobilevig-ti] [--rounds 15]
A step is forward, cross-entropy, backward and AdamW. Times are processor milliseconds on one thread, the median of
paired rounds (inside and alone in turn); `passes` leaves AdamW out, whose moments the supernet has more of. Memory is
what torch's profiler sees allocated: `held` are weights and moments, which a supernet has of all its architectures,
`step` the peak of what a step takes on top of them (activations, gradients, copies), `peak` their sum. `new` takes
another random architecture in every round, one that the supernet has not planned yet; it has no memory columns.
Budget: 1.10 times the time, 1.15 times the peak memory of a step.
"""

import argparse
import csv
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from mvig_nas.architecture import Architecture
from mvig_nas.network import build
from mvig_nas.search_space import SearchSpace
from mvig_nas.supernet import Supernet

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "results" / "supernet_step" / "table.csv"
BATCH = {"micro": 64, "mobilevig-ti": 16, "mobilevig": 16, "toy": 64}
CLASSES = 10
BUDGETS = {"time_ratio": 1.10, "step_memory_ratio": 1.15, "peak_memory_ratio": None}
MIB = 2**20


@dataclass
class Trained:
    """A model with its optimiser; `run` gives the logits of a batch."""

    model: nn.Module
    run: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, model: nn.Module, run: Callable[[Tensor], Tensor]) -> "Trained":
        return cls(model, run, create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05))

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Milliseconds of the passes and of AdamW."""
        began = time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.run(images), labels).backward()  # type: ignore[no-untyped-call]
        between = time.process_time()
        self.optimizer.step()
        return (between - began) * 1e3, (time.process_time() - between) * 1e3

    def held_mib(self) -> float:
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(tensor.nbytes for tensor in tensors) / MIB

    def step_mib(self, images: Tensor, labels: Tensor) -> float:
        """Peak of what a step allocates and has not freed yet."""
        self.optimizer.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.step(images, labels)
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        live = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            live += event.nbytes()
            peak = max(peak, live)
        return peak / MIB


def batch_of(architecture: Architecture, batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, architecture.resolution, architecture.resolution, generator=generator)
    return images, torch.randint(CLASSES, (batch,), generator=generator)


def row(
    space: str, name: str, times: list[tuple[tuple[float, float], ...]], memory: list[list[float]]
) -> dict[str, str]:
    """A line of the table from paired times and from (held, step) MiB."""
    alone, inside = ([sum(pair[side]) for pair in times] for side in (0, 1))
    median = statistics.median
    ratio = median(sum(own) / sum(other) for other, own in times)
    passes = median(own[0] / other[0] for other, own in times)
    values = {
        "space": space,
        "architecture": name,
        "alone_ms": f"{median(alone):.1f}",
        "inside_ms": f"{median(inside):.1f}",
        "time_ratio": f"{ratio:.3f}",
        "passes_ratio": f"{passes:.3f}",
    }
    if memory:
        (held, step), (own_held, own_step) = memory
        values |= {
            "alone_held_mib": f"{held:.1f}",
            "inside_held_mib": f"{own_held:.1f}",
            "alone_step_mib": f"{step:.1f}",
            "inside_step_mib": f"{own_step:.1f}",
            "step_memory_ratio": f"{own_step / step:.3f}",
            "peak_memory_ratio": f"{(own_held + own_step) / (held + step):.3f}",
        }
    return values


def rows(space: SearchSpace, batch: int, rounds: int) -> Iterator[dict[str, str]]:
    rng = random.Random(0)
    supernet = Supernet(space, CLASSES).train()
    everything = [space.largest, *(space.sample(rng) for _ in range(3)), space.smallest]
    names = ["largest", "random 1", "random 2", "random 3", "smallest"]
    inside = Trained.of(supernet, nn.Identity())

    def take(architecture: Architecture) -> None:
        inside.run = partial(supernet, architecture=architecture)

    for name, architecture in zip(names, everything, strict=True):
        take(architecture)
        network = supernet.extract(architecture)
        alone = Trained.of(network, network)
        images, labels = batch_of(architecture, batch)
        for _ in range(2):
            alone.step(images, labels)
            inside.step(images, labels)
        times = paired(alone, inside, images, labels, rounds)
        memory = [[side.held_mib(), side.step_mib(images, labels)] for side in (alone, inside)]
        yield row(space.name, name, times, memory)
    times = []
    for _ in range(rounds):
        architecture = space.sample(rng)
        network = build(architecture, CLASSES, distillation=False).train()  # not `extract`, which plans
        alone = Trained.of(network, network)
        images, labels = batch_of(architecture, batch)
        alone.step(images, labels)
        take(architecture)
        times += paired(alone, inside, images, labels, 1)
    yield row(space.name, "new", times, [])


def paired(
    alone: Trained, inside: Trained, images: Tensor, labels: Tensor, rounds: int
) -> list[tuple[tuple[float, float], ...]]:
    """Times of (alone, inside), a pair a round."""
    return [(alone.step(images, labels), inside.step(images, labels)) for _ in range(rounds)]


def main() -> None:
    """Print the table and the worst ratios, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", nargs="+", default=["micro", "mobilevig-ti"], choices=sorted(BATCH))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"python {platform.python_version()}, torch {torch.__version__}, 1 thread, {options.rounds} paired rounds")
    table = []
    for name in options.spaces:
        space = SearchSpace.from_toml(ROOT / "search_spaces" / f"{name}.toml")
        for values in rows(space, BATCH[name], options.rounds):
            table.append(values)
            print("  ".join(f"{key} {value}" for key, value in values.items()), flush=True)
    for key, budget in BUDGETS.items():
        known = [values for values in table if key in values]
        worst = max(known, key=lambda values: float(values[key]))
        within = "" if budget is None else f"; budget {budget:.2f}"
        print(f"worst {key}: {worst[key]} ({worst['space']}, {worst['architecture']}){within}")
    OUTPUT.parent.mkdir(exist_ok=True)
    with OUTPUT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
