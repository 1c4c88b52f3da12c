"""An uploaded picture as a query: admitted, decoded and encoded by the arm that answers, with each stage's time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.two_stage import QueryVectors
from searchapp.exceptions import Unavailable
from searchapp.services import intake, serving
from searchapp.services.search_answers import STAGES

# Decoding and encoding hold a core each; beyond a few at a time everybody only waits longer and memory grows by a
# decoded picture each. Who finds no place within the wait is told to come back.
ADMITTED = 4
ADMISSION_WAIT_SECONDS = 1.0

_admission = threading.BoundedSemaphore(ADMITTED)


class StageClock:
    """Milliseconds spent in each stage; every stage of a search is named, those not passed stay 0."""

    def __init__(self) -> None:
        self.took: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.took[name] = self.took.get(name, 0.0) + 1000 * (time.perf_counter() - started)

    def done(self) -> dict[str, float]:
        self.took["total"] = 1000 * (time.perf_counter() - self._started)
        return self.took


@dataclass(frozen=True, slots=True)
class PhotoQuery:
    """A picture as the encoder saw it, (S, S, 3) uint8, and what it made of it."""

    pixels: NDArray[np.uint8]
    vectors: QueryVectors


def photo_encoded(
    arm: serving.Arm, clock: StageClock, *, data: bytes, filename: str = "", crop: intake.Crop | None = None
) -> PhotoQuery:
    """Untrusted bytes to a query. Raises what intake raises, and Unavailable when too many ask at once."""
    if not _admission.acquire(timeout=ADMISSION_WAIT_SECONDS):
        raise Unavailable("Too many searches at once; try again in a moment.")
    try:
        with clock.stage("intake"):
            image = intake.query_image(data, filename=filename, crop=crop, input_size=arm.encoder.input_size)
        with clock.stage("encode"):
            encoded = arm.encoder.encode(image.pixels[None])
    finally:
        _admission.release()
    return PhotoQuery(image.pixels, QueryVectors(encoded.packed_codes[0], encoded.embeddings[0]))
