"""Where trainings on Ray Tune run."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from mvig_nas.values import about, check


@dataclass(frozen=True)
class Resources:
    """Where the trainings run; a resumed run may have others.

    Raises:
        MvigNasError: a value out of range.
    """

    TITLE: ClassVar = "Ray"

    address: Annotated[str, about("Ray cluster to train on: `auto` or HOST:PORT; this machine if left out.")] | None = (
        None
    )
    trainings: Annotated[int, about("Trainings at a time; as many as there is room for if left out.", ge=1)] | None = (
        None
    )
    cpus: Annotated[float, about("CPUs that a training takes.", gt=0)] = 1.0
    gpus: Annotated[float, about("GPUs that a training takes; may be a fraction.", ge=0)] = 0.0
    in_memory: Annotated[bool, about("Decode the images once and keep them in memory.")] = False

    def __post_init__(self) -> None:
        check(self)
