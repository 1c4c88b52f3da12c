"""The one clock that leases are measured by: the database's own, never a worker's."""

from datetime import UTC, datetime
from typing import Any

from django.db import connection, models
from django.db.models.sql.compiler import SQLCompiler
from django.utils.dateparse import parse_datetime


class DatabaseNow(models.Func):
    """The database's time at this statement, plus `offset_seconds`; it moves on inside a transaction."""

    def __init__(self, offset_seconds: float = 0.0) -> None:
        super().__init__(output_field=models.DateTimeField())
        self.offset_seconds = float(offset_seconds)

    def as_sql(self, compiler: SQLCompiler, connection: Any, *_: Any, **__: Any) -> tuple[str, Any]:  # noqa: ARG002
        if connection.vendor == "sqlite":
            return "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %s)", (f"{self.offset_seconds:+.3f} seconds",)
        return "(clock_timestamp() + %s * interval '1 second')", (self.offset_seconds,)

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **_: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection)


def database_now() -> datetime:
    """One reading of that clock, aware, in UTC."""
    clock = "strftime('%Y-%m-%d %H:%M:%f', 'now')" if connection.vendor == "sqlite" else "clock_timestamp()"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {clock}")
        (value,) = cursor.fetchone()
    if isinstance(value, datetime):
        return value
    parsed = parse_datetime(value)
    assert parsed is not None
    return parsed.replace(tzinfo=UTC)
