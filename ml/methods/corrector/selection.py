"""Which targets a query is trained against: exact top-k or a draw over the whole catalogue, in bounded memory."""

import torch
from torch import Tensor

from ml.methods.corrector.config import Selection


@torch.no_grad()
def selected(
    queries: Tensor,
    query_labels: Tensor,
    vectors: Tensor,
    labels: Tensor,
    *,
    selection: Selection,
    generator: torch.Generator,
) -> Tensor:
    """(B, k) int64 ids into vectors, highest first, -1 where a query has no more that it may be trained against.

    queries (B, D), vectors (N, D): unit L2 norm. query_labels (B,), labels (N,): equal ones are never selected, nor is
    anything above selection.ceiling. sampling "top": the k highest inner products, ties by the smaller id, whatever
    the chunk. "gumbel": k without replacement from the softmax of beta times inner product over all that is allowed
    (Gumbel-top-k); what is drawn depends on the chunk, its distribution does not. Source: method file, section 2.
    """
    best = queries.new_empty(len(queries), 0)
    ids = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(vectors), selection.chunk):
        part = slice(start, start + selection.chunk)
        scores = queries @ vectors[part].to(queries.dtype).T  # (B, chunk)
        banned = forbidden(query_labels, labels[part]) | (scores > selection.ceiling)
        if selection.sampling == "gumbel":
            # The logarithm of an exponential draw is minus a Gumbel draw.
            noise = torch.empty_like(scores).exponential_(generator=generator).log_()
            scores = selection.inverse_temperature * scores - noise
        scores.masked_fill_(banned, -torch.inf)
        # Ids found before are the smaller ones and stand before, so that ties by column are ties by id.
        scores = torch.cat([best, scores], dim=1)
        numbers = torch.arange(start, start + len(labels[part])).expand(len(queries), -1)
        columns = highest(scores, selection.count)
        ids = torch.cat([ids, numbers], dim=1).gather(1, columns.clamp(min=0)).masked_fill(columns < 0, -1)
        best = scores.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, -torch.inf)
    return ids


def forbidden(query_labels: Tensor, labels: Tensor) -> Tensor:
    """(B,), (N,) -> (B, N) bool: the same known label, so a true match of the query and no negative."""
    return (query_labels[:, None] == labels) & (query_labels >= 0)[:, None]


def highest(scores: Tensor, k: int) -> Tensor:
    """(B, M) -> (B, min(k, M)) columns, highest score first, ties by column; -1 in place of scores of -inf."""
    k = min(k, scores.shape[1])
    columns = torch.full((len(scores), k), -1, dtype=torch.int64)
    if k == 0:
        return columns
    last = scores.topk(k, dim=1).values[:, -1:]  # which columns topk gives of equal scores is not defined
    rows, found = torch.nonzero((scores >= last) & (scores > -torch.inf), as_tuple=True)
    by_score = torch.sort(scores[rows, found], descending=True, stable=True).indices
    order = by_score[torch.sort(rows[by_score], stable=True).indices]
    rows, found = rows[order], found[order]
    counts = torch.bincount(rows, minlength=len(scores))
    place = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    kept = place < k
    columns[rows[kept], place[kept]] = found[kept]
    return columns


def similarity_ceiling(embeddings: Tensor, labels: Tensor, *, quantile: float = 0.999) -> float:
    """The quantile of cosine over all pairs of different items (n, D) with one known label: nearer than that, an item
    of another label is more likely an unmarked match. inf when no two items share a label. A sample will do: all
    pairs are held at once, and torch.quantile takes 16 million.
    """
    same = torch.triu(forbidden(labels, labels), diagonal=1)
    cosines = (embeddings @ embeddings.T)[same]
    return float(torch.quantile(cosines, quantile)) if len(cosines) else float("inf")
