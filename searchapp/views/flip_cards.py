"""Answers that turned wrong, or right, as pictures: who asks, the first answer before, the first answer after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from searchapp.addresses import item_url
from searchapp.models import FlipDecision, thumbnail_path
from searchapp.views.cards import Photo
from searchapp.views.verdict_cards import Report
from searchapp.views.verdict_words import counted, estimate_of, percent, percent_between

NEGATIVE, POSITIVE = "negative", "positive"
SHOWN = 8
DECISIONS = {
    FlipDecision.Decision.ACCEPT: ("Accepted", "check", "better"),
    FlipDecision.Decision.BLOCK: ("Blocks the promotion", "stop", "worse"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What stood at first place. A right one is outlined and says so."""

    photo: Photo
    title: str
    url: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Said:
    """An operator's decision."""

    word: str
    sign: str
    tone: str
    reason: str
    who: str


@dataclass(frozen=True, slots=True)
class FlipCard:
    sha256: str
    photo: Photo
    category: str
    before: Answer
    after: Answer
    said: Said | None


@dataclass(frozen=True, slots=True)
class Flips:
    """One of the two kinds; `cards` are those that the page shows, `more` how many it does not."""

    kind: str
    negative: int
    positive: int
    rate: str
    interval: str
    words: str
    cards: tuple[FlipCard, ...]
    more: int
    categories: tuple[str, ...]
    category: str
    shows_all: bool

    @property
    def is_negative(self) -> bool:
        return self.kind == NEGATIVE


def examples_of(report: Report, kind: str) -> Sequence[Mapping[str, Any]]:
    """The pictures that the report keeps of `negative` or `positive` flips, the hardest loss first."""
    found: Sequence[Mapping[str, Any]] = report.get("flips", {}).get("examples", {}).get(kind, ())
    return found


def skus_in(examples: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row[side] for row in examples for side in ("before", "after") if row.get(side)}


def flips_of(
    report: Report,
    kind: str,
    category: str,
    titles: Mapping[str, str],
    decisions: Mapping[str, FlipDecision],
    *,
    shows_all: bool = False,
) -> Flips:
    """Those of one kind, of one category path where it is given."""
    counts = report.get("flips", {})
    examples = examples_of(report, kind)
    asked = [row for row in examples if not category or row["category"] == category]
    shown = asked if shows_all else asked[:SHOWN]
    rate = estimate_of(counts, "negative_rate")
    return Flips(
        kind=kind,
        negative=int(counts.get("negative", 0)),
        positive=int(counts.get("positive", 0)),
        rate=percent(rate.value) if rate else "",
        interval=percent_between(rate) if rate else "",
        words=_words(counts),
        cards=tuple(_card(row, kind, titles, decisions.get(row["query"])) for row in shown),
        more=len(asked) - len(shown),
        categories=tuple(sorted({row["category"] for row in examples})),
        category=category,
        shows_all=shows_all,
    )


def _words(counts: Mapping[str, Any]) -> str:
    asked = counted(int(counts.get("queries", 0)), "held-out photo")
    wrong, right = int(counts.get("negative", 0)), int(counts.get("positive", 0))
    return (
        f"Of {asked}, {wrong:,} turned from right to wrong at first place and {right:,} from wrong to right."
    )


def _card(
    row: Mapping[str, Any], kind: str, titles: Mapping[str, str], decision: FlipDecision | None
) -> FlipCard:
    leaf = str(row["category"]).rsplit(" > ", 1)[-1]
    return FlipCard(
        sha256=str(row["query"]),
        photo=_photo(row["query"], f"The photo that asks, of {leaf}"),
        category=str(row["category"]),
        before=_answer(row, "before", titles, is_right=kind == NEGATIVE),
        after=_answer(row, "after", titles, is_right=kind == POSITIVE),
        said=_said(decision) if decision else None,
    )


def _answer(row: Mapping[str, Any], side: str, titles: Mapping[str, str], *, is_right: bool) -> Answer:
    """The photo that stood first, as the report names it; its item may be gone since."""
    sku, path = str(row.get(side) or ""), str(row.get(f"{side}_path") or "")
    if sku not in titles or not path:
        return Answer(Photo("", "Not in the catalogue any more" if sku else "No answer"), sku, "", is_right)
    sha256 = path.rsplit("/", 1)[-1].split(".", 1)[0]
    return Answer(_photo(sha256, titles[sku]), titles[sku], item_url(sku), is_right)


def _photo(sha256: str, alt: str) -> Photo:
    return Photo(f"{settings.MEDIA_URL}{thumbnail_path(sha256)}", alt)


def _said(decision: FlipDecision) -> Said:
    word, sign, tone = DECISIONS[FlipDecision.Decision(decision.decision)]
    who = decision.created_by.get_username() if decision.created_by else "somebody"
    return Said(word, sign, tone, decision.reason, who)
