"""The shared cache of the embedded mode: files that several processes may count in."""

import fcntl
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.filebased import FileBasedCache

STRIPES = 64
CULL_SHARE = 0.01


class SharedFileCache(FileBasedCache):
    """Django's file cache with `add` and `incr` made atomic across processes and threads.

    Django looks before it writes in both, so two processes may win the same `add` and lose each other's
    `incr`; here a file lock (one of 64, by key) is held meanwhile. `incr` lets the value live for the default
    TIMEOUT from then on.
    """

    def add(
        self, key: Any, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        with self._locked(key):
            return super().add(key, value, timeout, version)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        with self._locked(key):
            return super().incr(key, delta, version)

    def _cull(self) -> None:
        """Listing the folder at every write would make each write as slow as the folder is long."""
        if random.random() < CULL_SHARE:  # noqa: S311
            super()._cull()  # type: ignore[misc]

    @contextmanager
    def _locked(self, key: Any) -> Iterator[None]:
        folder = Path(self._dir)  # type: ignore[attr-defined]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / f"{crc32(str(key).encode()) % STRIPES}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # released when the file is closed
            yield
