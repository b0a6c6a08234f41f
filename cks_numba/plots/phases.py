"""The filter split by phase, as conv2d_input does it: taps, sub-filters, and how the phases interleave in dx."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..geometry import ConvShape
from ..steps.ks_deconv import phases
from .cells import Kinds, draw_letters


def phase_maps(shape: ConvShape) -> tuple[Kinds, Kinds]:
    """Number of the phase of every tap of the filter and of every element of dx; -1 on a tap that no dx meets.

    Examples
    --------
    >>> taps, inputs = phase_maps(ConvShape(n=1, ih=2, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1))
    >>> taps
    array([[0, 1, 0],
           [2, 3, 2],
           [0, 1, 0]])
    >>> inputs
    array([[3, 2, 3, 2],
           [1, 0, 1, 0]])
    """
    taps, inputs = np.full((shape.fh, shape.fw), -1), np.full((shape.ih, shape.iw), -1)
    columns = phases(shape.w)
    for down, row in enumerate(phases(shape.h)):
        for across, column in enumerate(columns):
            number = down * len(columns) + across
            taps[np.ix_(row.taps, column.taps)] = number
            inputs[np.ix_(row.inputs, column.inputs)] = number
    return taps, inputs


def sub_filters(shape: ConvShape) -> list[list[Kinds]]:
    """The sub-filter of every phase, full of its number, as rows and columns of phases; some may be empty.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
    >>> [[part.shape for part in row] for row in sub_filters(shape)]
    [[(2, 2), (2, 1)], [(1, 2), (1, 1)]]
    """
    columns = phases(shape.w)
    return [
        [
            np.full((len(row.taps), len(column.taps)), down * len(columns) + across)
            for across, column in enumerate(columns)
        ]
        for down, row in enumerate(phases(shape.h))
    ]


def draw_sub_filters(ax: Any, shape: ConvShape, left: float = 0, top: float = 0, gap: float = 0.6) -> None:
    """Draw the sub-filters beside and below each other."""
    for row in sub_filters(shape):
        x = left
        for part in row:
            if part.size:
                draw_letters(ax, part, x, top)
            x += part.shape[1] + gap
        top += row[0].shape[0] + gap
