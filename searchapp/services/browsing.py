"""The catalogue as a list: the same filters as a search, without a picture."""

from dataclasses import dataclass
from typing import cast

from django.db.models import Case, Count, Prefetch, Q, QuerySet, Value, When

from searchapp.exceptions import InvalidInput, NotFound
from searchapp.models import PATH_SEPARATOR, Category, Item, ItemImage, SearchState
from searchapp.models.catalogue import ItemQuerySet
from searchapp.services.categories import path_parse
from searchapp.services.search_options import SearchOptions, scope_of
from searchapp.services.text_search import items_matching, query_words

MAX_TEXT_MATCHES = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to list: search filters, words, and (for staff) a state."""

    options: SearchOptions
    text: str = ""
    state: str = ""


def items_listed(wanted: Wanted, *, with_state: bool) -> QuerySet[Item]:
    """Items with all that a list shows, newest first; with words, best match first and at most 500."""
    items = cast("ItemQuerySet", scope_of(wanted.options).items())
    if wanted.text.strip():
        items = _matching(items, wanted.text)
    if wanted.state:
        if wanted.state not in SearchState.values:
            allowed = f"{wanted.state[:40]!r} is not a state; allowed: {', '.join(SearchState.values)}."
            raise InvalidInput(allowed, fields={"state": allowed})
        items = items.with_state().filter(state=wanted.state)  # type: ignore[misc]
    return _with_parts(items, with_state=with_state)


def item_named(sku: str, *, with_state: bool = False) -> Item:
    """One item with all that its page shows. Raises NotFound."""
    item = _with_parts(Item.objects.filter(sku=sku), with_state=with_state).first()
    if item is None:
        raise NotFound(f"There is no item {sku[:120]!r}.")
    return item


def category_named(name: str) -> Category:
    """By slug or whole path. Raises InvalidInput on the field `category`."""
    found = Category.objects.filter(Q(slug=name) | Q(path=name)).first()
    if found is None:
        message = f"There is no category {name[:100]!r}; give a category's slug or its whole path."
        raise InvalidInput(message, fields={"category": message})
    return found


def category_exists(path: str) -> bool:
    return Category.objects.filter(path=PATH_SEPARATOR.join(path_parse(path))).exists()


def categories_listed() -> QuerySet[Category]:
    """The whole tree in the order of paths, each with the number of items directly in it (`item_count`)."""
    return Category.objects.select_related("parent").annotate(item_count=Count("items")).order_by("path")


def _with_parts(items: ItemQuerySet, *, with_state: bool) -> ItemQuerySet:
    photos = ItemImage.objects.order_by("position", "id")
    if with_state:
        items, photos = items.with_state(), photos.with_state()
    return items.select_related("category").prefetch_related("tags", Prefetch("images", photos))


def _matching(items: ItemQuerySet, text: str) -> ItemQuerySet:
    matches = items_matching(words=query_words(text), among=items, limit=MAX_TEXT_MATCHES)
    ids = [match.item_id for match in matches]
    order = Case(*(When(pk=pk, then=Value(place)) for place, pk in enumerate(ids)), default=Value(len(ids)))
    return Item.objects.filter(pk__in=ids).order_by(order)
