"""Answers to the exercises of 07_train_a_network."""

from __future__ import annotations

import numpy as np
from numba import cuda

from cks_numba import ConvShape, conv2d_input, conv2d_weight, flops
from cks_numba.steps import regular

from . import right, wrong

# --- 07.1: which operator makes which result ---
RIGHT = {"y": "conv2d", "dx": "conv2d_input", "dw": "conv2d_weight"}
right("07.1", RIGHT, dict(zip(("dw", "dx", "y"), ("conv2d_weight", "conv2d_input", "conv2d"), strict=True)), {**RIGHT})
wrong(
    "07.1",
    "dx has the shape of the input, dw that of the filter",
    RIGHT | {"dx": "conv2d_weight", "dw": "conv2d_input"},
)
wrong("07.1", "conv2d_input does not make y", {"y": "conv2d_input", "dx": "conv2d", "dw": "conv2d_weight"})
wrong("07.1", "conv2d_weight does not make y", {"y": "conv2d_weight", "dx": "conv2d_input", "dw": "conv2d"})
wrong("07.1", "conv2d does not make dx", RIGHT | {"dx": "conv2d"})
wrong("07.1", "conv2d does not make dw", RIGHT | {"dw": "conv2d"})
wrong("07.1", "conv2d_weight does not make dx", RIGHT | {"dx": "conv2d_weight"})
wrong("07.1", "'ks_deconv' is none of the three names", RIGHT | {"dx": "ks_deconv"})
right("07.1", list(RIGHT.items()), {made: name for name, made in RIGHT.items()})
right("07.1", RIGHT | {"dx": conv2d_input}, RIGHT | {"dx": "cks_numba.conv2d_input"})
wrong("07.1", "is none of the three names", RIGHT | {"dx": regular}, RIGHT | {"dw": None})
wrong("07.1", "just the keys", RIGHT | {"db": "conv2d_weight"})
wrong("07.1", "look at the names", {"conv2d": "y", "conv2d_input": "dw", "conv2d_weight": "dx"})
wrong("07.1", "just the keys", {"y": "conv2d"}, {}, ["conv2d", "conv2d_input", "conv2d_weight"], "conv2d")

# --- 07.3: the factor without a stride ---
LAYER = dict(n=64, ih=4, iw=4, ic=16, oc=32, fh=3, fw=3, padding=1)
COUNT, STRIDED = (flops.count("conv2d_input", ConvShape(**LAYER, stride=stride)) for stride in (1, 2))
right("07.3", COUNT.saved, (12 / 10) ** 2, 1.44, np.float64(144 / 100))
wrong("07.3", "with stride 2", STRIDED.saved)
wrong("07.3", "Turn it over", COUNT.share("useful"))
wrong("07.3", "dy is still padded", 1, 1.0)
wrong("07.3", "share that is wasted. By which factor", COUNT.share("redundant"))
wrong("07.3", "share that is wasted, in percent", 100 * COUNT.share("redundant"))
wrong("07.3", ("inserted zeros of stride 2", "without padding"), 4)
wrong("07.3", "number of taps", 9)
wrong("07.3", "a map of 2 x 2", 2.25)
wrong("07.3", "products the regular way", 144)
wrong("07.3", "number of useful products", 100)
wrong("07.3", "Yours is 1.2.", 1.2)
wrong("07.3", "Yours is 2.", 2)
wrong("07.3", "should be a number", COUNT, "1.44", (1.44,))


# --- 07.2: the backward pass ---
@right("07.2")
def by_the_operators(x, w, dy, stride, padding):
    dx = conv2d_input(x.shape, w, dy, stride=stride, padding=padding)
    dw = conv2d_weight(x, w.shape, dy, stride=stride, padding=padding)
    return dx, dw, dy.sum(axis=(0, 1, 2))


@right("07.2")
def the_regular_way(x, w, dy, stride, padding):
    n, ih, iw, ic = x.shape
    oc, fh, fw, _ = w.shape
    shape = ConvShape(n=n, ih=ih, iw=iw, ic=ic, oc=oc, fh=fh, fw=fw, stride=stride, padding=padding)
    return [regular.conv2d_input(w, dy, shape), regular.conv2d_weight(x, dy, shape), dy.reshape(-1, oc).sum(0)]


@right("07.2")
def in_float64(x, w, dy, stride, padding):
    x, w, dy = (array.astype(float) for array in (x, w, dy))
    dx, dw, _ = by_the_operators(x, w, dy, stride, padding)
    return dx, dw, np.einsum("nhwc->c", dy)


def changed(change):
    def answer(x, w, dy, stride, padding):
        dx, dw, db = by_the_operators(x, w, dy, stride, padding)
        return change(dx, dw, db, dy)

    return answer


wrong("07.2", ("With stride 2, padding 1", "dx should have the shape"), changed(lambda dx, dw, db, dy: (dw, dx, db)))
wrong("07.2", "a number for each output channel", changed(lambda dx, dw, db, dy: (dx, dw, dy.sum())))
wrong("07.2", "over the axes (0, 1, 2)", changed(lambda dx, dw, db, dy: (dx, dw, dy.sum(axis=0))))
wrong("07.2", "and not the mean", changed(lambda dx, dw, db, dy: (dx, dw, dy.mean(axis=(0, 1, 2)))))
wrong("07.2", "yours is that of the first one", changed(lambda dx, dw, db, dy: (dx, dw, dy[0].sum(axis=(0, 1)))))
wrong("07.2", "dw has the wrong sign", changed(lambda dx, dw, db, dy: (dx, -dw, db)))
wrong("07.2", "dx has the wrong sign", changed(lambda dx, dw, db, dy: (-dx, dw, db)))
wrong(
    "07.2", "dw is the sum over the images, and not their mean", changed(lambda dx, dw, db, dy: (dx, dw / len(dx), db))
)
wrong("07.2", "dx is still 0", changed(lambda dx, dw, db, dy: (0 * dx, dw, db)))
wrong("07.2", "dw is turned around", changed(lambda dx, dw, db, dy: (dx, dw[:, ::-1, ::-1], db)))
wrong("07.2", "three arrays", changed(lambda dx, dw, db, dy: (dx, dw)), changed(lambda dx, dw, db, dy: dx))
wrong("07.2", "db should be an array", changed(lambda dx, dw, db, dy: (dx, dw, "db")))
wrong("07.2", ("dx is that of stride 1 and padding 0",), lambda x, w, dy, stride, padding: (
    conv2d_input(x.shape, w, dy), w, dy.sum(axis=(0, 1, 2))))  # fmt: skip
wrong("07.2", "returns None", changed(lambda dx, dw, db, dy: None))
wrong("07.2", "raised TypeError", lambda x, w, dy: (x, w, dy))


# --- 07.4: the kernel ---
@right("07.4")
@cuda.jit
def in_two_lines(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index >= w.size:
        return
    v[index] = momentum * v[index] + dw[index]
    w[index] -= rate * v[index]


@right("07.4")
@cuda.jit
def with_a_variable(w, v, dw, rate, momentum):
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if index < len(v):
        new = dw[index] + momentum * v[index]
        v[index] = new
        w[index] = w[index] - rate * new


@right("07.4")
@cuda.jit
def over_the_grid(w, v, dw, rate, momentum):
    for index in range(cuda.grid(1), w.shape[0], cuda.gridsize(1)):
        v[index] *= momentum
        v[index] += dw[index]
        w[index] += -rate * v[index]


@wrong("07.4", ("10 weights", "the loss falls against the gradient"))
@cuda.jit
def uphill(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index] + dw[index]
        w[index] += rate * v[index]


@wrong("07.4", "changed with the old v")
@cuda.jit
def w_first(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        w[index] -= rate * v[index]
        v[index] = momentum * v[index] + dw[index]


@wrong("07.4", "v is still what it was: write it back")
@cuda.jit
def v_not_kept(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        new = momentum * v[index] + dw[index]
        w[index] -= rate * new


@wrong("07.4", "v holds dw alone")
@cuda.jit
def forgets_the_past(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = dw[index]
        w[index] -= rate * v[index]


@wrong("07.4", "v holds momentum * v, without dw")
@cuda.jit
def forgets_dw(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index]
        w[index] -= rate * v[index]


@wrong("07.4", "momentum is missing")
@cuda.jit
def no_momentum(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] += dw[index]
        w[index] -= rate * v[index]


@wrong("07.4", "momentum has no effect")
@cuda.jit
def plain_step(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index] + dw[index]
        w[index] -= rate * dw[index]


@wrong("07.4", "The rate is missing")
@cuda.jit
def no_rate(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index] + dw[index]
        w[index] -= v[index]


@wrong("07.4", "w lost its old value")
@cuda.jit
def replaces_w(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index] + dw[index]
        w[index] = -rate * v[index]


@wrong("07.4", "The rate belongs to the step of w, and not to v")
@cuda.jit
def rate_in_v(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index] + rate * dw[index]
        w[index] -= v[index]


@wrong("07.4", "without 1 - momentum")
@cuda.jit
def weighted_mean(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index] + (1 - momentum) * dw[index]
        w[index] -= rate * v[index]


@wrong("07.4", "your kernel changes dw, too")
@cuda.jit
def clears_dw(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = momentum * v[index] + dw[index]
        w[index] -= rate * v[index]
        dw[index] = 0


@wrong("07.4", ("out of bounds", "number 10, has none and must stop"))
@cuda.jit
def no_guard(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    v[index] = momentum * v[index] + dw[index]
    w[index] -= rate * v[index]


@wrong("07.4", "Only the first block has done something")
@cuda.jit
def block_0_only(w, v, dw, rate, momentum):
    index = cuda.threadIdx.x
    if cuda.blockIdx.x == 0:
        v[index] = momentum * v[index] + dw[index]
        w[index] -= rate * v[index]


@wrong("07.4", "race")
@cuda.jit
def every_block_the_same(w, v, dw, rate, momentum):
    index = cuda.threadIdx.x
    v[index] = momentum * v[index] + dw[index]
    w[index] -= rate * v[index]


@wrong("07.4", ("race: one thread reads v[0], another writes it", "let each thread make results of its own"))
@cuda.jit
def each_thread_all_of_its_block(w, v, dw, rate, momentum):
    start = cuda.blockIdx.x * cuda.blockDim.x
    for i in range(start, min(start + cuda.blockDim.x, w.size)):
        v[i] = momentum * v[i] + dw[i]
        w[i] = w[i] - rate * v[i]


@wrong("07.4", ("float64", "v[index] = 1.0 * momentum * v[index] + dw[index]"))
@cuda.jit
def a_one_of_python(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = 1.0 * momentum * v[index] + dw[index]
        w[index] -= rate * v[index]


@wrong("07.4", "momentum is an argument of the kernel, and not always 0.9")
@cuda.jit
def a_number_of_python(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size:
        v[index] = 0.9 * v[index] + dw[index]
        w[index] -= rate * v[index]


@wrong("07.4", "The last weight is left out")
@cuda.jit
def one_too_few(w, v, dw, rate, momentum):
    index = cuda.grid(1)
    if index < w.size - 1:
        v[index] = momentum * v[index] + dw[index]
        w[index] -= rate * v[index]


@wrong("07.4", ("does not compile", "A kernel returns nothing", "return w, v"))
@cuda.jit
def returns_both(w, v, dw, rate, momentum):
    w[0] -= rate * v[0]
    return w, v


@wrong("07.4", "v is still what it was")
@cuda.jit
def nothing(w, v, dw, rate, momentum):
    pass


wrong("07.4", "keep the line @cuda.jit", lambda w, v, dw, rate, momentum: None)


@wrong("07.4", "a single thread of a block works")
@cuda.jit
def one_thread_changes_all(w, v, dw, rate, momentum):
    if cuda.grid(1) == 0:
        for i in range(w.size):
            v[i] = momentum * v[i] + dw[i]
            w[i] = w[i] - rate * v[i]


@wrong("07.4", "have changed places")
@cuda.jit
def rate_for_momentum(w, v, dw, rate, momentum):
    i = cuda.grid(1)
    if i < w.size:
        v[i] = rate * v[i] + dw[i]
        w[i] -= momentum * v[i]


@wrong("07.4", "a += where = belongs")
@cuda.jit
def adds_v_twice(w, v, dw, rate, momentum):
    i = cuda.grid(1)
    if i < w.size:
        v[i] += momentum * v[i] + dw[i]
        w[i] -= rate * v[i]


@wrong("07.2", "changes w")
def changes_w(x, w, dy, stride, padding):
    w -= 0.1 * conv2d_weight(x, w.shape, dy, stride=stride, padding=padding)
    return (
        conv2d_input(x.shape, w, dy, stride=stride, padding=padding),
        conv2d_weight(x, w.shape, dy, stride=stride, padding=padding),
        dy.sum((0, 1, 2)),
    )


@wrong("07.2", "changes dy")
def changes_dy(x, w, dy, stride, padding):
    dy /= len(dy)
    return (
        conv2d_input(x.shape, w, dy, stride=stride, padding=padding),
        conv2d_weight(x, w.shape, dy, stride=stride, padding=padding),
        dy.sum((0, 1, 2)),
    )
