"""`python benchmarks/latency_published.py [out]`: every latency model tried, on the published rows, families left out.

Writes comparison.csv and .md, out_of_fold.csv, families.csv and predicted_against_published.png into
results/latency_published, and into predictors/published errors.json, the error figures of the shipped predictors, and
interval_scales.json, by how much each device's intervals are wider or narrower.

`python benchmarks/latency_published.py intervals` does the last step alone, from out_of_fold.csv: it writes
intervals.csv, the coverage by device before and after, and both JSON files.
"""

import csv
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import SVR

from mvig_nas.latency.features import FEATURES, PRIOR_MS, SHARES, FloatArray
from mvig_nas.latency.held_out import (
    KNOWN,
    UNKNOWN,
    HeldOut,
    error_sizes,
    figures,
    hold_out_pooled,
    interval_scale,
    leave_out,
    parts_of,
    scaled_by_device,
)
from mvig_nas.latency.latency_predictor import LatencyPredictor
from mvig_nas.latency.published import DEVICES, read_published
from mvig_nas.latency.rows import Rows, chip_of, device_of

ROOT = Path(__file__).resolve().parent.parent
OUTPUT, PUBLISHED = ROOT / "results" / "latency_published", ROOT / "predictors" / "published"
CANDIDATES = [{"cost_spread": cost, "chip_spread": chip} for cost, chip in product((3.0, 6.0), (0.1, 0.2))]
SHRINK = 2.0  # rows of pretended agreement before a laboratory gets a factor of its own
Model = Callable[[Rows, Rows], FloatArray]  # training rows, rows to predict -> log ms without laboratory


def log_classes(rows: Rows) -> FloatArray:
    """Nominal milliseconds of each class of kernels in log, the chip, and the total: for the general learners."""
    prior = np.array([PRIOR_MS[name] for name in FEATURES])
    classes = [sum(rows.features[:, FEATURES.index(name)] * PRIOR_MS[name] for name in names) for names in SHARES]
    a15 = [float(chip_of(device_of(group)) == "A15") for group in rows.groups]
    return np.column_stack([*(np.log(part + 0.01) for part in classes), np.log(rows.features @ prior + 0.01), a15])


def general(make: Callable[[], Any], *, weighted: bool = True) -> Model:
    """A scikit-learn regressor on standardised `log_classes`."""

    def predict(train: Rows, test: Rows) -> FloatArray:
        inputs, centre = log_classes(train), log_classes(train).mean(axis=0)
        scale = inputs.std(axis=0) + 1e-6
        options = {"sample_weight": train.weights} if weighted else {}
        model = make().fit((inputs - centre) / scale, np.log(train.latencies_ms), **options)
        return model.predict((log_classes(test) - centre) / scale)

    return predict


def op_sums(train: Rows, test: Rows) -> FloatArray:
    """Non-negative least squares on relative errors over the sums of features, one set of costs."""
    scale = np.sqrt(train.weights) / train.latencies_ms
    columns = np.column_stack([np.ones(len(train.features)), train.features])
    costs, _ = nnls(columns * scale[:, None], train.latencies_ms * scale, maxiter=1000)
    return np.log(np.column_stack([np.ones(len(test.features)), test.features]) @ costs)


def with_laboratories(model: Model) -> Model:
    """Three rounds of model and shrunk laboratory factors, both from training rows only."""

    def predict(train: Rows, test: Rows) -> FloatArray:
        labels = sorted(set(train.groups))
        factor = dict.fromkeys(labels, 0.0)
        for _ in range(3):
            offsets = np.array([factor[group] for group in train.groups])
            levelled = replace(train, latencies_ms=train.latencies_ms / np.exp(offsets))
            residual = np.log(train.latencies_ms) - model(levelled, train)
            for label in labels:
                own = np.array([group == label for group in train.groups])
                factor[label] = float(residual[own].sum() / (own.sum() + SHRINK))
        return model(levelled, test) + np.array([factor.get(group, 0.0) for group in test.groups])

    return predict


GENERAL: dict[str, Model] = {
    "op-level sums, NNLS (baseline)": op_sums,
    "nearest neighbours": general(lambda: KNeighborsRegressor(4, weights="distance"), weighted=False),
    "support vectors, RBF": general(lambda: SVR(C=3.0, gamma=0.02, epsilon=0.03)),
    "Gaussian process on logs": general(
        lambda: GaussianProcessRegressor(RBF(5.0) + WhiteKernel(0.02), normalize_y=True), weighted=False
    ),
    "boosted trees, monotone": general(
        lambda: HistGradientBoostingRegressor(
            max_iter=120,
            learning_rate=0.07,
            max_leaf_nodes=8,
            min_samples_leaf=5,
            random_state=0,
            monotonic_cst=[1] * (len(SHARES) + 1) + [0],
        )
    ),
    "extremely random trees": general(lambda: ExtraTreesRegressor(150, min_samples_leaf=2, random_state=0)),
}


def leave_families_out(rows: Rows, model: Model) -> HeldOut:
    """Out-of-fold milliseconds of a model without intervals."""

    def answer(train: Rows, test: Rows) -> dict[str, HeldOut]:
        return {"model": HeldOut.without_interval(np.exp(model(train, test)))}

    return leave_out(rows, parts_of(rows.families), answer)["model"]


@dataclass(frozen=True)
class Errors:
    """Relative errors as fractions of the measurement, rank correlation, and the share of rows inside the interval."""

    measurements: int
    median_error: float
    mean_error: float
    spearman: float
    coverage: float


def errors(rows: Rows, held_out: HeldOut, mask: NDArray[np.bool_] | None = None) -> Errors:
    """The figures of `held_out` that this comparison shows, over the rows of `mask`, or all."""
    keep = np.ones(len(rows.latencies_ms), dtype=bool) if mask is None else mask
    found = figures(rows.latencies_ms[keep], held_out.pick(keep))
    coverage = found.get("interval_coverage_80", float("nan"))
    return Errors(int(keep.sum()), found["median_error"], found["mape"], found["spearman"], coverage)


def choose(rows: Rows, candidates: Sequence[Mapping[str, float]], folds: int = 3) -> Mapping[str, float]:
    """The hyperparameters with the smallest mean error in log t over families left out, `folds` groups of them."""
    names = sorted(set(rows.families), key=lambda name: (-rows.families.count(name), name))
    fold_of = {name: str(index % folds) for index, name in enumerate(names)}
    parts = parts_of([fold_of[name] for name in rows.families])

    def loss(candidate: Mapping[str, float]) -> float:
        known = hold_out_pooled(rows, parts, lambda train: fit(train, candidate, bags=2, calibration_folds=0))[KNOWN]
        return float(np.average(np.abs(np.log(known.predicted_ms / rows.latencies_ms)), weights=rows.weights))

    return min(candidates, key=loss)


def fit(rows: Rows, candidate: Mapping[str, float], **options: int) -> LatencyPredictor:
    """A predictor of these hyperparameters, fitted to the rows; aim it with `for_device`."""
    return LatencyPredictor(device=device_of(rows.groups[0]), **candidate, **options).fit_rows(rows)


def main(out: Path) -> None:
    """Run everything."""
    out.mkdir(parents=True, exist_ok=True)
    rows = read_published(PUBLISHED)
    is_mobilevig = np.array([family == "MobileViG" for family in rows.families])
    table: list[tuple[str, Errors, Errors, bool]] = []

    def add(name: str, held_out: HeldOut, has_interval: bool) -> None:
        table.append((name, errors(rows, held_out), errors(rows, held_out, is_mobilevig), has_interval))
        print(f"{name}: median {table[-1][1].median_error:.1%} at {time.perf_counter() - start:.0f} s", flush=True)

    start = time.perf_counter()
    for name, model in GENERAL.items():
        add(name, leave_families_out(rows, with_laboratories(model)), False)
    chosen: list[str] = []

    def nested(train: Rows) -> Any:
        best = choose(train, CANDIDATES)
        chosen.append(json.dumps(best))
        return fit(train, best)

    parts = parts_of(rows.families)
    once = hold_out_pooled(rows, parts, lambda train: fit(train, {}, bags=1, calibration_folds=0))[KNOWN]
    add("physics + GP, one bag", once, False)
    by_family = hold_out_pooled(rows, parts, nested)
    known, unknown = by_family[KNOWN], by_family[UNKNOWN]
    add("physics + GP, bagged, chosen in the folds (shipped)", known, True)
    add("... laboratory unknown", unknown, True)
    trees = leave_families_out(rows, with_laboratories(GENERAL["extremely random trees"]))
    blend = known.predicted_ms**0.8 * trees.predicted_ms**0.2
    add("shipped x 0.8 + random trees x 0.2 (in log)", HeldOut.without_interval(blend), False)
    by_group = hold_out_pooled(rows, parts_of(rows.groups), lambda train: fit(train, CANDIDATES[-1]))
    other_laboratory = by_group[UNKNOWN]
    add("... a whole laboratory left out", other_laboratory, True)

    write_comparison(out, table)
    write_rows(out, rows, known, unknown)
    write_families(out, rows, known)
    plot(out / "predicted_against_published.png", rows, known)
    final = choose(rows, CANDIDATES)
    summary = {
        "chosen_on_all_rows": final,
        "chosen_in_folds": {text: chosen.count(text) for text in sorted(set(chosen))},
    }
    (out / "hyperparameters.json").write_text(json.dumps(summary, indent=1) + "\n")
    figures = error_figures(rows, known, unknown)
    write_intervals(out, rows, known, figures)
    print(json.dumps(summary), f"{time.perf_counter() - start:.0f} s")


def intervals_from(out: Path) -> None:
    """The step of `main` that scales intervals, from the rows that it wrote."""
    rows = read_published(PUBLISHED)
    with (out / "out_of_fold.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert tuple(row["network"] for row in written) == rows.networks
    names = ("predicted_ms", "lower80_ms", "upper80_ms")
    known = HeldOut(*(np.array([float(row[name]) for row in written]) for name in names))
    write_intervals(out, rows, known, json.loads((PUBLISHED / "errors.json").read_text()))


def write_intervals(out: Path, rows: Rows, known: HeldOut, figures: dict[str, dict[str, float]]) -> None:
    """Scales of the intervals by device, from rows of families left out, and what they cover.

    A row's own family has no say in the scale that its coverage is counted with.
    """
    scaled, devices = scaled_by_device(rows, known), np.array(rows.devices)
    sizes = error_sizes(rows.latencies_ms, known)
    scales = {device: round(interval_scale(sizes[devices == device]), 4) for device in DEVICES}
    overall = errors(rows, scaled).coverage
    table = []
    for device in DEVICES:
        own = devices == device
        before, after = errors(rows, known, own).coverage, errors(rows, scaled, own).coverage
        figures[device] |= {"coverage80": round(after, 4), "all_coverage80": round(overall, 4)}
        table.append([device, int(own.sum()), scales[device], f"{100 * before:.1f}", f"{100 * after:.1f}"])
    table.append(["all", len(devices), "", f"{100 * errors(rows, known).coverage:.1f}", f"{100 * overall:.1f}"])
    with (out / "intervals.csv").open("w", newline="") as file:
        header = ["device", "rows", "scale", "covered %", "covered by scaled intervals %"]
        csv.writer(file, lineterminator="\n").writerows([header, *table])
    for name, content in (("errors", figures), ("interval_scales", scales)):
        (PUBLISHED / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def error_figures(rows: Rows, known: HeldOut, unknown: HeldOut) -> dict[str, dict[str, float]]:
    """Per device: errors on its own rows, and over all rows."""
    devices = np.array([device_of(group) for group in rows.groups])
    overall = errors(rows, known)
    figures: dict[str, dict[str, float]] = {}
    for device in DEVICES:
        own = errors(rows, known, devices == device)
        strange = errors(rows, unknown, devices == device)
        figures[device] = {
            "measurements": own.measurements,
            "median_error": round(own.median_error, 4),
            "mean_error": round(own.mean_error, 4),
            "spearman": round(own.spearman, 4),
            "coverage80": round(own.coverage, 4),
            "median_error_unknown_laboratory": round(strange.median_error, 4),
            "all_measurements": overall.measurements,
            "all_median_error": round(overall.median_error, 4),
            "all_spearman": round(overall.spearman, 4),
            "all_coverage80": round(overall.coverage, 4),
        }
    return figures


def write_comparison(out: Path, table: Sequence[tuple[str, Errors, Errors, bool]]) -> None:
    """The table of models, twice."""
    header = ["model", "median error %", "mean error %", "Spearman", "MobileViG mean error %", "80 % intervals cover %"]
    lines = [
        [name, f"{100 * every.median_error:.1f}", f"{100 * every.mean_error:.1f}", f"{every.spearman:.3f}",
         f"{100 * mobilevig.mean_error:.1f}", f"{100 * every.coverage:.0f}" if has_interval else ""]
        for name, every, mobilevig, has_interval in table
    ]  # fmt: skip
    with (out / "comparison.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
    markdown = ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]]
    (out / "comparison.md").write_text("\n".join(markdown) + "\n")


def write_rows(out: Path, rows: Rows, known: HeldOut, unknown: HeldOut) -> None:
    """Every row's out-of-fold answer."""
    with (out / "out_of_fold.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["network", "family", "group", "published_ms", "predicted_ms", "lower80_ms", "upper80_ms",
             "predicted_unknown_laboratory_ms"]
        )  # fmt: skip
        for row, network in enumerate(rows.networks):
            numbers = (known.predicted_ms, known.lower_ms, known.upper_ms, unknown.predicted_ms)
            writer.writerow(
                [network, rows.families[row], rows.groups[row], rows.latencies_ms[row]]
                + [f"{values[row]:.3f}" for values in numbers]
            )


def write_families(out: Path, rows: Rows, held_out: HeldOut) -> None:
    """Errors by family, laboratory and device, worst first."""
    labels = {
        "family": np.array(rows.families),
        "laboratory": np.array(rows.groups),
        "device": np.array([device_of(group) for group in rows.groups]),
    }
    with (out / "families.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["by", "name", *asdict(errors(rows, held_out)), "median_signed_error"])
        signed = held_out.predicted_ms / rows.latencies_ms - 1
        for kind, names in labels.items():
            parts = {name: errors(rows, held_out, names == name) for name in sorted(set(names))}
            for name, part in sorted(parts.items(), key=lambda item: -item[1].median_error):
                numbers = [f"{value:.4g}" for value in asdict(part).values()]
                writer.writerow([kind, name, *numbers, f"{np.median(signed[names == name]):.4g}"])


def plot(path: Path, rows: Rows, held_out: HeldOut) -> None:
    """Predicted against published, the 12 % band shaded, MobileViG on top."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 7))
    ends = np.array([0.35, 80.0])
    axes.fill_between(ends, ends * 0.88, ends * 1.12, color="0.88", label="within 12 %", lw=0)
    axes.plot(ends, ends, color="0.5", lw=0.8)
    families = np.array(rows.families)
    names = sorted(set(families) - {"MobileViG"})
    for index, name in enumerate(names):
        own: NDArray[np.bool_] = families == name
        colour = plt.get_cmap("nipy_spectral")(index / len(names))
        axes.scatter(rows.latencies_ms[own], held_out.predicted_ms[own], s=12, color=colour, label=name, alpha=0.8)
    own = families == "MobileViG"
    axes.scatter(
        rows.latencies_ms[own], held_out.predicted_ms[own], s=90, marker="*", color="red", edgecolor="black",
        label="MobileViG", zorder=5,
    )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="published, ms",
        ylabel="predicted with the family left out, ms",
    )  # fmt: skip
    axes.legend(fontsize=6, ncol=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if sys.argv[1:] == ["intervals"]:
        intervals_from(OUTPUT)
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
