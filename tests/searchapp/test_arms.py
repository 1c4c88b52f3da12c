"""Candidates beside the champion as a search meets them: faults cost no shopper an answer, shadows are never shown."""

import time
from unittest.mock import Mock

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from searchapp.exceptions import BadImage
from searchapp.models import Click, Deployment, Query
from searchapp.services import query_log, search, serving, shadowing
from tests.searchapp.canaries import break_arm, canary, candidate_deployed
from tests.searchapp.galleries import shop

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("data_dir")]


class TestFaults:
    def test_when_the_candidate_fails_the_champion_answers_and_the_failure_is_counted(
        self, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deployment = canary(photos)
        assert search.search_by_image(data=photos[0], visitor="somebody").arm == "candidate"
        break_arm(monkeypatch, "candidate")

        answer = search.search_by_image(data=photos[0], visitor="somebody")

        assert (answer.arm, answer.model_version) == ("champion", "1.0")
        assert answer.results[0].sku == "apple-0"
        query_log.flush()
        failure = Query.objects.get(is_failed=True)
        assert (failure.arm, failure.version, failure.deployment_id) == ("candidate", "2.0", deployment.pk)
        assert failure.took_ms["total"] > 0
        assert Query.objects.get(pk=answer.query_id).arm == "champion"

    def test_when_the_champion_fails_that_is_counted_and_said(
        self, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop(photos)
        break_arm(monkeypatch, "champion")

        with pytest.raises(RuntimeError, match="no input of that name"):
            search.search_by_image(data=photos[0])

        query_log.flush()
        assert Query.objects.get().is_failed

    def test_a_bad_question_is_no_failure_of_the_arm(self, photos: list[bytes]) -> None:
        canary(photos)

        with pytest.raises(BadImage):
            search.search_by_image(data=b"no picture")

        query_log.flush()
        assert not Query.objects.exists()


class TestVisitors:
    def test_the_log_of_a_share_tells_visitors_apart_for_that_trial_alone(self, photos: list[bytes]) -> None:
        def asked(visitor: str = "") -> str:
            query_id = search.search_by_item(sku="apple-0", visitor=visitor).query_id
            query_log.flush()
            return Query.objects.get(pk=query_id).visitor_hash

        shop(photos)
        assert asked("ann") == ""
        deployment = candidate_deployed(share=50)

        first, again, other = asked("ann"), asked("ann"), asked("bob")
        assert len(first) == 16
        assert first == again != other
        assert asked() == ""  # nobody known

        Deployment.objects.filter(pk=deployment.pk).update(ended_at=timezone.now())
        assert asked("ann") == ""
        Deployment.objects.create(
            arm="candidate", version=deployment.version, view=deployment.view, share=50, previous=deployment
        )
        assert asked("ann") not in ("", first, other)

    def test_it_has_nothing_of_them_where_no_visitors_are_divided(self, photos: list[bytes]) -> None:
        canary(photos, is_shadow=True, share=0)

        search.search_by_item(sku="apple-0", visitor="ann")

        query_log.flush()
        assert Query.objects.get().visitor_hash == ""


class TestShadow:
    def test_it_answers_beside_once_the_answer_stands_and_is_not_shown(self, photos: list[bytes]) -> None:
        deployment = canary(photos, is_shadow=True, share=0)

        answer = search.search_by_image(data=photos[0])

        assert answer.arm == "champion"
        assert query_log.flush() == 1
        assert Query.objects.get().shadow is None
        assert shadowing.work_off() == 1
        query_log.flush()
        row = Query.objects.get()
        assert row.shadow is not None
        assert (row.shadow["deployment"], row.shadow["version"]) == (deployment.pk, "2.0")
        assert row.shadow["skus"][0] == "apple-0"
        assert row.shadow["is_first_alike"]
        assert row.shadow["overlap"] == 1.0  # six items, all of them found by both
        assert row.shadow["took_ms"] > 0
        assert row.result_skus == [result.sku for result in answer.results]

    @pytest.mark.parametrize(
        ("shown", "found", "overlap", "is_first_alike"),
        [
            (["a", "b"], ["a", "c"], 0.5, True),
            (["a", "b"], ["b", "a"], 1.0, False),
            (["a", "b"], [], 0.0, False),
            ([], [], 1.0, True),
            ([*"abcdefghijk"], [*"abcdefghijl"], 1.0, True),  # the eleventh is not compared
        ],
    )
    def test_agreement_counts_the_first_ten(
        self, shown: list[str], found: list[str], overlap: float, is_first_alike: bool
    ) -> None:
        assert shadowing.agreement(shown, found) == {"overlap": overlap, "is_first_alike": is_first_alike}

    def test_one_that_fails_is_noted_and_the_shopper_sees_nothing_of_it(
        self, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        canary(photos, is_shadow=True, share=0)
        break_arm(monkeypatch, "candidate")

        assert search.search_by_image(data=photos[0]).results

        shadowing.work_off()
        query_log.flush()
        row = Query.objects.get()
        assert row.shadow is not None
        assert row.shadow["failed"] == "RuntimeError"
        assert not row.is_failed

    def test_what_finds_no_room_is_dropped_and_counted(self, photos: list[bytes]) -> None:
        canary(photos, is_shadow=True, share=0)
        before = shadowing.dropped_count()

        for _ in range(shadowing.WAITING + 3):
            search.search_by_item(sku="apple-0")

        assert shadowing.dropped_count() - before == 3
        assert shadowing.work_off() == shadowing.WAITING

    def test_the_explanation_is_not_made_twice(
        self, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        canary(photos, is_shadow=True, share=0)
        explain = Mock(wraps=search._explained)
        monkeypatch.setattr(search, "_explained", explain)

        answer = search.search_by_image(data=photos[0], explain=search.EXPLAIN_BEST)
        shadowing.work_off()

        assert answer.explanation is not None
        assert explain.call_count == 1

    @pytest.mark.django_db(transaction=True)
    def test_a_thread_asks_it_and_no_request_waits(
        self, photos: list[bytes], settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        canary(photos, is_shadow=True, share=0)
        serving.follow_once()
        settings.GALLERY_FOLLOW_SECONDS = 0.05
        monkeypatch.setattr(shadowing, "IDLE_SECONDS", 0.2)

        answer = search.search_by_image(data=photos[0])

        deadline = time.monotonic() + 10
        while not Query.objects.filter(pk=answer.query_id, shadow__isnull=False).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while shadowing._queue.thread is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        serving.stop_follower()
        time.sleep(0.1)  # the flusher closes its connection


class TestClicks:
    def test_opening_a_result_is_one_click_however_often(
        self, photos: list[bytes], anonymous: Client
    ) -> None:
        shop(photos)
        answer = search.search_by_item(sku="apple-0")
        address = f"/items/apple-1?query={answer.query_id}"

        for _ in range(2):
            assert anonymous.get(address).status_code == 200
            assert not Click.objects.exists()  # never in the request
        query_log.flush()
        anonymous.get(address)
        query_log.flush()

        assert Click.objects.values_list("query_id", "sku").get() == (answer.query_id, "apple-1")

    @pytest.mark.parametrize("query", ["", "?query=", "?query=42", "?query=%00"])
    def test_an_item_that_was_found_otherwise_is_no_click(
        self, photos: list[bytes], anonymous: Client, query: str
    ) -> None:
        shop(photos)

        assert anonymous.get(f"/items/apple-1{query}").status_code == 200

        query_log.flush()
        assert not Click.objects.exists()

    def test_fetching_ahead_is_no_click(self, photos: list[bytes], anonymous: Client) -> None:
        shop(photos)
        address = f"/items/apple-1?query={search.search_by_item(sku='apple-0').query_id}"

        anonymous.get(address, headers={"Sec-Purpose": "prefetch;prerender"})
        anonymous.head(address)

        query_log.flush()
        assert not Click.objects.exists()

    def test_search_engines_are_told_the_address_without_the_answer(
        self, photos: list[bytes], anonymous: Client
    ) -> None:
        shop(photos)
        answer = search.search_by_item(sku="apple-0")

        page = anonymous.get(f"/items/apple-1?query={answer.query_id}").content.decode()

        assert '<link rel="canonical" href="http://testserver/items/apple-1">' in page

    def test_a_click_costs_the_request_no_query(
        self, photos: list[bytes], django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        shop(photos)
        answer = search.search_by_item(sku="apple-0")
        with django_assert_num_queries(0):
            query_log.click_record(answer.query_id, sku="apple-1")
