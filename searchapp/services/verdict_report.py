"""Measuring a version beside another, from the queries to the whole report. Writes no entry."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ml.evaluation.compatibility import update_gain
from ml.evaluation.intervals import Interval
from ml.evaluation.metrics import mean_of
from searchapp.models import ModelVersion
from searchapp.services import versions
from searchapp.services.gallery_columns import read_entries
from searchapp.services.gallery_views import counter_value
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from searchapp.services.held_out_answers import Answers
from searchapp.services.measured_intervals import DIGITS, SEED, change_row, difference_of, turned
from searchapp.services.measuring import corrector_in_use
from searchapp.services.operator_settings import setting_values
from searchapp.services.pair_calibrating import pairs_calibrate
from searchapp.services.photo_features import Heard
from searchapp.services.verdict_categories import (
    LEAST_QUERIES,
    CategoryChange,
    category_changes,
    category_rows,
    confidence_each,
    worst_loss,
)
from searchapp.services.verdict_costs import TIMED_QUERIES, Timed, costs_row, queries_timed, slowness
from searchapp.services.verdict_flips import flips_row, negative_rate
from searchapp.services.verdict_galleries import not_by, photos_judged, stored_view
from searchapp.services.verdict_gates import MAP_GATE, Gate, allowing_for_unseen, gate_row
from searchapp.services.verdict_matrix import (
    ADDED,
    BACKFILLED,
    CORRECTED,
    STORED,
    Matrix,
    Question,
    Side,
    cell_count,
    matrix_of,
    side_of,
)

LATENCY = "latency"
UNITS = 1000  # of the progress bar
CALIBRATED = 300  # photos that reading a pair of versions is about, for the progress bar alone


@dataclass(frozen=True, slots=True)
class _Found:
    """What the report tells, measured."""

    question: Question
    version: Side
    against: Side
    matrix: Matrix
    categories: list[CategoryChange]
    first: tuple[Side, Answers] | None  # of the encoder's first version, on the gallery as stored
    slowness: Interval | None

    @property
    def before(self) -> Answers:
        return self.matrix.baseline.answers

    @property
    def after(self) -> Answers:
        return self.matrix.serving_cell.answers


def report_measured(
    version: ModelVersion,
    against: ModelVersion,
    *,
    corrector_digest: str,
    set_name: str = "",
    heard: Heard,
) -> dict[str, Any]:
    """The report of services.verdicts; readings between the two that nobody has yet are measured and kept first.

    `version` is judged through that corrector ("" for none), `against` through the one it serves by.
    """
    sequence = counter_value()
    queries = held_out_queries(set_name=set_name)
    gallery = read_entries(against)
    question = Question(queries, photos_judged(gallery, queries))
    first = first_of(version, against)
    progress = _Progress(heard)
    missing = not_by(version, stored_view(version, question.photos), question.photos)
    progress.plan(
        len(queries) * (2 + (first is not None) + cell_count(version, against) + 1)
        + len(missing) + CALIBRATED + TIMED_QUERIES
    )  # fmt: skip
    calibrating = progress.part(CALIBRATED)
    if versions.lineage_compatible(version, against):
        pairs_calibrate(version, heard=calibrating)
    sides = (version, corrector_digest), (against, corrector_in_use(against))
    own, other = (side_of(one, question, progress.part(len(queries)), digest) for one, digest in sides)
    matrix = matrix_of(
        question, own, other,
        encoding=progress.part(len(missing)), answering=progress.parts(len(queries)),
    )  # fmt: skip
    base = None
    if first is not None:
        side = side_of(first, question, progress.part(len(queries)))
        base = side, question.answers(side, side.view, progress.part(len(queries)))
    timed = _timed(own, other, matrix)
    times = queries_timed(timed, queries, heard=progress.part(TIMED_QUERIES))
    found = _Found(
        question, own, other, matrix,
        category_changes(
            queries, matrix.baseline.answers.values["map"], matrix.serving_cell.answers.values["map"]
        ),
        base, slowness(*times),
    )  # fmt: skip
    facts = question.photos.facts
    pictures = list(zip(facts.contents.tolist(), facts.extensions.tolist(), strict=True))
    return {
        **_told(found, sequence=sequence, set_name=set_name),
        "costs": costs_row(timed, times, pictures=pictures, entries=len(gallery)),
    }


def first_of(version: ModelVersion, against: ModelVersion) -> ModelVersion | None:
    """The `M.0` that the increments of the version in use began with, or those of `version`; None when there is no
    older one to look back at than `against`."""
    for one in (against, version):
        if one.minor:
            first = versions.trunk_of(one)
            return None if first == against else first
    return None


def gates_measured(found: _Found) -> list[Gate]:
    """By the limits of now; which loss each is about stands in the docstring of services.verdict_gates."""
    limits = setting_values()
    items, before, after = found.question.items, found.before, found.after

    def gate(name: str, loss: Interval | None, **more: Any) -> Gate:
        return gate_row(name, float(limits[f"gate.{name}"]), loss, **more)

    def loss_of(one: Answers, against: Answers) -> Interval | None:
        return allowing_for_unseen(turned(difference_of(one.values["map"], against.values["map"], items)))

    told = [change for change in found.categories if change.loss is not None]
    gates = [
        gate(MAP_GATE, loss_of(after, before)),
        gate("flips", negative_rate(before, after, items)),
        gate(
            "worst_category", worst_loss(told), categories=len(told), least_queries=LEAST_QUERIES,
            confidence_each=confidence_each(len(told)),
        ),
        gate(LATENCY, found.slowness),
    ]  # fmt: skip
    added = found.matrix.cell(found.against.version, ADDED)
    if added is not None:
        gates.append(gate("rollback_loss", loss_of(added.answers, before)))
    if found.first is not None:
        gates.append(gate("chain_loss", loss_of(after, found.first[1])))
    return gates


def _told(found: _Found, *, sequence: int, set_name: str) -> dict[str, Any]:
    question, matrix = found.question, found.matrix
    version, against, items = found.version.version, found.against.version, found.question.items
    photos = question.photos
    notes = []
    if matrix.cell(version, CORRECTED) is None and matrix.state != BACKFILLED:
        notes.append("This version would serve without a corrector, so there is no corrected gallery to ask.")
    if found.against.corrector_digest:
        notes.append(f"{against.name} is asked through the corrector it serves by, on every gallery here.")
    if matrix.state == BACKFILLED:
        notes.append("The two have no common lineage: only a gallery that is wholly re-encoded can be asked.")
    if photos.is_sample:
        asked = f"{len(photos.facts.image_ids):,} of {photos.in_gallery:,}"
        notes.append(f"Every cell is measured on the same sample of {asked} photos.")
    return {
        "version": version.name,
        "against": against.name,
        "seed": SEED,
        "set": set_name,
        "held_out": held_out_fingerprint(question.queries),
        "queries": len(question.queries),
        "state": matrix.state,
        "corrector_digest": found.version.corrector_digest,
        "against_corrector_digest": found.against.corrector_digest,
        "gallery": {
            "entries": photos.in_gallery,
            "sequence": sequence,
            "sampled": len(photos.facts.image_ids) if photos.is_sample else None,
        },
        "notes": notes,
        "matrix": matrix.rows(items),
        "gates": gates_measured(found),
        "flips": flips_row(question.queries, found.before, found.after, items),
        "per_category": category_rows(found.categories),
        "chain": _chain(found),
        "update_gain": _gain(matrix, found.version),
    }


def _chain(found: _Found) -> dict[str, Any] | None:
    if found.first is None:
        return None
    side, answers = found.first
    changes = change_row(found.after.values, answers.values, found.question.items)
    return {"first": side.version.name, "map_change": (changes or {}).get("map")}


def _gain(matrix: Matrix, version: Side) -> float | None:
    """Of queries on the gallery as stored, of what a full re-encode would gain; None where that is nothing."""
    cross, upper = (matrix.cell(version.version, state) for state in (STORED, BACKFILLED))
    if cross is None or upper is None:
        return None
    means = [mean_of(cell.answers.values["map"])[0] for cell in (cross, matrix.baseline, upper)]
    gain = update_gain(*means)
    return round(gain, DIGITS) if math.isfinite(gain) else None


def _timed(version: Side, against: Side, matrix: Matrix) -> list[Timed]:
    return [
        Timed(version.version, matrix.serving, version.calibrations()),
        Timed(against.version, against.seen(against.view), against.calibrations()),
    ]


class _Progress:
    """One bar over parts of different length, which come one after the other."""

    def __init__(self, heard: Heard) -> None:
        self._heard, self._total, self._begun = heard, 1, 0

    def plan(self, total: int) -> None:
        self._total = max(1, total)

    def part(self, size: int) -> Heard:
        """The next `size` of the whole."""
        begun = self._begun
        self._begun += size

        def heard(done: int, total: int) -> None:
            reached = min(begun + size * done // max(1, total), self._total)
            self._heard(UNITS * reached // self._total, UNITS)

        return heard

    def parts(self, size: int) -> Iterator[Heard]:
        while True:
            yield self.part(size)
