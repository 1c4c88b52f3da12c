"""Model versions as an operator reads them: every word, sign and number of a card, ready made."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.template.defaultfilters import filesizeformat

from searchapp.models import Deployment, ModelVersion
from searchapp.services.model_overview import ModelOverview, VersionFacts
from searchapp.services.model_quality import Measured, Quality, qualities_of

METHOD_WORDS = {
    "compact": "compact metric model",
    "distillation": "compact metric model, taught by a larger one",
    "twin-bottleneck": "twin-bottleneck hashing",
}
METRIC_WORDS = {
    "recall_at_1": "Right at first place",
    "recall_at_10": "Right among the first ten",
    "map": "Mean average precision",
    "mrr": "Mean reciprocal rank",
}
VERDICTS = {
    "better": ("Better", "up"),
    "worse": ("Worse", "fall"),
    "cannot_tell": ("Cannot tell", "level"),
}


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One measured number beside that of the version in use."""

    metric: str
    value: str
    interval: str
    in_use: str
    in_use_interval: str
    verdict: str
    verdict_word: str
    sign: str


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the gallery's bar: where it begins and how wide it is, of 1000."""

    name: str
    count: int
    percent: str
    start: float
    width: float
    number: int  # which of the bar's shades


@dataclass(frozen=True, slots=True)
class VersionCard:
    version: ModelVersion
    name: str
    is_in_use: bool
    serves: str
    maker: str
    facts: tuple[tuple[str, str], ...]
    quality: tuple[QualityRow, ...]
    queries: str
    compared_with: str
    verdict: str  # the table in one sentence


def card_of(facts: VersionFacts, overview: ModelOverview) -> VersionCard:
    in_use = next((other for other in overview.versions if other.is_in_use), None)
    compared = in_use if in_use is not None and not facts.is_in_use else None
    quality = qualities_of(facts.evaluations, compared.evaluations if compared else ())
    return VersionCard(
        version=facts.version,
        name=facts.version.name,
        is_in_use=facts.is_in_use,
        serves=_serves(facts.serving),
        maker=_maker(facts.version),
        facts=_facts(facts, overview),
        quality=tuple(_row(row) for row in quality),
        queries=f"{quality[0].queries:,} held-out photos" if quality else "",
        compared_with=compared.version.name if compared and any(row.in_use for row in quality) else "",
        verdict=_sentence(quality, facts.version.name, compared.version.name) if compared else "",
    )


def gallery_bar(overview: ModelOverview) -> tuple[Share, ...]:
    """Who made the gallery's entries, newest version first, as parts of one bar."""
    total = sum(facts.entries for facts in overview.versions)
    shares: list[Share] = []
    start = 0.0
    for facts in overview.versions:
        if facts.entries:
            width = 1000 * facts.entries / total
            percent = f"{100 * facts.entries / total:.0f} %"
            shares.append(
                Share(
                    facts.version.name,
                    facts.entries,
                    percent,
                    round(start, 2),
                    round(width, 2),
                    len(shares) % 4,
                )
            )
            start += width
    return tuple(shares)


def _serves(serving: Sequence[Deployment]) -> str:
    if not serving:
        return "answers no query"
    is_candidate = serving[0].arm == Deployment.Arm.CANDIDATE
    return f"answers {serving[0].share} % of queries" if is_candidate else "answers every query"


def _maker(version: ModelVersion) -> str:
    if version.created_by is not None:
        return f"made by {version.created_by.get_username()}"
    return (
        "shipped with Perennial" if version.parent is None and version.name == "1.0" else "made by the system"
    )


def _facts(facts: VersionFacts, overview: ModelOverview) -> tuple[tuple[str, str], ...]:
    version = facts.version
    lineage = (
        f"may be compared with {', '.join(facts.comparable)}"
        if facts.comparable
        else "its own; compared with no other version"
    )
    encoded = f"{facts.entries:,} of {overview.photos:,} photos encoded"
    return (
        ("Method", METHOD_WORDS.get(version.method, version.method)),
        ("Architecture", version.architecture),
        ("Size", filesizeformat(version.size_bytes)),
        ("Made from", version.parent.name if version.parent else "no other version"),
        ("Lineage", lineage),
        ("Gallery", encoded),
    )


def _row(quality: Quality) -> QualityRow:
    word, sign = VERDICTS.get(quality.verdict, ("", ""))
    return QualityRow(
        metric=METRIC_WORDS[quality.metric],
        value=_percent(quality.own.value),
        interval=_interval(quality.own),
        in_use=_percent(quality.in_use.value) if quality.in_use else "",
        in_use_interval=_interval(quality.in_use) if quality.in_use else "",
        verdict=quality.verdict,
        verdict_word=word,
        sign=sign,
    )


def _sentence(quality: Sequence[Quality], name: str, other: str) -> str:
    found = [row.verdict for row in quality if row.verdict]
    if not found:
        return f"{name} was not measured beside {other} yet."
    better, worse = found.count("better"), found.count("worse")
    if better and not worse:
        return f"{name} is better than {other} on {better} of {len(found)} measures and worse on none."
    if worse and not better:
        return f"{name} is worse than {other} on {worse} of {len(found)} measures and better on none."
    if not better:
        return f"Too close to tell: {name} and {other} differ by less than the measurement can show."
    return f"{name} is better than {other} on {better} of {len(found)} measures and worse on {worse}."


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(measured: Measured) -> str:
    return f"{100 * measured.low:.1f} to {100 * measured.high:.1f}"
