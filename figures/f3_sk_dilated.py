"""The filter gradient both ways: dy with inserted zeros slides over x, or only the real elements of dy are used.

The crosses and dots are products of the traced kernels.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cks_numba import flops, plots, trace
from cks_numba.geometry import ConvShape

SHAPE = ConvShape(n=1, ih=5, iw=5, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
TAP = 0, 0  # the element of dw that both ways compute
LEFT, MIDDLE, RIGHT, UPPER, LOWER = 0.9, 9.2, 15.4, 1.6, 10.6  # positions of the drawings, in squares


def draw_marked(ax: Axes, traced: trace.Trace, left: float, top: float, operand: str) -> None:
    """Frame and mark the products of the tap on one operand."""
    places = plots.products(traced, TAP, operand)
    plots.frame(ax, [*places[True], *places[False]], left, top)
    plots.draw_products(ax, traced, TAP, operand, left, top)


def draw_regular(ax: Axes) -> None:
    traced = trace.run("conv2d_weight", SHAPE, "with_zeros")
    field, slider = plots.zero_maps("conv2d_weight", SHAPE)
    plots.write(ax, LEFT, 0.75, "regular: insert zeros in dy, slide it over padded x", 17, weight="bold", ha="left")
    plots.draw_cells(ax, field, LEFT, UPPER)
    draw_marked(ax, traced, LEFT, UPPER, "first")
    plots.write(ax, LEFT + 3.5, UPPER + 7.6, "x, padded")
    plots.draw_cells(ax, slider, MIDDLE, UPPER + 1)
    draw_marked(ax, traced, MIDDLE, UPPER + 1, "second")
    plots.write(ax, MIDDLE + 2.5, UPPER + 6.7, "dy, zeros inserted")
    draw_result(ax, traced, UPPER + 2)


def draw_result(ax: Axes, traced: trace.Trace, top: float) -> None:
    """Draw dw with the wasted products of every tap and all of them; the more are wasted, the redder."""
    wasted, done = plots.waste_map(traced)
    plots.draw_heat(ax, wasted, wasted / done, RIGHT, top, of=done)
    plots.frame(ax, [TAP], RIGHT, top)
    plots.write(ax, RIGHT + 1.5, top + 3.7, "wasted, of all\nproducts of each dw", va="top")


def draw_walk(ax: Axes) -> None:
    traced = trace.run("conv2d_weight", SHAPE, "skip_zeros")
    (top, _), (left, _) = SHAPE.padding
    plots.write(ax, LEFT, LOWER + 0.1, "Sk-dilated: walk dy as it is", 17, weight="bold", ha="left")
    plots.draw_cells(ax, np.full((SHAPE.ih, SHAPE.iw), plots.REAL), LEFT + left, LOWER + top)
    plots.draw_products(ax, traced, TAP, "first", LEFT + left, LOWER + top)
    plots.write(ax, LEFT + 3.5, LOWER + 6.7, "x, in steps of the stride")
    plots.draw_cells(ax, np.full((SHAPE.oh, SHAPE.ow), plots.REAL), MIDDLE + 1, LOWER + 2)
    draw_marked(ax, traced, MIDDLE + 1, LOWER + 2, "second")
    plots.write(ax, MIDDLE + 2.5, LOWER + 5.7, "dy, trimmed")
    draw_result(ax, traced, LOWER + 2)


def draw() -> Figure:
    """Return the figure: one tap of the filter gradient, the regular way above, the skipping way below."""
    fig, ax = plots.canvas(19.4, 20.6)
    draw_regular(ax)
    draw_walk(ax)
    count = flops.count("conv2d_weight", SHAPE)
    text = f"all of dw: {count.regular} products become {count.useful}: ×{count.saved:.2f}"
    plots.write(ax, 9.7, LOWER + 7.9, text, 17)
    handles = [*plots.legend_of_kinds()[1:], *plots.legend_of_marks()]
    ax.legend(handles=handles, loc="lower center", ncols=2, frameon=False, fontsize=15, handleheight=1.3)
    return fig
