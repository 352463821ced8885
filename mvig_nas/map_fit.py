"""Maximum a posteriori fits: terms of a model, as logarithms, that have a normal prior each."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]


def map_fit(
    loss_and_gradient: Callable[[FloatArray], tuple[float, FloatArray]],
    mean: FloatArray,
    deviation: ArrayLike,
    *,
    start: FloatArray | None = None,
    reach: float | None = None,
    steps: int = 40,
) -> FloatArray:
    """Log terms of highest posterior density, found by L-BFGS.

    Args:
        loss_and_gradient: negative log likelihood at given log terms (d,), and its gradient (d,).
        mean: of the prior, (d,).
        deviation: standard deviation of the prior, (d,) or one for all terms.
        start: where the search begins; None for the prior's mean.
        reach: how many deviations a term may leave its mean by; None for any number.
        steps: most iterations.

    Returns:
        The log terms (d,).
    """
    spread = np.broadcast_to(np.asarray(deviation, dtype=np.float64), mean.shape)

    def objective(log_terms: FloatArray) -> tuple[float, FloatArray]:
        loss, gradient = loss_and_gradient(log_terms)
        z = (log_terms - mean) / spread
        return float(loss + 0.5 * z @ z), gradient + z / spread

    bounds = None if reach is None else list(zip(mean - reach * spread, mean + reach * spread, strict=True))
    first = mean if start is None else start
    found = minimize(objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    result: FloatArray = found.x
    return result
