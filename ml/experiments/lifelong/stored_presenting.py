"""How what stored codes lose by themselves is shown on docs/results.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ml.experiments.evidence import Evidence
from ml.experiments.lifelong.shift_rules import LOSS_LIMIT, cut
from ml.experiments.lifelong.stored_drift import CONFUSED, CROWDED, MOVED

Row = dict[str, Any]
MOVED_NOTE = (
    "A share of the entries had another label when their codes were solved, the one most like theirs or any, and has "
    "the right one now; means over seeds. `similarity lost`: by how much code similarity between an entry's codeword "
    "and that of its label is below 1, mean over all entries. New codes are due when more than a point of mean average "
    "precision is lost by the lower bound; the threshold judges the fewest rows wrongly, and is tested on rows whose "
    "labels were confused otherwise."
)
CROWDED_NOTE = (
    "After each increment, by code length: the smallest and the mean Hamming distance of two codewords over what their "
    "labels ask for, the nearest two in bits, and the points of mean average precision that retraining everything at "
    "the same length finds more, with bounds. No threshold can be told where new codes find no more."
)


def stored_tables(evidence: Evidence) -> list[Row]:
    """Labels that moved with the threshold, and crowding; none without rows."""
    tables = []
    for setting in dict.fromkeys(str(row["setting"]) for row in evidence.rows):
        place, _, study = setting.rpartition("/")
        if f"/{study}" == MOVED:
            moved = [row for row in evidence.rows if row["setting"] == setting]
            tables += [
                {"title": f"Labels that moved away from their codes: {place}", "note": MOVED_NOTE,
                 "rows": _moved(moved)},
                {"title": f"From where on moved labels call for new codes: {place}", "rows": _rules(moved)},
            ]  # fmt: skip
        elif f"/{study}" == CROWDED:
            rows = [row for row in evidence.rows if row["setting"] == setting]
            tables.append(
                {"title": f"Codewords that crowd: {place}", "note": CROWDED_NOTE, "rows": _crowded(rows)}
            )
    return tables


def _moved(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        found.append({
            "relabelled": name, "similarity lost": _mean(own, "lost"), "mAP": 100 * _mean(own, "map_best"),
            "lost": 100 * _mean(own, "loss"), "bounds": [100 * _mean(own, f"loss_{end}") for end in ("low", "high")],
        })  # fmt: skip
    return found


def _rules(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The threshold of all rows, and of each way of confusing labels, tested on the other."""
    found = []
    for chosen in ("both", *CONFUSED):
        on = [row for row in rows if chosen in {"both", _way(row)}]
        off = [row for row in rows if chosen != _way(row)]
        threshold = cut([row["lost"] for row in on], [_costs(row) for row in on])
        wrong = sum(
            _costs(row) != (threshold.value is not None and row["lost"] >= threshold.value) for row in off
        )
        found.append({
            "chosen on": chosen, "new codes from": threshold.value, "rows": threshold.rows,
            "judged wrongly": threshold.wrong, "rows tested": len(off), "of these wrongly": wrong,
        })  # fmt: skip
    return found


def _way(row: Mapping[str, Any]) -> str:
    return str(row["name"]).rpartition(" ")[2]


def _costs(row: Mapping[str, Any]) -> bool:
    return bool(row["loss_low"] > LOSS_LIMIT)


def _crowded(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [_crowded_after(row, step) for row in rows for step in _steps(row)]


def _steps(row: Mapping[str, Any]) -> list[int]:
    return sorted(int(key.rpartition("_")[2]) for key in row if key.startswith("smallest_"))


def _crowded_after(row: Mapping[str, Any], step: int) -> Row:
    return {
        "codes": row["name"], "seed": row["seed"], "increment": step, "smallest": row[f"smallest_{step}"],
        "mean": row[f"mean_{step}"], "nearest": row[f"nearest_{step}"], "mAP": 100 * row[f"map_{step}"],
        "retraining finds more": 100 * row[f"loss_{step}"],
        "bounds": [100 * row[f"loss_{end}_{step}"] for end in ("low", "high")],
    }  # fmt: skip


def _mean(rows: Sequence[Mapping[str, Any]], metric: str) -> float:
    return float(np.mean([row[metric] for row in rows]))
