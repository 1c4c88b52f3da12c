"""Training beside what is stored: what zero perturbation is, what stays frozen, what a step adds, what a stop costs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.base_version.recipe import Recipe, Stored, train_encoder
from ml.config import config_from_dict
from ml.data.sampling import Batch
from ml.losses.fixed_codes import direct_pair_loss
from ml.methods import twin_bottleneck
from ml.methods.compact_metric import CompactMetricTrainer, Config
from ml.methods.compatible.config import Compatibility
from ml.methods.compatible.old_space import OldSpace
from ml.methods.compatible.optimised import Spreading
from ml.methods.compatible.perturbation import PrototypeAlignment
from ml.methods.compatible.rivals import HotRefreshAlignment
from ml.methods.compatible.training import CompatibleTrainer, HeldCodes
from ml.methods.corrector.config import HardNegatives
from ml.methods.lifelong.labels import Centring, LabelRegistry
from ml.methods.lifelong.statistics import CodeStatistics, Signs, label_totals
from ml.methods.lifelong.targets import stored_pairs
from ml.models.encoder import FeatureEncoder, ImageEncoder
from ml.training.loop import FitConfig, Progress, StepOutput, fit
from ml.training.watching import watched_step
from tests.ml.compatible.crowds import normal
from tests.ml.compatible.spaces import seen as seen_by
from tests.ml.lifelong.worlds import random_signs
from tests.ml.test_training import SAMPLING, TINY, noise_images, same_bytes, state_of

CLASSES, WIDTH, OLD_SIZE, BITS = 8, 12, 8, 16
MIDDLES = normal(CLASSES, WIDTH, seed=1, dtype=torch.float32)
UNMOVED = [
    Compatibility(kind="ndpp", strength=0.0, new_strength=0.0),
    Compatibility(kind="ndpp", strength=0.0, new_strength=0.0, has_perturbed_negatives=False),
    Compatibility(kind="odpp", spreading=Spreading(passes=0, further_passes=0)),
]
SEARCHED = Compatibility(kind="odpp", spreading=Spreading(threshold=0.1, passes=5, further_passes=5))
MOVED = [Compatibility(kind="ndpp", strength=0.8, new_strength=0.4), SEARCHED]


class Features:
    """Batches of 24 features around their classes' middles."""

    steps_per_epoch = 3

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for step in range(self.steps_per_epoch):
            yield batch_of(1_000 * epoch + step)


def batch_of(seed: int, count: int = 24) -> Batch:
    labels = torch.arange(count) % CLASSES
    return Batch(MIDDLES[labels] + 0.5 * normal(count, WIDTH, seed=seed, dtype=torch.float32), labels)


def heads(seed: int, dimension: int = OLD_SIZE) -> FeatureEncoder:
    torch.manual_seed(seed)
    return FeatureEncoder(WIDTH, code_hidden=16, code_bits=BITS, dimension=dimension)


def old_space(old: FeatureEncoder) -> OldSpace:
    seen = batch_of(77, 80)
    with torch.no_grad():
        return OldSpace.of(old(seen.images)[1], seen.labels, CLASSES)


def student_of(dimension: int = OLD_SIZE, **config: Any) -> CompactMetricTrainer:
    encoder = heads(4, dimension)
    return CompactMetricTrainer(Config(code_weight=0.0, **config), classes=CLASSES, encoder=encoder)


def stored_codes() -> tuple[Signs, list[int]]:
    """Forty codes of the first seven classes."""
    return random_signs(40, BITS, np.random.default_rng(0)), [row % (CLASSES - 1) for row in range(40)]


def held_codes() -> HeldCodes:
    codes, owners = stored_codes()
    registry = LabelRegistry(tuple(f"class {n}" for n in range(CLASSES)), (1.0,) * CLASSES)
    statistics = CodeStatistics.of([(owner,) for owner in owners], codes)
    words = torch.zeros(CLASSES, BITS)
    for (label,), word in statistics.codewords().items():
        words[label] = torch.from_numpy(word.astype(np.float32))
    sets = [(label,) for label in range(CLASSES)]
    return HeldCodes(stored_pairs(label_totals(statistics, registry), registry, sets, Centring()), words)


def trained(config: Compatibility, *, dimension: int = OLD_SIZE, epochs: int = 4) -> tuple[Any, ...]:
    """State of the trained encoder and centres, and what was logged of each epoch."""
    trainer = CompatibleTrainer(
        student_of(dimension), PrototypeAlignment(old_space(heads(3)), config, seed=1)
    )
    result = fit(trainer, Features(), FitConfig(epochs=epochs, warmup_epochs=1.0, learning_rate=0.02))
    return state_of(result.encoder), state_of(trainer.student.module()), result.history


# Zero perturbation, and what is frozen


def test_a_whole_training_moved_by_nothing_is_prototype_bct_bit_for_bit() -> None:
    """Invariant 1: twelve steps with refreshes, by either kind."""
    plain = trained(Compatibility(kind="none"))
    for config in UNMOVED:
        found = trained(config)
        assert same_bytes(found[0], plain[0])
        assert same_bytes(found[1], plain[1])
        assert found[2] == plain[2]
    for config in MOVED:
        found = trained(config)
        assert not same_bytes(found[0], plain[0])
        assert found[2][-1]["perturbed_degrees"] > 1


@pytest.mark.parametrize("config", MOVED, ids=lambda config: config.kind)
def test_a_step_teaches_the_student_and_a_refresh_nobody(config: Compatibility) -> None:
    """Invariant 9: no gradient into prototypes or the old encoder, none into the new encoder as an epoch begins."""
    old = heads(3)
    asked: list[bool] = []

    def embed(rows: Tensor) -> Tensor:
        asked.append(torch.is_grad_enabled())
        found: Tensor = old(rows)[1]
        return found

    space = old_space(old)
    alignment = PrototypeAlignment(space, config)
    trainer = CompatibleTrainer(student_of(), alignment, old=embed)
    parameters = list(trainer.module().parameters())
    assert {id(one) for one in parameters} == {id(one) for one in trainer.student.module().parameters()}
    for epoch in range(3):
        trainer.start_epoch(epoch)
        assert all(one.grad is None for one in parameters)
        trainer.training_step(batch_of(epoch)).loss.backward()  # type: ignore[no-untyped-call]
        assert trainer.encoder().embedding_head.weight.grad is not None
        assert not any(buffer.requires_grad for buffer in alignment.module().buffers())
        for one in parameters:
            one.grad = None
    assert asked == []  # prototypes are all that this alignment looks at
    contrast = CompatibleTrainer(student_of(), HotRefreshAlignment(space), old=embed)
    contrast.training_step(batch_of(0)).loss.backward()  # type: ignore[no-untyped-call]
    assert asked == [False]
    assert all(one.grad is None for one in old.parameters())


@pytest.mark.parametrize("config", MOVED, ids=lambda config: config.kind)
def test_the_old_encoder_keeps_its_bytes_while_a_new_one_is_trained(config: Compatibility) -> None:
    images, old = noise_images(per_class=10), ImageEncoder(TINY).eval()
    before = state_of(old)
    with torch.no_grad():
        space = OldSpace.of(old(images.pixels / 255.0)[1], images.labels, len(images.names))
    kept = space.prototypes.clone()
    new = train_encoder(images, recipe_with(config), stored=Stored(space)).encoder
    assert same_bytes(state_of(old), before)
    assert torch.equal(space.prototypes, kept)
    assert not same_bytes(state_of(new), before)


# The step


def test_a_step_adds_the_alignment_and_the_held_codes_to_the_students_own() -> None:
    space, codes, plain = old_space(heads(3)), held_codes(), student_of()
    alignment, config = PrototypeAlignment(space, MOVED[0]), replace(MOVED[0], weight=2.0)
    trainer = CompatibleTrainer(student_of(), PrototypeAlignment(space, config), codes=codes, code_weight=0.5)
    for one in (alignment, trainer, plain):
        one.start_epoch(3)
    assert trainer.student.epoch == 3  # type: ignore[attr-defined]
    batch = batch_of(5)
    own, found = plain.training_step(batch), trainer.training_step(batch)
    _, logits, embeddings = watched_step(plain, plain.encoder(), batch)
    held = float(codes.loss(logits, batch.labels).detach())
    aligned = float(alignment.loss(seen_by(embeddings, batch.labels.tolist()))[0].detach())
    assert float(found.loss.detach()) == pytest.approx(
        float(own.loss.detach()) + 2 * aligned + 0.5 * held, rel=1e-6
    )
    assert found.logs == {
        **own.logs, "alignment": pytest.approx(aligned), "held_codes": pytest.approx(held),
        "perturbed_degrees": pytest.approx(float(alignment.state.moved)),
        "furthest_degrees": pytest.approx(float(alignment.state.furthest)),
    }  # fmt: skip
    assert found.logs["furthest_degrees"] > found.logs["perturbed_degrees"] > 0
    free = CompatibleTrainer(student_of(), PrototypeAlignment(space, config), codes=codes, code_weight=0.0)
    free.start_epoch(3)
    assert "held_codes" not in free.training_step(batch).logs


def test_held_codes_are_the_pair_loss_of_every_single_pair_beside_own_codes_and_balance() -> None:
    codes, owners = stored_codes()
    held, labels = held_codes(), torch.tensor([0, 3, -1, 6, 3, 7, -1])
    logits = normal(7, BITS, seed=8, dtype=torch.float32).requires_grad_()
    found = held.loss(logits, labels)
    found.backward()  # type: ignore[no-untyped-call]

    kept = labels >= 0
    outputs, own = torch.tanh(logits.detach()[kept]), labels[kept]
    stored = torch.from_numpy(codes.astype(np.float32))
    pairs = float(direct_pair_loss(outputs, stored, (own[:, None] == torch.tensor(owners)).float()))
    majority = torch.zeros(CLASSES, BITS)
    for label in range(CLASSES - 1):  # ties count as +1
        of_class = stored[torch.tensor(owners) == label]
        majority[label] = torch.where(of_class.sum(dim=0) >= 0, 1.0, -1.0)
    pull = float(((outputs - majority[own]) ** 2 * majority[own].abs()).mean())
    balance = float((outputs.mean(dim=0) ** 2).mean())
    assert float(found.detach()) == pytest.approx(pairs + 0.1 * pull + 0.01 * balance, rel=1e-5)
    assert logits.grad is not None
    assert torch.equal(logits.grad.any(dim=1), kept)


def test_without_a_label_in_the_batch_codes_are_not_held() -> None:
    logits = normal(3, BITS, seed=8).requires_grad_()
    found = held_codes().loss(logits, torch.tensor([-1, -1, -1]))
    found.backward()  # type: ignore[no-untyped-call]
    assert float(found.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_an_alignment_that_asks_for_old_embeddings_must_be_given_the_old_encoder() -> None:
    trainer = CompatibleTrainer(student_of(), HotRefreshAlignment(old_space(heads(3))))
    with pytest.raises(ValueError, match="give `old`"):
        trainer.training_step(batch_of(0))


class Otherwise:
    """A student that runs the heads as often as it is told to, or fails behind them."""

    def __init__(self, times: int, *, encoder: nn.Module | None = None) -> None:
        self.times, self.model = times, encoder or heads(4)

    def start_epoch(self, epoch: int) -> None: ...

    def training_step(self, batch: Batch) -> StepOutput:
        found = [self.model(batch.images)[1] for _ in range(abs(self.times))]
        if self.times < 0:
            raise KeyboardInterrupt
        return StepOutput(
            loss=torch.stack([one.sum() for one in found]).sum() if found else torch.zeros(()), logs={}
        )

    def module(self) -> nn.Module:
        return self.model

    def encoder(self) -> nn.Module:
        return self.model


def test_a_watched_step_sees_what_the_heads_made_and_leaves_no_hook() -> None:
    student, batch = Otherwise(1), batch_of(0)
    encoder = student.model
    assert isinstance(encoder, FeatureEncoder)
    output, logits, embeddings = watched_step(student, encoder, batch)
    expected = encoder(batch.images)
    torch.testing.assert_close(logits, expected[0])
    torch.testing.assert_close(embeddings, expected[1])
    assert embeddings.requires_grad
    assert float(output.loss.detach()) == pytest.approx(float(expected[1].sum().detach()))
    for times, said in ((0, "0"), (2, "2")):
        with pytest.raises(RuntimeError, match=f"'code_head': {said}, 'embedding_head': {said}"):
            watched_step(Otherwise(times, encoder=encoder), encoder, batch)
    with pytest.raises(KeyboardInterrupt):
        watched_step(Otherwise(-1, encoder=encoder), encoder, batch)
    assert not any(module._forward_hooks for module in encoder.modules())
    with pytest.raises(TypeError, match="trains a Linear, expected a TwoHeaded"):
        CompatibleTrainer(
            Otherwise(1, encoder=nn.Linear(2, 2)), PrototypeAlignment(old_space(heads(3)), MOVED[0])
        )


def test_a_wider_new_encoder_learns_to_be_found_among_old_embeddings_by_its_first_coordinates() -> None:
    """Sixteen dimensions against eight: queries of an encoder alone find 1 in 8 by chance."""
    space, batch = old_space(heads(3)), batch_of(555, 400)
    shares = []
    for weight in (0.0, 1.0):
        state, _, _ = trained(replace(MOVED[0], weight=weight), dimension=16, epochs=16)
        new = heads(9, 16)
        new.load_state_dict(state)
        with torch.no_grad():
            cut = F.normalize(new(batch.images)[1][:, :OLD_SIZE], dim=1)
        found = (cut @ space.prototypes.T).argmax(dim=1)
        shares.append(float((found == batch.labels).double().mean()))
    assert shares[0] < 0.4
    assert shares[1] > 0.9
    narrow = CompatibleTrainer(student_of(4), PrototypeAlignment(space, MOVED[0]))
    narrow.start_epoch(0)
    with pytest.raises(ValueError, match="new embeddings are 4-d, the old space 8-d"):
        narrow.training_step(batch)


# The recipe


IMAGES = noise_images(per_class=10)  # 3 steps of 20 images an epoch


def recipe_with(compatibility: Compatibility | None, *, epochs: int = 4, **values: Any) -> Recipe:
    method = Config(encoder=TINY, ms_from_epoch=1)
    given = {"method": method, "compatibility": compatibility, **values}
    return Recipe(
        seed=5, stored_size=36, sampling=SAMPLING, fit=FitConfig(epochs=epochs, warmup_epochs=1.0), **given
    )


def stored_with(*, codes: bool = True, seed: int = 0) -> Stored:
    """What an encoder of 32 dimensions and 64 bits stored of six classes."""
    labels = torch.arange(6).repeat_interleave(5)
    vectors = normal(6, 32, seed=seed)[labels] + 0.5 * normal(30, 32, seed=seed + 1)
    signs = random_signs(30, 64, np.random.default_rng(seed))
    statistics = CodeStatistics.of([(int(label),) for label in labels], signs)
    registry = LabelRegistry(IMAGES.names, (1.0,) * 6)
    pairs = stored_pairs(label_totals(statistics, registry), registry, [(n,) for n in range(6)], Centring())
    words = torch.stack([torch.from_numpy(statistics.codewords()[n,]).float() for n in range(6)])
    return Stored(OldSpace.of(vectors.float(), labels, 6), HeldCodes(pairs, words) if codes else None)


@pytest.mark.parametrize("config", MOVED, ids=lambda config: config.kind)
def test_a_fit_stopped_after_two_epochs_ends_with_the_same_bytes_as_one_never_stopped(
    config: Compatibility, tmp_path: Path
) -> None:
    asked, stored, checkpoint = recipe_with(config), stored_with(), tmp_path / "fit.safetensors"
    whole = train_encoder(IMAGES, asked, stored=stored)

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_encoder(IMAGES, asked, stored=stored, checkpoint=checkpoint, on_epoch=stop)
    torch.manual_seed(999)  # what else happened meanwhile must not matter
    resumed = train_encoder(IMAGES, asked, stored=stored, checkpoint=checkpoint)

    assert same_bytes(state_of(resumed.encoder), state_of(whole.encoder))
    assert resumed.history == whole.history
    assert {"alignment", "held_codes", "perturbed_degrees"} <= set(whole.history[-1])


def test_a_checkpoint_held_to_something_else_is_refused(tmp_path: Path) -> None:
    checkpoint, asked = tmp_path / "fit.safetensors", recipe_with(MOVED[0], epochs=1)
    stored = stored_with()
    train_encoder(IMAGES, asked, stored=stored, checkpoint=checkpoint)
    before, other = checkpoint.read_bytes(), stored_with(seed=1)
    for recipe, held in (
        (asked, other), (asked, Stored(stored.space, other.codes)), (asked, Stored(stored.space)),
        (recipe_with(SEARCHED, epochs=1), stored),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="belongs to"):
            train_encoder(IMAGES, recipe, stored=held, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="belongs to"):
        train_encoder(IMAGES, recipe_with(None, epochs=1), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before


def test_what_is_asked_for_and_what_is_stored_come_together_or_not_at_all() -> None:
    with pytest.raises(
        ValueError, match="compatibility is asked for, what is stored not given: both or neither"
    ):
        train_encoder(IMAGES, recipe_with(MOVED[0]))
    with pytest.raises(
        ValueError, match="compatibility is not asked for, what is stored given: both or neither"
    ):
        train_encoder(IMAGES, recipe_with(None), stored=stored_with())
    with pytest.raises(ValueError, match="one process and not compiled"):
        train_encoder(IMAGES, recipe_with(MOVED[0]), stored=stored_with(), compiled=True)


def test_the_methods_own_code_loss_is_off_where_codes_are_held_and_only_there() -> None:
    held, free = (
        train_encoder(IMAGES, recipe_with(MOVED[0], epochs=1), stored=stored_with(codes=codes)).recipe
        for codes in (True, False)
    )
    assert isinstance(held.method, Config)
    assert isinstance(free.method, Config)
    assert (held.method.code_weight, free.method.code_weight) == (0.0, 0.5)


def test_stored_codes_are_held_by_the_compact_method_alone_and_embeddings_by_either() -> None:
    twin = recipe_with(MOVED[0], epochs=1, method=twin_bottleneck.Config(encoder=TINY))
    with pytest.raises(
        TypeError, match="method is 'twin-bottleneck': stored codes are held by the compact method"
    ):
        train_encoder(IMAGES, twin, stored=stored_with())
    history = train_encoder(IMAGES, twin, stored=stored_with(codes=False)).history
    assert history[-1]["alignment"] > 0
    assert "held_codes" not in history[-1]


def test_hard_negatives_are_looked_for_beside_what_is_stored() -> None:
    negatives = HardNegatives(weight=0.7, queries=5, count=2, from_epoch=1, refresh=2, uniform_share=0.5)
    found = train_encoder(IMAGES, recipe_with(MOVED[0], epochs=2, negatives=negatives), stored=stored_with())
    assert {"alignment", "held_codes", "negatives_task"} <= set(found.history[-1])


def test_a_recipe_without_compatibility_is_known_by_the_values_it_always_had() -> None:
    without, with_it = recipe_with(None), recipe_with(SEARCHED)
    assert "compatibility" not in without.as_values()
    assert with_it.as_values() == without.as_values() | {
        "compatibility": with_it.as_values()["compatibility"]
    }
    for recipe in (without, with_it):
        assert config_from_dict(Recipe, recipe.as_values()) == recipe
