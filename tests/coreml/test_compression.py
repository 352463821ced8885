"""Palettised and quantised packages: smaller, verified against their network, and refused when altered."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mvig_nas import coreml
from mvig_nas.architecture import Architecture, Stage
from mvig_nas.cli import cli
from mvig_nas.coreml import Compression, ExportOptions, ExportRequest, compress, export_target, inspect_package, tools
from mvig_nas.coreml.compressed_constants import Compressed as CompressedWeight
from mvig_nas.coreml.package import SavedProgram
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import Preprocessing, read_split, subset
from mvig_nas.training.model_folder import TrainedModel, write_model
from tests.coreml.test_conversion import as_if_trained, edited
from tests.coreml.test_inspection import weights_file, without_digests
from tests.images import write_images

WIDE = Architecture(
    (Stage(16), Stage(32, conv_depth=1), Stage(32, graph_depth=1, graph_step=1), Stage(64)),
    head_width=64,
    resolution=32,
)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize(
    ("how", "share"),
    [
        (Compression(palettize=8), 0.7),
        (Compression(palettize=6), 0.6),
        (Compression(palettize=4), 0.45),
        (Compression(quantize_weights="int8"), 0.7),
    ],
    ids=lambda value: value.name if isinstance(value, Compression) else "",
)
def test_compressed_packages_are_smaller_and_verified(
    how: Compression, share: float, target: str, tmp_path: Path
) -> None:
    network = as_if_trained(WIDE)
    options = ExportOptions(minimum_deployment_target=target)  # type: ignore[arg-type]
    plain = coreml.export(network, tmp_path / "plain.mlpackage", options, weights="as if trained")
    done = compress(plain, tmp_path / "small.mlpackage", how, network)
    assert done.bytes_after < share * done.bytes_before
    assert done.verification.convolutions == coreml.verify(plain, WIDE, network).convolutions
    assert SavedProgram(done.package).metadata["mvig_nas.compression"] == how.name
    with pytest.raises(MvigNasError, match="the network's weight in fp16"):
        coreml.verify(done.package, WIDE, as_if_trained(WIDE, seed=1))
    # as coremltools itself unpacks them
    with tools.quiet():
        library = tools.load()
        model = library.models.MLModel(str(done.package), skip_model_load=True)
        unpacked = library.optimize.coreml.decompress_weights(model)
        unpacked.save(str(tmp_path / "unpacked.mlpackage"))
    ours, theirs = SavedProgram(done.package), SavedProgram(tmp_path / "unpacked.mlpackage")
    pairs = [
        (ours.argument(one, "weight"), theirs.argument(other, "weight"))
        for one, other in zip(ours.nodes, theirs.nodes, strict=True)
        if one.type == "conv"
    ]
    assert pairs
    for one, other in pairs:
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one, other)


def test_one_way_at_a_time() -> None:
    with pytest.raises(MvigNasError, match="must be compressed in one way, got --palettize 8 and"):
        Compression(8, "int8")
    assert Compression().name == ""


def test_what_is_compressed_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="must say how, got nothing"):
        compress(tmp_path / "a.mlpackage", tmp_path / "b.mlpackage", Compression(), as_if_trained(WIDE))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    names = tuple(f"class_{label}" for label in range(3))
    write_model(folder, TrainedModel(as_if_trained(WIDE, num_classes=3), names, Preprocessing()))
    return folder


@pytest.mark.parametrize("option", [["--palettize", "8"], ["--quantize-weights", "int8"]], ids="".join)
def test_by_the_command_with_top1_before_and_after(option: list[str], model: Path, tmp_path: Path) -> None:
    images, package = write_images(tmp_path / "images", train=1, val=3), tmp_path / "net.mlpackage"
    command = ["export", str(model), "--out", str(package), *option]
    made = CliRunner().invoke(cli, [*command, "--data", str(images), "--images", "6", "--json"])
    assert made.exit_code == 0, made.output
    values = json.loads(made.output)
    assert values["weights_file_bytes"]["after"] < 0.7 * values["weights_file_bytes"]["before"]
    top1, metadata = values["top1"], SavedProgram(package).metadata
    assert top1["images"] == 6
    found = coreml.package_accuracy(package, subset(read_split(images, "val"), 6))
    assert top1["after"] == pytest.approx(found.top1)
    assert metadata["mvig_nas.top1_compressed"] == f"{top1['after']:.4f}, {top1['before']:.4f} before compression"
    assert metadata["mvig_nas.top1_compressed_measured"].startswith("on 6 validation images, both packages executed")
    sizes = values["weights_file_bytes"]
    assert metadata["mvig_nas.weights_bytes"] == f"{sizes['after']}, {sizes['before']} before compression"
    inspected = inspect_package(package, model)
    assert inspected.verdict.startswith("VERIFIED")
    printed = CliRunner().invoke(cli, [*command, "--overwrite"]).output
    assert "Compressed, " in printed
    assert "before compression" not in printed  # no images, no top-1
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


@pytest.mark.parametrize("how", [Compression(8), Compression(4), Compression(None, "int8")], ids=lambda how: how.name)
def test_an_altered_one_is_refused_where_no_digest_is_stated(how: Compression, model: Path, tmp_path: Path) -> None:
    request = ExportRequest(compression=how)
    package = export_target(str(model), tmp_path / "net.mlpackage", request).package
    file = weights_file(package)
    edited(package, without_digests)
    content, program = file.read_bytes(), SavedProgram(package)
    stored = [
        part
        for node in program.nodes
        if node.type == "conv" and program.is_compressed_at(name := node.inputs["weight"].arguments[0].name)
        for part in program.parts(name).values()
        if part.nbytes >= 16 and part.dtype != np.uint32  # those are shapes
    ]
    kinds = {part.dtype for part in stored}
    assert np.dtype(np.float16) in kinds  # palettes or scales
    assert len(kinds) == 2
    for dtype in kinds:
        part = max((each for each in stored if each.dtype == dtype), key=lambda each: each.nbytes)
        packed = part.tobytes() if how.palettize != 4 or dtype == np.float16 else None
        at = content.index(packed) if packed else len(content) // 2
        for altered in (b"\0" * 16, bytes(each ^ 0x55 for each in content[at : at + 16])):
            if altered != content[at : at + 16]:
                file.write_bytes(content[:at] + altered + content[at + 16 :])
                assert inspect_package(package, model).verdict.startswith("REFUSED: ")


def test_a_palette_of_zeros_is_none() -> None:
    wanted = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    zeros = np.zeros((8, 8), np.float16)
    assert not CompressedWeight(zeros, palette=np.zeros(16, np.float16)).is_of(wanted)
    assert not CompressedWeight(zeros, scale=np.zeros((8, 8))).is_of(wanted)
    assert not CompressedWeight(zeros, scale=np.full((8, 8), 100.0)).is_of(wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "images"], "--data must come with --palettize or --quantize-weights"),
        (["--palettize", "8", "--images", "5"], "--images must come with --data"),
        (["--palettize", "8", "--quantize-weights", "int8"], "must be compressed in one way"),
        (["--palettize", "7"], "'7' is not one of"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], message: str) -> None:
    made = CliRunner().invoke(cli, ["export", "mobilevig_ti", *options])
    assert made.exit_code != 0
    assert message in f"{made.output}{made.exception}"
