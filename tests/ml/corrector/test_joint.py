"""Training against the whole catalogue: who learns from what, and that the map keeps up."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ml.data.sampling import Batch
from ml.losses.truncated_softmax import truncated_softmax_loss
from ml.methods.corrector.agreement import agreement
from ml.methods.corrector.baselines import CachedTargets, InBatch
from ml.methods.corrector.catalogue import Catalogue
from ml.methods.corrector.config import FitConfig, JointConfig
from ml.methods.corrector.joint import CorrectedCache, warmed_up
from ml.methods.corrector.training import CatalogueNegatives, CatalogueNegativesTrainer
from ml.training.loop import FitConfig as LoopConfig
from ml.training.loop import Logs, fit
from tests.ml.corrector.worlds import DIMENSION, FOUR, JOINT, LABELS, catalogue, encoder, encoder_of, turned


class Stream:
    """Two batches an epoch of 16 items of the catalogue, as queries."""

    steps_per_epoch = 2

    def __init__(self, features: Tensor) -> None:
        self.features, self.labels = features, torch.tensor(LABELS)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(epoch))
        for rows in torch.split(order[:32], 16):
            yield Batch(images=self.features[rows], labels=self.labels[rows])


def policies(items: Catalogue, cache: Tensor, **changes: object) -> tuple[CachedTargets, CorrectedCache]:
    settings = JointConfig(refresh=1, **changes)  # type: ignore[arg-type]
    return (
        CachedTargets(items, cache, FOUR, seed=0),
        CorrectedCache(items, cache, FOUR, settings, seed=0),
    )


def test_the_first_step_is_the_stale_baselines() -> None:
    """Invariant 1: selection, loss and one full step of the encoder."""
    after = []
    for place in range(2):
        model = encoder()
        items, features = catalogue(LABELS, model)
        cache = encoder(seed=1)(features)[1].detach()  # of another model: stale from the start
        policy = policies(items, cache)[place]
        trainer = CatalogueNegativesTrainer(model, CatalogueNegatives(items, policy))
        output = trainer.training_step(next(Stream(features).epoch(0)))
        output.loss.backward()  # type: ignore[no-untyped-call]
        torch.optim.AdamW(model.parameters(), lr=1e-2).step()
        chosen = policies(items, cache)[place].choose(cache[::7], torch.tensor(LABELS[::7]), 1)
        after.append((chosen, output.loss.detach(), copy.deepcopy(model.state_dict())))
    (stale, stale_loss, stale_weights), (ours, our_loss, our_weights) = after
    assert torch.equal(stale, ours)
    assert torch.equal(stale_loss, our_loss)
    assert all(torch.equal(stale_weights[name], our_weights[name]) for name in stale_weights)


def test_an_encoder_that_does_not_move_leaves_nothing_to_correct() -> None:
    """Invariant 2."""
    items, _ = catalogue(LABELS)
    cache = items.everything(purpose="measured")
    stale, ours = policies(items, cache, check_every=5, probe=50)
    renewed = CachedTargets(items, cache, FOUR, seed=0, period=1)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 61):
        rows = torch.randint(len(items), (8,), generator=generator)
        queries, labels = cache[rows], items.labels[rows]
        chosen = [policy.choose(queries, labels, step) for policy in (stale, ours, renewed)]
        assert torch.equal(chosen[0], chosen[1])
        assert torch.equal(chosen[0], chosen[2])
        ids = torch.unique(chosen[0])
        assert ours.learn(ids, items.trained(ids))["drift"] < 1e-8
    torch.testing.assert_close(ours.view, cache, atol=1e-5, rtol=0)
    assert ours.watch.alert is None


def test_the_task_does_not_teach_the_corrector_nor_drift_the_encoder() -> None:
    """Invariant 3: stop-gradients both ways."""
    items, features = catalogue(LABELS)
    policy = policies(items, encoder(seed=1)(features)[1].detach())[1]
    negatives = CatalogueNegatives(items, policy)
    trainer = CatalogueNegativesTrainer(encoder_of(items), negatives)
    output = trainer.training_step(next(Stream(features).epoch(0)))
    assert all(values.grad is None for values in items.encoder.parameters())  # the policy has learned by now
    learned = copy.deepcopy(policy.corrector.state_dict())
    assert not torch.equal(learned["affine"], torch.zeros(DIMENSION, DIMENSION))
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(values.grad is None for values in policy.corrector.parameters())
    assert all(torch.equal(learned[name], values) for name, values in policy.corrector.state_dict().items())
    head = items.encoder.embedding_head
    assert head.weight.grad is not None
    ours = {id(values) for values in policy.corrector.parameters()}
    assert not ours & {id(values) for values in trainer.module().parameters()}


def test_a_map_that_matches_logits_agrees_better_with_the_fresh_softmax() -> None:
    divergences = []
    for weight in (0.0, 1.0):
        items, features = catalogue(LABELS)
        cache = encoder(seed=1)(features)[1].detach()
        policy = policies(items, cache, matching_weight=weight, uniform_share=0, learning_rate=3e-3)[1]
        ids, fresh = torch.arange(len(items)), items.everything(purpose="measured")
        for step in range(1, 41):
            policy.choose(fresh[::5], items.labels[::5], step)
            policy.learn(ids, fresh)
        view = torch.from_numpy(policy.corrector.corrected(cache.numpy()))
        found = agreement(
            fresh[::5], items.labels[::5], view, fresh, items.labels, count=4, inverse_temperature=20.0
        )
        divergences.append(float(found.divergence.mean()))
    assert divergences[1] < 0.9 * divergences[0]


def test_one_encoder_for_both_sides_gets_the_sum_of_both_gradients_once() -> None:
    """Invariant 12."""
    items, features = catalogue(LABELS)
    model, batch = encoder_of(items), next(Stream(features).epoch(0))
    cache = items.everything(purpose="measured")
    policy = CachedTargets(items, cache, FOUR, seed=0)
    trainer = CatalogueNegativesTrainer(model, CatalogueNegatives(items, policy, seed=3))
    trainer.training_step(batch).loss.backward()  # type: ignore[no-untyped-call]
    found = [values.grad.clone() for values in model.embedding_head.parameters() if values.grad is not None]
    expected = [torch.zeros_like(values) for values in model.embedding_head.parameters()]
    for is_query_path in (True, False):
        queries, everything = model(batch.images)[1], model(features)[1]
        chosen = policy.choose(queries.detach(), batch.labels, 1)
        positives = items.positives(batch.labels, torch.Generator().manual_seed(3))
        union = sorted({*positives.tolist(), *chosen.flatten().tolist()})
        queries = queries if is_query_path else queries.detach()
        everything = everything.detach() if is_query_path else everything
        losses = []
        for row, label in enumerate(batch.labels.tolist()):
            negatives = [i for i in union if LABELS[i] != label]
            logits = 20 * everything[[int(positives[row]), *negatives]] @ queries[row]
            losses.append(torch.logsumexp(logits, 0) - logits[0])
        gradients = torch.autograd.grad(torch.stack(losses).mean(), list(model.embedding_head.parameters()))
        expected = [total + part for total, part in zip(expected, gradients, strict=True)]
    assert len(found) == 2
    for ours, oracle in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-5, rtol=1e-4)


class Asked(InBatch):
    """Keeps what it was asked and told."""

    queries: Tensor
    told: tuple[Tensor, Tensor]
    was_exact: list[bool]

    def __init__(self) -> None:
        self.was_exact = []

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:
        self.queries = queries
        self.was_exact.append(not torch.is_autocast_enabled("cpu"))
        return super().choose(queries, labels, step)

    def learn(self, ids: Tensor, trained: Tensor) -> Logs:
        self.told = ids, trained
        self.was_exact.append(not torch.is_autocast_enabled("cpu"))
        return super().learn(ids, trained)


def test_a_policy_is_asked_without_a_gradient_to_follow() -> None:
    items, features = catalogue(LABELS)
    policy = Asked()
    CatalogueNegativesTrainer(encoder_of(items), CatalogueNegatives(items, policy)).training_step(
        next(Stream(features).epoch(0))
    )
    assert policy.queries.shape == (16, DIMENSION)
    assert not policy.queries.requires_grad


def test_under_autocast_the_encoder_alone_runs_in_half_precision() -> None:
    items, features = catalogue(LABELS)
    policy, batch = Asked(), next(Stream(features).epoch(0))
    trainer = CatalogueNegativesTrainer(encoder_of(items), CatalogueNegatives(items, policy, seed=3))
    with torch.autocast("cpu", torch.bfloat16):
        found = trainer.training_step(batch).loss
    assert policy.was_exact == [True, True]
    ids, targets = policy.told
    positives = items.positives(batch.labels, torch.Generator().manual_seed(3))
    own = torch.searchsorted(ids, positives)
    allowed = batch.labels[:, None] != items.labels[ids]
    allowed[torch.arange(16), own] = True
    expected = truncated_softmax_loss(policy.queries, targets, own, allowed, inverse_temperature=20)
    assert torch.equal(found, expected)
    assert not torch.equal(targets, items.trained(ids))


def test_a_corrected_cache_follows_an_encoder_that_moves_without_encoding_the_catalogue_again() -> None:
    """The idea: without the corrector's steps the view stays the stale cache."""
    items, _ = catalogue(LABELS)
    cache, kept = items.everything(purpose="measured"), items.everything(purpose="measured")
    policy = CorrectedCache(
        items, cache, FOUR, JointConfig(refresh=1, learning_rate=1e-2, uniform_share=0.02, probe=40), seed=0
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 151):
        turned(encoder_of(items), 0.01)
        rows = torch.randint(len(items), (8,), generator=generator)
        queries = items.fresh(rows, purpose="measured")
        ids = torch.unique(policy.choose(queries, items.labels[rows], step))
        policy.learn(ids, items.trained(ids))
    fresh = items.everything(purpose="measured")
    shares = [
        agreement(
            fresh[::5], items.labels[::5], view, fresh, items.labels, count=8, inverse_temperature=20
        ).overlap.mean()
        for view in (policy.view, cache)
    ]
    report = policy.report()
    assert report.staleness > 1
    assert report.ratio < 0.05
    assert shares[0] > 0.85
    assert shares[1] < 0.4
    assert items.encodes.extra < 200  # the catalogue's own size: a uniform share of each step, and one probe
    assert torch.equal(cache, kept)


def test_a_corrector_that_misleads_is_given_up_and_the_stale_cache_used_as_it_is() -> None:
    """Invariant 11."""
    items, _ = catalogue(LABELS)
    cache = items.everything(purpose="measured")
    turned(encoder_of(items), 0.1)
    stale, ours = policies(items, cache, check_every=1, learning_rate=1e-12)
    with torch.no_grad():
        ours.corrector.affine.copy_(-2 * torch.eye(DIMENSION))  # everything to its opposite
    queries, labels = cache[::9], items.labels[::9]
    for step in (1, 2):
        assert not torch.equal(ours.choose(queries, labels, step), stale.choose(queries, labels, step))
        assert ours.watch.alert is None
    spent = items.encodes.extra
    assert torch.equal(ours.choose(queries, labels, 3), stale.choose(queries, labels, 3))
    assert ours.watch.alert is not None
    assert torch.equal(ours.view, cache)
    assert ours.learn(torch.arange(20), cache[:20]) == {"fallen_back": 1.0}
    assert items.encodes.extra == spent + len(ours.probe)


def test_a_map_warmed_up_between_two_models_shows_the_cache_as_the_newer_one_would() -> None:
    items, features = catalogue(LABELS)
    cache = items.everything(purpose="measured").half()
    turned(encoder_of(items), 0.5)
    fitted = warmed_up(items, cache, FitConfig(steps=0), pairs=100)
    policy = CorrectedCache(items, cache, FOUR, JOINT, seed=0, corrector=fitted.corrector)
    policy.choose(features.new_zeros(1, DIMENSION), torch.tensor([0]), 1)
    error = (policy.view.float() - items.everything(purpose="measured")).square().sum(dim=1).mean()
    assert policy.view.dtype == torch.float16
    assert float(error) < 1e-3 < 0.1 * fitted.report.staleness


def test_training_against_the_catalogue_learns_to_find_items_of_the_querys_label() -> None:
    """The whole of it in the loop that trains every method, twice with the same bytes."""
    encoders, found = [], []
    for _ in range(2):
        items, features = catalogue(LABELS, spread=0.5)
        cache = items.everything(purpose="measured")
        policy = policies(items, cache, probe=20, check_every=10)[1]
        before = recall(items)
        trainer = CatalogueNegativesTrainer(encoder_of(items), CatalogueNegatives(items, policy))
        result = fit(trainer, Stream(features), LoopConfig(epochs=30, learning_rate=5e-2, ema_decay=0.5))
        found.append((before, recall(items)))
        encoders.append(result.encoder.state_dict())
        assert result.history[-1]["task"] < 0.7 * result.history[0]["task"]
        assert policy.report().ratio < 0.3
    assert found[0] == found[1]
    assert found[0][1] >= found[0][0] + 0.03
    assert all(torch.equal(encoders[0][name], encoders[1][name]) for name in encoders[0])


def recall(items: Catalogue) -> float:
    """Share of items whose nearest other item has their label."""
    embeddings = items.everything(purpose="measured")
    scores = (embeddings @ embeddings.T).fill_diagonal_(-2)
    return float((items.labels[scores.argmax(dim=1)] == items.labels).float().mean())


def test_what_cannot_be_meant_is_refused() -> None:
    items, _ = catalogue(LABELS)
    with pytest.raises(ValueError, match="the cache has 3 rows, the catalogue 200 items"):
        CorrectedCache(items, torch.zeros(3, DIMENSION), FOUR, JOINT, seed=0)
    with pytest.raises(ValueError, match="another encoder"):
        CatalogueNegativesTrainer(encoder(seed=2), CatalogueNegatives(items, InBatch()))
    trainer = CatalogueNegativesTrainer(encoder_of(items), CatalogueNegatives(items, InBatch()))
    with pytest.raises(ValueError, match="epoch 2 follows none"):
        trainer.start_epoch(2)
