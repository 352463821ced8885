"""What a search leaves in its run folder for people and for the next command."""

from mvig_nas.report._run import preset_rows, write_report

__all__ = ["preset_rows", "write_report"]
