"""Short trainings on three Ray nodes: a node is lost, the driver is killed, and nothing is trained twice."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from mvig_nas import shipped
from mvig_nas.budget import Budget
from mvig_nas.finalists import FinalistsRequest, hold
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.scores import load
from mvig_nas.search import SearchRequest, SearchSettings, Study, WorkerOptions, run_search, search
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.evaluators.tune_trainings import TrainingProgress
from tests.clusters import three_nodes
from tests.images import write_images
from tests.tiny_training import SPACE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

REPOSITORY = Path(__file__).parents[2]
PLAN = "epochs = 4\nbatch_size = 12\nlearning_rate = 5e-3\nwarmup_epochs = 1\n"
# the head of the programs that are killed after so many reports
KILLED = """
import os, signal, sys
from pathlib import Path
from mvig_nas.budget import Budget
from mvig_nas.finalists import FinalistsRequest, hold
from mvig_nas.search import SearchRequest, SearchSettings, WorkerOptions, run_search
from mvig_nas.search.evaluators.resources import Resources
address, run, data, plan = sys.argv[1:]
seen = []
def on_progress(progress):
    seen.append(progress)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with three_nodes() as nodes:
        yield nodes


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "plan.toml").write_text(PLAN)
    write_images(tmp_path / "images", train=16)
    return tmp_path


def finalists_of(home: Path) -> FinalistsRequest:
    device = shipped.device_names()[0]
    search(
        SPACE, load("log_macs"), ArchitectureLatency.load(device), Budget(latency_ms=10.0), evaluations=12,
        sampler="random", folder=home / "run", labels={"device": device},
    )  # fmt: skip
    return FinalistsRequest(home / "run", home / "images", count=4, plan=str(home / "plan.toml"), hold_out=0.25)


def search_of(home: Path, address: str | None) -> SearchRequest:
    return SearchRequest(
        space="micro",
        score=f"train:{home / 'plan.toml'}",
        data=home / "images",
        budget=Budget(latency_ms=0.42),
        settings=SearchSettings(evaluations=5, sampler="random", batch=4),
        ray=WorkerOptions(address=address, workers=3),
    )


def without_a_node(cluster: Cluster) -> tuple[Callable[[TrainingProgress], None], list[TrainingProgress]]:
    """A watcher that takes a node away after the second report; all three have a training then."""
    seen: list[TrainingProgress] = []

    def on_progress(progress: TrainingProgress) -> None:
        seen.append(progress)
        if len(seen) == 2:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    return on_progress, seen


def epochs_in(folder: Path) -> dict[str, list[int]]:
    """The epochs that were reported of every training, in their order."""
    found = {}
    for path in sorted(folder.glob("*/reports.jsonl")):
        found[path.parent.name] = [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
    return found


def require_once(folder: Path, before: dict[str, str] | None = None) -> dict[str, str]:
    """Every epoch is reported once, and what was reported before is still there."""
    assert all(epochs == list(range(1, len(epochs) + 1)) for epochs in epochs_in(folder).values())
    now = {path.parent.name: path.read_text() for path in folder.glob("*/reports.jsonl")}
    assert all(now[name].startswith(text) for name, text in (before or {}).items())
    return now


def kill(program: str, *arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED + program, *arguments], cwd=REPOSITORY, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    time.sleep(2)  # Ray notices


def test_finalists_lose_a_node(cluster: Cluster, home: Path) -> None:
    request = finalists_of(home)
    on_progress, seen = without_a_node(cluster)
    found = hold(request, Resources(address=cluster.address, trainings=3), on_progress=on_progress)
    assert len(seen) > 2
    assert len(cluster.worker_nodes) == 1
    assert {row.state for row in found.rows} <= {"finished", "stopped"}
    assert found.winner.epochs == 4
    require_once(request.run / "finalists")


def test_finalists_whose_driver_is_killed_go_on(cluster: Cluster, home: Path) -> None:
    request = finalists_of(home)
    program = """
hold(FinalistsRequest(Path(run), Path(data), count=4, plan=plan, hold_out=0.25),
     Resources(address=address, trainings=3), on_progress=on_progress)
"""
    kill(program, cluster.address, str(request.run), str(request.data), request.plan)
    kept = require_once(request.run / "finalists")
    assert kept
    found = hold(request, Resources(address=cluster.address, trainings=3), resume=True)
    assert {row.state for row in found.rows} <= {"finished", "stopped"}
    require_once(request.run / "finalists", kept)


def test_a_search_by_trainings_loses_a_node(cluster: Cluster, home: Path) -> None:
    on_training, seen = without_a_node(cluster)
    study = run_search(search_of(home, cluster.address), home / "run", on_training=on_training).study
    assert len(seen) > 2
    assert len(cluster.worker_nodes) == 1
    assert study.evaluated == 5
    assert all(each.score is not None for each in study.candidates if each.is_evaluated)
    require_once(home / "run" / "trainings")


def test_a_search_by_trainings_whose_driver_is_killed_goes_on(cluster: Cluster, home: Path) -> None:
    program = """
request = SearchRequest(space="micro", score="train:" + plan, data=Path(data), budget=Budget(latency_ms=0.42),
                        settings=SearchSettings(evaluations=5, sampler="random", batch=4),
                        ray=WorkerOptions(address=address, workers=3))
run_search(request, Path(run), on_training=on_progress)
"""
    kill(program, cluster.address, str(home / "run"), str(home / "images"), str(home / "plan.toml"))
    kept = require_once(home / "run" / "trainings")
    recorded = Study.load(home / "run").candidates
    study = run_search(search_of(home, cluster.address), home / "run", resume=True).study
    assert study.evaluated == 5
    assert study.candidates[: len(recorded)] == recorded
    trained = set(epochs_in(home / "run" / "trainings"))
    assert {each.fingerprint for each in study.candidates if each.is_evaluated} == trained
    require_once(home / "run" / "trainings", kept)
