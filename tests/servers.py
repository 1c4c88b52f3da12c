"""Throw-away PostgreSQL and Redis servers on free ports, in folders of their own; gone with the test run."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from searchapp.services.supervising import die_with_parent

DATABASE_USER = "perennial"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def postgresql_folder() -> Path | None:
    """Where the newest installed PostgreSQL keeps its programs."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if candidates:
        return candidates[-1]
    found = shutil.which("initdb")
    return Path(found).parent if found else None


def redis_program() -> str | None:
    return shutil.which("redis-server")


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"server on port {port} did not start: {log.read_text(errors='replace')[-2000:]}")


class Server:
    """A process that can be stopped, killed, frozen and started again on the same port and folder."""

    def __init__(self, folder: Path, port: int, user: str | None = None) -> None:
        self.folder = folder
        self.port = port
        self.user = user
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        parent = os.getpid()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                user=self.user,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),  # noqa: PLW1509
            )
        _wait_for_port(self.port, self.process, self.log)

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Redis(Server):
    """No persistence: what it holds is gone when it is killed."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="perennial-redis-")), free_port())

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        program = redis_program()
        assert program is not None
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        return [program, "--port", str(self.port), *options, "--maxmemory-policy", "noeviction"]


class PostgreSQL(Server):
    """It refuses to run as root, so there it runs as the user `postgres`."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="perennial-postgresql-"))
        user = "postgres" if os.geteuid() == 0 else None
        if user:
            shutil.chown(folder, user)
        super().__init__(folder, free_port(), user)
        (folder / "server.log").touch()
        if user:
            shutil.chown(folder / "server.log", user)
        self._initialise()

    @property
    def url(self) -> str:
        return f"postgres://{DATABASE_USER}@127.0.0.1:{self.port}/{DATABASE_USER}"

    def program(self, name: str) -> str:
        folder = postgresql_folder()
        assert folder is not None
        return str(folder / name)

    def _run(self, *command: str) -> None:
        finished = subprocess.run(
            command, user=self.user, capture_output=True, text=True, check=False, cwd=self.folder
        )
        if finished.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {finished.stderr[-2000:]}")

    def _initialise(self) -> None:
        options = ["--auth", "trust", "--username", DATABASE_USER, "--encoding", "UTF8", "--no-sync"]
        self._run(self.program("initdb"), "-D", str(self.folder / "data"), *options, "--locale", "C.UTF-8")

    def command(self) -> list[str]:
        # fsync=off: a killed server loses nothing, only a killed machine would
        settings = {
            "fsync": "off",
            "max_connections": "100",
            "shared_buffers": "64MB",
            "listen_addresses": "127.0.0.1",
        }
        settings |= {"unix_socket_directories": str(self.folder), "port": str(self.port)}
        pairs = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.program("postgres"), "-D", str(self.folder / "data"), *pairs]

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + 30
        ready = [self.program("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        while subprocess.run(ready, check=False).returncode != 0:  # listening is not yet answering
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL is not ready: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def create_database(self, name: str = DATABASE_USER) -> None:
        self._run(
            self.program("createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", DATABASE_USER, name
        )

    def crash(self) -> None:
        """`stop -m immediate`: no checkpoint, the next start replays the log."""
        self._run(self.program("pg_ctl"), "stop", "-m", "immediate", "-D", str(self.folder / "data"))
        assert self.process is not None
        self.process.wait(timeout=30)
