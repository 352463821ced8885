"""Palettised and quantised packages: smaller, verified against their network, and refused when altered."""

from pathlib import Path

import numpy as np
import pytest

from mvig_nas import coreml
from mvig_nas.architecture import Architecture, Stage
from mvig_nas.coreml import ExportOptions, tools
from mvig_nas.coreml.compression import Compression, compress
from mvig_nas.coreml.package import SavedProgram
from mvig_nas.errors import MvigNasError
from tests.coreml.test_conversion import as_if_trained

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
