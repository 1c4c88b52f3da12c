"""Small galleries made from a seed, with clustered codes, several photos per item, and every attribute in
use.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import EntryColumns, ItemColumns

CODE_BITS = 64
DIMENSION = 16


def make_items(count: int, *, first_id: int = 100, seed: int = 0) -> ItemColumns:
    """Items over 10 categories and 2 verticals; a third has no price; tag 1 on every other, tag 2 on every
    third.
    """
    rng = np.random.default_rng(seed)
    ids = [first_id + 3 * position for position in range(count)]  # with gaps, as deleted rows leave them
    return ItemColumns.of(
        ids,
        rng.integers(0, 10, count).tolist(),
        [position % 2 for position in range(count)],
        [None if position % 3 == 0 else 0.5 * (position % 40) for position in range(count)],
        {1: ids[::2], 2: ids[::3]},
    )


def make_entries(
    count: int,
    items: ItemColumns,
    *,
    first_id: int = 1000,
    seed: int = 0,
    producers: Sequence[str] = ("1.0",),
    code_bits: int = CODE_BITS,
) -> EntryColumns:
    """Entries in shuffled id order; codes lie around 8 centres, so that distances tie often."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (8, code_bits // 8), dtype=np.uint8)
    codes = centres[rng.integers(0, 8, count)]
    codes ^= np.packbits(rng.random((count, code_bits)) < 0.08, axis=1)
    embeddings = unit(rng.standard_normal((count, DIMENSION)))
    ids = rng.permutation(np.arange(first_id, first_id + 2 * count, 2))
    return EntryColumns(
        ids,
        ids + 500_000,
        items.item_ids[rng.integers(0, len(items), count)],
        rng.integers(0, len(producers), count).astype(np.int16),
        codes,
        embeddings.astype(np.float16),
        tuple(producers),
    )


def some_codes(count: int, *, seed: int = 0, code_bits: int = CODE_BITS) -> NDArray[np.uint8]:
    """Query codes near the centres that `make_entries` uses with the same seed."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (8, code_bits // 8), dtype=np.uint8)
    noise = np.random.default_rng(seed + 1).random((count, code_bits)) < 0.1
    return centres[np.arange(count) % 8] ^ np.packbits(noise, axis=1)


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows scaled to unit L2 norm."""
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / lengths).astype(np.float32)
