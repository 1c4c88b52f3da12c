"""Result and per-query files: written whole, small, the same bytes twice, and enough to count the claims again."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.experiments.claims import Question, Side, answer
from ml.experiments.evidence import evidence_of, read_queries, write_queries
from ml.experiments.ledger import RunRecord
from ml.experiments.result import disagreements, queries_path, recompute, write_result
from tests.ml.experiments.planted import QUERIES, planted_runs


def write(path: Path, runs: Sequence[RunRecord], questions: Sequence[Question]) -> dict[str, Any]:
    evidence = evidence_of(runs)
    claims = [claim.as_json() for claim in answer(questions, evidence)]
    result = {"rows": list(evidence.rows), "per_query": queries_path(path).name, "claims": claims}
    write_result(path, result, evidence)
    return result


def compared(setting: str, metric: str = "recall_at_1") -> Question:
    return Question(
        id="C2",
        cell=f"{setting} {metric}",
        statistic="paired_recall_at_1",
        setting=setting,
        a=Side("one", metric),
        b=Side("none", metric),
        target="low > 0",
        family="all",
    )


def test_claims_are_counted_again_from_the_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    questions = [
        compared("digits"),
        compared("photos"),
        compared("digits", "map"),
        compared("photos", "bytes"),
    ]
    written = write(path, [*planted_runs(), *planted_runs("photos", gain=0.0)], questions)

    assert recompute(path) == written["claims"]
    assert disagreements(path) == []
    assert [claim["holds"] for claim in written["claims"]][:2] == [True, False]
    assert {"id", "cell", "statistic", "value", "low", "high", "n_seeds", "target", "holds"} <= set(
        written["claims"][0]
    )


@pytest.mark.parametrize(("key", "value"), [("low", 0.5), ("holds", False), ("value", 0.0), ("n_seeds", 9)])
def test_a_claim_that_says_otherwise_than_its_rows_is_named(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "tiny.json"
    written = write(path, planted_runs(), [compared("digits")])
    written["claims"][0][key] = value
    path.write_text(json.dumps(written))

    (found,) = disagreements(path)
    assert found.startswith(f"C2/digits recall_at_1: {key} is {value}, counted again ")


def test_the_per_query_file_has_a_line_per_query_and_a_column_per_series(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    runs = [*planted_runs(), *planted_runs("photos")]
    write(path, runs, [compared("digits")])
    with gzip.open(tmp_path / "tiny.per_query.csv.gz", "rt") as stream:
        head, *lines = list(csv.reader(stream))

    assert head == ["setting", "query", "item"] + [
        f"{name}/{seed}/recall_at_1" for seed in (0, 1, 2) for name in ("none", "one")
    ]  # neither `map` nor `photos`: no claim is counted from them
    assert len(lines) == QUERIES
    assert lines[5][:3] == ["digits", "5", "2"]
    assert [set(line[3:]) <= {"0", "1"} for line in lines] == [True] * (QUERIES - 1) + [False]
    assert lines[-1][3:] == [""] * 6


def test_settings_share_the_file_and_leave_each_other_s_columns_blank(tmp_path: Path) -> None:
    digits = RunRecord("a", "digits", 0, {}, {"map": np.array([0.123456789, np.nan])})
    photos = RunRecord("b/c", "photos", 1, {}, {"map": np.array([1.0])}, items=np.array([42]))
    write_queries(evidence_of([digits, photos]), tmp_path / "q.csv.gz")
    with gzip.open(tmp_path / "q.csv.gz", "rt") as stream:
        lines = stream.read().splitlines()
    tables = read_queries(tmp_path / "q.csv.gz")

    assert lines == [
        "setting,query,item,a/0/map,b/c/1/map",
        "digits,0,0,0.12346,",
        "digits,1,1,,",
        "photos,0,42,,1",
    ]
    assert tables["photos"].columns.keys() == {("b/c", 1, "map")}
    np.testing.assert_array_equal(tables["digits"].columns["a", 0, "map"], [0.12346, np.nan])  # type: ignore[index]


def test_the_same_evidence_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "tiny.json", planted_runs(), [compared("digits")])

    for name in ("tiny.json", "tiny.per_query.csv.gz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "tiny.json",
        "tiny.per_query.csv.gz",
    ]


def test_a_value_that_json_does_not_know_is_null_in_its_row() -> None:
    run = RunRecord("a", "digits", 0, {"map": float("nan"), "word": "x"})

    assert evidence_of([run]).rows == [
        {"name": "a", "seed": 0, "setting": "digits", "map": None, "word": "x"}
    ]


def test_a_file_that_is_no_per_query_file_is_refused(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "q.csv.gz", "wt") as stream:
        stream.write("name,query\n")

    with pytest.raises(ValueError, match="expected setting, query, item"):
        read_queries(tmp_path / "q.csv.gz")
