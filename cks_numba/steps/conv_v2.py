"""Convolution step by step: ``y[o] = sum over f of x[o*stride - padding + f*dilation] * w[f]``.

The regular way pads x with zeros and lays the whole filter on every position of it. Near the border
part of the filter lies on padding, and all those products are by zero. The skipping way (ConvV2 of
C-K-S, arXiv 2306.15951) pads nothing: it trims the filter to the taps that lie on x.
"""

from __future__ import annotations

import numpy as np

from ..geometry import Axis, ConvShape, taps_of_output
from .stages import (
    Array,
    Stage,
    Steps,
    Sums,
    as_float64,
    join_channels,
    pad_x,
    pick,
    split_channels,
    split_filter,
)

PRODUCTS = "nhwgc,khwgc->ngk"  # a window of x times a filter of the same size, summed to one pixel of y


def conv_v2(x: Array, w: Array, shape: ConvShape) -> Steps:
    """Convolve x with w, the regular way and the skipping way.

    Parameters
    ----------
    x : ndarray, (N, IH, IW, IC)
    w : ndarray, (OC, FH, FW, IC/groups)
        Both float32 or float64; sums are in float64.
    shape : ConvShape

    Returns
    -------
    Steps
        Results are y, (N, OH, OW, OC).

    Raises
    ------
    ValueError, TypeError
        If an array has another shape than `shape` says, or another dtype.

    Notes
    -----
    "ConvV2" of C-K-S, arXiv 2306.15951.

    Examples
    --------
    A 3x3 filter on a 2x2 picture: of the nine taps never more than four lie on the picture.

    >>> import numpy as np
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> steps = conv_v2(np.ones((1, 2, 2, 1)), np.ones((1, 3, 3, 1)), shape)
    >>> steps.skipping[0, :, :, 0]
    array([[4., 4.],
           [4., 4.]])
    >>> steps.regular_madds, steps.skipping_madds
    (36, 16)
    """
    x = as_float64("x", x, shape.x_shape)
    w = as_float64("w", w, shape.w_shape)
    regular_sums, skipping_sums = Sums(), Sums()
    regular = _regular(x, w, shape, regular_sums)
    skipping = _skipping(x, w, shape, skipping_sums)
    y, y_skipping = regular[-1].array, skipping[-1].array
    return Steps("conv2d", shape, regular + skipping, y, y_skipping, regular_sums.madds, skipping_sums.madds)


def _regular(x: Array, w: Array, shape: ConvShape, sums: Sums) -> list[Stage]:
    """Pad x, then slide the whole filter over it."""
    stage = pad_x(x, shape)
    xp, ws = split_channels(stage.array, shape.groups), split_filter(w, shape.groups)
    y = np.zeros((shape.n, shape.oh, shape.ow, shape.groups, shape.oc // shape.groups))
    for oh in range(shape.oh):
        rows = _whole_window(oh, shape.h)
        for ow in range(shape.ow):
            cols = _whole_window(ow, shape.w)
            y[:, oh, ow] = sums.add_up(PRODUCTS, pick(xp, rows, cols), ws)
    text = f"at every position all {shape.fh} x {shape.fw} taps are multiplied, whatever lies under them"
    return [stage, Stage("y the regular way", text, join_channels(y), way="regular")]


def _skipping(x: Array, w: Array, shape: ConvShape, sums: Sums) -> list[Stage]:
    """Trim the filter to the taps that lie on x, and multiply only those."""
    xs, ws = split_channels(x, shape.groups), split_filter(w, shape.groups)
    y = np.zeros((shape.n, shape.oh, shape.ow, shape.groups, shape.oc // shape.groups))
    kept = np.zeros((1, shape.oh, shape.ow, 1), dtype=np.int64)
    for oh in range(shape.oh):
        rows, taps_h = _trimmed_window(oh, shape.h)
        for ow in range(shape.ow):
            cols, taps_w = _trimmed_window(ow, shape.w)
            y[:, oh, ow] = sums.add_up(PRODUCTS, pick(xs, rows, cols), pick(ws, taps_h, taps_w))
            kept[0, oh, ow, 0] = len(taps_h) * len(taps_w)
    text = f"how many of the {shape.fh} x {shape.fw} taps lie on x, for every element of y"
    taps = Stage("taps kept of each y", text, kept)
    return [taps, Stage("y the skipping way", "at every position only those taps are multiplied", join_channels(y))]


def _whole_window(o: int, axis: Axis) -> range:
    """Positions of the padded axis under all the taps of output o."""
    first = o * axis.stride
    return range(first, first + axis.span, axis.dilation)


def _trimmed_window(o: int, axis: Axis) -> tuple[range, range]:
    """Positions of x, and the taps of output o that lie on them."""
    lo, hi = taps_of_output(o, axis.size, axis.taps, axis.stride, axis.before, axis.dilation)
    taps = range(lo, max(lo, hi))
    first = o * axis.stride - axis.before + lo * axis.dilation
    return range(first, first + len(taps) * axis.dilation, axis.dilation), taps
