"""Estimates of architectures held against their accuracies when trained alone: figures, tables and plots.

An estimate is what a supernet or a training-free proxy says of an architecture.
"""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from mvig_nas import kernels, scores, values
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import csv_text, make_folder, read_json, save
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.plots import ACCENT, INK, MUTED, figure_axes, png
from mvig_nas.ranking.agreement import (
    Agreement,
    Interval,
    Ranked,
    agreement,
    agreements,
    seed_ceiling,
    tau_difference,
)
from mvig_nas.recipes import Execution, Recipe
from mvig_nas.shipped import DEFAULT_DEVICE
from mvig_nas.values import about, check

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    from mvig_nas.ranking.stand_alone_training import StandAlone
    from mvig_nas.scores import CalibratedFit
    from mvig_nas.training import Progress

Estimator = Callable[[Architecture], float]
MOST_NAMES = 8
MARK_PIXELS, RING_PIXELS = 5, 10
OFFSETS = (
    (7, 5, "left"),
    (7, -12, "left"),
    (-7, 5, "right"),
    (-7, -12, "right"),
    (0, 10, "center"),
    (0, -17, "center"),
)


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
        with suppress(MvigNasError):
            for done, architecture in enumerate(architectures):
                if architecture.fingerprint not in known:
                    if on_estimate is not None:
                        on_estimate(name, done)
                    known[architecture.fingerprint] = float(estimator(architecture))
                    save(path, json.dumps(kept, indent=1))
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


def scatter_png(rows: Sequence[Ranked], *, estimate_label: str, special: Mapping[str, str] | None = None) -> bytes:
    """The estimate named `estimate_label` against stand-alone accuracy in per cent, coloured by predicted latency.

    `special` gives short names by fingerprint: those are ringed, and named if they are 8 or fewer.

    Raises:
        MvigNasError: no such estimate, or whatever `agreement` refuses.
    """
    if rows and estimate_label not in rows[0].estimates:
        known = closest(estimate_label, rows[0].estimates)
        raise MvigNasError(f"a plot needs an estimate of the ranking, got {estimate_label!r}: {known}")
    estimates = [row.estimates[estimate_label] for row in rows]
    tau = agreement(estimates, [row.accuracy for row in rows]).kendall_tau
    is_accuracy = estimate_label.startswith("supernet")
    x = [100 * value if is_accuracy else value for value in estimates]
    y = [100 * row.accuracy for row in rows]
    label = f"{estimate_label}: accuracy with shared weights (%)" if is_accuracy else estimate_label
    figure, axes = figure_axes(label, "stand-alone accuracy (%)")
    axes.set_title(f"Kendall's tau {_text(tau)}, {len(rows)} architectures", color=INK, fontsize=11)
    marks = axes.scatter(
        x, y, c=[row.latency_ms for row in rows], cmap="viridis", s=34, edgecolors="white", linewidths=0.5
    )
    axes.margins(0.08)
    bar = figure.colorbar(marks, ax=axes)
    bar.set_label("predicted latency (ms)", color=INK)
    bar.outline.set_visible(False)
    special = special or {}
    ringed = [
        (x[index], y[index], special[row.fingerprint]) for index, row in enumerate(rows) if row.fingerprint in special
    ]
    axes.scatter(
        [mark[0] for mark in ringed], [mark[1] for mark in ringed], s=95, facecolors="none", edgecolors=ACCENT, zorder=3
    )
    if len(ringed) <= MOST_NAMES:
        _name_marks(figure, axes, list(zip(x, y, strict=True)), ringed)
    return png(figure)


def taus_png(agreements: Mapping[str, Agreement]) -> bytes:
    """Kendall's tau of each estimator as bars with intervals, best on top, supernets in the accent colour."""
    named = _sorted(agreements)[::-1]
    figure, axes = figure_axes("Kendall's tau with stand-alone accuracy", "", height=1.3 + 0.32 * len(named))
    axes.grid(visible=False, axis="y")
    for row, (name, found) in enumerate(named):
        tau = found.kendall_tau
        if math.isnan(tau.value):
            axes.text(0.01, row, "undefined: all equal", va="center", fontsize=8, color=INK)
            continue
        axes.barh(row, tau.value, height=0.62, color=ACCENT if name.startswith("supernet") else MUTED)
        axes.hlines(row, tau.low, tau.high, color=INK, linewidth=1.4)
        axes.vlines([tau.low, tau.high], row - 0.14, row + 0.14, color=INK, linewidth=1.4)
        axes.annotate(
            f"{tau.value:.2f}",
            (tau.high, row),
            textcoords="offset points",
            xytext=(5, 0),
            ha="left",
            va="center",
            fontsize=8,
            color=INK,
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(named)), [name for name, _ in named], color=INK)
    axes.set_ylim(-0.6, len(named) - 0.4)
    lowest = min([found.kendall_tau.low for _, found in named if found.kendall_tau.low < 0], default=0.0)
    axes.set_xlim(lowest - 0.05 if lowest < 0 else 0, 1 + 0.09 * (1 - lowest))  # room for the number beside a bar
    first = named[0][1]
    axes.set_title(
        f"{first.count} architectures, {100 * first.coverage:g} % bootstrap intervals", color=INK, fontsize=11
    )
    return png(figure)


def markdown_table(agreements: Mapping[str, Agreement]) -> str:
    """One row per estimator, best tau first: value and interval of each statistic, regret in percentage points."""
    top_k = next(iter(agreements.values())).top_k
    lines = [
        f"| estimator | Kendall's tau | Spearman | top-{top_k} overlap | nDCG@{top_k} | regret (points) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in _sorted(agreements):
        own = (found.kendall_tau, found.spearman, found.top_k_overlap, found.ndcg)
        cells = (*map(_text, own), _text(found.regret, 100))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sorted(agreements: Mapping[str, Agreement]) -> list[tuple[str, Agreement]]:
    """Highest tau first, undefined last, ties by name."""

    def best_first(item: tuple[str, Agreement]) -> tuple[float, str]:
        tau = item[1].kendall_tau.value
        return (math.inf if math.isnan(tau) else -tau, item[0])

    return sorted(agreements.items(), key=best_first)


def _text(interval: Interval, scale: float = 1.0) -> str:
    if math.isnan(interval.value):
        return "–"
    value, low, high = (f"{scale * part:.2f}" for part in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _name_marks(
    figure: "Figure", axes: "Axes", marks: list[tuple[float, float]], ringed: list[tuple[float, float, str]]
) -> None:
    """Writes each name where it covers the fewest marks and names."""
    figure.draw_without_rendering()
    points = axes.transData.transform(marks)
    taken: list[Bbox] = []
    for x, y, name in ringed:
        others = points[(np.asarray(marks) != (x, y)).any(axis=1)]
        written: list[tuple[int, int, Annotation, Bbox]] = []
        for preference, (across, up, side) in enumerate(OFFSETS):
            text = axes.annotate(
                name,
                (x, y),
                textcoords="offset points",
                xytext=(across, up),
                ha=side,
                fontsize=8,
                color=INK,
            )
            box = text.get_window_extent()
            outside = not (box.x0 >= axes.bbox.x0 and box.x1 <= axes.bbox.x1)
            covered = (
                sum(box.padded(pad).contains(*point) for point in others for pad in (MARK_PIXELS, RING_PIXELS))
                + sum(map(box.overlaps, taken))
                + 9 * outside
            )
            written.append((covered, preference, text, box))
        best = min(written, key=lambda found: found[:2])
        taken.append(best[3])
        for found in written:
            if found is not best:
                found[2].remove()
