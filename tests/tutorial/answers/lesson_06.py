"""Answers to the exercises of 06_making_it_fast."""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from . import right, wrong

# --- 06.1: multiply-adds for each load ---
right(
    "06.1",
    lambda tm, tn: tm * tn / (tm / 4 + tn / 4),
    lambda tm, tn: 4 / (1 / tm + 1 / tn),
    lambda tm, tn: tm * tn // (tm // 4 + tn // 4) if tm == tn else np.float32(4 * tm * tn / (tm + tn)),
)
wrong("06.1", ("For tm=4, tn=4 it should be 8, and yours is 2", "Four numbers travel"), lambda m, n: m * n / (m + n))
wrong("06.1", "Divide by the loads", lambda tm, tn: tm * tn)
wrong("06.1", "Turn it over", lambda tm, tn: (tm + tn) / (4 * tm * tn))
wrong("06.1", "These are the loads", lambda tm, tn: tm / 4 + tn / 4)
wrong("06.1", "The loads are added", lambda tm, tn: tm * tn / (tm / 4 * tn / 4))
wrong("06.1", "more multiply-adds for each", lambda tm, tn: tm * tn / (4 * (tm + tn)))
wrong("06.1", "loads of a alone", lambda tm, tn: tm * tn / (tm / 4))
wrong("06.1", "loads of b alone", lambda tm, tn: tm * tn / (tn / 4))
wrong(
    "06.1",
    "That is twice as many",
    lambda tm, tn: 2 * tm * tn / (tm / 4 + tn / 4),
    lambda tm, tn: tm * tn / ((tm + tn) / 8),
)
wrong("06.1", "That is 16 for every tile", lambda tm, tn: 16, lambda tm, tn: 16.5 - 0.5)
wrong("06.1", "should be a function", 16)
wrong("06.1", "returns None", lambda tm, tn: None)
wrong("06.1", "raised", lambda tm: tm)


# --- 06.2: the time with two buffers ---
@right("06.2")
def step_by_step(chunks, load, multiply):
    time = load
    for _ in range(chunks - 1):
        time += max(load, multiply)
    return time + multiply


right(
    "06.2",
    lambda chunks, load, multiply: load + multiply + (chunks - 1) * max(load, multiply),
    lambda chunks, load, multiply: float(chunks * max(load, multiply) + min(load, multiply)),
)
wrong("06.2", ("For chunks=4, load=3, multiply=4", "take turns"), lambda c, load, mul: c * (load + mul))
wrong("06.2", "nothing can be multiplied", lambda c, load, mul: c * max(load, mul))
wrong("06.2", ("For chunks=4, load=5, multiply=2", "If loading does"), lambda c, load, mul: load + c * mul)
wrong("06.2", "If multiplying does", lambda c, load, mul: c * load + mul)
wrong("06.2", "last multiplication is missing", lambda c, load, mul: load + (c - 1) * max(load, mul))
wrong("06.2", "first load is missing", lambda c, load, mul: (c - 1) * max(load, mul) + mul)
wrong("06.2", "One step too many", lambda c, load, mul: load + c * max(load, mul) + mul)
wrong("06.2", "In yours it is the faster one", lambda c, load, mul: load + (c - 1) * min(load, mul) + mul)
wrong("06.2", "In yours it is the faster one", lambda c, load, mul: c * (load + mul) - (c - 1) * max(load, mul))
wrong("06.2", "it should be 19, and yours is 28", lambda c, load, mul: 28)
wrong("06.2", "does not end", lambda c, load, mul: next(k for k in iter(int, 1) if k))
wrong("06.2", "should return a number", lambda *_: "19", lambda *_: (19,))
wrong("06.2", "should be a function", 19)


# --- 06.3: how many blocks the registers allow ---
@right("06.3")
def by_warps(registers, threads):
    registers = math.ceil(registers / 8) * 8
    return 4 * (16384 // (32 * registers)) // (threads // 32)


@right("06.3")
def by_counting(registers, threads):
    while registers % 8:
        registers += 1
    warps = 0
    while (warps + 1) * 32 * registers <= 16384:
        warps += 1
    return math.floor(4 * warps * 32 / threads)


@right("06.3")
def by_table(registers, threads):
    of_a_warp = (registers + 7) // 8 * 256
    return sum(16384 // of_a_warp for _ in range(4)) * 32 // threads


def rounded(registers):
    return -(-registers // 8) * 8


wrong("06.3", ("registers=38, threads=64", "whole warps"), lambda r, t: 65536 // (r * t))
wrong("06.3", "Round the registers of a thread up", lambda r, t: 4 * (16384 // (32 * r)) // (t // 32))
wrong("06.3", "not of 4", lambda r, t: 4 * (16384 // (32 * (-(-r // 4) * 4))) // (t // 32))
wrong("06.3", "rounded up, not down", lambda r, t: 4 * (16384 // (32 * (r // 8 * 8))) // (t // 32))
wrong("06.3", "from one quarter", lambda r, t: 65536 // (32 * rounded(r)) // (t // 32))
wrong("06.3", "These are warps", lambda r, t: 4 * (16384 // (32 * rounded(r))))
wrong("06.3", "blocks of one quarter", lambda r, t: 16384 // (32 * rounded(r)) // (t // 32))
wrong("06.3", "Round down", lambda r, t: -(-4 * (16384 // (32 * rounded(r))) // (t // 32)))
wrong("06.3", "divide with //", lambda r, t: 4 * (16384 // (32 * rounded(r))) / (t / 32))
wrong("06.3", "These are threads", lambda r, t: 128 * (16384 // (32 * rounded(r))))
wrong("06.3", ("registers=70, threads=128 it should be 7, and yours is 2"), lambda r, t: 2)
wrong("06.3", "raised ZeroDivisionError", lambda r, t: 1 // (r - 128))
wrong("06.3", "should be a function", 2)


# --- 06.4: the kernel ---
@right("06.4")
@cuda.jit
def clamped(a, b, c):
    i, j = cuda.grid(2)
    row, column = 2 * i, 2 * j
    if row >= c.shape[0] or column >= c.shape[1]:
        return
    below, beside = min(row + 1, c.shape[0] - 1), min(column + 1, c.shape[1] - 1)
    c00 = c01 = c10 = c11 = c.dtype.type(0)
    for k in range(a.shape[1]):
        a0, a1, b0, b1 = a[row, k], a[below, k], b[k, column], b[k, beside]
        c00 += a0 * b0
        c01 += a0 * b1
        c10 += a1 * b0
        c11 += a1 * b1
    c[row, column] = c00
    if beside > column:
        c[row, beside] = c01
    if below > row:
        c[below, column] = c10
        if beside > column:
            c[below, beside] = c11


@right("06.4")
@cuda.jit
def with_a_local_array(a, b, c):
    i, j = cuda.grid(2)
    if 2 * i < c.shape[0] and 2 * j < c.shape[1]:
        acc = cuda.local.array((2, 2), np.float32)
        for m in range(2):
            for n in range(2):
                acc[m, n] = 0
        for k in range(a.shape[1]):
            a0, b0 = a[2 * i, k], b[k, 2 * j]
            a1 = a[min(2 * i + 1, a.shape[0] - 1), k]
            b1 = b[k, min(2 * j + 1, b.shape[1] - 1)]
            acc[0, 0] += a0 * b0
            acc[0, 1] += a0 * b1
            acc[1, 0] += a1 * b0
            acc[1, 1] += a1 * b1
        for m in range(min(2, c.shape[0] - 2 * i)):
            for n in range(min(2, c.shape[1] - 2 * j)):
                c[2 * i + m, 2 * j + n] = acc[m, n]


@right("06.4")
@cuda.jit
def with_tests(a, b, c):
    row = 2 * (cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    column = 2 * (cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y)
    rows, columns = c.shape
    zero = c.dtype.type(0)
    if row < rows and column < columns:
        s, t, u, v = zero, zero, zero, zero
        for k in range(b.shape[0]):
            upper, left = a[row, k], b[k, column]
            lower = a[row + 1, k] if row + 1 < rows else zero
            beside = b[k, column + 1] if column + 1 < columns else zero
            s += upper * left
            t += upper * beside
            u += lower * left
            v += lower * beside
        c[row, column] = s
        if column + 1 < columns:
            c[row, column + 1] = t
        if row + 1 < rows:
            c[row + 1, column] = u
        if row + 1 < rows and column + 1 < columns:
            c[row + 1, column + 1] = v


@wrong("06.4", ("use each twice", "you read 128 numbers, and 64 are enough"))
@cuda.jit
def reads_too_often(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1]):
                acc += a[row, k] * b[k, column]
            c[row, column] = acc


@wrong("06.4", ("never written", "12 of 16"))
@cuda.jit
def one_result_a_thread(a, b, c):
    i, j = cuda.grid(2)
    if i < c.shape[0] and j < c.shape[1]:
        acc = c.dtype.type(0)
        for k in range(a.shape[1]):
            acc += a[i, k] * b[k, j]
        c[i, j] = acc


@wrong("06.4", ("float64", "c00 += a[row, k] * b[k, column]"))
@cuda.jit
def in_float64(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            c00 = 0.0
            for k in range(a.shape[1]):
                c00 += a[row, k] * b[k, column]
            c[row, column] = c00


@wrong("06.4", ("out of bounds", "a of 5 x 3, b of 3 x 7"))
@cuda.jit
def even_sizes_only(a, b, c):
    i, j = cuda.grid(2)
    if 2 * i < c.shape[0] and 2 * j < c.shape[1]:
        c00 = c01 = c10 = c11 = c.dtype.type(0)
        for k in range(a.shape[1]):
            a0, a1, b0, b1 = a[2 * i, k], a[2 * i + 1, k], b[k, 2 * j], b[k, 2 * j + 1]
            c00 += a0 * b0
            c01 += a0 * b1
            c10 += a1 * b0
            c11 += a1 * b1
        c[2 * i, 2 * j], c[2 * i, 2 * j + 1] = c00, c01
        c[2 * i + 1, 2 * j], c[2 * i + 1, 2 * j + 1] = c10, c11


@wrong("06.4", "lacks its last term")
@cuda.jit
def one_term_too_few(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1] - 1):
                acc += a[row, k] * b[k, column]
            c[row, column] = acc


@wrong("06.4", "Row 2i + 1 of a thread holds the sums of row 2i")
@cuda.jit
def same_row_twice(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1]):
                acc += a[2 * i, k] * b[k, column]
            c[row, column] = acc


@wrong("06.4", "Column 2j + 1 of a thread holds the sums of column 2j")
@cuda.jit
def same_column_twice(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1]):
                acc += a[row, k] * b[k, 2 * j]
            c[row, column] = acc


@wrong("06.4", "Only one product of each sum is left")
@cuda.jit
def keeps_the_last(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            for k in range(a.shape[1]):
                c[row, column] = a[row, k] * b[k, column]


@wrong("06.4", "what c held before")
@cuda.jit
def adds_to_the_old(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            for k in range(a.shape[1]):
                c[row, column] += a[row, k] * b[k, column]


@wrong("06.4", "never written")
@cuda.jit
def forgets_the_last_row(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0] - 1)):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1]):
                acc += a[row, k] * b[k, column]
            c[row, column] = acc


@wrong("06.4", ("never written", "to the places of others"))
@cuda.jit
def tiles_overlap(a, b, c):
    i, j = cuda.grid(2)
    for row in range(i, min(i + 2, c.shape[0])):
        for column in range(j, min(j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1]):
                acc += a[row, k] * b[k, column]
            c[row, column] = acc


@wrong("06.4", ("yours:", "a[0, 0]*b[0, 0]"))
@cuda.jit
def transposed(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1]):
                acc += a[row, k] * b[column, k]
            c[row, column] = acc


@wrong("06.4", "endless loop")
@cuda.jit
def never_ends(a, b, c):
    i, j = cuda.grid(2)
    if 2 * i < c.shape[0] and 2 * j < c.shape[1]:
        k = 0
        while k < a.shape[1]:
            c[2 * i, 2 * j] += a[2 * i, k] * b[k, 2 * j]


@wrong("06.4", ("does not compile", "A kernel cannot call"))
@cuda.jit
def by_numpy(a, b, c):
    i, j = cuda.grid(2)
    if 2 * i < c.shape[0] and 2 * j < c.shape[1]:
        c[2 * i, 2 * j] = np.dot(a[2 * i], b[:, 2 * j])


wrong("06.4", "keep the line @cuda.jit", lambda a, b, c: None)


wrong("06.2", "how much is left after the last load", lambda chunks, load, mul: load + chunks * max(load, mul))


@wrong("06.4", "never written")
@cuda.jit
def rows_and_columns_of_the_grid_exchanged(a, b, c):
    j, i = cuda.grid(2)
    row, column = 2 * i, 2 * j
    if row >= c.shape[0] or column >= c.shape[1]:
        return
    below, beside = min(row + 1, c.shape[0] - 1), min(column + 1, c.shape[1] - 1)
    c00 = c01 = c10 = c11 = c.dtype.type(0)
    for k in range(a.shape[1]):
        a0, a1, b0, b1 = a[row, k], a[below, k], b[k, column], b[k, beside]
        c00 += a0 * b0
        c01 += a0 * b1
        c10 += a1 * b0
        c11 += a1 * b1
    c[row, column], c[row, beside] = c00, c01
    c[below, column], c[below, beside] = c10, c11


@wrong("06.4", "use each twice")
@cuda.jit
def k(a, b, c):  # also a name of its own loops: the trace must not take one for the other
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1]):
                acc += a[row, k] * b[k, column]
            c[row, column] = acc


@wrong("06.4", ("thread (0, 0) of the grid makes c[0, 2]", "its columns 0 and 1"))
@cuda.jit
def rows_half_a_matrix_apart(a, b, c):
    i, j = cuda.grid(2)
    hr, hc = (c.shape[0] + 1) // 2, (c.shape[1] + 1) // 2
    if i < hr and j < hc:
        r0, c0 = i, j
        r1, c1 = min(i + hr, c.shape[0] - 1), min(j + hc, c.shape[1] - 1)
        s00 = s01 = s10 = s11 = c.dtype.type(0)
        for k in range(a.shape[1]):
            p, q, u, v = a[r0, k], a[r1, k], b[k, c0], b[k, c1]
            s00 += p * u
            s01 += p * v
            s10 += q * u
            s11 += q * v
        c[r0, c0] = s00
        c[r0, c1] = s01
        c[r1, c0] = s10
        c[r1, c1] = s11


@wrong("06.4", "keep the four of them in variables")
@cuda.jit
def adds_up_in_c(a, b, c):
    i, j = cuda.grid(2)
    if 2 * i < c.shape[0] and 2 * j < c.shape[1]:
        r0, c0 = 2 * i, 2 * j
        r1, c1 = min(r0 + 1, c.shape[0] - 1), min(c0 + 1, c.shape[1] - 1)
        c[r0, c0] = c[r0, c1] = c[r1, c0] = c[r1, c1] = 0
        for k in range(a.shape[1]):
            p, q, u, v = a[r0, k], a[r1, k], b[k, c0], b[k, c1]
            c[r0, c0] += p * u
            if c1 != c0:
                c[r0, c1] += p * v
            if r1 != r0:
                c[r1, c0] += q * u
                if c1 != c0:
                    c[r1, c1] += q * v


@wrong("06.4", "of 16 threads 4 have no tile")
@cuda.jit
def every_thread_works(a, b, c):
    i, j = cuda.grid(2)
    r0, c0 = min(2 * i, c.shape[0] - 1), min(2 * j, c.shape[1] - 1)
    r1, c1 = min(2 * i + 1, c.shape[0] - 1), min(2 * j + 1, c.shape[1] - 1)
    s00 = s01 = s10 = s11 = c.dtype.type(0)
    for k in range(b.shape[0]):
        p, q, u, v = a[r0, k], a[r1, k], b[k, c0], b[k, c1]
        s00 += p * u
        s01 += p * v
        s10 += q * u
        s11 += q * v
    c[r0, c0] = s00
    c[r0, c1] = s01
    c[r1, c0] = s10
    c[r1, c1] = s11


@wrong("06.4", "is this the index that you mean?")
@cuda.jit
def terms_by_the_columns_of_b(a, b, c):
    i, j = cuda.grid(2)
    r, q = 2 * i, 2 * j
    if r < c.shape[0] and q < c.shape[1]:
        r1, q1 = min(r + 1, c.shape[0] - 1), min(q + 1, c.shape[1] - 1)
        c00 = c01 = c10 = c11 = c.dtype.type(0)
        for k in range(b.shape[1]):
            a0, a1, b0, b1 = a[r, k], a[r1, k], b[k, q], b[k, q1]
            c00 += a0 * b0
            c01 += a0 * b1
            c10 += a1 * b0
            c11 += a1 * b1
        c[r, q] = c00
        c[r, q1] = c01
        c[r1, q] = c10
        c[r1, q1] = c11


@wrong("06.4", "An atomic addition adds to what c held before")
@cuda.jit
def atomic_sums(a, b, c):
    i, j = cuda.grid(2)
    for r in range(2 * i, min(2 * i + 2, c.shape[0])):
        for q in range(2 * j, min(2 * j + 2, c.shape[1])):
            for k in range(a.shape[1]):
                cuda.atomic.add(c, (r, q), a[r, k] * b[k, q])
