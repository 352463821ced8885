"""`mvig-nas verify`: packages that were altered after their export are refused, and what a phone will make of them."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mvig_nas import coreml
from mvig_nas.architecture import Architecture, Stage
from mvig_nas.cli import cli
from mvig_nas.coreml import ExportRequest, export_target, inspect_package
from mvig_nas.coreml.package import SavedProgram
from mvig_nas.errors import MvigNasError
from tests.coreml.test_conversion import CLASSES, LABELS, MEAN, STD, TINY, as_if_trained, copied, edited, first

ALTERATIONS = 20
OTHER_KINDS = {"add": "sub", "sub": "add", "minimum": "maximum", "relu": "abs", "silu": "gelu", "gelu": "silu"}
WIDER = replace(TINY, head_width=24)
KNN = Architecture(
    (Stage(8, conv_depth=1), Stage(8), Stage(8, graph_depth=1, graph_operator="knn", graph_step=1), Stage(8)), 16, 96
)


@pytest.fixture(scope="module")
def saved(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_target(str(model), tmp_path_factory.mktemp("saved") / "net.mlpackage").package


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    return copied(saved, tmp_path)


def without_digests(spec: Any, _: Any) -> None:
    """As an older mvig-nas wrote packages, or somebody who hides what was done."""
    for name in ("program_sha256", "weights_sha256"):
        del spec.description.metadata.userDefined[f"mvig_nas.{name}"]


def weights_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def refused(package: Path, model: Path | None = None) -> str:
    found = inspect_package(package, model)
    assert not found.is_verified
    assert found.verdict.startswith("REFUSED: ")
    return found.verdict


def test_what_was_exported_is_verified(saved: Path, model: Path) -> None:
    found = inspect_package(saved, model)
    assert found.is_verified
    assert (
        found.verdict == "VERIFIED: the package computes what its architecture says, and its weights are the model's."
    )
    assert {each.part: each.outcome for each in found.findings} == {
        "SHA-256": "equal", "operations": "equal", "normalisation": "equal", "weights": "equal", "execution": "equal",
        "fp16": "fine", "labels": "equal", "Neural Engine": "fine", "width slices": "fine",
    }  # fmt: skip
    assert found.sliced is not None
    assert len(found.sliced) == 1  # of TINY's two rolls, one goes along the width
    assert all(0 < value < 100 for value in found.sliced.values())


def test_without_a_model_the_weights_are_not_compared(saved: Path) -> None:
    found = inspect_package(saved)
    assert found.is_verified
    assert found.verdict.endswith("and its weights were not compared.")


@pytest.mark.parametrize("seed", range(ALTERATIONS))
def test_one_flipped_byte_of_the_weights_is_refused(seed: int, package: Path) -> None:
    rng, file = random.Random(seed), weights_file(package)
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)  # any byte of the file, its padding too
    file.write_bytes(content)
    refused(package)


@pytest.mark.parametrize("seed", range(ALTERATIONS))
def test_one_flipped_bit_is_refused_by_the_model_where_no_digest_is_stated(
    seed: int, package: Path, model: Path
) -> None:
    rng, file = random.Random(seed), weights_file(package)
    program = SavedProgram(package)
    weight = program.argument(rng.choice([node for node in program.nodes if node.type == "conv"]), "weight")
    assert weight is not None
    content = bytearray(file.read_bytes())
    content[content.index(weight.tobytes()) + rng.randrange(weight.nbytes)] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    edited(package, without_digests)
    refused(package, model)


@pytest.mark.parametrize("seed", range(ALTERATIONS))
def test_one_swapped_operation_is_refused(seed: int, package: Path) -> None:
    rng = random.Random(seed)

    def other_kind(_: Any, block: Any) -> None:
        chosen = rng.choice([node for node in block.operations if node.type in OTHER_KINDS])
        chosen.type = OTHER_KINDS[chosen.type]

    def exchanged(_: Any, block: Any) -> None:
        """Two operations of one kind and shape compute each other's input."""
        nodes = [node for node in block.operations if node.type in ("conv", "relu", "silu", "add")]
        pairs = [(one, other) for one in nodes for other in nodes if is_exchangeable(one, other)]
        one, other = (node.inputs["x"].arguments[0] for node in rng.choice(pairs))
        one.name, other.name = other.name, one.name

    edited(package, rng.choice((other_kind, exchanged)))
    refused(package)
    edited(package, without_digests)
    refused(package)


@pytest.mark.parametrize("seed", range(ALTERATIONS))
def test_one_wrong_scale_is_refused(seed: int, package: Path, model: Path) -> None:
    rng = random.Random(seed)
    factor, channel = rng.choice((rng.uniform(0.5, 0.95), rng.uniform(1.05, 2))), rng.randrange(3)

    def rescale(_: Any, block: Any) -> None:
        name = first(block, "batch_norm").inputs["gamma"].arguments[0].name
        constant = next(node for node in block.operations if node.outputs[0].name == name)
        stored = constant.attributes["val"].immediateValue.tensor
        scale = np.frombuffer(stored.bytes.values, np.float16).copy()
        scale[channel] *= np.float16(factor)
        stored.bytes.values = scale.tobytes()

    def restate(spec: Any, _: Any) -> None:
        mean, std = (list(each) for each in (MEAN, STD))
        std[channel] /= factor
        mean[channel] /= factor  # so that the offset stays
        spec.description.metadata.userDefined["mvig_nas.normalisation"] = f"mean {tuple(mean)}, std {tuple(std)}"

    edited(package, rescale)
    assert "normalised to" in refused(package)
    edited(package, without_digests)
    assert "normalised to" in refused(package)
    edited(package, restate)
    assert inspect_package(package).is_verified  # program and metadata agree, and are both wrong
    assert "the model's normalisation" in refused(package, model)


def test_labels_in_another_order_are_refused(model: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    for names, wanted in ((LABELS[::-1], "differs"), ([f"a {name}" for name in LABELS], "warning")):
        labels.write_text("\n".join(names))
        made = export_target(str(model), tmp_path / f"{wanted}.mlpackage", ExportRequest(labels)).package
        found = inspect_package(made, model)
        assert {each.part: each.outcome for each in found.findings}["labels"] == wanted
        assert found.is_verified == (wanted == "warning")


def test_what_leaves_the_neural_engine_and_overflows_is_a_warning(tmp_path: Path) -> None:
    made = coreml.export(coreml.untrained(KNN, CLASSES), tmp_path / "knn.mlpackage", weights="untrained")
    found = inspect_package(made)
    assert found.is_verified
    assert found.verdict.startswith("VERIFIED, with 1 warning: ")
    assert {(each.kind, each.count) for each in found.departures} >= {("topk", 1), ("gather_along_axis", 1)}

    network = as_if_trained(TINY)
    dict(network.named_parameters())["stages.2.blocks.0.fc1.bn.bias"].data += 5000
    made = coreml.export(network, tmp_path / "large.mlpackage", weights="large")
    found = inspect_package(made)
    assert not found.departures
    assert found.sliced is not None
    assert max(found.sliced.values()) > 4094
    assert {each.part: each.outcome for each in found.findings}["width slices"] == "warning"


def test_an_architecture_is_needed(package: Path) -> None:
    def forget(spec: Any, _: Any) -> None:
        for name in ("architecture", "program_sha256", "weights_sha256"):
            del spec.description.metadata.userDefined[f"mvig_nas.{name}"]

    edited(package, forget)
    found = inspect_package(package)
    assert not found.is_verified
    assert found.verdict.startswith("NOT VERIFIED: there is no architecture")
    assert inspect_package(package, architecture=TINY).is_verified
    assert f"must hold architecture {WIDER.fingerprint}" in inspect_package(package, architecture=WIDER).verdict


def test_a_model_of_another_architecture_is_an_error(package: Path, model: Path) -> None:
    with pytest.raises(MvigNasError, match=f"must be of the architecture {WIDER.fingerprint}, got one of"):
        inspect_package(package, model, WIDER)


def test_a_package_that_cannot_be_read_is_refused(package: Path) -> None:
    weights_file(package).unlink()
    assert "weight.bin" in refused(package)


def test_command_line(package: Path, model: Path) -> None:
    done = CliRunner().invoke(cli, ["verify", str(package), "--model", str(model)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].startswith("VERIFIED: ")
    weights_file(package).write_bytes(b"\0" + weights_file(package).read_bytes()[1:])
    done = CliRunner().invoke(cli, ["verify", str(package), "--json"])
    assert done.exit_code == 1
    printed = json.loads(done.output)
    assert not printed["is_verified"]
    assert printed["verdict"].startswith("REFUSED: ")
    both = ["verify", str(package), "--model", str(model), "--architecture", "mobilevig_ti"]
    assert "leave one of the two out" in str(CliRunner().invoke(cli, both).output)


def is_exchangeable(one: Any, other: Any) -> bool:
    """Whether two operations are of one kind and shape, and read different values."""
    return bool(
        one.type == other.type
        and one.outputs[0].type == other.outputs[0].type
        and one.inputs["x"].arguments[0].name != other.inputs["x"].arguments[0].name
    )
