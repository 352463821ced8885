"""The training loop: what it computes, and that nothing that happens to it changes what it computes."""

import contextlib
import csv
import ctypes
import json
import math
import os
import random
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mvig_nas import values
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import LabelledImages, Preprocessing, hold_out, read_split
from mvig_nas.training import (
    ClassificationStep,
    Execution,
    Process,
    Progress,
    Recipe,
    Rollback,
    StopTraining,
    Validated,
    read_checkpoint,
    steps_of,
    train,
    train_alone,
)
from mvig_nas.training.guard import DivergedError, Guard
from tests.images import write_images
from tests.strategies import REPOSITORY
from tests.tiny_training import ALONE_RECIPE, RECIPE, SPACE, PixelStep, pixel_images, train_pixels

PIXELS = replace(RECIPE, micro_batch_size=6, mixup=0.2, cutmix=0.5, ema_decay=0.9)
EVERY_STEP = Execution(checkpoint_minutes=0)
RESUMED = Execution(resume=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def images(data: Path) -> LabelledImages:
    return read_split(data, "train")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def lasting(folder: Path) -> list[dict[str, str]]:
    """Rows of the log, less what depends on the time it took."""
    paces = ("images_per_second", "waiting")
    return [{name: value for name, value in row.items() if name not in paces} for row in rows(folder)]


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, all the way down."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    else:
        assert one == other


def assert_same_training(one: Path, other: Path) -> None:
    first, second = read_checkpoint(one), read_checkpoint(other)
    for name in ("step", "model", "average", "optimizer", "guard", "rate_scale", "skipped"):
        assert_same(first[name], second[name])
    assert lasting(one) == lasting(other)


def at_step(number: int, act: Callable[[], Any]) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.step == number and progress.message is None:
            act()

    return on_progress


def spoiled(values: dict[int, float]) -> Callable[[int, Tensor], Tensor]:
    """Losses of some steps multiplied."""
    return lambda step, loss: loss * values.get(step, 1.0)


class TestRecipe:
    def test_round_trip(self) -> None:
        recipe = replace(PIXELS, clip=None, preprocessing=Preprocessing(flip=0.25))
        assert values.read(Recipe, json.loads(json.dumps(values.plain(recipe))), "a recipe") == recipe
        assert values.read(Recipe, {}, "a recipe") == Recipe()

    def test_the_micro_batch_is_the_batch_unless_told_otherwise(self) -> None:
        assert (Recipe(batch_size=12).micro_batches, Recipe(batch_size=12, micro_batch_size=4).micro_batches) == (1, 3)

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            ({"epochs": 0}, "`epochs` must be a whole number of at least 1, got 0"),
            ({"epochs": 2.5}, "`epochs` must be a whole number, got 2.5"),
            ({"batch_size": 1}, "`batch_size` must be a whole number of at least 2, got 1"),
            ({"micro_batch_size": 1}, "`micro_batch_size` must be a whole number of at least 2, got 1"),
            ({"warmup_epochs": -1}, "`warmup_epochs` must be a whole number of at least 0, got -1"),
            ({"seed": "x"}, "`seed` must be a whole number, got 'x'"),
            ({"learning_rate": math.nan}, "`learning_rate` must be a finite number, got nan"),
            ({"weight_decay": "much"}, "`weight_decay` must be a number, got 'much'"),
            ({"clip": "hard"}, "`clip` must be a number or nothing, got 'hard'"),
            ({"batch_size": 12, "micro_batch_size": 8}, "must divide `batch_size`, got 8 and 12"),
            ({"batch_size": 15, "mixup": 0.1}, "must be even where `mixup` or `cutmix` pairs images, got 15"),
            ({"epochs": 5, "warmup_epochs": 5}, "`warmup_epochs` must be fewer than `epochs`, got 5 and 5"),
            ({"learning_rate": 0.0}, "`learning_rate` must be a number above 0, got 0"),
            ({"optimizer": "adamv"}, "`optimizer` must be one of timm's, got 'adamv'; did you mean"),
            ({"clip": 0.0}, "`clip` must be above 0, got 0.0; leave it out"),
            ({"clip_mode": "hard"}, "`clip_mode` must be one of .*, got 'hard'"),
            ({"min_learning_rate": -1e-3}, "`min_learning_rate` must be a number of at least 0, got -0.001"),
            ({"weight_decay": -1.0}, "`weight_decay` must be a number of at least 0"),
            ({"mixup": -1.0}, "`mixup` must be a number of at least 0"),
            ({"cutmix": -1.0}, "`cutmix` must be a number of at least 0"),
            ({"label_smoothing": 1.0}, r"`label_smoothing` must be a number below 1, got 1.0"),
            ({"ema_decay": 1.0}, r"`ema_decay` must be a number below 1, got 1.0"),
            ({"hold_out": -0.1}, r"`hold_out` must be a number of at least 0, got -0.1"),
            ({"epoch": 3}, "a recipe: there is no entry `epoch`; did you mean 'epochs'"),
            ({"preprocessing": {"flop": 1}}, "`preprocessing.flop`; did you mean 'flip'"),
        ],
    )
    def test_wrong_values(self, entries: dict[str, Any], message: str) -> None:
        with pytest.raises(MvigNasError, match=message) as caught:
            values.read(Recipe, entries, "a recipe")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"precision": "float8"}, "`precision` must be one of .*, got 'float8'"),
            ({"checkpoint_minutes": -1.0}, "`checkpoint_minutes` must be a number of at least 0, got -1.0"),
            ({"stop_after": 0}, "`stop_after` must be a whole number of at least 1, got 0"),
        ],
    )
    def test_wrong_executions(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(MvigNasError, match=message):
            Execution(**values)


class TestGuard:
    @given(level=st.floats(1e-4, 20), noise=st.lists(st.floats(-0.2, 0.2), max_size=300))
    @settings(max_examples=50, deadline=None)
    def test_noise_around_a_level_is_no_divergence(self, level: float, noise: list[float]) -> None:
        guard = Guard()
        assert not any(guard.diverges(level * (1 + part)) for part in noise)

    @given(
        levels=st.lists(st.floats(1e-3, 8), min_size=1, max_size=8),
        noise=st.integers(0, 2**32),
        each=st.integers(1, 60),
    )
    @settings(max_examples=50, deadline=None)
    def test_nor_is_a_noisy_fall(self, levels: list[float], noise: int, each: int) -> None:
        rng, guard = random.Random(noise), Guard()
        for level in sorted(levels, reverse=True):
            assert not any(guard.diverges(level * rng.uniform(0.8, 1.2)) for _ in range(each))

    def test_wrong_labels_in_a_batch_of_a_learnt_set_are_no_divergence(self) -> None:
        guard = Guard()
        losses = [0.03 + 2.3 * 0.97**step for step in range(300)]
        for step in (150, 151, 200, 280):
            losses[step] = 1.5  # 4 of 32 images at 12 nats
        assert not any(map(guard.diverges, losses))

    def test_heavy_tails_are_no_divergence(self) -> None:
        rng, guard = random.Random(0), Guard()
        assert not any(guard.diverges(1.2 * rng.lognormvariate(0, 0.3)) for _ in range(5000))

    @pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
    def test_not_finite_is_divergence_from_the_first_step(self, loss: float) -> None:
        assert Guard().diverges(loss)

    @pytest.mark.parametrize(("level", "spike"), [(0.05, 5.5), (1.0, 5.5), (2.3, 9.5), (7.0, 29.0)])
    def test_a_spike_is_divergence_and_is_not_remembered(self, level: float, spike: float) -> None:
        guard = Guard()
        assert not any(guard.diverges(level) for _ in range(20))
        assert guard.diverges(spike)
        assert guard.to_dict()["losses"] == [level] * 20

    @pytest.mark.parametrize(("level", "lost"), [(0.3, 2.3), (1.0, 2.3), (3.0, 6.9)])
    def test_a_collapse_to_guessing_shows_at_once_and_diverges_within_sixty_steps(
        self, level: float, lost: float
    ) -> None:
        guard = Guard()
        assert not any(guard.diverges(level) for _ in range(200))
        assert guard.is_calm
        steps = 0
        while not guard.diverges(lost):
            steps += 1
            if steps != 5:  # half of the latest
                assert guard.is_calm == (steps < 5)
        assert 40 <= steps <= 60

    @given(losses=st.lists(st.floats(0, 10), max_size=150), more=st.lists(st.floats(0, 50), max_size=30))
    @settings(max_examples=50, deadline=None)
    def test_round_trip(self, losses: list[float], more: list[float]) -> None:
        guard = Guard()
        for loss in losses:
            guard.diverges(loss)
        copied = Guard.from_dict(guard.to_dict())
        assert copied.to_dict() == guard.to_dict()
        assert [copied.diverges(loss) for loss in more] == [guard.diverges(loss) for loss in more]


@pytest.fixture(scope="module")
def whole(images: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed training."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_pixels(images, PIXELS, folder)
    return folder


class TestInterruption:
    def test_killed_three_times_it_ends_with_the_same_weights(self, data: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.tiny_training", "killed", "alone", str(data), str(tmp_path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
        assert printed.split() == ["killed"] * 3
        assert_same_training(tmp_path / "killed", tmp_path / "whole")
        assert [row["step"] for row in rows(tmp_path / "killed")] == ["20", "40", "45"]
        assert read_checkpoint(tmp_path / "killed")["average"] is not None
        assert not list((tmp_path / "killed").glob("*.tmp"))

    @pytest.fixture
    def hangups_end_it(self) -> Iterator[None]:
        """As in a terminal, also where nohup runs the tests."""
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        yield
        signal.signal(signal.SIGHUP, before)

    @pytest.mark.usefixtures("hangups_end_it")
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_signals_save_and_stop(self, number: int, images: LabelledImages, tmp_path: Path, whole: Path) -> None:
        handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
        folder = tmp_path / "run"
        at_7 = at_step(7, lambda: os.kill(os.getpid(), number))
        told: list[str] = []

        def ask(progress: Progress) -> None:
            told.extend([] if progress.message is None else [progress.message])
            at_7(progress)

        with pytest.raises(StopTraining, match="training was stopped at step 7 of 45 and has been saved"):
            train_pixels(images, PIXELS, folder, on_progress=ask)
        assert told == ["stopping after this step, which is saved; a second Ctrl-C goes back to the last checkpoint"]
        assert read_checkpoint(folder)["step"] == 7
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
        train_pixels(images, PIXELS, folder, execution=RESUMED)
        assert_same_training(folder, whole)

    def test_a_hangup_that_nohup_ignores_stops_nothing(self, images: LabelledImages, tmp_path: Path) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            train_pixels(images, PIXELS, tmp_path, on_progress=at_step(7, lambda: os.kill(os.getpid(), signal.SIGHUP)))
        finally:
            signal.signal(signal.SIGHUP, before)
        assert read_checkpoint(tmp_path)["step"] == 45

    def test_a_signal_in_a_step_lets_it_end_and_a_second_does_not(self, images: LabelledImages, tmp_path: Path) -> None:
        def twice(step: int, loss: Tensor) -> Tensor:
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
            return loss

        with pytest.raises(KeyboardInterrupt):
            train_pixels(images, PIXELS, tmp_path / "run", PixelStep(spoil=twice))
        assert read_checkpoint(tmp_path / "run")["step"] == 0

        asked: list[int] = []

        def once(step: int, loss: Tensor) -> Tensor:
            if step == 3 and not asked:
                asked.append(step)
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        with pytest.raises(StopTraining):
            train_pixels(images, PIXELS, tmp_path / "once", PixelStep(spoil=once))
        assert read_checkpoint(tmp_path / "once")["step"] == 4

    def test_stop_after(self, images: LabelledImages, tmp_path: Path, whole: Path) -> None:
        for number, stopped_at in enumerate((19, 38)):
            with pytest.raises(StopTraining, match=f"step {stopped_at} of 45"):
                train_pixels(images, PIXELS, tmp_path, execution=Execution(stop_after=19, resume=number > 0))
        train_pixels(images, PIXELS, tmp_path, execution=Execution(stop_after=7, resume=True))
        assert_same_training(tmp_path, whole)

    def test_resuming_what_has_ended_changes_nothing(self, images: LabelledImages, tmp_path: Path, whole: Path) -> None:
        train_pixels(images, PIXELS, tmp_path / "run")
        outcome = train_pixels(images, PIXELS, tmp_path / "run", execution=RESUMED)
        assert_same_training(tmp_path / "run", whole)
        assert_same(dict(outcome.model.state_dict()), dict(read_checkpoint(whole)["average"]))


class TestResuming:
    @pytest.fixture
    def stopped(self, images: LabelledImages, tmp_path: Path) -> Path:
        with pytest.raises(StopTraining):
            train_pixels(images, PIXELS, tmp_path / "run", execution=Execution(stop_after=21))
        return tmp_path / "run"

    def test_only_where_there_is_a_checkpoint(self, images: LabelledImages, tmp_path: Path) -> None:
        with pytest.raises(MvigNasError, match=f"must have a checkpoint, but there is none at {tmp_path}"):
            train_pixels(images, PIXELS, tmp_path, execution=RESUMED)

    def test_not_without_asking(self, images: LabelledImages, stopped: Path) -> None:
        before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
        with pytest.raises(MvigNasError, match=f"{stopped} holds a training already; go on with it .--resume."):
            train_pixels(images, PIXELS, stopped)
        assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize(
        ("change", "entry"),
        [
            ({"learning_rate": 1e-3}, "`recipe.learning_rate` was 0.005 and is now 0.001"),
            ({"preprocessing": Preprocessing(flip=0.25)}, "`recipe.preprocessing.flip` was 0.5 and is now 0.25"),
        ],
    )
    def test_another_recipe(self, change: dict[str, Any], entry: str, images: LabelledImages, stopped: Path) -> None:
        with pytest.raises(MvigNasError, match=entry):
            train_pixels(images, replace(PIXELS, **change), stopped, execution=RESUMED)

    def test_other_images(self, images: LabelledImages, stopped: Path) -> None:
        with pytest.raises(MvigNasError, match=r"`images` was .* and is now .*; give the same, or start anew"):
            train_pixels(hold_out(images, 0.1)[0], PIXELS, stopped, execution=RESUMED)

    def test_another_architecture(self, images: LabelledImages, tmp_path: Path) -> None:
        with pytest.raises(StopTraining):
            train_alone(SPACE.smallest, images, ALONE_RECIPE, tmp_path, execution=Execution(stop_after=1))
        with pytest.raises(MvigNasError, match=r"`architecture\.[a-z_.]+` was .* and is now "):
            train_alone(SPACE.largest, images, ALONE_RECIPE, tmp_path, execution=RESUMED)

    def test_changed_images_under_old_names(self, tmp_path: Path) -> None:
        data = write_images(tmp_path / "data")
        with pytest.raises(StopTraining):
            train_pixels(read_split(data, "train"), PIXELS, tmp_path / "run", execution=Execution(stop_after=5))
        image = next((data / "train").rglob("*.jpg"))
        image.write_bytes(image.read_bytes() + b"0")
        with pytest.raises(MvigNasError, match=r"must see the images that it began with, but .* other sizes"):
            train_pixels(read_split(data, "train"), PIXELS, tmp_path / "run", execution=RESUMED)

    def test_a_second_process_is_refused_by_the_number_of_the_first(
        self, images: LabelledImages, tmp_path: Path
    ) -> None:
        told: list[str] = []

        def resume_elsewhere(progress: Progress) -> None:
            if progress.step == 5:
                reader, writer = os.pipe()
                child = os.fork()
                if not child:
                    try:
                        train_pixels(images, PIXELS, tmp_path, execution=RESUMED)
                    except MvigNasError as error:
                        os.write(writer, str(error).encode())
                    os._exit(0)
                os.close(writer)
                os.waitpid(child, 0)
                told.append(os.read(reader, 1000).decode())
                os.close(reader)

        train_pixels(images, PIXELS, tmp_path, on_progress=resume_elsewhere)
        assert told == [
            f"only one process may train in {tmp_path}, but process {os.getpid()} is at it; wait until it has ended, "
            "or stop it."
        ]
        assert read_checkpoint(tmp_path)["step"] == 45

    @pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
    def test_a_checkpoint_cut_short(self, kept: float, images: LabelledImages, stopped: Path) -> None:
        content = (stopped / "state.pt").read_bytes()
        (stopped / "state.pt").write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
        with pytest.raises(MvigNasError, match=r"a checkpoint must be whole, but .* is damaged") as caught:
            train_pixels(images, PIXELS, stopped, execution=RESUMED)
        assert "\n" not in str(caught.value)

    def test_a_checkpoint_with_wrong_bytes(self, stopped: Path) -> None:
        content, whole = (stopped / "state.pt").read_bytes(), read_checkpoint(stopped)
        seen = 0
        for seed in range(60):
            rng, wrong = random.Random(seed), bytearray(content)
            first = rng.randrange(len(wrong))
            wrong[first : first + 20] = rng.randbytes(20)
            (stopped / "state.pt").write_bytes(wrong[: len(content)])
            try:
                read = read_checkpoint(stopped)
            except MvigNasError as error:
                seen += "\n" not in str(error)
            else:
                assert_same(read, whole)  # it was padding
        assert seen > 30

    def test_a_checkpoint_of_another_version(self, stopped: Path) -> None:
        torch.save({"schema": 2}, stopped / "state.pt")
        with pytest.raises(MvigNasError, match=r"a checkpoint's schema must be 1, got 2 in .*; upgrade"):
            read_checkpoint(stopped)

    @pytest.mark.parametrize("place", ["file", "file/below"])
    def test_a_folder_that_cannot_be_made(self, place: str, images: LabelledImages, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(MvigNasError, match=r"must be writable, got '(File exists|Not a directory)'; take another"):
            train_pixels(images, PIXELS, tmp_path / place)


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Sets the largest size of a file, which fails like a full disk; afterwards as before."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFullDisk:
    def test_at_a_checkpoint(
        self, full_disk: Callable[[int], None], images: LabelledImages, tmp_path: Path, whole: Path
    ) -> None:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        with pytest.raises(MvigNasError, match=r"state\.pt must be writable, got '.*'; .* make room") as caught:
            train_pixels(
                images, PIXELS, tmp_path, execution=EVERY_STEP, on_progress=at_step(9, lambda: full_disk(3000))
            )
        full_disk(limit)
        assert "\n" not in str(caught.value)
        assert read_checkpoint(tmp_path)["step"] == 8
        train_pixels(images, PIXELS, tmp_path, execution=RESUMED)
        assert_same_training(tmp_path, whole)

    def test_at_a_row_of_the_log(
        self, full_disk: Callable[[int], None], images: LabelledImages, tmp_path: Path, whole: Path
    ) -> None:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        with pytest.raises(MvigNasError, match="must be writable, got") as caught:
            train_pixels(images, PIXELS, tmp_path, on_progress=at_step(30, lambda: full_disk(10)))
        full_disk(limit)
        assert "\n" not in str(caught.value)
        train_pixels(images, PIXELS, tmp_path, execution=RESUMED)
        assert_same_training(tmp_path, whole)


class Poisoned:
    """Training images of which one micro-batch is not a number."""

    def __init__(self, images: Any, number: int) -> None:
        self.whole, self.number = images, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def batches(self, numbers: Iterator[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for number in numbers:
            images, targets = next(self.whole.batches([number]))
            yield (images * math.nan if number == self.number else images), targets


class TestDivergence:
    def run(
        self, images: LabelledImages, folder: Path, spoil: Callable[[int, Tensor], Tensor], **options: Any
    ) -> tuple[tuple[Rollback, ...], list[str], PixelStep]:
        told: list[str] = []
        step = PixelStep(spoil=spoil)

        def on_progress(progress: Progress) -> None:
            if progress.message is not None:
                told.append(progress.message)

        outcome = train_pixels(images, PIXELS, folder, step, on_progress=on_progress, **options)
        for tensor in outcome.model.state_dict().values():
            assert torch.isfinite(tensor).all()
        assert [row["step"] for row in rows(folder)] == ["20", "40", "45"]
        return outcome.rollbacks, told, step

    def test_a_poisoned_batch_is_left_out(self, images: LabelledImages, tmp_path: Path) -> None:
        told = []
        outcome = train(
            PixelStep(),
            Poisoned(pixel_images(images, PIXELS), 2 * 9 + 1),  # type: ignore[arg-type]
            PIXELS,
            tmp_path,
            identity={},
            execution=EVERY_STEP,
            on_progress=lambda progress: told.append(progress.message),
        )
        assert [message for message in told if message] == [
            "step 9 diverged (its loss is not finite); went back to step 9, leaving it out"
        ]
        assert [(rollback.step, rollback.to_step, rollback.rate_scale) for rollback in outcome.rollbacks] == [
            (9, 9, 1.0)
        ]
        for tensor in outcome.model.state_dict().values():
            assert torch.isfinite(tensor).all()

    def test_it_goes_back_to_the_last_checkpoint(self, images: LabelledImages, tmp_path: Path) -> None:
        with pytest.raises(StopTraining):
            train_pixels(images, PIXELS, tmp_path, execution=Execution(stop_after=11))
        rollbacks, told, step = self.run(images, tmp_path, spoiled({26: math.nan}), execution=RESUMED)
        assert [(back.step, back.to_step, back.rate_scale) for back in rollbacks] == [(26, 11, 1.0)]
        assert told == ["step 26 diverged (its loss is not finite); went back to step 11, leaving it out"]
        # The step is begun, as it may open a phase, yet sees no batch.
        assert step.starts == [*range(11, 27), *range(11, 45)]
        assert len(step.targets) == 2 * (16 + 33)

    @pytest.mark.parametrize("epoch", [3, 15])
    def test_weights_that_answer_nan_go_back_too(self, epoch: int, images: LabelledImages, tmp_path: Path) -> None:
        broken = [epoch]

        def validate(_: Any, after: int) -> Validated:
            if after in broken:
                broken.remove(after)
                raise DivergedError("logits must be finite")
            return Validated({"epoch": after, "val": 0.5}, "fine")

        rollbacks, told, _ = self.run(images, tmp_path, lambda _, loss: loss, validate=validate)
        assert [(back.step, back.to_step) for back in rollbacks] == [(3 * epoch - 1, 0)]
        assert f"step {3 * epoch - 1} diverged (the weights after it answer NaN or infinity)" in told[epoch - 1]
        assert read_checkpoint(tmp_path)["step"] == 45
        with (tmp_path / "validation.csv").open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == [str(each) for each in range(1, 16)]

    def test_an_exploding_loss(self, images: LabelledImages, tmp_path: Path) -> None:
        rollbacks, told, _ = self.run(images, tmp_path, spoiled({31: 1000.0}))
        assert (rollbacks[0].step, rollbacks[0].to_step) == (31, 0)
        assert rollbacks[0].loss > 100
        assert f"step 31 diverged (its loss is {rollbacks[0].loss:.4g}); went back to step 0, leaving it out" in told

    def test_the_step_that_is_left_out_may_be_the_last(self, images: LabelledImages, tmp_path: Path) -> None:
        rollbacks, _, _ = self.run(images, tmp_path, spoiled({44: math.inf}))
        assert (rollbacks[0].step, read_checkpoint(tmp_path)["step"]) == (44, 45)

    def test_the_second_after_a_checkpoint_halves_the_learning_rate(
        self, images: LabelledImages, tmp_path: Path, whole: Path
    ) -> None:
        rollbacks, told, _ = self.run(images, tmp_path, spoiled({5: math.nan, 9: math.nan, 30: math.nan}))
        assert [back.rate_scale for back in rollbacks] == [1.0, 0.5, 0.25]
        assert told[1].endswith("leaving it out, at 0.5 times the learning rate")
        for row, usual in zip(rows(tmp_path), rows(whole), strict=True):
            assert float(row["learning_rate"]) == pytest.approx(float(usual["learning_rate"]) / 4)

    def test_a_rollback_survives_a_stop(self, images: LabelledImages, tmp_path: Path) -> None:
        spoil = spoiled({5: math.nan, 9: math.nan})
        self.run(images, tmp_path / "one", spoil)
        with pytest.raises(StopTraining):
            self.run(images, tmp_path / "two", spoil, execution=Execution(stop_after=20))
        rollbacks, _, _ = self.run(images, tmp_path / "two", spoil, execution=RESUMED)
        assert len(rollbacks) == 2
        assert_same_training(tmp_path / "one", tmp_path / "two")

    def test_for_ever_gives_up_and_leaves_the_last_good_state(self, images: LabelledImages, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        with pytest.raises(StopTraining):
            train_pixels(images, PIXELS, folder, execution=Execution(stop_after=11))
        good = read_checkpoint(folder)
        message = (
            r"the loss must stay finite and near what it was, but at step 16 its loss is not finite, after 5 returns "
            rf"to step 11; lower the learning rate \(0.005\), or clip harder. The state of step 11 is in {folder}"
        )
        with pytest.raises(MvigNasError, match=message):
            self.run(images, folder, lambda step, loss: loss * math.nan if step >= 11 else loss, execution=RESUMED)
        last = read_checkpoint(folder)
        for name in ("step", "model", "average", "optimizer"):
            assert_same(last[name], good[name])

    def test_gradients_that_are_not_finite_are_not_applied(self, images: LabelledImages, tmp_path: Path) -> None:
        def spoil(step: int, loss: Tensor) -> Tensor:
            # The square root's slope at 0 is infinite, and 0 times that is not a number.
            return loss + (loss * 0).sqrt() if step == 6 else loss

        rollbacks, told, _ = self.run(images, tmp_path, spoil, execution=EVERY_STEP)
        assert [(back.step, math.isfinite(back.loss)) for back in rollbacks] == [(6, True)]
        assert told == ["step 6 diverged (its gradients are not finite); went back to step 6, leaving it out"]

    def test_a_collapse_goes_back_to_before_it(self, images: LabelledImages, tmp_path: Path) -> None:
        """Checkpoints are due all the time, yet none is written once the losses have risen."""
        recipe = replace(PIXELS, epochs=54)

        def spoil(step: int, loss: Tensor) -> Tensor:
            lost = step >= 100 and not rollbacks
            return loss * 0 + (2.5 if lost else 0.4)

        rollbacks: list[str] = []

        def on_progress(progress: Progress) -> None:
            if progress.message is not None:
                rollbacks.append(progress.message)

        outcome = train_pixels(
            images, recipe, tmp_path, PixelStep(spoil=spoil), execution=EVERY_STEP, on_progress=on_progress
        )
        assert len(outcome.rollbacks) == 1
        assert 140 <= outcome.rollbacks[0].step <= 160
        assert 100 <= outcome.rollbacks[0].to_step <= 105


class TestWhatAStepDoes:
    @pytest.mark.parametrize(
        ("size", "micro_size", "epochs", "warmup"), [(12, 12, 4, 1), (24, 12, 5, 2), (36, 9, 3, 0)]
    )
    def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine(  # noqa: PLR0917 - each has a name
        self, size: int, micro_size: int, epochs: int, warmup: int, images: LabelledImages, tmp_path: Path
    ) -> None:
        recipe = Recipe(
            epochs=epochs,
            batch_size=size,
            micro_batch_size=micro_size,
            learning_rate=0.1,
            min_learning_rate=0.02,
            warmup_epochs=warmup,
        )
        rates: list[float] = []
        train_pixels(images, recipe, tmp_path, on_progress=lambda progress: rates.append(progress.learning_rate))
        steps = steps_of(pixel_images(images, recipe), recipe)
        rising = steps * warmup // epochs
        assert rates == pytest.approx(
            [1e-6 + (0.1 - 1e-6) * step / rising for step in range(rising)]
            + [0.02 + 0.04 * (1 + math.cos(math.pi * step / steps)) for step in range(rising, steps)]
        )

    @pytest.mark.parametrize("mode", ["norm", "value", "agc"])
    def test_gradients_are_clipped(self, mode: str, images: LabelledImages, tmp_path: Path) -> None:
        changes = {}
        for clip in (1e-3, None):
            recipe = replace(
                RECIPE,
                optimizer="momentum",
                learning_rate=0.5,
                warmup_epochs=0,
                weight_decay=0.0,
                clip=clip,
                clip_mode=mode,
            )
            step = PixelStep()
            before = torch.cat([parameter.detach().flatten() for parameter in step.model.parameters()])
            with pytest.raises(StopTraining):
                train_pixels(images, recipe, tmp_path / str(clip), step, execution=Execution(stop_after=1))
            after = torch.cat([parameter.detach().flatten() for parameter in step.model.parameters()])
            changes[clip] = (after - before) / 0.5
        size = {"norm": changes[1e-3].norm(), "value": changes[1e-3].abs().max()}.get(mode)
        if size is not None:
            assert float(size) == pytest.approx(1e-3, rel=1e-3)
        assert changes[1e-3].norm() < 0.2 * changes[None].norm()

    def test_labels_are_smoothed_once_where_images_are_mixed(self, images: LabelledImages, tmp_path: Path) -> None:
        step = PixelStep()
        with pytest.raises(StopTraining):
            train_pixels(images, PIXELS, tmp_path, step, execution=Execution(stop_after=8))
        for targets in step.targets:
            assert targets.sum(dim=1).tolist() == pytest.approx([1.0] * 6)
            assert targets.min().item() == pytest.approx(0.1 / 3)
        network = torch.nn.Linear(4, 3)
        features, shares = torch.randn(6, 4), step.targets[0]
        watched = ClassificationStep(network, 0.1)(features, shares, lambda _: None)["loss"]  # type: ignore[arg-type]
        textbook = -(shares * network(features).log_softmax(1)).sum(1).mean()
        assert watched.item() == pytest.approx(textbook.item(), rel=1e-6)

    def test_the_outcome_is_the_moving_average(self, images: LabelledImages, tmp_path: Path) -> None:
        step = PixelStep()
        average: list[Tensor] = []

        def follow(progress: Progress) -> None:
            now = [tensor.detach().double().clone() for tensor in step.model.state_dict().values()]
            decay = 0.9 if progress.step > 2 else 0.0
            average[:] = [decay * a + (1 - decay) * b for a, b in zip(average or now, now, strict=True)]

        outcome = train_pixels(images, PIXELS, tmp_path, step, on_progress=follow)
        assert outcome.model is not step.model
        for tensor, expected, last in zip(
            outcome.model.parameters(), [average[0], average[1], *average[-2:]], step.model.parameters(), strict=True
        ):
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-5)
            assert not torch.equal(tensor, last)

    def test_micro_batches_add_up_to_the_step(self, images: LabelledImages, tmp_path: Path) -> None:
        """Where no norm depends on the micro-batch, as in a linear model, nothing changes but the rounding."""
        weights = []
        for micro_size in (12, 6, 2):
            step = PixelStep()
            step.model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 3))
            torch.nn.init.zeros_(step.model[2].weight)
            torch.nn.init.zeros_(step.model[2].bias)
            recipe = replace(RECIPE, micro_batch_size=micro_size, optimizer="sgd", learning_rate=0.05)
            train_pixels(images, recipe, tmp_path / str(micro_size), step)
            weights.append(step.model[2].weight.detach())
        torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weights[2], weights[0], rtol=1e-4, atol=1e-6)
        assert weights[0].abs().max() > 0.01

    @pytest.mark.parametrize("precision", ["bfloat16", "float32"])
    def test_precision_and_layout(self, precision: str, images: LabelledImages, tmp_path: Path) -> None:
        """float16 is for GPUs."""
        seen = []
        train_alone(
            SPACE.largest,
            images,
            replace(RECIPE, epochs=4),
            tmp_path,
            execution=Execution(precision=precision, channels_last=True),
            on_progress=lambda progress: seen.append(progress.loss),
        )
        assert len(seen) == 12
        assert all(map(math.isfinite, seen))
        assert {tensor.dtype for tensor in read_checkpoint(tmp_path)["model"].values()} == {torch.float32, torch.int64}


def board(folder: Path) -> dict[tuple[int, str], float]:
    """Scalars that TensorBoard would show: a session's start drops what came before it at its step or later."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars: dict[tuple[int, str], float] = {}
    for path in sorted((folder / "tensorboard").iterdir(), key=lambda path: path.name.rpartition(".")[2]):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += size + 16
            if event.session_log.status == SessionLog.START:
                scalars = {key: value for key, value in scalars.items() if key[0] < event.step}
            for value in event.summary.value:
                scalars[event.step, value.tag] = value.simple_value
    return scalars


class TestLog:
    def test_tensorboard_and_csv_hold_the_same(self, images: LabelledImages, tmp_path: Path) -> None:
        """Also where a run stopped on a row and another past one, and where it was rolled back over one."""
        spoil = spoiled({30: math.nan})
        for number, count in enumerate((20, 5, 100)):
            with contextlib.suppress(StopTraining):
                train_pixels(
                    images,
                    PIXELS,
                    tmp_path,
                    PixelStep(spoil=spoil),
                    execution=Execution(stop_after=count, resume=number > 0),
                )
        table = {
            (int(row["step"]), name): float(value)
            for row in rows(tmp_path)
            for name, value in row.items()
            if name != "step"
        }
        assert {step for step, _ in table} == {20, 40, 45}
        shown = board(tmp_path)
        assert shown.keys() == table.keys()
        for key, value in table.items():
            assert shown[key] == pytest.approx(value, rel=1e-6)

    def test_rows_are_means_over_the_steps_since_the_last(self, images: LabelledImages, tmp_path: Path) -> None:
        losses: list[float] = []
        train_pixels(images, PIXELS, tmp_path, on_progress=lambda progress: losses.append(progress.loss))
        for row, steps in zip(rows(tmp_path), (losses[:20], losses[20:40], losses[40:]), strict=True):
            assert float(row["loss"]) == pytest.approx(sum(steps) / len(steps))

    def test_rows_that_a_kill_cut_short_come_again(self, images: LabelledImages, tmp_path: Path, whole: Path) -> None:
        with pytest.raises(StopTraining):
            train_pixels(images, PIXELS, tmp_path, execution=Execution(stop_after=30))
        with (tmp_path / "log.csv").open("a") as file:
            file.write("4")
        train_pixels(images, PIXELS, tmp_path, execution=RESUMED)
        assert lasting(tmp_path) == lasting(whole)

    def test_progress(self, images: LabelledImages, tmp_path: Path) -> None:
        seen: list[Progress] = []
        train_pixels(images, PIXELS, tmp_path, on_progress=seen.append)
        assert [progress.step for progress in seen] == list(range(1, 46))
        assert seen[-1].epoch == PIXELS.epochs
        assert all(progress.steps == 45 and progress.images_per_second > 0 for progress in seen)
        assert all(0 < progress.waiting < 1 for progress in seen)
        assert seen[0].counted == f"epoch 1/{PIXELS.epochs}"
        assert seen[-1].counted == f"epoch {PIXELS.epochs}/{PIXELS.epochs}"
        assert all(progress.pace.startswith(f"{progress.images_per_second:.0f} images/s on cpu") for progress in seen)
        assert seen[-1].loss < 0.8 * seen[0].loss


class TestProcess:
    @pytest.mark.parametrize("device", ["gpu", "cuda:99"])
    def test_unknown_devices(self, device: str) -> None:
        with pytest.raises(MvigNasError, match=f"the device to train on must be one of torch's .*, got '{device}'"):
            Process.start(device)

    def test_micro_batches_that_do_not_divide(self) -> None:
        with pytest.raises(MvigNasError, match="a step's 2 micro-batches must divide among 3 processes"):
            Process(torch.device("cpu"), 0, 3).require_equal_shares(2)
        Process(torch.device("cpu"), 0, 3).require_equal_shares(6)


def test_every_entry_of_a_recipe_is_checked_on_resuming() -> None:
    assert {field.name for field in fields(Recipe)} == set(values.plain(Recipe()))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_of_a_step_serves_the_next_on_a_cpu() -> None:
    kept, inside, after = pages_taken("freed_memory_kept()")
    _, usual, _ = pages_taken("contextlib.nullcontext()")
    assert inside < 0.5 * usual, f"four rounds in the context took {inside} new pages, and {usual} without it"
    assert after > 0.5 * kept, "at the end it is all handed back"


def pages_taken(context: str) -> tuple[int, int, int]:
    """New pages of the first round of activations, of four more, and of one after the context; in a process of its own,
    because what other tests freed would serve the rounds."""
    script = f"""
import contextlib, resource, torch
from mvig_nas.training.process import freed_memory_kept

def pages(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        activations = [torch.ones(4_000_000) for _ in range(8)]
        del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with {context}:
    first, four = pages(1), pages(4)
print(first, four, pages(1))
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    first, four, after = map(int, output.split())
    return first, four, after
