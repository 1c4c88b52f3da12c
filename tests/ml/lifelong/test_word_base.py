"""Words for codes that are stored already: what a text head learns from nothing, and what it leaves alone."""

from functools import cache

import numpy as np
import pytest
import torch

from ml.data.words import WordHasher
from ml.methods.lifelong import word_base
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.methods.lifelong.lesson import Generation, Texts
from ml.methods.lifelong.statistics import CodeStatistics, Signs
from ml.methods.lifelong.update import learn_increment
from ml.methods.lifelong.word_base import with_words
from ml.training.loop import FitCancelled, Progress
from tests.ml.lifelong.worlds import (
    BASE_CLASSES,
    BASE_LABELS,
    CLASSES,
    LABELS,
    WIDTH,
    WORDS,
    digest,
    photos,
    random_signs,
    sayings,
    settings,
)

CONFIG = settings()
OLD, NEW = range(BASE_CLASSES), range(BASE_CLASSES, CLASSES)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five classes need no thousand steps."""
    monkeypatch.setattr(word_base, "EPOCHS", 3)


def heads() -> CrossModalHeads:
    """Of a version that was trained before there were words."""
    torch.manual_seed(3)
    made = CrossModalHeads(WIDTH, hidden=CONFIG.hidden, code_bits=CONFIG.code_bits)
    return made.eval().requires_grad_(requires_grad=False)


@cache
def stored() -> CodeStatistics:
    """Codes of the old classes' items, of no head's making: nine of ten bits of an item are its class's."""
    rng = np.random.default_rng(4)
    words = random_signs(BASE_CLASSES, CONFIG.code_bits, rng)
    labels = np.repeat(np.arange(BASE_CLASSES), 20)
    noise = np.where(rng.random((len(labels), CONFIG.code_bits)) < 0.1, -1, 1).astype(np.int8)
    return CodeStatistics.of([(label,) for label in labels.tolist()], (words[labels] * noise).astype(np.int8))


def said(taught: CrossModalHeads, texts: Texts) -> Signs:
    assert taught.text is not None
    return signs_of_logits(outputs_of(taught.text, texts.hashed))


def own_share(taught: CrossModalHeads, texts: Texts, statistics: CodeStatistics) -> float:
    """How often the nearest codeword of a text's code is its own label set's."""
    words = statistics.codewords()
    sets = sorted(words)
    near = said(taught, texts).astype(np.int64) @ np.stack([words[labels] for labels in sets]).T
    return float(np.mean([sets[place] == labels for place, labels in zip(near.argmax(axis=1), texts.sets)]))


@cache
def taught(seed: int = 0) -> CrossModalHeads:
    return with_words(heads(), sayings(OLD, 10, seed=1), stored(), words=WORDS, config=CONFIG, seed=seed)


def test_texts_it_has_not_heard_come_nearest_to_the_codes_of_what_they_say() -> None:
    unheard = sayings(OLD, 40, seed=9)
    assert own_share(taught(), unheard, stored()) >= 0.99
    torch.manual_seed(0)
    untaught = CrossModalHeads(WIDTH, hidden=8, code_bits=CONFIG.code_bits, words=WORDS, text_hidden=16)
    assert own_share(untaught, unheard, stored()) < 0.5  # of five classes


def test_one_word_of_a_text_is_enough_though_it_was_never_heard_alone() -> None:
    hashed = np.zeros((6 * BASE_CLASSES, WORDS), np.float32)
    places = [10 * label + word for label in OLD for word in range(6)]
    hashed[np.arange(len(places)), places] = 1
    alone = Texts(hashed, [(label,) for label in OLD for _ in range(6)])
    assert own_share(taught(), alone, stored()) == 1.0


def test_the_image_head_stays_to_the_bit_and_the_heads_that_were_given_know_no_words() -> None:
    given = heads()
    before = digest(*(value.numpy() for value in given.image.state_dict().values()))
    found = with_words(given, sayings(OLD, 4, seed=1), stored(), words=WORDS, config=CONFIG, seed=0)
    assert digest(*(value.numpy() for value in found.image.state_dict().values())) == before
    assert given.text is None
    assert found.text is not None
    assert (found.text.config.buckets, found.text.config.hidden, found.text.config.code_bits) == (
        WORDS,
        16,
        32,
    )
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())


def arrays_digest(found: CrossModalHeads) -> str:
    assert found.text is not None
    return digest(*found.text.arrays().values())


def test_one_seed_gives_the_same_bytes_whatever_words_the_heads_knew() -> None:
    again = with_words(taught(1), sayings(OLD, 10, seed=1), stored(), words=WORDS, config=CONFIG, seed=0)
    assert arrays_digest(again) == arrays_digest(taught()) != arrays_digest(taught(1))


def test_a_category_of_few_texts_is_not_drowned_by_one_of_many() -> None:
    """Both are called by the same two words, in another order of importance."""
    hashed = np.zeros((2_000, WORDS), np.float32)
    hashed[:, [0, 1]] = [1.0, 0.9]
    hashed[-2:, [0, 1]] = [0.9, 1.0]
    hashed /= np.linalg.norm(hashed, axis=1, keepdims=True)
    texts = Texts(hashed, [(0,)] * 1_998 + [(1,)] * 2)
    sayer = word_base._TextStream(texts, CONFIG, 0)
    drawn = np.concatenate([batch.labels.numpy() for batch in sayer.epoch(0)])
    assert 0.02 < (drawn >= 1_998).mean() < 0.05  # 3 %: the root of 2 beside that of 1,998, not 0.1 %


def test_half_of_a_text_is_heard_another_half_each_time_and_never_nothing() -> None:
    texts = Texts(WordHasher(WORDS)(["Granny Smith green apple", "a"]), [(0,), (1,)])
    sayer = word_base._TextStream(texts, CONFIG, 0)
    batches = list(sayer.epoch(0))
    heard = np.concatenate([batch.images.numpy() for batch in batches])
    rows = np.concatenate([batch.labels.numpy() for batch in batches])
    np.testing.assert_allclose(np.linalg.norm(heard, axis=1), 1, atol=1e-5)
    long = heard[rows == 0]
    kept = (long != 0).sum(axis=1) / (texts.hashed[0] != 0).sum()
    assert 0.45 < kept.mean() < 0.55
    assert len(np.unique(long, axis=0)) > 0.9 * len(long)
    assert not (heard[rows == 0][:, texts.hashed[0] == 0]).any()
    assert [batch.labels.tolist() for batch in sayer.epoch(0)] == [batch.labels.tolist() for batch in batches]
    assert [batch.labels.tolist() for batch in sayer.epoch(1)] != [batch.labels.tolist() for batch in batches]


def test_texts_that_say_what_no_stored_code_is_of_are_left_out() -> None:
    known = sayings(OLD, 10, seed=1)
    found = with_words(
        heads(), known.joined(sayings(NEW, 10, seed=2)), stored(),
        words=WORDS, config=CONFIG, seed=0,
    )  # fmt: skip
    assert arrays_digest(found) == arrays_digest(taught())


def test_part_of_a_label_set_is_taught_the_majority_code_of_those_who_carry_it() -> None:
    rng = np.random.default_rng(5)
    codes = random_signs(3, CONFIG.code_bits, rng)
    statistics = CodeStatistics.of([(0, 1), (0, 2), (0, 2), (3,)], codes[[0, 1, 1, 2]])
    hashed = np.eye(WORDS, dtype=np.float32)[:4]
    texts = Texts(hashed, [(0,), (1,), (2,), (3,)])
    found = with_words(heads(), texts, statistics, words=WORDS, config=CONFIG, seed=0)
    np.testing.assert_array_equal(
        said(found, texts), codes[[1, 0, 1, 2]]
    )  # two of three carriers of 0 have code 1


@pytest.mark.parametrize("count", [0, 6])
def test_without_a_text_that_says_anything_known_there_is_nothing_to_teach(count: int) -> None:
    texts = sayings(NEW, count // 3, seed=2)
    with pytest.raises(ValueError, match=f"none of {count} texts says what a stored code is of"):
        with_words(heads(), texts, stored(), words=WORDS, config=CONFIG, seed=0)


def test_texts_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="hashed texts are 256 wide, expected 512"):
        with_words(heads(), sayings(OLD, 1, seed=1), stored(), words=512, config=CONFIG, seed=0)


def test_it_tells_its_progress_and_stops_when_asked() -> None:
    told: list[Progress] = []
    with pytest.raises(FitCancelled):
        with_words(
            heads(), sayings(OLD, 4, seed=1), stored(), words=WORDS, config=CONFIG, seed=0,
            on_epoch=told.append, is_cancelled=lambda: len(told) == 2,
        )  # fmt: skip
    assert [(one.epoch, one.epochs) for one in told] == [(1, 3), (2, 3)]


def test_words_of_what_an_increment_learned_are_taught_with_the_old_ones_or_by_it() -> None:
    new, items = sayings(NEW, 10, seed=2), photos(NEW, 20, seed=2)
    texts, unheard = sayings(OLD, 10, seed=1), sayings(range(CLASSES), 20, seed=9)
    config = settings(
        mode="new_only", final_epochs=12, learning_rate=2.0
    )  # of which that mode takes a hundredth

    parent = Generation(BASE_LABELS, heads(), stored(), None, None)
    lesson = learn_increment(parent, LABELS, items, None, config, seed=0)
    statistics = stored() + CodeStatistics.of(items.sets, lesson.solved)
    after = with_words(lesson.heads, texts.joined(new), statistics, words=WORDS, config=CONFIG, seed=0)
    assert own_share(after, unheard, statistics) >= 0.99

    parent = Generation(BASE_LABELS, taught(), stored(), None, texts)
    lesson = learn_increment(parent, LABELS, items, new, config, seed=0)
    statistics = stored() + CodeStatistics.of(items.sets, lesson.solved)
    assert own_share(lesson.heads, unheard, statistics) > 0.75
    assert own_share(taught(), unheard, statistics) < 0.65  # five classes of eight
