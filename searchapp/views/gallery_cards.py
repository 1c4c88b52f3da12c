"""The staleness map in words, signs and bars, ready made for its page."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from searchapp.models import Job
from searchapp.services.savings import duration_words
from searchapp.services.staleness import BANDS, CORRECTED, OWN, STORED, Producer, Staleness
from searchapp.views.model_cards import Share

SEEN_WORDS = {
    OWN: ("encoded by this encoder", "check"),
    CORRECTED: ("through the correction", "level"),
    STORED: ("as they were stored", "wait"),
}
BAND_WORDS = (
    f"cosine {BANDS[0]:.2f} and above",
    *(f"{low:.2f} to {high:.2f}" for high, low in pairwise(BANDS)),
    f"below {BANDS[-1]:.2f}",
)


@dataclass(frozen=True, slots=True)
class ProducerRow:
    """bands: its own bar, empty where nothing tells; expected: the mean cosine in words."""

    producer: Producer
    percent: str
    seen: str
    sign: str
    bands: tuple[Share, ...]
    expected: str


@dataclass(frozen=True, slots=True)
class GalleryPage:
    says: str
    bar: tuple[Share, ...]
    rows: tuple[ProducerRow, ...]
    correcting: (
        str  # what a correction would take, in measured words; empty where there is nothing to correct
    )
    encoding: str
    how: str  # how the pace was measured


def gallery_page(found: Staleness) -> GalleryPage:
    """Everything the page says of the gallery as it is."""
    total = max(1, found.entries)
    counts = [(one.name, one.entries) for one in found.producers]
    shades = [0 if one.seen == OWN else 1 + at % 3 for at, one in enumerate(found.producers)]
    return GalleryPage(
        says=_says(found),
        bar=_bar(counts, shades),
        rows=tuple(_row(one, total) for one in found.producers),
        correcting=_correcting(found) if found.stale else "",
        encoding=_encoding(found) if found.stale else "",
        how=found.pace.how if found.pace else "",
    )


def correction_facts(job: Job | None) -> tuple[tuple[str, str], ...]:
    """Figures of a correction's result: what it took beside a full re-encode, and what it changed."""
    result: Mapping[str, Any] = (job.result if job else None) or {}
    if "fitted_on" not in result:
        return ()
    opened = sum(result["opened"].values())
    facts = [
        ("Time it took", duration_words(result["seconds"])),
        ("Encoding everything again", f"about {duration_words(result['reencode_seconds'])}"),
        ("Photos opened, held-out ones included", f"{opened:,}"),
    ]
    if result["map_before"] is not None and result["map_after"] is not None:
        facts.append(
            ("Mean average precision", f"{_points(result['map_before'])} → {_points(result['map_after'])}")
        )
    return tuple(facts)


def probe_words(job: Job | None) -> tuple[str, ...]:
    """One sentence a producer: probed on photos the map had not seen, and predicted for all of its entries."""
    result: Mapping[str, Any] = (job.result if job else None) or {}
    return tuple(_probe(told) for told in result.get("producers", ()))


def _probe(told: Mapping[str, Any]) -> str:
    if not told["helps"]:
        return f"Entries of {told['producer']} stay as they were stored: {told['reason']}."
    predicted = 1 - told["predicted_error"] / 2
    return (
        f"Entries of {told['producer']}: on photos kept aside for judging, the correction leaves "
        f"{100 * told['ratio']:.0f} % of the distance to a fresh embedding; half of them come within cosine "
        f"{told['cosine_median']:.2f}, 95 % within {told['cosine_low']:.2f}. Predicted for all "
        f"{told['entries']:,}: {predicted:.2f} on average."
    )


def _says(found: Staleness) -> str:
    name = found.version.name
    if not found.entries:
        return "No photo is encoded yet."
    if not found.stale:
        return f"{name} is in use, and every photo was encoded by its encoder: nothing here is old."
    share = f"{found.stale:,} of {found.entries:,} entries"
    if found.corrector_digest:
        return f"{name} is in use. It sees {share}, made by older encoders, through a correction."
    return f"{name} is in use. It compares itself with {share} as older encoders left them."


def _correcting(found: Staleness) -> str:
    took = _took(found.correction_seconds)
    return (
        f"Encodes {found.sample:,} photos anew and asks {found.asked:,} held-out ones{took}. The other embeddings are "
        f"computed from what is stored.{_dear(found)}"
    )


def _encoding(found: Staleness) -> str:
    took = _took(found.backfill_seconds)
    return f"Encodes {found.stale:,} photos one by one in the background{took}; you may pause it at any time."


def _dear(found: Staleness) -> str:
    """In a small gallery the photos that judge a correction are more than those it spares."""
    if found.backfill_seconds is None or found.correction_seconds is None:
        return ""
    is_dear = found.correction_seconds >= found.backfill_seconds
    return " In a gallery this small, encoding everything again takes no longer." if is_dear else ""


def _took(seconds: float | None) -> str:
    return (
        " (nobody has timed that here yet)" if seconds is None else f", about {duration_words(seconds)} here"
    )


def _row(one: Producer, total: int) -> ProducerRow:
    words, sign = SEEN_WORDS[one.seen]
    shares = [(BAND_WORDS[at], share) for at, share in enumerate(one.bands)]
    return ProducerRow(
        producer=one,
        percent=f"{100 * one.entries / total:.0f} %",
        seen=words,
        sign=sign,
        bands=_bar([(name, round(1000 * share)) for name, share in shares], list(range(len(shares)))),
        expected="" if one.expected_cosine is None else f"{one.expected_cosine:.2f}",
    )


def _bar(counts: list[tuple[str, int]], shades: list[int]) -> tuple[Share, ...]:
    total = sum(count for _, count in counts)
    shares: list[Share] = []
    start = 0.0
    for (name, count), shade in zip(counts, shades, strict=True):
        if not count:
            continue
        width = 1000 * count / total
        shares.append(
            Share(name, count, f"{100 * count / total:.0f} %", round(start, 2), round(width, 2), shade)
        )
        start += width
    return tuple(shares)


def _points(value: float) -> str:
    return f"{100 * value:.1f} %"
