"""A base version comes from the catalogue's own photos, never from its held-out ones, and ends as a candidate."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django.fixtures import Settings

from ml.artifacts import load_bundle
from ml.base_version.catalogue import CatalogueVersion
from ml.data.images import ImageSet
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import (
    Evaluation,
    EvaluationQuery,
    GalleryEntry,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
)
from searchapp.services import (
    base_training,
    catalogue,
    gallery_dump,
    holding_out,
    jobs,
    leases,
    search,
    training_attempt,
    training_photos,
    training_run,
    versions,
)
from tests.searchapp.api_cast import error_of, key_client, operator_make
from tests.searchapp.galleries import item_with_photos
from tests.searchapp.trainings import OTHER_BUNDLE, TINY, class_photos, small_shop, start

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture(autouse=True)
def _the_heartbeat_stays_quiet(settings: Settings) -> None:
    """Its own connection cannot see the job of a test that never commits, and would take the lease for lost."""
    settings.JOB_LEASE_SECONDS = 3600


def answers(photos: list[bytes]) -> list[Any]:
    found = [search.search_by_image(data=photo) for photo in photos]
    return [(one.model_version, [(r.sku, r.score, r.hamming) for r in one.results]) for one in found]


def test_a_killed_training_goes_on_and_ends_as_a_measured_candidate(
    data_dir: Path, data_packs: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after its second epoch; photos come and go before somebody takes the job up again."""
    small_shop(data_packs, classes=3)
    serving_before, rows_before = answers(photos[:3]), list(gallery_dump.rows())
    job = start(label_fraction=0.5, promote=True)
    monkeypatch.setattr(
        leases, "PROGRESS_SECONDS", 0.0
    )  # a warm process is there before the first report is due
    dies_at(monkeypatch, "training.after_epoch", 2)
    with pytest.raises(KeyboardInterrupt):
        jobs.job_run_here(job)
    job.refresh_from_db()
    history = job.checkpoint["history"]
    assert (job.checkpoint["stage"], job.checkpoint["epochs"], [p["epoch"] for p in history]) == (
        "training",
        9,
        [1, 2],
    )
    assert 0 < job.progress < 1
    item_with_photos("late", photos[10:11], "Fruit")

    job = jobs.job_run_here(job)

    assert job.state == JobState.DONE, job.error
    assert job.checkpoint["history"][:2] == history
    assert [point["epoch"] for point in job.checkpoint["history"]] == list(range(1, 10))
    assert [point["epoch"] for point in job.checkpoint["history"] if "validation" in point] == [4, 8, 9]
    result = job.result or {}
    version = ModelVersion.objects.get(major=2)
    assert (result["version"], result["parent"], version.parent, version.method) == (
        "2.0",
        None,
        None,
        "twin-bottleneck",
    )
    assert version.lineage != versions.champion().version.lineage
    assert len(version.label_registry) == 3
    assert version.label_registry == sorted(version.label_registry)
    note = version.manifest["training"]
    assert note["command"].startswith("manage.py train_base --architecture parity --label-fraction 0.5")
    assert note["labels_used"] < result["photos"] * 0.6
    assert note["started_from"] is None

    # every photo that is there now has an entry by it, and nothing in use was touched
    encoded = set(GalleryEntry.objects.filter(producer=version).values_list("image_id", flat=True))
    assert encoded == set(ItemImage.objects.values_list("pk", flat=True))
    assert result["encoded"] == len(encoded) == 28
    assert [row for row in gallery_dump.rows() if row[2] == "1.0"] == rows_before
    assert versions.champion().version.name == "1.0"
    assert answers(photos[:3]) == serving_before

    # both were measured on the same held-out photos; three items are too few to tell, so it is not put in use
    own, other = Evaluation.objects.get(version=version), Evaluation.objects.get(version__major=1)
    assert own.metrics["n"] == other.metrics["n"] > 0
    assert own.metrics["map_low"] <= own.metrics["map"] <= own.metrics["map_high"]
    assert own.metrics["gates"] == result["gates"]
    assert (result["gates"][0]["verdict"], result["promotion_job"]) == ("cannot_tell", None)
    assert not (data_dir / "training").exists() or not list((data_dir / "training").iterdir())


def dies_at(monkeypatch: pytest.MonkeyPatch, point: str, times: int) -> None:
    """The process ends at the `times`-th pass of a failpoint, as by a kill: no outcome is written by the handler."""
    passed = [0]

    def failpoint(name: str) -> None:
        passed[0] += name == point
        if name == point and passed[0] == times:
            raise KeyboardInterrupt(name)

    monkeypatch.setattr(training_attempt, "failpoint", failpoint)


class Seen:
    """In the place of the training itself: what it was given. It writes the budget bundle as its result."""

    def __init__(self) -> None:
        self.images: list[ImageSet] = []
        self.options: list[dict[str, Any]] = []

    def __call__(self, images: ImageSet, recipe: Any, target: Path, **options: Any) -> CatalogueVersion:
        import shutil

        self.images.append(images)
        self.options.append({"recipe": recipe, **options})
        shutil.copytree(OTHER_BUNDLE, target)
        return CatalogueVersion(load_bundle(target), is_warm=False, epochs=1, seconds=1.0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    watch = Seen()
    monkeypatch.setattr(training_run, "train_catalogue", watch)
    return watch


def test_evaluation_queries_are_never_trained_on(data_dir: Path, data_packs: Path, seen: Seen) -> None:
    """Neither those that are photos of the catalogue nor a photo that was imported as a query as well."""
    small_shop(data_packs, encode=False)
    twin = ItemImage.objects.exclude(image_sha256__regex="[08]$").first()
    assert twin is not None
    category = twin.item.category
    EvaluationQuery.objects.create(
        source="pack:twin", split="test", image_sha256=twin.image_sha256, upload_sha256="0" * 64,
        extension="jpg", relevance="category", category=category,
    )  # fmt: skip
    other = ItemImage.objects.exclude(item__category=category)
    one_in_eight = {one.image_sha256 for one in other if holding_out.is_one_in_eight(one.image_sha256)}
    assert one_in_eight

    job = jobs.job_run_here(start())

    assert job.state == JobState.DONE, job.error
    held_out = set(EvaluationQuery.objects.values_list("image_sha256", flat=True))
    assert held_out >= one_in_eight | {twin.image_sha256}
    planned = {photo.image_sha256 for photo in training_photos.training_photos()}
    assert not planned & held_out
    assert len(seen.images[0]) == len(planned) == 18 - len(held_out)
    everything = set(ItemImage.objects.values_list("image_sha256", flat=True))
    assert planned == everything - held_out


def test_a_photo_that_is_one_in_eight_is_left_out_before_its_category_is_large_enough(
    data_dir: Path, data_packs: Path
) -> None:
    """Otherwise a later import would make a query of a photo that was trained on."""
    small_shop(data_packs, count=7, encode=False)
    shas = {photo.image_sha256 for photo in training_photos.training_photos()}

    assert not EvaluationQuery.objects.exists()
    present = set(ItemImage.objects.values_list("image_sha256", flat=True))
    assert shas == {sha for sha in present if not holding_out.is_one_in_eight(sha)} < present


def test_the_pixels_are_those_of_a_query_and_labels_follow_the_categories(
    data_dir: Path, data_packs: Path, seen: Seen
) -> None:
    from searchapp.services import intake

    small_shop(data_packs, encode=False)
    third = list(class_photos(data_packs, 3, 9).values())[2]
    item_with_photos("single", third[:1], "Solo")

    jobs.job_run_here(start())

    images = seen.images[0]
    plan = training_photos.training_photos()
    expected = intake.stored_pixels(plan[0].path, input_size=40)
    assert torch.equal(images.pixels[0], torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert len(images.names) == 2
    slugs = [images.names[label] if label >= 0 else "" for label in images.labels.tolist()]
    assert slugs == [photo.category for photo in plan]
    assert set(images.packs) == {"product"}


def test_training_goes_on_from_the_version_in_use_unless_told_not_to(
    data_dir: Path, data_packs: Path, seen: Seen
) -> None:
    small_shop(data_packs, encode=False)

    jobs.job_run_here(start(from_scratch=False))
    jobs.job_run_here(start(from_scratch=True))

    assert seen.options[0]["start"].digest == versions.champion().version.digest
    assert seen.options[1]["start"] is None


def test_a_photo_that_cannot_be_read_is_marked_and_left_out(
    data_dir: Path, data_packs: Path, seen: Seen
) -> None:
    small_shop(data_packs, encode=False)
    broken = training_photos.training_photos()[0]
    (data_dir / "media" / broken.path).write_bytes(b"no picture")

    job = jobs.job_run_here(start())

    assert job.state == JobState.DONE, job.error
    assert broken.image_sha256 not in {photo.image_sha256 for photo in training_photos.training_photos()}
    assert len(seen.images) == 1
    assert ItemImage.objects.get(pk=broken.image_id).failure.startswith("The stored file cannot be read")


def test_photos_deleted_during_training_get_no_entry_and_a_killed_one_starts_anew_without_them(
    data_dir: Path, data_packs: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shop(data_packs, encode=False)
    gone = ItemImage.objects.get(pk=training_photos.training_photos()[0].image_id)
    job = start()

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "train_catalogue", dies)
        with pytest.raises(KeyboardInterrupt):
            jobs.job_run_here(job)
    catalogue.image_delete(image=gone)

    job.refresh_from_db()
    job = jobs.job_run_here(job)

    assert job.state == JobState.DONE, job.error
    assert len(seen.images[0]) == len(training_photos.training_photos())
    assert GalleryEntry.objects.filter(producer__major=2).count() == 17


@pytest.mark.parametrize("point", ["training.after_bundle", "training.after_register", "encoding"])
def test_killed_after_training_it_neither_trains_nor_registers_twice(
    data_dir: Path, data_packs: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    from searchapp.services import encoding

    small_shop(data_packs, encode=False)
    job = start()

    def dies(name: str) -> None:
        raise KeyboardInterrupt(name)

    with monkeypatch.context() as patched:
        if point == "encoding":
            patched.setattr(encoding, "failpoint", dies)
        else:
            dies_at(patched, point, 1)
        with pytest.raises(KeyboardInterrupt):
            jobs.job_run_here(job)

    job.refresh_from_db()
    job = jobs.job_run_here(job)

    assert job.state == JobState.DONE, job.error
    assert (len(seen.images), ModelVersion.objects.count()) == (1, 2)
    assert GalleryEntry.objects.filter(producer__major=2).count() == 18


def test_a_cancelled_training_ends_within_a_step_and_a_retry_goes_on_from_its_last_epoch(
    data_dir: Path, data_packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchapp.services import leases

    monkeypatch.setattr(leases, "PROGRESS_SECONDS", 0.0)
    small_shop(data_packs, encode=False)
    job = start()
    epochs = []

    def cancel(name: str) -> None:
        if name == "training.after_epoch":
            epochs.append(name)
            jobs.job_cancel(Job.objects.get(pk=job.pk))

    with monkeypatch.context() as patched:
        patched.setattr(training_attempt, "failpoint", cancel)
        done = jobs.job_run_here(job)

    assert (done.state, len(epochs), ModelVersion.objects.count()) == (JobState.CANCELLED, 1, 1), done.error
    again = jobs.job_retry(done)
    dies_at(monkeypatch, "training.after_epoch", 1)
    with pytest.raises(KeyboardInterrupt):
        jobs.job_run_here(again)
    again.refresh_from_db()
    assert [point["epoch"] for point in again.checkpoint["history"]] == [1, 2]


def test_numbers_go_up_and_are_never_used_again(data_dir: Path, data_packs: Path, seen: Seen) -> None:
    small_shop(data_packs, encode=False)
    first = versions.default_version_ensure()
    sizes = {"code_bits": 128, "dimension": 128, "size_bytes": 1, "lineage": first.lineage}
    ModelVersion.objects.create(major=4, minor=2, digest="4" * 64, **sizes)

    job = jobs.job_run_here(start())

    assert (job.result or {})["version"] == "5.0"


def test_two_trainings_never_run_at_once(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs, encode=False)
    first, second = start(), start(label_fraction=0.5)
    assert (first.queue, second.queue) == (Job.Queue.TRAINING, Job.Queue.TRAINING)
    Job.objects.filter(pk=first.pk).update(state=JobState.RUNNING)

    assert jobs.job_run(second.pk, "another worker") is False

    second.refresh_from_db()
    assert second.state == JobState.QUEUED


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"label_fraction": 0.0}, "label_fraction", "it is 0, allowed: above 0, up to 1"),
        ({"label_fraction": 1.5}, "label_fraction", "it is 1.5, allowed: above 0, up to 1"),
        ({"label_fraction": float("nan")}, "label_fraction", "it is nan"),
        ({"architecture": "huge"}, "architecture", "it is 'huge', allowed: parity, budget"),
        ({"config": {"epochs": 3}}, "config", "unknown key epochs; allowed: seed, stored_size, method, fit"),
        ({"config": {"fit": {"epochs": 0}}}, "config", "epochs 0 (>= 1)"),
        ({"config": {"sampling": {"classes_per_batch": 9}}}, "config", "is 9, there are 2 categories"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(
    data_dir: Path, data_packs: Path, changes: dict[str, Any], field: str, words: str
) -> None:
    small_shop(data_packs, encode=False)

    with pytest.raises(InvalidInput) as refused:
        start(**changes)

    assert words in refused.value.message
    assert set(refused.value.fields) == {field}
    assert not Job.objects.filter(kind="train_base").exists()


@pytest.mark.parametrize(("classes", "count"), [(0, 0), (1, 9), (3, 1)])
def test_a_catalogue_with_too_little_in_it_is_refused(
    data_dir: Path, data_packs: Path, classes: int, count: int
) -> None:
    small_shop(data_packs, classes=classes, count=count, encode=False)

    with pytest.raises(Conflict, match="too little to learn from"):
        start()


def test_the_curve_stays_small_and_keeps_its_end() -> None:
    points: list[dict[str, Any]] = []
    for epoch in range(1, 1001):
        points = training_attempt.history_with(points, {"epoch": epoch, "loss": 1.0})
        assert len(points) <= base_training.HISTORY_POINTS
        assert points[-1]["epoch"] == epoch

    assert [point["epoch"] for point in points] == sorted({point["epoch"] for point in points})


def test_an_epoch_that_is_done_again_replaces_its_point() -> None:
    points = [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}]

    assert training_attempt.history_with(points, {"epoch": 2, "loss": 1.9}) == [
        points[0],
        {"epoch": 2, "loss": 1.9},
    ]


def test_the_command_prints_the_version_or_the_job(
    data_dir: Path, data_packs: Path, seen: Seen, tmp_path: Path
) -> None:
    small_shop(data_packs)
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(TINY), encoding="utf-8")

    done, queued = StringIO(), StringIO()
    call_command("train_base", "--config", str(config), "--wait", "--json", "--promote", stdout=done)
    call_command("train_base", "--json", stdout=queued)

    result = json.loads(done.getvalue())
    assert result["version"] == "2.0"
    assert ("promotion" in result) == (result["gates"][0]["verdict"] == "pass")
    assert set(json.loads(queued.getvalue())) == {"job", "state"}
    config.write_text("[]", encoding="utf-8")
    with pytest.raises(CommandError, match="holds a list, allowed: an object") as wrong:
        call_command("train_base", "--config", str(config))
    assert wrong.value.returncode == 2


def test_operators_start_a_training_over_http(data_dir: Path, data_packs: Path, staff: Client) -> None:
    small_shop(data_packs, encode=False)
    operator = key_client(operator_make())

    def post(client: Client, body: dict[str, Any]) -> Any:
        return client.post("/api/v1/model-versions", json.dumps(body), content_type="application/json")

    assert error_of(post(staff, {"method": "base"}), 403)["code"] == "not_allowed"
    assert error_of(post(operator, {}), 400)["fields"].keys() == {"method"}
    assert error_of(post(operator, {"method": "base", "labels": 1}), 400)["fields"].keys() == {"labels"}
    refused = error_of(post(operator, {"method": "base", "config": {"fit": {"epoch": 1}}}), 400)
    assert "unknown key epoch; allowed: epochs" in refused["fields"]["config"]
    assert not Job.objects.filter(kind="train_base").exists()
    accepted = post(operator, {"method": "base", "label_fraction": 0.5, "architecture": "budget"})
    assert (accepted.status_code, accepted.json()["kind"]) == (202, "train_base")
    payload = Job.objects.get(pk=accepted.json()["id"]).payload
    assert (payload["label_fraction"], payload["architecture"], payload["from_scratch"]) == (
        0.5,
        "budget",
        False,
    )


def test_folders_of_trainings_that_ended_long_ago_are_removed(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs, encode=False)
    old, fresh, running = (start() for _ in range(3))
    for job in (old, fresh, running):
        (data_dir / "training" / str(job.pk)).mkdir(parents=True)
    Job.objects.filter(pk=old.pk).update(state=JobState.CANCELLED, finished_at="2020-01-01T00:00:00Z")
    Job.objects.filter(pk=fresh.pk).update(state=JobState.FAILED, finished_at="2999-01-01T00:00:00Z")

    assert base_training.training_leftovers_remove() == 1

    left = {folder.name for folder in (data_dir / "training").iterdir()}
    assert left == {str(fresh.pk), str(running.pk)}
