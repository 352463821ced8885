"""Optuna's samplers by name: they propose from an in-memory study; what is durable is written elsewhere."""

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseGASampler, BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from mvig_nas.architecture import Architecture
from mvig_nas.search.contracts import FEASIBLE, INFEASIBLE, Candidate, Problem, Verdicts
from mvig_nas.search_space import SearchSpace, Value

NAMES = ("tpe", "nsga2", "gp")
NSGA2_POPULATION = 20  # Optuna's 50 is a single generation at 50 evaluations


class OptunaSampler:
    """One of Optuna's samplers, by name: `tpe`, `nsga2` or `gp`; or any sampler object of Optuna's.

    A named one is made anew for each proposal, seeded from the random numbers handed in, so that nothing hides in it.

    Rejected candidates are told with their violated constraints: to TPE as pruned trials, which have no value; to the
    others, which read complete trials only, with the lowest score so far.
    """

    def __init__(self, problem: Problem, sampler: str | BaseSampler) -> None:
        self.problem = problem
        self.sampler = sampler
        self.reads_pruned = sampler == "tpe" or isinstance(sampler, TPESampler)
        self.generations = NSGAIISampler(population_size=NSGA2_POPULATION) if sampler == "nsga2" else sampler
        self.distributions = _distributions(problem.space)
        logging.getLogger("optuna").setLevel(logging.WARNING)
        self.study = optuna.create_study(directions=["maximize", "minimize"] if problem.front else ["maximize"])
        self.lowest: list[float] = []
        self.complete = 0

    def observe(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            if candidate.state == FEASIBLE:
                self._tell_scored(candidate)
            elif candidate.state == INFEASIBLE:
                self._tell_rejected(candidate)

    def propose(self, rng: random.Random, judge: Verdicts) -> list[Architecture]:  # noqa: ARG002
        if not self.distributions:
            return [self.problem.anchor]
        trials = []
        for _ in range(self.problem.batch):
            self.study.sampler = self._sampler(rng.getrandbits(31))
            trials.append(self.study.ask(self.distributions))
        # what comes of them is told by `observe`, in the architecture's own parameters
        for trial in trials:
            self.study.tell(trial, state=TrialState.FAIL)
        return [self._architecture(trial.params) for trial in trials]

    def _sampler(self, seed: int) -> BaseSampler:
        sampler: BaseSampler
        if isinstance(self.sampler, BaseSampler):
            sampler = self.sampler
        elif self.sampler == "tpe":
            # with constant_liar, proposals of one turn keep apart
            sampler = TPESampler(seed=seed, constant_liar=self.problem.batch > 1)
        elif self.sampler == "nsga2":
            sampler = NSGAIISampler(seed=seed, population_size=NSGA2_POPULATION)
        else:
            sampler = GPSampler(seed=seed)
        return _FixedSpace(sampler, self.distributions)

    def _tell_scored(self, candidate: Candidate) -> None:
        values = _objectives(candidate, self.problem.front)
        lowest = self.lowest or values
        self.lowest = [min(lowest[0], values[0]), *(max(pair) for pair in zip(lowest[1:], values[1:], strict=True))]
        self._add(candidate, TrialState.COMPLETE, values)

    def _tell_rejected(self, candidate: Candidate) -> None:
        if self.reads_pruned:
            self._add(candidate, TrialState.PRUNED, None)
        elif self.lowest:
            self._add(candidate, TrialState.COMPLETE, self.lowest)

    def _add(self, candidate: Candidate, state: TrialState, values: Sequence[float] | None) -> None:
        parameters = self._parameters(candidate.architecture)
        if isinstance(self.generations, BaseGASampler):
            # only a running trial is given its generation
            self.study.enqueue_trial(parameters)
            trial = self.study.ask(self.distributions)
            running = self.study.get_trials(deepcopy=False)[trial.number]
            self.generations.get_trial_generation(self.study, running)
            for name, excess in candidate.violations.items():
                trial.set_constraint(name, excess)
            self.study.tell(trial, values)
            self.complete += 1
            # parents stand in another order the first time they are asked for, which must not be when proposing
            self.generations.get_parent_population(self.study, self.complete // (self.generations.population_size or 1))
            return
        self.study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=values,
                params=parameters,
                distributions=self.distributions,
                constraints=dict(candidate.violations),
            )
        )

    def _architecture(self, parameters: Mapping[str, Value]) -> Architecture:
        values: dict[str, Value] = {}
        for name, choices in self.problem.space.choices.items():
            value = parameters.get(name, choices[0])
            is_rank = isinstance(self.distributions.get(name), IntDistribution)
            values[name] = choices[int(value)] if is_rank else value
        return self.problem.space.decode(values)

    def _parameters(self, architecture: Architecture) -> dict[str, Value]:
        values = self.problem.space.encode(architecture)
        return {
            name: self.problem.space.choices[name].index(values[name])
            if isinstance(distribution, IntDistribution)
            else values[name]
            for name, distribution in self.distributions.items()
        }


class _FixedSpace(BaseSampler):
    """A sampler that knows its parameters, instead of looking for those common to all earlier trials at every turn."""

    def __init__(self, sampler: BaseSampler, distributions: Mapping[str, BaseDistribution]) -> None:
        self._sampler = sampler
        self._distributions = distributions

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)


def _objectives(candidate: Candidate, front: bool) -> list[float]:
    score = candidate.score or 0.0
    return [score, candidate.latency_ms] if front else [score]


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Numbers as their rank among the choices, so that their order tells; names as categories."""
    distributions: dict[str, BaseDistribution] = {}
    for name, choices in space.choices.items():
        if len(choices) > 1:
            is_number = all(isinstance(choice, int) for choice in choices)
            last = len(choices) - 1
            distributions[name] = IntDistribution(0, last) if is_number else CategoricalDistribution(choices)
    return distributions
