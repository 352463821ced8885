"""Packages executed in torch: against the network, against coremltools' own arithmetic, and what tampering shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mvig_nas import coreml
from mvig_nas.architecture import Architecture, Stage
from mvig_nas.cli.export import export as export_command
from mvig_nas.coreml import ExportOptions, tools
from mvig_nas.coreml.interpreter import KINDS
from mvig_nas.coreml.package import SavedProgram
from mvig_nas.coreml.verification import compare, example_images, share
from mvig_nas.errors import MvigNasError
from mvig_nas.network import for_inference
from tests.coreml.test_conversion import CLASSES, LABELS, TINY, as_if_trained, copied, edited, first, model_file

# Every kind of operation: four activations, both graph operators, groups, several rolls.
SMALL = Architecture(
    (
        Stage(8, conv_depth=1, conv_expansion=2, conv_kernel=5, activation="hard_swish"),
        Stage(8, graph_depth=1, graph_step=1, graph_groups=4, ffn_expansion=2, activation="relu"),
        Stage(12, graph_depth=1, graph_step=2, ffn_expansion=2, activation="silu"),
        Stage(12, graph_depth=1, graph_operator="knn", ffn_expansion=2, activation="gelu"),
    ),
    head_width=16,
    resolution=128,
)
IMAGES = example_images(SMALL.resolution)
MEAN, STD = (torch.tensor(each).view(1, 3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with fresh layer scales of 1e-5, behind which little of a branch is left."""
    network = coreml.untrained(SMALL, CLASSES)
    return coreml.export(network, tmp_path_factory.mktemp("saved") / "small.mlpackage", weights="untrained")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "labelled.mlpackage"
    network = as_if_trained(SMALL)
    return coreml.export(
        network,
        path,
        ExportOptions(class_labels=LABELS, minimum_deployment_target="iOS17"),
        weights="as if trained",
    )


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    return copied(saved, tmp_path)


class TestExecute:
    @pytest.mark.parametrize("name", IMAGES)
    def test_logits_are_the_networks(self, saved: Path, name: str) -> None:
        network = for_inference(coreml.untrained(SMALL, CLASSES))
        with torch.no_grad():
            wanted = network((IMAGES[name] / 255 - MEAN) / STD)
        for precision in ("float64", "float32", "float16"):
            found = coreml.execute(saved, {"image": IMAGES[name]}, precision=precision)  # type: ignore[arg-type]
            assert list(found) == ["logits"]
            assert isinstance(found["logits"], torch.Tensor)
            # the package's weights are rounded to fp16, this network's are not
            assert share(found["logits"], wanted) < 2e-2

    def test_values_in_fp16_are_rounded(self, saved: Path) -> None:
        image = {"image": IMAGES["noise"]}
        half, single = (coreml.execute(saved, image, precision=each)["logits"] for each in ("float16", "float32"))
        assert isinstance(half, torch.Tensor)
        assert isinstance(single, torch.Tensor)
        assert torch.equal(half, half.half().float())
        assert not torch.equal(single, single.half().float())

    def test_classifier(self, labelled: Path) -> None:
        found = coreml.execute(labelled, {"image": IMAGES["smooth colours"]})
        probabilities = found["classLabel_probs"]
        assert isinstance(probabilities, torch.Tensor)
        assert probabilities.sum().item() == pytest.approx(1)
        assert found["classLabel"] == LABELS[int(probabilities.argmax())]

    def test_every_kind_is_one_that_packages_hold(self, saved: Path, labelled: Path, tmp_path: Path) -> None:
        masked = Stage(8, graph_depth=1, graph_operator="dagc", ffn_expansion=2, activation="relu6")
        network = coreml.untrained(Architecture((masked, *(Stage(8),) * 3), 8, 32), CLASSES)
        path = coreml.export(network, tmp_path / "masked.mlpackage", weights="untrained")
        found = {node.type for path in (saved, labelled, path) for node in SavedProgram(path).nodes}
        assert found == KINDS.keys()

    def test_a_wrong_request(self, saved: Path) -> None:
        image = IMAGES["noise"]
        with pytest.raises(MvigNasError, match=r"inputs of .* must be \['image'\], got \['picture'\]"):
            coreml.execute(saved, {"picture": image})
        with pytest.raises(MvigNasError, match=r"must have shape \(1, 3, 128, 128\), got \(1, 3, 64, 128\)"):
            coreml.execute(saved, {"image": image[:, :, ::2]})
        with pytest.raises(MvigNasError, match="pixels of `image` must be 0 to 255, got 0 to 510"):
            coreml.execute(saved, {"image": image * 2})
        with pytest.raises(MvigNasError, match="pixels of `image` must be 0 to 255, got nan"):
            coreml.execute(saved, {"image": image * torch.nan})
        with pytest.raises(MvigNasError, match=r"precision must be one of .*, got 'int8'"):
            coreml.execute(saved, {"image": image}, precision="int8")  # type: ignore[arg-type]

    def test_a_tensor_that_is_not_finite(self, tmp_path: Path) -> None:
        path = coreml.export(
            as_if_trained(TINY), tmp_path / "x.mlpackage", ExportOptions(input_kind="tensor"), weights="x"
        )
        with pytest.raises(MvigNasError, match="input `image` must be finite, got -inf"):
            coreml.execute(path, {"image": torch.full((1, 3, 32, 32), -torch.inf)})


class TestNotExecutable:
    @pytest.mark.parametrize(
        ("kind", "change", "match"),
        [
            ("relu", lambda node: setattr(node, "type", "relu6"), "relu6 `.*`: no operation .* did you mean 'relu'"),
            ("silu", lambda node: _wire(node, "x", "nowhere"), "silu `.*`: `x` is `nowhere`, which no operation befor"),
            ("silu", lambda node: _wire(node, "x", node.outputs[0].name), "silu `.*`: `x` is `silu.*before it makes"),
            ("silu", lambda node: _resize(node, 3), "silu `.*`: computed shape .*8, 8.*, declared .*3, 8"),
            ("topk", lambda node: node.outputs.pop(), "topk `.*`: 1 outputs, not 2"),
            ("gelu", lambda node: node.inputs["y"].CopyFrom(node.inputs["x"]), "gelu `.*`: got an unexpected keyword"),
            ("sub", lambda node: node.inputs.pop("y"), "sub `.*`: missing a required argument: 'y'"),
            ("tile", lambda node: _retype(node, 10), "tile `.*`: computed torch.int64, declared fp16"),
            ("tile", lambda node: _retype(node, 21), "tile `.*`: integers up to 15 in int8"),
            ("concat", lambda node: _wire(node, "interleave", "matmul_transpose_x_1"), "concat `.*`: interleave True"),
            ("add", lambda node: _wire(node, "y", "image_to_fp16"), "add `.*`: The size of tensor"),
        ],
    )
    def test_names_operation_and_value(
        self, package: Path, kind: str, change: Callable[[Any], object], match: str
    ) -> None:
        edited(package, lambda _, block: change(last(block, kind)))
        with pytest.raises(MvigNasError, match=match):
            coreml.execute(package, {"image": IMAGES["noise"]})

    def test_an_output_that_nothing_makes(self, package: Path) -> None:
        edited(package, lambda _, block: block.outputs.__setitem__(0, "lost"))
        with pytest.raises(MvigNasError, match="output `lost`: no operation makes it"):
            coreml.execute(package, {"image": IMAGES["noise"]})

    def test_labels_that_are_too_few(self, labelled: Path, tmp_path: Path) -> None:
        path = copied(labelled, tmp_path)

        def change(_: Any, block: Any) -> None:
            del first(block, "classify").inputs["classes"].arguments[0].value.immediateValue.list.values[0]

        edited(path, change)
        with pytest.raises(MvigNasError, match="classify `classLabel`: 4 labels for 5 probabilities"):
            coreml.execute(path, {"image": IMAGES["noise"]})


class TestVerificationFinds:
    @pytest.mark.parametrize(
        "change",
        [
            lambda block: _exchange(first(block, "sub")),
            lambda block: _exchange(last(block, "real_div")),
            lambda block: _reverse(first(block, "concat")),
            lambda block: _exchange_between(block, "minimum", "y"),
            lambda block: _exchange_between(block, "relu", "x"),
            # behind a layer scale of 1e-5
            lambda block: _wire(named(block, "conv2d_4_cast_fp16"), "x", "hardswish_2_cast_fp16"),
            lambda block: _wire(first(block, "mul"), "y", first(block, "mul").inputs["x"].arguments[0].name),
            lambda block: _wire(first(block, "topk"), "ascending", "matmul_transpose_x_1"),
            # the rows that leave a map at its bottom come back at its top
            lambda block: _set_ints(block, first(block, "slice_by_index"), "begin", [0, 0, 2, 0]),
            lambda block: _swap_kinds(first(block, "minimum"), first(block, "sub")),
        ],
    )
    def test_wrong_wires_and_options(self, package: Path, change: Callable[[Any], object]) -> None:
        edited(package, lambda _, block: change(block))
        with pytest.raises(MvigNasError, match=r"wired as the architecture's network|computed shape"):
            coreml.verify(package, SMALL)

    def test_an_operation_of_another_kind(self, package: Path) -> None:
        edited(package, lambda _, block: setattr(first(block, "minimum"), "type", "maximum"))
        with pytest.raises(MvigNasError, match=r"must hold .* x maximum .*, as in the architecture's kernel list"):
            coreml.verify(package, SMALL)

    def test_one_weight(self, package: Path) -> None:
        network = coreml.untrained(SMALL, CLASSES)
        _alter_a_weight(package, by=np.float16(1))
        with pytest.raises(MvigNasError, match=r"network's weight in fp16 at `stem\.conv1\.conv`"):
            coreml.verify(package, SMALL, network)
        with pytest.raises(
            MvigNasError, match=r"logits in fp32 are the network's to 0\.001 of the largest, got .* on "
        ):
            compare(SavedProgram(package), SMALL, CLASSES, network)

    def test_a_wrong_input_scale(self, package: Path) -> None:
        network = coreml.untrained(SMALL, CLASSES)

        def change(_: Any, block: Any) -> None:
            norm = first(block, "batch_norm")
            norm.inputs["gamma"].arguments[0].name = norm.inputs["variance"].arguments[0].name

        edited(package, change)
        with pytest.raises(MvigNasError, match="pixels of 255 normalised to"):
            coreml.verify(package, SMALL)
        with pytest.raises(MvigNasError, match="logits in fp32 are the network's"):
            compare(SavedProgram(package), SMALL, CLASSES, network)

    def test_overflow_in_fp16(self, tmp_path: Path) -> None:
        network = as_if_trained(TINY)
        network.head_conv.bn.bias.data.fill_(6e4)  # type: ignore[operator, union-attr]
        for head in (network.head, network.head_dist):
            head.weight.data.fill_(10)  # type: ignore[operator, union-attr]
        path = coreml.export(network, tmp_path / "x.mlpackage", weights="large")
        assert coreml.execute(path, {"image": torch.full((1, 3, 32, 32), 255.0)}, precision="float32")
        with pytest.raises(MvigNasError, match=r"finite in float16 .*, got infinity from conv `conv2d_\d+_cast_fp16`"):
            coreml.verify(path, TINY, network)


class TestExportWithACheck:
    def failing(self, path: Path) -> None:
        coreml.verify(path, TINY, as_if_trained(TINY, seed=1))

    def test_nothing_is_left_of_what_fails(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mlpackage"
        match = rf"^{path} must hold the network's weight .* Not written to {path}: nothing is left there\.$"
        with pytest.raises(MvigNasError, match=match):
            coreml.export(as_if_trained(TINY), path, weights="x", check=self.failing)
        assert not list(tmp_path.iterdir())

    def test_what_was_there_stays(self, saved: Path, tmp_path: Path) -> None:
        path = copied(saved, tmp_path)
        before = model_file(path).read_bytes()
        with pytest.raises(MvigNasError, match="what was there stays"):
            coreml.export(as_if_trained(TINY), path, weights="x", overwrite=True, check=self.failing)
        assert model_file(path).read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_command(self, tmp_path: Path) -> None:
        (tmp_path / "tiny.json").write_text(TINY.to_json())
        arguments = [str(tmp_path / "tiny.json"), "--num-classes", "5", "--out", str(tmp_path / "tiny.mlpackage")]
        shown = CliRunner().invoke(export_command, arguments)
        assert shown.exit_code == 0, shown.output
        assert "Executed in torch, not by Core ML, on 4 images: logits within" in shown.output
        shown = CliRunner().invoke(export_command, [*arguments, "--overwrite", "--no-verify"])
        assert "Not verified" in shown.output


def _oracle_cases() -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((1, 4, 6, 6)).astype(np.float32) for _ in range(2))
    pair = {"x": x, "y": y}
    return {
        **dict.fromkeys(("add", "sub", "mul", "real_div", "maximum", "minimum"), pair),
        **{kind: {"x": x} for kind in ("abs", "relu")},
        "gelu": {"x": x, "mode": "EXACT"},
        "thresholded_relu": {"x": x, "alpha": -0.5},
        "sigmoid_hard": {"x": x, "alpha": 0.2, "beta": 0.5},
        "softmax": {"x": x, "axis": 1},
        "rsqrt": {"x": np.abs(x), "epsilon": 0.01},
        "reduce_max": {"x": x, "axes": [1], "keep_dims": True},
        "reduce_sum": {"x": x, "axes": [1], "keep_dims": False},
        "reduce_mean": {"x": x, "axes": [-2, -1], "keep_dims": True},
        "concat": {"values": (x, y), "axis": 2, "interleave": False},
        "slice_by_index": {"x": x, "begin": [0, 0, -2, 1], "end": [1, 4, 0, -1], "end_mask": [True, True, True, False]},
        "reshape": {"x": x, "shape": [1, 4, 36]},
        "tile": {"x": x, "reps": [1, 2, 1, 3]},
        "gather_along_axis": {"x": x, "indices": random.integers(0, 6, (1, 4, 6, 3)).astype(np.int32), "axis": 3},
        "topk": {"x": x, "k": 3, "axis": 3, "ascending": False},
        "matmul": {**pair, "transpose_x": True, "transpose_y": False},
    }


@pytest.mark.parametrize("kind", _oracle_cases())
def test_arithmetic_is_that_of_coremltools(kind: str) -> None:
    """coremltools folds constants with numpy; its results are of another hand than ours."""
    tools.load()
    from coremltools.converters.mil.mil import Builder, Function

    arguments = _oracle_cases()[kind]
    with tools.quiet(), Function({}):
        wanted = getattr(Builder, kind)(**arguments)
    ours = {
        name: torch.tensor(value, dtype=torch.int64 if value.dtype == np.int32 else None)
        if isinstance(value, np.ndarray)
        else [torch.tensor(each) for each in value]
        if name == "values"
        else value
        for name, value in arguments.items()
    }
    found = KINDS[kind](**ours)
    pairs = zip(wanted, found, strict=True) if kind == "topk" else [(wanted, found)]
    for expected, computed in pairs:
        np.testing.assert_allclose(computed.numpy(), expected.val, rtol=1e-5, atol=1e-6)


def last(block: Any, kind: str) -> Any:
    return [node for node in block.operations if node.type == kind][-1]


def named(block: Any, name: str) -> Any:
    return next(node for node in block.operations if node.outputs[0].name == name)


def _wire(node: Any, argument: str, value: str) -> None:
    node.inputs[argument].arguments[0].name = value


def _exchange(node: Any) -> None:
    x, y = (node.inputs[name].arguments[0] for name in "xy")
    x.name, y.name = y.name, x.name


def _reverse(node: Any) -> None:
    one, other = node.inputs["values"].arguments
    one.name, other.name = other.name, one.name


def _exchange_between(block: Any, kind: str, argument: str) -> None:
    """Wires of two operations of a kind, whose inputs are there before either runs."""
    nodes = [node for node in block.operations if node.type == kind]
    shapes = [[size.constant.size for size in node.outputs[0].type.tensorType.dimensions] for node in nodes]
    later = max(place for place, shape in enumerate(shapes) if shapes.index(shape) < place)
    one, other = nodes[shapes.index(shapes[later])], nodes[later]
    _wire(other, argument, one.inputs[argument].arguments[0].name)


def _resize(node: Any, size: int) -> None:
    node.outputs[0].type.tensorType.dimensions[2].constant.size = size


def _retype(node: Any, data_type: int) -> None:
    node.outputs[0].type.tensorType.dataType = data_type


def _set_ints(block: Any, node: Any, argument: str, values: list[int]) -> None:
    constant = named(block, node.inputs[argument].arguments[0].name)
    constant.attributes["val"].immediateValue.tensor.ints.values[:] = values


def _swap_kinds(one: Any, other: Any) -> None:
    one.type, other.type = other.type, one.type


def _alter_a_weight(package: Path, by: np.float16) -> None:
    program = SavedProgram(package)
    weight = program.argument(next(node for node in program.nodes if node.type == "conv"), "weight")
    assert weight is not None
    file = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    data = file.read_bytes()
    assert data.count(weight.tobytes()) == 1
    changed = weight.copy()
    changed.flat[0] += by
    file.write_bytes(data.replace(weight.tobytes(), changed.tobytes()))
