"""The time of PyTorch, and of other libraries, over ours: a panel for each file of timings that is committed.

The data are figures/data/cpu_*.csv, axes_*.csv, gpu_*.csv and peers_*.csv, which ``cks-numba bench`` writes. A point is
a layer, with PyTorch in its faster layout. By the size of the map, a line joins the geometric means of the sizes with
at least MANY layers; by library, a bar is the geometric mean of all layers of a kind. Libraries that pack filters once
are compared with ours on packed filters.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cks_numba.bench import peers, results
from cks_numba.buffers import is_last
from cks_numba.plots import gallery

DATA = Path(__file__).parent / "data"
STEP = 0.27  # distance between two operators at one size; sizes are 1 apart
MANY = 3  # layers whose mean is drawn
POWERS = {1: "", 2: "²", 3: "³"}  # what a size is raised to, by the number of axes
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)
MOST = 16  # what is larger is drawn there, where libraries are compared


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
    _common(ax, len(sizes), "PyTorch is faster")
    cases = {size: sum(len(by_size[size]) for by_size in found.values()) for size in sizes}
    shown = {size: f"{size // 1000}k" if size >= 10_000 and size % 1000 == 0 else str(size) for size in sizes}
    ax.set_xticks(range(len(sizes)), [f"{shown[size]}{POWERS[rows[0].axes]}\n{cases[size]}" for size in sizes])
    axes = {1: "one axis", 2: "two axes", 3: "three axes"}[rows[0].axes]
    ax.set_title(f"{rows[0].device},\n{rows[0].threads} threads, {rows[0].dtype}, {axes}: {sum(cases.values())} cases")
    ax.set_xlabel("size of the layer's input map, number of cases")
    ax.set_ylabel("PyTorch's time over ours")


def draw_peers(ax: Axes, rows: list[results.Row]) -> None:
    """Draw a column for each library and kind of layer: its layers, and their mean."""
    everything = peers.ratios(rows)
    kinds = list(dict.fromkeys(ratio.kind for ratio in everything))
    names = list(dict.fromkeys(name for ratio in everything for name in ratio.peers))
    columns = []
    for at, kind in enumerate(kinds):
        for column, name in enumerate(names):
            x = at + (column - (len(names) - 1) / 2) / (len(names) + 0.5)
            here = [ratio for ratio in everything if ratio.kind == kind and name in ratio.peers]
            for k, (operator, style) in enumerate(gallery.OPERATORS.items()):
                found = [min(ratio.peers[name], MOST) for ratio in here if ratio.ours.operator == operator]
                ax.scatter([x + (k - 1) * 0.05] * len(found), found, s=16, linewidths=0, **style)
            if here:
                mean = min(geometric_mean(ratio.peers[name] for ratio in here), MOST)
                ax.plot([x - 0.09, x + 0.09], [mean, mean], color="black", linewidth=4, solid_capstyle="butt")
                columns.append((x, name))
        count = sum(ratio.kind == kind for ratio in everything)
        note = dict(xycoords=ax.get_xaxis_transform(), ha="center", va="top", fontsize=15)
        ax.annotate(f"{textwrap.fill(kind, 12)}:\n{count} cases", (at, 0.98), **note)
    _common(ax, len(kinds), "the library is faster")
    ax.set_ylim(top=4 * MOST)  # room for the kinds
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: ("≥ " if value == MOST else "") + f"{value:g}"))
    ax.set_xticks([x for x, _ in columns], [name for _, name in columns], rotation=90)
    ax.set_title(f"{rows[0].device},\n{rows[0].threads} threads, {rows[0].dtype}: {len(everything)} cases")
    ax.set_ylabel("the library's time over ours")


def _common(ax: Axes, columns: int, who: str) -> None:
    """What all panels have: a log scale, the line of equal times, and a band behind every second column."""
    for k in range(0, columns, 2):
        ax.axvspan(k - 0.5, k + 0.5, color="#F1F1EE", zorder=0)
    ax.axhline(1, color="black", linewidth=2)
    ax.annotate(f"below the line {who}", (0.01, 0.01), xycoords="axes fraction", va="bottom")
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.85 * min(1, ax.get_ylim()[0]))  # room for the note under the line
    ax.yaxis.set(major_locator=FixedLocator(TICKS), minor_locator=NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(-0.5, columns - 0.5)
    ax.grid(axis="y")


def draw() -> Figure:
    """Return the figure: a panel for each file, two of a kind side by side."""
    kinds = {"cpu": draw_panel, "peers": draw_peers, "axes": draw_panel, "gpu": draw_panel}
    rows = []
    for kind, draw_one in kinds.items():
        paths = sorted(DATA.glob(f"{kind}_*.csv"))
        rows += [(draw_one, paths[k : k + 2]) for k in range(0, len(paths), 2)]
    fig = Figure(figsize=(13, 5.2 * len(rows)), layout="constrained")
    grid = fig.add_gridspec(len(rows), 2)
    for row, (draw_one, paths) in enumerate(rows):
        for column, path in enumerate(paths):
            draw_one(fig.add_subplot(grid[row, column] if len(paths) == 2 else grid[row, :]), results.read(path))
    fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside upper center", ncol=3)
    return fig
