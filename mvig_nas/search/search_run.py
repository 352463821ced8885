"""A whole search by names: a space, a device, a score and a budget become a run folder. `mvig-nas search` is this."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from mvig_nas import run_folder, scores
from mvig_nas.architecture import FAMILY_PRESETS, PRESETS, STRIDE, Architecture
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.futures import usable_cores
from mvig_nas.recipes import short_recipe
from mvig_nas.search.contracts import STUDY_FILE, Evaluator, Progress
from mvig_nas.search.evaluators.local import LocalEvaluator
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.loop import search
from mvig_nas.search.search_settings import BATCH, DeviceName, SearchSettings, SpaceName
from mvig_nas.search.study import Study
from mvig_nas.search_space import SearchSpace
from mvig_nas.shipped import DEFAULT_DEVICE
from mvig_nas.values import about, check

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search.evaluators.short_training import Trainings
    from mvig_nas.search.evaluators.tune_trainings import TrainingProgress

COMMAND = "search"
TRAININGS = "trainings"  # in the run folder, where the score is a training
_PROPOSALS_PER_WORKER = 2  # so that few wait for the last of a turn


@dataclass(frozen=True)
class WorkerOptions:
    """How several processes, or the workers of Ray, compute scores; all but `workers` is for Ray."""

    TITLE: ClassVar = "Workers"

    address: (
        Annotated[
            str,
            about(
                "Address of the head of a Ray cluster that this machine is in, for --evaluator ray; Ray is started on "
                "this machine if it is not given.",
                metavar="auto|HOST:PORT",
            ),
        ]
        | None
    ) = None
    workers: (
        Annotated[
            int,
            about(
                "Number of scores computed at once, each by a process with one thread. If not given, there are as many "
                "as the machine has cores, but no more than a turn has proposals and 1 on a GPU; with --evaluator ray, "
                "as many as the cluster has room for.",
                ge=1,
            ),
        ]
        | None
    ) = None
    cpus_per_worker: Annotated[float, about("CPUs that each worker of Ray takes of its node.", gt=0)] = 1.0
    gpus_per_worker: Annotated[
        float, about("GPUs that each worker of Ray takes of its node; may be a fraction.", ge=0)
    ] = 0.0
    evaluation_timeout_s: (
        Annotated[
            float,
            about(
                "Time after which a worker of Ray gives a score up, e.g. 10min; never if not given.",
                gt=0,
                flags=("--evaluation-timeout",),
                unit="seconds",
                metavar="DURATION",
            ),
        ]
        | None
    ) = None


@dataclass(frozen=True)
class SearchRequest:
    """What is searched, for which device, by which score and under which budget."""

    MAY_DIFFER: ClassVar = ("evaluator", "ray", "settings.evaluations", "settings.time_limit_s", "max_epochs")

    space: SpaceName = "mobilevig"
    device: DeviceName = DEFAULT_DEVICE
    score: Annotated[
        str,
        about(
            "Score that is maximised: a training-free proxy (`mvig-nas docs scores` has them), supernet:PATH, "
            "calibrated:FOLDER, or train:PLAN, which trains every candidate briefly on Ray.",
            metavar="NAME",
        ),
    ] = scores.DEFAULT
    data: (
        Annotated[
            Path,
            about(
                "Folder of the images that the supernet of the score was trained on, and that candidates of "
                "train:PLAN and finalists are trained on.",
                metavar="FOLDER",
            ),
        ]
        | None
    ) = None
    max_epochs: (
        Annotated[
            int,
            about(
                "Epochs of a training of --score train:PLAN or of a finalist; if not given, those of the plan, which "
                "for finalists is `short`.",
                ge=1,
            ),
        ]
        | None
    ) = None
    skip_bad_images: Annotated[
        bool,
        about(
            "Read every image of --data once before the start, leave out those that cannot be read, and list them in "
            "skipped_images.json; if not given, the first of them is named and refused."
        ),
    ] = False
    evaluator: Annotated[
        Literal["local", "ray"],
        about("Scores are computed on this machine, or by the workers of Ray (`mvig-nas docs cluster`)."),
    ] = "local"
    budget: Budget = field(default_factory=Budget)
    settings: SearchSettings = field(default_factory=SearchSettings)
    ray: WorkerOptions = field(default_factory=WorkerOptions)
    classes: Annotated[
        int, about("Classes that the network will tell apart; its last layer counts in latency and size.", ge=1)
    ] = 1000
    task: Annotated[
        Literal["classify", "features"],
        about(
            "What the budget counts: the classifier at its own size, or the backbone of a detector or segmenter, which "
            "is the network without classifier at --resolution."
        ),
    ] = "classify"
    resolution: (
        Annotated[
            int,
            about("Width of the images of --task features in pixels, a multiple of 32, e.g. 512.", ge=32),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        check(self)
        if (self.task == "features") != (self.resolution is not None):
            raise MvigNasError(
                f"--task features must come with --resolution, and --resolution with it, got --task {self.task} and "
                f"{'no resolution' if self.resolution is None else f'--resolution {self.resolution}'}; give both, or "
                "leave both out."
            )
        if self.resolution is not None and self.resolution % STRIDE:
            raise MvigNasError(
                f"--resolution must be a multiple of {STRIDE} pixels, as the coarsest map has one for as many, got "
                f"{self.resolution}; round it."
            )

    @property
    def name(self) -> str:
        """What a run folder is called after: the space and the budget."""
        target = "front" if self.settings.front else "budget"
        if self.budget.latency_ms is not None:
            target = f"{self.budget.latency_ms:g}ms"
        task = "" if self.resolution is None else f"-{self.task}{self.resolution}"
        return f"{Path(self.space).stem}{task}-{target}"


@dataclass(frozen=True)
class SearchRun:
    """A search that is over, and what it was made with.

    `seconds` is how long this part of it took. `preset_scores` are those of published networks that the search did not
    score itself, for comparison, as far as the score has a value for them.
    """

    study: Study
    latency: "ArchitectureLatency"
    score: scores.Score
    seconds: float
    preset_scores: Mapping[Architecture, float] = field(default_factory=dict)


def saved_request(folder: Path) -> SearchRequest:
    """What the search in a run folder was asked for, but for how long, and who computes its scores.

    Raises:
        MvigNasError: the folder holds no search, or a damaged one.
    """
    if (folder / run_folder.FILE).exists():
        saved = run_folder.reopen(folder, COMMAND, SearchRequest)
        settings = replace(saved.settings, time_limit_s=None)
        return replace(saved, settings=settings, evaluator="local", ray=WorkerOptions())
    # an older mvig-nas kept everything in the study
    kept = Study.load(folder).settings
    return SearchRequest(
        space=kept.space.name,
        device=kept.labels.get("device", DEFAULT_DEVICE),
        score=kept.score,
        data=Path(kept.labels["data"]) if "data" in kept.labels else None,
        budget=kept.budget,
        settings=SearchSettings(kept.evaluations, kept.sampler, kept.seed, kept.front, kept.batch),
    )


def run_search(
    request: SearchRequest,
    folder: Path,
    *,
    resume: bool = False,
    on_candidate: Callable[[Progress], None] | None = None,
    on_training: Callable[["TrainingProgress"], None] | None = None,
) -> SearchRun:
    """Search as `search` does, into a run folder that can be resumed.

    Args:
        request: what is asked for; it is saved in the folder.
        folder: the run's, which is made if it is missing.
        resume: go on with the search in the folder, also where it was killed before it had recorded anything.
        on_candidate: called after each new candidate.
        on_training: called after every epoch of every training of the score `train:PLAN`.

    Raises:
        MvigNasError: something named in the request is missing or wrong, the request differs from the resumed one, or
            as `search`.
    """
    from mvig_nas.latency import ArchitectureLatency

    began = time.monotonic()
    asked = request.settings
    with run_folder.entered(folder, COMMAND, request, resume, STUDY_FILE) as goes_on:
        earlier = Study.load(folder) if goes_on else None
        space = SearchSpace.load(request.space) if earlier is None else earlier.settings.space
        latency = ArchitectureLatency.load(
            request.device, num_classes=request.classes, backbone_side=request.resolution
        )
        skipping_in = folder if request.skip_bad_images else None
        score = scores.load(request.score, seed=asked.seed, data=request.data, space=space, skipping_in=skipping_in)
        labels = {"device": request.device} | ({} if request.data is None else {"data": str(request.data)})
        if request.resolution is not None:
            labels |= {"task": request.task, "resolution": str(request.resolution)}
        trainings = None
        if request.score.startswith(scores.TRAIN):
            trainings = _trainings(request, score, folder)
            # a plan's name says nothing of what is in it
            labels |= {"recipe": sha256(repr(trainings.recipe).encode()).hexdigest()[:16]}
        if resume:
            run_folder.rewrite(folder, COMMAND, request)
        with ExitStack() as opened:
            if trainings is None:
                evaluator, proposals = opened.enter_context(_evaluator(request, score))
            else:
                known = () if earlier is None else tuple(c.fingerprint for c in earlier.candidates if c.is_evaluated)
                evaluator, proposals = opened.enter_context(_training(request, trainings, known, on_training))
            study = search(
                space,
                score,
                latency,
                request.budget,
                folder=folder,
                resume=goes_on,
                evaluator=evaluator,
                on_candidate=on_candidate,
                **vars(asked) | {"batch": asked.batch or (None if goes_on else proposals), "labels": labels},
            )
            preset_scores = {}
            if trainings is None:
                scored = {each.architecture for each in study.candidates if each.score is not None}
                others = [each for each in compared_presets(space).values() if each not in scored]
                outcomes = (evaluator or LocalEvaluator(score))(others, lambda: False)
                preset_scores = {each.architecture: each.score for each in outcomes if each.score is not None}
        seconds = time.monotonic() - began
        run_folder.conclude(
            folder,
            {"judged": study.judged, "evaluated": study.evaluated, "seconds": round(seconds, 3), "ended": study.ended},
        )
    return SearchRun(study, latency, score, seconds, preset_scores)


def compared_presets(space: SearchSpace) -> dict[str, Architecture]:
    """The published networks that a search is compared with: the MobileViGs, and their successors in the space."""
    return {name: each for name, each in FAMILY_PRESETS.items() if name in PRESETS or each in space}


def _trainings(request: SearchRequest, score: scores.Score, folder: Path) -> "Trainings":
    """How the candidates of the score `train:PLAN` are trained.

    Raises:
        MvigNasError: no such plan, or an option that such a search does not have.
    """
    from mvig_nas.search.evaluators.short_training import Trainings

    if request.ray.evaluation_timeout_s is not None:
        raise MvigNasError(
            "--evaluation-timeout must not come with --score train:PLAN, as a training is stopped by what it reports; "
            "leave it out, and bound trainings by --max-epochs."
        )
    assert isinstance(score, scores.TrainedScore)
    return Trainings(
        score.data.absolute(),
        scores.HOLD_OUT,
        short_recipe(score.plan, request.max_epochs, request.settings.seed, score.images),
        folder.absolute() / TRAININGS,
        None if score.skipping_in is None else score.skipping_in.absolute(),
        threads=max(1, int(request.ray.cpus_per_worker)),
    )


@contextmanager
def _training(
    request: SearchRequest,
    trainings: "Trainings",
    known: tuple[str, ...],
    on_training: Callable[["TrainingProgress"], None] | None,
) -> Iterator[tuple[Evaluator | None, int]]:
    """Who trains the candidates, and how many proposals a turn should have."""
    from mvig_nas.search.evaluators.tune_trainings import TrainingEvaluator

    ray = request.ray
    resources = Resources(ray.address, ray.workers, ray.cpus_per_worker, ray.gpus_per_worker)
    with TrainingEvaluator(request.score, trainings, resources, earlier=known, on_progress=on_training) as evaluator:
        yield evaluator, max(BATCH, evaluator.workers)


@contextmanager
def _evaluator(request: SearchRequest, score: scores.Score) -> Iterator[tuple[Evaluator | None, int]]:
    """Who computes the scores, None for this process, and how many proposals a turn should have for them."""
    if request.evaluator == "local":
        batch = request.settings.batch or BATCH
        workers = request.ray.workers or (min(usable_cores(), batch) if scores.takes_cores(score) else 1)
        if workers == 1:
            yield None, batch
            return
        from mvig_nas.search.evaluators.processes import ProcessEvaluator

        with ProcessEvaluator(score, workers) as processes:
            yield processes, batch
        return
    from mvig_nas.search.evaluators.ray_actors import RayEvaluator

    ray = request.ray
    with RayEvaluator(
        score,
        address=ray.address,
        workers=ray.workers,
        cpus=ray.cpus_per_worker,
        gpus=ray.gpus_per_worker,
        timeout_s=ray.evaluation_timeout_s,
    ) as evaluator:
        yield evaluator, _PROPOSALS_PER_WORKER * evaluator.workers
