"""Catalogues to import in tests, and the report that comes of it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchapp.services import importing
from searchapp.services.jobs import job_run_here

COUNTS = ("created", "updated", "unchanged", "failed")


def imported(path: Path | str, **options: Any) -> dict[str, Any]:
    job = job_run_here(importing.import_start(source=str(path), options=importing.ImportOptions(**options)))
    assert job.state == "done", job.error
    return dict(job.result or {})


def counts(report: dict[str, Any]) -> list[int]:
    return [report[name] for name in COUNTS]


def csv_catalogue(folder: Path, photos: Sequence[bytes], rows: Sequence[dict[str, str]]) -> Path:
    """catalogue.csv with photos p0.jpg, p1.jpg, ... in photos/ beside it."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(photos):
        (folder / "photos" / f"p{number}.jpg").write_bytes(photo)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "catalogue.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, names)
        table.writeheader()
        table.writerows(rows)
    return folder / "catalogue.csv"


def apple(number: int, **columns: str) -> dict[str, str]:
    return {
        "sku": f"apple-{number}",
        "category": "Fruit > Apple",
        "images": f"photos/p{number}.jpg",
        **columns,
    }
