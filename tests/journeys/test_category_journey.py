"""Staff add a category that the shipped weights never saw; shoppers find it, and find it better once it is learned."""

import csv
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from ml.data.reserved import load_reserved
from tests.journeys.conftest import PHONE, Shop, Visitor, shop_running
from tests.journeys.test_journeys import AXE, SERIOUS
from tests.journeys.test_model_journey import WIDER_THAN_ITS_WINDOW, path_of

pytestmark = [pytest.mark.journey, pytest.mark.system, pytest.mark.timeout(600)]
NewVisitor = Callable[..., Visitor]
CLASS, SHOWN, ASKED = "Anjou", 24, 10
CATEGORIES = "/admin/searchapp/category/"
LEARNING_MS = 180_000
FIRST_CARD = "#results .card:has([data-open])"  # others only keep the place
CODES = "SELECT id, image_sha256, hex(code), hex(embedding) FROM searchapp_galleryentry WHERE id <= {} ORDER BY id"
LAST = "SELECT max(id) FROM searchapp_galleryentry"


@pytest.fixture(scope="module")
def shop(data_packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One that others do not use: what is learned here would change their answers."""
    with shop_running(data_packs, tmp_path_factory.mktemp("category-shop")) as running:
        yield running


class NewPhotos:
    """Photos of a reserved class: some as files, some in a zip, some that only shoppers have."""

    def __init__(self, packs: Path, folder: Path) -> None:
        assert CLASS in load_reserved().reserved["grocery"]
        with (packs / "grocery" / "labels.csv").open(encoding="utf-8", newline="") as handle:
            rows = [row for row in csv.DictReader(handle) if row["class"] == CLASS]
        shown = [_read(packs, row) for row in rows if row["split"] == "train"][:SHOWN]
        self.asked = [_read(packs, row) for row in rows if row["split"] == "test"][:ASKED]
        self.files = [folder / f"pear-{number}.jpg" for number in range(SHOWN - 4)]
        for path, data in zip(self.files, shown, strict=False):
            path.write_bytes(data)
        self.archive = folder / "more.zip"
        with zipfile.ZipFile(self.archive, "w") as archive:
            for number, data in enumerate(shown[SHOWN - 4 :]):
                archive.writestr(f"folder/{number}.jpg", data)
        self.broken = folder / "price-list.pdf"
        self.broken.write_bytes(b"%PDF-1.4 no photo")
        self.query = folder / "shopper.jpg"
        self.query.write_bytes(self.asked[0])


def _read(packs: Path, row: dict[str, str]) -> bytes:
    with tarfile.open(packs / "grocery" / row["shard"]) as archive:
        member = archive.extractfile(row["path"])
        assert member is not None
        return member.read()


def average_precision(shop: Shop, photos: list[bytes], category: str) -> float:
    """Mean over photos nobody has stored, of the answers by item."""
    values = []
    with httpx.Client(base_url=f"{shop.base_url}/api/v1", timeout=30) as client:
        for photo in photos:
            answer = client.post("/search", files={"image": ("q.jpg", photo)}, data={"k": "50"}).json()
            right = [result["category"] == category for result in answer["results"]]
            hits = [sum(right[: at + 1]) / (at + 1) for at, is_right in enumerate(right) if is_right]
            values.append(sum(hits) / SHOWN)
    return float(sum(values) / len(values))


def look(visitors: list[Visitor], path: str) -> list[str]:
    """What is wrong with a page on a computer and a phone, light and dark."""
    found = []
    for visitor in visitors:
        page = visitor.open(path)
        if page.evaluate(WIDER_THAN_ITS_WINDOW):
            found.append(f"{path}: scrolls sideways")
        page.add_script_tag(path=AXE)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found += [f"{scheme} {path}: {problem}" for problem in page.evaluate(SERIOUS)]
    return found


def steps_of(page: Page) -> list[str]:
    return [re.sub(r"\s+", " ", text).strip() for text in page.locator(".cat-track-label").all_inner_texts()]


def test_staff_add_a_category_and_shoppers_find_it_better_once_it_is_learned(
    shop: Shop, visitor_of: NewVisitor, data_packs: Path, tmp_path: Path
) -> None:
    new = NewPhotos(data_packs, tmp_path)
    options: dict[str, Any] = {"bypass_csp": True, "reduced_motion": "reduce"}
    inspectors = [visitor_of(**options), visitor_of(**options, **PHONE)]
    for inspector in inspectors:
        inspector.sign_in(CATEGORIES)
    problems = look(inspectors, f"{CATEGORIES}add/")
    last = shop.system.value(LAST)
    stored = shop.system.rows(CODES.format(last))
    staff = visitor_of()
    staff.sign_in(f"{CATEGORIES}add/")
    page = staff.page

    # a broken file among the photos is named, and the others stay chosen
    page.get_by_label("Name").fill("Anjou pear")
    page.get_by_label("Tags").fill("juicy, green")
    page.set_input_files("#id_photos", [*new.files, new.broken])
    page.set_input_files("#id_archive", new.archive)
    page.get_by_label("Each shows a product of its own").check()
    expect(page.locator("[data-chosen-words]")).to_contain_text(f"{len(new.files) + 1} photos chosen")
    page.get_by_role("button", name="Add category").click()
    expect(page.get_by_role("alert").filter(has_text="Nothing was written yet.")).to_contain_text(
        "price-list.pdf: That file is a PDF."
    )
    page.get_by_label("Go on without the photos that cannot be used").check()
    page.get_by_role("button", name="Add category").click()

    # it is searchable before it is learned; thinking better of it leaves it so
    expect(page.locator(".cat-title")).to_contain_text("Anjou pear")
    path = path_of(page)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-headline]")).to_contain_text("cancelled", timeout=LEARNING_MS)
    expect(page.locator("[data-headline]")).to_contain_text(
        f"All {SHOWN} photos are found", timeout=LEARNING_MS
    )
    expect(page.locator(".cat-photos .is-provisional")).to_have_count(SHOWN)
    before = average_precision(shop, new.asked, "Anjou pear")
    problems += look(inspectors, path)

    # learned: five steps done by themselves, and nothing stored has changed
    page.goto(shop.base_url + path)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".cat-track .is-done")).to_have_count(5, timeout=LEARNING_MS)
    expect(page.locator("[data-headline]")).to_have_text(
        f"Learned by version 1.1. All {SHOWN} photos are found."
    )
    expect(page.locator(".cat-proof-line")).to_contain_text("stored codes checked · 0 changed")
    assert shop.system.rows(CODES.format(last)) == stored
    problems += look(inspectors, path)
    shop.system.wait_until(lambda: version_of(shop, new.query) == "1.1", "the pages to follow", seconds=10)
    assert average_precision(shop, new.asked, "Anjou pear") > before

    # a shopper, by a photo of their own and by words
    shopper = visitor_of()
    shopper.open("/")
    shopper.choose_photo(new.query)
    shopper.wait_for_results()
    expect(shopper.page.locator(FIRST_CARD).first).to_contain_text("Anjou pear")
    shopper.open("/?q=juicy+green+pear")
    shopper.wait_for_results()
    expect(shopper.page.locator(FIRST_CARD).first).to_contain_text("Anjou pear")

    # the button on the page asks with a photo that was kept aside
    page.get_by_role("link", name="Try a search now").click()
    staff.wait_for_results()
    expect(page.locator(FIRST_CARD).first).to_contain_text("Anjou pear")

    assert problems == []
    assert staff.complaints + shopper.complaints == []


def version_of(shop: Shop, photo: Path) -> str:
    with httpx.Client(base_url=f"{shop.base_url}/api/v1", timeout=30) as client:
        answer = client.post("/search", files={"image": ("q.jpg", photo.read_bytes())}).json()
    return str(answer["model_version"])


def test_without_scripts_a_category_is_added_and_followed(
    shop: Shop, visitor_of: NewVisitor, data_packs: Path, tmp_path: Path
) -> None:
    new = NewPhotos(data_packs, tmp_path)
    visitor = visitor_of(java_script_enabled=False)
    visitor.sign_in(f"{CATEGORIES}add/")
    page = visitor.page

    page.fill("#id_name", "Winter pear")
    page.set_input_files("#id_photos", new.files[:3])
    page.click("main button[type=submit]")
    expect(page.locator(".cat-title")).to_contain_text("Winter pear")
    page.get_by_role("link", name="Refresh").click()
    expect(page.locator(".cat-track li")).to_have_count(5)
    page.get_by_role("button", name="Cancel").click()

    state = "SELECT state FROM searchapp_job WHERE kind = 'learn_categories' ORDER BY created_at DESC LIMIT 1"
    shop.system.wait_until(lambda: shop.system.value(state) == "cancelled", "learning to end", seconds=60)
    assert visitor.complaints == []
