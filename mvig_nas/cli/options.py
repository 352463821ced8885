"""Parameter types and options that commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mvig_nas.errors import MvigNasError

DEFAULT_DEVICE = "iphone-13-mini"


class Quantity(click.ParamType[Any]):
    """A value with a unit, parsed by one of `mvig_nas.budget`'s functions; a wrong one is a usage error."""

    def __init__(self, name: str, parser: str) -> None:
        self.name = name
        self._parser = parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed number."""
        from mvig_nas import budget

        if not isinstance(value, str):
            return value
        try:
            return getattr(budget, self._parser)(value)
        except MvigNasError as error:
            self.fail(str(error), param, ctx)


DURATION = Quantity("duration", "parse_duration_ms")
COUNT = Quantity("count", "parse_count")
BYTES = Quantity("bytes", "parse_bytes")

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def device_option() -> _Decorator:
    """`--device`."""
    return click.option(
        "--device",
        default=DEFAULT_DEVICE,
        show_default=True,
        metavar="NAME|FOLDER",
        help="Phone to predict latency for (see `mvig-nas devices`), or a folder with a fitted predictor.",
    )


def space_option() -> _Decorator:
    """`--space`."""
    return click.option(
        "--space",
        default="mobilevig",
        show_default=True,
        metavar="NAME|FILE.toml",
        help="Search space (see `mvig-nas spaces`), or a file of your own.",
    )


def seed_option() -> _Decorator:
    """`--seed`."""
    return click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Same seed, same result."
    )


def json_option() -> _Decorator:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines, no tables.")


def data_option(required: bool = True, help: str = "Folder with train/CLASS/*.jpg and val/CLASS/*.jpg.") -> _Decorator:
    """`--data`."""
    return click.option("--data", type=click.Path(path_type=Path), required=required, metavar="FOLDER", help=help)


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user gave this option, rather than its default."""
    return ctx.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)
