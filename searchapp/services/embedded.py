"""The embedded mode on one machine: what must be in place before web, workers and sweeper start together."""

import hashlib
import shutil
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from searchapp.exceptions import Conflict, InvalidInput
from searchapp.services.supervising import embedded_parts, only_one, supervise
from searchapp.services.sweeping import jobs_resend_all
from searchapp.services.versions import default_version_ensure, shipped_candidate_ensure

STATIC_STAMP = ".collected"


def embedded_serve(
    *, host: str, port: int, on_ready: Callable[[], None], environment: Mapping[str, str] | None = None
) -> None:
    """Start everything and stay until SIGINT or SIGTERM. Raises before anything starts if it cannot work.

    `on_ready` is called once, when the web process answers searches; `environment` is added to every part's.
    """
    with only_one(Path(settings.DATA_DIR) / "serve.lock"):
        _check_migrations()
        _check_port(host, port)
        default_version_ensure()
        shipped_candidate_ensure()
        static_collect()
        _broker_empty()
        parts = embedded_parts(host=host, port=port, environment=environment or {})
        supervise(parts, is_ready=lambda: _is_ready(host, port), on_ready=on_ready)


def _is_ready(host: str, port: int) -> bool:
    address = host if host not in {"0.0.0.0", "::"} else "localhost"  # noqa: S104  compared, not bound
    connection = HTTPConnection(address, port, timeout=1)
    try:
        connection.request("GET", "/healthz/ready")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def static_collect() -> bool:
    """Collect and compress the static files, unless nothing changed since the last time."""
    root = Path(settings.STATIC_ROOT)
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in finder.list([]):
            state = Path(storage.path(name)).stat()
            digest.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    stamp = root / STATIC_STAMP
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest.hexdigest():
        return False
    call_command("collectstatic", interactive=False, verbosity=0)
    stamp.write_text(digest.hexdigest(), encoding="ascii")
    return True


def _check_migrations() -> None:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise Conflict("the database is not up to date; run `manage.py migrate` first")


def _check_port(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise InvalidInput(f"port is {port}, allowed: 1 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another port"
            ) from error


def _broker_empty() -> None:
    """Files of an earlier run may be half read; the rows know what is to be done, so publish it again."""
    if settings.CELERY_BROKER_URL != "filesystem://":
        return
    options = settings.CELERY_BROKER_TRANSPORT_OPTIONS
    for name in ("data_folder_in", "data_folder_out", "control_folder"):
        shutil.rmtree(options[name], ignore_errors=True)
    for name in ("data_folder_in", "data_folder_out", "control_folder"):
        Path(options[name]).mkdir(parents=True, exist_ok=True)
    jobs_resend_all()
