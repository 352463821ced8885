"""The study on disk: an Optuna journal, one complete trial a line, one write a candidate.

Optuna's own storages write and lock once per suggested parameter, 80 to 400 ms a trial here. The lines below are those
of `optuna.storages.journal.JournalFileBackend` (Optuna 5.0; older logs stay readable there), so that
`optuna.load_study` and optuna-dashboard read the file, also while it grows.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path
from typing import Any

from mvig_nas.errors import MvigNasError
from mvig_nas.files import write_whole
from mvig_nas.kernels import Totals
from mvig_nas.search.contracts import FAILED, FEASIBLE, INFEASIBLE, STATES, Candidate
from mvig_nas.search_space import SearchSpace, Value

FILE_NAME = "study.journal"
STUDY_NAME = "mvig-nas"
_SECONDS_BETWEEN_SYNCS = 1.0

# optuna.storages.journal._storage.JournalOperation, optuna.trial.TrialState, optuna.study.StudyDirection
_CREATE_STUDY, _SET_STUDY_USER_ATTR, _CREATE_TRIAL = 0, 2, 4
_TRIAL_STATES = {FEASIBLE: 1, INFEASIBLE: 2, FAILED: 3}  # complete, pruned, fail
_MINIMIZE, _MAXIMIZE = 1, 2
_SETTINGS = "mvig_nas_settings"
_ENDED = "mvig_nas_ended"


class Journal:
    """The one writer of a study's file, locked against a second one until `close`.

    Raises:
        MvigNasError: the file cannot be written, or another process has it.
    """

    def __init__(self, folder: Path, space: SearchSpace, is_front: bool) -> None:
        self.path = folder / FILE_NAME
        self._space = space
        self._is_front = is_front
        # a parameter with a single choice is no parameter to Optuna
        self._choices = {name: choices for name, choices in space.choices.items() if len(choices) > 1}
        self._distributions = {
            name: json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": choices}})
            for name, choices in self._choices.items()
        }
        self._synced = time.monotonic()
        try:
            self._file = self._open()
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def append(self, candidate: Candidate) -> None:
        """Write one candidate; on return it survives the end of this process, within a second also of the machine.

        Raises:
            MvigNasError: the disk is full or gone.
        """
        self._write([self._trial(candidate)])

    def note_settings(self, settings: Mapping[str, Any]) -> None:
        """Replace the settings: a resumed search may ask for more evaluations.

        Raises:
            MvigNasError: the disk is full or gone.
        """
        self._write([_user_attr(_SETTINGS, settings)])

    def end(self, reason: str) -> None:
        """Note why the search ended, and push everything to the disk.

        Raises:
            MvigNasError: the disk is full or gone.
        """
        self._synced = -_SECONDS_BETWEEN_SYNCS
        self._write([_user_attr(_ENDED, reason)])

    def _open(self) -> FileIO:
        file = self.path.open("r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):  # the line that kill -9 or a full disk broke off
                file.truncate(whole)
            file.seek(whole)
        except BlockingIOError as error:
            file.close()
            raise MvigNasError(
                f"a study must have one writer, and another process searches in {self.path.parent}; wait for it, or "
                "take another folder."
            ) from error
        except BaseException:
            file.close()
            raise
        return file

    def _write(self, operations: Iterable[Mapping[str, Any]]) -> None:
        rest = memoryview(_lines(operations))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> MvigNasError:
        return MvigNasError(
            f"the study must be writable, got {error.strerror!r} at {self.path}; every finished candidate is saved: "
            "make room or mend the rights, then resume."
        )

    def _trial(self, candidate: Candidate) -> dict[str, Any]:
        values = self._space.encode(candidate.architecture)
        now = datetime.now(tz=UTC)
        objectives: Sequence[float] | None = None
        if candidate.score is not None and self._is_front:
            objectives = [candidate.score, candidate.latency_ms]
        totals = candidate.totals
        return {
            "op_code": _CREATE_TRIAL,
            "worker_id": STUDY_NAME,
            "study_id": 0,
            "datetime_start": (now - timedelta(seconds=candidate.seconds)).isoformat(timespec="microseconds"),
            "datetime_complete": now.isoformat(timespec="microseconds"),
            "state": _TRIAL_STATES[candidate.state],
            "value": None if self._is_front else candidate.score,
            "values": objectives,
            "distributions": self._distributions,
            "params": {name: choices.index(values[name]) for name, choices in self._choices.items()},
            "user_attrs": {
                "fingerprint": candidate.fingerprint,
                "latency_ms": candidate.latency_ms,
                "interval_ms": candidate.interval_ms,
                "totals": None if totals is None else [getattr(totals, name) for name in Totals.__slots__],
                "seconds": candidate.seconds,
                "reason": candidate.reason,
                "round": candidate.round,
                "position": candidate.position,
                "screened": candidate.screened,
            },
            "system_attrs": {f"constraints:{name}": excess for name, excess in candidate.violations.items()},
            "intermediate_values": {},
        }


def create(folder: Path, settings: Mapping[str, Any], is_front: bool) -> None:
    """Write a study without candidates, whole or not at all.

    Raises:
        MvigNasError: the folder cannot be made or written.
    """
    directions = [_MAXIMIZE, _MINIMIZE] if is_front else [_MAXIMIZE]
    header = {"op_code": _CREATE_STUDY, "worker_id": STUDY_NAME, "study_name": STUDY_NAME, "directions": directions}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE_NAME, _lines([header, _user_attr(_SETTINGS, settings)]))
    except OSError as error:
        raise MvigNasError(
            f"the run folder must be writable, got {error.strerror!r} at {folder}; take another folder."
        ) from error


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], str | None]:
    """Settings, trials as they stand in the file, and why the search ended, if it did.

    A last line without its end is left out: the process was killed while writing it.

    Raises:
        MvigNasError: there is no study, it cannot be read, or it is damaged.
    """
    path = folder / FILE_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MvigNasError(f"no study in {folder}; check the folder, or start a search there.") from error
    except OSError as error:
        raise MvigNasError(f"the study must be readable, got {error.strerror!r} at {path}; mend its rights.") from error
    settings: dict[str, Any] | None = None
    trials = []
    ended = None
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        operation = _parsed(line, path, number)
        if operation["op_code"] == _CREATE_TRIAL:
            trials.append(operation | {"line": number})
            ended = None
        elif operation["op_code"] == _SET_STUDY_USER_ATTR:
            attributes = operation.get("user_attr") or {}
            settings = attributes.get(_SETTINGS, settings)
            ended = attributes.get(_ENDED, ended)
    if not isinstance(settings, dict):
        raise damaged(path, 1, "it holds no settings")
    return settings, trials, ended


def candidate_of(trial: Mapping[str, Any], number: int, space: SearchSpace, path: Path) -> Candidate:
    """The candidate that `Journal.append` wrote as this trial.

    Raises:
        MvigNasError: the trial is damaged, or of another space.
    """
    line = trial["line"]
    try:
        values: dict[str, Value] = {name: choices[0] for name, choices in space.choices.items()}
        values |= {name: space.choices[name][int(index)] for name, index in trial["params"].items()}
        attributes = trial["user_attrs"]
        objectives = trial["values"]
        score = trial["value"] if objectives is None else objectives[0]
        interval = attributes["interval_ms"]
        totals = attributes["totals"]
        candidate = Candidate(
            number=number,
            round=int(attributes["round"]),
            architecture=space.decode(values),
            state=next(state for state in STATES if _TRIAL_STATES[state] == trial["state"]),
            latency_ms=float(attributes["latency_ms"]),
            violations={
                name.removeprefix("constraints:"): float(excess) for name, excess in trial["system_attrs"].items()
            },
            screened=int(attributes["screened"]),
            score=None if score is None else float(score),
            interval_ms=None if interval is None else (float(interval[0]), float(interval[1])),
            totals=None if totals is None else Totals(*totals),
            seconds=float(attributes["seconds"]),
            reason=attributes["reason"],
            position=int(attributes.get("position", attributes.get("place", line))),
        )
    except (KeyError, IndexError, TypeError, ValueError, StopIteration, MvigNasError) as error:
        raise damaged(path, line, f"it is no candidate ({error!r})") from error
    if candidate.fingerprint != attributes["fingerprint"]:
        raise damaged(path, line, f"its parameters are not those of architecture {attributes['fingerprint']}")
    return candidate


def damaged(path: Path, line: int, why: str) -> MvigNasError:
    """The error for a file that no search wrote like this."""
    return MvigNasError(
        f"a study's lines must be as a search wrote them, but line {line} of {path} is not: {why}; restore the file, "
        "or start anew in another folder."
    )


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        operation = json.loads(line)
    except ValueError as error:  # also of text that is not UTF-8
        raise damaged(path, number, str(error)) from error
    if not isinstance(operation, dict) or "op_code" not in operation:
        raise damaged(path, number, "it is no operation of an Optuna journal")
    return operation


def _user_attr(name: str, value: Any) -> dict[str, Any]:
    return {
        "op_code": _SET_STUDY_USER_ATTR,
        "worker_id": STUDY_NAME,
        "study_id": 0,
        "user_attr": {name: value},
    }


def _lines(operations: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(
        json.dumps(operation, separators=(",", ":"), allow_nan=False).encode() + b"\n" for operation in operations
    )
