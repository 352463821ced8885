"""How good a predictor is on networks that it has not seen: one way to leave rows out, and one set of error figures.

The rows are dealt into parts, by network, by family or by laboratory; each part is predicted by a fit to the others.
Beside a device's own predictor stand two baselines that it has to beat: an additive look-up table, and a support vector
machine on aggregates.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency.features import FloatArray, network_features
from mvig_nas.latency.latency_predictor import LatencyPredictor, fit_device
from mvig_nas.latency.rows import Rows, device_of
from mvig_nas.latency.signatures import signature

COVERAGE = 0.8
BUDGETS = (0.25, 0.5, 0.75)  # quantiles of the latencies
_RANGES = 4
_SIZES = (5, 10, 20, 40, 80, 160, 320)
_HELD_OUT = 0.3  # of the networks, for the learning curve
_REPEATS = 3
_AGREEING_ROWS = 20  # of pretended errors that need no other interval
_LEAST_SIZE = 0.05  # of a needed interval, where rows repeat each other
OWN = "this predictor"
KNOWN, UNKNOWN = "laboratory known", "laboratory unknown"

Positions = Sequence[int]


@dataclass(frozen=True)
class HeldOut:
    """Answers for n rows by fits that did not see them: milliseconds, and the ends of the interval or NaN."""

    predicted_ms: FloatArray
    lower_ms: FloatArray
    upper_ms: FloatArray

    @classmethod
    def without_interval(cls, predicted_ms: FloatArray) -> Self:
        """Answers of a model that gives no interval."""
        nothing = np.full(len(predicted_ms), np.nan)
        return cls(predicted_ms, nothing, nothing)

    def pick(self, rows: Positions | NDArray[Any]) -> Self:
        """The answers for some rows, given by positions or by a mask."""
        return type(self)(self.predicted_ms[rows], self.lower_ms[rows], self.upper_ms[rows])


def folds(rows: Rows, k: int, seed: int) -> list[list[int]]:
    """Rows dealt into k parts at random, all rows of a network in one.

    Raises:
        MvigNasError: there are fewer networks than parts, or too few to fit.
    """
    labels = sorted(set(rows.networks))
    if not 2 <= k <= len(labels) or len(labels) < 6:
        raise MvigNasError(
            f"cross-validation needs 6 networks and from 2 to as many parts, got {len(labels)} networks and {k} parts; "
            "measure more, or ask for fewer parts."
        )
    random.Random(seed).shuffle(labels)
    part_of = {label: index % k for index, label in enumerate(labels)}
    return [[row for row, label in enumerate(rows.networks) if part_of[label] == part] for part in range(k)]


def parts_of(labels: Sequence[str]) -> list[list[int]]:
    """One part for each different label, in the order of the labels."""
    return [[row for row, label in enumerate(labels) if label == name] for name in sorted(set(labels))]


def family_folds(rows: Rows) -> list[list[int]]:
    """One part for each family.

    Raises:
        MvigNasError: all rows are of one family.
    """
    parts = parts_of(rows.families)
    if len(parts) < 2:
        raise MvigNasError(
            f"leaving a family out needs rows of 2 families, got only {', '.join(set(rows.families))}; evaluate by "
            "network."
        )
    return parts


def leave_out(
    rows: Rows, parts: Sequence[Positions], answer: Callable[[Rows, Rows], Mapping[str, HeldOut]]
) -> dict[str, HeldOut]:
    """Each part answered by `answer(rows of the other parts, rows of the part)`, by name of the model that answers."""
    arrays: dict[str, FloatArray] = {}
    for part in parts:
        out = np.zeros(len(rows.networks), dtype=bool)
        out[list(part)] = True
        for name, found in answer(rows.where(~out), rows.pick(part)).items():
            whole = arrays.setdefault(name, np.full((3, len(rows.networks)), np.nan))
            whole[:, part] = found.predicted_ms, found.lower_ms, found.upper_ms
    return {name: HeldOut(*whole) for name, whole in arrays.items()}


def hold_out(rows: Rows, parts: Sequence[Positions], start: LatencyPredictor | None, seed: int) -> dict[str, HeldOut]:
    """Each part of a device's rows predicted by fits to the others, ours and the baselines', which give no interval."""

    def answer(train: Rows, test: Rows) -> dict[str, HeldOut]:
        answers = {OWN: answers_of_fit(train, test, start, seed)}
        for name, baseline in BASELINES.items():
            fitted = baseline().fit(train.kernels, train.latencies_ms)
            answers[name] = HeldOut.without_interval(fitted.predict_ms(test.kernels))
        return answers

    return leave_out(rows, parts, answer)


def hold_out_pooled(
    rows: Rows, parts: Sequence[Positions], fit: Callable[[Rows], LatencyPredictor]
) -> dict[str, HeldOut]:
    """Each part of several laboratories' rows predicted by a pooled fit to the others.

    There are two answers: with the constant factor that the other parts show for the row's laboratory (`KNOWN`), and as
    any laboratory on that device would measure it (`UNKNOWN`).
    """

    def answer(train: Rows, test: Rows) -> dict[str, HeldOut]:
        fitted = fit(train)
        arrays = np.zeros((2, 3, len(test.networks)))
        for part in parts_of(test.groups):
            group, features = test.groups[part[0]], test.features[part]
            aimed = fitted.for_device(device_of(group))
            for array, named in zip(arrays, (group, None), strict=True):
                array[0, part] = aimed.predict_from_features_ms(features, named)
                array[1:, part] = aimed.interval_from_features_ms(features, COVERAGE, named)
        return {KNOWN: HeldOut(*arrays[0]), UNKNOWN: HeldOut(*arrays[1])}

    return leave_out(rows, parts, answer)


def interval_scale(sizes: FloatArray) -> float:
    """Factor that a device's intervals need, from rows of it that the fit did not see.

    It is the quantile of the errors that covers a next row with the probability of the interval (split conformal
    prediction, Vovk 2005: of n errors the (n + 1) / n times as far quantile), drawn to 1 as by 20 rows that need none.

    Args:
        sizes: absolute errors of log t in half widths of the interval, (n,).
    """
    count = len(sizes)
    if not count:
        return 1.0
    needed = float(np.quantile(sizes, min(1.0, COVERAGE * (count + 1) / count)))
    return float(np.exp(count * np.log(max(needed, _LEAST_SIZE)) / (count + _AGREEING_ROWS)))


def error_sizes(measured_ms: FloatArray, held_out: HeldOut) -> FloatArray:
    """Absolute errors of log t in half widths of the interval, (n,)."""
    half = np.log(held_out.upper_ms / held_out.lower_ms) / 2
    sizes: FloatArray = np.abs(np.log(measured_ms / held_out.predicted_ms)) / half
    return sizes


def scaled_by_device(rows: Rows, held_out: HeldOut) -> HeldOut:
    """Answers by fits without the family, their intervals scaled as the other families' rows on the device need it."""
    sizes, half = error_sizes(rows.latencies_ms, held_out), np.log(held_out.upper_ms / held_out.lower_ms) / 2
    families, devices = np.array(rows.families), np.array(rows.devices)
    scales = np.ones(len(sizes))
    for family, device in sorted(set(zip(rows.families, rows.devices, strict=True))):
        others = (devices == device) & (families != family)
        scales[(devices == device) & (families == family)] = interval_scale(sizes[others])
    middle, reach = np.sqrt(held_out.lower_ms * held_out.upper_ms), half * scales
    return HeldOut(held_out.predicted_ms, middle * np.exp(-reach), middle * np.exp(reach))


def answers_of_fit(train: Rows, test: Rows, start: LatencyPredictor | None, seed: int) -> HeldOut:
    """What a fit of one device to `train` says of `test`."""
    fitted = fit_device(
        train.kernels, train.latencies_ms, train.group, start=start, families=train.families, seed=seed
    ).predictor
    return HeldOut(fitted.predict_ms(test.kernels), *fitted.interval_ms(test.kernels, COVERAGE))


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
    for part in np.array_split(np.argsort(measured_ms, kind="stable"), _RANGES):
        measured = measured_ms[part]
        relative = np.abs(held_out.predicted_ms[part] / measured - 1)
        found.append(
            {
                "from_ms": float(measured.min()),
                "to_ms": float(measured.max()),
                "rows": float(len(part)),
                "median_error": float(np.median(relative)),
                "within_10_percent": float((relative <= 0.1).mean()),
            }
        )
    return found


def learning_curve(rows: Rows, start: LatencyPredictor | None, seed: int) -> list[dict[str, float | str]]:
    """Errors on networks held out, by the number of networks fitted, with and without the start.

    Both see the same networks; three draws are averaged.
    """
    labels = sorted(set(rows.networks))
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
    known = rows.pick([row for row, network in enumerate(rows.networks) if network in train])
    strangers = rows.pick([row for row, network in enumerate(rows.networks) if network in test])
    found = figures(strangers.latencies_ms, answers_of_fit(known, strangers, start, seed))
    return {name: found[name] for name in ("median_error", "mape", "within_10_percent", "interval_coverage_80")}


def _rank(
    measure: Callable[[FloatArray, FloatArray], tuple[float, float]], one: FloatArray, other: FloatArray
) -> float:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(measure(one, other)[0])


_BASELINE_FOLDS = 5
_ALPHAS = tuple(10.0**power for power in range(-4, 4))
_GRID = {"svr__C": [1.0, 10.0, 100.0], "svr__gamma": [0.003, 0.01, 0.03, 0.1], "svr__epsilon": [0.01, 0.05]}


class LookUpTable:
    """Milliseconds of a network as a sum over its kernels, a cost for each signature.

    A ridge regression on summed features prices every kernel; a second one, on counts of signatures (kind, shape,
    window, groups, MACs), gives each signature that was measured its own departure from that. Signatures never seen
    keep the first price. Rows count by relative error.
    """

    def fit(self, networks: Sequence[Sequence[Kernel]], latencies_ms: FloatArray) -> Self:
        """Learn from n networks and n milliseconds; earlier fits are forgotten."""
        from sklearn.linear_model import Ridge

        features = network_features(networks)
        self._scale = np.maximum(np.abs(features).max(axis=0), 1e-12)
        inputs = np.column_stack([np.ones(len(features)), features / self._scale])
        weights = latencies_ms**-2.0 / np.mean(latencies_ms**-2.0)
        self._prices = Ridge(_ridge_alpha(inputs, latencies_ms, weights), fit_intercept=False)
        self._prices.fit(inputs, latencies_ms, weights)
        rest = latencies_ms - self._prices.predict(inputs)
        self._columns: dict[str, int] = {}
        for network in networks:
            for kernel in network:
                self._columns.setdefault(signature(kernel), len(self._columns))
        counts = self._counts(networks)
        self._departures = Ridge(_ridge_alpha(counts, rest, weights), fit_intercept=False)
        self._departures.fit(counts, rest, weights)
        self._least_ms = float(latencies_ms.min()) / 10
        return self

    def predict_ms(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Milliseconds, shape (n,)."""
        features = network_features(networks)
        inputs = np.column_stack([np.ones(len(features)), features / self._scale])
        summed = self._prices.predict(inputs) + self._departures.predict(self._counts(networks))
        predicted: FloatArray = np.maximum(summed, self._least_ms)
        return predicted

    def _counts(self, networks: Sequence[Sequence[Kernel]]) -> Any:
        counts: list[float] = []
        columns: list[int] = []
        ends = [0]
        for network in networks:
            for name, count in Counter(signature(kernel) for kernel in network).items():
                if name in self._columns:
                    counts.append(count)
                    columns.append(self._columns[name])
            ends.append(len(columns))
        return csr_matrix((counts, columns, ends), shape=(len(networks), len(self._columns)), dtype=np.float64)


class SupportVectors:
    """Log milliseconds by support vector regression, RBF kernel, on the logarithms of summed kernel features."""

    def fit(self, networks: Sequence[Sequence[Kernel]], latencies_ms: FloatArray) -> Self:
        """Learn from n networks and n milliseconds, the grid searched by cross-validation."""
        from sklearn.model_selection import GridSearchCV, KFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR

        machine = make_pipeline(StandardScaler(), SVR())
        folds = KFold(min(_BASELINE_FOLDS, len(networks)), shuffle=True, random_state=0)
        self._search = GridSearchCV(machine, _GRID, scoring="neg_mean_absolute_error", cv=folds)
        targets = np.log(latencies_ms)
        self._middle = float(targets.mean())
        self._search.fit(_logs(networks), targets - self._middle)
        return self

    def predict_ms(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Milliseconds, shape (n,)."""
        predicted: FloatArray = np.exp(self._middle + self._search.predict(_logs(networks)))
        return predicted


BASELINES: dict[str, type[LookUpTable] | type[SupportVectors]] = {
    "look-up table (ridge)": LookUpTable,
    "RBF-SVR": SupportVectors,
}


def _logs(networks: Sequence[Sequence[Kernel]]) -> FloatArray:
    """Counts, MACs and bytes span orders of magnitude."""
    return np.log1p(1e3 * network_features(networks))


def _ridge_alpha(inputs: Any, targets: FloatArray, weights: FloatArray) -> float:
    """The strength with the least relative error over folds."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold

    parts = list(KFold(min(_BASELINE_FOLDS, len(targets)), shuffle=True, random_state=0).split(targets))

    def loss(alpha: float) -> float:
        total = 0.0
        for train, test in parts:
            model = Ridge(alpha, fit_intercept=False).fit(inputs[train], targets[train], weights[train])
            total += float(weights[test] @ np.abs(model.predict(inputs[test]) - targets[test]) ** 2)
        return total

    return min(_ALPHAS, key=loss)
