"""Packages of many architectures in one folder, made in parallel; a manifest lets an interrupted export go on."""

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import mvig_nas
from mvig_nas import values
from mvig_nas.architecture import Architecture
from mvig_nas.coreml.export_options import DeploymentTarget, ExportOptions, InputKind
from mvig_nas.coreml.exporting import UNTRAINED, ExportRequest
from mvig_nas.coreml.package import METADATA_PREFIX, SUFFIX, SavedProgram, content_sha256
from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim, holder, make_folder, read_json, remove_unfinished, save
from mvig_nas.futures import as_completed, begin_worker
from mvig_nas.run_folder import require_same
from mvig_nas.values import about, check, plain

if TYPE_CHECKING:
    from mvig_nas.coreml.verification import Verification

MANIFEST = "manifest.json"
SCHEMA = 1
_LOCK = ".lock"


@dataclass(frozen=True)
class BulkOptions:
    """What all packages of a folder share; see `ExportOptions`. Weights are random, drawn from `seed`.

    Raises:
        MvigNasError: a value is none of the choices, or out of range.
    """

    num_classes: Annotated[int, about("Classes of every network.", ge=1)] = 1000
    class_labels: tuple[str, ...] | None = None
    input_kind: InputKind = "image"
    minimum_deployment_target: DeploymentTarget = "iOS16"
    seed: Annotated[int, about("Seed of the random weights.", ge=0)] = 0

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def of(cls, request: ExportRequest) -> "BulkOptions":
        """What a request says of many packages."""
        labels, package = request.class_labels, request.package
        return cls(
            request.num_classes or len(labels or ()) or 1000,
            labels,
            package.input_kind,
            package.minimum_deployment_target,
            request.seed,
        )

    @property
    def package(self) -> ExportOptions:
        """For `export`."""
        return ExportOptions(self.input_kind, self.minimum_deployment_target, self.class_labels)


@dataclass(frozen=True)
class Verified:
    """What the verification of a package found, for the manifest; see `Verification`."""

    operations: int
    convolutions: int
    difference_fp32: float | None
    rounding_fp16: float


@dataclass(frozen=True)
class ManifestEntry:
    """A package of a folder: its name, what it holds, what made it, and what was verified, if anything."""

    package: str
    fingerprint: str
    sha256: str
    coremltools_version: str
    mvig_nas_version: str
    verified: Verified | None


@dataclass(frozen=True)
class Manifest:
    """The record of a folder's packages, and of what they share."""

    schema: int
    options: BulkOptions
    packages: tuple[ManifestEntry, ...] = ()


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
    make_folder(folder)
    try:
        with claim(folder / _LOCK) as is_ours:
            if not is_ours:
                raise MvigNasError(
                    f"{folder} must be written by one export at a time, but {holder(folder / _LOCK)} is at it; wait "
                    "until it has ended, or stop it."
                )
            remove_unfinished(folder / MANIFEST)
            return _export_all(unique, _Task(folder, options, is_verified), jobs, on_progress)
    except OSError as error:
        raise MvigNasError(f"{folder} must be writable, got {error.strerror!r}; take another folder.") from error


def read_manifest(folder: Path) -> Manifest | None:
    """A folder's manifest; None without one.

    Raises:
        MvigNasError: it is damaged or of another schema.
    """
    path = folder / MANIFEST
    try:
        content = read_json(path, "a manifest", "take another folder")
    except FileNotFoundError:
        return None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise MvigNasError(f"a manifest must be of schema {SCHEMA}, got another at {path}; take another folder.")
    return values.read(Manifest, content, str(path))


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

    def holds(self, architecture: Architecture, entry: ManifestEntry | None) -> bool:
        """Whether the package stands in the folder as it was written, and verified where that is asked for.

        Raises:
            MvigNasError: it was changed since.
        """
        path = self.package(architecture)
        if entry is None or not path.exists():
            return False
        if content_sha256(path) != entry.sha256:
            raise MvigNasError(
                f"{path} must be as it was written, its SHA-256 is another than the manifest's; delete it to have it "
                "written again."
            )
        return entry.verified is not None or not self.is_verified


def _export_all(
    architectures: Sequence[Architecture], task: _Task, jobs: int, on_progress: Callable[[BulkProgress], None] | None
) -> Bulk:
    manifest = read_manifest(task.folder) or Manifest(SCHEMA, task.options)
    require_same(manifest.options, task.options)
    entries = {entry.fingerprint: entry for entry in manifest.packages}

    def note() -> None:
        content = plain(replace(manifest, packages=tuple(entries.values())))
        save(task.folder / MANIFEST, json.dumps(content, indent=1) + "\n")

    note()
    shutil.rmtree(task.staging, ignore_errors=True)
    failed: dict[str, str] = {}
    todo = []
    for architecture in architectures:
        try:
            if not task.holds(architecture, entries.get(architecture.fingerprint)):
                todo.append(architecture)
        except MvigNasError as error:
            failed[architecture.fingerprint] = str(error)
    done = len(architectures) - len(todo) - len(failed)
    written = 0
    task.staging.mkdir()
    try:
        for architecture, outcome in _outcomes(todo, task, jobs):
            if isinstance(outcome, MvigNasError):
                failed[architecture.fingerprint] = str(outcome)
            else:
                entries[architecture.fingerprint] = outcome
                note()
                written += 1
            if on_progress is not None:
                on_progress(BulkProgress(done + written, len(architectures), architecture.fingerprint + SUFFIX))
    finally:
        shutil.rmtree(task.staging, ignore_errors=True)
    packages = (task.package(each) for each in architectures if each.fingerprint not in failed)
    return Bulk(tuple(packages), written, failed)


_Outcome = ManifestEntry | MvigNasError


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
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenExecutor as error:
        raise MvigNasError(
            "a process that exported packages died, perhaps for want of memory; run the same command again to go on, "
            "with fewer jobs."
        ) from error
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def _begin_worker(staging: str) -> None:
    """One thread, no Ctrl-C of its own, temporary files where the next run finds them, and an end with its parent."""
    import torch

    torch.set_num_threads(1)
    begin_worker()
    tempfile.tempdir = staging


def _made(architecture: Architecture, task: _Task) -> _Outcome:
    """Write and check a package; its entry. One that stands there without an entry was written before a kill."""
    from mvig_nas.coreml.conversion import export, untrained
    from mvig_nas.coreml.verification import verify

    path, options = task.package(architecture), task.options
    network = untrained(architecture, options.num_classes, options.seed)
    verified: list[Verification] = []

    def verify_it(package: Path) -> None:
        verified.append(verify(package, architecture, network))

    try:
        if not path.exists():
            export(
                network,
                path,
                options.package,
                weights=f"{UNTRAINED}, seed {options.seed}",
                staging=task.staging,
                check=verify_it if task.is_verified else None,
            )
        else:
            verify_it(path)
            if verified[0].input_kind != options.input_kind:
                raise MvigNasError(
                    f"{path} must take {options.input_kind} as input, got {verified[0].input_kind}; delete it."
                )
        facts = [
            Verified(each.operations, each.convolutions, each.comparison.difference, each.comparison.rounding_fp16)
            for each in verified
        ]
        coremltools_version = SavedProgram(path).metadata[METADATA_PREFIX + "coremltools_version"]
        return ManifestEntry(
            path.name,
            architecture.fingerprint,
            content_sha256(path),
            coremltools_version,
            mvig_nas.__version__,
            facts[0] if facts else None,
        )
    except MvigNasError as error:
        return error
