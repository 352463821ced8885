"""Tables for people, JSON for machines."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mvig_nas.run_folder import SKIPPED
from mvig_nas.standard_error import standard_error

_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def print_json(values: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(values, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], footer: bool = False) -> None:
    """Print a table, its first column left and the others right; with `footer` the last row is a total."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    click.echo(f"{title}\n")
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
    for index, row in enumerate(rows):
        if footer and index == len(rows) - 1:
            table.add_section()
        table.add_row(*row)
    Console(width=_width()).print(table)
    click.echo()


def print_markdown(text: str) -> None:
    """Print a text with headings and tables as people read it."""
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=_width()).print(Markdown(text))


def say_skipped(folder: Path) -> None:
    """Print which images the run in a folder leaves out, if it does."""
    if not (folder / SKIPPED).is_file():
        return
    from mvig_nas.image_data import read_skipped, skipped_line

    if line := skipped_line(read_skipped(folder) or ()):
        say(f"{line} The list is {folder / SKIPPED}.")


def say(text: str) -> None:
    """Print prose, broken between words where the terminal ends."""
    width = _width()
    click.echo("\n".join(textwrap.fill(line, width, **_WHOLE_WORDS) for line in text.splitlines()))


def _width() -> int:
    """Columns to print in: the terminal's, or those of COLUMNS. Piped output has none, and is not cut for that."""
    is_known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return shutil.get_terminal_size().columns if is_known else 160


def count(value: float) -> str:
    """A count as people read it: `5.27 M`, `662.1 M`, `1.53 G`."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.2f} {unit}" if value < 100 * scale else f"{value / scale:.1f} {unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """A number of bytes as people read it, in powers of 1,000: `10.5 MB`."""
    return f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def with_error(top1: float, images: int) -> str:
    """A top-1 (a fraction) with its standard error and what it was measured on: `28.9 % ± 4.8 of 90 images`."""
    return f"{100 * top1:.1f} % ± {100 * standard_error(top1, images):.1f} of {images:,} images"


def interval(low_ms: float, high_ms: float) -> str:
    """An interval of milliseconds: `0.91-1.12`."""
    return f"{low_ms:.2f}-{high_ms:.2f}"
