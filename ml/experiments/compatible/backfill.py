"""Galleries on their way to a new encoder: mapped forward to an independent one, or encoded anew part by part.

Two rows for a setting and seed. `forward`: queries are of the encoder that was trained freely, entries those of the old
one as a map has moved them (FCT with and without side information, FastFill), encoded anew in several orders.
`backfill`: queries are of a compatible encoder, entries stay as they are until they are encoded anew. Only described.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from ml.evaluation.metrics import mean_of
from ml.evaluation.retrieval import retrieval_values
from ml.experiments.compatible.new_rows import Task
from ml.experiments.compatible.old_rows import VECTORS_FILE, encoded_from, old_system
from ml.experiments.corrector.serving_gallery import first_of
from ml.experiments.data import ClassSplit, Ids
from ml.experiments.data.parts import evenly
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.protocol import PlannedRun
from ml.methods.compatible.forward import Classifier, ForwardConfig, Stored, fit_forward_map
from ml.methods.compatible.forward_order import class_mean_distances, largest_first
from ml.protocol import Embeddings

FORWARD, PARTIAL = "forward", "backfill"
FCT_ORDERS = ("class_mean", "random")  # it expects no error of its own
SETTING_END = "/backfill"
SHARES = tuple(round(0.1 * step, 1) for step in range(11))
CURVE_QUERIES = 600  # evenly spaced: a curve only describes
# At the published settings a fit to the union's 6,073 images takes three minutes of a core. Chosen among what takes
# seconds, by the validation task of the union, larger trunk, one seed: more and longer steps of a narrower map.
CONFIG = ForwardConfig(width=128, epochs=20, batch=128, learning_rate=1e-2)
VERSION = 1  # of the measurement: another one measures anew


@dataclass(frozen=True, slots=True)
class Pair:
    """An old and a new encoder's view of every image of a split. stored: the old one's embeddings, its trunk's features
    as side information; new (N, D). learned (n,): entries that the new encoder learned from, which maps are fitted to;
    classifier: the new encoder's, with the labels of those.
    """

    split: ClassSplit
    stored: Stored
    new: Embeddings
    learned: Ids
    classifier: Classifier

    def labels(self) -> Ids:
        """(N of the gallery,) classes as learned, -1 elsewhere: what an order by classes may know."""
        found = np.full(len(self.new), -1)
        found[self.learned] = self.classifier.labels
        return found[self.split.final.gallery]


@dataclass(frozen=True, slots=True)
class Moved:
    """What a map makes of every image: embeddings (N, D) unit, and the logarithm of the expected squared distance."""

    embeddings: Embeddings
    log_errors: NDArray[np.float32]


class Found(NamedTuple):
    """Mean average precision over the full ranking: of every query, and of those of classes that were never learned."""

    every: float
    unseen: float


def planned_backfill(free: Task, compatible: Task) -> list[PlannedRun]:
    """Both rows; the tasks are of one place and seed, and their runs keep their vectors."""
    return [_planned(free, FORWARD), _planned(compatible, PARTIAL)]


def pair_of(task: Task) -> Pair:
    """The encoders of a row, trained now if the ledger lacks them."""
    place, split = task.place, task.place.split
    old, kept = old_system(place, task.seed), load(task.record().files[VECTORS_FILE])
    known = place.upgrade.new.known(split)
    rows = np.flatnonzero((known >= 0) & np.isin(split.train, split.final.gallery))
    centres = kept["centres"] / np.linalg.norm(kept["centres"], axis=1, keepdims=True)
    scaled = np.asarray(centres * place.heads.losses.scale, np.float32)
    return Pair(
        split, Stored(old.encoded.embeddings, place.features[0].vectors), encoded_from(kept).embeddings,
        split.train[rows], Classifier(scaled, known[rows]),
    )  # fmt: skip


def moved_by(
    pair: Pair, config: ForwardConfig, *, seed: int, has_side: bool, is_fastfill: bool = False
) -> Moved:
    """Of every image, by a map fitted to those that the new encoder learned from."""
    stored = pair.stored if has_side else replace(pair.stored, side=None)
    classifier = pair.classifier if is_fastfill else None
    fitted = fit_forward_map(
        stored.picked(pair.learned), pair.new[pair.learned], config, seed=seed, classifier=classifier
    )
    return Moved(*fitted.applied(stored))


def forward_values(pair: Pair, config: ForwardConfig, seed: int) -> dict[str, Value]:
    """mAP of every query by state of the gallery, and curves of the mapped galleries."""
    plain = moved_by(pair, config, seed=seed, has_side=False)
    beside = moved_by(pair, config, seed=seed, has_side=True)
    fastfill = moved_by(pair, config, seed=seed, has_side=True, is_fastfill=True)
    every = np.arange(len(pair.split.final.queries))
    states = {
        "cross": pair.stored.embeddings, "transformed": plain.embeddings, "transformed_side": beside.embeddings,
        "fastfill": fastfill.embeddings, "full": pair.new,
    }  # fmt: skip
    values: dict[str, Value] = {"fitted_to": len(pair.learned), "entries": len(pair.split.final.gallery)}
    old = found_map(pair, pair.stored.embeddings, every, asking=pair.stored.embeddings)
    for name, found in {
        "old": old,
        **{name: found_map(pair, own, every) for name, own in states.items()},
    }.items():
        values |= {f"{name}_map": found.every, f"{name}_map_unseen": found.unseen}
    values |= curves(pair, "fastfill", fastfill.embeddings, orders(pair, fastfill, seed))
    known = orders(pair, beside, seed)
    return values | curves(pair, "fct", beside.embeddings, {name: known[name] for name in FCT_ORDERS})


def partial_values(pair: Pair, config: ForwardConfig, seed: int) -> dict[str, Value]:
    """Curves of a gallery that the compatible encoder's queries find as it is. Its expected errors are FastFill's, from
    a map to the compatible encoder that moves nothing here.
    """
    fastfill = moved_by(pair, config, seed=seed, has_side=True, is_fastfill=True)
    raw = replace(fastfill, embeddings=pair.stored.embeddings)
    return curves(pair, "raw", raw.embeddings, orders(pair, raw, seed))


def orders(pair: Pair, moved: Moved, seed: int) -> dict[str, Ids]:
    """Name -> (N,) positions of the gallery, what to encode first before all else. `true`: by the squared distance that
    is left, which no one knows without encoding everything.
    """
    rows = pair.split.final.gallery
    entries = moved.embeddings[rows]
    left = np.square(entries.astype(np.float64) - pair.new[rows]).sum(axis=1)
    return {
        "predicted": largest_first(moved.log_errors[rows]),
        "class_mean": largest_first(class_mean_distances(entries, pair.labels())),
        "random": np.random.default_rng(seed).permutation(len(rows)),
        "true": largest_first(left),
    }


def curves(pair: Pair, name: str, start: Embeddings, ordered: Mapping[str, Ids]) -> dict[str, Value]:
    """`map_<name>_<order>_<percent>` of evenly spaced queries, and `area_<name>_<order>`, their mean over shares;
    `area_unseen_<name>_<order>`: that of queries of classes that were never learned.

    start (N, D): what entries are until they are encoded anew.
    """
    rows = pair.split.final.gallery
    queries = evenly(np.arange(len(pair.split.final.queries)), CURVE_QUERIES)
    ends = {0.0: found_map(pair, start, queries), 1.0: found_map(pair, pair.new, queries)}
    values: dict[str, Value] = {}
    for order, own in ordered.items():
        points = []
        for share in SHARES:
            entries = start.copy()
            encoded = rows[first_of(own, share)]
            entries[encoded] = pair.new[encoded]
            points.append(ends[share] if share in ends else found_map(pair, entries, queries))
            values[f"map_{name}_{order}_{round(100 * share)}"] = points[-1].every
        values[f"area_{name}_{order}"] = float(np.mean([point.every for point in points]))
        values[f"area_unseen_{name}_{order}"] = float(np.mean([point.unseen for point in points]))
    return values


def found_map(pair: Pair, entries: Embeddings, queries: Ids, *, asking: Embeddings | None = None) -> Found:
    """Of `queries`, positions in the task's; entries (N, D)."""
    task = pair.split.final
    vectors = (pair.new if asking is None else asking)[task.queries[queries]]
    found = retrieval_values(vectors, task.query_labels[queries], entries[task.gallery], task.gallery_labels)
    assert found.map is not None
    return Found(mean_of(found.map)[0], mean_of(found.map[task.query_unseen[queries]])[0])


def _planned(task: Task, name: str) -> PlannedRun:
    config = replace(CONFIG, epochs=1) if task.place.options.smoke else CONFIG
    identity: dict[str, Any] = {
        "parent": dict(task.planned().identity), "config": asdict(config), "shares": SHARES,
        "queries": CURVE_QUERIES, "version": VERSION,
    }  # fmt: skip
    setting = task.place.title + SETTING_END
    work = partial(_measured, task, name, config, setting)
    return PlannedRun(name=name, setting=setting, seed=task.seed, identity=identity, work=work)


def _measured(task: Task, name: str, config: ForwardConfig, setting: str, _checkpoint: Path) -> RunRecord:
    started, pair = time.monotonic(), pair_of(task)
    measure = forward_values if name == FORWARD else partial_values
    return RunRecord(
        name=name, setting=setting, seed=task.seed, values=measure(pair, config, task.seed),
        seconds=time.monotonic() - started,
    )  # fmt: skip
