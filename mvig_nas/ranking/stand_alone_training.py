"""Stand-alone accuracies: architectures trained one by one, each kept in a folder of its own.

Several processes may share a folder: each takes what no other is at.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors.torch import save as to_bytes

from mvig_nas import values
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import claim, read_json, save
from mvig_nas.image_data import EvaluationImages, LabelledImages
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.search_space import SearchSpace
from mvig_nas.training import Execution, Progress, Recipe, train_alone
from mvig_nas.training.accuracy import top1
from mvig_nas.values import about

RESULT = "result.json"
_DRAWS = 100  # for each architecture asked for


@dataclass(frozen=True)
class StandAlone:
    """Top-1 of an architecture trained by itself, on the validation split."""

    architecture: Architecture
    seed: int
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class _Result:
    """What `result.json` holds of a training that has ended."""

    seed: int
    accuracy: Annotated[float, about("Top-1 on the validation images, a fraction.", ge=0, le=1)]
    seconds: Annotated[float, about("Time of the training.", ge=0)]
    architecture: dict[str, Any]


def stratified(space: SearchSpace, latency: ArchitectureLatency, count: int, seed: int) -> tuple[Architecture, ...]:
    """Architectures spread evenly over the range of predicted latencies, from uniform draws.

    Raises:
        MvigNasError: the space holds fewer different architectures than asked for.
    """
    rng = random.Random(seed)
    drawn = list(dict.fromkeys(space.sample(rng) for _ in range(_DRAWS * count)))
    if len(drawn) < count:
        raise MvigNasError(f"a ranking of {count} needs as many architectures, got {len(drawn)} in {space.name!r}.")
    logs = np.log(latency.predict_ms(drawn))
    low, high = np.quantile(logs, [0.02, 0.98])
    chosen: list[int] = []
    for target in np.linspace(low, high, count):
        order = [index for index in np.argsort(np.abs(logs - target), kind="stable").tolist() if index not in chosen]
        chosen.append(order[0])
    return tuple(drawn[index] for index in chosen)


@dataclass(frozen=True)
class StandAlonePlan:
    """How every architecture of a ranking is trained by itself.

    Args:
        train_images: the same that the supernet learnt from.
        val_images: of the validation split, used for nothing else than the top-1 of the trained networks.
        recipe: of every training; its seed is replaced by those of `seeds`.
        seeds: each architecture is trained once with each of them.
        execution: how every training runs; whether to resume follows from what is in its folder.
    """

    train_images: LabelledImages
    val_images: LabelledImages
    recipe: Recipe
    seeds: Sequence[int] = (0,)
    execution: Execution = field(default_factory=Execution)


def stand_alone(
    architectures: Sequence[Architecture],
    plan: StandAlonePlan,
    folder: Path,
    *,
    on_progress: Callable[[int, Progress], None] | None = None,
) -> list[StandAlone]:
    """Train every architecture with every seed and measure its top-1 on the validation split.

    What is done already is read back, and what was interrupted goes on.

    Args:
        architectures: to train.
        plan: how each of them is trained.
        folder: holds a folder for each training.
        on_progress: called with the index of the training in the order of the results, and its progress.

    Returns:
        The results in the order of the architectures, and for each architecture in the order of the seeds.

    Raises:
        MvigNasError: see `train_alone`.
    """
    jobs = [(architecture, seed) for architecture in architectures for seed in plan.seeds]
    found: dict[int, StandAlone] = {}
    for wait in (False, True):
        for index, (architecture, seed) in enumerate(jobs):
            if index in found:
                continue
            own = folder / f"{architecture.fingerprint}-seed{seed}"
            own.mkdir(parents=True, exist_ok=True)
            with claim(own / "lock", wait) as is_ours:
                if not is_ours:
                    continue
                result = _read(own, architecture, seed)
                if result is None:
                    shown = None if on_progress is None else _at(on_progress, index)
                    result = _train(architecture, seed, plan, own, shown)
                found[index] = result
    return [found[index] for index in range(len(jobs))]


def _at(on_progress: Callable[[int, Progress], None], index: int) -> Callable[[Progress], None]:
    return lambda progress: on_progress(index, progress)


def _train(
    architecture: Architecture,
    seed: int,
    plan: StandAlonePlan,
    folder: Path,
    on_progress: Callable[[Progress], None] | None,
) -> StandAlone:
    began = time.monotonic()
    state = folder / "state.pt"
    recipe = replace(plan.recipe, seed=seed)
    network = train_alone(
        architecture,
        plan.train_images,
        recipe,
        folder,
        execution=replace(plan.execution, resume=state.is_file()),
        on_progress=on_progress,
    ).network
    workers = plan.execution.workers
    images = EvaluationImages(plan.val_images, recipe.preprocessing, architecture.resolution, workers=workers)
    accuracy = top1(network, images, architecture.resolution)
    seconds = time.monotonic() - began
    save(folder / "weights.safetensors", to_bytes({name: t.contiguous() for name, t in network.state_dict().items()}))
    result = _Result(recipe.seed, accuracy, seconds, architecture.to_dict())
    save(folder / RESULT, json.dumps(values.plain(result), indent=1))
    state.unlink(missing_ok=True)
    return StandAlone(architecture, recipe.seed, accuracy, seconds)


def _read(folder: Path, architecture: Architecture, seed: int) -> StandAlone | None:
    path = folder / RESULT
    if not path.is_file():
        return None
    content = read_json(path, "the result of a training", "remove it, and the training is run again")
    kept = values.read(_Result, content, str(path))
    return StandAlone(architecture, seed, kept.accuracy, kept.seconds)
