"""What `mvig-nas run` makes of 80 images a class in half an hour, against a network of MobileViG-Ti's shape.

    python -m benchmarks.first_hour --data IMAGENETTE

Ten classes of Imagenette, 80 images each, with no validation split: the command splits them itself. The preset's shape
is then trained on the same split by the same plan for as long, in processor time of training steps, as all the run's
trainings took together. Both are asked about the images that the run held out, and about Imagenette's whole
validation split. What is done is skipped, what was stopped goes on; results/first_hour gets summary.json.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import click
import torch
from torch.nn.functional import cross_entropy

from benchmarks.ranking_imagenette import PRESET_SHAPED, budget_ms
from mvig_nas.architecture import Architecture
from mvig_nas.files import save
from mvig_nas.image_data import read_split
from mvig_nas.network import build

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "results" / "runs" / "first_hour"
OUT = ROOT / "results" / "first_hour"
IMAGES = 80  # a class
ROUNDS = 7


def command(*arguments: object) -> None:
    """One `mvig-nas` command on one thread, whose output is shown."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "mvig_nas", *map(str, arguments)], check=True, env=environment)


def cut(data: Path, folder: Path) -> Path:
    """Links to the first images of every class of the training split."""
    for own in sorted(each for each in (data / "train").iterdir() if each.is_dir()):
        (folder / own.name).mkdir(parents=True, exist_ok=True)
        for path in sorted(own.iterdir())[:IMAGES]:
            link = folder / own.name / path.name
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    return folder


def step_seconds(architectures: list[Architecture]) -> list[float]:
    """Processor seconds of a training step on 64 images, the median of rounds in which the networks take turns."""
    torch.set_num_threads(1)
    networks = [build(each, num_classes=10).train().to(memory_format=torch.channels_last) for each in architectures]
    seconds: list[list[float]] = [[] for _ in networks]
    for _ in range(ROUNDS):
        for network, architecture, own in zip(networks, architectures, seconds, strict=True):
            images = torch.randn(64, 3, architecture.resolution, architecture.resolution)
            began = time.process_time()
            cross_entropy(
                network(images.contiguous(memory_format=torch.channels_last)), torch.arange(64) % 10
            ).backward()
            own.append(time.process_time() - began)
    return [median(own) for own in seconds]


def top1(model: Path, data: Path) -> float:
    """Top-1 of a trained folder on a validation split, a fraction."""
    output = subprocess.run(
        [sys.executable, "-m", "mvig_nas", "evaluate", str(model), "--data", str(data), "--json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return float(json.loads(output)["accuracy"]["mean"]["top1"])


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Imagenette's folder.")
@click.option("--hours", type=float, default=0.5, show_default=True, help="Hours that the run fits itself into.")
def main(data: Path, hours: float) -> None:
    """Run, train the preset's shape for as long, and print both."""
    run = RUNS / "run"
    if not (run / "summary.json").is_file():
        going = ["--resume"] if (run / "run.json").is_file() else []
        asked = ["--latency-budget", f"{max(budget_ms(), 0.45)}ms", "--space", "micro", "--hours", hours]
        command("run", cut(data, RUNS / "images"), "--out", run, *(going or asked))
    split = run / "images"
    plan = json.loads((run / "plan.json").read_text())
    train = len(read_split(split, "train"))
    chosen, tried = run / "search", 0
    if plan["finalists"]:
        chosen /= "finalists"
        finalists = json.loads((chosen / "finalists.json").read_text())
        tried = sum(len(row["curve"]) for row in finalists["finalists"]) * (train - finalists["images"])
    winner = Architecture.load(str(chosen / "winner.json"))
    slow, fast = step_seconds([winner, PRESET_SHAPED])
    epochs = round((plan["epochs"] + tried / train) * slow / fast)
    preset = RUNS / "preset"
    if not (preset / "model" / "config.json").is_file():
        save(RUNS / "preset.json", PRESET_SHAPED.to_json())
        going = ["--resume"] if (preset / "run.json").is_file() else []
        recipe = json.loads((run / "trained" / "run.json").read_text())["request"]["plan"]["recipe"]
        mixing = ["--mixup", recipe["mixup"], "--cutmix", recipe["cutmix"]]
        asked = [RUNS / "preset.json", "--data", split, "--plan", "short", "--epochs", epochs, *mixing]
        command("retrain", *asked, "--validate-every", 10, "--out", preset, *going)
    epochs = json.loads((preset / "run.json").read_text())["request"]["plan"]["recipe"]["epochs"]
    found = {
        name: {"held_out": top1(folder, split), "imagenette_val": top1(folder, data), "epochs": trained}
        for name, folder, trained in (("run", run / "trained", plan["epochs"]), ("preset-shaped", preset, epochs))
    }
    OUT.mkdir(parents=True, exist_ok=True)
    save(OUT / "summary.json", json.dumps(found, indent=1) + "\n")
    for name, row in found.items():
        print(
            f"{name}: top-1 {row['held_out']:.1%} on the held-out images, {row['imagenette_val']:.1%} on Imagenette's"
        )


if __name__ == "__main__":
    main()
