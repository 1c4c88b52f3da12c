"""Correcting the gallery: fitted from a sample, judged, put in use, taken back; no row of it ever changes."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from ml.artifacts import BundleError
from ml.methods.corrector.config import FitConfig
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import (
    AuditEvent,
    Deployment,
    GalleryView,
    Job,
    JobState,
    ModelVersion,
    PairCalibration,
)
from searchapp.services import (
    correcting_fit,
    correcting_run,
    correctors,
    deploying,
    gallery_dump,
    jobs,
    serving,
    versions,
)
from searchapp.services.correcting import correction_start, items_to_fit
from tests.searchapp.api_cast import operator_make
from tests.searchapp.stale_shop import stale_shop
from tests.searchapp.trainings import candidate, small_shop
from tests.searchapp.turned import turned_version

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("quiet_heartbeat")]


def corrected(**options: Any) -> dict[str, Any]:
    job = jobs.job_run_here(correction_start(**{"user": None, **options}))
    assert job.state == JobState.DONE, job.error
    return job.result or {}


@pytest.fixture(autouse=True)
def _short_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affine map alone mends what is only turned."""
    monkeypatch.setattr(correcting_fit, "CONFIG", FitConfig(steps=0))


@pytest.fixture
def second(data_dir: Path, data_packs: Path) -> ModelVersion:
    return stale_shop(data_packs)


def test_a_correction_that_passes_serves_at_once_and_a_rollback_undoes_it(second: ModelVersion) -> None:
    rows, raw = list(gallery_dump.rows()), served_embeddings()
    user = operator_make()

    result = corrected(user=user)

    live = versions.champion()
    assert result["switched"]
    assert (live.version, live.view.corrector_digest) == (second, result["view"])
    assert [gate["verdict"] for gate in result["gates"]] == ["pass"]
    assert result["map_after"] > result["map_before"]
    (told,) = result["producers"]
    assert (told["producer"], told["entries"], told["helps"]) == ("1.0", 60, True)
    assert told["pairs"] == 48  # and not the held-out ones, which judge
    assert told["error"] < 0.5 * told["staleness"]
    assert result["fitted_on"] == 48
    assert result["reencode_seconds"] > 0
    assert live.measured["state"] == "corrected"
    assert live.measured["map"] == result["map_after"]

    turned = served_embeddings()
    assert (np.abs(turned - raw).max(axis=1) > 0.05).all()
    assert list(gallery_dump.rows()) == rows
    assert result["gallery_digest_before"] == result["gallery_digest_after"]
    event = AuditEvent.objects.get(action="gallery.correct")
    assert (event.actor, event.after["corrector"]) == (user, result["view"])
    assert event.before["gallery_digest"] == result["gallery_digest_before"]

    deploying.version_rollback(user=None)
    assert versions.champion().view.corrector_digest == ""
    np.testing.assert_array_equal(served_embeddings(), raw)


def served_embeddings() -> np.ndarray[Any, np.dtype[np.float32]]:
    entries = serving.current().champion.view.compacted_entries()
    return entries.embeddings[np.argsort(entries.entry_ids)].astype(np.float32)


def test_what_is_corrected_is_the_old_entry_as_the_new_encoder_would_have_made_it(
    second: ModelVersion,
) -> None:
    corrected()
    from searchapp.models import ItemImage
    from searchapp.services.encoding import encode_images

    fresh = np.stack(
        [
            np.frombuffer(entry.embedding, "<f2").astype(np.float32)
            for entry in encode_images(
                version=second, image_ids=ItemImage.objects.values_list("pk", flat=True)
            )
        ]
    )
    cosines = (served_embeddings() * fresh).sum(axis=1)
    assert np.median(cosines) > 0.9


def test_a_gate_that_does_not_pass_leaves_nothing_behind_but_its_reason(second: ModelVersion) -> None:
    """With held-out photos of one item nobody can tell."""
    from searchapp.models import EvaluationQuery

    kept = EvaluationQuery.objects.order_by("pk").first()
    assert kept is not None
    EvaluationQuery.objects.exclude(pk=kept.pk).delete()
    before = versions.champion().pk

    result = corrected()

    assert (result["view"], result["switched"]) == (None, False)
    assert "too few to tell" in result["reason"] or "no held-out" in result["reason"]
    assert versions.champion().pk == before
    assert not PairCalibration.objects.exclude(corrector_digest="").exists()
    assert not list((correctors._folder()).glob("*"))
    forced = corrected(override_reason="the pictures look right")
    assert forced["switched"]
    assert "look right" in versions.champion().reason
    assert result["gates"][0]["verdict"] == "cannot_tell"


def test_a_map_that_does_not_help_is_given_up_with_its_reason(data_dir: Path, data_packs: Path) -> None:
    """Where nothing has drifted there is nothing to map."""
    stale_shop(data_packs, degrees=0.0)
    before = versions.champion().pk
    result = corrected()
    assert result["view"] is None or result["producers"][0]["helps"]
    assert versions.champion().pk == before or result["gates"][0]["verdict"] == "pass"


def test_few_entries_are_given_up_and_left_as_they_are(second: ModelVersion, monkeypatch: Any) -> None:
    monkeypatch.setattr("searchapp.services.correcting_fit.LEAST_PAIRS", 1_000)
    before = versions.champion().pk
    result = corrected()
    assert result["view"] is None
    assert "too few" in result["producers"][0]["reason"]
    assert versions.champion().pk == before


def test_a_candidate_gets_a_view_for_its_promotion_and_nothing_moves(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, in_use=False)
    before = versions.champion().pk

    result = corrected(version=version)

    assert (result["switched"], versions.champion().pk) == (False, before)
    assert GalleryView.objects.filter(version=version, corrector_digest=result["view"]).exists()
    assert deploying.corrector_to_serve(version) == result["view"]


def test_a_correction_cancelled_after_its_fit_can_be_taken_up_again(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had fitted went with the cancellation; it is fitted again."""
    with monkeypatch.context() as patched:
        patched.setattr(correcting_run, "failpoint", cancelled_at("correct.after_calibration"))
        job = jobs.job_run_here(correction_start(user=None))
    assert job.state == JobState.CANCELLED
    assert job.checkpoint["digest"]
    assert not list(correctors._folder().glob("*"))

    again = jobs.job_run_here(jobs.job_retry(job, None))

    assert again.state == JobState.DONE, again.error
    assert (
        versions.champion().view.corrector_digest == (again.result or {})["view"] == job.checkpoint["digest"]
    )


def cancelled_at(point: str) -> Callable[[str], None]:
    def failpoint(name: str) -> None:
        if name == point:
            Job.objects.update(cancel_requested=True)

    return failpoint


def test_increments_of_a_trunk_share_its_map(second: ModelVersion) -> None:
    result = corrected()
    first = ModelVersion.objects.get(major=1)
    ModelVersion.objects.create(
        major=1, minor=1, digest="d" * 64, parent=first, lineage=first.lineage, method="lifelong",
        architecture="compact", code_bits=128, dimension=128, size_bytes=1,
    )  # fmt: skip
    maps = correctors.corrector_of(result["view"])
    assert sorted(maps) == ["1.0", "1.1"]
    assert maps["1.0"] is maps["1.1"]
    assert correctors.corrector_of("") == {}


def test_a_corrector_that_was_damaged_or_swapped_is_refused(second: ModelVersion) -> None:
    digest = corrected()["view"]
    folder = correctors._stored(digest)
    correctors._open.clear()
    folder.rename(folder.with_name("e" * 64))
    with pytest.raises(BundleError, match="is " + digest):
        correctors.corrector_of("e" * 64)
    with pytest.raises(FileNotFoundError):
        correctors.corrector_of(digest)


def test_the_same_correction_twice_is_one_and_changes_nothing_more(second: ModelVersion) -> None:
    first = correction_start(user=None)
    assert correction_start(user=None) == first
    with pytest.raises(Conflict, match="under way"):
        correction_start(user=None, fit_items=50)
    jobs.job_run_here(first)
    deployments = Deployment.objects.count()
    again = corrected()
    assert again["view"] is None
    assert "by these very maps" in again["reason"]
    assert Deployment.objects.count() == deployments


def test_there_is_nothing_to_correct_for_other_lineages_or_fresh_galleries(
    data_dir: Path, data_packs: Path
) -> None:
    small_shop(data_packs, count=2)
    with pytest.raises(Conflict, match="nothing to correct"):
        correction_start(user=None)
    with pytest.raises(Conflict, match="lineage"):
        correction_start(user=None, version=candidate(encoded=False))
    with pytest.raises(InvalidInput, match="40 to 100,000"):
        correction_start(user=None, fit_items=5)


def test_the_gallery_in_use_is_not_corrected_under_a_trial(second: ModelVersion) -> None:
    other = turned_version(second)
    view = GalleryView.objects.get(version=other)
    Deployment.objects.create(arm=Deployment.Arm.CANDIDATE, version=other, view=view, share=25)
    with pytest.raises(Conflict, match="being tried beside"):
        correction_start(user=None)
    assert correction_start(user=None, version=other).payload["version"] == other.name


def test_a_trial_that_began_during_a_correction_keeps_its_gallery(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, live = turned_version(second), versions.champion()

    def passing(point: str) -> None:
        if point == "correct.before_move":
            view = GalleryView.objects.get(version=other)
            Deployment.objects.create(arm=Deployment.Arm.CANDIDATE, version=other, view=view, share=25)

    monkeypatch.setattr(correcting_run, "failpoint", passing)

    job = jobs.job_run_here(correction_start(user=None, override_reason="the pictures look right"))

    assert (job.state, "being tried beside" in job.error) == (JobState.FAILED, True)
    assert versions.champion() == live
    assert not PairCalibration.objects.exclude(corrector_digest="").exists()
    assert not list(correctors._folder().glob("*"))


def test_the_sample_is_one_in_a_hundred_of_a_large_gallery() -> None:
    assert items_to_fit({1: 1_000_000, 2: 100_000, 3: 900, 4: 50}, 128) == {1: 5_000, 2: 1_000, 3: 512, 4: 50}
    assert items_to_fit({1: 3_000, 2: 1_000, 3: 10}, 128, 400) == {1: 299, 2: 100, 3: 10}


def test_the_command_prints_the_contract(second: ModelVersion) -> None:
    out = StringIO()
    call_command("correct_gallery", "--fit-items", "60", "--json", stdout=out)
    result = json.loads(out.getvalue())
    assert {"view", "fitted_on", "seconds", "gates"} <= set(result)
    assert versions.champion().view.corrector_digest == result["view"]


def test_the_command_fails_when_nothing_was_corrected(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs, count=2)
    with pytest.raises(CommandError, match="nothing to correct"):
        call_command("correct_gallery")
