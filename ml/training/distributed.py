"""Several processes train as one: each takes a slice of every batch and knows what the others saw.

`torchrun --nproc-per-node N -m ml train …` starts them. Batch norm's statistics, the pairs of a metric loss
and the gradients are those of the whole batch, so that N processes follow the loss curve of one.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ml.data.sampling import Batch


class Steps(Protocol):
    """What must be known of a trainer to spread its steps."""

    def training_step(self, batch: Batch) -> Any: ...
    def module(self) -> nn.Module: ...
    def encoder(self) -> nn.Module: ...


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that train together, as one of them sees it. Alone, every method does nothing."""

    rank: int = 0  # of this process, 0 to count - 1
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The first process alone writes files and reports."""
        return self.rank == 0

    def begin_alike(self, module: nn.Module) -> None:
        """Give the module the weights it has in the first process."""
        if self.count > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, 0)

    def any(self, *, flag: bool) -> bool:
        """Whether the flag is set in at least one of the processes."""
        if self.count == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def of_first(self, measure: Callable[[], float]) -> float:
        """The value that `measure` has in the first process; the others wait for it."""
        value = torch.tensor([measure() if self.is_first else 0.0], dtype=torch.float64)
        if self.count > 1:
            dist.broadcast(value, 0)
        return float(value.item())

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes; absent ones stay absent."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the other processes when torchrun started this one, and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    dist.init_process_group("gloo")
    try:
        yield current()
    finally:
        dist.destroy_process_group()


def current() -> Processes:
    """The processes that `joined` joined; one alone outside it."""
    if not dist.is_initialized():
        return Processes()
    return Processes(rank=dist.get_rank(), count=dist.get_world_size())


def gathered(rows: Tensor) -> Tensor:
    """(B / count, ...) of each process -> (B, ...) of all, in the order of their ranks.

    One process alone gets its rows back. The gradient is scaled by the number of processes: every one of them
    computes the whole loss, and `average_gradients` divides what they sum up to.
    """
    if current().count == 1:
        return rows
    everyone: Tensor = _Gathered.apply(rows)  # type: ignore[no-untyped-call]
    return everyone


class Spread:
    """A trainer whose encoder sees this process's slice of a batch, and whose losses see all of it.

    Gathers what calling `encoder()` gives; whatever else a trainer computes from the images it must put
    through `gathered` itself. For trainers that run eagerly, not through torch.compile.
    """

    def __init__(self, trainer: Steps, processes: Processes) -> None:
        self.trainer, self.processes = trainer, processes
        for module in trainer.module().modules():
            if type(module) is nn.BatchNorm2d:
                # In place: the trainer may hold the very module, and its parameters keep their identity.
                module.__class__ = SynchronisedBatchNorm

    def training_step(self, batch: Batch) -> Any:
        """The trainer's step on a batch that is the same in every process. Its loss is, too.

        Raises ValueError when the batch cannot be cut into equal slices: the mean would not be the batch's.
        """
        count = self.processes.count
        size, left = divmod(len(batch.images), count)
        if left:
            raise ValueError(f"a batch of {len(batch.images)} images cannot be shared by {count} processes")
        own = batch.images[self.processes.rank * size :][:size]
        # Hooked for the step alone: a copy of the encoder, such as the average, is an ordinary one.
        hook = self.trainer.encoder().register_forward_hook(_gather_output)
        try:
            return self.trainer.training_step(Batch(images=own, labels=batch.labels))
        finally:
            hook.remove()


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of all processes together (torch's own runs on GPUs only)."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B / count, C, H, W) -> the same; every process must bring an equal share. Plain in eval mode."""
        if not self.training:
            return super().forward(maps)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = dist.get_world_size()
        values = maps.float()
        mean: Tensor = _Summed.apply(values.mean(dim=(0, 2, 3))) / count  # type: ignore[no-untyped-call]
        centred = values - mean.view(1, -1, 1, 1)
        variance: Tensor = _Summed.apply(centred.square().mean(dim=(0, 2, 3))) / count  # type: ignore[no-untyped-call]
        with torch.no_grad():
            seen = values.numel() // values.shape[1] * count
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (seen / (seen - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(maps.dtype)


def _gather_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    return gathered(output) if isinstance(output, Tensor) else tuple(gathered(part) for part in output)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, rows: Tensor) -> Tensor:
        parts = [
            torch.empty_like(rows, memory_format=torch.contiguous_format)
            for _ in range(dist.get_world_size())
        ]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        count = dist.get_world_size()
        return gradients[0].chunk(count)[dist.get_rank()] * count


class _Summed(torch.autograd.Function):
    """Sum over the processes; the gradient is summed alike, since each of them used the sum."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
