"""The tensor rung: the dense matrix products of ``tiled``, multiplied by tensor cores.

- One instruction of a warp adds 8 terms (tf32) or 16 (16 bits) to 16x8 results. Each thread holds some elements of A,
  of B and of the results; ``operands`` says which.
- Copies from global to shared memory do not pass through registers, and go on while the threads work. A chunk is
  multiplied while the two after it are on their way, so shared memory has three stages. Again one barrier a chunk is
  enough.

Whatever is not said here is as in ``tiled``: rows, columns and terms, the table of the plan, digits, parts of a sum.

``frame``          what both kernels do in the same way: the part of each thread, and the loop over chunks
``tensor_gather``  conv2d and conv2d_input: rows (n, position), columns channels, sum over (taps, channels)
``tensor_weight``  conv2d_weight: rows oc, columns (tap, ic), sum over (n, oh, ow), which may be split over blocks
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import float32, int32, int64, uint32

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
from ..jit import cuda, device, kernel
from ..tiled.device_functions import offset_of, stepper
from ..tiled.vectors import load, store
from . import ptx
from .operands import Operand, along_rows, along_terms
from .sizes import ROW_BYTES, STAGES, Format, Tile

SHARED_ALIGNMENT = 1024  # bytes: so the swizzle may change the lower bits of an address


@cache
def multiplier(number: Format, tile: Tile) -> Any:
    """Make the function that multiplies a chunk in registers, the inner loop of both kernels.

    acc[i, j] are the four results of a thread of the i-th two octets of rows and the j-th octet of columns: its two
    columns of the first octet of rows, then of the second.
    """
    high, wide, mma = tile.wm // 16, tile.wn // 8, number.multiply

    @device
    def multiply_step(acc, a, b, step):
        for j in range(wide):
            for i in range(high):
                acc[i, j, 0], acc[i, j, 1], acc[i, j, 2], acc[i, j, 3] = mma(
                    a[i, 4 * step], a[i, 4 * step + 1], a[i, 4 * step + 2], a[i, 4 * step + 3],
                    b[j, 2 * step], b[j, 2 * step + 1],
                    acc[i, j, 0], acc[i, j, 1], acc[i, j, 2], acc[i, j, 3],
                )  # fmt: skip

    @device
    def multiply_chunk(acc, a, b):
        multiply_step(acc, a, b, uint32(0))
        multiply_step(acc, a, b, uint32(1))

    return multiply_chunk


@cache
def frame(
    axes: Axes, number: Format, tile: Tile, a_along_terms: bool, b_along_terms: bool
) -> tuple[Any, Any, Operand, Operand]:
    """What both kernels do in the same way, whatever the rows, columns and terms of A and B stand for.

    Returns
    -------
    place, sum_chunks : device functions
        The part of the work that is a thread's own, and the loop.
    a_operand, b_operand : Operand
    """
    bm, bn, wm, wn = tile
    threads, across, bk = tile.threads, bn // wn, number.bk
    a_operand = (along_terms if a_along_terms else along_rows)(number, bm, threads, wm, True)
    b_operand = (along_terms if b_along_terms else along_rows)(number, bn, threads, wn, False)
    a_first, a_place, a_where, a_read = a_operand.first, a_operand.place, a_operand.where, a_operand.read
    b_first, b_place, b_where, b_read = b_operand.first, b_operand.place, b_operand.where, b_operand.read
    a_copy, b_copy = copier(axes, number, a_operand, a_along_terms), copier(axes, number, b_operand, b_along_terms)
    digits, further = axes.digits, stepper(axes.number, 4)
    multiply_chunk, same_terms = multiplier(number, tile), a_along_terms == b_along_terms
    high, wide = wm // 16, wn // 8
    b_begin, stage = bm * ROW_BYTES, (bm + bn) * ROW_BYTES  # bytes: where B begins in a stage, and of a stage
    words, last, ahead = STAGES * stage // 4, uint32((STAGES - 1) * stage), STAGES - 1

    @device
    def place():
        """First row and column of this thread's warp, and its lane; first term and row of its copies of A, and of B."""
        # The remainder changes nothing. It tells the compiler that no index made of t overflows.
        t = uint32(cuda.threadIdx.x % threads)
        warp = uint32(t // 32)
        return (uint32(warp // across * wm), uint32(warp % across * wn), uint32(t % 32)), a_first(t), b_first(t)

    @device
    def next_stage(at):
        return uint32(0) if at == last else uint32(at + stage)

    @device
    def sum_chunks(acc, mine, a_part, b_part, sizes, left):
        """Chunk by chunk: wait until it is there, start the copies of a later one, multiply.

        A part is an array, the places of this thread's copies at the first term, its first term as four digits, and
        how far a step of each digit goes in memory. `sizes` are those of the last three digits, `left` counts terms.
        """
        a, b = cuda.local.array((high, 8), uint32), cuda.local.array((wide, 4), uint32)
        (row, column, lane), (a_term, a_row), (b_term, b_row) = mine
        a_array, a_at, a_digits, a_steps = a_part
        b_array, b_at, b_digits, b_steps = b_part
        by = digits(uint32(bk), sizes[0], sizes[1], sizes[2])
        a_base = ptx.shared_address(cuda.shared.array(words, uint32, SHARED_ALIGNMENT))
        b_base = uint32(a_base + b_begin)
        a_to, b_to = uint32(a_base + a_place(a_term, a_row)), uint32(b_base + b_place(b_term, b_row))
        a_from, b_from = a_where(lane, row), b_where(lane, column)
        for i in range(high):
            for j in range(wide):
                for k in range(4):
                    acc[i, j, k] = float32(0)
        ready, free = uint32(0), uint32(0)  # bytes from the begin of the memory: the stage to multiply, and to fill
        for _ in range(ahead):
            a_copy(uint32(a_to + free), a_array, a_at, a_digits, a_steps, int32(a_term) < left)
            b_copy(uint32(b_to + free), b_array, b_at, b_digits, b_steps, int32(b_term) < left)
            ptx.end_of_chunk()
            a_digits = further(a_digits[0], a_digits[1], a_digits[2], a_digits[3], by, sizes)
            if same_terms:
                b_digits = a_digits
            else:
                b_digits = further(b_digits[0], b_digits[1], b_digits[2], b_digits[3], by, sizes)
            free, left = next_stage(free), int32(left - bk)
        while left > -bk * ahead:
            # Past the barrier the oldest chunk is there for all threads, and none reads the stage that is filled next.
            ptx.wait_for_older()
            cuda.syncthreads()
            a_copy(uint32(a_to + free), a_array, a_at, a_digits, a_steps, int32(a_term) < left)
            b_copy(uint32(b_to + free), b_array, b_at, b_digits, b_steps, int32(b_term) < left)
            ptx.end_of_chunk()
            a_digits = further(a_digits[0], a_digits[1], a_digits[2], a_digits[3], by, sizes)
            if same_terms:
                b_digits = a_digits
            else:
                b_digits = further(b_digits[0], b_digits[1], b_digits[2], b_digits[3], by, sizes)
            a_read(a, uint32(a_base + ready), a_from)
            b_read(b, uint32(b_base + ready), b_from)
            multiply_chunk(acc, a, b)
            ready, free, left = next_stage(ready), next_stage(free), int32(left - bk)

    return place, sum_chunks, a_operand, b_operand


@cache
def copier(axes: Axes, number: Format, operand: Operand, along: bool) -> Any:
    """Make the function that starts to copy a chunk of an operand to a stage; past the end of the sum, zeros."""
    loads, further, offset = operand.loads, operand.further, offset_of(axes.number, number.lanes, along)

    @device
    def copy(to, array, at, term, steps, wanted):
        far, size = offset(term[0], term[1], term[2], term[3], steps), uint32(16) if wanted else uint32(0)
        for j in range(loads):
            ptx.to_shared(further(to, j), ptx.address(array, uint32(at[j] + far), 16), size)

    return copy


@cache
def writer(number: Format, tile: Tile, columns: int, vectors: bool) -> Any:
    """Make the function that writes all results of a thread that exist.

    In a row `columns` of them are neighbours, which are of one octet of columns or of four. With `vectors` these all
    exist or none, and no store is smaller than it need be.
    """
    narrow, short = number.narrow, number.lanes == 8
    high, wide, octets = tile.wm // 16, tile.wn // 8, columns // 2

    @device
    def word(acc, i, j, h):
        """Two neighbours of 16 bits."""
        return uint32(uint32(narrow(acc[i, j, h])) | uint32(narrow(acc[i, j, h + 1])) << uint32(16))

    @device
    def write_vector(out, index, acc, i, j, h):
        if short:
            at = ptx.address(out, index, 2)
            if octets == 1:
                ptx.store_word(at, word(acc, i, j, h))
            else:
                ptx.store_four(
                    at, word(acc, i, j, h), word(acc, i, j + 1, h), word(acc, i, j + 2, h), word(acc, i, j + 3, h)
                )
        elif octets == 1:
            ptx.store_two(ptx.address(out, index, 4), ptx.bits(acc[i, j, h]), ptx.bits(acc[i, j, h + 1]))
        else:
            for k in range(0, octets, 2):
                ptx.store_four(
                    ptx.address(out, index + 2 * k, 4),
                    ptx.bits(acc[i, j + k, h]), ptx.bits(acc[i, j + k, h + 1]),
                    ptx.bits(acc[i, j + k + 1, h]), ptx.bits(acc[i, j + k + 1, h + 1]),
                )  # fmt: skip

    @device
    def write_row(out, acc, rows, places, exist, i, half):
        row = rows[2 * i + half]
        if row < 0:
            return
        if vectors:
            for j in range(0, wide, octets):
                if exist[j] > 0:
                    write_vector(out, row + places[j], acc, i, j, 2 * half)
        else:
            for j in range(wide):
                if exist[j] > 0:
                    store(out, row + places[j], narrow(acc[i, j, 2 * half]))
                if exist[j] > 1:
                    store(out, row + places[j] + 1, narrow(acc[i, j, 2 * half + 1]))

    @device
    def write_octets(out, acc, rows, places, exist, i):
        write_row(out, acc, rows, places, exist, i, uint32(0))
        write_row(out, acc, rows, places, exist, i, uint32(1))

    @device
    def write(out, acc, rows, places, exist):
        """Row i of this thread begins at rows[i], or does not exist (-1); exist[j] columns from places[j] on exist."""
        # They are written out: the compiler does not unroll a loop with so long a body, and acc would go to memory.
        write_octets(out, acc, rows, places, exist, uint32(0))
        write_octets(out, acc, rows, places, exist, uint32(1))
        if high == 4:
            write_octets(out, acc, rows, places, exist, uint32(2))
            write_octets(out, acc, rows, places, exist, uint32(3))

    return write


@cache
def bias_adder(number: Format, tile: Tile) -> Any:
    """Make the function that adds the bias of each column to the results of a thread, before these are rounded."""
    widen, high, wide = number.widen, tile.wm // 16, tile.wn // 8

    @device
    def add_bias(acc, bias, columns, exist):
        """The channels of the j-th octet's two columns are columns[j] and the next one; exist[j] of them exist."""
        for j in range(wide):
            first = widen(bias[columns[j]]) if exist[j] > 0 else float32(0)
            second = widen(bias[columns[j] + 1]) if exist[j] > 1 else float32(0)
            for i in range(high):
                acc[i, j, 0] += first
                acc[i, j, 1] += second
                acc[i, j, 2] += first
                acc[i, j, 3] += second

    return add_bias


@cache
def gather_kernel(axes: Axes, tile: Tile, number: Format, forward: bool, vectors: bool, biased: bool) -> Any:
    """Make ``tensor_gather`` for axes, a tile, a format, conv2d (forward) or conv2d_input, whole or single stores.

    If it is not `biased`, any array may be its bias.
    """
    bm, bn, wm, wn = tile
    lanes, tall, high, wide = number.lanes, wm // 8, wm // 16, wn // 8
    place, sum_chunks, a_operand, b_operand = frame(axes, number, tile, True, forward)
    spatial, in_depth, volume, place_of, digits, *_ = axes
    a_loads, a_apart, a_row, a_later = a_operand.loads, a_operand.apart, a_operand.row, a_operand.later
    b_loads, b_apart, b_row, b_later = b_operand.loads, b_operand.apart, b_operand.row, b_operand.later
    last, add_bias = spatial + 1, bias_adder(number, tile)
    write = writer(number, tile, 8 if forward else 2, vectors)  # conv2d: a thread has eight neighbouring columns

    @kernel(tile.threads, blocks=tile.resident)
    def tensor_gather(src, w, out, bias, table, depth, src_h, src_w, w_h, w_w, w_oc, src_d, w_d):
        """out[n, position, column] = sum over (tap, k) of src[n, position + tap, k] * w[tap, k, column], and a bias."""
        acc, begins = cuda.local.array((high, wide, 4), float32), cuda.local.array(tall, int64)
        places, exist = cuda.local.array(wide, uint32), cuda.local.array(wide, int32)
        a_at, b_at = cuda.local.array(a_loads, uint32), cuda.local.array(b_loads, uint32)
        mine = place()
        (row, column, lane), (a_term, a_first), (b_term, b_first) = mine

        # 1. The channel group of this block, its group of the plan, and its tile: rows from m0, columns from n0.
        #    NVVM 13 cannot write the lines of this kernel if the sizes are variables of their own.
        depth = uint32(depth)
        columns = uint32(uint32(out.shape[last]) // (uint32(src.shape[last]) // depth))
        c_group, n0 = int32(cuda.blockIdx.z), uint32(cuda.blockIdx.y * bn)
        g = group_of_block(table, cuda.blockIdx.x)
        sizes = uint32(in_depth(table, g, COUNT, 1)), uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        rows = uint32(out.shape[0] * sizes[0] * sizes[1] * sizes[2])
        m0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bm)

        # 2. Where the rows of src and the columns of w that this thread copies begin, in quads.
        src_c, w_c = uint32(src.shape[last] // lanes), uint32(w.shape[last] // lanes)
        depths, heights, widths = volume(src)
        for j in range(a_loads):
            m = uint32(m0 + a_first + j * a_apart)
            n, kd, kh, kw = place_of(m if m < rows else uint32(0), sizes[0], sizes[1], sizes[2])
            d = in_depth(table, g, THIRD, 0) + kd * in_depth(table, g, THIRD_FIXED, 0)
            h = table[g, ROWS + THIRD] + kh * table[g, ROWS + THIRD_FIXED]
            v = table[g, COLUMNS + THIRD] + kw * table[g, COLUMNS + THIRD_FIXED]
            at = ((n * depths + d) * heights + h) * widths + v
            a_at[j] = uint32(at * src_c + c_group * depth // lanes)
        w_first = (table[g, ROWS + SUMMED] * w.shape[spatial] + table[g, COLUMNS + SUMMED]) * w_c
        if spatial == 3:
            w_first += table[g, DEPTH + SUMMED] * w.shape[2] * w.shape[3] * w_c
        w_first += c_group * (columns if forward else depth) * w_oc
        for j in range(b_loads):
            c = uint32(n0 + b_first + j * b_apart)
            c = c if c < columns else uint32(0)
            b_at[j] = uint32(w_first + (c * w_oc if forward else c // lanes))

        # 3. The terms (fd, fh, fw, k) of this thread's copies, and how far a step of each goes in src and in w.
        terms_h, terms_w = uint32(max(table[g, ROWS + TERMS], 1)), uint32(max(table[g, COLUMNS + TERMS], 1))
        terms = int32(table[g, ROWS + TERMS] * table[g, COLUMNS + TERMS] * depth)
        if spatial == 3:
            terms = int32(table[g, DEPTH + TERMS] * terms)
        a_digits, b_digits = digits(a_term, terms_h, terms_w, depth), digits(b_term, terms_h, terms_w, depth)
        in_src = int32(src_d), int32(src_h), int32(src_w), int32(1)
        in_w = int32(w_d), int32(w_h), int32(w_w), int32(w_oc)

        # 4. The sum.
        a_part, b_part = (src, a_at, a_digits, in_src), (w, b_at, b_digits, in_w)
        sum_chunks(acc, mine, a_part, b_part, (terms_h, terms_w, depth), terms)

        # 5. Add the bias.
        for j in range(wide):
            places[j] = uint32(n0 + column + b_row(lane) + b_later(j))
            exist[j] = int32(columns - places[j])
        if biased:
            channels = cuda.local.array(wide, uint32)
            for j in range(wide):
                channels[j] = uint32(c_group * columns + places[j])
            add_bias(acc, bias, channels, exist)

        # 6. Write the results that exist. The table is read again: kept numbers would take registers from the loop.
        sizes = uint32(in_depth(table, g, COUNT, 1)), uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        depths, heights, widths = volume(out)
        m0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bm)
        for i in range(tall):
            n, kd, kh, kw = place_of(uint32(m0 + row + a_row(lane) + a_later(i)), sizes[0], sizes[1], sizes[2])
            d = in_depth(table, g, FIXED, 0) + kd * in_depth(table, g, FIXED_STEP, 0)
            h = table[g, ROWS + FIXED] + kh * table[g, ROWS + FIXED_STEP]
            v = table[g, COLUMNS + FIXED] + kw * table[g, COLUMNS + FIXED_STEP]
            at = (((int64(n) * depths + d) * heights + h) * widths + v) * out.shape[last] + c_group * columns
            begins[i] = at if n < out.shape[0] else int64(-1)
        write(out, acc, begins, places, exist)

    return tensor_gather


@cache
def weight_kernel(axes: Axes, tile: Tile, number: Format, result: Format, vectors: bool) -> Any:
    """Make ``tensor_weight`` for axes, a tile, the formats of arrays and result, and whole stores or single ones."""
    bm, bn, wm, wn = tile
    lanes, bk, tall, high, wide = number.lanes, number.bk, wm // 8, wm // 16, wn // 8
    place, sum_chunks, a_operand, b_operand = frame(axes, number, tile, False, False)
    spatial, in_depth, volume, _, digits, in_order, _ = axes
    a_loads, a_apart, a_row, a_later = a_operand.loads, a_operand.apart, a_operand.row, a_operand.later
    b_loads, b_apart, b_row, b_later = b_operand.loads, b_operand.apart, b_operand.row, b_operand.later
    last, write = spatial + 1, writer(result, tile, 2, vectors)

    @kernel(tile.threads, blocks=tile.resident)
    def tensor_weight(x, dy, out, table, rows, depth, x_n, x_h, x_w, dy_n, dy_h, dy_w, x_d, dy_d):
        """out[part, oc, tap, ic] = sum over the part's (n, output) of dy[n, output, oc] * x[n, input, ic]."""
        acc, begins = cuda.local.array((high, wide, 4), float32), cuda.local.array(tall, int64)
        places, exist = cuda.local.array(wide, uint32), cuda.local.array(wide, int32)
        a_at, b_at = cuda.local.array(a_loads, uint32), cuda.local.array(b_loads, uint32)
        mine = place()
        (row, column, lane), (term, a_first), (_, b_first) = mine  # both operands copy the same term

        # 1. The channel group of this block, its group of the plan, and its tile: rows from m0, columns from n0. The
        #    channels of a group in x and dy (depth, dy_depth) may be more than in out: those beyond are padding.
        #    NVVM 13 cannot write the lines of this kernel if the numbers of taps are variables of their own.
        rows, depth = uint32(rows), uint32(depth)
        c_groups = uint32(uint32(x.shape[last]) // depth)
        dy_depth = uint32(uint32(dy.shape[last]) // c_groups)
        part = uint32(uint32(cuda.blockIdx.z) // c_groups)
        c_group, m0 = int32(cuda.blockIdx.z - part * c_groups), uint32(cuda.blockIdx.y * bm)
        g = group_of_block(table, cuda.blockIdx.x)
        taps = uint32(in_depth(table, g, COUNT, 1)), uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        n0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bn)
        columns = uint32(taps[0] * taps[1] * taps[2] * depth)

        # 2. Where the rows of dy and the columns of x that this thread copies begin, in quads.
        x_c, dy_c = uint32(x.shape[last] // lanes), uint32(dy.shape[last] // lanes)
        dy_first = (table[g, ROWS + SUMMED] * dy.shape[spatial] + table[g, COLUMNS + SUMMED]) * dy_c
        if spatial == 3:
            dy_first += table[g, DEPTH + SUMMED] * dy.shape[2] * dy.shape[3] * dy_c
        for j in range(a_loads):
            m = uint32(m0 + a_first + j * a_apart)
            a_at[j] = uint32(dy_first + (c_group * dy_depth + (m if m < rows else uint32(0))) // lanes)
        _, heights, widths = volume(x)
        for j in range(b_loads):
            c = uint32(n0 + b_first + j * b_apart)
            kd, kh, kw, k = digits(c if c < columns else uint32(0), taps[1], taps[2], depth)
            d = in_depth(table, g, THIRD, 0) + kd * in_depth(table, g, THIRD_FIXED, 0)
            h = table[g, ROWS + THIRD] + kh * table[g, ROWS + THIRD_FIXED]
            v = table[g, COLUMNS + THIRD] + kw * table[g, COLUMNS + THIRD_FIXED]
            b_at[j] = uint32(((d * heights + h) * widths + v) * x_c + (c_group * depth + k) // lanes)

        # 3. The part of the sum that is this block's, and in it the term (n, od, oh, ow) of this thread's copies.
        terms_d = uint32(max(in_depth(table, g, TERMS, 1), 1))
        terms_h, terms_w = uint32(max(table[g, ROWS + TERMS], 1)), uint32(max(table[g, COLUMNS + TERMS], 1))
        terms = x.shape[0] * in_depth(table, g, TERMS, 1)
        terms = int32(terms * table[g, ROWS + TERMS] * table[g, COLUMNS + TERMS])
        parts = uint32(uint32(cuda.gridDim.z) // c_groups)
        most = int32((uint32((terms + bk - 1) // bk) + parts - 1) // parts * bk)  # terms of a part, in whole chunks
        first = int32(part * most)
        left = min(int32(terms - first), most)
        term_digits = digits(uint32(first + term), terms_d, terms_h, terms_w)
        in_dy, in_x = in_order(dy_n, dy_d, dy_h, dy_w), in_order(x_n, x_d, x_h, x_w)

        # 4. The sum.
        a_part, b_part = (dy, a_at, term_digits, in_dy), (x, b_at, term_digits, in_x)
        sum_chunks(acc, mine, a_part, b_part, (terms_d, terms_h, terms_w), left)

        # 5. Write the results that exist, to the array of this part. The table is read again: kept numbers would take
        #    registers from the loop.
        n0 = uint32((cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bn)
        taps = uint32(in_depth(table, g, COUNT, 1)), uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])
        depths, heights, widths = volume(out)
        for j in range(wide):
            kd, kh, kw, k = digits(uint32(n0 + column + b_row(lane) + b_later(j)), taps[1], taps[2], depth)
            exists = kd < taps[0] if spatial == 3 else kh < taps[1]
            fd = in_depth(table, g, FIXED, 0) + kd * in_depth(table, g, FIXED_STEP, 0)
            fh = table[g, ROWS + FIXED] + kh * table[g, ROWS + FIXED_STEP]
            fw = table[g, COLUMNS + FIXED] + kw * table[g, COLUMNS + FIXED_STEP]
            places[j] = uint32(((fd * heights + fh) * widths + fw) * out.shape[last] + k)
            exist[j] = int32(out.shape[last] - k) if exists else int32(0)
        for i in range(tall):
            m = uint32(m0 + row + a_row(lane) + a_later(i))
            oc = int64(cuda.blockIdx.z * rows + m)
            begins[i] = oc * depths * heights * widths * out.shape[last] if m < rows else int64(-1)
        write(out, acc, begins, places, exist)

    return tensor_weight


@cache
def adder(number: Format) -> Any:
    """Make the kernel that adds up the parts of a sum, and then rounds it."""
    narrow = number.narrow

    @cuda.jit
    def add_parts(partial, out):
        """out = first part + second part + ..., always in this order; one thread an element."""
        index = cuda.grid(1)
        if index < out.size:
            acc = load(partial, index)
            for part in range(1, partial.shape[0] // out.shape[0]):
                acc += load(partial, part * out.size + index)
            store(out, index, narrow(acc))

    return add_parts
