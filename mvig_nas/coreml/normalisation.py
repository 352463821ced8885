"""What an image package does to pixels: as its metadata state it, and as its first batch norm does it."""

import re

import numpy as np
from numpy.typing import NDArray

from mvig_nas.coreml.package import METADATA_PREFIX, PIXEL_MAXIMUM, SavedProgram

TOLERANCE = 2e-3  # of normalised pixels, which reach 2.6: about one step of fp16 there


def check(program: SavedProgram) -> None:
    """Compare what the program does to black and white with the mean and std that the metadata state.

    Raises:
        MvigNasError: they differ, or the metadata state none.
    """
    mean, std = stated(program)
    scale, offset = applied(program)
    for pixel in (0.0, PIXEL_MAXIMUM):
        wanted, found = (pixel / PIXEL_MAXIMUM - mean) / std, pixel * scale + offset
        if not np.allclose(wanted, found, rtol=TOLERANCE, atol=TOLERANCE):
            raise program.differs(f"pixels of {pixel:g} normalised to {wanted.round(4).tolist()}", f"{found.round(4)}")


def stated(program: SavedProgram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and std of each channel, on a scale of 0 to 1, from the metadata.

    Raises:
        MvigNasError: the metadata do not state them.
    """
    text = program.metadata.get(METADATA_PREFIX + "normalisation", "")
    match = re.fullmatch(r"mean \((.+)\), std \((.+)\)", text)
    if match is None:
        raise program.differs("the normalisation's mean and std in the metadata", repr(text))
    mean, std = (np.array([float(number) for number in group.split(",")]) for group in match.groups())
    return mean, std


def applied(program: SavedProgram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and offset of each channel that a program with an image input applies to pixels of 0 to 255."""
    node = next(node for node in program.nodes if node.type == "batch_norm")
    named = {name: program.argument(node, name) for name in ("mean", "variance", "gamma", "beta", "epsilon")}
    mean, variance, gamma, beta, epsilon = (
        np.asarray(default if value is None else value, np.float64)
        for value, default in zip(named.values(), (0.0, 1.0, 1.0, 0.0, 1e-5), strict=True)
    )
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale
