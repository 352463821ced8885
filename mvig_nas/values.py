"""Frozen values from and to plain data: the annotations of a dataclass are the schema of its file and of its options.

A field is annotated with its type, and with `about(...)` where it has a range or stands for an option:

    epochs: Annotated[int, about("Passes over the training images.", ge=1)] = 100
    clip: Annotated[float, about("Gradients are clipped to this; not at all if missing.", gt=0)] | None = None

`check` in `__post_init__` holds a value made in Python against the same annotations as `read` holds a file. msgspec
does the checking: it is strict about types, names the path to the entry that is wrong, and imports in milliseconds.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from mvig_nas.errors import MvigNasError, closest

T = TypeVar("T")

_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
_BOUNDS = {">=": "of at least", ">": "above", "<=": "of at most", "<": "below", "of length": "of length"}


def about(
    description: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    unit: str | None = None,
) -> msgspec.Meta:
    """What a field means, for `Annotated`.

    Args:
        description: a whole sentence: subject, unit, and what a missing value means. It is the option's help text.
        ge, gt, le, lt: the range that a number must be in.
        flags: the option's names, where `--the-field-name` is not what users type.
        metavar: what stands for the value in the help.
        unit: `duration` (milliseconds), `seconds`, `count` or `bytes`, for numbers that users write as `1.0ms`, `2h`,
            `6M` or `2MB`.
    """
    bounds = {name: bound for name, bound in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if bound is not None}
    extra = {"flags": flags, "metavar": metavar, "unit": unit}
    return msgspec.Meta(description=description, extra=extra, **bounds)  # type: ignore[no-any-return, call-overload]


def check(value: Any) -> None:
    """Hold the fields of a dataclass against their annotations; for `__post_init__`.

    Raises:
        MvigNasError: names the first field that is of the wrong type, out of range or not finite.
    """
    kind: Any = type(value)
    for name, hint in hints(kind).items():
        entry = getattr(value, name)
        try:
            msgspec.convert(entry, hint, dec_hook=_decoded)
        except msgspec.ValidationError as error:
            raise MvigNasError(_told(error, hint, entry, name)) from error
        _require_finite(entry, name)


def plain(value: Any) -> Any:
    """A value as JSON and TOML hold it: dataclasses become dicts, tuples lists, paths text."""
    if is_dataclass(value) and not isinstance(value, type):
        # msgspec leaves defaults that it did not set on the instance out of what it writes
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    return msgspec.to_builtins(value, enc_hook=str, builtin_types=())


def without_nan(data: Any) -> Any:
    """The same with None for NaN, which JSON has no word for."""
    if isinstance(data, Mapping):
        return {name: without_nan(entry) for name, entry in data.items()}
    if isinstance(data, (tuple, list)):
        return [without_nan(entry) for entry in data]
    return None if isinstance(data, float) and math.isnan(data) else data


def read(kind: type[T], data: Any, what: str) -> T:
    """The value that `plain` gave, or a user wrote; entries that are missing take their defaults.

    Args:
        kind: a dataclass, or another type with an annotation for what it holds, such as `dict[str, float]`.
        data: plain data.
        what: what the data is, with its article, and where it was found: it begins every error.

    Raises:
        MvigNasError: an entry is unknown, missing, of the wrong type or out of range.
    """
    try:
        _require_known(kind, data, what, "")
        _require_finite(data, "")
    except RecursionError as error:
        raise MvigNasError(f"{what} must not be nested hundreds of times; restore it.") from error
    except MvigNasError as error:
        raise error if str(error).startswith(what) else MvigNasError(f"{what}: {error}") from error
    try:
        return msgspec.convert(data, kind, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        raise MvigNasError(f"{what}: {_told(error, kind, data)}") from error
    except MvigNasError as error:
        raise MvigNasError(f"{what}: {error}") from error


def changed(value: T, changes: Mapping[str, Any]) -> T:
    """The value with some entries replaced; a nested mapping changes a nested value.

    Raises:
        MvigNasError: there is no such entry, or what is put there is wrong.
    """
    known = [field.name for field in fields(value)]  # type: ignore[arg-type]
    new = {}
    for name, entry in changes.items():
        if name not in known:
            raise MvigNasError(f"there is no entry {name!r}; {closest(name, known)}")
        before = getattr(value, name)
        new[name] = changed(before, entry) if is_dataclass(before) and isinstance(entry, Mapping) else entry
    return replace(value, **new)  # type: ignore[type-var]


@cache
def hints(kind: Any) -> dict[str, Any]:
    """The annotations of a dataclass's fields, resolved, with what `about` says of them."""
    known = get_type_hints(kind, include_extras=True)
    return {field.name: known[field.name] for field in fields(kind)}


def meta_of(hint: Any) -> msgspec.Meta | None:
    """What `about` says in an annotation, also in one arm of a union."""
    for part in _parts(hint):
        if isinstance(part, msgspec.Meta):
            return part
    return None


def flags_of(name: str, hint: Any) -> tuple[str, ...]:
    """The names of the option that a field stands for."""
    meta = meta_of(hint)
    extra = (meta.extra if meta is not None else None) or {}
    return extra.get("flags") or (f"--{name.replace('_', '-')}",)


def is_optional(hint: Any) -> bool:
    """Whether a field may be None."""
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def option_at(kind: Any, path: str) -> str | None:
    """The option that the field at a path with dots stands for; None if it stands for none."""
    *_, name = path.split(".")
    hint: Any = kind
    for step in path.split("."):
        kind = type_of(hint)
        hint = hints(kind).get(step) if isinstance(kind, type) and is_dataclass(kind) else None
    return flags_of(name, hint)[0].partition("/")[0] if meta_of(hint) is not None else None


def type_of(hint: Any) -> Any:
    """The type in an annotation, without `about` and without None."""
    if hasattr(hint, "__metadata__"):
        return type_of(hint.__origin__)
    if get_origin(hint) in (Union, UnionType):
        arms = [arm for arm in get_args(hint) if arm is not NoneType]
        return type_of(arms[0]) if len(arms) == 1 else hint
    return hint


def _parts(hint: Any) -> list[Any]:
    found = list(getattr(hint, "__metadata__", ()))
    if found:
        return found + _parts(hint.__origin__)
    if get_origin(hint) in (Union, UnionType):
        return [part for arm in get_args(hint) for part in _parts(arm)]
    return []


def _decoded(kind: type, data: Any) -> Any:
    if kind is Path and isinstance(data, (str, Path)):
        return Path(data)
    if isinstance(data, kind):
        return data
    raise ValueError(f"Expected `{kind.__name__}`, got {data!r}")


def _require_known(kind: Any, data: Any, what: str, path: str) -> None:
    """Entries that no field has, in this value and in those inside it."""
    kind = type_of(kind)
    if get_origin(kind) in (tuple, list) and isinstance(data, (list, tuple)):
        inner = get_args(kind)[0] if get_args(kind) else None
        for index, entry in enumerate(data):
            _require_known(inner, entry, what, f"{path}[{index}]")
    if not (isinstance(kind, type) and is_dataclass(kind) and isinstance(data, Mapping)):
        return
    known = hints(kind)
    for name, entry in data.items():
        if name not in known:
            raise MvigNasError(f"{what}: there is no entry `{_joined(path, str(name))}`; {closest(str(name), known)}")
        _require_known(known[name], entry, what, _joined(path, name))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _require_finite(entry: Any, path: str) -> None:
    if isinstance(entry, float) and not math.isfinite(entry):
        raise MvigNasError(f"`{path}` must be a finite number, got {entry}.")
    if isinstance(entry, Mapping):
        for name, each in entry.items():
            _require_finite(each, _joined(path, str(name)))
    if isinstance(entry, (tuple, list)):
        for index, each in enumerate(entry):
            _require_finite(each, f"{path}[{index}]")


def _told(error: msgspec.ValidationError, hint: Any, data: Any, name: str = "") -> str:
    """`` `path.to.entry` must be a whole number of at least 1, got 0. ``"""
    text = str(error)
    found = re.fullmatch(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", text, re.DOTALL)
    assert found is not None
    inside = (found["path"] or "").lstrip(".")
    path = _joined(name, inside) if inside and not inside.startswith("[") else f"{name}{inside}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", found["what"])
    if missing:
        return f"`{_joined(path, missing[1])}` must be given, it is missing."
    value = _at(data, inside)
    choices = _choices(hint, inside)
    if choices and found["what"].startswith("Invalid enum value"):
        return f"`{path}` must be one of {', '.join(map(repr, choices))}, got {value!r}; {closest(str(value), choices)}"
    rule = re.fullmatch(r"Expected (.*?)(?:, got .*)?", found["what"], re.DOTALL)
    if rule is None:
        return f"`{path}`: {found['what']}"
    return f"{f'`{path}`' if path else 'it'} must be {_rule(rule[1])}, got {value!r}."


def _rule(text: str) -> str:
    for name, words in _TYPE_NAMES.items():
        text = text.replace(f"`{name}`", words).replace(f"`{name} | null`", f"{words} or nothing")
    for sign, words in _BOUNDS.items():
        text = re.sub(rf" {re.escape(sign)} (-?[\d.e+-]+)", lambda m, w=words: f" {w} {float(m[1]):g}", text)  # type: ignore[misc]
    return text


def _at(data: Any, path: str) -> Any:
    """What stands at a path of names and indices."""
    for step in re.findall(r"[^.\[\]]+", path):
        try:
            data = data[int(step)] if isinstance(data, (list, tuple)) else data[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return data
    return data


def _choices(hint: Any, path: str) -> tuple[str, ...]:
    """The values that a `Literal` at a path allows."""
    for step in re.findall(r"[^.\[\]]+", path):
        kind = type_of(hint)
        if isinstance(kind, type) and is_dataclass(kind):
            hint = hints(kind).get(step)
        elif get_args(kind):
            hint = get_args(kind)[0]
    return tuple(str(choice) for choice in get_args(type_of(hint)))
