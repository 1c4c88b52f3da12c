"""How well a version answers the held-out evaluation queries, alone and beside the version in use.

Each version answers by its own entries, two-stage and calibrated as it serves. Interval: bootstrap over items. What a
whole verdict holds (services.verdicts) counts before a mere comparison of the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db import transaction

from searchapp.models import Evaluation, GalleryEntry, ItemImage, ModelVersion, Verdict
from searchapp.services import versions
from searchapp.services.gallery_columns import read_entries
from searchapp.services.held_out import HeldOut, held_out_fingerprint, held_out_queries
from searchapp.services.held_out_answers import Values, gallery_answers, queries_encoded
from searchapp.services.measured_intervals import change_row, difference_of, metrics_row, turned
from searchapp.services.operator_settings import setting_value
from searchapp.services.photo_features import Heard
from searchapp.services.verdict_gates import MAP_GATE, gate_row, gates_now

STORED = "stored"


def version_answers(
    version: ModelVersion, queries: Sequence[HeldOut], *, heard: Heard = lambda _done, _total: None
) -> Values:
    """METRICS per query, (Q,) each; NaN where nothing relevant is in the version's gallery or the file is gone."""
    calibrations = versions.calibrations_of(version, versions.bundle_of(version))
    asked = queries_encoded(version, queries, heard=heard)
    return gallery_answers(queries, asked, read_entries(version), calibrations).values


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions on the same queries."""

    own: dict[str, Any]  # metrics of the version
    other: dict[str, Any]  # metrics of the version it was compared with
    differences: dict[str, Any]  # metric -> {value, low, high}: version minus other
    gates: list[dict[str, Any]]
    held_out: str  # fingerprint of the held-out photos


def versions_compare(
    version: ModelVersion, other: ModelVersion, *, heard: Heard = lambda _done, _total: None
) -> Comparison:
    """Measure both on the held-out queries, each by its own entries. Writes nothing."""
    queries = held_out_queries()
    items = np.array([query.cluster for query in queries], np.int64)
    total = 2 * len(queries)
    own = version_answers(version, queries, heard=lambda done, _: heard(done, total))
    others = version_answers(other, queries, heard=lambda done, _: heard(len(queries) + done, total))
    loss = turned(difference_of(own["map"], others["map"], items))
    return Comparison(
        own=metrics_row(own, items),
        other=metrics_row(others, items),
        differences=change_row(own, others, items) or {},
        gates=[gate_row(MAP_GATE, setting_value(f"gate.{MAP_GATE}"), loss)],
        held_out=held_out_fingerprint(queries),
    )


def comparison_store(version: ModelVersion, other: ModelVersion, comparison: Comparison) -> None:
    """One evaluation row for each of the two; the version's own also holds differences and gates."""
    with transaction.atomic():
        Evaluation.objects.create(
            version=other, gallery_state=STORED, metrics={"query_version": other.name, **comparison.other}
        )
        Evaluation.objects.create(
            version=version,
            gallery_state=STORED,
            metrics={
                "query_version": version.name,
                **comparison.own,
                "against": other.name,
                "differences": comparison.differences,
                "gates": comparison.gates,
                "held_out": comparison.held_out,
            },
        )


def gates_of(version: ModelVersion, other: ModelVersion) -> list[dict[str, Any]] | None:
    """The latest verdicts on `version` measured against `other`; None when that was never measured.

    Nor was it when the held-out photos have changed since: what was kept out now may say something else. A whole
    verdict counts before a mere comparison, and is told by the limits of now.
    """
    held_out = held_out_fingerprint(held_out_queries())
    verdict = Verdict.objects.filter(version=version, against=other, held_out=held_out).first()
    if verdict is not None:
        return gates_now(verdict)
    rows = Evaluation.objects.filter(version=version, gallery_state=STORED, metrics__against=other.name)
    newest = rows.order_by("-created_at", "-pk").first()
    if newest is None or newest.metrics.get("held_out") != held_out:
        return None
    return list(newest.metrics["gates"])


def photos_without_entry(version: ModelVersion) -> int:
    """Readable photos that no version of its lineage has encoded."""
    return ItemImage.objects.missing_entry(version.lineage).count()


def entries_of(version: ModelVersion) -> int:
    return GalleryEntry.objects.filter(producer=version).count()
