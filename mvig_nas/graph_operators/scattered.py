"""Scattered links: as many as SVGA's, at distances drawn once; what a fixed graph without a plan is worth."""

import random
from typing import ClassVar

from mvig_nas.graph_operators.graph_operator import GraphOperator, Maps, V, rolled


class Scattered(GraphOperator):
    """Pixels at fixed distances in both directions, drawn at random for each step and size: max(0, x - x_link).

    The links are the same for every pixel, circularly, and for every image, as SVGA's are, and there are as many. They
    are slices and concatenations, two rolls for each link at most, so that all of it runs on a phone's Neural Engine.
    """

    name = "scattered"
    free_links: ClassVar[int] = 8  # for what needs one number; there are as many as SVGA has, by step and size

    def displacements(self, step: int, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Rows down and columns to the right of each link, in the order of the draw; never (0, 0)."""
        count = sum(-(-side // step) - 1 for side in (height, width))
        others = [divmod(index, width) for index in range(1, height * width)]
        return tuple(random.Random(f"{step} {height} {width}").sample(others, count))

    def links(self, maps: Maps[V], x: V, step: int) -> V:
        _, _, height, width = maps.shape(x)
        least, moved = x, {0: x}  # links that share a row share the first roll
        for down, right in self.displacements(step, height, width):
            if down not in moved:
                moved[down] = rolled(maps, x, down, 2)
            least = maps.binary("minimum", least, rolled(maps, moved[down], right, 3))
        return maps.binary("sub", x, least)
