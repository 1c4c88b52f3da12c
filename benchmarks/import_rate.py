"""How fast a catalogue comes in, beside decoding and encoding the same photos and nothing else; and in how
much memory.

Run as `python -m benchmarks.import_rate [--quick]`; writes docs/results/bench_import.json (not with
--quick).
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
(ROOT / "var").mkdir(exist_ok=True)
WORK = Path(tempfile.mkdtemp(prefix="bench-import-", dir=ROOT / "var"))
IN_MEMORY = Path(
    tempfile.mkdtemp(prefix="bench-import-", dir="/dev/shm")
)  # as a file system, to leave the disk out
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "searchapp.settings.dev")
os.environ["DATA_DIR"] = str(WORK / "data")
os.environ["DATABASE_URL"] = f"sqlite:///{WORK / 'data' / 'bench.sqlite3'}"
os.environ.setdefault("LOG_LEVEL", "WARNING")

import django  # noqa: E402

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from PIL import Image, ImageFilter  # noqa: E402

from benchmarks.gallery_data import machine  # noqa: E402
from ml.data.packs import open_pack  # noqa: E402
from ml.data.preprocessing import decode_to_input, to_input  # noqa: E402
from searchapp.models import GalleryEntry  # noqa: E402
from searchapp.services import importing, versions  # noqa: E402
from searchapp.services.jobs import job_run_here  # noqa: E402

RESULT = ROOT / "docs" / "results" / "bench_import.json"
SEED = 22
BAR = 0.6


def write_sample_photos(folder: Path, count: int) -> None:
    """Real photos of the clothing pack, `count` from each call on, as one class folder each 100."""
    pack = open_pack(settings.SAMPLE_DATA / "clothing")
    for number, record in enumerate(pack.records("train", "val")):
        if number == count:
            return
        target = folder / f"class {number // 100}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pack.read(record))


def write_large_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Made photos: smooth shapes with grain, so that they weigh what a camera's photo of that size does."""
    chance = np.random.default_rng(SEED)
    folder = folder / "large"
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = chance.integers(0, 256, (size[1] // 40, size[0] // 40, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        grain = chance.integers(-9, 10, (size[1], size[0], 1), dtype=np.int16)
        image = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        image.filter(ImageFilter.GaussianBlur(0.6)).save(folder / f"{number}.jpg", quality=90)


def write_tiny_photos(folder: Path, count: int) -> None:
    """Cheap different ones: a seeded patch of noise each."""
    chance = np.random.default_rng(SEED)
    for number in range(count):
        target = folder / f"class {number // 500}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        patch = chance.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(patch).resize((48, 48), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
        target.write_bytes(buffer.getvalue())


def bare(folder: Path, *, reduced: bool) -> None:
    """Read, decode and encode each photo: what no import can do without.

    reduced: by the decoder's reduced-size path, as for a query; else every pixel is decoded, as any import
    must that keeps a cleaned copy.
    """
    encoder = versions.encoder_of(versions.default_version_ensure())
    for path in sorted(folder.rglob("*.jpg")):
        data = path.read_bytes()
        if reduced:
            pixels = decode_to_input(data, encoder.input_size)
        else:
            pixels = to_input(Image.open(io.BytesIO(data)).convert("RGB"), encoder.input_size)
        encoder.encode(pixels[None])


def import_folder(folder: Path, count: int, heard: Callable[[int, int, str], None] | None = None) -> None:
    job = job_run_here(importing.import_start(source=str(folder)), heard)
    if job.state != "done" or not job.result or job.result["images_added"] != count:
        raise RuntimeError(f"the import {job.state}: {job.error} {job.result}")


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """(wall, processor) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def rates(name: str, write: Callable[[Path], None], count: int, rounds: int, media: Path) -> dict[str, Any]:
    """Interleaved rounds over the same photos; each import goes into SKUs and categories of its own."""
    settings.MEDIA_ROOT = media
    clocks: dict[str, list[tuple[float, float]]] = {"reduced": [], "full": [], "import": []}
    source = WORK / name
    write(source)
    for number in range(rounds):
        folder = WORK / f"{name} {number}" / f"{name} {number}"  # its own SKUs and categories
        shutil.copytree(source, folder)
        clocks["reduced"].append(timed(lambda: bare(folder, reduced=True)))  # noqa: B023  called at once
        clocks["full"].append(timed(lambda: bare(folder, reduced=False)))  # noqa: B023
        clocks["import"].append(timed(lambda: import_folder(folder.parent, count)))  # noqa: B023
        for path in settings.MEDIA_ROOT.rglob("*.jpg"):
            path.unlink()  # writing a file that is there already would cost nothing
    wall = {key: statistics.median(pair[0] for pair in pairs) for key, pairs in clocks.items()}
    cpu = {key: statistics.median(pair[1] for pair in pairs) for key, pairs in clocks.items()}
    return {
        "photos": name,
        "import_per_second": count / wall["import"],
        "bare_per_second": count / wall["full"],
        "bare_reduced_per_second": count / wall["reduced"],
        "import_to_bare": wall["full"] / wall["import"],
        "import_to_bare_cpu": cpu["full"] / cpu["import"],
        "import_to_reduced": wall["reduced"] / wall["import"],
        "import_to_reduced_cpu": cpu["reduced"] / cpu["import"],
    }


def memory(count: int) -> list[dict[str, Any]]:
    """Resident megabytes of the importing process at every tenth of `count` photos."""
    folder = WORK / "many"
    write_tiny_photos(folder, count)
    found: list[dict[str, Any]] = []

    def heard(done: int, total: int, message: str) -> None:  # noqa: ARG001
        if total and done >= (len(found) + 1) * count // 10:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            found.append({"photos": done, "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20})

    import_folder(folder, count, heard)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_rate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few hundred photos; writes no result")
    quick = parser.parse_args().quick
    sample, large, many, rounds = (150, 8, 2_000, 2) if quick else (1_000, 40, 50_000, 5)
    (WORK / "data").mkdir(exist_ok=True)
    media = WORK / "media"
    call_command("migrate", verbosity=0)
    try:
        rows = [
            rates("sample, 128 px", partial(write_sample_photos, count=sample), sample, rounds, media),
            rates(
                "sample, pictures in memory",
                partial(write_sample_photos, count=sample),
                sample,
                rounds,
                IN_MEMORY,
            ),
            rates(
                "1 megapixel",
                partial(write_large_photos, count=large, size=(1152, 864)),
                large,
                rounds,
                media,
            ),
        ]
        settings.MEDIA_ROOT = media
        resident = memory(many)
        entries = GalleryEntry.objects.count()
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
        shutil.rmtree(IN_MEMORY, ignore_errors=True)
    result = {
        "title": "Import",
        "about": "Photos imported per second (cleaned, stored with a thumbnail, rows, encoded, entries, checkpoint), "
        "against reading, decoding and encoding the same files and nothing else on one thread. The import cleans "
        f"photos in a second thread beside the encoder; SQLite. The aim is {BAR} or more of the bare rate. "
        "`bare` decodes every pixel, as whoever keeps a cleaned copy must; `reduced` only what the model input "
        "needs, as a query does. Columns with `cpu` compare processor time, as if there were one core.",
        "command": "python -m benchmarks.import_rate",
        "seed": SEED,
        "machine": machine(),
        "tables": [
            {"title": "Rate", "rows": rows},
            {
                "title": f"Memory of the importing process over {many:,} photos",
                "note": f"{entries:,} entries were in the gallery at the end.",
                "rows": resident,
            },
        ],
    }
    print(json.dumps(result, indent=1))
    if not quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
