"""The trunk of a chain of classes, read back from the ledger, sees as it did in training."""

from pathlib import Path

import numpy as np
import torch

from ml.base_version.recipe import train_encoder
from ml.experiments.data import Dataset, class_chain
from ml.experiments.ledger import Ledger
from ml.experiments.lifelong.trunks import base_images, features_of, planned_features, planned_trunk, recipe
from ml.experiments.protocol import Options


def test_a_trunk_that_is_read_back_says_of_photos_what_it_said_when_it_was_trained(
    small_grocery: Dataset, tmp_path: Path
) -> None:
    chain = class_chain(small_grocery, steps=2)
    own = recipe(chain, precision="float32", smoke=True)
    options = Options(seeds=(0,), smoke=True, threads=1, ledger=Ledger(tmp_path))
    trunk = planned_trunk(chain, own)
    found = features_of(chain, planned_features(chain, "small", trunk, own, options), trunk, own, options)
    trained = train_encoder(base_images(chain), own).encoder
    photos = chain.images.images.pixels[:8]
    with torch.no_grad():
        expected = trained.features(photos.float() / 255).numpy()
    np.testing.assert_allclose(found.vectors[:8] * found.scale + found.mean, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.of_pixels(photos), found.vectors[:8], rtol=1e-3, atol=1e-3)
