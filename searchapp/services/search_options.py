"""What a search may be asked: how many results and which filters, checked once for every kind of query."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet

from ml.retrieval.columns import EntryFilter
from searchapp.exceptions import InvalidInput
from searchapp.models import Category, Item, Tag, Vertical
from searchapp.services.gallery_columns import VERTICAL_CODES

DEFAULT_K = 24
MAX_K = 50
MAX_TAGS = 20


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """k results; category is a slug or a whole path and means its subtree; every tag is required."""

    k: int = DEFAULT_K
    category: str | None = None
    vertical: str | None = None
    price_min: float | None = None
    price_max: float | None = None
    tag: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "SearchOptions":
        """Options from form or JSON values (text, numbers, lists). Unknown keys are ignored; a field that was left
        empty counts as unset. Raises InvalidInput naming every field that is wrong."""
        wrong: dict[str, str] = {}
        read = {
            "k": _checked(wrong, "k", _count, values, default=DEFAULT_K),
            "category": _checked(wrong, "category", _text, values),
            "vertical": _checked(wrong, "vertical", _vertical, values),
            "price_min": _checked(wrong, "price_min", _price, values),
            "price_max": _checked(wrong, "price_max", _price, values),
            "tag": _checked(wrong, "tag", _names, values, default=[]),
        }
        low, high = read["price_min"], read["price_max"]
        if low is not None and high is not None and low > high:
            wrong["price_max"] = f"{high:g} is below price_min, {low:g}."
        if wrong:
            raise InvalidInput(" ".join(f"{name}: {text}" for name, text in wrong.items()), fields=wrong)
        return cls(**read)

    def as_filters(self) -> dict[str, Any]:
        """The filters that are set, as plain JSON."""
        chosen = {
            name: getattr(self, name) for name in ("category", "vertical", "price_min", "price_max", "tag")
        }
        return {name: value for name, value in chosen.items() if value not in (None, [])}


@dataclass(frozen=True, slots=True)
class Scope:
    """Options whose category and tags were looked up."""

    category: Category | None
    tags: tuple[Tag, ...]
    options: SearchOptions

    def entry_filter(self, *, without_items: frozenset[int] = frozenset()) -> EntryFilter:
        options = self.options
        category_ids = None
        if self.category is not None:
            category_ids = frozenset(Category.objects.subtree(self.category).values_list("pk", flat=True))
        return EntryFilter(
            category_ids=category_ids,
            vertical=None if options.vertical is None else VERTICAL_CODES[options.vertical],
            tag_ids=frozenset(tag.pk for tag in self.tags),
            price_min=options.price_min,
            price_max=options.price_max,
            excluded_item_ids=without_items,
        )

    def items(self) -> QuerySet[Item]:
        """The same filter over rows, for text search."""
        found = Item.objects.all()
        if self.category is not None:
            found = found.filter(category__in=Category.objects.subtree(self.category))
        if self.options.vertical is not None:
            found = found.filter(category__vertical=self.options.vertical)
        if self.options.price_min is not None:
            found = found.filter(price__gte=self.options.price_min)
        if self.options.price_max is not None:
            found = found.filter(price__lte=self.options.price_max)
        for tag in self.tags:
            found = found.filter(tags=tag)
        return found


def scope_of(options: SearchOptions) -> Scope:
    """Look up category and tags. Raises InvalidInput naming the one that does not exist."""
    category = _category(options.category) if options.category is not None else None
    return Scope(category, _tags(options.tag), options)


def _category(name: str) -> Category:
    found = Category.objects.filter(slug=name).first() or Category.objects.filter(path=name).first()
    if found is None:
        message = f"There is no category {name[:100]!r}; give a category's slug or its whole path."
        raise InvalidInput(message, fields={"category": message})
    return found


def _tags(names: list[str]) -> tuple[Tag, ...]:
    if not names:
        return ()
    found = {tag.name: tag for tag in Tag.objects.filter(name__in=names)}
    missing = [name[:80] for name in names if name not in found]
    if missing:
        message = f"There is no tag {', '.join(map(repr, missing))}."
        raise InvalidInput(message, fields={"tag": message})
    return tuple(found[name] for name in dict.fromkeys(names))


def _checked(
    wrong: dict[str, str], name: str, read: Any, values: Mapping[str, Any], default: Any = None
) -> Any:
    raw = values.get(name, "")
    if isinstance(raw, list | tuple) and read is not _names:
        raw = raw[-1] if len(raw) == 1 else raw
    if isinstance(raw, str) and not raw.strip():
        return default
    try:
        return read(raw)
    except ValueError as error:
        wrong[name] = str(error)
        return default


def _count(raw: Any) -> int:
    text = raw.strip() if isinstance(raw, str) else raw
    is_whole = (isinstance(text, int) and not isinstance(text, bool)) or (
        isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 9
    )
    if not is_whole or not 1 <= int(text) <= MAX_K:
        raise ValueError(f"{_shown(raw)} is not a whole number from 1 to {MAX_K}.")
    return int(text)


def _price(raw: Any) -> float | None:
    if raw is None:
        return None
    try:
        value = float("nan") if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{_shown(raw)} is not a price; a number of 0 or more is allowed.")
    return value


def _vertical(raw: Any) -> str | None:
    if raw is not None and raw not in Vertical.values:
        raise ValueError(f"{_shown(raw)} is not a vertical; allowed: {', '.join(Vertical.values)}.")
    return None if raw is None else str(raw)


def _text(raw: Any) -> str | None:
    if raw is None:
        return None
    if not isinstance(raw, str) or "\x00" in raw or any("\ud800" <= letter <= "\udfff" for letter in raw):
        raise ValueError(f"{_shown(raw)} is not text.")
    return raw.strip()


def _names(raw: Any) -> list[str]:
    names = [raw] if isinstance(raw, str) else ([] if raw is None else raw)
    if not isinstance(names, list | tuple) or len(names) > MAX_TAGS:
        raise ValueError(f"{_shown(raw)} is not a list of at most {MAX_TAGS} tags.")
    read = [_text(name) for name in names]
    return [name for name in read if name]


def _shown(raw: Any) -> str:
    return repr(raw)[:60]
