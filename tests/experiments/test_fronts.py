"""Fronts under budgets of memory: one search a budget, none run twice, and none for a budget that nothing keeps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mvig_nas.errors import MvigNasError
from mvig_nas.experiments import AblateRequest, Experiment, Fronts, ablate, prepare
from mvig_nas.experiments.experiment_report import (
    FRONT_COLUMNS,
    experiment_page,
    front_rows,
    fronts_png,
    outside_notes,
)
from mvig_nas.experiments.fronts import DRAWS, Front, check_attainable, traced
from mvig_nas.kernels import of, totals
from mvig_nas.search import Progress
from mvig_nas.search_space import SearchSpace

DEVICE = "iphone-13-mini"
SMALL = Fronts(budgets=("64KiB", "512KiB"), score="log_macs", evaluations=5)


@pytest.mark.filterwarnings("ignore")
def test_a_search_that_ended_is_never_run_again(tmp_path: Path) -> None:
    def stop(budget: str, state: Progress) -> None:
        if budget == "512KiB" and state.evaluated == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        traced(SMALL, DEVICE, tmp_path / "stopped", stop)
    first = tmp_path / "stopped" / "fronts" / "64KiB" / "study.journal"
    before = first.stat().st_mtime_ns
    told: list[str] = []
    again = traced(SMALL, DEVICE, tmp_path / "stopped", lambda budget, _: told.append(budget))
    assert set(told) == {"512KiB"}
    assert first.stat().st_mtime_ns == before
    assert again == traced(SMALL, DEVICE, tmp_path / "whole")

    tight, wide = again
    assert (tight.budget, tight.evaluated) == ("64KiB", 5)
    assert 0 < tight.fitting < wide.fitting < DRAWS
    for front, limit in ((tight, 64 * 2**10), (wide, 512 * 2**10)):
        assert front.winner in front.points
        assert [each.predicted_ms for each in front.points] == sorted(each.predicted_ms for each in front.points)
        for point in front.points:
            exported = totals(of(point.architecture, "exported", SMALL.classes))
            assert 2 * point.weight_bytes == exported.weight_bytes <= 2 * limit
            assert 2 * point.peak_bytes == exported.peak_activation_bytes <= 2 * limit
            assert point.architecture in SearchSpace.load("mcu")


@pytest.mark.filterwarnings("ignore")
def test_winners_become_cells(tmp_path: Path) -> None:
    shipped = Experiment.load("tiny-devices")
    asked = AblateRequest(replace(shipped, fronts=SMALL), accuracy=False, host=False)
    found = ablate(asked, tmp_path)
    assert [each.cell.name for each in found.results] == ["by hand", "within 64KiB", "within 512KiB"]
    assert [each.winner.architecture for each in found.fronts if each.winner] == [
        each.cell.architecture for each in found.results[1:]
    ]
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert [each["int8_bytes"] for each in kept["fronts"]] == [64 * 2**10, 512 * 2**10]
    assert kept["fronts"][0]["winner"]["weight_bytes"] <= 64 * 2**10
    assert kept["findings"][-2].startswith("Within 64KiB of int8 weights and as much of activations, ")
    assert [row[0] for row in front_rows(found)] == ["64KiB", "512KiB"]
    assert {len(row) for row in front_rows(found)} == {len(FRONT_COLUMNS)}
    page = experiment_page(found, {"Fronts": fronts_png(found.fronts)}, "mvig-nas ablate")
    assert "<h2>Fronts</h2>" in page
    assert "rests on no measurement" in page
    assert len(outside_notes(found)) == 3
    (note,) = outside_notes(replace(found, results=found.results * 2))
    assert note.startswith("6 of 6 predictions rest on no measurement: they are guesses. That of 'by hand', for one: ")


def test_the_share_has_wilsons_interval() -> None:
    share = Front("64KiB", 0, 1, 1, (), None).share
    assert (share.value, share.low) == (0, 0)
    assert share.high == pytest.approx(0.00383, abs=1e-4)
    assert "none of them could be scored" in Front("64KiB", 0, 1, 1, (), None).finding(SMALL)


def test_the_smallest_networks_fit_and_less_is_refused() -> None:
    check_attainable(replace(SMALL, budgets=("23KiB",)), DEVICE)
    shipped = Experiment.load("tiny-devices")
    asked = replace(shipped, fronts=replace(SMALL, budgets=("64KiB", "8KiB")))
    with pytest.raises(MvigNasError, match=r"the budget '8KiB' .*takes 23KiB of int8 weights and 4KiB .*ask for 23KiB"):
        prepare(AblateRequest(asked, accuracy=False))
    with pytest.raises(MvigNasError, match="no score is called 'naswat'"):
        prepare(AblateRequest(replace(shipped, fronts=replace(SMALL, score="naswat")), accuracy=False))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budgets": ()}, "`budgets` must be at least one size"),
        ({"budgets": ("1MiB", "1024KiB")}, "each once, got"),
        ({"budgets": ("256",)}, "a size must have a unit"),
        ({"evaluations": 0}, "`evaluations` must be a whole number of at least 1"),
    ],
)
def test_what_is_no_front_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(MvigNasError, match=told):
        Fronts(**changes)  # type: ignore[arg-type]


def test_the_first_winner_is_the_reference_where_there_are_no_cells() -> None:
    alone = replace(Experiment.load("tiny-devices"), cells={}, reference=None, fronts=SMALL)
    assert alone.reference_name == "within 64KiB"
    with pytest.raises(MvigNasError, match="`match` needs cells"):
        replace(alone, match="macs")
    with pytest.raises(MvigNasError, match="the names of cells must differ"):
        replace(alone, cells={"within 64KiB": {}})
