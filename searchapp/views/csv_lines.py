"""Lines of the CSV files that are downloaded. A spreadsheet would run a cell that begins like a formula."""

import csv
import io
from collections.abc import Iterable

_FORMULA = tuple("=+-@\t\r\n")


def csv_line(cells: Iterable[str]) -> str:
    """One line with its end; cells that a spreadsheet would run begin with an apostrophe."""
    buffer = io.StringIO()
    csv.writer(buffer).writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells])
    return buffer.getvalue()
