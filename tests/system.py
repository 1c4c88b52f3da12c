"""A whole running Perennial, seen from outside: real processes, a real broker, a folder of its own.

`with System() as system:` is the embedded mode as `manage.py serve` runs it; `System(mode="production")` is
the same code on a throw-away PostgreSQL and Redis, each part a process of its own. Nothing is left running.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psycopg2  # type: ignore[import-untyped]

from searchapp.services.supervising import die_with_parent, web_command, worker_command
from tests.servers import PostgreSQL, Redis, free_port

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"JOB_LEASE_SECONDS": "3", "SWEEP_SECONDS": "1", "LOG_LEVEL": "WARNING", "ANON_SEARCH_RATE": ""}
PRODUCTION = {
    "DJANGO_SETTINGS_MODULE": "searchapp.settings.production",
    "SECRET_KEY": "for-a-throw-away-system-under-test-" + "x" * 40,
    "ALLOWED_HOSTS": "127.0.0.1,localhost",
    "SECURE_SSL_REDIRECT": "false",
}
Mode = Literal["embedded", "production"]
EVERY_TIME = "every time: "
_collected = Path(tempfile.gettempdir()) / f"perennial-static-{os.getpid()}"
atexit.register(shutil.rmtree, _collected, ignore_errors=True)


class System:
    """Start with `with`, or `prepare()` and `start()` one after the other to do something in between."""

    def __init__(
        self,
        *,
        mode: Mode = "embedded",
        environment: Mapping[str, str] | None = None,
        failpoint: str = "",
        data: Path | None = None,
    ) -> None:
        """`failpoint` kills the worker once, or "every time: …" it passes (see searchapp/failpoints.py)."""
        self.mode = mode
        self.failpoint = failpoint
        self.failing_parts = {"serve", "worker", "sweeper"}  # whom the failpoint may kill
        self.folder = Path(tempfile.mkdtemp(prefix="perennial-system-"))
        self.data = data or self.folder / "data"
        self.log = self.folder / "system.log"
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.marker = self.folder / "killed"
        self.postgresql: PostgreSQL | None = None
        self.redis: Redis | None = None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERENNIAL_")}
        self.env = {**inherited, "DJANGO_SETTINGS_MODULE": "searchapp.settings.dev", "DATABASE_URL": ""}
        self.env |= {"DATA_DIR": str(self.data), "PYTHONFAULTHANDLER": "1", **QUICK}
        if mode == "production":
            self.env |= PRODUCTION
        self.env |= environment or {}

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"--- {self.log}\n{self.read_log()[-6000:]}")
        self.close()

    def prepare(self) -> None:
        """Servers, database, static files: everything short of our own processes."""
        if self.mode == "production":
            self.postgresql, self.redis = PostgreSQL(), Redis()
            self.postgresql.start()
            self.redis.start()
            self.postgresql.create_database()
            broker = self.redis.url
            self.env |= {"DATABASE_URL": self.postgresql.url, "CELERY_BROKER_URL": f"{broker}/0"}
            self.env |= {"CACHE_URL": f"rediscache://127.0.0.1:{self.redis.port}/1"}
        self.run("migrate", "--noinput", "-v0")
        if _collected.exists():  # the slowest step, the same for every system of a run
            shutil.copytree(_collected, self.data / "static", copy_function=shutil.copy2)
        else:
            self.python("from searchapp.services.embedded import static_collect; static_collect()")
            shutil.copytree(self.data / "static", _collected)
        if self.mode == "production":
            self.python("from searchapp.services.versions import default_version_ensure as e; e()")

    def start(self) -> None:
        for name in self.commands():
            self.start_part(name)
        self.wait_until(self.is_ready, "the web process to be ready", seconds=60)

    def commands(self) -> dict[str, list[str]]:
        manage = [sys.executable, "manage.py"]
        if self.mode == "embedded":
            return {"serve": [*manage, "serve", "--port", str(self.port)]}
        return {
            "web": web_command(host="127.0.0.1", port=self.port),
            "worker": worker_command("default"),
            "trainer": worker_command("training"),
            "sweeper": [*manage, "sweep"],
        }

    def start_part(self, name: str) -> None:
        parent = os.getpid()
        with self.log.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.commands()[name],
                cwd=ROOT,
                env={**self.env, **self.failpoint_environment(name)},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),  # noqa: PLW1509
            )

    def failpoint_environment(self, name: str) -> dict[str, str]:
        """Production settings know no failpoints, so there the part in question runs under the development
        settings; its database and broker are the same."""
        if not self.failpoint or name not in self.failing_parts:
            return {}
        point = self.failpoint.removeprefix(EVERY_TIME)
        environment = {"PERENNIAL_FAILPOINT": point, "DJANGO_SETTINGS_MODULE": "searchapp.settings.dev"}
        if point == self.failpoint:
            environment["PERENNIAL_FAILPOINT_MARKER"] = str(self.marker)
        return environment

    def close(self) -> None:
        self.stop()
        self.kill()
        for server in (self.redis, self.postgresql):
            if server is not None:
                server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- ending processes -----------------------------------------------------------------------------------

    def stop(self, *, seconds: float = 30) -> dict[str, int]:
        """SIGTERM to every part; the exit codes. A part that does not end in time is an error."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        codes = {name: process.wait(timeout=seconds) for name, process in self.processes.items()}
        self.processes.clear()
        return codes

    def kill(self) -> None:
        """kill -9 of everything of ours, children first found, then gone."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait()
        self.processes.clear()

    def kill_part(self, name: str) -> None:
        """kill -9 of one part of the production mode and its children."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def pids(self, words: str = "") -> list[int]:
        """Our living processes, known by their DATA_DIR, whose command line contains `words`."""
        mark = f"DATA_DIR={self.data}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if command and words in command and mark in (entry / "environ").read_bytes() + b"\0":
                    found.append(int(entry.name))
        return found

    # --- looking from outside -------------------------------------------------------------------------------

    def run(
        self, *arguments: str, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "manage.py", *arguments], check=check, timeout=timeout)

    def run_json(self, *arguments: str, check: bool = True) -> Any:
        return json.loads(self.run(*arguments, "--json", check=check).stdout)

    def python(self, code: str, *, check: bool = True) -> str:
        """Run code inside the product's Django; what it prints."""
        prelude = "import ml.threads, django; django.setup()\n"
        return self._run([sys.executable, "-c", prelude + code], check=check, timeout=120).stdout

    def _run(self, command: list[str], *, check: bool, timeout: float) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and finished.returncode != 0:
            raise RuntimeError(f"{command[1:]} ended with {finished.returncode}: {finished.stderr[-3000:]}")
        return finished

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query, read past the product."""
        if self.postgresql is None:
            import sqlite3

            with contextlib.closing(sqlite3.connect(self.data / "perennial.sqlite3", timeout=20)) as database:
                return database.execute(query).fetchall()
        with (
            contextlib.closing(psycopg2.connect(self.postgresql.url)) as database,
            database.cursor() as cursor,
        ):
            cursor.execute(query)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def get(self, path: str, *, timeout: float = 10) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.base_url + path, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def is_ready(self) -> bool:
        try:
            return self.get("/healthz/ready", timeout=2)[0] == 200
        except OSError:
            return False

    def wait_until(self, condition: Callable[[], object], what: str, *, seconds: float = 30) -> float:
        """Seconds it took; an AssertionError with the log's end when it did not happen."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            for name, process in list(self.processes.items()):
                code = process.poll()
                if code == -signal.SIGKILL and self.failpoint:  # start it again, as a container runtime would
                    self.start_part(name)
                else:
                    assert code is None, f"{name} ended with {code}: {self.read_log()[-3000:]}"
            if condition():
                return time.monotonic() - started
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds:.0f} s for {what}; the log ends: {self.read_log()[-3000:]}")

    def read_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
