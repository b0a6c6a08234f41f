"""Answers to the exercises of 01b_first_kernels."""

from __future__ import annotations

import numpy as np
from numba import cuda

from . import right, wrong


# --- 01b.1: squares, a thread an element ---
@right("01b.1")
@cuda.jit
def by_the_thread(x, out):
    i = cuda.threadIdx.x
    out[i] = x[i] * x[i]


@right("01b.1")
@cuda.jit
def by_the_grid(x, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] ** 2


@right("01b.1")
@cuda.jit
def in_two_steps(x, out):
    value = x[cuda.threadIdx.x]
    value *= value
    out[cuda.threadIdx.x] = value


@wrong("01b.1", "These are the doubles")
@cuda.jit
def doubles(x, out):
    i = cuda.threadIdx.x
    out[i] = x[i] + x[i]


@wrong("01b.1", "the numbers of x themselves")
@cuda.jit
def copies(x, out):
    i = cuda.threadIdx.x
    out[i] = x[i]


@wrong("01b.1", "with its own number")
@cuda.jit
def all_from_the_first(x, out):
    i = cuda.threadIdx.x
    out[i] = x[0] * x[0]


@wrong("01b.1", "numbers of threads")
@cuda.jit
def squares_of_the_index(x, out):
    i = cuda.threadIdx.x
    out[i] = i * i


@wrong("01b.1", "turned around")
@cuda.jit
def backwards(x, out):
    i = out.size - 1 - cuda.threadIdx.x
    j = cuda.threadIdx.x
    out[j] = x[i] * x[i]


@wrong("01b.1", ("race", "out[0] = x[i] * x[i]"))
@cuda.jit
def all_into_the_first(x, out):
    i = cuda.threadIdx.x
    out[0] = x[i] * x[i]


@wrong("01b.1", "never written, such as out[1]")
@cuda.jit
def number_of_the_block(x, out):
    i = cuda.blockIdx.x
    out[i] = x[i] * x[i]


@wrong("01b.1", "4 threads write out[0], all the same")
@cuda.jit
def a_loop_in_every_thread(x, out):
    for i in range(x.size):
        out[i] = x[i] * x[i]


@wrong("01b.1", ("out of bounds", "out[i] = x[i - 1] * x[i - 1]"))
@cuda.jit
def counts_from_one(x, out):
    i = cuda.threadIdx.x + 1
    out[i] = x[i - 1] * x[i - 1]


@wrong("01b.1", "adds to what out held before")
@cuda.jit
def adds(x, out):
    i = cuda.threadIdx.x
    out[i] += x[i] * x[i]


@wrong("01b.1", ("does not compile", "returns nothing"))
@cuda.jit
def returns_the_square(x, out):
    return x[cuda.threadIdx.x] * x[cuda.threadIdx.x]


@wrong("01b.1", "never written")
@cuda.jit
def names_a_variable(x, out):
    i = cuda.threadIdx.x
    square = x[i] * x[i]  # noqa: F841


@wrong("01b.1", ("float64", "x[i] ** 2.0"))
@cuda.jit
def in_float64(x, out):
    i = cuda.threadIdx.x
    out[i] = x[i] ** 2.0


@wrong("01b.1", ("1 of 4 results was never written",))
@cuda.jit
def the_last_is_left(x, out):
    i = cuda.threadIdx.x
    if i < out.size - 1:
        out[i] = x[i] * x[i]


wrong("01b.1", "keep the line @cuda.jit", lambda x, out: x * x)


# --- 01b.2: the guard ---
@right("01b.2")
@cuda.jit
def guarded(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * b[i]


@right("01b.2")
@cuda.jit
def leaves_early(a, b, out):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i >= a.shape[0]:
        return
    out[i] = a[i] * b[i]


@right("01b.2")
@cuda.jit
def in_a_loop(a, b, out):
    for i in range(cuda.grid(1), len(out), cuda.gridsize(1)):
        out[i] = a[i] * b[i]


@wrong("01b.2", ("out of bounds", "this thread, number 10, has none and must stop"))
@cuda.jit
def no_guard(a, b, out):
    i = cuda.grid(1)
    out[i] = a[i] * b[i]


@wrong("01b.2", ("out of bounds", "this thread, number 10, has none and must stop"))
@cuda.jit
def one_too_many(a, b, out):
    i = cuda.grid(1)
    if i <= out.size:
        out[i] = a[i] * b[i]


@wrong("01b.2", "1 of 8 results was never written, such as out[7]")
@cuda.jit
def one_too_few(a, b, out):
    i = cuda.grid(1)
    if i < out.size - 1:
        out[i] = a[i] * b[i]


@wrong("01b.2", ("never written, such as out[4]", "writes to the places of others"))
@cuda.jit
def without_the_block(a, b, out):
    i = cuda.threadIdx.x
    if i < out.size:
        out[i] = a[i] * b[i]


@wrong("01b.2", "never written, such as out[4]")
@cuda.jit
def only_four(a, b, out):
    i = cuda.grid(1)
    if i < 4:
        out[i] = a[i] * b[i]


@wrong("01b.2", ("never written, such as out[5]", "writes to the places of others"))
@cuda.jit
def adds_block_and_thread(a, b, out):
    i = cuda.blockIdx.x + cuda.threadIdx.x
    if i < out.size:
        out[i] = a[i] * b[i]


@wrong("01b.2", "These are sums")
@cuda.jit
def sums(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] + b[i]


@wrong("01b.2", "These are the squares of a")
@cuda.jit
def squares(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * a[i]


@wrong("01b.2", "The second factor is always b[0]")
@cuda.jit
def always_the_first(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * b[0]


@wrong("01b.2", ("out of bounds", "has none and must stop"))
@cuda.jit
def guard_after_the_write(a, b, out):
    i = cuda.grid(1)
    out[i] = a[i] * b[i]
    if i >= out.size:
        return


@wrong("01b.2", "endless loop")
@cuda.jit
def a_loop_without_end(a, b, out):
    i = cuda.grid(1)
    while i < out.size:
        out[i] = a[i] * b[i]


@wrong("01b.2", ("does not compile", "returns nothing"))
@cuda.jit
def returns_0(a, b, out):
    i = cuda.grid(1)
    if i >= out.size:
        return 0
    out[i] = a[i] * b[i]


# --- 01b.3: two indices ---
@right("01b.3")
@cuda.jit
def row_first(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[row]


@right("01b.3")
@cuda.jit
def column_first(x, factor, out):
    column, row = cuda.grid(2)
    if row >= x.shape[0] or column >= x.shape[1]:
        return
    out[row, column] = factor[row] * x[row, column]


@right("01b.3")
@cuda.jit
def from_blocks_and_threads(x, factor, out):
    row = cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y
    column = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if row < factor.size:
        if column < out.shape[1]:
            out[row, column] = x[row, column] * factor[row]


@wrong("01b.3", "factor has a number for each row")
@cuda.jit
def factor_of_the_column(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[column]


@wrong("01b.3", ("out of bounds", "both ends"))
@cuda.jit
def no_guard_at_all(x, factor, out):
    row, column = cuda.grid(2)
    out[row, column] = x[row, column] * factor[row]


@wrong("01b.3", ("out of bounds", "both ends"))
@cuda.jit
def no_guard_for_columns(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0]:
        out[row, column] = x[row, column] * factor[row]


@wrong("01b.3", ("out of bounds",))
@cuda.jit
def one_of_the_two_is_enough(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] or column < out.shape[1]:
        out[row, column] = x[row, column] * factor[row]


@wrong("01b.3", ("out of bounds",))
@cuda.jit
def both_must_be_outside(x, factor, out):
    row, column = cuda.grid(2)
    if row >= out.shape[0] and column >= out.shape[1]:
        return
    out[row, column] = x[row, column] * factor[row]


@wrong("01b.3", "4 threads write out[0, 0], all the same")
@cuda.jit
def a_row_in_every_thread(x, factor, out):
    row, _ = cuda.grid(2)
    if row < out.shape[0]:
        for column in range(out.shape[1]):
            out[row, column] = x[row, column] * factor[row]


@wrong("01b.3", "never written, such as out[1, 0]")
@cuda.jit
def one_index_only(x, factor, out):
    index = cuda.grid(1)
    if index < out.size:
        row, column = index // out.shape[1], index % out.shape[1]
        out[row, column] = x[row, column] * factor[row]


@wrong("01b.3", "The factor is added")
@cuda.jit
def factor_is_added(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] + factor[row]


@wrong("01b.3", "multiplied by factor[0]")
@cuda.jit
def the_first_factor(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[0]


@wrong("01b.3", "The rows of out are columns of x")
@cuda.jit
def reads_the_transposed(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[column, row] * factor[row]


@wrong("01b.3", "never written, such as out[3, 0]")
@cuda.jit
def the_last_row_is_left(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] - 1 and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[row]


# --- 01b.4: gather ---
@right("01b.4")
@cuda.jit
def a_loop_with_trimmed_ends(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(max(0, o - 1), min(x.size, o + 2)):
            acc += x[i]
        out[o] = acc


@right("01b.4")
@cuda.jit
def with_tests(x, out):
    o = cuda.grid(1)
    if o >= out.size:
        return
    acc = x[o]
    if o > 0:
        acc += x[o - 1]
    if o + 1 < x.size:
        acc += x[o + 1]
    out[o] = acc


@right("01b.4")
@cuda.jit
def adds_in_its_own_place(x, out):
    o = cuda.grid(1)
    if o < out.size:
        out[o] = 0
        for d in range(-1, 2):
            if 0 <= o + d < x.size:
                out[o] += x[o + d]


@wrong("01b.4", ("race", "out[o] += x[i]"))
@cuda.jit
def still_scatters(x, out):
    i = cuda.grid(1)
    if i < x.size:
        for o in range(max(0, i - 1), min(out.size, i + 2)):
            out[o] += x[i]


@wrong("01b.4", "race")
@cuda.jit
def zeroes_then_scatters(x, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = 0
    cuda.syncthreads()
    if i < x.size:
        for o in range(max(0, i - 1), min(out.size, i + 2)):
            out[o] += x[i]


@wrong("01b.4", "adds to what out held before")
@cuda.jit
def scatters_with_atomics(x, out):
    i = cuda.grid(1)
    if i < x.size:
        for o in range(max(0, i - 1), min(out.size, i + 2)):
            cuda.atomic.add(out, o, x[i])


@wrong("01b.4", ("negative index: the index -1", "x[o - 1]"))
@cuda.jit
def no_lower_test(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = x[o - 1] + x[o]
        if o + 1 < x.size:
            acc += x[o + 1]
        out[o] = acc


@wrong("01b.4", ("out of bounds", "x[o + 1]"))
@cuda.jit
def no_upper_test(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = x[o] + x[o + 1]
        if o > 0:
            acc += x[o - 1]
        out[o] = acc


@wrong("01b.4", ("out of bounds", "has none and must stop"))
@cuda.jit
def no_guard_for_spare_threads(x, out):
    o = cuda.grid(1)
    acc = out.dtype.type(0)
    for i in range(max(0, o - 1), min(x.size, o + 2)):
        acc += x[i]
    out[o] = acc


@wrong("01b.4", "lacks the right neighbour")
@cuda.jit
def range_ends_too_early(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(max(0, o - 1), min(x.size, o + 1)):
            acc += x[i]
        out[o] = acc


@wrong("01b.4", "lacks the left neighbour")
@cuda.jit
def range_begins_too_late(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(o, min(x.size, o + 2)):
            acc += x[i]
        out[o] = acc


@wrong("01b.4", "lacks the element in the middle")
@cuda.jit
def only_the_neighbours(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        if o > 0:
            acc += x[o - 1]
        if o + 1 < x.size:
            acc += x[o + 1]
        out[o] = acc


@wrong("01b.4", "At the ends you add an element twice")
@cuda.jit
def repeats_the_ends(x, out):
    o = cuda.grid(1)
    if o < out.size:
        out[o] = x[max(0, o - 1)] + x[o] + x[min(x.size - 1, o + 1)]


@wrong("01b.4", "after the last one there is nothing")
@cuda.jit
def goes_around(x, out):
    o = cuda.grid(1)
    if o < out.size:
        out[o] = x[(o + x.size - 1) % x.size] + x[o] + x[(o + 1) % x.size]


@wrong("01b.4", ("float64", "dtype.type(0)"))
@cuda.jit
def sum_in_float64(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = 0.0
        for i in range(max(0, o - 1), min(x.size, o + 2)):
            acc += x[i]
        out[o] = acc


@wrong("01b.4", "never written, such as out[0]")
@cuda.jit
def leaves_the_ends_out(x, out):
    o = cuda.grid(1)
    if 0 < o < out.size - 1:
        out[o] = x[o - 1] + x[o] + x[o + 1]


# --- 01b.5: coalescing ---
@right("01b.5")
@cuda.jit
def column_runs_first(x, factor, out):
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[column]


@right("01b.5")
@cuda.jit
def by_hand(x, factor, out):
    r = cuda.blockIdx.y + cuda.threadIdx.y
    c = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if r >= out.shape[0] or c >= out.shape[1]:
        return
    out[r, c] = factor[c] * x[r, c]


@right("01b.5")
@cuda.jit
def names_exchanged_again(x, factor, out):
    a, b = cuda.grid(2)
    row, column = b, a
    if row < len(x) and column < len(factor):
        scaled = x[row, column] * factor[column]
        out[row, column] = scaled


@wrong("01b.5", ("The results are right", "32 sectors, 4 would do", "neighbouring columns"))
@cuda.jit
def row_runs_first(x, factor, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[column]


@wrong("01b.5", "factor has a number for each column")
@cuda.jit
def factor_of_the_row(x, factor, out):
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[row]


@wrong("01b.5", ("out of bounds",))
@cuda.jit
def nobody_is_sent_home(x, factor, out):
    column, row = cuda.grid(2)
    out[row, column] = x[row, column] * factor[column]


@wrong("01b.5", ("out of bounds",))
@cuda.jit
def sizes_exchanged(x, factor, out):
    column, row = cuda.grid(2)
    if row < out.shape[1] and column < out.shape[0]:
        out[row, column] = x[row, column] * factor[column]


@wrong("01b.5", "The factor is added")
@cuda.jit
def adds_the_factor(x, factor, out):
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] + factor[column]


@wrong("01b.5", "multiplied by factor[0]")
@cuda.jit
def one_factor_for_all(x, factor, out):
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] * factor[0]


@wrong("01b.5", "The rows of out are columns of x")
@cuda.jit
def reads_down(x, factor, out):
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[column, row] * factor[column]


@wrong("01b.5", ("64 threads write out[0, 0], all the same", "which one is its own"))
@cuda.jit
def a_column_in_every_thread(x, factor, out):
    column = cuda.grid(1)
    if column < out.shape[1]:
        for row in range(out.shape[0]):
            out[row, column] = x[row, column] * factor[column]


@wrong("01b.5", "the factor is missing")
@cuda.jit
def forgets_the_factor(x, factor, out):
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column]


@wrong("01b.5", "never written")
@cuda.jit
def one_column_too_few(x, factor, out):
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1] - 1:
        out[row, column] = x[row, column] * factor[column]


wrong("01b.5", "keep the line @cuda.jit", np.multiply)


# --- more of each ---
@wrong("01b.1", ("does not compile", "take one, cuda.threadIdx.x"))
@cuda.jit
def by_three_numbers(x, out):
    i = cuda.threadIdx
    out[i] = x[i] * x[i]


@wrong("01b.1", ("does not compile", "x * x, or x ** 2"))
@cuda.jit
def exclusive_or(x, out):
    i = cuda.threadIdx.x
    out[i] = x[i] ^ 2


@wrong("01b.1", "does not compile")
@cuda.jit
def all_at_once(x, out):
    out[:] = x * x


@wrong("01b.2", "b by the number in the block")
@cuda.jit
def second_by_the_block(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * b[cuda.threadIdx.x]


@wrong("01b.2", ("does not compile", "row, column = cuda.grid(2)"))
@cuda.jit
def two_numbers_as_one(a, b, out):
    i = cuda.grid(2)
    if i < out.size:
        out[i] = a[i] * b[i]


@right("01b.3")
@cuda.jit
def one_index_after_the_other(x, factor, out):
    column, row = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row][column] = factor[row] * x[row][column]


@wrong("01b.3", "You write out[column, row]")
@cuda.jit
def written_turned(x, factor, out):
    row, column = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[column, row] = x[row, column] * factor[row]


@wrong("01b.3", "multiply by it")
@cuda.jit
def divided(x, factor, out):
    row, column = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = x[row, column] / factor[row]


@wrong("01b.3", "number of a thread in its block")
@cuda.jit
def factor_of_the_block(x, factor, out):
    row, column = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = x[row, column] * factor[cuda.threadIdx.x]


@wrong("01b.3", ("does not compile", "this one has 1, and you give 2"))
@cuda.jit
def factor_with_two_indices(x, factor, out):
    row, column = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = x[row, column] * factor[row, column]


@wrong("01b.4", "At both ends one neighbour exists")
@cuda.jit
def copied_ends(x, out):
    o = cuda.grid(1)
    if o < out.size:
        if 0 < o < out.size - 1:
            out[o] = x[o - 1] + x[o] + x[o + 1]
        else:
            out[o] = x[o]


@wrong("01b.4", "The last element of x is never added")
@cuda.jit
def up_to_the_last(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(max(0, o - 1), min(x.size - 1, o + 2)):
            acc += x[i]
        out[o] = acc


@wrong("01b.4", "x[0], is never added")
@cuda.jit
def from_one(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(max(1, o - 1), min(x.size, o + 2)):
            acc += x[i]
        out[o] = acc


@wrong("01b.4", "once for each neighbour")
@cuda.jit
def itself_three_times(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for _ in range(max(0, o - 1), min(x.size, o + 2)):
            acc += x[o]
        out[o] = acc


@wrong("01b.4", "not for averages")
@cuda.jit
def averages(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(max(0, o - 1), min(x.size, o + 2)):
            acc += x[i]
        out[o] = acc / 3


@wrong("01b.4", "a = where += belongs")
@cuda.jit
def the_last_of_each(x, out):
    o = cuda.grid(1)
    if o < out.size:
        for i in range(max(0, o - 1), min(x.size, o + 2)):
            out[o] = x[i]


@wrong("01b.4", "does your loop stop after it")
@cuda.jit
def the_first_of_each(x, out):
    o = cuda.grid(1)
    if o < out.size:
        for i in range(max(0, o - 1), min(x.size, o + 2)):
            out[o] = x[i]
            return


@wrong("01b.4", "Neighbours of another block are missing")
@cuda.jit
def within_a_block(x, out):
    o, t = cuda.grid(1), cuda.threadIdx.x
    if o < out.size:
        acc = x[o]
        if t > 0:
            acc += x[o - 1]
        if t + 1 < cuda.blockDim.x and o + 1 < x.size:
            acc += x[o + 1]
        out[o] = acc


@wrong("01b.4", "add x[i], not i")
@cuda.jit
def sums_of_places(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(max(0, o - 1), min(x.size, o + 2)):
            acc += i
        out[o] = acc


@wrong("01b.4", "two elements after x[o]")
@cuda.jit
def two_to_the_right(x, out):
    o = cuda.grid(1)
    if o < out.size:
        acc = out.dtype.type(0)
        for i in range(o, min(x.size, o + 3)):
            acc += x[i]
        out[o] = acc


@wrong("01b.5", "You write out[column, row]")
@cuda.jit
def columns_written_turned(x, factor, out):
    column, row = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[column, row] = x[row, column] * factor[column]


@wrong("01b.2", "results are wrong")
@cuda.jit
def whole_numbers_only(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = int(a[i]) * int(b[i])


@wrong("01b.2", ("does not compile", "x.shape one an axis"))
@cuda.jit
def below_a_shape(a, b, out):
    i = cuda.grid(1)
    if i < a.shape:
        out[i] = a[i] * b[i]


@wrong("01b.2", ("does not compile", "no ( ) belong behind them"))
@cuda.jit
def called_size(a, b, out):
    i = cuda.grid(1)
    if i < a.size():
        out[i] = a[i] * b[i]


@wrong("01b.3", ("does not compile", "cuda.grid(2) gives two"))
@cuda.jit
def one_number_for_two(x, factor, out):
    row, column = cuda.grid(1)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = x[row, column] * factor[row]


@wrong("01b.3", ("index 3 is out of bounds for axis 1 with size 3", "Test row against shape[0]"))
@cuda.jit
def guard_the_other_way_round(x, factor, out):
    row, column = cuda.grid(2)
    if row < x.shape[1] and column < x.shape[0]:
        out[row, column] = x[row, column] * factor[row]


@wrong("01b.1", ("does not compile", "cannot call np.square", "out[i] = np.square(x[i])"))
@cuda.jit
def by_a_function_of_numpy(x, out):
    i = cuda.threadIdx.x
    out[i] = np.square(x[i])


@wrong("01b.5", "multiply by it")
@cuda.jit
def columns_divided(x, factor, out):
    column, row = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = x[row, column] / factor[column]


@wrong("01b.5", "it should be factor[column]")
@cuda.jit
def column_of_the_block(x, factor, out):
    column, row = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = x[row, column] * factor[cuda.threadIdx.x]


@wrong("01b.1", ("4 threads write out[0], all the same", "one element"))
@cuda.jit
def every_thread_makes_all(x, out):
    for i in range(x.size):
        out[i] = x[i] ** 2


# --- one thread for everything, and inputs that change ---
@wrong("01b.1", "one thread writes 4 elements")
@cuda.jit
def first_thread_alone(x, out):
    if cuda.threadIdx.x == 0:
        for i in range(x.size):
            out[i] = x[i] * x[i]


@wrong("01b.3", "changes x, which it should only read")
@cuda.jit
def scaled_in_place(x, factor, out):
    row, column = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        x[row, column] *= factor[row]
        out[row, column] = x[row, column]


@wrong("01b.4", "one thread writes 9 elements")
@cuda.jit
def gathered_by_one_thread(x, out):
    if cuda.grid(1) == 0:
        for o in range(out.size):
            total = out.dtype.type(0)
            for i in range(max(0, o - 1), min(x.size, o + 2)):
                total += x[i]
            out[o] = total


@wrong("01b.1", "2 of 4 results are wrong")
@cuda.jit
def keeps_the_sign(x, out):
    i = cuda.threadIdx.x
    out[i] = abs(x[i]) * x[i]


@wrong("01b.1", "the first thread has number 0, and takes x[0]")
@cuda.jit
def begins_at_one(x, out):
    i = cuda.threadIdx.x + 1
    out[i] = x[i] * x[i]


@wrong("01b.2", "is this the index that you mean?")
@cuda.jit
def blocks_counted_from_one(a, b, out):
    i = (cuda.blockIdx.x - 1) * cuda.blockDim.x + cuda.threadIdx.x
    if i < out.size:
        out[i] = a[i] * b[i]


@wrong("01b.4", ("An atomic addition adds to what out held before", "Let one thread add up each result"))
@cuda.jit
def atomic_scatter(x, out):
    i = cuda.grid(1)
    if i < x.size:
        for o in range(max(0, i - 1), min(out.size, i + 2)):
            cuda.atomic.add(out, o, x[i])


# How much it reads depends on the compiler: some keep the element that was written in a register.
@wrong("01b.5", ("and writes 8192", "write out once"))
@cuda.jit
def writes_out_twice(x, factor, out):
    column, row = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = x[row, column]
        out[row, column] = out[row, column] * factor[column]


@wrong(
    "01b.4",
    ("updates it, and nothing says which comes first", "for all of them let each thread make results of its own"),
)
@cuda.jit
def zero_and_atomic_scatter(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = 0
        for o in range(max(0, i - 1), min(out.size, i + 2)):
            cuda.atomic.add(out, o, x[i])
