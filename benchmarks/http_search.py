"""What HTTP adds to a search: one keep-alive client against the sum of the stages measured alone.

Run as `python -m benchmarks.http_search [--quick]`; writes docs/results/bench_http.json (not with --quick). Makes a
folder of its own with 100,000 entries, starts the web process under the production settings, and removes both.
"""

import ml.threads  # noqa: F401  isort: skip

import os
import secrets
import tempfile
from pathlib import Path

FOLDER = tempfile.mkdtemp(prefix="perennial-bench-http-")
os.environ |= {
    "DJANGO_SETTINGS_MODULE": "searchapp.settings.production",
    "DATA_DIR": FOLDER,
    "DATABASE_URL": f"sqlite:///{FOLDER}/perennial.sqlite3",
    "CACHE_URL": f"filecache://{FOLDER}/cache",
    "CELERY_BROKER_URL": "filesystem://",
    "SECRET_KEY": secrets.token_urlsafe(64),
    "ALLOWED_HOSTS": "127.0.0.1",
    "SECURE_SSL_REDIRECT": "false",
    "ANON_SEARCH_RATE": "",
    "ANON_ITEM_BUDGET": "0",
    "LOG_LEVEL": "WARNING",
    "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
}

import django  # noqa: E402

django.setup()

import argparse  # noqa: E402
import http.client  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from contextlib import suppress  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.gallery_data import machine  # noqa: E402
from benchmarks.made_up_rows import populate  # noqa: E402
from ml.data.packs import open_pack  # noqa: E402
from ml.retrieval import two_stage  # noqa: E402
from ml.retrieval.two_stage import QueryVectors  # noqa: E402
from searchapp.models import Query  # noqa: E402
from searchapp.services import intake, search, serving  # noqa: E402
from searchapp.services.search_answers import visual_results  # noqa: E402
from searchapp.services.search_options import SearchOptions  # noqa: E402
from searchapp.services.supervising import web_command  # noqa: E402

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "bench_http.json"
SEED = 21
ENTRIES = 100_000
K = 24
SUM = "sum of stages"
CPU_SUM, CPU_HTTP = "processor time of the stages", "processor time of the web process"
STAGES = ("intake", "encode", "shortlist and re-rank", "rows", "JSON")
ORDER = (*STAGES, SUM, "in process", "no search", "HTTP", CPU_SUM, CPU_HTTP)
BARS = {"320 px": 1.25, "1 megapixel": 1.15}
ABOUT = (
    "One keep-alive client uploads a photo to `POST /api/v1/search`, k = 24, on loopback: granian with one process, "
    "all production middleware, query log on, throttles off, SQLite. Gallery: 100,000 entries of 10,000 items in real "
    "rows with categories and tags; codes and embeddings are made up (1000 clusters), so this says nothing of quality. "
    "`sum of stages`: intake, encode, shortlist and re-rank, rows, JSON, each called alone in the client's process, "
    "in turn with the requests, medians. `no search`: the same upload refused after multipart parsing (two questions "
    "at once), the cost of HTTP, middleware and parsing. `in process`: the whole request through Django's own client, "
    "without a socket."
)


def uploads() -> dict[str, bytes]:
    """One real photo at two sizes, as JPEG of quality 90."""
    pack = open_pack(settings.SAMPLE_DATA / "places_indoor")
    with Image.open(io.BytesIO(pack.read(next(iter(pack.records("query")))))) as photo:
        sizes = {"320 px": (320, 320), "1 megapixel": (1160, 870)}
        made = {}
        for name, size in sizes.items():
            buffer = io.BytesIO()
            photo.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
            made[name] = buffer.getvalue()
        return made


class Web:
    """The web process, and one connection to it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = web_command(host="127.0.0.1", port=self.port, workers=1)
        self.log = Path(FOLDER, "web.log").open("wb")  # noqa: SIM115  it lives as long as the process
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                self.connection.request("GET", "/healthz/ready")
                response = self.connection.getresponse()
                response.read()
                if response.status == 200:
                    self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return
            except OSError:
                self.connection.close()
            time.sleep(0.1)
        raise SystemExit(f"the web process is not ready: {Path(FOLDER, 'web.log').read_text()[-3000:]}")

    def post(self, body: bytes, kind: str) -> tuple[int, bytes]:
        self.connection.request("POST", "/api/v1/search", body, {"Content-Type": kind})
        response = self.connection.getresponse()
        return response.status, response.read()

    def cpu_ms(self) -> float:
        """Processor time of the web process and its children so far, all threads."""
        pids = [self.process.pid]
        for pid in pids:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += [int(child) for child in children.read_text().split()]
        stats = [stat for pid in pids for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        spent = 0
        for stat in stats:
            with suppress(FileNotFoundError):  # a thread that just ended
                spent += int(stat.read_text().split()[0])
        return spent / 1e6

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()


def multipart(photo: bytes, **fields: str) -> tuple[bytes, str]:
    edge = "----perennial-benchmark"
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode()
        for n, v in fields.items()
    ]
    head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
    head += "Content-Type: image/jpeg\r\n\r\n"
    return b"".join(
        [*parts, head.encode(), photo, f"\r\n--{edge}--\r\n".encode()]
    ), f"multipart/form-data; boundary={edge}"


def stages(photo: bytes) -> dict[str, Callable[[], Any]]:
    """Each stage alone, on what the stage before it gave."""
    arm = serving.follow_once().champion
    size = arm.encoder.input_size
    pixels = intake.query_image(photo, input_size=size).pixels[None]
    encoded = arm.encoder.encode(pixels)
    vectors = QueryVectors(encoded.packed_codes[0], encoded.embeddings[0])
    hits = two_stage.search(arm.view, vectors, k=K, calibrations=arm.calibrations).hits
    answer = search.search_by_image(data=photo, options=SearchOptions(k=K))
    return {
        "intake": lambda: intake.query_image(photo, input_size=size),
        "encode": lambda: arm.encoder.encode(pixels),
        "shortlist and re-rank": lambda: two_stage.search(
            arm.view, vectors, k=K, calibrations=arm.calibrations
        ),
        "rows": lambda: visual_results(hits, arm),
        "JSON": lambda: json.dumps(answer.as_dict(role_is_anonymous=True)),
    }


def took_ms(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def measured(web: Web, photo: bytes, *, rounds: int) -> dict[str, float]:
    """Medians in milliseconds; every round takes one of each, so that all see the same machine.

    Beside the clock, the processor time of the stages and of the web process: neighbours cannot lengthen that.
    """
    alone = stages(photo)
    asked, refused = multipart(photo, k=str(K)), multipart(photo, k=str(K), sku="item-1")
    inside = Client(SERVER_NAME="127.0.0.1")
    calls: dict[str, Callable[[], Any]] = {
        **alone,
        "HTTP": lambda: web.post(*asked),
        "no search": lambda: web.post(*refused),
        "in process": lambda: inside.post("/api/v1/search", asked[0], content_type=asked[1]),
    }
    status, body = web.post(*asked)
    if status != 200 or len(json.loads(body)["results"]) != K:
        raise SystemExit(f"the search failed: {status} {body[:300]!r}")
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in [*calls, SUM, CPU_SUM, CPU_HTTP]}
    for _ in range(rounds):
        cpu_before = time.thread_time()
        taken = {name: took_ms(call) for name, call in alone.items()}
        taken |= {SUM: sum(taken.values()), CPU_SUM: 1000 * (time.thread_time() - cpu_before)}
        cpu_before = web.cpu_ms()
        taken["HTTP"] = took_ms(calls["HTTP"])
        taken[CPU_HTTP] = web.cpu_ms() - cpu_before
        taken |= {name: took_ms(calls[name]) for name in ("no search", "in process")}
        for name, milliseconds in taken.items():
            times[name].append(milliseconds)
    return {name: median(values) for name, values in times.items()}


def rows_of(name: str, taken: dict[str, float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for what in ORDER:
        total = taken[CPU_SUM] if what in {CPU_SUM, CPU_HTTP} else taken[SUM]
        rows.append(
            {
                "upload": name,
                "what": what,
                "p50_ms": round(taken[what], 3),
                "of_the_sum": round(taken[what] / total, 3),
                "bar": BARS[name] if what in {"HTTP", CPU_HTTP} else None,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 entries and few rounds; writes nothing")
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    entries, rounds = (10_000, 60) if options.quick else (ENTRIES, options.rounds)
    web = None
    try:
        call_command("migrate", verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        populate(entries, seed=SEED)
        serving.follow_once()
        web = Web()
        web.wait()
        table = []
        for name, photo in uploads().items():
            table += rows_of(name, measured(web, photo, rounds=rounds))
        time.sleep(2.5)
        logged = Query.objects.count()
    finally:
        if web is not None:
            web.close()
        shutil.rmtree(FOLDER, ignore_errors=True)
    result = {
        "title": "HTTP against the stages alone",
        "about": ABOUT,
        "command": "python -m benchmarks.http_search",
        "seed": SEED,
        "machine": {**machine(), "entries": entries, "queries_logged": logged, "load": os.getloadavg()[0]},
        "tables": [{"title": "One keep-alive client", "rows": table}],
    }
    print(json.dumps(result["tables"], indent=1))
    if not options.quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
