"""Palettised and quantised weights of a saved program, unpacked to fp16 as a phone does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of a weights file: the number of the type, how whole numbers of it are read, and its bits.
BLOBS: Mapping[str, tuple[int, Any, int]] = {
    "FLOAT16": (1, np.float16, 16),
    "UINT8": (3, np.uint8, 8),
    "INT8": (4, np.int8, 8),
    "UINT4": (11, np.uint8, 4),
    "UINT6": (13, np.uint8, 6),
}
BYTES: Mapping[str, Any] = {"FLOAT16": np.float16, "UINT8": np.uint8, "INT8": np.int8, "UINT32": np.uint32}
_PALETTE = "constexpr_lut_to_dense"
_LINEAR = ("constexpr_affine_dequantize", "constexpr_blockwise_shift_scale")
_FP16_STEP = 2.0**-10
_MOST_STEPS = 127  # of int8
_PALETTE_ERROR = 5.0  # over the number of a palette's values
_LEAST = float(np.finfo(np.float16).smallest_subnormal)


@dataclass(frozen=True, eq=False)
class Compressed:
    """A weight that was compressed.

    Attributes:
        values: in fp16.
        palette: the values that there are, ascending; None of a quantised weight.
        scale: step between neighbouring values, broadcast over `values`; None of a palettised weight.
    """

    values: NDArray[np.float16]
    palette: NDArray[np.float16] | None = None
    scale: NDArray[np.float64] | None = None

    def is_of(self, exact: NDArray[np.float32]) -> bool:
        """Whether each value is the nearest there is to the network's, but for the rounding of palette or scale.

        The palette or scale must suit the network as well, else one of zeros would pass. Over a weight, values of a
        palette of N may err by 5 / N of the network's in the root of their mean squares (k-means errs by 1.7 / N where
        weights are normally distributed); a channel's largest weight must be 127 steps of its scale.
        """
        if not all(np.isfinite(each).all() for each in (self.values, self.palette, self.scale) if each is not None):
            return False
        found, wanted = self.values.astype(np.float64), exact.astype(np.float64)
        if self.palette is not None:
            levels = self.palette.astype(np.float64)
            above = np.searchsorted(levels, wanted).clip(1, max(len(levels) - 1, 1))
            neighbours = levels[above - 1], levels[above.clip(0, len(levels) - 1)]
            nearest = np.minimum(*(np.abs(wanted - each) for each in neighbours))
            error = float(np.sqrt(np.square(found - wanted).sum()))
            if error > _PALETTE_ERROR / len(levels) * float(np.sqrt(np.square(wanted).sum())) + _LEAST * found.size:
                return False
        else:
            assert self.scale is not None
            nearest = self.scale / 2
            axes = tuple(range(1, wanted.ndim))
            largest, reach = np.abs(wanted).max(axis=axes), _MOST_STEPS * self.scale.max(axis=axes)
            if (np.abs(reach - largest) > 2 * _FP16_STEP * largest + _MOST_STEPS * _LEAST)[largest > 0].any():
                return False
        allowed = nearest + (np.abs(found) + np.abs(wanted)) * _FP16_STEP + _LEAST
        return bool((np.abs(found - wanted) <= allowed).all())


def is_compressed(kind: str) -> bool:
    """Whether an operation only unpacks a constant."""
    return kind.startswith("constexpr_")


def from_bits(stored: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Numbers of less than a byte, the first in the lowest bits."""
    each = np.unpackbits(stored, bitorder="little")[: count * bits].reshape(count, bits)
    numbers: NDArray[np.uint8] = (each << np.arange(bits, dtype=np.uint8)).sum(axis=1).astype(np.uint8)
    return numbers


def unpacked(kind: str, parts: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> Compressed:
    """What an operation of this kind makes of its parts.

    Raises:
        ValueError: the kind is not known, or the parts do not fit.
    """
    if kind == _PALETTE:
        return _from_palette(parts["lut"], parts["indices"], shape)
    if kind in _LINEAR:
        return _from_scale(parts, shape)
    raise ValueError(f"{kind} is no compression of mvig-nas")


def _from_palette(lut: NDArray[Any], indices: NDArray[Any], shape: tuple[int, ...]) -> Compressed:
    palette = lut.reshape(-1)
    if (lut.ndim > 1 and max(lut.shape[:-2], default=1) > 1) or (lut.shape[-1] > 1 and lut.ndim > 1):
        raise ValueError("a weight must have one palette")
    if indices.shape != shape:  # packed, by iOS 16 and 17
        bits = int(len(palette) - 1).bit_length()
        indices = from_bits(indices, bits, int(np.prod(shape))).reshape(shape)
    if int(indices.max(initial=0)) >= len(palette):
        raise ValueError(f"an index of {int(indices.max())} into a palette of {len(palette)}")
    return Compressed(palette[indices], palette=np.sort(palette))


def _from_scale(parts: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> Compressed:
    is_old = "quantized_data" in parts
    data, offset = parts["quantized_data" if is_old else "data"], parts.get("zero_point" if is_old else "offset")
    scale = parts["scale"].astype(np.float64)
    if offset is not None and offset.any():
        raise ValueError("a quantised weight must be symmetric")
    if is_old:
        axes = [1] * len(shape)
        axes[int(parts["axis"])] = -1
        scale = scale.reshape(axes) if scale.size > 1 else scale.reshape([1] * len(shape))
    scale = np.broadcast_to(scale, shape)
    with np.errstate(over="ignore", invalid="ignore"):  # an altered scale; what it makes is no weight of a network
        return Compressed((data.reshape(shape) * scale).astype(np.float16), scale=scale)
