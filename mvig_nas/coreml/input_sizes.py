"""Several input sizes in one package: a function for each, all of one file of weights.

A graph operator's program is made for the size of its map, so that no single program is right at two sizes, which is
what Core ML's own enumerated shapes would need. Functions are what iOS 18 has for it.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvig_nas.coreml import tools
from mvig_nas.coreml.package import MAIN
from mvig_nas.errors import MvigNasError
from mvig_nas.network import MobileViG


def function_of(side: int) -> str:
    """Name of the function that takes images of another size than the network's own."""
    return f"size{side}"


def at_size(network: MobileViG, side: int) -> MobileViG:
    """The same network, of the same weights, as one for images of `side` pixels.

    Raises:
        MvigNasError: a stage's map would be too small for its links.
    """
    other = copy.copy(network)
    other.architecture = replace(network.architecture, resolution=side)
    return other


def functions_of(network: MobileViG, sizes: Sequence[int]) -> dict[str, MobileViG]:
    """The networks of a package by name of their functions, the one of the network's own size first.

    Raises:
        MvigNasError: a size is the network's own, or see `at_size`.
    """
    own = network.architecture.resolution
    if own in sizes:
        raise MvigNasError(
            f"a further size of a package must be another than its network's own, got {own} twice; leave it out."
        )
    return {MAIN: network} | {function_of(side): at_size(network, side) for side in sizes}


def combined(parts: Mapping[str, Path], path: Path) -> Any:
    """A model with a function for each package of `parts`, which share equal weights, written to `path`."""
    coremltools = tools.load()
    with tools.quiet():
        functions = coremltools.utils.MultiFunctionDescriptor()
        for name, package in parts.items():
            functions.add_function(str(package), MAIN, name)
        functions.default_function_name = MAIN
        coremltools.utils.save_multifunction(functions, str(path))
        return coremltools.models.MLModel(str(path), skip_model_load=True)
