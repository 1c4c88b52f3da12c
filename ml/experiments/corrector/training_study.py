"""Which fine-tunings are run: on digits, by every arm, each from a base encoder of its own seed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial

from ml.experiments.corrector.training_arms import (
    SEEDS,
    Arm,
    ablations,
    claimed_arms,
    described_arms,
    main_arms,
    noisy_arms,
    small_arms,
)
from ml.experiments.corrector.training_bases import Ground, encoder_of, ground_of, planned_base, recipe
from ml.experiments.corrector.training_runs import Task, measure
from ml.experiments.data import Dataset, few, joined_dataset
from ml.experiments.protocol import Options, PlannedRun
from ml.training.memory import fastest_precision

MAIN = "fashion_mnist"  # every arm; other digits check what claims name
SMALL_PER_CLASS = 500
SMOKE_IMAGES, SMOKE_STEPS = 60, 8
_NOT_DECIDING = {"name", "seeds"}


def planned_training(datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
    """Each set of digits alone and all together, what claims name first."""
    digits = [dataset for dataset in datasets if dataset.kind == "digits"]
    if options.smoke:
        grounds = [ground_of(few(dataset, SMOKE_IMAGES), f"{dataset.name}, few") for dataset in digits[:1]]
        return [run for ground in grounds for run in _runs(ground, map(_shortened, main_arms()), options)]
    planned: list[PlannedRun] = []
    for dataset in digits:
        arms = _arms_on(dataset.name)
        planned += _runs(ground_of(dataset, f"{dataset.name}"), arms, options)
        if dataset.name == MAIN:
            small = ground_of(dataset, f"{dataset.name}, 5,000 items", per_class=SMALL_PER_CLASS)
            planned += _runs(small, small_arms(), options)
    if len(digits) > 1:
        both = " and ".join(dataset.name for dataset in digits)
        planned += _runs(ground_of(joined_dataset(digits, both), both), claimed_arms(), options)
    return planned


def _arms_on(name: str) -> list[Arm]:
    if name != MAIN:
        return list(claimed_arms())
    return [*main_arms(), *described_arms(), *ablations(), *noisy_arms()]


def _runs(ground: Ground, arms: Iterable[Arm], options: Options) -> Iterator[PlannedRun]:
    precision = fastest_precision()
    made_by = recipe(ground, precision=precision, smoke=options.smoke)
    bases = {seed: planned_base(ground, made_by, seed) for seed in options.seeds[:SEEDS]}
    yield from bases.values()
    setting = f"training/{ground.name}"
    for arm in arms:
        decides = {key: value for key, value in asdict(arm).items() if key not in _NOT_DECIDING}
        decides["selection"]["ceiling"] = str(arm.selection.ceiling)  # JSON knows no infinity
        for seed in options.seeds[: arm.seeds]:
            base = bases[seed]
            task = Task(arm, ground, setting, seed, encoder_of(ground, base, made_by, options), precision)
            yield PlannedRun(
                name=arm.name, setting=setting, seed=seed,
                identity={"base": dict(base.identity), "arm": decides, "precision": precision},
                work=partial(measure, task),
            )  # fmt: skip


def _shortened(arm: Arm) -> Arm:
    joint = replace(arm.joint, refresh=2, check_every=2)
    return replace(arm, steps=SMOKE_STEPS, joint=joint, times=min(arm.times, SMOKE_STEPS // 2))
