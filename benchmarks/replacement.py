"""May a newly trained base version take the place of the shipped one? Paired, on held-out photos.

Run as `python -m benchmarks.replacement --candidate DIR [--shipped DIR]`; writes
docs/results/bench_replacement.json. The rule: the lower bound of the two-stage mAP's difference is at least
-0.005, and the code stage alone is better; both over all queries of the sample catalogue, items ranked as the product
ranks them.
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import catalogue_data
from benchmarks.base_versions import ROOT, SEED, Photos, photos_of
from benchmarks.gallery_data import machine
from benchmarks.quality import ItemRanking, encoded, fused_scores
from ml.artifacts import Bundle, load_bundle
from ml.base_version.sets import Sources, open_packs, parts_of
from ml.data.packs import CATALOGUE_SPLITS, Pack
from ml.data.reserved import load_reserved
from ml.evaluation.hamming import hamming_values
from ml.evaluation.intervals import paired_interval
from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.evaluation.two_stage import CodedSet, answer_values, two_stage_scores
from ml.protocol import Encoder

RESULT = ROOT / "docs" / "results" / "bench_replacement.json"
ALLOWED_LOSS = 0.005  # of two-stage mAP, at the lower bound
CHUNK, QUERIES_AT_ONCE = 64, 256
ITEM_STAGES = {"two stages": (1, 1), "codes": (1, 0), "embeddings": (0, 1)}  # shares of code and embedding
STAGES = ("two stages, mAP", "two stages, Recall@1", "codes, mAP", "codes, Recall@1", "embeddings, mAP")
Values = NDArray[np.float64]


def measured(bundle: Bundle, gallery: Sources, queries: Sources) -> tuple[dict[str, Values], Photos]:
    """STAGES -> (Q,) values of each query, and the queries."""
    encoder, size = bundle.encoder(), bundle.manifest.input_size
    entries, asked = photos_of(gallery, size, 1), photos_of(queries, size, 1)
    names = np.unique(np.concatenate([entries.labels, asked.labels]))
    labels = np.searchsorted(names, asked.labels), np.searchsorted(names, entries.labels)
    (query_codes, query_vectors), (codes, vectors) = _encoded(encoder, asked), _encoded(encoder, entries)
    by_code = hamming_values(query_codes, labels[0], codes, labels[1])
    by_vector = retrieval_values(query_vectors, labels[0], vectors, labels[1])
    assert by_vector.map is not None
    both = _two_stages(
        CodedSet(signs_of(query_codes), query_vectors), CodedSet(signs_of(codes), vectors), labels, bundle
    )
    found = (both["map"], both["recall_at_1"], by_code.map, by_code.recall_at_1, by_vector.map)
    return dict(zip(STAGES, found, strict=True)), asked


def _two_stages(
    queries: CodedSet, gallery: CodedSet, labels: tuple[NDArray[np.intp], NDArray[np.intp]], bundle: Bundle
) -> dict[str, Values]:
    parts = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        scores = two_stage_scores(
            CodedSet(queries.signs[rows], queries.embeddings[rows]), gallery,
            np.zeros(len(gallery), np.int64), [bundle.calibration],
        )  # fmt: skip
        parts.append(answer_values(scores, labels[0][rows, None] == labels[1]))
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def _encoded(encoder: Encoder, photos: Photos) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    parts = [
        encoder.encode(photos.pixels[start : start + CHUNK]) for start in range(0, len(photos.pixels), CHUNK)
    ]
    return np.concatenate([p.packed_codes for p in parts]), np.concatenate([p.embeddings for p in parts])


def items_ranked(
    bundle: Bundle, entries: catalogue_data.Photos, queries: catalogue_data.Photos
) -> dict[str, Values]:
    """ITEM_STAGES -> (Q,): the sample catalogue as served, an item being as good as its best photo."""
    gallery, asked = encoded(bundle, entries), encoded(bundle, queries)
    ranking = ItemRanking(entries, queries)
    found: dict[str, Values] = {}
    for stage, (code, cosine) in ITEM_STAGES.items():
        first, precision = ranking.judged(fused_scores(bundle, gallery, asked, code=code, cosine=cosine))
        found |= {f"{stage}, mAP": precision, f"{stage}, Recall@1": first}
    return found


def product_rows(bundles: Sequence[Bundle]) -> list[dict[str, Any]]:
    """Differences over the sample catalogue's own held-out queries, all packs."""
    entries, queries = catalogue_data.sample_catalogue(bundles[0].manifest.input_size)
    new, old = (items_ranked(bundle, entries, queries) for bundle in bundles)
    clusters = np.where(np.isin(queries.packs, catalogue_data.ITEM_PACKS), queries.items, queries.categories)
    asked = Photos(queries.pixels, np.char.add(np.char.add(queries.packs, ":"), clusters), queries.packs)
    return differences(new, old, asked)


def compared(bundles: Sequence[Bundle], gallery: Sources, queries: Sources) -> list[dict[str, Any]]:
    """`differences` of the first bundle against the second."""
    (new, asked), (old, _) = (measured(bundle, gallery, queries) for bundle in bundles)
    return differences(new, old, asked)


def reserved_entries(packs: Sequence[Pack]) -> Sources:
    """The catalogue's photos of reserved classes."""
    reserved = load_reserved()
    return [
        (pack, record)
        for pack in packs
        for record in pack.records(*CATALOGUE_SPLITS)
        if reserved.is_reserved(pack.name, record.label)
    ]


def differences(new: dict[str, Values], old: dict[str, Values], asked: Photos) -> list[dict[str, Any]]:
    """A row per stage and pack: both means, and new - old with an interval clustered by label."""
    clusters = np.unique(asked.labels, return_inverse=True)[1].astype(np.int64)
    rows = []
    for stage in new:
        for pack in [*sorted(set(asked.packs.tolist())), "all"]:
            chosen = (asked.packs == pack) | (pack == "all")
            change = paired_interval(new[stage][chosen], old[stage][chosen], clusters[chosen], seed=SEED)
            rows.append(
                {
                    "stage": stage, "pack": pack, "queries": int(chosen.sum()),
                    "shipped": float(np.nanmean(old[stage][chosen])),
                    "candidate": float(np.nanmean(new[stage][chosen])),
                    "difference": change.value, "interval": [change.low, change.high],
                }
            )  # fmt: skip
    return rows


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the candidate may take the shipped one's place, and by which figures."""
    overall = {row["stage"]: row for row in rows if row["pack"] == "all"}
    two_stages, codes = overall["two stages, mAP"], overall["codes, mAP"]
    return {
        "two-stage mAP, low of difference": two_stages["interval"][0],
        "at least": -ALLOWED_LOSS,
        "codes, mAP difference": codes["difference"],
        "above": 0.0,
        "may replace": two_stages["interval"][0] >= -ALLOWED_LOSS and codes["difference"] > 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replacement", description=__doc__)
    parser.add_argument("--candidate", type=Path, required=True, metavar="DIR")
    parser.add_argument("--shipped", type=Path, default=ROOT / "ml" / "weights" / "default", metavar="DIR")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE.json")
    options = parser.parse_args()
    packs = open_packs([options.data])
    parts = parts_of(packs, load_reserved())
    bundles = [load_bundle(options.candidate), load_bundle(options.shipped)]
    rows = product_rows(bundles)
    photos = compared(bundles, parts.gallery, parts.queries)
    with_reserved = [*parts.gallery, *reserved_entries(packs)]
    result = {
        "title": "A twin-bottleneck base version against the one that shipped",
        "about": (
            "Both search the sample catalogue with its held-out photos: items as the product ranks and judges them "
            "(`catalog` was never trained on), then photos by label, then reserved classes. The recipe was chosen on "
            "validation queries; these test queries decide only whether it may ship."
        ),
        "command": "python -m benchmarks.replacement --candidate DIR --shipped DIR",
        "seed": SEED,
        "machine": machine(),
        "tables": [
            {"title": "Verdict", "rows": [verdict(rows)]},
            {"title": "Items of the sample catalogue, by stage and pack", "rows": rows},
            {"title": "Its photos by label, trained packs alone", "rows": photos},
            {
                "title": "Reserved classes, never trained on, among all entries",
                "rows": compared(bundles, with_reserved, parts.reserved),
            },
            {
                "title": "The two",
                "rows": [_made(name, b) for name, b in zip(("candidate", "shipped"), bundles)],
            },
        ],
    }
    print(json.dumps(verdict(rows), indent=1))
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _made(name: str, bundle: Bundle) -> dict[str, Any]:
    training = bundle.manifest.training
    return {
        "version": name, "digest": bundle.digest[:12], "method": bundle.manifest.method, "bytes": len(bundle.graph),
        "command": training["command"], "seconds": training["seconds"], "seed": training["seed"],
        "data": training["data_fingerprint"][:12],
    }  # fmt: skip


if __name__ == "__main__":
    main()
