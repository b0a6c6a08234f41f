"""The checks of lessons 04 to 08: wrong answers get the help that fits them."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda

from cks_numba import ConvShape, conv2d_input, conv2d_weight
from cks_numba.tutorial import check


def printed(capsys, exercise, answer) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


@cuda.jit
def empty(*args):
    pass


@cuda.jit
def no_test(x, w, y, stride, padding):
    index = cuda.grid(1)
    y[index // y.shape[1], index % y.shape[1]] = 0


@cuda.jit
def wraps_around(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
                if ih < x.shape[0] and iw < x.shape[1]:
                    acc += x[ih, iw] * w[fh, fw]
        y[oh, ow] = acc


@cuda.jit
def no_stride(x, dy, dw, stride, padding):
    f = cuda.grid(1)
    if f < dw.size:
        dw[f] = 0
        for o in range(dy.size):
            if 0 <= o + f - padding < x.size:
                dw[f] += x[o + f - padding] * dy[o]


@cuda.jit
def uphill(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index] + dw[index]
        w[index] += rate * v[index]


@cuda.jit
def reads_too_often(a, b, c):
    i, j = cuda.grid(2)
    for row in range(2 * i, min(2 * i + 2, c.shape[0])):
        for column in range(2 * j, min(2 * j + 2, c.shape[1])):
            acc = c.dtype.type(0)
            for k in range(a.shape[1]):
                acc += a[row, k] * b[k, column]
            c[row, column] = acc


@cuda.jit
def one_result_a_thread(a, b, c):
    i, j = cuda.grid(2)
    if i < c.shape[0] and j < c.shape[1]:
        acc = c.dtype.type(0)
        for k in range(a.shape[1]):
            acc += a[i, k] * b[k, j]
        c[i, j] = acc


@cuda.jit
def wrong_sign(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
        m3, m4 = (x[first + 2] - x[first + 1]) * g[2], (x[first + 1] - x[first + 3]) * g[3]
        y[first] = m1 + m2 + m3
        y[first + 1] = m2 - m3 + m4


@pytest.mark.parametrize("exercise", ["04.4", "05.4", "06.4", "07.4", "08.4"])
def test_an_empty_kernel_is_open(exercise, capsys):
    assert "is still open" in printed(capsys, exercise, empty)


def swapped_gradients(x, w, dy, stride, padding):
    dx = conv2d_input(x.shape, w, dy, stride=stride, padding=padding)
    return conv2d_weight(x, w.shape, dy, stride=stride, padding=padding), dx, dy.sum(axis=(0, 1, 2))


HELP = [
    ("04.1", lambda outputs, stride: outputs * stride, "after the last element"),
    ("04.1", lambda outputs, stride: (outputs - 1) * (stride - 1), "Add the elements"),
    ("04.2", lambda f, size, outputs, stride, padding, dilation: (0, outputs), "whose input is -1"),
    ("04.2", lambda *_: 1, "Return two numbers"),
    ("04.3", lambda arrived: np.float32(sum(value for _, value in arrived)), "order of the numbers"),
    ("04.3", lambda arrived: [value for _, value in arrived], "one number"),
    ("04.4", no_stride, "in steps of the stride"),
    ("05.1", (61, 0), "Round up"),
    ("05.1", (62, 0), "62 blocks are right"),
    ("05.2", {(1, 1)}, "first tap"),
    ("05.2", {(oh, ow) for oh in range(4) for ow in range(4)}, "(1, 1) is right"),
    ("05.3", lambda tile: 1 / tile, "two tiles"),
    ("05.3", lambda tile: tile / 2, "Turn it over"),
    ("05.4", no_test, "past the end"),
    ("05.4", wraps_around, "x[-1]"),
    ("06.1", lambda tm, tn: tm * tn / (tm + tn), "Four numbers travel"),
    ("06.1", lambda tm, tn: tm * tn, "Divide by the loads"),
    ("06.2", lambda chunks, load, multiply: chunks * (load + multiply), "take turns"),
    ("06.2", lambda chunks, load, multiply: load + chunks * multiply, "who waits for whom"),
    ("06.3", lambda registers, threads: 65536 // (registers * threads), "whole warps"),
    ("06.3", lambda registers, threads: 4 * (16384 // (32 * (-(-registers // 8) * 8))), "These are warps"),
    ("06.4", reads_too_often, "use each twice"),
    ("06.4", one_result_a_thread, "never written"),
    ("07.1", {"y": "conv2d", "dx": "conv2d_weight", "dw": "conv2d_input"}, "the shape of the input"),
    ("07.2", 5.76, "with stride 2"),
    ("07.2", 1.0, "still padded"),
    ("07.3", swapped_gradients, "dx should have the shape"),
    ("07.4", uphill, "against the gradient"),
    ("08.1", {"conv1"}, "Zeros are inserted"),
    ("08.1", {"first"}, "No layer is called"),
    ("08.2", lambda: [ConvShape(n=64, ih=32, iw=32, ic=9, oc=9, fh=3, fw=3, stride=2, padding=1)], "smaller"),
    ("08.2", lambda: [ConvShape(n=64, ih=4, iw=4, ic=9, oc=9, fh=3, fw=3, stride=4, padding=1)], "too easy"),
    ("08.3", lambda n: 4 * n * n, "round up"),
    ("08.3", lambda n: 16 * -(-n // 2), "The map has two"),
    ("08.4", wrong_sign, "signs of m3 and m4"),
]


@pytest.mark.parametrize(("exercise", "answer", "help"), HELP)
def test_the_help_fits_the_mistake(exercise, answer, help, capsys):
    text = printed(capsys, exercise, answer)
    assert text.startswith(f"Exercise {exercise}: not yet.") and help in text, text
