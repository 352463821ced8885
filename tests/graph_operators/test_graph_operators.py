"""Every operator of the registry against a naive description of its links, and against what is asked of all of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mvig_nas.graph_operators import OPERATORS, AxialOperator, GraphOperator
from mvig_nas.graph_operators.scattered import Scattered
from mvig_nas.network.torch_maps import MAPS, linked, linked_as_reference

AXIAL = [operator for operator in OPERATORS.values() if isinstance(operator, AxialOperator)]
MAP_SIDES = st.integers(1, 17)


def random_map(height: int, width: int, seed: int = 0, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


def moved(x: Tensor, distance: int, dim: int) -> Tensor:
    """Content moved toward a larger index; not at all past the side, as in the authors' code."""
    return torch.roll(x, distance, dim) if abs(distance) < x.shape[dim] else x


def svga(x: Tensor, step: int) -> Tensor:
    links = [moved(x, d, dim) for dim in (2, 3) for d in range(step, x.shape[dim], step)]
    return torch.stack([x - x, *(x - link for link in links)]).amax(0)


def mgc(x: Tensor, step: int) -> Tensor:
    links = [moved(x, d, dim) for dim in (2, 3) for d in (step, -step)]
    return torch.stack([x - x, *(link - x for link in links)]).amax(0)


def lsgc(x: Tensor, step: int) -> Tensor:
    links = [
        moved(x, sign * (step**power - 1), dim)
        for dim in (2, 3)
        for power in range(1, math.floor(math.log2(x.shape[dim])) + 1)
        for sign in (1, -1)
    ]
    return torch.stack([x - x, *(x - link for link in links)]).amax(0)


def dagc(x: Tensor, step: int) -> Tensor:
    """Booleans, sums and torch's own standard deviation, in double precision."""
    x = x.double()
    height, width = x.shape[2:]
    if height * width == 1:  # no deviation, so nothing is kept
        return torch.zeros_like(x)
    opposite = moved(moved(x, math.ceil(height / 2), 2), math.ceil(width / 2), 3)
    distance = (x - opposite).abs().sum(1, keepdim=True)
    threshold = distance.mean((2, 3), keepdim=True) - distance.std((2, 3), keepdim=True)
    best = torch.zeros_like(x)
    for dim in (2, 3):
        for d in range(step, x.shape[dim], step):
            link = moved(x, d, dim)
            is_kept = (x - link).abs().sum(1, keepdim=True) < threshold
            best = torch.where(is_kept, torch.maximum(best, link - x), best)
    return best


NAIVE = {"svga": svga, "mgc": mgc, "lsgc": lsgc}


@pytest.mark.parametrize("operator", AXIAL, ids=lambda operator: operator.name)
@given(height=MAP_SIDES, width=MAP_SIDES, step=st.integers(1, 18), seed=st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_fixed_links_equal_the_naive_ones_to_the_bit(
    operator: AxialOperator, height: int, width: int, step: int, seed: int
) -> None:
    x = random_map(height, width, seed)
    expected = NAIVE[operator.name](x, step)
    assert torch.equal(linked(operator, x, step), expected)
    assert torch.equal(operator.links(MAPS, x, step), expected)
    assert torch.equal(linked_as_reference(operator, x, step), expected)


@given(height=MAP_SIDES, width=MAP_SIDES, step=st.integers(1, 9), seed=st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_dagc_equals_the_naive_one(height: int, width: int, step: int, seed: int) -> None:
    operator, x = OPERATORS["dagc"], random_map(height, width, seed, channels=8).double()
    assert torch.allclose(operator.links(MAPS, x, step), dagc(x, step), atol=1e-12)
    assert torch.allclose(linked_as_reference(operator, x, step), dagc(x, step), atol=1e-12)


def test_dagc_keeps_some_links_and_no_gradient_passes_its_mask() -> None:
    operator, x = OPERATORS["dagc"], random_map(14, 14, channels=8).requires_grad_()
    answer = linked(operator, x, 2)
    assert 0.02 < float((answer > 0).float().mean()) < 0.98
    answer.sum().backward()
    assert x.grad is not None
    # every kept link adds 1 to one pixel and takes 1 from another
    assert torch.equal(x.grad, x.grad.round())
    assert float(x.grad.sum()) == 0


def test_dagc_of_a_constant_map_is_zero_and_has_gradients() -> None:
    x = torch.ones(1, 4, 6, 6, requires_grad=True)
    answer = linked(OPERATORS["dagc"], x, 1)
    answer.sum().backward()
    assert not answer.any()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_below_a_negative_threshold_dagc_keeps_nothing() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[..., 0, 0] = 100.0  # one pixel unlike all others: the deviation exceeds the mean
    assert not linked(OPERATORS["dagc"], x, 2).any()


@pytest.mark.parametrize(
    ("name", "step", "size", "distances"),
    [
        ("svga", 4, 14, (4, 8, 12)),
        ("mgc", 8, 28, (8, 20)),
        ("mgc", 7, 14, (7,)),  # +K and -K coincide
        ("mgc", 14, 14, ()),
        ("lsgc", 2, 56, (1, 3, 7, 15, 25, 31, 41, 49, 53, 55)),
        ("lsgc", 2, 14, (1, 3, 7, 11, 13)),
        ("lsgc", 3, 28, (2, 8, 20, 26)),
        ("lsgc", 3, 7, (2, 5)),
        ("lsgc", 1, 14, ()),
        ("dagc", 2, 7, (2, 4, 6)),
    ],
)
def test_distances(name: str, step: int, size: int, distances: tuple[int, ...]) -> None:
    assert OPERATORS[name].distances(step, size) == distances


def test_lsgc_reaches_k_to_the_power_less_one() -> None:
    """At 224 px: K = 2 at 56, 28, 14 and 7 pixels, K = 3 at 56; what is past the side vanishes."""
    operator = OPERATORS["lsgc"]
    assert isinstance(operator, AxialOperator)
    reaches = [[d for d in operator.offsets(2, size) if d > 0] for size in (56, 28, 14, 7)]
    assert reaches == [[1, 3, 7, 15, 31], [1, 3, 7, 15], [1, 3, 7], [1, 3]]
    assert [d for d in operator.offsets(3, 56) if d > 0] == [2, 8, 26]


def test_scattered_links_are_as_many_as_svgas_and_the_same_for_every_pixel_and_process() -> None:
    operator, x = OPERATORS["scattered"], random_map(6, 8)
    assert isinstance(operator, Scattered)
    links = operator.displacements(2, 6, 8)
    assert len(set(links)) == len(links) == 5  # 2 in the column, 3 in the row
    assert (0, 0) not in links
    assert operator.displacements(2, 4, 4) == ((1, 1), (2, 2))
    least = torch.stack([x, *(x.roll(link, dims=(2, 3)) for link in links)]).amin(0)
    assert torch.equal(linked(operator, x, 2), x - least)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda operator: operator.name)
def test_an_answer_has_the_shape_of_its_map_and_is_not_negative(operator: GraphOperator) -> None:
    for height, width in ((5, 7), (8, 8), (1, 1)):
        x = random_map(height, width)
        answer = linked(operator, x, operator.least_step or 0)
        assert answer.shape == x.shape
        assert (answer >= 0).all()


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda operator: operator.name)
def test_images_of_a_batch_do_not_mix(operator: GraphOperator) -> None:
    x = random_map(8, 8)
    step = operator.least_step or 0
    alone = torch.cat([linked(operator, image, step) for image in x.split(1)])
    assert torch.allclose(linked(operator, x, step), alone, atol=1e-6)
