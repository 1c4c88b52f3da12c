"""What each policy chooses, and what it costs."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml.data.sampling import Batch
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
from ml.methods.corrector.keeping import kept
from ml.methods.corrector.training import CatalogueNegatives, CatalogueNegativesTrainer, Policy
from ml.models.encoder import FeatureEncoder
from tests.ml.corrector.worlds import (
    DIMENSION,
    FOUR,
    JOINT,
    LABELS,
    WIDTH,
    catalogue,
    encoder_of,
    turned,
)

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


def test_an_encoder_that_is_fine_tuned_keeps_its_batch_statistics_and_pays_nothing_more() -> None:
    model = Normed()
    items, features = catalogue([0, 0, 1, 1, 2, 2], model)
    policy = CorrectedCache(
        items, items.everything(purpose="measured"), FOUR, JointConfig(uniform_share=0), seed=0
    )
    trainer = CatalogueNegativesTrainer(model, CatalogueNegatives(items, policy))
    before = copy.deepcopy(model.norm.state_dict())
    for _ in range(3):
        trainer.training_step(Batch(images=features, labels=items.labels))
    assert items.encodes == Encodes(trained=18, extra=0, measured=6)
    assert all(torch.equal(before[name], value) for name, value in model.norm.state_dict().items())


def test_what_was_just_encoded_stands_in_the_view_as_it_is_until_it_is_forgotten() -> None:
    items, _ = catalogue(LABELS)
    cache = items.everything(purpose="measured")
    untouched = cache.clone()
    settings = JointConfig(refresh=2, remembered=3, uniform_share=0, learning_rate=1e-9)
    policy = CorrectedCache(items, cache, FOUR, settings, seed=0)
    turned(encoder_of(items), 0.5)
    fresh = items.everything(purpose="measured")
    held = []
    for step in range(1, 8):
        policy.choose(cache[:2], items.labels[:2], step)
        held.append([row for row in range(10) if torch.equal(policy.view[row], fresh[row])])
        policy.learn(torch.tensor([step]), fresh[step : step + 1])
    # Refreshed at steps 1, 3, 5 and 7; what is older than three steps is forgotten with the next refresh.
    assert held == [[], [1], [1, 2], [1, 2, 3], [2, 3, 4], [2, 3, 4, 5], [4, 5, 6]]
    assert torch.equal(cache, untouched)


def test_what_is_remembered_is_not_kept_for_a_resume_and_so_refused() -> None:
    items, _ = catalogue(LABELS)
    cache = items.everything(purpose="measured")
    policy = CorrectedCache(items, cache, FOUR, JointConfig(remembered=5), seed=0)
    with pytest.raises(ValueError, match="remembered is 5, only 0"):
        kept(CatalogueNegatives(items, policy), policy)


def test_a_warm_up_costs_its_pairs() -> None:
    items, _ = catalogue([0, 1] * 30)
    fitted = warmed_up(
        items, torch.eye(DIMENSION)[torch.arange(60) % DIMENSION], FitConfig(steps=0), pairs=25
    )
    assert items.encodes == Encodes(extra=25)
    assert fitted.report.items == 5
    with pytest.raises(ValueError, match="4 pairs, at least 5"):
        warmed_up(items, torch.eye(DIMENSION)[torch.zeros(60).long()], FitConfig(), pairs=4)


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


def test_a_target_too_near_a_query_is_no_negative_of_it_whoever_chose_it() -> None:
    items, _ = catalogue([0, 0, 1, 1, 2, 2])
    fresh = items.everything(purpose="measured")
    queries, labels = fresh[[0, 2]], items.labels[[0, 2]]
    ceiling = (
        float((queries @ fresh.T)[0, 2:].max()) - 1e-4
    )  # query 0 may not meet its nearest of another label

    def loss(ceiling: float) -> float:
        policy = CachedTargets(items, fresh, Selection(count=6), seed=0)
        return CatalogueNegatives(items, policy, ceiling=ceiling, seed=4).loss(queries, labels)[0].item()

    positives = items.positives(labels, torch.Generator().manual_seed(4))
    expected = []
    for row, label in enumerate(labels.tolist()):
        cosines = fresh @ queries[row]
        others = [i for i in range(6) if items.labels[i] != label and float(cosines[i]) <= ceiling]
        logits = 20 * cosines[[int(positives[row]), *others]]
        expected.append(float(torch.logsumexp(logits, 0) - logits[0]))
    assert loss(ceiling) == pytest.approx(np.mean(expected), rel=1e-4)
    assert loss(ceiling) < loss(float("inf"))
