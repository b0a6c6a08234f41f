"""One picture of a layer: what the regular way multiplies, where that is wasted, and the groups of the plan."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import checks, flops, trace
from ..geometry import ConvShape, plan
from ..steps.stages import amount
from .animation import ADDED, RESULTS
from .cells import Kinds, canvas, draw_cells, frame, legend_of_kinds, single, write, zero_maps
from .groups import draw_groups
from .products import draw_heat, products, waste_map

LEFT, TOP = 0.8, 3.5
"""Squares beside and above the tensors."""
LETTERS = 20
"""Size of the words in points, which can be read where the picture is as narrow as a phone."""
MOST_PRODUCTS = 100_000
"""Most products of the regular way in one channel: a second of tracing."""


def explore_figure(operator: str, shape: ConvShape) -> Figure:
    """Draw one layer: what the regular way multiplies, where that is wasted, and the groups of the plan.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        Of two axes; its first image and channel are shown.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError, TypeError
        For an unknown operator, a shape that is no ConvShape, or a layer too large to be drawn.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> [text.get_text() for text in explore_figure("conv2d", shape).axes[0].texts][:2]
    ['conv2d: 144 products, 100 useful: ×1.44', '9 groups, each with one window']
    """
    check_products(operator, shape)
    checks.two_axes(len(shape.axes))
    shape = single(shape)
    field, slider = zero_maps(operator, shape)
    traced = trace.run(operator, shape, "with_zeros")
    rows, columns = traced.result.shape[1:3]
    below = TOP + max(field.shape[0], slider.shape[0]) + 2.5  # where the results start
    right = LEFT + max(field.shape[1], columns, 7) + 1.2  # where the right half starts
    fig, ax = canvas(right + max(slider.shape[1], columns, 7) + LEFT, below + rows + 3.5)
    _write_counts(ax, operator, shape)
    _draw_operands(ax, traced, field, slider, right)
    _draw_results(ax, traced, right, below)
    spaces = dict(handlelength=1.3, handleheight=1.3, handletextpad=0.4, columnspacing=1.0)
    ax.legend(handles=legend_of_kinds(), loc="lower center", ncols=3, frameon=False, fontsize=LETTERS, **spaces)
    return fig


def _draw_operands(ax: Any, traced: trace.Trace, field: Kinds, slider: Kinds, right: float) -> None:
    """Draw what is read and what slides over it, with a frame around what the first result uses."""
    names = ADDED[traced.operator]
    for kinds, name, operand, left in ((field, names[0], "first", LEFT), (slider, names[1], "second", right)):
        places = products(traced, (0, 0), operand)
        draw_cells(ax, kinds, left, TOP)
        frame(ax, [*places[True], *places[False]], left, TOP)
        write(ax, left, TOP + kinds.shape[0] + 0.7, name, LETTERS, ha="left")


def _draw_results(ax: Any, traced: trace.Trace, right: float, top: float) -> None:
    """Draw how many products of each result are wasted, and the groups of the plan."""
    wasted, done = waste_map(traced)
    result, below = RESULTS[traced.operator], top + wasted.shape[0] + 0.7
    draw_heat(ax, wasted, wasted / np.maximum(done, 1), LEFT, top)
    write(ax, LEFT, below, f"{result}: by a zero, of {done.max()}", LETTERS, ha="left")
    draw_groups(ax, traced.operator, traced.shape, right, top)
    write(ax, right, below, f"{result} by group", LETTERS, ha="left")


def check_products(operator: str, shape: ConvShape) -> None:
    """Check that a layer is small enough to be traced and drawn."""
    if not isinstance(shape, ConvShape):
        raise TypeError(f"shape must be a ConvShape, got {type(shape).__name__}")
    regular = flops.count(operator, single(shape)).regular
    if regular > MOST_PRODUCTS:
        raise ValueError(f"shape must take at most {MOST_PRODUCTS} products a channel to be drawn, got {regular}")


def _write_counts(ax: Any, operator: str, shape: ConvShape) -> None:
    count, groups = flops.count(operator, shape), len(plan(operator, shape).groups)
    title = f"{operator}: {count.regular} products, {count.useful} useful: ×{count.saved:.2f}"
    write(ax, 0.8, 1.0, title, LETTERS, weight="bold", ha="left")
    write(ax, 0.8, 2.2, f"{amount(groups, 'group')}, each with one window", LETTERS, ha="left")
