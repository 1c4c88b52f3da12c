"""Thirty increments of two categories in a row, and what they leave behind: memory, time, statistics, many producers.

Run by `benchmarks.learning_speed` in a shop's surroundings; prints one JSON object of rows.
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import django

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from django.db.models import Count, Q  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.gallery_data import entries_of, items_of, medians_ms, mixlow  # noqa: E402
from benchmarks.learning_shop import resident_megabytes  # noqa: E402
from ml.evaluation.intervals import paired_interval  # noqa: E402
from ml.protocol import Calibration  # noqa: E402
from ml.retrieval import two_stage  # noqa: E402
from ml.retrieval.columns import EntryColumns  # noqa: E402
from ml.retrieval.two_stage import QueryVectors, SearchOutcome  # noqa: E402
from ml.retrieval.view import GalleryView  # noqa: E402
from searchapp.models import Category, CodeGram, CodeTally, Item  # noqa: E402
from searchapp.services import index_audit, intake, measuring, serving, versions  # noqa: E402
from searchapp.services.gallery_columns import read_entries, read_items  # noqa: E402
from searchapp.services.held_out import HeldOut, held_out_queries  # noqa: E402
from searchapp.services.jobs import job_run_here  # noqa: E402
from searchapp.services.learning import learn_ask, learn_start, version_in_use  # noqa: E402

SEED = 24
LEAST_PHOTOS, MOST_PHOTOS = 8, 100
ASKED = 600  # held-out photos of the categories that are known from the start
SEARCHES, ROUNDS, K = 100, 3, 24
LARGE = 100_000
Values = NDArray[np.float64]


def newcomers(number: int) -> list[Category]:
    """Categories of LEAST_PHOTOS to MOST_PHOTOS photos with held-out ones among them, in an order that is chance."""
    has_photos = Count("items__images", filter=Q(items__images__failure=""), distinct=True)
    rows = Category.objects.annotate(photos=has_photos, asked=Count("evaluation_queries", distinct=True))
    fitting = rows.filter(photos__gte=LEAST_PHOTOS, photos__lte=MOST_PHOTOS, asked__gte=1)
    return sorted(fitting, key=lambda category: sha256(f"{SEED}:{category.slug}".encode()).hexdigest())[
        :number
    ]


class Drift:
    """The same held-out photos of known categories, asked again and again."""

    def __init__(self, apart_from: Sequence[Category]) -> None:
        new = {category.pk for category in apart_from}
        self.queries: list[HeldOut] = [query for query in held_out_queries() if query.category_id not in new][
            :ASKED
        ]
        self.items = np.array([query.cluster for query in self.queries], np.int64)
        self.first: Mapping[str, Values] = {}

    def row(self, increments: int) -> dict[str, Any]:
        version = version_in_use()
        assert version is not None
        values = measuring.version_answers(version, self.queries)
        self.first = self.first or values
        row: dict[str, Any] = {
            "increments": increments, "version": version.name, "photos": len(self.queries),
            "items": len(np.unique(self.items)), "entries": len(read_entries(version)),
        }  # fmt: skip
        for metric in ("map", "recall_at_1"):
            change = paired_interval(values[metric], self.first[metric], self.items, seed=SEED)
            row[metric] = round(float(np.nanmean(values[metric])), 4)
            row[f"{metric}_change"] = round(change.value, 4)
            row[f"{metric}_change_over_items"] = [round(change.low, 4), round(change.high, 4)]
        return row


def step(number: int, pair: Sequence[Category]) -> dict[str, Any]:
    """One increment in this process, as `learn_categories --wait` runs it, and a look at what it left."""
    began = time.perf_counter()
    job = job_run_here(learn_start(user=None, categories=[category.slug for category in pair]))
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    report = index_audit.audit()
    audited = time.perf_counter() - began
    serving.follow_once()
    row = {
        "increment": number, "photos": None, "seconds": round(seconds, 2), "training_s": None,
        "audit_s": round(audited, 2), "audit_clean": report.is_clean, "process_mb": round(resident_megabytes(), 1),
        "statistics_bytes": statistics_bytes(), "old_codes": None, "changed": None,
        "old_map_gain": None, "new_map_gain": None, "new_recall_at_1_gain": None, "refused": None,
    }  # fmt: skip
    if job.state != "done" or job.result is None:
        return row | {"refused": (job.error or job.state)[:200]}
    result = job.result
    return row | {
        "photos": result["photos"],
        "training_s": result["training_seconds"],
        "old_codes": result["old_codes_checked"],
        "changed": result["old_codes_changed"],
        "old_map_gain": result["old_queries"].get("map_gain"),
        "new_map_gain": result["new_queries"].get("map_gain"),
        "new_recall_at_1_gain": result["new_queries"].get("recall_at_1_gain"),
    }


def statistics_bytes() -> int:
    sums = sum(len(tally.code_sum) for tally in CodeTally.objects.iterator())
    return sums + sum(len(row.gram) for row in CodeGram.objects.iterator())


def flat_rows(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each figure: its slope over the increments after the first, and its last five against its first five.

    The first increment is left out: it also counts the stock's codes and teaches the catalogue's first words.
    """
    later = [row for row in steps[1:] if row["refused"] is None]
    rows = []
    for key in ("seconds", "training_s", "audit_s", "process_mb", "statistics_bytes"):
        values = np.array([row[key] for row in later], float)
        slope = float(np.polyfit(np.arange(len(values)), values, 1)[0])
        rows.append(
            {
                "figure": key.replace("_", " "), "first": steps[0][key], "median": float(np.median(values)),
                "slope_per_increment": slope, "slope_of_median": slope / float(np.median(values)),
                "last_5_of_first_5": float(np.median(values[-5:]) / np.median(values[:5])),
                "max_of_min": float(values.max() / values.min()),
            }
        )  # fmt: skip
    return rows


def producer_rows() -> list[dict[str, Any]]:
    """The gallery as the increments left it, and the very same entries as if one version had made them all."""
    arm = serving.follow_once().champion
    entries, items = read_entries(arm.version), read_items()
    queries = [query for query in held_out_queries() if _exists(query)][:SEARCHES]
    asked = []
    for query in queries:
        encoded = arm.encoder.encode(
            intake.stored_pixels(query.path, input_size=arm.encoder.input_size)[None]
        )
        asked.append(QueryVectors(encoded.packed_codes[0], encoded.embeddings[0]))
    several, one = GalleryView.build(entries, items), GalleryView.build(_by_one(entries), items)
    rows = _timed("this gallery", {"one": one, "several": several}, asked, arm.calibrations)
    return rows + _large_rows(len(several.pools), next(iter(arm.calibrations.values())))


def _large_rows(producers: int, calibration: Calibration) -> list[dict[str, Any]]:
    """Made-up codes and embeddings: what many entries cost, nothing of quality."""
    mixture = mixlow(LARGE, SEARCHES, seed=SEED)
    entries = entries_of(mixture, mixture.codes(mixture.embeddings))
    items = items_of(np.zeros(LARGE, np.int32))
    names = tuple(f"1.{number}" for number in range(producers))
    # As a chain of increments leaves it: a large stock of the first, little of each that came later.
    shares = np.array([0.7, *([0.3 / (producers - 1)] * (producers - 1))])
    made_by = np.random.default_rng(SEED).choice(producers, LARGE, p=shares).astype(np.int16)
    several = replace(entries, producers=made_by, producer_names=names)
    views = {"one": GalleryView.build(entries, items), "several": GalleryView.build(several, items)}
    packed = mixture.codes(mixture.queries)
    asked = [QueryVectors(code, vector) for code, vector in zip(packed, mixture.queries)]
    return _timed(f"{LARGE:,} made-up entries", views, asked, dict.fromkeys(names, calibration))


def _timed(
    name: str,
    views: Mapping[str, GalleryView],
    asked: Sequence[QueryVectors],
    calibrations: Mapping[str, Calibration],
) -> list[dict[str, Any]]:
    def search(view: GalleryView, number: int) -> SearchOutcome:
        return two_stage.search(view, asked[number], k=K, calibrations=calibrations)

    calls: dict[str, Callable[[int], object]] = {key: partial(search, view) for key, view in views.items()}
    taken = medians_ms(calls, queries=len(asked), rounds=ROUNDS)
    found = {key: [search(view, number) for number in range(len(asked))] for key, view in views.items()}
    best = {key: [outcome.hits[0].item_id for outcome in own] for key, own in found.items()}
    return [
        {
            "gallery": name, "entries": len(view), "producers": len(view.pools), "p50_ms": taken[key],
            "of_one_producer": taken[key] / taken["one"],
            "candidates": float(np.median([outcome.considered for outcome in found[key]])),
            "same_best_item": float(np.mean([own == other for own, other in zip(best[key], best["one"])])),
        }
        for key, view in views.items()
    ]  # fmt: skip


def _by_one(entries: EntryColumns) -> EntryColumns:
    name = entries.producer_names[0]
    return replace(entries, producers=np.zeros(len(entries), np.int16), producer_names=(name,))


def _exists(query: HeldOut) -> bool:
    return Path(settings.MEDIA_ROOT, query.path).exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("increments", type=int)
    options = parser.parse_args()
    versions.default_version_ensure()
    new = newcomers(2 * options.increments)
    drift = Drift(new)
    learn_ask(new)
    changes, steps = [drift.row(0)], []
    for number in range(1, options.increments + 1):
        steps.append(step(number, new[2 * number - 2 : 2 * number]))
        if number % 10 == 0:
            changes.append(drift.row(number))
    found = {
        "flat": flat_rows(steps), "drift": changes, "producers": producer_rows(), "steps": steps,
        "items": Item.objects.count(), "categories": len(new),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
