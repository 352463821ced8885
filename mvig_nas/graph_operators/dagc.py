"""DAGC, dynamic axial graph construction, of GreedyViG (arXiv 2405.06849); reference code SLDGroup/GreedyViG."""

from typing import ClassVar

from mvig_nas.graph_operators.graph_operator import AXES, GraphOperator, Maps, V, rolled


class Dagc(GraphOperator):
    """Of every K-th pixel of the row and of the column those alike enough: max(0, m (x_link - x)).

    m is 1 where the L1 distance of the two pixels is below t, else 0. t is the mean less the (unbiased) standard
    deviation of the distances between each pixel and the one half a map away in both directions; where it is negative,
    nothing is kept. Distances here are means over the channels, not sums as in the authors' code, so that their
    squares fit fp16: that scales both sides of the comparison alike. The comparison is a sign and a ReLU, as an ML
    program on a phone has no cheap booleans. No gradient passes through the mask.
    """

    name = "dagc"
    outputs: ClassVar[int] = 1
    is_continuous: ClassVar[bool] = False

    def distances(self, step: int, size: int) -> tuple[int, ...]:
        """Of the links that may be kept."""
        return tuple(range(step, size, step))

    def links(self, maps: Maps[V], x: V, step: int) -> V:
        threshold, strongest = None, None
        for dim in AXES:
            size = maps.shape(x)[dim]
            distances = self.distances(step, size)
            if not distances:
                continue
            threshold = _threshold(maps, x) if threshold is None else threshold
            twice = maps.concat((x, x), dim)
            for distance in distances:
                shifted = maps.slice(twice, dim, size - distance, 2 * size - distance)
                kept = _kept(maps, maps.binary("sub", shifted, x), threshold)
                strongest = kept if strongest is None else maps.binary("maximum", strongest, kept)
        return maps.binary("sub", x, x) if strongest is None else maps.unary("relu", strongest)

    def reference(self, maps: Maps[V], x: V, step: int) -> V:
        """The authors' code also visits the distance 0, which adds nothing."""
        relative, threshold = maps.binary("sub", x, x), _threshold(maps, x)
        for dim in AXES:
            for distance in range(0, maps.shape(x)[dim], step):
                difference = maps.binary("sub", rolled(maps, x, distance, dim), x)
                relative = maps.binary("maximum", relative, _kept(maps, difference, threshold))
        return relative


def _kept(maps: Maps[V], difference: V, threshold: V) -> V:
    """The difference to a link where that is kept, else 0."""
    distance = maps.reduce("reduce_mean", maps.unary("abs", maps.without_gradient(difference)), (1,))
    mask = maps.unary("relu", maps.unary("sign", maps.binary("sub", threshold, distance)))
    return maps.binary("mul", difference, mask)


def _threshold(maps: Maps[V], x: V) -> V:
    """Of each image, (B, 1, 1, 1)."""
    x = maps.without_gradient(x)
    _, _, height, width = maps.shape(x)
    opposite = rolled(maps, rolled(maps, x, -(-height // 2), 2), -(-width // 2), 3)
    distance = maps.reduce("reduce_mean", maps.unary("abs", maps.binary("sub", x, opposite)), (1,))
    mean = maps.reduce("reduce_mean", distance, AXES)
    deviation = maps.binary("sub", distance, mean)
    variance = maps.reduce("reduce_mean", maps.binary("mul", deviation, deviation), AXES)
    # n / (n - 1) times the variance, in two steps: on large maps that factor is 1 in fp16, and converters drop it
    rest = maps.with_constant("mul", variance, 1 / max(height * width - 1, 1))
    return maps.binary("sub", mean, maps.unary("sqrt", maps.binary("add", variance, rest)))
