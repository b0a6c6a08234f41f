"""Inserted zeros, the filter split by phase, and how the phases interleave in dx.

The crosses and dots are products of the traced kernels; the letters are the phases of ``steps.ks_deconv``.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cks_numba import flops, plots, trace
from cks_numba.geometry import ConvShape

SHAPE = ConvShape(n=1, ih=6, iw=6, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
LOOKED_AT = 2, 1  # the element of dx that both ways compute
LEFT, RIGHT, UPPER, LOWER = 0.9, 10.8, 1.5, 12.6  # positions of the four drawings, in squares


def draw_regular(ax: Axes) -> None:
    traced = trace.run("conv2d_input", SHAPE, "with_zeros")
    field, _ = plots.zero_maps("conv2d_input", SHAPE)
    plots.write(ax, LEFT + 4, 0.75, "regular: insert zeros in dy", 17, weight="bold")
    plots.draw_cells(ax, field, LEFT, UPPER)
    places = plots.products(traced, LOOKED_AT)
    plots.frame(ax, [*places[True], *places[False]], LEFT, UPPER)
    wasted, useful = plots.draw_products(ax, traced, LOOKED_AT, "first", LEFT, UPPER)
    plots.write(ax, LEFT + 4, UPPER + 8.7, f"{wasted + useful} products, {wasted} by a zero")


def draw_split(ax: Axes) -> None:
    plots.write(ax, RIGHT + 4.1, 0.75, "KS-deconv: split the filter", 17, weight="bold")
    plots.draw_letters(ax, plots.phase_maps(SHAPE)[0], RIGHT, UPPER + 2.2)
    plots.write(ax, RIGHT + 1.5, UPPER + 5.8, "w by phase")
    ax.annotate("", (RIGHT + 4.5, UPPER + 3.7), (RIGHT + 3.3, UPPER + 3.7), arrowprops=dict(width=3, color=plots.INK))
    plots.draw_sub_filters(ax, SHAPE, RIGHT + 4.9, UPPER + 1.9)
    plots.write(ax, RIGHT + 6.7, UPPER + 6.2, "sub-filters")


def draw_dense(ax: Axes) -> None:
    traced = trace.run("conv2d_input", SHAPE, "skip_zeros")
    places = plots.products(traced, LOOKED_AT)[False]
    middle = LEFT + 4
    plots.write(ax, middle, LOWER - 0.8, "each slides over dy as it is", 17, weight="bold")
    plots.draw_cells(ax, np.full((SHAPE.oh, SHAPE.ow), plots.REAL), middle - 1.5, LOWER + 1.5)
    plots.frame(ax, places, middle - 1.5, LOWER + 1.5)
    plots.mark(ax, places, False, middle - 1.5, LOWER + 1.5)
    plots.write(ax, middle, LOWER + 5.2, "dy")
    plots.write(ax, middle, LOWER + 6.7, f"{len(places)} products, none by a zero")


def draw_interleaved(ax: Axes) -> None:
    count = flops.count("conv2d_input", SHAPE)
    plots.write(ax, RIGHT + 4.1, LOWER - 0.8, "phases interleave in dx", 17, weight="bold")
    plots.draw_letters(ax, plots.phase_maps(SHAPE)[1], RIGHT + 1.1, LOWER)
    plots.frame(ax, [LOOKED_AT], RIGHT + 1.1, LOWER)
    text = f"{count.regular} products become {count.useful}: ×{count.saved:.2f}"
    plots.write(ax, RIGHT + 4.1, LOWER + 6.7, text)


def draw() -> Figure:
    """Return the figure: the regular way and the split filter above, the skipping way below."""
    fig, ax = plots.canvas(19.6, 21.4)
    for part in (draw_regular, draw_split, draw_dense, draw_interleaved):
        part(ax)
    handles = [*plots.legend_of_kinds()[1:], *plots.legend_of_marks()]
    ax.legend(handles=handles, loc="lower center", ncols=2, frameon=False, fontsize=15, handleheight=1.3)
    return fig
