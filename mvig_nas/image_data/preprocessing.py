"""From an image file to a normalised tensor, with timm's transforms."""

import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Self

import numpy as np
from PIL import Image, UnidentifiedImageError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from mvig_nas.errors import MvigNasError, closest

INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """How images are augmented for training and cropped for evaluation.

    Raises:
        MvigNasError: a value is outside its range.
    """

    crop_scale: tuple[float, float] = (0.35, 1.0)  # area of the random resized crop, of the image's
    flip: float = 0.5  # probability
    color_jitter: float = 0.0  # largest change of brightness, contrast and saturation; RandAugment switches it off
    rand_augment: str | None = None  # timm's string, "rand-m9-mstd0.5-inc1" for one
    random_erasing: float = 0.0  # probability
    interpolation: str = "bicubic"
    crop_fraction: float = 0.9  # evaluation: resize to resolution / crop_fraction, then crop the centre
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest <= 1:
            raise MvigNasError(f"crop_scale must be 0 < smallest <= largest <= 1, got {self.crop_scale}; change it.")
        for name in ("flip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise MvigNasError(f"{name} must be a probability from 0 to 1, got {getattr(self, name)}; change it.")
        if not self.color_jitter >= 0:
            raise MvigNasError(f"color_jitter must be at least 0, got {self.color_jitter}; change it.")
        if not 0 < self.crop_fraction <= 1:
            raise MvigNasError(f"crop_fraction must be above 0 and at most 1, got {self.crop_fraction}; try 0.9.")
        if not all(value > 0 for value in self.std):
            raise MvigNasError(f"std must be above 0 in every channel, got {self.std}; change it.")
        if self.interpolation not in INTERPOLATIONS:
            raise MvigNasError(
                f"interpolation must be a known filter, got {self.interpolation!r}; "
                f"{closest(self.interpolation, INTERPOLATIONS)}"
            )
        if self.rand_augment is not None and not _is_rand_augment(self.rand_augment):
            raise MvigNasError(
                f"rand_augment must be a RandAugment string of timm, got {self.rand_augment!r}; "
                "try 'rand-m9-mstd0.5-inc1'."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            MvigNasError: an unknown name, or a value outside its range.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise MvigNasError(f"Preprocessing must name what it knows, got {name!r}; {closest(name, known)}")
        checked: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**checked)

    def training_transform(self, resolution: int) -> Transform:
        """An image to a random (3, `resolution`, `resolution`); draws from the global generators."""
        transform = create_transform(
            resolution,
            is_training=True,
            scale=self.crop_scale,
            hflip=self.flip,
            color_jitter=self.color_jitter or None,
            auto_augment=self.rand_augment,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            re_prob=self.random_erasing,
            re_mode="pixel",
        )
        # Pillow 13 refuses 0 bits, which timm asks for at the highest magnitude
        for operation in (operation for step in transform.transforms for operation in getattr(step, "ops", ())):
            if operation.name.startswith("Posterize"):
                operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
        typed: Transform = transform
        return typed

    def evaluation_transform(self, resolution: int) -> Transform:
        """An image to (3, `resolution`, `resolution`), always the same."""
        transform: Transform = create_transform(
            resolution,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_fraction,
        )
        return transform


def read_image(path: str) -> Image.Image:
    """The image of a file as 8-bit RGB; transparency and the camera's rotation are passed over.

    Raises:
        MvigNasError: the file is no image, is cut short or cannot be read.
    """
    try:
        # Pillow warns of palettes with transparency and of odd EXIF; neither changes what is read here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.mode.startswith("I"):
                    # Pillow clips 16-bit greys to 255 instead of scaling them
                    return Image.fromarray((np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8)).convert("RGB")
                return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise _unreadable(path, "no known format") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise _unreadable(path, repr(getattr(error, "strerror", None) or str(error))) from error


def _unreadable(path: str, problem: str) -> MvigNasError:
    return MvigNasError(f"Every image must be readable, got {problem} in {path}; replace it or remove it.")


def _at_least_one_bit(bits_of_level: Callable[..., tuple[int]], level: float, settings: dict[str, Any]) -> tuple[int]:
    return (max(1, *bits_of_level(level, settings)),)


def _is_rand_augment(config: str) -> bool:
    try:
        rand_augment_transform(config, {})
    except (AssertionError, ValueError, KeyError, IndexError):
        return False
    return True
