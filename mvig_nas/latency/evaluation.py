"""How good a predictor is on what it has not seen: whole families, or whole laboratories, left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.predictor import LatencyPredictor
from mvig_nas.latency.published import BoolArray, Measurements
from mvig_nas.latency.rows import device_of


@dataclass(frozen=True)
class HeldOut:
    """Out-of-fold answers for each row: milliseconds, and the ends of the interval."""

    predicted_ms: FloatArray
    lower_ms: FloatArray
    upper_ms: FloatArray


@dataclass(frozen=True)
class Errors:
    """Relative errors as fractions of the measurement, rank correlation, and the share of rows inside the interval."""

    measurements: int
    median_error: float
    mean_error: float
    spearman: float
    coverage: float


def leave_out(
    rows: Measurements,
    parts: Sequence[str],
    fit: Callable[[Measurements], LatencyPredictor],
    *,
    coverage: float = 0.8,
) -> tuple[HeldOut, HeldOut]:
    """Predict each part from a fit to all other parts; `parts` has a label a row.

    Two answers: with the constant factor that the other parts show for the row's laboratory, and as any laboratory's on
    that device.
    """
    labels = np.array(parts)
    groups = np.array(rows.groups)
    answers = np.zeros((2, 3, len(labels)))
    for part in sorted(set(parts)):
        out = labels == part
        fitted = fit(rows.where(~out))
        for group in sorted(set(groups[out])):
            places = np.flatnonzero(out & (groups == group))
            features = rows.features[places]
            aimed = fitted.for_device(device_of(group))
            for answer, named in zip(answers, (group, None), strict=True):
                answer[0, places] = aimed.predict_from_features_ms(features, named)
                answer[1:, places] = aimed.interval_from_features_ms(features, coverage, named)
    return HeldOut(*answers[0]), HeldOut(*answers[1])


def choose(rows: Measurements, candidates: Sequence[Mapping[str, float]], folds: int = 3) -> Mapping[str, float]:
    """The hyperparameters with the smallest mean error in log t over families left out, `folds` groups of them."""
    names = sorted(set(rows.families), key=lambda name: (-rows.families.count(name), name))
    fold_of = {name: str(place % folds) for place, name in enumerate(names)}
    parts = [fold_of[name] for name in rows.families]

    def loss(candidate: Mapping[str, float]) -> float:
        known, _ = leave_out(rows, parts, lambda inner: fit(inner, candidate, bags=2, calibration_folds=0))
        return float(np.average(np.abs(np.log(known.predicted_ms / rows.latencies_ms)), weights=rows.weights))

    return min(candidates, key=loss)


def fit(rows: Measurements, candidate: Mapping[str, float], **options: int) -> LatencyPredictor:
    """A predictor of these hyperparameters, fitted to the rows; aim it with `for_device`."""
    predictor = LatencyPredictor(device=device_of(rows.groups[0]), **candidate, **options)  # type: ignore[arg-type]
    return predictor.fit_from_features(
        rows.features, rows.latencies_ms, rows.groups, weights=rows.weights, families=rows.families
    )


def errors(rows: Measurements, held_out: HeldOut, mask: BoolArray | None = None) -> Errors:
    """Summary over the rows of `mask`, or all."""
    from scipy.stats import spearmanr

    keep = np.ones(len(rows.latencies_ms), dtype=bool) if mask is None else mask
    measured, predicted = rows.latencies_ms[keep], held_out.predicted_ms[keep]
    relative = np.abs(predicted / measured - 1)
    inside = (held_out.lower_ms[keep] <= measured) & (measured <= held_out.upper_ms[keep])
    return Errors(
        measurements=int(keep.sum()),
        median_error=float(np.median(relative)),
        mean_error=float(relative.mean()),
        spearman=float(spearmanr(predicted, measured)[0]) if keep.sum() > 2 else float("nan"),
        coverage=float(inside.mean()),
    )
