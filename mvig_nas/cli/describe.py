"""`mvig-nas describe`: where a network's parameters, MACs and milliseconds go."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.options import device_option, json_option

if TYPE_CHECKING:
    from mvig_nas.architecture import Architecture
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.report import BackboneCosts

TIMM = "timm:"


@click.command()
@click.argument("target", metavar="ARCH|MODEL|timm:NAME")
@device_option()
@click.option(
    "--classes",
    type=click.IntRange(1),
    help="Classes that the network tells apart.  [default: 1000; of a MODEL its own]",
)
@click.option(
    "--features",
    type=int,
    metavar="PIXELS",
    help="Describe the network without its classifier, as the backbone of a detector or a segmenter, on square images "
    "of this many pixels, a multiple of 32.",
)
@json_option()
def describe(target: str, device: str, classes: int | None, features: int | None, as_json: bool) -> None:
    """Show a network part by part.

    ARCH is a preset (mobilevig_ti, mobilevigv2_s, greedyvig_m, ...) or a JSON file, MODEL a folder that `retrain` or
    timm left. Any network of timm's is traced.
    """
    from mvig_nas.architecture import Architecture
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.report import backbone_costs

    if target.startswith(TIMM):
        if features is not None:
            raise click.UsageError("--features must be of a network of the family, not of timm's; leave it out.")
        _describe_timm(target, device, classes, as_json)
        return
    if Path(target).is_dir():
        from mvig_nas.training.model_folder import read_model

        model = read_model(Path(target))
        network, classes = model.network.architecture, classes or len(model.classes)
    else:
        network = Architecture.load(target)
    if features is None:
        _describe(target, network, device, classes, as_json)
        return
    costs = backbone_costs(network, features, ArchitectureLatency.load(device))
    _print_backbone(costs, target, device, as_json)


def _describe(name: str, network: "Architecture", device: str, classes: int | None, as_json: bool) -> None:
    from mvig_nas.cli.output import count, interval, print_json, print_table, say, size
    from mvig_nas.latency import NUM_CLASSES, ArchitectureLatency
    from mvig_nas.latency.published import published_latencies
    from mvig_nas.report import outside_note

    classes = classes or NUM_CLASSES
    latency = ArchitectureLatency.load(device, num_classes=classes)
    values = _values(network, latency, device)
    # other laboratories measured networks of 1,000 classes
    measured = published_latencies(network, latency.predictor.device) if classes == NUM_CLASSES else []
    values["published"] = [asdict(row) for row in measured]
    if measured:
        reference = latency.with_form("reference")
        values["reference_code_latency_ms"] = float(reference.predict_ms([network])[0])
        values["reference_code_latency_interval_ms"] = [
            float(bound[0]) for bound in reference.interval_ms([network], 0.8)
        ]
    if as_json:
        print_json(values)
        return
    parts = values["stages"]
    rows = [
        [
            part["name"],
            part["shape"],
            str(part["kernels"]),
            count(part["parameters"]),
            count(part["macs"]),
            f"{part['latency_ms']:.3f}",
        ]
        for part in parts
    ]
    predicted_ms = values["latency_ms"]
    totals = [count(values["parameters"]), count(values["macs"]), f"{predicted_ms:.3f}"]
    rows.append(["total", "", str(sum(part["kernels"] for part in parts)), *totals])
    print_table(
        f"{name} ({network.fingerprint}) at {network.resolution} px, predicted for {device}",
        ["stage", "output", "kernels", "parameters", "MACs", "ms"],
        rows,
        footer=True,
    )
    _print_causes(values["milliseconds_by_kind"], predicted_ms)
    low_ms, high_ms = values["latency_interval_ms"]
    say(
        f"Predicted {predicted_ms:.3f} ms on {device}, 80 % interval {interval(low_ms, high_ms)} ms; fp16 weights "
        f"{size(values['weight_bytes'])}, peak activations {size(values['peak_activation_bytes'])}."
    )
    second = (network.head_width + 1) * classes
    say(
        f"Parameters are counted as in papers, with the two classifiers of {classes:,} classes. The second one, of "
        f"{count(second)}, is for training with a teacher; export merges it into the first, and the milliseconds are "
        "of the merged one."
    )
    if values["outside"]:
        click.echo(f"warning: this network is {outside_note(device, values['outside'])}", err=True)
    for row in measured:
        low, high = values["reference_code_latency_interval_ms"]
        say(
            f"Published {row.latency_ms:g} ms on {row.device} by {row.reported_by}, for the authors' code, which rolls "
            f"once a link: predicted {values['reference_code_latency_ms']:.3f} ms ({interval(low, high)})."
        )


def _values(network: "Architecture", latency: "ArchitectureLatency", device: str) -> dict[str, Any]:
    """What JSON has of an architecture."""
    from mvig_nas import kernels

    low_ms, high_ms = (float(bound[0]) for bound in latency.interval_ms([network], 0.8))
    totals = kernels.totals(kernels.of(network, num_classes=latency.num_classes))
    exported = kernels.totals(kernels.of(network, "exported", latency.num_classes))
    return {
        "architecture": network.to_dict(),
        "fingerprint": network.fingerprint,
        "device": device,
        "classes": latency.num_classes,
        "latency_ms": float(latency.predict_ms([network])[0]),
        "latency_interval_ms": [low_ms, high_ms],
        "parameters": totals.parameters,
        "macs": totals.macs,
        "weight_bytes": exported.weight_bytes,
        "peak_activation_bytes": exported.peak_activation_bytes,
        "stages": [asdict(part) for part in latency.by_stage(network)],
        "milliseconds_by_kind": latency.by_kind(network),
        "outside": latency.outside([network])[0],
    }


def _describe_timm(target: str, device: str, classes: int | None, as_json: bool) -> None:
    import timm

    from mvig_nas import kernels
    from mvig_nas.cli.output import count, interval, print_json, say, size
    from mvig_nas.device_log import TimmNetwork
    from mvig_nas.latency import ArchitectureLatency, milliseconds_by_kind
    from mvig_nas.measure.torch_cpu import timm_target
    from mvig_nas.report import outside_note

    network_of = timm_target(target).network
    assert isinstance(network_of, TimmNetwork)
    name, side = network_of.name, network_of.resolution
    module = timm.create_model(name, **({} if classes is None else {"num_classes": classes})).eval()
    network = kernels.trace(module, (1, 3, side, side))
    predictor = ArchitectureLatency.load(device).predictor
    low_ms, high_ms = (float(bound[0]) for bound in predictor.interval_ms([network], 0.8))
    totals = kernels.totals(network)
    causes = milliseconds_by_kind(predictor, network)
    outside = predictor.outside([network])[0]
    values: dict[str, Any] = {
        "network": target,
        "resolution": side,
        "device": device,
        "latency_ms": float(predictor.predict_ms([network])[0]),
        "latency_interval_ms": [low_ms, high_ms],
        "parameters": totals.parameters,
        "macs": totals.macs,
        "weight_bytes": totals.weight_bytes,
        "peak_activation_bytes": totals.peak_activation_bytes,
        "milliseconds_by_kind": causes,
        "outside": outside,
    }
    if as_json:
        print_json(values)
        return
    say(
        f"{target} at {side} px: {len(network)} kernels, {count(totals.parameters)} parameters, {count(totals.macs)} "
        f"MACs; fp16 weights {size(totals.weight_bytes)}, peak activations {size(totals.peak_activation_bytes)}."
    )
    _print_causes(causes, values["latency_ms"])
    say(f"Predicted {values['latency_ms']:.3f} ms on {device}, 80 % interval {interval(low_ms, high_ms)} ms.")
    if outside:
        click.echo(f"warning: this network is {outside_note(device, outside)}", err=True)


def _print_causes(causes: dict[str, float], predicted_ms: float) -> None:
    from mvig_nas.cli.output import print_table

    print_table(
        "Where the milliseconds go",
        ["operations", "ms", "share"],
        [[kind, f"{value:.3f}", f"{value / predicted_ms:.0%}"] for kind, value in causes.items()],
    )


def _print_backbone(costs: "BackboneCosts", name: str, device: str, as_json: bool) -> None:
    from mvig_nas.cli.output import count, interval, print_json, print_table, say
    from mvig_nas.report import outside_note
    from mvig_nas.values import plain

    if as_json:
        print_json({**plain(costs), "architecture": costs.architecture.to_dict(), "device": device})
        return
    rows = [
        [each.name, "×".join(map(str, each.shape)), str(each.kernels), count(each.macs), f"{each.latency_ms:.3f}"]
        for each in costs.parts
    ]
    rows.append(["dispatch", "", "", "", f"{costs.fixed_ms:.3f}"])
    print_table(
        f"{name} without its classifier at {costs.architecture.resolution} px, predicted for {device}",
        ["stage", "output", "kernels", "MACs", "ms"],
        rows,
    )
    say(
        f"Predicted {costs.latency_ms:.3f} ms on {device}, 80 % interval {interval(*costs.interval_ms)} ms; "
        f"{count(costs.parameters)} parameters. No backbone of this tool has been measured at this size."
    )
    if costs.outside:
        click.echo(f"warning: this network is {outside_note(device, list(costs.outside))}", err=True)
