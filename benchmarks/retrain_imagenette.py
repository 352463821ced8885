"""MobileViG-Ti and the winner of a search at its latency, trained on Imagenette with and without a teacher.

    python -m benchmarks.retrain_imagenette train --data IMAGENETTE --teacher-checkpoint FILE [--seed N ...]
    python -m benchmarks.retrain_imagenette teacher --data IMAGENETTE --teacher-checkpoint FILE
    python -m benchmarks.retrain_imagenette report

`train` runs `mvig-nas retrain` sixteen epochs at 96 px for every network, with and without the teacher and for every
seed, one after another; it skips what is done and goes on with what was stopped. `report` writes figures of the
finished ones to results/retrain_imagenette/, where winner.json came from
`mvig-nas search --space mobilevig-ti --latency-budget 0.861ms`.
"""

import csv
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import click
import torch

from mvig_nas import shipped
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.image_data import EvaluationImages, Preprocessing, read_split, subset
from mvig_nas.latency import ArchitectureLatency, LatencyPredictor
from mvig_nas.training.teacher import load_teacher

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "results" / "runs" / "retrain_imagenette"
OUT = ROOT / "results" / "retrain_imagenette"
NETWORKS = {"mobilevig_ti": "mobilevig_ti", "winner": str(OUT / "winner.json")}
TEACHER = "tf_efficientnet_lite0"
KINDS = ("plain", "taught")
DEVICE = "iphone-13-mini"


@click.group()
def main() -> None:
    """See the module."""


@main.command()
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--teacher-checkpoint", type=click.Path(path_type=Path), required=True)
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1), show_default=True)
def train(data: Path, teacher_checkpoint: Path, seeds: tuple[int, ...]) -> None:
    """Every training that is not done."""
    taught = ["--teacher", TEACHER, "--teacher-checkpoint", str(teacher_checkpoint), "--teacher-resolution", "160"]
    taught += ["--teacher-cache", str(RUNS / "cache")]
    for seed in seeds:
        for name, target in NETWORKS.items():
            for kind in KINDS:
                out = RUNS / f"{name}-{kind}-seed{seed}"
                if (out / "model" / "config.json").is_file():
                    continue
                if (out / "run.json").is_file():
                    asked = ["--resume"]
                else:
                    asked = [target, "--plan", "short", "--epochs", "16", "--resolution", "96", "--seed", str(seed)]
                    asked += taught if kind == "taught" else []
                print(out.name, flush=True)
                command = [sys.executable, "-m", "mvig_nas", "retrain", *asked, "--out", str(out), "--data", str(data)]
                execution = ["--in-memory", "--workers", "0", "--precision", "bfloat16", "--checkpoint-minutes", "4"]
                subprocess.run([*command, *execution], check=True)


@main.command()
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--teacher-checkpoint", type=click.Path(path_type=Path), required=True)
@click.option("--images", type=int, default=600, show_default=True)
def teacher(data: Path, teacher_checkpoint: Path, images: int) -> None:
    """The teacher's own top-1 on centre crops of 96 px, by the resolution that it sees them at."""
    torch.set_num_threads(1)
    look = Preprocessing()
    for split in ("train", "val"):
        some = subset(read_split(data, split), images)
        batches = list(EvaluationImages(some, look, 96))
        for resolution in (96, 128, 160, 224):
            taught = load_teacher(TEACHER, some.classes, look, checkpoint=teacher_checkpoint, resolution=resolution)
            right = sum(int((taught(batch).argmax(dim=1) == targets).sum()) for batch, targets in batches)
            print(f"{split}, enlarged to {resolution} px: {right / len(some):.1%}", flush=True)


def architecture_of(name: str) -> Architecture:
    if name in PRESETS:
        return PRESETS[name]
    return Architecture.from_dict(json.loads(Path(NETWORKS[name]).read_text())["architecture"])


def finished(runs: Path) -> list[dict[str, Any]]:
    """Top-1 of every finished training: as the network answers, of each classifier, and on the training images."""
    rows = []
    for path in sorted(runs.glob("*-seed*/model/config.json")):
        name, kind, seed = path.parent.parent.name.rsplit("-", 2)
        accuracy = json.loads(path.read_text())["mvig_nas"]["about"]["accuracy"]
        both = {head: accuracy[head]["top1"] if head in accuracy else None for head in ("mean", "labels", "teacher")}
        row = {"network": name, "trained": kind, "seed": int(seed.removeprefix("seed")), **both}
        rows.append(row | while_training(path.parent.parent / "log.csv"))
    return rows


def while_training(log: Path) -> dict[str, float]:
    """Mean top-1 on the augmented training images, of the labels' classifier, in every quarter of the steps."""
    with log.open(newline="") as file:
        top1 = [float(row["top1"]) for row in csv.DictReader(file)]
    quarter = len(top1) // 4
    return {f"training_{number}": mean(top1[quarter * (number - 1) : quarter * number]) for number in (1, 2, 3, 4)}


@main.command()
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS)
def report(runs: Path) -> None:
    """Tables of what is finished."""
    rows = finished(runs)
    with (OUT / "runs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows([{key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
                         for row in rows])  # fmt: skip
    top1: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in rows:
        top1[row["network"], row["trained"]][row["seed"]] = 100 * row["mean"]
    latency = ArchitectureLatency(LatencyPredictor.load(shipped.predictor_folder(DEVICE)))
    for name in NETWORKS:
        architecture = architecture_of(name)
        at_96 = replace(architecture, resolution=96)
        ms, ms_96 = latency.predict_ms([architecture, at_96])
        print(f"{name}: predicted {ms:.3f} ms at {architecture.resolution} px, {ms_96:.3f} ms at 96 px on {DEVICE}; "
              f"{architecture.fingerprint}")  # fmt: skip
        for kind in KINDS:
            seeds = top1[name, kind]
            if seeds:
                each = ", ".join(f"{value:.2f}" for _, value in sorted(seeds.items()))
                print(f"  {kind}: {mean(seeds.values()):.2f} % ({each})")
    for title, one, other in (
        *((f"{name}: taught over plain", (name, "taught"), (name, "plain")) for name in NETWORKS),
        *((f"{kind}: winner over mobilevig_ti", ("winner", kind), ("mobilevig_ti", kind)) for kind in KINDS),
    ):
        common = sorted(top1[one].keys() & top1[other].keys())
        if common:
            differences = [top1[one][seed] - top1[other][seed] for seed in common]
            each = ", ".join(f"{value:+.2f}" for value in differences)
            print(f"{title}: {mean(differences):+.2f} points ({each})")


if __name__ == "__main__":
    main()
