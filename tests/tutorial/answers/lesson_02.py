"""Answers to the exercises of 02_conv_v2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, float32
from numba.cuda import grid

from cks_numba import geometry
from cks_numba.kernels import jit

from . import right, wrong

# --- 02.1: the taps that a corner keeps ---
right("02.1", 9, 3 * 3, np.int64(25 - 16), 9.0)
wrong("02.1", "An image has two axes", 3)
wrong("02.1", "multiply, do not add", 6)
wrong("02.1", "lie on padding. How many of the 25 are left?", 16)
wrong("02.1", "what is left out along each axis, squared", 4)
wrong("02.1", "one side of the filter", 5)
wrong("02.1", "Only the rows, or only the columns", 15)
wrong("02.1", "whole filter", 25)
wrong("02.1", "Yours is 20", 20)
wrong("02.1", "Yours is 8", 8)
wrong("02.1", "Yours is 0", 0)
wrong("02.1", "whole number", "9", 4.5, (3, 3))


# --- 02.2: the window of an output ---
@right("02.2")
def by_division(o, size, taps, stride, padding, dilation):
    origin = o * stride - padding
    return max(0, -(origin // dilation)), min(taps, (size - 1 - origin) // dilation + 1)


@right("02.2")
def by_trying(o, size, taps, stride, padding, dilation):
    kept = [f for f in range(taps) if 0 <= o * stride - padding + f * dilation < size]
    return (kept[0], kept[-1] + 1) if kept else (0, 0)


@right("02.2")
def with_math(o, size, taps, stride, padding, dilation):
    lo = math.ceil((padding - o * stride) / dilation)
    hi = math.floor((size - 1 - o * stride + padding) / dilation) + 1
    return [max(lo, 0), min(hi, taps)]


def mutated(change):
    def answer(o, size, taps, stride, padding, dilation):
        return change(o, size, taps, stride, padding, dilation, o * stride - padding)

    return answer


@wrong("02.2", ("For o=0, size=4, taps=3, stride=1", "whose input -1 lies on the padding before x"))
@mutated
def no_lower_trim(o, size, taps, stride, padding, dilation, origin):
    return 0, min(taps, (size - 1 - origin) // dilation + 1)


@wrong("02.2", ("For o=3, size=4", "lies past the end of x"))
@mutated
def no_upper_trim(o, size, taps, stride, padding, dilation, origin):
    return max(0, -(origin // dilation)), taps


@wrong("02.2", ("tap -1", "no tap below 0"))
@mutated
def no_max(o, size, taps, stride, padding, dilation, origin):
    return -(origin // dilation), min(taps, (size - 1 - origin) // dilation + 1)


@wrong("02.2", "only 3 taps")
@mutated
def no_min(o, size, taps, stride, padding, dilation, origin):
    return max(0, -(origin // dilation)), (size - 1 - origin) // dilation + 1


@wrong("02.2", ("lacks tap 2", "hi is the first tap that is NOT used"))
@mutated
def last_and_not_past_it(o, size, taps, stride, padding, dilation, origin):
    lo, hi = by_division(o, size, taps, stride, padding, dilation)
    return lo, hi - 1


@wrong("02.2", ("dilation=2", "lies on the padding before x. Round lo up"))
@mutated
def floor_for_ceiling(o, size, taps, stride, padding, dilation, origin):
    return max(0, -origin // dilation), min(taps, (size - 1 - origin) // dilation + 1)


@wrong("02.2", "dilation=2")
@mutated
def no_dilation(o, size, taps, stride, padding, dilation, origin):
    return by_division(o, size, taps, stride, padding, 1)


@wrong("02.2", "stride=2")
@mutated
def no_stride(o, size, taps, stride, padding, dilation, origin):
    return by_division(o, size, taps, 1, padding, dilation)


@wrong("02.2", ("padding=1", "whose input -1 lies on the padding"))
@mutated
def no_padding(o, size, taps, stride, padding, dilation, origin):
    return by_division(o, size, taps, stride, 0, dilation)


@wrong("02.2", "lo is 1.0, no whole number: divide with //")
@mutated
def true_division(o, size, taps, stride, padding, dilation, origin):
    return max(0, -origin / dilation), min(taps, (size - 1 - origin) / dilation + 1)


@wrong("02.2", ("For o=0, size=4", "return two numbers, lo and hi. You returned range(1, 3)"))
@mutated
def a_range(o, size, taps, stride, padding, dilation, origin):
    return range(*by_division(o, size, taps, stride, padding, dilation))


@wrong("02.2", "lo, hi should be (1, 3), and yours are (3, 1)")
@mutated
def swapped(o, size, taps, stride, padding, dilation, origin):
    return by_division(o, size, taps, stride, padding, dilation)[::-1]


@wrong("02.2", "does not end")
@mutated
def endless(o, size, taps, stride, padding, dilation, origin):
    lo = 0
    while origin + lo * dilation < 0:
        origin -= 1
    return lo, taps


wrong("02.2", "return two numbers", lambda *_: 3, lambda *_: (1, 2, 3))


# --- 02.3: the number of groups ---
def windows(axis):
    sizes = axis.size, axis.taps, axis.stride, axis.before, axis.dilation
    return [geometry.taps_of_output(o, *sizes) for o in range(axis.outputs)]


@right("02.3")
def by_sets(shape):
    return len(set(windows(shape.h))) * len(set(windows(shape.w)))


@right("02.3")
def by_all_pairs(shape):
    return len({(down, across) for down in windows(shape.h) for across in windows(shape.w)})


@right("02.3")
def by_changes(shape):
    count = 1
    for axis in (shape.h, shape.w):
        found = windows(axis)
        count *= 1 + sum(one != other for one, other in zip(found, found[1:], strict=False))
    return np.int64(count)


wrong("02.3", "multiply, do not add", lambda shape: len(set(windows(shape.h))) + len(set(windows(shape.w))))
wrong("02.3", "number of outputs", lambda shape: shape.oh * shape.ow)
wrong("02.3", "number of outputs", lambda shape: len(windows(shape.h)) * len(windows(shape.w)))
wrong("02.3", "windows of the rows alone", lambda shape: len(set(windows(shape.h))))
wrong("02.3", "windows of the columns alone", lambda shape: len(set(windows(shape.w))))
wrong("02.3", "The columns have a size of their own", lambda shape: len(set(windows(shape.h))) ** 2)
wrong("02.3", "The rows have a size of their own", lambda shape: len(set(windows(shape.w))) ** 2)
wrong("02.3", "number of taps", lambda shape: shape.fh * shape.fw)
wrong("02.3", "Not every layer has nine groups", lambda shape: 9)
wrong(
    "02.3",
    ("For a map of 8 x 11, a filter of 3 x 3, stride 1, padding 1 and dilation 1 it should be 9, and yours is 4"),
    lambda shape: 4,
)
wrong("02.3", "should return a number", lambda shape: set(windows(shape.h)), lambda shape: True)
wrong("02.3", "raised AttributeError", lambda shape: shape.outputs)
wrong("02.3", "returns None", lambda shape: None)


# --- 02.4: the kernel ---
@right("02.4")
@cuda.jit
def trimmed(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@right("02.4")
@cuda.jit
def with_tests(x, w, y, stride, padding):
    o = cuda.threadIdx.x + cuda.blockIdx.x * cuda.blockDim.x
    if o >= len(y):
        return
    y[o] = 0
    for f in range(len(w)):
        i = o * stride + f - padding
        if i >= 0 and i < len(x):
            y[o] += w[f] * x[i]


@right("02.4")
@cuda.jit
def over_the_inputs(x, w, y, stride, padding):
    for o in range(cuda.grid(1), y.shape[0], cuda.gridsize(1)):
        acc = np.float32(0)
        first = o * stride - padding
        i = max(first, 0)
        while i < x.shape[0] and i - first < w.shape[0]:
            acc += x[i] * w[i - first]
            i += 1
        y[o] = acc


@wrong("02.4", ("does not compile", "A kernel cannot call", "np.dot(x[lo:hi], w[lo:hi])"))
@cuda.jit
def by_numpy(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        lo, hi = 0, w.size
        y[o] = np.dot(x[lo:hi], w[lo:hi])


@wrong("02.4", ("does not compile", "no Python lists", "sum([x[o * stride"))
@cuda.jit
def by_a_list(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        lo, hi = max(0, padding - o * stride), min(w.size, x.size - o * stride + padding)
        y[o] = sum([x[o * stride - padding + f] * w[f] for f in range(lo, hi)])


@wrong("02.4", ("out of bounds", "number 4, has none and must stop"))
@cuda.jit
def no_guard(x, w, y, stride, padding):
    o = cuda.grid(1)
    y[o] = 0


@wrong("02.4", ("negative index: the index -1", "stride=1, padding=1"))
@cuda.jit
def no_lower_trim_(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        acc = y.dtype.type(0)
        for f in range(min(w.size, x.size - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.4", ("out of bounds: reads x[4], but x has 4 elements", "both ends"))
@cuda.jit
def no_upper_trim_(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), w.size):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.4", ("multiply w[0] by a zero that padding", "y[0]"))
@cuda.jit
def multiplies_zeros(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(w.size):
            i = o * stride - padding + f
            inside = 0 <= i and i < x.size
            acc += (x[i] if inside else y.dtype.type(0)) * w[f]
        y[o] = acc


@wrong("02.4", ("float64", "acc += x[origin + f] * w[f]"))
@cuda.jit
def in_float64(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        acc = 0
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.4", ("stride=2", "The stride is missing"))
@cuda.jit
def no_stride_(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o - padding
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.4", "The padding is missing")
@cuda.jit
def no_padding_(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.4", "Only one product of each sum is left")
@cuda.jit
def returns_early(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        y[o] = 0
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            y[o] = x[origin + f] * w[f]
            return


@wrong("02.4", "The filter is turned around")
@cuda.jit
def turned(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            acc += x[origin + f] * w[w.size - 1 - f]
        y[o] = acc


@wrong("02.4", "The last input is never used")
@cuda.jit
def one_too_few(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), min(w.size, x.size - 1 - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.4", "race")
@cuda.jit
def a_thread_an_input(x, w, y, stride, padding):
    i = cuda.grid(1)
    if i < y.size:
        y[i] = 0
    cuda.syncthreads()
    if i < x.size:
        for f in range(w.size):
            o, rest = divmod(i + padding - f, stride)
            if rest == 0 and 0 <= o < y.size:
                y[o] += x[i] * w[f]


@wrong("02.4", ("It takes 4 arguments, and is launched with 5",))
@cuda.jit
def other_arguments(x, w, y, stride):
    y[0] = 0


@wrong("02.4", "endless loop")
@cuda.jit
def never_ends(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        y[o] = 0
        f = 0
        while f < w.size:
            if 0 <= o * stride - padding + f < x.size:
                y[o] += x[o * stride - padding + f] * w[f]
                f += 1


@wrong("02.4", "what y held before")
@cuda.jit
def adds_to_the_old(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            y[o] += x[origin + f] * w[f]


wrong("02.4", "keep the line @cuda.jit", lambda x, w, y, stride, padding: None)


@wrong("02.4", "leave out device=True")
@cuda.jit(device=True)
def for_other_kernels(x, w, y, stride, padding):
    y[cuda.grid(1)] = 0


@wrong("02.4", ("yours: y[0] = x[0]*w[0]", "right: y[0] = x[0]*w[1] + x[1]*w[2]"))
@cuda.jit
def one_product(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        y[o] = x[0] * w[0]


# --- more of each ---
@wrong("02.2", "It lacks tap 2, whose input 7 lies on x")
def a_last_tap_only_where_it_fits(o, size, taps, stride, padding, dilation):
    origin = o * stride - padding
    return max(0, -(origin // dilation)), min(taps, (size - origin) // dilation)


@wrong("02.2", "You return hi, lo")
def the_other_way_round(o, size, taps, stride, padding, dilation):
    return geometry.taps_of_output(o, size, taps, stride, padding, dilation)[::-1]


def _windows(axis, outputs=None, dilation=None):
    sizes = axis.size, axis.taps, axis.stride, axis.before, dilation or axis.dilation
    return [geometry.taps_of_output(o, *sizes) for o in range(outputs or axis.outputs)]


@wrong("02.3", "The dilation is missing")
def groups_without_dilation(shape):
    return len(set(_windows(shape.h, dilation=1))) * len(set(_windows(shape.w, dilation=1)))


@wrong("02.3", ("it should be 6, and yours is 9", "Rows and columns need a set each"))
def groups_of_one_set_for_both_axes(shape):
    return len({*windows(shape.h), *windows(shape.w)}) ** 2


@wrong("02.3", "2*padding + 1 windows")
def groups_by_the_padding(shape):
    return (2 * shape.h.before + 1) * (2 * shape.w.before + 1)


@wrong("02.3", "one column only, that of the same number")
def groups_on_the_diagonal(shape):
    return len(set(zip(_windows(shape.h), _windows(shape.w), strict=False)))


@wrong("02.3", "equally many taps may still differ")
def groups_by_length(shape):
    return len({hi - lo for lo, hi in _windows(shape.h)}) * len({hi - lo for lo, hi in _windows(shape.w)})


@wrong("02.3", "only where windows begin")
def groups_by_lo(shape):
    return len({lo for lo, _ in _windows(shape.h)}) * len({lo for lo, _ in _windows(shape.w)})


@wrong("02.3", "range(axis.outputs)")
def groups_over_the_size(shape):
    return len(set(_windows(shape.h, shape.ih))) * len(set(_windows(shape.w, shape.iw)))


@right("02.3")
def groups_by_changes(shape):
    count = 1
    for windows in (_windows(shape.h), _windows(shape.w)):
        count *= 1 + sum(one != next_one for one, next_one in zip(windows[:-1], windows[1:], strict=True))
    return count


@wrong("02.4", "8 of 12 results were never written, such as y[4]")
@cuda.jit
def by_the_number_in_the_block(x, w, y, stride, padding):
    o = cuda.threadIdx.x
    if o < y.size:
        origin = o * stride - padding
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.4", "The kernel gets x, w, y, stride, padding, in this order")
@cuda.jit
def with_another_first_line(x, w, y, padding, stride):
    o = cuda.grid(1)
    if o < y.size:
        origin = o * stride - padding
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.4", "8 threads compute x[0]*w[1], and 1 would do")
@cuda.jit
def every_thread_makes_all(x, w, y, stride, padding):
    for o in range(y.size):
        origin = o * stride - padding
        acc = y.dtype.type(0)
        for f in range(max(0, -origin), min(w.size, x.size - origin)):
            acc += x[origin + f] * w[f]
        y[o] = acc


@wrong("02.2", ("you return the taps themselves, [1, 2]", "lo, hi"))
def taps_in_a_list(o, size, taps, stride, padding, dilation):
    return [f for f in range(taps) if 0 <= o * stride - padding + f * dilation < size]


# --- right for positive numbers alone ---
@wrong("02.4", ("With negative numbers in x", "whatever its sign"))
@cuda.jit
def keeps_the_larger_sum(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(max(0, padding - o * stride), min(w.size, x.size + padding - o * stride)):
            acc = max(acc, acc + x[o * stride - padding + f] * w[f])
        y[o] = acc


@right("02.4")
@cuda.jit
def with_conversions_and_fma(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        acc = float32(0)
        for f in range(max(0, padding - o * stride), min(w.size, x.size + padding - o * stride)):
            acc = cuda.fma(np.float32(x[o * stride - padding + f]), float32(w[f]), acc)
        y[o] = acc


@wrong("02.4", "does 12 products where 10 are useful")
@cuda.jit
def throws_converted_products_away(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(w.size):
            i = o * stride - padding + f
            product = float32(x[min(max(i, 0), x.size - 1)]) * float32(w[f])
            if 0 <= i < x.size:
                acc += product
        y[o] = acc


@wrong("02.4", "one thread does 10 products, and no result has more than 3")
@cuda.jit
def one_thread_multiplies_sums(x, w, y, stride, padding):
    if cuda.grid(1) == 0:
        for o in range(y.size):
            acc = y.dtype.type(0)
            for f in range(max(0, padding - o * stride), min(w.size, x.size + padding - o * stride)):
                i = o * stride - padding + f
                acc += (x[i] + x[i] - x[i]) * w[f]
            y[o] = acc


@wrong("02.4", ("cannot follow this line: acc += cuda.selp(f < w.size, x[o", "Write it without selp: elements such as"))
@cuda.jit
def with_an_instruction(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(max(0, padding - o * stride), min(w.size, x.size + padding - o * stride)):
            acc += cuda.selp(f < w.size, x[o * stride - padding + f], w[0]) * w[f]
        y[o] = acc


@wrong("02.4", ("cannot follow this line: if 0 <= i < x.size and x[i] > -1e9:", "Compare indices, and not elements"))
@cuda.jit
def compares_elements(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(w.size):
            i = o * stride - padding + f
            if 0 <= i < x.size and x[i] > -1e9:
                acc += x[i] * w[f]
        y[o] = acc


@wrong("02.4", ("cannot follow this line: o = grid(1)", "called by way of cuda, such as cuda.grid"))
@cuda.jit
def without_cuda(x, w, y, stride, padding):
    o = grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(max(0, padding - o * stride), min(w.size, x.size + padding - o * stride)):
            acc += x[o * stride - padding + f] * w[f]
        y[o] = acc


WITHOUT_SOURCE: dict[str, Any] = {"cuda": cuda}
exec(
    """
@cuda.jit
def without_source(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(max(0, padding - o * stride), min(w.size, x.size + padding - o * stride)):
            acc += x[o * stride - padding + f] * w[f]
        y[o] = acc
""",
    WITHOUT_SOURCE,
)
wrong("02.4", "cannot read it: write the kernel with def, in a cell of its own", WITHOUT_SOURCE["without_source"])


@wrong("02.4", ("cannot follow this barrier: jit.cuda.syncthreads()", "Write cuda.syncthreads(), on a line of its own"))
@cuda.jit
def with_another_name_of_the_barrier(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for f in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[f] = w[f]
    jit.cuda.syncthreads()
    o = cuda.grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(max(0, padding - o * stride), min(w.size, x.size + padding - o * stride)):
            acc += x[o * stride - padding + f] * taps[f]
        y[o] = acc


@wrong("02.2", "lacks tap 2, whose input 3 lies on x.")
def padding_subtracted_again(o, size, taps, stride, padding, dilation):
    origin = o * stride - padding
    return max(0, -(origin // dilation)), min(taps, (size - 1 - padding - origin) // dilation + 1)
