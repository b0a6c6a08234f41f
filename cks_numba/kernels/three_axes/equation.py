"""What the kernels over three axes share: an axis as a row of numbers, and the equation solved along it.

In all of them an index is one of three: `fixed` is that of the result, `summed` counts the terms, and `third` follows
from both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...geometry import ConvShape
from ..axes import over
from ..jit import device, outputs_of_tap, taps_of_input, taps_of_output
from ..launch import beside

# Columns of a table of axes, for a kernel that solves the equation itself. A term is SUMMED_STEP and THIRD_STEP after
# the one before it. From FIRST_TAPS on stand the first taps of the phases, as many as the largest stride.
STRIDE, PADDING, DILATION, SUMMED_STEP, THIRD_STEP, FIRST_TAPS = range(6)


def axes_table(operator: str, shape: ConvShape, like: Any) -> Any:
    """Write the axes of a layer as rows of int32 (depth, rows, columns), on the device of `like`."""
    table = np.zeros((3, FIRST_TAPS + max(shape.stride)), np.int32)
    for row, axis in zip(table, shape.axes, strict=True):
        steps = {
            "conv2d": (1, axis.dilation),
            "conv2d_input": (axis.phase_step, -axis.output_step),
            "conv2d_weight": (1, axis.stride),
        }[operator]
        row[:FIRST_TAPS] = axis.stride, axis.before, axis.dilation, *steps
        first = axis.first_taps()
        row[FIRST_TAPS : FIRST_TAPS + len(first)] = first
    return beside(like, table)


# --- the equation along an axis: the first summed index, the third one there, and the number of terms ---------------
@device
def taps_on_x(axes, axis, o, size, taps):
    """Of output o: its first tap that lies on x, the input there, and the number of such taps."""
    stride, padding, dilation = axes[axis, STRIDE], axes[axis, PADDING], axes[axis, DILATION]
    lo, hi = taps_of_output(o, size, taps, stride, padding, dilation)
    return lo, o * stride - padding + lo * dilation, hi - lo


@device
def taps_of_phase(axes, axis, i, outputs, taps):
    """Of input i: the first tap of its phase, the output there, and the number of taps that meet an output."""
    stride, padding, dilation = axes[axis, STRIDE], axes[axis, PADDING], axes[axis, DILATION]
    f_step, o_step = axes[axis, SUMMED_STEP], -axes[axis, THIRD_STEP]
    return taps_of_input(i, axes[axis, FIRST_TAPS:], taps, outputs, stride, padding, dilation, f_step, o_step)


@device
def outputs_on_x(axes, axis, f, size, outputs):
    """Of tap f: the first output whose input lies on x, that input, and the number of such outputs."""
    stride, padding, dilation = axes[axis, STRIDE], axes[axis, PADDING], axes[axis, DILATION]
    lo, hi = outputs_of_tap(f, size, outputs, stride, padding, dilation)
    return lo, lo * stride - padding + f * dilation, max(0, hi - lo)


@device
def after(axes, axis, first_summed, first_third, t):
    """The summed index and the third one, t terms after the first ones."""
    return first_summed + t * axes[axis, SUMMED_STEP], first_third + t * axes[axis, THIRD_STEP]


four_digits = over(3).digits
"""Writes a number with four digits, of which the last three are below the sizes that follow."""
