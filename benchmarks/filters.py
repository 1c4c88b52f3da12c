"""Filtered search at 100,000 entries: the two plans of the engine against FAISS's own filter, by share kept.

Run as `python -m benchmarks.filters [--quick]`; writes docs/results/bench_filters.json (not with --quick).
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery_data import (
    CLUSTERS,
    CODE_BITS,
    Mixture,
    entries_of,
    items_of,
    machine,
    medians_ms,
    mixlow,
)
from ml.retrieval.columns import NO_IDS, EntryColumns, EntryFilter, ItemColumns
from ml.retrieval.faiss_index import FaissIndex, FaissSettings

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "bench_filters.json"
SEED = 21
K = 100
SHARES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
PASSING = EntryFilter(category_ids=frozenset({1}))
BASE = "FAISS IndexBinaryFlat, no filter"
SELECTOR = "FAISS IndexBinaryFlat + bitmap"
ABOUT = (
    f"Time of the {K} nearest codes inside a filter, one query, one thread, by the share of rows the "
    f"filter keeps. Data `mixlow`, {CODE_BITS}-bit codes as signs after a random rotation. `gather` "
    "copies the passing codes into one block and scans that; `oversample` scans everything for more "
    "than asked and drops what does not pass, growing until enough are left. `first` pays for finding "
    "out which rows pass, `again` is a filter seen before. `engine` is what ships. Every answer was "
    "checked against a numpy scan: exact within the filter. The aim is (0.1 + 1.2 x share) of the "
    "unfiltered scan."
)


def random_mask(mixture: Mixture, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rows that pass, spread evenly over the gallery."""
    mask = np.zeros(len(mixture.clusters), np.bool_)
    mask[rng.permutation(len(mask))[: round(share * len(mask))]] = True
    return mask


def clustered_mask(mixture: Mixture, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whole clusters pass, as whole categories do: near most queries hardly anything passes or nearly
    everything.
    """
    return np.isin(mixture.clusters, rng.permutation(CLUSTERS)[: max(1, round(share * CLUSTERS))])


def measured(mixture: Mixture, mask: NDArray[np.bool_], *, queries: int, rounds: int) -> dict[str, float]:
    """Median milliseconds per plan for one filter, after checking that each answers exactly."""
    codes, asked = mixture.codes(mixture.embeddings), mixture.codes(mixture.queries)
    items = items_of(mask.astype(np.int32))
    entries = entries_of(mixture, codes)
    flat = faiss.IndexBinaryFlat(CODE_BITS)
    flat.use_heap = False  # type: ignore[attr-defined]  # the faster of its two searches
    flat.add(codes)
    bitmap = np.packbits(mask, bitorder="little")
    selector = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))  # type: ignore[call-arg, arg-type, unused-ignore]
    engines = {
        "gather": FaissSettings(ivf_from_rows=None, gather_share=1.0),
        "oversample": FaissSettings(ivf_from_rows=None, gather_share=0.0),
        "engine": FaissSettings(ivf_from_rows=None),
    }
    calls: dict[str, Callable[[int], Any]] = {
        BASE: lambda query: flat.search(asked[query][None], K)[1][0] + 1,
        SELECTOR: lambda query: flat.search(asked[query][None], K, params=selector)[1][0] + 1,
    }
    for name, settings in engines.items():
        index = FaissIndex.build("1.0", entries, items, settings=settings)
        calls[f"{name}, again"] = partial(_remembered, index, asked)
        calls[f"{name}, first"] = partial(_unprepared, index, asked)
    for query in range(min(queries, 10)):
        _check_exact(calls, query, codes, asked[query], mask)
    return medians_ms(calls, queries=queries, rounds=rounds)


def _remembered(index: FaissIndex, asked: NDArray[np.uint8], query: int) -> NDArray[np.int64]:
    return index.search(asked[query], K, PASSING).entry_ids


def _unprepared(index: FaissIndex, asked: NDArray[np.uint8], query: int) -> NDArray[np.int64]:
    """The same state in a new index, which has seen no filter yet (making it costs some microseconds)."""
    fresh = index.updated(
        added=EntryColumns.empty(code_bits=CODE_BITS, dimension=CODE_BITS, producer_names=("1.0",)),
        removed_entry_ids=NO_IDS,
        changed_items=ItemColumns.empty(),
        removed_item_ids=NO_IDS,
    )
    return fresh.search(asked[query], K, PASSING).entry_ids


def _check_exact(
    calls: dict[str, Callable[[int], Any]],
    query: int,
    codes: NDArray[np.uint8],
    code: NDArray[np.uint8],
    mask: NDArray[np.bool_],
) -> None:
    rows = np.flatnonzero(mask)
    distances = np.bitwise_count(codes[rows] ^ code).sum(axis=1)
    expected = (rows[np.lexsort((rows, distances))[:K]] + 1).tolist()
    for name, call in calls.items():
        found = [entry_id for entry_id in call(query).tolist() if entry_id > 0]  # FAISS pads with -1
        if name != BASE and found != expected:
            raise AssertionError(f"{name} is not exact within the filter for query {query}")


def rows_of(
    mixture: Mixture,
    make_mask: Callable[[Mixture, float, np.random.Generator], NDArray[np.bool_]],
    *,
    queries: int,
    rounds: int,
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(SEED)
    rows = []
    for share in SHARES:
        mask = make_mask(mixture, share, rng)
        times = measured(mixture, mask, queries=queries, rounds=rounds)
        kept = float(mask.mean())
        aim = 0.1 + 1.2 * kept
        rows.append(
            {
                "share_kept": kept,
                **{f"{name} ms": value for name, value in times.items()},
                "engine_against_no_filter": times["engine, again"] / times[BASE],
                "aim": aim,
                "aim_met": times["engine, again"] / times[BASE] <= aim,
                "times_faster_than_bitmap": times[SELECTOR] / times["engine, again"],
            }
        )
    return rows


def crossover(rows: list[dict[str, Any]], which: str) -> str:
    """In words, up to which of the tried shares gathering is the faster plan."""
    won = [row["share_kept"] for row in rows if row[f"gather, {which} ms"] <= row[f"oversample, {which} ms"]]
    return f"gather is faster at {len(won)} of {len(rows)} shares, up to {max(won):.3g}" if won else "never"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size; writes no result")
    quick = parser.parse_args().quick
    mixture = mixlow(10_000 if quick else 100_000, 60, seed=SEED)
    tables = []
    for title, make_mask in (
        ("Rows that pass are spread evenly", random_mask),
        ("Whole clusters pass, as categories do", clustered_mask),
    ):
        rows = rows_of(mixture, make_mask, queries=20 if quick else 60, rounds=2 if quick else 3)
        note = f"First query: {crossover(rows, 'first')}. Seen before: {crossover(rows, 'again')}."
        tables.append({"title": title, "note": note, "rows": rows})
        print(title, "-", note)
        for row in rows:
            print(json.dumps(row))
    if not quick:
        result = {
            "title": "Filters inside the search",
            "about": ABOUT,
            "command": "python -m benchmarks.filters",
            "seed": SEED,
            "machine": machine(),
            "tables": tables,
        }
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
