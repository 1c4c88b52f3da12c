"""The product's answer in two stages, before an increment and after it: pools by code, fused log-odds.

Before it, entries of the new categories are provisional: encoded by the parent's heads, calibrated as its own. After
it they are another producer's, with a calibration of their own, fitted on validation photos of both kinds.
"""

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.two_stage import CodedSet, answer_values, two_stage_scores
from ml.experiments.data import Ids
from ml.experiments.lifelong.curriculum import Curriculum
from ml.experiments.lifelong.measuring import Exam, Values
from ml.experiments.lifelong.stages import Stage
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.protocol import Calibration
from ml.training.calibration import Similarities, choose_pool_size, fit_fusion

MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
FITTED_ON = 100  # validation photos of each kind, evenly spaced
FEWEST = 5  # new ones; with fewer the parent's calibration serves


def before(exam: Exam, parent: Stage, rows: Ids, *, known: int, learned: int) -> Values:
    """(Q,) AP of photos of the first `learned` classes by the parent, `known` of them its own; rows: every entry."""
    curriculum = exam.curriculum
    provisional = rows[len(parent.rows) :]
    own = signs_of_logits(outputs_of(parent.heads.image, curriculum.features.vectors[provisional]))
    entries = _coded(curriculum, rows, np.concatenate([parent.codes, own]))
    fitted = _calibration(curriculum, parent.heads, entries, rows, _validation(curriculum, 0, known))
    assert fitted is not None, "a base without validation photos cannot be calibrated"
    return _answered(exam, parent.heads, entries, rows, np.zeros(len(rows), np.int64), [fitted], learned)


def after(exam: Exam, stage: Stage, *, known: int, learned: int) -> Values:
    """(Q,) AP of photos of the first `learned` classes by the new version; entries of new classes have a producer
    of their own.
    """
    curriculum, rows = exam.curriculum, stage.rows
    entries = _coded(curriculum, rows, stage.codes)
    producers = (np.arange(len(rows)) >= stage.learned).astype(np.int64)
    old, new = _validation(curriculum, 0, known), _validation(curriculum, known, learned)
    asked = np.concatenate([old, new])
    first = _calibration(curriculum, stage.heads, _part(entries, producers == 0), rows[producers == 0], asked)
    assert first is not None, "a base without validation photos cannot be calibrated"
    own = None
    if len(new) >= FEWEST:
        own = _calibration(
            curriculum, stage.heads, _part(entries, producers == 1), rows[producers == 1], asked
        )
    return _answered(exam, stage.heads, entries, rows, producers, [first, own or first], learned)


def _answered(  # noqa: PLR0917 -- who asks, whom, and how scores are read
    exam: Exam,
    heads: CrossModalHeads,
    entries: CodedSet,
    rows: Ids,
    producers: Ids,
    calibrations: list[Calibration],
    learned: int,
) -> Values:
    labels = exam.curriculum.labels
    asking = exam.photos[labels[exam.photos] < learned]
    queries = _coded(exam.curriculum, asking, _signs(exam.curriculum, heads, asking))
    scores = two_stage_scores(queries, entries, producers, calibrations)
    values = np.full(len(exam.labels), np.nan)
    found = answer_values(scores, labels[asking][:, None] == labels[rows])["map"]
    values[np.flatnonzero(exam.is_photo & (exam.labels < learned))] = found
    return values


def _calibration(
    curriculum: Curriculum, heads: CrossModalHeads, entries: CodedSet, rows: Ids, asking: Ids
) -> Calibration | None:
    """Of one producer; None when its validation photos tell nothing."""
    queries = _coded(curriculum, asking, _signs(curriculum, heads, asking))
    labels = curriculum.labels
    pairs = Similarities(
        code=queries.signs @ entries.signs.T / np.float32(queries.signs.shape[1]),
        cosine=queries.embeddings @ entries.embeddings.T,
        relevant=labels[asking][:, None] == labels[rows],
    )
    answerable = pairs.relevant.any(axis=1)
    known = Similarities(pairs.code[answerable], pairs.cosine[answerable], pairs.relevant[answerable])
    try:
        # Queries without an answer here take part: they are its false alarms.
        fusion = fit_fusion(pairs, pairs, is_cautious=True, mixes=MIXES)
    except (ValueError, ArithmeticError):
        return None
    return Calibration(
        intercept=fusion.intercept, code_weight=fusion.code_weight, embedding_weight=fusion.embedding_weight,
        strong=1.0, weak=0.0, pool_size=choose_pool_size(known, fusion),
    )  # fmt: skip


def _validation(curriculum: Curriculum, first: int, end: int) -> Ids:
    rows = curriculum.features.chain.validation
    own = rows[(curriculum.labels[rows] >= first) & (curriculum.labels[rows] < end)]
    return own[:: max(1, -(-len(own) // FITTED_ON))]


def _signs(curriculum: Curriculum, heads: CrossModalHeads, rows: Ids) -> NDArray[np.int8]:
    return signs_of_logits(outputs_of(heads.image, curriculum.features.vectors[rows]))


def _coded(curriculum: Curriculum, rows: Ids, codes: NDArray[np.int8]) -> CodedSet:
    return CodedSet(codes.astype(np.float32), curriculum.features.embeddings[rows])


def _part(entries: CodedSet, chosen: NDArray[np.bool_]) -> CodedSet:
    return CodedSet(entries.signs[chosen], entries.embeddings[chosen])
