"""The run ledger: what was measured once, by one configuration, seed and data, is never measured twice."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Value = float | int | str
_RECORD, _ARRAYS, _ITEMS = "record.json", "per_query.npz", "item"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What one run measured.

    name, setting, seed: which run it is; unique together within an experiment.
    values: one number or word per column of the result's row.
    per_query: metric -> (Q,) values of each query, NaN where the metric does not apply to the query; their
    mean over queries is the row's value of the same name. All runs of a setting share its queries, in order.
    seconds: time of the work. items: (Q,) the item each query shows; None when each stands for itself.
    files: kept beside the record under these names (say, trained weights that another run starts from).
    """

    name: str
    setting: str
    seed: int
    values: Mapping[str, Value]
    per_query: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    seconds: float = 0.0
    items: NDArray[Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = dict(self.per_query) | ({} if self.items is None else {_ITEMS: self.items})
        shapes = {name: np.shape(values) for name, values in columns.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise ValueError(
                f"run {self.name}: per-query values have shapes {shapes}, expected one length (Q,)"
            )
        if _ITEMS in self.per_query or any("/" in metric for metric in self.per_query):
            raise ValueError(
                f"run {self.name}: metrics are {sorted(self.per_query)}, none may be `item` or hold a slash"
            )
        if any(name != Path(name).name or name in {_RECORD, _ARRAYS} for name in self.files):
            raise ValueError(
                f"run {self.name}: kept files are {sorted(self.files)}, expected plain file names"
            )


def identity_key(identity: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of `identity`. Raises TypeError or ValueError for what is not JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """A folder of finished runs that any number of processes may share.

    The key holds what the caller says decides the outcome, not the code: after a change to the code that
    changes results, start a new folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, identity: Mapping[str, Any]) -> RunRecord | None:
        """The finished run of this identity, or None."""
        home = self._home(identity)
        return _read(home) if (home / _RECORD).exists() else None

    def run(self, identity: Mapping[str, Any], work: Callable[[Path], RunRecord]) -> RunRecord:
        """The finished run of this identity; the work is done only when there is none.

        work gets the path of a checkpoint file: what it saves there is still there when a killed run is
        started again, and is removed once the record is written. While another process does the same run
        this waits, and then reads its record (or takes over, should that process have died).
        """
        with self._lock(identity, wait=True):
            return self.find(identity) or self._do(identity, work)

    def run_unless_busy(
        self, identity: Mapping[str, Any], work: Callable[[Path], RunRecord]
    ) -> RunRecord | None:
        """As `run`, but None at once while another process does the same run."""
        with self._lock(identity, wait=False) as taken:
            if not taken:
                return self.find(identity)
            return self.find(identity) or self._do(identity, work)

    def _do(self, identity: Mapping[str, Any], work: Callable[[Path], RunRecord]) -> RunRecord:
        home = self._home(identity)
        checkpoint = home.with_suffix(".checkpoint")
        record = work(checkpoint)
        _write(home, identity, record)
        checkpoint.unlink(missing_ok=True)
        return _read(home)  # what a later call reads, to the last bit

    def _home(self, identity: Mapping[str, Any]) -> Path:
        return self.folder / identity_key(identity)

    @contextmanager
    def _lock(self, identity: Mapping[str, Any], *, wait: bool) -> Iterator[bool]:
        """The kernel holds the lock and drops it when the process dies, so no stale lock can remain.

        The file itself stays: removing it would let two processes lock two files of one name.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._home(identity).with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)


def _write(home: Path, identity: Mapping[str, Any], record: RunRecord) -> None:
    """The record's folder is made under a temporary name and renamed: it is there whole or not at all."""
    temporary = Path(tempfile.mkdtemp(dir=home.parent, prefix=home.name[:16] + "."))
    try:
        for name, data in record.files.items():
            (temporary / name).write_bytes(data)
        arrays = {name: np.asarray(values) for name, values in record.per_query.items()}
        if record.items is not None:
            arrays[_ITEMS] = np.asarray(record.items)
        np.savez_compressed(temporary / _ARRAYS, allow_pickle=False, **arrays)
        plain = {
            "identity": identity,
            "name": record.name,
            "setting": record.setting,
            "seed": record.seed,
            "values": {name: _plain(value) for name, value in record.values.items()},
            "seconds": record.seconds,
            "files": sorted(record.files),
        }
        (temporary / _RECORD).write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")
        _sync(temporary)
        temporary.rename(home)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _plain(value: Any) -> Value:
    """NumPy's numbers as Python's."""
    plain: Any = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, float | int | str):
        raise TypeError(f"a row's value is {value!r}, expected a number or a word")
    return plain


def _sync(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(home: Path) -> RunRecord:
    plain = json.loads((home / _RECORD).read_text(encoding="utf-8"))
    with np.load(home / _ARRAYS, allow_pickle=False) as stored:
        arrays = dict(stored)
    items = arrays.pop(_ITEMS, None)
    return RunRecord(
        name=plain["name"],
        setting=plain["setting"],
        seed=plain["seed"],
        values=plain["values"],
        per_query=arrays,
        seconds=plain["seconds"],
        items=items,
        files={name: (home / name).read_bytes() for name in plain["files"]},
    )
