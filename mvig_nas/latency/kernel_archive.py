"""Many kernel lists in one NPZ of plain integers: the published networks, without the code that built them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mvig_nas.kernels import Kernel

_NUMBERS = ("macs", "bytes_in", "bytes_out", "bytes_weights", "parameters", "groups")


def save_kernels(path: str | Path | BinaryIO, networks: Mapping[str, Sequence[Kernel]]) -> None:
    """Write the kernel lists of named networks."""
    kernels = [kernel for network in networks.values() for kernel in network]
    kinds = sorted({kernel.kind for kernel in kernels})
    np.savez_compressed(
        path,
        allow_pickle=False,
        names=np.array(list(networks)),
        lengths=np.array([len(network) for network in networks.values()]),
        kinds=np.array(kinds),
        kind=np.array([kinds.index(kernel.kind) for kernel in kernels], dtype=np.int16),
        numbers=np.array([[getattr(kernel, name) for name in _NUMBERS] for kernel in kernels], dtype=np.int64),
        window=np.array([kernel.kernel_size + kernel.stride for kernel in kernels], dtype=np.int16),
        shape_lengths=np.array([len(kernel.shape) for kernel in kernels], dtype=np.int8),
        shapes=np.array([size for kernel in kernels for size in kernel.shape], dtype=np.int32),
        input_lengths=np.array([len(kernel.inputs) for kernel in kernels], dtype=np.int8),
        inputs=np.array([place for kernel in kernels for place in kernel.inputs], dtype=np.int32),
    )


def load_kernels(path: str | Path) -> dict[str, tuple[Kernel, ...]]:
    """Read what `save_kernels` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name].tolist() for name in file.files}
    shapes = iter(arrays["shapes"])
    inputs = iter(arrays["inputs"])
    kernels = [
        Kernel(
            kind=arrays["kinds"][kind],
            shape=tuple(next(shapes) for _ in range(shape_length)),
            kernel_size=(window[0], window[1]),
            stride=(window[2], window[3]),
            inputs=tuple(next(inputs) for _ in range(input_length)),
            **dict(zip(_NUMBERS, numbers, strict=True)),
        )
        for kind, shape_length, window, input_length, numbers in zip(
            arrays["kind"],
            arrays["shape_lengths"],
            arrays["window"],
            arrays["input_lengths"],
            arrays["numbers"],
            strict=True,
        )
    ]
    networks: dict[str, tuple[Kernel, ...]] = {}
    start = 0
    for name, length in zip(arrays["names"], arrays["lengths"], strict=True):
        networks[name] = tuple(kernels[start : start + length])
        start += length
    return networks
