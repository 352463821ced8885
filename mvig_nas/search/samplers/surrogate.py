"""Evolution inside a model: a Gaussian process ranks the children before any of them is scored.

Judging a latency costs next to nothing and a score may cost minutes, so every turn breeds generations of children that
fit the budget, and only the few of highest expected improvement are proposed. Unlike a constrained Bayesian
optimisation that also has to learn the constraint, what does not fit is never proposed.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from mvig_nas.architecture import Architecture
from mvig_nas.search.contracts import Candidate, FloatArray, Problem, Verdicts, sample_fitting
from mvig_nas.search.samplers.gaussian_process import (
    Features,
    GaussianProcess,
    Hyperparameters,
    Levels,
    centre_and_spread,
    fit,
    log_expected_improvement,
)
from mvig_nas.search_space import SearchSpace

START = 8  # scores drawn at random before there is anything to fit
GENERATIONS = 6
CHILDREN = 300  # a generation, ranked by the model
JUDGED = 150  # of them, held against the budget
PARENTS = 30
FINALISTS = 40
LARGEST_BATCH = 10
EVALUATIONS_PER_PROPOSAL = 25  # one more proposal a turn for so many evaluations
LARGEST_FIT = 500
FOLDS = 5
LARGEST_FOLD_FIT = 250
MUTATION_PROBABILITIES = (0.025, 0.05, 0.1)


@dataclass(frozen=True)
class PredictorError:
    """How well the model foretells the scores of `count` architectures, each from all the others.

    They are those that a search chose to score: mostly good ones, which are harder to tell apart than a random sample.
    """

    mean_absolute_error: float  # in the score's units
    kendall_tau: float  # tau-b of prediction and score
    count: int


def leave_one_out(space: SearchSpace, candidates: Sequence[Candidate]) -> PredictorError | None:
    """The model's own error on the scored candidates of a search, whatever sampler made it; in any order.

    None where that says nothing: fewer than 8 scores, or all scores or all predictions equal.
    """
    # imported here, as a search without a report has no need of it and it takes half a second
    from scipy.stats import kendalltau

    scored = sorted((c for c in candidates if c.score is not None), key=lambda c: c.fingerprint)
    scores = np.array([candidate.score for candidate in scored], dtype=np.float64)
    features = Features(space)
    if len(scores) < START or not features.names:
        return None
    levels = features.levels([candidate.architecture for candidate in scored])
    # A fold's hyper-parameters come from the other folds: fitted to all scores, they know enough of the left-out one to
    # find a tau of 0.3 in pure noise. Fingerprints are hashes, so that folds and first ones are random samples.
    fold = np.arange(len(scores)) % FOLDS
    mean = np.empty_like(scores)
    with threadpool_limits(limits=1):
        for number in range(FOLDS):
            others = np.flatnonzero(fold != number)[:LARGEST_FOLD_FIT]
            given = fit(features, levels[others], scores[others])
            foretold, _ = GaussianProcess(features, levels, scores, given).leave_one_out()
            mean[fold == number] = foretold[fold == number]
    centre, spread = centre_and_spread(scores)
    predicted = centre + spread * mean
    tau = float(kendalltau(predicted, scores).statistic)
    return None if math.isnan(tau) else PredictorError(float(np.abs(predicted - scores).mean()), tau, len(scores))


class Surrogate:
    """Proposes what the model expects the largest improvement of.

    With a front to trace, every turn maximises the score under a latency drawn anew between the fastest and the slowest
    candidate so far.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.features = Features(problem.space)
        self.known: set[Architecture] = set()
        self.scored: list[Candidate] = []
        self.levels: Levels = np.zeros((0, len(self.features.names)), dtype=np.intp)
        self._fitted: tuple[int, Hyperparameters] | None = None

    def observe(self, candidates: Sequence[Candidate]) -> None:
        self.known.update(candidate.architecture for candidate in candidates)
        scored = [candidate for candidate in candidates if candidate.score is not None]
        self.scored.extend(scored)
        self.levels = np.concatenate([self.levels, self.features.levels([c.architecture for c in scored])])

    def propose(self, rng: random.Random, judge: Verdicts) -> list[Architecture]:
        # The matrices are small: a second thread costs more than it brings, and makes sums differ in their last bits.
        with threadpool_limits(limits=1):
            return self._propose(rng, judge)

    def _propose(self, rng: random.Random, judge: Verdicts) -> list[Architecture]:
        if len(self.scored) < START or not self.features.names:
            return self._drawn(rng, judge)
        scores = np.array([candidate.score for candidate in self.scored], dtype=np.float64)
        model = GaussianProcess(self.features, self.levels, scores, self._hyperparameters(scores))
        at_most_ms = self._latency_cap_ms(rng)
        within = [index for index, c in enumerate(self.scored) if c.latency_ms <= at_most_ms]
        # the model's own opinion of them, since a lucky score is no better than its neighbours
        incumbent = float(model.mean(self.levels[within]).max())
        best = np.array(within)[np.argsort(-scores[within], kind="stable")[:PARENTS]]
        finalists = self._breed(self.levels[best], model, incumbent, at_most_ms=at_most_ms, rng=rng, judge=judge)
        if not finalists:
            return self._drawn(rng, judge)
        count = max(self.problem.batch, min(LARGEST_BATCH, len(self.scored) // EVALUATIONS_PER_PROPOSAL))
        return self._batch(model, finalists, incumbent, count)

    def _drawn(self, rng: random.Random, judge: Verdicts) -> list[Architecture]:
        return [sample_fitting(self.problem, judge, rng) for _ in range(self.problem.batch)]

    def _hyperparameters(self, scores: FloatArray) -> Hyperparameters:
        """Hyper-parameters fitted to the first scores, anew in growing steps; the same wherever it was resumed."""
        count = START
        while count + max(4, count // 3) <= min(len(scores), LARGEST_FIT):
            count += max(4, count // 3)
        if self._fitted is None or self._fitted[0] != count:
            self._fitted = (count, fit(self.features, self.levels[:count], scores[:count]))
        return self._fitted[1]

    def _latency_cap_ms(self, rng: random.Random) -> float:
        if not self.problem.front:
            return math.inf
        latencies_ms = [candidate.latency_ms for candidate in self.scored]
        return math.exp(rng.uniform(math.log(min(latencies_ms)), math.log(max(latencies_ms))))

    def _breed(
        self,
        parents: Levels,
        model: GaussianProcess,
        incumbent: float,
        *,
        at_most_ms: float,
        rng: random.Random,
        judge: Verdicts,
    ) -> list[Architecture]:
        """Children that fit, best first, from generations bred by the model's opinion alone."""
        generator = np.random.default_rng(rng.getrandbits(64))
        rank: dict[Architecture, float] = {}
        for _ in range(GENERATIONS):
            children = self._children(parents, generator)
            improvement = log_expected_improvement(*model.mean_and_sd(children), incumbent)
            order = np.argsort(-improvement, kind="stable")
            fresh: dict[Architecture, float] = {}
            for index in order.tolist():
                child = self.features.architecture(children[index])
                if child not in self.known and child not in rank:
                    fresh.setdefault(child, float(improvement[index]))
                if len(fresh) == JUDGED:
                    break
            verdicts = judge(list(fresh))
            for (child, value), verdict in zip(fresh.items(), verdicts, strict=True):
                if verdict.fits and verdict.latency_ms <= at_most_ms:
                    rank[child] = value
            if rank:
                fittest = sorted(rank, key=lambda child: -rank[child])[:PARENTS]
                parents = self.features.levels(fittest)
        return sorted(rank, key=lambda child: -rank[child])[: max(FINALISTS, 2 * self.problem.batch)]

    def _children(self, parents: Levels, generator: np.random.Generator) -> Levels:
        """Parents, the first ones more often, half of them crossed over with another, all mutated: (CHILDREN, D).

        Children that break a constraint of the space are left out, unless all do.
        """
        count, parameters = len(parents), parents.shape[1]
        first = np.minimum(generator.exponential(count / 4, CHILDREN).astype(np.intp), count - 1)
        children = parents[first]
        others = parents[generator.integers(count, size=CHILDREN)]
        crossed = (generator.random((CHILDREN, parameters)) < 0.5) & (np.arange(CHILDREN) % 2 == 1)[:, None]
        children = np.where(crossed, others, children)
        probability = generator.choice(MUTATION_PROBABILITIES, size=(CHILDREN, 1))
        mutated = generator.random((CHILDREN, parameters)) < probability
        # at least one
        mutated[np.arange(CHILDREN), generator.integers(parameters, size=CHILDREN)] = True
        children = np.where(mutated, generator.integers(self.features.counts, size=children.shape), children)
        kept = self.features.keep_constraints(children)
        return children[kept] if kept.any() else children

    def _batch(
        self, model: GaussianProcess, finalists: Sequence[Architecture], incumbent: float, count: int
    ) -> list[Architecture]:
        """The best finalist, then one after the other the best given that those before it are chosen."""
        mean, covariance = model.mean_and_covariance(self.features.levels(finalists))
        chosen: list[int] = []
        for _ in range(min(count, len(finalists))):
            sd = np.sqrt(np.maximum(np.diag(covariance), 1e-9))
            improvement = log_expected_improvement(mean, sd, incumbent)
            improvement[chosen] = -np.inf
            index = int(np.argmax(improvement))
            chosen.append(index)
            along = covariance[:, index] / sd[index]
            covariance = covariance - np.outer(along, along)
        return [finalists[index] for index in chosen]
