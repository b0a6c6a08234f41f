"""The regular way, in plain NumPy: really pad, really insert the zeros, and multiply everything.

This is what the skipping versions are checked against and timed against. It shares no index
arithmetic with ``plan``: it builds the large tensor with its zeros and slides a window over it, as
one large matrix product (im2col). Any dtype: integers give exact results.

===================  ==============================  ==================================
operator             the tensor that it walks over   what slides over it
===================  ==============================  ==================================
``conv2d``           x, padded                       w
``conv2d_input``     dy, zero-inserted and padded    w, flipped
``conv2d_weight``    x, padded                       dy, zero-inserted
===================  ==============================  ==================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..geometry import Axis, ConvShape

Array = NDArray[Any]


def pad_input(x: Array, shape: ConvShape) -> Array:
    """Put the zeros of the padding around x.

    Parameters
    ----------
    x : (N, IH, IW, C) array
    shape : ConvShape

    Returns
    -------
    (N, top + IH + bottom, left + IW + right, C) array

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> pad_input(np.ones((1, 2, 2, 1), int), shape)[0, :, :, 0].tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    return np.pad(x, ((0, 0), *shape.padding, (0, 0)))


def insert_zeros(dy: Array, shape: ConvShape) -> Array:
    """Put stride-1 zeros between the neighbours of dy.

    Parameters
    ----------
    dy : (N, OH, OW, C) array
    shape : ConvShape

    Returns
    -------
    (N, (OH-1)*stride + 1, (OW-1)*stride + 1, C) array

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=2, fw=2, stride=2)
    >>> insert_zeros(np.ones((1, 2, 2, 1), int), shape)[0, :, :, 0].tolist()
    [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    """
    n, oh, ow, c = dy.shape
    sh, sw = shape.stride
    spread = np.zeros((n, (oh - 1) * sh + 1, (ow - 1) * sw + 1, c), dy.dtype)
    spread[:, ::sh, ::sw] = dy
    return spread


def pad_gradient(spread: Array, shape: ConvShape) -> Array:
    """Pad a zero-inserted dy so that the flipped filter, moved by one each time, meets every input once.

    Parameters
    ----------
    spread : (N, (OH-1)*stride + 1, (OW-1)*stride + 1, C) array
    shape : ConvShape

    Returns
    -------
    (N, IH + span - 1, IW + span - 1, C) array, span = (F-1)*dilation + 1
        A padding of the forward pass larger than span - 1 crops instead.
    """
    spread = _pad_or_crop(spread, 1, shape.h)
    return _pad_or_crop(spread, 2, shape.w)


def _pad_or_crop(spread: Array, axis: int, line: Axis) -> Array:
    length, before = line.size + line.span - 1, line.span - 1 - line.before
    widths = [(0, 0)] * spread.ndim
    widths[axis] = max(0, before), max(0, length - before - spread.shape[axis])
    first = max(0, -before)  # may be past the last element of dy, in the zeros after it
    return np.pad(spread, widths)[(slice(None),) * axis + (slice(first, first + length),)]


def _windows(a: Array, window: tuple[int, int], step: tuple[int, ...]) -> Array:
    """Return windows of `a` (N, H, W, C), one every `step`: a view (N, rows, columns, C, window rows and columns)."""
    return sliding_window_view(a, window, axis=(1, 2))[:, :: step[0], :: step[1]]


def _correlate(a: Array, filters: Array, shape: ConvShape, step: tuple[int, ...]) -> Array:
    """Slide filters (groups, FH*FW*C/groups, K/groups) over a (N, H, W, C) and multiply everything."""
    g, (dh, dw) = shape.groups, shape.dilation
    cut = _windows(a, (shape.h.span, shape.w.span), step)[..., ::dh, ::dw]  # (N, R, C, IC, FH, FW)
    n, rows, columns, ic, fh, fw = cut.shape
    cut = cut.reshape(n, rows, columns, g, ic // g, fh, fw).transpose(3, 0, 1, 2, 5, 6, 4)
    patches = cut.reshape(g, n * rows * columns, fh * fw * (ic // g))  # a copy: (groups, positions, terms)
    y = patches @ filters  # (groups, positions, K/groups)
    return np.ascontiguousarray(y.transpose(1, 0, 2)).reshape(n, rows, columns, g * filters.shape[2])


def conv2d(x: Array, w: Array, shape: ConvShape) -> Array:
    """Convolution the regular way: y[n, oh, ow, oc].

    Parameters
    ----------
    x : (N, IH, IW, IC) array
    w : (OC, FH, FW, IC/groups) array of the same dtype
    shape : ConvShape

    Returns
    -------
    (N, OH, OW, OC) array of the same dtype

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> conv2d(np.ones((1, 3, 3, 1), int), np.ones((1, 3, 3, 1), int), shape)[0, :, :, 0].tolist()
    [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    """
    g, terms = shape.groups, shape.fh * shape.fw * w.shape[3]
    filters = w.reshape(g, shape.oc // g, terms).transpose(0, 2, 1)  # (groups, terms, OC/groups)
    return _correlate(pad_input(x, shape), filters, shape, shape.stride)


def conv2d_input(w: Array, dy: Array, shape: ConvShape) -> Array:
    """Input gradient (deconvolution) the regular way: dx[n, ih, iw, ic].

    Parameters
    ----------
    w : (OC, FH, FW, IC/groups) array
    dy : (N, OH, OW, OC) array of the same dtype
    shape : ConvShape

    Returns
    -------
    (N, IH, IW, IC) array of the same dtype

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=2, fw=2, stride=2)
    >>> w = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
    >>> conv2d_input(w, np.ones((1, 2, 2, 1), int), shape)[0, :, :, 0].tolist()
    [[1, 2, 1, 2], [3, 4, 3, 4], [1, 2, 1, 2], [3, 4, 3, 4]]
    """
    g, (oc, fh, fw, ic) = shape.groups, w.shape
    flipped = w[:, ::-1, ::-1].reshape(g, oc // g, fh, fw, ic).transpose(0, 2, 3, 1, 4)
    filters = flipped.reshape(g, fh * fw * (oc // g), ic)  # (groups, terms, IC/groups)
    return _correlate(pad_gradient(insert_zeros(dy, shape), shape), filters, shape, (1, 1))


def conv2d_weight(x: Array, dy: Array, shape: ConvShape) -> Array:
    """Filter gradient the regular way: dw[oc, fh, fw, ic].

    Parameters
    ----------
    x : (N, IH, IW, IC) array
    dy : (N, OH, OW, OC) array of the same dtype
    shape : ConvShape

    Returns
    -------
    (OC, FH, FW, IC/groups) array of the same dtype

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=2, fw=2, stride=2)
    >>> x = np.arange(16).reshape(1, 4, 4, 1)
    >>> conv2d_weight(x, np.ones((1, 2, 2, 1), int), shape)[0, :, :, 0].tolist()
    [[20, 24], [36, 40]]
    """
    g, spread = shape.groups, insert_zeros(dy, shape)
    uh, uw = spread.shape[1:3]
    cut = _windows(pad_input(x, shape), (uh, uw), shape.dilation)[:, : shape.fh, : shape.fw]  # (N, FH, FW, IC, UH, UW)
    n, fh, fw, ic = cut.shape[:4]
    cut = cut.reshape(n, fh, fw, g, ic // g, uh, uw).transpose(3, 0, 5, 6, 1, 2, 4)
    patches = cut.reshape(g, n * uh * uw, fh * fw * (ic // g))  # a copy: (groups, terms, taps and channels)
    gradients = spread.reshape(n * uh * uw, g, shape.oc // g).transpose(1, 2, 0)  # (groups, OC/groups, terms)
    dw: Array = (gradients @ patches).reshape(shape.w_shape)
    return dw


BY_OPERATOR: dict[str, Callable[[Array, Array, ConvShape], Array]] = {
    "conv2d": conv2d,
    "conv2d_input": conv2d_input,
    "conv2d_weight": conv2d_weight,
}
