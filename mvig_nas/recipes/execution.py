"""Execution: how a training runs, which is not part of what it computes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from mvig_nas.values import about, check


@dataclass(frozen=True)
class Execution:
    """How a training runs, which does not change what it computes, but for rounding and for images that are skipped.

    Processes that `torchrun` started share a training; each of them is given the same execution.

    Attributes:
        stop_after: steps after which the training saves its state and stops, as at a signal; None for the last step.
        resume: go on from the checkpoint in the training's folder.

    Raises:
        MvigNasError: a value is out of range.
    """

    TITLE: ClassVar[str] = "Execution"

    torch_device: Annotated[
        str, about("Device to compute on, as torch names it; auto takes a GPU where there is one.", metavar="NAME")
    ] = "cpu"
    workers: Annotated[int, about("Processes that read and augment images; 0 reads them in its own.", ge=0)] = 0
    in_memory: Annotated[bool, about("Keep decoded images in the memory of each worker.")] = False
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], about("Floating-point type of the forward passes.")
    ] = "float32"
    channels_last: Annotated[
        bool,
        about(
            "Memory layout of the images: channels last, which GPUs are faster with, or channels first.",
            flags=("--channels-last/--channels-first",),
        ),
    ] = False
    skip_bad_images: Annotated[
        bool,
        about(
            "Read every image once before the start, leave out those that cannot be read, and list them in "
            "skipped_images.json; if not given, the first of them is named and refused."
        ),
    ] = False
    checkpoint_minutes: Annotated[float, about("Minutes between checkpoints.", ge=0)] = 10.0
    compiled: Annotated[
        bool,
        about(
            "Let torch compile the network first, which takes a minute.",
            flags=("--compile",),
        ),
    ] = False
    validate_every: Annotated[
        int, about("Epochs between validations; 0 validates at the end only.", ge=0, metavar="EPOCHS")
    ] = 1
    stop_after: Annotated[int, about("Steps until the training saves its state and stops.", ge=1)] | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        check(self)
