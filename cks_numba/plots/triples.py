"""One axis as a table: row o and column i hold the tap f with which output o meets input i."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from ..geometry import Axis
from ..steps.stages import PADDED
from .cells import BLUE, INK, LETTER_COLOURS, STYLES, Kinds, write

PLACES = {"i": 0, "f": 1, "o": 2}
COLOURS = [colour for colour in LETTER_COLOURS if colour != "#FFFFFF"]  # white is left for squares without a product


def triple_map(axis: Axis) -> Kinds:
    """Tap with which each output (rows) meets each element of the padded axis (columns); -1 where they never meet.

    Examples
    --------
    >>> triple_map(Axis(size=4, taps=3, stride=2, before=1, after=1, dilation=1))
    array([[ 0,  1,  2, -1, -1, -1],
           [-1, -1,  0,  1,  2, -1]])
    """
    padded = Axis(axis.before + axis.size + axis.after, axis.taps, axis.stride, 0, 0, axis.dilation)
    table = np.full((axis.outputs, padded.size), -1)
    for run in padded.runs("conv2d"):
        for i, f, o in run.triples():
            table[o, i] = f
    return table


def draw_triples(ax: Any, axis: Axis, by: str | None = None, left: float = 0, top: float = 0) -> None:
    """Draw the table; taps on padding are dotted.

    Parameters
    ----------
    ax : matplotlib Axes
    axis : Axis
    by : {"o", "i", "f"}, optional
        Products that share this index get one colour.
    left, top : float
        Place of its corner, in squares. The labels stand in the squares above and to the left of it.
    """
    table = triple_map(axis)
    for (o, column), f in np.ndenumerate(table):
        i = column - axis.before
        style = _style(axis, (i, int(f), o), by)
        ax.add_patch(Rectangle((left + column, top + o), 1, 1, linewidth=0.9, **style))
        if f >= 0:
            write(ax, left + column + 0.5, top + o + 0.5, str(f), color="white" if style["facecolor"] == BLUE else INK)
    _draw_labels(ax, axis, table, left, top)


def _style(axis: Axis, triple: tuple[int, int, int], by: str | None) -> dict[str, Any]:
    if triple[1] < 0:
        return dict(facecolor="none", edgecolor="#DDDDDD")
    if not 0 <= triple[0] < axis.size:
        return STYLES[PADDED]
    facecolor = BLUE if by is None else COLOURS[triple[PLACES[by]] % len(COLOURS)]
    return dict(facecolor=facecolor, edgecolor="#444444")


def _draw_labels(ax: Any, axis: Axis, table: Kinds, left: float, top: float) -> None:
    rows, columns = table.shape
    real = Rectangle((left + axis.before, top), axis.size, rows, fill=False, edgecolor=INK, linewidth=2.4)
    ax.add_patch(real)
    write(ax, left - 0.9, top - 0.55, "o \\ i", 12)
    for o in range(rows):
        write(ax, left - 0.5, top + o + 0.5, str(o), 13)
    for column in range(columns):
        write(ax, left + column + 0.5, top - 0.5, str(column - axis.before).replace("-", "\u2212"), 13)
