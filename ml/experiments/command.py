"""`python -m ml experiment`: plan, run what the ledger lacks, count the claims, write the result."""

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm

from ml.experiments import EXPERIMENTS
from ml.experiments.claims import answer
from ml.experiments.data import Dataset, open_dataset
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.protocol import Experiment, Options
from ml.experiments.result import disagreements, queries_path, result_of, write_result
from ml.experiments.tables import as_text
from ml.training.memory import keep_freed_memory

SMOKE_SEEDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of the command, whole and picklable: worker processes get it too. seeds None: the usual."""

    experiment: str  # module:object
    data: tuple[Path, ...]
    ledger: Path
    seeds: tuple[int, ...] | None
    smoke: bool
    threads: int


def run_command(options: argparse.Namespace) -> dict[str, Any]:
    """What the command prints. Exits with 2 for options that do not fit together."""
    if options.check is not None:
        return _check(options.check)
    request = _request(options)
    if options.only is not None:
        return _run_one(request, options.only, options.seed, options.out)
    return _run_all(request, options.out, workers=options.workers)


def find_experiment(path: str) -> Experiment:
    """The experiment at `module:object`."""
    module, name = path.split(":")
    return cast("Experiment", getattr(importlib.import_module(module), name))


def _request(options: argparse.Namespace) -> Request:
    folders = (options.data or "").split(",")
    if options.name is None or not all(folders) or (options.only is None and options.out is None):
        options.usage_error("needed: NAME, --data DIR[,DIR…], and --out FILE.json or --only ROW --seed S")
    if (options.only is None) != (options.seed is None):
        options.usage_error("--only ROW and --seed S go together: they name the row to measure again")
    if options.seed is not None and options.seed < 0:
        options.usage_error(f"--seed is {options.seed}, it must be at least 0")
    if min(options.workers, options.threads, 1 if options.seeds is None else options.seeds) < 1:
        options.usage_error("--seeds, --threads and --workers are at least 1")
    count = options.seeds or (SMOKE_SEEDS if options.quick else None)
    return Request(
        experiment=EXPERIMENTS[options.name],
        data=tuple(map(Path, folders)),
        ledger=options.ledger,
        seeds=None if count is None else tuple(range(count)),
        smoke=options.quick,
        threads=options.threads,
    )


def _check(path: Path) -> dict[str, Any]:
    found = disagreements(path)
    if found:
        raise ValueError(
            f"{path}: its claims are not what its rows and per-query values give:\n" + "\n".join(found)
        )
    return {"result": str(path), "agrees": True}


class _Prepared:
    """The plan of a request, worked out anew in each process: closures do not travel between processes."""

    def __init__(self, request: Request, *, only: str | None = None) -> None:
        torch.set_num_threads(request.threads)
        keep_freed_memory()
        self.experiment = find_experiment(request.experiment)
        self.datasets: list[Dataset] = [open_dataset(folder) for folder in request.data]
        self.options = Options(
            seeds=request.seeds or tuple(range(self.experiment.seeds)),
            smoke=request.smoke,
            threads=request.threads,
            ledger=Ledger(request.ledger),
        )
        planned = self.experiment.plan(self.datasets, self.options)
        self.runs = [run for run in planned if only in {None, run.name}]
        if not self.runs:
            names = ", ".join(sorted({run.name for run in planned}))
            raise ValueError(f"no row is named {only!r}; names: {names}")
        runs = [(run.setting, run.name, run.seed) for run in self.runs]
        if len(set(runs)) < len(runs):
            twice = sorted({run for run in runs if runs.count(run) > 1})
            raise ValueError(f"runs (setting, name, seed) stand twice: {twice}; is a folder given twice?")
        self.identities = [run.full_identity(self.experiment.name, smoke=request.smoke) for run in self.runs]


def _run_all(request: Request, out: Path, *, workers: int) -> dict[str, Any]:
    prepared = _Prepared(request)
    with _helpers(request, workers - 1):
        records = _finish(prepared)
    evidence = evidence_of(records)
    claims = [] if request.smoke else answer(prepared.experiment.questions(evidence), evidence)
    result = result_of(
        prepared.experiment.name,
        prepared.datasets,
        prepared.runs,
        evidence,
        claims,
        options=prepared.options,
        seconds=sum(record.seconds for record in records),
        queries_file=queries_path(out).name,
    )
    write_result(out, {**result, **prepared.experiment.present(evidence)}, evidence)
    tqdm.write(as_text(evidence.rows), file=sys.stderr)
    return {"result": str(out), "per_query": str(queries_path(out)), "claims": result["claims"]}


def _finish(prepared: _Prepared) -> list[RunRecord]:
    """Every run's record, in the plan's order: first what no other process is doing, then what is left."""
    ledger = prepared.options.ledger
    records: dict[int, RunRecord] = {}
    with tqdm(total=len(prepared.runs), unit="run", file=sys.stderr) as bar:
        for take in (ledger.run_unless_busy, ledger.run):
            for index, run in enumerate(prepared.runs):
                if index in records:
                    continue
                bar.set_description(f"{run.setting} {run.name} seed {run.seed}")
                record = take(prepared.identities[index], run.work)
                if record is not None:
                    records[index] = record
                    bar.update()
    return [records[index] for index in range(len(prepared.runs))]


@contextmanager
def _helpers(request: Request, count: int) -> Iterator[None]:
    """`count` further processes that take runs from the same ledger; they end with this block."""
    context = multiprocessing.get_context("spawn")
    helpers = [context.Process(target=_help, args=(request, os.getpid()), daemon=True) for _ in range(count)]
    try:
        for helper in helpers:
            helper.start()
        yield
    finally:
        for helper in helpers:
            helper.terminate()
            helper.join()


def _help(request: Request, parent: int) -> None:
    """Do runs that nobody else does, as long as the parent lives. Its own failure is the parent's to meet."""
    prepared = _Prepared(request)
    for run, identity in zip(prepared.runs, prepared.identities, strict=True):
        if os.getppid() != parent:
            return
        prepared.options.ledger.run_unless_busy(identity, run.work)


def _run_one(request: Request, name: str, seed: int, out: Path | None) -> dict[str, Any]:
    """The rows of this name and seed measured again, in a ledger of their own; kept in `out` alone."""
    with tempfile.TemporaryDirectory(prefix="experiment-") as folder:
        prepared = _Prepared(replace(request, ledger=Path(folder), seeds=(seed,)), only=name)
        rows = list(evidence_of(_finish(prepared)).rows)
    found = {"experiment": prepared.experiment.name, "rows": rows}
    if out is not None:
        out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found
