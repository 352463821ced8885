"""Graph operators: how pixels are linked, and what a pixel learns of its links.

An operator is one file here and one line in `OPERATORS`. The network, the kernel lists, the supernet's slices, the
checks of a Stage, the spectral gap and the tests find it there.
"""

from mvig_nas.graph_operators.dagc import Dagc
from mvig_nas.graph_operators.graph_operator import AxialOperator, GraphOperator, Maps
from mvig_nas.graph_operators.knn import Knn
from mvig_nas.graph_operators.lsgc import Lsgc
from mvig_nas.graph_operators.mgc import Mgc
from mvig_nas.graph_operators.scattered import Scattered
from mvig_nas.graph_operators.svga import Svga

OPERATORS: dict[str, GraphOperator] = {
    operator.name: operator
    for operator in (
        Svga(),
        Knn(),
        Mgc(),
        Lsgc(),
        Dagc(),
        Scattered(),
    )
}

__all__ = ["OPERATORS", "AxialOperator", "GraphOperator", "Maps"]
