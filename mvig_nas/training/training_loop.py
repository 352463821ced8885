"""The one training loop: optimiser, schedule, clipping, mixed precision, moving average, checkpoints, divergence guard.

What a step does to the model is the caller's `Step`; all else is here. Every random choice is a function of the seed
and the step's number, so a training that was killed and resumed ends with the weights of one that was not (to the bit
on a CPU).
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.files import make_folder, remove_unfinished
from mvig_nas.image_data import TrainingImages, seeded
from mvig_nas.recipes import Execution, Recipe
from mvig_nas.run_folder import require_same
from mvig_nas.training.checkpoint import (
    FILE,
    only_training,
    read_checkpoint,
    write_checkpoint,
)
from mvig_nas.training.guard import DivergedError, Guard, Rollback
from mvig_nas.training.mixing import mix_of
from mvig_nas.training.process import Process, freed_memory_kept, stop_requests
from mvig_nas.training.steps import Step, Validate, steps_of
from mvig_nas.training.training_log import VALIDATION, Log, Progress
from mvig_nas.values import plain

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ROLLBACKS = 5  # to one checkpoint, then the run is given up
_SHOWN = 20  # steps between rows of the log
_WARMUP_RATE = 1e-6
_STEP_SEED, _MIXUP_SEED = 1, 2


class StopTraining(MvigNasError):  # noqa: N818 - it is no error
    """The training was asked to stop (SIGTERM, SIGHUP, Ctrl-C) and has saved its state."""


@dataclass(frozen=True)
class Outcome:
    """What came of a training: the model (its moving average, if the recipe has one) and the rollbacks on the way.

    `last` has the weights of the last step, which are the model's unless that is an average. `seconds` are this run's,
    without those before it was resumed.
    """

    model: nn.Module
    last: nn.Module
    rollbacks: tuple[Rollback, ...]
    seconds: float


def train(
    step: Step,
    images: TrainingImages,
    recipe: Recipe,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    execution: Execution | None = None,
    validate: Validate | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train `step.model` to the end of the recipe.

    Args:
        step: what to do with a micro-batch.
        images: micro-batches of `recipe.micro_batch_size`.
        recipe: what to do.
        folder: of the checkpoint and the log.
        identity: plain values that name what is trained; a resumed training must have the same.
        execution: how to do it, and whether to go on from the checkpoint in `folder`.
        validate: called in every process at the end, and before that every `execution.validate_every` epochs.
        on_progress: called in the first process after every step, validation and rollback, and when a signal asks to
            stop.

    Raises:
        MvigNasError: `folder` holds a training that is not to be resumed; it is not the same training; the loss
            diverges again and again; an image is damaged; the disk is full.
        StopTraining: a signal asked to stop; the state is saved.
    """
    run = _Run(
        step,
        images,
        recipe,
        folder,
        identity=identity,
        execution=execution or Execution(),
        validate=validate,
        on_progress=on_progress,
    )
    on_cpu = run.process.device.type == "cpu"
    with stop_requests(run.tell_of_stop) as stopped, freed_memory_kept() if on_cpu else contextlib.nullcontext():
        return run(stopped)


class _Run:
    def __init__(
        self,
        step: Step,
        images: TrainingImages,
        recipe: Recipe,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        execution: Execution,
        validate: Validate | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.take_step, self.images, self.recipe, self.folder = step, images, recipe, folder
        self.execution, self.validate, self.on_progress = execution, validate, on_progress
        self.process = process = Process.start(execution.torch_device)
        process.require_equal_shares(recipe.micro_batches)
        self.identity = {"recipe": plain(recipe), "images": images.images.digest, **identity}
        self.sizes = images.images.sizes_digest
        self.steps = steps_of(images, recipe)
        self.model = step.model.to(process.device)
        self.optimizer = create_optimizer_v2(
            self.model, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.scheduler = CosineLRScheduler(
            self.optimizer,
            t_initial=self.steps,
            lr_min=recipe.min_learning_rate,
            warmup_t=self.steps * recipe.warmup_epochs // recipe.epochs,
            warmup_lr_init=min(_WARMUP_RATE, recipe.learning_rate),
            t_in_epochs=False,
        )
        dtype = PRECISIONS[execution.precision]
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=dtype is torch.float16)
        self.autocast = torch.autocast(process.device.type, dtype=dtype, enabled=dtype is not torch.float32)
        self.average = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.mix = mix_of(recipe, images.images)
        self.guard = Guard()
        self.done = 0
        self.rate_scale = 1.0
        self.skipped: set[int] = set()
        self.rollbacks: list[Rollback] = []
        self.sums: dict[str, float] = {}  # of the scalars of the steps since the log's last row
        self.summed = 0
        self.saved, self.saved_at = -1, 0.0  # step and time of the last checkpoint

    def __call__(self, stopped: Callable[[], bool]) -> Outcome:
        began = time.monotonic()
        saved = self._checkpoint()
        with contextlib.ExitStack() as at_end:
            if self.process.is_first:
                make_folder(self.folder)
                at_end.enter_context(only_training(self.folder))
                remove_unfinished(self.folder / FILE)
            if saved is None:
                self._save()
            else:
                self._restore(saved)
            if self.execution.compiled:
                self.model.compile()
            stop_at = math.inf if self.execution.stop_after is None else self.done + self.execution.stop_after
            log = None
            if self.process.is_first:
                log = Log(self.folder, self.done)
                at_end.callback(log.close)
            has_ended = False
            while not has_ended:
                while self.done < self.steps:
                    self._go_on(log, lambda: stopped() or self.done >= stop_at)
                has_ended = self._validated(log)
            if self.saved != self.done:
                self._save()
        return Outcome(self._averaged, self.model, tuple(self.rollbacks), time.monotonic() - began)

    def tell_of_stop(self) -> None:
        """Say at once that a signal was heard."""
        self._show(
            math.nan,
            0.0,
            0.0,
            "stopping after this step, which is saved; a second Ctrl-C goes back to the last checkpoint",
        )

    @property
    def _averaged(self) -> nn.Module:
        return self.model if self.average is None else cast(nn.Module, self.average.module)

    def _go_on(self, log: Log | None, stopped: Callable[[], bool]) -> None:
        """Take steps up to the last, or to one that diverges and is rolled back."""
        batches = self._batches()
        first, began, waited = self.done, time.monotonic(), 0.0
        self.saved_at = began
        while self.done < self.steps:
            values: dict[str, float] = {}
            if self.done in self.skipped:
                self._start()
            else:
                waited_now, names, scalars = self._step(batches)
                waited += waited_now
                # before the scalars are waited for, so that a GPU has work meanwhile; a step that turns out to have
                # diverged is undone with all since the last checkpoint
                self._apply()
                *told, norm = scalars.tolist()
                values, is_finite = dict(zip(names, told, strict=True)), self._is_finite(norm)
                if self.guard.diverges(values["loss"]) or not is_finite:
                    self._roll_back(log, self.done, values["loss"], _told(values["loss"], is_finite))
                    return
                self.summed += 1
            self.done += 1
            seconds = max(time.monotonic() - began, 1e-9)
            rate = (self.done - first) * self.recipe.batch_size / seconds
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            if self.summed and (self.done % _SHOWN == 0 or self.done == self.steps):
                means = {name: value / self.summed for name, value in self.sums.items()}
                pace = {"images_per_second": rate, "waiting": waited / seconds}
                if log is not None:
                    log.write(self.done, {**means, "learning_rate": self._rate, **pace})
                self.sums, self.summed = {}, 0
            if values:
                self._show(values["loss"], rate, waited / seconds)
            if self._ends_epochs():
                paused = time.monotonic()
                if not self._validated(log):
                    return
                began += time.monotonic() - paused
            self._save_or_stop(stopped())

    def _save_or_stop(self, stopped: bool) -> None:
        stops = self.process.any(stopped) and self.done < self.steps
        # The first process's clock decides, as all of them must be there to average the running statistics.
        is_due = time.monotonic() - self.saved_at > 60 * self.execution.checkpoint_minutes
        is_due = self.process.any(self.process.is_first and is_due)
        if stops or (is_due and self.guard.is_calm):
            self._save()
        if stops:
            raise StopTraining(f"training was stopped at step {self.done} of {self.steps} and has been saved.")

    def _ends_epochs(self) -> bool:
        """Whether the last step was the last of as many epochs as lie between validations, and not of all."""
        every = self.execution.validate_every
        if not every or self.done == self.steps:
            return False
        before, now = ((self.done - less) * self.recipe.epochs // (self.steps * every) for less in (1, 0))
        return before != now

    def _validated(self, log: Log | None) -> bool:
        """Whether the weights answer with numbers; if not, the training is back at its last checkpoint."""
        if self.validate is None:
            return True
        self._average_buffers()
        try:
            found = self.validate(self._averaged, self.done * self.recipe.epochs // self.steps)
        except DivergedError:
            self._roll_back(log, self.done - 1, math.nan, "the weights after it answer NaN or infinity")
            return False
        if log is not None:
            log.write(self.done, found.values, VALIDATION)
        self._show(math.nan, 0.0, 0.0, found.message)
        return True

    @property
    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's micro-batches from the current step on."""
        each, process = self.recipe.micro_batches, self.process
        numbers = (
            step * each + index
            for step in range(self.done, self.steps)
            if step not in self.skipped
            for index in range(process.rank, each, process.world_size)
        )
        return self.images.batches(numbers)

    def _start(self) -> None:
        if self.take_step.start(self.done, self.steps, self.optimizer):
            self.guard = Guard()
            if self.average is not None:
                self.average.module.load_state_dict(self.model.state_dict())

    def _step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, tuple[str, ...], Tensor]:
        """Gradients of one step.

        Returns the seconds waited for images, the names of the scalars, and on the device their means over all
        processes, followed by the norm of the gradients.
        """
        recipe, process = self.recipe, self.process
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step_update(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] *= self.rate_scale
        self._start()

        def backward(loss: Tensor) -> None:
            self.scaler.scale(loss / recipe.micro_batches).backward()  # type: ignore[no-untyped-call]

        waited = 0.0
        sums: dict[str, Tensor] = {}
        for index in range(process.rank, recipe.micro_batches, process.world_size):
            began = time.monotonic()
            images, targets = next(batches)
            waited += time.monotonic() - began
            images = images.to(process.device, non_blocking=True)
            targets = targets.to(process.device, non_blocking=True)
            if self.execution.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            number = self.done * recipe.micro_batches + index
            if self.mix is not None:
                with seeded(recipe.seed, _MIXUP_SEED, number):
                    images, targets = self.mix(images, targets)
            with seeded(recipe.seed, _STEP_SEED, number), self.autocast:
                for name, value in self.take_step(images, targets, backward, number).items():
                    sums[name] = sums[name] + value if name in sums else value
        process.sum_gradients(self.model)
        means = process.sum(torch.stack([value.float() for value in sums.values()])) / recipe.micro_batches
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        # one tensor, so that one transfer from the device brings all
        return waited, tuple(sums), torch.cat([means, nn.utils.get_total_norm(gradients).to(means).reshape(1)])

    def _is_finite(self, norm: float) -> bool:
        """Whether gradients of this norm can be applied; where there is a gradient scaler, it sees to that itself."""
        return math.isfinite(norm) or self.scaler.is_enabled()

    def _apply(self) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip is not None:
            dispatch_clip_grad(self.model.parameters(), self.recipe.clip, mode=self.recipe.clip_mode)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model, step=self.done)

    def _checkpoint(self) -> dict[str, Any] | None:
        """What to go on from; all processes have looked before the first one writes into the folder."""
        if self.execution.resume:
            return read_checkpoint(self.folder)
        if (self.folder / FILE).exists():
            raise MvigNasError(
                f"{self.folder} holds a training already; go on with it (--resume), or take another folder."
            )
        self.process.wait()
        return None

    def _save(self) -> None:
        """Write the state; all processes must come here."""
        self._average_buffers()
        self.saved, self.saved_at = self.done, time.monotonic()
        if not self.process.is_first:
            return
        write_checkpoint(
            self.folder,
            {
                "identity": self.identity,
                "sizes": self.sizes,
                "step": self.done,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": None if self.average is None else self.average.module.state_dict(),
                **self._history(),
            },
        )

    def _average_buffers(self) -> None:
        for model in dict.fromkeys((self.model, self._averaged)):
            self.process.average_buffers(model)

    def _history(self) -> dict[str, Any]:
        return {
            "guard": self.guard.to_dict(),
            "rate_scale": self.rate_scale,
            "skipped": sorted(self.skipped),
            "rollbacks": [asdict(rollback) for rollback in self.rollbacks],
            "row": {"sums": self.sums, "steps": self.summed},
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        require_same(saved["identity"], self.identity)
        if saved.get("sizes", self.sizes) != self.sizes:  # an older version did not keep them
            raise MvigNasError(
                f"a resumed training must see the images that it began with, but files below {self.images.images.root} "
                "have other sizes now; restore them, or start anew in another folder."
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.module.load_state_dict(saved["average"])
        self.done = self.saved = saved["step"]
        self.guard = Guard.from_dict(saved["guard"])
        self.rate_scale = saved["rate_scale"]
        self.skipped = set(saved["skipped"])
        self.rollbacks = [Rollback(**values) for values in saved["rollbacks"]]
        self.sums, self.summed = dict(saved["row"]["sums"]), saved["row"]["steps"]

    def _roll_back(self, log: Log | None, failed: int, loss: float, what: str) -> None:
        """Back to the last checkpoint, to go on without the step that failed, and slower if that was not enough."""
        saved = read_checkpoint(self.folder)
        self.process.wait()
        known = self.rollbacks
        again = [rollback for rollback in known if rollback.to_step == saved["step"]]
        if len(again) >= _ROLLBACKS:
            raise MvigNasError(
                f"the loss must stay finite and near what it was, but at step {failed} {what}, after {len(again)} "
                f"returns to step {saved['step']}; lower the learning rate ({self.recipe.learning_rate}), or clip "
                f"harder. The state of step {saved['step']} is in {self.folder}."
            )
        rate_scale = self.rate_scale * (0.5 if again else 1.0)
        skipped = self.skipped | {failed}
        self._restore(saved)
        self.rate_scale, self.skipped = rate_scale, skipped
        self.rollbacks = [*known, Rollback(failed, loss, self.done, rate_scale)]
        self._save()
        if log is not None:
            log.go_back(self.done)
        slower = "" if rate_scale == 1 else f", at {rate_scale:g} times the learning rate"
        message = f"step {failed} diverged ({what}); went back to step {self.done}, leaving it out{slower}"
        self._show(loss, 0.0, 0.0, message)

    def _show(self, loss: float, rate: float, waiting: float, message: str | None = None) -> None:
        if self.on_progress is not None and self.process.is_first:
            epoch = self.done * self.recipe.epochs / self.steps
            device, epochs = self.process.device.type, self.recipe.epochs
            shown = Progress(self.done, self.steps, epoch, epochs, loss, self._rate, rate, waiting, device, message)
            self.on_progress(shown)


def _told(loss: float, is_finite: bool) -> str:
    if not math.isfinite(loss):
        return "its loss is not finite"
    return f"its loss is {loss:.4g}" if is_finite else "its gradients are not finite"
