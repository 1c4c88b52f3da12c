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
from ml.experiments.opening import opening

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
        "about": opening(evidence, PARTS, FINDINGS) + ABOUT,
        "tables": [table for table in tables if table["rows"]],
        "columns": COLUMNS,
        "plots": [plot for plot in plots if plot["series"]],
    }
