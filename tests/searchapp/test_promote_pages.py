"""Promoting with a share, a scope, in the shadow; the trial on the first page; a version's page of the registry."""

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from searchapp.models import Deployment, GalleryView, Job, ModelVersion, PairCalibration
from searchapp.services import catalogue, versions
from searchapp.services.stop_rules import DEFAULT_RULE
from tests.searchapp.api_cast import operator_make, session_client
from tests.searchapp.operating import other_version
from tests.searchapp.test_pages_search import text_of
from tests.searchapp.verdict_reports import GATES, gate, report_of, verdict_make

pytestmark = [pytest.mark.django_db, pytest.mark.database]
PATH = "/ops/versions/2.0/promote"
RULE = {
    "stops": "on",
    "errors_percent": "2",
    "p95_factor": "2",
    "wrong": "0.05",
    "least_queries": "50",
    "minutes": "",
}


@pytest.fixture
def olga() -> User:
    return operator_make()


@pytest.fixture
def operator(olga: User) -> Client:
    return session_client(olga)


@pytest.fixture
def new(data_dir: Path) -> ModelVersion:
    """A candidate of the lineage in use that passed every gate."""
    version = other_version()
    champion = versions.champion().version
    ModelVersion.objects.filter(pk=version.pk).update(
        lineage=champion.lineage, parent=champion, method="ndpp"
    )
    version.refresh_from_db()
    verdict_make(version, champion, report_of("2.0", "1.0"))
    return version


def on_trial(new: ModelVersion, **fields: Any) -> Deployment:
    view, _ = GalleryView.objects.get_or_create(version=new, corrector_digest="")
    return Deployment.objects.create(arm=Deployment.Arm.CANDIDATE, version=new, view=view, **fields)


def test_the_confirmation_says_what_gains_what_loses_and_what_going_back_would_do(
    operator: Client, new: ModelVersion
) -> None:
    page = text_of(operator.get(PATH))

    assert "Ready: 2.0 is better than 1.0 and passes every gate" in page
    assert "is measured at 56.0 %; 1.0 has 50.0 %: +6.0 points, +4.0 to +8.0." in page
    assert "Of 240 answers 5 turn from right to wrong and 19 from wrong to right." in page
    assert "1 category gains for certain, 1 loses: Fruit > Pear (−8.0)." in page
    assert "found by 1.0 through what 2.0 stored: measured 48.9 %, 50.0 % for items it stored itself" in page


def test_a_part_of_the_traffic_is_asked_for_with_its_stop_rule_on_and_a_note_for_users(
    operator: Client, new: ModelVersion
) -> None:
    asked = operator.get(f"{PATH}?share=5")
    note = "Answers may differ for some of you."
    answered = operator.post(PATH, {**RULE, "share": "25", "change_note": note}, follow=True)

    html = asked.content.decode()
    payload = Job.objects.get(kind="promote").payload
    assert "Let 2.0 answer a part of the queries?" in html
    assert 'value="5" checked' in html
    assert 'id="id_stops" checked' in html
    assert (payload["share"], payload["change_note"]) == (25, note)
    assert payload["stop_rule"] == dict(DEFAULT_RULE)
    assert "2.0 is checked once more, then it answers its part." in text_of(answered)


def test_another_share_a_category_and_the_shadow_travel_with_the_wish(
    operator: Client, new: ModelVersion
) -> None:
    fruit = catalogue.category_ensure("Fruit")

    operator.post(PATH, {"share": "other", "other_share": "7", "scope": f"category={fruit.slug}"})
    payload = Job.objects.get(kind="promote").payload
    Job.objects.all().delete()
    operator.post(PATH, {"shadow": "on"})

    assert (payload["share"], payload["scope"]) == (7, {"category": fruit.slug})
    assert payload["stop_rule"]["errors"] is None  # not ticked: nothing is judged
    assert Job.objects.get(kind="promote").payload["shadow"] is True


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"share": "other", "other_share": ""}, "Give the share in whole percent, from 1 to 100."),
        ({"share": "other", "other_share": "101"}, "less than or equal to 100"),
        ({"share": "7"}, "7 is not one of the available choices"),
        ({"share": "5", "scope": "category=nowhere"}, "there is no category"),
        ({**RULE, "share": "5", "p95_factor": "0.5"}, "greater than or equal to 1"),
        ({"deployment": "0"}, "was put in use meanwhile"),
    ],
)
def test_a_wrong_wish_is_refused_where_it_was_made_and_starts_nothing(
    operator: Client, new: ModelVersion, sent: dict[str, str], said: str
) -> None:
    response = operator.post(PATH, sent)

    assert response.status_code in (400, 409)
    assert said in text_of(response)
    assert not Job.objects.exists()


def test_a_gate_that_fails_wants_a_reason_that_goes_with_the_wish(
    operator: Client, new: ModelVersion
) -> None:
    failing = report_of("2.0", "1.0", gates=[gate("map_loss", 0.05, 0.01), *GATES[1:]])
    verdict_make(new, versions.champion().version, failing)

    without = operator.post(PATH, {"share": "5"})
    operator.post(PATH, {"share": "5", "reason": "to see it live"})

    assert without.status_code == 409
    assert "Not ready: 2.0 fails 1 of 6 gates" in text_of(without)
    assert Job.objects.get(kind="promote").payload["override_reason"] == "to see it live"


def test_a_trial_is_told_on_the_first_page_and_ended_after_one_question(
    operator: Client, olga: User, new: ModelVersion
) -> None:
    trial = on_trial(
        new, share=25, created_by=olga, change_note="For some of you.", stop_rule=dict(DEFAULT_RULE)
    )
    page = text_of(operator.get("/ops/"))
    asked = text_of(operator.get("/ops/rollback"))

    answered = text_of(operator.post("/ops/rollback", {"deployment": str(trial.pk)}, follow=True))

    trial.refresh_from_db()
    assert "2.0 on trial beside 1.0 25 % of visitors" in page
    assert "when more than 2 % of its latest queries fail" in page
    assert "answers 25 % of visitors" in page
    assert "For some of you." in page
    assert "End the trial of 2.0?" in asked
    assert trial.ended_at is not None
    assert "The trial of 2.0 has ended; 1.0 answers every query." in answered
    assert "on trial beside" not in answered


def test_a_candidate_in_the_shadow_is_told_apart_and_clicks_are_not_asked_of_it(
    operator: Client, new: ModelVersion
) -> None:
    on_trial(new, share=0, is_shadow=True)

    page = text_of(operator.get("/ops/"))

    assert "2.0 answers in the shadow of 1.0" in page
    assert "No query was asked of both yet." in page
    assert "With a click" not in page


def test_changing_the_part_begins_with_what_the_trial_has(operator: Client, new: ModelVersion) -> None:
    fruit = catalogue.category_ensure("Fruit")
    on_trial(new, share=7, scope={"category": fruit.slug}, change_note="For some of you.")

    html = operator.get(f"{PATH}?share=7").content.decode()

    assert f'value="category={fruit.slug}" selected' in html
    assert 'value="other" checked' in html
    assert "For some of you." in html


def test_the_registry_tells_where_a_version_comes_from_what_it_is_and_how_it_reads_others(
    operator: Client, new: ModelVersion
) -> None:
    values = {"strong": 0.91, "weak": 0.52, "pool_size": 300}
    PairCalibration.objects.create(query_version=new, producer=versions.champion().version, values=values)

    page = text_of(operator.get("/ops/versions/2.0"))
    parent = operator.get("/ops/versions/1.0").content.decode()

    assert "Where it comes from 1.0 2.0 May be compared with 1.0." in page
    assert "Method neighbour-driven prototype perturbation (NDPP)" in page
    assert f"Digest {new.digest}" in page
    assert "Data fingerprint" in page
    assert "Entries it made None: it answers from what others stored" in page
    assert "2.0 its bundle" in page
    assert "1.0 measured here 0.91 0.52 300" in page
    assert "Nothing so far: no query was answered by it." in page
    assert 'href="/ops/versions/2.0"' in parent
    assert operator.get("/ops/versions/7.7").status_code == 404
