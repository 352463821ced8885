"""What the commands show: 80 columns without a broken word, names in the help, and completion."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from mvig_nas import recipes, shipped
from mvig_nas.cli import COMMANDS, cli
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import Preprocessing
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.network import build
from mvig_nas.search.samplers import SAMPLERS
from mvig_nas.training.model_folder import TrainedModel, write_model
from tests.images import write_images
from tests.strategies import REPOSITORY
from tests.tiny_training import SPACE

SHOWN = (
    ["spaces"],
    ["devices"],
    ["plans"],
    ["describe", "mobilevig_ti"],
    ["describe", "timm:test_resnet"],
    ["describe", "model"],
    ["predictor", "show", "iphone-13-mini"],
    ["search", "--space", "toy", "--latency-budget", "0.6ms", "--score", "log_macs", "--evaluations", "5"],
)


def lines(arguments: list[str], columns: int) -> list[str]:
    """What a command prints in so many columns."""
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, arguments)
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.stdout.splitlines()


def words(found: list[str]) -> set[str]:
    return {word for line in found for word in line.split() if any(letter.isalnum() for letter in word)}


@pytest.mark.parametrize("arguments", SHOWN, ids=lambda arguments: " ".join(arguments[:2]))
def test_80_columns_break_no_word(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "model" in arguments:
        network = build(SPACE.largest, 3, distillation=False).eval()
        write_model(Path("model"), TrainedModel(network, ("ant", "bee", "cat"), Preprocessing()))
    is_search = arguments[0] == "search"
    wide, narrow = (
        lines([*arguments, *(["--out", str(columns)] if is_search else [])], columns) for columns in (400, 80)
    )
    commands = ("Next:", "Report:", "      mvig-nas")  # they are copied whole
    prose = [line for line in narrow if not line.startswith(commands)]
    assert not [line for line in prose if len(line) > 80 and " " in line.strip()]
    broken = words(prose) - words(wide)
    assert not {word for word in broken if not (is_search and word.replace(".", "").isdecimal())}  # seconds


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns(name: str) -> None:
    shown = lines([name, "--help"], 80)
    assert not [line for line in shown if len(line) > 80 and " " in line.strip()]


def test_help_lists_names_and_the_shell_completes_them() -> None:
    shown = " ".join(" ".join(lines(["search", "--help"], 80)).split())
    for names in (shipped.space_names(), shipped.device_names(), ("auto", *SAMPLERS)):
        assert f"Names: {', '.join(names)}." in shown
    assert "mobilevig-300ep" in " ".join(lines(["retrain", "--help"], 400))
    completion = ShellComplete(cli, {}, "mvig-nas", "_MVIG_NAS_COMPLETE")

    def completed(arguments: list[str], incomplete: str) -> list[tuple[str, str]]:
        return [(item.value, item.type) for item in completion.get_completions(arguments, incomplete)]

    assert ("micro", "plain") in completed(["search", "--space"], "mi")
    assert completed(["search", "--space"], "own.to") == [("own.to", "file")]
    assert ("iphone-13-mini", "plain") in completed(["describe", "--device"], "iphone-13")
    assert completed(["retrain", "--plan"], "sho") == [("short", "plain")]
    assert completed(["search", "--sampler"], "nothing") == []


def test_describe_counts_the_classes_that_a_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = build(SPACE.largest, 3, distillation=True).eval()
    write_model(Path("model"), TrainedModel(network, ("ant", "bee", "cat"), Preprocessing()))
    shown = json.loads("\n".join(lines(["describe", "model", "--json"], 80)))
    assert shown["classes"] == 3
    assert shown["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    predicted = ArchitectureLatency.load("iphone-13-mini", num_classes=3).predict_ms([SPACE.largest])[0]
    assert shown["latency_ms"] == predicted
    Path("arch.json").write_text(SPACE.largest.to_json())
    usual = json.loads("\n".join(lines(["describe", "arch.json", "--json"], 80)))
    assert usual["latency_ms"] > predicted
    same = json.loads("\n".join(lines(["describe", "arch.json", "--classes", "3", "--json"], 80)))
    assert same["latency_ms"] == predicted
    card = Path("model/README.md").read_text()
    assert "Classes: 3 (ant, bee, cat)" in card
    assert "library_name: timm" in card


@pytest.mark.parametrize(("name", "processes", "micro"), [("small", 1, 256), ("short", 2, 32), ("short", 8, 8)])
def test_micro_batches_fit_the_processes(name: str, processes: int, micro: int) -> None:
    recipe = recipes.load_plan(name).recipe
    if name == "small":
        micro = recipe.micro_batch_size or 0
    found = recipes.for_processes(recipe, processes)
    assert found.micro_batch_size == micro
    assert found.micro_batches % processes == 0
    assert found.batch_size == recipe.batch_size


def test_processes_that_cannot_share_a_batch_are_told_the_nearest() -> None:
    with pytest.raises(MvigNasError, match=r"got 64 images for 3 processes; give --batch-size 66\."):
        recipes.for_processes(recipes.load_plan("short").recipe, 3)


@pytest.mark.slow  # two processes import torch twice on two cores
@pytest.mark.parametrize(
    "command", [["retrain", "arch.json", "--plan", "short"], ["supernet", "train", "--space", "toy"]]
)
def test_the_documented_commands_run_in_two_processes(command: list[str], tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", train=90)
    (tmp_path / "arch.json").write_text(SPACE.largest.to_json())
    asked = [*command, "--data", str(data), "--epochs", "6", "--workers", "0", "--torch-device", "cpu", "--out", "run"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mvig_nas"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*launch, *asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    refused = [*launch, *asked[:-1], "other", "--batch-size", "33"]
    failed = subprocess.run(refused, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "give --batch-size 32" in failed.stderr
    assert not (tmp_path / "other").exists()


def on_a_terminal(arguments: list[str], folder: Path, columns: int) -> list[str]:
    """What a command draws, line by line, on a terminal of so many columns."""
    import fcntl
    import pty
    import struct
    import termios

    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}
    command = [sys.executable, "-m", "mvig_nas", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=its, stderr=its)
    os.close(its)
    drawn = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the command has ended
        while part := os.read(ours, 65536):
            drawn += part
    os.close(ours)
    assert process.wait() == 0, drawn.decode()
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode()))


def test_a_bar_counts_epochs_and_fits_80_columns(tmp_path: Path) -> None:
    write_images(tmp_path / "images", train=32)
    (tmp_path / "arch.json").write_text(SPACE.largest.to_json())
    training = ["retrain", "arch.json", "--data", "images", "--plan", "small", "--epochs", "3", "--workers", "0"]
    lines = on_a_terminal([*training, "--torch-device", "cpu", "--validate-every", "0", "--out", "run"], tmp_path, 80)
    bars = [line for line in lines if "left" in line]
    assert bars
    assert all(len(line) <= 80 for line in bars)
    assert any(re.search(r"^training \S+ epoch 3/3 .* left \d+ images/s on cpu", line) for line in bars), bars
