"""Study: one search, its candidates, front and winner; durable, resumable, and the same for the same seed."""

from mvig_nas.search.contracts import FAILED, FEASIBLE, INFEASIBLE, Candidate, Latency, Score
from mvig_nas.search.loop import kernel_costs, search
from mvig_nas.search.samplers.registry import SAMPLERS, resolve, sampler_of
from mvig_nas.search.search_settings import Progress, SearchOptions, SearchSettings
from mvig_nas.search.storage import FILE_NAME
from mvig_nas.search.study import CANDIDATES_FILE_NAME, Settings, Study, pareto_front
from mvig_nas.search.verdict import attainable

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
    "SearchOptions",
    "SearchSettings",
    "Settings",
    "Study",
    "attainable",
    "kernel_costs",
    "pareto_front",
    "resolve",
    "sampler_of",
    "search",
]
