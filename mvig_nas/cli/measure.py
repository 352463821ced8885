"""`mvig-nas measure`: networks timed on a device, into its log."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.options import DURATION, json_option, seed_option
from mvig_nas.cli.progress import Bar

if TYPE_CHECKING:
    from mvig_nas.device_log import Device
    from mvig_nas.measure import Backend, Progress, Session, Target

_COREML_ONLY = {"devices": "--device", "compute_units": "--compute-units", "chip": "--chip", "team": "--team"}
_DEFAULT_UNITS = "cpu-and-ne"


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option(
    "--backend", "backend_name", type=click.Choice(["coreml", "torch-cpu"]), required=True,
    help="Core ML on a Mac or an iPhone connected to it, or torch on this computer's CPU.",
)  # fmt: skip
@click.option(
    "--log", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE.jsonl",
    help="The device's log. Networks that it holds are skipped.",
)  # fmt: skip
@click.option(
    "--device", "devices", metavar="UDID", multiple=True,
    help="A connected iPhone (coreml); give several of one model to share the work.  [default: this Mac]",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Of the device in the log, e.g. iphone-13-mini; needed with --device.")
@click.option("--chip", metavar="NAME", help="Of the iPhone, where mvig-nas does not know it (coreml).")
@click.option("--team", metavar="ID", help="Apple developer team that signs the measuring app (coreml, --device).")
@click.option(
    "--compute-units", type=click.Choice(["all", "cpu-and-ne", "cpu-and-gpu", "cpu-only"]),
    help=f"What models may use (coreml).  [default: {_DEFAULT_UNITS}]",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Of torch (torch-cpu).  [default: 1]")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True, help="Visits of each network.")
@click.option("--iterations", type=click.IntRange(1), default=50, show_default=True, help="Timed runs in a visit.")
@click.option(
    "--together", type=click.IntRange(1), default=8, show_default=True,
    help="Networks that are loaded at once and take turns; a kill loses at most these.",
)  # fmt: skip
@click.option(
    "--cool-down", "cool_down_ms", type=DURATION, default="0.2s", show_default=True, help="Rest before each visit."
)
@click.option(
    "--drift", type=click.FloatRange(0, min_open=True), default=0.1, show_default=True,
    help="Share by which the first TARGET may become slower or faster before a round is repeated.",
)  # fmt: skip
@click.option("--repeats", type=click.IntRange(0), default=3, show_default=True, help="Rounds repeated for that.")
@click.option(
    "--pause", "pause_ms", type=DURATION, default="30s", show_default=True, help="Rest before such a repetition."
)
@seed_option()
@json_option()
@click.pass_context
def measure(ctx: click.Context, /, targets: tuple[str, ...], as_json: bool, log: Path, **options: Any) -> None:
    """Measure the latency of networks at batch 1 and append it to a device's log.

    A TARGET is a preset, a JSON file with an architecture (such as a winner.json), a .jsonl file with many, timm:NAME,
    or, for coreml, a .mlpackage. The first one is the reference: measured between the others, it tells a device that
    becomes slower. Run the same command again to go on after a kill.
    """
    from mvig_nas import measure as measuring

    settings = measuring.Settings(
        rounds=options["rounds"],
        iterations=options["iterations"],
        cool_down_s=options["cool_down_ms"] / 1e3,
        together=options["together"],
        drift=options["drift"],
        repeats=options["repeats"],
        pause_s=options["pause_ms"] / 1e3,
        seed=options["seed"],
    )
    backends = _backends(ctx, options)
    read = [target for name in targets for target in _targets(name)]
    try:
        with Bar("measuring", hidden=as_json) as bar:
            session = measuring.measure(read, backends, log, settings, on_progress=partial(_show, bar))
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; measured networks are in {log}. To go on, run the same command again.", err=True)
        sys.exit(130)
    _print(session, backends[0].device, log, as_json)


def _backends(ctx: click.Context, options: dict[str, Any]) -> "list[Backend]":
    from mvig_nas.measure import CoreMl, TorchCpu

    if options["backend_name"] == "torch-cpu":
        for name, shown in _COREML_ONLY.items():
            if options[name] not in (None, ()):
                raise click.UsageError(f"{shown} is of --backend coreml.", ctx)
        return [TorchCpu(options["threads"] or 1, options["name"] or "host")]
    if options["threads"] is not None:
        raise click.UsageError("--threads is of --backend torch-cpu.", ctx)
    udids = options["devices"] or (None,)
    if len(set(udids)) < len(udids):
        raise click.UsageError("every --device must be another iPhone, got one twice.", ctx)
    return [
        CoreMl(
            options["compute_units"] or _DEFAULT_UNITS,
            udid=udid,
            name=options["name"],
            chip_name=options["chip"],
            team=options["team"] or "",
        )
        for udid in udids
    ]


def _targets(name: str) -> "list[Target]":
    from mvig_nas.architecture import Architecture, read_architectures
    from mvig_nas.measure import Target, package_target, timm_target

    if name.startswith("timm:"):
        return [timm_target(name)]
    path = Path(name)
    if path.suffix == ".mlpackage":
        return [package_target(path)]
    if path.suffix != ".jsonl":
        return [Target(Architecture.load(name))]
    return [Target(architecture) for architecture in read_architectures(path)]


def _show(bar: Bar, state: "Progress") -> None:
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
