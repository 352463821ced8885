"""Study: one search, its candidates, front and winner; durable, resumable, and the same for the same seed."""

from mvig_nas.scores import Score
from mvig_nas.search.contracts import FAILED, FEASIBLE, INFEASIBLE, STUDY_FILE, Candidate, Latency, Progress
from mvig_nas.search.drawing import SampleRequest, draw
from mvig_nas.search.loop import kernel_costs, search
from mvig_nas.search.samplers import SAMPLERS, resolve, sampler_of
from mvig_nas.search.search_run import SearchRequest, SearchRun, WorkerOptions, run_search, saved_request
from mvig_nas.search.search_settings import SearchSettings, StudySettings
from mvig_nas.search.study import CANDIDATES_FILE, Study, pareto_front
from mvig_nas.search.turn import attainable

__all__ = [
    "CANDIDATES_FILE",
    "FAILED",
    "FEASIBLE",
    "INFEASIBLE",
    "SAMPLERS",
    "STUDY_FILE",
    "Candidate",
    "Latency",
    "Progress",
    "SampleRequest",
    "Score",
    "SearchRequest",
    "SearchRun",
    "SearchSettings",
    "Study",
    "StudySettings",
    "WorkerOptions",
    "attainable",
    "draw",
    "kernel_costs",
    "pareto_front",
    "resolve",
    "run_search",
    "sampler_of",
    "saved_request",
    "search",
]
