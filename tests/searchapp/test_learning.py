"""New categories are learned while the shop is open: found better at once, and no stored code changes."""

import json
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from pytest_django.fixtures import Settings

from ml.base_version.increment import stored_outputs
from ml.methods.lifelong import gate as gates
from ml.methods.lifelong import word_base
from ml.methods.lifelong.lesson import Items, Lesson
from ml.methods.lifelong.update import learn_increment
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import (
    AuditEvent,
    Category,
    CountedEntry,
    Deployment,
    EvaluationQuery,
    GalleryEntry,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
)
from searchapp.services import (
    catalogue,
    code_statistics,
    deploying,
    held_out,
    jobs,
    learning,
    learning_gates,
    learning_increment,
    learning_material,
    measuring,
    search,
    versions,
)
from searchapp.services.category_labels import label_sets
from searchapp.services.gallery import gallery_transaction
from searchapp.services.gallery_columns import read_entries
from searchapp.services.holding_out import hold_out, is_one_in_eight
from searchapp.services.photo_features import features_ensure
from tests.searchapp.galleries import encode_missing, item_with_photos
from tests.searchapp.learnings import (
    EACH,
    STOCK,
    in_use,
    item_of,
    learned,
    new_category,
    rows_by_version,
    stocked,
)
from tests.searchapp.trainings import class_photos

pytestmark = [pytest.mark.django_db, pytest.mark.database]
RESULT = {
    "version", "parent", "categories", "seconds", "training_seconds", "old_codes_checked", "old_codes_changed",
    "old_digest_before", "old_digest_after", "old_query_map_before", "old_query_map_after", "new_query_map_before",
    "new_query_map_after", "gates",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_and_quiet(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat's own connection cannot see the job of a test that never commits."""
    settings.JOB_LEASE_SECONDS = 3600
    settings.LEARN_WINDOW_SECONDS = 0
    monkeypatch.setattr(word_base, "STEPS", 5)


@pytest.fixture
def new(data_dir: Path, data_packs: Path) -> Category:
    stocked(data_packs)
    return new_category(data_packs)


def at(monkeypatch: pytest.MonkeyPatch, point: str, act: Callable[[], object]) -> None:
    """Do something the first time that learning passes a failpoint."""
    left = [act]

    def passed(name: str) -> None:
        if name == point and left:
            left.pop()()

    monkeypatch.setattr(learning_increment, "failpoint", passed)


def _printed(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def test_learning_adds_a_version_and_entries_and_touches_nothing_that_was_stored(new: Category) -> None:
    before = rows_by_version()

    result = learned().result or {}

    after = rows_by_version()
    version, parent = ModelVersion.objects.get(minor=1), ModelVersion.objects.get(minor=0)
    assert (version.name, version.parent, version.lineage, version.method) == (
        "1.1", parent, parent.lineage, "lifelong",
    )  # fmt: skip
    assert after["1.0"] == before["1.0"]
    assert set(after["1.1"]) == {key for key in before["1.0"] if key[0] == new.name}
    # The trunk and the embedding head are frozen: the same photo has the same embedding, to float16's last bit.
    for key, (_, embedding) in after["1.1"].items():
        own, provisional = (
            np.frombuffer(found, "<f2").astype(np.float32) for found in (embedding, before["1.0"][key][1])
        )
        assert np.abs(own - provisional).max() < 1e-3
    assert set(result) >= RESULT
    assert (result["version"], result["parent"], result["categories"]) == ("1.1", "1.0", [new.slug])
    assert (result["old_codes_checked"], result["old_codes_changed"], result["encoded"]) == (
        STOCK * EACH,
        0,
        EACH,
    )
    assert result["old_digest_before"] == result["old_digest_after"]


def test_what_serves_moves_in_the_same_step_and_the_audit_log_holds_the_proof(new: Category) -> None:
    assert search.search_by_item(sku=new.name).model_version == "1.0"

    job = learned()

    answer = search.search_by_item(sku=new.name)
    assert (answer.model_version, answer.entries) == ("1.1", (STOCK + 1) * EACH)
    assert dict(answer.entries_by_version) == {"1.0": STOCK * EACH, "1.1": EACH}
    event = AuditEvent.objects.get(action="categories.learn")
    assert event.after["old_digest_after"] == (job.result or {})["old_digest_after"]
    assert Deployment.objects.get(ended_at__isnull=True).previous is not None


def test_the_registry_names_known_categories_first_and_then_the_new_one(new: Category) -> None:
    learned()
    known = sorted(
        Category.objects.filter(items__isnull=False).exclude(pk=new.pk).values_list("slug", flat=True)
    )

    assert ModelVersion.objects.get(minor=1).label_registry == [*known, new.slug]
    assert not learning.waiting_categories(versions.champion().version).exists()


def test_statistics_afterwards_are_those_counted_from_the_rows(new: Category) -> None:
    learned()
    version = versions.champion().version

    counted = code_statistics.counted_items(version.lineage)
    assert counted[new.pk] == EACH
    _, _, sets = label_sets(sorted(counted), [])
    stored = code_statistics.statistics_of(version.lineage, sets, code_bits=128)
    recounted = code_statistics.recounted(version.lineage, sets, 128)
    assert np.array_equal(stored.gram, recounted.gram)
    assert stored.items_of_sets() == recounted.items_of_sets()
    assert set(
        CountedEntry.objects.filter(category=new).values_list("entry__producer__minor", flat=True)
    ) == {1}


def test_one_photo_in_eight_is_asked_and_never_trained_on(
    new: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spied(parent: Any, registry: Any, items: Items, *rest: Any, **named: Any) -> Lesson:
        seen.extend(items.keys)
        return learn_increment(parent, registry, items, *rest, **named)

    monkeypatch.setattr(learning_increment, "learn_increment", spied)
    learned()

    held_out = set(EvaluationQuery.objects.filter(category=new).values_list("image_sha256", flat=True))
    contents = {key.split(":")[0] for key in seen}
    own = set(ItemImage.objects.filter(item__category=new).values_list("image_sha256", flat=True))
    assert held_out
    assert contents == own - held_out


def test_features_answer_as_pictures_do(new: Category) -> None:
    """The gates ask of features; the naive twin opens every picture again and encodes it."""
    hold_out(list(Category.objects.values_list("path", flat=True)))
    parent = ModelVersion.objects.get(minor=0)
    queries = held_out.held_out_queries()
    features = features_ensure(parent, [(q.image_sha256, q.path) for q in queries])
    bundle = versions.bundle_of(parent)
    outputs = stored_outputs(bundle, None, np.stack([features[query.image_sha256] for query in queries]))

    by_features = learning_gates._values(
        queries, outputs, read_entries(parent), versions.calibrations_of(parent, bundle)
    )
    by_pictures = measuring.version_answers(parent, queries)

    assert len(queries) >= 3
    np.testing.assert_allclose(by_features["map"], by_pictures["map"], atol=0.02)


@pytest.mark.parametrize("change", ["deleted", "moved"])
def test_a_photo_that_changed_while_it_was_learned_gets_no_entry(
    new: Category, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    image = ItemImage.objects.filter(item__category=new).first()
    assert image is not None
    elsewhere = Category.objects.filter(learn_asked_at__isnull=True, items__isnull=False)[0]
    act = {
        "deleted": lambda: catalogue.image_delete(image=image),
        "moved": lambda: catalogue.item_update(item=item_of(new), category=elsewhere),
    }
    at(monkeypatch, "learning.before_publish", act[change])

    result = learned().result or {}

    left = EACH - 1 if change == "deleted" else 0
    assert (result["encoded"], len(rows_by_version().get("1.1", {}))) == (left, left)
    assert result["old_codes_changed"] == 0


def test_another_version_put_in_use_meanwhile_makes_it_begin_anew(
    new: Category, monkeypatch: pytest.MonkeyPatch, data_packs: Path
) -> None:
    learned()
    new_category(data_packs, 1)
    at(monkeypatch, "learning.before_publish", lambda: deploying.version_rollback(user=None))

    result = learned().result or {}

    assert (result["parent"], result["version"], in_use()) == ("1.0", "1.2", "1.2")
    assert sorted(result["categories"]) == sorted(
        Category.objects.filter(learn_asked_at__isnull=False, items__isnull=False).values_list(
            "slug", flat=True
        )
    )


def test_going_back_unlearns_it_and_learning_again_takes_a_new_number(
    new: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned again, it is the same to the last weight, in the same time: still a version of its own."""
    monkeypatch.setattr("time.monotonic", lambda: 1.0)
    learned()
    deploying.version_rollback(user=None)

    answer = search.search_by_item(sku=new.name)
    assert (answer.model_version, dict(answer.entries_by_version)) == ("1.0", {"1.0": (STOCK + 1) * EACH})
    assert list(learning.waiting_categories(versions.champion().version).filter(items__isnull=False)) == [new]

    assert (learned().result or {})["version"] == "1.2"
    assert dict(search.search_by_item(sku=new.name).entries_by_version) == {"1.0": STOCK * EACH, "1.2": EACH}


def test_what_was_taken_back_stays_so_when_something_else_is_learned(new: Category, data_packs: Path) -> None:
    """1.1 learned the first category and was taken back; 1.2 is learned on 1.0 and knows nothing of it."""
    learned()
    deploying.version_rollback(user=None)
    second = new_category(data_packs, 1)

    result = learned(categories=[second.slug]).result or {}

    assert (result["version"], result["parent"]) == ("1.2", "1.0")
    served = read_entries(versions.champion().version)
    by_item = dict(zip(served.item_ids.tolist(), served.producers.tolist(), strict=True))
    assert served.producer_names[by_item[item_of(new).pk]] == "1.0"
    assert served.producer_names[by_item[item_of(second).pk]] == "1.2"
    assert json.loads(_printed("index_audit", "--json"))["code_mismatch"] == 0


def test_a_job_that_always_fails_at_one_place_is_given_up(
    new: Category, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """Each attempt writes the same epochs again: that is no step forward."""
    settings.JOB_MAX_ATTEMPTS = 3
    tries: list[str] = []

    def away(name: str) -> None:
        if name == "learning.after_gates":
            tries.append(name)
            raise OperationalError("the database is away")

    monkeypatch.setattr(learning_increment, "failpoint", away)

    job = jobs.job_run_here(learning.learn_start(user=None))

    assert (job.state, len(tries)) == (JobState.FAILED, 3)
    assert (in_use(), ModelVersion.objects.count()) == ("1.0", 1)


def test_an_old_photo_deleted_meanwhile_is_in_neither_digest(
    new: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ItemImage.objects.exclude(item__category=new).first()
    assert old is not None
    at(monkeypatch, "learning.before_publish", lambda: catalogue.image_delete(image=old))

    result = learned().result or {}

    assert (result["old_codes_checked"], result["old_codes_gone"]) == (STOCK * EACH - 1, 1)
    assert result["old_digest_before"] == result["old_digest_after"]


def test_questions_shape_no_memory(new: Category, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that are held out now nor those that will be when their category grows."""
    version = versions.champion().version
    with gallery_transaction():
        code_statistics.entries_count(version=version, image_ids=code_statistics.uncounted(version))
    known = set(code_statistics.counted_items(version.lineage))

    remembered = {sha for sha, _, _ in learning_material._remembered(version, known)}

    every = set(ItemImage.objects.filter(item__category__in=known).values_list("image_sha256", flat=True))
    assert remembered == {sha for sha in every if not is_one_in_eight(sha)}
    assert len(remembered) < len(every)


def test_an_item_added_after_learning_is_found_by_the_version_before_too(
    new: Category, data_packs: Path, photos: list[bytes]
) -> None:
    learned()
    item_with_photos("late", photos[11:], new.path)
    encode_missing()
    deploying.version_rollback(user=None)

    answer = search.search_by_image(data=photos[11])

    assert (answer.model_version, answer.results[0].sku, answer.results[0].producer) == ("1.0", "late", "1.1")


def test_a_refused_increment_leaves_all_as_it_was_and_says_why(
    new: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is set where any change is a loss: the gate then fails by what it measured."""
    hold_out(list(Category.objects.values_list("path", flat=True)))
    monkeypatch.setattr(gates, "LEAST_ITEMS", 1)
    strict = partial(gates.increment_gates, map_loss_limit=-2.0)
    monkeypatch.setattr(learning_gates, "increment_gates", strict)
    before, files = rows_by_version(), sorted(path.name for path in versions._stored("x").parent.iterdir())

    job = jobs.job_run_here(learning.learn_start(user=None))

    assert job.state == JobState.FAILED
    assert "was not put in use, and nothing was changed: old queries lose" in job.error
    assert "would have been seen" in job.error
    assert [gate["verdict"] for gate in job.checkpoint["gates"]][2] == "fail"
    assert (rows_by_version(), in_use(), ModelVersion.objects.count()) == (before, "1.0", 1)
    assert sorted(path.name for path in versions._stored("x").parent.iterdir()) == files
    assert not AuditEvent.objects.filter(action="categories.learn").exists()


def test_cancelled_in_training_it_changes_nothing_and_can_be_tried_again(
    new: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = learning.learn_start(user=None)
    at(monkeypatch, "learning.after_epoch", lambda: jobs.job_cancel(job))

    assert jobs.job_run_here(job).state == JobState.CANCELLED
    assert (in_use(), ModelVersion.objects.count()) == ("1.0", 1)

    assert jobs.job_run_here(jobs.job_retry(job)).state == JobState.DONE
    assert in_use() == "1.1"


def test_two_categories_are_learned_in_one_increment_by_one_job(new: Category, data_packs: Path) -> None:
    first = learning.learn_start(user=None)
    second = new_category(data_packs, 1)

    assert learning.learn_start(user=None) == first
    assert sorted((jobs.job_run_here(first).result or {})["categories"]) == sorted([new.slug, second.slug])


def test_only_the_category_that_was_named_is_learned(new: Category, data_packs: Path) -> None:
    second = new_category(data_packs, 1)

    assert (learned(categories=[second.slug]).result or {})["categories"] == [second.slug]
    assert list(learning.waiting_categories(versions.champion().version).filter(items__isnull=False)) == [new]
    # What waits is not counted among the old codes.
    assert code_statistics.counted_items(versions.champion().version.lineage).get(new.pk) is None


def test_increments_follow_each_other_and_old_codes_stay(new: Category, data_packs: Path) -> None:
    learned()
    before = rows_by_version()
    new_category(data_packs, 1)

    result = learned().result or {}

    after = rows_by_version()
    assert (result["version"], result["parent"], result["old_codes_checked"]) == (
        "1.2",
        "1.1",
        (STOCK + 1) * EACH,
    )
    assert after["1.0"] == before["1.0"]
    assert (
        before["1.1"].items() <= after["1.1"].items()
    )  # beside them the provisional ones of the second category
    assert len(after["1.2"]) == EACH
    registries = [version.label_registry for version in ModelVersion.objects.order_by("minor")[1:]]
    assert registries[1][: len(registries[0])] == registries[0]


def test_the_shipped_version_knows_no_words_and_its_increment_does(new: Category) -> None:
    learned()
    parent, child = ModelVersion.objects.order_by("minor")

    assert versions.bundle_of(parent).text_encoder() is None
    assert versions.bundle_of(child).text_encoder() is not None


def test_wishes_that_cannot_be_met_are_refused_in_words(new: Category) -> None:
    known = Category.objects.filter(learn_asked_at__isnull=True, items__isnull=False).first()
    assert known is not None
    with pytest.raises(InvalidInput, match="there is no category nowhere"):
        learning.learn_start(user=None, categories=["nowhere"])
    with pytest.raises(InvalidInput, match=f"{known.slug}: known already"):
        learning.learn_start(user=None, categories=[known.slug])
    learned()
    with pytest.raises(Conflict, match="nothing to learn"):
        learning.learn_start(user=None)
    assert Job.objects.count() - Job.objects.exclude(kind=learning.KIND).count() == 1


def test_the_command_prints_what_the_contract_names(new: Category) -> None:
    out = StringIO()
    call_command("learn_categories", "--category", new.slug, "--wait", "--json", stdout=out)

    said = json.loads(out.getvalue())
    assert set(said) >= RESULT
    assert {gate["name"] for gate in said["gates"]} == {
        "old_codes_changed", "weights_not_finite", "old_query_map_loss", "new_class_gain",
    }  # fmt: skip
    with pytest.raises(CommandError) as refused:
        call_command("learn_categories", "--category", new.slug, "--wait", stdout=out)
    assert refused.value.returncode == 2


def test_a_category_of_an_empty_gallery_is_known_and_of_one_in_use_waits(
    data_dir: Path, data_packs: Path
) -> None:
    stocked(data_packs)
    late = catalogue.category_ensure("Food > Late")
    told = catalogue.category_ensure("Food > Told", waits=False)

    assert late.learn_asked_at is not None
    assert told.learn_asked_at is None
    assert not Category.objects.filter(items__isnull=False, learn_asked_at__isnull=False).exists()


def test_photos_of_a_waiting_category_are_found_before_it_is_learned(new: Category, data_packs: Path) -> None:
    photo = class_photos(data_packs, STOCK + 2, EACH)[new.name][0]

    first = search.search_by_image(data=photo).results[0]

    assert (first.sku, first.producer) == (new.name, "1.0")
    assert GalleryEntry.objects.filter(image__item__category=new, producer__minor=0).count() == EACH
