"""Finalists trained as trials of Ray Tune, where ASHA (arXiv 1810.05934) stops the weak ones early.

Ray only executes. What was asked for, every report and every result lie in the run's own folder `finalists/`, and a run
that was killed at any moment goes on from there; Tune's own state is thrown away.
"""

import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import ASHAScheduler

from mvig_nas import run_folder, values
from mvig_nas.architecture import FAMILY_PRESETS, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim, holder, read_json, save
from mvig_nas.finalists.choosing import choose
from mvig_nas.finalists.request import COMMAND, FOLDER, FinalistsRequest, Resources, short_recipe
from mvig_nas.finalists.results import Finalist, Finalists, State, ordered, write
from mvig_nas.finalists.short_training import RESULT, Training, images_of, read_reports, train_finalist
from mvig_nas.image_data import write_skipped
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.search.evaluators.ray_cluster import connected, line, room
from mvig_nas.search.study import Study

LOCK, CHOSEN = "lock", "chosen.json"
_REDUCTION = 2  # of two trainings that have come to a rung, the better one goes on
_FIRST_RUNG = 4  # the first rung is at this part of all epochs
_RESTARTS = 3


@dataclass(frozen=True)
class Entry:
    """An architecture to train, and what the search knew of it."""

    fingerprint: str
    architecture: Mapping[str, Any]
    latency_ms: float
    score: float | None


@dataclass(frozen=True)
class FinalistProgress:
    """State of the finalists after a report: `done` of `total` trainings have ended, this one is after `epoch`."""

    fingerprint: str
    epoch: int
    epochs: int
    top1: float
    best: float
    done: int
    total: int


def hold(
    request: FinalistsRequest,
    resources: Resources | None = None,
    *,
    resume: bool = False,
    on_progress: Callable[[FinalistProgress], None] | None = None,
) -> Finalists:
    """Train the best and most different architectures of a search, and take the one of the highest top-1.

    Args:
        request: which search, on what, for how long.
        resources: where the trainings run.
        resume: go on with what the folder `finalists` of the search's run holds.
        on_progress: called after every epoch of every training.

    Returns:
        All finalists; `finalists.json`, `finalists.csv`, `winner.json` and `learning_curves.png` are written into the
        folder `finalists`.

    Raises:
        MvigNasError: the search has too few candidates, the images or the plan cannot be read, the folder holds
            finalists and `resume` is not set, it is another request than the one resumed, a second process works on it,
            Ray does not start, or no training came to its end.
    """
    resources = resources or Resources()
    began = time.monotonic()
    study = Study.load(request.run)
    folder = request.run / FOLDER
    images, held, bad = images_of(request, folder)
    recipe = short_recipe(request.plan, request.max_epochs, request.seed, len(images))
    with run_folder.entered(folder, COMMAND, request, resume, CHOSEN) as has_begun:
        entries = _entries(study, request.count, folder if has_begun else None)
        if request.skip_bad_images:
            write_skipped(bad, folder)
        save(folder / CHOSEN, json.dumps([values.plain(each) for each in entries], indent=1) + "\n")
    with claim(folder / LOCK) as is_ours:
        if not is_ours:
            raise MvigNasError(
                f"only one process may train the finalists in {folder}, but {holder(folder / LOCK)} is at it; wait "
                "until it has ended, or stop it."
            )
        training = Training(_absolute(request), resources, recipe, folder.absolute())
        failures = _train(entries, training, on_progress)
    found = Finalists(
        ordered([_finalist(each, entries, folder, failures) for each in entries]),
        images=len(held),
        score_name=study.settings.score,
        device=str(study.settings.labels.get("device", "")),
        seconds=time.monotonic() - began,
    )
    write(found, folder)
    return found


def _absolute(request: FinalistsRequest) -> FinalistsRequest:
    """The request with paths that mean the same in the folder where a worker runs."""
    supernet = None if request.supernet is None else request.supernet.absolute()
    return replace(request, run=request.run.absolute(), data=request.data.absolute(), supernet=supernet)


def _entries(study: Study, count: int, folder: Path | None) -> list[Entry]:
    """What is trained: chosen anew, or as the run in `folder` chose it."""
    if folder is not None and (folder / CHOSEN).is_file():
        known = read_json(folder / CHOSEN, "the list of finalists", "start anew")
        if isinstance(known, list):
            return [values.read(Entry, each, f"{folder / CHOSEN}") for each in known]
    chosen = [
        Entry(each.fingerprint, each.architecture.to_dict(), each.latency_ms, each.score)
        for each in choose(study, count)
    ]
    return chosen + _presets(study, {each.fingerprint for each in chosen})


def _presets(study: Study, known: set[str]) -> list[Entry]:
    """The published networks that are in the space and inside the budget: what the search must beat."""
    inside = []
    for preset in FAMILY_PRESETS.values():
        try:
            study.settings.space.encode(preset)
        except MvigNasError:
            continue
        if preset.fingerprint not in known:
            inside.append(preset)
    device, limit = study.settings.labels.get("device"), study.settings.budget.latency_ms
    if not inside or device is None:
        return []
    latencies = ArchitectureLatency.load(str(device)).predict_ms(inside).tolist()
    return [
        Entry(each.fingerprint, each.to_dict(), latency_ms, None)
        for each, latency_ms in zip(inside, latencies, strict=True)
        if limit is None or latency_ms <= limit
    ]


def _train(
    entries: Sequence[Entry], training: Training, on_progress: Callable[[FinalistProgress], None] | None
) -> dict[str, str]:
    """Run Ray Tune until every training has ended; reasons of those that failed, by fingerprint."""
    epochs, resources = training.recipe.epochs, training.resources
    need = {"CPU": resources.cpus, "GPU": resources.gpus}
    with connected(resources.address), _interruptible(), tempfile.TemporaryDirectory() as scratch:
        trainings = resources.trainings or room(need)
        shown = _Shown(epochs, len(entries), on_progress)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(train_finalist, training=training),
                {"cpu": resources.cpus, "gpu": resources.gpus},
            ),
            param_space={
                "architecture": tune.grid_search(
                    [Architecture.from_dict(each.architecture).to_json() for each in entries]
                )
            },
            tune_config=tune.TuneConfig(
                metric="top1",
                mode="max",
                scheduler=ASHAScheduler(
                    time_attr="epoch",
                    max_t=epochs,
                    grace_period=max(1, epochs // _FIRST_RUNG),
                    reduction_factor=_REDUCTION,
                ),
                max_concurrent_trials=min(trainings, len(entries)),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                callbacks=[shown],
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            ),
        )
        try:
            results = tuner.fit()
        except (RayError, tune.TuneError, RuntimeError) as error:
            raise MvigNasError(
                f"the finalists must be trained by Ray, but: {line(error)}; what is trained is kept: resume."
            ) from error
    failures = {}
    for index in range(len(results)):
        result = results[index]
        if result.error is not None and result.config:
            fingerprint = Architecture.from_json(result.config["architecture"]).fingerprint
            failures[fingerprint] = line(_last_line(result.error))
    return failures


def _last_line(error: BaseException) -> str:
    """What was raised in the worker, without its traceback."""
    lines = [each for each in str(error).splitlines() if each.strip()]
    return lines[-1] if lines else type(error).__name__


class _Shown(tune.Callback):
    """Hands on what the trials report. Tune saves a copy of it, without what cannot be pickled."""

    def __init__(self, epochs: int, total: int, on_progress: Callable[[FinalistProgress], None] | None) -> None:
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
                FinalistProgress(
                    fingerprint, result["epoch"], self._epochs, result["top1"], self._best, self._done, self._total
                )
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        del iteration, trials, trial
        self._done += 1


def _finalist(entry: Entry, entries: Sequence[Entry], folder: Path, failures: Mapping[str, str]) -> Finalist:
    own = folder / entry.fingerprint
    curve = tuple((each["epoch"], each["top1"]) for each in read_reports(own))
    right, reason = None, failures.get(entry.fingerprint)
    state: State = "stopped"
    if (own / RESULT).is_file():
        state, right = "finished", _right_answers(own / RESULT)
    elif reason is not None or not curve:
        state, reason = "failed", reason or "its training reported nothing"
    ranks = sorted((each.score for each in entries if each.score is not None), reverse=True)
    rank = None if entry.score is None else ranks.index(entry.score) + 1
    architecture = Architecture.from_dict(entry.architecture)
    return Finalist(architecture, entry.score, rank, entry.latency_ms, state, curve, right, reason)


def _right_answers(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    content = read_json(path, "the result of a finalist", "remove its folder, and resume")
    right = content.get("right") if isinstance(content, dict) else None
    if not isinstance(right, list) or not all(each in (0, 1) for each in right):
        raise MvigNasError(f"{path} must hold `right`, a list of 0 and 1; remove its folder, and resume.")
    return np.array(right, dtype=np.int64)


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
