"""Which altered copies of catalogue photos are found, how many other photos are taken for copies, and what it costs.

Run as `python -m benchmarks.near_duplicates [--quick]`; writes docs/results/bench_near_duplicates.json (not with
--quick).
"""

from benchmarks import catalogue_data  # isort: skip  sets Django up

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from django.conf import settings
from django.core.management import call_command
from numpy.typing import NDArray

from benchmarks.altered_copies import ALTERATIONS, SLIGHT, altered
from benchmarks.gallery_data import machine
from ml.artifacts import load_bundle
from ml.protocol import Encoder
from searchapp.models import Item
from searchapp.services import catalogue, import_reading, importing, intake
from searchapp.services.import_sources.detection import ImportOptions, source_in_folder
from searchapp.services.import_sources.records import ItemRecord
from searchapp.services.jobs import job_run_here
from searchapp.services.near_duplicates import LEAST_COSINE, LEAST_LIKENESS, LOOKED_AT
from searchapp.services.sketches import likeness, sketch_of, sketch_of_file

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "bench_near_duplicates.json"
SEED = 0
COPIED_EVERY = 8  # each so many-th photo is altered in every way
QUICK_EVERY = 10
COSINES = (0.80, 0.85, 0.90)
LIKENESSES = (0.97, 0.975, 0.98, 0.985)
BITS_LIMIT = 16
GALLERY, IMPORTED, ROUNDS = 5_000, 1_000, 5
ABOUT = (
    "A new photo is a copy of a photo of another item when the cosine of the two embeddings is at least "
    f"{LEAST_COSINE} and the correlation of the two pictures, squeezed to 32 x 32, with one of them cut a little, at "
    f"least {LEAST_LIKENESS}; of the nearest {LOOKED_AT} photos the most alike counts. Every {COPIED_EVERY}th photo "
    "of the sample catalogue was altered, stored as an upload is, and compared with all photos: `found` is the share "
    "whose original was found. `false` are photos that look like one of another item by the same rule; no two photos "
    "of the sample packs are the same file, so each counts as a false alarm, though some show two of a kind in one "
    "pose. The same content needs no such rule and is always found."
)

COST_NOTE = (
    "The same photos are imported in turn with the comparison and without it, and deleted in between; none of them is "
    "in the gallery. SQLite, embedded. The comparison may cost a tenth of the rate."
)


@dataclass(frozen=True, slots=True)
class Photos:
    """items (N,) by name; codes (N, L // 8); embeddings (N, D) float32; sketches of photos as they come in and as
    they are read again from the thumbnail, (N, 32, 32, 3) each.
    """

    items: NDArray[np.str_]
    codes: NDArray[np.uint8]
    embeddings: NDArray[np.float32]
    new: NDArray[np.uint8]
    stored: NDArray[np.uint8]


def photos_of(uploads: Iterable[bytes], items: Sequence[str], encoder: Encoder) -> Photos:
    """Each upload through intake, encoder and sketch as an import does it."""
    rows = []
    for data in uploads:
        clean = intake.image_clean(data)
        pixels = intake.pixels_of_stored(clean.data, input_size=encoder.input_size)
        encoded = encoder.encode(pixels[None])
        half = encoded.embeddings[0].astype("<f2").astype(np.float32)
        rows.append((encoded.packed_codes[0], half, sketch_of(pixels), sketch_of_file(clean.thumbnail)))
    codes, embeddings, new, stored = (np.stack(column) for column in zip(*rows, strict=True))
    return Photos(np.array(items), codes, embeddings, new, stored)


def uploads(*, every: int) -> tuple[list[bytes], list[str], list[str]]:
    """The sample catalogue's photos, their items and categories; reserved classes left out, as in the product."""
    data, items, categories = [], [], []
    for pack in catalogue_data.PACKS:
        source = source_in_folder(catalogue_data.data_folder() / pack, options=ImportOptions(), name=pack)
        records = [record for record in source.records() if isinstance(record, ItemRecord)]
        photos = [(record, photo) for record in records for photo in record.photos]
        for record, photo in photos[::every]:
            data.append(source.read(photo))
            items.append(record.sku)
            categories.append(record.category)
    return data, items, categories


@dataclass(frozen=True, slots=True)
class Compared:
    """Of each photo its nearest photos of other items: rows (n, k) in the catalogue, cosine, bits, likeness."""

    rows: NDArray[np.intp]
    cosines: NDArray[np.float32]
    bits: NDArray[np.int_]
    alike: NDArray[np.float32]

    def hit(self, rule: "Rule") -> NDArray[np.intp]:
        """The row that the rule gives each photo, -1 for none."""
        passes = (self.cosines >= rule.cosine) & (self.bits <= rule.bits)
        counted = np.where(passes, self.cosines if rule.likeness is None else self.alike, -1)
        best = counted.argmax(axis=1)
        each = np.arange(len(best))
        return np.where(counted[each, best] >= (rule.likeness or 0), self.rows[each, best], -1)


@dataclass(frozen=True, slots=True)
class Rule:
    """Thresholds; without a likeness the embedding decides alone."""

    cosine: float
    likeness: float | None
    bits: int = 1000

    @property
    def name(self) -> str:
        parts = [f"cosine {self.cosine:g}"]
        parts += [f"likeness {self.likeness:g}"] if self.likeness is not None else []
        parts += [f"at most {self.bits} bits"] if self.bits < 1000 else []
        return ", ".join(parts)


USED = Rule(LEAST_COSINE, LEAST_LIKENESS)
RULES = (
    *(Rule(cosine, alike) for cosine in COSINES for alike in LIKENESSES),
    Rule(LEAST_COSINE, LEAST_LIKENESS, BITS_LIMIT),
    *(Rule(cosine, None) for cosine in (0.90, 0.95, 0.97)),
    Rule(0.95, None, BITS_LIMIT),
)


def compared(photos: Photos, stored: Photos) -> Compared:
    """Photos with an item of their own ("" for a copy) against those stored."""
    rows, cosines, bits, alike = [], [], [], []
    for number, item in enumerate(photos.items):
        similar = stored.embeddings @ photos.embeddings[number]
        similar[stored.items == item] = -1
        nearest = np.argsort(-similar, kind="stable")[:LOOKED_AT]
        rows.append(nearest)
        cosines.append(similar[nearest])
        bits.append(np.bitwise_count(stored.codes[nearest] ^ photos.codes[number]).sum(axis=1))
        # Only those that the lowest cosine tried lets through are ever looked at.
        close = similar[nearest] >= min(COSINES)
        likenesses = np.full(LOOKED_AT, -1, np.float32)
        likenesses[close] = likeness(photos.new[number], stored.stored[nearest[close]])
        alike.append(likenesses)
    return Compared(np.stack(rows), np.stack(cosines), np.stack(bits), np.stack(alike))


def copies_rows(
    copies: dict[str, Compared], originals: NDArray[np.intp], apart: dict[str, NDArray[np.float64]]
) -> list[dict[str, Any]]:
    """Per alteration; `apart` is the (cosine, bits) of each copy and its original."""
    rows = []
    for name, found in copies.items():
        hits = found.hit(USED)
        cosines, bits = apart[name].T
        rows.append(
            {
                "copy": name,
                "slight": name in SLIGHT,
                "found": float((hits == originals).mean()),
                "another found": float(((hits >= 0) & (hits != originals)).mean()),
                "cosine, median": float(np.median(cosines)),
                "cosine, lowest 5 %": float(np.percentile(cosines, 5)),
                "bits, median": int(np.median(bits)),
                "bits, highest 5 %": int(np.percentile(bits, 95)),
            }
        )
    return rows


def rule_rows(
    copies: dict[str, Compared], originals: NDArray[np.intp], others: Compared
) -> list[dict[str, Any]]:
    rows = []
    for rule in RULES:
        shares = {name: float((found.hit(rule) == originals).mean()) for name, found in copies.items()}
        rows.append(
            {
                "rule": rule.name,
                "used": rule == USED,
                "found of slight copies": float(np.mean([shares[name] for name in SLIGHT])),
                "found of all copies": float(np.mean(list(shares.values()))),
                "false per 1,000 photos": 1000 * float((others.hit(rule) >= 0).mean()),
            }
        )
    return rows


def false_rows(others: Compared, photos: Photos, categories: Sequence[str]) -> list[dict[str, Any]]:
    """Photos taken for a copy, by pack; the gallery holds all others, so both of a pair count."""
    hits = others.hit(USED)
    packs = np.array([item.partition(":")[0] for item in photos.items])
    named = np.array(categories)
    rows = []
    for pack in dict.fromkeys(packs.tolist()):
        own = np.flatnonzero(packs == pack)
        false = own[hits[own] >= 0]
        rows.append(
            {
                "pack": pack,
                "photos": len(own),
                "false": len(false),
                "false per 1,000": 1000 * len(false) / len(own),
                "of these of the same category": int((named[false] == named[hits[false]]).sum()),
            }
        )
    return rows


def cost_rows(data: Sequence[bytes], *, quick: bool) -> list[dict[str, Any]]:
    """Seconds of imports into a gallery, with the comparison and without it, in turn."""
    gallery, imported, rounds = (500, 100, 2) if quick else (GALLERY, IMPORTED, ROUNDS)
    work = Path(settings.DATA_DIR)
    call_command("migrate", verbosity=0)
    _import_folder(_folder(work / "gallery", data[:gallery]))
    source = _folder(work / "new", data[gallery : gallery + imported])
    clocks: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    found = 0
    for _ in range(rounds):
        for name, times in clocks.items():
            with nullcontext() if name == "with" else _not_compared():
                wall, cpu = time.perf_counter(), time.process_time()
                result = _import_folder(source)
                times.append((time.perf_counter() - wall, time.process_time() - cpu))
            found = max(found, result["duplicates_found"])
            catalogue.items_delete(items=Item.objects.filter(sku__startswith="new"))
    wall_of, cpu_of = (
        {name: statistics.median(pair[which] for pair in times) for name, times in clocks.items()}
        for which in (0, 1)
    )
    return [
        {
            "photos in the gallery": gallery,
            "photos imported": imported,
            "photos/s with": imported / wall_of["with"],
            "photos/s without": imported / wall_of["without"],
            "rate kept": wall_of["without"] / wall_of["with"],
            "rate kept, by processor time": cpu_of["without"] / cpu_of["with"],
            "pairs found": found,
        }
    ]


@contextmanager
def _not_compared() -> Iterator[None]:
    """As the import was before: no sketches, no comparison."""
    with (
        mock.patch.object(import_reading, "sketch_of", return_value=None),
        mock.patch.object(importing, "chunk_compare", return_value=[]),
    ):
        yield


def _folder(folder: Path, data: Sequence[bytes]) -> Path:
    for number, upload in enumerate(data):
        target = folder / f"{folder.name} {number // 100}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(upload)
    return folder


def _import_folder(folder: Path) -> dict[str, Any]:
    job = job_run_here(importing.import_start(source=str(folder)))
    if job.state != "done" or job.result is None:
        raise RuntimeError(f"the import {job.state}: {job.error}")
    return dict(job.result)


def measured(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    encoder = load_bundle(settings.DEFAULT_BUNDLE).encoder()
    data, items, categories = uploads(every=QUICK_EVERY if quick else 1)
    photos = photos_of(data, items, encoder)
    tell(f"{len(photos.items):,} photos encoded")
    others = compared(photos, photos)
    originals = np.arange(0, len(data), COPIED_EVERY)
    copies, apart = {}, {}
    for name, (alter, quality) in ALTERATIONS.items():
        changed = [altered(data[row], alter, quality) for row in originals]
        copy = photos_of(changed, [""] * len(changed), encoder)
        copies[name] = compared(copy, photos)
        cosines = np.vecdot(copy.embeddings, photos.embeddings[originals])
        bits = np.bitwise_count(copy.codes ^ photos.codes[originals]).sum(axis=1)
        apart[name] = np.stack([cosines, bits], axis=1).astype(np.float64)
        tell(f"{name}: {(copies[name].hit(USED) == originals).mean():.3f}")
    return [
        {
            "title": f"Copies found, of {len(originals):,} photos each",
            "rows": copies_rows(copies, originals, apart),
        },
        {
            "title": "Rules tried",
            "note": "Codes are no part of the rule: a limit on bits finds less and spares hardly any false alarm.",
            "rows": rule_rows(copies, originals, others),
        },
        {
            "title": "Photos of the sample catalogue that look like one of another item",
            "rows": false_rows(others, photos, categories),
        },
        {"title": "Rate of an import", "note": COST_NOTE, "rows": cost_rows(data, quick=quick)},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.near_duplicates", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the photos; writes no result")
    quick = parser.parse_args().quick
    started = time.perf_counter()

    def tell(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", flush=True)

    try:
        tables = measured(quick=quick, tell=tell)
    finally:
        shutil.rmtree(settings.DATA_DIR, ignore_errors=True)
    result = {
        "title": "Near-duplicates",
        "about": ABOUT,
        "command": "python -m benchmarks.near_duplicates",
        "seed": SEED,
        "machine": machine(),
        "tables": tables,
    }
    print(json.dumps(tables, indent=1))
    if not quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
