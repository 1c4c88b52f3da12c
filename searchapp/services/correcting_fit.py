"""Fits the maps of a correction: a sample of each source trunk's photos is encoded anew, the rest is arithmetic."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.methods.corrector.bundle import CorrectorBundle, TrunkMap
from ml.methods.corrector.config import FitConfig
from ml.methods.corrector.pairs import Pairs, rows_to_encode
from ml.methods.corrector.trunk_maps import LEAST_PAIRS, trunk_map
from searchapp.models import ItemImage, ModelVersion
from searchapp.services import correctors, intake, versions
from searchapp.services.correcting import items_to_fit
from searchapp.services.gallery_columns import in_chunks
from searchapp.services.photo_features import Heard
from searchapp.services.stale_entries import StaleEntries, categories_of, may_be_learned_from, trunks_of
from searchapp.services.training_attempt import training_threads

SEED = 0
CONFIG = FitConfig()

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Fit:
    """What came of it, by source trunk. trunks: as the job's result tells them; opened: photos encoded for it."""

    maps: dict[str, TrunkMap] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)
    trunks: list[dict[str, Any]] = field(default_factory=list)
    opened: int = 0
    encode_seconds: float = 0.0
    fit_seconds: float = 0.0

    def stored(self, version: ModelVersion) -> CorrectorBundle:
        """As a bundle in its place; the same fit is the same bundle."""
        return correctors.corrector_store(
            target=versions.trunk_of(version).digest,
            maps=self.maps,
            given_up=self.given_up,
            fitting={"fitted_on": self.opened, "seed": SEED, "helps_below": CONFIG.helps_below},
        )


def gallery_fitted(version: ModelVersion, stale: StaleEntries, *, fit_items: int | None, heard: Heard) -> Fit:
    """One map for each trunk whose entries stand in the view of `version`, or the reason why it has none.

    Photos that are held out are never drawn: they judge the fit. heard: photos encoded, of all there are to encode.
    Writes nothing.
    """
    trunks = trunks_of(stale.majors)
    is_free = may_be_learned_from(stale.photos)
    free = {major: rows[is_free[rows]] for major in trunks for rows in (stale.of_trunk(major),)}
    counts = items_to_fit({major: len(rows) for major, rows in free.items()}, version.dimension, fit_items)
    categories = categories_of(stale.items)
    fit = Fit()
    for major, trunk in trunks.items():
        rows = free[major]
        chosen = rows[_chosen(categories[rows], counts[major])]
        started = time.perf_counter()
        so_far = partial(_heard_after, heard, fit.opened, sum(counts.values()))
        readable, fresh = _encoded(version, stale.photos[chosen], heard=so_far)
        encoded = time.perf_counter()
        fit.opened += len(chosen)
        found = _fitted(stale.embeddings[chosen[readable]], fresh, categories[chosen[readable]])
        fit.encode_seconds += encoded - started
        fit.fit_seconds += time.perf_counter() - encoded
        _told(fit, trunk, found, stale.embeddings[stale.of_trunk(major)], len(readable))
    return fit


def _heard_after(heard: Heard, before: int, total: int, done: int) -> None:
    heard(before + done, total)


def _told(
    fit: Fit, trunk: ModelVersion, found: TrunkMap | str, stale: NDArray[np.float16], pairs: int
) -> None:
    said: dict[str, Any] = {"producer": trunk.name, "entries": len(stale), "pairs": pairs}
    if isinstance(found, str):
        fit.given_up[trunk.digest] = found
        fit.trunks.append(said | {"helps": False, "reason": found})
        return
    fit.maps[trunk.digest] = found
    report = found.report
    staleness = max(report["staleness"], 1e-12)
    fit.trunks.append(
        said
        | {
            "helps": True,
            **{name: report[name] for name in ("kind", "staleness", "error", "cosine_median", "cosine_low")},
            "ratio": round(report["error"] / staleness, 4),
            "predicted_error": round(float(found.errors.predicted(stale).mean()), 6),
        }
    )


def _chosen(categories: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of a trunk to encode, spread over categories; all of them when there are few."""
    if count >= len(categories) or count < LEAST_PAIRS:
        return np.arange(len(categories))[:count]
    chosen = rows_to_encode(np.zeros_like(categories), categories, count=count, seed=SEED)
    return np.sort(np.concatenate([chosen.fit, chosen.probe]))


def _fitted(
    stale: NDArray[np.float16], fresh: Sequence[NDArray[np.float32]], categories: NDArray[np.int64]
) -> TrunkMap | str:
    if len(fresh) < LEAST_PAIRS:
        return f"{len(fresh)} photos are too few to fit a map to, at least {LEAST_PAIRS} are needed"
    with training_threads():
        pairs = Pairs(stale.astype(np.float32), np.stack(fresh))
        return trunk_map(pairs, CONFIG, categories=categories, seed=SEED)


def _encoded(
    version: ModelVersion, image_ids: NDArray[np.int64], *, heard: Callable[[int], None]
) -> tuple[NDArray[np.intp], list[NDArray[np.float32]]]:
    """Positions of the photos that could be read, and their embeddings by `version`, one photo a call."""
    encoder = versions.encoder_of(version)
    paths = _paths(image_ids.tolist())
    readable, fresh = [], []
    for at, image_id in enumerate(image_ids.tolist()):
        heard(at)
        if image_id not in paths:  # deleted meanwhile
            continue
        try:
            pixels = intake.stored_pixels(paths[image_id], input_size=encoder.input_size)
        except intake.UNREADABLE as error:
            logger.warning("photo %s cannot be read: %s", image_id, error)
            continue
        readable.append(at)
        fresh.append(encoder.encode(pixels[None]).embeddings[0])
    return np.array(readable, np.intp), fresh


def _paths(image_ids: Sequence[int]) -> Mapping[int, str]:
    found: dict[int, str] = {}
    for ids in in_chunks(image_ids):
        found |= {image.pk: image.path for image in ItemImage.objects.filter(pk__in=ids)}
    return found
