"""Answers to the exercises of 01_one_equation."""

from __future__ import annotations

import numpy as np

from . import right, wrong

# --- 01.1: the input that output 3 meets ---
right("01.1", 5, 3 * 2 - 1 + 0 * 1, np.int64(5), 5.0)
wrong("01.1", "padding moves everything to the left", 6)
wrong("01.1", "The padding comes off: the first output", 7)
wrong("01.1", "That is o alone", 3)
wrong("01.1", "That is o - padding", 2)
wrong("01.1", "after o*stride, and not before", 4)
wrong("01.1", "where output 0 begins", -1)
wrong("01.1", "where output 1 begins", 1)
wrong("01.1", "Yours is 0", 0)
wrong("01.1", "Yours is 8", 8)
wrong("01.1", "whole number", "5", 5.5, (5,))


# --- 01.2: the number of real triples ---
def outputs_of(size, taps, stride, padding, dilation):
    return (size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1


@right("01.2")
def by_loops(size, taps, stride, padding, dilation):
    count = 0
    for o in range(outputs_of(size, taps, stride, padding, dilation)):
        for f in range(taps):
            if 0 <= o * stride - padding + f * dilation < size:
                count += 1
    return count


@right("01.2")
def by_numpy(size, taps, stride, padding, dilation):
    o = np.arange(outputs_of(size, taps, stride, padding, dilation))[:, None]
    i = o * stride - padding + np.arange(taps) * dilation
    return ((i >= 0) & (i < size)).sum()


@right("01.2")
def by_inputs(size, taps, stride, padding, dilation):
    outputs, count = range(outputs_of(size, taps, stride, padding, dilation)), 0
    for i in range(size):
        for f in range(taps):
            o, rest = divmod(i + padding - f * dilation, stride)
            count += rest == 0 and o in outputs
    return float(count)


def counting(test):
    """A count of all o and f that pass a test."""

    def answer(size, taps, stride, padding, dilation):
        outputs = outputs_of(size, taps, stride, padding, dilation)
        pairs = [(o, f) for o in range(outputs) for f in range(taps)]
        return sum(bool(test(o, f, size, taps, stride, padding, dilation)) for o, f in pairs)

    return answer


wrong("01.2", ("size=7, taps=3, stride=1, padding=1, dilation=3", "f*dilation"), counting(
    lambda o, f, n, t, s, p, d: 0 <= o * s - p + f < n))  # fmt: skip
wrong("01.2", "Outputs are `stride` apart", counting(lambda o, f, n, t, s, p, d: 0 <= o - p + f * d < n))
wrong("01.2", "The padding is missing", counting(lambda o, f, n, t, s, p, d: 0 <= o * s + f * d < n))
wrong("01.2", "The padding is missing", counting(lambda o, f, n, t, s, p, d: 0 <= o * s + f * d < n))
wrong(
    "01.2", "Stride and dilation have changed places", counting(lambda o, f, n, t, s, p, d: 0 <= o * d - p + f * s < n)
)
wrong("01.2", "leave out those whose i is not on x", counting(lambda *_: True))
wrong("01.2", "test 0 <= i too", counting(lambda o, f, n, t, s, p, d: o * s - p + f * d < n))
wrong("01.2", "test i < size too", counting(lambda o, f, n, t, s, p, d: o * s - p + f * d >= 0))
wrong("01.2", "Input 0 is on x", counting(lambda o, f, n, t, s, p, d: 0 < o * s - p + f * d < n))
wrong("01.2", "Input size is not on x", counting(lambda o, f, n, t, s, p, d: 0 <= o * s - p + f * d <= n))
wrong("01.2", "The last tap is missing", counting(lambda o, f, n, t, s, p, d: 0 <= o * s - p + f * d < n and f < t - 1))
wrong("01.2", "it should be 10, and yours is 12", lambda size, taps, stride, padding, dilation: 12)
wrong("01.2", "should return a number", lambda size, taps, stride, padding, dilation: [(0, 0, 0)])
wrong("01.2", "returns None", lambda size, taps, stride, padding, dilation: None)


@wrong("01.2", ("size=4, taps=3", "does not end"))
def endless(size, taps, stride, padding, dilation):
    o = count = 0
    while o < outputs_of(size, taps, stride, padding, dilation):
        for f in range(taps):
            count += 0 <= o * stride - padding + f * dilation < size
    return count


@wrong("01.2", "it should be 10, and yours is")
def returns_in_the_loop(size, taps, stride, padding, dilation):
    count = 0
    for o in range(outputs_of(size, taps, stride, padding, dilation)):
        for f in range(taps):
            count += 0 <= o * stride - padding + f * dilation < size
        return count


# --- 01.3: the filter gradient ---
@right("01.3")
def three_loops(x, dy, taps, stride, padding, dilation):
    dw = np.zeros(taps)
    for f in range(taps):
        for o in range(len(dy)):
            i = o * stride - padding + f * dilation
            if 0 <= i < len(x):
                dw[f] += x[i] * dy[o]
    return dw


@right("01.3")
def as_a_list(x, dy, taps, stride, padding, dilation):
    where = [[o * stride - padding + f * dilation for o in range(len(dy))] for f in range(taps)]
    return [sum(x[i] * d for i, d in zip(row, dy, strict=True) if 0 <= i < len(x)) for row in where]


@right("01.3")
def by_ranges(x, dy, taps, stride, padding, dilation):
    dw = np.zeros(taps)
    for f in range(taps):
        met = [o for o in range(len(dy)) if 0 <= o * stride - padding + f * dilation < len(x)]
        if met:
            lo, hi = met[0], met[-1]
            first = lo * stride - padding + f * dilation
            dw[f] = x[first::stride][: hi - lo + 1] @ dy[lo : hi + 1]
    return dw


@wrong("01.3", ("size=4, taps=3", "for dw[0] you multiply dy[0] by a zero that padding"))
def padded(x, dy, taps, stride, padding, dilation):
    wide = np.pad(x, padding)
    starts = range(0, taps * dilation, dilation)
    return np.array([wide[start : start + stride * len(dy) : stride][: len(dy)] @ dy for start in starts])


def gradient(index, inside=lambda i, size: 0 <= i < size, add=lambda old, new: old + new):
    """A gradient with another equation, test or sum."""

    def answer(x, dy, taps, stride, padding, dilation):
        dw = np.zeros(taps)
        for f in range(taps):
            for o in range(len(dy)):
                i = index(o, f, stride, padding, dilation)
                if inside(i, len(x)):
                    dw[f] = add(dw[f], x[i] * dy[o])
        return dw

    return answer


def equation(o, f, s, p, d):
    return o * s - p + f * d


wrong("01.3", ("size=4, taps=3", "Python reads from the end of x"), gradient(equation, lambda i, size: i < size))
wrong("01.3", "raised IndexError", gradient(equation, lambda i, size: i >= 0))
wrong("01.3", ("dilation=2", "f*dilation"), gradient(lambda o, f, s, p, d: o * s - p + f))
wrong("01.3", ("stride=2", "Outputs are `stride` apart"), gradient(lambda o, f, s, p, d: o - p + f * d))
wrong("01.3", "The padding is missing", gradient(lambda o, f, s, p, d: o * s + f * d))
wrong("01.3", "The padding is subtracted, not added", gradient(lambda o, f, s, p, d: o * s + p + f * d))
wrong("01.3", "Stride and dilation have changed places", gradient(lambda o, f, s, p, d: o * d - p + f * s))
wrong("01.3", "Only the last product of each sum is left", gradient(equation, add=lambda old, new: new))
wrong("01.3", "Only the first product of each sum", gradient(equation, add=lambda old, new: old or new))
wrong("01.3", "back to front", lambda *args: three_loops(*args)[::-1])
wrong("01.3", "yours has the shape (4,)", lambda *args: np.append(three_loops(*args), 0))
wrong("01.3", "yours has the shape ()", lambda *args: three_loops(*args).sum())
wrong("01.3", "you add x[i] alone", lambda x, dy, *sizes: three_loops(x, np.ones_like(dy), *sizes))
wrong("01.3", "return dw, an array of numbers", lambda *args: ["a", "b"])
wrong("01.3", "dw[0] should be", lambda *args: 2 * three_loops(*args))


@wrong("01.3", "your function changes x")
def doubles_x(x, dy, *sizes):
    x *= 2
    return three_loops(x, dy, *sizes) / 2


@wrong("01.3", "your function changes dy")
def clears_dy(x, dy, *sizes):
    dw = three_loops(x, dy, *sizes)
    dy[:] = 0
    return dw


@wrong("01.3", "does not end")
def never_ends(x, dy, taps, stride, padding, dilation):
    dw, f = np.zeros(taps), 0
    while f < taps:
        dw[f] += x[0] * dy[0]
    return dw


@wrong("01.3", "returns None")
def forgets_to_return(x, dy, taps, stride, padding, dilation):
    three_loops(x, dy, taps, stride, padding, dilation)


# --- more of each ---
@wrong("01.2", "return too early")
def the_first_output_only(size, taps, stride, padding, dilation):
    outputs = (size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1
    count = 0
    for o in range(outputs):
        for f in range(taps):
            count += 0 <= o * stride - padding + f * dilation < size
        return count


@wrong("01.2", "may be in several")
def inputs_that_are_met(size, taps, stride, padding, dilation):
    outputs = (size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1
    return len({o * stride - padding + f * dilation for o in range(outputs) for f in range(taps)} & set(range(size)))


@wrong("01.2", "one output too many")
def one_output_too_many(size, taps, stride, padding, dilation):
    outputs = (size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1
    return sum(0 <= o * stride - padding + f * dilation < size for o in range(outputs + 1) for f in range(taps))


@wrong("01.2", "f goes over range(taps)")
def taps_from_one(size, taps, stride, padding, dilation):
    outputs = (size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1
    return sum(0 <= o * stride - padding + f * dilation < size for o in range(outputs) for f in range(1, taps + 1))


@wrong("01.2", "a later one may be")
def until_the_first_outside(size, taps, stride, padding, dilation):
    count = 0
    for o in range((size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1):
        for f in range(taps):
            if not 0 <= o * stride - padding + f * dilation < size:
                break
            count += 1
    return count


def _gradient(x, dy, taps, index, place=lambda f, o: o, test=lambda i, size: 0 <= i < size):
    dw = np.zeros(taps)
    for f in range(taps):
        for o in range(len(dy)):
            i = index(f, o)
            if test(i, len(x)):
                dw[f] += x[i] * dy[place(f, o)]
    return dw


@wrong("01.3", "multiply by dy[f]")
def by_dy_of_the_tap(x, dy, taps, stride, padding, dilation):
    return _gradient(x, dy, taps, lambda f, o: o * stride - padding + f * dilation, lambda f, o: f)


@wrong("01.3", "first input is never used")
def without_input_0(x, dy, taps, stride, padding, dilation):
    return _gradient(x, dy, taps, lambda f, o: o * stride - padding + f * dilation, test=lambda i, size: 0 < i < size)


@wrong("01.3", "last input is never used")
def without_the_last_input(x, dy, taps, stride, padding, dilation):
    return _gradient(
        x, dy, taps, lambda f, o: o * stride - padding + f * dilation, test=lambda i, size: 0 <= i < size - 1
    )


@wrong("01.3", "abs(i) is another element")
def absolute(x, dy, taps, stride, padding, dilation):
    return _gradient(x, dy, taps, lambda f, o: abs(o * stride - padding + f * dilation))


@wrong("01.3", "the nearest element of x is not meant")
def clamped(x, dy, taps, stride, padding, dilation):
    return _gradient(x, dy, taps, lambda f, o: min(max(o * stride - padding + f * dilation, 0), len(x) - 1))


@wrong("01.3", "return too early")
def one_tap_only(x, dy, taps, stride, padding, dilation):
    dw = np.zeros(taps)
    for f in range(taps):
        for o in range(len(dy)):
            i = o * stride - padding + f * dilation
            if 0 <= i < len(x):
                dw[f] += x[i] * dy[o]
        return dw


@wrong("01.3", "a later one may")
def until_the_first_that_is_missing(x, dy, taps, stride, padding, dilation):
    dw = np.zeros(taps)
    for f in range(taps):
        for o in range(len(dy)):
            i = o * stride - padding + f * dilation
            if i < 0 or i >= len(x):
                break
            dw[f] += x[i] * dy[o]
    return dw


@wrong("01.3", ("IndexError", "test 0 <= i < len(x)"))
def without_a_test(x, dy, taps, stride, padding, dilation):
    return _gradient(x, dy, taps, lambda f, o: o * stride - padding + f * dilation, test=lambda i, size: True)


@wrong("01.3", ("whole numbers", "cuts off fractions"))
def in_an_array_of_whole_numbers(x, dy, taps, stride, padding, dilation):
    dw = np.zeros(taps, int)
    for f in range(taps):
        for o in range(len(dy)):
            i = o * stride - padding + f * dilation
            if 0 <= i < len(x):
                dw[f] += x[i] * dy[o]
    return dw
