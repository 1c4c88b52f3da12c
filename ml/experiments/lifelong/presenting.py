"""How the experiment is shown on docs/results.md; solved codes and network codes never share a table."""

from typing import Any

import numpy as np

from ml.experiments.evidence import Evidence
from ml.experiments.lifelong.arms import CLAIMED_SEEDS, SHIPPED, STORES
from ml.experiments.lifelong.growth_presenting import growth_plots, growth_tables
from ml.experiments.lifelong.shift_presenting import SHIFT_COLUMNS, shift_plots, shift_tables
from ml.experiments.lifelong.stored_presenting import stored_tables
from ml.experiments.lifelong.timing import LENGTHS, MODES

ABOUT = (
    "Classes learned one group after another over one frozen trunk per data set (compact, 64 pixels, trained on the "
    "base classes alone); seeds vary heads, replay and codes. Two database settings, never in one table: `codes solved "
    "with labels` leak the labels into the gallery, `codes from the network` do not; their numbers do not compare. "
    "`map` is the mean average precision over the full ranking by Hamming distance, tie-aware, photos asking photos; "
    "`words_map` names and texts of classes asking photos, `to_words_map` photos asking one text per class (1 / rank). "
    "`_old` are queries of base classes, `_new` of all classes learned since, all among everything stored. "
    "`old_map_before_k` and `_after_k` ask the entries that increment k found there, by the heads before and after it. "
    "`fused_` is the product's two-stage answer, in which entries of a new category are provisional before. Texts of "
    "classes were heard in training: only the products of `words/` settings are unseen. The queries are test photos, "
    "new classes are the reserved ones, the validation classes and two more of grocery; settings were chosen on "
    "validation photos of the validation classes (below). Full retraining replaces every stored code."
)
FINDINGS = (
    "**What it came to.** No stored code ever changed. An update finds new classes about as well as retraining "
    "everything does, on the union better with codes from the network, in an eighth of the time where retraining "
    "takes over a minute; a step costs the same beside a million stored codes as beside ten thousand. Old queries "
    "lose little in any one increment, but on grocery the base classes have lost more than the two points that C6b "
    "allows after ten, and after four already: full retraining, which may change every code, loses nearly as much "
    "(`base_map_after`), for new classes that look like old ones draw their queries away; mode `analytic` stays "
    "within two points and learns new classes least, their words hardly at all. Heads that are not held to stored "
    "codes lose nearly all old queries; heads trained on new data alone learn nothing at the rate that spares the "
    "old. Full replay, or every real feature kept, is no better than Gaussians: what forgets is not the memory. Of "
    "the parts, the own-code loss and the share of old in replay matter; refit, balance, alignment, code step and "
    "clean targets change less than a point on grocery (one seed); the likelihood form collapses, for pairs without "
    "a common label outnumber the others fifty to one. Words: the text head finds photos whose own text lacks the "
    "words, and its fusion with BM25 beats BM25 there and over all; photos asking texts gain little from fusion. A "
    "cell of C6f that does not hold has a large gain and few new queries. The alarm, set from validation photos, "
    "fires on the union's unshifted test photos, which differ a little from them: its statistic says how far, and "
    "the measured thresholds decide. "
)
COLUMNS = [
    "map_all", "map_old", "map_new", "base_map_before", "base_map_after", "words_map_all", "words_map_new",
    "to_words_map_all", "to_words_map_new", "training_seconds", "old_codes_changed", "distance_ratio", "bit_entropy",
    "distinct_codes", "map_words", "map_lacking", "map_text", "map_text_category", "weight", "queries_lacking",
    *SHIFT_COLUMNS, "lost", "loss",
]  # fmt: skip
CLAIMED = ("grocery", "union", "fashion_mnist", "words")  # places that a whole run shows
CURVES = (SHIPPED, "analytic", "full retraining", "no update")
CHANGED = ("map_all", "map_old", "map_new", "words_map_all", "training_seconds")
CHOICES = [
    {
        "setting": "updates: 6 rounds of 2 epochs and 3 more, rate 0.003, batch 64, at most 12 old features replayed "
        "to a new one, no refit",
        "chosen by": "some sixty trials on the chains of validation classes, learned 1, 2, 4 or 8 at a time (grocery: "
        "146 queries, union: 473; two or three seeds each): 3 to 8 rounds, rates 0.0003 to 0.004, batch 32 to 128, 8, "
        "12, 16 or all old features to a new one, one Gaussian or five, refit or none, ridges 1 to 300. All but the "
        "last dozen saw features of a trunk that was read back with other pixel statistics than its own, weaker ones.",
    },
    {
        "setting": "from scratch: 8 rounds, rate 0.004, batch 64; hidden width 512; ridge 3, rarity exponent 0.5",
        "chosen by": "some forty trials on the same chains and the same weaker features: widths 256 to 1,024, rates "
        "0.001 to 0.008, ridges 3 to 1,000, exponents 0, 0.5 and 1.",
    },
    {
        "setting": "words are taught the majority code of the items that carry them",
        "chosen by": "82 queries of words on photos of 16 catalogue products held out for validation, among a dozen "
        "forms (signs of label similarity, ridge on hashed words, wider layers, tag weights, more buckets)",
    },
    {
        "setting": "ancestors count 0.3 and tags 0.1 beside the class",
        "chosen by": "mAP of a base generation among three schemes. This one look was at the 49 base classes' test "
        "queries of grocery, before the chains of validation classes were in use.",
    },
    {"setting": "3 seeds of rivals, 1 of ablations", "chosen by": "the time there was"},
]


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
        "about": (_what_is_missing(evidence) or FINDINGS) + ABOUT,
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


def _mean(evidence: Evidence, setting: str, name: str, metric: str) -> float | None:
    found = list(evidence.values(setting=setting, name=name, metric=metric).values())
    return float(np.mean(found)) if found else None


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
        value = _mean(evidence, setting, name, f"{metric}_{step}")
        return None if value is None else round(100 * value, 1)

    before, after = (points(f"old_map_{side}") or 0.0 for side in ("before", "after"))
    seconds = _mean(evidence, setting, name, f"training_seconds_{step}")
    return {
        "arm": name, "increment": step, "old queries lose": round(before - after, 1), "all": points("map_all"),
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
    before, after = (_mean(evidence, setting, name, f"base_map_{side}") for side in ("before", "after"))
    return None if before is None or after is None else before - after


def _seconds(evidence: Evidence) -> list[dict[str, Any]]:
    """What the timing runs measured, mean over seeds."""
    rows = []
    for setting in _settings(evidence):
        if "timing" not in _names(evidence, setting):
            continue
        for name in (*(f"full_{rounds}" for rounds in LENGTHS), *MODES):
            values = {
                title: _mean(evidence, setting, "timing", f"{name}_{metric}")
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
            values = [_mean(evidence, setting, name, f"map_{kind}_{step}") for step in steps]
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
            "title": "Validation over time: full retraining on all classes, an update on its new ones",
            "kind": "line", "x_label": "seconds", "x_scale": "log", "y_label": "minus pair loss of held-out photos",
            "series": series,
        })  # fmt: skip
    return plots
