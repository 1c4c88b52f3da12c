"""Made-up drift in seconds: what staleness, pairs and width do to a fitted map, and what no map can mend.

Source: method file corrector, section 10 (E1), after the paper's synthetic experiments. A fifth of a cell's pairs is
the probe, as in the method; errors and neighbours are counted on other items, which nothing was fitted to or chosen by.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ml.experiments.corrector.synthetic import World
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.corrector.agreement import Agreement, agreement
from ml.methods.corrector.config import FitConfig
from ml.methods.corrector.fitting import best_ridge, trained
from ml.methods.corrector.pairs import Pairs
from ml.methods.corrector.probe import floor_estimate, probed
from ml.models.corrector import Corrector
from ml.protocol import Embeddings

SETTING = "sweep, drift for {:g}"
SEEDS = 3
TIMES = (0.25, 0.5, 1.0, 2.0)  # the staleness: how long embeddings drifted
PAIRS = (100, 300, 1_000, 5_000)  # probe included
WIDTHS = (32, 128, 256, 512)
SHOWN = "both_256"  # the map that is set beside the bounds and gives the floor's estimate its trend
BETAS = (1, 20)  # inverse temperatures of the bounds; training's is 20
NEIGHBOURS = 10
_PROBED = 5  # one pair in so many is the probe
_JUDGED, _QUERIES = 2_000, 100


@dataclass(frozen=True, slots=True)
class Cell:
    """How long embeddings drifted, how many pairs are known, and which widths the residual branch is given."""

    time: float
    pairs: int
    widths: tuple[int, ...] = WIDTHS


def planned_sweep(options: Options) -> list[PlannedRun]:
    """One run per staleness, number of pairs and seed; of a smoke run's world little is known and one width tried."""
    times, counts = ((1.0,), PAIRS[:1]) if options.smoke else (TIMES, PAIRS)
    config = FitConfig(steps=50) if options.smoke else FitConfig()
    world = {part.name: getattr(World(0), part.name) for part in fields(World) if part.init}
    cells = [Cell(time, count, (256,) if options.smoke else WIDTHS) for time in times for count in counts]
    return [
        PlannedRun(
            name=f"{cell.pairs} pairs", setting=SETTING.format(cell.time), seed=seed,
            identity={"cell": asdict(cell), "fit": asdict(config), "world": world | {"seed": seed}},
            work=partial(measured_cell, cell, config, seed),
        )
        for cell in cells
        for seed in options.seeds[:SEEDS]
    ]  # fmt: skip


def measured_cell(cell: Cell, config: FitConfig, seed: int, _checkpoint: Path) -> RunRecord:
    """The row. stale_error: mean squared distance without a map; <map>_ratio: what a map leaves of it; floor: the share
    that none can get below; floor_estimate: what the method says of that; <map>_overlap: share of the nearest items
    that are the right ones. `logit_error`, `distance`, `divergence` as agreement has them, of SHOWN.
    """
    started = time.monotonic()
    world, map_of = World(seed), {}
    known, judged = world.pairs(cell.pairs, cell.time, draw=0), world.pairs(_JUDGED, cell.time, draw=1)
    queries = world.pairs(_QUERIES, cell.time, draw=2).fresh
    staleness = probed(judged.stale, judged).error
    values: dict[str, Value] = {"stale_error": staleness}
    values["stale_overlap"] = overlap(queries, judged.stale, judged.fresh)
    for name, corrector in fitted_maps(known, cell.widths, config, seed):
        map_of[name] = corrector
        corrected = corrector.corrected(judged.stale)
        values[f"{name}_ratio"] = probed(corrected, judged).ratio
        values[f"{name}_overlap"] = overlap(queries, corrected, judged.fresh)
    values["floor"] = world.floor(_JUDGED, cell.time, draw=1) / staleness
    values["floor_estimate"] = floor_estimate(judged, map_of[SHOWN]) / staleness
    for beta in BETAS:
        view = map_of[SHOWN].corrected(judged.stale)
        found = _compared(queries, view, judged.fresh, beta=beta)
        values |= {f"logit_error_{beta}": found.logit_error}
        for title, own in (("distance", found.total_variation), ("divergence", found.divergence)):
            values |= {f"{title}_mean_{beta}": float(own.mean()), f"{title}_most_{beta}": float(own.max())}
    return RunRecord(
        name=f"{cell.pairs} pairs", setting=SETTING.format(cell.time), seed=seed, values=values,
        seconds=time.monotonic() - started,
    )  # fmt: skip


def fitted_maps(
    known: Pairs, widths: tuple[int, ...], config: FitConfig, seed: int
) -> Iterator[tuple[str, Corrector]]:
    """`affine` by ridge alone; `mlp_<m>`, the residual branch alone; `both_<m>`, the method's. Each as it did best on
    the probe, none given up.
    """
    order, held_out = np.arange(len(known)), len(known) // _PROBED
    probe, pairs = known.picked(order[:held_out]), known.picked(order[held_out:])
    yield "affine", best_ridge(pairs, probe, config, seed)[1]
    for width in widths:
        alone = Corrector(pairs.dimension, hidden=width, seed=seed)
        alone.affine.requires_grad = False
        alone.offset.requires_grad = False
        both = Corrector(pairs.dimension, hidden=width, seed=seed)
        both.load_state_dict(alone.state_dict() | _affine_part(best_ridge(pairs, probe, config, seed)[1]))
        for kind, start in (("mlp", alone), ("both", both)):
            found, _ = trained(start, pairs, config, steps=config.steps, probe=probe, seed=seed)
            yield f"{kind}_{width}", found


def _affine_part(corrector: Corrector) -> dict[str, torch.Tensor]:
    return {name: corrector.state_dict()[name] for name in ("affine", "offset")}


def overlap(queries: Embeddings, view: Embeddings, fresh: Embeddings) -> float:
    """Share of the NEIGHBOURS nearest items that a view (N, D) has in common with fresh (N, D)."""
    return float(_compared(queries, view, fresh, beta=1).overlap.mean())


def _compared(queries: Embeddings, view: Embeddings, fresh: Embeddings, *, beta: float) -> Agreement:
    """No item has a label, so none is left out."""
    unlabelled = -torch.ones(len(fresh), dtype=torch.int64)
    return agreement(
        torch.from_numpy(queries), unlabelled[: len(queries)], torch.from_numpy(view), torch.from_numpy(fresh),
        unlabelled, count=NEIGHBOURS, inverse_temperature=beta,
    )  # fmt: skip
