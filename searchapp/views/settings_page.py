"""The values that operators choose: gate limits, costs, who is told. Each with what is allowed, and its history."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from searchapp.exceptions import InvalidInput
from searchapp.services.operator_settings import (
    SETTINGS,
    Change,
    Setting,
    setting_change,
    setting_changes,
    setting_parsed,
    setting_values,
)
from searchapp.views.jobs import staff_of

GROUPS = (
    ("gate", "Gates", "What a candidate may cost before a gate stops it. A change is kept with its reason."),
    ("cost", "Costs", "What time and power cost you, so that savings can be told in money. 0 tells nothing."),
    ("watch", "Watching", "What happens after a version was put in use."),
)
HISTORY_SHOWN = 100


@dataclass(frozen=True, slots=True)
class SettingRow:
    setting: Setting
    shown: str  # the value in words
    typed: str  # the value as its field holds it
    is_default: bool
    kind: str  # number | text | switch
    problem: str = ""
    reason: str = ""
    reason_problem: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    title: str
    words: str
    rows: list[SettingRow]


@dataclass(frozen=True, slots=True)
class ChangeRow:
    change: Change
    label: str
    before: str
    after: str
    back: str  # what sets it back, as typed; empty for a change that others followed


def settings_page(request: HttpRequest) -> HttpResponse:
    """GET /ops/settings: every setting and who changed what. POST: change one; setting back is a change, too."""
    if request.method != "POST":
        return _page(request)
    name = request.POST.get("name", "")[:60]
    try:
        value = setting_parsed(name, request.POST.get("value", ""))
        reason = request.POST.get("reason", "")
        changed = setting_change(name=name, value=value, user=staff_of(request), reason=reason)
    except InvalidInput as error:
        return _page(request, error)
    label = SETTINGS[name].label
    words = (
        f"“{label}” is {_shown(SETTINGS[name], value)} now." if changed else f"“{label}” was that already."
    )
    messages.success(request, words)
    return HttpResponseRedirect(f"{reverse('settings')}#{name}")


def _page(request: HttpRequest, error: InvalidInput | None = None) -> HttpResponse:
    values = setting_values()
    asked = request.POST.get("name", "") if error else ""
    rows = [
        _row(setting, values[name], request, error if name == asked else None)
        for name, setting in SETTINGS.items()
    ]
    context = {
        "groups": [
            Group(prefix, title, words, [row for row in rows if row.setting.name.startswith(f"{prefix}.")])
            for prefix, title, words in GROUPS
        ],
        "changes": [_change_row(change) for change in setting_changes()[:HISTORY_SHOWN]],
        "error": error.message if error and asked not in SETTINGS else "",
    }
    return render(request, "models/settings.html", context, status=error.status if error else 200)


def _row(setting: Setting, value: Any, request: HttpRequest, error: InvalidInput | None) -> SettingRow:
    kinds = {bool: "switch", str: "text", float: "number"}
    return SettingRow(
        setting,
        shown=_shown(setting, value),
        typed=request.POST.get("value", "")[:500] if error else _typed(value),
        is_default=value == setting.default,
        kind=kinds[type(setting.default)],
        problem=error.fields.get(setting.name, "") if error else "",
        reason=request.POST.get("reason", "")[:500] if error else "",
        reason_problem=error.fields.get("reason", "") if error else "",
    )


def _change_row(change: Change) -> ChangeRow:
    setting = SETTINGS[change.row.name]
    is_undone = not change.is_newest or change.before == change.row.value
    return ChangeRow(
        change,
        setting.label,
        before=_shown(setting, change.before),
        after=_shown(setting, change.row.value),
        back="" if is_undone else _typed(change.before) or " ",
    )


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _shown(setting: Setting, value: Any) -> str:
    return f"{_typed(value)} {setting.unit}".strip() or "nothing"
