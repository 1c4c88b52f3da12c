"""What a text is taught: the code of its items, or of all who carry the labels that it says."""

import numpy as np
import pytest

from ml.methods.lifelong.config import Mode
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.lesson import Items, Texts
from ml.methods.lifelong.statistics import CodeStatistics, Signs
from ml.methods.lifelong.text_targets import spoken_codes
from ml.methods.lifelong.training import FixedCodeTrainer, Subject
from ml.methods.lifelong.update import generation_after, learn_base, learn_increment
from tests.ml.lifelong.worlds import BASE_CLASSES, CLASSES, WIDTH, WORDS, codes_of, photos, settings

OLD, NEW = range(BASE_CLASSES), range(BASE_CLASSES, CLASSES)
TAG = CLASSES  # the label behind all classes
TAGGED = LabelRegistry((*(f"class {n}" for n in range(CLASSES)), "nylon"), (*(1.0,) * CLASSES, 0.1))
CARRIERS = (1, 3, 6)  # classes whose items are of nylon
SAYS_NYLON = 200  # the bucket of its name


def known(*counted: tuple[LabelSet, list[int]]) -> CodeStatistics:
    return CodeStatistics.of(
        [labels for labels, _ in counted], np.array([code for _, code in counted], np.int8)
    )


def test_a_whole_label_set_has_its_codeword_and_a_part_the_majority_code_of_all_who_carry_it() -> None:
    statistics = known(
        ((0, 2), [1, 1, -1, -1]), ((0, 2), [1, 1, -1, 1]), ((0, 2, 3), [-1, 1, -1, -1]), ((1, 2), [-1, -1, 1, -1]),
    )  # fmt: skip
    asked: list[LabelSet] = [(0, 2), (0, 2, 3), (0,), (2,), (3,), (1,), (2, 3)]
    assert spoken_codes(statistics, asked).tolist() == [
        [1, 1, -1, 1],  # not that of (0, 2, 3), who carries both too
        [-1, 1, -1, -1],
        [1, 1, -1, -1],  # of three items
        [1, 1, -1, -1],  # of four; an even split is +1
        [-1, 1, -1, -1],
        [-1, -1, 1, -1],
        [-1, 1, -1, -1],
    ]


def test_labels_that_no_item_carries_together_ask_for_no_code() -> None:
    statistics = known(((0, 2), [1, -1]), ((1,), [-1, -1]))
    assert spoken_codes(statistics, [(0, 1), (5,)]).tolist() == [[0, 0], [0, 0]]
    assert spoken_codes(CodeStatistics(2), [(0,)]).tolist() == [[0, 0]]


def tagged(classes: range, *, seed: int) -> Items:
    """Photos of classes; those of two of them carry a tag that hardly counts."""
    items = photos(classes, 40, seed=seed, name=f"photo {seed}")
    sets = [(*labels, TAG) if labels[0] in CARRIERS else labels for labels in items.sets]
    return Items(items.features, sets, items.keys)


def named(classes: range) -> Texts:
    """The name of each class and of the tag, a bucket to each, and a text of each class's items."""
    sets: list[LabelSet] = [*((n,) for n in classes), (TAG,)]
    hashed = np.zeros((len(sets), WORDS), np.float32)
    hashed[range(len(sets)), [*(10 * n for n in classes), SAYS_NYLON]] = 1
    whole = np.zeros((len(classes), WORDS), np.float32)
    whole[range(len(classes)), [10 * n + 1 for n in classes]] = 1
    return Texts(hashed, sets).joined(Texts(whole, [(n, TAG) if n in CARRIERS else (n,) for n in classes]))


def share_found(heads: CrossModalHeads, codes: Signs, items: Items) -> float:
    """Of pairs of a photo with the tag and one without: how often the tag's name is nearer to the first."""
    word = np.zeros((1, WORDS), np.float32)
    word[0, SAYS_NYLON] = 1
    assert heads.text is not None
    said = signs_of_logits(outputs_of(heads.text, word)).astype(np.int64)[0]
    near, carries = codes.astype(np.int64) @ said, np.array([TAG in labels for labels in items.sets])
    return float((near[carries][:, None] > near[~carries]).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_name_of_a_tag_that_hardly_counts_finds_unseen_photos_that_carry_it(seed: int) -> None:
    config = settings(final_epochs=12)
    heads = learn_base(TAGGED, tagged(OLD, seed=1), named(OLD), config, seed=seed).heads
    unseen = tagged(OLD, seed=9)
    assert share_found(heads, codes_of(heads, unseen), unseen) > 0.95


@pytest.mark.parametrize("mode", ["feature_gaussian", "exemplar", "analytic"])
def test_it_finds_old_and_new_photos_after_an_increment_with_new_carriers(mode: Mode) -> None:
    config, items, new = settings(mode=mode, final_epochs=12), tagged(OLD, seed=1), tagged(NEW, seed=2)
    lesson = learn_base(TAGGED, items, named(OLD), config, seed=0)
    known = generation_after(None, TAGGED, lesson, items, named(OLD), lesson.encoded, config, seed=0)
    after = learn_increment(known, TAGGED, new, named(NEW), config, seed=0)
    assert share_found(after.heads, lesson.encoded, items) > 0.95
    assert share_found(after.heads, after.encoded, new) > 0.95


def test_training_pulls_a_tag_that_no_item_has_alone_towards_those_who_carry_it() -> None:
    items, config = tagged(OLD, seed=1), settings()
    subject = Subject(TAGGED, items, CodeStatistics(config.code_bits), None, named(OLD))
    heads = CrossModalHeads(WIDTH, hidden=8, code_bits=config.code_bits, words=WORDS, text_hidden=8)
    trainer = FixedCodeTrainer(subject, config, heads, bridge=None, seed=0)
    carriers = trainer.codes[[TAG in labels for labels in items.sets]].astype(np.int64)
    expected = np.where(carriers.sum(axis=0) >= 0, 1.0, -1.0)
    np.testing.assert_array_equal(trainer.words[trainer.sets.index((TAG,))].numpy(), expected)
