"""What the commands that train share: options, resuming, and how a training shows itself."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mvig_nas import run_folder, values
from mvig_nas.cli.generated import Decorator
from mvig_nas.cli.options import resumed_folder
from mvig_nas.cli.progress import Bar
from mvig_nas.recipes import Execution

if TYPE_CHECKING:
    from mvig_nas.training import Progress

T = TypeVar("T")
EXECUTION = Execution("auto", workers=2, channels_last=True)
NO_OPTIONS = ("stop_after", "resume")  # of Execution
OF_SINGLE_NETWORKS = ("compiled", "validate_every")


def run_options() -> Decorator:
    """`--data`, `--out` and `--resume` of a command that leaves a run folder."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(
                "--resume", is_flag=True, help="Go on with the training in --out; options not given are taken from it."
            ),
            click.option(
                "--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder.  [default: a new one]"
            ),
            click.option(
                "--data",
                type=click.Path(path_type=Path),
                metavar="FOLDER",
                help="Folder with train/CLASS/*.jpg and val/CLASS/*.jpg; it is needed unless a training is resumed.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def saved_request(folder: Path | None, command: str, kind: type[T]) -> T | None:
    """What the run in --out was asked for; None for one of an older mvig-nas, which has to be asked for again.

    Raises:
        click.UsageError: no folder is given.
        MvigNasError: the folder holds no run of this command.
    """
    folder = resumed_folder(folder)
    if not (folder / run_folder.FILE).exists() and (folder / "state.pt").exists():
        return None
    return run_folder.reopen(folder, command, kind)


def needed(given: T | None, saved: T | None, what: str, resume: bool) -> T:
    """What is given, or what the resumed run has.

    Raises:
        click.UsageError: there is neither.
    """
    found = saved if given is None else given
    if found is None and resume:
        raise click.UsageError(
            f"an older mvig-nas began this training and left no {run_folder.FILE}; give {what}, and all other options "
            "that it began with, beside --resume."
        )
    if found is None:
        raise click.UsageError(f"give {what}, or --resume a training.")
    return found


def execution_of(saved: Execution | None, changes: dict[str, Any], resume: bool) -> Execution:
    """How a training runs: as it did, or by the commands' defaults, with what is given changed."""
    changed: Execution = values.changed(saved or EXECUTION, {**changes.get("execution", {}), "resume": resume})
    return changed


def processes() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the first of the processes that torchrun started, which is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def shown(title: str, go_on: str, *, hidden: bool = False) -> "Iterator[TrainingShown]":
    """A bar for a training; one that is asked to stop exits with 130 and says how to go on."""
    from mvig_nas.training import StopTraining

    try:
        with Bar(title, "steps", hidden=hidden or not is_first()) as bar:
            yield TrainingShown(bar, title)
    except (StopTraining, KeyboardInterrupt) as stop:
        if is_first():
            click.echo(f"{str(stop) or 'stopped at once; the last checkpoint is kept.'}\nTo go on: {go_on}", err=True)
        sys.exit(130)


class TrainingShown:
    """A training's state in a bar; a line every half minute where there is no terminal. Rollbacks are told at once."""

    _SECONDS_BETWEEN_LINES = 30.0

    def __init__(self, bar: Bar, title: str) -> None:
        self.bar = bar
        self._title = title
        self._last = time.monotonic()

    def __call__(self, state: "Progress", which: str = "") -> None:
        title = f"{self._title} {which}".rstrip()
        if state.message:
            self.bar.line(f"{title}: {state.message}")
            return
        self.bar.show(state.step, state.steps, state.pace, title, state.counted)
        now = time.monotonic()
        if not self.bar.is_drawn and now - self._last > self._SECONDS_BETWEEN_LINES:
            self._last = now
            self.bar.line(f"{title}: {state.counted}, step {state.step} of {state.steps}, {state.pace}")
