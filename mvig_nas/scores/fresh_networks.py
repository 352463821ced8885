"""Proxies on fresh networks and noise, both drawn from seeded generators only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor, nn

from mvig_nas.architecture import Architecture, Stage
from mvig_nas.network import MobileViG, build
from mvig_nas.network.mobilevig import Unfilled
from mvig_nas.scores.activation_proxies import naswot, zen
from mvig_nas.scores.gradient_proxies import grad_norm, snip, synflow, zico

CLASSES = 1000
SMALLEST = 96  # pixels; three at the last stage, where a step of 1 still leaves links


def scaled(architecture: Architecture, resolution: int | None) -> Architecture:
    """The architecture at the resolution it is scored at, its graph steps in proportion.

    Half the architecture's own resolution, but not below `SMALLEST` nor above its own, unless `resolution` is given.

    Raises:
        MvigNasError: a graph step leaves no link at this resolution.
    """
    own = architecture.resolution
    target = min(own, max(SMALLEST, own // 2)) if resolution is None else resolution

    def step_of(stage: Stage) -> int | None:
        """K in proportion, as long as it still gives a link."""
        if stage.graph_step is None:
            return None
        return max(stage.operator.least_step or 1, stage.graph_step * target // own)

    stages = tuple(replace(stage, graph_step=step_of(stage)) for stage in architecture.stages)
    return Architecture(stages, architecture.head_width, target)  # type: ignore[arg-type]


def fresh_network(architecture: Architecture, generator: torch.Generator, *, unit: bool = False) -> MobileViG:
    """Network in training mode with Kaiming-normal weights, or N(0, 1) with `unit`; zero biases, layer scale 1.

    The layer scale's own 1e-5 would silence every branch that has one, so that no proxy would see its depth.
    """
    with Unfilled():
        network = build(architecture, CLASSES).train()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.normal_(0, 1 if unit else sqrt(2 / part.weight[0].numel()), generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.BatchNorm2d):
                part.reset_parameters()
            else:
                for name, parameter in part.named_parameters(recurse=False):
                    if not name.endswith("layer_scale"):
                        raise TypeError(f"{type(part).__name__}.{name} has no rule for fresh values")
                    parameter.fill_(1)
    return network


def noise(batch_size: int, resolution: int, generator: torch.Generator, *, channels_last: bool = False) -> Tensor:
    """Standard normal images (B, 3, R, R).

    Forward passes are faster with `channels_last`. Not for gradients: with torch 2.15 the backward pass of timm's
    fastvit_t8 in that layout corrupted memory on a CPU.
    """
    images = torch.randn(batch_size, 3, resolution, resolution, generator=generator)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def labels(batch_size: int, generator: torch.Generator) -> Tensor:
    """Class numbers (B,), drawn uniformly."""
    return torch.randint(CLASSES, (batch_size,), generator=generator)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that sums have one order and a score does not depend on the threads outside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# The inputs are drawn before the weights, so that all architectures of one resolution see the same ones.
def _naswot(architecture: Architecture, batch_size: int, generator: torch.Generator) -> float:
    images = noise(batch_size, architecture.resolution, generator, channels_last=True)
    return naswot(fresh_network(architecture, generator), images)


def _synflow(architecture: Architecture, _: int, generator: torch.Generator) -> float:
    return synflow(fresh_network(architecture, generator), noise(1, architecture.resolution, generator))


def _zico(architecture: Architecture, batch_size: int, generator: torch.Generator) -> float:
    batches = [(noise(batch_size, architecture.resolution, generator), labels(batch_size, generator)) for _ in range(2)]
    return zico(fresh_network(architecture, generator), batches)


def _zen(architecture: Architecture, batch_size: int, generator: torch.Generator) -> float:
    images, disturbance = (noise(batch_size, architecture.resolution, generator, channels_last=True) for _ in range(2))
    return zen(fresh_network(architecture, generator, unit=True), images, disturbance)


def _grad_norm(architecture: Architecture, batch_size: int, generator: torch.Generator) -> float:
    images, targets = noise(batch_size, architecture.resolution, generator), labels(batch_size, generator)
    return grad_norm(fresh_network(architecture, generator), images, targets)


def _snip(architecture: Architecture, batch_size: int, generator: torch.Generator) -> float:
    images, targets = noise(batch_size, architecture.resolution, generator), labels(batch_size, generator)
    return snip(fresh_network(architecture, generator), images, targets)


PROXIES: dict[str, Callable[[Architecture, int, torch.Generator], float]] = {
    "naswot": _naswot,
    "synflow": _synflow,
    "zico": _zico,
    "zen": _zen,
    "grad_norm": _grad_norm,
    "snip": _snip,
}
