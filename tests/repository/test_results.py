"""docs/results.md: made from its JSON alone, with verdicts as they are, and plots that do not change by themselves."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.plots import draw
from benchmarks.report import PAGE, RESULTS, over_seeds, page, read_results


def claim(**changes: Any) -> dict[str, Any]:
    return {
        "id": "C2", "cell": "one - none", "statistic": "paired_recall_at_1", "value": 0.00123, "low": -0.0011,
        "high": 0.0035, "p": 0.31, "n_seeds": 5, "target": "low > 0", "holds": False, "note": "",
    } | changes  # fmt: skip


def result(**changes: Any) -> dict[str, Any]:
    rows = [
        {
            "name": "one",
            "seed": seed,
            "setting": "digits",
            "recall_at_1": 0.9 + seed / 100,
            "bytes": 1000,
            "map": None,
        }
        for seed in (0, 1)
    ]
    return {
        "experiment": "compact", "title": "Compact", "data": {"name": "digits", "images": 70_000, "classes": 10},
        "seeds": [0, 1], "smoke": False, "rows": rows, "claims": [claim()], "seconds": 5400.0,
        "machine": {"threads": 2},
    } | changes  # fmt: skip


def plot(**changes: Any) -> dict[str, Any]:
    series = [
        {
            "name": "a",
            "x": [1, 10],
            "y": [0.1, 0.2],
            "low": [0.0, 0.1],
            "high": [0.2, 0.3],
            "labels": ["s", "l"],
        },
        {"name": "b", "x": [2, 20], "y": [0.3, 0.1]},
    ]
    return {
        "file": "p.png", "title": "P", "kind": "line", "x_label": "x", "y_label": "y", "series": series
    } | changes  # fmt: skip


def test_the_page_is_what_its_json_files_give() -> None:
    results = read_results()

    assert PAGE.read_text(encoding="utf-8") == page(results)
    plots = [plot["file"] for result in results for plot in result.get("plots", [])]
    assert [name for name in plots if not (RESULTS / name).exists()] == []
    assert not any(result.get("smoke") for result in results)


def test_a_claim_that_does_not_hold_is_shown_with_its_interval_and_its_reason() -> None:
    text = page([result(claims=[claim(note="the layer has 24 weights"), claim(cell="map", holds=True)])])

    assert "| C2 | `paired_recall_at_1` | 2 | 1 | 1 | 0 | no |" in text
    assert (
        "| C2 | one - none | `paired_recall_at_1` | 0.00123 | -0.0011 … 0.0035 | 0.31 | 5 | `low > 0` | no |"
        in text
    )
    assert "C2, one - none: the layer has 24 weights" in text


def test_an_untestable_cell_is_neither_held_nor_failed() -> None:
    text = page([result(claims=[claim(holds=True), claim(cell="b", holds="untestable")])])

    assert "| C2 | `paired_recall_at_1` | 2 | 1 | 0 | 1 | no |" in text
    assert "| `low > 0` | untestable |" in text


def test_rows_are_joined_over_seeds_and_equal_values_stand_alone() -> None:
    (row,) = over_seeds(result()["rows"])

    assert row == {"name": "one", "seeds": 2, "recall_at_1": "0.905 ± 0.0071", "bytes": 1000, "map": None}
    assert over_seeds(result()["rows"], ["bytes", "absent"]) == [{"name": "one", "seeds": 2, "bytes": 1000}]


def test_experiments_stand_before_benchmarks_and_a_smoke_run_gives_no_verdict() -> None:
    bench = {"title": "Bench", "about": "…", "command": "c", "seed": 1, "machine": {}, "tables": []}
    text = page([bench, result(smoke=True, claims=[], plots=[plot()])])

    assert text.index("## Compact") < text.index("## Bench")
    assert "A smoke run" in text
    assert "## Claims" not in text
    assert "![P](results/p.png)" in text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "scatter", "x_scale": "log"},
        {"kind": "heat", "series": [{"x": ["a", "b"], "y": ["c"], "z": [[0.1, 0.9]]}]},
    ],
)
def test_the_same_numbers_give_the_same_picture(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = draw(plot(**changes), tmp_path).read_bytes()
    again = draw(plot(**changes), tmp_path).read_bytes()
    other = draw(plot(**changes, title="Q"), tmp_path).read_bytes()

    assert first == again
    assert first.startswith(b"\x89PNG")
    assert first != other


@pytest.mark.parametrize("changes", [{"kind": "pie"}, {"file": "../p.png"}, {"file": "p.svg"}])
def test_a_plot_of_no_known_kind_or_place_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a plain name ending in"):
        draw(plot(**changes), tmp_path)

    assert list(tmp_path.iterdir()) == []
