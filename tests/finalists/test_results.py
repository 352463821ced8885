"""Who won, by how much, and what is written of it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mvig_nas.architecture import Architecture, preset
from mvig_nas.errors import MvigNasError
from mvig_nas.finalists.results import Finalist, Finalists, ordered, write

NAMES = ("mobilevig_ti", "mobilevig_s", "mobilevig_m", "mobilevig_b")


def finalist(number: int, curve: list[float], state: str = "finished", right: str = "") -> Finalist:
    return Finalist(
        architecture=preset(NAMES[number]),
        score=10.0 - number,
        score_rank=number + 1,
        latency_ms=1.0 + number,
        state=state,  # type: ignore[arg-type]
        curve=tuple(enumerate(curve, start=1)),
        right=np.array([int(bit) for bit in right], dtype=np.int64) if right else None,
        reason="its worker died" if state == "failed" else None,
    )


def finalists() -> Finalists:
    rows = [
        finalist(0, [0.3, 0.5], right="1010101010"),
        finalist(1, [0.2], "stopped"),
        finalist(2, [0.4, 0.8], right="1111111100"),
        finalist(3, [], "failed"),
    ]
    return Finalists(ordered(rows), images=10, score_name="naswot", device="iphone-13-mini", seconds=3.0)


def test_the_most_accurate_that_finished_wins() -> None:
    found = finalists()
    assert [row.state for row in found.rows] == ["finished", "finished", "stopped", "failed"]
    assert found.winner.architecture == preset("mobilevig_m")
    assert found.winner.top1 == 0.8
    assert found.standard_error(found.winner) == pytest.approx((0.8 * 0.2 / 10) ** 0.5)


def test_differences_are_over_the_same_images() -> None:
    found = finalists()
    apart = found.winner.right, found.rows[1].right
    assert apart[0] is not None
    assert apart[1] is not None
    both = apart[0] - apart[1]  # 0 1 0 1 0 1 0 1 -1 0
    assert found.difference(found.rows[1]) == (pytest.approx(0.3), pytest.approx(both.std() / 10**0.5))
    assert not found.is_distinguishable(found.rows[1])
    assert found.is_distinguishable(found.rows[2])
    assert found.difference(found.rows[2]) is None


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    found = finalists()
    write(found, tmp_path)
    assert Architecture.load(str(tmp_path / "winner.json")) == preset("mobilevig_m")
    rows = list(csv.DictReader((tmp_path / "finalists.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["finished", "finished", "stopped", "failed"]
    assert rows[0]["score_rank"] == "3"
    content = json.loads((tmp_path / "finalists.json").read_text())
    assert content["winner"] == preset("mobilevig_m").fingerprint
    assert content["finalists"][2]["curve"] == [[1, 0.2]]
    assert (tmp_path / "learning_curves.png").read_bytes()[1:4] == b"PNG"


def test_without_a_finished_training_there_is_no_winner(tmp_path: Path) -> None:
    rows = (finalist(1, [0.2], "stopped"), finalist(3, [], "failed"))
    with pytest.raises(MvigNasError, match="none did: its worker died"):
        write(Finalists(rows, 10, "naswot", "", 1.0), tmp_path)
