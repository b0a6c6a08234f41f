"""Filters that are packed once: the numbers of calls with arrays, and an error for every call that they do not fit."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from reference import HARD_SHAPES, brute_force, integers, random_shape

import cks_numba as cks
from cks_numba.buffers import LAYOUTS, is_last
from cks_numba.geometry import ConvShape

OPERATORS = ("conv2d", "conv2d_input")


def shapes(axes):
    """Yield layers with few and many channels, one to three channel groups, and few and many positions."""
    yield from (shape for shape in HARD_SHAPES.values() if len(shape.axes) == axes)
    for seed in range(12):
        yield random_shape(random.Random(seed), size=6, channels=(5, 40, 70)[seed % 3], axes=axes)
    small, channels = (1, *[2] * axes), (64, *[3] * axes, 64)
    yield ConvShape.of((*small, 64), channels, padding=1)
    yield ConvShape.of((*small, 64), (*channels[:-1], 1), padding=1, groups=64)
    yield ConvShape.of((3, *[5] * axes, 96), (3, *channels[1:-1], 96), padding=1)


def call(operator, shape, first, second, layout, **keys):
    """Call the public operator of the shape's number of axes; also as a transposed layer, which has no input size."""
    keys |= {"stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation, "groups": shape.groups}
    function = getattr(cks, operator.replace("2d", f"{len(shape.axes)}d"))
    if operator == "conv2d":
        return function(first, second, layout=layout, **keys)
    size = shape.x_shape if is_last(layout) else (shape.n, shape.ic, *shape.x_shape[1:-1])
    return function(size, first, second, layout=layout, **keys)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_numbers_are_those_of_arrays(operator, axes, dtype):
    for k, shape in enumerate(shapes(axes)):
        layout = LAYOUTS[axes][k % 2]
        first, second, _ = integers(operator, shape, dtype, k)
        want = brute_force(operator, shape, first, second)
        pair = [first, second] if is_last(layout) else [np.moveaxis(a, -1, 1).copy() for a in (first, second)]
        place = operator == "conv2d"  # w is the second of the pair in conv2d
        name = operator.replace("2d", f"{axes}d")
        pair[place] = cks.pack(pair[place], operator=name, groups=shape.groups, layout=layout)
        got = call(operator, shape, *pair, layout)
        np.testing.assert_array_equal(got if is_last(layout) else np.moveaxis(got, 1, -1), want, err_msg=str(shape))


def test_a_transposed_layer_and_a_bias():
    x, w, bias = np.ones((1, 4, 4, 64), np.float32), np.ones((64, 4, 4, 40), np.float32), np.ones(40, np.float32)
    packed = cks.pack(w, operator="conv_transpose2d")
    want = cks.conv_transpose2d(x, w, bias, stride=2, padding=1, backend="cpu")
    out = np.empty_like(want)
    assert cks.conv_transpose2d(x, packed, bias, stride=2, padding=1, out=out) is out
    np.testing.assert_array_equal(out, want)


def test_it_is_a_copy():
    x, w = np.ones((1, 4, 4, 32), np.float32), np.ones((32, 3, 3, 32), np.float32)
    packed = cks.pack(w)
    want = cks.conv2d(x, w, backend="cpu")
    w[...] = 7
    np.testing.assert_array_equal(cks.conv2d(x, packed), want)
    assert packed.nbytes == 2 * w.nbytes and packed.shape == w.shape and packed.dtype == w.dtype


def test_on_any_number_of_threads_the_bits_are_the_same():
    import numba

    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(size, np.float32) for size in ((1, 6, 6, 130), (150, 3, 3, 130)))
    packed, found = cks.pack(w), set()
    before = numba.get_num_threads()
    for number in range(1, numba.config.NUMBA_NUM_THREADS + 1):
        numba.set_num_threads(number)
        found.add(cks.conv2d(x, packed, padding=1).tobytes())
    numba.set_num_threads(before)
    assert len(found) == 1


X, FILTERS = np.ones((1, 4, 4, 8), np.float32), np.ones((8, 3, 3, 8), np.float32)


@pytest.mark.parametrize(
    ("given", "keys", "error", "message"),
    [
        ({"operator": "conv2d_input"}, {}, ValueError, "packed for an input gradient .*operator='conv2d'"),
        ({"layout": "NCHW"}, {}, ValueError, "packed in layout 'NCHW'"),
        ({"operator": "conv1d"}, {}, ValueError, "w must have 3 axes"),
        ({"groups": 2}, {}, ValueError, "packed for groups=2, got groups=1"),
        ({}, {"backend": "steps"}, ValueError, 'need backend="cpu"'),
        ({}, {"backend": "emulator"}, ValueError, 'need backend="cpu"'),
        ({}, {"backend": "gpu"}, ValueError, "backend must be one of"),
    ],
)
def test_a_call_that_it_does_not_fit(given, keys, error, message):
    with pytest.raises(error, match=message):
        cks.conv2d(X, cks.pack(FILTERS, **given), padding=1, **keys)


def test_other_shapes_and_dtypes():
    packed = cks.pack(FILTERS)
    with pytest.raises(ValueError, match="channels do not match"):
        cks.conv2d(np.ones((1, 4, 4, 9), np.float32), packed)
    with pytest.raises(TypeError, match=r"packed as float32, the other array is float64: pack w.astype\('float64'\)"):
        cks.conv2d(X.astype(np.float64), packed)
    with pytest.raises(TypeError, match="x must be a NumPy array"):
        cks.conv2d(packed, FILTERS)
    with pytest.raises(ValueError, match="packed for a convolution"):
        cks.conv_transpose2d(X, packed)
    signals, filters = np.ones((1, 4, 8), np.float32), np.ones((8, 3, 8), np.float32)
    with pytest.raises(ValueError, match="pack it with operator='conv1d_input'"):
        cks.conv_transpose1d(signals, cks.pack(filters, operator="conv1d"))


@pytest.mark.parametrize(
    ("w", "keys", "error", "message"),
    [
        (FILTERS, {"operator": "conv2d_weight"}, ValueError, "operator must be one of"),
        (FILTERS, {"groups": 3}, ValueError, "groups must divide the channels of w"),
        (FILTERS, {"groups": 0}, ValueError, "groups"),
        (FILTERS, {"layout": "NWC"}, ValueError, "layout must be one of"),
        (FILTERS[0], {}, ValueError, "w must have 4 axes"),
        (FILTERS.astype(np.float16), {}, TypeError, "float32 or float64 in host memory"),
        (FILTERS.astype(int), {}, TypeError, "w must be"),
        (FILTERS[:0], {}, ValueError, "must not be empty"),
        (None, {}, TypeError, "w must be a NumPy array"),
    ],
)
def test_what_cannot_be_packed(w, keys, error, message):
    with pytest.raises(error, match=message):
        cks.pack(w, **keys)


def test_packed_twice():
    with pytest.raises(TypeError, match="packed already"):
        cks.pack(cks.pack(FILTERS))


def test_packed_filters_are_no_array():
    """So JAX and dask, which ask for one, get a sentence."""
    with pytest.raises(TypeError, match="packed filters are for the operators of cks_numba on the CPU"):
        np.asarray(cks.pack(FILTERS))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_tensors(layout):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, w = torch.ones(1, 8, 4, 4), torch.ones(16, 8, 3, 3)
    if layout == "NHWC":
        x, w = x.permute(0, 2, 3, 1), w.permute(0, 2, 3, 1)
    y = cks.conv2d(x, cks.pack(w, layout=layout), padding=1, layout=layout)
    assert isinstance(y, torch.Tensor) and "torch" in sys.modules
    assert torch.equal(y, cks.conv2d(x, w, padding=1, layout=layout, backend="cpu"))
