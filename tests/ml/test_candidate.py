"""A candidate, end to end on a small cut of the real packs with the shipped version as its parent."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.__main__ import main
from ml.artifacts import TEXT_FILE, Bundle, BundleError, load_bundle, write_bundle
from ml.base_version.build import command_of
from ml.base_version.candidate import candidate_recipe, check_recipe, moved_degrees
from ml.base_version.crossing import Crossing, compatibility_summary
from ml.base_version.measure import figures_of, fusion_of, similarities, stage_values, without_self
from ml.base_version.recipe import Recipe, recipe_of, train_encoder
from ml.base_version.sets import EncodedParts, EncodedSet, encode_set, open_packs, parts_of
from ml.config import merged
from ml.data.images import load_images
from ml.data.reserved import load_reserved
from ml.methods.twin_bottleneck import Config as TwinBottleneck
from ml.models.encoder import ImageEncoder
from ml.models.text import TextConfig, TextEncoder
from ml.protocol import Encoded, Pixels, pack_bits
from ml.training.calibration import calibrate
from tests.ml.small_packs import RECIPE

SMALL = RECIPE | {
    "method": {"encoder": {"input_size": 32, "code_hidden": 32, "trunk": {"widths": [16, 16, 32, 32]}}},
    "fit": {"epochs": 8},
}


@pytest.fixture(scope="module")
def parent(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped version, but that it knows words: those of a text encoder that nobody taught."""
    shipped = load_bundle(bundle_path)
    made = shipped.manifest
    torch.manual_seed(0)
    return write_bundle(
        tmp_path_factory.mktemp("parent") / "bundle",
        method=made.method, config=made.encoder_config, weights=shipped.weights, graph=shipped.graph,
        labels=made.labels, calibration=made.calibration, preprocessing=made.preprocessing, metrics=made.metrics,
        training=made.training, text=TextEncoder(TextConfig(buckets=256, hidden=16)).arrays(),
    )  # fmt: skip


def train(packs: Path, target: Path, recipe: dict[str, Any], *options: str) -> int:
    config = target.with_suffix(".json")
    config.write_text(json.dumps(recipe), encoding="utf-8")
    return main(["train", "--data", str(packs), "--out", str(target), "--config", str(config), *options])


@pytest.fixture(scope="module")
def candidate(small_packs: Path, parent: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Trained by the command, after `parent` was read."""
    target = tmp_path_factory.mktemp("candidate") / "bundle"
    assert train(small_packs, target, SMALL, "--parent", str(parent.path)) == 0
    return load_bundle(target)


def test_a_candidate_carries_its_parents_words_byte_for_byte(parent: Bundle, candidate: Bundle) -> None:
    assert (candidate.path / TEXT_FILE).read_bytes() == (parent.path / TEXT_FILE).read_bytes()


def test_a_candidate_says_what_it_is_held_to_and_how_to_read_entries_of_either(
    parent: Bundle, candidate: Bundle
) -> None:
    manifest = candidate.manifest
    assert load_bundle(parent.path).digest == parent.digest  # every byte is verified
    assert (manifest.method, manifest.code_bits, manifest.dimension) == ("compact", 128, 128)
    assert manifest.training["command"].startswith(
        "python -m ml train --architecture parity --parent DIR --alignment ndpp --config FILE --data "
    )
    note = manifest.training["compatibility"]
    assert (note["parent"], note["alignment"]) == (parent.digest, "ndpp")
    assert note["strength"] > 0
    assert 0 < note["perturbed_degrees"] <= note["furthest_degrees"]
    assert note["furthest_degrees"] == note["furthest_degrees_in_all"] == moved_degrees(candidate) <= 20.001
    assert sorted(manifest.calibration) == sorted(["self", parent.digest])
    assert manifest.calibration[parent.digest] != candidate.calibration
    figures = manifest.metrics["compatibility"]
    assert figures["test"]["queries"] == figures["parent_entries"]["test"]["all"]["queries"] == 175
    for part in ("validation", "test"):
        cross, whole = figures[part]["cross_test"], figures["parent_entries"][part]["all"]
        assert cross == {stage: whole[stage] for stage in cross}
        assert cross["code"] != figures[part]["old_self_test"]["code"]


@dataclass(frozen=True)
class Eager:
    """An encoder as it was trained, without the time an export takes."""

    trained: ImageEncoder
    input_size: int = 32
    code_bits: int = 128
    dimension: int = 128

    def encode(self, pixels: Pixels) -> Encoded:
        with torch.no_grad():
            logits, embeddings = self.trained(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0)
        return Encoded(pack_bits(logits.numpy()), embeddings.numpy())


def test_a_candidate_finds_entries_of_its_parent_that_an_encoder_held_to_nothing_does_not(
    small_packs: Path, parent: Bundle, candidate: Bundle
) -> None:
    parts = parts_of(open_packs([small_packs]), load_reserved())
    recipe = merged(candidate_recipe(recipe_of("parity"), parent, "ndpp"), SMALL)
    images = load_images(parts.training, recipe.stored_size)

    free = train_encoder(images, replace(recipe, compatibility=None))

    queries, entries = (
        encode_set(Eager(free.encoder), parts.queries),
        encode_set(parent.encoder(), parts.gallery),
    )
    alone = stage_values(similarities(queries, entries), fusion_of(parent.calibration))
    held = candidate.manifest.metrics["compatibility"]["test"]["cross_test"]
    for stage in ("embedding", "code"):
        assert held[stage]["map"] > 1.5 * figures_of(alone[stage])["map"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--alignment", "odpp"), "--alignment is how a candidate is held to its --parent"),
        (("--parent", "DIR", "--method", "twin-bottleneck"), "candidates are trained by compact alone"),
        (("--parent", "DIR", "--compile"), "a candidate is not trained compiled"),
        (("--parent", "DIR", "--alignment", "cosine"), "invalid choice: 'cosine'"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        train(tmp_path, tmp_path / "candidate", {}, *options)

    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "candidate").exists()


def test_a_recipe_of_another_code_length_is_refused_before_any_work(
    tmp_path: Path, bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shorter = {"method": {"encoder": {"code_bits": 64}}}

    assert train(tmp_path / "no packs", tmp_path / "candidate", shorter, "--parent", str(bundle_path)) == 1

    assert "code_bits is 64, the parent's codes have 128" in capsys.readouterr().err
    assert not (tmp_path / "candidate").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda recipe: merged(recipe, {"method": {"encoder": {"dimension": 64}}}),
            "dimension is 64, .* 128",
        ),
        (lambda recipe: replace(recipe, compatibility=None), "compatibility is off"),
        (
            lambda recipe: replace(recipe, method=TwinBottleneck()),
            "'twin-bottleneck': .* compact method alone",
        ),
    ],
)
def test_a_recipe_that_cannot_be_held_to_the_parent_is_refused(
    parent: Bundle, change: Callable[[Recipe], Recipe], message: str
) -> None:
    recipe = candidate_recipe(recipe_of("parity"), parent, "ndpp")
    check_recipe(merged(recipe, {"method": {"encoder": {"dimension": 160}}}), parent)  # more is allowed

    with pytest.raises(ValueError, match=message):
        check_recipe(change(recipe), parent)


def test_an_unknown_alignment_is_refused(parent: Bundle) -> None:
    with pytest.raises(ValueError, match="alignment is 'none', allowed: ndpp, odpp, bct"):
        candidate_recipe(recipe_of("parity"), parent, "none")


def after(parent: Bundle, note: object) -> Bundle:
    training = parent.manifest.training | {"compatibility": note}
    return replace(parent, manifest=replace(parent.manifest, training=training))


def test_a_chain_of_candidates_perturbs_no_more_than_thirty_degrees_in_all(parent: Bundle) -> None:
    def settings(degrees: float) -> tuple[str, float]:
        recipe = candidate_recipe(
            recipe_of("parity"), after(parent, {"furthest_degrees_in_all": degrees}), "odpp"
        )
        assert recipe.compatibility is not None
        return recipe.compatibility.kind, recipe.compatibility.guard.largest_angle

    assert moved_degrees(parent) == 0
    assert [settings(degrees) for degrees in (0.0, 25.0)] == [("odpp", 20.0), ("odpp", 5.0)]
    assert settings(30.0)[0] == "none"


@pytest.mark.parametrize("note", [{}, "ndpp", {"furthest_degrees_in_all": -1.0}])
def test_a_parent_that_does_not_say_how_far_it_went_is_refused(parent: Bundle, note: object) -> None:
    with pytest.raises(BundleError, match=r"training\.compatibility is .* expected degrees >= 0"):
        moved_degrees(after(parent, note))


def test_the_command_in_a_manifest_names_the_architecture_and_a_file_only_where_values_were_changed(
    parent: Bundle,
) -> None:
    named = {name: candidate_recipe(recipe_of(name), parent, "bct") for name in ("parity", "budget")}
    fitted = merged(named["budget"], {"method": {"encoder": {"mean": [0.1, 0.2, 0.3]}}})

    command = command_of(fitted, named, "--parent DIR --alignment bct")
    changed = command_of(replace(fitted, seed=1), named, "--parent DIR --alignment bct")

    assert command.split(" --data")[0] == (
        "python -m ml train --architecture budget --parent DIR --alignment bct"
    )
    assert changed.split(" --data")[0] == (
        "python -m ml train --architecture budget --parent DIR --alignment bct --config FILE"
    )


def encoded(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> EncodedSet:
    return EncodedSet(
        signs=np.where(embeddings[:, :128] >= 0, np.float32(1), np.float32(-1)),
        embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        names=np.array([f"grocery:{label}" for label in labels], dtype=object),
        packs=("grocery",) * len(labels),
    )


def crossing(parent: Bundle, *, noise: float) -> Crossing:
    """Twelve classes, the last four only in the gallery; the new embeddings are the old ones and 32 further numbers."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 12
    means = rng.standard_normal((12, 128)).astype(np.float32)
    narrow = means[labels] + 3 * rng.standard_normal((240, 128)).astype(np.float32)
    wide = np.concatenate([narrow, noise * rng.standard_normal((240, 32)).astype(np.float32)], axis=1)
    is_known, rows = labels < 8, np.arange(240)

    def parts(embeddings: NDArray[np.float32]) -> EncodedParts:
        def chosen(mask: NDArray[np.bool_]) -> EncodedSet:
            return encoded(embeddings[mask], labels[mask])

        return EncodedParts(
            training=chosen(is_known & (rows < 120)), known=chosen(is_known & (rows >= 120)),
            unknown=chosen(~is_known), gallery=chosen(rows < 120), queries=chosen(rows >= 120),
        )  # fmt: skip

    return Crossing(parts(wide), parts(narrow), parent)


def test_embeddings_wider_than_the_parents_meet_its_entries_by_their_first_coordinates(
    parent: Bundle,
) -> None:
    found = crossing(parent, noise=20.0).report(
        {"self": parent.calibration, parent.digest: parent.calibration}
    )

    assert found["test"]["cross_test"] == found["test"]["old_self_test"]
    own, old = (found["test"][name]["embedding"]["map"] for name in ("self_test", "old_self_test"))
    assert own < old - 0.1


def test_own_entries_are_calibrated_as_those_of_a_version_alone(parent: Bundle) -> None:
    both = crossing(parent, noise=10.0)
    new, gallery = both.new, both.new.choosing()

    found = both.calibrations()["self"]

    alone = calibrate(
        similarities(new.known, gallery),
        without_self(similarities(new.unknown, gallery), len(new.training)),
        similarities(new.unknown, gallery, hide_own_class=True),
        new.unknown.packs,
    )
    assert asdict(found) == pytest.approx(asdict(alone), rel=1e-4)


def test_entries_of_a_parent_that_says_the_same_are_read_as_own_ones(parent: Bundle) -> None:
    both = crossing(parent, noise=0.0)

    found = both.calibrations()
    figures = both.report(found)

    assert found["self"].embedding_weight > 1
    assert asdict(found[parent.digest]) == pytest.approx(asdict(found["self"]), rel=1e-4)
    assert figures["half_encoded_anew"]["map"] == figures["test"]["self_test"]["fused"]["map"]


def test_entries_of_a_parent_that_says_something_else_are_read_by_what_it_says(parent: Bundle) -> None:
    both = crossing(parent, noise=20.0)  # the parent's own embeddings are the part that says something

    found = both.calibrations()
    half = both.report(found)["half_encoded_anew"]

    theirs = found[parent.digest]
    assert theirs.embedding_weight > theirs.code_weight
    hidden = similarities(both.old.unknown, both.old.choosing(), hide_own_class=True)
    best = fusion_of(theirs).probability(hidden.code, hidden.cosine).max(axis=1)
    assert 0 < (best >= theirs.strong).mean() <= 0.03
    assert half["expected_share"] == 0.5
    assert half["old_share_of_ten"] == pytest.approx(0.5, abs=0.03)


def stages(*, right: list[float]) -> dict[str, dict[str, NDArray[np.float64]]]:
    values = {"recall_at_1": np.array(right), "map": np.array(right) / 2}
    return {"fused": values, "code": {name: 1 - found for name, found in values.items()}}


def test_the_summary_compares_the_fused_answers_of_the_same_queries_on_the_old_gallery() -> None:
    old, cross, own = ([1.0, 1.0, 0.0, 0.0, np.nan], [1.0, 0.0, 1.0, 0.0, np.nan], [1.0] * 5)

    found = compatibility_summary(old=stages(right=old), cross=stages(right=cross), own=stages(right=own))

    assert found["queries"] == 5
    assert found["old_self_test"]["fused"] == {"recall_at_1": 0.5, "map": 0.25}
    assert found["self_test"] == {
        "fused": {"recall_at_1": 1.0, "map": 0.5},
        "code": {"recall_at_1": 0.0, "map": 0.5},
    }
    assert found["cross_test"]["code"]["map"] == 0.75
    # A quarter flipped; independent errors of 0.5 and 0.5 would have flipped as many.
    assert found["flips_at_1"] == {"negative": 0.25, "positive": 0.25, "relative": 1.0}


def test_where_nothing_could_flip_there_is_no_relative_rate() -> None:
    wrong, right = stages(right=[0.0, 0.0]), stages(right=[1.0, 1.0])

    assert compatibility_summary(old=wrong, cross=right, own=right)["flips_at_1"] == {
        "negative": 0.0,
        "positive": 1.0,
        "relative": None,
    }
