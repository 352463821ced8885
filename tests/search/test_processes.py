"""Scores computed by several processes: the same search as in one, and what is left of it when processes die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvig_nas import kernels
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import hold_out, read_split
from mvig_nas.scores import Score, SupernetScore, load
from mvig_nas.search import Study, search
from mvig_nas.search.evaluators.local import LocalEvaluator
from mvig_nas.search.evaluators.processes import ProcessEvaluator
from mvig_nas.training import train_supernet
from tests.images import write_images
from tests.ray_scores import Deadly, Faulty, architectures, never
from tests.sampler_contract import HALF, TOY, SizeLatency, WidthScore, no_costs, timeless
from tests.tiny_training import PLAN, RECIPE, SPACE

REPOSITORY = Path(__file__).parents[2]


def values(found: list[Any]) -> dict[Architecture, tuple[float | None, str | None]]:
    assert len({outcome.architecture for outcome in found}) == len(found)
    return {outcome.architecture: (outcome.score, outcome.reason) for outcome in found}


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_search_by_two_processes_is_the_one_of_one() -> None:
    def run(sampler: str, **changes: Any) -> Study:
        score = load("naswot", resolution=32, batch_size=4)
        return search(TOY, score, SizeLatency(), HALF, evaluations=30, sampler=sampler, costs=no_costs, **changes)

    with ProcessEvaluator(load("naswot", resolution=32, batch_size=4), 2) as evaluator:
        for sampler in ("surrogate", "random"):
            two, one = run(sampler, evaluator=evaluator), run(sampler)
            assert timeless(two) == timeless(one)
            assert two.winner is not None
            assert two.winner.order == (one.winner.order if one.winner else None)


def test_a_supernet_scores_the_same_in_processes(tmp_path: Path) -> None:
    images, folder = write_images(tmp_path / "images", train=24, val=8), tmp_path / "supernet"
    recipe = replace(RECIPE, hold_out=0.25)
    train_supernet(SPACE, hold_out(read_split(images, "train"), 0.25)[0], recipe, folder, plan=PLAN)

    def score() -> SupernetScore:
        return SupernetScore(folder, images, calibration_images=12)

    asked = [SPACE.largest, SPACE.smallest]
    with ProcessEvaluator(score(), 2) as evaluator:
        found = values(list(evaluator(asked, never)))
    (folder / "supernet.scores.jsonl").unlink()
    assert found == values(list(LocalEvaluator(score())(asked, never)))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_processes_that_die_cost_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = architectures(40)
    once, always, refused, odd = (each.fingerprint for each in asked[20:24])
    score = Faulty(tmp_path, {once: "die once", always: "die", refused: "refuse", odd: "nan"})
    with ProcessEvaluator(score, 2) as evaluator:
        found = values(list(evaluator(asked, never)))
    reasons = {each.fingerprint: reason for each, (_, reason) in found.items() if reason}
    assert reasons == {
        always: "3 processes that computed its score ended with exit code 1",
        refused: "no score for this one.",
        odd: "the score must be finite, got nan",
    }
    assert caplog.text.count("the score that it computed is computed again") == 3
    assert {each: value for each, value in found.items() if value[0]} == values(
        list(LocalEvaluator(WidthScore())([each for each in asked if each.fingerprint not in reasons], never))
    )


def test_the_costliest_are_computed_first() -> None:
    asked = architectures(8)
    with ProcessEvaluator(WidthScore(), 1) as evaluator:
        found = [outcome.architecture for outcome in evaluator(asked, never)]
    macs = [kernels.totals(kernels.of(each)).macs for each in found]
    assert macs == sorted(macs, reverse=True)
    assert set(found) == set(asked)


def test_a_bug_of_the_score_is_raised_here(tmp_path: Path) -> None:
    asked = architectures(3)
    score = Faulty(tmp_path, {asked[1].fingerprint: "raise"})
    with ProcessEvaluator(score, 2) as evaluator, pytest.raises(ZeroDivisionError, match="by\nnought") as raised:
        list(evaluator(asked, never))
    assert "In the process that computed the score:" in raised.value.__notes__[0]


def test_nothing_begins_once_it_is_over_and_it_can_be_closed_in_the_middle(tmp_path: Path) -> None:
    asked = architectures(20)
    score = Faulty(tmp_path, {asked[15].fingerprint: "hang"}, seconds=0.2)
    with ProcessEvaluator(score, 2) as evaluator:
        found = list(evaluator(asked[:15], lambda: len(score.began) >= 4))
        assert 4 <= len(found) == len(score.began) < 15
        assert list(evaluator(asked, lambda: True)) == []
        outcomes = evaluator(asked[14:], never)
        assert next(outcomes).architecture in asked
        outcomes.close()
        assert set(values(list(evaluator(asked[16:], never)))) == set(asked[16:])


class Nameless(WidthScore):
    """A score that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.how = lambda: None


@pytest.mark.parametrize(
    ("score", "workers", "message"),
    [
        (Nameless(), 2, "can be pickled, to be sent to processes, but 'width' is not"),
        (Deadly(), 1, r"able to load the score 'width', but 3 in a row ended with exit code 1 before they had it"),
        (WidthScore(), 0, "`workers` must be at least 1, got 0"),
    ],
)
def test_what_cannot_start_says_why(score: Score, workers: int, message: str) -> None:
    with pytest.raises(MvigNasError, match=message), ProcessEvaluator(score, workers) as evaluator:
        list(evaluator(architectures(2), never))


def test_a_search_killed_and_resumed_ends_as_the_whole_one(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from mvig_nas.search import search
from mvig_nas.search.evaluators.processes import ProcessEvaluator
from tests.ray_scores import Faulty
from tests.sampler_contract import HALF, TOY, SizeLatency, no_costs
folder, resume = Path(sys.argv[1]), sys.argv[2] == "True"
score = Faulty(folder, seconds=0.1)
with ProcessEvaluator(score, 2) as evaluator:
    search(TOY, score, SizeLatency(), HALF, evaluations=30, sampler="evolution", costs=no_costs,
           folder=folder / "study", resume=resume, evaluator=evaluator)
"""
    score = Faulty(tmp_path)
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen([*command, "False"], cwd=REPOSITORY) as killed:
        wait_until(lambda: len(score.began) >= 12)
        killed.kill()
    recorded = {each.fingerprint for each in Study.load(tmp_path / "study").candidates}
    pids = {pid for _, pid in score.began}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
    before = len(score.began)
    subprocess.run([*command, "True"], cwd=REPOSITORY, check=True, timeout=120)
    assert not {name for name, _ in score.began[before:]} & recorded
    whole = search(TOY, WidthScore(), SizeLatency(), HALF, evaluations=30, sampler="evolution", costs=no_costs)
    assert timeless(Study.load(tmp_path / "study")) == timeless(whole)


def test_ctrl_c_ends_all_processes_with_the_usual_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mvig_nas", "search", "--latency-budget", "1.0ms", "--workers", "2"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as running:  # fmt: skip
        journal = tmp_path / "run" / "study.journal"
        wait_until(lambda: journal.exists() and len(journal.read_text().splitlines()) > 8)
        os.killpg(running.pid, signal.SIGINT)
        told = running.communicate(timeout=30)[1]
    assert running.returncode == 130
    assert f"interrupted; every scored candidate is saved. To go on: mvig-nas search --resume --out {tmp_path}" in told
    assert "--workers 2" in told
    assert "Traceback" not in told

    def is_gone() -> bool:
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(is_gone, 10)
