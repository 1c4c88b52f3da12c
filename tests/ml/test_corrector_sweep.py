"""Made-up drift: what is planted is known exactly, and a table of expectations says when one is not met."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.experiments.corrector import sweep
from ml.experiments.corrector.sweep import (
    BETAS,
    PAIRS,
    SEEDS,
    SETTING,
    TIMES,
    WIDTHS,
    Cell,
    fitted_maps,
    measured_cell,
    overlap,
    planned_sweep,
)
from ml.experiments.corrector.sweep_presenting import MAPS, sweep_plots, sweep_tables
from ml.experiments.corrector.synthetic import World
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord, Value
from ml.experiments.protocol import Options
from ml.methods.corrector.agreement import total_variation_bound
from ml.methods.corrector.config import FitConfig
from ml.methods.corrector.pairs import squared_distances


def test_embeddings_move_further_the_longer_they_drift_and_as_a_function_of_where_they_were() -> None:
    world = World(0)
    stale = world.stale(200, draw=0)
    distances = [squared_distances(stale, world.moved(stale, time)).mean() for time in (0.0, 0.5, 1.0, 2.0)]
    assert distances[0] < 1e-10
    assert distances == sorted(distances)
    assert distances[-1] > 0.5
    np.testing.assert_array_equal(world.moved(stale[::-1], 1.0)[::-1], world.moved(stale, 1.0))
    np.testing.assert_allclose(np.linalg.norm(world.moved(stale, 2.0), axis=1), 1, atol=1e-6)


def test_draws_are_other_items_of_one_catalogue_and_seeds_other_catalogues() -> None:
    first, again, other = (World(0).pairs(50, 1.0, draw=draw) for draw in (0, 0, 1))
    np.testing.assert_array_equal(first.fresh, again.fresh)
    assert not np.array_equal(first.stale, other.stale)
    stale = first.stale
    assert not np.allclose(World(0).moved(stale, 1.0), World(1).moved(stale, 1.0), atol=0.1)


def test_the_planted_floor_is_what_the_true_map_leaves_and_grows_with_the_noise() -> None:
    for noise in (0.02, 0.1):
        world = replace(World(0), noise=noise)
        pairs = world.pairs(3_000, 1.0, draw=0)
        left = squared_distances(world.moved(pairs.stale, 1.0), pairs.fresh).mean()
        assert world.floor(3_000, 1.0, draw=0) == pytest.approx(left, rel=0.1)
        assert left == pytest.approx(noise, rel=0.12)


def test_each_kind_of_map_has_the_branches_it_is_named_for() -> None:
    known = World(0).pairs(150, 1.0, draw=0)
    maps = dict(fitted_maps(known, (8,), FitConfig(steps=30, check_every=5), seed=0))
    assert list(maps) == ["affine", "mlp_8", "both_8"]
    assert not maps["affine"].outer.any()
    assert not maps["mlp_8"].affine.any()
    assert not maps["mlp_8"].offset.any()
    assert maps["mlp_8"].outer.any()
    assert len(maps["both_8"].inner) == 8
    untrained = dict(fitted_maps(known, (8,), FitConfig(steps=0), seed=0))
    assert torch.equal(untrained["both_8"].affine, untrained["affine"].affine)
    assert untrained["affine"].affine.any()


def test_neighbours_are_those_of_fresh_embeddings() -> None:
    fresh, queries = World(0).stale(100, draw=0), World(0).stale(20, draw=1)
    assert overlap(queries, fresh, fresh) == 1
    nearest = np.argsort(-(queries[:1] @ fresh.T)[0])
    view = fresh.copy()
    view[nearest[:5]], view[nearest[-5:]] = fresh[nearest[-5:]], fresh[nearest[:5]]  # five of ten leave
    assert overlap(queries[:1], view, fresh) == pytest.approx(0.5)


def test_a_cell_measures_every_map_on_items_it_was_not_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_JUDGED", 400)
    monkeypatch.setattr(sweep, "_QUERIES", 20)
    record = measured_cell(Cell(1.0, 100, (256,)), FitConfig(steps=50), 1, Path("unused"))
    values = {name: float(value) for name, value in record.values.items()}
    assert (record.name, record.setting, record.seed) == ("100 pairs", "sweep, drift for 1", 1)
    judged = World(1).pairs(400, 1.0, draw=1)
    assert values["stale_error"] == pytest.approx(judged.identity_errors().mean())
    assert values["floor"] < values["both_256_ratio"] <= values["affine_ratio"] < 0.6
    assert values["floor"] == World(1).floor(400, 1.0, draw=1) / values["stale_error"]
    assert values["floor"] <= values["floor_estimate"]
    assert values["stale_overlap"] < values["both_256_overlap"] <= 1
    for beta in BETAS:
        bound = total_variation_bound(values[f"logit_error_{beta}"])
        assert 0 < values[f"distance_mean_{beta}"] < values[f"distance_most_{beta}"] <= bound


def cell(time: float, pairs: int) -> dict[str, Value]:
    """Numbers that are all as theory expects them: the stale error is the time."""
    affine, learned = 0.3 + 20 / pairs, math.log(pairs) / math.log(5_000)
    values: dict[str, Value] = {"stale_error": time, "floor": 0.05, "floor_estimate": 0.06}
    values |= {f"{name}_overlap": learned for name in ("stale", *MAPS)}
    values["affine_ratio"] = affine
    for step, width in enumerate(WIDTHS):
        values[f"both_{width}_ratio"] = affine - (0.02 * (1 + step) * learned if pairs > 100 else 0)
        values[f"mlp_{width}_ratio"] = affine + (0.1 + 0.01 * step if pairs == 100 else -0.02)
    for beta in BETAS:
        eps = 0.1 * beta
        values |= {f"logit_error_{beta}": eps, f"distance_most_{beta}": 0.9 * math.tanh(eps / 2)}
        values |= {f"distance_mean_{beta}": 0.01, f"divergence_most_{beta}": 0.9 * eps**2 / 2}
    return values


def swept(changed: dict[tuple[float, int], dict[str, Value]]) -> list[RunRecord]:
    """A whole sweep of two seeds, with some cells' values changed."""
    return [
        RunRecord(
            name=f"{pairs} pairs",
            setting=SETTING.format(time),
            seed=seed,
            values=cell(time, pairs) | changed.get((time, pairs), {}),
        )
        for time in TIMES
        for pairs in PAIRS
        for seed in range(2)
    ]


def disagreeing(changed: dict[tuple[float, int], dict[str, Value]]) -> list[str]:
    rows = sweep_tables(evidence_of(swept(changed)))[0]["rows"]
    assert [row["agrees"] for row in rows] == [row["as expected"] == row["comparisons"] for row in rows]
    return [row["expected"] for row in rows if not row["agrees"]]


@pytest.mark.parametrize(
    ("place", "values", "expectation"),
    [
        ((2.0, 1_000), {"stale_error": 0.4}, "the longer the drift"),
        ((1.0, 300), {"affine_ratio": 0.31}, "the more pairs, the smaller"),
        ((1.0, 300), {"both_256_overlap": 0.9}, "the more pairs, the more nearest"),
        ((0.5, 5_000), {"affine_ratio": 0.23}, "with 5,000 pairs a residual branch beats"),
        ((0.5, 5_000), {"both_32_ratio": 0.23}, "with 5,000 pairs a wide branch"),
        ((0.5, 100), {"both_512_ratio": 0.45}, "with 100 pairs width is of no use"),
        ((0.5, 100), {"mlp_128_ratio": 0.505}, "with 100 pairs the residual branch alone is worse"),
        ((0.5, 100), {"mlp_128_ratio": 0.7}, "with 100 pairs the wider the residual branch alone"),
        ((0.5, 5_000), {"mlp_128_ratio": 0.4}, "with 5,000 pairs the residual branch alone catches up"),
        ((0.5, 5_000), {"mlp_512_ratio": 0.04}, "no map gets below the floor"),
        ((0.5, 5_000), {"floor_estimate": 0.04}, "the floor's estimate"),
        ((0.5, 5_000), {"distance_most_1": 0.06}, "total variation and divergence"),
        ((0.5, 5_000), {"divergence_most_20": 2.1}, "total variation and divergence"),
    ],
)
def test_an_expectation_that_is_not_met_is_said_so(
    place: tuple[float, int], values: dict[str, Value], expectation: str
) -> None:
    assert disagreeing({}) == []
    assert any(found.startswith(expectation) for found in disagreeing({place: values}))


def test_tables_and_plots_hold_every_cell_and_none_without_a_sweep() -> None:
    evidence = evidence_of(swept({}))
    _, cells, bounds = sweep_tables(evidence)
    assert [(row["time of drift"], row["pairs"]) for row in cells["rows"]] == [
        (time, pairs) for time in TIMES for pairs in PAIRS
    ]
    assert cells["rows"][0]["affine left"] == pytest.approx(0.5)
    assert [row["beta"] for row in bounds["rows"]] == list(BETAS) * len(TIMES)
    assert bounds["rows"][0]["tanh(eps / 2)"] == pytest.approx(math.tanh(0.05))
    heat, lines = sweep_plots(evidence)
    assert np.shape(heat["series"][0]["z"]) == (len(TIMES), len(PAIRS))
    assert heat["series"][0]["z"][0][0] == pytest.approx(0.5)
    assert [line["name"] for line in lines["series"]][-1] == "floor"
    assert all(line["x"] == list(PAIRS) for line in lines["series"])
    nothing = evidence_of([])
    assert [table["rows"] for table in sweep_tables(nothing)] == [[], [], []]
    assert sweep_plots(nothing) == []


def test_every_cell_is_planned_for_three_seeds_and_a_smoke_run_takes_one(tmp_path: Path) -> None:
    options = Options(seeds=tuple(range(10)), smoke=False, threads=1, ledger=Ledger(tmp_path))
    runs = planned_sweep(options)
    assert len(runs) == len(TIMES) * len(PAIRS) * SEEDS == 48
    assert {run.identity["cell"]["widths"] for run in runs} == {(32, 128, 256, 512)}
    assert {run.seed for run in runs} == {0, 1, 2}
    assert len({run.setting for run in runs}) == len(TIMES)
    assert len(planned_sweep(replace(options, smoke=True, seeds=(0,)))) == 1
