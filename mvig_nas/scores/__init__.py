"""What a search maximises: training-free proxies, which are no accuracies, or top-1 of a supernet's sub-networks."""

from typing import TYPE_CHECKING, Any

from mvig_nas.scores.registry import DEFAULT, NAMES, Score, load

if TYPE_CHECKING:
    from mvig_nas.scores.gradients import grad_norm, snip
    from mvig_nas.scores.naswot_proxy import naswot
    from mvig_nas.scores.supernet_score import SupernetScore, training_split
    from mvig_nas.scores.synflow_proxy import synflow
    from mvig_nas.scores.zen_proxy import zen
    from mvig_nas.scores.zico_proxy import zico

__all__ = [
    "DEFAULT",
    "NAMES",
    "Score",
    "SupernetScore",
    "grad_norm",
    "load",
    "naswot",
    "snip",
    "synflow",
    "training_split",
    "zen",
    "zico",
]

_MODULES = {
    "grad_norm": "gradients",
    "snip": "gradients",
    "SupernetScore": "supernet_score",
    "training_split": "supernet_score",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and the baselines, the names and the factory do without it
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"mvig_nas.scores.{_MODULES.get(name, f'{name}_proxy')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
