"""The steps of a run, one after the other; each is skipped where its result lies in its folder already."""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mvig_nas import run_folder, values
from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.coreml import ExportOptions, ExportRequest, PackageDetails, export_target, operations
from mvig_nas.coreml.package import SUFFIX
from mvig_nas.errors import MvigNasError
from mvig_nas.files import read_json, save
from mvig_nas.finalists import FinalistsRequest, hold
from mvig_nas.finalists.request import FOLDER as FINALISTS
from mvig_nas.image_data import Preprocessing, is_split, link_usable, read_split, skipped_line, split_images
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.pipeline.planning import HOLD_OUT, RunPlan, RunRequest, Speed, make_plan
from mvig_nas.recipes import Execution, Plan, Sources, load_plan, short_recipe
from mvig_nas.report import preset_rows, write_report
from mvig_nas.report.run_report import run_page
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.search_run import SearchRequest, run_search
from mvig_nas.search.search_settings import SearchSettings
from mvig_nas.search_space import SearchSpace
from mvig_nas.standard_error import standard_error
from mvig_nas.training import RetrainRequest, StopTraining, retrain, train_alone
from mvig_nas.training.checkpoint import FILE as CHECKPOINT
from mvig_nas.training.model_folder import CONFIG, SUBFOLDER, read_model
from mvig_nas.training.teacher import Teacher, absolute_teacher, load_teacher

COMMAND = "run"
PLAN, SUMMARY = "plan.json", "summary.json"
IMAGES, SEARCH, TRAINED = "images", "search", "trained"
_RECIPE = "short"
_MIXUP, _CUTMIX = 0.2, 1.0
_TIMED_STEPS, _TIMED_ANSWERS, _TIMED_IMAGES = 8, 3, 32
_TAUGHT_AS = "small-data"  # the plan whose distillation is taken
_TEACHER_SIDE = 128  # pixels; what results/distillation was made with


@dataclass(frozen=True)
class StepShown:
    """State of a run: `done` of `total` parts of the step called `step`, and `text` of it.

    `counted` says what the parts are, for example "epoch 3/30". A text that `is_news` is worth a line that stays.
    """

    step: str
    done: int
    total: int
    text: str = ""
    counted: str = ""
    is_news: bool = False


@dataclass(frozen=True)
class RunResult:
    """What a run ends with.

    Attributes:
        package: the Core ML package.
        top1: of the trained network on the validation images, a fraction.
        top1_standard_error: by the number of validation images, a fraction.
        val_images: number of validation images.
        latency_ms, interval_ms: predicted at batch 1 on `device`, with the 80 % interval.
        device: the phone.
        classes: that the network tells apart.
        operations: of the package's program.
    """

    package: Path
    top1: float
    top1_standard_error: float
    val_images: int
    latency_ms: float
    interval_ms: tuple[float, float]
    device: str
    classes: tuple[str, ...]
    operations: int


OnStep = Callable[[StepShown], None]


def prepare(request: RunRequest, folder: Path, *, on_step: OnStep | None = None) -> RunPlan:
    """Split the images if they are not, time some training steps, and make the plan; both are kept in the folder.

    Args:
        request: what is asked for.
        folder: of the run; a plan that is there already is kept.
        on_step: called as the work goes on.

    Raises:
        MvigNasError: the images, space or device cannot be read, or the hours are too few.
    """
    if (folder / PLAN).is_file():
        return _saved_plan(folder)
    told = on_step or _silent
    gpu = torch.cuda.is_available()
    space_name = request.space or ("mobilevig" if gpu else "micro")
    space = SearchSpace.load(space_name)
    ArchitectureLatency.load(request.device)
    middle = space.decode({name: choices[len(choices) // 2] for name, choices in space.choices.items()})
    teacher = _teacher(request, middle.resolution, "cuda" if gpu else "cpu")
    data = _split(request, folder, told)
    images = read_split(data, "train")
    told(StepShown("timing", 0, 1, "which tells how long all will take", "some training steps"))
    speed = _speed(middle, images, gpu)
    if teacher is not None:
        speed = replace(speed, taught=_taught_rate(teacher, speed))
    plan = make_plan(request, space_name, len(images), speed)
    save(folder / PLAN, json.dumps(values.plain(plan), indent=1) + "\n")
    return plan


def run(
    request: RunRequest,
    folder: Path,
    *,
    resume: bool = False,
    on_plan: Callable[[RunPlan], None] | None = None,
    on_step: OnStep | None = None,
    command: str = "run",
) -> RunResult:
    """Images to a verified Core ML package.

    Args:
        request: what is asked for; it is kept in the folder.
        folder: of the run; each step has a folder of its own in it.
        resume: go on with the run in the folder.
        on_plan: called once with the plan.
        on_step: called as the work goes on.
        command: the command line that reports show.

    Raises:
        MvigNasError: as every step; the folder holds a run and `resume` is not set, or a run that was asked for
            something else.
        StopTraining: a signal asked to stop; all is saved.
    """
    request = replace(request, teacher=absolute_teacher(request.teacher))
    with run_folder.entered(folder, COMMAND, request, resume, PLAN):
        plan = prepare(request, folder, on_step=on_step)
    if on_plan is not None:
        on_plan(plan)
    steps = _Steps(request, plan, folder, on_step or _silent, command)
    winner = steps.searched()
    if plan.finalists:
        winner = steps.final()
    steps.trained(winner)
    return steps.packaged()


def _split(request: RunRequest, folder: Path, told: OnStep) -> Path:
    if is_split(request.images):
        if not request.skip_bad_images:
            return request.images
        told(StepShown("images", 0, 1, "reading each image once", "all images"))
        if text := skipped_line(link_usable(request.images, folder / IMAGES, folder)):
            told(StepShown("images", 1, 1, text, is_news=True))
        return folder / IMAGES
    made = split_images(
        request.images, folder / IMAGES, on_progress=lambda done, total: told(StepShown("images", done, total))
    )
    if made.unreadable:
        text = f"left out, as they cannot be read: {', '.join(made.unreadable)}"
        told(StepShown("images", 1, 1, text, is_news=True))
    return made.folder


def _speed(middle: Architecture, images: Any, gpu: bool) -> Speed:
    """The training speed of a space's middle architecture, after the first steps, which are slower."""
    execution = Execution(
        torch_device="auto" if gpu else "cpu", channels_last=True, stop_after=_TIMED_STEPS, validate_every=0
    )
    recipe = short_recipe(_RECIPE, 2 * _TIMED_STEPS, 0, len(images))
    with TemporaryDirectory() as scratch:
        ended: list[float] = []  # when each step did, in seconds
        with suppress(StopTraining):
            train_alone(
                middle,
                images,
                recipe,
                Path(scratch) / "run",
                execution=execution,
                on_progress=lambda _: ended.append(time.monotonic()),
            )
    timed = ended[1:]
    rate = (len(timed) - 1) * recipe.batch_size / (timed[-1] - timed[0]) if len(timed) > 1 else 1.0
    return Speed(rate, middle.resolution, "cuda" if gpu else "cpu")


def _teacher(request: RunRequest, resolution: int, device: str) -> Teacher | None:
    """The request's teacher, if it names one, for images of a side in pixels."""
    if request.teacher is None:
        return None
    return load_teacher(
        request.teacher,
        None,
        Preprocessing(),
        checkpoint=request.teacher_checkpoint,
        resolution=_seen_by_teacher(resolution),
        device=device,
    )


def _taught_rate(teacher: Teacher, speed: Speed) -> float:
    """Training images per second where a teacher is asked about each of them."""
    images = torch.zeros(_TIMED_IMAGES, 3, speed.resolution, speed.resolution, device=speed.torch_device)
    seconds = []
    for _ in range(_TIMED_ANSWERS):
        began = time.monotonic()
        teacher(images).cpu()  # waits for a GPU
        seconds.append(time.monotonic() - began)
    return 1 / (1 / speed.images_per_second + min(seconds) / _TIMED_IMAGES)


def _seen_by_teacher(resolution: int) -> int:
    """Side in pixels at which a teacher sees images of a side; small ones are enlarged for it."""
    return max(_TEACHER_SIDE, resolution)


@dataclass(frozen=True)
class _Steps:
    """The steps that follow the plan."""

    request: RunRequest
    plan: RunPlan
    folder: Path
    told: OnStep
    command: str

    @property
    def data(self) -> Path:
        """Where the split images are."""
        is_as_given = is_split(self.request.images) and not self.request.skip_bad_images
        return self.request.images if is_as_given else self.folder / IMAGES

    def searched(self) -> Path:
        """Search by the score; the file of its winner."""
        own = self.folder / SEARCH
        if not (own / "winner.json").is_file():
            asked = SearchRequest(
                space=self.plan.space,
                device=self.request.device,
                classes=len(read_split(self.data, "train").classes),
                score=self.plan.score,
                budget=Budget(latency_ms=self.request.latency_ms),
                settings=SearchSettings(evaluations=self.plan.evaluations, seed=self.request.seed),
            )

            def on_candidate(state: Any) -> None:
                counted = f"network {state.evaluated:,}/{self.plan.evaluations:,}"
                self.told(StepShown("search", state.evaluated, self.plan.evaluations, counted=counted))

            done = run_search(asked, own, resume=(own / run_folder.FILE).is_file(), on_candidate=on_candidate)
            if done.study.winner is None:
                raise MvigNasError(f"no network inside the budget could be scored; the reasons are in {own}.")
            write_report(done, preset_rows(done), self.command)
        return own / "winner.json"

    def final(self) -> Path:
        """Train the finalists; the file of their winner."""
        own = self.folder / SEARCH / FINALISTS
        if not (own / "winner.json").is_file():
            asked = FinalistsRequest(
                self.folder / SEARCH,
                self.data,
                self.plan.finalists,
                _RECIPE,
                self.plan.finalist_epochs,
                HOLD_OUT,
                seed=self.request.seed,
            )
            # one training at a time, so that which are stopped does not depend on which are faster
            cores = 1.0 if self.plan.speed.is_gpu else float(os.cpu_count() or 1)
            resources = Resources(trainings=1, cpus=cores, gpus=float(self.plan.speed.is_gpu), in_memory=True)
            epochs: dict[str, int] = {}

            def on_progress(state: Any) -> None:
                epochs[state.fingerprint] = state.epoch
                text = f"{state.done} of {state.total} trainings ended, best top-1 {state.best:.1%}"
                done, total = sum(epochs.values()), state.total * state.epochs
                self.told(StepShown("finalists", done, total, text, f"epoch {done}/{total} of all"))

            hold(asked, resources, resume=(own / run_folder.FILE).is_file(), on_progress=on_progress)
        return own / "winner.json"

    def trained(self, winner: Path) -> None:
        """Train the winner for good."""
        own = self.folder / TRAINED
        if (own / SUBFOLDER / CONFIG).is_file():
            return
        recipe = short_recipe(_RECIPE, self.plan.epochs, self.request.seed, len(read_split(self.data, "train")))
        if self.plan.is_mixing:
            recipe = replace(recipe, mixup=_MIXUP, cutmix=_CUTMIX)
        resume = (own / CHECKPOINT).is_file()
        architecture, plan, sources = Architecture.load(str(winner)), Plan(recipe), Sources()
        if self.request.teacher is not None:
            taught_as = load_plan(_TAUGHT_AS).distillation
            plan = replace(plan, teacher=self.request.teacher, distillation=taught_as)
            sources = Sources(self.request.teacher_checkpoint, _seen_by_teacher(architecture.resolution))
        asked = RetrainRequest(
            architecture,
            self.data,
            plan,
            sources,
            Execution(
                torch_device="auto" if self.plan.speed.is_gpu else "cpu",
                channels_last=True,
                in_memory=True,
                checkpoint_minutes=1.0,
                resume=resume,
            ),
        )
        if not resume:
            shutil.rmtree(own, ignore_errors=True)  # of a training that was killed before its first checkpoint

        def on_progress(progress: Any) -> None:
            message = progress.message
            text = message or progress.pace
            shown = StepShown("retrain", progress.step, progress.steps, text, progress.counted, message is not None)
            self.told(shown)

        retrain(asked, own, on_progress=on_progress)

    def packaged(self) -> RunResult:
        """Write the package, check it and say what came."""
        self.told(StepShown("export", 0, 1, counted="one package"))
        model = read_model(self.folder / TRAINED)
        package = self.folder / f"{self.request.images.resolve().name}{SUFFIX}"
        if not (self.folder / SUMMARY).is_file():
            shutil.rmtree(package, ignore_errors=True)  # one that is there was not finished
            # the name that the user gave the images, which may have been split into a folder of ours
            details = PackageDetails(trained_on=self.request.images.resolve().name, device=self.request.device)
            asked = ExportRequest(package=ExportOptions(details=details))
            export_target(str(self.folder / TRAINED / SUBFOLDER), package, asked)
        architecture = model.network.architecture
        latency = ArchitectureLatency.load(self.request.device, num_classes=len(model.classes))
        low, high = latency.interval_ms([architecture], 0.8)
        top1 = float(model.about["accuracy"]["mean"]["top1"])
        count = len(read_split(self.data, "val"))
        result = RunResult(
            package=package,
            top1=top1,
            top1_standard_error=standard_error(top1, count),
            val_images=count,
            latency_ms=float(latency.predict_ms([architecture])[0]),
            interval_ms=(float(low[0]), float(high[0])),
            device=self.request.device,
            classes=model.classes,
            operations=len(operations(package)),
        )
        self._report(result, architecture, latency)
        save(self.folder / SUMMARY, json.dumps(values.plain(result), indent=1) + "\n")
        self.told(StepShown("export", 1, 1, counted="one package"))
        return result

    def _report(self, result: RunResult, architecture: Architecture, latency: ArchitectureLatency) -> None:
        plan, search = self.plan, self.folder / SEARCH
        asked = {
            "Images": f"{self.request.images}, {len(result.classes)} classes",
            "Latency": f"at most {self.request.latency_ms:g} ms predicted on {self.request.device}",
            "Time": f"{self.request.hours:g} hours at {plan.speed.images_per_second:.0f} training images a second",
            "Search": f"space {plan.space}, {plan.evaluations} {plan.score} scores",
            "Finalists": plan.finalists_told,
            "Training": plan.training,
        }
        pictures = {
            "Score against latency": search / "score_latency.png",
            "Finalists": search / FINALISTS / "learning_curves.png",
        }
        plots = {title: path.read_bytes() for title, path in pictures.items() if path.is_file()}
        text = run_page(asked, vars(result), architecture, latency, plots, command=self.command)
        save(self.folder / "report.html", text)


def _saved_plan(folder: Path) -> RunPlan:
    content = read_json(folder / PLAN, "the plan of a run", "start anew")
    return values.read(RunPlan, content, f"{folder / PLAN}")


def _silent(_: StepShown) -> None:
    """Nobody watches."""
