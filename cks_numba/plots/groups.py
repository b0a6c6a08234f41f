"""The groups of a plan: a map of the result with one letter per group, and the window of each group."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from ..geometry import ConvShape, Group, Run, plan
from .cells import BLUE, RED, Kinds, draw_letters, frame, write

FIXED = {"conv2d": "o", "conv2d_input": "i", "conv2d_weight": "f"}
FRAME_COLOURS, ROW_COLOURS = (BLUE, RED, "#00734F", "#8F3E75"), ("#C9E3F4", "#FBDDC9", "#C5E8DC", "#F0D3E5")
"""Dark and light of the same colours: a window on x, and its row of the matrix."""
WINDOW = {"conv2d": "f", "conv2d_input": "f", "conv2d_weight": "o"}
"""Index of the elements that a result meets in what slides: the filter, or dy for conv2d_weight."""


def group_map(operator: str, shape: ConvShape) -> Kinds:
    """Number of the plan's group that each element of the result belongs to.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape

    Returns
    -------
    int array (rows, columns)
        One number per element of the result; the longest sums have the smallest numbers.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> group_map("conv2d", shape)
    array([[5, 1, 1, 6],
           [2, 0, 0, 3],
           [2, 0, 0, 3],
           [7, 4, 4, 8]])
    """
    groups = plan(operator, shape).groups
    axes = shape.h, shape.w
    size = [{"o": axis.outputs, "i": axis.size, "f": axis.taps}[FIXED[operator]] for axis in axes]
    numbers = np.full(size, -1)
    for number, group in enumerate(groups):
        numbers[np.ix_(*(_fixed(run, operator) for run in group))] = number
    return numbers


def window_map(operator: str, shape: ConvShape, number: int) -> Kinds:
    """Map the filter (for conv2d_weight: dy): `number` where the results of that group meet it, -1 elsewhere.

    For conv2d_weight this is what the first result of the group meets.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> window_map("conv2d", shape, 5)
    array([[-1, -1, -1],
           [-1,  5,  5],
           [-1,  5,  5]])
    """
    group = plan(operator, shape).groups[number]
    size = (shape.oh, shape.ow) if WINDOW[operator] == "o" else (shape.fh, shape.fw)
    window = np.full(size, -1)
    window[np.ix_(*(_met(run, operator) for run in group))] = number
    return window


def _fixed(run: Run, operator: str) -> list[int]:
    index = getattr(run, FIXED[operator])
    return [index.at(k, 0) for k in range(run.positions)]


def _met(run: Run, operator: str) -> list[int]:
    index = getattr(run, WINDOW[operator])
    return [index.at(0, t) for t in range(run.terms)]


def draw_groups(ax: Any, operator: str, shape: ConvShape, left: float = 0, top: float = 0, unit: float = 1) -> None:
    """Draw the result, with a letter and a colour for each group."""
    draw_letters(ax, group_map(operator, shape), left, top, unit)


def draw_windows(
    ax: Any, operator: str, shape: ConvShape, left: float = 0, top: float = 0, unit: float = 0.5, gap: float = 0.5
) -> tuple[float, float]:
    """Draw the window of every group, in the order of the runs of rows and columns; return width and height."""
    groups = plan(operator, shape).groups
    rows, columns = (axis.runs(operator) for axis in (shape.h, shape.w))
    wide = high = 0.0
    for down, row in enumerate(rows):
        for across, column in enumerate(columns):
            window = window_map(operator, shape, groups.index(Group((row, column))))
            high, wide = (size * unit + gap for size in window.shape)
            draw_letters(ax, window, left + across * wide, top + down * high, unit)
    return len(columns) * wide - gap, len(rows) * high - gap


def row_map(shape: ConvShape, number: int) -> Kinds:
    """Elements of x that each output of a group of conv2d meets: a row for each output, a column for each tap.

    Returns
    -------
    int array (outputs, taps)
        An element of x is its row times the width of x, plus its column.

    Examples
    --------
    >>> row_map(ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1), 1)
    array([[0, 1, 2, 4, 5, 6],
           [1, 2, 3, 5, 6, 7]])
    """
    rows, columns = plan("conv2d", shape).groups[number]
    ih, iw = (  # (outputs, taps) of an axis
        np.array([[run.i.at(k, t) for t in range(run.terms)] for k in range(run.positions)]) for run in (rows, columns)
    )
    table = ih[:, None, :, None] * shape.iw + iw[None, :, None, :]  # (rows, columns, taps down, taps across)
    return np.asarray(table.reshape(rows.positions * columns.positions, -1))


def draw_product(ax: Any, shape: ConvShape, number: int, left: float = 0, top: float = 0) -> None:
    """Draw a group of conv2d as a matrix product: its windows on x, each of them as a row, times the taps.

    A window has the colour of its row. One image and one channel of each kind are drawn.

    Parameters
    ----------
    ax : matplotlib Axes
    shape : ConvShape
    number : int
        Number of the group in the plan.
    left, top : float
        Place of the corner, in squares.
    """
    rows, columns = plan("conv2d", shape).groups[number]
    x = np.arange(shape.ih * shape.iw).reshape(shape.ih, shape.iw)
    windows = row_map(shape, number)
    taps, outputs = (
        np.add.outer(np.array(pick(rows, "conv2d")) * width, pick(columns, "conv2d")).reshape(-1, 1)
        for pick, width in ((_met, shape.fw), (_fixed, shape.ow))
    )
    white, colours = ["#FFFFFF"] * max(len(x), len(taps)), [_row_colours(k)[1] for k in range(len(windows))]
    corner = left, top
    for numbers, name, shades, sign in (
        (x, "x", white, ""),
        (windows, "every window a row", colours, ""),
        (taps, "w", white, "\u00d7"),
        (outputs, "y", colours, "="),
    ):
        write(ax, left - 0.7, top + len(windows) / 2, sign, 20)
        _draw_numbers(ax, numbers, name, shades, left, top)
        left += numbers.shape[1] + 1.4
    _draw_frames(ax, shape, windows, *corner)


def _draw_frames(ax: Any, shape: ConvShape, windows: Kinds, left: float, top: float) -> None:
    for k, row in enumerate(windows):
        off = 0.12 * (k - len(windows) / 2 + 0.5)  # frames of windows that overlap stay apart
        places = [divmod(int(element), shape.iw) for element in row]
        frame(ax, places, left + off, top + off, edgecolor=_row_colours(k)[0], linewidth=3.5)


def _row_colours(k: int) -> tuple[str, str]:
    """Colours of a frame and of a row."""
    return FRAME_COLOURS[k % len(FRAME_COLOURS)], ROW_COLOURS[k % len(ROW_COLOURS)]


def _draw_numbers(ax: Any, numbers: Kinds, name: str, colours: list[str], left: float, top: float) -> None:
    """Draw a matrix of numbers, each row on its colour, with a name above it."""
    write(ax, left + numbers.shape[1] / 2, top - 0.6, name, 16, weight="bold")
    for (row, column), number in np.ndenumerate(numbers):
        corner = left + column, top + row
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=colours[row], edgecolor="#666666", linewidth=0.9))
        write(ax, corner[0] + 0.5, corner[1] + 0.5, str(number), 13)
