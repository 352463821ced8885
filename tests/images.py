"""Small image folders that a tiny network can learn, for tests."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(  # noqa: PLR0917 - each has a name
    folder: Path, classes: int = 3, train: int = 12, val: int = 6, size: int = 40, seed: int = 0
) -> Path:
    """``folder/{train,val}/class_N``, with `train` and `val` images a class; returns the folder.

    A class is a hue and a direction of stripes, under noise.
    """
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    for split, count in (("train", train), ("val", val)):
        for label in range(classes):
            home = folder / split / f"class_{label}"
            home.mkdir(parents=True)
            colour = np.array(colorsys.hsv_to_rgb(label / classes, 0.9, 1.0))
            angle = np.pi * label / classes
            for number in range(count):
                stripes = np.sin(
                    20 * (rows * np.sin(angle) + columns * np.cos(angle)) + generator.uniform(0, 2 * np.pi)
                )
                pixels = colour * (0.55 + 0.35 * stripes[:, :, None]) + generator.normal(0, 0.08, (size, size, 3))
                image = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))
                image.save(home / f"{number:04d}.{'png' if number % 4 == 3 else 'jpg'}")
    return folder
