"""The processes of the embedded mode: started together, restarted when they die, gone when the parent is."""

import ctypes
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from searchapp.exceptions import Conflict

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_SECONDS = 20.0  # what a part has to end by itself before it is killed
STEADY_SECONDS = 30.0  # a part that ran so long starts again without delay
LONGEST_PAUSE_SECONDS = 30.0
PR_SET_PDEATHSIG = 1
# Celery warns root on every start because of pickled messages; ours are JSON.
QUIET = {"PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges:UserWarning"}

logger = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Part:
    """One child process. The kernel sends it `death_signal` should the supervisor itself be killed."""

    name: str
    command: Sequence[str]
    niceness: int = 0
    death_signal: signal.Signals = signal.SIGKILL
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    quick_deaths: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        supervisor = os.getpid()

        def before_exec() -> None:
            die_with_parent(supervisor, self.death_signal)
            os.nice(self.niceness)

        self.started_at = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603  our own command lines
            self.command,
            cwd=ROOT,
            env={**os.environ, **self.environment},
            # Ctrl-C reaches the supervisor alone, and a part can be killed with all its children.
            start_new_session=True,
            preexec_fn=before_exec,  # noqa: PLW1509  it takes no lock that another thread could hold
        )

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal_group(self, number: signal.Signals) -> None:
        if self.process is not None:
            with_group(self.process.pid, number)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Ask the kernel for `number` when the parent dies; call between fork and exec."""
    _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def with_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def web_command(*, host: str, port: int, workers: int = 2, threads: int = 2) -> list[str]:
    """The web server: granian runs WSGI on blocking threads; requests beyond them wait in its backlog.

    Two processes, because a search is half Python: on two cores 356 searches/s by 2 x 2 against 175 by 1 x 4
    (7,541 entries, 4 users), one user waiting 5.5 ms in both.
    """
    return [
        *(sys.executable, "-m", "granian", "--interface", "wsgi", "searchapp.wsgi:application"),
        *("--host", host, "--port", str(port), "--workers", str(workers), "--blocking-threads", str(threads)),
        *("--respawn-failed-workers", "--workers-kill-timeout", "15", "--log-level", "warning", "--no-ws"),
    ]


def worker_command(queue: str) -> list[str]:
    """A Celery worker for one queue. Pool solo: one job at a time in the process whose lease it is, so that a
    kill is a kill of both and SIGTERM reaches the running job."""
    return [
        *(
            sys.executable,
            "-m",
            "celery",
            "--quiet",
            "-A",
            "searchapp",
            "worker",
            "-Q",
            queue,
            "-n",
            f"{queue}@%h",
        ),
        *("--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"),
    ]


def embedded_parts(*, host: str, port: int, environment: Mapping[str, str]) -> list[Part]:
    """Web, two workers, relay with sweeper. Background work is niced: a shopper's search goes first."""
    parts = [
        # granian passes SIGTERM on to its own children, which SIGKILL would leave behind
        Part("web", web_command(host=host, port=port), death_signal=signal.SIGTERM),
        Part("sweep", [sys.executable, "manage.py", "sweep"]),
        Part("default worker", worker_command("default"), niceness=5),
        Part("training worker", worker_command("training"), niceness=10),
    ]
    for part in parts:
        part.environment = {**QUIET, **environment}
    return parts


@contextmanager
def only_one(lock_path: Path) -> Iterator[None]:
    """Refuse a second supervisor on the same data folder; the lock goes with the process, however it ends."""
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with lock_path.open("w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another server already runs on {lock_path.parent}; stop it first") from None
        yield


def supervise(parts: Sequence[Part], *, is_ready: Callable[[], bool], on_ready: Callable[[], None]) -> None:
    """Run the parts until SIGINT or SIGTERM, then end them all. A part that dies is started again."""
    is_announced = False
    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        for part in parts:
            part.start()
        while not stop.wait(0.2):
            for part in parts:
                _keep_running(part)
            if not is_announced and is_ready():
                is_announced = True
                on_ready()
    finally:
        _stop(parts)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _keep_running(part: Part) -> None:
    now = time.monotonic()
    if part.is_running():
        return
    if part.process is not None:
        part.signal_group(signal.SIGKILL)  # whatever the dead part had started itself
        is_quick = now - part.started_at < STEADY_SECONDS
        part.quick_deaths = part.quick_deaths + 1 if is_quick else 0
        pause = min(LONGEST_PAUSE_SECONDS, 0.25 * 2.0**part.quick_deaths) if is_quick else 0.0
        logger.error(
            "%s ended with status %s, starting it again in %.1f s", part.name, part.process.returncode, pause
        )
        part.process = None
        part.start_again_at = now + pause
    if now >= part.start_again_at:
        part.start()


def _stop(parts: Sequence[Part]) -> None:
    for part in parts:
        if part.process is not None and part.is_running():
            part.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for part in parts:
        if part.process is None:
            continue
        try:
            part.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("%s did not end within %.0f s and is killed", part.name, STOP_SECONDS)
        part.signal_group(signal.SIGKILL)
        part.process.wait()
