"""The held-out labelled photos that every version is judged by, the same ones each time."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from django.db.models import Q

from searchapp.exceptions import NotFound
from searchapp.models import EvaluationQuery, EvaluationSet, stored_path

# A larger sample only narrows the interval further; queries are taken in the order of their SHA-256.
MAX_QUERIES = 2000


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One evaluation query, as measuring needs it."""

    image_sha256: str
    path: str
    by_item: bool
    item_id: int | None
    category_id: int
    cluster: int  # photos of one item are not independent


def held_out_queries(*, with_categories: Collection[int] = (), set_name: str = "") -> list[HeldOut]:
    """Up to MAX_QUERIES of them, the same ones each time; and as many of `with_categories`, whatever their place.

    Those of no set and of sets in use; with `set_name` those of that set alone. Raises NotFound for an unknown set.
    """
    rows = EvaluationQuery.objects.filter(_asked(set_name)).order_by("image_sha256", "pk")
    chosen = {row.pk: row for row in rows[:MAX_QUERIES]}
    if with_categories:
        chosen |= {row.pk: row for row in rows.filter(category__in=with_categories)[:MAX_QUERIES]}
    found = []
    for row in chosen.values():
        by_item = row.relevance == EvaluationQuery.Relevance.ITEM and row.item_id is not None
        found.append(
            HeldOut(
                row.image_sha256,
                stored_path(row.image_sha256, row.extension),
                by_item,
                row.item_id,
                row.category_id,
                row.item_id if row.item_id is not None else -row.pk,
            )
        )
    return found


def held_out_fingerprint(queries: Sequence[HeldOut]) -> str:
    """Which held-out photos were asked, and what counts as right for each: another one is another measurement."""
    digest = sha256()
    for query in queries:
        digest.update(f"{query.image_sha256} {query.by_item} {query.item_id} {query.category_id}\n".encode())
    return f"{len(queries)} {digest.hexdigest()}"


def _asked(set_name: str) -> Q:
    if not set_name:
        return Q(evaluation_set=None) | Q(evaluation_set__is_used=True)
    if not EvaluationSet.objects.filter(name=set_name).exists():
        known = ", ".join(EvaluationSet.objects.values_list("name", flat=True)) or "none"
        message = f"there is no evaluation set {set_name[:60]!r}; known: {known}"
        raise NotFound(f"set: {message}.", fields={"set": f"{message}."})
    return Q(evaluation_set__name=set_name)
