"""A candidate is trained from the catalogue and what its gallery stored, foretold by a pilot, and judged."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django.fixtures import Settings

from ml.artifacts import Bundle, load_bundle, write_bundle
from ml.base_version.catalogue import CatalogueVersion
from ml.base_version.catalogue_candidate import Material
from ml.base_version.recipe import Recipe
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import (
    Category,
    EvaluationQuery,
    GalleryEntry,
    Item,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
    Verdict,
)
from searchapp.services import (
    candidate_run,
    catalogue,
    gallery_dump,
    jobs,
    training_attempt,
    training_photos,
    versions,
)
from searchapp.services.gallery import NewEntry, entries_add, gallery_transaction
from searchapp.services.stored_rows import stored_photos, stored_read, stored_write
from searchapp.services.training_recipe import candidate_recipe_with, start_of
from tests.searchapp.api_cast import error_of, key_client, operator_make
from tests.searchapp.candidates import EPOCHS, TINY, start
from tests.searchapp.coded_rows import entries_of, items_of, version_of
from tests.searchapp.galleries import encode_missing
from tests.searchapp.trainings import class_photos, small_shop

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("quiet_heartbeat")]
# Field, a wish that it is wrong in, what is said.
WISHES: list[tuple[str, dict[str, Any], str]] = [
    ("method", {"method": "magic"}, "it is 'magic', allowed: ndpp, odpp, bct, independent"),
    ("architecture", {"architecture": "huge"}, "it is 'huge', allowed: parity, budget, residual"),
    ("epochs", {"epochs": 0}, "it is 0, allowed: a whole number from 1 to 2,000"),
    ("seed", {"seed": -1}, "it is -1, allowed: a whole number from 0 to"),
    ("scope", {"scope": {"brand": "x"}}, "allowed: {} for everything"),
    ("scope", {"scope": {"category": "nowhere"}}, "there is no category 'nowhere'"),
    ("scope", {"scope": {"vertical": "moon"}}, "allowed: product, landmark"),
    ("config", {"config": {"fit": {"epoch": 1}}}, "unknown key epoch; allowed: epochs"),
    (
        "config",
        {"config": {"method": {"encoder": {"code_bits": 64}}}},
        "code_bits is 64, the parent's codes have",
    ),
    ("config", {"config": {"method": {"encoder": {"dimension": 256}}}}, "the stored embeddings have 128"),
    ("config", {"config": {"compatibility": {"kind": "odpp"}}}, "the method ndpp has 'ndpp'"),
]


def dies_at(monkeypatch: pytest.MonkeyPatch, point: str, times: int) -> None:
    """The process ends at the `times`-th pass of a failpoint, as by a kill: no outcome is written by the handler."""
    passed = [0]

    def failpoint(name: str) -> None:
        passed[0] += name == point
        if name == point and passed[0] == times:
            raise KeyboardInterrupt(name)

    monkeypatch.setattr(training_attempt, "failpoint", failpoint)
    monkeypatch.setattr(candidate_run, "failpoint", failpoint)


def killed_at(monkeypatch: pytest.MonkeyPatch, job: Job, point: str, times: int = 1) -> Job:
    with monkeypatch.context() as patched:
        dies_at(patched, point, times)
        with pytest.raises(KeyboardInterrupt):
            jobs.job_run_here(job)
    job.refresh_from_db()
    return job


def test_a_candidate_killed_along_the_way_is_trained_registered_and_judged_once(
    data_dir: Path, data_packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after its pilot, after its second epoch and before its verdict; a category comes in between."""
    small_shop(data_packs, classes=3, count=14)
    rows_before = list(gallery_dump.rows())
    job = killed_at(monkeypatch, start(pilot=True), "training.after_pilot")
    pilot = job.checkpoint["pilot"]
    assert (pilot["epochs"], pilot["of_epochs"], job.checkpoint["history"]) == (2, EPOCHS, [])
    assert pilot["gain"] == pytest.approx(pilot["cross_map"] - pilot["old_map"], abs=2e-4)
    assert pilot["gain_low"] <= pilot["gain"] <= pilot["gain_high"]
    assert pilot["predicted_cross_map"] == pilot["cross_map"]
    assert pilot["predicted_seconds"] == pytest.approx(pilot["seconds"] * EPOCHS / 2, abs=1)
    assert pilot["words"].startswith("After 2 of 9 epochs the candidate finds what is stored")
    job = killed_at(monkeypatch, job, "training.after_epoch", 2)
    history = job.checkpoint["history"]
    assert (job.checkpoint["stage"], job.checkpoint["epochs"], len(history)) == ("training", EPOCHS, 2)
    Category.objects.create(name="Later", slug="later", path="Later")
    job = killed_at(monkeypatch, job, "training.before_verdict")

    job = jobs.job_run_here(job)

    assert job.state == JobState.DONE, job.error
    points = job.checkpoint["history"]
    assert points[:2] == history
    assert [point["epoch"] for point in points] == list(range(1, EPOCHS + 1))
    validated = [point for point in points if "validation" in point]
    assert [point["epoch"] for point in validated] == [4, 8, 9]
    assert all(
        point["validation"] == pytest.approx((point["cross"] + point["own"]) / 2, abs=1e-4)
        for point in validated
    )
    assert job.checkpoint["pilot"] == pilot
    result = job.result or {}
    asked = ModelVersion.objects.get(major=2).manifest["metrics"]["compatibility"]["asked"]
    outcome = result["pilot"]["outcome"]
    assert (outcome["cross_map"], outcome["own_map"]) == (round(asked["cross"], 4), round(asked["own"], 4))
    version, champion = ModelVersion.objects.get(major=2), versions.champion().version
    assert (result["version"], result["parent"], result["method"]) == ("2.0", "1.0", "ndpp")
    assert (version.parent, version.lineage, version.minor) == (champion, champion.lineage, 0)
    assert (version.code_bits, version.dimension) == (champion.code_bits, champion.dimension)
    assert {"map", "recall_at_1", "n"} <= set(result["metrics"])
    verdict = Verdict.objects.get()
    assert (verdict.version, verdict.against, verdict.job) == (version, champion, job)
    assert [gate["name"] for gate in result["gates"]] == [gate["name"] for gate in verdict.report["gates"]]
    # it answers what is there: nothing was encoded by it, and nothing that is stored was touched
    assert list(gallery_dump.rows()) == rows_before
    told = versions.calibrations_of(version, versions.bundle_of(version))
    assert told["1.0"] != told["2.0"]
    note = version.manifest["training"]
    assert (
        note["command"]
        == "manage.py train_candidate --method ndpp --architecture parity --epochs 9 --config FILE"
    )
    assert note["compatibility"]["parent"] == champion.digest
    assert note["stored_images"] == result["photos"]
    assert not list((data_dir / "training").iterdir())


class Seen:
    """In the place of the training: what it was given. It writes the shipped budget bundle, held to the parent."""

    def __init__(self) -> None:
        self.materials: list[Material] = []

    def __call__(self, material: Material, target: Path, **_: Any) -> CatalogueVersion:
        self.materials.append(material)
        source = load_bundle(django_settings.BUDGET_BUNDLE)
        made = source.manifest
        bundle = write_bundle(
            target, method="compact", config=made.encoder_config, weights=source.weights, graph=source.graph,
            labels=material.images.names, calibration=made.calibration, preprocessing=made.preprocessing,
            metrics={"number": len(self.materials), "compatibility": {"asked": None}},
            training={
                **made.training, "compatibility": {"parent": material.parent.digest},
                "started_from": material.start.digest if material.start else None,
            },
        )  # fmt: skip
        return CatalogueVersion(bundle, is_warm=False, epochs=1, seconds=1.0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    watch = Seen()
    monkeypatch.setattr(candidate_run, "train_candidate", watch)
    return watch


def test_it_is_held_to_the_rows_as_they_are_and_never_sees_held_out_photos(
    data_dir: Path, data_packs: Path, seen: Seen
) -> None:
    small_shop(data_packs, classes=3, count=14, encode=False)
    planted = training_photos.training_photos()[4].image_id
    version = versions.default_version_ensure()
    entry = NewEntry(planted, ItemImage.objects.get(pk=planted).image_sha256, b"\xaa" * 16, b"\x00\x30" * 128)
    with gallery_transaction() as changes:
        entries_add(changes, version=version, entries=[entry])
    encode_missing()
    more = [found[14] for found in class_photos(data_packs, 3, 18).values()]
    for item, data in zip(Item.objects.all(), more, strict=True):
        catalogue.image_add(item=item, data=data, filename="late.jpg")

    job = jobs.job_run_here(start())

    assert job.state == JobState.DONE, job.error
    [material] = seen.materials
    stored, photos = material.stored, training_photos.training_photos()
    assert len(material.images) == len(photos) < ItemImage.objects.count()
    held_out = set(EvaluationQuery.objects.values_list("image_sha256", flat=True))
    assert held_out
    assert not held_out & {photo.image_sha256 for photo in photos}
    entries = {row.image_id: row for row in GalleryEntry.objects.all()}
    assert stored.present.tolist() == [photo.image_id in entries for photo in photos]
    assert not stored.present.all()
    for at, photo in enumerate(photos):
        if row := entries.get(photo.image_id):
            assert stored.packed_codes[at].tobytes() == bytes(row.code)
            assert stored.embeddings[at].astype("<f2").tobytes() == bytes(row.embedding)
    assert (stored.packed_codes[[photo.image_id for photo in photos].index(planted)] == 0xAA).all()
    assert stored.producer == version.digest


def test_its_registry_goes_on_from_the_parents(
    data_dir: Path, data_packs: Path, seen: Seen, settings: Settings
) -> None:
    """A category without photos any more stays where it was; what was not in the registry comes behind."""
    small_shop(data_packs, classes=3, count=14)
    parent = versions.champion().version
    slugs = sorted(training_photos.category_sizes(training_photos.training_photos()))
    parent.label_registry = ["gone-long-ago", slugs[2]]
    parent.save()

    jobs.job_run_here(start(architecture="budget", config={}))

    assert seen.materials[0].start is not None
    assert seen.materials[0].start.digest == load_bundle(settings.BUDGET_BUNDLE).digest
    assert ModelVersion.objects.get(major=2).label_registry == ["gone-long-ago", slugs[2], slugs[0], slugs[1]]


def test_a_scope_limits_the_photos_to_a_category_with_what_is_beneath_it(
    data_dir: Path, data_packs: Path, seen: Seen
) -> None:
    small_shop(data_packs, classes=2, count=14)
    counted = start().subject
    assert not EvaluationQuery.objects.exists()  # only counted; it is the job that holds photos out
    photos = training_photos.training_photos()
    assert f"from {len(photos)} photos of 2 categories" in counted
    scopes: list[dict[str, str]] = [{}, {"category": photos[0].category}, {"vertical": "landmark"}]
    for scope in scopes:
        seen_by_it = training_photos.category_sizes(training_photos.training_photos(scope))
        assert training_photos.training_sizes(scope) == seen_by_it

    everything = training_photos.training_photos({})
    fruit = training_photos.training_photos({"category": Category.objects.get(path="Fruit").slug})
    one = training_photos.training_photos({"category": photos[0].category})

    assert everything == fruit == photos
    assert {photo.category for photo in one} == {photos[0].category}
    assert training_photos.training_photos({"vertical": "landmark"}) == []
    with pytest.raises(Conflict, match="1 categories have two or more photos"):
        start(scope={"category": photos[0].category})


def test_a_wish_that_cannot_be_met_is_refused_at_once(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs, classes=2, count=4)

    for field, changes, told in WISHES:
        with pytest.raises(InvalidInput) as refused:
            start(**changes)
        assert refused.value.fields.keys() == {field}
        assert told in refused.value.fields[field]
    assert not Job.objects.filter(kind="train_candidate").exists()


def test_without_stored_entries_there_is_nothing_to_be_held_to(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs, encode=False)

    with pytest.raises(Conflict, match="The gallery holds entries of 0 categories by"):
        start()

    assert not Job.objects.filter(kind="train_candidate").exists()


def test_an_independent_candidate_is_a_base_training(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs, encode=False)

    job = start(method="independent", config={}, epochs=3, seed=5)

    assert job.kind == "train_base"
    assert (job.payload["architecture"], job.payload["epochs"], job.payload["seed"]) == ("parity", 3, 5)


@pytest.mark.parametrize(
    ("architecture", "start_name"), [("budget", "shipped"), ("parity", "parent"), ("residual", "")]
)
def test_it_goes_on_from_its_parents_weights_or_from_shipped_ones_where_they_fit(
    settings: Settings, bundle_path: Path, architecture: str, start_name: str
) -> None:
    """And slowly: at the full rate it would unlearn first. From random weights it takes longer."""
    parent, shipped = load_bundle(bundle_path), load_bundle(settings.BUDGET_BUNDLE)
    starts = [parent, shipped]

    def recipe(starts: list[Bundle]) -> Recipe:
        return candidate_recipe_with(
            {}, architecture, [30] * 40, parent=parent, alignment="ndpp", starts=starts, seed=3
        )

    chosen, cold = recipe(starts), recipe([])

    assert start_of(chosen, starts) is {"shipped": shipped, "parent": parent, "": None}[start_name]
    assert (chosen.seed, chosen.method.kind) == (3, "compact")
    if start_name:
        assert chosen.fit.epochs < 0.6 * cold.fit.epochs
        assert chosen.fit.learning_rate < 0.5 * cold.fit.learning_rate
    else:
        assert chosen == cold


def test_in_a_chain_it_is_calibrated_for_the_encoder_that_made_most(db: None) -> None:
    """2.0 serves, and its view holds rows of 1.0 and 1.1 where it has none of its own."""
    first = version_of("1.0")
    increment, second = version_of("1.1", parent=first), version_of("2.0", parent=first)
    category = Category.objects.create(name="A", slug="a", path="A")
    images = [item.images.get() for item in items_of(category, [1] * 6)]
    entries_of(first, images[:3], seed=0)
    entries_of(increment, images[3:4], seed=1)
    entries_of(second, images[4:5], seed=2)
    photos = [
        training_photos.TrainingPhoto(image.pk, image.image_sha256, "jpg", "a", "product") for image in images
    ]

    stored = stored_photos(second, photos[::-1])

    assert stored.present.tolist() == [False, True, True, True, True, True]
    assert stored.by_producer.tolist() == [False, False, True, True, True, True]
    assert stored.producer == first.digest
    expected = GalleryEntry.objects.get(image=images[0])
    assert stored.packed_codes[5].tobytes() == bytes(expected.code)
    assert stored_photos(increment, photos).producer == increment.digest


def test_what_is_stored_is_kept_as_it_was_read(tmp_path: Path, db: None) -> None:
    version = version_of("1.0")
    category = Category.objects.create(name="A", slug="a", path="A")
    images = [item.images.get() for item in items_of(category, [1] * 3)]
    entries_of(version, images[:2], seed=0)
    photos = [
        training_photos.TrainingPhoto(image.pk, image.image_sha256, "jpg", "a", "product") for image in images
    ]
    stored = stored_photos(version, photos)

    stored_write(tmp_path / "rows", stored)

    found = stored_read(tmp_path / "rows")
    assert found.producer == stored.producer
    for name in ("packed_codes", "embeddings", "present", "by_producer"):
        assert np.array_equal(getattr(found, name), getattr(stored, name))


def test_a_cancelled_pilot_leaves_no_version_and_a_retry_goes_on(
    data_dir: Path, data_packs: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    """The operator reads what the pilot says and wants no more of it."""
    small_shop(data_packs, classes=3, count=14)
    monkeypatch.setattr("searchapp.services.leases.PROGRESS_SECONDS", 0.0)
    job = start(pilot=True)

    def cancel(name: str) -> None:
        if name == "training.after_pilot":
            jobs.job_cancel(Job.objects.get(pk=job.pk))

    with monkeypatch.context() as patched:
        patched.setattr(candidate_run, "failpoint", cancel)
        patched.setattr(candidate_run, "train_candidate", lambda *_, **options: options["is_cancelled"]())
        job = jobs.job_run_here(job)

    assert job.state == JobState.CANCELLED
    assert ModelVersion.objects.count() == 1
    again = jobs.job_run_here(jobs.job_retry(job))
    assert again.state == JobState.DONE, again.error
    assert again.checkpoint["pilot"] == job.checkpoint["pilot"]
    assert (again.result or {})["version"] == "2.0"


def test_the_command_prints_the_version_or_the_job(
    data_dir: Path, data_packs: Path, seen: Seen, tmp_path: Path
) -> None:
    small_shop(data_packs, classes=3, count=14)
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(TINY), encoding="utf-8")

    done, words, queued = StringIO(), StringIO(), StringIO()
    options = (
        "train_candidate",
        "--method",
        "bct",
        "--architecture",
        "parity",
        "--config",
        str(config),
        "--no-pilot",
    )
    call_command(*options, "--wait", "--json", stdout=done)
    call_command(*options, "--wait", stdout=words)
    call_command(*options, "--json", stdout=queued)

    result = json.loads(done.getvalue())
    assert (result["version"], result["parent"], result["method"], result["pilot"]) == (
        "2.0",
        "1.0",
        "bct",
        None,
    )
    assert words.getvalue().startswith("version 3.0: ")
    assert set(json.loads(queued.getvalue())) == {"job", "state"}
    with pytest.raises(CommandError, match="scope is 'fruit', allowed: category=") as wrong:
        call_command(*options, "--scope", "fruit")
    assert wrong.value.returncode == 2


def test_operators_start_a_candidate_over_http(data_dir: Path, data_packs: Path, staff: Client) -> None:
    small_shop(data_packs, classes=2, count=4)
    operator = key_client(operator_make())

    def post(client: Client, body: dict[str, Any]) -> Any:
        return client.post("/api/v1/model-versions", json.dumps(body), content_type="application/json")

    assert error_of(post(staff, {"method": "ndpp"}), 403)["code"] == "not_allowed"
    assert error_of(post(operator, {"method": "magic"}), 400)["fields"].keys() == {"method"}
    refused = error_of(post(operator, {"method": "ndpp", "label_fraction": 0.5}), 400)
    assert refused["fields"].keys() == {"label_fraction"}
    assert error_of(post(operator, {"method": "base", "pilot": True}), 400)["fields"].keys() == {"pilot"}
    assert error_of(post(operator, {"method": "bct", "epochs": 0}), 400)["fields"].keys() == {"epochs"}
    assert not Job.objects.filter(queue=Job.Queue.TRAINING).exists()
    accepted = post(
        operator, {"method": "odpp", "epochs": 3, "scope": {"vertical": "product"}, "pilot": False}
    )
    assert (accepted.status_code, accepted.json()["kind"]) == (202, "train_candidate")
    payload = Job.objects.get(pk=accepted.json()["id"]).payload
    assert payload == {
        "method": "odpp", "architecture": "budget", "config": {}, "epochs": 3, "scope": {"vertical": "product"},
        "seed": 0, "pilot": False,
    }  # fmt: skip
    assert post(operator, {"method": "twin-bottleneck"}).json()["kind"] == "train_base"
