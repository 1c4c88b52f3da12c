"""Reading data packs: real ones as they are, broken ones refused with file, row and field."""

import csv
import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from ml.data.packs import PackRowError, find_packs, open_pack

HEADER = ("path", "shard", "split", "class", "tags")
GOOD = ("train/a.jpg", "p-000.tar", "train", "apple", "fruit|red")


def write_pack(folder: Path, rows: list[tuple[str, ...]], *, header: tuple[str, ...] = HEADER) -> Path:
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    with tarfile.open(folder / "p-000.tar", "w") as archive:
        member = tarfile.TarInfo("train/a.jpg")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"jpeg"))
        link = tarfile.TarInfo("train/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return folder


def test_the_grocery_pack_gives_its_counts_and_its_own_bytes(data_packs: Path) -> None:
    pack = open_pack(data_packs / "grocery")
    records = list(pack.records())

    assert Counter(record.split for record in records) == {
        "train": 2279,
        "val": 257,
        "test": 2147,
        "iconic": 69,
    }
    assert len({record.label for record in records}) == 69
    first = records[0]
    assert (first.row, first.label, first.category) == (2, "Golden-Delicious", "Golden-Delicious")
    assert first.tags[:2] == ("fruit", "apple")
    with tarfile.open(data_packs / "grocery" / first.shard) as archive:
        member = archive.extractfile(first.path)
        assert member is not None
        assert pack.read(first) == member.read()


@pytest.mark.parametrize(
    ("name", "column", "labels"),
    [("clothing", "class", 14), ("places_indoor", "place_id", 99), ("catalog", "product_id", 159)],
)
def test_each_pack_is_labelled_by_its_own_column(
    data_packs: Path, name: str, column: str, labels: int
) -> None:
    pack = open_pack(data_packs / name)

    assert pack.label_column == column
    assert len({record.label for record in pack.records() if record.label is not None}) == labels


def test_every_listed_image_of_every_pack_can_be_read(data_packs: Path) -> None:
    for folder in find_packs(data_packs):
        pack = open_pack(folder)
        assert all(pack.read(record)[:2] == b"\xff\xd8" for record in pack.records())


def test_splits_choose_the_rows_and_an_unknown_split_is_refused(data_packs: Path) -> None:
    pack = open_pack(data_packs / "clothing")

    assert {record.split for record in pack.records("val", "extra")} == {"val", "extra"}
    with pytest.raises(ValueError, match="split is 'dev', allowed: train, val"):
        list(pack.records("dev"))


def test_a_pack_inside_a_folder_is_found_and_two_are_refused(tmp_path: Path) -> None:
    write_pack(tmp_path / "outer" / "fruit", [GOOD])
    assert open_pack(tmp_path / "outer").name == "fruit"

    write_pack(tmp_path / "outer" / "more", [GOOD])
    with pytest.raises(ValueError, match=r"holds 2 data packs \(fruit, more\)"):
        open_pack(tmp_path / "outer")


def test_a_folder_without_a_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 0 data packs"):
        open_pack(tmp_path)


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (("../x.jpg", "p-000.tar", "train", "apple", ""), "path", "not a relative path"),
        (("/etc/passwd", "p-000.tar", "train", "apple", ""), "path", "not a relative path"),
        (("train/b.jpg", "../p-000.tar", "train", "apple", ""), "shard", "not the name of a .tar file"),
        (("train/b.jpg", "p-000.tar", "holdout", "apple", ""), "split", "'holdout', allowed: train"),
        (("train/b.jpg", "p-000.tar"), "*", "2 fields, expected 5"),
        (GOOD, "path", "listed twice"),
    ],
)
def test_a_broken_row_is_reported_and_stops_no_other(
    tmp_path: Path, row: tuple[str, ...], column: str, message: str
) -> None:
    last = ("train/c.jpg", "p-000.tar", "val", "pear", "")
    pack = open_pack(write_pack(tmp_path / "fruit", [GOOD, row, last]))

    before, broken, after = pack.scan()

    assert isinstance(broken, PackRowError)
    assert (broken.row, broken.column) == (3, column)
    assert message in str(broken)
    assert str(broken).startswith("fruit/labels.csv row 3")
    assert not isinstance(before, PackRowError)
    assert not isinstance(after, PackRowError)
    assert (before.label, after.label) == ("apple", "pear")
    with pytest.raises(PackRowError, match="row 3"):
        list(pack.records())


def test_bytes_that_are_not_utf8_are_reported_with_their_row(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "fruit", [GOOD])
    with (folder / "labels.csv").open("ab") as stream:
        stream.write(b"train/\xff.jpg,p-000.tar,train,apple,\r\n")

    good, broken = open_pack(folder).scan()

    assert not isinstance(good, PackRowError)
    assert isinstance(broken, PackRowError)
    assert (broken.row, broken.column) == (3, "path")
    assert str(broken).endswith("is not UTF-8")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write_pack(tmp_path / "fruit", [], header=("path", "shard", "class"))

    with pytest.raises(ValueError, match="row 1: column split is missing; got path, shard, class"):
        open_pack(tmp_path / "fruit")


@pytest.mark.parametrize("path", ["train/none.jpg", "train/link.jpg"])
def test_a_member_that_is_absent_or_a_link_is_refused(tmp_path: Path, path: str) -> None:
    pack = open_pack(write_pack(tmp_path / "fruit", [(path, "p-000.tar", "train", "apple", "")]))

    with pytest.raises(ValueError, match=rf"row 2, field 'path': '{path}' is not in shard p-000.tar"):
        pack.read(next(pack.records()))


def test_a_shard_that_is_compressed_or_linked_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "fruit", [("a.jpg", "z.tar", "train", "apple", ""), GOOD])
    (folder / "z.tar").write_bytes(b"\x1f\x8b not a plain tar archive")
    pack = open_pack(folder)
    with pytest.raises(ValueError, match=r"z\.tar is not an uncompressed tar archive"):
        pack.read(next(pack.records()))

    (folder / "z.tar").unlink()
    (tmp_path / "secret.tar").write_bytes(b"")
    (folder / "z.tar").symlink_to(tmp_path / "secret.tar")
    with pytest.raises(ValueError, match="is not a file of this pack"):
        open_pack(folder).read(next(pack.records()))


def test_the_fingerprint_covers_labels_and_shards(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "fruit", [GOOD])
    lines = "".join(
        f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n"
        for name in ("labels.csv", "p-000.tar")
    )
    before = open_pack(folder).fingerprint()
    assert before == hashlib.sha256(lines.encode()).hexdigest()

    with (folder / "p-000.tar").open("ab") as stream:
        stream.write(b"\0")
    assert open_pack(folder).fingerprint() != before
