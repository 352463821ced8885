"""Who proposes: the samplers by name, and which one `auto` takes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.search.contracts import Problem, Sampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

SAMPLERS: Mapping[str, str] = {
    "surrogate": "evolution whose children a Gaussian process ranks before they are scored",
    "evolution": "small population, mutation and crossover, latency checked first (Once-for-All)",
    "tpe": "Optuna's tree-structured Parzen estimator, constrained",
    "nsga2": "Optuna's NSGA-II",
    "gp": "Optuna's Gaussian process, constrained; seconds per proposal beyond a few hundred evaluations",
    "random": "uniform",
}


def resolve(sampler: "str | BaseSampler") -> str:
    """The name of a sampler; for `auto`, of the one that wins in results/search_quality at every length of search.

    A sampler object of Optuna's is named by its class, e.g. `optuna:TPESampler`.

    Raises:
        MvigNasError: no sampler of that name.
    """
    if not isinstance(sampler, str):
        return f"optuna:{type(sampler).__name__}"
    if sampler == "auto":
        return "surrogate"
    if sampler.startswith("optuna:"):
        raise MvigNasError(
            f"a sampler must be given by a name of its own, got {sampler!r}, an object that was given in Python and "
            "cannot be resumed; start anew in another folder."
        )
    if sampler not in SAMPLERS:
        raise MvigNasError(f"no sampler is called {sampler!r}; {closest(sampler, ['auto', *SAMPLERS])}")
    return sampler


def sampler_of(sampler: "str | BaseSampler", problem: Problem) -> Sampler:
    """A new sampler for a problem, by its name or around a sampler object of Optuna's.

    Raises:
        MvigNasError: no sampler of that name.
    """
    name = sampler if not isinstance(sampler, str) else resolve(sampler)
    if name == "surrogate":
        from mvig_nas.search.samplers.surrogate import Surrogate

        return Surrogate(problem)
    if name == "random":
        from mvig_nas.search.samplers.evolution import Uniform

        return Uniform(problem)
    if name == "evolution":
        from mvig_nas.search.samplers.evolution import Evolution

        return Evolution(problem)
    # importing optuna takes a quarter of a second
    from mvig_nas.search.samplers.optuna_samplers import OptunaSampler

    return OptunaSampler(problem, name)
