"""The k-nearest-neighbour graph of Vision GNN (ViG, arXiv 2206.00272), for comparison."""

from typing import ClassVar

from mvig_nas.graph_operators.graph_operator import GraphOperator, Maps, V

NEIGHBOURS = 9  # of ViG; fewer where the map has fewer pixels
LEAST_FEATURE = 1e-4  # a normal number in fp16; pixels whose every feature is smaller are not brought to unit length


class Knn(GraphOperator):
    """The k nearest pixels in feature space: max(x_link - x).

    Nearest by the distance of unit-length features, hence by their largest inner product; a pixel counts among its own
    neighbours, so the answer is at least 0.
    """

    name = "knn"
    least_step: ClassVar[int | None] = None
    is_continuous: ClassVar[bool] = False
    free_links: ClassVar[int] = NEIGHBOURS - 1

    def links(self, maps: Maps[V], x: V, step: int) -> V:  # noqa: ARG002 - the graph has no step
        batch, channels, height, width = maps.shape(x)
        pixels = height * width
        neighbours = min(NEIGHBOURS, pixels)
        nodes = maps.reshape(x, (batch, channels, pixels))
        # Scaled by the largest feature first: in fp16 a sum of squares overflows from 256 on, and ViG's 1e-12 is 0.
        largest = maps.reduce("reduce_max", maps.unary("abs", nodes), (1,))
        scaled = maps.binary("real_div", nodes, maps.with_constant("maximum", largest, LEAST_FEATURE))
        length = maps.reduce("reduce_sum", maps.binary("mul", scaled, scaled), (1,))
        length = maps.unary("rsqrt", maps.with_constant("maximum", length, LEAST_FEATURE))
        similarity = maps.inner_products(maps.binary("mul", scaled, length))
        nearest = maps.reshape(maps.largest(similarity, neighbours), (batch, 1, pixels * neighbours))
        links = maps.reshape(maps.gather(nodes, nearest), (batch, channels, pixels, neighbours))
        strongest = maps.reduce("reduce_max", links, (3,), keep_dims=False)
        return maps.reshape(maps.binary("sub", strongest, nodes), (batch, channels, height, width))
