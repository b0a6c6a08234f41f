"""PyTorch's time over ours, by the size of the map, a panel for each machine whose timings are committed.

The data are figures/data/cpu_*.csv and gpu_*.csv, which ``cks-numba bench`` writes. A point is a layer, with PyTorch
in its faster layout; a line joins the geometric means.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cks_numba.bench import results
from cks_numba.plots import gallery

DATA = Path(__file__).parent / "data"
STEP = 0.22  # distance between two operators at one size; sizes are 1 apart
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)


def ratios(rows: list[results.Row]) -> dict[str, dict[int, list[float]]]:
    """Return PyTorch's time over ours, by operator and by rows of the map."""
    times: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in rows:
        key = row.contender
        if key == results.OURS and row.layout != "NHWC":
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
        ax.scatter([x for x, _ in points], [ratio for _, ratio in points], s=55, alpha=0.45, linewidths=0, **style)
        means = [geometric_mean(found[operator][size]) for size in where]
        ax.plot(
            list(where.values()), means, markersize=12, linewidth=3, markeredgecolor="black", label=operator, **style
        )
    ax.axhline(1, color="black", linewidth=2)
    note = dict(xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="top")
    ax.annotate("below this line PyTorch is faster", (0.01, 1), (0, -32), **note)
    ax.set_yscale("log")
    ax.yaxis.set(major_locator=FixedLocator(TICKS), minor_locator=NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xticks(range(len(sizes)), [f"{size}x{size}" for size in sizes])
    ax.grid(axis="y")
    layers = sum(len(here) for by_size in found.values() for here in by_size.values())
    ax.set_title(f"{rows[0].device}, {rows[0].threads} threads, {rows[0].dtype}: {layers} cases")


def draw() -> Figure:
    """Return the figure: a panel for each machine."""
    files = [*sorted(DATA.glob("cpu_*.csv")), *sorted(DATA.glob("gpu_*.csv"))]
    fig = Figure(figsize=(10, 6.4 * len(files)), layout="constrained")
    for ax, path in zip(fig.subplots(len(files), 1, squeeze=False)[:, 0], files, strict=True):
        draw_panel(ax, results.read(path))
        ax.set_xlabel("size of the layer's input map")
        ax.set_ylabel("PyTorch's time over ours")
    fig.axes[0].legend(fontsize=16)
    return fig
