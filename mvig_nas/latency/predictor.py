"""LatencyPredictor: kernel lists in, milliseconds with an interval out."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from mvig_nas.errors import MvigNasError
from mvig_nas.files import make_folder, save
from mvig_nas.kernels import Kernel
from mvig_nas.latency.device_model import start_of, starting_covariance
from mvig_nas.latency.features import FEATURES, SHARES, FloatArray, kernel_features
from mvig_nas.latency.labels import Labels
from mvig_nas.latency.own_device import DeviceFit, knowledge_beyond_costs
from mvig_nas.latency.physics import Physics, fit_bagged_physics
from mvig_nas.latency.residual import TERMS, Residual, fit_residual
from mvig_nas.latency.support import Support, kind_shares, reasons, unpriced

SCHEMA_VERSION = 1
# Phones of one chip share their physics; a device that is not here is its own chip.
CHIPS: dict[str, str] = {
    "iphone-12": "A14", "iphone-12-mini": "A14", "iphone-12-pro": "A14", "iphone-12-pro-max": "A14",
    "iphone-13": "A15", "iphone-13-mini": "A15", "iphone-13-pro": "A15", "iphone-13-pro-max": "A15",
    "iphone-14": "A15", "iphone-14-plus": "A15", "iphone-se-3": "A15",
    "iphone-14-pro": "A16", "iphone-14-pro-max": "A16", "iphone-15": "A16", "iphone-15-plus": "A16",
    "iphone-15-pro": "A17 Pro", "iphone-15-pro-max": "A17 Pro",
}  # fmt: skip
_SHARE_COLUMNS = tuple(tuple(1 + FEATURES.index(name) for name in names) for names in SHARES)
_FEW_ERRORS = 20  # fewer say too little about their own distribution, and Student's of their size stands in


@dataclass(frozen=True)
class Explanation:
    """Where a prediction goes: a share for each kernel, and the fixed cost of running anything at all."""

    kernels_ms: FloatArray
    fixed_ms: float

    @property
    def total_ms(self) -> float:
        """The prediction."""
        return float(self.kernels_ms.sum()) + self.fixed_ms


class LatencyPredictor:
    """Latency of one network at batch 1 on one device, from its kernels.

    A sum of non-negative costs per kernel (`_physics.py`), corrected by a Gaussian process on what it leaves over
    (`_residual.py`). Several devices and laboratories are fitted together: devices of one chip share costs, each
    (laboratory, device) has its own constant factor, and a prediction is for `device` as an unknown laboratory would
    measure it, or as `group` would where one is named. `fit_device` makes one for exactly one device instead.

    Args:
        device: the device to predict for.
        cost_spread: how far, in log, a cost may lie from its prior. In (0, inf).
        chip_spread: how far the costs of two chips may differ, in log. In (0, inf).
        group_spread: how far laboratories differ by a constant factor, in log. In (0, inf).
        noise: of a measurement, in log, as the physics' loss sees it. In (0, inf).
        huber: errors beyond this many `noise` count linearly. In (0, inf).
        bags: fits of the costs that are averaged. In [1, inf).
        calibration_folds: parts that the families are dealt into to calibrate intervals; below 2, the intervals are
            those of the normal distribution.

    Attributes:
        measurements_: number of rows per device.
        groups_: the (laboratory, device) labels seen.
        errors_: error figures of a cross-validation, if the one who fitted stored them; forgotten by the next fit.
    """

    def __init__(
        self,
        *,
        device: str = "iphone-13-mini",
        cost_spread: float = 3.0,
        chip_spread: float = 0.1,
        group_spread: float = 0.15,
        noise: float = 0.1,
        huber: float = 1.5,
        bags: int = 8,
        calibration_folds: int = 5,
    ) -> None:
        self.device = device
        self.cost_spread = cost_spread
        self.chip_spread = chip_spread
        self.group_spread = group_spread
        self.noise = noise
        self.huber = huber
        self.bags = bags
        self.calibration_folds = calibration_folds
        if bags < 1:
            raise MvigNasError(f"`bags` of LatencyPredictor must be in [1, inf), got {bags}; 1 fits once")
        for name, value in self._spreads().items():
            if not value > 0:
                raise MvigNasError(
                    f"`{name}` of LatencyPredictor must be in (0, inf), got {value}; give a spread in log"
                )
        self._physics: Physics | None = None
        self._device_fit: DeviceFit | None = None

    def fit(
        self,
        networks: Sequence[Sequence[Kernel]],
        latencies_ms: Sequence[float] | FloatArray,
        groups: Sequence[str] | None = None,
        *,
        weights: Sequence[float] | FloatArray | None = None,
        families: Sequence[str] | None = None,
    ) -> Self:
        """Learn from measured networks; earlier fits are forgotten, the order of rows does not matter.

        Args:
            networks: kernel lists, n of them; the same network may come several times.
            latencies_ms: n positive milliseconds.
            groups: who measured on what: n labels `laboratory@device`. If None, all are one laboratory's.
            weights: n positive trusts, 1 for a plain measurement.
            families: n names; networks of one family count as relatives, so that the interval widens for strangers.

        Raises:
            MvigNasError: lengths differ, a latency or weight is not positive, a group is not `laboratory@device`, or no
                row is of `device`.
        """
        return self.fit_from_features(
            network_features(networks), latencies_ms, groups, weights=weights, families=families
        )

    def fit_from_features(
        self,
        features: FloatArray,
        latencies_ms: Sequence[float] | FloatArray,
        groups: Sequence[str] | None = None,
        *,
        weights: Sequence[float] | FloatArray | None = None,
        families: Sequence[str] | None = None,
    ) -> Self:
        """`fit` from rows of summed kernel features, shape (n, len(FEATURES))."""
        rows = _Rows.checked(
            features, latencies_ms, groups=groups, weights=weights, families=families, device=self.device
        )
        physics, residual = self._fit_rows(rows)
        self.calibration_ = self._calibrate(rows, residual.log_terms)
        self._physics, self._residual, self._device_fit = physics, residual, None
        devices = rows.labels.devices
        self.measurements_ = {name: devices.count(name) for name in sorted(set(devices))}
        self.groups_ = tuple(sorted(set(rows.labels.groups)))
        self.errors_: dict[str, float] = {}
        return self

    def predict_ms(self, networks: Sequence[Sequence[Kernel]], group: str | None = None) -> FloatArray:
        """Milliseconds, shape (n,). `group` names a laboratory whose constant factor is wanted."""
        return self.predict_from_features_ms(network_features(networks), group)

    def predict_from_features_ms(self, features: FloatArray, group: str | None = None) -> FloatArray:
        """Milliseconds from summed kernel features of shape (n, len(FEATURES)): shape (n,)."""
        self._fitted()
        if self._device_fit is not None:
            return np.exp(self._device_fit.mean(np.asarray(features, dtype=np.float64)))
        return np.exp(self._parts(features, group).mean(self._residual))

    def interval_ms(
        self, networks: Sequence[Sequence[Kernel]], coverage: float = 0.8, group: str | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Lower and upper milliseconds that hold a measurement with probability `coverage`, shape (n,) each.

        The spread counts a family never seen, the noise, and (without a `group`) a laboratory never seen; its width is
        calibrated on families left out of the fit.
        """
        return self.interval_from_features_ms(network_features(networks), coverage, group)

    def interval_from_features_ms(
        self, features: FloatArray, coverage: float = 0.8, group: str | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """`interval_ms` from summed kernel features."""
        if not 0 < coverage < 1:
            raise MvigNasError(f"`coverage` must be in (0, 1), got {coverage}; 0.8 is usual")
        self._fitted()
        if self._device_fit is not None:
            features = np.asarray(features, dtype=np.float64)
            mean, deviation = self._device_fit.mean(features), self._device_fit.deviation(features)
        else:
            query = self._parts(features, group)
            mean, deviation = query.mean(self._residual), query.deviation(self._residual)
        reach = deviation * self._quantile(coverage)
        return np.exp(mean - reach), np.exp(mean + reach)

    def covariance_from_features(self, features: FloatArray) -> FloatArray:
        """Covariance of log t between networks of summed kernel features: what is open about them. Shape (n, n).

        For a predictor fitted to one device, what its rows leave open. For another, what a fit to one device that
        starts from it (`fit_device`) does not know before its first row.
        """
        self._fitted()
        features = np.asarray(features, dtype=np.float64)
        if self._device_fit is not None:
            return self._device_fit.covariance(features)
        return starting_covariance(start_of(self.costs_ms), features, knowledge_beyond_costs(self, features))

    def explain_ms(self, network: Sequence[Kernel]) -> Explanation:
        """Which kernels the milliseconds go to; the parts sum to the prediction."""
        costs = self.costs_ms
        rows = kernel_features(network)
        by_kernel = rows @ costs[1:]
        factor = self.predict_from_features_ms(rows.sum(axis=0)[None])[0] / (by_kernel.sum() + costs[0])
        return Explanation(by_kernel * factor, float(costs[0] * factor))

    @property
    def costs_ms(self) -> FloatArray:
        """Milliseconds of the fixed cost and of a unit of each feature, before what corrects them. Shape (1 + F,)."""
        physics = self._fitted()
        costs: FloatArray = physics.costs_ms[physics.chips.index(chip_of(self.device))]
        return costs

    @property
    def fit_summary(self) -> dict[str, Any]:
        """What a fit to one device began with and how far it moved; empty for a fit of several devices."""
        return {} if self._device_fit is None else self._device_fit.summary

    def outside(self, networks: Sequence[Sequence[Kernel]]) -> list[list[str]]:
        """Why each network is unlike all that were measured, one line a reason; none where its prediction has support.

        A fit that starts from another predictor shares its support.
        """
        return [list(self._outside(network).values()) for network in networks]

    def _outside(self, network: Sequence[Kernel]) -> dict[str, str]:
        features = network_features([network])
        if self._device_fit is not None:
            own = self._device_fit.outside(network, features)
            start = self._device_fit.start
            if start is not None and own:
                shared = start._outside(network)
                own = {name: reason for name, reason in own.items() if name in shared}
        else:
            query = self._parts(features, None)
            residual = self._residual
            own = reasons(
                Support(residual.inputs * residual.scale + residual.centre, None),
                query.inputs[0],
                float(residual.novelty(query.inputs, chip_of(self.device))[0]),
                kind_shares(network, self.costs_ms),
            )
            own |= {f"kind {kind}": f"{kind} is an operation without a price of its own" for kind in unpriced(network)}
        return own

    def for_device(self, device: str) -> Self:
        """The same fit, predicting for another device whose chip was measured."""
        physics = self._fitted()
        if self._device_fit is not None and device != self.device:
            raise MvigNasError(
                f"a predictor fitted to {self.device!r} alone must not predict for another device, got {device!r}; "
                "measure some networks there and fit one that starts from this."
            )
        if chip_of(device) not in physics.chips:
            known = ", ".join(sorted(self.measurements_))
            raise MvigNasError(
                f"a device must share a chip with one that was measured, got {device!r}; measured: {known}"
            )
        other = type(self)(device=device, **self._hyperparameters())
        other._physics, other._device_fit = physics, self._device_fit
        if self._device_fit is None:
            other._residual = self._residual
        other.calibration_, other.measurements_ = self.calibration_, dict(self.measurements_)
        other.groups_, other.errors_ = self.groups_, dict(self.errors_)
        return other

    def save(self, folder: str | Path) -> None:
        """Write `predictor.json`, `predictor.npz` and a start predictor's `start` into `folder`, made if missing.

        Each file is written whole or not at all, and `load` refuses two that do not belong together.

        Raises:
            MvigNasError: the folder cannot be written.
        """
        physics = self._fitted()
        folder = Path(folder)
        make_folder(folder)
        values, arrays = self._to_parts()
        if self._device_fit is not None and self._device_fit.start is not None:
            self._device_fit.start.save(folder / "start")
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, calibration=self.calibration_, **arrays)
        description = {
            "schema_version": SCHEMA_VERSION,
            "device": self.device,
            "hyperparameters": self._hyperparameters(),
            "measurements": self.measurements_,
            "errors": self.errors_,
            "features": list(FEATURES),
            "chips": list(physics.chips),
            "arrays_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
            **values,
        }
        save(folder / "predictor.npz", content.getvalue())
        save(folder / "predictor.json", json.dumps(description, indent=1) + "\n")

    def _to_parts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What else `predictor.json` and `predictor.npz` hold."""
        if self._device_fit is not None:
            values, arrays = self._device_fit.to_parts()
            return {"groups": list(self.groups_), "device_fit": values}, dict(arrays)
        residual = self._residual
        names = ("inputs", "centre", "scale", "residuals", "weights", "log_terms")
        labels = {f"label_{name}": np.array(entries) for name, entries in asdict(residual.labels).items()}
        return {"terms": dict(zip(TERMS, np.exp(residual.log_terms).tolist(), strict=True))}, {
            "costs_ms": self._fitted().costs_ms,
            **{name: getattr(residual, name) for name in names},
            "offset": np.array(residual.offset),
            **labels,
        }

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            MvigNasError: the folder holds no predictor, or one of a newer schema or of other features.
        """
        folder = Path(folder)
        try:
            description: Mapping[str, Any] = json.loads((folder / "predictor.json").read_text())
            content = (folder / "predictor.npz").read_bytes()
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, BadZipFile) as error:
            raise MvigNasError(
                f"a predictor folder must hold predictor.json and predictor.npz, got {folder}: {error}"
            ) from error
        version = description.get("schema_version")
        if version != SCHEMA_VERSION:
            raise MvigNasError(f"predictor schema must be {SCHEMA_VERSION}, got {version} in {folder}; fit it again")
        if description["features"] != list(FEATURES):
            raise MvigNasError(
                f"a predictor must use this version's kernel features, {folder} uses others; fit it again"
            )
        written = description.get("arrays_sha256")  # the shipped predictors lack it
        if written is not None and written != hashlib.sha256(content).hexdigest():
            raise MvigNasError(
                f"predictor.json and predictor.npz must be of one fit, {folder} holds parts of two; fit it again"
            )
        predictor = cls(device=description["device"], **description["hyperparameters"])
        predictor._physics = Physics(tuple(description["chips"]), np.atleast_2d(arrays["costs_ms"]))
        if "device_fit" in description:
            values = description["device_fit"]
            start = None if values["start_from"] is None else LatencyPredictor.load(folder / "start")
            predictor._device_fit = DeviceFit.from_parts(values, arrays, start)
            predictor.groups_ = tuple(description["groups"])
        else:
            labels = Labels(**{name: tuple(arrays[f"label_{name}"].tolist()) for name in Labels.__dataclass_fields__})
            names = ("inputs", "centre", "scale", "residuals", "weights", "log_terms")
            predictor._residual = Residual(
                **{name: arrays[name] for name in names}, labels=labels, offset=float(arrays["offset"])
            )
            predictor.groups_ = tuple(sorted(set(labels.groups)))
        predictor.calibration_ = arrays["calibration"]
        predictor.measurements_ = dict(description["measurements"])
        predictor.errors_ = dict(description["errors"])
        return predictor

    @classmethod
    def of_device(
        cls, device: str, fit: DeviceFit, calibration: FloatArray, rows: int, groups: tuple[str, ...]
    ) -> Self:
        """A predictor for one device alone; `fit_device` makes its parts."""
        predictor = cls(device=device)
        predictor._physics = Physics((chip_of(device),), fit.model.costs_ms[None])
        predictor._device_fit = fit
        predictor.calibration_, predictor.groups_ = calibration, groups
        predictor.measurements_, predictor.errors_ = {device: rows}, {}
        return predictor

    def _spreads(self) -> dict[str, float]:
        names = ("cost_spread", "chip_spread", "group_spread", "noise", "huber")
        return {name: float(getattr(self, name)) for name in names}

    def _hyperparameters(self) -> dict[str, Any]:
        return {**self._spreads(), "bags": self.bags, "calibration_folds": self.calibration_folds}

    def _fitted(self) -> Physics:
        if self._physics is None:
            raise MvigNasError(
                "a LatencyPredictor must be fitted before it predicts, got an empty one; call fit or load"
            )
        return self._physics

    def _fit_rows(self, rows: "_Rows", start: FloatArray | None = None) -> tuple[Physics, Residual]:
        physics = fit_bagged_physics(
            rows.features, rows.log_ms, rows.weights, rows.labels, bags=self.bags, **self._spreads()
        )
        inputs, log_physics = _residual_inputs(physics.parts_ms(rows.features, rows.labels.chips))
        return physics, fit_residual(inputs, rows.log_ms - log_physics, rows.weights, rows.labels, start)

    def _parts(self, features: FloatArray, group: str | None) -> "_Query":
        device = self.device if group is None else device_of(group)
        return _Query.of(self._fitted(), np.asarray(features, dtype=np.float64), device, group)

    def _calibrate(self, rows: "_Rows", start: FloatArray) -> FloatArray:
        """Sorted absolute errors, in predicted standard deviations, of families left out of the fit."""
        names = sorted(set(rows.labels.families))
        if self.calibration_folds < 2 or len(names) < self.calibration_folds:
            return np.zeros(0)
        # deal families of like size round the folds, so that each fold holds some of every size
        names.sort(key=lambda name: (-rows.labels.families.count(name), name))
        errors: list[FloatArray] = []
        for fold in range(self.calibration_folds):
            held_out = set(names[fold :: self.calibration_folds])
            is_out = np.array([family in held_out for family in rows.labels.families])
            physics, residual = self._fit_rows(rows.where(~is_out), start)
            out = rows.where(is_out)
            for place, group in enumerate(out.labels.groups):
                if chip_of(device_of(group)) not in physics.chips:
                    continue
                query = _Query.of(physics, out.features[place : place + 1], device_of(group), group)
                errors.append(np.abs(out.log_ms[place] - query.mean(residual)) / query.deviation(residual))
        return np.sort(np.concatenate(errors)) if errors else np.zeros(0)

    def _quantile(self, coverage: float) -> float:
        count = len(self.calibration_)
        if count < _FEW_ERRORS:
            from scipy.stats import t

            size = max(1.0, float(np.sqrt(np.mean(self.calibration_**2)))) if count else 1.0
            return size * float(t.ppf(0.5 + coverage / 2, count or np.inf))
        return float(np.quantile(self.calibration_, min(1.0, coverage * (count + 1) / count)))


def network_features(networks: Sequence[Sequence[Kernel]]) -> FloatArray:
    """Summed kernel features of each network, shape (n, len(FEATURES))."""
    rows = [kernel_features(network).sum(axis=0) for network in networks]
    return np.array(rows).reshape(len(rows), len(FEATURES))


def device_of(group: str) -> str:
    """`iphone-13` of `laboratory@iphone-13`."""
    laboratory, separator, device = group.rpartition("@")
    if not (laboratory and separator and device):
        raise MvigNasError(f"a group must be laboratory@device, got {group!r}; for example me@iphone-13")
    return device


def chip_of(device: str) -> str:
    """The chip of a known phone; any other device is its own chip."""
    return CHIPS.get(device, device)


@dataclass(frozen=True)
class _Query:
    """Networks as the residual model is asked about them."""

    inputs: FloatArray
    log_physics: FloatArray
    device: str
    group: str | None

    @classmethod
    def of(cls, physics: Physics, features: FloatArray, device: str, group: str | None) -> "_Query":
        parts_ms = physics.parts_ms(features, [chip_of(device)] * len(features))
        return cls(*_residual_inputs(parts_ms), device, group)

    def mean(self, residual: Residual) -> FloatArray:
        return self.log_physics + residual.mean(self.inputs, chip_of(self.device), self.device, self.group)

    def deviation(self, residual: Residual) -> FloatArray:
        return residual.deviation(self.inputs, chip_of(self.device), self.device, self.group)


def _residual_inputs(parts_ms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The network as the residual model sees it, (n, 2 + shares), and the logarithm of its physics, (n,)."""
    total = parts_ms.sum(axis=1)
    shares = [parts_ms[:, 0] / total, *(parts_ms[:, list(columns)].sum(axis=1) / total for columns in _SHARE_COLUMNS)]
    log_total = np.log(total)
    return np.stack([log_total, *(np.sqrt(share) for share in shares)], axis=1), log_total


@dataclass(frozen=True)
class _Rows:
    features: FloatArray
    log_ms: FloatArray
    weights: FloatArray
    labels: Labels

    @classmethod
    def checked(
        cls,
        features: FloatArray,
        latencies_ms: Sequence[float] | FloatArray,
        *,
        groups: Sequence[str] | None,
        weights: Sequence[float] | FloatArray | None,
        families: Sequence[str] | None,
        device: str,
    ) -> "_Rows":
        """Rows in an order of their own, so that the order they came in leaves no trace in the sums."""
        count = len(features)
        latencies = np.asarray(latencies_ms, dtype=np.float64)
        trusts = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
        names = [_name(row) for row in features]
        group_names = [f"one@{device}"] * count if groups is None else list(groups)
        family_names = names if families is None else list(families)
        for what, values in (
            ("latencies_ms", latencies), ("weights", trusts), ("groups", group_names), ("families", family_names),
        ):  # fmt: skip
            if len(values) != count:
                raise MvigNasError(f"`{what}` must have one entry a network, got {len(values)} for {count} networks")
        if count < 2:
            raise MvigNasError(f"fit needs at least 2 measured networks, got {count}; measure more")
        for what, numbers in (("latencies_ms", latencies), ("weights", trusts)):
            bad = numbers[~(np.isfinite(numbers) & (numbers > 0))]
            if bad.size:
                raise MvigNasError(f"`{what}` must be positive and finite, got {bad[0]}; drop the row")
        devices = [device_of(group) for group in group_names]
        if chip_of(device) not in {chip_of(name) for name in devices}:
            raise MvigNasError(
                f"some measurement must be of {device!r} or of a phone with its chip, got only "
                f"{', '.join(sorted(set(devices)))}; name one of them as device"
            )
        order = sorted(range(count), key=lambda row: (names[row], group_names[row], latencies[row], trusts[row]))
        pick = np.array(order)
        return cls(
            np.asarray(features, dtype=np.float64)[pick],
            np.log(latencies[pick]),
            trusts[pick],
            Labels(
                chips=tuple(chip_of(devices[row]) for row in order),
                devices=tuple(devices[row] for row in order),
                groups=tuple(group_names[row] for row in order),
                families=tuple(family_names[row] for row in order),
                networks=tuple(names[row] for row in order),
            ),
        )

    def where(self, mask: Any) -> "_Rows":
        places = np.flatnonzero(mask)
        labels = {name: tuple(values[place] for place in places) for name, values in asdict(self.labels).items()}
        return _Rows(self.features[places], self.log_ms[places], self.weights[places], Labels(**labels))


def _name(row: FloatArray) -> str:
    """Equal networks have equal features, and nothing else tells them apart here."""
    from hashlib import sha256

    return sha256(np.round(row, 9).tobytes()).hexdigest()[:16]
