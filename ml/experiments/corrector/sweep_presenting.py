"""How made-up drift is shown on docs/results.md: what theory expects, and whether the numbers agree."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from ml.experiments.corrector.sweep import BETAS, PAIRS, SETTING, SHOWN, TIMES, WIDTHS
from ml.experiments.evidence import Evidence
from ml.methods.corrector.agreement import divergence_bound, total_variation_bound

Row = dict[str, Any]
MAPS = ("affine", *(f"mlp_{width}" for width in WIDTHS), *(f"both_{width}" for width in WIDTHS))
NARROW, WIDE = f"both_{WIDTHS[0]}", f"both_{WIDTHS[-1]}"
TELLING = 0.01  # of the stale error: less is no difference


class Numbers:
    """Means over seeds, by drift, pairs and metric."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.times = [time for time in TIMES if self.each(time, PAIRS[-1], "stale_error")]

    def each(self, time: float, pairs: int, metric: str) -> list[float]:
        """By seed."""
        found = self._evidence.values(setting=SETTING.format(time), name=f"{pairs} pairs", metric=metric)
        return list(found.values())

    def mean(self, time: float, pairs: int, metric: str) -> float:
        return float(np.mean(self.each(time, pairs, metric)))

    def error(self, time: float, pairs: int, name: str) -> float:
        """Squared distance, not its share."""
        return self.mean(time, pairs, f"{name}_ratio") * self.mean(time, pairs, "stale_error")

    def cells(self) -> list[tuple[float, int]]:
        return [(time, pairs) for time in self.times for pairs in PAIRS]


def sweep_tables(evidence: Evidence) -> list[Row]:
    """Expectations, ratios and bounds; without a whole run no rows."""
    numbers = Numbers(evidence)
    return [
        {
            "title": "Made-up drift: what theory expects of a fitted map",
            "note": f"Counted over means of seeds; width and kind of map count from {TELLING:g} of the stale error on.",
            "rows": list(_expectations(numbers)) if numbers.times else [],
        },
        {
            "title": "Made-up drift: share of the stale error that a map leaves, and of nearest items that are right",
            "note": "Noise grows with the time, the stale error with its square, so that the shares fall while the "
            "errors rise.",
            "rows": [_cell(numbers, *cell) for cell in numbers.cells()],
        },
        {
            "title": f"Made-up drift: bounds beside what was measured, {PAIRS[-1]:,} pairs",
            "note": "eps = beta times the largest distance of a corrected vector from the fresh one; total variation "
            "is at most tanh(eps / 2), divergence eps² / 2. Means over seeds.",
            "rows": [_bounds(numbers, time, beta) for time in numbers.times for beta in BETAS],
        },
    ]  # fmt: skip


def sweep_plots(evidence: Evidence) -> list[Row]:
    """Heat of the method's map over drift and pairs; lines over pairs by width at the longest drift."""
    numbers = Numbers(evidence)
    if not numbers.times:
        return []
    longest = numbers.times[-1]
    heat = {
        "name": "ratio", "x": [f"{pairs:,}" for pairs in PAIRS], "y": [f"{time:g}" for time in numbers.times],
        "z": [[numbers.mean(time, pairs, f"{SHOWN}_ratio") for pairs in PAIRS] for time in numbers.times],
    }  # fmt: skip
    lines = [
        {
            "name": name.replace("_", ", m = "), "x": list(PAIRS),
            "y": [numbers.mean(longest, pairs, f"{name}_ratio") for pairs in PAIRS],
        }
        for name in MAPS
        if name == "affine" or name.startswith("both") or name == "mlp_256"
    ]  # fmt: skip
    floor = [numbers.mean(longest, pairs, "floor") for pairs in PAIRS]
    return [
        {
            "file": "corrector_sweep_heat.png", "kind": "heat", "x_label": "pairs", "y_label": "time of drift",
            "title": "Made-up drift: share of the stale error left (affine and residual, m = 256)", "series": [heat],
        },
        {
            "file": "corrector_sweep_widths.png", "kind": "line", "x_label": "pairs", "x_scale": "log",
            "y_label": "share of the stale error left", "title": f"Made-up drift for {longest:g}: pairs and width",
            "series": [*lines, {"name": "floor", "x": list(PAIRS), "y": floor}],
        },
    ]  # fmt: skip


def _expectations(numbers: Numbers) -> Iterable[Row]:
    """Each with the comparisons it makes, and how many come out as expected."""
    times, few, many = numbers.times, PAIRS[0], PAIRS[-1]
    error, mean = numbers.error, numbers.mean

    def gain(time: float, pairs: int, better: str, worse: str) -> float:
        """By how much of the stale error `better` is."""
        return mean(time, pairs, f"{worse}_ratio") - mean(time, pairs, f"{better}_ratio")

    both = ("affine", SHOWN)
    yield _row(
        "the longer the drift, the larger the error a map leaves",
        [error(a, n, name) < error(b, n, name) for name in both for n in PAIRS for a, b in _steps(times)],
    )
    yield _row(
        "the more pairs, the smaller the error",
        [error(t, b, name) < error(t, a, name) for name in both for t in times for a, b in _steps(PAIRS)],
    )
    yield _row(
        "the more pairs, the more nearest items are right",
        [
            mean(t, b, f"{SHOWN}_overlap") > mean(t, a, f"{SHOWN}_overlap")
            for t in times
            for a, b in _steps(PAIRS)
        ],
    )
    yield _row(
        f"with {many:,} pairs a residual branch beats the affine map, drift not being linear",
        [gain(t, many, SHOWN, "affine") > TELLING for t in times],
    )
    yield _row(
        f"with {many:,} pairs a wide branch (m = {WIDTHS[-1]}) beats a narrow one (m = {WIDTHS[0]})",
        [gain(t, many, WIDE, NARROW) > TELLING for t in times],
    )
    yield _row(
        f"with {few} pairs width is of no use",
        [gain(t, few, WIDE, NARROW) <= TELLING for t in times],
    )
    yield _row(
        f"with {few} pairs the residual branch alone is worse than the affine map",
        [gain(t, few, "affine", f"mlp_{width}") > TELLING for t in times for width in WIDTHS],
    )
    yield _row(
        f"with {few} pairs the wider the residual branch alone is, the worse",
        [gain(t, few, f"mlp_{a}", f"mlp_{b}") > 0 for t in times for a, b in _steps(WIDTHS)],
    )
    yield _row(
        f"with {many:,} pairs the residual branch alone catches up with the affine map",
        [gain(t, many, f"mlp_{width}", "affine") > 0 for t in times for width in WIDTHS],
    )
    yield _row(
        "no map gets below the floor of noise",
        [mean(*cell, f"{name}_ratio") > mean(*cell, "floor") for cell in numbers.cells() for name in MAPS],
    )
    yield _row(
        "the floor's estimate is not below the floor",
        [mean(*cell, "floor_estimate") >= mean(*cell, "floor") for cell in numbers.cells()],
    )
    yield _row(
        "total variation and divergence are within their bounds",
        [
            holds
            for cell in numbers.cells()
            for beta in BETAS
            for holds in _within_bounds(numbers, *cell, beta)
        ],
    )


def _row(expectation: str, outcomes: list[bool]) -> Row:
    return {
        "expected": expectation, "comparisons": len(outcomes), "as expected": sum(outcomes),
        "agrees": all(outcomes),
    }  # fmt: skip


def _steps(levels: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Each level with the next one."""
    return list(pairwise(levels))


def _within_bounds(numbers: Numbers, time: float, pairs: int, beta: int) -> list[bool]:
    """By seed."""
    metrics = ("logit_error", "distance_most", "divergence_most")
    found = zip(*(numbers.each(time, pairs, f"{metric}_{beta}") for metric in metrics))
    return [
        distance <= total_variation_bound(eps) and divergence <= divergence_bound(eps)
        for eps, distance, divergence in found
    ]


def _cell(numbers: Numbers, time: float, pairs: int) -> Row:
    shares = {
        f"{name} left": numbers.mean(time, pairs, f"{name}_ratio") for name in ("affine", "mlp_256", *_BOTH)
    }
    right = {
        f"{name} right": numbers.mean(time, pairs, f"{name}_overlap") for name in ("stale", "affine", SHOWN)
    }
    known = {name: numbers.mean(time, pairs, name) for name in ("stale_error", "floor", "floor_estimate")}
    return {"time of drift": time, "pairs": pairs, **known, **shares, **right}


def _bounds(numbers: Numbers, time: float, beta: int) -> Row:
    def value(name: str) -> float:
        return numbers.mean(time, PAIRS[-1], f"{name}_{beta}")

    eps = value("logit_error")
    return {
        "time of drift": time, "beta": beta, "eps": eps, "tanh(eps / 2)": total_variation_bound(eps),
        "total variation, most": value("distance_most"), "mean": value("distance_mean"),
        "eps² / 2": divergence_bound(eps), "divergence, most": value("divergence_most"),
    }  # fmt: skip


_BOTH = tuple(name for name in MAPS if name.startswith("both"))
