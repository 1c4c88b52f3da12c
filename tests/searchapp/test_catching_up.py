"""A candidate learns, before its promotion, what the version in use learned after the candidate was trained."""

import json
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from django.core.management import call_command
from pytest_django.fixtures import Settings

from ml.base_version.increment import stored_outputs
from ml.methods.lifelong import gate as gates
from ml.methods.lifelong import word_base
from ml.methods.lifelong.config import LifelongConfig
from searchapp.exceptions import Conflict
from searchapp.models import (
    AuditEvent,
    Category,
    CountedEntry,
    Deployment,
    EvaluationQuery,
    GalleryEntry,
    GalleryView,
    ItemImage,
    ModelVersion,
    PhotoFeature,
)
from searchapp.services import (
    catching_up,
    code_statistics,
    encoding,
    jobs,
    learning_gates,
    learning_increment,
    learning_material,
    learning_publishing,
    search,
    versions,
)
from searchapp.services.category_labels import label_sets
from searchapp.services.gallery_columns import read_entries
from searchapp.services.holding_out import hold_out
from searchapp.services.jobs import JobRun
from searchapp.services.learning import MovedMeanwhile
from searchapp.services.leases import lease_claim
from searchapp.services.photo_features import features_read
from tests.searchapp.galleries import encode_missing
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
from tests.searchapp.new_categories import in_use as put_in_use
from tests.searchapp.trainings import candidate as of_own_lineage
from tests.searchapp.turned import turned_version

pytestmark = [pytest.mark.django_db, pytest.mark.database]


class Killed(BaseException):
    """As a kill: nothing catches it, nothing is put in order."""


@pytest.fixture(autouse=True)
def _quick_and_quiet(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat's own connection cannot see the job of a test that never commits."""
    settings.JOB_LEASE_SECONDS = 3600
    settings.LEARN_WINDOW_SECONDS = 0
    monkeypatch.setattr(word_base, "STEPS", 5)
    monkeypatch.setattr(learning_increment, "LifelongConfig", partial(LifelongConfig, rounds=1))


@pytest.fixture
def candidate(data_dir: Path, data_packs: Path) -> ModelVersion:
    """2.0, trained beside 1.0 before the category came that 1.1, which is in use, has learned."""
    stocked(data_packs)
    version = turned_version(versions.champion().version)
    new_category(data_packs)
    learned()
    return version


@pytest.fixture
def new(candidate: ModelVersion) -> Category:
    return Category.objects.get(slug=versions.champion().version.label_registry[-1])


def promotion() -> JobRun:
    """What the handler of a promotion holds."""
    job = jobs.job_create(kind="promote", payload={"version": "2.0"})
    claimed = lease_claim(job.pk, owner="test")
    assert claimed is not None
    return JobRun(claimed)


def caught_up(version: ModelVersion) -> ModelVersion:
    return catching_up.caught_up(promotion(), version, versions.champion())


def counted(lineage: UUID) -> list[tuple[Any, ...]]:
    rows = CountedEntry.objects.filter(lineage=lineage).order_by("pk")
    return list(rows.values_list("pk", "image", "category"))


def seen_by_champion() -> tuple[Any, ...]:
    """All that the version in use sees, and what is counted of it."""
    live = versions.champion()
    view = read_entries(live.version)
    return (
        live.pk,
        view.entry_ids.tolist(),
        view.codes.tobytes(),
        view.embeddings.tobytes(),
        counted(live.version.lineage),
    )


def is_counted_right(version: ModelVersion) -> bool:
    sets = label_sets(sorted(code_statistics.counted_items(version.lineage)), [])[2]
    stored = code_statistics.statistics_of(version.lineage, sets, code_bits=version.code_bits)
    recounted = code_statistics.recounted(version.lineage, sets, version.code_bits)
    return np.array_equal(stored.gram, recounted.gram) and stored.items_of_sets() == recounted.items_of_sets()


def test_it_learns_what_it_lacks_and_disturbs_nothing_that_serves(
    candidate: ModelVersion, new: Category
) -> None:
    before, rows = seen_by_champion(), rows_by_version()
    found = search.search_by_item(sku=new.name)

    version = caught_up(candidate)

    assert (version.name, version.parent, version.method) == ("2.1", candidate, "lifelong")
    assert set(version.label_registry) >= set(versions.champion().version.label_registry)
    assert (in_use(), Deployment.objects.filter(ended_at__isnull=True).count()) == ("1.1", 1)
    assert seen_by_champion() == before
    assert search.search_by_item(sku=new.name).results == found.results
    after = rows_by_version()
    assert {name: after[name] for name in rows} == rows
    assert set(after["2.1"]) == set(rows["1.1"])
    assert GalleryView.objects.filter(version=version, corrector_digest="").exists()
    assert json.loads(_printed("index_audit", "--json"))["code_mismatch"] == 0
    event = AuditEvent.objects.get(action="categories.catch_up")
    assert (event.before, event.after["version"], event.after["old_codes_changed"]) == (
        {"version": "2.0"},
        "2.1",
        0,
    )
    # All that is stored for the version in use was looked at, the category's own codes included.
    assert event.after["old_codes_checked"] == (STOCK + 1) * EACH


def test_only_the_code_head_and_the_words_are_new(candidate: ModelVersion, new: Category) -> None:
    version = caught_up(candidate)

    own, parent = versions.bundle_of(version), versions.bundle_of(candidate)
    moved = {name for name, values in own.weights.items() if not np.array_equal(values, parent.weights[name])}
    assert moved
    assert all(name.startswith("code_head.") for name in moved)
    entries = list(GalleryEntry.objects.filter(producer=version).order_by("image"))
    kept = features_read(candidate, [entry.image_sha256 for entry in entries])
    made = stored_outputs(own, None, np.stack([kept[entry.image_sha256] for entry in entries]))
    assert [bytes(entry.code) for entry in entries] == [code.tobytes() for code in made.packed_codes]
    assert [bytes(entry.embedding) for entry in entries] == [
        row.astype("<f2").tobytes() for row in made.embeddings
    ]


def test_asked_again_it_gives_what_it_made(candidate: ModelVersion, new: Category) -> None:
    version = caught_up(candidate)

    assert caught_up(candidate) == version
    assert caught_up(version) == version
    assert ModelVersion.objects.count() == 4


def test_what_lacks_nothing_is_promoted_as_it_is(data_dir: Path, data_packs: Path) -> None:
    """A category that nobody has learned yet is nothing to catch up with, nor is one known from the start."""
    stocked(data_packs)
    version = turned_version(versions.champion().version)
    new_category(data_packs)

    assert caught_up(version) == version
    assert not PhotoFeature.objects.filter(trunk=version).exists()


@pytest.mark.parametrize(
    ("module", "point"),
    [
        (learning_increment, "learning.before_publish"),
        (learning_publishing, "learning.before_commit"),
        (learning_increment, "learning.after_publish"),
    ],
)
def test_killed_around_its_publication_it_is_there_once(
    candidate: ModelVersion, monkeypatch: pytest.MonkeyPatch, module: Any, point: str, settings: Settings
) -> None:
    run = promotion()
    run.save({"other": "kept"})
    at(monkeypatch, module, point, die)
    with pytest.raises(Killed):
        catching_up.caught_up(run, candidate, versions.champion())
    run.job.refresh_from_db()

    version = catching_up.caught_up(JobRun(run.job), candidate, versions.champion())

    assert (version.name, GalleryEntry.objects.filter(producer=version).count()) == ("2.1", EACH)
    assert (run.checkpoint["other"], ModelVersion.objects.count()) == ("kept", 4)
    assert AuditEvent.objects.filter(action="categories.catch_up").count() == 1
    assert list(Path(settings.TRAINING_DIR).glob("*")) == []
    stored = sorted(path.name for path in Path(settings.MODEL_DIR).glob("*"))
    assert stored == sorted(ModelVersion.objects.values_list("digest", flat=True))


def test_refused_by_a_gate_it_leaves_all_as_it_was(
    candidate: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_out(list(Category.objects.values_list("path", flat=True)))
    monkeypatch.setattr(gates, "LEAST_ITEMS", 1)
    strict = partial(gates.increment_gates, map_loss_limit=-2.0)
    monkeypatch.setattr(learning_gates, "increment_gates", strict)
    before, run = seen_by_champion(), promotion()

    with pytest.raises(
        Conflict, match=r"^2\.0 could not learn what 1\.1 has learned meanwhile, and nothing was changed"
    ):
        catching_up.caught_up(run, candidate, versions.champion())

    assert (seen_by_champion(), ModelVersion.objects.count()) == (before, 3)
    assert [gate["verdict"] for gate in run.checkpoint["catch_up"]["gates"]][2] == "fail"


def test_what_serves_must_still_serve_in_the_end(
    candidate: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(
        monkeypatch,
        learning_increment,
        "learning.before_publish",
        lambda: put_in_use(ModelVersion.objects.get(major=1, minor=0)),
    )

    with pytest.raises(MovedMeanwhile, match=r"1\.1 is in use no longer"):
        caught_up(candidate)

    assert not ModelVersion.objects.filter(major=2, minor=1).exists()


def test_the_next_category_is_learned_on_what_caught_up_from_codes_of_many_producers(
    candidate: ModelVersion, new: Category, data_packs: Path
) -> None:
    version = caught_up(candidate)
    put_in_use(version)
    encode_missing()
    late = new_category(data_packs, 1)
    before = rows_by_version()

    result = learned().result or {}

    assert (result["version"], result["parent"], result["old_codes_checked"]) == (
        "2.2",
        "2.1",
        (STOCK + 1) * EACH,
    )
    now = versions.champion().version
    assert is_counted_right(now)
    by_producer = CountedEntry.objects.filter(lineage=now.lineage)
    producer_of = {
        category.slug: {row.entry.producer.name for row in by_producer.filter(category=category)}
        for category in (new, late)
    }
    assert producer_of == {new.slug: {"2.1"}, late.slug: {"2.2"}}
    after = rows_by_version()
    assert {name: after[name] for name in before} == before
    # The codes of the stock stay those of 1.0; what the new trunk saw of their photos is known now.
    trained = set(ItemImage.objects.exclude(item__category=new).values_list("image_sha256", flat=True))
    trained -= set(EvaluationQuery.objects.values_list("image_sha256", flat=True))
    assert PhotoFeature.objects.filter(trunk=candidate, image_sha256__in=trained).exists()


def test_what_the_version_in_use_made_of_the_category_is_no_old_code_to_the_candidate(
    candidate: ModelVersion, new: Category
) -> None:
    """Its own will stand for their photos: neither sums nor the Gram matrix may hold both."""
    others = CountedEntry.objects.filter(lineage=candidate.lineage).exclude(category=new)
    codes = [np.frombuffer(bytes(code), np.uint8) for code in others.values_list("entry__code", flat=True)]
    signs = np.unpackbits(np.stack(codes), axis=1).astype(np.int64) * 2 - 1

    material = learning_material.material_of(
        candidate, [new], learning_material.photos_of([new]), heard=lambda _done, _total: None
    )

    assert material.parent.statistics.items == len(codes) == STOCK * EACH
    assert np.array_equal(material.parent.statistics.gram, signs.T @ signs)


def test_memory_of_a_trunk_that_saw_nothing_reads_so_many_photos_and_no_more(
    candidate: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = set(code_statistics.counted_items(candidate.lineage))
    monkeypatch.setattr(learning_material, "READ_AT_MOST", 2 * len(known))

    chosen = learning_material._remembered(candidate, known)

    each = {category: sum(row[2] == category for row in chosen) for category in known}
    assert set(each.values()) == {2}
    # The trunk in use has seen them all, and remembers as before.
    assert len(learning_material._remembered(versions.champion().version, known)) > len(chosen)


def test_a_version_of_a_lineage_of_its_own_catches_up_by_its_own_codes(
    data_dir: Path, data_packs: Path
) -> None:
    stocked(data_packs)
    version = of_own_lineage(encoded=False)
    new = new_category(data_packs)
    learned()
    encoding.entries_fill(version, heard=lambda _done: None)
    before = seen_by_champion()

    later = caught_up(version)

    assert (later.name, later.parent, later.lineage) == ("2.1", version, version.lineage)
    assert seen_by_champion() == before
    own = read_entries(later)
    producers = dict(zip(own.item_ids.tolist(), own.producers.tolist(), strict=True))
    assert own.producer_names[producers[item_of(new).pk]] == "2.1"
    assert is_counted_right(later)


def at(monkeypatch: pytest.MonkeyPatch, module: Any, point: str, act: Callable[[], object]) -> None:
    """Do something the first time that `module` passes a failpoint."""
    left = [act]

    def passed(name: str) -> None:
        if name == point and left:
            left.pop()()

    monkeypatch.setattr(module, "failpoint", passed)


def die() -> None:
    raise Killed


def _printed(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()
