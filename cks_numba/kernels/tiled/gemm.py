"""The tiled rung: the dense matrix products of ``grouped``, in register tiles, and what makes these fast.

- Two buffers: while one chunk is multiplied from shared memory, the next one is on its way to registers, and then goes
  to the other half of shared memory. One barrier a chunk is enough.
- Vectors: one load brings four neighbours (``vectors``).
- A tile that fits the sizes, and parts of a long sum (``choice``): so the kernels are made for a tile and a width.
- Indices of 32 bits that are counted on and never divided in the loop; chunks that go on from one tap to the next.

docs/kernels.md goes through it line by line.

``frame``         what both kernels do in the same way: memory, the part of each thread, and the loop over chunks
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
    DEPTH,
    FIRST_BLOCK,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    TERMS,
    THIRD,
    THIRD_FIXED,
)
from ..axes import Axes
from ..grouped import group_of_block
from ..jit import ALIGN, cuda, device, kernel
from .device_functions import loader, offset_of, stepper, thread_tile, writer
from .sizes import BK, SKEW, Tile
from .vectors import load, store


@cache
def frame(axes: Axes, tile: Tile, width: int, a_along_terms: bool, b_along_terms: bool) -> tuple[Any, Any, Any]:
    """What both kernels do in the same way, whatever the rows, columns and terms of A and B stand for.

    Parameters
    ----------
    axes : Axes
    tile : Tile
    width : int
        Elements that one instruction loads, 4 or 1.
    a_along_terms, b_along_terms : bool
        Whether neighbours in memory are terms of the sum. Otherwise they are rows of A, or columns of B.

    Returns
    -------
    place, sum_chunks : device functions
        The part of the work that is a thread's own, and the loop.
    loads : tuple of int
        Loads of A that a thread does in a chunk, rows from one to the next, loads of B, and columns between those.
    """
    bm, bn, tm, tn = tile
    threads, a_pitch, b_pitch = tile.threads, bm + SKEW, bn + SKEW
    first_of, multiply_chunk, _ = thread_tile(tile)
    a_loads, a_apart, a_first, a_fetch, a_put = loader(width, a_along_terms, bm, threads)
    # Single elements may come in any order. Over three axes a thread has no registers for two terms, so its loads of B
    # are of the same term as those of A.
    b_in_order = a_along_terms if axes.number == 3 and width == 1 else b_along_terms
    b_loads, b_apart, b_first, b_fetch, b_put = loader(width, b_in_order, bn, threads)
    a_offset, b_offset = offset_of(axes.number, width, a_along_terms), offset_of(axes.number, width, b_along_terms)
    digits, further = axes.digits, stepper(axes.number, width, twice=a_along_terms)
    same_terms, whole = a_along_terms == b_in_order, tile.whole
    # A thread goes on to its next term before it multiplies, or after: the sum is the same, the machine code differs by
    # a few instructions. Each kernel has the order that figures/data/sass_sm_90.csv was made with.
    early = a_along_terms

    @device
    def place():
        """First row and column of this thread's results; term and row of its first load of A, term and column of B."""
        # The remainder changes nothing. It tells the compiler that no index made of t overflows.
        t = uint32(cuda.threadIdx.x % threads)
        # The warps take turns from block to block. Otherwise all that are left out could be of the same scheduler.
        row, column = first_of(t if whole else uint32((t + 32 * (cuda.blockIdx.x + cuda.blockIdx.z)) % threads))
        a_term, a_place = a_first(t)
        b_term, b_place = b_first(t)
        return row, column, a_term, a_place, b_term, b_place

    @device
    def sum_chunks(acc, mine, a_operand, b_operand, sizes, left, needed):
        """Chunk by chunk: fetch the next one, multiply the last one, put the next one in the other buffer.

        An operand is an array, the places of this thread's loads at the first term, its first term as four digits, and
        how far a step of each digit goes in memory. `sizes` are those of the last three digits, `left` counts terms.
        """
        dtype = acc.dtype
        a_tile = cuda.shared.array((2, BK, a_pitch), dtype, ALIGN)
        b_tile = cuda.shared.array((2, BK, b_pitch), dtype, ALIGN)
        a_next, b_next = cuda.local.array((a_loads, width), dtype), cuda.local.array((b_loads, width), dtype)
        a, b = cuda.local.array(tm, dtype), cuda.local.array(tn, dtype)
        row, column, a_term, a_place, b_term, b_place = mine
        a_array, a_at, (a0, a1, a2, a3), a_steps = a_operand
        b_array, b_at, (b0, b1, b2, b3), b_steps = b_operand
        first, middle, last = sizes
        by, zero = digits(uint32(BK), first, middle, last), dtype.type(0)
        for i in range(tm):
            for j in range(tn):
                acc[i, j] = zero
        buffer, multiplies = uint32(0), False
        while left > -BK:
            a_far = a_offset(a0, a1, a2, a3, a_steps)
            for j in range(a_loads):
                a_fetch(a_next, j, a_array, uint32(a_at[j] + a_far), int32(a_term) < left, zero)
            if same_terms:
                b0, b1, b2, b3 = a0, a1, a2, a3
            b_far = b_offset(b0, b1, b2, b3, b_steps)
            for j in range(b_loads):
                b_fetch(b_next, j, b_array, uint32(b_at[j] + b_far), int32(b_term) < left, zero)
            if early:
                a0, a1, a2, a3 = further(a0, a1, a2, a3, by, sizes)
            if not same_terms:
                b0, b1, b2, b3 = further(b0, b1, b2, b3, by, sizes)
            if multiplies:
                multiply_chunk(acc, a_tile, b_tile, buffer, a, b, row, column)
            buffer = uint32(buffer ^ uint32(1))
            a_put(a_tile, buffer, a_next, a_term, a_place)
            b_put(b_tile, buffer, b_next, b_term, b_place)
            if not early:
                a0, a1, a2, a3 = further(a0, a1, a2, a3, by, sizes)
            left, multiplies = int32(left - BK), needed
            cuda.syncthreads()

    return place, sum_chunks, (a_loads, a_apart, b_loads, b_apart)


@cache
def gather_kernel(axes: Axes, tile: Tile, width: int, forward: bool) -> Any:
    """Make ``gather_gemm`` for axes, a tile, loads of `width` elements, and conv2d (forward) or conv2d_input."""
    bm, bn, tm, tn = tile
    (high, wide), whole = tile.unit, tile.whole
    row_run, column_run = thread_tile(tile)[2]
    # Input channels lie side by side in w. They are terms of the sum in conv2d, and columns in conv2d_input.
    place, sum_chunks, (a_loads, a_apart, b_loads, b_apart) = frame(axes, tile, width, True, forward)
    number, in_depth, sizes, places, digits, *_ = axes
    write, last = writer(width), number + 1

    @kernel(tile.threads, blocks=tile.resident)
    def gather_gemm(src, w, out, table, depth, columns, src_h, src_w, w_h, w_w, w_oc, src_d, w_d):
        """out[n, position, column] = sum over (tap, k) of src[n, position + tap, k] * w[tap, k, column]."""
        acc = cuda.local.array((tm, tn), src.dtype)
        a_at, b_at = cuda.local.array(a_loads, uint32), cuda.local.array(b_loads, uint32)
        mine = place()
        row, column, a_term, a_place, b_term, b_place = mine

        # 1. The channel group of this block, its group of the plan, and its tile: rows from m0, columns from n0.
        #    A warp of a smaller tile of which no result exists is not needed: it only helps to load.
        #    NVVM 13 cannot write the lines of this kernel if its three numbers of positions are three variables.
        depth, columns = uint32(depth), uint32(columns)
        c_group, n0 = int32(cuda.blockIdx.z), uint32(cuda.blockIdx.y * bn)
        g = group_of_block(table, cuda.blockIdx.x)
        lengths = (
            uint32(in_depth(table, g, COUNT, 1)),
            uint32(table[g, ROWS + COUNT]),
            uint32(table[g, COLUMNS + COUNT]),
        )
        rows = uint32(out.shape[0] * lengths[0] * lengths[1] * lengths[2])
        m0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bm)
        needed = whole or (m0 + row // high * high < rows and n0 + column // wide * wide < columns)

        # 2. Where the rows of src and the columns of w that this thread loads begin, in runs of `width` elements.
        #    Past the last one it loads the first. Any would do, because those results are not written.
        src_c, w_c = uint32(src.shape[last] // width), uint32(w.shape[last] // width)
        depths, heights, widths = sizes(src)
        for j in range(a_loads):
            m = uint32(m0 + a_place + j * a_apart)
            n, kd, kh, kw = places(m if m < rows else uint32(0), lengths[0], lengths[1], lengths[2])
            d = in_depth(table, g, THIRD, 0) + kd * in_depth(table, g, THIRD_FIXED, 0)
            h = table[g, ROWS + THIRD] + kh * table[g, ROWS + THIRD_FIXED]
            v = table[g, COLUMNS + THIRD] + kw * table[g, COLUMNS + THIRD_FIXED]
            at = ((n * depths + d) * heights + h) * widths + v
            a_at[j] = uint32(at * src_c + c_group * depth // width)
        w_first = (table[g, ROWS + SUMMED] * w.shape[number] + table[g, COLUMNS + SUMMED]) * w_c
        if number == 3:
            w_first += table[g, DEPTH + SUMMED] * w.shape[2] * w.shape[3] * w_c
        w_first += c_group * (columns if forward else depth) * w_oc
        for j in range(b_loads):
            c = uint32(n0 + b_place + j * b_apart)
            c = c if c < columns else uint32(0)
            b_at[j] = uint32(w_first + (c * w_oc if forward else c // width))

        # 3. The terms (fd, fh, fw, k) of this thread's loads, and how far a step of each goes in src and in w.
        terms_h, terms_w = uint32(max(table[g, ROWS + TERMS], 1)), uint32(max(table[g, COLUMNS + TERMS], 1))
        terms = int32(table[g, ROWS + TERMS] * table[g, COLUMNS + TERMS] * depth)
        if number == 3:
            terms = int32(table[g, DEPTH + TERMS] * terms)
        a_digits, b_digits = digits(a_term, terms_h, terms_w, depth), digits(b_term, terms_h, terms_w, depth)
        in_src = int32(src_d), int32(src_h), int32(src_w), int32(1)
        in_w = int32(w_d), int32(w_h), int32(w_w), int32(w_oc)

        # 4. The sum.
        a_operand, b_operand = (src, a_at, a_digits, in_src), (w, b_at, b_digits, in_w)
        sum_chunks(acc, mine, a_operand, b_operand, (terms_h, terms_w, depth), terms, needed)

        # 5. Write the results that exist. The table is read again: kept numbers would take registers from the loop.
        lengths = (
            uint32(in_depth(table, g, COUNT, 1)),
            uint32(table[g, ROWS + COUNT]),
            uint32(table[g, COLUMNS + COUNT]),
        )
        depths, heights, widths = sizes(out)
        m0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bm)
        for i in range(tm):
            m = uint32(m0 + row + i // 4 * row_run + i % 4)
            if m < out.shape[0] * lengths[0] * lengths[1] * lengths[2]:
                n, kd, kh, kw = places(m, lengths[0], lengths[1], lengths[2])
                d = in_depth(table, g, FIXED, 0) + kd * in_depth(table, g, FIXED_STEP, 0)
                h = table[g, ROWS + FIXED] + kh * table[g, ROWS + FIXED_STEP]
                v = table[g, COLUMNS + FIXED] + kw * table[g, COLUMNS + FIXED_STEP]
                at = ((n * depths + d) * heights + h) * widths + v
                at = at * out.shape[last] + c_group * columns
                for j in range(0, tn, width):
                    c = uint32(n0 + column + j // 4 * column_run + j % 4)
                    if c < columns:
                        write(out, at + c, acc, i, j)

    return gather_gemm


@cache
def weight_kernel(axes: Axes, tile: Tile, width: int) -> Any:
    """Make ``weight_gemm`` for axes, a tile and loads of `width` elements."""
    bm, bn, tm, tn = tile
    (high, wide), whole = tile.unit, tile.whole
    row_run, column_run = thread_tile(tile)[2]
    # Channels lie side by side in dy and in x. Here they are rows and columns, and no terms of the sum.
    place, sum_chunks, (a_loads, a_apart, b_loads, b_apart) = frame(axes, tile, width, False, False)
    number, in_depth, sizes, _, digits, in_order, _ = axes
    write, last = writer(width), number + 1

    @kernel(tile.threads, blocks=tile.resident)
    def weight_gemm(x, dy, out, table, rows, x_n, x_h, x_w, dy_n, dy_h, dy_w, x_d, dy_d):
        """out[part, oc, tap, ic] = sum over the part's (n, output) of dy[n, output, oc] * x[n, input, ic]."""
        acc = cuda.local.array((tm, tn), x.dtype)
        a_at, b_at = cuda.local.array(a_loads, uint32), cuda.local.array(b_loads, uint32)
        mine = place()
        row, column, term, a_place, _, b_place = mine  # both operands load the same term

        # 1. The channel group of this block, its group of the plan, and its tile: rows from m0, columns from n0.
        #    A warp of a smaller tile of which no result exists is not needed: it only helps to load.
        rows, depth = uint32(rows), uint32(out.shape[last])
        c_groups = uint32(uint32(x.shape[last]) // depth)
        part = uint32(uint32(cuda.blockIdx.z) // c_groups)
        c_group, m0 = int32(cuda.blockIdx.z - part * c_groups), uint32(cuda.blockIdx.y * bm)
        g = group_of_block(table, cuda.blockIdx.x)
        taps = uint32(in_depth(table, g, COUNT, 1)), uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        n0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bn)
        columns = uint32(taps[0] * taps[1] * taps[2] * depth)
        needed = whole or (m0 + row // high * high < rows and n0 + column // wide * wide < columns)

        # 2. Where the rows of dy and the columns of x that this thread loads begin, in runs of `width` elements.
        #    Past the last one it loads the first. Any would do, because those results are not written.
        x_c, dy_c = uint32(x.shape[last] // width), uint32(dy.shape[last] // width)
        dy_first = (table[g, ROWS + SUMMED] * dy.shape[number] + table[g, COLUMNS + SUMMED]) * dy_c
        if number == 3:
            dy_first += table[g, DEPTH + SUMMED] * dy.shape[2] * dy.shape[3] * dy_c
        for j in range(a_loads):
            m = uint32(m0 + a_place + j * a_apart)
            a_at[j] = uint32(dy_first + (c_group * rows + (m if m < rows else uint32(0))) // width)
        _, heights, widths = sizes(x)
        for j in range(b_loads):
            c = uint32(n0 + b_place + j * b_apart)
            kd, kh, kw, k = digits(c if c < columns else uint32(0), taps[1], taps[2], depth)
            d = in_depth(table, g, THIRD, 0) + kd * in_depth(table, g, THIRD_FIXED, 0)
            h = table[g, ROWS + THIRD] + kh * table[g, ROWS + THIRD_FIXED]
            v = table[g, COLUMNS + THIRD] + kw * table[g, COLUMNS + THIRD_FIXED]
            b_at[j] = uint32(((d * heights + h) * widths + v) * x_c + (c_group * depth + k) // width)

        # 3. The part of the sum that is this block's, and in it the term (n, od, oh, ow) of this thread's loads.
        lengths = (
            uint32(max(in_depth(table, g, TERMS, 1), 1)),
            uint32(max(table[g, ROWS + TERMS], 1)),
            uint32(max(table[g, COLUMNS + TERMS], 1)),
        )
        terms = x.shape[0] * in_depth(table, g, TERMS, 1)
        terms = int32(terms * table[g, ROWS + TERMS] * table[g, COLUMNS + TERMS])
        parts = uint32(uint32(cuda.gridDim.z) // c_groups)
        most = int32((uint32((terms + BK - 1) // BK) + parts - 1) // parts * BK)  # terms of a part, in whole chunks
        first = int32(part * most)
        left = min(int32(terms - first), most)
        term_digits = digits(uint32(first + term), lengths[0], lengths[1], lengths[2])
        in_dy, in_x = in_order(dy_n, dy_d, dy_h, dy_w), in_order(x_n, x_d, x_h, x_w)

        # 4. The sum.
        a_operand, b_operand = (dy, a_at, term_digits, in_dy), (x, b_at, term_digits, in_x)
        sum_chunks(acc, mine, a_operand, b_operand, lengths, left, needed)

        # 5. Write the results that exist, to the array of this part. The table is read again: kept numbers would take
        #    registers from the loop.
        n0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bn)
        taps = uint32(in_depth(table, g, COUNT, 1)), uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        depths, heights, widths = sizes(out)
        for j in range(0, tn, width):
            c = uint32(n0 + column + j // 4 * column_run + j % 4)
            kd, kh, kw, k = digits(c, taps[1], taps[2], depth)
            exists = kd < taps[0] if number == 3 else kh < taps[1]
            fd = in_depth(table, g, FIXED, 0) + kd * in_depth(table, g, FIXED_STEP, 0)
            fh = table[g, ROWS + FIXED] + kh * table[g, ROWS + FIXED_STEP]
            fw = table[g, COLUMNS + FIXED] + kw * table[g, COLUMNS + FIXED_STEP]
            for i in range(tm):
                m = uint32(m0 + row + i // 4 * row_run + i % 4)
                if m < rows and exists:
                    oc = cuda.blockIdx.z * rows + m
                    at = ((oc * depths + fd) * heights + fh) * widths + fw
                    write(out, at * depth + k, acc, i, j)

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
