"""The best few architectures of a finished search, trained briefly for real, so that measured accuracy picks one."""

from typing import TYPE_CHECKING

from mvig_nas.finalists.choosing import choose
from mvig_nas.finalists.request import FinalistsRequest
from mvig_nas.lazy import attributes_of

if TYPE_CHECKING:
    from mvig_nas.finalists.results import Finalist, Finalists
    from mvig_nas.finalists.tournament import hold

__all__ = ["Finalist", "Finalists", "FinalistsRequest", "choose", "hold"]

# Ray and torch take seconds to import, and the command's options do without them.
__getattr__ = attributes_of(__name__, {"Finalist": "results", "Finalists": "results", "hold": "tournament"})
