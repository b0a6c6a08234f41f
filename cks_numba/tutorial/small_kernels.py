"""Kernels that are traced for the pictures of 01b and 04b, and the device function of 06b that uses tensor cores."""

from __future__ import annotations

import numpy as np

from ..kernels.jit import cuda, device
from ..kernels.tensor import ptx

TILE = 4
"""Rows and columns of the tile of a block of the matrix product."""


@cuda.jit
def gathering(x, out):
    """Each thread makes one result: itself and its neighbours."""
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(max(0, o - 1), min(x.size, o + 2)):
            acc += x[i]
        out[o] = acc


@cuda.jit
def along_a_row(x, factor, out):
    """Neighbouring threads take neighbouring columns: the same as below, but for the order of the two numbers."""
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[row]


@cuda.jit
def down_a_column(x, factor, out):
    """Neighbouring threads take neighbouring rows."""
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[row]


@cuda.jit
def plain_product(a, b, c):
    """Every thread reads all that it needs from global memory."""
    column, row = cuda.grid(2)
    if row < c.shape[0] and column < c.shape[1]:
        acc = c.dtype.type(0)
        for k in range(a.shape[1]):
            acc += a[row, k] * b[k, column]
        c[row, column] = acc


@cuda.jit
def tiled_product(a, b, c):
    """Every thread brings one number of each tile, and all threads use them."""
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@device
def multiply(a0, a1, a2, a3, b0, b1, d):
    """D + A x B, one instruction for the 32 threads of a warp: d is a tuple of four sums of this thread."""
    return ptx.multiply_tf32(
        ptx.round_tf32(ptx.bits(a0)),
        ptx.round_tf32(ptx.bits(a1)),
        ptx.round_tf32(ptx.bits(a2)),
        ptx.round_tf32(ptx.bits(a3)),
        ptx.round_tf32(ptx.bits(b0)),
        ptx.round_tf32(ptx.bits(b1)),
        d[0],
        d[1],
        d[2],
        d[3],
    )
