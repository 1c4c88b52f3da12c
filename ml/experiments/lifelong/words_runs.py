"""Claim C6g: photos asked for by words, and texts asked for by photos, by codes, by BM25 and by both.

Queries are phrases of labels that training has heard; the photos are new to it. Of `catalog` the products are new
too, with their texts; of `grocery` it knows the classes and what is said of them, one text to a class. There almost
every query is in the title, so the same is asked once more with titles cut off from texts and from the index. In
the product tags are indexed with the texts: BM25 here has the texts alone, as the claim says.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ml.data.words import WordHasher
from ml.evaluation.metrics import mean_of
from ml.experiments.claims import Question, Side
from ml.experiments.data import Described
from ml.experiments.data.parts import Ids
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.lifelong.arms import BASE, CLAIMED_SEEDS
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import LabelScheme
from ml.experiments.lifelong.words import (
    Scores,
    Signs,
    WordsTask,
    best_weight,
    bm25_scores,
    borrowed_bm25,
    code_scores,
    fused_scores,
    image_to_text,
    text_to_image,
    words_task,
)
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import outputs_of, signs_of_logits

STAGE = 0  # of the chain: what a first generation knows
Direction = Literal["text to image", "image to text"]
DIRECTIONS: tuple[Direction, ...] = ("text to image", "image to text")
Role = Literal["validation", "queries", "held_out"]
Row = Literal["bm25", "borrowed bm25", "codes", "fused", "chance"]
ROWS: dict[Direction, tuple[Row, ...]] = {
    "text to image": ("bm25", "codes", "fused", "chance"),
    "image to text": ("borrowed bm25", "codes", "fused", "chance"),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """Photos of one pack in one role. by_class: photos of a class show one item; else each its own product.
    is_described: titles, what stands before the first full stop, are cut off.
    """

    title: str
    pack: str
    role: Role
    by_class: bool = False
    is_described: bool = False

    def said(self, known: Described) -> Described:
        """What this scene lets be known of a photo."""
        return known._replace(text=known.text.partition(". ")[2]) if self.is_described else known


CHOOSING = Scene("catalog validation", "catalog", "validation")  # where the weight of the fusion is chosen
SCENES = (
    Scene("catalog held out", "catalog", "held_out"),
    Scene("grocery", "grocery", "queries", by_class=True),
    Scene("grocery, descriptions alone", "grocery", "queries", by_class=True, is_described=True),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A scene's photos. rows (N,): of the chain's images; items (N,)."""

    scene: Scene
    rows: Ids
    items: Ids
    task: WordsTask


@dataclass(frozen=True, slots=True)
class Teaching:
    """What the heads are taught with; one training per seed, shared by all rows that need heads."""

    place: Place
    config: LifelongConfig = BASE
    scheme: LabelScheme = field(default_factory=LabelScheme)


def planned_words(
    place: Place, options: Options, *, config: LifelongConfig = BASE, scheme: LabelScheme | None = None
) -> Iterator[PlannedRun]:
    """Every row of every scene and direction. place: a chain with the packs of SCENES."""
    teaching = Teaching(place, config, scheme or LabelScheme())
    identity = {**place.identity(teaching.scheme), "config": asdict(config), "stage": STAGE}
    for seed in options.seeds[:CLAIMED_SEEDS]:
        for scene in SCENES:
            for direction in DIRECTIONS:
                for row in ROWS[direction]:
                    yield PlannedRun(
                        name=row, setting=f"words/{scene.title}/{direction}", seed=seed,
                        identity={**identity, "scene": asdict(scene)},
                        work=partial(measured_words, teaching, scene, direction, row, seed),
                    )  # fmt: skip


def words_questions(evidence: Evidence) -> list[Question]:
    """C6g of every scene that has rows: on photos whose text has none of the query's words."""
    settings = {str(row["setting"]) for row in evidence.rows}
    asked = [(scene, f"words/{scene.title}/text to image") for scene in SCENES]
    return [
        Question(
            id="C6g", cell=scene.title, statistic="text_fusion_minus_bm25", setting=setting, family="C6g",
            a=Side("fused", "map_lacking"), b=Side("bm25", "map_lacking"), target="low > 0", min_seeds=CLAIMED_SEEDS,
            note="photos whose text lacks the query's words, the relevant ones that have them taken away: "
            f"{_lacking(evidence, setting)} queries have any",
        )
        for scene, setting in asked
        if setting in settings
    ]  # fmt: skip


def _lacking(evidence: Evidence, setting: str) -> int:
    found = evidence.values(setting=setting, name="fused", metric="queries_lacking")
    return int(next(iter(found.values())))


def measured_words(
    teaching: Teaching, scene: Scene, direction: Direction, row: Row, seed: int, _checkpoint: Path
) -> RunRecord:
    """One row: per query of words, or per photo."""
    started = time.monotonic()
    shown = shown_of(teaching.place, scene)
    task, values = shown.task, dict[str, Value]()
    scores, weight = _scores(teaching, shown, direction, row, seed)
    if weight is not None:
        values["weight"] = weight
    per_query = _quality(task, direction)(scores)
    if direction == "text to image":
        values |= {"queries": len(task.queries), "queries_lacking": int(task.lacking.any(axis=1).sum())}
    values |= {"photos": len(task), "texts": len(set(task.texts))}
    items = np.array(task.queries) if direction == "text to image" else shown.items
    means = {metric: mean_of(own)[0] for metric, own in per_query.items()}
    return RunRecord(
        name=row, setting=f"words/{scene.title}/{direction}", seed=seed, values=values | means, per_query=per_query,
        seconds=time.monotonic() - started, items=items,
    )  # fmt: skip


def shown_of(place: Place, scene: Scene) -> Shown:
    """Its photos, less those of classes that the stage has not learned. Raises ValueError when none is left."""
    chain = place.features.chain
    rows: Ids = getattr(chain, scene.role)
    of_pack = np.array([chain.images.images.packs[row] == scene.pack for row in rows], np.bool_)
    rows = rows[of_pack & (chain.images.labels()[rows] < chain.ends[STAGE])]
    if not len(rows):
        raise ValueError(f"the chain {chain.name} shows no photo of {scene.pack} in its {scene.role}")
    items = chain.images.labels()[rows] if scene.by_class else chain.images.items[rows]
    described = [scene.said(chain.images.described[row]) for row in rows]
    return Shown(scene, rows, items, words_task(described, items))


def _scores(
    teaching: Teaching, shown: Shown, direction: Direction, row: Row, seed: int
) -> tuple[Scores, float | None]:
    """Of the row, and for a fusion the codes' weight in it."""
    if row == "chance":
        return np.zeros_like(_of_words(teaching.place, shown, direction)), None
    if row == "codes":
        return _of_codes(teaching, shown, direction, seed), None
    if row != "fused":
        return _of_words(teaching.place, shown, direction), None
    choosing = shown_of(teaching.place, CHOOSING)
    weight = best_weight(
        _of_words(teaching.place, choosing, direction), _of_codes(teaching, choosing, direction, seed),
        _quality(choosing.task, direction),
    )  # fmt: skip
    words, codes = _of_words(teaching.place, shown, direction), _of_codes(teaching, shown, direction, seed)
    return fused_scores(words, codes, weight=weight), weight


def _quality(task: WordsTask, direction: Direction) -> Callable[[Scores], dict[str, Scores]]:
    return partial(text_to_image if direction == "text to image" else image_to_text, task)


def _of_words(place: Place, shown: Shown, direction: Direction) -> Scores:
    """BM25; a photo borrows the text of the stored photo whose embedding is nearest."""
    if direction == "text to image":
        return bm25_scores(shown.task)
    features = place.features
    chain = features.chain
    stored = chain.gallery[chain.images.labels()[chain.gallery] < chain.ends[STAGE]]
    nearest = stored[(features.embeddings[shown.rows] @ features.embeddings[stored].T).argmax(axis=1)]
    return borrowed_bm25(shown.task, [shown.scene.said(chain.images.described[row]).text for row in nearest])


def _of_codes(teaching: Teaching, shown: Shown, direction: Direction, seed: int) -> Scores:
    """Similarity of the text head's codes to the image head's."""
    heads = teaching.place.lesson(teaching.config, teaching.scheme, stage=STAGE, seed=seed).heads
    if heads.text is None:
        raise ValueError("the heads have learned no words")
    hasher = WordHasher(teaching.place.words)
    photos = _signs(outputs_of(heads.image, teaching.place.features.vectors[shown.rows]))
    if direction == "text to image":
        return code_scores(_signs(outputs_of(heads.text, hasher(shown.task.queries))), photos)
    return code_scores(photos, _signs(outputs_of(heads.text, hasher(shown.task.texts))))


def _signs(logits: Signs) -> Signs:
    return signs_of_logits(logits).astype(np.float32)
