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
from PIL import Image
from torch import Tensor, nn

from ml.artifacts import Bundle, check_free
from ml.base_version.measure import similarities
from ml.base_version.recipe import Recipe, Trained, recipe_of, train_encoder
from ml.base_version.sets import EncodedSet
from ml.base_version.writing import write_trained
from ml.data.images import ImageSet
from ml.data.preprocessing import to_input
from ml.data.sampling import SamplingConfig
from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.models.export import export_onnx
from ml.onnx_encoder import OnnxEncoder, open_encoder_of
from ml.protocol import Calibration
from ml.training.calibration import Similarities, calibrate
from ml.training.loop import Progress

METHOD = "twin-bottleneck"  # learns from photos without label too
GROUP = "catalogue"  # the one group of open-set queries
ONE_IN, LEAST_OF_CLASS = 8, 8  # validation: one photo in eight of a class with eight or more
STEPS_OF_300, GROWTH = 360, 0.6  # steps = STEPS_OF_300 * (photos / 300) ** GROWTH
SCRATCH_FACTOR = 2  # random weights have further to go
VALIDATIONS = 10  # in a whole training
FEWEST_VALIDATED = 20  # a calibration on fewer queries would be chance
MAX_COMPARED = 400  # validation photos that calibrate; the rest would only take time
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Division:
    """Which photo plays which part. Rows are positions in the ImageSet."""

    training: Tensor  # (T,) ascending
    validation: Tensor  # (V,) ascending; never trained on
    labels: Tensor  # (N,) those that training may see; -1 where a label is held back


@dataclass(frozen=True, slots=True)
class CatalogueVersion:
    """What came out: a bundle on disk, and how training went."""

    bundle: Bundle
    is_warm: bool  # started from given weights
    epochs: int  # until the encoder that was kept
    seconds: float  # of training alone


def recipe_for(architecture: str, class_sizes: Sequence[int], *, from_scratch: bool = False) -> Recipe:
    """The recipe of METHOD and `architecture` with batches and length to suit classes of these sizes (photos each).

    Steps decide how long it takes, not epochs: there are STEPS_OF_300 for 300 photos, and they grow more
    slowly than the catalogue. Raises ValueError for fewer than 2 classes.
    """
    classes, photos = len(class_sizes), sum(class_sizes)
    if classes < 2:
        raise ValueError(f"{classes} classes, at least 2 are needed")
    recipe = recipe_of(architecture, method=METHOD)
    per_batch = min(32, classes)
    sampling = replace(
        recipe.sampling,
        classes_per_batch=per_batch,
        images_per_class=max(4, min(16, 64 // per_batch)),
    )
    steps = STEPS_OF_300 * (photos / 300) ** GROWTH * (SCRATCH_FACTOR if from_scratch else 1)
    epochs = max(VALIDATIONS, round(max(60.0, steps) / _steps_per_epoch(photos, sampling)))
    fit = replace(
        recipe.fit, epochs=epochs, warmup_epochs=epochs / 10, validate_every=math.ceil(epochs / VALIDATIONS)
    )
    return replace(recipe, sampling=sampling, fit=fit)


def _steps_per_epoch(photos: int, sampling: SamplingConfig) -> int:
    return max(1, photos // (sampling.classes_per_batch * sampling.images_per_class))


def divide(labels: Tensor, *, label_fraction: float = 1.0, seed: int = 0) -> Division:
    """Set photos aside for validation, and hold back labels of the others.

    labels (N,) int64, -1 = without. One photo in eight of each class with eight or more is for validation;
    of the rest of each class `label_fraction` keep their label, rounded to the nearest, at least one. The
    same seed chooses the same. Raises ValueError for a fraction outside (0, 1].
    """
    if not 0 < label_fraction <= 1:
        raise ValueError(f"label_fraction is {label_fraction}, allowed: above 0, up to 1")
    kept = torch.full_like(labels, -1)
    is_validation = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels[labels >= 0]).tolist():
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(
            len(members), generator=torch.Generator().manual_seed(seed * 1_000_003 + label)
        )
        held = len(members) // ONE_IN if len(members) >= LEAST_OF_CLASS else 0
        is_validation[members[order[:held]]] = True
        rest = members[order[held:]]
        kept[rest[: max(1, round(label_fraction * len(rest)))]] = label
    return Division(
        training=torch.nonzero(~is_validation).flatten(),
        validation=torch.nonzero(is_validation).flatten(),
        labels=kept,
    )


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
    training = _taken(images, division)
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
        metrics=_metrics(trained),
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
    training = _encoded(encoder, images, division.training)
    own = None
    if len(division.validation) >= FEWEST_VALIDATED:
        queries = _encoded(encoder, images, _spread(division.validation))
    else:
        own = _spread(torch.nonzero(images.labels[division.training] >= 0).flatten()).numpy()
        queries = _part(training, own)
    known = _without(similarities(queries, training), own)
    unknown = _without(similarities(queries, training, hide_own_class=True), own)
    try:
        return calibrate(known, known, unknown, (GROUP,) * len(queries), is_cautious=True)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise ValueError(
            f"the trained encoder does not tell the categories apart well enough to be used: {error}"
        ) from error


def _without(pairs: Similarities, own: NDArray[np.int64] | None) -> Similarities:
    """Query i as if entry own[i], which is its own photo, were not there."""
    if own is None:
        return pairs
    at = (np.arange(len(own)), own)
    pairs.code[at] = pairs.cosine[at] = -1
    pairs.relevant[at] = False
    return pairs


def _spread(rows: Tensor, *, times: int = 1) -> Tensor:
    """At most `times` MAX_COMPARED of the rows, evenly spread."""
    most = times * MAX_COMPARED
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).long()]


def _taken(images: ImageSet, division: Division) -> ImageSet:
    """The training part, with the labels it may show."""
    rows = division.training
    return ImageSet(
        pixels=images.pixels[rows],
        labels=division.labels[rows],
        names=images.names,
        packs=tuple(images.packs[row] for row in rows.tolist()),
        fingerprint=images.fingerprint,
    )


def _inputs(images: ImageSet, rows: Tensor, size: int) -> NDArray[np.uint8]:
    """(B, size, size, 3): the stored pixels brought to the input size, as training sees them at the end."""
    stored = images.pixels[rows].permute(0, 2, 3, 1).contiguous().numpy()
    return np.stack([to_input(Image.fromarray(one), size) for one in stored])


def _encoded(encoder: OnnxEncoder, images: ImageSet, rows: Tensor) -> EncodedSet:
    parts = [encoder.encode(_inputs(images, part, encoder.input_size)) for part in torch.split(rows, _CHUNK)]
    names = [images.names[label] if label >= 0 else None for label in images.labels[rows].tolist()]
    return EncodedSet(
        signs=signs_of(np.concatenate([part.packed_codes for part in parts])),
        embeddings=np.concatenate([part.embeddings for part in parts]),
        names=np.array(names, dtype=object),
        packs=(GROUP,) * len(rows),
    )


def _part(encoded: EncodedSet, rows: NDArray[np.int64]) -> EncodedSet:
    return EncodedSet(
        signs=encoded.signs[rows],
        embeddings=encoded.embeddings[rows],
        names=encoded.names[rows],
        packs=encoded.packs[: len(rows)],
    )


def validation_rows(division: Division) -> tuple[Tensor, Tensor]:
    """Queries and entries that choose the epoch: validation photos, and training photos whose label training sees.

    Both evenly spread over the catalogue, whose photos stand in the order they came.
    """
    shown = division.training[division.labels[division.training] >= 0]
    return _spread(division.validation), _spread(shown, times=4)


def _validation(images: ImageSet, division: Division, size: int) -> Callable[[nn.Module], float] | None:
    """Mean average precision of code and embedding, [0, 1], by `validation_rows`; None without validation photos."""
    if not len(division.validation):
        return None
    rows = validation_rows(division)
    inputs = [torch.from_numpy(_inputs(images, part, size)).permute(0, 3, 1, 2) for part in rows]
    labels = [images.labels[part].numpy() for part in rows]

    @torch.no_grad()
    def measure(encoder: nn.Module) -> float:
        (query_codes, query_embeddings), (codes, embeddings) = (_outputs(encoder, part) for part in inputs)
        found = [
            retrieval_values(queries, labels[0], entries, labels[1]).means()["map"]
            for queries, entries in ((query_codes, codes), (query_embeddings, embeddings))
        ]
        return float(np.mean(found))

    return measure


def _outputs(encoder: nn.Module, pixels: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(B, 3, S, S) uint8 -> signs (B, L) and unit embeddings (B, D)."""
    found = [encoder(part.float() / 255.0) for part in torch.split(pixels, _CHUNK)]
    logits, embeddings = (torch.cat([one[head] for one in found]).numpy() for head in (0, 1))
    return np.where(logits >= 0, np.float32(1), np.float32(-1)), embeddings


def _metrics(trained: Trained) -> dict[str, Any]:
    """What training itself saw; the product measures on held-out queries and keeps that beside the version."""
    seen = [logs["validation"] for logs in trained.history if "validation" in logs]
    return {"validation": {"best_mean_map": round(max(seen), 4)}} if seen else {}
