"""The command line: each command parses, calls the library, saves, prints. Heavy imports stand inside the commands.

Usage errors exit 2, `MvigNasError` exits 1 with one line, Ctrl-C exits 130; anything else is a bug and shows itself.
"""

import sys

import click

from mvig_nas import __version__
from mvig_nas.cli.describe import describe
from mvig_nas.cli.evaluate import evaluate
from mvig_nas.cli.export import export
from mvig_nas.cli.listing import devices, spaces
from mvig_nas.cli.log import log
from mvig_nas.cli.measure import measure
from mvig_nas.cli.predictor import predictor
from mvig_nas.cli.retrain import retrain
from mvig_nas.cli.sample import sample
from mvig_nas.cli.search import search
from mvig_nas.cli.supernet import supernet
from mvig_nas.errors import MvigNasError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mvig-nas")
def cli() -> None:
    """Find a MobileViG-like network that fits a latency budget on an iPhone.

    Start with: mvig-nas search --latency-budget 1.0ms
    """


for command in (
    search,
    supernet,
    retrain,
    evaluate,
    describe,
    spaces,
    devices,
    sample,
    export,
    measure,
    log,
    predictor,
):
    cli.add_command(command)


def main() -> None:
    """Entry point of `mvig-nas`."""
    try:
        cli(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MvigNasError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader (head, say) has what it wants; what is still buffered has nowhere to go.
        sys.stderr.close()
        sys.exit(0)
