"""What stored codes lose by themselves: as many labels move as said, and codewords crowd by what labels ask for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.evaluation.hamming import hamming_values
from ml.experiments.ledger import RunRecord
from ml.experiments.lifelong import stored_drift
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import LabelScheme, packed
from ml.experiments.lifelong.stored_drift import SHARES, crowding_of, planned_stored_drift
from ml.experiments.lifelong.trunks import Features
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.drift import Crowding
from ml.methods.lifelong.heads import outputs_of, signs_of_logits
from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.statistics import CodeStatistics
from tests.ml.experiments.shelves import place_of, shelves

QUICK = LifelongConfig(rounds=1, final_epochs=4, hidden=32, code_bits=32, learning_rate=0.01)
ENTRIES = 24  # of base classes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_of(shelves(), tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="module")
def rows(place: Place) -> dict[str, RunRecord]:
    """Of the first seed: both ways of confusing labels, and the shortest codes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_drift, "BASE", QUICK)
        patch.setattr(stored_drift, "UPDATE", QUICK)
        runs = [run for run in planned_stored_drift(place, place.options) if run.seed == 0]
        return {
            run.name: run.work(Path("unused"))
            for run in runs
            if "bits" not in run.name or run.name == "8 bits"
        }


def test_both_ways_and_all_shares_are_planned_for_three_seeds_and_nothing_of_it_in_a_smoke_run(
    place: Place, tmp_path: Path
) -> None:
    def unread() -> Features:
        raise AssertionError("a plan opens nothing")

    plan = list(planned_stored_drift(replace(place, read=unread), place.options))
    moved = [(run.name, run.seed) for run in plan if run.setting == "shop/labels moved"]
    expected = [
        (f"{share:g} {way}", seed) for seed in range(3) for way in ("alike", "any") for share in SHARES
    ]
    assert sorted(moved) == sorted(expected)
    crowded = [(run.name, run.seed) for run in plan if run.setting == "shop/codewords crowd"]
    assert crowded == [("8 bits", 0), ("16 bits", 0), ("32 bits", 0), ("128 bits", 0)]
    smoke = place_of(place.features, tmp_path, smoke=True)
    assert list(planned_stored_drift(smoke, smoke.options)) == []


def test_exactly_the_share_that_is_said_has_another_label(rows: dict[str, RunRecord]) -> None:
    moved = {0.005: 0, 0.01: 0, 0.02: 0, 0.05: 1, 0.1: 2, 0.2: 5}  # of 24, to the nearest
    for share, count in moved.items():
        for way in ("alike", "any"):
            assert rows[f"{share:g} {way}"].values["share"] == count / ENTRIES


def test_where_no_label_moved_nothing_is_lost(rows: dict[str, RunRecord]) -> None:
    found = rows["0.02 any"].values
    assert [found[name] for name in ("lost", "loss", "loss_low", "loss_high")] == [0, 0, 0, 0]
    assert found["map"] == found["map_best"]


def test_labels_confused_with_the_one_most_like_them_stay_in_their_family(
    rows: dict[str, RunRecord], place: Place
) -> None:
    curriculum, lesson = place.curriculum(LabelScheme()), place.lesson(QUICK, LabelScheme(), stage=0, seed=0)
    sets = [curriculum.sets[row] for row in curriculum.entries(0)]
    words = CodeStatistics.of(sets, lesson.solved).codewords()
    apple, plum, milk, cream = (words[sets[6 * label]].astype(float) for label in range(4))
    fruit, dairy = 1 - (apple * plum).mean(), 1 - (milk * cream).mean()
    possible = [(count * fruit + (5 - count) * dairy) / ENTRIES for count in range(6)]
    lost = float(rows["0.2 alike"].values["lost"])
    assert min(abs(lost - one) for one in possible) < 1e-9
    far = min(1 - (one * other).mean() for one in (apple, plum) for other in (milk, cream))
    assert far > max(fruit, dairy)  # so this tells families apart
    assert float(rows["0.2 any"].values["lost"]) > lost


def test_an_entry_whose_label_was_wrong_is_found_by_the_code_of_the_wrong_one(
    rows: dict[str, RunRecord], place: Place
) -> None:
    chain, labels = place.features.chain, place.features.chain.images.labels()
    lesson = place.lesson(QUICK, LabelScheme(), stage=0, seed=0)
    entries, queries = (rows[labels[rows] < chain.ends[0]] for rows in (chain.gallery, chain.queries))
    asking = packed(signs_of_logits(outputs_of(lesson.heads.image, place.features.vectors[queries])))
    best = hamming_values(asking, labels[queries], packed(lesson.solved), labels[entries]).map.mean()
    for way in ("alike", "any"):
        found = rows[f"0.2 {way}"].values
        assert found["map_best"] == pytest.approx(best)
        assert float(found["map"]) < best
        assert found["loss"] == pytest.approx(best - float(found["map"]))
        assert float(found["loss_low"]) <= float(found["loss"]) <= float(found["loss_high"])


def test_crowding_is_counted_to_what_labels_ask_for_between_the_words_that_most_codes_say() -> None:
    registry = LabelRegistry(("bag", "shoe"), (1.0, 1.0))
    bag, shoe = np.ones(8, np.int8), np.array([-1, -1, -1, -1, 1, 1, 1, 1], np.int8)
    codes = np.stack([bag, bag, -bag, shoe, shoe, -shoe])
    sets: list[LabelSet] = [(0,), (0,), (0,), (1,), (1,), (1,)]
    # Half of all pairs are alike, so those that are not ask for opposite codes: 8 bits, of which there are 4.
    assert crowding_of(sets, codes, registry) == Crowding(smallest=0.5, mean=0.5, nearest=4)


def test_after_an_increment_stored_codes_are_counted_to_retraining_at_the_same_length(
    rows: dict[str, RunRecord], place: Place
) -> None:
    found, short = rows["8 bits"].values, replace(QUICK, code_bits=8)
    assert set(found) == {
        f"{name}_1"
        for name in ("smallest", "mean", "nearest", "map_best", "map", "loss", "loss_low", "loss_high")
    }  # nothing of the base, where retraining is what there is
    chain, labels = place.features.chain, place.features.chain.images.labels()
    lesson = place.lesson(short, LabelScheme(), stage=1, seed=0)
    curriculum = place.curriculum(LabelScheme())
    entries = np.concatenate([curriculum.entries(0), curriculum.entries(1)])
    asking = packed(signs_of_logits(outputs_of(lesson.heads.image, place.features.vectors[chain.queries])))
    best = hamming_values(asking, labels[chain.queries], packed(lesson.solved), labels[entries]).map.mean()
    assert lesson.solved.shape == (30, 8)
    assert found["map_best_1"] == pytest.approx(best)
    assert found["loss_1"] == pytest.approx(best - float(found["map_1"]))
    assert 0 <= int(found["nearest_1"]) <= 8
