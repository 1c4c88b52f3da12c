"""Is one of two arms worse? A test of two shares that may be looked at after every query and stopped at any time.

The e-variable of Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for
optional stopping" (Journal of Statistical Planning and Inference, 2024). The queries come in blocks that hold both
arms. Before a block is opened, the earlier ones say which two shares to bet on; the likelihood of the block under
these, over its likelihood under the one share between them, multiplies what was won so far. Where both arms have the
same share nobody can expect to win, so the winnings pass 1 / level with a probability of at most `level`, however often
one looks (Ville's inequality), and 1 / the most ever won is a p-value that holds at any time.

Assumed: given its arm, a query's outcome does not depend on other queries' outcomes, and arms are not given out by
what the outcomes were. The shares themselves may drift from block to block, as long as they do so in both arms.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Alternative = Literal["greater", "differs"]
# So many outcomes of either kind count as seen in each arm before the first block: a weak opinion that soon gives way.
PRIOR = 0.18


@dataclass(frozen=True, slots=True)
class SequentialTest:
    """What was found: of how many queries in whole blocks, the evidence at the end, and the p-value of all time."""

    champion: int
    candidate: int
    evidence: float
    p_value: float

    def is_shown(self, level: float) -> bool:
        return self.p_value <= level


def shares_compare(outcomes: Bools, of_candidate: Bools, *, alternative: Alternative) -> SequentialTest:
    """Whether the candidate's share of True `outcomes` (N,), in the order they came, is greater or differs.

    of_candidate (N,) names the arm of each. With "greater" a candidate whose share is the lesser one is never shown.
    """
    if len(outcomes) != len(of_candidate):
        raise ValueError(f"{len(outcomes)} outcomes but {len(of_candidate)} arms")
    bounds = np.concatenate(([0], _block_ends(of_candidate)))
    if len(bounds) == 1:
        return SequentialTest(0, 0, 1.0, 1.0)
    counts, hits = (
        np.stack([_per_block(values & (of_candidate == arm), bounds) for arm in (False, True)])
        for values in (np.ones_like(outcomes), outcomes)
    )
    logs = np.cumsum(_log_factors(counts, hits, alternative))
    total = counts.sum(axis=1)
    most = max(0.0, float(logs.max()))
    return SequentialTest(int(total[0]), int(total[1]), _exp(float(logs[-1])), _exp(-most))


def _block_ends(of_candidate: Bools) -> NDArray[np.int64]:
    """A block ends with the first query of the arm it still lacked; what comes after the last one waits."""
    changes = np.flatnonzero(of_candidate[1:] != of_candidate[:-1]) + 1
    ends, start = [], 0
    for at in changes.tolist():
        if at > start:
            start = at + 1
            ends.append(start)
    return np.array(ends, np.int64)


def _per_block(values: Bools, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.concatenate(([0], np.cumsum(values)))
    return np.diff(sums[bounds])


def _log_factors(
    counts: NDArray[np.int64], hits: NDArray[np.int64], alternative: Alternative
) -> NDArray[np.float64]:
    """(B,) of (2, B): what each block multiplies the winnings by, with the shares that the blocks before it told."""
    before, found = np.cumsum(counts, axis=1) - counts, np.cumsum(hits, axis=1) - hits
    shares = (found + PRIOR) / (before + 2 * PRIOR)
    between = (counts * shares).sum(axis=0) / counts.sum(axis=0)
    logs = (hits * np.log(shares / between) + (counts - hits) * np.log((1 - shares) / (1 - between))).sum(
        axis=0
    )
    if alternative == "greater":
        logs[shares[1] <= shares[0]] = 0.0
    return np.asarray(logs, np.float64)


def _exp(value: float) -> float:
    return float(np.exp(min(value, 600.0)))
