"""A search by names: its run folder, going on with it, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mvig_nas import run_folder
from mvig_nas.budget import Budget
from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.report import backbone_costs
from mvig_nas.search import SearchRequest, SearchSettings, run_search, saved_request
from mvig_nas.search_space import SearchSpace
from tests.sampler_contract import outcome

REQUEST = SearchRequest(
    space="toy",
    score="log_macs",
    budget=Budget(latency_ms=0.6),
    settings=SearchSettings(evaluations=6, sampler="evolution", time_limit_s=60.0),
)


def longer(request: SearchRequest, evaluations: int = 9) -> SearchRequest:
    return replace(request, settings=replace(request.settings, evaluations=evaluations))


def test_a_request_is_saved_and_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run_search(REQUEST, folder)
    assert (done.study.evaluated, done.study.folder) == (6, folder)
    assert done.study.settings.labels == {"device": "iphone-13-mini"}
    saved = saved_request(folder)
    # how long a part of a run may take is not of the next one
    assert saved == replace(REQUEST, settings=replace(REQUEST.settings, time_limit_s=None))
    again = run_search(longer(saved), folder, resume=True)
    assert outcome(again.study) == outcome(run_search(longer(REQUEST), tmp_path / "whole").study)
    assert saved_request(folder).settings.evaluations == 9
    with pytest.raises(MvigNasError, match=r"holds a run of `mvig-nas search` already; go on with it by --resume"):
        run_search(REQUEST, folder)


def test_a_search_that_was_killed_before_it_had_begun_begins(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_folder.begin(folder, "search", REQUEST)
    with pytest.raises(MvigNasError, match="go on with it by --resume"):
        run_search(REQUEST, folder)
    resumed = run_search(saved_request(folder), folder, resume=True)
    assert outcome(resumed.study) == outcome(run_search(REQUEST, tmp_path / "whole").study)


def test_a_folder_of_an_older_version_is_gone_on_with(tmp_path: Path) -> None:
    run_search(REQUEST, tmp_path)
    (tmp_path / run_folder.FILE).unlink()
    saved = saved_request(tmp_path)
    assert (saved.space, saved.score, saved.budget) == (REQUEST.space, REQUEST.score, REQUEST.budget)
    assert run_search(longer(saved), tmp_path, resume=True).study.evaluated == 9
    assert saved_request(tmp_path).settings.evaluations == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "log_params"}, "`--score` was 'log_macs' and is now 'log_params'"),
        ({"space": "micro"}, "`--space` was 'toy' and is now 'micro'"),
        ({"budget": Budget(latency_ms=0.7)}, r"`--latency-budget` was 0.6 and is now 0.7"),
        ({"device": "iphone-14"}, "`--device` was 'iphone-13-mini' and is now 'iphone-14'"),
    ],
)
def test_a_resumed_search_keeps_what_it_began_with(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    run_search(REQUEST, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(MvigNasError, match=message):
        run_search(replace(REQUEST, **changes), tmp_path, resume=True)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_search_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with pytest.raises(MvigNasError, match="the fastest architecture found"):
        run_search(replace(REQUEST, budget=Budget(latency_ms=0.01)), folder)
    assert list(tmp_path.iterdir()) == []


FEATURES = replace(REQUEST, task="features", resolution=256, budget=Budget(latency_ms=1.2))


def test_a_backbone_is_what_the_budget_counts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run_search(FEATURES, folder)
    winner = done.study.winner
    assert winner is not None
    costs = backbone_costs(winner.architecture, 256, ArchitectureLatency.load("iphone-13-mini"))
    assert winner.latency_ms <= 1.2
    assert winner.latency_ms == pytest.approx(costs.latency_ms, rel=1e-9)
    assert winner.interval_ms == pytest.approx(costs.interval_ms, rel=1e-9)
    assert winner.totals is not None
    assert (winner.totals.parameters, winner.totals.macs) == (costs.parameters, sum(part.macs for part in costs.parts))
    assert winner.architecture.resolution in SearchSpace.load("toy").choices["resolution"]  # it is scored at its own
    labels = done.study.settings.labels
    assert labels == {"device": "iphone-13-mini", "task": "features", "resolution": "256"}
    saved = saved_request(folder)
    assert (saved.task, saved.resolution, saved.name) == ("features", 256, "toy-features256-1.2ms")
    again = run_search(longer(saved), folder, resume=True)
    assert outcome(again.study) == outcome(run_search(longer(FEATURES), tmp_path / "whole").study)
    with pytest.raises(MvigNasError, match="`--resolution` was 256 and is now 512"):
        run_search(replace(longer(saved), resolution=512), folder, resume=True)


def test_by_the_command_a_backbone_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["search", "--space", "toy", "--score", "log_macs", "--latency-budget", "1.2ms", "--evaluations", "5"]
    done = CliRunner().invoke(cli, [*command, "--task", "features", "--resolution", "256", "--out", "run"])
    assert done.exit_code == 0, done.output
    assert "They are of the backbone without its classifier on images of 256 x 256 pixels" in done.output
    assert "Next: mvig-nas finalists run" in done.output
    assert "mvig-nas describe run/winner.json --features 256" in done.output
    assert "mvig-nas export" not in done.output
    winner = json.loads(Path("run/winner.json").read_text())
    assert (winner["task"], winner["resolution"]) == ("features", 256)
    described = CliRunner().invoke(cli, ["describe", "run/winner.json", "--features", "256", "--json"])
    assert json.loads(described.output)["latency_ms"] == pytest.approx(winner["latency_ms"], rel=1e-9)
    assert "256 x 256" in Path("run/report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "features"}, "--task features must come with --resolution"),
        ({"resolution": 256}, "got --task classify and --resolution 256"),
        ({"task": "features", "resolution": 500}, "must be a multiple of 32 pixels"),
    ],
)
def test_task_and_resolution_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        replace(REQUEST, **changes)
