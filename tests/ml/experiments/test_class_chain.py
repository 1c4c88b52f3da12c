"""Classes learned group after group, on the real packs: who is new, who asks, and what is held apart."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.data.reserved import load_reserved
from ml.experiments.data import ClassChain, Dataset, Ids, Part, class_chain, few, joined_dataset
from ml.experiments.data.joining import with_unseen_queries

PACKS = ("grocery", "clothing", "catalog", "places_indoor")


@pytest.fixture(scope="module")
def grocery(tiny_pack: Callable[[str], Dataset]) -> Dataset:
    return tiny_pack("grocery")


@pytest.fixture(scope="module")
def catalog(tiny_pack: Callable[[str], Dataset]) -> Dataset:
    return with_unseen_queries(tiny_pack("catalog"))


@pytest.fixture(scope="module")
def union(tiny_pack: Callable[[str], Dataset]) -> Dataset:
    return joined_dataset([tiny_pack(name) for name in PACKS])


@pytest.fixture(scope="module")
def digits(fashion: Dataset, small_fashion: Dataset) -> Dataset:
    """Fashion-MNIST beside itself turned upside down: twenty classes, at most 40 pictures of each in a part."""

    def turned(part: Part) -> Part:
        names = tuple(name.replace("fashion", "turned") for name in part.images.names)
        images = replace(part.images, names=names, pixels=part.images.pixels.flip(2))
        return replace(part, images=images, described=())

    other = replace(
        small_fashion,
        name="turned",
        train=turned(small_fashion.train),
        validation=turned(small_fashion.validation),
        test=turned(small_fashion.test),
    )
    return joined_dataset([small_fashion, other])


def pictures(part: Part, rows: Ids | None = None) -> Counter[tuple[str, bytes]]:
    """Class and pixels of some images of a part."""
    chosen = np.arange(len(part)) if rows is None else rows
    pixels, labels = part.images.pixels[torch.from_numpy(chosen)], part.labels()[chosen]
    return Counter(
        (part.images.names[label], picture.numpy().tobytes()) for label, picture in zip(labels, pixels)
    )


def named(chain: ClassChain, rows: Ids) -> Counter[str]:
    return Counter(chain.classes[label] for label in chain.images.labels()[rows])


def seen(part: Part | None, names: tuple[str, ...]) -> Counter[tuple[str, bytes]]:
    assert part is not None
    return Counter({shown: count for shown, count in pictures(part).items() if shown[0] in names})


def assert_roles_share_nothing(chain: ClassChain) -> None:
    roles = (chain.gallery, chain.validation, chain.queries, chain.held_out)
    every = np.concatenate(roles)
    assert sorted(every.tolist()) == list(range(len(chain.images)))  # each once, and nothing unused is kept
    assert all((np.diff(rows) > 0).all() for rows in roles)
    labels = chain.images.labels()
    assert (labels[chain.held_out] == -1).all()
    assert labels[np.concatenate(roles[:3])].min() >= 0


def test_grocery_learns_twenty_classes_after_forty_nine_five_at_a_time(grocery: Dataset) -> None:
    chain = class_chain(grocery, base=49, steps=4)

    listed = load_reserved()
    reserved = {f"grocery:{label}" for label in listed.reserved["grocery"]}
    validation = {f"grocery:{label}" for label in listed.validation["grocery"]}
    first, learned = chain.classes[:49], set(chain.classes[49:])
    assert chain.ends == (49, 54, 59, 64, 69)
    assert first == tuple(name for name in grocery.classes if name not in learned)
    assert learned == reserved | validation | {"grocery:Banana", "grocery:Pink-Lady"}
    assert len(chain.classes) == len(set(chain.classes)) == 69
    assert chain.images.images.names == chain.classes


def test_groups_are_as_even_as_can_be_or_as_given_and_leave_the_order_alone(grocery: Dataset) -> None:
    even = class_chain(grocery, base=49, steps=6)
    given = class_chain(grocery, base=49, steps=[2] * 8 + [1] * 4)

    assert np.diff(even.ends).tolist() == [4, 4, 3, 3, 3, 3]
    assert np.diff(given.ends).tolist() == [2] * 8 + [1] * 4
    assert given.classes == even.classes
    assert even.classes[49:53] == (  # as drawn by seed 0
        "grocery:Satsumas", "grocery:Yoggi-Vanilla-Yoghurt", "grocery:Banana",
        "grocery:God-Morgon-Orange-Red-Grapefruit-Juice",
    )  # fmt: skip


def test_every_photo_of_grocery_has_one_role_and_test_photos_ask(grocery: Dataset) -> None:
    chain = class_chain(grocery, base=49, steps=4)
    assert_roles_share_nothing(chain)

    every = chain.classes
    assert pictures(chain.images, chain.queries) == seen(grocery.test, every) + seen(
        grocery.unseen_queries, every
    )
    stored, asking = (pictures(chain.images, rows) for rows in (chain.gallery, chain.validation))
    parts = (grocery.train, grocery.validation, grocery.unseen_gallery)
    assert stored + asking == sum((seen(part, every) for part in parts), Counter())
    assert seen(grocery.validation, every) <= asking
    base = every[:49]
    assert seen(grocery.train, base) <= stored


def test_one_in_eight_photos_of_a_new_class_validates_where_its_own_are_too_few(grocery: Dataset) -> None:
    chain = class_chain(grocery, base=49, steps=4)

    found, own = named(chain, chain.validation), Counter(name for name, _ in pictures(grocery.validation))
    entries = Counter(name for name, _ in pictures(grocery.train))
    assert grocery.unseen_gallery is not None
    entries += Counter(name for name, _ in pictures(grocery.unseen_gallery))
    assert {name: found[name] for name in chain.classes[49:]} == {
        name: own[name] if own[name] >= 2 else own[name] + entries[name] // 8 for name in chain.classes[49:]
    }
    assert min(found[name] for name in chain.classes[49:]) >= 2
    assert {name for name in chain.classes[:49] if own[name] < 2}  # base classes give none of theirs away
    assert all(found[name] == own[name] for name in chain.classes[:49])


def test_of_three_to_seven_photos_the_last_one_validates_and_of_two_none(grocery: Dataset) -> None:
    for shown, spared in ((3, 1), (5, 1), (2, 0)):
        part = few(grocery, per_class=shown).unseen_gallery
        assert part is not None
        chain = class_chain(few(grocery, per_class=shown), steps=1)
        name = f"grocery:{min(load_reserved().reserved['grocery'])}"
        assert named(chain, chain.validation)[name] == spared
        assert named(chain, chain.gallery)[name] == shown - spared
        if spared:
            last = np.flatnonzero(part.labels() == part.images.names.index(name))[-1:]
            assert pictures(part, last) <= pictures(chain.images, chain.validation)


def test_settings_are_chosen_without_a_reserved_class_or_a_test_photo(grocery: Dataset) -> None:
    chain = class_chain(grocery, base=49, steps=2, choosing=True)
    assert_roles_share_nothing(chain)

    reported = class_chain(grocery, base=49, steps=4)
    reserved = {f"grocery:{label}" for label in load_reserved().reserved["grocery"]}
    assert chain.classes[:49] == reported.classes[:49]
    assert set(chain.classes[49:]) == set(reported.classes[49:]) - reserved
    new = chain.classes[49:]
    fourth: list[int] = []
    for name in new:
        members = np.flatnonzero(grocery.train.labels() == grocery.classes.index(name))
        fourth += members[3::4].tolist()
    moved = pictures(grocery.train, np.array(sorted(fourth)))
    asking = pictures(chain.images, np.concatenate([chain.queries, chain.validation]))
    assert asking == pictures(grocery.validation) + moved
    assert pictures(chain.images, chain.gallery) == pictures(grocery.train) - moved
    turns = np.sort(np.concatenate([chain.queries, chain.validation]))
    assert (turns[::2] == chain.queries).all()
    assert (turns[1::2] == chain.validation).all()


def test_reserved_products_and_test_photos_of_a_shop_catalogue_are_held_apart(
    union: Dataset, catalog: Dataset
) -> None:
    chain = class_chain(union, steps=10)
    assert_roles_share_nothing(chain)

    listed = load_reserved()
    new = {*listed.reserved["grocery"], *listed.reserved["clothing"], *listed.reserved["places_indoor"]}
    new |= {label for labels in listed.validation.values() for label in labels}
    assert {name.partition(":")[2] for name in chain.classes[143:]} == new
    assert chain.ends[::10] == (143, 192)
    assert catalog.unseen_gallery is not None
    assert catalog.unseen_queries is not None
    held, pixels = Counter[bytes](), chain.images.images.pixels
    for part in (catalog.unseen_gallery, catalog.unseen_queries, catalog.test):
        held += Counter(picture.numpy().tobytes() for picture in part.images.pixels)
    assert Counter(pixels[row].numpy().tobytes() for row in chain.held_out.tolist()) == held
    others = np.concatenate([chain.gallery, chain.validation, chain.queries])
    shop = [name for row, name in zip(others, named_in_order(chain, others)) if name.startswith("catalog:")]
    assert len(shop) == len(catalog.train) + len(catalog.validation)


def named_in_order(chain: ClassChain, rows: Ids) -> list[str]:
    return [chain.classes[label] for label in chain.images.labels()[rows]]


def test_a_held_out_product_is_one_item_whichever_split_shows_it(union: Dataset) -> None:
    chain = class_chain(union, steps=10)

    items, described = chain.images.items[chain.held_out], chain.images.described
    texts = {item: set[str]() for item in items.tolist()}
    for row, item in zip(chain.held_out.tolist(), items.tolist()):
        texts[item].add(described[row].text)
    assert len(texts) == 24 + 23
    assert all(len(found) == 1 for found in texts.values())
    assert len({text for found in texts.values() for text in found}) == 24 + 23
    others = np.concatenate([chain.gallery, chain.validation, chain.queries])
    assert not set(items.tolist()) & set(chain.images.items[others].tolist())


def test_settings_are_chosen_without_held_out_products(union: Dataset) -> None:
    chain = class_chain(union, steps=5, choosing=True)
    assert_roles_share_nothing(chain)
    assert len(chain.held_out) == 0
    assert chain.ends == (143, 146, 149, 152, 155, 158)


def test_the_words_of_every_photo_stay_with_it(union: Dataset) -> None:
    chain = class_chain(union, steps=10)

    labels = chain.images.labels()
    assert len(chain.images.described) == len(chain.images)
    for row in np.flatnonzero(labels >= 0).tolist():
        assert chain.images.described[row].categories[-1] == chain.classes[labels[row]]
    assert {chain.images.described[row].categories[-1] for row in chain.held_out.tolist()} <= set(
        union.classes
    )


def test_without_words_a_reserved_product_counts_as_a_class(catalog: Dataset) -> None:
    assert catalog.unseen_gallery is not None
    assert catalog.unseen_queries is not None
    plain = replace(
        catalog,
        unseen_gallery=replace(catalog.unseen_gallery, described=()),
        unseen_queries=replace(catalog.unseen_queries, described=()),
    )
    chain = class_chain(plain, steps=3)

    assert chain.ends == (10, 18, 26, 34)
    assert len(chain.held_out) == 0
    assert chain.images.described == ()


def test_digits_learn_what_they_are_told_and_are_cut_evenly(digits: Dataset) -> None:
    new = ["fashion_mnist:Bag", "fashion_mnist:Coat", "fashion_mnist:Dress"]
    new += [name.replace("fashion", "turned") for name in new]
    chain = class_chain(digits, steps=[1, 2, 3], new=new, gallery_per_class=12, queries_per_class=5)
    assert_roles_share_nothing(chain)

    assert chain.ends == (14, 15, 17, 20)
    assert set(chain.classes[14:]) == set(new)
    assert named(chain, chain.gallery) == dict.fromkeys(chain.classes, 12)
    assert named(chain, chain.validation) == named(chain, chain.queries) == dict.fromkeys(chain.classes, 5)
    members = np.flatnonzero(digits.test.labels() == digits.classes.index("fashion_mnist:Bag"))
    bags = pictures(digits.test, members[::8])
    assert bags <= pictures(chain.images, chain.queries)


def test_fashion_learns_the_classes_it_holds_out_elsewhere(small_fashion: Dataset) -> None:
    chain = class_chain(small_fashion, steps=3)

    assert set(chain.classes[7:]) == {
        "fashion_mnist:Pullover", "fashion_mnist:Sneaker", "fashion_mnist:Bag",
    }  # fmt: skip
    assert chain.ends == (7, 8, 9, 10)
    assert (len(chain.gallery), len(chain.validation), len(chain.queries)) == (400, 400, 400)


def test_the_fingerprint_tells_classes_groups_roles_and_caps_apart(small_fashion: Dataset) -> None:
    chains = [
        class_chain(small_fashion, steps=3),
        class_chain(small_fashion, steps=1),
        class_chain(small_fashion, steps=3, base=6),
        class_chain(small_fashion, steps=3, choosing=True),
        class_chain(small_fashion, steps=3, gallery_per_class=5),
        class_chain(small_fashion, steps=3, queries_per_class=5),
        class_chain(replace(small_fashion, fingerprint="0" * 64), steps=3),
    ]
    assert len({chain.fingerprint for chain in chains}) == 7
    assert class_chain(small_fashion, steps=3).fingerprint == chains[0].fingerprint


def test_chains_that_cannot_be_are_refused(small_fashion: Dataset, grocery: Dataset) -> None:
    with pytest.raises(ValueError, match="steps of 1, 3 learn 4 classes, there are 3 new ones"):
        class_chain(small_fashion, steps=[1, 3])
    with pytest.raises(ValueError, match="each step learns at least 1"):
        class_chain(small_fashion, steps=[3, 0])
    with pytest.raises(ValueError, match="4 steps to learn 3 new classes, allowed: 1 to 3"):
        class_chain(small_fashion, steps=4)
    with pytest.raises(ValueError, match="8 base classes wanted, allowed: 1 to 7"):
        class_chain(small_fashion, steps=1, base=8)
    with pytest.raises(ValueError, match="has no class fashion_mnist:Hat"):
        class_chain(small_fashion, steps=1, new=["fashion_mnist:Hat"])
    with pytest.raises(ValueError, match="grocery has reserved classes: new ones cannot be given too"):
        class_chain(grocery, steps=1, new=grocery.classes[:2])
    with pytest.raises(ValueError, match="at most 0 images of a class"):
        class_chain(small_fashion, steps=1, queries_per_class=0)
