"""Four encoders in a row, entries by each: whichever answers, it answers what counting by hand gives."""

import math
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from ml.protocol import Calibration
from searchapp.exceptions import IncompatibleVersion
from searchapp.models import GalleryEntry, Item, ItemImage, ModelVersion, PairCalibration
from searchapp.services import deploying, encoding, intake, search, versions
from searchapp.services.gallery import entries_add, gallery_transaction
from searchapp.services.search_options import SearchOptions
from tests.searchapp.coded_rows import put_in_use
from tests.searchapp.galleries import item_with_photos
from tests.searchapp.lineages import OTHER, SHIPPED, descendant
from tests.searchapp.trainings import candidate

pytestmark = [pytest.mark.django_db, pytest.mark.database]
# Which of the four have encoded each photo.
MADE_BY = ((1,), (2,), (3,), (4,), (1, 2), (2, 4), (1, 3), (1, 2, 3, 4), (3, 4), (1, 4))


@pytest.fixture
def chain(data_dir: Path, photos: list[bytes]) -> list[ModelVersion]:
    """1.0, 2.0, 3.0, 4.0, each the child of the one before, over ten photos of five items."""
    found = [versions.default_version_ensure()]
    for number, source in (("2.0", OTHER), ("3.0", SHIPPED), ("4.0", OTHER)):
        found.append(descendant(number, source=source, parent=found[-1]))
    for place in range(5):
        item_with_photos(f"item-{place}", photos[2 * place : 2 * place + 2])
    images = list(ItemImage.objects.order_by("pk"))
    for version in found:
        ids = [image.pk for image, made in zip(images, MADE_BY, strict=True) if version.major in made]
        with gallery_transaction() as changes:
            entries_add(
                changes, version=version, entries=encoding.encode_images(version=version, image_ids=ids)
            )
    random = np.random.default_rng(9)
    for asking, producer in permutations(found, 2):
        values = dict(
            zip(("intercept", "code_weight", "embedding_weight"), random.uniform(-3, 3, 3).tolist())
        )
        PairCalibration.objects.create(
            query_version=asking,
            producer=producer,
            values=values | {"strong": 0.9, "weak": 0.1, "pool_size": 50},
        )
    return found


def by_hand(asking: ModelVersion, photo: bytes) -> list[tuple[str, float, str]]:
    """(SKU, score, producer) of every item, best first: row after row, as design 2 and 4.1 say it."""
    encoder = versions.encoder_of(asking)
    image = intake.query_image(photo, filename="", crop=None, input_size=encoder.input_size)
    encoded = encoder.encode(image.pixels[None])
    best: dict[str, tuple[str, float, str]] = {}
    for stored in ItemImage.objects.select_related("item"):
        rows = {row.producer.major: row for row in stored.entries.select_related("producer")}
        row = rows[chosen(asking.major, sorted(rows))]
        code = np.unpackbits(np.frombuffer(row.code, np.uint8))
        agreeing = int((code == np.unpackbits(encoded.packed_codes[0])).sum())
        cosine = float(np.frombuffer(row.embedding, "<f2").astype(np.float64) @ encoded.embeddings[0])
        read = reading(asking, row.producer)
        odds = (
            read.intercept
            + read.code_weight * (2 * agreeing / len(code) - 1)
            + read.embedding_weight * cosine
        )
        found = (stored.item.sku, 1 / (1 + math.exp(-odds)), row.producer.name)
        if stored.item.sku not in best or found[1] > best[stored.item.sku][1]:
            best[stored.item.sku] = found
    return sorted(best.values(), key=lambda one: -one[1])


def chosen(asking: int, made: Sequence[int]) -> int:
    """Its own entry, else that of the nearest older encoder, else of the nearest newer one."""
    older = [major for major in made if major <= asking]
    return max(older) if older else min(made)


def reading(asking: ModelVersion, producer: ModelVersion) -> Calibration:
    if asking == producer:
        return versions.bundle_of(asking).calibration
    return Calibration(**PairCalibration.objects.get(query_version=asking, producer=producer).values)


@pytest.mark.parametrize("place", range(4))
def test_each_of_four_versions_answers_as_counted_by_hand(
    chain: list[ModelVersion], photos: list[bytes], place: int
) -> None:
    put_in_use(chain[place])

    for photo in photos[:4]:
        answer = search.search_by_image(data=photo)
        found = [(result.sku, result.producer) for result in answer.results]
        expected = by_hand(chain[place], photo)
        assert answer.model_version == f"{place + 1}.0"
        assert found == [(sku, producer) for sku, _, producer in expected]
        assert [result.score for result in answer.results] == pytest.approx(
            [score for _, score, _ in expected], abs=1e-5
        )
    seen = {producer for _, _, producer in by_hand(chain[place], photos[0])}
    assert len(seen) > 1


def test_an_item_of_any_of_the_four_finds_others_by_its_stored_entries(chain: list[ModelVersion]) -> None:
    put_in_use(chain[3])

    for item in Item.objects.all():
        assert len(search.search_by_item(sku=item.sku).results) == 4


def test_a_code_of_any_of_the_four_is_answered_and_one_from_outside_is_refused(
    chain: list[ModelVersion], photos: list[bytes]
) -> None:
    outsider = candidate(encoded=False)
    made = {}
    for version in [*chain, outsider]:
        put_in_use(version)
        made[version.name] = search.encode(data=photos[0])
    put_in_use(chain[2])

    for version in chain:
        assert len(search.search_by_vector(**made[version.name], options=SearchOptions()).results) == 5
    with pytest.raises(IncompatibleVersion, match=r"5\.0 cannot be compared with 3\.0, which answers now"):
        search.search_by_vector(**made[outsider.name], options=SearchOptions())


def test_the_way_back_through_four_versions_is_the_way_they_came(chain: list[ModelVersion]) -> None:
    for version in chain:
        live = None if version is chain[0] else versions.champion()
        put_in_use(version)
        now = versions.champion()
        now.previous = live
        now.save()
    assert GalleryEntry.objects.values("producer").distinct().count() == 4

    back = [(deploying.version_rollback(user=None).result or {})["serving"] for _ in range(3)]

    assert back == ["3.0", "2.0", "1.0"]
