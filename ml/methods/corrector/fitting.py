"""Fits one map to one producer's pairs: ridge in closed form, then the whole map by gradient; the probe decides."""

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ml.losses.truncated_softmax import drift_loss
from ml.methods.corrector.closed_form import ridge_map
from ml.methods.corrector.config import FitConfig
from ml.methods.corrector.pairs import Ids, Pairs, squared_distances
from ml.methods.corrector.probe import ProbeReport, Values, fallback_alert, probed
from ml.models.corrector import Corrector

Kind = Literal["identity", "affine", "full"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The map that the probe preferred, of which kind it is, with which ridge its affine branch was solved, after how
    many steps it was taken, and what the probe said of it. alert: why nothing is corrected, when the kind is identity.
    """

    corrector: Corrector
    kind: Kind
    ridge: float
    steps: int
    report: ProbeReport
    alert: str | None = None


def fit_corrector(pairs: Pairs, probe: Pairs, config: FitConfig, *, seed: int = 0) -> Fitted:
    """Fit to `pairs`, choose ridge, number of steps and kind on `probe`, which nothing is fitted to.

    The same input gives the same weights. A map that leaves more than config.helps_below of the identity's error on
    the probe is not used: the identity is, with an alert. Source: method file corrector, section 4, step 2.
    """
    if pairs.dimension != probe.dimension:
        raise ValueError(f"pairs are {pairs.dimension}-d, the probe {probe.dimension}-d")
    ridge, affine = best_ridge(pairs, probe, config, seed)
    best, steps = trained(affine, pairs, config, steps=config.steps, probe=probe, seed=seed)
    report = probed(best.corrected(probe.stale), probe)
    if report.helps(config.helps_below):
        return Fitted(best, "full" if steps else "affine", ridge, steps, report)
    nothing = Corrector(pairs.dimension, hidden=config.hidden, seed=seed)
    alert = fallback_alert(report, config.helps_below)
    return Fitted(nothing, "identity", ridge, 0, probed(probe.stale, probe), alert)


def refitted(fitted: Fitted, pairs: Pairs, config: FitConfig, *, seed: int = 0) -> Fitted:
    """What the probe chose, fitted once more to all `pairs` (n, D), the probe's among them: ridge and steps stay.

    The report remains that of the map that had not seen the probe, and a correction that was given up stays so.
    Source: method file corrector, section 4, step 4.
    """
    if fitted.kind == "identity":
        return fitted
    chosen = replace(config, ridges=(fitted.ridge,), steps=fitted.steps, check_every=max(1, fitted.steps))
    return replace(fitted, corrector=fit_corrector(pairs, pairs, chosen, seed=seed).corrector)


def out_of_fold_errors(
    pairs: Pairs, fitted: Fitted, config: FitConfig, *, folds: int = 4, seed: int = 0
) -> Values:
    """(n,) squared distances to fresh, each pair's from a map of the same kind that was fitted without it.

    What the map leaves on pairs it has seen says too little. folds: 2 to n.
    """
    if not 2 <= folds <= len(pairs):
        raise ValueError(f"folds is {folds}, allowed 2 to {len(pairs)}")
    fold = np.random.default_rng(seed).permutation(len(pairs)) % folds
    errors = np.empty(len(pairs))
    for number in range(folds):
        unseen = np.flatnonzero(fold == number)
        seen, held_out = pairs.picked(np.flatnonzero(fold != number)), pairs.picked(unseen)
        corrector = Corrector(pairs.dimension, hidden=config.hidden, seed=seed)
        if fitted.kind != "identity":
            corrector.set_affine(ridge_map(seen, ridge=fitted.ridge))
        corrector, _ = trained(corrector, seen, config, steps=fitted.steps, probe=None, seed=seed)
        errors[unseen] = squared_distances(corrector.corrected(held_out.stale), held_out.fresh)
    return errors


def best_ridge(pairs: Pairs, probe: Pairs, config: FitConfig, seed: int) -> tuple[float, Corrector]:
    """The ridge whose affine map does best on the probe, and that map; of equals the first ridge."""
    found = []
    for ridge in config.ridges:
        corrector = Corrector(pairs.dimension, hidden=config.hidden, seed=seed)
        corrector.set_affine(ridge_map(pairs, ridge=ridge))
        found.append((ridge, corrector))
    return min(found, key=lambda candidate: _error(candidate[1], probe))


def trained(
    start: Corrector, pairs: Pairs, config: FitConfig, *, steps: int, probe: Pairs | None, seed: int
) -> tuple[Corrector, int]:
    """`start` after `steps`; with a probe, as it was when it did best there. And after how many steps that is."""
    corrector = copy.deepcopy(start)
    stale, fresh = torch.from_numpy(pairs.stale), torch.from_numpy(pairs.fresh)
    optimiser = optimiser_of(corrector, config.learning_rate, config.weight_decay)
    best, best_step, best_error = start, 0, np.inf if probe is None else _error(start, probe)
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        rows = torch.from_numpy(_batch(rng, len(pairs), config.batch))
        optimiser.zero_grad(set_to_none=True)
        drift_loss(corrector(stale[rows]), fresh[rows]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if probe is not None and (step % config.check_every == 0 or step == steps):
            error = _error(corrector, probe)
            if error < best_error:
                best, best_step, best_error = copy.deepcopy(corrector), step, error
    return (corrector, steps) if probe is None else (best, best_step)


def optimiser_of(corrector: Corrector, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The corrector's own, apart from the encoder's."""
    return torch.optim.AdamW(corrector.parameters(), lr=learning_rate, weight_decay=weight_decay)


def _batch(rng: np.random.Generator, count: int, size: int) -> Ids:
    """All rows when they are not more than a batch, else as many drawn without repetition."""
    return np.arange(count) if count <= size else rng.choice(count, size, replace=False)


def _error(corrector: Corrector, probe: Pairs) -> float:
    return float(squared_distances(corrector.corrected(probe.stale), probe.fresh).mean())
