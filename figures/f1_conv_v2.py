"""Padded zeros, trimmed windows, and the groups of outputs that share a window.

The crosses and dots are products of the traced kernels; the letters are groups of the plan.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cks_numba import flops, plots, trace
from cks_numba.geometry import ConvShape

SHAPE = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1)
CORNER = (0, 0)  # the output shown in the upper row
LEFT, RIGHT, UPPER, LOWER = 0.9, 9.7, 1.5, 10.4  # positions of the four drawings, in squares


def draw_regular(ax: Axes) -> None:
    traced = trace.run("conv2d", SHAPE, "with_zeros")
    field, _ = plots.zero_maps("conv2d", SHAPE)
    plots.write(ax, LEFT + 3, 0.75, "regular: pad x, use every tap", 17, weight="bold")
    plots.draw_cells(ax, field, LEFT, UPPER, (SHAPE.fh, SHAPE.fw))
    wasted, useful = plots.draw_products(ax, traced, CORNER, "first", LEFT, UPPER)
    plots.write(ax, LEFT + 3, UPPER + 6.7, f"{wasted + useful} products, {wasted} by a padded zero")


def draw_trimmed(ax: Axes) -> None:
    traced = trace.run("conv2d", SHAPE, "skip_zeros")
    (top, _), (left, _) = SHAPE.padding
    places = plots.products(traced, CORNER)[False]
    plots.write(ax, RIGHT + 3, 0.75, "ConvV2: trim the window", 17, weight="bold")
    plots.draw_cells(ax, plots.zero_maps("conv2d", SHAPE)[0][top:-top, left:-left], RIGHT + left, UPPER + top)
    plots.frame(ax, [(0, 0), (SHAPE.fh - 1, SHAPE.fw - 1)], RIGHT, UPPER, linestyle="--", linewidth=1.6)
    plots.frame(ax, places, RIGHT + left, UPPER + top)
    plots.mark(ax, places, False, RIGHT + left, UPPER + top)
    plots.write(ax, RIGHT + 3, UPPER + 6.7, f"{len(places)} products, none by a zero")


def draw_groups(ax: Axes) -> None:
    count = flops.count("conv2d", SHAPE)
    plots.write(ax, LEFT + 3, LOWER - 0.8, "y: same letter, same window", 17, weight="bold")
    plots.draw_groups(ax, "conv2d", SHAPE, LEFT + 1, LOWER + 0.5)
    plots.write(ax, RIGHT + 3, LOWER - 0.8, "the window of each letter", 17, weight="bold")
    plots.draw_windows(ax, "conv2d", SHAPE, RIGHT + 0.25, LOWER)
    plots.write(ax, LEFT + 3, LOWER + 6.3, f"{count.regular} products become {count.useful}: ×{count.saved:.2f}")
    plots.write(ax, RIGHT + 3, LOWER + 6.3, "dotted taps are cut off")


def draw() -> Figure:
    """Return the figure: one output computed both ways above, all outputs below."""
    fig, ax = plots.canvas(16.6, 18.5)
    draw_regular(ax)
    draw_trimmed(ax)
    draw_groups(ax)
    ax.legend(handles=plots.legend_of_marks(), loc="lower center", ncols=2, frameon=False, fontsize=15)
    return fig
