"""How galleries that are mapped forward, or encoded anew part by part, are shown on docs/results.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ml.experiments.compatible.backfill import FCT_ORDERS, FORWARD, PARTIAL, SETTING_END, SHARES
from ml.experiments.evidence import Evidence

Row = dict[str, Any]
STATES = {
    "old": "old system", "cross": "as the old encoder left it", "transformed": "FCT",
    "transformed_side": "FCT, side information", "fastfill": "FastFill, side information",
    "full": "full backfill",
}  # fmt: skip
MAPPED = ("transformed", "transformed_side", "fastfill")
GALLERIES = {
    "fastfill": (FORWARD, "FastFill"), "fct": (FORWARD, "FCT, side information"),
    "raw": (PARTIAL, "compatible encoder"),
}  # fmt: skip
ORDERS = {
    "predicted": "predicted error", "class_mean": "class mean", "random": "random", "true": "true error",
}  # fmt: skip
STATES_NOTE = (
    "mAP by embeddings in points, means over seeds; queries are of the independent encoder, but those of the old "
    "system. Maps are fitted to the entries that the new encoder learned from, FastFill's with their labels: it may do "
    "better than a full backfill on these entries, which says nothing of entries without a label. `unseen`: queries of "
    "held-out classes, which no encoder and no map has seen. Side information: what the old trunk says of an image, "
    "kept beside its embedding. In brackets: share of the full backfill's gain over the old system."
)
AREAS_NOTE = (
    "mAP by embeddings in points, mean over the shares 0, 10 %, … 100 % of the gallery that are encoded anew, and over "
    "seeds; evenly spaced queries. The first two galleries are mapped forward and asked by the independent encoder; "
    "the third is as the old encoder left it, asked by the compatible one. Predicted error: what FastFill expects; "
    "class mean: what lies farthest from it first; true error: what no one knows beforehand. In brackets: queries of "
    "held-out classes."
)


def backfill_tables(evidence: Evidence) -> list[Row]:
    """States of the gallery and areas under partial backfill; those without rows are left out."""
    settings = backfill_settings(evidence)
    tables: list[Row] = [
        {
            "title": "Stored embeddings mapped forward to an independent encoder", "note": STATES_NOTE,
            "rows": [
                _states(evidence, setting, end)
                for setting in settings for end in ("", "_unseen") if _has(evidence, setting, FORWARD)
            ],
        },
        {
            "title": "Partial backfill, by order", "note": AREAS_NOTE,
            "rows": [
                _areas(evidence, setting, gallery)
                for setting in settings for gallery, (name, _) in GALLERIES.items() if _has(evidence, setting, name)
            ],
        },
    ]  # fmt: skip
    return [table for table in tables if table["rows"]]


def backfill_plots(evidence: Evidence) -> list[Row]:
    """mAP over the share encoded anew, a plot for each setting; bounds over seeds."""
    plots = [_plot(evidence, setting) for setting in backfill_settings(evidence)]
    return [plot for plot in plots if plot["series"]]


def backfill_settings(evidence: Evidence) -> list[str]:
    """Of both rows, in the order in which they stand."""
    named = {FORWARD, PARTIAL}
    return list(dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] in named))


def _states(evidence: Evidence, setting: str, end: str) -> Row:
    found = {state: _mean(evidence, (setting, FORWARD), f"{state}_map{end}") for state in STATES}
    old, full = found["old"], found["full"]
    shown: Row = {"setting": _titled(setting), "queries": "unseen" if end else "all"}
    for state, title in STATES.items():
        shown[title] = f"{100 * found[state]:.1f}"
        if state in MAPPED and full > old:
            shown[title] += f" ({(found[state] - old) / (full - old):.2f})"
    return shown


def _areas(evidence: Evidence, setting: str, gallery: str) -> Row:
    name, title = GALLERIES[gallery]
    shown: Row = {"setting": _titled(setting), "gallery": title}
    for order, heading in ORDERS.items():
        if gallery == "fct" and order not in FCT_ORDERS:
            shown[heading] = None
            continue
        area, unseen = (
            100 * _mean(evidence, (setting, name), f"{metric}_{gallery}_{order}")
            for metric in ("area", "area_unseen")
        )
        shown[heading] = f"{area:.1f} ({unseen:.1f})"
    return shown


def _plot(evidence: Evidence, setting: str) -> Row:
    series = [
        _series(evidence, (setting, name), f"{title}, {ORDERS[order]}", f"map_{gallery}_{order}")
        for gallery, (name, title) in GALLERIES.items() if gallery != "fct"
        for order in ("predicted", "class_mean", "random")
    ]  # fmt: skip
    return {
        "file": f"compatible_backfill_{_titled(setting).replace(' ', '_')}.png", "kind": "line",
        "title": f"Partial backfill, by order: {_titled(setting)}", "x_label": "% encoded anew",
        "y_label": "mAP by embeddings", "series": [one for one in series if one["x"]],
    }  # fmt: skip


def _series(evidence: Evidence, of: tuple[str, str], title: str, metric: str) -> Row:
    """of: setting and name."""
    setting, name = of
    found: Mapping[int, Sequence[float]] = {
        percent: list(evidence.values(setting=setting, name=name, metric=f"{metric}_{percent}").values())
        for percent in (round(100 * share) for share in SHARES)
    }
    kept = {percent: values for percent, values in found.items() if values}
    return {
        "name": title, "x": list(kept), "y": [float(np.mean(values)) for values in kept.values()],
        "low": [min(values) for values in kept.values()], "high": [max(values) for values in kept.values()],
    }  # fmt: skip


def _mean(evidence: Evidence, of: tuple[str, str], metric: str) -> float:
    """Over seeds, of a setting and name that have rows."""
    return float(np.mean(list(evidence.values(setting=of[0], name=of[1], metric=metric).values())))


def _has(evidence: Evidence, setting: str, name: str) -> bool:
    return any(row["setting"] == setting and row["name"] == name for row in evidence.rows)


def _titled(setting: str) -> str:
    """As the setting of the encoders: `grocery/larger-trunk` is grocery's."""
    return setting.removesuffix(SETTING_END).replace("/", " ")
