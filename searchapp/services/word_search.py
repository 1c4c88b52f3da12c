"""Words against the code space that words and photos share, fused with the database's words.

A text's code lies near the codes of photos that such words are said of, whether or not anybody wrote them of the very
item. So an item counts by the share of the words it has (services.text_search) and by how near it lies, each worth
half: items with every word stay first, the nearer before the others. A few that have none of them may follow when they
lie near, always as weak matches: few of them are what was meant.

The code is asked only about words that some item of the learned categories holds: they are what it was taught, and
about any other (a misspelling, another language) it would say something with no less confidence. Where nothing known
is left the answer is the database's alone; so it is while no version has learned words.

The constants were chosen by `python -m benchmarks.words` (docs/results.md, "Words and codes").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.protocol import pack_bits
from ml.retrieval import code_search
from ml.retrieval.code_search import CodeHit
from ml.retrieval.scoring import Hit, Strength
from ml.retrieval.view import GalleryView
from searchapp.services import text_search
from searchapp.services.learning import waiting_ids
from searchapp.services.search_options import Scope
from searchapp.services.serving import Arm
from searchapp.services.text_search import TextMatch

# How much the code counts beside the words. Above a half, an item with none of the words could pass one with all.
CODE_WEIGHT = 0.5
# Code similarity (1 - 2 Hamming / bits) from which an item with none of the words lies near them, and how many such
# an answer holds at most.
NEAR = 0.6
MOST_UNSAID = 8
# The database's best that are fused, at least; beyond them its own order stands.
POOL = 100

PackedCode = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SaidCode:
    """The code of a text in a view. text: what of it is known. packed (L // 8,) uint8."""

    text: str
    view: GalleryView
    packed: PackedCode

    def similarity(self, hit: CodeHit) -> float:
        """In [-1, 1]."""
        return 1 - 2 * hit.hamming / self.view.code_bits

    def max_hamming(self, similarity: float) -> int:
        """How many bits may differ at this similarity."""
        return int((1 - similarity) * self.view.code_bits / 2)


@dataclass(frozen=True, slots=True)
class WordMatch:
    """An item that answers words. words: those it has. near: its entry nearest to the text's code, if compared."""

    item_id: int
    score: float
    strength: Strength
    words: tuple[str, ...]
    near: CodeHit | None = None


@dataclass(frozen=True, slots=True)
class RefinedHit:
    """A hit that looks alike, and the words it has; without any it lies near the text's code."""

    hit: Hit
    words: tuple[str, ...]


def code_of(arm: Arm, words: Sequence[str]) -> SaidCode | None:
    """The code of those of a shopper's words that are known; None without any, or when no version knows words."""
    if arm.words is None or not words:
        return None
    text = " ".join(text_search.words_known(words=words, apart_from=waiting_ids(arm.version)))
    return SaidCode(text, arm.view, pack_bits(arm.words.encode([text]))[0]) if text else None


def items_matching(
    *, words: Sequence[str], code: SaidCode | None, scope: Scope, limit: int
) -> list[WordMatch]:
    """The items inside `scope` that answer the words, best first: by their own words, by the text's code, by both."""
    asked_for = limit if code is None else max(limit, POOL)
    written = text_search.items_matching(words=words, among=scope.items(), limit=asked_for)
    if code is None:
        return [WordMatch(own.item_id, own.score, own.strength, own.words) for own in written]
    known = {match.item_id for match in written}
    near = {hit.item_id: hit for hit in _near(code, scope, limit) if hit.item_id not in known}
    candidates = [*written, *_beyond(words, list(near))]
    nearest = code_search.hits_of_items(code.view, code.packed, known) | near
    matches = [_fused(match, nearest.get(match.item_id), code) for match in candidates]
    matches.sort(key=lambda match: -match.score)  # stable: the database's rank stays the order among equals
    return matches[:limit]


def _beyond(words: Sequence[str], item_ids: Sequence[int]) -> list[TextMatch]:
    """Items that lie near, the nearest first: all that have any of the words, and the first of the others."""
    found = text_search.words_found(words=words, item_ids=item_ids)
    matches = [text_search.match_of(item_id, words, found[item_id]) for item_id in item_ids]
    unsaid = {match.item_id for match in [match for match in matches if not match.words][:MOST_UNSAID]}
    return [match for match in matches if match.words or match.item_id in unsaid]


def refined(hits: Sequence[Hit], *, words: Sequence[str], code: SaidCode | None) -> list[RefinedHit]:
    """Of what looks alike, the hits that have any of the words, those with more of them first, and then those that
    lie near the text's code; among equals the more alike stays first."""
    found = text_search.words_found(words=words, item_ids=[hit.item_id for hit in hits])
    unsaid = [hit.item_id for hit in hits if not found[hit.item_id]]
    near = set() if code is None else _near_among(code, unsaid)
    kept = [hit for hit in hits if found[hit.item_id] or hit.item_id in near]
    kept.sort(key=lambda hit: -sum(found[hit.item_id].values()))
    return [RefinedHit(hit, tuple(word for word in words if word in found[hit.item_id])) for hit in kept]


def _near(code: SaidCode, scope: Scope, limit: int) -> tuple[CodeHit, ...]:
    return code_search.search(
        code.view, code.packed, k=limit, max_hamming=code.max_hamming(NEAR), where=scope.entry_filter()
    )


def _near_among(code: SaidCode, item_ids: Sequence[int]) -> set[int]:
    nearest = code_search.hits_of_items(code.view, code.packed, item_ids)
    return {item_id for item_id, hit in nearest.items() if code.similarity(hit) >= NEAR}


def _fused(match: TextMatch, hit: CodeHit | None, code: SaidCode) -> WordMatch:
    """An item without an encoded photo counts as one whose code says nothing: similarity 0."""
    similarity = 0.0 if hit is None else code.similarity(hit)
    score = (1 - CODE_WEIGHT) * match.score + CODE_WEIGHT * (1 + similarity) / 2
    return WordMatch(match.item_id, score, match.strength, match.words, hit)
