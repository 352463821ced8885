"""Parameter types and options that commands share."""

from pathlib import Path

import click

from mvig_nas.cli.generated import Decorator, Quantity
from mvig_nas.cli.names import Name
from mvig_nas.shipped import DEFAULT_DEVICE

DURATION = Quantity("duration")
COUNT = Quantity("count")
BYTES = Quantity("bytes")


def device_option() -> Decorator:
    """The option `--device`."""
    return click.option(
        "--device",
        default=DEFAULT_DEVICE,
        show_default=True,
        type=Name("device"),
        metavar="NAME|FOLDER",
        help=Name("device").help("Phone whose latency is predicted, or a folder with a fitted predictor."),
    )


def resumed_folder(out: Path | None) -> Path:
    """The run folder of `--resume`.

    Raises:
        click.UsageError: `--out` is not given.
    """
    if out is None:
        context = click.get_current_context(silent=True)
        raise click.UsageError("--resume needs the run folder: --out results/runs/NAME.", context)
    return out


def space_option() -> Decorator:
    """The option `--space`."""
    return click.option(
        "--space",
        default="mobilevig",
        show_default=True,
        type=Name("space"),
        metavar="NAME|FILE.toml",
        help=Name("space").help("Search space, or a file of your own."),
    )


def seed_option() -> Decorator:
    """The option `--seed`."""
    return click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Seed of all random numbers; the same seed gives the same result.",
    )


def json_option() -> Decorator:
    """The option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs instead of tables.")


def data_option(
    required: bool = True, help: str = "Folder of images, as train/CLASS/*.jpg and val/CLASS/*.jpg."
) -> Decorator:
    """The option `--data`."""
    return click.option("--data", type=click.Path(path_type=Path), required=required, metavar="FOLDER", help=help)
