"""What similarities mean between versions of one lineage, measured on the catalogue's own photos and kept in rows.

A bundle says how its queries read its own entries, and those of the version it was trained beside. Chains and the way
back need more: a candidate's queries on entries of each older encoder, and each older encoder's queries on the
candidate's. Photos that are held out are never asked. The newer reading is brought level with the version's own
(ml.training.producer_calibration), so that a gallery of several producers treats them alike.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import numpy as np
from django.db import transaction
from numpy.typing import NDArray

from ml.evaluation.retrieval import signs_of
from ml.evaluation.two_stage import CodedSet
from ml.protocol import Calibration
from ml.training.producer_calibration import Asked, producer_calibrations
from searchapp.models import (
    Deployment,
    EvaluationQuery,
    GalleryEntry,
    ItemImage,
    ModelVersion,
    PairCalibration,
    stored_path,
)
from searchapp.services import intake, versions
from searchapp.services.gallery_columns import in_chunks
from searchapp.services.photo_features import Heard

MOST_ENTRIES, MOST_QUERIES = 1_500, 300
LEAST_ENTRIES = (
    40  # on fewer a calibration would be chance; the reading of the version's own entries stands in
)
SEED = 0
OWN, OTHER = "self", "other"

logger = logging.getLogger(__name__)


class Corrects(Protocol):
    """A map from an older encoder's embeddings to a newer one's, (N, D) each, of the same type."""

    def corrected(self, stale: NDArray[Any]) -> NDArray[Any]: ...


class _Photo(NamedTuple):
    image_id: int
    path: str
    category_id: int
    vertical: str


def pairs_calibrate(
    version: ModelVersion,
    *,
    corrector: Mapping[str, Corrects] | None = None,
    corrector_digest: str = "",
    most: int = MOST_ENTRIES,
    heard: Heard = lambda _done, _total: None,
) -> int:
    """Fit and keep what is missing of the readings between `version` and the other encoders of its lineage.

    With `corrector`, maps by producer's name, those of its queries on entries seen through it, and no others. most:
    photos to go by; heard: photos done, of all. Returns how many were kept; a catalogue too small to tell gives none.
    """
    others = _other_trunks(version)
    if corrector is not None:
        others = [other for other in others if _map_of(other, corrector) is not None]
    wanted = [
        (asking, entries)
        for other in others
        for asking, entries in ([(version, other)] if corrector is not None else _both_ways(version, other))
        if not _is_known(asking, entries, corrector_digest)
    ]
    if not wanted:
        return 0
    photos = _photos(most)
    coded = _Coded(photos, len({pair.pk for both in wanted for pair in both}) * len(photos), heard)
    kept = 0
    for asking, entries in wanted:
        calibration = _fitted(coded, asking, entries, corrector)
        if calibration is not None:
            kept += _keep(asking, entries, corrector_digest, calibration)
    return kept


def _other_trunks(version: ModelVersion) -> list[ModelVersion]:
    """Of each other M of the lineage the version that answered last, else the newest: increments are read alike."""
    same_size = ModelVersion.objects.filter(
        lineage=version.lineage, code_bits=version.code_bits, dimension=version.dimension
    )
    served = dict(
        Deployment.objects.filter(version__in=same_size)
        .order_by("pk")
        .values_list("version__major", "version")
    )
    newest = dict(same_size.order_by("major", "minor").values_list("major", "pk"))
    chosen = {**newest, **served}
    chosen.pop(version.major, None)
    return list(same_size.filter(pk__in=chosen.values()))


def _both_ways(version: ModelVersion, other: ModelVersion) -> list[tuple[ModelVersion, ModelVersion]]:
    return [(version, other), (other, version)]


def _map_of(producer: ModelVersion, corrector: Mapping[str, Corrects]) -> Corrects | None:
    """Increments of one M share the embedding head, and so the map."""
    found = (one for name, one in corrector.items() if name.split(".")[0] == str(producer.major))
    return next(found, None)


def _is_known(asking: ModelVersion, entries: ModelVersion, corrector_digest: str) -> bool:
    """By its own bundle, or a row for this M."""
    if not corrector_digest:
        told = versions.bundle_of(asking).manifest.calibration
        siblings = ModelVersion.objects.filter(lineage=entries.lineage, major=entries.major)
        if siblings.filter(digest__in=list(told)).exists():
            return True
    return PairCalibration.objects.filter(
        query_version__lineage=asking.lineage,
        query_version__major=asking.major,
        producer__major=entries.major,
        corrector_digest=corrector_digest,
    ).exists()


def _photos(most: int = MOST_ENTRIES) -> list[_Photo]:
    """Drawn from the readable ones that are not held out; the same ones each time."""
    held_out = EvaluationQuery.objects.values("image_sha256")
    rows = ItemImage.objects.filter(failure="").exclude(image_sha256__in=held_out).order_by("pk")
    ids = np.array(rows.values_list("pk", flat=True), np.int64)
    if len(ids) > most:
        ids = np.sort(np.random.default_rng(SEED).choice(ids, most, replace=False))
    fields = ("pk", "image_sha256", "extension", "item__category_id", "item__category__vertical")
    return [
        _Photo(pk, stored_path(sha, extension), category, vertical)
        for part in in_chunks(ids.tolist())
        for pk, sha, extension, category, vertical in ItemImage.objects.filter(pk__in=part)
        .order_by("pk")
        .values_list(*fields)
    ]


class _Coded:
    """The photos as each encoder sees them: from rows where there are some, else encoded, once."""

    def __init__(self, photos: Sequence[_Photo], total: int, heard: Heard) -> None:
        self.photos = photos
        self.total, self.heard, self.done = total, heard, 0
        self._found: dict[int, dict[int, tuple[bytes, NDArray[np.float32]]]] = {}

    def of(self, version: ModelVersion) -> dict[int, tuple[bytes, NDArray[np.float32]]]:
        """By photo: packed code and embedding; a photo that cannot be read has none."""
        if version.major not in self._found:
            found = _from_rows(version, [photo.image_id for photo in self.photos])
            for photo in self.photos:
                self.done += 1
                if photo.image_id not in found:
                    self.heard(self.done, self.total)
                    _encode_into(found, version, photo)
            self._found[version.major] = found
        return self._found[version.major]


def _from_rows(
    version: ModelVersion, image_ids: Sequence[int]
) -> dict[int, tuple[bytes, NDArray[np.float32]]]:
    trunk = GalleryEntry.objects.filter(producer__lineage=version.lineage, producer__major=version.major)
    found = {}
    for part in in_chunks(image_ids):
        rows = trunk.filter(image_id__in=part).order_by("producer__minor")
        for image_id, code, embedding in rows.values_list("image_id", "code", "embedding"):
            found[image_id] = bytes(code), np.frombuffer(embedding, "<f2").astype(np.float32)
    return found


def _encode_into(
    found: dict[int, tuple[bytes, NDArray[np.float32]]], version: ModelVersion, photo: _Photo
) -> None:
    encoder = versions.encoder_of(version)
    try:
        pixels = intake.stored_pixels(photo.path, input_size=encoder.input_size)
    except intake.UNREADABLE as error:
        logger.warning("photo %s cannot be read: %s", photo.image_id, error)
        return
    encoded = encoder.encode(pixels[None])
    found[photo.image_id] = encoded.packed_codes[0].tobytes(), encoded.embeddings[0]


def _fitted(
    coded: _Coded,
    asking: ModelVersion,
    entries: ModelVersion,
    corrector: Mapping[str, Corrects] | None,
) -> Calibration | None:
    """Of `asking`'s queries on entries of `entries`; None where the photos are too few or tell nothing apart."""
    own, other = coded.of(asking), coded.of(entries)
    photos = [photo for photo in coded.photos if photo.image_id in own and photo.image_id in other]
    if len(photos) < LEAST_ENTRIES:
        return None
    ids = [photo.image_id for photo in photos]
    mine, theirs = _set_of(own, ids), _set_of(other, ids)
    if corrector is not None and (mapped := _map_of(entries, corrector)) is not None:
        theirs = CodedSet(
            theirs.signs, mapped.corrected(theirs.embeddings.astype(np.float16)).astype(np.float32)
        )
    labels = np.array([photo.category_id for photo in photos], np.int64)
    chosen = np.unique(np.linspace(0, len(photos) - 1, min(MOST_QUERIES, len(photos))).astype(np.int64))
    asked = Asked(
        queries=CodedSet(mine.signs[chosen], mine.embeddings[chosen]),
        labels=labels[chosen],
        unseen=np.zeros(len(chosen), np.bool_),
        groups=tuple(photos[row].vertical for row in chosen.tolist()),
        own=chosen,
    )
    reading = versions.bundle_of(asking).manifest.calibration[versions.OWN_ENTRIES]
    try:
        found = producer_calibrations(
            asked,
            labels,
            {OWN: mine, OTHER: theirs},
            newest=OWN,
            reading=reading,
            is_cautious=True,
            seed=SEED,
        )
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        logger.warning("%s on entries of %s is not calibrated: %s", asking, entries, error)
        return None
    return found[OTHER]


def _set_of(found: Mapping[int, tuple[bytes, NDArray[np.float32]]], ids: Sequence[int]) -> CodedSet:
    packed = np.stack([np.frombuffer(found[pk][0], np.uint8) for pk in ids])
    return CodedSet(signs_of(packed), np.stack([found[pk][1] for pk in ids]))


@transaction.atomic
def _keep(asking: ModelVersion, entries: ModelVersion, corrector_digest: str, found: Calibration) -> int:
    _, is_new = PairCalibration.objects.get_or_create(
        query_version=asking,
        producer=entries,
        corrector_digest=corrector_digest,
        defaults={"values": asdict(found)},
    )
    return int(is_new)
