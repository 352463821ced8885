"""Whether an estimate orders architectures as stand-alone training does."""

from mvig_nas.ranking.agreement import Agreement, Interval, Ranked, agreement, agreements, partial_tau, tau_difference
from mvig_nas.ranking.comparison import Estimator, proxies, rank, write_ranking
from mvig_nas.ranking.ranking_report import markdown_table, scatter_png, taus_png
from mvig_nas.ranking.stand_alone import StandAlone, StandAlonePlan, stand_alone, stratified

__all__ = [
    "Agreement",
    "Estimator",
    "Interval",
    "Ranked",
    "StandAlone",
    "StandAlonePlan",
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
