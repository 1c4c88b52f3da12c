"""A version's view of the gallery in memory: built from rows, and kept up with the rows change by change."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings

from ml.retrieval.columns import EntryColumns, id_array
from ml.retrieval.faiss_index import FaissIndex
from ml.retrieval.index import EngineFactory
from ml.retrieval.view import GalleryView
from searchapp.models import ChangeKind, GalleryChange, GalleryCounter, ModelVersion
from searchapp.services.corrected_views import entries_corrected
from searchapp.services.gallery_columns import (
    entry_ids_of_images,
    image_ids_of_entries,
    known_only,
    read_entries,
    read_items,
)

# Beyond this many changes reading all rows afresh is the shorter way.
REBUILD_FROM_CHANGES = 200_000


@dataclass(frozen=True, slots=True)
class Pending:
    """What happened to the gallery between two numbers of its counter."""

    entries_added: frozenset[int]
    entries_removed: frozenset[int]
    items_changed: frozenset[int]
    items_removed: frozenset[int]


def counter_value() -> int:
    """The number of the last committed change. Numbers commit in order, so no smaller one appears later."""
    return GalleryCounter.objects.values_list("value", flat=True).get(pk=1)


def view_rebuilt(
    version: ModelVersion, *, engine: EngineFactory, corrector_digest: str = ""
) -> tuple[GalleryView, int]:
    """The view of `version` from rows alone, and the number up to which it certainly holds every change.

    The number is read before the rows: what commits in between is in the rows already, and replaying it later
    changes nothing.
    """
    sequence = counter_value()
    items = read_items()
    raw = known_only(read_entries(version), items)
    entries = entries_corrected(raw, version, corrector_digest)
    return GalleryView.build(entries, items, engine=engine), sequence


def view_followed(
    view: GalleryView, version: ModelVersion, *, since: int, until: int, corrector_digest: str = ""
) -> GalleryView | None:
    """`view` with the changes (since, until] applied; None when they are not all there any more, or too many.

    Rows are read as they are now, so a change may be applied early; applying it again later changes nothing.
    """
    pending = _pending(since=since, until=until)
    if pending is None:
        return None
    chosen, replaced = _entries_now(version, pending.entries_added)
    touched = pending.items_changed | set(chosen.item_ids.tolist())
    items = read_items(sorted(touched))
    vanished = touched.difference(items.item_ids.tolist())
    return view.with_changes(
        entries_corrected(known_only(chosen, items), version, corrector_digest),
        id_array(sorted(pending.entries_removed | replaced)),
        items,
        id_array(sorted(pending.items_removed | vanished)),
    )


def engine_for(version: ModelVersion) -> EngineFactory:
    """The index adapter named by GALLERY_INDEX; on a cluster, views of different versions lie apart."""
    if settings.GALLERY_INDEX == "milvus":
        from ml.retrieval.milvus_index import milvus_engine  # noqa: PLC0415  pymilvus is only needed for a cluster

        return milvus_engine(settings.MILVUS_URI, view=f"{version.lineage.hex}_{version.name}")
    return FaissIndex.build


def _pending(*, since: int, until: int) -> Pending | None:
    wanted = GalleryChange.objects.filter(sequence__gt=since, sequence__lte=until).order_by("sequence")
    rows = list(wanted.values_list("sequence", "kind", "subject_id")[: REBUILD_FROM_CHANGES + 1])
    # Every number has its changes, except those pruned and the one a repair takes to have all build afresh.
    if len(rows) > REBUILD_FROM_CHANGES or len({row[0] for row in rows}) != until - since:
        return None
    by_kind: dict[str, set[int]] = {kind: set() for kind in ChangeKind.values}
    for _, kind, subject_id in rows:
        by_kind[kind].add(subject_id)
    return Pending(
        frozenset(by_kind[ChangeKind.ENTRY_ADDED]),
        frozenset(by_kind[ChangeKind.ENTRY_REMOVED]),
        frozenset(by_kind[ChangeKind.ITEM_CHANGED]),
        frozenset(by_kind[ChangeKind.ITEM_REMOVED]),
    )


def _entries_now(version: ModelVersion, added: Iterable[int]) -> tuple[EntryColumns, set[int]]:
    """The entries that stand now for the photos that got one, and the ids of those they take the place of."""
    image_ids = sorted(image_ids_of_entries(added))
    chosen = read_entries(version, image_ids=image_ids)
    standing = set(chosen.entry_ids.tolist())
    return chosen, {pk for pk in entry_ids_of_images(image_ids) if pk not in standing}
