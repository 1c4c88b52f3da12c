"""Judges the vectors of an arm on seen and on unseen classes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.hamming import HammingValues, hamming_values
from ml.evaluation.metrics import mean_of
from ml.evaluation.retrieval import RetrievalValues, retrieval_values
from ml.experiments.data import RetrievalTask

Values = NDArray[np.float64]
METRICS = ("map_at_1000", "map_at_100", "recall_at_1")  # the first of every view, the others of all entries


@dataclass(frozen=True, slots=True)
class Asked:
    """Which queries meet which entries: rows of the task's queries and gallery."""

    queries: NDArray[np.bool_]
    gallery: NDArray[np.bool_]


def views(task: RetrievalTask) -> dict[str, Asked]:
    """Name -> queries and entries: seen and unseen queries among all entries, and among their own kind."""
    unseen, everything = task.query_unseen, np.ones(len(task.gallery), dtype=np.bool_)
    return {
        "all": Asked(np.ones(len(unseen), dtype=np.bool_), everything),
        "seen_seen": Asked(~unseen, ~task.gallery_unseen),
        "unseen_unseen": Asked(unseen, task.gallery_unseen),
    }


def code_quality(codes: NDArray[np.uint8], task: RetrievalTask) -> dict[str, Values]:
    """Per query (Q,): mAP at 100 and 1000 and Recall@1 by Hamming distance; NaN where a view leaves a query out."""
    return _by_view(hamming_values, codes, task)


def float_quality(embeddings: NDArray[np.float32], task: RetrievalTask) -> dict[str, Values]:
    """The same of the full scan by cosine."""
    return _by_view(partial(retrieval_values, deep=False, thousand=True), embeddings, task)


def _by_view(
    measure: Callable[..., HammingValues | RetrievalValues],
    vectors: NDArray[np.uint8] | NDArray[np.float32],
    task: RetrievalTask,
) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for view, asked in views(task).items():
        values = measure(
            vectors[task.queries[asked.queries]], task.query_labels[asked.queries],
            vectors[task.gallery[asked.gallery]], task.gallery_labels[asked.gallery],
        ).per_query()  # fmt: skip
        for metric in METRICS if view == "all" else METRICS[:1]:
            found[f"{metric}_{view}"] = _spread(values[metric], asked.queries)
    return found | _by_kind(found, task)


def _by_kind(found: dict[str, Values], task: RetrievalTask) -> dict[str, Values]:
    """`<metric>_seen` and `<metric>_unseen`: the queries of either kind among all entries."""
    split: dict[str, Values] = {}
    for metric in METRICS:
        own = found[f"{metric}_all"]
        split[f"{metric}_seen"] = np.where(task.query_unseen, np.nan, own)
        split[f"{metric}_unseen"] = np.where(task.query_unseen, own, np.nan)
    return split


def _spread(values: Values, chosen: NDArray[np.bool_]) -> Values:
    spread = np.full(len(chosen), np.nan)
    spread[chosen] = values
    return spread


def macro(values: Values, labels: NDArray[np.int64]) -> float:
    """Mean over classes of the mean over their queries: where rare classes count as much as common ones."""
    means = [mean_of(values[labels == label])[0] for label in np.unique(labels[~np.isnan(values)])]
    return float(np.mean(means)) if means else float("nan")
