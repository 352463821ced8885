"""What fits into the hours: the plan keeps them, uses them, and refuses what cannot fit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvig_nas.errors import MvigNasError
from mvig_nas.pipeline import RunPlan, RunRequest, Speed, make_plan


def plan(hours: float, images: int, rate: float) -> RunPlan:
    return make_plan(RunRequest(Path("images"), 1.0, hours=hours), "micro", images, Speed(rate, 64, "cpu"))


@given(st.floats(0.1, 48), st.integers(100, 200_000), st.floats(20, 20_000))
def test_a_plan_fits_into_its_hours_or_is_refused(hours: float, images: int, rate: float) -> None:
    if 5 * 1.1 * images / rate > 3600 * hours - 72:
        with pytest.raises(MvigNasError, match="must have time for a search, 5 epochs"):
            plan(hours, images, rate)
        return
    made = plan(hours, images, rate)
    assert made.total_seconds <= 3600 * hours * 1.001
    assert made.finalists in (0, *range(3, 13))
    assert made.finalists == 0 or 5 <= made.finalist_epochs <= 30
    assert 5 <= made.epochs <= 300


def test_more_time_or_speed_means_more_epochs() -> None:
    slow, long, fast = plan(1, 8000, 300), plan(3, 8000, 300), plan(1, 8000, 3000)
    assert slow.epochs < long.epochs
    assert slow.epochs < fast.epochs
    assert slow.total_seconds > 0.8 * 3600
    assert plan(0.4, 8000, 300).finalists < plan(2, 8000, 300).finalists


def test_a_teacher_slows_the_winner_alone() -> None:
    asked = RunRequest(Path("images"), 1.0, hours=1, finalists=12, teacher="wise")
    alone, taught = (make_plan(asked, "micro", 8000, Speed(300, 64, "cpu", taught)) for taught in (None, 150))
    assert taught.finalist_epochs == alone.finalist_epochs
    assert taught.seconds["finalists"] == alone.seconds["finalists"]
    assert 0.45 * alone.epochs <= taught.epochs <= 0.55 * alone.epochs
    assert taught.training.endswith("taught by wise")
    assert taught.total_seconds <= 3600


def test_images_are_mixed_where_the_winner_sees_them_often() -> None:
    often, seldom = plan(0.5, 640, 107), plan(0.5, 8000, 150)
    assert often.is_mixing
    assert often.training == f"{often.epochs} epochs, Mixup and CutMix, no teacher"
    assert not seldom.is_mixing
    assert seldom.training == f"{seldom.epochs} epochs, no teacher"


def test_with_too_little_time_the_score_alone_picks() -> None:
    made = plan(0.25, 8000, 150)
    assert made.finalists == 0
    assert made.seconds["finalists"] == 0
    assert made.finalists_told == "none: too little time"


def test_with_too_few_images_to_tell_them_apart_there_are_no_finalists_unless_they_are_asked_for() -> None:
    few, enough = plan(0.3, 640, 150), plan(4, 7000, 150)
    assert few.finalists == 0
    assert few.finalists_told == "none: 96 held-out images measure top-1 to ± 5 points only"
    assert enough.finalists_told == f"12 networks for up to {enough.finalist_epochs} epochs"
    asked = RunRequest(Path("images"), 1.0, hours=0.3, finalists=4)
    assert make_plan(asked, "micro", 640, Speed(150, 64, "cpu")).finalists == 4
    none = RunRequest(Path("images"), 1.0, hours=4, finalists=0)
    assert make_plan(none, "micro", 7000, Speed(150, 64, "cpu")).finalists_told == "none: as asked"
    assert few.epochs > make_plan(asked, "micro", 640, Speed(150, 64, "cpu")).epochs


def test_what_cannot_fit_says_how_long_it_takes() -> None:
    with pytest.raises(MvigNasError, match=r"5 epochs of 1,281,167 images and an export, which take 19\.\d+ hours at"):
        plan(2, 1_281_167, 100)
    with pytest.raises(MvigNasError, match="`hours` must be a number above 0"):
        RunRequest(Path("images"), 1.0, hours=0)
