"""`mvig-nas export`: a Core ML package, checked against the architecture."""

from pathlib import Path

import click

from mvig_nas.cli._options import json_option, seed_option

_CHECKPOINTS = (".pth", ".pt", ".tar", ".safetensors")


@click.command()
@click.argument("target", metavar="ARCH|CHECKPOINT")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Package to write.  [default: the target's name, .mlpackage]"
)
@click.option(
    "--input",
    "input_kind",
    type=click.Choice(["image", "tensor"]),
    default="image",
    show_default=True,
    help="An RGB image, normalised inside, or the normalised tensor.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Text file, one class a line: makes a classifier.",
)
@click.option(
    "--num-classes", type=click.IntRange(1), help="Classes of an untrained network.  [default: 1000, or labels]"
)
@click.option(
    "--target",
    "deployment_target",
    type=click.Choice(["iOS16", "iOS17", "iOS18"]),
    default="iOS16",
    show_default=True,
    help="Oldest iOS that must run it.",
)
@click.option("--graph-step", type=click.IntRange(1), default=2, show_default=True, help="K of a reference checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace a package that is there.")
@click.option(
    "--verify/--no-verify",
    "is_verified",
    default=True,
    show_default=True,
    help="Check the package, and execute it in torch, before it appears.",
)
@seed_option()
@json_option()
def export(
    target: str,
    out: Path | None,
    input_kind: str,
    labels: Path | None,
    num_classes: int | None,
    deployment_target: str,
    graph_step: int,
    overwrite: bool,
    is_verified: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Write a Core ML package of ARCH (a preset, or JSON such as a run's winner.json) or of a CHECKPOINT.

    An architecture has no weights yet: its package holds random ones, good for measuring latency only. A checkpoint is
    one of the MobileViG authors', .pth, .pth.tar or .safetensors. What fails its check is not written.
    """
    from typing import Literal, cast

    from mvig_nas import coreml
    from mvig_nas.cli._inputs import load_architecture
    from mvig_nas.cli._output import print_json, size
    from mvig_nas.kernels import of, totals
    from mvig_nas.network import load_reference_checkpoint

    path = Path(target)
    class_labels = None if labels is None else coreml.read_labels(labels)
    if path.suffix in _CHECKPOINTS:
        network = load_reference_checkpoint(path, graph_step)
        weights = f"checkpoint {path.name}"
    else:
        classes = num_classes or (1000 if class_labels is None else len(class_labels))
        network = coreml.untrained(load_architecture(target), classes, seed)
        weights = f"untrained, seed {seed}"
    package = out or Path(f"{path.stem.removesuffix('.pth')}.mlpackage")
    verified: list[coreml.Verification] = []

    def check(finished: Path) -> None:
        verified.append(coreml.verify(finished, network.architecture, network))

    coreml.export(
        network,
        package,
        weights=weights,
        input_kind=cast(Literal["image", "tensor"], input_kind),
        class_labels=class_labels,
        minimum_deployment_target=deployment_target,
        overwrite=overwrite,
        check=check if is_verified else None,
    )
    weight_bytes = totals(of(network.architecture, "exported", network.num_classes)).weight_bytes
    if as_json:
        values = {
            "package": str(package),
            "fingerprint": network.architecture.fingerprint,
            "weights": weights,
            "weight_bytes": weight_bytes,
        }
        for verification in verified:
            values |= {
                "operations": verification.operations,
                "convolutions": verification.convolutions,
                "max_rounding": verification.max_rounding,
                "executed_images": verification.comparison.images,
                "difference_fp32": verification.comparison.difference,
                "rounding_fp16": verification.comparison.rounding_fp16,
            }
        print_json(values)
        return
    click.echo(f"{package}: {size(weight_bytes)} of fp16 weights ({weights}), {deployment_target} or newer")
    if not verified:
        click.echo("Not verified: nothing of the package was checked.")
    for verification in verified:
        comparison = verification.comparison
        click.echo(
            f"Verified: {verification.operations} operations equal the kernel list, the weights of "
            f"{verification.convolutions} convolutions equal the network's in fp16."
        )
        click.echo(
            f"Executed in torch, not by Core ML, on {comparison.images} images: logits within "
            f"{comparison.difference:.1e} of the network's in fp32; fp16 arithmetic moves them by up to "
            f"{comparison.rounding_fp16:.1e} (of the largest logit)."
        )
    click.echo("Next, on a Mac: open the package in Xcode, tab Performance, choose your iPhone. See docs/coreml.md")
