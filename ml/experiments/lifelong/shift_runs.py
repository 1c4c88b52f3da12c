"""The planted-shift study: what another camera costs a catalogue that knows its base classes, and what each remedy
gives back.

The alarm is set from validation photos as they are, and judges the test photos as the other camera takes them. The
same camera's validation photos then arrive, as new items of known classes: too few to learn from alone, as they would
be. Partial remedies keep trunk and stored codes: an increment on what memory keeps, and heads refitted on the features
of all photos. The full one goes on training the trunk with what arrived among its photos, and codes everything anew;
"unshifted" rows show what arrivals and further training bring by themselves. Quality is asked among the entries there
were before, in codes from the network; what arrived is never among the answers.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.base_version.recipe import train_encoder
from ml.data.images import ImageSet
from ml.evaluation.hamming import hamming_values
from ml.evaluation.intervals import paired_interval
from ml.evaluation.metrics import mean_of
from ml.experiments.data import Ids
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.lifelong.arms import BASE, UPDATE
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import Curriculum, LabelScheme, packed
from ml.experiments.lifelong.shifts import KINDS, Kind, fire_rate, shifted
from ml.experiments.lifelong.trunks import Features, base_images, recipe
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.methods.lifelong.lesson import Items
from ml.methods.lifelong.memory import fitted_gaussians
from ml.methods.lifelong.shift_alarm import Usual, own_residuals, usual
from ml.methods.lifelong.statistics import Signs
from ml.methods.lifelong.update import generation_after, learn_base, learn_increment
from ml.models.export import weights_of
from ml.training.memory import fastest_precision

SUFFIX = "/planted shift"  # of a place's title: the setting
UNSHIFTED = "unshifted"
TRUNK_MARK = ", new trunk"  # of a row's name
SEEDS = 3
STAGE = 0  # of the chain: what a first generation knows
STRENGTHS = (0.15, 0.3, 0.6, 1.0)
TRUNK_STRENGTHS = (0.15, 0.3, 1.0)
TRUNK_STEPS = 150  # of further training: a tenth of what the trunk had
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


def planned_shifts(
    place: Place,
    options: Options,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
    seeds: int = SEEDS,
    has_trunks: bool = True,
) -> Iterator[PlannedRun]:
    """Every kind and strength by seed, then the new trunks, of one seed. place: a chain of photos in colour. A smoke
    run plants one shift.
    """
    study = _smoke_study(place) if options.smoke else Study(place)
    kinds = ("darker",) if options.smoke else KINDS
    strengths = strengths[-1:] if options.smoke else strengths
    cells = [Cell(kinds[0], 0.0), *(Cell(kind, strength) for kind in kinds for strength in strengths)]
    for seed in options.seeds[:seeds]:
        for cell in cells:
            identity = {**study.identity(cell), "base": asdict(study.base),
                        "partial": {name: asdict(config) for name, config in study.partial.items()}}  # fmt: skip
            yield PlannedRun(
                name=cell.title, setting=study.setting, seed=seed, identity=identity,
                work=partial(_remedied, study, cell, seed),
            )  # fmt: skip
    for cell in cells if has_trunks and not options.smoke else ():
        if cell.strength in {0.0, *TRUNK_STRENGTHS}:
            identity = {**study.identity(cell), "base": asdict(study.base), "steps": TRUNK_STEPS}
            yield PlannedRun(
                name=f"{cell.title}{TRUNK_MARK}", setting=study.setting, seed=options.seeds[0], identity=identity,
                work=partial(_renewed, study, cell, options.seeds[0]),
            )  # fmt: skip


def _smoke_study(place: Place) -> Study:
    short = Study(place)
    once = {name: replace(config, rounds=1, final_epochs=1) for name, config in short.partial.items()}
    return replace(short, base=replace(BASE, rounds=1, final_epochs=1), partial=once)


class _Roles:
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
    roles = _Roles(study.place.curriculum(study.scheme))
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


def _remedied(study: Study, cell: Cell, seed: int, _checkpoint: Path) -> RunRecord:
    """The row of one shift: the alarm's, and what is lost with no action and after each partial remedy.

    `map_unshifted`, `map_no_action`: photos as they are and shifted, by the heads there were. `map_<remedy>` and
    `map_unshifted_<remedy>`: the same by refitted heads. `loss_<...>`: to `map_unshifted`, with bounds.
    """
    started = time.monotonic()
    seen, roles = study.seen(cell), _Roles(study.place.curriculum(study.scheme))
    vectors, plain = load(seen.files[SHIFTED_FILE]), roles.features.vectors[roles.asked]
    base = study.place.lesson(study.base, study.scheme, stage=STAGE, seed=seed)
    found = {
        "map_unshifted": roles.precision(base.heads, plain, base.encoded),
        "map_no_action": roles.precision(base.heads, vectors[ASKED], base.encoded),
    }
    values: dict[str, Value] = dict(seen.values)
    curriculum, entries = roles.curriculum, roles.entries
    registry = curriculum.registries[STAGE]
    for name, config in study.partial.items():
        generation = generation_after(
            None, registry, base, curriculum.items(entries), curriculum.texts(entries), base.encoded, config,
            seed=seed,
        )  # fmt: skip
        lesson = learn_increment(
            generation, registry, roles.arrived(vectors[ARRIVED]), None, config, seed=seed
        )
        found[f"map_{name}"] = roles.precision(lesson.heads, vectors[ASKED], base.encoded)
        found[f"map_unshifted_{name}"] = roles.precision(lesson.heads, plain, base.encoded)
        values[f"{name}_seconds"] = round(lesson.seconds, 3)
    return _row(study, cell.title, seed, values, found, roles, started)


def _renewed(study: Study, cell: Cell, seed: int, checkpoint: Path) -> RunRecord:
    """The row of one shift after a new trunk and new codes."""
    started = time.monotonic()
    roles = _Roles(study.place.curriculum(study.scheme))
    base = study.place.lesson(study.base, study.scheme, stage=STAGE, seed=seed)
    plain = roles.precision(base.heads, roles.features.vectors[roles.asked], base.encoded)
    arrived, asked = roles.taken(roles.held, cell, seed=1), roles.taken(roles.asked, cell, seed=0)
    renewed, trunk_seconds = _trained_on(roles, arrived, checkpoint)
    heads, codes, seconds = _learned_anew(study, roles, renewed, arrived, seed)
    found = {
        "map_unshifted": plain,
        "map_new_trunk": roles.precision(heads, renewed.of_pixels(asked), codes),
        "map_unshifted_new_trunk": roles.precision(heads, renewed.vectors[roles.asked], codes),
    }
    values: dict[str, Value] = {"new_trunk_seconds": round(trunk_seconds + seconds, 1)}
    return _row(study, f"{cell.title}{TRUNK_MARK}", seed, values, found, roles, started)


def _trained_on(roles: _Roles, arrived: torch.Tensor, checkpoint: Path) -> tuple[Features, float]:
    """The features of a trunk that went on learning, standardised anew by the entries, and its seconds."""
    old, chain = roles.features, roles.features.chain
    made_by = recipe(chain, precision=fastest_precision(), smoke=False, steps=TRUNK_STEPS)
    trained = train_encoder(
        _with_arrived(roles, arrived), made_by, initial=weights_of(old.encoder), checkpoint=checkpoint
    )
    raw = replace(old, encoder=trained.encoder, mean=np.zeros_like(old.mean), scale=np.ones_like(old.scale))
    every = raw.of_pixels(chain.images.images.pixels)
    own = every[roles.entries]
    mean, scale = own.mean(axis=0), own.std(axis=0) + np.float32(1e-6)
    return replace(raw, vectors=(every - mean) / scale, mean=mean, scale=scale), trained.seconds


def _learned_anew(
    study: Study, roles: _Roles, renewed: Features, arrived: torch.Tensor, seed: int
) -> tuple[CrossModalHeads, Signs, float]:
    """Heads from scratch on entries and arrivals, the entries' new codes, and the seconds that took."""
    curriculum = Curriculum(renewed, study.scheme, study.place.words)
    entries = curriculum.items(roles.entries)
    new = roles.arrived(renewed.of_pixels(arrived))
    items = Items(
        np.concatenate([entries.features, new.features]),
        [*entries.sets, *new.sets],
        [*entries.keys, *new.keys],
    )
    registry, texts = curriculum.registries[STAGE], curriculum.texts(roles.entries)
    lesson = learn_base(registry, items, texts, study.base, seed=seed)
    return lesson.heads, lesson.encoded[: len(entries)], lesson.seconds


def _with_arrived(roles: _Roles, arrived: torch.Tensor) -> ImageSet:
    """What the trunk was trained on, and what arrived."""
    base, labels = base_images(roles.features.chain), roles.curriculum.labels[roles.held]
    packs = roles.features.chain.images.images.packs
    digest = hashlib.sha256(base.fingerprint.encode() + arrived.numpy().tobytes()).hexdigest()
    return ImageSet(
        pixels=torch.cat([base.pixels, arrived]),
        labels=torch.cat([base.labels, torch.from_numpy(labels)]),
        names=base.names,
        packs=(*base.packs, *(packs[row] for row in roles.held)),
        fingerprint=digest,
    )


def _row(  # noqa: PLR0917 -- the row's own parts, in its order
    study: Study,
    name: str,
    seed: int,
    values: dict[str, Value],
    found: dict[str, Values],
    roles: _Roles,
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
