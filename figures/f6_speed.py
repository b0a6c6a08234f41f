"""PyTorch's time over ours, by the size of the map, a panel for each file of timings that is committed.

The data are figures/data/cpu_*.csv, axes_*.csv and gpu_*.csv, which ``cks-numba bench`` writes. A point is a layer,
with PyTorch in its faster layout; a line joins the geometric means of the sizes with at least MANY layers.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cks_numba.bench import results
from cks_numba.buffers import is_last
from cks_numba.plots import gallery

DATA = Path(__file__).parent / "data"
STEP = 0.27  # distance between two operators at one size; sizes are 1 apart
MANY = 3  # layers whose mean is drawn
POWERS = {1: "", 2: "²", 3: "³"}  # what a size is raised to, by the number of axes
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)


def ratios(rows: list[results.Row]) -> dict[str, dict[int, list[float]]]:
    """Return PyTorch's time over ours, by operator and by rows of the map."""
    times: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in rows:
        key = row.contender
        if key == results.OURS and not is_last(row.layout):
            continue
        times[row.case][key] = min(row.median_ms, times[row.case].get(key, row.median_ms))
    found: dict[str, dict[int, list[float]]] = {operator: defaultdict(list) for operator in gallery.OPERATORS}
    for (operator, _, size, *_), here in times.items():
        if results.PEER in here:
            found[operator][size].append(here[results.PEER] / here[results.OURS])
    return found


def draw_panel(ax: Axes, rows: list[results.Row]) -> None:
    """Draw the points and the means of the three operators."""
    found = ratios(rows)
    sizes = sorted({size for by_size in found.values() for size in by_size})
    for k, (operator, style) in enumerate(gallery.OPERATORS.items()):
        where = {size: sizes.index(size) + (k - 1) * STEP for size in sorted(found[operator])}
        points = [(where[size], ratio) for size in where for ratio in found[operator][size]]
        ax.scatter([x for x, _ in points], [ratio for _, ratio in points], s=55, alpha=0.5, linewidths=0, **style)
        many = [size for size in where if len(found[operator][size]) >= MANY]
        means = [geometric_mean(found[operator][size]) for size in many]
        look = dict(markersize=12, linewidth=2, markeredgecolor="black", label=operator)
        ax.plot([where[size] for size in many], means, **look, **style)
    for k in range(0, len(sizes), 2):  # a band behind every second size, so that points are seen to belong to theirs
        ax.axvspan(k - 0.5, k + 0.5, color="#F1F1EE", zorder=0)
    ax.axhline(1, color="black", linewidth=2)
    note = dict(xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="top")
    ax.annotate("below this line PyTorch is faster", (0.01, 1), (0, -6), **note)
    ax.set_yscale("log")
    ax.set_ylim(bottom=min(0.85, ax.get_ylim()[0]))  # room for the note under the line
    ax.yaxis.set(major_locator=FixedLocator(TICKS), minor_locator=NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    cases = {size: sum(len(by_size[size]) for by_size in found.values()) for size in sizes}
    ax.set_xticks(range(len(sizes)), [f"{size}{POWERS[rows[0].axes]}\n{cases[size]}" for size in sizes])
    ax.set_xlim(-0.5, len(sizes) - 0.5)
    ax.grid(axis="y")
    axes = {1: "one axis", 2: "two axes", 3: "three axes"}[rows[0].axes]
    ax.set_title(f"{rows[0].device},\n{rows[0].threads} threads, {rows[0].dtype}, {axes}: {sum(cases.values())} cases")


def draw() -> Figure:
    """Return the figure: a panel for each file."""
    files = [path for kind in ("cpu", "axes", "gpu") for path in sorted(DATA.glob(f"{kind}_*.csv"))]
    fig = Figure(figsize=(8.6, 6.6 * len(files)), layout="constrained")
    for ax, path in zip(fig.subplots(len(files), 1, squeeze=False)[:, 0], files, strict=True):
        draw_panel(ax, results.read(path))
        ax.set_xlabel("size of the layer's input map, number of cases")
        ax.set_ylabel("PyTorch's time over ours")
    fig.axes[0].legend(fontsize=16, loc="upper right")
    return fig
