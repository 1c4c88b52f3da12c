"""What an import does when it is repeated, interrupted, tried out, or fed with broken rows."""

import csv
import errno
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from searchapp.exceptions import InvalidInput, LeaseLost, NoSpace
from searchapp.failpoints import failpoint
from searchapp.models import (
    Category,
    EvaluationQuery,
    GalleryChange,
    GalleryEntry,
    Item,
    ItemImage,
    Job,
    ModelVersion,
    Tag,
)
from searchapp.services import catalogue, import_writing, importing, intake, leases, media
from searchapp.services.import_chunks import Unit
from searchapp.services.import_sources.csv_source import csv_open
from searchapp.services.import_sources.records import CatalogueSource, ItemRecord, RowProblem
from searchapp.services.jobs import job_cancel, job_create, job_retry, job_run, job_run_here
from tests.searchapp.imports import apple, counts, csv_catalogue, imported
from tests.searchapp.pictures import encoded, gradient

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def everything() -> list[int]:
    models = (Category, Item, ItemImage, GalleryEntry, EvaluationQuery, GalleryChange, Tag, Job, ModelVersion)
    return [model.objects.count() for model in models]


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def shop(folder: Path, count: int) -> Path:
    """`count` items with a photo each, all different."""
    photos = [encoded(gradient(40 + number, 30), "JPEG") for number in range(count)]
    return csv_catalogue(folder, photos, [apple(number, title=f"No {number}") for number in range(count)])


def test_importing_again_changes_nothing(data_dir: Path, tmp_path: Path, photos: list[bytes]) -> None:
    path = csv_catalogue(
        tmp_path / "shop", photos[:3], [apple(0, tags="a|b"), apple(1, tags=""), apple(2, tags="b")]
    )
    imported(path)
    before, files = everything(), files_in(data_dir / "media")

    report = imported(path)

    assert counts(report) == [0, 0, 3, 0]
    assert report["images_added"] == 0
    before[7] += 1  # the second job
    assert everything() == before
    assert files_in(data_dir / "media") == files


def test_only_what_differs_is_updated(data_dir: Path, tmp_path: Path, photos: list[bytes]) -> None:
    imported(csv_catalogue(tmp_path / "shop", photos[:4], [apple(0), apple(1), apple(2, tags="x")]))
    rows = [
        apple(0, title="New"),
        apple(1, images="photos/p1.jpg|photos/p3.jpg"),
        apple(2, tags="x", category="Fruit > Pear"),
        apple(3),
    ]

    report = imported(csv_catalogue(tmp_path / "shop", photos[:4], rows))

    assert counts(report) == [1, 3, 0, 0]
    assert report["images_added"] == 2
    assert Item.objects.get(sku="apple-0").title == "New"
    assert [image.position for image in Item.objects.get(sku="apple-1").images.all()] == [0, 1]
    assert Item.objects.get(sku="apple-2").search_text == "Fruit Pear\nx"


def test_a_broken_row_never_stops_the_others(data_dir: Path, tmp_path: Path, photos: list[bytes]) -> None:
    rows = [
        apple(0),
        apple(1, images="photos/none.jpg"),
        apple(2, images="../secret.jpg"),
        apple(3, price="cheap", currency="X"),
        apple(4, category="Fruit >"),
        apple(5, vertical="shop"),
        apple(0, title="again"),
        {"sku": "", "category": "A", "images": "photos/p0.jpg"},
        apple(6, images="photos/p6.jpg|photos/none.jpg"),
        apple(7, latitude="1"),
        apple(8, images="photos/bad.jpg"),
    ]
    path = csv_catalogue(tmp_path / "shop", photos[:8], rows)
    (tmp_path / "shop" / "photos" / "bad.jpg").write_bytes(photos[0][:300])
    (tmp_path / "secret.jpg").write_bytes(photos[0])

    report = imported(path)

    assert counts(report) == [2, 0, 0, 9]
    assert sorted(Item.objects.values_list("sku", flat=True)) == ["apple-0", "apple-6"]
    assert [(error["row"], error["field"]) for error in report["errors"]] == [
        (3, "images"),
        (4, "images"),
        (5, "price"),
        (5, "currency"),
        (6, "category"),
        (7, "vertical"),
        (8, "sku"),
        (9, "sku"),
        (10, "images"),
        (11, "longitude"),
        (12, "images"),
    ]
    messages = [error["message"] for error in report["errors"]]
    assert messages[0] == "'photos/none.jpg' is not a file beside the catalogue"
    assert messages[1] == "'../secret.jpg' is not a relative path with / between its parts"
    assert messages[2] == "'cheap' is not a number such as 19.90"
    assert messages[6] == "'apple-0' is in row 2 already"
    assert messages[10].startswith("photos/bad.jpg: That picture is damaged")


def test_a_link_out_of_the_folder_is_not_followed(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    path = csv_catalogue(tmp_path / "shop", photos[:1], [apple(0), apple(1, images="photos/link.jpg")])
    (tmp_path / "secret.jpg").write_bytes(photos[1])
    (tmp_path / "shop" / "photos" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    assert counts(imported(path)) == [1, 0, 0, 1]


def test_a_dry_run_reports_the_same_and_writes_nothing(data_dir: Path, tmp_path: Path) -> None:
    path = shop(tmp_path / "shop", 30)
    with path.open("a", encoding="utf-8") as stream:
        stream.write("bad,Fruit > Apple,photos/none.jpg,x\n")
    before = everything()

    dry = importing.import_preview(
        path=path, options=importing.ImportOptions(dry_run=True), progress=lambda *_: None
    )

    assert everything() == before
    assert files_in(data_dir / "media") + files_in(data_dir / "imports") == []
    real = imported(path)
    for report in (dry, real):
        del report["seconds"], report["dry_run"]
        for pair in report["duplicates"]:  # a dry run stores no pictures to link to
            del pair["thumbnail"], pair["equals"]["thumbnail"]
    assert dry == real
    assert counts(real) == [30, 0, 0, 1]
    assert real["evaluation_queries"] > 0


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "CHUNK", 4)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("where", ["planning", "writing", "after the commit"])
def test_a_stopped_import_goes_on_behind_its_last_chunk_and_does_nothing_twice(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path, seen = shop(tmp_path / "shop", 19), []
    reads: list[str] = []
    real_clean, real_write, real_failpoint = (
        intake.image_clean,
        import_writing._write_queries,
        failpoint,
    )

    def clean(data: bytes) -> intake.CleanImage:
        reads.append("photo")
        if where == "planning" and len(reads) == 10:
            raise RuntimeError("stopped")
        return real_clean(data)

    def write(*args: Any) -> None:
        seen.append("chunk")
        if where == "writing" and len(seen) == 3:
            raise RuntimeError("stopped")
        real_write(*args)

    def passed(name: str) -> None:
        if where == "after the commit" and len(seen) == 3:
            raise RuntimeError("stopped")
        real_failpoint(name)

    monkeypatch.setattr(intake, "image_clean", clean)
    monkeypatch.setattr(import_writing, "_write_queries", write)
    monkeypatch.setattr(importing, "failpoint", passed)
    job = job_run_here(importing.import_start(source=str(path)))
    assert (job.state, job.error) == ("failed", "stopped (RuntimeError)")
    done = 12 if where == "after the commit" else 8
    assert (Item.objects.count(), GalleryEntry.objects.count()) == (done, done)
    assert len(files_in(data_dir / "media")) == 2 * done  # what the lost chunk had stored is gone again
    reads.clear()
    monkeypatch.setattr(importing, "failpoint", real_failpoint)
    where = "nowhere"

    again = job_run_here(job_retry(job))

    assert again.state == "done", again.error
    assert counts(again.result or {}) == [19, 0, 0, 0]
    assert len(reads) == 19 - done  # the first chunks are not even decoded again
    assert (Item.objects.count(), ItemImage.objects.count(), GalleryEntry.objects.count()) == (19, 19, 19)
    added = GalleryChange.objects.filter(kind="entry_added").values_list("subject_id", flat=True)
    assert sorted(added) == sorted(GalleryEntry.objects.values_list("pk", flat=True))


@pytest.mark.usefixtures("small_chunks")
def test_an_item_whose_photos_span_chunks_is_counted_once(data_dir: Path, tmp_path: Path) -> None:
    photos = [encoded(gradient(40 + number, 30), "JPEG") for number in range(11)]
    names = "|".join(["photos/none.jpg", *(f"photos/p{number}.jpg" for number in range(11))])
    path = csv_catalogue(tmp_path / "shop", photos, [apple(0, images=names, tags="x"), apple(1)])

    report = imported(path)

    assert counts(report) == [2, 0, 0, 0]
    assert (report["images_added"], len(report["errors"])) == (12, 1)
    positions = Item.objects.get(sku="apple-0").images.values_list("position", flat=True)
    assert sorted(positions) == list(range(11))
    assert counts(imported(path)) == [0, 0, 2, 0]


@pytest.mark.usefixtures("small_chunks")
def test_rows_changed_by_somebody_else_meanwhile_are_planned_again(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop(tmp_path / "shop", 6)
    real_write, is_first = import_writing.chunk_write, iter([True])

    def write(*args: Any) -> None:
        if next(is_first, False):  # another import brings one of the items just before we write
            category = catalogue.category_ensure("Fruit > Apple")
            catalogue.item_create(sku="apple-1", category=category, title="theirs")
        real_write(*args)

    monkeypatch.setattr(importing, "chunk_write", write)
    report = imported(path)

    assert counts(report) == [5, 1, 0, 0]
    assert Item.objects.get(sku="apple-1").title == "No 1"
    assert ItemImage.objects.count() == GalleryEntry.objects.count() == 6


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_fails_the_job_and_leaves_whole_chunks_only(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real_created, written = shop(tmp_path / "shop", 10), media._created, []

    def created(temporary: str) -> int:
        written.append(temporary)
        if len(written) == 7:  # the third picture of the second chunk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_created(temporary)

    monkeypatch.setattr(media, "_created", created)
    job = job_run_here(importing.import_start(source=str(path)))

    assert job.state == "failed"
    assert job.error.startswith("no space")
    assert Item.objects.count() == GalleryEntry.objects.count() == 4
    assert len(files_in(data_dir / "media")) == 8
    assert counts(job_run_here(job_retry(job)).result or {}) == [10, 0, 0, 0]


def test_a_full_disk_while_writing_a_picture_is_said_so(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(NoSpace, match="The disk is full"):
        intake.image_store(encoded(gradient(), "PNG"))
    assert files_in(data_dir) == []


@pytest.mark.usefixtures("small_chunks")
def test_a_cancelled_import_stops_and_keeps_what_it_has(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchapp.services.leases.PROGRESS_SECONDS", 0.0)
    job = importing.import_start(source=str(shop(tmp_path / "shop", 12)))

    def cancel(done: int, total: int, message: str) -> None:
        if done == 5:
            job_cancel(job)

    job_run(job.pk, "here", on_progress=cancel)

    job.refresh_from_db()
    assert job.state == "cancelled"
    assert Item.objects.count() == GalleryEntry.objects.count() == 4


def test_photos_by_content_are_held_out_when_a_catalogue_has_no_splits(
    data_dir: Path, tmp_path: Path
) -> None:
    report = imported(shop(tmp_path / "shop", 40))
    expected = {
        image.image_sha256 for image in ItemImage.objects.all() if int(image.image_sha256, 16) % 8 == 0
    }
    assert report["evaluation_queries"] == len(expected) > 0
    assert set(EvaluationQuery.objects.values_list("image_sha256", flat=True)) == expected


# --- B8: the files spreadsheets and strangers make


def read_csv(path: Path, content: bytes) -> Iterator[ItemRecord | RowProblem]:
    path.write_bytes(content)
    return csv_open(path, name="c").records()


HEADER = "sku,category,images,title\n"


@pytest.mark.parametrize(
    ("content", "records"),
    [
        (b"\xef\xbb\xbf" + HEADER.encode() + "a,Früchte,p.jpg,Ä\n".encode(), ["a"]),
        (b"SKU ; Category;IMAGES\na;A;p.jpg\n", ["a"]),
        (
            HEADER.encode() + b'"a","A, B","p.jpg","=HYPERLINK(""x"")"\n\n , , ,\nb,B,p.jpg,"two\nlines"\n',
            ["a", "b"],
        ),
        (HEADER.encode() + b"a,A,p.jpg,caf\xe9\nb,B,p.jpg,x\n", [(2, "title"), "b"]),
        (HEADER.encode() + b"a,A\nb,B,p.jpg,x,y\nc,C,p.jpg,z\n", [(2, "*"), (3, "*"), "c"]),
        (HEADER.encode() + b"a,A,p.jpg," + b"x" * 10_000_000 + b"\nb,B,p.jpg,y\n", [(2, "*"), "b"]),
        (HEADER.encode() + b'a,A,p.jpg,"x"y\nb,B,p.jpg,z\n', [(2, "*"), "b"]),
        (HEADER.encode() + b",A,p.jpg,x\nb,,p.jpg,x\n", [(2, "sku"), (3, "category")]),
        (
            HEADER.encode() + b"a,A," + b"|".join(b"p%d.jpg" % n for n in range(101)) + b",x\n",
            [(2, "images")],
        ),
        (HEADER.encode(), []),
    ],
    ids=[
        "bom",
        "semicolons",
        "quoting",
        "latin-1",
        "cells",
        "10 MB cell",
        "bad quotes",
        "empty",
        "photos",
        "no rows",
    ],
)
def test_b8_an_odd_csv_gives_its_good_rows_and_names_the_bad_ones(
    tmp_path: Path, content: bytes, records: list[Any]
) -> None:
    found = [
        record.sku if isinstance(record, ItemRecord) else (record.row, record.field)
        for record in read_csv(tmp_path / "c.csv", content)
    ]
    assert found == records


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER.encode("utf-16"), "it is UTF-16"),
        (b"sku,title\n", "the column category, images is missing; it has sku, title"),
        (b"", "the column sku, category, images is missing; it has none"),
        (b"sku,category,images,sku\n", "the column sku is there twice"),
        (
            b"sku,category,images," + b",".join(b"c%d" % n for n in range(10_000)) + b"\n",
            "it has 10,003 columns",
        ),
        (b"sku,category,images,\xe9\n", "its header is not UTF-8 at byte 20"),
        (b"sk\x00u,category,images\n", "UTF-16 or not text"),
    ],
)
def test_b8_a_csv_without_a_usable_header_is_refused_whole(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_csv(tmp_path / "c.csv", content)


def test_b8_control_characters_reach_no_row(data_dir: Path, tmp_path: Path, photos: list[bytes]) -> None:
    rows = [
        apple(0, sku="a\x00b"),
        apple(1, title="x\x1b[31m"),
        apple(2, category="A\r\nB"),
        apple(3, tags="t\x00"),
    ]
    report = imported(csv_catalogue(tmp_path / "shop", photos[:4], rows))
    assert counts(report) == [0, 0, 0, 4]
    assert [error["field"] for error in report["errors"]] == ["sku", "title", "category", "tags"]


def test_b8_fifty_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    with (tmp_path / "c.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["sku", "category", "images"])
        table.writerows([f"s{number}", "A > B", f"p{number}.jpg"] for number in range(50_000))
    assert csv_open(tmp_path / "c.csv", name="c").photo_count() == 50_000


def test_ignored_columns_are_told(data_dir: Path, tmp_path: Path, photos: list[bytes]) -> None:
    report = imported(csv_catalogue(tmp_path / "shop", photos[:1], [apple(0, prise="3")]))
    assert report["notes"] == ["Columns that were ignored: prise"]


def test_a_job_of_a_catalogue_that_vanished_fails_with_the_reason(data_dir: Path, tmp_path: Path) -> None:
    options = {"splits": [], "include_reserved": False, "dry_run": False, "items": "photos"}
    for source, words in (
        (str(tmp_path / "gone"), "There is nothing at"),
        ("upload:" + "0" * 32, "upload it again"),
    ):
        job = job_create(kind="import_catalogue", payload={"source": source, "options": options})
        assert words in job_run_here(job).error


def test_an_attempt_that_lost_its_claim_clears_away_nothing_that_the_new_one_reads(
    data_dir: Path, tmp_path: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    csv_catalogue(tmp_path / "shop", photos[:2], [apple(0), apple(1)])
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        for path in sorted((tmp_path / "shop").rglob("*.*")):
            archive.write(path, str(path.relative_to(tmp_path / "shop")))
    source = importing.import_upload_store([(tmp_path / "shop.zip").read_bytes()], "shop.zip")
    job = importing.import_start(source=source)
    stuck = leases.lease_claim(job.pk, owner="stuck")
    Job.objects.filter(pk=job.pk).update(lease_until="2000-01-01T00:00:00Z")
    taken = leases.lease_claim(job.pk, owner="new")
    assert stuck is not None
    assert taken is not None
    real = importing.units_of  # type: ignore[attr-defined]  # wrapped below to pause in the middle
    calls: list[CatalogueSource] = []

    def units(opened: CatalogueSource) -> Iterator[Unit]:
        if not calls:  # in the middle of the new attempt the stuck one goes on, and learns that it is lost
            calls.append(opened)
            with pytest.raises(LeaseLost):
                importing.import_run(leases.JobRun(stuck))
        return real(opened)

    monkeypatch.setattr(importing, "units_of", units)
    report = importing.import_run(leases.JobRun(taken))

    assert counts(report) == [2, 0, 0, 0]
    assert report["errors"] == []
    assert list((data_dir / "imports").iterdir()) == []
