"""How the fine-tunings are shown on docs/results.md."""

from typing import Any

from ml.experiments.corrector.training_arms import OURS, PERIODIC, PLAIN, STALE
from ml.experiments.evidence import Evidence

TRAINING_COLUMNS = [
    "recall_at_1", "recall_at_1_view", "recall_at_1_exported", "recall_at_1_stale", "recall_at_1_base", "overlap",
    "overlap_stale", "gap_closed", "total_variation", "total_variation_stale", "divergence", "staleness",
    "probe_ratio", "extra_encodes", "trained_encodes", "training_seconds", "fallen_back",
]  # fmt: skip


def training_plots(evidence: Evidence) -> list[dict[str, Any]]:
    """What each way of choosing sees of the catalogue that all of them run on, against what it encodes for that."""
    settings = _settings(evidence)
    if not settings:
        return []
    own = _series(evidence, settings[0])
    return [
        {
            "file": "corrector_training.png", "title": f"Negatives chosen as by fresh embeddings: {own['name']}",
            "kind": "scatter", "x_label": "catalogue images encoded beyond what the loss needs (0 stands at 1)",
            "x_scale": "log", "y_label": "share of the fresh choice (overlap at 8)", "series": [own],
        }
    ]  # fmt: skip


def training_tables(evidence: Evidence) -> list[dict[str, Any]]:
    """What re-embedding costs beside correcting, at every size of catalogue."""
    rows = []
    for setting in _settings(evidence):
        ours, theirs = (_mean(evidence, setting, name, "extra_encodes") for name in (OURS, PERIODIC))
        if ours and theirs is not None:
            rows.append(
                {
                    "catalogue": setting.removeprefix("training/"),
                    "items": int(_mean(evidence, setting, OURS, "items") or 0),
                    "encoded for the loss": round(_mean(evidence, setting, OURS, "trained_encodes") or 0),
                    "encoded by us": round(ours),
                    "re-embedding 20 times": round(theirs),
                    "ratio": round(theirs / ours, 1),
                    "our processor seconds": _mean(evidence, setting, OURS, "training_seconds"),
                    "theirs": _mean(evidence, setting, PERIODIC, "training_seconds"),
                    "stale": _mean(evidence, setting, STALE, "training_seconds"),
                }
            )
    note = (
        "What the loss itself encodes is not counted: all that choose from the catalogue need as much (`in batch` a "
        "seventh). The catalogue's first embeddings exist "
        "already and are charged to nobody. Where a catalogue is small, encoding it anew is soon done: at 5,000 items "
        "plain re-embedding is the simpler choice, and an exhaustive one is within reach."
    )
    return [{"title": "Encoding for the choice of negatives", "note": note, "rows": rows}]


def _settings(evidence: Evidence) -> list[str]:
    found = dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == OURS)
    return [setting for setting in found if setting.startswith("training/")]


def _mean(evidence: Evidence, setting: str, name: str, metric: str) -> float | None:
    value = evidence.mean(setting, name, metric)
    return None if value is None else round(value, 4)


def _series(evidence: Evidence, setting: str) -> dict[str, Any]:
    names = [
        name
        for name in dict.fromkeys(str(row["name"]) for row in evidence.rows if row["setting"] == setting)
        if not name.startswith(OURS) or name in {OURS, PLAIN}
    ]
    points = [
        (name, _mean(evidence, setting, name, "extra_encodes"), _mean(evidence, setting, name, "overlap"))
        for name in names
        if "learning rate" not in name and "wrong labels" not in name
    ]
    known = [(name, x, y) for name, x, y in points if x is not None and y is not None]
    return {
        "name": setting.removeprefix("training/"),
        "x": [max(1.0, x) for _, x, _ in known], "y": [y for _, _, y in known],
        "labels": [name for name, _, _ in known],
    }  # fmt: skip
