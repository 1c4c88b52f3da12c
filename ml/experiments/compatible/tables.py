"""The tables of docs/results.md that stand on rows of encoders."""

from collections.abc import Sequence
from typing import Any

from ml.experiments.compatible.arms import FREE, NDPP, NOISES, ODPP, OLD, OURS, PLAIN
from ml.experiments.compatible.asking import upgrades
from ml.experiments.compatible.chains import SETTING as CHAIN
from ml.experiments.compatible.relevance import NAME as HALF
from ml.experiments.compatible.relevance import SETTING_END
from ml.experiments.compatible.settings import CHAIN as GENERATIONS
from ml.experiments.evidence import Evidence

Row = dict[str, Any]
MAIN = (OLD, FREE, PLAIN, NDPP, ODPP, OURS)
MATRIX_NOTE = (
    "Points, means over seeds, by embeddings. `self`: queries and gallery by the row's encoder; `cross`: its queries "
    "on the old encoder's gallery. `both`, `new`, `old`, `unseen`: cross-test mAP of classes that both encoders "
    "learned, one of them, or nobody. `gain`: share of free training's advantage that cross-test reaches. `P_1`: "
    "AdvBCT's score; 50 loses nothing to free training and is as good as the old system was."
)
STAGES_NOTE = (
    "mAP in points, means over the seeds that measure stages. Codes are held to stored ones by the lifelong "
    "fixed-code loss. `fused` ranks by calibrated probability of relevance, as the product does. `flips`: queries that "
    "the old system answered right at first place and this one wrong, on the live gallery and after a full backfill; "
    "`rNFR`: over what independent errors would give."
)
MIXED_NOTE = (
    "Half of the entries, drawn at random, encoded anew by the candidate, each producer calibrated by itself on the "
    "choosing task. `old`: share of old entries among the ten best answers, `expected`: among the relevant entries."
)


def tables_of(evidence: Evidence) -> list[Row]:
    """Those that have rows."""
    found = [
        {"title": f"Matrix: {titled(setting)}", "note": MATRIX_NOTE, "rows": _matrix(evidence, setting)}
        for setting in upgrades(evidence)
    ]
    found += [
        {"title": "Code stage, embedding stage, fused answer, and flips", "note": STAGES_NOTE,
         "rows": _stages(evidence)},
        {"title": "How crowded it is: self-test gain over prototype-BCT, crowded quarter minus the rest",
         "rows": _crowded(evidence)},
        {"title": "A gallery half of which is encoded anew", "note": MIXED_NOTE, "rows": _mixed(evidence)},
        {"title": "Wrong labels", "rows": _noise(evidence)},
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
    for setting in upgrades(evidence):
        for name in MAIN:
            if evidence.mean(setting, name, "fused_self_map") is None:
                continue

            def points(metric: str, setting: str = setting, name: str = name) -> float | None:
                return _points(evidence, setting, name, metric)

            relative = evidence.mean(setting, name, "relative_flips")
            rows.append({
                "setting": titled(setting), "encoder": name,
                "codes self": points("code_self_map"), "codes cross": points("code_cross_map"),
                "embeddings self": points("self_map"), "embeddings cross": points("cross_map"),
                "fused self": points("fused_self_map"), "fused cross": points("fused_cross_map"),
                "flips": points("negative_flips"), "flips, backfilled": points("negative_flips_backfilled"),
                "rNFR": None if relative is None else round(relative, 2),
            })  # fmt: skip
    return rows


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
    settings = dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == HALF)
    return [
        {
            "setting": titled(setting.removesuffix(SETTING_END)), "old": _points(evidence, setting, HALF, "old_share"),
            "expected": _points(evidence, setting, HALF, "expected_share"),
            "mAP": _points(evidence, setting, HALF, "mixed_map"),
            "mAP, old gallery": _points(evidence, setting.removesuffix(SETTING_END), NDPP, "fused_cross_map"),
            "mAP, all encoded anew": _points(evidence, setting.removesuffix(SETTING_END), NDPP, "fused_self_map"),
        }
        for setting in settings
    ]  # fmt: skip


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
