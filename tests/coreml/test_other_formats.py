"""ONNX models and Core AI assets, where their packages are installed; and what is refused where they are not."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mvig_nas.architecture import Architecture, Stage
from mvig_nas.cli import cli
from mvig_nas.coreml import Compression, ExportOptions, ExportRequest, export_target
from mvig_nas.coreml.other_formats import SUFFIXES, Format, export_other
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import Preprocessing
from mvig_nas.training.model_folder import TrainedModel, write_model
from tests.coreml.test_conversion import LABELS, MEAN, STD, TINY, as_if_trained

PACKAGES: Mapping[Format, str] = {"onnx": "onnxscript", "coreai": "coreai_torch"}
FORMATS: list[Format] = ["onnx", "coreai"]


def installed(form: Format) -> Any:
    try:
        return __import__(PACKAGES[form])
    except ImportError:
        return pytest.skip(f"{PACKAGES[form]} is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, TrainedModel(as_if_trained(TINY), LABELS, Preprocessing(mean=MEAN, std=STD)))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
def test_by_the_command_a_trained_model_is_written_and_verified(form: Format, model: Path, tmp_path: Path) -> None:
    installed(form)
    path = tmp_path / f"net{SUFFIXES[form]}"
    command = ["export", str(model), "--format", form, "--out", str(path)]
    made = CliRunner().invoke(cli, [*command, "--json"])
    assert made.exit_code == 0, made.output
    values = json.loads(made.output)
    assert values["convolutions"] > 5
    assert values["difference"] < (1e-5 if form == "onnx" else 5e-3)
    again = CliRunner().invoke(cli, command)
    assert "nothing is overwritten unasked" in f"{again.output}{again.exception}"
    printed = CliRunner().invoke(cli, [*command, "--overwrite"]).output
    assert f"Verified: the {values['convolutions']} convolutions" in printed
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if form == "onnx":
        import onnx

        entries = {each.key: each.value for each in onnx.load(str(path)).metadata_props}
    else:
        from coreai.authoring import AIModelAsset

        entries = AIModelAsset.load(path).metadata.creator_defined_metadata
    assert json.loads(entries["mvig_nas.classes"]) == list(LABELS)
    assert entries["mvig_nas.fingerprint"] == TINY.fingerprint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("operator", ["svga", "mgc", "lsgc", "dagc", "knn"])
def test_every_graph_operator_is_converted(form: Format, operator: str, tmp_path: Path) -> None:
    installed(form)
    graph = {"graph_depth": 1, "graph_operator": operator, "graph_step": 2}
    architecture = Architecture((Stage(8, conv_depth=1), Stage(8), Stage(8, **graph), Stage(8)), 16, 96)  # type: ignore[arg-type]
    options = ExportOptions("tensor", batch=2)
    made = export_other(
        as_if_trained(architecture), tmp_path / f"net{SUFFIXES[form]}", form, options, metadata={"weights": "as if"}
    )
    assert made.difference is not None
    assert np.isfinite(made.difference)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
def test_a_model_that_computes_something_else_is_not_written(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(form)
    home = torch.export if form == "coreai" else torch.onnx
    export = home.export

    def altered(module: Any, *args: Any, **kwargs: Any) -> Any:
        """Of a copy with another first convolution."""
        other = copy.deepcopy(module)
        with torch.no_grad():
            next(other.parameters()).mul_(1.5)
        return export(other, *args, **kwargs)

    monkeypatch.setattr(home, "export", altered)
    path = tmp_path / f"net{SUFFIXES[form]}"
    with pytest.raises(MvigNasError, match="must be the network's to"):
        export_other(as_if_trained(TINY), path, form, ExportOptions(), metadata={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_without_its_packages_a_format_is_refused_in_one_line(form: Format, model: Path, tmp_path: Path) -> None:
    try:
        __import__(PACKAGES[form])
    except ImportError:
        with pytest.raises(MvigNasError, match=rf"not installed; install mvig-nas\[{form}\]"):
            export_target(str(model), tmp_path / f"net{SUFFIXES[form]}", ExportRequest(format=form))
    else:
        pytest.skip("its packages are installed")


def test_only_a_package_is_compressed() -> None:
    with pytest.raises(MvigNasError, match="must be compressed in a Core ML package, got --format onnx"):
        ExportRequest(format="onnx", compression=Compression(8))
