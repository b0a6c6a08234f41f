"""The whole idea in one file: the three operators of a convolutional layer, with no product by an added zero.

Along one axis, input i, tap f of the filter and output o meet in one product exactly when::

    i = o*stride - before + f*dilation,   0 <= i < I,  0 <= f < F,  0 <= o < O

where `before` is the padding in front. Such an (i, f, o) is a *real triple*; every other product has an added zero as
a factor. For one tap f, the outputs o that have an input are a range, trimmed at both ends, where the tap would lie on
padding. The inputs i that they meet are a range as well, in steps of the stride. So the real triples of an axis are a
short list: for each tap a slice of i and a slice of o. Rows have such a list, and columns have one.

All three operators go over both lists and add up the same products, each into another array: `conv2d` for every
output, `conv2d_input` for every input, `conv2d_weight` for every tap. No array is padded, and none is spread out.

Stride and dilation are (rows, columns), padding is ((top, bottom), (left, right)). There are no channel groups here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Shape = tuple[int, ...]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Triple = tuple[slice, int, slice]


def real_triples(size: int, taps: int, outputs: int, stride: int, before: int, dilation: int) -> list[Triple]:
    """List the real triples of an axis: (slice of i, f, slice of o) for each tap that has any.

    >>> real_triples(size=4, taps=3, outputs=2, stride=2, before=1, dilation=1)[0]
    (slice(1, 2, 2), 0, slice(1, 2, None))
    """
    found = []
    for f in range(taps):
        i = f * dilation - before  # the input of output 0; below 0 it is padding
        first, end = max(0, -(i // stride)), min(outputs, (size - 1 - i) // stride + 1)
        if first < end:
            found.append((slice(i + first * stride, i + (end - 1) * stride + 1, stride), f, slice(first, end)))
    return found


def y_shape(x: Shape, w: Shape, stride: Pair, padding: Pads, dilation: Pair) -> Shape:
    """Return the shape of y for those of x and w; a ValueError if they do not fit."""
    span = [(w[k + 1] - 1) * dilation[k] + 1 for k in (0, 1)]
    oh, ow = ((x[k + 1] + sum(padding[k]) - span[k]) // stride[k] + 1 for k in (0, 1))
    if x[3] != w[3] or min(oh, ow) < 1:
        raise ValueError(f"x {x} and w {w} must have the same channels, and w must fit in the padded x")
    return x[0], oh, ow, w[0]


def products(x: Shape, w: Shape, y: Shape, stride: Pair, padding: Pads, dilation: Pair) -> list[tuple[Triple, Triple]]:
    """List the products of a layer: a real triple of the rows with one of the columns. The shape of y is checked."""
    if y != (expected := y_shape(x, w, stride, padding, dilation)):
        raise ValueError(f"dy must have shape {expected}, got {y}")
    rows, columns = (real_triples(x[k + 1], w[k + 1], y[k + 1], stride[k], padding[k][0], dilation[k]) for k in (0, 1))
    return [(row, column) for row in rows for column in columns]


def conv2d(x: Array, w: Array, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Convolve x (N, IH, IW, IC) with w (OC, FH, FW, IC): y (N, OH, OW, OC).

    >>> conv2d(np.ones((1, 2, 2, 1)), np.ones((1, 3, 3, 1)), (1, 1), ((1, 1), (1, 1)), (1, 1)).ravel()
    array([4., 4., 4., 4.])
    """
    y = np.zeros(y_shape(x.shape, w.shape, stride, padding, dilation), x.dtype)
    for (ih, fh, oh), (iw, fw, ow) in products(x.shape, w.shape, y.shape, stride, padding, dilation):
        y[:, oh, ow] += np.einsum("nhwc,kc->nhwk", x[:, ih, iw], w[:, fh, fw])
    return y


def conv2d_input(x_shape: Shape, w: Array, dy: Array, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Return the gradient of x, (N, IH, IW, IC), for the gradient dy of y.

    >>> conv2d_input((1, 2, 2, 1), np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 1)), (2, 2), ((0, 0),) * 2, (1, 1)).ravel()
    array([1., 0., 0., 0.])
    """
    dx = np.zeros(x_shape, dy.dtype)
    for (ih, fh, oh), (iw, fw, ow) in products(x_shape, w.shape, dy.shape, stride, padding, dilation):
        dx[:, ih, iw] += np.einsum("nhwk,kc->nhwc", dy[:, oh, ow], w[:, fh, fw])
    return dx


def conv2d_weight(x: Array, w_shape: Shape, dy: Array, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Return the gradient of w, (OC, FH, FW, IC), for the gradient dy of y.

    >>> ones = np.ones((1, 2, 2, 1))
    >>> conv2d_weight(ones, (1, 1, 2, 1), ones, (1, 1), ((0, 0), (0, 1)), (1, 1)).ravel()
    array([4., 2.])
    """
    dw = np.zeros(w_shape, dy.dtype)
    for (ih, fh, oh), (iw, fw, ow) in products(x.shape, w_shape, dy.shape, stride, padding, dilation):
        dw[:, fh, fw] = np.einsum("nhwc,nhwk->kc", x[:, ih, iw], dy[:, oh, ow])
    return dw
