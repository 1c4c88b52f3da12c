"""The compatibility matrix: what each of two versions answers on each state of the gallery."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ml.evaluation.two_stage import METRICS
from ml.protocol import Calibration
from ml.retrieval.columns import EntryColumns
from searchapp.models import ModelVersion
from searchapp.services import versions
from searchapp.services.corrected_views import entries_corrected
from searchapp.services.held_out import HeldOut
from searchapp.services.held_out_answers import (
    Answers,
    Asked,
    answers_joined,
    gallery_answers,
    queries_encoded,
)
from searchapp.services.measured_intervals import ENDS, Items, change_row, metrics_row
from searchapp.services.photo_features import Heard
from searchapp.services.verdict_galleries import (
    Photos,
    backfilled,
    entries_by,
    folds_of,
    stored_view,
    with_entries,
)

STORED, CORRECTED, BACKFILLED, ADDED = "stored", "corrected", "backfilled", "added_by_candidate"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: the version, what it made of the queries, its view of the gallery as it is stored, and the
    corrector through which it sees it."""

    version: ModelVersion
    asked: Asked
    view: EntryColumns
    corrector_digest: str = ""

    def seen(self, gallery: EntryColumns) -> EntryColumns:
        return entries_corrected(gallery, self.version, self.corrector_digest)

    def calibrations(self) -> Mapping[str, Calibration]:
        bundle = versions.bundle_of(self.version)
        return versions.calibrations_of(self.version, bundle, corrector_digest=self.corrector_digest)


@dataclass(frozen=True, slots=True)
class Question:
    """The queries, and the photos they are asked of."""

    queries: Sequence[HeldOut]
    photos: Photos

    @property
    def items(self) -> Items:
        return np.array([query.cluster for query in self.queries], np.int64)

    def answers(self, side: Side, gallery: EntryColumns, heard: Heard) -> Answers:
        """Of the raw entries of `gallery`, as that side sees them."""
        return gallery_answers(
            self.queries,
            side.asked,
            side.seen(gallery),
            side.calibrations(),
            facts=self.photos.facts,
            heard=heard,
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """What the queries of one version found in one state of the gallery."""

    query_version: str
    gallery_state: str
    answers: Answers


@dataclass(frozen=True, slots=True)
class Matrix:
    """Its cells, the first of them the baseline; which state serves if the version is put in use, and its gallery."""

    cells: tuple[Cell, ...]
    state: str
    serving: EntryColumns

    @property
    def baseline(self) -> Cell:
        return self.cells[0]

    def cell(self, version: ModelVersion, state: str) -> Cell | None:
        wanted = (version.name, state)
        return next((cell for cell in self.cells if (cell.query_version, cell.gallery_state) == wanted), None)

    @property
    def serving_cell(self) -> Cell:
        """The one that answers if the version is put in use: the baseline is never by it."""
        return next(
            cell
            for cell in self.cells
            if cell.gallery_state == self.state and cell.query_version != self.baseline.query_version
        )

    def rows(self, items: Items) -> list[dict[str, Any]]:
        """As they are told: METRICS with intervals, and the change against the baseline on the same queries."""
        base = self.baseline.answers.values
        nothing = {
            f"{name}{end}": None for name in METRICS for end in ENDS
        }  # where no query has anything to find
        return [
            {
                "query_version": cell.query_version,
                "gallery_state": cell.gallery_state,
                **nothing,
                **metrics_row(cell.answers.values, items),
                "change": None if cell is self.baseline else change_row(cell.answers.values, base, items),
            }
            for cell in self.cells
        ]


def side_of(version: ModelVersion, question: Question, heard: Heard, corrector_digest: str = "") -> Side:
    asked = queries_encoded(version, question.queries, heard=heard)
    return Side(version, asked, stored_view(version, question.photos), corrector_digest)


def cell_count(version: ModelVersion, against: ModelVersion) -> int:
    """How many cells the matrix of the two has at most."""
    return 7 if versions.lineage_compatible(version, against) else 2


def matrix_of(
    question: Question, version: Side, against: Side, *, encoding: Heard, answering: Iterator[Heard]
) -> Matrix:
    """Measure every cell. Versions of two lineages share none but their own galleries.

    The baseline is what `against` answers now, through its corrector if it has one. `encoding` hears of the photos that
    get an entry in memory, each of `answering` of one cell's queries.
    """
    whole = backfilled(version.version, version.view, question.photos, heard=encoding)

    def cell(side: Side, state: str, gallery: EntryColumns) -> Cell:
        return Cell(side.version.name, state, question.answers(side, gallery, next(answering)))

    old = cell(against, STORED, against.view)
    if not versions.lineage_compatible(version.version, against.version):
        return Matrix((old, cell(version, BACKFILLED, whole)), BACKFILLED, version.seen(whole))
    cells = [old, cell(replace(version, corrector_digest=""), STORED, version.view)]
    state = STORED
    if version.corrector_digest:
        state = CORRECTED
        cells.append(cell(version, CORRECTED, version.view))
    cells += [cell(version, BACKFILLED, whole), cell(against, BACKFILLED, whole)]
    made = entries_by(version.version, whole)
    for side in (against, version):
        answers = _with_added(question, side, made, next(answering))
        cells.append(Cell(side.version.name, ADDED, answers))
    return Matrix(tuple(cells), state, version.seen(version.view))


def _with_added(question: Question, side: Side, made: EntryColumns, heard: Heard) -> Answers:
    """Each query in the fold in which what is right for it came since: entries in `made` stand for it."""
    parts = []
    calibrations, done = side.calibrations(), 0
    stored, added = side.seen(side.view), side.seen(made)
    for fold in folds_of(question.queries, side.view, question.photos):
        heard(done, len(question.queries))
        gallery = with_entries(stored, added, only=fold.is_added)
        queries = [question.queries[at] for at in fold.queries.tolist()]
        asked, facts = side.asked.of(fold.queries), question.photos.facts
        parts.append((fold.queries, gallery_answers(queries, asked, gallery, calibrations, facts=facts)))
        done += len(fold.queries)
    return answers_joined(len(question.queries), parts)
