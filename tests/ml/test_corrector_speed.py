"""Speed of correcting: what is timed is what is said, in turns, and the claim sees a map that is too slow."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.experiments.claims import answer
from ml.experiments.corrector import speed
from ml.experiments.corrector.speed import (
    SEEDS,
    Load,
    drawn_map,
    in_turns,
    measured_speed,
    planned_speed,
    products,
    speed_questions,
    stored_vectors,
)
from ml.experiments.corrector.speed_presenting import speed_tables
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.protocol import Options
from ml.models.corrector import CHUNK


def test_tasks_take_turns_at_being_first_and_a_turn_to_warm_up_does_not_count() -> None:
    now, order = [0.0], []

    def task(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds * (10 if len(order) <= 2 else 1)  # slow as long as nothing is warm

    tasks = {"a": lambda: task("a", 1.0), "b": lambda: task("b", 2.0)}
    assert in_turns(tasks, 2, clock=lambda: now[0]) == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_the_products_alone_are_those_of_the_map() -> None:
    full, affine = drawn_map(0, has_residual=True), drawn_map(0, has_residual=False)
    rows = torch.from_numpy(stored_vectors(CHUNK + 3, seed=0)).float()
    torch.testing.assert_close(products(full, rows), rows[CHUNK:] @ full.inner.T @ full.outer.T)
    torch.testing.assert_close(products(affine, rows, has_residual=False), rows[CHUNK:] @ affine.affine.T)
    assert not affine.outer.any()
    assert full.outer.all()


def test_made_up_embeddings_are_stored_as_the_product_stores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PIECE", 40)
    stored = stored_vectors(100, seed=0)
    assert stored.dtype == np.float16
    assert stored.shape == (100, 128)
    np.testing.assert_allclose(np.linalg.norm(stored.astype(np.float64), axis=1), 1, atol=1e-3)
    assert len(np.unique(stored[:, 0])) > 90


def test_a_run_measures_both_maps_their_products_and_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is done once for real; then seconds are planted, and what is derived from them is right."""
    planted = {"full": 2.0, "full_products": 1.2, "affine": 0.4, "affine_products": 0.3, "encoding": 0.8}
    before = torch.get_num_threads()

    def planted_turns(tasks: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
        assert torch.get_num_threads() == 1
        assert all(seconds[0] > 0 for seconds in in_turns(tasks, turns).values())
        return {name: [planted[name]] for name in tasks}

    monkeypatch.setattr(speed, "in_turns", planted_turns)
    torch.set_num_threads(2)
    try:
        record = measured_speed(Load(vectors=1_000, images=4, turns=1), 3, Path("unused"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    values = record.values
    assert (record.name, record.setting, record.seed) == ("speed", "speed", 3)
    assert values["full_seconds"] == 2.0
    assert values["full_vectors_per_second"] == 500
    assert values["full_products_vectors_per_second"] == pytest.approx(1_000 / 1.2)
    assert values["encode_ms_per_image"] == pytest.approx(200)
    assert values["full_share_of_encoding"] == pytest.approx(2.0 / (1_000 * 0.2))
    assert values["affine_share_of_encoding"] == pytest.approx(0.4 / (1_000 * 0.2))
    assert len(values) == 1 + 4 * 2 + 2


def timed(*, seeds: int, share: float, encode_ms: float = 1.0) -> list[RunRecord]:
    """The whole map at a million a second if its products were all, the affine one three times as fast."""
    values = {"encode_ms_per_image": encode_ms}
    for kind, products_speed in (("full", 1e6), ("affine", 3e6)):
        values |= {
            f"{kind}_vectors_per_second": share * products_speed,
            f"{kind}_products_vectors_per_second": products_speed,
            f"{kind}_share_of_encoding": 1e3 / (share * products_speed * encode_ms),
        }
    return [RunRecord(name="speed", setting="speed", seed=seed, values=values) for seed in range(seeds)]


def test_half_the_speed_of_the_products_is_asked_of_both_maps() -> None:
    for share, holds in ((0.51, True), (0.49, False)):
        evidence = evidence_of(timed(seeds=SEEDS, share=share))
        full, affine = answer(speed_questions(evidence), evidence)
        assert (full.question.id, full.question.statistic) == ("C12c", "correction_speed_ratio")
        assert (full.question.cell, affine.question.cell) == (
            "1,000,000 x 128, affine and residual, m = 256",
            "1,000,000 x 128, affine alone",
        )
        assert full.estimate.value == affine.estimate.value == pytest.approx(share)
        assert full.holds is affine.holds is holds


def test_too_few_rounds_leave_the_claim_open_and_no_run_leaves_it_unasked() -> None:
    evidence = evidence_of(timed(seeds=SEEDS - 1, share=0.9))
    assert [claim.holds for claim in answer(speed_questions(evidence), evidence)] == ["untestable"] * 2
    nothing = evidence_of([])
    assert speed_questions(nothing) == []
    assert [table["rows"] for table in speed_tables(nothing)] == [[], []]


def test_tables_say_how_long_a_million_takes_and_what_share_of_encoding_that_is() -> None:
    speeds, encoding = speed_tables(evidence_of(timed(seeds=2, share=0.5, encode_ms=0.1)))
    assert speeds["rows"][0]["vectors a second"] == 500_000
    assert speeds["rows"][0]["of their speed"] == pytest.approx(0.5)
    assert speeds["rows"][0]["seconds of one million"] == pytest.approx(2)
    full, affine = encoding["rows"]
    assert full["encoding a million, s"] == pytest.approx(100)
    assert full["correcting a million, s"] == pytest.approx(2)
    assert (full["at most 0.01"], affine["at most 0.01"]) == (False, True)


def test_five_rounds_of_a_million_are_planned_and_a_smoke_run_takes_few(tmp_path: Path) -> None:
    options = Options(seeds=tuple(range(10)), smoke=False, threads=1, ledger=Ledger(tmp_path))
    runs = planned_speed(options)
    assert [run.seed for run in runs] == [0, 1, 2, 3, 4]
    assert runs[0].identity["vectors"] == 1_000_000
    assert runs[0].identity["encoder"]["input_size"] == 64
    assert runs[0].identity["encoder"]["trunk"]["widths"] == (48, 64, 96, 128)
    assert planned_speed(replace(options, smoke=True))[0].identity["vectors"] == 20_000
