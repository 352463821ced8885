"""From an image file to a normalised tensor, with timm's transforms, and batches of them at another resolution."""

import struct
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform
from torch import Tensor
from torch.nn import functional as F

from mvig_nas.errors import MvigNasError
from mvig_nas.files import require_regular
from mvig_nas.recipes import Preprocessing

Transform = Callable[[Image.Image], Tensor]


def training_transform(preprocessing: Preprocessing, resolution: int) -> Transform:
    """An image to a random (3, `resolution`, `resolution`); draws from the global generators."""
    transform = create_transform(
        resolution,
        is_training=True,
        scale=preprocessing.crop_scale,
        hflip=preprocessing.flip,
        color_jitter=preprocessing.color_jitter or None,
        auto_augment=preprocessing.rand_augment,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        re_prob=preprocessing.random_erasing,
        re_mode="pixel",
    )
    # Pillow 13 refuses 0 bits, which timm asks for at the highest magnitude
    for operation in (operation for step in transform.transforms for operation in getattr(step, "ops", ())):
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    typed: Transform = transform
    return typed


def evaluation_transform(preprocessing: Preprocessing, resolution: int) -> Transform:
    """An image to (3, `resolution`, `resolution`), always the same."""
    transform: Transform = create_transform(
        resolution,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_fraction,
    )
    return transform


# Pillow would open others too, some by programs of other origin
_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")


def read_image(path: str) -> Image.Image:
    """The image of a file as 8-bit RGB; transparency and the camera's rotation are passed over.

    Raises:
        MvigNasError: the file is no image, is cut short or cannot be read.
    """
    try:
        # Pillow warns of palettes with transparency and of odd EXIF; neither changes what is read here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            require_regular(path)
            with Image.open(path, formats=_FORMATS) as image:
                if image.mode.startswith("I"):
                    # Pillow clips 16-bit greys to 255 instead of scaling them
                    return Image.fromarray((np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8)).convert("RGB")
                return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise _unreadable(path, "no known format") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise _unreadable(path, repr(getattr(error, "strerror", None) or str(error))) from error


def resized(images: Tensor, resolution: int) -> Tensor:
    """Images (B, 3, R, R) brought to `resolution`, with antialiasing; the same tensor where R is that already."""
    if images.shape[-1] == resolution:
        return images
    return F.interpolate(images, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False)


def _unreadable(path: str, problem: str) -> MvigNasError:
    return MvigNasError(f"Every image must be readable, got {problem} in {path}; replace it or remove it.")


def _at_least_one_bit(bits_of_level: Callable[..., tuple[int]], level: float, settings: dict[str, Any]) -> tuple[int]:
    return (max(1, *bits_of_level(level, settings)),)
