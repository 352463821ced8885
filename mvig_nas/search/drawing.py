"""Architectures drawn from a space, to look at or to measure. `mvig-nas sample` is this."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from mvig_nas import values
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.search.search_settings import Seed, SpaceName
from mvig_nas.search_space import SearchSpace
from mvig_nas.shipped import DEFAULT_DEVICE
from mvig_nas.values import about

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency

_TRIES_PER_SAMPLE = 1000


@dataclass(frozen=True)
class SampleRequest:
    """Which architectures are drawn, and how many."""

    space: SpaceName = "mobilevig"
    number: Annotated[
        int, about("Number of different architectures to draw.", ge=1, le=1_000_000, flags=("-n", "--number"))
    ] = 10
    seed: Seed = 0
    spread: Annotated[
        Literal["uniform", "latency"],
        about(
            "How they are drawn: `uniform` makes every choice equally likely; `latency` covers the range of predicted "
            "latencies, and begins with those whose measurement teaches a predictor most."
        ),
    ] = "uniform"
    against: (
        Annotated[
            str,
            about(
                "With --spread latency, the device whose predictor is to learn from the measurements, or from which "
                "another one will start.",
                metavar="NAME|FOLDER",
            ),
        ]
        | None
    ) = None
    budget_ms: (
        Annotated[
            float,
            about(
                "Most milliseconds that a drawn architecture may take by prediction, e.g. 1.0ms.",
                gt=0,
                flags=("--latency-budget",),
                unit="duration",
                metavar="DURATION",
            ),
        ]
        | None
    ) = None
    device: (
        Annotated[
            str,
            about(
                f"Phone whose latency is predicted, or a folder with a fitted predictor; {DEFAULT_DEVICE}, or the "
                "device of --against, if not given.",
                metavar="NAME|FOLDER",
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        values.check(self)
        if self.against is not None and self.spread != "latency":
            raise MvigNasError(
                f"--against must come with --spread latency, got {self.spread}; add it, or leave --against out."
            )


def draw(request: SampleRequest) -> list[Architecture]:
    """Draw different architectures.

    Raises:
        MvigNasError: the space, or what of it fits the budget, has fewer, or something named in the request is missing.
    """
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.latency.selection import spread

    space, number = SearchSpace.load(request.space), request.number
    if number > space.size:
        raise MvigNasError(f"`--number` must be at most the space's size, {space.size}, got {number}; ask for fewer.")
    device = request.device or request.against or DEFAULT_DEVICE
    if request.spread == "latency":
        against = None if request.against is None else ArchitectureLatency.load(request.against).predictor
        return spread(
            space,
            ArchitectureLatency.load(device),
            number,
            against=against,
            seed=request.seed,
            budget_ms=request.budget_ms,
        )
    latency = None if request.budget_ms is None else ArchitectureLatency.load(device)
    return _uniform(space, request, latency)


def _uniform(space: SearchSpace, request: SampleRequest, latency: "ArchitectureLatency | None") -> list[Architecture]:
    rng = random.Random(request.seed)
    found: dict[Architecture, None] = {}
    for _ in range(_TRIES_PER_SAMPLE):
        drawn = [space.sample(rng) for _ in range(request.number)]
        if latency is not None and request.budget_ms is not None:
            fits = latency.predict_ms(drawn) <= request.budget_ms
            drawn = [architecture for architecture, fit in zip(drawn, fits, strict=True) if fit]
        found |= dict.fromkeys(drawn)
        if len(found) >= request.number:
            return list(found)[: request.number]
    raise MvigNasError(
        f"only {len(found)} of {request.number} architectures were found in {_TRIES_PER_SAMPLE * request.number} draws "
        f"from {space.name!r}; ask for fewer, or for a larger budget."
    )
