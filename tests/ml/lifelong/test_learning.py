"""What an increment teaches: new classes without losing old ones, and what is lost when the idea is removed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.methods.lifelong.analytic import hidden_of, last_layer
from ml.methods.lifelong.config import MODES, NEW_ONLY_RATE, LifelongConfig, Mode
from ml.methods.lifelong.heads import outputs_of, signs_of_logits
from ml.methods.lifelong.labels import LabelRegistry
from ml.methods.lifelong.lesson import Generation, Items, Texts
from ml.methods.lifelong.statistics import CodeStatistics, Signs
from ml.methods.lifelong.update import generation_after, learn_base, learn_increment
from tests.ml.lifelong.worlds import (
    BASE_CLASSES,
    BASE_LABELS,
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
    alone = replace(config, mode="new_only", learning_rate=config.learning_rate / NEW_ONLY_RATE)
    kept = [old_queries_after(parent, stored, config, seed=seed)[1] for seed in range(3)]
    forgot = [old_queries_after(parent, stored, alone, seed=seed)[1] for seed in range(3)]
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


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "new_only"])
def test_a_single_new_item_is_learned_so_that_others_of_its_class_find_it(mode: Mode) -> None:
    config = settings(mode=mode, final_epochs=12)
    parent, stored = first_generation(config)
    items = photos([6], 1, seed=2)
    lesson = learn_increment(parent, LABELS, items, None, config, seed=3)
    after = generation_after(parent, LABELS, lesson, items, None, lesson.encoded, config, seed=3)
    assert after.statistics.items == len(stored) + 1
    own, asked = lesson.solved[0].astype(int), codes_of(lesson.heads, photos([6], 20, seed=99)).astype(int)
    words = np.stack(list(parent.statistics.codewords().values())).astype(int)
    assert ((asked @ own)[:, None] > asked @ words.T).all(axis=1).mean() > 0.5


def test_a_category_that_gets_a_tag_keeps_its_queries_through_the_next_increment() -> None:
    """Relabelling touches no code, yet what stands for its items in training must move with them."""
    config = settings(code_bits=16, hidden=16, rounds=6, final_epochs=8, refits=False)
    parent, stored = first_generation(config)
    tagged = LABELS.extended({"tag": 0.1})
    known = replace(parent, registry=tagged)
    for label in OLD:
        own = [row for row, labels in enumerate(photos(OLD, 40, seed=1).sets) if labels == (label,)]
        known = known.relabelled(stored[own], source=(label,), target=(label, CLASSES))
    with pytest.raises(ValueError, match=f"the registry has {BASE_CLASSES} labels; extend it first"):
        parent.relabelled(stored[:1], source=(0,), target=(0, CLASSES))
    assert known.statistics.sets == [(label, CLASSES) for label in OLD]
    assert parent.statistics.sets == [(label,) for label in OLD]
    heads = learn_increment(known, tagged, photos(NEW, 40, seed=2), None, config, seed=0).heads
    asked, words = photos(OLD, 20, seed=99), parent.statistics.codewords()
    own_words = np.stack([words[labels] for labels in asked.sets])
    assert (codes_of(heads, asked) == own_words).mean() > 0.97


@pytest.mark.parametrize("mode", ["feature_gaussian", "exemplar"])
def test_deleted_items_do_not_come_back_with_new_ones_of_their_label_set(mode: Mode) -> None:
    config = settings(mode=mode)
    parent, stored = first_generation(config)
    gone = [row for row, labels in enumerate(photos(OLD, 40, seed=1).sets) if labels == (2,)]
    left = parent.without([(2,)] * 40, stored[gone])
    assert left.memory is not None
    assert parent.memory is not None
    assert (2,) not in left.memory.sets
    assert (2,) in parent.memory.sets
    other = photos([6], 10, seed=2)  # these now go by the name
    items = Items(other.features, [(2,)] * 10, other.keys)
    lesson = learn_increment(left, LABELS, items, None, config, seed=3)
    after = generation_after(left, LABELS, lesson, items, None, lesson.encoded, config, seed=3)
    assert after.memory is not None
    features, owner = after.memory.draw(500, np.random.default_rng(0))
    drawn = features[owner == after.memory.sets.index((2,))].mean(axis=0)
    assert np.linalg.norm(drawn - other.features.mean(axis=0)) < 1
    with pytest.raises(ValueError, match="which holds 0"):
        left.without([(2,)], stored[gone[:1]])


def test_a_base_stage_ends_with_its_last_layer_fitted_to_codewords_and_touches_nothing_else() -> None:
    config, items, texts = settings(), photos(OLD, 40, seed=1), sayings(OLD, 5, seed=1)
    plain, fitted = (
        learn_base(BASE_LABELS, items, texts, replace(config, refits=refits), seed=0)
        for refits in (False, True)
    )
    np.testing.assert_array_equal(plain.solved, fitted.solved)
    words = CodeStatistics.of(items.sets, plain.solved).codewords()
    wanted = np.stack([words[labels] for labels in items.sets]).astype(float)
    hidden, start = hidden_of(plain.heads.image, items.features), last_layer(plain.heads.image)
    weight = (30 / 40) ** config.rarity_exponent  # each class has 40 items
    eye = config.ridge * np.eye(len(start))
    expected = np.linalg.solve(weight * hidden.T @ hidden + eye, weight * hidden.T @ wanted + eye @ start)
    np.testing.assert_allclose(last_layer(fitted.heads.image), expected, rtol=1e-4, atol=1e-5)
    changed = {
        name
        for name, value in fitted.heads.state_dict().items()
        if not torch.equal(value, plain.heads.state_dict()[name])
    }
    assert {name.split(".layers.")[0] for name in changed} == {"image"}
    assert len({name.split(".")[2] for name in changed}) == 1


def test_texts_without_a_code_to_be_taught_change_nothing_that_is_solved() -> None:
    config = settings(mode="analytic")
    parent, _ = first_generation(config, 20)
    items, fresh = photos(NEW, 20, seed=2), sayings(NEW, 5, seed=2)
    nobody = LABELS.extended({"nobody": 1.0})
    silent = Texts(sayings([0], 20, seed=5).hashed, [(CLASSES,)] * 20)
    with_them, without = (
        learn_increment(parent, nobody, items, texts, config, seed=3).heads.text
        for texts in (fresh.joined(silent), fresh)
    )
    assert with_them is not None
    assert without is not None
    np.testing.assert_allclose(last_layer(with_them.code_head), last_layer(without.code_head), atol=1e-9)


def test_held_out_items_with_label_sets_that_nobody_trains_on_are_judged_too() -> None:
    config, items = settings(), photos(OLD, 20, seed=1)
    registry = BASE_LABELS.extended({"tag": 0.1})
    held_out = photos(OLD, 5, seed=9, name="held out")
    tagged = Items(held_out.features, [(*labels, BASE_CLASSES) for labels in held_out.sets], held_out.keys)
    histories = [
        learn_base(registry, items, None, config, seed=0, validation=asked).history
        for asked in (held_out, tagged)
    ]
    plain, other = ([logs["validation"] for logs in history] for history in histories)
    assert other != plain
    np.testing.assert_allclose(other, plain, atol=0.05)  # the tag weighs a tenth


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
