"""What a traced kernel multiplied: the products of one result, and how many each result wastes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from .. import trace
from .cells import INK, Kinds, mark, write

Places = list[tuple[int, int]]
HEAT = LinearSegmentedColormap.from_list("waste", ["#FFFFFF", "#F6C9A8", "#D55E00"])


def products(traced: trace.Trace, at: tuple[int, int], operand: str = "first") -> dict[bool, Places]:
    """Rows and columns of the elements of one operand in the wasted (True) and useful (False) products of a result.

    Parameters
    ----------
    traced : Trace
        Trace of a shape with one image and one channel.
    at : (int, int)
        Row and column of the result.
    operand : {"first", "second"}

    Examples
    --------
    >>> from cks_numba import ConvShape
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=2, fw=2, padding=1)
    >>> products(trace.run("conv2d", shape, "with_zeros"), (0, 0))
    {True: [(0, 0), (0, 1), (1, 0)], False: [(1, 1)]}
    """
    found: dict[bool, Places] = {True: [], False: []}
    for event in traced.events:
        if event.out == (0, *at, 0):
            _, row, column, _ = getattr(event, operand).place
            found[event.wasted].append((row, column))
    return found


def draw_products(
    ax: Any, traced: trace.Trace, at: tuple[int, int], operand: str = "first", left: float = 0, top: float = 0
) -> tuple[int, int]:
    """Mark the products of a result on one operand; return how many are wasted and how many useful."""
    found = products(traced, at, operand)
    for wasted, places in found.items():
        mark(ax, places, wasted, left, top)
    return len(found[True]), len(found[False])


def waste_map(traced: trace.Trace) -> tuple[Kinds, Kinds]:
    """Numbers of wasted products and of all products of each result, for one image and channel.

    Examples
    --------
    >>> from cks_numba import ConvShape
    >>> shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> waste_map(trace.run("conv2d", shape, "with_zeros"))[0]
    array([[5, 3, 5],
           [3, 0, 3],
           [5, 3, 5]])
    """
    wasted, useful = (traced.per_result(which)[0, :, :, 0] for which in (True, False))
    return wasted, wasted + useful


def draw_heat(
    ax: Any,
    numbers: Kinds,
    shares: Kinds,
    left: float = 0,
    top: float = 0,
    unit: float = 1,
    size: float = 15,
    colours: Any = HEAT,
    of: Kinds | None = None,
) -> None:
    """Draw a map of numbers, the redder (or further along `colours`) the larger the share (0 to 1) of each.

    Below each number stands the one that it is a part of, if they are given.
    """
    for (row, column), number in np.ndenumerate(numbers):
        corner, share = (left + column * unit, top + row * unit), float(shares[row, column])
        ax.add_patch(Rectangle(corner, unit, unit, facecolor=colours(share), edgecolor="#999999", linewidth=0.9))
        text_colour = "white" if share > 0.85 else INK
        middle = corner[0] + unit / 2, corner[1] + unit * (0.5 if of is None else 0.34)
        write(ax, *middle, str(number), size, color=text_colour)
        if of is not None:
            write(ax, middle[0], corner[1] + unit * 0.74, f"of {of[row, column]}", 0.75 * size, color=text_colour)
