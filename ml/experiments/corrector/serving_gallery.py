"""A stored gallery on its way from one encoder to the next, and what queries find in it at each station.

Entries carry codes and embeddings of their producer; codes are never corrected. The fused answer ranks by the
log-odds of relevance, calibrated for each pair of query version and producer, corrected ones apart: on the task that
settings are chosen by, never on the one that is reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.experiments.corrector.serving_encoders import Encoded, Role, encoded_by
from ml.experiments.data import ClassSplit, Ids, RetrievalTask
from ml.experiments.data.parts import evenly
from ml.experiments.protocol import Options, PlannedRun
from ml.models.corrector import Corrector
from ml.protocol import Embeddings
from ml.training.calibration import Fusion, Similarities, fit_fusion

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
MIXES = tuple(round(0.1 * step, 1) for step in range(11))
FITTED_ON = 200  # queries of trained and of held-out classes each, evenly spaced
# Nearest by code that a calibration is fitted to. With the product's 200 the candidates of codes that do not compare
# are drawn at random, those of codes that do are the hard ones, and the log-odds of a mixed gallery do not agree.
FIT_POOL = 1_000


class Found(NamedTuple):
    """(Q,) each in [0, 1], NaN for a query without a relevant entry: mAP over the full ranking and Recall@1 of the
    fused answer.
    """

    map: Values
    recall_at_1: Values


@dataclass(frozen=True, slots=True)
class Entries:
    """N entries. signs (N, L) of -1 / +1 and embeddings (N, D) unit, float32; fusions: how each producer's entries
    are read, producers (N,) places in it.
    """

    signs: NDArray[np.float32]
    embeddings: Embeddings
    producers: Ids
    fusions: tuple[Fusion, ...]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An old and a new encoder's view of one split, and the task that is measured (final, or to choose: choosing)."""

    split: ClassSplit
    task: RetrievalTask
    old: Encoded
    new: Encoded

    def stale_entries(self) -> Entries:
        """The gallery as the old encoder left it, asked by the new one; by cosine alone where nothing compares."""
        try:
            fusion = self._fusion(self.new, self.old)
        except ValueError:  # relevance falls with similarity
            fusion = Fusion(intercept=0.0, code_weight=0.0, embedding_weight=1.0)
        return self._single(self.old, self.old.embeddings, fusion)

    def old_entries(self) -> Entries:
        """The same, asked by the old encoder: the system before the upgrade."""
        return self._single(self.old, self.old.embeddings, self._fusion(self.old, self.old))

    def full_entries(self) -> Entries:
        """Every image encoded anew."""
        return self._single(self.new, self.new.embeddings, self._fusion(self.new, self.new))

    def corrected_entries(self, corrector: Corrector) -> Entries:
        """Every embedding corrected, codes as they were."""
        moved = Encoded(self.old.codes, corrector.corrected(self.old.embeddings), 0.0)
        return self._single(self.old, moved.embeddings, self._fusion(self.new, moved))

    def _single(self, codes: Encoded, embeddings: Embeddings, fusion: Fusion) -> Entries:
        rows = self.task.gallery
        producers = np.zeros(len(rows), np.int64)
        return Entries(signs_of(codes.codes[rows]), embeddings[rows], producers, (fusion,))

    def _fusion(self, asking: Encoded, answering: Encoded) -> Fusion:
        """The calibration of one producer's entries for the queries of `asking`."""
        task = self.split.choosing
        rows = [evenly(np.flatnonzero(task.query_unseen == unseen), FITTED_ON) for unseen in (False, True)]
        pairs = [similarities(task, chosen, asking, answering) for chosen in rows if len(chosen)]
        return fit_fusion(pairs[0], pairs[-1], pool=FIT_POOL, mixes=MIXES)

    def asked(self, asking: Encoded, entries: Entries, queries: Ids) -> Found:
        """The fused answers of `queries`, positions in the task's."""
        rows, labels = self.task.queries[queries], self.task.query_labels[queries]
        constant = np.ones((len(rows), 1), np.float32)
        vectors = np.hstack([signs_of(asking.codes[rows]), asking.embeddings[rows], constant])
        found = retrieval_values(vectors, labels, fused_vectors(entries), self.task.gallery_labels)
        assert found.map is not None
        return Found(found.map, found.recall_at_1)

    def asked_by_cosine(self, asking: Encoded, entries: Entries, queries: Ids) -> Found:
        """The same by embeddings alone."""
        rows, labels = self.task.queries[queries], self.task.query_labels[queries]
        found = retrieval_values(
            asking.embeddings[rows], labels, entries.embeddings, self.task.gallery_labels
        )
        assert found.map is not None
        return Found(found.map, found.recall_at_1)


def similarities(task: RetrievalTask, chosen: Ids, asking: Encoded, answering: Encoded) -> Similarities:
    """Of the chosen queries of a task with all of its entries."""
    rows, codes = task.queries[chosen], signs_of(answering.codes[task.gallery])
    return Similarities(
        code=signs_of(asking.codes[rows]) @ codes.T / np.float32(codes.shape[1]),
        cosine=asking.embeddings[rows] @ answering.embeddings[task.gallery].T,
        relevant=task.query_labels[chosen][:, None] == task.gallery_labels,
    )


def fused_vectors(entries: Entries) -> NDArray[np.float32]:
    """(N, L + D + 1): their inner product with a query's signs, embedding and 1 is the log-odds of relevance."""
    bits = entries.signs.shape[1]
    code, cosine, constant = (
        np.array([getattr(fusion, name) for fusion in entries.fusions], np.float32)[entries.producers, None]
        for name in ("code_weight", "embedding_weight", "intercept")
    )
    return np.hstack([entries.signs * (code / np.float32(bits)), entries.embeddings * cosine, constant])


def backfilled(old: Entries, fresh: Entries, encoded: Flags) -> Entries:
    """`old` with the entries that are encoded anew in place; encoded (N,). Both of one producer each."""
    return Entries(
        signs=np.where(encoded[:, None], fresh.signs, old.signs),
        embeddings=np.where(encoded[:, None], fresh.embeddings, old.embeddings),
        producers=encoded.astype(np.int64),
        fusions=(old.fusions[0], fresh.fusions[0]),
    )


def first_of(order: Ids, share: float) -> Flags:
    """(N,) rows in the order of encoding them -> (N,) whether a row is among the first `share`."""
    encoded = np.zeros(len(order), np.bool_)
    encoded[order[: round(share * len(order))]] = True
    return encoded


@dataclass(frozen=True, slots=True)
class Task:
    """One row: who follows the old encoder, in which split. runs: those of the encoders."""

    split: ClassSplit
    runs: Mapping[Role, PlannedRun]
    kind: Role
    seed: int
    options: Options

    @property
    def setting(self) -> str:
        """Of its row."""
        return f"serving/{self.split.name}/{self.kind}"

    def upgrade(self) -> Upgrade:
        """The final task's, both encoders' vectors at hand."""
        old, new = (encoded_by(self.runs[role], self.options) for role in ("old", self.kind))
        return Upgrade(self.split, self.split.final, old, new)
