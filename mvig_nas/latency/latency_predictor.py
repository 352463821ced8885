"""LatencyPredictor: kernel lists in, milliseconds with an interval out."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from mvig_nas.errors import MvigNasError
from mvig_nas.files import make_folder, read_arrays, save
from mvig_nas.kernels import Kernel
from mvig_nas.latency.description import SCHEMA_VERSION, Description
from mvig_nas.latency.features import FEATURES, FloatArray, network_features
from mvig_nas.latency.latency_model import LatencyModel
from mvig_nas.latency.new_chip import NewChipModel, move_to_chip
from mvig_nas.latency.own_device import OwnDeviceModel, fit_own_device
from mvig_nas.latency.pooled import PooledModel, PooledSettings, fit_pooled
from mvig_nas.latency.rows import Rows, checked_rows
from mvig_nas.values import plain

WILD = 4.0  # robust deviations, beyond which a row is reported
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

    It delegates to one of two models. `fit` makes a pooled one (`pooled.py`): several devices and laboratories are
    fitted together, devices of one chip share costs, each (laboratory, device) has its own constant factor, and a
    prediction is for `device` as an unknown laboratory would measure it, or as `group` would where one is named.
    `fit_device` makes a model of exactly one device instead (`own_device.py`).

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
        interval_scale_: factor of the intervals' width, in log, if the one who fitted found one; forgotten likewise.
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
        self._settings()  # refuses values that are out of range
        self._model: LatencyModel | None = None

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
        rows = checked_rows(
            features, latencies_ms, groups=groups, weights=weights, families=families, device=self.device
        )
        model, calibration = fit_pooled(rows, self.device, self._settings())
        counts = {name: rows.devices.count(name) for name in sorted(set(rows.devices))}
        self._set(model, calibration, counts, {})
        return self

    def fit_rows(self, rows: Rows) -> Self:
        """`fit` to rows of several laboratories."""
        return self.fit_from_features(
            rows.features, rows.latencies_ms, rows.groups, weights=rows.weights, families=rows.families
        )

    def predict_ms(self, networks: Sequence[Sequence[Kernel]], group: str | None = None) -> FloatArray:
        """Milliseconds, shape (n,). `group` names a laboratory whose constant factor is wanted."""
        return self.predict_from_features_ms(self.network_features(networks), group)

    def kernel_features(self, kernels: Sequence[Kernel]) -> FloatArray:
        """One row for each kernel as this predictor sees it; their sum is the network's. Shape (len(kernels), F + S).

        The first F are those of `latency.kernel_features`. A predictor fitted to one device adds a column for each of
        the S sorts of kernels that it measured.
        """
        return self._fitted().kernel_features(kernels)

    def network_features(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Summed `kernel_features` of each network, shape (n, F + S)."""
        width = self.kernel_features(()).shape[1]
        rows = [self.kernel_features(network).sum(axis=0) for network in networks]
        return np.array(rows).reshape(len(rows), width)

    def predict_from_features_ms(self, features: FloatArray, group: str | None = None) -> FloatArray:
        """Milliseconds from summed features, shape (n,).

        Args:
            features: of `network_features` of this predictor, or the first F of them, (n, F): then what it knows of
                single sorts of kernels is left aside.
            group: names a laboratory whose constant factor is wanted.
        """
        return np.exp(self._fitted().mean(np.asarray(features, dtype=np.float64), group))

    def interval_ms(
        self, networks: Sequence[Sequence[Kernel]], coverage: float = 0.8, group: str | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Lower and upper milliseconds that hold a measurement with probability `coverage`, shape (n,) each.

        The spread counts a family never seen, the noise, and (without a `group`) a laboratory never seen; its width is
        calibrated on families left out of the fit.
        """
        return self.interval_from_features_ms(self.network_features(networks), coverage, group)

    def interval_from_features_ms(
        self, features: FloatArray, coverage: float = 0.8, group: str | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """`interval_ms` from summed kernel features."""
        if not 0 < coverage < 1:
            raise MvigNasError(f"`coverage` must be in (0, 1), got {coverage}; 0.8 is usual")
        model, features = self._fitted(), np.asarray(features, dtype=np.float64)
        mean, deviation = model.mean(features, group), model.deviation(features, group)
        reach = deviation * (self._quantile(coverage) * self.interval_scale_)
        return np.exp(mean - reach), np.exp(mean + reach)

    def covariance_from_features(self, features: FloatArray) -> FloatArray:
        """Covariance of log t between networks of summed kernel features: what is open about them. Shape (n, n).

        For a predictor fitted to one device, what its rows leave open. For another, what a fit to one device that
        starts from it (`fit_device`) does not know before its first row.
        """
        return self._fitted().covariance(np.asarray(features, dtype=np.float64))

    def explain_ms(self, network: Sequence[Kernel]) -> Explanation:
        """Which kernels the milliseconds go to; the parts sum to the prediction."""
        costs = self.costs_ms
        rows = self.kernel_features(network)
        by_kernel = rows[:, : len(FEATURES)] @ costs[1:]
        factor = self.predict_from_features_ms(rows.sum(axis=0)[None])[0] / (by_kernel.sum() + costs[0])
        return Explanation(by_kernel * factor, float(costs[0] * factor))

    @property
    def costs_ms(self) -> FloatArray:
        """Milliseconds of the fixed cost and of a unit of each feature, before what corrects them. Shape (1 + F,)."""
        return self._fitted().costs_ms

    @property
    def fit_summary(self) -> dict[str, Any]:
        """What a fit to one device began with and how far it moved; empty for a fit of several devices."""
        return {} if self._model is None else self._model.summary

    def outside(self, networks: Sequence[Sequence[Kernel]]) -> list[list[str]]:
        """Why each network is unlike all that were measured, one line a reason; none where its prediction has support.

        A fit that starts from another predictor shares its support.
        """
        return [list(self.reasons_outside(network).values()) for network in networks]

    def reasons_outside(self, network: Sequence[Kernel]) -> dict[str, str]:
        """`outside` for one network, each reason with a name by which another predictor can be asked for it."""
        return self._fitted().reasons(network, self.network_features([network]))

    def for_device(self, device: str) -> Self:
        """The same fit, predicting for another device whose chip was measured."""
        model = self._fitted().for_device(device)
        other = type(self)(device=device, **asdict(self._settings()))
        other._set(model, self.calibration_, self.measurements_, self.errors_)
        return other

    def moved(self, device: str, rows: Rows, generations: int = 1) -> Self:
        """This pooled fit for a phone whose chip it never saw, moved by few published rows of that chip.

        Args:
            device: the phone.
            rows: measurements of the chip, from none; a few give its costs and their laboratories a factor.
            generations: of chips, from the one that this predictor is aimed at. More make the interval wider.

        Raises:
            MvigNasError: this is a fit to one device, which `fit_device` starts from instead.
        """
        model = self._fitted()
        if not isinstance(model, PooledModel):
            raise MvigNasError(
                f"a fit of several laboratories must be moved, got one of {self.device!r} alone; start a fit from it."
            )
        other = type(self)(device=device, **asdict(self._settings()))
        other._set(move_to_chip(model, device, rows, generations), self.calibration_, {device: len(rows.networks)}, {})
        return other

    @property
    def few_rows(self) -> int | None:
        """On how many rows a predictor that was moved to a new chip rests; None for any other."""
        model = self._fitted()
        return model.move.rows if isinstance(model, NewChipModel) else None

    def save(self, folder: str | Path) -> None:
        """Write `predictor.json`, `predictor.npz` and a start predictor's `start` into `folder`, made if missing.

        Each file is written whole or not at all, and `load` refuses two that do not belong together.

        Raises:
            MvigNasError: the folder cannot be written.
        """
        model = self._fitted()
        folder = Path(folder)
        make_folder(folder)
        values, arrays = model.to_parts()
        if model.start is not None:
            model.start.save(folder / "start")
        content = io.BytesIO()
        np.savez_compressed(content, **dict[str, Any](calibration=self.calibration_, **arrays))
        description = {
            "schema_version": SCHEMA_VERSION,
            "device": self.device,
            "hyperparameters": plain(self._settings()),
            "measurements": self.measurements_,
            "errors": self.errors_,
            "features": list(FEATURES),
            "chips": list(model.chips),
            "arrays_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
            **({} if self.interval_scale_ == 1 else {"interval_scale": self.interval_scale_}),
            **values,
        }
        save(folder / "predictor.npz", content.getvalue())
        save(folder / "predictor.json", json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            MvigNasError: the folder holds no predictor, or one of a newer schema or of other features.
        """
        folder = Path(folder)
        description = Description.read(folder)
        try:
            arrays, digest = read_arrays(folder / "predictor.npz")
            if description.arrays_sha256 not in (None, digest):
                raise MvigNasError(
                    f"predictor.json and predictor.npz must be of one fit, {folder} holds parts of two; fit it again"
                )
            predictor = cls(device=description.device, **asdict(description.hyperparameters))
            own, start = description.device_fit, None
            model: LatencyModel
            if description.chip_move is not None:
                pooled = PooledModel.from_parts(description.chip_move.base, description.chips, arrays)
                model = NewChipModel(pooled, description.device, description.chip_move)
            elif own is None:
                model = PooledModel.from_parts(description.device, description.chips, arrays)
            else:
                start = None if own.start_from is None else cls.load(folder / "start")
                model = OwnDeviceModel.from_parts(description.device, description.groups, own, arrays, start)
            calibration = arrays["calibration"]
        except (OSError, KeyError, ValueError, TypeError, IndexError, np.linalg.LinAlgError) as error:
            raise MvigNasError(
                f"{folder / 'predictor.npz'} must hold the arrays of a fit, got {error}; fit it again"
            ) from error
        predictor._set(model, calibration, description.measurements, description.errors)
        predictor.interval_scale_ = description.interval_scale
        return predictor

    @classmethod
    def of_model(cls, model: OwnDeviceModel, calibration: FloatArray, rows: int) -> Self:
        """A predictor for one device alone; `fit_device` makes its parts."""
        predictor = cls(device=model.device)
        predictor._set(model, calibration, {model.device: rows}, {})
        return predictor

    def _set(
        self, model: LatencyModel, calibration: FloatArray, measurements: Mapping[str, int], errors: Mapping[str, float]
    ) -> None:
        self._model, self.calibration_, self.groups_ = model, calibration, model.groups
        self.measurements_, self.errors_, self.interval_scale_ = dict(measurements), dict(errors), 1.0

    def _settings(self) -> PooledSettings:
        return PooledSettings(**{field.name: getattr(self, field.name) for field in fields(PooledSettings)})

    def _fitted(self) -> LatencyModel:
        if self._model is None:
            raise MvigNasError(
                "a LatencyPredictor must be fitted before it predicts, got an empty one; call fit or load"
            )
        return self._model

    def _quantile(self, coverage: float) -> float:
        count = len(self.calibration_)
        if count < _FEW_ERRORS:
            from scipy.stats import t

            size = max(1.0, float(np.sqrt(np.mean(self.calibration_**2)))) if count else 1.0
            return size * float(t.ppf(0.5 + coverage / 2, count or np.inf))
        return float(np.quantile(self.calibration_, min(1.0, coverage * (count + 1) / count)))


@dataclass(frozen=True)
class Fitted:
    """A predictor, and how its rows look to a fit without them: n milliseconds, n errors in robust deviations."""

    predictor: LatencyPredictor
    left_out_ms: FloatArray
    standard_errors: FloatArray

    @property
    def wild(self) -> list[int]:
        """Positions of rows that do not fit the others, the wildest first."""
        sizes = np.abs(self.standard_errors)
        return [int(row) for row in np.argsort(-sizes, kind="stable") if sizes[row] > WILD]


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
    fit = fit_own_device(networks, latencies_ms, group, start=start, families=families, seed=seed)
    predictor = LatencyPredictor.of_model(fit.model, fit.calibration, len(networks))
    return Fitted(predictor, fit.left_out_ms, fit.standard_errors)
