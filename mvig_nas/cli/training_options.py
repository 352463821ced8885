"""What the commands that train share: options, and how a training shows itself."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas import run_folder
from mvig_nas.cli.progress import Bar

if TYPE_CHECKING:
    from mvig_nas.training import Execution, Process, Progress

EXECUTION_OPTIONS = (
    click.option(
        "--torch-device",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="Device to train on, as torch names it; auto takes a GPU where there is one.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(0),
        default=2,
        show_default=True,
        help="Processes that read and augment images.",
    ),
    click.option("--in-memory", is_flag=True, help="Keep decoded images in the memory of each worker."),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="Floating-point type of the forward passes.",
    ),
    click.option(
        "--channels-last/--channels-first",
        default=True,
        show_default=True,
        help="Memory layout of the images; GPUs are faster with the channels last.",
    ),
    click.option(
        "--checkpoint-minutes",
        type=click.FloatRange(0),
        default=10.0,
        show_default=True,
        help="Minutes between checkpoints.",
    ),
)


def with_options(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    """All of them on one command."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


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
    return run_folder.new_folder(name, seed)


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
