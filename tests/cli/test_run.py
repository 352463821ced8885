"""`mvig-nas run`: from a folder of images to a verified package, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from mvig_nas.cli import cli
from mvig_nas.coreml.package import content_sha256
from tests.images import write_images
from tests.strategies import REPOSITORY
from tests.training.test_teacher import TINY, saved

SHORT = ("--latency-budget", "0.42ms", "--hours", "1", "--finalists", "3", "--max-epochs", "2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_images(tmp_path_factory.mktemp("run"), train=14, val=1) / "train"
    return folder.rename(folder.parent / "fruit")


def program(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mvig_nas", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


@pytest.mark.filterwarnings("ignore")
def test_from_images_to_a_package_killed_and_resumed(images: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    taught = ("--teacher", TINY, "--teacher-checkpoint", str(saved(tmp_path, classes=1000)[0]))
    with program("run", str(images), *SHORT, *taught, "--out", str(whole)) as done:
        shown, said = done.communicate(timeout=600)
    assert done.returncode == 0, said
    assert "finalists" in shown
    assert f"2 epochs, taught by {TINY}" in shown
    assert "Top-1:" in shown
    assert "not measured" in shown
    assert f"Package: {whole / 'fruit.mlpackage'}" in shown
    assert (whole / "report.html").read_text().count("<img") == 2
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["classes"] == ["class_0", "class_1", "class_2"]
    assert summary["val_images"] == 9
    asked = json.loads((whole / "trained" / "run.json").read_text())
    assert TINY in json.dumps(asked)

    killed = tmp_path / "killed"
    waiting_for = ("search/run.json", "search/finalists/chosen.json", "trained/run.json")
    for number, name in enumerate(waiting_for):
        again = ("--resume",) if number else ()
        with program("run", str(images), *SHORT, *taught, "--out", str(killed), *again) as process:
            until = time.monotonic() + 300
            while not (killed / name).is_file() and process.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if number == 0:
            # the plan rests on a measured speed; the other steps must not differ
            (killed / "plan.json").write_text((whole / "plan.json").read_text())
    with program("run", str(images), "--out", str(killed), "--resume") as process:
        _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert content_sha256(killed / "fruit.mlpackage") == content_sha256(whole / "fruit.mlpackage")


def test_a_dry_run_leaves_nothing(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = CliRunner().invoke(cli, ["run", str(images), *SHORT, "--out", str(folder), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "Plan for 1 hours" in done.output
    assert "2 epochs, no teacher" in done.output
    assert not folder.exists()
    plan = CliRunner().invoke(cli, ["run", str(images), *SHORT, "--dry-run", "--json"])
    assert json.loads(plan.stdout)["finalists"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "a run needs a budget: --latency-budget 1.0ms"),
        (("--resume",), "--resume needs the run folder"),
        (("--latency-budget", "1.0ms", "--hours", "0"), "--hours"),
        (("--latency-budget", "soon"), "--latency-budget"),
    ],
)
def test_wrong_usage(images: Path, arguments: tuple[str, ...], says: str) -> None:
    done = CliRunner().invoke(cli, ["run", str(images), *arguments])
    assert done.exit_code == 2
    assert says in done.output


def test_what_cannot_be_run_is_told_before_anything_is_written(images: Path, tmp_path: Path) -> None:
    for arguments, says in (
        (("--latency-budget", "1.0ms", "--space", "odd"), "no search space is called 'odd'"),
        (("--latency-budget", "1.0ms", "--device", "odd"), "no device is called 'odd'"),
        (("--latency-budget", "1.0ms", "--teacher", "odd"), "'odd'"),
        (("--latency-budget", "1.0ms", "--teacher-checkpoint", "w.pth"), "must come with a teacher, got w.pth alone"),
    ):
        done = CliRunner().invoke(cli, ["run", str(images), *arguments, "--out", str(tmp_path / "run")])
        assert done.exit_code == 1
        assert says in str(done.exception)
        assert not (tmp_path / "run").exists()
