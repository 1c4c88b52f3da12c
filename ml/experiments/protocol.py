"""What an experiment has to offer so that `python -m ml experiment` can run it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ml.experiments.claims import Question
from ml.experiments.data import Dataset
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import Ledger, RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the experiment is to be run.

    seeds: those of the main arms; arms that are only described may take the first few.
    smoke: small arms, minutes in all, no verdict. threads: for torch; ONNX Runtime always has one.
    ledger: for work that stands on another run's files (`ledger.run(...)` inside the work is allowed).
    """

    seeds: tuple[int, ...]
    smoke: bool
    threads: int
    ledger: Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One row to measure. `identity` is JSON and holds everything else that decides the outcome: the
    configuration and the data's fingerprint; the harness adds experiment, name, setting, seed and smoke.
    """

    name: str
    setting: str
    seed: int
    identity: Mapping[str, Any]
    work: Callable[[Path], RunRecord]

    def full_identity(self, experiment: str, *, smoke: bool) -> dict[str, Any]:
        """What the ledger knows this run by; a run that stands on another one's files asks for it by this."""
        own = {"name": self.name, "setting": self.setting, "seed": self.seed}
        return {"experiment": experiment, **own, "smoke": smoke, **self.identity}


class Experiment(Protocol):
    """An experiment; stateless, for worker processes make their own.

    name: as in the command. seeds: how many by default.
    """

    name: str
    seeds: int

    def plan(self, datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
        """Every run, the most important first. Opens nothing and trains nothing: that is the runs' work."""

    def questions(self, evidence: Evidence) -> list[Question]:
        """What the claims ask of the finished rows; not called for a smoke run."""

    def present(self, evidence: Evidence) -> dict[str, Any]:
        """Further keys of the result file: `title`, `about`, `tables`, `plots` (see benchmarks/report.py)."""
