"""`mvig-nas sample`: architectures of a space, one JSON object a line."""

from pathlib import Path

import click

from mvig_nas.cli._options import DURATION, device_option, json_option, seed_option, space_option

_TRIES_PER_SAMPLE = 1000


@click.command()
@space_option()
@click.option("-n", "--number", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="How many.")
@seed_option()
@click.option(
    "--latency-budget", "latency_ms", type=DURATION, metavar="DURATION", help="Keep those predicted to be as fast."
)
@device_option()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; standard output without it."
)
@json_option()
def sample(
    space: str, number: int, seed: int, latency_ms: float | None, device: str, out: Path | None, as_json: bool
) -> None:
    """Draw different architectures uniformly from a search space."""
    import random

    from mvig_nas.architecture import Architecture
    from mvig_nas.cli._inputs import load_latency, load_space
    from mvig_nas.cli._output import print_json
    from mvig_nas.errors import MvigNasError
    from mvig_nas.files import save

    choices = load_space(space)
    if number > choices.size:
        raise MvigNasError(f"`--number` must be at most the space's size, {choices.size}, got {number}; ask for fewer.")
    latency = load_latency(device) if latency_ms is not None else None
    rng = random.Random(seed)
    found: dict[Architecture, None] = {}
    for _ in range(_TRIES_PER_SAMPLE):
        drawn = [choices.sample(rng) for _ in range(number)]
        if latency is not None and latency_ms is not None:
            fits = latency.predict_ms(drawn) <= latency_ms
            drawn = [architecture for architecture, fit in zip(drawn, fits, strict=True) if fit]
        found |= dict.fromkeys(drawn)
        if len(found) >= number:
            break
    else:
        raise MvigNasError(
            f"only {len(found)} of {number} architectures were found in {_TRIES_PER_SAMPLE * number} draws from "
            f"{space!r}; ask for fewer, or for a larger budget."
        )
    chosen = list(found)[:number]
    lines = "".join(architecture.to_json() + "\n" for architecture in chosen)
    if out is None:
        click.echo(lines, nl=False)
        return
    save(out, lines)
    if as_json:
        print_json({"file": str(out), "architectures": number})
    else:
        click.echo(f"{number} architectures of {choices.name} in {out}")
