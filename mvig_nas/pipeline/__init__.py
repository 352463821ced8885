"""From a folder of images to a Core ML package: every step is the library's own, in a folder of its own."""

from typing import TYPE_CHECKING

from mvig_nas.lazy import attributes_of
from mvig_nas.pipeline.planning import RunPlan, RunRequest, Speed, make_plan

if TYPE_CHECKING:
    from mvig_nas.pipeline.whole_run import RunResult, StepShown, prepare, run

__all__ = ["RunPlan", "RunRequest", "RunResult", "Speed", "StepShown", "make_plan", "prepare", "run"]

# The options of the command do without torch.
__getattr__ = attributes_of(__name__, dict.fromkeys(("RunResult", "StepShown", "prepare", "run"), "whole_run"))
