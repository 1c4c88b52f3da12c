"""The tables of docs/results.md that stand on rows of encoders."""

import math
from collections.abc import Sequence
from typing import Any

from ml.experiments.claims import Side
from ml.experiments.compatible.arms import FREE, NDPP, NOISES, ODPP, OLD, OURS, PLAIN
from ml.experiments.compatible.asking import common_means, upgrades
from ml.experiments.compatible.chains import SETTING as CHAIN
from ml.experiments.compatible.relevance import NAME as HALF
from ml.experiments.compatible.relevance import SETTING_END
from ml.experiments.compatible.settings import CHAIN as GENERATIONS
from ml.experiments.evidence import Evidence

Row = dict[str, Any]
MAIN = (OLD, FREE, PLAIN, NDPP, ODPP, OURS)
TENTH = 0.1  # of what is expected: how far the share of old entries may be from it
MATRIX_NOTE = (
    "Points, means over seeds, by embeddings. `self`: queries and gallery by the row's encoder; `cross`: its queries "
    "on the old encoder's gallery. `both`, `new`, `old`, `unseen`: cross-test mAP of classes that both encoders "
    "learned, one of them, or nobody. `gain`: share of free training's advantage that cross-test reaches. `P_1`: "
    "AdvBCT's score; 50 loses nothing to free training and is as good as the old system was."
)
STAGES_NOTE = (
    "mAP in points, means over the seeds in which stages are measured. Codes are held to stored ones by the lifelong "
    "fixed-code loss. `fused` ranks by calibrated probability of relevance, as the product does. `flips`: queries that "
    "the old system answered right at first place and this one wrong, on the live gallery and after a full backfill; "
    "`rNFR`: over what independent errors would give."
)
CROWDED_NOTE = (
    "Points of self-test mAP over prototype-BCT: queries of the quarter of classes whose old prototypes stand closest "
    "to another, minus those of the other classes. Classes that the old encoder never learned have prototypes too."
)
MIXED_NOTE = (
    "Half of the entries, drawn at random, encoded anew by the `ndpp` candidate; old entries are calibrated level with "
    "new ones on the choosing task. `old`: share of old entries among the ten best answers, `expected`: among the "
    "relevant entries; `within a tenth`: of what is expected. mAP of 600 queries, by pools as in the product."
)
NOISE_NOTE = (
    "Points, one seed where labels are wrong. A share of the labels of all training images is another class's: in the "
    "classifier, the prototypes and the held codes of every new training. The trunks, shared by all, and the old "
    "system learned from true ones."
)
CHOOSING_NOTE = (
    "Points on the queries and classes that settings are chosen by, means over common seeds: whether the variant of "
    "our own beats both forms of the paper."
)


def tables_of(evidence: Evidence) -> list[Row]:
    """Those that have rows."""
    found = [
        {"title": f"Matrix: {titled(setting)}", "note": MATRIX_NOTE, "rows": _matrix(evidence, setting)}
        for setting in [*upgrades(evidence), *_plausibility(evidence)]
    ]
    found += [
        {"title": "Code stage, embedding stage, fused answer, and flips", "note": STAGES_NOTE,
         "rows": _stages(evidence)},
        {"title": "On validation queries", "note": CHOOSING_NOTE, "rows": _choosing(evidence)},
        {"title": "Where it is crowded: gain over prototype-BCT, crowded quarter minus the rest",
         "note": CROWDED_NOTE, "rows": _crowded(evidence)},
        {"title": "A gallery half of which is encoded anew", "note": MIXED_NOTE, "rows": _mixed(evidence)},
        {"title": "Wrong labels", "note": NOISE_NOTE, "rows": _noise(evidence)},
        {"title": "Four generations in a chain, all of them in the gallery", "rows": _chain(evidence)},
    ]  # fmt: skip
    return [table for table in found if table["rows"]]


def titled(setting: str) -> str:
    """A setting in words."""
    data, _, name = setting.rpartition("/")
    return f"{data or 'union'}, {name.replace('-', ' ')}" if data != "end-to-end" else f"{name}, end to end"


def _points(evidence: Evidence, setting: str, name: str, metric: str) -> float | None:
    value = evidence.mean(setting, name, metric)
    return None if value is None else round(100 * value, 1)


def _matrix(evidence: Evidence, setting: str) -> list[Row]:
    rows = []
    for name in dict.fromkeys(
        [*MAIN, *(str(row["name"]) for row in evidence.rows if row["setting"] == setting)]
    ):
        found = evidence.values(setting=setting, name=name, metric="self_map")
        if not found:
            continue

        def points(metric: str, name: str = name) -> float | None:
            return _points(evidence, setting, name, metric)

        gain, score = evidence.mean(setting, name, "gain"), points("p_1")
        rows.append({
            "encoder": name, "seeds": len(found), "self": points("self_map"), "cross": points("cross_map"),
            "self R@1": points("self_recall_at_1"), "cross R@1": points("cross_recall_at_1"),
            **{kind: points(f"cross_map_{kind}") for kind in ("both", "new", "old", "unseen")},
            "gain": None if gain is None else round(gain, 2), "P_1": score,
        })  # fmt: skip
    return [_without_empty(row, rows) for row in rows]


def _without_empty(row: Row, rows: Sequence[Row]) -> Row:
    """Without columns that no row has."""
    return {key: value for key, value in row.items() if any(other.get(key) is not None for other in rows)}


def _stages(evidence: Evidence) -> list[Row]:
    rows = []
    columns = {
        "codes self": "code_self_map", "codes cross": "code_cross_map", "embeddings self": "self_map",
        "embeddings cross": "cross_map", "fused self": "fused_self_map", "fused cross": "fused_cross_map",
        "flips": "negative_flips", "flips, backfilled": "negative_flips_backfilled",
    }  # fmt: skip
    for setting in upgrades(evidence):
        for name in MAIN:
            if evidence.mean(setting, name, "fused_self_map") is None:
                continue
            row: Row = {"setting": titled(setting), "encoder": name}
            for title, metric in columns.items():
                both = common_means(evidence, setting, [Side(name, "fused_self_map"), Side(name, metric)])
                row[title] = None if math.isnan(both[1]) else round(100 * both[1], 1)
            relative = evidence.mean(setting, name, "relative_flips")
            rows.append(row | {"rNFR": None if relative is None else round(relative, 2)})
    return rows


def _choosing(evidence: Evidence) -> list[Row]:
    rows = []
    names = (PLAIN, NDPP, ODPP, OURS)
    for setting in upgrades(evidence):
        row: Row = {"setting": titled(setting)}
        for kind in ("self", "cross"):
            means = common_means(evidence, setting, [Side(name, f"choosing_{kind}_map") for name in names])
            row |= {
                f"{name} {kind}": None if math.isnan(mean) else round(100 * mean, 1)
                for name, mean in zip(names, means)
            }
        rows.append(row)
    return rows


def _plausibility(evidence: Evidence) -> list[str]:
    """Settings on digits: ten classes are no crowd."""
    found = dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == FREE)
    return [name for name in found if "mnist" in name]


def _crowded(evidence: Evidence) -> list[Row]:
    rows = []
    for setting in upgrades(evidence):
        plain = _points(evidence, setting, PLAIN, "crowded_contrast")
        nearest = evidence.mean(setting, OLD, "nearest_cosine")
        row: Row = {
            "setting": titled(setting),
            "cosine to nearest prototype": None if nearest is None else round(nearest, 2),
        }
        for name in (NDPP, ODPP, OURS):
            own = _points(evidence, setting, name, "crowded_contrast")
            row[name] = None if own is None or plain is None else round(own - plain, 2)
            degrees = evidence.mean(setting, name, "perturbed_degrees")
            row[f"{name}, degrees"] = None if degrees is None else round(degrees, 1)
        rows.append(row)
    return rows


def _mixed(evidence: Evidence) -> list[Row]:
    rows = []
    for setting in dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == HALF):
        sides = [
            Side(HALF, metric) for metric in ("old_share", "expected_share", "mixed_map", "mixed_recall_at_1")
        ]
        old, expected, quality, first = common_means(evidence, setting, sides)
        rows.append({
            "setting": titled(setting.removesuffix(SETTING_END)),
            "old": round(100 * old, 1), "expected": round(100 * expected, 1),
            "within a tenth": "yes" if abs(old - expected) <= TENTH * expected else "no",
            "mAP": round(100 * quality, 1), "R@1": round(100 * first, 1),
        })  # fmt: skip
    return rows


def _noise(evidence: Evidence) -> list[Row]:
    rows = []
    for setting in upgrades(evidence):
        for share in (0.0, *NOISES):
            noisy = f"{setting}, {share:.0%} wrong labels" if share else setting
            if not any(row["setting"] == f"{setting}, {NOISES[0]:.0%} wrong labels" for row in evidence.rows):
                continue
            row: Row = {"setting": titled(setting), "wrong labels": f"{share:.0%}"}
            for name in (FREE, PLAIN, NDPP, ODPP):
                row |= {f"{name} self": _points(evidence, noisy, name, "self_map")}
                if name != FREE:
                    row |= {f"{name} cross": _points(evidence, noisy, name, "cross_map")}
            rows.append(row)
    return rows


def _chain(evidence: Evidence) -> list[Row]:
    rows = []
    for name in (PLAIN, NDPP, ODPP):
        for new in range(len(GENERATIONS)):
            own = {f"on {old}": _points(evidence, CHAIN, name, f"map_{new}_{old}") for old in range(new + 1)}
            if any(value is not None for value in own.values()):
                rows.append({
                    "arm": name, "queries of": f"{new}: {GENERATIONS[new].title}", **own,
                    "mixed": _points(evidence, CHAIN, name, f"map_{new}_mixed"),
                })  # fmt: skip
    return rows
