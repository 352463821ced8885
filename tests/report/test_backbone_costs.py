"""Networks as backbones: what they cost, and that the page's detector and segmenter train."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mvig_nas import kernels
from mvig_nas.architecture import preset
from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.report import backbone_costs
from tests.strategies import REPOSITORY

DEVICE = "iphone-13-mini"
TI = preset("mobilevig_ti")


def test_parts_sum_to_the_prediction_and_have_the_stages_shapes() -> None:
    found = backbone_costs(TI, 512, ArchitectureLatency.load(DEVICE))
    assert sum(part.latency_ms for part in found.parts) + found.fixed_ms == pytest.approx(found.latency_ms)
    assert [part.name for part in found.parts] == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert [part.shape for part in found.parts[1:]] == [
        (stage.width, side, side) for stage, side in zip(TI.stages, (128, 64, 32, 16), strict=True)
    ]
    assert found.interval_ms[0] < found.latency_ms < found.interval_ms[1]


def test_it_is_the_network_less_its_head() -> None:
    found = backbone_costs(TI, 224, ArchitectureLatency.load(DEVICE))
    whole = kernels.sections(TI)
    assert sum(part.macs for part in found.parts) == kernels.totals(kernels.of(TI)).macs - sum(
        kernel.macs for kernel in whole[-1].kernels
    )
    assert found.parameters == sum(kernel.parameters for part in whole[:-1] for kernel in part.kernels)
    larger = backbone_costs(replace(TI, resolution=192), 512, ArchitectureLatency.load(DEVICE))
    assert larger.latency_ms > 2 * found.latency_ms
    assert larger.parameters == found.parameters


def test_command() -> None:
    done = CliRunner().invoke(cli, ["describe", "mobilevig_ti", "--features", "512", "--json"], catch_exceptions=False)
    values = json.loads(done.stdout)
    wanted = backbone_costs(TI, 512, ArchitectureLatency.load(DEVICE))
    assert values["latency_ms"] == pytest.approx(wanted.latency_ms)
    assert values["architecture"]["resolution"] == 512
    shown = CliRunner().invoke(cli, ["describe", "mobilevig_ti", "--features", "512"], catch_exceptions=False).stdout
    assert f"Predicted {wanted.latency_ms:.3f} ms on {DEVICE}" in shown
    assert "stage4" in shown
    assert "head" not in shown


@pytest.mark.parametrize("side", [0, -32, 100, 511])
def test_sizes_that_the_stages_cannot_halve_are_refused(side: int) -> None:
    with pytest.raises(MvigNasError, match=f"must be a multiple of 32 pixels wide, got {side}"):
        backbone_costs(TI, side, ArchitectureLatency.load(DEVICE))


def test_the_pages_segmenter_and_detector_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "dense_prediction.md").read_text()
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), "page", "exec"), {})
    printed = capsys.readouterr().out
    first, last = (float(each) for each in re.search(r"segmenter (\S+) to (\S+)", printed).groups())  # type: ignore[union-attr]
    assert last < first
    assert re.search(r"detector \d+\.\d+", printed)  # finite
