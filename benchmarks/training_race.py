"""Training steps of several ways to run one encoder, taking turns, each in a process of its own.

In processes because the memory settings of one must not reach the others.
"""

import ml.threads  # noqa: F401  isort: skip

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from benchmarks.textbook_encoder import made_textbook
from ml.data.augmentation import AugmentationConfig
from ml.data.images import ImageSet
from ml.data.sampling import Batch, BatchSource, SamplingConfig
from ml.methods.compact_metric import CompactMetricTrainer, Config
from ml.models.config import EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.training.loop import FitConfig, StepOutput, fit
from ml.training.memory import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Racer:
    """One way to train."""

    name: str
    is_textbook: bool = False  # unfold, plane by plane
    precision: str = "float32"
    is_compiled: bool = False
    keeps_memory: bool = True


@dataclass(frozen=True, kw_only=True)
class Race:
    """What every racer trains: the same encoder from the same seed on the same batches."""

    encoder: EncoderConfig
    classes_per_batch: int = 32  # P and K of the product's sampler
    images_per_class: int = 4
    batches: int = 10  # different ones; a round shows each once
    rounds: int = 6  # the first warms up and is not timed
    seed: int = 0

    @property
    def batch_size(self) -> int:
        return self.classes_per_batch * self.images_per_class


@dataclass(frozen=True)
class Course:
    """What one racer did: seconds of each timed round, seconds of the first, loss of every step."""

    seconds: NDArray[np.float64]
    first_seconds: float
    losses: NDArray[np.float64]


def run(race: Race, images: ImageSet, racers: Sequence[Racer]) -> dict[str, Course]:
    """Let the racers take turns, one round each in a new order every time."""
    spawn = multiprocessing.get_context("spawn")
    order = np.random.default_rng(race.seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "batches.safetensors"
        save_file(_drawn(race, images), file)
        workers = {}
        for racer in racers:
            ours, theirs = spawn.Pipe()
            spawn.Process(target=_train, args=(racer, race, file, theirs), daemon=True).start()
            theirs.close()
            workers[racer.name] = ours
            ours.recv()  # ready: preparing must not fall into another one's turn
        taken = {name: np.empty(race.rounds) for name in workers}
        for turn in range(race.rounds):
            for name in order.permutation(list(workers)).tolist():
                workers[name].send("go")
                taken[name][turn] = workers[name].recv()
        return {
            name: Course(taken[name][1:], float(taken[name][0]), np.array(connection.recv()))
            for name, connection in workers.items()
        }


def _drawn(race: Race, images: ImageSet) -> dict[str, torch.Tensor]:
    """The batches one after another: images (batches * B, 3, S, S) float32 and labels."""
    source = BatchSource(
        images,
        SamplingConfig(
            classes_per_batch=race.classes_per_batch,
            images_per_class=race.images_per_class,
            sizes=((1.0, race.encoder.input_size),),
        ),
        AugmentationConfig(),
        seed=race.seed,
        epochs=race.batches,  # as many as can be asked for: every epoch gives at least one batch
    )
    drawn = list(islice(chain.from_iterable(map(source.epoch, count())), race.batches))
    return {
        "images": torch.cat([batch.images for batch in drawn]).contiguous(),
        "labels": torch.cat([batch.labels for batch in drawn]),
    }


class _Turns:
    """Batches that wait for a word before each round and tell how long it took."""

    def __init__(self, batches: list[Batch], connection: Connection) -> None:
        self.batches, self.connection = batches, connection

    @property
    def steps_per_epoch(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002  (every round shows the same batches)
        self.connection.recv()
        started = perf_counter()
        yield from self.batches
        self.connection.send(perf_counter() - started)


class _Recorded(CompactMetricTrainer):
    """The product's trainer, noting the loss of each step."""

    losses: list[float]

    def training_step(self, batch: Batch) -> StepOutput:
        output = super().training_step(batch)
        self.losses.append(float(output.loss.detach()))
        return output


def _train(racer: Racer, race: Race, file: Path, connection: Connection) -> None:
    if racer.keeps_memory:
        keep_freed_memory()
    torch.set_num_threads(1)
    stored = load_file(file)
    layout = torch.contiguous_format if racer.is_textbook else torch.channels_last
    batches = [
        Batch(images=images.contiguous(memory_format=layout), labels=labels)
        for images, labels in zip(
            torch.split(stored["images"], race.batch_size),
            torch.split(stored["labels"], race.batch_size),
            strict=True,
        )
    ]
    torch.manual_seed(race.seed)
    trainer = _Recorded(
        Config(encoder=race.encoder), classes=int(stored["labels"].max()) + 1, compiled=racer.is_compiled
    )
    if racer.is_textbook:
        made_textbook(cast("ImageEncoder", trainer.encoder()))
    trainer.losses = []
    connection.send("ready")
    fit(trainer, _Turns(batches, connection), FitConfig(epochs=race.rounds, precision=racer.precision))
    connection.send(trainer.losses)
