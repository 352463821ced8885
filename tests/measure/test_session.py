"""Measuring on several devices at once: one queue, one log."""

import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvig_nas import device_log
from mvig_nas.cli.measure import _print
from mvig_nas.coreml import tools
from mvig_nas.errors import MvigNasError
from mvig_nas.measure import (
    Backend,
    Loaded,
    MeasureProgress,
    MeasureSettings,
    Target,
    TorchCpu,
    measure,
)
from tests.measure.test_measure import SCRIPTED, Scripted, micro


class Phone:
    """One of several: a backend under a name, in which `before` runs before each visit, with the visit's number.

    Those that `meet` have a group each before any goes on.
    """

    def __init__(
        self,
        inner: Backend,
        unit: str = "",
        before: Callable[[int], object] = lambda _: None,
        meet: threading.Barrier | None = None,
    ) -> None:
        self.inner = inner
        self.unit = unit
        self.before = before
        self.meet = meet
        self.name, self.device, self.tool_versions = inner.name, inner.device, inner.tool_versions
        self.loads: list[str] = []
        self.closed = 0
        self.visits = 0

    def check(self, target: Target) -> None:
        self.inner.check(target)

    def load(self, target: Target) -> "PhoneNetwork":
        self.loads.append(target.label)
        if self.meet is not None and len(self.loads) == 2:
            self.meet.wait(30)
        return PhoneNetwork(self, self.inner.load(target))


class PhoneNetwork:
    def __init__(self, phone: Phone, inner: Loaded) -> None:
        self.phone = phone
        self.inner = inner
        self.placement, self.notes = inner.placement, inner.notes

    def run(self, iterations: int) -> list[float]:
        self.phone.visits += 1
        self.phone.before(self.phone.visits)
        return self.inner.run(iterations)

    def close(self) -> None:
        self.phone.closed += 1
        self.inner.close()


PAIR = MeasureSettings(rounds=3, iterations=4, cool_down_s=0.0, together=2, pause_s=0.0)


def pull() -> object:
    raise OSError("the cable\nwas pulled")


def rows_in(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > end_s:
            raise TimeoutError
        time.sleep(0.001)


def check_measured_once(targets: Sequence[Target], path: Path) -> None:
    labels = [row.network_label for row in device_log.read(path).rows]
    assert sorted(labels) == sorted(target.label for target in targets)


def test_two_workers_on_this_cpu_share_the_work(tmp_path: Path) -> None:
    targets = micro(8)
    path = tmp_path / "log.jsonl"
    meeting = threading.Barrier(2)
    phones = [Phone(TorchCpu(), unit, meet=meeting) for unit in ("00aa", "00bb")]
    states: list[MeasureProgress] = []
    before = torch.get_rng_state()
    session = measure(targets, phones, path, PAIR, on_progress=states.append)
    assert torch.equal(torch.get_rng_state(), before)
    check_measured_once(targets, path)
    assert set(session.rows) == set(device_log.read(path).rows)
    by_unit = {unit: [row for row in session.rows if row.notes["unit"] == unit] for unit in ("00aa", "00bb")}
    for phone, unit in zip(phones, session.units, strict=True):
        assert (unit.name, unit.failure) == (phone.unit, None)
        assert unit.measured == len(by_unit[phone.unit]) >= PAIR.together
        assert phone.loads[0] == targets[0].label  # watches every device
        assert len(phone.loads) == phone.closed == 1 + unit.measured
        assert unit.reference_ms is not None
        assert unit.reference_ms > 0
    for row in session.rows:
        assert len(row.samples_ms) == PAIR.rounds * PAIR.iterations
        assert row.notes["clock"] == "thread"
    assert states[-1].done == states[-1].total == PAIR.rounds * len(targets)
    assert {state.now[:6] for state in states} == {"00aa: ", "00bb: "}
    again = measure(targets, phones, path, PAIR)
    assert (again.rows, len(again.skipped), again.units) == ((), 8, ())


def test_each_device_has_its_own_reference_and_unequal_ones_are_told(tmp_path: Path) -> None:
    targets = micro(8)
    meeting = threading.Barrier(2)
    factors = {"1": 1.0, "2": 1.3}
    phones = [Phone(Scripted(targets, factor=lambda _, it=each: it), meet=meeting) for each in factors.values()]  # type: ignore[misc]
    session = measure(targets, phones, tmp_path / "log.jsonl", PAIR)
    assert {unit.name: unit.reference_ms for unit in session.units} == factors
    assert session.reference_ratio == pytest.approx(1.3)
    for row in session.rows:
        assert row.notes["reference_ms"] == factors[str(row.notes["unit"])]
        assert (row.notes["reference_drift"], row.notes["throttled"]) == (0.0, False)
    (warning,) = session.warnings
    assert "1.30 times as long on the slowest device" in warning
    alike = measure(targets, phones, tmp_path / "other.jsonl", replace(PAIR, drift=0.31))
    assert alike.warnings == ()


def test_few_networks_are_shared_out_too(tmp_path: Path) -> None:
    targets = micro(4)
    meeting = threading.Barrier(2)
    phones = [Phone(Scripted(targets), meet=meeting) for _ in range(2)]
    session = measure(targets, phones, tmp_path / "log.jsonl", replace(PAIR, together=8))
    assert [unit.measured for unit in session.units] == [2, 2]


def test_units_of_one_name_are_numbered(tmp_path: Path) -> None:
    targets = micro(2)
    phones = [Phone(Scripted(targets), unit) for unit in ("00aa", "", "00aa")]
    session = measure(targets, phones, tmp_path / "log.jsonl", PAIR)
    assert [unit.name for unit in session.units] == ["00aa-1", "2", "00aa-3"]


def test_a_device_that_fails_leaves_its_networks_to_the_others(tmp_path: Path) -> None:
    targets = micro(7)
    path = tmp_path / "log.jsonl"
    meeting = threading.Barrier(2)
    good = Phone(Scripted(targets), "good", meet=meeting)
    bad = Phone(Scripted(targets), "bad", lambda visit: visit < 20 or pull(), meet=meeting)
    states: list[MeasureProgress] = []
    session = measure(targets, [bad, good], path, PAIR, on_progress=states.append)
    check_measured_once(targets, path)
    assert [unit.failure for unit in session.units] == ["OSError: the cable was pulled", None]
    assert [unit.measured for unit in session.units] == [0, 7]
    assert {row.notes["unit"] for row in session.rows} == {"good"}
    assert bad.closed == len(bad.loads) == 3
    assert "bad: failed: OSError: the cable was pulled" in {state.now for state in states}
    assert states[-1].done == states[-1].total


def test_a_device_without_work_waits_for_what_another_may_give_back(tmp_path: Path) -> None:
    targets = micro(4)
    path = tmp_path / "log.jsonl"

    def late(visit: int) -> None:
        if visit == 20:
            wait_for(lambda: rows_in(path) == 2)
            pull()

    meeting = threading.Barrier(2)
    phones = [Phone(Scripted(targets), meet=meeting), Phone(Scripted(targets), before=late, meet=meeting)]
    session = measure(targets, phones, path, PAIR)
    check_measured_once(targets, path)
    assert [unit.measured for unit in session.units] == [4, 0]


def test_when_all_fail_the_log_keeps_what_was_measured_and_the_next_session_goes_on(tmp_path: Path) -> None:
    targets = micro(7)
    path = tmp_path / "log.jsonl"
    first = Phone(Scripted(targets), before=lambda _: rows_in(path) < 4 or pull())
    second = Phone(Scripted(targets), before=lambda _: pull())
    message = (
        r"must be left to measure on, but all 2 failed \(1: OSError: the cable was pulled; 2: OSError: .*run the same"
    )
    with pytest.raises(MvigNasError, match=message):
        measure(targets, [first, second], path, PAIR)
    assert rows_in(path) == 4
    phones = [Phone(Scripted(targets)) for _ in range(2)]
    session = measure(targets, phones, path, PAIR)
    assert (len(session.rows), len(session.skipped)) == (3, 4)
    check_measured_once(targets, path)


def test_an_error_that_is_no_devices_ends_the_session(tmp_path: Path) -> None:
    targets = micro(6)

    def fail(state: MeasureProgress) -> None:
        if "round 2" in state.now:
            raise RuntimeError("no terminal")

    phones = [Phone(Scripted(targets)) for _ in range(2)]
    with pytest.raises(RuntimeError, match="no terminal"):
        measure(targets, phones, tmp_path / "log.jsonl", PAIR, on_progress=fail)
    assert all(phone.closed == len(phone.loads) for phone in phones)


def test_ctrl_c_stops_all_devices_before_their_next_visit(tmp_path: Path) -> None:
    targets = micro(20)
    path = tmp_path / "log.jsonl"
    is_over = threading.Event()

    def interrupt(_: int) -> None:
        if rows_in(path) >= 4 and not is_over.is_set():
            is_over.set()
            os.kill(os.getpid(), signal.SIGINT)
        if is_over.is_set():
            time.sleep(0.05)  # a visit, in which the main thread comes to know

    meeting = threading.Barrier(2)
    phones = [Phone(Scripted(targets), before=interrupt, meet=meeting) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        measure(targets, phones, path, PAIR)
    assert all(phone.closed == len(phone.loads) for phone in phones)
    kept = rows_in(path)
    assert 4 <= kept < len(targets)
    assert kept % PAIR.together == 0
    session = measure(targets, [Phone(Scripted(targets)) for _ in range(2)], path, PAIR)
    assert len(session.skipped) == kept
    check_measured_once(targets, path)


def test_ctrl_c_ends_rests(tmp_path: Path) -> None:
    targets = micro(4)
    resting = Phone(Scripted(targets))
    interrupting = Phone(Scripted(targets), before=lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        # hours follow each device's first visit
        measure(targets, [resting, interrupting], tmp_path / "log.jsonl", replace(PAIR, cool_down_s=5e4))
    assert resting.visits <= 1
    assert interrupting.visits == 1


@pytest.mark.parametrize(("entry", "shown"), [("name", "device"), ("os_version", "os_version"), ("chip", "chip")])
def test_different_devices_are_refused(entry: str, shown: str, tmp_path: Path) -> None:
    targets = micro(2)
    other = replace(SCRIPTED, **{entry: "other"})
    phones = [Phone(Scripted(targets)), Phone(Scripted(targets, device=other))]
    with pytest.raises(MvigNasError, match=rf"but number 2 has {shown} 'other' and number 1 '\w+'; measure them one"):
        measure(targets, phones, tmp_path / "log.jsonl", PAIR)
    assert not phones[0].loads


def test_no_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="must be a device to measure on, got none"):
        measure(micro(1), [], tmp_path / "log.jsonl")


def test_two_threads_are_quiet_and_stderr_comes_back() -> None:
    before = (sys.stderr, logging.getLogger("coremltools").level, list(warnings.filters))
    first, second = tools.quiet(), tools.quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.stderr is not before[0]
    second.__exit__(None, None, None)
    assert (sys.stderr, logging.getLogger("coremltools").level, list(warnings.filters)) == before


def test_the_summary_tells_of_several_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = micro(3)
    path = tmp_path / "log.jsonl"
    phones = [
        Phone(Scripted(targets), "00aa"),
        Phone(Scripted(targets), "00bb", lambda visit: visit < 7 or pull()),
        Phone(Scripted(targets), "00cc", lambda _: pull()),
    ]
    session = measure(targets, phones, path, PAIR)
    _print(session, SCRIPTED, path, as_json=False)
    printed = capsys.readouterr().out
    assert "Reference on each device: 00aa 1.000 ms, 00bb 1.000 ms, 00cc none; slowest to fastest 1.00." in printed
    assert "warning: 00cc failed, and the others measured its networks: OSError: the cable was pulled" in printed
    _print(session, SCRIPTED, path, as_json=True)
    values = json.loads(capsys.readouterr().out)
    assert values["units"][0] == {"name": "00aa", "measured": 3, "reference_ms": 1.0, "failure": None}
    assert {row["notes"]["unit"] for row in values["measured"]} == {"00aa"}
