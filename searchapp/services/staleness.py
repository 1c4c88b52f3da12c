"""How old the gallery is: who made the entries that answer now, how they are seen, how far off they are expected to be.

Counts are of this process's view; predicted errors are of a sample of each producer's entries. Pages only read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from django.db.models import Max, Min
from numpy.typing import NDArray

from ml.methods.corrector.bundle import TrunkMap
from ml.retrieval.rows import EntryRows
from searchapp.models import EvaluationQuery, GalleryEntry, Job, JobState, ModelVersion
from searchapp.services import backfilling, correcting, serving
from searchapp.services.correctors import trunk_maps_of
from searchapp.services.gallery_columns import in_chunks
from searchapp.services.held_out import MAX_QUERIES
from searchapp.services.savings import EncodingRate, duration_words, rates_here
from searchapp.services.stale_entries import stale_photos

SAMPLE = 1_000  # entries of a producer whose errors are predicted
# Of cosine to what the version in use would make of the photo: the method's own gate asks 0.95 of the median and 0.85
# of one in twenty.
BANDS = (0.95, 0.85, 0.70)
LEAST_PACED = 20  # photos; fewer say little of a rate
OWN, CORRECTED, STORED = "own", "corrected", "stored"


@dataclass(frozen=True, slots=True)
class Producer:
    """The entries of one version that stand for their photos. seen: own | corrected | stored.

    bands: shares of entries by expected cosine, from BANDS[0] and above to below BANDS[-1]; empty where nothing tells.
    """

    name: str
    entries: int
    oldest: datetime | None
    newest: datetime | None
    seen: str
    bands: tuple[float, ...] = ()
    expected_cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Staleness:
    """producers: newest first. stale: photos that a backfill would encode. pace: seconds for each, as measured here.

    sample: photos that a correction would encode; asked: held-out photos that would judge it.
    """

    version: ModelVersion
    corrector_digest: str
    producers: tuple[Producer, ...]
    stale: int
    pace: EncodingRate | None
    sample: int
    asked: int

    @property
    def entries(self) -> int:
        """That answer now."""
        return sum(producer.entries for producer in self.producers)

    @property
    def backfill_seconds(self) -> float | None:
        """Of encoding every stale photo; None while nobody measured a pace."""
        return None if self.pace is None else self.stale * self.pace.seconds_each

    @property
    def correction_seconds(self) -> float | None:
        """Of encoding the sample, photos to read similarities from and the held-out ones: nearly all it takes."""
        encoded = self.sample + min(correcting.CALIBRATED_ON, self.entries) + self.asked
        return None if self.pace is None else encoded * self.pace.seconds_each


def staleness() -> Staleness:
    """Of the version in use. Raises Unavailable while this process loads its gallery."""
    arm = serving.current().champion
    maps = trunk_maps_of(arm.corrector_digest)
    producers = [
        _producer(name, pool.rows, arm.version, maps)
        for name, pool in arm.view.pools.items()
        if len(pool.rows)
    ]
    by_trunk: dict[int, int] = {}
    for producer in producers:
        if producer.seen != OWN:
            major = _major(producer.name)
            by_trunk[major] = by_trunk.get(major, 0) + producer.entries
    return Staleness(
        version=arm.version,
        corrector_digest=arm.corrector_digest,
        producers=tuple(sorted(producers, key=lambda one: _number(one.name), reverse=True)),
        stale=stale_photos(arm.version).count(),
        pace=pace_here(arm.version),
        sample=sum(correcting.items_to_fit(by_trunk, arm.version.dimension).values()),
        asked=min(MAX_QUERIES, EvaluationQuery.objects.count()),
    )


def pace_here(version: ModelVersion) -> EncodingRate | None:
    """Seconds to encode a photo by this version, from work done here by it; else what was measured last of any."""
    done = Job.objects.filter(kind__in=(backfilling.KIND, correcting.KIND), state=JobState.DONE)
    for job in done.order_by("-finished_at")[:10]:
        result = job.result or {}
        is_fit = job.kind == correcting.KIND
        photos = result.get("fitted_on" if is_fit else "encoded", 0)
        seconds = result.get("encode_seconds" if is_fit else "seconds", 0.0)
        if result.get("version") == version.name and photos >= LEAST_PACED and seconds:
            return EncodingRate(
                seconds / photos, f"as the last {photos:,} photos took, {duration_words(seconds)}"
            )
    return rates_here().encoding


def _producer(name: str, rows: EntryRows, version: ModelVersion, maps: Mapping[str, TrunkMap]) -> Producer:
    ids = np.concatenate([rows.base.entry_ids[_living(rows)], rows.delta.entry_ids])
    ends = GalleryEntry.objects.filter(pk__in=[int(ids.min()), int(ids.max())])
    oldest, newest = ends.aggregate(oldest=Min("created_at"), newest=Max("created_at")).values()
    if _major(name) == version.major:
        return Producer(name, len(rows), oldest, newest, OWN)
    if name not in maps:
        return Producer(name, len(rows), oldest, newest, STORED)
    cosines = 1 - _sampled(ids, version.dimension, maps[name]) / 2
    places = np.searchsorted(-np.array(BANDS), -cosines, side="left")
    shares = np.bincount(places, minlength=len(BANDS) + 1) / len(cosines)
    return Producer(
        name, len(rows), oldest, newest, CORRECTED, tuple(shares.tolist()), round(float(cosines.mean()), 4)
    )


def _living(rows: EntryRows) -> NDArray[np.bool_] | slice:
    return slice(None) if rows.dead is None else ~rows.dead


def _sampled(ids: NDArray[np.int64], dimension: int, one: TrunkMap) -> NDArray[np.float64]:
    """Squared distances that the correction is expected to leave, of entries evenly spaced over `ids`."""
    chosen = np.sort(ids)[np.unique(np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids))).astype(np.int64))]
    raw = [
        bytes(embedding)
        for part in in_chunks(chosen.tolist())
        for embedding in GalleryEntry.objects.filter(pk__in=part)
        .order_by()
        .values_list("embedding", flat=True)
    ]
    return one.errors.predicted(np.frombuffer(b"".join(raw), "<f2").reshape(-1, dimension))


def _major(name: str) -> int:
    return _number(name)[0]


def _number(name: str) -> tuple[int, int]:
    major, minor = name.split(".")
    return int(major), int(minor)
