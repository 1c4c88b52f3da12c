"""A real browser before a real server: the embedded mode with a small shop of real photos in it."""

import csv
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.conftest import missing
from tests.system import System

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PASSWORD = "leaves-in-the-wind"
CLASSES = 10
PHOTOS = 8
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


class Shop:
    """A running system with ten grocery items, a place, a staff account, and photos it never saw."""

    def __init__(self, system: System, queries: dict[str, Path], folder: Path) -> None:
        self.system, self.queries, self.folder = system, queries, folder
        self.base_url = system.base_url


@pytest.fixture(scope="session")
def shop(data_packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_running(data_packs, tmp_path_factory.mktemp("shop")) as running:
        yield running


@contextmanager
def shop_running(packs: Path, folder: Path) -> Iterator[Shop]:
    """A shop of its own, for a test that changes more than others could bear."""
    queries = _catalogue_write(packs, folder)
    with System(environment={"GALLERY_FOLLOW_SECONDS": "0.5"}) as system:
        system.run("import_catalogue", str(folder / "catalogue.csv"), "--wait")
        system.python(
            "from django.contrib.auth.models import User;"
            f"User.objects.create_superuser('sam', password='{PASSWORD}')"
        )
        yield Shop(system, queries, folder)


def _catalogue_write(packs: Path, folder: Path) -> dict[str, Path]:
    """A CSV with photos beside it; returns one held-out photo of each class."""
    with (packs / "grocery" / "labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    by_class: dict[str, list[dict[str, str]]] = defaultdict(list)
    held_out: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["split"] == "train":
            by_class[row["class"]].append(row)
        elif row["split"] == "test":
            held_out.setdefault(row["class"], row)
    chosen = sorted(by_class)[:: len(by_class) // CLASSES][:CLASSES]
    queries = {}
    lines = []
    for number, name in enumerate(chosen):
        photos = [_photo_write(packs, row, folder) for row in by_class[name][:PHOTOS]]
        queries[name] = _photo_write(packs, held_out[name], folder)
        row = by_class[name][0]
        category = f"{row['group']} > {row['coarse_class']}"
        facts = [name, row["title"], category, "|".join(photo.name for photo in photos)]
        lines.append([*facts, row["description"], row["tags"], f"{number + 1}.00", "EUR", "product", "", ""])
    place = ["hall", "Great hall", "Museum", photos[-1].name, "Where it all began.", "", "", "", "landmark"]
    lines.append([*place, "59.332580", "18.064900"])
    columns = ["sku", "title", "category", "images", "description", "tags", "price", "currency", "vertical"]
    with (folder / "catalogue.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([[*columns, "latitude", "longitude"], *lines])
    return queries


def _photo_write(packs: Path, row: dict[str, str], folder: Path) -> Path:
    with tarfile.open(packs / "grocery" / row["shard"]) as archive:
        member = archive.extractfile(row["path"])
        assert member is not None
        target = folder / f"{row['split']}-{Path(row['path']).name}"
        target.write_bytes(member.read())
    return target


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM:
        missing("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Visitor:
    """One person's browser. `complaints` are script errors and refusals of the content security policy."""

    def __init__(self, shop: Shop, context: BrowserContext) -> None:
        self.shop, self.context = shop, context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)

    def _heard(self, message: Any) -> None:
        if "Content Security Policy" in message.text or "Refused to" in message.text:
            self.complaints.append(message.text)

    def open(self, path: str) -> Page:
        self.page.goto(self.shop.base_url + path)
        return self.page

    def choose_photo(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.locator("[data-choose=file]").first.click()
        chooser.value.set_files(path)

    def wait_for_results(self) -> None:
        self.page.wait_for_selector("#results:not(.is-busy) .card [data-open]")

    def sign_in(self, path: str) -> None:
        self.open(path)
        self.page.fill("#id_username", "sam")
        self.page.fill("#id_password", PASSWORD)
        self.page.click("main button[type=submit]")


@pytest.fixture
def visitor_of(chromium: Browser, shop: Shop) -> Iterator[Any]:
    contexts: list[BrowserContext] = []

    def make(**options: Any) -> Visitor:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        return Visitor(shop, context)

    yield make
    for context in contexts:
        context.close()
