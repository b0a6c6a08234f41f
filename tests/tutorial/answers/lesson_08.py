"""Answers to the exercises of 08_your_network."""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from cks_numba import ConvShape
from cks_numba.flops import networks

from . import right, wrong

# --- 08.1: layers with inserted zeros ---
LAYERS = networks.layers("resnet18", 32)
STRIDED = {layer.name for layer in LAYERS if layer.shape.stride != (1, 1)}
SHORTCUTS = {name for name in STRIDED if "shortcut" in name}
right("08.1", STRIDED, sorted(STRIDED), tuple(layer.name for layer in LAYERS if max(layer.shape.stride) == 2))
wrong("08.1", "the shortcuts of the stages have a stride", STRIDED - SHORTCUTS)
wrong("08.1", "Not all", SHORTCUTS, {min(STRIDED - SHORTCUTS)}, set())
wrong("08.1", "has stride 1, so nothing is inserted", {layer.name for layer in LAYERS})
wrong("08.1", "has stride 1, so nothing is inserted", {layer.name for layer in LAYERS} - STRIDED)
wrong("08.1", "has stride 1, so nothing is inserted", {LAYERS[0].name}, STRIDED | {LAYERS[0].name})
wrong("08.1", "No layer is called 'first'", {"first"})
wrong("08.1", "No layer is called", [layer for layer in LAYERS if layer.name in STRIDED])
wrong("08.1", "No layer is called", [layer.shape for layer in LAYERS])
wrong("08.1", "a set of names", "layer2.0.conv1", len(STRIDED), {name: 1 for name in STRIDED})


# --- 08.2: a wasteful network ---
@right("08.2")
def two_layers():
    sizes = dict(n=16, ic=32, oc=32, fh=4, fw=4, stride=2, padding=1)
    return [ConvShape(ih=4, iw=4, **sizes), ConvShape(ih=2, iw=2, **sizes)]


@right("08.2")
def one_tiny_layer():
    return [ConvShape(n=64, ih=2, iw=2, ic=64, oc=64, fh=5, fw=5, stride=2, padding=2)]


@right("08.2")
def three_in_a_loop():
    layers, size = [], 4
    while size > 0:
        layers.append(ConvShape(n=32, ih=size, iw=size, ic=64, oc=64, fh=5, fw=5, stride=2, padding=2))
        size //= 2
    return layers


def network(count=1, **changes):
    sizes = dict(n=64, ih=4, iw=4, ic=32, oc=32, fh=4, fw=4, stride=2, padding=1) | changes
    return lambda: [ConvShape(**sizes)] * count


wrong("08.2", ("times what is needed, and 4 times are asked for", "smaller the maps"), network(ih=32, iw=32))
wrong("08.2", "Strides bring inserted zeros", network(stride=1, fh=3, fw=3))
wrong(
    "08.2",
    "Strides bring inserted zeros",
    network(stride=1, ih=64, iw=64, fh=3, fw=3),
    network(stride=1, padding=0, ih=64, iw=64),
)
wrong("08.2", "Layer 0 has stride 4", network(stride=4))
wrong("08.2", "Layer 0 has stride 3", network(stride=3, ih=6, iw=6))
wrong("08.2", "more than half its filter", network(padding=3))
wrong("08.2", "more than half its filter", network(fh=1, fw=1, padding=1, stride=1))
wrong("08.2", "useful multiply-adds, and a million is asked for", network(n=1, ic=1, oc=1, ih=2, iw=2))
wrong("08.2", "useful multiply-adds, and a million is asked for", network(2, n=2, ic=3, oc=3, ih=2, iw=2))
wrong("08.2", "a list of ConvShape", lambda: ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3), lambda: [], lambda: 4)
wrong("08.2", "raised TypeError", lambda: [ConvShape(n=1)])
wrong("08.2", "returns None", lambda: None)
wrong("08.2", "should be a function", network()())


@wrong("08.2", "does not end")
def never_done():
    size = 4
    while size > 0:
        size = -(-size // 2)


# --- 08.3: products of Winograd ---
right(
    "08.3",
    lambda n: 16 * (-(-n // 2)) ** 2,
    lambda n: 16 * math.ceil(n / 2) ** 2,
    lambda n: np.int64(sum(16 for _ in range(0, n, 2) for _ in range(0, n, 2))),
)
wrong("08.3", ("For n=1 it should be 16, and yours is 4", "round up"), lambda n: 4 * n * n)
wrong("08.3", "round up, not down", lambda n: 16 * (n // 2) ** 2)
wrong("08.3", "The map has two", lambda n: 16 * -(-n // 2))
wrong("08.3", "These are the tiles. Each has 16 products", lambda n: (-(-n // 2)) ** 2)
wrong("08.3", "That is what skipping does", lambda n: (3 * n - 2) ** 2)
wrong("08.3", "the regular way", lambda n: 9 * n * n)
wrong("08.3", "fewer tiles than results", lambda n: 16 * n * n)
wrong("08.3", "for its four results, and not 4", lambda n: 4 * (-(-n // 2)) ** 2)
wrong("08.3", "as on one axis", lambda n: 4 * -(-n // 2))
wrong("08.3", "without Winograd", lambda n: 36 * (-(-n // 2)) ** 2)
wrong("08.3", "and no further", lambda n: 16 * (n // 2 + 1) ** 2)
wrong("08.3", "For n=1 it should be 16, and yours is 64", lambda n: 64)
wrong("08.3", "should be a function", 64)
wrong("08.3", "returns None", lambda n: None)


# --- 08.4: the kernel ---
@right("08.4")
@cuda.jit
def as_in_the_text(x, g, y):
    first = 2 * cuda.grid(1)
    if first >= y.size:
        return
    x0, x1, x2, x3 = x[first], x[first + 1], x[first + 2], x[first + 3]
    m1 = (x0 - x2) * g[0]
    m2 = (x1 + x2) * g[1]
    m3 = (x2 - x1) * g[2]
    m4 = (x1 - x3) * g[3]
    y[first] = m1 + m2 + m3
    y[first + 1] = m2 - m3 - m4


@right("08.4")
@cuda.jit
def with_other_signs(x, g, y):
    t = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if 2 * t < len(y):
        a = g[2] * (x[2 * t + 1] - x[2 * t + 2])
        b = g[1] * (x[2 * t + 2] + x[2 * t + 1])
        y[2 * t] = b - a + g[0] * (x[2 * t] - x[2 * t + 2])
        y[2 * t + 1] = b + a + g[3] * (x[2 * t + 3] - x[2 * t + 1])


@right("08.4")
@cuda.jit
def over_the_grid(x, g, y):
    for t in range(cuda.grid(1), y.shape[0] // 2, cuda.gridsize(1)):
        i = 2 * t
        m = cuda.local.array(4, np.float32)
        m[0] = (x[i] - x[i + 2]) * g[0]
        m[1] = (x[i + 1] + x[i + 2]) * g[1]
        m[2] = (x[i + 2] - x[i + 1]) * g[2]
        m[3] = (x[i + 1] - x[i + 3]) * g[3]
        y[i] = m[0] + m[1] + m[2]
        y[i + 1] = m[1] - m[2] - m[3]


@wrong("08.4", ("for 2 results your kernel does 6 products, and 4 are enough",))
@cuda.jit
def three_products_a_result(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        w0, w1, w2 = g[0], g[1] - g[2], g[3]
        y[first] = x[first] * w0 + x[first + 1] * w1 + x[first + 2] * w2
        y[first + 1] = x[first + 1] * w0 + x[first + 2] * w1 + x[first + 3] * w2


@wrong("08.4", "and 4 are enough")
@cuda.jit
def sums_again_for_the_second(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        x0, x1, x2, x3 = x[first], x[first + 1], x[first + 2], x[first + 3]
        y[first] = (x0 - x2) * g[0] + (x1 + x2) * g[1] + (x2 - x1) * g[2]
        y[first + 1] = (x1 + x2) * g[1] - (x2 - x1) * g[2] - (x1 - x3) * g[3]


@wrong("08.4", "and 4 are enough")
@cuda.jit
def a_thread_a_result(x, g, y):
    for t in range(2 * cuda.grid(1), min(2 * cuda.grid(1) + 2, y.size)):
        i = t // 2 * 2
        m2, m3 = (x[i + 1] + x[i + 2]) * g[1], (x[i + 2] - x[i + 1]) * g[2]
        if t == i:
            y[t] = (x[i] - x[i + 2]) * g[0] + m2 + m3
        else:
            y[t] = m2 - m3 - (x[i + 1] - x[i + 3]) * g[3]


@wrong("08.4", ("2 results, x of 4", "look at the sign of m4"))
@cuda.jit
def wrong_sign(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
        m3, m4 = (x[first + 2] - x[first + 1]) * g[2], (x[first + 1] - x[first + 3]) * g[3]
        y[first] = m1 + m2 + m3
        y[first + 1] = m2 - m3 + m4


@wrong("08.4", "look at the sign of m3")
@cuda.jit
def wrong_sign_of_m3(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
        m3, m4 = (x[first + 2] - x[first + 1]) * g[2], (x[first + 1] - x[first + 3]) * g[3]
        y[first] = m1 + m2 + m3
        y[first + 1] = m2 + m3 - m4


@wrong("08.4", "m3 has the wrong sign")
@cuda.jit
def m3_turned(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
        m3, m4 = (x[first + 1] - x[first + 2]) * g[2], (x[first + 1] - x[first + 3]) * g[3]
        y[first] = m1 + m2 + m3
        y[first + 1] = m2 - m3 - m4


@wrong("08.4", "have changed places")
@cuda.jit
def results_swapped(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
        m3, m4 = (x[first + 2] - x[first + 1]) * g[2], (x[first + 1] - x[first + 3]) * g[3]
        y[first + 1] = m1 + m2 + m3
        y[first] = m2 - m3 - m4


@wrong("08.4", "g1 and g2 have changed places")
@cuda.jit
def weights_swapped(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[2]
        m3, m4 = (x[first + 2] - x[first + 1]) * g[1], (x[first + 1] - x[first + 3]) * g[3]
        y[first] = m1 + m2 + m3
        y[first + 1] = m2 - m3 - m4


@wrong("08.4", "not as a filter")
@cuda.jit
def g_as_a_filter(x, g, y):
    first = 2 * cuda.grid(1)
    for t in range(first, min(first + 2, y.size)):
        y[t] = x[t] * g[0] + x[t + 1] * g[1] + x[t + 2] * g[2]


@wrong("08.4", ("out of bounds", "x has 4 elements"))
@cuda.jit
def no_guard(x, g, y):
    first = 2 * cuda.grid(1)
    m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
    m3, m4 = (x[first + 2] - x[first + 1]) * g[2], (x[first + 1] - x[first + 3]) * g[3]
    y[first] = m1 + m2 + m3
    y[first + 1] = m2 - m3 - m4


@wrong("08.4", ("out of bounds", "but x has 4 elements"))
@cuda.jit
def windows_overlap(x, g, y):
    first = cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
        m3, m4 = (x[first + 2] - x[first + 1]) * g[2], (x[first + 1] - x[first + 3]) * g[3]
        y[first] = m1 + m2 + m3
        y[first + 1] = m2 - m3 - m4


@wrong("08.4", "never written")
@cuda.jit
def only_the_first(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
        y[first] = m1 + m2 + (x[first + 2] - x[first + 1]) * g[2]


@wrong("08.4", "m4 is missing")
@cuda.jit
def without_m4(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1, m2 = (x[first] - x[first + 2]) * g[0], (x[first + 1] + x[first + 2]) * g[1]
        m3 = (x[first + 2] - x[first + 1]) * g[2]
        y[first] = m1 + m2 + m3
        y[first + 1] = m2 - m3


@wrong("08.4", ("float64", "m1 = (x[first] - x[first + 2]) * g[0] + 0.0"))
@cuda.jit
def in_float64(x, g, y):
    first = 2 * cuda.grid(1)
    if first < y.size:
        m1 = (x[first] - x[first + 2]) * g[0] + 0.0
        m2 = (x[first + 1] + x[first + 2]) * g[1]
        m3, m4 = (x[first + 2] - x[first + 1]) * g[2], (x[first + 1] - x[first + 3]) * g[3]
        y[first] = m1 + m2 + m3
        y[first + 1] = m2 - m3 - m4


@wrong("08.4", ("does not compile", "A kernel returns nothing"))
@cuda.jit
def returns_y(x, g, y):
    y[0] = x[0]
    return y


wrong("08.4", "keep the line @cuda.jit", lambda x, g, y: None)


wrong("08.3", "Tiles are whole along each axis", lambda n: 16 * math.ceil(n * n / 4))
wrong("08.2", "Without arguments, your function returns None", lambda: None)


wrong(
    "08.1",
    "layer2.0.conv1 has a stride above 1, too.",
    {layer.name for layer in networks.layers("resnet18", 32) if max(layer.shape.stride) > 1} - {"layer2.0.conv1"},
)
