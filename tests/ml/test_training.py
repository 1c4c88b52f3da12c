"""Training: deterministic, resumable, cancellable, and able to learn real photos with each loss."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ml.base_version.recipe import Recipe, pixel_statistics, train_encoder
from ml.data.augmentation import AugmentationConfig, augment
from ml.data.images import ImageSet
from ml.data.sampling import Batch, BatchSource, SamplingConfig
from ml.methods.compact_metric import CompactMetricTrainer, Config
from ml.models.config import CompactConfig, EncoderConfig
from ml.training.loop import FitCancelled, FitConfig, Progress, StepOutput, fit, learning_rate_at
from tests.ml.photos import few_photos

NO_CHANGE = AugmentationConfig(
    min_area=1.0, aspect=0.0, rotation_degrees=0.0, brightness=0.0, contrast=0.0, saturation=0.0, erasing=0.0
)
TINY = EncoderConfig(
    trunk=CompactConfig(widths=(16, 16, 32, 32)), input_size=32, code_bits=64, code_hidden=32, dimension=32
)
SAMPLING = SamplingConfig(classes_per_batch=5, images_per_class=4, sizes=((1.0, 32),))


def noise_images(*, per_class: int = 6, classes: int = 6, size: int = 36) -> ImageSet:
    pixels = torch.randint(
        0, 256, (per_class * classes, 3, size, size), generator=torch.Generator().manual_seed(3)
    )
    return ImageSet(
        pixels=pixels.to(torch.uint8),
        labels=torch.arange(classes).repeat_interleave(per_class),
        names=tuple(f"grocery:{index}" for index in range(classes)),
        packs=("grocery",) * (per_class * classes),
        fingerprint="noise",
    )


def recipe(epochs: int) -> Recipe:
    return Recipe(
        seed=5, stored_size=36, method=Config(encoder=TINY, ms_from_epoch=1), sampling=SAMPLING,
        fit=FitConfig(epochs=epochs, warmup_epochs=1.0),
    )  # fmt: skip


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bytes(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_two_runs_of_twenty_steps_are_bit_identical_and_another_seed_is_not() -> None:
    images = noise_images(per_class=20)  # 6 steps an epoch
    first, second = (train_encoder(images, recipe(4)).encoder for _ in range(2))
    other = train_encoder(images, replace(recipe(4), seed=6)).encoder

    assert same_bytes(state_of(first), state_of(second))
    assert not same_bytes(state_of(first), state_of(other))


def test_a_fit_stopped_half_way_ends_with_the_same_bytes_as_one_never_stopped(tmp_path: Path) -> None:
    images = noise_images(per_class=12)
    whole = train_encoder(images, recipe(4)).encoder
    checkpoint = tmp_path / "fit.safetensors"
    seen: list[int] = []

    def stop_after_two(progress: Progress) -> None:
        seen.append(progress.epoch)
        if progress.epoch == 2 and len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_encoder(images, recipe(4), checkpoint=checkpoint, on_epoch=stop_after_two)
    torch.manual_seed(999)  # what else happened meanwhile must not matter
    resumed = train_encoder(images, recipe(4), checkpoint=checkpoint, on_epoch=stop_after_two).encoder

    assert seen == [1, 2, 3, 4]
    assert same_bytes(state_of(resumed), state_of(whole))
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]


def test_a_checkpoint_of_another_fit_is_refused(tmp_path: Path) -> None:
    images = noise_images()
    checkpoint = tmp_path / "fit.safetensors"
    train_encoder(images, recipe(1), checkpoint=checkpoint)
    before = checkpoint.read_bytes()

    with pytest.raises(ValueError, match="belongs to"):
        train_encoder(images, recipe(2), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before


def test_a_cancelled_fit_stops_before_its_next_step() -> None:
    images = noise_images(per_class=20)
    asked = iter([False, False, True])
    epochs: list[Progress] = []

    with pytest.raises(FitCancelled, match="epoch 1 of 3"):
        train_encoder(images, recipe(3), is_cancelled=lambda: next(asked), on_epoch=epochs.append)
    assert epochs == []


class OneWeight:
    """A trainer whose single weight gets gradient 1 each step; its loss can be poisoned."""

    def __init__(self, *, loss: float = 1.0) -> None:
        self.linear = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.linear.weight, 0.0)
        self.loss = loss

    def start_epoch(self, epoch: int) -> None: ...

    def training_step(self, batch: Batch) -> StepOutput:  # noqa: ARG002
        return StepOutput(loss=self.linear.weight.sum() + self.loss, logs={})

    def module(self) -> nn.Module:
        return self.linear

    def encoder(self) -> nn.Module:
        return self.linear


class EmptyBatches:
    steps_per_epoch = 5

    def epoch(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002
        for _ in range(self.steps_per_epoch):
            yield Batch(images=torch.zeros(1), labels=torch.zeros(1, dtype=torch.int64))


def test_the_average_follows_its_formula() -> None:
    trainer = OneWeight()
    result = fit(
        trainer, EmptyBatches(), FitConfig(epochs=1, warmup_epochs=0.0, weight_decay=0.0, ema_decay=0.2)
    )

    # Adam with a constant gradient moves by exactly the learning rate each step.
    config = FitConfig(epochs=1, warmup_epochs=0.0)
    weight, average = 0.0, 0.0
    for step in range(5):
        weight -= learning_rate_at(step, 5, 0, config)
        decay = min(0.2, (2 + step) / (11 + step))
        average = decay * average + (1 - decay) * weight
    assert trainer.linear.weight.item() == pytest.approx(weight, rel=1e-4)
    averaged = next(result.encoder.parameters())
    assert averaged.item() == pytest.approx(average, rel=1e-4)
    assert not averaged.requires_grad


def test_a_loss_that_is_not_finite_stops_the_fit() -> None:
    trainer = OneWeight(loss=float("nan"))

    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        fit(trainer, EmptyBatches(), FitConfig(epochs=1))
    assert trainer.linear.weight.item() == 0.0


def test_the_learning_rate_warms_up_and_falls_to_its_final_share() -> None:
    config = FitConfig(learning_rate=1.0, final_share=0.01)

    rates = [learning_rate_at(step, 100, 10, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_batch_holds_p_classes_of_k_images_and_draws_by_a_power_of_class_size() -> None:
    labels = torch.tensor([0] * 2 + [1] * 20 + [2] * 200)
    images = ImageSet(
        pixels=torch.zeros(222, 3, 8, 8, dtype=torch.uint8), labels=labels, names=("a", "b", "c"),
        packs=("grocery",) * 222, fingerprint="",
    )  # fmt: skip
    source = BatchSource(
        images,
        SamplingConfig(classes_per_batch=2, images_per_class=4, frequency_exponent=0.5),
        NO_CHANGE,
        seed=0,
        epochs=1,
    )
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(3)
    for _ in range(300):
        drawn = labels[source.draw(generator)]
        classes, sizes = torch.unique(drawn, return_counts=True)
        assert sizes.tolist() == [4, 4]
        counts[classes] += 1

    assert counts[2] > counts[1] > counts[0] > 60  # the class of two photos still comes up


def test_pictures_grow_by_the_schedule() -> None:
    sampling = SamplingConfig(classes_per_batch=2, images_per_class=2, sizes=((0.5, 32), (1.0, 48)))
    source = BatchSource(noise_images(size=56), sampling, NO_CHANGE, seed=0, epochs=4)

    assert [source.size_at(epoch) for epoch in range(4)] == [32, 32, 48, 48]
    assert next(iter(source.epoch(0))).images.shape == (4, 3, 32, 32)
    assert next(iter(source.epoch(3))).images.shape == (4, 3, 48, 48)


def test_no_augmentation_is_the_identity_and_a_sure_flip_mirrors() -> None:
    pixels = noise_images(size=16).pixels[:4]
    generator = torch.Generator().manual_seed(0)

    same = augment(pixels, 16, NO_CHANGE, torch.zeros(4), generator)
    mirrored = augment(pixels, 16, NO_CHANGE, torch.ones(4), generator)
    assert torch.allclose(same, pixels / 255.0, atol=1e-5)
    assert torch.allclose(mirrored, pixels.flip(3) / 255.0, atol=1e-5)


def test_augmentation_stays_in_range_and_differs_between_images() -> None:
    pixels = noise_images(size=40).pixels[:1].expand(8, -1, -1, -1)
    changed = augment(
        pixels, 32, AugmentationConfig(), torch.full((8,), 0.5), torch.Generator().manual_seed(0)
    )

    assert changed.shape == (8, 3, 32, 32)
    assert (changed.min().item() >= 0.0, changed.max().item() <= 1.0) == (True, True)
    assert all(not torch.equal(changed[0], changed[i]) for i in range(1, 8))


def test_pixel_statistics_are_those_of_the_whole_set() -> None:
    images = noise_images()
    mean, deviation = pixel_statistics(images)
    values = images.pixels.double() / 255

    assert mean == pytest.approx(values.mean(dim=(0, 2, 3)).tolist(), abs=1e-4)
    assert deviation == pytest.approx(values.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("ce_weight", "ms_weight"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.5)], ids=["ce", "ms", "ce+ms"]
)
def test_a_hundred_real_photos_are_learned_within_200_steps(
    data_packs: Path, ce_weight: float, ms_weight: float
) -> None:
    images = few_photos(data_packs, per_class=10, size=48)
    config = EncoderConfig(trunk=CompactConfig(), input_size=48, code_bits=64, code_hidden=64, dimension=64)
    torch.manual_seed(0)
    trainer = CompactMetricTrainer(
        Config(
            encoder=config, ce_weight=ce_weight, ms_weight=ms_weight, ms_from_epoch=0, label_smoothing=0.0
        ),
        classes=10,
    )
    source = BatchSource(
        images,
        SamplingConfig(classes_per_batch=10, images_per_class=5, sizes=((1.0, 48),)),
        NO_CHANGE,
        seed=0,
        epochs=60,
    )
    assert source.steps_per_epoch * 60 < 200
    fit(trainer, source, FitConfig(epochs=60, warmup_epochs=3, learning_rate=4e-3, ema_decay=0.9))

    with torch.no_grad():
        logits, embeddings = trainer.encoder().eval()(images.pixels / 255.0)
    for similarity in (embeddings @ embeddings.T, logits.sign() @ logits.sign().T):
        nearest = similarity.fill_diagonal_(-1e9).argmax(dim=1)
        assert (images.labels[nearest] == images.labels).float().mean().item() > 0.99


def test_both_heads_and_both_classifiers_get_gradient_from_a_step(data_packs: Path) -> None:
    images = few_photos(data_packs, per_class=4, size=32)
    trainer = CompactMetricTrainer(Config(encoder=TINY, ms_from_epoch=0), classes=10)
    trainer.training_step(Batch(images=images.pixels / 255.0, labels=images.labels)).loss.backward()  # type: ignore[no-untyped-call]

    assert [name for name, p in trainer.module().named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ce_weight": 0.0, "ms_weight": 0.0}, "nothing would train the embedding"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"code_weight": -1.0}, "code_weight is -1.0"),
    ],
)
def test_a_method_config_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)
