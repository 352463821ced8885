"""What a search is asked for, as values; the command's options come from here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

from mvig_nas import run_folder, values
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.search_space import SearchSpace
from mvig_nas.values import about

SCHEMA = 1
BATCH = 4  # results/search_workers: as good as 1, and two processes have enough to do

SpaceName = Annotated[
    str, about("Search space: a name that `mvig-nas spaces` lists, or a file of your own.", metavar="NAME|FILE.toml")
]
DeviceName = Annotated[
    str,
    about(
        "Phone whose latency is predicted: a name that `mvig-nas devices` lists, or a folder with a fitted predictor.",
        metavar="NAME|FOLDER",
    ),
]
Seed = Annotated[int, about("Seed of all random numbers; the same seed gives the same result.", ge=0, le=2**32 - 1)]

# what may differ when a search is resumed: more of the same
_MAY_DIFFER = ("schema", "versions", "evaluations", "time_limit_s", "candidates_limit", "coverage")


@dataclass(frozen=True)
class SearchSettings:
    """How long a search goes on, who proposes, and what is recorded; the same settings and seed give the same study."""

    TITLE: ClassVar = "Search"

    evaluations: Annotated[
        int, about("Number of scores to compute, those of an earlier, resumed part of the run included.", ge=1)
    ] = 80
    sampler: Annotated[
        str,
        about("Sampler that proposes architectures; `auto` takes the one that finds the best ones.", metavar="NAME"),
    ] = "auto"
    seed: Seed = 0
    front: Annotated[
        bool, about("Trace the whole front of score and latency up to the budget, instead of one winner.")
    ] = False
    batch: (
        Annotated[
            int,
            about(
                "Number of architectures that a turn proposes at least, so that several workers have enough to do; 4, "
                "or twice the workers of Ray, if not given. Another batch is another search, like another seed.",
                ge=1,
            ),
        ]
        | None
    ) = None
    candidates_limit: (
        Annotated[
            int,
            about(
                "Number of recorded candidates, rejected ones included, after which the search ends; 20 for each "
                "evaluation and 1,000 more if not given."
            ),
        ]
        | None
    ) = None
    time_limit_s: (
        Annotated[
            float,
            about(
                "Time after which no further score is begun, e.g. 60s or 2h; there is no limit if not given.",
                flags=("--time-limit",),
                unit="seconds",
                metavar="DURATION",
            ),
        ]
        | None
    ) = None
    coverage: Annotated[
        float,
        about("Probability with which the interval recorded with a candidate holds the true latency.", gt=0, lt=1),
    ] = 0.8
    labels: Annotated[
        Mapping[str, str],
        about("Names and values of what must also be the same when the search is resumed, e.g. the device."),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values.check(self)

    @property
    def most_candidates(self) -> int:
        """The limit of recorded candidates, also where none was asked for."""
        return 20 * self.evaluations + 1000 if self.candidates_limit is None else self.candidates_limit


@dataclass(frozen=True, kw_only=True)
class StudySettings(SearchSettings):
    """What a study was made with: the search's settings, and what they were applied to.

    `sampler` is the one that ran, also where `auto` was asked for; `score` is a name.
    """

    space: SearchSpace
    score: str
    budget: Budget
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"schema": SCHEMA, **vars(self), "space": self.space.to_dict(), "budget": asdict(self.budget)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StudySettings":
        """Settings from `to_dict`'s values.

        Raises:
            MvigNasError: of a newer schema, or not settings.
        """
        schema = values.get("schema")
        if not isinstance(schema, int) or schema > SCHEMA:
            raise MvigNasError(f"study schema must be at most {SCHEMA}, got {schema!r}, of a newer mvig-nas: upgrade.")
        # the first studies had no batches
        rest = {"batch": 1} | {name: value for name, value in values.items() if name != "schema"}
        try:
            rest |= {"space": SearchSpace.from_dict(rest["space"]), "budget": Budget.from_dict(rest["budget"])}
            return cls(**rest)
        except (AttributeError, KeyError, TypeError) as error:
            raise MvigNasError(
                f"a study's settings must be as a search wrote them, got {error}; start anew."
            ) from error

    def require_same(self, asked: "StudySettings") -> None:
        """Refuse to go on under other settings than these.

        Raises:
            MvigNasError: names the first setting that differs, and both values.
        """
        mine, theirs = ({**each.to_dict(), "space": dict(each.space.choices)} for each in (self, asked))
        run_folder.require_same(mine, theirs, _MAY_DIFFER)
