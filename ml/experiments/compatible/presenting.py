"""How the experiment is shown on docs/results.md."""

from typing import Any

from ml.experiments.compatible.backfill_presenting import backfill_plots, backfill_tables
from ml.experiments.compatible.plots import plots_of
from ml.experiments.compatible.prose import ABOUT, CHOICES, FINDINGS
from ml.experiments.compatible.tables import tables_of
from ml.experiments.evidence import Evidence

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
