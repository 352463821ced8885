"""The page of a search: what was asked for, what came of it, and pictures of all kinds of studies."""

import re
import warnings
from pathlib import Path

import pytest

from mvig_nas.budget import Budget
from mvig_nas.report import preset_rows, write_report
from mvig_nas.search import SearchSettings
from mvig_nas.search.search_run import SearchRequest, SearchRun, run_search


def searched(folder: Path, budget: Budget, *, front: bool = False) -> SearchRun:
    settings = SearchSettings(evaluations=6, front=front)
    return run_search(SearchRequest(space="toy", score="log_macs", budget=budget, settings=settings), folder)


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)).split())


@pytest.mark.parametrize(
    ("budget", "front", "told"),
    [
        (Budget(latency_ms=0.6), False, "predicted latency on iphone-13-mini up to 0.6 ms Search space"),
        (
            Budget(latency_ms=0.6, confidence=0.9, macs=20_000_000),
            False,
            "up to 0.6 ms, with a probability of 90 %; up to 20,000,000 MACs",
        ),
        (Budget(), True, "none: the front of score against predicted latency on iphone-13-mini was asked for"),
    ],
)
def test_the_page_says_what_was_asked_for_and_what_came(budget: Budget, front: bool, told: str, tmp_path: Path) -> None:
    done = searched(tmp_path / "run", budget, front=front)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of legends without entries and of labels that do not fit
        files = write_report(done, preset_rows(done), "mvig-nas search ...")
    page = text_of(files["report"].read_text())
    winner = done.study.winner
    assert winner is not None
    assert winner.interval_ms is not None
    assert told in page
    assert f"Winner {winner.fingerprint} Score" in page
    low, high = winner.interval_ms
    assert (
        f"{winner.latency_ms:.3f} ms predicted, between {low:.2f} and {high:.2f} ms in four cases out of five" in page
    )
    stages = done.latency.by_stage(winner.architecture)
    assert f"Where the milliseconds go part output parameters MACs predicted ms stem {stages[0].shape}" in page
    assert f"dispatch 0 0 {stages[-1].latency_ms:.3f}" in page
