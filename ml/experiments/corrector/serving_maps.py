"""The maps from old embeddings to new ones that are compared, each from the same few images encoded anew."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ml.experiments.corrector.serving_gallery import Upgrade, Values
from ml.experiments.data import Ids
from ml.methods.corrector.closed_form import rotation_map
from ml.methods.corrector.config import FitConfig
from ml.methods.corrector.fitting import Fitted, fit_corrector, out_of_fold_errors, refitted
from ml.methods.corrector.pairs import Chosen, Pairs, rows_to_encode, squared_distances
from ml.methods.corrector.predicted_error import backfill_order, fit_error_head
from ml.methods.corrector.probe import probed
from ml.models.corrector import Corrector

SHARE = 0.05  # of the gallery, encoded anew to fit from, at least
PER_DIMENSION = 4  # times as many images as an embedding has numbers, at least
CONFIG = FitConfig()


@dataclass(frozen=True, slots=True)
class Encoding:
    """What is encoded anew of a gallery: positions of `chosen`, and the pairs that come of it."""

    chosen: Chosen
    fit: Pairs
    probe: Pairs

    @property
    def rows(self) -> Ids:
        """Positions of all, those to fit first."""
        return np.concatenate([self.chosen.fit, self.chosen.probe])

    @property
    def all(self) -> Pairs:
        """Both together, in the order of `rows`."""
        return Pairs(
            np.concatenate([self.fit.stale, self.probe.stale]),
            np.concatenate([self.fit.fresh, self.probe.fresh]),
        )


def usual_count(upgrade: Upgrade) -> int:
    """Images to encode anew, probe included."""
    entries = len(upgrade.task.gallery)
    dimension = int(upgrade.old.embeddings.shape[1])
    return min(entries, max(math.ceil(SHARE * entries), PER_DIMENSION * dimension))


def encoding_of(upgrade: Upgrade, count: int, seed: int) -> Encoding:
    """`count` images: the probe uniform, the others spread over categories."""
    labels = upgrade.task.gallery_labels
    chosen = rows_to_encode(np.zeros_like(labels), labels, count=count, seed=seed)
    everything = every_pair(upgrade)
    return Encoding(chosen, everything.picked(chosen.fit), everything.picked(chosen.probe))


def every_pair(upgrade: Upgrade) -> Pairs:
    """The whole gallery's, which only an evaluation knows."""
    rows = upgrade.task.gallery
    return Pairs(upgrade.old.embeddings[rows], upgrade.new.embeddings[rows])


def full_map(encoding: Encoding, config: FitConfig, seed: int) -> Fitted:
    """The method's own: what the probe chose, fitted once more to all pairs."""
    fitted = fit_corrector(encoding.fit, encoding.probe, config, seed=seed)
    return refitted(fitted, encoding.all, config, seed=seed)


def affine_map(encoding: Encoding, config: FitConfig, seed: int) -> Fitted:
    """Its ridge regression alone."""
    return full_map(encoding, replace(config, steps=0), seed)


def rotation(encoding: Encoding, config: FitConfig, seed: int) -> Fitted:  # noqa: ARG001 - as the others
    """Orthogonal Procrustes, which needs no probe and learns from it too."""
    corrector = Corrector(encoding.fit.dimension, hidden=1)
    corrector.set_affine(rotation_map(encoding.all))
    report = probed(corrector.corrected(encoding.probe.stale), encoding.probe)
    return Fitted(corrector, "affine", 0.0, 0, report)


MAPS: Mapping[str, Callable[[Encoding, FitConfig, int], Fitted]] = {
    "corrected": full_map, "affine": affine_map, "procrustes": rotation,
}  # fmt: skip


def predicted_order(
    upgrade: Upgrade, encoding: Encoding, fitted: Fitted, config: FitConfig, seed: int
) -> tuple[Ids, Values]:
    """Positions of the gallery, worst served first as far as old embeddings tell, and the errors so predicted."""
    errors = out_of_fold_errors(encoding.all, fitted, config, seed=seed)
    head = fit_error_head(encoding.all.stale, errors, seed=seed)
    predicted = head.predicted(upgrade.old.embeddings[upgrade.task.gallery])
    return backfill_order(predicted, np.arange(len(predicted))), predicted


def random_order(count: int, seed: int, number: int) -> Ids:
    """Positions of a gallery of `count`; another number, another order."""
    return np.random.default_rng([seed, number]).permutation(count)


def true_errors(upgrade: Upgrade, corrector: Corrector) -> Values:
    """(N,) squared distances that the correction leaves: what no one knows without encoding everything."""
    everything = every_pair(upgrade)
    return squared_distances(corrector.corrected(everything.stale), everything.fresh)


def rank_correlation(left: Values, right: Values) -> float:
    """Spearman's, of two columns without ties."""
    ranks = [np.argsort(np.argsort(column)) for column in (left, right)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


class Stopwatch:
    """Seconds of the processor since it was made."""

    def __init__(self) -> None:
        self._started = time.process_time()

    def seconds(self) -> float:
        """Since then."""
        return time.process_time() - self._started
