"""What in a shopper's photo matched one result: a heat map over the photo, and the same in words.

Made on demand for one result at a time by covering parts of the photo (ml.retrieval.occlusion), so it costs about as
much as EXPLANATION_COST searches and is counted as that many. One runs at a time in a process: others wait a moment
and are then told to come back, so that explanations never take the cores that searches need.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.occlusion import occlusion_map
from ml.retrieval.scoring import log_odds
from searchapp.exceptions import NotFound, Unavailable
from searchapp.models import Item, ItemImage
from searchapp.services import metrics, serving
from searchapp.services.explanations import Explanation, explanation_of
from searchapp.services.gallery_columns import read_entries
from searchapp.services.intake import Crop
from searchapp.services.photo_queries import PhotoQuery, StageClock, photo_encoded
from searchapp.services.search_answers import EXPLAIN_STAGE
from searchapp.services.search_options import SearchOptions

EXPLANATION_COST = 10
WAIT_SECONDS = 1.0

_one_at_a_time = threading.BoundedSemaphore(1)


@dataclass(frozen=True, slots=True)
class ExplainedItem:
    """An explanation for a page: with the item and its matched photo."""

    explanation: Explanation
    item: Item
    image: ItemImage
    took_ms: Mapping[str, float]


def explain_item(
    *,
    data: bytes,
    sku: str,
    filename: str = "",
    crop: Crop | None = None,
    options: SearchOptions | None = None,
    visitor: str = "",
) -> ExplainedItem:
    """What in an uploaded photo matches one item. Nothing is logged and nothing kept: the search was asked before.

    options and visitor: those of that search, so that the same arm explains what it found.

    Raises what intake raises, NotFound for an item that is not there or not encoded yet, and Unavailable.
    """
    clock = StageClock()
    arm = serving.arm_for(visitor, options)
    item = Item.objects.select_related("category").filter(sku=sku).first() if "\x00" not in sku else None
    if item is None:
        raise NotFound(f"There is no item {sku[:120]!r}.", fields={"sku": "unknown"})
    photo = photo_encoded(arm, clock, data=data, filename=filename, crop=crop)
    explanation = explained(arm, clock, photo, item_id=item.pk, sku=item.sku, is_cropped=crop is not None)
    image = ItemImage.objects.filter(pk=explanation.image_id).first()
    if image is None:  # deleted meanwhile
        raise NotFound(
            f"The photo of item {sku[:120]!r} that matched is no longer there.", fields={"sku": "deleted"}
        )
    metrics.search_observe(
        kind="explain", outcome="answered", took_ms={EXPLAIN_STAGE: clock.took[EXPLAIN_STAGE]}
    )
    return ExplainedItem(explanation, item, image, clock.done())


def explained(
    arm: serving.Arm, clock: StageClock, photo: PhotoQuery, *, item_id: int, sku: str, is_cropped: bool
) -> Explanation:
    """The explanation of one item as `arm` sees it. Raises NotFound when nothing of it is encoded, Unavailable."""
    target = _best_entry(arm, photo, item_id, sku)
    if not _one_at_a_time.acquire(timeout=WAIT_SECONDS):
        raise Unavailable("Too many explanations at once; try again in a moment.")
    try:
        with clock.stage(EXPLAIN_STAGE):
            found = occlusion_map(
                arm.encoder,
                photo.pixels,
                packed_code=target.code,
                embedding=target.embedding,
                calibration=arm.calibrations[target.producer],
            )
    finally:
        _one_at_a_time.release()
    return explanation_of(found, sku=sku, image_id=target.image_id, is_cropped=is_cropped)


@dataclass(frozen=True, slots=True)
class _Entry:
    image_id: int
    producer: str
    code: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    log_odds: float


def _best_entry(arm: serving.Arm, photo: PhotoQuery, item_id: int, sku: str) -> _Entry:
    """The entry by which the item was found: its best, embeddings as the arm's view has them (perhaps corrected)."""
    image_ids = list(ItemImage.objects.filter(item_id=item_id).values_list("pk", flat=True))
    entries = read_entries(arm.version, image_ids=image_ids)
    best: _Entry | None = None
    for producer, pool in arm.view.pools.items():
        own = entries.of_producer(producer)
        rows = pool.rows.rows_of(own.entry_ids)
        own, rows = own.taken(rows >= 0), rows[rows >= 0]  # the view may be a moment behind the rows
        if not len(own):
            continue
        embeddings = pool.rows.embeddings_at(rows)
        hamming = np.bitwise_count(own.codes ^ photo.vectors.packed_code).sum(axis=1, dtype=np.int32)
        cosines = np.vecdot(embeddings, photo.vectors.embedding)
        odds = log_odds(hamming, cosines, arm.calibrations[producer], arm.version.code_bits)
        row = int(odds.argmax())
        if best is None or odds[row] > best.log_odds:
            code, embedding = own.codes[row], embeddings[row]
            best = _Entry(int(own.image_ids[row]), producer, code, embedding, float(odds[row]))
    if best is None:
        raise NotFound(f"Nothing of item {sku!r} is encoded yet; there is nothing to compare with.")
    return best
