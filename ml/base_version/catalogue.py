"""A base version from any catalogue's own photos: pixels and labels in, a verified bundle out.

The lengths of training were chosen so that 300 photos take one to two minutes on two idle cores.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.artifacts import Bundle, check_free
from ml.base_version.catalogue_photos import (
    GROUP,
    Division,
    divide,
    encoded_rows,
    inputs_of,
    mean_precisions,
    outputs_of,
    rows_of,
    spread,
    training_part,
    validation_rows,
    without_own,
)
from ml.base_version.measure import similarities
from ml.base_version.recipe import Recipe, Trained, recipe_of, train_encoder
from ml.base_version.writing import write_trained
from ml.data.images import ImageSet
from ml.data.sampling import SamplingConfig
from ml.models.export import export_onnx
from ml.onnx_encoder import OnnxEncoder, open_encoder_of
from ml.protocol import Calibration
from ml.training.calibration import calibrate
from ml.training.loop import Progress

METHOD = "twin-bottleneck"  # learns from photos without label too
STEPS_OF_300, GROWTH = 360, 0.6  # steps = STEPS_OF_300 * (photos / 300) ** GROWTH
SCRATCH_FACTOR = 2  # random weights have further to go
VALIDATIONS = 10  # in a whole training
FEWEST_VALIDATED = 20  # a calibration on fewer queries would be chance


@dataclass(frozen=True, slots=True)
class CatalogueVersion:
    """What came out: a bundle on disk, and how training went."""

    bundle: Bundle
    is_warm: bool  # started from given weights
    epochs: int  # until the encoder that was kept
    seconds: float  # of training alone


def recipe_for(
    architecture: str,
    class_sizes: Sequence[int],
    *,
    method: str = METHOD,
    from_scratch: bool = False,
    epochs: int | None = None,
) -> Recipe:
    """The recipe of `method` and `architecture` with batches and length to suit classes of these sizes (photos each).

    Steps decide how long it takes, not epochs, unless these are given: there are STEPS_OF_300 for 300 photos, and they
    grow more slowly than the catalogue. Raises ValueError for fewer than 2 classes and for fewer than 1 epoch.
    """
    classes, photos = len(class_sizes), sum(class_sizes)
    if classes < 2:
        raise ValueError(f"{classes} classes, at least 2 are needed")
    recipe = recipe_of(architecture, method=method)
    per_batch = min(32, classes)
    sampling = replace(
        recipe.sampling,
        classes_per_batch=per_batch,
        images_per_class=max(4, min(16, 64 // per_batch)),
    )
    steps = STEPS_OF_300 * (photos / 300) ** GROWTH * (SCRATCH_FACTOR if from_scratch else 1)
    if epochs is None:
        epochs = max(VALIDATIONS, round(max(60.0, steps) / _steps_per_epoch(photos, sampling)))
    return lasting(replace(recipe, sampling=sampling), epochs)


def lasting(recipe: Recipe, epochs: int) -> Recipe:
    """The same for so many epochs: a tenth of them warm up, and VALIDATIONS of them are validated."""
    fit = replace(
        recipe.fit, epochs=epochs, warmup_epochs=epochs / 10, validate_every=math.ceil(epochs / VALIDATIONS)
    )
    return replace(recipe, fit=fit)


def _steps_per_epoch(photos: int, sampling: SamplingConfig) -> int:
    return max(1, photos // (sampling.classes_per_batch * sampling.images_per_class))


def initial_weights(start: Bundle | None, recipe: Recipe) -> Mapping[str, NDArray[Any]] | None:
    """The weights of `start` when its encoder has the shape of the recipe's, else None.

    Pixel statistics do not count: training sets them to those of the photos.
    """
    if start is None:
        return None
    there, wanted = start.manifest.encoder_config, recipe.method.encoder
    return start.weights if replace(there, mean=wanted.mean, std=wanted.std) == wanted else None


def train_catalogue(
    images: ImageSet,
    recipe: Recipe,
    target: Path,
    *,
    label_fraction: float = 1.0,
    start: Bundle | None = None,
    checkpoint: Path | None = None,
    command: str = "",
    on_epoch: Callable[[Progress], None] = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> CatalogueVersion:
    """Train on a catalogue's photos, (N, 3, recipe.stored_size, …), and write the bundle to `target`.

    `images.names` are the categories in the order of the label registry. start: the version to go on from,
    if its encoder has the recipe's shape. With `checkpoint` a killed training goes on from its last epoch.
    The kept encoder is that of the best validation (mean average precision of code and embedding), when
    there is one. Raises FileExistsError when `target` exists, ValueError when there is too little to learn
    from or the result cannot be calibrated, FitCancelled.
    """
    check_free(target, replace=False)
    division = divide(images.labels, label_fraction=label_fraction, seed=recipe.seed)
    training = training_part(images, division)
    initial = initial_weights(start, recipe)
    trained = train_encoder(
        training,
        recipe,
        initial=initial,
        checkpoint=checkpoint,
        validate=_validation(images, division, recipe.method.encoder.input_size),
        on_epoch=on_epoch,
        is_cancelled=is_cancelled,
    )
    graph = export_onnx(trained.encoder)
    calibration = calibration_of(open_encoder_of(graph, trained.encoder.config), images, division)
    bundle = write_trained(
        target, trained, images, graph,
        calibration={"self": calibration},
        metrics=validated(trained),
        training={
            "command": command,
            "label_fraction": label_fraction,
            "labels_used": int((training.labels >= 0).sum()),
            "validation_images": len(division.validation),
            "started_from": start.digest if start is not None and initial is not None else None,
        },
    )  # fmt: skip
    return CatalogueVersion(bundle, initial is not None, trained.epochs, trained.seconds)


def calibration_of(encoder: OnnxEncoder, images: ImageSet, division: Division) -> Calibration:
    """Similarities to probabilities, from validation photos against training photos, by all known labels.

    Queries without a relevant entry are the same photos with their own class hidden. This is optimistic: the
    hidden classes were trained on, so in truth unknown things come a little nearer than measured here. A
    catalogue with fewer than FEWEST_VALIDATED validation photos has too few to go by; there every training
    photo asks for the others, which is more optimistic still. Raises ValueError when nothing can be told apart.
    """
    training = encoded_rows(encoder, images, division.training)
    own = None
    if len(division.validation) >= FEWEST_VALIDATED:
        queries = encoded_rows(encoder, images, spread(division.validation))
    else:
        own = spread(torch.nonzero(images.labels[division.training] >= 0).flatten()).numpy()
        queries = rows_of(training, own)
    known = without_own(similarities(queries, training), own)
    unknown = without_own(similarities(queries, training, hide_own_class=True), own)
    try:
        return calibrate(known, known, unknown, (GROUP,) * len(queries), is_cautious=True)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise ValueError(
            f"the trained encoder does not tell the categories apart well enough to be used: {error}"
        ) from error


def _validation(images: ImageSet, division: Division, size: int) -> Callable[[nn.Module], float] | None:
    """Mean average precision of code and embedding, [0, 1], by `validation_rows`; None without validation photos."""
    if not len(division.validation):
        return None
    rows = validation_rows(division)
    inputs = [torch.from_numpy(inputs_of(images, part, size)).permute(0, 3, 1, 2) for part in rows]
    labels = [images.labels[part].numpy() for part in rows]

    @torch.no_grad()
    def measure(encoder: nn.Module) -> float:
        queries, entries = (outputs_of(encoder, part) for part in inputs)
        return float(np.nanmean(mean_precisions(queries, labels[0], entries, labels[1])))

    return measure


def validated(trained: Trained) -> dict[str, Any]:
    """What training itself saw; the product measures on held-out queries and keeps that beside the version."""
    seen = [logs["validation"] for logs in trained.history if "validation" in logs]
    return {"validation": {"best_mean_map": round(max(seen), 4)}} if seen else {}
