"""A smaller package from a package: palettised or quantised weights, verified; sizes and top-1 before and after."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from mvig_nas.coreml import digests, tools
from mvig_nas.coreml.package import METADATA_PREFIX, SavedProgram
from mvig_nas.errors import MvigNasError
from mvig_nas.values import about, check

if TYPE_CHECKING:
    from mvig_nas.coreml.verification import Verification
    from mvig_nas.image_data import LabelledImages
    from mvig_nas.network import MobileViG

LEAST_ELEMENTS = 2048  # of a weight that is compressed, coremltools' own; smaller ones would gain nothing


@dataclass(frozen=True)
class Compression:
    """How the weights of a package are made smaller; biases and weights of less than 2,048 numbers stay in fp16.

    Raises:
        MvigNasError: both ways or none are given.
    """

    TITLE: ClassVar = "Compression"

    palettize: (
        Annotated[
            Literal[8, 6, 4],
            about(
                "Bits of a weight's index into a palette, which k-means finds for each convolution. By default weights "
                "stay in fp16."
            ),
        ]
        | None
    ) = None
    quantize_weights: (
        Annotated[
            Literal["int8"],
            about(
                "Type that weights are quantised to, symmetrically, with a scale for each output channel. By default "
                "weights stay in fp16."
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        check(self)
        if self.palettize is not None and self.quantize_weights is not None:
            raise MvigNasError(
                f"weights must be compressed in one way, got --palettize {self.palettize} and --quantize-weights "
                f"{self.quantize_weights}; leave one out."
            )

    @property
    def name(self) -> str:
        """For metadata; empty where nothing is compressed."""
        if self.palettize is not None:
            return f"palettised to {self.palettize} bits"
        return "" if self.quantize_weights is None else f"weights quantised to {self.quantize_weights}"


@dataclass(frozen=True)
class Compressed:
    """What compressing a package did.

    Attributes:
        package: the compressed one.
        bytes_before, bytes_after: of the weights files.
        top1_before, top1_after: fractions, executed here in fp16; None without images.
        images: how many both were measured on; 0 without any.
        verification: what was compared and found equal; None where nothing was.
    """

    package: Path
    bytes_before: int
    bytes_after: int
    top1_before: float | None
    top1_after: float | None
    images: int
    verification: "Verification | None"


def compress(
    package: Path,
    path: Path,
    how: Compression,
    network: "MobileViG",
    images: "LabelledImages | None" = None,
    *,
    overwrite: bool = False,
    is_verified: bool = True,
) -> Compressed:
    """Write a compressed package, verified, from one that `export` wrote.

    Args:
        package: as `export` wrote it.
        path: where to write, ending in `.mlpackage`; it may be `package` itself where `overwrite` is set.
        how: palette or quantisation.
        network: whose weights `package` holds.
        images: to measure top-1 on before and after, by executing both here; None measures nothing.
        overwrite: whether a package already at `path` may be replaced.
        is_verified: whether the compressed package must pass `verify` before it appears.

    Raises:
        MvigNasError: nothing is asked for, `path` cannot be written, or see `verify` and `package_accuracy`.
    """
    if not how.name:
        raise MvigNasError("a compression must say how, got nothing; give --palettize or --quantize-weights.")
    from mvig_nas.coreml.conversion import published, writing, written
    from mvig_nas.coreml.verification import verify

    before = SavedProgram(package)
    if len(before.functions) > 1:
        raise MvigNasError(
            f"weights must be compressed in a package of one input size, got {', '.join(before.functions)} in "
            f"{package}; export one package a size."
        )
    with writing(path, path.parent) as building:
        coremltools = tools.load()
        with tools.quiet():
            model = _compressed(coremltools, package, how)
        spec = model.get_spec()
        spec.description.CopyFrom(before.description)
        entries = spec.description.metadata.userDefined
        stored = digests.read_weights(Path(model.weights_dir))
        sizes = before.weights_bytes(), sum(len(content) for content in stored.values())
        entries[METADATA_PREFIX + "compression"] = how.name
        entries[METADATA_PREFIX + "weights_bytes"] = f"{sizes[1]}, {sizes[0]} before compression"
        finished = written(spec, Path(model.weights_dir), building / path.name)
        verification = verify(finished, network.architecture, network) if is_verified else None
        top1 = _top1(package, finished, images)
        if images is not None:
            entries[METADATA_PREFIX + "top1_compressed"] = f"{top1[1]:.4f}, {top1[0]:.4f} before compression"
            entries[METADATA_PREFIX + "top1_compressed_measured"] = (
                f"on {len(images)} validation images, both packages executed in fp16 by mvig-nas, not by Core ML"
            )
            shutil.rmtree(finished)
            finished = written(spec, Path(model.weights_dir), building / path.name)
        published(finished, path, building, overwrite=overwrite)
    return Compressed(path, *sizes, *top1, 0 if images is None else len(images), verification)


def _compressed(coremltools: Any, package: Path, how: Compression) -> Any:
    optimize = coremltools.optimize.coreml
    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    if how.palettize is not None:
        config = optimize.OpPalettizerConfig(mode="kmeans", nbits=how.palettize, weight_threshold=LEAST_ELEMENTS)
        return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=config))
    config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=LEAST_ELEMENTS)
    return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=config))


def _top1(before: Path, after: Path, images: "LabelledImages | None") -> tuple[float | None, float | None]:
    if images is None:
        return None, None
    from mvig_nas.coreml.evaluation import package_accuracy

    return package_accuracy(before, images).top1, package_accuracy(after, images).top1
