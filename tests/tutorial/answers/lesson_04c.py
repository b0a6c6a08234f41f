"""Answers to the exercise of 04c_groups."""

from __future__ import annotations

from numba import cuda

from cks_numba.kernels.jit import taps_of_output

from . import right, wrong


@right("04c.1")
@cuda.jit
def in_steps_of_the_block(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@right("04c.1")
@cuda.jit
def with_names_for_the_columns(x, w, y, padding, table):
    first, count = table[cuda.blockIdx.x, 0], table[cuda.blockIdx.x, 1]
    lo, hi = table[cuda.blockIdx.x, 2], table[cuda.blockIdx.x, 3]
    o = first + cuda.threadIdx.x
    while o < first + count:
        y[o] = 0
        for f in range(lo, hi):
            y[o] += w[f] * x[o + f - padding]
        o += cuda.blockDim.x


@right("04c.1")
@cuda.jit
def by_pieces(x, w, y, padding, table):
    row = table[cuda.blockIdx.x]
    for piece in range(0, row[1], 8):
        k = piece + cuda.threadIdx.x
        if k < row[1]:
            acc = y.dtype.type(0)
            for i in range(row[0] + k - padding + row[2], row[0] + k - padding + row[3]):
                acc += x[i] * w[i - (row[0] + k - padding)]
            y[row[0] + k] = acc


@wrong("04c.1", ("The taps of a group stand in the table", "one tap less"))
@cuda.jit
def finds_the_taps_itself(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        o = table[b, 0] + k
        lo, hi = taps_of_output(o, x.size, w.size, 1, padding, 1)
        acc = y.dtype.type(0)
        for f in range(lo, hi):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", ("2 of 14 results were never written, such as y[10]",))
@cuda.jit
def one_output_a_thread(x, w, y, padding, table):
    b = cuda.blockIdx.x
    if cuda.threadIdx.x < table[b, 1]:
        o = table[b, 0] + cuda.threadIdx.x
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", ("out of bounds", "no index of this kernel needs a test", "acc += x[o - padding + f] * w[f]"))
@cuda.jit
def all_taps(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(w.size):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", "lacks its last tap")
@cuda.jit
def one_tap_too_few(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3] - 1):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", ("race",))
@cuda.jit
def every_block_begins_at_0(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[k + f] * w[f]
        y[k] = acc


@wrong("04c.1", ("race",))
@cuda.jit
def all_threads_make_all(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for o in range(table[b, 0], table[b, 0] + table[b, 1]):
        y[o] = 0
        for f in range(table[b, 2], table[b, 3]):
            y[o] += x[o - padding + f] * w[f]


@wrong("04c.1", ("out of bounds",))
@cuda.jit
def no_padding(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o + f] * w[f]
        y[o] = acc


@wrong("04c.1", ("out of bounds", "table"))
@cuda.jit
def a_row_for_each_thread(x, w, y, padding, table):
    b = cuda.grid(1)
    for k in range(table[b, 1]):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", "Only one product of each sum is left")
@cuda.jit
def keeps_the_last(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc = x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", ("float64", "dtype.type(0)"))
@cuda.jit
def in_float64(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        o = table[b, 0] + k
        acc = 0.0
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", "adds to what y held before")
@cuda.jit
def adds_to_y(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, table[b, 1], cuda.blockDim.x):
        o = table[b, 0] + k
        for f in range(table[b, 2], table[b, 3]):
            y[o] += x[o - padding + f] * w[f]


wrong("04c.1", "keep the line @cuda.jit", lambda x, w, y, padding, table: None)


@wrong("04c.1", ("one thread of block 1 does 18 products", "none needs more than 3"))
@cuda.jit
def everybody_does_the_whole_group(x, w, y, padding, table):
    b = cuda.blockIdx.x
    for o in range(table[b, 0], table[b, 0] + table[b, 1]):
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", ("one thread of block 1 does 18 products", "none needs more than 3"))
@cuda.jit
def one_thread_does_the_whole_group(x, w, y, padding, table):
    b = cuda.blockIdx.x
    if cuda.threadIdx.x == 0:
        for o in range(table[b, 0], table[b, 0] + table[b, 1]):
            acc = y.dtype.type(0)
            for f in range(table[b, 2], table[b, 3]):
                acc += x[o - padding + f] * w[f]
            y[o] = acc


@wrong("04c.1", "no index of this kernel needs a test")
@cuda.jit
def first_output_forgotten(x, w, y, padding, table):
    b, t = cuda.blockIdx.x, cuda.threadIdx.x
    for o in range(t, table[b, 1], 8):
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", "no index of this kernel needs a test")
@cuda.jit
def padding_left_out(x, w, y, padding, table):
    b, t = cuda.blockIdx.x, cuda.threadIdx.x
    for k in range(t, table[b, 1], 8):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o + f] * w[f]
        y[o] = acc


@wrong("04c.1", "no index of this kernel needs a test")
@cuda.jit
def the_one_past_the_last_too(x, w, y, padding, table):
    b, t = cuda.blockIdx.x, cuda.threadIdx.x
    for k in range(t, table[b, 1], 8):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3] + 1):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", "no index of this kernel needs a test")
@cuda.jit
def taps_from_zero_on(x, w, y, padding, table):
    b, t = cuda.blockIdx.x, cuda.threadIdx.x
    for k in range(t, table[b, 1], 8):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 3] - table[b, 2]):
            acc += x[o - padding + f] * w[f]
        y[o] = acc


@wrong("04c.1", "no index of this kernel needs a test")
@cuda.jit
def padding_of_the_picture(x, w, y, padding, table):
    b, t = cuda.blockIdx.x, cuda.threadIdx.x
    for k in range(t, table[b, 1], 8):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o - 2 + f] * w[f]
        y[o] = acc


@wrong("04c.1", "block b = cuda.blockIdx.x has table[b, 1] outputs")
@cuda.jit
def the_next_row_of_the_table(x, w, y, padding, table):
    b, t = cuda.blockIdx.x + 1, cuda.threadIdx.x
    for k in range(t, table[b, 1], 8):
        o = table[b, 0] + k
        acc = y.dtype.type(0)
        for f in range(table[b, 2], table[b, 3]):
            acc += x[o - padding + f] * w[f]
        y[o] = acc
