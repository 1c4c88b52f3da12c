"""The loop's own promises: validation keeps the best, patience stops, precision is the trainer's to see."""

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ml.data.sampling import Batch
from ml.training.loop import FitConfig, FitResult, Progress, StepOutput, fit
from ml.training.memory import fastest_precision, keep_freed_memory

CONFIG = FitConfig(epochs=8, warmup_epochs=0.0, weight_decay=0.0, ema_decay=0.0, learning_rate=0.1)


class Slope:
    """A trainer whose single weight falls at every step."""

    def __init__(self) -> None:
        self.linear = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.linear.weight, 0.0)
        self.dtypes: list[torch.dtype] = []

    def start_epoch(self, epoch: int) -> None: ...

    def training_step(self, batch: Batch) -> StepOutput:
        output = self.linear(batch.images)
        self.dtypes.append(output.dtype)
        return StepOutput(loss=output.float().mean(), logs={})

    def module(self) -> nn.Module:
        return self.linear

    def encoder(self) -> nn.Module:
        return self.linear


class Ones:
    steps_per_epoch = 3

    def epoch(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002
        for _ in range(self.steps_per_epoch):
            yield Batch(images=torch.ones(2, 1), labels=torch.zeros(2, dtype=torch.int64))


class Validation:
    """Gives the listed values in turn and remembers the weight it was shown."""

    def __init__(self, *values: float) -> None:
        self.values, self.seen = list(values), list[float]()

    def __call__(self, encoder: nn.Module) -> float:
        assert not encoder.training
        self.seen.append(weight_of(encoder))
        return self.values[len(self.seen) - 1]


def weight_of(encoder: nn.Module) -> float:
    return next(encoder.parameters()).item()


def run(config: FitConfig, validate: Callable[[nn.Module], float] | None = None, **options: Any) -> FitResult:
    return fit(Slope(), Ones(), config, validate=validate, **options)


def test_the_best_validated_encoder_is_returned_and_not_the_last() -> None:
    validation = Validation(1.0, 4.0, 2.0, 4.0, 3.0, 3.0, 3.0, 0.0)
    result = run(CONFIG, validation)

    assert len(set(validation.seen)) == 8
    assert (result.best_epoch, result.epochs) == (2, 8)  # the first of two equal ones
    assert weight_of(result.encoder) == validation.seen[1]
    assert [logs["validation"] for logs in result.history] == validation.values


def test_without_validation_the_last_encoder_is_returned() -> None:
    shown = Validation(*range(8))
    last = run(CONFIG, shown)
    result = run(CONFIG)

    assert (result.best_epoch, result.epochs, len(result.history)) == (None, 8, 8)
    assert weight_of(result.encoder) == weight_of(last.encoder) == shown.seen[-1]
    assert set(result.history[0]) == {"loss"}


def test_patience_stops_the_fit_that_many_epochs_after_its_best() -> None:
    epochs: list[Progress] = []
    result = run(
        replace(CONFIG, patience=3), Validation(1.0, 2.0, 0.0, 0.0, 0.0, 9.0), on_epoch=epochs.append
    )

    assert (result.best_epoch, result.epochs) == (2, 5)
    assert [progress.epoch for progress in epochs] == [1, 2, 3, 4, 5]


def test_validation_comes_every_so_many_epochs_and_after_the_last() -> None:
    validation = Validation(1.0, 2.0, 3.0)
    result = run(replace(CONFIG, validate_every=3), validation)

    assert ["validation" in logs for logs in result.history] == [False, False, True] * 2 + [False, True]
    assert result.best_epoch == 8


def test_a_resumed_fit_knows_the_best_of_before(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    values = (1.0, 5.0, 2.0, 3.0, 1.0, 0.0)
    whole = run(replace(CONFIG, patience=4), Validation(*values))
    first = Validation(*values[:3])
    with pytest.raises(IndexError):  # the process dies in its fourth validation
        run(replace(CONFIG, patience=4), first, checkpoint=checkpoint)
    resumed = run(replace(CONFIG, patience=4), Validation(*values[3:]), checkpoint=checkpoint)

    assert (resumed.best_epoch, resumed.epochs) == (whole.best_epoch, whole.epochs) == (2, 6)
    assert weight_of(resumed.encoder) == weight_of(whole.encoder) == first.seen[1]
    assert resumed.history == whole.history


def test_a_fit_that_patience_ended_is_not_taken_up_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    config = replace(CONFIG, patience=1)
    ended = run(config, Validation(2.0, 1.0), checkpoint=checkpoint)
    again = run(config, Validation(), checkpoint=checkpoint)

    assert (again.epochs, again.best_epoch) == (ended.epochs, ended.best_epoch) == (2, 1)
    assert weight_of(again.encoder) == weight_of(ended.encoder)


def test_a_checkpoint_from_before_validation_existed_still_loads(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    finished = run(CONFIG, checkpoint=checkpoint)
    with safe_open(checkpoint, framework="pt") as stored:
        note = json.loads(stored.metadata()["note"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    for name in ("precision", "patience", "validate_every", "is_validated"):
        del note["fit"][name]
    del note["best_epoch"], note["history"]
    save_file(tensors, checkpoint, metadata={"note": json.dumps(note)})

    assert weight_of(run(CONFIG, checkpoint=checkpoint).encoder) == weight_of(finished.encoder)
    with pytest.raises(ValueError, match="'is_validated': False"):
        run(CONFIG, Validation(), checkpoint=checkpoint)
    with pytest.raises(ValueError, match="belongs to"):
        run(replace(CONFIG, precision="bfloat16"), checkpoint=checkpoint)


def test_a_validation_that_is_not_finite_stops_the_fit(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    with pytest.raises(FloatingPointError, match="the validation is nan after epoch 1"):
        run(CONFIG, Validation(float("nan")), checkpoint=checkpoint)
    assert not checkpoint.exists()


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_precision_is_that_of_the_training_step_and_never_of_the_weights(
    precision: str, dtype: torch.dtype
) -> None:
    trainer = Slope()
    fit(trainer, Ones(), replace(CONFIG, epochs=1, precision=precision))

    assert set(trainer.dtypes) == {dtype}
    assert trainer.linear.weight.dtype == torch.float32
    assert trainer.linear.weight.item() < 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "precision is 'float16', allowed: float32, bfloat16"),
        ({"patience": -1}, "patience is -1"),
        ({"validate_every": 0}, "validate_every 0"),
    ],
)
def test_a_fit_config_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitConfig(**options)


def test_patience_without_a_validation_is_refused() -> None:
    with pytest.raises(ValueError, match="no validation to go by"):
        run(replace(CONFIG, patience=2))


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("fpu avx512f avx512_bf16", "bfloat16"),
        ("fpu amx_bf16 amx_tile", "bfloat16"),
        ("fpu avx512f avx512_vnni", "float32"),
    ],
)
def test_the_fastest_precision_goes_by_the_flags_of_the_processor(
    tmp_path: Path, flags: str, precision: str
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\nmodel name\t: a CPU\nflags\t\t: {flags}\n")

    assert fastest_precision(cpu_info) == precision
    assert fastest_precision(tmp_path / "absent") == "float32"


PAGE_FAULTS = """
import resource, sys
import torch
from ml.training.memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory() and keep_freed_memory()
weight = torch.full((10_000_000,), 0.5, requires_grad=True)
for step in range(12):
    if step == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    (weight.sigmoid() * weight.tanh()).sum().backward()
    weight.grad = None
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has these settings")
def test_kept_memory_is_seldom_mapped_again() -> None:
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", PAGE_FAULTS, mode], text=True))
        for mode in ("kept", "given back")
    }

    assert faults["kept"] < faults["given back"] / 3


def test_without_glibc_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))

    assert keep_freed_memory() is False
