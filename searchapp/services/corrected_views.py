"""A view of the gallery through a corrector: embeddings of other trunks' entries, image by image from the raw rows.

Rows and snapshots stay raw, and so do codes; what is corrected is only ever made from them, so never twice.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ml.corrector_map import CorrectorMap
from ml.retrieval.columns import EntryColumns
from ml.retrieval.rows import EntryRows
from ml.retrieval.view import GalleryView, Pool
from searchapp.models import ModelVersion
from searchapp.services.correctors import corrector_of

# Fewer rows at a time would be multiplied by another routine, which rounds otherwise: padded up to so many, an entry
# that comes later gets the very bytes it would have got with all the others.
LEAST_ROWS = 256


def entries_corrected(raw: EntryColumns, version: ModelVersion, corrector_digest: str) -> EntryColumns:
    """Raw entries as `version` sees them through a corrector; without a digest, as they are.

    Entries of the version's own trunk, and those of producers for which no map was fitted, stay as they are.
    """
    maps = _maps(version, corrector_digest)
    embeddings = raw.embeddings
    for position, name in enumerate(raw.producer_names):
        rows = np.flatnonzero(raw.producers == position) if name in maps else ()
        if len(rows):
            embeddings = embeddings.copy() if embeddings is raw.embeddings else embeddings
            embeddings[rows] = _corrected(raw.embeddings[rows], maps[name])
    return replace(raw, embeddings=embeddings)


def view_corrected(raw: GalleryView, version: ModelVersion, corrector_digest: str) -> GalleryView:
    """A raw view, such as a snapshot gives, through a corrector. Engines are shared: they search codes alone."""
    if not corrector_digest:
        return raw

    def through(entries: EntryColumns) -> EntryColumns:
        return entries_corrected(entries, version, corrector_digest)

    pools = {
        name: Pool(EntryRows(through(pool.rows.base), through(pool.rows.delta), pool.rows.dead), pool.index)
        for name, pool in raw.pools.items()
    }
    return replace(raw, pools=pools)


def _maps(version: ModelVersion, corrector_digest: str) -> Mapping[str, CorrectorMap]:
    if not corrector_digest:
        return {}
    own = f"{version.major}."
    return {name: one for name, one in corrector_of(corrector_digest).items() if not name.startswith(own)}


def _corrected(stale: NDArray[np.float16], corrector: CorrectorMap) -> NDArray[np.float16]:
    missing = max(0, LEAST_ROWS - len(stale))
    padding = np.zeros((missing, stale.shape[1]), stale.dtype)
    padding[:, 0] = 1  # any unit vector
    return corrector.corrected(np.concatenate([stale, padding]))[: len(stale)]
