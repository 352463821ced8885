"""Where a training runs: one process, or one of several that `torchrun` started.

Gradients are summed over the processes once a step, when all of its sub-networks have added theirs. Torch's
DistributedDataParallel would do it after every backward pass, and trips over weights that a sub-network leaves unused.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError


@dataclass(frozen=True)
class Process:
    """This process among its equals."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    def start(cls, device: str = "auto") -> "Process":
        """Joins the processes that `torchrun` started, if it did.

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
            place = torch.device(device)
            if place == torch.device("cuda"):
                place = torch.device("cuda", local_rank)
            torch.empty(1, device=place)
        except (RuntimeError, AssertionError) as error:
            raise MvigNasError(
                f"the device to train on must be one of torch's on this machine, got {device!r}; take cpu."
            ) from error
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if place.type == "cuda":
            torch.cuda.set_device(place)  # NCCL's barrier takes the current one
        if world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        return cls(place, int(os.environ.get("RANK", "0")), world_size)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def sum_gradients(self, model: nn.Module) -> None:
        """Every gradient becomes its sum over the processes; all must have the same ones."""
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
        """Sum over the processes."""
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
        """Until all processes are here."""
        if self.world_size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Part from the others."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()
