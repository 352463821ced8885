"""`mvig-nas sample`: architectures of a space, one JSON object a line."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvig_nas.cli.generated import is_given
from mvig_nas.cli.options import DURATION, device_option, json_option, seed_option, space_option

if TYPE_CHECKING:
    from mvig_nas.architecture import Architecture
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search_space import SearchSpace

_TRIES_PER_SAMPLE = 1000


@click.command()
@space_option()
@click.option("-n", "--number", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="How many.")
@seed_option()
@click.option(
    "--spread", type=click.Choice(["uniform", "latency"]), default="uniform", show_default=True,
    help="Every choice equally likely; or, to be measured: over the range of latencies, the most telling first.",
)  # fmt: skip
@click.option(
    "--against", metavar="NAME|FOLDER",
    help="With --spread latency: what would teach most to this device's predictor, or to one that starts from it.",
)  # fmt: skip
@click.option(
    "--latency-budget", "latency_ms", type=DURATION, metavar="DURATION", help="Keep those predicted to be as fast."
)
@device_option()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; standard output without it."
)
@json_option()
@click.pass_context
def sample(
    ctx: click.Context,
    /,
    space: str,
    number: int,
    seed: int,
    spread: str,
    against: str | None,
    latency_ms: float | None,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Draw different architectures from a search space, to look at or to measure."""
    from mvig_nas.cli.output import print_json
    from mvig_nas.errors import MvigNasError
    from mvig_nas.files import save
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search_space import SearchSpace

    choices = SearchSpace.load(space)
    if against is not None and spread != "latency":
        raise click.UsageError("--against is of --spread latency.", ctx)
    if number > choices.size:
        raise MvigNasError(f"`--number` must be at most the space's size, {choices.size}, got {number}; ask for fewer.")
    if spread == "uniform":
        chosen = _uniform(
            choices, number, seed, None if latency_ms is None else ArchitectureLatency.load(device), latency_ms
        )
    else:
        from mvig_nas.latency.selection import spread as pick

        predictor = None if against is None else ArchitectureLatency.load(against).predictor
        latency = ArchitectureLatency.load(against if against is not None and not is_given(ctx, "device") else device)
        chosen = pick(choices, latency, number, against=predictor, seed=seed, budget_ms=latency_ms)
    lines = "".join(architecture.to_json() + "\n" for architecture in chosen)
    if out is None:
        click.echo(lines, nl=False)
        return
    save(out, lines)
    if as_json:
        print_json({"file": str(out), "architectures": number})
    else:
        click.echo(f"{number} architectures of {choices.name} in {out}")


def _uniform(
    space: "SearchSpace", number: int, seed: int, latency: "ArchitectureLatency | None", budget_ms: float | None
) -> "list[Architecture]":
    """Different architectures drawn uniformly, within a budget where there is one."""
    import random

    from mvig_nas.errors import MvigNasError

    rng = random.Random(seed)
    found: dict[Architecture, None] = {}
    for _ in range(_TRIES_PER_SAMPLE):
        drawn = [space.sample(rng) for _ in range(number)]
        if latency is not None and budget_ms is not None:
            fits = latency.predict_ms(drawn) <= budget_ms
            drawn = [architecture for architecture, fit in zip(drawn, fits, strict=True) if fit]
        found |= dict.fromkeys(drawn)
        if len(found) >= number:
            return list(found)[:number]
    raise MvigNasError(
        f"only {len(found)} of {number} architectures were found in {_TRIES_PER_SAMPLE * number} draws from "
        f"{space.name!r}; ask for fewer, or for a larger budget."
    )
