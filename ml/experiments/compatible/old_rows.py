"""The old system of a setting of tier A: its heads, what they stored, and how well it answers by itself."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.experiments.compatible.arms import OLD
from ml.experiments.compatible.heads import TrainedHeads, train_heads
from ml.experiments.compatible.judging import OldSystem, judged_old
from ml.experiments.compatible.places import Place
from ml.experiments.compatible.trunks import EXPERIMENT
from ml.experiments.corrector.serving_encoders import Encoded
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import PlannedRun

VECTORS_FILE = "vectors.safetensors"


def planned_old(place: Place, seed: int) -> PlannedRun:
    """The row `old`; wrong labels are of new trainings, so it is the same with and without."""
    place = replace(place, noise=0.0)
    identity: dict[str, Any] = {**place.identity(), "role": OLD}
    work = partial(_measured, place, seed)
    return PlannedRun(name=OLD, setting=place.title, seed=seed, identity=identity, work=work)


def old_system(place: Place, seed: int) -> OldSystem:
    """Of the row, trained now if the ledger lacks it."""
    run = planned_old(place, seed)
    options = place.options
    record = options.ledger.run(run.full_identity(EXPERIMENT, smoke=options.smoke), run.work)
    kept = load(record.files[VECTORS_FILE])
    return OldSystem(encoded_from(kept), kept["centres"], place.old_classes, record)


def kept_vectors(heads: TrainedHeads) -> dict[str, bytes]:
    """Files of a row: what later rows stand on."""
    embeddings = heads.encoded.embeddings.astype(np.float16)
    stored: dict[str, NDArray[Any]] = {
        "codes": heads.encoded.codes, "embeddings": embeddings, "centres": heads.centres,
    }  # fmt: skip
    return {VECTORS_FILE: save(stored)}


def as_stored(heads: TrainedHeads) -> Encoded:
    """Embeddings in half precision, as the gallery holds them."""
    embeddings = heads.encoded.embeddings.astype(np.float16)
    return encoded_from({"codes": heads.encoded.codes, "embeddings": embeddings})


def encoded_from(kept: dict[str, NDArray[Any]]) -> Encoded:
    """As kept: embeddings of unit length again."""
    vectors = kept["embeddings"].astype(np.float32)
    return Encoded(kept["codes"], vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 0.0)


def _measured(place: Place, seed: int, checkpoint: Path) -> RunRecord:
    started, split = time.monotonic(), place.split
    features, _ = place.features
    heads = train_heads(features, place.heads, classes=len(split.base), seed=seed, checkpoint=checkpoint)
    values, per_query = judged_old(split, as_stored(heads))
    return RunRecord(
        name=OLD, setting=place.title, seed=seed, values=values, per_query=per_query,
        seconds=time.monotonic() - started, items=split.final.query_items, files=kept_vectors(heads),
    )  # fmt: skip
