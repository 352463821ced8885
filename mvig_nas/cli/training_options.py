"""What the commands that train share: options, and how a training shows itself."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.progress import Bar

if TYPE_CHECKING:
    from mvig_nas.training import Execution, Process, Progress

RECIPE_OPTIONS = (
    click.option("--epochs", type=click.IntRange(1), help="Passes over the training images."),
    click.option("--batch-size", type=click.IntRange(2), help="Images a step, over all processes."),
    click.option(
        "--micro-batch-size", type=click.IntRange(2), help="Images a pass and process, which share batch norms."
    ),
    click.option("--learning-rate", "--lr", "learning_rate", type=float, help="Its peak."),
    click.option("--min-learning-rate", "--min-lr", "min_learning_rate", type=float, help="Where its cosine ends."),
    click.option("--optimizer", metavar="NAME", help="timm's name of it."),
    click.option("--weight-decay", type=float),
    click.option("--warmup-epochs", type=click.IntRange(0)),
    click.option("--label-smoothing", type=float),
    click.option("--crop-scale", nargs=2, type=float, metavar="LOW HIGH", help="Area of a random crop."),
    click.option("--flip", type=float, help="Its probability."),
    click.option("--color-jitter", type=float, help="Largest change; RandAugment switches it off."),
    click.option("--rand-augment", metavar="STRING|none", help="timm's, e.g. rand-m9-mstd0.5-inc1."),
    click.option("--mixup", type=float, help="Alpha of Mixup."),
    click.option("--cutmix", type=float, help="Alpha of CutMix."),
    click.option("--random-erasing", type=float, help="Its probability."),
    click.option("--clip", type=float, help="Clip gradients to this; 0: do not."),
    click.option("--clip-mode", type=click.Choice(["value", "norm", "agc"])),
    click.option("--ema-decay", type=float, help="Of the weights' moving average."),
    click.option("--layer-scale-init", type=float, help="What layer scales start from."),
    click.option("--interpolation", metavar="NAME", help="Filter that resizes images."),
    click.option("--crop-fraction", type=float, help="Of an image, when it is evaluated."),
    click.option("--mean", nargs=3, type=float, metavar="R G B", help="Of the pixels, which become 0."),
    click.option("--std", nargs=3, type=float, metavar="R G B", help="Of the pixels, which becomes 1."),
    click.option("--hold-out", type=float, help="Share of the training images kept apart for choosing."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Same seed, same weights."),
)
EXECUTION_OPTIONS = (
    click.option(
        "--torch-device", default="auto", show_default=True, metavar="NAME", help="cpu, cuda, or a GPU if any."
    ),
    click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes that read images."),
    click.option("--in-memory", is_flag=True, help="Keep decoded images in memory, in each worker."),
    click.option(
        "--precision", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
    ),
    click.option("--channels-last/--channels-first", default=True, show_default=True, help="Layout of images."),
    click.option(
        "--checkpoint-minutes", type=click.FloatRange(0), default=10.0, show_default=True, help="Between checkpoints."
    ),
)


def with_options(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    """All of them on one command."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def recipe_names(command: click.Command) -> list[str]:
    """Of the command's options, those that are entries of a recipe or its preprocessing."""
    from dataclasses import fields

    from mvig_nas.image_data import Preprocessing
    from mvig_nas.training import Recipe

    known = {field.name for kind in (Recipe, Preprocessing) for field in fields(kind)}
    return [option.name for option in command.params if option.name in known]


def execution_of(options: dict[str, Any]) -> "tuple[Process, Execution]":
    """This process among those that torchrun started, and how it is to train."""
    from mvig_nas.training import Execution, Process

    execution = Execution(
        options["precision"],
        options["channels_last"],
        options["checkpoint_minutes"],
        compiled=options.get("compiled", False),  # of single networks, as is validation
        validate_every=options.get("validate_every", 0),
    )
    return Process.start(options["torch_device"]), execution


def new_run_folder(name: str, seed: int) -> Path:
    """A name for a run folder that is not there yet.

    Raises:
        click.UsageError: torchrun started several processes, each of which would find another.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError("several processes need --out, a run folder that all of them know.")
    return Path("results/runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-seed{seed}"


class TrainingShown:
    """A training's state in a bar; a line every half minute where there is no terminal. Rollbacks are told at once."""

    _SECONDS_BETWEEN_LINES = 30.0

    def __init__(self, bar: Bar, title: str) -> None:
        self._bar = bar
        self._title = title
        self._last = time.monotonic()

    def __call__(self, state: "Progress", which: str = "") -> None:
        title = f"{self._title} {which}".rstrip()
        if state.message:
            self._bar.line(f"{title}: {state.message}")
            return
        rate = f"loss {state.loss:.3f}, {state.images_per_second:.0f} images/s, {state.waiting:.0%} waiting for them"
        self._bar.show(state.step, state.steps, rate, title)
        now = time.monotonic()
        if not self._bar.is_drawn and now - self._last > self._SECONDS_BETWEEN_LINES:
            self._last = now
            self._bar.line(f"{title}: step {state.step} of {state.steps}, {rate}")
