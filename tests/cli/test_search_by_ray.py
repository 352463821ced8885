"""`mvig-nas search --evaluator ray`: the same search as without, and its options."""

import json
import sys
from pathlib import Path

import pytest

from mvig_nas.search import Study
from tests.cli.test_cli import run
from tests.sampler_contract import timeless

if sys.platform != "linux":
    pytest.skip("Ray's processes are looked for in /proc", allow_module_level=True)

SEARCH = ["search", "--space", "toy", "--latency-budget", "0.6ms", "--score", "log_macs", "--evaluations", "14"]


def test_it_is_the_search_without_ray(tmp_path: Path) -> None:
    done = run(*SEARCH, "--evaluator", "ray", "--workers", "2", "--out", "by-ray", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run(*SEARCH, "--batch", "4", "--out", "here", folder=tmp_path)
    by_ray, here = Study.load(tmp_path / "by-ray"), Study.load(tmp_path / "here")
    assert by_ray.settings.batch == 4
    assert timeless(by_ray) == timeless(here)
    assert json.loads(done.stdout)["winner"]["fingerprint"] == here.winner.fingerprint  # type: ignore[union-attr]
    # a study does not remember who scored it
    more = run("search", "--resume", "--out", "by-ray", "--evaluations", "18", "--json", folder=tmp_path)
    assert more.returncode == 0, more.stderr
    assert json.loads(more.stdout)["evaluated"] == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "auto"], "--address must come with --evaluator ray"),
        (["--workers", "2", "--gpus-per-worker", "1"], "--gpus-per-worker must come with --evaluator ray"),
        (["--evaluation-timeout", "10min"], "--evaluation-timeout must come with --evaluator ray"),
        (["--evaluator", "ray", "--address", "127.0.0.1:1"], "the head of a Ray cluster must answer at 127.0.0.1:1"),
        (["--evaluator", "slurm"], "'slurm' is not one of 'local', 'ray'"),
        (["--batch", "0"], "--batch"),
    ],
)
def test_wrong_options(options: list[str], message: str, tmp_path: Path) -> None:
    done = run(*SEARCH, *options, folder=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_old_name_of_the_option_still_works_and_names_the_new_one(tmp_path: Path) -> None:
    done = run(*SEARCH, "--engine", "local", "--cpus-per-worker", "2", folder=tmp_path)
    assert "--engine is now called --evaluator." in done.stderr
    assert "--cpus-per-worker must come with --evaluator ray" in done.stderr
    done = run(*SEARCH, "--engine", "ray", "--address", "127.0.0.1:1", folder=tmp_path)
    assert done.stderr.splitlines()[0] == "--engine is now called --evaluator."
    assert "the head of a Ray cluster must answer at 127.0.0.1:1" in done.stderr
    assert "--engine" not in run("search", "--help", folder=tmp_path).stdout
