"""The compact encoder against its textbook form: serving, training, and whether both engines give one code.

Run as `python -m benchmarks.encoder_speed [--quick]`; writes docs/results/bench_encoder_speed.json (not with
--quick). Needs the sample data and a C++ compiler for the compiled rows.
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from benchmarks import training_race
from benchmarks.gallery_data import machine, medians_ms
from benchmarks.textbook_encoder import textbook
from benchmarks.training_race import Course, Race, Racer
from ml.artifacts import Bundle, load_bundle
from ml.base_version.sets import Sources, open_packs, parts_of
from ml.data.images import ImageSet, load_images
from ml.data.preprocessing import decode_to_input
from ml.data.reserved import load_reserved
from ml.models.encoder import ImageEncoder, ServingGraph
from ml.models.export import encoder_from_weights, export_onnx
from ml.models.quantisation import quantise_weights
from ml.onnx_encoder import open_encoder_of
from ml.protocol import Pixels
from ml.training.memory import fastest_precision

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "bench_encoder_speed.json"
BUNDLE = ROOT / "ml" / "weights" / "default"
SAMPLE_DATA = Path(os.environ.get("SAMPLE_DATA", ROOT.parent / "shared" / "data"))
SEED = 0
PLAIN = "plain: torch eager, unfold"
SERVES = "ONNX Runtime (serves)"
Row = dict[str, Any]
Engine = Callable[[Pixels], tuple[NDArray[np.float32], NDArray[np.float32]]]
SERVING_BARS = {64: 5.0, 128: 3.0}  # times faster than plain at batch 1
TRAINING_BAR = 2.0
TRAINING_SIDE = 64
CURVE_STEPS = 50
CURVE_BAR = 0.01
CLEAR_LOGIT = 1e-4
DIFFERING_BAR = 1e-5
LEAST_COSINE = 0.999
COMPILERS = ("c++", "g++", "clang++")
ABOUT = (
    "The shipped weights, one thread. `plain` is the same network as a textbook writes it: involution by `F.unfold`, "
    "planar float32, torch eager, glibc's own memory settings; its speed is 1. Serving goes from uint8 pixels of real "
    "photos to code logits and embedding; `cosine` is the least one between an engine's embedding and plain's. "
    "Training steps are the product's own (forward, losses, backward, clipping, AdamW, average) on the same batches "
    "from the same seed; each way runs in a process of its own and they take turns. Times faster: median over rounds."
)
RACERS = (
    Racer(name=PLAIN, is_textbook=True, keeps_memory=False),
    Racer(name="channels last, fused involution", keeps_memory=False),
    Racer(name="the same, kept memory"),
    Racer(name="the same, kept memory, compiled", is_compiled=True),
    Racer(name="the same, kept memory, bfloat16", precision="bfloat16"),
    Racer(name="the same, kept memory, bfloat16, compiled", precision="bfloat16", is_compiled=True),
)


@dataclass(frozen=True)
class Agreement:
    """How two engines' code bits differ over B photos of L bits."""

    photos: int
    bits: int
    differing: int
    largest_logit_of_a_differing_bit: float  # the greater magnitude of the two; 0 when none differs
    largest_difference: float  # of any two logits

    @property
    def differing_share(self) -> float:
        return self.differing / self.bits

    @property
    def holds(self) -> bool:
        return self.differing_share <= DIFFERING_BAR and self.largest_logit_of_a_differing_bit <= CLEAR_LOGIT


def agreement(serving: NDArray[np.float32], training: NDArray[np.float32]) -> Agreement:
    """(B, L) code logits of the serving and of the training engine on the same photos."""
    differs = (serving >= 0) != (training >= 0)
    magnitudes = np.maximum(np.abs(serving), np.abs(training))
    return Agreement(
        photos=len(serving),
        bits=serving.size,
        differing=int(differs.sum()),
        largest_logit_of_a_differing_bit=float(magnitudes[differs].max(initial=0.0)),
        largest_difference=float(np.abs(serving - training).max()),
    )


@torch.inference_mode()
def eager_outputs(graph: ServingGraph, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(B, S, S, 3) uint8 -> (B, L) code logits and (B, D) embeddings, by torch."""
    codes, embeddings = graph(torch.from_numpy(pixels))
    return codes.numpy(), embeddings.numpy()


def trained_encoder(bundle: Bundle, side: int) -> ImageEncoder:
    """The bundle's weights for pictures of another size."""
    return encoder_from_weights(replace(bundle.manifest.encoder_config, input_size=side), bundle.weights)


def evenly(sources: Sources, count: int) -> Sources:
    """`count` of the sources, spread over all of them."""
    return [sources[int(place)] for place in np.linspace(0, len(sources) - 1, count)]


def decoded(sources: Sources, side: int) -> Pixels:
    return np.stack([decode_to_input(pack.read(record), side) for pack, record in sources])


def engines_of(encoder: ImageEncoder) -> dict[str, Engine]:
    graph = export_onnx(encoder)
    return {
        PLAIN: partial(eager_outputs, ServingGraph(textbook(encoder)).eval()),
        "torch eager, the product's encoder": partial(eager_outputs, ServingGraph(encoder).eval()),
        SERVES: open_encoder_of(graph, encoder.config).outputs,
        "ONNX Runtime, int8 weights": open_encoder_of(quantise_weights(graph), encoder.config).outputs,
    }


def serving_rows(engines: dict[str, Engine], pixels: Pixels, *, batch: int, rounds: int) -> list[Row]:
    """Every engine on the same photos, `batch` at a time, taking turns."""

    def answer(engine: Engine, query: int) -> object:
        return engine(pixels[query * batch : (query + 1) * batch])

    calls: dict[str, Callable[[int], object]] = {
        name: partial(answer, engine) for name, engine in engines.items()
    }
    times = medians_ms(calls, queries=len(pixels) // batch, rounds=rounds)
    wanted = engines[PLAIN](pixels)[1]
    side = pixels.shape[1]
    rows = []
    for name, engine in engines.items():
        cosine = float((engine(pixels)[1] * wanted).sum(axis=1).min())
        faster = times[PLAIN] / times[name]
        bar = SERVING_BARS[side] if batch == 1 and name == SERVES else None
        rows.append(
            {
                "pixels": side,
                "batch": batch,
                "engine": name,
                "ms": times[name],
                "images_per_second": 1000 * batch / times[name],
                "times_faster_than_plain": faster,
                "cosine": cosine,
                "bar": bar,
                "holds": None if bar is None else faster >= bar and cosine >= LEAST_COSINE,
            }
        )
    return rows


def all_serving_rows(bundle: Bundle, photos: Sources, *, quick: bool) -> list[Row]:
    rows = []
    for side in SERVING_BARS:
        engines = engines_of(trained_encoder(bundle, side))
        for batch, queries in ((1, 6), (32, 1)) if quick else ((1, 100), (32, 10)):
            pixels = decoded(evenly(photos, batch * queries), side)
            rows += serving_rows(engines, pixels, batch=batch, rounds=2 if quick else 7)
    return rows


def agreement_rows(bundle: Bundle, photos: Sources) -> list[Row]:
    """The shipped graph, as it serves, against the training engine with the same weights."""
    serving, side = bundle.encoder(), bundle.manifest.input_size
    training = ServingGraph(trained_encoder(bundle, side)).eval()
    pixels = decoded(photos, side)
    logits = np.concatenate(
        [eager_outputs(training, pixels[start : start + 50])[0] for start in range(0, len(pixels), 50)]
    )
    found = agreement(serving.outputs(pixels)[0], logits)
    return [
        {
            "photos": found.photos,
            "bits": found.bits,
            "differing_bits": found.differing,
            "differing_share": found.differing_share,
            "largest_logit_of_a_differing_bit": found.largest_logit_of_a_differing_bit,
            "largest_difference_of_a_logit": found.largest_difference,
            "holds": found.holds,
        }
    ]


def few_of_each_class(sources: Sources, count: int) -> Sources:
    """The first `count` photos of every class that has so many."""
    by_class: dict[tuple[str, str | None], Sources] = defaultdict(list)
    for pack, record in sources:
        by_class[pack.name, record.label].append((pack, record))
    return [one for members in by_class.values() if len(members) >= count for one in members[:count]]


def curve_difference(course: Course, plain: Course) -> float:
    """The largest relative difference of a step's loss over the first CURVE_STEPS steps."""
    return float(np.abs(course.losses / plain.losses - 1)[:CURVE_STEPS].max())


def training_rows(race: Race, images: ImageSet) -> list[Row]:
    can_compile = any(shutil.which(name) for name in COMPILERS)
    fast_halves = fastest_precision() == "bfloat16"
    racers = [racer for racer in RACERS if can_compile or not racer.is_compiled]
    courses = training_race.run(race, images, racers)
    plain = courses[PLAIN]
    images_a_round = race.batch_size * race.batches
    rows = []
    for racer in racers:
        course = courses[racer.name]
        faster = float(np.median(plain.seconds / course.seconds))
        difference = curve_difference(course, plain)
        rows.append(
            {
                "training": racer.name,
                "precision": racer.precision,
                "images_per_second": float(np.median(images_a_round / course.seconds)),
                "times_faster_than_plain": faster,
                "first_round_seconds": course.first_seconds,
                "steps_compared": min(CURVE_STEPS, len(course.losses)),
                "largest_difference_of_a_loss": difference,
                "difference_of_the_mean_loss": float(
                    abs(course.losses[:CURVE_STEPS].mean() / plain.losses[:CURVE_STEPS].mean() - 1)
                ),
                "holds": None
                if racer.is_textbook or (racer.precision == "bfloat16" and not fast_halves)
                else faster >= TRAINING_BAR and difference <= CURVE_BAR,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few photos and steps; writes no result")
    parser.add_argument(
        "--bundle", type=Path, default=BUNDLE, help="weights to measure (default: the shipped)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(options.bundle)
    result = {
        "title": "Encoder speed",
        "about": ABOUT,
        "command": "python -m benchmarks.encoder_speed",
        "seed": SEED,
        "machine": machine() | versions(),
        "tables": list(tables(bundle, quick=options.quick)),
    }
    if not options.quick:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def tables(bundle: Bundle, *, quick: bool) -> Iterator[dict[str, Any]]:
    """The three tables, each printed as soon as it is measured."""
    parts = parts_of(open_packs([SAMPLE_DATA]), load_reserved())
    photos = parts.queries + parts.gallery
    yield shown(
        "Serving",
        "Bars: batch 1 at 64 pixels 5 times, at 128 pixels 3 times, cosine at least 0.999.",
        all_serving_rows(bundle, photos, quick=quick),
    )
    yield shown(
        "Code bits of the serving engine against the training engine",
        "Bar: at most one bit in 100,000 differs, none whose logit is beyond 0.0001.",
        agreement_rows(bundle, evenly(photos, 40 if quick else 1000)),
    )
    trained_on = few_of_each_class(parts.training, 8)[: 64 if quick else None]
    yield shown(
        f"Training, {TRAINING_SIDE} pixels",
        "Bar: twice the images per second, and every loss of the first 50 steps within 1 % of plain's.",
        training_rows(race_of(bundle, quick=quick), load_images(trained_on, TRAINING_SIDE + 8)),
    )


def shown(title: str, note: str, rows: list[Row]) -> dict[str, Any]:
    for row in rows:
        print(json.dumps(row), flush=True)
    return {"title": title, "note": note, "rows": rows}


def race_of(bundle: Bundle, *, quick: bool) -> Race:
    config = replace(bundle.manifest.encoder_config, input_size=TRAINING_SIDE)
    if quick:
        return Race(encoder=config, classes_per_batch=4, batches=2, rounds=3, seed=SEED)
    return Race(encoder=config, seed=SEED)


def versions() -> Row:
    return {
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "bfloat16_in_hardware": fastest_precision() == "bfloat16",
    }


if __name__ == "__main__":
    main()
