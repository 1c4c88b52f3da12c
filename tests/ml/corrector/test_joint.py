"""Training against the whole catalogue: what each policy costs, who learns from what, and that the map keeps up."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml.data.sampling import Batch
from ml.losses.truncated_softmax import drift_loss, truncated_softmax_loss
from ml.methods.corrector.agreement import agreement
from ml.methods.corrector.baselines import (
    CachedTargets,
    InBatch,
    Landmarks,
    NegativeCache,
    UniformTargets,
)
from ml.methods.corrector.catalogue import Catalogue, Encodes
from ml.methods.corrector.closed_form import ridge_map, rotation_map
from ml.methods.corrector.config import FitConfig, JointConfig, Selection
from ml.methods.corrector.joint import CorrectedCache, warmed_up
from ml.methods.corrector.training import CatalogueNegatives, CatalogueNegativesTrainer, Policy
from ml.models.encoder import FeatureEncoder
from ml.training.loop import FitConfig as LoopConfig
from ml.training.loop import fit
from tests.ml.corrector.worlds import DIMENSION, WIDTH, catalogue, encoder

FOUR = Selection(count=4)
Make = Callable[[Catalogue, Tensor], Policy]


class Normed(FeatureEncoder):
    """Trains with batch statistics."""

    def __init__(self) -> None:
        super().__init__(WIDTH, code_hidden=4, code_bits=8, dimension=DIMENSION)
        self.norm = nn.BatchNorm1d(WIDTH)

    def features(self, inputs: Tensor) -> Tensor:
        normed: Tensor = self.norm(inputs)
        return normed


def take(items: Catalogue, policy: Policy, steps: int) -> None:
    """Steps on two queries, of labels 0 and 1."""
    negatives = CatalogueNegatives(items, policy)
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        queries = torch.nn.functional.normalize(torch.randn(2, DIMENSION, generator=generator), dim=1)
        negatives.loss(queries, torch.tensor([0, 1]))


JOINT = JointConfig(uniform_share=0.5, probe=2, check_every=2)


@pytest.mark.parametrize(
    ("make", "trained", "extra"),
    [
        # Six items, two of each of three labels: with k = 4 each query gets all four of the other labels, so that a
        # step's targets are all six; alone, the two positives.
        (lambda *_: InBatch(), 6, 0),
        (lambda items, cache: UniformTargets(items, cache, FOUR, seed=0), 18, 0),
        (lambda items, cache: CachedTargets(items, cache, FOUR, seed=0), 18, 0),
        (lambda items, cache: CachedTargets(items, cache, FOUR, seed=0, period=2), 18, 6),  # before step 2
        (lambda items, cache: CachedTargets(items, cache, FOUR, seed=0, period=1), 18, 18),
        (lambda items, cache: NegativeCache(items, cache, FOUR, seed=0, renewed=2), 18, 6),  # two a step
        # Three landmarks, before steps 1 and 2.
        (lambda items, cache: Landmarks(items, cache, FOUR, rotation_map, seed=0, period=2, count=3), 18, 6),
        # Half of six a step, and two of the probe before step 2.
        (lambda items, cache: CorrectedCache(items, cache, FOUR, JOINT, seed=0), 18, 11),
    ],
    ids=[
        "in-batch",
        "uniform",
        "stale",
        "periodic",
        "exhaustive",
        "negative cache",
        "landmarks",
        "corrected",
    ],
)
def test_three_steps_cost_what_a_hand_counts(make: Make, trained: int, extra: int) -> None:
    """Invariant 9."""
    items, _ = catalogue([0, 0, 1, 1, 2, 2])
    cache = items.everything(purpose="measured")
    take(items, make(items, cache), 3)
    assert items.encodes == Encodes(trained=trained, extra=extra, measured=6)


def test_an_encoder_with_batch_statistics_has_its_targets_encoded_again_as_they_would_be_stored() -> None:
    model = Normed()
    items, features = catalogue([0, 0, 1, 1, 2, 2], model)
    policy = CorrectedCache(
        items, items.everything(purpose="measured"), FOUR, JointConfig(uniform_share=0), seed=0
    )
    model.train()
    take(items, policy, 3)
    assert items.encodes == Encodes(trained=18, extra=18, measured=6)
    assert model.training
    ids = torch.tensor([4, 1])
    trained, settled = items.trained(ids), items.settled(ids, torch.empty(0))
    assert not torch.allclose(trained, settled)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(settled, model(features[ids])[1], atol=0, rtol=0)


def test_a_warm_up_costs_its_pairs() -> None:
    items, _ = catalogue([0, 1] * 30)
    fitted = warmed_up(
        items, torch.eye(DIMENSION)[torch.arange(60) % DIMENSION], FitConfig(steps=0), pairs=25
    )
    assert items.encodes == Encodes(extra=25)
    assert fitted.report.items == 5
    with pytest.raises(ValueError, match="4 pairs, at least 5"):
        warmed_up(items, torch.eye(DIMENSION)[torch.zeros(60).long()], FitConfig(), pairs=4)


LABELS = [label for label in range(10) for _ in range(20)]


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


def encoder_of(items: Catalogue) -> FeatureEncoder:
    assert isinstance(items.encoder, FeatureEncoder)
    return items.encoder


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
    """Keeps what it was asked with."""

    queries: Tensor

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:
        self.queries = queries
        return super().choose(queries, labels, step)


def test_a_policy_is_asked_without_a_gradient_to_follow() -> None:
    items, features = catalogue(LABELS)
    policy = Asked()
    CatalogueNegativesTrainer(encoder_of(items), CatalogueNegatives(items, policy)).training_step(
        next(Stream(features).epoch(0))
    )
    assert policy.queries.shape == (16, DIMENSION)
    assert not policy.queries.requires_grad


def turned(model: FeatureEncoder, angle: float) -> None:
    """Turn all embeddings a little further in the plane of each two neighbouring dimensions."""
    turn = torch.eye(DIMENSION)
    for first in range(0, DIMENSION, 2):
        turn[first : first + 2, first : first + 2] = torch.tensor(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
    with torch.no_grad():
        model.embedding_head.weight.copy_(turn @ model.embedding_head.weight)
        model.embedding_head.bias.copy_(turn @ model.embedding_head.bias)


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


@pytest.mark.parametrize("solve", [rotation_map, lambda pairs: ridge_map(pairs, ridge=1e-6)])
def test_landmarks_move_the_whole_cache_as_they_have_moved(solve: Callable[..., np.ndarray]) -> None:
    items, _ = catalogue(LABELS)
    cache = items.everything(purpose="measured")
    policy = Landmarks(items, cache, FOUR, solve, seed=0, period=5, count=40)
    turned(encoder_of(items), 0.5)
    policy.choose(cache[:2], items.labels[:2], 1)
    torch.testing.assert_close(policy.view, items.everything(purpose="measured"), atol=1e-3, rtol=0)


def test_a_negative_cache_holds_what_was_encoded_and_what_had_its_turn() -> None:
    items, _ = catalogue(LABELS)
    cache = items.everything(purpose="measured")
    policy = NegativeCache(items, cache, FOUR, seed=0, renewed=3)
    turned(encoder_of(items), 0.5)
    fresh = items.everything(purpose="measured")
    for step in (1, 2):
        policy.choose(cache[:2], items.labels[:2], step)
    ids = torch.tensor([50, 60])
    policy.learn(ids, items.trained(ids))
    changed = torch.nonzero((policy.view != cache).any(dim=1)).flatten()
    assert changed.tolist() == [0, 1, 2, 3, 4, 5, 50, 60]
    torch.testing.assert_close(policy.view[changed], fresh[changed], atol=1e-6, rtol=0)


@pytest.mark.parametrize("is_uniform", [True, False])
def test_uniform_targets_do_not_go_by_similarity_and_those_of_a_negative_cache_do(
    *, is_uniform: bool
) -> None:
    items, _ = catalogue(LABELS)
    cache = items.everything(purpose="measured")
    one = Selection(count=1, inverse_temperature=3.0)
    policy = (
        UniformTargets(items, cache, one, seed=0)
        if is_uniform
        else NegativeCache(items, cache, one, seed=0, renewed=0)
    )
    asked = 4_000
    chosen = policy.choose(cache[:1].expand(asked, -1), torch.zeros(asked, dtype=torch.int64), 1).flatten()
    cosines = (cache @ cache[0]).masked_fill(items.labels == 0, -torch.inf)
    nearest = cosines.topk(20).indices
    share = 20 / 180 if is_uniform else float(torch.softmax(3 * cosines, dim=0)[nearest].sum())
    assert float(torch.isin(chosen, nearest).float().mean()) == pytest.approx(
        share, abs=3 * (share * (1 - share) / asked) ** 0.5
    )
    assert is_uniform or share > 0.2


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


def test_the_truncated_softmax_is_what_a_hand_computes() -> None:
    queries = torch.tensor([[1.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], requires_grad=True)
    allowed = torch.tensor([[True, True, False]])
    loss = truncated_softmax_loss(queries, targets, torch.tensor([0]), allowed, inverse_temperature=2.0)
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-2)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert queries.grad is not None
    assert targets.grad is not None
    assert targets.grad[2].tolist() == [0.0, 0.0]  # what is not allowed is not pushed
    with pytest.raises(ValueError, match="a query's own positive is not allowed"):
        truncated_softmax_loss(queries, targets, torch.tensor([2]), allowed, inverse_temperature=2.0)
    with pytest.raises(ValueError, match="inverse_temperature is 0"):
        truncated_softmax_loss(queries, targets, torch.tensor([0]), allowed, inverse_temperature=0)


def test_the_drift_loss_pulls_the_corrected_alone() -> None:
    corrected = torch.tensor([[1.0, 0.0], [0.6, 0.8]], requires_grad=True)
    fresh = torch.tensor([[0.0, 1.0], [0.6, 0.8]], requires_grad=True)
    loss = drift_loss(corrected, fresh)
    assert loss.item() == pytest.approx(1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert corrected.grad is not None
    assert fresh.grad is None


def test_positives_are_any_item_of_the_label_and_all_of_them_in_turn() -> None:
    items, _ = catalogue([2, 0, 2, 1, 2])
    generator = torch.Generator().manual_seed(0)
    drawn = items.positives(torch.tensor([2] * 3_000 + [1]), generator)
    counts = torch.bincount(drawn, minlength=5).tolist()
    assert counts[1] == 0
    assert counts[3] == 1
    assert min(counts[0], counts[2], counts[4]) > 900
    with pytest.raises(ValueError, match=r"labels are \[0, 3\], not all have an item"):
        items.positives(torch.tensor([0, 3]), generator)


def test_what_cannot_be_meant_is_refused() -> None:
    items, _ = catalogue(LABELS)
    with pytest.raises(ValueError, match="the cache has 3 rows, the catalogue 200 items"):
        CorrectedCache(items, torch.zeros(3, DIMENSION), FOUR, JOINT, seed=0)
    with pytest.raises(ValueError, match="another encoder"):
        CatalogueNegativesTrainer(encoder(seed=2), CatalogueNegatives(items, InBatch()))
    trainer = CatalogueNegativesTrainer(encoder_of(items), CatalogueNegatives(items, InBatch()))
    with pytest.raises(ValueError, match="epoch 2 follows none"):
        trainer.start_epoch(2)
