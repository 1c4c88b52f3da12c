"""A view of the gallery through a corrector: embeddings of other trunks' entries, image by image from the raw rows.

Rows and snapshots stay raw, and so do codes; what is corrected is only ever made from them, so never twice.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ml.corrector_map import CorrectorMap
from ml.retrieval.columns import EntryColumns
from ml.retrieval.rows import EntryRows
from ml.retrieval.view import GalleryView, Pool
from searchapp.models import ModelVersion
from searchapp.services.correctors import corrector_of


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
            embeddings[rows] = maps[name].corrected(raw.embeddings[rows])
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
