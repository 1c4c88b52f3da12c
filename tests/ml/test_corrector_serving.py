"""The serving half of the corrector experiment, on made-up encoders whose answers are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.data.images import ImageSet
from ml.experiments.claims import answer
from ml.experiments.corrector import serving_heads
from ml.experiments.corrector.serving_asking import serving_questions
from ml.experiments.corrector.serving_curves import COUNTS, measured_backfill, measured_pairs
from ml.experiments.corrector.serving_encoders import (
    EXPERIMENT,
    VECTORS_FILE,
    WEIGHTS_FILE,
    Encoded,
    Role,
    encode_all,
    encoded_by,
    planned_encoders,
    recipe_of,
    record_of,
    share_of_images,
)
from ml.experiments.corrector.serving_gallery import (
    Entries,
    Task,
    Upgrade,
    backfilled,
    first_of,
    fused_vectors,
)
from ml.experiments.corrector.serving_groups import groups_of, worst_group
from ml.experiments.corrector.serving_heads import planned_heads
from ml.experiments.corrector.serving_ladder import measured_upgrade
from ml.experiments.corrector.serving_maps import (
    CONFIG,
    encoding_of,
    full_map,
    predicted_order,
    random_order,
    rank_correlation,
    rotation,
    true_errors,
    usual_count,
)
from ml.experiments.corrector.serving_presenting import serving_plots, serving_tables
from ml.experiments.corrector.serving_runs import planned_serving
from ml.experiments.data import ClassSplit, Dataset, Described, Part, RetrievalTask
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.corrector.fitting import fit_corrector
from ml.models.encoder import ImageEncoder
from ml.models.export import weights_of
from ml.training.calibration import Fusion

CLASSES, EACH, D, BITS, SIZE = 6, 16, 8, 64, 24
BASE = 4  # of the classes; one validates, one is unseen


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def turned(seed: int = 5) -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]


def part_of(labels: NDArray[np.int64]) -> Part:
    """Coloured pictures; two packs, two contributors in the second."""
    rng = np.random.default_rng(0)
    shade = np.linspace(20, 230, CLASSES)[labels][:, None, None, None]
    pixels = np.clip(shade + rng.normal(0, 12, (len(labels), 3, SIZE, SIZE)), 0, 255).astype(np.uint8)
    packs = tuple("first" if label < 3 else "second" for label in labels)
    described = tuple(
        Described((f"group {label % 2}", f"{label}"), (), "", f"{row % 2}" if label >= 3 else "")
        for row, label in enumerate(labels)
    )
    names = tuple(f"class {label}" for label in range(CLASSES))
    images = ImageSet(torch.from_numpy(pixels), torch.from_numpy(labels), names, packs, "made up")
    return Part(images, np.arange(len(labels)), described)


def split_of() -> ClassSplit:
    """Of each class the first four images ask, two to choose and two to report (validation and unseen: all four)."""
    labels = np.repeat(np.arange(CLASSES), EACH)
    place = np.tile(np.arange(EACH), CLASSES)

    def task(known: range, asking: NDArray[np.bool_]) -> RetrievalTask:
        inside = np.isin(labels, list(known))
        gallery, queries = np.flatnonzero(inside & (place >= 4)), np.flatnonzero(inside & asking)
        own = labels[gallery], labels[queries]
        return RetrievalTask(gallery, own[0], own[0] >= BASE, queries, own[1], own[1] >= BASE, queries)

    train = np.flatnonzero((labels < BASE) & (place >= 4))
    names = tuple(f"class {label}" for label in range(CLASSES))
    return ClassSplit(
        name="shop", images=part_of(labels), base=names[:BASE], validation=names[4:5], unseen=names[5:],
        train=train, train_labels=labels[train],
        choosing=task(range(5), np.where(labels < BASE, place < 2, place < 4)),
        final=task(range(CLASSES), np.where(labels < BASE, (place >= 2) & (place < 4), (place < 4) & (labels == 5))),
        without_class=0, tags={}, fingerprint="shop",
    )  # fmt: skip


def encoded(seed: int, *, spread: float, codes_of: int) -> Encoded:
    """Embeddings about a centre per class; codes by the class, those of another `codes_of` unrelated."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), EACH)
    centres = np.random.default_rng(1).normal(size=(CLASSES, D))
    words = np.random.default_rng(codes_of).integers(0, 2, (CLASSES, BITS), dtype=np.uint8)
    flipped = rng.random((len(labels), BITS)) < 0.2
    return Encoded(
        np.packbits(words[labels] ^ flipped, axis=1),
        unit(centres[labels] + rng.normal(0, spread, (len(labels), D))), 0.0,
    )  # fmt: skip


def better() -> Upgrade:
    """The new encoder spreads classes less; its space is turned and its codes are others."""
    split, new = split_of(), encoded(3, spread=0.6, codes_of=11)
    turn = replace(new, embeddings=unit(new.embeddings @ turned()))
    return Upgrade(split, split.final, encoded(2, spread=1.5, codes_of=10), turn)


def same_but_turned() -> Upgrade:
    """The new encoder says what the old one does, in another basis and with other codes."""
    split, old = split_of(), encoded(2, spread=0.9, codes_of=10)
    other = encoded(2, spread=0.9, codes_of=11)
    return Upgrade(split, split.final, old, Encoded(other.codes, unit(old.embeddings @ turned()), 0.0))


def task_of(upgrade: Upgrade, folder: Path, seed: int = 0) -> Task:
    """The rows' task, with encoders that are found in a ledger and never trained."""
    options = Options(seeds=(0,), smoke=False, threads=1, ledger=Ledger(folder))

    def run(role: Role, found: Encoded) -> PlannedRun:
        stored: dict[str, NDArray[Any]] = {"codes": found.codes, "embeddings": found.embeddings}
        record = RunRecord(
            role, "encoders", seed, {"encode_seconds": 0.25}, files={VECTORS_FILE: save(stored)}
        )
        return PlannedRun(
            name=role, setting="encoders", seed=seed, identity={"of": role}, work=lambda _: record
        )

    runs: dict[Role, PlannedRun] = {
        "old": run("old", upgrade.old),
        "independent": run("independent", upgrade.new),
    }
    return Task(upgrade.split, runs, "independent", seed, options)


def everyone(upgrade: Upgrade) -> NDArray[np.int64]:
    return np.arange(len(upgrade.task.queries))


def test_the_fused_score_is_the_log_odds_of_each_entrys_own_producer() -> None:
    entries = Entries(
        signs=np.array([[-1, -1], [1, 1]], np.float32), embeddings=np.array([[1, 0], [0, 1]], np.float32),
        producers=np.array([1, 0]), fusions=(Fusion(-1.0, 0.5, 2.0), Fusion(-3.0, 4.0, 5.0)),
    )  # fmt: skip
    query = np.array([1, 1, 0.6, 0.8, 1], np.float32)  # its signs, its embedding, 1

    assert fused_vectors(entries) @ query == pytest.approx([-3 - 4 + 5 * 0.6, -1 + 0.5 + 2 * 0.8])


def test_a_turned_space_is_undone_by_a_rotation_and_lost_without() -> None:
    upgrade = same_but_turned()
    corrector = rotation(encoding_of(upgrade, 40, 0), CONFIG, 0).corrector
    asking = upgrade.new, everyone(upgrade)

    full, corrected, stale = (
        upgrade.asked_by_cosine(asking[0], entries, asking[1]).map
        for entries in (
            upgrade.full_entries(),
            upgrade.corrected_entries(corrector),
            upgrade.stale_entries(),
        )
    )

    assert corrected == pytest.approx(full, abs=1e-6)
    assert stale.mean() < 0.5 * full.mean()


def test_codes_that_do_not_compare_get_no_weight_and_those_that_do_get_some() -> None:
    upgrade = same_but_turned()
    corrector = rotation(encoding_of(upgrade, 40, 0), CONFIG, 0).corrector
    corrected, full = upgrade.corrected_entries(corrector).fusions[0], upgrade.full_entries().fusions[0]

    assert corrected.code_weight == 0
    assert full.code_weight > full.embedding_weight


def test_a_space_that_points_the_other_way_is_asked_by_cosine_alone() -> None:
    upgrade = same_but_turned()
    opposite = Encoded(~upgrade.old.codes, -upgrade.old.embeddings, 0.0)

    assert replace(upgrade, new=opposite).stale_entries().fusions == (Fusion(0.0, 0.0, 1.0),)


def test_the_calibration_knows_nothing_of_the_task_that_is_reported() -> None:
    upgrade = better()
    final = upgrade.task
    shuffled = replace(
        final, gallery_labels=np.roll(final.gallery_labels, 7), query_labels=final.query_labels[::-1]
    )

    assert replace(upgrade, task=shuffled).full_entries().fusions == upgrade.full_entries().fusions


def test_entries_encoded_anew_are_the_new_encoders_in_code_embedding_and_calibration() -> None:
    upgrade = better()
    old, full = upgrade.stale_entries(), upgrade.full_entries()
    anew = first_of(np.arange(len(upgrade.task.gallery))[::-1], 0.25)

    mixed = backfilled(old, full, anew)

    assert anew.sum() == 18
    assert anew[-18:].all()
    for name in ("signs", "embeddings"):
        assert np.array_equal(getattr(mixed, name)[anew], getattr(full, name)[anew])
        assert np.array_equal(getattr(mixed, name)[~anew], getattr(old, name)[~anew])
    assert [mixed.fusions[producer] for producer in mixed.producers[[0, -1]]] == [
        old.fusions[0],
        full.fusions[0],
    ]


def test_as_many_images_are_encoded_as_a_twentieth_or_four_per_dimension() -> None:
    upgrade = better()
    gallery = upgrade.task.gallery
    large = replace(
        upgrade.task, gallery=np.tile(gallery, 20), gallery_labels=np.tile(upgrade.task.gallery_labels, 20)
    )

    assert usual_count(upgrade) == 4 * D
    assert usual_count(replace(upgrade, task=large)) == 72
    assert usual_count(replace(upgrade, task=replace(upgrade.task, gallery=gallery[:20]))) == 20


def test_pairs_are_the_same_images_of_the_gallery_the_probe_among_them() -> None:
    upgrade = better()
    encoding = encoding_of(upgrade, 30, 0)
    rows = upgrade.task.gallery[encoding.rows]

    assert (len(encoding.fit), len(encoding.probe), len(set(rows.tolist()))) == (24, 6, 30)
    assert np.array_equal(encoding.all.stale, upgrade.old.embeddings[rows])
    assert np.array_equal(encoding.all.fresh, upgrade.new.embeddings[rows])


def test_the_chosen_map_is_fitted_once_more_to_all_pairs_but_reported_on_an_unseen_probe() -> None:
    encoding = encoding_of(better(), 72, 0)
    chosen = fit_corrector(encoding.fit, encoding.probe, CONFIG)
    final = replace(CONFIG, ridges=(chosen.ridge,), steps=chosen.steps, check_every=max(1, chosen.steps))
    expected = fit_corrector(encoding.all, encoding.all, final)

    fitted = full_map(encoding, CONFIG, 0)

    stale = encoding.all.stale
    assert np.array_equal(fitted.corrector.corrected(stale), expected.corrector.corrected(stale))
    assert not np.array_equal(fitted.corrector.corrected(stale), chosen.corrector.corrected(stale))
    assert fitted.report == chosen.report


def test_a_correction_that_was_given_up_is_not_fitted_again() -> None:
    upgrade = better()
    old = upgrade.old.embeddings
    noisy = unit(old + np.random.default_rng(9).normal(0, 0.2, old.shape))
    encoding = encoding_of(replace(upgrade, new=replace(upgrade.new, embeddings=noisy)), 40, 0)

    fitted = full_map(encoding, replace(CONFIG, ridges=(1e-7,), steps=0), 0)

    assert fitted.kind == "identity"
    assert fitted.corrector.corrected(encoding.probe.stale) == pytest.approx(encoding.probe.stale, abs=1e-6)


def test_where_the_new_encoder_moved_one_side_of_the_space_that_side_is_encoded_first() -> None:
    rng = np.random.default_rng(0)
    old = unit(rng.normal(size=(600, D)))
    is_noisy = old[:, 0] > 0
    new = unit(old + np.where(is_noisy[:, None], rng.normal(0, 0.5, old.shape), 0))
    small = better()
    task = replace(small.task, gallery=np.arange(600), gallery_labels=np.arange(600) % CLASSES)
    upgrade = replace(
        small, task=task, old=replace(small.old, embeddings=old), new=replace(small.new, embeddings=new)
    )
    encoding = encoding_of(upgrade, 300, 0)
    fitted = full_map(encoding, CONFIG, 0)

    order, predicted = predicted_order(upgrade, encoding, fitted, CONFIG, 0)

    assert is_noisy[order[:100]].mean() > 0.9
    assert is_noisy[order[-100:]].mean() < 0.1
    assert np.array_equal(order, np.lexsort((np.arange(len(order)), -predicted)))
    assert rank_correlation(predicted, true_errors(upgrade, fitted.corrector)) > 0.4


def test_rank_correlation_is_of_ranks() -> None:
    values = np.array([1.0, 2.0, 4.0, 100.0])

    assert rank_correlation(values, np.exp(-values)) == pytest.approx(-1)
    assert rank_correlation(values, np.array([0.0, 2.0, 1.0, 3.0])) == pytest.approx(0.8)


def test_random_orders_differ_by_number_and_seed_and_are_repeated() -> None:
    first = random_order(50, 0, 0)

    assert sorted(first.tolist()) == list(range(50))
    assert np.array_equal(first, random_order(50, 0, 0))
    assert not np.array_equal(first, random_order(50, 0, 1))
    assert not np.array_equal(first, random_order(50, 1, 0))


def test_the_worst_group_gains_least_of_those_with_enough_answers() -> None:
    names = np.array(["a", "a", "b", "b", "b", "c", ""])
    gains = np.array([0.1, 0.3, -0.1, np.nan, 0.0, -9.0, -9.0])

    assert worst_group(names, gains, fewest=2) == ("b", -0.05)
    assert worst_group(names, gains, fewest=1) == ("c", -9.0)
    assert worst_group(names, gains, fewest=3) is None


def test_queries_are_grouped_by_entries_of_their_class_pack_and_contributor() -> None:
    split = split_of()
    few_of_some = np.isin(split.final.gallery_labels, [2, 5]) & (np.arange(len(split.final.gallery)) % 2 == 0)
    final = replace(
        split.final,
        gallery=split.final.gallery[~few_of_some],
        gallery_labels=split.final.gallery_labels[~few_of_some],
    )

    groups = groups_of(split, final)

    asked = final.query_labels
    assert asked.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 5, 5, 5, 5]
    assert groups["category_size"].tolist() == (
        ["medium"] * 4 + ["small"] * 2 + ["large"] * 2 + ["small"] * 4
    )
    assert groups["vertical"].tolist() == ["first"] * 6 + ["second"] * 6
    assert groups["contributor"].tolist() == [""] * 6 + ["0", "1"] * 3


def test_within_one_pack_a_vertical_is_the_topmost_category_and_no_contributor_is_no_group() -> None:
    split = split_of()
    own = split.final.query_labels < 3
    final = replace(split.final, queries=split.final.queries[own], query_labels=split.final.query_labels[own])

    groups = groups_of(split, final)

    assert groups["vertical"].tolist() == ["group 0", "group 0", "group 1", "group 1", "group 0", "group 0"]
    assert "contributor" not in groups


def test_the_old_encoder_sees_a_share_of_each_class_and_two_at_least() -> None:
    labels = np.repeat([0, 1, 2], [20, 4, 1])

    drawn = share_of_images(labels, 0.3, seed=0)

    assert np.bincount(labels[drawn]).tolist() == [6, 2, 1]
    assert np.array_equal(drawn, share_of_images(labels, 0.3, seed=0))
    assert not np.array_equal(drawn, share_of_images(labels, 0.3, seed=1))


def test_a_successor_is_larger_from_other_weights_or_goes_on_from_the_old_ones(tmp_path: Path) -> None:
    split = split_of()
    options = Options(seeds=(0,), smoke=True, threads=1, ledger=Ledger(tmp_path))
    runs = planned_encoders(split, 0, options)
    found = {role: encoded_by(run, options) for role, run in runs.items()}
    records = {
        role: options.ledger.find(run.full_identity(EXPERIMENT, smoke=True)) for role, run in runs.items()
    }

    assert list(runs) == ["old", "independent", "continued"]
    assert runs["continued"].identity["parent"] == runs["old"].identity
    assert runs["independent"].identity["parent"] is None
    recipes = {role: recipe_of(split, role, images=48, seed=0, smoke=True) for role in runs}
    assert recipes["old"].method.encoder == recipes["continued"].method.encoder
    assert recipes["old"].seed != recipes["independent"].seed
    assert [records[role].values["images"] for role in runs] == [16, 48, 48]  # type: ignore[union-attr]
    for one in found.values():
        assert (one.codes.shape, one.embeddings.shape) == ((96, 16), (96, 128))
        assert np.linalg.norm(one.embeddings, axis=1) == pytest.approx(1, abs=1e-5)
    weights = {role: load(record.files[WEIGHTS_FILE]) for role, record in records.items() if record}
    torch.manual_seed(recipes["old"].seed)
    drawn = weights_of(ImageEncoder(recipes["old"].method.encoder))
    name = next(name for name, own in weights["old"].items() if own.ndim == 2)
    moved, away = (np.abs(weights["continued"][name] - own[name]).mean() for own in (weights["old"], drawn))
    assert 0 < moved < 0.8 * away


def test_a_row_holds_every_rung_per_query_and_what_each_reaches_of_the_gain(tmp_path: Path) -> None:
    upgrade = better()
    record = measured_upgrade(task_of(upgrade, tmp_path), tmp_path / "none")
    own, values = record.per_query, record.values

    assert record.setting == "serving/shop/independent"
    asked = everyone(upgrade)
    expected = upgrade.asked(upgrade.new, upgrade.full_entries(), asked).map
    assert np.array_equal(own["map_full"], expected)
    assert np.array_equal(own["map_old"], upgrade.asked(upgrade.old, upgrade.old_entries(), asked).map)
    assert np.array_equal(own["gain_corrected"], own["map_corrected"] - own["map_old"])
    corrected = values["gain_corrected"]
    assert values["share_corrected"] == pytest.approx(corrected / values["gain_full"])  # type: ignore[operator]
    assert values["share_full"] == pytest.approx(1)
    lost = (own["recall_at_1_old"] == 1) & (own["recall_at_1_cross"] == 0)
    assert values["flips_cross"] == pytest.approx(lost.mean())
    assert (values["encoded"], values["entries"]) == (32, 72)
    fitting, encoding, backfill = (
        float(values[f"{name}_seconds"]) for name in ("fitting", "encoding", "backfill")
    )
    assert encoding / backfill == pytest.approx(32 / 72)
    assert values["seconds_ratio"] == pytest.approx((fitting + encoding) / backfill)
    assert 0 < values["floor"] < values["probe_error"]  # type: ignore[operator]
    assert {"kept", "random", "predicted", "true", "affine", "procrustes", "cross"} <= {
        metric.removeprefix("map_") for metric in own
    }


def test_a_gallery_that_is_encoded_wholly_has_no_floor_to_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.experiments.corrector.serving_maps.PER_DIMENSION", 100)

    values = measured_upgrade(task_of(better(), tmp_path), tmp_path / "none").values

    assert values["encoded_share"] == 1
    assert np.isnan(values["floor"])
    assert values["share_kept"] == pytest.approx(1)


def test_new_heads_stand_on_the_old_encoders_own_trunk(tmp_path: Path) -> None:
    split = split_of()
    options = Options(seeds=(0,), smoke=True, threads=1, ledger=Ledger(tmp_path))
    old = planned_encoders(split, 0, options)["old"]
    run = planned_heads(split, 0, old, options)
    stored = encoded_by(old, options)
    weights = load(record_of(old, options).files[WEIGHTS_FILE])

    again = encode_all(serving_heads._encoder(split, 0, weights, options), split.images.images.pixels)
    found = encoded_by(run, options)

    assert again.embeddings == pytest.approx(stored.embeddings, abs=1e-2)
    assert run.identity["parent"] == old.identity
    assert (found.codes.shape, found.embeddings.shape) == ((96, 16), (96, 128))
    assert np.linalg.norm(found.embeddings, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found.embeddings - stored.embeddings).mean() > 0.01


def test_a_curve_begins_at_the_corrected_gallery_and_ends_at_the_full_backfill(tmp_path: Path) -> None:
    upgrade = better()
    task = task_of(upgrade, tmp_path)
    ladder = measured_upgrade(task, tmp_path / "none").values
    curve = measured_backfill(task, tmp_path / "none").values

    for order in ("predicted", "random", "true"):
        assert curve[f"map_{order}_0"] == pytest.approx(ladder["map_corrected"])
        assert curve[f"map_{order}_100"] == pytest.approx(ladder["map_full"])
    assert curve["map_predicted_10"] == pytest.approx(ladder["map_predicted"])


def test_the_gain_over_pairs_is_measured_for_counts_that_the_gallery_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.experiments.corrector.serving_curves.COUNTS", (32, 72, 73))
    task = task_of(better(), tmp_path)
    ladder, curve = (
        measure(task, tmp_path / "none").values for measure in (measured_upgrade, measured_pairs)
    )

    assert curve["map_share_corrected_32"] == pytest.approx(ladder["share_corrected"])
    assert curve["cosine_map_share_affine_32"] == pytest.approx(ladder["cosine_share_affine"])
    assert "map_procrustes_72" in curve
    assert not any(metric.endswith("_73") for metric in curve)
    assert COUNTS == (128, 256, 512, 1024, 2048)


def made_up_row(seed: int, **changes: float) -> RunRecord:
    """Of forty queries: old 0.4, corrected 0.5, full 0.6."""
    levels = {
        "old": 0.4,
        "corrected": 0.5,
        "full": 0.6,
        "predicted": 0.55,
        "random": 0.53,
        "true": 0.58,
    } | changes
    per_query = {f"map_{state}": np.full(40, level) for state, level in levels.items()}
    per_query |= {f"gain_{state}": np.full(40, level - levels["old"]) for state, level in levels.items()}
    values: dict[str, Any] = {metric: float(own.mean()) for metric, own in per_query.items()}
    values |= {"worst_vertical_corrected": -0.01 * seed, "worst_vertical_corrected_name": f"pack {seed % 2}"}
    return RunRecord("upgrade", "serving/shop/continued", seed, values, per_query)


def test_claims_are_counted_from_the_rows_as_registered() -> None:
    evidence = evidence_of([made_up_row(seed) for seed in range(3)])
    claims = answer(serving_questions(evidence), evidence)

    counted = [(claim.question.id, claim.question.statistic, round(claim.estimate.value, 6), claim.holds)
               for claim in claims]  # fmt: skip
    assert counted == [
        ("C12a", "gain_share", 0.5, False),
        ("C12b", "error_order_minus_random", 0.02, True),
        ("C12d", "worst_group", -0.01, True),
    ]
    assert [claim.question.target for claim in claims] == ["value >= 0.95", "low > 0", "value >= -0.03"]
    assert "pack 0 (2), pack 1 (1)" in claims[2].question.note


def test_without_headroom_a_share_of_the_gain_cannot_be_tested() -> None:
    evidence = evidence_of([made_up_row(seed, full=0.42) for seed in range(3)])

    holds = {claim.question.id: claim.holds for claim in answer(serving_questions(evidence), evidence)}

    assert holds == {"C12a": "untestable", "C12b": "untestable", "C12d": True}


def test_a_share_of_next_to_no_gain_is_not_shown() -> None:
    evidence = evidence_of([made_up_row(seed, full=0.42) for seed in range(3)])

    assert {row["share"] for row in serving_tables(evidence)[0]["rows"]} == {None}
    assert "affine map –, rotation –" in serving_questions(evidence)[0].note


def test_nothing_is_asked_or_shown_without_rows() -> None:
    nothing = evidence_of([])

    assert (serving_questions(nothing), serving_tables(nothing), serving_plots(nothing)) == ([], [], [])


def test_tables_say_points_and_plots_their_bounds_over_seeds() -> None:
    evidence = evidence_of([made_up_row(0), made_up_row(1, corrected=0.7)])

    ladder, groups = serving_tables(evidence)[:2]
    (plot,) = serving_plots(evidence)

    shown = {row["gallery"]: row["mAP"] for row in ladder["rows"]}
    assert (shown["old system"], shown["corrected"], shown["new queries, old gallery"]) == (40.0, 60.0, None)
    shares = {row["gallery"]: row["share"] for row in ladder["rows"]}
    assert (shares["corrected"], shares["full backfill"], shares["old system"]) == (1.0, 1.0, 0.0)
    assert groups["rows"][0]["worst when corrected"] == "pack 0, pack 1"
    (series,) = plot["series"]
    assert series["x"] == ["old", "corrected", "+ 10 %", "full backfill"]
    assert series["y"] == pytest.approx([0.4, 0.6, 0.55, 0.6])
    assert (series["low"][1], series["high"][1]) == pytest.approx((0.5, 0.7))


def test_the_plan_takes_packs_alone_and_writes_no_row_twice(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(CLASSES), EACH)
    part = part_of(labels)
    pack = Dataset(
        name="grocery", kind="pack", train=part, validation=part, test=part, unseen_gallery=None, unseen_queries=None,
        fingerprint="shop",
    )  # fmt: skip
    digits = replace(pack, name="digits", kind="digits")
    options = Options(seeds=tuple(range(9)), smoke=False, threads=1, ledger=Ledger(tmp_path))

    planned = planned_serving([digits, pack], options)

    rows = [(run.setting, run.name, run.seed) for run in planned]
    assert len(rows) == len(set(rows)) == 4 * (4 + 3) + 2 * 5
    assert {run.setting.split("/")[1] for run in planned} == {"grocery"}
    assert planned_serving([digits], options) == []
