"""Which images of the packs play which part in choosing and judging version 1.0."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.data.images import labelled_name, training_records, validation_records
from ml.data.packs import CATALOGUE_SPLITS, QUERY_SPLITS, Pack, PackRecord, open_pack
from ml.data.preprocessing import decode_to_input
from ml.data.reserved import ReservedClasses
from ml.protocol import Encoder, PackedCodes

TRAINING_PACKS = ("grocery", "clothing", "places_indoor")
Sources = list[tuple[Pack, PackRecord]]
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Parts:
    """Images by the part they play; the first four choose, the last three are only reported."""

    training: Sources  # trained on, and gallery of every choice
    known: Sources  # queries of trained classes that chose the settings
    unknown: Sources  # images of the validation classes: entries, and queries without their own class
    gallery: Sources  # the sample catalogue's entries of these packs
    queries: Sources  # test and query splits of the sample catalogue
    reserved: Sources  # test and query splits of the reserved classes: no relevant entry
    distractors: Sources  # images without a label (split `extra`)


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """N encoded images. signs: (N, L) of -1 / +1; embeddings: (N, D) unit; names None where unlabelled."""

    signs: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    names: NDArray[np.object_]
    packs: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.packs)

    @property
    def packed_codes(self) -> PackedCodes:
        """(N, L // 8) as they are stored."""
        return np.packbits(self.signs > 0, axis=1)


@dataclass(frozen=True, slots=True)
class EncodedParts:
    """What one encoder made of the parts that queries and entries of the figures come from."""

    training: EncodedSet
    known: EncodedSet
    unknown: EncodedSet
    gallery: EncodedSet
    queries: EncodedSet

    def choosing(self) -> EncodedSet:
        """The gallery of every choice: images of trained and of validation classes."""
        return joined(self.training, self.unknown)


def open_packs(folders: Sequence[Path]) -> list[Pack]:
    """The packs that 1.0 is trained on, at or under `folders`. Raises ValueError naming those missing."""
    found: dict[str, Pack] = {}
    for folder in folders:
        for name in TRAINING_PACKS:
            inner = folder if folder.name == name else folder / name
            if inner.is_dir():
                found[name] = open_pack(inner)
    missing = [name for name in TRAINING_PACKS if name not in found]
    if missing:
        raise ValueError(
            f"data packs {', '.join(missing)} are not in {', '.join(map(str, folders)) or 'nothing'}"
        )
    return [found[name] for name in TRAINING_PACKS]


def parts_of(packs: Sequence[Pack], reserved: ReservedClasses) -> Parts:
    """Sort every image of the packs into its part."""
    parts = Parts([], [], [], [], [], [], [])
    for pack in packs:
        parts.training.extend((pack, record) for record in training_records(pack, reserved))
        parts.known.extend((pack, record) for record in validation_records(pack, reserved))
        for record in pack.records():
            is_reserved = reserved.is_reserved(pack.name, record.label)
            if record.label is None:
                parts.distractors.append((pack, record))
            elif record.split in QUERY_SPLITS:
                (parts.reserved if is_reserved else parts.queries).append((pack, record))
            elif record.split in CATALOGUE_SPLITS and not is_reserved:
                parts.gallery.append((pack, record))
                if reserved.is_validation(pack.name, record.label):
                    parts.unknown.append((pack, record))
    return parts


def encode_set(encoder: Encoder, sources: Sources) -> EncodedSet:
    """Encode images as the product does: decoded straight to the input size, in small batches."""
    codes, embeddings = [], []
    for start in range(0, len(sources), _CHUNK):
        pixels = np.stack(
            [
                decode_to_input(pack.read(record), encoder.input_size)
                for pack, record in sources[start : start + _CHUNK]
            ]
        )
        encoded = encoder.encode(pixels)
        codes.append(np.unpackbits(encoded.packed_codes, axis=1))
        embeddings.append(encoded.embeddings)
    return EncodedSet(
        signs=np.concatenate(codes).astype(np.float32) * 2 - 1,
        embeddings=np.concatenate(embeddings),
        names=np.array([labelled_name(record) for _, record in sources], dtype=object),
        packs=tuple(pack.name for pack, _ in sources),
    )


def encode_parts(encoder: Encoder, parts: Parts) -> EncodedParts:
    """Each of them by `encode_set`."""
    return EncodedParts(
        training=encode_set(encoder, parts.training),
        known=encode_set(encoder, parts.known),
        unknown=encode_set(encoder, parts.unknown),
        gallery=encode_set(encoder, parts.gallery),
        queries=encode_set(encoder, parts.queries),
    )


def joined(*sets: EncodedSet) -> EncodedSet:
    """The sets one after another."""
    return EncodedSet(
        signs=np.concatenate([part.signs for part in sets]),
        embeddings=np.concatenate([part.embeddings for part in sets]),
        names=np.concatenate([part.names for part in sets]),
        packs=tuple(name for part in sets for name in part.packs),
    )
