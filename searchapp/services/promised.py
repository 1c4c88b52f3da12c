"""What a verdict promised of a version: the cell of its matrix that holds once the version serves."""

from collections.abc import Mapping
from typing import Any

from searchapp.models import ModelVersion, Verdict

ADDED = "added_by_candidate"
_LEFT_OUT = ("query_version", "gallery_state", "change")


def promised_cell(version: ModelVersion, against: ModelVersion) -> dict[str, Any]:
    """{map, map_low, map_high, recall_at_1, …, n, held_out, state} of the newest verdict; {} without one."""
    verdict = Verdict.objects.filter(version=version, against=against).first()
    if verdict is None:
        return {}
    state = verdict.report.get("state", "stored")
    cell = _cell(verdict, version.name, state)
    return {} if cell is None else {**cell, "state": state, "held_out": verdict.held_out}


def way_back_cell(version: ModelVersion, target: ModelVersion) -> dict[str, Any] | None:
    """How `target` finds items that were added under `version`, as measured before it was put in use."""
    verdict = Verdict.objects.filter(version=version, against=target).first()
    return None if verdict is None else _cell(verdict, target.name, ADDED)


def _cell(verdict: Verdict, query_version: str, state: str) -> dict[str, Any] | None:
    rows: list[Mapping[str, Any]] = verdict.report.get("matrix", [])
    for row in rows:
        if (row["query_version"], row["gallery_state"]) == (query_version, state):
            return {name: value for name, value in row.items() if name not in _LEFT_OUT}
    return None
