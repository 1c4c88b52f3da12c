"""How upgrades of a stored gallery are shown on docs/results.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ml.experiments.corrector.serving_asking import groupings, mean_of_rows, share_of_gain, titled, upgrades
from ml.experiments.corrector.serving_curves import BACKFILL, COUNTS, PAIRS, SHARES
from ml.experiments.corrector.serving_ladder import NAME
from ml.experiments.corrector.serving_maps import MAPS
from ml.experiments.evidence import Evidence

Row = dict[str, Any]
STATES = {
    "old": "old system", "cross": "new queries, old gallery", "procrustes": "corrected by a rotation",
    "affine": "corrected by an affine map", "corrected": "corrected", "kept": "corrected, pairs kept as encoded",
    "random": "corrected + 10 %, random order", "predicted": "corrected + 10 %, predicted-error order",
    "true": "corrected + 10 %, true-error order", "full": "full backfill",
}  # fmt: skip
RUNGS = {
    "old": "old", "cross": "cross", "corrected": "corrected", "predicted": "+ 10 %", "full": "full backfill",
}  # fmt: skip
ORDERS = ("predicted", "random", "true")
LADDER_NOTE = (
    "Means over seeds, in points. `mAP` and `Recall@1` are of the fused answer, calibrated for each pair of query "
    "version and producer; `embeddings` ranks by cosine alone. Codes are never corrected: where those of old and new "
    "encoder do not compare, the calibration gives them no weight, and the fused answer loses them. `share`: of the "
    "full backfill's gain over the old system, where that is three points or more. `flips`: queries that the old "
    "system answered right and this state "
    "answers wrong at first place."
)
GATE_NOTE = (
    "The method's gate asks for a probe cosine of 0.95 in the median and 0.85 at the 5 % quantile. `left` is the mean "
    "squared distance to fresh embeddings that the map leaves on the probe, `of staleness` its ratio to what no map "
    "leaves, `floor` an estimate of what no map of the old embedding can mend. `rank correlation`: of predicted and "
    "true errors over the gallery."
)
COST_NOTE = (
    "Seconds of the processor, all of one run, images at hand and decoded. `ratio`: fitting, with the images it "
    "encodes, to encoding the whole gallery. The time of a fit does not grow with the gallery; at these few thousand "
    "images and with encoders of a few hundred thousand weights it is most of the cost."
)


def serving_tables(evidence: Evidence) -> list[Row]:
    """Ladder, groups, gate and costs; those without rows are left out."""
    settings = upgrades(evidence)
    tables: list[Row] = [
        {"title": f"Ladder of an upgrade: {titled(setting)}", "note": LADDER_NOTE, "rows": _ladder(evidence, setting)}
        for setting in settings
    ]  # fmt: skip
    tables += [
        {
            "title": "Worst groups: points of mAP gained over the old system",
            "rows": _groups(evidence, settings),
        },
        {
            "title": "Whether to serve corrected embeddings",
            "note": GATE_NOTE,
            "rows": _gate(evidence, settings),
        },
        {"title": "What a correction costs", "note": COST_NOTE, "rows": _costs(evidence, settings)},
    ]
    return [table for table in tables if table["rows"]]


def serving_plots(evidence: Evidence) -> list[Row]:
    """The ladder, the gain over pairs, and mAP over the share encoded anew; bounds over seeds."""
    settings = upgrades(evidence)
    plots = [_ladder_plot(evidence, settings)]
    for data in dict.fromkeys(setting.split("/")[1] for setting in settings):
        own = [setting for setting in settings if setting.split("/")[1] == data]
        plots += [_pairs_plot(evidence, data, own), _backfill_plot(evidence, data, own)]
    return [plot for plot in plots if plot["series"]]


def _ladder(evidence: Evidence, setting: str) -> list[Row]:
    def points(metric: str) -> float | None:
        value = mean_of_rows(evidence, setting, metric)
        return None if np.isnan(value) else round(100 * value, 1)

    def share(state: str, metric: str) -> float | None:
        value = share_of_gain(evidence, setting, state, metric=metric)
        return None if np.isnan(value) else round(value, 3)

    return [
        {
            "gallery": title, "mAP": points(f"map_{state}"), "Recall@1": points(f"recall_at_1_{state}"),
            "embeddings": points(f"cosine_map_{state}"), "share": share(state, "map"),
            "embeddings' share": share(state, "cosine_map"),
            "flips": points(f"flips_{state}"),
        }
        for state, title in STATES.items()
    ]  # fmt: skip


def _rounded(evidence: Evidence, setting: str, metric: str) -> float | None:
    value = mean_of_rows(evidence, setting, metric)
    return None if np.isnan(value) else round(value, 3)


def _groups(evidence: Evidence, settings: Sequence[str]) -> list[Row]:
    rows = []
    for setting in settings:
        for grouping in groupings(evidence, setting):
            found: Row = {"upgrade": titled(setting), "grouping": grouping.replace("_", " ")}
            for state in ("corrected", "full"):
                metric = f"worst_{grouping}_{state}"
                names = [row[f"{metric}_name"] for row in evidence.rows if _is_of(row, setting, metric)]
                found[f"worst when {state}"] = ", ".join(dict.fromkeys(map(str, names)))
                found[f"{state} − old"] = round(100 * mean_of_rows(evidence, setting, metric), 1)
            rows.append(found)
    return rows


def _is_of(row: Any, setting: str, metric: str) -> bool:
    return bool(row["setting"] == setting and row["name"] == NAME and row.get(f"{metric}_name") is not None)


def _gate(evidence: Evidence, settings: Sequence[str]) -> list[Row]:
    columns = {
        "cosine, median": "probe_cosine_median", "cosine, 5 %": "probe_cosine_low", "left": "probe_error",
        "of staleness": "probe_ratio", "floor": "floor", "rank correlation": "error_correlation",
    }  # fmt: skip
    return _columns(evidence, settings, columns)


def _costs(evidence: Evidence, settings: Sequence[str]) -> list[Row]:
    columns = {
        "entries": "entries", "encoded": "encoded", "share encoded": "encoded_share", "fitting, s": "fitting_seconds",
        "encoding those, s": "encoding_seconds", "full backfill, s": "backfill_seconds", "ratio": "seconds_ratio",
    }  # fmt: skip
    return _columns(evidence, settings, columns)


def _columns(evidence: Evidence, settings: Sequence[str], columns: dict[str, str]) -> list[Row]:
    return [
        {"upgrade": titled(setting)}
        | {title: _rounded(evidence, setting, metric) for title, metric in columns.items()}
        for setting in settings
    ]


def _ladder_plot(evidence: Evidence, settings: Sequence[str]) -> Row:
    rungs = {title: f"map_{state}" for state, title in RUNGS.items()}
    series = [_series(evidence, (setting, NAME), titled(setting), rungs) for setting in settings]
    return _plot("ladder", "From the old system to a full backfill", "gallery", "mAP, fused answer", series)


def _pairs_plot(evidence: Evidence, data: str, settings: Sequence[str]) -> Row:
    series = [
        _series(evidence, (f"{setting}/{PAIRS}", PAIRS), f"{_kind(setting)}, {name}",
                {count: f"map_share_{name}_{count}" for count in COUNTS})
        for setting in settings for name in MAPS if not np.isnan(share_of_gain(evidence, setting, "full"))
    ]  # fmt: skip
    plot = _plot(f"pairs_{data}", f"What a correction reaches: {data}", "images encoded anew to fit it",
                 "share of the full backfill's gain", series)  # fmt: skip
    return plot | {"x_scale": "log"}


def _backfill_plot(evidence: Evidence, data: str, settings: Sequence[str]) -> Row:
    percents = [round(100 * share) for share in SHARES]
    series = [
        _series(evidence, (f"{setting}/{BACKFILL}", BACKFILL), f"{_kind(setting)}, {order}",
                {percent: f"map_{order}_{percent}" for percent in percents})
        for setting in settings for order in ORDERS
    ]  # fmt: skip
    return _plot(f"backfill_{data}", f"Backfill of a corrected gallery, by order: {data}", "% encoded anew",
                 "mAP, fused answer", series)  # fmt: skip


def _kind(setting: str) -> str:
    return setting.split("/")[2]


def _series(evidence: Evidence, of: tuple[str, str], title: str, metrics: Mapping[Any, str]) -> Row:
    """of: setting and name. A metric per place, those that no row has left out; bounds: of all seeds."""
    setting, name = of
    found = {
        place: list(evidence.values(setting=setting, name=name, metric=metric).values())
        for place, metric in metrics.items()
    }
    kept = {place: values for place, values in found.items() if values}
    return {
        "name": title, "x": list(kept), "y": [float(np.mean(values)) for values in kept.values()],
        "low": [min(values) for values in kept.values()], "high": [max(values) for values in kept.values()],
    }  # fmt: skip


def _plot(file: str, title: str, x_label: str, y_label: str, series: Sequence[Row]) -> Row:
    return {
        "file": f"corrector_{file}.png", "title": title, "kind": "line", "x_label": x_label, "y_label": y_label,
        "series": [one for one in series if one["x"]],
    }  # fmt: skip
