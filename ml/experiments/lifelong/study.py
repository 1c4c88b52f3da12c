"""The experiment itself: its runs, what the claims ask of them, and how they are shown."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ml.experiments.claims import Question
from ml.experiments.data import ClassChain, Dataset, class_chain, few, joined_dataset
from ml.experiments.evidence import Evidence
from ml.experiments.lifelong import presenting
from ml.experiments.lifelong.arms import (
    CLAIMED_SEEDS,
    DESCRIBED_SEEDS,
    SHIPPED,
    STORES,
    WORDS,
    Arm,
    Store,
    ablations,
    described_arms,
    main_arms,
)
from ml.experiments.lifelong.asking import MANY_STEPS, claims_of
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import LabelScheme
from ml.experiments.lifelong.growth import planned_growth
from ml.experiments.lifelong.noise import SHARES, with_wrong_labels
from ml.experiments.lifelong.runs import Task, measure
from ml.experiments.lifelong.shift_runs import planned_shifts
from ml.experiments.lifelong.stored_drift import planned_stored_drift
from ml.experiments.lifelong.timing import planned_timing
from ml.experiments.lifelong.trunks import features_of, planned_features, planned_trunk, recipe
from ml.experiments.lifelong.words_runs import planned_words
from ml.experiments.protocol import Options, PlannedRun
from ml.training.memory import fastest_precision

UNION, ALONE = "union", "grocery"
BASE_CLASSES = 49  # of grocery
QUERIES_PER_CLASS = 200  # of digits
FEW_STEPS = 4
UNION_STEPS = 5
UNION_SHIFTS = (0.3, 0.6)  # strengths of planted shifts
VIEWS = 7  # augmented ones of each entry, so that the shortest full retraining takes a minute
SMOKE_IMAGES, SMOKE_CLASSES, SMOKE_SEEDS = 12, 10, 1


class LifelongStudy:
    """See ml.experiments.protocol.Experiment."""

    name = "lifelong"
    seeds = CLAIMED_SEEDS

    def plan(self, datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
        """Trunks, then seed by seed what claims name, then what is described."""
        planned = [run for place in places_of(datasets, options) for run in place]
        planned += [] if options.smoke else planned_growth(options)
        # Chains with the same base classes share their trunk.
        once = {(run.setting, run.name, run.seed): run for run in planned}
        return sorted(once.values(), key=_priority)

    def questions(self, evidence: Evidence) -> list[Question]:
        """C6a to C6g."""
        return claims_of(evidence)

    def present(self, evidence: Evidence) -> dict[str, Any]:
        """Title, prose, tables and plots of the result file."""
        return presenting.present(evidence)


EXPERIMENT = LifelongStudy()


def places_of(datasets: Sequence[Dataset], options: Options) -> Iterator[list[PlannedRun]]:
    """Every chain's runs: the packs together, `grocery` alone in a few and in many increments, digits in one."""
    packs = [dataset for dataset in datasets if dataset.kind == "pack"]
    if options.smoke:
        small = [few(dataset, SMOKE_IMAGES, SMOKE_CLASSES) for dataset in packs[:1]]
        yield from (_smoke_runs(dataset, options) for dataset in small)
        return
    for dataset in packs:
        if dataset.name == ALONE:
            yield _alone_runs(dataset, options)
            yield _many_runs(dataset, options)
    if len(packs) > 1:
        yield _union_runs(joined_dataset(packs, UNION), options)
    for dataset in datasets:
        if dataset.kind == "digits":
            yield _digit_runs(dataset, options)


def _smoke_runs(dataset: Dataset, options: Options) -> list[PlannedRun]:
    chain = class_chain(dataset, steps=2)
    stand = _Stand.of(chain, f"{dataset.name}, 2 increments", options)
    arms = [_shortened(arm) for arm in (*main_arms(SMOKE_SEEDS), *described_arms())]
    return [*stand.made, *stand.runs(arms, staged=True), *planned_shifts(stand.place, options)]


def _alone_runs(dataset: Dataset, options: Options) -> list[PlannedRun]:
    """Four increments of five classes: every arm, every part."""
    chain = class_chain(dataset, steps=FEW_STEPS, base=BASE_CLASSES)
    stand = _Stand.of(chain, f"{ALONE}, {FEW_STEPS} increments", options)
    planned = [*stand.made, *stand.runs(main_arms(CLAIMED_SEEDS), staged=True), *stand.runs(described_arms())]
    drift = [*planned_shifts(stand.place, options), *planned_stored_drift(stand.place, options)]
    noisy = [run for share in SHARES for run in _noisy_runs(stand, share)]
    return [*planned, *drift, *stand.runs(ablations(), stores=("encoded",)), *noisy]


def _noisy_runs(stand: "_Stand", share: float) -> Iterator[PlannedRun]:
    """What claims name, taught by entries of which some have wrong labels."""
    noisy = replace(stand, place=with_wrong_labels(stand.place, share))
    for arm in _at_the_end(main_arms(DESCRIBED_SEEDS)):
        yield from noisy.runs(
            [replace(arm, name=f"{arm.name}, {share:.0%} wrong labels")], stores=("encoded",)
        )


def _many_runs(dataset: Dataset, options: Options) -> list[PlannedRun]:
    """Ten increments of two classes: what piles up."""
    chain = class_chain(dataset, steps=MANY_STEPS, base=BASE_CLASSES)
    stand = _Stand.of(chain, f"{ALONE}, {MANY_STEPS} increments", options)
    return [*stand.made, *stand.runs(_at_the_end(main_arms(CLAIMED_SEEDS))), *stand.runs(_frozen())]


def _union_runs(dataset: Dataset, options: Options) -> list[PlannedRun]:
    """The colour packs together, and what words find in them."""
    chain = class_chain(dataset, steps=UNION_STEPS)
    stand = _Stand.of(chain, f"{UNION}, {UNION_STEPS} increments", options)
    planned = [*stand.made, *stand.runs(_at_the_end(main_arms(CLAIMED_SEEDS)), staged=True)]
    rivals = [arm for arm in described_arms() if arm.name in {"no update", "new only", "exemplars"}]
    shifts = planned_shifts(stand.place, options, strengths=UNION_SHIFTS, seeds=1, has_trunks=False)
    return [*planned, *stand.runs(rivals), *shifts, *planned_words(stand.place, options)]


def _digit_runs(dataset: Dataset, options: Options) -> list[PlannedRun]:
    """One increment of three classes among 55,000 images: plausibility, and the time an update takes."""
    chain = class_chain(dataset, steps=1, queries_per_class=QUERIES_PER_CLASS)
    stand = _Stand.of(chain, f"{dataset.name}, 1 increment", options, has_texts=False)
    viewed = _Stand.of(
        chain, f"{dataset.name}, 1 increment, {VIEWS} views", options, views=VIEWS, has_texts=False
    )
    arms = [*main_arms(DESCRIBED_SEEDS), *_frozen()]
    timed = planned_timing(viewed.place, 1, LabelScheme())
    return [*stand.made, viewed.made[-1], *stand.runs(arms), *timed]


def _at_the_end(arms: Iterator[Arm]) -> Iterator[Arm]:
    for arm in arms:
        yield replace(arm, is_last_only=arm.kind == "retrain")


def _frozen() -> list[Arm]:
    return [arm for arm in described_arms() if arm.kind == "frozen"]


def _shortened(arm: Arm) -> Arm:
    config, base = (replace(own, rounds=1, final_epochs=1) for own in (arm.config, arm.base))
    return replace(arm, config=config, base=base)


@dataclass(frozen=True, slots=True)
class _Stand:
    """A chain on its trunk. made: the runs of trunk and features."""

    place: Place
    made: tuple[PlannedRun, PlannedRun]
    options: Options

    @classmethod
    def of(
        cls, chain: ClassChain, title: str, options: Options, *, views: int = 0, has_texts: bool = True
    ) -> "_Stand":
        own = recipe(chain, precision=fastest_precision(), smoke=options.smoke)
        trunk = planned_trunk(chain, own)
        features = planned_features(chain, title, trunk, own, options, views=views)
        read = partial(features_of, chain, features, trunk, own, options)
        place = Place(title, features, read, options, WORDS if has_texts else 0)
        return cls(place, (trunk, features), options)

    def runs(
        self, arms: Iterable[Arm], *, staged: bool = False, stores: tuple[Store, ...] = ("solved", "encoded")
    ) -> Iterator[PlannedRun]:
        for arm in arms:
            is_staged = staged and arm.name == SHIPPED
            for store in stores:
                for seed in self.options.seeds[: arm.seeds]:
                    yield self._run(arm, store, seed, is_staged=is_staged)

    def _run(self, arm: Arm, store: Store, seed: int, *, is_staged: bool) -> PlannedRun:
        setting = f"{self.place.title}/{STORES[store]}"
        plain = {key: value for key, value in asdict(arm).items() if key not in {"name", "seeds"}}
        identity = {**self.place.identity(arm.scheme), "arm": plain, "store": store, "is_staged": is_staged}
        task = Task(arm, self.place, store, setting, seed, is_staged)
        return PlannedRun(
            name=arm.name, setting=setting, seed=seed, identity=identity, work=partial(measure, task)
        )


def _priority(run: PlannedRun) -> tuple[int, int]:
    """Trunks and features, then what claims name seed by seed, then the rest."""
    if run.name in {"trunk", "features"}:
        return (0 if run.name == "trunk" else 1), 0
    if run.name == "timing":
        return 2, run.seed
    if run.name == "growth":
        return 3, run.seed
    claimed = run.name in {SHIPPED, "full retraining", "analytic"} or run.setting.startswith("words")
    return (3 if claimed else 4), run.seed
