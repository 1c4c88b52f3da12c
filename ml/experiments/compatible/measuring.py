"""What queries of one encoder find among entries of another: by embeddings, by codes, and by both together."""

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.experiments.corrector.serving_encoders import Encoded
from ml.experiments.corrector.serving_gallery import Upgrade as Serving
from ml.experiments.data import ClassSplit, RetrievalTask
from ml.methods.compatible.old_space import OldSpace

Values = NDArray[np.float64]
CROWDED_SHARE = 0.25


def found_by(task: RetrievalTask, asking: Encoded, answering: Encoded, name: str) -> dict[str, Values]:
    """`<name>_map` over the full ranking and `<name>_recall_at_1`, (Q,), of embeddings."""
    found = retrieval_values(
        asking.embeddings[task.queries], task.query_labels, answering.embeddings[task.gallery],
        task.gallery_labels,
    )  # fmt: skip
    assert found.map is not None
    return {f"{name}_map": found.map, f"{name}_recall_at_1": found.recall_at_1}


def found_by_codes(task: RetrievalTask, asking: Encoded, answering: Encoded, name: str) -> dict[str, Values]:
    """`code_<name>_map`, (Q,), by Hamming distance."""
    asked, entries = signs_of(asking.codes[task.queries]), signs_of(answering.codes[task.gallery])
    found = retrieval_values(asked, task.query_labels, entries, task.gallery_labels)
    assert found.map is not None
    return {f"code_{name}_map": found.map}


def fused_answers(split: ClassSplit, asking: Encoded, answering: Encoded, name: str) -> dict[str, Values]:
    """`fused_<name>_map` and `_recall_at_1`, (Q,): calibrated on the choosing task, read on the final one."""
    serving = Serving(split, split.final, answering, asking)
    entries = serving.full_entries() if answering is asking else serving.stale_entries()
    found = serving.asked(asking, entries, np.arange(len(split.final.queries)))
    return {f"fused_{name}_map": found.map, f"fused_{name}_recall_at_1": found.recall_at_1}


def crowded_contrast(task: RetrievalTask, values: Values, space: OldSpace) -> Values:
    """(Q,) weights times values, whose mean over queries is the mean of the queries of the most crowded quarter of the
    old classes minus that of the other classes' queries. NaN for a query of a class without a prototype.
    """
    nearest = space.nearest().numpy()
    known = np.flatnonzero(np.isfinite(nearest))
    edge = np.quantile(nearest[known], 1 - CROWDED_SHARE)
    own = np.where(task.query_unseen, -1, task.query_labels)
    judged = ~np.isnan(values) & (own >= 0) & np.isin(own, known)
    crowded = judged & (nearest[own] >= edge)
    rest = judged & ~crowded
    count = judged.sum()
    weights = np.where(crowded, count / max(1, crowded.sum()), -count / max(1, rest.sum()))
    return np.where(judged, weights * values, np.nan)


def by_knowledge(
    task: RetrievalTask, old: NDArray[np.bool_], new: NDArray[np.bool_], values: Values, name: str
) -> dict[str, float]:
    """Means over queries of classes that both encoders learned, one of them, or none: `<name>_both`, `_new`, ..."""
    labels = np.where(task.query_unseen, 0, task.query_labels)
    by_old, by_new = (flags[labels] & ~task.query_unseen for flags in (old, new))
    kinds = {
        "both": by_old & by_new, "new": by_new & ~by_old, "old": by_old & ~by_new, "unseen": ~by_old & ~by_new,
    }  # fmt: skip
    return {
        f"{name}_{kind}": float(np.nanmean(values[chosen])) for kind, chosen in kinds.items() if chosen.any()
    }
