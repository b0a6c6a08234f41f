"""ConvV2, the forward operator as CUDA kernels: y = conv2d(x, w). A ladder, every rung the one before with one change.

=================  ================================================================  ==========================
rung               what it adds                                                      what it skips
=================  ================================================================  ==========================
``with_zeros``     one thread an output, on an x that was really padded              nothing
``skip_zeros``     the window is trimmed to the taps that lie on x                   padded zeros
``shared``         a block shares one window: tiles of x and w in fast memory        padded zeros
``grouped``        one launch over the groups of the plan (grouped.py): a block      padded zeros, bounds tests
                   has any positions with one window
``register_tile``  a thread makes TM x TN results, in registers (register_tile.py)   padded zeros, bounds tests
``tiled``          two buffers, loads of four, a tile that fits the sizes (tiled/)   padded zeros, bounds tests
``tensor``         tensor cores: tf32, float16, bfloat16 (tensor/)                   padded zeros, bounds tests
=================  ================================================================  ==========================

x (N, IH, IW, IC), w (OC, FH, FW, IC/groups), y (N, OH, OW, OC): C-contiguous, one float type.
"""

from __future__ import annotations

from typing import Any

from numba import uint32

from ..geometry import ConvShape
from ..plan_table import COLUMNS, FIRST_BLOCK, ROWS, ceil_div
from . import tensor, tiled
from .elementwise import padded
from .grouped import counts, digits, fixed, group_of_block, launch_groups, summed, third
from .jit import cuda, taps_of_output, unravel
from .launch import TILE, Launch, one_thread_each
from .register_tile import ACROSS, BM, BN, TM, TN, add_term, clear

# Elements from a row of ws to the next. A warp writes 4 neighbours in each of the 8 rows at once. With 4 unused
# elements after each row, all 32 lie in different banks (in float32).
PITCH = TILE + 4


# --- 1. with_zeros --------------------------------------------------------------------------------
@cuda.jit
def with_zeros(xp, w, y, sh, sw, dh, dw):
    """One thread an output; the window always holds FH x FW taps, and some of xp is padding."""
    index = cuda.grid(1)
    if index >= y.size:
        return
    n, oh, ow, oc = unravel(index, y.shape[1], y.shape[2], y.shape[3])
    groups = xp.shape[3] // w.shape[3]
    ic0 = oc // (y.shape[3] // groups) * w.shape[3]  # first input channel of oc's channel group
    acc = y.dtype.type(0)
    for fh in range(w.shape[1]):
        for fw in range(w.shape[2]):
            for ic in range(w.shape[3]):
                acc += xp[n, oh * sh + fh * dh, ow * sw + fw * dw, ic0 + ic] * w[oc, fh, fw, ic]
    y[n, oh, ow, oc] = acc


def launch_with_zeros(shape: ConvShape, x: Any, w: Any, y: Any) -> list[Launch]:
    xp, pad = padded(x, shape)
    return [pad, one_thread_each("conv2d with_zeros", with_zeros, y, (xp, w, y, *shape.stride, *shape.dilation))]


# --- 2. skip_zeros --------------------------------------------------------------------------------
@cuda.jit
def skip_zeros(x, w, y, sh, sw, ph, pw, dh, dw):
    """One thread an output; only the taps that lie on x."""
    index = cuda.grid(1)
    if index >= y.size:
        return
    n, oh, ow, oc = unravel(index, y.shape[1], y.shape[2], y.shape[3])
    groups = x.shape[3] // w.shape[3]
    ic0 = oc // (y.shape[3] // groups) * w.shape[3]
    fh_lo, fh_hi = taps_of_output(oh, x.shape[1], w.shape[1], sh, ph, dh)  # the trimmed window
    fw_lo, fw_hi = taps_of_output(ow, x.shape[2], w.shape[2], sw, pw, dw)
    acc = y.dtype.type(0)
    for fh in range(fh_lo, fh_hi):
        for fw in range(fw_lo, fw_hi):
            for ic in range(w.shape[3]):
                acc += x[n, oh * sh - ph + fh * dh, ow * sw - pw + fw * dw, ic0 + ic] * w[oc, fh, fw, ic]
    y[n, oh, ow, oc] = acc


def geometry_args(shape: ConvShape) -> tuple[int, ...]:
    """(sh, sw, ph, pw, dh, dw), as the kernels take them."""
    return *shape.stride, shape.h.before, shape.w.before, *shape.dilation


def launch_skip_zeros(shape: ConvShape, x: Any, w: Any, y: Any) -> list[Launch]:
    return [one_thread_each("conv2d skip_zeros", skip_zeros, y, (x, w, y, *geometry_args(shape)))]


# --- 3. shared ------------------------------------------------------------------------------------
@cuda.jit
def shared(x, w, y, sh, sw, ph, pw, dh, dw):
    """One block a position (oh, ow), TILE images and TILE output channels: all its threads share one window."""
    xs = cuda.shared.array((TILE, TILE), x.dtype)  # image, input channel
    ws = cuda.shared.array((TILE, PITCH), x.dtype)  # input channel, output channel
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    ow, rest = cuda.blockIdx.x % y.shape[2], cuda.blockIdx.x // y.shape[2]
    oh, n = rest % y.shape[1], rest // y.shape[1] * TILE + ty
    oc_of_c_group = y.shape[3] // (x.shape[3] // w.shape[3])
    tiles_of_c_group = (oc_of_c_group + TILE - 1) // TILE
    c_group, first = cuda.blockIdx.y // tiles_of_c_group, cuda.blockIdx.y % tiles_of_c_group * TILE
    oc0, ic0 = c_group * oc_of_c_group + first, c_group * w.shape[3]
    oc_left = oc_of_c_group - first
    fh_lo, fh_hi = taps_of_output(oh, x.shape[1], w.shape[1], sh, ph, dh)
    fw_lo, fw_hi = taps_of_output(ow, x.shape[2], w.shape[2], sw, pw, dw)
    acc = y.dtype.type(0)
    for fh in range(fh_lo, fh_hi):
        for fw in range(fw_lo, fw_hi):
            for first_ic in range(0, w.shape[3], TILE):
                depth = min(TILE, w.shape[3] - first_ic)
                if n < x.shape[0] and tx < depth:
                    xs[ty, tx] = x[n, oh * sh - ph + fh * dh, ow * sw - pw + fw * dw, ic0 + first_ic + tx]
                if ty < oc_left and tx < depth:
                    ws[tx, ty] = w[oc0 + ty, fh, fw, first_ic + tx]
                cuda.syncthreads()
                if n < x.shape[0] and tx < oc_left:
                    for ic in range(depth):
                        acc += xs[ty, ic] * ws[ic, tx]
                cuda.syncthreads()
    if n < x.shape[0] and tx < oc_left:
        y[n, oh, ow, oc0 + tx] = acc


def launch_shared(shape: ConvShape, x: Any, w: Any, y: Any) -> list[Launch]:
    blocks = shape.oh * shape.ow * ceil_div(shape.n, TILE)
    grid = (blocks, shape.groups * ceil_div(shape.oc // shape.groups, TILE))
    return [Launch("conv2d shared", shared, grid, (TILE, TILE), (x, w, y, *geometry_args(shape)))]


# --- 4. grouped -----------------------------------------------------------------------------------
@cuda.jit
def grouped(x, w, y, table):
    """One block TILE rows (n, oh, ow) of a group of the plan, and TILE output channels: they share one window."""
    xs = cuda.shared.array((TILE, TILE), x.dtype)  # row, input channel
    ws = cuda.shared.array((TILE, PITCH), x.dtype)  # input channel, output channel
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    g = group_of_block(table, cuda.blockIdx.x)
    size_h, size_w, terms_h, terms_w = counts(table, g)
    row = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * TILE + ty
    n, kh, kw = digits(row, size_h, size_w)
    oc_of_c_group = y.shape[3] // (x.shape[3] // w.shape[3])
    c_group, first = cuda.blockIdx.z, cuda.blockIdx.y * TILE
    oc0, ic0 = c_group * oc_of_c_group + first, c_group * w.shape[3]
    oc_left = oc_of_c_group - first
    acc = y.dtype.type(0)
    for th in range(terms_h):
        for tw in range(terms_w):
            fh, fw = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
            ih, iw = third(table, g, ROWS, kh, th), third(table, g, COLUMNS, kw, tw)
            for first_ic in range(0, w.shape[3], TILE):
                depth = min(TILE, w.shape[3] - first_ic)
                if n < x.shape[0] and tx < depth:
                    xs[ty, tx] = x[n, ih, iw, ic0 + first_ic + tx]
                if ty < oc_left and tx < depth:
                    ws[tx, ty] = w[oc0 + ty, fh, fw, first_ic + tx]
                cuda.syncthreads()
                if n < x.shape[0] and tx < oc_left:
                    for ic in range(depth):
                        acc += xs[ty, ic] * ws[ic, tx]
                cuda.syncthreads()
    if n < x.shape[0] and tx < oc_left:
        y[n, fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw), oc0 + tx] = acc


def launch_grouped(shape: ConvShape, x: Any, w: Any, y: Any) -> list[Launch]:
    return launch_groups("conv2d", "grouped", grouped, shape, (x, w, y), (TILE, TILE))


# --- 5. register_tile -----------------------------------------------------------------------------
@cuda.jit
def register_tile(x, w, y, table):
    """One block BM rows (n, oh, ow) of a group of the plan, and BN output channels; a thread TM x TN of them."""
    xs = cuda.shared.array((TILE, ACROSS), x.dtype)  # input channel, row
    ws = cuda.shared.array((TILE, ACROSS), x.dtype)  # input channel, output channel
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    g = group_of_block(table, cuda.blockIdx.x)
    size_h, size_w, terms_h, terms_w = counts(table, g)
    n, kh, kw = cuda.local.array(TM, uint32), cuda.local.array(TM, uint32), cuda.local.array(TM, uint32)
    for i in range(TM):
        row = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * BM + ty + i * TILE
        n[i], kh[i], kw[i] = digits(row, size_h, size_w)
    oc_of_c_group = y.shape[3] // (x.shape[3] // w.shape[3])
    c_group, first = cuda.blockIdx.z, cuda.blockIdx.y * BN
    oc0, ic0 = c_group * oc_of_c_group + first, c_group * w.shape[3]
    oc_left = oc_of_c_group - first
    acc = cuda.local.array((TM, TN), x.dtype)
    a, b = cuda.local.array(TM, x.dtype), cuda.local.array(TN, x.dtype)
    clear(acc)
    for th in range(terms_h):
        for tw in range(terms_w):
            fh, fw = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
            for first_ic in range(0, w.shape[3], TILE):
                depth = min(TILE, w.shape[3] - first_ic)
                if tx < depth:  # rows and columns past the last one load some other: their results are not written
                    for i in range(TM):
                        ih, iw = third(table, g, ROWS, kh[i], th), third(table, g, COLUMNS, kw[i], tw)
                        xs[tx, ty + i * TILE] = x[min(n[i], x.shape[0] - 1), ih, iw, ic0 + first_ic + tx]
                    for j in range(TN):
                        ws[tx, ty + j * TILE] = w[oc0 + min(ty + j * TILE, oc_left - 1), fh, fw, first_ic + tx]
                cuda.syncthreads()
                if n[0] < x.shape[0] and tx < oc_left:
                    for ic in range(depth):
                        add_term(acc, xs, ws, ic, a, b)
                cuda.syncthreads()
    for i in range(TM):
        oh, ow = fixed(table, g, ROWS, kh[i]), fixed(table, g, COLUMNS, kw[i])
        for j in range(TN):
            if n[i] < x.shape[0] and tx + j * TILE < oc_left:
                y[n[i], oh, ow, oc0 + tx + j * TILE] = acc[i, j]


def launch_register_tile(shape: ConvShape, x: Any, w: Any, y: Any) -> list[Launch]:
    return launch_groups("conv2d", "register_tile", register_tile, shape, (x, w, y), (BM, BN))


# --- 6. tiled -------------------------------------------------------------------------------------
def launch_tiled(shape: ConvShape, x: Any, w: Any, y: Any) -> list[Launch]:
    """Grouped implicit GEMM: rows are (n, oh, ow), columns oc, the sum runs over (fh, fw, ic)."""
    return tiled.launches("conv2d", shape, (x, w, y))


# --- 7. tensor ------------------------------------------------------------------------------------
def launch_tensor(shape: ConvShape, x: Any, w: Any, y: Any, bias: Any = None) -> list[Launch]:
    """The same on tensor cores: tf32, float16 or bfloat16, by the dtype of the arrays."""
    return tensor.launches("conv2d", shape, (x, w, y), bias=bias)


RUNGS = {
    "with_zeros": launch_with_zeros,
    "skip_zeros": launch_skip_zeros,
    "shared": launch_shared,
    "grouped": launch_grouped,
    "register_tile": launch_register_tile,
    "tiled": launch_tiled,
    "tensor": launch_tensor,
}
