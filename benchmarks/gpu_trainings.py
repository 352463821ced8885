"""The trainings of results/ranking, results/distillation and results/experiments, many at a time on one GPU.

    python -m benchmarks.gpu_trainings list JOBS.json
    python -m benchmarks.gpu_trainings run JOBS.json --data IMAGENETTE --out RUNS --seconds 480

One small network leaves most of a GPU idle, and what it waits for is its images. So as many processes train as there
are cores, and trainings that see the same images (same list, recipe of the images, resolution and seed) share them:
every augmented batch is computed once, into memory that all processes map, as the 8-bit values that timm's transforms
make of it. Else the trainings are the library's own, and leave what they leave anywhere: `ablate --resume`,
`benchmarks.ranking_imagenette` and `benchmarks.distillation` find them done.

What is done when the seconds are over is kept, and the next call goes on with the rest.
"""

import json
import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks import distillation, ranking_imagenette
from mvig_nas.architecture import Architecture
from mvig_nas.experiments import AblateRequest, Experiment, prepare
from mvig_nas.image_data import LabelledImages, TrainingImages, batches, read_split
from mvig_nas.image_data.transforms import read_image
from mvig_nas.ranking import StandAlonePlan, stand_alone, stratified
from mvig_nas.recipes import Execution, Recipe, Sources, short_recipe
from mvig_nas.training import StopTraining, train_supernet
from mvig_nas.training.steps import images_of

EXECUTION = Execution("cuda", channels_last=True, in_memory=True, validate_every=0, checkpoint_minutes=0.5)
ALONE, TAUGHT, SUPERNET, RANKED, FILL = "alone", "taught", "supernet", "ranked", "fill"


@dataclass(frozen=True)
class Job:
    """One training: its kind, the folder below the runs that its own folder is made in, and what is trained."""

    kind: str
    folder: str
    architecture: dict[str, Any] | None = None
    seed: int = 0
    epochs: int | None = None
    plan: str = "small"
    data: str = "imagenette"
    share: float = 1.0  # of the training images, where a teacher is asked
    recipe: str = ""
    network: str = ""

    @property
    def name(self) -> str:
        who = self.network or (self.trained.fingerprint if self.architecture else ranking_imagenette.SPACE)
        return f"{self.folder}/{who} {self.recipe} seed {self.seed}"

    @property
    def trained(self) -> Architecture:
        """What is trained, where it is one network that is given."""
        assert self.architecture is not None
        return Architecture.from_dict(self.architecture)


@dataclass(frozen=True)
class Place:
    """Where images, a teacher's weights, runs and the shared batches are."""

    data: Mapping[str, Path]
    teacher: Path | None
    runs: Path
    batches: Path
    execution: Execution


@dataclass(frozen=True, eq=False)
class Stream:
    """Augmented batches that several trainings share: of these images, in a recipe's way."""

    images: LabelledImages
    recipe: Recipe
    resolution: int
    folder: Path

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    @property
    def key(self) -> str:
        how = self.recipe.preprocessing
        return (
            f"{self.images.digest}-{self.resolution}-{self.recipe.batch_size}-{self.recipe.seed}-"
            f"{'-'.join(map(str, how.crop_scale))}"
        )

    def open(self) -> tuple[np.ndarray, np.ndarray]:
        """Values (epochs, batches, B, 3, R, R) uint8 and targets (epochs, batches, B) int64, mapped."""
        each, side = self.recipe.batch_size, self.resolution
        shape = (self.epochs, len(self.images) // each, each)
        paths = [self.folder / f"{self.key}.{kind}" for kind in ("values", "targets")]
        for path, count in zip(paths, (int(np.prod(shape)) * 3 * side**2, int(np.prod(shape)) * 8), strict=True):
            with path.open("ab") as file:
                file.truncate(max(count, file.tell()))
        return (
            np.memmap(paths[0], np.uint8, "r+", shape=(*shape, 3, side, side)),
            np.memmap(paths[1], np.int64, "r+", shape=shape),
        )

    def fill(self, epoch: int) -> None:
        """Compute an epoch's batches."""
        values, targets = self.open()
        done = self.folder / f"{self.key}.{epoch}.done"
        if done.exists():
            return
        count = values.shape[1]
        mean, std = _mean_and_std(self.recipe, "cpu")
        stream = images_of(self.images, self.recipe, self.resolution, EXECUTION)
        for index, (images, labels) in enumerate(stream.batches(range(epoch * count, (epoch + 1) * count))):
            values[epoch, index] = ((images * std + mean) * 255).round_().to(torch.uint8).numpy()
            targets[epoch, index] = labels.numpy()
        done.touch()

    @property
    def missing(self) -> list[int]:
        """Epochs that are not computed."""
        return [epoch for epoch in range(self.epochs) if not (self.folder / f"{self.key}.{epoch}.done").exists()]

    def is_ready(self) -> bool:
        """Whether all epochs are computed."""
        return not self.missing


@contextmanager
def shared(streams: Mapping[str, Stream], decoded: Mapping[str, Any], device: str) -> Iterator[None]:
    """Inside, training images come from the streams, and files from what is decoded."""
    computed = TrainingImages.batches

    def mapped(self: TrainingImages, numbers: Iterable[int]) -> Iterator[tuple[Tensor, Tensor]]:
        stream = next(each for each in streams.values() if each.key.startswith(_start_of_key(self)))
        values, targets = stream.open()
        mean, std = _mean_and_std(stream.recipe, device)
        for number in numbers:
            place = divmod(number, self.batches_per_epoch)
            images = torch.from_numpy(values[place]).to(device)
            yield images.float().div_(255).sub_(mean).div_(std), torch.from_numpy(np.array(targets[place]))

    TrainingImages.batches = mapped  # type: ignore[method-assign]
    vars(batches)["read_image"] = lambda path: decoded[path] if path in decoded else read_image(path)
    try:
        yield
    finally:
        TrainingImages.batches = computed  # type: ignore[method-assign]
        vars(batches)["read_image"] = read_image


def _start_of_key(images: TrainingImages) -> str:
    """How the key of a training's stream begins."""
    side = images._samples.transform.transforms[0].size[0]  # type: ignore[attr-defined]
    return f"{images.images.digest}-{side}-{images.batch_size}-{images._seed}-"


def _mean_and_std(recipe: Recipe, device: str) -> tuple[Tensor, Tensor]:
    how = recipe.preprocessing
    mean, std = (torch.tensor(each, device=device).view(3, 1, 1) for each in (how.mean, how.std))
    return mean, std


@cache
def _split(data: Path, split: Literal["train", "val"]) -> LabelledImages:
    return read_split(data, split)


@cache
def _held_out_of(data: Path) -> LabelledImages:
    return ranking_imagenette.training_images(data)


def recipe_of(job: Job, place: Place) -> tuple[LabelledImages, Recipe, int]:
    """The images, recipe and resolution that a job's batches follow from."""
    data = place.data[job.data]
    if job.kind == TAUGHT:
        evidence, training = _evidence(place), _taught(job, place)
        folder = distillation.linked(training.data, evidence.settings.runs / "data")
        recipe = evidence.plan_of(training).recipe
        return _split(folder, "train"), recipe, distillation.architecture_of(job.network).resolution
    if job.kind == ALONE:
        images = _split(data, "train")
        return images, short_recipe(job.plan, job.epochs, job.seed, len(images)), job.trained.resolution
    images = _held_out_of(data) if job.data == "imagenette" else _split(data, "train")
    recipe = ranking_imagenette.RECIPE
    recipe = replace(recipe, epochs=job.epochs or recipe.epochs, seed=job.seed)
    side = ranking_imagenette.space().largest.resolution if job.kind == SUPERNET else job.trained.resolution
    return images, recipe, side


def _evidence(place: Place) -> distillation.Evidence:
    runs = place.runs / "distillation"
    sources = Sources(place.teacher, 128)
    return distillation.Evidence(distillation.Settings(runs, runs / "out", sources, place.execution, ()))


def _taught(job: Job, place: Place) -> distillation.Training:
    assert job.epochs is not None
    data = distillation.Data(job.data, place.data[job.data], job.share, 1)
    return distillation.Training(data, job.network, job.recipe, job.epochs, job.seed)


def train(job: Job, place: Place) -> float | None:
    """The job's training, where it is not done; its top-1, a fraction, where it has one."""
    if job.kind == TAUGHT:
        return _evidence(place).top1_of(_taught(job, place))
    images, recipe, _ = recipe_of(job, place)
    folder = place.runs / job.folder
    if job.kind == SUPERNET:
        plan = ranking_imagenette.VARIANTS[ranking_imagenette.MAIN]
        space = ranking_imagenette.space()
        if not (folder / "supernet.safetensors").exists():
            execution = replace(place.execution, resume=(folder / "state.pt").is_file())
            train_supernet(space, images, recipe, folder, plan=plan, execution=execution)
        return None
    alone = StandAlonePlan(images, _split(place.data[job.data], "val"), recipe, (job.seed,), place.execution)
    return stand_alone([job.trained], alone, folder)[0].accuracy


@dataclass(frozen=True, eq=False)
class Known:
    """What all processes know: jobs with the keys of their streams, the streams, places, and decoded images."""

    jobs: Sequence[tuple[Job, str]]
    streams: Mapping[str, Stream]
    place: Place
    decoded: Mapping[str, Any]


def work(tasks: Any, results: Any, known: Known) -> None:
    """One process: fills streams and trains, until there is nothing to do."""
    torch.set_num_threads(1)
    while (task := tasks.get()) is not None:
        kind, which = task
        began = time.monotonic()
        found: float | str | None = None
        try:
            if kind == FILL:
                key, epoch = which
                known.streams[key].fill(epoch)
            else:
                job, key = known.jobs[which]
                while not known.streams[key].is_ready():
                    time.sleep(0.2)
                began = time.monotonic()
                with shared(known.streams, known.decoded, known.place.execution.torch_device):
                    found = train(job, known.place)
        except StopTraining:
            return
        except Exception:
            traceback.print_exc()
            found = "failed"
        results.put((kind, which, found, time.monotonic() - began))


def decoded_of(lists: Iterable[LabelledImages], processes: int) -> dict[str, Any]:
    """Every image of the lists by its path."""
    paths = sorted({path for each in lists for path in each.paths})
    with ThreadPoolExecutor(processes) as pool:
        return dict(zip(paths, pool.map(read_image, paths), strict=True))


@click.group()
def main() -> None:
    """See the module."""


EXPERIMENTS = {
    "operators": 6,
    "with-and-without-graph": 8,
    "fixed-vs-dynamic": 8,
    "svga-vs-knn": 8,
    "activation-and-groups": 8,
    "graph-step": 8,
}
SHARES = {0.1: 48, 0.25: 32, 1.0: 16}  # epochs


def experiment_jobs(name: str, epochs: int, data: Path) -> list[Job]:
    cells = prepare(AblateRequest(Experiment.load(name), data, epochs)).cells
    folder = f"experiments/{name}/trainings"
    return [Job(ALONE, folder, cell.architecture.to_dict(), seed, epochs) for seed in range(3) for cell in cells]


def ranked(count: int) -> tuple[Architecture, ...]:
    return stratified(ranking_imagenette.space(), ranking_imagenette.latency(), count, ranking_imagenette.SEED)


@main.command(name="list")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--networks", default=40)
def list_jobs(path: Path, data: Path, networks: int) -> None:
    """Write all trainings, those that matter most first."""
    chosen = [each.to_dict() for each in ranked(networks)]
    order = sorted(range(networks), key=lambda place: int(f"{place:06b}"[::-1], 2))

    def ranking(
        seed: int, epochs: int | None = None, folder: str = "ranking/alone", data: str = "imagenette"
    ) -> list[Job]:
        return [Job(RANKED, folder, chosen[index], seed, epochs, data=data) for index in order]

    def taught(network: str, share: float, seeds: Sequence[int], recipes: Sequence[str], longer: int = 1) -> list[Job]:
        epochs = longer * SHARES[share]
        return [
            Job(TAUGHT, "distillation", epochs=epochs, seed=seed, share=share, recipe=recipe, network=network)
            for seed in seeds
            for recipe in recipes
        ]

    kinds = ("labels", "dist-t4", "dist-t2z", "logits-dist", "logits-kl", "standardised", "soft", "hard")
    jobs = [
        *taught(distillation.TI, 1.0, (0, 1), kinds[:2], distillation.LONGER),
        *taught(distillation.TI, 1.0, (0, 1), kinds[1:3]),
        Job(SUPERNET, "ranking/sandwich-kl", epochs=ranking_imagenette.SUPERNET_EPOCHS),
        *ranking(1),
        *ranking(0),
        *experiment_jobs("operators", EXPERIMENTS["operators"], data),
        *ranking(2, 2, "ranking/two-epochs"),
        *taught(distillation.SMALL, 0.1, (0, 1, 2), kinds),
        *taught(distillation.SMALL, 0.25, (0, 1, 2), kinds),
        *taught(distillation.SMALL, 1.0, (0, 1), kinds),
        *taught(distillation.TI, 1.0, (2,), kinds[:4]),
    ]
    for name in ("with-and-without-graph", "fixed-vs-dynamic", "svga-vs-knn", "activation-and-groups", "graph-step"):
        jobs += experiment_jobs(name, EXPERIMENTS[name], data)
    jobs += [replace(job, folder="tiny/alone") for job in ranking(0, 8, data="tiny-imagenet")[:16]]
    jobs += [replace(job, data="tiny-imagenet") for job in taught(distillation.SMALL, 1.0, (0, 1), kinds[:2])]
    jobs += [replace(job, folder="tiny/alone") for job in ranking(1, 8, data="tiny-imagenet")[:16]]
    path.write_text(json.dumps([asdict(job) for job in jobs]))
    print(len(jobs))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--tiny", type=click.Path(path_type=Path))
@click.option("--teacher", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--batches", "shared_batches", type=click.Path(path_type=Path), default=Path("/dev/shm/batches"))
@click.option("--seconds", type=float, default=480.0)
@click.option("--processes", type=int, default=os.cpu_count())
@click.option("--device", default="cuda")
@click.option("--channels-last/--channels-first", default=True)
@click.option("--precision", default="float32")
@click.option("--only", default="", help="Text that a job's name holds.")
@click.option("--first", type=int, help="Only the first so many jobs.")
def run(path: Path, data: Path, tiny: Path | None, teacher: Path | None, out: Path, **how: Any) -> None:
    """Train what is not done, until the seconds are over."""
    began = time.monotonic()
    sets = {"imagenette": data} | ({} if tiny is None else {"tiny-imagenet": tiny})
    execution = replace(EXECUTION, torch_device=how["device"], channels_last=how["channels_last"])
    execution = replace(execution, precision=how["precision"])
    place = Place(sets, teacher, out.absolute(), how["shared_batches"], execution)
    place.batches.mkdir(parents=True, exist_ok=True)
    asked = [Job(**values) for values in json.loads(path.read_text())][: how["first"]]
    asked = [job for job in asked if job.data in sets and how["only"] in job.name]
    streams: dict[str, Stream] = {}
    jobs = []
    for job in asked:
        stream = Stream(*recipe_of(job, place), place.batches)
        jobs.append((job, stream.key))
        if stream.key not in streams or streams[stream.key].epochs < stream.epochs:
            streams[stream.key] = stream
    lists = [stream.images for stream in streams.values()] + [_split(each, "val") for each in sets.values()]
    linked = {(job.data, job.share): _taught(job, place).data for job in asked if job.kind == TAUGHT}
    lists += [
        _split(distillation.folder_of(each, place.runs / "distillation" / "data"), "val") for each in linked.values()
    ]
    processes = how["processes"]
    decoded = decoded_of(lists, processes)

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:.0f} s: {text}", flush=True)

    tell(f"{len(jobs)} jobs, {len(streams)} streams, {len(decoded)} images")
    context = multiprocessing.get_context("fork")
    tasks, results = context.Queue(), context.Queue()
    fills = [(key, epoch) for key, stream in streams.items() for epoch in stream.missing]
    for fill in fills:
        tasks.put((FILL, fill))
    for index in range(len(jobs)):
        tasks.put(("train", index))
    for _ in range(processes):
        tasks.put(None)
    given = (tasks, results, Known(jobs, streams, place, decoded))
    workers = [context.Process(target=work, args=given, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    filled, left, images = 0, len(jobs), 0
    while left and time.monotonic() - began < how["seconds"]:
        try:
            kind, which, found, seconds = results.get(timeout=1)
        except queue.Empty:
            continue
        if kind == FILL:
            filled += 1
            if filled == len(fills):
                tell("all images are ready")
            continue
        left -= 1
        stream = streams[jobs[which][1]]
        images += len(stream.images) * (jobs[which][0].epochs or stream.epochs)
        shown = "" if found is None else f"{found:.4f}" if isinstance(found, float) else found
        tell(f"{which} {jobs[which][0].name} {shown} {seconds:.0f} s, {images / 1e6:.2f} M images in all")
    for worker in workers:
        worker.kill()
    tell(f"{left} left")


if __name__ == "__main__":
    main()
