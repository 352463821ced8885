"""Options generated from the fields of frozen values: name, type, range, help text and default stand there once.

    @click.command(cls=GroupedCommand)
    @options_of(SearchSettings)                  # hands over `search_settings: SearchSettings`
    @changes_of(Recipe)                           # hands over `recipe: dict`, only what the user gave
    def command(...): ...

The help shows options under the title of the value that they belong to. Fields that are values themselves are taken
apart, each under its own title.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import click

from mvig_nas import values
from mvig_nas.cli.names import NAMES, Name
from mvig_nas.errors import MvigNasError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_SUFFIXES = {"duration": "ms", "seconds": "s"}


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

    def __init__(self, unit: str) -> None:
        self.name = "duration" if unit == "seconds" else unit
        self._unit = unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed number; a `duration` is one of milliseconds."""
        from mvig_nas import budget

        if not isinstance(value, str):
            return value
        try:
            return getattr(budget, self._PARSERS[self._unit])(value)
        except MvigNasError as error:
            self.fail(str(error), param, ctx)


@dataclass(frozen=True)
class _Field:
    """A field that becomes an option: its path inside the value, annotation and default."""

    path: tuple[str, ...]
    hint: Any
    default: Any  # None for an option that has none
    title: str
    is_required: bool

    @property
    def name(self) -> str:
        return self.path[-1]


def options_of(kind: Any, name: str | None = None, *, title: str = "", leave_out: Collection[str] = ()) -> Decorator:
    """An option for each field of a dataclass; the command is handed the value.

    Args:
        kind: a frozen dataclass whose fields are annotated by `values.about`, or an instance with other defaults.
        name: the command's parameter; the class's name in small letters, with underscores, if None.
        title: of the group in the help; the class's `TITLE` if it is empty.
        leave_out: fields that are no options; they keep their defaults.
    """
    cls = kind if isinstance(kind, type) else type(kind)
    found = list(_fields(kind, title or _title(cls, "options"), leave_out))
    fixed = {} if cls is kind else values.plain(kind)

    def value_of(given: dict[str, Any], _: click.Context) -> Any:
        return values.read(cls, fixed | _nested(found, given), "the options")

    return _decorator(found, name or _snake(cls.__name__), value_of)


def changes_of(kind: Any, name: str | None = None, *, title: str = "", leave_out: Collection[str] = ()) -> Decorator:
    """An option for each field of a dataclass; the command is handed a dict of what the user gave.

    Args:
        kind: a frozen dataclass, whose options show no defaults, as they are those of the value that `values.changed`
            makes another of; or an instance, whose entries are the defaults that the help shows; or several of them by
            names, which are then the names of the dicts inside the dict.
        name: the command's parameter; the class's name in small letters, with underscores, or `changes`, if None.
        title: of the group in the help; the class's `TITLE` if it is empty.
        leave_out: fields that are no options.
    """
    parts = kind if isinstance(kind, Mapping) else {"": kind}
    found: list[_Field] = []
    for part, each in parts.items():
        cls = each if isinstance(each, type) else type(each)
        group = title or _title(cls, part or "options")
        found += _fields(each, group, leave_out, (part,) if part else (), shows_own=False)
        name = name or ("changes" if part else _snake(cls.__name__))

    def value_of(given: dict[str, Any], ctx: click.Context) -> Any:
        return _nested([field for field in found if is_given(ctx, field.name)], given)

    return _decorator(found, name or "changes", value_of)


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user gave this option, rather than its default."""
    return ctx.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)


def _decorator(found: list[_Field], name: str, value_of: Callable[[dict[str, Any], click.Context], Any]) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            given = {field.name: _none_as_nothing(field, kwargs.pop(field.name)) for field in found}
            return function(*args, **{name: value_of(given, click.get_current_context())}, **kwargs)

        decorated: Callable[..., Any] = command
        for field in reversed(found):
            decorated = _option(field)(decorated)
        return decorated

    return decorate


def _none_as_nothing(field: _Field, given: Any) -> Any:
    """The word `none` for a choice that may be missing."""
    return None if given == "none" and _is_optional_choice(field.hint) else given


def _is_optional_choice(hint: Any) -> bool:
    return values.is_optional(hint) and get_origin(values.type_of(hint)) is Literal


def _option(field: _Field) -> Decorator:
    meta = values.meta_of(field.hint)
    extra: dict[str, Any] = (meta.extra if meta is not None else None) or {}
    flags = values.flags_of(field.name, field.hint)
    kind = values.type_of(field.hint)
    settings: dict[str, Any] = {
        "cls": TitledOption,
        "title": field.title,
        "help": meta.description if meta is not None else None,
        "default": field.default,
        "show_default": field.default is not None and field.default not in (False, ()),
        "metavar": extra.get("metavar"),
        "required": field.is_required,
    }
    unit = extra.get("unit")
    if isinstance(field.default, float) and unit in _SUFFIXES:
        settings["default"] = f"{field.default:g}{_SUFFIXES[unit]}"
    if field.is_required:
        del settings["default"]  # None would count as given
    if kind is bool:
        return click.option(*_switch(flags), field.name, **settings)
    settings["type"], settings["nargs"] = _type(kind, meta, unit)
    settings["multiple"] = Ellipsis in get_args(kind)
    if kind is str and field.name in NAMES:
        settings["type"] = Name(field.name)
        settings["help"] = settings["type"].help(settings["help"] or "")
    if _is_optional_choice(field.hint):
        settings["type"] = click.Choice([*settings["type"].choices, "none"])
    return click.option(*flags, field.name, **settings)


def _switch(flags: tuple[str, ...]) -> tuple[str, ...]:
    """A switch can be turned off as well, for a value whose field is on."""
    return flags if "/" in flags[0] else (f"{flags[0]}/--no-{flags[0].removeprefix('--')}", *flags[1:])


def _type(kind: Any, meta: Any, unit: str | None) -> tuple[Any, int]:
    """click's type, and how many words it takes; one of a tuple of any length, which is given several times."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        words = 1 if Ellipsis in inner else len(inner)
        return _type(values.type_of(inner[0]), values.meta_of(inner[0]), unit)[0], words
    if unit is not None:
        return Quantity(unit), 1
    if get_origin(kind) is Literal:
        return click.Choice(list(get_args(kind))), 1
    if kind is Path:
        return click.Path(path_type=Path), 1
    if kind in (int, float) and meta is not None:
        low, high = (meta.gt if meta.ge is None else meta.ge), (meta.lt if meta.le is None else meta.le)
        ranges = click.IntRange if kind is int else click.FloatRange
        if low is not None or high is not None:
            return ranges(low, high, min_open=meta.gt is not None, max_open=meta.lt is not None), 1
    return kind, 1


def _fields(
    kind: Any, title: str, leave_out: Collection[str], path: tuple[str, ...] = (), *, shows_own: bool = True
) -> Iterator[_Field]:
    """The options of a dataclass or of an instance; `shows_own` is whether a class's own defaults are the options'."""
    cls = kind if isinstance(kind, type) else type(kind)
    hints = values.hints(cls)
    for field in fields(cls):
        if field.name in leave_out:
            continue
        hint, inner = hints[field.name], values.type_of(hints[field.name])
        default = None if cls is kind else getattr(kind, field.name)
        if isinstance(inner, type) and is_dataclass(inner):
            nested = default if default is not None else inner
            own = _title(inner, field.name)
            yield from _fields(nested, own, leave_out, (*path, field.name), shows_own=shows_own)
            continue
        if cls is kind and shows_own and field.default is not MISSING:
            default = field.default
        is_required = cls is kind and shows_own and field.default is MISSING and field.default_factory is MISSING
        yield _Field((*path, field.name), hint, default, title, is_required)


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
