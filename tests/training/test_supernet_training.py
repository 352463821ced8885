"""Training a supernet: what is sampled, what is learnt from it, and that it survives what happens to it."""

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mvig_nas import values
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import LabelledImages, read_split, seeded, training_transform
from mvig_nas.search_space import PARAMETER_NAMES, SearchSpace
from mvig_nas.supernet import Supernet, load_supernet
from mvig_nas.training import (
    PHASES,
    Execution,
    LatencyRange,
    Outcome,
    Sampling,
    StopTraining,
    SupernetPlan,
    SupernetStep,
    alpha_divergence,
    classification,
    kl_divergence,
    read_checkpoint,
    train,
    train_supernet,
)
from tests.images import write_images
from tests.strategies import REPOSITORY, SPACES, spaces
from tests.tiny_training import (
    PARALLEL_RECIPE,
    PLAN,
    RECIPE,
    SPACE,
    ParallelStep,
    pixel_images,
    tiny_teacher,
    train_parallel,
)
from tests.training.test_training_loop import EVERY_STEP, assert_same, assert_same_training, rows

TOY = SPACES["toy"]
PROGRESSIVE = Sampling(SPACE, random_networks=1, progressive=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def images(data: Path) -> LabelledImages:
    return read_split(data, "train")


class Widths:
    """A latency that is the first stage's width, in milliseconds."""

    def predict_ms(self, architectures: list[Architecture]) -> Any:
        return np.array([float(architecture.stages[0].width) for architecture in architectures])


class TestSampling:
    @given(space=spaces(), step=st.integers(0, 10**6), seed=st.integers(0, 2**32))
    @settings(max_examples=20, deadline=None)
    def test_a_function_of_seed_and_step(self, space: SearchSpace, step: int, seed: int) -> None:
        sampling = Sampling(space, random_networks=3, seed=seed)
        networks = sampling.networks(step, 10**6 + 1)
        random.seed(step)
        assert networks == Sampling(space, random_networks=3, seed=seed).networks(step, 10**6 + 1)
        assert networks[2:] != sampling.networks(step + 1, 10**6 + 1)[2:]
        assert networks[2:] != replace(sampling, seed=seed + 1).networks(step, 10**6 + 1)[2:]

    @given(space=spaces(), step=st.integers(0, 999))
    @settings(max_examples=20, deadline=None)
    def test_the_sandwich_has_the_largest_first_then_the_smallest_then_random_ones(
        self, space: SearchSpace, step: int
    ) -> None:
        networks = Sampling(space, random_networks=3).networks(step, 1000)
        assert networks[:2] == (space.largest, space.smallest)
        assert len(networks) == len(set(networks)) == 5
        assert all(network in space for network in networks)

    def test_uniform_draws_as_many_all_at_random(self) -> None:
        sampling = Sampling(TOY, "uniform", random_networks=2)
        drawn = [sampling.networks(step, 200) for step in range(200)]
        assert {len(networks) for networks in drawn} == {4}
        flat = [network for networks in drawn for network in networks]
        assert not {TOY.largest, TOY.smallest} & set(flat)
        for key, choices in TOY.choices.items():
            if key.rpartition(".")[2] in ("width", "head_width", "resolution"):
                counts = Counter(TOY.encode(network)[key] for network in flat)
                assert all(counts[choice] > 0.8 * 800 / len(choices) for choice in choices)

    def test_networks_that_are_the_same_are_trained_once(self) -> None:
        only = SearchSpace("only", {key: values[:1] for key, values in TOY.choices.items()})
        assert Sampling(only).networks(0, 10) == (only.largest,)

    def test_phases_open_in_order_and_the_rest_keeps_the_largest_choices(self) -> None:
        sampling = Sampling(TOY, random_networks=4, progressive=True)
        assert [sampling.phase(step, 8) for step in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
        largest = TOY.encode(TOY.largest)
        for phase in range(len(PHASES)):
            opened = {name for names in PHASES[: phase + 1] for name in names}
            drawn = [network for step in (2 * phase, 2 * phase + 1) for network in sampling.networks(step, 8)]
            drawn += sampling.networks(400 * phase + 7, 1600)
            varies = set()
            for network in drawn:
                assert network in TOY
                for place, stage in enumerate(network.stages, start=1):
                    for name in ("width", "conv_depth", "graph_depth"):
                        value = getattr(stage, name)
                        if name not in opened:
                            assert value == largest[f"stage{place}.{name}"]
                        elif value != largest[f"stage{place}.{name}"]:
                            varies.add(name)
                    if "conv_kernel" not in opened and stage.conv_kernel is not None:
                        assert stage.conv_kernel == largest[f"stage{place}.conv_kernel"]
                    if "ffn_expansion" not in opened and stage.ffn_expansion is not None:
                        assert stage.ffn_expansion == largest[f"stage{place}.ffn_expansion"]
                if "head_width" not in opened:
                    assert network.head_width == largest["head_width"]
            assert varies == {"width", "conv_depth", "graph_depth"} & opened
            assert {network.resolution for network in drawn} == set(TOY.choices["resolution"])
            assert sampling.networks(2 * phase, 8)[0] == TOY.largest

    def test_phases_name_every_parameter_once(self) -> None:
        named = [name for names in PHASES for name in names]
        known = {key.rpartition(".")[2] for key in PARAMETER_NAMES}
        assert sorted(named) == sorted(known)

    def test_not_progressive_is_the_last_phase_throughout(self) -> None:
        assert {Sampling(TOY).phase(step, 8) for step in range(-1, 8)} == {3}

    def test_random_networks_are_inside_the_latency_range(self) -> None:
        sampling = Sampling(TOY, random_networks=3, latency_range=LatencyRange(Widths(), 11.5, 12.5))  # type: ignore[arg-type]
        drawn = [network for step in range(40) for network in sampling.networks(step, 40)[2:]]
        assert {network.stages[0].width for network in drawn} == {12}
        assert len(set(drawn)) > 60

    def test_or_the_nearest_of_many(self) -> None:
        sampling = Sampling(TOY, random_networks=2, latency_range=LatencyRange(Widths(), 100.0, 200.0))  # type: ignore[arg-type]
        assert {network.stages[0].width for network in sampling.networks(3, 4)[2:]} == {12}

    @pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)])
    def test_wrong_ranges(self, low: float, high: float) -> None:
        with pytest.raises(MvigNasError, match="a latency range must run from a lower to a higher bound, got"):
            LatencyRange(Widths(), low, high)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"rule": "burger"}, r"a sampling rule must be one of .*, got 'burger'"),
            ({"random_networks": 0}, "`random_networks` must be at least 1, got 0"),
        ],
    )
    def test_wrong_values(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(MvigNasError, match=message):
            Sampling(TOY, **values)


def logits(seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher.requires_grad_()


LOSSES = pytest.mark.parametrize("loss", [kl_divergence, alpha_divergence])


class TestLosses:
    @given(seed=st.integers(0, 2**32), scale=st.floats(0.1, 5))
    @settings(max_examples=30, deadline=None)
    def test_kl_is_the_textbook_formula(self, seed: int, scale: float) -> None:
        student, teacher = logits(seed, scale)
        p, q = teacher.detach().numpy(), student.detach().numpy()
        p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (p, q))
        expected = (p * np.log(p / q)).sum(axis=1).mean()
        assert kl_divergence(student, teacher).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)

    @LOSSES
    def test_no_gradient_where_both_are_equal_and_none_to_the_teacher(
        self, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        student, teacher = logits(0)
        loss(student, student.detach() + 3.0).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert student.grad.abs().max() < 1e-7
        student.grad = None
        loss(student, teacher).backward()  # type: ignore[no-untyped-call]
        assert teacher.grad is None
        assert student.grad.abs().max() > 1e-3

    @LOSSES
    def test_a_step_down_the_gradient_brings_the_student_nearer(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        student, teacher = logits(1)
        before = kl_divergence(student, teacher)
        (gradient,) = torch.autograd.grad(loss(student, teacher), student)
        assert kl_divergence(student - 0.5 * gradient, teacher) < before

    @pytest.mark.parametrize("alpha", [-1.0, 1.0])
    def test_alpha_has_the_gradient_of_the_larger_divergence(self, alpha: float) -> None:
        """On logits so near each other that nothing is clipped; D_alpha by autograd, as the paper defines it."""

        def divergence(alpha: float, student: Tensor, teacher: Tensor) -> Tensor:
            p, q = teacher.detach().softmax(1), student.softmax(1)
            if alpha == 1:
                return (p * (p / q).log()).sum(1)
            return (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))

        found = 0
        for seed in range(20):
            student, teacher = logits(seed, 0.25)
            assert (student.softmax(1) / teacher.softmax(1)).log().abs().max() < math.log(5)
            values = {each: divergence(each, student, teacher) for each in (-1.0, 1.0)}
            chosen = values[alpha] > values[-alpha]
            expected = torch.autograd.grad(values[alpha].mean(), student)[0]
            actual = torch.autograd.grad(alpha_divergence(student, teacher), student)[0]
            torch.testing.assert_close(actual[chosen], expected[chosen], rtol=1e-4, atol=1e-7)
            found += int(chosen.sum())
        assert found > 20

    def test_alpha_is_bounded_where_the_teacher_is_sure_and_the_student_sure_of_another(self) -> None:
        student = torch.tensor([[50.0, 0.0]], requires_grad=True)
        alpha_divergence(student, torch.tensor([[0.0, 50.0]])).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()
        assert student.grad.abs().max() <= 5

    def test_classification_is_torchs(self) -> None:
        student, _ = logits(2)
        numbers = torch.tensor([0, 1, 2, 3, 4, 0])
        shares = F.one_hot(numbers, 5) * 0.7 + 0.06
        hard = F.cross_entropy(student.float(), numbers, label_smoothing=0.2)
        assert torch.equal(classification(student, numbers, 0.2), hard)
        soft = F.cross_entropy(student.float(), shares)
        assert torch.equal(classification(student, shares, 0.2), soft)


def step_of(plan: str = "sandwich", **options: Any) -> SupernetStep:
    with seeded(0):
        supernet = Supernet(SPACE, 3)
    return SupernetStep(supernet, Sampling(SPACE, plan, 2), label_smoothing=0.1, **options)


BATCH = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])


class TestStep:
    def losses(self, step: SupernetStep) -> tuple[list[float], dict[str, Tensor]]:
        seen: list[float] = []
        step.start(0, 10, torch.optim.SGD(step.model.parameters()))
        values = step(*BATCH, lambda loss: seen.append(loss.item()))
        return seen, values

    def test_the_largest_learns_from_labels_and_the_others_from_it(self) -> None:
        step = step_of()
        seen, values = self.losses(step)
        assert len(seen) == len(step.networks) == 4
        model = step_of().model
        largest = model(BATCH[0], SPACE.largest)
        expected = [F.cross_entropy(largest, BATCH[1], label_smoothing=0.1)]
        expected += [kl_divergence(model(BATCH[0], network), largest) for network in step.networks[1:]]
        assert seen == pytest.approx([loss.item() for loss in expected], rel=1e-5)
        assert values["loss"].item() == values["loss_largest"].item() == pytest.approx(seen[0])
        assert values["loss_others"].item() == pytest.approx(sum(seen[1:]) / 3)
        assert values["top1_largest"].item() == pytest.approx((largest.argmax(1) == BATCH[1]).float().mean().item())

    @pytest.mark.parametrize("options", [{"distillation": None}, {"plan": "uniform"}])
    def test_without_distillation_all_learn_from_labels(self, options: dict[str, Any]) -> None:
        step = step_of(**options)
        seen, values = self.losses(step)
        model = step_of().model
        expected = [
            F.cross_entropy(model(BATCH[0], network), BATCH[1], label_smoothing=0.1).item() for network in step.networks
        ]
        assert seen == pytest.approx(expected, rel=1e-5)
        watched = expected[0] if "distillation" in options else sum(expected) / 4
        assert values["loss"].item() == pytest.approx(watched, rel=1e-5)

    def test_a_teacher_has_its_share_in_the_largest_networks_loss(self) -> None:
        def teacher(images: Tensor) -> Tensor:
            return torch.tensor([[3.0, 0.0, 0.0]]).expand(len(images), 3)

        seen, _ = self.losses(step_of(teacher=teacher, teacher_share=0.25))
        largest = step_of().model(BATCH[0], SPACE.largest)
        labels = F.cross_entropy(largest, BATCH[1], label_smoothing=0.1)
        taught = F.cross_entropy(largest, teacher(BATCH[0]).softmax(1))
        assert seen[0] == pytest.approx((0.75 * labels + 0.25 * taught).item(), rel=1e-5)

    def test_unknown_distillation(self) -> None:
        with pytest.raises(MvigNasError, match=r"a distillation must be one of \('kl', 'alpha'\), got 'beta'"):
            step_of(distillation="beta")

    @pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
    def test_wrong_share(self, share: float) -> None:
        with pytest.raises(MvigNasError, match="`teacher_share` must be from 0 to 1, got"):
            step_of(teacher_share=share)


class Counting(Supernet):
    """Counts how often its channels are sorted."""

    sorted = 0

    def sort_channels(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.sorted += 1
        super().sort_channels(optimizer)


class TestProgressive:
    RECIPE = replace(RECIPE, epochs=4, ema_decay=0.999)  # 12 steps: widths open at step 9

    def run(self, images: LabelledImages, folder: Path, poisoned: int = -1, **options: Any) -> tuple[int, Outcome]:
        with seeded(0):
            supernet = Counting(SPACE, 3)
        step = SupernetStep(supernet, PROGRESSIVE)
        original = step._logits

        def spoiled(images: Tensor, architecture: Architecture) -> Tensor:
            broken = steps[-1] == poisoned
            return original(images, architecture) * (math.nan if broken else 1.0)

        begin, steps = step.start, []

        def start(number: int, *rest: Any) -> bool:
            steps.append(number)
            return begin(number, *rest)

        step._logits, step.start = spoiled, start  # type: ignore[method-assign]
        stream = pixel_images(images, self.RECIPE)
        stream._samples.transform = training_transform(self.RECIPE.preprocessing, 32)
        outcome = train(step, stream, self.RECIPE, folder, identity={}, **options)
        return supernet.sorted, outcome

    def test_channels_are_sorted_once(self, images: LabelledImages, tmp_path: Path) -> None:
        assert self.run(images, tmp_path / "whole")[0] == 1
        for first, times in ((8, 0), (9, 0), (10, 1)):
            folder = tmp_path / str(first)
            with pytest.raises(StopTraining):
                self.run(images, folder, execution=Execution(stop_after=first))
            assert self.run(images, folder, execution=Execution(resume=True))[0] == 1 - times
            assert_same_training(folder, tmp_path / "whole")

    def test_also_where_the_step_that_sorts_is_left_out(self, images: LabelledImages, tmp_path: Path) -> None:
        count, outcome = self.run(images, tmp_path, poisoned=9, execution=EVERY_STEP)
        assert [(back.step, back.to_step) for back in outcome.rollbacks] == [(9, 9)]
        assert count == 2  # once in the attempt that was undone
        hidden = outcome.model.network.stages[0].blocks[0].conv_pwl.conv.weight.abs().sum(dim=(0, 2, 3))  # type: ignore[union-attr]
        assert (hidden.diff() < 0.05).all()

    def test_the_moving_average_begins_anew_where_channels_change_places(
        self, images: LabelledImages, tmp_path: Path
    ) -> None:
        """Three steps after, an average of 0.999 is all but the weights at that step, in their new order."""
        _, outcome = self.run(images, tmp_path)
        average, last = outcome.model.state_dict(), read_checkpoint(tmp_path)["model"]
        for name, tensor in average.items():
            if name.endswith("conv.weight"):
                torch.testing.assert_close(tensor, last[name], rtol=0, atol=0.03)


class TestTraining:
    def test_killed_three_times_it_ends_with_the_same_weights(self, data: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.tiny_training", "killed", "supernet", str(data), str(tmp_path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
        assert printed.split() == ["killed"] * 3
        assert_same_training(tmp_path / "killed", tmp_path / "whole")
        assert [row["step"] for row in rows(tmp_path / "killed")] == ["20", "40", "45"]
        one, other = (load_supernet(tmp_path / name) for name in ("killed", "whole"))
        assert one.digest == other.digest
        assert_same(dict(one.supernet.state_dict()), dict(read_checkpoint(tmp_path / "whole")["model"]))

    def test_what_it_writes(self, images: LabelledImages, tmp_path: Path) -> None:
        recipe = replace(RECIPE, epochs=2)
        outcome = train_supernet(SPACE, images, recipe, tmp_path, plan=PLAN)
        trained = load_supernet(tmp_path)
        assert trained.classes == images.classes
        assert trained.supernet.space == SPACE
        assert trained.training == {
            "recipe": json.loads(json.dumps(values.plain(recipe))),
            "images": images.digest,
            "plan": {
                "sampling": "sandwich",
                "random_networks": 1,
                "distillation": "kl",
                "progressive": False,
                "teacher_share": 0.5,
            },
            "labels": {},
        }
        assert_same(dict(trained.supernet.state_dict()), dict(outcome.model.state_dict()))

    def test_a_trained_supernet_is_not_overwritten(self, images: LabelledImages, tmp_path: Path) -> None:
        (tmp_path / "supernet.safetensors").write_bytes(b"precious")
        with pytest.raises(MvigNasError, match=f"{tmp_path} holds a trained supernet already; take another folder"):
            train_supernet(SPACE, images, RECIPE, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["supernet.safetensors"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"space": TOY}, r"`space\.[a-z_]+` was .* and is now "),
            (
                {"plan": SupernetPlan(random_networks=1, distillation="alpha")},
                "`plan.distillation` was 'kl' and is now 'alp",
            ),
            (
                {"plan": SupernetPlan(random_networks=1, latency_range_ms=(0.1, 0.6))},
                r"`labels.latency_range_ms` was None and is now \[0.1, 0.6\]",
            ),
            ({"teacher": "tiny"}, "`labels.teacher` was None and is now {'name'"),
        ],
    )
    def test_another_space_or_plan_cannot_go_on(
        self, change: dict[str, Any], message: str, images: LabelledImages, tmp_path: Path
    ) -> None:
        values: dict[str, Any] = {"space": SPACE, "plan": PLAN}

        def run(values: dict[str, Any], **options: Any) -> None:
            space = values.pop("space")
            if "teacher" in values:
                values["teacher"] = tiny_teacher(images)
            train_supernet(space, images, replace(RECIPE, epochs=2), tmp_path, **values, **options)

        with pytest.raises(StopTraining):
            run(dict(values), execution=Execution(stop_after=1))
        with pytest.raises(MvigNasError, match=message):
            run(values | change, execution=Execution(resume=True))


@pytest.mark.slow
def test_two_processes_train_as_one(data: Path, images: LabelledImages, tmp_path: Path) -> None:
    """With plain gradient descent, as Adam turns the rounding of gradients that are 0 into whole steps.

    Weights changed by a ten-millionth at the start differ by 2e-3 after these 21 steps, so what differs by rounding
    alone agrees closely after 5 steps, and to 5e-3 at the end.
    """
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, "-m", *launch, "-m", "tests.tiny_training", "parallel", str(data), str(tmp_path)],
        check=True,
        cwd=REPOSITORY,
        capture_output=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    with pytest.raises(StopTraining):
        train_parallel(ParallelStep(), images, tmp_path / "early", execution=Execution(stop_after=5))
    early = torch.load(tmp_path / "early.pt", weights_only=True)["model"]
    for name, tensor in read_checkpoint(tmp_path / "early")["model"].items():
        if "running" not in name and tensor.is_floating_point():
            torch.testing.assert_close(early[name], tensor, rtol=1e-4, atol=1e-5)
    alone = train_parallel(ParallelStep(), images, tmp_path / "one").model.state_dict()
    for name in ("two", "stopped", "poisoned"):
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert_same(dict(first), dict(second))
        assert_same(dict(first), dict(read_checkpoint(tmp_path / name)["model"]))
    together = torch.load(tmp_path / "two-0.pt", weights_only=True)
    moved = 0.0
    for name, tensor in alone.items():
        if "running" not in name and tensor.is_floating_point():
            torch.testing.assert_close(together[name], tensor, rtol=0, atol=5e-3)
            moved = max(moved, (tensor - ParallelStep().model.state_dict()[name]).abs().max().item())
    assert moved > 0.02
    curves = [[float(row["loss"]) for row in rows(tmp_path / name)] for name in ("one", "two", "stopped")]
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert curves[2] == pytest.approx(curves[1], rel=1e-6)
    assert_same(
        *({key: value for key, value in read_checkpoint(tmp_path / name)["model"].items() if "running" not in key}
          for name in ("stopped", "two"))
    )  # fmt: skip
    steps = PARALLEL_RECIPE.epochs * 3
    told = [(tmp_path / f"told-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert told[0] == told[1] == [f"training was stopped at step 5 of {steps} and has been saved.", "[(6, 0)]"]
    assert [row["step"] for row in rows(tmp_path / "poisoned")] == ["20", "21"]
