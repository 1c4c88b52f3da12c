# ruff: noqa: INP001  a script beside its pictures, not a package
"""Make the README's pictures from a real run: `python docs/images/make.py [shop] [upgrade]` writes them beside itself.

Only photos whose licences let them be shown again are in them: the grocery pack (MIT) and the clothing pack (CC0).
"""

import csv
import os
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, sync_playwright  # noqa: E402

from tests.journeys.conftest import ARGUMENTS, CHROMIUM, PHONE  # noqa: E402
from tests.system import System  # noqa: E402

SAMPLE_DATA = Path(os.environ.get("SAMPLE_DATA", ROOT.parent / "shared" / "data"))
MAX_BYTES = 400_000
RESERVED, PASSWORD = "Anjou", "only-for-these-pictures"
EPOCHS = "24"
DESKTOP = {"viewport": {"width": 1200, "height": 740}}
SMALL_PHONE = {**PHONE, "viewport": {"width": 390, "height": 760}, "device_scale_factor": 1.5}


def main() -> None:
    for part in sys.argv[1:] or ("shop", "upgrade"):
        {"shop": shop, "upgrade": upgrade}[part]()


def shop() -> None:
    with System() as system, tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        for pack in ("grocery", "clothing"):
            system.run("import_catalogue", str(SAMPLE_DATA / pack), "--stock", "--wait", timeout=1800)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        apple, carton = (_held_out(name, Path(folder)) for name in ("Granny-Smith", "Bravo-Apple-Juice"))

        page = browser.new_page(**DESKTOP)  # type: ignore[arg-type]
        _search(page, system.base_url, apple)
        _keep(page, "results")

        _search(page, system.base_url, carton)
        for name, value in (("crop_x", "4"), ("crop_y", "2"), ("crop_w", "54"), ("crop_h", "88")):
            page.eval_on_selector(f"#{name}", f"(field) => (field.value = '{value}')")
        with page.expect_response("**/search"):
            page.eval_on_selector(
                "#crop_h", "(field) => field.dispatchEvent(new Event('input', {bubbles: true}))"
            )
        with page.expect_response("**/search"):
            page.select_option("#category", "packages")
        page.wait_for_timeout(600)
        _keep(page, "crop")

        phone = browser.new_page(**SMALL_PHONE)
        _search(phone, system.base_url, apple)
        _keep(phone, "phone")

        system.python(
            "from django.contrib.auth.models import User;"
            f"User.objects.create_superuser('sam', password='{PASSWORD}')"
        )
        staff = browser.new_page(viewport={"width": 1200, "height": 1100})
        _learn(staff, system.base_url, Path(folder))
        _keep(staff, "learned")
        asked = _photos(RESERVED, "test", 8, Path(folder))[-1]
        page = browser.new_page(**DESKTOP)  # type: ignore[arg-type]
        _search(page, system.base_url, asked)
        _keep(page, "found")
        browser.close()


def upgrade() -> None:
    """The verdict on a candidate for a shop of grocery photos; training it takes minutes."""
    with System() as system, sync_playwright() as playwright:
        system.run("import_catalogue", str(SAMPLE_DATA / "grocery"), "--stock", "--wait", timeout=1800)
        candidate = ("--method", "ndpp", "--architecture", "budget", "--epochs", EPOCHS, "--no-pilot")
        system.run("train_candidate", *candidate, "--wait", timeout=3600)
        system.python(
            "from django.contrib.auth.models import User;"
            f"User.objects.create_superuser('sam', password='{PASSWORD}')"
        )
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1200, "height": 1160})
        page.goto(f"{system.base_url}/login/?next=/ops/versions/2.0/verdict")
        page.fill("#id_username", "sam")
        page.fill("#id_password", PASSWORD)
        page.click("main button[type=submit]")
        page.wait_for_load_state("networkidle")
        _keep(page, "verdict")
        page.set_viewport_size({"width": 1200, "height": 900})
        page.locator("#flips-title").scroll_into_view_if_needed()
        page.evaluate("window.scrollTo(0, document.getElementById('flips-title').offsetTop - 24)")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(600)
        _keep(page, "flips")
        browser.close()


def _learn(page: Page, base_url: str, folder: Path) -> None:
    """Staff add a class that the shipped weights have never seen, and wait until it is learned."""
    page.goto(f"{base_url}/login/?next=/admin/searchapp/category/add/")
    page.fill("#id_username", "sam")
    page.fill("#id_password", PASSWORD)
    page.click("main button[type=submit]")
    page.get_by_label("Name").fill("Anjou pear")
    page.get_by_label("Tags").fill("juicy, green")
    page.set_input_files("#id_photos", _photos(RESERVED, "train", 30, folder))
    page.get_by_label("Each shows a product of its own").check()
    page.get_by_role("button", name="Add category").click()
    page.wait_for_selector(".cat-track .is-done:nth-child(5)", timeout=180_000)
    page.wait_for_selector(".cat-proof-line", timeout=60_000)
    page.reload()
    page.wait_for_load_state("networkidle")


def _search(page: Page, base_url: str, photo: Path) -> None:
    page.goto(base_url)
    with page.expect_file_chooser() as chooser:
        page.locator("[data-choose=file]").first.click()
    chooser.value.set_files(photo)
    page.mouse.move(1, 1)
    page.wait_for_selector("#results:not(.is-busy) .card [data-open]", timeout=60_000)
    page.wait_for_load_state("networkidle")
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(600)


def _held_out(name: str, folder: Path) -> Path:
    """The first photo of this class that no catalogue holds."""
    return _photos(name, "test", 1, folder)[0]


def _photos(name: str, split: str, count: int, folder: Path) -> list[Path]:
    """The first photos of a class."""
    pack = SAMPLE_DATA / "grocery"
    with (pack / "labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if (row["class"], row["split"]) == (name, split)][
            :count
        ]
    for row in rows:
        with tarfile.open(pack / row["shard"]) as archive:
            member = archive.extractfile(row["path"])
            assert member is not None
            (folder / Path(row["path"]).name).write_bytes(member.read())
    return [folder / Path(row["path"]).name for row in rows]


def _keep(page: Page, name: str) -> None:
    """A PNG of the window; reduced to 256 colours when it would be too heavy for a README."""
    from PIL import Image  # noqa: PLC0415  only needed where pictures are made

    target = HERE / f"{name}.png"
    page.screenshot(path=target)
    if target.stat().st_size > MAX_BYTES:
        picture = Image.open(target).convert("RGB")
        palette = picture.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2)
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
    size = target.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{target.name} has {size:,} bytes, allowed: {MAX_BYTES:,}")


if __name__ == "__main__":
    main()
