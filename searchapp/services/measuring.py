"""How well a version answers the held-out evaluation queries, alone and beside the version in use.

Each version answers by its own entries, two-stage and calibrated as it serves. Interval: bootstrap over items. What a
whole verdict holds (services.verdicts) counts before a mere comparison of the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db import transaction

from searchapp.models import (
    ChangeKind,
    Evaluation,
    GalleryChange,
    GalleryEntry,
    ItemImage,
    ModelVersion,
    Verdict,
)
from searchapp.services import versions
from searchapp.services.gallery_columns import read_entries
from searchapp.services.held_out import HeldOut, held_out_fingerprint, held_out_queries
from searchapp.services.held_out_answers import Values, gallery_answers, queries_encoded
from searchapp.services.measured_intervals import change_row, difference_of, metrics_row, turned
from searchapp.services.operator_settings import setting_value
from searchapp.services.photo_features import Heard
from searchapp.services.verdict_gates import MAP_GATE, gate_row, gates_by_limits, gates_now

STORED = "stored"
MOST_CHANGED = 0.1  # of the gallery's entries, before a verdict is measured again


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


def verdict_holding(
    version: ModelVersion, other: ModelVersion, *, corrector_digest: str | None = None
) -> Verdict | None:
    """The newest verdict of the two, unless the held-out photos have changed since.

    With `corrector_digest`, that of the view to be put in use, only a verdict on that very view counts, beside `other`
    as it serves now, and only while no more than MOST_CHANGED of the gallery that it searches has changed.
    """
    held_out = held_out_fingerprint(held_out_queries())
    rows = Verdict.objects.filter(version=version, against=other, held_out=held_out)
    if corrector_digest is None:
        return rows.first()
    wanted = (corrector_digest, corrector_in_use(other))
    for verdict in rows:
        report = verdict.report
        views = tuple(report.get(name, "") for name in ("corrector_digest", "against_corrector_digest"))
        if views == wanted:
            most = MOST_CHANGED * report["gallery"]["entries"]
            return verdict if _entries_changed_since(verdict) <= most else None
    return None


def gates_of(
    version: ModelVersion, other: ModelVersion, *, corrector_digest: str | None = None
) -> list[dict[str, Any]] | None:
    """The latest gates of `version` measured against `other`, by the limits of now; None when that was never measured.

    A whole verdict counts if it holds (`verdict_holding`). A mere comparison counts only where nobody made a verdict,
    and while the held-out photos are the same.
    """
    verdict = verdict_holding(version, other, corrector_digest=corrector_digest)
    if verdict is not None:
        return gates_now(verdict)
    if Verdict.objects.filter(version=version, against=other).exists():
        return None
    rows = Evaluation.objects.filter(version=version, gallery_state=STORED, metrics__against=other.name)
    newest = rows.order_by("-created_at", "-pk").first()
    if newest is None or newest.metrics.get("held_out") != held_out_fingerprint(held_out_queries()):
        return None
    return gates_by_limits(newest.metrics["gates"])


def corrector_in_use(version: ModelVersion) -> str:
    """The digest of the corrector through which `version` answers now; "" for none, or if another is in use."""
    live = versions.champion()
    return live.view.corrector_digest if live.version == version else ""


def _entries_changed_since(verdict: Verdict) -> int:
    """Entries added in the lineage of the other version, and any taken away, as far back as the log of changes goes."""
    added = GalleryEntry.objects.filter(
        producer__lineage=verdict.against.lineage, created_at__gt=verdict.created_at
    )
    since = verdict.report["gallery"]["sequence"]
    removed = GalleryChange.objects.filter(kind=ChangeKind.ENTRY_REMOVED, sequence__gt=since)
    return added.count() + removed.count()


def photos_without_entry(version: ModelVersion) -> int:
    """Readable photos that no version of its lineage has encoded."""
    return ItemImage.objects.missing_entry(version.lineage).count()


def entries_of(version: ModelVersion) -> int:
    return GalleryEntry.objects.filter(producer=version).count()
