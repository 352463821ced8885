"""Device logs: what a reader makes of good and bad files, appending under fire, the laws of merging, the commands."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvig_nas import cli
from mvig_nas.architecture import preset
from mvig_nas.device_log import (
    COMPUTE_UNITS,
    Device,
    DeviceLog,
    Measurement,
    Package,
    TimmNetwork,
    append,
    inspect,
    merge,
    read,
    read_csv,
    summarise,
    write,
)
from mvig_nas.device_log.measurement import ENTRIES
from mvig_nas.errors import MvigNasError
from tests.strategies import REPOSITORY, SPACES, architectures

PHONE = Device("iphone-13-mini", "A15", "iOS", "18.1", "cpu-and-ne")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SAMPLES_MS = (0.81, 0.79, 0.80, 0.83, 1.42)
PAGE = (REPOSITORY / "docs" / "device_log.md").read_text()


def measured(number: int = 0, **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "network": TimmNetwork("resnet18", 160 + number),
        "device": PHONE,
        "samples_ms": SAMPLES_MS,
        "tool_versions": {"coremltools": "9.0"},
        "time": NOON + timedelta(minutes=number),
    }
    return Measurement.of_samples(**{**values, **changes})


def row(**changes: Any) -> dict[str, Any]:
    """A good row of a file, changed; None takes an entry away."""
    values = {**measured().to_dict(), **changes}
    return {name: value for name, value in values.items() if value is not None}


def write_rows(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in rows))
    return path


def names() -> st.SearchStrategy[str]:
    return st.text(st.characters(categories=("L", "N", "P"), exclude_characters="@"), min_size=1, max_size=8)


def devices() -> st.SearchStrategy[Device]:
    return st.builds(Device, names(), names(), names(), names(), st.sampled_from(COMPUTE_UNITS))


def measurements(device: Device | None = None) -> st.SearchStrategy[Measurement]:
    """Measurements of one device, or of any; latencies of one network are never far apart."""
    return st.builds(
        Measurement.of_samples,
        network=architectures(SPACES["toy"])
        | st.builds(TimmNetwork, st.sampled_from(("resnet18", "vit_tiny.a_b")), st.sampled_from((224, 256)))
        | st.builds(Package, st.sampled_from(("0" * 16, "a1" * 32))),
        device=devices() if device is None else st.just(device),
        samples_ms=st.lists(st.floats(0.5, 100.0), min_size=1, max_size=6),
        statistic=st.sampled_from(("median", "trimmed_median")),
        tool_versions=st.dictionaries(names(), names(), min_size=1, max_size=2),
        time=st.datetimes(
            datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.sampled_from((UTC, timezone(timedelta(hours=9))))
        ),
        placement=st.sampled_from(({}, {"cpu": 1.0})),
        notes=st.dictionaries(names(), names() | st.booleans() | st.integers(-9, 9) | st.floats(-1e3, 1e3), max_size=2),
    )


def logs(device: Device | None = PHONE) -> st.SearchStrategy[DeviceLog]:
    return st.lists(measurements(device), max_size=4).map(lambda rows: DeviceLog(tuple(rows)))


# --- values ---


def test_the_page_shows_a_row_that_reads_and_a_program_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```json\n(.*?)\n```", PAGE, flags=re.DOTALL)
    shown = Measurement.from_dict(json.loads(example))
    assert shown.network == TimmNetwork("resnet18", 224)
    assert shown.network_label == "timm:resnet18@224"
    assert shown.samples_ms == SAMPLES_MS
    assert shown.group == "iOS 18.1 cpu-and-ne@iphone-13-mini"
    assert set(ENTRIES) == set(re.findall(r"`(\w+)`", _column(PAGE, 1)))
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(program, "device_log.md", "exec"), {})
    assert capsys.readouterr().out == "True\n"


def _column(page: str, column: int) -> str:
    table = page.partition("## Entries")[2].partition("##")[0]
    return " ".join(line.split("|")[column] for line in table.splitlines() if line.startswith("| `"))


def test_a_trimmed_median_leaves_the_slowest_fifth_out() -> None:
    samples_ms = [5.0, 1.0, 2.0, 4.0, 3.0, 100.0, 6.0, 7.0, 90.0, 8.0]
    trimmed, plain = summarise(samples_ms), summarise(samples_ms, "median")
    assert (trimmed.latency_ms, trimmed.spread_ms) == (4.5, 3.5)  # of 1 to 8
    assert (plain.latency_ms, plain.spread_ms) == (5.5, 4.5)
    assert summarise([2.0, 9.0, 1.0, 3.0]).latency_ms == 2.5  # a fifth of four is none
    with pytest.raises(MvigNasError, match="must hold a sample for a median, got none; measure"):
        summarise([], "median")
    with pytest.raises(MvigNasError, match="got 'mean'"):
        summarise([1.0], "mean")


def test_a_measurement_keeps_its_time_in_utc_and_its_numbers_as_floats() -> None:
    here = measured(time=datetime(2026, 1, 31, 21, tzinfo=timezone(timedelta(hours=9))))
    assert here == measured()
    assert here.content == measured().content
    assert hash(here) == hash(measured())
    assert measured(samples_ms=np.array([1, 2, 3])).content == measured(samples_ms=[1.0, 2.0, 3.0]).content
    with pytest.raises(MvigNasError, match="`time` must have a zone, got '2026-01-31 12:00:00'"):
        measured(time=datetime(2026, 1, 31, 12))
    with pytest.raises(MvigNasError, match="`time` must lie in the years 1 to 9999 in UTC"):
        measured(time=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=9))))
    with pytest.raises(MvigNasError, match="`samples_ms` must be a list of milliseconds, got str"):
        measured(samples_ms="1 2 3")


def test_an_architecture_and_its_package_have_one_label() -> None:
    ti = preset("mobilevig_ti")
    assert measured(network=ti).network_label == measured(network=Package(ti.fingerprint)).network_label
    assert Measurement.from_dict(json.loads(measured(network=ti).content)).network == ti


@settings(max_examples=50)
@given(measurements())
def test_a_row_reads_as_it_was_written(measurement: Measurement) -> None:
    again = Measurement.from_dict(json.loads(measurement.content))
    assert again == measurement
    assert again.content == measurement.content


# --- reading ---

BAD_ROWS: list[tuple[dict[str, Any] | str, str]] = [
    (row(schema=2), "`schema` must be at most 1, got 2, of a newer mvig-nas; upgrade"),
    (row(schema=2, invented=1), "of a newer mvig-nas"),
    (row(schema="1"), "`schema` must be a whole number from 1 to 1, got '1'"),
    (row(schema=0), "`schema` must be a whole number from 1 to 1, got 0"),
    (row(schema=None), "but lacks schema; add it"),
    (row(chip=None, os=None), "but lacks chip, os; add it"),
    (row(latencyms=0.8), "a row has no entry 'latencyms'; did you mean 'latency_ms'"),
    (row(samples=[0.8]), "a row has no entry 'samples'; did you mean 'samples_ms'"),
    (row(unit="ms"), "must all be in milliseconds, in entries that end in _ms, got an entry 'unit'"),
    (row(samples_us=[800]), "got an entry 'samples_us'; convert them"),
    (row(latency_seconds=0.8), "got an entry 'latency_seconds'"),
    (json.dumps(row()).replace("1.42", "NaN"), "numbers must be finite, got NaN"),
    (json.dumps(row()).replace("1.42", "-Infinity"), "numbers must be finite, got -Infinity"),
    (json.dumps(row()).replace("1.42", "1e999"), r"`samples_ms\[4\]` must be a number of milliseconds .*, got inf"),
    (row(samples_ms=[0.8, 0]), r"`samples_ms\[1\]` must be a number of milliseconds from 0.001 to 10000, got 0"),
    (row(samples_ms=[-0.8]), r"`samples_ms\[0\]` .* got -0.8; correct its unit, or measure again"),
    (row(latency_ms=-1), "`latency_ms` must be a number of milliseconds from 0.001 to 10000, got -1"),
    (row(latency_ms=0.0009), "got 0.0009"),
    (row(latency_ms=10_000.1), "got 10000.1"),
    (row(latency_ms="0.8 ms"), "`latency_ms` must be a number of milliseconds .* got '0.8 ms'"),
    (row(latency_ms=True), "`latency_ms` must be .* got True"),
    (row(samples_ms=0.8), "`samples_ms` must be a list of milliseconds, got float"),
    (row(spread_ms=-0.1), "`spread_ms` must be a number of milliseconds from 0 to 10000, got -0.1"),
    (row(latency_ms=0.9), "`latency_ms` must be its samples' trimmed_median, 0.805, got 0.9"),
    (row(spread_ms=0.5), "`spread_ms` must be its samples' interquartile range, 0.0175 for a trimmed_median, got 0.5"),
    (row(spread_ms=None), "`spread_ms` must be its samples' interquartile range, .* got None"),
    (row(latency_ms=805), "must both be in milliseconds, got 805 beside samples around 0.805; convert"),
    (row(samples_ms=[805, 806]), "must both be in milliseconds, got 0.805 beside samples around 805.5"),
    (row(statistic="mean"), "`statistic` must be one of .*, got 'mean'; did you mean 'median'"),
    (row(statistic=3), "`statistic` must be one of .*, got 3"),
    (row(statistic="reported"), "a 'reported' latency must come without samples, got 5"),
    (row(samples_ms=None), "`samples_ms` must hold a sample for a trimmed_median, got none; a figure from elsewhere"),
    (row(compute_units="cpu-and-me"), "`compute_units` must be one of .*, got 'cpu-and-me'; did you mean 'cpu-and-ne'"),
    (row(device="me@iphone"), "`device` must not hold an '@', got 'me@iphone'"),
    (row(device=""), "`device` must be 1 to 200 printable characters, got ''"),
    (row(chip="A\n15"), r"`chip` must be 1 to 200 printable characters, got 'A\\n15'"),
    (row(os=" iOS"), "`os` must not begin or end with a space, got ' iOS'"),
    (row(os_version=18.1), "`os_version` must be 1 to 200 printable characters, got 18.1"),
    (row(time="2026-01-31T12:00:00"), "`time` must have a zone"),
    (row(time="yesterday"), "`time` must be ISO 8601 with a zone, got 'yesterday'"),
    (row(time=1769860800), "`time` must be 1 to 200 printable characters, got 1769860800"),
    (row(network="resnet18"), "`network` must be timm:NAME, got 'resnet18'; write for example timm:resnet18"),
    (row(network="timm:a b"), "`network` must be timm:NAME with a timm model's name, got 'a b'"),
    (row(resolution=0), "`resolution` must be a whole number of pixels from 1, got 0"),
    (row(network=None, resolution=None), "a row must name its network by .* got none of them"),
    (row(fingerprint="0" * 16), "a row must name its network by .* got fingerprint, network, resolution"),
    (
        row(network=None, resolution=None, fingerprint="XYZ"),
        "must be 16 to 64 lower-case hexadecimal digits, got 'XYZ'",
    ),
    (
        {**measured(network=preset("mobilevig_ti")).to_dict(), "fingerprint": "0" * 16},
        "`fingerprint` must be its architecture's, 30e8ee71e55f13ab, got '0000000000000000'",
    ),
    ({**measured(network=preset("mobilevig_ti")).to_dict(), "architecture": {"schema": 9}}, "architecture schema must"),
    (row(placement=[1]), r"`placement` must be an object of shares, got \[1\]"),
    (row(placement={"npu": 1}), "`placement` must be one of .*, got 'npu'"),
    (row(placement={"cpu": 1.5}), "`placement.cpu` must be a share from 0 to 1, got 1.5"),
    (row(placement={"cpu": 0.5}), "`placement` must add up to 1, got 0.5"),
    (row(placement={"gpu": 1}), "`placement` must lie on the compute units allowed, cpu-and-ne, got 1 on gpu"),
    (row(tool_versions={}), r"`tool_versions` must name at least one tool, got \{\}"),
    (row(tool_versions={"torch": 2}), "`tool_versions.torch` must be 1 to 200 printable characters, got 2"),
    (row(notes=["hot"]), r"`notes` must be an object, got \['hot'\]"),
    (row(notes={"heat": None}), "`notes.heat` must be 1 to 200 printable characters, got None"),
    (row(notes={"heat": 1e16}), "`notes.heat` must be a number up to 1e15"),
    (json.dumps(row())[:-1] + ', "os": "iOS"}', "an entry must stand once in a row, got 'os' twice"),
    (json.dumps(row(notes={"a": 1})).replace('"a": 1', '"a": 1, "a": 2'), "got 'a' twice"),
    ("[1, 2]", r"a row must be a JSON object, got \[1, 2\]"),
    ("hello", "got text that breaks off or errs at character 1, 'hello'"),
    (json.dumps(row())[:100], "a row must be one JSON object, got text that breaks off or errs at character"),
    (json.dumps(row()) * 2, r"errs at character .*Extra data"),
    ("[" * 100_000, "a row must be a JSON object in UTF-8, got maximum recursion depth"),
    ("9" * 5_000, "a row must be a JSON object in UTF-8, got Exceeds the limit"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS, ids=range(len(BAD_ROWS)))
@pytest.mark.parametrize("place", [2, 3])
def test_a_bad_line_is_refused_with_its_number(
    bad: dict[str, Any] | str, message: str, place: int, tmp_path: Path
) -> None:
    """Also as the last line: only one that lacks its end is taken for broken off."""
    lines: list[dict[str, Any] | str] = [measured(1).to_dict(), measured(2).to_dict()]
    lines.insert(place - 1, bad)
    path = write_rows(tmp_path / "a.jsonl", *lines)
    with pytest.raises(MvigNasError, match=f"a.jsonl, line {place}: .*{message}") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    log, problems = inspect(path)
    assert [problem.line for problem in problems] == [place]
    assert log.rows == (measured(1), measured(2))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(measured().content.encode() + b"\n\xff\xfe\n")
    with pytest.raises(MvigNasError, match="line 2: a row must be a JSON object in UTF-8, got 'utf-8' codec"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(PHONE, name="iphone-14"), "got device 'iphone-14' after 'iphone-13-mini' .line 1."),
        (replace(PHONE, chip="A16"), "got chip 'A16' after 'A15'"),
        (replace(PHONE, os="iPadOS"), "got os 'iPadOS' after 'iOS'"),
        (replace(PHONE, os_version="18.2"), "got os_version '18.2' after '18.1'"),
        (replace(PHONE, compute_units="all"), "got compute_units 'all' after 'cpu-and-ne'"),
    ],
)
def test_rows_of_other_devices_must_be_asked_for(other: Device, message: str, tmp_path: Path) -> None:
    mixed = (measured(0), measured(1, device=other))
    path = write_rows(tmp_path / "a.jsonl", *(each.to_dict() for each in mixed))
    with pytest.raises(MvigNasError, match=f"line 2: all rows must be of one device, .* {message}"):
        read(path)
    with pytest.raises(MvigNasError, match="all rows must be of one device"):
        merge([DeviceLog(mixed[:1]), DeviceLog(mixed[1:])])
    log = read(path, allow_mixed=True)
    assert log.devices == (PHONE, other)
    assert len(set(log.groups)) == (1 if other.chip == "A16" else 2)
    with pytest.raises(MvigNasError, match="a log must be of one device for this, got 2"):
        _ = log.device_key
    assert append(path, measured(2, device=other), allow_mixed=True) is None
    with pytest.raises(MvigNasError, match="must be a log that the new row fits: all rows must be of one device"):
        append(path, measured(3, device=other))
    assert len(read(path, allow_mixed=True).rows) == 3


def test_rows_in_different_units_are_refused_in_any_order(tmp_path: Path) -> None:
    network = TimmNetwork("resnet18", 224)
    rows = [
        measured(number, network=network, samples_ms=samples_ms)
        for number, samples_ms in enumerate(([0.8], [0.9], [0.85], [800.0]))
    ]
    for order in (rows, rows[::-1], [rows[1], rows[3], rows[0], rows[2]]):
        path = write_rows(tmp_path / "a.jsonl", *(each.to_dict() for each in order))
        with pytest.raises(MvigNasError, match=r"all latencies must be in milliseconds, got .* which takes"):
            read(path)
    with pytest.raises(MvigNasError, match=r"line 4: .* got 800 for timm:resnet18@224, which takes 0.8 .line 1."):
        read(write_rows(tmp_path / "a.jsonl", *(each.to_dict() for each in rows)))
    with pytest.raises(MvigNasError, match="all latencies must be in milliseconds"):
        merge([DeviceLog(tuple(rows[:3])), DeviceLog(tuple(rows[3:]))])


def test_shuffled_lines_are_the_same_log_and_repeated_ones_count_once(tmp_path: Path) -> None:
    lines = [measured(number).content for number in range(6)]
    log = read(write_rows(tmp_path / "a.jsonl", *lines))
    assert log.rows == tuple(measured(number) for number in range(6))
    assert log.device_key == PHONE
    assert log.networks[0] == "timm:resnet18@160"
    assert log.latencies_ms.tolist() == [0.805] * 6
    random.Random(0).shuffle(lines)
    shuffled = read(write_rows(tmp_path / "b.jsonl", *lines))
    assert shuffled == log
    assert shuffled.to_jsonl() == log.to_jsonl()
    assert lines[int(shuffled.places[0].rpartition(" ")[2]) - 1] == shuffled.rows[0].content
    repeated = read(write_rows(tmp_path / "c.jsonl", *lines, "", lines[1]))
    assert repeated == log
    assert repeated.warnings == (f"{tmp_path / 'c.jsonl'}, line 8: repeats line 2 and was left out",)


def test_a_last_line_cut_anywhere_is_dropped_and_the_next_append_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    before = "".join(measured(number).content + "\n" for number in (0, 1)).encode()
    short = measured(2, samples_ms=[0.8])
    last = (short.content + "\n").encode()
    for cut in range(len(last) + 1):
        path.write_bytes(before + last[:cut])
        log = read(path)
        whole = cut >= len(last) - 1  # but for its line end
        assert log.rows == (measured(0), measured(1), *[short] * whole)
        broken = cut > 0 and not whole
        expected = f"{path}, line 3: breaks off after {cut} bytes and was left out; measure its network again"
        assert log.warnings == ((expected,) if broken else ())
        if 8 < cut < len(last) - 8 and cut % 8:  # waiting for the disk takes a while
            continue
        warning = append(path, measured(3))
        assert (warning is not None) == broken
        if warning is not None:
            assert f"line 3: broke off after {cut} bytes and was cut away" in warning
        mended = read(path)
        assert mended.rows == (*log.rows, measured(3))
        assert not mended.warnings


def test_other_line_ends_and_empty_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\r\n" + measured().content.encode() + b"\r\n\n")
    assert read(path).rows == (measured(),)
    path.write_bytes(b"")
    assert read(path) == DeviceLog(())
    with pytest.raises(MvigNasError, match="a log must be of one device for this, got 0"):
        _ = read(path).device_key


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="a log must be readable, got 'No such file or directory'"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(MvigNasError, match="a log must be readable, got 'Is a directory'"):
        read(tmp_path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def _read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    log, problems = inspect(path)
    if problems:
        with pytest.raises(MvigNasError, match=re.escape(str(problems[0]))):
            read(path)
    else:
        assert read(path) == log
    path.write_bytes(log.to_jsonl().encode())
    assert read(path) == log


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "a.jsonl"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(scratch: Path, content: bytes) -> None:
    _read_or_refuse(scratch, content)


@given(st.lists(JSON_VALUES, max_size=3))
def test_any_json_is_read_or_refused(scratch: Path, values: list[Any]) -> None:
    _read_or_refuse(scratch, "\n".join(json.dumps(value) for value in values).encode())


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [each for key, item in inner for each in _paths(item, (*path, key))]


FULL_ROW = measured(
    network=SPACES["toy"].smallest, placement={"cpu": 0.25, "neural-engine": 0.75}, notes={"thermal_state": "nominal"}
).to_dict()


@settings(max_examples=150)
@given(path=st.sampled_from(_paths(FULL_ROW)), value=JSON_VALUES, drop=st.booleans())
def test_a_row_with_any_value_changed_is_read_or_refused(
    scratch: Path, path: tuple[Any, ...], value: Any, drop: bool
) -> None:
    changed = json.loads(json.dumps(FULL_ROW))
    target = changed
    for key in path[:-1]:
        target = target[key]
    if drop:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    _read_or_refuse(scratch, (json.dumps(changed) + "\n").encode())


@settings(max_examples=40)
@given(logs(device=None), st.randoms(use_true_random=False))
def test_a_log_reads_as_it_was_written_in_any_order(scratch: Path, log: DeviceLog, rng: random.Random) -> None:
    scratch.unlink(missing_ok=True)
    write(scratch, log)
    try:
        assert read(scratch, allow_mixed=True) == log
    finally:
        lines = log.to_jsonl().splitlines(keepends=True)
        rng.shuffle(lines)
        scratch.write_text("".join(lines))
    again = read(scratch, allow_mixed=True)
    assert again.to_jsonl() == log.to_jsonl()
    assert not again.warnings


# --- merging ---


@settings(max_examples=40)
@given(logs(), logs(), logs())
def test_merging_is_idempotent_commutative_and_associative(one: DeviceLog, two: DeviceLog, three: DeviceLog) -> None:
    text = merge([one, two, three]).to_jsonl()
    assert merge([one, one]).to_jsonl() == merge([one]).to_jsonl() == one.to_jsonl()
    assert merge([two, one]).to_jsonl() == merge([one, two]).to_jsonl()
    assert merge([merge([one, two]), three]).to_jsonl() == merge([one, merge([two, three])]).to_jsonl() == text
    assert {each.content for each in merge([one, two]).rows} == {each.content for each in (*one.rows, *two.rows)}


def test_a_measurement_in_two_files_counts_once_however_it_is_written(tmp_path: Path) -> None:
    ours = write_rows(tmp_path / "a.jsonl", measured(0).to_dict(), measured(1).to_dict())
    theirs = dict(reversed(measured(1).to_dict().items())) | {"time": "2026-01-31T21:01:00+09:00"}
    write_rows(tmp_path / "b.jsonl", theirs, measured(2).to_dict())
    merged = merge([read(ours), read(tmp_path / "b.jsonl")])
    assert merged.rows == (measured(0), measured(1), measured(2))
    assert merged.places == (f"{ours}, line 1", f"{ours}, line 2", f"{tmp_path / 'b.jsonl'}, line 2")


def test_a_log_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", DeviceLog((measured(),)))
    with pytest.raises(MvigNasError, match=r"a log is never overwritten, and .*a.jsonl exists; take another name"):
        write(tmp_path / "a.jsonl", DeviceLog(()))
    assert read(tmp_path / "a.jsonl").rows == (measured(),)


# --- appending ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model,ms\nresnet18,0.8", "a row must be one JSON object"),
        (b'{\n "name": "settings"\n}', "a row must be one JSON object"),
        (b'{"name": "settings"}', "a row has no entry 'name'"),
        (json.dumps(row(schema=2)).encode(), "newer mvig-nas"),
        (b"\x89PNG\r\n\x1a\n\x00{", "a row must be a JSON object in UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_left_as_it_is(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(MvigNasError, match=f"must be a log that the new row fits: .*{message}"):
        append(path, measured())
    assert path.read_bytes() == content


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="a device log must be writable, got 'No such file or directory'"):
        append(tmp_path / "none" / "a.jsonl", measured())
    if Path("/dev/full").exists():
        with pytest.raises(MvigNasError, match="a device log must be writable, got 'No space left on device'"):
            append("/dev/full", measured())


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from mvig_nas.device_log import Device, Measurement, TimmNetwork, append
path, first, count, samples = sys.argv[1], *map(int, sys.argv[2:])
device = Device("iphone-13-mini", "A15", "iOS", "18.1", "cpu-and-ne")
for number in range(first, first + count):
    append(path, Measurement.of_samples(
        TimmNetwork("resnet18", 224), device, [1.0 + sample * 1e-7 for sample in range(samples)],
        tool_versions={"torch": "2.15"}, time=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number),
    ))
    print(number, flush=True)
"""


def writer(path: Path, *numbers: int, prelude: str = "") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", prelude + WRITER, str(path), *map(str, numbers)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_leaves_the_rows_before_it(tmp_path: Path) -> None:
    """A limit on file sizes cuts a write short, as a disk does that fills up."""
    path = tmp_path / "a.jsonl"
    limited = writer(
        path, 0, 9, 500, prelude="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000,) * 2)\n"
    )
    output, errors = limited.communicate(timeout=60)
    assert "a device log must be writable, got 'No space left on device'" in errors
    log = read(path)
    assert len(log.rows) == len(output.split()) > 0
    assert not log.warnings


@pytest.mark.parametrize("acknowledged", [1, 7, 20])
def test_kill_9_loses_at_most_the_row_in_flight(acknowledged: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    process = writer(path, 0, 1_000_000, 3_000)
    assert process.stdout is not None
    try:
        for _ in range(acknowledged):
            assert process.stdout.readline()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    told = acknowledged + len(output.split())
    log = read(path)
    assert told <= len(log.rows) + len(log.warnings) <= told + 1
    assert len(log.rows) >= told
    assert [each.time.minute for each in log.rows] == [number % 60 for number in range(len(log.rows))]
    append(path, measured(999))
    assert read(path).rows == (*log.rows, measured(999))


def test_two_processes_append_whole_lines(tmp_path: Path) -> None:
    """Also when the log they find has a broken last line: only one of them cuts it, and no row goes with it."""
    path = tmp_path / "a.jsonl"
    path.write_text(measured().content + "\n" + measured(1).content[:-5])
    processes = [writer(path, first, 20, 5_000) for first in (0, 1_000)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert len(output.split()) == 20
    log = read(path)
    assert len(log.rows) == 41
    assert not log.warnings


# --- tables of others ---

CSV = "model,px,time,phone,comment\nresnet18,224,800,a,x\ntimm:resnet50,256,1500,,y\n"
COLUMNS = {"network": "model", "resolution": "px", "latency_ms": "time", "device": "phone"}
CONSTANTS = {"device": "b", "compute_units": "cpu-and-ne"}


@pytest.mark.parametrize(("unit", "first_ms"), [("ms", 800.0), ("us", 0.8), ("s", 800_000.0)])
def test_a_csv_file_becomes_a_log(unit: str, first_ms: float, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeff" + CSV + "\n", encoding="utf-8")
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    if unit == "s":
        with pytest.raises(MvigNasError, match=r"a.csv, line 2: `latency_ms` must be .*, got 800000"):
            read_csv(path, COLUMNS, unit, CONSTANTS)
        return
    log = read_csv(path, COLUMNS, unit, CONSTANTS)
    assert [each.latency_ms for each in log.rows] == pytest.approx([first_ms, first_ms * 1.875])
    assert log.networks == ("timm:resnet18@224", "timm:resnet50@256")
    assert log.devices == tuple(Device(name, "unknown", "unknown", "unknown", "cpu-and-ne") for name in "ab")
    assert {each.statistic for each in log.rows} == {"reported"}
    assert {each.time for each in log.rows} == {NOON}
    assert log.rows[0].notes == {"imported_from": "a.csv"}
    assert log.places == (f"{path}, line 2", f"{path}, line 3")


def test_a_csv_file_may_hold_architectures_fingerprints_and_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    smallest = SPACES["toy"].smallest
    quoted = smallest.to_json().replace('"', '""')
    path.write_text(
        "arch,print,runs,when\n"
        f'mobilevig_ti,,"800 820;810",2026-01-31T12:00:00Z\n"{quoted}",,900,2026-01-31T13:00:00+01:00\n'
        f",{'0' * 16},700,2026-01-31T12:00:01Z\n,{'0' * 16},700,2026-01-31T12:00:01Z\n"
    )
    columns = {"architecture": "arch", "fingerprint": "print", "samples_ms": "runs", "time": "when"}
    log = read_csv(path, columns, "us", CONSTANTS)
    assert {each.network for each in log.rows} == {preset("mobilevig_ti"), smallest, Package("0" * 16)}
    ti = next(each for each in log.rows if each.network == preset("mobilevig_ti"))
    assert ti.samples_ms == pytest.approx((0.8, 0.82, 0.81))
    assert (ti.statistic, ti.latency_ms, ti.spread_ms) == ("median", pytest.approx(0.81), pytest.approx(0.01))
    assert ti.time == NOON
    assert log.warnings == (f"{path}: 1 rows repeat others and were left out",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given.update(unit="min"), "`unit` must be one of .*, got 'min'"),
        (lambda given: given["columns"].update(latncy="time"), "no entry 'latncy' to fill .* mean 'latency_ms'"),
        (lambda given: given["columns"].update(latency_ms="tme"), "one column 'tme', got 0; did you mean 'time'"),
        (lambda given: given["columns"].pop("network"), "a column must give architecture or network or fingerprint"),
        (lambda given: given["columns"].pop("latency_ms"), "a column must give latency_ms or samples_ms"),
        (lambda given: given["constants"].pop("compute_units"), "a column must give compute_units"),
        (lambda given: given.update(text=CSV.replace("800", "0,8")), "line 2: a row must have 5 cells, .* got 6"),
        (lambda given: given.update(text=CSV.replace("800", "fast")), "line 2: `latency_ms` must be a number .*'fast'"),
        (lambda given: given.update(text=CSV.replace("800", "nan")), "line 2: `latency_ms` must be a number of milli"),
        (lambda given: given.update(text=CSV.replace("1500", "")), "line 3: a row must hold .* but lacks latency_ms"),
        (lambda given: given.update(text=CSV.replace("224", "big")), "line 2: `resolution` must be a whole number"),
        (lambda given: given.update(text=CSV.replace("px", "model")), "must have one column 'model', got 2"),
        (lambda given: given.update(text=""), "must have one column 'model', got 0"),
        (lambda given: given.update(text=CSV + '"open'), "a.csv must be CSV in UTF-8, got unexpected end of data"),
        (lambda given: given.update(text=CSV.encode("utf-16")), "a.csv must be CSV in UTF-8, got 'utf-8' codec"),
        (
            lambda given: given.update(
                columns={"architecture": "model", "latency_ms": "time"}, text=CSV.replace("resnet18", "mobilevig_t")
            ),
            "line 2: an architecture must be JSON or a preset's name, got 'mobilevig_t'; did you mean 'mobilevig_ti'",
        ),
        (
            lambda given: given.update(
                columns={"architecture": "model", "latency_ms": "time"}, text=CSV.replace("resnet18", "{oops}")
            ),
            "line 2: an architecture must be JSON, got text that",
        ),
        (
            lambda given: given.update(
                columns={"architecture": "model", "latency_ms": "time"},
                text=CSV.replace("resnet18", '{""schema"":' * 5_000),
            ),
            "line 2: an architecture must be JSON, got",
        ),
    ],
)  # fmt: skip
def test_a_wrong_csv_file_or_mapping_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    given_values: dict[str, Any] = {"columns": dict(COLUMNS), "constants": dict(CONSTANTS), "unit": "us", "text": CSV}
    change(given_values)
    text = given_values["text"]
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MvigNasError, match=message) as caught:
        read_csv(path, given_values["columns"], given_values["unit"], given_values["constants"])
    assert "\n" not in str(caught.value)
    with pytest.raises(MvigNasError, match="a CSV file must be readable, got 'No such file or directory'"):
        read_csv(tmp_path / "none.csv", COLUMNS, "us", CONSTANTS)


# --- commands ---


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `mvig-nas log ...` in `tmp_path`: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mvig-nas", "log", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Command = Callable[..., tuple[int, str, str]]


def test_check_shows_what_a_log_holds(command: Command, tmp_path: Path) -> None:
    other = replace(PHONE, name="[/b]other")
    rows = [measured(0), measured(1, samples_ms=[2.5, 2.5]), measured(2, device=other)]
    path = write_rows(tmp_path / "a.jsonl", *(each.to_dict() for each in rows[:2]))
    with path.open("a") as file:
        file.write(rows[2].content[:50])
    code, output, _ = command("check", "a.jsonl")
    assert code == 0
    assert "a.jsonl: 2 good rows of 2 networks, 0 problems" in output
    assert "0.805 to 2.500" in output
    assert "iphone-13-mini (A15, iOS 18.1)" in output
    assert "warning: a.jsonl, line 3: breaks off after 50 bytes" in output
    write_rows(path, *(each.to_dict() for each in rows), "oops", row(latency_ms=-1))
    code, output, _ = command("check", "a.jsonl")
    assert code == 1
    assert "2 good rows of 2 networks, 3 problems" in output
    for text in ("a.jsonl, line 3: all rows must be of one", "line 4: a row must be one JSON", "line 5: `latency_ms`"):
        assert text in output
    code, output, _ = command("check", "a.jsonl", "--allow-mixed", "--json")
    assert code == 1
    (report,) = json.loads(output)["logs"]
    assert (report["rows"], report["networks"]) == (3, 3)
    assert [problem["line"] for problem in report["problems"]] == [4, 5]
    first, second = report["devices"]
    assert (first["name"], first["rows"], first["latency_ms"]) == ("iphone-13-mini", 2, [0.805, 2.5])
    assert first["spread"] == pytest.approx(0.0175 / 0.805 / 2)
    assert second["name"] == "[/b]other"
    assert "[/b]other" in command("check", "a.jsonl", "--allow-mixed")[1]


def test_merge_writes_one_file_and_overwrites_none(command: Command, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", measured(1).to_dict(), measured(0).to_dict())
    write_rows(tmp_path / "b.jsonl", measured(1).to_dict(), measured(2).to_dict())
    code, output, _ = command("merge", "a.jsonl", "b.jsonl", "--out", "c.jsonl")
    assert (code, output) == (0, "3 rows of 3 networks in c.jsonl. 1 rows were in several logs.\n")
    assert read(tmp_path / "c.jsonl").rows == tuple(measured(number) for number in range(3))
    code, _, errors = command("merge", "b.jsonl", "a.jsonl", "--out", "c.jsonl")
    assert (code, errors) == (1, "error: a log is never overwritten, and c.jsonl exists; take another name.\n")
    assert command("merge", "b.jsonl", "c.jsonl", "a.jsonl", "--out", "d.jsonl", "--json")[0] == 0
    assert (tmp_path / "d.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()
    write_rows(tmp_path / "e.jsonl", measured(3, device=replace(PHONE, os_version="18.2")).to_dict(), "")
    code, _, errors = command("merge", "a.jsonl", "e.jsonl", "--out", "f.jsonl")
    assert code == 1
    assert "got os_version '18.2' after '18.1' (a.jsonl, line 2)" in errors
    assert not (tmp_path / "f.jsonl").exists()
    assert command("merge", "a.jsonl", "e.jsonl", "--out", "f.jsonl", "--allow-mixed")[0] == 0
    write_rows(tmp_path / "g.jsonl", "oops", "oops")
    code, _, errors = command("merge", "g.jsonl", "--out", "h.jsonl")
    assert code == 1
    assert "g.jsonl, line 1: a row must be" in errors
    assert "(1 more; `mvig-nas log check` lists them)" in errors


def test_import_makes_a_log_that_checks(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    columns = ["--columns", "network=model, resolution=px", "--columns", "latency_ms=time"]
    arguments = ["import", "a.csv", *columns, "--device", "iphone-15", "--unit", "us", "--out"]
    code, output, errors = command(*arguments, "a.jsonl", "--os", "iOS", "--os-version", "18.1", "--chip", "A16")
    assert (code, output, errors) == (0, "2 rows of 2 networks in a.jsonl.\n", "")
    assert read(tmp_path / "a.jsonl").device_key == Device("iphone-15", "A16", "iOS", "18.1", "all")
    assert command("check", "a.jsonl")[0] == 0
    code, output, _ = command(*arguments, "b.jsonl", "--json", "--time", "2026-01-31T12:00:00Z")
    assert json.loads(output) == {"file": "b.jsonl", "rows": 2, "warnings": []}
    assert command(*arguments, "b.jsonl")[2].startswith("error: a log is never overwritten")
    assert "must be ENTRY=COLUMN" in command(*arguments, "c.jsonl", "--columns", "os")[2]
    assert "got 'network' twice" in command(*arguments, "c.jsonl", "--columns", "network=phone")[2]
    code, _, errors = command(*arguments, "c.jsonl", "--columns", "device=phne")
    assert (code, errors) == (1, "error: a.csv must have one column 'phne', got 0; did you mean 'phone'?\n")
    code, _, errors = command(*arguments, "c.jsonl", "--columns", "device=phone")
    assert code == 1
    assert "all rows must be of one device" in errors
    assert command(*arguments[:-2], "--out", "c.jsonl")[0] == 2
    assert not (tmp_path / "c.jsonl").exists()


def test_reading_logs_needs_only_numpy() -> None:
    program = "import sys, mvig_nas.device_log; print({'torch', 'scipy', 'sklearn', 'optuna'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
