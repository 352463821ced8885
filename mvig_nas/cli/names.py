"""Options whose values have names: the help lists them, and the shell completes them."""

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem


def _samplers() -> tuple[str, ...]:
    from mvig_nas.search.samplers import SAMPLERS

    return ("auto", *SAMPLERS)


def _spaces() -> tuple[str, ...]:
    from mvig_nas import shipped

    return shipped.space_names()


def _devices() -> tuple[str, ...]:
    from mvig_nas import shipped

    return shipped.device_names()


def _plans() -> tuple[str, ...]:
    from mvig_nas import recipes

    return recipes.names()


NAMES: dict[str, Callable[[], tuple[str, ...]]] = {
    "space": _spaces,
    "device": _devices,
    "sampler": _samplers,
    "plan": _plans,
}


class Name(click.ParamType[str]):
    """One of some names, or, except for samplers, a file or folder of the user's; the library says what is wrong.

    Args:
        kind: one of `NAMES`.
    """

    def __init__(self, kind: str) -> None:
        self.name = kind
        self.names = NAMES[kind]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is."""
        del param, ctx
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin so, or else files."""
        del ctx, param
        found = [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]
        return found or ([] if self.name == "sampler" else [CompletionItem(incomplete, type="file")])

    def help(self, text: str) -> str:
        """The help of an option, and its names."""
        return f"{text.rstrip()} Names: {', '.join(self.names())}."
