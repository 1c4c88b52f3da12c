"""What comes before a version is put in use: its entries, its readings, its gates, what was learned since."""

from typing import Any

from searchapp.models import Deployment, ModelVersion
from searchapp.services import encoding, measuring, verdicts
from searchapp.services.jobs import JobRun
from searchapp.services.pair_calibrating import pairs_calibrate
from searchapp.services.verdict_gates import gates_now

STEPS = 5


def prepared(run: JobRun, version: ModelVersion, live: Deployment) -> None:
    """Entries, where the stored ones cannot be searched, and readings of similarities, where nobody took them yet."""
    words = "encoding photos that came since"
    run.progress(0, STEPS, words)
    if version.lineage != live.version.lineage:
        encoding.entries_fill(
            version, heard=lambda _done: run.progress(0, STEPS, words), commit=lambda _done: run.guard()
        )
    words = "reading similarities"
    run.progress(1, STEPS, words)
    pairs_calibrate(
        version, heard=lambda done, total: run.progress(1, STEPS, f"{words}, {done:,} of {total:,}")
    )


def caught_up(run: JobRun, version: ModelVersion, live: Deployment) -> ModelVersion:
    """Itself, or the increment on it that knows what `live` has learned since."""
    from searchapp.services import catching_up  # noqa: PLC0415  torch: who goes back does without

    run.progress(3, STEPS, "learning what was learned since")
    return catching_up.caught_up(run, version, live)


def gates(
    run: JobRun, version: ModelVersion, live: ModelVersion, corrector_digest: str
) -> list[dict[str, Any]]:
    """Those that still hold for that view, else measured now."""
    run.progress(2, STEPS, "measuring on held-out photos")
    gates = measuring.gates_of(version, live, corrector_digest=corrector_digest)
    if gates is not None:
        return gates

    def heard(done: int, total: int) -> None:
        run.progress(2, STEPS, f"measuring on held-out photos, {done:,} of {total:,}")

    digest = corrector_digest
    return gates_now(verdicts.verdict_make(version, live, heard=heard, job=run.job, corrector_digest=digest))


def promised(version: ModelVersion, live: ModelVersion, corrector_digest: str) -> dict[str, Any]:
    """The cell of the newest verdict that holds, if it is of the view that is put in use."""
    if version == live:
        return {}
    verdict = verdicts.verdict_of(version, live, corrector_digest=corrector_digest)
    return {} if verdict is None else verdicts.promised_cell(verdict)
