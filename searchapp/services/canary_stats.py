"""Champion against candidate while both answer: the figures of the live strip, and what the whole site does now."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from ml.evaluation.sequential import SequentialTest, shares_compare
from searchapp.models import Deployment, Query
from searchapp.services import deploying, versions
from searchapp.services.arm_choice import scope_words
from searchapp.services.canary_rows import Rows, outcomes_of, rows_of, with_judgement

LATEST = 1000  # so many of the newest queries say how fast an arm is, and how often it fails now
LIVE_MINUTES = 5


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What one arm answered. right, wrong: answers of which something was said to be; times are None without any."""

    version: str
    queries: int = 0
    clicked: int = 0
    right: int = 0
    wrong: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None

    @property
    def click_share(self) -> float | None:
        return self.clicked / self.queries if self.queries else None

    @property
    def wrong_share(self) -> float | None:
        """Of all queries: wrong or failed."""
        return (self.wrong + self.errors) / self.queries if self.queries else None

    @property
    def error_share(self) -> float | None:
        return self.errors / self.queries if self.queries else None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a candidate in the shadow answers beside what was shown. None without any answer."""

    overlap: float | None  # mean share of the first ten
    first_alike: float | None


@dataclass(frozen=True, slots=True)
class Strip:
    """The live candidate beside the champion, since it began. Tests are None where nothing was asked at once."""

    deployment: Deployment
    champion: ArmFigures
    candidate: ArmFigures
    is_at_once: bool
    wrong: SequentialTest | None
    clicks: SequentialTest | None
    agreement: Agreement | None  # of a candidate in the shadow
    scope: str  # in words; "" for everything

    @property
    def comparison(self) -> str:
        """What it is compared with, in a sentence."""
        where = f" in {self.scope}" if self.scope else ""
        old, new = self.champion.version, self.candidate.version
        if self.agreement is not None:
            return f"Every query{where} is asked of {new} too; people see the answers of {old} alone."
        if self.is_at_once:
            return f"Compared with what {old} answered{where} at the same time. In the tests each visitor counts once."
        return (
            f"Every query{where} goes to {new}, so there is nothing beside it: it is compared with what {old} answered"
            f"{where} in as long a time before. Other hours bring other questions, so no test is made."
        )


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """Of all arms together, over the last LIVE_MINUTES."""

    minutes: int
    queries_per_minute: float
    errors: int
    p50_ms: float | None
    p95_ms: float | None


def strip() -> Strip | None:
    """None while there is no candidate beside the champion."""
    deployment = deploying.candidate_live()
    return None if deployment is None else strip_of(deployment)


def strip_of(deployment: Deployment) -> Strip:
    now = timezone.now()
    rows = rows_of(deployment, now)
    is_tested = rows.is_at_once and not deployment.is_shadow
    wrong, clicks = tests_of(rows, now) if is_tested else (None, None)
    candidate = deployment.version.name
    shadows = _in_shadow(rows.champion, deployment) if deployment.is_shadow else None
    return Strip(
        deployment=deployment,
        champion=figures_of(rows.champion, _champion_name()),
        candidate=shadows[0] if shadows else figures_of(rows.candidate, candidate),
        is_at_once=rows.is_at_once,
        wrong=wrong,
        clicks=clicks,
        agreement=shadows[1] if shadows else None,
        scope=scope_words(deployment.scope),
    )


def figures_of(rows: QuerySet[Query], version: str) -> ArmFigures:
    """Counts over all `rows`, times over the LATEST of them."""
    counts = with_judgement(rows).aggregate(
        queries=Count("pk"),
        clicked=Count("pk", filter=Q(is_clicked=True)),
        right=Count("pk", filter=Q(is_right=True)),
        wrong=Count("pk", filter=Q(is_wrong=True, is_failed=False)),
        errors=Count("pk", filter=Q(is_failed=True)),
    )
    newest = rows.filter(is_failed=False).order_by("-asked_at")
    p50, p95 = _percentiles(list(newest.values_list("took_ms__total", flat=True)[:LATEST]))
    return ArmFigures(version, **counts, p50_ms=p50, p95_ms=p95)


def latest(rows: QuerySet[Query], version: str) -> ArmFigures:
    """Queries, errors and times of the LATEST alone: what an arm does now."""
    newest = list(rows.order_by("-asked_at").values_list("is_failed", "took_ms__total")[:LATEST])
    errors = sum(is_failed for is_failed, _ in newest)
    p50, p95 = _percentiles([took for is_failed, took in newest if not is_failed])
    return ArmFigures(version, queries=len(newest), errors=errors, p50_ms=p50, p95_ms=p95)


def shadow_figures(rows: QuerySet[Query], deployment: Deployment) -> ArmFigures:
    """What a candidate in the shadow did with the latest of the champion's queries."""
    return _in_shadow(rows, deployment)[0]


def live_figures() -> LiveFigures:
    """Times are those of the LATEST queries."""
    rows = Query.objects.filter(asked_at__gte=timezone.now() - timedelta(minutes=LIVE_MINUTES))
    counts = rows.aggregate(queries=Count("pk"), errors=Count("pk", filter=Q(is_failed=True)))
    newest = rows.filter(is_failed=False).order_by("-asked_at")
    p50, p95 = _percentiles(list(newest.values_list("took_ms__total", flat=True)[:LATEST]))
    return LiveFigures(LIVE_MINUTES, counts["queries"] / LIVE_MINUTES, counts["errors"], p50, p95)


def tests_of(rows: Rows, now: datetime) -> tuple[SequentialTest, SequentialTest]:
    """Whether the candidate is wrong, or fails, more often; and whether more or fewer of its answers are clicked.

    Each visitor counts once (canary_rows.outcomes_of), so the counts of both tests are visitors.
    """
    outcomes = outcomes_of(rows, now)
    return (
        shares_compare(outcomes.wrong, outcomes.of_candidate, alternative="greater"),
        shares_compare(outcomes.clicked, outcomes.of_candidate, alternative="differs"),
    )


def _in_shadow(rows: QuerySet[Query], deployment: Deployment) -> tuple[ArmFigures, Agreement]:
    newest = rows.filter(shadow__isnull=False).order_by("-asked_at").values_list("shadow", flat=True)[:LATEST]
    said: list[dict[str, Any]] = [row for row in newest if row and row["deployment"] == deployment.pk]
    answers = [row for row in said if "failed" not in row]
    p50, p95 = _percentiles([row["took_ms"] for row in answers])
    figures = ArmFigures(
        deployment.version.name,
        queries=len(said),
        errors=len(said) - len(answers),
        p50_ms=p50,
        p95_ms=p95,
    )
    if not answers:
        return figures, Agreement(None, None)
    overlap = float(np.mean([row["overlap"] for row in answers]))
    return figures, Agreement(overlap, float(np.mean([row["is_first_alike"] for row in answers])))


def _percentiles(took: list[float]) -> tuple[float | None, float | None]:
    if not took:
        return None, None
    p50, p95 = np.percentile(np.array(took, np.float64), [50, 95])
    return float(p50), float(p95)


def _champion_name() -> str:
    live = versions.champion_live()
    return live.version.name if live else ""
