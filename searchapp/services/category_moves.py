"""Merging, splitting and emptying categories: items and their labels move or go, no stored code is touched."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import QuerySet

from searchapp.exceptions import Conflict, InvalidInput, NotFound
from searchapp.models import PATH_SEPARATOR, Category, ChangeKind, EvaluationQuery, Item
from searchapp.services import audit
from searchapp.services.catalogue import DELETE_BATCH, item_rows_delete
from searchapp.services.categories import (
    category_create,
    category_row_move,
    held_out_files,
)
from searchapp.services.code_statistics import photos_locked
from searchapp.services.gallery import Changes, gallery_transaction
from searchapp.services.gallery_columns import in_chunks
from searchapp.services.item_fields import search_text_refresh
from searchapp.services.learning import version_in_use, waiting_categories
from searchapp.services.media import media_remove_unused
from searchapp.services.relabelling import items_locked, photos_of, relabelling


@dataclass(frozen=True, slots=True)
class Merge:
    """What went from one category into another, and the digest of its stored codes: the same before and after."""

    into: Category
    items: int
    photos: int
    categories: int
    codes: int
    codes_digest: str


def categories_merge(*, source: Category, into: Category, user: AbstractBaseUser | None = None) -> Merge:
    """Everything of `source` goes to `into`: items, categories inside, held-out photos, counts. `source` is deleted.

    Its slug stays in the versions that learned it, as history, and is given to no other category. Raises InvalidInput
    (field into) and Conflict; nothing is written then.
    """
    with gallery_transaction() as changes:
        source, into = _locked(source, into)
        _check_merge(source, into)
        children = list(source.children.order_by("pk"))
        _contents_locked(source)
        # From here on nobody can put anything into it; whoever was about to has done so or waits.
        Category.objects.select_for_update().get(pk=source.pk)
        items = list(source.items.order_by("pk").values_list("pk", flat=True))
        was = {"slug": source.slug, "categories": len(children)}
        more = {"into": into.path, "merged": was}
        with relabelling(items, action="category.merge", subject=source.path, user=user, more=more) as moved:
            _items_move(changes, items, into)
            EvaluationQuery.objects.filter(category=source).update(category=into)
            for child in children:
                category_row_move(changes, child, parent=into)
        source.delete()
    return Merge(into, len(items), moved.photos, len(children), moved.codes.count, moved.codes.digest)


def category_split(
    *, category: Category, items: Sequence[Item], name: str, user: AbstractBaseUser | None = None
) -> Category:
    """A new category beside this one that takes some of its items.

    It knows what they knew: their codes stay and count under it, so it waits to be learned only where `category`
    does. Raises InvalidInput (fields name, items) and Conflict; nothing is written then.
    """
    wanted = sorted({item.pk for item in items})
    with gallery_transaction() as changes:
        (category,) = _locked(category)
        _check_split(category, items_locked(wanted), wanted)
        new = category_create(name=name, parent=category.parent, vertical=category.vertical)
        new.learn_asked_at = category.learn_asked_at if _waits(category) else None
        new.save(update_fields=["learn_asked_at"])
        with relabelling(
            wanted, action="category.split", subject=category.path, user=user, more={"new": new.path}
        ):
            _items_move(changes, wanted, new)
    return new


def category_delete_with_items(
    *, category: Category, typed_name: str, user: AbstractBaseUser | None = None
) -> int:
    """Delete a category with all items, photos and categories in it; returns how many items. There is no undo.

    Raises InvalidInput (field typed_name) unless the category's name was typed.
    """
    with gallery_transaction() as changes:
        (category,) = _locked(category)
        if typed_name.strip() != category.name:
            problem = f"it is {typed_name.strip()[:80]!r}; type {category.name!r} to delete it with everything in it"
            raise InvalidInput(f"The name is not right: {problem}.", fields={"typed_name": problem})
        inside = _contents_locked(category)
        tree = list(Category.objects.subtree(category).select_for_update().order_by("pk"))
        items = list(inside.values_list("pk", flat=True))
        queries = EvaluationQuery.objects.filter(category__in=tree)
        files = [held_out_files(query) for query in queries]
        audit.event_record(
            action="category.delete",
            actor=user,
            subject=category.path,
            before={
                "slug": category.slug,
                "vertical": category.vertical,
                "items": len(items),
                "categories": len(tree) - 1,
                "evaluation_queries": len(files),
            },
        )
        for start in range(0, len(items), DELETE_BATCH):
            item_rows_delete(changes, items[start : start + DELETE_BATCH], user)
        for row in sorted(tree, key=lambda row: -row.path.count(PATH_SEPARATOR)):
            row.delete()
        transaction.on_commit(lambda: media_remove_unused(files))
    return len(items)


def _locked(*categories: Category) -> list[Category]:
    """The rows as they are, in the order given, locked in the order of their ids; items may still be put in them."""
    ids = [category.pk for category in categories]
    rows = {
        row.pk: row
        for row in Category.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    }
    for category in categories:
        if category.pk not in rows:
            raise NotFound(f"The category {category.path!r} is gone; nothing was changed.")
    return [rows[pk] for pk in ids]


def _contents_locked(category: Category) -> QuerySet[Item]:
    """The items in it and beneath; they and their photos are locked, but for those that come meanwhile."""
    inside = Item.objects.filter(category__in=Category.objects.subtree(category)).order_by("pk")
    photos_locked(photos_of(items_locked(list(inside.values_list("pk", flat=True)))))
    return inside


def _check_merge(source: Category, into: Category) -> None:
    if into.pk == source.pk or into.path.startswith(source.path + PATH_SEPARATOR):
        problem = f"{into.path!r} is {source.path!r} or lies in it; choose another one"
        raise InvalidInput(f"The category to merge into is not right: {problem}.", fields={"into": problem})
    if into.vertical != source.vertical:
        problem = f"{into.path!r} holds {into.vertical}s and {source.path!r} {source.vertical}s"
        raise InvalidInput(f"The category to merge into is not right: {problem}.", fields={"into": problem})
    names = set(source.children.values_list("name", flat=True))
    twice = sorted(names & set(into.children.exclude(pk=source.pk).values_list("name", flat=True)))
    if twice:
        raise Conflict(
            f"Both hold a category {twice[0]!r} ({len(twice)} such names). Merge or rename those first.",
            fields={"into": "both hold a category of one name"},
        )


def _check_split(category: Category, present: Sequence[int], wanted: Sequence[int]) -> None:
    inside = {
        pk
        for part in in_chunks(present)
        for pk in category.items.filter(pk__in=part).values_list("pk", flat=True)
    }
    if len(inside) < len(wanted):
        problem = (
            f"{len(wanted) - len(inside):,} of {len(wanted):,} are not, or no longer, in {category.path!r}"
        )
    elif not wanted:
        problem = "none is chosen; choose those that go to the new category"
    elif not category.items.exclude(pk__in=wanted).exists():
        problem = f"all {len(wanted):,} are chosen; rename {category.path!r} instead"
    else:
        return
    raise InvalidInput(f"The items are not right: {problem}.", fields={"items": problem})


def _waits(category: Category) -> bool:
    return waiting_categories(version_in_use()).filter(pk=category.pk).exists()


def _items_move(changes: Changes, items: Sequence[int], into: Category) -> None:
    for part in in_chunks(items):
        Item.objects.filter(pk__in=part).update(category=into)
        search_text_refresh(Item.objects.filter(pk__in=part))
    changes.record(ChangeKind.ITEM_CHANGED, items)
