"""Retraining: the paper's plan, what is learnt from a teacher, where weights start, and the commands."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from timm.task.token_distillation import TokenDistillationTask
from torch import Tensor, nn
from torch.nn import functional as F

from mvig_nas.architecture import Architecture
from mvig_nas.cli import cli
from mvig_nas.cli.retrain import retrain
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import EvaluationImages, LabelledImages, Preprocessing, TrainingImages, read_split
from mvig_nas.network import build
from mvig_nas.recipes import load_plan
from mvig_nas.supernet import FirstWeights, Supernet
from mvig_nas.training import (
    ClassificationStep,
    Distillation,
    Execution,
    Knowledge,
    Plan,
    Recipe,
    TeacherCache,
    teacher_loss,
    train_alone,
)
from mvig_nas.training.accuracy import accuracies
from mvig_nas.training.model_folder import read_model
from mvig_nas.training.teacher import Teacher, load_teacher
from tests.images import write_images
from tests.tiny_training import RECIPE, SPACE, tiny_knowledge
from tests.training.test_teacher import TINY, saved

ARCHITECTURE = SPACE.largest
SHORT = replace(RECIPE, epochs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def images(folder: Path) -> LabelledImages:
    return read_split(folder, "train")


@pytest.fixture
def teacher(tmp_path: Path, images: LabelledImages) -> Teacher:
    return load_teacher(TINY, images.classes, RECIPE.preprocessing, checkpoint=saved(tmp_path)[0], resolution=64)


class TestPlan:
    def test_the_default_is_the_papers(self) -> None:
        plan = load_plan("mobilevig-300ep", {}, {})
        recipe = plan.recipe
        assert (recipe.epochs, recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == (
            300,
            "adamw",
            2e-3,
            0.05,
        )
        assert recipe.batch_size == 1024
        assert recipe.preprocessing.rand_augment == "rand-m9-mstd0.5-inc1"
        assert (recipe.mixup, recipe.cutmix, recipe.preprocessing.random_erasing) == (0.8, 1.0, 0.25)
        assert (recipe.label_smoothing, recipe.ema_decay) == (0.1, 0.99996)
        assert recipe.repeats > 1
        assert plan.teacher == "regnety_160.deit_in1k"
        assert plan.distillation == Distillation("hard", 0.5, 1.0)

    def test_every_field_can_be_changed(self) -> None:
        plan = load_plan(
            "mobilevig-300ep", {"epochs": 7, "mixup": 0.0, "preprocessing": {"random_erasing": 0.1}}, {"share": 0.2}
        )
        assert (plan.recipe.epochs, plan.recipe.mixup, plan.recipe.preprocessing.random_erasing) == (7, 0.0, 0.1)
        assert plan.distillation.share == 0.2
        assert load_plan("short", {}, {"teacher": "none"}).teacher is None
        images = {"rand_augment": "none", "crop_scale": (0.5, 1.0)}
        bare = load_plan("mobilevig-300ep", {"clip": 0.0, "preprocessing": images}, {}).recipe
        assert (bare.clip, bare.preprocessing.rand_augment, bare.preprocessing.crop_scale) == (None, None, (0.5, 1.0))
        options = {option.name for option in retrain.params}
        entries = {entry.name for kind in (Recipe, Preprocessing, Distillation) for entry in fields(kind)}
        assert entries - options == {"preprocessing"}
        assert Plan.from_dict(plan.to_dict()) == plan

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('[distillation]\nkid = "hard"\n', "no entry `kid`; did you mean 'kind'"),
            ('[distillation]\nkind = "medium"\n', "`kind` must be one of 'hard', 'soft', 'logits', got 'medium'"),
            ("[distillation]\nshare = 2\n", "`share` must be a number of at most 1, got 2"),
            ("[distillation]\ntemperature = 0\n", "`temperature` must be a number above 0"),
            ("repeats = 0\n", "`repeats` must be a whole number of at least 1"),
            ("epochs = [\n", "a recipe must be TOML"),
        ],
    )
    def test_a_wrong_file_is_named(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "plan.toml"
        path.write_text(text)
        with pytest.raises(MvigNasError, match=message) as caught:
            load_plan(str(path), {}, {})
        assert "plan.toml" in str(caught.value)

    def test_a_wrong_option_does_not_blame_the_file(self) -> None:
        for given, taught in (({"optimizer": "adamww"}, {}), ({}, {"share": 2.0})):
            with pytest.raises(
                MvigNasError, match=r"^the training (recipe: `optimizer`|plan, `distillation`: `share`) must be"
            ):
                load_plan("short", given, taught)


class _Fixed(nn.Module):
    """Two heads' logits that are parameters, whatever the image."""

    def __init__(self, logits: Tensor, distilled: Tensor) -> None:
        super().__init__()
        self.logits, self.distilled = nn.Parameter(logits), nn.Parameter(distilled)
        self.num_classes, self.in_chans = logits.shape[1], 3
        self.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

    def set_distilled_training(self, enable: bool = True) -> None:
        """As timm asks for it."""

    def forward(self, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits, self.distilled


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("mixed", [True, False])
def test_the_loss_is_the_papers_and_timms(kind: str, mixed: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits, distilled, taught = (2 * torch.randn(8, 10, generator=generator) for _ in range(3))
    labels = torch.randint(10, (8,), generator=generator)
    targets = 0.7 * F.one_hot(labels, 10) + 0.3 * F.one_hot(labels.roll(1), 10) if mixed else labels
    distillation = Distillation(kind, 0.3, 2.5)
    model = _Fixed(logits, distilled)
    step = ClassificationStep(model, 0.1, lambda *_: taught, distillation)  # type: ignore[arg-type]
    losses: list[Tensor] = []
    values = step(torch.zeros(8, 3, 4, 4), targets, losses.append)

    log_student = torch.log_softmax(logits.double(), dim=1).numpy()
    hard = np.eye(10)[labels.numpy()]
    shares = targets.double().numpy() if mixed else 0.9 * hard + 0.1 / 10
    of_labels = -(shares * log_student).sum(axis=1).mean()
    if kind == "hard":
        of_teacher = -torch.log_softmax(distilled.double(), 1)[torch.arange(8), taught.argmax(1)].mean().item()
    else:
        p, q = (torch.softmax(each.double() / 2.5, 1).numpy() for each in (taught, distilled))
        of_teacher = 2.5**2 * (p * np.log(p / q)).sum(axis=1).mean()
    assert values["loss"].item() == pytest.approx(0.7 * of_labels + 0.3 * of_teacher, abs=1e-6)

    criterion = nn.CrossEntropyLoss() if mixed else nn.CrossEntropyLoss(label_smoothing=0.1)
    theirs = TokenDistillationTask(
        model, _Answers(taught), criterion=criterion, distill_type=kind, task_loss_weight=0.7, temperature=2.5,
        verbose=False,
    )  # fmt: skip
    reference = theirs(torch.zeros(8, 3, 4, 4), targets)["loss"]
    assert losses[0].item() == pytest.approx(reference.item(), abs=1e-6)
    ours = torch.autograd.grad(losses[0], [model.logits, model.distilled])
    for mine, other in zip(ours, torch.autograd.grad(reference, [model.logits, model.distilled]), strict=True):
        assert torch.allclose(mine, other, atol=1e-7)


class _Answers(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.answer, self.num_classes = logits, logits.shape[1]
        self.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

    def forward(self, _: Tensor) -> Tensor:
        return self.answer


def test_no_gradient_reaches_the_teacher_and_a_share_of_one_leaves_the_labels_out() -> None:
    taught = torch.randn(4, 5, requires_grad=True)
    student = torch.randn(4, 5, requires_grad=True)
    teacher_loss(student, taught, Distillation("soft", 0.5, 1.0)).backward()  # type: ignore[no-untyped-call]
    assert taught.grad is None
    model = _Fixed(torch.randn(4, 5), torch.randn(4, 5))
    step = ClassificationStep(model, 0.1, lambda *_: taught, Distillation(share=1.0))  # type: ignore[arg-type]
    losses: list[Tensor] = []
    step(torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.long), losses.append)
    gradient, distilled = torch.autograd.grad(losses[0], [model.logits, model.distilled])
    assert not gradient.any()
    assert distilled.any()


class TestTraining:
    def test_the_second_classifier_learns_the_teachers_classes(
        self, images: LabelledImages, teacher: Teacher, tmp_path: Path
    ) -> None:
        recipe = replace(RECIPE, epochs=20)
        network = train_alone(ARCHITECTURE, images, recipe, tmp_path / "run", knowledge=Knowledge(teacher)).network
        rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
        columns = rows[0].split(",")
        first, last = (dict(zip(columns, row.split(","), strict=True)) for row in (rows[1], rows[-1]))
        assert {"loss_labels", "loss_teacher", "top1_teacher", "agreement"} <= set(columns)
        assert float(last["loss_teacher"]) < 0.8 * float(first["loss_teacher"])
        assert float(last["agreement"]) > float(first["agreement"])
        assert network.head_dist is not None
        assert not network.distilled_training
        assert isinstance(network.eval()(torch.zeros(1, 3, 32, 32)), Tensor)

    def test_another_teacher_is_another_training(
        self, images: LabelledImages, teacher: Teacher, tmp_path: Path
    ) -> None:
        train_alone(ARCHITECTURE, images, SHORT, tmp_path / "run", knowledge=Knowledge(teacher))
        resumed = Execution(resume=True)
        for other in (Knowledge(), Knowledge(teacher, Distillation("soft"))):
            with pytest.raises(MvigNasError, match=r"teacher|distillation"):
                train_alone(ARCHITECTURE, images, SHORT, tmp_path / "run", knowledge=other, execution=resumed)

    @pytest.mark.parametrize("taught", [False, True])
    def test_it_starts_from_a_supernets_weights(
        self, images: LabelledImages, teacher: Teacher, tmp_path: Path, taught: bool
    ) -> None:
        torch.manual_seed(2)
        given = Supernet(SPACE, 3).extract(ARCHITECTURE)
        recipe = replace(SHORT, learning_rate=1e-12, min_learning_rate=0.0, weight_decay=0.0)
        network = train_alone(
            ARCHITECTURE,
            images,
            recipe,
            tmp_path / "run",
            knowledge=Knowledge(teacher if taught else None, first=FirstWeights(given.state_dict(), ARCHITECTURE)),
        ).network
        for name, parameter in given.named_parameters():
            assert torch.allclose(network.get_parameter(name), parameter, atol=1e-8)
        if taught:
            assert network.head_dist is not None
            assert torch.allclose(network.head_dist.weight, given.head.weight, atol=1e-8)

    def test_without_classifiers_these_begin_afresh(self, images: LabelledImages, tmp_path: Path) -> None:
        torch.manual_seed(2)
        given = build(ARCHITECTURE, 7, distillation=True)
        start = {
            name: tensor for name, tensor in given.state_dict().items() if not name.startswith(("head.", "head_d"))
        }
        recipe = replace(SHORT, learning_rate=1e-12, min_learning_rate=0.0, weight_decay=0.0)
        network = train_alone(
            ARCHITECTURE, images, recipe, tmp_path, knowledge=Knowledge(first=FirstWeights(start, ARCHITECTURE))
        ).network
        assert network.num_classes == 3
        weight = given.get_parameter("stem.conv1.conv.weight")
        assert torch.allclose(network.get_parameter("stem.conv1.conv.weight"), weight, atol=1e-8)
        assert network.head.weight.std() > 0  # type: ignore[operator, union-attr]

    @pytest.mark.slow  # compiling takes a minute
    def test_a_compiled_network_learns_the_same(self, images: LabelledImages, tmp_path: Path) -> None:
        recipe = replace(SHORT, ema_decay=0.5, optimizer="sgd", learning_rate=0.02)
        found = [
            train_alone(
                ARCHITECTURE, images, recipe, tmp_path / str(compiled), execution=Execution(compiled=compiled)
            ).network
            for compiled in (False, True)
        ]
        for (name, mine), theirs in zip(found[0].named_parameters(), found[1].parameters(), strict=True):
            assert torch.allclose(mine, theirs, rtol=0, atol=1e-3), name


class TestTeacherCache:
    @pytest.mark.parametrize("kind", ["hard", "soft", "logits"])
    def test_the_teacher_is_asked_once_for_all_trainings(
        self, images: LabelledImages, tmp_path: Path, kind: str
    ) -> None:
        teacher = tiny_knowledge(kind, images).teacher
        assert teacher is not None
        asked: list[int] = []
        teacher.network.register_forward_hook(lambda *_: asked.append(1))
        recipe = replace(SHORT, mixup=0.3, micro_batch_size=6)

        def weights(name: str, architecture: Architecture = ARCHITECTURE, **changes: Any) -> dict[str, Tensor]:
            network = train_alone(
                architecture, images, replace(recipe, **changes), tmp_path / name,
                knowledge=Knowledge(teacher, Distillation(kind), tmp_path / "cache"),
            ).network  # fmt: skip
            return network.state_dict()

        cold = weights("cold")
        first = len(asked)
        assert first == 2 * 6  # epochs, micro-batches
        warm = weights("warm")
        assert all(torch.equal(cold[name], warm[name]) for name in cold)
        weights("other", SPACE.smallest)
        weights("longer", learning_rate=1e-3)
        assert len(asked) == first
        weights("seed", seed=1)
        assert len(asked) == 2 * first
        weights("epochs", epochs=3)  # the first two epochs are there
        assert len(asked) == 2 * first + 6
        assert len(list((tmp_path / "cache").iterdir())) == 2

    def test_it_learns_what_it_would_learn_without(self, images: LabelledImages, tmp_path: Path) -> None:
        for kind, tolerance in (("hard", 0.0), ("soft", 2e-2), ("logits", 2e-2)):
            teacher = tiny_knowledge(kind, images).teacher
            found = [
                train_alone(
                    ARCHITECTURE, images, SHORT, tmp_path / f"{kind}{cache}",
                    knowledge=Knowledge(teacher, Distillation(kind), tmp_path / "cache" if cache else None),
                ).network.state_dict()
                for cache in (False, True)
            ]  # fmt: skip
            for name, tensor in found[0].items():
                assert torch.allclose(tensor.float(), found[1][name].float(), rtol=0, atol=tolerance), name

    def test_too_little_room_is_told_before_the_training(
        self, images: LabelledImages, teacher: Teacher, tmp_path: Path
    ) -> None:
        stream = TrainingImages(images, SHORT.preprocessing, 32, 12, 0)
        with pytest.raises(MvigNasError, match=r"need room, .* GB for the whole training, got .*; make room"):
            TeacherCache(
                teacher, tmp_path, stream=stream, recipe=SHORT, resolution=32, micro_batches=10**13,
                distillation=Distillation("soft"),
            )  # fmt: skip
        (tmp_path / "file").write_text("")
        known = Knowledge(teacher, teacher_cache=tmp_path / "file")
        with pytest.raises(MvigNasError, match="answers must be writable"):
            train_alone(ARCHITECTURE, images, SHORT, tmp_path / "run", knowledge=known)


class TestRepeatedAugmentation:
    def test_an_image_stands_there_so_many_times_in_a_row(self, images: LabelledImages) -> None:
        stream = TrainingImages(images, Preprocessing(flip=0.0), 16, 6, 0, repeats=3)
        plain = TrainingImages(images, Preprocessing(flip=0.0), 16, 6, 0)
        assert stream.batches_per_epoch == plain.batches_per_epoch
        keys = [key for batch in stream._keys(range(stream.batches_per_epoch)) for key in batch]
        assert [copy for _, _, copy in keys[:6]] == [0, 1, 2, 0, 1, 2]
        assert len({index for _, index, _ in keys}) == len(keys) // 3
        (pixels, labels), *_ = stream.batches([0])
        assert torch.equal(labels[0:3], labels[0].repeat(3))
        assert not torch.equal(pixels[0], pixels[1])

    def test_without_it_nothing_changes(self, images: LabelledImages) -> None:
        one, other = (TrainingImages(images, Preprocessing(), 16, 6, 0, **kind) for kind in ({}, {"repeats": 1}))
        for mine, theirs in zip(one.batches([0, 3]), other.batches([0, 3]), strict=True):
            assert torch.equal(mine[0], theirs[0])


def test_accuracies_of_both_classifiers_and_their_mean(folder: Path) -> None:
    torch.manual_seed(4)
    network = build(ARCHITECTURE, 3, distillation=True).eval()
    assert network.head_dist is not None
    nn.init.normal_(network.head_dist.weight)
    nn.init.normal_(network.head.weight)
    batches = EvaluationImages(read_split(folder, "val"), Preprocessing(), 32, 7)
    found = accuracies(network, batches, 32)
    assert list(found) == ["mean", "labels", "teacher"]
    right = 0
    confusion = np.zeros((3, 3), dtype=int)
    for pixels, labels in batches:
        with torch.no_grad():
            answers = network(pixels).argmax(1)
        right += int((answers == labels).sum())
        for label, answer in zip(labels.tolist(), answers.tolist(), strict=True):
            confusion[label, answer] += 1
    assert found["mean"].top1 == right / 18
    assert (found["mean"].confusion == confusion).all()
    assert found["mean"].by_class.tolist() == (np.diag(confusion) / 6).tolist()
    network.head_dist = None
    assert list(accuracies(network, batches, 32)) == ["mean"]


def test_top5_of_many_classes(folder: Path) -> None:
    network = build(ARCHITECTURE, 8, distillation=False).eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([3.0, 0.0, 2.0, 9.0, 8.0, 7.0, 6.0, 5.0]))  # type: ignore[union-attr]
    found = accuracies(network, EvaluationImages(read_split(folder, "val"), Preprocessing(), 32), 32)["mean"]
    assert (found.top1, found.top5) == (0.0, 0.0)
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([4.0, 0.0, 1.0, 9.0, 8.0, 7.0, 6.0, 3.0]))  # type: ignore[union-attr]
    found = accuracies(network, EvaluationImages(read_split(folder, "val"), Preprocessing(), 32), 32)["mean"]
    assert (found.top1, found.top5) == (0.0, 1 / 3)


Run = Callable[..., Result]


class TestCommands:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
        monkeypatch.chdir(tmp_path)
        Path("arch.json").write_text(ARCHITECTURE.to_json())

        def call(*arguments: object) -> Result:
            return CliRunner().invoke(cli, [str(each) for each in arguments])

        return call

    def test_train_evaluate_export(self, run: Run, folder: Path, tmp_path: Path) -> None:
        options = ["--data", folder, "--workers", 0]
        taught = ["--teacher", TINY, "--teacher-checkpoint", saved(tmp_path)[0], "--teacher-resolution", 64]
        plan = ["--plan", "short", "--epochs", 25, "--batch-size", 12, "--distillation", "soft"]
        done = run("retrain", "arch.json", *options, *plan, *taught, "--out", "run", "--json")
        assert done.exit_code == 0, done.output + str(done.exception)
        accuracy = json.loads(done.stdout)["accuracy"]
        trained = read_model(Path("run/model"))
        assert trained.classes == ("class_0", "class_1", "class_2")
        assert trained.about["teacher"]["name"] == TINY
        assert trained.about["plan"]["distillation"]["kind"] == "soft"
        assert Path("run/learning_curves.png").read_bytes().startswith(b"\x89PNG")

        judged = run("evaluate", "run", *options, "--json", "--out", "found")
        assert judged.exit_code == 0, judged.output + str(judged.exception)
        values = json.loads(judged.stdout)
        assert values["accuracy"] == accuracy
        assert accuracy["labels"]["top1"] > 0.6
        assert values["predicted_latency_ms"] > 0
        assert (tmp_path / "found" / "confusion.png").read_bytes().startswith(b"\x89PNG")
        assert len((tmp_path / "found" / "classes.csv").read_text().splitlines()) == 4

        exported = run("export", "run", "--out", "run.mlpackage", "--json")
        assert exported.exit_code == 0, exported.output + str(exported.exception)
        assert json.loads(exported.stdout)["difference_fp32"] < 1e-3
        executed = run("evaluate", "run.mlpackage", *options, "--precision", "float16", "--json")
        assert executed.exit_code == 0, executed.output + str(executed.exception)
        assert json.loads(executed.stdout)["accuracy"]["mean"] == accuracy["mean"]
        some = run("evaluate", "run.mlpackage", *options, "--images", 6, "--json")
        assert json.loads(some.stdout)["images"] == 6

        few = (*options, "--images", 6, "--precision", "float16")
        compared = json.loads(run("evaluate", "run", "run.mlpackage", *few, "--json").stdout)["models"]
        assert [each["model"] for each in compared] == ["run", "run.mlpackage"]
        alone = json.loads(run("evaluate", "run.mlpackage", *few, "--json").stdout)
        assert compared[1]["top1"] == alone["accuracy"]["mean"]["top1"]
        assert compared[1]["predicted_latency_ms"] == alone["predicted_latency_ms"]
        files = [file for file in (tmp_path / "run.mlpackage").rglob("*") if file.is_file()]
        assert compared[1]["file_bytes"] == sum(file.stat().st_size for file in files)
        assert "run.mlpackage" in run("evaluate", "run", "run.mlpackage", *few).stdout
        refused = run("evaluate", "run", "run.mlpackage", *few, "--out", "found")
        assert refused.exit_code == 2
        assert "--out is of a single model" in refused.output

    def test_fine_tuned_on_other_classes(self, run: Run, folder: Path, tmp_path: Path) -> None:
        plan = ["--plan", "short", "--epochs", 2, "--batch-size", 12, "--workers", 0]
        assert run("retrain", "arch.json", "--data", folder, *plan, "--out", "run").exit_code == 0
        other = write_images(tmp_path / "other", classes=4)
        done = run("retrain", "run", "--data", other, *plan, "--out", "finer", "--json")
        assert done.exit_code == 0, done.output + str(done.exception)
        finer = read_model(Path("finer/model"))
        assert finer.network.num_classes == 4
        assert finer.network.architecture == ARCHITECTURE
        assert finer.about["start"]["model"] == str(Path("run").resolve())
        assert 0.9 < finer.about["start"]["inherited"] < 1  # all but the classifier

    def test_resumed_from_the_folder_alone(self, run: Run, folder: Path) -> None:
        common = ["--data", folder, "--workers", 0]
        plan = ["--plan", "short", "--epochs", 2, "--batch-size", 12]
        assert run("retrain", "arch.json", *common, *plan, "--out", "whole").exit_code == 0
        assert run("retrain", "arch.json", *common, *plan, "--out", "again").exit_code == 0
        Path("again/model/model.safetensors").unlink()
        assert run("retrain", "--resume", "--out", "again").exit_code == 0
        whole, again = (load_file(f"{name}/model/model.safetensors") for name in ("whole", "again"))
        assert all(torch.equal(whole[name], again[name]) for name in whole)

    def test_options_that_began_the_run_may_be_given_again_and_execution_may_differ(
        self, run: Run, folder: Path
    ) -> None:
        asked = ["retrain", "arch.json", "--data", folder, "--plan", "short", "--epochs", 2, "--batch-size", 12]
        assert run(*asked, "--workers", 0, "--out", "run").exit_code == 0
        done = run(*asked, "--workers", 1, "--precision", "bfloat16", "--out", "run", "--resume")
        assert done.exit_code == 0, done.output + str(done.exception)

    def test_what_fails_before_it_begins_leaves_nothing(self, run: Run, folder: Path) -> None:
        before = sorted(Path().rglob("*"))
        wide = replace(ARCHITECTURE, head_width=999)
        Path("arch.json").write_text(wide.to_json())
        common = ["--data", folder, "--plan", "short", "--workers", 0, "--out", "run"]
        cases = (
            (["retrain", "arch.json", *common, "--batch-size", 500], "must have at least one batch of images"),
            (["retrain", "arch.json", *common, "--teacher", TINY, "--teacher-checkpoint", "no.pt"], "file of tensors"),
            (["supernet", "train", "--data", folder, "--space", "micro", "--out", "run", "--batch-size", 500], "batch"),
        )
        for arguments, message in cases:
            assert message in str(run(*arguments).exception)
        assert sorted(Path().rglob("*")) == before

    def test_a_run_of_an_older_version_is_asked_for_again(self, run: Run, folder: Path) -> None:
        asked = ["retrain", "arch.json", "--data", folder, "--plan", "short", "--epochs", 2, "--batch-size", 12]
        assert run(*asked, "--workers", 0, "--out", "run").exit_code == 0
        Path("run/run.json").unlink()
        refused = run("retrain", "--resume", "--out", "run")
        assert refused.exit_code == 2
        assert "an older mvig-nas began this training and left no run.json; give an architecture" in refused.output
        wrong = run("retrain", "--resume", "--out", "run", *asked[1:], "--seed", 5, "--workers", 0)
        assert "`recipe.seed` was 0 and is now 5" in str(wrong.exception)
        assert run("retrain", "--resume", "--out", "run", *asked[1:], "--workers", 0).exit_code == 0

    def test_errors(self, run: Run, folder: Path, tmp_path: Path) -> None:
        other = write_images(tmp_path / "other", classes=4)
        assert run("retrain", "arch.json", "--data", folder, "--plan", "short", "--epochs", 2, "--batch-size", 12,
            "--workers", 0, "--out", "run").exit_code == 0  # fmt: skip
        taught = ["--teacher", TINY, "--teacher-checkpoint"]
        cases: list[tuple[list[Any], str]] = [
            (["retrain", "--data", folder], "give an architecture, or --resume a training"),
            (["retrain", "--resume", "--data", folder], "--resume needs the run folder"),
            (["retrain", "--resume", "--out", "none", "--data", folder], "must hold run.json"),
            (
                ["retrain", "arch.json", "--data", folder, "--plan", "short", "--out", "run"],
                "holds a run of `mvig-nas retrain` already",
            ),
            (["retrain", "--resume", "--out", "run", "--epochs", 9, "--seed", 5], "`--epochs` was 2 and is now 9"),
            (["retrain", "--resume", "--out", "run", "--seed", 5], "`--seed` was 0 and is now 5"),
            (["retrain", "--resume", "--out", "run", "--batch-size", 6], "`--batch-size` was 12 and is now 6"),
            (["retrain", "--resume", "--out", "run", "--teacher", TINY], f"`--teacher` was None and is now '{TINY}'"),
            (["retrain", "mobilevig_ti", "--resume", "--out", "run"], "`architecture.stages` was "),
            (["retrain", "arch.json", "--plan", "short"], "give --data, or --resume a training"),
            (["retrain", "arch.json", "--data", folder, "--plan", "shrot"], "did you mean 'short'"),
            (["retrain", "arch.json", "--data", folder, *taught, "missing.pt"], "must be a file of tensors"),
            (["retrain", "arch.json", "--data", other, *taught, saved(tmp_path)[0]], "must know the classes"),
            (
                ["retrain", "arch.json", "--data", folder, "--plan", "short", "--from-supernet", "none"],
                "got nothing at",
            ),
            (["evaluate", "run", "--data", other], "Images must be of the model's classes, got 'class_3'"),
            (["evaluate", "none.mlpackage", "--data", folder], "no Core ML package at none.mlpackage"),
            (["evaluate", "nothing", "--data", folder], "must hold config.json"),
        ]
        for arguments, message in cases:
            done = run(*arguments)
            assert done.exit_code != 0
            assert message in done.output + str(done.exception), arguments
        (other / "val" / "class_3").rename(tmp_path / "class_3")
        assert "same classes" in str(run("retrain", "arch.json", "--data", other, "--plan", "short").exception)
