"""Recipe: what a training does, so that equal recipes on equal images give equal weights."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from timm.optim import list_optimizers

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.image_data import Preprocessing

CLIP_MODES = ("value", "norm", "agc")  # timm.utils.dispatch_clip_grad's
_COUNTS: Mapping[str, int] = {
    "epochs": 1,
    "batch_size": 2,
    "micro_batch_size": 2,
    "warmup_epochs": 0,
    "repeats": 1,
    "seed": 0,
}
_AMOUNTS = (
    "learning_rate",
    "min_learning_rate",
    "weight_decay",
    "label_smoothing",
    "mixup",
    "cutmix",
    "ema_decay",
    "layer_scale_init",
    "hold_out",
    "clip",
)


@dataclass(frozen=True)
class Recipe:
    """How weights are trained.

    Args:
        epochs: passes over the training images.
        batch_size: images an optimiser step sees, over all processes.
        micro_batch_size: images that pass the network at a time and share batch-norm statistics. It must divide
            `batch_size`; the number of processes, which divides what results, then changes nothing but the time. None:
            the batch size.
        learning_rate: its peak, after the warm-up; it falls to `min_learning_rate` along a cosine.
        optimizer: timm's name of it.
        warmup_epochs: epochs in which the learning rate rises linearly.
        mixup, cutmix: alphas of timm's Mixup; 0 for none.
        repeats: copies of an image in a row, each augmented anew; an epoch then holds fewer different images.
        clip: what a gradient is clipped to, by `clip_mode`; None for no clipping.
        ema_decay: of the weights' moving average, which is then what is saved; 0 for none.
        layer_scale_init: what the MBConv branches' layer scales start from.
        hold_out: share of the training images that is kept apart for choosing.
        seed: of the initial weights, the order of the images, their augmentation and the sampled sub-networks.
        preprocessing: how images are augmented and normalised.

    Raises:
        MvigNasError: a value out of range.
    """

    epochs: int = 100
    batch_size: int = 256
    micro_batch_size: int | None = None
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-5
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    repeats: int = 1
    clip: float | None = 1.0
    clip_mode: str = "value"
    ema_decay: float = 0.0
    layer_scale_init: float = 0.1
    hold_out: float = 0.1
    seed: int = 0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        if self.micro_batch_size is None:
            object.__setattr__(self, "micro_batch_size", self.batch_size)
        _check_types(self)
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
        _require(self.learning_rate > 0, f"`learning_rate` must be above 0, got {self.learning_rate}.")
        _require(
            self.optimizer in list_optimizers(),
            f"`optimizer` must be one of timm's, got {self.optimizer!r}; "
            + closest(str(self.optimizer), list_optimizers()),
        )
        _require(
            self.clip is None or self.clip > 0,
            f"`clip` must be above 0, got {self.clip}; leave it out for no clipping.",
        )
        _require(self.clip_mode in CLIP_MODES, f"`clip_mode` must be one of {CLIP_MODES}, got {self.clip_mode!r}.")
        for name in ("min_learning_rate", "weight_decay", "mixup", "cutmix"):
            value = getattr(self, name)
            _require(value >= 0, f"`{name}` must be at least 0, got {value}.")
        for name in ("label_smoothing", "ema_decay", "hold_out"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"`{name}` must be in [0, 1), got {value}.")

    @property
    def micro_batches(self) -> int:
        """Micro-batches in a step, over all processes."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "preprocessing": self.preprocessing.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Recipe from `to_dict`'s values; what is missing takes its default.

        Raises:
            MvigNasError: an unknown entry, or a value out of range.
        """
        known = [entry.name for entry in fields(cls)]
        for key in values:
            if key not in known:
                raise MvigNasError(f"a recipe has no entry {key!r}; {closest(key, known)}")
        given = dict(values)
        if "preprocessing" in given:
            given["preprocessing"] = Preprocessing.from_dict(given["preprocessing"])
        return cls(**given)


def _check_types(recipe: Recipe) -> None:
    for name, least in _COUNTS.items():
        value = getattr(recipe, name)
        _require(
            isinstance(value, int) and value >= least,
            f"`{name}` must be a whole number and at least {least}, got {value!r}.",
        )
    for name in _AMOUNTS:
        value = getattr(recipe, name)
        may_lack = name == "clip" and value is None
        _require(
            may_lack or (isinstance(value, (int, float)) and math.isfinite(value)),
            f"`{name}` must be a number, got {value!r}.",
        )


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise MvigNasError(rule)
