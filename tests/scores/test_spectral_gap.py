"""The spectral gap against graphs with known spectra, and against eigenvalues of the whole adjacency matrix."""

from math import cos, pi

import numpy as np
import pytest

from mvig_nas import scores
from mvig_nas.architecture import PRESETS, Architecture, Stage
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.scores.spectral_gap import spectral_gap


@pytest.mark.parametrize("size", [3, 4, 7, 14, 28])
def test_a_torus_of_neighbours(size: int) -> None:
    """MGC with K = 1 links neighbours: two cycles, whose second eigenvalue is the cosine of one turn's n-th part."""
    assert spectral_gap("mgc", 1, size) == pytest.approx((1 - cos(2 * pi / size)) / 2)


@pytest.mark.parametrize("size", [3, 7, 14])
def test_a_rooks_graph(size: int) -> None:
    """SVGA with K = 1 links whole rows and columns: degree 2 (n - 1), second eigenvalue n - 2."""
    assert spectral_gap("svga", 1, size) == pytest.approx(1 - (size - 2) / (2 * (size - 1)))
    assert spectral_gap("svga", 2, 7) == pytest.approx(spectral_gap("svga", 1, 7))  # both ways round, every pixel


def test_a_graph_in_parts_has_no_gap() -> None:
    assert spectral_gap("svga", 2, 14) == pytest.approx(0, abs=1e-12)
    assert spectral_gap("mgc", 7, 14) == pytest.approx(0, abs=1e-12)
    assert spectral_gap("mgc", 14, 14) == 0  # no link


@pytest.mark.parametrize("name", [name for name, operator in OPERATORS.items() if operator.distances(2, 8) is not None])
@pytest.mark.parametrize(("step", "size"), [(2, 5), (3, 8), (2, 9)])
def test_equals_the_eigenvalues_of_the_adjacency_matrix(name: str, step: int, size: int) -> None:
    adjacency = np.zeros((size, size, size, size))
    for row in range(size):
        for column in range(size):
            for distance in OPERATORS[name].distances(step, size) or ():
                for other in (((row + distance) % size, column), (row, (column + distance) % size)):
                    adjacency[row, column, *other] = adjacency[*other, row, column] = 1
    matrix = adjacency.reshape(size * size, size * size)
    degree = matrix.sum(axis=0)
    assert (degree == degree[0]).all()
    eigenvalues = np.linalg.eigvalsh(matrix / degree[0])
    assert spectral_gap(name, step, size) == pytest.approx(1 - eigenvalues[-2])


def test_the_score_is_the_mean_over_graph_blocks() -> None:
    score = scores.load("spectral_gap")
    stages = (
        Stage(8),
        Stage(8),
        Stage(8, graph_depth=1, graph_operator="lsgc"),
        Stage(8, graph_depth=3, graph_operator="svga", graph_step=1),
    )
    expected = (spectral_gap("lsgc", 2, 14) + 3 * spectral_gap("svga", 1, 7)) / 4
    assert score(Architecture(stages)) == pytest.approx(expected)
    assert score(Architecture((Stage(8),) * 4)) == 0
    assert score(PRESETS["mobilevig_ti"]) == pytest.approx(7 / 12)


def test_knn_counts_as_a_random_regular_graph() -> None:
    """Against the mean of some of 8 links, and the complete graph of a map that is no larger than a neighbourhood."""
    assert spectral_gap("knn", 0, 2) == pytest.approx(4 / 3)
    rng, gaps = np.random.default_rng(0), []
    for _ in range(5):
        matrix = np.zeros((196, 196))
        for _ in range(4):
            matrix[np.arange(196), rng.permutation(196)] += 1
        gaps.append(1 - np.linalg.eigvalsh((matrix + matrix.T) / 8)[-2])
    assert spectral_gap("knn", 0, 14) == pytest.approx(np.mean(gaps), abs=0.03)
