"""Finished runs with known differences, for the tests of claims and result files."""

import numpy as np
from numpy.typing import NDArray

from ml.experiments.ledger import RunRecord

QUERIES = 120
SEEDS = (0, 1, 2)


def planted_runs(setting: str = "digits", *, gain: float = 0.2) -> list[RunRecord]:
    """Arms `none` and `one`, three seeds: `one` answers a share `gain` of the queries better, whole items at a
    time; `bytes` has no per-query values and the last query no relevant entry.
    """
    return [
        run for seed in SEEDS for run in (_run("none", setting, seed, 0.0), _run("one", setting, seed, gain))
    ]


def _run(name: str, setting: str, seed: int, gain: float) -> RunRecord:
    items = np.arange(QUERIES) // 2
    rng = np.random.default_rng(seed)
    hits: NDArray[np.float64] = (rng.random(QUERIES) < 0.5).astype(np.float64)
    better = np.random.default_rng(99).random(QUERIES // 2) < gain
    hits = np.maximum(hits, better[items])
    precision = hits * rng.random(QUERIES)
    hits[-1] = precision[-1] = np.nan
    per_query = {"recall_at_1": hits, "map": precision}
    values = {metric: float(np.nanmean(found)) for metric, found in per_query.items()}
    return RunRecord(name, setting, seed, {**values, "bytes": 1000 + seed}, per_query, 1.5, items)
