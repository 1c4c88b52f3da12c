"""A made-up shop of coloured pictures, for the tests of what drift costs in a lifelong experiment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ml.data.images import ImageSet
from ml.experiments.data import ClassChain, Described
from ml.experiments.data.parts import Part
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.trunks import Features, recipe
from ml.experiments.protocol import Options, PlannedRun
from ml.models.encoder import ImageEncoder

SIZE = 24  # pixels a side
COLOURS = {
    "fruit/apple": (180, 50, 50), "fruit/plum": (120, 50, 120), "dairy/milk": (220, 220, 200),
    "dairy/cream": (230, 210, 130), "home/soap": (60, 160, 200),
}  # fmt: skip
BASE = 4  # classes; soap comes later
SHOTS = {"gallery": 6, "validation": 4, "queries": 10}  # of each class; two queries show one item


def shelves() -> Features:
    """What an untrained trunk says of them."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(len(COLOURS)), shots) for shots in SHOTS.values()])
    roles = np.repeat(list(SHOTS), [shots * len(COLOURS) for shots in SHOTS.values()])
    light = np.array(list(COLOURS.values()))[labels][:, :, None, None] + rng.normal(
        0, 8, (len(labels), 3, 1, 1)
    )
    pixels = np.clip(light + rng.normal(0, 10, (len(labels), 3, SIZE, SIZE)), 0, 255).astype(np.uint8)
    names = tuple(name.replace("/", ":") for name in COLOURS)
    images = ImageSet(
        torch.from_numpy(pixels), torch.from_numpy(labels), names, ("shop",) * len(labels), "made up"
    )
    described = tuple(Described((names[label].split(":")[0], names[label]), (), "") for label in labels)
    first = int(np.flatnonzero(roles == "queries")[0])
    items = np.where(
        roles == "queries", first + (np.arange(len(labels)) - first) // 2, np.arange(len(labels))
    )
    chain = ClassChain(
        name="shop", images=Part(images, items, described), classes=names, ends=(BASE, len(names)),
        held_out=np.empty(0, np.int64), fingerprint="shop",
        **{role: np.flatnonzero(roles == role) for role in SHOTS},
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = ImageEncoder(recipe(chain, precision="float32", smoke=True).method.encoder)
    width = encoder.feature_size
    raw = Features(
        chain=chain, vectors=np.empty((0, width), np.float32), embeddings=np.empty((0, 1), np.float32),
        views=np.empty((0, 0, width), np.float32), mean=np.zeros(width, np.float32),
        scale=np.ones(width, np.float32), encoder=encoder,
    )  # fmt: skip
    every = raw.of_pixels(images.pixels)
    own = every[chain.gallery[labels[chain.gallery] < BASE]]
    mean, scale = own.mean(axis=0), own.std(axis=0) + np.float32(1e-6)
    return replace(raw, vectors=(every - mean) / scale, mean=mean, scale=scale)


def place_of(features: Features, folder: Path, *, smoke: bool = False) -> Place:
    """Without words; its ledger stands in `folder`."""

    def unneeded(_checkpoint: Path) -> RunRecord:
        raise AssertionError("the features are at hand")

    made = PlannedRun(name="features", setting="shop/features", seed=0, identity={"shop": 1}, work=unneeded)
    options = Options(seeds=tuple(range(10)), smoke=smoke, threads=1, ledger=Ledger(folder))
    return Place("shop", made, lambda: features, options, words=0)
