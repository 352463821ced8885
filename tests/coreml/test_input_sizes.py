"""Packages of several input sizes: a function for each, of the same weights, each compared and executed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from mvig_nas.architecture import Architecture, Stage
from mvig_nas.cli import cli
from mvig_nas.coreml import Compression, ExportOptions, ExportRequest, compress, execute, export, inspect_package, tools
from mvig_nas.coreml.package import SavedProgram
from mvig_nas.coreml.verification import verify
from mvig_nas.errors import MvigNasError
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.network import for_inference
from tests.coreml.test_conversion import LABELS, MEAN, STD, TINY, as_if_trained, copied, edited, model_file

SIZES = (64, 96)
OPTIONS = ExportOptions(minimum_deployment_target="iOS18", class_labels=LABELS, mean=MEAN, std=STD, sizes=SIZES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(as_if_trained(TINY), tmp_path_factory.mktemp("saved") / "net.mlpackage", OPTIONS, weights="trained")


def altered(package: Path, function: str, change: Any) -> None:
    spec = tools.load().proto.Model_pb2.Model()
    spec.ParseFromString(model_file(package).read_bytes())
    of = spec.mlProgram.functions[function]
    change(spec, of.block_specializations[of.opset])
    for name in ("program_sha256", "weights_sha256"):
        spec.description.metadata.userDefined.pop(f"mvig_nas.{name}", None)
    model_file(package).write_bytes(spec.SerializeToString())


def test_each_size_is_a_function_of_the_same_weights(saved: Path, tmp_path: Path) -> None:
    network = as_if_trained(TINY)
    assert SavedProgram(saved).functions == ("main", "size64", "size96")
    assert verify(saved, TINY, network).sizes == SIZES
    alone = export(network, tmp_path / "alone.mlpackage", weights="trained")
    assert SavedProgram(saved).weights_bytes() < SavedProgram(alone).weights_bytes() + 1000
    description = SavedProgram(saved).description
    assert [each.input[0].type.imageType.width for each in description.functions] == [32, 64, 96]
    assert "64 x 64" in description.functions[1].input[0].shortDescription
    assert {each.predictedFeatureName for each in description.functions} == {"classLabel"}


@pytest.mark.parametrize(("side", "function"), [(32, "main"), (64, "size64"), (96, "size96")])
def test_a_function_computes_what_the_network_does_at_its_size(saved: Path, side: int, function: str) -> None:
    pixels = torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(0)).float()
    found = execute(saved, {"image": pixels}, function=function)["classLabel_probs"]
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    with torch.no_grad():
        wanted = for_inference(as_if_trained(TINY))((pixels / 255 - mean) / std).softmax(dim=1)
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator(operator: str, tmp_path: Path) -> None:
    stage = Stage(12, graph_depth=1, graph_operator=operator, graph_step=2, ffn_expansion=2)
    network = as_if_trained(Architecture((Stage(8, conv_depth=1), Stage(8), stage, Stage(12)), 16, 96))
    options = ExportOptions("tensor", "iOS18", batch=2, sizes=(128,))
    path = export(network, tmp_path / "net.mlpackage", options, weights="trained")
    assert verify(path, network.architecture, network).sizes == (128,)


def test_a_wrong_function_is_refused(saved: Path, model: Path, tmp_path: Path) -> None:
    def kind(_: Any, block: Any) -> None:
        next(node for node in block.operations if node.type == "minimum").type = "maximum"

    def weight(_: Any, block: Any) -> None:
        convs = [node for node in block.operations if node.type == "conv" and node.inputs["x"]]
        one, other = (node.inputs["bias"].arguments[0] for node in convs[1:3])
        one.name, other.name = other.name, one.name

    def name(spec: Any, _: Any) -> None:
        spec.mlProgram.functions["size65"].CopyFrom(spec.mlProgram.functions["size64"])
        del spec.mlProgram.functions["size64"]
        next(each for each in spec.description.functions if each.name == "size64").name = "size65"

    def default(spec: Any, _: Any) -> None:
        spec.description.defaultFunctionName = "size64"

    assert inspect_package(saved, model).is_verified
    for change, message in (
        (kind, "x maximum"),
        (weight, ""),
        (name, "a function size64"),
        (default, "as its default"),
    ):
        package = copied(saved, tmp_path / change.__name__)
        altered(package, "size64", change)
        found = inspect_package(package, model)
        assert not found.is_verified, change.__name__
        assert message in found.verdict


def test_a_function_that_is_not_described_is_refused(saved: Path, tmp_path: Path) -> None:
    package = copied(saved, tmp_path)
    edited(package, lambda spec, _: spec.description.functions.pop())
    assert "functions ['main', 'size64', 'size96']" in inspect_package(package).verdict


def test_command_line(model: Path, tmp_path: Path) -> None:
    package = tmp_path / "net.mlpackage"
    command = ["export", str(model), "--out", str(package), "--size", "64", "--size", "96"]
    refused = CliRunner().invoke(cli, command)
    assert "give --target iOS18" in str(refused.exception)
    made = CliRunner().invoke(cli, [*command, "--target", "iOS18"])
    assert made.exit_code == 0, made.output
    assert "main takes 32 pixels; size64, size96 share its weights" in made.output
    entries = SavedProgram(package).metadata
    assert all(0.2 < float(entries[f"mvig_nas.predicted_ms{end}"]) < 2 for end in ("", "_64", "_96"))
    checked = CliRunner().invoke(cli, ["verify", str(package), "--model", str(model), "--json"])
    assert checked.exit_code == 0, checked.output
    assert "sizes" in {each["part"] for each in json.loads(checked.output)["findings"]}


def test_refused(saved: Path, tmp_path: Path) -> None:
    network = as_if_trained(TINY)
    with pytest.raises(MvigNasError, match="must differ"):
        ExportOptions(minimum_deployment_target="iOS18", sizes=(64, 64))
    for side, message in ((32, "got 32 twice"), (16, "graph_step")):
        options = ExportOptions(minimum_deployment_target="iOS18", sizes=(side,))
        with pytest.raises(MvigNasError, match=message):
            export(network, tmp_path / "net.mlpackage", options, weights="trained")
    with pytest.raises(MvigNasError, match="one package a size"):
        ExportRequest(package=OPTIONS, compression=Compression(8))
    with pytest.raises(MvigNasError, match="one input size, got main, size64, size96"):
        compress(saved, tmp_path / "small.mlpackage", Compression(8), network)
    assert not list(tmp_path.iterdir())
