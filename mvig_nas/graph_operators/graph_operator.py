"""What a graph operator is: written once, run by the network on tensors and by the kernel list on shapes.

An operator tells each pixel of a map something of the pixels that it is linked to, as one number a channel. A 1x1
convolution over the map and this answer, side by side, then mixes the two. Maps are (B, C, H, W) throughout.

An operator is written in the operations of `Maps`, which go by their names in Core ML's ML programs. The network runs
it on tensors, `kernels` on the shapes of a kernel list, so the two cannot disagree. Slices, concatenations and minima
run on a phone's Neural Engine; a gather does not, and coremltools makes one of `torch.roll`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

V = TypeVar("V")

Unary = Literal["abs", "relu", "rsqrt", "sign", "sqrt"]
Binary = Literal["add", "maximum", "minimum", "mul", "real_div", "sub"]
Reduction = Literal["reduce_max", "reduce_mean", "reduce_sum"]
AXES = (2, 3)  # height, width


class Maps(Protocol[V]):
    """The operations that an operator may be written in, on values that only the interpreter looks into."""

    def shape(self, x: V, /) -> tuple[int, ...]:
        """Shape of a value."""

    def unary(self, kind: Unary, x: V) -> V:
        """A function of each element."""

    def binary(self, kind: Binary, one: V, other: V) -> V:
        """A function of two values, which broadcast."""

    def with_constant(self, kind: Literal["maximum", "mul"], x: V, constant: float) -> V:
        """A function of each element and a constant."""

    def reduce(self, kind: Reduction, x: V, dims: Sequence[int], keep_dims: bool = True) -> V:
        """The largest, the mean or the sum over some axes."""

    def slice(self, x: V, dim: int, start: int, stop: int) -> V:
        """The part from `start` up to `stop` along one axis."""

    def concat(self, parts: Sequence[V], dim: int) -> V:
        """The parts one after the other along one axis."""

    def reshape(self, x: V, shape: tuple[int, ...]) -> V:
        """The same elements in another shape."""

    def inner_products(self, x: V) -> V:
        """Of all pairs of pixels: (B, C, N) to (B, N, N)."""

    def largest(self, x: V, count: int) -> V:
        """Indices of the largest `count` elements along the last axis."""

    def gather(self, x: V, indices: V) -> V:
        """The pixels (B, C, M) of x (B, C, N) at indices (B, 1, M)."""

    def without_gradient(self, x: V) -> V:
        """The same value, through which no gradient flows back."""


class GraphOperator(ABC):
    """One way to link pixels and to sum up what is at the other end of the links.

    `outputs` is how many channels the 1x1 convolution over (x, answer) makes of each channel of x: 2 for C -> 2C -> C
    in the whole grapher, 1 for C -> C -> C. `least_step` is the smallest graph step K that gives a link on a large map,
    None where the operator takes no step. `is_continuous` is False where the last digit of a feature may decide which
    links there are, so that two right computations of one network may differ visibly. `free_links` is the number of
    links of a pixel where they may lead anywhere.
    """

    name: ClassVar[str]
    outputs: ClassVar[int] = 2
    least_step: ClassVar[int | None] = 1
    is_continuous: ClassVar[bool] = True
    free_links: ClassVar[int] = 0

    @abstractmethod
    def links(self, maps: Maps[V], x: V, step: int) -> V:
        """What each pixel learns of its links, in the shape of x.

        Args:
            maps: the interpreter.
            x: the map, (B, C, H, W).
            step: K, in pixels; of no meaning where `least_step` is None.
        """

    def reference(self, maps: Maps[V], x: V, step: int) -> V:
        """`links` as the authors' code computes it, link by link: what published latencies were measured on."""
        return self.links(maps, x, step)

    def shortcut(self, x: "Tensor", step: int) -> "Tensor | None":  # noqa: ARG002 - most operators have none
        """`links` of a tensor, faster but in operations that a phone does not run; None where there is no such way."""
        return None

    def distances(self, step: int, size: int) -> tuple[int, ...] | None:  # noqa: ARG002 - fixed links alone use them
        """Distances to a pixel's links on an axis of `size` pixels, from 1 to size - 1, circular; None if free."""
        return None


class AxialOperator(GraphOperator):
    """An operator whose links lie at fixed distances in the pixel's row and column, circularly.

    The answer is the largest of 0 and the differences between the pixel and its links, in the direction that
    `is_own_minus_link` says. Weights trained for one direction are of no use for the other.
    """

    is_own_minus_link: ClassVar[bool]

    @abstractmethod
    def offsets(self, step: int, size: int) -> tuple[int, ...]:
        """Distances toward a larger index, negative ones toward a smaller, in the order of the authors' code.

        None reaches past the side: the authors' code, which rolls by concatenating two slices, has no link there.
        """

    def distances(self, step: int, size: int) -> tuple[int, ...]:
        return tuple(sorted({offset % size for offset in self.offsets(step, size)}))

    def links(self, maps: Maps[V], x: V, step: int) -> V:
        """As max(x - x_link) = x - min(x_link), to the bit, one difference serves all links.

        A map beside itself holds every circular shift of it as one slice.
        """
        extreme = x
        for dim in AXES:
            size = maps.shape(x)[dim]
            distances = self.distances(step, size)
            if distances:
                twice = maps.concat((x, x), dim)
                for distance in distances:
                    shifted = maps.slice(twice, dim, size - distance, 2 * size - distance)
                    extreme = maps.binary("minimum" if self.is_own_minus_link else "maximum", extreme, shifted)
        return self._difference(maps, x, extreme)

    def reference(self, maps: Maps[V], x: V, step: int) -> V:
        relative = maps.binary("sub", x, x)
        for dim in AXES:
            for offset in self.offsets(step, maps.shape(x)[dim]):
                difference = self._difference(maps, x, rolled(maps, x, offset, dim))
                relative = maps.binary("maximum", relative, difference)
        return relative

    def _difference(self, maps: Maps[V], own: V, link: V) -> V:
        return maps.binary("sub", own, link) if self.is_own_minus_link else maps.binary("sub", link, own)


def rolled(maps: Maps[V], x: V, distance: int, dim: int) -> V:
    """x moved by `distance` pixels toward a larger index, circularly; by two slices, as a roll becomes a gather."""
    size = maps.shape(x)[dim]
    distance %= size
    if not distance:
        return x
    last, first = maps.slice(x, dim, size - distance, size), maps.slice(x, dim, 0, size - distance)
    return maps.concat((last, first), dim)
