"""Typed environment readers: a bad value stops the start and names the variable, the value and what is allowed."""

import secrets
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

env = environ.Env()


def read_str(name: str, *, default: str = "") -> str:
    """An empty variable counts as unset, so that a filled-in copy of .env.example may leave lines open."""
    return str(env.str(name, default="")).strip() or default


def read_list(name: str) -> list[str]:
    return [part.strip() for part in read_str(name).split(",") if part.strip()]


def read_bool(name: str, *, default: bool) -> bool:
    return read_choice(name, default=str(default).lower(), allowed=("true", "false")) == "true"


def read_choice(name: str, *, default: str, allowed: tuple[str, ...]) -> str:
    value = read_str(name, default=default)
    if value not in allowed:
        raise ImproperlyConfigured(f"{name} is {value!r}, allowed: {', '.join(allowed)}")
    return value


def read_int(name: str, *, default: int, low: int, high: int) -> int:
    raw = read_str(name, default=str(default))
    try:
        value = int(raw)
    except ValueError:
        raise ImproperlyConfigured(
            f"{name} is {raw!r}, allowed: a whole number from {low} to {high}"
        ) from None
    if not low <= value <= high:
        raise ImproperlyConfigured(f"{name} is {value}, allowed: {low} to {high}")
    return value


def read_rate(name: str) -> str | None:
    """A throttle rate such as `60/min`; empty means no throttle."""
    value = read_str(name)
    if not value:
        return None
    count, _, period = value.partition("/")
    if not count.isdigit() or period not in {"sec", "min", "hour", "day"}:
        raise ImproperlyConfigured(
            f"{name} is {value!r}, allowed: empty or e.g. 60/min (sec, min, hour, day)"
        )
    return value


def read_or_create_secret(path: Path) -> str:
    """The embedded mode's secret key: made once, readable by its owner alone."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        path.write_text(secrets.token_urlsafe(64), encoding="utf-8")
    if path.stat().st_mode & 0o077:
        raise ImproperlyConfigured(f"{path} is readable by others; run chmod 600 on it")
    return path.read_text(encoding="utf-8").strip()
