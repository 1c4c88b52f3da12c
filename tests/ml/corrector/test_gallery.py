"""The corrected gallery: the same images in the same order, from raw rows alone; and which to encode anew for it."""

from dataclasses import replace

import numpy as np
import pytest

from ml.methods.corrector.gallery import GalleryRows, Provenance, corrected_gallery
from ml.methods.corrector.pairs import rows_to_encode
from ml.models.corrector import Corrector
from tests.ml.corrector.worlds import directions, rotation

NAMES = ("1.0", "1.1", "2.0")


def turning(seed: int) -> Corrector:
    corrector = Corrector(8)
    corrector.set_affine(np.vstack([rotation(8, seed=seed) - np.eye(8), np.zeros(8)]))
    return corrector


def stored(count: int = 90) -> GalleryRows:
    """Every third row by each of three versions, the last of them live."""
    ids = np.arange(count) * 3 + 5
    return GalleryRows.raw(
        ids, directions(count, 8).astype(np.float16), np.arange(count) % 3, NAMES, live="2.0"
    )


def test_each_producers_rows_go_through_its_own_map_and_keep_their_places() -> None:
    """Invariant 10."""
    maps = {"1.0": turning(1), "1.1": turning(2)}
    raw = stored()
    found = corrected_gallery(raw, maps | {"2.0": turning(3)})  # a fresh row needs no map
    np.testing.assert_array_equal(found.ids, raw.ids)
    for place, name in enumerate(NAMES[:2]):
        own = raw.producers == place
        np.testing.assert_array_equal(found.embeddings[own], maps[name].corrected(raw.embeddings[own]))
        assert not np.array_equal(found.embeddings[own], raw.embeddings[own])
    np.testing.assert_array_equal(found.embeddings[2::3], raw.embeddings[2::3])
    assert found.provenance.tolist() == [Provenance.CORRECTED, Provenance.CORRECTED, Provenance.FRESH] * 30
    assert found.embeddings.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(found.embeddings.astype(np.float64), axis=1), 1, atol=2e-3)


def test_raw_rows_stay_as_they_are_and_give_the_same_bytes_again() -> None:
    raw, maps = stored(), {"1.0": turning(1), "1.1": turning(2)}
    before = raw.embeddings.tobytes()
    first, again = corrected_gallery(raw, maps), corrected_gallery(raw, maps)
    assert raw.embeddings.tobytes() == before
    assert raw.provenance.tolist() == [Provenance.STALE, Provenance.STALE, Provenance.FRESH] * 30
    assert first.embeddings.tobytes() == again.embeddings.tobytes()


def test_correcting_twice_is_refused() -> None:
    found = corrected_gallery(stored(), {"1.0": turning(1)})
    with pytest.raises(ValueError, match=r"30 rows are corrected already \(first id 5\); pass the raw rows"):
        corrected_gallery(found, {"1.1": turning(2)})


def test_without_a_map_a_producers_rows_are_served_as_they_were_stored() -> None:
    """Invariant 11, of serving."""
    raw = stored()
    found = corrected_gallery(raw, {})
    assert found.embeddings.tobytes() == raw.embeddings.tobytes()
    assert found.provenance.tolist() == raw.provenance.tolist()
    one = corrected_gallery(raw, {"1.0": turning(1)})
    np.testing.assert_array_equal(one.embeddings[1::3], raw.embeddings[1::3])


def test_rows_out_of_order_or_of_an_unnamed_producer_are_refused() -> None:
    raw = stored(6)
    with pytest.raises(ValueError, match="do not ascend"):
        replace(raw, ids=raw.ids[::-1])
    with pytest.raises(ValueError, match="producers are 0 to 2, but 2 are named"):
        replace(raw, producer_names=NAMES[:2])
    with pytest.raises(ValueError, match=r"columns have \[5, 6\] rows"):
        replace(raw, ids=raw.ids[:5])


def test_rows_to_fit_are_spread_over_producers_and_categories_and_apart_from_the_probe() -> None:
    """18 left of each of four large strata, and of a small one, all but what the probe took."""
    producers, categories = (
        np.repeat([0, 0, 1, 1, 1], [100, 100, 100, 100, 2]),
        np.repeat([0, 1, 0, 1, 2], [100, 100, 100, 100, 2]),
    )
    chosen = rows_to_encode(producers, categories, count=50, probe_share=0.2, seed=3)
    assert (len(chosen.fit), len(chosen.probe)) == (40, 10)
    assert not set(chosen.fit.tolist()) & set(chosen.probe.tolist())
    assert chosen.fit.tolist() == sorted(set(chosen.fit.tolist()))
    taken = np.bincount(producers[chosen.fit] * 3 + categories[chosen.fit], minlength=6)
    assert taken[5] == 1
    assert sorted(taken[[0, 1, 3, 4]].tolist()) == [9, 10, 10, 10]


def test_every_stratum_gets_a_row_where_uniform_choice_would_leave_small_ones_out() -> None:
    categories = np.concatenate([np.zeros(9_000, np.int64), np.arange(1, 41).repeat(3)])
    producers = np.zeros(len(categories), np.int64)
    chosen = rows_to_encode(producers, categories, count=100, probe_share=0.1)
    assert set(categories[chosen.fit].tolist()) >= set(range(41)) - set(categories[chosen.probe].tolist())


def test_the_probe_is_uniform_over_all_rows() -> None:
    categories = np.repeat([0, 1], [900, 100])
    counts = [
        int((categories[rows_to_encode(categories * 0, categories, count=200, seed=seed).probe] == 1).sum())
        for seed in range(30)
    ]
    assert np.mean(counts) == pytest.approx(4.0, abs=1.1)  # of 40; three standard errors of the mean


def test_with_fewer_rows_than_strata_large_strata_come_first() -> None:
    categories = np.repeat([0, 1, 2, 3, 4, 5], [40, 40, 1, 1, 1, 1])
    chosen = rows_to_encode(categories * 0, categories, count=5, probe_share=0.4)
    assert sorted(categories[chosen.fit].tolist()) in ([0, 0, 1], [0, 1, 1])


def test_other_seeds_choose_other_rows_and_impossible_counts_are_refused() -> None:
    categories = np.arange(200) % 4
    first, again, other = (
        rows_to_encode(categories, categories, count=20, seed=seed).fit for seed in (0, 0, 1)
    )
    assert first.tolist() == again.tolist() != other.tolist()
    with pytest.raises(ValueError, match="count is 201 with a probe of 40, expected 2 to 200"):
        rows_to_encode(categories, categories, count=201)
    with pytest.raises(ValueError, match="count is 2 with a probe of 0"):
        rows_to_encode(categories, categories, count=2)
