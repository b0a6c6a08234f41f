"""The operators on a CPU in plain NumPy: a loop over the groups of the plan. For a group of T taps each of them is::

    y (n*k, OC) = windows of x (n*k, T*IC) @ w (T*IC, OC)         k are positions of y that have the same taps
    dx (n*k, IC) = windows of dy (n*k, T*OC) @ w (T*OC, IC)       k are positions of dx that have the same taps
    dw (OC, IC) = dy (OC, n*T) @ x (n*T, IC)                      for each tap, T are the positions that meet it

A group holds no zero and needs no bounds test, so its operands are plain strided views of the
arrays. They are copied side by side (a chunk at a time) and multiplied: one GEMM a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...geometry import Affine, ConvShape, Group, plan

Array = np.ndarray[Any, Any]

SCRATCH_BYTES = 32 * 2**20  # Most bytes of gathered operands at a time, unless one row of an image has more.


def run(operator: str, shape: ConvShape, first: Array, second: Array, out: Array) -> None:
    """Run an operator on arrays of any strides, channels last, with one, two or three spatial axes.

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
    target = y[_spatial(_fixed(run.o, run.positions) for run in group)]
    if not group.terms:
        target[...] = 0
        return
    filters = _taps(group, w).reshape(shape.groups, shape.oc // shape.groups, -1)  # (g, OC/g, th*tw*IC/g)
    _multiply(group, [run.i for run in group], x, filters.transpose(0, 2, 1), target)


def _conv2d_input(group: Group, shape: ConvShape, w: Array, dy: Array, dx: Array) -> None:
    """dx (n, kh, kw, IC) = dy (n, kh, kw, th, tw, OC) times w (OC, th, tw, IC/g)."""
    target = dx[_spatial(_fixed(run.i, run.positions) for run in group)]
    if not group.terms:
        target[...] = 0
        return
    taps = _taps(group, w).reshape(shape.groups, shape.oc // shape.groups, group.terms, -1)
    filters = taps.transpose(0, 2, 1, 3)  # (g, th*tw, OC/g, IC/g), the order of the gathered dy
    filters = filters.reshape(shape.groups, -1, taps.shape[-1])  # (g, th*tw*OC/g, IC/g)
    _multiply(group, [run.o for run in group], dy, filters, target)


def _taps(group: Group, w: Array) -> Array:
    """View of the taps that a group multiplies: (OC, th, tw, IC/g)."""
    return w[_spatial(_terms(run.f, run.terms) for run in group)]


def _multiply(group: Group, where: Sequence[Affine], source: Array, filters: Array, target: Array) -> None:
    """target (n, kh, kw, g*a) = windows of source (g, n*kh*kw, b) times filters (g, b, a), chunk by chunk."""
    first = group[0].positions
    row_bytes = group.positions // first * group.terms * source.shape[-1] * source.itemsize
    for n, k in _chunks(source.shape[0], first, row_bytes):
        part = target[n, k]
        windows = _windows(group, where, source[n], k)  # (n, kh, kw, th, tw, C)
        gathered = windows.reshape(-1, group.terms, len(filters), source.shape[-1] // len(filters))
        gathered = gathered.transpose(2, 0, 1, 3).reshape(len(filters), len(gathered), -1)
        product = np.matmul(gathered, filters)  # (g, n*kh*kw, a)
        part[...] = product.transpose(1, 0, 2).reshape(part.shape)


def _windows(group: Group, where: Sequence[Affine], source: Array, rows: slice) -> Array:
    """View of source (n, H, W, C) as (n, kh, kw, th, tw, C): no copy, and all of it in bounds.

    `rows` are the positions of the first spatial axis.
    """
    firsts = [where[0].at(rows.start, 0), *(index.base for index in where[1:])]
    corner = source[_spatial(slice(first, None) for first in firsts)]
    sn, *steps, sc = source.strides
    positions = [rows.stop - rows.start, *(run.positions for run in group[1:])]
    sizes = (len(source), *positions, *(run.terms for run in group), source.shape[-1])
    fixed = [index.fixed * step for index, step in zip(where, steps, strict=True)]
    terms = [index.term * step for index, step in zip(where, steps, strict=True)]
    return as_strided(corner, sizes, (sn, *fixed, *terms, sc), writeable=False)


def _conv2d_weight(group: Group, shape: ConvShape, x: Array, dy: Array, dw: Array) -> None:
    """dw (OC, IC/g) of every tap of the group = dy (g, n*th*tw, OC/g) and x (g, n*th*tw, IC/g) multiplied."""
    for ks in np.ndindex(*(run.positions for run in group)):  # (kh, kw)
        at = [*zip(group, ks, strict=True)]
        target = dw[_spatial(run.f.at(k, 0) for run, k in at)]
        target[...] = 0
        if not group.terms:
            continue
        xs = x[_spatial(_terms(run.i, run.terms, k) for run, k in at)]  # (N, th, tw, IC)
        dys = dy[_spatial(_terms(run.o, run.terms, k) for run, k in at)]  # (N, th, tw, OC)
        first = group[0].terms
        row_bytes = group.terms // first * (shape.ic + shape.oc) * x.itemsize
        for n, t in _chunks(shape.n, first, row_bytes):  # in order, so that the same bits come out every time
            a, b = (_by_channel_group(array[n, t], shape.groups) for array in (dys, xs))
            target += np.matmul(a.transpose(0, 2, 1), b).reshape(target.shape)


def _by_channel_group(array: Array, groups: int) -> Array:
    """(n, th, tw, C) as (g, n*th*tw, C/g)."""
    flat = array.reshape(prod(array.shape[:-1]), groups, array.shape[-1] // groups)
    return flat.transpose(1, 0, 2)


def _spatial(indices: Iterable[Any]) -> tuple[Any, ...]:
    """Return what takes these indices, or slices, of the spatial axes, and all of the first axis and the channels."""
    return (slice(None), *indices)


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


def add_bias(out: Array, bias: Array) -> None:
    """Add a bias to a result with channels last."""
    with np.errstate(all="ignore"):  # NaN and infinity are results like any other
        out += bias
