"""A training as its page shows it: state in words, steps, curves, and the figures behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from searchapp.models import Job, JobState
from searchapp.services.arm_choice import scope_words
from searchapp.services.base_training import CANDIDATE_KIND
from searchapp.services.database_clock import database_now
from searchapp.services.savings import duration_words
from searchapp.views.curves import Curve, curve_of
from searchapp.views.jobs import JobRow, row_of

STEPS = (
    ("reading", "Read the photos"),
    ("training", "Train"),
    ("encoding", "Encode the catalogue"),
    ("measuring", "Measure"),
)
CANDIDATE_STEPS = (
    ("reading", "Read the photos"),
    ("pilot", "Try a tenth"),
    ("training", "Train"),
    ("calibrating", "Read what is stored"),
    ("measuring", "Judge"),
)
CURVES = (
    ("validation", "Validation", "0 to 1, higher is better", "The quality on validation photos"),
    ("cross", "On what is stored", "0 to 1, higher is better", "How it finds what is stored"),
    (
        "own",
        "On a gallery of its own",
        "0 to 1, higher is better",
        "How it would find a gallery encoded anew",
    ),
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
    more: tuple[str, ...] = ()  # of a candidate: on what is stored, on a gallery of its own


@dataclass(frozen=True, slots=True)
class PilotCard:
    """What a tenth of the training said of the whole, and what came of it once that is known."""

    words: str
    outcome: str


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
    pilot: "PilotCard | None" = None


def training_page(job: Job, *, with_figures: bool = False) -> TrainingPage:
    history = _history(job)
    epochs = int(job.checkpoint.get("epochs") or 0)
    row = row_of(job, database_now())
    return TrainingPage(
        job=job,
        row=row,
        title=job.subject or "Training",
        headline=_headline(job, row, history, epochs),
        asked=_asked(job),
        steps=_steps(job),
        drawings=tuple(
            drawing
            for drawing in (_loss(history, epochs), *_qualities(history, epochs))
            if drawing.curve.points
        ),
        figures=tuple(_figures(job, history)) if with_figures else (),
        with_figures=with_figures,
        kept=f"The first {_last_epoch(history)} epochs are kept." if history else "",
        pilot=_pilot(job),
    )


def is_candidate(job: Job) -> bool:
    """Whether it trains a candidate, held to what is stored."""
    return job.kind == CANDIDATE_KIND


def _pilot(job: Job) -> PilotCard | None:
    told = (job.result or {}).get("pilot") or job.checkpoint.get("pilot") or {}
    if not told.get("words"):
        return None
    outcome = told.get("outcome") or {}
    came = ""
    if isinstance(outcome.get("cross_map"), int | float):
        took = f" after {duration_words(outcome['seconds'])}" if outcome.get("seconds") else ""
        came = f"It came to {outcome['cross_map']:.3f}{took}."
    return PilotCard(str(told["words"]), came)


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
                "pilot": "Trying a tenth of it, to see what the whole would come to",
                "calibrating": "Reading the entries that other versions made",
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
    if payload.get("method"):
        asked.append(("Method", str(payload["method"]).upper()))
    if isinstance(payload.get("label_fraction"), int | float):
        asked.append(("Labels used", f"{100 * payload['label_fraction']:g} %"))
    if payload.get("architecture"):
        asked.append(("Architecture", str(payload["architecture"])))
    if "from_scratch" in payload:
        asked.append(("Start", "from scratch" if payload["from_scratch"] else "from the version in use"))
    if payload.get("scope"):
        asked.append(("Photos", scope_words(payload["scope"])))
    return tuple(asked)


def _steps(job: Job) -> tuple[Step, ...]:
    wanted: tuple[tuple[str, str], ...] = CANDIDATE_STEPS if is_candidate(job) else STEPS
    if not job.payload.get("pilot", True):
        wanted = tuple(step for step in wanted if step[0] != "pilot")
    names = [name for name, _ in wanted]
    stage = job.checkpoint.get("stage")
    current = len(names) if job.state == JobState.DONE else names.index(stage) if stage in names else -1
    steps = []
    for number, (_, label) in enumerate(wanted):
        state = "done" if number < current else "now" if number == current else "later"
        sign = "check" if state == "done" else row_sign(job) if state == "now" else "later"
        steps.append(Step(label, state, sign))
    return tuple(steps)


def row_sign(job: Job) -> str:
    return {"failed": "warn", "cancelled": "stop", "queued": "wait"}.get(job.state, "run")


def _loss(history: Sequence[dict[str, Any]], epochs: int) -> Drawing:
    curve = curve_of(_pairs(history, "loss"), within=(1, max(1, epochs)))
    return Drawing("Loss", "lower is better", _now(curve), _words("The loss", curve, "lowest"), curve)


def _qualities(history: Sequence[dict[str, Any]], epochs: int) -> list[Drawing]:
    """Of a candidate, the two that its validation is the mean of come with it."""
    found = []
    for name, title, hint, words in CURVES:
        curve = curve_of(_pairs(history, name), within=(1, max(1, epochs)))
        found.append(Drawing(title, hint, _now(curve), _words(words, curve, "highest"), curve))
    return found


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


def _figures(job: Job, history: Sequence[dict[str, Any]]) -> list[EpochFigures]:
    """Newest first."""
    more = ("cross", "own") if is_candidate(job) else ()
    return [
        EpochFigures(
            int(row["epoch"]),
            _figure(row.get("loss")),
            _figure(row.get("validation")),
            tuple(_figure(row.get(name)) for name in more),
        )
        for row in reversed(history)
    ]


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"
