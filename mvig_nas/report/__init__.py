"""What a search leaves in its run folder for people and for the next command."""

from mvig_nas.report.backbone_costs import BackboneCosts, BackbonePart, backbone_costs
from mvig_nas.report.search_report import (
    latency_note,
    outside_note,
    predictor_note,
    preset_rows,
    score_note,
    write_report,
)

__all__ = [
    "BackboneCosts",
    "BackbonePart",
    "backbone_costs",
    "latency_note",
    "outside_note",
    "predictor_note",
    "preset_rows",
    "score_note",
    "write_report",
]
