"""`mvig-nas export`: Core ML packages, checked against their architectures."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from mvig_nas.cli.generated import is_given
from mvig_nas.cli.options import json_option, seed_option
from mvig_nas.cli.progress import Bar

if TYPE_CHECKING:
    from mvig_nas.coreml import Bulk, BulkProgress, Verification
    from mvig_nas.network import MobileViG

_CHECKPOINTS = (".pth", ".pt", ".tar", ".safetensors")


_ONE_ONLY = ("overwrite", "graph_step")


@click.command()
@click.argument("target", metavar="ARCH|MODEL|CHECKPOINT|FILE.jsonl")
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Package to write, or folder of packages.  [default: the target's name, .mlpackage or without a suffix]",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Packages made at once, of a FILE.jsonl."
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
    help="Check a package, and execute it in torch, before it appears.",
)
@seed_option()
@json_option()
@click.pass_context
def export(ctx: click.Context, /, target: str, as_json: bool, labels: Path | None, **options: Any) -> None:
    """Write a Core ML package of ARCH (a preset, or JSON such as a run's winner.json), MODEL or CHECKPOINT.

    An architecture has no weights yet: its package holds random ones, good for measuring latency only. A MODEL is the
    folder that `retrain` leaves: its classes become labels, its normalisation is part of the package. A checkpoint is
    one of the MobileViG authors', .pth, .pth.tar or .safetensors. Of a FILE.jsonl, as `sample` writes it, every
    architecture gets a package in one folder, with a manifest; run the same command again to go on after a kill. What
    fails its check is not written.
    """
    from mvig_nas import coreml

    class_labels = None if labels is None else coreml.read_labels(labels)
    options["num_classes"] = options["num_classes"] or (1000 if class_labels is None else len(class_labels))
    path = Path(target)
    if path.suffix == ".jsonl":
        for name in _ONE_ONLY:
            if is_given(ctx, name):
                raise click.UsageError(f"--{name.replace('_', '-')} is of a single package.", ctx)
        _export_all(path, class_labels, options, as_json)
    elif is_given(ctx, "jobs"):
        raise click.UsageError("--jobs is of a FILE.jsonl.", ctx)
    else:
        _export_one(target, class_labels, options, as_json)


def _export_one(target: str, class_labels: tuple[str, ...] | None, options: dict[str, Any], as_json: bool) -> None:
    from mvig_nas import coreml, values
    from mvig_nas.architecture import Architecture
    from mvig_nas.network import load_reference_checkpoint
    from mvig_nas.training.model_folder import read_model

    path = Path(target)
    images: dict[str, Any] = {}
    if path.is_dir():
        trained = read_model(path)
        network = trained.network
        class_labels = class_labels or trained.classes
        images = {
            "mean": trained.preprocessing.mean,
            "std": trained.preprocessing.std,
            "metadata": {coreml.PREPROCESSING: json.dumps(values.plain(trained.preprocessing))},
        }
        weights = f"model {path.name}"
    elif path.suffix in _CHECKPOINTS:
        network = load_reference_checkpoint(path, options["graph_step"])
        weights = f"checkpoint {path.name}"
    else:
        network = coreml.untrained(Architecture.load(target), options["num_classes"], options["seed"])
        weights = f"untrained, seed {options['seed']}"
    package = options["out"] or Path(f"{path.stem.removesuffix('.pth')}.mlpackage")
    verified: list[coreml.Verification] = []

    def check(finished: Path) -> None:
        verified.append(coreml.verify(finished, network.architecture, network))

    coreml.export(
        network,
        package,
        weights=weights,
        input_kind=cast(Literal["image", "tensor"], options["input_kind"]),
        class_labels=class_labels,
        minimum_deployment_target=options["deployment_target"],
        **images,
        overwrite=options["overwrite"],
        check=check if options["is_verified"] else None,
    )
    _print_one(network, package, weights, options["deployment_target"], verified, as_json)


def _export_all(path: Path, class_labels: tuple[str, ...] | None, options: dict[str, Any], as_json: bool) -> None:
    from mvig_nas import coreml
    from mvig_nas.architecture import read_architectures

    folder: Path = options["out"] or Path(path.stem)
    try:
        with Bar("exporting", hidden=as_json) as bar:

            def show(state: "BulkProgress") -> None:
                bar.show(state.done, state.total, state.now)

            done = coreml.export_all(
                read_architectures(path),
                folder,
                coreml.BulkOptions(
                    options["num_classes"],
                    class_labels,
                    cast(Literal["image", "tensor"], options["input_kind"]),
                    options["deployment_target"],
                    options["seed"],
                ),
                jobs=options["jobs"],
                is_verified=options["is_verified"],
                on_progress=show,
            )
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; finished packages are in {folder}. To go on, run the same command again.", err=True)
        sys.exit(130)
    _print_all(done, folder, options["is_verified"], as_json)
    if done.failed:
        sys.exit(1)


def _print_all(done: "Bulk", folder: Path, is_verified: bool, as_json: bool) -> None:
    from mvig_nas.cli.output import print_json

    for fingerprint, message in done.failed.items():
        click.echo(f"{fingerprint}: {message}", err=True)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "packages": [package.name for package in done.packages],
                "written": done.written,
                "failed": dict(done.failed),
            }
        )
        return
    kept = len(done.packages) - done.written
    click.echo(
        f"{len(done.packages)} packages in {folder}: {done.written} written now, {kept} before, "
        f"{'each verified' if is_verified else 'not verified'}. {len(done.failed)} failed."
    )
    click.echo(f"Next, on a Mac: mvig-nas measure {folder}/*.mlpackage --backend coreml --log mac.jsonl")


def _print_one(
    network: "MobileViG", package: Path, weights: str, target: str, verified: "list[Verification]", as_json: bool
) -> None:
    from mvig_nas.cli.output import print_json, size
    from mvig_nas.kernels import of, totals

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
    click.echo(f"{package}: {size(weight_bytes)} of fp16 weights ({weights}), {target} or newer")
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
