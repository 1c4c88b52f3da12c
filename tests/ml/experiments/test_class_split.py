"""Joined data sets, and data sets divided by class, on the real packs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.data.reserved import load_reserved
from ml.experiments.data import (
    ClassSplit,
    Dataset,
    Part,
    RetrievalTask,
    class_split,
    joined_dataset,
)
from ml.experiments.data.joining import with_unseen_queries

PACKS = ("grocery", "clothing", "catalog", "places_indoor")
PARTS = ("train", "validation", "test", "unseen_gallery", "unseen_queries")


@pytest.fixture(scope="module")
def packs(tiny_pack: Callable[[str], Dataset]) -> dict[str, Dataset]:
    return {name: tiny_pack(name) for name in PACKS}


@pytest.fixture(scope="module")
def union(packs: dict[str, Dataset]) -> Dataset:
    return joined_dataset(list(packs.values()))


@pytest.fixture(scope="module")
def union_split(union: Dataset) -> ClassSplit:
    return class_split(union)


def part(dataset: Dataset, title: str) -> Part:
    found = getattr(dataset, title)
    assert isinstance(found, Part)
    return found


def names_of(split: ClassSplit, labels: np.ndarray) -> set[str]:
    return {split.images.images.names[label] for label in labels}


def test_a_union_holds_every_picture_of_every_pack_under_its_own_name(
    packs: dict[str, Dataset], union: Dataset
) -> None:
    assert (union.name, union.kind, len(union.classes)) == ("union", "pack", 57 + 12 + 10 + 79)
    for title in PARTS:
        joined, start = part(union, title), 0
        for name, dataset in packs.items():
            own = part(with_unseen_queries(dataset), title)
            rows = slice(start, start + len(own))
            start += len(own)
            assert (joined.images.pixels[rows] == own.images.pixels).all()
            assert set(joined.images.packs[rows]) == {name}
            assert [joined.images.names[label] for label in joined.labels()[rows]] == [
                own.images.names[label] for label in own.labels()
            ]
        assert start == len(joined)
    assert union.validation.images.names == union.test.images.names == union.classes


def test_items_of_different_packs_never_meet_and_stay_together_within_one(
    packs: dict[str, Dataset], union: Dataset
) -> None:
    for title in PARTS:
        owns = [part(with_unseen_queries(dataset), title).items for dataset in packs.values()]
        joined = part(union, title).items
        assert len(set(joined.tolist())) == sum(len(set(items.tolist())) for items in owns)
        start = 0
        for items in owns:
            found = joined[start : start + len(items)]
            start += len(items)
            assert (found - items == found[0] - items[0]).all()


def test_a_shop_catalogue_asks_with_every_second_photo_of_each_reserved_product(
    packs: dict[str, Dataset],
) -> None:
    before = packs["catalog"].unseen_gallery
    assert before is not None
    after = with_unseen_queries(packs["catalog"])
    gallery, queries = part(after, "unseen_gallery"), part(after, "unseen_queries")

    sizes = np.bincount(before.labels())
    assert (np.bincount(gallery.labels()) == (sizes + 1) // 2).all()
    assert (np.bincount(queries.labels(), minlength=24) == sizes // 2).all()
    members = np.flatnonzero(before.labels() == 3)
    assert (queries.images.pixels[queries.images.labels == 3] == before.images.pixels[members[1::2]]).all()
    assert with_unseen_queries(packs["grocery"]) is packs["grocery"]


def test_a_unions_fingerprint_follows_its_parts_and_their_order(packs: dict[str, Dataset]) -> None:
    grocery, clothing = packs["grocery"], packs["clothing"]
    first = joined_dataset([grocery, clothing]).fingerprint

    assert first == joined_dataset([grocery, clothing]).fingerprint
    changed = replace(clothing, fingerprint="0" * 64)
    others = ([clothing, grocery], [grocery], [grocery, changed])
    assert len({first, *(joined_dataset(each).fingerprint for each in others)}) == 4


def test_what_cannot_be_joined_is_refused(packs: dict[str, Dataset], small_fashion: Dataset) -> None:
    with pytest.raises(ValueError, match="no data sets to join"):
        joined_dataset([])
    with pytest.raises(ValueError, match=r"pictures differ in channels and size.*fashion_mnist"):
        joined_dataset([packs["grocery"], small_fashion])
    with pytest.raises(ValueError, match="classes are in two data sets: catalog:Bags"):
        joined_dataset([packs["catalog"], packs["catalog"]])


def test_the_unions_classes_have_the_roles_the_committed_list_gives_them(union_split: ClassSplit) -> None:
    listed = load_reserved()
    assert set(union_split.validation) == {
        f"{pack}:{label}" for pack, labels in listed.validation.items() for label in labels
    }
    assert set(union_split.unseen) == {
        f"{pack}:{label}" for pack, labels in listed.reserved.items() for label in labels
    }
    assert [len(names) for names in (union_split.base, union_split.validation, union_split.unseen)] == [
        143, 15, 58,
    ]  # fmt: skip
    assert union_split.images.images.names == union_split.base + union_split.validation + union_split.unseen
    assert union_split.without_class == 0


def sizes_of(task: RetrievalTask) -> tuple[int, int, int, int]:
    return len(task.gallery), int(task.gallery_unseen.sum()), len(task.queries), int(task.query_unseen.sum())


def test_the_tasks_of_the_union_have_these_sizes_and_every_query_something_to_find(
    union_split: ClassSplit,
) -> None:
    assert len(union_split.train) == 6073
    assert sizes_of(union_split.choosing) == (6073 + 522, 522, 946, 246)
    assert sizes_of(union_split.final) == (6073 + 1559, 1559, 2926, 587)
    for task in (union_split.choosing, union_split.final):
        assert set(task.query_labels.tolist()) <= set(task.gallery_labels.tolist())


def test_training_sees_base_classes_alone_and_no_query_stands_in_its_gallery(union_split: ClassSplit) -> None:
    split, base = union_split, len(union_split.base)
    labels = split.images.labels()
    assert names_of(split, split.train_labels) == set(split.base)
    assert (labels[split.train] == split.train_labels).all()
    for task in (split.choosing, split.final):
        assert not set(task.gallery.tolist()) & set(task.queries.tolist())
        assert (labels[task.gallery] == task.gallery_labels).all()
        assert (labels[task.queries] == task.query_labels).all()
        assert (split.images.items[task.queries] == task.query_items).all()
        assert (task.gallery_unseen == (task.gallery_labels >= base)).all()
        assert (task.query_unseen == (task.query_labels >= base)).all()
        assert set(task.gallery[~task.gallery_unseen].tolist()) == set(split.train.tolist())
    chosen, reported = (set(task.queries.tolist()) for task in (split.choosing, split.final))
    assert not chosen & reported
    unseen = {len(split.base) + len(split.validation) + place for place in range(len(split.unseen))}
    assert not unseen & {*split.choosing.gallery_labels.tolist(), *split.choosing.query_labels.tolist()}
    assert not set(split.choosing.queries.tolist()) & set(split.train.tolist())


def test_a_tasks_pictures_are_the_packs_own(packs: dict[str, Dataset]) -> None:
    grocery = packs["grocery"]
    split = class_split(grocery)

    def pictures(rows: np.ndarray) -> list[bytes]:
        return sorted(row.numpy().tobytes() for row in split.images.images.pixels[torch.from_numpy(rows)])

    def own(title: str, names: tuple[str, ...]) -> list[bytes]:
        found = part(grocery, title)
        wanted = np.isin([found.images.names[label] for label in found.labels()], names)
        return sorted(row.numpy().tobytes() for row in found.images.pixels[torch.from_numpy(wanted)])

    assert pictures(split.train) == own("train", split.base)
    final = split.final
    assert pictures(final.gallery[final.gallery_unseen]) == own("unseen_gallery", split.unseen)
    assert pictures(final.queries[final.query_unseen]) == own("unseen_queries", split.unseen)
    assert pictures(final.queries[~final.query_unseen]) == own("test", split.base)
    choosing = split.choosing
    assert pictures(choosing.queries[~choosing.query_unseen]) == own("validation", split.base)
    assert sorted(
        pictures(choosing.queries[choosing.query_unseen])
        + pictures(choosing.gallery[choosing.gallery_unseen])
    ) == sorted(own("validation", split.validation) + own("train", split.validation))


def test_fashion_holds_three_classes_out_and_is_cut_evenly_to_what_is_asked(fashion: Dataset) -> None:
    split = class_split(fashion, gallery_per_class=200, queries_per_class=20, train_per_class=300)

    assert split.unseen == ("fashion_mnist:Pullover", "fashion_mnist:Sneaker", "fashion_mnist:Bag")
    assert len(split.base) == 7
    assert split.validation == ()
    assert np.bincount(split.train_labels).tolist() == [300] * 7
    assert sizes_of(split.final) == (2000, 600, 200, 60)
    assert sizes_of(split.choosing) == (1400, 0, 140, 0)
    members = np.flatnonzero(fashion.test.labels() == 8)  # bags
    bags = split.final.queries[
        split.final.query_labels == split.images.images.names.index("fashion_mnist:Bag")
    ]
    assert (
        split.images.images.pixels[torch.from_numpy(bags)] == fashion.test.images.pixels[members[::50]]
    ).all()
    used = {*split.train.tolist(), *split.final.gallery.tolist(), *split.final.queries.tolist()}
    assert {*used, *split.choosing.queries.tolist()} == set(
        range(len(split.images))
    )  # nothing unused is kept


def test_asked_for_validation_classes_choose_and_are_not_trained_on(small_fashion: Dataset) -> None:
    split = class_split(small_fashion, validation=["fashion_mnist:Shirt"])

    assert len(split.base) == 6
    assert sizes_of(split.choosing) == (6 * 40 + 30, 30, 7 * 40 + 10, 50)
    assert sizes_of(split.final) == (9 * 40, 120, 9 * 40, 120)
    assert "fashion_mnist:Shirt" not in names_of(split, split.final.gallery_labels)


def test_elsewhere_one_class_in_five_is_held_out_and_strange_test_photos_are_counted(
    small_fashion: Dataset,
) -> None:
    images = small_fashion.test.images
    strange = images.labels.clone()
    strange[:3] = -1
    test = replace(small_fashion.test, images=replace(images, labels=strange))
    split = class_split(replace(small_fashion, name="folder", test=test))

    assert (len(split.base), len(split.unseen)) == (8, 2)
    assert split.without_class == 3
    assert len(split.final.queries) == 400 - 3
    assert class_split(replace(small_fashion, name="folder")).unseen == split.unseen


def test_the_fingerprint_tells_classes_and_caps_apart(small_fashion: Dataset) -> None:
    splits = [
        class_split(small_fashion),
        class_split(small_fashion, queries_per_class=5),
        class_split(small_fashion, gallery_per_class=5),
        class_split(small_fashion, held_out=["fashion_mnist:Bag"]),
        class_split(replace(small_fashion, fingerprint="0" * 64)),
    ]
    assert len({split.fingerprint for split in splits}) == 5
    assert class_split(small_fashion).fingerprint == splits[0].fingerprint


def test_roles_that_cannot_be_are_refused(small_fashion: Dataset, packs: dict[str, Dataset]) -> None:
    with pytest.raises(ValueError, match="has no class fashion_mnist:Hat; it has fashion_mnist:"):
        class_split(small_fashion, held_out=["fashion_mnist:Hat"])
    with pytest.raises(ValueError, match="both validating and unseen: fashion_mnist:Bag"):
        class_split(small_fashion, validation=["fashion_mnist:Bag"])
    with pytest.raises(ValueError, match="classes left to train on: 0"):
        class_split(small_fashion, held_out=small_fashion.classes)
    with pytest.raises(ValueError, match="grocery has reserved classes"):
        class_split(packs["grocery"], held_out=packs["grocery"].classes[:2])
    with pytest.raises(ValueError, match="at most 0 images of a class"):
        class_split(small_fashion, queries_per_class=0)
