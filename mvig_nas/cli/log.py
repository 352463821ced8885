"""`mvig-nas log`: device logs checked, merged, and made from the tables of others."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.generated import GroupedCommand, options_of
from mvig_nas.cli.options import json_option
from mvig_nas.device_log import Constants

if TYPE_CHECKING:
    from mvig_nas.device_log import Device, DeviceLog, Measurement

_MIXED = click.option(
    "--allow-mixed", is_flag=True, help="Take rows of several devices, systems or compute units in one log."
)
_OUT = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE", help="A new log to write."
)


@click.group()
def log() -> None:
    """Check, merge and import device logs: measured latencies, one JSON object a line."""


@log.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LOG...")
@_MIXED
@json_option()
def check(logs: tuple[Path, ...], allow_mixed: bool, as_json: bool) -> None:
    """Show what each LOG holds, and every line that is wrong. Exits 1 if one is."""
    from mvig_nas.cli.output import print_json, print_table
    from mvig_nas.device_log import inspect

    found = [(path, *inspect(path, allow_mixed)) for path in logs]
    if as_json:
        reports = [
            {
                "file": str(path),
                "rows": len(rows.rows),
                "networks": len(rows.networks),
                "devices": [_figures(device, rows.rows) for device in rows.devices],
                "warnings": list(rows.warnings),
                "problems": [{"line": problem.line, "message": problem.message} for problem in problems],
            }
            for path, rows, problems in found
        ]
        print_json({"logs": reports})
    else:
        for path, rows, problems in found:
            print_table(
                f"{path}: {len(rows.rows)} good rows of {len(rows.networks)} networks, {len(problems)} problems",
                ["device", "compute units", "rows", "networks", "ms", "spread"],
                [_cells(_figures(device, rows.rows)) for device in rows.devices],
            )
            for warning in rows.warnings:
                click.echo(f"warning: {warning}")
            for problem in problems:
                click.echo(f"{path}, {problem}")
    if any(problems for _, _, problems in found):
        sys.exit(1)


@log.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LOG...")
@_OUT
@_MIXED
@json_option()
def merge(logs: tuple[Path, ...], out: Path, allow_mixed: bool, as_json: bool) -> None:
    """Write the rows of all LOGs to one new file, by time, each once."""
    from mvig_nas import device_log

    read = [device_log.read(path, allow_mixed) for path in logs]
    merged = device_log.merge(read, allow_mixed)
    device_log.write(out, merged)
    repeated = sum(len(each.rows) for each in read) - len(merged.rows)
    _tell(merged, out, as_json, f"{repeated} rows were in several logs.", {"repeated": repeated})


@log.command("import", cls=GroupedCommand)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.csv")
@click.option(
    "--columns", required=True, multiple=True, metavar="ENTRY=COLUMN,...",
    help="Where entries of the log come from, e.g. network=model,resolution=size,latency_ms=ms.",
)  # fmt: skip
@click.option("--unit", type=click.Choice(["ms", "us", "s"]), required=True, help="Unit of the file's latencies.")
@options_of(Constants, title="Where no column gives it")
@_OUT
@_MIXED
@json_option()
def import_csv(
    file: Path, columns: tuple[str, ...], unit: str, constants: Constants, out: Path, allow_mixed: bool, as_json: bool
) -> None:
    """Make a log from a CSV file with a header.

    A row names its network by an architecture (JSON, or a preset), by a timm model and its resolution, or by a
    package's fingerprint, and gives latency_ms, or samples_ms separated by spaces.
    """
    from mvig_nas import device_log

    imported = device_log.read_csv(file, _mapping(columns), unit, constants.given)
    device_log.write(out, device_log.merge([imported], allow_mixed))
    _tell(imported, out, as_json)


def _mapping(columns: Iterable[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for pair in (pair for option in columns for pair in option.split(",")):
        entry, separator, column = pair.partition("=")
        if not separator or not entry.strip() or not column.strip():
            raise click.BadParameter(f"must be ENTRY=COLUMN,..., got {pair!r}.", param_hint="--columns")
        if entry.strip() in mapping:
            raise click.BadParameter(f"must name an entry once, got {entry.strip()!r} twice.", param_hint="--columns")
        mapping[entry.strip()] = column.strip()
    return mapping


def _tell(written: "DeviceLog", out: Path, as_json: bool, more: str = "", values: dict[str, Any] | None = None) -> None:
    from mvig_nas.cli.output import print_json

    if as_json:
        print_json({"file": str(out), "rows": len(written.rows), "warnings": list(written.warnings), **(values or {})})
        return
    for warning in written.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{len(written.rows)} rows of {len(written.networks)} networks in {out}. {more}".rstrip())


def _figures(device: "Device", rows: "Sequence[Measurement]") -> dict[str, Any]:
    """Of the rows of one device; `spread` is the median of their spreads, as shares of the latency."""
    from dataclasses import asdict
    from statistics import median

    own = [row for row in rows if row.device == device]
    spreads = [row.spread_ms / row.latency_ms for row in own if row.spread_ms is not None]
    return {
        **asdict(device),
        "rows": len(own),
        "networks": len({row.network_label for row in own}),
        "latency_ms": [min(row.latency_ms for row in own), max(row.latency_ms for row in own)],
        "spread": median(spreads) if spreads else None,
    }


def _cells(figures: dict[str, Any]) -> list[str]:
    from rich.markup import escape

    low_ms, high_ms = figures["latency_ms"]
    return [
        escape(f"{figures['name']} ({figures['chip']}, {figures['os']} {figures['os_version']})"),
        figures["compute_units"],
        str(figures["rows"]),
        str(figures["networks"]),
        f"{low_ms:.3f} to {high_ms:.3f}",
        "" if figures["spread"] is None else f"{figures['spread']:.1%}",
    ]
