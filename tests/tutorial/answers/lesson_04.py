"""Answers to the exercises of 04_sk_dilated."""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from cks_numba.kernels.jit import outputs_of_tap

from . import right, wrong

# --- 04.1: the length of dy with inserted zeros ---
right(
    "04.1",
    lambda outputs, stride: (outputs - 1) * stride + 1,
    lambda outputs, stride: outputs + (outputs - 1) * (stride - 1),
    lambda outputs, stride: np.int64(len(range(0, outputs * stride - stride + 1))),
)
wrong("04.1", ("For outputs=3, stride=2", "after the last element"), lambda outputs, stride: outputs * stride)
wrong("04.1", "Add the elements", lambda outputs, stride: (outputs - 1) * (stride - 1))
wrong("04.1", "lacks the last element", lambda outputs, stride: (outputs - 1) * stride)
wrong("04.1", "s - 1 zeros in each gap", lambda outputs, stride: outputs + (outputs - 1) * stride)
wrong("04.1", "as many as the stride", lambda outputs, stride: outputs + outputs * stride)
wrong("04.1", "outputs - 1 gaps", lambda outputs, stride: outputs * stride + 1)
wrong("04.1", ("For outputs=4, stride=3 it should be 10, and yours is 5",), lambda outputs, stride: 5)
wrong("04.1", "it should be 5, and yours is 3", lambda outputs, stride: outputs)
wrong("04.1", "it should be 5, and yours is 4", lambda outputs, stride: (stride - 1) * outputs + 1)
wrong("04.1", "should be a function", 5)
wrong("04.1", "returns None", lambda outputs, stride: print(end=""))
wrong("04.1", "should return a number, not '5'", lambda outputs, stride: "5")
wrong("04.1", "raised TypeError", lambda outputs: outputs)


# --- 04.2: the outputs that a tap meets ---
@wrong("04.2", ("calls what only a kernel can call: return outputs_of_tap(", "with plain Python alone"))
def by_the_device_function(f, size, outputs, stride, padding, dilation):
    return outputs_of_tap(f, size, outputs, stride, padding, dilation)


@wrong("04.2", "calls what only a kernel can call: f = cuda.grid(1)")
def of_a_thread(f, size, outputs, stride, padding, dilation):
    f = cuda.grid(1)
    return f, f + 1


wrong("04.2", "should be a plain Python function: leave out what stands above it", outputs_of_tap)


@right("04.2")
def by_ceilings(f, size, outputs, stride, padding, dilation):
    first = -(-(padding - f * dilation) // stride)
    last = math.floor((size - 1 + padding - f * dilation) / stride)
    return max(first, 0), min(last, outputs - 1) + 1


@right("04.2")
def as_a_list(f, size, outputs, stride, padding, dilation):
    return [*by_ceilings(f, size, outputs, stride, padding, dilation)]


@right("04.2")
def empty_the_other_way(f, size, outputs, stride, padding, dilation):
    lo, hi = by_ceilings(f, size, outputs, stride, padding, dilation)
    return (lo, hi) if lo < hi else (7, -5)


def mutated(change):
    def answer(f, size, outputs, stride, padding, dilation):
        return change(f, size, outputs, stride, padding, dilation, f * dilation - padding)

    return answer


@wrong("04.2", "whose input is -1: it lies before x")
@mutated
def no_lower_trim(f, size, outputs, stride, padding, dilation, origin):
    return 0, min(outputs, (size - 1 - origin) // stride + 1)


@wrong("04.2", "lies past the last one")
@mutated
def no_upper_trim(f, size, outputs, stride, padding, dilation, origin):
    return max(0, -(origin // stride)), outputs


@wrong("04.2", ("has o=-1", "Use max() and min()"))
@mutated
def no_max(f, size, outputs, stride, padding, dilation, origin):
    return -(origin // stride), min(outputs, (size - 1 - origin) // stride + 1)


@wrong("04.2", ("but o goes from 0 to", "Use max() and min()"))
@mutated
def no_min(f, size, outputs, stride, padding, dilation, origin):
    return max(0, -(origin // stride)), (size - 1 - origin) // stride + 1


@wrong("04.2", ("The first o needs a ceiling", "f="))
@mutated
def floor_for_ceiling(f, size, outputs, stride, padding, dilation, origin):
    return max(0, -origin // stride), min(outputs, (size - 1 - origin) // stride + 1)


@wrong("04.2", "is the first o that is NOT met")
@mutated
def last_and_not_past_it(f, size, outputs, stride, padding, dilation, origin):
    return max(0, -(origin // stride)), min(outputs - 1, (size - 1 - origin) // stride)


@wrong("04.2", "dilation=2")
@mutated
def no_dilation(f, size, outputs, stride, padding, dilation, origin):
    return by_ceilings(f, size, outputs, stride, padding, 1)


@wrong("04.2", "stride=2")
@mutated
def no_stride(f, size, outputs, stride, padding, dilation, origin):
    return by_ceilings(f, size, outputs, 1, padding, dilation)


@wrong("04.2", "padding=1")
@mutated
def no_padding(f, size, outputs, stride, padding, dilation, origin):
    return by_ceilings(f, size, outputs, stride, 0, dilation)


@wrong("04.2", "dilation=2")
@mutated
def stride_and_dilation_swapped(f, size, outputs, stride, padding, dilation, origin):
    return by_ceilings(f, size, outputs, dilation, padding, stride)


@wrong("04.2", "no whole numbers: divide with //")
@mutated
def true_division(f, size, outputs, stride, padding, dilation, origin):
    return max(0, -origin / stride), min(outputs, (size - 1 - origin) / stride + 1)


@wrong("04.2", "does not end")
@mutated
def endless(f, size, outputs, stride, padding, dilation, origin):
    o = 0
    while origin < size:
        o += 1
    return o, outputs


wrong("04.2", "Return two numbers", lambda *_: 1, lambda f, size, outputs, *_: range(outputs + 3))
wrong("04.2", "ZeroDivisionError", lambda *_: (1 // 0, 1))


# --- 04.3: the same sum for every order of arrival ---
@right("04.3")
def in_order(arrived):
    acc = np.float32(0)
    for _, value in sorted(arrived):
        acc += np.float32(value)
    return acc


@right("04.3")
def exact(arrived):
    return np.float32(math.fsum(value for _, value in arrived))


@right("04.3")
def by_place(arrived):
    parts = np.zeros(len(arrived), np.float32)
    for number, value in arrived:
        parts[number] = value
    return np.add.accumulate(parts)[-1]


@wrong("04.3", ("different sums", "order of the numbers"))
def as_they_come(arrived):
    acc = np.float32(0)
    for _, value in arrived:
        acc += np.float32(value)
    return acc


wrong("04.3", "different sums", lambda arrived: np.float32(sum(value for _, value in arrived)))
wrong("04.3", "A wider type makes that rarer", lambda arrived: np.float32(np.sum([v for _, v in arrived], dtype=float)))
wrong("04.3", "added the numbers of the parts", lambda arrived: np.float32(sum(number for number, _ in arrived)))
wrong("04.3", "yours is 4", lambda arrived: np.float32(sorted(arrived)[-1][1]))
wrong("04.3", "yours is 0.5", lambda arrived: np.float32(sorted(arrived)[0][1]))
wrong("04.3", "yours is 0.75", lambda arrived: np.float32(sum(value for _, value in sorted(arrived)[:-1])))
wrong("04.3", "yours is 7.75", lambda arrived: np.float32(sum(map(sum, sorted(arrived)))))
wrong("04.3", "one number", lambda arrived: [value for _, value in arrived])
wrong("04.3", "one number", lambda arrived: sorted(arrived), lambda arrived: np.zeros(100))
wrong("04.3", "not in float32", lambda arrived: float(sum(value for _, value in sorted(arrived))))
wrong("04.3", "returns None", lambda arrived: arrived.sort())


@wrong("04.3", "does not end")
def never_done(arrived):
    acc = np.float32(0)
    while arrived:
        acc += np.float32(arrived[0][1])
    return acc


@wrong("04.3", "does not end")
def in_one_line(arrived):
    while True:
        pass


@wrong("04.3", "The largest float16 is 65504")
def in_half_precision(arrived):
    acc = np.float16(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for _, value in sorted(arrived):
            acc += np.float16(value)
    return np.float32(acc)


@wrong("04.3", "yours is 0.25")
def returns_in_the_loop(arrived):
    for _, value in arrived:
        return np.float32(value)


@wrong("04.3", ("different sums", "in the order of the numbers of the parts"))
def sorts_by_the_first_digit(arrived):
    acc = np.float32(0)
    for _, value in sorted(arrived, key=lambda pair: str(pair[0])[0]):
        acc += np.float32(value)
    return acc


# --- 04.4: the kernel ---
@right("04.4")
@cuda.jit
def tests_in_the_loop(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        acc = dw.dtype.type(0)
        for o in range(dy.size):
            i = o * stride - padding + f
            if 0 <= i < x.size:
                acc += x[i] * dy[o]
        dw[f] = acc


@right("04.4")
@cuda.jit
def with_the_device_function(x, dy, dw, stride, padding):
    f = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if f >= dw.shape[0]:
        return
    lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
    dw[f] = 0
    for o in range(lo, hi):
        dw[f] += dy[o] * x[o * stride + f - padding]


@right("04.4")
@cuda.jit
def over_the_inputs(x, dy, dw, stride, padding):
    for f in range(cuda.grid(1), dw.size, cuda.gridsize(1)):
        acc = np.float32(0)
        i = f - padding
        o = 0
        while i < 0 and o < dy.size:
            i += stride
            o += 1
        while i < x.size and o < dy.size:
            acc += x[i] * dy[o]
            i += stride
            o += 1
        dw[f] = acc


@wrong("04.4", ("race", "dw[f] += x[i] * dy[o]", "stride=2, padding=1"))
@cuda.jit
def a_thread_an_output(x, dy, dw, stride, padding):
    o = cuda.grid(1)
    if o < dw.size:
        dw[o] = 0
    cuda.syncthreads()
    if o < dy.size:
        for f in range(dw.size):
            i = o * stride - padding + f
            if 0 <= i < x.size:
                dw[f] += x[i] * dy[o]


@wrong("04.4", ("multiply dy[0] by a zero that padding", "dw[0]"))
@cuda.jit
def zero_for_padding(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        acc = dw.dtype.type(0)
        for o in range(dy.size):
            i = o * stride - padding + f
            v = dw.dtype.type(0)
            if 0 <= i < x.size:
                v = x[i]
            acc += v * dy[o]
        dw[f] = acc


@wrong("04.4", "does 9 products where 7 are useful")
@cuda.jit
def multiplies_and_throws_away(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        acc = dw.dtype.type(0)
        for o in range(dy.size):
            i = o * stride - padding + f
            product = x[min(max(i, 0), x.size - 1)] * dy[o]
            if 0 <= i < x.size:
                acc += product
        dw[f] = acc


@wrong("04.4", ("float64", "acc += x[o * stride - padding + f] * dy[o]"))
@cuda.jit
def in_float64(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        acc = 0.0
        for o in range(lo, hi):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc


@wrong("04.4", ("out of bounds", "number 3, has none and must stop"))
@cuda.jit
def no_guard(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
    acc = dw.dtype.type(0)
    for o in range(lo, hi):
        acc += x[o * stride - padding + f] * dy[o]
    dw[f] = acc


@wrong("04.4", "The stride is missing")
@cuda.jit
def walks_in_steps_of_1(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        acc = dw.dtype.type(0)
        for o in range(dy.size):
            if 0 <= o - padding + f < x.size:
                acc += x[o - padding + f] * dy[o]
        dw[f] = acc


@wrong("04.4", ("negative index: the index -1", "acc += x[o * stride - padding + f] * dy[o]"))
@cuda.jit
def no_lower_trim_(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        _, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        acc = dw.dtype.type(0)
        for o in range(0, hi):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc


@wrong("04.4", ("out of bounds", "x has 5 elements", "both ends"))
@cuda.jit
def no_upper_trim_(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, _ = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        acc = dw.dtype.type(0)
        for o in range(lo, dy.size):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc


@wrong("04.4", "The padding is missing")
@cuda.jit
def without_padding(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        acc = dw.dtype.type(0)
        for o in range(dy.size):
            if o * stride + f < x.size:
                acc += x[o * stride + f] * dy[o]
        dw[f] = acc


@wrong("04.4", "Only one product of each sum is left")
@cuda.jit
def keeps_the_last(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        dw[f] = 0
        lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        for o in range(lo, hi):
            dw[f] = x[o * stride - padding + f] * dy[o]


@wrong("04.4", "never written")
@cuda.jit
def nothing_for_an_empty_range(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        if lo >= hi:
            return
        acc = dw.dtype.type(0)
        for o in range(lo, hi):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc


@wrong("04.4", "what dw held before")
@cuda.jit
def adds_to_the_old(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        acc = dw[f]
        for o in range(lo, hi):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc


@wrong("04.4", "The last output is missing")
@cuda.jit
def one_too_few(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        acc = dw.dtype.type(0)
        for o in range(lo, min(hi, dy.size - 1)):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc


@wrong("04.4", "endless loop")
@cuda.jit
def never_ends(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        o = 0
        dw[f] = 0
        while o < dy.size:
            i = o * stride - padding + f
            if 0 <= i < x.size:
                dw[f] += x[i] * dy[o]
                o += 1


@wrong("04.4", ("does not compile", "A kernel cannot call", "np.dot(x[lo:hi]"))
@cuda.jit
def by_numpy(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        dw[f] = np.dot(x[lo:hi], dy[lo:hi])


wrong("04.4", "keep the line @cuda.jit", lambda x, dy, dw, stride, padding: None)


@wrong("04.4", "a range() begins too late")
@cuda.jit
def begins_too_late(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding, 1)
        acc = dw.dtype.type(0)
        for o in range(lo + 1, hi):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc


# --- more of each ---
@wrong("04.1", "one gap only")
def one_gap(outputs, stride):
    return outputs + stride - 1


@wrong("04.1", "for stride 2 alone")
def gaps_of_one(outputs, stride):
    return 2 * outputs - 1


@wrong("04.1", "too many at the end, not one")
def one_less_than_all(outputs, stride):
    return outputs * stride - 1


@wrong("04.1", "before the first element")
def gaps_outside(outputs, stride):
    return (outputs + 1) * stride - 1


def _outputs(f, size, outputs, stride, padding, dilation):
    first = padding - f * dilation
    return max(0, -(-first // stride)), min(outputs, (size - 1 + first) // stride + 1)


@wrong("04.2", "its input is 2, which lies on x. Divide by the stride, not by the dilation.")
def divides_by_dilation(f, size, outputs, stride, padding, dilation):
    origin = padding - f * dilation
    return max(0, -(-origin // dilation)), min(outputs, (size - 1 + origin) // dilation + 1)


@wrong("04.2", "Stride and dilation have changed places")
def with_both_changed(f, size, outputs, stride, padding, dilation):
    return _outputs(f, size, outputs, dilation, padding, stride)


@wrong("04.2", "The padding is missing")
def without_the_padding(f, size, outputs, stride, padding, dilation):
    return _outputs(f, size, outputs, stride, 0, dilation)


@wrong("04.2", "The dilation is missing")
def without_dilation(f, size, outputs, stride, padding, dilation):
    return _outputs(f, size, outputs, stride, padding, 1)


@wrong("04.2", "The stride is missing")
def without_stride(f, size, outputs, stride, padding, dilation):
    return _outputs(f, size, outputs, 1, padding, dilation)


@wrong("04.2", "the wrong sign")
def with_a_wrong_sign(f, size, outputs, stride, padding, dilation):
    return _outputs(-f, size, outputs, stride, padding, dilation)


@wrong("04.2", "in the wrong order")
def the_last_first(f, size, outputs, stride, padding, dilation):
    return _outputs(f, size, outputs, stride, padding, dilation)[::-1]


@wrong("04.4", "does not compile")
@cuda.jit
def called_without_dilation(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, hi = outputs_of_tap(f, x.size, dy.size, stride, padding)
        acc = dw.dtype.type(0)
        for o in range(lo, hi):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc


@wrong("04.4", ("15 products where 7 are useful", "by a zero, or thrown away"))
@cuda.jit
def with_inserted_zeros(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        acc = dw.dtype.type(0)
        for i in range(x.size):
            value = dw.dtype.type(0)
            o = (i + padding - f) // stride
            if (i + padding - f) % stride == 0 and 0 <= o < dy.size:
                value = dy[o]
            acc += x[i] * value
        dw[f] = acc


# --- a loop over all outputs ---
@wrong("04.2", "without a loop")
def by_trying_every_output(f, size, outputs, stride, padding, dilation):
    met = [o for o in range(outputs) if 0 <= o * stride - padding + f * dilation < size]
    return (met[0], met[-1] + 1) if met else (0, 0)


@wrong("04.3", "largest float16 is 65504")
def in_float16(arrived):
    with np.errstate(all="ignore"):
        sums = np.cumsum(np.array([value for _, value in sorted(arrived)], np.float16))
    return np.float32(sums[-1])


@wrong("04.4", "An atomic addition adds to what dw held before")
@cuda.jit
def atomic_scatter(x, dy, dw, stride, padding):
    o = cuda.grid(1)
    if o < dy.size:
        for f in range(dw.size):
            i = o * stride - padding + f
            if 0 <= i < x.size:
                cuda.atomic.add(dw, f, x[i] * dy[o])


@wrong("04.4", "is this the index that you mean?")
@cuda.jit
def stride_and_padding_swapped(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        lo, hi = outputs_of_tap(f, x.size, dy.size, padding, stride, 1)
        acc = dw.dtype.type(0)
        for o in range(lo, hi):
            acc += x[o * stride - padding + f] * dy[o]
        dw[f] = acc
