"""The made-up gallery of the search benchmarks, and the machine they ran on.

`mixlow`: Gaussian clusters, each a 16-dimensional patch plus small noise in R^128, scaled to unit length;
queries are drawn alike and held out. Codes are signs after a random rotation: no learned hash, so recall here
speaks of the index and the pool, not of a trained model.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ml.protocol import pack_bits
from ml.retrieval.columns import EntryColumns, ItemColumns

DIMENSION = 128
CODE_BITS = 128
PATCH = 16
CLUSTERS = 1000
PATCH_SPREAD = 0.6  # length of the patch part, cluster centres having length 1
NOISE = 0.05  # length of the isotropic part
_CHUNK = 50_000


@dataclass(frozen=True)
class Mixture:
    """Unit embeddings (N, D) float32, their clusters (N,), and held-out queries (Q, D)."""

    embeddings: NDArray[np.float32]
    clusters: NDArray[np.int64]
    queries: NDArray[np.float32]
    rotation: NDArray[np.float32]

    def codes(self, embeddings: NDArray[np.float32]) -> NDArray[np.uint8]:
        parts = [
            pack_bits(embeddings[start : start + _CHUNK] @ self.rotation)
            for start in range(0, len(embeddings), _CHUNK)
        ]
        return np.concatenate(parts)


def mixlow(count: int, queries: int, *, seed: int) -> Mixture:
    rng = np.random.default_rng(seed)
    centres = _unit(rng.standard_normal((CLUSTERS, DIMENSION), np.float32))
    patches = rng.standard_normal((CLUSTERS, PATCH, DIMENSION), np.float32) / np.float32(np.sqrt(DIMENSION))
    rotation, _ = np.linalg.qr(rng.standard_normal((DIMENSION, CODE_BITS)))
    embeddings = np.empty((count + queries, DIMENSION), np.float32)
    clusters = rng.integers(0, CLUSTERS, count + queries)
    for start in range(0, count + queries, _CHUNK):
        own = clusters[start : start + _CHUNK]
        inside = rng.standard_normal((len(own), 1, PATCH), np.float32) * np.float32(
            PATCH_SPREAD / np.sqrt(PATCH)
        )
        noise = rng.standard_normal((len(own), DIMENSION), np.float32) * np.float32(
            NOISE / np.sqrt(DIMENSION)
        )
        spread = np.empty((len(own), DIMENSION), np.float32)
        for cluster in np.unique(own):
            rows = own == cluster
            spread[rows] = inside[rows, 0] @ patches[cluster]
        embeddings[start : start + _CHUNK] = _unit(centres[own] + spread + noise)
    return Mixture(embeddings[:count], clusters[:count], embeddings[count:], rotation.astype(np.float32))


def entries_of(mixture: Mixture, codes: NDArray[np.uint8]) -> EntryColumns:
    """One entry per item, ids from 1."""
    ids = np.arange(1, len(codes) + 1)
    return EntryColumns(
        ids, ids, ids, np.zeros(len(ids), np.int16), codes, mixture.embeddings.astype(np.float16), ("1.0",)
    )


def items_of(category_ids: NDArray[np.int32]) -> ItemColumns:
    """Items with ids from 1 and these categories, without price or tags."""
    count = len(category_ids)
    return ItemColumns(
        np.arange(1, count + 1),
        category_ids,
        np.zeros(count, np.int8),
        np.full(count, np.nan, np.float32),
        np.empty(0, np.int64),
        np.empty(0, np.int32),
    )


def medians_ms(calls: dict[str, Callable[[int], object]], *, queries: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of each call over all queries, the calls taking turns so that drift hits all alike.

    The fastest of a query's rounds is its time: what the machine's other work adds is not the index's.
    """
    times = {name: np.full((rounds, queries), np.inf) for name in calls}
    for call in calls.values():
        call(0)
    # In a new order every time: the call after a large scan finds the caches cold, whichever it is.
    order = np.random.default_rng(0)
    names = list(calls)
    for round_number in range(rounds):
        for query in range(queries):
            for name in order.permutation(names).tolist():
                call = calls[name]
                started = perf_counter()
                call(query)
                times[name][round_number, query] = perf_counter() - started
    return {name: float(np.median(taken.min(axis=0)) * 1000) for name, taken in times.items()}


def machine() -> dict[str, Any]:
    """Processor, thread settings and versions, for a result file."""
    return {
        "cpu": _cpu_model(),
        "threads": faiss.omp_get_max_threads(),
        "omp_wait_policy": "PASSIVE",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "faiss": faiss.__version__,
        "popcount": "AVX-512 VPOPCNTDQ" if "avx512_vpopcntdq" in _cpu_flags() else "without VPOPCNTDQ",
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
