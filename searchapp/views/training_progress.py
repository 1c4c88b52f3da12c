"""A training as its page shows it: state in words, steps, curves, and the figures behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from searchapp.models import Job, JobState
from searchapp.services.database_clock import database_now
from searchapp.views.curves import Curve, curve_of
from searchapp.views.jobs import JobRow, row_of

STEPS = (
    ("reading", "Read the photos"),
    ("training", "Train"),
    ("encoding", "Encode the catalogue"),
    ("measuring", "Measure"),
)


@dataclass(frozen=True, slots=True)
class Step:
    label: str
    state: str  # done | now | later
    sign: str

    @property
    def state_word(self) -> str:
        return {"done": "done", "now": "now", "later": "to come"}[self.state]


@dataclass(frozen=True, slots=True)
class Drawing:
    """One curve with the words that say the same."""

    title: str
    hint: str
    now: str
    words: str
    curve: Curve


@dataclass(frozen=True, slots=True)
class EpochFigures:
    epoch: int
    loss: str
    validation: str


@dataclass(frozen=True, slots=True)
class TrainingPage:
    job: Job
    row: JobRow
    title: str
    headline: str
    asked: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    drawings: tuple[Drawing, ...]
    figures: tuple[EpochFigures, ...]
    with_figures: bool
    kept: str  # what is there to go on from


def training_page(job: Job, *, with_figures: bool = False) -> TrainingPage:
    history = _history(job)
    epochs = int(job.checkpoint.get("epochs") or 0)
    row = row_of(job, database_now())
    return TrainingPage(
        job=job,
        row=row,
        title=job.subject or "Training of a base version",
        headline=_headline(job, row, history, epochs),
        asked=_asked(job),
        steps=_steps(job),
        drawings=tuple(
            drawing
            for drawing in (_loss(history, epochs), _validation(history, epochs))
            if drawing.curve.points
        ),
        figures=tuple(_figures(history)) if with_figures else (),
        with_figures=with_figures,
        kept=f"The first {_last_epoch(history)} epochs are kept." if history else "",
    )


def _history(job: Job) -> list[dict[str, Any]]:
    return [row for row in job.checkpoint.get("history") or [] if isinstance(row.get("epoch"), int | float)]


def _last_epoch(history: Sequence[dict[str, Any]]) -> int:
    return int(history[-1]["epoch"]) if history else 0


def _headline(job: Job, row: JobRow, history: Sequence[dict[str, Any]], epochs: int) -> str:
    at = f"epoch {_last_epoch(history):,} of {epochs:,}" if history and epochs else ""
    match job.state:
        case JobState.QUEUED:
            return "Waits for its turn: one training runs at a time."
        case JobState.RUNNING if job.cancel_requested:
            return "Ends at the next step."
        case JobState.RUNNING:
            words = {
                "reading": "Reading the photos",
                "training": f"Learning, {at}" if at else "Learning",
                "encoding": "Encoding every photo of the catalogue with the new version",
                "measuring": "Measuring it against the version in use",
            }.get(job.checkpoint.get("stage", ""), "Starting")
            return f"{words}{f', {row.eta}' if row.eta else ''}."
        case JobState.DONE:
            return "Trained and measured."
        case JobState.CANCELLED:
            return f"Cancelled{f' after {at}' if at else ' before anything was learned'}."
        case _:
            return f"Stopped{f' after {at}' if at else ' before anything was learned'}."


def _asked(job: Job) -> tuple[tuple[str, str], ...]:
    """What the operator chose, as far as the payload says."""
    payload = job.payload
    asked = []
    if isinstance(payload.get("label_fraction"), int | float):
        asked.append(("Labels used", f"{100 * payload['label_fraction']:g} %"))
    if payload.get("architecture"):
        asked.append(("Architecture", str(payload["architecture"])))
    if "from_scratch" in payload:
        asked.append(("Start", "from scratch" if payload["from_scratch"] else "from the version in use"))
    return tuple(asked)


def _steps(job: Job) -> tuple[Step, ...]:
    names = [name for name, _ in STEPS]
    stage = job.checkpoint.get("stage")
    current = len(names) if job.state == JobState.DONE else names.index(stage) if stage in names else -1
    steps = []
    for number, (_, label) in enumerate(STEPS):
        state = "done" if number < current else "now" if number == current else "later"
        sign = "check" if state == "done" else row_sign(job) if state == "now" else "later"
        steps.append(Step(label, state, sign))
    return tuple(steps)


def row_sign(job: Job) -> str:
    return {"failed": "warn", "cancelled": "stop", "queued": "wait"}.get(job.state, "run")


def _loss(history: Sequence[dict[str, Any]], epochs: int) -> Drawing:
    curve = curve_of(_pairs(history, "loss"), within=(1, max(1, epochs)))
    return Drawing("Loss", "lower is better", _now(curve), _words("The loss", curve, "lowest"), curve)


def _validation(history: Sequence[dict[str, Any]], epochs: int) -> Drawing:
    curve = curve_of(_pairs(history, "validation"), within=(1, max(1, epochs)))
    words = _words("The quality on validation photos", curve, "highest")
    return Drawing("Validation", "0 to 1, higher is better", _now(curve), words, curve)


def _pairs(history: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [
        (float(row["epoch"]), float(row[name])) for row in history if isinstance(row.get(name), int | float)
    ]


def _now(curve: Curve) -> str:
    return f"{curve.values[-1][1]:.3f}" if curve.values else ""


def _words(what: str, curve: Curve, best_word: str) -> str:
    """The curve for who cannot see it."""
    if not curve.values:
        return ""
    (first, start), (last, end) = curve.values[0], curve.values[-1]
    best = (min if best_word == "lowest" else max)(curve.values, key=lambda point: point[1])
    if len(curve.values) == 1:
        return f"{what} is {end:.3f} in epoch {last:g}."
    return (
        f"{what} went from {start:.3f} in epoch {first:g} to {end:.3f} in epoch {last:g}; "
        f"{best_word} {best[1]:.3f} in epoch {best[0]:g}."
    )


def _figures(history: Sequence[dict[str, Any]]) -> list[EpochFigures]:
    """Newest first."""
    return [
        EpochFigures(int(row["epoch"]), _figure(row.get("loss")), _figure(row.get("validation")))
        for row in reversed(history)
    ]


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"
