"""The choices before a training, and in words what it would learn from."""

from dataclasses import dataclass
from typing import Any

from django import forms

from searchapp.exceptions import SearchAppError
from searchapp.models import JobState
from searchapp.services.model_overview import ModelOverview
from searchapp.services.training_plan import TrainingPlan
from searchapp.views.panels import Option

OTHER = "other"
PRESETS = ("100", "10", "1")
SHARE_WORDS = {
    "100": "The category of every photo is used: {labels} labels{checked}.",
    "10": "About {labels} labels. Of the other photos only the looks are learned from.",
    "1": "About {labels} labels, at least one of each category: to see how far a few of them carry.",
}
ARCHITECTURES = (("parity", "Parity"), ("budget", "Budget"))
ARCHITECTURE_WORDS = {
    "parity": "The size Perennial is shipped with: small enough for a phone.",
    "budget": "A third more weights, still under one megabyte. Takes longer to train.",
}
STARTS = (("in_use", "Go on from the version in use"), ("scratch", "From scratch"))
FIELD_OF_SERVICE = {"label_fraction": "share", "architecture": "architecture", "from_scratch": "start"}


class TrainingForm(forms.Form):
    """Label share in percent, architecture, where to start; wrong input never starts anything."""

    share = forms.ChoiceField(
        choices=[*((value, f"{value} %") for value in PRESETS), (OTHER, "Another share")], initial="100"
    )
    other_share = forms.FloatField(min_value=0.1, max_value=100, required=False)
    architecture = forms.ChoiceField(choices=ARCHITECTURES, initial="parity")
    start = forms.ChoiceField(choices=STARTS, initial="in_use")
    promote = forms.BooleanField(required=False)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        missing = cleaned.get("share") == OTHER and cleaned.get("other_share") is None
        if missing and "other_share" not in self.errors:
            self.add_error("other_share", "Give the share in percent, from 0.1 to 100.")
        return cleaned

    def arguments(self) -> dict[str, Any]:
        """What the service takes, of a valid form."""
        cleaned = self.cleaned_data
        percent = cleaned["other_share"] if cleaned["share"] == OTHER else float(cleaned["share"])
        return {
            "label_fraction": percent / 100,
            "architecture": cleaned["architecture"],
            "from_scratch": cleaned["start"] == "scratch",
            "promote": cleaned["promote"],
        }

    def refuse(self, error: SearchAppError) -> None:
        """Put the service's refusal beside the field it is about."""
        names = [FIELD_OF_SERVICE[name] for name in error.fields if name in FIELD_OF_SERVICE]
        self.add_error(names[0] if names else None, error.message)


@dataclass(frozen=True, slots=True)
class Choice:
    option: Option
    words: str


@dataclass(frozen=True, slots=True)
class FormPage:
    plan: TrainingPlan
    shares: tuple[Choice, ...]
    other: Option
    architectures: tuple[Choice, ...]
    starts: tuple[Choice, ...]
    in_use: str
    time: str
    is_busy: bool  # another training runs or waits: this one comes after it


def form_page(form: TrainingForm, plan: TrainingPlan, overview: ModelOverview) -> FormPage:
    in_use = overview.in_use.version.name if overview.in_use else ""
    chosen = {name: str(form[name].value()) for name in ("share", "architecture", "start")}

    def choice(field: str, value: str, label: str, words: str) -> Choice:
        return Choice(Option(value, label, chosen[field] == value), words)

    start_words = {
        "in_use": f"What {in_use} has learned is the beginning, if it has the same architecture.",
        "scratch": f"From random weights. Nothing of {in_use} is used. Takes about twice as long.",
    }
    return FormPage(
        plan=plan,
        shares=tuple(choice("share", value, f"{value} %", share_words(plan, value)) for value in PRESETS),
        other=Option(OTHER, "Another share", chosen["share"] == OTHER),
        architectures=tuple(
            choice("architecture", value, label, ARCHITECTURE_WORDS[value]) for value, label in ARCHITECTURES
        ),
        starts=tuple(
            choice("start", value, f"Go on from {in_use}" if value == "in_use" else label, start_words[value])
            for value, label in STARTS
        ),
        in_use=in_use,
        time=_time(plan),
        is_busy=any(job.state in (JobState.QUEUED, JobState.RUNNING) for job in overview.trainings),
    )


def share_words(plan: TrainingPlan, percent: str) -> str:
    checked = f", and {plan.checked:,} more that only check the result" if plan.checked else ""
    return SHARE_WORDS[percent].format(labels=_labels(plan, int(percent)), checked=checked)


def _labels(plan: TrainingPlan, percent: int) -> str:
    """At least one photo of each category keeps its label, however small the share."""
    return f"{max(plan.categories, round((plan.photos - plan.checked) * percent / 100)):,}"


def _time(plan: TrainingPlan) -> str:
    seconds = plan.seconds_expected()
    if seconds is None or plan.pace is None:
        return "No training was finished here yet, so there is no measured pace to go by."
    about = f"{round(seconds)} s" if seconds < 90 else f"{round(seconds / 60):,} min"
    return (
        f"About {about}, if it goes as the last one did: {plan.pace.photos:,} photos "
        f"in {plan.pace.seconds:,.0f} s{f' ({plan.pace.architecture})' if plan.pace.architecture else ''}."
    )
