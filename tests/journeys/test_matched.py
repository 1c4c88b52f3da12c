"""“What matched?” in a real Chromium: over the results with scripts, a page of its own without."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.journeys.conftest import PHONE, Shop, Visitor
from tests.journeys.test_journeys import AXE, SERIOUS, first_query

pytestmark = [pytest.mark.journey, pytest.mark.system, pytest.mark.timeout(180)]
NewVisitor = Callable[..., Visitor]
SENTENCE = re.compile(r"match.+ your photo")


def test_a_shopper_sees_what_of_the_photo_matched_and_goes_on_where_they_were(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    visitor = visitor_of()
    page = visitor.open("/")
    visitor.choose_photo(first_query(shop)[1])
    visitor.wait_for_results()
    asked = page.url
    button = page.get_by_role("button", name=re.compile("^What matched")).first

    button.click()
    dialog = page.get_by_role("dialog", name="What matched?")
    expect(dialog).to_be_visible()
    expect(page.locator("#matched-words")).to_have_text(SENTENCE)
    expect(dialog).to_have_accessible_description(SENTENCE)
    expect(dialog.get_by_role("img", name=SENTENCE)).to_be_visible()
    heat = dialog.locator(".heat-layer")
    expect(heat).to_have_css("opacity", "1")
    dialog.get_by_label("Show only the photo").check()
    expect(heat).to_have_css("opacity", "0")
    page.keyboard.press("m")  # a shortcut of the page beneath: silent while the dialog is open
    expect(dialog).to_be_visible()

    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    assert page.url == asked
    button.click()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()

    visitor.context.set_offline(True)
    button.click()
    expect(dialog.get_by_role("alert")).to_contain_text("No connection")
    dialog.get_by_role("button", name="Close").click()
    visitor.context.set_offline(False)
    with page.expect_response("**/search"):
        page.click("[name=crop_to][value=tighter]")  # the crop is asked about, and lies in the photo
    visitor.wait_for_results()
    page.get_by_role("button", name=re.compile("^What matched")).first.click()
    expect(page.locator("#matched-words")).to_have_text(re.compile("match.+ your crop"))
    expect(dialog.locator(".heat-outside")).to_have_count(1)
    assert visitor.complaints == []


def test_without_scripts_it_is_a_page_that_leads_back_to_the_results(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    page = visitor_of(java_script_enabled=False).open("/")
    page.set_input_files("#start-image", first_query(shop)[1])
    page.click("#drop button[type=submit]")
    page.select_option("#category", index=1)
    page.get_by_role("button", name="Search again", exact=True).click()
    found = page.locator(".card-title").all_inner_texts()

    page.get_by_role("button", name=re.compile("^What matched")).first.click()
    expect(page.locator("h1")).to_have_text("What matched?")
    expect(page.locator("#matched-words")).to_have_text(SENTENCE)
    page.get_by_role("button", name="Back to the results").click()
    assert page.locator(".card-title").all_inner_texts() == found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_it_and_a_phone_shows_all_of_it(
    shop: Shop, visitor_of: NewVisitor, scheme: str
) -> None:
    options: dict[str, Any] = {"bypass_csp": True, "color_scheme": scheme, "reduced_motion": "reduce"}
    for size in ({}, PHONE):
        visitor = visitor_of(**options, **size)
        page = visitor.open("/")
        visitor.choose_photo(first_query(shop)[1])
        visitor.wait_for_results()
        page.get_by_role("button", name=re.compile("^What matched")).first.click()
        dialog = page.get_by_role("dialog", name="What matched?")
        expect(dialog).to_be_visible()
        page.add_script_tag(path=AXE)
        assert page.evaluate(SERIOUS) == []
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert page.evaluate(wide) is False
        assert dialog.evaluate("one => one.scrollWidth > one.clientWidth") is False
        close = dialog.get_by_role("button", name="Close").bounding_box()
        assert close is not None
        assert min(close["width"], close["height"]) >= 36
