"""A shop to teach: a copy of a data folder with the sample catalogue, spoken to by the product's own commands.

The stocked folder is made once, as `manage.py demo` does, and kept for the next run; every copy of it goes again.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from ml.data.packs import open_pack

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
STOCK = ROOT / "var" / "bench-learning-stock"
DATA = Path(os.environ.get("SAMPLE_DATA") or ROOT.parent / "shared" / "data")
PACKS = (
    "grocery",
    "clothing",
    "places_indoor",
)  # those with reserved classes; the catalogue also has `catalog`
MANAGE = [sys.executable, "manage.py"]
LOADED = "loaded"
LOAD = (
    "from searchapp.services.sample_catalogue import sample_load as s; s(lambda done, total, message: None)"
)


def environment(folder: Path) -> dict[str, str]:
    """Of a shop in this folder, whatever the caller's own settings say."""
    return {
        "DJANGO_SETTINGS_MODULE": "searchapp.settings.dev", "DATA_DIR": str(folder), "SAMPLE_DATA": str(DATA),
        "DATABASE_URL": f"sqlite:///{folder}/perennial.sqlite3", "CACHE_URL": f"filecache://{folder}/cache",
        "CELERY_BROKER_URL": "filesystem://", "ANON_SEARCH_RATE": "", "ANON_ITEM_BUDGET": "0", "LOG_LEVEL": "WARNING",
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip


class Shop:
    """A data folder and the commands that are run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, **environment(folder)}

    def run(self, *arguments: str) -> str:
        return self._run([*MANAGE, *arguments])

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def python(self, *arguments: str) -> str:
        """Another program in the product's surroundings; what it prints."""
        return self._run([sys.executable, *arguments])

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """The database as it was, whatever happens inside; files that came stay, and mean nothing to it."""
        kept = Path(tempfile.mkdtemp(prefix="perennial-bench-"))
        tables = sorted(self.folder.glob("perennial.sqlite3*"))
        for path in tables:
            shutil.copy2(path, kept)
        try:
            yield
        finally:
            for path in self.folder.glob("perennial.sqlite3*"):
                path.unlink()
            for path in tables:
                shutil.copy2(kept / path.name, path)
            shutil.rmtree(kept)


@contextmanager
def shop(stock: Path = STOCK) -> Iterator[Shop]:
    """A shop with the sample catalogue, known and not learned from yet."""
    stocked(stock)
    folder = Path(tempfile.mkdtemp(prefix="bench-learning-", dir=stock.parent))
    try:
        shutil.copytree(stock, folder, dirs_exist_ok=True, copy_function=_copied)
        made = Shop(folder)
        made.run("migrate", "-v0")
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copied(source: str, target: str) -> None:
    """A stored photo never changes under its name, so a copy's is a link to the stock's: thousands cost nothing."""
    if "/media/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def stocked(folder: Path) -> None:
    """Load the sample catalogue without reserved classes into `folder`, unless that was done; minutes."""
    if (folder / LOADED).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    made = Shop(folder)
    made.run("migrate", "-v0")
    made.python("-c", f"import ml.threads, django; django.setup(); {LOAD}")
    (folder / LOADED).touch()


class Served:
    """`manage.py serve` on a shop: web, two workers, relay and sweeper."""

    def __init__(self, made: Shop) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.log = (made.folder / "serve.log").open("wb")
        command = [*MANAGE, "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=made.env, stdout=self.log, stderr=self.log)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._is_ready():
                return self
            time.sleep(0.2)
        log = Path(self.log.name).read_text(encoding="utf-8", errors="replace")
        self.__exit__()
        raise RuntimeError(f"the shop is not ready: {log[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.log.close()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz/ready", timeout=2) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except OSError:  # an HTTPError is one
            return False


def megabytes_of_parts(supervisor: int) -> dict[str, float]:
    """Resident memory of what `manage.py serve` started, by what it is; the web's processes together."""
    parts = {"training": "training worker", "default": "default worker", "sweep": "sweep", "granian": "web"}
    found: dict[str, float] = {}
    for pid in _descendants(supervisor):
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            name = next((name for word, name in parts.items() if word in command), "")
            found[name] = found.get(name, 0.0) + resident_megabytes(pid)
    return {name: round(size, 1) for name, size in found.items() if name}


def resident_megabytes(pid: int | str = "self") -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def _descendants(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                pids += [int(child) for child in children.read_text(encoding="ascii").split()]
    return pids


def fingerprints() -> dict[str, str]:
    """Which photos: the first digits of each pack's SHA-256."""
    return {name: open_pack(DATA / name).fingerprint()[:12] for name in (*PACKS, "catalog")}


def tables_write(path: Path, head: Mapping[str, Any], tables: Sequence[Mapping[str, Any]]) -> None:
    """Put these tables in the place of those of the same title; the others of the file stay as they are."""
    before = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.exists() else []
    new = {table["title"]: table for table in tables}
    joined = [new.pop(table["title"], table) for table in before]
    result = {**head, "tables": [*joined, *new.values()]}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
