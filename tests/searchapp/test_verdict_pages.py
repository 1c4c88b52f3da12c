"""The verdict page: one sentence first, then gates, matrix, categories, pictures and costs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from searchapp.models import FlipDecision, ItemImage, Job, ModelVersion
from searchapp.services import intake, versions
from searchapp.services.operator_settings import setting_change
from tests.searchapp.api_cast import operator_make, session_client, user_make
from tests.searchapp.galleries import shop
from tests.searchapp.operating import candidate
from tests.searchapp.test_pages_search import sample_of, text_of
from tests.searchapp.verdict_reports import GATES, category, flip, gate, report_of, verdict_make

pytestmark = [pytest.mark.django_db, pytest.mark.database]
PATH = "/ops/versions/2.0/verdict"


@pytest.fixture
def olga() -> User:
    return operator_make()


@pytest.fixture
def operator(olga: User) -> Client:
    return session_client(olga)


@pytest.fixture
def new(data_dir: Path) -> ModelVersion:
    """A candidate of the lineage in use."""
    version = candidate()
    version.lineage = versions.champion().version.lineage
    version.save()
    return version


def judged(new: ModelVersion, **report: Any) -> None:
    verdict_make(new, versions.champion().version, report_of("2.0", "1.0", **report))


def page_of(operator: Client, query: str = "") -> str:
    return text_of(operator.get(f"{PATH}{query}"))


@pytest.fixture
def turned(new: ModelVersion, photos: Sequence[bytes]) -> list[str]:
    """Two answers that turned wrong, one that turned right; the SHA-256 of the photos that ask."""
    items = shop(photos)
    shown = [ItemImage.objects.get(item=item) for item in items]
    asked = [sample_of(photos[6 + n], items[n]).image_sha256 for n in range(3)]
    negative = [flip(asked[0], shown[0], shown[3]), flip(asked[1], shown[4], shown[1], "Drink")]
    judged(new, negative=negative, positive=[flip(asked[2], shown[3], shown[2])])
    return asked


def test_a_candidate_that_passes_is_ready_in_one_sentence_that_ends_in_its_buttons(
    operator: Client, new: ModelVersion
) -> None:
    judged(new)

    page = page_of(operator)

    assert (
        "Ready: 2.0 is better than 1.0 and passes every gate; 1 category gains, 1 loses. Put 2.0 in use "
        "Send it a part of the traffic Correct the gallery first Measure again"
    ) in page


def test_one_that_fails_names_the_gates_and_says_that_putting_it_in_use_is_in_spite_of_them(
    operator: Client, new: ModelVersion
) -> None:
    failing = [gate("map_loss", 0.03, 0.01), gate("flips", 0.09, 0.05), *GATES[2:]]
    judged(new, gates=failing)

    page = page_of(operator)

    assert "Not ready: 2.0 fails 2 of 6 gates: mean average precision, answers that turn wrong" in page
    assert "Put 2.0 in use all the same" in page
    assert "Mean average precision may fall by at most 1 point change the limit" in page
    assert re.search(r"−3\.0 points \(−4\.0 to −2\.0\) How measured.{0,400}?Fails", page)


def test_one_that_nobody_can_judge_says_which_gates_lack_photos(operator: Client, new: ModelVersion) -> None:
    judged(new, gates=[gate("map_loss", -0.03, 0.01, items=4), gate("flips", None, 0.05), *GATES[2:]])

    page = page_of(operator)

    assert "Cannot tell yet: 2 of 6 gates cannot be decided" in page
    assert "; the other 4 pass" in page
    assert "photos of 4 items; 10 are needed" in page
    assert "not measurable yet" in page


def test_a_limit_that_was_changed_since_judges_what_was_measured_then(
    operator: Client, olga: User, new: ModelVersion
) -> None:
    judged(new)
    setting_change(name="gate.latency", value=1.2, user=olga, reason="phones are slow")

    page = page_of(operator)

    assert "Not ready: 2.0 fails 1 of 6 gates: time of a query" in page
    assert "at most 1.2 times as long" in page


def test_the_matrix_tells_who_asks_what_is_stored_and_what_answers_now_then_and_going_back(
    operator: Client, new: ModelVersion
) -> None:
    judged(new)

    page = page_of(operator)

    assert "2.0 the candidate asks 56.0 % 54.0 to 58.0 +6.0 +4.0 to +8.0 answers if put in use" in page
    assert "61.0 % 59.0 to 63.0 +11.0" in page
    assert "1.0 the version beside it asks 50.0 % 48.0 to 52.0 answers now" in page
    assert "48.9 % 46.9 to 50.9 −1.1 −3.1 to +0.9 going back" in page
    assert "66.0 % 64.0 to 68.0 +6.0" in page_of(operator, "?metric=recall_at_1")
    assert "56.0 % 54.0 to 58.0 +6.0" in page_of(operator, "?metric=nonsense")


def test_a_cell_whose_gate_does_not_pass_is_marked_in_words(operator: Client, new: ModelVersion) -> None:
    judged(new, gates=[*GATES[:4], gate("rollback_loss", 0.2, 0.05)])

    page = page_of(operator)

    assert "going back its gate does not pass" in page
    assert "answers if put in use its gate does not pass" not in page


def test_categories_come_with_the_largest_loss_first_and_their_photos(
    operator: Client, new: ModelVersion
) -> None:
    judged(new)

    page = page_of(operator)

    words = "Fruit > Pear 40 photos −8.0 −11.0 to −5.0 50.0 % → 42.0 %"
    assert 0 < page.index(words) < page.index("Fruit > Apple 40 photos −1.0") < page.index("Drink > Juice")
    assert "Drink > Milk 4 photos +20.0 50.0 % → 70.0 %" in page


def test_many_categories_keep_the_ones_in_between_folded(operator: Client, new: ModelVersion) -> None:
    judged(new, categories=[category(f"Kind > {n:02}", (n - 15) / 100) for n in range(30)])

    html = operator.get(PATH).content.decode()

    assert "14 categories in between" in html
    assert html.index("Kind &gt; 00") < html.index("14 categories in between") < html.index("Kind &gt; 29")


def test_answers_that_turned_are_shown_as_pictures_with_the_right_one_marked(
    operator: Client, turned: list[str]
) -> None:
    response = operator.get(PATH)
    html, page = response.content.decode(), text_of(response)

    assert (
        "Of 240 held-out photos, 5 turned from right to wrong at first place and 19 from wrong to right."
        in page
    )
    assert f"/media/thumbs/{turned[0][:2]}/{turned[0]}.jpg" in html
    assert "Asked Before right Red apple After wrong Orange juice" in page
    assert html.count("flip-side is-right") == 2
    assert "Asked Before wrong Orange juice After right Red apple" in page_of(operator, "?flips=positive")
    assert page_of(operator, "?flips=positive").count("Accept") == 0  # nothing to forgive


def test_pictures_of_one_category_can_be_looked_at_alone(operator: Client, turned: list[str]) -> None:
    html = operator.get(f"{PATH}?category=Drink").content.decode()

    assert turned[1] in html
    assert turned[0] not in html


def test_an_operator_blocks_an_answer_with_a_reason_and_takes_it_back(
    operator: Client, olga: User, turned: list[str]
) -> None:
    sent = {"against": "1.0", "query": turned[0], "decision": "block", "reason": "our best seller"}
    without = operator.post("/ops/versions/2.0/flips", {**sent, "reason": " "}, follow=True)
    blocked = operator.post("/ops/versions/2.0/flips", sent)
    page = page_of(operator)
    decision = FlipDecision.objects.get()
    operator.post("/ops/versions/2.0/flips", {"against": "1.0", "query": turned[0], "decision": ""})

    assert "only with a reason" in text_of(without)
    assert blocked["Location"] == f"{PATH}?against=1.0#flip-{turned[0][:16]}"
    assert (decision.decision, decision.created_by) == ("block", olga)
    assert "Blocks the promotion by olga: our best seller Undo" in page
    assert "Not ready: 2.0 fails 1 of 7 gates: wrong answers that an operator blocks" in page
    assert not FlipDecision.objects.exists()


def test_what_it_saves_is_told_with_how_it_was_measured_and_by_the_operator_s_own_rates(
    operator: Client, olga: User, new: ModelVersion
) -> None:
    judged(new)
    unknown = page_of(operator)
    setting_change(name="cost.machine_hour", value=6.0, user=olga)

    page = page_of(operator)

    assert "Size How measured : Size" in page
    assert "1.3 MB 878.9 KB +56 %" in page.replace("\xa0", " ")
    assert "Time 7 min" in page
    assert "60 photos encoded by 2.0 in 5.20 s" in page
    assert "Money not known" in unknown
    assert "Money 0.69 EUR" in page


def test_a_verdict_of_other_held_out_photos_says_so(
    operator: Client, new: ModelVersion, photos: Sequence[bytes]
) -> None:
    items = shop(photos)
    judged(new)
    before = page_of(operator)
    sample_of(photos[6], items[0])

    assert "held-out photos changed since" not in before
    assert "The held-out photos changed since" in page_of(operator)


def test_a_version_that_was_not_measured_is_measured_at_a_click(operator: Client, new: ModelVersion) -> None:
    before = page_of(operator)

    after = text_of(operator.post("/ops/versions/2.0/measure", {"against": "1.0"}, follow=True))

    job = Job.objects.get(kind="evaluate_version")
    assert "2.0 was not measured beside 1.0" in before
    assert (job.payload["version"], job.payload["against"]) == ("2.0", "1.0")
    assert "It is being measured as soon as its turn comes. The job" in after
    assert "It is being measured" in text_of(operator.get(PATH, headers={"HX-Request": "true"}))
    Job.objects.update(state="done")
    assert operator.get(PATH, headers={"HX-Request": "true"})["HX-Refresh"] == "true"


def test_the_one_in_use_offers_the_way_back_and_the_first_one_has_nothing_beside_it(
    operator: Client, data_dir: Path
) -> None:
    versions.default_version_ensure()

    assert "1.0 is the only version there is." in text_of(operator.get("/ops/versions/1.0/verdict"))


def test_the_pages_are_for_operators_alone_and_unknown_versions_are_404(
    operator: Client, new: ModelVersion
) -> None:
    staff = session_client(user_make("sam", is_staff=True), raise_request_exception=False)

    assert staff.get(PATH).status_code == 403
    assert staff.post("/ops/versions/2.0/flips").status_code == 403
    assert operator.get("/ops/versions/7.7/verdict").status_code == 404
    assert operator.get(f"{PATH}?against=7.7").status_code == 404


def test_a_hostile_title_stays_text(operator: Client, new: ModelVersion, photos: Sequence[bytes]) -> None:
    items = shop(photos)
    items[0].title = "<script>alert(1)</script>"
    items[0].save()
    shown = [ItemImage.objects.get(item=item) for item in items]
    stored = intake.image_store(photos[6])
    judged(new, negative=[flip(stored.image_sha256, shown[0], shown[3])])

    assert "<script>alert(1)" not in operator.get(PATH).content.decode()
