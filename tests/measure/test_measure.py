"""Measuring: the loop on a backend whose times are written down, torch on this computer, what of Core ML runs here."""

import json
import os
import platform
import random
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvig_nas import coreml, device_log
from mvig_nas.cli import cli
from mvig_nas.device_log import Device, Package, TimmNetwork
from mvig_nas.errors import MvigNasError
from mvig_nas.measure import (
    Backend,
    CoreMl,
    MeasureProgress,
    MeasureSettings,
    Target,
    TorchCpu,
    measure,
    package_target,
    placement,
    timm_target,
)
from mvig_nas.measure.coreml_backend import check_coremltools, check_host, check_target, package_input
from mvig_nas.network import for_inference
from tests.measure_contract import BackendContract
from tests.strategies import SPACES

IS_MAC = platform.system() == "Darwin"
MICRO = SPACES["micro"]
TENSOR = coreml.ExportOptions(input_kind="tensor")
SCRIPTED = Device("scripted", "none", "none", "1", "torch-cpu")


def micro(number: int) -> list[Target]:
    """Different small architectures, the smallest first."""
    rng = random.Random(1)
    found = {MICRO.smallest: None}
    while len(found) < number:
        found[MICRO.sample(rng)] = None
    return [Target(architecture) for architecture in found]


@dataclass
class Scripted:
    """A device whose networks take 1, 2, 3, ... ms, times what `factor` says of the runs since the last long rest."""

    targets: Sequence[Target]
    factor: Callable[[int], float] = lambda _: 1.0
    die_at: int | None = None  # after so many runs
    death: Callable[[], None] = lambda: None
    visits: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    rests_s: list[float] = field(default_factory=list)
    runs: int = 0
    since_rest: int = 0
    name: str = "scripted"
    device: Device = SCRIPTED
    unit: str = ""
    tool_versions: Mapping[str, str] = field(default_factory=lambda: {"mvig-nas": "0"})

    def check(self, target: Target) -> None:
        if target.label not in {each.label for each in self.targets}:
            raise MvigNasError(f"scripted measures networks that it knows, got {target.label}.")

    def load(self, target: Target) -> "ScriptedNetwork":
        self.check(target)
        self.loads.append(target.label)
        return ScriptedNetwork(self, target.label)

    def rest(self, seconds: float) -> None:
        self.rests_s.append(seconds)
        if seconds >= 1:
            self.since_rest = 0

    def base_ms(self, label: str) -> float:
        return 1.0 + [target.label for target in self.targets].index(label)

    @property
    def pauses(self) -> int:
        return sum(seconds >= 1 for seconds in self.rests_s)


class ScriptedNetwork:
    placement: Mapping[str, float] = {"cpu": 1.0}
    notes: Mapping[str, str] = {"clock": "script"}

    def __init__(self, device: Scripted, label: str) -> None:
        self.device = device
        self.label = label
        device.open.add(label)

    def run(self, iterations: int) -> list[float]:
        self.device.visits.append(self.label)
        samples_ms = []
        for _ in range(iterations):
            if self.device.runs == self.device.die_at:
                self.device.death()
            self.device.runs += 1
            self.device.since_rest += 1
            samples_ms.append(self.device.base_ms(self.label) * self.device.factor(self.device.since_rest))
        return samples_ms

    def close(self) -> None:
        self.device.open.discard(self.label)


QUICK = MeasureSettings(rounds=4, iterations=5, cool_down_s=0.01, together=3, pause_s=5.0, repeats=2)


class TestScripted(BackendContract):
    @pytest.fixture
    def targets(self) -> list[Target]:
        return micro(3)

    @pytest.fixture
    def backend(self, targets: list[Target]) -> Backend:
        return Scripted(targets)

    @pytest.fixture
    def refused(self) -> Target:
        return Target(Package("0" * 16))


class TestTorchCpu(BackendContract):
    @pytest.fixture
    def targets(self) -> list[Target]:
        return micro(2)

    @pytest.fixture
    def backend(self) -> Backend:
        return TorchCpu()

    @pytest.fixture
    def refused(self) -> Target:
        return Target(Package("0" * 16), Path("x.mlpackage"))

    def test_a_timm_model_runs_at_its_own_resolution(self) -> None:
        target = timm_target("timm:test_resnet")
        assert target.network == TimmNetwork("test_resnet", 160)
        assert TorchCpu().load(target).run(1)[0] > 0

    def test_other_threads_are_another_device_and_are_given_back(self) -> None:
        assert TorchCpu(1).device.name == "host-1-thread"
        four = TorchCpu(4, "desk")
        assert four.device.name == "desk-4-threads"
        before = torch.get_num_threads()
        loaded = four.load(micro(1)[0])
        seen: list[int] = []
        loaded._network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))  # type: ignore[union-attr]
        loaded.run(1)
        assert seen == [4]
        assert torch.get_num_threads() == before

    def test_loading_leaves_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        TorchCpu().load(micro(1)[0])
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not IS_MAC, reason="Core ML runs on a Mac only; never run so far")
class TestCoreMl(BackendContract):
    @pytest.fixture(scope="class")
    def exported(self, tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
        folder = tmp_path_factory.mktemp("packages")
        targets = []
        for place, target in enumerate(micro(2)):
            network = coreml.untrained(target.network, 10)  # type: ignore[arg-type]
            path = coreml.export(network, folder / f"{place}.mlpackage", weights="untrained", options=TENSOR)
            targets.append(package_target(path))
        return targets

    @pytest.fixture
    def targets(self, exported: list[Target]) -> list[Target]:
        return exported

    @pytest.fixture
    def backend(self) -> Backend:
        return CoreMl()

    @pytest.fixture
    def refused(self) -> Target:
        return micro(1)[0]


# The loop


def test_a_steady_device_repeats_nothing(tmp_path: Path) -> None:
    targets = micro(5)
    device = Scripted(targets)
    session = measure(targets, device, tmp_path / "log.jsonl", QUICK, sleep=device.rest)
    assert device.pauses == 0
    for row in session.rows:
        assert set(row.samples_ms) == {device.base_ms(row.network_label)}
        assert dict(row.notes) == {
            "clock": "script", "reference": targets[0].label, "reference_ms": 1.0, "reference_drift": 0.0,
            "rounds_repeated": 0, "rounds_drifted": 0, "throttled": False,
        }  # fmt: skip
    assert not device.open


def test_rounds_visit_all_of_a_group_with_the_reference_between_them(tmp_path: Path) -> None:
    targets = micro(7)
    reference = targets[0].label
    device = Scripted(targets)
    session = measure(targets, device, tmp_path / "log.jsonl", QUICK, sleep=device.rest)
    measured = [row.network_label for row in session.rows]
    groups = [measured[begin : begin + 3] for begin in range(0, 7, 3)]
    visits = [label for label in device.visits if label != reference]
    for group in groups:
        others = [label for label in group if label != reference]
        begin = len(others)  # the visits that warm them up
        assert visits[:begin] == others
        for _ in range(QUICK.rounds):
            assert sorted(visits[begin : begin + len(others)]) == sorted(others)
            begin += len(others)
        visits = visits[begin:]
    assert not visits
    timed = device.visits[-QUICK.rounds * (2 * len(groups[-1]) + 1) :]
    assert all(reference in pair for pair in pairwise(timed))


def test_the_order_is_the_seeds(tmp_path: Path) -> None:
    def visits(seed: int, name: str) -> list[str]:
        targets = micro(6)
        device = Scripted(targets)
        settings = MeasureSettings(rounds=3, iterations=2, together=6, seed=seed)
        measure(targets, device, tmp_path / name, settings, sleep=device.rest)
        return device.visits

    assert visits(1, "a") == visits(1, "b") != visits(2, "c")


def test_a_network_named_twice_is_measured_once(tmp_path: Path) -> None:
    targets = micro(2)
    device = Scripted(targets)
    session = measure([*targets, targets[0]], device, tmp_path / "log.jsonl", QUICK, sleep=device.rest)
    assert len(session.rows) == 2


def test_throttling_that_a_pause_heals_leaves_no_trace_in_the_samples(tmp_path: Path) -> None:
    targets = micro(3)
    device = Scripted(targets, factor=lambda runs: 1.0 if runs < 150 else 1.5)
    session = measure(targets, device, tmp_path / "log.jsonl", QUICK, sleep=device.rest)
    assert device.pauses == 1
    for row in session.rows:
        assert set(row.samples_ms) == {device.base_ms(row.network_label)}
        assert len(row.samples_ms) == 20
        assert (row.notes["rounds_repeated"], row.notes["rounds_drifted"], row.notes["throttled"]) == (1, 0, False)


def test_throttling_that_stays_is_recorded_after_the_repeats(tmp_path: Path) -> None:
    targets = micro(6)
    device = Scripted(targets)
    device.factor = lambda _: 1.0 if device.runs < 150 else 1.5
    session = measure(targets, device, tmp_path / "log.jsonl", QUICK, sleep=device.rest)
    assert device.pauses == 2 * QUICK.repeats
    last = session.rows[-1]
    assert set(last.samples_ms) == {1.5 * device.base_ms(last.network_label)}
    assert last.notes["throttled"] is True
    assert last.notes["rounds_drifted"] == QUICK.rounds
    assert last.notes["rounds_repeated"] == QUICK.repeats
    assert last.notes["reference_drift"] == pytest.approx(0.5)


def test_a_device_that_becomes_faster_is_not_called_throttled(tmp_path: Path) -> None:
    targets = micro(3)
    device = Scripted(targets)
    device.factor = lambda _: 1.0 if len(device.loads) <= len(targets) else 0.5  # from the last one's warm-up on
    (row, *_) = measure(targets, device, tmp_path / "log.jsonl", QUICK, sleep=device.rest).rows
    assert row.notes["throttled"] is False
    assert row.notes["rounds_drifted"] == QUICK.rounds


def test_drift_below_the_threshold_is_accepted(tmp_path: Path) -> None:
    targets = micro(3)
    device = Scripted(targets)
    device.factor = lambda _: 1.0 if device.runs < 60 else 1.09
    rows = measure(targets, device, tmp_path / "log.jsonl", QUICK, sleep=device.rest).rows
    assert device.pauses == 0
    assert rows[0].notes["reference_drift"] == pytest.approx(0.09)


def test_a_restless_begin_is_waited_for(tmp_path: Path) -> None:
    targets = micro(2)
    device = Scripted(targets)
    device.factor = lambda _: 3.0 if device.runs < 14 else 1.0
    rows = measure(targets, device, tmp_path / "log.jsonl", QUICK, sleep=device.rest).rows
    assert device.pauses == 1
    assert rows[0].notes["reference_drift"] == 0.0


def test_ctrl_c_keeps_what_is_finished_and_the_next_call_goes_on(tmp_path: Path) -> None:
    targets = micro(7)
    path = tmp_path / "log.jsonl"
    device = Scripted(targets, die_at=300, death=_interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(targets, device, path, QUICK, sleep=device.rest)
    assert not device.open
    _goes_on(targets, path)


def test_a_kill_loses_the_group_in_flight_and_no_more(tmp_path: Path) -> None:
    targets = micro(7)
    path = tmp_path / "log.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside torch's threads, which the child never uses
        child = os.fork()
    if child == 0:
        device = Scripted(targets, die_at=300, death=lambda: os.kill(os.getpid(), signal.SIGKILL))
        measure(targets, device, path, QUICK, sleep=device.rest)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    _goes_on(targets, path)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _goes_on(targets: list[Target], path: Path) -> None:
    before = device_log.read(path)
    assert 3 <= len(before.rows) < 7
    assert len(before.rows) % QUICK.together == 0
    device = Scripted(targets)
    states: list[MeasureProgress] = []
    session = measure(targets, device, path, QUICK, sleep=device.rest, on_progress=states.append)
    assert {target.label for target in session.skipped} == set(before.networks)
    assert set(device.loads) - {targets[0].label} == {row.network_label for row in session.rows} - {targets[0].label}
    log = device_log.read(path)
    assert len(log.rows) == len(log.networks) == 7
    assert states[-1].done == states[-1].total == QUICK.rounds * len(session.rows)


def test_a_network_that_fails_closes_the_others(tmp_path: Path) -> None:
    targets = micro(3)

    def fail() -> None:
        raise MvigNasError("the device went away.")

    device = Scripted(targets, die_at=100, death=fail)
    with pytest.raises(MvigNasError, match="went away"):
        measure(targets, device, tmp_path / "log.jsonl", QUICK, sleep=device.rest)
    assert not device.open


def test_a_log_of_another_device_is_refused(tmp_path: Path) -> None:
    targets = micro(2)
    path = tmp_path / "log.jsonl"
    measure(targets[:1], Scripted(targets), path, QUICK, sleep=lambda _: None)
    other = Scripted(targets, device=replace(SCRIPTED, os_version="2"))
    with pytest.raises(MvigNasError, match=r"has os_version '1' and '2' is to be measured; take another --log"):
        measure(targets, other, path, QUICK)
    assert not other.loads


def test_a_second_session_on_one_log_is_refused(tmp_path: Path) -> None:
    targets, path = micro(2), tmp_path / "log.jsonl"

    def second(_: object) -> None:
        with pytest.raises(MvigNasError, match=f"only one process may measure into .*, but process {os.getpid()} is"):
            measure(targets, Scripted(targets), path, QUICK)

    session = measure(targets, Scripted(targets), path, QUICK, on_progress=second, sleep=lambda _: None)
    assert len(session.rows) == len(path.read_text().splitlines()) == 2


def test_no_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="must be a network to measure, got none"):
        measure([], Scripted([]), tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rounds": 0}, "`rounds` must be a whole number of at least 1, got 0"),
        ({"iterations": 1.5}, "`iterations` must be a whole number, got 1.5"),
        ({"repeats": -1}, "`repeats` must be a whole number of at least 0, got -1"),
        ({"cool_down_s": -1.0}, "`cool_down_s` must be a number of at least 0, got -1.0"),
        ({"pause_s": float("nan")}, "`pause_s` must be .*, got nan"),
        ({"drift": 0.0}, "`drift` must be a number above 0, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        MeasureSettings(**values)


# The form that is measured


class Awkward(nn.Module):
    """A convolution with two readers, which cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x


def shaken(module: nn.Module) -> nn.Module:
    """With batch norms that do something."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    return module.eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_batch_norms_of_timm_models_are_folded(name: str) -> None:
    import timm

    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = shaken(timm.create_model(name))
    with torch.no_grad():
        expected = network(image)
        found = for_inference(network, image)
        torch.testing.assert_close(found(image), expected, rtol=1e-4, atol=1e-5)
    assert any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in found.modules())


def test_what_cannot_be_folded_stays_as_it_was() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = shaken(Awkward())
    found = for_inference(network, image)
    with torch.no_grad():
        assert torch.equal(found(image), network(image))


# Command line


def command(*arguments: object) -> None:
    cli.main([str(argument) for argument in ("measure", *arguments)], standalone_mode=False)


SHORT = ("--rounds", 1, "--iterations", 2, "--cool-down", "1us", "--pause", "1us")


def test_the_command_measures_files_and_skips_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = micro(3)
    many, one = tmp_path / "archs.jsonl", tmp_path / "one.json"
    many.write_text("".join(target.network.to_json() + "\n" for target in targets[:2]))  # type: ignore[union-attr]
    one.write_text(targets[2].network.to_json())  # type: ignore[union-attr]
    log = tmp_path / "device.jsonl"
    command(many, "--backend", "torch-cpu", "--log", log, "--name", "desk", *SHORT, "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["device"] == "desk-1-thread"
    assert {row["network"] for row in values["measured"]} == {target.label for target in targets[:2]}
    assert all(row["placement"] == {"cpu": 1.0} for row in values["measured"])
    command(many, one, "timm:test_vit", "--backend", "torch-cpu", "--log", log, "--name", "desk", *SHORT)
    printed = capsys.readouterr().out
    assert "2 networks measured, 2 were in" in printed
    assert "timm:test_vit@160" in printed
    assert len(device_log.read(log).rows) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("timm:resnet1", "--backend", "torch-cpu"), r"must be a timm model, got 'resnet1'; did you mean 'resnet1"),
        (("no.jsonl", "--backend", "torch-cpu"), "file of architectures must be readable text"),
        (("no.mlpackage", "--backend", "torch-cpu"), "no Core ML package at no.mlpackage"),
        (("mobilevig_xx", "--backend", "torch-cpu"), "no preset and no file is called 'mobilevig_xx'"),
    ],
)
def test_the_command_refuses_unknown_targets(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match=message):
        command(*arguments, "--log", tmp_path / "log.jsonl")


def test_a_wrong_line_of_architectures_is_named(tmp_path: Path) -> None:
    many = tmp_path / "archs.jsonl"
    many.write_text(MICRO.smallest.to_json() + "\n\n{}\n")
    with pytest.raises(MvigNasError, match=r"archs.jsonl, line 3: "):
        command(many, "--backend", "torch-cpu", "--log", tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "torch-cpu", "--device", "X"), "--device is of --backend coreml"),
        (("--backend", "torch-cpu", "--compute-units", "all"), "--compute-units is of --backend coreml"),
        (("--backend", "coreml", "--device", "X", "--device", "X"), "--device must be another iPhone, got one twice"),
        (("--backend", "coreml", "--threads", 2), "--threads is of --backend torch-cpu"),
    ],
)
def test_options_of_the_other_backend_are_usage_errors(
    arguments: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    import click

    with pytest.raises(click.UsageError, match=message):
        command("mobilevig_ti", *arguments, "--log", tmp_path / "log.jsonl")


@pytest.mark.skipif(IS_MAC, reason="says what is needed where there is no Mac")
def test_core_ml_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(
        MvigNasError, match=r"needs a Mac with macOS 14.4 or later, .* got \w+; measure there"
    ) as caught:
        command("mobilevig_ti", "--backend", "coreml", "--log", tmp_path / "log.jsonl")
    assert "\n" not in str(caught.value)


# Core ML, as far as it goes without a Mac


def test_old_systems_are_refused() -> None:
    check_host("Darwin", "14.4")
    check_host("Darwin", "26.0.1")
    with pytest.raises(MvigNasError, match=r"got macOS 14.3.1;"):
        check_host("Darwin", "14.3.1")
    check_coremltools("9.0")
    with pytest.raises(MvigNasError, match=r"needs? coremltools 9 or later, got 8.3.0"):
        check_coremltools("8.3.0")


def test_unknown_compute_units_and_threads_are_refused() -> None:
    with pytest.raises(MvigNasError, match=r"`compute_units` must be Core ML's, got 'cpu-and-npu'; did you mean"):
        CoreMl("cpu-and-npu")
    with pytest.raises(MvigNasError, match="`threads` must be at least 1, got 0"):
        TorchCpu(0)


def test_compute_units_are_members_of_coremltools() -> None:
    import coremltools

    from mvig_nas.measure import COREML_UNITS

    assert {unit.name for unit in coremltools.ComputeUnit} == set(COREML_UNITS.values())
    assert set(COREML_UNITS) <= set(device_log.COMPUTE_UNITS)


class WrittenPlan:
    """A compute plan of coremltools' own values; its class can be made on a Mac only."""

    def __init__(self, work: Sequence[tuple[str | None, float | None]]) -> None:
        from coremltools.models import compute_device, compute_plan

        operations = [
            compute_plan.MLModelStructureProgramOperation({}, "conv", [], [], str(place)) for place in range(len(work))
        ]
        block = compute_plan.MLModelStructureProgramBlock([], operations, [])
        function = compute_plan.MLModelStructureProgramFunction([], block)
        program = compute_plan.MLModelStructureProgram({"main": function})
        self.model_structure = compute_plan.MLModelStructure(None, program, None)
        self._work = work
        self._devices = compute_device
        self._plan = compute_plan

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
        name = self._work[int(operation.__proxy__)][0]
        if name is None:
            return None
        kind = getattr(self._devices, name)
        unit = object.__new__(kind)
        return self._plan.MLComputePlanDeviceUsage(unit, [unit])

    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:
        weight = self._work[int(operation.__proxy__)][1]
        return None if weight is None else self._plan.MLComputePlanCost(weight)


def test_a_compute_plan_becomes_shares_of_its_cost() -> None:
    engine, cpu, gpu = "MLNeuralEngineComputeDevice", "MLCPUComputeDevice", "MLGPUComputeDevice"
    work = [(None, None), (engine, 0.5), (cpu, 0.1), (engine, 0.1), (None, 0.2), (cpu, None), (gpu, 0.1)]
    shares = placement(WrittenPlan(work))
    assert list(shares) == ["neural-engine", "cpu", "gpu"]
    assert shares == pytest.approx({"neural-engine": 0.75, "cpu": 0.125, "gpu": 0.125})
    assert placement(WrittenPlan([(cpu, 0.0)])) == {}
    assert placement(WrittenPlan([])) == {}
    assert placement(WrittenPlan([(cpu, 0.5), ("MLComputeDevice", 0.5)])) == {}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "micro.mlpackage"
    network = coreml.untrained(MICRO.smallest, 10)
    return coreml.export(network, path, weights="untrained, seed 0", options=TENSOR)


@pytest.fixture
def changed(package: Path, tmp_path: Path) -> Iterator[Callable[[Callable[[Any], object]], Path]]:
    """Makes a copy of the package with another specification."""
    import coremltools

    def change(edit: Callable[[Any], object]) -> Path:
        spec = coremltools.utils.load_spec(str(package))
        edit(spec)
        path = tmp_path / "changed.mlpackage"
        weights = package / "Data" / "com.apple.CoreML" / "weights"
        coremltools.utils.save_spec(spec, str(path), weights_dir=str(weights))
        return path

    return change


Changed = Callable[[Callable[[Any], object]], Path]


def test_a_package_is_its_architecture(package: Path) -> None:
    target = package_target(package)
    assert target == Target(MICRO.smallest, package)
    assert target.label == MICRO.smallest.fingerprint
    assert target.shown == "micro.mlpackage"


def test_a_package_without_metadata_is_its_sha256(changed: Changed, tmp_path: Path) -> None:
    import shutil

    def forget(spec: Any) -> None:
        spec.description.metadata.userDefined.clear()

    found = package_target(changed(forget))
    assert isinstance(found.network, Package)
    assert len(found.label) == 64
    copy = shutil.copytree(tmp_path / "changed.mlpackage", tmp_path / "copy.mlpackage")
    (copy / "Manifest.json").write_text((copy / "Manifest.json").read_text() + "\n")
    assert package_target(copy).label == found.label
    weights = copy / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert package_target(copy).label != found.label


def test_a_package_whose_metadata_disagree_is_refused(changed: Changed) -> None:
    def forge(spec: Any) -> None:
        spec.description.metadata.userDefined["mvig_nas.fingerprint"] = "0" * 16

    with pytest.raises(MvigNasError, match=r"fingerprint must be its architecture's, \w+, got 0{16}; export it again"):
        package_target(changed(forge))


def test_a_package_of_a_newer_architecture_is_refused(changed: Changed) -> None:
    def age(spec: Any) -> None:
        metadata = spec.description.metadata.userDefined
        metadata["mvig_nas.architecture"] = metadata["mvig_nas.architecture"].replace('"schema": 1', '"schema": 99')

    with pytest.raises(MvigNasError, match=r"changed.mlpackage: .*schema.*99"):
        package_target(changed(age))


def test_inputs_for_tensors_and_images(package: Path, changed: Changed) -> None:
    side = MICRO.smallest.resolution
    given = package_input(package)
    assert given.value().shape == (1, 3, side, side)
    assert given.value().dtype == np.float16
    assert np.array_equal(given.value(), given.value())
    assert np.isfinite(given.value()).all()
    check_target(package_target(package), is_remote=True)

    def take_image(spec: Any) -> None:
        image = spec.description.input[0].type.imageType
        image.width, image.height = side, side
        image.colorSpace = type(image).ColorSpace.RGB

    path = changed(take_image)
    picture = package_input(path).value()
    assert (picture.size, picture.mode) == ((side, side), "RGB")
    check_target(Target(MICRO.smallest, path), is_remote=False)
    with pytest.raises(MvigNasError, match=r"only tensors can be sent to a phone .* --input tensor"):
        check_target(Target(MICRO.smallest, path), is_remote=True)


def test_other_inputs_and_targets_are_refused(changed: Changed) -> None:
    def take_text(spec: Any) -> None:
        spec.description.input[0].type.stringType.SetInParent()

    with pytest.raises(MvigNasError, match=r"must take one RGB image or one tensor of floats, got .* \(string"):
        package_input(changed(take_text))
    with pytest.raises(MvigNasError, match=r"coreml measures packages, got \w+; write one first"):
        check_target(Target(MICRO.smallest), is_remote=False)
