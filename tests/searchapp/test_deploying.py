"""One pointer says which version answers: moved only when it may be, followed by everybody, taken back exactly."""

import json
import shutil
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from ml.artifacts import load_bundle
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import (
    AuditEvent,
    Deployment,
    Evaluation,
    GalleryEntry,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
    Verdict,
)
from searchapp.services import (
    catalogue,
    deploying,
    gallery_dump,
    holding_out,
    index_audit,
    jobs,
    measuring,
    obstacles,
    pointer_moves,
    search,
    serving,
    snapshots,
    versions,
)
from searchapp.services.gallery_digest import digest_timed
from searchapp.services.going_back import rollback_outlook
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from tests.searchapp.api_cast import error_of, key_client, operator_make
from tests.searchapp.galleries import item_with_photos
from tests.searchapp.lineages import descendant
from tests.searchapp.trainings import OTHER_BUNDLE, candidate, small_shop
from tests.searchapp.verdict_reports import report_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]
PASSED: dict[str, Any] = {
    "name": "map_loss", "threshold": 0.01, "value": -0.1, "low": -0.2, "high": 0.0, "verdict": "pass",
}  # fmt: skip


def judged(version: ModelVersion, **gate: Any) -> ModelVersion:
    """As if it had been measured against the version in use, with this verdict."""
    comparison = measuring.Comparison(
        own={"n": 9},
        other={"n": 9},
        differences={},
        gates=[{**PASSED, **gate}],
        held_out=held_out_fingerprint(held_out_queries()),
    )
    measuring.comparison_store(version, versions.champion().version, comparison)
    return version


def promoted(version: ModelVersion, **options: Any) -> Job:
    return jobs.job_run_here(deploying.version_promote(version=version, user=None, **options))


def answer(photo: bytes) -> list[Any]:
    found = search.search_by_image(data=photo)
    return [found.model_version, [(r.sku, r.score, r.hamming, r.producer) for r in found.results]]


@pytest.fixture
def shop_and_photo(data_dir: Path, data_packs: Path, photos: list[bytes]) -> bytes:
    """Two classes, eight photos, encoded; and a photo to ask with."""
    small_shop(data_packs, count=4)
    return photos[1]


def test_a_candidate_changes_no_answer_and_none_of_the_rows_in_use(shop_and_photo: bytes) -> None:
    before, rows = answer(shop_and_photo), list(gallery_dump.rows())

    candidate()

    assert answer(shop_and_photo) == before
    assert [row for row in gallery_dump.rows() if row[2] == "1.0"] == rows
    assert GalleryEntry.objects.filter(producer__major=2).count() == 8
    serving.forget()
    assert answer(shop_and_photo) == before


def test_snapshots_stay_true_to_the_rows_through_a_candidate_and_its_promotion(shop_and_photo: bytes) -> None:
    snapshots.snapshot_write(versions.champion().version)
    version = judged(candidate())
    assert index_audit.audit().is_clean

    promoted(version)
    snapshots.snapshot_write(version)

    report = index_audit.audit().as_dict()
    assert (report["db_rows"], report["index_rows"], report["missing"], report["extra"]) == (8, 8, 0, 0)
    assert index_audit.audit().is_clean
    deploying.version_rollback(user=None)
    assert index_audit.audit().is_clean


def test_promotion_moves_the_pointer_and_every_answer_is_by_the_new_version(shop_and_photo: bytes) -> None:
    user = operator_make()
    version = judged(candidate())
    digest = digest_timed().value

    job = jobs.job_run_here(deploying.version_promote(version=version, user=user))

    result = job.result or {}
    assert job.state == JobState.DONE, job.error
    assert {name: result[name] for name in ("serving", "previous", "photos_to_encode")} == {
        "serving": "2.0",
        "previous": "1.0",
        "photos_to_encode": 0,
    }
    assert result["gallery_digest_before"] == result["gallery_digest_after"] == digest
    assert result["seconds"] >= 0
    found = search.search_by_image(data=shop_and_photo)
    assert found.model_version == "2.0"
    assert found.entries_by_version == {"2.0": 8}
    assert {result.producer for result in found.results} == {"2.0"}
    event = AuditEvent.objects.get(action="version.promote")
    assert (event.actor, event.subject, event.before["version"]) == (user, "version 2.0", "1.0")


def test_rollback_gives_the_old_answers_exactly_and_then_walks_further_back(shop_and_photo: bytes) -> None:
    before = answer(shop_and_photo)
    promoted(judged(candidate()))
    assert answer(shop_and_photo)[0] == "2.0"
    assert deploying.rollback_target() == ModelVersion.objects.get(major=1)

    job = deploying.version_rollback(user=None)

    result = job.result or {}
    assert (job.state, result["serving"], result["previous"]) == (JobState.DONE, "1.0", "2.0")
    assert result["gallery_digest_before"] == result["gallery_digest_after"]
    assert answer(shop_and_photo) == before
    assert AuditEvent.objects.filter(action="version.rollback").count() == 1
    with pytest.raises(Conflict, match="nothing to go back to"):
        deploying.version_rollback(user=None)
    assert versions.champion().version.name == "1.0"


def test_who_saw_another_deployment_live_goes_back_nowhere(shop_and_photo: bytes) -> None:
    second = judged(candidate())
    promoted(second)
    promoted(judged(ModelVersion.objects.get(major=1)))
    seen = versions.champion()
    client = key_client(operator_make())

    assert (deploying.version_rollback(user=None, expected_deployment=seen.pk).result or {})[
        "serving"
    ] == "2.0"
    with pytest.raises(Conflict, match=r"2\.0 was put in use meanwhile"):
        deploying.version_rollback(user=None, expected_deployment=seen.pk)
    with pytest.raises(CommandError, match=r"2\.0 was put in use meanwhile"):
        call_command("rollback", "--deployment", str(seen.pk))
    assert error_of(post(client, "/api/v1/rollback", {"deployment": seen.pk}), 409)["code"] == "conflict"
    assert error_of(post(client, "/api/v1/rollback", {"version": "1.0"}), 400)["fields"].keys() == {"version"}

    assert versions.champion().version == second
    assert Job.objects.filter(kind="rollback").count() == 1
    back = post(client, "/api/v1/rollback", {"deployment": versions.champion().pk})
    assert (back.status_code, back.json()["result"]["serving"]) == (202, "1.0")


@pytest.mark.parametrize("damage", ["file", "folder"])
def test_nobody_goes_back_to_a_version_whose_files_cannot_be_used(
    shop_and_photo: bytes, data_dir: Path, damage: str
) -> None:
    first, second = versions.champion().version, judged(candidate())
    promoted(second)
    promoted(judged(first))
    folder = data_dir / "models" / second.digest
    if damage == "folder":
        shutil.rmtree(folder)
    else:
        (folder / "encoder.onnx").write_bytes(b"nothing")

    with pytest.raises(Conflict, match=r"The files of 2\.0 cannot be used") as refused:
        deploying.version_rollback(user=None)
    assert str(data_dir) not in refused.value.message
    live = versions.champion()
    asked = jobs.job_create(kind="rollback", payload={"deployment": live.pk})
    failed = jobs.job_run_here(asked)

    assert (failed.state, versions.champion().pk) == (JobState.FAILED, live.pk)
    assert "The files of 2.0 cannot be used" in failed.error
    assert str(data_dir) not in failed.error


def test_a_second_click_is_the_same_promotion_until_it_has_ended(shop_and_photo: bytes) -> None:
    version = judged(candidate())

    first = deploying.version_promote(version=version, user=None)
    assert deploying.version_promote(version=version, user=None) == first
    with_reason = deploying.version_promote(version=version, user=None, override_reason="now")
    jobs.job_cancel(first)
    jobs.job_cancel(with_reason)
    again = deploying.version_promote(version=version, user=None)

    assert len({first.pk, with_reason.pk, again.pk}) == 3
    assert jobs.job_run_here(again).state == JobState.DONE


def test_after_two_promotions_two_steps_lead_back_to_the_first(shop_and_photo: bytes) -> None:
    second = judged(candidate())
    promoted(second)
    promoted(judged(ModelVersion.objects.get(major=1)))

    assert [(deploying.version_rollback(user=None).result or {})["serving"] for _ in range(2)] == [
        "2.0",
        "1.0",
    ]


def test_photos_that_came_meanwhile_are_encoded_before_the_pointer_moves(
    shop_and_photo: bytes, photos: list[bytes]
) -> None:
    version = judged(candidate())
    item_with_photos("late", photos[5:7])
    gone = ItemImage.objects.filter(item__sku="late").first()
    assert gone is not None
    catalogue.image_delete(image=gone)

    promoted(version)

    assert GalleryEntry.objects.filter(producer=version).count() == 9
    assert "late" in {result.sku for result in search.search_by_image(data=photos[6]).results}


def test_photos_added_later_are_encoded_by_the_version_in_use_and_again_after_going_back(
    shop_and_photo: bytes, photos: list[bytes]
) -> None:
    promoted(judged(candidate()))
    item_with_photos("late", photos[5:6])
    run_waiting_jobs()
    late = ItemImage.objects.get(item__sku="late")
    assert [entry.producer.name for entry in late.entries.all()] == ["2.0"]

    job = deploying.version_rollback(user=None)

    assert (job.result or {})["photos_to_encode"] == 1
    state = ItemImage.objects.with_state().get(pk=late.pk).state  # type: ignore[attr-defined]
    assert state == "pending"
    run_waiting_jobs()
    assert [entry.producer.name for entry in late.entries.order_by("pk")] == ["2.0", "1.0"]
    assert search.search_by_image(data=photos[5]).results[0].sku == "late"


def run_waiting_jobs() -> None:
    for job in Job.objects.filter(state=JobState.QUEUED).order_by("created_at"):
        jobs.job_run_here(job)


def test_a_version_with_too_many_photos_missing_is_refused_even_with_a_reason(
    shop_and_photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obstacles, "CATCH_UP", 7)
    version = judged(candidate(encoded=False))

    with pytest.raises(Conflict, match=r"8 of 8 photos have no entry that 2\.0 can search"):
        deploying.version_promote(version=version, user=None, override_reason="now")

    assert (versions.champion().version.name, Job.objects.filter(kind="promote").count()) == ("1.0", 0)
    call_command("encode_missing", "--model-version", "2.0", "--json", stdout=StringIO())
    assert promoted(version).state == JobState.DONE


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"verdict": "fail", "value": 0.1, "low": 0.05, "high": 0.2}, "loses at least 0.050 of mean average"),
        ({"verdict": "cannot_tell", "value": 0.0, "low": -0.1, "high": 0.08}, "may lose up to 0.080"),
        ({"verdict": "cannot_tell", "value": None, "low": None, "high": None}, "no held-out photo"),
        ({"verdict": "cannot_tell", "items": 3}, "held-out photos of 3 items, at least 10 are needed"),
    ],
)
def test_a_gate_that_does_not_pass_blocks_until_somebody_says_why(
    shop_and_photo: bytes, gate: dict[str, Any], words: str
) -> None:
    version = judged(candidate(), **gate)

    with pytest.raises(Conflict, match=words):
        deploying.version_promote(version=version, user=None, override_reason="  ")
    assert versions.champion().version.name == "1.0"

    job = promoted(version, override_reason="the old one is banned")
    assert job.state == JobState.DONE
    assert AuditEvent.objects.get(action="version.promote").reason == "the old one is banned"


def test_every_gate_that_does_not_pass_is_named_with_its_figures(shop_and_photo: bytes) -> None:
    version = judged(candidate())
    names: dict[str, tuple[dict[str, Any], str]] = {
        "flips": ({"value": 0.08, "low": 0.06, "high": 0.1, "threshold": 0.05}, "turns at least 6.0 % of the answers"),
        "worst_category": ({"verdict": "cannot_tell", "high": 0.2, "threshold": 0.03}, "may lose up to 0.200 of mean"),
        "latency": ({"value": 2.6, "low": None, "high": None, "threshold": 2.0}, "at least 2.6 times as long"),
        "rollback_loss": ({"low": 0.07, "threshold": 0.05}, "the way back to 1.0 with at least 0.070 less mean"),
        "chain_loss": ({"low": 0.04, "threshold": 0.03}, "0.040 of mean average precision against the first"),
        "blocked_flips": ({"value": 3, "low": 3, "high": 3, "threshold": 0}, "turns 3 answers wrong that an operator"),
        "new_gate": ({"low": 0.4, "threshold": 0.1}, "loses at least 0.400 by the gate new_gate, allowed: 0.1"),
    }  # fmt: skip
    gates = [
        PASSED,
        *({**PASSED, "name": name, "verdict": "fail", **gate} for name, (gate, _) in names.items()),
    ]

    found = obstacles.obstacles_of(version, gates)

    assert [obstacle.gate for obstacle in found] == list(names)
    assert [words for _, words in names.values() if words not in " ".join(o.message for o in found)] == []
    with pytest.raises(Conflict) as refused:
        obstacles.version_check(version, "", gates)
    assert all(obstacle.message in refused.value.message for obstacle in found)
    obstacles.version_check(version, "it has to be", gates)


def test_the_first_answers_after_a_promotion_are_those_it_was_tried_with(
    data_dir: Path, data_packs: Path
) -> None:
    small_shop(data_packs, classes=3)
    holding_out.hold_out(list(ItemImage.objects.values_list("item__category__path", flat=True).distinct()))
    job = promoted(candidate(), override_reason="to see it answer")

    probe = (job.result or {})["probe"]

    assert len(probe) == 3
    for asked in probe:
        image = ItemImage.objects.filter(image_sha256=asked["query"]).first()
        assert image is not None
        found = search.search_by_image(data=(data_dir / "media" / image.path).read_bytes())
        assert found.model_version == "2.0"
        assert [result.sku for result in found.results][: len(asked["skus"])] == asked["skus"] != []


def test_a_move_tells_what_took_how_long(shop_and_photo: bytes) -> None:
    forth = promoted(judged(candidate())).result or {}
    back = deploying.version_rollback(user=None).result or {}

    for result in (forth, back):
        assert 0 < result["pointer_seconds"] < 1
        assert 0 < result["prewarm_seconds"] < result["seconds"]
        assert result["digest_seconds"] >= 0
        assert abs(result["moved_at"] - time.time()) < 60


def test_the_move_itself_reads_no_row_of_the_gallery(
    shop_and_photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, move = judged(candidate()), pointer_moves._move
    asked: list[str] = []

    def watched(*arguments: Any) -> None:
        with CaptureQueriesContext(connection) as seen:
            move(*arguments)
        asked.extend(query["sql"] for query in seen)

    monkeypatch.setattr(pointer_moves, "_move", watched)
    promoted(version)
    deploying.version_rollback(user=None)

    tables = ("galleryentry", "itemimage", "searchapp_item")
    assert len(asked) > 5
    assert [sql for sql in asked if any(table in sql for table in tables)] == []


def test_the_log_keeps_who_why_and_the_digests_before_and_after(shop_and_photo: bytes) -> None:
    user, digest = operator_make(), digest_timed().value
    version = judged(candidate(), verdict="fail", low=0.05)
    encoded = digest_timed().value

    jobs.job_run_here(
        deploying.version_promote(version=version, user=user, override_reason="the old one is banned")
    )

    moved, checked = AuditEvent.objects.filter(action__in=("version.promote", "gallery.checked")).order_by(
        "pk"
    )
    assert (moved.actor, moved.reason) == (user, "the old one is banned")
    assert (moved.before["digest"], moved.after["digest"]) == (
        ModelVersion.objects.get(major=1).digest,
        version.digest,
    )
    assert moved.before["gallery_digest"] == encoded != digest
    assert checked.before == checked.after == {"gallery_digest": encoded}


# --- what going back would mean


def test_the_outlook_counts_what_only_the_version_in_use_has_encoded(
    shop_and_photo: bytes, photos: list[bytes]
) -> None:
    assert rollback_outlook() is None
    first, second = versions.champion().version, judged(descendant())
    promoted(second)
    item_with_photos("late", photos[5:7])
    run_waiting_jobs()
    held_out = held_out_fingerprint(held_out_queries())
    report = report_of("2.0", "1.0")
    Verdict.objects.create(version=second, against=first, held_out=held_out, report=report)

    outlook = rollback_outlook()

    assert outlook is not None
    assert (outlook.leaving.version, outlook.target, outlook.is_readable) == (second, first, True)
    assert (outlook.photos, outlook.items) == (2, 1)
    assert outlook.cell is not None
    assert (outlook.cell["query_version"], outlook.cell["map"]) == ("1.0", 0.489)
    assert outlook.measured_at is None
    Verdict.objects.update(held_out="other photos")
    older = rollback_outlook()
    assert older is not None
    assert (older.cell, older.measured_at) == (outlook.cell, Verdict.objects.get().created_at)
    assert (deploying.version_rollback(user=None).result or {})["photos_to_encode"] == 0
    assert "late" in {result.sku for result in search.search_by_image(data=photos[6]).results}


def test_of_another_lineage_the_outlook_promises_nothing_but_encoding(
    shop_and_photo: bytes, photos: list[bytes]
) -> None:
    promoted(judged(candidate()))
    item_with_photos("late", photos[5:6])
    run_waiting_jobs()

    outlook = rollback_outlook()

    assert outlook is not None
    assert (outlook.photos, outlook.items, outlook.is_readable, outlook.cell) == (1, 1, False, None)


def test_a_version_that_was_never_measured_is_measured_first(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs)
    holding_out.hold_out(list(ItemImage.objects.values_list("item__category__path", flat=True).distinct()))
    version = candidate()

    job = promoted(version)

    row = Evaluation.objects.get(version=version)
    assert row.metrics["against"] == "1.0"
    assert 0 <= row.metrics["map_low"] <= row.metrics["map"] <= row.metrics["map_high"] <= 1
    passed = row.metrics["gates"][0]["verdict"] == "pass"
    assert job.state == (JobState.DONE if passed else JobState.FAILED)
    assert versions.champion().version.name == ("2.0" if passed else "1.0")


def test_a_verdict_is_made_again_when_the_held_out_photos_changed(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs)
    version, live = judged(candidate()), versions.champion().version
    assert measuring.gates_of(version, live) == [PASSED]
    holding_out.hold_out(list(ItemImage.objects.values_list("item__category__path", flat=True).distinct()))

    assert measuring.gates_of(version, live) is None
    job = promoted(version)  # photos of two items are too few to judge by

    assert (job.state, versions.champion().version) == (JobState.FAILED, live)
    assert "held-out photos of 2 items" in job.error
    assert Evaluation.objects.filter(version=version).count() == 2
    stored = measuring.gates_of(version, live)
    assert stored is not None
    assert stored[0]["verdict"] == "cannot_tell"


def test_a_held_out_photo_that_is_an_entry_does_not_find_itself(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs)
    holding_out.hold_out(list(ItemImage.objects.values_list("item__category__path", flat=True).distinct()))
    version, query = versions.champion().version, held_out_queries()[0]
    assert measuring.version_answers(version, [query])["recall_at_10"][0] == 1.0

    for image in ItemImage.objects.exclude(image_sha256=query.image_sha256).filter(
        item__category=query.category_id
    ):
        catalogue.image_delete(image=image)

    # Its own entry is the only relevant one left, so there is nothing to find.
    values = measuring.version_answers(version, [query])
    assert {name: bool(np.isnan(found[0])) for name, found in values.items()} == dict.fromkeys(values, True)


def test_the_version_in_use_and_a_share_of_nothing_are_refused(shop_and_photo: bytes) -> None:
    version = judged(candidate())

    with pytest.raises(Conflict, match=r"1\.0 is in use already"):
        deploying.version_promote(version=versions.champion().version, user=None, override_reason="again")
    for share in (0, 101, True, 2.5):
        with pytest.raises(
            InvalidInput, match=f"it is {share}, allowed: a whole number of percent, 1 to 100"
        ):
            deploying.version_promote(version=version, user=None, share=share)  # type: ignore[arg-type]

    assert Deployment.objects.count() == 1


def test_a_damaged_bundle_is_refused(shop_and_photo: bytes, data_dir: Path) -> None:
    version = judged(candidate())
    (data_dir / "models" / version.digest / "encoder.onnx").write_bytes(b"nothing")

    with pytest.raises(Conflict, match=r"The files of 2\.0 cannot be used: encoder\.onnx") as refused:
        deploying.version_promote(version=version, user=None, override_reason="now")
    assert str(data_dir) not in refused.value.message


def test_a_promotion_killed_after_the_move_tells_what_it_did(
    shop_and_photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = deploying.version_promote(version=judged(candidate()), user=None)

    def dies(_run: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pointer_moves, "_said", dies)
        with pytest.raises(KeyboardInterrupt):
            jobs.job_run_here(job)
    assert versions.champion().version.name == "2.0"

    job.refresh_from_db()
    assert (jobs.job_run_here(job).result or {})["serving"] == "2.0"
    assert Deployment.objects.count() == 2


def test_a_photo_that_came_during_the_move_is_encoded_after_it(
    shop_and_photo: bytes, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    version, said = judged(candidate()), pointer_moves._said

    def late(run: jobs.JobRun) -> dict[str, Any]:
        """Committed before the move was, seen by nothing in it, encoded by the version before."""
        item_with_photos("late", photos[5:6])
        Job.objects.filter(kind="encode_images").update(state=JobState.DONE)
        return said(run)

    monkeypatch.setattr(pointer_moves, "_said", late)
    job = promoted(version)

    assert (job.result or {})["photos_to_encode"] == 1
    run_waiting_jobs()
    image = ItemImage.objects.get(item__sku="late")
    assert [entry.producer.name for entry in image.entries.all()] == ["2.0"]


def test_somebody_who_moved_the_pointer_meanwhile_is_not_overruled(shop_and_photo: bytes) -> None:
    job = deploying.version_promote(version=judged(candidate()), user=None)
    first = ModelVersion.objects.get(major=1)
    other = ModelVersion.objects.exclude(pk=first.pk).get()
    live = versions.champion()
    Deployment.objects.filter(pk=live.pk).update(ended_at=live.created_at)
    Deployment.objects.create(version=other, view=other.views.get(), previous=live)

    done = jobs.job_run_here(job)

    assert done.state == JobState.FAILED
    assert "2.0 was put in use meanwhile" in done.error


def test_the_commands_print_the_contracts_json(shop_and_photo: bytes) -> None:
    judged(candidate())
    names = {"serving", "previous", "seconds", "gallery_digest_before", "gallery_digest_after"}

    forth, back = StringIO(), StringIO()
    call_command("promote", "2.0", "--json", "--wait", stdout=forth)
    call_command("rollback", "--json", "--wait", stdout=back)

    assert names <= set(json.loads(forth.getvalue()))
    assert names <= set(json.loads(back.getvalue()))
    assert [json.loads(one.getvalue())["serving"] for one in (forth, back)] == ["2.0", "1.0"]
    with pytest.raises(CommandError, match="nothing to go back to") as failed:
        call_command("rollback")
    assert failed.value.returncode == 1
    with pytest.raises(CommandError, match="1 to 100") as wrong:
        call_command("promote", "2.0", "--share", "0")
    assert wrong.value.returncode == 2


def test_operators_promote_and_go_back_over_http(shop_and_photo: bytes) -> None:
    client = key_client(operator_make())
    judged(candidate(), verdict="fail", low=0.05)
    address = "/api/v1/model-versions/2.0/promote"

    assert error_of(post(client, address, {}), 409)["code"] == "conflict"
    assert error_of(post(client, "/api/v1/model-versions/9.0/promote", {}), 404)["code"] == "not_found"
    assert error_of(post(client, address, {"reason": "x"}), 400)["fields"].keys() == {"reason"}
    assert error_of(post(client, address, {"share": 500}), 400)["fields"].keys() == {"share"}
    accepted = post(client, address, {"override": "we know"})
    assert (accepted.status_code, accepted.json()["kind"]) == (202, "promote")
    jobs.job_run_here(Job.objects.get(pk=accepted.json()["id"]))
    back = client.post("/api/v1/rollback")
    assert back.status_code == 202
    assert back.json()["result"]["serving"] == "1.0"
    assert error_of(client.post("/api/v1/rollback"), 409)["code"] == "conflict"


def post(client: Client, address: str, body: dict[str, Any]) -> Any:
    return client.post(address, json.dumps(body), content_type="application/json")


# --- an update that brings other weights


def test_weights_of_an_update_become_a_candidate_and_never_what_serves(
    shop_and_photo: bytes, settings: Settings
) -> None:
    before = answer(shop_and_photo)
    assert versions.shipped_candidate_ensure() is None
    settings.DEFAULT_BUNDLE = OTHER_BUNDLE

    made = versions.shipped_candidate_ensure()

    assert made is not None
    assert (made.name, made.parent, made.digest) == ("2.0", None, load_bundle(OTHER_BUNDLE).digest)
    assert made.lineage != versions.champion().version.lineage
    assert versions.shipped_candidate_ensure() is None
    assert versions.default_version_ensure().name == "1.0"
    assert (ModelVersion.objects.count(), Deployment.objects.count()) == (2, 1)
    assert answer(shop_and_photo) == before


def test_a_new_installation_gets_the_shipped_weights_as_its_first_version_only(
    data_dir: Path, settings: Settings
) -> None:
    settings.DEFAULT_BUNDLE = OTHER_BUNDLE

    assert versions.shipped_candidate_ensure() is None
    assert versions.default_version_ensure().name == "1.0"
    assert versions.shipped_candidate_ensure() is None


def test_damaged_weights_of_an_update_stop_nothing(
    shop_and_photo: bytes, settings: Settings, tmp_path: Path
) -> None:
    settings.DEFAULT_BUNDLE = tmp_path / "nowhere"

    assert versions.shipped_candidate_ensure() is None
