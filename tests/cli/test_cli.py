"""The command line as a user meets it, on the toy space and shipped predictors; nothing is replaced by a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.search import Study
from tests.strategies import FAMILY_SPACES, SPACES

COMMAND = [sys.executable, "-c", "from mvig_nas.cli import main; main()"]
FAST = ["--space", "toy", "--score", "log_macs", "--evaluations", "12", "--sampler", "evolution"]


def run(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False, **options)


def search(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run("search", "--latency-budget", "0.6ms", *FAST, "--out", "run", *more, folder=folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    done = search(folder)
    assert done.returncode == 0, done.stderr
    assert "Next: mvig-nas finalists run --data IMAGES" in done.stdout
    return folder / "run"


def test_a_run_folder_holds_everything(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "study.journal", "candidates.jsonl", "front.csv", "winner.json", "run.json", "report.html",
        "score_latency.png", "best_so_far.png",
    }  # fmt: skip
    study = Study.load(finished)
    assert study.evaluated == 12
    winner = json.loads((finished / "winner.json").read_text())
    architecture = Architecture.from_dict(winner["architecture"])
    assert architecture in SPACES["toy"]
    assert architecture.fingerprint == winner["fingerprint"] == study.winner.fingerprint
    low, high = winner["latency_interval_ms"]
    assert low < winner["latency_ms"] <= 0.6 < high or high <= 0.6
    assert set(winner["versions"]) >= {"mvig-nas", "torch", "optuna"}
    asked = json.loads((finished / "run.json").read_text())
    assert (asked["command"], asked["request"]["space"]) == ("search", "toy")
    assert asked["request"]["settings"]["seed"] == 0
    assert asked["request"]["budget"]["latency_ms"] == 0.6
    assert set(asked["versions"]) >= {"mvig-nas", "python"}
    assert asked["result"]["evaluated"] == 12
    assert asked["result"]["ended"] == "evaluations"
    report = (finished / "report.html").read_text()
    assert "data:image/png;base64," in report
    assert "http" not in report.replace("http-equiv", "")
    front = (finished / "front.csv").read_text().splitlines()
    assert len(front) == 1 + len(study.front)
    assert (finished / "score_latency.png").read_bytes().startswith(b"\x89PNG")


def test_the_winner_can_be_described_and_exported(finished: Path, tmp_path: Path) -> None:
    described = run("describe", str(finished / "winner.json"), "--json", folder=tmp_path)
    values = json.loads(described.stdout)
    assert values["fingerprint"] == json.loads((finished / "winner.json").read_text())["fingerprint"]
    assert sum(stage["latency_ms"] for stage in values["stages"]) == pytest.approx(values["latency_ms"])
    assert sum(values["milliseconds_by_kind"].values()) == pytest.approx(values["latency_ms"])
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    exported = run("export", str(finished / "winner.json"), "--labels", "labels.txt", "--json", folder=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["weights"] == "untrained, seed 0"
    assert (tmp_path / "winner.mlpackage").is_dir()
    again = run("export", str(finished / "winner.json"), folder=tmp_path)
    assert again.returncode == 1
    assert "winner.mlpackage" in again.stderr
    assert "or overwrite" in again.stderr


def test_describe_shows_the_published_figure_beside_the_prediction(tmp_path: Path) -> None:
    for name, published in (("mobilevig_ti", "0.78"), ("mobilevig_b", "2.3")):
        shown = run("describe", name, "--device", "iphone-13-mini", folder=tmp_path)
        assert f"Published {published} ms on iphone-13-mini" in shown.stdout
    values = json.loads(run("describe", "mobilevig_ti", "--json", folder=tmp_path).stdout)
    assert values["macs"] == 662_142_336
    assert values["parameters"] == 5_271_074


def test_spaces_and_devices_list_what_ships(tmp_path: Path) -> None:
    spaces = json.loads(run("spaces", "--json", folder=tmp_path).stdout)
    assert [space["name"] for space in spaces] == sorted({**SPACES, **FAMILY_SPACES})
    shown = run("devices", folder=tmp_path)
    devices = json.loads(run("devices", "--json", folder=tmp_path).stdout)
    assert {device["device"] for device in devices} >= {"iphone-12", "iphone-13-mini", "iphone-13", "iphone-14"}
    for device in devices:
        assert device["device"] in shown.stdout
        assert device["measurements"] > 0


def test_sample_writes_different_architectures(tmp_path: Path) -> None:
    done = run("sample", "--space", "toy", "-n", "20", "--seed", "3", "--out", "a.jsonl", folder=tmp_path)
    assert done.returncode == 0
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    architectures = {Architecture.from_json(line) for line in lines}
    assert len(architectures) == 20
    assert all(architecture in SPACES["toy"] for architecture in architectures)
    printed = run("sample", "--space", "toy", "-n", "20", "--seed", "3", folder=tmp_path)
    assert printed.stdout.splitlines() == lines
    few = run("sample", "-n", "3", "--latency-budget", "0.01ms", folder=tmp_path)
    assert few.returncode == 1
    assert "only 0 of 3 architectures were found" in few.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search"], 2, "Give a budget, e.g. --latency-budget 1.0ms, or --front"),
        (["search", "--latency-budget", "1.0"], 2, "must have a unit"),
        (["search", "--latency-budget", "-1ms"], 2, "must be above 0"),
        (["search", "--latency-budget", "abc"], 2, "must be a number and a unit"),
        (["search", "--latency-budget", "1ms", "--time-limit", "2"], 2, "must have a unit"),
        (["search", "--latency-budgt", "1ms"], 2, "--latency-budget"),
        (["search", "--latency-budget", "1ms", "--evaluations", "0"], 2, "x>=1"),
        (["search", "--latency-budget", "1ms", "--max-params", "5X"], 2, "unit must be K, M or G"),
        (["search", "--latency-budget", "1ms", "--max-memory", "5"], 2, "must have a unit"),
        (["search", "--latency-budget", "1ms", "--resume"], 2, "--resume needs the run folder"),
        (["search", "--latency-budget", "0.1ms"], 1, "the fastest architecture found in 'mobilevig' takes"),
        (["search", "--latency-budget", "1ms", "--device", "iphone-13-minj"], 1, "did you mean 'iphone-13-mini'"),
        (["search", "--latency-budget", "1ms", "--space", "mobilvig"], 1, "did you mean 'mobilevig'"),
        (["search", "--latency-budget", "1ms", "--space", "none.toml"], 1, "no search space file at none.toml"),
        (["search", "--latency-budget", "1ms", "--score", "nazwot"], 1, "did you mean 'naswot'"),
        (["search", "--latency-budget", "1ms", "--sampler", "tpr"], 1, "did you mean 'tpe'"),
        (["search", "--resume", "--out", "nothing"], 1, "no study in nothing"),
        (["describe", "mobilevig_t"], 1, "did you mean 'mobilevig_ti'"),
        (["describe", "none.json"], 1, "no preset and no file is called 'none.json'"),
        (["export", "none.pth"], 1, "there is none at none.pth"),
        (["serch"], 2, "No such command 'serch'; did you mean 'search'"),
        (["search", "--latency-budget", "1ms", "--out", ""], 2, "got an empty one after --out"),
        (["export", "mobilevig_ti", "--out", ""], 2, "got an empty one after --out"),
    ],
)
def test_bad_input_gets_one_line(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = run(*arguments, folder=tmp_path)
    assert message in done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("resolution = [32, 64]", "resolution = []"), "`resolution` must have at least one choice, got none"),
        (("width = [12, 16]", "widht = [12, 16]"), "did you mean 'stage2.width'"),
        (("width = [12, 16]", "width = [12, 15]"), "must be divisible by `graph_groups`, got width 15"),
    ],
)
def test_a_wrong_space_file_is_refused(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "search_spaces" / "toy.toml"
    (tmp_path / "mine.toml").write_text(source.read_text().replace(*change))
    done = run("search", "--latency-budget", "1ms", "--space", "mine.toml", folder=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "mine.toml" in done.stderr


def test_an_architecture_file_is_refused_with_its_name(tmp_path: Path) -> None:
    text = PRESETS["mobilevig_ti"].to_json()
    for content, message in (
        (text[:100], "JSON"),
        (text.replace('"schema": 1', '"schema": 9'), "newer mvig-nas"),
        ("[]", "must be a JSON object"),
    ):
        (tmp_path / "a.json").write_text(content)
        done = run("describe", "a.json", folder=tmp_path)
        assert done.returncode == 1
        assert "a.json" in done.stderr
        assert message in done.stderr


def test_an_existing_run_is_not_overwritten_and_resumes_only_as_it_was(finished: Path) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    again = search(finished.parent)
    assert again.returncode == 1
    assert "--resume" in again.stderr
    for option, value in (("--seed", "5"), ("--latency-budget", "0.7ms"), ("--score", "log_params")):
        other = run("search", "--resume", "--out", "run", option, value, folder=finished.parent)
        assert other.returncode == 1
        assert "a resumed run must keep what it began with" in other.stderr
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_a_finished_run_can_be_asked_for_more(tmp_path: Path) -> None:
    assert search(tmp_path).returncode == 0
    more = run("search", "--resume", "--out", "run", "--evaluations", "15", folder=tmp_path)
    assert more.returncode == 0, more.stderr
    assert Study.load(tmp_path / "run").evaluated == 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_says_how_to_go_on_and_loses_nothing(number: signal.Signals, tmp_path: Path) -> None:
    arguments = ["search", "--latency-budget", "0.6ms", *FAST, "--evaluations", "100000", "--out", "run"]
    # A shell starts what runs in the background with SIGINT ignored, nohup with SIGHUP, and the suite may be such.
    heard = "from signal import *; signal(SIGINT, default_int_handler); signal(SIGHUP, SIG_DFL)"
    command = [sys.executable, "-c", f"{heard}; {COMMAND[-1]}", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "study.journal"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not journal.exists() or len(journal.read_bytes().splitlines()) < 20):
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "mvig-nas search --resume --out run" in errors
    assert "Traceback" not in errors
    kept = Study.load(tmp_path / "run")
    assert kept.evaluated > 5
    target = str(kept.evaluated + 3)
    resumed = run("search", "--resume", "--out", "run", "--evaluations", target, folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    study = Study.load(tmp_path / "run")
    assert study.candidates[: len(kept.candidates)] == kept.candidates
    assert len({candidate.fingerprint for candidate in study.candidates}) == len(study.candidates)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_place_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        done = search(tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert done.returncode == 1
    assert "must be writable" in done.stderr


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    done = run("sample", "--space", "toy", "-n", "1", "--out", "/dev/full/a.jsonl", folder=tmp_path)
    assert done.returncode == 1
    assert "must be writable" in done.stderr


def test_front_is_traced(tmp_path: Path) -> None:
    done = run("search", "--front", *FAST, "--out", "run", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    study = Study.load(tmp_path / "run")
    assert study.settings.front
    latencies = [candidate.latency_ms for candidate in study.front]
    scores = [candidate.score for candidate in study.front]
    assert latencies == sorted(latencies)
    assert scores == sorted(scores)
    assert json.loads(done.stdout)["evaluated"] == 12


def test_version_and_help(tmp_path: Path) -> None:
    assert "0.1.0" in run("--version", folder=tmp_path).stdout
    shown = run("--help", folder=tmp_path).stdout
    for command in ("search", "describe", "spaces", "devices", "sample", "export"):
        assert command in shown
