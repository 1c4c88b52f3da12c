"""A candidate that is tried beside the champion, in words: what both answered, and what the tests say of it so far."""

from collections.abc import Callable
from dataclasses import dataclass

from searchapp.models import Deployment
from searchapp.services import canary_stats
from searchapp.services.canary_stats import ArmFigures, Strip
from searchapp.services.stop_rules import rule_judged, rule_words
from searchapp.views.history_cards import arm_words
from searchapp.views.verdict_words import milliseconds, percent

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class StripRow:
    """One figure of both arms."""

    title: str
    champion: str
    candidate: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a sequential test says: it holds however often one looks."""

    words: str
    sign: str
    tone: str


@dataclass(frozen=True, slots=True)
class StripCard:
    deployment: Deployment
    version: str
    champion: str
    what: str
    comparison: str
    rows: tuple[StripRow, ...]
    findings: tuple[Finding, ...]
    rule: tuple[str, ...]
    is_shadow: bool
    is_tested: bool


def strip_card() -> StripCard | None:
    """None while no candidate is tried."""
    found = canary_stats.strip()
    if found is None:
        return None
    return StripCard(
        deployment=found.deployment,
        version=found.candidate.version,
        champion=found.champion.version,
        what=arm_words(found.deployment),
        comparison=found.comparison,
        rows=_rows(found),
        findings=tuple(_findings(found)),
        rule=tuple(rule_words(rule_judged(found.deployment))),
        is_shadow=found.deployment.is_shadow,
        is_tested=found.wrong is not None,
    )


def _rows(strip: Strip) -> tuple[StripRow, ...]:
    """Nobody sees an answer of the shadow, so nobody clicks on it or says anything of it."""
    count: list[tuple[str, Callable[[ArmFigures], str]]] = [("Queries", lambda arm: f"{arm.queries:,}")]
    if strip.agreement is None:
        count += [
            ("With a click", lambda arm: _shared(arm.clicked, arm.click_share)),
            ("Said to be right", lambda arm: f"{arm.right:,}"),
            ("Said to be wrong", lambda arm: f"{arm.wrong:,}"),
        ]
    count += [
        ("Time, p50", lambda arm: _time(arm.p50_ms)),
        ("Time, p95", lambda arm: _time(arm.p95_ms)),
        ("Errors", lambda arm: _shared(arm.errors, arm.error_share)),
    ]
    return tuple(StripRow(title, of(strip.champion), of(strip.candidate)) for title, of in count)


def _shared(count: int, share: float | None) -> str:
    return f"{count:,}" if share is None else f"{count:,} · {percent(share)}"


def _time(value: float | None) -> str:
    return "–" if value is None else milliseconds(value)


def _findings(strip: Strip) -> list[Finding]:
    new, old = strip.candidate.version, strip.champion.version
    if strip.agreement is not None:
        overlap, alike = strip.agreement.overlap, strip.agreement.first_alike
        if overlap is None or alike is None:
            return [Finding("No query was asked of both yet.", "wait", "cannot_tell")]
        words = f"The first answer is the same for {percent(alike)} of the queries; of the first ten answers"
        return [Finding(f"{words}, {percent(overlap)} are.", "similar", "cannot_tell")]
    found = []
    if strip.wrong is not None:
        is_worse = strip.wrong.is_shown(LEVEL)
        words = (
            f"More answers of {new} are wrong or fail than of {old}: shown"
            if is_worse
            else f"Nothing shows so far that more answers of {new} are wrong or fail"
        )
        power = f"(p = {strip.wrong.p_value:.2g} after {strip.wrong.candidate:,} of its visitors)"
        found.append(
            Finding(
                f"{words} {power}.", "warn" if is_worse else "level", "worse" if is_worse else "cannot_tell"
            )
        )
    if strip.clicks is not None:
        differs = strip.clicks.is_shown(LEVEL)
        more = (strip.candidate.click_share or 0.0) > (strip.champion.click_share or 0.0)
        words = (
            f"{'More' if more else 'Fewer'} answers of {new} are clicked: shown"
            if differs
            else "No difference in clicks is shown so far"
        )
        tone = ("better" if more else "worse") if differs else "cannot_tell"
        sign = ("up" if more else "fall") if differs else "level"
        found.append(Finding(f"{words} (p = {strip.clicks.p_value:.2g}).", sign, tone))
    return found
