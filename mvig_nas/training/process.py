"""Where a training runs: one process, or one of several that `torchrun` started.

Gradients are summed over the processes once a step, when all of its sub-networks have added theirs. Torch's
DistributedDataParallel would do it after every backward pass, and trips over weights that a sub-network leaves unused.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1
_MOST_MMAP = 32 * 2**20  # the largest that it takes
_USUAL_TRIM = 64 * 2**20


@dataclass(frozen=True)
class Process:
    """This process, and how many others share its training."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    def start(cls, device: str = "auto") -> "Process":
        """Join the processes that `torchrun` started, if it did.

        Args:
            device: `auto` for a GPU where there is one, else a name of torch's, e.g. `cpu` or `cuda:1`; `auto` and
                `cuda` give every process of a machine a GPU of its own.

        Raises:
            MvigNasError: no such device on this machine.
        """
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        try:
            if device == "auto":
                device = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
            chosen = torch.device(device)
            if chosen == torch.device("cuda"):
                chosen = torch.device("cuda", local_rank)
            torch.empty(1, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise MvigNasError(
                f"the device to train on must be one of torch's on this machine, got {device!r}; take cpu."
            ) from error
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)  # NCCL's barrier takes the current one
        if world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        return cls(chosen, int(os.environ.get("RANK", "0")), world_size)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def require_equal_shares(self, micro_batches: int) -> None:
        """That the micro-batches of a step divide among the processes.

        Raises:
            MvigNasError: they do not.
        """
        if micro_batches % self.world_size:
            raise MvigNasError(
                f"a step's {micro_batches} micro-batches must divide among {self.world_size} processes; set "
                "--micro-batch-size to the images that one process takes at a time."
            )

    def sum_gradients(self, model: nn.Module) -> None:
        """Every gradient becomes its sum over the processes, which must all have gradients of the same weights."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        first = 0
        for gradient in gradients:
            gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
            first += gradient.numel()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of what the processes hand in; all must call this."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def average_buffers(self, model: nn.Module) -> None:
        """Batch norms' running statistics become their mean over the processes.

        They are linear in the batches' statistics, with the same weights in every process, so averaging once, before
        they are saved, gives what averaging after every step would (all but rounding). Each process has seen only its
        micro-batches, so they weigh later ones less than those of a single process do, which sees them one by one.
        """
        if self.world_size == 1:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(self.world_size)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.world_size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Leave the processes that `start` joined."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """The C library does not hand back to the system what is freed, until the end.

    A step frees its activations and the next one takes as much: handed back in between, every page is cleared anew,
    which costs up to a third of a step. Does nothing where the C library is not glibc.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if tune is None or trim is None:
        yield
        return
    tune(_MMAP_THRESHOLD, _MOST_MMAP)
    tune(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        tune(_TRIM_THRESHOLD, _USUAL_TRIM)
        trim(0)


@contextlib.contextmanager
def stop_requests(on_request: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGTERM, SIGHUP or Ctrl-C came; `on_request` is called when the first does.

    The step in flight is finished first; a second signal does not wait for it. A SIGHUP that is ignored, as nohup has
    it, stays so.
    """
    asked = False

    def ask(number: int, _frame: Any) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, _frame)
        asked = True
        with contextlib.suppress(RuntimeError):  # the signal came while the stream that it would print on was written
            on_request()

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread, which alone may hear signals
        before.clear()
    try:
        yield lambda: asked
    finally:
        for asked_for, handler in before.items():
            signal.signal(asked_for, handler)
