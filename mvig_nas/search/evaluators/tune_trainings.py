"""Short trainings as trials of Ray Tune, where ASHA (arXiv 1810.05934) stops the weak ones early.

Ray only executes. Every report and every result lie in a folder of the run, and a run that was killed at any moment
goes on from there; Tune's own state is thrown away.
"""

import logging
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import ASHAScheduler

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError, StorageError
from mvig_nas.search.contracts import Outcome
from mvig_nas.search.evaluators.ray_cluster import connected, line, room
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.evaluators.short_training import Trainings, read_reports, train_briefly

_REDUCTION = 2  # of two trainings that have come to a rung, the better one goes on
_FIRST_RUNG = 4  # the first rung is at this part of all epochs
_RESTARTS = 3
_OURS = f"{MvigNasError.__module__}."
_OF_DISKS = {f"{_OURS}{StorageError.__name__}", OSError.__name__}


@dataclass(frozen=True)
class TrainingProgress:
    """State of some trainings after a report: `done` of `total` have ended, this one is after `epoch` of `epochs`."""

    fingerprint: str
    epoch: int
    epochs: int
    top1: float
    best: float
    done: int
    total: int


@dataclass(frozen=True)
class TrainingEnd:
    """What came of a training: seconds that this run of it took, and why it failed, if it did."""

    seconds: float
    failure: str | None


OnProgress = Callable[[TrainingProgress], None]


def train_all(
    architectures: Sequence[Architecture],
    trainings: Trainings,
    resources: Resources,
    on_progress: OnProgress | None = None,
    earlier: Sequence[str] = (),
) -> dict[str, TrainingEnd]:
    """Run Ray Tune until every training has ended, or was stopped as weak.

    Args:
        architectures: what is trained; what the folder holds of their trainings is gone on with.
        trainings: how, and the folder in which each has one named by its fingerprint.
        resources: where.
        on_progress: called after every epoch of every training.
        earlier: fingerprints of trainings that have ended before, which the new ones must compare with.

    Returns:
        How the trainings ended, by fingerprint.

    Raises:
        MvigNasError: Ray does not start, or gives up; or a training could not write its files, which would make it the
            loser of a comparison that it took no part in.
    """
    epochs = trainings.recipe.epochs
    need = {"CPU": resources.cpus, "GPU": resources.gpus}
    with connected(resources.address), _interruptible(), tempfile.TemporaryDirectory() as scratch:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(train_briefly, trainings=trainings),
                {"cpu": resources.cpus, "gpu": resources.gpus},
            ),
            param_space={"architecture": tune.grid_search([each.to_json() for each in architectures])},
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(epochs, {name: read_reports(trainings.folder / name) for name in earlier}),
                max_concurrent_trials=min(resources.trainings or room(need), len(architectures)),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                callbacks=[_Shown(epochs, len(architectures), on_progress)],
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            ),
        )
        try:
            results = tuner.fit()
        except (RayError, tune.TuneError, RuntimeError) as error:
            raise MvigNasError(
                f"networks must be trained by Ray, but: {line(error)}; what is trained is kept: resume."
            ) from error
    ends = {}
    for index in range(len(results)):
        result = results[index]
        if result.config:
            fingerprint = Architecture.from_json(result.config["architecture"]).fingerprint
            seconds = float((result.metrics or {}).get("time_total_s", 0.0))
            ends[fingerprint] = TrainingEnd(seconds, None if result.error is None else _failure(result.error))
    return ends


@dataclass(frozen=True)
class _Ended:
    """All that ASHA wants to know of a trial."""

    trial_id: str


def _scheduler(epochs: int, earlier: Mapping[str, Sequence[Mapping[str, Any]]]) -> ASHAScheduler:
    """ASHA, told of trainings that ended before: a new one must be in the better half of them and its own."""
    asha: Any = ASHAScheduler(
        time_attr="epoch",
        metric="top1",
        mode="max",
        max_t=epochs,
        grace_period=max(1, epochs // _FIRST_RUNG),
        reduction_factor=_REDUCTION,
    )
    for name, reports in earlier.items():
        trial = _Ended(name)
        asha.on_trial_add(None, trial)
        for report in reports:
            asha.on_trial_result(None, trial, report)
    return asha  # type: ignore[no-any-return]


def _failure(error: BaseException) -> str:
    """What was raised in the worker, in one line.

    Raises:
        MvigNasError: its files could not be written, on a full disk for example.
    """
    lines = [each for each in str(error).splitlines() if each.strip()] or [type(error).__name__]
    name, _, message = lines[-1].partition(": ")  # as the end of a traceback
    if name in _OF_DISKS:
        raise MvigNasError(f"networks must be trained by Ray, but: {line(message)} What is trained is kept: resume.")
    return line(message if name.startswith(_OURS) else lines[-1])


class _Shown(tune.Callback):
    """Hands on what the trials report. Tune saves a copy of it, without what cannot be pickled."""

    def __init__(self, epochs: int, total: int, on_progress: OnProgress | None) -> None:
        self._epochs, self._total, self._on_progress = epochs, total, on_progress
        self._done, self._best = 0, 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_on_progress": None}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        del iteration, trials
        self._best = max(self._best, result["top1"])
        if self._on_progress is not None:
            fingerprint = Architecture.from_json(trial.config["architecture"]).fingerprint
            self._on_progress(
                TrainingProgress(
                    fingerprint, result["epoch"], self._epochs, result["top1"], self._best, self._done, self._total
                )
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        del iteration, trials, trial
        self._done += 1


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C stops at once, here and afterwards: Tune would put a handler of its own in its place, and leave it.

    What Tune prints is not printed either.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    names = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    os.environ.update(names)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name in names:
            del os.environ[name]
        for number, handler in before.items():
            signal.signal(number, handler)


class TrainingEvaluator:
    """An `Evaluator` that trains: a score is the top-1 that a short training came to; use it in a `with` statement.

    The proposals of a turn are trials of one run of Ray Tune, whose scheduler compares them with each other and with
    all trainings before. One that it stops early has the top-1 at which it was stopped. A turn that has begun is
    trained to its end.

    Args:
        name: of the score.
        trainings: how networks are trained, and in which folder.
        resources: where.
        earlier: fingerprints of what the search has trained before, in that order.
        on_progress: called after every epoch of every training.

    Raises:
        MvigNasError: when entered, Ray does not start or is not there; when called, it gives up.
    """

    def __init__(
        self,
        name: str,
        trainings: Trainings,
        resources: Resources,
        *,
        earlier: Sequence[str] = (),
        on_progress: OnProgress | None = None,
    ) -> None:
        self.name = name
        self._trainings, self._resources, self._on_progress = trainings, resources, on_progress
        self._earlier = list(earlier)
        self._connection = ExitStack()

    def __enter__(self) -> Self:
        self._connection.enter_context(connected(self._resources.address))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def workers(self) -> int:
        """The number of trainings at a time."""
        return self._resources.trainings or room({"CPU": self._resources.cpus, "GPU": self._resources.gpus})

    def __call__(self, architectures: Sequence[Architecture], is_over: Callable[[], bool]) -> Generator[Outcome]:
        """As `Evaluator`."""
        if not architectures or is_over():
            return
        ends = train_all(architectures, self._trainings, self._resources, self._on_progress, self._earlier)
        self._earlier += [each.fingerprint for each in architectures]
        for architecture in architectures:
            name = architecture.fingerprint
            reports = read_reports(self._trainings.folder / name)
            end = ends.get(name, TrainingEnd(0.0, None))
            reason = end.failure or (None if reports else "its training reported nothing")
            score = None if reason else reports[-1]["top1"]
            yield Outcome(architecture, score, end.seconds, reason)
