"""`mvig-nas sample`: architectures of a space, one JSON object a line."""

from pathlib import Path

import click

from mvig_nas.cli.generated import GroupedCommand, options_of
from mvig_nas.cli.options import json_option
from mvig_nas.search.drawing import SampleRequest, draw


@click.command(cls=GroupedCommand)
@options_of(SampleRequest, "request")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, one architecture a line; they are printed if it is not given.",
)
@json_option()
def sample(request: SampleRequest, out: Path | None, as_json: bool) -> None:
    """Draw different architectures from a search space, to look at or to measure."""
    from mvig_nas.cli.output import print_json
    from mvig_nas.files import save

    lines = "".join(architecture.to_json() + "\n" for architecture in draw(request))
    if out is None:
        click.echo(lines, nl=False)
        return
    save(out, lines)
    if as_json:
        print_json({"file": str(out), "architectures": request.number})
    else:
        click.echo(f"{request.number} architectures of {request.space} in {out}")
