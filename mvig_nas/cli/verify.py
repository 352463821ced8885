"""`mvig-nas verify`: whether a package is what it states, and what a phone's Neural Engine will make of it."""

import sys
from pathlib import Path

import click

from mvig_nas.cli.options import json_option


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder that `retrain` left. The package must have its weights, its order of classes and its normalisation.",
)
@click.option(
    "--architecture",
    metavar="NAME|FILE",
    help="Preset or JSON file of the architecture that the package must be of.  [default: the one that the package "
    "names]",
)
@json_option()
@click.pass_context
def verify(ctx: click.Context, /, package: Path, model: Path | None, architecture: str | None, as_json: bool) -> None:
    """Check a Core ML package that was made at any time, on this computer or another.

    Its program and weights are compared with the SHA-256 that it states, with the architecture's kernel list and with
    the model, and the program is executed here in torch, not by Core ML. Operations that would leave the Neural
    Engine, and values that some engines overflow on, are warnings. The last line is the verdict; the exit code is 0
    for a verified package and 1 for any other.
    """
    from dataclasses import asdict

    from mvig_nas import coreml
    from mvig_nas.architecture import Architecture
    from mvig_nas.cli.output import print_json

    if model is not None and architecture is not None:
        raise click.UsageError(
            "--architecture is the model's own where --model is given; leave one of the two out.", ctx
        )
    asked = None if architecture is None else Architecture.load(architecture)
    found = coreml.inspect_package(package, model, asked)
    if as_json:
        print_json(
            {
                "package": str(package),
                "fingerprint": None if found.architecture is None else found.architecture.fingerprint,
                "is_verified": found.is_verified,
                "verdict": found.verdict,
                "findings": [asdict(each) for each in found.findings],
                "departures": [asdict(each) for each in found.departures],
                "sliced": found.sliced,
            }
        )
    else:
        click.echo(f"{package}")
        for each in found.findings:
            click.echo(f"  {each.part:15}{each.outcome:14}{each.text}")
        click.echo(found.verdict)
    if not found.is_verified:
        sys.exit(1)
