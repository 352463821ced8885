"""A saved package read back from its files: manifest, program, weights."""

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvig_nas.coreml import digests, tools
from mvig_nas.coreml.compressed_constants import BLOBS, BYTES, Compressed, from_bits, is_compressed, unpacked
from mvig_nas.errors import MvigNasError
from mvig_nas.files import read_regular
from mvig_nas.recipes import Preprocessing

CONV_KINDS = ("conv", "conv_transpose")
PROGRAM_KINDS = {"relu6": "clip"}  # of kernels, where a program calls them otherwise
FP16 = "fp16"
METADATA_PREFIX = "mvig_nas."
PREPROCESSING = "preprocessing"  # entry of a package's metadata: how its images were cropped
PIXEL_MAXIMUM = 255.0
SUFFIX = ".mlpackage"
INPUT_NAME = "image"
MAIN = "main"  # the function of the architecture's own resolution
LOGITS_NAME = "logits"
LABEL_NAME = "classLabel"
PROBABILITIES_NAME = "classLabel_probs"
_CONSTANT_KIND = "const"
_PRECISIONS = {"FLOAT16": FP16, "FLOAT32": "fp32", "BOOL": "bool", "STRING": "string"}

# Of a weights file, at the offset that the program names: a mark, the type, the size in bytes, where the data is.
_BLOB = struct.Struct("<IIQQ")
_BLOB_MARK = 0xDEADBEEF
_MOST_BYTES = 2 * 2**30
_NORMALISATION_TOLERANCE = 2e-3  # of normalised pixels, which reach 2.6: about one step of fp16 there


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a saved program; of several outputs, `shape` and `precision` are the first's."""

    kind: str  # its name in MIL, Core ML's language of programs
    shape: tuple[int, ...]
    precision: str  # fp16, fp32, int32, int16, ...
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    bytes_weights: int = 0


def operations(package: Path) -> tuple[Operation, ...]:
    """Operations of a saved package's program, in order; constants apart, `cast` included.

    Raises:
        MvigNasError: there is no package, or it does not hold one readable ML program.
    """
    return SavedProgram(package).operations


def content_sha256(package: Path) -> str:
    """SHA-256 of a package's model and weights: the same for copies of one package.

    Raises:
        MvigNasError: a file cannot be read, or is a link, whose content is not the package's.
    """
    digest = hashlib.sha256()
    data = package / "Data"  # the manifest beside it holds random identifiers
    for file in sorted(each for each in data.rglob("*") if not each.is_dir() or each.is_symlink()):
        content = _content(package, file)
        digest.update(f"{file.relative_to(data).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


class SavedProgram:
    """The program of a package and its constants' values.

    Args:
        package: ends in `.mlpackage`.
        function: of a package of several input sizes, the one to read.

    Raises:
        MvigNasError: there is no package, or it does not hold one readable ML program with this function.
    """

    def __init__(self, package: Path, function: str = MAIN) -> None:
        self.package, self.function = package, function
        model_file = _model_file(package)
        self._weights_folder = model_file.parent
        self._blobs: dict[str, bytes] = {}
        try:
            self._read(model_file)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise self._unreadable(f"{model_file.name}: {type(error).__name__}: {error}") from error

    def _read(self, model_file: Path) -> None:
        proto = tools.load().proto
        spec = _parse(proto, self.package, model_file)
        self.description, self._program = spec.description, spec.mlProgram
        described = {each.name: each for each in spec.description.functions} or {MAIN: spec.description}
        self.functions = tuple(described)  # the main one first, in packages that `export` writes
        if set(described) != set(spec.mlProgram.functions) or self.function not in described:
            raise ValueError(f"functions {sorted(spec.mlProgram.functions)}, where it states {sorted(described)}")
        self.features = described[self.function]  # inputs and outputs, as an app sees them
        function = spec.mlProgram.functions[self.function]
        block = function.block_specializations[function.opset]
        self._precision_name = proto.MIL_pb2.DataType.Name
        self.inputs = tuple(function.inputs)  # each with a name and a type
        self.output_names = tuple(block.outputs)
        self._constants: Mapping[str, Any] = {
            operation.outputs[0].name: operation.attributes["val"]
            for operation in block.operations
            if operation.type == _CONSTANT_KIND
        }
        self._compressed: Mapping[str, Any] = {
            operation.outputs[0].name: operation for operation in block.operations if is_compressed(operation.type)
        }
        passive = (_CONSTANT_KIND, *(operation.type for operation in self._compressed.values()))
        self.nodes = [operation for operation in block.operations if operation.type not in passive]
        self.operations = tuple(self._operation(node) for node in self.nodes)

    @property
    def batch(self) -> int:
        """Images that the program takes at once."""
        declared = self.tensor_type(self.inputs[0].type)
        return 1 if declared is None or not declared[0] else declared[0][0]

    @property
    def side(self) -> int:
        """Height and width of the images that the program takes, in pixels; 0 where it takes none."""
        declared = self.tensor_type(self.inputs[0].type)
        return 0 if declared is None or not declared[0] else declared[0][-1]

    @property
    def labels(self) -> tuple[str, ...]:
        """A classifier's class labels, in the order of its probabilities; none of a program without them."""
        node = next((node for node in self.nodes if node.type == "classify"), None)
        values = () if node is None else node.inputs["classes"].arguments[0].value.immediateValue.list.values
        return tuple(str(value.immediateValue.tensor.strings.values[0]) for value in values)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The package's user-defined metadata."""
        return dict(self.description.metadata.userDefined)

    def weights_bytes(self) -> int:
        """Size of the files of the weights."""
        folder = self._weights_folder / "weights"
        return sum(file.stat().st_size for file in folder.rglob("*")) if folder.is_dir() else 0

    def check_digests(self) -> int:
        """Compare program and weights with the SHA-256 that the metadata state; how many are stated, of 2.

        Raises:
            MvigNasError: one is another, or a file of the weights cannot be read.
        """
        folder = self._weights_folder / "weights"
        files = sorted(folder.rglob("*")) if folder.is_dir() else []
        found = {
            digests.PROGRAM: digests.program_sha256(self._program),
            digests.WEIGHTS: digests.weights_sha256({file.name: _content(self.package, file) for file in files}),
        }
        stated = {name: self.metadata.get(METADATA_PREFIX + name) for name in found}
        for name, value in stated.items():
            if value is not None and value != found[name]:
                part = name.removesuffix("_sha256")
                raise self.differs(f"its {part} of SHA-256 {value[:12]}, as it states", found[name][:12])
        return sum(value is not None for value in stated.values())

    def argument(self, node: Any, name: str) -> NDArray[Any] | None:
        """Value of a constant argument of a node; None where it has none of that name.

        Raises:
            MvigNasError: the argument is no constant, or its value cannot be read.
        """
        if name not in node.inputs:
            return None
        constant = self.constant(node.inputs[name].arguments[0].name)
        if constant is None:
            raise self._unreadable(f"`{name}` of {node.type} {node.outputs[0].name} is no constant")
        return constant

    def constant(self, name: str) -> NDArray[Any] | None:
        """Value of a constant; None where there is none of that name.

        Raises:
            MvigNasError: its value cannot be read.
        """
        try:
            if name in self._compressed:
                return self.compressed(name).values
            return self._value(name, self._constants[name]) if name in self._constants else None
        except (OverflowError, ValueError) as error:  # of a size that its shape does not have
            raise self._unreadable(f"constant {name}: {error}") from error

    @property
    def is_compressed(self) -> bool:
        """Whether some weights are palettised or quantised."""
        return bool(self._compressed)

    def is_compressed_at(self, name: str) -> bool:
        """Whether this constant is palettised or quantised."""
        return name in self._compressed

    def compressed(self, name: str) -> Compressed:
        """A compressed constant that there is, unpacked as a phone does it.

        Raises:
            ValueError: it is damaged, or compressed in a way that mvig-nas does not know.
        """
        operation, parts = self._compressed[name], self.parts(name)
        declared = self.tensor_type(operation.outputs[0].type)
        if declared is None:
            raise ValueError(f"{operation.type} {name} makes no tensor")
        return unpacked(operation.type, parts, declared[0])

    def parts(self, name: str) -> dict[str, NDArray[Any]]:
        """What a compressed constant is unpacked from, by name: palette and indices, or scale and whole numbers.

        Raises:
            ValueError: one is missing.
        """
        operation, parts = self._compressed[name], {}
        for part, given in operation.inputs.items():
            binding = given.arguments[0]
            is_named = binding.WhichOneof("binding") == "name"
            parts[part] = self.constant(binding.name) if is_named else self._value(part, binding.value)
        # iOS 16 and 17 keep the parts as attributes, newer programs as inputs
        parts |= {part: self._value(part, value) for part, value in operation.attributes.items() if part != "name"}
        if any(value is None for value in parts.values()):
            raise ValueError(f"{operation.type} {name} lacks a part")
        return {part: np.asarray(value) for part, value in parts.items()}

    def tensor_type(self, declared: Any) -> tuple[tuple[int, ...], str] | None:
        """Shape and precision that the program declares of a value; None for a label or a dictionary."""
        if declared.WhichOneof("type") != "tensorType":
            return None
        name = self._precision_name(declared.tensorType.dataType)
        if name == "STRING":
            return None
        shape = tuple(dimension.constant.size for dimension in declared.tensorType.dimensions)
        return shape, _PRECISIONS.get(name, name.lower())

    def differs(self, wanted: str, found: str) -> MvigNasError:
        """The error of a package that holds other than what was exported."""
        return MvigNasError(f"{self.package} must hold {wanted}, got {found}; export it again from the same network.")

    def _operation(self, node: Any) -> Operation:
        kind = node.type
        declared = self.tensor_type(node.outputs[0].type)
        if declared is None:
            return Operation(kind, (), node.outputs[0].type.WhichOneof("type") or "")
        shape, precision = declared
        if kind not in CONV_KINDS:
            return Operation(kind, shape, precision)
        weight, bias, stride, groups = (self.argument(node, key) for key in ("weight", "bias", "strides", "groups"))
        if weight is None or weight.ndim != 4:
            raise self._unreadable(f"{kind} {node.outputs[0].name} has no weight of a 2D convolution")
        return Operation(
            kind,
            shape,
            precision,
            kernel_size=(weight.shape[2], weight.shape[3]),
            stride=(1, 1) if stride is None else (int(stride[0]), int(stride[1])),
            groups=1 if groups is None else int(groups),
            bytes_weights=weight.nbytes + (0 if bias is None else bias.nbytes),
        )

    def _value(self, name: str, value: Any) -> NDArray[Any]:
        tensor = value.type.tensorType
        shape = tuple(dimension.constant.size for dimension in tensor.dimensions)
        precision = self._precision_name(tensor.dataType)
        if value.WhichOneof("value") == "blobFileValue":
            if precision not in BLOBS:
                raise self._unreadable(f"constant {name} is {precision}, which mvig-nas does not read")
            return self._blob(name, value.blobFileValue, shape, precision)
        immediate = value.immediateValue.tensor
        field = immediate.WhichOneof("value")
        if field == "bytes" and precision in BYTES:
            return np.frombuffer(immediate.bytes.values, BYTES[precision]).reshape(shape)
        if field in ("ints", "floats", "bools"):
            return np.array(list(getattr(immediate, field).values)).reshape(shape)
        if field == "strings":
            return np.array(list(immediate.strings.values)).reshape(shape)
        raise self._unreadable(f"constant {name} is stored as {field} of {precision}")

    def _blob(self, name: str, reference: Any, shape: tuple[int, ...], precision: str) -> NDArray[Any]:
        file = self._weights_folder / reference.fileName.removeprefix("@model_path/")
        if reference.fileName not in self._blobs:
            self._blobs[reference.fileName] = _content(self.package, file)
        data = self._blobs[reference.fileName]
        wanted_kind, dtype, bits = BLOBS[precision]
        offset, size = int(reference.offset), -(-bits * prod(shape) // 8)
        if offset + _BLOB.size <= len(data):
            mark, kind, length, start = _BLOB.unpack_from(data, offset)
            if mark == _BLOB_MARK and kind == wanted_kind and length == size and start + size <= len(data):
                stored = data[start : start + size]
                if bits < 8:
                    return from_bits(np.frombuffer(stored, np.uint8), bits, prod(shape)).reshape(shape)
                return np.frombuffer(stored, dtype).reshape(shape)
        kind = "fp16" if precision == "FLOAT16" else precision
        raise self._unreadable(f"{file.name} does not hold constant {name}, {size} bytes of {kind} at {offset}")

    def _unreadable(self, reason: str) -> MvigNasError:
        return _unreadable(self.package, reason)


def _model_file(package: Path) -> Path:
    if not package.is_dir():
        raise MvigNasError(f"no Core ML package at {package}; check the path.")
    try:
        manifest = json.loads(_content(package, package / "Manifest.json"))
        items = {name: package / "Data" / str(item["path"]) for name, item in manifest["itemInfoEntries"].items()}
        model = items[manifest["rootModelIdentifier"]]
    except (AttributeError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise _unreadable(package, f"Manifest.json: {error}") from error
    for item in items.values():
        _require_inside(package, item)
    return model


def _content(package: Path, file: Path) -> bytes:
    """Of a file inside the package; a link or a path that leads outside is refused."""
    _require_inside(package, file)
    try:
        return read_regular(file, _MOST_BYTES)
    except OSError as error:
        raise _unreadable(package, f"{file.name}: {error}") from error


def _require_inside(package: Path, file: Path) -> None:
    try:
        is_inside = not file.is_symlink() and file.resolve().is_relative_to(package.resolve())
    except (OSError, ValueError) as error:  # a name with a null byte is no path
        raise _unreadable(package, f"{file.name}: {error}") from error
    if not is_inside:
        raise _unreadable(package, f"{file.name} lies outside of it")


def _parse(proto: Any, package: Path, file: Path) -> Any:
    """The model, which holds an ML program with a main function."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    spec = proto.Model_pb2.Model()
    try:
        spec.ParseFromString(_content(package, file))
    except DecodeError as error:
        raise _unreadable(package, f"{file.name}: {error}") from error
    if spec.WhichOneof("Type") != "mlProgram" or "main" not in spec.mlProgram.functions:
        raise _unreadable(package, f"{file.name} is {spec.WhichOneof('Type')}, not an ML program")
    return spec


def _unreadable(package: Path, reason: str) -> MvigNasError:
    return MvigNasError(f"a package must be whole and hold one ML program, got {package}: {reason}; export it again.")


def check_normalisation(program: SavedProgram, preprocessing: Preprocessing | None = None) -> None:
    """Compare what the program does to black and white with the mean and std that the metadata state.

    Args:
        program: takes an image.
        preprocessing: must have the mean and std that the metadata state, if it is given.

    Raises:
        MvigNasError: they differ, or the metadata state none.
    """
    mean, std = stated_normalisation(program)
    if preprocessing is not None and not np.allclose((mean, std), (preprocessing.mean, preprocessing.std), rtol=1e-6):
        raise program.differs(
            f"the model's normalisation, mean {preprocessing.mean}, std {preprocessing.std}",
            f"mean {tuple(mean.tolist())}, std {tuple(std.tolist())}",
        )
    scale, offset = applied_normalisation(program)
    for pixel in (0.0, PIXEL_MAXIMUM):
        wanted, found = (pixel / PIXEL_MAXIMUM - mean) / std, pixel * scale + offset
        if not np.allclose(wanted, found, rtol=_NORMALISATION_TOLERANCE, atol=_NORMALISATION_TOLERANCE):
            raise program.differs(f"pixels of {pixel:g} normalised to {wanted.round(4).tolist()}", f"{found.round(4)}")


def stated_normalisation(program: SavedProgram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def applied_normalisation(program: SavedProgram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and offset of each channel that a program with an image input applies to pixels of 0 to 255."""
    node = next(node for node in program.nodes if node.type == "batch_norm")
    named = {name: program.argument(node, name) for name in ("mean", "variance", "gamma", "beta", "epsilon")}
    mean, variance, gamma, beta, epsilon = (
        np.asarray(default if value is None else value, np.float64)
        for value, default in zip(named.values(), (0.0, 1.0, 1.0, 0.0, 1e-5), strict=True)
    )
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale
