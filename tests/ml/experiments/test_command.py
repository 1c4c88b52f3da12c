"""`python -m ml experiment`, by a small real experiment over real photos."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml import experiments
from ml.__main__ import main
from tests.ml.experiments import colours
from tests.photo_folders import photo_folder


@pytest.fixture(scope="module")
def shop(data_packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 real photos in class folders."""
    return photo_folder(data_packs, tmp_path_factory.mktemp("data") / "shop", first=0, count=160)


@pytest.fixture
def experiment(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Runs the command; returns what it printed as JSON, or its exit status when that is not 0."""
    monkeypatch.setitem(experiments.EXPERIMENTS, "compact", "tests.ml.experiments.colours:EXPERIMENT")

    def run(*arguments: str) -> Any:
        given = ["--data", str(shop), "--ledger", str(tmp_path / "ledger"), *arguments]
        status = main(["experiment", "compact", *given])
        printed = capsys.readouterr()
        return json.loads(printed.out) if status == 0 else (status, printed.err)

    return run


def work_forbidden(*_: object) -> Any:
    def work(checkpoint: Path) -> None:
        raise AssertionError(f"measured again, at {checkpoint}")

    return work


def test_an_experiment_writes_the_contract_s_object_and_prints_its_claims(
    experiment: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "results" / "colours.json"
    printed = experiment("--out", str(out))
    result = json.loads(out.read_text())

    assert printed == {
        "result": str(out),
        "per_query": str(out.with_name("colours.per_query.csv.gz")),
        "claims": result["claims"],
    }
    assert (result["experiment"], result["smoke"], result["seeds"]) == ("colours", False, [0, 1, 2])
    assert (result["data"]["name"], result["data"]["images"]) == ("shop", 160)
    assert [(row["name"], row["seed"], row["setting"]) for row in result["rows"]] == [
        (name, seed, "shop") for seed in (0, 1, 2) for name in ("colour", "pixels")
    ]
    (claim,) = result["claims"]
    assert (claim["id"], claim["n_seeds"], claim["target"]) == ("T1", 3, "low > 0")
    assert claim["holds"] is (claim["low"] > 0)
    assert result["machine"]["threads"] == 1
    assert (result["per_query"], result["title"]) == ("colours.per_query.csv.gz", "Colours")
    assert main(["experiment", "--check", str(out)]) == 0


def test_a_second_call_measures_nothing_and_gives_the_same_file(
    experiment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment("--out", str(tmp_path / "first.json"), "--seeds", "1")
    monkeypatch.setattr(colours, "_work", work_forbidden)
    experiment("--out", str(tmp_path / "second.json"), "--seeds", "1")
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("first.json", "second.json"))

    assert first | {"per_query": None} == second | {"per_query": None}
    with pytest.raises(AssertionError, match="measured again"):
        experiment("--out", str(tmp_path / "third.json"), "--seeds", "2")
    assert not (tmp_path / "third.json").exists()


def test_a_smoke_run_has_two_seeds_no_verdict_and_runs_of_its_own(
    experiment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment("--out", str(tmp_path / "smoke.json"), "--quick")
    result = json.loads((tmp_path / "smoke.json").read_text())
    monkeypatch.setattr(colours, "_work", work_forbidden)

    assert (result["smoke"], result["seeds"], result["claims"]) == (True, [0, 1], [])
    with pytest.raises(AssertionError, match="measured again"):
        experiment("--out", str(tmp_path / "full.json"))


def test_one_row_is_measured_again_whatever_the_ledger_holds(
    experiment: Callable[..., Any], tmp_path: Path
) -> None:
    experiment("--out", str(tmp_path / "all.json"))
    kept = sorted((tmp_path / "ledger").iterdir())
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    for path in (tmp_path / "ledger").glob("*/record.json"):
        path.write_text(path.read_text().replace('"recall_at_1": 0', '"recall_at_1": 9'))

    one = tmp_path / "one.json"

    assert experiment("--only", "pixels", "--seed", "2", "--out", str(one))["rows"] == [rows[-1]]
    assert json.loads(one.read_text())["rows"] == [rows[-1]]
    assert sorted((tmp_path / "ledger").iterdir()) == kept
    status, errors = experiment("--only", "sounds", "--seed", "2")
    assert (status, errors.splitlines()[-1]) == (1, "error: no row is named 'sounds'; names: colour, pixels")


def test_a_folder_given_twice_is_refused_before_any_run(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(experiments.EXPERIMENTS, "compact", "tests.ml.experiments.colours:EXPERIMENT")
    ledger, out = tmp_path / "ledger", tmp_path / "x.json"

    status = main(
        ["experiment", "compact", "--data", f"{shop},{shop}", "--out", str(out), "--ledger", str(ledger)]
    )

    assert status == 1
    assert "stand twice" in capsys.readouterr().err
    assert not ledger.exists()
    assert not out.exists()


def test_worker_processes_share_the_runs(experiment: Callable[..., Any], tmp_path: Path) -> None:
    experiment("--out", str(tmp_path / "shared.json"), "--workers", "2", "--seeds", "2")
    experiment("--out", str(tmp_path / "alone.json"), "--seeds", "2", "--ledger", str(tmp_path / "other"))
    shared, alone = (json.loads((tmp_path / name).read_text()) for name in ("shared.json", "alone.json"))

    assert shared["rows"] == alone["rows"]
    assert shared["claims"] == alone["claims"]


def test_a_claim_that_was_touched_up_fails_the_check(experiment: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "colours.json"
    experiment("--out", str(out), "--seeds", "2")
    result = json.loads(out.read_text())
    result["claims"][0]["low"] += 0.5
    out.write_text(json.dumps(result))

    status, errors = experiment("--check", str(out))
    assert status == 1
    assert "T1/pixels - colour: low is" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["sounds", "--data", "x", "--out", "y.json"],
        ["compact", "--out", "y.json"],
        ["compact", "--data", "x"],
        ["compact", "--data", "x", "--only", "parity"],
        ["compact", "--data", "x", "--only", "parity", "--seed", "-1"],
        ["compact", "--data", "x,", "--out", "y.json"],
        ["compact", "--data", "x", "--out", "y.json", "--seeds", "0"],
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["experiment", *arguments])

    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_json_alone_goes_to_standard_output(shop: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from ml import experiments; from ml.__main__ import main;"
        "experiments.EXPERIMENTS['compact'] = 'tests.ml.experiments.colours:EXPERIMENT'; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--data", str(shop), "--out", str(tmp_path / "a.json"), "--ledger", str(tmp_path / "ledger")]
    done = subprocess.run(
        [sys.executable, "-c", program, "experiment", "compact", "--quick", *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip

    assert json.loads(done.stdout)["claims"] == []
    assert "4/4" in done.stderr  # progress, then the table
    assert "setting  recall_at_1  map_at_100" in done.stderr
