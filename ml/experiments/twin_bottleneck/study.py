"""The experiment itself: its runs, what the claims ask of them, and how they are shown."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ml.experiments.claims import Question, Side
from ml.experiments.data import ClassSplit, Dataset, class_split, few, joined_dataset
from ml.experiments.evidence import Evidence
from ml.experiments.protocol import Options, PlannedRun
from ml.experiments.twin_bottleneck import presenting
from ml.experiments.twin_bottleneck.arms import (
    ALONE_SEEDS,
    CLAIMED_SEEDS,
    FEW_LABELS,
    LENGTHS,
    PLAUSIBILITY_LENGTHS,
    PLAUSIBILITY_SEEDS,
    PRODUCT_LENGTH,
    WRONG_LABELS,
    Arm,
    ablations,
    label_arms,
    main_arms,
)
from ml.experiments.twin_bottleneck.end_to_end import SEEDS as END_TO_END_SEEDS
from ml.experiments.twin_bottleneck.end_to_end import EndToEnd, measure_end_to_end, recipes
from ml.experiments.twin_bottleneck.runs import Task, measure
from ml.experiments.twin_bottleneck.trunks import Condition, features_of, planned_trunk, recipe
from ml.training.memory import fastest_precision

UNION, ALONE = "union", "grocery"
GALLERY_PER_CLASS, QUERIES_PER_CLASS = 2_000, 200  # of digits: 20,000 entries, 2,000 queries
END_TO_END_STEPS = 700
SMOKE_IMAGES, SMOKE_CLASSES, SMOKE_EPOCHS = 12, 10, 2
SIMPLE = ("itq", "lsh", "jmlh")  # the rivals of C3b; the best of them on the very metric is the one to beat
ALL = Condition()


class TwinBottleneckStudy:
    """See ml.experiments.protocol.Experiment."""

    name = "twin-bottleneck"
    seeds = CLAIMED_SEEDS

    def plan(self, datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
        """Trunks first, then claimed arms seed by seed: a study that is cut short has every arm alike."""
        planned = [run for split in splits_of(datasets, smoke=options.smoke) for run in _runs(split, options)]
        return sorted(planned, key=_priority)

    def questions(self, evidence: Evidence) -> list[Question]:
        """C3, C3b and C5 for each data set, C4 for each length and each share of labels; Holm within an id."""
        settings = list(dict.fromkeys(str(row["setting"]) for row in evidence.rows))
        asked: list[Question] = []
        for setting in settings:
            names = {row["name"] for row in evidence.rows if row["setting"] == setting}
            asked += _questions_of(setting, names, evidence)
        return asked

    def present(self, evidence: Evidence) -> dict[str, Any]:
        """Title, prose, tables and plots of the result file."""
        return presenting.present(evidence)


EXPERIMENT = TwinBottleneckStudy()


def splits_of(datasets: Sequence[Dataset], *, smoke: bool) -> list[ClassSplit]:
    """The packs together, `grocery` alone, and every other data set as a check of plausibility."""
    packs = [dataset for dataset in datasets if dataset.kind == "pack"]
    if smoke:
        packs = [few(pack, SMOKE_IMAGES, SMOKE_CLASSES) for pack in packs[:1]]
        datasets = [*packs, *(few(other, SMOKE_IMAGES) for other in datasets if other.kind != "pack")]
    splits = [class_split(joined_dataset(packs, UNION))] if len(packs) > 1 else []
    for dataset in datasets:
        if dataset.kind != "pack":
            splits.append(
                class_split(dataset, gallery_per_class=GALLERY_PER_CLASS, queries_per_class=QUERIES_PER_CLASS)
            )
        elif dataset.name == ALONE or len(packs) == 1:
            splits.append(class_split(dataset))
    return splits


def _runs(split: ClassSplit, options: Options) -> Iterator[PlannedRun]:
    """Trunk by trunk: the trunk's own run, then the arms that stand on it."""
    base = _Stand.of(split, ALL, options)
    yield base.trunk
    lengths = LENGTHS if split.name in {UNION, ALONE} else PLAUSIBILITY_LENGTHS
    for code_bits in lengths[-1:] if options.smoke else lengths:
        arms = main_arms(code_bits, seeds=seeds_of(split.name))
        yield from base.runs(arms, f"{code_bits} bits")
    if options.smoke:
        return
    if split.name == UNION:
        for condition in (*FEW_LABELS, *WRONG_LABELS):
            stand = _Stand.of(split, condition, options)
            yield stand.trunk
            yield from stand.runs(label_arms(condition), f"{PRODUCT_LENGTH} bits/{condition.title}")
    if split.name == ALONE:
        yield from base.runs(ablations(), f"{PRODUCT_LENGTH} bits")
        yield from _end_to_end(split, options)


def seeds_of(name: str) -> int:
    """Of the arms that claims name, on the data set of this name."""
    return {UNION: CLAIMED_SEEDS, ALONE: ALONE_SEEDS}.get(name, PLAUSIBILITY_SEEDS)


@dataclass(frozen=True, slots=True)
class _Stand:
    """A data set under one label condition, with its trunk's run."""

    split: ClassSplit
    condition: Condition
    trunk: PlannedRun
    options: Options

    @classmethod
    def of(cls, split: ClassSplit, condition: Condition, options: Options) -> "_Stand":
        own = recipe(split, condition, precision=fastest_precision(), smoke=options.smoke)
        return cls(split, condition, planned_trunk(split, condition, own), options)

    def runs(self, arms: Iterable[Arm], tail: str) -> Iterator[PlannedRun]:
        for arm in arms:
            own = _shortened(arm) if self.options.smoke else arm
            for seed in self.options.seeds[: arm.seeds]:
                yield self._run(own, f"{self.split.name}/{tail}", seed)

    def _run(self, arm: Arm, setting: str, seed: int) -> PlannedRun:
        identity: dict[str, Any] = {
            "trunk": dict(self.trunk.identity), "source": arm.source, "heads": asdict(arm.heads),
        }  # fmt: skip
        if arm.source in {"heads", "classifier"}:
            identity["settings"] = asdict(arm.settings)
        if arm.has_tags:
            identity["has_tags"] = True
        features = partial(features_of, self.split, self.condition, self.trunk, self.options)
        work = partial(measure, Task(arm, setting, seed, features))
        return PlannedRun(name=arm.name, setting=setting, seed=seed, identity=identity, work=work)


def _shortened(arm: Arm) -> Arm:
    return replace(arm, heads=replace(arm.heads, epochs=SMOKE_EPOCHS, batch=100))


def _end_to_end(split: ClassSplit, options: Options) -> Iterator[PlannedRun]:
    trunk = recipe(split, ALL, precision=fastest_precision(), smoke=options.smoke, steps=END_TO_END_STEPS)
    setting = f"{split.name}/end to end"
    for name, own in recipes(trunk).items():
        for seed in options.seeds[:END_TO_END_SEEDS]:
            yield PlannedRun(
                name=name, setting=setting, seed=seed,
                identity={"recipe": own.as_values(), "data": split.fingerprint},
                work=partial(measure_end_to_end, EndToEnd(name, setting, seed, split, own)),
            )  # fmt: skip


def _priority(run: PlannedRun) -> tuple[int, int]:
    """Trunks of full labels, claimed arms by seed, few labels, end to end; what is only described comes last."""
    tail = run.setting.split("/", 1)[1]
    kinds = {"trunk": 0, "end to end": 3}
    if "wrong" in tail or "," in run.name:
        kind = 4
    elif "of labels" in tail:
        kind = 2
    else:
        kind = kinds.get(tail, 1)
    return kind, run.seed


def few_seeds(setting: str) -> str:
    """What a cell with fewer seeds than registered has to say."""
    seeds = seeds_of(setting.split("/", 1)[0])
    return (
        "" if seeds >= CLAIMED_SEEDS else f"{seeds} seeds, for want of time; {CLAIMED_SEEDS} are registered"
    )


def _questions_of(setting: str, names: set[Any], evidence: Evidence) -> list[Question]:
    """None of what only checks plausibility or describes."""
    place, _, tail = setting.partition("/")
    if place not in {UNION, ALONE} or tail == "end to end" or "trunk" in tail or "wrong" in tail:
        return []
    seeds = seeds_of(place)
    if "of labels" in tail:
        return [_against_jmlh(setting, "map_at_1000_all", seeds)]
    asked = [
        Question(
            id="C3", cell=setting, statistic="supervised_minus_tbh", setting=setting, family="C3",
            a=Side("satbh", "map_at_1000_all"), b=Side("tbh", "map_at_1000_all"), target="low > 0", min_seeds=seeds,
            note=few_seeds(setting),
        ),
        *(_against_simple(setting, metric, seeds, evidence)
          for metric in ("map_at_1000_seen_seen", "map_at_1000_seen", "map_at_1000_all")),
        _against_jmlh(setting, "map_at_1000_unseen", seeds),
    ]  # fmt: skip
    if tail == f"{PRODUCT_LENGTH} bits" and "shipped" in names:
        asked += [
            _two_stage(setting, kind, limit, seeds) for kind, limit in (("seen", 0.005), ("unseen", 0.02))
        ]
    return asked


def _against_simple(setting: str, metric: str, seeds: int, evidence: Evidence) -> Question:
    """The rival is chosen on the very values it is judged by: the hardest choice for us."""
    quality = {
        name: np.mean(list(evidence.values(setting=setting, name=name, metric=metric).values()))
        for name in SIMPLE
    }
    best = max(quality, key=lambda name: quality[name])
    scope = metric.removeprefix("map_at_1000_").replace("_", " among ")
    return Question(
        id="C3b", cell=f"{setting}, {scope}, best rival {best}", statistic="shipped_minus_best_simple",
        setting=setting, family=f"C3b {metric}", a=Side("shipped", metric), b=Side(best, metric),
        target="low > 0" if metric.endswith("_all") else "value >= -0.01", min_seeds=seeds, note=few_seeds(setting),
    )  # fmt: skip


def _against_jmlh(setting: str, metric: str, seeds: int) -> Question:
    scope = metric.removeprefix("map_at_1000_")
    return Question(
        id="C4", cell=f"{setting}, {scope}", statistic="full_minus_jmlh", setting=setting, family="C4",
        a=Side("satbh", metric), b=Side("jmlh", metric), target="low > 0", min_seeds=seeds, needs="one",
        note=few_seeds(setting),
    )  # fmt: skip


def _two_stage(setting: str, kind: str, limit: float, seeds: int) -> Question:
    return Question(
        id="C5", cell=f"{setting}, {kind}, a tenth of the bytes", statistic="two_stage_loss", setting=setting,
        a=Side("shipped", f"float_scan_{kind}"), b=Side("shipped", f"two_stage_10_{kind}"),
        target=f"value <= {limit}", min_seeds=seeds, note=few_seeds(setting),
    )  # fmt: skip
