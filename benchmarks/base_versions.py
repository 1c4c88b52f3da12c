"""The base versions beside each other: retrieval on held-out photos, bytes and speed, also in smaller files.

Run as `python -m benchmarks.base_versions [--bundle DIR …] [--quick]`; writes docs/results/bench_base_versions.json
(not with --quick). Without --bundle: the versions in ml/weights.
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery_data import machine, medians_ms
from ml.artifacts import Bundle, load_bundle
from ml.base_version.sets import Sources, open_packs, parts_of
from ml.data.images import labelled_name
from ml.data.preprocessing import decode_to_input
from ml.data.reserved import load_reserved
from ml.evaluation.intervals import paired_interval
from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.models.quantisation import variants
from ml.onnx_encoder import OnnxEncoder, open_encoder_of

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "bench_base_versions.json"
WEIGHTS = ROOT / "ml" / "weights"
SEED = 0
CHUNK = 64
LATENCY_PHOTOS = 20
ABOUT = (
    "Every base version searches the sample catalogue's entries of grocery, clothing and places with their "
    "held-out photos (test and query splits), ranked by the calibrated mix of code and embedding over all "
    "entries; relevant is the same label. `fp16` and `int8` store the same weights in fewer bytes and compute in "
    "float32. The loss is Recall@1 of the float32 file minus that of the smaller one, paired by query, with a 95 % "
    "interval clustered by label. Milliseconds: one picture, one thread, the files taking turns."
)


@dataclass(frozen=True, slots=True)
class Photos:
    """Labelled photos at one input size: pixels (N, S, S, 3), labels and packs by name."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.str_]
    packs: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Answers:
    """Per query (Q,)."""

    recall_at_1: NDArray[np.float64]
    recall_at_10: NDArray[np.float64]
    average_precision: NDArray[np.float64]


def photos_of(sources: Sources, size: int, share: int) -> Photos:
    """Decode every `share`-th of the sources."""
    chosen = sources[::share]
    return Photos(
        np.stack([decode_to_input(pack.read(record), size) for pack, record in chosen]),
        np.array([labelled_name(record) for _, record in chosen]),
        np.array([pack.name for pack, _ in chosen]),
    )


def answers(encoder: OnnxEncoder, bundle: Bundle, gallery: Photos, queries: Photos) -> Answers:
    """The calibrated mix as one inner product: each part scaled by the root of its weight."""
    calibration = bundle.manifest.calibration["self"]
    code_scale = np.sqrt(calibration.code_weight / bundle.manifest.code_bits)
    embedding_scale = np.sqrt(calibration.embedding_weight)

    def mixed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = [encoder.encode(pixels[start : start + CHUNK]) for start in range(0, len(pixels), CHUNK)]
        codes = np.concatenate([signs_of(part.packed_codes) for part in parts])
        embeddings = np.concatenate([part.embeddings for part in parts])
        return np.hstack([codes * code_scale, embeddings * embedding_scale]).astype(np.float32)

    names = np.unique(np.concatenate([gallery.labels, queries.labels]))
    found = retrieval_values(
        mixed(queries.pixels),
        np.searchsorted(names, queries.labels),
        mixed(gallery.pixels),
        np.searchsorted(names, gallery.labels),
    )
    assert found.map is not None
    return Answers(found.recall_at_1, found.recall_at_10, found.map)


def compared(name: str, bundle: Bundle, gallery: Photos, queries: Photos) -> dict[str, list[dict[str, Any]]]:
    """Rows of both tables for one version."""
    graphs = variants(bundle.graph)
    encoders = {
        form: open_encoder_of(graph, bundle.manifest.encoder_config) for form, graph in graphs.items()
    }
    found = {form: answers(encoder, bundle, gallery, queries) for form, encoder in encoders.items()}
    calls: dict[str, Callable[[int], object]] = {
        form: partial(_encode_one, encoder, queries.pixels) for form, encoder in encoders.items()
    }
    milliseconds = medians_ms(calls, queries=LATENCY_PHOTOS, rounds=3)
    clusters = np.unique(queries.labels, return_inverse=True)[1].astype(np.int64)
    quality = []
    for pack in [*sorted(set(queries.packs)), "all"]:
        chosen = (queries.packs == pack) | (pack == "all")
        quality.append(
            {
                "version": name,
                "pack": pack,
                "queries": int(chosen.sum()),
                "recall_at_1": float(np.nanmean(found["fp32"].recall_at_1[chosen])),
                "recall_at_10": float(np.nanmean(found["fp32"].recall_at_10[chosen])),
                "map": float(np.nanmean(found["fp32"].average_precision[chosen])),
            }
        )
    smaller = []
    for form, graph in graphs.items():
        loss = paired_interval(found["fp32"].recall_at_1, found[form].recall_at_1, clusters, seed=SEED)
        smaller.append(
            {
                "version": name,
                "file": form,
                "parameters": bundle.parameters,
                "bytes": len(graph),
                "batch_1_ms": milliseconds[form],
                "recall_at_1_loss": loss.value,
                "interval": [loss.low, loss.high],
            }
        )
    return {"quality": quality, "smaller": smaller}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.base_versions", description=__doc__)
    parser.add_argument("--bundle", type=Path, action="append", metavar="DIR")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="an eighth of the photos; writes no result")
    options = parser.parse_args()
    paths = options.bundle or sorted(path for path in WEIGHTS.iterdir() if path.is_dir())
    bundles = {path.name: load_bundle(path) for path in paths}
    parts = parts_of(open_packs([options.data]), load_reserved())
    share = 8 if options.quick else 1
    rows: dict[str, list[dict[str, Any]]] = {"quality": [], "smaller": []}
    for size in sorted({bundle.manifest.input_size for bundle in bundles.values()}):
        gallery, queries = photos_of(parts.gallery, size, share), photos_of(parts.queries, size, share)
        for name, bundle in bundles.items():
            if bundle.manifest.input_size == size:
                for table, found in compared(name, bundle, gallery, queries).items():
                    rows[table] += found
    result = {
        "title": "Base versions",
        "about": ABOUT,
        "command": "python -m benchmarks.base_versions",
        "seed": SEED,
        "machine": machine(),
        "tables": [
            {"title": "Held-out photos", "rows": rows["quality"]},
            {"title": "The same weights in smaller files", "rows": rows["smaller"]},
            {"title": "How they were trained", "rows": [_training(n, b) for n, b in bundles.items()]},
        ],
    }
    for row in rows["quality"] + rows["smaller"]:
        print(json.dumps(row))
    if not options.quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _encode_one(encoder: OnnxEncoder, pixels: NDArray[np.uint8], row: int) -> None:
    encoder.encode(pixels[row : row + 1])


def _training(name: str, bundle: Bundle) -> dict[str, Any]:
    training = bundle.manifest.training
    return {
        "version": name,
        "digest": bundle.digest[:12],
        "command": training["command"],
        "epochs": training["recipe"]["fit"]["epochs"],
        "seconds": training["seconds"],
        "precision": training["recipe"]["fit"].get("precision", "float32"),
        "seed": training["seed"],
        "data": training["data_fingerprint"][:12],
    }


if __name__ == "__main__":
    main()
