"""A chain of four generations: who is held to whom, which pairs are measured, and how far prototypes move in all."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ml.experiments.compatible.arms import FREE, NDPP, PLAIN, Arm
from ml.experiments.compatible.chains import Chain, pairs
from ml.experiments.compatible.heads import Holding, train_heads
from ml.experiments.compatible.judging import stored_by
from ml.experiments.compatible.new_rows import NEW_SEED
from ml.experiments.compatible.old_rows import as_stored
from ml.experiments.compatible.places import SMOKE
from ml.experiments.compatible.settings import CHAIN
from ml.experiments.corrector.serving_encoders import Encoded
from ml.experiments.ledger import RunRecord, identity_key
from ml.methods.compatible.config import Compatibility
from tests.ml.compatible.shop import BASE, arm_of, average_precisions, options_of, put_chain, split_of

LAST = len(CHAIN) - 1
BUDGET = 30  # degrees of all stages


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Its trunks are found in the ledger and never trained."""
    split, options = split_of(), options_of(tmp_path_factory.mktemp("chain"))
    put_chain(split, options)
    return Chain(split, options, SMOKE)


def measured(chain: Chain, arm: Arm, seed: int = 0) -> RunRecord:
    return chain.planned(arm, seed).work(Path("none"))


@pytest.fixture(scope="module")
def record(chain: Chain) -> RunRecord:
    return measured(chain, arm_of(NDPP))


def test_pairs_are_each_new_generation_on_each_older_one_once_the_nearest_first() -> None:
    assert pairs() == [(1, 0), (2, 1), (3, 2), (2, 0), (3, 1), (3, 0)]


def test_a_row_measures_each_generation_on_itself_and_on_all_before(record: RunRecord) -> None:
    own = {f"map_{new}_{old}" for new in range(LAST + 1) for old in range(new + 1)}
    assert {f"map_{new}_{old}" for new, old in pairs()} | {
        f"map_{new}_{new}" for new in range(LAST + 1)
    } == own
    assert set(record.per_query) == own | {f"map_{new}_mixed" for new in range(1, LAST + 1)}
    for metric, values in record.per_query.items():
        assert record.values[metric] == pytest.approx(np.nanmean(values))
        assert len(values) == 24


def test_each_generation_is_held_to_what_the_one_before_stored(chain: Chain, record: RunRecord) -> None:
    """The first two trained again, step by step."""
    split, task, arm = chain.split, chain.split.final, arm_of(NDPP)
    first = train_heads(chain.features[0], SMOKE, classes=BASE, seed=0)
    old = as_stored(first)
    stored = stored_by(split, old)
    assert stored.codes is not None
    made = arm.alignment(stored, first.centres, np.ones(BASE, np.bool_), SMOKE, 0)
    holding = Holding(old.embeddings, stored.codes, made)
    new = as_stored(train_heads(chain.features[1], SMOKE, classes=BASE, seed=NEW_SEED, holding=holding))
    for name, asking, answering in (("0_0", old, old), ("1_0", new, old), ("1_1", new, new)):
        expected = average_precisions(asking.embeddings, answering.embeddings, task)
        np.testing.assert_allclose(record.per_query[f"map_{name}"], expected, atol=1e-6)
    mixed = old.embeddings.copy()
    turn = np.random.default_rng(0).permutation(len(task.gallery)) % 2
    assert abs(turn.mean() - 0.5) < 0.01
    mixed[task.gallery[turn == 1]] = new.embeddings[task.gallery[turn == 1]]
    expected = average_precisions(new.embeddings, mixed, task)
    np.testing.assert_allclose(record.per_query["map_1_mixed"], expected, atol=1e-6)


def degrees_of(record: RunRecord) -> list[float]:
    return [float(record.values[f"furthest_degrees_{stage}"]) for stage in range(1, LAST + 1)]


def test_all_stages_together_move_prototypes_no_further_than_the_budget(
    chain: Chain, record: RunRecord
) -> None:
    limit = arm_of(NDPP).settings.guard.largest_angle
    first, second, third = degrees_of(record)
    assert first == pytest.approx(limit, abs=0.1)  # so the second stage may not go as far as its guard allows
    assert 5 < second <= BUDGET - first + 0.1
    assert third <= BUDGET - first - second + 0.1
    assert degrees_of(measured(chain, arm_of(PLAIN))) == [0, 0, 0]


def test_with_nothing_left_a_stage_is_prototype_bct(
    chain: Chain, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spent(self: Compatibility, moved_before: float, *, budget: float = BUDGET) -> Compatibility:
        return replace(self, kind="none") if moved_before else self

    monkeypatch.setattr(Compatibility, "for_stage", spent)
    found = measured(chain, arm_of(NDPP))
    assert degrees_of(found) == [degrees_of(record)[0], 0, 0]
    assert np.array_equal(found.per_query["map_1_1"], record.per_query["map_1_1"])
    assert not np.array_equal(found.per_query["map_2_1"], record.per_query["map_2_1"])


def test_held_generations_find_more_in_old_galleries_than_free_ones(chain: Chain, record: RunRecord) -> None:
    free = measured(chain, arm_of(FREE))
    assert degrees_of(free) == [0, 0, 0]
    for new, old in pairs():
        found = f"map_{new}_{old}"
        assert float(record.values[found]) > float(free.values[found]) + 0.03, found
    assert free.per_query["map_0_0"].tolist() == record.per_query["map_0_0"].tolist()


def test_a_chain_is_known_by_its_trunks_its_arm_and_its_heads(chain: Chain) -> None:
    runs = [chain.planned(arm_of(name), seed) for name in (NDPP, PLAIN) for seed in (0, 1)]
    assert [(run.setting, run.name, run.seed) for run in runs] == [
        ("chain", NDPP, 0), ("chain", NDPP, 1), ("chain", PLAIN, 0), ("chain", PLAIN, 1),
    ]  # fmt: skip
    first, other = runs[0].identity, runs[2].identity
    assert runs[0].identity == runs[1].identity
    assert {key for key in first if first[key] != other[key]} == {"arm"}
    assert first["trunks"] == [run.identity for run in chain.trunks]
    longer = replace(chain, heads=replace(SMOKE, steps=4)).planned(arm_of(NDPP), 0)
    assert identity_key(longer.identity) != identity_key(first)
    for before, after in pairwise(chain.trunks):
        assert before.identity != after.identity


def test_what_a_generation_stored_is_of_its_training_images(chain: Chain) -> None:
    split = chain.split
    made = as_stored(train_heads(chain.features[0], SMOKE, classes=BASE, seed=0))
    stored = stored_by(split, made)
    assert stored.entries is not None
    np.testing.assert_array_equal(stored.entries.labels.numpy(), split.train_labels)
    np.testing.assert_array_equal(stored.entries.embeddings.numpy(), made.embeddings[split.train])
    turned = Encoded(made.codes, np.roll(made.embeddings, 1, axis=0), 0.0)
    assert not np.array_equal(stored_by(split, turned).space.prototypes, stored.space.prototypes)
