"""What a move of the pointer would mean, in measured words: what gains, what loses, and what going back would do."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.utils.timezone import localdate

from searchapp.services.going_back import RollbackOutlook
from searchapp.views.matrix_cards import matrix_of
from searchapp.views.verdict_cards import Report, gains_and_losses
from searchapp.views.verdict_words import counted, estimate_of, percent, percent_between, signed

NAMED = 3  # categories named before "and n more"


def promotion_consequences(report: Report) -> list[str]:
    """From a verdict's report, one sentence each; what was not measured is not told."""
    version, against = str(report["version"]), str(report["against"])
    cells = [cell for row in matrix_of(report).rows for cell in row.cells if cell is not None]
    now = next((cell for cell in cells if cell.is_now), None)
    then = next((cell for cell in cells if cell.is_serving), None)
    back = next((cell for cell in cells if cell.is_way_back), None)
    found = []
    if now and then:
        change = f": {then.change} points, {then.change_interval}" if then.change else ""
        found.append(
            f"Mean average precision on held-out photos is measured at {then.value}; {against} has {now.value}{change}."
        )
    flips = report.get("flips", {})
    if flips.get("queries"):
        asked = int(flips["queries"])
        found.append(
            f"Of {asked:,} answers {flips['negative']:,} turn from right to wrong and {flips['positive']:,} from wrong "
            "to right."
        )
    if report.get("per_category"):
        found.append(_categories(report))
    if back and now:
        found.append(
            f"Should you go back later, items added meanwhile are found by {against} through what {version} stored: "
            f"measured {back.value}, {now.value} for items it stored itself. No photo is encoded for that."
        )
    return found


def _categories(report: Report) -> str:
    gain, lose = gains_and_losses(report)
    words = f"{counted(gain, 'category', 'categories')} {'gains' if gain == 1 else 'gain'} for certain, "
    if not lose:
        return f"{words}none loses."
    losing = [row for row in report["per_category"] if _is_loss(row)]
    named = ", ".join(f"{row['path']} ({signed(100 * row['change'])})" for row in losing[:NAMED])
    more = f" and {lose - NAMED} more" if lose > NAMED else ""
    return f"{words}{lose} {'loses' if lose == 1 else 'lose'}: {named}{more}."


def _is_loss(row: Mapping[str, Any]) -> bool:
    change = estimate_of({**row, "value": row.get("change")})
    return change is not None and change.high < 0


def rollback_words(outlook: RollbackOutlook) -> str:
    """How items that were added since would be found; "" when none was."""
    target, leaving = outlook.target.name, outlook.leaving.version.name
    if not outlook.photos:
        return ""
    added = f"{counted(outlook.items, 'item')} ({counted(outlook.photos, 'photo')}) came since"
    if not outlook.is_readable:
        return f"{added}, and {target} cannot read what {leaving} stored of them: they are found again once encoded."
    value = estimate_of(outlook.cell, "map")
    if value is None:
        return f"{added}; {target} finds them through what {leaving} stored, how well was not measured."
    return (
        f"{added}; {target} finds them through what {leaving} stored: mean average precision {percent(value.value)} "
        f"({percent_between(value)}), as measured {_when(outlook.measured_at)}."
    )


def _when(measured_at: datetime | None) -> str:
    """A measurement that is not of just these two and today's photos is told with its date."""
    return "before" if measured_at is None else f"on {localdate(measured_at):%d %B %Y}"
