"""Which elements of one small layer are real, and how many multiply-adds that leaves.

Nothing is typed by hand: the masks come from the step-by-step versions, the numbers from ``flops.count``.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from cks_numba import flops, plots
from cks_numba.geometry import ConvShape

SHAPE = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
PANELS = {
    "conv2d": ("conv2d  (ConvV2)", "x, padded", "w"),
    "conv2d_input": ("conv2d_input  (KS-deconv)", "dy, zeros inserted, padded", "w, flipped"),
    "conv2d_weight": ("conv2d_weight  (Sk-dilated)", "x, padded", "dy, zeros inserted"),
}


def draw_grid(ax: Axes, cells: np.ndarray, left: float, top: float, window: tuple[int, int], name: str) -> None:
    """Draw one tensor, what slides over it at its first place, and its name below."""
    rows, columns = cells.shape
    plots.draw_cells(ax, cells, left, top, window)
    ax.text(left + columns / 2, top + rows + 0.55, name, ha="center", va="center", fontsize=12, color="#222222")


def draw_bar(ax: Axes, operator: str, width: float, longest: int, top: float) -> None:
    """Draw the multiply-adds of the regular way, and inside them the useful ones."""
    count = flops.count(operator, SHAPE)
    scale = 0.78 * width / longest  # the factor stands to the right of the bar
    ax.add_patch(Rectangle((0, top), count.regular * scale, 0.7, facecolor="white", edgecolor="#222222", hatch="xxx"))
    ax.add_patch(Rectangle((0, top), count.useful * scale, 0.7, facecolor=plots.BLUE, edgecolor="#222222"))
    ax.text(count.regular * scale + 0.25, top + 0.37, f"×{count.saved:.2f}", va="center", fontsize=17, weight="bold")
    text = f"{count.regular} multiply-adds the regular way, {count.useful} useful"
    ax.text(0, top + 1.3, text, va="center", fontsize=12)


def draw_panel(ax: Axes, operator: str, longest: int) -> None:
    title, field_name, slider_name = PANELS[operator]
    field, slider = plots.zero_maps(operator, SHAPE)
    rows, columns = field.shape
    draw_grid(ax, field, 0, 0, slider.shape, field_name)
    ax.text(columns + 0.8, rows / 2, "∗", ha="center", va="center", fontsize=22)
    left, top = columns + 1.6, (rows - slider.shape[0]) / 2
    draw_grid(ax, slider, left, top, slider.shape, slider_name)
    width = left + slider.shape[1]
    draw_bar(ax, operator, width, longest, rows + 1.4)
    ax.set_title(title, fontsize=14, weight="bold", pad=10)
    ax.set(xlim=(-0.15, width + 0.15), ylim=(rows + 3.1, -0.15), aspect="equal")
    ax.axis("off")


def draw() -> Figure:
    """Return the figure: a panel an operator."""
    fig = Figure(figsize=(14, 4.9), layout="constrained")
    axes = fig.subplots(1, 3)
    fig.get_layout_engine().set(wspace=0.12)  # type: ignore[union-attr]
    longest = max(flops.count(operator, SHAPE).regular for operator in PANELS)
    for ax, operator in zip(axes, PANELS, strict=True):
        draw_panel(ax, operator, longest)
    handles = plots.legend_of_kinds()
    handles.append(Patch(label="multiplied by a zero", facecolor="white", edgecolor="#222222", hatch="xxx"))
    fig.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=12, handleheight=1.3)
    return fig
