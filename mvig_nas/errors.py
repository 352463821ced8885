"""The one error a user sees as a single line: the rule, the value that broke it, what to do."""

import difflib
from collections.abc import Iterable

_LONGEST = 1000  # letters of a message


class MvigNasError(Exception):
    """Something a user can put right. The command line prints it without a traceback and exits 1.

    The middle of a message of more than 1,000 letters is left out: what is wrong in a file may be of any size.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 300]} [...] {text[-290:]}"


class StorageError(MvigNasError):
    """A file cannot be written, which is no fault of what was computed: once there is room, it can go on."""


def closest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for names near `name`, else the list of the known ones; for the end of a message."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(match) for match in near) + "?"
    return "known: " + ", ".join(known)
