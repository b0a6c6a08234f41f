"""Filter gradient step by step: ``dw[f] = sum over o of x[o*stride - padding + f*dilation] * dy[o]``.

The regular way pads x, puts stride-1 zeros between the elements of dy, and uses that as one large
filter that slides over x. (The paper calls this a dilated convolution. It means those inserted
zeros, not a convolution with dilation > 1.) The skipping way (Sk-dilated of C-K-S, arXiv
2306.15951) walks over dy as it is, in steps of the stride through x, and for each tap only where
x has an element.
"""

from __future__ import annotations

import numpy as np

from ..geometry import Axis, ConvShape, outputs_of_tap
from .stages import (
    Array,
    Stage,
    Steps,
    Sums,
    as_float64,
    insert_zeros,
    join_filter,
    pad_x,
    pick,
    split_channels,
)

PRODUCTS = "nhwgc,nhwgk->kgc"  # a window of x times a part of dy of the same size, summed to one tap of dw


def sk_dilated(x: Array, dy: Array, shape: ConvShape) -> Steps:
    """Gradient of a convolution with respect to its filter, the regular way and the skipping way.

    Parameters
    ----------
    x : ndarray, (N, IH, IW, IC)
    dy : ndarray, (N, OH, OW, OC)
        Both float32 or float64; sums are in float64.
    shape : ConvShape
        Of the convolution whose gradient this is.

    Returns
    -------
    Steps
        Results are dw, (OC, FH, FW, IC/groups); exactly 0 for a tap that never lies on x.

    Raises
    ------
    ValueError, TypeError
        If an array has another shape than `shape` says, or another dtype.

    Notes
    -----
    "Sk-dilated" of C-K-S, arXiv 2306.15951.

    Examples
    --------
    The corner taps miss the top row or the left column of the picture, the others do not.

    >>> import numpy as np
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=2, fw=2, stride=2, padding=((1, 0), (1, 0)))
    >>> steps = sk_dilated(np.ones((1, 4, 4, 1)), np.ones((1, 2, 2, 1)), shape)
    >>> steps.skipping[0, :, :, 0]
    array([[1., 2.],
           [2., 4.]])
    >>> steps.regular_madds, steps.skipping_madds
    (36, 9)
    """
    x = as_float64("x", x, shape.x_shape)
    dy = as_float64("dy", dy, shape.y_shape)
    regular_sums, skipping_sums = Sums(), Sums()
    regular = _regular(x, dy, shape, regular_sums)
    skipping = _skipping(x, dy, shape, skipping_sums)
    dw, dw_skipping = regular[-1].array, skipping[-1].array
    return Steps("conv2d_weight", shape, regular + skipping, dw, dw_skipping, regular_sums.madds, skipping_sums.madds)


def _regular(x: Array, dy: Array, shape: ConvShape, sums: Sums) -> list[Stage]:
    """Pad x, insert zeros in dy, then slide the one over the other."""
    padded, spread = pad_x(x, shape), insert_zeros(dy, shape)
    xp, dz = split_channels(padded.array, shape.groups), split_channels(spread.array, shape.groups)
    dw = np.zeros((shape.oc // shape.groups, shape.fh, shape.fw, shape.groups, shape.ic // shape.groups))
    for fh in range(shape.fh):
        rows = range(fh * shape.h.dilation, fh * shape.h.dilation + dz.shape[1])
        for fw in range(shape.fw):
            cols = range(fw * shape.w.dilation, fw * shape.w.dilation + dz.shape[2])
            dw[:, fh, fw] = sums.add_up(PRODUCTS, pick(xp, rows, cols), dz)
    text = f"for every tap all {dz.shape[1]} x {dz.shape[2]} elements of the zero-inserted dy are multiplied"
    return [padded, spread, Stage("dw the regular way", text, join_filter(dw), way="regular")]


def _skipping(x: Array, dy: Array, shape: ConvShape, sums: Sums) -> list[Stage]:
    """Walk the dense dy, for every tap only over the outputs whose input lies on x."""
    xs, dys = split_channels(x, shape.groups), split_channels(dy, shape.groups)
    dw = np.zeros((shape.oc // shape.groups, shape.fh, shape.fw, shape.groups, shape.ic // shape.groups))
    walked = np.zeros((1, shape.fh, shape.fw, 1), dtype=np.int64)
    for fh in range(shape.fh):
        rows, outputs_h = _walk(fh, shape.h)
        for fw in range(shape.fw):
            cols, outputs_w = _walk(fw, shape.w)
            dw[:, fh, fw] = sums.add_up(PRODUCTS, pick(xs, rows, cols), pick(dys, outputs_h, outputs_w))
            walked[0, fh, fw, 0] = len(outputs_h) * len(outputs_w)
    text = f"how many of the {shape.oh} x {shape.ow} elements of dy meet an element of x, for every tap"
    outputs = Stage("elements of dy walked by each tap", text, walked)
    return [outputs, Stage("dw the skipping way", "for every tap only those elements are multiplied", join_filter(dw))]


def _walk(f: int, axis: Axis) -> tuple[range, range]:
    """Positions of x that tap f lies on, and the outputs for which it does."""
    lo, hi = outputs_of_tap(f, axis.size, axis.outputs, axis.stride, axis.before, axis.dilation)
    outputs = range(lo, max(lo, hi))
    first = lo * axis.stride - axis.before + f * axis.dilation
    return range(first, first + len(outputs) * axis.stride, axis.stride), outputs
