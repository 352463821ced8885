"""Learning from a teacher: its losses, all of its classes, the teacher alone, and images without labels."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from mvig_nas import kernels
from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import LabelledImages, hold_out, read_split, subset, with_unlabelled
from mvig_nas.network import build, for_inference
from mvig_nas.recipes import load_plan
from mvig_nas.supernet import FirstWeights, Supernet
from mvig_nas.training import (
    ClassificationStep,
    Distillation,
    Execution,
    Knowledge,
    Plan,
    RetrainRequest,
    Sources,
    read_checkpoint,
    retrain,
    teacher_loss,
    train_alone,
)
from mvig_nas.training.losses import classification, labelled_classification
from mvig_nas.training.mixing import mix_of
from mvig_nas.training.model_folder import read_model
from mvig_nas.training.teacher import load_teacher
from tests.images import write_images
from tests.tiny_training import RECIPE, SPACE, tiny_knowledge
from tests.training.test_teacher import HALVES, OURS, TINY, normalised, pixels, saved

ARCHITECTURE = SPACE.largest
SHORT = replace(RECIPE, epochs=2)
STILL = replace(SHORT, learning_rate=1e-12, min_learning_rate=0.0, weight_decay=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def images(folder: Path) -> LabelledImages:
    return read_split(folder, "train")


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float((p * np.log(p / q)).sum(axis=1).mean())


def dist(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    rows = np.mean([1 - np.corrcoef(one, other)[0, 1] for one, other in zip(p, q, strict=True)])
    columns = np.mean([1 - np.corrcoef(one, other)[0, 1] for one, other in zip(p.T, q.T, strict=True)])
    return float(rows + columns)


def standardised(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.mean(axis=1, keepdims=True)
    return shifted / np.sqrt((shifted**2).mean(axis=1, keepdims=True))


class TestLosses:
    @pytest.mark.parametrize("kind", ["soft", "logits"])
    @pytest.mark.parametrize("loss", ["kl", "dist"])
    @pytest.mark.parametrize("first", [False, True])
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_they_are_what_numpy_says(self, kind: Any, loss: Any, first: bool, temperature: float) -> None:
        generator = np.random.default_rng(5)
        student, teacher = (3 * generator.normal(size=(8, 6)) + 1 for _ in range(2))
        ours = teacher_loss(
            torch.tensor(student), torch.tensor(teacher), Distillation(kind, 0.5, temperature, loss, first)
        )
        if first:
            student, teacher = standardised(student), standardised(teacher)
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        expected = temperature**2 * (kl(p, q) if loss == "kl" else dist(p, q))
        assert ours.item() == pytest.approx(expected, rel=1e-4)

    def test_dist_by_hand(self) -> None:
        """Rows (1, 2, 6) and (2, 1, 6) / 9 correlate by 13/14; columns of two images by 1, -1 or 0."""
        teacher = torch.tensor([[1.0, 2.0, 6.0], [2.0, 1.0, 6.0]]).log()
        student = torch.tensor([[2.0, 1.0, 6.0], [1.0, 2.0, 6.0]]).log()
        found = teacher_loss(student, teacher, Distillation("logits", loss="dist"))
        assert found.item() == pytest.approx((1 - 13 / 14) + (2 + 2 + 1) / 3, abs=1e-5)

    def test_standardised_logits_by_hand(self) -> None:
        """(0, 3, 3, 6) has mean 3 and deviation sqrt(4.5): a scaled and shifted copy has nothing left to learn."""
        teacher, student = torch.tensor([[0.0, 3.0, 3.0, 6.0]]), torch.tensor([[10.0, 10.2, 10.2, 10.4]])
        distillation = Distillation("logits", temperature=2.0, standardised=True)
        assert teacher_loss(student, teacher, distillation).item() == pytest.approx(0.0, abs=1e-5)
        other = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        z, o = np.array([[-(2**0.5), 0, 0, 2**0.5]]), np.array([[3**0.5, -1, -1, -1] / np.sqrt([1, 3, 3, 3])])
        assert teacher_loss(other, teacher, distillation).item() == pytest.approx(
            4 * kl(softmax(z / 2), softmax(o / 2)), rel=1e-4
        )

    @pytest.mark.parametrize("loss", ["kl", "dist"])
    @pytest.mark.parametrize("first", [False, True])
    def test_its_gradient_is_finite_and_ends_where_both_are_equal(self, loss: Any, first: bool) -> None:
        distillation = Distillation("logits", 0.5, 2.0, loss, first)
        teacher = torch.randn(6, 1000, generator=torch.Generator().manual_seed(1)) * 2
        student = teacher.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(teacher_loss(student, teacher, distillation), student)
        other = torch.randn(6, 1000, generator=torch.Generator().manual_seed(2)).requires_grad_()
        (usual,) = torch.autograd.grad(teacher_loss(other, teacher, distillation), other)
        assert gradient.norm() < 0.05 * usual.norm()
        same = torch.zeros(6, 1000, requires_grad=True)
        (gradient,) = torch.autograd.grad(teacher_loss(same, teacher, distillation), same)
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("changes", [{"loss": "dist"}, {"standardised": True}])
    def test_hard_has_no_probabilities(self, changes: dict[str, Any]) -> None:
        with pytest.raises(MvigNasError, match="where the kind is hard, which has no probabilities, got"):
            Distillation("hard", **changes)


class TestOtherTeachers:
    """A teacher of another normalisation and resolution is asked in its own, whatever is learnt from it."""

    @pytest.mark.parametrize("kind", ["hard", "soft", "logits"])
    @pytest.mark.parametrize("name", [TINY, HALVES])
    def test_it_is_asked_in_its_own(self, kind: Any, name: str, tmp_path: Path) -> None:
        path, theirs = saved(tmp_path, name, classes=3 if kind != "logits" else 9)
        classes = ["cat", "dog", "emu"] if kind != "logits" else None
        teacher = load_teacher(name, classes, OURS, checkpoint=path)
        assert teacher.classes == (3 if kind != "logits" else 9)
        values = pixels(96)
        mean, std = theirs.pretrained_cfg["mean"], theirs.pretrained_cfg["std"]
        mode = theirs.pretrained_cfg["interpolation"]
        seen = F.interpolate(normalised(values, mean, std), size=(160, 160), mode=mode, antialias=True)
        with torch.no_grad():
            expected = theirs(seen)
        network = _network(kind, teacher.classes)
        distillation = Distillation(kind, 1.0, 2.0)
        step = ClassificationStep(network, 0.1, teacher, distillation, resolution=32)
        found = step(normalised(values, OURS.mean, OURS.std), torch.tensor([0, 1]), lambda _: None)
        network = _network(kind, teacher.classes)
        network.set_distilled_training()
        small = F.interpolate(normalised(values, OURS.mean, OURS.std), size=(32, 32), mode="bilinear", antialias=True)
        _, distilled = network(small)
        torch.testing.assert_close(
            found["loss_teacher"], teacher_loss(distilled, expected, distillation).detach(), rtol=1e-3, atol=1e-4
        )

    @pytest.mark.parametrize("kind", ["hard", "soft", "logits"])
    def test_it_sees_the_crop_in_full_detail(self, kind: Any, images: LabelledImages, tmp_path: Path) -> None:
        known = tiny_knowledge(kind, images)
        assert known.teacher is not None
        seen: list[torch.Size] = []
        known.teacher.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        detailed = replace(known, distillation=Distillation(kind, full_detail=True))
        train_alone(ARCHITECTURE, images, SHORT, tmp_path / "detailed", knowledge=detailed)
        assert set(seen) == {torch.Size([12, 3, 64, 64])}
        plain = replace(known, distillation=Distillation(kind))
        train_alone(ARCHITECTURE, images, SHORT, tmp_path / "plain", knowledge=plain)
        assert _log(tmp_path / "detailed")[-1]["loss"] != _log(tmp_path / "plain")[-1]["loss"]


class TestAllClasses:
    def test_the_second_classifier_learns_them_and_is_dropped(self, images: LabelledImages, tmp_path: Path) -> None:
        known = tiny_knowledge("logits", images)
        recipe = replace(RECIPE, epochs=20, ema_decay=0.5)
        trained = train_alone(ARCHITECTURE, images, recipe, tmp_path / "run", knowledge=known)
        rows = _log(tmp_path / "run")
        assert float(rows[-1]["loss_teacher"]) < 0.8 * float(rows[0]["loss_teacher"])
        assert float(rows[-1]["agreement"]) > float(rows[0]["agreement"])
        assert "top1_teacher" not in rows[0], "its classes are not ours"
        saved_state = read_checkpoint(tmp_path / "run")["model"]
        assert saved_state["head_teacher.weight"].shape[0] == 7
        alone = build(ARCHITECTURE, 3, distillation=False)
        for network in (trained.network, trained.last):
            assert network.head_teacher is None
            assert network.head_dist is None
            assert network.state_dict().keys() == alone.state_dict().keys()
            assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)  # type: ignore[union-attr]

    def test_the_first_weights_are_those_of_a_training_without_a_teacher(
        self, images: LabelledImages, tmp_path: Path
    ) -> None:
        found = [
            train_alone(ARCHITECTURE, images, STILL, tmp_path / name, knowledge=known).network
            for name, known in (("alone", Knowledge()), ("taught", tiny_knowledge("logits", images)))
        ]
        for mine, theirs in zip(found[0].parameters(), found[1].parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-8)

    def test_it_starts_from_a_supernets_weights(self, images: LabelledImages, tmp_path: Path) -> None:
        torch.manual_seed(2)
        given = Supernet(SPACE, 3).extract(ARCHITECTURE)
        known = replace(tiny_knowledge("logits", images), first=FirstWeights(given.state_dict(), given.architecture))
        network = train_alone(ARCHITECTURE, images, STILL, tmp_path, knowledge=known).network
        for name, parameter in given.named_parameters():
            assert torch.allclose(network.get_parameter(name), parameter, atol=1e-8)

    def test_a_resumed_training_must_have_the_same_loss(self, images: LabelledImages, tmp_path: Path) -> None:
        known = tiny_knowledge("logits", images)
        train_alone(ARCHITECTURE, images, SHORT, tmp_path, knowledge=known)
        resumed = Execution(resume=True)
        train_alone(ARCHITECTURE, images, SHORT, tmp_path, knowledge=known, execution=resumed)
        other = replace(known, distillation=replace(known.distillation, loss="kl"))
        with pytest.raises(MvigNasError, match=r"`distillation\.loss` was 'dist' and is now None"):
            train_alone(ARCHITECTURE, images, SHORT, tmp_path, knowledge=other, execution=resumed)

    @pytest.mark.parametrize("share", [0.5, 1.0])
    def test_trained_evaluated_and_exported_as_predicted(
        self, share: float, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("arch.json").write_text(ARCHITECTURE.to_json())
        taught = ["--teacher", TINY, "--teacher-checkpoint", saved(tmp_path, classes=1000)[0]]
        taught += ["--teacher-resolution", 64, "--distillation", "logits", "--teacher-loss", "dist"]
        taught += ["--teacher-share", share, "--standardised-logits", "--teacher-detail", "--temperature", 2]
        plan = ["--plan", "short", "--epochs", 25, "--batch-size", 12, "--workers", 0, "--ema-decay", 0.5]

        def run(*arguments: object) -> Any:
            done = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
            assert done.exit_code == 0, done.output + str(done.exception)
            return json.loads(done.stdout)

        accuracy = run("retrain", "arch.json", "--data", folder, *plan, *taught, "--out", "run")["accuracy"]
        assert list(accuracy) == ["mean"]
        assert accuracy["mean"]["top1"] > 0.6
        for name in ("run/model", "run/best", "run/last"):
            network = read_model(Path(name)).network
            assert network.head_dist is None
            traced = kernels.trace(for_inference(network), (1, 3, 32, 32))
            assert traced == kernels.of(ARCHITECTURE, "exported", 3)
            count = sum(parameter.numel() for parameter in network.parameters())
            assert count == sum(p.numel() for p in build(ARCHITECTURE, 3, distillation=False).parameters())
        assert run("export", "run", "--out", "run.mlpackage")["difference_fp32"] < 1e-3
        executed = run("evaluate", "run.mlpackage", "--data", folder, "--precision", "float16", "--workers", 0)
        assert executed["accuracy"]["mean"] == accuracy["mean"]


class TestTheTeacherAlone:
    @pytest.mark.parametrize("kind", ["hard", "soft"])
    def test_the_network_has_one_classifier_that_sees_no_label(
        self, kind: Any, images: LabelledImages, tmp_path: Path
    ) -> None:
        wrong = replace(images, targets=tuple((target + 1) % 3 for target in images.targets))
        known = replace(tiny_knowledge(kind, images), distillation=Distillation(kind, 1.0))
        networks = [
            train_alone(ARCHITECTURE, each, SHORT, tmp_path / str(number), knowledge=known).network
            for number, each in enumerate((images, wrong))
        ]
        assert networks[0].head_dist is None
        for mine, theirs in zip(*(network.state_dict().values() for network in networks), strict=True):
            assert torch.equal(mine, theirs)

    def test_labels_reach_the_first_classifier_alone(self, images: LabelledImages, tmp_path: Path) -> None:
        wrong = replace(images, targets=tuple((target + 1) % 3 for target in images.targets))
        recipe = replace(SHORT, clip=None)
        known = replace(tiny_knowledge("logits", images), distillation=Distillation("logits", 1.0))
        one, other = (
            train_alone(ARCHITECTURE, each, recipe, tmp_path / str(number), knowledge=known).network.state_dict()
            for number, each in enumerate((images, wrong))
        )
        differs = {name for name in one if not torch.equal(one[name], other[name])}
        assert differs == {"head.weight", "head.bias"}


class TestUnlabelled:
    @pytest.mark.parametrize("nested", [False, True])
    def test_a_folder_of_them(self, nested: bool, images: LabelledImages, folder: Path, tmp_path: Path) -> None:
        more = _unlabelled(folder, tmp_path, nested)
        (more / "notes.txt").write_text("no image")
        found = with_unlabelled(images, more)
        assert found.unlabelled == 18
        assert found.targets[len(images) :] == (3,) * 18
        assert found.names[: len(images)] == images.names
        assert all(name.startswith(".unlabelled/") for name in found.names[len(images) :])
        moved = shutil.copytree(more, tmp_path / "moved")
        assert with_unlabelled(images, moved).digest == found.digest != images.digest
        with pytest.raises(MvigNasError, match=r"must hold images .* got none at"):
            with_unlabelled(images, tmp_path / "nowhere")

    def test_only_labelled_images_have_a_labels_loss(self) -> None:
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(6, 4, generator=generator)
        targets = torch.tensor([0, 4, 3, 4, 1, 4])
        found = labelled_classification(logits, targets, 0.1)
        torch.testing.assert_close(found, classification(logits[::2], targets[::2], 0.1))
        none = labelled_classification(logits, torch.full((6,), 4), 0.1)
        assert none.item() == 0

    def test_of_a_mixed_image_the_labelled_part_has(self, images: LabelledImages, folder: Path, tmp_path: Path) -> None:
        both = with_unlabelled(images, _unlabelled(folder, tmp_path, nested=False))
        mix = mix_of(replace(RECIPE, mixup=1.0), both)
        assert mix is not None
        targets = torch.tensor([0, 3, 3, 2])
        torch.manual_seed(0)
        np.random.seed(0)
        _, shares = mix(torch.zeros(4, 3, 8, 8), targets)
        weight = shares[0, 0].item()
        expected = torch.tensor([[weight, 0, 1 - weight], [0, 0, 0], [0, 0, 0], [1 - weight, 0, weight]])
        torch.testing.assert_close(shares, expected)
        logits = torch.randn(4, 3)
        by_hand = -(expected * F.log_softmax(logits, dim=1)).sum() / 2
        torch.testing.assert_close(labelled_classification(logits, shares, 0.0), by_hand)

    @pytest.mark.parametrize("kind", ["hard", "soft", "logits"])
    @pytest.mark.parametrize("mixup", [0.0, 1.0])
    def test_they_are_learnt_from_through_the_teacher(
        self, kind: Any, mixup: float, images: LabelledImages, folder: Path, tmp_path: Path
    ) -> None:
        few = subset(images, 6)
        both = with_unlabelled(few, _unlabelled(folder, tmp_path, nested=True))
        known = tiny_knowledge(kind, images)
        recipe = replace(RECIPE, epochs=6, mixup=mixup)
        train_alone(ARCHITECTURE, both, recipe, tmp_path / "run", knowledge=known)
        rows = _log(tmp_path / "run")
        assert "top1" not in rows[0], "it is not known of images without labels"
        assert {"loss_labels", "loss_teacher", "agreement"} <= rows[0].keys()
        assert read_checkpoint(tmp_path / "run")["step"] == 6 * (24 // 12)

    def test_by_the_command_and_only_with_a_teacher(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("arch.json").write_text(ARCHITECTURE.to_json())
        more = _unlabelled(folder, tmp_path, nested=False)
        asked = ["retrain", "arch.json", "--data", folder, "--plan", "short", "--epochs", 2, "--batch-size", 12]
        asked += ["--workers", 0, "--hold-out", 0.2, "--unlabelled", more, "--out", "run"]
        taught = ["--teacher", TINY, "--teacher-checkpoint", saved(tmp_path)[0], "--teacher-resolution", 64]
        done = CliRunner().invoke(cli, list(map(str, asked + taught)))
        assert done.exit_code == 0, done.output + str(done.exception)
        train = hold_out(read_split(folder, "train"), 0.2)[0]
        assert read_model(Path("run")).about["images"] == with_unlabelled(train, more).digest
        again = CliRunner().invoke(cli, ["retrain", "--resume", "--out", "run"])
        assert again.exit_code == 0, again.output + str(again.exception)
        with pytest.raises(MvigNasError, match="without labels must be learnt from a teacher, got none; name one"):
            RetrainRequest(ARCHITECTURE, folder, Plan(), Sources(unlabelled=more))


def _network(kind: str, classes: int) -> Any:
    torch.manual_seed(3)
    network = build(ARCHITECTURE, 3, distillation=kind != "logits")
    if kind == "logits":
        network.set_teacher_classes(classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
    return network.train()


def _log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _unlabelled(folder: Path, home: Path, nested: bool) -> Path:
    """The validation images, in one folder or in one for each class."""
    more = home / "more"
    more.mkdir()
    for number, path in enumerate(sorted((folder / "val").rglob("*.*"))):
        target = more / path.parent.name if nested else more
        target.mkdir(exist_ok=True)
        shutil.copy(path, target / f"{number}{path.suffix}")
    return more


class TestPlans:
    def test_patient_learns_from_the_teacher_alone(self) -> None:
        plan = load_plan("patient")
        assert (plan.recipe.mixup, plan.recipe.epochs, plan.recipe.min_learning_rate) == (1.0, 300, 0.0)
        assert plan.distillation == Distillation("logits", 1.0, 2.0, "kl", full_detail=True)
        assert plan.teacher is not None

    def test_small_data_learns_from_both(self) -> None:
        plan = load_plan("small-data")
        assert plan.distillation == Distillation("logits", 0.67, 2.0, "dist", standardised=True)
        assert plan.teacher is not None

    @pytest.mark.parametrize("name", ["patient", "small-data"])
    def test_they_run(self, name: str, folder: Path, tmp_path: Path) -> None:
        taught = {"teacher": TINY}
        plan = load_plan(name, {"epochs": 2, "warmup_epochs": 1, "batch_size": 12}, taught)
        sources = Sources(saved(tmp_path, classes=1000)[0], 64)
        done = retrain(RetrainRequest(ARCHITECTURE, folder, plan, sources), tmp_path / "run")
        assert done.network.state_dict().keys() == build(ARCHITECTURE, 3, distillation=False).state_dict().keys()
