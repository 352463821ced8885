"""A predictor for exactly one device, system and compute unit, from its own measurements and perhaps another's fit."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency.device_model import (
    DeviceModel,
    Start,
    fit_device_model,
    robust_deviations,
    start_of,
    templates,
)
from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.own_device import DeviceFit, knowledge_beyond_costs
from mvig_nas.latency.predictor import LatencyPredictor, device_of, network_features

IntArray = NDArray[np.int64]
_LEAST_REFITTED, _MOST_REFITTED, _PARTS = 4, 300, 5
WILD = 4.0  # robust deviations, beyond which a row is reported


@dataclass(frozen=True)
class Fitted:
    """A predictor, and how its rows look to a fit without them: n milliseconds, n errors in robust deviations."""

    predictor: LatencyPredictor
    left_out_ms: FloatArray
    standard_errors: FloatArray

    @property
    def wild(self) -> list[int]:
        """Places of rows that do not fit the others, the wildest first."""
        sizes = np.abs(self.standard_errors)
        return [int(place) for place in np.argsort(-sizes, kind="stable") if sizes[place] > WILD]


def fit_device(
    networks: Sequence[Sequence[Kernel]],
    latencies_ms: Sequence[float] | FloatArray,
    group: str,
    *,
    start: LatencyPredictor | None = None,
    families: Sequence[str] | None = None,
    seed: int = 0,
) -> Fitted:
    """Learn one device from measured networks of any sort; the order of rows does not matter.

    Without a `start` the fit begins at what is known of any device. With one, its log-prediction is the expectation
    before the rows are seen: few rows move its scale and costs, more free what corrects them. Where rows left out are
    less probable under the start than without it, it is not used. Measurements of one network count as their median,
    and wild ones lose their weight.

    Args:
        networks: kernel lists, n of them.
        latencies_ms: n positive milliseconds.
        group: who measured on what, `laboratory@device`, such as `Device.group`.
        start: a fitted predictor, of whatever device.
        families: n names; networks of one family count as relatives. Where there are five or more, none of which is
            most of the rows, intervals are calibrated on families left out, so that they hold for strangers.
        seed: picks the rows that the model's sizes are chosen on, where there are more than 300.

    Raises:
        MvigNasError: lengths differ, a latency is not positive, `group` is not `laboratory@device`, or fewer than 3
            different networks were measured.
    """
    device = device_of(group)
    latencies = np.asarray(latencies_ms, dtype=np.float64)
    if len(latencies) != len(networks):
        raise MvigNasError(
            f"`latencies_ms` must have one entry a network, got {len(latencies)} for {len(networks)} networks"
        )
    if families is not None and len(families) != len(networks):
        raise MvigNasError(
            f"`families` must have one entry a network, got {len(families)} for {len(networks)} networks"
        )
    bad = latencies[~(np.isfinite(latencies) & (latencies > 0))]
    if bad.size:
        raise MvigNasError(f"`latencies_ms` must be positive and finite, got {bad[0]}; drop the row")
    features = network_features(networks)
    # unique sorts the networks, so that the order they came in leaves no trace in the sums
    unique, first, network_of = np.unique(np.round(features, 9), axis=0, return_index=True, return_inverse=True)
    network_of = network_of.reshape(-1)
    if len(unique) < 3:
        raise MvigNasError(f"a fit needs 3 different measured networks, got {len(unique)}; measure more")
    log_rows = np.log(latencies)
    log_ms = np.array([np.median(log_rows[network_of == place]) for place in range(len(unique))])
    beyond = knowledge_beyond_costs(start, unique)
    starts = [(template, beyond) for template in templates()]
    if start is not None:
        starts.append((start_of(start.costs_ms), beyond))
    model = fit_device_model(unique, log_ms, starts, seed=seed)
    parts = _parts(len(unique), None if families is None else [families[row] for row in first], seed)
    kinds = frozenset(kernel.kind for network in networks for kernel in network)
    fit = DeviceFit(model, start if model.start == "start" else None, kinds)
    calibration = np.sort(np.abs(_calibration_errors(model, unique, log_ms, starts, parts)))
    predictor = LatencyPredictor.of_device(device, fit, calibration, len(networks), (group,))
    expected = (log_ms - model.left_out_errors)[network_of]
    errors = (log_rows - expected) / robust_deviations(model)[network_of]
    return Fitted(predictor, np.exp(expected), errors)


def _calibration_errors(
    model: DeviceModel,
    features: FloatArray,
    log_ms: FloatArray,
    starts: Sequence[tuple[Start, FloatArray]],
    part_of: IntArray,
) -> FloatArray:
    """Errors of rows left out, in predicted deviations, shape (n,).

    Few rows say little about the model's own terms, and a fit that chose them by a row is too sure of it: there whole
    parts are left out, and all is fitted anew without them.
    """
    count = len(log_ms)
    if not _LEAST_REFITTED <= count <= _MOST_REFITTED:
        errors: FloatArray = model.left_out_errors / model.left_out_deviations
        return errors
    errors = np.zeros(count)
    for part in range(part_of.max() + 1):
        out = part_of == part
        kept = [(start, beyond[~out]) for start, beyond in starts]
        other = fit_device_model(features[~out], log_ms[~out], kept, seed=0)
        beyond = next(beyond for start, beyond in starts if start.name == other.start)[out]
        deviations = other.deviation(features[out], beyond)
        errors[out] = (log_ms[out] - other.mean(features[out], beyond)) / deviations
    return errors


def _parts(count: int, families: Sequence[str] | None, seed: int) -> IntArray:
    """The part that each network is left out with, of up to five: families in one, or else drawn. Shape (count,)."""
    sizes = Counter(families or ())
    if len(sizes) >= _PARTS and 2 * max(sizes.values()) <= count:
        # families of like size are dealt round the parts, so that each holds some of every size
        names = sorted(sizes, key=lambda name: (-sizes[name], name))
        place = {name: place % _PARTS for place, name in enumerate(names)}
        return np.array([place[name] for name in families or ()])
    drawn: IntArray = np.random.default_rng(seed).permutation(count) % min(count, _PARTS)
    return drawn
