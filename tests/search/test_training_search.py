"""`search --score train:PLAN`: every candidate is a short training on Ray Tune, and the study is the usual one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from mvig_nas import scores
from mvig_nas.architecture import preset
from mvig_nas.budget import Budget
from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.search import SearchRequest, SearchSettings, Study, WorkerOptions, run_search, saved_request
from tests.images import write_images
from tests.sampler_contract import timeless

REPOSITORY = Path(__file__).parents[2]
PLAN = "epochs = 4\nbatch_size = 12\nlearning_rate = 5e-3\nwarmup_epochs = 1\n"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> SearchRequest:
    home = tmp_path_factory.mktemp("training_search")
    (home / "plan.toml").write_text(PLAN)
    # one training at a time: who is stopped does not depend on who was faster
    return SearchRequest(
        space="micro",
        score=f"train:{home / 'plan.toml'}",
        data=write_images(home / "images", train=16),
        budget=Budget(latency_ms=0.42),
        settings=SearchSettings(evaluations=4, sampler="random", batch=2),
        ray=WorkerOptions(workers=1),
        max_epochs=2,
    )


def curves(run: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted((run / "trainings").glob("*/reports.jsonl"))}


def require_trained_once(run: Path, before: dict[str, str]) -> None:
    """What was reported before is still there, and every epoch is reported once."""
    now = curves(run)
    assert all(now[name].startswith(text) for name, text in before.items())
    for text in now.values():
        epochs = [json.loads(line)["epoch"] for line in text.splitlines()]
        assert epochs == list(range(1, len(epochs) + 1))


@pytest.mark.filterwarnings("ignore")
def test_a_search_whose_scores_are_trainings(asked: SearchRequest, tmp_path: Path) -> None:
    epochs: list[int] = []
    done = run_search(asked, tmp_path / "run", on_training=lambda progress: epochs.append(progress.epoch))
    assert done.study.ended == "evaluations"
    assert done.study.evaluated == 4
    reported = {name: json.loads(text.splitlines()[-1])["top1"] for name, text in curves(tmp_path / "run").items()}
    assert {each.fingerprint: each.score for each in done.study.candidates if each.is_evaluated} == reported
    assert len(epochs) == sum(len(text.splitlines()) for text in curves(tmp_path / "run").values())
    meaning = scores.meaning_of(done.score)
    assert meaning.is_top1
    assert meaning.images == 6
    assert meaning.standard_error(0.5) == pytest.approx((0.25 / 6) ** 0.5)
    again = Study.load(tmp_path / "run")
    assert timeless(again) == timeless(done.study)
    before = curves(tmp_path / "run")
    # Tune's own state is nowhere, so that it cannot be missed
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json", "study.journal", "trainings", "candidates.jsonl",
    }  # fmt: skip
    more = saved_request(tmp_path / "run")
    assert more.max_epochs == 2
    with pytest.raises(MvigNasError, match="recipe"):
        run_search(SearchRequest(**{**vars(more), "max_epochs": 3}), tmp_path / "run", resume=True)
    assert curves(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_at_three_moments_and_resumed_nothing_is_trained_twice(asked: SearchRequest, tmp_path: Path) -> None:
    whole = run_search(asked, tmp_path / "whole").study
    program = """
import os, signal, sys
from pathlib import Path
from mvig_nas.budget import Budget
from mvig_nas.search import SearchRequest, SearchSettings, WorkerOptions, run_search
score, data, run, moment = sys.argv[1:]
seen = []
def on_training(progress):
    seen.append(progress)
    if len(seen) == int(moment):
        os.kill(os.getpid(), signal.SIGKILL)
request = SearchRequest(space="micro", score=score, data=Path(data), budget=Budget(latency_ms=0.42), max_epochs=2,
                        settings=SearchSettings(evaluations=4, sampler="random", batch=2), ray=WorkerOptions(workers=1))
run_search(request, Path(run), resume=int(moment) > 1, on_training=on_training)
"""
    run, kept = tmp_path / "run", dict[str, str]()
    for moment in (1, 3, 5):
        command = [sys.executable, "-c", program, asked.score, str(asked.data), str(run), str(moment)]
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode in (-signal.SIGKILL, 0), ended.stderr[-2000:]
        time.sleep(1)  # Ray's workers notice
        require_trained_once(run, kept)
        kept = curves(run)
    study = run_search(asked, run, resume=True).study
    require_trained_once(run, kept)
    assert timeless(study) == timeless(whole)
    assert curves(run) == curves(tmp_path / "whole")


def test_what_is_refused(asked: SearchRequest, tmp_path: Path) -> None:
    def told(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["search", "--space", "micro", "--latency-budget", "0.42ms", *arguments])
        assert done.exit_code != 0
        return f"{done.output} {done.exception}"

    data = ["--data", str(asked.data), "--out", str(tmp_path / "run")]
    train = ["--score", asked.score]
    assert "needs images to train on; give their folder with --data" in told(*train)
    assert "must name its plan, got none; write train:short" in told("--score", "train:", *data)
    assert "odd" in told("--score", "train:odd", *data)
    assert "--finalists must not come with --score train:" in told(*train, *data, "--finalists", "2")
    assert "--evaluation-timeout must not come with --score train:PLAN" in told(
        *train, *data, "--evaluation-timeout", "5min"
    )
    assert "--max-epochs must come with --finalists or --score train:PLAN" in told("--max-epochs", "3", *data)
    assert not (tmp_path / "run").exists()
    with pytest.raises(MvigNasError, match="must be trained by a search"):
        scores.load(asked.score, data=asked.data)(preset("mobilevig_ti"))
