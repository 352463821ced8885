"""One device, system and compute unit, learned from its own measurements and perhaps another predictor's fit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency.device_model import (
    NEURAL_ENGINE,
    TERMS,
    DeviceModel,
    Measured,
    Start,
    beyond_costs,
    fit_device_model,
    robust_deviations,
    start_of,
    templates,
)
from mvig_nas.latency.features import FEATURES, FloatArray, Support, kind_shares, network_features, reasons
from mvig_nas.latency.rows import check_positive, chip_of, device_of
from mvig_nas.latency.signatures import Signatures

IntArray = NDArray[np.int64]
_LEAST_REFITTED, _MOST_REFITTED, _PARTS = 4, 300, 5
_ARRAYS = ("costs_ms", "share_costs_ms", "log_terms", "inputs", "slopes", "residuals", "shifts", "weights")
_SIGNATURE_ARRAYS = ("shares", "signature_costs_ms")


class StartPredictor(Protocol):
    """What a fit needs of the predictor that it starts from."""

    device: str

    @property
    def costs_ms(self) -> FloatArray:
        """Milliseconds of the fixed cost and of a unit of each feature, shape (1 + F,)."""

    def predict_from_features_ms(self, features: FloatArray) -> FloatArray:
        """Milliseconds from summed features (n, F), shape (n,)."""

    def reasons_outside(self, network: Sequence[Kernel]) -> dict[str, str]:
        """Why the network is unlike all that were measured, by name of the reason."""

    def save(self, folder: str | Path) -> None:
        """Write the predictor into a folder."""


@dataclass(frozen=True)
class DeviceFit:
    """What `predictor.json` says of a fit to one device."""

    start: str
    start_from: str | None
    gain: float
    terms: Mapping[str, float]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class OwnDeviceModel:
    """Predicts log t on the one device; `start` is None for a fit from scratch."""

    model: DeviceModel
    start: StartPredictor | None
    kinds: frozenset[str]
    device: str
    groups: tuple[str, ...]
    signatures: Signatures

    @property
    def chips(self) -> tuple[str, ...]:
        """The chip of the device."""
        return (chip_of(self.device),)

    @property
    def costs_ms(self) -> FloatArray:
        """Milliseconds of the fixed cost and of a unit of each feature, shape (1 + F,)."""
        return self.model.costs_ms

    @property
    def summary(self) -> dict[str, Any]:
        """The start, and the sizes of what may depart from it."""
        return {
            "start": self.model.start,
            "start_from": None if self.start is None else self.start.device,
            "gain": self.model.gain,
            "terms": dict(zip(TERMS, np.exp(self.model.log_terms).tolist(), strict=True)),
        }

    def kernel_features(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Features of each kernel, then a one in the column of its signature. Shape (len(kernels), F + S)."""
        return self.signatures.rows(kernels)

    def mean(self, features: FloatArray, _group: str | None = None, /) -> FloatArray:
        """Expected log t, shape (n,). All rows are of one group, so the group asked for changes nothing."""
        return self.model.mean(features, _beyond(self.start, features))

    def deviation(self, features: FloatArray, _group: str | None = None, /) -> FloatArray:
        """Standard deviation of a measurement's log t, shape (n,)."""
        return self.model.deviation(features, _beyond(self.start, features))

    def covariance(self, features: FloatArray) -> FloatArray:
        """Covariance of log t between networks that the rows leave, shape (n, n)."""
        return self.model.covariance(features, _beyond(self.start, features))

    def reasons(self, network: Sequence[Kernel], features: FloatArray) -> dict[str, str]:
        """Why a network, of summed features (1, F), is unlike all that were measured here and for the start."""
        own = reasons(
            Support(self.model.inputs, self.kinds),
            self.model.network_inputs(features)[0],
            float(self.model.novelty(features)[0]),
            kind_shares(network, self.model.costs_ms),
        )
        if self.start is None or not own:
            return own
        shared = self.start.reasons_outside(network)
        return {name: reason for name, reason in own.items() if name in shared}

    def for_device(self, device: str) -> "OwnDeviceModel":
        """Itself, for its own device."""
        if device != self.device:
            raise MvigNasError(
                f"a predictor fitted to {self.device!r} alone must not predict for another device, got {device!r}; "
                "measure some networks there and fit one that starts from this."
            )
        return self

    def to_parts(self) -> tuple[dict[str, Any], dict[str, FloatArray]]:
        """Values for JSON, and arrays; the start is kept apart."""
        values = {**self.summary, "kinds": sorted(self.kinds)}
        arrays = {name: getattr(self.model, name) for name in (*_ARRAYS, *_SIGNATURE_ARRAYS)}
        arrays["signatures"], arrays["signature_features"] = np.array(self.signatures.names), self.signatures.features
        return {"groups": list(self.groups), "device_fit": values}, arrays

    @classmethod
    def from_parts(
        cls,
        device: str,
        groups: tuple[str, ...],
        own: DeviceFit,
        arrays: Mapping[str, FloatArray],
        start: StartPredictor | None,
    ) -> "OwnDeviceModel":
        """What `to_parts` gave."""
        name = NEURAL_ENGINE if own.start == "engine" else own.start  # as older files call it
        known = {name: arrays[name] for name in _ARRAYS}
        signatures = Signatures.none()
        if "signatures" in arrays:
            known |= {name: arrays[name] for name in _SIGNATURE_ARRAYS}
            signatures = Signatures(tuple(arrays["signatures"].tolist()), arrays["signature_features"])
        else:  # an older file's fit, in which no sort of kernels departs from its price
            known["log_terms"] = np.insert(known["log_terms"], TERMS.index("departure"), -np.inf)
            known |= {"shares": np.zeros((len(known["inputs"]), 0)), "signature_costs_ms": np.zeros(0)}
        model = DeviceModel(start=name, gain=own.gain, **known)
        return cls(model, start, frozenset(own.kinds), device, groups, signatures)


@dataclass(frozen=True)
class OwnDeviceFit:
    """A model of n rows, its calibration, and what fits without each row expect of it."""

    model: OwnDeviceModel
    calibration: FloatArray  # sorted absolute errors of rows left out, in predicted deviations
    left_out_ms: FloatArray  # (n,)
    standard_errors: FloatArray  # (n,), in robust deviations


def fit_own_device(
    networks: Sequence[Sequence[Kernel]],
    latencies_ms: Sequence[float] | FloatArray,
    group: str,
    *,
    start: StartPredictor | None,
    families: Sequence[str] | None,
    seed: int,
) -> OwnDeviceFit:
    """Fit one device; `latency.fit_device` explains the arguments and the errors."""
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
    check_positive("latencies_ms", latencies)
    # both sort the networks, so that the order they came in leaves no trace in the sums
    order = np.lexsort(np.round(network_features(networks), 9).T[::-1])
    signatures = Signatures.of([networks[row] for row in order], templates()[0].costs_ms)
    features = np.round(signatures.network_rows(networks), 9)
    unique, first, network_of = np.unique(features, axis=0, return_index=True, return_inverse=True)
    network_of = network_of.reshape(-1)
    if len(unique) < 3:
        raise MvigNasError(f"a fit needs 3 different measured networks, got {len(unique)}; measure more")
    log_rows = np.log(latencies)
    log_ms = np.array([np.median(log_rows[network_of == index]) for index in range(len(unique))])
    beyond = _beyond(start, unique)
    starts = [(template, beyond) for template in templates()]
    if start is not None:
        starts.append((start_of(start.costs_ms), beyond))
    learned = Measured(unique, log_ms, signatures.features)
    model = fit_device_model(learned, starts, seed=seed)
    parts = _parts(len(unique), None if families is None else [families[row] for row in first], seed)
    kinds = frozenset(kernel.kind for network in networks for kernel in network)
    used = start if model.start == "start" else None
    fit = OwnDeviceModel(model, used, kinds, device, (group,), signatures)
    calibration = np.sort(np.abs(_calibration_errors(model, learned, starts, parts)))
    expected = (log_ms - model.left_out_errors)[network_of]
    errors = (log_rows - expected) / robust_deviations(model)[network_of]
    return OwnDeviceFit(fit, calibration, np.exp(expected), errors)


def _beyond(start: StartPredictor | None, features: FloatArray) -> FloatArray:
    """What the start knows of log t beyond its costs, shape (n,); zeros without a start."""
    if start is None:
        return np.zeros(len(features))
    features = features[:, : len(FEATURES)]  # what single sorts of kernels cost the start's device is left aside
    return beyond_costs(start.costs_ms, start.predict_from_features_ms(features), features)


def _calibration_errors(
    model: DeviceModel,
    measured: Measured,
    starts: Sequence[tuple[Start, FloatArray]],
    part_of: IntArray,
) -> FloatArray:
    """Errors of rows left out, in predicted deviations, shape (n,).

    Few rows say little about the model's own terms, and a fit that chose them by a row is too sure of it: there whole
    parts are left out, and all is fitted anew without them.
    """
    features, log_ms = measured.features, measured.log_ms
    count = len(log_ms)
    if not _LEAST_REFITTED <= count <= _MOST_REFITTED:
        errors: FloatArray = model.left_out_errors / model.left_out_deviations
        return errors
    errors = np.zeros(count)
    for part in range(part_of.max() + 1):
        out = part_of == part
        kept = [(start, beyond[~out]) for start, beyond in starts]
        other = fit_device_model(measured.where(~out), kept, seed=0)
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
        part_of = {name: index % _PARTS for index, name in enumerate(names)}
        return np.array([part_of[name] for name in families or ()])
    drawn: IntArray = np.random.default_rng(seed).permutation(count) % min(count, _PARTS)
    return drawn
