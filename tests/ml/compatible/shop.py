"""A made-up shop whose trunks say what the tests want, for the tests of the experiment."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from ml.data.images import ImageSet
from ml.experiments.compatible.arms import FREE, Arm, claimed_arms, ours
from ml.experiments.compatible.new_rows import Task
from ml.experiments.compatible.places import SMOKE, Place
from ml.experiments.compatible.settings import CHAIN, UPGRADES, Generation
from ml.experiments.compatible.trunks import EXPERIMENT, FEATURES_FILE, VIEWS, planned_trunk
from ml.experiments.data import ClassSplit, Part, RetrievalTask
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.protocol import Options

CLASSES, BASE, EACH, SIZE, WIDTH = (
    13,
    10,
    14,
    24,
    12,
)  # ten classes are learned, one validates, two are unseen
LABELS = np.repeat(np.arange(CLASSES), EACH)
_PLACE = np.tile(np.arange(EACH), CLASSES)
SPREAD = {
    0.1: 1.6,
    0.3: 1.3,
    1.0: 0.9,
}  # of features about their class, by the share of images that was learned


class Watched(Ledger):
    """A run that waits for itself would wait for ever: here it fails at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._running: list[Path] = []

    def run(self, identity, work):  # type: ignore[no-untyped-def]
        home = self._home(identity)
        assert home not in self._running, f"{identity['setting']}, {identity['name']} waits for itself"
        self._running.append(home)
        try:
            return super().run(identity, work)
        finally:
            self._running.pop()


def options_of(folder: Path, *, seeds: tuple[int, ...] = (0,)) -> Options:
    return Options(seeds=seeds, smoke=True, threads=1, ledger=Watched(folder))


def split_of(name: str = "shop") -> ClassSplit:
    """Of each class the first four images ask: two to choose and two to report; the others are entries."""

    def task(known: range, asking: NDArray[np.bool_]) -> RetrievalTask:
        inside = np.isin(LABELS, list(known))
        gallery, queries = np.flatnonzero(inside & (_PLACE >= 4)), np.flatnonzero(inside & asking)
        own = LABELS[gallery], LABELS[queries]
        return RetrievalTask(gallery, own[0], own[0] >= BASE, queries, own[1], own[1] >= BASE, queries // 2)

    train = np.flatnonzero((LABELS < BASE) & (_PLACE >= 4))
    names = tuple(f"class {label}" for label in range(CLASSES))
    final = np.flatnonzero((LABELS < BASE) | (LABELS > BASE))
    return ClassSplit(
        name=name, images=pictures(), base=names[:BASE], validation=names[BASE : BASE + 1],
        unseen=names[BASE + 1 :], train=train, train_labels=LABELS[train],
        choosing=task(range(BASE + 1), _PLACE < 2),
        final=task(range(CLASSES), (_PLACE >= 2) & (_PLACE < 4) & np.isin(np.arange(len(LABELS)), final)),
        without_class=0, tags={}, fingerprint=f"{name}, made up",
    )  # fmt: skip


def pictures() -> Part:
    """A colour for each class."""
    rng = np.random.default_rng(0)
    colours = rng.integers(20, 230, (CLASSES, 3))[LABELS][:, :, None, None]
    pixels = np.clip(colours + rng.normal(0, 12, (len(LABELS), 3, SIZE, SIZE)), 0, 255).astype(np.uint8)
    names = tuple(f"class {label}" for label in range(CLASSES))
    images = ImageSet(
        torch.from_numpy(pixels), torch.from_numpy(LABELS), names, ("pack",) * len(LABELS), "made up"
    )
    return Part(images, np.arange(len(LABELS)))


def put_trunk(split: ClassSplit, generation: Generation, options: Options) -> None:
    """What the generation's trunk says goes into the ledger, so that none is trained."""
    run, known = planned_trunk(split, generation, options), generation.known(split)
    rng = np.random.default_rng(
        [round(10 * generation.images), len(generation.classes), len(generation.width)]
    )
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    centres = np.random.default_rng(1).normal(size=(CLASSES, WIDTH)) @ turn
    spread = SPREAD[generation.images] * (0.8 if generation.width == "large" else 1.0)
    learned, rows = known[known >= 0], split.train[known >= 0]
    found = {
        "vectors": centres[LABELS] + rng.normal(0, spread, (len(LABELS), WIDTH)),
        "views": centres[learned] + rng.normal(0, spread, (VIEWS, len(rows), WIDTH)),
    }
    files = {FEATURES_FILE: save({key: value.astype(np.float16) for key, value in found.items()})}
    record = RunRecord(run.name, run.setting, run.seed, {}, files=files)
    options.ledger.run(run.full_identity(EXPERIMENT, smoke=True), lambda _: record)


def place_of(
    folder: Path, upgrade: str = "more-data", *, noise: float = 0.0, options: Options | None = None
) -> Place:
    """Its trunks are found in the ledger and never trained."""
    chosen = next(one for one in UPGRADES if one.name == upgrade)
    place = Place(split_of(), chosen, options or options_of(folder), noise=noise, heads=SMOKE)
    for generation in (chosen.old, chosen.new):
        put_trunk(place.split, generation, place.options)
    return place


def put_chain(split: ClassSplit, options: Options) -> None:
    for generation in CHAIN:
        put_trunk(split, generation, options)


def arm_of(name: str) -> Arm:
    return next(arm for arm in (*claimed_arms(), ours()) if arm.name == name)


def task_of(place: Place, arm: Arm, seed: int = 0) -> Task:
    return Task(place, arm, arm_of(FREE), seed)


def average_precisions(
    asking: NDArray[np.float32], answering: NDArray[np.float32], task: RetrievalTask
) -> NDArray[np.float64]:
    """(Q,) by the definition, of embeddings of every image."""
    found = []
    for query, label in zip(task.queries, task.query_labels, strict=True):
        order = np.argsort(-(answering[task.gallery] @ asking[query]), kind="stable")
        ranks = np.flatnonzero(task.gallery_labels[order] == label) + 1
        found.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return np.array(found)
