"""Core ML packages: which network they hold, and their latency on this Mac or on an iPhone connected to it.

Written from the source of coremltools 9.0 and never run: that takes a Mac. `MLModelAsyncWrapper` is what coremltools'
own `MLModelBenchmarker` runs predictions with; unlike that, it can unload a model, and takes a package without
converting it. On a phone it installs a small app, sends it the model and an input, and reads back outputs and duration.
"""

import asyncio
import atexit
import platform
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import mvig_nas
from mvig_nas.architecture import Architecture
from mvig_nas.coreml import tools
from mvig_nas.coreml.package import METADATA_PREFIX, SavedProgram, content_sha256
from mvig_nas.device_log import Device, Package
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.measure.backend import MACOS, UNKNOWN, Notes, Target, chip, printable, sysctl, system

# Our names of compute units, and the members of coremltools' ComputeUnit.
COREML_UNITS = {"all": "ALL", "cpu-and-ne": "CPU_AND_NE", "cpu-and-gpu": "CPU_AND_GPU", "cpu-only": "CPU_ONLY"}
_LEAST_MACOS = (14, 4)  # the first with compute plans
_LEAST_COREMLTOOLS = (9,)  # the first with remote devices
_ENABLED = "enabled"
_LONGEST_NOTE = 200
_UNIT_DIGITS = 4  # of the UDID: enough to tell a desk's phones apart, too few to find a phone by

_T = TypeVar("_T")
_UNITS = {
    "MLCPUComputeDevice": "cpu",
    "MLGPUComputeDevice": "gpu",
    "MLNeuralEngineComputeDevice": "neural-engine",
}
_DIGITS = 4


class CoreMl:
    """Core ML on this Mac, or on a connected iPhone.

    Args:
        compute_units: what models may use: `all`, `cpu-and-ne`, `cpu-and-gpu`, `cpu-only`.
        udid: of a connected iPhone; None measures this Mac.
        name: of the device in the log, such as `iphone-13-mini`; for a Mac its model.
        chip_name: of the device; for a Mac, and for iPhones that `latency.CHIPS` knows, it is found.
        team: Apple developer team that signs the app that runs on the phone.

    Raises:
        MvigNasError: not a Mac with what this needs, no such phone, a phone without a name, or it cannot be prepared.
    """

    name = "coreml"

    def __init__(
        self,
        compute_units: str = "cpu-and-ne",
        *,
        udid: str | None = None,
        name: str | None = None,
        chip_name: str | None = None,
        team: str = "",
    ) -> None:
        if compute_units not in COREML_UNITS:
            raise MvigNasError(
                f"`compute_units` must be Core ML's, got {compute_units!r}; {closest(compute_units, COREML_UNITS)}"
            )
        check_host(platform.system(), platform.mac_ver()[0])
        coremltools = tools.load()
        check_coremltools(str(coremltools.__version__))
        self._compute_unit = getattr(coremltools.ComputeUnit, COREML_UNITS[compute_units])
        self.tool_versions: Mapping[str, str] = {
            "coremltools": str(coremltools.__version__),
            "macos": platform.mac_ver()[0],
            "mvig-nas": mvig_nas.__version__,
        }
        if udid is not None and name is None:
            raise MvigNasError(
                "a phone must have a name in the log, got none; give its model, for example --name iphone-13-mini."
            )
        # One loop for all calls: coremltools keeps the one it was made in.
        self._runner = asyncio.Runner()
        atexit.register(self._runner.close)
        self._phone: Any = None
        self.unit = ""
        if udid is None:
            os, os_version = system()
            self.device = Device(name or sysctl("hw.model"), chip_name or chip(), os, os_version, compute_units)
        else:
            with _coremltools_errors("an iPhone must be connected, unlocked and trusted"):
                self._phone = self._prepared(udid, team)
            self.unit = printable(self._phone.udid)[-_UNIT_DIGITS:]
            self.device = Device(
                str(name), chip_name or _chip_of(str(name)), "iOS", printable(self._phone.os_version), compute_units
            )

    def check(self, target: Target) -> None:
        """Refuse what is no package, or takes what cannot be sent to a phone.

        Raises:
            MvigNasError: it is so.
        """
        check_target(target, self._phone is not None)

    def load(self, target: Target) -> "_CoreMlNetwork":
        """Compile and load a package on the device; the first time takes seconds to minutes.

        Raises:
            MvigNasError: the target is no package, takes what cannot be sent to a phone, or does not load.
        """
        from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper

        given = check_target(target, self._phone is not None)
        with _coremltools_errors(f"{target.package} must load"):
            wrapper = MLModelAsyncWrapper.from_spec_or_path(
                spec_or_path=str(target.package),
                weights_dir=str(target.package),  # must be a text; read for a specification only, not for a path
                compute_units=self._compute_unit,
                device=self._phone,
            )
            self._run(wrapper.load())
            try:
                plan = self._run(wrapper.retrieve_compute_plan())
                shares, missing = placement(plan), ""
            except Exception as error:  # it raises plain ones; a latency is worth having
                shares, missing = {}, f"{type(error).__name__}: {error}"
        notes: dict[str, str | int | float | bool] = {"input": "image" if given.is_image else "tensor"}
        if wrapper.load_duration_in_nano_seconds is not None:
            notes["load_ms"] = round(wrapper.load_duration_in_nano_seconds / 1e6, 3)
        if missing:
            notes["placement_missing"] = printable(missing)[:_LONGEST_NOTE]
        return _CoreMlNetwork(self, wrapper, {given.name: given.value()}, shares, notes)

    def _prepared(self, udid: str, team: str) -> Any:
        from coremltools.models.ml_program.experimental.remote_device import (
            AppSigningCredentials,
            DeviceType,
        )
        from coremltools.models.ml_program.experimental.remote_device import Device as RemoteDevice

        phones = RemoteDevice.get_connected_devices(DeviceType.IPHONE)
        found = [phone for phone in phones if udid in (phone.udid, phone.identifier)]
        if not found:
            hint = closest(udid, [phone.udid for phone in phones]) if phones else "connect it by cable and unlock it"
            raise MvigNasError(f"`--device` must be a connected iPhone's UDID, got {udid!r}; {hint}.")
        if found[0].developer_mode_state != _ENABLED:
            raise MvigNasError(
                f"the iPhone must have developer mode on, got {found[0].developer_mode_state!r}; see Settings, Privacy "
                "& Security."
            )
        return self._run(found[0].prepare_for_model_debugging(AppSigningCredentials(development_team=team)))

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        with tools.quiet():  # progress bars for every transfer
            return self._runner.run(work)


class _CoreMlNetwork:
    def __init__(
        self, backend: CoreMl, wrapper: Any, inputs: dict[str, Any], shares: Mapping[str, float], notes: Notes
    ) -> None:
        self._backend = backend
        self._wrapper = wrapper
        self._inputs = inputs
        self.placement = shares
        self.notes = notes

    def run(self, iterations: int) -> list[float]:
        with _coremltools_errors("the device must stay connected, unlocked and free"):
            return self._backend._run(self._predict(iterations))

    def close(self) -> None:
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is None:
            return
        with suppress(Exception):  # the phone may be gone; whatever ended the session matters more
            self._backend._run(wrapper.unload())

    async def _predict(self, iterations: int) -> list[float]:
        samples_ms = []
        for _ in range(iterations):
            await self._wrapper.predict(dict(self._inputs))
            duration_ns = self._wrapper.last_predict_duration_in_nano_seconds
            if duration_ns is None:
                raise ValueError("coremltools tells no duration of a prediction")
            samples_ms.append(duration_ns / 1e6)
        return samples_ms


def package_target(path: Path) -> Target:
    """A package as a target: of an architecture, where its metadata says which; else of a fingerprint.

    Without metadata the fingerprint is the SHA-256 of its model and weights: the same for copies of one package.

    Raises:
        MvigNasError: there is no package, or it does not hold one readable ML program, or its metadata disagree, or it
            takes several images at once.
    """
    program = SavedProgram(path)
    if program.batch != 1:
        raise MvigNasError(
            f"a package to measure or evaluate must take one image, as latencies are of one, got {program.batch} at "
            f"once in {path}; export it without --batch."
        )
    metadata = program.metadata
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
    inputs = saved.features.input
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


def check_target(target: Target, is_remote: bool) -> PackageInput:
    """What a target's package takes.

    Raises:
        MvigNasError: the target is no package, or `is_remote` and it takes what cannot be sent to a phone.
    """
    if target.package is None:
        raise MvigNasError(
            f"coreml measures packages, got {target.shown}; write one first: mvig-nas export --input tensor."
        )
    given = package_input(target.package)
    if given.is_image and is_remote:
        raise MvigNasError(
            f"only tensors can be sent to a phone for measuring, but {target.package} takes an image; export it with "
            "--input tensor, or measure it in Xcode."
        )
    return given


def check_host(name: str, mac_version: str) -> None:
    """Refuse what is no Mac with compute plans, by the system's name and macOS's version."""
    if name == MACOS and _numbers(mac_version) >= _LEAST_MACOS:
        return
    found = f"macOS {mac_version}" if name == MACOS else name
    raise MvigNasError(
        f"`--backend coreml` needs a Mac with macOS {'.'.join(map(str, _LEAST_MACOS))} or later, coremltools 9 or "
        f"later and, for an iPhone, Xcode, got {found}; measure there, or this computer with --backend torch-cpu."
    )


def check_coremltools(version: str) -> None:
    """Refuse a version without remote devices."""
    if _numbers(version) < _LEAST_COREMLTOOLS:
        raise MvigNasError(f"measuring needs coremltools 9 or later, got {version}; run pip install -U coremltools.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _chip_of(name: str) -> str:
    from mvig_nas.latency import CHIPS

    return CHIPS.get(name, UNKNOWN)


@contextmanager
def _coremltools_errors(rule: str) -> Iterator[None]:
    """What coremltools raises (plain Exceptions too, and its commands' output) as one line."""
    try:
        yield
    except MvigNasError:
        raise
    except Exception as error:
        text = printable(f"{type(error).__name__}: {error}")
        raise MvigNasError(f"{rule}, got {text}; then run the same command again: measured rows are kept.") from error


def placement(plan: Any) -> dict[str, float]:
    """Shares of a model's estimated cost on `cpu`, `gpu` and `neural-engine`, largest first; they add up to 1.

    Empty where the plan says nothing: no ML program, no costs, or a compute unit that is unknown here.

    Args:
        plan: coremltools' `MLComputePlan`, of this computer or of a connected phone.
    """
    program = plan.model_structure.program
    if program is None or "main" not in program.functions:
        return {}
    costs: Counter[str] = Counter()
    for operation in program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        if usage is None or cost is None:
            continue  # constants run nowhere
        unit = _UNITS.get(type(usage.preferred_compute_device).__name__)
        if unit is None:
            return {}
        costs[unit] += cost.weight
    total = sum(costs.values())
    return {unit: round(cost / total, _DIGITS) for unit, cost in costs.most_common()} if total > 0 else {}
