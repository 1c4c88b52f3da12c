"""An operator trains a base version from the catalogue, reads the verdict, puts it in use and goes back."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.journeys.conftest import PHONE, Shop, Visitor
from tests.journeys.test_journeys import AXE, SERIOUS

pytestmark = [pytest.mark.journey, pytest.mark.system, pytest.mark.timeout(900)]
NewVisitor = Callable[..., Visitor]
IN_USE = (
    "SELECT major, minor FROM searchapp_deployment AS d JOIN searchapp_modelversion AS v ON v.id = d.version_id"
    " WHERE d.ended_at IS NULL"
)
TRAINING_MS, MOVE_MS = 600_000, 60_000
WIDER_THAN_ITS_WINDOW = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


class Inspector:
    """Looks at the same addresses on a computer and a phone, light and dark."""

    def __init__(self, visitor_of: NewVisitor) -> None:
        options: dict[str, Any] = {"bypass_csp": True, "reduced_motion": "reduce"}
        self.visitors = {"desktop": visitor_of(**options), "phone": visitor_of(**options, **PHONE)}
        self.found: list[str] = []
        for visitor in self.visitors.values():
            visitor.sign_in("/ops/")

    def look(self, path: str) -> None:
        for name, visitor in self.visitors.items():
            page = visitor.open(path)
            if page.evaluate(WIDER_THAN_ITS_WINDOW):
                self.found.append(f"{name} {path}: scrolls sideways")
            page.add_script_tag(path=AXE)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                self.found += [f"{name} {scheme} {path}: {problem}" for problem in page.evaluate(SERIOUS)]


def path_of(page: Page) -> str:
    return re.sub(r"^https?://[^/]+", "", page.url)


def test_an_operator_trains_reads_the_verdict_puts_it_in_use_and_goes_back(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    inspector = Inspector(visitor_of)
    assert shop.system.rows(IN_USE) == [(1, 0)]
    visitor = visitor_of()
    visitor.sign_in("/ops/")
    page = visitor.page
    expect(page.locator("#in-use-title")).to_have_text("1.0 is in use")
    inspector.look("/ops/")

    # what it would learn from, and a wrong share
    page.get_by_role("link", name="Train a base version").click()
    expect(page.locator(".plan")).to_contain_text("Categories")
    page.get_by_label("Another share", exact=True).check()
    page.get_by_label("Share of labels in percent").fill("250")
    page.get_by_role("button", name="Start the training").click()
    expect(page.locator(".field-error")).to_contain_text("less than or equal to 100")
    expect(page.get_by_label("Another share", exact=True)).to_be_checked()
    inspector.look("/ops/train")
    page.get_by_label("100 %", exact=True).check()
    page.get_by_label("Share of labels in percent").fill("")
    page.get_by_role("button", name="Start the training").click()

    # it runs: curves come by themselves; thinking better of it changes nothing
    expect(page.locator("h1")).to_contain_text("Train a base version from")
    training = path_of(page)
    expect(page.locator(".curve-plot").first).to_be_visible(timeout=TRAINING_MS)
    inspector.look(f"{training}?figures=table")
    page.get_by_role("link", name="Cancel").click()
    expect(page.locator("h1")).to_have_text("Cancel the training?")
    page.get_by_role("link", name="Let it go on").click()

    # it ends: the page says what came of it without being asked
    expect(page.locator("#result-title")).to_be_visible(timeout=TRAINING_MS)
    expect(page.locator(".track .is-done")).to_have_count(4)
    assert shop.system.rows(IN_USE) == [(1, 0)]  # a candidate, nothing more
    inspector.look(training)

    page.get_by_role("link", name="Put 2.0 in use").click()
    expect(page.locator("h1")).to_have_text("Put 2.0 in use?")
    expect(page.locator(".consequences")).to_contain_text("No stored code is changed")
    inspector.look(path_of(page))
    if page.locator("#reason").count():  # so few held-out photos cannot tell
        page.fill("#reason", "trying it out")
    page.get_by_role("button", name=re.compile("^Put 2.0 in use")).click()
    expect(page.locator("#in-use-title")).to_have_text("2.0 is in use", timeout=MOVE_MS)
    assert shop.system.rows(IN_USE) == [(2, 0)]
    inspector.look("/ops/")

    page.get_by_role("link", name="Go back to 1.0").click()
    expect(page.locator("h1")).to_have_text("Go back to 1.0?")
    inspector.look("/ops/rollback")
    page.get_by_role("button", name="Go back to 1.0").click()
    expect(page.locator("#in-use-title")).to_have_text("1.0 is in use")
    assert shop.system.rows(IN_USE) == [(1, 0)]
    assert inspector.found == []
    assert visitor.complaints == []


def test_without_scripts_a_training_is_started_followed_and_cancelled(
    shop: Shop, visitor_of: NewVisitor
) -> None:
    visitor = visitor_of(java_script_enabled=False)
    visitor.sign_in("/ops/train")
    page = visitor.page

    page.get_by_role("button", name="Start the training").click()
    page.get_by_role("link", name="Refresh").click()
    expect(page.locator(".headline")).not_to_be_empty()
    page.get_by_role("link", name="Cancel").click()
    page.get_by_role("button", name="Cancel the training").click()
    expect(page.locator(".messages")).to_contain_text("The training is being cancelled.")

    state = "SELECT state FROM searchapp_job WHERE kind = 'train_base' ORDER BY created_at DESC LIMIT 1"
    shop.system.wait_until(lambda: shop.system.value(state) == "cancelled", "the training to end", seconds=60)
    page.reload()
    expect(page.get_by_role("button", name="Go on where it stopped")).to_be_visible()
    assert visitor.complaints == []
