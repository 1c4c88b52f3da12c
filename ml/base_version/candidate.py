"""A candidate: a new encoder whose queries find what its parent stored, from data packs to its bundle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from ml.artifacts import Bundle, BundleError, check_free
from ml.base_version.build import command_of, exported, revision
from ml.base_version.crossing import OWN, Crossing
from ml.base_version.measure import report
from ml.base_version.recipe import RECIPE_NAMES, Recipe, Stored, Trained, recipe_of, train_encoder
from ml.base_version.sets import encode_parts, open_packs, parts_of
from ml.base_version.stored import stored_of
from ml.base_version.writing import write_trained
from ml.data.images import load_images
from ml.data.reserved import load_reserved
from ml.methods.compatible.config import Compatibility, Kind
from ml.methods.compatible.old_space import OldSpace
from ml.methods.compatible.perturbation import automatic_strength
from ml.onnx_encoder import open_encoder_of
from ml.training.loop import Progress

ALIGNMENTS: Mapping[str, Kind] = {"ndpp": "ndpp", "odpp": "odpp", "bct": "none"}
NOTE = "compatibility"  # in a manifest's `training`: what it was held to; in its `metrics`: what came of it


def candidate_recipe(recipe: Recipe, parent: Bundle, alignment: str) -> Recipe:
    """`recipe` held to what `parent` stored: its codes as long, its embeddings as wide, by one of ALIGNMENTS.

    A parent that was a candidate itself leaves less to perturb: all stages together stay within the method's budget.
    Raises ValueError on another name.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment is {alignment!r}, allowed: {', '.join(ALIGNMENTS)}")
    made = parent.manifest
    encoder = replace(recipe.method.encoder, code_bits=made.code_bits, dimension=made.dimension)
    compatibility = Compatibility(kind=ALIGNMENTS[alignment]).for_stage(moved_degrees(parent))
    return replace(recipe, method=replace(recipe.method, encoder=encoder), compatibility=compatibility)


def check_recipe(recipe: Recipe, parent: Bundle) -> None:
    """Raise ValueError where an encoder of this recipe could not be compared with what `parent` stored."""
    encoder, made = recipe.method.encoder, parent.manifest
    if recipe.method.kind != "compact":
        raise ValueError(
            f"method is {recipe.method.kind!r}: stored codes are held by the compact method alone"
        )
    if recipe.compatibility is None:
        raise ValueError("compatibility is off in the recipe: nothing would hold the encoder to its parent")
    if encoder.code_bits != made.code_bits:
        raise ValueError(f"code_bits is {encoder.code_bits}, the parent's codes have {made.code_bits}")
    if encoder.dimension < made.dimension:
        raise ValueError(
            f"dimension is {encoder.dimension}, the parent's embeddings have {made.dimension}: as many are needed"
        )


def moved_degrees(version: Bundle) -> float:
    """Degrees by which each stage up to this version moved the class it moved furthest, summed; 0 for a base.

    Raises BundleError when its manifest says something else.
    """
    note = version.manifest.training.get(NOTE, {"furthest_degrees_in_all": 0.0})
    found = note.get("furthest_degrees_in_all") if isinstance(note, Mapping) else None
    if not isinstance(found, int | float) or not isfinite(found) or found < 0:
        raise BundleError(f"{version.path}: training.{NOTE} is {note!r}, expected degrees >= 0")
    return float(found)


def build_candidate(
    folders: Sequence[Path],
    target: Path,
    recipe: Recipe,
    parent: Bundle,
    *,
    checkpoint: Path | None = None,
    replace: bool = False,
    on_epoch: Callable[[Progress], None] = lambda _progress: None,
) -> Bundle:
    """Train by a `candidate_recipe` on the packs under `folders` and write the candidate's bundle to `target`.

    What the parent stored is what its own frozen encoder makes of each image, as of an entry. Raises FileExistsError
    and what `check_recipe` raises before any work, ValueError when the entries of either cannot be calibrated.
    """
    check_free(target, replace=replace)
    check_recipe(recipe, parent)
    parts = parts_of(open_packs(folders), load_reserved())
    images = load_images(parts.training, recipe.stored_size)
    old = encode_parts(parent.encoder(), parts)
    stored = stored_of(
        old.training.packed_codes, old.training.embeddings, images.labels.numpy(), images.names
    )
    trained = train_encoder(images, recipe, stored=stored, checkpoint=checkpoint, on_epoch=on_epoch)
    graph = exported(trained.encoder)
    new = encode_parts(open_encoder_of(graph, trained.encoder.config), parts)
    crossing = Crossing(new, old, parent)
    calibration = crossing.calibrations()
    return write_trained(
        target, trained, images, graph,
        calibration=calibration,
        metrics={**report(new, new, calibration[OWN]), NOTE: crossing.report(calibration)},
        training={
            "command": _command(recipe, parent), "code_revision": revision(),
            NOTE: note_of(trained, stored, parent),
        },
        text=parent.text,  # words go by the code space alone, which stays
        replace=replace,
    )  # fmt: skip


def note_of(trained: Trained, stored: Stored, parent: Bundle) -> dict[str, Any]:
    """What a candidate's manifest says of how it was held to its parent, for JSON.

    strength: the one used, None where the alignment has none.
    """
    settings = trained.recipe.compatibility
    assert settings is not None
    last = trained.history[-1]
    return {
        "parent": parent.digest,
        "alignment": _alignment_of(settings),
        "strength": _strength(stored.space, settings),
        "perturbed_degrees": last["perturbed_degrees"],
        "furthest_degrees": last["furthest_degrees"],
        "furthest_degrees_in_all": moved_degrees(parent) + last["furthest_degrees"],
    }


def _strength(space: OldSpace, settings: Compatibility) -> float | None:
    """What the alignment made of "auto"."""
    if settings.kind != "ndpp":
        return None
    if not isinstance(settings.strength, str):
        return settings.strength
    return automatic_strength(space, settings.guard, settings.neighbours or space.neighbours())


def _alignment_of(settings: Compatibility) -> str:
    return next(name for name, kind in ALIGNMENTS.items() if kind == settings.kind)


def _command(recipe: Recipe, parent: Bundle) -> str:
    """What makes this version again."""
    assert recipe.compatibility is not None
    alignment = _alignment_of(recipe.compatibility)
    named = {name: candidate_recipe(recipe_of(name), parent, alignment) for name in RECIPE_NAMES}
    return command_of(recipe, named, f"--parent DIR --alignment {alignment}")
