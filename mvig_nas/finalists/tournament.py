"""Finalists trained as trials of Ray Tune, where ASHA (arXiv 1810.05934) stops the weak ones early.

Ray only executes. What was asked for, every report and every result lie in the run's own folder `finalists/`, and a run
that was killed at any moment goes on from there; Tune's own state is thrown away.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvig_nas import recipes, run_folder, values
from mvig_nas.architecture import FAMILY_PRESETS, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim, holder, read_json, save
from mvig_nas.finalists.choosing import choose
from mvig_nas.finalists.request import COMMAND, FOLDER, FinalistsRequest
from mvig_nas.finalists.results import Finalist, Finalists, State, ordered, write
from mvig_nas.image_data import write_skipped
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.scores.trained_score import training_parts
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.evaluators.short_training import RESULT, Trainings, read_reports
from mvig_nas.search.evaluators.tune_trainings import TrainingProgress, train_all
from mvig_nas.search.study import Study

LOCK, CHOSEN = "lock", "chosen.json"


@dataclass(frozen=True)
class Entry:
    """An architecture to train, and what the search knew of it."""

    fingerprint: str
    architecture: Mapping[str, Any]
    latency_ms: float
    score: float | None


def hold(
    request: FinalistsRequest,
    resources: Resources | None = None,
    *,
    resume: bool = False,
    on_progress: Callable[[TrainingProgress], None] | None = None,
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
    images, held, bad = training_parts(request.data, request.hold_out, folder, request.skip_bad_images)
    recipe = recipes.short_recipe(request.plan, request.max_epochs, request.seed, len(images))
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
        trainings = Trainings(
            request.data.absolute(),
            request.hold_out,
            recipe,
            folder.absolute(),
            folder.absolute(),
            None if request.supernet is None else request.supernet.absolute(),
            max(1, int(resources.cpus)),
            resources.in_memory,
        )
        architectures = [Architecture.from_dict(each.architecture) for each in entries]
        ends = train_all(architectures, trainings, resources, on_progress)
    failures = {name: end.failure for name, end in ends.items() if end.failure is not None}
    found = Finalists(
        ordered([_finalist(each, entries, folder, failures) for each in entries]),
        images=len(held),
        score_name=study.settings.score,
        device=str(study.settings.labels.get("device", "")),
        seconds=time.monotonic() - began,
    )
    write(found, folder)
    return found


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
