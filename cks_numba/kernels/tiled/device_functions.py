"""What the two kernels of the tiled rung share: the tile of a block, who holds and who loads which part of it.

A block of threads makes a tile of BM x BN results, and takes the sum in chunks of BK terms::

    tile[m, n] = sum over k of A[m, k] * B[k, n]

For each chunk its part of A and of B is brought to shared memory by all threads together; then each thread
multiplies TM rows of A with TN columns of B, which it first reads into registers. In shared memory both lie
term by term, so that what a thread reads at once, four rows or four columns, are neighbours.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import uint32

from ...plan_table import FIRST_BLOCK
from ..jit import device
from .sizes import BK, Tile
from .vectors import load, load4, store, store4


# --- whole numbers --------------------------------------------------------------------------------
# Indices have 32 bits and no sign: a GPU divides 64 bits in a subroutine, and takes two registers to hold them.
@device
def digits(k, middle_size, last_size):
    """k as three digits, of which the last two count to their sizes."""
    rest = uint32(uint32(k) // last_size)
    first = uint32(rest // middle_size)
    return first, uint32(rest - uint32(first * middle_size)), uint32(uint32(k) - uint32(rest * last_size))


@cache
def stepper(width: int) -> Any:
    """The way from a term, as three digits, to the term one chunk further on, without a division."""

    @device
    def carry(first, middle, last, middle_size, last_size):
        middle = uint32(middle + uint32(1))
        around = uint32(middle >= middle_size)
        return uint32(first + around), uint32(middle - around * middle_size), uint32(last - last_size)

    @device
    def further(first, middle, last, by, middle_size, last_size):
        """`by` are the digits of BK. Loads of single elements hold too many places for three more registers."""
        if width == 4:
            last = uint32(last + by[2])
            over = uint32(last >= last_size)
            middle = uint32(middle + by[1] + over)
            around = uint32(middle >= middle_size)
            first, middle = uint32(first + by[0] + around), uint32(middle - around * middle_size)
            last = uint32(last - over * last_size)
        else:
            last = uint32(last + uint32(BK))
            while last >= last_size:
                first, middle, last = carry(first, middle, last, middle_size, last_size)
        return first, middle, last

    return further


@device
def group_of_block(table, block):
    """The line of the group that a block belongs to: the last that begins no later."""
    low, high = uint32(0), uint32(table.shape[0] - 2)
    while low < high:
        middle = uint32((low + high + uint32(1)) // uint32(2))
        if table[middle, FIRST_BLOCK] <= block:
            low = middle
        else:
            high = uint32(middle - uint32(1))
    return low


# --- the tile -------------------------------------------------------------------------------------
@cache
def thread_tile(tile: Tile) -> tuple[Any, Any, Any]:
    """Which results are a thread's own, and how it adds a chunk to them: the inner loop of both kernels.

    A thread has runs of four rows and of four columns, so that four neighbours travel in one load. The first run of
    all threads of a unit together is one stretch of it, and the second run, if there is one, the next.
    """
    _, bn, tm, tn = tile
    high, wide = tile.unit
    row_run, column_run = high // tm * 4, wide // tn * 4  # from a thread's first run to its second
    across = bn // tn // 8  # warps along a row of the tile
    down_by, across_by = (4, 8) if tile.whole else (tm, 2 * tn)  # from a warp to the next, in runs

    @device
    def first_of(t):
        """First row and column of thread t. A warp is 4 threads high and 8 wide, so that it reads little."""
        warp, lane = t // 32, t % 32
        return uint32((warp // across * down_by + lane // 8) * 4), uint32((warp % across * across_by + lane % 8) * 4)

    @device
    def multiply_term(acc, a_tile, b_tile, buffer, k, a, b, row, column):
        for i in range(tm):
            a[i] = a_tile[buffer, uint32(k), uint32(row + i // 4 * row_run + i % 4)]
        for j in range(tn):
            b[j] = b_tile[buffer, uint32(k), uint32(column + j // 4 * column_run + j % 4)]
        for i in range(tm):
            for j in range(tn):
                acc[i, j] += a[i] * b[j]

    @device
    def multiply_chunk(acc, a_tile, b_tile, buffer, a, b, row, column):
        """The terms of a chunk, written out: the compiler leaves a loop of so long a body as it is."""
        multiply_term(acc, a_tile, b_tile, buffer, 0, a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, 1, a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, 2, a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, 3, a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, 4, a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, 5, a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, 6, a, b, row, column)
        multiply_term(acc, a_tile, b_tile, buffer, 7, a, b, row, column)

    return first_of, multiply_chunk, (row_run, column_run)


@cache
def loader(width: int, along_terms: bool, size: int, threads: int) -> tuple[int, int, Any, Any, Any]:
    """How the threads of a block load BK terms of `size` rows or columns, `width` elements at once.

    All loads of a thread are of the same term (along_terms: of the same `width` terms), so it keeps count of
    one term only. Returned are the loads of a thread, the way from one to the next in rows or columns, and, as
    device functions, the first term and the first row or column of thread t, the load, and the way into the tile.
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
        """Load into held[j], or zeros where the sum has ended."""
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
    """How a thread writes `width` neighbours of its results; they exist all or none."""

    @device
    def write(out, index, acc, i, j):
        if width == 4:
            store4(out, index // 4, acc[i, j], acc[i, j + 1], acc[i, j + 2], acc[i, j + 3])
        else:
            store(out, index, acc[i, j])

    return write
