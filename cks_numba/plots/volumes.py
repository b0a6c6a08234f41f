"""What lies under a window of one, two or three axes; a volume is drawn as its slices, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import trace
from ..geometry import Axis, ConvShape
from ..steps.stages import REAL
from .cells import Kinds, canvas, draw_cells, legend_of_kinds, single, write
from .explore import check_products

LEFT = 0.4
"""Squares beside the tensors."""


def window_kinds(operator: str, shape: ConvShape, at: tuple[int, ...]) -> Kinds:
    """Kinds of the products that the regular way adds up to one result, read from the traced kernel.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        Of two or three axes; one image and one channel of it count.
    at : tuple of int
        Place of the result: an index for each axis.

    Returns
    -------
    int array with an axis for each axis of the shape
        REAL where both factors are real elements; PADDED where one is a padded zero, else INSERTED.

    Raises
    ------
    ValueError, TypeError
        For a place that is none, for a layer too large to be drawn, and for what `trace.run` refuses.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
    >>> window_kinds("conv2d_input", shape, (1, 1))
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    check_products(operator, shape)
    size = shape.arrays(operator)[2][1][1:-1]
    if len(at) != len(size) or not all(0 <= k < most for k, most in zip(at, size, strict=True)):
        raise ValueError(f"at must be a place in a result of {size}, got {at}")
    events = [event for event in trace.run(operator, single(shape), "with_zeros").events if event.out == (0, *at, 0)]
    places = np.array([event.first.place[1:-1] for event in events])
    axes = [np.unique(indices, return_inverse=True) for indices in places.T]
    kinds = np.empty([len(indices) for indices, _ in axes], int)
    kinds[tuple(where for _, where in axes)] = [max(event.first.kind, event.second.kind) for event in events]
    return kinds


def draw_volume(ax: Any, kinds: Kinds, left: float = 0, top: float = 0, gap: float = 0.8) -> tuple[float, float]:
    """Draw a tensor of three axes as its slices, side by side, each with its depth below it.

    Parameters
    ----------
    ax : matplotlib Axes
    kinds : int array (depths, rows, columns)
        From `zero_maps` or `window_kinds`.
    left, top : float
        Place of the corner of the first slice, in squares.
    gap : float
        Squares between slices.

    Returns
    -------
    width, height : float
        What the drawing takes, in squares.

    Raises
    ------
    ValueError
        For an array that has not three axes, or no element.
    """
    if np.ndim(kinds) != 3 or not np.size(kinds):
        raise ValueError(f"kinds must have three axes and an element, got shape {np.shape(kinds)}")
    depths, rows, columns = kinds.shape
    for depth, cells in enumerate(kinds):
        corner = left + depth * (columns + gap)
        draw_cells(ax, cells, corner, top)
        write(ax, corner + columns / 2, top + rows + 0.6, f"depth {depth}")
    return depths * (columns + gap) - gap, rows + 1.1


def axes_figure(operator: str, axis: Axis, at: int) -> Figure:
    """Draw the products of one result over one, two and three axes, all of them alike.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    axis : Axis
    at : int
        Index of the result along each axis.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        For a place that is none, an unknown operator, or three axes that are too large to be drawn.

    Examples
    --------
    >>> axis = Axis(size=4, taps=4, stride=2, before=1, after=1, dilation=1)
    >>> [text.get_text() for text in axes_figure("conv2d_input", axis, 1).axes[0].texts][-1]
    'depth 3'
    """
    layer = ConvShape(n=1, ih=1, iw=1, ic=1, oc=1, fh=1, fw=1)
    shapes = {axes: layer.with_axes(*[axis] * axes).with_unit_axes(max(axes, 2)) for axes in (3, 2, 1)}
    maps = {
        axes: window_kinds(operator, shape, (at,) * axes if axes > 1 else (0, at)) for axes, shape in shapes.items()
    }
    depths, rows, columns = maps[3].shape
    width, height = max(19.0, 2 * LEFT + depths * (columns + 0.8) - 0.8), 8.9 + 2 * rows
    fig, ax = canvas(width, height)
    top = 0.7
    for axes in (1, 2, 3):
        kinds, name = maps[axes], f"{axes} ax{'i' if axes == 1 else 'e'}s"
        useful = int((kinds == REAL).sum())
        write(ax, LEFT, top, f"{name}: {useful} of {kinds.size} products are useful", 22, weight="bold", ha="left")
        (draw_volume if axes == 3 else draw_cells)(ax, kinds, LEFT, top + 0.8)
        top += kinds.shape[-2] + 1.9
    ax.legend(handles=legend_of_kinds(), loc="lower center", ncols=3, frameon=False, fontsize=17, handleheight=1.3)
    return fig
