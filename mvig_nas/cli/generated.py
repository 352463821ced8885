"""Options generated from the fields of frozen values: name, type, range, help text and default stand there once.

    @click.command(cls=GroupedCommand)
    @options_of(SearchSettings)                  # hands over `search_settings: SearchSettings`
    @changes_of(Recipe, title="Training recipe")  # hands over `recipe: dict`, only what the user gave
    def command(...): ...

The help shows options under the title of the value that they belong to. Fields that are values themselves are taken
apart, each under its own title.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import click

from mvig_nas import values
from mvig_nas.errors import MvigNasError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class GroupedCommand(click.Command):
    """A command whose help shows its options in titled groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each title, in the order in which they first appear; untitled options come first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "title", "Options"), []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class TitledOption(click.Option):
    """An option that the help shows under a title."""

    def __init__(self, *args: Any, title: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = title


class Quantity(click.ParamType[Any]):
    """A number with a unit, parsed by one of `mvig_nas.budget`'s functions; a wrong one is a usage error."""

    _PARSERS: ClassVar = {
        "duration": "parse_duration_ms",
        "seconds": "parse_duration_s",
        "count": "parse_count",
        "bytes": "parse_bytes",
    }

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed number; a `duration` is one of milliseconds."""
        from mvig_nas import budget

        if not isinstance(value, str):
            return value
        try:
            return getattr(budget, self._PARSERS[self.name])(value)
        except MvigNasError as error:
            self.fail(str(error), param, ctx)


@dataclass(frozen=True)
class _Field:
    """A field that becomes an option: its path inside the value, annotation and default."""

    path: tuple[str, ...]
    hint: Any
    default: Any
    title: str

    @property
    def name(self) -> str:
        return self.path[-1]


def options_of(
    kind: type, name: str | None = None, *, title: str = "Options", leave_out: Collection[str] = ()
) -> Decorator:
    """An option for each field of a dataclass; the command is handed the value.

    Args:
        kind: a frozen dataclass whose fields are annotated by `values.about`.
        name: the command's parameter; the class's name in small letters, with underscores, if None.
        title: of the group in the help.
        leave_out: fields that are no options; they keep their defaults.
    """
    found = list(_fields(kind, title, leave_out))

    def value_of(given: dict[str, Any], _: click.Context) -> Any:
        return values.read(kind, _nested(found, given), "the options")

    return _decorator(found, name or _snake(kind.__name__), value_of, shows_defaults=True)


def changes_of(
    kind: type, name: str | None = None, *, title: str = "Options", leave_out: Collection[str] = ()
) -> Decorator:
    """An option for each field of a dataclass; the command is handed a dict of what the user gave.

    The help shows no defaults: they are those of the value that `values.changed` makes another of.
    """
    found = list(_fields(kind, title, leave_out))

    def value_of(given: dict[str, Any], ctx: click.Context) -> Any:
        return _nested([field for field in found if is_given(ctx, field.name)], given)

    return _decorator(found, name or _snake(kind.__name__), value_of, shows_defaults=False)


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user gave this option, rather than its default."""
    return ctx.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)


def _decorator(
    found: list[_Field], name: str, value_of: Callable[[dict[str, Any], click.Context], Any], *, shows_defaults: bool
) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            given = {field.name: kwargs.pop(field.name) for field in found}
            return function(*args, **{name: value_of(given, click.get_current_context())}, **kwargs)

        decorated: Callable[..., Any] = command
        for field in reversed(found):
            decorated = _option(field, shows_defaults)(decorated)
        return decorated

    return decorate


def _option(field: _Field, shows_default: bool) -> Decorator:
    meta = values.meta_of(field.hint)
    extra: dict[str, Any] = (meta.extra if meta is not None else None) or {}
    flags = extra.get("flags") or (f"--{field.name.replace('_', '-')}",)
    kind = values.type_of(field.hint)
    settings: dict[str, Any] = {
        "cls": TitledOption,
        "title": field.title,
        "help": meta.description if meta is not None else None,
        "default": field.default if shows_default else None,
        "show_default": shows_default and field.default is not None and field.default is not False,
        "metavar": extra.get("metavar"),
    }
    if kind is bool:
        return click.option(*_switch(flags), field.name, **settings)
    settings["type"], settings["nargs"] = _type(kind, meta, extra.get("unit"))
    return click.option(*flags, field.name, **settings)


def _switch(flags: tuple[str, ...]) -> tuple[str, ...]:
    """A switch can be turned off as well, for a value whose field is on."""
    return flags if "/" in flags[0] else (f"{flags[0]}/--no-{flags[0].removeprefix('--')}", *flags[1:])


def _type(kind: Any, meta: Any, unit: str | None) -> tuple[Any, int]:
    """click's type, and how many words it takes."""
    if unit is not None:
        return Quantity(unit), 1
    if get_origin(kind) is Literal:
        return click.Choice(list(get_args(kind))), 1
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if Ellipsis in inner:
            raise TypeError(f"a tuple of any length is no option: {kind}")
        return _type(values.type_of(inner[0]), values.meta_of(inner[0]), None)[0], len(inner)
    if kind is Path:
        return click.Path(path_type=Path), 1
    if kind in (int, float) and meta is not None:
        low, high = (meta.gt if meta.ge is None else meta.ge), (meta.lt if meta.le is None else meta.le)
        ranges = click.IntRange if kind is int else click.FloatRange
        if low is not None or high is not None:
            return ranges(low, high, min_open=meta.gt is not None, max_open=meta.lt is not None), 1
    return kind, 1


def _fields(kind: type, title: str, leave_out: Collection[str], path: tuple[str, ...] = ()) -> Iterator[_Field]:
    hints = values.hints(kind)
    for field in fields(kind):
        if field.name in leave_out:
            continue
        hint, inner = hints[field.name], values.type_of(hints[field.name])
        if isinstance(inner, type) and is_dataclass(inner):
            yield from _fields(inner, _title(inner, field.name), leave_out, (*path, field.name))
            continue
        default = field.default if field.default is not MISSING else None
        yield _Field((*path, field.name), hint, default, title)


def _title(kind: type, name: str) -> str:
    return getattr(kind, "TITLE", name.replace("_", " ").capitalize())


def _nested(found: list[_Field], given: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for field in found:
        inside = nested
        for step in field.path[:-1]:
            inside = inside.setdefault(step, {})
        inside[field.name] = given[field.name]
    return nested


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
