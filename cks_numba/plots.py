"""Drawings of where the zeros are, made from the step-by-step versions: nothing here derives geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.patches import Patch, Rectangle

from . import steps
from .geometry import ConvShape
from .steps.stages import INSERTED, PADDED, REAL

Kinds = np.ndarray[Any, Any]

BLUE = "#0072B2"
STYLES: dict[int, dict[str, Any]] = {  # blue and orange of the Okabe-Ito palette, told apart by hatch and text too
    REAL: dict(facecolor=BLUE, edgecolor="white"),
    INSERTED: dict(facecolor="#FBDFA3", edgecolor="#C57B00", hatch="////"),
    PADDED: dict(facecolor="#F2F2F2", edgecolor="#9A9A9A", hatch="...."),
}
NAMES = {REAL: "real element", INSERTED: "inserted zero", PADDED: "padded zero"}
FIELDS = {"conv2d": "padded x", "conv2d_input": "padded dy", "conv2d_weight": "padded x"}


def zero_maps(operator: str, shape: ConvShape) -> tuple[Kinds, Kinds]:
    """Tell what the regular way multiplies.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        One image and one channel of it are looked at.

    Returns
    -------
    field, slider : int arrays of REAL, INSERTED and PADDED
        The tensor that is read, and what slides over it: the filter, or the zero-inserted dy.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> zero_maps("conv2d", shape)[0].tolist()
    [[2, 2, 2, 2], [2, 0, 0, 2], [2, 0, 0, 2], [2, 2, 2, 2]]
    """
    one = dict(n=1, ih=shape.ih, iw=shape.iw, ic=1, oc=1, fh=shape.fh, fw=shape.fw)
    single = ConvShape(**one, stride=shape.stride, padding=shape.padding, dilation=shape.dilation)
    first, second = (np.ones(size) for _, size in single.arrays(operator)[:2])
    shown = steps.BY_OPERATOR[operator](first, second, single)
    if operator == "conv2d_weight":
        slider = shown.stage("dy with inserted zeros").kinds[0, :, :, 0]
    else:
        slider = np.full((shape.fh, shape.fw), REAL)
    return shown.stage(FIELDS[operator]).kinds[0, :, :, 0], slider


def draw_cells(ax: Any, kinds: Kinds, left: float = 0, top: float = 0, window: tuple[int, int] | None = None) -> None:
    """Draw a tensor, one square an element and a 0 on every added one.

    Parameters
    ----------
    ax : matplotlib Axes
    kinds : int array (rows, columns)
        From `zero_maps`.
    left, top : float
        Where its corner lies, in squares.
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
