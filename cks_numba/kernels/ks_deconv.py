"""KS-deconv, the input gradient as CUDA kernels: dx = conv2d_input(w, dy). A ladder, every rung one change.

=================  ================================================================  ==========================
rung               what it adds                                                      what it skips
=================  ================================================================  ==========================
``with_zeros``     one thread an output, on a dy with stride-1 zeros between its     nothing
                   elements and zeros around it
``skip_zeros``     the filter is split by phase: input i meets only the taps of      inserted and padded zeros
                   phase (i + padding) mod stride, on the dense dy
``shared``         a block shares one phase and window: tiles in fast memory         inserted and padded zeros
``grouped``        one launch over the groups of the plan (grouped.py): a block      these zeros, bounds tests
                   has any positions with one phase and window
``register_tile``  a thread makes TM x TN results, in registers (register_tile.py)   these zeros, bounds tests
``tiled``          two buffers, loads of four, a tile that fits the sizes (tiled/)   these zeros, bounds tests
``tensor``         tensor cores: tf32, float16, bfloat16 (tensor/)                   these zeros, bounds tests
=================  ================================================================  ==========================

w (OC, FH, FW, IC/groups), dy (N, OH, OW, OC), dx (N, IH, IW, IC): C-contiguous, one float type.
An input that no tap reaches gets exactly 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint32

from ..geometry import ConvShape
from ..plan_table import COLUMNS, FIRST_BLOCK, ROWS, ceil_div
from . import tensor, tiled
from .elementwise import zeros_inserted
from .grouped import counts, digits, fixed, group_of_block, launch_groups, summed, third
from .jit import cuda, taps_of_input, unravel
from .launch import TILE, Launch, beside, one_thread_each
from .register_tile import ACROSS, ALONG, BM, BN, TM, TN, add_term, clear


# --- 1. with_zeros --------------------------------------------------------------------------------
@cuda.jit
def with_zeros(dz, w, dx, dh, dw):
    """One thread an input; a stride-1 correlation of dz, most of it zeros, with the rotated filter."""
    index = cuda.grid(1)
    if index >= dx.size:
        return
    n, ih, iw, ic = unravel(index, dx.shape[1], dx.shape[2], dx.shape[3])
    oc_of_c_group = dz.shape[3] // (dx.shape[3] // w.shape[3])
    oc0, icg = ic // w.shape[3] * oc_of_c_group, ic % w.shape[3]  # first output channel of ic's channel group
    acc = dx.dtype.type(0)
    for fh in range(w.shape[1]):
        for fw in range(w.shape[2]):
            zh, zw = ih + (w.shape[1] - 1 - fh) * dh, iw + (w.shape[2] - 1 - fw) * dw
            for oc in range(oc0, oc0 + oc_of_c_group):
                acc += dz[n, zh, zw, oc] * w[oc, fh, fw, icg]
    dx[n, ih, iw, ic] = acc


def launch_with_zeros(shape: ConvShape, w: Any, dy: Any, dx: Any) -> list[Launch]:
    around = [axis.span - 1 for axis in (shape.h, shape.w)]
    before = [reach - axis.before for reach, axis in zip(around, (shape.h, shape.w), strict=True)]
    height, width = shape.ih + around[0], shape.iw + around[1]
    dz, insert = zeros_inserted("insert zeros in dy", dy, (height, width), before, shape.stride)
    return [insert, one_thread_each("conv2d_input with_zeros", with_zeros, dx, (dz, w, dx, *shape.dilation))]


# --- 2. skip_zeros --------------------------------------------------------------------------------
@cuda.jit
def skip_zeros(dy, w, dx, first_h, first_w, sh, sw, ph, pw, dh, dw, fh_step, fw_step, oh_step, ow_step):
    """One thread an input; only the taps of its phase, on the dense dy."""
    index = cuda.grid(1)
    if index >= dx.size:
        return
    n, ih, iw, ic = unravel(index, dx.shape[1], dx.shape[2], dx.shape[3])
    oc_of_c_group = dy.shape[3] // (dx.shape[3] // w.shape[3])
    oc0, icg = ic // w.shape[3] * oc_of_c_group, ic % w.shape[3]
    fh, oh, terms_h = taps_of_input(ih, first_h, w.shape[1], dy.shape[1], sh, ph, dh, fh_step, oh_step)
    fw, ow, terms_w = taps_of_input(iw, first_w, w.shape[2], dy.shape[2], sw, pw, dw, fw_step, ow_step)
    acc = dx.dtype.type(0)
    for th in range(terms_h):
        for tw in range(terms_w):
            for oc in range(oc0, oc0 + oc_of_c_group):
                y = dy[n, oh - th * oh_step, ow - tw * ow_step, oc]
                acc += y * w[oc, fh + th * fh_step, fw + tw * fw_step, icg]
    dx[n, ih, iw, ic] = acc


def geometry_args(shape: ConvShape, dy: Any) -> tuple[Any, ...]:
    """Phase tables, stride, padding, dilation, and the steps of a phase, as the kernels take them."""
    first = (beside(dy, np.array(axis.first_taps(), np.int32)) for axis in (shape.h, shape.w))
    pads = shape.h.before, shape.w.before
    steps = shape.h.phase_step, shape.w.phase_step, shape.h.output_step, shape.w.output_step
    return *first, *shape.stride, *pads, *shape.dilation, *steps


def launch_skip_zeros(shape: ConvShape, w: Any, dy: Any, dx: Any) -> list[Launch]:
    return [one_thread_each("conv2d_input skip_zeros", skip_zeros, dx, (dy, w, dx, *geometry_args(shape, dy)))]


# --- 3. shared ------------------------------------------------------------------------------------
@cuda.jit
def shared(dy, w, dx, first_h, first_w, sh, sw, ph, pw, dh, dw, fh_step, fw_step, oh_step, ow_step):
    """One block a position (ih, iw), TILE images and TILE input channels: all its threads share one phase."""
    ys = cuda.shared.array((TILE, TILE), dy.dtype)  # image, output channel
    ws = cuda.shared.array((TILE, TILE), dy.dtype)  # output channel, input channel
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    iw, rest = cuda.blockIdx.x % dx.shape[2], cuda.blockIdx.x // dx.shape[2]
    ih, n = rest % dx.shape[1], rest // dx.shape[1] * TILE + ty
    oc_of_c_group = dy.shape[3] // (dx.shape[3] // w.shape[3])
    tiles_of_c_group = (w.shape[3] + TILE - 1) // TILE
    c_group, first_ic = cuda.blockIdx.y // tiles_of_c_group, cuda.blockIdx.y % tiles_of_c_group * TILE
    oc0, ic_left = c_group * oc_of_c_group, w.shape[3] - first_ic
    fh, oh, terms_h = taps_of_input(ih, first_h, w.shape[1], dy.shape[1], sh, ph, dh, fh_step, oh_step)
    fw, ow, terms_w = taps_of_input(iw, first_w, w.shape[2], dy.shape[2], sw, pw, dw, fw_step, ow_step)
    acc = dx.dtype.type(0)
    for th in range(terms_h):
        for tw in range(terms_w):
            for first_oc in range(0, oc_of_c_group, TILE):
                depth = min(TILE, oc_of_c_group - first_oc)
                if n < dy.shape[0] and tx < depth:
                    ys[ty, tx] = dy[n, oh - th * oh_step, ow - tw * ow_step, oc0 + first_oc + tx]
                if ty < depth and tx < ic_left:
                    ws[ty, tx] = w[oc0 + first_oc + ty, fh + th * fh_step, fw + tw * fw_step, first_ic + tx]
                cuda.syncthreads()
                if n < dy.shape[0] and tx < ic_left:
                    for oc in range(depth):
                        acc += ys[ty, oc] * ws[oc, tx]
                cuda.syncthreads()
    if n < dy.shape[0] and tx < ic_left:
        dx[n, ih, iw, c_group * w.shape[3] + first_ic + tx] = acc


def launch_shared(shape: ConvShape, w: Any, dy: Any, dx: Any) -> list[Launch]:
    blocks = shape.ih * shape.iw * ceil_div(shape.n, TILE)
    grid = (blocks, shape.groups * ceil_div(shape.ic // shape.groups, TILE))
    return [Launch("conv2d_input shared", shared, grid, (TILE, TILE), (dy, w, dx, *geometry_args(shape, dy)))]


# --- 4. grouped -----------------------------------------------------------------------------------
@cuda.jit
def grouped(dy, w, dx, table):
    """One block TILE rows (n, ih, iw) of a group of the plan, and TILE input channels: they share one phase."""
    ys = cuda.shared.array((TILE, TILE), dy.dtype)  # row, output channel
    ws = cuda.shared.array((TILE, TILE), dy.dtype)  # output channel, input channel
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    g = group_of_block(table, cuda.blockIdx.x)
    size_h, size_w, terms_h, terms_w = counts(table, g)
    row = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * TILE + ty
    n, kh, kw = digits(row, size_h, size_w)
    oc_of_c_group = dy.shape[3] // (dx.shape[3] // w.shape[3])
    c_group, first_ic = cuda.blockIdx.z, cuda.blockIdx.y * TILE
    oc0, ic_left = c_group * oc_of_c_group, w.shape[3] - first_ic
    acc = dx.dtype.type(0)
    for th in range(terms_h):
        for tw in range(terms_w):
            fh, fw = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
            oh, ow = third(table, g, ROWS, kh, th), third(table, g, COLUMNS, kw, tw)
            for first_oc in range(0, oc_of_c_group, TILE):
                depth = min(TILE, oc_of_c_group - first_oc)
                if n < dy.shape[0] and tx < depth:
                    ys[ty, tx] = dy[n, oh, ow, oc0 + first_oc + tx]
                if ty < depth and tx < ic_left:
                    ws[ty, tx] = w[oc0 + first_oc + ty, fh, fw, first_ic + tx]
                cuda.syncthreads()
                if n < dy.shape[0] and tx < ic_left:
                    for oc in range(depth):
                        acc += ys[ty, oc] * ws[oc, tx]
                cuda.syncthreads()
    if n < dy.shape[0] and tx < ic_left:
        ih, iw = fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw)
        dx[n, ih, iw, c_group * w.shape[3] + first_ic + tx] = acc


def launch_grouped(shape: ConvShape, w: Any, dy: Any, dx: Any) -> list[Launch]:
    return launch_groups("conv2d_input", "grouped", grouped, shape, (dy, w, dx), (TILE, TILE))


# --- 5. register_tile -----------------------------------------------------------------------------
@cuda.jit
def register_tile(dy, w, dx, table):
    """One block BM rows (n, ih, iw) of a group of the plan, and BN input channels; a thread TM x TN of them."""
    ys = cuda.shared.array((TILE, ACROSS), dy.dtype)  # output channel, row
    ws = cuda.shared.array((TILE, ALONG), dy.dtype)  # output channel, input channel
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    g = group_of_block(table, cuda.blockIdx.x)
    size_h, size_w, terms_h, terms_w = counts(table, g)
    n, kh, kw = cuda.local.array(TM, uint32), cuda.local.array(TM, uint32), cuda.local.array(TM, uint32)
    for i in range(TM):
        row = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * BM + ty + i * TILE
        n[i], kh[i], kw[i] = digits(row, size_h, size_w)
    oc_of_c_group = dy.shape[3] // (dx.shape[3] // w.shape[3])
    c_group, first_ic = cuda.blockIdx.z, cuda.blockIdx.y * BN
    oc0, ic_left = c_group * oc_of_c_group, w.shape[3] - first_ic
    acc = cuda.local.array((TM, TN), dy.dtype)
    a, b = cuda.local.array(TM, dy.dtype), cuda.local.array(TN, dy.dtype)
    clear(acc)
    for th in range(terms_h):
        for tw in range(terms_w):
            fh, fw = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
            for first_oc in range(0, oc_of_c_group, TILE):
                depth = min(TILE, oc_of_c_group - first_oc)
                if tx < depth:  # rows and columns past the last one load some other: their results are not written
                    for i in range(TM):
                        oh, ow = third(table, g, ROWS, kh[i], th), third(table, g, COLUMNS, kw[i], tw)
                        ys[tx, ty + i * TILE] = dy[min(n[i], dy.shape[0] - 1), oh, ow, oc0 + first_oc + tx]
                if ty < depth:
                    for j in range(TN):
                        ic = first_ic + min(tx + j * TILE, ic_left - 1)
                        ws[ty, tx + j * TILE] = w[oc0 + first_oc + ty, fh, fw, ic]
                cuda.syncthreads()
                if n[0] < dy.shape[0] and tx < ic_left:
                    for oc in range(depth):
                        add_term(acc, ys, ws, oc, a, b)
                cuda.syncthreads()
    for i in range(TM):
        ih, iw = fixed(table, g, ROWS, kh[i]), fixed(table, g, COLUMNS, kw[i])
        for j in range(TN):
            if n[i] < dy.shape[0] and tx + j * TILE < ic_left:
                dx[n[i], ih, iw, c_group * w.shape[3] + first_ic + tx + j * TILE] = acc[i, j]


def launch_register_tile(shape: ConvShape, w: Any, dy: Any, dx: Any) -> list[Launch]:
    return launch_groups("conv2d_input", "register_tile", register_tile, shape, (dy, w, dx), (BM, BN))


# --- 6. tiled -------------------------------------------------------------------------------------
def launch_tiled(shape: ConvShape, w: Any, dy: Any, dx: Any) -> list[Launch]:
    """Grouped implicit GEMM: rows are (n, ih, iw) of a phase, columns ic, the sum runs over (fh, fw, oc)."""
    return tiled.launches("conv2d_input", shape, (w, dy, dx))


# --- 7. tensor ------------------------------------------------------------------------------------
def launch_tensor(shape: ConvShape, w: Any, dy: Any, dx: Any, bias: Any = None) -> list[Launch]:
    """The same on tensor cores: tf32, float16 or bfloat16, by the dtype of the arrays."""
    return tensor.launches("conv2d_input", shape, (w, dy, dx), bias=bias)


RUNGS = {
    "with_zeros": launch_with_zeros,
    "skip_zeros": launch_skip_zeros,
    "shared": launch_shared,
    "grouped": launch_grouped,
    "register_tile": launch_register_tile,
    "tiled": launch_tiled,
    "tensor": launch_tensor,
}
