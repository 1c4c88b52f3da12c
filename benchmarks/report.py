"""docs/results.md and its plots from docs/results/*.json: the page is never edited by hand.

A benchmark's file (bench_*.json) holds `title`, `about`, `command`, `seed`, `machine` and `tables`; a table has a
`title`, maybe a `note`, and `rows`: flat dictionaries with the same keys. An experiment's file is what
`python -m ml experiment` writes; of its own it may hold `title`, `about`, `tables`, `plots` (benchmarks/plots.py)
and `columns`: the row values to show, in order (default: all).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.plots import draw

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
HEAD = """# Results

Made by `make experiments` and `make bench` from `docs/results/*.json`; do not edit. Timings are medians of
interleaved rounds in one process on a shared machine: trust the ratios within a table, not the milliseconds.
"""
CLAIMS_NOTE = """Ids and targets were fixed before anything was measured. Intervals are 95 %, paired by seed and by
query, items drawn as wholes; cells of one family share the 5 % (Holm), and p is adjusted. `python -m ml experiment
--check docs/results/FILE.json` counts each file's claims again."""
KEYS = ("name", "seed", "setting")


def formatted(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " … ".join(formatted(part) for part in value)
    return str(value)


def table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    heads = [column.replace("_", " ") for column in columns]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(columns)]
    return lines + [
        "| " + " | ".join(formatted(row.get(column)) for column in columns) + " |" for row in rows
    ]


def section(result: dict[str, Any]) -> list[str]:
    """A benchmark's part of the page."""
    lines = [f"## {result['title']}", "", result["about"], ""]
    lines += [f"`{result['command']}` · seed {result['seed']} · {_machine(result)}", ""]
    return lines + _tables(result)


def experiment_section(result: dict[str, Any]) -> list[str]:
    """An experiment's part of the page: claims, plots, rows over seeds, then what it adds."""
    data = result["data"]
    lines = [f"## {result.get('title', result['experiment'])}", ""]
    lines += [result["about"], ""] if result.get("about") else []
    facts = [
        f"`python -m ml experiment {result['experiment']}`",
        f"{data['name']}: {data['images']:,} images, {data['classes']:,} classes",
        f"seeds {', '.join(map(str, result['seeds']))}",
        f"{result['seconds'] / 3600:.1f} h of runs",
        _machine(result),
    ]
    lines += [" · ".join(facts), ""]
    if result["smoke"]:
        lines += ["**A smoke run: it shows that the parts work, and gives no verdict.**", ""]
    if result["claims"]:
        lines += ["**Claims**", "", *table([_claim_row(claim) for claim in result["claims"]]), ""]
        lines += [line for claim in result["claims"] for line in _note(claim)]
    for plot in result.get("plots", []):
        lines += [f"![{plot['title']}](results/{plot['file']})", ""]
    for setting in dict.fromkeys(row["setting"] for row in result["rows"]):
        own = [row for row in result["rows"] if row["setting"] == setting]
        shown = over_seeds(own, result.get("columns"))
        if any(row.keys() - {"name", "seeds"} for row in shown):
            lines += [f"**Rows: {setting}** (mean ± standard deviation over seeds)", "", *table(shown), ""]
    return lines + _tables(result)


def over_seeds(rows: list[dict[str, Any]], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One row per name: how many seeds, and each value's mean ± standard deviation over them."""
    present = list(dict.fromkeys(key for row in rows for key in row if key not in KEYS))
    chosen = present if columns is None else [column for column in columns if column in present]
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        values = {
            column: _spread([row[column] for row in own if row.get(column) is not None]) for column in chosen
        }
        found.append({"name": name, "seeds": len(own), **values})
    return found


def claims_overview(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line per claim id: it holds when all its cells hold, or one where the claim asks for one."""
    cells: dict[tuple[str, str], list[Any]] = {}
    of_one: set[str] = set()
    for result in results:
        for claim in result["claims"]:
            cells.setdefault((claim["id"], claim["statistic"]), []).append(claim["holds"])
            if claim.get("counted", {}).get("needs") == "one":
                of_one.add(claim["id"])
    if not cells:
        return []
    rows = [
        {
            "claim": claim,
            "statistic": f"`{statistic}`",
            "cells": len(verdicts),
            "hold": verdicts.count(True),
            "do not hold": verdicts.count(False),
            "untestable": verdicts.count("untestable"),
            "holds": (any if claim in of_one else all)(verdict is True for verdict in verdicts),
        }
        for (claim, statistic), verdicts in cells.items()
    ]
    return ["## Claims", "", CLAIMS_NOTE, "", *table(rows), ""]


def page(results: Sequence[dict[str, Any]]) -> str:
    """The whole page: experiments first, then benchmarks, each in the order given."""
    experiments = [result for result in results if "experiment" in result]
    lines = [HEAD, *claims_overview(experiments)]
    lines += [line for result in experiments for line in experiment_section(result)]
    lines += [line for result in results if "experiment" not in result for line in section(result)]
    return "\n".join(lines).rstrip() + "\n"


def read_results() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def write_report() -> None:
    results = read_results()
    for result in results:
        for plot in result.get("plots", []):
            draw(plot, RESULTS)
    PAGE.write_text(page(results), encoding="utf-8")


def _machine(result: dict[str, Any]) -> str:
    return ", ".join(f"{key} {formatted(value)}" for key, value in result["machine"].items())


def _tables(result: dict[str, Any]) -> list[str]:
    lines = []
    for part in result.get("tables", []):
        lines += [f"**{part['title']}**", ""]
        lines += [part["note"], ""] if part.get("note") else []
        lines += [*table(part["rows"]), ""]
    return lines


def _claim_row(claim: dict[str, Any]) -> dict[str, Any]:
    return {
        "claim": claim["id"],
        "cell": claim["cell"],
        "statistic": f"`{claim['statistic']}`",
        "value": claim["value"],
        "interval": [claim["low"], claim["high"]],
        "p": claim["p"],
        "seeds": claim["n_seeds"],
        "target": f"`{claim['target']}`",
        "holds": claim["holds"],
    }


def _note(claim: dict[str, Any]) -> list[str]:
    return [f"{claim['id']}, {claim['cell']}: {claim['note']}", ""] if claim.get("note") else []


def _spread(values: list[Any]) -> Any:
    """One value where all are equal, words one after the other, else mean ± standard deviation."""
    different = list(dict.fromkeys(values))
    if len(different) <= 1:
        return different[0] if different else None
    if any(isinstance(value, str) for value in different):
        return ", ".join(map(str, different))
    return f"{formatted(fmean(values))} ± {stdev(values):.2g}"


if __name__ == "__main__":
    write_report()
