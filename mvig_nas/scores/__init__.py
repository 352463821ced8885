"""Scores without data: training-free proxies, which a search maximises. None of them is an accuracy."""

from typing import TYPE_CHECKING, Any

from mvig_nas.scores._load import DEFAULT, NAMES, Score, load

if TYPE_CHECKING:
    from mvig_nas.scores._gradients import grad_norm, snip
    from mvig_nas.scores._naswot import naswot
    from mvig_nas.scores._synflow import synflow
    from mvig_nas.scores._zen import zen
    from mvig_nas.scores._zico import zico

__all__ = ["DEFAULT", "NAMES", "Score", "grad_norm", "load", "naswot", "snip", "synflow", "zen", "zico"]

_MODULES = {"grad_norm": "_gradients", "snip": "_gradients"}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and the baselines, the names and the factory do without it
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"mvig_nas.scores.{_MODULES.get(name, '_' + name)}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
