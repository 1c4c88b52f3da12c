"""Model versions as an operator reads them: every word, sign and number of a card, ready made."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.template.defaultfilters import filesizeformat

from searchapp.models import Deployment, ModelVersion
from searchapp.services.model_overview import Increment, ModelOverview, VersionFacts
from searchapp.services.model_quality import Gate, Judgement, Quality, judgement_of
from searchapp.services.savings import Rates
from searchapp.services.verdict_gates import LEAST_ITEMS
from searchapp.views.history_cards import arm_words
from searchapp.views.increment_cards import IncrementCard, increment_card
from searchapp.views.increment_cards import points as _points

METHOD_WORDS = {
    "compact": "compact metric model",
    "distillation": "compact metric model, taught by a larger one",
    "twin-bottleneck": "twin-bottleneck hashing",
    "ndpp": "neighbour-driven prototype perturbation (NDPP)",
    "odpp": "optimisation-driven prototype perturbation (ODPP)",
    "bct": "backward-compatible prototypes (BCT)",
    "lifelong": "increment: new categories learned, stored codes kept",
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
GATE_WORDS = {"map_loss": "Mean average precision"}
GATE_VERDICTS = {
    "pass": ("Passes", "check"),
    "fail": ("Fails", "warn"),
    "cannot_tell": ("Cannot tell", "level"),
}


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One measured number beside that of the version in use; all in percent, changes in points."""

    metric: str
    value: str
    interval: str
    other: str
    change: str
    change_interval: str
    verdict: str
    verdict_word: str
    sign: str


@dataclass(frozen=True, slots=True)
class GateRow:
    words: str  # what is allowed, and what was measured
    interval: str
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
    shade: int


@dataclass(frozen=True, slots=True)
class VersionCard:
    version: ModelVersion
    name: str
    is_in_use: bool
    state: str  # in use, on trial, or not in use
    serves: str
    maker: str
    facts: tuple[tuple[str, str], ...]
    quality: tuple[QualityRow, ...]
    gates: tuple[GateRow, ...]
    queries: str
    compared_with: str  # the version in use, when the two were measured together
    verdict: str  # all of it in one sentence
    is_ready: bool  # it passed what it has to pass
    increment: IncrementCard | None


def card_of(facts: VersionFacts, overview: ModelOverview, rates: Rates | None = None) -> VersionCard:
    """With `rates` the card of an increment also says what it saved."""
    name = facts.version.name
    in_use = next((other for other in overview.versions if other.is_in_use), None)
    if in_use is None or facts.is_in_use:
        judged, beside = judgement_of(name, facts.evaluations), ""
    else:
        beside = in_use.version.name
        judged = judgement_of(name, facts.evaluations, beside, in_use.evaluations)
    is_outdated = judged.is_compared and judged.held_out != overview.held_out
    return VersionCard(
        version=facts.version,
        name=name,
        is_in_use=facts.is_in_use,
        state="In use" if facts.is_in_use else "On trial" if facts.serving else "Not in use",
        serves=_serves(facts.serving),
        maker=_maker(facts.version),
        facts=_facts(facts, overview),
        quality=tuple(_row(row) for row in judged.qualities),
        gates=tuple(_gate(row) for row in judged.gates),
        queries=_photos(judged.queries),
        compared_with=beside if judged.is_compared else "",
        verdict=_sentence(judged, name, beside, is_outdated=is_outdated) if beside else "",
        is_ready=_is_ready(judged) and not is_outdated,
        increment=increment_card(facts.increment, rates) if facts.increment else None,
    )


@dataclass(frozen=True, slots=True)
class Proof:
    """What the last move of the pointer did to the stored codes: fingerprints of all of them before and after."""

    before: str
    after: str
    seconds: str
    of: str = ""  # which codes, where not all

    @property
    def is_unchanged(self) -> bool:
        return self.before == self.after


def proof_of(overview: ModelOverview) -> Proof | None:
    """Of the move or the increment that put the version in use there; None when it was there from the start."""
    if overview.in_use is None:
        return None
    done = next((job for job in overview.moves if job.is_finished), None)
    result = (done.result if done else None) or {}
    if result.get("serving") != overview.in_use.version.name:
        increment = overview.facts_of(overview.in_use.version).increment
        return _proof_of_increment(increment) if increment else None
    return Proof(
        before=result["gallery_digest_before"],
        after=result["gallery_digest_after"],
        seconds=f"{result['seconds']:,.1f}",
    )


def _proof_of_increment(increment: Increment) -> Proof:
    result = increment.result
    return Proof(
        before=result["old_digest_before"],
        after=result["old_digest_after"],
        seconds=f"{result['seconds']:,.1f}",
        of=" of known categories",
    )


def gallery_bar(overview: ModelOverview) -> tuple[Share, ...]:
    """Who made the gallery's entries, newest version first, as parts of one bar; the one in use has shade 0."""
    total = sum(facts.entries for facts in overview.versions)
    shares: list[Share] = []
    start = 0.0
    for position, facts in enumerate(facts for facts in overview.versions if facts.entries):
        width = 1000 * facts.entries / total
        shares.append(
            Share(
                name=facts.version.name,
                count=facts.entries,
                percent=f"{100 * facts.entries / total:.0f} %",
                start=round(start, 2),
                width=round(width, 2),
                shade=0 if facts.is_in_use else 1 + position % 3,
            )
        )
        start += width
    return tuple(shares)


def _serves(serving: Sequence[Deployment]) -> str:
    return f"answers {arm_words(serving[0])}" if serving else "answers no query"


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
    if version.parent is not None:
        others = ", ".join(facts.comparable)
        encoded = f"{facts.entries:,} codes of its own; it reads those of {others} too"
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
    change = quality.change
    return QualityRow(
        metric=METRIC_WORDS[quality.metric],
        value=f"{100 * quality.own.value:.1f} %",
        interval=f"{100 * quality.own.low:.1f} to {100 * quality.own.high:.1f}",
        other=f"{100 * quality.other.value:.1f} %" if quality.other else "",
        change=_points(change.value) if change else "",
        change_interval=f"{_points(change.low)} to {_points(change.high)}" if change else "",
        verdict=quality.verdict,
        verdict_word=word,
        sign=sign,
    )


def _gate(gate: Gate) -> GateRow:
    """A loss is told as the change it is, with the sign it has in the table above."""
    word, sign = GATE_VERDICTS[gate.verdict]
    allowed = f"may fall by at most {100 * gate.threshold:g} point{'' if gate.threshold == 0.01 else 's'}"
    change = gate.loss and gate.loss.turned()
    measured = f"measured {_points(change.value)}" if change else "not measurable yet"
    too_few = "" if gate.has_enough_items else f", on photos of {gate.items} items; {LEAST_ITEMS} are needed"
    return GateRow(
        words=f"{GATE_WORDS.get(gate.name, gate.name)} {allowed}: {measured}{too_few}",
        interval=f"{_points(change.low)} to {_points(change.high)}" if change else "",
        verdict={"pass": "better", "fail": "worse"}.get(gate.verdict, gate.verdict),
        verdict_word=word,
        sign=sign,
    )


def _sentence(judged: Judgement, name: str, other: str, *, is_outdated: bool) -> str:
    """Ready or not by the gates, then what gains and what loses."""
    if not judged.is_compared:
        return f"{name} was not measured beside {other} yet."
    verdicts = [row.verdict for row in judged.qualities if row.verdict]
    better, worse, of = verdicts.count("better"), verdicts.count("worse"), len(verdicts)
    if better and worse:
        found = f"better than {other} on {better} of {of} measures, worse on {worse}"
    elif better:
        found = f"better than {other} on {better} of {of} measures, worse on none"
    elif worse:
        found = f"worse than {other} on {worse} of {of} measures, better on none"
    else:
        photos = _photos(judged.queries)
        found = f"neither better nor worse than {other}, as far as {photos} can tell"
    if is_outdated:
        return f"Measured before the held-out photos changed: {name} was {found}."
    if not judged.gates:
        return f"{name} is {found}."
    if _is_ready(judged):
        return f"Ready: {name} is {found}."
    is_failed = any(gate.verdict == "fail" for gate in judged.gates)
    return f"{'Not ready' if is_failed else 'Cannot tell yet'}: {name} is {found}."


def _is_ready(judged: Judgement) -> bool:
    return bool(judged.gates) and all(gate.verdict == "pass" for gate in judged.gates)


def _photos(count: int) -> str:
    return f"{count:,} held-out photo{'' if count == 1 else 's'}"
