"""Whether an estimate orders architectures as stand-alone training does."""

from mvig_nas.ranking._agreement import Agreement, Interval, Ranked, agreement, agreements, partial_tau, tau_difference
from mvig_nas.ranking._alone import StandAlone, stand_alone, stratified
from mvig_nas.ranking._rank import Estimator, proxies, rank, write_ranking
from mvig_nas.ranking._report import markdown_table, scatter_png, taus_png

__all__ = [
    "Agreement",
    "Estimator",
    "Interval",
    "Ranked",
    "StandAlone",
    "agreement",
    "agreements",
    "markdown_table",
    "partial_tau",
    "proxies",
    "rank",
    "scatter_png",
    "stand_alone",
    "stratified",
    "tau_difference",
    "taus_png",
    "write_ranking",
]
