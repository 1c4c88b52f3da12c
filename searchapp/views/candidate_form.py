"""The choices before a candidate is trained, each with one plain line of what it does."""

from dataclasses import dataclass
from typing import Any

from django import forms

from searchapp.exceptions import SearchAppError
from searchapp.models import Category, JobState, Vertical
from searchapp.services.base_training import ARCHITECTURES, MOST_EPOCHS
from searchapp.services.candidate_training import INDEPENDENT, METHODS
from searchapp.services.model_overview import ModelOverview
from searchapp.services.training_plan import TrainingPlan
from searchapp.views.panels import Option
from searchapp.views.training_form import Choice

METHOD_CHOICES = {
    "ndpp": (
        "NDPP",
        (
            "Finds what is stored as well as it can, and moves categories that lie too close together apart, away from "
            "their neighbours. Begin with this one."
        ),
    ),
    "odpp": ("ODPP", "The same aim; how far each category moves is itself optimised. Takes longer."),
    "bct": (
        "BCT",
        "Stays where the stored categories are, crowded or not. The plainest way, for comparison.",
    ),
    INDEPENDENT: (
        "Independent",
        (
            "Free of what is stored, so often the best by itself. It cannot search the stored codes: the whole "
            "catalogue is encoded again before it can be used, or corrected."
        ),
    ),
}
ARCHITECTURE_CHOICES = {
    "parity": ("Parity", "The size Perennial is shipped with: small enough for a phone."),
    "budget": ("Budget", "A third more weights, still under one megabyte."),
    "residual": ("Residual", "A larger network for servers: more to gain, slower to train and to ask."),
}
WHOLE = "all"
FIELD_OF_SERVICE = {"config": "strength"}


class CandidateForm(forms.Form):
    """Method, architecture, photos, how long; wrong input never starts anything."""

    method = forms.ChoiceField(choices=[(name, METHOD_CHOICES[name][0]) for name in METHODS], initial="ndpp")
    architecture = forms.ChoiceField(
        choices=[(name, ARCHITECTURE_CHOICES[name][0]) for name in ARCHITECTURES], initial="budget"
    )
    scope = forms.CharField(required=False, max_length=220)
    epochs = forms.IntegerField(required=False, min_value=1, max_value=MOST_EPOCHS)
    strength = forms.FloatField(required=False, min_value=0, max_value=1)
    pilot = forms.BooleanField(required=False, initial=True)

    def arguments(self) -> dict[str, Any]:
        """What the service takes, of a valid form."""
        cleaned = self.cleaned_data
        kind, _, value = cleaned["scope"].partition("=")
        strength = cleaned["strength"]
        return {
            "method": cleaned["method"],
            "architecture": cleaned["architecture"],
            "scope": {kind: value} if value else None,
            "epochs": cleaned["epochs"],
            "config": {} if strength is None else {"compatibility": {"strength": strength}},
            "pilot": cleaned["pilot"],
        }

    def refuse(self, error: SearchAppError) -> None:
        """Put the service's refusal beside the field it is about."""
        names = [FIELD_OF_SERVICE.get(name, name) for name in error.fields]
        known = [name for name in names if name in self.fields]
        self.add_error(known[0] if known else None, error.message)


@dataclass(frozen=True, slots=True)
class CandidatePage:
    plan: TrainingPlan
    in_use: str
    methods: tuple[Choice, ...]
    architectures: tuple[Choice, ...]
    verticals: tuple[Option, ...]
    categories: tuple[Option, ...]
    has_pilot: bool
    is_busy: bool  # another training runs or waits: this one comes after it


def candidate_page(form: CandidateForm, plan: TrainingPlan, overview: ModelOverview) -> CandidatePage:
    scope = str(form["scope"].value() or "")
    return CandidatePage(
        plan=plan,
        in_use=overview.in_use.version.name if overview.in_use else "",
        methods=_choices(form, "method", METHOD_CHOICES),
        architectures=_choices(form, "architecture", ARCHITECTURE_CHOICES),
        verticals=scope_verticals(scope),
        categories=scope_categories(scope),
        has_pilot=bool(form["pilot"].value()),
        is_busy=any(job.state in (JobState.QUEUED, JobState.RUNNING) for job in overview.trainings),
    )


def scope_verticals(chosen: str) -> tuple[Option, ...]:
    """`vertical=product` and the like, those that the catalogue has."""
    present = set(Category.objects.order_by().values_list("vertical", flat=True).distinct())
    rows = [(f"vertical={value}", f"{label}s") for value, label in Vertical.choices if value in present]
    return tuple(Option(value, label, value == chosen) for value, label in rows)


def scope_categories(chosen: str) -> tuple[Option, ...]:
    """`category=<slug>` for each category, by its path."""
    rows = Category.objects.order_by("path").values_list("slug", "path")
    return tuple(Option(f"category={slug}", path, f"category={slug}" == chosen) for slug, path in rows)


def _choices(form: CandidateForm, field: str, words: dict[str, tuple[str, str]]) -> tuple[Choice, ...]:
    chosen = str(form[field].value())
    return tuple(
        Choice(Option(value, label, value == chosen), line) for value, (label, line) in words.items()
    )
