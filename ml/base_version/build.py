"""Builds the bundle of version 1.0 from data packs: train, export, calibrate, measure, write."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ml.artifacts import MAX_COMPACT_GRAPH_BYTES, Bundle, check_free
from ml.base_version.measure import calibrate_and_report, report_plain
from ml.base_version.recipe import RECIPE_NAMES, Recipe, Trained, recipe_of, train_encoder
from ml.base_version.sets import Parts, open_packs, parts_of
from ml.base_version.writing import write_trained
from ml.data.images import ImageSet, load_images
from ml.data.reserved import load_reserved
from ml.models.config import EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import export_onnx
from ml.onnx_encoder import open_encoder_of
from ml.training.distributed import current
from ml.training.loop import Progress


def build_bundle(
    folders: Sequence[Path],
    target: Path,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    compiled: bool = False,
    replace: bool = False,
    on_epoch: Callable[[Progress], None] = lambda _progress: None,
) -> Bundle | None:
    """Train a base version on the packs under `folders` and write its bundle to `target`.

    Of several processes that train as one, the first writes; the others get None. Raises FileExistsError
    before any work when `target` exists and `replace` is false.
    """
    check_free(target, replace=replace)
    packs = open_packs(folders)
    parts = parts_of(packs, load_reserved())
    images = load_images(parts.training, recipe.stored_size)
    trained = train_encoder(images, recipe, checkpoint=checkpoint, compiled=compiled, on_epoch=on_epoch)
    if not current().is_first:
        return None
    return bundle_of(trained, images, parts, target, compiled=compiled, replace=replace)


def bundle_of(
    trained: Trained, images: ImageSet, parts: Parts, target: Path, *, compiled: bool, replace: bool
) -> Bundle:
    """Export, calibrate and measure a trained encoder, and write it as a bundle."""
    config = trained.encoder.config
    graph = export_onnx(trained.encoder)
    if config.trunk.kind == "compact" and len(graph) > MAX_COMPACT_GRAPH_BYTES:
        raise ValueError(f"the exported graph has {len(graph)} bytes, allowed {MAX_COMPACT_GRAPH_BYTES}")
    calibration, metrics = calibrate_and_report(open_encoder_of(graph, config), parts)
    metrics["random_weights"] = report_plain(
        open_encoder_of(export_onnx(random_encoder(config)), config), parts
    )
    return write_trained(
        target, trained, images, graph,
        calibration=calibration,
        metrics=metrics,
        training={"command": _command(trained.recipe, compiled=compiled), "code_revision": _revision()},
        replace=replace,
    )  # fmt: skip


def random_encoder(config: EncoderConfig) -> ImageEncoder:
    """The same architecture with the untrained weights of seed 0: what training has to beat."""
    torch.manual_seed(0)
    return ImageEncoder(config).eval()


def _command(recipe: Recipe, *, compiled: bool) -> str:
    """What makes this version again."""
    return (
        f"python -m ml train --architecture {_architecture(recipe)} --data ../shared/data --out DIR "
        f"--precision {recipe.fit.precision}" + (" --compile" if compiled else "")
    )


def _architecture(recipe: Recipe) -> str:
    """The name of the recipe this is; with --config when values of its own were given."""

    def told_apart(other: Recipe) -> Recipe:
        """Without what the command sets by itself: precision and pixel statistics."""
        encoder = replace(other.method.encoder, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        method = replace(other.method, encoder=encoder)
        return replace(other, method=method, fit=replace(other.fit, precision="float32"))

    kind = recipe.method.kind
    named = [(name, recipe_of(name, method=kind)) for name in RECIPE_NAMES]
    same = [name for name, other in named if told_apart(other) == told_apart(recipe)]
    return f"{same[0] if same else 'parity'} --method {kind}" + ("" if same else " --config FILE")


def _revision() -> str:
    """The commit of the checkout this file lies in, or "unknown" outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
