"""What two versions cost here: bytes, the time of a query, and what a full re-encode of the gallery would take.

All of it is timed in the run that asks, on the machine that runs it; two runs differ. Money and energy follow from the
seconds and from what the operator says an hour and this machine's power are.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.intervals import Interval
from ml.protocol import Calibration
from ml.retrieval.columns import EntryColumns
from ml.retrieval.faiss_index import FaissIndex
from ml.retrieval.two_stage import QueryVectors, search
from ml.retrieval.view import GalleryView
from searchapp.models import ModelVersion, stored_path
from searchapp.services import intake, versions
from searchapp.services.encoding_pace import encode_timed
from searchapp.services.gallery_columns import known_only, read_items
from searchapp.services.held_out import HeldOut
from searchapp.services.measured_intervals import SEED
from searchapp.services.operator_settings import setting_values
from searchapp.services.photo_features import Heard

TIMED_QUERIES, TIMED_PHOTOS = 40, 60
RESULTS = 20  # items asked for, as a page of results has them
DRAWS = 2000
SECONDS_PER_HOUR = 3600

Times = NDArray[np.float64]  # (Q,) milliseconds


@dataclass(frozen=True, slots=True)
class Timed:
    """A version, and the gallery that its queries are timed on."""

    version: ModelVersion
    gallery: EntryColumns
    calibrations: Mapping[str, Calibration]


def queries_timed(sides: Sequence[Timed], queries: Sequence[HeldOut], *, heard: Heard) -> list[Times]:
    """Encoding and searching, once per query, the versions taking turns; the first query only warms up."""
    items = read_items()
    views = [
        GalleryView.build(known_only(side.gallery, items), items, engine=FaissIndex.build) for side in sides
    ]
    encoders = [versions.encoder_of(side.version) for side in sides]
    chosen = np.random.default_rng(SEED).permutation(len(queries))[:TIMED_QUERIES]
    asked = [queries[at] for at in chosen.tolist()]
    found: list[list[float]] = [[] for _ in sides]
    for done, query in enumerate(asked[:1] + asked):
        heard(done, len(asked) + 1)
        try:
            pixels = [intake.stored_pixels(query.path, input_size=one.input_size) for one in encoders]
        except intake.UNREADABLE:
            continue
        for turn in (range(len(sides)), reversed(range(len(sides))))[done % 2]:
            started = time.perf_counter()
            encoded = encoders[turn].encode(pixels[turn][None])
            vectors = QueryVectors(encoded.packed_codes[0], encoded.embeddings[0])
            search(views[turn], vectors, k=RESULTS, calibrations=sides[turn].calibrations)
            if done:
                found[turn].append(1000 * (time.perf_counter() - started))
    return [np.array(times) for times in found]


def slowness(times: Times, baseline: Times) -> Interval | None:
    """How many times as long a query takes as before: ratio of medians, with its interval over the queries."""
    if not len(times):
        return None
    drawn = np.random.default_rng(SEED).integers(0, len(times), (DRAWS, len(times)))
    ratios = np.median(times[drawn], axis=1) / np.median(baseline[drawn], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(np.median(times) / np.median(baseline)), float(low), float(high), len(times))


def costs_row(
    sides: Sequence[Timed], times: Sequence[Times], *, pictures: Sequence[tuple[str, str]], entries: int
) -> dict[str, Any]:
    """`sides`: the version, then the one it is judged against. pictures: (SHA-256, extension) of the gallery's photos,
    some of which are encoded to know the pace; `entries` is how many a full re-encode would be about.
    """
    version = sides[0].version
    chosen = np.random.default_rng(SEED).permutation(len(pictures))[:TIMED_PHOTOS].tolist()
    paths = [stored_path(*pictures[at]) for at in chosen]
    photos, seconds = encode_timed(version, paths) if paths else (0, 0.0)
    return {
        "bytes": {side.version.name: side.version.size_bytes for side in sides},
        "latency_ms": {
            side.version.name: {f"p{share}": _percentile(own, share) for share in (50, 95)}
            for side, own in zip(sides, times, strict=True)
        },
        "entries": entries,
        "reencode_seconds": round(entries * seconds / photos, 1) if photos else None,
        "reencode_how": f"{photos} photos encoded by {version.name} in {seconds:.2f} s of one processor, "
        f"times {entries:,}",
    }


def costs_now(costs: Mapping[str, Any]) -> dict[str, Any]:
    """With what they come to at the rates the operator has set; None where no rate is set or nothing was timed."""
    rates = setting_values()
    seconds = costs["reencode_seconds"]
    hours = None if seconds is None else seconds / SECONDS_PER_HOUR
    price, watts = float(rates["cost.machine_hour"]), float(rates["cost.watts"])
    return {
        **costs,
        "reencode_hours": None if hours is None else round(hours, 4),
        "money": round(hours * price, 4) if hours is not None and price else None,
        "currency": rates["cost.currency"],
        "kwh": round(hours * watts / 1000, 5) if hours is not None and watts else None,
    }


def _percentile(times: Times, share: int) -> float | None:
    return round(float(np.percentile(times, share)), 3) if len(times) else None
