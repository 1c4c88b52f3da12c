"""A canary that breaks its rule (services.stop_rules) ends by itself: every sweep looks.

A candidate in the shadow shows nothing to anybody; of its rule only errors and minutes count.
"""

import logging

from django.db import transaction
from django.utils import timezone

from searchapp.exceptions import Conflict
from searchapp.models import Deployment
from searchapp.services import alerting, canary_stats, deploying
from searchapp.services.canary_rows import Rows, rows_of
from searchapp.services.canary_stats import ArmFigures
from searchapp.services.stop_rules import DEFAULT_RULE, rule_checked, rule_judged, rule_words

__all__ = ["DEFAULT_RULE", "canaries_check", "rule_checked", "rule_words", "stop_reason"]

logger = logging.getLogger(__name__)


def canaries_check() -> str:
    """End the live candidate if its rule says so, and tell; returns why, or "". Safe from any number of sweepers."""
    deployment = deploying.candidate_live()
    if deployment is None:
        return ""
    reason = stop_reason(deployment)
    if not reason:
        return ""
    try:
        with transaction.atomic():
            deploying.canary_end(
                user=None, reason=f"stopped by itself: {reason}", expected_deployment=deployment.pk
            )
            alerting.alert(
                subject=f"The trial of {deployment.version.name} was stopped",
                text=f"{deployment.version.name} no longer answers any query: {reason}.",
                details={"event": "canary.stopped", "version": deployment.version.name, "reason": reason},
            )
    except Conflict as error:
        logger.info("%s was ended by somebody else: %s", deployment, error)
        return ""
    logger.warning("%s was stopped: %s", deployment, reason)
    return reason


def stop_reason(deployment: Deployment) -> str:
    """What of the rule is broken, in measured words; "" while nothing is."""
    rule = rule_judged(deployment)
    now = timezone.now()
    if rule["minutes"] is not None and (now - deployment.created_at).total_seconds() > 60 * rule["minutes"]:
        return f"its {rule['minutes']:,.0f} minutes are over"
    rows = rows_of(deployment, now)
    least = rule["least_queries"] or 1
    if deployment.is_shadow:
        candidate = canary_stats.shadow_figures(rows.champion, deployment)
        return _errors(candidate, rule["errors"], least)
    candidate = canary_stats.latest(rows.candidate, deployment.version.name)
    return (
        _errors(candidate, rule["errors"], least)
        or _slowness(candidate, rows, rule["p95_factor"], least)
        or _wrongness(rows, rule["wrong"])
    )


def _errors(candidate: ArmFigures, most: float | None, least: float) -> str:
    """Before `least` queries came, only what would be too much of that many as well."""
    if most is None or candidate.errors <= most * max(candidate.queries, least):
        return ""
    share = f"{100 * candidate.errors / candidate.queries:.1f} %; allowed: {100 * most:.3g} %"
    return f"{candidate.errors:,} of its latest {candidate.queries:,} queries failed, {share}"


def _slowness(candidate: ArmFigures, rows: Rows, factor: float | None, least: float) -> str:
    if factor is None or candidate.p95_ms is None or candidate.queries - candidate.errors < least:
        return ""
    champion = canary_stats.latest(rows.champion, "")
    if champion.p95_ms is None or champion.queries - champion.errors < least:
        return ""
    if candidate.p95_ms <= factor * champion.p95_ms:
        return ""
    return (
        f"its slowest 5 % take {candidate.p95_ms:.0f} ms or more, the champion's {champion.p95_ms:.0f} ms; "
        f"allowed: {factor:g} times as long"
    )


def _wrongness(rows: Rows, level: float | None) -> str:
    if level is None:
        return ""
    wrong, _ = canary_stats.tests_of(rows, timezone.now())
    if not wrong.is_shown(level):
        return ""
    return (
        f"more of its answers are wrong or fail than of the champion's (p = {wrong.p_value:.2g} after "
        f"{wrong.candidate:,} of its visitors; level: {level:g})"
    )
