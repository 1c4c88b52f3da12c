"""What an explanation tells: where on the photo the match came from, as numbers for programs and in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.occlusion import GRID, OcclusionMap

# Everybody sees the map in tenths of its peak; how much was lost comes with a key alone. Whoever also has the encoder
# could solve the exact losses under so many known covers for the stored embedding.
HEAT_DIGITS = 1

Grid = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Explanation:
    """heat: (GRID, GRID) in [0, 1] over the asked part of the photo, rows from the top, in tenths for everybody;
    drops and log_odds as in OcclusionMap, for callers with a key. image_id: the item's photo that was matched."""

    sku: str
    image_id: int
    heat: Grid
    drops: Grid
    log_odds: float
    is_flat: bool
    summary: str

    def as_dict(self, *, role_is_anonymous: bool) -> dict[str, Any]:
        shown = {
            "sku": self.sku,
            "rows": GRID,
            "columns": GRID,
            "heat": self.heat.tolist(),
            "is_flat": self.is_flat,
            "summary": self.summary,
        }
        if role_is_anonymous:
            return shown
        exact = {"drops": np.round(self.drops, 3).tolist(), "log_odds": round(self.log_odds, 3)}
        return {**shown, **exact}


def explanation_of(found: OcclusionMap, *, sku: str, image_id: int, is_cropped: bool) -> Explanation:
    return Explanation(
        sku=sku,
        image_id=image_id,
        heat=np.round(found.heat, HEAT_DIGITS),
        drops=found.drops,
        log_odds=found.log_odds,
        is_flat=found.is_flat,
        summary=summary_of(found, whole="crop" if is_cropped else "photo"),
    )


FLAT = "No single part decides this match: covering any part of your {whole} changes it very little."
SPREAD = "The match came from all over your {whole}."
SEVERAL = "The match came from more than one part of your {whole}."
MOST = "Most of the match came from {region} of your {whole}."
# The words speak of what a page draws its line around: cells of at least this heat.
LIT = 0.5
# With so many of all cells lit, the match is everywhere.
SPREAD_SHARE = 0.6
# From the smallest to the largest, with the share of the lit heat that makes it "most": a quarter, then a half.
_LOW, _MID, _HIGH = slice(0, GRID // 2), slice(GRID // 4, GRID - GRID // 4), slice(GRID // 2, GRID)
_ALL = slice(0, GRID)
QUARTERS = {
    "the upper left": (_LOW, _LOW),
    "the upper right": (_LOW, _HIGH),
    "the lower left": (_HIGH, _LOW),
    "the lower right": (_HIGH, _HIGH),
    "the middle": (_MID, _MID),
    "the upper middle": (_LOW, _MID),
    "the lower middle": (_HIGH, _MID),
    "the middle left": (_MID, _LOW),
    "the middle right": (_MID, _HIGH),
}
HALVES = {
    "the upper half": (_LOW, _ALL),
    "the lower half": (_HIGH, _ALL),
    "the left half": (_ALL, _LOW),
    "the right half": (_ALL, _HIGH),
}
QUARTER_SHARE, HALF_SHARE = 0.6, 0.7


def summary_of(found: OcclusionMap, *, whole: str) -> str:
    """The map in one sentence, for those who cannot see it; `whole` is what it lies over: photo or crop."""
    if found.is_flat:
        return FLAT.format(whole=whole)
    is_lit = found.heat >= LIT
    heat = np.where(is_lit, found.heat, 0) / found.heat[is_lit].sum()
    for regions, share in ((QUARTERS, QUARTER_SHARE), (HALVES, HALF_SHARE)):
        shares = {name: float(heat[cells].sum()) for name, cells in regions.items()}
        best = max(shares, key=lambda name: shares[name])
        if shares[best] >= share:
            return MOST.format(region=best, whole=whole)
    return (SPREAD if is_lit.mean() >= SPREAD_SHARE else SEVERAL).format(whole=whole)
