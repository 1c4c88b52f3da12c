"""What a map is worth on images it was not fitted on, when to give it up, and what no map can mend."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.methods.corrector.pairs import Pairs, squared_distances
from ml.models.corrector import Corrector
from ml.protocol import Embeddings

Values = NDArray[np.float64]
NO_DRIFT = 1e-6  # mean squared distance that float16 storage alone comes to: there is nothing to correct
_BLOCK = 1_024


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """On the probe: mean squared distance to fresh embeddings without (staleness) and with the map (error), the median
    and 5 % quantile of the cosine between corrected and fresh, and the squared distance that one vector for all images
    would leave (constant).
    """

    staleness: float
    error: float
    cosine_median: float
    cosine_low: float
    items: int
    constant: float = float("inf")

    @property
    def ratio(self) -> float:
        """Error over staleness: 1 as the identity, 0 perfect; 1 where nothing has drifted."""
        return 1.0 if self.staleness < NO_DRIFT else self.error / self.staleness

    def helps(self, below: float) -> bool:
        """Whether the map is worth using. Where nothing has drifted any map that keeps it so is. A map that learned
        no more than the mean is not, however far from fresh the stale embeddings are: it would make all images alike.
        """
        if self.staleness < NO_DRIFT:
            return self.error < NO_DRIFT
        return self.error <= below * min(self.staleness, self.constant)


def probed(corrected: Embeddings, pairs: Pairs) -> ProbeReport:
    """Judge corrected (n, D) by the fresh embeddings of the same n pairs."""
    errors = squared_distances(corrected, pairs.fresh)
    cosines = np.vecdot(corrected.astype(np.float64), pairs.fresh)
    low, median = np.quantile(cosines, (0.05, 0.5))
    return ProbeReport(
        float(pairs.identity_errors().mean()), float(errors.mean()), float(median), float(low), len(pairs),
        constant=_constant_error(pairs.fresh),
    )  # fmt: skip


def _constant_error(fresh: Embeddings) -> float:
    """Mean squared distance of (n, D) unit vectors from the direction of the mean they were drawn with, 2 - 2 |mean|;
    |mean|^2 is the cosine of two different ones, so that few vectors are not taken to be more alike than they are.
    """
    count = len(fresh)
    if count < 2:
        return float("inf")
    total = float(np.square(fresh.sum(axis=0, dtype=np.float64)).sum())
    return 2 - 2 * float(np.sqrt(np.clip((total - count) / (count * (count - 1)), 0, 1)))


@dataclass(slots=True)
class Watch:
    """Looks at one probe report after another. `alert` says, once `checks` in a row found no help, that the map is
    given up; it is never taken back. Source: method file corrector, section 4, step 3 g.
    """

    below: float = 0.9
    checks: int = 3
    reports: list[ProbeReport] = field(default_factory=list)
    alert: str | None = None

    def look(self, report: ProbeReport) -> bool:
        """Add a report. Returns whether the map is still trusted."""
        self.reports.append(report)
        last = self.reports[-self.checks :]
        if self.alert is None and len(last) == self.checks and not any(r.helps(self.below) for r in last):
            self.alert = fallback_alert(report, self.below)
        return self.alert is None


def fallback_alert(report: ProbeReport, below: float) -> str:
    """What is said when stale embeddings are used as they are, because correcting them does not help."""
    alike = f" or of the {report.constant:.4g} that one vector for all images would leave"
    return (
        f"correction given up: on {report.items:,} probe images it leaves {report.error:.4g} of a squared distance of "
        f"{report.staleness:.4g} to fresh embeddings, more than {below:g} of it"
        f"{alike if report.constant < report.staleness else ''}; stale embeddings are used as they are"
    )


def floor_estimate(pairs: Pairs, corrector: Corrector | None = None) -> float:
    """E Var[g | g'], the mean squared distance that no map of the stale embedding can get below; in [0, 4].

    Half the mean squared difference of what the nearest stale neighbours' fresh embeddings are, their trend first
    taken off by `corrector` (by none: the identity). Two images whose stale embeddings coincide show the floor
    exactly; the wider neighbours are apart, and the worse the map follows the trend, the more it says too much. n >= 2.
    Source: section 6, theory 5 (nearest-neighbour pairs in the cache).
    """
    if len(pairs) < 2:
        raise ValueError("1 pair has no neighbour, at least 2 are needed")
    trend: NDArray[Any] = pairs.stale if corrector is None else corrector.corrected(pairs.stale)
    rest = pairs.fresh.astype(np.float64) - trend
    neighbours = np.empty(len(pairs), np.int64)
    for start in range(0, len(pairs), _BLOCK):
        cosines = pairs.stale[start : start + _BLOCK] @ pairs.stale.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        neighbours[start : start + _BLOCK] = cosines.argmax(axis=1)
    return float(0.5 * np.square(rest - rest[neighbours]).sum(axis=1).mean())
