"""The command line: each command parses, calls the library, saves, prints. Heavy imports stand inside the commands.

Usage errors exit 2, `MvigNasError` exits 1 with one line, Ctrl-C exits 130; anything else is a bug and shows itself.
"""

import signal
import sys
from importlib import import_module

import click

from mvig_nas import __version__
from mvig_nas.errors import MvigNasError, closest

# name -> module and attribute of the command, and the line that stands for it in the list of commands
COMMANDS = {
    "run": ("mvig_nas.cli.run", "From a folder of images to a Core ML package, in one command."),
    "search": ("mvig_nas.cli.search", "Search for the best network inside a latency budget."),
    "supernet": ("mvig_nas.cli.supernet", "Train a supernet, and check how it ranks networks."),
    "finalists": ("mvig_nas.cli.finalists", "Train the best networks of a search briefly, and pick by top-1."),
    "teacher": ("mvig_nas.cli.teachers", "Fine-tune a network to learn from on your images."),
    "retrain": ("mvig_nas.cli.retrain", "Train one network by itself, with a teacher."),
    "evaluate": ("mvig_nas.cli.evaluate", "Measure the accuracy of a trained network or a package."),
    "ablate": ("mvig_nas.cli.ablate", "Run an experiment: what each change to a network costs and gains."),
    "describe": ("mvig_nas.cli.describe", "Show where a network's parameters, MACs and milliseconds go."),
    "spaces": ("mvig_nas.cli.listing", "List the search spaces that ship."),
    "devices": ("mvig_nas.cli.listing", "List the phones that have a latency predictor, with its error."),
    "plans": ("mvig_nas.cli.listing", "List the training plans that ship."),
    "docs": ("mvig_nas.cli.docs", "Print a page of the documentation."),
    "sample": ("mvig_nas.cli.sample", "Draw architectures of a search space."),
    "export": ("mvig_nas.cli.export", "Write a network as a Core ML package."),
    "verify": ("mvig_nas.cli.verify", "Check a Core ML package, and what of it leaves the Neural Engine."),
    "measure": ("mvig_nas.cli.measure", "Measure the latency of networks on a device."),
    "log": ("mvig_nas.cli.log", "Check, merge and import device logs."),
    "predictor": ("mvig_nas.cli.predictor", "Fit a latency predictor to a device log, and evaluate it."),
}


class _LazyGroup(click.Group):
    """Imports a command's module only when that command runs, so that the list of commands appears at once."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse empty arguments, whichever command they are of: an empty path would be the current folder."""
        for before, argument in zip(["", *args], args, strict=False):
            if not argument:
                after = f" after {before}" if before else ""
                raise click.UsageError(
                    f"Every argument must have a value, got an empty one{after}; is a variable of the shell unset?", ctx
                )
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which a user meets them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its own module."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names; a misspelt one is refused with the nearest."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}; {closest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mvig-nas")
def cli() -> None:
    """Find a MobileViG-like network that fits a latency budget on an iPhone.

    Start with: mvig-nas search --latency-budget 1.0ms
    """


def _hear_requests_to_stop() -> None:
    """Take a scheduler's SIGTERM and a closed terminal's SIGHUP for Ctrl-C, so that every command says how to go on.

    A SIGHUP that is ignored, as nohup has it, stays so.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def main() -> None:
    """Entry point of `mvig-nas`."""
    _hear_requests_to_stop()
    try:
        cli(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        if isinstance(stop.__cause__, EOFError):  # click takes it for Ctrl-D, but no command reads the keyboard
            raise stop.__cause__ from None
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
