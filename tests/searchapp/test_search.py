"""The four ways to ask, on real photos: what comes back, what is refused, and what it costs."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_django import DjangoAssertNumQueries

from ml.retrieval.scoring import Hit, Strength
from ml.retrieval.two_stage import QueryVectors
from searchapp.exceptions import BadImage, IncompatibleVersion, InvalidInput, NotFound, Unavailable
from searchapp.models import GalleryEntry, Item, ModelVersion, Query
from searchapp.services import catalogue, intake, photo_queries, query_log, search, serving, versions
from searchapp.services.search_answers import SearchAnswer, visual_results
from searchapp.services.search_options import SearchOptions
from tests.searchapp.galleries import encode_missing, item_with_photos, shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def items(data_dir: Path, photos: list[bytes]) -> list[Item]:
    return shop(photos)


def skus(answer: SearchAnswer) -> list[str]:
    return [result.sku for result in answer.results]


def options(**values: Any) -> SearchOptions:
    return SearchOptions.parse(values)


def vector_of(entry: GalleryEntry) -> dict[str, Any]:
    embedding = np.frombuffer(bytes(entry.embedding), "<f2").astype(float).tolist()
    return {"code": bytes(entry.code).hex(), "embedding": embedding, "model_version": "1.0"}


class TestByImage:
    def test_a_photo_of_the_catalogue_finds_its_own_item_first(
        self, items: list[Item], photos: list[bytes]
    ) -> None:
        for item, photo in zip(items, photos):
            answer = search.search_by_image(data=photo)
            assert answer.results[0].sku == item.sku
            assert len(answer.results) == 6

    def test_the_answer_has_the_shape_of_the_contract(self, items: list[Item], photos: list[bytes]) -> None:
        answer = search.search_by_image(data=photos[0], options=options(k=1)).as_dict(role_is_anonymous=False)

        assert list(answer) == ["query_id", "model_version", "gallery", "took_ms", "results"]
        assert answer["model_version"] == "1.0"
        assert answer["gallery"] == {"entries": 6, "versions": {"1.0": 6}}
        assert list(answer["took_ms"]) == ["intake", "encode", "shortlist", "rerank", "rows", "total"]
        assert all(took > 0 for took in answer["took_ms"].values())
        assert sum(answer["took_ms"].values()) - answer["took_ms"]["total"] <= answer["took_ms"]["total"]
        photo = items[0].images.get()
        assert answer["results"] == [
            {
                "sku": "apple-0",
                "title": "Red apple",
                "category": "Fruit > Apple",
                "image": f"/media/{photo.path}",
                "thumbnail": f"/media/{photo.thumbnail}",
                "score": answer["results"][0]["score"],
                "strength": answer["results"][0]["strength"],
                "hamming": answer["results"][0]["hamming"],
                "producer": "1.0",
                "provenance": "encoded",
                "why": answer["results"][0]["why"],
            }
        ]
        why = answer["results"][0]["why"]
        assert why["agreeing_bits"] == 128 - answer["results"][0]["hamming"]
        assert f"{why['agreeing_bits']} of 128 code bits agree" in why["stage"]
        assert answer["results"][0]["strength"] in {"strong", "fair", "weak"}

    def test_anonymous_callers_see_scores_of_two_digits_and_no_code(
        self, items: list[Item], photos: list[bytes]
    ) -> None:
        answer = search.search_by_image(data=photos[0])

        open_answer = answer.as_dict(role_is_anonymous=True)
        assert [result["score"] for result in open_answer["results"]] == [
            round(r.score, 2) for r in answer.results
        ]
        row = items[0].images.get().entries.get()
        assert bytes(row.code).hex() not in str(open_answer)
        assert "embedding" not in {key for result in open_answer["results"] for key in result}

    @pytest.mark.usefixtures("data_dir")
    def test_results_are_ordered_by_score_and_each_item_comes_once(self, photos: list[bytes]) -> None:
        item_with_photos("many", photos[:5])
        item_with_photos("one", photos[5:6])
        encode_missing()

        answer = search.search_by_image(data=photos[0])

        assert skus(answer) == ["many", "one"]
        scores = [result.score for result in answer.results]
        assert scores == sorted(scores, reverse=True)

    @pytest.mark.usefixtures("items")
    def test_a_crop_changes_what_is_encoded(self, photos: list[bytes]) -> None:
        whole = search.encode(data=photos[0])
        cropped = search.encode(data=photos[0], crop=intake.Crop.parse("0.25,0.25,0.3,0.3"))

        assert cropped["code"] != whole["code"]

    @pytest.mark.usefixtures("items")
    def test_bad_bytes_are_refused_and_nothing_is_logged(self) -> None:
        with pytest.raises(BadImage):
            search.search_by_image(data=b"%PDF-1.7 not a picture")

        query_log.flush()
        assert not Query.objects.exists()

    @pytest.mark.usefixtures("items")
    def test_a_flood_is_told_to_come_back_soon(
        self, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(photo_queries, "ADMISSION_WAIT_SECONDS", 0.01)
        for _ in range(photo_queries.ADMITTED):
            photo_queries._admission.acquire()
        try:
            with pytest.raises(Unavailable, match="Too many searches") as refused:
                search.search_by_image(data=photos[0])
        finally:
            for _ in range(photo_queries.ADMITTED):
                photo_queries._admission.release()
        assert refused.value.retry_after_seconds >= 1
        assert skus(search.search_by_image(data=photos[0]))[0] == "apple-0"  # a place is free again

    @pytest.mark.usefixtures("items")
    def test_a_refused_picture_gives_its_place_back(self, photos: list[bytes]) -> None:
        for _ in range(photo_queries.ADMITTED + 1):
            with pytest.raises(BadImage):
                search.search_by_image(data=b"nothing")

        assert search.search_by_image(data=photos[0]).results

    @pytest.mark.parametrize("count", [1, 6])
    @pytest.mark.usefixtures("items")
    def test_rows_cost_two_queries_however_many_results(
        self,
        photos: list[bytes],
        count: int,
        django_assert_num_queries: DjangoAssertNumQueries,
    ) -> None:
        serving.follow_once()

        with django_assert_num_queries(4):  # the counter, the pointer, the rows, their tags
            answer = search.search_by_image(data=photos[0], options=options(k=count))

        assert len(answer.results) == count

    @pytest.mark.usefixtures("items")
    @pytest.mark.parametrize(("strength", "shared"), [("strong", ["fresh"]), ("fair", [])])
    def test_why_names_the_tags_shared_with_the_best_match_when_it_is_strong(
        self, items: list[Item], strength: Strength, shared: list[str]
    ) -> None:
        arm = serving.follow_once().champion
        best, other = (item.images.get() for item in (items[1], items[3]))
        hits = [
            Hit(photo.item_id, photo.pk, photo.entries.get().pk, 0.9, 3, 0.9, "1.0", strength)
            for photo in (best, other)
        ]

        assert [result.why["tags"] for result in visual_results(hits, arm)][1] == shared


class TestFilters:
    @pytest.mark.parametrize(
        ("values", "found"),
        [
            ({"category": "Fruit"}, {"apple-0", "apple-1", "apple-2"}),
            ({"category": "Fruit > Apple"}, {"apple-0", "apple-1", "apple-2"}),
            ({"vertical": "landmark"}, set()),
            ({"tag": "red"}, {"apple-1", "apple-2"}),
            ({"tag": ["red", "fresh"]}, {"apple-1", "apple-2"}),
            ({"price_min": "2.5"}, {"apple-1", "apple-2"}),
            ({"price_max": 1.5}, {"apple-0"}),
            ({"price_min": 2, "price_max": 3, "tag": ["red"]}, {"apple-1"}),
        ],
    )
    def test_every_kind_of_query_keeps_to_the_filter(
        self, items: list[Item], photos: list[bytes], values: dict[str, Any], found: set[str]
    ) -> None:
        chosen = options(**values)
        entry = items[5].images.get().entries.get()  # a juice: outside every one of these filters

        assert set(skus(search.search_by_image(data=photos[5], options=chosen))) == found
        assert set(skus(search.search_by_item(sku="juice-2", options=chosen))) == found
        assert set(skus(search.search_by_vector(**vector_of(entry), options=chosen))) == found
        assert set(skus(search.search_by_text(text="apple juice", options=chosen))) == found

    @pytest.mark.parametrize("name", ["category", "tag"])
    @pytest.mark.parametrize("unknown", ["nowhere", "-1", "'; DROP TABLE", "%"])
    @pytest.mark.usefixtures("items")
    def test_an_unknown_category_or_tag_is_named(self, name: str, unknown: str) -> None:
        with pytest.raises(InvalidInput) as refused:
            search.search_by_text(text="apple", options=options(**{name: unknown}))

        assert repr(unknown) in refused.value.message
        assert set(refused.value.fields) == {name}

    @pytest.mark.parametrize(
        "k", [0, -1, 51, 10**9, math.nan, math.inf, "x", "1.5", 2.0, True, None, [], {}, "9" * 40, "٣"]
    )
    def test_k_out_of_range_is_refused_with_what_is_allowed(self, k: object) -> None:
        with pytest.raises(InvalidInput, match="is not a whole number from 1 to 50") as refused:
            options(k=k)

        assert set(refused.value.fields) == {"k"}

    @pytest.mark.parametrize(("k", "read"), [("7", 7), (50, 50), ("", 24), (["3"], 3)])
    def test_k_is_read_from_forms_and_json(self, k: object, read: int) -> None:
        assert options(k=k).k == read

    @pytest.mark.parametrize("name", ["price_min", "price_max"])
    @pytest.mark.parametrize("price", ["-1", "nan", "inf", "x", -0.01, 10**400, True, [1, 2]])
    def test_a_price_that_is_none_is_refused(self, name: str, price: object) -> None:
        with pytest.raises(InvalidInput) as refused:
            options(**{name: price})

        assert set(refused.value.fields) == {name}

    def test_every_wrong_field_is_named_at_once(self) -> None:
        with pytest.raises(InvalidInput) as refused:
            options(k=0, vertical="shop", price_min=5, price_max=1, category="a\x00b", tag=["\ud800"])

        assert set(refused.value.fields) == {"k", "vertical", "price_max", "category", "tag"}


class TestRefine:
    @pytest.mark.usefixtures("items")
    def test_words_order_and_restrict_what_looks_alike(self, photos: list[bytes]) -> None:
        alike = skus(search.search_by_image(data=photos[0]))

        refined = search.search_by_image(data=photos[0], text="orange juice")

        assert skus(refined) == [sku for sku in alike if sku.startswith("juice")]
        assert all(result.why["tags"] == ["orange", "juice"] for result in refined.results)
        assert refined.text == "orange juice"

    @pytest.mark.usefixtures("items")
    def test_an_item_with_more_of_the_words_comes_before_one_that_looks_more_alike(
        self, photos: list[bytes]
    ) -> None:
        answer = search.search_by_image(data=photos[0], text="orange juice fresh apple")

        assert answer.results[0].sku != "apple-0"  # the picture is of apple-0
        assert [result.sku[:5] for result in answer.results] == ["juice"] * 3 + ["apple"] * 3
        assert answer.results[0].why["tags"] == ["orange", "juice", "fresh"]
        assert answer.results[3].sku == "apple-0"
        assert answer.results[3].why["tags"] == ["fresh", "apple"]

    @pytest.mark.usefixtures("items")
    def test_the_score_stays_the_visual_one(self, photos: list[bytes]) -> None:
        visual = {result.sku: result.score for result in search.search_by_image(data=photos[0]).results}

        refined = search.search_by_image(data=photos[0], text="juice")

        assert {result.sku: result.score for result in refined.results}.items() <= visual.items()

    @pytest.mark.usefixtures("items")
    def test_words_that_nothing_alike_holds_find_nothing(self, photos: list[bytes]) -> None:
        assert search.search_by_image(data=photos[0], text="zebra").results == ()


class TestByItem:
    def test_it_leaves_the_item_out_and_finds_the_others(self, items: list[Item]) -> None:
        assert sorted(skus(search.search_by_item(sku="apple-0"))) == sorted(item.sku for item in items[1:])

    @pytest.mark.usefixtures("items")
    def test_it_encodes_nothing_and_opens_no_file(
        self, photos: list[bytes], data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = [sku for sku in skus(search.search_by_image(data=photos[0])) if sku != "apple-0"]
        serving.follow_once()
        (data_dir / "media").rename(data_dir / "no-media")
        monkeypatch.setattr(search, "photo_encoded", None)

        assert skus(search.search_by_item(sku="apple-0"))[0] == expected[0]

    @pytest.mark.usefixtures("data_dir")
    def test_several_photos_ask_and_each_item_keeps_its_best(self, photos: list[bytes]) -> None:
        item_with_photos("pair", photos[:2])
        item_with_photos("like-first", [photos[0]])
        item_with_photos("like-second", [photos[1]])
        item_with_photos("other", [photos[7]])
        encode_missing()

        answer = search.search_by_item(sku="pair")

        assert set(skus(answer)[:2]) == {"like-first", "like-second"}
        assert [result.hamming for result in answer.results[:2]] == [0, 0]
        assert len(answer.results) == 3

    @pytest.mark.usefixtures("items")
    def test_why_names_the_tags_shared_with_the_item(self) -> None:
        answer = search.search_by_item(sku="apple-1")

        assert {result.sku: result.why["tags"] for result in answer.results} == {
            "apple-0": ["fresh"],
            "apple-2": ["fresh", "red"],
            "juice-0": ["fresh"],
            "juice-1": ["fresh"],
            "juice-2": ["fresh"],
        }

    @pytest.mark.usefixtures("items")
    def test_an_item_whose_photos_wait_to_be_encoded_finds_nothing(self, photos: list[bytes]) -> None:
        item_with_photos("pending", photos[8:9])

        assert search.search_by_item(sku="pending").results == ()

    @pytest.mark.parametrize("sku", ["nothing", "", "a\x00b", "x" * 5000])
    @pytest.mark.usefixtures("items")
    def test_an_unknown_item_is_not_found(self, sku: str) -> None:
        with pytest.raises(NotFound):
            search.search_by_item(sku=sku)


class TestByVector:
    def test_a_stored_code_and_embedding_find_their_item(self, items: list[Item]) -> None:
        entry = items[2].images.get().entries.get()

        answer = search.search_by_vector(**vector_of(entry))

        assert answer.results[0].sku == "apple-2"
        assert answer.results[0].hamming == 0

    @pytest.mark.usefixtures("items")
    def test_what_encode_gives_searches_as_the_picture_does(self, photos: list[bytes]) -> None:
        assert skus(search.search_by_vector(**search.encode(data=photos[3]))) == skus(
            search.search_by_image(data=photos[3])
        )

    def test_an_embedding_of_any_length_is_read_by_its_direction(self, items: list[Item]) -> None:
        vector = vector_of(items[2].images.get().entries.get())
        longer = {**vector, "embedding": [1000 * value for value in vector["embedding"]]}

        scores = [[r.score for r in search.search_by_vector(**v).results] for v in (vector, longer)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-5)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"model_version": None}, "model_version"),
            ({"model_version": ""}, "model_version"),
            ({"model_version": 1.0}, "model_version"),
            ({"code": "xyz"}, "code"),
            ({"code": "ab"}, "code"),
            ({"code": "zz" * 16}, "code"),
            ({"code": " " * 32}, "code"),
            ({"code": None}, "code"),
            ({"embedding": [1.0]}, "embedding"),
            ({"embedding": None}, "embedding"),
            ({"embedding": [0.0] * 128}, "embedding"),
            ({"embedding": [math.nan] * 128}, "embedding"),
            ({"embedding": [math.inf] + [0.0] * 127}, "embedding"),
            ({"embedding": [10**400] + [0] * 127}, "embedding"),
            ({"embedding": ["1"] * 128}, "embedding"),
            ({"embedding": [True] * 128}, "embedding"),
        ],
    )
    def test_a_malformed_vector_is_refused_by_the_name_of_its_field(
        self, items: list[Item], change: dict[str, Any], field: str
    ) -> None:
        vector = vector_of(items[2].images.get().entries.get())

        with pytest.raises(InvalidInput) as refused:
            search.search_by_vector(**{**vector, **change})

        assert set(refused.value.fields) == {field}

    def test_an_unknown_version_is_incompatible(self, items: list[Item]) -> None:
        vector = vector_of(items[2].images.get().entries.get())

        with pytest.raises(IncompatibleVersion, match="not known here"):
            search.search_by_vector(**{**vector, "model_version": "7.3"})

    @pytest.mark.usefixtures("items")
    def test_a_version_outside_the_lineage_is_incompatible_whatever_its_sizes(self) -> None:
        stranger = versions.champion().version
        stranger.pk, stranger.major, stranger.digest = None, 2, "a" * 64
        stranger.lineage = "00000000-0000-4000-8000-000000000001"
        stranger.save(force_insert=True)

        with pytest.raises(IncompatibleVersion, match=r"2\.0 cannot be compared with 1\.0"):
            search.search_by_vector(code="00", embedding=[1.0], model_version="2.0")


class TestEmptyAndDeleted:
    @pytest.mark.usefixtures("data_dir")
    def test_an_empty_gallery_answers_with_nothing(self, photos: list[bytes]) -> None:
        answer = search.search_by_image(data=photos[0])

        assert answer.results == ()
        assert answer.as_dict(role_is_anonymous=True)["gallery"] == {"entries": 0, "versions": {}}
        assert search.search_by_text(text="apple").results == ()

    def test_a_deleted_item_is_in_no_answer(self, items: list[Item], photos: list[bytes]) -> None:
        serving.follow_once()

        catalogue.item_delete(item=items[0])

        assert "apple-0" not in skus(search.search_by_image(data=photos[0]))
        assert "apple-0" not in skus(search.search_by_text(text="apple"))
        assert "apple-0" not in skus(search.search_by_item(sku="apple-1"))

    def test_a_row_that_went_after_the_view_was_read_is_dropped_not_invented(
        self, items: list[Item], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stale = serving.follow_once()
        catalogue.item_delete(item=items[0])
        monkeypatch.setattr(serving, "current", lambda: stale)

        answer = search.search_by_image(data=photos[0])

        assert len(answer.results) == 5
        assert "apple-0" not in skus(answer)


def test_one_item_with_a_thousand_photos_leaves_room_for_the_others(
    data_dir: Path, photos: list[bytes]
) -> None:
    """The pool grows until k items are found: the crowd fills the first pools alone."""
    crowd = item_with_photos("crowd", photos[:1])
    others = [item_with_photos(f"other-{n}", [photos[n + 1]]) for n in range(9)]
    encode_missing()
    version = versions.champion().version
    first = crowd.images.get()
    row = first.entries.get()
    copies = []
    for number in range(1000):
        first.pk, first.upload_sha256 = None, f"{number:064d}"
        first._state.adding = True
        copies.append(
            type(first)(**{f.attname: getattr(first, f.attname) for f in first._meta.concrete_fields})
        )
    from searchapp.models import ItemImage

    ItemImage.objects.bulk_create(copies)
    from searchapp.services.gallery import NewEntry, entries_add, gallery_transaction

    images = ItemImage.objects.filter(item=crowd, entries__isnull=True)
    with gallery_transaction() as changes:
        entries = [NewEntry(i.pk, i.image_sha256, bytes(row.code), bytes(row.embedding)) for i in images]
        entries_add(changes, version=version, entries=entries)

    answer = search.search_by_image(data=photos[0], options=options(k=10))

    assert skus(answer)[0] == "crowd"
    assert sorted(skus(answer)[1:]) == sorted(item.sku for item in others)
    assert answer.entries == 1010


def test_the_served_answer_equals_the_exact_search_over_all_rows(
    items: list[Item], photos: list[bytes]
) -> None:
    """The oracle shares no code with the index: plain numpy over the rows, the same calibration."""
    arm = serving.follow_once().champion
    calibration = arm.calibrations["1.0"]
    made = search.encode(data=photos[4])
    code = np.unpackbits(np.frombuffer(bytes.fromhex(made["code"]), np.uint8))
    vectors = QueryVectors(np.packbits(code), np.array(made["embedding"], np.float32))
    expected = []
    for entry in GalleryEntry.objects.select_related("image__item"):
        hamming = int((np.unpackbits(np.frombuffer(bytes(entry.code), np.uint8)) != code).sum())
        cosine = float(np.frombuffer(bytes(entry.embedding), "<f2").astype(np.float32) @ vectors.embedding)
        logit = (
            calibration.intercept
            + calibration.code_weight * (1 - 2 * hamming / 128)
            + calibration.embedding_weight * cosine
        )
        expected.append((entry.image.item.sku, hamming, 1 / (1 + math.exp(-logit))))
    expected.sort(key=lambda row: -row[2])

    found = search.search_by_image(data=photos[4]).results

    assert [(r.sku, r.hamming) for r in found] == [(sku, hamming) for sku, hamming, _ in expected]
    assert [r.score for r in found] == pytest.approx([score for _, _, score in expected], abs=1e-4)


def test_entries_that_nobody_measured_are_read_like_the_versions_own(
    items: list[Item], photos: list[bytes]
) -> None:
    other: ModelVersion = versions.champion().version
    for number, digest in (((2, 0), "b"), ((1, 1), "c")):
        other.pk, (other.major, other.minor), other.digest = None, number, digest * 64
        other.save(force_insert=True)

    calibrations = serving.follow_once().champion.calibrations
    assert set(calibrations) == {"1.0", "1.1", "2.0"}
    assert calibrations["1.1"] == calibrations["2.0"] == calibrations["1.0"]


def test_search_never_loads_torch() -> None:
    code = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'searchapp.settings.test';"
        "import ml.threads, django; django.setup();"
        "import searchapp.services.search, searchapp.services.query_log; sys.exit('torch' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
