"""How often the regular way multiplies, for each useful time, over one, two and three axes.

The layer is an input gradient, which is also the forward pass of a transposed layer, with three taps on every axis.
Lines are from ``flops.count``. Points are counted in the traced kernels, over one axis as a map of one row.
"""

from __future__ import annotations

from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cks_numba import flops, trace
from cks_numba.geometry import ConvShape
from cks_numba.plots import gallery

AXES = {1: ("#A0A0A0", "o"), 2: ("#56B4E9", "s"), 3: ("#000000", "D")}  # colour and marker; more axes are darker
STRIDES = 1, 2, 3
SIZES = range(2, 33)
COUNTED = 2, 4
NAMES = {1: "1 axis", 2: "2 axes", 3: "3 axes"}
BACK = 1.25, 0.8  # how far the second sheet of a volume lies behind the first, in cells
TOP = 64  # end of the vertical axis


def layer(axes: int, size: int, stride: int) -> ConvShape:
    """Return a layer with `size` outputs on each axis from inputs `stride` times as many, padded by one."""
    return ConvShape.of((1, *[stride * size] * axes, 1), (1, *[3] * axes, 1), stride, padding=1)


def theory(shape: ConvShape) -> float:
    return flops.count("conv2d_input", shape).saved


def counted(shape: ConvShape) -> float:
    """Multiply-adds over useful ones, of the traced kernels."""
    counts = trace.count("conv2d_input", shape.with_unit_axes(max(2, len(shape.axes))), "with_zeros")
    return counts.total / counts.useful


def draw_cells(ax: Axes, axes: int) -> None:
    """Draw an element of dy and the zeros that stride 2 puts beside it."""
    sheets, rows = (2 if axes == 3 else 1), (2 if axes > 1 else 1)
    for sheet, row, column in product(reversed(range(sheets)), range(rows), range(2)):
        style = gallery.KINDS["useful" if (sheet, row, column) == (0, 0, 0) else "inserted"]
        corner = column + BACK[0] * sheet, -row + BACK[1] * sheet
        ax.add_patch(Rectangle(corner, 1, 1, **{**style, "edgecolor": "#444444", "linewidth": 1.2}))
    middle = 1 + BACK[0] * (sheets - 1) / 2, (2 - rows + BACK[1] * (sheets - 1)) / 2
    ax.set(xlim=(middle[0] - 2, middle[0] + 2), ylim=(middle[1] - 1.5, middle[1] + 1.5), aspect="equal")
    ax.axis("off")
    ax.set_title(f"{NAMES[axes]}: {2**axes}×", fontsize=20)


def draw_panel(ax: Axes, stride: int) -> None:
    """Draw a line for each number of axes, and what it tends to at its end."""
    for axes, (colour, marker) in AXES.items():
        lines = [theory(layer(axes, size, stride)) for size in SIZES]
        points = [counted(layer(axes, size, stride)) for size in COUNTED]
        look = dict(markersize=9, markerfacecolor="none", markeredgewidth=2)
        ax.plot(SIZES, lines, color=colour, linewidth=3)
        ax.plot(COUNTED, points, marker, color=colour, **look)
        ax.plot([], [], marker=marker, color=colour, linewidth=3, label=NAMES[axes], **look)
        if stride > 1:
            share = 100 * (1 - 1 / stride**axes)
            ax.text(32, stride**axes * 1.2, f"{stride**axes}×  ({share:.0f}%)", ha="right", va="bottom", fontsize=15)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    ax.set_yticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    ax.set(ylim=(0.9, TOP))
    ax.set_title(f"stride {stride}")
    ax.grid(color="#DDDDDD")


def draw() -> Figure:
    """Return the figure: an element and its zeros for each number of axes, and below a panel for each stride."""
    fig = Figure(figsize=(9, 8.6), layout="constrained")
    axes = fig.subplots(2, 3, height_ratios=(1, 2.1))
    for ax, number in zip(axes[0], AXES, strict=True):
        draw_cells(ax, number)
    for ax, stride in zip(axes[1], STRIDES, strict=True):
        draw_panel(ax, stride)
        ax.sharey(axes[1, 0])
    axes[1, 0].set_ylabel("multiply-adds for each useful one")
    axes[1, 1].set_xlabel("length of every axis of the smaller map")
    fig.suptitle("stride 2: the zeros make it 2×, 4×, 8× the work", fontsize=20, weight="bold")
    title = "in brackets: the share by zeros on a large map; points are counted"
    style = dict(loc="outside lower center", ncols=3, frameon=False, fontsize=16, title_fontsize=15)
    fig.legend(*axes[1, 0].get_legend_handles_labels(), title=title, **style)
    return fig
