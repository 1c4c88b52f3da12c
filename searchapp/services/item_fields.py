"""What an item may be described with: checked in one place for forms, the API and imports."""

import math
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any, TypedDict

from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from searchapp.exceptions import InvalidInput
from searchapp.models import Category, Item

MAX_TAGS = 60
TAG_LENGTH = 80
DESCRIPTION_LENGTH = 20_000
_TEXT_FIELDS = ("sku", "title", "description", "currency", "url", "address")
_REFRESH_BATCH = 500


class ItemFields(TypedDict, total=False):
    """What can be said of an item besides SKU, tags and photos. A missing key leaves it as it is."""

    title: str
    description: str
    category: Category
    price: Decimal | str | float | None
    currency: str
    url: str
    address: str
    latitude: float | str | None
    longitude: float | str | None


def item_apply(item: Item, fields: ItemFields) -> list[str]:
    """Set checked values on an unsaved or saved item; returns the names of the fields that changed.

    Raises InvalidInput naming every field that is wrong; the item must then be thrown away.
    """
    values: dict[str, Any] = dict(fields)
    problems: dict[str, str] = {}
    for name in ("price", "latitude", "longitude"):
        if name in values:
            values[name] = _number(values[name], name, problems)
    for name in ("title", "currency", "url", "address"):
        if name in values:
            values[name] = str(values[name] or "").strip()
    if "currency" in values:
        values["currency"] = values["currency"].upper()
    changed = [
        name for name, value in values.items() if getattr(item, _attribute(name)) != _value(name, value)
    ]
    for name in changed:
        setattr(item, name, values[name])
    problems.update(_problems(item, skip=problems))
    if problems:
        raise fields_error(problems)
    return changed


def fields_error(problems: Mapping[str, str]) -> InvalidInput:
    listed = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    return InvalidInput(f"Not accepted: {listed}", fields=problems)


def tags_clean(names: Iterable[str]) -> list[str]:
    """Trimmed, lower-cased, without repeats, in the order given. Raises InvalidInput on the field `tags`."""
    cleaned = list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
    wrong = [name for name in cleaned if len(name) > TAG_LENGTH or has_control_characters(name)]
    if wrong:
        raise fields_error({"tags": f"{wrong[0][:TAG_LENGTH]!r} is longer than {TAG_LENGTH} or unprintable"})
    if len(cleaned) > MAX_TAGS:
        raise fields_error({"tags": f"{len(cleaned)} tags, allowed: {MAX_TAGS}"})
    return cleaned


def has_control_characters(text: str) -> bool:
    return not text.isprintable() and any(
        unicodedata.category(character) in {"Cc", "Cs"} for character in text
    )


def search_text_of(item: Item, tags: Iterable[str]) -> str:
    """What the database's text search reads of an item."""
    parts = (item.title, item.description, item.category.path.replace(" > ", " "), " ".join(tags))
    return "\n".join(part for part in parts if part)


def search_text_refresh(items: QuerySet[Item]) -> None:
    """Recompute the search text after a category or tag changed its name. Batched; one query a batch."""
    batch: list[Item] = []
    rows = items.select_related("category").prefetch_related("tags").order_by("pk")
    for item in rows.iterator(chunk_size=_REFRESH_BATCH):
        item.search_text = search_text_of(item, sorted(tag.name for tag in item.tags.all()))
        batch.append(item)
        if len(batch) == _REFRESH_BATCH:
            Item.objects.bulk_update(batch, ["search_text"])
            batch.clear()
    Item.objects.bulk_update(batch, ["search_text"])


def _attribute(name: str) -> str:
    return "category_id" if name == "category" else name


def _value(name: str, value: Any) -> Any:
    return value.pk if name == "category" and value is not None else value


def _number(value: Any, name: str, problems: dict[str, str]) -> Decimal | float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number: Decimal | float = math.nan
    with suppress(InvalidOperation, ValueError, TypeError):
        number = Decimal(str(value).strip()) if name == "price" else float(value)
    if math.isfinite(number):
        return number
    example = "19.90" if name == "price" else "59.33"
    problems[name] = f"{str(value)[:40]!r} is not a number such as {example}"
    return None


def _problems(item: Item, *, skip: Mapping[str, str]) -> dict[str, str]:
    problems: dict[str, str] = {}
    try:
        item.clean_fields(exclude={"category", "search_text", *skip})
    except ValidationError as error:
        problems = {name: " ".join(messages) for name, messages in error.message_dict.items()}
    for name in _TEXT_FIELDS:
        text = getattr(item, name)
        if "\x00" in text or (name != "description" and has_control_characters(text)):
            problems[name] = "it holds unprintable characters"
    if item.sku != item.sku.strip() or item.sku in {".", ".."}:
        problems["sku"] = f"{item.sku!r} cannot be a SKU; remove blanks at its ends"
    if len(item.description) > DESCRIPTION_LENGTH:
        problems["description"] = f"{len(item.description):,} characters, allowed: {DESCRIPTION_LENGTH:,}"
    if item.currency and not (
        len(item.currency) == 3 and item.currency.isascii() and item.currency.isalpha()
    ):
        problems["currency"] = f"{item.currency[:20]!r} is not a three-letter code such as EUR"
    if item.url and not item.url.lower().startswith(("http://", "https://")):
        problems["url"] = f"{item.url[:60]!r} does not begin with http:// or https://"
    if (
        "latitude" not in skip
        and "longitude" not in skip
        and (item.latitude is None) != (item.longitude is None)
    ):
        problems["latitude" if item.latitude is None else "longitude"] = "latitude and longitude go together"
    return problems
