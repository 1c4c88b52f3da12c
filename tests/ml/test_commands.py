"""`python -m ml` and the strict reading of settings."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ml.__main__ import main
from ml.artifacts import load_bundle
from ml.base_version.recipe import Recipe, recipe_of
from ml.config import config_from_dict, merged
from ml.data.packs import open_pack
from ml.data.preprocessing import decode_to_input
from ml.data.reserved import load_reserved
from ml.onnx_encoder import open_onnx_encoder


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ml", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_info_prints_one_json_object_about_the_shipped_bundle(bundle_path: Path) -> None:
    done = run("info", str(bundle_path))
    result = json.loads(done.stdout)

    assert done.returncode == 0
    assert result["digest"] == load_bundle(bundle_path).digest
    assert result["architecture"] == "compact"
    assert result["bytes"]["encoder.onnx"] == (bundle_path / "encoder.onnx").stat().st_size
    assert 100_000 < result["parameters"] < 250_000


@pytest.mark.parametrize(("kind", "name"), [("onnx", "encoder.onnx"), ("safetensors", "weights.safetensors")])
def test_export_copies_the_verified_file_and_overwrites_nothing(
    bundle_path: Path, tmp_path: Path, kind: str, name: str
) -> None:
    target = tmp_path / "model"
    arguments = ["export", "--version", str(bundle_path), "--format", kind, "--out", str(target)]

    assert main(arguments) == 0
    assert target.read_bytes() == (bundle_path / name).read_bytes()
    target.write_bytes(b"mine")
    assert main(arguments) == 1
    assert target.read_bytes() == b"mine"


def test_the_int8_export_is_a_third_of_the_size_and_answers_nearly_the_same(
    bundle_path: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    target = tmp_path / "int8.onnx"
    assert main(["export", "--version", str(bundle_path), "--format", "onnx-int8", "--out", str(target)]) == 0

    bundle = load_bundle(bundle_path)
    full = bundle.encoder()
    small = open_onnx_encoder(
        target.read_bytes(), input_size=full.input_size, code_bits=full.code_bits, dimension=full.dimension
    )
    pixels = np.stack([decode_to_input(photo, full.input_size) for photo in photos])
    exact, rounded = full.encode(pixels), small.encode(pixels)
    assert target.stat().st_size < len(bundle.graph) / 3
    assert (exact.embeddings * rounded.embeddings).sum(axis=1).min() > 0.99
    flipped = np.unpackbits(exact.packed_codes ^ rounded.packed_codes).mean()
    assert flipped < 0.04
    assert (exact.embeddings != rounded.embeddings).any()


def test_a_failed_command_says_why_and_exits_1_wrong_usage_exits_2(tmp_path: Path) -> None:
    failed, misused = run("info", str(tmp_path)), run("export", "--format", "pickle")

    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: ")
    assert "not a bundle" in failed.stderr
    assert misused.returncode == 2


def test_train_names_the_packs_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "bundle")]) == 1
    assert "data packs grocery, clothing, places_indoor are not in" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_recipe_survives_json_and_an_unknown_key_is_named() -> None:
    recipe = Recipe(seed=3)

    assert config_from_dict(Recipe, json.loads(json.dumps(asdict(recipe)))) == recipe
    with pytest.raises(ValueError, match=r"config.fit: unknown key epoch; allowed: epochs, learning_rate"):
        config_from_dict(Recipe, {"fit": {"epoch": 3}})
    with pytest.raises(ValueError, match=r"config.seed is '0', expected int"):
        config_from_dict(Recipe, {"seed": "0"})


@pytest.mark.parametrize("version", ["default", "budget"])
def test_a_shipped_bundle_was_trained_on_exactly_the_allowed_classes(
    data_packs: Path, bundle_path: Path, version: str
) -> None:
    reserved = load_reserved()
    allowed = {
        f"{name}:{record.label}"
        for name in ("grocery", "clothing", "places_indoor")
        for record in open_pack(data_packs / name).records("train", "iconic", "gallery")
        if reserved.is_trainable(name, record.label)
    }

    assert set(load_bundle(bundle_path.parent / version).manifest.labels) == allowed


def test_changes_are_laid_over_a_recipe_and_leave_the_rest() -> None:
    recipe = merged(recipe_of("budget"), {"fit": {"epochs": 3}, "seed": 1})

    assert (recipe.fit.epochs, recipe.seed) == (3, 1)
    assert recipe.method == recipe_of("budget").method
    assert recipe.fit.learning_rate == recipe_of("budget").fit.learning_rate
    with pytest.raises(ValueError, match=r"recipe\.fit: unknown key epoch;"):
        merged(Recipe(), {"fit": {"epoch": 3}}, where="recipe")
    with pytest.raises(ValueError, match="'giant', allowed: parity, budget, residual"):
        recipe_of("giant")
