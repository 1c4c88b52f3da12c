"""How good the answers are: held-out queries of the sample catalogue, beside three answers that need no training.

Run as `python -m benchmarks.quality [--quick]`; writes docs/results/bench_quality.json (not with --quick).
"""

from benchmarks import catalogue_data  # isort: skip  sets Django up

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings
from numpy.typing import NDArray
from PIL import Image

from benchmarks.catalogue_data import CATEGORY_PACKS, ITEM_PACKS, Photos
from benchmarks.gallery_data import machine
from ml.artifacts import Bundle, load_bundle
from ml.evaluation.intervals import clustered_interval
from ml.evaluation.metrics import Ranking, average_precision, recall_at
from ml.models.encoder import ImageEncoder
from ml.protocol import Encoded, hamming_to_similarity
from ml.retrieval import two_stage
from ml.retrieval.columns import EntryColumns, ItemColumns
from ml.retrieval.scoring import Strength
from ml.retrieval.two_stage import QueryVectors
from ml.retrieval.view import GalleryView

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "bench_quality.json"
SEED = 0
FALSE_STRONG_LIMIT = 0.05
QUICK_EVERY = 10
ABOUT = (
    "The sample catalogue (all packs together, reserved classes left out) is searched with its held-out photos; items "
    "are ranked by their best photo. Relevant is the same item (grocery, places_indoor) or any item of the same leaf "
    "category (clothing, catalog): the two kinds are never averaged. `full` is the product's own answer: two-stage "
    "search, calibrated score; the other rows rank every photo. mAP is over items, equal scores in expectation. "
    "Intervals: 95 %, bootstrap over items (item packs) or categories (category packs). Colour histogram: HSV, "
    "8 x 4 x 4 bins, intersection. Random weights: the same network untrained, its batch statistics taken from the "
    "catalogue. Category prior: one answer for all questions of a pack, items of its most frequent category first. "
    "False alarms: photos of reserved classes and places, of which the catalogue holds nothing; there a "
    "`strong` first answer is false."
)

Scores = NDArray[np.float32]
Chunks = Iterator[tuple[slice, Scores]]
CHUNK = 256


def encoded(bundle: Bundle, photos: Photos) -> Encoded:
    return bundle.encoder().encode(photos.pixels)


def fused_scores(
    bundle: Bundle, entries: Encoded, queries: Encoded, *, code: float = 1, cosine: float = 1
) -> Chunks:
    """Log-odds of every (query, entry) pair; `code` and `cosine` switch a part off."""
    calibration = bundle.calibration
    gallery = np.unpackbits(entries.packed_codes, axis=1).astype(np.float32)
    ones = gallery.sum(axis=1)
    for start in range(0, len(queries.embeddings), CHUNK):
        part = slice(start, start + CHUNK)
        asked = np.unpackbits(queries.packed_codes[part], axis=1).astype(np.float32)
        hamming = asked.sum(axis=1)[:, None] + ones[None] - 2 * asked @ gallery.T
        similarity = hamming_to_similarity(np.rint(hamming).astype(np.int32), gallery.shape[1])
        halves = entries.embeddings.astype(np.float16).astype(np.float32)
        cosines = queries.embeddings[part] @ halves.T
        yield (
            part,
            code * calibration.code_weight * similarity + cosine * calibration.embedding_weight * cosines,
        )


def histogram(photos: Photos) -> Scores:
    """(N, 128) HSV histograms, each summing to 1."""
    made = np.empty((len(photos), 128), np.float32)
    for row, pixels in enumerate(photos.pixels):
        hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.int32)
        bins = (hsv[..., 0] // 32) * 16 + (hsv[..., 1] // 64) * 4 + hsv[..., 2] // 64
        made[row] = np.bincount(bins.ravel(), minlength=128) / bins.size
    return made


def histogram_scores(entries: Photos, queries: Photos) -> Chunks:
    gallery, asked = histogram(entries), histogram(queries)
    for start in range(0, len(asked), CHUNK):
        part = slice(start, start + CHUNK)
        scores = np.zeros((len(asked[part]), len(gallery)), np.float32)
        for column in range(gallery.shape[1]):
            scores += np.minimum(asked[part, column][:, None], gallery[:, column][None])
        yield part, scores


def random_weight_scores(bundle: Bundle, entries: Photos, queries: Photos) -> Chunks:
    torch.manual_seed(SEED)
    network = ImageEncoder(bundle.manifest.encoder_config)

    def embeddings(photos: Photos) -> Scores:
        parts = []
        for start in range(0, len(photos), CHUNK):
            pixels = torch.from_numpy(photos.pixels[start : start + CHUNK]).permute(0, 3, 1, 2).float() / 255
            parts.append(network(pixels)[1].numpy())
        return np.concatenate(parts)

    with torch.no_grad():
        network.train()
        embeddings(entries.taken(np.arange(0, len(entries), 4)))  # batch statistics
        network.eval()
        gallery, asked = embeddings(entries), embeddings(queries)
    for start in range(0, len(asked), CHUNK):
        part = slice(start, start + CHUNK)
        yield part, asked[part] @ gallery.T


def prior_scores(entries: Photos, queries: Photos) -> Chunks:
    """Knows which pack is asked, and nothing of the picture."""
    frequent = Counter(entries.categories.tolist())
    counts = np.array([frequent[category] for category in entries.categories.tolist()], np.float32)
    of_pack = {pack: np.where(entries.packs == pack, counts, 0) for pack in set(queries.packs.tolist())}
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        yield part, np.stack([of_pack[pack] for pack in queries.packs[part].tolist()])


class ItemRanking:
    """Turns scores of entries into rankings of items, and these into Recall@1 and average precision per query."""

    def __init__(self, entries: Photos, queries: Photos) -> None:
        self.order = np.argsort(entries.items, kind="stable")
        names, self.starts = np.unique(entries.items[self.order], return_index=True)
        self.names = names
        self.categories = entries.categories[self.order][self.starts]
        self.ids = np.arange(len(names), dtype=np.int64)
        self.queries = queries

    def judged(self, chunks: Chunks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(Recall@1, average precision), each (Q,); NaN where the catalogue holds nothing relevant."""
        first, precision = np.full(len(self.queries), np.nan), np.full(len(self.queries), np.nan)
        for part, scores in chunks:
            items = np.maximum.reduceat(scores[:, self.order], self.starts, axis=1)
            for offset, own in enumerate(items):
                row = part.start + offset
                ranking = Ranking.of(own, self.relevant(row), self.ids, label=1)
                first[row], precision[row] = recall_at(ranking, 1), average_precision(ranking)
        return first, precision

    def relevant(self, row: int) -> NDArray[np.int64]:
        by_item = self.queries.packs[row] in ITEM_PACKS
        same = (
            self.names == self.queries.items[row]
            if by_item
            else self.categories == self.queries.categories[row]
        )
        relevant: NDArray[np.int64] = same.astype(np.int64)
        return relevant


def view_of(entries: Photos, made: Encoded) -> GalleryView:
    """The catalogue as the product's own view; an item's id is its place among the sorted SKUs."""
    names, item_ids = np.unique(entries.items, return_inverse=True)
    ids = np.arange(len(entries), dtype=np.int64)
    columns = EntryColumns(
        ids, ids, item_ids.astype(np.int64), np.zeros(len(entries), np.int16), made.packed_codes,
        made.embeddings.astype(np.float16), ("1.0",),
    )  # fmt: skip
    nothing = [0] * len(names)
    items = ItemColumns.of(range(len(names)), nothing, nothing, [None] * len(names))
    return GalleryView.build(columns, items)


def served_first(bundle: Bundle, view: GalleryView, asked: Encoded) -> list[tuple[int, Strength]]:
    """(item id, strength) of the first answer to each query."""
    found = []
    for code, embedding in zip(asked.packed_codes, asked.embeddings):
        outcome = two_stage.search(
            view, QueryVectors(code, embedding), k=1, calibrations={"1.0": bundle.calibration}
        )
        found.append((outcome.hits[0].item_id, outcome.hits[0].strength))
    return found


def quality_rows(
    queries: Photos,
    packs: tuple[str, ...],
    judged: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> list[dict[str, Any]]:
    rows = []
    for pack in (*packs, "all"):
        chosen = np.isin(queries.packs, packs if pack == "all" else (pack,))
        clusters = queries.items if packs == ITEM_PACKS else queries.categories
        _, cluster_ids = np.unique(clusters[chosen], return_inverse=True)
        for method, (first, precision) in judged.items():
            row: dict[str, Any] = {
                "pack": pack,
                "method": method,
                "queries": int((~np.isnan(precision[chosen])).sum()),
            }
            for name, values in (("recall_at_1", first[chosen]), ("map", precision[chosen])):
                interval = clustered_interval(values, cluster_ids.astype(np.int64), seed=SEED)
                row |= {name: interval.value, f"{name}_interval": [interval.low, interval.high]}
            rows.append(row)
    return rows


def false_alarm_rows(bundle: Bundle, view: GalleryView, photos: Photos) -> list[dict[str, Any]]:
    found = served_first(bundle, view, encoded(bundle, photos))
    strong = np.array([float(strength == "strong") for _, strength in found])
    fair = np.array([float(strength == "fair") for _, strength in found])
    rows = []
    names = sorted(set(photos.packs.tolist()))
    for pack in [*names, *(["all"] if len(names) > 1 else [])]:
        chosen = np.ones(len(photos), np.bool_) if pack == "all" else photos.packs == pack
        _, clusters = np.unique(photos.items[chosen], return_inverse=True)
        interval = clustered_interval(strong[chosen], clusters.astype(np.int64), seed=SEED)
        rows.append(
            {
                "photos_of": pack,
                "queries": int(chosen.sum()),
                "classes": interval.clusters,
                "strong": interval.value,
                "strong_interval": [interval.low, interval.high],
                "fair": float(fair[chosen].mean()),
                "at_most_5_percent": interval.value <= FALSE_STRONG_LIMIT,
            }
        )
    return rows


def strong_rows(
    queries: Photos, found: list[tuple[int, Strength]], right: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """What the words are worth on held-out queries: how often a first answer so called is right."""
    words = np.array([strength for _, strength in found])
    rows = []
    for kind, packs in (("item", ITEM_PACKS), ("category", CATEGORY_PACKS)):
        asked = np.isin(queries.packs, packs) & ~np.isnan(right)
        for word in ("strong", "fair", "weak"):
            chosen = asked & (words == word)
            count = int(chosen.sum())
            is_right = float(right[chosen].mean()) if count else None
            rows.append(
                {
                    "relevance": kind,
                    "strength": word,
                    "share": count / int(asked.sum()),
                    "right_when_said": is_right,
                }
            )
    return rows


def served_judged(ranking: ItemRanking, found: list[tuple[int, Strength]]) -> NDArray[np.float64]:
    right = np.full(len(found), np.nan)
    for row, (item_id, _) in enumerate(found):
        relevant = ranking.relevant(row)
        if relevant.any():
            right[row] = float(relevant[item_id])
    return right


def measured(bundle: Bundle, *, every: int, tell: Callable[[str], None]) -> dict[str, Any]:
    size = bundle.manifest.input_size
    entries, queries = catalogue_data.sample_catalogue(size, every=every)
    tell(
        f"{len(entries)} photos of {len(set(entries.items.tolist()))} items, {len(queries)} held-out queries"
    )
    made, asked = encoded(bundle, entries), encoded(bundle, queries)
    ranking = ItemRanking(entries, queries)
    methods: dict[str, Chunks] = {
        "full": fused_scores(bundle, made, asked),
        "codes alone": fused_scores(bundle, made, asked, cosine=0),
        "embeddings alone": fused_scores(bundle, made, asked, code=0),
        "random weights": random_weight_scores(bundle, entries, queries),
        "colour histogram": histogram_scores(entries, queries),
        "category prior": prior_scores(entries, queries),
    }
    judged = {}
    for name, chunks in methods.items():
        judged[name] = ranking.judged(chunks)
        tell(f"{name}: Recall@1 {np.nanmean(judged[name][0]):.3f}")
    view = view_of(entries, made)
    found = served_first(bundle, view, asked)
    right = served_judged(ranking, found)
    # The first answer as it is served; the whole ranking, which nobody is shown, exhaustively.
    judged["full"] = (right, judged["full"][1])
    tell(f"served: Recall@1 {np.nanmean(right):.3f}")
    return {
        "tables": [
            {
                "title": "Same item (grocery, places_indoor)",
                "rows": quality_rows(queries, ITEM_PACKS, judged),
            },
            {
                "title": "Same leaf category (clothing, catalog)",
                "rows": quality_rows(queries, CATEGORY_PACKS, judged),
            },
            {"title": "What the words are worth", "rows": strong_rows(queries, found, right)},
            {
                "title": "False alarms on reserved classes",
                "note": "Limit: at most 5 % `strong` over all.",
                "rows": false_alarm_rows(bundle, view, catalogue_data.reserved_photos(size, every=every)),
            },
            {
                "title": "Unclassed clothing photos",
                "note": "Reported only: the catalogue may hold what they show.",
                "rows": false_alarm_rows(bundle, view, catalogue_data.distractors(size, every=every)),
            },
        ]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the photos; writes nothing")
    parser.add_argument("--bundle", type=Path, default=settings.DEFAULT_BUNDLE)
    options = parser.parse_args()
    started = time.perf_counter()
    bundle = load_bundle(options.bundle)
    torch.set_num_threads(1)

    def tell(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", flush=True)

    content = measured(bundle, every=QUICK_EVERY if options.quick else 1, tell=tell)
    result = {
        "title": "Quality of the shipped version",
        "about": ABOUT,
        "command": "python -m benchmarks.quality",
        "seed": SEED,
        "machine": {
            **machine(),
            "bundle": bundle.digest[:12],
            "seconds": round(time.perf_counter() - started, 1),
        },
        **content,
    }
    print(json.dumps(result["tables"], indent=1))
    if not options.quick:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
