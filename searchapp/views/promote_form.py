"""The choices of a promotion: how many visitors, of which part of the catalogue, seen or unseen, and when it stops."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.http import HttpRequest

from searchapp.exceptions import SearchAppError
from searchapp.services.arm_choice import WHOLE
from searchapp.services.stop_rules import BOUNDS, DEFAULT_RULE
from searchapp.views.candidate_form import scope_categories, scope_verticals
from searchapp.views.panels import Option

OTHER = "other"
PRESETS = (1, 5, 25, 50, 100)
FIELD_OF_SERVICE = {"stop_rule": "stops", "override_reason": "reason"}
# Fields of the rule: how each is typed, as a multiple of what is kept.
SCALES = {"errors": 100.0, "p95_factor": 1.0, "wrong": 1.0, "least_queries": 1.0, "minutes": 1.0}


def _typed(name: str) -> str:
    value = DEFAULT_RULE[name]
    return "" if value is None else f"{value * SCALES[name]:g}"


def _rule_field(name: str, *, is_required: bool = False) -> forms.FloatField:
    low, high = BOUNDS[name]
    scale = SCALES[name]
    return forms.FloatField(
        min_value=low * scale, max_value=high * scale, required=is_required, initial=_typed(name)
    )


class PromoteForm(forms.Form):
    """Share of visitors, scope, shadow, stop rule, what users are told, and why in spite of a gate."""

    share = forms.ChoiceField(
        choices=[*((str(value), f"{value} %") for value in PRESETS), (OTHER, "Another share")], required=False
    )
    other_share = forms.IntegerField(min_value=1, max_value=WHOLE, required=False)
    scope = forms.CharField(max_length=220, required=False)
    shadow = forms.BooleanField(required=False)
    stops = forms.BooleanField(required=False)
    errors_percent = _rule_field("errors")
    p95_factor = _rule_field("p95_factor")
    wrong = _rule_field("wrong")
    least_queries = _rule_field("least_queries")
    minutes = _rule_field("minutes")
    change_note = forms.CharField(max_length=2000, required=False)
    reason = forms.CharField(max_length=500, required=False)
    deployment = forms.IntegerField(min_value=0, max_value=10**18, required=False)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        missing = cleaned.get("share") == OTHER and cleaned.get("other_share") is None
        if missing and "other_share" not in self.errors:
            self.add_error("other_share", "Give the share in whole percent, from 1 to 100.")
        return cleaned

    def arguments(self) -> dict[str, Any]:
        """What the service takes, of a valid form."""
        cleaned = self.cleaned_data
        kind, _, value = cleaned["scope"].partition("=")
        return {
            "share": cleaned["other_share"] if cleaned["share"] == OTHER else int(cleaned["share"] or WHOLE),
            "scope": {kind: value} if value else None,
            "shadow": cleaned["shadow"],
            "stop_rule": self._rule(),
            "change_note": cleaned["change_note"],
            "override_reason": cleaned["reason"],
            "expected_deployment": cleaned["deployment"],
        }

    def refuse(self, error: SearchAppError) -> None:
        """Put the service's refusal beside the field it is about."""
        names = [FIELD_OF_SERVICE.get(name, name) for name in error.fields]
        known = [name for name in names if name in self.fields]
        self.add_error(known[0] if known else None, error.message)

    def _rule(self) -> dict[str, float | None]:
        """What was typed; without the tick nothing of it is judged."""
        cleaned = self.cleaned_data
        if not cleaned["stops"]:
            return dict.fromkeys(("errors", "p95_factor", "wrong", "minutes"))
        typed = {name: cleaned["errors_percent" if name == "errors" else name] for name in SCALES}
        rule = {name: None if value is None else value / SCALES[name] for name, value in typed.items()}
        if rule["least_queries"] is None:
            del rule["least_queries"]
        return rule


@dataclass(frozen=True, slots=True)
class PromoteChoices:
    """The form as the page shows it."""

    shares: tuple[Option, ...]
    other: Option
    number: int
    verticals: tuple[Option, ...]
    categories: tuple[Option, ...]
    is_shadow: bool
    stops: bool
    is_part: bool  # a part of the queries, as it stands


def promote_form(request: HttpRequest, live: Mapping[str, Any] | None = None) -> PromoteForm:
    """Of what was sent; else with `?share=` of the address, and the scope and shadow of the trial that goes on."""
    if request.method == "POST":
        return PromoteForm(request.POST)
    asked = request.GET.get("share", "")
    share = int(asked) if asked.isdecimal() and 1 <= len(asked) <= 3 and 1 <= int(asked) <= WHOLE else WHOLE
    initial = {"share": str(share) if share in PRESETS else OTHER, "other_share": share, "stops": True}
    return PromoteForm(initial={**initial, **(live or {})})


def promote_choices(form: PromoteForm) -> PromoteChoices:
    chosen, scope = str(form["share"].value() or WHOLE), str(form["scope"].value() or "")
    typed = str(form["other_share"].value() or "")
    number = (
        int(typed) if chosen == OTHER and typed.isdecimal() else int(chosen) if chosen.isdecimal() else WHOLE
    )
    is_shadow = bool(form["shadow"].value())
    return PromoteChoices(
        shares=tuple(Option(str(value), f"{value} %", str(value) == chosen) for value in PRESETS),
        other=Option(OTHER, "Another share", chosen == OTHER),
        number=min(number, WHOLE),
        verticals=scope_verticals(scope),
        categories=scope_categories(scope),
        is_shadow=is_shadow,
        stops=bool(form["stops"].value()),
        is_part=number < WHOLE or bool(scope) or is_shadow,
    )
