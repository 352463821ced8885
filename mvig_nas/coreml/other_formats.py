"""The same network as an ONNX model or as a Core AI asset, executed here and compared with the network in torch.

Both are made by packages that are not installed with mvig-nas: `mvig-nas[onnx]` (onnx, onnxscript, onnxruntime) and
`mvig-nas[coreai]` (coreai-torch). Core AI is what iOS 27 has beside Core ML; its assets run on no older one.
"""

import asyncio
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvig_nas import kernels
from mvig_nas.coreml import tools
from mvig_nas.coreml.conversion import Deployed, deployable
from mvig_nas.coreml.export_options import ExportOptions
from mvig_nas.coreml.package import INPUT_NAME, LOGITS_NAME
from mvig_nas.coreml.verification import TOLERANCE, example_images, share
from mvig_nas.errors import MvigNasError
from mvig_nas.network import MobileViG

Format = Literal["onnx", "coreai"]
SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "coreai": ".aimodel"}
# Of the largest logit. Core AI's program computes in fp16, whose rounding moved logits of 500 packages by 3e-3 at most.
TOLERANCES: Mapping[Format, float] = {"onnx": TOLERANCE, "coreai": 5e-3}
_PACKAGES: Mapping[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "coreai": ("coreai_torch", "coreai.runtime"),
}
_PREFIX = "mvig_nas."


@dataclass(frozen=True)
class OtherExport:
    """A model that was written, and what was compared.

    Attributes:
        path: of the model.
        convolutions: whose output shapes equal the kernel list's; 0 where nothing was verified.
        difference: largest difference of a logit from the network's in torch, as a share of the image's largest logit,
            over the example images; None where nothing was verified.
        runtime: what executed it here.
    """

    path: Path
    convolutions: int
    difference: float | None
    runtime: str


def export_other(
    network: MobileViG,
    path: Path,
    form: Format,
    options: ExportOptions,
    *,
    metadata: Mapping[str, str],
    overwrite: bool = False,
    is_verified: bool = True,
) -> OtherExport:
    """Write the network's inference form as ONNX in fp32, or as a Core AI asset in fp16, whole or not at all.

    Input is a tensor `image` (batch, 3, R, R): of 0 to 255 where `options.input_kind` is `image`, which the model then
    normalises, else normalised. Output is `logits` (batch, classes).

    Args:
        network: left as it is.
        path: where to write, with the suffix of `SUFFIXES`.
        form: of the model.
        options: input kind, normalisation and batch are used; the oldest iOS is not.
        metadata: what the model says of itself, by name without a prefix.
        overwrite: whether what is at `path` may be replaced.
        is_verified: whether the model must agree with the network before it appears.

    Raises:
        MvigNasError: a package is missing, `path` cannot be written, the network cannot be converted, or the model
            computes something else.
    """
    needed = [_needed(name, form) for name in _PACKAGES[form]]
    _check_path(path, form, overwrite)
    deployed = Deployed(deployable(network), (options.mean, options.std) if options.is_image else None, False)
    side = network.architecture.resolution
    images = torch.zeros((options.batch, 3, side, side))
    write: Callable[..., Path] = _write_onnx if form == "onnx" else _write_coreai
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with _no_warnings():
            try:
                finished = write(needed, deployed.eval(), images, building / path.name, metadata)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise MvigNasError(
                    f"a network must be one that {_PACKAGES[form][0]} converts, got "
                    f"{network.architecture.fingerprint}: {reason}; export it as a Core ML package."
                ) from error
            found = _verified(finished, form, network, deployed, options.batch) if is_verified else (0, None)
        if os.path.lexists(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finished.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return OtherExport(path, *found, "onnxruntime" if form == "onnx" else "Core AI's runtime for this computer")


def _needed(name: str, form: Format) -> Any:
    try:
        with _no_warnings():
            return import_module(name)
    except ImportError as error:
        raise MvigNasError(
            f"--format {form} must have the package {error.name or name}, which is not installed; install "
            f"mvig-nas[{form}]."
        ) from error


def _check_path(path: Path, form: Format, overwrite: bool) -> None:
    if path.suffix != SUFFIXES[form]:
        raise MvigNasError(f"the name of a model of --format {form} must end in {SUFFIXES[form]}, got {path}; add it.")
    if not path.parent.is_dir():
        raise MvigNasError(f"a model needs an existing folder to stand in, got {path.parent}; make it first.")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise MvigNasError(
            f"nothing is overwritten unasked, got an existing {path}; choose another name, or overwrite."
        )
    is_model = (path / "main.mlirb").is_file() if form == "coreai" else path.is_file()
    if path.is_symlink() or not is_model:
        raise MvigNasError(f"only a model of --format {form} may be overwritten, got {path}, which is none; move it.")


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Without what the converters print and warn of, such as the versions of torch that they were tried with."""
    with tools.quiet(), Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
        yield


def _write_onnx(needed: list[Any], deployed: Deployed, images: Tensor, path: Path, metadata: Mapping[str, str]) -> Path:
    onnx = needed[0]
    program = torch.onnx.export(
        deployed, (images,), dynamo=True, input_names=[INPUT_NAME], output_names=[LOGITS_NAME], verbose=False
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {_PREFIX + name: value for name, value in metadata.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _write_coreai(
    needed: list[Any], deployed: Deployed, images: Tensor, path: Path, metadata: Mapping[str, str]
) -> Path:
    coreai_torch, runtime = needed
    half = deployed.half()
    with torch.no_grad():
        program = torch.export.export(half, (images.half(),), strict=False).run_decompositions(
            coreai_torch.get_decomp_table()
        )
    converter = coreai_torch.TorchConverter()
    converter.add_exported_program(program, input_names=[INPUT_NAME], output_names=[LOGITS_NAME])
    converted = converter.to_coreai()
    described = runtime.AIModelAssetMetadata()
    for name, value in metadata.items():
        described.set_custom(_PREFIX + name, value)
    converted.save_asset(path, described)
    (path.parent / _LISTING).write_text("\n".join(_operations(str(converted))))
    deployed.float()
    return path


_LISTING = "operations.txt"  # beside an asset that is being made: its convolutions' output shapes


def _operations(program: str) -> list[str]:
    """Output shapes of the convolutions of a Core AI program's text, `1x42x112x112`."""
    return re.findall(r"= coreai\.conv2d.*-> tensor<([\dx]+)x[a-z]+\d+>", program)


def _verified(path: Path, form: Format, network: MobileViG, deployed: Deployed, batch: int) -> tuple[int, float | None]:
    """Hold a model's convolutions against the kernel list, and what it computes against the network in torch."""
    listed = kernels.of(network.architecture, "exported", network.num_classes)
    wanted = Counter((batch, *each.shape[1:]) for each in listed if each.kind == "conv")
    shapes = (
        _onnx_shapes(path)
        if form == "onnx"
        else [tuple(map(int, line.split("x"))) for line in (path.parent / _LISTING).read_text().splitlines()]
    )
    found = Counter(shapes)
    if found != wanted:
        shape = next(each for each in {**wanted, **found} if wanted[each] != found[each])
        raise MvigNasError(
            f"{path.name} must hold {wanted[shape]} convolutions of shape {shape}, as in the kernel list, got "
            f"{found[shape]}; it is not written."
        )
    execute = _execute_onnx if form == "onnx" else _execute_coreai
    reference = deployed.eval().float()
    is_pixels = reference.is_normalising
    differences = []
    for pixels in example_images(network.architecture.resolution).values():
        given = torch.cat([pixels.roll(shift, dims=-1) for shift in range(batch)])
        given = given if is_pixels else (given - 127.5) / 63.75
        with torch.no_grad():
            logits = cast(Tensor, reference(given))
        answered = torch.from_numpy(execute(path, given.numpy()).astype(np.float32))
        if not bool(torch.isfinite(answered).all()):
            raise MvigNasError(f"every logit of {path.name} must be finite, got others; it is not written.")
        differences.append(share(answered, logits))
    is_continuous = all(stage.operator.is_continuous for stage in network.architecture.stages if stage.graph_depth)
    if max(differences) > TOLERANCES[form] and (is_continuous or form == "onnx"):
        raise MvigNasError(
            f"the logits of {path.name} must be the network's to {TOLERANCES[form]:g} of the largest, got "
            f"{max(differences):.2g}; it is not written."
        )
    return sum(found.values()), max(differences)


def _onnx_shapes(path: Path) -> list[tuple[int, ...]]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    shape_of = {
        each.name: tuple(axis.dim_value for axis in each.type.tensor_type.shape.dim)
        for each in (*graph.value_info, *graph.output)
    }
    return [shape_of[node.output[0]] for node in graph.node if node.op_type == "Conv"]


def _execute_onnx(path: Path, given: NDArray[np.float32]) -> NDArray[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return cast(NDArray[Any], session.run([LOGITS_NAME], {INPUT_NAME: given})[0])


def _execute_coreai(path: Path, given: NDArray[np.float32]) -> NDArray[Any]:
    from coreai.authoring import AIModelAsset
    from coreai.runtime import NDArray as CoreAiArray

    async def answer() -> NDArray[Any]:
        async with AIModelAsset.load(path).executable() as model:
            outputs = await model.load_function("main")({INPUT_NAME: CoreAiArray(given.astype(np.float16))})
            return np.array(outputs[LOGITS_NAME].numpy())

    return asyncio.run(answer())


def entries_of(
    network: MobileViG, weights: str, metadata: Mapping[str, str], labels: tuple[str, ...] | None
) -> dict[str, str]:
    """What a model of another format says of itself, by names without a prefix."""
    architecture = network.architecture
    own = {"architecture": architecture.to_json(), "fingerprint": architecture.fingerprint, "weights": weights}
    if labels is not None:
        own["classes"] = json.dumps(labels)
    return {**own, **metadata}
