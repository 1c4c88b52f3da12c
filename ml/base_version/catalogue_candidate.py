"""A candidate from a catalogue's own photos: held to what the gallery stored of them, which nobody encodes again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ml.artifacts import Bundle, check_free
from ml.base_version.candidate import NOTE, check_recipe, note_of
from ml.base_version.catalogue import CatalogueVersion, initial_weights, lasting, validated
from ml.base_version.catalogue_photos import Division, divide, spread, training_part
from ml.base_version.fitted_heads import fitted_heads
from ml.base_version.recipe import Recipe, Stored, Trained, train_encoder
from ml.base_version.stored import stored_of
from ml.base_version.stored_photos import AskedPhotos, Found, StoredPhotos, Tested, Validation
from ml.base_version.writing import write_trained
from ml.data.images import ImageSet
from ml.evaluation.intervals import Interval, paired_interval
from ml.models.export import export_onnx
from ml.onnx_encoder import open_encoder_of
from ml.training.loop import Progress

PILOT_SHARE, LEAST_PILOT_EPOCHS = 0.1, 2  # of the whole training
ASKED = (
    "asked"  # in a manifest's metrics: what the photos that the pilot asked found after the whole training
)
FITTED = 10  # times MAX_COMPARED photos fit the heads: more would only take time
Heard = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Pilot:
    """What a short training came to, on the photos that the whole one is validated on."""

    epochs: int
    seconds: float
    found: Found
    old: NDArray[np.float64]  # (Q,) the parent's own answers to the same photos, on the same entries

    def gain(self) -> Interval | None:
        """Cross-test minus the parent's self-test, and its interval over photos; None where nothing was asked."""
        if np.isnan(self.found.cross - self.old).all():
            return None
        return paired_interval(self.found.cross, self.old, np.arange(len(self.old)), seed=0)


@dataclass(frozen=True, slots=True)
class Material:
    """What a candidate is trained from. images: (N, 3, recipe.stored_size, …), their names in registry order.

    start: the version to go on from, if its encoder has the recipe's shape. asked: photos held out of every training,
    the parent's too, that the pilot asks; without any it asks validation photos.
    """

    images: ImageSet
    stored: StoredPhotos
    recipe: Recipe
    parent: Bundle
    start: Bundle | None = None
    asked: AskedPhotos | None = None

    @property
    def is_warm(self) -> bool:
        return initial_weights(self.start, self.recipe) is not None


def pilot_epochs(recipe: Recipe) -> int:
    """A tenth of the whole training."""
    return min(recipe.fit.epochs, max(LEAST_PILOT_EPOCHS, round(PILOT_SHARE * recipe.fit.epochs)))


def run_pilot(
    material: Material,
    *,
    on_epoch: Heard = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Pilot | None:
    """Train a tenth as long, with a schedule of its own, and ask validation photos; None where there are none.

    Raises what train_candidate raises.
    """
    epochs = pilot_epochs(material.recipe)
    negatives = material.recipe.negatives
    if negatives is not None and negatives.from_epoch >= epochs:
        negatives = None  # they come later than the pilot lasts
    short = lasting(replace(material.recipe, negatives=negatives), epochs)
    fit = replace(short.fit, validate_every=epochs)  # its end alone
    run = _Run.of(replace(material, recipe=replace(short, fit=fit)))
    run = replace(run, validation=run.asked() or run.validation)
    if run.validation is None:
        return None
    trained = run.train(None, on_epoch, is_cancelled)
    assert run.validation.last is not None
    return Pilot(trained.epochs, trained.seconds, run.validation.last, run.validation.old)


def train_candidate(
    material: Material,
    target: Path,
    *,
    checkpoint: Path | None = None,
    command: str = "",
    on_epoch: Heard = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> CatalogueVersion:
    """Train by a candidate's recipe and write the bundle to `target`; words are the parent's, byte for byte.

    After an epoch that was validated its logs hold "cross" and "own" beside their mean, "validation". With `checkpoint`
    a killed training goes on from its last epoch. Raises FileExistsError when `target` exists, what check_recipe
    raises, ValueError when there is too little to learn from or the result cannot be calibrated, FitCancelled.
    """
    check_free(target, replace=False)
    run = _Run.of(material)
    trained = run.train(checkpoint, on_epoch, is_cancelled)
    graph = export_onnx(trained.encoder)
    asked = run.asked() or run.validation
    if asked is not None:
        asked(trained.encoder)
    encoder = open_encoder_of(graph, trained.encoder.config)
    tested = Tested.of(encoder, material.images, run.division, material.stored, material.parent)
    calibration = tested.calibrations()
    bundle = write_trained(
        target, trained, material.images, graph,
        calibration=calibration,
        metrics={
            **validated(trained),
            NOTE: {
                "validation": tested.summary(calibration),
                ASKED: asked.last.means if asked is not None and asked.last is not None else None,
            },
        },
        training={
            "command": command,
            "validation_images": len(run.division.validation),
            "stored_images": int(material.stored.present.sum()),
            "started_from": material.start.digest if material.start and material.is_warm else None,
            NOTE: note_of(trained, run.stored, material.parent),
        },
        text=material.parent.text,  # words go by the code space alone, which stays
    )  # fmt: skip
    return CatalogueVersion(bundle, material.is_warm, trained.epochs, trained.seconds)


@dataclass(frozen=True, slots=True)
class _Run:
    material: Material
    division: Division
    stored: Stored
    validation: Validation | None

    @classmethod
    def of(cls, material: Material) -> Self:
        check_recipe(material.recipe, material.parent)
        images, found = material.images, material.stored
        division = divide(images.labels, seed=material.recipe.seed)
        rows = division.training.numpy()
        labels = np.where(found.present, division.labels.numpy(), -1)[rows]
        return cls(
            material,
            division,
            stored_of(found.packed_codes[rows], found.embeddings[rows], labels, images.names),
            Validation.of(images, division, found, material.recipe.method.encoder.input_size),
        )

    def asked(self) -> Validation | None:
        """By the photos that are held out of every training, where there are any."""
        photos, images = self.material.asked, self.material.images
        if photos is None:
            return None
        size = self.material.recipe.method.encoder.input_size
        found = Validation(photos, images, self.division, self.material.stored, size)
        return None if np.isnan(found.old).all() else found

    def train(self, checkpoint: Path | None, on_epoch: Heard, is_cancelled: Callable[[], bool]) -> Trained:
        def heard(progress: Progress) -> None:
            last = self.validation.last if self.validation is not None else None
            told = last.means if last is not None and "validation" in progress.logs else {}
            on_epoch(replace(progress, logs={**progress.logs, **told}))

        return train_encoder(
            training_part(self.material.images, self.division),
            self.material.recipe,
            stored=self.stored,
            initial=self._initial() if checkpoint is None or not checkpoint.exists() else None,
            checkpoint=checkpoint,
            validate=self.validation,
            on_epoch=heard,
            is_cancelled=is_cancelled,
        )

    def _initial(self) -> Mapping[str, NDArray[Any]] | None:
        """The start's own weights where it made what is stored, else with heads that see it in the parent's space."""
        start, recipe = self.material.start, self.material.recipe
        weights = initial_weights(start, recipe)
        if weights is None or start is None or start.digest == self.material.parent.digest:
            return weights
        stored = self.material.stored
        rows = spread(
            self.division.training[torch.from_numpy(stored.present)[self.division.training]], times=FITTED
        )
        signs, embeddings = stored.coded
        return fitted_heads(start, self.material.images, rows, signs[rows], embeddings[rows])
