"""A snapshot is either exactly what was written or refused by the name of the damaged file."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ml.retrieval.columns import EntryColumns, ItemColumns
from ml.retrieval.snapshot import (
    MANIFEST,
    SnapshotDamaged,
    open_snapshot,
    read_manifest,
    sweep_leftovers,
    write_snapshot,
)
from ml.retrieval.view import GalleryView
from tests.ml.retrieval.galleries import CODE_BITS, DIMENSION, make_entries, make_items, some_codes
from tests.ml.retrieval.test_view import content

ITEMS = make_items(30)
ENTRIES = make_entries(200, ITEMS, producers=("1.0", "1.1"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("snapshots") / "view-1"
    write_snapshot(GalleryView.build(ENTRIES, ITEMS), directory, identity="1.1", sequence=42)
    return directory


def test_what_is_opened_is_what_was_written(tmp_path: Path) -> None:
    view = GalleryView.build(ENTRIES, ITEMS).with_changes(
        make_entries(20, ITEMS, first_id=9001), ENTRIES.entry_ids[:30], removed_item_ids=ITEMS.item_ids[:1]
    )
    manifest = write_snapshot(view, tmp_path / "a", identity="1.1", sequence=7)

    opened = open_snapshot(tmp_path / "a")

    assert content(opened) == content(view)
    assert opened.changed_rows == 0
    assert read_manifest(tmp_path / "a") == manifest
    assert (manifest.identity, manifest.sequence, manifest.items) == ("1.1", 7, 29)
    assert manifest.counts == view.counts_by_producer
    for name, pool in view.pools.items():
        for code in some_codes(3):
            mine, theirs = opened.pools[name].index.search(code, 20), pool.index.search(code, 20)
            assert mine.entry_ids.tolist() == theirs.entry_ids.tolist()
            assert mine.hamming.tolist() == theirs.hamming.tolist()


def test_large_arrays_are_mapped_not_read(written: Path) -> None:
    rows = next(iter(open_snapshot(written).pools.values())).rows.base
    for array in (rows.codes, rows.embeddings, rows.entry_ids):
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_an_empty_view_survives_the_round_trip(tmp_path: Path) -> None:
    empty = GalleryView.build(
        EntryColumns.empty(code_bits=CODE_BITS, dimension=DIMENSION), ItemColumns.empty()
    )
    write_snapshot(empty, tmp_path / "a", identity="1.0", sequence=0)
    opened = open_snapshot(tmp_path / "a")
    assert (len(opened), opened.code_bits, opened.dimension) == (0, CODE_BITS, DIMENSION)


def copied(written: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    return copy, sorted(copy.iterdir())


def test_two_hundred_single_bit_flips_are_all_refused(written: Path, tmp_path: Path) -> None:
    copy, files = copied(written, tmp_path)
    rng = np.random.default_rng(0)
    for trial in range(200):
        file = files[trial % len(files)]
        original = file.read_bytes()
        damaged = bytearray(original)
        place = int(rng.integers(len(damaged)))
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(SnapshotDamaged) as refused:
            open_snapshot(copy)
        assert refused.value.file == file.name, f"bit at byte {place} of {file.name}"
        file.write_bytes(original)
    assert len(open_snapshot(copy)) == 200


def test_fifty_truncations_are_all_refused(written: Path, tmp_path: Path) -> None:
    copy, files = copied(written, tmp_path)
    rng = np.random.default_rng(1)
    for trial in range(50):
        file = files[trial % len(files)]
        original = file.read_bytes()
        file.write_bytes(original[: int(rng.integers(len(original)))])
        with pytest.raises(SnapshotDamaged) as refused:
            open_snapshot(copy)
        assert refused.value.file == file.name
        file.write_bytes(original)
    assert len(open_snapshot(copy)) == 200


def test_a_missing_file_is_refused_by_name(written: Path, tmp_path: Path) -> None:
    copy, files = copied(written, tmp_path)
    for file in files:
        original = file.read_bytes()
        file.unlink()
        with pytest.raises(SnapshotDamaged, match="cannot be read") as refused:
            open_snapshot(copy)
        assert refused.value.file == file.name
        file.write_bytes(original)


def test_another_format_is_refused_in_words(written: Path, tmp_path: Path) -> None:
    from ml.retrieval.snapshot import _manifest_text

    copy, _ = copied(written, tmp_path)
    stored = json.loads((copy / MANIFEST).read_text())
    del stored["digest"]
    (copy / MANIFEST).write_text(_manifest_text({**stored, "format_version": 2}))
    with pytest.raises(SnapshotDamaged, match=r"is format 2 .* this program reads format 1"):
        open_snapshot(copy)


def test_files_of_two_snapshots_do_not_mix(written: Path, tmp_path: Path) -> None:
    other = GalleryView.build(make_entries(200, ITEMS, seed=5, producers=("1.0", "1.1")), ITEMS)
    write_snapshot(other, tmp_path / "other", identity="1.1", sequence=42)
    copy, _ = copied(written, tmp_path)
    shutil.copy(tmp_path / "other" / "entries.codes.npy", copy)
    with pytest.raises(SnapshotDamaged, match=r"entries\.codes\.npy does not have the SHA-256"):
        open_snapshot(copy)


def test_a_snapshot_is_never_overwritten(written: Path) -> None:
    before = (written / MANIFEST).read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_snapshot(GalleryView.build(ENTRIES, ITEMS), written, identity="x", sequence=1)
    assert (written / MANIFEST).read_bytes() == before


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def full_disk(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_snapshot(GalleryView.build(ENTRIES, ITEMS), tmp_path / "a", identity="x", sequence=1)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_crash_are_swept_and_snapshots_are_not(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "view-1")
    shutil.copytree(written, tmp_path / ".writing-view-2-deadbeef")
    assert sweep_leftovers(tmp_path) == []
    assert sweep_leftovers(tmp_path, older_than_seconds=0) == [".writing-view-2-deadbeef"]
    assert [path.name for path in tmp_path.iterdir()] == ["view-1"]
