"""A category's progress in words and signs: what its page shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from searchapp.models import JobState
from searchapp.services.category_progress import CategoryProgress, PhotoProgress, Step
from searchapp.services.category_proof import Gate, Proof, Quality

STATE_SIGNS = {"known": "mark", "learned": "check", "learning": "run", "waiting": "wait"}
STATE_WORDS = {"known": "Known", "learned": "Learned", "learning": "Learning", "waiting": "Waiting"}
STEP_LABELS = {
    "uploaded": "Uploaded",
    "checked": "Checked",
    "learning": "Learning",
    "coded": "Coded",
    "searchable": "Searchable",
}
STEP_SIGNS = {"done": "check", "now": "run", "waiting": "later", "failed": "warn", "skipped": "level"}
STEP_WORDS = {
    "done": "done",
    "now": "in progress",
    "waiting": "to come",
    "failed": "failed",
    "skipped": "not needed",
}
PHOTO_SIGNS = {
    "learned": "check",
    "searchable": "check",
    "provisional": "fair",
    "pending": "wait",
    "failed": "warn",
}
PHOTO_WORDS = {
    "learned": "Learned",
    "searchable": "Searchable",
    "provisional": "Searchable, provisional",
    "pending": "Waits for its code",
    "failed": "Failed",
}
STAGE_WORDS = {
    "reading": "reading the photos",
    "checking": "checking old and new answers",
    "publishing": "putting it in use",
}
GATE_LABELS = {
    "old_codes_changed": "Stored codes stay as they are",
    "weights_not_finite": "All weights are numbers",
    "old_query_map_loss": "Known categories are found as well as before",
    "new_class_gain": "The new categories are found better",
}
GATE_LIMITS = {
    "old_codes_changed": "none changed",
    "weights_not_finite": "none at fault",
    "old_query_map_loss": "loss of at most {:g}",
    "new_class_gain": "gain above {:g}",
}
VERDICT_SIGNS = {"pass": "check", "fail": "warn", "cannot_tell": "level"}
VERDICT_WORDS = {"pass": "Passed", "fail": "Failed", "cannot_tell": "Cannot tell"}
MEAN_AP = "mean average precision on held-out photos, 0 to 1"
DIGEST_SHOWN = 8
PACE_ROUNDS = 2
WORDS_FIRST = (
    "learning"  # how the message begins while the catalogue's words are taught, before the first round
)


@dataclass(frozen=True, slots=True)
class StepShown:
    label: str
    state: str
    sign: str
    word: str
    count: str
    note: str
    percent: int | None


@dataclass(frozen=True, slots=True)
class PhotoShown:
    photo: PhotoProgress
    sign: str
    word: str
    state: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Before and after, each a share of the width."""

    label: str
    before: str
    after: str
    before_width: str
    after_width: str
    change: str
    sign: str


@dataclass(frozen=True, slots=True)
class GateShown:
    label: str
    limit: str
    measured: str
    sign: str
    word: str
    note: str
    verdict: str


@dataclass(frozen=True, slots=True)
class ProofShown:
    proof: Proof
    checked: str
    changed: str
    before: str
    after: str
    bars: tuple[Bar, ...]
    with_others: str


def headline(progress: CategoryProgress) -> str:
    """Where it stands, in a sentence or two."""
    found = _found(progress)
    match progress.state:
        case "known":
            return f"Known since the gallery was stocked. {found}".strip()
        case "learned":
            by = f" by version {progress.learned_by}" if progress.learned_by else ""
            return f"Learned{by}. {found}".strip()
        case "learning":
            return f"{_learning_words(progress)}. {found}".strip()
    return f"{_waiting_words(progress)} {found}".strip()


def steps_shown(progress: CategoryProgress) -> list[StepShown]:
    return [
        StepShown(
            label="Learned" if step.name == "learning" and step.state == "done" else STEP_LABELS[step.name],
            state=step.state,
            sign=STEP_SIGNS[step.state],
            word=STEP_WORDS[step.state],
            count=f"{step.done:,} of {step.total:,}" if step.total and step.name != "learning" else "",
            note=_note(step, progress),
            percent=round(100 * step.done / step.total) if step.name == "learning" and step.total else None,
        )
        for step in progress.steps
    ]


def photos_shown(photos: Sequence[PhotoProgress]) -> list[PhotoShown]:
    return [PhotoShown(photo, PHOTO_SIGNS[photo.state], _photo_word(photo), photo.state) for photo in photos]


def _photo_word(photo: PhotoProgress) -> str:
    if photo.is_held_out and photo.state in {"learned", "searchable"}:
        return "Kept aside"
    return PHOTO_WORDS[photo.state]


def eta_words(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"about {max(1, round(seconds))} s left" if seconds < 90 else f"about {round(seconds / 60)} min left"
    )


def proof_shown(progress: CategoryProgress) -> ProofShown | None:
    proof = progress.proof
    if proof is None:
        return None
    others = len(proof.categories) - 1
    bars = [
        bar
        for label, quality in (
            ("Known categories", proof.old),
            ("This category" if not others else f"The {others + 1} new categories", proof.new),
        )
        if (bar := _bar(label, quality)) is not None
    ]
    return ProofShown(
        proof=proof,
        checked=f"{proof.checked:,} stored code{'' if proof.checked == 1 else 's'} checked",
        changed=f"{proof.changed:,} changed",
        before=proof.digest_before[:DIGEST_SHOWN],
        after=proof.digest_after[:DIGEST_SHOWN],
        bars=tuple(bars),
        with_others=f"together with {others} other{'' if others == 1 else 's'}" if others > 0 else "",
    )


def gates_shown(gates: Sequence[Gate]) -> list[GateShown]:
    return [
        GateShown(
            label=GATE_LABELS.get(gate.name, gate.name.replace("_", " ")),
            limit=GATE_LIMITS.get(gate.name, "{:g}").format(gate.threshold),
            measured=_measured(gate),
            sign=VERDICT_SIGNS.get(gate.verdict, "level"),
            word=VERDICT_WORDS.get(gate.verdict, gate.verdict),
            note=gate.note[:1].upper() + gate.note[1:],
            verdict=gate.verdict,
        )
        for gate in gates
    ]


def reason_words(progress: CategoryProgress) -> str:
    """Why learning stopped, without the name of the error, which is for the log."""
    return re.sub(r" \(\w+\)$", "", progress.job.error) if progress.job else ""


def photos_word(count: int) -> str:
    return f"{count:,} photo{'' if count == 1 else 's'}"


def _found(progress: CategoryProgress) -> str:
    counts = progress.counts
    if not counts.total:
        return "It has no photos of its own yet."
    how = "" if progress.state in {"known", "learned"} else " already, by provisional codes"
    if counts.findable == counts.usable:
        every = "Its photo is" if counts.usable == 1 else f"All {counts.usable:,} photos are"
        return f"{every} found{how}."
    return f"{counts.findable:,} of {photos_word(counts.usable)} found{how}."


def _learning_words(progress: CategoryProgress) -> str:
    job = progress.job
    assert job is not None
    if job.cancel_requested:
        return "Learning ends at the next step"
    return f"Learning: {_stage_and_time(progress)}"


def _stage_and_time(progress: CategoryProgress) -> str:
    """No time left is told before two rounds are done: reading and words have a pace of their own."""
    stage, left = _stage(progress), eta_words(progress.eta_seconds)
    rounds = progress.job.checkpoint.get("history") if progress.job else None
    return f"{stage}, {left}" if left and rounds and len(rounds) >= PACE_ROUNDS else stage


def _stage(progress: CategoryProgress) -> str:
    checkpoint = progress.job.checkpoint if progress.job else {}
    stage, history, epochs = checkpoint.get("stage"), checkpoint.get("history"), checkpoint.get("epochs")
    if stage == "training":
        if not history and progress.job and progress.job.message.startswith(WORDS_FIRST):
            return progress.job.message
        done = int(history[-1].get("epoch", 0)) if history else 0
        return f"round {min(done + 1, epochs):,} of {epochs:,}" if isinstance(epochs, int) else "training"
    return STAGE_WORDS.get(str(stage), "about to start")


def _waiting_words(progress: CategoryProgress) -> str:
    job = progress.job
    if job is not None and job.state == JobState.QUEUED:
        return "Waits for its turn: one training runs at a time."
    if job is not None and job.state == JobState.FAILED:
        return "Learning stopped; nothing stored was changed."
    if job is not None and job.state == JobState.CANCELLED:
        return "Learning was cancelled; nothing stored was changed."
    if progress.is_forgotten:
        return f"Version {progress.learned_by} learned it, but version {progress.version}, which is in use, has not."
    return "Waits to be learned."


def _note(step: Step, progress: CategoryProgress) -> str:
    counts = progress.counts
    match step.name:
        case "uploaded":
            return "" if counts.total else "no photos yet"
        case "checked":
            return f"{photos_word(counts.failed)} cannot be read" if counts.failed else ""
        case "learning":
            return _learning_note(step, progress)
        case "coded":
            return _coded_note(progress)
    if step.state == "now" and progress.state in {"learning", "waiting"}:
        return "provisionally"
    return f"{photos_word(counts.pending)} to come" if counts.pending else ""


def _learning_note(step: Step, progress: CategoryProgress) -> str:
    if step.state == "skipped":
        return "known from the start"
    if step.state == "done":
        return f"by version {progress.learned_by}" if progress.learned_by else ""
    if step.state == "now":
        return _stage_and_time(progress)
    if progress.job is None:
        return "not asked for yet" if progress.counts.total else ""
    return {"queued": "waits for its turn", "cancelled": "cancelled", "failed": "stopped"}.get(
        progress.job.state, ""
    )


def _coded_note(progress: CategoryProgress) -> str:
    counts = progress.counts
    if progress.state in {"learning", "waiting"}:
        return f"{counts.findable:,} provisional so far" if counts.findable else ""
    late = counts.findable - counts.coded
    return f"{photos_word(late)} came later" if late > 0 else ""


def _bar(label: str, quality: Quality | None) -> Bar | None:
    if quality is None:
        return None
    change = quality.after - quality.before
    return Bar(
        label=label,
        before=f"{quality.before:.3f}",
        after=f"{quality.after:.3f}",
        before_width=f"{200 * quality.before:.1f}",
        after_width=f"{200 * quality.after:.1f}",
        change=f"{change:+.3f}".replace("-", "−"),
        sign="up" if change > 0.0005 else "fall" if change < -0.0005 else "level",
    )


def _measured(gate: Gate) -> str:
    if gate.value is None:
        if gate.name == "old_codes_changed":
            return "0 changed" if gate.verdict == "pass" else "another digest"
        return "not measurable"
    if gate.low is None or gate.high is None:
        return f"{gate.value:g}"
    return f"{gate.value:.4f} ({gate.low:.4f} to {gate.high:.4f})".replace("-", "−")
