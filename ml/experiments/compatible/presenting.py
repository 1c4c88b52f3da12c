"""How the experiment is shown on docs/results.md."""

from typing import Any

from ml.experiments.compatible.backfill_presenting import backfill_plots, backfill_tables
from ml.experiments.compatible.plots import plots_of
from ml.experiments.compatible.prose import ABOUT, CHOICES, FINDINGS
from ml.experiments.compatible.tables import tables_of
from ml.experiments.evidence import Evidence
from ml.experiments.opening import opening

COLUMNS = ["self_map", "cross_map", "self_recall_at_1", "cross_recall_at_1", "gain", "p_1", "negative_flips"]
PARTS = (
    "more-data",
    "grocery/",
    "end-to-end/union",
    "end-to-end/grocery",
    "chain",
    "fashion_mnist/",
)  # beginnings of settings that a whole run has


def present(evidence: Evidence) -> dict[str, Any]:
    """Further keys of the result file."""
    tables = [
        *tables_of(evidence),
        *backfill_tables(evidence),
        {"title": "How settings were chosen", "rows": CHOICES},
    ]
    plots = [*plots_of(evidence), *backfill_plots(evidence)]
    return {
        "title": "Backward-compatible training (C8, C9 and C10)",
        "about": opening(evidence, PARTS, FINDINGS) + ABOUT,
        "tables": [table for table in tables if table["rows"]],
        "columns": COLUMNS,
        "plots": [plot for plot in plots if plot["series"]],
    }
