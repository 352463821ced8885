"""How good a device's predictor is on networks that it has not seen, beside the baselines, and by number of rows."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency.baselines import BASELINES
from mvig_nas.latency.evaluation import HeldOut
from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.predictor import LatencyPredictor, fit_device

COVERAGE = 0.8
BUDGETS = (0.25, 0.5, 0.75)  # quantiles of the latencies
_RANGES = 4
_SIZES = (5, 10, 20, 40, 80, 160, 320)
_HELD_OUT = 0.3  # of the networks, for the learning curve
_REPEATS = 3
OWN = "this predictor"

Networks = Sequence[Sequence[Kernel]]
Places = list[int]


@dataclass(frozen=True)
class Rows:
    """n measurements on one device; rows of one network share a label, relatives a family."""

    networks: Networks
    latencies_ms: FloatArray
    labels: tuple[str, ...]
    families: tuple[str, ...]
    group: str

    def pick(self, places: Sequence[int]) -> tuple[list[Sequence[Kernel]], FloatArray]:
        """Networks and milliseconds of some rows."""
        return [self.networks[place] for place in places], self.latencies_ms[list(places)]


def folds(rows: Rows, k: int, seed: int) -> list[Places]:
    """Rows dealt into k parts at random, all rows of a network in one.

    Raises:
        MvigNasError: there are fewer networks than parts, or too few to fit.
    """
    labels = sorted(set(rows.labels))
    if not 2 <= k <= len(labels) or len(labels) < 6:
        raise MvigNasError(
            f"cross-validation needs 6 networks and from 2 to as many parts, got {len(labels)} networks and {k} parts; "
            "measure more, or ask for fewer parts."
        )
    random.Random(seed).shuffle(labels)
    part_of = {label: place % k for place, label in enumerate(labels)}
    return [[row for row, label in enumerate(rows.labels) if part_of[label] == part] for part in range(k)]


def family_folds(rows: Rows) -> list[Places]:
    """One part for each family.

    Raises:
        MvigNasError: all rows are of one family.
    """
    names = sorted(set(rows.families))
    if len(names) < 2:
        raise MvigNasError(
            f"leaving a family out needs rows of 2 families, got only {', '.join(names)}; evaluate by network."
        )
    return [[row for row, family in enumerate(rows.families) if family == name] for name in names]


def hold_out(rows: Rows, parts: Sequence[Places], start: LatencyPredictor | None, seed: int) -> dict[str, HeldOut]:
    """Each part predicted by fits to the others, ours and the baselines'; these give no interval."""
    answers = {name: np.full((3, len(rows.labels)), np.nan) for name in (OWN, *BASELINES)}
    for part in parts:
        out = set(part)
        train = [row for row in range(len(rows.labels)) if row not in out]
        networks, latencies_ms = rows.pick(train)
        strangers, _ = rows.pick(part)
        kin = [rows.families[row] for row in train]
        fitted = fit_device(networks, latencies_ms, rows.group, start=start, families=kin, seed=seed).predictor
        answers[OWN][:, part] = fitted.predict_ms(strangers), *fitted.interval_ms(strangers, COVERAGE)
        for name, baseline in BASELINES.items():
            answers[name][0, part] = baseline().fit(networks, latencies_ms).predict_ms(strangers)
    return {name: HeldOut(*answer) for name, answer in answers.items()}


def figures(measured_ms: FloatArray, held_out: HeldOut) -> dict[str, float]:
    """Errors as fractions of the measurement, rank correlations, and, where there are intervals, their coverage."""
    from scipy.stats import kendalltau, spearmanr

    predicted = held_out.predicted_ms
    relative = np.abs(predicted / measured_ms - 1)
    values = {
        "within_5_percent": float((relative <= 0.05).mean()),
        "within_10_percent": float((relative <= 0.1).mean()),
        "mape": float(relative.mean()),
        "median_error": float(np.median(relative)),
        "kendall_tau": _rank(kendalltau, predicted, measured_ms),
        "spearman": _rank(spearmanr, predicted, measured_ms),
    }
    if np.isfinite(held_out.lower_ms).all():
        inside = (held_out.lower_ms <= measured_ms) & (measured_ms <= held_out.upper_ms)
        values["interval_coverage_80"] = float(inside.mean())
    return values


def false_accepts(measured_ms: FloatArray, held_out: HeldOut) -> list[dict[str, float]]:
    """At budgets, the share of accepted networks that miss it: by prediction, and by their interval's upper end.

    The upper end of an 80 % interval is what a search with 90 % confidence holds against its budget. A share of none
    accepted is NaN.
    """
    found = []
    for quantile in BUDGETS:
        budget_ms = float(np.quantile(measured_ms, quantile))
        values = {"budget_ms": budget_ms}
        for name, ends in (("by_prediction", held_out.predicted_ms), ("by_upper_end", held_out.upper_ms)):
            accepted = ends <= budget_ms
            missed = measured_ms[accepted] > budget_ms
            values[f"{name}_accepted"] = float(accepted.sum())
            values[f"{name}_false_share"] = float(missed.mean()) if accepted.any() else float("nan")
        found.append(values)
    return found


def errors_by_range(measured_ms: FloatArray, held_out: HeldOut) -> list[dict[str, float]]:
    """Errors in quarters of the rows, from the fastest to the slowest."""
    found = []
    for places in np.array_split(np.argsort(measured_ms, kind="stable"), _RANGES):
        measured = measured_ms[places]
        relative = np.abs(held_out.predicted_ms[places] / measured - 1)
        found.append(
            {
                "from_ms": float(measured.min()),
                "to_ms": float(measured.max()),
                "rows": float(len(places)),
                "median_error": float(np.median(relative)),
                "within_10_percent": float((relative <= 0.1).mean()),
            }
        )
    return found


def learning_curve(rows: Rows, start: LatencyPredictor | None, seed: int) -> list[dict[str, float | str]]:
    """Errors on networks held out, by the number of networks fitted, with and without the start.

    Both see the same networks; three draws are averaged.
    """
    labels = sorted(set(rows.labels))
    most = len(labels) - round(_HELD_OUT * len(labels))
    starts: dict[str, LatencyPredictor | None] = {"from scratch": None}
    if start is not None:
        starts[f"from {start.device}"] = start
    draws = []
    for repeat in range(_REPEATS):
        shuffled = labels.copy()
        random.Random(seed * _REPEATS + repeat).shuffle(shuffled)
        draws.append(shuffled)
    points: list[dict[str, float | str]] = []
    for size in sorted({size for size in (*_SIZES, most) if 3 <= size <= most}):
        for name, begin in starts.items():
            scores = [_score(rows, set(draw[:size]), set(draw[most:]), begin, seed) for draw in draws]
            mean = {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}
            points.append({"networks": size, "start": name, **mean})
    return points


def _score(rows: Rows, train: set[str], test: set[str], start: LatencyPredictor | None, seed: int) -> dict[str, float]:
    fitted_to = [row for row, label in enumerate(rows.labels) if label in train]
    networks, latencies_ms = rows.pick(fitted_to)
    kin = [rows.families[row] for row in fitted_to]
    strangers, measured_ms = rows.pick([row for row, label in enumerate(rows.labels) if label in test])
    fitted = fit_device(networks, latencies_ms, rows.group, start=start, families=kin, seed=seed).predictor
    found = figures(measured_ms, HeldOut(fitted.predict_ms(strangers), *fitted.interval_ms(strangers, COVERAGE)))
    return {name: found[name] for name in ("median_error", "mape", "within_10_percent", "interval_coverage_80")}


def _rank(
    measure: Callable[[FloatArray, FloatArray], tuple[float, float]], one: FloatArray, other: FloatArray
) -> float:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(measure(one, other)[0])
