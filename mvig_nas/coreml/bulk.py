"""Packages of many architectures in one folder, in parallel; a manifest lets an interrupted export go on."""

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mvig_nas
from mvig_nas.architecture import Architecture
from mvig_nas.coreml.conversion import SUFFIX, InputKind, export, untrained
from mvig_nas.coreml.package import METADATA_PREFIX, SavedProgram, content_sha256
from mvig_nas.coreml.verification import Verification, verify
from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim, remove_unfinished, save
from mvig_nas.futures import as_completed

MANIFEST = "manifest.json"
SCHEMA = 1
_LOCK = ".lock"


@dataclass(frozen=True)
class BulkOptions:
    """What all packages of a folder share; see `export`. Weights are random, drawn from `seed`."""

    num_classes: int = 1000
    class_labels: tuple[str, ...] | None = None
    input_kind: InputKind = "image"
    minimum_deployment_target: str = "iOS16"
    seed: int = 0

    @property
    def weights(self) -> str:
        """For the packages' metadata."""
        return f"untrained, seed {self.seed}"


@dataclass(frozen=True)
class BulkProgress:
    """Packages that stand in the folder, of all asked for; the last one's name."""

    done: int
    total: int
    now: str


@dataclass(frozen=True)
class Bulk:
    """What an export of many did: packages in the order asked for, how many of them are new, and what went wrong."""

    packages: tuple[Path, ...]
    written: int
    failed: Mapping[str, str]  # message by fingerprint


def export_all(
    architectures: Sequence[Architecture],
    folder: Path,
    options: BulkOptions = BulkOptions(),
    *,
    jobs: int = 1,
    is_verified: bool = True,
    on_progress: Callable[[BulkProgress], None] | None = None,
) -> Bulk:
    """Write `FINGERPRINT.mlpackage` of each architecture into `folder`, and `manifest.json` beside them.

    Call it again after a kill, or with more architectures: what the manifest holds is kept if its content is unchanged.
    One that fails does not keep the others from being written.

    Args:
        architectures: equal ones are exported once.
        folder: made if missing.
        options: must be those that the folder was begun with.
        jobs: processes, of one thread each. 1 works in this one.
        is_verified: whether each package must pass `verify` before it appears.
        on_progress: called after each package.

    Raises:
        MvigNasError: the folder is another export's, cannot be written or is in use; or a process died.
    """
    unique = list(dict.fromkeys(architectures))
    if not unique:
        raise MvigNasError("there must be an architecture to export, got none; `mvig-nas sample` writes some.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with claim(folder / _LOCK) as is_ours:
            if not is_ours:
                raise MvigNasError(
                    f"{folder} must be written by one export at a time, another one has it; wait for it."
                )
            remove_unfinished(folder / MANIFEST)
            return _export_all(unique, _Task(folder, options, is_verified), jobs, on_progress)
    except OSError as error:
        raise MvigNasError(f"{folder} must be writable, got {error.strerror!r}; take another place.") from error


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A folder's manifest: `schema`, `options`, and `packages`, a list of one object a package; None without one.

    Raises:
        MvigNasError: it is damaged or of another schema.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MvigNasError(f"a manifest must be readable JSON, got {error} at {path}; take another folder.") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise MvigNasError(f"a manifest must be of schema {SCHEMA}, got another at {path}; take another folder.")
    return values


@dataclass(frozen=True)
class _Task:
    folder: Path
    options: BulkOptions
    is_verified: bool

    @property
    def staging(self) -> Path:
        return self.folder / ".staging"

    def package(self, architecture: Architecture) -> Path:
        return self.folder / f"{architecture.fingerprint}{SUFFIX}"


def _export_all(
    architectures: Sequence[Architecture],
    task: _Task,
    jobs: int,
    on_progress: Callable[[BulkProgress], None] | None,
) -> Bulk:
    manifest = _Manifest(task)
    shutil.rmtree(task.staging, ignore_errors=True)
    failed: dict[str, str] = {}
    todo = []
    for architecture in architectures:
        try:
            if not manifest.holds(architecture):
                todo.append(architecture)
        except MvigNasError as error:
            failed[architecture.fingerprint] = str(error)
    done = len(architectures) - len(todo) - len(failed)
    written = 0
    (task.staging).mkdir()
    try:
        for architecture, outcome in _outcomes(todo, task, jobs):
            if isinstance(outcome, MvigNasError):
                failed[architecture.fingerprint] = str(outcome)
            else:
                manifest.add(outcome)
                written += 1
            if on_progress is not None:
                on_progress(BulkProgress(done + written, len(architectures), architecture.fingerprint + SUFFIX))
    finally:
        shutil.rmtree(task.staging, ignore_errors=True)
    packages = (task.package(each) for each in architectures if each.fingerprint not in failed)
    return Bulk(tuple(packages), written, failed)


class _Manifest:
    """The record of what stands in the folder, rewritten whole with each package."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        folder, options = task.folder, task.options
        self._values = read_manifest(folder) or {"schema": SCHEMA, "options": _plain(options), "packages": []}
        for name, ours in _plain(options).items():
            theirs = self._values["options"].get(name)
            if theirs != ours:
                raise MvigNasError(
                    f"all packages of a folder must be exported alike, {folder} has `{name}` {theirs!r} and {ours!r} "
                    "is asked for; take another folder."
                )
        self._entries = {entry["fingerprint"]: entry for entry in self._values["packages"]}
        self._write()

    def holds(self, architecture: Architecture) -> bool:
        """Whether its package stands in the folder as it was written, and verified where that is asked for.

        Raises:
            MvigNasError: it was changed since.
        """
        entry = self._entries.get(architecture.fingerprint)
        path = self._task.package(architecture)
        if entry is None or not path.exists():
            return False
        if content_sha256(path) != entry["sha256"]:
            raise MvigNasError(
                f"{path} must be as it was written, its SHA-256 is another than the manifest's; delete it to have it "
                "written again."
            )
        return entry["verified"] is not None or not self._task.is_verified

    def add(self, entry: dict[str, Any]) -> None:
        """Note a package, in place of an earlier note about it."""
        self._entries[entry["fingerprint"]] = entry
        self._write()

    def _write(self) -> None:
        self._values["packages"] = list(self._entries.values())
        save(self._task.folder / MANIFEST, json.dumps(self._values, indent=1) + "\n")


_Outcome = dict[str, Any] | MvigNasError


def _outcomes(todo: Sequence[Architecture], task: _Task, jobs: int) -> Iterator[tuple[Architecture, _Outcome]]:
    """A manifest's entry or an error for each, as they come."""
    if jobs == 1 or len(todo) < 2:
        for architecture in todo:
            yield architecture, _made(architecture, task)
        return
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    workers = ProcessPoolExecutor(min(jobs, len(todo)), context, _begin_worker, (str(task.staging),))
    futures = {workers.submit(_made, each, task): each for each in todo}
    try:
        yield from _results(as_completed(futures), futures)
    except BrokenExecutor as error:
        raise MvigNasError(
            "a process that exported packages died, perhaps for want of memory; run the same command again to go on, "
            "with fewer jobs."
        ) from error
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def _results(
    finished: Iterable[Future[_Outcome]], futures: Mapping[Future[_Outcome], Architecture]
) -> Iterator[tuple[Architecture, _Outcome]]:
    for future in finished:
        yield futures[future], future.result()


def _begin_worker(staging: str) -> None:
    """One thread, no Ctrl-C of its own, temporary files where the next run finds them, and an end with its parent."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tempfile.tempdir = staging
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _made(architecture: Architecture, task: _Task) -> _Outcome:
    try:
        return _make(architecture, task)
    except MvigNasError as error:
        return error


def _make(architecture: Architecture, task: _Task) -> dict[str, Any]:
    """Write and check a package; its entry. One that stands there without an entry was written before a kill."""
    path, options = task.package(architecture), task.options
    network = untrained(architecture, options.num_classes, options.seed)
    verification: Verification | None = None
    if path.exists():
        verification = verify(path, architecture, network)
        if verification.input_kind != options.input_kind:
            raise MvigNasError(
                f"{path} must take {options.input_kind} as input, got {verification.input_kind}; delete it."
            )
    else:

        def check(finished: Path) -> None:
            nonlocal verification
            verification = verify(finished, architecture, network)

        export(
            network,
            path,
            weights=options.weights,
            input_kind=options.input_kind,
            class_labels=options.class_labels,
            minimum_deployment_target=options.minimum_deployment_target,
            staging=task.staging,
            check=check if task.is_verified else None,
        )
    return {
        "package": path.name,
        "fingerprint": architecture.fingerprint,
        "sha256": content_sha256(path),
        "coremltools_version": SavedProgram(path).metadata[METADATA_PREFIX + "coremltools_version"],
        "mvig_nas_version": mvig_nas.__version__,
        "verified": None if verification is None else _facts(verification),
    }


def _facts(verification: Verification) -> dict[str, Any]:
    comparison = verification.comparison
    return {
        "operations": verification.operations,
        "convolutions": verification.convolutions,
        "difference_fp32": comparison.difference,
        "rounding_fp16": comparison.rounding_fp16,
    }


def _plain(options: BulkOptions) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    return values
