"""`mvig-nas spaces`, `devices` and `plans`: what ships with the package, and how good it is."""

from typing import Any

import click

from mvig_nas.cli.options import device_option, json_option


@click.command()
@device_option()
@json_option()
def spaces(device: str, as_json: bool) -> None:
    """List the shipped search spaces, with the predicted latency of their smallest and largest architectures."""
    from mvig_nas import kernels, shipped
    from mvig_nas.cli.output import count, print_json, print_table, say
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search_space import SearchSpace

    latency = ArchitectureLatency.load(device)
    found: list[dict[str, Any]] = []
    for name in shipped.space_names():
        space = SearchSpace.load(name)
        ends = [space.smallest, space.largest]
        low_ms, high_ms = latency.predict_ms(ends).tolist()
        totals = [kernels.totals(kernels.of(end)) for end in ends]
        found.append(
            {
                "name": name,
                "description": space.description,
                "architectures": space.size,
                "device": device,
                "latency_ms": [low_ms, high_ms],
                "parameters": [total.parameters for total in totals],
                "file": str(shipped.space_path(name)),
            }
        )
    if as_json:
        print_json(found)
        return
    rows = [
        [
            each["name"],
            f"{each['architectures']:.1e}",
            " to ".join(count(value) for value in each["parameters"]),
            " to ".join(f"{value:.2f}" for value in each["latency_ms"]),
        ]
        for each in found
    ]
    print_table(
        f"Search spaces, from smallest to largest architecture ({device})",
        ["space", "architectures", "parameters", "predicted ms"],
        rows,
    )
    for each in found:
        say(f"{each['name']}: {each['description']}.")
    click.echo("Next: mvig-nas search --space NAME --latency-budget 1.0ms")


@click.command()
@json_option()
def devices(as_json: bool) -> None:
    """List the phones with a latency predictor, and how far each can be trusted."""
    from mvig_nas import shipped
    from mvig_nas.cli.output import print_json, print_table, say
    from mvig_nas.latency import LatencyPredictor, chip_of

    cards: list[dict[str, Any]] = []
    for name in shipped.device_names():
        predictor = LatencyPredictor.load(shipped.predictor_folder(name))
        own = {"device": name, "chip": chip_of(name), "measurements": predictor.measurements_.get(name, 0)}
        few = {} if predictor.few_rows is None else {"rests_on_rows": predictor.few_rows}
        cards.append({**predictor.errors_, **own, **few})
    if as_json:
        print_json(cards)
        return
    figures = ("median_error", "median_error_unknown_laboratory", "mean_error", "coverage80")
    rows = [
        [
            card["device"],
            card["chip"],
            str(card["measurements"]),
            *(f"{card[name]:.1%}" if name in card else "" for name in figures),
            f"{card['spearman']:.3f}" if "spearman" in card else "",
        ]
        for card in cards
    ]
    print_table(
        "Latency predictors, each family of networks predicted by a fit that never saw it",
        [
            "device",
            "chip",
            "rows",
            "median error",
            "of a new lab",
            "mean error",
            "covered",
            "rank corr.",
        ],
        rows,
    )
    say(
        "Fitted to published latencies of other laboratories; all devices share one fit. `covered` is the share of "
        "networks inside their 80 % interval; `mvig-nas docs latency` has more."
    )
    if any("rests_on_rows" in card for card in cards):
        say(
            "A phone for which no error is shown has a newer chip. Its predictor is A15's, moved by the few rows that "
            "are published, and its intervals are wide. Measuring three networks on your own phone improves on it: "
            "`mvig-nas docs measuring_on_iphone` says how."
        )


@click.command()
@json_option()
def plans(as_json: bool) -> None:
    """List the shipped training plans, for `retrain --plan` and `supernet train --recipe`."""
    from mvig_nas import recipes
    from mvig_nas.cli.output import print_json, print_table, say

    found = []
    for name in recipes.names():
        plan = recipes.load_plan(name)
        found.append({"name": name, "description": recipes.description(name), **plan.to_dict()})
    if as_json:
        print_json(found)
        return
    rows = [
        [
            each["name"],
            str(each["epochs"]),
            str(each["batch_size"]),
            f"{each['learning_rate']:g}",
            each["distillation"]["teacher"] or "none",
        ]
        for each in found
    ]
    print_table("Training plans", ["plan", "epochs", "batch", "rate", "teacher"], rows)
    for each in found:
        say(f"{each['name']}: {each['description'][0].lower()}{each['description'][1:]}\n")
    click.echo("Next: mvig-nas retrain ARCH --data images --plan NAME")
