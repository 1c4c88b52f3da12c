"""Which targets a query gets: the exact highest, or a fair draw, and never a true match."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ml.methods.corrector.config import Selection
from ml.methods.corrector.selection import selected, similarity_ceiling


def whole_numbers(count: int, dimension: int, *, seed: int) -> Tensor:
    """Small integers: their inner products are exact however they are summed, and often tie."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, (count, dimension))).float()


def choose(
    queries: Tensor, query_labels: Tensor, vectors: Tensor, labels: Tensor, **changes: object
) -> Tensor:
    return selected(
        queries, query_labels, vectors, labels,
        selection=Selection(**changes),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def by_sorting(
    queries: Tensor,
    query_labels: Tensor,
    vectors: Tensor,
    labels: Tensor,
    *,
    k: int,
    ceiling: float = math.inf,
) -> list[list[int]]:
    """Oracle: every score in a Python list, sorted by score and id."""
    found = []
    for query, own in zip(queries, query_labels, strict=True):
        scores = [float(query @ vector) for vector in vectors]
        allowed = [
            (-score, row)
            for row, score in enumerate(scores)
            if not (own >= 0 and labels[row] == own) and score <= ceiling
        ]
        rows = [row for _, row in sorted(allowed)][:k]
        found.append(rows + [-1] * (min(k, len(scores)) - len(rows)))
    return found


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 41, 60, 1_000])
@pytest.mark.parametrize("ceiling", [math.inf, 2.0])
def test_any_chunk_gives_what_sorting_everything_gives_ties_by_id(chunk: int, ceiling: float) -> None:
    """Invariant 4."""
    queries, vectors = whole_numbers(12, 6, seed=0), whole_numbers(60, 6, seed=1)
    query_labels, labels = torch.arange(12) % 4 - 1, torch.arange(60) % 3
    found = choose(queries, query_labels, vectors, labels, count=9, chunk=chunk, ceiling=ceiling)
    assert found.tolist() == by_sorting(queries, query_labels, vectors, labels, k=9, ceiling=ceiling)


def test_a_half_precision_view_is_searched_by_what_it_holds() -> None:
    queries, vectors = whole_numbers(5, 6, seed=0), whole_numbers(60, 6, seed=1)
    labels, others = torch.zeros(60, dtype=torch.int64), torch.ones(5, dtype=torch.int64)
    halves = choose(queries, others, vectors.half(), labels, count=9)
    assert halves.tolist() == by_sorting(queries, others, vectors, labels, k=9)


@pytest.mark.parametrize("sampling", ["top", "gumbel"])
def test_items_of_the_querys_label_are_never_selected_even_when_nothing_else_is_left(sampling: str) -> None:
    """Invariant 6."""
    vectors = whole_numbers(10, 6, seed=1)
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, -1])
    query_labels = torch.tensor([0, 1, 2, 5, -1])
    queries = vectors[:5]
    found = choose(queries, query_labels, vectors, labels, count=20, chunk=4, sampling=sampling)
    allowed = [
        [6, 7, 8, 9],
        [0, 1, 2, 3, 4, 5, 8, 9],
        [0, 1, 2, 3, 4, 5, 6, 7, 9],
        list(range(10)),
        list(range(10)),
    ]
    for row, rest in zip(found.tolist(), allowed, strict=True):
        assert sorted(row) == [-1] * (10 - len(rest)) + rest
        assert row[len(rest) :] == [-1] * (10 - len(rest))


def test_what_is_nearer_than_true_matches_are_is_taken_for_one() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.5, 0.5], [0.0, 1.0]])
    query, other, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([1]), torch.zeros(4, dtype=torch.int64)
    assert choose(query, other, vectors, labels, count=2).tolist() == [[0, 1]]
    assert choose(query, other, vectors, labels, count=2, ceiling=0.98).tolist() == [[2, 3]]


def test_the_ceiling_is_a_quantile_of_the_cosines_of_true_pairs() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1, -1, -1])  # pairs of label 0: 0.6, 0.0, 0.8
    assert similarity_ceiling(embeddings, labels, quantile=0.5) == pytest.approx(0.6)
    assert similarity_ceiling(embeddings, labels, quantile=1.0) == pytest.approx(0.8)
    assert similarity_ceiling(embeddings, torch.arange(6)) == math.inf


DRAWS = 20_000


@pytest.mark.parametrize("beta", [0.0, 1.5])
def test_draws_without_replacement_have_the_frequencies_of_the_softmax(beta: float) -> None:
    """Invariant 5; the second draw is from the softmax over what the first left. beta 0 is uniform."""
    vectors = torch.tensor([[1.0], [0.5], [0.0], [-0.5], [-1.0], [0.8]])
    labels = torch.tensor([0, 0, 0, 0, 0, 7])  # the last is a match and takes no share
    queries, own = torch.ones(DRAWS, 1), torch.full((DRAWS,), 7)
    found = choose(
        queries, own, vectors, labels, count=2, chunk=4, sampling="gumbel", inverse_temperature=beta
    )
    shares = torch.softmax(beta * vectors[:5, 0], dim=0).tolist()
    for first, second in itertools.permutations(range(5), 2):
        expected = shares[first] * shares[second] / (1 - shares[first])
        counted = int(((found[:, 0] == first) & (found[:, 1] == second)).sum()) / DRAWS
        assert abs(counted - expected) < 3.5 * math.sqrt(expected * (1 - expected) / DRAWS), (first, second)
    for row in range(5):
        counted = int((found[:, 0] == row).sum()) / DRAWS
        assert abs(counted - shares[row]) < 3 * math.sqrt(shares[row] * (1 - shares[row]) / DRAWS)


def test_a_draw_at_no_temperature_is_the_highest() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, vectors = torch.randn(10, 6, generator=generator), torch.randn(60, 6, generator=generator)
    labels, others = torch.zeros(60, dtype=torch.int64), torch.ones(10, dtype=torch.int64)
    highest = choose(queries, others, vectors, labels, count=5)
    cold = choose(queries, others, vectors, labels, count=5, sampling="gumbel", inverse_temperature=1e7)
    assert torch.equal(cold, highest)


def test_nothing_is_selected_when_nothing_is_asked_for_or_there() -> None:
    queries, others = torch.ones(3, 2), torch.zeros(3, dtype=torch.int64)
    labels = torch.ones(4, dtype=torch.int64)
    assert choose(queries, others, torch.ones(4, 2), labels, count=0).shape == (3, 0)
    assert choose(queries, others, torch.ones(0, 2), labels[:0], count=5).shape == (3, 0)


def test_settings_out_of_range_are_refused_with_their_value() -> None:
    with pytest.raises(ValueError, match="count is -1"):
        Selection(count=-1)
    with pytest.raises(ValueError, match="sampling is 'best', allowed: top, gumbel"):
        Selection(sampling="best")  # type: ignore[arg-type]
