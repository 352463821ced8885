"""Shares of pixels that graph blocks reach, against walks over the links, and intervals against tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvig_nas.architecture import preset
from mvig_nas.experiments.connectivity import connectivity, reached
from mvig_nas.experiments.intervals import Estimate, mean_estimate, median_estimate


@given(st.integers(2, 9), st.integers(1, 8), st.integers(1, 3))
def test_equals_a_walk_over_every_link(size: int, step: int, blocks: int) -> None:
    heard = {(0, 0)}
    for _ in range(blocks):
        for row, column in list(heard):
            for distance in range(step, size, step):
                heard |= {((row + distance) % size, column), (row, (column + distance) % size)}
    assert reached("svga", step, size, blocks) == len(heard) / size**2


def test_by_hand() -> None:
    assert reached("svga", 1, 7, 1) == pytest.approx(13 / 49)
    assert reached("svga", 1, 7, 2) == 1.0
    assert reached("svga", 2, 8, 2) == pytest.approx(16 / 64)  # pixels of the other parity are never met
    assert reached("knn", 0, 7, 2) is None
    assert reached("scattered", 1, 5, 1) == pytest.approx(9 / 25)
    assert reached("scattered", 1, 5, 2) == pytest.approx(24 / 25)
    (row,) = connectivity(preset("mobilevig_ti"))
    assert (row["stage"], row["size"], row["links"], row["step"]) == (4, 7, 6, 2)


def test_student() -> None:
    found = mean_estimate([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.low == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3)
    assert mean_estimate([1.0]) == Estimate(1.0)
    assert found.scaled(100).shown(0, sign=True) == "+200 (-48 to 448)"
    assert Estimate(1.0).shown(1) == "1.0"


def test_order_statistics() -> None:
    found = median_estimate([float(value) for value in range(1, 21)])
    assert (found.value, found.low, found.high) == (10.5, 6.0, 15.0)  # of 20, the 6th and the 15th: 95.9 %
    assert median_estimate([3.0, 1.0]) == Estimate(2.0)
