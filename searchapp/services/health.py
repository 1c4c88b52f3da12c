"""Whether this process can answer searches: the database, a version to serve, and its gallery in memory."""

from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, InterfaceError, connection

from searchapp.exceptions import SearchAppError
from searchapp.services import serving


@dataclass(frozen=True, slots=True)
class Readiness:
    is_ready: bool
    checks: dict[str, dict[str, Any]]


def readiness() -> Readiness:
    """Run the checks. Says which failed, not why: probes are open to everybody, reasons are in the log."""
    checks = {"database": _database(), **_serving()}
    return Readiness(all(check["ok"] for check in checks.values()), checks)


def _database() -> dict[str, Any]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except (DatabaseError, InterfaceError):
        return {"ok": False}
    return {"ok": True}


def _serving() -> dict[str, dict[str, Any]]:
    try:
        reference = serving.current()
    except (SearchAppError, DatabaseError, InterfaceError):
        return {"serving_version": {"ok": False}, "gallery": {"ok": False}}
    champion = reference.champion
    return {
        "serving_version": {"ok": True, "version": champion.version.name},
        "gallery": {"ok": True, "entries": len(champion.view), "sequence": reference.sequence},
    }
