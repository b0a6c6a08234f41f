"""The tiled rung: every group of the plan is a dense GEMM, and one launch runs them all.

A block makes one tile of one group (`device_functions`). Which group, and where its indices start and step, stands in a
table of whole numbers; inside the loop nothing asks whether an index is padding, because no index of a group is.
While one chunk is multiplied from shared memory, the next one is on its way to registers, and then goes to
the other half of shared memory: one barrier a chunk is enough. docs/kernels.md goes through it line by line.

``gather_gemm``   conv2d and conv2d_input: rows (n, position), columns channels, sum over (taps, channels)
``weight_gemm``   conv2d_weight: rows oc, columns (tap, ic), sum over (n, oh, ow), which may be split over blocks
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import int32, uint32

from ...plan_table import (
    COLUMNS,
    COUNT,
    FIRST_BLOCK,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    TERMS,
    THIRD,
    THIRD_FIXED,
)
from ..jit import ALIGN, cuda, kernel
from .device_functions import digits, group_of_block, loader, stepper, thread_tile, writer
from .sizes import BK, SKEW, Tile
from .vectors import load, store


@cache
def gather_kernel(tile: Tile, width: int, forward: bool) -> Any:
    """``gather_gemm`` for a tile, for loads of `width` elements, and for one of the two operators."""
    bm, bn, tm, tn = tile
    threads, a_pitch, b_pitch = tile.threads, bm + SKEW, bn + SKEW
    (high, wide), whole = tile.unit, tile.whole
    first_of, multiply_chunk, (row_run, column_run) = thread_tile(tile)
    # src has its channels, which are terms, side by side; so has w in conv2d, but not in conv2d_input
    a_loads, a_apart, a_first, a_fetch, a_put = loader(width, True, bm, threads)
    b_loads, b_apart, b_first, b_fetch, b_put = loader(width, forward, bn, threads)
    write, further = writer(width), stepper(width)

    @kernel(threads, blocks=tile.resident)
    def gather_gemm(src, w, out, table, depth, columns, src_h, src_w, w_h, w_w, w_oc):
        """out[n, position, column] = sum over (tap, k) of src[n, position + tap, k] * w[tap, k, column]."""
        a_tile = cuda.shared.array((2, BK, a_pitch), src.dtype, ALIGN)
        b_tile = cuda.shared.array((2, BK, b_pitch), src.dtype, ALIGN)
        acc = cuda.local.array((tm, tn), src.dtype)
        a, b = cuda.local.array(tm, src.dtype), cuda.local.array(tn, src.dtype)
        a_next, b_next = cuda.local.array((a_loads, width), src.dtype), cuda.local.array((b_loads, width), src.dtype)
        a_at, b_at = cuda.local.array(a_loads, uint32), cuda.local.array(b_loads, uint32)
        t = uint32(cuda.threadIdx.x % threads)  # which it is anyway; now the compiler knows that no index overflows
        # from block to block the warps take turns: those left out would otherwise all be of the same scheduler
        row, column = first_of(t if whole else uint32((t + 32 * (cuda.blockIdx.x + cuda.blockIdx.z)) % threads))
        a_term, a_place = a_first(t)
        b_term, b_place = b_first(t)
        zero = src.dtype.type(0)

        # 1. The channel group of this block, its group of the plan, and its tile: rows from m0, columns from n0.
        #    A warp of a smaller tile of which no result exists is not needed: it only helps to load.
        depth, columns = uint32(depth), uint32(columns)
        c_group, n0 = int32(cuda.blockIdx.z), uint32(cuda.blockIdx.y * bn)
        g = group_of_block(table, cuda.blockIdx.x)
        rows_h, rows_w = uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        rows = uint32(out.shape[0] * rows_h * rows_w)
        m0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bm)
        needed = whole or (m0 + row // high * high < rows and n0 + column // wide * wide < columns)

        # 2. Where the rows of src and the columns of w that this thread loads begin, in runs of `width` elements.
        #    Past the last one it loads the first: any will do, as nobody writes those results.
        src_c, w_c = uint32(src.shape[3] // width), uint32(w.shape[3] // width)
        for j in range(a_loads):
            m = uint32(m0 + a_place + j * a_apart)
            n, kh, kw = digits(m if m < rows else uint32(0), rows_h, rows_w)
            h = table[g, ROWS + THIRD] + kh * table[g, ROWS + THIRD_FIXED]
            v = table[g, COLUMNS + THIRD] + kw * table[g, COLUMNS + THIRD_FIXED]
            a_at[j] = uint32(((n * src.shape[1] + h) * src.shape[2] + v) * src_c + c_group * depth // width)
        w_first = (table[g, ROWS + SUMMED] * w.shape[2] + table[g, COLUMNS + SUMMED]) * w_c
        w_first += c_group * (columns if forward else depth) * w_oc
        for j in range(b_loads):
            c = uint32(n0 + b_place + j * b_apart)
            c = c if c < columns else uint32(0)
            b_at[j] = uint32(w_first + (c * w_oc if forward else c // width))

        # 3. The terms (fh, fw, k) of this thread's loads, and how far a step of each goes in src and in w.
        terms_w = uint32(max(table[g, COLUMNS + TERMS], 1))
        terms = int32(table[g, ROWS + TERMS] * table[g, COLUMNS + TERMS] * depth)
        a_h, a_w, a_k = digits(a_term, terms_w, depth)
        b_h, b_w, b_k = digits(b_term, terms_w, depth)
        by = digits(uint32(BK), terms_w, depth)
        src_h, src_w, w_h, w_w, w_oc = int32(src_h), int32(src_w), int32(w_h), int32(w_w), int32(w_oc)
        for i in range(tm):
            for j in range(tn):
                acc[i, j] = zero

        # 4. Chunk by chunk: fetch the next one, multiply the last one, put the next one in the other buffer.
        left, buffer, multiplies = terms, uint32(0), False
        while left > -BK:
            a_step = int32(a_h * src_h) + int32(a_w * src_w) + int32(a_k // width)
            for j in range(a_loads):
                a_fetch(a_next, j, src, uint32(a_at[j] + a_step), int32(a_term) < left, zero)
            if forward:
                b_h, b_w, b_k = a_h, a_w, a_k
            b_step = int32(b_h * w_h) + int32(b_w * w_w) + int32(b_k // width if forward else b_k * w_oc)
            for j in range(b_loads):
                b_fetch(b_next, j, w, uint32(b_at[j] + b_step), int32(b_term) < left, zero)
            a_h, a_w, a_k = further(a_h, a_w, a_k, by, terms_w, depth)
            if not forward:
                b_h, b_w, b_k = further(b_h, b_w, b_k, by, terms_w, depth)
            if multiplies:
                multiply_chunk(acc, a_tile, b_tile, buffer, a, b, row, column)
            buffer ^= uint32(1)
            a_put(a_tile, buffer, a_next, a_term, a_place)
            b_put(b_tile, buffer, b_next, b_term, b_place)
            left, multiplies = int32(left - BK), needed
            cuda.syncthreads()

        # 5. Write the results that exist. What is read from the table again would have kept registers from the loop.
        rows_h, rows_w = uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        m0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bm)
        for i in range(tm):
            m = uint32(m0 + row + i // 4 * row_run + i % 4)
            if m < out.shape[0] * rows_h * rows_w:
                n, kh, kw = digits(m, rows_h, rows_w)
                h = table[g, ROWS + FIXED] + kh * table[g, ROWS + FIXED_STEP]
                v = table[g, COLUMNS + FIXED] + kw * table[g, COLUMNS + FIXED_STEP]
                at = ((n * out.shape[1] + h) * out.shape[2] + v) * out.shape[3] + c_group * columns
                for j in range(0, tn, width):
                    c = uint32(n0 + column + j // 4 * column_run + j % 4)
                    if c < columns:
                        write(out, at + c, acc, i, j)

    return gather_gemm


@cache
def weight_kernel(tile: Tile, width: int) -> Any:
    """``weight_gemm`` for a tile and for loads of `width` elements."""
    bm, bn, tm, tn = tile
    threads, a_pitch, b_pitch = tile.threads, bm + SKEW, bn + SKEW
    (high, wide), whole = tile.unit, tile.whole
    first_of, multiply_chunk, (row_run, column_run) = thread_tile(tile)
    # both dy and x have their channels, here rows and columns, side by side
    a_loads, a_apart, a_first, a_fetch, a_put = loader(width, False, bm, threads)
    b_loads, b_apart, b_first, b_fetch, b_put = loader(width, False, bn, threads)
    write, further = writer(width), stepper(width)

    @kernel(threads, blocks=tile.resident)
    def weight_gemm(x, dy, out, table, rows, x_n, x_h, x_w, dy_n, dy_h, dy_w):
        """out[part, oc, tap, ic] = sum over the part's (n, oh, ow) of dy[n, oh, ow, oc] * x[n, ih, iw, ic]."""
        a_tile = cuda.shared.array((2, BK, a_pitch), x.dtype, ALIGN)
        b_tile = cuda.shared.array((2, BK, b_pitch), x.dtype, ALIGN)
        acc = cuda.local.array((tm, tn), x.dtype)
        a, b = cuda.local.array(tm, x.dtype), cuda.local.array(tn, x.dtype)
        a_next, b_next = cuda.local.array((a_loads, width), x.dtype), cuda.local.array((b_loads, width), x.dtype)
        a_at, b_at = cuda.local.array(a_loads, uint32), cuda.local.array(b_loads, uint32)
        t = uint32(cuda.threadIdx.x % threads)  # which it is anyway; now the compiler knows that no index overflows
        # from block to block the warps take turns: those left out would otherwise all be of the same scheduler
        row, column = first_of(t if whole else uint32((t + 32 * (cuda.blockIdx.x + cuda.blockIdx.z)) % threads))
        term, a_place = a_first(t)
        _, b_place = b_first(t)
        zero = x.dtype.type(0)

        # 1. The channel group of this block, its group of the plan, and its tile: rows from m0, columns from n0.
        #    A warp of a smaller tile of which no result exists is not needed: it only helps to load.
        rows, depth = uint32(rows), uint32(out.shape[3])
        groups = uint32(uint32(x.shape[3]) // depth)
        part = uint32(uint32(cuda.blockIdx.z) // groups)
        c_group, m0 = int32(cuda.blockIdx.z - part * groups), uint32(cuda.blockIdx.y * bm)
        g = group_of_block(table, cuda.blockIdx.x)
        taps_h, taps_w = uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        n0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bn)
        columns = uint32(taps_h * taps_w * depth)
        needed = whole or (m0 + row // high * high < rows and n0 + column // wide * wide < columns)

        # 2. Where the rows of dy and the columns of x that this thread loads begin, in runs of `width` elements.
        #    Past the last one it loads the first: any will do, as nobody writes those results.
        x_c, dy_c = uint32(x.shape[3] // width), uint32(dy.shape[3] // width)
        dy_first = (table[g, ROWS + SUMMED] * dy.shape[2] + table[g, COLUMNS + SUMMED]) * dy_c
        for j in range(a_loads):
            m = uint32(m0 + a_place + j * a_apart)
            a_at[j] = uint32(dy_first + (c_group * rows + (m if m < rows else uint32(0))) // width)
        for j in range(b_loads):
            c = uint32(n0 + b_place + j * b_apart)
            kh, kw, k = digits(c if c < columns else uint32(0), taps_w, depth)
            h = table[g, ROWS + THIRD] + kh * table[g, ROWS + THIRD_FIXED]
            v = table[g, COLUMNS + THIRD] + kw * table[g, COLUMNS + THIRD_FIXED]
            b_at[j] = uint32((h * x.shape[2] + v) * x_c + (c_group * depth + k) // width)

        # 3. The part of the sum that is this block's, and in it the term (n, oh, ow) of this thread's loads.
        terms_h, terms_w = uint32(max(table[g, ROWS + TERMS], 1)), uint32(max(table[g, COLUMNS + TERMS], 1))
        terms = int32(x.shape[0] * table[g, ROWS + TERMS] * table[g, COLUMNS + TERMS])
        parts = uint32(uint32(cuda.gridDim.z) // groups)
        most = int32((uint32((terms + BK - 1) // BK) + parts - 1) // parts * BK)  # terms of a part: whole chunks
        first = int32(part * most)
        left = min(int32(terms - first), most)
        n, h, w = digits(uint32(first + term), terms_h, terms_w)
        by = digits(uint32(BK), terms_h, terms_w)
        x_n, x_h, x_w = int32(x_n), int32(x_h), int32(x_w)
        dy_n, dy_h, dy_w = int32(dy_n), int32(dy_h), int32(dy_w)
        for i in range(tm):
            for j in range(tn):
                acc[i, j] = zero

        # 4. Chunk by chunk: fetch the next one, multiply the last one, put the next one in the other buffer.
        buffer, multiplies = uint32(0), False
        while left > -BK:
            a_step = int32(n * dy_n) + int32(h * dy_h) + int32(w * dy_w)
            for j in range(a_loads):
                a_fetch(a_next, j, dy, uint32(a_at[j] + a_step), int32(term) < left, zero)
            b_step = int32(n * x_n) + int32(h * x_h) + int32(w * x_w)
            for j in range(b_loads):
                b_fetch(b_next, j, x, uint32(b_at[j] + b_step), int32(term) < left, zero)
            if multiplies:
                multiply_chunk(acc, a_tile, b_tile, buffer, a, b, row, column)
            buffer ^= uint32(1)
            a_put(a_tile, buffer, a_next, term, a_place)
            b_put(b_tile, buffer, b_next, term, b_place)
            n, h, w = further(n, h, w, by, terms_h, terms_w)
            left, multiplies = int32(left - BK), needed
            cuda.syncthreads()

        # 5. Write the results that exist, to this part's own array. What is read from the table again would have kept
        #    registers from the loop.
        n0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bn)
        taps_h, taps_w = uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        for j in range(0, tn, width):
            c = uint32(n0 + column + j // 4 * column_run + j % 4)
            kh, kw, k = digits(c, taps_w, depth)
            fh = table[g, ROWS + FIXED] + kh * table[g, ROWS + FIXED_STEP]
            fw = table[g, COLUMNS + FIXED] + kw * table[g, COLUMNS + FIXED_STEP]
            for i in range(tm):
                m = uint32(m0 + row + i // 4 * row_run + i % 4)
                if m < rows and kh < taps_h:
                    oc = cuda.blockIdx.z * rows + m
                    write(out, ((oc * out.shape[1] + fh) * out.shape[2] + fw) * depth + k, acc, i, j)

    return weight_gemm


@cuda.jit
def sum_parts(partial, out):
    """out = first part + second part + ..., always in this order; one thread an element."""
    index = cuda.grid(1)
    if index < out.size:
        acc = load(partial, index)
        for part in range(1, partial.shape[0] // out.shape[0]):
            acc += load(partial, part * out.size + index)
        store(out, index, acc)
