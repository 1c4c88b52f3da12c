"""A short fit that records its losses, run by test_distributed alone and under torchrun."""

import ml.threads  # noqa: F401  isort: skip

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ml.data.sampling import Batch
from ml.methods.compact_metric import CompactMetricTrainer, Config
from ml.models.config import CompactConfig, EncoderConfig
from ml.training import distributed
from ml.training.loop import FitConfig, StepOutput, fit

ENCODER = EncoderConfig(
    trunk=CompactConfig(widths=(8, 16), strides=(2, 2)),
    input_size=32,
    code_bits=64,
    code_hidden=16,
    dimension=16,
)
CLASSES, PER_CLASS, EPOCHS = 5, 4, 5


class Pictures:
    """Noise around a pattern of each class: two batches of twenty an epoch."""

    steps_per_epoch = 2

    def epoch(self, epoch: int) -> Iterator[Batch]:
        patterns = torch.rand(CLASSES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed(100 + epoch)
        for _ in range(self.steps_per_epoch):
            # Rows of a class lie apart, so that most of its pairs do not fall into one process.
            labels = torch.arange(CLASSES * PER_CLASS) % CLASSES
            noise = torch.rand(len(labels), 3, 32, 32, generator=generator)
            yield Batch(images=(patterns[labels] + noise) / 2, labels=labels)


class HalfPictures(Pictures):
    """The first half of each batch: what one of two processes would learn from by itself."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for batch in super().epoch(epoch):
            half = len(batch.images) // 2
            yield Batch(images=batch.images[:half], labels=batch.labels[:half])


class Recorded(CompactMetricTrainer):
    """A trainer that notes the loss of each step."""

    def __init__(self, *, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(Config(encoder=ENCODER, ms_from_epoch=0), classes=CLASSES)
        self.losses: list[float] = []

    def training_step(self, batch: Batch) -> StepOutput:
        output = super().training_step(batch)
        assert "ms" in output.logs
        self.losses.append(float(output.loss.detach()))
        return output


def losses_of_fit(pictures: Pictures, *, seed: int = 0, checkpoint: Path | None = None) -> dict[str, Any]:
    """Losses of the ten steps and what the encoder became."""
    trainer = Recorded(seed=seed)
    reported: list[int] = []
    result = fit(
        trainer,
        pictures,
        FitConfig(epochs=EPOCHS, warmup_epochs=0.5, learning_rate=2e-3),
        checkpoint=checkpoint,
        validate=lambda encoder: float(sum(p.abs().sum() for p in encoder.parameters())),
        on_epoch=lambda progress: reported.append(progress.epoch),
    )
    state = result.encoder.state_dict()
    content = b"".join(value.contiguous().numpy().tobytes() for value in state.values())
    return {
        "losses": trainer.losses,
        "digest": hashlib.sha256(content).hexdigest(),
        "variance": state["trunk.stages.0.1.running_var"].tolist(),
        "kinds": sorted({type(module).__name__ for module in result.encoder.modules()}),
        "reported": reported,
        "best_epoch": result.best_epoch,
    }


def main() -> None:
    folder = Path(sys.argv[1])
    with distributed.joined() as processes:
        # Another seed in each process: they must start from the first one's weights all the same.
        found = losses_of_fit(Pictures(), seed=processes.rank, checkpoint=folder / "fit.safetensors")
    (folder / f"{processes.rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
