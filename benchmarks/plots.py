"""A result file's plots as PNG: the same numbers give the same bytes.

A plot holds `file` (a name ending in .png), `title`, `kind`, `x_label`, `y_label` and `series`. kind `line` or
`scatter`: a series has `name`, `x`, `y`, maybe `low` and `high` (bounds of y) and `labels` (a word per point);
`x_scale: log` where sizes span decades. kind `heat`: one series with `x` and `y` (words) and `z` (a row per y,
null where there is no cell).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
MARKERS = "osD^vP*X"
KINDS = ("scatter", "line", "heat")
STYLE = {"font.family": "DejaVu Sans", "font.size": 9.0, "axes.grid": True, "grid.alpha": 0.3}


def draw(plot: Mapping[str, Any], folder: Path) -> Path:
    """Write `folder/<file>`. Raises ValueError for another kind and for a file that is no plain .png name."""
    name = str(plot["file"])
    if plot["kind"] not in KINDS or Path(name).name != name or not name.endswith(".png"):
        raise ValueError(
            f"plot {name!r} of kind {plot['kind']!r}: expected a plain name ending in .png"
            f" and one of {', '.join(KINDS)}"
        )
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(7.2, 4.4), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        axes.set(title=plot["title"], xlabel=plot["x_label"], ylabel=plot["y_label"])
        if plot["kind"] == "heat":
            _heat(axes, plot["series"][0])
        else:
            _points(figure, axes, plot)
        figure.savefig(folder / name, metadata={"Software": None})
    return folder / name


def _points(figure: Figure, axes: Axes, plot: Mapping[str, Any]) -> None:
    axes.set_xscale(plot.get("x_scale", "linear"))
    for index, series in enumerate(plot["series"]):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.plot(
            series["x"],
            series["y"],
            color=colour,
            marker=marker,
            linestyle="-" if plot["kind"] == "line" else "none",
            label=series["name"],
        )
        if series.get("low") and plot["kind"] == "line":
            axes.fill_between(
                series["x"], series["low"], series["high"], color=colour, alpha=0.15, linewidth=0
            )
        elif series.get("low"):
            axes.vlines(series["x"], series["low"], series["high"], color=colour)
        for x, y, label in zip(series["x"], series["y"], series.get("labels", [])):
            axes.annotate(label, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour)
    if len(plot["series"]) > 1:
        figure.legend(loc="outside right upper", fontsize=7)


def _heat(axes: Axes, series: Mapping[str, Any]) -> None:
    axes.grid(visible=False)
    cells = np.array(series["z"], np.float64)  # None: no cell
    axes.imshow(cells, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(series["x"])), series["x"])
    axes.set_yticks(range(len(series["y"])), series["y"])
    middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            colour = "black" if value > middle else "white"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour, fontsize=8)
