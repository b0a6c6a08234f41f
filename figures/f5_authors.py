"""Time saved against multiply-adds saved: the kernels of the authors of C-K-S, and ours.

Left: times from comments in the authors' public code (figures/data/authors_measurements.csv, which names the source;
the cards are inferred), without and with trimming. Both skip the inserted zeros already, so the count is of padding
alone. Right: the same layers on a CPU (figures/data/cpu_amd_epyc_2_threads.csv), ours against the regular way in
NumPy, which multiplies the padded and the inserted zeros. The batches are smaller; the ratio of the counts does not
depend on them.
"""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cks_numba import flops
from cks_numba.bench import results
from cks_numba.geometry import ConvShape
from cks_numba.plots import gallery

DATA = Path(__file__).parent / "data"
ON_THE_LINE = "on the line: the time falls\nas the multiply-adds do"
NUMBERS = ("IH", "IC", "OC", "F", "stride", "padding")
HOLLOW = "GTX 1050 (inferred)"  # the card with hollow points; those of the other card are filled


def shape_of(ih: int, ic: int, oc: int, f: int, stride: int, padding: int) -> ConvShape:
    """Return a layer with one image: the ratio of two counts does not depend on the number of images."""
    return ConvShape(n=1, ih=ih, iw=ih, ic=ic, oc=oc, fh=f, fw=f, stride=stride, padding=padding)


def authors() -> list[dict[str, str]]:
    """Return the rows in which both times were measured; one row has a stated target in place of a time."""
    with (DATA / "authors_measurements.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [row for row in rows if row["without_trim_ms"] and row["with_trim_ms"] and "target" not in row["note"]]


def sizes(row: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(row[name]) for name in NUMBERS)


def padding_alone(row: dict[str, str]) -> float:
    """Return the multiply-adds without trimming over those with it.

    An operator that skips the inserted zeros but does not trim multiplies as much as conv2d on a padded x.
    """
    return flops.count("conv2d", shape_of(*sizes(row))).saved


def ours() -> dict[tuple[str, tuple[int, ...]], float]:
    """Return the time of the regular way over ours, by operator and sizes."""
    times: dict[tuple[str, tuple[int, ...]], dict[str, float]] = {}
    for row in results.read(DATA / "cpu_amd_epyc_2_threads.csv"):
        key = row.operator, (row.ih, row.ic, row.oc, row.fh, row.stride, row.padding)
        if row.layout == "NHWC":
            times.setdefault(key, {})[row.contender] = row.median_ms
    return {key: here[results.REGULAR] / here[results.OURS] for key, here in times.items()}


def draw_axes(
    ax: Axes, least: float, most: float, ticks: tuple[float, ...], title: str, below: str, baseline: str
) -> None:
    """Draw a square with the line on which the gain in time equals the gain in multiply-adds."""
    ax.plot([least, most], [least, most], color="black", linewidth=2, zorder=1)
    ax.set(xscale="log", yscale="log", xlim=(least, most), ylim=(least, most))
    ax.set_box_aspect(1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set(major_locator=FixedLocator(ticks), minor_locator=NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(True)
    ax.set_title(title)
    ax.set_xlabel(below)
    ax.text(0.97, 0.03, ON_THE_LINE, ha="right", va="bottom", transform=ax.transAxes, fontsize=14)
    ax.text(0.03, 0.97, baseline, va="top", transform=ax.transAxes, fontsize=14, style="italic")


def legend(fig: Figure, cards: list[str]) -> None:
    """Draw the legend: the operators, and below them the cards of the left panel."""
    look = dict(linestyle="", markersize=13, markeredgecolor="black")
    handles = [Line2D([], [], label=name, **look, **style) for name, style in gallery.OPERATORS.items()]
    for card in cards:
        colour = "white" if card == HOLLOW else "#777777"
        handles.append(Line2D([], [], label=f"left: {card}", color=colour, marker="D", **look))
    fig.legend(handles=handles, loc="outside upper center", ncols=2, handletextpad=0.2, columnspacing=1.2)


def draw() -> Figure:
    """Return the figure: the authors' gains on the left, ours on the right."""
    fig = Figure(figsize=(10, 6.8), layout="constrained")
    left, right = fig.subplots(1, 2)
    draw_axes(
        left,
        1,
        1.8,
        (1, 1.2, 1.4, 1.6, 1.8),
        "The authors on GPUs:\ntrimming padded zeros",
        "multiply-adds without / with",
        "without: their own kernel,\nwhich multiplies padded\nzeros, no inserted ones",
    )
    left.set_ylabel("time without / with")
    draw_axes(
        right,
        0.9,
        24,
        (1, 2, 4, 8, 16),
        "Ours on a CPU:\nskipping all added zeros",
        "multiply-adds, regular way / ours",
        "regular way: NumPy, which\nmultiplies padded and\ninserted zeros",
    )
    right.set_ylabel("time, regular way / ours")
    measured, rows = ours(), authors()
    for row in rows:
        operator, key = row["operator"], (row["operator"], sizes(row))
        look = dict(s=120, edgecolors="black", zorder=2, **gallery.OPERATORS[operator])
        hollow = dict(facecolors="white", edgecolors=look["color"], linewidths=3) if row["gpu"] == HOLLOW else {}
        left.scatter(
            padding_alone(row), float(row["without_trim_ms"]) / float(row["with_trim_ms"]), **{**look, **hollow}
        )
        if key in measured:
            right.scatter(flops.count(operator, shape_of(*sizes(row))).saved, measured[key], **look)
    legend(fig, sorted({row["gpu"] for row in rows}, reverse=True))
    return fig
