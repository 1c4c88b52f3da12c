"""Hard negatives beside any other training: what is added to a step, who asks, and going on after a stop."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.artifacts import load_bundle
from ml.base_version import recipe as recipes
from ml.base_version.recipe import Recipe, recipe_of, train_encoder
from ml.config import config_from_dict, merged
from ml.data.sampling import Batch
from ml.methods import twin_bottleneck
from ml.methods.compact_metric import CompactMetricTrainer, Config
from ml.methods.corrector.beside import HardNegativesTrainer, asking_rows
from ml.methods.corrector.config import HardNegatives, JointConfig
from ml.methods.corrector.joint import CorrectedCache
from ml.methods.corrector.keeping import as_tensor, from_tensor, kept, restore
from ml.methods.corrector.training import CatalogueNegatives
from ml.methods.twin_bottleneck import Bottlenecks, TwinBottleneckTrainer
from ml.models.encoder import FeatureEncoder, ImageEncoder
from ml.training.distributed import Processes
from ml.training.loop import FitConfig, Progress, StepOutput, Trainer
from tests.ml.corrector.worlds import FOUR, LABELS, catalogue, encoder_of, turned
from tests.ml.test_training import SAMPLING, TINY, noise_images, same_bytes, state_of

NEGATIVES = HardNegatives(weight=0.7, queries=5, count=2, from_epoch=1, refresh=2, uniform_share=0.5)
METHODS: list[Config | twin_bottleneck.Config] = [
    Config(encoder=TINY, ms_from_epoch=1),
    twin_bottleneck.Config(encoder=TINY),
]
IMAGES = noise_images(per_class=10)  # 3 steps of 20 images an epoch


def recipe_with(
    negatives: HardNegatives | None, method: Config | twin_bottleneck.Config = METHODS[0], *, epochs: int = 4
) -> Recipe:
    fit = FitConfig(epochs=epochs, warmup_epochs=1.0)
    return Recipe(seed=5, stored_size=36, method=method, sampling=SAMPLING, fit=fit, negatives=negatives)


def compact() -> Trainer:
    torch.manual_seed(3)
    return CompactMetricTrainer(Config(encoder=TINY), classes=6)


def twin() -> Trainer:
    torch.manual_seed(3)
    return TwinBottleneckTrainer(Bottlenecks(), ImageEncoder(TINY), classes=6, epochs=4)


def beside(student: Trainer, config: HardNegatives = NEGATIVES) -> HardNegativesTrainer:
    trainer = HardNegativesTrainer(config, IMAGES.pixels, IMAGES.labels, student=student, seed=1)
    trainer.start_epoch(config.from_epoch)
    return trainer


def a_batch(*, known: int = 20) -> Batch:
    """Twenty images of five classes, four of each; labels after the first `known` are not known."""
    rows = torch.arange(5).repeat_interleave(4) * 10 + torch.arange(4).repeat(5)
    labels = torch.where(torch.arange(20) < known, IMAGES.labels[rows], -1)
    return Batch(images=IMAGES.pixels[rows, :, 2:34, 2:34].float() / 255.0, labels=labels)


def gradients_of(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Of the last layer's weights, and of the batch's pictures, which queries alone lead to."""
    trainer.start_epoch(1)
    batch, encoder = a_batch(), trainer.encoder()
    assert isinstance(encoder, ImageEncoder)
    pictures = batch.images.requires_grad_()
    trainer.training_step(batch).loss.backward()  # type: ignore[no-untyped-call]
    weights = encoder.embedding_head.weight.grad
    assert weights is not None
    assert pictures.grad is not None
    return weights.clone(), pictures.grad


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_a_fit_stopped_after_two_epochs_ends_with_the_same_bytes_as_one_never_stopped(
    method: Config | twin_bottleneck.Config, tmp_path: Path
) -> None:
    asked, checkpoint = recipe_with(NEGATIVES, method), tmp_path / "fit.safetensors"
    whole = train_encoder(IMAGES, asked)

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_encoder(IMAGES, asked, checkpoint=checkpoint, on_epoch=stop)
    torch.manual_seed(999)  # what else happened meanwhile must not matter
    resumed = train_encoder(IMAGES, asked, checkpoint=checkpoint)

    assert same_bytes(state_of(resumed.encoder), state_of(whole.encoder))
    assert resumed.history == whole.history
    assert "negatives_task" in whole.history[-1]


def test_a_restored_policy_goes_on_as_the_one_that_was_kept_alert_included() -> None:
    """A corrector that learns too fast to help is given up at step 6, after the stop that follows step 5."""
    config = JointConfig(learning_rate=0.5, refresh=3, probe=20, check_every=2, checks=3, uniform_share=0.5)

    def begun(model: FeatureEncoder | None = None) -> tuple[CatalogueNegatives, CorrectedCache, Tensor]:
        items, features = catalogue(LABELS, model)
        cache = items.everything(purpose="measured").half()
        policy = CorrectedCache(items, cache, FOUR, config, seed=4)
        return CatalogueNegatives(items, policy, seed=6), policy, features

    def steps(count: int, negatives: CatalogueNegatives, features: Tensor) -> list[dict[str, float]]:
        logs = []
        for _ in range(count):
            turned(encoder_of(negatives.catalogue), 0.05)
            with torch.no_grad():
                queries = negatives.catalogue.encoder(features[:20])[1]
            logs.append(negatives.loss(queries, torch.tensor(LABELS[:20]))[1])
        return logs

    negatives, policy, features = begun()
    steps(5, negatives, features)
    assert policy.watch.alert is None
    stopped = as_tensor(kept(negatives, policy))
    model = FeatureEncoder(6, code_hidden=4, code_bits=8, dimension=8)
    model.load_state_dict(encoder_of(negatives.catalogue).state_dict())
    again, other, _ = begun(model)
    other.cache = from_tensor(stopped)["cache"]
    restore(again, other, from_tensor(stopped))

    assert steps(4, again, features) == steps(4, negatives, features)
    assert policy.watch.alert is not None
    assert (other.watch.alert, other.watch.reports) == (policy.watch.alert, policy.watch.reports)
    assert again.catalogue.encodes == negatives.catalogue.encodes
    assert again.step == 9
    given_up = from_tensor(as_tensor(kept(negatives, policy)))  # the view is the very cache by now
    assert torch.equal(given_up["view"], given_up["cache"])
    assert stopped.dtype == torch.uint8
    assert from_tensor(as_tensor({})) == {}


def test_until_its_epoch_training_is_what_it_is_without_bit_for_bit() -> None:
    late = replace(NEGATIVES, from_epoch=3)
    plain, asking = (train_encoder(IMAGES, recipe_with(one)) for one in (None, late))

    assert asking.history[:3] == plain.history[:3]
    assert asking.history[3]["negatives_task"] > 0
    assert not same_bytes(state_of(asking.encoder), state_of(plain.encoder))


@pytest.mark.parametrize("student", [compact, twin])
def test_a_step_adds_the_weighted_loss_to_the_students_own(student: Callable[[], Trainer]) -> None:
    plain, trainer = student(), beside(student())
    plain.start_epoch(1)
    own, output = plain.training_step(a_batch()), trainer.training_step(a_batch())

    assert {name: output.logs[name] for name in own.logs} == own.logs
    expected = float(own.loss.detach()) + 0.7 * output.logs["negatives_task"]
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-6)
    # Targets leave no trace in what batch norm has seen, and nothing stays hooked.
    assert same_bytes(state_of(plain.encoder()), state_of(trainer.encoder()))
    assert trainer.encoder().training
    assert not any(module._forward_hooks for module in trainer.module().modules())


@pytest.mark.parametrize("student", [compact, twin])
def test_the_encoder_learns_from_the_added_loss_in_proportion_to_its_weight(
    student: Callable[[], Trainer],
) -> None:
    plain = gradients_of(student())
    once, twice = (gradients_of(beside(student(), replace(NEGATIVES, weight=share))) for share in (1.0, 2.0))
    for none, one, two in zip(plain, once, twice, strict=True):
        assert float((one - none).norm()) > 1e-3 * float(none.norm())
        assert torch.allclose(two - none, 2 * (one - none), atol=1e-4)


def test_the_loss_is_of_the_embeddings_that_the_students_step_made() -> None:
    trainer = beside(compact())
    seen: list[Tensor] = []
    trainer.encoder().register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs[1]))
    output = trainer.training_step(a_batch())
    negatives, policy = trainer.negatives, trainer.policy
    assert negatives is not None
    assert policy is not None

    asking = asking_rows(a_batch().labels, 5)
    again = CatalogueNegatives(trainer.catalogue, CorrectedCache(
        trainer.catalogue, policy.cache, policy.selection, policy.config, seed=1), seed=1)  # fmt: skip
    trainer.encoder().eval()
    expected, _ = again.loss(seen[0][asking], a_batch().labels[asking])
    assert output.logs["negatives_task"] == pytest.approx(float(expected.detach()), rel=1e-6)


def test_the_cache_is_what_the_encoder_makes_of_whole_pictures_at_the_size_of_the_epoch() -> None:
    trainer = beside(compact())
    trainer.training_step(a_batch())
    assert trainer.policy is not None

    pictures = F.interpolate(IMAGES.pixels / 255.0, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = trainer.encoder().eval()(pictures)[1]
    assert trainer.policy.cache.dtype == torch.float16
    assert torch.allclose(trainer.policy.cache.float(), expected, atol=2e-3)


def test_the_cache_is_made_once_and_beyond_it_only_the_uniform_share_is_encoded() -> None:
    trainer = beside(compact())
    extra = len(IMAGES)
    for _ in range(3):
        before = trainer.catalogue.encodes.trained
        trainer.training_step(a_batch())
        targets = trainer.catalogue.encodes.trained - before
        assert (
            5 < targets <= 5 + 5 * 2
        )  # one positive and two negatives for each that asks, less what they share
        extra += round(0.5 * targets)
        assert trainer.catalogue.encodes.extra == extra


def test_images_without_label_do_not_ask() -> None:
    assert asking_rows(torch.tensor([4, 4, -1, 7, 7, -1, 2, 2]), 3).tolist() == [0, 3, 6]
    assert asking_rows(torch.tensor([-1, 3, -1, 5]), 9).tolist() == [1, 3]
    assert asking_rows(torch.tensor([-1, -1]), 3).tolist() == []
    trainer, plain = beside(twin()), twin()
    plain.start_epoch(1)

    output = trainer.training_step(a_batch(known=0))
    assert output.logs == plain.training_step(a_batch(known=0)).logs
    assert trainer.policy is None
    assert "negatives_task" in trainer.training_step(a_batch(known=8)).logs


def test_photos_without_label_are_nobodys_negatives_in_a_training_of_the_product() -> None:
    """They could show what the query shows: the catalogue that is asked is that of the labelled ones alone."""
    hidden = torch.where(torch.arange(60) % 2 == 0, IMAGES.labels, -1)
    asked = recipe_with(NEGATIVES, METHODS[1], epochs=2)
    turned_over = torch.where((hidden < 0).view(-1, 1, 1, 1), IMAGES.pixels.flip(2), IMAGES.pixels)
    part, changed = (replace(IMAGES, labels=hidden, pixels=pixels) for pixels in (IMAGES.pixels, turned_over))

    learners = [
        recipes._wrapped(twin(), asked, images, None, None)  # type: ignore[arg-type]
        for images in (part, changed)
    ]
    for learner in learners:
        assert isinstance(learner, HardNegativesTrainer)
        assert len(learner.catalogue) == 30
        assert (learner.catalogue.labels >= 0).all()
        learner.start_epoch(1)
    first, second = (learner.training_step(a_batch()).logs for learner in learners)
    assert first == second


def test_the_corrector_is_not_optimised_with_the_encoder_nor_part_of_it() -> None:
    student = compact()
    trainer = beside(student)
    trainer.training_step(a_batch())

    assert [id(p) for p in trainer.module().parameters()] == [id(p) for p in student.module().parameters()]
    trained = train_encoder(IMAGES, recipe_with(NEGATIVES, epochs=2)).encoder
    assert state_of(trained).keys() == state_of(ImageEncoder(TINY)).keys()
    assert not any(module._forward_hooks for module in trained.modules())


def test_the_recipe_of_shipped_weights_is_written_as_before(bundle_path: Path) -> None:
    shipped = load_bundle(bundle_path).manifest.training["recipe"]
    recipe = merged(recipe_of("parity", method="twin-bottleneck"), {"fit": shipped["fit"]})
    encoder = {name: tuple(shipped["method"]["encoder"][name]) for name in ("mean", "std")}
    recipe = merged(recipe, {"method": {"encoder": encoder}})

    assert json.loads(json.dumps(recipe.as_values())) == shipped
    assert "negatives" not in shipped


def test_a_configuration_turns_negatives_on_and_off() -> None:
    on = merged(recipe_of("parity"), {"negatives": {"weight": 1, "hidden": 64}})

    assert on.negatives == HardNegatives(weight=1.0, hidden=64)
    assert config_from_dict(Recipe, json.loads(json.dumps(on.as_values()))) == on
    assert merged(on, {"negatives": {"count": 3}}).negatives == HardNegatives(weight=1.0, hidden=64, count=3)
    assert merged(on, {"negatives": None}) == recipe_of("parity")
    assert merged(recipe_of("parity"), {"negatives": {}}).negatives == HardNegatives()
    with pytest.raises(ValueError, match=r"recipe\.negatives\.hidden is 'wide', expected int"):
        merged(recipe_of("parity"), {"negatives": {"hidden": "wide"}}, where="recipe")
    with pytest.raises(ValueError, match=r"recipe\.negatives: unknown key k; allowed: weight, queries"):
        merged(recipe_of("parity"), {"negatives": {"k": 3}}, where="recipe")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": 0.0}, r"weight is 0\.0 \(> 0\)"),
        ({"queries": 0}, r"queries 0 and count 1 \(both >= 1\)"),
        ({"count": 0}, r"queries 16 and count 0 \(both >= 1\)"),
        ({"from_epoch": -1}, r"from_epoch -1 \(>= 0\)"),
        ({"refresh": 0}, "'refresh': 0"),
        ({"uniform_share": -0.1}, r"uniform_share\W+-0\.1"),
        ({"hidden": 0}, "hidden 0 must be at least 1"),
    ],
)
def test_negatives_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HardNegatives(**values)  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, checkpoint = recipe_with(NEGATIVES), tmp_path / "fit.safetensors"
    with pytest.raises(ValueError, match="an encoder that is not compiled"):
        train_encoder(IMAGES, asked, compiled=True)
    with pytest.raises(ValueError, match=r"negatives begin with epoch 1 \(from 0\), there are 1"):
        recipe_with(NEGATIVES, epochs=1)
    with pytest.raises(TypeError, match="trains a Linear, expected a TwoHeaded encoder"):
        beside(Idle(nn.Linear(2, 2)))
    with pytest.raises(RuntimeError, match=r"ran its heads .*0.*0.* times, expected each once"):
        beside(Idle(ImageEncoder(TINY))).training_step(a_batch())
    train_encoder(IMAGES, recipe_with(None), checkpoint=checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match="belongs to"):
        train_encoder(IMAGES, asked, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before
    monkeypatch.setattr(recipes, "current", lambda: Processes(count=2))
    with pytest.raises(ValueError, match="nor with a teacher nor with hard negatives"):
        train_encoder(IMAGES, asked)


class Idle:
    """A trainer whose step leaves its encoder alone."""

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder = encoder

    def start_epoch(self, epoch: int) -> None: ...

    def training_step(self, batch: Batch) -> StepOutput:
        return StepOutput(loss=batch.images.sum(), logs={})

    def module(self) -> nn.Module:
        return self._encoder

    def encoder(self) -> nn.Module:
        return self._encoder
