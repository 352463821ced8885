"""The best few architectures of a finished search, trained briefly for real, so that measured accuracy picks one."""

from typing import TYPE_CHECKING, Any

from mvig_nas.finalists.choosing import choose
from mvig_nas.finalists.request import FinalistsRequest

if TYPE_CHECKING:
    from mvig_nas.finalists.results import Finalist, Finalists
    from mvig_nas.finalists.tournament import hold

__all__ = ["Finalist", "Finalists", "FinalistsRequest", "choose", "hold"]

_MODULES = {"Finalist": "results", "Finalists": "results", "hold": "tournament"}


def __getattr__(name: str) -> Any:
    # Ray and torch take seconds to import, and the command's options do without them.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"mvig_nas.finalists.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
