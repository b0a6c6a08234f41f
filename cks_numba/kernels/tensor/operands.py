"""How A and B come to shared memory, and from there to the registers in which a tensor core takes them.

Memory is counted in *quads* of 16 bytes: 4 elements (tf32) or 8 (16 bits). One copy of a thread brings a quad, and a
row of a matrix of ``ldmatrix`` is one. A chunk is four quads of terms, and an ``mma`` multiplies two of them: a step.

An ``mma`` takes 16 rows of A and 8 columns of B. Both are cut into *octets*: eight rows, or eight columns. With
g = lane // 4 and q = lane % 4, a thread holds row (column) g of each octet, and of that the q-th word of each quad of
terms. Of the results it holds the rows g of both octets, and the columns 2q and 2q + 1.

In shared memory an operand lies as in global memory:

``along_terms``  neighbours are terms: [row][4 quads]. ``ldmatrix`` hands out the words just as they are needed.
``along_rows``   neighbours are rows (of B: columns): [term][quads of rows]. In 16 bits ``ldmatrix.trans`` turns each
                 matrix around. In tf32 nothing does, so every thread loads its words one by one.

A and B need not number the terms in the same way as memory does. They only have to agree: a product belongs to the sum
whatever its place. Nor need the rows of an octet be neighbours, if the results are written to the rows they belong to.

The places of the quads are *swizzled*: changed by an exclusive or with some bits of the row (the term). Without it the
eight lanes that a matrix is read for would want the same banks.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import uint32

from ..jit import device
from . import ptx
from .sizes import QUADS, ROW_BYTES, Format


class Operand(NamedTuple):
    """How the threads of a block bring an operand to the registers, chunk by chunk.

    Attributes
    ----------
    loads, apart : int
        Copies of a thread in a chunk, and rows from one to the next.
    first : device function
        The term and the row that thread t copies first.
    place, further : device functions
        Where a stage takes a term and a row, in bytes from its begin; and from there, where the j-th copy goes.
    where : device function
        Where a lane reads first, for the rows of its warp, in bytes from the begin of a stage.
    read : device function
        Read the whole chunk: held[i, k] is register k, of the i-th two octets (of A) or of the i-th octet (of B).
        Those of the second step come after those of the first.
    row, later : device functions
        The row of the first octet that a lane has results of (of B the first of its two columns, which are
        neighbours); and how many rows further that of the i-th octet is.
    """

    loads: int
    apart: int
    first: Any
    place: Any
    further: Any
    where: Any
    read: Any
    row: Any
    later: Any


@cache
def matrix_of_lane(is_a: bool) -> Any:
    """Make the function that says which row of which matrix a lane gives the address of, when four are loaded.

    Of A they are two octets by two quads, of B four quads of one octet.
    """

    @device
    def matrix(lane):
        """Row of the matrix, its octet, and its quad."""
        m = uint32(lane // 8)
        if is_a:
            return uint32(lane % 8), uint32(m % 2), uint32(m // 2)
        return uint32(lane % 8), uint32(0), m

    return matrix


@cache
def rounding(number: Format) -> tuple[Any, Any]:
    """Make the function that rounds a word to tf32, whose last bits the tensor core would otherwise cut off.

    And the one that puts four words, each rounded, into held[i, k] and those that follow.
    """
    rounds = number.name == "tf32"

    @device
    def fit(word):
        return ptx.round_tf32(word) if rounds else word

    @device
    def put(held, i, k, words):
        one, two, three, four = words
        held[i, k], held[i, k + 1], held[i, k + 2], held[i, k + 3] = fit(one), fit(two), fit(three), fit(four)

    return fit, put


@cache
def along_terms(number: Format, size: int, threads: int, mine: int, is_a: bool) -> Operand:
    """Make an operand whose neighbours in memory are terms: `size` rows of a block, `mine` of them of a warp.

    The rows 0 1 8 9 16 17 24 25 are an octet, and so are those 2, 4 and 6 further on. The two columns of each of four
    octets that a thread has results of are then eight neighbours: 8q to 8q + 7.
    """
    lanes, octets = number.lanes, mine // 8
    matrix, put = matrix_of_lane(is_a), rounding(number)[1]

    @device
    def first(t):
        return uint32(t % QUADS * lanes), uint32(t // QUADS)

    @device
    def place(term, row):
        return uint32(row * ROW_BYTES + (term // lanes ^ row // 8 % 4) * 16)

    @device
    def further(to, j):
        return uint32(to + j * (threads * 16))

    @device
    def where(lane, begin):
        r, octet, quad = matrix(lane)
        return place(uint32(quad * lanes), uint32(begin + r // 2 * 8 + octet * 2 + r % 2))

    @device
    def read_a(held, stage, at):
        for i in range(octets // 2):
            for k in range(0, 8, 4):
                words = ptx.load_matrices(uint32(stage + (at ^ k * 8) + (i // 2 * 32 + i % 2 * 4) * ROW_BYTES))
                put(held, i, k, words)

    @device
    def read_b(held, stage, at):
        for i in range(octets):
            words = ptx.load_matrices(uint32(stage + at + (i // 4 * 32 + i % 4 * 2) * ROW_BYTES))
            put(held, i, 0, words)

    @device
    def row(lane):
        own = uint32(lane // 4 if is_a else lane % 4 * 2)
        return uint32(own // 2 * 8 + own % 2)

    @device
    def later(i):
        return i // 4 * 32 + i % 4 * 2

    read = read_a if is_a else read_b
    return Operand(size * QUADS // threads, threads // QUADS, first, place, further, where, read, row, later)


@cache
def along_rows(number: Format, size: int, threads: int, mine: int, is_a: bool) -> Operand:
    """Make an operand whose neighbours in memory are rows: `size` rows of a block, `mine` of them of a warp."""
    lanes, line = number.lanes, size // number.lanes * 16  # bytes of a term
    together = threads // number.bk  # threads on the same term
    where, read, row, later, swizzle = (turned if lanes == 8 else word_by_word)(number, size, mine, is_a)

    @device
    def first(t):
        return uint32(t // together), uint32(t % together * lanes)

    @device
    def place(term, row):
        return uint32(term * line + (row // lanes ^ swizzle(term)) * 16)

    @device
    def further(to, j):
        return uint32(to ^ (j * together * 16))

    return Operand(size * QUADS // threads, together * lanes, first, place, further, where, read, row, later)


@cache
def turned(number: Format, size: int, mine: int, is_a: bool) -> tuple[Any, Any, Any, Any, Any]:
    """Make what reads an operand along rows in 16 bits: the rows of a matrix are terms, and it is turned around."""
    octets, line = mine // 8, size * 2
    matrix, put = matrix_of_lane(is_a), rounding(number)[1]

    @device
    def swizzle(term):
        return uint32(term % 2 * 4 + term // 2 % 4)

    @device
    def where(lane, begin):
        r, octet, quad = matrix(lane)
        return uint32((quad * 8 + r) * line + (begin // 8 + octet ^ swizzle(r)) * 16)

    @device
    def read_a(held, stage, at):
        for i in range(octets // 2):
            for k in range(0, 8, 4):
                put(held, i, k, ptx.load_transposed(uint32(stage + (at ^ i * 32) + k * 4 * line)))

    @device
    def read_b(held, stage, at):
        for i in range(octets):
            put(held, i, 0, ptx.load_transposed(uint32(stage + (at ^ i * 16))))

    @device
    def row(lane):
        return uint32(lane // 4 if is_a else lane % 4 * 2)

    @device
    def later(i):
        return i * 8

    return where, read_a if is_a else read_b, row, later, swizzle


@cache
def word_by_word(number: Format, size: int, mine: int, is_a: bool) -> tuple[Any, Any, Any, Any, Any]:
    """Make what reads an operand along rows in tf32: thread (g, q) reads the terms q, q + 4, q + 8 and q + 12.

    Of A the rows 2g and 2g + 1 are of one octet each, so one load brings both.
    """
    octets, line, fit = mine // 8, size * 4, rounding(number)[0]

    @device
    def swizzle(term):
        return uint32(term % 4 * 2)

    @device
    def where_a(lane, begin):
        g, q = uint32(lane // 4), uint32(lane % 4)
        return uint32(q * line + begin * 4 + (g // 2 ^ swizzle(q)) * 16 + g % 2 * 8)

    @device
    def where_b(lane, begin):
        g, q = uint32(lane // 4), uint32(lane % 4)
        return uint32(q * line + begin * 4 + (g // 4 ^ swizzle(q)) * 16 + g % 4 * 4)

    @device
    def read_a(held, stage, at):
        for i in range(octets // 2):
            for k in range(4):
                one, other = ptx.load_pair(uint32(stage + (at ^ i % 2 * 64) + i // 2 * 128 + k * 4 * line))
                held[i, 2 * k], held[i, 2 * k + 1] = fit(one), fit(other)

    @device
    def read_b(held, stage, at):
        for i in range(octets):
            for k in range(4):
                held[i, k] = fit(ptx.load_word(uint32(stage + (at ^ i % 4 * 32) + i // 4 * 128 + k * 4 * line)))

    @device
    def row(lane):
        return uint32(lane // 4 * 2 if is_a else lane % 4 * 2)

    @device
    def later(i):
        return i // 2 * 16 + i % 2 if is_a else i * 8

    return where_a if is_a else where_b, read_a if is_a else read_b, row, later, swizzle
