"""The plots of docs/results.md that stand on rows of encoders."""

from typing import Any

import numpy as np

from ml.experiments.claims import Side
from ml.experiments.compatible.arms import FREE, NDPP, ODPP, OLD, OURS, PLAIN, STRENGTHS
from ml.experiments.compatible.asking import common_means, swept, upgrades
from ml.experiments.compatible.chains import SETTING as CHAIN
from ml.experiments.compatible.settings import CHAIN as GENERATIONS
from ml.experiments.compatible.tables import titled
from ml.experiments.evidence import Evidence

Plot = dict[str, Any]


def plots_of(evidence: Evidence) -> list[Plot]:
    """Those that have rows."""
    found = [_trade_off(evidence), _curve(evidence), *(_heat(evidence, name) for name in (PLAIN, NDPP, ODPP))]
    return [plot for plot in found if plot["series"]]


def _trade_off(evidence: Evidence) -> Plot:
    """Self-test over free training's, cross-test over the old system's: up and to the right is better."""
    series = []
    for name in (PLAIN, NDPP, ODPP, OURS):
        sides = [
            Side(name, "self_map"),
            Side(FREE, "self_map"),
            Side(name, "cross_map"),
            Side(OLD, "self_map"),
        ]
        found = {setting: common_means(evidence, setting, sides) for setting in upgrades(evidence)}
        points = {setting: means for setting, means in found.items() if np.isfinite(means).all()}
        if points:
            series.append({
                "name": name, "x": [own / free for own, free, _, _ in points.values()],
                "y": [cross / old for _, _, cross, old in points.values()],
                "labels": [titled(setting) for setting in points] if name == PLAIN else [],
            })  # fmt: skip
    return {
        "file": "compatible_trade_off.png", "kind": "scatter",
        "title": "What an alignment costs and gives: mAP by embeddings",
        "x_label": "self-test / free training's self-test", "y_label": "cross-test / old self-test",
        "series": series,
    }  # fmt: skip


def _curve(evidence: Evidence) -> Plot:
    """P_1 over NDPP's strength, with bounds over seeds (one standard error)."""
    series = []
    for setting in swept(evidence):
        names = [PLAIN, *(f"{NDPP} {strength:g}" for strength in STRENGTHS)]
        rows = [evidence.values(setting=setting, name=name, metric="p_1") for name in names]
        seeds = sorted(set.intersection(*map(set, rows)))
        found = [np.array([own[seed] for seed in seeds]) for own in rows]
        if not all(map(len, found)):
            continue
        means = [float(values.mean()) for values in found]
        errors = [float(values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values))) for values in found]
        series.append({
            "name": titled(setting), "x": [0.0, *STRENGTHS], "y": means,
            "low": [mean - error for mean, error in zip(means, errors)],
            "high": [mean + error for mean, error in zip(means, errors)],
        })  # fmt: skip
    return {
        "file": "compatible_strength.png", "kind": "line", "title": "How strongly to perturb: P_1 over NDPP's strength",
        "x_label": "strength (0: prototype-BCT)", "y_label": "P_1", "series": series,
    }  # fmt: skip


def _heat(evidence: Evidence, name: str) -> Plot:
    """The chain's upper triangle: queries of a generation on entries of an older one or its own."""
    count = len(GENERATIONS)
    cells = [
        [evidence.mean(CHAIN, name, f"map_{new}_{old}") if old <= new else None for new in range(count)]
        for old in range(count)
    ]
    has_rows = cells[0][0] is not None
    words = [str(number) for number in range(count)]
    shown = [[None if cell is None else round(100 * cell, 1) for cell in row] for row in cells]
    return {
        "file": f"compatible_chain_{name.replace('-', '_')}.png", "kind": "heat",
        "title": f"Chain of four generations, {name}: mAP in points", "x_label": "queries of generation",
        "y_label": "entries of generation",
        "series": [{"name": name, "x": words, "y": words, "z": shown}] if has_rows else [],
    }  # fmt: skip
