"""Images a second of `retrain`'s loop over those of a loop of timm's parts, put together as timm's train script is.

Run: python -m benchmarks.training_rate --data IMAGENETTE [--rounds 5] [--steps 12] [--network NAME]
Both train the same architecture by the same recipe on the same folder with the same number of reading processes, one
thread each. They take turns; a round is so many steps after three that are not counted. The ratio is the median over
the rounds. timm's loop stands below: ImageDataset and create_loader, Mixup, create_optimizer_v2, CosineLRScheduler,
dispatch_clip_grad, ModelEmaV3 and its losses, without what its script adds (logging, checkpoints, validation).
Budget: 0.9.
"""

import argparse
import contextlib
import csv
import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from timm.data import ImageDataset, Mixup, create_loader
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, dispatch_clip_grad
from torch import nn

from mvig_nas import recipes, shipped
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.image_data import LabelledImages, read_split, training_transform
from mvig_nas.network import build
from mvig_nas.search_space import SearchSpace
from mvig_nas.training import Execution, Progress, Recipe, StopTraining, train_alone

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "results" / "training_rate" / "table.csv"
BUDGET = 0.9
WARM = 3
ARCHITECTURES = {
    "mobilevig_ti, 96 px": replace(PRESETS["mobilevig_ti"], resolution=96),
    "micro's smallest, 64 px": SearchSpace.from_toml(shipped.space_path("micro")).smallest,
}
PLANS = {"short": {}, "mobilevig-300ep": {"batch_size": 64, "micro_batch_size": 64, "repeats": 1}}


def theirs(architecture: Architecture, images: LabelledImages, recipe: Recipe, workers: int) -> Iterator[None]:
    """A step each time; endless."""
    network = build(architecture, len(images.classes), layer_scale_init=recipe.layer_scale_init)
    optimizer = create_optimizer_v2(
        network, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * (len(images) // recipe.batch_size)
    scheduler = CosineLRScheduler(optimizer, t_initial=steps, t_in_epochs=False)
    side = architecture.resolution
    loader = create_loader(
        ImageDataset(images.root),
        (3, side, side),
        recipe.batch_size,
        is_training=True,
        use_prefetcher=False,
        num_workers=workers,
        device=torch.device("cpu"),
        pin_memory=False,
    )
    # timm's transforms, of which Pillow 13 refuses one without a change that is made there
    loader.dataset.transform = training_transform(recipe.preprocessing, side)
    mixup = None
    loss_fn: nn.Module = LabelSmoothingCrossEntropy(recipe.label_smoothing)
    if recipe.mixup or recipe.cutmix:
        mixup = Mixup(
            recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=len(images.classes)
        )
        loss_fn = SoftTargetCrossEntropy()
    average = ModelEmaV3(network, decay=recipe.ema_decay) if recipe.ema_decay else None
    losses, updates = AverageMeter(), 0
    network.train()
    while True:
        for images_, targets in loader:
            batch, labels = (images_, targets) if mixup is None else mixup(images_, targets)
            loss = loss_fn(network(batch.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                dispatch_clip_grad(network.parameters(), recipe.clip, mode=recipe.clip_mode)
            optimizer.step()
            if average is not None:
                average.update(network, step=updates)
            updates += 1
            losses.update(loss.item(), len(batch))
            scheduler.step_update(updates, metric=losses.avg)
            yield


def rate_theirs(architecture: Architecture, images: LabelledImages, recipe: Recipe, workers: int, steps: int) -> float:
    training = theirs(architecture, images, recipe, workers)
    began = 0.0
    for step, _ in enumerate(itertools.islice(training, WARM + steps), start=1):
        began = time.perf_counter() if step == WARM else began
    return steps * recipe.batch_size / (time.perf_counter() - began)


def rate_ours(architecture: Architecture, images: LabelledImages, recipe: Recipe, workers: int, steps: int) -> float:
    times: list[float] = []

    def note(_: Progress) -> None:
        times.append(time.perf_counter())

    execution = Execution(workers=workers, channels_last=True, checkpoint_minutes=60, stop_after=WARM + steps)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StopTraining):
        train_alone(architecture, images, recipe, Path(folder), execution=execution, on_progress=note)
    return steps * recipe.batch_size / (times[-1] - times[WARM - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", choices=ARCHITECTURES, help="one alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = read_split(options.data, "train")
    loops: tuple[Callable[..., float], ...] = (rate_theirs, rate_ours)
    rows = []
    for (name, architecture), (plan, changes), workers in itertools.product(
        ARCHITECTURES.items(), PLANS.items(), (0, 1)
    ):
        if options.network not in (None, name):
            continue
        recipe = replace(recipes.load_plan(plan).recipe, **changes)
        rates: list[list[float]] = [[], []]
        for number in range(options.rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                rates[which].append(loops[which](architecture, images, recipe, workers, options.steps))
        ratios = [ours / timms for timms, ours in zip(*rates, strict=True)]
        rows.append(
            {
                "network": name,
                "plan": plan,
                "workers": workers,
                "timm_images_per_second": f"{statistics.median(rates[0]):.0f}",
                "ours_images_per_second": f"{statistics.median(rates[1]):.0f}",
                "ratio": f"{statistics.median(ratios):.3f}",
                "lowest": f"{min(ratios):.3f}",
                "highest": f"{max(ratios):.3f}",
            }
        )
        kept = "kept" if statistics.median(ratios) >= BUDGET else "NOT KEPT"
        print(*rows[-1].values(), f"budget {BUDGET}: {kept}", flush=True)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    with OUTPUT.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, "
          f"mvig-nas {version('mvig-nas')}")  # fmt: skip


if __name__ == "__main__":
    main()
