"""`mvig-nas measure`: networks timed on a device, into its log."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.generated import GroupedCommand, is_given, options_of
from mvig_nas.cli.options import json_option
from mvig_nas.cli.progress import Bar
from mvig_nas.measure import BackendOptions, MeasureSettings

if TYPE_CHECKING:
    from mvig_nas.device_log import Device
    from mvig_nas.measure import MeasureProgress, Session

_COREML_ONLY = {"udids": "--device", "compute_units": "--compute-units", "chip": "--chip", "team": "--team"}


@click.command(cls=GroupedCommand)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option(
    "--backend", type=click.Choice(["coreml", "torch-cpu"]), required=True,
    help="Core ML on this Mac or on an iPhone connected to it, or torch on this computer's processor.",
)  # fmt: skip
@click.option(
    "--log", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE.jsonl",
    help="Log of the device, which is made if there is none. Networks that it holds are skipped.",
)  # fmt: skip
@click.option(
    "--device", "udids", metavar="UDID", multiple=True,
    help="A connected iPhone (coreml); several of one model share the work.  [default: this Mac]",
)  # fmt: skip
@options_of(BackendOptions, title="Device")
@options_of(MeasureSettings, title="Measuring")
@json_option()
@click.pass_context
def measure(
    ctx: click.Context, /, targets: tuple[str, ...], backend: str, log: Path, udids: tuple[str, ...],
    backend_options: BackendOptions, measure_settings: MeasureSettings, as_json: bool,
) -> None:  # fmt: skip
    """Measure the latency of networks at batch 1 and append it to a device's log.

    A TARGET is a preset, a JSON file with an architecture (such as a winner.json), a .jsonl file with many, timm:NAME,
    or, for coreml, a .mlpackage. The first one is the reference: measured between the others, it tells a device that
    becomes slower. Run the same command again to go on after a kill.
    """
    from mvig_nas import measure as measuring

    for name, shown in _COREML_ONLY.items() if backend == "torch-cpu" else ():
        if is_given(ctx, name):
            raise click.UsageError(f"{shown} is of --backend coreml.", ctx)
    if backend == "coreml" and is_given(ctx, "threads"):
        raise click.UsageError("--threads is of --backend torch-cpu.", ctx)
    if len(set(udids)) < len(udids):
        raise click.UsageError("every --device must be another iPhone, got one twice.", ctx)
    backends = measuring.open_backends(backend, udids, backend_options)
    named = [target for name in targets for target in measuring.targets_of(name)]
    try:
        with Bar("measuring", "timings", hidden=as_json) as bar:
            session = measuring.measure(named, backends, log, measure_settings, on_progress=partial(_show, bar))
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; measured networks are in {log}. To go on, run the same command again.", err=True)
        sys.exit(130)
    _print(session, backends[0].device, log, as_json)


def _show(bar: Bar, state: "MeasureProgress") -> None:
    bar.show(state.done, state.total, state.now)
    if "pause" in state.now or "failed" in state.now:
        bar.line(state.now)


def _print(session: "Session", device: "Device", log: Path, as_json: bool) -> None:
    from mvig_nas.cli.output import print_json, print_table

    if as_json:
        measured = [
            {
                "network": row.network_label,
                "latency_ms": row.latency_ms,
                "spread_ms": row.spread_ms,
                "placement": dict(row.placement),
                "notes": dict(row.notes),
            }
            for row in session.rows
        ]
        print_json(
            {
                "log": str(log),
                "device": device.name,
                "compute_units": device.compute_units,
                "measured": measured,
                "skipped": [target.label for target in session.skipped],
                "warnings": list(session.warnings),
                "units": [dataclasses.asdict(unit) for unit in session.units],
            }
        )
        return
    print_table(
        f"{device.name} ({device.chip}, {device.os} {device.os_version}), {device.compute_units}: milliseconds",
        ["network", "ms", "spread", "placement", "reference"],
        [_cells(row.network_label, row) for row in session.rows],
    )
    if len(session.units) > 1:
        click.echo(_compared(session))
    for unit in session.units:
        if unit.failure is not None:
            click.echo(f"warning: {unit.name} failed, and the others measured its networks: {unit.failure}")
    for warning in session.warnings:
        click.echo(f"warning: {warning}")
    drifted = sum(bool(row.notes["rounds_drifted"]) for row in session.rows)
    if drifted:
        click.echo(f"Of {drifted}, rounds were kept in which the reference had drifted; see their notes.")
    click.echo(f"{len(session.rows)} networks measured, {len(session.skipped)} were in {log} before.")


def _compared(session: "Session") -> str:
    """What several devices took for the reference."""
    figures = ", ".join(
        f"{unit.name} {'none' if unit.reference_ms is None else f'{unit.reference_ms:.3f} ms'}"
        for unit in session.units
    )
    return f"Reference on each device: {figures}; slowest to fastest {session.reference_ratio:.2f}."


def _cells(label: str, row: Any) -> Sequence[str]:
    return [
        label,
        f"{row.latency_ms:.3f}",
        f"{row.spread_ms:.3f}",
        " ".join(f"{unit} {share:.0%}" for unit, share in row.placement.items()),
        f"{row.notes['reference_drift']:+.1%}",
    ]
