"""What stored codes lose by themselves: labels that leave the codes made for them, and codewords that crowd.

Relabelled entries are those whose label was wrong when their code was solved: the code is the wrong label set's
codeword, the label the right one. Crowding is that of codewords after each increment, by code length; what it costs is
what full retraining of the same length finds more. Both with codes solved with labels, for network codes follow photos.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.intervals import paired_interval
from ml.evaluation.metrics import mean_of
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.lifelong.arms import BASE, UPDATE, Arm
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import LabelScheme
from ml.experiments.lifelong.measuring import Exam, Values
from ml.experiments.lifelong.stages import Stage, stages
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.drift import Crowding, crowding, label_drift
from ml.methods.lifelong.labels import Centring, Floats, LabelRegistry, LabelSet, similarity
from ml.methods.lifelong.statistics import CodeStatistics, Signs

MOVED, CROWDED = "/labels moved", "/codewords crowd"  # of a place's title: the settings
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # of all entries
Confused = Literal["alike", "any"]  # with the label set most like it, or with any other one
CONFUSED: tuple[Confused, ...] = ("alike", "any")
BITS = (8, 16, 32, 128)
SEEDS = 3
CROWDED_SEEDS = 1


def planned_stored_drift(place: Place, options: Options) -> Iterator[PlannedRun]:
    """Both studies; none in a smoke run."""
    scheme = LabelScheme()
    for seed in () if options.smoke else options.seeds[:SEEDS]:
        for confused in CONFUSED:
            for share in SHARES:
                yield PlannedRun(
                    name=f"{share:g} {confused}", setting=f"{place.title}{MOVED}", seed=seed,
                    identity={**place.identity(scheme), "base": asdict(BASE), "confused": confused, "share": share},
                    work=partial(_moved, place, confused, share, seed),
                )  # fmt: skip
    for seed in () if options.smoke else options.seeds[:CROWDED_SEEDS]:
        for bits in BITS:
            base, update = replace(BASE, code_bits=bits), replace(UPDATE, code_bits=bits)
            yield PlannedRun(
                name=f"{bits} bits", setting=f"{place.title}{CROWDED}", seed=seed,
                identity={**place.identity(scheme), "base": asdict(base), "update": asdict(update)},
                work=partial(_crowded, place, base, update, seed),
            )  # fmt: skip


def _moved(place: Place, confused: Confused, share: float, seed: int, _checkpoint: Path) -> RunRecord:
    """One share of entries relabelled: what of code similarity is lost, and of mean average precision."""
    started = time.monotonic()
    curriculum = place.curriculum(LabelScheme())
    exam, registry = Exam(curriculum), curriculum.registries[0]
    base, rows = place.lesson(BASE, LabelScheme(), stage=0, seed=seed), curriculum.entries(0)
    sets = [curriculum.sets[row] for row in rows]
    words = CodeStatistics.of(sets, base.solved).codewords()
    names, codewords = _codewords(words)
    now = np.array([names.index(labels) for labels in sets], np.int64)
    made_as = _made_as(now, registry.rows(names), confused, share, seed)
    codes = np.where((made_as != now)[:, None], codewords[made_as], base.solved)
    drift = label_drift(made_as, now, np.ones(len(now), np.int64), codewords)
    asking, known = exam.codes(base.heads), curriculum.features.chain.ends[0]
    clean, found = (
        exam.photos_only(exam.asked(asking, Stage(0, base.heads, rows, stored, 0, 0.0), known=known))
        for stored in (base.solved, codes)
    )
    values = {"lost": drift.lost, "share": drift.share} | _compared(clean, found, exam)
    return RunRecord(
        name=f"{share:g} {confused}", setting=f"{place.title}{MOVED}", seed=seed, values=values,
        seconds=time.monotonic() - started,
    )  # fmt: skip


def _made_as(
    now: NDArray[np.int64], rows: Floats, confused: Confused, share: float, seed: int
) -> NDArray[np.int64]:
    """(N,): label sets (positions in `rows`) that entries had when their codes were made, wrong for `share` of them."""
    rng, made = np.random.default_rng(seed), now.copy()
    moved = rng.permutation(len(now))[: round(share * len(now))]
    alike = similarity(rows, rows)
    np.fill_diagonal(alike, -1)
    if confused == "alike":
        made[moved] = alike.argmax(axis=1)[now[moved]]
    else:
        made[moved] = (now[moved] + rng.integers(1, len(rows), len(moved))) % len(rows)
    return made


def _crowded(
    place: Place, base: LifelongConfig, update: LifelongConfig, seed: int, _checkpoint: Path
) -> RunRecord:
    """After each increment: how crowded codewords are, and what retraining anew would find more. Values end in the
    increment's number.
    """
    started = time.monotonic()
    curriculum, scheme = place.curriculum(LabelScheme()), LabelScheme()
    exam, ends = Exam(curriculum), curriculum.features.chain.ends
    values: dict[str, Value] = {}
    arm = Arm(name=f"{base.code_bits} bits", config=update, base=base, scheme=scheme)
    for stage in stages(place, arm, "solved", seed=seed):
        if not stage.number:
            continue
        lesson = place.lesson(base, scheme, stage=stage.number, seed=seed)
        anew = replace(stage, heads=lesson.heads, codes=lesson.solved)
        best, found = (
            exam.photos_only(exam.asked(exam.codes(one.heads), one, known=ends[stage.number]))
            for one in (anew, stage)
        )
        sets = [curriculum.sets[row] for row in stage.rows]
        space = crowding_of(sets, stage.codes, curriculum.registries[stage.number])
        own = {"smallest": space.smallest, "mean": space.mean, "nearest": space.nearest} | _compared(
            best, found, exam
        )
        values |= {f"{name}_{stage.number}": value for name, value in own.items()}
    return RunRecord(
        name=arm.name, setting=f"{place.title}{CROWDED}", seed=seed, values=values,
        seconds=time.monotonic() - started,
    )  # fmt: skip


def crowding_of(sets: list[LabelSet], codes: Signs, registry: LabelRegistry) -> Crowding:
    """Of stored codes (N, c) by their label sets (N,)."""
    names, codewords = _codewords(CodeStatistics.of(sets, codes).codewords())
    rows = registry.rows(names)
    centring = Centring.of(registry.rows(sets).sum(axis=0), len(sets))
    return crowding(codewords, centring(similarity(rows, rows)))


def _codewords(words: dict[LabelSet, Signs]) -> tuple[list[LabelSet], Signs]:
    names = sorted(words)
    return names, np.stack([words[labels] for labels in names])


def _compared(before: Values, after: Values, exam: Exam) -> dict[str, Value]:
    """Both means, and what is lost, bounds over items."""
    _, items = np.unique(exam.items, return_inverse=True)
    loss = paired_interval(before, after, items, seed=0)
    return {
        "map_best": mean_of(before)[0], "map": mean_of(after)[0],
        "loss": loss.value, "loss_low": loss.low, "loss_high": loss.high,
    }  # fmt: skip
