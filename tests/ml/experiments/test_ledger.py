"""The run ledger: measured once, kept whole, resumed after a kill, shared by processes."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.experiments.ledger import Ledger, RunRecord, identity_key

IDENTITY = {
    "experiment": "tiny",
    "name": "one",
    "setting": "all",
    "seed": 0,
    "config": {"width": 8},
    "data": "ab",
}
PER_QUERY = {"recall_at_1": np.array([1.0, 0.0, np.nan]), "map": np.array([0.5, 0.25, np.nan])}


def record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "name": "one",
        "setting": "all",
        "seed": 0,
        "values": {"recall_at_1": np.float32(0.5), "bytes": np.int64(12), "engine": "torch"},
        "per_query": PER_QUERY,
        "seconds": 2.5,
        "items": np.array([7, 7, 9]),
        "files": {"weights.bin": b"\x00\x01"},
    }
    return RunRecord(**fields | changes)


def never(checkpoint: Path) -> RunRecord:
    raise AssertionError(f"the work was done again, at {checkpoint}")


def test_a_run_is_done_once_and_read_back_whole(tmp_path: Path) -> None:
    first = Ledger(tmp_path).run(IDENTITY, lambda _: record())
    again = Ledger(tmp_path).run(dict(reversed(IDENTITY.items())), never)

    for found in (first, again):
        assert (found.name, found.setting, found.seed, found.seconds) == ("one", "all", 0, 2.5)
        assert found.values == {"recall_at_1": 0.5, "bytes": 12, "engine": "torch"}
        assert found.files == {"weights.bin": b"\x00\x01"}
        assert found.items is not None
        assert found.items.tolist() == [7, 7, 9]
        assert sorted(found.per_query) == ["map", "recall_at_1"]
        np.testing.assert_array_equal(found.per_query["recall_at_1"], PER_QUERY["recall_at_1"])


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"config": {"width": 9}}, {"data": "cd"}, {"name": "two"}, {"smoke": True}]
)
def test_another_seed_configuration_or_data_is_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    ledger = Ledger(tmp_path)
    ledger.run(IDENTITY, lambda _: record())

    assert ledger.find(IDENTITY | change) is None
    assert identity_key(IDENTITY | change) != identity_key(IDENTITY)


KILLED = """
import os, signal, sys
from pathlib import Path
from ml.experiments.ledger import Ledger

def work(checkpoint):
    checkpoint.write_text("epoch 3")
    os.kill(os.getpid(), signal.SIGKILL)

Ledger(Path(sys.argv[1])).run({"seed": 0}, work)
"""


def test_a_killed_run_goes_on_from_its_checkpoint_and_leaves_no_lock(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    seen = []

    def resumed(checkpoint: Path) -> RunRecord:
        seen.append(checkpoint.read_text())
        return record()

    ledger = Ledger(tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert ledger.find({"seed": 0}) is None
    assert ledger.run_unless_busy({"seed": 0}, resumed) is not None
    assert seen == ["epoch 3"]
    assert list(tmp_path.glob("*.checkpoint")) == []


def test_a_failed_run_leaves_its_checkpoint_and_no_record(tmp_path: Path) -> None:
    def fail(checkpoint: Path) -> RunRecord:
        checkpoint.write_text("epoch 1")
        raise FloatingPointError("diverged")

    ledger = Ledger(tmp_path)
    with pytest.raises(FloatingPointError, match="diverged"):
        ledger.run(IDENTITY, fail)

    assert ledger.find(IDENTITY) is None
    assert [path.read_text() for path in tmp_path.glob("*.checkpoint")] == ["epoch 1"]


def test_a_record_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(TypeError, match="a row's value is None"):
        ledger.run(IDENTITY, lambda _: record(values={"map": None}))

    assert ledger.find(IDENTITY) is None
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_run_in_the_making_is_skipped_or_waited_for_never_done_twice(tmp_path: Path) -> None:
    ledger, begun, go_on = Ledger(tmp_path), threading.Event(), threading.Event()

    def slow(_: Path) -> RunRecord:
        begun.set()
        assert go_on.wait(30)
        return record()

    waited: list[RunRecord] = []
    maker = threading.Thread(target=ledger.run, args=(IDENTITY, slow))
    waiter = threading.Thread(target=lambda: waited.append(ledger.run(IDENTITY, never)))
    maker.start()
    assert begun.wait(30)
    waiter.start()
    assert ledger.run_unless_busy(IDENTITY, never) is None
    assert ledger.run_unless_busy(IDENTITY | {"seed": 1}, lambda _: record(seed=1)) is not None
    assert waited == []
    go_on.set()
    maker.join(30)
    waiter.join(30)

    assert [found.values["bytes"] for found in waited] == [12]


def test_a_run_may_stand_on_another_ones_files(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def student(_: Path) -> RunRecord:
        teacher = ledger.run(IDENTITY, lambda _: record())
        return record(name="student", values={"from": teacher.files["weights.bin"].hex()})

    assert ledger.run(IDENTITY | {"name": "student"}, student).values == {"from": "0001"}
    assert ledger.find(IDENTITY) is not None


@pytest.mark.parametrize(
    "broken",
    [
        {"per_query": {"map": np.zeros(2)}},  # three items
        {"per_query": {"map": np.zeros((3, 1))}},
        {"per_query": {"item": np.zeros(3)}},
        {"per_query": {"recall/1": np.zeros(3)}},
        {"files": {"../weights.bin": b""}},
        {"files": {"record.json": b""}},
    ],
)
def test_a_record_that_could_not_be_told_apart_later_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="run one: "):
        record(**broken)


@pytest.mark.parametrize("identity", [{"rate": float("nan")}, {"path": Path("x")}])
def test_an_identity_that_is_not_json_is_refused(tmp_path: Path, identity: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Ledger(tmp_path).run(identity, never)

    assert list(tmp_path.iterdir()) == []
