"""docs/results.md from docs/results/*.json: the page is never edited by hand.

A result file holds `title`, `about`, `command`, `seed`, `machine` and `tables`; a table has a `title`, maybe a
`note`, and `rows`: flat dictionaries with the same keys.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
HEAD = """# Results

Made by `make bench` from `docs/results/*.json`; do not edit. Timings are medians of interleaved rounds in one
process on a shared machine: trust the ratios within a table, not the milliseconds.
"""


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
    machine = ", ".join(f"{key} {formatted(value)}" for key, value in result["machine"].items())
    lines = [f"## {result['title']}", "", result["about"], ""]
    lines += [f"`{result['command']}` · seed {result['seed']} · {machine}", ""]
    for part in result["tables"]:
        lines += [f"**{part['title']}**", ""]
        lines += [part["note"], ""] if part.get("note") else []
        lines += [*table(part["rows"]), ""]
    return lines


def write_report() -> None:
    lines = [HEAD]
    for path in sorted(RESULTS.glob("*.json")):
        lines += section(json.loads(path.read_text(encoding="utf-8")))
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_report()
