"""The device functions of the two kernels: which results each thread makes, and which elements it loads.

A block of threads makes a tile of BM x BN results, and takes the sum in chunks of BK terms::

    tile[m, n] = sum over k of A[m, k] * B[k, n]

For each chunk its part of A and of B is brought to shared memory by all threads together; then each thread
multiplies TM rows of A with TN columns of B, which it first reads into registers. In shared memory both lie
term by term, so that what a thread reads at once, four rows or four columns, are neighbours.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import int32, uint32

from ..jit import device
from .sizes import BK, Tile
from .vectors import load, load4, store, store4


# --- whole numbers --------------------------------------------------------------------------------
# Indices are unsigned and have 32 bits: a GPU has no instruction that divides 64 bits, and they take two registers.
@cache
def stepper(axes: int, width: int, twice: bool = False) -> Any:
    """Make the function that finds the term one chunk further on, as four digits, without a division.

    Over two axes the first digit stays 0. Over three, `twice` says that the last digit counts four or more of each
    number before it: a chunk goes past its end twice at most.
    """

    @device
    def carry(first, middle, last, middle_size, last_size):
        middle = uint32(middle + uint32(1))
        around = uint32(middle >= middle_size)
        return uint32(first + around), uint32(middle - around * middle_size), uint32(last - last_size)

    @device
    def further(outer, first, middle, last, by, sizes):
        """Add `by`, the digits of BK. Kernels with loads of single elements have no registers for it, and count up."""
        _, middle_size, last_size = sizes
        if width == 4:
            last = uint32(last + by[3])
            over = uint32(last >= last_size)
            middle = uint32(middle + by[2] + over)
            around = uint32(middle >= middle_size)
            first, middle = uint32(first + by[1] + around), uint32(middle - around * middle_size)
            last = uint32(last - over * last_size)
        else:
            last = uint32(last + uint32(BK))
            while last >= last_size:
                first, middle, last = carry(first, middle, last, middle_size, last_size)
        return outer, first, middle, last

    return further if axes == 2 else _stepper_of_four(width, twice, further)


def _stepper_of_four(width: int, twice: bool, further_by_three: Any) -> Any:
    """Make the same function for a first digit that counts too, from that for the last three."""

    @device
    def carried(digit, next_digit, size):
        """Carry from the next digit, which is less than twice its size, to this one."""
        over = uint32(next_digit >= size)
        return uint32(digit + over), uint32(next_digit - over * size)

    @device
    def carry(outer, first, middle, last, sizes):
        middle, last = carried(middle, last, sizes[2])
        first, middle = carried(first, middle, sizes[1])
        outer, first = carried(outer, first, sizes[0])
        return outer, first, middle, last

    @device
    def further(outer, first, middle, last, by, sizes):
        """Each kernel goes on in the way for which its largest tile has enough registers."""
        if width == 4 and not twice:
            outer, first, middle, last = further_by_three(outer, first, middle, last, by, sizes)
            outer, first = carried(uint32(outer + by[0]), first, sizes[0])
            return outer, first, middle, last
        last = uint32(last + uint32(BK))
        if width == 4:
            outer, first, middle, last = carry(outer, first, middle, last, sizes)
            return carry(outer, first, middle, last, sizes)
        while last >= sizes[2]:
            outer, first, middle, last = carry(outer, first, middle, last, sizes)
        return outer, first, middle, last

    return further


@cache
def offset_of(axes: int, width: int, along_terms: bool) -> Any:
    """Make the function that says how far a term lies from the first one in memory, in runs of `width` elements."""

    @device
    def offset(outer, first, middle, last, steps):
        """Along terms, the last digit counts neighbours in memory."""
        far = int32(first * steps[1]) + int32(middle * steps[2])
        if axes == 3:
            far += int32(outer * steps[0])
        return far + int32(last // width if along_terms else last * steps[3])

    return offset


# --- the tile -------------------------------------------------------------------------------------
@cache
def thread_tile(tile: Tile) -> tuple[Any, Any, Any]:
    """Make the functions that find a thread's first results and add a chunk to them, the inner loop of both kernels.

    A thread has runs of four rows and of four columns, so that one load brings four neighbours. The first runs of all
    threads of a unit lie side by side, and their second runs follow. The last value returned says how far, in rows and
    in columns, a thread's second run is from its first.
    """
    _, bn, tm, tn = tile
    high, wide = tile.unit
    row_run, column_run = high // tm * 4, wide // tn * 4  # rows and columns from a first run to a second
    across = bn // tn // 8  # warps along a row of the tile
    down_by, across_by = (4, 8) if tile.whole else (tm, 2 * tn)  # runs from a warp to the next

    @device
    def first_of(t):
        """First row and column of thread t. A warp is 4 threads high and 8 wide, so that it reads little."""
        warp, lane = t // 32, t % 32
        return uint32((warp // across * down_by + lane // 8) * 4), uint32((warp % across * across_by + lane % 8) * 4)

    @device
    def multiply_term(acc, a_tile, b_tile, buffer, k, a, b, row, column):
        for i in range(tm):
            a[i] = a_tile[buffer, k, uint32(row + i // 4 * row_run + i % 4)]
        for j in range(tn):
            b[j] = b_tile[buffer, k, uint32(column + j // 4 * column_run + j % 4)]
        for i in range(tm):
            for j in range(tn):
                acc[i, j] += a[i] * b[j]

    @device
    def multiply_chunk(acc, a_tile, b_tile, buffer, a, b, row, column):
        """Add the terms of a chunk. They are written out: the compiler does not unroll a loop with so long a body."""
        # Numba gives each literal a type of its own: with 0, 1, ... it would compile multiply_term eight times.
        multiply_term(acc, a_tile, b_tile, buffer, uint32(0), a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, uint32(1), a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, uint32(2), a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, uint32(3), a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, uint32(4), a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, uint32(5), a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, uint32(6), a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, uint32(7), a, b, row, column)

    return first_of, multiply_chunk, (row_run, column_run)


@cache
def loader(width: int, along_terms: bool, size: int, threads: int) -> tuple[int, int, Any, Any, Any]:
    """Make the functions with which a block loads BK terms of `size` rows or columns, `width` elements at once.

    All loads of a thread are of the same term (along_terms: of the same `width` terms), so it keeps count of
    one term only. Returned are the number of loads of a thread, the rows or columns from one to the next, and three
    functions: `first_of` finds the first term and the first row or column of thread t, `fetch` loads to registers, and
    `put` stores in shared memory.
    """
    together = BK // width if along_terms else threads // BK  # threads on the same row, or on the same term
    loads = size * BK // width // threads
    apart = threads // together if along_terms else together * width

    @device
    def first_of(t):
        if along_terms:
            return uint32(t % together * width), uint32(t // together)
        return uint32(t // together), uint32(t % together * width)

    @device
    def fetch(held, j, array, index, wanted, zero):
        """Load into held[j], or put zeros there past the end of the sum."""
        if width == 4:
            if wanted:
                held[j, 0], held[j, 1], held[j, 2], held[j, 3] = load4(array, index)
            else:
                held[j, 0], held[j, 1], held[j, 2], held[j, 3] = zero, zero, zero, zero
        else:
            held[j, 0] = load(array, index) if wanted else zero

    @device
    def put(shared, buffer, held, term, place):
        for j in range(loads):
            for i in range(width):
                if along_terms:
                    shared[buffer, uint32(term + i), uint32(place + j * apart)] = held[j, i]
                else:
                    shared[buffer, term, uint32(place + j * apart + i)] = held[j, i]

    return loads, apart, first_of, fetch, put


@cache
def writer(width: int) -> Any:
    """Make the function that writes `width` neighbouring results of a thread, which all exist."""

    @device
    def write(out, index, acc, i, j):
        if width == 4:
            store4(out, index // 4, acc[i, j], acc[i, j + 1], acc[i, j + 2], acc[i, j + 3])
        else:
            store(out, index, acc[i, j])

    return write
