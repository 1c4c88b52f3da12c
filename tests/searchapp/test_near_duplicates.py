"""Photos that another item has already: found when they come in, by content and by looks; staff decide."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from searchapp.models import Deployment, DuplicatePair, GalleryEntry, Item, ItemImage, Job, Provenance
from searchapp.services import (
    catalogue,
    encoding,
    import_writing,
    importing,
    near_duplicates,
    nearest_photos,
    serving,
    versions,
)
from searchapp.services.gallery import NewEntry, entries_add, gallery_transaction
from searchapp.services.jobs import job_run_here
from searchapp.services.sketches import likeness, sketch_of_file
from tests.searchapp.galleries import encode_missing, item_with_photos
from tests.searchapp.imports import apple, counts, csv_catalogue, imported
from tests.searchapp.operating import other_version

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def altered(
    data: bytes, *, scale: float = 1, cut: float = 0, edge: float = 0, light: float = 1, quality: int = 85
) -> bytes:
    """A copy as it comes back from a supplier or a web page."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    x, y = round(image.width * cut / 2), round(image.height * cut / 2)
    image = image.crop((x + round(image.width * edge), y, image.width - x, image.height - y))
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    buffer = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(light).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def turned_over(data: bytes) -> bytes:
    buffer = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(data)).convert("RGB")).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def pairs() -> list[tuple[str, str, bool]]:
    """(SKU of the new photo, SKU of the old one, whether the content is the same), oldest pair first."""
    rows = DuplicatePair.objects.order_by("pk")
    return list(rows.values_list("new_image__item__sku", "old_image__item__sku", "same_content"))


def told(report: dict[str, Any]) -> list[tuple[int, str, str, bool]]:
    return [
        (row["row"], row["sku"], row["equals"]["sku"], row["same_content"]) for row in report["duplicates"]
    ]


def encode() -> None:
    """The job that encodes photos which came in one by one."""
    job = job_run_here(encoding.encode_job_ensure())
    assert job.state == "done", job.error


@pytest.fixture
def stocked(data_dir: Path, photos: list[bytes]) -> list[bytes]:
    """old-0 .. old-3 in the gallery, one photo each."""
    for number in range(4):
        item_with_photos(f"old-{number}", [photos[number]], title=f"Old {number}")
    encode_missing()
    return photos


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.5},
        {"scale": 3},
        {"quality": 30},
        {"light": 1.15},
        {"light": 0.8},
        {"cut": 0.05},
        {"cut": 0.1},
        {"cut": 0.1, "light": 0.9, "scale": 2},
        {"edge": 0.1},
    ],
)
def test_a_sketch_knows_an_altered_copy_and_no_other_photo(
    photos: list[bytes], change: dict[str, float]
) -> None:
    sketches = np.stack([sketch_of_file(photo) for photo in photos])

    for number, photo in enumerate(photos):
        alike = likeness(sketch_of_file(altered(photo, **change)), sketches)  # type: ignore[arg-type]
        assert alike[number] >= near_duplicates.LEAST_LIKENESS
        assert np.delete(alike, number).max() < near_duplicates.LEAST_LIKENESS


def test_the_same_light_alone_makes_nothing_alike() -> None:
    chance = np.random.default_rng(5)
    light = chance.integers(230, 256, (3, 32, 32, 3), dtype=np.uint8)
    light[2] = 250  # one colour all over

    assert likeness(light[0], light[1:]).max() < 0.2
    assert likeness(light[2], light[2:]) == [0.0]


def test_an_import_tells_of_copies_and_takes_them_in_all_the_same(
    stocked: list[bytes], tmp_path: Path
) -> None:
    new = [stocked[0], altered(stocked[1], scale=2, quality=60), stocked[7]]
    path = csv_catalogue(tmp_path / "shop", new, [apple(0), apple(1, title="Big apple"), apple(2)])

    report = imported(path)

    assert counts(report) == [3, 0, 0, 0]
    assert report["duplicates_found"] == 2
    assert told(report) == [(2, "apple-0", "old-0", True), (3, "apple-1", "old-1", False)]
    same, alike = report["duplicates"]
    assert (same["bits"], same["cosine"], same["likeness"]) == (None, None, None)
    assert 0 <= alike["bits"] <= 24
    assert alike["cosine"] >= near_duplicates.LEAST_COSINE
    assert alike["likeness"] >= near_duplicates.LEAST_LIKENESS
    old, copy = ItemImage.objects.get(item__sku="old-1"), ItemImage.objects.get(item__sku="apple-1")
    assert alike["equals"] == {"sku": "old-1", "title": "Old 1", "thumbnail": f"/media/{old.thumbnail}"}
    assert (alike["title"], alike["thumbnail"]) == ("Big apple", f"/media/{copy.thumbnail}")
    assert pairs() == [("apple-0", "old-0", True), ("apple-1", "old-1", False)]
    assert {pair.job_id for pair in DuplicatePair.objects.all()} == {
        Job.objects.get(kind="import_catalogue").pk
    }


def test_a_photo_that_only_shows_the_same_is_no_copy(stocked: list[bytes], tmp_path: Path) -> None:
    mirrored = [turned_over(photo) for photo in stocked[:4]]
    path = csv_catalogue(tmp_path / "shop", mirrored, [apple(number) for number in range(4)])

    report = imported(path)

    assert (report["duplicates_found"], pairs()) == (0, [])
    entries = {entry.image.item.sku: entry.embedding for entry in GalleryEntry.objects.all()}
    vectors = {sku: np.frombuffer(bytes(halves), "<f2").astype(np.float32) for sku, halves in entries.items()}
    cosines = [float(vectors[f"old-{number}"] @ vectors[f"apple-{number}"]) for number in range(4)]
    assert max(cosines) > near_duplicates.LEAST_COSINE  # the embedding alone would have said so


def test_importing_again_asks_nothing_again(stocked: list[bytes], tmp_path: Path) -> None:
    path = csv_catalogue(tmp_path / "shop", [stocked[0], altered(stocked[1])], [apple(0), apple(1)])
    imported(path)
    before = pairs()

    report = imported(path)

    assert (report["duplicates_found"], report["duplicates"]) == (0, [])
    assert pairs() == before


def test_a_trial_run_tells_the_same_pairs_with_a_picture_and_keeps_none(
    stocked: list[bytes], tmp_path: Path
) -> None:
    new = [stocked[0], altered(stocked[1], scale=2), stocked[7], stocked[7]]
    path = csv_catalogue(tmp_path / "shop", new, [apple(number) for number in range(4)])

    dry = imported(path, dry_run=True)

    assert DuplicatePair.objects.count() == 0
    assert [row["thumbnail"][:23] for row in dry["duplicates"]] == ["data:image/jpeg;base64,"] * 3
    assert [bool(row["equals"]["thumbnail"]) for row in dry["duplicates"]] == [True, True, False]
    assert (
        told(dry)
        == told(imported(path))
        == [
            (2, "apple-0", "old-0", True),
            (3, "apple-1", "old-1", False),
            (5, "apple-3", "apple-2", True),
        ]
    )


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize("chunk", [1, 2, 64])
@pytest.mark.parametrize("dry_run", [True, False])
def test_copies_inside_one_import_are_found_and_those_of_one_item_are_no_pair(
    tmp_path: Path,
    photos: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    dry_run: bool,
) -> None:
    monkeypatch.setattr(importing, "CHUNK", chunk)
    new = [photos[0], photos[1], altered(photos[0], cut=0.05), altered(photos[1], light=1.2), photos[1]]
    rows = [apple(0, images="photos/p0.jpg|photos/p2.jpg"), apple(1), apple(3), apple(4)]
    path = csv_catalogue(tmp_path / "shop", new, rows)

    report = imported(path, dry_run=dry_run)

    assert told(report) == [(4, "apple-3", "apple-1", False), (5, "apple-4", "apple-1", True)]
    assert len(pairs()) == (0 if dry_run else 2)


def test_the_view_is_followed_when_many_photos_came_in(
    data_dir: Path, tmp_path: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "CHUNK", 1)
    monkeypatch.setattr(nearest_photos, "FOLLOW_AFTER", 2)
    new = [*photos[:5], altered(photos[0]), altered(photos[4])]
    path = csv_catalogue(tmp_path / "shop", new, [apple(number) for number in range(7)])

    assert told(imported(path)) == [(7, "apple-5", "apple-0", False), (8, "apple-6", "apple-4", False)]


def test_a_large_gallery_is_searched_by_its_nearest_codes(
    stocked: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("compared whole")

    monkeypatch.setattr(nearest_photos, "WHOLE_ROWS", 3)
    monkeypatch.setattr(nearest_photos, "_Whole", refused)
    path = csv_catalogue(tmp_path / "shop", [altered(stocked[2], light=0.9)], [apple(0)])

    assert told(imported(path)) == [(2, "apple-0", "old-2", False)]


def entry_of(
    sku: str, like: GalleryEntry, *, code: bytes | None = None, embedding: bytes | None = None
) -> None:
    """Give the item's photo a solved entry with another code or embedding than its own."""
    image = ItemImage.objects.get(item__sku=sku)
    entry = NewEntry(
        image.pk, image.image_sha256, code or bytes(like.code), embedding or bytes(like.embedding)
    )
    with gallery_transaction() as changes:
        version = versions.default_version_ensure()
        entries_add(changes, version=version, entries=[entry], provenance=Provenance.SOLVED)


def test_equal_codes_alone_make_no_pair_and_other_codes_hide_none(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    for number in range(3):
        item_with_photos(f"old-{number}", [photos[number]])
    version = versions.default_version_ensure()
    first, second, _ = encoding.encode_images(
        version=version, image_ids=ItemImage.objects.values_list("pk", flat=True)
    )
    solved = bytes(255 - byte for byte in first.code)
    for number, entry in enumerate((first, second)):  # two photos of one category, solved to one code
        like = GalleryEntry(code=solved, embedding=entry.embedding)
        entry_of(f"old-{number}", like)
    like = GalleryEntry(code=first.code, embedding=bytes(len(first.embedding)))
    entry_of("old-2", like)  # the code of the photo that comes, and nothing else of it
    path = csv_catalogue(tmp_path / "shop", [altered(photos[0])], [apple(0)])

    assert told(imported(path)) == [(2, "apple-0", "old-0", False)]
    assert DuplicatePair.objects.get().bits > 100  # type: ignore[operator]


def test_a_gallery_that_cannot_be_read_stops_no_import(
    stocked: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("the cluster is away")

    monkeypatch.setattr(serving, "follow_once", broken)
    path = csv_catalogue(tmp_path / "shop", [stocked[0], altered(stocked[1])], [apple(0), apple(1)])

    report = imported(path)

    assert counts(report) == [2, 0, 0, 0]
    assert told(report) == [(2, "apple-0", "old-0", True)]


def test_a_photo_whose_thumbnail_is_gone_is_passed_over(
    stocked: list[bytes], data_dir: Path, tmp_path: Path
) -> None:
    (data_dir / "media" / ItemImage.objects.get(item__sku="old-1").thumbnail).unlink()
    path = csv_catalogue(tmp_path / "shop", [altered(stocked[1]), altered(stocked[2])], [apple(0), apple(1)])

    assert told(imported(path)) == [(3, "apple-1", "old-2", False)]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_import_killed_at_a_commit_tells_each_pair_once(
    stocked: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    new = [altered(stocked[number]) for number in range(4)]
    path = csv_catalogue(tmp_path / "shop", new, [apple(number) for number in range(4)])
    monkeypatch.setattr(importing, "CHUNK", 2)
    real, calls = import_writing.chunk_write, []

    def killed_once(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2 and when == "before":
            raise KeyboardInterrupt
        real(*args)
        if len(calls) == 2 and when == "after":
            raise KeyboardInterrupt

    monkeypatch.setattr(importing, "chunk_write", killed_once)
    job = importing.import_start(source=str(path))
    with pytest.raises(KeyboardInterrupt):
        job_run_here(job)
    job.refresh_from_db()
    done = job_run_here(job)

    assert done.state == "done"
    expected = [(f"apple-{number}", f"old-{number}", False) for number in range(4)]
    assert pairs() == expected
    assert (done.result or {})["duplicates_found"] == 4


def test_photos_added_by_hand_are_compared_when_they_are_encoded(stocked: list[bytes]) -> None:
    item = item_with_photos("new", [altered(stocked[0]), stocked[1], stocked[8]])
    item_with_photos("newer", [altered(stocked[8], scale=2)])

    encode()

    assert sorted(pairs()) == [("new", "old-0", False), ("new", "old-1", True), ("newer", "new", False)]
    assert set(DuplicatePair.objects.values_list("job", flat=True)) == {None}
    catalogue.image_add(item=item, data=altered(stocked[8], light=1.1))  # of its own photo it is no double
    encode()
    assert len([pair for pair in pairs() if pair[0] == pair[1]]) == 0


def test_of_two_that_came_together_the_one_with_the_higher_id_is_the_new_one(
    data_dir: Path, photos: list[bytes]
) -> None:
    item_with_photos("first", [photos[0]])
    item_with_photos("second", [photos[0]])

    encode()

    assert pairs() == [("second", "first", True)]


def test_encoding_everything_anew_asks_nothing_again(stocked: list[bytes]) -> None:
    item_with_photos("new", [altered(stocked[0])])
    encode()
    DuplicatePair.objects.all().delete()
    other = other_version()
    Deployment.objects.update(version=other, view=other.views.get())
    serving.forget()

    encode()

    assert GalleryEntry.objects.filter(producer=other).count() == ItemImage.objects.count() == 5
    assert pairs() == []


def test_a_pair_goes_with_either_photo(stocked: list[bytes], tmp_path: Path) -> None:
    imported(csv_catalogue(tmp_path / "shop", [stocked[0], stocked[1]], [apple(0), apple(1)]))

    catalogue.item_delete(item=Item.objects.get(sku="old-0"))
    catalogue.image_delete(image=ItemImage.objects.get(item__sku="apple-1"))

    assert pairs() == []
