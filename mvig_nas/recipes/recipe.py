"""Recipe: what a training does, so that equal recipes on equal images give equal weights."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.recipes.preprocessing import Preprocessing
from mvig_nas.values import about, check


@dataclass(frozen=True)
class Recipe:
    """How weights are trained; each field says what it means.

    Raises:
        MvigNasError: a value is out of range, or does not fit another one.
    """

    TITLE: ClassVar[str] = "Training recipe"

    epochs: Annotated[int, about("Passes over the training images.", ge=1)] = 100
    batch_size: Annotated[int, about("Images in an optimiser step, over all processes together.", ge=2)] = 256
    micro_batch_size: (
        Annotated[
            int,
            about(
                "Images that pass the network at a time and share batch-norm statistics; it must divide the batch "
                "size, and is the batch size if it is not given.",
                ge=2,
            ),
        ]
        | None
    ) = None
    learning_rate: Annotated[
        float,
        about(
            "Highest learning rate: it rises to it in the warm-up, then falls along a cosine.",
            gt=0,
            flags=("--learning-rate", "--lr"),
        ),
    ] = 1e-3
    min_learning_rate: Annotated[
        float,
        about("Learning rate that the cosine ends at.", ge=0, flags=("--min-learning-rate", "--min-lr")),
    ] = 1e-5
    optimizer: Annotated[str, about("Optimiser, by the name that timm gives it.", metavar="NAME")] = "adamw"
    weight_decay: Annotated[float, about("Weight decay of the optimiser; 0 for none.", ge=0)] = 0.05
    warmup_epochs: Annotated[
        int, about("Epochs in which the learning rate rises linearly, fewer than all; 0 for no warm-up.", ge=0)
    ] = 5
    label_smoothing: Annotated[
        float, about("Share of a label that is spread over all classes, at least 0 and below 1.", ge=0, lt=1)
    ] = 0.1
    mixup: Annotated[
        float, about("Alpha of the Beta distribution that Mixup blends two images by; 0 for no Mixup.", ge=0)
    ] = 0.0
    cutmix: Annotated[
        float, about("Alpha of the Beta distribution that CutMix sizes its patches by; 0 for no CutMix.", ge=0)
    ] = 0.0
    repeats: Annotated[
        int,
        about(
            "Copies of an image in a row, each augmented anew; an epoch then holds as many times fewer different "
            "images.",
            ge=1,
        ),
    ] = 1
    clip: (
        Annotated[float, about("What gradients are clipped to, as --clip-mode says; 0 for no clipping.", ge=0)] | None
    ) = 1.0
    clip_mode: Annotated[
        Literal["value", "norm", "agc"],
        about("Whether clipping limits each gradient, their norm, or the norm relative to the weights' (agc)."),
    ] = "value"
    ema_decay: Annotated[
        float,
        about(
            "Decay of the moving average of the weights, which is then what is saved, at least 0 and below 1; 0 for "
            "no average.",
            ge=0,
            lt=1,
        ),
    ] = 0.0
    layer_scale_init: Annotated[float, about("Initial value of the layer scales in the MBConv branches.")] = 0.1
    hold_out: Annotated[
        float,
        about(
            "Share of the training images that is kept apart, to choose networks by, at least 0 and below 1.",
            ge=0,
            lt=1,
        ),
    ] = 0.1
    seed: Annotated[
        int,
        about(
            "Seed of the initial weights, the order of the images, their augmentation and the sampled sub-networks; "
            "the same seed gives the same weights.",
            ge=0,
        ),
    ] = 0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        if self.micro_batch_size is None:
            object.__setattr__(self, "micro_batch_size", self.batch_size)
        check(self)
        size, micro_size = self.batch_size, self.micro_batch_size or 0
        _require(size % micro_size == 0, f"`micro_batch_size` must divide `batch_size`, got {micro_size} and {size}.")
        _require(
            not (self.mixup or self.cutmix) or micro_size % 2 == 0,
            f"`micro_batch_size` must be even where `mixup` or `cutmix` pairs images, got {micro_size}.",
        )
        _require(
            self.warmup_epochs < self.epochs,
            f"`warmup_epochs` must be fewer than `epochs`, got {self.warmup_epochs} and {self.epochs}.",
        )
        _require(
            self.clip is None or self.clip > 0,
            f"`clip` must be above 0, got {self.clip}; leave it out for no clipping.",
        )
        _require_optimizer(self.optimizer)

    @property
    def micro_batches(self) -> int:
        """Micro-batches in a step, over all processes."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise MvigNasError(rule)


def _require_optimizer(name: str) -> None:
    from timm.optim import list_optimizers

    known = list_optimizers()
    _require(name in known, f"`optimizer` must be one of timm's, got {name!r}; {closest(name, known)}")
