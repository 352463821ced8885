"""Study: one search, its candidates, front and winner; durable, resumable, and the same for the same seed."""

from mvig_nas.engine import FAILED, FEASIBLE, INFEASIBLE, Candidate, Latency, Score, pareto_front
from mvig_nas.study._attainable import attainable
from mvig_nas.study._journal import FILE_NAME
from mvig_nas.study._samplers import SAMPLERS, engine_of, resolve
from mvig_nas.study._search import Progress, kernel_costs, search
from mvig_nas.study._study import CANDIDATES_FILE_NAME, Settings, Study

__all__ = [
    "CANDIDATES_FILE_NAME",
    "FAILED",
    "FEASIBLE",
    "FILE_NAME",
    "INFEASIBLE",
    "SAMPLERS",
    "Candidate",
    "Latency",
    "Progress",
    "Score",
    "Settings",
    "Study",
    "attainable",
    "engine_of",
    "kernel_costs",
    "pareto_front",
    "resolve",
    "search",
]
