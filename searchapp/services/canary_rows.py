"""Which logged queries a candidate is judged by, and those of the champion that it may be compared with.

A canary that gets a share of the visitors is compared with what the champion answered at the same time, inside the same
scope. One that gets everything of its scope has nothing beside it: then it is compared with as long a time before.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Window
from django.db.models.functions import RowNumber
from numpy.typing import NDArray

from searchapp.models import Category, Click, Deployment, Feedback, Query
from searchapp.services.arm_choice import WHOLE

# What people do within so long after an answer counts in a test; later, an outcome stays what it was.
SETTLED = timedelta(minutes=5)
MOST_OUTCOMES = 20_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Queries of both arms; `is_at_once`: of the same time."""

    champion: QuerySet[Query]
    candidate: QuerySet[Query]
    is_at_once: bool


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of each visitor's first query, once it is settled, in the order they were asked: (N,) each."""

    of_candidate: NDArray[np.bool_]
    wrong: NDArray[np.bool_]  # said to be wrong and nothing of it right, or failed
    clicked: NDArray[np.bool_]


def rows_of(canary: Deployment, now: datetime) -> Rows:
    """Codes and embeddings of others (kind vector) are always the champion's to answer, so they are left out."""
    asked = Query.objects.exclude(kind="vector")
    began = canary.created_at
    candidate = asked.filter(deployment_id=canary.pk, asked_at__gte=began)
    champions = in_scope(asked.filter(arm=Deployment.Arm.CHAMPION), canary.scope)
    if canary.is_shadow or canary.share < WHOLE:
        return Rows(champions.filter(asked_at__gte=began), candidate, is_at_once=True)
    before = champions.filter(asked_at__lt=began, asked_at__gte=began - (now - began))
    return Rows(before, candidate, is_at_once=False)


def in_scope(rows: QuerySet[Query], scope: dict[str, str]) -> QuerySet[Query]:
    """Those whose filters lie inside a scope {}, {"category": slug} or {"vertical": name} (services.arm_choice)."""
    if "vertical" in scope:
        vertical = Q(filters__vertical=scope["vertical"])
        categories = _names(Category.objects.filter(vertical=scope["vertical"]))
        unsaid = Q(filters__vertical__isnull=True, filters__category__in=categories)
        return rows.filter(vertical | unsaid)
    if "category" in scope:
        category = Category.objects.filter(slug=scope["category"]).first()
        if category is None:
            return rows.none()
        return rows.filter(filters__category__in=_names(Category.objects.subtree(category)))
    return rows


def with_judgement(rows: QuerySet[Query]) -> QuerySet[Query]:
    """Each query with is_clicked, is_right (something of it was) and is_wrong (something was, and nothing right)."""
    said = Feedback.objects.filter(query_id=OuterRef("pk"))
    is_right = Exists(said.filter(verdict=Feedback.Verdict.RIGHT))
    is_wrong = Exists(said.filter(verdict=Feedback.Verdict.WRONG))
    is_clicked = Exists(Click.objects.filter(query_id=OuterRef("pk")))
    return rows.annotate(is_clicked=is_clicked, is_right=is_right, is_wrong=Q(is_wrong) & ~Q(is_right))


def outcomes_of(rows: Rows, now: datetime) -> Outcomes:
    """Of the first MOST_OUTCOMES visitors: a test that began later would be another test.

    Arms are given to visitors, and what one visitor does next depends on what the same one did before: so only the
    first query of each is an outcome of its own. Queries of nobody known are left out.
    """
    told_apart = (rows.champion | rows.candidate).exclude(visitor_hash="")
    turn = Window(RowNumber(), partition_by=F("visitor_hash"), order_by=[F("asked_at").asc(), F("pk").asc()])
    firsts = told_apart.filter(asked_at__lte=now - SETTLED).annotate(turn=turn).filter(turn=1)
    counted = firsts.order_by("asked_at", "pk").values("pk")[:MOST_OUTCOMES]
    in_time = Q(created_at__lte=OuterRef("asked_at") + SETTLED, query_id=OuterRef("pk"))
    said = Feedback.objects.filter(in_time)
    found = (
        Query.objects.filter(pk__in=counted)
        .annotate(
            was_right=Exists(said.filter(verdict=Feedback.Verdict.RIGHT)),
            was_wrong=Exists(said.filter(verdict=Feedback.Verdict.WRONG)),
            was_clicked=Exists(Click.objects.filter(in_time)),
        )
        .order_by("asked_at", "pk")
    )
    values = found.values_list("arm", "is_failed", "was_right", "was_wrong", "was_clicked")
    arms, failed, right, wrong, clicked = zip(*values) if values else ((), (), (), (), ())
    return Outcomes(
        of_candidate=np.array(arms, dtype="U9") == Deployment.Arm.CANDIDATE,
        wrong=np.array(failed, bool) | (np.array(wrong, bool) & ~np.array(right, bool)),
        clicked=np.array(clicked, bool),
    )


def _names(categories: QuerySet[Category]) -> list[str]:
    """A filter names a category by its slug or its path."""
    return [name for pair in categories.values_list("slug", "path") for name in pair]
