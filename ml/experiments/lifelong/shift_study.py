"""What every run of the planted-shift study is made of: the shift, who does what, and the row.

The alarm is set from validation photos as they are, and judges the test photos as the other camera takes them. The
same camera's validation photos then arrive, as new items of known classes: too few to learn from alone, as they would
be. Quality is asked among the entries there were before, in codes from the network; what arrived is never among the
answers.
"""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from ml.evaluation.hamming import hamming_values
from ml.evaluation.intervals import paired_interval
from ml.evaluation.metrics import mean_of
from ml.experiments.data import Ids
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.lifelong.arms import BASE, UPDATE
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import Curriculum, LabelScheme, packed
from ml.experiments.lifelong.shifts import Kind, fire_rate, shifted
from ml.experiments.protocol import PlannedRun
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.methods.lifelong.lesson import Items
from ml.methods.lifelong.memory import fitted_gaussians
from ml.methods.lifelong.shift_alarm import Usual, own_residuals, usual
from ml.methods.lifelong.statistics import Signs

SUFFIX = "/planted shift"  # of a place's title: the setting
UNSHIFTED = "unshifted"
STAGE = 0  # of the chain: what a first generation knows
ASKED, ARRIVED, SHIFTED_FILE = "asked", "arrived", "shifted.safetensors"
Values = NDArray[np.float64]
Vectors = NDArray[np.float32]


class Cell(NamedTuple):
    """One planted shift; strength 0 is none."""

    kind: Kind
    strength: float

    @property
    def title(self) -> str:
        return f"{self.kind} {self.strength:g}" if self.strength else UNSHIFTED


@dataclass(frozen=True)
class Study:
    """One chain's planted shifts. partial: how heads are refitted, by the name that rows have for it."""

    place: Place
    base: LifelongConfig = BASE
    partial: dict[str, LifelongConfig] = field(
        default_factory=lambda: {
            "increment": UPDATE,
            "refit": replace(UPDATE, mode="exemplar", exemplars=None),
        }
    )
    scheme: LabelScheme = field(default_factory=LabelScheme)

    @property
    def setting(self) -> str:
        return f"{self.place.title}{SUFFIX}"

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What decides the shifted features and the alarm."""
        return {
            **self.place.identity(self.scheme), "kind": cell.kind, "strength": cell.strength, "stage": STAGE,
            "gaussians": [UPDATE.gaussians, UPDATE.gaussians_from],
        }  # fmt: skip

    def seen(self, cell: Cell) -> RunRecord:
        """The alarm's row and the features of shifted photos, made now if the ledger lacks them."""
        options = self.place.options
        run = PlannedRun(
            name="shifted photos", setting=f"{self.setting}/{cell.title}", seed=0, identity=self.identity(cell),
            work=partial(_seen, self, cell),
        )  # fmt: skip
        return options.ledger.run(run.full_identity("lifelong", smoke=options.smoke), run.work)


class Roles:
    """Who does what: entries of base classes, their validation photos and their test photos (rows of the chain)."""

    def __init__(self, curriculum: Curriculum) -> None:
        self.curriculum, self.features = curriculum, curriculum.features
        chain = self.features.chain
        self.entries = curriculum.entries(STAGE)
        self.known = {curriculum.sets[row] for row in self.entries}
        self.held, self.asked = self._of(chain.validation), self._of(chain.queries)
        self.items = chain.images.items

    def _of(self, rows: Ids) -> Ids:
        """Photos whose label set was learned: an alarm asks how far they lie from it."""
        return np.array([row for row in rows if self.curriculum.sets[row] in self.known], np.int64)

    def sets(self, rows: Ids) -> list[tuple[int, ...]]:
        return [self.curriculum.sets[row] for row in rows]

    def taken(self, rows: Ids, cell: Cell, *, seed: int) -> torch.Tensor:
        """(N, C, S, S): photos as the other camera takes them."""
        pixels = self.features.chain.images.images.pixels[torch.from_numpy(rows)].numpy()
        return torch.from_numpy(shifted(pixels, cell.kind, cell.strength, seed=seed))

    def arrived(self, vectors: Vectors) -> Items:
        """The validation photos as new items."""
        return Items(vectors, self.sets(self.held), [f"{row:08d} again" for row in self.held])

    def precision(self, heads: CrossModalHeads, asked: Vectors, stored: Signs) -> Values:
        """(Q,) average precision of the asking photos (Q, F) among the entries' codes (G, c)."""
        labels = self.curriculum.labels
        codes = packed(signs_of_logits(outputs_of(heads.image, asked)))
        return hamming_values(codes, labels[self.asked], packed(stored), labels[self.entries]).map


def _seen(study: Study, cell: Cell, _checkpoint: Path) -> RunRecord:
    """What the trunk and the alarm say of shifted photos. A smoke run has too few items: each photo is its own."""
    started = time.monotonic()
    roles = Roles(study.place.curriculum(study.scheme))
    vectors, own = roles.features.vectors, np.arange(len(roles.items))
    items = own if study.place.options.smoke else roles.items
    memory = fitted_gaussians(
        vectors[roles.entries], roles.sets(roles.entries),
        per_set=UPDATE.gaussians, from_items=UPDATE.gaussians_from, seed=0,
    )  # fmt: skip
    held_sets, asked_sets = roles.sets(roles.held), roles.sets(roles.asked)
    known: Usual = usual(own_residuals(vectors[roles.held], held_sets, memory), held_sets, items[roles.held])
    asked = roles.features.of_pixels(roles.taken(roles.asked, cell, seed=0))
    arrived = roles.features.of_pixels(roles.taken(roles.held, cell, seed=1))
    residuals = own_residuals(asked, asked_sets, memory)
    alarm = known.alarm(residuals, asked_sets, items[roles.asked])
    values: dict[str, Value] = {
        "statistic": alarm.statistic, "chance": alarm.high, "has_fired": int(alarm.has_fired),
        "photos": alarm.photos, "photo_items": alarm.items, "held_out": len(roles.held),
        "fire_rate": fire_rate(residuals, asked_sets, items[roles.asked], known),
    }  # fmt: skip
    return RunRecord(
        name="shifted photos", setting=f"{study.setting}/{cell.title}", seed=0, values=values,
        seconds=time.monotonic() - started, files={SHIFTED_FILE: save({ASKED: asked, ARRIVED: arrived})},
    )  # fmt: skip


def row_of(  # noqa: PLR0917 -- the row's own parts, in its order
    study: Study,
    name: str,
    seed: int,
    values: dict[str, Value],
    found: dict[str, Values],
    roles: Roles,
    started: float,
) -> RunRecord:
    """With means, and what each loses to photos as they are, bounds over items."""
    items = roles.items[roles.asked]
    values = values | {metric: mean_of(own)[0] for metric, own in found.items()}
    for metric, own in found.items():
        if metric != "map_unshifted":
            loss, title = (
                paired_interval(found["map_unshifted"], own, items, seed=0),
                metric.removeprefix("map_"),
            )
            values |= {
                f"loss_{title}": loss.value,
                f"loss_{title}_low": loss.low,
                f"loss_{title}_high": loss.high,
            }
    return RunRecord(
        name=name, setting=study.setting, seed=seed, values=values, per_query=found,
        seconds=time.monotonic() - started, items=items,
    )  # fmt: skip
