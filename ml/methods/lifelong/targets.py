"""From integer statistics to what training and the code step regress onto."""

from collections.abc import Sequence

import numpy as np
import torch

from ml.losses.fixed_codes import StoredPairs
from ml.methods.lifelong.labels import Centring, Floats, LabelRegistry, LabelSet
from ml.methods.lifelong.statistics import LabelTotals


def code_targets(totals: LabelTotals, rows: Floats, centring: Centring) -> Floats:
    """(U, L) label rows -> (U, c) sum over stored codes of T_uj b_j, without forming T."""
    return np.asarray(centring.scale * rows @ totals.label_codes + centring.shift * totals.code_sum)


def target_squares(totals: LabelTotals, rows: Floats, centring: Centring) -> Floats:
    """(U, L) label rows -> (U,) sum over stored codes of T_uj^2."""
    a, b = centring.scale, centring.shift
    quadratic = ((rows @ totals.label_gram) * rows).sum(axis=1)
    return np.asarray(a**2 * quadratic + 2 * a * b * rows @ totals.label_total + b**2 * totals.items)


def stored_pairs(
    totals: LabelTotals,
    registry: LabelRegistry,
    sets: Sequence[LabelSet],
    centring: Centring,
    *,
    dtype: torch.dtype = torch.float32,
) -> StoredPairs:
    """The pair loss of samples that carry one of `sets`; a sample names its set by position."""
    if totals.items < 1:
        raise ValueError("no stored codes: there is nothing to hold an encoder to")
    rows = registry.rows(sets)
    return StoredPairs(
        targets=torch.tensor(code_targets(totals, rows, centring) / totals.items, dtype=dtype),
        squares=torch.tensor(target_squares(totals, rows, centring) / totals.items, dtype=dtype),
        gram=torch.tensor(totals.gram / totals.items, dtype=dtype),
    )
