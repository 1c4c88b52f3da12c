"""How well a version answers the held-out evaluation queries, alone and beside the version in use.

Each version answers by its own entries, two-stage and calibrated as it serves; a query that is also a catalogue photo
leaves its own entry out. Interval: bootstrap over items. Gate: the loss of mean average precision against the version
in use fails when its interval lies above MAP_LOSS_LIMIT, passes when it lies at or below it, and otherwise nobody can
tell; nor can they with held-out photos of fewer than LEAST_ITEMS items.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from django.db import transaction
from numpy.typing import NDArray

from ml.evaluation.intervals import Interval, clustered_interval, paired_interval
from ml.evaluation.retrieval import signs_of
from ml.evaluation.two_stage import METRICS, CodedSet, answer_values, two_stage_scores
from ml.protocol import Calibration
from ml.retrieval.columns import EntryColumns
from searchapp.models import Evaluation, EvaluationQuery, GalleryEntry, ItemImage, ModelVersion, stored_path
from searchapp.services import intake, versions
from searchapp.services.gallery_columns import in_chunks, read_entries, read_items
from searchapp.services.photo_features import Heard

STORED = "stored"
MAP_GATE, MAP_LOSS_LIMIT = "map_loss", 0.01
# A larger sample only narrows the interval further; queries are taken in the order of their SHA-256.
MAX_QUERIES = 2000
# Drawing from fewer items again and again shows far too narrow an interval: of one item, none at all.
LEAST_ITEMS = 10
SEED = 0
_BLOCK, _CELLS = 64, 16_000_000  # queries at a time, and scores: bounded memory

Values = dict[str, NDArray[np.float64]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One evaluation query, as measuring needs it."""

    image_sha256: str
    path: str
    by_item: bool
    item_id: int | None
    category_id: int
    cluster: int  # photos of one item are not independent


def held_out_queries(*, with_categories: Collection[int] = ()) -> list[HeldOut]:
    """Up to MAX_QUERIES of them, the same ones each time; and as many of `with_categories`, whatever their place."""
    rows = EvaluationQuery.objects.order_by("image_sha256", "pk")
    chosen = {row.pk: row for row in rows[:MAX_QUERIES]}
    if with_categories:
        chosen |= {row.pk: row for row in rows.filter(category__in=with_categories)[:MAX_QUERIES]}
    found = []
    for row in chosen.values():
        by_item = row.relevance == EvaluationQuery.Relevance.ITEM and row.item_id is not None
        found.append(
            HeldOut(
                row.image_sha256,
                stored_path(row.image_sha256, row.extension),
                by_item,
                row.item_id,
                row.category_id,
                row.item_id if row.item_id is not None else -row.pk,
            )
        )
    return found


def held_out_fingerprint(queries: Sequence[HeldOut]) -> str:
    """Which held-out photos were asked, and what counts as right for each: another one is another measurement."""
    digest = sha256()
    for query in queries:
        digest.update(f"{query.image_sha256} {query.by_item} {query.item_id} {query.category_id}\n".encode())
    return f"{len(queries)} {digest.hexdigest()}"


def version_answers(
    version: ModelVersion, queries: Sequence[HeldOut], *, heard: Heard = lambda _done, _total: None
) -> Values:
    """METRICS per query, (Q,) each; NaN where nothing relevant is in the version's gallery or the file is gone."""
    calibrations = versions.calibrations_of(version, versions.bundle_of(version))

    def encoded(block: slice) -> tuple[list[int], CodedSet]:
        return _encoded(version, queries[block])

    return gallery_answers(queries, encoded, read_entries(version), calibrations, heard=heard)


def gallery_answers(
    queries: Sequence[HeldOut],
    encoded: Callable[[slice], tuple[list[int], CodedSet]],
    gallery: EntryColumns,
    calibrations: Mapping[str, Calibration],
    *,
    heard: Heard = lambda _done, _total: None,
) -> Values:
    """METRICS per query, (Q,) each, of a gallery whose producers have these calibrations; NaN as above.

    encoded: of a block of queries, the positions in it of those that could be read, and their codes and embeddings.
    """
    present, producers = np.unique(gallery.producers, return_inverse=True)
    used = [calibrations[gallery.producer_names[position]] for position in present.tolist()]
    coded = CodedSet(signs_of(gallery.codes), gallery.embeddings.astype(np.float32))
    facts = _EntryFacts(gallery.image_ids, gallery.item_ids)
    values = {name: np.full(len(queries), np.nan) for name in METRICS}
    size = max(1, min(_BLOCK, _CELLS // max(1, len(gallery))))
    for start in range(0, len(queries), size):
        heard(start, len(queries))
        readable, vectors = encoded(slice(start, start + size))
        if not readable or not len(gallery):
            continue
        asked = [queries[start + at] for at in readable]
        relevant, hidden = facts.relevant(asked), facts.own(asked)
        scores = two_stage_scores(vectors, coded, producers, used, hidden=hidden)
        for name, found in answer_values(scores, relevant & ~hidden).items():
            values[name][[start + at for at in readable]] = found
    return values


class _EntryFacts:
    """Item, category and content of each entry of a gallery."""

    def __init__(self, image_ids: NDArray[np.int64], item_ids: NDArray[np.int64]) -> None:
        items = read_items()
        category_of = dict(zip(items.item_ids.tolist(), items.category_ids.tolist()))
        sha_of: dict[int, str] = {}
        for ids in in_chunks(image_ids.tolist()):
            sha_of |= dict(ItemImage.objects.filter(pk__in=ids).values_list("pk", "image_sha256"))
        self.items = item_ids
        self.categories = np.array([category_of.get(item, -1) for item in item_ids.tolist()], np.int64)
        self.contents = np.array([sha_of.get(image, "") for image in image_ids.tolist()], dtype=object)

    def relevant(self, queries: Sequence[HeldOut]) -> NDArray[np.bool_]:
        rows = [
            self.items == query.item_id if query.by_item else self.categories == query.category_id
            for query in queries
        ]
        return np.stack(rows).astype(np.bool_)

    def own(self, queries: Sequence[HeldOut]) -> NDArray[np.bool_]:
        return np.stack([self.contents == query.image_sha256 for query in queries]).astype(np.bool_)


def _encoded(version: ModelVersion, queries: Sequence[HeldOut]) -> tuple[list[int], CodedSet]:
    """Positions of the queries whose file could be read, and what the encoder made of those, one by one."""
    encoder = versions.encoder_of(version)
    readable, codes, embeddings = [], [], []
    for at, query in enumerate(queries):
        try:
            pixels = intake.stored_pixels(query.path, input_size=encoder.input_size)
        except (OSError, ValueError, SyntaxError) as error:
            logger.warning("evaluation query %s cannot be read: %s", query.image_sha256, error)
            continue
        encoded = encoder.encode(pixels[None])
        readable.append(at)
        codes.append(encoded.packed_codes[0])
        embeddings.append(encoded.embeddings[0])
    if not readable:
        return [], CodedSet(np.empty((0, version.code_bits), np.float32), np.empty((0, 0), np.float32))
    return readable, CodedSet(signs_of(np.stack(codes)), np.stack(embeddings))


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
    differences = {name: _paired(own[name], others[name], items) for name in METRICS}
    return Comparison(
        own=_metrics(own, items),
        other=_metrics(others, items),
        differences={
            name: {"value": found.value, "low": found.low, "high": found.high}
            for name, found in differences.items()
            if found is not None
        },
        gates=[_map_gate(differences["map"])],
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

    Nor was it when the held-out photos have changed since: what was kept out now may say something else.
    """
    rows = Evaluation.objects.filter(version=version, gallery_state=STORED, metrics__against=other.name)
    newest = rows.order_by("-created_at", "-pk").first()
    if newest is None or newest.metrics.get("held_out") != held_out_fingerprint(held_out_queries()):
        return None
    return list(newest.metrics["gates"])


def _metrics(values: Values, items: NDArray[np.int64]) -> dict[str, Any]:
    found: dict[str, Any] = {"n": int((~np.isnan(values["map"])).sum())}
    for name in METRICS if found["n"] else ():
        interval = clustered_interval(values[name], items, seed=SEED)
        found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


def _paired(
    own: NDArray[np.float64], other: NDArray[np.float64], items: NDArray[np.int64]
) -> Interval | None:
    if np.isnan(own - other).all():
        return None
    return paired_interval(own, other, items, seed=SEED)


def _map_gate(difference: Interval | None) -> dict[str, Any]:
    """The loss is the difference turned round: positive when the version is the worse one."""
    gate: dict[str, Any] = {"name": MAP_GATE, "threshold": MAP_LOSS_LIMIT}
    if difference is None:
        return gate | {"value": None, "low": None, "high": None, "items": 0, "verdict": "cannot_tell"}
    value, low, high = (round(-x, 6) for x in (difference.value, difference.high, difference.low))
    verdict = "fail" if low > MAP_LOSS_LIMIT else "pass" if high <= MAP_LOSS_LIMIT else "cannot_tell"
    if difference.clusters < LEAST_ITEMS:
        verdict = "cannot_tell"
    return gate | {"value": value, "low": low, "high": high, "items": difference.clusters, "verdict": verdict}


def photos_without_entry(version: ModelVersion) -> int:
    """Readable photos that no version of its lineage has encoded."""
    return ItemImage.objects.missing_entry(version.lineage).count()


def entries_of(version: ModelVersion) -> int:
    return GalleryEntry.objects.filter(producer=version).count()
