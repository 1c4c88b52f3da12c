"""A shop whose codes are known by heart, and a version that was taught what lies where in them."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytest_django.fixtures import Settings

from ml.artifacts import load_bundle, write_bundle
from ml.data.words import WordHasher
from ml.models.text import Arrays, TextConfig, TextEncoder
from searchapp.models import Item, ItemImage
from searchapp.services import encoding, versions
from searchapp.services.gallery import NewEntry, entries_add, gallery_transaction

BITS = 128
ORCHARD: NDArray[np.uint8] = np.random.default_rng(7).integers(0, 2, BITS, np.uint8)
STABLE: NDArray[np.uint8] = ORCHARD ^ (np.arange(BITS) >= 48)  # further than chance: similarity -0.25
TAUGHT = {
    "orchard": ORCHARD,
    "apple": ORCHARD,
    "red apple": ORCHARD,
    "stable": STABLE,
    "horse": STABLE,
    "brown horse": STABLE,
}


@cache
def taught_words() -> Arrays:
    """Of a text head that gives each of TAUGHT its code, to the bit."""
    torch.manual_seed(0)
    encoder = TextEncoder(TextConfig(buckets=2048, hidden=64, code_bits=BITS))
    hashed = torch.from_numpy(WordHasher(2048)(list(TAUGHT)))
    target = torch.from_numpy(np.stack(list(TAUGHT.values())).astype(np.float32) * 2 - 1)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    for _ in range(60):
        loss = (torch.tanh(encoder(hashed)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert torch.equal(encoder(hashed) >= 0, target > 0)
    return encoder.arrays()


def version_that_knows_words(settings: Settings, folder: Path) -> None:
    """The shipped bundle with the taught words: what an installation without any version begins with."""
    shipped = load_bundle(settings.DEFAULT_BUNDLE)
    manifest = shipped.manifest
    settings.DEFAULT_BUNDLE = write_bundle(
        folder / "knows-words", method=manifest.method, config=manifest.encoder_config, weights=shipped.weights,
        graph=shipped.graph, labels=manifest.labels, calibration=manifest.calibration,
        preprocessing=manifest.preprocessing, metrics=manifest.metrics, training=manifest.training,
        text=taught_words(),
    ).path  # fmt: skip
    versions.default_version_ensure()


def flipped(code: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """`code` with its first `bits` bits turned."""
    turned = code.copy()
    turned[:bits] ^= 1
    return turned


def coded(item: Item, code: NDArray[np.uint8]) -> None:
    """Entries with this code (128,) for the photos of `item`, their embeddings being those of the photos."""
    version = versions.champion().version
    images = list(ItemImage.objects.filter(item=item))
    made = encoding.encode_images(version=version, image_ids=[image.pk for image in images])
    entries = [
        NewEntry(entry.image_id, entry.image_sha256, np.packbits(code).tobytes(), entry.embedding)
        for entry in made
    ]
    with gallery_transaction() as changes:
        assert entries_add(changes, version=version, entries=entries) == len(images)
