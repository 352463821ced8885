"""Maximum a posteriori fits against modes that are known in closed form."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mvig_nas.map_fit import map_fit


def towards_three(log_terms: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The likelihood of a measurement of 3 with a deviation of 1, for each term."""
    return float(0.5 * ((log_terms - 3) ** 2).sum()), log_terms - 3


def test_mode_is_the_precision_weighted_mean() -> None:
    found = map_fit(towards_three, np.array([0.0, 1.0]), [1.0, 0.5])
    assert found == pytest.approx([1.5, (3 + 4 * 1) / (1 + 4)], abs=1e-5)
    assert map_fit(towards_three, np.zeros(2), 1.0, start=np.full(2, 9.0)) == pytest.approx([1.5, 1.5], abs=1e-5)


def test_terms_stay_within_reach_of_the_prior() -> None:
    assert map_fit(towards_three, np.zeros(1), 1.0, reach=1) == pytest.approx([1.0])
