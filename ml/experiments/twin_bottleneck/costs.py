"""What a two-stage answer loses against a full float scan, and how many bytes it reads: C5."""

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.retrieval import retrieval_values
from ml.evaluation.two_stage_cost import full_scan_bytes, two_stage_curve
from ml.experiments.data import RetrievalTask
from ml.experiments.twin_bottleneck.heads import Vectors

Values = NDArray[np.float64]

BYTES_OF_FLOAT = full_scan_bytes(1, 128)  # an entry's float32 embedding
SHARES = (5, 10, 15, 20, 30)  # a two-stage query reads 1 / this of a full float scan
MIXES = tuple(round(0.1 * step, 1) for step in range(11))  # share of the code in the fused score


def chosen_mix(vectors: Vectors, task: RetrievalTask) -> float:
    """Share of the code in the fused score, [0, 1], by mAP@100 of full fused scans; `task` is the choosing one.

    As in the product's calibration, classes that were never trained on have half of the say: codes know the others
    so well that they alone would be asked.
    """
    quality = {mix: _balanced(fused_scan(vectors, task, mix), task.query_unseen) for mix in MIXES}
    return max(quality, key=lambda mix: quality[mix])


def _balanced(values: Values, unseen: NDArray[np.bool_]) -> float:
    """Mean of the means over seen and over unseen queries, of those kinds that are there."""
    return float(np.mean([np.nanmean(values[kind]) for kind in (unseen, ~unseen) if kind.any()]))


def fused_scan(vectors: Vectors, task: RetrievalTask, mix: float) -> Values:
    """(Q,) mAP@100 of all entries by mix * code similarity + (1 - mix) * cosine; mix 0 is the float scan."""
    columns = vectors.embeddings
    if mix > 0:
        signs = np.unpackbits(vectors.codes, axis=1).astype(np.float32) * 2 - 1
        # The order is the same at any scale; unscaled signs keep ties between codes exact.
        weight = np.float32(((1 - mix) / mix * signs.shape[1]) ** 0.5)
        columns = np.hstack([signs, vectors.embeddings * weight])
    return retrieval_values(
        columns[task.queries], task.query_labels, columns[task.gallery], task.gallery_labels, deep=False
    ).map_at_100


def pool_of(share: int, entries: int, *, code_bytes: int, embedding_bytes: int) -> int:
    """Entries whose embeddings may be read so that, with all codes, 1 / share of a float scan is read."""
    return max(0, int((BYTES_OF_FLOAT / share - code_bytes) * entries / embedding_bytes))


def two_stages(
    vectors: Vectors, task: RetrievalTask, mix: float
) -> tuple[dict[str, Values], dict[str, float]]:
    """Per query mAP@100 of the float scan, the full fused scan and each two-stage answer; pools and bytes.

    Metrics end in _seen and _unseen: all entries, queries of either kind.
    """
    entries, width = len(task.gallery), vectors.embeddings.shape[1]
    pools = {
        share: pool_of(share, entries, code_bytes=vectors.codes.shape[1], embedding_bytes=2 * width)
        for share in SHARES
    }
    curve = two_stage_curve(
        vectors.codes[task.queries], vectors.embeddings[task.queries], task.query_labels,
        vectors.codes[task.gallery], vectors.embeddings[task.gallery], task.gallery_labels,
        pool_sizes=tuple(pools.values()), code_weight=mix, embedding_weight=1 - mix,
    )  # fmt: skip
    found = {"float_scan": fused_scan(vectors, task, 0.0), "fused_scan": fused_scan(vectors, task, mix)}
    values: dict[str, float] = {"mix": mix}
    for share, pool, point in zip(SHARES, pools.values(), curve, strict=True):
        found[f"two_stage_{share}"] = point.map_at_100
        values |= {f"pool_{share}": pool, f"bytes_{share}": point.bytes_read}
    split = {
        f"{name}_{kind}": np.where(task.query_unseen == (kind == "unseen"), own, np.nan)
        for name, own in found.items()
        for kind in ("seen", "unseen")
    }
    return split, values
