"""What people come for, done in a real Chromium against a running system."""

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.journeys.conftest import PHONE, Shop, Visitor

pytestmark = [pytest.mark.journey, pytest.mark.system, pytest.mark.timeout(180)]
NewVisitor = Callable[..., Visitor]


def crop_values(page: Page) -> list[float]:
    return [float(page.input_value(f"#crop_{name}")) for name in "xywh"]


def first_query(shop: Shop) -> tuple[str, Path]:
    return next(iter(shop.queries.items()))


def test_a_shopper_uploads_crops_filters_opens_asks_for_more_and_says_what_was_right(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    verdicts = "SELECT sku, verdict FROM searchapp_feedback ORDER BY id"
    before_all = shop.system.rows(verdicts)
    visitor = visitor_of()
    page = visitor.open("/")
    name, photo = first_query(shop)

    visitor.choose_photo(photo)
    expect(page.locator(".panel-photo img")).to_have_attribute(
        "src", re.compile("^blob:")
    )  # before any answer
    visitor.wait_for_results()
    expect(page.locator("#results-title")).to_be_focused()
    expect(page.locator("#announce")).to_contain_text("results")
    assert "photo=" in page.url

    # crop: by pointer, by keyboard, by number; each asks again by itself
    box = page.locator("[data-crop-box]").bounding_box()
    assert box is not None
    with page.expect_response("**/search"):
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.8 * box["height"], steps=5)
        page.mouse.up()
    assert crop_values(page) == pytest.approx([20, 20, 50, 60], abs=1.5)
    page.focus("[data-crop-box]")
    with page.expect_response("**/search"):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
    assert crop_values(page) == pytest.approx([22, 20, 50, 62], abs=1.5)
    with page.expect_response("**/search"):
        page.click("[name=crop_to][value=whole]")
    assert crop_values(page) == [0, 0, 100, 100]

    # filter: in the address, as a chip, undone by Back with the photo still there
    before = page.url
    category = page.locator("#category option").nth(1).get_attribute("value")
    with page.expect_response("**/search"):
        page.select_option("#category", category)
    expect(page.locator(".chip")).to_have_count(1)
    assert f"category={category}" in page.url
    page.go_back()
    visitor.wait_for_results()
    assert page.url == before
    expect(page.locator(".chip")).to_have_count(0)
    expect(page.locator(".panel-photo img")).to_have_attribute("src", re.compile("^blob:"))

    # the item, more like it, and what was right
    found = page.locator(f'[data-open][href^="/items/{name}?"]')
    found.click()
    expect(page.locator("h1")).to_be_visible()
    page.get_by_role("button", name=re.compile("^This is it")).first.click()
    expect(page.locator(".feedback-said")).to_have_text("This is it")
    expect(page.get_by_role("button", name=re.compile("^Undo"))).to_be_focused()
    expect(page.locator("#announce")).to_have_text("This is it")
    page.get_by_role("link", name="More like this", exact=True).click()
    expect(page.locator("#results-title")).to_contain_text("results")
    page.get_by_role("button", name=re.compile("^Not this")).first.click()
    expect(page.locator(".feedback-said")).to_have_text("Not this")
    page.get_by_role("button", name=re.compile("^Undo")).click()
    expect(page.locator(".feedback-said")).to_have_count(0)
    assert shop.system.rows(verdicts)[len(before_all) :] == [(name, "right")]
    assert visitor.complaints == []


def test_the_browser_shrinks_a_big_photo_turns_it_upright_and_leaves_its_place_behind(
    shop: Shop, visitor_of: NewVisitor, tmp_path: Path
) -> None:
    visitor = visitor_of()
    page = visitor.open("/")
    _, photo = first_query(shop)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif.get_ifd(0x8825)[1] = "N"
    big = tmp_path / "big.jpg"
    Image.open(photo).convert("RGB").resize((3000, 2000)).save(big, exif=exif, quality=95)
    read = "document.querySelector('#query-image').files[0].arrayBuffer().then((all) => [...new Uint8Array(all)])"

    visitor.choose_photo(big)
    visitor.wait_for_results()

    sent = bytes(page.evaluate(read))  # what the form holds, so what was sent
    assert Image.open(io.BytesIO(sent)).size == (683, 1024)
    assert len(sent) < big.stat().st_size / 2
    assert b"Exif" not in sent


def test_a_photo_is_kept_only_when_the_shopper_ticked_that_it_may_be(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    visitor = visitor_of()
    page = visitor.open("/")
    visitor.choose_photo(first_query(shop)[1])
    visitor.wait_for_results()
    kept = shop.system.data / "query_images"

    page.get_by_role("button", name=re.compile("^This is it")).first.click()
    expect(page.locator(".feedback-said")).to_have_count(1)
    assert not list(kept.glob("*.img"))

    page.check("#consent")
    page.get_by_role("button", name=re.compile("^Not this")).first.click()
    expect(page.locator(".feedback-said")).to_have_count(2)
    assert len(list(kept.glob("*.img"))) == 1


def test_a_dropped_pdf_is_refused_at_once_and_a_pasted_photo_is_searched(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    visitor = visitor_of()
    page = visitor.open("/")
    give = """([bytes, type, name, event]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name, {type}));
        const options = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(event === "drop" ? new DragEvent("drop", {...options, dataTransfer: transfer})
            : new ClipboardEvent("paste", {...options, clipboardData: transfer}));
    }"""

    page.evaluate(give, [list(b"%PDF-1.7"), "application/pdf", "list.pdf", "drop"])
    expect(page.get_by_role("alert")).to_have_text(
        "That file is a PDF. Send a JPEG, PNG or WebP of up to 20 MB."
    )
    expect(page.locator("#start-title")).to_be_visible()

    page.evaluate(give, [list(first_query(shop)[1].read_bytes()), "image/jpeg", "photo.jpg", "paste"])
    visitor.wait_for_results()
    assert visitor.complaints == []


def test_a_server_that_is_away_costs_nothing_but_a_second_try(shop: Shop, visitor_of: NewVisitor) -> None:
    visitor = visitor_of()
    page = visitor.open("/")
    visitor.context.set_offline(True)

    visitor.choose_photo(first_query(shop)[1])
    expect(page.locator("#results-title")).to_have_text("No connection")
    expect(page.locator(".panel-photo img")).to_have_attribute("src", re.compile("^blob:"))

    visitor.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    visitor.wait_for_results()


def test_the_keyboard_alone_is_enough(shop: Shop, visitor_of: NewVisitor) -> None:
    visitor = visitor_of()
    page = visitor.open("/")

    page.keyboard.press("/")
    expect(page.locator("#start-words")).to_be_focused()
    page.keyboard.type("fruit")
    page.keyboard.press("Enter")
    expect(page.locator("#results-title")).to_contain_text("results")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-open]").nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-open]").nth(1)).to_be_focused()
    page.keyboard.press("m")
    expect(page.locator("#results-title")).to_contain_text("results")
    assert "sku=" in page.url
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#similar-title")).to_be_visible()
    assert visitor.complaints == []


def test_without_scripts_a_photo_is_searched_cropped_filtered_and_judged(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    visitor = visitor_of(java_script_enabled=False)
    page = visitor.open("/")
    name, photo = first_query(shop)

    page.set_input_files("#start-image", photo)
    page.click("#drop button[type=submit]")
    expect(page.locator("#results-title")).to_contain_text("results")
    everything = page.locator(".card").count()

    page.click("[name=crop_to][value=tighter]")  # the photo goes along by itself
    assert crop_values(page) == [10, 10, 80, 80]
    page.select_option("#category", index=1)
    page.get_by_role("button", name="Search again", exact=True).click()
    assert 0 < page.locator(".card").count() < everything
    page.locator(".chip").click()
    assert page.locator(".card").count() == everything
    page.get_by_role("button", name=re.compile("^This is it")).first.click()
    expect(page.locator("h1")).to_have_text("Thank you")
    page.get_by_role("button", name=re.compile("^Undo")).click()
    expect(page.locator("h1")).to_have_text("Taken back")

    visitor.open("/browse")
    page.locator(f'a[href="/items/{name}"]').click()
    expect(page.locator("#similar-title")).to_be_visible()


def test_on_a_phone_the_photo_becomes_a_strip_that_opens_and_nothing_scrolls_sideways(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    visitor = visitor_of(**PHONE)
    page = visitor.open("/")
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert page.evaluate(wide) is False
    for button in ("[data-choose=file]", "[data-choose=camera]"):
        box = page.locator(button).first.bounding_box()
        assert box is not None
        assert min(box["height"], box["width"]) >= 44

    visitor.choose_photo(first_query(shop)[1])
    visitor.wait_for_results()
    expect(page.locator(".panel-photo")).to_be_hidden()
    page.mouse.wheel(0, 600)
    expect(page.locator(".panel-strip")).to_be_in_viewport()
    page.locator("#panel > summary").click()
    expect(page.locator(".panel-photo")).to_be_visible()
    with page.expect_response("**/search"):
        page.locator("[name=crop_to][value=tighter]").tap()
    assert crop_values(page) == [10, 10, 80, 80]
    for address in ("/browse", "/items/hall", "/login/"):
        visitor.open(address)
        assert page.evaluate(wide) is False, address
    assert visitor.complaints == []


def test_staff_adds_an_item_with_its_photo_and_finds_it_by_another_one(
    shop: Shop, visitor_of: NewVisitor, data_packs: Path, tmp_path: Path
) -> None:
    visitor = visitor_of()
    visitor.sign_in("/admin/searchapp/item/add/")
    page = visitor.page
    shown, asked = new_photos(data_packs, tmp_path)

    page.fill("#id_sku", "new-one")
    page.fill("#id_title", "Something new")
    page.locator(".select2-selection, [aria-labelledby*=id_category]").first.click()
    page.locator(".select2-search__field").fill("Museum")
    page.locator(".select2-results__option", has_text="Museum").first.click()
    page.set_input_files("#id_photos", [shown])
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Something new").first).to_be_visible()

    deadline = time.monotonic() + 30
    while True:
        page = visitor.open("/")
        visitor.choose_photo(asked)
        visitor.wait_for_results()
        if page.locator('[data-open][href^="/items/new-one?"]').count():
            break
        assert time.monotonic() < deadline, "the new item was not found within 30 s"
        time.sleep(0.5)
    assert visitor.complaints == []


def new_photos(packs: Path, folder: Path) -> tuple[Path, Path]:
    """Two photos of one indoor place, which nothing else in the shop resembles."""
    import csv
    import tarfile

    with (packs / "places_indoor" / "labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "gallery"]
    pair = [rows[0], next(row for row in rows[1:] if row["place_id"] == rows[0]["place_id"])]
    paths = []
    for row in pair:
        with tarfile.open(packs / "places_indoor" / row["shard"]) as archive:
            member = archive.extractfile(row["path"])
            assert member is not None
            paths.append(folder / Path(row["path"]).name)
            paths[-1].write_bytes(member.read())
    return paths[0], paths[1]


AXE = Path(__file__).parent / "vendor" / "axe.min.js"
SERIOUS = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
    .filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => one.id + ": " + one.nodes.map((node) => node.html.slice(0, 160)).join(" | "))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(shop: Shop, visitor_of: NewVisitor, scheme: str) -> None:
    # axe itself injects a style of its own, so it runs in pages whose policy is lifted; the policy is held elsewhere
    options: dict[str, Any] = {"bypass_csp": True, "color_scheme": scheme, "reduced_motion": "reduce"}
    visitor = visitor_of(**options)
    phone = visitor_of(**options, **PHONE)
    name, photo = first_query(shop)
    found: dict[str, list[str]] = {}

    def check(who: Visitor, label: str) -> None:
        who.page.add_script_tag(path=AXE)
        problems = who.page.evaluate(SERIOUS)
        if problems:
            found[label] = problems

    for who, size in ((visitor, "desktop"), (phone, "phone")):
        for address in (
            "/",
            "/?q=fruit",
            "/?q=submarine",
            f"/items/{name}",
            "/items/hall",
            "/browse",
            "/login/",
            "/none",
        ):
            who.open(address)
            check(who, f"{size} {address}")
        who.open("/")
        who.choose_photo(photo)
        who.wait_for_results()
        check(who, f"{size} photo results")
    visitor.page.keyboard.press("?")
    check(visitor, "help")
    visitor.sign_in("/jobs/")
    check(visitor, "jobs")
    visitor.page.get_by_role("link", name=re.compile("^Report of")).first.click()
    check(visitor, "report")
    assert found == {}


def test_no_page_breaks_its_content_security_policy(shop: Shop, visitor_of: NewVisitor) -> None:
    visitor = visitor_of()
    name, _ = first_query(shop)
    for address in (
        "/",
        "/?q=fruit",
        f"/?sku={name}",
        f"/items/{name}",
        "/browse",
        "/login/",
        "/none",
        "/api/docs/",
    ):
        visitor.open(address)
        visitor.page.wait_for_load_state("networkidle")
    visitor.sign_in("/jobs/")
    visitor.page.wait_for_timeout(2500)  # one poll
    for address in ("/admin/", "/admin/searchapp/item/", "/admin/searchapp/item/add/"):
        visitor.open(address)
        visitor.page.wait_for_load_state("networkidle")
    assert visitor.complaints == []
