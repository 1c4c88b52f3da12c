"""Claim C12c: how fast stored embeddings are corrected, beside the matrix products that this cannot do without.

The products alone are A v, W1 v and W2 u (without a residual branch A v): of float32 rows that lie ready, as many at a
time, into buffers made once. What correcting adds to them: reading and writing float16, LayerNorm, GELU, sums, unit
length, memory for the result. Beside both, what encoding as many images would take. All in seconds of the processor on
one thread, the measured things taking turns at being first, so that a busy machine is busy for all.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.base_version.recipe import recipe_of
from ml.experiments.claims import Question, Side
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.protocol import Options, PlannedRun
from ml.models.config import EncoderConfig
from ml.models.corrector import CHUNK, Corrector
from ml.models.encoder import ImageEncoder
from ml.models.export import export_onnx
from ml.onnx_encoder import open_encoder_of

NAME = SETTING = "speed"
SEEDS = 5  # each a round of its own
DIMENSION = 128
ENCODER = replace(recipe_of("budget").method.encoder, input_size=64)  # what would encode the images anew
MAPS = {"full": f"affine and residual, m = {2 * DIMENSION}", "affine": "affine alone"}
PIECE = 100_000  # rows that are made at a time


@dataclass(frozen=True, slots=True)
class Load:
    """How many vectors are corrected and images encoded, in each of how many turns."""

    vectors: int = 1_000_000
    images: int = 700
    turns: int = 3


def planned_speed(options: Options) -> list[PlannedRun]:
    """One run per seed."""
    load = Load(vectors=20_000, images=20, turns=1) if options.smoke else Load()
    identity = {**asdict(load), "dimension": DIMENSION, "chunk": CHUNK, "encoder": asdict(ENCODER)}
    return [
        PlannedRun(
            name=NAME, setting=SETTING, seed=seed, identity=identity, work=partial(measured_speed, load, seed)
        )
        for seed in options.seeds[:SEEDS]
    ]


def speed_questions(evidence: Evidence) -> list[Question]:
    """C12c for the whole map and for one without residual branch; none without rows."""
    if not any(row["setting"] == SETTING for row in evidence.rows):
        return []
    return [
        Question(
            id="C12c", cell=f"{Load().vectors:,} x {DIMENSION}, {title}", statistic="correction_speed_ratio",
            setting=SETTING, a=Side(NAME, f"{kind}_vectors_per_second"),
            b=Side(NAME, f"{kind}_products_vectors_per_second"), compare="ratio", target="value >= 0.5",
            family="C12c", min_seeds=SEEDS,
        )
        for kind, title in MAPS.items()
    ]  # fmt: skip


def measured_speed(load: Load, seed: int, _checkpoint: Path) -> RunRecord:
    """The row: seconds are medians over turns; `_share_of_encoding` is of encoding as many images."""
    started = time.monotonic()
    with _one_thread():
        tasks = _tasks(load, seed)
        seconds = {name: median(found) for name, found in in_turns(tasks, load.turns).items()}
    per_image = seconds.pop("encoding") / load.images
    values: dict[str, Value] = {"encode_ms_per_image": 1_000 * per_image}
    for name, taken in seconds.items():
        values |= {f"{name}_seconds": taken, f"{name}_vectors_per_second": load.vectors / taken}
    for kind in MAPS:
        values[f"{kind}_share_of_encoding"] = seconds[kind] / (load.vectors * per_image)
    return RunRecord(name=NAME, setting=SETTING, seed=seed, values=values, seconds=time.monotonic() - started)


def _tasks(load: Load, seed: int) -> dict[str, Callable[[], object]]:
    stored = stored_vectors(load.vectors, seed=seed)
    ready = torch.from_numpy(stored).float()
    full, affine = drawn_map(seed, has_residual=True), drawn_map(seed, has_residual=False)
    encoder = open_encoder_of(export_onnx(_encoder(ENCODER, seed)), ENCODER)
    size = ENCODER.input_size
    pixels = np.random.default_rng(seed).integers(0, 256, (load.images, size, size, 3), np.uint8)
    return {
        "full": partial(full.corrected, stored),
        "full_products": partial(products, full, ready),
        "affine": partial(affine.corrected, stored),
        "affine_products": partial(products, affine, ready, has_residual=False),
        "encoding": partial(encoder.encode, pixels),
    }


def in_turns(
    tasks: Mapping[str, Callable[[], object]],
    turns: int,
    *,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Each task's seconds in each turn, the tasks in another order every time; a turn to warm up does not count."""
    names, found = list(tasks), {name: list[float]() for name in tasks}
    for turn in range(turns + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = clock()
            tasks[name]()
            found[name].append(clock() - started)
    return {name: seconds[1:] for name, seconds in found.items()}


@torch.no_grad()
def products(corrector: Corrector, rows: torch.Tensor, *, has_residual: bool = True) -> torch.Tensor:
    """The matrix products of correcting (N, D) float32 rows and nothing else; the last ones' (<= CHUNK, D)."""
    moved, added = torch.empty(2, CHUNK, corrector.dimension)
    hidden = torch.empty(CHUNK, len(corrector.inner))
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        count = len(part)
        torch.mm(part, corrector.affine.T, out=moved[:count])
        if has_residual:
            torch.mm(part, corrector.inner.T, out=hidden[:count])
            torch.mm(hidden[:count], corrector.outer.T, out=added[:count])
    last: torch.Tensor = (added if has_residual else moved)[:count]
    return last


def drawn_map(seed: int, *, has_residual: bool) -> Corrector:
    """Weights of the size that fitted ones have; how large they are does not change the work."""
    corrector, generator = Corrector(DIMENSION, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        corrector.affine.copy_(0.1 * torch.randn(DIMENSION, DIMENSION, generator=generator))
        if has_residual:
            corrector.outer.copy_(0.1 * torch.randn(corrector.outer.shape, generator=generator))
    return corrector


def stored_vectors(count: int, *, seed: int) -> NDArray[Any]:
    """(count, DIMENSION) float16 of unit L2 norm."""
    rng, vectors = np.random.default_rng(seed), np.empty((count, DIMENSION), np.float16)
    for start in range(0, count, PIECE):
        part = rng.standard_normal((min(PIECE, count - start), DIMENSION), np.float32)
        vectors[start : start + PIECE] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def _encoder(config: EncoderConfig, seed: int) -> ImageEncoder:
    """Of random weights: they decide what it says, not how long it takes."""
    torch.manual_seed(seed)
    return ImageEncoder(config)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
