"""The result file of an experiment and its per-query file: written whole, and counted again from themselves."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml.experiments.claims import Claim, answer, question_of
from ml.experiments.data import Dataset
from ml.experiments.evidence import Evidence, read_queries, write_queries
from ml.experiments.protocol import Options, PlannedRun

QUERIES_SUFFIX = ".per_query.csv.gz"


def queries_path(result: Path) -> Path:
    """FILE.json -> FILE.per_query.csv.gz, beside it."""
    return result.with_name(result.stem + QUERIES_SUFFIX)


def write_result(path: Path, result: Mapping[str, Any], evidence: Evidence) -> None:
    """Both files, each under a temporary name first and then renamed, the result last.

    The per-query file holds the series that claims were counted from; without claims (a smoke run) all.
    """
    claims = result["claims"]
    series = {one for claim in claims for one in _series(claim)} if claims else None
    path.parent.mkdir(parents=True, exist_ok=True)
    queries = queries_path(path)
    temporary = queries.with_name(queries.name + ".tmp")
    write_queries(evidence, temporary, series)
    temporary.replace(queries)
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def result_of(
    name: str,
    datasets: Sequence[Dataset],
    planned: Sequence[PlannedRun],
    evidence: Evidence,
    claims: Sequence[Claim],
    *,
    options: Options,
    seconds: float,
    queries_file: str,
) -> dict[str, Any]:
    """The contract's object, with the configuration of each arm added. seconds: of all runs together."""
    return {
        "experiment": name,
        "data": data_of(datasets),
        "seeds": sorted({run.seed for run in planned}),
        "smoke": options.smoke,
        "rows": list(evidence.rows),
        "per_query": queries_file,
        "claims": [claim.as_json() for claim in claims],
        "seconds": round(seconds, 3),
        "machine": machine(options.threads),
        "arms": _arms(planned),
    }


def data_of(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Name, fingerprint, images and classes of the data sets together, and of each."""
    parts = [
        {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "images": dataset.image_count,
            "classes": len(dataset.classes),
        }
        for dataset in datasets
    ]
    if len(parts) == 1:
        return parts[0]
    joined = "".join(str(part["fingerprint"]) for part in parts)
    return {
        "name": "+".join(dataset.name for dataset in datasets),
        "fingerprint": hashlib.sha256(joined.encode()).hexdigest(),
        "images": sum(dataset.image_count for dataset in datasets),
        "classes": sum(len(dataset.classes) for dataset in datasets),
        "parts": parts,
    }


def machine(threads: int) -> dict[str, Any]:
    """What the seconds depend on."""
    return {
        "threads": threads,
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "torch": version("torch"),
    }


def recompute(path: Path) -> list[dict[str, Any]]:
    """The claim objects of a result file counted again, from its rows and its per-query file alone.

    Raises ValueError when the file's claims cannot be counted from them.
    """
    result = json.loads(path.read_text(encoding="utf-8"))
    evidence = Evidence(result["rows"], read_queries(path.with_name(result["per_query"])))
    return [claim.as_json() for claim in answer([question_of(claim) for claim in result["claims"]], evidence)]


def disagreements(path: Path) -> list[str]:
    """What a result file says of its claims that its rows and per-query values do not; empty when all agrees."""
    stated = json.loads(path.read_text(encoding="utf-8")).get("claims")
    if stated is None:
        raise ValueError(f"{path}: no `claims`, so it is not the result of an experiment")
    return [
        f"{claim['id']}/{claim['cell']}: {key} is {claim[key]}, counted again {again[key]}"
        for claim, again in zip(stated, recompute(path), strict=True)
        for key in again
        if not _is_same(claim.get(key), again[key])
    ]


def _is_same(stated: Any, again: Any) -> bool:
    """Equal; numbers but for the last digits, in which another processor may round otherwise."""
    if isinstance(stated, float) and isinstance(again, float):
        return math.isclose(stated, again, rel_tol=1e-9, abs_tol=1e-12)
    return bool(stated == again)


def _series(claim: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Setting, name and metric of all that a claim was counted from."""
    counted = claim["counted"]
    sides = [counted["a"], counted["b"], *(counted["headroom"] or [])]
    return [(counted["setting"], side["name"], side["metric"]) for side in sides if side]


def _arms(planned: Sequence[PlannedRun]) -> list[dict[str, Any]]:
    """What decides each arm's outcome beside its seed, as the ledger is keyed by it; once per arm."""
    arms: dict[tuple[str, str], dict[str, Any]] = {}
    for run in planned:
        arms.setdefault((run.name, run.setting), {"name": run.name, "setting": run.setting, **run.identity})
    return list(arms.values())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
