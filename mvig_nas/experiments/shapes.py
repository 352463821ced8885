"""Images of shapes to segment: textured, coloured shapes on a textured ground, with the class of every pixel.

Colours and textures are drawn without regard to the class, so that only the outline tells a disc from a square.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KINDS = ("disc", "square", "triangle", "ring")  # classes 1 to 4; 0 is the ground
_MOST_SHAPES = 5  # of an image
_NOISE = 0.08
_Floats = NDArray[np.float64]


def shapes(count: int, side: int, kinds: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images, which depend on the arguments alone, and the classes of their pixels.

    Args:
        count: number of images N.
        side: S, in pixels.
        kinds: number of classes of shapes, the first of `KINDS`.
        seed: of all random numbers.

    Returns:
        Images (N, 3, S, S), float32 around 0, and classes (N, S, S), int64.
    """
    rng = np.random.default_rng(seed)
    images = np.empty((count, 3, side, side), dtype=np.float32)
    classes = np.zeros((count, side, side), dtype=np.int64)
    y, x = np.mgrid[:side, :side].astype(float)
    for index in range(count):
        image = _surface(rng, y, x)
        for _ in range(rng.integers(2, _MOST_SHAPES + 1)):
            kind = int(rng.integers(kinds))
            radius = side * rng.uniform(0.1, 0.24)
            inside = _inside(
                kind, y - rng.uniform(0, side), x - rng.uniform(0, side), radius, rng.uniform(0, 2 * np.pi)
            )
            image = np.where(inside, _surface(rng, y, x), image)
            classes[index][inside] = kind + 1
        images[index] = image + rng.normal(0, _NOISE, image.shape)
    return torch.from_numpy(images), torch.from_numpy(classes)


def _surface(rng: np.random.Generator, y: _Floats, x: _Floats) -> _Floats:
    """A colour with stripes of a random direction and width, (3, S, S)."""
    angle, wave = rng.uniform(0, np.pi), rng.uniform(3, 16)
    stripes = np.sin(2 * np.pi * (y * np.sin(angle) + x * np.cos(angle)) / wave + rng.uniform(0, 2 * np.pi))
    colour, contrast = rng.uniform(-1, 1, (3, 1, 1)), rng.uniform(-0.4, 0.4, (3, 1, 1))
    surface: _Floats = colour + contrast * stripes
    return surface


def _inside(kind: int, y: _Floats, x: _Floats, radius: float, angle: float) -> NDArray[np.bool_]:
    """Which pixels, given from the shape's centre, lie inside it; all kinds but the ring have the disc's area."""
    distance = np.hypot(y, x)
    if KINDS[kind] == "disc":
        return distance <= radius
    if KINDS[kind] == "ring":
        return (distance <= 1.2 * radius) & (distance >= 0.7 * radius)
    # a polygon of n sides is where no side's normal leads further out than its inner radius
    sides = 4 if KINDS[kind] == "square" else 3
    inner = radius * np.sqrt(np.pi / (sides * np.tan(np.pi / sides)))
    normals = angle + 2 * np.pi * np.arange(sides) / sides
    reach = [y * np.sin(normal) + x * np.cos(normal) for normal in normals]
    inside: NDArray[np.bool_] = np.max(reach, axis=0) <= inner
    return inside
