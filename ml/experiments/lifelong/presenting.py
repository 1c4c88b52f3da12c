"""How the experiment is shown on docs/results.md; solved codes and network codes never share a table."""

from typing import Any

import numpy as np

from ml.experiments.evidence import Evidence
from ml.experiments.lifelong.arms import CLAIMED_SEEDS, SHIPPED, STORES
from ml.experiments.lifelong.growth_presenting import growth_plots, growth_tables
from ml.experiments.lifelong.prose import ABOUT, CHOICES, FINDINGS
from ml.experiments.lifelong.shift_presenting import SHIFT_COLUMNS, shift_plots, shift_tables
from ml.experiments.lifelong.stored_presenting import stored_tables
from ml.experiments.lifelong.timing import LENGTHS, MODES
from ml.experiments.opening import as_list

COLUMNS = [
    "map_all", "map_old", "map_new", "base_map_before", "base_map_after", "words_map_all", "words_map_new",
    "to_words_map_all", "to_words_map_new", "training_seconds", "old_codes_changed", "distance_ratio", "bit_entropy",
    "distinct_codes", "map_words", "map_lacking", "map_text", "map_text_category", "weight", "queries_lacking",
    *SHIFT_COLUMNS, "lost", "loss",
]  # fmt: skip
CLAIMED = ("grocery", "union", "fashion_mnist", "words")  # places that a whole run shows
CURVES = (SHIPPED, "analytic", "full retraining", "no update")
CHANGED = ("map_all", "map_old", "map_new", "words_map_all", "training_seconds")


def present(evidence: Evidence) -> dict[str, Any]:
    """Further keys of the result file."""
    tables = [
        *_each_increment(evidence),
        {"title": "Points lost or won by changing one part", "rows": _changes(evidence)},
        {"title": "Seconds of one update", "rows": _seconds(evidence)},
        *growth_tables(evidence),
        *shift_tables(evidence),
        *stored_tables(evidence),
        {"title": "How settings were chosen", "rows": CHOICES},
    ]
    settings = [setting for setting in _settings(evidence) if SHIPPED in _names(evidence, setting)]
    plots = [_over_increments(evidence, setting) for setting in settings if "increments" in setting]
    plots += [*_validation_curves(evidence), *growth_plots(evidence), *shift_plots(evidence)]
    return {
        "title": "Lifelong cross-modal hashing (C6a to C6g)",
        "about": (_what_is_missing(evidence) or as_list(FINDINGS)) + ABOUT,
        "tables": [table for table in tables if table["rows"]],
        "columns": COLUMNS,
        "plots": [plot for plot in plots if plot["series"]],
    }


def _what_is_missing(evidence: Evidence) -> str:
    """Said first where a run of less than everything was written down."""
    seeds = len({row["seed"] for row in evidence.rows if row["name"] == SHIPPED})
    places = [place for place in CLAIMED if not any(one.startswith(place) for one in _settings(evidence))]
    if seeds >= CLAIMED_SEEDS and not places:
        return ""
    missing = f"; nothing of {', '.join(places)} yet" if places else ""
    return f"**Unfinished: {seeds} of {CLAIMED_SEEDS} seeds{missing}; its claims are not decided.** "


def _settings(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(str(row["setting"]) for row in evidence.rows))


def _names(evidence: Evidence, setting: str) -> list[str]:
    return list(dict.fromkeys(str(row["name"]) for row in evidence.rows if row["setting"] == setting))


def _steps(evidence: Evidence, setting: str, name: str) -> list[int]:
    """Increments after which this arm was asked."""
    keys = {
        str(key) for row in evidence.rows if (row["setting"], row["name"]) == (setting, name) for key in row
    }
    return sorted(int(key.rsplit("_", 1)[1]) for key in keys if key.startswith("old_map_after_"))


def _each_increment(evidence: Evidence) -> list[dict[str, Any]]:
    """A table per setting: what each increment did to old queries and to the new classes, by arm, in points."""
    tables = []
    for setting in _settings(evidence):
        rows = [
            _increment(evidence, setting, name, step)
            for name in _names(evidence, setting)
            if name in CURVES
            for step in _steps(evidence, setting, name)
        ]
        if rows:
            tables.append({"title": f"Increment by increment: {setting}", "rows": rows})
    return tables


def _increment(evidence: Evidence, setting: str, name: str, step: int) -> dict[str, Any]:
    def points(metric: str) -> float | None:
        value = evidence.mean(setting, name, f"{metric}_{step}")
        return None if value is None else round(100 * value, 1)

    before, after = (points(f"old_map_{side}") for side in ("before", "after"))
    lost = None if before is None or after is None else round(before - after, 1)
    seconds = evidence.mean(setting, name, f"training_seconds_{step}")
    return {
        "arm": name, "increment": step, "old queries lose": lost, "all": points("map_all"),
        "old": points("map_old"), "new": points("map_new"), "fused new before": points("fused_new_before"),
        "fused new after": points("fused_new_after"), "fused old before": points("fused_old_before"),
        "fused old after": points("fused_old_after"), "seconds": seconds,
    }  # fmt: skip


def _changes(evidence: Evidence) -> list[dict[str, Any]]:
    """Each ablation minus the shipped arm, over the seeds both have, in points (seconds: a ratio)."""
    rows = []
    for setting in _settings(evidence):
        for name in _names(evidence, setting):
            if not name.startswith(f"{SHIPPED}, "):
                continue
            found: dict[str, Any] = {"setting": setting, "arm": name}
            for metric in CHANGED:
                own, base = (
                    evidence.values(setting=setting, name=one, metric=metric) for one in (name, SHIPPED)
                )
                pairs = [(own[seed], base[seed]) for seed in own.keys() & base.keys()]
                if pairs and metric == "training_seconds":
                    found["times as long"] = round(float(np.mean([a / b for a, b in pairs])), 2)
                elif pairs:
                    found[metric] = round(100 * float(np.mean([a - b for a, b in pairs])), 1)
            losses = [_loss(evidence, setting, one) for one in (name, SHIPPED)]
            if losses[0] is not None and losses[1] is not None:
                found["base queries lose more"] = round(100 * (losses[0] - losses[1]), 1)
            rows.append(found)
    return rows


def _loss(evidence: Evidence, setting: str, name: str) -> float | None:
    before, after = (evidence.mean(setting, name, f"base_map_{side}") for side in ("before", "after"))
    return None if before is None or after is None else before - after


def _seconds(evidence: Evidence) -> list[dict[str, Any]]:
    """What the timing runs measured, mean over seeds."""
    rows = []
    for setting in _settings(evidence):
        if "timing" not in _names(evidence, setting):
            continue
        for name in (*(f"full_{rounds}" for rounds in LENGTHS), *MODES):
            values = {
                title: evidence.mean(setting, "timing", f"{name}_{metric}")
                for title, metric in (
                    ("seconds", "seconds"), ("epochs", "epochs"), ("mAP, validation photos", "choosing_map"),
                    ("mAP, test photos", "map"),
                )
            }  # fmt: skip
            rows.append(
                {"setting": setting, "training": name.replace("full_", "full retraining, rounds "), **values}
            )
    return rows


def _over_increments(evidence: Evidence, setting: str) -> dict[str, Any]:
    """Old and new queries among everything stored, after each increment."""
    series = []
    for name in CURVES:
        steps = _steps(evidence, setting, name)
        for kind in ("old", "new") if steps else ():
            values = [evidence.mean(setting, name, f"map_{kind}_{step}") for step in steps]
            series.append({"name": f"{name}, {kind}", "x": steps, "y": values})
    place, _, store = setting.partition("/")
    short = next(key for key, title in STORES.items() if title == store)
    return {
        "file": f"lifelong_{place.replace(', ', '_').replace(' ', '_')}_{short}.png",
        "title": f"{place}, {store}",
        "kind": "line", "x_label": "increment", "y_label": "mAP among everything stored", "series": series,
    }  # fmt: skip


def _validation_curves(evidence: Evidence) -> list[dict[str, Any]]:
    """Validation over seconds of the update and of full retraining, first seed."""
    plots = []
    for row in evidence.rows:
        if row["name"] != "timing" or row["seed"] != 0:
            continue
        series = []
        for name in (*(f"full_{rounds}" for rounds in LENGTHS), "feature_gaussian"):
            curve = [float(value) for value in str(row.get(f"{name}_curve", "")).split()]
            each = float(row[f"{name}_seconds"]) / max(1, len(curve))
            series.append(
                {
                    "name": name.replace("_", " "),
                    "x": [each * (place + 1) for place in range(len(curve))],
                    "y": curve,
                }
            )
        plots.append({
            "file": "lifelong_time.png",
            "title": "Validation over time (an update: of its new classes)",
            "kind": "line", "x_label": "seconds", "x_scale": "log", "y_label": "minus pair loss of held-out photos",
            "series": series,
        })  # fmt: skip
    return plots
