"""What was promised is measured again on schedule; where it no longer holds, operators are told and, if so set, the
version before serves again, once."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from ml.evaluation.intervals import Interval
from searchapp.exceptions import Conflict
from searchapp.models import (
    AuditEvent,
    Category,
    Deployment,
    EvaluationQuery,
    GalleryView,
    Job,
    JobState,
    ModelVersion,
)
from searchapp.services import catalogue, holding_out, quality_watch, verdicts, versions
from searchapp.services.audit import event_record
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from searchapp.services.jobs import job_run
from searchapp.services.operator_settings import setting_change
from searchapp.services.quality_change import change_now
from searchapp.views.quality import quality_card
from tests.searchapp.api_cast import operator_make
from tests.searchapp.operating import work_off
from tests.searchapp.trainings import candidate, small_shop

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("data_dir")]


@pytest.fixture
def shop(data_dir: Path, data_packs: Path) -> ModelVersion:
    """Two classes of nine photos, encoded, some of them held out; 1.0 is in use."""
    small_shop(data_packs)
    assert holding_out.hold_out(list(Category.objects.values_list("path", flat=True)))
    return versions.champion().version


def promised(deployment: Deployment, value: float) -> None:
    cell = verdicts.cell_measured(deployment.version)
    Deployment.objects.filter(pk=deployment.pk).update(measured={**cell, "map": value})


def put_in_use(version: ModelVersion, *, promise: float | None = None) -> Deployment:
    """As a promotion leaves it."""
    live = versions.champion()
    Deployment.objects.filter(pk=live.pk).update(ended_at=timezone.now())
    view, _ = GalleryView.objects.get_or_create(version=version, corrector_digest="")
    deployment = Deployment.objects.create(version=version, view=view, previous=live)
    if promise is not None:
        promised(deployment, promise)
    deployment.refresh_from_db()
    return deployment


def look() -> Job:
    job = quality_watch.watch_start()
    assert job_run(job.pk, "the test")
    job.refresh_from_db()
    assert job.state == JobState.DONE, job.error
    return job


def cells(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, float], spread: float = 0.01) -> None:
    """What each version is worth now, give or take 0.02, and every query alike; a stand-in for the long fall of a
    gallery."""

    def measured(version: ModelVersion, corrector_digest: str = "") -> dict[str, Any]:
        value = values[version.name]
        bounds = {"map": value, "map_low": value - 0.02, "map_high": value + 0.02}
        return {"n": 40, **bounds, "held_out": held_out_fingerprint(held_out_queries())}

    def change(target: Deployment, live: Deployment) -> Interval:
        gain = values[target.version.name] - values[live.version.name]
        return Interval(gain, gain - spread, gain + spread, 40)

    monkeypatch.setattr(verdicts, "cell_measured", measured)
    monkeypatch.setattr(quality_watch, "change_now", change)


def test_a_version_that_answers_as_promised_holds(shop: ModelVersion) -> None:
    live = versions.champion()
    cell = verdicts.cell_measured(shop)
    Deployment.objects.filter(pk=live.pk).update(measured=cell)

    result = look().result

    assert result is not None
    assert result["measured"] == cell
    assert result["promised"] == cell
    assert not result["has_fallen"]
    assert result["same_queries"]
    assert result["words"].startswith(f"1.0 holds what was promised: {cell['map']:.3f}, now ")
    assert not Job.objects.filter(kind="send_alert").exists()
    assert not AuditEvent.objects.filter(action="quality.fallen").exists()


@pytest.mark.parametrize(("above", "has_fallen"), [(0.0, False), (0.001, True)])
def test_it_has_fallen_when_even_the_upper_bound_is_under_the_promise(
    shop: ModelVersion, above: float, has_fallen: bool
) -> None:
    promised(versions.champion(), verdicts.cell_measured(shop)["map_high"] + above)

    result = look().result

    assert result is not None
    assert result["has_fallen"] is has_fallen
    assert quality_watch.latest().has_fallen is has_fallen


def test_with_other_photos_it_is_not_said_to_have_fallen_but_that_they_changed(
    shop: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting_change(name="watch.rollback", value=True, user=None, reason="nights are quiet")
    live = put_in_use(candidate(), promise=0.9)
    cells(monkeypatch, {"2.0": 0.7, "1.0": 0.8})
    Deployment.objects.filter(pk=live.pk).update(measured={**live.measured, "held_out": "39 others"})

    result = look().result

    assert result is not None
    assert not result["has_fallen"]
    assert "0.900 was promised, but the held-out photos have changed since" in result["words"]
    assert versions.champion() == live
    assert not AuditEvent.objects.filter(action__startswith="quality.").exists()
    assert quality_card().title == "Quality: measured with other photos than was promised"


def test_operators_are_told_once_per_deployment_and_the_page_goes_on_saying_it(
    shop: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting_change(name="watch.email", value="ops@example.org", user=None)
    promised(versions.champion(), 0.9)
    cells(monkeypatch, {"1.0": 0.8})

    first, second = look(), look()

    told = Job.objects.get(kind="send_alert")
    assert first.result is not None
    assert told.payload["message"]["text"] == first.result["words"]
    assert "0.900 was promised, now it is 0.800 (0.780 to 0.820)" in first.result["words"]
    event = AuditEvent.objects.get(action="quality.fallen")
    assert event.actor_name == "system"
    assert event.after["measured"]["map"] == 0.8
    assert second.result is not None
    assert second.result["stayed_because"] == "it does not go back by itself: the setting is off"
    assert quality_watch.latest().result == second.result


@pytest.mark.usefixtures("shop", "second")
class TestGoingBack:
    @pytest.fixture
    def second(self) -> Deployment:
        """2.0 in use with a promise of 0.9; the operators want it to go back by itself."""
        setting_change(name="watch.rollback", value=True, user=None, reason="nights are quiet")
        setting_change(name="watch.email", value="ops@example.org", user=None)
        return put_in_use(candidate(), promise=0.9)

    def test_the_version_before_serves_again_when_it_answers_better_now(
        self, second: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cells(monkeypatch, {"2.0": 0.7, "1.0": 0.8})

        result = look().result

        assert result is not None
        assert result["went_back_to"] == "1.0"
        assert versions.champion().version.name == "1.0"
        second.refresh_from_db()
        assert second.ended_at is not None
        assert AuditEvent.objects.get(action="quality.rollback").after == {"version": "1.0"}
        subjects = {job.payload["message"]["subject"] for job in Job.objects.filter(kind="send_alert")}
        assert subjects == {"2.0 no longer answers as well as promised", "1.0 is in use again"}

    @pytest.mark.parametrize(
        ("before", "words"),
        [(0.7, "+0.000, between -0.010 and +0.010"), (0.709, "+0.009, between -0.001 and +0.019")],
    )
    def test_it_stays_when_the_version_before_is_not_shown_to_answer_the_same_photos_better(
        self, monkeypatch: pytest.MonkeyPatch, before: float, words: str
    ) -> None:
        cells(monkeypatch, {"2.0": 0.7, "1.0": before})

        result = look().result

        assert result is not None
        assert result["stayed_because"] == (
            f"1.0 is not shown to answer the same photos better now ({words})"
        )
        assert versions.champion().version.name == "2.0"

    def test_it_never_goes_back_twice_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cells(monkeypatch, {"3.0": 0.3, "2.0": 0.5, "1.0": 0.8})
        put_in_use(other_version(), promise=0.9)

        first, again = look().result, look().result

        assert first is not None
        assert again is not None
        assert first["went_back_to"] == "2.0"
        assert again["has_fallen"]
        assert again["stayed_because"].startswith("it came into use by going back")
        assert versions.champion().version.name == "2.0"

    def test_a_trial_that_goes_on_is_not_ended_by_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        other = other_version()
        view, _ = GalleryView.objects.get_or_create(version=other, corrector_digest="")
        trial = Deployment.objects.create(arm="candidate", version=other, view=view, share=10)
        cells(monkeypatch, {"2.0": 0.7, "1.0": 0.8})

        result = look().result

        assert result is not None
        assert result["stayed_because"] == "a candidate is being tried; that comes to its end first"
        trial.refresh_from_db()
        assert trial.ended_at is None

    def test_a_retry_after_a_kill_tells_and_goes_back_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cells(monkeypatch, {"2.0": 0.7, "1.0": 0.8})
        job = quality_watch.watch_start()
        real = quality_watch._gone_back

        def killed(*args: Any) -> dict[str, Any]:
            real(*args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(quality_watch, "_gone_back", killed)
            with pytest.raises(KeyboardInterrupt):
                job_run(job.pk, "the first worker")
        assert job_run(job.pk, "the second worker")

        job.refresh_from_db()
        assert job.result is not None
        assert job.result["went_back_to"] == "1.0"
        assert AuditEvent.objects.filter(action="quality.rollback").count() == 1
        assert AuditEvent.objects.filter(action="quality.fallen").count() == 1

    def test_a_retry_after_a_kill_between_going_back_and_telling_tells(
        self, second: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cells(monkeypatch, {"2.0": 0.7, "1.0": 0.8})
        job = quality_watch.watch_start()

        def killed(*, action: str, **fields: Any) -> None:
            if action == "quality.rollback":
                raise KeyboardInterrupt
            event_record(action=action, **fields)

        with monkeypatch.context() as patched:
            patched.setattr(quality_watch, "event_record", killed)
            with pytest.raises(KeyboardInterrupt):
                job_run(job.pk, "the first worker")
        assert versions.champion().version.name == "1.0"
        assert job_run(job.pk, "the second worker")

        job.refresh_from_db()
        assert job.result is not None
        assert job.result["went_back_to"] == "1.0"
        assert AuditEvent.objects.get(action="quality.rollback").before["deployment"] == second.pk
        subjects = [job.payload["message"]["subject"] for job in Job.objects.filter(kind="send_alert")]
        assert subjects.count("1.0 is in use again") == 1

    def test_the_two_are_compared_query_by_query(self, second: Deployment) -> None:
        first = second.previous
        assert first is not None
        cells = [verdicts.cell_measured(deployment.version)["map"] for deployment in (first, second)]

        gain, same = change_now(first, second), change_now(first, first)

        assert gain is not None
        assert gain.value == pytest.approx(cells[0] - cells[1], abs=1e-5)
        assert same is not None
        assert (same.low, same.high) == (0.0, 0.0)


def other_version() -> ModelVersion:
    first = versions.default_version_ensure()
    return ModelVersion.objects.create(
        major=3, minor=0, digest="c" * 64, lineage=first.lineage, method="ndpp", architecture="compact",
        code_bits=128, dimension=128, size_bytes=1, manifest=first.manifest,
    )  # fmt: skip


@pytest.mark.usefixtures("shop")
class TestSchedule:
    def test_it_is_due_so_many_hours_after_the_promotion_and_after_each_look(self) -> None:
        live = versions.champion()
        assert quality_watch.watch_if_due() is None

        began = timezone.now() - timedelta(hours=24, minutes=1)
        Deployment.objects.filter(pk=live.pk).update(created_at=began)
        assert quality_watch.latest().due_at == began + timedelta(hours=24)
        job = quality_watch.watch_if_due()

        assert job is not None
        assert quality_watch.watch_if_due() is None  # under way
        assert job_run(job.pk, "the test")
        assert quality_watch.watch_if_due() is None
        Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(hours=25))
        assert quality_watch.watch_if_due() is not None

    def test_zero_hours_mean_never(self) -> None:
        Deployment.objects.update(created_at=timezone.now() - timedelta(days=60))
        setting_change(name="watch.hours", value=0, user=None)

        assert quality_watch.watch_if_due() is None
        assert quality_watch.latest().due_at is None

    def test_nothing_is_planned_without_held_out_photos(self) -> None:
        Deployment.objects.update(created_at=timezone.now() - timedelta(days=60))
        EvaluationQuery.objects.all().delete()

        assert quality_watch.watch_if_due() is None
        with pytest.raises(Conflict, match="no held-out photos"):
            quality_watch.watch_start()

    def test_two_clicks_are_one_job(self) -> None:
        assert quality_watch.watch_start() == quality_watch.watch_start()

    def test_a_look_at_a_version_that_was_replaced_meanwhile_fails_and_says_so(self) -> None:
        job = quality_watch.watch_start()
        put_in_use(candidate())

        assert job_run(job.pk, "the test")

        job.refresh_from_db()
        assert job.state == JobState.FAILED
        assert "2.0 was put in use meanwhile" in job.error


def test_the_history_is_a_curve_of_all_versions(shop: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    cells(monkeypatch, {"1.0": 0.8, "2.0": 0.85})
    look()
    put_in_use(candidate(), promise=0.9)
    look()

    first, second = quality_watch.history()

    assert (first.version, first.value, first.promised, first.has_fallen) == ("1.0", 0.8, None, False)
    assert (second.version, second.low, second.high, second.promised) == ("2.0", 0.83, 0.87, 0.9)
    assert second.has_fallen
    assert first.at <= second.at


def test_an_increment_keeps_the_promise_of_its_encoder(shop: ModelVersion) -> None:
    first = versions.champion()
    Deployment.objects.filter(pk=first.pk).update(measured={"map": 0.6})
    increment = ModelVersion.objects.create(
        major=1, minor=1, digest="d" * 64, lineage=shop.lineage, method="lifelong", architecture="compact",
        code_bits=128, dimension=128, size_bytes=1, parent=shop,
    )  # fmt: skip
    other = ModelVersion.objects.create(
        major=2, minor=0, digest="e" * 64, lineage=shop.lineage, method="ndpp", architecture="compact",
        code_bits=128, dimension=128, size_bytes=1, parent=shop,
    )  # fmt: skip

    assert quality_watch.promise_of(put_in_use(increment)) == {"map": 0.6}
    assert quality_watch.promise_of(put_in_use(other)) == {}


def test_a_gallery_without_any_right_answer_is_not_said_to_have_fallen(shop: ModelVersion) -> None:
    promised(versions.champion(), 0.9)
    EvaluationQuery.objects.update(item=None, category=catalogue.category_ensure("Nothing"))

    result = look().result

    assert result is not None
    assert not result["has_fallen"]
    assert "could not be measured" in result["words"]


@pytest.mark.usefixtures("shop")
class TestPage:
    def test_it_says_what_was_measured_when_it_is_measured_again_and_why_it_stays(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        olga = Client()
        olga.force_login(operator_make())
        assert "Quality: not measured since it was put in use" in olga.get("/ops/").content.decode()
        promised(versions.champion(), 0.9)
        cells(monkeypatch, {"1.0": 0.8})

        assert olga.post("/ops/measure").status_code == 302
        work_off("watch_quality")
        look()
        page = olga.get("/ops/").content.decode()

        assert "Quality has fallen under what was promised" in page
        assert "0.900 was promised, now it is 0.800 (0.780 to 0.820)" in page
        assert "It stays in use: it does not go back by itself: the setting is off." in page
        assert "Earlier measurements" in page
        assert "Measured again on " in page

    def test_without_held_out_photos_the_button_says_so(self) -> None:
        EvaluationQuery.objects.all().delete()
        olga = Client()
        olga.force_login(operator_make())

        page = olga.post("/ops/measure", follow=True).content.decode()

        assert "There are no held-out photos to ask" in page
        assert not Job.objects.filter(kind="watch_quality").exists()
