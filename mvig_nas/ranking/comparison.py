"""Estimates of architectures held against their accuracies when trained alone.

An estimate is what a supernet or a training-free proxy says of an architecture.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mvig_nas import kernels, scores, values
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError, StorageError
from mvig_nas.files import csv_text, make_folder, read_json, save
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.ranking.agreement import (
    Agreement,
    Interval,
    Ranked,
    agreements,
    seed_ceiling,
    tau_difference,
)
from mvig_nas.ranking.agreement_figures import markdown_table, scatter_png, taus_png
from mvig_nas.recipes import Execution, Recipe
from mvig_nas.shipped import DEFAULT_DEVICE
from mvig_nas.values import about, check

if TYPE_CHECKING:
    from mvig_nas.ranking.stand_alone_training import StandAlone
    from mvig_nas.scores import CalibratedFit
    from mvig_nas.training import Progress

Estimator = Callable[[Architecture], float]


def proxies(seed: int = 0) -> dict[str, Estimator]:
    """Every training-free proxy by its name."""
    return {name: scores.load(name, seed=seed) for name in scores.NAMES}


@dataclass(frozen=True)
class RankRequest:
    """What `rank_networks`, and `mvig-nas supernet rank`, are asked for.

    Raises:
        MvigNasError: a value is out of range.
    """

    data: Annotated[Path, about("Folder with train/CLASS/*.jpg and val/CLASS/*.jpg.", metavar="FOLDER")]
    supernets: tuple[Path, ...] = ()
    count: Annotated[int, about("Architectures that are trained alone.", ge=4, flags=("-n",))] = 20
    seeds: Annotated[int, about("Trainings of each architecture, each from another seed.", ge=1)] = 1
    sample_seed: Annotated[int, about("Seed that the architectures are drawn with.", ge=0)] = 0
    epochs: Annotated[int, about("Epochs of a training alone. By default as many as the supernet's.", ge=1)] | None = (
        None
    )
    proxies: Annotated[bool, about("Compare all training-free proxies too.", flags=("--proxies/--no-proxies",))] = True
    device: Annotated[
        str,
        about(
            "Phone to predict latency for (see `mvig-nas devices`), or a folder with a fitted predictor.",
            metavar="NAME|FOLDER",
        ),
    ] = DEFAULT_DEVICE
    out: (
        Annotated[Path, about("Folder for trainings, tables and plots. By default ranking, beside the first SUPERNET.")]
        | None
    ) = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def folder(self) -> Path:
        """Where trainings, tables and plots are kept."""
        first = self.supernets[0]
        return self.out or (first if first.is_dir() else first.parent) / "ranking"

    @property
    def names(self) -> tuple[str, ...]:
        """What each supernet is called in tables; with several of them, by its folder."""
        if len(self.supernets) == 1:
            return ("supernet",)
        return tuple(f"supernet {(path if path.is_dir() else path.parent).name}" for path in self.supernets)


@dataclass(frozen=True)
class Ranking:
    """A finished ranking: its space, a row for each architecture, and the agreement of each estimate with accuracy.

    `left_out` names estimates that have no value for some architecture; `calibrated` is the score that was fitted to
    the rows, None where they are too few; `ceiling` is the agreement of the trainings with each other (`seed_ceiling`),
    None where each architecture was trained once.
    """

    space: str
    rows: tuple[Ranked, ...]
    agreements: Mapping[str, Agreement]
    left_out: tuple[str, ...]
    calibrated: "CalibratedFit | None" = None
    ceiling: Interval | None = None


def rank_networks(
    request: RankRequest,
    execution: Execution,
    *,
    on_progress: "Callable[[str, Progress], None] | None" = None,
    on_estimate: Callable[[str, int], None] | None = None,
) -> Ranking:
    """Train architectures one by one, and compare how supernets and proxies rank them; tables and plots are written.

    Every finished training is kept in the request's folder, so that the same call goes on after a kill; two at once
    share the work. The recipe and the space are the first supernet's.

    Args:
        request: what is ranked.
        execution: how every training runs, and where supernets score.
        on_progress: called with `3 of 20`, and the progress of that training.
        on_estimate: as in `rank`.

    Raises:
        MvigNasError: no supernet, images that are not those of the supernet's training, or see `train_alone`.
    """
    from mvig_nas.image_data import check_same_classes, read_split, usable, write_skipped
    from mvig_nas.ranking.stand_alone_training import StandAlonePlan, stand_alone, stratified
    from mvig_nas.scores import SupernetScore, training_split

    if not request.supernets:
        raise MvigNasError("a ranking must be of at least one supernet, got none; name its folder.")
    folder, data, workers = request.folder, request.data, execution.workers
    latency = ArchitectureLatency.load(request.device)
    make_folder(folder)
    skipping_in = folder if execution.skip_bad_images else None
    if skipping_in is not None:
        write_skipped(usable((read_split(data, "train"), read_split(data, "val")), folder, skips=True)[1], folder)
    scored = [
        SupernetScore(path, data, device=execution.torch_device, workers=workers, skipping_in=skipping_in)
        for path in request.supernets
    ]
    first = scored[0].trained
    space = first.supernet.space
    for score in scored:
        score.check_space(space)
    parts = training_split(first, data)[0], read_split(data, "val")
    train_images, val_images = usable(parts, folder, execution.skip_bad_images)[0]
    check_same_classes(train_images, val_images)
    estimators: dict[str, Estimator] = dict(zip(request.names, scored, strict=True))
    if request.proxies:
        estimators |= proxies()
    recipe = values.read(Recipe, first.training["recipe"], "the supernet's recipe")
    if request.epochs is not None:
        warmup = min(recipe.warmup_epochs, request.epochs - 1)
        recipe = replace(recipe, epochs=request.epochs, warmup_epochs=warmup)
    architectures = stratified(space, latency, request.count, request.sample_seed)
    plan = StandAlonePlan(train_images, val_images, recipe, range(request.seeds), execution)
    total = len(architectures) * request.seeds
    results = stand_alone(
        architectures,
        plan,
        folder / "alone",
        on_progress=None if on_progress is None else lambda index, state: on_progress(f"{index + 1} of {total}", state),
    )
    rows = rank(results, estimators, latency, folder, on_estimate=on_estimate)
    found = write_ranking(rows, architectures, folder, request.names[0])
    left_out = tuple(name for name in estimators if name not in found)
    loadable = dict(zip(request.names, (score.name for score in scored), strict=True)) | {"naswot": "naswot"}
    ceiling = seed_ceiling([row.accuracies for row in rows]) if request.seeds > 1 else None
    return Ranking(space.name, tuple(rows), found, left_out, calibrate(rows, loadable, folder), ceiling)


def calibrate(rows: Sequence[Ranked], loadable: Mapping[str, str], folder: Path) -> "CalibratedFit | None":
    """Fit a calibrated score to a ranking, and write it into the ranking's folder.

    Args:
        rows: of `rank`.
        loadable: for each estimate that may be used, the name by which `scores.load` knows it.
        folder: where `calibrated.json` is written.

    Returns:
        The fit; None for fewer than 8 architectures, which are too few for one.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    from mvig_nas.scores.calibrated_score import FEWEST, fit_calibrated, save_calibrated

    if len(rows) < FEWEST:
        return None
    columns = {name: [row.estimates[name] for row in rows] for name in loadable if name in rows[0].estimates}
    estimates = {loadable[name]: column for name, column in columns.items() if len(set(column)) > 1}
    if not estimates:
        return None
    fit = fit_calibrated(estimates, [row.accuracy for row in rows])
    save_calibrated(fit, folder)
    return fit


def rank(
    results: "Sequence[StandAlone]",
    estimators: Mapping[str, Estimator],
    latency: ArchitectureLatency,
    folder: Path,
    *,
    on_estimate: Callable[[str, int], None] | None = None,
) -> list[Ranked]:
    """Every architecture's mean accuracy over its seeds, beside what every estimator says of it.

    Estimates are kept in the folder, so that an interrupted ranking goes on; an estimator that has no finite value for
    one of the architectures is left out.

    Args:
        results: of `stand_alone`.
        estimators: by name; those that start with `supernet` estimate an accuracy.
        latency: predicts milliseconds.
        folder: where estimates are kept, in `estimates.json`.
        on_estimate: called with an estimator's name and the number of architectures before each estimate.

    Raises:
        StorageError: the folder cannot be written.
    """
    by_architecture: dict[Architecture, list[float]] = defaultdict(list)
    for result in results:
        by_architecture[result.architecture].append(result.accuracy)
    architectures = list(by_architecture)
    path = folder / "estimates.json"
    try:
        content = read_json(path, "estimates", "remove it, and the estimates are made again")
        kept = values.read(dict[str, dict[str, float]], content, str(path))
    except FileNotFoundError:
        kept = {}
    usable: dict[str, dict[str, float]] = {}
    for name, estimator in estimators.items():
        known = kept.setdefault(f"{name}: {getattr(estimator, 'name', '')}", {})
        try:
            for done, architecture in enumerate(architectures):
                if architecture.fingerprint not in known:
                    if on_estimate is not None:
                        on_estimate(name, done)
                    known[architecture.fingerprint] = float(estimator(architecture))
                    save(path, json.dumps(kept, indent=1))
        except StorageError:
            raise
        except MvigNasError:
            continue
        usable[name] = known
    latencies_ms = latency.predict_ms(architectures).tolist()
    return [
        Ranked(
            architecture.fingerprint,
            latency_ms,
            kernels.totals(kernels.of(architecture)).macs,
            sum(accuracies) / len(accuracies),
            {name: known[architecture.fingerprint] for name, known in usable.items()},
            tuple(accuracies),
        )
        for (architecture, accuracies), latency_ms in zip(by_architecture.items(), latencies_ms, strict=True)
    ]


def write_ranking(
    rows: Sequence[Ranked], architectures: Sequence[Architecture], folder: Path, estimate: str
) -> dict[str, Agreement]:
    """Write `ranking.csv`, `agreement.json`, `agreement.md`, `tau_difference.csv` and two plots.

    Returns the agreements.

    Args:
        rows: of `rank`.
        architectures: of the rows, in any order.
        folder: to write into.
        estimate: name of the estimator that the scatter plot shows, and that the others are compared with.

    Raises:
        MvigNasError: fewer than four rows, or the folder cannot be written.
    """
    found = agreements(rows)
    named = {architecture.fingerprint: architecture for architecture in architectures}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = list(rows[0].estimates)
    table.writerow(["fingerprint", "accuracy", "latency_ms", "macs", *names, "architecture"])
    for row in sorted(rows, key=lambda row: -row.accuracy):
        estimates = [f"{row.estimates[name]:.6g}" for name in names]
        cells = [row.fingerprint, f"{row.accuracy:.5f}", f"{row.latency_ms:.5f}", row.macs, *estimates]
        table.writerow([*cells, named[row.fingerprint].to_json()])
    accuracies = [row.accuracy for row in rows]
    differences: list[tuple[str, ...]] = [("estimate", "tau_of_it_is_lower_by", "low", "high")]
    for name in names:
        if name != estimate:
            own, others = [row.estimates[estimate] for row in rows], [row.estimates[name] for row in rows]
            difference = tau_difference(own, others, accuracies)
            figures = (f"{figure:.2f}" for figure in (difference.value, difference.low, difference.high))
            differences.append((name, *figures))
    contents: dict[str, str | bytes] = {
        "ranking.csv": text.getvalue(),
        "agreement.json": json.dumps({name: asdict(value) for name, value in found.items()}, indent=1) + "\n",
        "tau_difference.csv": csv_text(differences),
        "agreement.md": markdown_table(found) + "\n",
        "estimate_against_accuracy.png": scatter_png(rows, estimate_label=estimate),
        "kendall_tau.png": taus_png(found),
    }
    for name, content in contents.items():
        save(folder / name, content)
    return found
