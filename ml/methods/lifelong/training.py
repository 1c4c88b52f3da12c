"""Trains the heads against codes that are fixed and codes that are being solved for, in turns."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.data.sampling import Batch
from ml.losses.fixed_codes import (
    StoredPairs,
    alignment_loss,
    mean_output_loss,
    own_code_loss,
    pair_likelihood_loss,
)
from ml.methods.lifelong.code_solving import code_problem, first_codewords
from ml.methods.lifelong.config import NEW_ONLY_RATE, LifelongConfig
from ml.methods.lifelong.heads import CrossModalHeads, LabelNetwork, outputs_of, signs_of_logits
from ml.methods.lifelong.labels import Centring, LabelRegistry, LabelSet, similarity
from ml.methods.lifelong.lesson import Items, Memory, Texts
from ml.methods.lifelong.statistics import CodeStatistics, Signs, label_totals
from ml.methods.lifelong.targets import stored_pairs
from ml.methods.lifelong.text_targets import spoken_codes
from ml.training.loop import FitConfig, StepOutput

_TEXT_SEED = 7_919


@dataclass(frozen=True, slots=True)
class Subject:
    """What one training is about. items are in the order of their keys; stored: statistics of codes that stay
    (empty in a base stage); memory: what stands for their items; texts: of old and new items alike.
    """

    registry: LabelRegistry
    items: Items
    stored: CodeStatistics
    memory: Memory | None
    texts: Texts | None

    def label_sets(self) -> list[LabelSet]:
        """Every label set that a sample of this training may carry, sorted."""
        said = self.texts.sets if self.texts is not None else []
        return sorted({*self.items.sets, *self.stored.tallies, *said})


def centring_of(subject: Subject, config: LifelongConfig) -> Centring:
    """Over stored and new items; the plain cosine when the config asks for it."""
    if not config.is_centred:
        return Centring()
    stored = label_totals(subject.stored, subject.registry)
    own = subject.registry.rows(subject.items.sets).sum(axis=0)
    return Centring.of(own + stored.label_total, len(subject.items) + stored.items)


class SampleStream:
    """Batches of new and remembered features; labels number the samples: new item i is i, an old sample of label set
    u is n + u. An epoch depends on (seed, its number) alone.
    """

    def __init__(
        self, subject: Subject, sets: Sequence[LabelSet], config: LifelongConfig, *, seed: int
    ) -> None:
        self.subject, self.config, self.seed = subject, config, seed
        self.place = {labels: position for position, labels in enumerate(sets)}
        count = len(subject.items)
        self.new = min(count, config.max_new) if subject.stored.items else count
        share = min(config.replay_share, subject.stored.items / count)
        self.old = round(self.new * share) if subject.memory is not None else 0

    @property
    def steps_per_epoch(self) -> int:
        """At least one."""
        return max(1, (self.new + self.old) // self.config.batch)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """New items without repetition, old ones drawn, shuffled together."""
        rng = np.random.default_rng([self.seed, epoch])
        items, memory = self.subject.items, self.subject.memory
        rows = rng.permutation(len(items))[: self.new]
        features, samples = items.features[rows], rows
        if memory is not None and self.old:
            drawn, owners = memory.draw(self.old, rng)
            own = np.array([self.place[labels] for labels in memory.sets], np.int64)[owners]
            features, samples = np.concatenate([features, drawn]), np.concatenate([rows, len(items) + own])
        for chosen in np.array_split(rng.permutation(len(samples)), self.steps_per_epoch):
            yield Batch(images=torch.from_numpy(features[chosen]), labels=torch.from_numpy(samples[chosen]))


class _Parts(nn.Module):
    """What is optimised, and the new codes, which a resumed training needs too."""

    codes: Tensor

    def __init__(self, heads: CrossModalHeads, bridge: LabelNetwork | None, codes: Signs) -> None:
        super().__init__()
        self.heads, self.bridge = heads, bridge
        self.register_buffer("codes", torch.from_numpy(codes))


class FixedCodeTrainer:
    """Fits ml.training.loop.Trainer: heads by gradient within an epoch, new codes by coordinate descent between."""

    def __init__(
        self,
        subject: Subject,
        config: LifelongConfig,
        heads: CrossModalHeads,
        *,
        bridge: LabelNetwork | None,
        seed: int,
    ) -> None:
        self.subject, self.config, self.seed = subject, config, seed
        self.sets = subject.label_sets()
        place = {labels: position for position, labels in enumerate(self.sets)}
        self.rows = subject.registry.rows(self.sets)  # (U, L)
        self.own_sets = np.array([place[labels] for labels in subject.items.sets], np.int64)
        self.known = subject.stored.cleaned() if config.has_clean_targets else subject.stored
        self.centring = centring_of(subject, config)
        self.texts = None if subject.texts is None else _TextRows(subject.texts, place)
        self.parts = _Parts(heads, bridge, self._first_codes(heads, seed))
        self.parts.train()
        self.set_of_sample = torch.from_numpy(np.concatenate([self.own_sets, np.arange(len(self.sets))]))
        self.label_rows = torch.tensor(self.rows, dtype=torch.float32)
        self._new_codes_have_moved()

    def module(self) -> nn.Module:
        """Heads, label network and new codes."""
        return self.parts

    def encoder(self) -> CrossModalHeads:
        """The live heads."""
        return self.parts.heads

    def start_epoch(self, epoch: int) -> None:
        """A code step after every `round_epochs` epochs of the rounds; then the codes rest."""
        config = self.config
        self.generator = torch.Generator().manual_seed(_TEXT_SEED * (self.seed + 1) + epoch)
        self._new_codes_have_moved()  # a training taken up again has loaded them since
        if (
            0 < epoch <= config.rounds * config.round_epochs
            and epoch % config.round_epochs == 0
            and config.sweeps
        ):
            self._solve_codes(epoch)
            self._new_codes_have_moved()

    def training_step(self, batch: Batch) -> StepOutput:
        """The loss of section 6.2 over images, texts and, in the base stage, label sets."""
        config, heads = self.config, self.parts.heads
        sets = self.set_of_sample[batch.labels]
        outputs = heads(batch.images)
        loss = self._fixed_code_loss(outputs, sets, self.sample_codes[batch.labels])
        logs = {"image": float(loss.detach())}
        if self.texts is not None:
            rows, paired = self.texts.draw(sets, config.text_batch, self.generator)
            said = heads.text_outputs(self.texts.hashed[rows])
            own = self.words[self.texts.sets[rows]]
            text = self._fixed_code_loss(said, self.texts.sets[rows], own)
            aligned = alignment_loss(outputs[paired], said[: len(paired)])
            loss = loss + text + config.alignment_weight * aligned
            logs["text"] = float(text.detach())
        if self.parts.bridge is not None:
            bridge = self.parts.bridge(self.label_rows[sets])
            labelled = self._fixed_code_loss(bridge, sets, self.sample_codes[batch.labels])
            loss = loss + labelled + config.alignment_weight * alignment_loss(outputs, bridge)
            logs["label"] = float(labelled.detach())
        return StepOutput(loss=loss, logs=logs)

    def validation(self, items: Items) -> Callable[[nn.Module], float]:
        """Minus the pair loss of held-out items against stored and new codes as these stand; higher is better."""
        named = sorted(set(items.sets))
        place = {labels: position for position, labels in enumerate(named)}
        features = torch.from_numpy(items.features)
        sets = torch.tensor([place[labels] for labels in items.sets])

        @torch.no_grad()
        def value(heads: nn.Module) -> float:
            pairs = stored_pairs(self.totals, self.subject.registry, named, self.centring)
            return -float(pairs.loss(heads(features), sets))

        return value

    @property
    def codes(self) -> Signs:
        """(N, c) the new items' codes as they stand."""
        return self.parts.codes.numpy().copy()

    def _fixed_code_loss(self, outputs: Tensor, sets: Tensor, own: Tensor) -> Tensor:
        config = self.config
        if config.pair_loss == "squared":
            loss = self.pairs.loss(outputs, sets)
        else:
            loss = pair_likelihood_loss(outputs, self.words[self.in_use], self.shares, self.similar[sets])
        loss = loss + config.own_code_weight * own_code_loss(outputs, own)
        return loss + config.balance_weight * mean_output_loss(outputs)

    def _first_codes(self, heads: CrossModalHeads, seed: int) -> Signs:
        items = self.subject.items
        if not self.config.starts_from_labels:
            return signs_of_logits(outputs_of(heads.image, items.features))
        counts = sorted(Counter(items.sets).items())
        held = self.known if self.config.holds_stored_codes else CodeStatistics(self.known.code_bits)
        words = first_codewords(held, self.subject.registry, counts, self.centring, seed=seed)
        return np.stack([words[labels] for labels in items.sets])

    def _new_codes_have_moved(self) -> None:
        """Everything that is derived from the new codes."""
        config, subject = self.config, self.subject
        new = CodeStatistics.of(subject.items.sets, self.parts.codes.numpy())
        known = self.known if config.holds_stored_codes else CodeStatistics(self.known.code_bits)
        every = known + new
        self.totals = label_totals(every, subject.registry)
        self.pairs: StoredPairs = stored_pairs(self.totals, subject.registry, self.sets, self.centring)
        self.words = torch.from_numpy(spoken_codes(every, self.sets)).float()
        self.sample_codes = torch.cat([self.parts.codes.float(), self.words])
        if config.pair_loss == "likelihood":
            used = [row for row, labels in enumerate(self.sets) if labels in every.tallies]
            self.in_use = torch.tensor(used)
            share = [every.tallies[self.sets[row]].items / every.items for row in used]
            self.shares = torch.tensor(share, dtype=torch.float32)
            self.similar = torch.tensor(similarity(self.rows, self.rows[used]), dtype=torch.float32)

    def _solve_codes(self, epoch: int) -> None:
        """Coordinate descent on the codes of a sample of new items; the others follow their label set's own code."""
        config, items = self.config, self.subject.items
        rng = np.random.default_rng([self.seed, epoch, 1])
        rows = np.sort(rng.permutation(len(items))[: config.code_samples])
        outputs = self._joint_outputs(rows)
        sets = self.own_sets[rows]
        codes = self.parts.codes.numpy()
        represented = np.unique(self.own_sets)
        words = self.words.numpy().astype(np.int8)
        asked = np.concatenate([sets, represented])
        problem = code_problem(
            outputs, self.rows[sets], np.concatenate([outputs, np.zeros((len(represented), outputs.shape[1]))]),
            self.rows[asked], self.centring, alpha=config.alpha,
            stored=label_totals(self.known, self.subject.registry) if config.holds_stored_codes else None,
        )  # fmt: skip
        solved = problem.solved(np.concatenate([codes[rows], words[represented]]), sweeps=config.sweeps)
        position = np.zeros(len(self.sets), np.int64)
        position[represented] = np.arange(len(represented))
        moved = solved[len(rows) :][position[self.own_sets]]
        moved[rows] = solved[: len(rows)]
        self.parts.codes.copy_(torch.from_numpy(moved))

    @torch.no_grad()
    def _joint_outputs(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(m, c): the mean of what image, text and label network say of these new items."""
        heads = self.parts.heads
        found = heads(torch.from_numpy(self.subject.items.features[rows]))
        total, said = found.clone(), torch.ones(len(rows), 1)
        sets = torch.from_numpy(self.own_sets[rows])
        if self.texts is not None:
            paired, texts = self.texts.partners(sets, self.generator)
            total[paired] += heads.text_outputs(self.texts.hashed[texts])
            said[paired] += 1
        if self.parts.bridge is not None:
            total += self.parts.bridge(self.label_rows[sets])
            said += 1
        return np.asarray((total / said).double().numpy())


class _TextRows:
    """Texts ordered by label set, so that a partner of each sample is found without a search."""

    def __init__(self, texts: Texts, place: dict[LabelSet, int]) -> None:
        sets = np.array([place[labels] for labels in texts.sets], np.int64)
        order = np.argsort(sets, kind="stable")
        self.sets = torch.from_numpy(sets[order])
        self.hashed = torch.from_numpy(texts.hashed[order])
        counts = np.bincount(sets, minlength=len(place))
        self.counts = torch.from_numpy(counts)
        self.starts = torch.from_numpy(np.cumsum(counts) - counts)

    def partners(self, sets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B,) label sets -> positions of those that have a text, and one of its texts for each, drawn."""
        paired = torch.nonzero(self.counts[sets] > 0).flatten()
        own = sets[paired]
        drawn = torch.rand(len(paired), generator=generator)
        return paired, self.starts[own] + (drawn * self.counts[own]).long()

    def draw(self, sets: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` texts: first partners of up to half as many samples, then any; and those samples' positions."""
        first = torch.randperm(len(sets), generator=generator)[: count // 2]
        paired, rows = self.partners(sets[first], generator)
        rest = torch.randint(len(self.sets), (count - len(rows),), generator=generator)
        return torch.cat([rows, rest]), first[paired]


def fit_config(config: LifelongConfig, *, is_update: bool) -> FitConfig:
    """The loop's settings for a base stage or an update."""
    slow = is_update and config.mode == "new_only" and config.holds_stored_codes
    return FitConfig(
        epochs=config.epochs,
        learning_rate=config.learning_rate * (NEW_ONLY_RATE if slow else 1.0),
        warmup_epochs=0.5,
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        patience=config.patience,
    )


def plain(history: tuple[dict[str, float], ...]) -> tuple[dict[str, Any], ...]:
    """For JSON."""
    return tuple({name: round(value, 6) for name, value in logs.items()} for logs in history)
