"""conv3d and conv3d_input: the first five rungs over three axes, one code for both.

Both gather: a result is a sum over taps, and over channels of what the filter slides over.

================  =======  =======  =================  ====================
operator          ``src``  ``out``  columns            terms, at each tap
================  =======  =======  =================  ====================
``conv3d``        x        y        output channels    input channels
``conv3d_input``  dy       dx       input channels     output channels
================  =======  =======  =================  ====================

A function here makes the kernel of a rung, of ``conv3d`` (`forward`) or of ``conv3d_input``. Each kernel is the one of
conv_v2.py or ks_deconv.py with one loop more. An index of src is called d, h, v, because w is the filter.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import uint32

from ...plan_table import COLUMNS, COUNT, DEPTH, FIRST_BLOCK, ROWS, TERMS
from ..grouped import fixed, group_of_block, summed, third
from ..jit import cuda, device, unravel
from ..launch import TILE
from ..register_tile import ACROSS, ALONG, BM, BN, TM, TN, add_term, clear
from .equation import DILATION, STRIDE, after, four_digits, taps_of_phase, taps_on_x


@cache
def channels_of(forward: bool) -> Any:
    """Make a function that counts the columns of a channel group, its terms at each tap, and its output channels."""

    @device
    def channels(src, w, out):
        if forward:
            columns = out.shape[4] // (src.shape[4] // w.shape[4])
            return columns, w.shape[4], columns
        terms = src.shape[4] // (out.shape[4] // w.shape[4])
        return w.shape[4], terms, terms

    return channels


@cache
def weight_of(forward: bool) -> Any:
    """Make a function that returns the weight of a column, a tap and a term."""

    @device
    def weight(w, oc0, column, fd, fh, fw, k):
        """`oc0` is the first output channel of the channel group."""
        if forward:
            return w[oc0 + column, fd, fh, fw, k]
        return w[oc0 + k, fd, fh, fw, column]

    return weight


def pitch_of(forward: bool) -> int:
    """Elements from a term of a tile of w to the next, so that the threads of a warp write to different banks."""
    return TILE + 4 if forward else TILE


# --- 1. with_zeros --------------------------------------------------------------------------------
@cache
def with_zeros(forward: bool) -> Any:
    """Make the kernel with a thread for each result, on a src that was really padded (and zero-inserted)."""
    channels, weight = channels_of(forward), weight_of(forward)

    @device
    def under(axes, axis, k, f, taps):
        """The index of src under tap f, at position k. Over dy slides the rotated filter, in steps of 1."""
        if forward:
            return k * axes[axis, STRIDE] + f * axes[axis, DILATION]
        return k + (taps - 1 - f) * axes[axis, DILATION]

    @cuda.jit
    def with_zeros(src, w, out, axes):
        """A thread for each result; the window always holds all taps, and some of src is padding."""
        index = cuda.grid(1)
        if index >= out.size:
            return
        n, kd, kh, kw = unravel(index // out.shape[4], out.shape[1], out.shape[2], out.shape[3])
        c = index % out.shape[4]
        columns, terms, oc_of_c_group = channels(src, w, out)
        c_group, column = c // columns, c % columns
        oc0, c0 = c_group * oc_of_c_group, c_group * terms
        acc = out.dtype.type(0)
        for fd in range(w.shape[1]):
            for fh in range(w.shape[2]):
                for fw in range(w.shape[3]):
                    d, h = under(axes, 0, kd, fd, w.shape[1]), under(axes, 1, kh, fh, w.shape[2])
                    v = under(axes, 2, kw, fw, w.shape[3])
                    for k in range(terms):
                        acc += src[n, d, h, v, c0 + k] * weight(w, oc0, column, fd, fh, fw, k)
        out[n, kd, kh, kw, c] = acc

    return with_zeros


# --- 2. skip_zeros --------------------------------------------------------------------------------
@cache
def skip_zeros(forward: bool) -> Any:
    """Make the kernel with a thread for each result, without zeros."""
    channels, weight, window = channels_of(forward), weight_of(forward), taps_on_x if forward else taps_of_phase

    @cuda.jit
    def skip_zeros(src, w, out, axes):
        """A thread for each result; only the taps that meet an element of src."""
        index = cuda.grid(1)
        if index >= out.size:
            return
        n, kd, kh, kw = unravel(index // out.shape[4], out.shape[1], out.shape[2], out.shape[3])
        c = index % out.shape[4]
        columns, terms, oc_of_c_group = channels(src, w, out)
        c_group, column = c // columns, c % columns
        oc0, c0 = c_group * oc_of_c_group, c_group * terms
        fd0, d0, taps_d = window(axes, 0, kd, src.shape[1], w.shape[1])  # the trimmed window
        fh0, h0, taps_h = window(axes, 1, kh, src.shape[2], w.shape[2])
        fw0, v0, taps_w = window(axes, 2, kw, src.shape[3], w.shape[3])
        acc = out.dtype.type(0)
        for td in range(taps_d):
            for th in range(taps_h):
                for tw in range(taps_w):
                    (fd, d), (fh, h) = after(axes, 0, fd0, d0, td), after(axes, 1, fh0, h0, th)
                    fw, v = after(axes, 2, fw0, v0, tw)
                    for k in range(terms):
                        acc += src[n, d, h, v, c0 + k] * weight(w, oc0, column, fd, fh, fw, k)
        out[n, kd, kh, kw, c] = acc

    return skip_zeros


# --- 3. shared ------------------------------------------------------------------------------------
@cache
def shared(forward: bool) -> Any:
    """Make the kernel with a block for each position."""
    channels, weight, window = channels_of(forward), weight_of(forward), taps_on_x if forward else taps_of_phase
    pitch = pitch_of(forward)

    @cuda.jit
    def shared(src, w, out, axes):
        """A block for each position of out, TILE images and TILE columns: all its threads share one window."""
        xs = cuda.shared.array((TILE, TILE), src.dtype)  # image, term
        ws = cuda.shared.array((TILE, pitch), src.dtype)  # term, column
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        down, along = (tx, ty) if forward else (ty, tx)  # term and column of a load of w: a warp reads neighbours
        first_n, kd, kh, kw = unravel(cuda.blockIdx.x, out.shape[1], out.shape[2], out.shape[3])
        n = first_n * TILE + ty
        columns, terms, oc_of_c_group = channels(src, w, out)
        tiles_of_c_group = (columns + TILE - 1) // TILE
        c_group, first = cuda.blockIdx.y // tiles_of_c_group, cuda.blockIdx.y % tiles_of_c_group * TILE
        oc0, c0, left = c_group * oc_of_c_group, c_group * terms, columns - first
        fd0, d0, taps_d = window(axes, 0, kd, src.shape[1], w.shape[1])
        fh0, h0, taps_h = window(axes, 1, kh, src.shape[2], w.shape[2])
        fw0, v0, taps_w = window(axes, 2, kw, src.shape[3], w.shape[3])
        acc = out.dtype.type(0)
        for td in range(taps_d):
            for th in range(taps_h):
                for tw in range(taps_w):
                    (fd, d), (fh, h) = after(axes, 0, fd0, d0, td), after(axes, 1, fh0, h0, th)
                    fw, v = after(axes, 2, fw0, v0, tw)
                    for first_k in range(0, terms, TILE):
                        chunk = min(TILE, terms - first_k)
                        if n < src.shape[0] and tx < chunk:
                            xs[ty, tx] = src[n, d, h, v, c0 + first_k + tx]
                        if down < chunk and along < left:
                            ws[down, along] = weight(w, oc0, first + along, fd, fh, fw, first_k + down)
                        cuda.syncthreads()
                        if n < src.shape[0] and tx < left:
                            for k in range(chunk):
                                acc += xs[ty, k] * ws[k, tx]
                        cuda.syncthreads()
        if n < src.shape[0] and tx < left:
            out[n, kd, kh, kw, c_group * columns + first + tx] = acc

    return shared


# --- 4. grouped -----------------------------------------------------------------------------------
@cache
def grouped(forward: bool) -> Any:
    """Make the kernel of one launch over the groups of the plan."""
    channels, weight, pitch = channels_of(forward), weight_of(forward), pitch_of(forward)

    @cuda.jit
    def grouped(src, w, out, table):
        """One block TILE rows (image, position) of a group of the plan, and TILE columns: they share one window."""
        xs = cuda.shared.array((TILE, TILE), src.dtype)  # row, term
        ws = cuda.shared.array((TILE, pitch), src.dtype)  # term, column
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        down, along = (tx, ty) if forward else (ty, tx)  # term and column of a load of w: a warp reads neighbours
        g = group_of_block(table, cuda.blockIdx.x)
        row = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * TILE + ty
        n, kd, kh, kw = four_digits(row, table[g, DEPTH + COUNT], table[g, ROWS + COUNT], table[g, COLUMNS + COUNT])
        columns, terms, oc_of_c_group = channels(src, w, out)
        c_group, first = cuda.blockIdx.z, cuda.blockIdx.y * TILE
        oc0, c0, left = c_group * oc_of_c_group, c_group * terms, columns - first
        acc = out.dtype.type(0)
        for td in range(table[g, DEPTH + TERMS]):
            for th in range(table[g, ROWS + TERMS]):
                for tw in range(table[g, COLUMNS + TERMS]):
                    fd, fh, fw = summed(table, g, DEPTH, td), summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
                    d, h = third(table, g, DEPTH, kd, td), third(table, g, ROWS, kh, th)
                    v = third(table, g, COLUMNS, kw, tw)
                    for first_k in range(0, terms, TILE):
                        chunk = min(TILE, terms - first_k)
                        if n < src.shape[0] and tx < chunk:
                            xs[ty, tx] = src[n, d, h, v, c0 + first_k + tx]
                        if down < chunk and along < left:
                            ws[down, along] = weight(w, oc0, first + along, fd, fh, fw, first_k + down)
                        cuda.syncthreads()
                        if n < src.shape[0] and tx < left:
                            for k in range(chunk):
                                acc += xs[ty, k] * ws[k, tx]
                        cuda.syncthreads()
        if n < src.shape[0] and tx < left:
            d, h, v = fixed(table, g, DEPTH, kd), fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw)
            out[n, d, h, v, c_group * columns + first + tx] = acc

    return grouped


# --- 5. register_tile -----------------------------------------------------------------------------
@cache
def register_tile(forward: bool) -> Any:
    """Make the kernel of TM x TN results a thread."""
    channels, weight, pitch = channels_of(forward), weight_of(forward), ACROSS if forward else ALONG

    @cuda.jit
    def register_tile(src, w, out, table):
        """One block BM rows (image, position) of a group of the plan, and BN columns; a thread TM x TN of them."""
        xs = cuda.shared.array((TILE, ACROSS), src.dtype)  # term, row
        ws = cuda.shared.array((TILE, pitch), src.dtype)  # term, column
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        down, along = (tx, ty) if forward else (ty, tx)  # term and column of a load of w: a warp reads neighbours
        g = group_of_block(table, cuda.blockIdx.x)
        size_d, size_h, size_w = table[g, DEPTH + COUNT], table[g, ROWS + COUNT], table[g, COLUMNS + COUNT]
        n, kd = cuda.local.array(TM, uint32), cuda.local.array(TM, uint32)
        kh, kw = cuda.local.array(TM, uint32), cuda.local.array(TM, uint32)
        for i in range(TM):
            row = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * BM + ty + i * TILE
            n[i], kd[i], kh[i], kw[i] = four_digits(row, size_d, size_h, size_w)
        columns, terms, oc_of_c_group = channels(src, w, out)
        c_group, first = cuda.blockIdx.z, cuda.blockIdx.y * BN
        oc0, c0, left = c_group * oc_of_c_group, c_group * terms, columns - first
        acc = cuda.local.array((TM, TN), src.dtype)
        a, b = cuda.local.array(TM, src.dtype), cuda.local.array(TN, src.dtype)
        clear(acc)
        for td in range(table[g, DEPTH + TERMS]):
            for th in range(table[g, ROWS + TERMS]):
                for tw in range(table[g, COLUMNS + TERMS]):
                    fd, fh, fw = summed(table, g, DEPTH, td), summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
                    for first_k in range(0, terms, TILE):
                        chunk = min(TILE, terms - first_k)
                        if tx < chunk:  # past the last row or column, some other is loaded: its results are not written
                            for i in range(TM):
                                d, h = third(table, g, DEPTH, kd[i], td), third(table, g, ROWS, kh[i], th)
                                v = third(table, g, COLUMNS, kw[i], tw)
                                xs[tx, ty + i * TILE] = src[min(n[i], src.shape[0] - 1), d, h, v, c0 + first_k + tx]
                        if down < chunk:
                            for j in range(TN):
                                column = first + min(along + j * TILE, left - 1)
                                ws[down, along + j * TILE] = weight(w, oc0, column, fd, fh, fw, first_k + down)
                        cuda.syncthreads()
                        if n[0] < src.shape[0] and tx < left:
                            for k in range(chunk):
                                add_term(acc, xs, ws, k, a, b)
                        cuda.syncthreads()
        for i in range(TM):
            d, h, v = fixed(table, g, DEPTH, kd[i]), fixed(table, g, ROWS, kh[i]), fixed(table, g, COLUMNS, kw[i])
            for j in range(TN):
                if n[i] < src.shape[0] and tx + j * TILE < left:
                    out[n[i], d, h, v, c_group * columns + first + tx + j * TILE] = acc[i, j]

    return register_tile
