"""How planted shifts are shown on docs/results.md: what each costs, what remedies leave of it, and the rule's test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.experiments.evidence import Evidence
from ml.experiments.lifelong.shift_rules import Cuts, Remedied, Tested, cuts_of, judged, judged_on_others
from ml.experiments.lifelong.shift_study import SUFFIX, UNSHIFTED
from ml.experiments.lifelong.shift_trunks import TRUNK_MARK, TRUNK_STEPS
from ml.methods.lifelong.shift_alarm import Alarm

Row = dict[str, Any]
SHIFT_COLUMNS = ["statistic", "chance", "fire_rate", "map_unshifted", "map_no_action", "map_increment", "map_refit",
                 "map_new_trunk"]  # fmt: skip
RULE_REMEDY = "increment"  # what the rule calls a partial one: it needs no stored feature
REMEDIES = (RULE_REMEDY, "refit")
NOTE = (
    "Photos of base classes among the entries stored before, in codes from the network; points of mean average "
    "precision lost to photos as they are, means over seeds (new trunk: one), bounds over items. `displaced` is the "
    "alarm's statistic on all test photos, `chance` what it must exceed to fire, `few fire` the share of batches of 32 "
    "photos that raise it. Then the camera's validation photos arrive as new items: `increment` learns them beside "
    "what memory keeps, `refit` beside all old features, both without touching trunk and stored codes; `new trunk` "
    f"goes on training the trunk with them for {TRUNK_STEPS} steps and codes everything anew. What a remedy leaves "
    "lost is counted to the same remedy after the same photos arrived unshifted: what more photos and more training "
    "give (the first row shows it, a gain being negative) cures no shift. `spoils`: what photos as they are lose by "
    "the increment."
)
RULE_NOTE = (
    "A shift calls for a remedy when no action loses more than a point by the lower bound, and for a new trunk when "
    f"what `{RULE_REMEDY}` gives back is less than half of what the new trunk does, and a point less. Thresholds judge "
    "the fewest shifts wrongly; then each kind is judged by thresholds chosen on the other kinds, and each data set by "
    "those of the other. Nothing is due while the alarm has not fired. Few shifts call for a new trunk, so `full from` "
    "is little more than where the largest lies."
)


def shift_tables(evidence: Evidence) -> list[Row]:
    """Shifts of each chain, and the rule; none without rows."""
    seen = _shown(evidence)
    tables = [{"title": f"A planted shift: {one.place}", "note": NOTE, "rows": one.table()} for one in seen]
    return (
        [*tables, {"title": "When a remedy is due", "note": RULE_NOTE, "rows": _rules(seen)}] if seen else []
    )


def shift_plots(evidence: Evidence) -> list[Row]:
    """Displacement against what no action loses, a mark per kind."""
    return [one.plot() for one in _shown(evidence)]


def _shown(evidence: Evidence) -> list["Shown"]:
    settings = dict.fromkeys(str(row["setting"]) for row in evidence.rows)
    return [Shown(evidence, setting) for setting in settings if setting.endswith(SUFFIX)]


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting's rows."""

    evidence: Evidence
    setting: str

    @property
    def place(self) -> str:
        return self.setting.removesuffix(SUFFIX)

    @property
    def names(self) -> list[str]:
        """Of the shifts, photos as they are first."""
        found = dict.fromkeys(
            str(row["name"]) for row in self.evidence.rows if row["setting"] == self.setting
        )
        return [name for name in found if not name.endswith(TRUNK_MARK)]

    def mean(self, name: str, metric: str) -> float | None:
        """Over seeds."""
        found = list(self.evidence.values(setting=self.setting, name=name, metric=metric).values())
        return float(np.mean(found)) if found else None

    def left(self, name: str, remedy: str) -> float | None:
        """Mean average precision that is still lost after a remedy, to the same after photos that arrived unshifted."""
        mark = TRUNK_MARK if remedy == "new_trunk" else ""
        shown, control = (self.mean(f"{one}{mark}", f"map_{remedy}") for one in (name, UNSHIFTED))
        return None if shown is None or control is None else control - shown

    def gain(self, remedy: str) -> float | None:
        """What the remedy gives where nothing is shifted, as a loss."""
        return self.mean(f"{UNSHIFTED}{TRUNK_MARK if remedy == 'new_trunk' else ''}", f"loss_{remedy}")

    def remedied(self) -> list[Remedied]:
        """As the rule takes them."""
        return [self._remedied(name) for name in self.names]

    def _remedied(self, name: str) -> Remedied:
        def value(metric: str) -> float:
            return self._measured(name, metric)

        alarm = Alarm(
            value("statistic"), value("chance"), round(value("photos")), round(value("photo_items"))
        )
        return Remedied(
            "" if name == UNSHIFTED else name.partition(" ")[0], alarm,
            value("loss_no_action"), value("loss_no_action_low"),
            _given(self.left(name, RULE_REMEDY), name, RULE_REMEDY), self.left(name, "new_trunk"),
        )  # fmt: skip

    def _measured(self, name: str, metric: str) -> float:
        return _given(self.mean(name, metric), name, metric)

    def table(self) -> list[Row]:
        """One row per shift."""
        rows = []
        for name, found in zip(self.names, self.remedied()):
            bounds = [_points(self.mean(name, f"loss_no_action{end}")) for end in ("_low", "_high")]
            is_plain = name == UNSHIFTED
            lost = {
                f"after {remedy.replace('_', ' ')}":
                    _points(self.gain(remedy) if is_plain else self.left(name, remedy))
                for remedy in (*REMEDIES, "new_trunk")
            }  # fmt: skip
            rows.append({
                "shift": name, "displaced": found.alarm.statistic, "chance": found.alarm.high,
                "fires": found.alarm.has_fired, "few fire": self.mean(name, "fire_rate"),
                "mAP": _points(self.mean(name, "map_no_action")), "lost": _points(found.loss), "bounds": bounds,
                **lost, "spoils": _points(self.mean(name, f"loss_unshifted_{RULE_REMEDY}")),
            })  # fmt: skip
        return rows

    def plot(self) -> Row:
        """For benchmarks/plots.py."""
        rows = list(zip(self.names, self.remedied()))
        series = []
        for kind in dict.fromkeys(row.kind for _, row in rows):
            own = [(name, row) for name, row in rows if row.kind == kind]
            series.append({
                "name": kind or UNSHIFTED, "x": [row.alarm.statistic for _, row in own],
                "y": [100 * row.loss for _, row in own],
                **{end: [100 * self._measured(name, f"loss_no_action_{end}") for name, _ in own]
                   for end in ("low", "high")},
            })  # fmt: skip
        return {
            "file": f"lifelong_shift_{self.place.split(',')[0]}.png", "kind": "scatter", "series": series,
            "title": f"A planted shift, nothing done about it: {self.place}",
            "x_label": "displacement of photos, standard deviations within label sets",
            "y_label": "points of mAP lost",
        }  # fmt: skip


def _given(value: float | None, name: str, metric: str) -> float:
    """What was measured; nothing else may stand in for it."""
    if value is None:
        raise ValueError(f"the row {name!r} has no {metric}")
    return value


def _rules(seen: Sequence[Shown]) -> list[Row]:
    """Thresholds of each chain on its own shifts, then judged where they were not chosen."""
    rows = []
    for one in seen:
        found = one.remedied()
        cuts = cuts_of(found)
        rows.append(_rule(one.place, "every kind", judged("the same", cuts, found)))
        rows += [_rule(one.place, "the other kinds", one_kind) for one_kind in judged_on_others(found)]
        for other in seen:
            if other is not one:
                rows.append(_rule(one.place, "every kind", judged(other.place, cuts, other.remedied())))
    return rows


def _rule(place: str, chosen_on: str, found: Tested) -> Row:
    cuts: Cuts = found.cuts
    return {
        "chosen on": f"{place}, {chosen_on}", "partial from": cuts.partial.value, "full from": cuts.full.value,
        "tested on": found.where, "shifts": found.rows, "judged wrongly": found.wrong,
        "with a new trunk": found.trunk_rows, "of these wrongly": found.wrong_trunks,
    }  # fmt: skip


def _points(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)
