"""A device's model together with what it stands on: the start predictor, and what its rows were like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mvig_nas.kernels import Kernel
from mvig_nas.latency.device_model import TERMS, DeviceModel, start_of
from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.support import Support, kind_shares, reasons

if TYPE_CHECKING:
    from mvig_nas.latency.predictor import LatencyPredictor

_ARRAYS = ("costs_ms", "share_costs_ms", "log_terms", "inputs", "slopes", "residuals", "shifts", "weights")


@dataclass(frozen=True)
class DeviceFit:
    """Predicts log t; `start` is None for a fit from scratch."""

    model: DeviceModel
    start: "LatencyPredictor | None"
    kinds: frozenset[str]

    def mean(self, features: FloatArray) -> FloatArray:
        """Expected log t, shape (n,)."""
        return self.model.mean(features, knowledge_beyond_costs(self.start, features))

    def deviation(self, features: FloatArray) -> FloatArray:
        """Standard deviation of a measurement's log t, shape (n,)."""
        return self.model.deviation(features, knowledge_beyond_costs(self.start, features))

    def covariance(self, features: FloatArray) -> FloatArray:
        """Covariance of log t between networks that its rows leave, shape (n, n)."""
        return self.model.covariance(features, knowledge_beyond_costs(self.start, features))

    def outside(self, network: Sequence[Kernel], features: FloatArray) -> dict[str, str]:
        """`_support.reasons` of one network, of summed features (1, F)."""
        return reasons(
            Support(self.model.inputs, self.kinds),
            self.model.network_inputs(features)[0],
            float(self.model.novelty(features)[0]),
            kind_shares(network, self.model.costs_ms),
        )

    @property
    def summary(self) -> dict[str, Any]:
        """The start, and the sizes of what may depart from it."""
        return {
            "start": self.model.start,
            "start_from": None if self.start is None else self.start.device,
            "gain": self.model.gain,
            "terms": dict(zip(TERMS, np.exp(self.model.log_terms).tolist(), strict=True)),
        }

    def to_parts(self) -> tuple[dict[str, Any], dict[str, FloatArray]]:
        """Values for JSON, and arrays; the start is kept apart."""
        values = {**self.summary, "kinds": sorted(self.kinds)}
        return values, {name: getattr(self.model, name) for name in _ARRAYS}

    @classmethod
    def from_parts(
        cls, values: Mapping[str, Any], arrays: Mapping[str, FloatArray], start: "LatencyPredictor | None"
    ) -> "DeviceFit":
        """What `to_parts` gave."""
        model = DeviceModel(start=values["start"], gain=values["gain"], **{name: arrays[name] for name in _ARRAYS})
        return cls(model, start, frozenset(values["kinds"]))


def knowledge_beyond_costs(start: "LatencyPredictor | None", features: FloatArray) -> FloatArray:
    """Log of the start's prediction over the sum of its costs, shape (n,); zeros without a start."""
    if start is None:
        return np.zeros(len(features))
    costs_ms = start_of(start.costs_ms).costs_ms
    beyond: FloatArray = np.log(start.predict_from_features_ms(features)) - np.log(
        features @ costs_ms[1:] + costs_ms[0]
    )
    return beyond
