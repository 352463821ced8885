"""MGC, mobile graph convolution, of MobileViGv2 (arXiv 2406.05850); reference code SLDGroup/MobileViGv2."""

from typing import ClassVar

from mvig_nas.graph_operators.graph_operator import AxialOperator


class Mgc(AxialOperator):
    """The four pixels K away in the row and in the column: max(0, x_link - x), the opposite direction of SVGA's."""

    name = "mgc"
    outputs: ClassVar[int] = 1
    is_own_minus_link: ClassVar[bool] = False

    def offsets(self, step: int, size: int) -> tuple[int, ...]:
        return (step, -step) if step < size else ()
