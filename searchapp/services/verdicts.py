"""The judgement of a version beside another: the compatibility matrix, gates, flips, categories and costs, as data.

Every digit but those of `costs` and of the gate "latency" comes out again when the same two are judged again on the
same gallery and the same held-out photos.
"""

from typing import Any

from django.db import transaction

from searchapp.exceptions import Conflict
from searchapp.models import Job, ModelVersion, Verdict
from searchapp.services.deploying import corrector_to_serve
from searchapp.services.gallery_columns import read_entries
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from searchapp.services.measured_intervals import metrics_row
from searchapp.services.measuring import Comparison, comparison_store, verdict_holding
from searchapp.services.photo_features import Heard
from searchapp.services.verdict_costs import costs_now
from searchapp.services.verdict_galleries import photos_judged
from searchapp.services.verdict_gates import MAP_GATE, gates_now
from searchapp.services.verdict_matrix import CORRECTED, STORED, Question, side_of
from searchapp.services.verdict_report import report_measured

Report = dict[str, Any]

_NAMES = frozenset({"query_version", "gallery_state", "change"})


def verdict_make(
    version: ModelVersion,
    against: ModelVersion,
    *,
    heard: Heard = lambda _done, _total: None,
    job: Job | None = None,
    set_name: str = "",
    corrector_digest: str | None = None,
) -> Verdict:
    """Judge `version` as if it took the place of `against`, on the held-out photos or on one evaluation set, and keep
    the verdict. It is judged through the corrector given ("" for none); None for the one it would serve by.

    Raises Conflict for a version beside itself, NotFound for an unknown set.
    """
    if version == against:
        raise Conflict(
            f"{version.name} cannot be judged beside itself; name another version to compare it with."
        )
    digest = corrector_to_serve(version) if corrector_digest is None else corrector_digest
    report = report_measured(version, against, corrector_digest=digest, set_name=set_name, heard=heard)
    with transaction.atomic():
        verdict = Verdict.objects.create(
            version=version, against=against, held_out=report["held_out"], report=report, job=job
        )
        if not set_name:
            comparison_store(version, against, _comparison(report))
    return verdict


def verdict_of(
    version: ModelVersion, against: ModelVersion, *, corrector_digest: str | None = None
) -> Verdict | None:
    """The newest verdict of the two that still holds; with `corrector_digest` of that view (`verdict_holding`)."""
    return verdict_holding(version, against, corrector_digest=corrector_digest)


def report_of(verdict: Verdict) -> Report:
    """What was measured, told by the limits, the decisions on flips and the rates of now."""
    report: Report = verdict.report
    return {**report, "gates": gates_now(verdict), "costs": costs_now(report["costs"])}


def _comparison(report: Report) -> Comparison:
    """The two cells that matter most, as the list of versions shows them."""
    serving = _row(report, report["version"], report["state"])
    return Comparison(
        own=_figures(serving),
        other=_figures(_row(report, report["against"], STORED)),
        differences=serving["change"] or {},
        gates=[gate for gate in report["gates"] if gate["name"] == MAP_GATE],
        held_out=report["held_out"],
    )


def promised_cell(verdict: Verdict) -> Report:
    """Of the state that serves if the version is put in use: METRICS with intervals, n, state and held-out photos."""
    report = verdict.report
    figures = _figures(_row(report, report["version"], report["state"]))
    return {**figures, "state": report["state"], "held_out": report["held_out"]}


def cell_measured(version: ModelVersion, corrector_digest: str = "") -> Report:
    """The one cell that serves while `version` is in use, measured now; the shape of `promised_cell`."""
    queries = held_out_queries()
    photos = photos_judged(read_entries(version), queries)
    question = Question(queries, photos)
    side = side_of(version, question, lambda _done, _total: None, corrector_digest)
    answers = question.answers(side, side.view, lambda _done, _total: None)
    return {
        **metrics_row(answers.values, question.items),
        "state": CORRECTED if corrector_digest else STORED,
        "held_out": held_out_fingerprint(queries),
    }


def _row(report: Report, query_version: str, state: str) -> Report:
    wanted = (query_version, state)
    return next(row for row in report["matrix"] if (row["query_version"], row["gallery_state"]) == wanted)


def _figures(row: Report) -> Report:
    return {name: value for name, value in row.items() if name not in _NAMES}
