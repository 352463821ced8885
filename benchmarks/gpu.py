"""What trainings do on a GPU: their pace beside timm's parts, and whether they compute there what they should.

    python -m benchmarks.gpu [--data IMAGES]

It takes under nine minutes, and says in one line that it has nothing to do where there is no GPU. Without `--data` the
images are noise, written as JPEG files. results/gpu gets two tables:

pace.csv: images a second, the share of the time that was spent waiting for images, and the peak memory of `retrain`
(alone and with a teacher) and of a supernet's training, in fp32 and bfloat16, channels last, compiled or not. `timm` is
the same network, recipe and images in a loop of timm's optimiser, schedule and clipping, and `ratio` is ours over that.

checks.csv: how far apart the weights of two trainings are after some steps of plain gradient descent, over how far
they moved (root mean squares): one that was stopped and resumed, lower precisions instead of float32, and, where there
are two GPUs, two processes over NCCL instead of one.

`--device cpu` rehearses it in seconds on small images; such figures are not kept.
"""

import argparse
import contextlib
import csv
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn
from torch.nn import functional as F

from mvig_nas import recipes
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.image_data import LabelledImages, read_split
from mvig_nas.network import build
from mvig_nas.search_space import SearchSpace
from mvig_nas.training import (
    PRECISIONS,
    Distillation,
    Execution,
    Knowledge,
    Process,
    Progress,
    Recipe,
    StopTraining,
    images_of,
    read_checkpoint,
    train_alone,
    train_supernet,
)
from mvig_nas.training.teacher import Teacher, load_teacher

OUTPUT = Path(__file__).resolve().parent.parent / "results" / "gpu"
TEACHER = "tf_efficientnet_lite0"
LIMIT_S = 520.0
SUPERNET_S, COMPILED_S = 40.0, 150.0  # that these trainings may take
CLASSES, IMAGES_A_CLASS = 10, 400
WARM = 8  # steps that are not counted


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    images: LabelledImages
    recipe: Recipe
    architecture: Architecture
    space: SearchSpace
    execution: Execution
    steps: int
    teacher: Teacher

    @property
    def device(self) -> torch.device:
        return torch.device(self.execution.torch_device)


@dataclass(frozen=True)
class Pace:
    """Images a second after the warm-up, the share of waiting, and the peak memory in MiB (0 on a CPU)."""

    rate: float
    waiting: float
    peak_mib: float


def ours(bench: Bench, train: Callable[[Path, Execution, Callable[[Progress], None]], object], **how: Any) -> Pace:
    """The pace of one of our trainings."""
    seen: list[tuple[float, Progress]] = []
    execution = replace(bench.execution, stop_after=WARM + bench.steps, **how)
    _forget_peak(bench.device)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StopTraining):
        train(Path(folder) / "run", execution, lambda progress: seen.append((time.perf_counter(), progress)))
    seconds = seen[WARM + bench.steps - 1][0] - seen[WARM - 1][0]
    last = seen[WARM + bench.steps - 1][1]
    return Pace(bench.steps * bench.recipe.batch_size / seconds, last.waiting, _peak(bench.device))


def retrained(bench: Bench, *, taught: bool = False, **how: Any) -> Pace:
    known = Knowledge(bench.teacher, Distillation("logits")) if taught else Knowledge()

    def train(folder: Path, execution: Execution, note: Callable[[Progress], None]) -> object:
        return train_alone(
            bench.architecture, bench.images, bench.recipe, folder, knowledge=known, execution=execution,
            on_progress=note,
        )  # fmt: skip

    return ours(bench, train, **how)


def supernet_trained(bench: Bench, **how: Any) -> Pace:
    def train(folder: Path, execution: Execution, note: Callable[[Progress], None]) -> object:
        return train_supernet(bench.space, bench.images, bench.recipe, folder, execution=execution, on_progress=note)

    return ours(bench, train, **how)


def timms(bench: Bench, *, precision: str, compiled: bool = False) -> Pace:
    """The pace of a loop of timm's parts over the same images."""
    recipe, device = bench.recipe, bench.device
    network: nn.Module = build(bench.architecture, CLASSES, distillation=False).to(device)
    network = network.to(memory_format=torch.channels_last)
    if compiled:
        network.compile()
    optimizer = create_optimizer_v2(network, opt=recipe.optimizer, lr=recipe.learning_rate)
    scheduler = CosineLRScheduler(optimizer, t_initial=10_000, t_in_epochs=False)
    stream = images_of(bench.images, recipe, bench.architecture.resolution, bench.execution)
    dtype = PRECISIONS[precision]
    _forget_peak(device)
    times, waited = [], 0.0
    network.train()
    batches = stream.batches(itertools.count())
    for step in range(WARM + bench.steps):
        before = time.perf_counter()
        images, targets = next(batches)
        waited += time.perf_counter() - before if step >= WARM else 0.0
        images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        targets = targets.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            loss = F.cross_entropy(network(images), targets, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip is not None:
            dispatch_clip_grad(network.parameters(), recipe.clip, mode=recipe.clip_mode)
        optimizer.step()
        scheduler.step_update(step)
        loss.item()
        times.append(time.perf_counter())
    seconds = times[-1] - times[WARM - 1]
    return Pace(bench.steps * recipe.batch_size / seconds, waited / seconds, _peak(device))


def weights(bench: Bench, folder: Path, **how: Any) -> dict[str, Tensor]:
    """Weights after the steps of the checks."""
    execution = replace(bench.execution, **how)
    with contextlib.suppress(StopTraining):
        train_alone(bench.architecture, bench.images, bench.recipe, folder, execution=execution)
    return {name: tensor for name, tensor in read_checkpoint(folder)["model"].items() if tensor.is_floating_point()}


def checks(bench: Bench, home: Path) -> Iterator[tuple[str, float]]:
    """What was compared, and how far apart it is over how far the weights moved."""
    bench, half = replace(bench, recipe=_plain(bench.recipe)), bench.steps // 2
    whole = weights(bench, home / "whole", stop_after=2 * half)
    moved = _distance(whole, weights(bench, home / "first", stop_after=1))
    weights(bench, home / "resumed", stop_after=half)
    yield "resumed", _distance(whole, weights(bench, home / "resumed", stop_after=half, resume=True)) / moved
    for precision in ("bfloat16", "float16"):
        found = weights(bench, home / precision, stop_after=2 * half, precision=precision)
        yield f"{precision} instead of float32", _distance(whole, found) / moved
    if torch.cuda.device_count() > 1 and bench.device.type == "cuda":
        yield "two processes over NCCL instead of one", _two_processes(bench, home) / moved


def _two_processes(bench: Bench, home: Path) -> float:
    """How far apart one process and two end."""
    asked = ["--data", str(Path(bench.images.root).parent), "--steps", str(bench.steps)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for name, count in (("one-process", 1), ("two-processes", 2)):
        command = ["-m", "benchmarks.gpu", *asked, "--share-into", str(home / name)]
        subprocess.run([*launch, str(count), *command], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = (read_checkpoint(home / name)["model"] for name in ("one-process", "two-processes"))
    return _distance(*({n: t for n, t in each.items() if t.is_floating_point()} for each in (one, two)))


def _plain(recipe: Recipe) -> Recipe:
    """Plain gradient descent on micro-batches of half a batch; AdamW's first steps make much of rounding."""
    half = recipe.batch_size // 2
    return replace(recipe, micro_batch_size=half, optimizer="sgd", learning_rate=0.02, clip=None)


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The root mean square difference of two sets of weights, without running statistics."""
    names = [name for name in one if "running" not in name]
    squares = torch.cat([(one[name].float() - other[name].float()).flatten() ** 2 for name in names])
    return float(squares.mean().sqrt())


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def noise(folder: Path, side: int, count: int) -> Path:
    """A folder of JPEG files of coarse noise, `count` a class for training and one to validate."""
    generator = np.random.default_rng(0)
    for split, each in (("train", count), ("val", 1)):
        for label in range(CLASSES):
            home = folder / split / f"class_{label}"
            home.mkdir(parents=True)
            for number in range(each):
                coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                coarse.resize((side, side)).save(home / f"{number:05d}.jpg")
    return folder


def bench_of(data: Path, device: str, steps: int, home: Path) -> Bench:
    """The measurements' network, recipe and images: MobileViG-Ti at 224 px on a GPU, a toy in a rehearsal."""
    is_gpu = device.startswith("cuda")
    space = SearchSpace.load("mobilevig-ti" if is_gpu else "micro")
    architecture = PRESETS["mobilevig_ti"] if is_gpu else space.smallest
    recipe = replace(
        recipes.load("small", {"batch_size": 256 if is_gpu else 8, "epochs": 200, "warmup_epochs": 1}), hold_out=0.0
    )
    execution = Execution(
        device, workers=max(1, (os.cpu_count() or 2) - 1) if is_gpu else 0, in_memory=True, channels_last=True,
        checkpoint_minutes=60, validate_every=0,
    )  # fmt: skip
    checkpoint = home / "teacher.safetensors"
    if not checkpoint.exists():
        save_file(timm.create_model(TEACHER).state_dict(), checkpoint)
    side = 224 if is_gpu else 64
    teacher = load_teacher(TEACHER, None, recipe.preprocessing, checkpoint=checkpoint, resolution=side, device=device)
    return Bench(read_split(data, "train"), recipe, architecture, space, execution, steps, teacher)


def paces(bench: Bench, left_s: Callable[[], float]) -> Iterator[tuple[str, str, bool, Pace, float | None]]:
    """What trains, precision, whether it is compiled, pace, and our pace over timm's; as much as there is time for."""
    for precision in ("float32", "bfloat16"):
        yield from _alone(bench, precision, compiled=False)
    for precision in ("float32", "bfloat16"):
        if left_s() > SUPERNET_S:
            yield "supernet train", precision, False, supernet_trained(bench, precision=precision), None
    if left_s() > COMPILED_S and bench.device.type != "cpu":
        yield from _alone(bench, "bfloat16", compiled=True)


def _alone(bench: Bench, precision: str, *, compiled: bool) -> Iterator[tuple[str, str, bool, Pace, float | None]]:
    theirs = timms(bench, precision=precision, compiled=compiled)
    yield "timm", precision, compiled, theirs, None
    alone = retrained(bench, precision=precision, compiled=compiled)
    yield "retrain", precision, compiled, alone, alone.rate / theirs.rate
    taught = retrained(bench, taught=True, precision=precision, compiled=compiled)
    yield "retrain with a teacher", precision, compiled, taught, taught.rate / theirs.rate


def write(name: str, heads: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with (OUTPUT / name).open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(heads)
        table.writerows(rows)


def share(data: Path, folder: Path, steps: int) -> None:
    """One of the processes of `_two_processes`."""
    process = Process.start("cuda")
    with tempfile.TemporaryDirectory() as home:
        bench = bench_of(data, str(process.device), steps, Path(home))
    execution = replace(bench.execution, stop_after=2 * (steps // 2))
    with contextlib.suppress(StopTraining):
        train_alone(bench.architecture, bench.images, _plain(bench.recipe), folder, execution=execution)
    process.leave()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train and val; noise without it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that it may take")
    parser.add_argument("--share-into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU here.")
        return
    if options.share_into is not None:
        share(options.data, options.share_into, options.steps)
        return
    began = time.monotonic()
    is_gpu = options.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        data = options.data or noise(home / "noise", 256 if is_gpu else 64, IMAGES_A_CLASS if is_gpu else 8)
        bench = bench_of(data, options.device, options.steps, home)
        rows, found = [], []
        for what, difference in checks(bench, home):
            found.append((what, f"{difference:.2e}"))
            print(*found[-1], flush=True)
        for what, precision, compiled, pace, ratio in paces(bench, lambda: options.limit - (time.monotonic() - began)):
            told = "" if ratio is None else f"{ratio:.3f}"
            figures = (f"{pace.rate:.0f}", f"{pace.waiting:.2f}", f"{pace.peak_mib:.0f}", told)
            rows.append((what, precision, "yes" if compiled else "no", *figures))
            print(*rows[-1], flush=True)
    if is_gpu:
        heads = ("training", "precision", "compiled", "images_per_second", "waiting", "peak_mib", "ratio")
        write("pace.csv", heads, rows)
        write("checks.csv", ("check", "difference_over_move"), found)
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, timm {timm.__version__}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
