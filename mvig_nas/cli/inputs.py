"""What commands read: a space, a predictor, an architecture."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvig_nas import shipped
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.search_space import SearchSpace

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency


def load_space(name: str) -> SearchSpace:
    """A shipped space by name, or one from a file.

    Raises:
        MvigNasError: no such space, or its file is wrong.
    """
    return SearchSpace.from_toml(shipped.space_path(name))


def load_latency(device: str) -> "ArchitectureLatency":
    """`ArchitectureLatency.load`, for commands that do not call it yet."""
    from mvig_nas.latency import ArchitectureLatency

    return ArchitectureLatency.load(device)


def load_architecture(name: str) -> Architecture:
    """A preset by name, or the architecture in a JSON file: bare, or a run's `winner.json`.

    Raises:
        MvigNasError: neither a preset nor a readable file, or the file holds no architecture.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise MvigNasError(
            f"no preset and no file is called {name!r}; {closest(name, PRESETS)} A run has a winner.json."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MvigNasError(f"an architecture file must be readable text, got {error} for {path}.") from error
    try:
        values: Any = json.loads(text)
        return Architecture.from_dict(values.get("architecture", values) if isinstance(values, dict) else values)
    except json.JSONDecodeError as error:
        raise MvigNasError(
            f"{path}: an architecture must be JSON, got text that breaks off or errs: {error}."
        ) from error
    except MvigNasError as error:
        raise MvigNasError(f"{path}: {error}") from error


def load_architectures(path: Path) -> list[Architecture]:
    """The architectures of a .jsonl file, one a line, as `sample` writes it.

    Raises:
        MvigNasError: the file cannot be read, or a line holds no architecture.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MvigNasError(f"a file of architectures must be readable text, got {error} for {path}.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(Architecture.from_json(line))
            except MvigNasError as error:
                raise MvigNasError(f"{path}, line {number}: {error}") from error
    return found
