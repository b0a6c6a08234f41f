"""The groups of a plan: a map of the result with one letter per group, and the window of each group."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..geometry import ConvShape, Group, Run, plan
from .cells import Kinds, draw_letters

FIXED = {"conv2d": "o", "conv2d_input": "i", "conv2d_weight": "f"}
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
            window = window_map(operator, shape, groups.index(Group(row, column)))
            high, wide = (size * unit + gap for size in window.shape)
            draw_letters(ax, window, left + across * wide, top + down * high, unit)
    return len(columns) * wide - gap, len(rows) * high - gap
