"""The operator's first page as a story: which candidates there are, what the verdict of one is, what served before."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from searchapp.models import Deployment, ModelVersion, Verdict
from searchapp.services.canary_stats import LiveFigures
from searchapp.services.model_overview import ModelOverview, VersionFacts
from searchapp.views.history_cards import arm_words
from searchapp.views.matrix_cards import Cell, matrix_of
from searchapp.views.model_cards import METHOD_WORDS
from searchapp.views.verdict_cards import GateRow, Report, Sentence, gate_rows, sentence_of
from searchapp.views.verdict_words import milliseconds


@dataclass(frozen=True, slots=True)
class CandidateCard:
    name: str
    method: str
    architecture: str
    who: str
    made: datetime
    state: str
    sign: str
    tone: str  # of the state: running, done, queued, cancelled
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class VerdictCard:
    """The middle column: of the chosen candidate; without a sentence it was not measured yet."""

    version: str
    against: str
    measured: datetime | None = None
    sentence: Sentence | None = None
    gates: tuple[GateRow, ...] = ()
    before: Cell | None = None
    after: Cell | None = None
    flips: str = ""


def candidate_cards(
    overview: ModelOverview, measured: AbstractSet[int], chosen: VersionFacts | None
) -> list[CandidateCard]:
    """`measured`: the ids of the versions that have a verdict beside the one in use."""
    return [_candidate(facts, overview.candidate, measured, chosen) for facts in overview.candidates]


def chosen_of(overview: ModelOverview, name: str) -> VersionFacts | None:
    """The candidate the address names; else the one that is tried, else the newest."""
    named = [facts for facts in overview.candidates if facts.version.name == name]
    tried = [
        facts
        for facts in overview.candidates
        if overview.candidate is not None and facts.version.pk == overview.candidate.version_id
    ]
    return next(iter([*named, *tried, *overview.candidates]), None)


def verdict_card(
    version: ModelVersion, against: ModelVersion, found: Verdict | None, report: Report
) -> VerdictCard:
    """`report` is that of `found`, by the limits of now."""
    if found is None:
        return VerdictCard(version.name, against.name)
    matrix = matrix_of(report)
    cells = [cell for row in matrix.rows for cell in row.cells if cell is not None]
    flips = report.get("flips", {})
    return VerdictCard(
        version=version.name,
        against=against.name,
        measured=found.created_at,
        sentence=sentence_of(report),
        gates=gate_rows(report),
        before=next((cell for cell in cells if cell.is_now), None),
        after=next((cell for cell in cells if cell.is_serving), None),
        flips=f"{flips.get('negative', 0):,} answers turn wrong, {flips.get('positive', 0):,} turn right",
    )


@dataclass(frozen=True, slots=True)
class Figure:
    label: str
    value: str


def live_words(figures: LiveFigures) -> tuple[Figure, ...]:
    """What the whole site does now, of all arms together."""
    rate = (
        f"{figures.queries_per_minute:,.1f}"
        if figures.queries_per_minute < 10
        else f"{figures.queries_per_minute:,.0f}"
    )
    times = [milliseconds(value) if value is not None else "–" for value in (figures.p50_ms, figures.p95_ms)]
    return (
        Figure("queries a minute", rate),
        Figure("time, p50", times[0]),
        Figure("time, p95", times[1]),
        Figure("errors", f"{figures.errors:,}"),
    )


def _candidate(
    facts: VersionFacts, tried: Deployment | None, measured: AbstractSet[int], chosen: VersionFacts | None
) -> CandidateCard:
    version = facts.version
    if tried is not None and tried.version_id == version.pk:
        state, sign, tone = f"Answers {arm_words(tried)}", "run", "running"
    elif version.pk in measured:
        state, sign, tone = "Measured", "check", "done"
    else:
        state, sign, tone = "Not measured yet", "later", "cancelled"
    return CandidateCard(
        name=version.name,
        method=METHOD_WORDS.get(version.method, version.method),
        architecture=version.architecture,
        who=version.created_by.get_username() if version.created_by else "",
        made=version.created_at,
        state=state,
        sign=sign,
        tone=tone,
        is_chosen=chosen is not None and chosen.version.pk == version.pk,
    )
