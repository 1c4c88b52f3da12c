"""What the gallery holds of a training's photos, read from rows once and kept beside the plan."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from ml.base_version.stored_photos import StoredPhotos
from ml.retrieval.columns import EntryColumns
from searchapp.models import ModelVersion
from searchapp.services.gallery_columns import read_entries
from searchapp.services.training_photos import TrainingPhoto


def stored_photos(version: ModelVersion, photos: Sequence[TrainingPhoto]) -> StoredPhotos:
    """The rows that stand for these photos in the view of `version`, as they are: nothing is encoded.

    In a chain of upgrades several encoders made them; those of the one that made most can be calibrated together.
    """
    ids = np.array([photo.image_id for photo in photos], np.int64)
    entries = read_entries(version, image_ids=sorted(ids.tolist()))
    order = np.argsort(entries.image_ids)
    place = np.searchsorted(entries.image_ids, ids, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(ids), np.int64)
    present = entries.image_ids[rows] == ids if len(order) else np.zeros(len(ids), np.bool_)
    codes = np.zeros((len(ids), version.code_bits // 8), np.uint8)
    embeddings = np.zeros((len(ids), version.dimension), np.float32)
    majors = np.full(len(ids), -1)
    codes[present], embeddings[present] = entries.codes[rows[present]], entries.embeddings[rows[present]]
    majors[present] = _majors(entries)[rows[present]]
    most = _most(majors[present], default=version.major)
    return StoredPhotos(codes, embeddings, present, majors == most, _trunk_digest(version, most))


def stored_write(path: Path, stored: StoredPhotos) -> None:
    """Half the size: embeddings come from rows of float16."""
    tensors: dict[str, NDArray[Any]] = {
        "packed_codes": stored.packed_codes,
        "embeddings": stored.embeddings.astype(np.float16),
        "present": stored.present,
        "by_producer": stored.by_producer,
    }
    save_file(tensors, path, metadata={"producer": json.dumps(stored.producer)})


def stored_read(path: Path) -> StoredPhotos:
    """What `stored_write` wrote."""
    with safe_open(path, framework="numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not iterable)
        producer = json.loads(file.metadata()["producer"])
    embeddings = found.pop("embeddings").astype(np.float32)
    return StoredPhotos(embeddings=embeddings, producer=producer, **found)


def _majors(entries: EntryColumns) -> NDArray[np.int64]:
    names = entries.producer_names
    return np.array([int(name.partition(".")[0]) for name in names], np.int64)[entries.producers]


def _most(majors: NDArray[np.int64], *, default: int) -> int:
    """Of equally many the newest."""
    found, counts = np.unique(majors, return_counts=True)
    return int(found[counts == counts.max()].max()) if len(found) else default


def _trunk_digest(version: ModelVersion, major: int) -> str:
    if major == version.major:
        return version.digest
    return ModelVersion.objects.get(major=major, minor=0).digest
