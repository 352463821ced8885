"""A teacher of one's own: fine-tuned on the images, read by timm, learnt from by `retrain`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import EvaluationImages, Preprocessing, read_split
from mvig_nas.recipes import Execution, TeacherPlan, load
from mvig_nas.training import StopTraining, TeacherRequest, fit_teacher
from mvig_nas.training.accuracy import top1
from mvig_nas.training.model_folder import read_model
from mvig_nas.training.teacher import load_teacher
from tests.images import write_images
from tests.tiny_training import SPACE
from tests.training.test_teacher import TINY, saved

RECIPE = load("teacher-head", {"epochs": 8, "batch_size": 12, "learning_rate": 0.5})  # a random body tells little
CLASSES = ("class_0", "class_1", "class_2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights"), TINY, classes=7)[0]


def request(data: Path, checkpoint: Path, whole: bool = False, execution: Execution | None = None) -> TeacherRequest:
    recipe = load("teacher-whole", {"epochs": 2, "batch_size": 12}) if whole else RECIPE
    plan = TeacherPlan(whole, checkpoint, 64)
    return TeacherRequest(f"timm:{TINY}", data, recipe, plan, execution or Execution())


def test_the_head_alone_is_trained_and_timm_reads_it(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    fitted = fit_teacher(request(data, checkpoint), tmp_path)
    assert fitted.images == 18
    assert fitted.top1 > 0.5
    before = load_file(checkpoint)
    network = timm.create_model(f"local-dir:{fitted.model}", pretrained=True).eval()
    head = network.pretrained_cfg["classifier"]
    for name, tensor in network.state_dict().items():
        if not name.startswith(f"{head}."):
            assert torch.equal(tensor, before[name]), name
    settings = network.pretrained_cfg
    preprocessing = Preprocessing(mean=tuple(settings["mean"]), std=tuple(settings["std"]))
    images = EvaluationImages(read_split(data, "val"), preprocessing, 64)
    assert top1(network, images, 64) == fitted.top1

    teacher = load_teacher(str(tmp_path), CLASSES, Preprocessing())
    assert (teacher.name, teacher.size, teacher.classes) == (TINY, (64, 64), 3)
    swapped = load_teacher(str(tmp_path), ("class_2", "class_0"), Preprocessing())
    picture = torch.randn(2, 3, 64, 64)
    assert torch.equal(swapped(picture), teacher(picture)[:, [2, 0]])
    with pytest.raises(MvigNasError, match=r"must know the classes of the images, got 3, of which none is 'dog'"):
        load_teacher(str(tmp_path), ("class_0", "dog"), Preprocessing())
    with pytest.raises(MvigNasError, match=r"must be a folder's or a file's, got both"):
        load_teacher(str(tmp_path), CLASSES, Preprocessing(), checkpoint=checkpoint)
    (fitted.model / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(MvigNasError, match=r"must be as timm writes it, got .*restore its files"):
        load_teacher(str(tmp_path), CLASSES, Preprocessing())


def test_all_of_it_is_trained_and_a_stopped_training_goes_on(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    whole = fit_teacher(request(data, checkpoint, whole=True), tmp_path / "whole")
    with pytest.raises(StopTraining):
        fit_teacher(request(data, checkpoint, True, Execution(stop_after=2)), tmp_path / "stopped")
    again = fit_teacher(request(data, checkpoint, True, Execution(resume=True)), tmp_path / "stopped")
    mine, theirs = (load_file(each.model / "model.safetensors") for each in (whole, again))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    before = load_file(checkpoint)
    changed = [name for name, tensor in mine.items() if name in before and not torch.equal(tensor, before[name])]
    assert len(changed) > 0.9 * len(before)


Run = Callable[..., Result]


def test_the_command_and_a_student(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(each) for each in arguments])

    fit = ["teacher", "fit", f"timm:{TINY}", "--data", data, "--checkpoint", checkpoint, "--resolution", 64]
    done = run(*fit, "--epochs", 4, "--batch-size", 12, "--workers", 0, "--out", "teacher")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "of 18 images for validation" in done.stdout
    assert done.stdout.rstrip().endswith(f"Next: mvig-nas retrain ARCH --data {data} --teacher teacher")
    assert "holds a run of `mvig-nas teacher fit` already" in str(run(*fit, "--out", "teacher").exception)
    Path("arch.json").write_text(SPACE.largest.to_json())
    student = ["retrain", "arch.json", "--data", data, "--plan", "short", "--epochs", 2, "--batch-size", 12]
    for kind in ("hard", "logits"):
        taught = run(*student, "--workers", 0, "--teacher", "teacher", "--distillation", kind, "--out", kind)
        assert taught.exit_code == 0, taught.output + str(taught.exception)
        assert read_model(Path(kind)).about["teacher"]["name"] == TINY
    asked = json.loads(Path("hard/run.json").read_text())["request"]
    assert asked["plan"]["teacher"] == str(tmp_path / "teacher")
    gone = run("retrain", "--resume", "--out", "hard")
    assert gone.exit_code == 0, gone.output + str(gone.exception)
