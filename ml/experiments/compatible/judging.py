"""What a row of a new encoder holds: answers by itself and on what the old one stored, and what they come to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.base_version.recipe import Stored
from ml.base_version.stored import stored_of
from ml.evaluation.compatibility import Figures, flips, relative_flip_rate, summary_scores, update_gain
from ml.evaluation.metrics import mean_of
from ml.experiments.compatible.measuring import (
    Values,
    by_knowledge,
    crowded_contrast,
    found_by,
    found_by_codes,
    fused_answers,
)
from ml.experiments.corrector.serving_encoders import Encoded
from ml.experiments.data import ClassSplit, Ids
from ml.experiments.ledger import RunRecord

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class OldSystem:
    """encoded: of every image of the split. rows (C, D): its classifier. learned (C,): its classes. record: its row."""

    encoded: Encoded
    rows: NDArray[np.float32]
    learned: Flags
    record: RunRecord

    def stored(self, split: ClassSplit, labels: Ids | None = None) -> Stored:
        """What it stored of the training images, all of which are entries; see `stored_by`."""
        return stored_by(split, self.encoded, labels)


def stored_by(split: ClassSplit, encoded: Encoded, labels: Ids | None = None) -> Stored:
    """What an encoder stored of the training images. labels (n,): as they are known; None: the true ones."""
    codes, embeddings = encoded.codes[split.train], encoded.embeddings[split.train]
    return stored_of(codes, embeddings, split.train_labels if labels is None else labels, split.base)


def judged_old(split: ClassSplit, encoded: Encoded) -> tuple[dict[str, Any], dict[str, Values]]:
    """Values and per-query values of the old system's row."""
    per_query: dict[str, Values] = found_by(split.final, encoded, encoded, "self")
    per_query |= found_by_codes(split.final, encoded, encoded, "self")
    per_query |= fused_answers(split, encoded, encoded, "self")
    values: dict[str, Any] = _means(per_query)
    values |= _means(found_by(split.choosing, encoded, encoded, "choosing_self"))
    return values | stored_by(split, encoded).space.summary(), per_query


def judged_new(
    split: ClassSplit, old: OldSystem, new: Encoded, *, learned: Flags, is_whole: bool
) -> tuple[dict[str, Any], dict[str, Values]]:
    """Of a new encoder's row. learned (C,): its classes. is_whole: codes, fused answers and flips too."""
    space = old.stored(split).space
    per_query = found_by(split.final, new, new, "self") | found_by(split.final, new, old.encoded, "cross")
    per_query["crowded_contrast"] = crowded_contrast(split.final, per_query["self_map"], space)
    values: dict[str, Any] = {}
    if is_whole:
        per_query |= _stages(split, old, new)
        before = old.record.per_query["fused_self_recall_at_1"]
        values["relative_flips"] = relative_flip_rate(before, per_query["fused_cross_recall_at_1"])
    for name in ("self_map", "cross_map"):
        values |= by_knowledge(split.final, old.learned, learned, per_query[name], name)
    chosen = found_by(split.choosing, new, new, "choosing_self")
    chosen |= found_by(split.choosing, new, old.encoded, "choosing_cross")
    return values | _means(per_query) | _means(chosen), per_query


def compared_with_free(
    values: Mapping[str, Any], old: Mapping[str, Any], free: Mapping[str, Any]
) -> dict[str, float]:
    """Update gain and AdvBCT's scores against free training of the same seed, on both tasks; NaN is left out."""
    found: dict[str, float] = {}
    for prefix in ("", "choosing_"):
        own, cross = values[f"{prefix}self_map"], values[f"{prefix}cross_map"]
        figures = Figures(own, cross, float(old[f"{prefix}self_map"]), float(free[f"{prefix}self_map"]))
        scores = summary_scores([figures])
        found |= {
            f"{prefix}gain": update_gain(figures.cross, figures.old, figures.independent),
            f"{prefix}p_up": scores.up, f"{prefix}p_comp": scores.compatible, f"{prefix}p_1": scores.both,
        }  # fmt: skip
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _stages(split: ClassSplit, old: OldSystem, new: Encoded) -> dict[str, Values]:
    """Codes alone and both stages together, on the live gallery and on one encoded anew; flips at first place."""
    found = found_by_codes(split.final, new, new, "self")
    found |= found_by_codes(split.final, new, old.encoded, "cross")
    found |= fused_answers(split, new, new, "self") | fused_answers(split, new, old.encoded, "cross")
    before = old.record.per_query["fused_self_recall_at_1"]
    for state, name in (("cross", ""), ("self", "_backfilled")):
        turned = flips(before, found[f"fused_{state}_recall_at_1"])
        found |= {f"negative_flips{name}": turned.negative, f"positive_flips{name}": turned.positive}
    return found


def _means(per_query: Mapping[str, Values]) -> dict[str, float]:
    return {metric: mean_of(own)[0] for metric, own in per_query.items()}
