"""The search loop and the study: front, winner, budgets, failures, resumption, damage."""

import dataclasses
import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import of, totals
from mvig_nas.search import FAILED, FEASIBLE, INFEASIBLE, Candidate, Progress, Study, kernel_costs, pareto_front, search
from mvig_nas.search.storage import LOCK
from mvig_nas.search_space import SearchSpace
from mvig_nas.shipped import folder as shipped_folder
from tests.sampler_contract import HALF, TOY, SamplerContract, SizeLatency, StopAfter, WidthScore, no_costs, outcome


class TestSurrogate(SamplerContract):
    sampler = "surrogate"


class TestEvolution(SamplerContract):
    sampler = "evolution"


class TestRandom(SamplerContract):
    sampler = "random"


def run(score: object = None, budget: Budget = HALF, **changes: object) -> Study:
    settings: dict[str, object] = {"evaluations": 30, "sampler": "evolution", "costs": no_costs}
    return search(TOY, score or WidthScore(), SizeLatency(), budget, **(settings | changes))  # type: ignore[arg-type]


def candidate(number: int, score: float | None, latency_ms: float) -> Candidate:
    state = INFEASIBLE if score is None else FEASIBLE
    return Candidate(number, 0, PRESETS["mobilevig_ti"], state, latency_ms, {}, 1, score)


def study_of(*candidates: Candidate) -> Study:
    return dataclasses.replace(run(evaluations=1), candidates=candidates)


def test_front_against_one_drawn_by_hand() -> None:
    points = [
        (0, 5.0, 1.0),  # beaten by 2: as fast, better
        (1, 4.0, 0.5),  # front: the fastest
        (2, 6.0, 1.0),  # front
        (3, 6.0, 1.5),  # beaten by 2: as good, faster
        (4, 9.0, 2.0),  # front: the best
        (5, None, 0.1),  # never scored
        (6, 6.0, 1.0),  # as 2, later
        (7, 3.0, 0.6),  # beaten by 1
    ]
    front = pareto_front([candidate(*point) for point in points])
    assert [c.number for c in front] == [1, 2, 4]


def test_the_winner_has_the_highest_score_then_the_least_latency_then_came_first() -> None:
    study = study_of(candidate(0, 5.0, 0.1), candidate(1, 7.0, 0.9), candidate(2, 7.0, 0.8), candidate(3, 7.0, 0.8))
    assert study.winner is not None
    assert study.winner.number == 2
    assert study_of(candidate(0, None, 1.0)).winner is None


def test_best_so_far_counts_evaluations_only() -> None:
    failed = dataclasses.replace(candidate(0, None, 1.0), state=FAILED)
    study = study_of(failed, candidate(1, None, 1.0), candidate(2, 5.0, 1.0), candidate(3, 4.0, 1.0))
    assert study.best_so_far == (None, 5.0, 5.0)
    assert study.evaluated == 3


def test_presets_of_the_space_are_evaluated_first() -> None:
    space = SearchSpace.from_toml(shipped_folder("search_spaces") / "mobilevig.toml")
    study = search(space, WidthScore(), SizeLatency(), Budget(latency_ms=100.0), evaluations=5, costs=no_costs)
    assert [c.architecture for c in study.candidates] == [*PRESETS.values(), space.smallest]


def test_progress_is_told_after_each_candidate() -> None:
    told: list[Progress] = []
    study = run(sampler="random", on_candidate=told.append)
    assert [progress.candidate for progress in told] == list(study.candidates)
    assert told[-1].best == study.winner
    assert told[-1].evaluated == told[-1].evaluations == 30
    assert told[-1].recorded == len(study.candidates)
    assert told[-1].judged == study.judged


def test_auto_takes_the_sampler_that_wins_the_benchmark() -> None:
    assert run(sampler="auto").settings.sampler == "surrogate"


def test_limits_besides_latency() -> None:
    study = run(budget=Budget(latency_ms=0.25, parameters=200_000), sampler="random")
    assert {c.state for c in study.candidates} == {FEASIBLE, INFEASIBLE}
    for c in study.candidates:
        assert c.totals is not None
        fits = c.latency_ms <= 0.25 and c.totals.parameters <= 200_000
        assert (c.state == FEASIBLE) == fits
        assert c.violations["parameters"] == pytest.approx(c.totals.parameters / 200_000 - 1)


def test_confidence_holds_the_upper_bound_against_the_budget() -> None:
    study = run(budget=Budget(latency_ms=0.25, confidence=0.9), sampler="random")
    # the upper end at coverage 0.8 lies 20 per cent above the prediction
    assert all((c.state == FEASIBLE) == (c.latency_ms * 1.2 <= 0.25) for c in study.candidates)
    assert all(c.interval_ms == pytest.approx((c.latency_ms * 0.8, c.latency_ms * 1.2)) for c in feasible(study))


def feasible(study: Study) -> list[Candidate]:
    return [c for c in study.candidates if c.state == FEASIBLE]


class Sulky(WidthScore):
    """Fails now and then, in the three ways a score may."""

    def __call__(self, architecture: Architecture) -> float:
        score = super().__call__(architecture)
        if len(self.asked) % 4 == 0:
            raise MvigNasError("no gradient reached the first layer")
        return math.nan if len(self.asked) % 4 == 1 else math.inf if len(self.asked) % 4 == 2 else score


@pytest.mark.parametrize("sampler", ["surrogate", "evolution", "tpe", "nsga2"])
def test_a_failed_score_is_recorded_and_not_fatal(tmp_path: Path, sampler: str) -> None:
    score = Sulky()
    study = run(score, sampler=sampler, folder=tmp_path)
    failed = [c for c in study.candidates if c.state == FAILED]
    assert len(score.asked) == study.evaluated == 30
    assert len(failed) == 23
    assert {c.reason for c in failed} == {
        "no gradient reached the first layer",
        "the score must be finite, got nan",
        "the score must be finite, got inf",
    }
    assert study.winner is not None
    assert outcome(Study.load(tmp_path)) == outcome(study)
    assert [c.reason for c in Study.load(tmp_path).candidates] == [c.reason for c in study.candidates]


# Budgets out of reach.


def test_a_latency_below_the_space_is_answered_with_its_fastest_architecture() -> None:
    fastest = min(SizeLatency().predict_ms([TOY.smallest]))
    with pytest.raises(
        MvigNasError, match=rf"got 0.01ms: the fastest architecture found in 'toy' takes {fastest:.4f}ms"
    ):
        run(budget=Budget(latency_ms=0.01))


def test_the_attainable_latency_that_the_error_names_can_be_asked_for() -> None:
    with pytest.raises(MvigNasError, match=r"ask for [\d.]+ms or more") as caught:
        run(budget=Budget(latency_ms=0.01))
    advised = float(str(caught.value).split("ask for ")[1].split("ms")[0])
    assert run(budget=Budget(latency_ms=advised), evaluations=1).winner is not None


class SmallIsSlow(SizeLatency):
    """A phone on which `space.smallest` is not the fastest."""

    def predict_ms(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        slow = np.array([1.0 if a.stages[0].width == 8 and a.stages[1].width == 12 else 0.0 for a in architectures])
        return super().predict_ms(architectures) + slow


def test_a_budget_that_the_smallest_architecture_misses_is_met_by_descent() -> None:
    study = search(TOY, WidthScore(), SmallIsSlow(), HALF, evaluations=20, sampler="evolution", costs=no_costs)
    assert study.winner is not None
    assert study.candidates[0].state == FEASIBLE


def test_another_limit_below_the_space() -> None:
    with pytest.raises(
        MvigNasError, match=r"`parameters` must be within the space's reach, got 10: the least .* is \d+"
    ):
        run(budget=Budget(latency_ms=0.25, parameters=10))


def test_limits_that_no_architecture_meets_together() -> None:
    class Opposed(SizeLatency):
        def predict_ms(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
            return 30.0 / super().predict_ms(architectures)

    budget = Budget(latency_ms=float(Opposed().predict_ms([TOY.largest])[0]) * 1.01, parameters=150_000)
    with pytest.raises(MvigNasError, match=r"no architecture of 'toy' was found that meets .* together"):
        search(TOY, WidthScore(), Opposed(), budget, evaluations=5, costs=no_costs)


def test_a_predictor_that_breaks_is_named() -> None:
    class Broken(SizeLatency):
        def predict_ms(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
            return np.full(len(architectures), np.nan)

    with pytest.raises(MvigNasError, match="predicted latency must be a positive number of milliseconds, got nan"):
        search(TOY, WidthScore(), Broken(), HALF, evaluations=5, costs=no_costs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "`evaluations` must be a whole number of at least 1, got 0"),
        ({"budget": Budget()}, "a search must have a budget, got none"),
        ({"sampler": "tpee"}, "no sampler is called 'tpee'; did you mean 'tpe'"),
        ({"resume": True}, "`resume` must come with the folder of a study"),
    ],
)
def test_settings_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        run(**changes)  # type: ignore[arg-type]


def test_limits_on_the_search_itself() -> None:
    assert run(sampler="random", candidates_limit=10).ended == "candidates limit"
    study = run(time_limit_s=0.0)
    assert (study.ended, study.candidates) == ("time limit", ())


# On disk.


def test_a_study_reads_back_as_it_was(tmp_path: Path) -> None:
    study = run(folder=tmp_path, sampler="random", labels={"device": "iphone-13-mini"})
    loaded = Study.load(tmp_path)
    assert loaded == dataclasses.replace(study, folder=tmp_path)
    assert loaded.settings.labels == {"device": "iphone-13-mini"}
    lines = [json.loads(line) for line in (tmp_path / "candidates.jsonl").read_text().splitlines()]
    assert [line["fingerprint"] for line in lines] == [c.fingerprint for c in study.candidates]
    assert [Architecture.from_dict(line["architecture"]) for line in lines] == [
        c.architecture for c in study.candidates
    ]


def test_a_study_written_by_an_earlier_version_still_reads() -> None:
    study = Study.load(Path(__file__).parents[1] / "fixtures" / "study")
    assert (len(study.candidates), study.evaluated, study.ended) == (17, 5, "evaluations")
    assert study.winner is not None
    assert study.winner.fingerprint == "b785a30d5e83f891"


def test_a_study_of_an_earlier_version_is_gone_on_with_as_a_new_one(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "study", tmp_path / "old")
    changes: dict[str, Any] = {"sampler": "random", "evaluations": 9, "labels": {"device": "iphone-13-mini"}}
    study = run(folder=tmp_path / "old", resume=True, **changes)
    assert study.evaluated == 9
    assert outcome(study) == outcome(run(**changes)) == outcome(Study.load(tmp_path / "old"))


def test_an_existing_study_is_not_overwritten(tmp_path: Path) -> None:
    run(folder=tmp_path, evaluations=2)
    with pytest.raises(MvigNasError, match=r"holds one; go on with it by `--resume`, or take another `--out`"):
        run(folder=tmp_path, evaluations=2)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match=r"no study in .*; check the folder"):
        run(folder=tmp_path / "typo", resume=True)
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "`seed` was 0 and is now 1"),
        ({"sampler": "random"}, "`sampler` was 'evolution' and is now 'random'"),
        ({"front": True}, "`front` was False and is now True"),
        ({"labels": {"device": "iphone-14"}}, "`labels.device` was 'iphone-12' and is now 'iphone-14'"),
        ({"budget": Budget(latency_ms=0.3)}, "`budget.latency_ms` was 0.25 and is now 0.3"),
        ({"evaluations": 5}, "must not ask for fewer evaluations than it has, 30, got 5"),
    ],
)
def test_other_settings_are_refused_on_resumption(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    labels = {"device": "iphone-12"}
    run(folder=tmp_path, labels=labels)
    with pytest.raises(MvigNasError, match=message):
        run(**{"folder": tmp_path, "labels": labels, "resume": True} | changes)  # type: ignore[arg-type]


def test_another_space_or_score_is_refused_on_resumption(tmp_path: Path) -> None:
    run(folder=tmp_path)
    choices = dict(TOY.choices) | {"stage2.width": (12, 20)}
    other = SearchSpace("toy", choices, TOY.description)
    with pytest.raises(MvigNasError, match=r"`space.stage2.width` was \[12, 16\] and is now \[12, 20\]"):
        search(
            other, WidthScore(), SizeLatency(), HALF, evaluations=30, sampler="evolution", costs=no_costs,
            folder=tmp_path, resume=True,
        )  # fmt: skip

    class Other(WidthScore):
        name = "naswot"

    with pytest.raises(MvigNasError, match="`score` was 'width' and is now 'naswot'"):
        run(Other(), folder=tmp_path, resume=True)


def test_auto_keeps_the_sampler_it_took_first(tmp_path: Path) -> None:
    run(folder=tmp_path, sampler="random", evaluations=4)
    assert run(folder=tmp_path, sampler="auto", evaluations=6, resume=True).settings.sampler == "random"


def test_a_finished_search_resumed_evaluates_nothing(tmp_path: Path) -> None:
    study = run(folder=tmp_path)
    score = WidthScore()
    assert outcome(run(score, folder=tmp_path, resume=True)) == outcome(study)
    assert score.asked == []


def test_a_line_that_breaks_off_is_forgotten(tmp_path: Path) -> None:
    whole = run(folder=tmp_path)
    path = tmp_path / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:20]) + lines[20][:100])
    assert len(Study.load(tmp_path).candidates) == 18
    assert Study.load(tmp_path).ended is None
    assert outcome(run(folder=tmp_path, resume=True)) == outcome(whole)
    assert outcome(Study.load(tmp_path)) == outcome(whole)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"op_code":4', b'"op_code":', "line 12 of .*study.journal is not"),
        (b'"turn"', b'"tern"', r"candidate 9 of .* it is no candidate \(KeyError\('turn'\)\)"),
        (b'"resolution":', b'"resolutino":', r"line 12 of .*study.journal is not: KeyError\('resolutino'\)"),
        (b'"op_code"', b'"operation"', "it is no operation of an Optuna journal"),
    ],
)
def test_a_damaged_study_is_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    run(folder=tmp_path)
    path = tmp_path / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    # the last one: parameters come after their distributions
    head, _, tail = lines[11].rpartition(old)
    lines[11] = head + new + tail
    path.write_bytes(b"".join(lines))
    with pytest.raises(MvigNasError, match=message):
        Study.load(tmp_path)


def test_a_changed_parameter_is_noticed(tmp_path: Path) -> None:
    run(folder=tmp_path)
    path = tmp_path / "study.journal"
    lines = path.read_text().splitlines(keepends=True)
    trial = json.loads(lines[11])
    trial["params"]["stage1.width"] = 1 - trial["params"]["stage1.width"]
    lines[11] = json.dumps(trial) + "\n"
    path.write_text("".join(lines))
    with pytest.raises(MvigNasError, match="its parameters are not those of architecture"):
        Study.load(tmp_path)


def test_a_newer_study_asks_for_an_upgrade(tmp_path: Path) -> None:
    run(folder=tmp_path)
    path = tmp_path / "study.journal"
    text = re.sub(r',"checksum":"[0-9a-f]{16}"', "", path.read_text(), count=1)
    path.write_text(text.replace('{"schema":1,"evaluations"', '{"schema":2,"evaluations"', 1))
    with pytest.raises(MvigNasError, match="study schema must be at most 1, got 2, of a newer mvig-nas: upgrade"):
        Study.load(tmp_path)


def test_a_file_without_settings_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("")
    with pytest.raises(MvigNasError, match="it holds no settings"):
        Study.load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MvigNasError, match="the run folder must be writable, got 'Permission denied'"):
        run(folder=tmp_path / "run")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MvigNasError, match="the run folder must be writable, got 'Not a directory'"):
        run(folder=tmp_path / "file" / "run")


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from mvig_nas.errors import MvigNasError
from tests.search.test_study import run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    run(folder=Path(sys.argv[1]))
except MvigNasError as error:
    print(error)
"""


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    done = python(_FULL_DISK, str(tmp_path))
    assert "the study must be writable, got 'File too large'" in done
    assert "every finished candidate is saved" in done
    assert 0 < len(Study.load(tmp_path).candidates) < 30
    assert outcome(run(folder=tmp_path, resume=True)) == outcome(run())


def python(code: str, *arguments: str) -> str:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_ctrl_c_is_passed_on_with_everything_saved(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(StopAfter(9), folder=tmp_path)
    study = Study.load(tmp_path)
    assert (study.evaluated, study.ended) == (9, None)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    class Nested(WidthScore):
        def __call__(self, architecture: Architecture) -> float:
            with pytest.raises(MvigNasError, match=f"one writer, but process {os.getpid()} searches in"):
                run(folder=tmp_path, resume=True)
            return super().__call__(architecture)

    assert run(Nested(), folder=tmp_path, evaluations=30, candidates_limit=1).candidates
    assert not (tmp_path / LOCK).exists()


class Counting(WidthScore):
    """Notes every call in a file, and is slow enough to be killed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __call__(self, architecture: Architecture) -> float:
        score = super().__call__(architecture)
        with self.path.open("a") as file:
            file.write(architecture.fingerprint + "\n")
        return score


def _search_in(folder: Path, calls: Path, resume: bool, sampler: str) -> None:
    run(Counting(calls), folder=folder, resume=resume, sampler=sampler, evaluations=120)


@pytest.mark.parametrize("sampler", ["evolution", "surrogate"])
def test_killed_at_random_moments_and_resumed_it_finds_the_same(tmp_path: Path, sampler: str) -> None:
    whole = run(sampler=sampler, evaluations=120)
    folder, calls = tmp_path / "run", tmp_path / "calls"
    journal = folder / "study.journal"
    spawn = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    kills = 0
    for lines in np.sort(rng.choice(115, size=10, replace=False)) + 3:
        child = spawn.Process(target=_search_in, args=(folder, calls, journal.exists(), sampler))
        child.start()
        # a moment that the clock has no part in: as soon as so much is written
        while child.is_alive() and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
            pass
        if child.is_alive():
            kills += 1
        child.kill()
        child.join()
    resumed = run(Counting(calls), folder=folder, resume=True, sampler=sampler, evaluations=120)
    assert kills >= 5
    assert outcome(resumed) == outcome(whole)
    assert resumed.winner is not None
    assert whole.winner is not None
    assert resumed.winner.fingerprint == whole.winner.fingerprint
    # the one in flight at a kill is the only one that may be evaluated again
    asked = calls.read_text().split()
    assert set(asked) == {c.fingerprint for c in resumed.candidates if c.is_evaluated}
    assert len(asked) - len(set(asked)) <= kills


def test_limits_count_what_a_user_sees() -> None:
    """Parameters and MACs as published, both heads; bytes as the exported package has them, one head."""
    costs = kernel_costs(PRESETS["mobilevig_ti"])
    assert (costs.parameters, costs.macs) == (5_271_074, 662_142_336)
    assert costs.weight_bytes == totals(of(PRESETS["mobilevig_ti"], "exported")).weight_bytes
    assert costs.weight_bytes < totals(of(PRESETS["mobilevig_ti"])).weight_bytes


def _edited(lines: list[str], index: int, name: str, value: object) -> list[str]:
    trial = json.loads(lines[index])
    (trial if name in trial else trial["user_attrs"])[name] = value
    return [*lines[:index], json.dumps(trial) + "\n", *lines[index + 1 :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:12], lines[11], *lines[12:]], "candidate 10 of .* written as number 9, so lines were"),
        (lambda lines: [*lines[:11], *lines[12:]], "candidate 9 of .* written as number 10, so lines were removed"),
        (lambda lines: [*lines[:10], lines[11], lines[10], *lines[12:]], "candidate 8 of .* written as number 9"),
        (lambda lines: _edited(lines, 2, "value", 99.0), "candidate 0 of .*: it was changed since"),
        (lambda lines: _edited(lines, 2, "latency_ms", 0.01), "candidate 0 of .*: it was changed since"),
        (lambda lines: _edited(lines, 2, "checksum", "0"), "candidate 0 of .*: it was changed since"),
        (lambda lines: [lines[0], lines[1].replace('"seed":0', '"seed":1'), *lines[2:]], "the attribute mvig_nas_set"),
    ],
    ids=["repeated", "removed", "moved", "score", "latency", "checksum", "settings"],
)  # fmt: skip
def test_a_plausible_change_is_noticed(tmp_path: Path, change: Callable[[list[str]], list[str]], message: str) -> None:
    run(folder=tmp_path)
    path = tmp_path / "study.journal"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    for read in (lambda: Study.load(tmp_path), lambda: run(folder=tmp_path, resume=True)):
        with pytest.raises(MvigNasError, match=message):
            read()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_study_that_goes_while_it_is_searched_in_is_told(tmp_path: Path, replaced: bool) -> None:
    class Removing(WidthScore):
        def __call__(self, architecture: Architecture) -> float:
            if len(self.asked) == 10:
                shutil.rmtree(tmp_path / "run")
                if replaced:
                    (tmp_path / "run").mkdir()
                    (tmp_path / "run" / "study.journal").write_text("another")
            return super().__call__(architecture)

    with pytest.raises(MvigNasError, match="must stay where it is while it is searched in"):
        run(Removing(), folder=tmp_path / "run")


def test_latencies_that_differ_in_the_last_digits_compare_as_equal() -> None:
    found = search(TOY, WidthScore(), SizeLatency(), HALF, evaluations=4, sampler="random", costs=no_costs)
    first = found.winner
    assert first is not None
    assert first.score is not None
    later = dataclasses.replace(
        first,
        position=first.position + 1,
        latency_ms=first.latency_ms * (1 - 1e-15),
    )
    assert later.compared == first.compared
    for both in ((first, later), (later, first)):
        study = Study(found.settings, both)
        assert study.winner is first
        assert study.front == (first,)
    assert dataclasses.replace(first, score=first.score * 1.001).compared > first.compared
