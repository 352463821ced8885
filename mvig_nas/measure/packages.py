"""Core ML packages as targets: which network they hold, what they take."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvig_nas.architecture import Architecture
from mvig_nas.coreml import tools
from mvig_nas.coreml.package import METADATA_PREFIX, SavedProgram, content_sha256
from mvig_nas.device_log import Package
from mvig_nas.errors import MvigNasError
from mvig_nas.measure.backend import Target


def package_target(path: Path) -> Target:
    """A package as a target: of an architecture, where its metadata says which; else of a fingerprint.

    Without metadata the fingerprint is the SHA-256 of its model and weights: the same for copies of one package.

    Raises:
        MvigNasError: there is no package, or it does not hold one readable ML program, or its metadata disagree.
    """
    metadata = SavedProgram(path).metadata
    text = metadata.get(METADATA_PREFIX + "architecture")
    fingerprint = metadata.get(METADATA_PREFIX + "fingerprint")
    if text is None:
        return Target(Package(fingerprint or content_sha256(path)), path)
    try:
        architecture = Architecture.from_json(text)
    except MvigNasError as error:
        raise MvigNasError(f"{path}: {error}") from error
    if fingerprint != architecture.fingerprint:
        raise MvigNasError(
            f"{path}: a package's fingerprint must be its architecture's, {architecture.fingerprint}, got "
            f"{fingerprint}; export it again."
        )
    return Target(architecture, path)


@dataclass(frozen=True)
class PackageInput:
    """The one input of a package: an RGB image of `shape` (height, width), or a tensor of `shape` in `dtype`."""

    name: str
    is_image: bool
    shape: tuple[int, ...]
    dtype: str = "uint8"

    def value(self) -> Any:
        """Something to run the model on, for `MLModel.predict`: the same every time."""
        rng = np.random.default_rng(0)
        if not self.is_image:
            tensor: NDArray[Any] = rng.standard_normal(self.shape).astype(self.dtype)
            return tensor
        from PIL import Image

        return Image.fromarray(rng.integers(0, 256, (*self.shape, 3), dtype=np.uint8))


def package_input(path: Path) -> PackageInput:
    """What a package takes.

    Raises:
        MvigNasError: it cannot be read, or takes other than one RGB image or one tensor of numbers.
    """
    saved = SavedProgram(path)
    proto = tools.load().proto.FeatureTypes_pb2
    inputs = saved.description.input
    if len(inputs) == 1:
        name, declared = inputs[0].name, inputs[0].type
        if declared.WhichOneof("Type") == "imageType" and (
            declared.imageType.colorSpace == proto.ImageFeatureType.ColorSpace.RGB
        ):
            return PackageInput(name, True, (declared.imageType.height, declared.imageType.width))
        array = declared.multiArrayType
        dtypes = {
            proto.ArrayFeatureType.ArrayDataType.FLOAT16: "float16",
            proto.ArrayFeatureType.ArrayDataType.FLOAT32: "float32",
        }
        if declared.WhichOneof("Type") == "multiArrayType" and array.dataType in dtypes and array.shape:
            return PackageInput(name, False, tuple(array.shape), dtypes[array.dataType])
    found = ", ".join(f"{each.name} ({each.type.WhichOneof('Type')})" for each in inputs) or "none"
    raise MvigNasError(
        f"a package to measure must take one RGB image or one tensor of floats, got inputs {found} in {path}; export "
        "it with one of them."
    )
