"""The planted-shift study: what another camera costs a catalogue that knows its base classes, and what each remedy
gives back.

Partial remedies keep trunk and stored codes: an increment on what memory keeps, and heads refitted on the features
of all photos. The full one goes on training the trunk with what arrived among its photos, and codes everything anew;
"unshifted" rows show what arrivals and further training bring by themselves. Who asks and what arrives: `shift_study`.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from safetensors.numpy import load

from ml.experiments.ledger import RunRecord, Value
from ml.experiments.lifelong.arms import BASE
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.shift_study import (
    ARRIVED,
    ASKED,
    SHIFTED_FILE,
    STAGE,
    Cell,
    Roles,
    Study,
    row_of,
)
from ml.experiments.lifelong.shift_trunks import TRUNK_MARK, TRUNK_STEPS, renewed
from ml.experiments.lifelong.shifts import KINDS
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.lifelong.update import generation_after, learn_increment

SEEDS = 3
STRENGTHS = (0.15, 0.3, 0.6, 1.0)
TRUNK_STRENGTHS = (0.15, 0.3, 1.0)


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
                work=partial(renewed, study, cell, options.seeds[0]),
            )  # fmt: skip


def _smoke_study(place: Place) -> Study:
    short = Study(place)
    once = {name: replace(config, rounds=1, final_epochs=1) for name, config in short.partial.items()}
    return replace(short, base=replace(BASE, rounds=1, final_epochs=1), partial=once)


def _remedied(study: Study, cell: Cell, seed: int, _checkpoint: Path) -> RunRecord:
    """The row of one shift: the alarm's, and what is lost with no action and after each partial remedy.

    `map_unshifted`, `map_no_action`: photos as they are and shifted, by the heads there were. `map_<remedy>` and
    `map_unshifted_<remedy>`: the same by refitted heads. `loss_<...>`: to `map_unshifted`, with bounds.
    """
    started = time.monotonic()
    seen, roles = study.seen(cell), Roles(study.place.curriculum(study.scheme))
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
    return row_of(study, cell.title, seed, values, found, roles, started)
