"""What a teacher brings: trainings with and without one, by share of the images, recipe, budget and seed.

    python -m benchmarks.distillation --data IMAGENETTE --tiny TINY_IMAGENET --teacher-checkpoint FILE

Each training is one of `mvig-nas retrain`, in a folder of its own below results/runs/distillation. Those that are done
are skipped, one that was stopped goes on, and the figures so far are written after each: results/distillation gets
trainings.csv, summary.json and README.md. The trainings come in this order, each step choosing by what those before
have found:

1. a small network at 64 px on 10 %, 25 % and all of Imagenette's training images and on Tiny-ImageNet: the labels
   alone and every recipe below, two seeds; a third one where a recipe is within a point of the labels;
2. the labels and the two best recipes of each data set, four times as many epochs;
3. MobileViG-Ti at 96 px, and the search's winner on all of Imagenette: the labels and the best recipe.

`--only TEXT` trains those whose names hold the text, for example `imagenette-10/` or `-seed0`; it may be given
several times. The figures count all that are done. Data sets of fewer images are walked more often: 10 % three times
and 25 % twice as many epochs.
"""

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
from scipy.stats import t as student_t

from mvig_nas import recipes
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.files import csv_text, save
from mvig_nas.image_data import LabelledImages, read_split, subset
from mvig_nas.recipes import Execution, Plan, Sources
from mvig_nas.search_space import SearchSpace
from mvig_nas.training import RetrainRequest, StopTraining, retrain

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "results" / "runs" / "distillation"
OUT = ROOT / "results" / "distillation"
WINNER = ROOT / "results" / "retrain_imagenette" / "winner.json"
TEACHER = "tf_efficientnet_lite0"
LABELS = "labels"
TRAININGS = "trainings.csv"
READING = "\n## What the figures say\n"
MODEL = Path("model", "config.json")  # in a run folder, once its training is done
SMALL, TI, FOUND = "micro-largest", "mobilevig_ti-96px", "winner-96px"
LONGER = 4  # times the epochs
CLOSE = 1.0  # points within which a third seed is trained
SEEDS, THIRD = (0, 1), 2
CONFIDENCE = 0.95

# entries of the recipe and of the distillation, over those of the plan `short`
RECIPES: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    LABELS: ({}, {}),
    "hard": ({}, {"kind": "hard", "share": 0.5}),
    "soft": ({}, {"kind": "soft", "share": 0.5, "temperature": 2.0}),
    "logits-kl": ({}, {"kind": "logits", "share": 0.5, "temperature": 2.0}),
    # the correlations weigh twice what the labels do in arXiv 2205.10536
    "logits-dist": ({}, {"kind": "logits", "loss": "dist", "share": 0.67, "temperature": 1.0}),
    # at a higher temperature the many unlikely classes count as well; DIST is then weighted by its square
    "dist-t4": ({}, {"kind": "logits", "loss": "dist", "share": 0.67, "temperature": 4.0}),
    "dist-t2z": ({}, {"kind": "logits", "loss": "dist", "share": 0.67, "temperature": 2.0, "standardised": True}),
    # nine times in arXiv 2403.01427
    "standardised": ({}, {"kind": "logits", "standardised": True, "share": 0.9, "temperature": 2.0}),
    "patient": (
        {"mixup": 1.0, "label_smoothing": 0.0},
        {"kind": "logits", "share": 1.0, "temperature": 2.0, "full_detail": True},
    ),
    "unlabelled": ({}, {"kind": "logits", "loss": "dist", "share": 0.67, "temperature": 1.0}),
}


@dataclass(frozen=True)
class Data:
    """A data set, or a share of its training images; the others are there without their labels."""

    name: str
    source: Path
    share: float
    epochs: int  # times those that were asked for

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{100 * self.share:.0f}"


@dataclass(frozen=True)
class Training:
    """One training, told by its folder's name."""

    data: Data
    network: str
    recipe: str
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data.folder_name}/{self.network}-{self.recipe}-{self.epochs}ep-seed{self.seed}"

    @property
    def cell(self) -> tuple[str, str, str, int]:
        return self.data.folder_name, self.network, self.recipe, self.epochs


@dataclass(frozen=True)
class Settings:
    """How all trainings run, and where their files are."""

    runs: Path
    out: Path
    sources: Sources
    execution: Execution
    only: tuple[str, ...]


class Evidence:
    """Top-1, in per cent, and minutes of the trainings that are done.

    A row of each is kept in `trainings.csv` beside the tables, so that it need not be done again where the folder of
    its run is not.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rows: list[dict[str, str]] = []
        self.top1: dict[tuple[str, str, str, int], dict[int, float]] = defaultdict(dict)
        self.minutes: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
        path = settings.out / TRAININGS
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    data = Data(row["data"], Path(), float(row["share_of_images"]), 1)
                    numbers = int(row["epochs"]), int(row["seed"])
                    self._add(Training(data, row["network"], row["recipe"], *numbers), row)

    def train(self, training: Training) -> None:
        """The training if it is wanted and not done; what is known is written anew."""
        if self.has(training):
            return
        folder = self.settings.runs / training.name
        if not (folder / MODEL).is_file():
            if self.settings.only and not any(text in training.name for text in self.settings.only):
                return
            print(training.name, flush=True)
        top1 = self.top1_of(training)
        execution = self.settings.execution
        row = {
            "data": training.data.name,
            "share_of_images": f"{training.data.share:g}",
            "network": training.network,
            "recipe": training.recipe,
            "epochs": str(training.epochs),
            "seed": str(training.seed),
            "top1": f"{100 * top1:.2f}",
            "minutes": f"{_seconds(folder, training) / 60:.1f}",
            "on": f"{execution.torch_device}, {execution.precision}",
        }
        self._add(training, row)
        self.write()

    def top1_of(self, training: Training) -> float:
        """Top-1 of a training, a fraction, from its run folder; it is trained there, or goes on, if it is not done."""
        folder = self.settings.runs / training.name
        if not (folder / MODEL).is_file():
            request = self.request_of(training)
            resume = (folder / "run.json").is_file()
            retrain(replace(request, execution=replace(request.execution, resume=resume)), folder)
        about = json.loads((folder / MODEL).read_text())["mvig_nas"]["about"]
        return float(about["accuracy"]["mean"]["top1"])

    def _add(self, training: Training, row: dict[str, str]) -> None:
        self.rows.append(row)
        self.top1[training.cell][training.seed] = float(row["top1"])
        self.minutes[training.cell].append(float(row["minutes"]))

    def has(self, training: Training) -> bool:
        """Whether the training is done, wherever its images were."""
        return training.seed in self.top1.get(training.cell, {})

    def plan_of(self, training: Training) -> Plan:
        """The training's recipe and distillation."""
        entries, taught = RECIPES[training.recipe]
        changes = {"epochs": training.epochs, "warmup_epochs": min(1, training.epochs - 1), "seed": training.seed}
        taught = {"teacher": "none" if training.recipe == LABELS else TEACHER, **taught}
        return recipes.load_plan("short", {**entries, **changes}, taught)

    def request_of(self, training: Training) -> RetrainRequest:
        """What `retrain` is asked for."""
        plan = self.plan_of(training)
        folder = linked(training.data, self.settings.runs / "data")
        others = folder / "unlabelled" if training.recipe == "unlabelled" else None
        sources = replace(self.settings.sources, unlabelled=others)
        if training.recipe == LABELS:
            sources = Sources()
        elif others is not None:  # as many steps as without them
            epochs = max(1, round(training.epochs * training.data.share))
            plan = replace(plan, recipe=replace(plan.recipe, epochs=epochs, warmup_epochs=min(1, epochs // 5)))
        return RetrainRequest(architecture_of(training.network), folder, plan, sources, self.settings.execution)

    def difference(self, cell: tuple[str, str, str, int]) -> float:
        """Points that a recipe is above the labels, over the seeds that both have; NaN without one."""
        differences = self._differences(cell)
        return mean(differences) if differences else math.nan

    def best(self, data: str, network: str, epochs: int, count: int) -> tuple[str, ...]:
        """The recipes with the highest gain over the labels."""
        gains = {recipe: self.difference((data, network, recipe, epochs)) for recipe in RECIPES if recipe != LABELS}
        known = {recipe: gain for recipe, gain in gains.items() if not math.isnan(gain)}
        return tuple(sorted(known, key=known.__getitem__, reverse=True)[:count])

    def write(self) -> None:
        """trainings.csv, summary.json and README.md, whose last part, `READING`, is written by hand and stays."""
        rows = list(self._rows())
        self.settings.out.mkdir(parents=True, exist_ok=True)
        trainings = sorted(list(row.values()) for row in self.rows)
        save(self.settings.out / TRAININGS, csv_text([list(self.rows[0]), *trainings]))
        save(self.settings.out / "summary.json", json.dumps(rows, indent=1) + "\n")
        page = self.settings.out / "README.md"
        _, mark, read = page.read_text().partition(READING) if page.is_file() else ("", "", "")
        save(page, _page(rows, self._paces()) + mark + read)

    def _differences(self, cell: tuple[str, str, str, int]) -> list[float]:
        data, network, _, epochs = cell
        labels, taught = self.top1.get((data, network, LABELS, epochs), {}), self.top1.get(cell, {})
        return [taught[seed] - labels[seed] for seed in sorted(labels.keys() & taught.keys())]

    def _rows(self) -> Iterator[dict[str, Any]]:
        for cell in sorted(self.top1):
            data, network, recipe, epochs = cell
            differences = self._differences(cell)
            if recipe == LABELS or not differences:
                continue
            labels = self.top1[data, network, LABELS, epochs]
            seeds = sorted(labels.keys() & self.top1[cell].keys())
            half = self._half_width(data, network, len(differences))
            yield {
                "data": data.rpartition("-")[0],
                "share_of_images": int(data.rpartition("-")[2]) / 100,
                "network": network,
                "recipe": recipe,
                "epochs": epochs,
                "seeds": seeds,
                "labels_top1": [round(labels[seed], 2) for seed in seeds],
                "teacher_top1": [round(self.top1[cell][seed], 2) for seed in seeds],
                "difference_points": round(mean(differences), 2),
                "low": None if half is None else round(mean(differences) - half, 2),
                "high": None if half is None else round(mean(differences) + half, 2),
            }

    def _half_width(self, data: str, network: str, count: int) -> float | None:
        """Half of Student's interval, with the seeds' deviation taken over all recipes of a data set and network."""
        squares, freedom = 0.0, 0
        for cell in self.top1:
            differences = self._differences(cell)
            if cell[:2] == (data, network) and cell[2] != LABELS and differences:
                squares += sum((each - mean(differences)) ** 2 for each in differences)
                freedom += len(differences) - 1
        if not freedom:
            return None
        return float(student_t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(squares / freedom / count)

    def _paces(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Data, network, recipe, epochs and median minutes of each cell."""
        for (data, network, recipe, epochs), minutes in sorted(self.minutes.items()):
            yield data, network, recipe, str(epochs), f"{median(minutes):.1f}"


def _seconds(folder: Path, training: Training) -> float:
    """What the training's steps took, from their pace, which a pause does not change."""
    with (folder / "log.csv").open(newline="") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    images = len(read_split(folder_of(training.data, folder.parent.parent / "data"), "train"))
    return training.epochs * images / median(rates)


def folder_of(data: Data, home: Path) -> Path:
    return home / data.folder_name


def linked(data: Data, home: Path) -> Path:
    """A folder of links to the share of the images, and to the others below `unlabelled`."""
    folder = folder_of(data, home)
    if (folder / "whole").exists():
        return folder
    train = read_split(data.source, "train")
    chosen = subset(train, round(data.share * len(train)))
    _link(chosen, folder / "train")
    _link(read_split(data.source, "val"), folder / "val")
    others = set(train.paths) - set(chosen.paths)
    for number, path in enumerate(sorted(others)):
        _link_one(path, folder / "unlabelled" / f"{number:06d}{Path(path).suffix}")
    (folder / "whole").touch()
    return folder


def _link(images: LabelledImages, folder: Path) -> None:
    for path, name in zip(images.paths, images.names, strict=True):
        _link_one(path, folder / name)


def _link_one(path: str, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        os.symlink(os.path.abspath(path), link)


def architecture_of(network: str) -> Architecture:
    """A network by its name in the tables."""
    if network == SMALL:
        return SearchSpace.load("micro").largest
    if network == TI:
        return replace(PRESETS["mobilevig_ti"], resolution=96)
    return replace(Architecture.load(str(WINNER)), resolution=96)


def _page(rows: Iterable[Mapping[str, Any]], paces: Iterable[tuple[str, ...]]) -> str:
    heads = (
        "data",
        "share of images",
        "network",
        "recipe",
        "epochs",
        "seeds",
        "labels' top-1, %",
        "teacher's top-1, %",
    )
    lines = [
        "# What a teacher brings",
        "",
        f"Top-1 on the validation images with {TEACHER} as the teacher less that of the labels alone, with the same",
        "epochs and seeds, in points. `python -m benchmarks.distillation` wrote this page; its text says what the",
        f"recipes are. Intervals are Student's, {CONFIDENCE:.0%}, with the deviation between seeds taken over all",
        "recipes of a data set and network; there is none where each recipe has one seed.",
        "",
        f"| {' | '.join(heads)} | difference | low | high |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for row in rows:
        top1 = (", ".join(f"{each:.2f}" for each in row[name]) for name in ("labels_top1", "teacher_top1"))
        gain = ("" if row[name] is None else f"{row[name]:+.2f}" for name in ("difference_points", "low", "high"))
        cells = [row["data"], f"{row['share_of_images']:.0%}", row["network"], row["recipe"], str(row["epochs"])]
        lines.append(f"| {' | '.join([*cells, ', '.join(map(str, row['seeds'])), *top1, *gain])} |")
    lines += ["", "Minutes that the steps of one training took, the median of the seeds:", ""]
    lines += ["| data | network | recipe | epochs | minutes |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(pace)} |" for pace in paces]
    return "\n".join(lines) + "\n"


def screened(evidence: Evidence, sets: Iterable[Data], epochs: int) -> None:
    """The small network: every recipe and seed, and a third seed where a recipe is close to the labels."""
    for data in sets:
        budget = epochs * data.epochs
        names = [name for name in RECIPES if name != "unlabelled" or data.share < 1]
        for seed in SEEDS:
            for recipe in names:
                evidence.train(Training(data, SMALL, recipe, budget, seed))
        close = [
            recipe
            for recipe in names[1:]
            if abs(evidence.difference((data.folder_name, SMALL, recipe, budget))) < CLOSE
        ]
        third = [Training(data, SMALL, recipe, budget, THIRD) for recipe in names]
        for training in third:
            if training.recipe in close or (close and training.recipe == LABELS) or evidence.has(training):
                evidence.train(training)


def prolonged(evidence: Evidence, sets: Iterable[Data], epochs: int) -> None:
    """The small network: the two best recipes and the labels, with more epochs."""
    for data in sets:
        best = evidence.best(data.folder_name, SMALL, epochs * data.epochs, 2)
        for seed in SEEDS:
            for recipe in ([LABELS] if best else []) + list(best):
                evidence.train(Training(data, SMALL, recipe, LONGER * epochs * data.epochs, seed))


def confirmed(evidence: Evidence, sets: Iterable[Data], epochs: int) -> None:
    """MobileViG-Ti and the search's winner: the best recipe and the labels."""
    for data in sets:
        best = evidence.best(data.folder_name, SMALL, epochs * data.epochs, 1)
        whole = data.name == "imagenette" and data.share == 1
        for network in (TI, FOUND) if whole else (TI,):
            for seed in SEEDS if best else ():
                for recipe in (LABELS, *best):
                    evidence.train(Training(data, network, recipe, epochs * data.epochs, seed))


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Imagenette's folder.")
@click.option("--tiny", type=click.Path(exists=True, path_type=Path), help="Tiny-ImageNet's; left out without it.")
@click.option("--teacher-checkpoint", type=click.Path(exists=True, path_type=Path), help="Weights of the teacher.")
@click.option("--teacher-resolution", type=int, default=128, show_default=True, help="Pixels that the teacher sees.")
@click.option("--epochs", type=int, default=16, show_default=True, help="Epochs of the whole data sets.")
@click.option("--only", multiple=True, help="Text that a training's name must hold; may be given several times.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--home", type=click.Path(path_type=Path), help="Folder for `runs` and `out`, instead of results/.")
def main(data: Path, tiny: Path | None, home: Path | None, epochs: int, only: tuple[str, ...], **how: Any) -> None:
    """Train what is not done, and write the figures; see the module."""
    runs, out = (RUNS, OUT) if home is None else (home / "runs", home / "out")
    sources = Sources(how["teacher_checkpoint"], how["teacher_resolution"], runs / "cache")
    execution = Execution("auto", in_memory=True, channels_last=True, precision=how["precision"], validate_every=0)
    evidence = Evidence(Settings(runs, out, sources, execution, only))
    sets = [Data("imagenette", data, share, longer) for share, longer in ((0.1, 3), (0.25, 2), (1.0, 1))]
    sets += [Data("tiny-imagenet", tiny, 1.0, 1)] if tiny is not None else []
    try:
        for stage in (screened, prolonged, confirmed):
            stage(evidence, sets, epochs)
    except StopTraining as error:
        print(f"{error} Run the same command again to go on.")
        return
    print(f"all is done; see {out}")


if __name__ == "__main__":
    main()
