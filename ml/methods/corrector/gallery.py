"""The stored gallery as a newer version sees it: image by image from the raw rows, no image opened."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.methods.corrector.pairs import Ids
from ml.models.corrector import Corrector


class Provenance(IntEnum):
    """How an embedding came to be what it is."""

    STALE = 0  # by an older version, as it was stored
    CORRECTED = 1  # by an older version, mapped to the newer one
    FRESH = 2  # by the newer version itself


@dataclass(frozen=True, slots=True)
class GalleryRows:
    """N stored embeddings. ids (N,) int64, ascending; embeddings (N, D) float16 or float32, unit L2 norm; producers
    (N,) places in producer_names; provenance (N,) of Provenance.
    """

    ids: Ids
    embeddings: NDArray[Any]
    producers: Ids
    producer_names: tuple[str, ...]
    provenance: NDArray[np.int8]

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.embeddings), len(self.producers), len(self.provenance)}
        if len(lengths) != 1:
            raise ValueError(f"columns have {sorted(lengths)} rows, expected as many each")
        if not (np.diff(self.ids) > 0).all():
            raise ValueError("ids do not ascend, or one is repeated")
        if len(self.producers) and not 0 <= self.producers.min() <= self.producers.max() < len(
            self.producer_names
        ):
            raise ValueError(
                f"producers are {self.producers.min()} to {self.producers.max()}, "
                f"but {len(self.producer_names)} are named"
            )

    @classmethod
    def raw(
        cls, ids: Ids, embeddings: NDArray[Any], producers: Ids, producer_names: tuple[str, ...], *, live: str
    ) -> "GalleryRows":
        """Rows as they are stored, those of the version `live` being fresh and all others stale."""
        is_live = np.array([name == live for name in producer_names], np.bool_)[producers]
        provenance = np.where(is_live, Provenance.FRESH, Provenance.STALE).astype(np.int8)
        return cls(ids, embeddings, producers, producer_names, provenance)


def corrected_gallery(raw: GalleryRows, maps: Mapping[str, Corrector]) -> GalleryRows:
    """Raw rows with the stale ones of each producer in `maps` corrected by its map; all others stay as they are.

    maps: by the name of the producer they start from, all leading to one newer version; none for a producer whose map
    was given up. Order, ids and dtype stay, and the same input gives the same bytes. Raises ValueError when a row is
    corrected already: errors add up, so a map is applied to raw rows alone. Source: method file, section 7.
    """
    twice = raw.ids[raw.provenance == Provenance.CORRECTED]
    if len(twice):
        raise ValueError(f"{len(twice)} rows are corrected already (first id {twice[0]}); pass the raw rows")
    embeddings, provenance = raw.embeddings.copy(), raw.provenance.copy()
    for place, name in enumerate(raw.producer_names):
        rows = np.flatnonzero((raw.producers == place) & (raw.provenance == Provenance.STALE))
        if name in maps and len(rows):
            embeddings[rows] = maps[name].corrected(raw.embeddings[rows])
            provenance[rows] = Provenance.CORRECTED
    return replace(raw, embeddings=embeddings, provenance=provenance)
