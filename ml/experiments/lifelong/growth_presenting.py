"""How the cost of an update over the number of stored codes is shown on docs/results.md."""

from typing import Any

import numpy as np

from ml.experiments.evidence import Evidence
from ml.experiments.lifelong.growth import SETTING, SIZES

Row = dict[str, Any]
COSTS = {
    "step_ms": "step, ms",
    "update_seconds": "update, s",
    "memory_mb": "memory, MB",
    "kept_bytes": "kept, bytes",
    "epoch_steps": "steps of an epoch",
    "statistics_seconds": "counting all codes anew, s",
    "digest_seconds": "digest of all codes, s",
    "gate_seconds": "gate's scan, s",
}
PLOTTED = ("update_seconds", "statistics_seconds", "digest_seconds", "gate_seconds")


def growth_tables(evidence: Evidence) -> list[Row]:
    """One table, means over seeds; no rows without growth runs."""
    rows = [
        {"stored codes": f"{size:,}", **{title: found[metric] for metric, title in COSTS.items()}}
        for size, found in _means(evidence)
    ]
    return [{"title": "An update beside more and more stored codes (processor time)", "rows": rows}]


def growth_plots(evidence: Evidence) -> list[Row]:
    """Seconds over stored codes."""
    found = _means(evidence)
    series = [
        {
            "name": COSTS[metric].removesuffix(", s"),
            "x": [size for size, _ in found],
            "y": [costs[metric] for _, costs in found],
        }
        for metric in PLOTTED
        if found
    ]
    return [{
        "file": "lifelong_growth.png", "title": "What an update costs over the number of stored codes", "kind": "line",
        "x_label": "stored codes", "x_scale": "log", "y_label": "seconds of the processor", "series": series,
    }]  # fmt: skip


def _means(evidence: Evidence) -> list[tuple[int, dict[str, float]]]:
    """By size, what every run measured."""
    rows = [row for row in evidence.rows if row["setting"] == SETTING]
    return [
        (size, {metric: float(np.mean([row[f"{metric}_{title}"] for row in rows])) for metric in COSTS})
        for title, size in SIZES.items()
        if rows and f"step_ms_{title}" in rows[0]
    ]
