"""Run folders: `run.json` says what was asked for, so that `--resume` goes on with the same, whatever the command.

    request = run_folder.reopen(folder, "retrain", RetrainRequest)   # --resume
    with run_folder.entered(folder, "retrain", request, resume, "state.pt") as goes_on:   # a new run, or the saved one

A request is a frozen dataclass that `mvig_nas.values` reads and writes.
"""

import json
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mvig_nas import values
from mvig_nas.errors import MvigNasError
from mvig_nas.files import make_folder, read_json, remove_unfinished_below, save

FILE = "run.json"
SKIPPED = "skipped_images.json"  # images that the run leaves out
SCHEMA = 1
RUNS = Path("results/runs")
T = TypeVar("T")


def new_folder(name: str, seed: int) -> Path:
    """A folder in `results/runs` that is not there yet, named by the time, the run and its seed.

    Raises:
        MvigNasError: torchrun started several processes, each of which would find another.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MvigNasError("several processes must share one run folder, got none; name it with --out.")
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-seed{seed}"
    folder, number = RUNS / stem, 2
    while folder.exists():
        folder, number = RUNS / f"{stem}-{number}", number + 1
    return folder


def begin(folder: Path, command: str, request: Any) -> None:
    """Write what is asked for into a folder that holds no run yet, which is made if it is missing.

    Raises:
        MvigNasError: the folder holds a run, or it cannot be written.
    """
    if (folder / FILE).exists():
        _refuse(folder)
    make_folder(folder)
    rewrite(folder, command, request)


def inspected(folder: Path, command: str, request: Any, resume: bool, evidence: str) -> bool:
    """Whether a run goes on from something; refuses, before anything is loaded, what the folder does not allow.

    Args:
        folder: of the run.
        command: that is run.
        request: what is asked for; `MAY_DIFFER` of its class names what a resumed run may ask for anew.
        resume: go on with the run in the folder, also where it was killed before it had begun.
        evidence: name of the file in the folder that shows that a run has begun.

    Raises:
        MvigNasError: as `reopen` and `require_same`, or the folder holds a run that is not to be resumed. A run of an
            older mvig-nas, which left no `run.json`, is gone on with as it is asked for now.
    """
    has_begun, is_known = (folder / evidence).exists(), (folder / FILE).exists()
    if resume:
        if is_known or not has_begun:
            require_same(reopen(folder, command, type(request)), request, getattr(request, "MAY_DIFFER", ()))
        return has_begun
    if _is_first() and (is_known or has_begun):
        _refuse(folder)
    return False


@contextmanager
def entered(folder: Path, command: str, request: Any, resume: bool, evidence: str) -> Iterator[bool]:
    """Begin a run in a folder, or go on with the one that it holds, which must have been asked for the same.

    What a kill left unfinished in the folder of a resumed run is removed. What fails before the run has begun takes its
    `run.json` back, and the folders that were made for it. Of the processes that torchrun started, the first one
    writes. Arguments, errors and what is handed over are those of `inspected`, which a command calls by itself where it
    has more to check before it enters.
    """
    goes_on = inspected(folder, command, request, resume, evidence)
    if resume and _is_first():
        remove_unfinished_below(folder)
    if resume or not _is_first():
        yield goes_on
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    begin(folder, command, request)
    try:
        yield False
    except BaseException:
        if not (folder / evidence).exists():
            for name in (FILE, SKIPPED):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                for each in made:
                    each.rmdir()
        raise


def rewrite(folder: Path, command: str, request: Any) -> None:
    """Replace what a run is asked for, where a resumed run may ask for more.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "command": command,
        "request": values.plain(request),
        "versions": {"mvig-nas": version("mvig-nas"), "python": platform.python_version()},
    }
    save(folder / FILE, json.dumps(content, indent=1) + "\n")


def conclude(folder: Path, result: Mapping[str, Any]) -> None:
    """Write beside what a run was asked for what came of it, in numbers and words.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    save(folder / FILE, json.dumps(_read(folder) | {"result": result}, indent=1) + "\n")


def reopen(folder: Path, command: str, kind: type[T]) -> T:
    """What the run in a folder was asked for.

    Raises:
        MvigNasError: the folder holds no run, a run of another command, or one of another version.
    """
    content = _read(folder)
    if content.get("command") != command:
        raise MvigNasError(
            f"{folder} must hold a run of `mvig-nas {command}` to resume, got one of `{content.get('command')}`; name "
            "its own folder."
        )
    if content.get("schema") != SCHEMA:
        raise MvigNasError(
            f"the schema of {folder / FILE} must be {SCHEMA}, got {content.get('schema')!r}; start anew."
        )
    return values.read(kind, content.get("request"), f"{folder / FILE}")


def require_same(saved: Any, asked: Any, may_differ: Collection[str] = ()) -> None:
    """That a resumed run is asked for what it began with.

    Args:
        saved, asked: requests of one kind.
        may_differ: names of entries, with dots where they are nested, that a resumed run may ask for anew.

    Raises:
        MvigNasError: names the first entry that differs, and both values.
    """
    _require_same(values.plain(saved), values.plain(asked), may_differ, "", type(asked))


def _require_same(saved: Any, asked: Any, may_differ: Collection[str], path: str, kind: Any) -> None:
    if path in may_differ or saved == asked:
        return
    if isinstance(saved, dict) and isinstance(asked, dict):
        for name in {**saved, **asked}:
            _require_same(saved.get(name), asked.get(name), may_differ, f"{path}.{name}" if path else name, kind)
        return
    raise MvigNasError(
        f"a resumed run must keep what it began with, but `{values.option_at(kind, path) or path}` was "
        f"{_short(saved)} and is now {_short(asked)}; give the same, or start anew in another folder."
    )


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _refuse(folder: Path) -> NoReturn:
    command = f" of `mvig-nas {_read(folder).get('command')}`" if (folder / FILE).exists() else ""
    raise MvigNasError(f"{folder} holds a run{command} already; go on with it by --resume, or take another --out.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        content = read_json(path, "the record of a run", "restore it, or start anew")
    except FileNotFoundError as error:
        raise MvigNasError(
            f"a run to resume must hold {FILE}, but there is none in {folder}; name the run's folder, or, where an "
            "older mvig-nas began it, give the options that it began with again."
        ) from error
    if not isinstance(content, dict):
        raise MvigNasError(f"{path} must hold a table, got {type(content).__name__}; restore it, or start anew.")
    return content
