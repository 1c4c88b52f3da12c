"""What an increment teaches: new classes without losing old ones, and what is lost when the idea is removed."""

from dataclasses import replace

import numpy as np
import pytest

from ml.methods.lifelong.config import MODES, LifelongConfig, Mode
from ml.methods.lifelong.heads import outputs_of, signs_of_logits
from ml.methods.lifelong.labels import LabelRegistry
from ml.methods.lifelong.lesson import Generation, Items, Texts
from ml.methods.lifelong.memory import ClassMemory
from ml.methods.lifelong.statistics import Signs
from ml.methods.lifelong.update import generation_after, learn_base, learn_increment
from tests.ml.lifelong.worlds import (
    BASE_CLASSES,
    CLASSES,
    LABELS,
    codes_of,
    first_generation,
    mean_average_precision,
    photos,
    sayings,
    settings,
)

OLD, NEW = range(BASE_CLASSES), range(BASE_CLASSES, CLASSES)


@pytest.mark.parametrize("mode", ["feature_gaussian", "exemplar", "analytic"])
def test_old_queries_find_their_stored_codes_and_new_ones_theirs_after_two_increments(mode: Mode) -> None:
    config = settings(mode=mode)
    known, gallery = first_generation(config)
    entries = [photos(OLD, 40, seed=1)]
    for seed, classes in enumerate((NEW[:1], NEW[1:])):
        items = photos(classes, 40, seed=10 + seed)
        lesson = learn_increment(known, LABELS, items, None, config, seed=seed)
        known = generation_after(known, LABELS, lesson, items, None, lesson.encoded, config, seed=seed)
        gallery, entries = np.concatenate([gallery, lesson.encoded]), [*entries, items]
    for classes in (OLD, NEW):
        asked = photos(classes, 20, seed=99)
        assert mean_average_precision(codes_of(known.heads, asked), asked, gallery, *entries) > 0.97


def old_queries_after(
    parent: Generation, stored: Signs, config: LifelongConfig, *, seed: int
) -> tuple[float, float]:
    """An increment of three classes, and how old queries do against their stored codes: mAP, share of equal bits."""
    heads = learn_increment(parent, LABELS, photos(NEW, 40, seed=2), None, config, seed=seed).heads
    asked, words = photos(OLD, 20, seed=99), parent.statistics.codewords()
    codes, own = codes_of(heads, asked), np.stack([words[labels] for labels in asked.sets])
    ranked = mean_average_precision(codes, asked, stored, photos(OLD, 40, seed=1))
    return ranked, float((codes == own).mean())


def test_heads_that_are_not_held_to_stored_codes_lose_them_and_heads_that_are_do_not() -> None:
    """The idea removed: the same training, the same replay, only stored codes have no say in it."""
    config = settings(
        code_bits=16,
        hidden=16,
        rounds=6,
        final_epochs=8,
        learning_rate=2e-2,
        refits=False,
        own_code_weight=0.0,
    )
    parent, stored = first_generation(config)
    free = replace(config, holds_stored_codes=False)
    held = [old_queries_after(parent, stored, config, seed=seed) for seed in range(3)]
    lost = [old_queries_after(parent, stored, free, seed=seed) for seed in range(3)]
    assert min(ranked for ranked, _ in held) > 0.98
    assert min(equal for _, equal in held) > 0.95
    assert np.mean([ranked for ranked, _ in lost]) < 0.9
    assert max(equal for _, equal in lost) < 0.85


def test_new_data_alone_forgets_at_a_rate_at_which_remembered_features_do_not() -> None:
    """The trap of section 6.4: fixed codes protect stored items, not the queries for them."""
    config = settings(code_bits=16, hidden=16, rounds=6, final_epochs=8, learning_rate=2e-2, refits=False)
    parent, stored = first_generation(config)
    assert isinstance(parent.memory, ClassMemory)
    alone = replace(parent, memory=parent.memory.within(()))
    kept = [old_queries_after(parent, stored, config, seed=seed)[1] for seed in range(3)]
    forgot = [old_queries_after(alone, stored, config, seed=seed)[1] for seed in range(3)]
    assert min(kept) > 0.95
    assert max(forgot) < 0.92


def test_words_find_the_codes_of_old_and_of_new_classes_after_an_increment() -> None:
    config = settings(text_batch=64, final_epochs=12)
    parent, stored = first_generation(config, 20)
    items, fresh = photos(NEW, 40, seed=2), sayings(NEW, 20, seed=2)
    lesson = learn_increment(parent, LABELS, items, fresh, config, seed=3)
    gallery = np.concatenate([stored, lesson.encoded])
    assert lesson.heads.text is not None
    for classes in (OLD, NEW):
        asked = sayings(classes, 20, seed=99)
        words = signs_of_logits(outputs_of(lesson.heads.text, asked.hashed))
        items_asked = Items(
            np.zeros((len(asked), 1), np.float32), asked.sets, [str(n) for n in range(len(asked))]
        )
        found = mean_average_precision(words, items_asked, gallery, photos(OLD, 40, seed=1), items)
        assert found > 0.9


@pytest.mark.parametrize("mode", ["feature_gaussian", "analytic"])
def test_new_items_of_an_old_class_get_the_code_that_the_class_has(mode: Mode) -> None:
    config = settings(mode=mode)
    parent, _ = first_generation(config)
    items = photos([0, 6], 20, seed=2)
    lesson = learn_increment(parent, LABELS, items, None, config, seed=3)
    word = parent.statistics.codewords()[(0,)]
    np.testing.assert_array_equal(lesson.solved[:20], np.repeat(word[None], 20, axis=0))
    other = (lesson.solved[20:] != word).sum(axis=1)
    assert other.min() >= 10
    after = generation_after(parent, LABELS, lesson, items, None, lesson.solved, config, seed=3)
    assert after.statistics.tallies[(0,)].items == 60


def test_a_single_new_item_can_be_learned() -> None:
    for mode in MODES:
        config = settings(mode=mode)
        parent, _ = first_generation(config)
        items = photos([6], 1, seed=2)
        lesson = learn_increment(parent, LABELS, items, None, config, seed=3)
        assert lesson.solved.shape == (1, 32)
        after = generation_after(parent, LABELS, lesson, items, None, lesson.encoded, config, seed=3)
        assert after.statistics.items == 201


def test_texts_need_not_say_an_items_whole_label_set() -> None:
    """A tag alone may be said: no item carries just that."""
    registry = LabelRegistry(("bag", "shoe", "red"), (1.0, 1.0, 0.5))
    items = photos([0, 1], 20, seed=1)
    items = Items(items.features, [(0, 2)] * 20 + [(1,)] * 20, items.keys)
    said = Texts(sayings([0, 1, 2], 5, seed=1).hashed, [(2,)] * 5 + [(0, 2)] * 5 + [(1,)] * 5)
    lesson = learn_base(registry, items, said, settings(text_batch=32, final_epochs=12), seed=0)
    assert lesson.heads.text is not None
    words = signs_of_logits(outputs_of(lesson.heads.text, said.hashed)).astype(int)
    red = lesson.solved[0].astype(int)
    assert (words[:5] @ red > words[:5] @ lesson.solved[20].astype(int)).all()
