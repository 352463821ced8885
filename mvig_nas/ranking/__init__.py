"""Whether an estimate orders architectures as stand-alone training does."""

from typing import TYPE_CHECKING

from mvig_nas.lazy import attributes_of
from mvig_nas.ranking.agreement import (
    Agreement,
    Interval,
    Ranked,
    agreement,
    agreements,
    partial_tau,
    seed_ceiling,
    tau_difference,
)
from mvig_nas.ranking.agreement_figures import markdown_table, scatter_png, taus_png
from mvig_nas.ranking.comparison import (
    Estimator,
    Ranking,
    RankRequest,
    calibrate,
    proxies,
    rank,
    rank_networks,
    write_ranking,
)

if TYPE_CHECKING:
    from mvig_nas.ranking.stand_alone_training import StandAlone, StandAlonePlan, stand_alone, stratified

__all__ = [
    "Agreement",
    "Estimator",
    "Interval",
    "RankRequest",
    "Ranked",
    "Ranking",
    "StandAlone",
    "StandAlonePlan",
    "agreement",
    "agreements",
    "calibrate",
    "markdown_table",
    "partial_tau",
    "proxies",
    "rank",
    "rank_networks",
    "scatter_png",
    "seed_ceiling",
    "stand_alone",
    "stratified",
    "tau_difference",
    "taus_png",
    "write_ranking",
]

# Importing torch takes seconds, and only the trainings need it.
__getattr__ = attributes_of(
    __name__, dict.fromkeys(("StandAlone", "StandAlonePlan", "stand_alone", "stratified"), "stand_alone_training")
)
