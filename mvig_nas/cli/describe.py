"""`mvig-nas describe`: where an architecture's parameters, MACs and milliseconds go."""

from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.options import device_option, json_option

if TYPE_CHECKING:
    from mvig_nas.report import BackboneCosts


@click.command()
@click.argument("architecture", metavar="ARCH")
@device_option()
@click.option(
    "--features",
    type=int,
    metavar="PIXELS",
    help="Describe the network without its classifier, as the backbone of a detector or a segmenter, on square images "
    "of this many pixels, a multiple of 32.",
)
@json_option()
def describe(architecture: str, device: str, features: int | None, as_json: bool) -> None:
    """Show an architecture stage by stage: a preset (mobilevig_ti, mobilevigv2_s, greedyvig_m, ...), or a JSON file."""
    from dataclasses import asdict

    from mvig_nas import kernels
    from mvig_nas.architecture import Architecture
    from mvig_nas.cli.output import count, interval, print_json, print_table, size
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.latency.published import published_latencies
    from mvig_nas.report import backbone_costs, outside_note

    network = Architecture.load(architecture)
    latency = ArchitectureLatency.load(device)
    if features is not None:
        _print_backbone(backbone_costs(network, features, latency), architecture, device, as_json)
        return
    low_ms, high_ms = (float(bound[0]) for bound in latency.interval_ms([network], 0.8))
    predicted_ms = float(latency.predict_ms([network])[0])
    totals = kernels.totals(kernels.of(network))
    exported = kernels.totals(kernels.of(network, "exported"))
    parts = latency.by_stage(network)
    causes = latency.by_kind(network)
    outside = latency.outside([network])[0]
    measured = published_latencies(network, latency.predictor.device)
    values: dict[str, Any] = {
        "architecture": network.to_dict(),
        "fingerprint": network.fingerprint,
        "device": device,
        "latency_ms": predicted_ms,
        "latency_interval_ms": [low_ms, high_ms],
        "parameters": totals.parameters,
        "macs": totals.macs,
        "weight_bytes": exported.weight_bytes,
        "peak_activation_bytes": exported.peak_activation_bytes,
        "stages": [asdict(part) for part in parts],
        "milliseconds_by_kind": causes,
        "outside": outside,
        "published": [asdict(row) for row in measured],
    }
    if measured:
        reference = latency.with_form("reference")
        values["reference_code_latency_ms"] = float(reference.predict_ms([network])[0])
        values["reference_code_latency_interval_ms"] = [
            float(bound[0]) for bound in reference.interval_ms([network], 0.8)
        ]
    if as_json:
        print_json(values)
        return
    rows = [
        [part.name, part.shape, str(part.kernels), count(part.parameters), count(part.macs), f"{part.latency_ms:.3f}"]
        for part in parts
    ]
    rows.append(
        [
            "total",
            "",
            str(sum(p.kernels for p in parts)),
            count(totals.parameters),
            count(totals.macs),
            f"{predicted_ms:.3f}",
        ]
    )
    print_table(
        f"{architecture} ({network.fingerprint}) at {network.resolution} px, predicted for {device}",
        ["stage", "output", "kernels", "parameters", "MACs", "ms"],
        rows,
        footer=True,
    )
    print_table(
        "Where the milliseconds go",
        ["operations", "ms", "share"],
        [[kind, f"{value:.3f}", f"{value / predicted_ms:.0%}"] for kind, value in causes.items()],
    )
    click.echo(
        f"Predicted {predicted_ms:.3f} ms on {device}, 80 % interval {interval(low_ms, high_ms)} ms; fp16 weights "
        f"{size(exported.weight_bytes)}, peak activations {size(exported.peak_activation_bytes)}."
    )
    if outside:
        click.echo(f"warning: this network is {outside_note(device, outside)}", err=True)
    for row in measured:
        low, high = values["reference_code_latency_interval_ms"]
        click.echo(
            f"Published {row.latency_ms:g} ms on {row.device} by {row.reported_by}, for the authors' code, which rolls "
            f"once a link: predicted {values['reference_code_latency_ms']:.3f} ms ({interval(low, high)})."
        )


def _print_backbone(costs: "BackboneCosts", name: str, device: str, as_json: bool) -> None:
    from mvig_nas.cli.output import count, interval, print_json, print_table
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
    click.echo(
        f"Predicted {costs.latency_ms:.3f} ms on {device}, 80 % interval {interval(*costs.interval_ms)} ms; "
        f"{count(costs.parameters)} parameters. No backbone of this tool has been measured at this size."
    )
    if costs.outside:
        click.echo(f"warning: this network is {outside_note(device, list(costs.outside))}", err=True)
