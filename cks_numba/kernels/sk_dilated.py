"""Sk-dilated, the filter gradient as CUDA kernels: dw = conv2d_weight(x, dy). A ladder, every rung one change.

The paper's "dilated convolution" is this gradient, not a convolution with dilation > 1.

=================  ================================================================  ==========================
rung               what it adds                                                      what it skips
=================  ================================================================  ==========================
``with_zeros``     one thread a weight, on a padded x and a zero-inserted dy         nothing
``skip_zeros``     walk the dense dy, over the outputs whose input lies on x         inserted and padded zeros
``shared``         a block shares one tap: tiles of x and dy in fast memory          inserted and padded zeros
``grouped``        one launch over the groups of the plan (grouped.py): a block      these zeros, bounds tests
                   has any taps with one walk over dy
``register_tile``  a thread makes TM x TN results, in registers (register_tile.py)   these zeros, bounds tests
``tiled``          two buffers, loads of four, a tile that fits the sizes, and a     these zeros, bounds tests
                   long sum split over blocks, added up in a fixed order (tiled/)
``tensor``         tensor cores: tf32, float16, bfloat16 (tensor/)                   these zeros, bounds tests
=================  ================================================================  ==========================

x (N, IH, IW, IC), dy (N, OH, OW, OC), dw (OC, FH, FW, IC/groups): C-contiguous, one float type.
A tap that always lies on padding gets exactly 0.
"""

from __future__ import annotations

from typing import Any

from numba import uint32

from ..geometry import ConvShape
from ..plan_table import COLUMNS, FIRST_BLOCK, ROWS, ceil_div
from . import tensor, tiled
from .conv_v2 import geometry_args
from .elementwise import padded, zeros_inserted
from .grouped import counts, digits, fixed, group_of_block, launch_groups, summed, third
from .jit import cuda, outputs_of_tap, unravel
from .launch import TILE, Launch, one_thread_each
from .register_tile import ALONG, BM, BN, TM, TN, add_term, clear


# --- 1. with_zeros --------------------------------------------------------------------------------
@cuda.jit
def with_zeros(xp, dz, dw, dil_h, dil_w):
    """One thread a weight; dz, most of it zeros, slides over the padded x."""
    index = cuda.grid(1)
    if index >= dw.size:
        return
    oc, fh, fw, ic = unravel(index, dw.shape[1], dw.shape[2], dw.shape[3])
    oc_of_c_group = dw.shape[0] // (xp.shape[3] // dw.shape[3])
    x_ic = oc // oc_of_c_group * dw.shape[3] + ic
    acc = dw.dtype.type(0)
    for n in range(dz.shape[0]):
        for zh in range(dz.shape[1]):
            for zw in range(dz.shape[2]):
                acc += xp[n, fh * dil_h + zh, fw * dil_w + zw, x_ic] * dz[n, zh, zw, oc]
    dw[oc, fh, fw, ic] = acc


def launch_with_zeros(shape: ConvShape, x: Any, dy: Any, dw: Any) -> list[Launch]:
    xp, pad = padded(x, shape)
    height, width = ((axis.outputs - 1) * axis.stride + 1 for axis in (shape.h, shape.w))
    dz, insert = zeros_inserted("insert zeros in dy", dy, (height, width), (0, 0), shape.stride)
    work = one_thread_each("conv2d_weight with_zeros", with_zeros, dw, (xp, dz, dw, *shape.dilation))
    return [pad, insert, work]


# --- 2. skip_zeros --------------------------------------------------------------------------------
@cuda.jit
def skip_zeros(x, dy, dw, sh, sw, ph, pw, dil_h, dil_w):
    """One thread a weight; the dense dy, over the outputs whose input lies on x."""
    index = cuda.grid(1)
    if index >= dw.size:
        return
    oc, fh, fw, ic = unravel(index, dw.shape[1], dw.shape[2], dw.shape[3])
    oc_of_c_group = dw.shape[0] // (x.shape[3] // dw.shape[3])
    x_ic = oc // oc_of_c_group * dw.shape[3] + ic
    oh_lo, oh_hi = outputs_of_tap(fh, x.shape[1], dy.shape[1], sh, ph, dil_h)  # the trimmed walk
    ow_lo, ow_hi = outputs_of_tap(fw, x.shape[2], dy.shape[2], sw, pw, dil_w)
    acc = dw.dtype.type(0)
    for n in range(dy.shape[0]):
        for oh in range(oh_lo, oh_hi):
            for ow in range(ow_lo, ow_hi):
                acc += x[n, oh * sh - ph + fh * dil_h, ow * sw - pw + fw * dil_w, x_ic] * dy[n, oh, ow, oc]
    dw[oc, fh, fw, ic] = acc


def launch_skip_zeros(shape: ConvShape, x: Any, dy: Any, dw: Any) -> list[Launch]:
    return [one_thread_each("conv2d_weight skip_zeros", skip_zeros, dw, (x, dy, dw, *geometry_args(shape)))]


# --- 3. shared ------------------------------------------------------------------------------------
@cuda.jit
def shared(x, dy, dw, sh, sw, ph, pw, dil_h, dil_w):
    """One block a tap (fh, fw), TILE output and TILE input channels: all its threads share one walk over dy."""
    ys = cuda.shared.array((TILE, TILE), x.dtype)  # position, output channel
    xs = cuda.shared.array((TILE, TILE), x.dtype)  # position, input channel
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    fw, rest = cuda.blockIdx.x % dw.shape[2], cuda.blockIdx.x // dw.shape[2]
    fh, first_oc = rest % dw.shape[1], rest // dw.shape[1] * TILE
    tiles_of_c_group = (dw.shape[3] + TILE - 1) // TILE
    c_group, first_ic = cuda.blockIdx.y // tiles_of_c_group, cuda.blockIdx.y % tiles_of_c_group * TILE
    oc_of_c_group = dw.shape[0] // (x.shape[3] // dw.shape[3])
    oc0, ic0 = c_group * oc_of_c_group + first_oc, c_group * dw.shape[3] + first_ic
    oc_left, ic_left = oc_of_c_group - first_oc, dw.shape[3] - first_ic
    oh_lo, oh_hi = outputs_of_tap(fh, x.shape[1], dy.shape[1], sh, ph, dil_h)
    ow_lo, ow_hi = outputs_of_tap(fw, x.shape[2], dy.shape[2], sw, pw, dil_w)
    rows, columns = max(0, oh_hi - oh_lo), max(0, ow_hi - ow_lo)
    positions = dy.shape[0] * rows * columns
    acc = dw.dtype.type(0)
    for first in range(0, positions, TILE):
        depth = min(TILE, positions - first)
        if ty < depth:
            ow, rest = ow_lo + (first + ty) % columns, (first + ty) // columns
            oh, n = oh_lo + rest % rows, rest // rows
            if tx < oc_left:
                ys[ty, tx] = dy[n, oh, ow, oc0 + tx]
            if tx < ic_left:
                xs[ty, tx] = x[n, oh * sh - ph + fh * dil_h, ow * sw - pw + fw * dil_w, ic0 + tx]
        cuda.syncthreads()
        if ty < oc_left and tx < ic_left:
            for k in range(depth):
                acc += ys[k, ty] * xs[k, tx]
        cuda.syncthreads()
    if ty < oc_left and tx < ic_left:
        dw[oc0 + ty, fh, fw, first_ic + tx] = acc


def launch_shared(shape: ConvShape, x: Any, dy: Any, dw: Any) -> list[Launch]:
    blocks = shape.fh * shape.fw * ceil_div(shape.oc // shape.groups, TILE)
    grid = (blocks, shape.groups * ceil_div(shape.ic // shape.groups, TILE))
    return [Launch("conv2d_weight shared", shared, grid, (TILE, TILE), (x, dy, dw, *geometry_args(shape)))]


# --- 4. grouped -----------------------------------------------------------------------------------
@cuda.jit
def grouped(x, dy, dw, table):
    """One block TILE output channels, and TILE columns (tap, input channel) of a group of the plan."""
    ys = cuda.shared.array((TILE, TILE), x.dtype)  # position, output channel
    xs = cuda.shared.array((TILE, TILE), x.dtype)  # position, column
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    g = group_of_block(table, cuda.blockIdx.x)
    taps_h, taps_w, rows, columns = counts(table, g)
    column = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * TILE + tx
    kh, kw, ic = digits(column, taps_w, dw.shape[3])
    c_group, first_oc = cuda.blockIdx.z, cuda.blockIdx.y * TILE
    oc_of_c_group = dw.shape[0] // (x.shape[3] // dw.shape[3])
    oc0, ic0 = c_group * oc_of_c_group + first_oc, c_group * dw.shape[3]
    oc_left = oc_of_c_group - first_oc
    positions = dy.shape[0] * rows * columns
    acc = dw.dtype.type(0)
    for first in range(0, positions, TILE):
        depth = min(TILE, positions - first)
        if ty < depth:
            n, th, tw = digits(first + ty, rows, columns)
            if tx < oc_left:
                ys[ty, tx] = dy[n, summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw), oc0 + tx]
            if kh < taps_h:
                xs[ty, tx] = x[n, third(table, g, ROWS, kh, th), third(table, g, COLUMNS, kw, tw), ic0 + ic]
        cuda.syncthreads()
        if ty < oc_left and kh < taps_h:
            for k in range(depth):
                acc += ys[k, ty] * xs[k, tx]
        cuda.syncthreads()
    if ty < oc_left and kh < taps_h:
        dw[oc0 + ty, fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw), ic] = acc


def launch_grouped(shape: ConvShape, x: Any, dy: Any, dw: Any) -> list[Launch]:
    return launch_groups("conv2d_weight", "grouped", grouped, shape, (x, dy, dw), (TILE, TILE))


# --- 5. register_tile -----------------------------------------------------------------------------
@cuda.jit
def register_tile(x, dy, dw, table):
    """One block BM output channels, and BN columns (tap, input channel) of a group; a thread TM x TN of them."""
    ys = cuda.shared.array((TILE, ALONG), x.dtype)  # position, output channel
    xs = cuda.shared.array((TILE, ALONG), x.dtype)  # position, column
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    g = group_of_block(table, cuda.blockIdx.x)
    taps_h, taps_w, rows, columns = counts(table, g)
    kh, kw, ic = cuda.local.array(TN, uint32), cuda.local.array(TN, uint32), cuda.local.array(TN, uint32)
    for j in range(TN):
        column = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * BN + tx + j * TILE
        kh[j], kw[j], ic[j] = digits(column, taps_w, dw.shape[3])
    c_group, first_oc = cuda.blockIdx.z, cuda.blockIdx.y * BM
    oc_of_c_group = dw.shape[0] // (x.shape[3] // dw.shape[3])
    oc0, ic0 = c_group * oc_of_c_group + first_oc, c_group * dw.shape[3]
    oc_left = oc_of_c_group - first_oc
    positions = dy.shape[0] * rows * columns
    acc = cuda.local.array((TM, TN), x.dtype)
    a, b = cuda.local.array(TM, x.dtype), cuda.local.array(TN, x.dtype)
    clear(acc)
    for first in range(0, positions, TILE):
        depth = min(TILE, positions - first)
        if ty < depth:  # rows and columns past the last one load some other: their results are not written
            n, th, tw = digits(first + ty, rows, columns)
            oh, ow = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
            for i in range(TM):
                ys[ty, tx + i * TILE] = dy[n, oh, ow, oc0 + min(tx + i * TILE, oc_left - 1)]
            for j in range(TN):
                ih, iw = third(table, g, ROWS, min(kh[j], taps_h - 1), th), third(table, g, COLUMNS, kw[j], tw)
                xs[ty, tx + j * TILE] = x[n, ih, iw, ic0 + ic[j]]
        cuda.syncthreads()
        if ty < oc_left and kh[0] < taps_h:
            for k in range(depth):
                add_term(acc, ys, xs, k, a, b)
        cuda.syncthreads()
    for j in range(TN):
        fh, fw = fixed(table, g, ROWS, kh[j]), fixed(table, g, COLUMNS, kw[j])
        for i in range(TM):
            if ty + i * TILE < oc_left and kh[j] < taps_h:
                dw[oc0 + ty + i * TILE, fh, fw, ic[j]] = acc[i, j]


def launch_register_tile(shape: ConvShape, x: Any, dy: Any, dw: Any) -> list[Launch]:
    return launch_groups("conv2d_weight", "register_tile", register_tile, shape, (x, dy, dw), (BM, BN))


# --- 6. tiled -------------------------------------------------------------------------------------
def launch_tiled(shape: ConvShape, x: Any, dy: Any, dw: Any) -> list[Launch]:
    """Grouped implicit GEMM: rows are oc, columns (fh, fw, ic), the sum runs over (n, oh, ow), perhaps in splits."""
    return tiled.launches("conv2d_weight", shape, (x, dy, dw))


# --- 7. tensor ------------------------------------------------------------------------------------
def launch_tensor(shape: ConvShape, x: Any, dy: Any, dw: Any) -> list[Launch]:
    """The same on tensor cores: tf32, float16 or bfloat16, by the dtype of the arrays."""
    return tensor.launches("conv2d_weight", shape, (x, dy, dw))


RUNGS = {
    "with_zeros": launch_with_zeros,
    "skip_zeros": launch_skip_zeros,
    "shared": launch_shared,
    "grouped": launch_grouped,
    "register_tile": launch_register_tile,
    "tiled": launch_tiled,
    "tensor": launch_tensor,
}
