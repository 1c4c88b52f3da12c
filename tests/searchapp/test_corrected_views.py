"""A gallery seen through a corrector: embeddings of other trunks' entries, from raw rows, once, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.corrector_map import CorrectorMap, ErrorMap
from ml.methods.corrector.bundle import TrunkMap
from ml.methods.corrector.gallery import GalleryRows, corrected_gallery
from ml.retrieval.columns import EntryColumns
from searchapp.models import (
    AuditEvent,
    GalleryChange,
    GalleryEntry,
    GalleryView,
    JobState,
    ModelVersion,
    PairCalibration,
)
from searchapp.services import (
    arms,
    correctors,
    deploying,
    encoding,
    gallery_dump,
    jobs,
    learning_gates,
    serving,
    snapshots,
    versions,
)
from searchapp.services.gallery import entries_add, gallery_transaction
from searchapp.services.held_out_answers import gallery_answers
from tests.searchapp.galleries import encode_missing, item_with_photos, shop
from tests.searchapp.learnings import learned, new_category, stocked
from tests.searchapp.lineages import descendant, passed

pytestmark = [pytest.mark.django_db, pytest.mark.database]
Embeddings = dict[int, bytes]


def turning(dimension: int, seed: int = 0) -> TrunkMap:
    """A map that moves every embedding far, with a residual branch."""
    random = np.random.default_rng(seed)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return (random.standard_normal(shape) * 0.1).astype(np.float32)

    corrector = CorrectorMap(
        affine=drawn(dimension, dimension),
        offset=drawn(dimension),
        inner=drawn(2 * dimension, dimension),
        inner_offset=drawn(2 * dimension),
        outer=drawn(dimension, 2 * dimension),
    )
    errors = ErrorMap(drawn(4, dimension), drawn(4), drawn(1, 4), np.zeros((), np.float32))
    return TrunkMap(corrector, errors)


@pytest.fixture
def second(data_dir: Path, photos: list[bytes]) -> ModelVersion:
    """2.0 in use over six entries by 1.0."""
    shop(photos)
    version = passed(descendant())
    put_in_use(version)
    return version


def put_in_use(version: ModelVersion, **options: Any) -> None:
    job = jobs.job_run_here(deploying.version_promote(version=version, user=None, **options))
    assert (job.state, job.error) == (JobState.DONE, "")


def corrector_for(version: ModelVersion, seed: int = 0) -> str:
    first = ModelVersion.objects.get(major=1, minor=0)
    kept = correctors.corrector_store(
        target=version.digest,
        maps={first.digest: turning(version.dimension, seed)},
        given_up={},
        fitting={},
    )
    GalleryView.objects.get_or_create(version=version, corrector_digest=kept.digest)
    return kept.digest


def served() -> Embeddings:
    entries = serving.follow_once().champion.view.compacted_entries()
    return {pk: row.tobytes() for pk, row in zip(entries.entry_ids.tolist(), entries.embeddings)}


def raw() -> Embeddings:
    return {pk: bytes(row) for pk, row in GalleryEntry.objects.values_list("pk", "embedding")}


def as_the_method_says(digest: str) -> Embeddings:
    """ml's own corrected gallery, of all rows at once."""
    rows = list(
        GalleryEntry.objects.order_by("pk").values_list(
            "pk", "embedding", "producer__major", "producer__minor"
        )
    )
    names = tuple(dict.fromkeys(f"{major}.{minor}" for _, _, major, minor in rows))
    gallery = GalleryRows.raw(
        np.array([row[0] for row in rows]),
        np.stack([np.frombuffer(row[1], "<f2") for row in rows]),
        np.array([names.index(f"{row[2]}.{row[3]}") for row in rows]),
        names,
        live="2.0",
    )
    maps: Mapping[str, Any] = correctors.corrector_of(digest)
    corrected = corrected_gallery(gallery, maps)
    return {pk: row.tobytes() for pk, row in zip(corrected.ids.tolist(), corrected.embeddings)}


def test_entries_of_another_trunk_are_corrected_as_the_method_says_and_their_codes_stay(
    second: ModelVersion,
) -> None:
    before = list(gallery_dump.rows())
    digest = corrector_for(second)

    put_in_use(second, corrector_digest=digest)

    assert served() == as_the_method_says(digest)
    assert not set(served().values()) & set(raw().values())
    arm = serving.follow_once().champion
    assert arm.corrector_digest == digest
    entries = arm.view.compacted_entries()
    assert {code.tobytes() for code in entries.codes} == {
        bytes(code) for code in GalleryEntry.objects.values_list("code", flat=True)
    }
    assert list(gallery_dump.rows()) == before
    assert AuditEvent.objects.filter(action="version.promote").latest("pk").after["corrector"] == digest


def test_what_follows_is_corrected_once_and_the_versions_own_entries_never(
    second: ModelVersion, photos: list[bytes]
) -> None:
    digest = corrector_for(second)
    put_in_use(second, corrector_digest=digest)
    serving.follow_once()
    item_with_photos("by-2", photos[8:9])
    encode_missing()
    by_second = GalleryEntry.objects.get(producer=second)
    assert served() == as_the_method_says(digest)
    assert served()[by_second.pk] == bytes(by_second.embedding)

    deploying.version_rollback(user=None)
    deploying.version_rollback(user=None)
    serving.follow_once()
    item_with_photos("by-1", photos[9:10])
    encode_missing()
    put_in_use(second, override_reason="again", corrector_digest=digest)
    reference = serving.follow_once()
    again = arms.arm_followed(reference.champion, 0, reference.sequence)  # every change once more
    serving._follower.reference = serving.GalleryReference((again,), reference.sequence)

    assert len(raw()) == 8
    assert served() == as_the_method_says(digest)


@pytest.mark.parametrize("pruned", [True, False])
def test_a_change_to_a_corrected_gallery_is_followed_and_so_is_a_rebuild(
    second: ModelVersion, photos: list[bytes], *, pruned: bool
) -> None:
    """An entry by the old trunk that comes while the new one serves: somebody else's champion wrote it late."""
    digest = corrector_for(second)
    put_in_use(second, corrector_digest=digest)
    serving.follow_once()
    item = item_with_photos("late", photos[8:9])
    first = ModelVersion.objects.get(major=1, minor=0)
    entries = encoding.encode_images(version=first, image_ids=item.images.values_list("pk", flat=True))
    with gallery_transaction() as changes:
        entries_add(changes, version=first, entries=entries)
    if pruned:
        GalleryChange.objects.all().delete()

    assert len(served()) == 7
    assert served() == as_the_method_says(digest)


def test_a_snapshot_stays_raw_and_is_corrected_when_it_is_loaded(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = corrector_for(second)
    snapshots.snapshot_write(second)
    put_in_use(second, corrector_digest=digest)
    monkeypatch.setattr(arms, "view_rebuilt", None)  # from the snapshot alone

    serving.forget()
    assert served() == as_the_method_says(digest)
    loaded = snapshots.view_loaded(second)
    assert loaded is not None
    kept = loaded[0].compacted_entries()
    assert {pk: row.tobytes() for pk, row in zip(kept.entry_ids.tolist(), kept.embeddings)} == raw()


def test_going_back_undoes_a_correction_exactly_and_another_starts_from_raw_rows(
    second: ModelVersion,
) -> None:
    before = served()
    first, other = corrector_for(second), corrector_for(second, seed=1)
    put_in_use(second, corrector_digest=first)
    put_in_use(second, corrector_digest=other)
    assert served() == as_the_method_says(other)

    assert deploying.rollback_target() == second
    deploying.version_rollback(user=None)
    assert served() == as_the_method_says(first)
    deploying.version_rollback(user=None)

    assert served() == before == raw()
    assert versions.champion().view.corrector_digest == ""


def test_a_corrected_view_reads_similarities_as_they_were_measured_through_it(second: ModelVersion) -> None:
    digest = corrector_for(second)
    first = ModelVersion.objects.get(major=1, minor=0)
    values = {
        "intercept": 0.5, "code_weight": 1.0, "embedding_weight": 2.0, "strong": 0.9, "weak": 0.1, "pool_size": 9,
    }  # fmt: skip
    PairCalibration.objects.create(
        query_version=second, producer=first, corrector_digest=digest, values=values
    )
    assert serving.follow_once().champion.calibrations["1.0"].pool_size != 9

    put_in_use(second, corrector_digest=digest)

    assert serving.follow_once().champion.calibrations["1.0"].pool_size == 9


@pytest.mark.fault  # it learns on a busy machine's clock: most of a minute
def test_an_increment_of_a_corrected_version_sees_the_gallery_as_it_did(
    data_dir: Path, data_packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so do the gates that judge it."""
    judged: list[EntryColumns] = []

    def spied(queries: Any, asked: Any, gallery: EntryColumns, calibrations: Any) -> Any:
        judged.append(gallery)
        return gallery_answers(queries, asked, gallery, calibrations)

    monkeypatch.setattr(learning_gates, "gallery_answers", spied)
    stocked(data_packs)
    second = passed(descendant())
    put_in_use(second)
    digest = corrector_for(second)
    put_in_use(second, corrector_digest=digest)
    new_category(data_packs)

    learned()

    live = versions.champion()
    assert (live.version.name, live.view.corrector_digest) == ("2.1", digest)
    by_first = set(GalleryEntry.objects.filter(producer__major=1).values_list("pk", flat=True))
    expected, seen = as_the_method_says(digest), served()
    assert {pk: seen[pk] for pk in by_first} == {pk: expected[pk] for pk in by_first}
    assert len(judged) == 2
    for gallery in judged:
        rows = dict(zip(gallery.entry_ids.tolist(), gallery.embeddings, strict=True))
        old = by_first & rows.keys()
        assert old
        assert {pk: rows[pk].tobytes() for pk in old} == {pk: expected[pk] for pk in old}


def test_a_promotion_uses_the_corrector_that_was_fitted_last_unless_it_was_taken_back(
    second: ModelVersion,
) -> None:
    digest = corrector_for(second)
    assert deploying.corrector_to_serve(second) == digest
    put_in_use(second)
    assert versions.champion().view.corrector_digest == digest

    deploying.version_rollback(user=None)
    assert deploying.corrector_to_serve(second) == ""
    deploying.version_rollback(user=None)
    put_in_use(second, override_reason="again")

    assert (versions.champion().version, versions.champion().view.corrector_digest) == (second, "")
