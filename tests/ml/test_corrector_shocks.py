"""Planted sudden drift: it is planted where it is said to be, and what counts as caught is no more than what is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ml.experiments.claims import answer
from ml.experiments.corrector.shock_training import (
    PictureEncoder,
    Plan,
    Watched,
    described_jump,
    judged_cache,
    none,
    pictures_of,
    replaced,
    shuffled,
    trained_through,
)
from ml.experiments.corrector.shocks import (
    SEEDS,
    planned_shocks,
    shock_questions,
    shock_tables,
    shocked_fit,
    shocked_watch,
)
from ml.experiments.data import Dataset
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.protocol import Options
from ml.methods.corrector.config import JointConfig
from ml.methods.corrector.joint import CorrectedCache

PLAN = Plan(steps=20, shock=8, batch=8, per_class=20)
JOINT = JointConfig(check_every=4, refresh=4, probe=100)


@pytest.fixture(scope="module")
def training(small_fashion: Dataset) -> Callable[..., Watched]:
    pictures = pictures_of(small_fashion, PLAN.per_class)
    return lambda shock: trained_through(pictures, PLAN, JOINT, 0, shock)


def test_pairs_of_unrelated_images_are_given_up_and_others_not() -> None:
    values = shocked_fit(0)
    assert values["fit_caught"] == 1
    # The map does learn the mean, so the stale error alone would not tell.
    assert values["fit_by_stale_error"] == 0
    assert 0.9 * float(values["fit_constant"]) < float(values["fit_ratio"]) < 0.9
    assert float(values["fit_control_ratio"]) < 0.3


def test_an_encoder_replaced_under_a_map_that_serves_is_seen_at_the_third_look() -> None:
    values = shocked_watch(2, JointConfig(), 0)
    assert (values["watch_caught"], values["watch_delay"], values["watch_by_stale_error"]) == (0, -1, 1)
    values = shocked_watch(3, JointConfig(), 0)
    assert (values["watch_caught"], values["watch_delay"]) == (1, 3)
    assert float(values["watch_ratio"]) > 0.9 > float(values["watch_control_ratio"])
    hasty = shocked_watch(3, JointConfig(helps_below=0.01), 0)  # the control is given up too
    assert hasty["watch_caught"] == 0


def test_a_shuffled_cache_is_given_up_and_the_stale_one_used(training: Callable[..., Watched]) -> None:
    found, control = training(shuffled), training(none)
    values = judged_cache(found, control, PLAN, JOINT)
    assert (values["cache_caught"], values["cache_delay"]) == (1, 12)
    assert (values["cache_compared"], values["cache_unlike_stale"]) == (1, 0)  # the last step
    assert values["cache_control_alerts"] == 0
    same = [str(values[name]).split()[:2] for name in ("cache_ratios", "cache_control_ratios")]
    assert same[0] == same[1]  # until the shock
    assert str(values["cache_ratios"]).split()[2] != str(values["cache_control_ratios"]).split()[2]
    late, other, alarmed = (
        {"alerted": PLAN.shock + 13},
        {"unlike_stale": 1},
        {"alerted": 16},
    )
    for watched, changes in ((found, late), (found, other), (control, alarmed)):
        before = dict(vars(watched))
        vars(watched).update(changes)
        assert judged_cache(found, control, PLAN, JOINT)["cache_caught"] == 0
        vars(watched).update(before)
    assert judged_cache(control, control, PLAN, JOINT)["cache_delay"] == -1
    assert judged_cache(control, control, PLAN, JOINT)["cache_caught"] == 0


def test_a_choice_unlike_the_stale_caches_is_noticed(training: Callable[..., Watched]) -> None:
    policy = training(none).policy
    watched = Watched(policy)
    queries, labels = policy.cache[:5], policy.catalogue.labels[:5]
    watched.choose(queries, labels, 1)
    assert (watched.compared, watched.alerted) == (0, -1)
    policy.watch.alert = "given up"
    watched.choose(queries, labels, 2)
    watched.choose(queries, labels, 3)
    assert (watched.compared, watched.unlike_stale, watched.alerted) == (2, 0, 2)
    right = policy.choose
    policy.choose = lambda *asked: right(*asked).flip(1)  # type: ignore[method-assign]
    watched.choose(queries, labels, 4)
    assert (watched.compared, watched.unlike_stale) == (3, 1)


def test_a_shock_befalls_training_once_after_its_step(training: Callable[..., Watched]) -> None:
    seen = []

    def shock(policy: CorrectedCache, seed: int) -> None:
        seen.append((seed, len(policy.watch.reports)))

    training(shock)
    assert seen == [(0, 2)]  # looks at steps 4 and 8 were before it


def test_shuffling_moves_rows_and_replacing_leaves_no_weight(training: Callable[..., Watched]) -> None:
    policy = training(none).policy
    before, weights = policy.cache, {name: value.clone() for name, value in _weights(policy).items()}
    shuffled(policy, 0)
    assert not torch.equal(policy.cache, before)
    assert torch.equal(policy.cache.sort(dim=0).values, before.sort(dim=0).values)
    replaced(policy, 0)
    other = PictureEncoder(28 * 28, seed=1_000)  # no seed of a run
    assert torch.equal(_weights(policy)["layer.weight"], other.layer.weight)
    assert not torch.equal(_weights(policy)["layer.weight"], weights["layer.weight"])
    assert not torch.equal(_weights(policy)["embedding_head.weight"], weights["embedding_head.weight"])


def _weights(policy: CorrectedCache) -> dict[str, torch.Tensor]:
    return policy.catalogue.encoder.state_dict()


def test_a_replaced_encoder_is_followed_or_given_up_and_both_are_told(
    training: Callable[..., Watched],
) -> None:
    watched = training(none)
    watched.alerted = 20
    given_up = described_jump(watched, PLAN, JOINT)
    assert given_up["jump_delay"] == 12
    assert given_up["jump_recovery"] == 4  # nothing happened: the first look after step 8 saw help
    watched.alerted, watched.policy.watch.reports = -1, [watched.policy.watch.reports[0]]
    assert (described_jump(watched, PLAN, JOINT)["jump_delay"], len(watched.ratios())) == (-1, 1)
    assert described_jump(watched, PLAN, JOINT)["jump_recovery"] == -1


def shocked(*, seeds: int, fit: int) -> list[RunRecord]:
    values = {f"{what}_{column}": 1 for what in ("watch", "cache") for column in ("caught", "by_stale_error")}
    values |= {"fit_caught": fit, "fit_by_stale_error": 0, "watch_delay": 3, "cache_delay": 600}
    jumps = [{"jump_delay": 600, "jump_recovery": -1}, {"jump_delay": -1, "jump_recovery": 200}]
    return [
        RunRecord(
            name="shocks",
            setting="shocks",
            seed=seed,
            values={"caught": (2 + fit) / 3, **values, **jumps[seed % 2]},
        )
        for seed in range(seeds)
    ]


def test_the_claim_asks_for_every_shock_of_every_seed() -> None:
    for fit, holds in ((1, True), (0, False)):
        evidence = evidence_of(shocked(seeds=SEEDS, fit=fit))
        (claim,) = answer(shock_questions(evidence), evidence)
        assert (claim.question.id, claim.question.statistic) == ("C12d", "worst_group")
        assert claim.question.cell == "planted sudden drift triggers the fallback"
        assert claim.question.target == "value >= 1"
        assert claim.holds is holds
    evidence = evidence_of(shocked(seeds=SEEDS - 1, fit=1))
    assert [claim.holds for claim in answer(shock_questions(evidence), evidence)] == ["untestable"]
    assert shock_questions(evidence_of([])) == []
    assert shock_tables(evidence_of([])) == []


def test_tables_tell_delays_and_what_the_stale_error_alone_would_have_missed() -> None:
    judged, described = shock_tables(evidence_of(shocked(seeds=4, fit=1)))
    fit, watch, cache = judged["rows"]
    assert (fit["caught"], fit["caught by the stale error alone"], fit["alert after"]) == (1, 0, "the fit")
    assert (watch["alert after"], cache["alert after"]) == ("3 looks", "600 steps")
    (jump,) = described["rows"]
    assert (jump["given up"], jump["alert after"]) == (0.5, "600 steps")
    assert (jump["a look at which it helped again"], jump["after"]) == (0.5, "200 steps")


def test_five_seeds_on_fashion_mnist_alone_are_planned(small_fashion: Dataset, tmp_path: Path) -> None:
    options = Options(seeds=tuple(range(10)), smoke=False, threads=1, ledger=Ledger(tmp_path))
    other = replace(small_fashion, name="mnist")
    runs = planned_shocks([other, small_fashion], options)
    assert [run.seed for run in runs] == [0, 1, 2, 3, 4]
    assert runs[0].identity["joint"]["check_every"] == JointConfig().check_every == 200
    assert runs[0].full_identity("corrector", smoke=False)["data"] == small_fashion.fingerprint
    assert planned_shocks([other], options) == []
    assert planned_shocks([small_fashion], replace(options, smoke=True))[0].identity["plan"]["steps"] == 20
