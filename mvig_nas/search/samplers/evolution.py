"""Evolution as in Once-for-All (arXiv 1908.09791): children that miss the budget are thrown away before any score.

Differs in that the population is small and elitist over the whole history, which is better by far below a thousand
evaluations, and that every loop is bounded.
"""

import random
from collections.abc import Sequence

from mvig_nas.architecture import Architecture
from mvig_nas.search.contracts import Candidate, Problem, Verdicts, sample_fitting
from mvig_nas.search.study import pareto_front

POPULATION = 20  # the first generation, drawn at random
PARENTS = 10
CHILDREN = 10  # a turn
UNIFORM_BATCH = 16
MUTATION_PROBABILITY = 0.1  # per parameter
_ROUNDS_OF_CHILDREN = 20


class Evolution:
    """Proposes children of the best candidates so far, half of them by mutation and half by crossover."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.known: set[Architecture] = set()
        self.scored: list[Candidate] = []

    def observe(self, candidates: Sequence[Candidate]) -> None:
        self.known.update(candidate.architecture for candidate in candidates)
        self.scored.extend(candidate for candidate in candidates if candidate.score is not None)

    def propose(self, rng: random.Random, judge: Verdicts) -> list[Architecture]:
        wanted = max(CHILDREN, self.problem.batch)
        if len(self.scored) < POPULATION:
            return [sample_fitting(self.problem, judge, rng) for _ in range(wanted)]
        parents = [candidate.architecture for candidate in best(self.scored, PARENTS, self.problem.front)]
        found: dict[Architecture, None] = {}
        for _ in range(_ROUNDS_OF_CHILDREN):
            children = [child for child in breed(self.problem, parents, 2 * wanted, rng) if child not in self.known]
            verdicts = judge(children)
            found |= {child: None for child, verdict in zip(children, verdicts, strict=True) if verdict.fits}
            if len(found) >= wanted:
                break
        # nothing new nearby: a fresh start somewhere else
        return list(found)[:wanted] or [sample_fitting(self.problem, judge, rng)]


class Uniform:
    """Proposes architectures with every parameter drawn uniformly."""

    def __init__(self, problem: Problem) -> None:
        self.space = problem.space
        self.batch = max(UNIFORM_BATCH, problem.batch)

    def observe(self, candidates: Sequence[Candidate]) -> None:
        """Learn nothing: the draws do not depend on what was found."""

    def propose(self, rng: random.Random, judge: Verdicts) -> list[Architecture]:  # noqa: ARG002
        return [self.space.sample(rng) for _ in range(self.batch)]


def breed(problem: Problem, parents: Sequence[Architecture], count: int, rng: random.Random) -> list[Architecture]:
    """`count` children, mutated and crossed over in turn."""
    children = []
    for index in range(count):
        child = rng.choice(parents)
        if index % 2:
            child = problem.space.crossover(child, rng.choice(parents), rng)
        children.append(problem.space.mutate(child, rng, MUTATION_PROBABILITY))
    return children


def best(scored: Sequence[Candidate], count: int, front: bool) -> list[Candidate]:
    """The `count` candidates of highest score; with `front`, front after front, the last one thinned."""
    if not front:
        return sorted(scored, key=lambda c: (-c.compared[0], c.compared[1], c.order))[:count]
    rest = list(scored)
    chosen: list[Candidate] = []
    while rest and len(chosen) < count:
        layer = pareto_front(rest)
        numbers = {candidate.number for candidate in layer}
        rest = [candidate for candidate in rest if candidate.number not in numbers]
        missing = count - len(chosen)
        if len(layer) > missing:
            layer = [layer[round(index * (len(layer) - 1) / max(missing - 1, 1))] for index in range(missing)]
        chosen.extend(layer)
    return chosen
