"""What a latency predictor has to beat: an additive look-up table, and a support vector machine on aggregates."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix

from mvig_nas.kernels import Kernel
from mvig_nas.latency.features import FloatArray, network_features

_FOLDS = 5
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
        self._places: dict[tuple[Any, ...], int] = {}
        for network in networks:
            for kernel in network:
                self._places.setdefault(_signature(kernel), len(self._places))
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
        places: list[int] = []
        ends = [0]
        for network in networks:
            for signature, count in Counter(_signature(kernel) for kernel in network).items():
                if signature in self._places:
                    counts.append(count)
                    places.append(self._places[signature])
            ends.append(len(places))
        return csr_matrix((counts, places, ends), shape=(len(networks), len(self._places)), dtype=np.float64)


class SupportVectors:
    """Log milliseconds by support vector regression, RBF kernel, on the logarithms of summed kernel features."""

    def fit(self, networks: Sequence[Sequence[Kernel]], latencies_ms: FloatArray) -> Self:
        """Learn from n networks and n milliseconds, the grid searched by cross-validation."""
        from sklearn.model_selection import GridSearchCV, KFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR

        machine = make_pipeline(StandardScaler(), SVR())
        folds = KFold(min(_FOLDS, len(networks)), shuffle=True, random_state=0)
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


def _signature(kernel: Kernel) -> tuple[Any, ...]:
    return kernel.kind, kernel.shape, kernel.kernel_size, kernel.stride, kernel.groups, kernel.macs


def _logs(networks: Sequence[Sequence[Kernel]]) -> FloatArray:
    """Counts, MACs and bytes span orders of magnitude."""
    return np.log1p(1e3 * network_features(networks))


def _ridge_alpha(inputs: Any, targets: FloatArray, weights: FloatArray) -> float:
    """The strength with the least relative error over folds."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold

    parts = list(KFold(min(_FOLDS, len(targets)), shuffle=True, random_state=0).split(targets))

    def loss(alpha: float) -> float:
        total = 0.0
        for train, test in parts:
            model = Ridge(alpha, fit_intercept=False).fit(inputs[train], targets[train], weights[train])
            total += float(weights[test] @ np.abs(model.predict(inputs[test]) - targets[test]) ** 2)
        return total

    return min(_ALPHAS, key=loss)
