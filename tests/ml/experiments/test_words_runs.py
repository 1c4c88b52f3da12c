"""Words in a lifelong experiment: a made-up shop of two packs whose heads are trained once and asked both ways."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.data.images import ImageSet
from ml.data.words import WordHasher
from ml.experiments.claims import answer
from ml.experiments.data import ClassChain, Described
from ml.experiments.data.parts import Part
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.lifelong.arms import CLAIMED_SEEDS
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import LabelScheme
from ml.experiments.lifelong.trunks import Features
from ml.experiments.lifelong.words import bm25_scores, code_scores, fused_scores, text_to_image
from ml.experiments.lifelong.words_runs import (
    CHOOSING,
    ROWS,
    SCENES,
    Teaching,
    measured_words,
    planned_words,
    shown_of,
    words_questions,
)
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import outputs_of
from ml.models.config import EncoderConfig
from ml.models.encoder import ImageEncoder

QUICK = LifelongConfig(
    rounds=2, final_epochs=20, batch=16, hidden=32, text_hidden=32, code_bits=32, learning_rate=0.01
)
ALIKE = LabelScheme(ancestor=1.0, tag=1.0)
CLASSES = (
    "catalog:Bags",
    "catalog:Shirts",
    "grocery:Apple",
    "grocery:Milk",
    "grocery:Plum",
)  # plums come later
COLOURS = ("red", "blue")
TEXTS = {
    "grocery:Apple": "Apple. A crisp fruit.", "grocery:Milk": "Milk. White and fresh.", "grocery:Plum": "Plum. Sweet.",
}  # fmt: skip
ROLES = ("gallery", "validation", "queries", "held_out")
SHOTS = {"gallery": 6, "validation": 2, "queries": 2, "held_out": 2}


def shop() -> Features:
    """Features say class and colour. A product of the catalogue names its class in every text, its colour in none."""
    rng = np.random.default_rng(0)
    labels: list[int] = []
    items: list[int] = []
    packs: list[str] = []
    described: list[Described] = []
    vectors = []
    rows: dict[str, list[int]] = {role: [] for role in ROLES}
    for role in ROLES:
        for label, name in enumerate(CLASSES):
            pack = name.partition(":")[0]
            if role in {"queries", "held_out"} and (pack == "catalog") != (role == "held_out"):
                continue
            for colour, tag in enumerate(COLOURS):
                for _shot in range(SHOTS[role]):
                    rows[role].append(len(labels))
                    text = TEXTS.get(name, f"{name.partition(':')[2]} number {role} {tag[0]}{label}")
                    described.append(Described(categories=(name,), tags=(f"colour:{tag}",), text=text))
                    labels.append(-1 if role == "held_out" else label)
                    items.append(100 * ROLES.index(role) + 10 * label + colour)
                    packs.append(pack)
                    vector = rng.normal(0, 0.2, 8)
                    vector[label] += 3
                    vector[5 + colour] += 3
                    vectors.append(vector)
    found = np.array(vectors, np.float32)
    images = ImageSet(
        pixels=torch.zeros((len(labels), 3, 1, 1), dtype=torch.uint8), labels=torch.tensor(labels), names=CLASSES,
        packs=tuple(packs), fingerprint="made up",
    )  # fmt: skip
    chain = ClassChain(
        name="shop", images=Part(images, np.array(items), tuple(described)), classes=CLASSES, ends=(4, 5),
        fingerprint="shop", **{role: np.array(own) for role, own in rows.items()},
    )  # fmt: skip
    return Features(
        chain=chain, vectors=found, embeddings=found / np.linalg.norm(found, axis=1, keepdims=True),
        views=np.empty((0, 0, 8), np.float32), mean=np.zeros(8, np.float32), scale=np.ones(8, np.float32),
        encoder=ImageEncoder(EncoderConfig()),
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    options = Options(seeds=(0,), smoke=False, threads=1, ledger=Ledger(tmp_path_factory.mktemp("ledger")))

    def unneeded(_checkpoint: Path) -> RunRecord:
        raise AssertionError("the features are at hand")

    made = PlannedRun(name="features", setting="shop/features", seed=0, identity={"shop": 1}, work=unneeded)
    features = shop()
    return Place("shop", made, lambda: features, options, words=256)


@pytest.fixture(scope="module")
def runs(place: Place) -> dict[tuple[str, str], RunRecord]:
    planned = list(planned_words(place, place.options, config=QUICK, scheme=ALIKE))
    return {(run.setting, run.name): run.work(Path("unused")) for run in planned}


def test_every_scene_is_asked_both_ways_by_every_row(runs: dict[tuple[str, str], RunRecord]) -> None:
    expected = {
        (f"words/{scene.title}/{direction}", row)
        for scene in SCENES
        for direction, names in ROWS.items()
        for row in names
    }
    assert runs.keys() == expected
    assert len(expected) == 24


def test_classes_that_come_later_and_photos_of_other_packs_are_not_shown(place: Place) -> None:
    catalog, grocery, alone = (shown_of(place, scene) for scene in SCENES)
    packs = place.features.chain.images.images.packs
    assert {packs[row] for row in catalog.rows} == {"catalog"}
    assert len(catalog.task.texts) == 4  # two classes in two colours: a product each
    assert sorted(grocery.task.texts) == ["Apple. A crisp fruit.", "Milk. White and fresh."]
    assert sorted(alone.task.texts) == ["A crisp fruit.", "White and fresh."]
    assert not set(catalog.items) & set(shown_of(place, CHOOSING).items)


def test_codes_find_colours_that_no_text_names_and_the_fusion_has_them_too(
    runs: dict[tuple[str, str], RunRecord],
) -> None:
    setting = "words/catalog held out/text to image"
    bm25, codes, fused = (runs[setting, name] for name in ("bm25", "codes", "fused"))
    queries = [str(query) for query in np.asarray(bm25.items)]
    assert queries == ["bags", "blue", "red", "shirts"]
    assert np.isnan(bm25.per_query["map_lacking"]).tolist() == [True, False, False, True]
    assert bm25.values["map_lacking"] == runs[setting, "chance"].values["map_lacking"]
    assert float(codes.values["map_lacking"]) > float(bm25.values["map_lacking"]) + 0.2
    assert float(fused.values["map_lacking"]) > float(bm25.values["map_lacking"]) + 0.2
    assert float(fused.values["map_words"]) > float(bm25.values["map_words"])
    assert 0 < float(fused.values["weight"]) <= 1
    assert fused.values["queries_lacking"] == 2


def test_the_fusion_is_that_of_the_texts_bm25_and_the_heads_codes(
    runs: dict[tuple[str, str], RunRecord], place: Place
) -> None:
    assert runs
    blurred = place.features.vectors + np.random.default_rng(1).normal(0, 2, place.features.vectors.shape)
    features = replace(place.features, vectors=blurred.astype(np.float32))
    place = replace(place, read=lambda: features)  # the heads are those of before
    fused = measured_words(
        Teaching(place, QUICK, ALIKE), SCENES[0], "text to image", "fused", 0, Path("unused")
    )
    shown = shown_of(place, SCENES[0])
    heads = place.lesson(QUICK, ALIKE, stage=0, seed=0).heads
    assert heads.text is not None
    asked = np.sign(outputs_of(heads.text, WordHasher(256)(shown.task.queries)))
    codes = code_scores(asked, np.sign(outputs_of(heads.image, features.vectors[shown.rows])))
    scores = fused_scores(bm25_scores(shown.task), codes, weight=float(fused.values["weight"]))
    for metric, values in text_to_image(shown.task, scores).items():
        np.testing.assert_array_equal(fused.per_query[metric], values)


def test_photos_are_clustered_by_what_they_show_and_find_the_text_of_their_class(
    runs: dict[tuple[str, str], RunRecord], place: Place
) -> None:
    asked = runs["words/grocery/image to text", "codes"]
    assert np.asarray(asked.items).tolist() == [2] * 4 + [3] * 4
    assert asked.values["map_text"] == 1.0
    assert asked.values["texts"] == 2
    borrowed = runs["words/catalog held out/image to text", "borrowed bm25"]
    assert len(borrowed.per_query["map_text"]) == len(shown_of(place, SCENES[0]).rows)
    assert (
        borrowed.values["map_text_category"] == 1.0
    )  # the nearest stored photo is of the class, and names it


def test_one_training_serves_all_rows_of_a_seed(place: Place, runs: dict[tuple[str, str], RunRecord]) -> None:
    assert len(runs) == 24
    assert len(list(place.options.ledger.folder.glob("*/record.json"))) == 1


def test_a_chain_without_the_photos_asked_for_is_refused(place: Place) -> None:
    chain = place.features.chain
    features = replace(place.features, chain=replace(chain, held_out=np.empty(0, np.int64)))
    with pytest.raises(ValueError, match="the chain shop shows no photo of catalog in its held_out"):
        shown_of(replace(place, read=lambda: features), SCENES[0])


def lacking(gain: float) -> list[RunRecord]:
    """Ten seeds in each scene; the fusion is better on every query by about `gain`."""
    found = []
    for scene in SCENES:
        for seed in range(CLAIMED_SEEDS):
            noise = np.random.default_rng(seed).normal(0, 0.01, 30)
            for name, values in {"bm25": np.full(30, 0.2), "fused": 0.2 + gain + noise}.items():
                found.append(
                    RunRecord(
                        name=name, setting=f"words/{scene.title}/text to image", seed=seed,
                        values={"map_lacking": float(values.mean()), "queries_lacking": 7},
                        per_query={"map_lacking": values},
                    )
                )  # fmt: skip
    return found


def test_the_claim_is_asked_of_the_catalogue_and_of_both_forms_of_grocery() -> None:
    evidence = evidence_of(lacking(0.1))
    claims = answer(words_questions(evidence), evidence)
    assert [claim.question.cell for claim in claims] == [scene.title for scene in SCENES]
    assert {claim.question.id for claim in claims} == {"C6g"}
    assert [claim.holds for claim in claims] == [True] * 3
    assert all(str(claim.question.note).endswith("7 queries have any") for claim in claims)
    none = evidence_of(lacking(0.0))
    assert [claim.holds for claim in answer(words_questions(none), none)] == [False] * 3
    assert words_questions(evidence_of([])) == []
