"""Readings between versions of a lineage: measured where no bundle says them, kept once, used both ways."""

from pathlib import Path

import numpy as np
import pytest

from ml.models.corrector import Corrector
from searchapp.models import EvaluationQuery, ItemImage, ModelVersion, PairCalibration
from searchapp.services import pair_calibrating, versions
from searchapp.services.pair_calibrating import pairs_calibrate
from tests.searchapp.stale_shop import hold_out_one_of_each
from tests.searchapp.trainings import small_shop
from tests.searchapp.turned import rotation, turned_version

pytestmark = pytest.mark.django_db


@pytest.fixture
def chain(data_dir: Path, data_packs: Path) -> tuple[ModelVersion, ModelVersion]:
    small_shop(data_packs, classes=5, count=12)
    first = versions.champion().version
    return first, turned_version(first, degrees=40.0)


def read(version: ModelVersion, digest: str = "") -> dict[str, object]:
    return dict(versions.calibrations_of(version, versions.bundle_of(version), corrector_digest=digest))


def test_both_ways_are_read_and_kept_once(chain: tuple[ModelVersion, ModelVersion]) -> None:
    first, second = chain
    own = {version: versions.bundle_of(version).calibration for version in chain}
    assert read(second) == {"1.0": own[second], "2.0": own[second]}
    assert pairs_calibrate(second) == 2
    kept = {(row.query_version.name, row.producer.name) for row in PairCalibration.objects.all()}
    assert kept == {("1.0", "2.0"), ("2.0", "1.0")}
    for asking, entries in ((second, first), (first, second)):
        found = read(asking)
        assert found[asking.name] == own[asking]
        assert found[entries.name] != own[asking]
    assert pairs_calibrate(second) == 0


def test_entries_that_look_farther_away_are_read_as_nearer(chain: tuple[ModelVersion, ModelVersion]) -> None:
    """Turned by 40 degrees, what was a cosine of 0.9 is 0.69: the same probability asks for less."""
    first, second = chain
    pairs_calibrate(second)
    raw = versions.bundle_of(second).calibration
    row = PairCalibration.objects.get(query_version=second, producer=first)

    def odds(values: dict[str, float], cosine: float) -> float:
        return values["intercept"] + values["code_weight"] * 0.8 + values["embedding_weight"] * cosine

    own = {name: getattr(raw, name) for name in ("intercept", "code_weight", "embedding_weight")}
    assert odds(row.values, 0.69) > odds(own, 0.69) + 0.5


def test_an_increment_is_read_as_its_trunk(chain: tuple[ModelVersion, ModelVersion]) -> None:
    first, second = chain
    pairs_calibrate(second)
    increment = ModelVersion.objects.create(
        major=1, minor=1, digest="a" * 64, parent=first, lineage=first.lineage, method="test",
        architecture="none", code_bits=first.code_bits, dimension=first.dimension, size_bytes=0,
    )  # fmt: skip
    assert read(second)["1.1"] == read(second)["1.0"] != read(second)["2.0"]
    bundle = versions.bundle_of(first)
    assert versions.calibrations_of(increment, bundle)["2.0"] == read(first)["2.0"]


def test_a_correction_has_a_reading_of_its_own(chain: tuple[ModelVersion, ModelVersion]) -> None:
    """A map that turns the stored embeddings all the way makes them look as the new version's own do."""
    first, second = chain
    turn = rotation(first.dimension, 40.0, 0)
    back = Corrector(first.dimension)
    affine = np.vstack([(turn - np.eye(first.dimension)).T, np.zeros(first.dimension)])
    back.set_affine(affine.astype(np.float64))
    pairs_calibrate(second)
    assert pairs_calibrate(second, corrector={"1.0": back}, corrector_digest="c" * 64) == 1
    corrected, raw = read(second, "c" * 64)["1.0"], read(second)["1.0"]
    own = versions.bundle_of(second).calibration
    assert corrected != raw
    assert abs(corrected.intercept - own.intercept) < abs(raw.intercept - own.intercept)  # type: ignore[attr-defined]
    assert read(second, "c" * 64)["2.0"] == own


def test_held_out_photos_are_never_asked(chain: tuple[ModelVersion, ModelVersion]) -> None:
    before = {photo.image_id for photo in pair_calibrating._photos()}
    hold_out_one_of_each()
    held_out = EvaluationQuery.objects.values("image_sha256")
    kept_out = set(ItemImage.objects.filter(image_sha256__in=held_out).values_list("pk", flat=True))
    assert len(kept_out) == 5
    assert {photo.image_id for photo in pair_calibrating._photos()} == before - kept_out


def test_a_large_catalogue_is_drawn_from_alike_each_time(chain: tuple[ModelVersion, ModelVersion]) -> None:
    drawn = pair_calibrating._photos(20)
    assert len(drawn) == 20
    assert drawn == pair_calibrating._photos(20)


def test_too_small_a_catalogue_keeps_nothing(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs, classes=2, count=4)
    assert pairs_calibrate(turned_version(versions.champion().version)) == 0
    assert not PairCalibration.objects.exists()
