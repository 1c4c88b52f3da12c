"""What a version's trunk saw in each picture, kept so that an increment opens no stored file.

Increments of one M share the trunk, so a picture has one feature for all of them, known by its content.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from django.db.models import Exists, OuterRef
from numpy.typing import NDArray

from searchapp.models import ModelVersion, PhotoFeature
from searchapp.services import intake, versions

Feature = NDArray[np.float32]  # (F,)
Heard = Callable[[int, int], None]
READ_AT_ONCE, WRITTEN_AT_ONCE = 1000, 64


def feature_bytes(feature: Feature) -> bytes:
    return feature.astype("<f4").tobytes()


def features_write(version: ModelVersion, features: Mapping[str, bytes]) -> None:
    """Keep features by the SHA-256 of their picture; one that is there already stays."""
    if not features:
        return
    trunk = versions.trunk_of(version)
    rows = [PhotoFeature(image_sha256=sha, trunk=trunk, feature=kept) for sha, kept in features.items()]
    PhotoFeature.objects.bulk_create(rows, batch_size=500, ignore_conflicts=True)


def features_read(version: ModelVersion, contents: Iterable[str]) -> dict[str, Feature]:
    """By SHA-256, those of `contents` that are kept."""
    kept = PhotoFeature.objects.filter(trunk=versions.trunk_of(version))
    found: dict[str, Feature] = {}
    wanted = sorted(set(contents))
    for start in range(0, len(wanted), READ_AT_ONCE):
        part = wanted[start : start + READ_AT_ONCE]
        rows = kept.filter(image_sha256__in=part).values_list("image_sha256", "feature")
        found |= {sha: np.frombuffer(bytes(feature), "<f4") for sha, feature in rows}
    return found


def is_seen(version: ModelVersion, content: str) -> Exists:
    """Of rows with the SHA-256 of a picture in the column `content`: its feature is kept."""
    kept = PhotoFeature.objects.filter(trunk=versions.trunk_of(version))
    return Exists(kept.filter(image_sha256=OuterRef(content)))


def features_ensure(
    version: ModelVersion, pictures: Sequence[tuple[str, str]], *, heard: Heard = lambda _done, _total: None
) -> dict[str, Feature]:
    """Features of pictures (SHA-256, stored path); what is not kept yet is made from the stored file, and kept.

    A picture that cannot be read has none. `heard` is told how many of those to be read are done.
    """
    found = features_read(version, (sha for sha, _ in pictures))
    missing = {sha: path for sha, path in pictures if sha not in found}
    made: dict[str, Feature] = {}
    for done, (sha, path) in enumerate(sorted(missing.items())):
        heard(done, len(missing))
        feature = _made(version, path)
        if feature is not None:
            made[sha] = feature
        if len(made) >= WRITTEN_AT_ONCE or done == len(missing) - 1:
            features_write(version, {one: feature_bytes(seen) for one, seen in made.items()})
            found |= made
            made = {}
    return found


def _made(version: ModelVersion, path: str) -> Feature | None:
    encoder = versions.photo_encoder_of(version)
    try:
        pixels = intake.stored_pixels(path, input_size=encoder.input_size)
    except intake.UNREADABLE:
        return None
    _, features = encoder.encode_with_features(pixels[None])
    feature: Feature = features[0]
    return feature
