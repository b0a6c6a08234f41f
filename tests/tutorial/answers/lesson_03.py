"""Answers to the exercises of 03_ks_deconv."""

from __future__ import annotations

import numpy as np
from numba import cuda

from . import right, wrong

# --- 03.1: the sizes of the sub-filters ---
right(
    "03.1",
    [(3, 3), (3, 2), (2, 3), (2, 2)],
    ((2, 2), (2, 3), (3, 2), (3, 3)),
    np.array([[3, 2], [2, 3], [2, 2], [3, 3]]),
)
wrong("03.1", "yours have 36", [(3, 3)] * 4)
wrong("03.1", "yours have 16", [(2, 2)] * 4)
wrong("03.1", "yours have 22", [(3, 3), (3, 2), (2, 3), (1, 1)])
wrong("03.1", "you have 2", [(3, 3), (2, 2)], [(3, 2), (2, 3)])
wrong("03.1", "you have 1", [(5, 5)])
wrong("03.1", "yours have 21", [(3, 3), (2, 2), (2, 2), (2, 2)])
wrong("03.1", "phase 1 has taps 1, 3", [(3, 3), (4, 3), (2, 1), (2, 1)], [(5, 2), (5, 1), (5, 1), (5, 1)])
wrong("03.1", "four pairs", [3, 3, 2, 2], (9, 6, 6, 4), 25, "3x3")

# --- 03.2: the pairs (f, o) that an input meets ---


@right("03.2")
def by_trying_all(i, taps, outputs, stride, padding):
    return [(f, o) for f in range(taps) for o in range(outputs) if o * stride - padding + f == i]


@right("03.2")
def by_divmod(i, taps, outputs, stride, padding):
    pairs = set()
    for f in range(taps):
        o, rest = divmod(i + padding - f, stride)
        if rest == 0 and o in range(outputs):
            pairs.add((f, o))
    return pairs


@right("03.2")
def from_the_outputs(i, taps, outputs, stride, padding):
    o, pairs = outputs - 1, []
    while o >= 0:
        f = i + padding - o * stride
        if 0 <= f < taps:
            pairs.append([f, o])
        o -= 1
    return pairs


@wrong("03.2", ("i=0, taps=3", "tap 0 does not meet input 0"))
def without_the_rest(i, taps, outputs, stride, padding):
    return [(f, o) for f in range(taps) if 0 <= (o := (i + padding - f) // stride) < outputs]


@wrong("03.2", ("i=5, taps=3", "There is no output 3"))
def without_an_upper_bound(i, taps, outputs, stride, padding):
    return [(f, (i + padding - f) // stride) for f in range((i + padding) % stride, min(taps, i + padding + 1), stride)]


@wrong("03.2", "There is no output -1")
def without_a_lower_bound(i, taps, outputs, stride, padding):
    steps = range((i + padding) % stride, taps, stride)
    return [(f, o) for f in steps if (o := (i + padding - f) // stride) < outputs]


@wrong("03.2", ("i=0, taps=3", "tap 0 does not meet input 0"))
def phase_without_padding(i, taps, outputs, stride, padding):
    steps = range(i % stride, taps, stride)
    return [(f, o) for f in steps if 0 <= (o := (i + padding - f) // stride) < outputs]


@wrong("03.2", ("i=0, taps=3", "tap 0 does not meet input 0"))
def no_padding(i, taps, outputs, stride, padding):
    steps = range(i % stride, taps, stride)
    return [(f, o) for f in steps if 0 <= (o := (i - f) // stride) < outputs]


@wrong("03.2", "pairs (o, f)")
def swapped(i, taps, outputs, stride, padding):
    return [(o, f) for f, o in by_trying_all(i, taps, outputs, stride, padding)]


@wrong("03.2", ("i=1, taps=3", "is missing"))
def returns_early(i, taps, outputs, stride, padding):
    pairs = []
    for f in range((i + padding) % stride, taps, stride):
        o = (i + padding - f) // stride
        if 0 <= o < outputs:
            pairs.append((f, o))
            return pairs
    return pairs


@wrong("03.2", "is missing")
def last_tap_left_out(i, taps, outputs, stride, padding):
    return by_trying_all(i, taps - 1, outputs, stride, padding)


@wrong("03.2", "is missing")
def last_output_left_out(i, taps, outputs, stride, padding):
    return by_trying_all(i, taps, outputs - 1, stride, padding)


@wrong("03.2", "There is no tap 3")
def one_tap_too_many(i, taps, outputs, stride, padding):
    return by_trying_all(i, taps + 1, outputs, stride, padding)


@wrong("03.2", ("For i=5, taps=3", "does not end"))
def endless(i, taps, outputs, stride, padding):
    pairs, f = [], (i + padding) % stride
    while f < taps:
        o = (i + padding - f) // stride
        if 0 <= o < outputs:
            pairs.append((f, o))
            f += stride
    return pairs


@wrong("03.2", ("For i=0, taps=3", "returns None"))
def forgets_to_return(i, taps, outputs, stride, padding):
    by_trying_all(i, taps, outputs, stride, padding)


@wrong("03.2", "ZeroDivisionError")
def divides_by_zero(i, taps, outputs, stride, padding):
    return [(f, (i + padding) // f) for f in range(taps)]


@wrong("03.2", "list of pairs")
def only_taps(i, taps, outputs, stride, padding):
    return [f for f, _ in by_trying_all(i, taps, outputs, stride, padding)]


@wrong("03.2", "more than once")
def twice(i, taps, outputs, stride, padding):
    return by_trying_all(i, taps, outputs, stride, padding) * 2


# --- 03.3: output_padding ---
right("03.3", 1, 14 - 13, np.int64(1), 1.0)
wrong("03.3", "13 rows", 0)
wrong("03.3", "below the stride", 2)
wrong("03.3", "27 rows", 14)
wrong("03.3", "20 rows", 7)
wrong("03.3", "12 rows", -1)
wrong("03.3", "16 rows", 3)
wrong("03.3", "26 rows", 13)
wrong("03.3", "whole number", "1", 0.5, True, [1])

# --- 03.4: the kernel ---


@right("03.4")
@cuda.jit
def tests_in_the_loop(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i >= dx.size:
        return
    acc = np.float32(0)
    for f in range(w.size):
        o, rest = divmod(i + padding - f, stride)
        if rest == 0 and o >= 0 and o < dy.size:
            acc += dy[o] * w[f]
    dx[i] = acc


@right("03.4")
@cuda.jit
def adds_in_place(dy, w, dx, stride, padding):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i < dx.size:
        dx[i] = 0
        for o in range(dy.size):
            f = i + padding - o * stride
            if 0 <= f < w.size:
                dx[i] += dy[o] * w[f]


@right("03.4")
@cuda.jit
def strided_over_the_grid(dy, w, dx, stride, padding):
    for i in range(cuda.grid(1), dx.shape[0], cuda.gridsize(1)):
        acc = dx.dtype.type(0)
        f, o = (i + padding) % stride, (i + padding) // stride
        while f < len(w) and o >= 0:
            if o < len(dy):
                acc += w[f] * dy[o]
            f += stride
            o -= 1
        dx[i] = acc


@cuda.jit(device=True)
def output_of(i, f, stride, padding):
    return (i + padding - f) // stride


@right("03.4")
@cuda.jit
def with_a_device_function(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = output_of(i, f, stride, padding)
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", ("race: one thread reads dx[1]", "dx[o * stride - padding + f] += dy[o] * w[f]"))
@cuda.jit
def scatters(dy, w, dx, stride, padding):
    t = cuda.grid(1)
    if t < dx.size:
        dx[t] = 0
    cuda.syncthreads()
    o = t
    if o < dy.size:
        for f in range(w.size):
            if 0 <= o * stride - padding + f < dx.size:
                dx[o * stride - padding + f] += dy[o] * w[f]


@wrong("03.4", ("out of bounds", "number 6, has none and must stop", "stride=2, padding=1"))
@cuda.jit
def no_guard(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    acc = dx.dtype.type(0)
    for f in range((i + padding) % stride, w.size, stride):
        o = (i + padding - f) // stride
        if 0 <= o < dy.size:
            acc += dy[o] * w[f]
    dx[i] = acc


@wrong("03.4", ("out of bounds", "reads dy[3], but dy has 3 elements", "acc += dy[o] * w[f]"))
@cuda.jit
def no_upper_bound(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if o >= 0:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", ("negative index: the index -1", "acc += dy[o] * w[f]"))
@cuda.jit
def no_lower_bound(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", ("stride=2, padding=1, 3 taps", "You left out the padding"))
@cuda.jit
def phase_without_padding_(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range(i % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", "The padding is missing")
@cuda.jit
def no_padding_(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range(i % stride, w.size, stride):
            o = (i - f) // stride
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", "only the taps of its phase")
@cuda.jit
def all_taps(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range(w.size):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", "Only one product of each sum is left")
@cuda.jit
def keeps_the_last(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc = dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", ("never written", "thread that ends without writing"))
@cuda.jit
def only_where_taps_meet(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
                dx[i] = acc


@wrong("03.4", "what dx held before")
@cuda.jit
def never_sets_zero(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                dx[i] += dy[o] * w[f]
        dx[i] += 0


@wrong("03.4", ("float64", "acc += dy[o] * w[f]", "dtype.type(0)"))
@cuda.jit
def in_float64(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = 0.0
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", ("endless loop", "is still in"))
@cuda.jit
def never_ends(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        o = (i + padding) // stride
        while o >= 0:
            f = i + padding - o * stride
            if 0 <= f < w.size and o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


def output_in_python(i, f, stride, padding):
    return (i + padding - f) // stride


@wrong("03.4", ("does not compile", "output_in_python is a plain Python function", "o = output_in_python(i"))
@cuda.jit
def calls_python(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = output_in_python(i, f, stride, padding)
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", ("multiply w[0] by a zero that inserting", "dx[0]"))
@cuda.jit
def multiplies_inserted_zeros(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range(w.size):
            o, rest = divmod(i + padding - f, stride)
            v = dx.dtype.type(0)
            if rest == 0 and 0 <= o < dy.size:
                v = dy[o]
            acc += v * w[f]
        dx[i] = acc


@wrong("03.4", "missing threads")
@cuda.jit
def leaves_before_a_barrier(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i >= dx.size:
        return
    dx[i] = 0
    cuda.syncthreads()
    for f in range((i + padding) % stride, w.size, stride):
        o = (i + padding - f) // stride
        if 0 <= o < dy.size:
            dx[i] += dy[o] * w[f]


@wrong("03.4", "The last tap is missing")
@cuda.jit
def one_tap_too_few(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size - 1, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", "The first output is missing")
@cuda.jit
def skips_output_0(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 < o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


wrong("03.4", "keep the line @cuda.jit", lambda dy, w, dx, stride, padding: None, 3)


@wrong("03.4", "one thread does 8 products, and no result has more than 2")
@cuda.jit
def one_thread_does_all(dy, w, dx, stride, padding):
    if cuda.grid(1) == 0:
        for i in range(dx.size):
            acc = dx.dtype.type(0)
            for f in range((i + padding) % stride, w.size, stride):
                o = (i + padding - f) // stride
                if 0 <= o < dy.size:
                    acc += dy[o] * w[f]
            dx[i] = acc


@wrong("03.4", ("race: one thread writes dx[4], another updates it", "no barrier waits for all of them"))
@cuda.jit
def scatters_atomically(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = 0
    cuda.syncthreads()
    if i < dy.size:
        for f in range(w.size):
            if 0 <= i * stride - padding + f < dx.size:
                cuda.atomic.add(dx, i * stride - padding + f, dy[i] * w[f])


@wrong("03.4", ("float64", "o = (i + padding - f) / stride", "divide with //"))
@cuda.jit
def true_division(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range(w.size):
            o = (i + padding - f) / stride
            if o == int(o) and 0 <= o < dy.size:
                acc += dy[int(o)] * w[f]
        dx[i] = acc


@wrong("03.4", "o and f have changed places")
@cuda.jit
def operands_swapped(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc += dy[f] * w[o]
        dx[i] = acc


@wrong("03.4", "dy[0]*w[1] 2 times, and it belongs there once")
@cuda.jit
def twice_as_much(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc += 2 * dy[o] * w[f]
        dx[i] = acc


# --- more of each ---
@wrong("03.2", ("1.0 is no whole number", "divide with //"))
def with_a_quotient(i, taps, outputs, stride, padding):
    found = ((f, (i + padding - f) / stride) for f in range((i + padding) % stride, taps, stride))
    return [(f, o) for f, o in found if 0 <= o < outputs]


@wrong("03.4", ("does not compile", "An index must be a whole number"))
@cuda.jit
def by_a_quotient(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) / stride
            if 0 <= o < dy.size:
                acc += dy[o] * w[f]
        dx[i] = acc


@wrong("03.4", ("out of bounds", "shared array"))
@cuda.jit
def shared_by_one_block_of_outputs(dy, w, dx, stride, padding):
    i, t = cuda.grid(1), cuda.threadIdx.x
    kept = cuda.shared.array(4, np.float32)
    if t < dy.size:
        kept[t] = dy[t]
    cuda.syncthreads()
    if i < dx.size:
        acc = dx.dtype.type(0)
        for f in range((i + padding) % stride, w.size, stride):
            o = (i + padding - f) // stride
            if 0 <= o < dy.size:
                acc += kept[o] * w[f]
        dx[i] = acc


wrong("03.1", "should be a whole number, but it is 2.5", [(2.5, 2.5)] * 4)


@wrong("03.4", "An atomic addition adds to what dx held before")
@cuda.jit
def atomic_scatter(dy, w, dx, stride, padding):
    o = cuda.grid(1)
    if o < dy.size:
        for f in range(w.size):
            i = o * stride - padding + f
            if 0 <= i < dx.size:
                cuda.atomic.add(dx, i, dy[o] * w[f])


right("03.1", {(0, 0): (3, 3), (0, 1): (3, 2), (1, 0): (2, 3), (1, 1): (2, 2)})
wrong("03.1", "25 taps in all; yours have 36", {(0, 0): (3, 3), (0, 1): (3, 3), (1, 0): (3, 3), (1, 1): (3, 3)})


@wrong(
    "03.4",
    ("updates it, and nothing says which comes first", "for all of them let each thread make results of its own"),
)
@cuda.jit
def zero_and_atomic_scatter(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = 0
    cuda.syncthreads()
    if i < dy.size:
        for f in range(w.size):
            k = i * stride - padding + f
            if 0 <= k < dx.size:
                cuda.atomic.add(dx, k, dy[i] * w[f])


wrong("03.1", "Give a list of four pairs", [[(3, 3), (3, 2)], [(2, 3), (2, 2)]])
