"""The job that times this machine: a few real steps of a standard training, a few stored photos encoded.

Timed is the processor's time over the threads that share the work, not the clock on the wall: what else runs on the
machine does not lengthen it, so a full retrain is never made to look longer than it would be.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.base_version.recipe import Recipe, train_encoder
from ml.data.images import ImageSet
from ml.training.loop import Progress
from searchapp.exceptions import Conflict
from searchapp.models import EvaluationQuery, ItemImage, stored_path
from searchapp.services import intake, versions
from searchapp.services.base_training import ARCHITECTURES, LEAST_CATEGORIES
from searchapp.services.encoding_pace import encode_timed
from searchapp.services.jobs import JobRun
from searchapp.services.training_attempt import training_threads
from searchapp.services.training_photos import LEAST_PHOTOS
from searchapp.services.training_plan import CHECKED_LEAST, CHECKED_ONE_IN
from searchapp.services.training_recipe import recipe_with

TIMED_STEPS = 12  # at the sizes that a training shows, so that each is there
TIMED_PHOTOS = 30

Row = tuple[str, str, int]  # SHA-256, stored path, category


def pace_run(run: JobRun) -> dict[str, Any]:
    """Handler of "measure_pace". Raises Conflict when there is too little to train on, so to time."""
    started = time.monotonic()
    version = versions.default_version_ensure()
    rows = _trainable()
    sizes = Counter(category for _, _, category in rows)
    if len(sizes) < LEAST_CATEGORIES:
        raise Conflict(
            f"{len(sizes)} categories have two or more photos to train on, at least {LEAST_CATEGORIES} are needed"
        )
    run.progress(0, 2, "timing photos")
    photos, seconds = encode_timed(version, [path for _, path, _ in rows[-TIMED_PHOTOS:]])
    run.progress(1, 2, "timing training steps")
    recipe = recipe_with({}, ARCHITECTURES[0], list(sizes.values()), from_scratch=False)
    step = step_timed(*_sample(recipe, rows), heard=lambda: run.progress(1, 2, "timing training steps"))
    return {
        "photos": len(rows),
        "architecture": ARCHITECTURES[0],
        "steps": steps_of(recipe, list(sizes.values())),
        "timed_steps": TIMED_STEPS,
        "step_seconds": round(step, 4),
        "encoded_photos": photos,
        "encode_seconds": round(seconds, 4),
        "seconds": round(time.monotonic() - started, 2),
    }


def steps_of(recipe: Recipe, sizes: Sequence[int]) -> int:
    """Of a whole training on categories of these sizes, less the photos that only check it."""
    shown = sum(size - (size // CHECKED_ONE_IN if size >= CHECKED_LEAST else 0) for size in sizes)
    return recipe.fit.epochs * max(1, shown // _batch(recipe))


def step_timed(recipe: Recipe, images: ImageSet, *, heard: Any = lambda: None) -> float:
    """Seconds of a mean step: TIMED_STEPS real ones, of each size of picture the median, in their shares."""
    ends = [0.0]

    def ended(_progress: Progress) -> None:
        heard()
        ends.append(time.process_time() / torch.get_num_threads())

    # One step is one epoch here, the first only warms up: sizes come in the shares of a whole training.
    epochs = TIMED_STEPS + 1
    short = replace(recipe.fit, epochs=epochs, warmup_epochs=1.0)
    with training_threads():
        train_encoder(images, replace(recipe, fit=short), on_epoch=ended)
    found: dict[int, list[float]] = defaultdict(list)
    for number in range(2, len(ends)):
        found[_size_at(recipe, number, epochs)].append(ends[number] - ends[number - 1])
    shares: dict[int, float] = defaultdict(float)
    for (until, size), (before, _) in zip(recipe.sampling.sizes, [(0.0, 0), *recipe.sampling.sizes]):
        shares[size] += until - before
    seen = {size: share for size, share in shares.items() if size in found}
    return float(sum(share * median(found[size]) for size, share in seen.items()) / sum(seen.values()))


def _size_at(recipe: Recipe, epoch: int, epochs: int) -> int:
    """Pixels a side in epoch `epoch`, counted from 1, as ml.data.sampling has them."""
    return next(size for share, size in recipe.sampling.sizes if epoch / epochs <= share + 1e-9)


def _batch(recipe: Recipe) -> int:
    return recipe.sampling.classes_per_batch * recipe.sampling.images_per_class


def _trainable() -> list[Row]:
    """Readable photos that are not held out, of categories that have two, in order of their ids."""
    held_out = EvaluationQuery.objects.values("image_sha256")
    photos = ItemImage.objects.filter(failure="").exclude(image_sha256__in=held_out).order_by("pk")
    fields = photos.values_list("image_sha256", "extension", "item__category_id")
    rows = [(sha, stored_path(sha, extension), category) for sha, extension, category in fields]
    sizes = Counter(category for _, _, category in rows)
    return [row for row in rows if sizes[row[2]] >= LEAST_PHOTOS]


def _sample(recipe: Recipe, rows: Sequence[Row]) -> tuple[Recipe, ImageSet]:
    """One batch's worth of real photos, and the recipe for as many categories as gave some."""
    found: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)
    sampling = recipe.sampling
    for _, path, category in rows:
        has_enough = category not in found and len(found) == sampling.classes_per_batch
        if not has_enough and len(found.get(category, ())) < sampling.images_per_class:
            try:
                pixels = intake.stored_pixels(path, input_size=recipe.stored_size)
            except intake.UNREADABLE:
                continue
            found[category].append(pixels)
    photos = [pixels for own in found.values() for pixels in own]
    images = ImageSet(
        pixels=torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(
            [label for label, own in enumerate(found.values()) for _ in own], dtype=torch.int64
        ),
        names=tuple(map(str, found)),
        packs=("",) * len(photos),
        fingerprint="",
    )
    return replace(recipe, sampling=replace(sampling, classes_per_batch=len(found))), images
