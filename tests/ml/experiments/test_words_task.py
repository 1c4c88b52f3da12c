"""Claim C6g's task on five photos of three made-up products, counted by hand, and on the real catalogue's words."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ml.data.packs import open_pack
from ml.evaluation.metrics import mean_of
from ml.experiments.data.parts import Described
from ml.experiments.lifelong.words import (
    WEIGHTS,
    WordsTask,
    best_weight,
    bm25_scores,
    borrowed_bm25,
    code_scores,
    fused_scores,
    image_to_text,
    text_to_image,
    words_task,
)

NAN = float("nan")


def product(text: str, *tags: str, leaf: str = "shop:Jackets") -> Described:
    return Described(categories=("shop:coarse:Tops", leaf), tags=tags, text=text)


PARKA, TEE, HAT = "A nylon parka.", "A tee of nylon and wool.", "Warm."
DESCRIBED = [
    product(PARKA, "material:nylon", "colour:red"),
    product(TEE, "material:wool", "style:tee", "colour:blue", leaf="shop:Tees"),
    product(PARKA, "material:nylon", "colour:blue"),
    product(HAT, "material:wool", "colour:red"),
    product(TEE, "material:wool", "style:tee", "colour:blue", leaf="shop:Tees"),
]
ITEMS = np.array([7, 2, 7, 5, 2])  # texts in the order of the ids: tee, hat, parka


@pytest.fixture
def task() -> WordsTask:
    return words_task(DESCRIBED, ITEMS)


def row(task: WordsTask, query: str) -> int:
    return task.queries.index(query)


def test_queries_are_the_words_of_labels_that_not_most_items_carry(task: WordsTask) -> None:
    # tops, on all three items, wool and blue and jackets on two of three are too common
    assert task.queries == ("nylon", "tee")
    assert task.texts == (TEE, HAT, PARKA)
    assert task.item_of.tolist() == [2, 0, 2, 1, 0]
    assert len(task) == 5


def test_labels_that_read_the_same_are_one_query(task: WordsTask) -> None:
    assert task.relevant[row(task, "tee")].tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]  # shop:Tees and style:tee


def test_a_photo_is_relevant_by_its_own_labels_and_lacking_where_its_items_text_has_no_word_of_the_query() -> (
    None
):
    others = [product(text, leaf="shop:Hats") for text in ("One.", "Two.", "Red, three.")]
    task = words_task([*DESCRIBED, *others], np.array([*ITEMS, 11, 12, 13]))
    for query, relevant, lacking in [
        ("nylon", [0, 2], []),
        ("red", [0, 3], [0, 3]),
        ("blue", [1, 2, 4], [1, 2, 4]),
        ("wool", [1, 3, 4], [3]),
        ("jackets", [0, 2, 3], [0, 2, 3]),
    ]:
        assert np.flatnonzero(task.relevant[row(task, query)]).tolist() == relevant, query
        assert np.flatnonzero(task.lacking[row(task, query)]).tolist() == lacking, query
    assert "tops" not in task.queries


def small(relevant: list[list[int]], lacking: list[list[int]], bm25: list[list[float]]) -> WordsTask:
    """Four photos, each of an item of its own."""
    places = np.arange(4)
    return WordsTask(
        queries=tuple("ab"[: len(relevant)]), texts=("one", "two", "one", "four"), item_of=places,
        relevant=np.array(relevant, bool), lacking=np.array(lacking, bool), bm25=np.array(bm25),
        leaf_of=np.array([0, 1, 0, 1]), text_leaf=np.array([0, 1, 0, 1]),
    )  # fmt: skip


def test_precision_over_all_photos_and_over_those_that_lack_the_words_match_the_hand_calculation() -> None:
    task = small([[1, 0, 1, 0], [0, 1, 0, 0]], [[0, 0, 1, 0], [0, 0, 0, 0]], np.zeros((2, 4)).tolist())
    found = text_to_image(task, np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    # a: relevant at places 1 and 3; without the first, which has the words, the other one is at place 2
    assert found["map_words"].tolist() == pytest.approx([(1 + 2 / 3) / 2, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4])
    np.testing.assert_allclose(found["map_lacking"], [1 / 2, NAN])


def test_photos_find_their_own_text_and_those_of_their_category() -> None:
    task = small([[1, 0, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]])
    found = image_to_text(task, np.tile([4.0, 3.0, 2.0, 1.0], (4, 1)))
    # texts 0 and 2 read the same, so both answer photos 0 and 2
    assert found["map_text"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 2, (1 + 2 / 3) / 2, 1 / 4])
    category = [(1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2]
    assert found["map_text_category"].tolist() == pytest.approx(category * 2)


def test_code_similarity_is_one_minus_twice_the_share_of_differing_bits() -> None:
    one = np.array([[1, 1, -1, 1]], np.float32)
    entries = np.array([[1, 1, -1, 1], [1, 1, 1, 1], [-1, -1, 1, -1]], np.float32)
    assert code_scores(one, entries).tolist() == [[1.0, 0.5, -1.0]]


def test_each_query_is_fused_by_its_own_best() -> None:
    words = np.array([[4.0, 2.0], [0.0, 0.5]])
    codes = np.array([[-1.0, 1.0], [1.0, 0.0]])
    assert fused_scores(words, codes, weight=0.5).tolist() == [[0.5, 0.75], [0.5, 0.75]]


def test_the_best_weight_is_codes_where_words_are_blind_and_words_where_codes_are() -> None:
    def chosen(bm25: list[float], codes: list[float]) -> float:
        task = small([[1, 0, 0, 0]], [[0, 0, 0, 0]], [bm25])
        return best_weight(bm25_scores(task), np.array([codes]), partial(text_to_image, task))

    near, far = [0.5, 0.0, 0.0, 0.0], [-1.0, 1.0, 1.0, 1.0]
    assert chosen([0.0] * 4, near) == WEIGHTS[1]  # the smallest that breaks the ties
    assert chosen([2.0, 1.0, 0.0, 0.0], far) == 0.0
    # the wrong one is ahead by 0.5 (1 - w), the codes' lead is w
    assert chosen([1.0, 2.0, 0.0, 0.0], [1.0, -1.0, -1.0, -1.0]) == 0.4


def test_borrowed_words_rank_the_texts_that_share_them_first(task: WordsTask) -> None:
    found = borrowed_bm25(task, ["nylon parka", "wool", "nylon parka", "", "wool"])
    assert found.shape == (5, 3)
    assert found.argmax(axis=1).tolist() == [2, 0, 2, 0, 0]
    assert (found[3] == 0).all()
    np.testing.assert_array_equal(found[0], found[2])


def test_what_does_not_fit_is_refused(task: WordsTask) -> None:
    with pytest.raises(ValueError, match="5 descriptions of 4 photos"):
        words_task(DESCRIBED, ITEMS[:4])
    with pytest.raises(ValueError, match=r"item 7 has two texts: 'A nylon parka\.' and 'Warm\.'"):
        words_task(DESCRIBED, np.array([7, 2, 7, 7, 2]))
    with pytest.raises(ValueError, match=r"scores are \(2, 4\), expected \(2, 5\)"):
        text_to_image(task, np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"scores are \(5, 2\), expected \(5, 3\)"):
        image_to_text(task, np.zeros((5, 2)))


def test_in_the_shops_catalogue_words_alone_find_named_photos_and_only_guess_at_the_rest(
    data_packs: Path,
) -> None:
    records = list(open_pack(data_packs / "catalog").records())
    described = [
        Described(
            categories=(f"catalog:{record.category}",), tags=record.tags, text=record.columns["description"]
        )
        for record in records
    ]
    items = np.unique([record.columns["product_id"] for record in records], return_inverse=True)[1]
    task = words_task(described, items)
    found = text_to_image(task, bm25_scores(task))
    chance = text_to_image(task, np.zeros(task.relevant.shape))
    assert (len(task), len(task.texts)) == (629, 159)
    assert "pattern solid" not in task.queries
    assert "solid" not in task.queries  # on three items of four
    assert not (task.lacking & (bm25_scores(task) > 0)).any()
    assert mean_of(found["map_words"])[0] > 2 * mean_of(chance["map_words"])[0]
    assert mean_of(found["map_lacking"])[0] < mean_of(chance["map_lacking"])[0]
