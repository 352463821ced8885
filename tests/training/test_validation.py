"""What is measured while a network trains, its best weights, and trainings with a teacher that are killed or shared."""

import csv
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import EvaluationImages, LabelledImages, hold_out, read_split, share
from mvig_nas.training import (
    Execution,
    Progress,
    StopTraining,
    Trained,
    Validation,
    read_checkpoint,
    train_alone,
)
from mvig_nas.training.accuracy import accuracies, shares
from mvig_nas.training.model_folder import read_model
from tests.images import write_images
from tests.strategies import REPOSITORY
from tests.tiny_training import ALONE_RECIPE, PARALLEL_RECIPE, RECIPE, SPACE, tiny_knowledge

ARCHITECTURE = SPACE.largest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), val=7)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "validation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def trained(data: Path, folder: Path, **options: Any) -> Trained:
    validation = Validation(read_split(data, "val"), RECIPE.preprocessing, folder, {"by": "a test"})
    options = {"recipe": RECIPE, "validate": validation} | options
    recipe = options.pop("recipe")
    return train_alone(ARCHITECTURE, read_split(data, "train"), recipe, folder, **options)


class TestValidation:
    def test_after_every_epoch_and_the_best_is_kept(self, data: Path, tmp_path: Path) -> None:
        found = trained(data, tmp_path)
        epochs = rows(tmp_path)
        assert [(row["epoch"], row["step"]) for row in epochs] == [(str(n), str(3 * n)) for n in range(1, 16)]
        top1 = [float(row["val_top1_mean"]) for row in epochs]
        assert len(set(top1)) > 2, "the network learns"
        best = read_model(tmp_path / "best")
        assert best.about["by"] == "a test"
        assert best.about["epoch"] == 1 + top1.index(max(top1))
        assert best.about["accuracy"]["mean"]["top1"] == max(top1)
        val = EvaluationImages(read_split(data, "val"), RECIPE.preprocessing, 32)
        assert shares(accuracies(best.network, val, 32)) == best.about["accuracy"]
        assert accuracies(found.network, val, 32)["mean"].top1 == top1[-1]
        assert found.last is found.network

    @pytest.mark.parametrize(("every", "epochs"), [(0, [15]), (4, [4, 8, 12, 15]), (5, [5, 10, 15]), (20, [15])])
    def test_so_often(self, data: Path, tmp_path: Path, every: int, epochs: list[int]) -> None:
        told: list[Progress] = []
        trained(data, tmp_path, execution=Execution(validate_every=every), on_progress=told.append)
        assert [int(row["epoch"]) for row in rows(tmp_path)] == epochs
        messages = [progress.message for progress in told if progress.message]
        assert len(messages) == len(epochs)
        assert messages[0].startswith(f"epoch {epochs[0]}: top-1 ")
        assert messages[0].endswith("%, the best so far")

    def test_it_changes_nothing(self, data: Path, tmp_path: Path) -> None:
        with_it, without = (trained(data, tmp_path / str(place), **options).network.state_dict()
                            for place, options in enumerate(({}, {"validate": None})))  # fmt: skip
        assert all(torch.equal(with_it[name], without[name]) for name in with_it)
        assert not (tmp_path / "1" / "validation.csv").exists()

    def test_it_is_of_the_moving_average(self, data: Path, tmp_path: Path) -> None:
        found = trained(data, tmp_path, recipe=ALONE_RECIPE)
        assert found.last is not found.network
        saved = read_checkpoint(tmp_path)
        for network, key in ((found.network, "average"), (found.last, "model")):
            assert all(torch.equal(tensor, saved[key][name]) for name, tensor in network.state_dict().items())
        val = EvaluationImages(read_split(data, "val"), RECIPE.preprocessing, 32)
        assert accuracies(found.network, val, 32)["mean"].top1 == float(rows(tmp_path)[-1]["val_top1_mean"])

    def test_stopped_and_resumed_no_epoch_is_missing_or_twice(self, data: Path, tmp_path: Path) -> None:
        trained(data, tmp_path / "whole")
        for number in range(6):  # 45 steps; the last time there is nothing left to do
            execution = Execution(stop_after=12 if number < 5 else None, resume=number > 0)
            try:
                trained(data, tmp_path / "parts", execution=execution)
            except StopTraining:
                assert number < 3
        assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
        one, other = (read_model(tmp_path / name / "best") for name in ("parts", "whole"))
        assert one.about == other.about
        assert all(map(torch.equal, one.network.state_dict().values(), other.network.state_dict().values()))

    def test_best_weights_that_are_damaged(self, data: Path, tmp_path: Path) -> None:
        trained(data, tmp_path, recipe=replace(RECIPE, epochs=2))
        (tmp_path / "best" / "model.safetensors").write_bytes(b"0")
        with pytest.raises(MvigNasError, match=r"model\.safetensors must hold the weights"):
            trained(data, tmp_path, recipe=replace(RECIPE, epochs=2), execution=Execution(resume=True))

    def test_a_full_disk_loses_no_weights(self, data: Path, tmp_path: Path) -> None:
        """A limit on the size of files fails like one."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)

        def fill(progress: Progress) -> None:
            if progress.step == 9:
                resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))

        try:
            with pytest.raises(MvigNasError, match=r"must be writable, got '.*'; .* make room") as caught:
                trained(data, tmp_path / "run", on_progress=fill, execution=Execution(checkpoint_minutes=0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(caught.value)
        assert read_checkpoint(tmp_path / "run")["step"] == 8
        before = read_model(tmp_path / "run" / "best").about
        assert before["epoch"] <= 2
        trained(data, tmp_path / "run", execution=Execution(resume=True))
        trained(data, tmp_path / "whole")
        assert rows(tmp_path / "run") == rows(tmp_path / "whole")
        one, other = (read_checkpoint(tmp_path / name)["model"] for name in ("run", "whole"))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_a_damaged_image_is_named(self, tmp_path: Path) -> None:
        copy = write_images(tmp_path / "copy", val=2)
        (copy / "val" / "class_1" / "0000.jpg").write_bytes(b"\xff\xd8 no image")
        with pytest.raises(MvigNasError, match=r"class_1/0000\.jpg"):
            trained(copy, tmp_path / "run")


def test_shares_are_a_partition(data: Path) -> None:
    images = read_split(data, "val")
    parts = [share(images, rank, 4) for rank in range(4)]
    assert sorted(path for part in parts for path in part.paths) == sorted(images.paths)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part.classes == images.classes for part in parts)
    some = LabelledImages(images.classes, images.paths[:2], images.targets[:2], images.root)
    assert [len(share(some, rank, 3)) for rank in range(3)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        pytest.param("hard", "head_dist", marks=pytest.mark.slow),
        ("soft", "head_dist"),
        ("logits", "head_teacher"),
    ],
)
def test_killed_three_times_with_a_teacher(kind: str, head: str, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.tiny_training", "killed", kind, str(data), str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    assert printed.split() == ["killed"] * 3
    first, second = (read_checkpoint(tmp_path / name) for name in ("killed", "whole"))
    for part in ("model", "average"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(tensor, second[part][name]) for name, tensor in first[part].items())
    assert any(name.startswith(head) for name in first["model"])
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    best = [load_file(tmp_path / name / "best" / "model.safetensors") for name in ("killed", "whole")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert not any(name.startswith("head_teacher") for name in best[0])
    assert not list((tmp_path / "killed").glob("*.tmp"))


@pytest.mark.parametrize("kind", [pytest.param("hard", marks=pytest.mark.slow), "soft", "logits"])
def test_two_processes_with_a_teacher_train_as_one(kind: str, data: Path, tmp_path: Path) -> None:
    """To the same weights as one process with the same batches: 1e-4 after 6 steps of plain gradient descent."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "tests.tiny_training", "taught", kind, str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, start in (("two", [sys.executable, "-m", *launch]), ("one", [sys.executable])):
        subprocess.run([*start, *command, str(tmp_path / name)], check=True, cwd=REPOSITORY, capture_output=True,
                       timeout=300, env=environment)  # fmt: skip
    one, two = (read_checkpoint(tmp_path / name)["model"] for name in ("one", "two"))
    train_alone(
        ARCHITECTURE,
        read_split(data, "train"),
        replace(PARALLEL_RECIPE, learning_rate=1e-12, min_learning_rate=0.0),
        tmp_path / "still",
        knowledge=tiny_knowledge(kind, read_split(data, "train")),
    )
    still = read_checkpoint(tmp_path / "still")["model"]
    moved = 0.0
    for name, tensor in one.items():
        if tensor.is_floating_point() and "running" not in name:
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4)
            moved = max(moved, (tensor - still[name]).abs().max().item())
    assert moved > 0.01
    ours, theirs = (rows(tmp_path / name) for name in ("two", "one"))
    assert [row["epoch"] for row in ours] == [row["epoch"] for row in theirs] == ["1", "2"]
    counted = [json.loads((tmp_path / name / "counted.json").read_text()) for name in ("two", "one")]
    assert counted == [21, 21], "every image is looked at once, by one of the processes"


class TestCommand:
    def test_best_and_last_beside_the_average(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("arch.json").write_text(ARCHITECTURE.to_json())
        plan = ["--plan", "short", "--epochs", "4", "--batch-size", "12", "--ema-decay", "0.9", "--workers", "0"]
        images = ["--data", str(data)]
        done = CliRunner().invoke(cli, ["retrain", "arch.json", *images, *plan, "--hold-out", "0.3", "--out", "run"])
        assert done.exit_code == 0, done.output + str(done.exception)
        assert "epoch 4: top-1" in done.stderr
        accuracy = read_model(Path("run")).about["accuracy"]
        for name in ("run", "run/best", "run/last"):
            judged = CliRunner().invoke(cli, ["evaluate", name, *images, "--workers", "0", "--json"])
            assert judged.exit_code == 0, judged.output + str(judged.exception)
            if name == "run":
                assert json.loads(judged.stdout)["accuracy"] == accuracy
        assert "accuracy" not in read_model(Path("run/last")).about
        held_out = hold_out(read_split(data, "train"), 0.3)[1]
        assert read_model(Path("run/best")).about["validation_images"] == held_out.digest

    def test_several_processes_need_a_folder(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.chdir(tmp_path)
        for command in (["retrain", "mobilevig_ti"], ["supernet", "train"]):
            done = CliRunner().invoke(cli, [*command, "--data", str(data)])
            assert isinstance(done.exception, MvigNasError)
            assert "several processes must share one run folder, got none; name it with --out" in str(done.exception)
        assert not list(tmp_path.iterdir())
