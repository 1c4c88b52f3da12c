"""One fit for every method: steps, precision, clipping, schedule, EMA, checkpoints, validation, cancellation."""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ml.data.sampling import Batch
from ml.training.distributed import Spread, current

PRECISIONS = ("float32", "bfloat16")
Logs = dict[str, float]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one training step gives the loop."""

    loss: Tensor  # scalar with gradient
    logs: Logs


class Trainer(Protocol):
    """A method, as the loop sees it."""

    def start_epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) begins; also called after a resume, so nothing else needs restoring."""
        ...

    def training_step(self, batch: Batch) -> StepOutput: ...
    def module(self) -> nn.Module:
        """Everything that is optimised."""
        ...

    def encoder(self) -> nn.Module:
        """The part that is kept; the loop averages it."""
        ...


class BatchStream(Protocol):
    """Batches whose epoch depends on its number alone, so that a resumed run sees the same ones."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int) -> Iterator[Batch]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How long and how hard to train."""

    epochs: int = 220  # >= 1
    learning_rate: float = 4e-3  # peak, AdamW, > 0
    final_share: float = 0.01  # of the peak rate at the last step, [0, 1]
    warmup_epochs: float = 3.0  # linear from 0, >= 0
    weight_decay: float = 0.02  # decoupled, not on biases and norms, >= 0
    clip_norm: float = 1.0  # > 0
    ema_decay: float = 0.998  # [0, 1); early steps use (1 + t) / (10 + t) if that is smaller
    # "bfloat16" runs training_step under autocast; a trainer switches that off for its losses.
    precision: str = "float32"
    patience: int = 0  # epochs without a better validation before the fit stops; 0 = never
    validate_every: int = 1  # epochs from one validation to the next, >= 1; the last one is always validated

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError(
                f"epochs {self.epochs} (>= 1), learning_rate {self.learning_rate} and "
                f"clip_norm {self.clip_norm} (both > 0)"
            )
        if not 0 <= self.final_share <= 1 or not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"final_share is {self.final_share} (0 to 1), ema_decay {self.ema_decay} (0 to below 1)"
            )
        if self.warmup_epochs < 0 or self.weight_decay < 0:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} and weight_decay {self.weight_decay} must be >= 0"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, allowed: {', '.join(PRECISIONS)}")
        if self.patience < 0 or self.validate_every < 1:
            raise ValueError(
                f"patience is {self.patience} (>= 0), validate_every {self.validate_every} (>= 1)"
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent after every epoch."""

    epoch: int  # done, counted from 1
    epochs: int
    seconds: float  # spent so far, earlier runs of a resumed fit included
    logs: Logs  # means over the epoch, and "validation" after an epoch that was validated


class FitCancelled(Exception):
    """The caller asked to stop; the last epoch's checkpoint remains."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """The averaged encoder (eval mode, no gradients) and what it took.

    With validation it is the encoder of best_epoch (counted from 1), not the last one. `history` holds the
    logs of each epoch.
    """

    encoder: nn.Module
    seconds: float
    epochs: int  # done: fewer than asked for when patience ran out
    best_epoch: int | None = None
    history: tuple[Logs, ...] = ()


def fit(
    trainer: Trainer,
    batches: BatchStream,
    config: FitConfig,
    *,
    checkpoint: Path | None = None,
    subject: str = "",
    validate: Callable[[nn.Module], float] | None = None,
    on_epoch: Callable[[Progress], None] = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Train for config.epochs and return the averaged encoder.

    With `checkpoint`, state is saved there after each epoch, and a fit that finds it there goes on from it
    and ends with the same bytes as one that was never stopped. With `validate` (higher is better) the
    averaged encoder, in eval mode, is measured after every validate_every epochs; the best is returned.
    `subject` names what is learned, for a checkpoint of something else to be refused.
    Raises FitCancelled between steps, ValueError when the checkpoint belongs to another config or patience
    has no validation to go by, FloatingPointError when the loss or a validation is not finite.

    Within `ml.training.distributed.joined` every process calls this with the same batches; each gets the
    result, and the first alone writes, validates and reports.
    """
    if config.patience > 0 and validate is None:
        raise ValueError(f"patience is {config.patience}, but there is no validation to go by")
    run = _Run(trainer, batches.steps_per_epoch, config, is_validated=validate is not None, subject=subject)
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    while not run.is_finished:
        started = time.monotonic()
        logs = _epoch_of(run, batches, is_cancelled)
        if validate is not None and run.is_validation_due:
            logs["validation"] = run.measure(validate)
        run.history.append(logs)
        run.seconds += time.monotonic() - started
        if not run.processes.is_first:
            continue
        if checkpoint is not None:
            run.save(checkpoint)
        on_epoch(Progress(epoch=run.epoch, epochs=config.epochs, seconds=run.seconds, logs=dict(logs)))
    return run.result()


def _epoch_of(run: "_Run", batches: BatchStream, is_cancelled: Callable[[], bool]) -> Logs:
    """Take the steps of one epoch. Returns the means of their logs."""
    totals: Logs = {}
    run.trainer.start_epoch(run.epoch)
    for batch in batches.epoch(run.epoch):
        if run.processes.any(flag=is_cancelled()):
            raise FitCancelled(f"cancelled in epoch {run.epoch + 1} of {run.config.epochs}")
        for name, value in run.step(batch).items():
            totals[name] = totals.get(name, 0.0) + value / batches.steps_per_epoch
    run.epoch += 1
    return totals


def learning_rate_at(step: int, total: int, warmup: int, config: FitConfig) -> float:
    """Linear warm-up over `warmup` steps, then half a cosine to final_share of the peak at step total - 1."""
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - 1 - warmup)
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * share


class _Run:
    """Optimiser, average, best average so far, and position of one fit."""

    def __init__(
        self, trainer: Trainer, steps_per_epoch: int, config: FitConfig, *, is_validated: bool, subject: str
    ) -> None:
        self.trainer, self.config, self.is_validated, self.subject = trainer, config, is_validated, subject
        self.history: list[Logs] = []
        self.best: dict[str, Tensor] = {}  # state of the averaged encoder at best_epoch
        self.best_epoch: int | None = None
        self.best_value = -math.inf
        self.total = steps_per_epoch * config.epochs
        self.warmup = round(steps_per_epoch * config.warmup_epochs)
        self.steps_per_epoch = steps_per_epoch
        self.epoch, self.step_number, self.seconds = 0, 0, 0.0
        parameters = [p for p in trainer.module().parameters() if p.requires_grad]
        self.parameters = parameters
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        self.processes = current()
        self.processes.begin_alike(trainer.module())
        self.average = copy.deepcopy(trainer.encoder()).requires_grad_(requires_grad=False)
        self.training_step = trainer.training_step
        if self.processes.count > 1:
            # After the copy: the average stays an ordinary encoder.
            self.training_step = Spread(trainer, self.processes).training_step

    @property
    def is_finished(self) -> bool:
        patience = self.config.patience
        out_of_patience = (
            patience > 0 and self.best_epoch is not None and self.epoch - self.best_epoch >= patience
        )
        return self.epoch >= self.config.epochs or out_of_patience

    @property
    def is_validation_due(self) -> bool:
        return self.epoch % self.config.validate_every == 0 or self.epoch == self.config.epochs

    def measure(self, validate: Callable[[nn.Module], float]) -> float:
        """Validate the averaged encoder, and keep it when it is the best so far."""
        value = self.processes.of_first(lambda: float(validate(self.average.eval())))
        if not math.isfinite(value):
            raise FloatingPointError(f"the validation is {value} after epoch {self.epoch}")
        if value > self.best_value:
            self.best_value, self.best_epoch = value, self.epoch
            self.best = {name: kept.clone() for name, kept in self.average.state_dict().items()}
        return value

    def result(self) -> FitResult:
        if self.best_epoch is not None:
            self.average.load_state_dict(self.best)
        return FitResult(
            encoder=self.average.eval(),
            seconds=self.seconds,
            epochs=self.epoch,
            best_epoch=self.best_epoch,
            history=tuple(self.history),
        )

    def step(self, batch: Batch) -> Logs:
        rate = learning_rate_at(self.step_number, self.total, self.warmup, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(
            batch.images.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
        ):
            output = self.training_step(batch)
        value = float(output.loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {self.step_number + 1}: {output.logs}")
        self.optimiser.zero_grad(set_to_none=True)
        output.loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimiser.step()
        self.step_number += 1
        self._update_average()
        return {"loss": value, **output.logs}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step_number) / (10 + self.step_number))
        current = self.trainer.encoder().state_dict()
        for name, kept in self.average.state_dict().items():
            if kept.is_floating_point():
                kept.lerp_(current[name], 1 - decay)
            else:
                kept.copy_(current[name])

    def save(self, path: Path) -> None:
        tensors = {f"module/{name}": value for name, value in self.trainer.module().state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{key}": value for key, value in state.items()}
        note = {
            "epoch": self.epoch,
            "step": self.step_number,
            "seconds": self.seconds,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "fit": self._identity(),
        }
        temporary = path.with_name(path.name + ".tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Contiguous clones: parameters may be channels-last, and safetensors refuses shared or strided
        # memory.
        save_file(
            {
                name: value.detach().clone(memory_format=torch.contiguous_format)
                for name, value in tensors.items()
            },
            temporary,
            metadata={"note": json.dumps(note)},
        )
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)

    def load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as stored:
            note = json.loads(stored.metadata()["note"])
            # What a checkpoint of an earlier version does not name had today's default.
            belongs_to = {"is_validated": False, "subject": "", **_DEFAULTS, **note["fit"]}
            if belongs_to != self._identity():
                raise ValueError(f"checkpoint {path} belongs to {belongs_to}, this fit is {self._identity()}")
            groups: dict[str, dict[str, Tensor]] = {"module": {}, "average": {}, "best": {}, "optimiser": {}}
            for key in stored.keys():  # noqa: SIM118  (a safe_open handle is not iterable)
                kind, name = key.split("/", 1)
                groups[kind][name] = stored.get_tensor(key)
        self.trainer.module().load_state_dict(groups["module"])
        self.average.load_state_dict(groups["average"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimiser"].items():
            index, field = name.split("/")
            state.setdefault(int(index), {})[field] = value
        self.optimiser.load_state_dict(
            {"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]}
        )
        self.epoch, self.step_number, self.seconds = note["epoch"], note["step"], note["seconds"]
        self.history = note.get("history", [{} for _ in range(self.epoch)])
        self.best, self.best_epoch = groups["best"], note.get("best_epoch")
        if self.best_epoch is not None:
            self.best_value = self.history[self.best_epoch - 1]["validation"]

    def _identity(self) -> dict[str, object]:
        """What must agree between the run that saved a checkpoint and the run that goes on from it."""
        return {
            **asdict(self.config),
            "steps_per_epoch": self.steps_per_epoch,
            "is_validated": self.is_validated,
            "subject": self.subject,
        }


_DEFAULTS = {field.name: field.default for field in fields(FitConfig)}
