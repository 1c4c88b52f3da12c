"""BM25 against its formula, words that must do no harm, and what fusion does at its ends."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluation.text_search import Bm25Index, fused, lacks_words

TEXTS = ["Red apple, sweet red apple", "Green apples are sour", "A jacket of nylon for rain"]
LENGTHS = [5, 4, 6]


def bm25(counts: list[int], lengths: list[int] = LENGTHS) -> list[float]:
    """One word's BM25 by the formula, k1 = 1.2, b = 0.75; counts: how often each text has the word."""
    texts, holding = len(counts), sum(count > 0 for count in counts)
    rarity = max(1e-6, log((texts - holding + 0.5) / (holding + 0.5)))
    mean = sum(lengths) / texts
    return [
        rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))
        for count, length in zip(counts, lengths, strict=True)
    ]


def test_scores_are_bm25_of_the_formula_and_higher_is_better() -> None:
    index = Bm25Index(TEXTS)
    assert len(index) == 3
    assert index.scores("red").tolist() == pytest.approx(bm25([2, 0, 0]))
    assert index.scores("red").tolist() == pytest.approx([2 * 2.2 / 3.2 * log(2.5 / 1.5), 0, 0])
    assert index.scores("nylon").tolist() == pytest.approx(bm25([0, 0, 1]))


def test_a_query_of_several_words_adds_up_what_any_of_them_is_worth() -> None:
    expected = np.add(bm25([2, 0, 0]), bm25([0, 0, 1]))
    assert Bm25Index(TEXTS).scores("nylon RED red").tolist() == pytest.approx(expected.tolist())


def test_words_are_stemmed_and_a_word_in_most_texts_still_counts_a_little() -> None:
    scores = Bm25Index(TEXTS).scores("apple")
    assert scores.tolist() == pytest.approx(bm25([2, 1, 0]))
    assert (scores > 0).tolist() == [True, True, False]


def test_stems_are_one_for_the_forms_of_a_word_and_keep_their_order() -> None:
    index = Bm25Index(["Jackets", "JACKET", "", "hiking boots", "boots: hiked"])
    for _ in range(2):
        assert index.stems() == ["jacket", "jacket", "", "hike boot", "boot hike"]


def test_a_text_lacks_the_words_when_it_has_none_of_them_in_any_form() -> None:
    assert lacks_words("rainy jackets", TEXTS).tolist() == [True, True, False]
    assert lacks_words("sweet rain", TEXTS).tolist() == [False, True, False]
    assert lacks_words("?!", TEXTS).tolist() == [True, True, True]
    assert lacks_words("red", []).tolist() == []


@pytest.mark.parametrize(
    "query",
    ['"', "red*", "red AND nylon", "NOT red", "NEAR(red nylon, 2)", "text:red", "^red", "{red}", "red -nylon",
     "red' OR 1=1 --", "(red", "+red", "\x00red", "\ud800 red"],
)  # fmt: skip
def test_nothing_of_the_query_reaches_the_syntax_of_fts5(query: str) -> None:
    plain = Bm25Index(TEXTS).scores("red")
    found = Bm25Index(TEXTS).scores(query)
    nylon = Bm25Index(TEXTS).scores("nylon") if "nylon" in query else np.zeros(3)
    expected = plain + nylon if "red" in query else np.zeros(3)
    np.testing.assert_allclose(found, expected)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_no_query_and_no_text_breaks_the_index(query: str, texts: list[str]) -> None:
    scores = Bm25Index(texts).scores(query)
    assert scores.shape == (len(texts),)
    assert (scores >= 0).all()


def test_fusion_is_each_side_alone_at_its_ends_and_their_sum_between() -> None:
    words, codes = np.array([4.0, 2.0, 0.0]), np.array([-1.0, 0.5, 1.0])
    assert fused(words, codes, weight=0.0).tolist() == [1.0, 0.5, 0.0]
    assert fused(words, codes, weight=1.0).tolist() == [0.0, 0.75, 1.0]
    assert fused(words, codes, weight=0.2).tolist() == pytest.approx([0.8, 0.55, 0.2])


def test_where_no_text_has_a_word_codes_decide_alone() -> None:
    codes = np.array([-1.0, 0.5, 1.0])
    assert fused(np.zeros(3), codes, weight=0.5).tolist() == [0.0, 0.375, 0.5]
    assert fused(np.zeros(0), np.zeros(0), weight=0.5).tolist() == []


def test_fusion_refuses_other_weights_and_lengths() -> None:
    with pytest.raises(ValueError, match=r"weight 1.5 \(0 to 1\)"):
        fused(np.zeros(2), np.zeros(2), weight=1.5)
    with pytest.raises(ValueError, match=r"BM25 is \(2,\), code similarity \(3,\)"):
        fused(np.zeros(2), np.zeros(3), weight=0.5)
