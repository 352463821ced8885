"""What a `LatencyPredictor` delegates to: the one protocol of its models."""

from collections.abc import Sequence
from typing import Any, Protocol

from mvig_nas.kernels import Kernel
from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.own_device import StartPredictor


class LatencyModel(Protocol):
    """What a predictor delegates to: log t on one device.

    Features are summed by network, shape (n, F), or (n, F + S) where the model tells S sorts of kernels apart.
    """

    @property
    def start(self) -> StartPredictor | None:
        """The predictor that the fit starts from, kept beside it."""

    @property
    def chips(self) -> tuple[str, ...]:
        """The chips that were measured."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The (laboratory, device) labels seen."""

    @property
    def costs_ms(self) -> FloatArray:
        """Milliseconds of the fixed cost and of a unit of each feature, shape (1 + F,)."""

    @property
    def summary(self) -> dict[str, Any]:
        """What the fit began with and how far it moved."""

    def kernel_features(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Features of each kernel as this model sees it; their sum is the network's. Shape (len(kernels), F + S)."""

    def mean(self, features: FloatArray, group: str | None = None, /) -> FloatArray:
        """Expected log t, shape (n,), as `group` would measure it where one is named."""

    def deviation(self, features: FloatArray, group: str | None = None, /) -> FloatArray:
        """Standard deviation of a measurement's log t, shape (n,)."""

    def covariance(self, features: FloatArray) -> FloatArray:
        """What is open about log t, shape (n, n), without a measurement's noise."""

    def reasons(self, network: Sequence[Kernel], features: FloatArray) -> dict[str, str]:
        """Why the network, of features (1, F), is unlike all that were measured, by name of the reason."""

    def for_device(self, device: str) -> "LatencyModel":
        """The same fit for another device, refused where it does not hold there."""

    def to_parts(self) -> tuple[dict[str, Any], dict[str, FloatArray]]:
        """Values for `predictor.json`, and arrays for `predictor.npz`."""
