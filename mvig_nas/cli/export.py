"""`mvig-nas export`: Core ML packages, checked against their architectures."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvig_nas.cli.generated import GroupedCommand, is_given, options_of
from mvig_nas.cli.options import json_option
from mvig_nas.cli.progress import Bar
from mvig_nas.coreml import ExportRequest

if TYPE_CHECKING:
    from mvig_nas.coreml import Bulk, Exported
    from mvig_nas.coreml.other_formats import OtherExport

_OF_DETAILS = ("author", "license", "model_version", "description", "trained_on", "device")
_OF_COMPRESSION = ("palettize", "quantize_weights", "data", "images")
_ONE_ONLY = ("overwrite", "graph_step", "batch", "sizes", "format", *_OF_DETAILS, *_OF_COMPRESSION)
_RANDOM = "THE WEIGHTS ARE RANDOM. THE PACKAGE IS FOR TIMING ONLY: WHAT IT ANSWERS MEANS NOTHING."


@click.command(cls=GroupedCommand)
@click.argument("target", metavar="ARCH|MODEL|CHECKPOINT|FILE.jsonl")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Package to write, or folder of packages.  [default: the target's name, with .mlpackage or without a suffix]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that make packages of a FILE.jsonl, of one thread and about 1 GB each.",
)
@click.option(
    "--size",
    "sizes",
    type=click.IntRange(1),
    multiple=True,
    help="Further side of the input in pixels; may be given several times. Each is a function of the package, such as "
    "size192, that shares its weights; it takes --target iOS18 or newer.",
)
@options_of(ExportRequest, "request", leave_out=("class_labels", "mean", "std", "sizes"))
@json_option()
@click.pass_context
def export(
    ctx: click.Context,
    /,
    target: str,
    out: Path | None,
    jobs: int,
    sizes: tuple[int, ...],
    request: ExportRequest,
    as_json: bool,
) -> None:
    """Write a Core ML package of ARCH (a preset, or JSON such as a run's winner.json), MODEL or CHECKPOINT.

    An architecture has no weights yet: its package holds random ones, good for measuring latency only. A MODEL is the
    folder that `retrain` leaves: its classes become labels, its normalisation is part of the package. A checkpoint is
    one of the MobileViG authors', .pth, .pth.tar or .safetensors. Of a FILE.jsonl, as `sample` writes it, every
    architecture gets a package in one folder, with a manifest; run the same command again to go on after a kill. A
    package that fails its check is not written.
    """
    from mvig_nas.architecture import read_architectures
    from mvig_nas.coreml import BulkOptions, export_all, export_target

    path = Path(target)
    request = replace(request, package=replace(request.package, sizes=sizes))
    if path.suffix != ".jsonl":
        if is_given(ctx, "jobs"):
            raise click.UsageError("--jobs is of a FILE.jsonl.", ctx)
        _print_one(export_target(target, out, request), request, as_json)
        return
    for option in ctx.command.params:
        if option.name in _ONE_ONLY and is_given(ctx, option.name):
            raise click.UsageError(f"{option.opts[0]} is of a single package.", ctx)
    folder = out or Path(path.stem)
    try:
        with Bar("exporting", "packages", hidden=as_json) as bar:
            done = export_all(
                read_architectures(path),
                folder,
                BulkOptions.of(request),
                jobs=jobs,
                is_verified=request.is_verified,
                on_progress=lambda state: bar.show(state.done, state.total, state.now),
            )
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; finished packages are in {folder}. To go on, run the same command again.", err=True)
        sys.exit(130)
    _print_all(done, folder, request.is_verified, as_json)
    if done.failed:
        sys.exit(1)


def _print_all(done: "Bulk", folder: Path, is_verified: bool, as_json: bool) -> None:
    from mvig_nas.cli.output import print_json

    for fingerprint, message in done.failed.items():
        click.echo(f"{fingerprint}: {message}", err=True)
    if as_json:
        names = [package.name for package in done.packages]
        print_json({"folder": str(folder), "packages": names, "written": done.written, "failed": dict(done.failed)})
        return
    click.echo(_RANDOM)
    kept = len(done.packages) - done.written
    click.echo(
        f"{len(done.packages)} packages in {folder}: {done.written} written now, {kept} before, "
        f"{'each verified' if is_verified else 'not verified'}. {len(done.failed)} failed."
    )
    click.echo(f"Next, on a Mac: mvig-nas measure {folder}/*.mlpackage --backend coreml --log mac.jsonl")


def _print_one(done: "Exported", request: ExportRequest, as_json: bool) -> None:
    from mvig_nas.cli.output import print_json, say, size, with_error
    from mvig_nas.kernels import of, totals

    architecture, verification = done.network.architecture, done.verification
    weight_bytes = totals(of(architecture, "exported", done.network.num_classes)).weight_bytes
    if as_json:
        values = {
            "package": str(done.package),
            "fingerprint": architecture.fingerprint,
            "weights": done.weights,
            "is_random": done.is_random,
            "weight_bytes": weight_bytes,
        }
        if done.other is not None:
            values |= {
                "format": request.format,
                "convolutions": done.other.convolutions,
                "difference": done.other.difference,
                "runtime": done.other.runtime,
            }
        if (compressed := done.compressed) is not None:
            values |= {
                "compression": request.compression.name,
                "weights_file_bytes": {"before": compressed.bytes_before, "after": compressed.bytes_after},
                "top1": {"before": compressed.top1_before, "after": compressed.top1_after, "images": compressed.images},
            }
        if verification is not None:
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
    target = request.package.minimum_deployment_target
    if done.is_random:
        click.echo(_RANDOM)
    if done.other is not None:
        _print_other(done.other, done.weights, request.format)
        return
    click.echo(f"{done.package}: {size(weight_bytes)} of fp16 weights ({done.weights}), {target} or newer")
    if request.package.sizes:
        sides = ", ".join(f"size{side}" for side in request.package.sizes)
        say(f"Functions: main takes {architecture.resolution} pixels; {sides} share its weights.")
    if (compressed := done.compressed) is not None:
        before, after = size(compressed.bytes_before), size(compressed.bytes_after)
        say(f"Compressed, {request.compression.name}: the weights file takes {after}, {before} before.")
        if compressed.top1_before is not None and compressed.top1_after is not None:
            say(
                f"Top-1 {with_error(compressed.top1_after, compressed.images)}, {100 * compressed.top1_before:.1f} % "
                "before compression. Both packages were executed here in fp16, not by Core ML."
            )
    if verification is None:
        click.echo("Not verified: nothing of the package was checked.")
    else:
        comparison = verification.comparison
        click.echo(
            f"Verified: {verification.operations} operations equal the kernel list, the weights of "
            f"{verification.convolutions} convolutions equal the network's in fp16"
            f"{'' if done.compressed is None else ', compressed ones as near as palette or scale allow'}."
        )
        click.echo(
            f"Executed in torch, not by Core ML, on {comparison.images} images: logits within "
            f"{comparison.difference:.1e} of the network's in fp32; fp16 arithmetic moves them by up to "
            f"{comparison.rounding_fp16:.1e} (of the largest logit)."
        )
    click.echo(
        "Next, on a Mac: open the package in Xcode, tab Performance, choose your iPhone; see `mvig-nas docs coreml`."
    )


def _print_other(made: "OtherExport", weights: str, form: str) -> None:
    from mvig_nas.cli.output import say, size

    files = [made.path] if made.path.is_file() else [each for each in made.path.rglob("*") if each.is_file()]
    click.echo(f"{made.path}: {size(sum(file.stat().st_size for file in files))} ({weights}), format {form}")
    if made.difference is None:
        click.echo("Not verified: nothing of the model was checked.")
        return
    say(
        f"Verified: the {made.convolutions} convolutions have the shapes of the kernel list; executed by "
        f"{made.runtime} on four images, logits are within {made.difference:.1e} of the network's in torch (of the "
        "largest logit)."
    )
