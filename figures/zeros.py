"""The real elements of one small layer, and how many multiply-adds are useful.

The masks come from the step-by-step versions, the numbers from ``flops.count``.
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
# In squares: width of the picture, distance from panel to panel, left end of the bars.
WIDTH, PITCH, BAR = 25.2, 8.9, 13.2
SIZE = 15  # font size


def draw_tensor(ax: Axes, cells: np.ndarray, left: float, top: float, window: tuple[int, int], name: str) -> None:
    """Draw one tensor, the window at its first position, and the tensor's name below."""
    plots.draw_cells(ax, cells, left, top, window)
    plots.write(ax, left, top + cells.shape[0] + 0.65, name, SIZE, ha="left")


def draw_bar(ax: Axes, operator: str, longest: int, top: float) -> None:
    """Draw a bar for the multiply-adds of the regular way, and inside it one for the useful ones."""
    count = flops.count(operator, SHAPE)
    scale = 0.77 * (WIDTH - BAR) / longest  # leaves room for the factor on the right
    for number, style in (
        (count.regular, dict(facecolor="white", hatch="xxx")),
        (count.useful, dict(facecolor=plots.BLUE)),
    ):
        ax.add_patch(Rectangle((BAR, top), number * scale, 1.2, edgecolor=plots.INK, **style))
    ax.text(
        BAR + count.regular * scale + 0.3, top + 0.65, f"×{count.saved:.2f}", va="center", fontsize=21, weight="bold"
    )
    text = f"{count.regular} multiply-adds the regular way,\n{count.useful} of them useful"
    ax.text(BAR, top + 1.7, text, va="top", fontsize=SIZE, linespacing=1.4)


def draw_panel(ax: Axes, operator: str, longest: int, top: float) -> None:
    title, field_name, slider_name = PANELS[operator]
    field, slider = plots.zero_maps(operator, SHAPE)
    rows, columns = field.shape
    plots.write(ax, 0, top, title, 18, weight="bold", ha="left")
    draw_tensor(ax, field, 0, top + 0.8, slider.shape, field_name)
    plots.write(ax, columns + 0.9, top + 0.8 + rows / 2, "∗", 26)
    draw_tensor(ax, slider, columns + 1.8, top + 0.8 + (rows - slider.shape[0]) / 2, slider.shape, slider_name)
    draw_bar(ax, operator, longest, top + 2.2)


def draw() -> Figure:
    """Return the figure: for each operator the tensors of the regular way, and its multiply-adds."""
    height = len(PANELS) * PITCH + 0.6
    fig = Figure(figsize=(10, 10 * height / WIDTH))
    ax = fig.add_axes((0.015, 0.01, 0.97, 0.98))
    ax.set(xlim=(-0.15, WIDTH), ylim=(height - 0.6, -0.6), aspect="equal")
    ax.axis("off")
    longest = max(flops.count(operator, SHAPE).regular for operator in PANELS)
    for row, operator in enumerate(PANELS):
        draw_panel(ax, operator, longest, row * PITCH)
    handles = plots.legend_of_kinds()
    handles.append(Patch(label="multiplied by a zero", facecolor="white", edgecolor=plots.INK, hatch="xxx"))
    ax.legend(handles=handles, loc="lower right", ncols=2, fontsize=SIZE, handleheight=1.3, borderpad=0)
    return fig
