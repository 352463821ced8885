"""`mvig-nas search`: the best-scoring architecture inside a budget."""

import sys
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas import run_folder
from mvig_nas.cli.generated import is_given
from mvig_nas.cli.options import (
    BYTES,
    COUNT,
    DURATION,
    data_option,
    device_option,
    json_option,
    seed_option,
    space_option,
)
from mvig_nas.cli.progress import Bar

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search import Progress, Study
    from mvig_nas.search.contracts import Score

_RAY_ONLY = ("address", "workers", "cpus_per_worker", "gpus_per_worker", "evaluation_timeout")
_PROPOSALS_PER_WORKER = 2  # so that few wait for the last of a turn


@click.command()
@click.option(
    "--latency-budget", "latency_ms", type=DURATION, metavar="DURATION", help="At most this long, e.g. 1.0ms or 900us."
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    help="Fit the budget with this probability, e.g. 0.9, rather than by the prediction itself.",
)
@click.option("--max-params", "parameters", type=COUNT, metavar="COUNT", help="At most so many parameters, e.g. 6M.")
@click.option(
    "--max-macs", "macs", type=COUNT, metavar="COUNT", help="At most so many multiply-accumulates, e.g. 700M."
)
@click.option(
    "--max-memory", "memory_bytes", type=BYTES, metavar="SIZE", help="At most so much activation memory, e.g. 2MB."
)
@click.option("--max-weights", "weight_bytes", type=BYTES, metavar="SIZE", help="At most so large weights, e.g. 10MB.")
@click.option("--front", is_flag=True, help="Trace the whole score/latency front instead of one winner.")
@device_option()
@space_option()
@click.option(
    "--score",
    default=None,
    metavar="NAME",
    help="What to maximise: a proxy (docs/scores.md), or supernet:PATH.  [default: naswot]",
)
@data_option(required=False, help="Images that the supernet was trained on, for --score supernet:PATH.")
@click.option("--sampler", default="auto", show_default=True, metavar="NAME", help="How to propose architectures.")
@click.option("--evaluations", type=click.IntRange(1), default=80, show_default=True, help="Scores to compute.")
@seed_option()
@click.option("--time-limit", type=DURATION, metavar="DURATION", help="Begin no score after so long, e.g. 60s.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder.  [default: a new one in results/runs]"
)
@click.option("--resume", is_flag=True, help="Go on with the search in --out; options not given are taken from it.")
@click.option(
    "--evaluator",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Scores are computed in this process, or by the workers of Ray (docs/cluster.md).",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    hidden=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, value: _renamed(ctx, value),
)
@click.option("--address", metavar="auto|HOST:PORT", help="Of the Ray cluster.  [default: start Ray on this machine]")
@click.option(
    "--workers", type=click.IntRange(1), help="Scores computed at once (ray).  [default: what there is room for]"
)
@click.option("--cpus-per-worker", type=click.FloatRange(0, min_open=True), help="(ray)  [default: 1]")
@click.option("--gpus-per-worker", type=click.FloatRange(0), help="May be a fraction (ray).  [default: 0]")
@click.option(
    "--evaluation-timeout", type=DURATION, metavar="DURATION", help="Give up a score after so long (ray), e.g. 10min."
)
@click.option(
    "--batch", type=click.IntRange(1),
    help="Proposals a turn at least; part of the search, like the seed.  [default: 1; ray: twice the workers]",
)  # fmt: skip
@json_option()
@click.pass_context
def search(ctx: click.Context, /, as_json: bool, out: Path | None, resume: bool, **options: Any) -> None:
    """Search for the best network inside a latency budget.

    By default the score is a training-free proxy: it orders networks, it is no accuracy. A supernet's is top-1 of its
    sub-networks on held-out training images.
    """
    from mvig_nas import scores, shipped
    from mvig_nas.budget import Budget
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.report import preset_rows, write_report
    from mvig_nas.search import search as run_search
    from mvig_nas.search_space import SearchSpace

    space: SearchSpace | None = None
    if resume:
        space = _take_from_study(ctx, out, options)
    limits = {name: options[name] for name in ("latency_ms", "parameters", "macs", "memory_bytes", "weight_bytes")}
    if not options["front"] and all(limit is None for limit in limits.values()):
        raise click.UsageError("Give a budget, e.g. --latency-budget 1.0ms, or --front.")
    if space is None:
        space = SearchSpace.from_toml(shipped.space_path(options["space"]))
    budget = Budget(**limits, confidence=options["confidence"])
    latency = ArchitectureLatency.load(options["device"])
    data: Path | None = options["data"]
    score = scores.load(options["score"] or scores.DEFAULT, seed=options["seed"], data=data, space=space)
    folder = out or _new_folder(space.name, options)
    began = time.monotonic()
    # Ray tells of dead workers on standard output, which is for the result
    told: Any = nullcontext() if options["evaluator"] == "local" else redirect_stdout(sys.stderr)
    try:
        with told, _evaluator(ctx, score, options) as evaluator, Bar("scoring", hidden=as_json) as bar:
            study = run_search(
                space,
                score,
                latency,
                budget,
                evaluations=options["evaluations"],
                sampler=options["sampler"],
                seed=options["seed"],
                front=options["front"],
                folder=folder,
                resume=resume,
                time_limit_s=None if options["time_limit"] is None else options["time_limit"] / 1e3,
                evaluator=evaluator,
                batch=options["batch"] or (1 if evaluator is None else _PROPOSALS_PER_WORKER * evaluator.workers),
                labels={"device": options["device"]} | ({} if data is None else {"data": str(data)}),
                on_candidate=_Shown(bar),
            )
    except KeyboardInterrupt:
        click.echo(
            f"\ninterrupted; every scored candidate is saved. To go on: {_resume_command(folder, options)}", err=True
        )
        sys.exit(130)
    seconds = time.monotonic() - began
    presets = preset_rows(study, latency, score)
    files = write_report(study, presets, folder, latency, command=_command(), seconds=seconds)
    _print(study, presets, files, latency, seconds=seconds, as_json=as_json)


def _renamed(ctx: click.Context, evaluator: str | None) -> None:
    """`--engine` is what `--evaluator` was called before; it goes with the next release."""
    if evaluator is not None:
        click.echo("--engine is now called --evaluator.", err=True)
        ctx.default_map = {**(ctx.default_map or {}), "evaluator": evaluator}


def _take_from_study(ctx: click.Context, out: Path | None, options: dict[str, Any]) -> Any:
    """Options that were not given take the run's values; returns the run's space unless another was asked for."""
    from mvig_nas.search import Study

    if out is None:
        raise click.UsageError("--resume needs the run folder: --out results/runs/NAME.")
    settings = Study.load(out).settings
    saved = {
        **settings.budget.to_dict(),
        "front": settings.front,
        "device": settings.labels.get("device", options["device"]),
        "data": Path(settings.labels["data"]) if "data" in settings.labels else None,
        "score": settings.score,
        "sampler": settings.sampler,
        "evaluations": settings.evaluations,
        "seed": settings.seed,
        "batch": settings.batch,
    }
    for name, value in saved.items():
        if not is_given(ctx, name):
            options[name] = value
    return None if is_given(ctx, "space") else settings.space


def _new_folder(space: str, options: dict[str, Any]) -> Path:
    target = f"{options['latency_ms']:g}ms" if options["latency_ms"] else "front" if options["front"] else "budget"
    return run_folder.new_folder(f"{space}-{target}", options["seed"])


def _command() -> str:
    return " ".join(["mvig-nas", *sys.argv[1:]])


def _resume_command(folder: Path, options: dict[str, Any]) -> str:
    by_ray = "" if options["evaluator"] == "local" else " --evaluator ray"
    address = "" if options["address"] is None else f" --address {options['address']}"
    return f"mvig-nas search --resume --out {folder}{by_ray}{address}"


def _evaluator(ctx: click.Context, score: "Score", options: dict[str, Any]) -> Any:
    """A context of what computes the scores; None in it for this process."""
    if options["evaluator"] == "local":
        for name in _RAY_ONLY:
            if options[name] is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} is of --evaluator ray.", ctx)
        return nullcontext()
    from mvig_nas.search.evaluators.ray_actors import RayEvaluator

    timeout_ms = options["evaluation_timeout"]
    return RayEvaluator(
        score,
        address=options["address"],
        workers=options["workers"],
        cpus=options["cpus_per_worker"] or 1,
        gpus=options["gpus_per_worker"] or 0,
        timeout_s=None if timeout_ms is None else timeout_ms / 1e3,
    )


class _Shown:
    """A search's state in a bar: rate and the best so far."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._began = time.monotonic()
        self._first: int | None = None

    def __call__(self, state: "Progress") -> None:
        if self._first is None:
            self._first = state.judged - 1
        rate = (state.judged - self._first) / max(time.monotonic() - self._began, 1e-3)
        best = "" if state.best is None else f", best {state.best.score:.3f} at {state.best.latency_ms:.3f} ms"
        self._bar.show(state.evaluated, state.evaluations, f"{state.judged} judged, {rate:.0f}/s{best}")


def _print(
    study: "Study",
    presets: list[dict[str, Any]],
    files: dict[str, Path],
    latency: "ArchitectureLatency",
    *,
    seconds: float,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from mvig_nas.cli.output import count, interval, print_json, print_table
    from mvig_nas.report import latency_note, outside_note, predictor_note, score_note

    winner = study.winner
    outside = [] if winner is None else latency.outside([winner.architecture])[0]
    if as_json:
        print_json(
            {
                "winner": None if winner is None else winner.to_dict(),
                "unlike_measured": outside,
                "presets": presets,
                "judged": study.judged,
                "evaluated": study.evaluated,
                "predictor_error": None if study.predictor_error is None else asdict(study.predictor_error),
                "seconds": seconds,
                "ended": study.ended,
                "folder": str(study.folder),
                "files": {name: str(path) for name, path in files.items()},
            }
        )
        return
    click.echo(
        f"{study.judged} architectures judged by predicted latency, {study.evaluated} scored by {study.settings.score} "
        f"with {study.settings.sampler} in {seconds:.1f} s."
    )
    if winner is None or winner.interval_ms is None or winner.totals is None:
        click.echo("No architecture inside the budget could be scored; see candidates.jsonl for the reasons.")
        return
    row = ["winner", f"{winner.score:.3f}", f"{winner.latency_ms:.3f}", interval(*winner.interval_ms)]
    rows = [[*row, count(winner.totals.parameters), count(winner.totals.macs), winner.fingerprint]]
    for preset in presets:
        name = preset["name"] if preset["is_within_budget"] else f"({preset['name']})"
        value = "-" if preset["score"] is None else f"{preset['score']:.3f}"
        cells = [name, value, f"{preset['latency_ms']:.3f}", interval(*preset["interval_ms"])]
        rows.append([*cells, count(preset["parameters"]), count(preset["macs"]), preset["fingerprint"]])
    print_table(
        f"Predicted for {study.settings.labels['device']}",
        ["architecture", f"score ({study.settings.score})", "ms", "80 % interval", "parameters", "MACs", "fingerprint"],
        rows,
    )
    if not all(preset["is_within_budget"] for preset in presets):
        click.echo("In brackets: not within the budget or the space, for comparison only.")
    if study.settings.front:
        click.echo(f"{len(study.front)} architectures on the front: {files['front']}")
    if study.predictor_error is not None:
        click.echo(predictor_note(study.predictor_error))
    click.echo(f"{score_note(study.settings.score)} {latency_note(latency)}")
    if outside:
        click.echo(f"warning: the winner is {outside_note(latency.predictor.device, outside)}", err=True)
    click.echo(f"Report: {files['report']}")
    click.echo(f"Next: mvig-nas describe {files['winner']}")
    click.echo(f"      mvig-nas export {files['winner']}")
