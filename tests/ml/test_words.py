"""Hashed texts: the same rows everywhere, near where words are shared or alike."""

import subprocess
import sys
from collections.abc import Iterator
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml.data.words import WordHasher, bucket_of, label_words, words_of

HASHER = WordHasher()


def similarity(one: str, other: str) -> float:
    rows = HASHER([one, other])
    return float(rows[0] @ rows[1])


def pieces_of_nylon() -> Iterator[str]:
    marked = "<nylon>"
    for length in (3, 4, 5):
        yield from (marked[start : start + length] for start in range(len(marked) - length + 1))


def test_words_are_folded_and_split_at_everything_that_is_no_letter_digit_or_mark() -> None:
    assert words_of("Ｇｒａｎｎｙ-Smith, ﬁlter_½\nStraße किताब CAN'T 1.5%") == [
        "granny", "smith", "filter", "1", "2", "strasse", "किताब", "can", "t", "1", "5",
    ]  # fmt: skip
    assert words_of("CoolTech™ wicks") == ["cooltech", "wicks"]
    assert words_of("cafe\u0301") == words_of("CAFÉ") == ["café"]
    assert words_of(" -_-\x00\ud800!? ") == []


def test_buckets_and_signs_are_those_written_down() -> None:
    found = {
        feature: bucket_of(feature, 4096) for feature in ("w:nylon", "w:nylon jacket", "p:<ny", "w:äpple")
    }
    assert found == {
        "w:nylon": (273, 1), "w:nylon jacket": (1035, 1), "p:<ny": (3060, -1), "w:äpple": (3178, -1),
    }  # fmt: skip


def test_a_word_is_half_itself_and_half_its_pieces() -> None:
    row = HASHER(["Nylon"])[0]
    expected = np.zeros(4096)
    pieces = list(pieces_of_nylon())
    assert len(pieces) == 12
    for piece in pieces:
        place, sign = bucket_of(f"p:{piece}", 4096)
        expected[place] += sign / sqrt(2 * 12)
    place, sign = bucket_of("w:nylon", 4096)
    expected[place] += sign / sqrt(2)
    np.testing.assert_allclose(row, expected, atol=1e-6)


def test_a_repeated_word_weighs_one_plus_the_logarithm_of_its_count() -> None:
    row = HASHER(["red red red blue"])[0]
    weights = [abs(float(row[bucket_of(f"w:{word}", 4096)[0]])) for word in ("red", "blue")]
    assert weights[0] / weights[1] == pytest.approx(1 + log(3), rel=1e-5)


def test_rows_are_the_same_in_another_process_with_other_hash_seeds() -> None:
    program = (
        "import sys; from ml.data.words import WordHasher;"
        "sys.stdout.buffer.write(WordHasher(512)(['Röda äpplen', '', 'nylon jacket']).tobytes())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env={"PYTHONHASHSEED": "77"}
    )
    assert found.stdout == WordHasher(512)(["Röda äpplen", "", "nylon jacket"]).tobytes()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=4))
@example(["", "!", "red", "\ud800"])
def test_rows_have_length_one_and_a_text_without_a_word_is_zeros(texts: list[str]) -> None:
    rows = HASHER(texts)
    assert rows.shape == (len(texts), 4096)
    assert rows.dtype == np.float32
    expected = [float(bool(words_of(text))) for text in texts]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), expected, atol=1e-6)


def test_texts_that_share_words_or_pieces_of_words_are_near_and_others_are_not() -> None:
    assert similarity("jacket", "Jackets") == pytest.approx(9 / sqrt(15 * 18) / 1.5, abs=0.02)
    assert similarity("äpple", "äpplen") > 0.3  # no language is known beforehand
    assert similarity("red apple", "apple red") == pytest.approx(
        5 / 6, abs=0.001
    )  # but not the pair of words
    assert abs(similarity("jacket", "pants")) < 0.05


def test_one_text_in_place_of_a_sequence_and_too_few_buckets_are_refused() -> None:
    with pytest.raises(TypeError, match="one text 'nylon'"):
        HASHER("nylon")
    with pytest.raises(ValueError, match="buckets is 255, it must be at least 256"):
        WordHasher(255)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("material:nylon", "nylon"),
        ("features:tsa approved", "tsa approved"),
        ("performance-fabric", "performance fabric"),
        ("grocery:Granny-Smith", "Granny Smith"),
        ("grocery:coarse:Apple", "Apple"),
        ("catalog:Hoodies & Sweatshirts", "Hoodies & Sweatshirts"),
        ("places_indoor:class:floor10", "floor 10"),
        ("places_indoor:floor10/f10_elevator_main", "floor 10 elevator main"),
        ("places_indoor:basement0/b0_main_lifthallway_c032", "basement 0 main lifthallway"),
        ("", ""),
    ],
)
def test_the_words_of_a_label_leave_out_what_kind_of_label_it_is(label: str, words: str) -> None:
    assert label_words(label) == words
