"""Twin bottlenecks trained end to end: partial labels, resuming, given weights to start from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.base_version.recipe import Recipe, recipe_of, train_encoder
from ml.config import config_from_dict, merged
from ml.data.images import ImageSet, labelled
from ml.data.sampling import BatchSource
from ml.methods import compact_metric, twin_bottleneck
from ml.methods.twin_bottleneck import Bottlenecks, published
from ml.models.export import weights_of
from ml.training.loop import FitCancelled, FitConfig, Progress
from tests.ml.test_training import NO_CHANGE, SAMPLING, TINY, noise_images, same_bytes, state_of


def twin_recipe(epochs: int, settings: Bottlenecks | None = None) -> Recipe:
    method = twin_bottleneck.Config(encoder=TINY, bottlenecks=settings or Bottlenecks(ms_from_epoch=1))
    fit = FitConfig(epochs=epochs, warmup_epochs=1.0)
    return Recipe(seed=5, stored_size=36, method=method, sampling=SAMPLING, fit=fit)


def test_a_batch_holds_as_many_images_without_label_as_with_one() -> None:
    images = noise_images(per_class=8)
    hidden = torch.where(torch.arange(48) % 2 == 0, images.labels, -1)
    source = BatchSource(replace(images, labels=hidden), SAMPLING, NO_CHANGE, seed=0, epochs=1)
    drawn = hidden[source.draw(torch.Generator().manual_seed(0))]
    assert (drawn[:20] >= 0).all()
    assert (drawn[20:] == -1).all()
    assert len(drawn) == 40
    assert source.steps_per_epoch == 48 // 40
    assert labelled(images) is images
    assert len(labelled(replace(images, labels=hidden))) == 24


def test_images_without_label_teach_the_twin_bottleneck_and_not_the_compact_method() -> None:
    images = noise_images(per_class=8)
    hidden = torch.where(torch.arange(48) % 2 == 0, images.labels, -1)
    # Turned upside down: other images, with the same pixel statistics.
    turned = torch.where((hidden < 0).view(-1, 1, 1, 1), images.pixels.flip(2), images.pixels)
    part, changed = replace(images, labels=hidden), replace(images, labels=hidden, pixels=turned)

    def trained(
        method: compact_metric.Config | twin_bottleneck.Config, on: ImageSet
    ) -> dict[str, torch.Tensor]:
        return state_of(train_encoder(on, replace(twin_recipe(2), method=method)).encoder)

    twin, compact = twin_recipe(2).method, compact_metric.Config(encoder=TINY)
    assert not same_bytes(trained(twin, part), trained(twin, changed))
    assert same_bytes(trained(compact, part), trained(compact, changed))
    with pytest.raises(ValueError, match="6 empty"):
        train_encoder(replace(images, labels=torch.full((48,), -1)), twin_recipe(1))


@pytest.mark.parametrize("settings", [Bottlenecks(random_share=0.5), published(ce_weight=1.0)])
def test_a_fit_stopped_half_way_ends_with_the_same_bytes(settings: Bottlenecks, tmp_path: Path) -> None:
    images, checkpoint = noise_images(per_class=10), tmp_path / "fit.safetensors"
    whole = train_encoder(images, twin_recipe(4, settings)).encoder
    done: list[int] = []

    def count(progress: Progress) -> None:
        done.append(progress.epoch)

    with pytest.raises(FitCancelled):
        train_encoder(
            images, twin_recipe(4, settings), checkpoint=checkpoint, on_epoch=count,
            is_cancelled=lambda: len(done) == 2,
        )  # fmt: skip
    again = train_encoder(images, twin_recipe(4, settings), checkpoint=checkpoint).encoder
    assert same_bytes(state_of(whole), state_of(again))


def test_training_starts_from_the_weights_it_is_given() -> None:
    images = noise_images(per_class=10)
    first = train_encoder(images, twin_recipe(1)).encoder
    slow = replace(twin_recipe(1), fit=FitConfig(epochs=1, learning_rate=1e-9, warmup_epochs=0.0))
    near = train_encoder(images, slow, initial=weights_of(first)).encoder
    far = train_encoder(images, replace(slow, seed=6)).encoder
    names = [name for name, value in first.state_dict().items() if name.endswith("weight") and value.ndim > 1]
    for name in names:
        start, moved = first.state_dict()[name], near.state_dict()[name]
        assert torch.allclose(start, moved, atol=1e-5), name
    assert not torch.allclose(first.state_dict()[names[0]], far.state_dict()[names[0]], atol=1e-3)
    with pytest.raises(ValueError, match="do not fit the architecture"):
        train_encoder(images, slow, initial={"trunk.nothing": np.zeros(3, np.float32)})


def test_half_precision_touches_the_trunk_alone() -> None:
    images = noise_images(per_class=10)
    recipe = twin_recipe(2)
    half = replace(recipe, fit=replace(recipe.fit, precision="bfloat16"))
    exact, rounded = train_encoder(images, recipe), train_encoder(images, half)
    assert rounded.history[-1]["loss"] == pytest.approx(exact.history[-1]["loss"], rel=0.05)
    assert all(value.dtype == torch.float32 for value in state_of(rounded.encoder).values() if value.ndim > 0)


def test_a_recipe_tells_its_method_by_kind() -> None:
    for architecture in ("parity", "budget", "residual"):
        twin, compact = recipe_of(architecture, method="twin-bottleneck"), recipe_of(architecture)
        assert isinstance(twin.method, twin_bottleneck.Config)
        assert twin.method.encoder == compact.method.encoder
        assert replace(twin, method=compact.method) == compact
    changed = merged(recipe_of("parity"), {"method": {"kind": "twin-bottleneck"}})
    assert changed == recipe_of("parity", method="twin-bottleneck")
    assert config_from_dict(Recipe, {}) == recipe_of("parity")
    with pytest.raises(ValueError, match="method is 'tripel', allowed: compact, twin-bottleneck"):
        recipe_of("parity", method="tripel")
