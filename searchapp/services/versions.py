"""Model versions as rows and bundles: register, find the live one, open a version's encoder once per process."""

import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.db.models import Max

from ml.artifacts import Bundle, BundleError, Manifest, load_bundle, read_manifest
from ml.onnx_encoder import FeatureEncoder
from ml.protocol import Calibration, Encoder
from searchapp.exceptions import IncompatibleVersion, Unavailable
from searchapp.models import Deployment, GalleryView, ModelVersion, PairCalibration

FIRST = (1, 0)
MOST_OPEN = 4  # encoders of each kind that a process keeps: champion, candidate and those before them
OWN_ENTRIES = "self"  # the calibration of a version's queries against its own entries

Opened = TypeVar("Opened")
logger = logging.getLogger(__name__)
_encoders: dict[str, Encoder] = {}
_photo_encoders: dict[str, FeatureEncoder] = {}
_opening = threading.Lock()


def default_version_ensure() -> ModelVersion:
    """The live version; when there is none yet, the shipped bundle becomes 1.0 and answers every query.

    Safe to call from several processes at once, and again: then it changes nothing.
    """
    if live := champion_live():
        return live.version
    manifest = read_manifest(settings.DEFAULT_BUNDLE)
    bundle_store(settings.DEFAULT_BUNDLE)
    try:
        with transaction.atomic():
            version = version_register(manifest, number=FIRST, size_bytes=size_bytes_of(manifest))
            view = GalleryView.objects.create(version=version)
            Deployment.objects.create(
                version=version, view=view, reason="the version Perennial is shipped with"
            )
    except IntegrityError:  # another process was a moment earlier
        return champion().version
    return version


def shipped_version() -> ModelVersion | None:
    """The version this release would set up first, without a row; None when it came without a bundle."""
    try:
        manifest = read_manifest(settings.DEFAULT_BUNDLE)
    except (BundleError, OSError):
        return None
    return ModelVersion(digest=manifest.digest, code_bits=manifest.code_bits, dimension=manifest.dimension)


def shipped_candidate_ensure() -> ModelVersion | None:
    """When an update brought another bundle, register it as the next `M.0`, in a lineage of its own: a candidate.

    What serves is not touched. Safe to call from several processes at once, and again; returns what it registered.
    """
    if champion_live() is None:
        return None
    try:
        manifest = read_manifest(settings.DEFAULT_BUNDLE)
        if ModelVersion.objects.filter(digest=manifest.digest).exists():
            return None
        bundle_store(settings.DEFAULT_BUNDLE)
    except (BundleError, OSError):
        logger.exception("the bundle that came with this release cannot be used; what serves is not touched")
        return None
    try:
        with transaction.atomic():
            return base_version_register(manifest)
    except IntegrityError:  # another process was a moment earlier
        return None


def base_version_register(
    manifest: Manifest,
    *,
    parent: ModelVersion | None = None,
    labels: Sequence[str] = (),
    user: AbstractBaseUser | None = None,
) -> ModelVersion:
    """A stored bundle as the next free `M.0`, with its view, in its parent's lineage or a new one; it serves nothing.

    Inside the caller's transaction. Raises IntegrityError when somebody else took the number meanwhile.
    """
    highest = ModelVersion.objects.aggregate(highest=Max("major"))["highest"] or 0
    version = version_register(
        manifest,
        number=(highest + 1, 0),
        size_bytes=size_bytes_of(manifest),
        parent=parent,
        labels=labels,
        user=user,
    )
    GalleryView.objects.create(version=version)
    return version


def version_register(
    manifest: Manifest,
    *,
    number: tuple[int, int],
    size_bytes: int,
    parent: ModelVersion | None = None,
    labels: Sequence[str] = (),
    user: AbstractBaseUser | None = None,
) -> ModelVersion:
    """The row of a stored bundle. A child joins its parent's lineage; without a parent a new lineage begins."""
    return ModelVersion.objects.create(
        major=number[0],
        minor=number[1],
        digest=manifest.digest,
        parent=parent,
        lineage=parent.lineage if parent else uuid.uuid4(),
        method=manifest.method,
        architecture=manifest.architecture,
        code_bits=manifest.code_bits,
        dimension=manifest.dimension,
        size_bytes=size_bytes,
        manifest={
            "metrics": manifest.metrics,
            "training": manifest.training,
            "preprocessing": manifest.preprocessing,
            "input_size": manifest.input_size,
            "labels": list(manifest.labels),
        },
        label_registry=list(labels),
        created_by_id=None if user is None else user.pk,
    )


def champion() -> Deployment:
    """The live deployment every query goes to unless a canary takes it. Raises Unavailable when there is none."""
    live = champion_live()
    if live is None:
        raise Unavailable("No model version is in use yet; it is being set up.")
    return live


def champion_live() -> Deployment | None:
    """As `champion`; None when there is none."""
    live = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION, ended_at__isnull=True)
    return live.select_related("version", "view").first()


def version_named(name: str) -> ModelVersion:
    """The version called `M.m`. Raises IncompatibleVersion for one this installation does not have."""
    known = {version.name: version for version in ModelVersion.objects.all()}
    if name not in known:
        raise IncompatibleVersion(
            f"Model version {name[:40]!r} is not known here; known: {', '.join(known) or 'none'}."
        )
    return known[name]


def lineage_compatible(query: ModelVersion, producer: ModelVersion) -> bool:
    """Whether codes and embeddings of the two may be compared at all."""
    return (query.lineage, query.code_bits, query.dimension) == (
        producer.lineage,
        producer.code_bits,
        producer.dimension,
    )


def calibrations_of(
    version: ModelVersion, bundle: Bundle, *, corrector_digest: str = ""
) -> Mapping[str, Calibration]:
    """Calibration by producer name, for every version of the lineage: what its similarities to their entries mean.

    All increments of one M share trunk and code space and are read alike. Of another M, in this order: its entries as
    the corrector shows them, if there is one; what the bundle says; what was measured here of the pair; and, where
    nobody measured anything, the reading of the version's own entries.
    """
    lineage = list(ModelVersion.objects.filter(lineage=version.lineage))
    told = bundle.manifest.calibration
    found = _measured_pairs(version, "")
    found |= {other.major: told[other.digest] for other in lineage if other.digest in told}
    if corrector_digest:
        found |= _measured_pairs(version, corrector_digest)
    found[version.major] = told[OWN_ENTRIES]
    return {other.name: found.get(other.major, told[OWN_ENTRIES]) for other in lineage}


def _measured_pairs(version: ModelVersion, corrector_digest: str) -> dict[int, Calibration]:
    """By the producers' M; what was measured of this very version before what was of another increment of its M."""
    rows = PairCalibration.objects.filter(
        query_version__lineage=version.lineage,
        query_version__major=version.major,
        corrector_digest=corrector_digest,
    ).select_related("producer")
    ordered = sorted(rows, key=lambda row: (row.query_version_id == version.pk, row.pk))
    return {row.producer.major: Calibration(**row.values) for row in ordered}


def bundle_of(version: ModelVersion) -> Bundle:
    """The verified bundle of a version, from MODEL_DIR. Raises ml.artifacts.BundleError when it is damaged."""
    stored = _stored(version.digest)
    shipped = settings.DEFAULT_BUNDLE
    if not stored.exists() and shipped.exists() and read_manifest(shipped).digest == version.digest:
        bundle_store(shipped)
    return load_bundle(stored)


def without_folders(text: str, version: ModelVersion) -> str:
    """What was said of a version's files, without the folders of this machine they lie in."""
    for folder in (_stored(version.digest), settings.DEFAULT_BUNDLE):
        text = text.replace(f"{folder}/", "").replace(str(folder), "the folder")
    return text


def encoder_of(version: ModelVersion) -> Encoder:
    """The version's encoder, opened once per process and shared by its threads."""
    return _held(_encoders, version, Bundle.encoder)


def photo_encoder_of(version: ModelVersion) -> FeatureEncoder:
    """As `encoder_of`, for photos of the catalogue: it also gives what the trunk saw. For workers."""
    return _held(_photo_encoders, version, Bundle.feature_encoder)


def _held(held: dict[str, Opened], version: ModelVersion, opened: Callable[[Bundle], Opened]) -> Opened:
    """The encoder from `held`, or opened into it. Every increment is a version more, so the first to come goes first;
    whoever works with one that went keeps it."""
    encoder = held.get(version.digest)
    if encoder is None:
        with _opening:
            encoder = held.get(version.digest)
            if encoder is None:
                encoder = opened(bundle_of(version))
                while len(held) >= MOST_OPEN:
                    held.pop(next(iter(held)))
                held[version.digest] = encoder
    return encoder


def trunk_of(version: ModelVersion) -> ModelVersion:
    """The `M.0` whose trunk and embedding head all increments of M share."""
    if version.minor == 0:
        return version
    return ModelVersion.objects.get(major=version.major, minor=0)


def bundle_store(source: Path) -> Path:
    """Copy a verified bundle to MODEL_DIR/<digest>, where it never changes again. Storing it twice changes nothing."""
    digest = load_bundle(source).digest
    target = _stored(digest)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{digest}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        shutil.copytree(source, temporary)
        load_bundle(temporary)
        temporary.rename(target)
    except OSError:
        if not target.exists():  # otherwise another process stored it meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def bundle_drop(digest: str) -> None:
    """Remove a stored bundle that became no version. One that did stays, and so does what is not there."""
    if digest and not ModelVersion.objects.filter(digest=digest).exists():
        shutil.rmtree(_stored(digest), ignore_errors=True)


def _stored(digest: str) -> Path:
    folder: Path = settings.MODEL_DIR / digest
    return folder


def size_bytes_of(manifest: Manifest) -> int:
    """Of all files of its bundle."""
    return sum(int(entry["bytes"]) for entry in manifest.files.values())


def _after_fork() -> None:
    """A child opens its own sessions: ONNX Runtime does not promise that one survives a fork."""
    global _opening  # noqa: PLW0603
    _opening = threading.Lock()
    _encoders.clear()
    _photo_encoders.clear()


os.register_at_fork(after_in_child=_after_fork)
