"""The rival for words: BM25 over the catalogue's own texts by SQLite's FTS5, and its fusion with codes."""

import sqlite3
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.data.words import words_of

Scores = NDArray[np.float64]


class Bm25Index:
    """Texts to be ranked by the words of a query: FTS5 in memory, tokenizer `porter unicode61` (as the product's).

    BM25 with k1 = 1.2 and b = 0.75, fixed in FTS5; idf = ln((N - n + 0.5) / (n + 0.5)), 1e-6 where that is not
    positive, so a word that stands in half of the texts hardly counts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._size = len(texts)
        self._connection = sqlite3.connect(":memory:")
        self._connection.execute("CREATE VIRTUAL TABLE entry USING fts5(text, tokenize = 'porter unicode61')")
        rows = ((row, " ".join(words_of(text))) for row, text in enumerate(texts))
        self._connection.executemany("INSERT INTO entry (rowid, text) VALUES (?, ?)", rows)

    def __len__(self) -> int:
        return self._size

    def stems(self) -> list[str]:
        """(N,) the words of each text in order, in the form in which they are compared."""
        self._connection.execute("CREATE VIRTUAL TABLE temp.word USING fts5vocab(main, entry, 'instance')")
        found: list[list[str]] = [[] for _ in range(self._size)]
        for row, stem in self._connection.execute("SELECT doc, term FROM temp.word ORDER BY doc, offset"):
            found[row].append(stem)
        self._connection.execute("DROP TABLE temp.word")
        return [" ".join(stems) for stems in found]

    def scores(self, query: str) -> Scores:
        """(N,) BM25 of each text for any of the query's words; higher is better, 0 where a text has none of them.

        Only letters and digits of the query are looked at, and each word is quoted: FTS5's own syntax is not
        reached.
        """
        found = np.zeros(self._size)
        words = dict.fromkeys(words_of(query))
        if words:
            asked = " OR ".join(f'"{word}"' for word in words)
            ranked = "SELECT rowid, bm25(entry) FROM entry WHERE entry MATCH ?"
            for row, value in self._connection.execute(ranked, (asked,)):
                found[row] = -value  # FTS5 gives the better text the smaller number
        return found


def lacks_words(query: str, texts: Sequence[str]) -> NDArray[np.bool_]:
    """(N,) True where a text has none of the query's words, in any form that stemming makes equal."""
    lacking: NDArray[np.bool_] = Bm25Index(texts).scores(query) == 0
    return lacking


def fused(bm25: Scores, code_similarity: Scores, *, weight: float) -> Scores:
    """(N,) (1 - weight) * BM25 / the query's best BM25 + weight * (1 + code similarity) / 2.

    bm25: (N,) >= 0; code_similarity: (N,) in [-1, 1]. weight: in [0, 1], 0 ranks by BM25 alone and 1 by codes
    alone. Both terms lie in [0, 1]. BM25 has no scale of its own from one query to another, so it is measured by
    the query's best text; a Hamming distance has one, and stretching it by query would make the nearest of
    a bad lot as good as a true match. Where no text has a word, the codes decide alone.
    """
    if bm25.shape != code_similarity.shape or not 0 <= weight <= 1:
        raise ValueError(
            f"BM25 is {bm25.shape}, code similarity {code_similarity.shape} (they must be equal), "
            f"weight {weight} (0 to 1)"
        )
    best = bm25.max(initial=0.0)
    scaled: Scores = (1 - weight) * (bm25 / best if best > 0 else bm25) + weight * (1 + code_similarity) / 2
    return scaled
