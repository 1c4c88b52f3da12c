"""Version 1.0 end to end on a small cut of the real packs, and the sums its report rests on."""

import json
from pathlib import Path

import numpy as np
import pytest

from ml.__main__ import main
from ml.artifacts import load_bundle
from ml.base_version.measure import similarities
from ml.base_version.sets import EncodedSet
from ml.data.reserved import load_reserved
from tests.ml.small_packs import RECIPE


def test_train_writes_a_bundle_that_serves_and_says_how_it_came_about(
    small_packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    target, checkpoint = tmp_path / "bundle", tmp_path / "fit.safetensors"
    command = [
        "train",
        "--data",
        str(small_packs),
        "--out",
        str(target),
        "--config",
        str(tmp_path / "recipe.json"),
    ]

    assert main([*command, "--checkpoint", str(checkpoint)]) == 0
    printed = capsys.readouterr()

    bundle = load_bundle(target)
    assert json.loads(printed.out)["digest"] == bundle.digest
    assert printed.err.splitlines()[-1].startswith("epoch 4/4 loss ")
    reserved = load_reserved()
    assert len(bundle.manifest.labels) == 12
    assert all(reserved.is_trainable(*name.split(":", 1)) for name in bundle.manifest.labels)
    assert bundle.manifest.training["recipe"]["fit"]["epochs"] == 4
    assert bundle.manifest.training["classes"] == 12
    assert set(bundle.manifest.metrics["strong_share"]["unlabelled_extra"]) == {"all", "clothing"}
    assert bundle.encoder().encode(np.zeros((1, 32, 32, 3), np.uint8)).packed_codes.shape == (1, 8)
    calibration = bundle.calibration
    assert 0 < calibration.weak <= calibration.strong < 1

    assert main([*command, "--checkpoint", str(checkpoint)]) == 1  # the bundle is not overwritten
    assert load_bundle(target).digest == bundle.digest


def encoded(names: list[str | None], vectors: list[list[float]]) -> EncodedSet:
    return EncodedSet(
        signs=np.sign(np.array(vectors, dtype=np.float32)),
        embeddings=np.array(vectors, dtype=np.float32)
        / np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32),
        names=np.array(names, dtype=object),
        packs=("grocery",) * len(names),
    )


def test_similarities_are_cosines_of_codes_and_embeddings() -> None:
    queries = encoded(["a"], [[3.0, 4.0]])
    gallery = encoded(["a", "b"], [[4.0, 3.0], [-3.0, 4.0]])

    pairs = similarities(queries, gallery)

    assert pairs.code.tolist() == [[1.0, 0.0]]
    assert pairs.cosine[0] == pytest.approx([24 / 25, 7 / 25])
    assert pairs.relevant.tolist() == [[True, False]]


def test_hiding_the_own_class_leaves_no_relevant_entry_and_nothing_of_it_near() -> None:
    queries = encoded(["a", "b"], [[1.0, 1.0], [1.0, -1.0]])

    pairs = similarities(queries, queries, hide_own_class=True)

    assert not pairs.relevant.any()
    assert pairs.code.tolist() == [[-1.0, 0.0], [0.0, -1.0]]
    assert pairs.cosine.diagonal().tolist() == [-1.0, -1.0]


def test_two_images_without_a_label_are_not_relevant_to_each_other() -> None:
    unlabelled = encoded([None, None], [[1.0, 1.0], [1.0, 1.0]])

    assert not similarities(unlabelled, unlabelled).relevant.any()
