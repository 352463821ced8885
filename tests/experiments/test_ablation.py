"""An experiment from its file to its summary; one that is killed goes on, and trains no finished cell again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.experiments.disturbances import disturbed
from mvig_nas.experiments.experiment import OperatorAlone, check_disturbance
from mvig_nas.experiments.host_latency import operators_alone
from tests.images import write_images

PLAN = "epochs = 2\nbatch_size = 12\nlearning_rate = 5e-3\nwarmup_epochs = 1\nhold_out = 0.0\n"
FILE = """
schema = 1
question = "Is it the activation?"
plan = "{plan}"
seeds = 2
disturbances = ["shift 2", "shuffle 2"]

[base]
resolution = 32
head_width = 16

[[base.stages]]
width = 8
conv_depth = 1
conv_expansion = 2

[[base.stages]]
width = 8
graph_depth = 1
graph_step = 1
ffn_expansion = 2

[[base.stages]]
width = 8

[[base.stages]]
width = 12

[axes.activation]
relu6 = {{ "stages.activation" = "relu6" }}
gelu = {{ "stages.activation" = "gelu" }}
"""
# kills itself in the second cell's first training
KILLED = """
import os, signal, sys
from pathlib import Path
from mvig_nas.experiments import AblateRequest, Experiment, ablate
def told(state):
    if state.counted.startswith("training 3/"):
        os.kill(os.getpid(), signal.SIGKILL)
ablate(AblateRequest(Experiment.load(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]), on_progress=told)
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", train=12, val=6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "plan.toml").write_text(PLAN)
    path = tmp_path / "trial.toml"
    path.write_text(FILE.format(plan=tmp_path / "plan.toml"))
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli, ["ablate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.filterwarnings("ignore")
def test_killed_and_resumed(file: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED, file, images, folder], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    finished = sorted(folder.glob("trainings/*/result.json"))
    assert len(finished) == 2  # both seeds of the first cell
    before = {path: path.stat().st_mtime_ns for path in finished}
    told = json.loads((folder / "summary.json").read_text())
    assert [len(cell["top1"]) for cell in told["cells"]] == [2, 0]
    hosts = (folder / "host.jsonl").read_bytes()

    asked = ["--data", images, "--out", folder, "--resume", "--in-memory", "--json"]  # how it runs may differ
    found = json.loads(run(file, *asked))
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    assert (folder / "host.jsonl").read_bytes() == hosts
    assert found == json.loads((folder / "summary.json").read_text())
    assert found["question"] == "Is it the activation?"
    assert found["reference"] == "relu6"
    first, second = found["cells"]
    assert first["top1"] == told["cells"][0]["top1"]
    assert first["operations"]["clip"] == second["operations"]["gelu"]
    for cell in found["cells"]:
        assert len(cell["top1"]) == 2
        assert all(0 <= each <= 1 for each in cell["top1"])
        assert cell["host_ms"] > 0
        assert cell["interval_ms"][0] < cell["predicted_ms"] < cell["interval_ms"][1]
        assert [each["size"] for each in cell["connectivity"]] == [4]
        assert {name: len(each) for name, each in cell["disturbed"].items()} == {"shift 2": 2, "shuffle 2": 2}
    low, high = second["host_ratio"]["low"], second["host_ratio"]["high"]
    assert low <= second["host_ratio"]["value"] <= high
    assert second["top1_difference"]["value"] == pytest.approx(
        sum(own - other for own, other in zip(second["top1"], first["top1"], strict=True)) / 2
    )
    assert len(found["findings"]) == 6
    assert "'gelu' takes" in found["findings"][1]
    page = (folder / "report.html").read_text()
    assert "Is it the activation?" in page
    assert "Connectivity" in page
    assert (folder / "cells.png").stat().st_size > 1000

    refused = CliRunner().invoke(cli, ["ablate", str(file), "--out", str(folder), "--resume", "--seeds", "3"])
    assert "`--seeds` was None and is now 3" in str(refused.exception)
    again = CliRunner().invoke(cli, ["ablate", str(file), "--data", str(images), "--out", str(folder)])
    assert "holds a run of `mvig-nas ablate` already" in str(again.exception)


@pytest.mark.filterwarnings("ignore")
def test_without_images_there_are_costs_alone(file: Path, tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, ["ablate", str(file), "--out", str(tmp_path / "run")])
    assert "must have images, got none; give --data FOLDER, or --no-accuracy" in str(refused.exception)
    empty = CliRunner().invoke(cli, ["ablate", str(file), "--out", str(tmp_path / "run"), "--data", str(tmp_path)])
    assert empty.exit_code == 1
    assert not (tmp_path / "run").exists()
    planned = run(file, "--no-accuracy", "--dry-run")
    assert "2 cells of trial, 0 trainings" in planned
    shown = run(file, "--no-accuracy", "--no-host", "--out", tmp_path / "run")
    assert "2 cells, predicted for iphone-13-mini, compared with 'relu6'" in shown
    assert "top-1" not in shown
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["cells"][0]["host_ms"] is None


@pytest.mark.filterwarnings("ignore")
def test_some_of_the_cells(file: Path) -> None:
    planned = run(file, "--no-accuracy", "--dry-run", "--cell", "gel")  # 'relu6' is the reference
    assert "2 cells of trial" in planned
    planned = run(file, "--no-accuracy", "--dry-run", "--cell", "relu6")
    assert "1 cells of trial" in planned
    refused = CliRunner().invoke(cli, ["ablate", str(file), "--no-accuracy", "--cell", "gelu", "--cell", "tanh"])
    assert "must be text that a cell's name holds, got 'tanh'; the cells of 'trial' are 'relu6', 'gelu'" in str(
        refused.exception
    )


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_needs_its_folder(file: Path) -> None:
    refused = CliRunner().invoke(cli, ["ablate", str(file), "--no-accuracy", "--resume"])
    assert refused.exit_code == 2
    assert "--resume needs the run folder" in refused.output


def test_disturbed_images() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat(3, 1, 1, 1)
    assert torch.equal(disturbed(image, "shift 2")[0, 0, 0], torch.tensor([10.0, 11.0, 8.0, 9.0]))
    shuffled = disturbed(image, "shuffle 2")
    assert torch.equal(shuffled.flatten(1).sort(1).values, image.flatten(1))
    assert torch.equal(shuffled[0, 0, :2, :2] - shuffled[0, 0, 0, 0], image[0, 0, :2, :2])
    assert not torch.equal(shuffled[0], shuffled[1]) or not torch.equal(shuffled[1], shuffled[2])
    assert torch.equal(disturbed(image[1:], "shuffle 2", first=1), shuffled[1:])  # whatever the batches are
    assert disturbed(torch.zeros(1, 3, 5, 5), "shuffle 2").shape == (1, 3, 5, 5)
    for name in ("turn 2", "shift 1", "shuffle", "shift 0"):
        with pytest.raises(MvigNasError, match=f"`shift N` or `shuffle N` with N from 2, got '{name}'"):
            check_disturbance(name)


def test_operators_alone() -> None:
    svga, loop, knn = operators_alone(OperatorAlone(maps=(8, 16, 32), width=8, step=2))
    assert [each["operator"] for each in (svga, loop, knn)] == ["svga", "svga (loop)", "knn"]
    assert knn["leaving"] == {"gather_along_axis": 1}
    assert svga["leaving"] == loop["leaving"] == {}
    assert svga["memory_exponent"] == pytest.approx(1.0, abs=0.05)
    assert knn["memory_exponent"] > 1.3  # of the table of all pairs of pixels
    assert loop["operations"][-1] > svga["operations"][-1]
    for each in (svga, loop, knn):
        assert len(each["host_ms"]) == 3
        assert all(one["low"] <= one["value"] <= one["high"] for one in each["host_ms"])
