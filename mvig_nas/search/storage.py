"""The study on disk: Optuna's own journal, one line a candidate, which Optuna reads also while the search goes on.

    optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend("RUN/study.journal")))

Optuna's file backend opens, locks and syncs the file for every line. The backend below keeps it open and locked, so
that a study has one writer, cuts a last line that broke off, and syncs once a turn.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from io import BytesIO, FileIO, RawIOBase
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import holder, require_regular, write_whole
from mvig_nas.kernels import Totals
from mvig_nas.search.contracts import FAILED, FEASIBLE, INFEASIBLE, STUDY_FILE, Candidate
from mvig_nas.search_space import SearchSpace, Value

SETTINGS = "mvig_nas_settings"
ENDED = "mvig_nas_ended"
LOCK = ".search.lock"  # holds the number of the process that searches, for those who find the study locked

NUMBER, CHECKSUM = "number", "checksum"  # attributes of a trial

_SECONDS_BETWEEN_SYNCS = 1.0
_STATES = {FEASIBLE: TrialState.COMPLETE, INFEASIBLE: TrialState.PRUNED, FAILED: TrialState.FAIL}
# what values of the wrong kind in a journal raise, in Optuna and here
_NO_STUDY = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    StopIteration,
    TypeError,
    ValueError,
)
# attributes of a trial as studies of mvig-nas 0.1.0 call them
_OLD_NAMES = {
    "reason": "failure",
    "round": "turn",
    "place": "position_in_turn",
    "position": "position_in_turn",
    "screened": "judged_in_turn",
    "seconds": "evaluated_s",
}


class Lines(BaseJournalBackend):
    """A journal's lines, as Optuna's storage reads them, each once, and appends to them.

    Args:
        path: the file that errors name.
        file: the open file, at its beginning; what follows its last end of line is not read.
    """

    def __init__(self, path: Path, file: RawIOBase | BytesIO) -> None:
        content = file.read() or b""
        self.path = path
        self.size = content.rfind(b"\n") + 1
        self._file = file
        self._unread = deque(content[: self.size].splitlines())
        self._read = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations that the storage has not read yet."""
        del log_number_from
        while self._unread:
            self._read += 1
            line = self._unread.popleft()
            try:
                operation = json.loads(line)
            except (ValueError, RecursionError) as error:  # also of text that is not UTF-8
                raise _damaged(self.path, f"line {self._read}", str(error)) from error
            if not isinstance(operation, dict) or "op_code" not in operation:
                raise _damaged(self.path, f"line {self._read}", "it is no operation of an Optuna journal")
            yield operation

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines; on return they survive the end of this process.

        Raises:
            MvigNasError: the disk is full or gone.
        """
        lines = [json.dumps(log, separators=(",", ":"), allow_nan=False).encode() for log in logs]
        rest = memoryview(b"".join(line + b"\n" for line in lines))
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._unread.extend(lines)

    def study(self) -> optuna.Study:
        """The study that the file holds.

        Raises:
            MvigNasError: a line is damaged, or there is no study.
        """
        try:
            storage = JournalStorage(self)
            studies = storage.get_all_studies()
            if len(studies) == 1 and isinstance(studies[0].user_attrs.get(SETTINGS), dict):
                return optuna.load_study(study_name=studies[0].study_name, storage=storage)
        except _NO_STUDY as error:
            raise _damaged(self.path, f"line {self._read}", repr(error)) from error
        raise _damaged(self.path, "line 1", "it holds no settings")


class Journal:
    """The one writer of a study's file, locked against a second one until `close`.

    Raises:
        MvigNasError: there is no study, it is damaged, the file cannot be written, or another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STUDY_FILE
        self._synced = time.monotonic()
        self._told = folder / LOCK
        try:
            # what others append meanwhile, such as the notes of a dashboard, is not written over
            require_regular(self.path)
            self._file = FileIO(os.open(self.path, os.O_RDWR | os.O_APPEND), "r+")
        except FileNotFoundError as error:
            raise _missing(folder) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise MvigNasError(
                f"a study must have one writer, but {holder(self._told)} searches in {folder}; wait for it, or take "
                "another folder."
            ) from error
        try:
            with suppress(OSError):
                write_whole(self._told, f"{os.getpid()}\n".encode())
            lines = Lines(self.path, self._file)
            self.study = lines.study()
            # the line that kill -9 or a full disk broke off
            self._file.truncate(lines.size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file, so that another search may go on with it."""
        if not self._file.closed:
            with suppress(OSError):
                self._told.unlink()
        self._file.close()

    def append(self, candidate: Candidate, space: SearchSpace) -> None:
        """Write one candidate; on return it survives the end of this process, and the machine's from the next `sync`.

        Raises:
            MvigNasError: the disk is full or gone.
        """
        self.study.add_trial(trial_of(candidate, space, len(self.study.directions) > 1))
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Push everything that is written to the disk.

        Raises:
            MvigNasError: the disk is full or gone, or the study was removed or replaced meanwhile.
        """
        try:
            os.fsync(self._file.fileno())
            is_there = self.path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        if not is_there:
            raise MvigNasError(
                f"a study must stay where it is while it is searched in, but {self.path} was removed or replaced; "
                "what was found since is lost: search again, or restore the file and resume."
            )
        self._synced = time.monotonic()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note the settings, since a resumed search may ask for more evaluations, and that it has not ended.

        Raises:
            MvigNasError: the disk is full or gone.
        """
        self._note(SETTINGS, _sealed(settings))
        self._note(ENDED, None)

    def end(self, reason: str) -> None:
        """Note why the search ended.

        Raises:
            MvigNasError: as `sync`.
        """
        self._note(ENDED, reason)
        self.sync()

    def _note(self, name: str, value: Any) -> None:
        if self.study.user_attrs.get(name) != value:
            self.study.set_user_attr(name, value)
            self.sync()


def create(folder: Path, settings: Mapping[str, Any], is_front: bool) -> None:
    """Write a study without candidates, whole or not at all; it has the name of its folder.

    Raises:
        MvigNasError: the folder cannot be made or written.
    """
    logging.getLogger("optuna").setLevel(logging.WARNING)
    path, content = folder / STUDY_FILE, BytesIO()
    study = optuna.create_study(
        storage=JournalStorage(Lines(path, content)),
        study_name=folder.resolve().name,
        directions=["maximize", "minimize"] if is_front else ["maximize"],
    )
    study.set_user_attr(SETTINGS, _sealed(settings))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError as error:
        raise MvigNasError(
            f"the run folder must be writable, got {error.strerror!r} at {folder}; take another folder."
        ) from error


def read(folder: Path) -> optuna.Study:
    """The study of a folder, which may still be searched in; a line that broke off is left out.

    Raises:
        MvigNasError: there is no study, it cannot be read, or it is damaged.
    """
    path = folder / STUDY_FILE
    try:
        require_regular(path)
        with path.open("rb", buffering=0) as file:
            return Lines(path, file).study()
    except FileNotFoundError as error:
        raise _missing(folder) from error
    except OSError as error:
        raise MvigNasError(f"the study must be readable, got {error.strerror!r} at {path}; mend its rights.") from error


def trial_of(candidate: Candidate, space: SearchSpace, is_front: bool) -> FrozenTrial:
    """A candidate as a trial of Optuna's.

    Its parameters are those that the architecture uses and that have several choices, so that the importance of one is
    judged by the networks in which it means something. Its constraints are the violations of the budget's limits, and
    its user attributes the rest; what a candidate does not have is left out.
    """
    values: Sequence[float] | None = None
    if candidate.score is not None:
        values = [candidate.score, candidate.latency_ms] if is_front else [candidate.score]
    low_ms, high_ms = candidate.interval_ms or (None, None)
    totals = {} if candidate.totals is None else {name: getattr(candidate.totals, name) for name in Totals.__slots__}
    attributes = {
        "fingerprint": candidate.fingerprint,
        "score": candidate.score,
        "failure": candidate.reason,
        "latency_ms": candidate.latency_ms,
        "latency_low_ms": low_ms,
        "latency_high_ms": high_ms,
        "violations": dict(candidate.violations),
        **totals,
        "evaluated_s": candidate.seconds,
        "turn": candidate.round,
        "position_in_turn": candidate.position,
        "judged_in_turn": candidate.screened,
        NUMBER: candidate.number,
    }
    parameters = _parameters(space, candidate.architecture)
    trial = optuna.trial.create_trial(
        state=_STATES[candidate.state],
        values=values,
        params=parameters,
        distributions={name: _distribution(space.choices[name]) for name in parameters},
        user_attrs={name: value for name, value in attributes.items() if value is not None},
        constraints=dict(candidate.violations),
    )
    if trial.datetime_complete is not None:
        trial.datetime_start = trial.datetime_complete - timedelta(seconds=candidate.seconds)
    trial.set_user_attr(CHECKSUM, _checksum_of_trial(trial))
    return trial


def candidate_of(trial: FrozenTrial, space: SearchSpace, path: Path) -> Candidate:
    """The candidate that `trial_of` made a trial of, or that an older mvig-nas did.

    Raises:
        MvigNasError: the trial is damaged, or of another space.
    """
    which = f"candidate {trial.number}"
    try:
        values: dict[str, Value] = {name: choices[0] for name, choices in space.choices.items()}
        attributes = {_OLD_NAMES.get(name, name): value for name, value in trial.user_attrs.items()}
        if "latency_low_ms" in attributes:
            attributes["interval_ms"] = attributes["latency_low_ms"], attributes["latency_high_ms"]
        interval_ms = attributes.get("interval_ms")
        totals = attributes.get("totals")
        if totals is None and "macs" in attributes:
            totals = [attributes[name] for name in Totals.__slots__]
        candidate = Candidate(
            number=trial.number,
            round=int(attributes["turn"]),
            architecture=space.decode(values | trial.params),
            state=next(state for state, own in _STATES.items() if own == trial.state),
            latency_ms=float(attributes["latency_ms"]),
            violations=trial.constraints,
            screened=int(attributes["judged_in_turn"]),
            score=None if trial.values is None else float(trial.values[0]),
            interval_ms=None if interval_ms is None else (float(interval_ms[0]), float(interval_ms[1])),
            totals=None if totals is None else Totals(*totals),
            seconds=float(attributes["evaluated_s"]),
            reason=attributes.get("failure"),
            position=int(attributes.get("position_in_turn", trial.number)),
        )
    except (*_NO_STUDY, MvigNasError) as error:
        raise _damaged(path, which, f"it is no candidate ({error!r})") from error
    if candidate.fingerprint != attributes.get("fingerprint"):
        raise _damaged(path, which, f"its parameters are not those of architecture {attributes.get('fingerprint')}")
    return candidate


def settings_of(kept: optuna.Study, path: Path) -> dict[str, Any]:
    """The settings of a study, as `create` and `Journal.begin` were handed them.

    Raises:
        MvigNasError: they are not as they were written.
    """
    settings = dict(kept.user_attrs[SETTINGS])
    # studies of mvig-nas 0.1.0 have none
    checksum = settings.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(settings):
        raise _damaged(path, f"the attribute {SETTINGS}", "it was changed since")
    return settings


def require_intact(kept: optuna.Study, path: Path) -> None:
    """Refuse candidates of which one was changed, removed, repeated or moved since, even if each is a possible one.

    Candidates of mvig-nas 0.1.0 have neither numbers nor checksums; none follows one that has.

    Raises:
        MvigNasError: names the first candidate that is not as it was written.
    """
    is_checked = False
    for trial in kept.get_trials(deepcopy=False):
        is_checked = is_checked or NUMBER in trial.user_attrs or CHECKSUM in trial.user_attrs
        if not is_checked:
            continue
        if trial.user_attrs.get(NUMBER) != trial.number:
            found = trial.user_attrs.get(NUMBER)
            raise _damaged(
                path,
                f"candidate {trial.number}",
                f"it was written as number {found}, so lines were removed or repeated",
            )
        if trial.user_attrs.get(CHECKSUM) != _checksum_of_trial(trial):
            raise _damaged(path, f"candidate {trial.number}", "it was changed since")


def _sealed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, CHECKSUM: _checksum(settings)}


def _checksum(value: Any) -> str:
    """16 hexadecimal digits over plain values, the same before they are written as JSON and after."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checksum_of_trial(trial: FrozenTrial) -> str:
    """Of all that a candidate is made of."""
    own = {name: value for name, value in trial.user_attrs.items() if name != CHECKSUM}
    return _checksum([trial.state.name, trial.values, trial.params, dict(trial.constraints), own])


@cache
def _distribution(choices: tuple[Value, ...]) -> CategoricalDistribution:
    return CategoricalDistribution(choices)


def _parameters(space: SearchSpace, architecture: Architecture) -> dict[str, Value]:
    """The values of the parameters that have several choices and belong to a block that the architecture has."""
    found = {}
    for name, value in space.encode(architecture).items():
        stage, _, choice = name.rpartition(".")
        is_used = not stage or architecture.stages[int(stage[-1]) - 1].is_used(choice)
        if is_used and len(space.choices[name]) > 1:
            found[name] = value
    return found


def _unwritable(path: Path, error: OSError) -> MvigNasError:
    return MvigNasError(
        f"the study must be writable, got {error.strerror!r} at {path}; every finished candidate is saved: make room "
        "or mend the rights, then resume."
    )


def _missing(folder: Path) -> MvigNasError:
    return MvigNasError(f"no study in {folder}; check the folder, or start a search there.")


def _damaged(path: Path, where: str, why: str) -> MvigNasError:
    return MvigNasError(
        f"a study must be as a search wrote it, but {where} of {path} is not: {why}; restore the file, or start anew "
        "in another folder."
    )
