"""Builds the bundle of version 1.0 from data packs: train, export, calibrate, measure, write."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
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
    graph = exported(trained.encoder)
    calibration, metrics = calibrate_and_report(open_encoder_of(graph, config), parts)
    metrics["random_weights"] = report_plain(
        open_encoder_of(export_onnx(random_encoder(config)), config), parts
    )
    return write_trained(
        target, trained, images, graph,
        calibration={"self": calibration},
        metrics=metrics,
        training={"command": _command(trained.recipe, compiled=compiled), "code_revision": revision()},
        replace=replace,
    )  # fmt: skip


def exported(encoder: ImageEncoder) -> bytes:
    """The serving graph. Raises ValueError when a compact one is larger than a bundle may hold."""
    graph = export_onnx(encoder)
    if encoder.config.trunk.kind == "compact" and len(graph) > MAX_COMPACT_GRAPH_BYTES:
        raise ValueError(f"the exported graph has {len(graph)} bytes, allowed {MAX_COMPACT_GRAPH_BYTES}")
    return graph


def random_encoder(config: EncoderConfig) -> ImageEncoder:
    """The same architecture with the untrained weights of seed 0: what training has to beat."""
    torch.manual_seed(0)
    return ImageEncoder(config).eval()


def _command(recipe: Recipe, *, compiled: bool) -> str:
    """What makes this version again."""
    kind = recipe.method.kind
    named = {name: recipe_of(name, method=kind) for name in RECIPE_NAMES}
    return command_of(recipe, named, f"--method {kind}") + (" --compile" if compiled else "")


def command_of(recipe: Recipe, named: Mapping[str, Recipe], options: str) -> str:
    """What trains by this recipe again. named: what each architecture and `options` give by themselves."""
    trunk = recipe.method.encoder.trunk
    name = next((name for name, other in named.items() if other.method.encoder.trunk == trunk), "parity")
    changed = "" if _told_apart(named[name]) == _told_apart(recipe) else " --config FILE"
    return (
        f"python -m ml train --architecture {name} {options}{changed} --data ../shared/data --out DIR "
        f"--precision {recipe.fit.precision}"
    )


def _told_apart(recipe: Recipe) -> Recipe:
    """Without what the command sets by itself: precision and pixel statistics."""
    encoder = replace(recipe.method.encoder, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    method = replace(recipe.method, encoder=encoder)
    return replace(recipe, method=method, fit=replace(recipe.fit, precision="float32"))


def revision() -> str:
    """The commit of the checkout this file lies in, or "unknown" outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
