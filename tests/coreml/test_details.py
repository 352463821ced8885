"""What a shipped classifier says of itself: each field of the specification and of the metadata."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mvig_nas.cli import cli
from mvig_nas.coreml import ExportOptions, ExportRequest, PackageDetails, export_target, inspect_package, tools
from mvig_nas.coreml.package import SavedProgram
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import Preprocessing
from mvig_nas.training.model_folder import TrainedModel, write_model
from tests.coreml.test_conversion import LABELS, MEAN, STD, TINY, as_if_trained

ABOUT = {"accuracy": {"mean": {"top1": 0.875, "top5": 1.0}}, "data": {"name": "insects", "val_images": 40}}
DETAILS = PackageDetails("A. Developer", "MIT", "2.1", device="iphone-12")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, TrainedModel(as_if_trained(TINY), LABELS, Preprocessing(mean=MEAN, std=STD), ABOUT))
    return folder


@pytest.fixture(scope="module")
def saved(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    request = ExportRequest(package=ExportOptions(details=DETAILS))
    return export_target(str(model), tmp_path_factory.mktemp("saved") / "net.mlpackage", request).package


def test_a_shipped_classifier_holds_every_field(saved: Path, model: Path) -> None:
    with tools.quiet():
        spec = tools.load().models.MLModel(str(saved), skip_model_load=True).get_spec()
    description = spec.description
    metadata, entries = description.metadata, dict(description.metadata.userDefined)
    assert metadata.author == "A. Developer"
    assert metadata.license == "MIT"
    assert metadata.versionString == "2.1"
    for part in (
        "32 x 32 pixels",
        "5 classes",
        f"model {model.name}",
        "Top-1 87.5% on 40 images in insects/val",
        "ms on",
    ):
        assert part in metadata.shortDescription
    assert description.predictedFeatureName == "classLabel"
    assert description.predictedProbabilitiesName == "classLabel_probs"
    outputs = {each.name: each for each in description.output}
    assert outputs["classLabel"].type.WhichOneof("Type") == "stringType"
    assert outputs["classLabel_probs"].type.WhichOneof("Type") == "dictionaryType"
    assert all(each.shortDescription for each in outputs.values())
    (image,) = description.input
    assert (image.type.imageType.width, image.type.imageType.height) == (32, 32)
    assert image.type.imageType.ColorSpace.Name(image.type.imageType.colorSpace) == "RGB"
    assert f"mean {MEAN}, std {STD}" in image.shortDescription
    assert SavedProgram(saved).labels == LABELS
    assert entries["com.apple.coreml.model.preview.type"] == "imageClassifier"
    assert entries["mvig_nas.top1"] == "0.8750"
    assert entries["mvig_nas.top1_measured"].startswith(
        "on 40 images in insects/val, central crop of 0.9, by the trained"
    )
    assert entries["mvig_nas.trained_on"] == "insects"
    assert 0.2 < float(entries["mvig_nas.predicted_ms"]) < 2
    low, high = (float(each) for each in entries["mvig_nas.predicted_interval_ms"].partition(",")[0].split(" to "))
    assert low < float(entries["mvig_nas.predicted_ms"]) < high
    assert entries["mvig_nas.predicted_device"] == "iphone-12, predicted and not measured"
    assert entries["mvig_nas.normalisation"] == f"mean {MEAN}, std {STD}"
    assert json.loads(entries["mvig_nas.preprocessing"])["crop_fraction"] == 0.9
    assert inspect_package(saved, model).is_verified


def test_the_newest_target_is_verified(model: Path, tmp_path: Path) -> None:
    own = ExportOptions(
        minimum_deployment_target="iOS26", details=PackageDetails(description="Insects.", trained_on="mine")
    )
    made = export_target(str(model), tmp_path / "new.mlpackage", ExportRequest(package=own)).package
    description = SavedProgram(made).description
    assert description.metadata.shortDescription == "Insects."
    assert description.metadata.userDefined["mvig_nas.trained_on"] == "mine"
    assert inspect_package(made, model).is_verified


def test_the_command_says_in_capitals_that_weights_are_random(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.json").write_text(TINY.to_json())
    Path("tiny.jsonl").write_text(TINY.to_json() + "\n")
    statement = "THE WEIGHTS ARE RANDOM. THE PACKAGE IS FOR TIMING ONLY"
    for target in ("tiny.json", "tiny.jsonl"):
        assert statement in CliRunner().invoke(cli, ["export", target, "--num-classes", "5"]).output
    printed = (
        CliRunner().invoke(cli, ["export", str(model), "--out", "net.mlpackage", "--author", "A. Developer"]).output
    )
    assert "Verified:" in printed
    assert statement not in printed
    assert SavedProgram(Path("net.mlpackage")).description.metadata.author == "A. Developer"


def test_an_unknown_phone_is_an_error(model: Path, tmp_path: Path) -> None:
    request = ExportRequest(package=ExportOptions(details=PackageDetails(device="iphone-1")))
    with pytest.raises(MvigNasError, match="iphone-1"):
        export_target(str(model), tmp_path / "net.mlpackage", request)


def test_a_model_for_several_images_at_once_keeps_the_order_of_its_classes(model: Path, tmp_path: Path) -> None:
    package = tmp_path / "net.mlpackage"
    command = ["export", str(model), "--out", str(package), "--batch", "2"]
    refused = CliRunner().invoke(cli, command)
    assert "give --input tensor" in f"{refused.output}{refused.exception}"
    made = CliRunner().invoke(cli, [*command, "--input", "tensor"])
    assert made.exit_code == 0, made.output
    program = SavedProgram(package)
    assert (program.batch, program.labels) == (2, ())
    assert json.loads(program.metadata["mvig_nas.classes"]) == list(LABELS)
    assert "mvig_nas.predicted_ms" not in program.metadata
    assert inspect_package(package, model).is_verified
