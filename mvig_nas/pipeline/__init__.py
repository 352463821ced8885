"""From a folder of images to a Core ML package: every step is the library's own, in a folder of its own."""

from typing import TYPE_CHECKING, Any

from mvig_nas.pipeline.planning import RunPlan, RunRequest, Speed, make_plan

if TYPE_CHECKING:
    from mvig_nas.pipeline.whole_run import RunResult, StepShown, prepare, run

__all__ = ["RunPlan", "RunRequest", "RunResult", "Speed", "StepShown", "make_plan", "prepare", "run"]


def __getattr__(name: str) -> Any:
    # The options of the command do without torch.
    if name in ("RunResult", "StepShown", "prepare", "run"):
        from importlib import import_module

        return getattr(import_module("mvig_nas.pipeline.whole_run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
