"""D3: a flipped bit or a lost end in any file that serves is refused before it is loaded; answers stay right."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ml.artifacts import BundleError, load_bundle
from searchapp.models import GalleryView, ModelVersion
from searchapp.services import arms, correctors, search, serving, snapshots, versions
from tests.searchapp.conftest import _nothing_remembered, data_dir
from tests.searchapp.galleries import encode_missing, item_with_photos, shop
from tests.searchapp.outside_bundles import CALIBRATION, bundle_made
from tests.searchapp.test_corrected_views import turning

__all__ = ["_nothing_remembered", "data_dir"]  # fixtures
pytestmark = [pytest.mark.fault, pytest.mark.django_db, pytest.mark.timeout(480)]
SEED, FLIPS, TRUNCATIONS = 20261122, 200, 50
Answer = list[tuple[str, float, int | None]]


class Installation:
    """A shop with two generations of its gallery on disk, two versions and a corrector, and its recorded answers."""

    def __init__(self, photos: list[bytes], folder: Path) -> None:
        self.photos, self.folder = photos, folder
        shop(photos)
        self.first = versions.champion().version
        self.previous = snapshots.snapshot_write(self.first)
        item_with_photos("late", photos[8:10])
        encode_missing()
        self.newest = snapshots.snapshot_write(self.first)
        child = bundle_made(
            folder / "child", calibration={"self": CALIBRATION, self.first.digest: CALIBRATION}
        )
        versions.bundle_store(child)
        self.second = versions.base_version_register(load_bundle(child).manifest)
        maps = {self.first.digest: turning(self.first.dimension)}
        kept = correctors.corrector_store(target=self.second.digest, maps=maps, given_up={}, fitting={})
        self.corrector = kept.digest
        GalleryView.objects.get_or_create(version=self.second, corrector_digest=kept.digest)
        self.recorded = self.answers()

    def files(self) -> dict[Path, Callable[[], None]]:
        """Every file that something is served from, and what must hold while it is damaged."""
        models = self.folder / "models"
        checks: dict[Path, Callable[[], None]] = {self.newest: self.check_gallery}
        checks |= {models / version.digest: self._check_of(version) for version in (self.first, self.second)}
        checks[models / "correctors" / self.corrector] = self.check_corrector
        return {path: check for place, check in checks.items() for path in sorted(place.iterdir())}

    def answers(self) -> list[Answer]:
        """Of four photos, by the reference that this process has."""
        found = [search.search_by_image(data=photo) for photo in self.photos[:4]]
        return [[(hit.sku, hit.score, hit.hamming) for hit in answer.results] for answer in found]

    def check_gallery(self) -> None:
        """A process that starts loads the generation before and what changed since, without reading all rows."""
        serving.forget()
        assert self.answers() == self.recorded
        assert not self.newest.exists()  # set aside, so that nobody tries it again

    def check_corrector(self) -> None:
        correctors._open.clear()
        with pytest.raises(BundleError):
            correctors.corrector_of(self.corrector)
        assert self.answers() == self.recorded

    def _check_of(self, version: ModelVersion) -> Callable[[], None]:
        def check() -> None:
            assert self.answers() == self.recorded  # who has it open answers as before
            opened = versions._encoders.copy()
            versions._encoders.clear()
            with pytest.raises((BundleError, FileNotFoundError)):
                versions.encoder_of(version)
            if version == self.first:  # who starts now gives no answer rather than a wrong one
                serving.forget()
                with pytest.raises((BundleError, FileNotFoundError)):
                    self.answers()
            versions._encoders.update(opened)

        return check


def damaged(data: bytes, generator: random.Random, *, is_cut: bool) -> bytes:
    if is_cut:
        return data[: generator.randrange(len(data))]
    position = generator.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << generator.randrange(8)]) + data[position + 1 :]


def says_the_same(first: bytes, second: bytes) -> bool:
    """Two manifests with one content: 1e-05 and 1E-05 are one number, and no damage."""
    try:
        return bool(json.loads(first) == json.loads(second))
    except ValueError:
        return False


def test_d3_two_hundred_flipped_bits_and_fifty_lost_ends_are_refused_and_no_answer_is_wrong(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(photos, data_dir)
    generator = random.Random(SEED)
    files = installation.files()
    refused: Counter[str] = Counter()
    kept = data_dir / "kept"
    monkeypatch.setattr(arms, "view_rebuilt", None)  # reading all rows anew would hide what was loaded
    for fault in range(FLIPS + TRUNCATIONS):
        serving.follow_once()  # a process that answers already
        path = generator.choice(list(files))
        shutil.copytree(path.parent, kept)
        whole = path.read_bytes()
        harmed = whole
        while harmed == whole or (path.suffix == ".json" and says_the_same(harmed, whole)):
            harmed = damaged(whole, generator, is_cut=fault >= FLIPS)
        path.write_bytes(harmed)

        files[path]()

        refused[path.name] += 1
        shutil.rmtree(path.parent, ignore_errors=True)
        kept.rename(path.parent)
        for aside in (data_dir / "snapshots").glob(".damaged-*"):
            shutil.rmtree(aside)
    serving.forget()
    assert installation.answers() == installation.recorded
    assert refused.total() == FLIPS + TRUNCATIONS
    assert set(refused) == {path.name for path in files}, refused


def test_d3_with_every_generation_damaged_the_gallery_is_built_from_rows(
    data_dir: Path, photos: list[bytes]
) -> None:
    installation = Installation(photos, data_dir)
    generator = random.Random(SEED)
    for snapshot in (installation.previous, installation.newest):
        path = generator.choice(sorted(snapshot.iterdir()))
        path.write_bytes(damaged(path.read_bytes(), generator, is_cut=False))
    serving.forget()

    assert installation.answers() == installation.recorded
