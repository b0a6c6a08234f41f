"""Answers to the exercises of 05_from_steps_to_kernels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numba import cuda, float32

from cks_numba.kernels.jit import device, taps_of_output

from . import right, wrong

# --- 05.1: blocks and idle threads ---
right("05.1", (62, 96), [62, 62 * 128 - 7840], np.array([62, 96]))
wrong("05.1", ("61 blocks have 7808 threads", "Round up"), (61, 0), (61, 32), (61, 96))
wrong("05.1", "32 threads of the last one have work", (62, 32))
wrong("05.1", "Not 0", (62, 0))
wrong("05.1", "Not 128", (62, 128))
wrong("05.1", "Not 95", (62, 95))
wrong("05.1", "the blocks come first", (96, 62))
wrong("05.1", "63 blocks are not what is needed", (63, 224))
wrong("05.1", "8 blocks are not what is needed", (8, 48))
wrong("05.1", "7840 blocks are not", (7840, 0))
wrong("05.1", "whole number", (61.25, 0), ("62", 96))
wrong("05.1", "a pair", 62, "62, 96", (62,))

# --- 05.2: outputs that are wrong ---
EDGE = {(oh, ow) for oh in range(4) for ow in range(4) if oh == 0 or ow == 0}
right("05.2", EDGE, sorted(EDGE), np.array(sorted(EDGE)))
MASK = np.array([[(oh, ow) in EDGE for ow in range(4)] for oh in range(4)])
right("05.2", MASK, np.nonzero(MASK))
wrong("05.2", "These are the right ones", ~MASK, np.nonzero(~MASK))
wrong("05.2", "These are the right ones", {(oh, ow) for oh in range(1, 4) for ow in range(1, 4)})
wrong("05.2", "Output (1, 1) is right", {(oh, ow) for oh in range(4) for ow in range(4)}, {(1, 1)}, EDGE | {(1, 1)})
wrong("05.2", "output (1, 0) is wrong too", {(0, ow) for ow in range(4)})
wrong("05.2", "output (0, 1) is wrong too", {(oh, 0) for oh in range(4)})
wrong("05.2", "output (0, 1) is wrong too", {(0, 0)})
wrong("05.2", "output (0, 0) is wrong too", EDGE - {(0, 0)}, set())
wrong("05.2", "Output (1, 3) is right", {(oh, ow) for oh in range(4) for ow in range(4) if 3 in (oh, ow)})
wrong("05.2", "There is no output (-1, 0)", {(-1, 0)})
wrong("05.2", "There is no output (1, 4)", {(oh, ow) for oh in range(1, 5) for ow in range(1, 5)})
wrong("05.2", "a set of pairs", 7, {0, 1, 2}, "all")


# --- 05.3: loads for each multiply-add ---
right("05.3", lambda tile: 2 / tile, lambda tile: 2 * tile**2 / tile**3, lambda t: np.float64(1 / t + 1 / t))
right("05.3", lambda tile: Fraction(2, tile))
wrong("05.3", "two tiles", lambda tile: 1 / tile)
wrong("05.3", "Turn it over", lambda tile: tile / 2)
wrong("05.3", "These are the loads of the block", lambda tile: 2 * tile * tile)
wrong("05.3", "These are the multiply-adds of the block", lambda tile: tile**3)
wrong("05.3", "without a tile", lambda tile: 2)
wrong("05.3", "What do you divide it by", lambda tile: 2 / tile**2)
wrong("05.3", "You divide by the threads", lambda tile: 2 * tile)
wrong("05.3", "one tile only", lambda tile: tile)
wrong("05.3", ("For tile=1 it should be 2, and yours is 0.25",), lambda tile: 0.25)
wrong("05.3", "For tile=8 it should be 0.25, and yours is 0", lambda tile: 2 // tile)
wrong("05.3", "should be a function", 0.25)
wrong("05.3", "returns None", lambda tile: None)
wrong("05.3", "raised ZeroDivisionError", lambda tile: 2 / (tile - 1))


# --- 05.4: the kernel ---
@right("05.4")
@cuda.jit
def device_function_and_taps(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    index = cuda.grid(1)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    if index >= y.size:
        return
    oh, ow = divmod(index, y.shape[1])
    top, left = oh * stride - padding, ow * stride - padding
    fh_lo, fh_hi = taps_of_output(oh, x.shape[0], w.shape[0], stride, padding, 1)
    fw_lo, fw_hi = taps_of_output(ow, x.shape[1], w.shape[1], stride, padding, 1)
    acc = np.float32(0)
    for fh in range(fh_lo, fh_hi):
        for fw in range(fw_lo, fw_hi):
            acc += taps[fh * w.shape[1] + fw] * x[top + fh, left + fw]
    y[oh, ow] = acc


@right("05.4")
@cuda.jit
def rows_of_the_filter(x, w, y, stride, padding):
    taps = cuda.shared.array((4, 4), np.float32)
    for fh in range(cuda.threadIdx.x, w.shape[0], cuda.blockDim.x):
        for fw in range(w.shape[1]):
            taps[fh, fw] = w[fh, fw]
    cuda.syncthreads()
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        y[oh, ow] = 0
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
                if ih >= 0 and ih < x.shape[0] and iw >= 0 and iw < x.shape[1]:
                    y[oh, ow] += x[ih, iw] * taps[fh, fw]


@right("05.4")
@cuda.jit
def over_the_inputs_and_taps(x, w, y, stride, padding):
    taps = cuda.shared.array(16, float32)
    k = cuda.threadIdx.x
    while k < w.size:
        fh = k // w.shape[1]
        taps[k] = w[fh, k - fh * w.shape[1]]
        k += cuda.blockDim.x
    cuda.syncthreads()
    for index in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        oh, ow = index // y.shape[1], index % y.shape[1]
        top, left = oh * stride - padding, ow * stride - padding
        acc = y.dtype.type(0)
        for ih in range(max(0, top), min(x.shape[0], top + w.shape[0])):
            for iw in range(max(0, left), min(x.shape[1], left + w.shape[1])):
                acc += float32(x[ih, iw]) * taps[(ih - top) * w.shape[1] + iw - left]
        y[oh, ow] = acc


@device
def convolve(x, taps, w, y, index, stride, padding):
    oh, ow = index // y.shape[1], index % y.shape[1]
    top, left = oh * stride - padding, ow * stride - padding
    acc = y.dtype.type(0)
    for fh in range(max(0, -top), min(w.shape[0], x.shape[0] - top)):
        for fw in range(max(0, -left), min(w.shape[1], x.shape[1] - left)):
            acc += x[top + fh, left + fw] * taps[fh * w.shape[1] + fw]
    y[oh, ow] = acc


@wrong("05.4", ("race", "taps[k] = w[", "cuda.syncthreads"))
@cuda.jit
def no_barrier(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", ("race", "taps[k] = w["))
@cuda.jit
def barrier_first(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    cuda.syncthreads()
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", ("2 of the 3 threads of block 5 never reach a barrier", "have returned"))
@cuda.jit
def spare_threads_stop_first(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    if cuda.grid(1) >= y.size:
        return
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", "2 of the 3 threads of block 5 never reach a barrier")
@cuda.jit
def barrier_behind_the_test(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    if cuda.grid(1) < y.size:
        cuda.syncthreads()
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", "uninitialised: reads element 4 of the shared array, which nobody has written")
@cuda.jit
def a_tap_a_thread(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    k = cuda.threadIdx.x
    if k < w.size:
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", ("uninitialised", "thread 0 of block 1"))
@cuda.jit
def only_the_first_block_brings(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    if cuda.blockIdx.x == 0:
        for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
            taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", ("uninitialised: reads element 1 of the shared array", "thread 1 of block 1"))
@cuda.jit
def brings_by_the_number_in_the_grid(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for k in range(cuda.grid(1), w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", "the threads read w 162 times, and 54 are enough")
@cuda.jit
def every_thread_brings_all(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for k in range(w.size):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", ("one thread brings the whole filter", "t + cuda.blockDim.x"))
@cuda.jit
def one_thread_brings_all(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    if cuda.threadIdx.x == 0:
        for k in range(w.size):
            taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", "the threads read w 154 times, and 54 are enough")
@cuda.jit
def brings_and_does_not_use(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        top, left = oh * stride - padding, ow * stride - padding
        acc = y.dtype.type(0)
        for fh in range(max(0, -top), min(w.shape[0], x.shape[0] - top)):
            for fw in range(max(0, -left), min(w.shape[1], x.shape[1] - left)):
                acc += x[top + fh, left + fw] * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", ("The rows and the columns of the filter have changed places",))
@cuda.jit
def filter_transposed(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k % w.shape[1], k // w.shape[1]]
    cuda.syncthreads()
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", ("w of 3 x 2", "uninitialised: reads element 7 of the shared array"))
@cuda.jit
def rows_of_the_wrong_length(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        top, left = oh * stride - padding, ow * stride - padding
        acc = y.dtype.type(0)
        for fh in range(max(0, -top), min(w.shape[0], x.shape[0] - top)):
            for fw in range(max(0, -left), min(w.shape[1], x.shape[1] - left)):
                acc += x[top + fh, left + fw] * taps[fh * w.shape[0] + fw]
        y[oh, ow] = acc


@wrong("05.4", "out of bounds: writes element 9 of the shared array, but it has 9 elements")
@cuda.jit
def filter_in_too_small_an_array(x, w, y, stride, padding):
    taps = cuda.shared.array(9, np.float32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", "the threads read w 162 times, and 54 are enough")
@cuda.jit
def in_an_array_of_its_own(x, w, y, stride, padding):
    taps = cuda.local.array(16, np.float32)
    for k in range(w.size):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", "the threads read w 100 times, and 54 are enough: each of the 6 blocks brings the 9 taps")
@cuda.jit
def with_the_device_function(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index >= y.size:
        return
    oh, ow = divmod(index, y.shape[1])
    top, left = oh * stride - padding, ow * stride - padding
    fh_lo, fh_hi = taps_of_output(oh, x.shape[0], w.shape[0], stride, padding, 1)
    fw_lo, fw_hi = taps_of_output(ow, x.shape[1], w.shape[1], stride, padding, 1)
    acc = np.float32(0)
    for fh in range(fh_lo, fh_hi):
        for fw in range(fw_lo, fw_hi):
            acc += w[fh, fw] * x[top + fh, left + fw]
    y[oh, ow] = acc


@wrong("05.4", "the threads read w 100 times, and 54 are enough: each of the 6 blocks brings the 9 taps")
@cuda.jit
def tests_in_the_loop(x, w, y, stride, padding):
    index = cuda.blockDim.x * cuda.blockIdx.x + cuda.threadIdx.x
    if index < y.shape[0] * y.shape[1]:
        oh, ow = index // y.shape[1], index % y.shape[1]
        y[oh, ow] = 0
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
                if ih >= 0 and ih < x.shape[0] and iw >= 0 and iw < x.shape[1]:
                    y[oh, ow] += x[ih, iw] * w[fh, fw]


@wrong("05.4", "the threads read w 100 times, and 54 are enough: each of the 6 blocks brings the 9 taps")
@cuda.jit
def over_the_inputs(x, w, y, stride, padding):
    for index in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        oh, ow = index // y.shape[1], index % y.shape[1]
        top, left = oh * stride - padding, ow * stride - padding
        acc = y.dtype.type(0)
        for ih in range(max(0, top), min(x.shape[0], top + w.shape[0])):
            for iw in range(max(0, left), min(x.shape[1], left + w.shape[1])):
                acc += x[ih, iw] * w[ih - top, iw - left]
        y[oh, ow] = acc


@wrong("05.4", ("multiply w[0, 0] by a zero that padding", "y[0, 0]", "stride=1, padding=1"))
@cuda.jit
def zero_for_padding(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
                v = y.dtype.type(0)
                if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                    v = x[ih, iw]
                acc += v * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", ("does not compile", "cannot call np.pad", "np.pad(x, 1)"))
@cuda.jit
def pads(x, w, y, stride, padding):
    index = cuda.grid(1)
    padded = np.pad(x, 1)
    if index < y.size:
        y[index // y.shape[1], index % y.shape[1]] = padded[0, 0]


@wrong("05.4", ("does not compile", "A kernel returns nothing", "return 0"))
@cuda.jit
def returns_0(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index >= y.size:
        return 0
    y[index // y.shape[1], index % y.shape[1]] = 1


@wrong("05.4", ("float64", "acc += x[top + fh, left + fw] * w[fh, fw]", "dtype.type(0)"))
@cuda.jit
def in_float64(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index >= y.size:
        return
    oh, ow = divmod(index, y.shape[1])
    top, left = oh * stride - padding, ow * stride - padding
    fh_lo, fh_hi = taps_of_output(oh, x.shape[0], w.shape[0], stride, padding, 1)
    fw_lo, fw_hi = taps_of_output(ow, x.shape[1], w.shape[1], stride, padding, 1)
    acc = 0.0
    for fh in range(fh_lo, fh_hi):
        for fw in range(fw_lo, fw_hi):
            acc += x[top + fh, left + fw] * w[fh, fw]
    y[oh, ow] = acc


@wrong("05.4", ("out of bounds", "number 16, has none and must stop"))
@cuda.jit
def no_guard(x, w, y, stride, padding):
    index = cuda.grid(1)
    y[index // y.shape[1], index % y.shape[1]] = 0


@wrong("05.4", ("negative index: the index -1", "acc += x[ih, iw] * w[fh, fw]"))
@cuda.jit
def no_lower_test(x, w, y, stride, padding):
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


@wrong("05.4", ("out of bounds", "both ends"))
@cuda.jit
def no_upper_test(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
                if ih >= 0 and iw >= 0:
                    acc += x[ih, iw] * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", ("stride=2", "The stride is missing"))
@cuda.jit
def no_stride(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh - padding + fh, ow - padding + fw
                if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                    acc += x[ih, iw] * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", ("In the columns: The stride is missing",))
@cuda.jit
def no_stride_in_the_columns(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride - padding + fh, ow - padding + fw
                if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                    acc += x[ih, iw] * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", "The padding is missing")
@cuda.jit
def no_padding(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride + fh, ow * stride + fw
                if ih < x.shape[0] and iw < x.shape[1]:
                    acc += x[ih, iw] * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", "The filter is turned around")
@cuda.jit
def turned(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
                if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                    acc += x[ih, iw] * w[w.shape[0] - 1 - fh, w.shape[1] - 1 - fw]
        y[oh, ow] = acc


@wrong("05.4", "The last tap is missing")
@cuda.jit
def one_tap_too_few(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0] - 1):
            for fw in range(w.shape[1] - 1):
                ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
                if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                    acc += x[ih, iw] * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", "Only one product of each sum is left")
@cuda.jit
def keeps_the_last(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
                if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                    acc = x[ih, iw] * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", ("yours:", "right:"))
@cuda.jit
def rows_and_columns_swapped(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        ow, oh = index // y.shape[0], index % y.shape[0]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                ih, iw = ow * stride - padding + fh, oh * stride - padding + fw
                if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                    acc += x[ih, iw] * w[fh, fw]
        y[oh, ow] = acc


@wrong("05.4", "endless loop")
@cuda.jit
def never_ends(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        y[index // y.shape[1], index % y.shape[1]] = 0
        fh = 0
        while fh < w.shape[0]:
            y[index // y.shape[1], index % y.shape[1]] += w[fh, 0]


@wrong("05.4", "race")
@cuda.jit
def a_thread_an_input(x, w, y, stride, padding):
    index = cuda.grid(1)
    if index < y.size:
        y[index // y.shape[1], index % y.shape[1]] = 0
    cuda.syncthreads()
    if index < x.size:
        ih, iw = index // x.shape[1], index % x.shape[1]
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                oh, rest_h = divmod(ih + padding - fh, stride)
                ow, rest_w = divmod(iw + padding - fw, stride)
                if rest_h == 0 and rest_w == 0 and 0 <= oh < y.shape[0] and 0 <= ow < y.shape[1]:
                    y[oh, ow] += x[ih, iw] * w[fh, fw]


@wrong("05.4", "never written")
@cuda.jit
def one_block_only(x, w, y, stride, padding):
    index = cuda.threadIdx.x
    if index < y.size and cuda.blockIdx.x == 0:
        y[index // y.shape[1], index % y.shape[1]] = 0


wrong("05.4", "keep the line @cuda.jit", lambda x, w, y, stride, padding: None)


@wrong("05.4", "catches no errors")
@cuda.jit
def tries_and_catches(x, w, y, stride, padding):
    i = cuda.grid(1)
    if i < y.size:
        oh, ow = i // y.shape[1], i % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                try:
                    acc += x[oh * stride - padding + fh, ow * stride - padding + fw] * w[fh, fw]
                except IndexError:
                    pass
        y[oh, ow] = acc


@wrong("05.4", ("computes in float64", "shared array of float64", "np.float32"))
@cuda.jit
def filter_kept_in_float64(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float64)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        h0, h1 = taps_of_output(oh, x.shape[0], w.shape[0], stride, padding, 1)
        w0, w1 = taps_of_output(ow, x.shape[1], w.shape[1], stride, padding, 1)
        acc = y.dtype.type(0)
        for fh in range(h0, h1):
            for fw in range(w0, w1):
                acc += x[oh * stride - padding + fh, ow * stride - padding + fw] * taps[fh * w.shape[1] + fw]
        y[oh, ow] = acc


@wrong("05.4", ("computes in float64", "A whole number that meets a float32"))
@cuda.jit
def filter_kept_in_whole_numbers(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.int32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        h0, h1 = taps_of_output(oh, x.shape[0], w.shape[0], stride, padding, 1)
        w0, w1 = taps_of_output(ow, x.shape[1], w.shape[1], stride, padding, 1)
        acc = y.dtype.type(0)
        for fh in range(h0, h1):
            for fw in range(w0, w1):
                acc += x[oh * stride - padding + fh, ow * stride - padding + fw] * taps[fh * w.shape[1] + fw]
        y[oh, ow] = acc


@wrong("05.4", ("compiles for CUDA. But the emulator", "in another way. flat = w.reshape(w.size)"))
@cuda.jit
def more_than_the_emulator_knows(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    flat = w.reshape(w.size)
    for k in range(cuda.threadIdx.x, flat.size, cuda.blockDim.x):
        taps[k] = flat[k]
    cuda.syncthreads()
    if cuda.grid(1) < y.size:
        convolve(x, taps, w, y, cuda.grid(1), stride, padding)


@wrong("05.4", ("reads x[5, 0], but x has shape (5, 3)", "x[4, 3] is the same place in memory"))
@cuda.jit
def columns_by_the_rows_of_x(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    index = cuda.grid(1)
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        h0, h1 = taps_of_output(oh, x.shape[0], w.shape[0], stride, padding, 1)
        w0, w1 = taps_of_output(ow, x.shape[0], w.shape[1], stride, padding, 1)
        acc = y.dtype.type(0)
        for fh in range(h0, h1):
            for fw in range(w0, w1):
                acc += x[oh * stride - padding + fh, ow * stride - padding + fw] * taps[fh * w.shape[1] + fw]
        y[oh, ow] = acc


@wrong("05.4", "is this the index that you mean?")
@cuda.jit
def rows_of_taps_as_long_as_columns(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    index = cuda.grid(1)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                i, j = oh * stride - padding + fh, ow * stride - padding + fw
                if 0 <= i < x.shape[0] and 0 <= j < x.shape[1]:
                    acc += x[i, j] * taps[fh * w.shape[0] + fw]
        y[oh, ow] = acc


@wrong("05.4", "is this the index that you mean?")
@cuda.jit
def three_taps_in_a_row(x, w, y, stride, padding):
    taps = cuda.shared.array(16, np.float32)
    index = cuda.grid(1)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        taps[k] = w[k // 3, k % 3]
    cuda.syncthreads()
    if index < y.size:
        oh, ow = index // y.shape[1], index % y.shape[1]
        acc = y.dtype.type(0)
        for fh in range(w.shape[0]):
            for fw in range(w.shape[1]):
                i, j = oh * stride - padding + fh, ow * stride - padding + fw
                if 0 <= i < x.shape[0] and 0 <= j < x.shape[1]:
                    acc += x[i, j] * taps[fh * 3 + fw]
        y[oh, ow] = acc
