"""Repeated calls of the cpu backend: the kernels of the first call, on other arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from reference import HARD_SHAPES, brute_force, integers

from cks_numba.backends import cpu
from cks_numba.backends.cpu import repeats
from cks_numba.geometry import OPERATORS, ConvShape

SHAPES = {
    **HARD_SHAPES,
    "1x1 map, 256 channels": ConvShape(n=2, ih=1, iw=1, ic=256, oc=128, fh=3, fw=3, padding=1),
    "3 channels": ConvShape(n=2, ih=9, iw=8, ic=3, oc=40, fh=3, fw=3, padding=1),
    "depthwise": ConvShape(n=2, ih=9, iw=10, ic=40, oc=40, fh=3, fw=3, padding=1, groups=40),
    "two threads": ConvShape(n=4, ih=9, iw=9, ic=40, oc=64, fh=3, fw=3, padding=1),
}
LAYOUTS = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 3, 1, 2)}
LAYERS = {
    "signal": ConvShape.of((2, 9, 5), (7, 3, 5), 2, 1),
    "volume": ConvShape.of((2, 4, 5, 3, 6), (7, 3, 3, 3, 6), 1, 1),
}


@pytest.fixture(autouse=True)
def _forget():
    repeats.forget()
    yield
    repeats.forget()


def arrays(operator, shape, dtype, seed, order=None):
    """Operands of integers and an empty result, in memory in an order of their axes."""
    first, second, out = integers(operator, shape, dtype, seed)
    if order is None:
        return first, second, out
    back = np.argsort(order)
    return [np.ascontiguousarray(a.transpose(order)).transpose(back) for a in (first, second, out)]


def known():
    return dict(repeats._known)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_second_call_computes_what_the_first_one_would(operator, name, dtype, layout):
    shape = SHAPES[name]
    cpu.run(operator, shape, *arrays(operator, shape, dtype, 0, LAYOUTS[layout]))
    assert len(known()) == 1
    first, second, out = arrays(operator, shape, dtype, 1, LAYOUTS[layout])
    for _ in range(2):
        out[...] = -1
        cpu.run(operator, shape, first, second, out)
        np.testing.assert_array_equal(out, brute_force(operator, shape, first, second))
    assert len(known()) == 1


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_one_and_three_axes(operator, name):
    shape = LAYERS[name]
    given = [arrays(operator, shape, "float32", seed) for seed in (0, 1, 1)]
    want = np.empty_like(given[1][2])
    cpu.plain.run(operator, shape, *given[1][:2], want)
    for first, second, out in given:
        cpu.run(operator, shape, first, second, out)
    np.testing.assert_array_equal(given[1][2], want)
    np.testing.assert_array_equal(given[2][2], want)
    assert len(known()) == 1


def test_no_kernel_is_chosen_twice(monkeypatch):
    """The second call asks for nothing, and one with other strides does."""
    shape = SHAPES["3 channels"]
    given = arrays("conv2d", shape, "float32", 0)
    cpu.run("conv2d", shape, *given)
    monkeypatch.setattr(cpu, "_run", None)
    cpu.run("conv2d", shape, *given)
    wide = np.zeros((*shape.y_shape[:-1], 2 * shape.oc), np.float32)[..., ::2]
    with pytest.raises(TypeError):
        cpu.run("conv2d", shape, *given[:2], wide)


@pytest.mark.parametrize("operator", OPERATORS)
def test_as_many_threads_as_are_set_now(operator):
    shape = SHAPES["two threads"]
    first, second, out = arrays(operator, shape, "float32", 0)
    results = []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2, 1, 2):
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
            out[...] = 0
            cpu.run(operator, shape, first, second, out)
            results.append(out.tobytes())
    finally:
        numba.set_num_threads(before)
    assert len(set(results)) == 1
    assert len(known()) == min(2, numba.config.NUMBA_NUM_THREADS)


def test_calls_at_the_same_time_have_memory_of_their_own():
    shape = SHAPES["two threads"]
    given = [arrays("conv2d", shape, "float32", seed) for seed in range(6)]
    want = [brute_force("conv2d", shape, first, second) for first, second, _ in given]

    def often(arrays):
        for _ in range(20):
            cpu.run("conv2d", shape, *arrays)
        return arrays[2]

    with ThreadPoolExecutor(6) as pool:
        for result, right in zip(pool.map(often, given), want, strict=True):
            np.testing.assert_array_equal(result, right)


def test_one_array_in_two_places_is_not_repeated():
    shape = ConvShape(n=3, ih=3, iw=3, ic=3, oc=3, fh=3, fw=3, padding=1)
    x, w, y = arrays("conv2d", shape, "float32", 0)
    cpu.run("conv2d", shape, x, x, y)
    assert not known()
    cpu.run("conv2d", shape, x, w, y)
    np.testing.assert_array_equal(y, brute_force("conv2d", shape, x, w))


def test_a_layer_that_is_cut_into_pieces_is_not_repeated(monkeypatch):
    monkeypatch.setattr(cpu.gather, "COPY_BYTES", 2000)
    monkeypatch.setattr(cpu.unpacked, "COPY_BYTES", 0)
    shape = SHAPES["two threads"]
    first, second, out = arrays("conv2d", shape, "float32", 0, LAYOUTS["NCHW"])
    cpu.run("conv2d", shape, first, second, out)
    assert not known()
    np.testing.assert_array_equal(out, brute_force("conv2d", shape, first, second))


def test_no_more_calls_are_known_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(repeats, "MOST", 2)
    for n in range(1, 6):
        shape = ConvShape(n=n, ih=3, iw=3, ic=2, oc=2, fh=2, fw=2)
        cpu.run("conv2d", shape, *arrays("conv2d", shape, "float32", 0))
        assert len(known()) <= 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "rows apart"])
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
def test_the_bias_is_added_by_a_kernel(channels, layout, dtype, threads, monkeypatch):
    monkeypatch.setattr(cpu.bias_kernel, "SERIAL_BELOW", 0)
    monkeypatch.setattr(cpu.bias_kernel, "TASK_BYTES", 100)
    shape = ConvShape(n=2, ih=5, iw=7, ic=2, oc=channels, fh=3, fw=3, padding=1)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        for seed in range(3):
            first, second, out = arrays("conv2d", shape, dtype, seed, LAYOUTS.get(layout))
            if layout not in LAYOUTS:
                out = np.zeros((2, 10, 7, channels), dtype)[:, ::2]
            bias = np.arange(channels).astype(dtype) - seed
            cpu.run("conv2d", shape, first, second, out, bias)
            np.testing.assert_array_equal(out, brute_force("conv2d", shape, first, second) + bias)
            assert len(known()) == (layout in LAYOUTS)
        cpu.run("conv2d", shape, first, second, out)
        np.testing.assert_array_equal(out, brute_force("conv2d", shape, first, second))
    finally:
        numba.set_num_threads(before)
        cpu.bias_kernel.sizes_of.cache_clear()
