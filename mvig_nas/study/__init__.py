"""`mvig_nas.study.search`, as `mvig_nas.search.search`: the name that other programs import."""

from mvig_nas.search import Study, search

__all__ = ["Study", "search"]
