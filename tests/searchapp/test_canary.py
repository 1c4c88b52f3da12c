"""A candidate answers a share of the visitors, a part of the catalogue, or unseen; the champion answers the rest."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import AuditEvent, Category, Deployment, Item, Job, JobState, ModelVersion, Verdict
from searchapp.services import (
    arms,
    deploying,
    encoding,
    jobs,
    pointer_moves,
    promotion_steps,
    query_log,
    search,
    serving,
    versions,
)
from searchapp.services.arm_choice import Portion
from searchapp.services.going_back import rollback_outlook
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from searchapp.services.search_options import SearchOptions
from tests.searchapp.api_cast import error_of, key_client, operator_make, user_make
from tests.searchapp.galleries import encode_missing, item_with_photos, shop
from tests.searchapp.lineages import SHIPPED, descendant, passed
from tests.searchapp.stale_shop import put_in_use
from tests.searchapp.trainings import candidate
from tests.searchapp.verdict_reports import report_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]
VISITORS = [f"visitor {number}" for number in range(60)]


@pytest.fixture
def items(photos: list[bytes], data_dir: Path) -> list[Item]:
    """Fruit > Apple and Drink, six photos by 1.0."""
    return shop(photos)


@pytest.fixture
def second(items: list[Item]) -> ModelVersion:
    """2.0, which may be put in use."""
    return passed(descendant())


def tried(version: ModelVersion, **options: Any) -> Deployment:
    job = jobs.job_run_here(deploying.version_promote(version=version, user=None, **options))
    assert (job.state, job.error) == (JobState.DONE, "")
    live = deploying.candidate_live()
    assert live is not None
    return live


def answering(visitor: str = "", **options: Any) -> str:
    return serving.arm_for(visitor, SearchOptions(**options)).version.name


def who_meets(version: str) -> set[str]:
    return {visitor for visitor in VISITORS if answering(visitor) == version}


# --- shares


def test_a_share_takes_so_many_visitors_and_a_raised_one_keeps_those_it_had() -> None:
    visitors = [f"visitor {number}" for number in range(20_000)]

    taken = [{v for v in visitors if Portion(7, share).takes(v, None)} for share in (1, 25, 60, 100)]

    assert [round(100 * len(some) / len(visitors)) for some in taken] == [1, 25, 60, 100]
    assert taken[0] < taken[1] < taken[2] < taken[3]
    others = {v for v in visitors if Portion(8, 25).takes(v, None)}
    assert 0.2 < len(others & taken[1]) / len(others) < 0.3  # another trial meets other visitors


def test_a_share_of_the_visitors_meets_the_candidate_each_time(
    second: ModelVersion, photos: list[bytes]
) -> None:
    champion = versions.champion()

    live = tried(second, share=25, change_note="A sharper eye.", stop_rule={"errors": 0.5})

    assert (live.version, live.share, live.scope, live.is_shadow) == (second, 25, {}, False)
    assert (live.change_note, live.stop_rule["errors"], live.end_reason) == ("A sharper eye.", 0.5, "")
    assert versions.champion() == champion
    meets = who_meets("2.0")
    assert 0.1 < len(meets) / len(VISITORS) < 0.4
    serving.forget()
    assert who_meets("2.0") == meets
    assert answering("") == "1.0"  # who is not known
    chosen = min(meets)
    found = search.search_by_image(data=photos[0], visitor=chosen)
    assert (found.arm, found.model_version, found.deployment_id) == ("candidate", "2.0", live.pk)
    assert search.search_by_text(text="juice", visitor=chosen).model_version == "2.0"
    assert search.search_by_item(sku="apple-0", visitor=chosen).model_version == "2.0"
    other = min(set(VISITORS) - meets)
    assert search.search_by_image(data=photos[0], visitor=other).model_version == "1.0"
    event = AuditEvent.objects.get(action="version.canary")
    assert (event.before["version"], event.after["version"], event.after["share"]) == ("1.0", "2.0", 25)


def test_a_raised_share_is_another_deployment_with_the_same_visitors(second: ModelVersion) -> None:
    first = tried(second, share=10)
    few = who_meets("2.0")

    more = tried(second, share=50)

    first.refresh_from_db()
    assert first.ended_at is not None
    assert (more.pk != first.pk, more.previous) == (True, first)
    assert few < who_meets("2.0")
    with pytest.raises(Conflict, match="tried just so already"):
        deploying.version_promote(version=second, user=None, share=50)
    assert tried(second, share=50, stop_rule={"errors": 0.5}).stop_rule["errors"] == 0.5


def test_one_candidate_at_a_time(second: ModelVersion) -> None:
    third = passed(descendant("3.0"))
    tried(second, share=10)

    with pytest.raises(Conflict, match=r"2\.0 is being tried; end that before 3\.0 is"):
        deploying.version_promote(version=third, user=None, share=10)

    assert deploying.candidate_live() is not None
    assert Job.objects.filter(kind="promote").count() == 1


def test_a_candidate_that_began_while_another_was_checked_stays(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = passed(descendant("3.0"))
    job = deploying.version_promote(version=third, user=None, share=10)
    Job.objects.filter(pk=job.pk).update(state=JobState.DONE)
    tried(second, share=10)
    Job.objects.filter(pk=job.pk).update(state=JobState.QUEUED)

    failed = jobs.job_run_here(Job.objects.get(pk=job.pk))

    assert (failed.state, "2.0 is being tried" in failed.error) == (JobState.FAILED, True)
    assert answering(min(who_meets("2.0"))) == "2.0"


def test_another_share_goes_to_what_the_candidate_became_by_learning(second: ModelVersion) -> None:
    first, later = versions.champion().version, descendant("2.1", parent=second)
    Category.objects.filter(slug="apple").update(learn_asked_at=timezone.now())
    for version, learned in ((first, ["apple"]), (second, []), (later, ["apple"])):
        version.label_registry = learned
        version.save(update_fields=["label_registry"])
    Deployment.objects.create(arm=Deployment.Arm.CANDIDATE, version=later, view=later.views.get(), share=5)

    live = tried(second, share=25)

    assert (live.version, live.share) == (later, 25)
    with pytest.raises(Conflict, match=r"2\.1 is being tried just so already"):
        deploying.version_promote(version=second, user=None, share=25)


# --- the pointer moves meanwhile


def test_who_waited_for_a_pointer_that_moved_is_refused(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, champion = versions.champion(), versions.champion
    put_in_use(descendant("3.0"))
    read = iter([seen])  # before the lock, for which it waits
    monkeypatch.setattr(versions, "champion", lambda: next(read, None) or champion())

    with pytest.raises(Conflict, match=r"3\.0 was put in use meanwhile"):
        deploying._champion_locked(seen.pk)


def test_a_promotion_that_waited_takes_the_place_of_none_but_what_was_seen(second: ModelVersion) -> None:
    job = deploying.version_promote(version=second, user=None, shadow=True)
    third = put_in_use(descendant("3.0"))

    failed = jobs.job_run_here(job)

    assert (failed.state, "3.0 was put in use meanwhile" in failed.error) == (JobState.FAILED, True)
    assert (versions.champion(), deploying.candidate_live()) == (third, None)


def test_what_is_learned_during_a_promotion_is_caught_up_with(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, beside = ["promote.before_move"], []

    def passing(point: str) -> None:
        if point in waiting:
            waiting.remove(point)
            put_in_use(descendant("1.1", source=SHIPPED))

    def caught_up(_run: object, version: ModelVersion, live: Deployment) -> ModelVersion:
        beside.append(live.version.name)
        return version

    monkeypatch.setattr(pointer_moves, "failpoint", passing)
    monkeypatch.setattr(promotion_steps, "caught_up", caught_up)

    job = jobs.job_run_here(deploying.version_promote(version=second, user=None, override_reason="now"))

    assert (job.state, job.error) == (JobState.DONE, "")
    assert beside == ["1.0", "1.1"]
    live = versions.champion()
    assert (live.version, live.previous and live.previous.version.name) == (second, "1.1")


# --- scopes


@pytest.mark.parametrize(
    ("scope", "inside", "outside"),
    [
        (
            {"category": "Fruit"},
            [{"category": "fruit"}, {"category": "Fruit > Apple"}, {"category": "apple", "price_max": 3.0}],
            [{}, {"category": "Drink"}, {"vertical": "product"}],
        ),
        (
            {"vertical": "landmark"},
            [{"vertical": "landmark"}, {"category": "Towers"}],
            [{}, {"vertical": "product"}, {"category": "Fruit"}],
        ),
    ],
)
def test_a_scope_takes_the_queries_whose_filters_lie_inside_it(
    second: ModelVersion, scope: dict[str, str], inside: list[Any], outside: list[Any], photos: list[bytes]
) -> None:
    item_with_photos("tower", photos[8:9], "Towers", vertical="landmark")

    live = tried(second, scope=scope)

    assert live.share == 100
    assert [answering("anybody", **options) for options in inside] == ["2.0"] * len(inside)
    assert [answering("anybody", **options) for options in outside] == ["1.0"] * len(outside)
    found = search.search_by_image(data=photos[0], options=SearchOptions(**inside[0]), visitor="anybody")
    assert found.model_version == "2.0"


def test_a_scope_is_looked_up_when_the_gallery_changes_and_not_by_queries(
    second: ModelVersion, photos: list[bytes], django_assert_num_queries: Any
) -> None:
    tried(second, scope={"category": "Fruit"})
    arm = serving.follow_once().candidate
    assert arm is not None
    assert arm.portion is not None

    with django_assert_num_queries(0):
        covered = [arm.portion.covers(SearchOptions(category=name)) for name in ("Fruit > Apple", "drink")]
    item_with_photos("pear", photos[8:9], "Fruit > Pear")
    encode_missing()

    assert covered == [True, False]
    assert answering("anybody", category="pear") == "2.0"


def test_a_share_of_a_scope_needs_both(second: ModelVersion) -> None:
    tried(second, scope={"category": "fruit"}, share=50)

    takes = [visitor for visitor in VISITORS if answering(visitor, category="fruit") == "2.0"]

    assert 0.3 < len(takes) / len(VISITORS) < 0.7
    assert {answering(visitor) for visitor in takes} == {"1.0"}


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ({"category": "nowhere"}, "no category 'nowhere'"),
        ({"vertical": "food"}, "vertical is 'food', allowed: product, landmark"),
        ({"price": "9"}, "allowed: one of category, vertical"),
        ({"category": "fruit", "vertical": "product"}, "allowed: one of category, vertical"),
    ],
)
def test_a_scope_that_is_none_is_refused(second: ModelVersion, scope: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        deploying.version_promote(version=second, user=None, scope=scope)


# --- the shadow


def test_in_the_shadow_the_candidate_answers_nobody_and_may_be_asked(second: ModelVersion) -> None:
    live = tried(second, shadow=True, scope={"category": "fruit"})

    assert (live.is_shadow, live.share) == (True, 0)
    assert {answering(visitor, category="fruit") for visitor in VISITORS} == {"1.0"}
    assert not Portion(7, share=100, is_shadow=True).takes("anybody", None)
    arm = serving.shadow_arm(SearchOptions(category="apple"))
    assert arm is not None
    assert (arm.version, arm.deployment_id) == (second, live.pk)
    assert serving.shadow_arm(SearchOptions()) is None
    assert AuditEvent.objects.filter(action="version.shadow").count() == 1


def test_no_gate_stands_before_the_shadow_and_one_does_before_a_share(items: list[Item]) -> None:
    version = descendant()  # never measured, and nothing is held out

    tried(version, shadow=True)
    deploying.version_rollback(user=None)
    failed = jobs.job_run_here(deploying.version_promote(version=version, user=None, share=10))

    assert failed.state == JobState.FAILED
    assert "no held-out photo" in failed.error


# --- the way back


def test_rollback_ends_a_trial_and_the_champion_stays(second: ModelVersion) -> None:
    champion, live = versions.champion(), tried(second, share=30)
    assert deploying.last_deployment() == live
    assert deploying.rollback_target() == champion.version

    job = deploying.version_rollback(user=None, expected_deployment=live.pk)

    result = job.result or {}
    assert (job.state, result["serving"], result["previous"], result["ended"]) == (
        JobState.DONE,
        "1.0",
        "2.0",
        live.pk,
    )
    assert result["gallery_digest_before"] == result["gallery_digest_after"]
    assert (versions.champion(), deploying.candidate_live()) == (champion, None)
    assert who_meets("2.0") == set()
    assert AuditEvent.objects.get(action="version.canary_end").before["deployment"] == live.pk
    with pytest.raises(Conflict, match="nothing to go back to"):
        deploying.version_rollback(user=None)


def test_who_saw_the_champion_does_not_end_a_trial_by_going_back(second: ModelVersion) -> None:
    seen, live = versions.champion(), tried(second, share=30)

    with pytest.raises(Conflict, match="look again before going back"):
        deploying.version_rollback(user=None, expected_deployment=seen.pk)

    assert deploying.candidate_live() == live


def test_a_trial_ends_once_by_its_stop_rule_or_button_with_the_reason(second: ModelVersion) -> None:
    live = tried(second, share=30)
    with pytest.raises(Conflict, match="ended already"):
        deploying.canary_end(user=None, reason="late", expected_deployment=live.pk + 1)

    ended = deploying.canary_end(user=None, reason="too many errors", expected_deployment=live.pk)

    ended.refresh_from_db()
    assert (ended.pk, ended.end_reason, ended.ended_at is None) == (live.pk, "too many errors", False)
    event = AuditEvent.objects.get(action="version.canary_end")
    assert (event.actor_name, event.reason) == ("system", "too many errors")
    with pytest.raises(Conflict, match="ended already"):
        deploying.canary_end(user=None, reason="again")
    assert who_meets("2.0") == set()


def test_all_queries_end_the_trial_and_the_loaded_arm_takes_over(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tried(second, share=30)
    arm = serving.follow_once().candidate
    assert arm is not None

    jobs.job_run_here(deploying.version_promote(version=second, user=None))

    monkeypatch.setattr(arms, "arm_opened", None)  # loading it again now would fail
    champion = serving.follow_once().champion
    assert (champion.name, champion.version, champion.portion) == ("champion", second, None)
    assert champion.view is arm.view
    live.refresh_from_db()
    assert live.end_reason == "2.0 was put in use"
    assert (deploying.candidate_live(), who_meets("1.0")) == (None, set())


def test_the_trial_of_another_version_ends_too_when_one_is_put_in_use(second: ModelVersion) -> None:
    third = passed(descendant("3.0"))
    tried(second, share=30)

    jobs.job_run_here(deploying.version_promote(version=third, user=None))

    assert (versions.champion().version, deploying.candidate_live()) == (third, None)
    deploying.version_rollback(user=None)
    assert answering() == "1.0"


# --- what goes wrong


def test_while_a_candidates_files_are_damaged_the_champion_answers_alone(
    second: ModelVersion, data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tried(second, share=99)
    encoder = data_dir / "models" / second.digest / "encoder.onnx"
    good = encoder.read_bytes()
    encoder.write_bytes(b"nothing")
    serving.forget()
    monkeypatch.setattr(versions, "_encoders", {})

    assert who_meets("2.0") == set()
    item_with_photos("late", photos[8:9])
    encode_missing()
    assert len(serving.follow_once().champion.view) == 7  # and it follows the rows all the same

    encoder.write_bytes(good)
    assert who_meets("2.0") == set()  # not tried again at once
    serving._follower.resting[live.pk] = 0.0
    assert len(who_meets("2.0")) > 50


def test_a_version_of_another_lineage_is_tried_only_with_all_its_entries(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = passed(candidate(encoded=False))
    monkeypatch.setattr("searchapp.services.obstacles.CATCH_UP", 5)
    with pytest.raises(Conflict, match=r"6 of 6 photos have no entry that 2\.0 can search"):
        deploying.version_promote(version=other, user=None, share=10)

    encoding.entries_fill(other, heard=lambda _done: None)
    tried(other, share=10)

    arm = serving.follow_once().candidate
    assert arm is not None
    assert arm.view.counts_by_producer == {"2.0": 6}


def test_a_code_made_elsewhere_is_the_champions_to_answer(second: ModelVersion, photos: list[bytes]) -> None:
    made = search.encode(data=photos[0])
    tried(second, scope={"category": "fruit"})

    answer = search.search_by_vector(**made, options=SearchOptions(category="fruit"))

    assert (made["model_version"], answer.model_version) == ("1.0", "1.0")


# --- two operators


def post(client: Client, version: str, body: dict[str, Any]) -> Any:
    address = f"/api/v1/model-versions/{version}/promote"
    return client.post(address, json.dumps(body), content_type="application/json")


def test_of_two_operators_at_once_one_is_accepted_one_refused_and_both_are_in_the_log(
    second: ModelVersion,
) -> None:
    passed(descendant("3.0"))
    olga, otto = key_client(operator_make()), key_client(operator_make("otto"))

    first, refused = post(olga, "2.0", {}), post(otto, "3.0", {})

    assert first.status_code == 202
    assert "“Put 2.0 in use” was asked for by olga and is under way" in error_of(refused, 409)["message"]
    done = jobs.job_run_here(Job.objects.get(pk=first.json()["id"]))
    assert (done.state, versions.champion().version.name) == (JobState.DONE, "2.0")
    log = AuditEvent.objects.filter(action__startswith="version.").order_by("pk")
    assert [(event.action, event.actor_name, event.subject) for event in log] == [
        ("version.promote.refused", "otto", "version 3.0"),
        ("version.promote", "olga", "version 2.0"),
    ]


def test_who_saw_another_champion_puts_nothing_in_use(second: ModelVersion) -> None:
    seen = versions.champion()
    third = passed(descendant("3.0"))
    jobs.job_run_here(deploying.version_promote(version=second, user=None))
    passed(third)
    client = key_client(operator_make())

    refused = post(client, "3.0", {"deployment": seen.pk})

    assert "2.0 was put in use meanwhile" in error_of(refused, 409)["message"]
    assert post(client, "3.0", {"deployment": versions.champion().pk}).status_code == 202


def test_a_canary_is_begun_and_ended_over_http_and_by_command(second: ModelVersion, capsys: Any) -> None:
    client = key_client(operator_make())

    accepted = post(
        client, "2.0", {"share": 25, "scope": {"category": "Fruit"}, "change_note": "New.", "stop_rule": {}}
    )
    jobs.job_run_here(Job.objects.get(pk=accepted.json()["id"]))
    listed = client.get("/api/v1/model-versions").json()["results"]
    back = client.post("/api/v1/rollback")

    assert (accepted.status_code, accepted.json()["subject"]) == (
        202,
        "Give 25 % of the queries in fruit to 2.0",
    )
    assert listed[1]["serving"][0] | {"deployment": 0} == {
        "arm": "candidate", "share": 25, "scope": {"category": "fruit"}, "shadow": False, "deployment": 0,
    }  # fmt: skip
    assert (back.status_code, back.json()["result"]["serving"]) == (202, "1.0")
    assert error_of(post(client, "2.0", {"scope": {"category": "nowhere"}}), 400)["fields"].keys() == {
        "scope"
    }

    call_command("promote", "2.0", "--scope", "category=Fruit > Apple", "--share", "5", "--json")
    told = json.loads(capsys.readouterr().out)
    call_command("rollback")

    assert (told["serving"], told["candidate"], told["share"], told["scope"]) == (
        "1.0",
        "2.0",
        5,
        {"category": "apple"},
    )
    assert "1.0 answers all queries, 2.0 none" in capsys.readouterr().out


# --- who asks


def find(client: Client, photo: bytes, **form: Any) -> Any:
    upload = SimpleUploadedFile("photo.jpg", photo, content_type="image/jpeg")
    return client.post("/search", {"image": upload, **form})


def answered_by() -> list[str]:
    """The versions that answered, oldest question first."""
    rows = list(query_log._buffer.rows.values())
    query_log.forget()
    return [row.version for row in rows if hasattr(row, "version")]


def test_visitors_get_a_cookie_only_while_a_canary_answers_some_of_them(
    second: ModelVersion, photos: list[bytes]
) -> None:
    browser = Client()
    assert "visitor" not in find(browser, photos[0]).cookies
    tried(second, scope={"category": "fruit"})
    assert "visitor" not in find(browser, photos[0], category="fruit").cookies
    deploying.version_rollback(user=None)
    tried(second, share=50)
    serving.follow_once()

    cookie = find(browser, photos[0]).cookies["visitor"]

    assert re.fullmatch(r"[0-9a-f]{32}", cookie.value)
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert "visitor" not in find(browser, photos[0]).cookies  # it has one
    assert "visitor" in find(Client(headers={"Cookie": "visitor=<script>"}), photos[0]).cookies
    deploying.version_rollback(user=None)
    serving.follow_once()
    assert find(browser, photos[0]).cookies["visitor"].value == ""


def test_a_browser_meets_the_same_arm_on_every_page(second: ModelVersion, photos: list[bytes]) -> None:
    tried(second, share=50)
    serving.follow_once()
    met = set()
    for _ in range(8):
        browser = Client()
        query_log.forget()
        pages = ["/?q=juice", "/?like=apple-0", "/items/apple-0"]
        shown = [find(browser, photos[0]), *map(browser.get, pages), find(browser, photos[0], q="red")]
        assert [page.status_code for page in shown] == [200] * 5
        by = set(answered_by())
        assert len(by) == 1
        met |= by
    assert met == {"1.0", "2.0"}


def test_what_matched_is_explained_by_the_arm_that_found_it(
    second: ModelVersion, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(second, scope={"category": "fruit"}, share=50)
    explained: list[str] = []
    monkeypatch.setattr(
        "searchapp.services.explaining.photo_encoded", spy(explained, "searchapp.services.photo_queries")
    )
    serving.follow_once()
    for _ in range(6):
        browser = Client()
        query_log.forget()
        find(browser, photos[0], category="fruit")
        upload = SimpleUploadedFile("photo.jpg", photos[0], content_type="image/jpeg")
        browser.post("/search/explain", {"image": upload, "category": "fruit", "explain": "apple-0"})
        assert explained.pop() == answered_by()[0]


def spy(seen: list[str], room: str) -> Callable[..., Any]:
    from importlib import import_module

    encode = import_module(room).photo_encoded

    def noted(arm: serving.Arm, *args: Any, **options: Any) -> Any:
        seen.append(arm.version.name)
        return encode(arm, *args, **options)

    return noted


def test_over_http_a_key_meets_one_arm_wherever_it_comes_from(
    second: ModelVersion, photos: list[bytes]
) -> None:
    tried(second, share=50)

    def asked(client: Client, address: str) -> str:
        upload = SimpleUploadedFile("photo.jpg", photos[0], content_type="image/jpeg")
        found = client.post("/api/v1/search", {"image": upload}, REMOTE_ADDR=address)
        return str(found["X-Model-Version"])

    addresses = [f"10.0.0.{number}" for number in range(12)]
    keys = [key_client(user_make(f"kim{number}")) for number in range(8)]

    by_key = [{asked(client, address) for address in addresses[:3]} for client in keys]
    anonymous = [asked(Client(), address) for address in addresses]

    assert {len(met) for met in by_key} == {1}
    assert set.union(*by_key) == {"1.0", "2.0"}
    assert set(anonymous) == {"1.0", "2.0"}
    assert [asked(Client(), address) for address in addresses] == anonymous


# --- what was promised


def test_a_deployment_keeps_the_cell_that_its_verdict_promised(second: ModelVersion) -> None:
    first, held_out = versions.champion().version, held_out_fingerprint(held_out_queries())
    report = report_of("2.0", "1.0") | {"corrector_digest": "", "held_out": held_out}
    Verdict.objects.create(version=second, against=first, held_out=held_out, report=report)

    live = tried(second, share=30)

    assert (live.measured["map"], live.measured["map_low"], live.measured["n"]) == (0.56, 0.54, 240)
    assert (live.measured["state"], live.measured["held_out"]) == ("stored", held_out)
    assert "change" not in live.measured
    outlook = rollback_outlook()
    assert outlook is not None
    assert (outlook.leaving, outlook.target, outlook.photos) == (live, first, 0)
