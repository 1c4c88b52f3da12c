"""Two-stage search against FAISS: IndexFlatIP at a million entries, IndexHNSWFlat at 100,000.

Run as `python -m benchmarks.two_stage [--quick]`; writes docs/results/bench_two_stage.json (not with
--quick).
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery_data import (
    CODE_BITS,
    DIMENSION,
    Mixture,
    entries_of,
    items_of,
    machine,
    medians_ms,
    mixlow,
)
from ml.protocol import Calibration
from ml.retrieval import exact, two_stage
from ml.retrieval.faiss_index import FaissIndex, FaissSettings
from ml.retrieval.two_stage import QueryVectors
from ml.retrieval.view import GalleryView

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "bench_two_stage.json"
SEED = 20
K = 10
ABOUT = (
    f"One query, one thread, k = {K}, one entry per item. Data `mixlow` (1000 Gaussian clusters, each a "
    f"16-dimensional patch plus small noise in R^128, unit length, held-out queries); {CODE_BITS}-bit "
    "codes are signs after a random rotation, not a learned hash, so recall speaks of index and pool "
    "alone. `recall at 10` ranks by cosine alone against exact float32; `fused recall at 10` is the "
    "product's order (codes and cosine) against an exact scan of the same order. Bytes: codes and "
    "float16 embeddings (and inverted file); the id columns come on top. Build time starts from "
    "embeddings and includes hashing."
)
HNSW = {"M": 16, "efConstruction": 60, "efSearch": 64}


@dataclass(frozen=True)
class Contender:
    """One way to answer, with what it costs to hold and to build."""

    search: Callable[[int], NDArray[np.int64]]
    bytes_per_item: float
    bytes_with_columns: float
    build_seconds: float


def cosine_only(pool_size: int) -> dict[str, Calibration]:
    """A calibration whose order is the cosine's, so that recall against float search means something."""
    return {"1.0": Calibration(0.0, 0.0, 1.0, 0.7, 0.3, pool_size)}


def fused(pool_size: int) -> dict[str, Calibration]:
    return {"1.0": Calibration(-6.0, 4.0, 6.0, 0.7, 0.3, pool_size)}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = perf_counter()
    result = call()
    return result, perf_counter() - started


def ours(
    mixture: Mixture, queries: list[QueryVectors], *, settings: FaissSettings, pools: list[int]
) -> tuple[GalleryView, dict[int, Contender]]:
    def build() -> GalleryView:
        entries = entries_of(mixture, mixture.codes(mixture.embeddings))
        items = items_of(np.zeros(len(entries), np.int32))
        return GalleryView.build(entries, items, engine=partial(FaissIndex.build, settings=settings))

    view, seconds = timed(build)
    count = len(view)
    rows = view.pools["1.0"].rows.base
    in_file = 0 if view.pools["1.0"].index.is_exact else rows.codes.nbytes + 8 * count
    searched = rows.codes.nbytes + rows.embeddings.nbytes + in_file
    ids = rows.entry_ids.nbytes + rows.image_ids.nbytes + rows.item_ids.nbytes
    columns = searched + ids + 4 * count  # 4: each entry's item slot

    def answer(query: int, calibrations: dict[str, Calibration]) -> NDArray[np.int64]:
        outcome = two_stage.search(view, queries[query], k=K, calibrations=calibrations)
        return np.array([hit.entry_id - 1 for hit in outcome.hits])

    return view, {
        pool: Contender(
            partial(answer, calibrations=cosine_only(pool)), searched / count, columns / count, seconds
        )
        for pool in pools
    }


def flat_ip(mixture: Mixture) -> Contender:
    index = faiss.IndexFlatIP(DIMENSION)
    _, seconds = timed(lambda: index.add(mixture.embeddings))
    per_item = 4.0 * DIMENSION
    return Contender(
        lambda query: index.search(mixture.queries[query][None], K)[1][0], per_item, per_item, seconds
    )


def hnsw(mixture: Mixture) -> Contender:
    index = faiss.IndexHNSWFlat(DIMENSION, HNSW["M"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = HNSW["efConstruction"], HNSW["efSearch"]
    _, seconds = timed(lambda: index.add(mixture.embeddings))
    per_item = len(faiss.serialize_index(index)) / index.ntotal
    return Contender(
        lambda query: index.search(mixture.queries[query][None], K)[1][0], per_item, per_item, seconds
    )


def contest(
    count: int, *, queries: int, rounds: int, pools: list[int], with_hnsw: bool
) -> list[dict[str, Any]]:
    """One table: every contender on the same data and queries, taking turns."""
    mixture = mixlow(count, queries, seed=SEED)
    asked = [
        QueryVectors(code, embedding)
        for code, embedding in zip(mixture.codes(mixture.queries), mixture.queries)
    ]
    contenders = {"FAISS IndexFlatIP, float32": flat_ip(mixture)}
    if with_hnsw:
        contenders["FAISS IndexHNSWFlat, float32"] = hnsw(mixture)
    views = {}
    for name, settings in (
        ("exact scan", FaissSettings(ivf_from_rows=None)),
        ("inverted file", FaissSettings(ivf_from_rows=1)),
    ):
        view, own = ours(mixture, asked, settings=settings, pools=pools)
        views[name] = view
        contenders |= {f"two-stage, {name}, pool {pool}": one for pool, one in own.items()}
    times = medians_ms({name: one.search for name, one in contenders.items()}, queries=queries, rounds=rounds)
    truth = [contenders["FAISS IndexFlatIP, float32"].search(query).tolist() for query in range(queries)]
    rival = "HNSW" if with_hnsw else "FlatIP"
    base = next(name for name in contenders if rival in name)
    rows = []
    for name, one in contenders.items():
        found = [len({*one.search(query).tolist()} & {*truth[query]}) for query in range(queries)]
        fused_recall = None
        if name.startswith("two-stage"):
            engine, pool = name.removeprefix("two-stage, ").split(", pool ")
            fused_recall = recall_of_the_fused_order(views[engine], asked[:20], int(pool))
        rows.append(
            {
                "entries": count,
                "search": name,
                "ms": times[name],
                f"time_against_{rival}": times[name] / times[base],
                "times_faster_than_FlatIP": times["FAISS IndexFlatIP, float32"] / times[name],
                "recall_at_10": sum(found) / (K * queries),
                "fused_recall_at_10": fused_recall,
                "bytes_per_item": one.bytes_per_item,
                "bytes_with_id_columns": one.bytes_with_columns,
                f"bytes_against_{rival}": one.bytes_per_item / contenders[base].bytes_per_item,
                "build_seconds": one.build_seconds,
            }
        )
    return rows


def recall_of_the_fused_order(view: GalleryView, queries: list[QueryVectors], pool: int) -> float:
    """Share of the exact fused top 10 (`ml.retrieval.exact`) that the two-stage search finds."""
    found = 0
    for query in queries:
        hits = two_stage.search(view, query, k=K, calibrations=fused(pool)).hits
        wanted = {hit.entry_id for hit in exact.search(view, query, k=K, calibrations=fused(pool))}
        found += len(wanted & {hit.entry_id for hit in hits})
    return found / (K * len(queries))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_stage", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size; writes no result")
    quick = parser.parse_args().quick
    shrink = 10 if quick else 1
    tables = [
        {
            "title": "Against HNSW (" + ", ".join(f"{name} {value}" for name, value in HNSW.items()) + ")",
            "note": "A gallery of this size gets the `exact scan`; the inverted file is for comparison.",
            "rows": contest(100_000 // shrink, queries=200, rounds=3, pools=[100, 200, 500], with_hnsw=True),
        },
        {
            "title": "Against the float scan",
            "note": "A gallery of this size gets the `inverted file`.",
            "rows": contest(
                1_000_000 // shrink, queries=100, rounds=2, pools=[200, 500, 1000], with_hnsw=False
            ),
        },
    ]
    result = {
        "title": "Two-stage search",
        "about": ABOUT,
        "command": "python -m benchmarks.two_stage",
        "seed": SEED,
        "machine": machine(),
        "tables": tables,
    }
    for table in tables:
        for row in table["rows"]:
            print(json.dumps(row))
    if not quick:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
