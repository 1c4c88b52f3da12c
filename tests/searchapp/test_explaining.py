"""What in a photo matched a result: the API's answer, the page, who may see what, and what it costs."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.test import Client

from ml.retrieval.occlusion import GRID, occlusion_map
from searchapp.exceptions import NotFound, TooManyRequests, Unavailable
from searchapp.models import Item, ItemImage, Query
from searchapp.services import explaining, query_log, search, throttling
from searchapp.services.explaining import EXPLANATION_COST, explain_item
from tests.searchapp.api_cast import error_of, key_client, photo_file, user_make
from tests.searchapp.galleries import encode_missing, item_with_photos, shop
from tests.searchapp.test_pages_search import sample_of, text_of, upload

pytestmark = [pytest.mark.django_db, pytest.mark.database]
SEARCH, PAGE = "/api/v1/search", "/search/explain"


@pytest.fixture(autouse=True)
def _nothing_cached() -> None:
    cache.clear()


@pytest.fixture
def items(data_dir: Path, photos: list[bytes]) -> list[Item]:
    return shop(photos)


def ask(client: Client, data: bytes, **fields: Any) -> Any:
    return client.post(SEARCH, {"image": photo_file(data), **fields})


# --- the API


def test_explain_adds_the_heat_map_of_the_best_result_in_numbers_and_words(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    plain = ask(anonymous, photos[1]).json()

    answer = ask(anonymous, photos[1], explain="true").json()

    found = answer["explanation"]
    assert found["sku"] == answer["results"][0]["sku"] == "apple-1"
    assert (found["rows"], found["columns"]) == (GRID, GRID)
    heat = np.array(found["heat"])
    assert heat.shape == (GRID, GRID)
    assert (heat.min(), heat.max()) == (0.0, 1.0) or heat.min() > 0
    assert found["is_flat"] is False
    assert re.fullmatch(r"(Most of t|T)he match came from .+ your photo\.", found["summary"])
    assert 0 < answer["took_ms"]["explain"] < answer["took_ms"]["total"]
    assert answer["results"] == plain["results"]
    assert not {"explanation"} & plain.keys()
    assert "explain" not in plain["took_ms"]


def test_another_of_the_results_is_explained_by_its_sku_and_has_another_map(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    best = ask(anonymous, photos[1], explain="1").json()["explanation"]
    other = ask(anonymous, photos[1], explain_sku="juice-2").json()["explanation"]

    assert (best["sku"], other["sku"]) == ("apple-1", "juice-2")
    assert best["heat"] != other["heat"]


def test_a_crop_is_what_the_map_lies_over(items: list[Item], photos: list[bytes], anonymous: Client) -> None:
    whole = ask(anonymous, photos[1], explain="true").json()["explanation"]
    part = ask(anonymous, photos[1], explain="true", crop="0.2,0.2,0.5,0.5").json()["explanation"]

    assert part["heat"] != whole["heat"]
    assert part["summary"].endswith("your crop.") or "your crop changes" in part["summary"]


def test_anonymous_callers_see_tenths_and_only_a_key_sees_what_was_lost(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    seen = ask(anonymous, photos[1], explain="true").json()["explanation"]
    known = ask(key_client(user_make("kim")), photos[1], explain="true").json()["explanation"]

    assert set(seen) == {"sku", "rows", "columns", "heat", "is_flat", "summary"}
    assert set(known) - set(seen) == {"drops", "log_odds"}
    values = np.array(seen["heat"])
    assert np.array_equal(values, np.round(values, 1))
    drops = np.array(known["drops"])
    assert np.abs(np.clip(drops / drops.max(), 0, 1) - values).max() <= 0.051
    entry = items[1].images.get().entries.get()
    assert bytes(entry.code).hex() not in json.dumps([seen, known])


def test_a_search_that_finds_nothing_has_nothing_to_explain(
    data_dir: Path, photos: list[bytes], anonymous: Client
) -> None:
    item_with_photos("waits", [photos[0]])  # not encoded

    answer = ask(anonymous, photos[0], explain="true").json()

    assert (answer["results"], answer["explanation"]) == ([], None)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"explain": "maybe"}, ("explain", "allowed: true or false")),
        ({"explain": "false", "explain_sku": "apple-1"}, ("explain", "contradicts explain_sku")),
        ({"explain_sku": "nobody"}, ("explain_sku", "'nobody' is not among the 6 results")),
        ({"explain_sku": "juice-2", "k": "1"}, ("explain_sku", "not among the 1 results")),
    ],
)
def test_an_explanation_that_cannot_be_given_is_refused_by_name(
    items: list[Item],
    photos: list[bytes],
    anonymous: Client,
    fields: dict[str, str],
    problem: tuple[str, str],
) -> None:
    error = error_of(ask(anonymous, photos[0], **fields), 400)

    named, said = problem
    assert error["code"] == "invalid_input"
    assert said in error["fields"][named]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text": "apple", "explain": True}, "this one asks by words"),
        ({"sku": "apple-0", "explain": "true"}, "this one asks by an item"),
        ({"text": "apple", "explain_sku": "apple-0"}, "Only a search by picture can be explained"),
        ({"text": "apple", "explain": []}, "explain must be text"),
    ],
)
def test_only_a_search_by_picture_can_be_explained(
    items: list[Item], anonymous: Client, body: dict[str, Any], said: str
) -> None:
    refused = anonymous.post(SEARCH, json.dumps(body), content_type="application/json")

    assert said in error_of(refused, 400)["message"]
    allowed = json.dumps({"text": "apple", "explain": False})
    assert anonymous.post(SEARCH, allowed, content_type="application/json").status_code == 200


# --- the page


def test_the_page_shows_the_photo_under_its_heat_in_words_and_stores_and_logs_nothing(
    client: Client, items: list[Item], photos: list[bytes], data_dir: Path
) -> None:
    first = client.post("/search", {"image": upload(photos[1])}).content.decode()
    kept = re.search(r'name="kept" value="([^"]+)"', first)
    button = re.search(r'<button[^>]*name="explain" value="apple-1"[^>]*>', first)
    assert kept is not None
    assert button is not None
    assert 'form="query"' in button[0]
    assert f'formaction="{PAGE}"' in button[0]
    query_log.flush()
    before = sorted(path for path in data_dir.rglob("*") if path.is_file()), Query.objects.count()

    response = client.post(PAGE, {"kept": kept[1], "explain": "apple-1", "category": "fruit"})

    assert response.status_code == 200
    html, words = response.content.decode(), text_of(response)
    assert re.search(r"(Most of t|T)he match came from .+ your photo\.", words)
    assert "Bright, inside the line: mattered most" in words
    assert html.count("data:image/jpeg;base64,") == 2  # shown, and carried back
    assert 'role="img"' in html
    assert " style=" not in html
    assert re.search(r'name="category" value="fruit"', html)  # the way back asks the same again
    query_log.flush()
    assert (sorted(path for path in data_dir.rglob("*") if path.is_file()), Query.objects.count()) == before


def test_htmx_gets_the_fragment_and_a_sample_photo_needs_no_form(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    sample = sample_of(photos[7], items[0])
    button = re.search(
        r'<button[^>]*name="explain"[^>]*>', client.get("/", {"sample": sample.pk}).content.decode()
    )

    asked = {"sample": str(sample.pk), "explain": "apple-0"}
    whole = client.get(PAGE, asked)
    part = client.get(PAGE, asked, headers={"HX-Request": "true"})

    assert button is not None
    assert 'formmethod="get"' in button[0]
    assert (whole.status_code, part.status_code) == (200, 200)
    assert "<html" in whole.content.decode()
    assert "<html" not in part.content.decode()
    assert part["Vary"] == "HX-Request, Cookie"
    assert f'href="/?sample={sample.pk}#results"' in whole.content.decode()


def test_words_and_items_have_no_photo_to_explain(client: Client, items: list[Item]) -> None:
    for query in ({"q": "apple"}, {"sku": "apple-0"}):
        assert 'name="explain"' not in client.get("/", query).content.decode().split("<template")[0]
    assert client.get(PAGE, {"q": "apple", "explain": "apple-0"})["Location"] == "/?q=apple"


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"explain": "apple-0"}, (400, "Choose the photo again")),
        ({"explain": "nobody", "image": 0}, (404, "There is no item 'nobody'.")),
        ({"explain": "waits", "image": 0}, (404, "is encoded yet")),
        ({"explain": "apple-0", "image": 0, "crop_x": "200"}, (400, "A crop edge is '200'")),
        ({"explain": "apple-0", "kept": "data:image/jpeg;base64,%%"}, (400, "is damaged")),
    ],
)
def test_each_refusal_is_a_sentence_and_a_next_step(
    client: Client, items: list[Item], photos: list[bytes], fields: dict[str, Any], answer: tuple[int, str]
) -> None:
    item_with_photos("waits", [photos[9]])
    if "image" in fields:
        fields = {**fields, "image": upload(photos[0])}

    response = client.post(PAGE, fields)

    status, said = answer
    assert response.status_code == status
    assert said in text_of(response)
    assert "Start over" in text_of(response)


# --- the service


@pytest.mark.usefixtures("items")
def test_a_page_explains_what_the_search_would(photos: list[bytes]) -> None:
    searched = search.search_by_image(data=photos[1], explain="apple-0").explanation
    assert searched is not None

    shown = explain_item(data=photos[1], sku="apple-0")

    assert np.array_equal(shown.explanation.drops, searched.drops)
    assert shown.item.sku == "apple-0"
    assert shown.image == shown.item.images.get()
    assert shown.took_ms["explain"] > 0


def test_of_several_photos_the_one_that_was_found_is_explained(data_dir: Path, photos: list[bytes]) -> None:
    item = item_with_photos("pair", [photos[0], photos[5]])
    encode_missing()

    assert explain_item(data=photos[5], sku="pair").image == item.images.all()[1]
    assert explain_item(data=photos[0], sku="pair").image == item.images.all()[0]


@pytest.mark.usefixtures("items")
def test_one_explanation_runs_at_a_time_and_searches_go_on(
    photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "WAIT_SECONDS", 0.01)
    with explaining._one_at_a_time:
        with pytest.raises(Unavailable, match="Too many explanations at once"):
            explain_item(data=photos[0], sku="apple-0")
        assert search.search_by_image(data=photos[0]).results

    assert explain_item(data=photos[0], sku="apple-0").explanation.sku == "apple-0"


@pytest.mark.usefixtures("items")
def test_a_refused_photo_or_item_gives_its_place_back(photos: list[bytes]) -> None:
    with pytest.raises(NotFound):
        explain_item(data=photos[0], sku="no\x00body")

    assert explaining._one_at_a_time.acquire(blocking=False)
    explaining._one_at_a_time.release()


def test_a_matched_photo_that_is_deleted_meanwhile_is_not_found(
    items: list[Item], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deletes(*args: Any, **options: Any) -> Any:
        ItemImage.objects.filter(item__sku="apple-0").delete()
        return occlusion_map(*args, **options)

    monkeypatch.setattr(explaining, "occlusion_map", deletes)

    with pytest.raises(NotFound, match="The photo of item 'apple-0' that matched is no longer there"):
        explain_item(data=photos[0], sku="apple-0")


# --- what it counts as


class Clock:
    now = 1_800_000_000.0 - 1_800_000_000.0 % 3600  # the start of an hour

    def time(self) -> float:
        return self.now


@pytest.fixture
def limits(settings: Any) -> Any:
    settings.ANON_SEARCH_RATE = f"{EXPLANATION_COST + 3}/hour"
    settings.ANON_ITEM_BUDGET = 0
    return settings


def test_an_explanation_counts_as_many_searches_and_a_refused_one_as_none(
    limits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttling, "time", Clock())
    throttling.search_spend(client="1.2.3.4", calls=EXPLANATION_COST)

    with pytest.raises(TooManyRequests):
        throttling.search_spend(client="1.2.3.4", calls=EXPLANATION_COST)

    for _ in range(3):
        throttling.search_spend(client="1.2.3.4")
    with pytest.raises(TooManyRequests):
        throttling.search_spend(client="1.2.3.4")


def test_who_waits_as_told_gets_an_explanation_even_when_it_is_more_than_a_whole_share(
    limits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits.ANON_SEARCH_RATE = f"{EXPLANATION_COST // 2}/hour"
    clock = Clock()
    monkeypatch.setattr(throttling, "time", clock)
    throttling.search_spend(client="1.2.3.4")
    with pytest.raises(TooManyRequests) as refused:
        throttling.search_spend(client="1.2.3.4", calls=EXPLANATION_COST)

    clock.now += refused.value.retry_after_seconds

    throttling.search_spend(client="1.2.3.4", calls=EXPLANATION_COST)


def test_a_low_rate_still_admits_an_explained_search_and_then_nothing_more(
    items: list[Item], photos: list[bytes], limits: Any, anonymous: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits.ANON_SEARCH_RATE = f"{EXPLANATION_COST}/min"
    monkeypatch.setattr(throttling, "time", Clock())

    assert ask(anonymous, photos[0], explain="true").status_code == 200
    assert ask(anonymous, photos[0]).status_code == 429


def test_api_and_page_both_count_it_and_keys_are_not_counted(
    items: list[Item], photos: list[bytes], limits: Any, anonymous: Client
) -> None:
    key = key_client(user_make("kim"))
    assert ask(anonymous, photos[0], explain="true").status_code == 200  # 1 + EXPLANATION_COST

    refused = anonymous.post(PAGE, {"image": upload(photos[0]), "explain": "apple-0"})
    assert refused.status_code == 429
    assert int(refused["Retry-After"]) > 0
    assert "That was a lot of searches" in text_of(refused)
    assert ask(anonymous, photos[0]).status_code == 200
    assert error_of(ask(anonymous, photos[0], explain="true"), 429)["code"] == "too_many_requests"
    for _ in range(3):
        assert ask(key, photos[0], explain="true").status_code == 200


def test_a_page_s_item_counts_against_the_items_an_address_may_see(
    items: list[Item], photos: list[bytes], settings: Any, anonymous: Client
) -> None:
    settings.ANON_ITEM_BUDGET = 1
    fields = {"explain": "apple-0"}

    assert anonymous.post(PAGE, {**fields, "image": upload(photos[0])}).status_code == 200
    assert anonymous.post(PAGE, {**fields, "image": upload(photos[0])}).status_code == 200  # the same item
    fields["explain"] = "apple-1"
    assert anonymous.post(PAGE, {**fields, "image": upload(photos[0])}).status_code == 429


# --- the command


def test_the_command_explains_a_picture_and_refuses_words(
    items: list[Item], photos: list[bytes], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(photos[1])
    said = io.StringIO()

    call_command("search", str(photo), "--explain", "apple-0", stdout=said)
    call_command("search", str(photo), "--explain", "--json", stdout=(answered := io.StringIO()))

    assert re.search(r"^apple-0: .+your photo", said.getvalue(), re.MULTILINE)
    found = json.loads(answered.getvalue())["explanation"]
    assert found["sku"] == "apple-1"
    assert np.array(found["drops"]).shape == (GRID, GRID)
    with pytest.raises(CommandError, match="only a search by picture") as refused:
        call_command("search", text="apple", explain="")
    assert refused.value.returncode == 2
