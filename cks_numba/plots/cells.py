"""Tensors as squares: which elements are real, what is marked, framed, lettered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from .. import trace
from ..geometry import ConvShape
from ..steps.stages import INSERTED, PADDED, REAL

Kinds = np.ndarray[Any, Any]

BLUE, RED, INK = "#0072B2", "#D55E00", "#222222"
LETTER_COLOURS = ("#56B4E9", "#F0E442", "#7FD1B4", "#E3A9CB", "#FFFFFF", "#C9B8F0", "#B8B8B8", "#FBD3BE", "#C8A97E")
MARKS: dict[bool, dict[str, Any]] = {  # True: wasted products, False: useful ones
    True: dict(marker="X", markersize=16, color=RED, markeredgecolor="white", markeredgewidth=1.2),
    False: dict(marker="o", markersize=11, color="white", markeredgecolor=INK),
}
CELL = 0.55
"""Inches of a square on a canvas."""
STYLES: dict[int, dict[str, Any]] = {  # blue and orange of the Okabe-Ito palette, told apart by hatch and text too
    REAL: dict(facecolor=BLUE, edgecolor="white"),
    INSERTED: dict(facecolor="#FBDFA3", edgecolor="#C57B00", hatch="////"),
    PADDED: dict(facecolor="#F2F2F2", edgecolor="#9A9A9A", hatch="...."),
}
NAMES = {REAL: "real element", INSERTED: "inserted zero", PADDED: "padded zero"}


def single(shape: ConvShape) -> ConvShape:
    """Reduce a layer to one image and one channel, which is what is drawn."""
    return ConvShape(n=1, ih=1, iw=1, ic=1, oc=1, fh=1, fw=1).with_axes(*shape.axes)


def zero_maps(operator: str, shape: ConvShape) -> tuple[Kinds, Kinds]:
    """Map the kinds of elements that the regular way multiplies.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        Only its axes count, of which there may be one, two or three.

    Returns
    -------
    field, slider : int arrays of REAL, INSERTED and PADDED
        The tensor that is read, and what slides over it: the filter, or the zero-inserted dy.

    Raises
    ------
    ValueError
        For an unknown operator.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> zero_maps("conv2d", shape)[0].tolist()
    [[2, 2, 2, 2], [2, 0, 0, 2], [2, 0, 0, 2], [2, 2, 2, 2]]
    """
    field, *slider = trace.added_zeros(operator, shape).values()
    return field, slider[0] if slider else np.full(shape.w_shape[1:-1], REAL)


def draw_cells(ax: Any, kinds: Kinds, left: float = 0, top: float = 0, window: tuple[int, int] | None = None) -> None:
    """Draw a tensor as one square per element, with a 0 on every added zero.

    Parameters
    ----------
    ax : matplotlib Axes
    kinds : int array (rows, columns)
        From `zero_maps`.
    left, top : float
        Place of its corner, in squares.
    window : (int, int), optional
        Rows and columns that a thick frame encloses, from the corner.
    """
    rows, columns = kinds.shape
    for (row, column), kind in np.ndenumerate(kinds):
        ax.add_patch(Rectangle((left + column, top + row), 1, 1, linewidth=0.9, **STYLES[int(kind)]))
        if kind != REAL:
            where = left + column + 0.5, top + row + 0.5
            zero = ax.text(*where, "0", color="#333333", ha="center", va="center", fontsize=12)
            zero.set_bbox(dict(boxstyle="circle,pad=0.12", facecolor=STYLES[int(kind)]["facecolor"], edgecolor="none"))
    ax.add_patch(Rectangle((left, top), columns, rows, fill=False, edgecolor="#222222", linewidth=1.2))
    if window is not None:
        ax.add_patch(Rectangle((left, top), window[1], window[0], fill=False, edgecolor="black", linewidth=3.2))


def legend_of_kinds() -> list[Patch]:
    """Legend entries of the three kinds of element."""
    return [Patch(label=NAMES[kind], **STYLES[kind]) for kind in NAMES]


def legend_of_marks() -> list[Line2D]:
    """Legend entries of a wasted and of a useful product."""
    names = {True: "product by an added zero", False: "useful product"}
    return [Line2D([], [], linestyle="none", label=names[wasted], **MARKS[wasted]) for wasted in MARKS]


def canvas(columns: float, rows: float) -> tuple[Figure, Any]:
    """Return a figure and its one Axes, whose unit is a square of CELL inches and whose y axis points down."""
    fig = Figure(figsize=(columns * CELL, rows * CELL))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    ax.axis("off")
    return fig, ax


def write(ax: Any, x: float, y: float, text: str, size: float = 15, **style: Any) -> None:
    """Write a text, by default with its middle at (x, y)."""
    ax.text(x, y, text, **{"fontsize": size, "ha": "center", "va": "center", "color": INK, **style})


def mark(ax: Any, places: Iterable[tuple[int, int]], wasted: bool, left: float = 0, top: float = 0) -> None:
    """Put a red cross on elements whose product is wasted, or a white dot on those whose product is useful."""
    for row, column in places:  # above the zeros, whose background would hide it
        ax.plot(left + column + 0.5, top + row + 0.5, zorder=4, **MARKS[wasted])


def frame(ax: Any, places: Iterable[tuple[int, int]], left: float = 0, top: float = 0, **style: Any) -> None:
    """Draw the smallest thick frame around all the places (row, column); nothing if there are none."""
    rows, columns = zip(*places, strict=True) if (places := list(places)) else ((), ())
    if rows:
        high, wide = max(rows) - min(rows) + 1, max(columns) - min(columns) + 1
        style = {"edgecolor": "black", "linewidth": 3.2, "fill": False, **style}
        ax.add_patch(Rectangle((left + min(columns), top + min(rows)), wide, high, **style))


def draw_letters(ax: Any, numbers: Kinds, left: float = 0, top: float = 0, unit: float = 1) -> None:
    """Draw a map of numbers as squares of size `unit`, a letter and a colour for each; -1 is an element left out."""
    for (row, column), number in np.ndenumerate(numbers):
        style = STYLES[PADDED] if number < 0 else dict(facecolor=colour(int(number)), edgecolor="#666666")
        corner = left + column * unit, top + row * unit
        ax.add_patch(Rectangle(corner, unit, unit, linewidth=0.9, **style))
        if number >= 0:
            write(ax, corner[0] + unit / 2, corner[1] + unit / 2, letter(int(number)), 16 * min(1, unit * 1.2))
    rows, columns = numbers.shape
    ax.add_patch(Rectangle((left, top), columns * unit, rows * unit, fill=False, edgecolor=INK, linewidth=1.2))


def letter(number: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


def colour(number: int) -> str:
    """Colour of a letter; after the last one the colours start again, so the letter tells them apart."""
    return LETTER_COLOURS[number % len(LETTER_COLOURS)]
