"""Words in the code space: what they find, in which order, with which reason, and when the database answers alone."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from searchapp.models import Category, Item, ModelVersion
from searchapp.services import catalogue, search, serving, text_search, word_search
from searchapp.services.search_answers import SearchAnswer
from searchapp.services.search_options import SearchOptions
from tests.searchapp.galleries import item_with_photos
from tests.searchapp.spoken import ORCHARD, STABLE, coded, flipped, version_that_knows_words

pytestmark = [pytest.mark.django_db, pytest.mark.database]

UNKNOWN = ["zwiebelkuchen", "qxzv", "りんご", "سيارة", "лестница", "paraguas"]


@pytest.fixture
def shop(settings: Settings, data_dir: Path, photos: list[bytes]) -> dict[str, Item]:
    """Three items in the orchard's place, two in the stable's, and two without a photo, which say what it is called."""
    version_that_knows_words(settings, data_dir)
    items = {
        "braeburn": item_with_photos("braeburn", photos[:1], "Fruit", title="Red apple, one kilogram, loose"),
        "cox": item_with_photos("cox", photos[1:2], "Fruit", title="Cox orange"),
        "pear": item_with_photos("pear", photos[2:3], "Fruit", title="Red pear"),
        "saddle": item_with_photos("saddle", photos[3:4], "Riding", title="Saddle for a brown mare"),
        "sign": item_with_photos("sign", photos[4:5], "Riding", title="Apple"),
        "book": item_with_photos("book", [], "Books", title="The apple book"),
        "guide": item_with_photos("guide", [], "Books", title="Your orchard, your stable"),
    }
    for sku, code in {
        "braeburn": ORCHARD,
        "cox": flipped(ORCHARD, 3),  # similarity 0.953
        "pear": flipped(ORCHARD, 20),  # 0.6875
        "saddle": flipped(STABLE, 2),
        "sign": STABLE,
    }.items():
        coded(items[sku], code)
    return items


def said(text: str, **options: Any) -> SearchAnswer:
    return search.search_by_text(text=text, options=SearchOptions.parse(options))


def found(answer: SearchAnswer) -> list[tuple[str, float, str]]:
    return [(result.sku, round(result.score, 3), result.strength) for result in answer.results]


@pytest.mark.usefixtures("shop")
class TestWordsThatNobodyWrote:
    def test_they_find_what_lies_where_such_things_lie_and_promise_little(self) -> None:
        assert found(said("orchard")) == [
            ("guide", 0.75, "strong"),  # the word itself, and no photo to look at
            ("braeburn", 0.5, "weak"),
            ("cox", 0.488, "weak"),
            ("pear", 0.422, "weak"),
        ]

    def test_the_api_tells_the_photo_the_entry_and_the_bits(self, shop: dict[str, Item]) -> None:
        result = said("orchard").results[2].as_dict(role_is_anonymous=False)

        photo = shop["cox"].images.get()
        assert (result["hamming"], result["producer"], result["provenance"]) == (3, "1.0", "encoded")
        assert result["image"] == f"/media/{photo.path}"
        assert result["why"] == {
            "stage": "Found by what its picture shows (125 of 128 code bits agree): nobody wrote “orchard” of it, "
            "but it looks like things that are called so.",
            "agreeing_bits": 125,
            "code_bits": 128,
            "tags": [],
            "producer": "1.0",
        }

    def test_filters_act_before_the_cut(self) -> None:
        assert [result.sku for result in said("orchard", k=1, category="Riding").results] == []
        assert [result.sku for result in said("stable", k=1, category="Riding").results] == ["sign"]
        assert [result.sku for result in said("orchard", k=2, category="Fruit").results] == [
            "braeburn",
            "cox",
        ]

    def test_a_page_says_so_in_plain_words(self, client: Client) -> None:
        shown = re.sub(r"\s+", " ", client.get("/", {"q": "orchard"}).content.decode())

        assert "Found by what its picture shows: nobody wrote “orchard” of it" in shown
        assert "4 results, 1 strong" in shown
        assert "bits" not in shown
        assert "Hamming" not in shown

    def test_an_item_that_goes_before_its_row_is_read_is_left_out(
        self, shop: dict[str, Item], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stale = serving.follow_once()
        catalogue.item_delete(item=shop["braeburn"])
        monkeypatch.setattr(serving, "current", lambda: stale)

        assert [result.sku for result in said("orchard").results] == ["guide", "cox", "pear"]


@pytest.mark.usefixtures("shop")
class TestWordsThatWereWritten:
    def test_items_with_every_word_stay_first_the_nearer_before_the_others_and_one_without_photo_between(
        self,
    ) -> None:
        """The database alone puts the shortest text first, which is the sign; its picture shows a horse."""
        answer = said("apple")
        database = text_search.items_matching(words=("apple",), among=Item.objects.all(), limit=24)

        skus = [result.sku for result in answer.results]
        assert skus == ["braeburn", "book", "sign", "cox", "pear"]
        assert {match.item_id: match.score for match in database}.keys() == {
            result.item_id for result in answer.results[:3]
        }
        assert [result.strength for result in answer.results] == ["strong"] * 3 + ["weak"] * 2
        assert [round(result.score, 4) for result in answer.results[:3]] == [1.0, 0.75, 0.6875]

    def test_an_exact_match_far_away_does_not_sink_under_lookalikes(self, shop: dict[str, Item]) -> None:
        catalogue.item_update(item=shop["saddle"], title="Orchard saddle")

        answer = found(said("orchard"))

        assert [sku for sku, *_ in answer] == ["guide", "saddle", "braeburn", "cox", "pear"]
        assert [strength for *_, strength in answer[:2]] == ["strong", "strong"]

    def test_they_say_which_words_matched_and_show_the_first_photo(self, shop: dict[str, Item]) -> None:
        answer = said("red apple")

        reasons = {result.sku: result.why["stage"] for result in answer.results}
        assert reasons["braeburn"] == "Found by its words: red, apple."
        assert reasons["sign"] == "Found by its words: apple."
        assert reasons["cox"].startswith("Found by what its picture shows")
        assert answer.results[0].hamming is None
        assert answer.results[0].provenance is None
        assert answer.results[0].thumbnail == f"/media/{shop['braeburn'].images.get().thumbnail}"

    def test_of_those_with_none_of_the_words_the_nearest_few_are_shown_and_all_that_have_some(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(word_search, "MOST_UNSAID", 1)
        monkeypatch.setattr(word_search, "POOL", 1)

        assert [sku for sku, *_ in found(said("orchard"))] == ["guide", "braeburn"]
        assert [sku for sku, *_ in found(said("red orchard", k=3, category="Fruit"))] == [
            "braeburn", "pear", "cox",
        ]  # fmt: skip

    def test_beyond_the_pool_words_still_count_for_what_is_near(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(word_search, "POOL", 1)

        answer = said("apple", k=1)

        assert found(answer) == [("braeburn", 1.0, "strong")]
        assert answer.results[0].why["stage"] == "Found by its words: apple."


@pytest.mark.usefixtures("shop")
class TestUnknownWords:
    """The taught head knows two places and would put any word near one of them."""

    @pytest.mark.parametrize("text", UNKNOWN)
    def test_words_that_no_item_holds_find_nothing(self, text: str) -> None:
        assert found(said(text)) == []

    @pytest.mark.parametrize("stranger", UNKNOWN)
    def test_beside_known_words_they_are_not_asked_of_the_code_nor_claimed_to_be_shown(
        self, stranger: str
    ) -> None:
        alone, beside = ({r.sku: r for r in said(text).results} for text in ("apple", f"apple {stranger}"))

        assert beside.keys() == alone.keys()
        assert {result.strength for result in beside.values()} == {"fair", "weak"}
        assert {sku: result.hamming for sku, result in beside.items()} == {
            sku: result.hamming for sku, result in alone.items()
        }
        assert "nobody wrote “apple” of it" in beside["cox"].why["stage"]

    def test_the_beginning_of_a_word_is_not_known_and_left_to_the_database(self) -> None:
        assert [sku for sku, *_ in found(said("orch"))] == ["guide"]

    def test_words_of_a_category_that_is_not_learned_yet_are_left_to_the_database(self) -> None:
        blanket = item_with_photos("blanket", [], "Blankets", title="Horse blanket")
        Category.objects.filter(pk=blanket.category_id).update(learn_asked_at=timezone.now())
        before = [sku for sku, *_ in found(said("horse"))]

        ModelVersion.objects.update(label_registry=[blanket.category.slug])
        serving.forget()

        assert before == ["blanket"]
        assert [sku for sku, *_ in found(said("horse"))] == ["blanket", "sign", "saddle"]

    def test_words_near_nothing_in_the_gallery_add_nothing(self, shop: dict[str, Item]) -> None:
        for sku in ("braeburn", "cox", "pear"):
            catalogue.item_delete(item=shop[sku])

        assert found(said("orchard")) == [("guide", 0.75, "strong")]

    def test_words_that_say_nothing_find_nothing_and_do_not_move_others(self) -> None:
        assert found(said("the")) == []
        assert found(said("in the orchard")) == found(said("orchard"))


@pytest.mark.usefixtures("shop")
class TestRefining:
    def test_what_shows_the_words_stays_after_what_has_them(
        self, shop: dict[str, Item], photos: list[bytes]
    ) -> None:
        catalogue.item_update(item=shop["saddle"], title="Orchard saddle")

        answer = search.search_by_image(data=photos[2], text="orchard")

        assert answer.results[0].sku == "saddle"
        assert len(answer.results) == 4
        alike = [result.sku for result in search.search_by_image(data=photos[2]).results]
        assert [result.sku for result in answer.results[1:]] == [
            sku for sku in alike if sku in {"braeburn", "cox", "pear"}
        ]
        assert answer.results[0].why["tags"] == ["orchard"]
        assert answer.results[1].why["tags"] == []
        assert answer.results[1].why["stage"].startswith("Among what looks most alike (")
        assert (
            answer.results[1]
            .why["stage"]
            .endswith("): nobody wrote “orchard” of it, but it looks like things that are called so.")
        )

    def test_the_score_stays_the_visual_one(self, photos: list[bytes]) -> None:
        visual = {result.sku: result.score for result in search.search_by_image(data=photos[0]).results}
        refined = search.search_by_image(data=photos[0], text="orchard").results

        assert len(refined) == 3
        assert {result.sku: result.score for result in refined}.items() <= visual.items()

    @pytest.mark.parametrize("text", UNKNOWN)
    def test_words_that_no_item_holds_leave_nothing(self, photos: list[bytes], text: str) -> None:
        assert search.search_by_image(data=photos[0], text=text).results == ()


@pytest.mark.usefixtures("shop")
def test_as_many_queries_for_one_result_as_for_many(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    serving.follow_once()

    with django_assert_max_num_queries(11):
        assert len(said("red apple orchard", k=50).results) == 6


def test_a_gallery_without_entries_answers_by_its_words(settings: Settings, data_dir: Path) -> None:
    version_that_knows_words(settings, data_dir)
    item_with_photos("book", [], "Books", title="The apple book")

    assert found(said("apple")) == [("book", 0.75, "strong")]
    assert found(said("orchard")) == []
