"""Does what the processes search equal the rows, and do the files equal their names? Reads both sides by itself.

Deliberately shares no code with the indexer: rows by plain queries, snapshot files by numpy, the view rule written a
second time. What a process searches is its newest snapshot plus the changes after it; the audit puts these together and
compares the sum with the rows, entry by entry.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from searchapp.models import (
    Deployment,
    GalleryChange,
    GalleryCounter,
    GalleryEntry,
    Item,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
)
from searchapp.services.file_audit import FileFindings, files_check

# Names listed of each finding; the counts are always whole.
LISTED = 20
_COLUMNS = ("entry_ids", "image_ids", "item_ids", "producers", "codes", "embeddings")


@dataclass(slots=True)
class IndexFindings:
    """Entries by id, except `items` (by item id) and `unencoded` (photos nobody is about to encode)."""

    db_rows: int = 0
    index_rows: int = 0
    missing: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    code_mismatch: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    unencoded: list[int] = field(default_factory=list)
    manifest_problems: list[str] = field(default_factory=list)
    version: str | None = None

    @property
    def is_index_clean(self) -> bool:
        return not (self.missing or self.extra or self.code_mismatch or self.items or self.manifest_problems)


@dataclass(frozen=True, slots=True)
class AuditReport:
    index: IndexFindings
    files: FileFindings

    @property
    def is_clean(self) -> bool:
        return self.index.is_index_clean and not self.index.unencoded and self.files.is_clean

    def as_dict(self) -> dict[str, Any]:
        """The JSON of the contract: counts, and under `details` the first few of what was found."""
        lists: dict[str, list[Any]] = {
            "missing": self.index.missing,
            "extra": self.index.extra,
            "code_mismatch": self.index.code_mismatch,
            "files_missing": self.files.missing,
            "files_orphan": self.files.orphans,
            "files_bad_sha": self.files.bad_sha,
            "item_mismatch": self.index.items,
            "unencoded": self.index.unencoded,
        }
        details: dict[str, list[Any]] = {name: list(found[:LISTED]) for name, found in lists.items() if found}
        if self.index.manifest_problems:
            details["manifest"] = self.index.manifest_problems[:LISTED]
        return {
            "db_rows": self.index.db_rows,
            "index_rows": self.index.index_rows,
            **{name: len(found) for name, found in lists.items()},
            "manifest_ok": not self.index.manifest_problems,
            "version": self.index.version,
            "details": details,
        }


def audit() -> AuditReport:
    """Look at everything; changes nothing."""
    return AuditReport(_index_check(), files_check())


@dataclass(slots=True)
class _Snapshot:
    """One snapshot as its files say, entries ascending by id; `sequence` is the last change it holds."""

    sequence: int
    names: tuple[str, ...]
    entries: dict[str, NDArray[Any]]
    items: dict[str, NDArray[Any]]


@dataclass(slots=True)
class _Delta:
    """The changes after the snapshot, by kind."""

    added: set[int]
    removed: set[int]
    items_changed: set[int]
    items_removed: set[int]


def _index_check() -> IndexFindings:
    findings = IndexFindings()
    live = Deployment.objects.filter(arm="champion", ended_at__isnull=True).select_related("version").first()
    if live is None:
        return findings
    version = live.version
    findings.version = version.name
    findings.unencoded = _unencoded(version)
    snapshot = _newest_snapshot(version, findings)
    delta = _delta_after(snapshot.sequence, findings)
    if delta is None:  # processes build from rows: there is nothing that could differ from them
        findings.db_rows = findings.index_rows = sum(1 for _ in _chosen_rows(version))
        return findings
    _compare_entries(version, snapshot, delta, findings)
    _compare_items(snapshot, delta, findings)
    return findings


def _chosen_rows(version: ModelVersion) -> Iterator[tuple[Any, ...]]:
    """(entry id, image id, item id, producer name, code, embedding) of the row that stands for each photo."""
    lineage = {row.pk: row for row in ModelVersion.objects.filter(lineage=version.lineage)}
    line, step = set(), version  # what the version was learned on, and what that was
    while step.parent_id in lineage:
        step = lineage[step.parent_id]
        line.add(step.pk)
    fields = ("pk", "image_id", "image__item_id", "producer_id", "code", "embedding")
    rows = GalleryEntry.objects.filter(producer__in=list(lineage)).order_by("image_id").values_list(*fields)

    def distance(row: tuple[Any, ...]) -> tuple[int, int, int]:
        other = lineage[row[3]]
        if other.major == version.major:
            is_later = other.minor > version.minor
            is_abandoned = other.minor < version.minor and other.pk not in line
            return (2 if is_abandoned else int(is_later), abs(other.minor - version.minor), 0)
        is_newer = other.major > version.major
        return (
            3 + int(is_newer),
            abs(other.major - version.major),
            other.minor if is_newer else -other.minor,
        )

    for _, group in groupby(rows.iterator(chunk_size=5000), key=lambda row: row[1]):
        row = min(group, key=distance)
        yield row[0], row[1], row[2], lineage[row[3]].name, bytes(row[4]), bytes(row[5])


def _compare_entries(
    version: ModelVersion, snapshot: _Snapshot, delta: _Delta, findings: IndexFindings
) -> None:
    ids = snapshot.entries["entry_ids"]
    alive = ~np.isin(ids, list(delta.removed)) & ~np.isin(
        snapshot.entries["item_ids"], list(delta.items_removed)
    )
    expected = np.zeros(len(ids), np.bool_)
    renewed = _of_entries(delta.added, "image_id")
    by_delta = 0
    for row in _chosen_rows(version):
        findings.db_rows += 1
        at = int(np.searchsorted(ids, row[0]))
        if at < len(ids) and ids[at] == row[0] and alive[at]:
            expected[at] = True
            if not _is_same(snapshot, at, row):
                findings.code_mismatch.append(row[0])
        elif row[0] in delta.added:
            by_delta += 1
        else:
            findings.missing.append(row[0])
    # A row that gave its place to a newer one of the same photo is taken out by the same change.
    surplus = alive & ~expected & ~np.isin(snapshot.entries["image_ids"], list(renewed))
    gone = set(delta.added - delta.removed).difference(_of_entries(delta.added, "pk"), ids.tolist())
    findings.extra = [*ids[surplus].tolist(), *sorted(gone)]
    findings.index_rows = int(expected.sum()) + by_delta + len(findings.extra)


def _is_same(snapshot: _Snapshot, at: int, row: tuple[Any, ...]) -> bool:
    entries = snapshot.entries
    return bool(
        entries["codes"][at].tobytes() == row[4]
        and entries["embeddings"][at].tobytes() == row[5]
        and int(entries["image_ids"][at]) == row[1]
        and int(entries["item_ids"][at]) == row[2]
        and snapshot.names[int(entries["producers"][at])] == row[3]
    )


def _compare_items(snapshot: _Snapshot, delta: _Delta, findings: IndexFindings) -> None:
    """Category, vertical, price and tags of items that did not change since the snapshot."""
    if not len(snapshot.items.get("item_ids", ())):
        return
    columns = {
        name: snapshot.items[name].tolist() for name in ("item_ids", "category_ids", "verticals", "prices")
    }
    indexed = dict(zip(columns["item_ids"], zip(*list(columns.values())[1:])))
    owners = snapshot.items["item_ids"][snapshot.items["tag_rows"]].tolist()
    tags_indexed = set(zip(owners, snapshot.items["tag_ids"].tolist()))
    tags_now = set(Item.tags.through.objects.values_list("item_id", "tag_id"))
    wrong = {item_id for item_id, _ in tags_indexed ^ tags_now}
    now = Item.objects.values_list("pk", "category_id", "category__vertical", "price")
    for item_id, category_id, vertical, price in now.iterator(chunk_size=5000):
        stored = indexed.pop(item_id, None)
        as_stored = np.nan if price is None else float(np.float32(price))
        same = stored is not None and stored[:2] == (category_id, int(vertical == "landmark"))
        if not same or stored is None or not np.array_equal(stored[2], as_stored, equal_nan=True):
            wrong.add(item_id)
    wrong.update(indexed)
    findings.items = sorted(
        wrong - delta.items_changed - delta.items_removed - _of_entries(delta.added, "image__item_id")
    )


def _of_entries(entry_ids: set[int], name: str) -> set[int]:
    """One column of those entries that exist, a bounded number of parameters a query."""
    ids, found = sorted(entry_ids), set[int]()
    for start in range(0, len(ids), 1000):
        rows = GalleryEntry.objects.filter(pk__in=ids[start : start + 1000])
        found.update(rows.values_list(name, flat=True))
    return found


def _delta_after(sequence: int, findings: IndexFindings) -> _Delta | None:
    """None when the changes after `sequence` are not all there: then every process builds from rows."""
    counter = GalleryCounter.objects.get(pk=1).value
    rows = list(
        GalleryChange.objects.filter(sequence__gt=sequence).values_list("sequence", "kind", "subject_id")
    )
    is_whole = {row[0] for row in rows} == set(range(sequence + 1, counter + 1))
    if not is_whole:
        if sequence:
            findings.manifest_problems.append(
                f"the changes after {sequence} are not all there: it cannot be followed"
            )
        return None
    kinds: dict[str, set[int]] = {
        "entry_added": set(),
        "entry_removed": set(),
        "item_changed": set(),
        "item_removed": set(),
    }
    for _, kind, subject_id in rows:
        kinds[kind].add(subject_id)
    return _Delta(kinds["entry_added"], kinds["entry_removed"], kinds["item_changed"], kinds["item_removed"])


def _newest_snapshot(version: ModelVersion, findings: IndexFindings) -> _Snapshot:
    """The newest snapshot's content, and what is wrong with it or any older one still kept."""
    folder = Path(settings.SNAPSHOT_DIR)
    found = sorted(folder.glob(f"{version.digest[:16]}-*"), key=lambda path: path.name, reverse=True)
    newest: _Snapshot | None = None
    for directory in found:
        manifest = _checked_manifest(directory, version, findings)
        if directory == found[0] and manifest is not None:
            newest = _content(directory, manifest, findings)
    return newest or _Snapshot(0, (), {name: _nothing(name, version) for name in _COLUMNS}, {})


def _checked_manifest(
    directory: Path, version: ModelVersion, findings: IndexFindings
) -> dict[str, Any] | None:
    problems = findings.manifest_problems
    try:
        manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        claimed = manifest.pop("digest")
        files = dict(manifest["files"])
        sequence, identity = int(manifest["sequence"]), str(manifest["identity"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{directory.name}: the manifest cannot be read: {error}")
        return None
    if hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest() != claimed:
        problems.append(f"{directory.name}: the manifest does not match its own digest")
    if identity != f"{version.lineage}:{version.digest}:":
        problems.append(f"{directory.name}: it is of another gallery or version ({identity})")
    if sequence > GalleryCounter.objects.get(pk=1).value or not directory.name.endswith(f"-{sequence:015d}"):
        problems.append(f"{directory.name}: it claims change {sequence}")
    for name, (digest, _) in files.items():
        path = directory / Path(str(name)).name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            problems.append(f"{directory.name}: {name} is missing or not what the manifest says")
    return manifest


def _content(directory: Path, manifest: dict[str, Any], findings: IndexFindings) -> _Snapshot | None:
    try:
        entries = {name: np.load(directory / f"entries.{name}.npy", allow_pickle=False) for name in _COLUMNS}
        items = {
            name: np.load(directory / f"items.{name}.npy", allow_pickle=False)
            for name in ("item_ids", "category_ids", "verticals", "prices", "tag_ids", "tag_rows")
        }
        order = np.argsort(entries["entry_ids"], kind="stable")
        ordered = {name: column[order] for name, column in entries.items()}
    except (OSError, ValueError, IndexError, EOFError) as error:
        findings.manifest_problems.append(f"{directory.name}: a file cannot be read: {error}")
        return None
    return _Snapshot(int(manifest["sequence"]), tuple(manifest["producer_names"]), ordered, items)


def _nothing(name: str, version: ModelVersion) -> NDArray[Any]:
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "codes": ((0, version.code_bits // 8), "u1"),
        "embeddings": ((0, version.dimension), "<f2"),
    }
    shape, kind = shapes.get(name, ((0,), "<i8"))
    return np.empty(shape, kind)


def _unencoded(version: ModelVersion) -> list[int]:
    """Photos without an entry that are not failed, when no job is about to encode them."""
    open_jobs = Job.objects.filter(
        kind__in=["encode_images", "import_catalogue"], state__in=[JobState.QUEUED, JobState.RUNNING]
    )
    if open_jobs.exists():
        return []
    by_lineage = GalleryEntry.objects.filter(producer__lineage=version.lineage).values("image_id")
    waiting = ItemImage.objects.filter(failure="").exclude(pk__in=by_lineage)
    return list(waiting.order_by("pk").values_list("pk", flat=True))
