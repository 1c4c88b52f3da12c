"""What docs/results.md says first of an experiment in words."""

from collections.abc import Sequence

from ml.experiments.evidence import Evidence


def opening(evidence: Evidence, parts: Sequence[str], findings: Sequence[str]) -> str:
    """The findings as a list; of a run of less than everything, only what it lacks.

    parts: beginnings of settings that a whole run has.
    """
    settings = {str(row["setting"]) for row in evidence.rows}
    missing = [part for part in parts if not any(setting.startswith(part) for setting in settings)]
    if missing:
        return f"**Unfinished: nothing of {', '.join(missing)} yet.** "
    return as_list(findings)


def as_list(findings: Sequence[str]) -> str:
    """What a whole run came to."""
    return "\n".join(["**What it came to**", "", *(f"- {finding}" for finding in findings), "", ""])
