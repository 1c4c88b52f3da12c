"""Claim C6g's task: photos asked for by words, and texts asked for by photos.

A shopper types what a label says. Whether words alone can answer depends on the item's text: where it has none
of the query's words, BM25 is blind, and that is where codes must show what they add.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.data.words import label_words, words_of
from ml.evaluation.metrics import Ranking, average_precision, mean_of
from ml.evaluation.text_search import Bm25Index, fused
from ml.experiments.data.parts import Described

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
Signs = NDArray[np.float32]
Scores = NDArray[np.float64]
Values = NDArray[np.float64]

MAX_SHARE = 0.6  # of the items: a label that more of them carry finds nothing
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class WordsTask:
    """Q queries of words, N photos of M items, one text to an item."""

    queries: tuple[str, ...]  # (Q,) the words of one or more labels that read the same
    texts: tuple[str, ...]  # (M,)
    item_of: Ids  # (N,) place of a photo's item in `texts`
    relevant: Flags  # (Q, N) the photo carries a label of the query
    lacking: Flags  # (Q, N) relevant, and the item's text has none of the query's words
    bm25: Scores  # (Q, M) of the items' texts
    leaf_of: Ids  # (N,) leaf category of a photo
    text_leaf: Ids  # (M,) leaf category of a text's item, of the same numbering

    def __len__(self) -> int:
        return len(self.item_of)


def words_task(described: Sequence[Described], items: Ids) -> WordsTask:
    """The task over photos (N,) of items (N,), any ids. Labels that more than 60 % of the items carry are left out.

    A photo is relevant by its own labels: a red and a blue photo of one product answer other queries. Raises
    ValueError on no photo, lengths that differ and two texts of one item.
    """
    if len(described) != len(items) or not len(items):
        raise ValueError(
            f"{len(described)} descriptions of {len(items)} photos, expected as many, at least one"
        )
    _, firsts, item_of = np.unique(items, return_index=True, return_inverse=True)
    texts = tuple(described[row].text for row in firsts)
    for row, place in enumerate(item_of):
        if described[row].text != texts[place]:
            raise ValueError(
                f"item {items[row]} has two texts: {texts[place][:40]!r} and {described[row].text[:40]!r}"
            )
    carriers = {
        words: rows
        for words, rows in sorted(_carriers(described).items())
        if len(np.unique(item_of[rows])) <= MAX_SHARE * len(texts)
    }
    relevant = np.zeros((len(carriers), len(items)), dtype=np.bool_)
    for query, rows in enumerate(carriers.values()):
        relevant[query, rows] = True
    index = Bm25Index(texts)
    bm25 = np.stack([index.scores(words) for words in carriers]) if carriers else np.zeros((0, len(texts)))
    leaf_of = np.unique([one.categories[-1] for one in described], return_inverse=True)[1]
    return WordsTask(
        queries=tuple(carriers), texts=texts, item_of=item_of, relevant=relevant,
        lacking=relevant & (bm25 == 0)[:, item_of], bm25=bm25, leaf_of=leaf_of, text_leaf=leaf_of[firsts],
    )  # fmt: skip


def _carriers(described: Sequence[Described]) -> dict[str, Ids]:
    """Folded words of a label -> rows of the photos that carry it or one of the same words ("Tees", "style:tee")."""
    by_label: dict[str, list[int]] = {}
    for row, one in enumerate(described):
        for label in {*one.categories, *one.tags}:
            by_label.setdefault(" ".join(words_of(label_words(label))), []).append(row)
    phrases = sorted(by_label)
    alike: dict[str, list[str]] = {}
    for words, stems in zip(phrases, Bm25Index(phrases).stems(), strict=True):
        alike.setdefault(stems, []).append(words)
    alike.pop("", None)
    return {
        min(group, key=len): np.unique([row for words in group for row in by_label[words]])
        for group in alike.values()
    }


def code_scores(queries: Signs, entries: Signs) -> Scores:
    """Codes as +-1, (Q, L) and (N, L) -> code similarity (Q, N) = 1 - 2 Hamming / L; exactly tied where equal."""
    similarity: Scores = (queries @ entries.T / queries.shape[1]).astype(np.float64)
    return similarity


def bm25_scores(task: WordsTask) -> Scores:
    """(Q, N): each photo by the text of its item. Photos of one item are tied."""
    return task.bm25[:, task.item_of]


def borrowed_bm25(task: WordsTask, texts: Sequence[str]) -> Scores:
    """(N, M) BM25 of the task's texts for photos that borrow words, as a photo has none of its own.

    texts: (N,) the text of the item on the stored photo that is nearest to each photo. This is what a shop
    without a common code space can do.
    """
    index = Bm25Index(task.texts)
    distinct, places = np.unique(np.array(texts, dtype=object), return_inverse=True)
    return np.stack([index.scores(text) for text in distinct])[places]


def fused_scores(bm25: Scores, codes: Scores, *, weight: float) -> Scores:
    """Both (Q, N) -> (Q, N), each query fused on its own; see `ml.evaluation.text_search.fused`."""
    return np.stack([fused(words, near, weight=weight) for words, near in zip(bm25, codes, strict=True)])


def best_weight(words: Scores, codes: Scores, quality: Callable[[Scores], dict[str, Values]]) -> float:
    """Of WEIGHTS, the one whose fusion of both (Q, N) has the highest mean of the first metric of `quality`; the
    smallest of equals.
    """
    means = [
        mean_of(next(iter(quality(fused_scores(words, codes, weight=weight)).values())))[0]
        for weight in WEIGHTS
    ]
    return WEIGHTS[int(np.argmax(means))]


def text_to_image(task: WordsTask, scores: Scores) -> dict[str, Values]:
    """scores (Q, N) -> per query (Q,): `map_words`, over all photos, and `map_lacking`, where only photos whose
    text lacks the words are relevant and the relevant ones whose text has them are not in the gallery.

    Average precision in expectation over ties; NaN without a relevant photo.
    """
    _check(scores, task.relevant.shape)
    others = ~task.relevant
    return {
        "map_words": _average_precisions(scores, task.relevant),
        "map_lacking": _average_precisions(scores, task.lacking, among=others | task.lacking),
    }


def image_to_text(task: WordsTask, scores: Scores) -> dict[str, Values]:
    """scores (N, M) -> per photo (N,): `map_text`, where its item's text is relevant (and any that reads the
    same), and `map_text_category`, where all texts of its leaf category are.
    """
    _check(scores, (len(task), len(task.texts)))
    text_ids = np.unique(np.array(task.texts, dtype=object), return_inverse=True)[1]
    own = text_ids[task.item_of][:, None] == text_ids
    return {
        "map_text": _average_precisions(scores, own),
        "map_text_category": _average_precisions(scores, task.leaf_of[:, None] == task.text_leaf),
    }


def _average_precisions(scores: Scores, relevant: Flags, *, among: Flags | None = None) -> Values:
    """(Q,) over the entries (Q, N) that `among` keeps; None keeps all."""
    values = np.empty(len(scores))
    ids = np.arange(scores.shape[1], dtype=np.int64)
    for query, (row, labels) in enumerate(zip(scores, relevant.astype(np.int64), strict=True)):
        kept = ids if among is None else ids[among[query]]
        values[query] = average_precision(Ranking.of(row[kept], labels[kept], kept, label=1))
    return values


def _check(scores: Scores, expected: tuple[int, ...]) -> None:
    if scores.shape != expected:
        raise ValueError(f"scores are {scores.shape}, expected {expected}")
