"""A verdict's report as measuring writes it, with figures a test can change, and the row that keeps it."""

from collections.abc import Mapping, Sequence
from typing import Any

from searchapp.models import ItemImage, ModelVersion, Verdict, stored_path
from searchapp.services.held_out import held_out_fingerprint, held_out_queries

Report = dict[str, Any]


def cell(version: str, state: str, value: float, change: float | None = None, n: int = 240) -> Report:
    """Every measure of one cell; mean average precision is `value`, give or take two points."""
    row: Report = {"query_version": version, "gallery_state": state, "n": n, "change": None}
    for metric, more in (("map", 0.0), ("recall_at_1", 0.1), ("recall_at_10", 0.2), ("mrr", 0.05)):
        middle = value + more
        row |= {metric: middle, f"{metric}_low": middle - 0.02, f"{metric}_high": middle + 0.02}
    if change is not None:
        around = {"value": change, "low": change - 0.02, "high": change + 0.02}
        row["change"] = dict.fromkeys(("map", "recall_at_1", "recall_at_10", "mrr"), around)
    return row


def gate(name: str, value: float | None, threshold: float, verdict: str = "pass", **more: Any) -> Report:
    around = {"low": None, "high": None} if value is None else {"low": value - 0.01, "high": value + 0.01}
    return {
        "name": name,
        "threshold": threshold,
        "value": value,
        **around,
        "verdict": verdict,
        "items": 60,
        **more,
    }


def category(path: str, change: float, n: int = 40) -> Report:
    return {
        "slug": path.rsplit(" > ", 1)[-1].lower(), "path": path, "n": n, "before": 0.5, "after": 0.5 + change,
        "change": change, "low": change - 0.03 if n > 4 else None, "high": change + 0.03 if n > 4 else None,
    }  # fmt: skip


GATES = (
    gate("map_loss", -0.06, 0.01),
    gate("flips", 0.02, 0.05),
    gate("worst_category", 0.01, 0.03),
    gate("latency", 1.4, 2.0),
    gate("rollback_loss", 0.012, 0.05),
    gate("chain_loss", -0.05, 0.03),
)
CATEGORIES = (
    category("Fruit > Pear", -0.08),
    category("Fruit > Apple", -0.01),
    category("Drink > Juice", 0.12),
    category("Drink > Milk", 0.2, n=4),
)


def report_of(
    version: str,
    against: str,
    *,
    gates: Sequence[Report] = GATES,
    categories: Sequence[Report] = CATEGORIES,
    negative: Sequence[Report] = (),
    positive: Sequence[Report] = (),
    **more: Any,
) -> Report:
    return {
        "version": version, "against": against, "seed": 0, "held_out": "240 " + "a" * 64, "queries": 240,
        "state": "stored", "notes": [], "gallery": {"entries": 4752, "sequence": 9512, "sampled": None},
        "matrix": [
            cell(version, "stored", 0.56, 0.06), cell(version, "backfilled", 0.61, 0.11),
            cell(version, "added_by_candidate", 0.57, 0.07),
            cell(against, "stored", 0.5), cell(against, "added_by_candidate", 0.489, -0.011),
        ],
        "gates": list(gates),
        "flips": {
            "negative": 5, "positive": 19, "queries": 240, "negative_rate": 0.021, "negative_rate_low": 0.008,
            "negative_rate_high": 0.038, "examples": {"negative": list(negative), "positive": list(positive)},
        },
        "per_category": list(categories), "chain": None, "update_gain": 0.55,
        "costs": {
            "bytes": {version: 1_400_000, against: 900_000},
            "latency_ms": {version: {"p50": 9.8, "p95": 14.1}, against: {"p50": 7.0, "p95": 9.9}},
            "entries": 4752, "reencode_seconds": 412.0, "reencode_how": "60 photos encoded by 2.0 in 5.20 s",
        },
        **more,
    }  # fmt: skip


def flip(query: str, before: ItemImage, after: ItemImage, path: str = "Fruit > Apple") -> Report:
    """An answer that turned; `query` is the SHA-256 of the photo that asks, the others are those that stood first."""
    return {
        "query": query, "path": stored_path(query, "jpg"), "right": None, "category": path,
        "before": before.item.sku, "before_path": stored_path(before.image_sha256, before.extension),
        "after": after.item.sku, "after_path": stored_path(after.image_sha256, after.extension),
        "map_before": 1.0, "map_after": 0.2,
    }  # fmt: skip


def verdict_make(
    version: ModelVersion, against: ModelVersion, report: Mapping[str, Any] | None = None
) -> Verdict:
    """A verdict that holds: of the held-out photos there are now."""
    return Verdict.objects.create(
        version=version,
        against=against,
        held_out=held_out_fingerprint(held_out_queries()),
        report=dict(report or report_of(version.name, against.name)),
    )
