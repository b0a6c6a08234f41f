"""Answers to the exercises of 04b_shared_memory."""

from __future__ import annotations

import numpy as np
from numba import cuda

from . import right, wrong

TILE = 4


# --- 04b.1: a copy in shared memory, and the barrier ---
@right("04b.1")
@cuda.jit
def leave_wait_take(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[(t + 1) % 64]


@right("04b.1")
@cuda.jit
def leave_it_one_place_before(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t - 1 if t > 0 else cuda.blockDim.x - 1] = x[i]
    cuda.syncthreads()
    out[i] = s[t]


@right("04b.1")
@cuda.jit
def with_a_guard_around_both(x, out):
    s = cuda.shared.array(shape=(64,), dtype=np.float32)
    first = cuda.blockIdx.x * 64
    t = cuda.threadIdx.x
    if first + t < x.size:
        s[t] = x[first + t]
    cuda.syncthreads()
    if first + t < x.size:
        if t == 63:
            out[first + t] = s[0]
        else:
            out[first + t] = s[t + 1]


@wrong("04b.1", ("race", "cuda.syncthreads() between the two lines", "out[i] = s[(t + 1) % 64]"))
@cuda.jit
def no_barrier(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    out[i] = s[(t + 1) % 64]


@wrong("04b.1", "nothing goes through shared memory")
@cuda.jit
def without_shared_memory(x, out):
    t, i = cuda.threadIdx.x, cuda.grid(1)
    out[i] = x[i - t + (t + 1) % 64]


@wrong("04b.1", ("out of bounds", "element 64 of the shared array"))
@cuda.jit
def one_past_the_end(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[t + 1]


@wrong("04b.1", "in their old order")
@cuda.jit
def takes_its_own(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[t]


@wrong("04b.1", "Every block has the numbers of block 0")
@cuda.jit
def all_bring_the_first_block(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[t]
    cuda.syncthreads()
    out[i] = s[(t + 1) % 64]


@wrong("04b.1", "The last thread of a block takes the first number of its own block")
@cuda.jit
def goes_around_the_whole_array(x, out):
    i = cuda.grid(1)
    out[i] = x[(i + 1) % x.size]


@wrong("04b.1", "the thread before")
@cuda.jit
def takes_from_the_left(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[(t + 63) % 64]


@wrong("04b.1", "turned around, as in the kernel above")
@cuda.jit
def as_in_the_example(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[63 - t]


@wrong("04b.1", "All elements are the same one")
@cuda.jit
def takes_the_first(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[0]


@wrong("04b.1", ("uninitialised", "nobody has written"))
@cuda.jit
def brings_half(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if t < 32:
        s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[(t + 1) % 64]


@wrong("04b.1", ("never reach a barrier", "they have returned"))
@cuda.jit
def the_last_leaves(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    if t == 63:
        out[i] = x[i - 63]
        return
    cuda.syncthreads()
    out[i] = s[t + 1]


@wrong("04b.1", ("race", "cuda.syncthreads()"))
@cuda.jit
def barrier_too_early(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    cuda.syncthreads()
    s[t] = x[i]
    out[i] = s[(t + 1) % 64]


@wrong("04b.1", ("out of bounds", "element 64 of the shared array"))
@cuda.jit
def number_of_the_grid_as_index(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[i] = x[i]
    cuda.syncthreads()
    out[i] = s[(t + 1) % 64]


# --- 04b.2: spare threads come to the barrier, too ---
@right("04b.2")
@cuda.jit
def guard_twice(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
    cuda.syncthreads()
    if i < x.size:
        acc = out.dtype.type(0)
        for k in range(min(64, x.size - cuda.blockIdx.x * 64)):
            acc += s[k]
        out[i] = acc


@right("04b.2")
@cuda.jit
def spare_threads_bring_a_zero(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i] if i < x.size else x.dtype.type(0)
    cuda.syncthreads()
    if i >= x.size:
        return
    acc = x.dtype.type(0)
    for k in range(64):
        acc += s[k]
    out[i] = acc


@right("04b.2")
@cuda.jit
def one_thread_adds_for_all(x, out):
    s = cuda.shared.array(64, np.float32)
    total = cuda.shared.array(1, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
    cuda.syncthreads()
    if t == 0:
        total[0] = 0
        for k in range(min(64, x.size - i)):
            total[0] += s[k]
    cuda.syncthreads()
    if i < x.size:
        out[i] = total[0]


@wrong("04b.2", ("never reach a barrier", "return after the barrier"))
@cuda.jit
def leaves_before_the_barrier(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i >= x.size:
        return
    s[t] = x[i]
    cuda.syncthreads()
    acc = out.dtype.type(0)
    for k in range(min(64, x.size - cuda.blockIdx.x * 64)):
        acc += s[k]
    out[i] = acc


@wrong("04b.2", ("race", "cuda.syncthreads()"))
@cuda.jit
def nobody_waits(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
        acc = out.dtype.type(0)
        for k in range(min(64, x.size - cuda.blockIdx.x * 64)):
            acc += s[k]
        out[i] = acc


@wrong("04b.2", ("out of bounds", "has none and needs an if around this line"))
@cuda.jit
def no_guard_at_the_start(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    if i < x.size:
        acc = out.dtype.type(0)
        for k in range(min(64, x.size - cuda.blockIdx.x * 64)):
            acc += s[k]
        out[i] = acc


@wrong("04b.2", ("out of bounds: writes", "has none and needs an if around this line"))
@cuda.jit
def no_guard_at_the_end(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
    cuda.syncthreads()
    acc = out.dtype.type(0)
    for k in range(min(64, x.size - cuda.blockIdx.x * 64)):
        acc += s[k]
    out[i] = acc


@wrong("04b.2", ("uninitialised", "nobody has written", "100 elements"))
@cuda.jit
def always_all_64(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
    cuda.syncthreads()
    if i < x.size:
        acc = out.dtype.type(0)
        for k in range(64):
            acc += s[k]
        out[i] = acc


@wrong("04b.2", ("reads 4096 numbers", "64 are enough"))
@cuda.jit
def all_from_global_memory(x, out):
    i = cuda.grid(1)
    if i < x.size:
        first = cuda.blockIdx.x * 64
        acc = out.dtype.type(0)
        for k in range(first, min(first + 64, x.size)):
            acc += x[k]
        out[i] = acc


@wrong("04b.2", "ends at the thread itself")
@cuda.jit
def only_up_to_itself(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
    cuda.syncthreads()
    if i < x.size:
        acc = out.dtype.type(0)
        for k in range(t + 1):
            acc += s[k]
        out[i] = acc


@wrong("04b.2", "lacks the last number of the block")
@cuda.jit
def one_too_few(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
    cuda.syncthreads()
    if i < x.size:
        acc = out.dtype.type(0)
        for k in range(min(64, x.size - cuda.blockIdx.x * 64) - 1):
            acc += s[k]
        out[i] = acc


@wrong("04b.2", "sums of the whole array")
@cuda.jit
def the_whole_array(x, out):
    i = cuda.grid(1)
    if i < x.size:
        acc = out.dtype.type(0)
        for k in range(x.size):
            acc += x[k]
        out[i] = acc


@wrong("04b.2", ("float64", "dtype.type(0)"))
@cuda.jit
def sum_in_float64(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
    cuda.syncthreads()
    if i < x.size:
        acc = 0.0
        for k in range(min(64, x.size - cuda.blockIdx.x * 64)):
            acc += s[k]
        out[i] = acc


@wrong("04b.2", ("threads", "never"))
@cuda.jit
def barrier_inside_the_if(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if i < x.size:
        s[t] = x[i]
        cuda.syncthreads()
        acc = out.dtype.type(0)
        for k in range(min(64, x.size - cuda.blockIdx.x * 64)):
            acc += s[k]
        out[i] = acc


# --- 04b.3: a dot product ---
@right("04b.3")
@cuda.jit
def thread_0_adds(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for k in range(8):
            total += s[k]
        y[0] = total


@right("04b.3")
@cuda.jit
def halves_until_one_is_left(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    s[t] = 0
    for k in range(t, a.size, cuda.blockDim.x):
        s[t] += a[k] * b[k]
    half = 4
    while half > 0:
        cuda.syncthreads()
        if t < half:
            s[t] += s[t + half]
        half //= 2
    if t == 0:
        y[0] = s[0]


@right("04b.3")
@cuda.jit
def pieces_in_a_row(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    share = (a.size + 7) // 8
    acc = y.dtype.type(0)
    for k in range(t * share, min(a.size, (t + 1) * share)):
        acc += b[k] * a[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 7:
        y[0] = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7]


@wrong("04b.3", ("race", "cuda.syncthreads()"))
@cuda.jit
def adds_at_once(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    if t == 0:
        total = y.dtype.type(0)
        for k in range(8):
            total += s[k]
        y[0] = total


@wrong("04b.3", ("race", "y[0] += acc"))
@cuda.jit
def all_add_to_y(a, b, y):
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    y[0] += acc


@wrong("04b.3", ("one thread does 8 products", "none needs more than 1"))
@cuda.jit
def one_does_it_all(a, b, y):
    if cuda.threadIdx.x == 0:
        acc = y.dtype.type(0)
        for k in range(a.size):
            acc += a[k] * b[k]
        y[0] = acc


@wrong("04b.3", "Only the first product of each thread is left")
@cuda.jit
def eight_products_only(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    s[t] = a[t] * b[t] if t < a.size else y.dtype.type(0)
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for k in range(8):
            total += s[k]
        y[0] = total


@wrong("04b.3", "Only the last product of each thread is left")
@cuda.jit
def keeps_the_last(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc = a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for k in range(8):
            total += s[k]
        y[0] = total


@wrong("04b.3", "Only the products of thread 0 are left")
@cuda.jit
def thread_0_adds_only_its_own(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        y[0] = s[0]


@wrong("04b.3", "The products of thread 0 are missing")
@cuda.jit
def begins_with_thread_1(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for k in range(1, 8):
            total += s[k]
        y[0] = total


@wrong("04b.3", "The products of the last thread are missing")
@cuda.jit
def ends_with_thread_6(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for k in range(7):
            total += s[k]
        y[0] = total


@wrong("04b.3", ("out of bounds", "21 elements"))
@cuda.jit
def no_end_for_the_last_round(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for first in range(0, a.size, 8):
        acc += a[first + t] * b[first + t]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for k in range(8):
            total += s[k]
        y[0] = total


@wrong("04b.3", "adds to what y held before")
@cuda.jit
def adds_to_y(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        for k in range(8):
            y[0] += s[k]


@wrong("04b.3", ("float64", "dtype.type(0)"))
@cuda.jit
def in_float64(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = 0.0
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for k in range(8):
            total += s[k]
        y[0] = total


# --- 04b.4: a matrix product by tiles ---
@right("04b.4")
@cuda.jit
def two_tiles_two_barriers(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@right("04b.4")
@cuda.jit
def barrier_at_the_start(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for number in range(a.shape[1] // TILE):
        cuda.syncthreads()
        a_tile[y, x], b_tile[y, x] = a[row, number * TILE + x], b[number * TILE + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
    c[row, column] = acc


@right("04b.4")
@cuda.jit
def one_tile_lies_turned(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    row, column = cuda.blockIdx.y * TILE + y, cuda.blockIdx.x * TILE + x
    acc = c.dtype.type(0)
    first = 0
    while first < b.shape[0]:
        a_tile[x, y] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += b_tile[k, x] * a_tile[k, y]
        cuda.syncthreads()
        first += TILE
    c[row, column] = acc


@wrong("04b.4", ("race", "cuda.syncthreads()"))
@cuda.jit
def no_first_barrier(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.4", ("race", "cuda.syncthreads() at the end of the loop", "a of 4 x 8"))
@cuda.jit
def no_second_barrier(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
    c[row, column] = acc


@wrong("04b.4", ("reads 128 numbers", "32 are enough"))
@cuda.jit
def without_tiles(a, b, c):
    column, row = cuda.grid(2)
    acc = c.dtype.type(0)
    for k in range(a.shape[1]):
        acc += a[row, k] * b[k, column]
    c[row, column] = acc


@wrong("04b.4", "begin the sum before the loop over the tiles")
@cuda.jit
def begins_again_with_every_tile(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    for first in range(0, a.shape[1], TILE):
        acc = c.dtype.type(0)
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
        c[row, column] = acc


@wrong("04b.4", "Only the first tile of each sum is left")
@cuda.jit
def one_tile_only(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    a_tile[y, x] = a[row, x]
    b_tile[y, x] = b[y, column]
    cuda.syncthreads()
    acc = c.dtype.type(0)
    for k in range(TILE):
        acc += a_tile[y, k] * b_tile[k, x]
    c[row, column] = acc


@wrong("04b.4", ("uninitialised", "nobody has written"))
@cuda.jit
def brings_only_one_row(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        if y == 0:
            a_tile[y, x] = a[row, first + x]
            b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.4", "Each tile lacks its last term")
@cuda.jit
def one_term_too_few(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE - 1):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.4", "Every block has the rows of the first block")
@cuda.jit
def row_of_the_thread(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[y, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.4", "The tile of a is read turned")
@cuda.jit
def uses_a_tile_turned(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[k, y] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.4", ("float64", "dtype.type(0)"))
@cuda.jit
def sums_in_float64(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = 0.0
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


# --- right results, made in another way than the exercise asks for ---
@wrong("04b.1", ("reads 128 numbers", "64 are enough"))
@cuda.jit
def takes_the_next_one_from_x(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = x[i - t + (t + 1) % 64]


@wrong("04b.1", "The circle has 64 threads")
@cuda.jit
def a_circle_of_63(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[(t + 1) % 63]


@wrong("04b.1", "has kept its own number")
@cuda.jit
def stops_at_the_end(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[min(t + 1, 63)]


@wrong("04b.2", "added its own number again and again")
@cuda.jit
def its_own_number_many_times(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    count = min(64, x.size - cuda.blockIdx.x * 64)
    if i < x.size:
        s[t] = x[i]
    cuda.syncthreads()
    acc = out.dtype.type(0)
    for _ in range(count):
        acc += s[t]
    if i < x.size:
        out[i] = acc


@wrong("04b.2", "thread t brings x[i], not x[t]")
@cuda.jit
def the_first_numbers_everywhere(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    count = min(64, x.size - cuda.blockIdx.x * 64)
    if i < x.size:
        s[t] = x[t]
    cuda.syncthreads()
    acc = out.dtype.type(0)
    for k in range(count):
        acc += s[k]
    if i < x.size:
        out[i] = acc


@wrong("04b.3", ("y[0] is written 8 times", "if t == 0"))
@cuda.jit
def everybody_adds_up(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    total = y.dtype.type(0)
    for k in range(8):
        total += s[k]
    y[0] = total


@wrong("04b.1", ("race", "only named, and not called"))
@cuda.jit
def barrier_only_named(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads  # noqa: B018
    out[i] = s[(t + 1) % 64]


@right("04b.2")
@cuda.jit
def by_halves(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    count = min(64, x.size - cuda.blockIdx.x * 64)  # numbers of this block
    if t < count:
        s[t] = x[i]
    else:
        s[t] = 0
    cuda.syncthreads()
    half = 32
    while half > 0:
        if t < half:
            s[t] += s[t + half]
        cuda.syncthreads()
        half //= 2
    if t < count:
        out[i] = s[0]


@right("04b.3")
@cuda.jit
def sums_by_halves(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    s[t] = 0
    for k in range(t, a.size, 8):
        s[t] += a[k] * b[k]
    cuda.syncthreads()
    for half in (4, 2, 1):
        if t < half:
            s[t] = s[t] + s[t + half]
        cuda.syncthreads()
    if t == 0:
        y[0] = s[0]


@wrong("04b.3", "atomics add up the partial sums in any order")
@cuda.jit
def adds_with_atomics(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    s[t] = acc
    if t == 0:
        y[0] = 0
    cuda.syncthreads()
    cuda.atomic.add(y, 0, s[t])


@wrong("04b.3", "each of them once")
@cuda.jit
def goes_on_in_steps_of_one(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size):
        acc += a[k] * b[k]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for j in range(8):
            total += s[j]
        y[0] = total


@wrong("04b.3", ("out of bounds: reads a[21]", "test it against both ends"))
@cuda.jit
def asks_for_no_end(a, b, y):
    s = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(0, a.size, 8):
        acc += a[k + t] * b[k + t]
    s[t] = acc
    cuda.syncthreads()
    if t == 0:
        total = y.dtype.type(0)
        for j in range(8):
            total += s[j]
        y[0] = total


@wrong("04b.4", "a[0, 0]*b[0, 0] 2 times, and it belongs there once")
@cuda.jit
def same_tiles_again(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for _ in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, x]
        b_tile[y, x] = b[y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.4", ("c has 16 elements, and they are written 32 times", "after the loop"))
@cuda.jit
def writes_in_each_round(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x] = a[row, first + x]
        b_tile[y, x] = b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        c[row, column] = acc
        cuda.syncthreads()


@wrong("04b.4", ("a of 4 x 4, b of 4 x 8", "x and y have changed places", "column, row = cuda.grid(2)"))
@cuda.jit
def x_counts_rows(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    row, column = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[x, y] = a[row, first + y]
        b_tile[x, y] = b[first + x, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[x, k] * b_tile[k, y]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.1", "in a circle: after 63 comes 0")
@cuda.jit
def the_place_before(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t] = x[i]
    cuda.syncthreads()
    out[i] = s[t - 1]


@wrong("04b.2", "one thread at a time brings a number")
@cuda.jit
def one_thread_brings_all(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    count = min(64, x.size - cuda.blockIdx.x * 64)
    if t == 0:
        for k in range(count):
            s[k] = x[i + k]
    cuda.syncthreads()
    acc = out.dtype.type(0)
    for k in range(count):
        acc += s[k]
    if i < x.size:
        out[i] = acc


@wrong("04b.2", "An atomic addition adds to what out held before")
@cuda.jit
def atomic_scatter(x, out):
    i = cuda.grid(1)
    b = cuda.blockIdx.x * 64
    if i < x.size:
        for k in range(min(64, x.size - b)):
            cuda.atomic.add(out, b + k, x[i])


@wrong("04b.3", "An atomic addition adds to what y held before")
@cuda.jit
def atomic_sum(a, b, y):
    t = cuda.threadIdx.x
    acc = y.dtype.type(0)
    for k in range(t, a.size, 8):
        acc += a[k] * b[k]
    cuda.atomic.add(y, 0, acc)


@wrong("04b.4", "sizes are multiples of TILE, so no index needs a test")
@cuda.jit
def as_many_rounds_as_c_has_columns(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for k0 in range(0, c.shape[1], TILE):
        a_tile[y, x] = a[row, k0 + x]
        b_tile[y, x] = b[k0 + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.4", "sizes are multiples of TILE, so no index needs a test")
@cuda.jit
def a_round_for_each_term(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for k0 in range(a.shape[1]):
        a_tile[y, x] = a[row, k0 + x]
        b_tile[y, x] = b[k0 + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.4", "sizes are multiples of TILE, so no index needs a test")
@cuda.jit
def always_two_rounds(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), np.float32)
    b_tile = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    acc = c.dtype.type(0)
    for r in range(2):
        a_tile[y, x] = a[row, r * 4 + x]
        b_tile[y, x] = b[r * 4 + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@wrong("04b.1", "places 0 to 63, one for each thread of the block")
@cuda.jit
def places_of_the_whole_launch(x, out):
    s = cuda.shared.array(64, np.float32)
    i = cuda.grid(1)
    s[i] = x[i]
    cuda.syncthreads()
    out[i] = s[(i + 1) % 64]


@wrong("04b.1", "places 0 to 63, one for each thread of the block")
@cuda.jit
def written_one_place_on(x, out):
    s = cuda.shared.array(64, np.float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    s[t + 1] = x[i]
    cuda.syncthreads()
    out[i] = s[t]
