"""Words against the catalogue's words, on both databases: the same items, whatever is typed."""

from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from searchapp.exceptions import InvalidInput
from searchapp.models import Item, Query
from searchapp.services import catalogue, query_log, search, serving, text_search
from searchapp.services.search_options import SearchOptions

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("data_dir")]


def item(sku: str, title: str, category: str = "Shop", **fields: Any) -> Item:
    found = catalogue.category_ensure(category, vertical="product")
    return catalogue.item_create(sku=sku, title=title, category=found, **fields)


@pytest.fixture
def hats() -> None:
    item("hat", "Red wool hat", tags=["winter"])
    item("hats", "Two red hats", description="for walking in the snow")
    item("scarf", "Red scarf", price="12.50")
    item("cafe", "Café crème", "Food > Drink")
    item("pear", "Pears from Anjou", "Food > Fruit")


def found(text: str, **options: object) -> list[tuple[str, float, str]]:
    answer = search.search_by_text(text=text, options=SearchOptions.parse(options))
    return [(result.sku, round(result.score, 3), result.strength) for result in answer.results]


@pytest.mark.usefixtures("hats")
class TestMatching:
    def test_every_word_found_is_a_strong_match_and_comes_first(self) -> None:
        assert found("red wool hat") == [
            ("hat", 1.0, "strong"),
            ("hats", 0.667, "fair"),
            ("scarf", 0.333, "weak"),
        ]

    def test_word_forms_and_case_are_one(self) -> None:
        assert {sku for sku, score, _ in found("HATS") if score == 1.0} == {"hat", "hats"}
        assert found("pear") == [("pear", 1.0, "strong")]

    def test_tags_category_and_description_count(self) -> None:
        assert found("winter") == [("hat", 1.0, "strong")]
        assert found("fruit") == [("pear", 1.0, "strong")]
        assert found("snow") == [("hats", 1.0, "strong")]

    def test_the_beginning_of_a_word_counts_half(self) -> None:
        assert found("scar") == [("scarf", 0.5, "fair")]
        assert found("wool sca") == [("hat", 0.5, "fair"), ("scarf", 0.25, "weak")]

    def test_unknown_words_degrade_gently(self) -> None:
        assert found("zebra") == []
        assert found("red zebra umbrella scarf")[0] == ("scarf", 0.5, "fair")

    def test_words_that_say_nothing_do_not_count(self) -> None:
        assert found("the hat and the scarf") == found("hat scarf")
        assert found("the") == []

    def test_why_names_the_words_that_matched(self) -> None:
        answer = search.search_by_text(text="red wool zebra")

        assert answer.results[0].why == {"stage": "Found by its words: red, wool.", "tags": ["red", "wool"]}
        assert (answer.results[0].hamming, answer.results[0].producer, answer.results[0].image) == (
            None,
            None,
            None,
        )

    def test_filters_act_before_the_cut(self) -> None:
        assert [sku for sku, *_ in found("red", k=1, price_max=20)] == ["scarf"]
        assert {sku for sku, *_ in found("red anjou café", category="Food")} == {"cafe", "pear"}

    def test_a_changed_item_is_found_by_its_new_words_alone(self) -> None:
        catalogue.item_update(item=Item.objects.get(sku="scarf"), title="Green shawl")

        assert found("scarf") == []
        assert found("shawl") == [("scarf", 1.0, "strong")]

    @pytest.mark.parametrize(
        "text",
        ['"', "'red' OR 1=1", "red*", "(red", "red AND", "NEAR(red, 2)", "red & | !", "^red", "red:*",
         "-red", "red -- x",
         "red; DROP TABLE searchapp_item", "{red}", "search_text:red", "red\x00wool", "%red%", "\\", "red\t\nwool"],
    )  # fmt: skip
    def test_query_syntax_is_only_words(self, text: str) -> None:
        if any(letter.isalnum() for letter in text):
            assert {sku for sku, *_ in found(text)} >= {"hat", "hats", "scarf"}
        else:
            with pytest.raises(InvalidInput):
                found(text)
        assert Item.objects.count() == 5

    @pytest.mark.parametrize("text", ["", "   ", "!!!", "\x00", "\ud800", "😀"])
    def test_a_query_without_a_word_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput, match="holds no word") as refused:
            found(text)
        assert set(refused.value.fields) == {"text"}

    def test_a_very_long_query_is_refused_with_the_limit(self) -> None:
        with pytest.raises(InvalidInput, match="301 characters; at most 300"):
            found("a" * 301)

    def test_words_of_any_script_are_looked_for(self) -> None:
        item("tea", "緑茶 green tea")

        assert found("緑茶")[0] == ("tea", 1.0, "strong")

    def test_as_many_queries_for_one_result_as_for_many(
        self, django_assert_max_num_queries: DjangoAssertNumQueries
    ) -> None:
        serving.follow_once()

        with django_assert_max_num_queries(7):
            assert len(found("red", k=50)) == 3


@pytest.mark.usefixtures("hats")
def test_accents_are_folded_where_the_database_can() -> None:
    """SQLite's tokenizer folds them; PostgreSQL needs an extension for that, and the shopper's own spelling works."""
    assert found("café")[0][:2] == ("cafe", 1.0)


def test_only_the_first_eight_words_count() -> None:
    assert text_search.query_words("one two three four five six seven eight nine ten") == (
        "one", "two", "three", "four", "five", "six", "seven", "eight",
    )  # fmt: skip


def test_a_text_query_is_logged_as_such() -> None:
    item("hat", "Red hat")
    answer = search.search_by_text(text="red hat")

    query_log.flush()

    row = Query.objects.get(pk=answer.query_id)
    assert (row.kind, row.text, row.result_skus, row.strong_count) == ("text", "red hat", ["hat"], 1)
