"""One fine-tuning: from a base encoder and its stale cache to a row of figures and its per-query values."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.data.sampling import Batch, BatchSource
from ml.experiments.compact.runs import with_label_noise
from ml.experiments.corrector.training_arms import CHECKS, JOINT, Arm
from ml.experiments.corrector.training_bases import AUGMENTATION, Ground, as_input, sampling
from ml.experiments.data.parts import evenly
from ml.experiments.ledger import RunRecord
from ml.methods.corrector.agreement import agreement
from ml.methods.corrector.baselines import CachedTargets
from ml.methods.corrector.catalogue import Catalogue, Encodes
from ml.methods.corrector.config import FitConfig as CorrectorFit
from ml.methods.corrector.joint import CorrectedCache, warmed_up
from ml.methods.corrector.training import CatalogueNegatives, CatalogueNegativesTrainer
from ml.models.encoder import ImageEncoder
from ml.training.loop import FitConfig, Logs, fit

BATCH = 60
ASKED = 100  # queries whose choice of negatives is compared with the fresh one
FINAL_PAIRS = 2_000  # encoded once training has ended, for the map that the catalogue is exported by
_CHUNK = 512
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Task:
    """One run; the base encoder is trained when it is asked for."""

    arm: Arm
    ground: Ground
    setting: str
    seed: int
    base: Callable[[], ImageEncoder]
    precision: str


def measure(task: Task, _checkpoint: Path) -> RunRecord:
    """The row. `recall_at_1`: of the fine-tuned encoder, its catalogue encoded anew; `_view`: in what the policy makes
    of its cache at the end (for a corrector: the raw cache mapped); `_exported`: in the catalogue corrected by a last
    fit; `_stale`: in the untouched cache; `_base`: of the base in its own. `overlap`, `total_variation`, `divergence`:
    of the view with fresh embeddings, mean over CHECKS moments of training; `_stale`: of the untouched cache at the
    same moments. `gap_closed` is overlap less `overlap_stale`, `gap` what there was to close. Encodes as
    ml.methods.corrector.catalogue counts them.
    """
    started = time.monotonic()
    run = _Run(task)
    base_embeddings = run.embedded_queries()
    seconds = run.train()
    fresh = run.catalogue.everything(purpose="measured")
    queries = run.embedded_queries()
    per_query = {
        "recall_at_1": run.recalls(queries, fresh),
        "recall_at_1_stale": run.recalls(queries, run.cache),
        "recall_at_1_base": run.recalls(base_embeddings, run.cache),
    }
    values: dict[str, float | int | str] = {
        "items": len(run.catalogue), "training_seconds": round(seconds, 2),
        "staleness": float((fresh - run.cache.float()).square().sum(dim=1).mean()),
    }  # fmt: skip
    if run.watched is not None:
        per_query |= run.watched.per_query(len(task.ground.queries))
        per_query["recall_at_1_view"] = run.recalls(queries, run.watched.view())
    if isinstance(run.policy, CorrectedCache):
        report = run.policy.report()
        values |= {"probe_ratio": report.ratio, "fallen_back": int(run.policy.watch.alert is not None)}
        fitted = warmed_up(run.catalogue, run.cache, CorrectorFit(), pairs=FINAL_PAIRS, seed=task.seed)
        exported = torch.from_numpy(fitted.corrector.corrected(run.cache.numpy()))
        per_query["recall_at_1_exported"] = run.recalls(queries, exported)
        values["exported_ratio"] = fitted.report.ratio
    counted: Encodes = run.catalogue.encodes
    values |= {"trained_encodes": counted.trained, "extra_encodes": counted.extra}
    means = {metric: float(np.nanmean(found)) for metric, found in per_query.items()}
    return RunRecord(
        name=task.arm.name, setting=task.setting, seed=task.seed, values=values | means, per_query=per_query,
        seconds=time.monotonic() - started, items=task.ground.items,
    )  # fmt: skip


class _Run:
    """Encoder, catalogue, stale cache and policy of one fine-tuning."""

    def __init__(self, task: Task) -> None:
        self.task, ground = task, task.ground
        self.entries = with_label_noise(ground.entries, task.arm.noise, task.seed)
        self.encoder = task.base().eval()
        self.catalogue = Catalogue(ground.content, self.entries.labels, self.encoder)
        self.cache = self.catalogue.everything(
            purpose="measured"
        ).half()  # there already, so charged to nobody
        self.policy = task.arm.policy(self.catalogue, self.cache, task.seed)
        self.watched: Watched | None = None
        if task.arm.has_view and isinstance(self.policy, CachedTargets | CorrectedCache):
            self.watched = Watched(self.policy, self)

    def train(self) -> float:
        """Seconds of the processor, without what was only looked at."""
        arm, task = self.task.arm, self.task
        negatives = CatalogueNegatives(
            self.catalogue,
            self.watched or self.policy,
            inverse_temperature=arm.selection.inverse_temperature,
            seed=task.seed,
        )
        config = FitConfig(
            epochs=1, learning_rate=arm.learning_rate, warmup_epochs=0.05, ema_decay=0.0, precision=task.precision
        )  # fmt: skip
        trainer = CatalogueNegativesTrainer(self.encoder, negatives)
        started = time.process_time()
        fit(trainer, _Batches(self._source(), arm.steps), config)
        looked = self.watched.seconds if self.watched else 0.0
        return time.process_time() - started - looked

    def _source(self) -> BatchSource:
        drawn = sampling(len(self.entries.names), BATCH)
        return BatchSource(self.entries, drawn, AUGMENTATION, seed=self.task.seed, epochs=self.task.arm.steps)

    @torch.no_grad()
    def embedded_queries(self) -> Tensor:
        """(Q, D) by the encoder as it stands."""
        pixels = self.task.ground.queries.pixels
        return torch.cat([self.encoder(as_input(part))[1] for part in torch.split(pixels, _CHUNK)])

    def recalls(self, queries: Tensor, gallery: Tensor) -> Values:
        """(Q,) 1.0 where the nearest entry has the query's true label; of equals the first."""
        labels, asked = self.task.ground.entries.labels, self.task.ground.queries.labels
        rows = gallery.float()
        nearest = [(part @ rows.T).argmax(dim=1) for part in torch.split(queries, _CHUNK)]
        return np.asarray((labels[torch.cat(nearest)] == asked).numpy(), np.float64)


@dataclass(slots=True)
class Watched:
    """A policy whose view is compared, at some moments, with what fresh embeddings would have it choose."""

    policy: CachedTargets | CorrectedCache
    run: "_Run"
    seconds: float = 0.0
    found: list[dict[str, Values]] = field(default_factory=list)

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:
        """As Policy.choose."""
        chosen = self.policy.choose(queries, labels, step)
        if self._is_due(step):
            started = time.process_time()
            self.found.append(self._looked())
            self.seconds += time.process_time() - started
        return chosen

    def _is_due(self, step: int) -> bool:
        """CHECKS times, halfway between re-embeddings of a periodic arm and between refreshes of ours."""
        apart = max(1, self.run.task.arm.steps // CHECKS)
        return (step + JOINT.refresh // 2) % apart == 0

    def learn(self, ids: Tensor, trained: Tensor) -> Logs:
        """As Policy.learn."""
        return self.policy.learn(ids, trained)

    def view(self) -> Tensor:
        """(N, D) that the policy chooses by; of a corrector, brought up to date."""
        if isinstance(self.policy, CorrectedCache) and self.policy.watch.alert is None:
            return torch.from_numpy(self.policy.corrector.corrected(self.run.cache.numpy()))
        return self.policy.view

    def per_query(self, count: int) -> dict[str, Values]:
        """(Q,) means over the moments; NaN for queries that were not compared."""
        rows = evenly(np.arange(count), ASKED)
        values = {}
        for metric in self.found[0]:
            values[metric] = np.full(count, np.nan)
            values[metric][rows] = np.mean([moment[metric] for moment in self.found], axis=0)
        values["gap_closed"] = values["overlap"] - values["overlap_stale"]
        values["gap"] = 1 - values["overlap_stale"]
        return values

    def _looked(self) -> dict[str, Values]:
        run, asked = self.run, self.run.task.ground.queries
        rows = torch.from_numpy(evenly(np.arange(len(asked)), ASKED))
        fresh = run.catalogue.everything(purpose="measured")
        with torch.no_grad():
            queries = run.encoder(as_input(asked.pixels[rows]))[1]
        found: dict[str, Values] = {}
        selection = run.task.arm.selection
        for suffix, view in (("", self.policy.view), ("_stale", run.cache)):
            compared = agreement(
                queries, asked.labels[rows], view, fresh, run.entries.labels,
                count=selection.count, inverse_temperature=selection.inverse_temperature,
            )  # fmt: skip
            found |= {
                f"overlap{suffix}": compared.overlap,
                f"total_variation{suffix}": compared.total_variation,
                f"divergence{suffix}": compared.divergence,
            }
        return found


@dataclass(frozen=True, slots=True)
class _Batches:
    """The first `steps` batches of a source, epoch after epoch, as one epoch. See ml.training.loop.BatchStream."""

    source: BatchSource
    steps: int

    @property
    def steps_per_epoch(self) -> int:
        return self.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        return islice(chain.from_iterable(self.source.epoch(epoch + turn) for turn in count()), self.steps)
