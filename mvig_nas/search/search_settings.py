"""What a search is asked for besides its space, score, latency and budget; the command's options come from here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from mvig_nas import values
from mvig_nas.search.contracts import Candidate, Costs
from mvig_nas.values import about

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Progress:
    """Where a search stands, after each new candidate."""

    candidate: Candidate
    best: Candidate | None
    evaluated: int
    evaluations: int
    recorded: int
    judged: int


@dataclass(frozen=True)
class SearchSettings:
    """How long a search goes on, who proposes, and what is recorded; the same settings and seed give the same study."""

    evaluations: Annotated[
        int,
        about("So many scores are computed, those of an earlier, resumed run included; 200 is usual.", ge=1),
    ] = 80
    sampler: Annotated[str, about("The sampler proposes architectures; `auto` takes the one that finds most.")] = "auto"
    seed: Annotated[int, about("The seed of all random numbers; the same seed gives the same study.")] = 0
    front: Annotated[
        bool, about("The whole front of score and latency is traced up to the budget, instead of one winner.")
    ] = False
    batch: Annotated[
        int,
        about(
            "A turn proposes at least so many architectures, so that several workers have enough to do; twice the "
            "number of workers is usual. Another batch is another search.",
            ge=1,
        ),
    ] = 1
    candidates_limit: (
        Annotated[
            int,
            about(
                "The search ends after so many recorded candidates, rejected ones included; 20 for each evaluation and "
                "1,000 more if missing."
            ),
        ]
        | None
    ) = None
    time_limit_s: Annotated[float, about("No score is begun after so many seconds; at any time if missing.")] | None = (
        None
    )
    coverage: Annotated[
        float, about("The latency interval recorded with a candidate holds the true latency with this probability.")
    ] = 0.8
    labels: Annotated[
        Mapping[str, str],
        about("Settings of the caller's that must be the same when resumed, e.g. the device."),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values.check(self)

    @property
    def most_candidates(self) -> int:
        """The limit of recorded candidates, also where none was asked for."""
        return 20 * self.evaluations + 1000 if self.candidates_limit is None else self.candidates_limit


class SearchOptions(TypedDict, total=False):
    """What `search` takes by name: the entries of `SearchSettings`, a sampler object of Optuna's, and three callables.

    `costs` gives parameters, MACs and memory of an architecture, in place of `kernel_costs`; `on_candidate` is called
    after each new candidate.
    """

    evaluations: int
    sampler: "str | BaseSampler"
    seed: int
    front: bool
    batch: int
    candidates_limit: int | None
    time_limit_s: float | None
    coverage: float
    labels: Mapping[str, str]
    costs: Costs
    on_candidate: Callable[[Progress], None] | None


def settings_of(options: SearchOptions) -> SearchSettings:
    """The settings among the options; those that were not given have their defaults.

    Raises:
        MvigNasError: a setting is of the wrong type or out of range.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if name in values.hints(SearchSettings)}
    # an object of Optuna's goes to the search itself
    sampler = given.pop("sampler", "auto")
    return SearchSettings(**given, sampler=sampler if isinstance(sampler, str) else "auto")
