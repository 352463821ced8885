"""The samplers by name, and which one `auto` takes."""

from collections.abc import Mapping

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.search.contracts import Problem, Sampler

SAMPLERS: Mapping[str, str] = {
    "surrogate": "evolution whose children a Gaussian process ranks before they are scored",
    "evolution": "small population, mutation and crossover, latency checked first (Once-for-All)",
    "tpe": "Optuna's tree-structured Parzen estimator, constrained",
    "nsga2": "Optuna's NSGA-II",
    "gp": "Optuna's Gaussian process, constrained; seconds per proposal beyond a few hundred evaluations",
    "random": "uniform",
}


def resolve(name: str) -> str:
    """The sampler's name, `auto` replaced by the one that wins results/search_quality, there at every length of search.

    Raises:
        MvigNasError: no sampler of that name.
    """
    if name == "auto":
        return "surrogate"
    if name not in SAMPLERS:
        raise MvigNasError(f"no sampler is called {name!r}; {closest(name, ['auto', *SAMPLERS])}")
    return name


def sampler_of(name: str, problem: Problem) -> Sampler:
    """A new sampler; `name` as `resolve` gives it."""
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
