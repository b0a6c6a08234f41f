"""The operators on a CPU in plain NumPy: a loop over the groups of the plan.

A group holds no zero and needs no bounds test, so its operands are plain strided views of the
arrays. They are copied side by side (a chunk at a time) and multiplied: one GEMM a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...geometry import Affine, ConvShape, Group, plan

Array = np.ndarray[Any, Any]

SCRATCH_BYTES = 32 * 2**20  # Most bytes of gathered operands at a time, unless one row of an image has more.


def run(operator: str, shape: ConvShape, first: Array, second: Array, out: Array) -> None:
    """Run an operator on NHWC arrays of any strides.

    The parameters are those of ``cks_numba.backends.cpu.run``.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> y = np.empty(shape.y_shape)
    >>> run("conv2d", shape, np.ones(shape.x_shape), np.ones(shape.w_shape), y)
    >>> y.ravel()
    array([4., 4., 4., 4.])
    """
    group_of = {"conv2d": _conv2d, "conv2d_input": _conv2d_input, "conv2d_weight": _conv2d_weight}[operator]
    with np.errstate(all="ignore"):  # infinity and NaN in the input are the caller's to see, not errors here
        for group in plan(operator, shape).groups:
            group_of(group, shape, first, second, out)


def _conv2d(group: Group, shape: ConvShape, x: Array, w: Array, y: Array) -> None:
    """y (n, kh, kw, OC) = x (n, kh, kw, th, tw, IC) times w (OC, th, tw, IC/g)."""
    h, v = group
    target = y[:, _fixed(h.o, h.positions), _fixed(v.o, v.positions)]
    if not group.terms:
        target[...] = 0
        return
    taps = w[:, _terms(h.f, h.terms), _terms(v.f, v.terms)]  # (OC, th, tw, IC/g)
    filters = taps.reshape(shape.groups, shape.oc // shape.groups, -1)  # (g, OC/g, th*tw*IC/g)
    _multiply(group, (h.i, v.i), x, filters.transpose(0, 2, 1), target)


def _conv2d_input(group: Group, shape: ConvShape, w: Array, dy: Array, dx: Array) -> None:
    """dx (n, kh, kw, IC) = dy (n, kh, kw, th, tw, OC) times w (OC, th, tw, IC/g)."""
    h, v = group
    target = dx[:, _fixed(h.i, h.positions), _fixed(v.i, v.positions)]
    if not group.terms:
        target[...] = 0
        return
    taps = w[:, _terms(h.f, h.terms), _terms(v.f, v.terms)]
    taps = taps.reshape(shape.groups, shape.oc // shape.groups, h.terms, v.terms, -1)
    filters = taps.transpose(0, 2, 3, 1, 4)  # (g, th, tw, OC/g, IC/g), the order of the gathered dy
    filters = filters.reshape(shape.groups, -1, taps.shape[-1])  # (g, th*tw*OC/g, IC/g)
    _multiply(group, (h.o, v.o), dy, filters, target)


def _multiply(group: Group, where: tuple[Affine, Affine], source: Array, filters: Array, target: Array) -> None:
    """target (n, kh, kw, g*a) = windows of source (g, n*kh*kw, b) times filters (g, b, a), chunk by chunk."""
    row_bytes = group.w.positions * group.terms * source.shape[-1] * source.itemsize
    for n, k in _chunks(source.shape[0], group.h.positions, row_bytes):
        part = target[n, k]
        windows = _windows(group, where, source[n], k)  # (n, kh, kw, th, tw, C)
        gathered = windows.reshape(-1, group.terms, len(filters), source.shape[-1] // len(filters))
        gathered = gathered.transpose(2, 0, 1, 3).reshape(len(filters), len(gathered), -1)
        product = np.matmul(gathered, filters)  # (g, n*kh*kw, a)
        part[...] = product.transpose(1, 0, 2).reshape(part.shape)


def _windows(group: Group, where: tuple[Affine, Affine], source: Array, rows: slice) -> Array:
    """View of source (n, H, W, C) as (n, kh, kw, th, tw, C): no copy, and all of it in bounds."""
    (h, v), (at_h, at_v) = group, where
    corner = source[:, at_h.at(rows.start, 0) :, at_v.base :]
    sn, sh, sw, sc = source.strides
    sizes = (len(source), rows.stop - rows.start, v.positions, h.terms, v.terms, source.shape[-1])
    strides = (sn, at_h.fixed * sh, at_v.fixed * sw, at_h.term * sh, at_v.term * sw, sc)
    return as_strided(corner, sizes, strides, writeable=False)


def _conv2d_weight(group: Group, shape: ConvShape, x: Array, dy: Array, dw: Array) -> None:
    """dw (OC, IC/g) of every tap of the group = dy (g, n*th*tw, OC/g) and x (g, n*th*tw, IC/g) multiplied."""
    h, v = group
    for kh in range(h.positions):
        for kw in range(v.positions):
            target = dw[:, h.f.at(kh, 0), v.f.at(kw, 0)]
            target[...] = 0
            if not group.terms:
                continue
            xs = x[:, _terms(h.i, h.terms, kh), _terms(v.i, v.terms, kw)]  # (N, th, tw, IC)
            dys = dy[:, _terms(h.o, h.terms, kh), _terms(v.o, v.terms, kw)]  # (N, th, tw, OC)
            row_bytes = v.terms * (shape.ic + shape.oc) * x.itemsize
            for n, t in _chunks(shape.n, h.terms, row_bytes):  # in order, so that the same bits come out every time
                a, b = (_by_channel_group(array[n, t], shape.groups) for array in (dys, xs))
                target += np.matmul(a.transpose(0, 2, 1), b).reshape(target.shape)


def _by_channel_group(array: Array, groups: int) -> Array:
    """(n, th, tw, C) as (g, n*th*tw, C/g)."""
    flat = array.reshape(prod(array.shape[:3]), groups, array.shape[3] // groups)
    return flat.transpose(1, 0, 2)


def _fixed(index: Affine, count: int) -> slice:
    """Slice of the fixed indices of a run; their step is at least 1."""
    return slice(index.base, index.at(count - 1, 0) + 1, max(1, index.fixed))


def _terms(index: Affine, terms: int, k: int = 0) -> slice:
    """Slice of the summed indices of the k-th fixed index; their step is at least 1."""
    return slice(index.at(k, 0), index.at(k, terms - 1) + 1, max(1, index.term))


def _chunks(images: int, rows: int, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cut (images, rows) into parts of about SCRATCH_BYTES: whole images, or rows of one where they are large."""
    step_k = max(1, min(rows, SCRATCH_BYTES // row_bytes))
    step_n = max(1, SCRATCH_BYTES // (row_bytes * rows)) if step_k == rows else 1
    for n in range(0, images, step_n):
        for k in range(0, rows, step_k):
            yield slice(n, min(n + step_n, images)), slice(k, min(k + step_k, rows))
