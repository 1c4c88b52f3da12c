"""The experiment itself: its runs, what the claims ask of them, and how they are shown."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ml.experiments.claims import Question
from ml.experiments.compatible import presenting
from ml.experiments.compatible.arms import (
    ABLATION_SEEDS,
    CLAIMED_SEEDS,
    DESCRIBED_SEEDS,
    FREE,
    NOISES,
    OLD,
    Arm,
    claimed_arms,
    held_codes_alone,
    ours,
    rivals,
    strengths,
    tuned_rivals,
    variants,
)
from ml.experiments.compatible.asking import questions_of
from ml.experiments.compatible.backfill import planned_backfill
from ml.experiments.compatible.chains import Chain
from ml.experiments.compatible.heads import HeadConfig
from ml.experiments.compatible.new_rows import KEPT, KEPT_SEEDS, Task
from ml.experiments.compatible.old_rows import planned_old
from ml.experiments.compatible.places import SMOKE, Place
from ml.experiments.compatible.relevance import planned_relevance
from ml.experiments.compatible.settings import ALONE, UPGRADES
from ml.experiments.compatible.whole import planned_whole
from ml.experiments.data import ClassSplit, Dataset, class_split, few, joined_dataset
from ml.experiments.evidence import Evidence
from ml.experiments.protocol import Options, PlannedRun

UNION, PACK = "union", "grocery"
SWEPT = {(UNION, "more-data"), (PACK, "more-classes")}  # where the curve over strengths is drawn
CHAIN_SEEDS = 3
MAPPED = ("more-data", "larger-trunk")  # whose galleries are mapped forward, and encoded anew part by part
WHOLE_OURS_SEEDS = 1  # end to end, for want of time
NOISY = "more-data"
DIGITS_PER_CLASS = 1_000
SMOKE_IMAGES, SMOKE_CLASSES = 12, 12


class CompatibleStudy:
    """See ml.experiments.protocol.Experiment."""

    name = "compatible"
    seeds = CLAIMED_SEEDS

    def plan(self, datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
        """Trunks, then seed by seed, what claims name before what is only described."""
        planned = [run for split in _splits(datasets, options) for run in _runs_of(split, options)]
        once = {(run.setting, run.name, run.seed): run for run in planned}  # settings share trunks
        return sorted(once.values(), key=_priority)

    def questions(self, evidence: Evidence) -> list[Question]:
        """C8 to C10."""
        return questions_of(evidence)

    def present(self, evidence: Evidence) -> dict[str, Any]:
        """Title, prose, tables and plots of the result file."""
        return presenting.present(evidence)


EXPERIMENT = CompatibleStudy()


def _splits(datasets: Sequence[Dataset], options: Options) -> list[ClassSplit]:
    packs = [dataset for dataset in datasets if dataset.kind == "pack"]
    if options.smoke:
        return [class_split(few(pack, SMOKE_IMAGES, SMOKE_CLASSES)) for pack in packs[:1]]
    together = [class_split(joined_dataset(packs, UNION))] if len(packs) > 1 else []
    alone = [class_split(pack) for pack in packs if pack.name == PACK]
    digits = [
        class_split(dataset, train_per_class=DIGITS_PER_CLASS, gallery_per_class=DIGITS_PER_CLASS)
        for dataset in datasets
        if dataset.kind == "digits"
    ]
    return [*together, *alone, *digits]


def _runs_of(split: ClassSplit, options: Options) -> Iterator[PlannedRun]:
    names = {upgrade.name for upgrade in UPGRADES} if split.name == UNION else set(ALONE)
    is_digits = split.images.images.pixels.shape[1] == 1
    if is_digits:
        names = {NOISY}
    for upgrade in UPGRADES:
        if upgrade.name in names:
            place = Place(split, upgrade, options)
            yield from _place_runs(
                replace(place, heads=SMOKE) if options.smoke else place, is_digits=is_digits
            )
    if is_digits:
        return
    if split.name == UNION or options.smoke:
        yield from _chain_runs(split, options)
    yield from planned_whole(split, [*claimed_arms(), ours(WHOLE_OURS_SEEDS)], options)


def _place_runs(place: Place, *, is_digits: bool) -> Iterator[PlannedRun]:
    yield from place.trunks
    name = (place.split.name, place.upgrade.name)
    if is_digits:
        yield from _arm_runs(place, claimed_arms(DESCRIBED_SEEDS))
        return
    yield from _arm_runs(place, [*claimed_arms(), ours(), held_codes_alone(), *rivals()])
    if name in SWEPT or place.options.smoke:
        yield from _arm_runs(place, [*strengths(DESCRIBED_SEEDS), *variants(), *tuned_rivals()])
    yield from _standing_on(place)
    if name == (UNION, NOISY) or place.options.smoke:
        for share in NOISES:
            noisy = replace(place, noise=share)
            arms = [replace(arm, is_whole=False) for arm in claimed_arms(ABLATION_SEEDS)]
            yield from _arm_runs(noisy, arms)


def _arm_runs(place: Place, arms: Iterable[Arm]) -> Iterator[PlannedRun]:
    listed = list(arms)
    for seed in place.options.seeds[: max(arm.seeds for arm in listed)]:
        yield planned_old(place, seed)
    free = next((arm for arm in listed if arm.name == FREE), next(claimed_arms()))
    for arm in listed:
        for seed in place.options.seeds[: arm.seeds]:
            yield Task(place, arm.at(seed), free.at(seed), seed).planned()


def _standing_on(place: Place) -> Iterator[PlannedRun]:
    """Rows that take the vectors of others: galleries part encoded anew, and mapped forward."""
    free, ndpp = (arm for arm in claimed_arms() if arm.name in KEPT)
    for seed in place.options.seeds[:KEPT_SEEDS]:
        task = Task(place, ndpp, free, seed)
        yield planned_relevance(task)
        if (place.split.name == UNION and place.upgrade.name in MAPPED) or place.options.smoke:
            yield from planned_backfill(replace(task, arm=free), task)


def _chain_runs(split: ClassSplit, options: Options) -> Iterator[PlannedRun]:
    chain = Chain(split, options, SMOKE if options.smoke else HeadConfig())
    yield from chain.trunks
    for arm in claimed_arms():
        for seed in options.seeds[:CHAIN_SEEDS]:
            yield chain.planned(replace(arm, is_whole=False), seed)


def _priority(run: PlannedRun) -> tuple[int, int]:
    """Trunks; then what claims name, seed by seed; then the rest."""
    if run.setting.endswith("/trunks"):
        return 0, 0
    claimed = run.name in {OLD, *(arm.name for arm in claimed_arms())}
    return (1 if claimed else 2), run.seed
