"""Scores computed by real Ray workers: the same search as alone, and what is left of it when things die."""

import dataclasses
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import hold_out, read_split
from mvig_nas.scores import Score, SupernetScore
from mvig_nas.search import Candidate, Progress, Study, search
from mvig_nas.search.contracts import Outcome
from mvig_nas.search.evaluators import ray_actors
from mvig_nas.search.evaluators.local import LocalEvaluator
from mvig_nas.search.evaluators.ray_actors import RayEvaluator
from mvig_nas.training import train_supernet
from tests.clusters import three_nodes
from tests.images import write_images
from tests.ray_scores import Deadly, Faulty, Paced, Unloadable, architectures, never
from tests.sampler_contract import HALF, TOY, SamplerContract, SizeLatency, WidthScore, no_costs, timeless
from tests.tiny_training import PLAN, RECIPE, SPACE

REPOSITORY = Path(__file__).parents[2]
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def values(outcomes: Sequence[Outcome]) -> dict[Architecture, tuple[float | None, str | None]]:
    assert len({o.architecture for o in outcomes}) == len(outcomes)
    return {o.architecture: (o.score, o.reason) for o in outcomes}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module", autouse=True)
def _no_ray_is_left() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def local() -> None:
    """Ray in this process, shared by the tests."""
    if not ray.is_initialized():
        ray.init("local", num_cpus=4, include_dashboard=False, **QUIET)


@pytest.fixture
def alone() -> None:
    """No Ray in this process."""
    ray.shutdown()


@pytest.fixture(scope="module")
def width() -> Iterator[RayEvaluator]:
    if not ray.is_initialized():
        ray.init("local", num_cpus=4, include_dashboard=False, **QUIET)
    with RayEvaluator(WidthScore(), workers=1) as evaluator:
        yield evaluator


class Seen:
    """Tells a score of this process what the workers were asked, and plays its Ctrl-C."""

    def __init__(self, evaluator: RayEvaluator, score: WidthScore) -> None:
        self.name = evaluator.name
        self.evaluator = evaluator
        self.score = score

    def __call__(self, asked: Sequence[Architecture], is_over: Callable[[], bool]) -> Generator[Outcome]:
        with closing(self.evaluator(asked, is_over)) as outcomes:
            for outcome in outcomes:
                self.score(outcome.architecture)
                yield outcome


# One worker, so that candidates are recorded in the same order; the tests below have more.
class TestOnRay(SamplerContract):
    sampler = "evolution"

    @pytest.fixture(autouse=True)
    def _evaluator(self, width: RayEvaluator) -> None:
        self.evaluator = width

    def run(self, score: WidthScore | None = None, **changes: object) -> Study:
        score = score or WidthScore()
        return super().run(score, **({"evaluator": Seen(self.evaluator, score), "batch": 8} | changes))


@pytest.mark.usefixtures("local")
def test_outcomes_are_those_of_this_process() -> None:
    asked = architectures(300)
    with RayEvaluator(WidthScore(), workers=2) as evaluator:
        assert evaluator.name == "width"
        for _ in range(2):
            assert values(list(evaluator(asked, never))) == values(list(LocalEvaluator(WidthScore())(asked, never)))
        assert list(evaluator([], never)) == []


@pytest.mark.usefixtures("local")
def test_as_many_workers_as_there_is_room_for() -> None:
    with RayEvaluator(WidthScore(), cpus=2) as evaluator:
        assert evaluator.workers == 2
        assert len(list(evaluator(architectures(5), never))) == 5


@pytest.mark.usefixtures("local")
def test_a_search_by_two_workers_is_the_one_of_this_process() -> None:
    def run(**changes: Any) -> Study:
        return search(TOY, WidthScore(), SizeLatency(), HALF, evaluations=60, batch=10, costs=no_costs, **changes)

    with RayEvaluator(WidthScore(), workers=2) as evaluator:
        assert timeless(run(evaluator=evaluator, sampler="surrogate")) == timeless(run(sampler="surrogate"))


@pytest.mark.usefixtures("local")
def test_an_evaluation_that_fails_is_an_outcome(tmp_path: Path) -> None:
    asked = architectures(40)
    faults = dict(zip([a.fingerprint for a in asked[20:24]], ["raise", "refuse", "exit", "nan"], strict=True))
    with RayEvaluator(Faulty(tmp_path, faults), workers=2) as evaluator:
        found = values(list(evaluator(asked, never)))
    assert [found[a] for a in asked[20:24]] == [
        (None, "ZeroDivisionError: by nought"),
        (None, "no score for this one."),
        (None, "SystemExit: 3"),
        (None, "the score must be finite, got nan"),
    ]
    assert sum(score is None for score, _ in found.values()) == 4


@pytest.mark.usefixtures("local")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_workers_that_die_or_hang_cost_nothing_but_time(tmp_path: Path) -> None:
    asked = architectures(60)
    once, always, hung = (a.fingerprint for a in asked[30:33])
    score = Faulty(tmp_path, {once: "die once", always: "die", hung: "hang"})
    with RayEvaluator(score, workers=2, timeout_s=1.5, retries=1) as evaluator:
        found = values(list(evaluator(asked, never)))
        reasons = {a.fingerprint: reason for a, (_, reason) in found.items() if reason}
        assert set(reasons) == {always, hung}
        assert reasons[always].startswith("its worker died 2 times, the last time: ")
        assert "\n" not in reasons[always]
        assert reasons[hung] == "took longer than the 1.5 s that an evaluation may take"
        assert {a: v for a, v in found.items() if v[0]} == values(
            list(LocalEvaluator(WidthScore())([a for a in asked if a.fingerprint not in reasons], never))
        )
        assert values(list(evaluator(asked[:20], never))) == values(
            list(LocalEvaluator(WidthScore())(asked[:20], never))
        )


@pytest.mark.usefixtures("local")
def test_nothing_begins_once_it_is_over_and_what_is_begun_ends(tmp_path: Path) -> None:
    asked = architectures(20)
    score = Faulty(tmp_path, seconds=0.4)
    seen: list[Outcome] = []
    with RayEvaluator(score, workers=2) as evaluator:
        for outcome in evaluator(asked, lambda: len(score.began) >= 6):
            seen.append(outcome)
        assert 6 <= len(seen) == len(score.began) < 20
        assert all(outcome.score is not None for outcome in seen)
        assert list(evaluator(asked, lambda: True)) == []


@pytest.mark.usefixtures("local")
def test_closed_in_the_middle_it_gives_up_and_can_be_called_again(tmp_path: Path) -> None:
    asked = architectures(6)
    score = Faulty(tmp_path, {asked[3].fingerprint: "hang"}, seconds=0.35)
    with RayEvaluator(score, workers=1) as evaluator:
        outcomes = evaluator(asked, never)
        assert [next(outcomes).architecture for _ in range(3)] == asked[:3]
        outcomes.close()
        assert [o.architecture for o in evaluator(asked[4:], never)] == asked[4:]


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize(
    ("score", "changes", "message"),
    [
        (WidthScore(), {"gpus": 1, "start_timeout_s": 0.5}, "a worker needs a node of 1 CPUs and 1 GPUs, but"),
        (WidthScore(), {"cpus": 5, "start_timeout_s": 0.5}, "5 CPUs and 0 GPUs, but the cluster has 4 and 0; ask"),
        (Unloadable(), {}, "able to load the score 'width', but: FileNotFoundError: no images here; what it reads"),
        (Deadly(), {"retries": 1}, "workers must start, but 2 in a row died before they had the score: "),
        (Paced(WidthScore(), (n for n in ())), {}, "can be pickled, to be sent to workers, but 'width' is not"),  # type: ignore[arg-type]
        (WidthScore(), {"workers": 0}, "`workers` of a Ray evaluator must be at least 1, or None, got 0"),
        (WidthScore(), {"cpus": 0}, "`cpus` of a Ray evaluator must be above 0, got 0"),
        (WidthScore(), {"gpus": -1}, "`gpus` of a Ray evaluator must be 0 or more, got -1"),
        (WidthScore(), {"timeout_s": 0}, "`timeout_s` of a Ray evaluator must be above 0, or None, got 0"),
        (WidthScore(), {"retries": -1}, "`retries` of a Ray evaluator must be 0 or more, got -1"),
    ],
)
def test_what_cannot_start_says_why(score: Score, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MvigNasError, match=message), RayEvaluator(score, **({"workers": 1} | changes)):
        pass


@pytest.mark.usefixtures("local")
def test_nodes_must_have_the_same_version(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    own = ray_actors._versions()
    monkeypatch.setattr(ray_actors, "_versions", lambda: own | {"torch": "0.1"})
    with RayEvaluator(WidthScore(), workers=1):
        assert "scores may differ in their last digits: torch 0.1 here" in caplog.text
    monkeypatch.setattr(ray_actors, "_versions", lambda: own | {"mvig-nas": "99"})
    with (
        pytest.raises(MvigNasError, match="the same mvig-nas, got mvig-nas 99 here, "),
        RayEvaluator(WidthScore(), workers=1),
    ):
        pass


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "nowhere"])
def test_a_head_that_is_not_there(address: str) -> None:
    began = time.monotonic()
    address = address.format(port=free_port())
    with (
        pytest.raises(MvigNasError, match=f"must answer at {address} within 10 s"),
        RayEvaluator(WidthScore(), address=address, workers=1),
    ):
        pass
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("alone")
def test_the_search_runs_in_the_cluster() -> None:
    with (
        pytest.raises(MvigNasError, match=r"on a machine of the cluster.*got ray://head:10001"),
        RayEvaluator(WidthScore(), address="ray://head:10001", workers=1),
    ):
        pass


@pytest.mark.slow
def test_one_that_listens_but_is_no_head() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        program = (
            "from mvig_nas.search.evaluators.ray_actors import RayEvaluator\n"
            "from tests.sampler_contract import WidthScore\n"
            f"with RayEvaluator(WidthScore(), address='127.0.0.1:{listener.getsockname()[1]}', workers=1): pass"
        )
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=40, check=False
        )
    assert "within 10 s, but none did" in ended.stderr
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_an_object_store_that_is_full() -> None:
    program = """
import logging, ray
from mvig_nas.search.evaluators.ray_actors import RayEvaluator
from tests.sampler_contract import WidthScore
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
         object_store_memory=80 * 2**20)
score = WidthScore()
score.weights = bytes(300 * 2**20)
with RayEvaluator(score, workers=1): pass
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=os.environ | {"RAY_local_fs_capacity_threshold": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "MvigNasError: the score must fit into Ray's object store, but it is full" in ended.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), train=24, val=8)


@pytest.fixture(scope="module")
def supernet(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supernet")
    recipe = dataclasses.replace(RECIPE, epochs=4, hold_out=0.25)
    train_supernet(SPACE, hold_out(read_split(images, "train"), 0.25)[0], recipe, folder, plan=PLAN)
    return folder


@pytest.mark.usefixtures("local")
def test_a_supernet_scores_as_here_by_weights_that_were_sent(supernet: Path, images: Path) -> None:
    score = SupernetScore(supernet, images, calibration_images=12)
    asked = [SPACE.largest, SPACE.smallest, *(SPACE.sample(random.Random(n)) for n in range(4))]
    asked = list(dict.fromkeys(asked))
    with RayEvaluator(score, workers=2) as evaluator:
        (supernet / "supernet.safetensors").rename(supernet / "moved")
        found = values(list(evaluator(asked, never)))
    (supernet / "moved").rename(supernet / "supernet.safetensors")
    (supernet / "supernet.scores.jsonl").rename(supernet / "theirs")
    assert found == values(list(LocalEvaluator(SupernetScore(supernet, images, calibration_images=12))(asked, never)))
    lines = {line for line in (supernet / "theirs").read_text().splitlines() if line}
    assert lines == {line for line in (supernet / "supernet.scores.jsonl").read_text().splitlines() if line}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with three_nodes() as nodes:
        yield nodes


def _is_on(pid: int, node: Any) -> bool:
    """Whether a process is a worker of the node: a child of its raylet."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return False
    return bool(parent == node.all_processes["raylet"][0].process.pid)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_node_and_a_worker_are_lost_in_the_middle(
    cluster: Cluster, supernet: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(score: Score, **changes: Any) -> Study:
        return search(
            SPACE,
            score,
            SizeLatency(),
            Budget(latency_ms=100),
            evaluations=40,
            sampler="evolution",
            batch=8,
            seed=5,
            costs=no_costs,
            **changes,
        )

    score = SupernetScore(supernet, images, calibration_images=12)
    whole = run(score)
    (supernet / "supernet.scores.jsonl").unlink()
    slow = Paced(SupernetScore(supernet, images, calibration_images=12), tmp_path / "began")
    with RayEvaluator(slow, address=cluster.address, workers=3) as evaluator:
        broken: list[str] = []

        def break_things(progress: Progress) -> None:
            workers = [int(pid) for pid in (tmp_path / "began").read_text().split()]
            if progress.evaluated >= 7 and not broken:
                # one that is still starting would not be missed
                node = next((node for node in cluster.worker_nodes if any(_is_on(pid, node) for pid in workers)), None)
                if node is not None:
                    cluster.remove_node(node, allow_graceful=False)
                    broken.append("a node")
            elif progress.evaluated >= 20 and broken == ["a node"]:
                os.kill(next(pid for pid in reversed(workers) if Path(f"/proc/{pid}").exists()), signal.SIGKILL)
                broken.append("a worker")

        study = run(slow, evaluator=evaluator, folder=tmp_path / "study", on_candidate=break_things)
    assert broken == ["a node", "a worker"]
    assert caplog.text.count("a worker died") == 2
    assert study.winner is not None
    assert whole.winner is not None
    assert study.winner.fingerprint == whole.winner.fingerprint
    assert timeless(study) == timeless(whole) == timeless(Study.load(tmp_path / "study"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("alone")
def test_the_last_node_is_lost(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        asked = architectures(4)
        score = Faulty(tmp_path, seconds=0.4)
        with RayEvaluator(score, address=cluster.address, workers=1, start_timeout_s=5) as evaluator:
            outcomes = evaluator(asked, never)
            assert next(outcomes).architecture == asked[0]
            cluster.remove_node(node, allow_graceful=False)
            with pytest.raises(
                MvigNasError, match="needs a node of 1 CPUs and 0 GPUs, but the cluster has 0 and 0; ask"
            ):
                list(outcomes)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_search_killed_twice_and_resumed_twice(cluster: Cluster, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from mvig_nas.search.evaluators.ray_actors import RayEvaluator
from mvig_nas.search import search
from tests.sampler_contract import HALF, TOY, SizeLatency, no_costs
from tests.ray_scores import Faulty
address, folder, resume = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "True"
score = Faulty(folder, seconds=0.2)
with RayEvaluator(score, address=address, workers=3) as evaluator:
    search(TOY, score, SizeLatency(), HALF, evaluations=60, sampler="evolution", batch=10, costs=no_costs,
           folder=folder / "study", resume=resume, evaluator=evaluator)
"""
    score = Faulty(tmp_path)
    recorded: dict[str, Candidate] = {}
    for part in range(3):
        began = len(score.began)
        command = [sys.executable, "-c", program, cluster.address, str(tmp_path), str(part > 0)]
        with subprocess.Popen(command, cwd=REPOSITORY) as driver:
            while driver.poll() is None and (part == 2 or len(score.began) < began + 20):
                time.sleep(0.1)
            if part < 2:
                driver.kill()
        assert driver.returncode == (0 if part == 2 else -signal.SIGKILL)
        since = score.began[began:]
        assert not {name for name, _ in since} & set(recorded)
        study = Study.load(tmp_path / "study")
        assert {c.fingerprint: c for c in study.candidates}.items() >= recorded.items()
        recorded = {c.fingerprint: c for c in study.candidates}
        assert len(recorded) == len(study.candidates)
        assert study.evaluated > 20 * part
        _wait_until(lambda pids=[pid for _, pid in since]: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    whole = search(
        TOY, WidthScore(), SizeLatency(), HALF, evaluations=60, sampler="evolution", batch=10, costs=no_costs
    )
    assert timeless(study) == timeless(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("alone")
def test_a_head_lost_in_the_middle_ends_the_search(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
import ray
from mvig_nas.search.evaluators.ray_actors import RayEvaluator
from tests.ray_scores import Faulty, architectures, never
with RayEvaluator(Faulty(Path(sys.argv[1]), seconds=600), workers=1) as evaluator:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    gcs = next(pid for pid in children if "gcs_server" in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(int(gcs), signal.SIGKILL)
    list(evaluator(architectures(3), never))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "MvigNasError: the head of the Ray cluster must answer, but" in ended.stderr


def _wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


_CLIENT = """
import sys
import ray
ray.init(sys.argv[1], log_to_driver=False)
print("joined")
"""


def test_ray_that_is_started_here_refuses_a_client_without_its_token(tmp_path: Path) -> None:
    ray.shutdown()
    with RayEvaluator(WidthScore(), workers=1):
        address = ray.get_runtime_context().gcs_address

        def client(**changes: str) -> subprocess.CompletedProcess[str]:
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
            return subprocess.run(
                [sys.executable, "-c", _CLIENT, address], env=inherited | changes, capture_output=True, text=True,
                check=False, timeout=120,
            )  # fmt: skip

        stranger = client(HOME=str(tmp_path), RAY_AUTH_MODE="disabled")
        assert stranger.returncode != 0
        assert "joined" not in stranger.stdout
        wrong = client(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
        assert wrong.returncode != 0
        assert "joined" not in wrong.stdout
        assert "joined" in client(RAY_AUTH_MODE="token").stdout
