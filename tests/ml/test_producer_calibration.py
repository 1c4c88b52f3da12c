"""Calibrations of several producers: a mixed gallery treats them alike, and the newest one's stays as it was."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.evaluation.compatibility import old_shares
from ml.evaluation.two_stage import CodedSet, two_stage_scores
from ml.protocol import Calibration
from ml.training.calibration import Fusion, Similarities, calibrate, calibration_of, fit_fusion
from ml.training.producer_calibration import Asked, producer_calibrations

Labels = NDArray[np.int64]
DIMENSION, BITS, CLASSES, UNSEEN = 12, 32, 15, 3
CENTRES = np.random.default_rng(0).normal(size=(CLASSES, DIMENSION))
PLANES = np.random.default_rng(1).normal(size=(DIMENSION, BITS))
ELSEWHERE = np.random.default_rng(2).normal(size=DIMENSION)
# How blurred an encoder's picture is, and how far away a place is to which it draws everything.
NEW, OLD, OLDER = (0.9, 0.0), (1.1, 0.6), (1.2, 0.9)


def encoded(labels: Labels, encoder: tuple[float, float], seed: int) -> CodedSet:
    blur, drift = encoder
    rng = np.random.default_rng(seed)
    seen, coded = (CENTRES[labels] + blur * rng.normal(size=(len(labels), DIMENSION)) for _ in range(2))
    seen += drift * ELSEWHERE
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    return CodedSet(np.where(coded @ PLANES >= 0, 1, -1).astype(np.float32), seen.astype(np.float32))


def drawn(count: int, seed: int) -> Labels:
    return np.random.default_rng(seed).integers(0, CLASSES, count)


GALLERY = drawn(300, 3)
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
PRODUCERS = {
    "self": encoded(GALLERY, NEW, 4),
    "old": encoded(GALLERY, OLD, 5),
    "older": encoded(GALLERY, OLDER, 6),
}


def asked(seed: int, count: int = 90) -> Asked:
    labels = drawn(count, seed)
    groups = tuple("ab"[label % 2] for label in labels)
    return Asked(encoded(labels, NEW, seed + 1), labels, labels >= CLASSES - UNSEEN, groups)


def calibrated(producers: Mapping[str, CodedSet], queries: Asked, *, seed: int = 0) -> dict[str, Calibration]:
    return producer_calibrations(queries, GALLERY, producers, mixes=MIXES, seed=seed)


@cache
def level() -> dict[str, Calibration]:
    return calibrated(PRODUCERS, asked(10))


def similarities(queries: Asked, entries: CodedSet) -> Similarities:
    return Similarities(
        queries.queries.signs @ entries.signs.T / BITS,
        queries.queries.embeddings @ entries.embeddings.T,
        queries.labels[:, None] == GALLERY,
    )


def part(pairs: Similarities, rows: NDArray[np.bool_], *, hidden: bool = False) -> Similarities:
    code, cosine, relevant = pairs.code[rows], pairs.cosine[rows], pairs.relevant[rows]
    if hidden:
        code, cosine = (np.where(relevant, -1, found) for found in (code, cosine))
        relevant = np.zeros_like(relevant)
    return Similarities(code, cosine, relevant)


def alone(queries: Asked, entries: CodedSet) -> Calibration:
    """As one producer is calibrated for itself."""
    pairs, unseen = similarities(queries, entries), queries.unseen
    groups = tuple(group for group, is_open in zip(queries.groups, unseen) if is_open)
    known = part(pairs, ~unseen)
    fusion = fit_fusion(known, part(pairs, unseen), mixes=MIXES)
    return calibration_of(fusion, known, part(pairs, unseen, hidden=True), groups)


def share_of(name: str, other: str, calibrations: Mapping[str, Calibration]) -> tuple[float, float]:
    """Of `name` among the product's ten best of a gallery that it made half of: found, and expected; new queries."""
    fresh = asked(20, 400)
    found, expected = [], []
    for seed in range(3):
        is_old = np.random.default_rng(seed).random(len(GALLERY)) < 0.5
        mixed = CodedSet(*(
            np.where(is_old[:, None], getattr(PRODUCERS[name], field), getattr(PRODUCERS[other], field))
            for field in ("signs", "embeddings")
        ))  # fmt: skip
        scores = two_stage_scores(
            fresh.queries, mixed, is_old.astype(np.int64), [calibrations[other], calibrations[name]]
        )
        shares = old_shares(scores, fresh.labels[:, None] == GALLERY, is_old)
        found.append(np.nanmean(shares.found))
        expected.append(np.nanmean(shares.expected))
    return float(np.mean(found)), float(np.mean(expected))


@pytest.mark.parametrize(("name", "other"), [("old", "self"), ("older", "self"), ("older", "old")])
def test_a_producer_takes_its_share_of_the_best_answers_within_a_tenth(name: str, other: str) -> None:
    found, expected = share_of(name, other, level())
    assert expected == pytest.approx(0.5, abs=0.02)
    assert found == pytest.approx(expected, rel=0.1)


@cache
def naive() -> dict[str, Calibration]:
    return {name: alone(asked(10), entries) for name, entries in PRODUCERS.items()}


@pytest.mark.parametrize("name", ["old", "older"])
def test_producers_that_are_calibrated_each_for_itself_are_not_treated_alike(name: str) -> None:
    found, expected = share_of(name, "self", naive())
    assert found < 0.9 * expected


def test_the_newest_producer_is_calibrated_as_it_would_be_alone() -> None:
    assert level()["self"] == naive()["self"]
    queries, pairs = asked(10), similarities(asked(10), PRODUCERS["self"])
    known, unseen, unknown = (
        part(pairs, rows, hidden=hidden)
        for rows, hidden in ((~queries.unseen, False), (queries.unseen, False), (queries.unseen, True))
    )
    groups = tuple(group for group, is_open in zip(queries.groups, queries.unseen) if is_open)
    found = producer_calibrations(queries, GALLERY, {"self": PRODUCERS["self"]})
    assert found == {"self": calibrate(known, unseen, unknown, groups)}


def test_a_producer_like_the_newest_is_read_like_it() -> None:
    twin = calibrated(dict.fromkeys(("self", "twin"), PRODUCERS["self"]), asked(10))
    ours, theirs = twin["self"], twin["twin"]
    assert theirs.code_weight == pytest.approx(ours.code_weight, rel=1e-5)
    assert theirs.embedding_weight == pytest.approx(ours.embedding_weight, rel=1e-5)
    assert theirs.intercept == pytest.approx(ours.intercept, abs=1e-4)
    assert theirs.pool_size == ours.pool_size


def test_each_producer_is_read_by_the_mix_that_ranks_its_own_entries_best() -> None:
    assert [mix(naive()[name]) for name in PRODUCERS] == pytest.approx([0.75, 0.5, 0.5])
    assert [mix(level()[name]) for name in PRODUCERS] == pytest.approx([0.75, 0.5, 0.5])


def mix(calibration: Calibration) -> float:
    return calibration.embedding_weight / (calibration.code_weight + calibration.embedding_weight)


def test_queries_without_an_answer_do_not_level_producers() -> None:
    queries, extra = asked(10), asked(30, 40)
    labels = np.concatenate([queries.labels, np.full(40, -1)])
    more = Asked(
        CodedSet(*(
            np.concatenate([getattr(one.queries, field) for one in (queries, extra)])
            for field in ("signs", "embeddings")
        )),
        labels, np.concatenate([queries.unseen, np.ones(40, np.bool_)]), queries.groups + extra.groups,
    )  # fmt: skip
    unlabelled = np.where(GALLERY == 0, -1, GALLERY)  # not relevant to queries without a label either
    producers = {name: PRODUCERS[name] for name in ("self", "old")}
    found, expected = (
        producer_calibrations(one, unlabelled, producers, mixes=(0.5,))["old"] for one in (more, queries)
    )
    assert found.intercept == pytest.approx(expected.intercept)
    assert found.embedding_weight == pytest.approx(expected.embedding_weight)


def test_half_the_similarity_is_read_twice_as_steeply() -> None:
    whole = PRODUCERS["self"]
    shrunk = CodedSet(0.5 * whole.signs, 0.5 * whole.embeddings)
    found = calibrated({"self": whole, "shrunk": shrunk}, asked(10))
    assert found["shrunk"].code_weight == pytest.approx(2 * found["self"].code_weight, rel=1e-4)
    assert found["shrunk"].embedding_weight == pytest.approx(2 * found["self"].embedding_weight, rel=1e-4)


def test_codes_that_do_not_compare_are_left_to_the_embeddings() -> None:
    old = PRODUCERS["old"]
    scrambled = CodedSet(np.random.default_rng(7).permutation(old.signs), old.embeddings)
    found = calibrated({"self": PRODUCERS["self"], "old": scrambled}, asked(10))
    assert found["self"].code_weight > 1
    assert found["old"].code_weight < 0.1 * found["old"].embedding_weight


def test_thresholds_and_pools_keep_their_promises_for_every_producer() -> None:
    queries = asked(10)
    for name, entries in PRODUCERS.items():
        calibration, pairs = level()[name], similarities(queries, entries)
        hidden, known = part(pairs, queries.unseen, hidden=True), part(pairs, ~queries.unseen)
        best = probability(calibration, hidden).max(axis=1)
        groups = np.array(queries.groups)[queries.unseen]
        assert np.mean([(best[groups == group] >= calibration.strong).mean() for group in "ab"]) <= 0.03
        scores = probability(calibration, known)
        exact = np.argsort(-scores, axis=1)[:, :10]
        pool = np.argsort(-known.code, axis=1, kind="stable")[:, : calibration.pool_size]
        kept = np.mean([len(set(one) & set(other)) for one, other in zip(exact.tolist(), pool.tolist())]) / 10
        assert kept >= 0.98
        assert calibration.weak <= calibration.strong


def probability(calibration: Calibration, pairs: Similarities) -> NDArray[np.float64]:
    fusion = Fusion(calibration.intercept, calibration.code_weight, calibration.embedding_weight)
    return fusion.probability(pairs.code, pairs.cosine)


def test_a_query_that_is_an_entry_too_is_read_as_if_its_own_picture_were_not_there() -> None:
    entries, rows = PRODUCERS["self"], np.arange(90)
    labels = GALLERY[rows]
    unseen = labels >= CLASSES - UNSEEN  # of these, as in a gallery of what was never trained on
    asking = CodedSet(entries.signs[rows], entries.embeddings[rows])
    queries = Asked(asking, labels, unseen, ("a",) * 90, own=np.where(unseen, rows, -1))

    pairs, at = similarities(queries, entries), (rows[unseen], rows[unseen])
    pairs.code[at] = pairs.cosine[at] = -1
    pairs.relevant[at] = False
    expected = calibrate(
        part(pairs, ~unseen),
        part(pairs, unseen),
        part(pairs, unseen, hidden=True),
        ("a",) * int(unseen.sum()),
    )
    assert producer_calibrations(queries, GALLERY, {"self": entries}) == {"self": expected}


def test_without_unseen_classes_known_queries_without_their_class_set_what_is_strong() -> None:
    queries = asked(10)
    queries = replace(queries, unseen=np.zeros(len(queries.labels), np.bool_))
    found = calibrated({"self": PRODUCERS["self"]}, queries)["self"]
    best = probability(
        found, part(similarities(queries, PRODUCERS["self"]), ~queries.unseen, hidden=True)
    ).max(axis=1)
    assert (best >= found.strong).mean() <= 0.03


def test_the_same_seed_gives_the_same_calibrations() -> None:
    producers = {name: PRODUCERS[name] for name in ("self", "old")}
    first, same, other = (
        producer_calibrations(asked(10), GALLERY, producers, mixes=(0.5,), seed=seed) for seed in (0, 0, 1)
    )
    assert first == same
    assert other["self"] == first["self"]
    assert 0 < abs(other["old"].intercept - first["old"].intercept) < 0.3


def test_entries_that_do_not_compare_are_refused_by_name_and_so_are_sizes_that_do_not_match() -> None:
    new, old = PRODUCERS["self"], PRODUCERS["old"]
    against = CodedSet(-old.signs, -old.embeddings)
    with pytest.raises(ValueError, match="producer 'old': relevance falls with similarity"):
        calibrated({"self": new, "old": against}, asked(10))
    with pytest.raises(ValueError, match=r"producers are \['old'\]: 'self', the newest, is not among them"):
        calibrated({"old": old}, asked(10))
    shorter = CodedSet(old.signs[1:], old.embeddings[1:])
    with pytest.raises(ValueError, match=r"300 labels, but entries are {'self': 300, 'old': 299}"):
        calibrated({"self": new, "old": shorter}, asked(10))
    with pytest.raises(ValueError, match="the gallery has 19 entries, it needs 20 to be halved"):
        producer_calibrations(
            asked(10), GALLERY[:19], {"self": CodedSet(new.signs[:19], new.embeddings[:19])}
        )
    queries = asked(10)
    with pytest.raises(ValueError, match="90 queries with 89 labels, 90 flags and 90 groups"):
        Asked(queries.queries, queries.labels[1:], queries.unseen, queries.groups)
