"""Merging, splitting and emptying categories: everything goes along, no code is touched, all of it or nothing."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from searchapp.exceptions import Conflict, InvalidInput, NotFound
from searchapp.models import (
    AuditEvent,
    Category,
    CodeTally,
    CountedEntry,
    EvaluationQuery,
    GalleryEntry,
    Item,
    ItemImage,
    ModelVersion,
    Provenance,
)
from searchapp.services import catalogue, category_moves
from searchapp.services import code_statistics as statistics
from searchapp.services.gallery import gallery_transaction
from searchapp.services.gallery_views import engine_for, view_rebuilt
from tests.searchapp.coded_rows import entries_of, items_of, put_in_use, version_of
from tests.searchapp.test_catalogue_races import A_MOMENT, meanwhile
from tests.searchapp.test_code_statistics import assert_as_counted_from_nothing, count, held, photos_of

pytestmark = pytest.mark.database


@pytest.fixture
def first() -> ModelVersion:
    """1.0, in use."""
    version = version_of("1.0")
    put_in_use(version)
    return version


@pytest.fixture
def fruit(first: ModelVersion) -> list[Item]:
    """Counted: Fruit > Apple (3 items, 6 photos), Fruit > Apple > Red (1, 1), Fruit > Pear (2, 2)."""
    paths = ("Fruit > Apple", "Fruit > Apple > Red", "Fruit > Pear")
    apple, red, pear = (catalogue.category_ensure(path) for path in paths)
    items = items_of(apple, [2, 2, 2]) + items_of(red, [1]) + items_of(pear, [1, 1])
    entries_of(first, photos_of(items), seed=1)
    count(first)
    return items


def at(path: str) -> Category:
    return Category.objects.get(path=path)


def codes() -> dict[int, bytes]:
    return {pk: bytes(code) for pk, code in GalleryEntry.objects.values_list("pk", "code")}


def held_out(category: Category, source: str, item: Item | None = None) -> EvaluationQuery:
    return EvaluationQuery.objects.create(
        source=source,
        split="test",
        relevance="category",
        item=item,
        category=category,
        image_sha256="0" * 64,
        upload_sha256="0" * 64,
        extension="jpg",
    )


@pytest.mark.django_db
def test_merging_takes_items_categories_held_out_photos_and_counts_along(
    first: ModelVersion, fruit: list[Item]
) -> None:
    query = held_out(at("Fruit > Apple"), "q")
    before, apple = codes(), at("Fruit > Apple")

    merge = category_moves.categories_merge(source=apple, into=at("Fruit > Pear"))

    assert (merge.items, merge.photos, merge.categories, merge.codes) == (3, 6, 1, 6)
    assert not Category.objects.filter(pk=apple.pk).exists()
    assert held(first) == {"Fruit > Pear": 8, "Fruit > Pear > Red": 1}
    assert_as_counted_from_nothing(first)
    assert codes() == before
    query.refresh_from_db()
    assert query.category == at("Fruit > Pear")
    assert set(Item.objects.filter(category__path="Fruit > Pear > Red")) == {fruit[3]}
    assert "Fruit Pear Red" in Item.objects.get(pk=fruit[3].pk).search_text
    assert "Fruit Pear" in Item.objects.get(pk=fruit[0].pk).search_text


@pytest.mark.django_db
def test_the_audit_log_shows_what_was_where_and_that_no_code_was_touched(
    first: ModelVersion, fruit: list[Item]
) -> None:
    merge = category_moves.categories_merge(source=at("Fruit > Apple"), into=at("Fruit > Pear"))
    told = AuditEvent.objects.get(action="category.merge")
    assert told.subject == "Fruit > Apple"
    assert told.before == {"items": {"Fruit > Apple": 3}, "codes": 6, "codes_digest": merge.codes_digest}
    assert told.after == {
        "items": {"Fruit > Pear": 3},
        "codes": 6,
        "codes_digest": merge.codes_digest,
        "into": "Fruit > Pear",
        "merged": {"slug": "apple", "categories": 1},
    }


@pytest.mark.django_db
def test_a_code_that_changes_while_labels_move_takes_everything_back(
    first: ModelVersion, fruit: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = category_moves._items_move

    def moved(*args: Any) -> None:
        real(*args)
        entries_of(version_of("1.1", parent=first), photos_of(fruit[:1]), seed=9)

    monkeypatch.setattr(category_moves, "_items_move", moved)
    with pytest.raises(RuntimeError, match="stored codes were"), transaction.atomic():
        category_moves.categories_merge(source=at("Fruit > Apple"), into=at("Fruit > Pear"))

    assert held(first) == {"Fruit > Apple": 6, "Fruit > Apple > Red": 1, "Fruit > Pear": 2}
    assert not AuditEvent.objects.filter(action="category.merge").exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("source", "into", "error"),
    [
        ("Fruit > Apple", "Fruit > Apple", "is 'Fruit > Apple' or lies in it"),
        ("Fruit > Apple", "Fruit > Apple > Red", "lies in it"),
        ("Fruit > Apple", "Towers", "holds landmarks and 'Fruit > Apple' products"),
        ("Fruit > Apple", "Fruit > Pear", "Both hold a category 'Red'"),
    ],
)
def test_a_merge_that_cannot_be_is_refused_and_nothing_moves(
    first: ModelVersion, fruit: list[Item], source: str, into: str, error: str
) -> None:
    catalogue.category_ensure("Towers", vertical="landmark")
    catalogue.category_ensure("Fruit > Pear > Red")
    before = list(Category.objects.values_list("path", flat=True))

    with pytest.raises((InvalidInput, Conflict), match=error):
        category_moves.categories_merge(source=at(source), into=at(into))

    assert list(Category.objects.values_list("path", flat=True)) == before
    assert held(first) == {"Fruit > Apple": 6, "Fruit > Apple > Red": 1, "Fruit > Pear": 2}


@pytest.mark.django_db
def test_a_category_may_be_merged_into_one_above_it(first: ModelVersion, fruit: list[Item]) -> None:
    category_moves.categories_merge(source=at("Fruit > Apple"), into=at("Fruit"))
    assert held(first) == {"Fruit": 6, "Fruit > Red": 1, "Fruit > Pear": 2}


@pytest.mark.django_db
def test_a_category_that_is_gone_is_told(first: ModelVersion, fruit: list[Item]) -> None:
    apple = at("Fruit > Apple")
    category_moves.categories_merge(source=apple, into=at("Fruit > Pear"))
    with pytest.raises(NotFound, match="'Fruit > Apple' is gone"):
        category_moves.categories_merge(source=apple, into=at("Fruit > Pear"))


@pytest.mark.django_db
def test_the_slug_a_version_learned_is_given_to_no_other_category(
    first: ModelVersion, fruit: list[Item]
) -> None:
    """Else the version would seem to know a category it never saw."""
    put_in_use(version_of("1.1", parent=first, labels=["apple"]))
    category_moves.categories_merge(source=at("Fruit > Apple"), into=at("Fruit > Pear"))

    again = catalogue.category_create(name="Apple", parent=at("Fruit"))

    assert again.slug == "fruit-apple"
    assert again.learn_asked_at is not None
    with pytest.raises(InvalidInput, match="must be new"):
        catalogue.category_create(name="Other", slug="apple")


@pytest.mark.django_db
def test_a_split_keeps_codes_counted_and_waits_for_no_learning(
    first: ModelVersion, fruit: list[Item]
) -> None:
    before = codes()
    query = held_out(at("Fruit > Apple"), "q", fruit[0])

    new = category_moves.category_split(category=at("Fruit > Apple"), items=fruit[:2], name="Green apple")

    assert (new.path, new.vertical, new.learn_asked_at) == ("Fruit > Green apple", "product", None)
    assert held(first) == {
        "Fruit > Apple": 2, "Fruit > Apple > Red": 1, "Fruit > Green apple": 4, "Fruit > Pear": 2,
    }  # fmt: skip
    assert_as_counted_from_nothing(first)
    assert codes() == before
    query.refresh_from_db()
    assert query.category == new
    told = AuditEvent.objects.get(action="category.split")
    assert (told.before["items"], told.after["items"]) == ({"Fruit > Apple": 2}, {"Fruit > Green apple": 2})
    assert told.before["codes_digest"] == told.after["codes_digest"]


@pytest.mark.django_db
def test_what_is_split_off_a_category_that_waits_waits_too(first: ModelVersion, fruit: list[Item]) -> None:
    asked = timezone.now()
    kiwi = Category.objects.create(name="Kiwi", path="Kiwi", slug="kiwi", learn_asked_at=asked)
    items = items_of(kiwi, [1, 1])
    new = category_moves.category_split(category=kiwi, items=items[:1], name="Gold kiwi")
    assert new.learn_asked_at == asked


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("chosen", "error"),
    [
        (slice(0, 0), "none is chosen"),
        (slice(0, 3), "all 3 are chosen"),
        (slice(2, 4), "1 of 2 are not, or no longer, in"),
    ],
)
def test_a_split_that_cannot_be_is_refused_and_nothing_moves(
    first: ModelVersion, fruit: list[Item], chosen: slice, error: str
) -> None:
    with pytest.raises(InvalidInput, match=error):
        category_moves.category_split(category=at("Fruit > Apple"), items=fruit[chosen], name="New")
    assert not Category.objects.filter(name="New").exists()
    assert held(first) == {"Fruit > Apple": 6, "Fruit > Apple > Red": 1, "Fruit > Pear": 2}


@pytest.mark.django_db
def test_everything_inside_is_deleted_only_when_the_name_was_typed(
    first: ModelVersion, fruit: list[Item]
) -> None:
    held_out(at("Fruit > Apple > Red"), "q")
    with pytest.raises(InvalidInput, match="type 'Apple'") as refused:
        category_moves.category_delete_with_items(category=at("Fruit > Apple"), typed_name="apple")
    assert set(refused.value.fields) == {"typed_name"}
    assert Item.objects.count() == 6

    assert category_moves.category_delete_with_items(category=at("Fruit > Apple"), typed_name=" Apple ") == 4

    assert list(Category.objects.values_list("path", flat=True)) == ["Fruit", "Fruit > Pear"]
    assert held(first) == {"Fruit > Pear": 2}
    assert (GalleryEntry.objects.count(), EvaluationQuery.objects.count()) == (2, 0)
    assert_as_counted_from_nothing(first)
    told = AuditEvent.objects.get(action="category.delete")
    assert (told.before["items"], told.before["categories"]) == (4, 1)


@pytest.mark.django_db
def test_deleted_products_never_return_whichever_version_is_used_or_counted(
    first: ModelVersion, fruit: list[Item]
) -> None:
    second = version_of("1.1", parent=first)
    kept = [entry.pk for entry in entries_of(second, photos_of(fruit), seed=2)[7:]]
    count(second)

    category_moves.category_delete_with_items(category=at("Fruit > Apple"), typed_name="Apple")

    for version in (second, first, second):  # put back and forth
        put_in_use(version)
        view, _ = view_rebuilt(version, engine=engine_for(version))
        seen = view.compacted_entries()
        assert set(seen.item_ids.tolist()) == {item.pk for item in fruit[4:]}
        count(version)
        assert held(version) == {"Fruit > Pear": 2}
        assert_as_counted_from_nothing(version)
    assert set(seen.entry_ids.tolist()) == set(kept)


class Gallery(RuleBasedStateMachine):
    """Whatever staff do in whatever order, the statistics are what a count from nothing finds."""

    def __init__(self) -> None:
        super().__init__()
        self.step = transaction.atomic()
        self.step.__enter__()
        self.seed = 0
        first = version_of("1.0")
        self.versions = [first, version_of("1.1", parent=first, labels=["c-learned"])]
        put_in_use(first)
        for name in ("A", "B", "learned"):
            asked = timezone.now() if name == "learned" else None
            Category.objects.create(name=name, path=name, slug=f"c-{name}".lower(), learn_asked_at=asked)
        self.codes: dict[int, bytes] = {}
        self.add(0, 2)
        self.add(1, 1)

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.step.__exit__(None, None, None)

    def category(self, number: int) -> Category:
        rows = list(Category.objects.order_by("pk"))
        return rows[number % len(rows)]

    @rule(number=st.integers(0, 9), photos=st.integers(1, 3))
    def add(self, number: int, photos: int) -> None:
        self.seed += 1
        images = photos_of(items_of(self.category(number), [photos]))
        entries_of(self.versions[0], images, seed=self.seed)
        self.codes |= codes()

    @rule(number=st.integers(0, 9))
    def solve(self, number: int) -> None:
        self.seed += 1
        category = self.category(number)
        images = ItemImage.objects.filter(item__category=category).exclude(entries__producer=self.versions[1])
        entries_of(self.versions[1], list(images), seed=self.seed, provenance=Provenance.SOLVED)
        self.codes |= codes()

    @rule(which=st.integers(0, 1), in_use=st.booleans())
    def count(self, which: int, in_use: bool) -> None:
        version = self.versions[which]
        if in_use:
            put_in_use(version)
        with gallery_transaction():
            statistics.entries_count(version=version, image_ids=statistics.uncounted(version))
        assert statistics.uncounted(version) == []

    @rule(item=st.integers(0, 99), number=st.integers(0, 9))
    def relabel(self, item: int, number: int) -> None:
        rows = list(Item.objects.order_by("pk"))
        if rows:
            catalogue.item_update(item=rows[item % len(rows)], category=self.category(number))

    @rule(source=st.integers(0, 9), into=st.integers(0, 9))
    def merge(self, source: int, into: int) -> None:
        if Category.objects.count() < 3:
            return
        try:
            category_moves.categories_merge(source=self.category(source), into=self.category(into))
        except (InvalidInput, Conflict):
            return

    @rule(number=st.integers(0, 9))
    def split(self, number: int) -> None:
        category = self.category(number)
        items = list(category.items.order_by("pk"))
        if len(items) > 1:
            self.seed += 1
            category_moves.category_split(category=category, items=items[::2], name=f"split {self.seed}")

    @rule(number=st.integers(0, 9), parent=st.integers(0, 9))
    def rename(self, number: int, parent: int) -> None:
        self.seed += 1
        try:
            catalogue.category_update(
                category=self.category(number), name=f"name {self.seed}", parent=self.category(parent)
            )
        except InvalidInput:
            return

    @rule(item=st.integers(0, 99))
    def delete_item(self, item: int) -> None:
        rows = list(Item.objects.order_by("pk"))
        if rows:
            catalogue.item_delete(item=rows[item % len(rows)])

    @rule(image=st.integers(0, 99))
    def delete_photo(self, image: int) -> None:
        rows = list(ItemImage.objects.order_by("pk"))
        if rows:
            catalogue.image_delete(image=rows[image % len(rows)])

    @rule(number=st.integers(0, 9))
    @precondition(lambda _gallery: Category.objects.count() > 3)
    def delete_category(self, number: int) -> None:
        category = self.category(number)
        category_moves.category_delete_with_items(category=category, typed_name=category.name)

    @invariant()
    def statistics_are_as_counted_from_nothing(self) -> None:
        assert_as_counted_from_nothing(self.versions[0])
        astray = [
            row
            for row in CountedEntry.objects.select_related("image__item")
            if row.category_id != row.image.item.category_id
        ]
        assert astray == []
        assert set(CodeTally.objects.filter(items=0)) == set()

    @invariant()
    def no_stored_code_is_another_one(self) -> None:
        assert all(self.codes[pk] == code for pk, code in codes().items())
        assert statistics.codes_check(self.versions[0].lineage).changed == ()


@pytest.mark.django_db
def test_statistics_stand_whatever_staff_do_in_whatever_order() -> None:
    run_state_machine_as_test(
        Gallery,
        settings=settings(
            max_examples=12,
            stateful_step_count=18,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def at_once(actions: Sequence[Callable[[], Any]]) -> list[Exception]:
    """Each action in a thread and on a connection of its own, all started together; what they raised."""
    errors: list[Exception] = []
    start = threading.Barrier(len(actions), timeout=20)

    def run(action: Callable[[], Any]) -> None:
        try:
            start.wait()
            action()
        except Exception as error:  # noqa: BLE001  the caller looks at it
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return errors


@pytest.mark.django_db(transaction=True)
def test_relabelling_counting_and_deleting_at_once_end_as_a_count_from_nothing(
    data_dir: Path, first: ModelVersion
) -> None:
    one, other = catalogue.category_ensure("One"), catalogue.category_ensure("Other")
    items = items_of(one, [2] * 12) + items_of(other, [2] * 12)
    entries_of(first, photos_of(items), seed=1)
    count(first, photos_of(items[:12]))
    second = version_of("1.1", parent=first)
    entries_of(second, photos_of(items[:6]), seed=2)

    def relabel(rows: Sequence[Item], into: Category) -> Callable[[], Any]:
        def each() -> None:
            for item in rows:
                try:
                    catalogue.item_update(item=item, category=into)
                except NotFound:
                    assert not Item.objects.filter(pk=item.pk).exists()

        return each

    def delete_photos() -> None:
        for photo in photos_of(items[12:18]):
            catalogue.image_delete(image=photo)

    errors = at_once(
        [
            relabel(items[:12], other),
            relabel(list(reversed(items[:12])), one),
            lambda: [count(second, photos_of([item])) for item in items],
            lambda: [catalogue.items_delete(items=items[row : row + 3]) for row in (0, 9, 15)],
            delete_photos,
        ]
    )

    assert errors == []
    assert Item.objects.count() == 15
    assert_as_counted_from_nothing(first)
    count(second)
    assert statistics.uncounted(second) == []
    assert_as_counted_from_nothing(second)
    for row in CountedEntry.objects.select_related("image__item"):
        assert row.category_id == row.image.item.category_id


@pytest.mark.django_db(transaction=True)
def test_merging_two_categories_crosswise_while_items_move_ends_with_one_of_them(
    data_dir: Path, first: ModelVersion
) -> None:
    one, other, third = (catalogue.category_ensure(name) for name in ("One", "Other", "Third"))
    items = items_of(one, [1] * 8) + items_of(other, [1] * 8) + items_of(third, [1] * 8)
    entries_of(first, photos_of(items), seed=1)
    count(first)

    errors = at_once(
        [
            lambda: category_moves.categories_merge(source=one, into=other),
            lambda: category_moves.categories_merge(source=other, into=one),
            lambda: [catalogue.item_update(item=item, category=third) for item in items[:16:2]],
        ]
    )

    assert [type(error) for error in errors] == [NotFound]
    assert Category.objects.count() == 2
    assert Item.objects.count() == 24
    assert_as_counted_from_nothing(first)
    assert sum(held(first).values()) == 24


@pytest.mark.django_db(transaction=True)
def test_what_is_just_being_put_into_a_merged_category_goes_along(
    data_dir: Path, first: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("one writer at a time: whoever comes later finds the category gone")
    one, other, third = (catalogue.category_ensure(name) for name in ("One", "Other", "Third"))
    items = items_of(one, [1]) + items_of(third, [1])
    entries_of(first, photos_of(items), seed=1)
    count(first)

    def put_and_commit_late() -> None:
        with transaction.atomic():
            catalogue.item_update(item=items[1], category=one)
            time.sleep(2 * A_MOMENT)

    with meanwhile(monkeypatch, category_moves, "items_locked", put_and_commit_late):
        merge = category_moves.categories_merge(source=one, into=other)

    assert merge.items == 2
    assert held(first) == {"Other": 2}
    assert_as_counted_from_nothing(first)
