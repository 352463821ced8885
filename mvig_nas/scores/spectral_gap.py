"""The spectral gap of an architecture's graphs (SearchViG, LOG 2025): how fast what one pixel knows spreads to all.

Of each graph block the gap is that of its graph's adjacency matrix divided by the degree: 1 less the second largest
eigenvalue. It is 0 where the graph falls into parts that never meet, as SVGA's does if K divides the side. The graph
is a torus, one circulant graph in the rows and the same in the columns, so its eigenvalues are sums of cosines.

SearchViG takes the gap over images; here links that depend on the image count as if all were kept (DAGC), and links
that may lead anywhere (KNN) as a random regular graph's, whose second eigenvalue is about 2 sqrt(d - 1) at degree d.
Convolutions, which link neighbouring pixels in between, are left out.
"""

from dataclasses import dataclass
from functools import cache
from math import cos, pi, sqrt

from mvig_nas.architecture import Architecture
from mvig_nas.graph_operators import OPERATORS


@dataclass(frozen=True)
class SpectralGapScore:
    """Mean gap of an architecture's graph blocks; 0 without graph blocks. Nothing is drawn or run."""

    name: str = "spectral_gap"

    def __call__(self, architecture: Architecture) -> float:
        """The mean gap."""
        total, blocks = 0.0, 0
        for stage, size in zip(architecture.stages, architecture.sizes, strict=True):
            if stage.graph_depth:
                total += stage.graph_depth * spectral_gap(stage.operator.name, stage.graph_step or 0, size)
                blocks += stage.graph_depth
        return total / max(blocks, 1)


@cache
def spectral_gap(operator: str, step: int, size: int) -> float:
    """Gap of the graph of an operator with step K on a map of `size` x `size` pixels."""
    distances = OPERATORS[operator].distances(step, size)
    if distances is None:
        pixels, degree = size * size, OPERATORS[operator].free_links
        if pixels <= degree + 1:  # all pixels are linked: every eigenvalue but the first is -1
            return pixels / max(pixels - 1, 1)
        return max(0.0, 1 - 2 * sqrt(degree - 1) / degree)
    both_ways = {distance for each in distances for distance in (each, size - each)}
    if not both_ways:
        return 0.0
    # of the torus's eigenvalues, half a row's plus half a column's, the second largest has the largest in one of them
    second = max(sum(cos(2 * pi * wave * each / size) for each in both_ways) for wave in range(1, size))
    return max(0.0, (1 - second / len(both_ways)) / 2)
