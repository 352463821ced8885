"""Which way of choosing a network pays: top-1 of what each one ends with, at equal cost in training images.

    python -m benchmarks.race --data IMAGENETTE
    python -m benchmarks.race --data IMAGENETTE --score supernet:FOLDER=3600000 --score calibrated:FOLDER=9600000

In the space `micro`, under the predicted latency of a network of MobileViG-Ti's shape. Every contender may have as many
training images pass as `--epochs` walks over the data; what choosing does not use is left for training the chosen
network from scratch, after which it is asked about the whole validation split, which nothing was chosen by:

- `preset-shaped`: nothing is chosen;
- `naswot`: the winner of a search by the training-free proxy;
- `finalists`: the winner, by measured top-1, of the search's 12 finalists (`mvig-nas finalists`);
- `random-asha`: the same with 12 random networks inside the budget instead of the search's best;
- one for each `--score NAME=IMAGES`: the winner of a search by it, which took so many images to make.

All seeds differ in search, trainings and what is held out. What race.json has is not done again, what was stopped goes
on. Runs lie below results/runs/race; results/ranking gets race.json and race.md.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch

from benchmarks.distillation import Data, linked
from benchmarks.ranking_imagenette import DEVICE, PRESET_SHAPED, RECIPE, SPACE, budget_ms, shown
from mvig_nas import finalists
from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.files import save
from mvig_nas.finalists.request import FOLDER, FinalistsRequest
from mvig_nas.image_data import read_split
from mvig_nas.ranking import StandAlonePlan, stand_alone
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.search_run import SearchRequest, run_search
from mvig_nas.search.search_settings import SearchSettings
from mvig_nas.search.study import Study
from mvig_nas.training import Execution

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "results" / "runs" / "race"
OUT = ROOT / "results" / "ranking"
COUNT = 12
PRESET, NASWOT, FINALISTS, RANDOM = "preset-shaped", "naswot", "finalists", "random-asha"


@dataclass(frozen=True)
class Race:
    """What all contenders have in common: images, their cost, and the longest training of a finalist."""

    data: Path
    runs: Path
    epochs: int
    finalist_epochs: int
    scores: Mapping[str, int]  # images that each one took

    @property
    def images(self) -> int:
        return len(read_split(self.data, "train"))


@dataclass(frozen=True)
class Chosen:
    """What a contender trains, and how many training images choosing it took."""

    architecture: Architecture
    spent: int


def searched(race: Race, score: str, seed: int, *, sampler: str = "auto", evaluations: int = 80) -> Path:
    """The folder of a finished search inside the budget."""
    folder = race.runs / f"{sampler}-{score.partition(':')[0]}-seed{seed}"
    request = SearchRequest(
        space=SPACE,
        device=DEVICE,
        score=score,
        data=race.data if ":" in score else None,
        budget=Budget(latency_ms=budget_ms()),
        settings=SearchSettings(evaluations=evaluations, sampler=sampler, seed=seed),
    )
    run_search(request, folder, resume=(folder / "run.json").is_file())
    return folder


def winner_of(folder: Path) -> Architecture:
    """The winner of a search."""
    winner = Study.load(folder).winner
    assert winner is not None
    return winner.architecture


def tried(race: Race, folder: Path, seed: int) -> Chosen:
    """The winner of a search's finalists, and the images that all their trainings saw."""
    request = FinalistsRequest(folder, race.data, COUNT, max_epochs=race.finalist_epochs, seed=seed)
    resume = (folder / FOLDER / "run.json").is_file()
    found = finalists.hold(request, Resources(trainings=1, in_memory=True), resume=resume)
    images = race.images - found.images
    return Chosen(found.winner.architecture, images * sum(row.epochs for row in found.rows))


def chosen(race: Race, by: str, seed: int) -> Chosen:
    """What a contender chooses."""
    if by == PRESET:
        return Chosen(PRESET_SHAPED, 0)
    if by == NASWOT:
        return Chosen(winner_of(searched(race, NASWOT, seed)), 0)
    if by == FINALISTS:
        return tried(race, searched(race, NASWOT, seed), seed)
    if by == RANDOM:
        # by the cost-free score, so that what is chosen among is random
        return tried(race, searched(race, "spectral_gap", seed, sampler="random", evaluations=COUNT), seed)
    return Chosen(winner_of(searched(race, by, seed)), race.scores[by])


def trained(race: Race, network: Chosen, seed: int) -> tuple[float, int]:
    """Top-1 of a network trained with what is left, a fraction, and all images that passed."""
    epochs = max(1, race.epochs - round(network.spent / race.images))
    recipe = replace(RECIPE, epochs=epochs, hold_out=0.0)
    execution = Execution(channels_last=True, checkpoint_minutes=2, in_memory=True, validate_every=0)
    plan = StandAlonePlan(read_split(race.data, "train"), read_split(race.data, "val"), recipe, (seed,), execution)
    folder = race.runs / "trained" / f"{epochs}ep"
    found = stand_alone([network.architecture], plan, folder, on_progress=lambda _, at: shown(folder.name, at))[0]
    return found.accuracy, network.spent + epochs * race.images


def known() -> dict[str, list[dict[str, Any]]]:
    """What race.json has of each contender, a row a seed; runs that it has need not be there."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if (OUT / "race.json").is_file():
        for row in json.loads((OUT / "race.json").read_text()):
            each = zip(row["top1_seeds"], row["chosen"], strict=True)
            rows[row["chosen_by"]] = [
                {"top1": top1, "images": row["images_trained"], "fingerprint": chosen} for top1, chosen in each
            ]
    return rows


def write(rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """race.json and race.md."""
    summary = [
        {
            "chosen_by": by,
            "budget_ms": round(budget_ms(), 4),
            "images_trained": round(mean(row["images"] for row in done)),
            "top1_seeds": [row["top1"] for row in done],
            "top1_mean": round(mean(row["top1"] for row in done), 4),
            "chosen": [row["fingerprint"] for row in done],
        }
        for by, done in rows.items()
    ]
    OUT.mkdir(parents=True, exist_ok=True)
    save(OUT / "race.json", json.dumps(summary, indent=1) + "\n")
    lines = ["| chosen by | images trained | top-1, % | seeds |", "|---|---|---|---|"]
    for row in summary:
        seeds = ", ".join(f"{100 * each:.1f}" for each in row["top1_seeds"])
        error = f" ± {100 * stdev(row['top1_seeds']) / len(row['top1_seeds']) ** 0.5:.1f}" if "," in seeds else ""
        lines.append(
            f"| {row['chosen_by']} | {row['images_trained']:,} | {100 * row['top1_mean']:.1f}{error} | {seeds} |"
        )
    save(OUT / "race.md", "\n".join(lines) + "\n")


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Imagenette's folder.")
@click.option("--share", type=float, default=0.1, show_default=True, help="Share of its training images.")
@click.option(
    "--epochs", type=int, default=100, show_default=True, help="Cost of a contender, in epochs of that share."
)
@click.option("--finalist-epochs", type=int, default=12, show_default=True, help="Longest training of a finalist.")
@click.option("--seeds", type=int, default=3, show_default=True)
@click.option("--score", "scores", multiple=True, metavar="NAME=IMAGES", help="One more score, and what it cost.")
def main(data: Path, share: float, seeds: int, scores: tuple[str, ...], **cost: int) -> None:
    """Run what is not done, seed by seed, and write the figures after each training."""
    torch.set_num_threads(1)
    costs = {name: int(images) for name, _, images in (each.rpartition("=") for each in scores)}
    folder = linked(Data("imagenette", data, share, 1), RUNS / "data")
    race = Race(folder, RUNS, cost["epochs"], cost["finalist_epochs"], costs)
    rows = known()
    for seed in range(seeds):
        for by in (PRESET, NASWOT, FINALISTS, RANDOM, *costs):
            if len(rows[by]) > seed:
                continue
            network = chosen(race, by, seed)
            top1, images = trained(race, network, seed)
            rows[by].append({"top1": round(top1, 4), "images": images, "fingerprint": network.architecture.fingerprint})
            print(by, seed, f"{top1:.4f} after {images:,} images", flush=True)
            write(rows)


if __name__ == "__main__":
    main()
