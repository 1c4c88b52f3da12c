"""Increments as a whole: what is stored stays, and nothing but the items and the seed decides what comes."""

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ml.methods.lifelong.config import MODES, LifelongConfig, Mode
from ml.methods.lifelong.heads import CrossModalHeads
from ml.methods.lifelong.labels import LabelRegistry
from ml.methods.lifelong.lesson import Generation, Items, Lesson, Texts
from ml.methods.lifelong.memory import ClassMemory
from ml.methods.lifelong.statistics import CodeStatistics, Tally
from ml.methods.lifelong.training import FixedCodeTrainer, SampleStream, Subject
from ml.methods.lifelong.update import generation_after, learn_base, learn_increment
from ml.training.loop import FitCancelled
from tests.ml.lifelong.worlds import (
    BASE_CLASSES,
    BASE_LABELS,
    CLASSES,
    LABELS,
    WORDS,
    digest,
    first_generation,
    photos,
    random_signs,
    sayings,
    settings,
)

OLD, NEW = range(BASE_CLASSES), range(BASE_CLASSES, CLASSES)
Digests = dict[str, str]


def weights_of(heads: CrossModalHeads) -> str:
    return digest(*(value.numpy() for value in heads.state_dict().values()))


def digests_of(known: Generation) -> Digests:
    """One of everything that a generation holds."""
    memory = known.memory
    kept = (
        {} if memory is None else {name: getattr(memory, name) for name in memory.__slots__ if name != "sets"}
    )
    grams = [gram for gram in (known.image_gram, known.text_gram) if gram is not None]
    return {
        "heads": weights_of(known.heads),
        "statistics": digest(*known.statistics.arrays().values()),
        "memory": digest(*kept.values()),
        "texts": "" if known.texts is None else digest(known.texts.hashed),
        "grams": digest(*grams),
    }


def digests_of_lesson(lesson: Lesson) -> Digests:
    return {
        "heads": weights_of(lesson.heads),
        "solved": digest(lesson.solved),
        "encoded": digest(lesson.encoded),
    }


@pytest.mark.parametrize("mode", MODES)
def test_an_increment_leaves_every_stored_code_and_all_of_its_parent_as_they_are(mode: Mode) -> None:
    """Invariant 1, in all four modes, with texts; and invariant 9 over a whole increment."""
    config = settings(mode=mode)
    parent, stored = first_generation(config, 5)
    before, codes, items = (
        digests_of(parent),
        digest(np.packbits(stored > 0, axis=1)),
        photos(NEW, 20, seed=2),
    )
    lesson = learn_increment(parent, LABELS, items, sayings(NEW, 5, seed=2), config, seed=3)
    after = generation_after(
        parent, LABELS, lesson, items, sayings(NEW, 5, seed=2), lesson.encoded, config, seed=3
    )
    assert digest(np.packbits(stored > 0, axis=1)) == codes
    assert digests_of(parent) == before
    assert weights_of(lesson.heads) != before["heads"]
    assert after.statistics.items == 260
    after.statistics.remove(items.sets, lesson.encoded)
    assert digest(*after.statistics.arrays().values()) == before["statistics"]


@pytest.mark.parametrize("mode", MODES)
def test_an_increment_is_the_same_to_the_bit_for_the_same_seed_and_not_for_another(mode: Mode) -> None:
    """Invariant 10."""
    config, items, texts = settings(mode=mode), photos(NEW, 20, seed=2), sayings(NEW, 5, seed=2)
    parent, _ = first_generation(config, 5)

    def learned(seed: int) -> Digests:
        return digests_of_lesson(learn_increment(parent, LABELS, items, texts, config, seed=seed))

    assert learned(3) == learned(3)
    assert learned(3)["heads"] != learned(4)["heads"]


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_new_items_orders_their_codes_and_changes_nothing_else(mode: Mode) -> None:
    """Invariant 7, of the lesson and of all that the next increment starts from."""
    config, items = settings(mode=mode, gaussians_from=10), photos(NEW, 20, seed=2)
    parent, _ = first_generation(config)
    order = np.random.default_rng(0).permutation(len(items))
    found = []
    for given in (items, items.picked(order)):
        lesson = learn_increment(parent, LABELS, given, None, config, seed=3)
        after = generation_after(parent, LABELS, lesson, given, None, lesson.solved, config, seed=3)
        found.append((lesson, digests_of(after)))
    (plain, next_plain), (shuffled, next_shuffled) = found
    np.testing.assert_array_equal(shuffled.solved, plain.solved[order])
    np.testing.assert_array_equal(shuffled.encoded, plain.encoded[order])
    assert next_shuffled == next_plain


@pytest.mark.parametrize("mode", MODES)
def test_no_new_items_change_nothing(mode: Mode) -> None:
    """Invariant 10, of the lesson and of the generation after it."""
    config = settings(mode=mode)
    parent, _ = first_generation(config, 5)
    before, none = digests_of(parent), photos([], 0, seed=0)
    lesson = learn_increment(parent, LABELS, none, None, config, seed=3)
    assert weights_of(lesson.heads) == before["heads"]
    assert lesson.solved.shape == lesson.encoded.shape == (0, 32)
    assert lesson.epochs == 0
    after = generation_after(parent, LABELS, lesson, none, None, lesson.encoded, config, seed=3)
    assert digests_of(after) == before


def stopped_after(epochs: int, parent: Generation, config: LifelongConfig, checkpoint: Path) -> Lesson:
    """An increment that is cancelled, and taken up again by another process that knows only the checkpoint."""
    items, texts, done = noisy_items(), sayings(NEW, 5, seed=2), list[int]()
    with pytest.raises(FitCancelled):
        learn_increment(
            parent, LABELS, items, texts, config, seed=3, checkpoint=checkpoint,
            on_epoch=lambda progress: done.append(progress.epoch), is_cancelled=lambda: len(done) == epochs,
        )  # fmt: skip
    assert done == list(range(1, epochs + 1))
    return learn_increment(parent, LABELS, items, texts, config, seed=3, checkpoint=checkpoint)


def noisy_items() -> Items:
    """Items whose labels follow no feature, so that codes move in every code step."""
    items = photos(NEW, 20, seed=2)
    labels = np.random.default_rng(0).integers(BASE_CLASSES, CLASSES, len(items)).tolist()
    return Items(items.features, [(label,) for label in labels], items.keys)


def test_an_increment_stopped_at_any_epoch_ends_with_the_same_bytes_as_one_that_was_not(
    tmp_path: Path,
) -> None:
    config = settings(rounds=3, final_epochs=1, starts_from_labels=False, alpha=2.0, code_samples=40)
    parent, _ = first_generation(config, 5)
    whole = learn_increment(parent, LABELS, noisy_items(), sayings(NEW, 5, seed=2), config, seed=3)
    for epochs in range(1, config.epochs):
        again = stopped_after(epochs, parent, config, tmp_path / f"{epochs}.safetensors")
        assert digests_of_lesson(again) == digests_of_lesson(whole), f"stopped after epoch {epochs}"
        assert again.history == whole.history


def test_a_base_stage_stopped_half_way_ends_with_the_same_bytes(tmp_path: Path) -> None:
    config, items, texts = settings(), photos(OLD, 20, seed=1), sayings(OLD, 5, seed=1)
    done: list[int] = []
    with pytest.raises(FitCancelled):
        learn_base(
            BASE_LABELS, items, texts, config, seed=0, checkpoint=tmp_path / "base",
            on_epoch=lambda progress: done.append(progress.epoch), is_cancelled=lambda: len(done) == 4,
        )  # fmt: skip
    again = learn_base(BASE_LABELS, items, texts, config, seed=0, checkpoint=tmp_path / "base")
    whole = learn_base(BASE_LABELS, items, texts, config, seed=0)
    assert digests_of_lesson(again) == digests_of_lesson(whole)


def test_items_that_cannot_be_learned_are_refused() -> None:
    features = np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="no label"):
        Items(features, [(0,), ()], ["a", "b"])
    with pytest.raises(ValueError, match="1 different keys"):
        Items(features, [(0,), (1,)], ["a", "a"])
    with pytest.raises(ValueError, match="2 features, 1 label sets"):
        Items(features, [(0,)], ["a", "b"])
    with pytest.raises(ValueError, match="not finite"):
        Items(features + np.float32(np.nan), [(0,), (1,)], ["a", "b"])
    with pytest.raises(ValueError, match="no items"):
        learn_base(BASE_LABELS, photos([], 0, seed=0), None, settings(), seed=0)


def test_a_registry_that_does_not_extend_the_parents_is_refused_and_the_parent_stays() -> None:
    config = settings()
    parent, _ = first_generation(config)
    before, names = digests_of(parent), LABELS.names
    moved = LabelRegistry((names[1], names[0], *names[2:]), LABELS.weights)
    heavier = LabelRegistry(names, (2.0, *LABELS.weights[1:]))
    for registry in (moved, heavier, LabelRegistry(names[:4], (1.0,) * 4)):
        with pytest.raises(ValueError, match="append-only"):
            learn_increment(parent, registry, photos([6], 5, seed=2), None, config, seed=3)
    assert digests_of(parent) == before


@pytest.mark.parametrize(
    ("made_by", "mode", "kept"),
    [
        ("exemplar", "feature_gaussian", "exemplars"),
        ("feature_gaussian", "exemplar", "Gaussians"),
        ("new_only", "feature_gaussian", "nothing of features"),
        ("feature_gaussian", "analytic", "Gaussians"),
        ("analytic", "exemplar", "a Gram matrix"),
    ],
)
def test_a_mode_that_needs_what_its_parent_did_not_keep_is_refused(
    made_by: Mode, mode: Mode, kept: str
) -> None:
    parent, _ = first_generation(settings(mode=made_by))
    before = digests_of(parent)
    with pytest.raises(ValueError, match=f"mode {mode} cannot follow this parent, which keeps {kept}:"):
        learn_increment(parent, LABELS, photos([6], 5, seed=2), None, settings(mode=mode), seed=3)
    assert digests_of(parent) == before


@pytest.mark.parametrize("part", ["items", "seed", "texts", "memory", "heads", "validation"])
def test_a_checkpoint_is_refused_by_a_training_that_differs_in_anything(part: str, tmp_path: Path) -> None:
    config, checkpoint = settings(), tmp_path / "increment"
    parent, _ = first_generation(config, 5)
    stopped_after(1, parent, config, checkpoint)
    assert isinstance(parent.memory, ClassMemory)
    heads = copy.deepcopy(parent.heads)
    with torch.no_grad():
        next(heads.parameters()).add_(1e-3)
    changed = {
        "memory": replace(parent, memory=replace(parent.memory, means=parent.memory.means + 1)),
        "heads": replace(parent, heads=heads),
    }
    with pytest.raises(ValueError, match="belongs to"):
        learn_increment(
            changed.get(part, parent), LABELS, photos(NEW, 20, seed=8) if part == "items" else noisy_items(),
            sayings(NEW, 5, seed=9 if part == "texts" else 2), config, seed=4 if part == "seed" else 3,
            validation=photos(NEW, 2, seed=5) if part == "validation" else None, checkpoint=checkpoint,
        )  # fmt: skip


def test_texts_that_cannot_be_learned_are_refused() -> None:
    hashed = np.eye(2, 4, dtype=np.float32)
    with pytest.raises(ValueError, match="with 1 label sets"):
        Texts(hashed, [(0,)])
    with pytest.raises(ValueError, match="says nothing of labels"):
        Texts(hashed, [(0,), ()])
    with pytest.raises(ValueError, match="not finite"):
        Texts(hashed + np.float32(np.inf), [(0,), (1,)])
    for sets in ([(0,), (2, 1)], [(0,), (1, 1)], [(0,), (-1, 1)]):
        with pytest.raises(ValueError, match="ascending, each once, from 0 on"):
            Texts(hashed, sets)
        with pytest.raises(ValueError, match="ascending, each once, from 0 on"):
            Items(hashed, sets, ["a", "b"])
    parent, _ = first_generation(settings())
    with pytest.raises(ValueError, match="heads know no words"):
        learn_increment(parent, LABELS, photos([6], 5, seed=2), sayings([6], 5, seed=2), settings(), seed=3)
    with pytest.raises(ValueError, match=f"label {CLASSES} is not in the registry, which has {CLASSES}"):
        learn_increment(
            parent,
            LABELS,
            Items(photos([6], 1, seed=2).features, [(CLASSES,)], ["a"]),
            None,
            settings(),
            seed=3,
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_catalogue_where_nobody_has_said_anything_is_learned_like_one_without_texts(mode: Mode) -> None:
    config = settings(mode=mode)
    parent, _ = first_generation(config, 5)
    items, nothing = photos(NEW, 10, seed=2), Texts(np.empty((0, WORDS), np.float32), [])
    said, unsaid = (
        learn_increment(parent, LABELS, items, texts, config, seed=3) for texts in (nothing, None)
    )
    assert digests_of_lesson(said) == digests_of_lesson(unsaid)
    base = learn_base(LABELS, items, nothing, config, seed=3)
    assert base.heads.text is None


def sizes_in(thing: object) -> Iterator[tuple[int, ...]]:
    """Shapes of all arrays that are reached from `thing`, and lengths of its containers."""
    if isinstance(thing, np.ndarray | torch.Tensor):
        yield tuple(thing.shape)
    elif isinstance(thing, nn.Module):
        yield from (tuple(value.shape) for value in thing.state_dict().values())
    elif isinstance(thing, dict | list | tuple):
        yield (len(thing),)
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from sizes_in(part)
    elif is_dataclass(thing):
        for field in fields(thing):
            yield from sizes_in(getattr(thing, field.name))
    elif type(thing).__module__.startswith("ml."):
        yield from sizes_in({name: value for name, value in vars(thing).items() if name != "config"})


@pytest.mark.parametrize("mode", ["feature_gaussian", "exemplar", "new_only"])
def test_nothing_that_training_holds_or_looks_at_grows_with_the_number_of_stored_codes(mode: Mode) -> None:
    """Invariant 12: the sizes of all arrays are memory and time of a step."""
    config = settings(mode=mode, replay_share=1.0)
    parent, _ = first_generation(config, 5)

    def sizes(times: int) -> list[tuple[int, ...]]:
        tallies = {
            labels: Tally(times * tally.items, times * tally.code_sum)
            for labels, tally in parent.statistics.tallies.items()
        }
        stored = CodeStatistics(32, tallies, times * parent.statistics.gram)
        subject = Subject(LABELS, photos(NEW, 20, seed=2), stored, parent.memory, sayings(NEW, 5, seed=2))
        trainer = FixedCodeTrainer(subject, config, parent.heads, bridge=None, seed=0)
        stream = SampleStream(subject, trainer.sets, config, seed=0)
        trainer.start_epoch(2)  # a code step
        batches = [tuple(batch.images.shape) for batch in stream.epoch(2)]
        return [*sizes_in(trainer), *sizes_in(stream), *batches]

    few, many = sizes(1), sizes(1_000)
    assert len(few) > 50
    assert many == few
    assert max(max(shape, default=0) for shape in many) < 1_000  # of 200,000 stored codes


def test_a_generation_of_more_items_is_no_larger() -> None:
    """Invariant 12: what is handed from one increment to the next."""

    def sizes(per_class: int) -> list[tuple[int, ...]]:
        items = photos(OLD, per_class, seed=1)
        codes = random_signs(len(items), 32, np.random.default_rng(0))
        lesson = Lesson(CrossModalHeads(16, hidden=8, code_bits=32), codes, codes, 0.0, 0)
        known = generation_after(None, BASE_LABELS, lesson, items, None, codes, settings(), seed=0)
        return list(sizes_in(known))

    assert sizes(50) == sizes(2_000)
