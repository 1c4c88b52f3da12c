"""What a version answers just before it is put in use: held-out photos, asked of the arm as it would serve.

The answers are kept in the job's result: what every process answers first after the move can be held against them.
"""

import logging
from typing import Any

from ml.retrieval.two_stage import QueryVectors, search
from searchapp.models import Item
from searchapp.services import intake
from searchapp.services.arms import Arm
from searchapp.services.held_out import held_out_queries

QUERIES = 20
ANSWERS = 10

logger = logging.getLogger(__name__)


def probe_answers(arm: Arm) -> list[dict[str, Any]]:
    """[{query, skus}]: up to QUERIES held-out photos by their SHA-256, and the best ANSWERS items for each."""
    found = []
    for query in held_out_queries()[:QUERIES]:
        try:
            pixels = intake.stored_pixels(query.path, input_size=arm.encoder.input_size)
        except intake.UNREADABLE as error:
            logger.warning("held-out photo %s cannot be read: %s", query.image_sha256, error)
            continue
        found.append({"query": query.image_sha256, "skus": _skus(arm, pixels)})
    return found


def _skus(arm: Arm, pixels: Any) -> list[str]:
    if not len(arm.view):
        return []
    encoded = arm.encoder.encode(pixels[None])
    vectors = QueryVectors(encoded.packed_codes[0], encoded.embeddings[0])
    hits = search(arm.view, vectors, k=ANSWERS, calibrations=arm.calibrations).hits
    sku_of = dict(Item.objects.filter(pk__in=[hit.item_id for hit in hits]).values_list("pk", "sku"))
    return [sku_of[hit.item_id] for hit in hits if hit.item_id in sku_of]
