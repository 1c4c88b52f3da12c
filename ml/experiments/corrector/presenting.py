"""How the experiment is shown on docs/results.md."""

from typing import Any

from ml.experiments.corrector.base_training import base_training_tables
from ml.experiments.corrector.prose import ABOUT, CHOICES, FINDINGS
from ml.experiments.corrector.serving_presenting import serving_plots, serving_tables
from ml.experiments.corrector.shocks import shock_tables
from ml.experiments.corrector.speed_presenting import speed_tables
from ml.experiments.corrector.sweep_presenting import sweep_plots, sweep_tables
from ml.experiments.corrector.training_presenting import TRAINING_COLUMNS, training_plots, training_tables
from ml.experiments.evidence import Evidence

COLUMNS = [*TRAINING_COLUMNS]
PARTS = (
    "training/",
    "serving/",
    "base training/",
    "speed",
    "sweep",
    "shocks",
)  # beginnings of settings that a whole run has


def present(evidence: Evidence) -> dict[str, Any]:
    """Further keys of the result file."""
    tables = [
        *serving_tables(evidence),
        *training_tables(evidence),
        *base_training_tables(evidence),
        *shock_tables(evidence),
        *speed_tables(evidence),
        *sweep_tables(evidence),
        {"title": "How settings were chosen", "rows": CHOICES},
    ]
    plots = [*serving_plots(evidence), *training_plots(evidence), *sweep_plots(evidence)]
    return {
        "title": "Correctors for stale embeddings (C11 and C12)",
        "about": (_what_is_missing(evidence) or _findings()) + ABOUT,
        "tables": [table for table in tables if table["rows"]],
        "columns": COLUMNS,
        "plots": [plot for plot in plots if plot["series"]],
    }


def _what_is_missing(evidence: Evidence) -> str:
    """Said first where a run of less than everything was written down."""
    settings = {str(row["setting"]) for row in evidence.rows}
    missing = [part for part in PARTS if not any(setting.startswith(part) for setting in settings)]
    return f"**Unfinished: nothing of {', '.join(missing)} yet.** " if missing else ""


def _findings() -> str:
    """Said first of a whole run, as a list."""
    return "\n".join(["**What it came to**", "", *(f"- {finding}" for finding in FINDINGS), "", ""])
