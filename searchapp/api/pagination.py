"""Pages of items: shallow on purpose, so that the catalogue cannot be copied page by page."""

from typing import Any, TypeVar

from django.db.models import Model, QuerySet

from searchapp.exceptions import InvalidInput

PAGE_SIZE = 24
MAX_PAGE_SIZE = 50
MAX_PAGE = 200

M = TypeVar("M", bound=Model)


def page_of(rows: QuerySet[M], query: Any) -> tuple[list[M], dict[str, Any]]:
    """The rows of ?page=&page_size= and the envelope's figures. A page behind the last is simply empty."""
    page = _whole(query, "page", default=1, high=MAX_PAGE)
    size = _whole(query, "page_size", default=PAGE_SIZE, high=MAX_PAGE_SIZE)
    start = (page - 1) * size
    count = rows.count()
    return list(rows[start : start + size]), {"count": count, "page": page, "pages": -(-count // size)}


def _whole(query: Any, name: str, *, default: int, high: int) -> int:
    raw = query.get(name, "")
    if not raw:
        return default
    if not (raw.isascii() and raw.isdecimal() and len(raw) <= 9 and 1 <= int(raw) <= high):
        message = f"{raw[:40]!r} is not a whole number from 1 to {high}."
        raise InvalidInput(f"{name}: {message}", fields={name: message})
    return int(raw)
