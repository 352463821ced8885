"""LSGC, logarithmic scalable graph construction, of LogViG (arXiv 2510.13740); reference code LogViG-Official."""

from typing import ClassVar

from mvig_nas.graph_operators.graph_operator import AxialOperator


class Lsgc(AxialOperator):
    """The pixels K^i - 1 away on both sides in the row and in the column: max(0, x - x_link).

    i runs from 1 to the logarithm to base 2 of the side, whatever K is. K = 1 has no link, as every distance is 0.
    """

    name = "lsgc"
    least_step: ClassVar[int | None] = 2
    is_own_minus_link: ClassVar[bool] = True

    def offsets(self, step: int, size: int) -> tuple[int, ...]:
        reaches = (step**power - 1 for power in range(1, size.bit_length()))
        return tuple(offset for reach in reaches if 0 < reach < size for offset in (reach, -reach))
