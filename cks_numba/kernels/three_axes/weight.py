"""conv3d_weight: the first five rungs over three axes, each the kernel of sk_dilated.py with one loop more."""

from __future__ import annotations

from numba import uint32

from ...plan_table import COLUMNS, COUNT, DEPTH, FIRST_BLOCK, ROWS, TERMS
from ..grouped import fixed, group_of_block, summed, third
from ..jit import cuda, unravel
from ..launch import TILE
from ..register_tile import ALONG, BM, BN, TM, TN, add_term, clear
from .equation import DILATION, after, four_digits, outputs_on_x


# --- 1. with_zeros --------------------------------------------------------------------------------
@cuda.jit
def with_zeros(xp, dz, dw, axes):
    """One thread a weight; dz, most of it zeros, slides over the padded x."""
    index = cuda.grid(1)
    if index >= dw.size:
        return
    oc, fd, fh, fw = unravel(index // dw.shape[4], dw.shape[1], dw.shape[2], dw.shape[3])
    ic = index % dw.shape[4]
    oc_of_c_group = dw.shape[0] // (xp.shape[4] // dw.shape[4])
    x_ic = oc // oc_of_c_group * dw.shape[4] + ic
    d, h, v = fd * axes[0, DILATION], fh * axes[1, DILATION], fw * axes[2, DILATION]
    acc = dw.dtype.type(0)
    for n in range(dz.shape[0]):
        for zd in range(dz.shape[1]):
            for zh in range(dz.shape[2]):
                for zw in range(dz.shape[3]):
                    acc += xp[n, d + zd, h + zh, v + zw, x_ic] * dz[n, zd, zh, zw, oc]
    dw[oc, fd, fh, fw, ic] = acc


# --- 2. skip_zeros --------------------------------------------------------------------------------
@cuda.jit
def skip_zeros(x, dy, dw, axes):
    """One thread a weight; the dense dy, over the outputs whose input lies on x."""
    index = cuda.grid(1)
    if index >= dw.size:
        return
    oc, fd, fh, fw = unravel(index // dw.shape[4], dw.shape[1], dw.shape[2], dw.shape[3])
    ic = index % dw.shape[4]
    oc_of_c_group = dw.shape[0] // (x.shape[4] // dw.shape[4])
    x_ic = oc // oc_of_c_group * dw.shape[4] + ic
    od0, d0, depths = outputs_on_x(axes, 0, fd, x.shape[1], dy.shape[1])  # the trimmed walk
    oh0, h0, rows = outputs_on_x(axes, 1, fh, x.shape[2], dy.shape[2])
    ow0, v0, columns = outputs_on_x(axes, 2, fw, x.shape[3], dy.shape[3])
    acc = dw.dtype.type(0)
    for n in range(dy.shape[0]):
        for td in range(depths):
            for th in range(rows):
                for tw in range(columns):
                    (od, d), (oh, h) = after(axes, 0, od0, d0, td), after(axes, 1, oh0, h0, th)
                    ow, v = after(axes, 2, ow0, v0, tw)
                    acc += x[n, d, h, v, x_ic] * dy[n, od, oh, ow, oc]
    dw[oc, fd, fh, fw, ic] = acc


# --- 3. shared ------------------------------------------------------------------------------------
@cuda.jit
def shared(x, dy, dw, axes):
    """One block a tap, TILE output and TILE input channels: all its threads share one walk over dy."""
    ys = cuda.shared.array((TILE, TILE), x.dtype)  # position, output channel
    xs = cuda.shared.array((TILE, TILE), x.dtype)  # position, input channel
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    first_oc, fd, fh, fw = unravel(cuda.blockIdx.x, dw.shape[1], dw.shape[2], dw.shape[3])
    first_oc = first_oc * TILE
    tiles_of_c_group = (dw.shape[4] + TILE - 1) // TILE
    c_group, first_ic = cuda.blockIdx.y // tiles_of_c_group, cuda.blockIdx.y % tiles_of_c_group * TILE
    oc_of_c_group = dw.shape[0] // (x.shape[4] // dw.shape[4])
    oc0, ic0 = c_group * oc_of_c_group + first_oc, c_group * dw.shape[4] + first_ic
    oc_left, ic_left = oc_of_c_group - first_oc, dw.shape[4] - first_ic
    od0, d0, depths = outputs_on_x(axes, 0, fd, x.shape[1], dy.shape[1])
    oh0, h0, rows = outputs_on_x(axes, 1, fh, x.shape[2], dy.shape[2])
    ow0, v0, columns = outputs_on_x(axes, 2, fw, x.shape[3], dy.shape[3])
    positions = dy.shape[0] * depths * rows * columns
    acc = dw.dtype.type(0)
    for first in range(0, positions, TILE):
        chunk = min(TILE, positions - first)
        if ty < chunk:
            n, td, th, tw = unravel(first + ty, depths, rows, columns)
            (od, d), (oh, h) = after(axes, 0, od0, d0, td), after(axes, 1, oh0, h0, th)
            ow, v = after(axes, 2, ow0, v0, tw)
            if tx < oc_left:
                ys[ty, tx] = dy[n, od, oh, ow, oc0 + tx]
            if tx < ic_left:
                xs[ty, tx] = x[n, d, h, v, ic0 + tx]
        cuda.syncthreads()
        if ty < oc_left and tx < ic_left:
            for k in range(chunk):
                acc += ys[k, ty] * xs[k, tx]
        cuda.syncthreads()
    if ty < oc_left and tx < ic_left:
        dw[oc0 + ty, fd, fh, fw, first_ic + tx] = acc


# --- 4. grouped -----------------------------------------------------------------------------------
@cuda.jit
def grouped(x, dy, dw, table):
    """One block TILE output channels, and TILE columns (tap, input channel) of a group of the plan."""
    ys = cuda.shared.array((TILE, TILE), x.dtype)  # position, output channel
    xs = cuda.shared.array((TILE, TILE), x.dtype)  # position, column
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    g = group_of_block(table, cuda.blockIdx.x)
    taps_d = table[g, DEPTH + COUNT]
    column = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * TILE + tx
    kd, kh, kw, ic = four_digits(column, table[g, ROWS + COUNT], table[g, COLUMNS + COUNT], dw.shape[4])
    c_group, first_oc = cuda.blockIdx.z, cuda.blockIdx.y * TILE
    oc_of_c_group = dw.shape[0] // (x.shape[4] // dw.shape[4])
    oc0, ic0 = c_group * oc_of_c_group + first_oc, c_group * dw.shape[4]
    oc_left = oc_of_c_group - first_oc
    depths, rows, columns = table[g, DEPTH + TERMS], table[g, ROWS + TERMS], table[g, COLUMNS + TERMS]
    positions = dy.shape[0] * depths * rows * columns
    acc = dw.dtype.type(0)
    for first in range(0, positions, TILE):
        chunk = min(TILE, positions - first)
        if ty < chunk:
            n, td, th, tw = four_digits(first + ty, depths, rows, columns)
            if tx < oc_left:
                od, oh, ow = summed(table, g, DEPTH, td), summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
                ys[ty, tx] = dy[n, od, oh, ow, oc0 + tx]
            if kd < taps_d:
                d, h = third(table, g, DEPTH, kd, td), third(table, g, ROWS, kh, th)
                xs[ty, tx] = x[n, d, h, third(table, g, COLUMNS, kw, tw), ic0 + ic]
        cuda.syncthreads()
        if ty < oc_left and kd < taps_d:
            for k in range(chunk):
                acc += ys[k, ty] * xs[k, tx]
        cuda.syncthreads()
    if ty < oc_left and kd < taps_d:
        fd, fh, fw = fixed(table, g, DEPTH, kd), fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw)
        dw[oc0 + ty, fd, fh, fw, ic] = acc


# --- 5. register_tile -----------------------------------------------------------------------------
@cuda.jit
def register_tile(x, dy, dw, table):
    """One block BM output channels, and BN columns (tap, input channel) of a group; a thread TM x TN of them."""
    ys = cuda.shared.array((TILE, ALONG), x.dtype)  # position, output channel
    xs = cuda.shared.array((TILE, ALONG), x.dtype)  # position, column
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    g = group_of_block(table, cuda.blockIdx.x)
    taps_d, taps_h, taps_w = table[g, DEPTH + COUNT], table[g, ROWS + COUNT], table[g, COLUMNS + COUNT]
    kd, kh = cuda.local.array(TN, uint32), cuda.local.array(TN, uint32)
    kw, ic = cuda.local.array(TN, uint32), cuda.local.array(TN, uint32)
    for j in range(TN):
        column = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * BN + tx + j * TILE
        kd[j], kh[j], kw[j], ic[j] = four_digits(column, taps_h, taps_w, dw.shape[4])
    c_group, first_oc = cuda.blockIdx.z, cuda.blockIdx.y * BM
    oc_of_c_group = dw.shape[0] // (x.shape[4] // dw.shape[4])
    oc0, ic0 = c_group * oc_of_c_group + first_oc, c_group * dw.shape[4]
    oc_left = oc_of_c_group - first_oc
    depths, rows, columns = table[g, DEPTH + TERMS], table[g, ROWS + TERMS], table[g, COLUMNS + TERMS]
    positions = dy.shape[0] * depths * rows * columns
    acc = cuda.local.array((TM, TN), x.dtype)
    a, b = cuda.local.array(TM, x.dtype), cuda.local.array(TN, x.dtype)
    clear(acc)
    for first in range(0, positions, TILE):
        chunk = min(TILE, positions - first)
        if ty < chunk:  # rows and columns past the last one load some other: their results are not written
            n, td, th, tw = four_digits(first + ty, depths, rows, columns)
            od, oh, ow = summed(table, g, DEPTH, td), summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
            for i in range(TM):
                ys[ty, tx + i * TILE] = dy[n, od, oh, ow, oc0 + min(tx + i * TILE, oc_left - 1)]
            for j in range(TN):
                d, h = third(table, g, DEPTH, min(kd[j], taps_d - 1), td), third(table, g, ROWS, kh[j], th)
                xs[ty, tx + j * TILE] = x[n, d, h, third(table, g, COLUMNS, kw[j], tw), ic0 + ic[j]]
        cuda.syncthreads()
        if ty < oc_left and kd[0] < taps_d:
            for k in range(chunk):
                add_term(acc, ys, xs, k, a, b)
        cuda.syncthreads()
    for j in range(TN):
        fd, fh, fw = fixed(table, g, DEPTH, kd[j]), fixed(table, g, ROWS, kh[j]), fixed(table, g, COLUMNS, kw[j])
        for i in range(TM):
            if ty + i * TILE < oc_left and kd[j] < taps_d:
                dw[oc0 + ty + i * TILE, fd, fh, fw, ic[j]] = acc[i, j]
