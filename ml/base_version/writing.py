"""From a trained encoder to its bundle: what every base version says about itself, whoever trained it."""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from ml.artifacts import Bundle, Weights, write_bundle
from ml.base_version.recipe import Trained
from ml.data.images import ImageSet
from ml.models.export import weights_of
from ml.protocol import Calibration


def write_trained(
    target: Path,
    trained: Trained,
    images: ImageSet,
    graph: bytes,
    *,
    calibration: Mapping[str, Calibration],
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
    text: Weights | None = None,
    replace: bool = False,
) -> Bundle:
    """Write the bundle of an encoder trained on `images` and exported as `graph`.

    calibration: "self" for its own entries, and for those of other producers by their digest.
    training: what else there is to say about how it came about; recipe, data and machine are added. text: what it
    knows of words. Raises what write_bundle raises.
    """
    config = trained.encoder.config
    return write_bundle(
        target,
        method=trained.recipe.method.kind,
        config=config,
        weights=weights_of(trained.encoder),
        graph=graph,
        labels=images.names,
        calibration=calibration,
        preprocessing={"fit": "squeeze", "filter": "bilinear", "size": config.input_size,
                       "mean": list(config.mean), "std": list(config.std)},
        metrics=metrics,
        training={**training, **_note(trained, images)},
        text=text,
        replace=replace,
    )  # fmt: skip


def _note(trained: Trained, images: ImageSet) -> dict[str, Any]:
    return {
        "seed": trained.recipe.seed,
        "recipe": trained.recipe.as_values(),
        "images": len(images),
        "classes": len(images.names),
        "data_fingerprint": images.fingerprint,
        "seconds": round(trained.seconds, 1),
        "machine": {
            "processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "python": sys.version.split()[0], "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }  # fmt: skip
