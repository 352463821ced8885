"""Files that are wrong: every mutation is a function of a seed, so that a failure can be made again.

Bytes are flipped, cut, repeated and exchanged; in JSON and TOML, values take other types, depths and sizes.
"""

import json
import math
import random
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "0", "x", "../../../x", "/dev/zero", "a\0b", "a\nb", "é" * 300, "$\\frac$", [], {}, [[]], [None], {"": 0},
    [1] * 1000, "9" * 5000,
)  # fmt: skip
DEEP = 100_000


def bytes_mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four changes at the level of bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(_BYTES)(content, rng)
    return content


def json_mutated(content: bytes, rng: random.Random) -> bytes:
    """JSON text with one to three values changed; now and then something that is no JSON at all."""
    if rng.random() < 0.2:
        return bytes_mutated(content, rng)
    if rng.random() < 0.03:
        return b"[" * DEEP + b"]" * DEEP if rng.random() < 0.5 else b'{"schema": ' + b"9" * 5000 + b"}"
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _changed(value, rng)
    return json.dumps(value).encode()


def json_lines_mutated(content: bytes, rng: random.Random) -> bytes:
    """One line of JSON Lines changed, removed, doubled or moved."""
    lines = content.splitlines()
    index = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        return bytes_mutated(content, rng)
    if kind == 1:
        del lines[index]
    elif kind == 2:
        lines.insert(index, lines[rng.randrange(len(lines))])
    else:
        try:
            lines[index] = json_mutated(lines[index], rng)
        except ValueError:  # a line that is no JSON
            lines[index] = bytes_mutated(lines[index], rng)
    return b"\n".join(lines) + b"\n"


def toml_mutated(content: bytes, rng: random.Random) -> bytes:
    """TOML text with the value of one entry, or the bytes, changed."""
    if rng.random() < 0.2:
        return bytes_mutated(content, rng)
    lines = content.decode().splitlines()
    entries = [index for index, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    for _ in range(rng.choice((1, 1, 2))):
        index = rng.choice(entries)
        name = lines[index].partition(" = ")[0]
        lines[index] = rng.choice(
            (f"{name} = {_toml(rng.choice(ODD))}", f"x{name} = 1", "", lines[index] + "\n[[stage]]")
        )
    return "\n".join(lines).encode()


def _toml(value: Any) -> str:
    if value is None:
        return "[[8, 12]]"
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return "{ a = 1 }"
    return json.dumps(value)


def _changed(value: Any, rng: random.Random) -> Any:
    """A copy with something inside it changed."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return rng.choice(ODD)
    if isinstance(value, list):
        index = rng.randrange(len(value))
        kind = rng.randrange(6)
        if kind == 0:
            return value[:index] + value[index + 1 :]
        if kind == 1:
            return [*value[:index], value[index], *value[index:]]
        return [*value[:index], _changed(value[index], rng), *value[index + 1 :]]
    name = rng.choice(list(value))
    kind = rng.randrange(8)
    if kind == 0:
        return {key: entry for key, entry in value.items() if key != name}
    if kind == 1:
        return {**value, rng.choice(("odd", "", "schema", "../x")): rng.choice(ODD)}
    return {**value, name: _changed(value[name], rng)}


def _flip(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return b"\xff"
    index = rng.randrange(len(content))
    return content[:index] + bytes([content[index] ^ (1 << rng.randrange(8))]) + content[index + 1 :]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _drop(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.randrange(1, 100) :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[: start + rng.randrange(1, 100)] + content[start:]


def _noise(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.randrange(1, 40)) + content[start:]


def _zeros(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    count = rng.randrange(1, 64)
    return content[:start] + bytes(count) + content[start + count :]


def _maximal(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + b"\xff" * 8 + content[start + 8 :]


def _nothing(content: bytes, rng: random.Random) -> bytes:
    del content, rng
    return b""


_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip, _cut, _drop, _repeat, _noise, _zeros, _maximal, _nothing,
)  # fmt: skip
