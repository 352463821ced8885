"""A search by names: its run folder, going on with it, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from mvig_nas import run_folder
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.search import SearchRequest, SearchSettings, run_search, saved_request
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
