"""Answers that turn: right before and wrong now, and the other way; and what operators say of those that turn wrong."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from numpy.typing import NDArray

from ml.evaluation.compatibility import flips
from ml.evaluation.intervals import Interval, rate_interval
from searchapp.exceptions import InvalidInput
from searchapp.models import Category, FlipDecision, Item, ItemImage, ModelVersion, stored_path
from searchapp.services.audit import event_record
from searchapp.services.gallery_columns import in_chunks
from searchapp.services.held_out import HeldOut
from searchapp.services.held_out_answers import Answers
from searchapp.services.measured_intervals import DIGITS, SEED, Items
from searchapp.services.verdict_gates import turned_wrong

MOST_EXAMPLES = 60


def negative_rate(before: Answers, after: Answers, items: Items) -> Interval | None:
    """The share of queries right at the first place before and wrong now; None when no query has both answers."""
    negative = flips(before.values["recall_at_1"], after.values["recall_at_1"]).negative
    return None if np.isnan(negative).all() else rate_interval(negative, items, seed=SEED)


def flips_row(queries: Sequence[HeldOut], before: Answers, after: Answers, items: Items) -> dict[str, Any]:
    """Counts, the rate of negative flips with its interval, and examples: those that change most first."""
    found = flips(before.values["recall_at_1"], after.values["recall_at_1"])
    rate = negative_rate(before, after, items)
    change = np.nan_to_num(after.values["map"] - before.values["map"])
    chosen = {
        "negative": _most(found.negative == 1, -change, queries),
        "positive": _most(found.positive == 1, change, queries),
    }
    told = _Told(queries, [at for rows in chosen.values() for at in rows], before, after)
    return {
        "negative": int(np.nansum(found.negative)),
        "positive": int(np.nansum(found.positive)),
        "queries": int((~np.isnan(found.negative)).sum()),
        "negative_rate": None if rate is None else round(rate.value, DIGITS),
        "negative_rate_low": None if rate is None else round(rate.low, DIGITS),
        "negative_rate_high": None if rate is None else round(rate.high, DIGITS),
        "negative_queries": sorted(
            queries[at].image_sha256 for at in np.flatnonzero(found.negative == 1).tolist()
        ),
        "examples": {kind: [told.example(at) for at in rows] for kind, rows in chosen.items()},
    }


def flip_decide(
    *,
    version: ModelVersion,
    against: ModelVersion,
    image_sha256: str,
    decision: str | None,
    user: AbstractBaseUser | None,
    reason: str = "",
) -> FlipDecision | None:
    """Say that an answer that turned wrong is accepted, or blocks the promotion; None takes back what was said.

    With an audit event. Raises InvalidInput for another decision, for a query that was no negative flip in the newest
    verdict of the two, and for a block without a reason.
    """
    reason = reason.strip()[:500]
    allowed = FlipDecision.Decision.values
    if decision is not None and decision not in allowed:
        raise _invalid("decision", f"it is {decision!r:.40}, allowed: {', '.join(allowed)} or nothing")
    if decision == FlipDecision.Decision.BLOCK and not reason:
        raise _invalid("reason", "an answer blocks a promotion only with a reason, which is kept")
    with transaction.atomic():
        rows = FlipDecision.objects.select_for_update().filter(
            version=version, against=against, image_sha256=image_sha256
        )
        before = rows.first()
        if decision is None and before is None:
            return None
        if decision is not None and before is None and image_sha256 not in _flipped(version, against):
            raise _invalid(
                "image_sha256",
                f"no answer to query {image_sha256[:12]!r} turned wrong between {against.name} and {version.name}",
            )
        after = None
        rows.delete()
        if decision is not None:
            after = FlipDecision.objects.create(
                version=version, against=against, image_sha256=image_sha256, decision=decision, reason=reason,
                created_by_id=None if user is None else user.pk,
            )  # fmt: skip
        event_record(
            action="flip.decide",
            actor=user,
            subject=f"version {version.name} against {against.name}, query {image_sha256[:12]}",
            before={"decision": None if before is None else before.decision},
            after={"decision": decision, "query": image_sha256},
            reason=reason,
        )
    return after


def decisions_of(version: ModelVersion, against: ModelVersion) -> dict[str, FlipDecision]:
    """By the query's SHA-256, what was said of the two's flips."""
    rows = FlipDecision.objects.filter(version=version, against=against).select_related("created_by")
    return {row.image_sha256: row for row in rows}


def _flipped(version: ModelVersion, against: ModelVersion) -> set[str]:
    newest = version.verdicts.filter(against=against).first()
    return set() if newest is None else turned_wrong(newest)


def _most(chosen: NDArray[np.bool_], size: NDArray[np.float64], queries: Sequence[HeldOut]) -> list[int]:
    rows = np.flatnonzero(chosen).tolist()
    return sorted(rows, key=lambda at: (-round(float(size[at]), DIGITS), queries[at].image_sha256))[
        :MOST_EXAMPLES
    ]


class _Told:
    """Items, categories and pictures of some queries and of the photos that answered them."""

    def __init__(
        self, queries: Sequence[HeldOut], chosen: Sequence[int], before: Answers, after: Answers
    ) -> None:
        self.queries, self.before, self.after = queries, before, after
        shown = {int(side.first[at]) for side in (before, after) for at in chosen}
        fields = ("pk", "image_sha256", "extension", "item__sku")
        self.photos: dict[int, tuple[str, str]] = {}
        for ids in in_chunks(sorted(shown)):
            for pk, sha, extension, sku in ItemImage.objects.filter(pk__in=ids).values_list(*fields):
                self.photos[pk] = (sku, stored_path(sha, extension))
        asked = [queries[at] for at in chosen]
        wanted = {query.item_id for query in asked if query.item_id is not None}
        self.skus = dict(Item.objects.filter(pk__in=wanted).values_list("pk", "sku"))
        categories = {query.category_id for query in asked}
        self.paths = dict(Category.objects.filter(pk__in=categories).values_list("pk", "path"))

    def example(self, at: int) -> dict[str, Any]:
        query = self.queries[at]
        before, after = (self.photos.get(int(side.first[at]), ("", "")) for side in (self.before, self.after))
        return {
            "query": query.image_sha256,
            "path": query.path,
            "right": self.skus.get(query.item_id) if query.item_id is not None and query.by_item else None,
            "category": self.paths.get(query.category_id, ""),
            "before": before[0],
            "before_path": before[1],
            "after": after[0],
            "after_path": after[1],
            "map_before": round(float(self.before.values["map"][at]), DIGITS),
            "map_after": round(float(self.after.values["map"][at]), DIGITS),
        }


def _invalid(field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{field}: {problem}.", fields={field: f"{problem}."})
