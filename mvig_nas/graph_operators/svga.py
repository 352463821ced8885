"""SVGA, sparse vision graph attention, of MobileViG (arXiv 2307.00395, algorithm 1)."""

from typing import TYPE_CHECKING, ClassVar

from mvig_nas.graph_operators.graph_operator import AXES, AxialOperator, Maps, V, rolled

if TYPE_CHECKING:
    from torch import Tensor


class Svga(AxialOperator):
    """Every K-th pixel of the row and of the column: max(0, x - x_link).

    A minimum may count a value twice, so doubling the rolled distance needs ceil(log2 n) rolls for n links, and gives
    the reference loop's result to the bit.
    """

    name = "svga"
    is_own_minus_link: ClassVar[bool] = True

    def offsets(self, step: int, size: int) -> tuple[int, ...]:
        return tuple(range(step, size, step))

    def links(self, maps: Maps[V], x: V, step: int) -> V:
        rows, columns = (_minimum_over_rolls(maps, x, step, dim) for dim in AXES)
        return maps.binary("sub", x, maps.binary("minimum", rows, columns))

    def shortcut(self, x: "Tensor", step: int) -> "Tensor | None":
        """Where K divides both sides, all pixels a multiple of K apart have the same links: one minimum serves them.

        This takes reshapes to five axes, which a phone's Neural Engine does not run.
        """
        batch, channels, height, width = x.shape
        if height % step or width % step:
            return None
        # Channels last: every minimum then runs over long contiguous rows.
        y = x.permute(0, 2, 3, 1).contiguous()
        span = step * channels
        rows = y.view(batch, height // step, step * width * channels).amin(1).view(batch, 1, step, width // step, span)
        columns = y.view(batch * height, width // step, span).amin(1).view(batch, height // step, step, 1, span)
        relative = y.view(batch, height // step, step, width // step, span) - rows.minimum(columns)
        return relative.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _minimum_over_rolls(maps: Maps[V], x: V, step: int, dim: int) -> V:
    """Minimum of x rolled by 0, step, 2 step, ... below the map's size along `dim`."""
    total = -(-maps.shape(x)[dim] // step)
    covered = 1
    while covered < total:
        more = min(covered, total - covered)
        x = maps.binary("minimum", x, rolled(maps, x, more * step, dim))
        covered += more
    return x
