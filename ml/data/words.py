"""Texts as vectors without a vocabulary: words and pieces of words, hashed into a fixed number of buckets.

scikit-learn's HashingVectorizer does the same for words or for characters, at 100 MB of dependencies.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from math import log

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

MIN_BUCKETS = 256
PIECE_LENGTHS = (3, 4, 5)  # characters, of "<word>"

_TRADE_MARKS = {0x2122: " ", 0x2120: " "}
_SEPARATORS = re.compile(r"[-_/\s]+")
_ABBREVIATION = re.compile(r"[a-z]\d+")
_BEFORE_NUMBER = re.compile(r"(?<=[^\W\d_])(?=\d)")


def words_of(text: str) -> list[str]:
    """The words of a text in order: NFKC, case folded, split at whatever is no letter, digit or mark on one.

    Trade and service marks are dropped first: NFKC would make letters of them.
    """
    folded = unicodedata.normalize("NFKC", text.translate(_TRADE_MARKS)).casefold()
    return "".join(character if _in_a_word(character) else " " for character in folded).split()


def _in_a_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"


@dataclass(frozen=True, slots=True)
class WordHasher:
    """(N texts) -> (N, buckets): signed feature hashing, the same on every machine and in every process.

    Half of a row's length is its words and pairs of neighbouring words, the other half the 3 to 5 characters
    long pieces of each "<word>", so a plural, a misspelling or a compound stays near its word. A feature seen
    c times weighs 1 + ln c. Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.
    """

    buckets: int = 4096  # at least 256; fewer collide more

    def __post_init__(self) -> None:
        if self.buckets < MIN_BUCKETS:
            raise ValueError(f"buckets is {self.buckets}, it must be at least {MIN_BUCKETS}")

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """(N, buckets) float32, rows of L2 norm 1; a text without any word gives zeros."""
        if isinstance(texts, str):
            raise TypeError(f"texts is the one text {texts[:40]!r}, expected a sequence of texts")
        return np.stack([*map(self._row, texts)]) if texts else np.zeros((0, self.buckets), np.float32)

    def _row(self, text: str) -> Vectors:
        words = words_of(text)
        pairs = (f"{first} {second}" for first, second in pairwise(words))
        whole = self._unit([*words, *pairs], kind="w")
        pieces = self._unit((piece for word in words for piece in _pieces(word)), kind="p")
        row = whole + pieces
        return (row / (np.linalg.norm(row) or 1.0)).astype(np.float32)

    def _unit(self, features: Iterable[str], *, kind: str) -> NDArray[np.float64]:
        """(buckets,) of L2 norm 1; zeros without a feature."""
        row = np.zeros(self.buckets)
        for feature, count in Counter(features).items():
            place, sign = bucket_of(f"{kind}:{feature}", self.buckets)
            row[place] += sign * (1.0 + log(count))
        return row / (np.linalg.norm(row) or 1.0)


@lru_cache(maxsize=1 << 16)
def bucket_of(feature: str, buckets: int) -> tuple[int, int]:
    """(bucket in [0, buckets), sign -1 or +1) of a feature, by BLAKE2b of its UTF-8 bytes."""
    number = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "little")
    return (number >> 1) % buckets, 1 if number & 1 else -1


def _pieces(word: str) -> Iterable[str]:
    marked = f"<{word}>"
    return (
        marked[start : start + length]
        for length in PIECE_LENGTHS
        for start in range(len(marked) - length + 1)
    )


def label_words(label: str) -> str:
    """The words of a label's name: "material:nylon" -> "nylon", "grocery:Granny-Smith" -> "Granny Smith",
    "places_indoor:floor10/f10_elevator_main" -> "floor 10 elevator main".

    What stands before the last colon says what kind of label it is; it is not what a shopper types. In the last
    part of a path abbreviations such as "f10" or "c032" (a floor, a clip) are left out, and a number stands
    apart from the letters before it.
    """
    folder, _, name = label.rpartition(":")[2].rpartition("/")
    parts = _SEPARATORS.split(name)
    if folder:
        parts = [*_SEPARATORS.split(folder), *(part for part in parts if not _ABBREVIATION.fullmatch(part))]
    return " ".join(piece for part in parts for piece in _BEFORE_NUMBER.split(part) if piece)
