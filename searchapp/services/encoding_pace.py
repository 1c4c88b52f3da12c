"""How long a version takes to encode stored photos on this machine."""

import time
from collections.abc import Sequence

from searchapp.models import ModelVersion
from searchapp.services import intake, versions


def encode_timed(version: ModelVersion, paths: Sequence[str]) -> tuple[int, float]:
    """How many of the photos could be read and encoded, and the seconds of processor time that took; the first is read
    twice, to warm up."""
    encoder = versions.photo_encoder_of(version)
    done, started = -1, 0.0
    for path in [paths[0], *paths]:
        try:
            encoder.encode_with_features(intake.stored_pixels(path, input_size=encoder.input_size)[None])
        except intake.UNREADABLE:
            continue
        done += 1
        started = started or time.process_time()
    return max(0, done), time.process_time() - started if started else 0.0
