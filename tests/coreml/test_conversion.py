"""Exported packages: operations against the kernel lists, weights against the network, and what goes wrong."""

import logging
import os
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mvig_nas import coreml, kernels
from mvig_nas.architecture import ACTIVATIONS, PRESETS, Architecture, Stage
from mvig_nas.coreml import ExportOptions, tools
from mvig_nas.coreml.package import SavedProgram, content_sha256
from mvig_nas.coreml.package import applied_normalisation as normalisation
from mvig_nas.errors import MvigNasError
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.measure import package_target
from mvig_nas.network import MobileViG, build, for_inference
from mvig_nas.network.torch_maps import linked
from tests.strategies import FAMILY_SPACES, SPACES

CLASSES = 5
KNN = OPERATORS["knn"]
MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.25, 0.4)  # farther apart than ImageNet's, so that one scale for three shows
LABELS = ("ant", "bee", "cat", "dog", "elk")
TINY = Architecture(
    (
        Stage(8, conv_depth=1, conv_expansion=2, activation="relu"),
        Stage(8, activation="relu"),
        Stage(8, graph_depth=1, ffn_expansion=2, graph_step=1, activation="silu"),
        Stage(12, activation="gelu"),
    ),
    head_width=16,
    resolution=32,
)
EVERY_CHOICE = Architecture(
    (
        Stage(16, conv_depth=1, conv_kernel=7, graph_depth=1, graph_step=16, activation="silu"),
        Stage(16, conv_depth=1, conv_kernel=5, graph_depth=1, graph_step=4, graph_groups=4, activation="hard_swish"),
        Stage(24, graph_depth=1, graph_operator="knn", activation="gelu"),
        Stage(32, graph_depth=1, graph_operator="knn", graph_groups=2, activation="relu"),
    ),
    head_width=32,
    resolution=192,
)


def as_if_trained(architecture: Architecture, seed: int = 0, num_classes: int = CLASSES) -> MobileViG:
    """A network in which folding a norm or a layer scale changes every weight."""
    network = coreml.untrained(architecture, num_classes, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.2)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
        for name, scale in module.named_parameters(recurse=False):
            if name.endswith("layer_scale"):
                scale.data.copy_(torch.rand(scale.shape, generator=generator))
    return network


@pytest.fixture(scope="module")
def tiny() -> MobileViG:
    return as_if_trained(TINY)


@pytest.fixture(scope="module")
def saved(tiny: MobileViG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of `tiny` with an image input; tests copy it before they change it."""
    return coreml.export(tiny, tmp_path_factory.mktemp("saved") / "tiny.mlpackage", weights="as if trained")


@pytest.fixture(scope="module")
def shifted(tiny: MobileViG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with another normalisation."""
    path = tmp_path_factory.mktemp("image") / "shifted.mlpackage"
    return coreml.export(tiny, path, weights="as if trained", options=ExportOptions(mean=MEAN, std=STD))


@pytest.fixture(scope="module")
def labelled(tiny: MobileViG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a classifier."""
    path = tmp_path_factory.mktemp("labelled") / "labelled.mlpackage"
    return coreml.export(tiny, path, weights="as if trained", options=ExportOptions(class_labels=LABELS))


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    return copied(saved, tmp_path)


def copied(source: Path, folder: Path) -> Path:
    target = folder / source.name
    for file in source.rglob("*"):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    return target


def model_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def edited(package: Path, change: Callable[[Any, Any], None]) -> None:
    """Change the saved model in place; `change` gets it and the block of its program."""
    model = tools.load().proto.Model_pb2.Model()
    model.ParseFromString(model_file(package).read_bytes())
    function = model.mlProgram.functions["main"]
    change(model, function.block_specializations[function.opset])
    model_file(package).write_bytes(model.SerializeToString())


def first(block: Any, kind: str) -> Any:
    return next(operation for operation in block.operations if operation.type == kind)


class TestAgreementWithKernelLists:
    def check(self, architecture: Architecture, path: Path, num_classes: int = CLASSES, **options: Any) -> None:
        network = as_if_trained(architecture, num_classes=num_classes)
        coreml.export(network, path, ExportOptions(**options), weights="as if trained")
        report = coreml.verify(path, architecture, network)
        listed = kernels.of(architecture, "exported", num_classes)
        extra = options.get("input_kind", "image") == "image"
        assert report.operations == len(listed) + extra + ("class_labels" in options)
        assert report.convolutions == sum(kernel.kind == "conv" for kernel in listed)
        assert 2 * report.weight_elements == sum(kernel.bytes_weights for kernel in listed)
        assert 0 < report.max_rounding < 0.01
        assert report.num_classes == num_classes
        assert report.comparison.images == 4
        assert report.comparison.difference is not None
        assert report.comparison.difference < 5e-4
        assert 0 < report.comparison.rounding_fp16 < 0.1

    @pytest.mark.parametrize("seed", range(20))
    def test_of_sampled_architectures(self, seed: int, tmp_path: Path) -> None:
        architecture = SPACES["toy"].sample(random.Random(seed))
        options: tuple[dict[str, Any], ...] = ({}, {"input_kind": "tensor"}, {"class_labels": LABELS})
        self.check(architecture, tmp_path / "toy.mlpackage", **options[seed % 3])

    @pytest.mark.parametrize("operator", [name for name in OPERATORS if name not in ("svga", "knn")])
    def test_of_every_operator(self, operator: str, tmp_path: Path) -> None:
        graph = {"graph_operator": operator, "graph_step": 2, "graph_cpe": True, "graph_scale": True}
        stages = (
            Stage(8, conv_depth=1),
            Stage(8, graph_depth=1, ffn_expansion=2, graph_groups=2, **graph),
            Stage(12, graph_depth=1, ffn_expansion=2, **graph),
            Stage(12),
        )
        self.check(Architecture(stages, 16, 96), tmp_path / "family.mlpackage")

    @pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name not in ("relu", "gelu")])
    def test_of_every_activation(self, activation: str, tmp_path: Path) -> None:
        stages = (
            Stage(8, conv_depth=1, conv_expansion=2, activation=activation),
            Stage(8, activation=activation),
            Stage(8, graph_depth=1, ffn_expansion=2, graph_step=1, activation=activation),
            Stage(8, activation=activation),
        )
        self.check(Architecture(stages, 16, 32), tmp_path / "activation.mlpackage")

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(20))
    def test_of_the_family_space(self, seed: int, tmp_path: Path) -> None:
        architecture = FAMILY_SPACES["vig-family"].sample(random.Random(seed))
        self.check(architecture, tmp_path / "family.mlpackage")

    @pytest.mark.parametrize("target", ["iOS16", pytest.param("iOS17", marks=pytest.mark.slow), "iOS18"])
    def test_of_every_choice(self, target: str, tmp_path: Path) -> None:
        path = tmp_path / "every.mlpackage"
        self.check(EVERY_CHOICE, path, input_kind="tensor", minimum_deployment_target=target)
        # from iOS 17 on, the indices of each of the two knn blocks pass through casts to 16 bits
        casts = [operation for operation in coreml.operations(path) if operation.kind == "cast"]
        assert len(casts) == (0 if target == "iOS16" else 4)
        assert all("int" in operation.precision for operation in casts)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [1, 2])
    def test_of_the_whole_space(self, seed: int, tmp_path: Path) -> None:
        self.check(SPACES["mobilevig"].sample(random.Random(seed)), tmp_path / "large.mlpackage")

    @pytest.mark.parametrize(
        "name",
        ["mobilevig_ti", *(pytest.param(f"mobilevig_{size}", marks=pytest.mark.slow) for size in "smb")],
    )
    def test_of_the_presets(self, name: str, tmp_path: Path) -> None:
        self.check(PRESETS[name], tmp_path / f"{name}.mlpackage", num_classes=1000)


class TestSavedPackage:
    def test_operations_in_order(self, saved: Path) -> None:
        kinds = [operation.kind for operation in coreml.operations(saved)]
        stem, mbconv = ["conv", "relu"] * 2, ["conv", "relu", "conv", "relu", "conv", "add"]
        roll = ["slice_by_index", "slice_by_index", "concat", "minimum"]
        svga = [*roll, *roll, "minimum", "sub"]  # 2 x 2 pixels, step 1: one roll each way
        graph = ["conv", *svga, "concat", "conv", "silu", "conv", "add", "conv", "silu", "conv", "add"]
        head = ["reduce_mean", "conv", "gelu", "conv", "reshape"]
        assert kinds == ["cast", "batch_norm", *stem, *mbconv, "conv", "conv", *graph, "conv", *head]

    def test_convolutions_have_their_options(self, saved: Path) -> None:
        convolutions = [operation for operation in coreml.operations(saved) if operation.kind == "conv"]
        depthwise = convolutions[3]
        assert (depthwise.shape, depthwise.kernel_size, depthwise.stride) == ((1, 16, 8, 8), (3, 3), (1, 1))
        assert (depthwise.groups, depthwise.bytes_weights, depthwise.precision) == (16, 2 * 16 * (9 + 1), "fp16")
        assert convolutions[0].stride == (2, 2)

    def test_metadata(self, saved: Path) -> None:
        program = SavedProgram(saved)
        metadata = program.metadata
        assert Architecture.from_json(metadata["mvig_nas.architecture"]) == TINY
        assert metadata["mvig_nas.fingerprint"] == TINY.fingerprint
        assert metadata["mvig_nas.weights"] == "as if trained"
        assert metadata["mvig_nas.coremltools_version"] == tools.load().__version__
        assert "Weights: as if trained." in program.description.metadata.shortDescription

    def test_classifier(self, labelled: Path) -> None:
        program = SavedProgram(labelled)
        assert [output.name for output in program.description.output] == ["classLabel", "classLabel_probs"]
        assert [operation.kind for operation in program.operations[-3:]] == ["softmax", "cast", "classify"]
        stored = program.nodes[-1].inputs["classes"].arguments[0].value.immediateValue.list.values
        assert tuple(value.immediateValue.tensor.strings.values[0] for value in stored) == LABELS

    def test_only_the_package_is_written(self, saved: Path) -> None:
        assert list(saved.parent.iterdir()) == [saved]
        files = sorted(file.name for file in saved.rglob("*") if file.is_file())
        assert files == ["Manifest.json", "model.mlmodel", "weight.bin"]

    def test_network_is_left_as_it_was(self, tmp_path: Path) -> None:
        network = as_if_trained(TINY).train()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        coreml.export(network, tmp_path / "x.mlpackage", weights="as if trained")
        assert network.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    def test_nothing_is_printed(
        self, tiny: MobileViG, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        coreml.export(tiny, tmp_path / "x.mlpackage", weights="as if trained")
        assert capsys.readouterr() == ("", "")
        assert not [record for record in caplog.records if record.levelno >= logging.INFO]

    def test_untrained_weights_follow_the_seed_alone(self) -> None:
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        one, two, other = (coreml.untrained(TINY, CLASSES, seed) for seed in (0, 0, 1))
        assert torch.equal(torch.rand(1), expected)
        assert torch.equal(one.head_conv.conv.weight, two.head_conv.conv.weight)
        assert not torch.equal(one.head_conv.conv.weight, other.head_conv.conv.weight)


class TestImageInput:
    def test_pixels_are_normalised_as_in_training(self, tiny: MobileViG, shifted: Path) -> None:
        # What the package does to pixels, with the constants it holds, against torch's normalisation of the same image.
        scale, offset = (torch.tensor(each).float().view(1, 3, 1, 1) for each in normalisation(SavedProgram(shifted)))
        pixels = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
        inside, outside = pixels * scale + offset, (pixels / 255 - mean) / std
        assert (inside - outside).abs().max() < 8e-3  # values reach 8, where fp16's step is 8e-3
        network = for_inference(tiny)
        with torch.no_grad():
            wanted, found = network(outside), network(inside)
        assert (found - wanted).abs().max() < 2e-3 * wanted.abs().max()

    def test_padding_comes_after_it(self, shifted: Path) -> None:
        program = SavedProgram(shifted)
        cast, norm, conv = program.nodes[:3]
        assert (cast.type, norm.type, conv.type) == ("cast", "batch_norm", "conv")
        assert norm.outputs[0].name == conv.inputs["x"].arguments[0].name
        assert program.argument(conv, "pad") is not None

    def test_other_normalisation_than_stated_is_found(self, shifted: Path, tmp_path: Path) -> None:
        package = copied(shifted, tmp_path)

        def restate(model: Any, _: Any) -> None:
            model.description.metadata.userDefined["mvig_nas.normalisation"] = f"mean {MEAN}, std (0.2, 0.2, 0.2)"

        edited(package, restate)
        with pytest.raises(MvigNasError, match="pixels of 0 normalised to"):
            coreml.verify(package, TINY)


class TestVerificationFails:
    def test_on_an_altered_weight(self, package: Path, tiny: MobileViG) -> None:
        program = SavedProgram(package)
        conv = [node for node in program.nodes if node.type == "conv"][4]
        weight = program.argument(conv, "weight")
        assert weight is not None
        file = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
        data = file.read_bytes()
        assert data.count(weight.tobytes()) == 1
        changed = weight.copy()
        changed.flat[7] = np.nextafter(changed.flat[7], np.float16(np.inf))  # by the least there is
        file.write_bytes(data.replace(weight.tobytes(), changed.tobytes()))
        with pytest.raises(MvigNasError, match="must hold its weights of SHA-256"):  # the operations are still right
            coreml.verify(package, TINY)
        with pytest.raises(MvigNasError, match=r"network's weight in fp16 at `stages.0.blocks.0.conv_pwl.conv`"):
            coreml.verify(package, TINY, tiny)

    def test_on_another_networks_weights(self, saved: Path) -> None:
        with pytest.raises(MvigNasError, match=r"network's weight in fp16 at `stem\.conv1\.conv`, got one up to"):
            coreml.verify(saved, TINY, as_if_trained(TINY, seed=1))

    def test_on_another_architecture(self, saved: Path) -> None:
        with pytest.raises(MvigNasError, match=f"architecture {EVERY_CHOICE.fingerprint}, got {TINY.fingerprint};"):
            coreml.verify(saved, EVERY_CHOICE)

    def test_on_a_missing_operation(self, package: Path) -> None:
        edited(package, lambda _, block: block.operations.remove(first(block, "minimum")))
        with pytest.raises(MvigNasError, match=r"must hold 3 x minimum \(1, 8, 2, 2\) .*, got 2;"):
            coreml.verify(package, TINY)

    def test_on_an_operation_of_another_kind(self, package: Path) -> None:
        def change(_: Any, block: Any) -> None:
            first(block, "gelu").type = "silu"

        edited(package, change)
        with pytest.raises(MvigNasError, match=r"must hold 0 x silu \(1, 16, 1, 1\) .*, got 1;"):
            coreml.verify(package, TINY)

    def test_on_an_operation_in_fp32(self, package: Path) -> None:
        def change(_: Any, block: Any) -> None:
            first(block, "gelu").outputs[0].type.tensorType.dataType = 11  # FLOAT32

        edited(package, change)
        with pytest.raises(MvigNasError, match=r"every operation in fp16, got gelu \(1, 16, 1, 1\) in fp32"):
            coreml.verify(package, TINY)

    def test_on_an_image_of_another_size(self, package: Path) -> None:
        def change(model: Any, _: Any) -> None:
            model.description.input[0].type.imageType.width = 64

        edited(package, change)
        with pytest.raises(MvigNasError, match=r"an image input \(32, 32, 'RGB'\), got \(64, 32, 'RGB'\)"):
            coreml.verify(package, TINY)

    def test_on_a_tensor_of_another_size(self, tiny: MobileViG, tmp_path: Path) -> None:
        path = coreml.export(
            tiny, tmp_path / "x.mlpackage", weights="as if trained", options=ExportOptions(input_kind="tensor")
        )

        def change(model: Any, _: Any) -> None:
            model.description.input[0].type.multiArrayType.shape[2] = 64

        edited(path, change)
        with pytest.raises(MvigNasError, match=r"an fp16 input \(1, 3, 32, 32\), got FLOAT16 \(1, 3, 64, 32\)"):
            coreml.verify(path, TINY)

    def test_on_logits_in_fp32(self, package: Path) -> None:
        def change(model: Any, _: Any) -> None:
            model.description.output[0].type.multiArrayType.dataType = 65568  # FLOAT32

        edited(package, change)
        with pytest.raises(MvigNasError, match=r"an fp16 output \(1, classes\), got FLOAT32 \(1, 5\)"):
            coreml.verify(package, TINY)

    def test_on_a_missing_label(self, labelled: Path, tmp_path: Path) -> None:
        path = copied(labelled, tmp_path)

        def change(_: Any, block: Any) -> None:
            del first(block, "classify").inputs["classes"].arguments[0].value.immediateValue.list.values[0]

        edited(path, change)
        with pytest.raises(MvigNasError, match=r"probabilities \(1, 4\) for 4 labels, got \(1, 5\)"):
            coreml.verify(path, TINY)

    def test_on_the_reference_form_of_svga(self, tmp_path: Path) -> None:
        # 4 x 4 pixels at step 1: three links each way, where the loop and the doubling differ
        architecture = Architecture((*TINY.stages[:3], TINY.stages[3]), TINY.head_width, resolution=64)
        network = build(architecture, CLASSES, reference_links=True)
        path = coreml.export(network, tmp_path / "loop.mlpackage", weights="untrained")
        with pytest.raises(MvigNasError, match="as in the architecture's kernel list"):
            coreml.verify(path, architecture)
        listed = Counter(kernel.kind for kernel in kernels.of(architecture, "reference", CLASSES))
        found = Counter(operation.kind for operation in coreml.operations(path))
        assert found["maximum"] == listed["maximum"] > 0


class TestUnreadablePackage:
    def test_none_there(self, tmp_path: Path) -> None:
        with pytest.raises(MvigNasError, match="no Core ML package at"):
            coreml.operations(tmp_path / "none.mlpackage")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            '{"rootModelIdentifier": "x", "itemInfoEntries": []}',
            '{"rootModelIdentifier": 7, "itemInfoEntries": "short"}',
            f'{{"rootModelIdentifier": {10**30}, "itemInfoEntries": []}}',
        ],
    )
    def test_bad_manifest(self, package: Path, text: str) -> None:
        (package / "Manifest.json").write_text(text)
        with pytest.raises(MvigNasError, match=r"whole and hold one ML program, got .*Manifest\.json"):
            coreml.operations(package)

    def test_truncated_model(self, package: Path) -> None:
        model_file(package).write_bytes(model_file(package).read_bytes()[:-100])
        with pytest.raises(MvigNasError, match=r"whole and hold one ML program, got .*model\.mlmodel"):
            coreml.operations(package)

    def test_other_model_than_a_program(self, package: Path) -> None:
        edited(package, lambda model, _: model.neuralNetwork.SetInParent())
        with pytest.raises(MvigNasError, match=r"model\.mlmodel is neuralNetwork, not an ML program"):
            coreml.operations(package)

    @pytest.mark.parametrize("size", [0, 100, 1000])
    def test_truncated_weights(self, package: Path, size: int) -> None:
        file = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(MvigNasError, match=r"weight\.bin does not hold constant"):
            coreml.operations(package)

    def test_nothing_outside_of_it_is_read(self, package: Path, tmp_path: Path) -> None:
        weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
        manifest = (package / "Manifest.json").read_text()
        outside = weights.replace(tmp_path / "outside.bin")
        weights.symlink_to(outside)
        for read in (coreml.operations, content_sha256):
            with pytest.raises(MvigNasError, match=r"weight\.bin lies outside of it"):
                read(package)
        weights.unlink()
        for path in ("com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"):
            (package / "Manifest.json").write_text(manifest.replace(f'"{path}"', '"../../outside.bin"'))
            with pytest.raises(MvigNasError, match=r"outside\.bin lies outside of it"):
                coreml.operations(package)
        (package / "Manifest.json").unlink()
        os.mkfifo(package / "Manifest.json")
        with pytest.raises(MvigNasError, match=r"Manifest\.json: .*not a regular file"):
            coreml.operations(package)

    def test_no_weights(self, package: Path) -> None:
        (package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").unlink()
        with pytest.raises(MvigNasError, match=r"weight\.bin: .*No such file"):
            coreml.operations(package)


class TestExportRefuses:
    def refuse(self, network: MobileViG, path: Path, match: str, **options: Any) -> None:
        with pytest.raises(MvigNasError, match=match):
            coreml.export(network, path, **({"weights": "as if trained"} | options))

    def test_a_taken_path(self, tiny: MobileViG, package: Path, tmp_path: Path) -> None:
        self.refuse(tiny, package, "nothing is overwritten unasked")
        before = model_file(package).read_bytes()
        other = as_if_trained(TINY, seed=1)
        coreml.export(other, package, weights="other", overwrite=True)
        assert model_file(package).read_bytes() != before
        coreml.verify(package, TINY, other)
        assert list(tmp_path.iterdir()) == [package]

    def test_overwriting_what_is_no_package(self, tiny: MobileViG, tmp_path: Path) -> None:
        path = tmp_path / "notes.mlpackage"
        path.mkdir()
        (path / "notes.txt").write_text("mine")
        self.refuse(tiny, path, "only a Core ML package may be overwritten", overwrite=True)
        assert (path / "notes.txt").read_text() == "mine"

    def test_other_suffixes(self, tiny: MobileViG, tmp_path: Path) -> None:
        self.refuse(tiny, tmp_path / "x.mlmodel", r"must end in \.mlpackage")

    def test_a_missing_folder(self, tiny: MobileViG, tmp_path: Path) -> None:
        self.refuse(tiny, tmp_path / "none" / "x.mlpackage", "needs an existing folder")

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody may write")
    def test_a_read_only_folder(self, tiny: MobileViG) -> None:
        self.refuse(tiny, Path("/proc/x.mlpackage"), "must be writable and have room, got /proc")

    def test_a_full_disk(self, tiny: MobileViG, tmp_path: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file above 1000 bytes
        try:
            self.refuse(tiny, tmp_path / "x.mlpackage", "must be writable and have room")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not list(tmp_path.iterdir())

    def test_a_disk_that_is_full_once_a_package_is_put_together(
        self, tiny: MobileViG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> Path:
            raise RuntimeError("filesystem error: cannot copy: Input/output error [/tmp/a] [/b/weights]")

        monkeypatch.setattr("mvig_nas.coreml.conversion.written", full)
        self.refuse(tiny, tmp_path / "x.mlpackage", r"have room, got .*x\.mlpackage: .*Input/output error; free space")
        assert not list(tmp_path.iterdir())

    def test_labels_that_are_too_few(self, tiny: MobileViG, tmp_path: Path) -> None:
        self.refuse(
            tiny, tmp_path / "x.mlpackage", "got 4 labels for 5 classes", options=ExportOptions(class_labels=LABELS[:4])
        )

    def test_labels_that_repeat(self, tiny: MobileViG, tmp_path: Path) -> None:
        options = ExportOptions(class_labels=(*LABELS[:4], "ant"))
        self.refuse(tiny, tmp_path / "x.mlpackage", "must differ, got 'ant' twice", options=options)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"input_kind": "video"}, "`input_kind` must be one of 'image', 'tensor', got 'video'"),
            ({"minimum_deployment_target": "iOS12"}, "`minimum_deployment_target` must be one of .*, got 'iOS12'"),
            ({"std": (0.2, 0.2, 0.0)}, r"`std\[2\]` must be a number above 0, got 0"),
            ({"mean": (0.5,)}, "`mean` must be a list of length 3"),
            ({"mean": (0.5, float("nan"), 0.5)}, r"`mean\[1\]` must be a finite number, got nan"),
        ],
    )
    def test_unknown_choices(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(MvigNasError, match=match):
            ExportOptions(**options)

    def test_weights_of_no_stated_source(self, tiny: MobileViG, tmp_path: Path) -> None:
        self.refuse(tiny, tmp_path / "x.mlpackage", "must say where the network's weights come from", weights=" ")

    def test_weights_beyond_fp16(self, tmp_path: Path) -> None:
        network = as_if_trained(TINY)
        network.head_conv.conv.weight.data[0] = 1e6
        self.refuse(network, tmp_path / "x.mlpackage", r"must be finite and fit fp16 .* in `head_conv\.conv\.weight`")

    def test_networks_that_are_no_image_classifier(self, tmp_path: Path) -> None:
        self.refuse(build(TINY, 0), tmp_path / "x.mlpackage", "must have classes, got 0")
        self.refuse(build(TINY, CLASSES, in_chans=1), tmp_path / "x.mlpackage", "must take 3 channels, got 1")

    def test_without_coremltools(self, tiny: MobileViG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "coremltools", None)
        self.refuse(tiny, tmp_path / "x.mlpackage", "need coremltools, got .*; run `pip install coremltools`")


class TestKnnInFp16:
    def test_large_features_find_the_same_neighbours(self) -> None:
        x = torch.randn(1, 24, 7, 7, generator=torch.Generator().manual_seed(0)).half()
        assert torch.equal(
            linked(KNN, x * 1024, 0), linked(KNN, x, 0) * 1024
        )  # squares of 1024 are beyond fp16; powers of two are exact

    def test_an_empty_pixel_is_no_division_by_zero(self) -> None:
        x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0)).half()
        x[:, :, 0] = 0
        assert (
            linked(KNN, x, 0).double() - linked(KNN, x.double(), 0)
        ).abs().max() < 5e-3  # NaN would count as the nearest


class TestReadLabels:
    def test_one_a_line(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("ant\n honey bee \ncat\n", encoding="utf-8")
        assert coreml.read_labels(tmp_path / "labels.txt") == ("ant", "honey bee", "cat")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(MvigNasError, match="class labels must be a UTF-8 text file"):
            coreml.read_labels(tmp_path / "labels.txt")

    def test_empty_line(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("ant\n\ncat\n", encoding="utf-8")
        with pytest.raises(MvigNasError, match="line 2 is empty"):
            coreml.read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize("operator", ["svga", "mgc", "lsgc", "dagc", "knn"])
def test_several_images_at_once_are_each_as_alone(operator: str, tmp_path: Path) -> None:
    graph = {"graph_depth": 1, "graph_operator": operator, "graph_step": 2}
    architecture = Architecture((Stage(8, conv_depth=1), Stage(8), Stage(8, **graph), Stage(8)), 16, 96)  # type: ignore[arg-type]
    network = as_if_trained(architecture)
    options = ExportOptions("tensor", batch=3)
    package = coreml.export(network, tmp_path / "three.mlpackage", options, weights="as if trained")
    found = coreml.verify(package, architecture, network)
    assert (found.input_kind, found.num_classes) == ("tensor", CLASSES)
    alone = coreml.export(network, tmp_path / "one.mlpackage", ExportOptions("tensor"), weights="as if trained")
    images = torch.randn((3, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    together = coreml.execute(package, {"image": images}, precision="float64")["logits"]
    assert isinstance(together, torch.Tensor)
    assert together.shape == (3, CLASSES)
    for image, logits in zip(images, together, strict=True):
        single = coreml.execute(alone, {"image": image[None]}, precision="float64")["logits"]
        torch.testing.assert_close(logits[None], single)
    with pytest.raises(MvigNasError, match="must take one image, as latencies are of one, got 3 at once"):
        package_target(package)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 2}, "must take a tensor, as Core ML's image is a single one"),
        (
            {"batch": 2, "input_kind": "tensor", "class_labels": LABELS},
            "must take one image, as Core ML gives one label",
        ),
        ({"batch": 0}, "`batch` must be a whole number of at least 1"),
        ({"batch": 257, "input_kind": "tensor"}, "`batch` must be a whole number of at most 256"),
    ],
)
def test_several_images_at_once_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        ExportOptions(**options)
