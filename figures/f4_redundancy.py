"""The share of multiply-adds that meet an added zero, against the size of the map.

Lines are from ``flops.count``; points are the products of the regular way's kernels, traced and counted.
"""

from __future__ import annotations

from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cks_numba import flops, trace
from cks_numba.geometry import ConvShape

OPERATORS = {"conv2d": "forward\nconv2d", "conv2d_input": "input gradient\nconv2d_input"}
OPERATORS["conv2d_weight"] = "filter gradient\nconv2d_weight"
# Colour and marker by filter size; larger filters are darker. Markers are hollow, so that none hides another.
FILTERS = {3: ("#A0A0A0", "o"), 4: ("#56B4E9", "s"), 5: ("#8A6D00", "^"), 7: ("#000000", "D")}
STRIDES = 1, 2, 3
SIZES = range(2, 33)
TRACED = 2, 4, 8


def layer(size: int, taps: int, stride: int) -> ConvShape:
    """Return a layer with `size` x `size` outputs from an input `stride` times as large, padded by half the filter.

    It has one channel and one image: more of them do not change the share.
    """
    pad = (taps - 1) // 2, taps // 2
    sizes = dict(ih=stride * size, iw=stride * size, fh=taps, fw=taps)
    return ConvShape(n=1, ic=1, oc=1, **sizes, stride=stride, padding=(pad, pad))


def theory(operator: str, shape: ConvShape) -> float:
    count = flops.count(operator, shape)
    return 100 * count.redundant / count.regular


def counted(operator: str, shape: ConvShape) -> float:
    counts = trace.count(operator, shape, "with_zeros")
    return 100 * counts.by_zero / counts.total


def draw_panel(ax: Axes, operator: str, stride: int) -> None:
    """Draw a line for each filter; where all lie high, the axis begins there, so that they lie apart."""
    least = 100.0
    for taps, (colour, marker) in FILTERS.items():
        lines = [theory(operator, layer(size, taps, stride)) for size in SIZES]
        points = [counted(operator, layer(size, taps, stride)) for size in TRACED]
        least = min(least, *lines)
        look = dict(markersize=8, markerfacecolor="none", markeredgewidth=2)
        ax.plot(SIZES, lines, color=colour, linewidth=2)
        ax.plot(TRACED, points, marker, color=colour, **look)
        ax.plot([], [], marker=marker, color=colour, linewidth=2, label=f"{taps}×{taps}", **look)
    ax.set_xscale("log", base=2)
    ax.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    begin = ceil(least / 10 - 1) * 10 if least > 50 else 0
    ax.set(ylim=(begin, 100), yticks=range(begin, 101, 25 if begin == 0 else 10 if begin < 80 else 5))
    if begin:
        ax.text(0.97, 0.05, f"axis from {begin}%", transform=ax.transAxes, ha="right", fontsize=15, style="italic")
    ax.tick_params(labelsize=14)
    ax.grid(color="#DDDDDD")
    ax.spines[["top", "right"]].set_visible(False)


def draw() -> Figure:
    """Return the figure: a row for each operator, a column for each stride."""
    fig = Figure(figsize=(9, 9.4), layout="constrained")
    axes = fig.subplots(len(OPERATORS), len(STRIDES), sharex=True)
    for row, (operator, name) in zip(axes, OPERATORS.items(), strict=True):
        row[0].set_ylabel(name, fontsize=15)
        for ax, stride in zip(row, STRIDES, strict=True):
            draw_panel(ax, operator, stride)
    for ax, stride in zip(axes[0], STRIDES, strict=True):
        ax.set_title(f"stride {stride}", fontsize=16, weight="bold")
    axes[-1, 1].set_xlabel("rows and columns of y", fontsize=16)
    fig.suptitle("multiply-adds by an added zero (%)", fontsize=18, weight="bold")
    style = dict(loc="outside lower center", ncols=4, frameon=False, fontsize=16, title_fontsize=15)
    title = "filter; lines are theory, points are counted in the kernels"
    fig.legend(*axes[0, 0].get_legend_handles_labels(), title=title, **style)
    return fig
