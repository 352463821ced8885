"""Finalists trained for real by Ray Tune: who is stopped, what a kill costs, what is refused."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mvig_nas import shipped
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim
from mvig_nas.finalists import FinalistsRequest, hold
from mvig_nas.finalists.choosing import choose
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.scores import load
from mvig_nas.search import Study, search
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.evaluators.tune_trainings import TrainingProgress
from tests.images import write_images
from tests.tiny_training import SPACE

REPOSITORY = Path(__file__).parents[2]
ONE = Resources(trainings=1, in_memory=True)  # one at a time: who is stopped does not depend on who was faster
PLAN = "epochs = 4\nbatch_size = 12\nlearning_rate = 5e-3\nwarmup_epochs = 1\n"


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> FinalistsRequest:
    home = tmp_path_factory.mktemp("finalists")
    device = shipped.device_names()[0]
    latency = ArchitectureLatency.load(device)
    search(
        SPACE, load("log_macs"), latency, Budget(latency_ms=10.0), evaluations=12, sampler="random",
        folder=home / "run", labels={"device": device},
    )  # fmt: skip
    (home / "plan.toml").write_text(PLAN)
    data = write_images(home / "images", train=16)
    return FinalistsRequest(home / "run", data, count=3, plan=str(home / "plan.toml"), hold_out=0.25)


def copied(request: FinalistsRequest, folder: Path) -> FinalistsRequest:
    """The same request of a copy of the search's run."""
    (folder / "run").mkdir()
    for path in request.run.iterdir():
        if path.is_file():
            (folder / "run" / path.name).write_bytes(path.read_bytes())
    return replace(request, run=folder / "run")


def curves(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(folder.glob("*/reports.jsonl"))}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_at_three_moments_and_resumed_the_winner_is_the_same(request_: FinalistsRequest, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    progress = []
    lock = threading.RLock()  # as a bar has one, which cannot be pickled

    def on_progress(each: TrainingProgress) -> None:
        with lock:
            progress.append(each)

    whole = hold(request_, ONE, on_progress=on_progress)
    assert signal.getsignal(signal.SIGINT) is before
    assert whole.winner.epochs == 4
    assert {row.state for row in whole.rows} <= {"finished", "stopped"}
    assert progress[-1].total == 3
    assert whole.images == 12
    assert (request_.run / "finalists" / "winner.json").is_file()

    request = copied(request_, tmp_path)
    program = """
import os, signal, sys
from pathlib import Path
from mvig_nas.finalists import FinalistsRequest, hold
from mvig_nas.search.evaluators.resources import Resources
run, data, plan, moment = sys.argv[1:]
seen = []
def on_progress(progress):
    seen.append(progress)
    if len(seen) == int(moment):
        os.kill(os.getpid(), signal.SIGKILL)
request = FinalistsRequest(Path(run), Path(data), count=3, plan=plan, hold_out=0.25)
hold(request, Resources(trainings=1, in_memory=True), resume=int(moment) > 1, on_progress=on_progress)
"""
    kept: dict[str, str] = {}
    for moment in (1, 3, 6):
        command = [sys.executable, "-c", program, str(request.run), str(request.data), request.plan, str(moment)]
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=180, check=False)
        assert ended.returncode in (-signal.SIGKILL, 0), ended.stderr[-2000:]
        time.sleep(1)  # Ray's workers notice
        now = curves(request.run / "finalists")
        assert all(now[name].startswith(text) for name, text in kept.items())
        kept = now
    again = hold(request, ONE, resume=True)
    assert again.winner.architecture == whole.winner.architecture
    assert again.winner.curve == whole.winner.curve
    for text in curves(request.run / "finalists").values():
        epochs = [json.loads(line)["epoch"] for line in text.splitlines()]
        assert epochs == list(range(1, len(epochs) + 1))


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_cannot_write_ends_the_run(request_: FinalistsRequest, tmp_path: Path) -> None:
    request = replace(copied(request_, tmp_path), count=2)
    first = choose(Study.load(request.run), 2)[0].fingerprint  # has nobody to be compared with, so that it ends
    in_the_way = request.run / "finalists" / first / "result.json"
    in_the_way.mkdir(parents=True)  # as no disk can be filled here
    told = r"but: .*result\.json must be writable, got 'Is a directory'; .* What is trained is kept: resume"
    with pytest.raises(MvigNasError, match=told):
        hold(request, ONE)
    assert not (request.run / "finalists" / "winner.json").exists()
    in_the_way.rmdir()
    found = hold(request, ONE, resume=True)
    assert {row.state for row in found.rows} <= {"finished", "stopped"}


def test_what_is_refused(request_: FinalistsRequest, tmp_path: Path) -> None:
    request = copied(request_, tmp_path)
    with pytest.raises(MvigNasError, match=r"must hold run\.json"):
        hold(request, resume=True)
    with pytest.raises(MvigNasError, match="missing"):
        hold(replace(request, data=tmp_path / "missing"))
    with pytest.raises(MvigNasError, match="odd"):
        hold(replace(request, plan="odd"))
    with pytest.raises(MvigNasError, match="`count` must be a whole number of at least 2"):
        replace(request, count=1)
    assert not (request.run / "finalists").exists()
    folder = request.run / "finalists"
    folder.mkdir()
    with claim(folder / "lock"), pytest.raises(MvigNasError, match=f"but process {os.getpid()} is at it"):
        hold(request)
    with pytest.raises(MvigNasError, match="`--count` was 3 and is now 4"):
        hold(replace(request, count=4), resume=True)
    with pytest.raises(MvigNasError, match="go on with it by --resume"):
        hold(request)
