"""The operators with one and with three spatial axes, against the equation itself, and what their arguments may be."""

from __future__ import annotations

import random

import numpy as np
import pytest
from reference import brute_force, call, integers, random_shape

import cks_numba as cks
from cks_numba.buffers import LAYOUTS
from cks_numba.geometry import OPERATORS, ConvShape, plan


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("backend", ["cpu", "steps"])
def test_every_result_is_that_of_the_equation(operator, axes, backend):
    rng = random.Random(axes)
    for seed in range(300):
        shape = random_shape(rng, size=9 if axes == 1 else 5, axes=axes)
        first, second, _ = integers(operator, shape, "float32", seed)
        got = call(operator, shape, first, second, backend=backend)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, brute_force(operator, shape, first, second), err_msg=str(shape))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_triple_of_every_axis_lies_in_one_group(axes):
    rng = random.Random(axes)
    for _ in range(40):
        shape = random_shape(rng, size=5, axes=axes)
        wanted = sum(1 for _ in _products(shape))
        for operator in OPERATORS:
            groups = plan(operator, shape).groups
            found = [
                tuple(zip(*triples, strict=True)) for group in groups for triples in _product_of(run for run in group)
            ]
            assert len(found) == len(set(found)) == wanted
            assert plan(operator, shape).useful == shape.n * shape.oc * shape.ic // shape.groups * wanted


def _product_of(runs):
    """Yield the triples of several runs, combined."""
    first, *others = runs
    for triple in first.triples():
        if not others:
            yield (triple,)
        else:
            yield from ((triple, *rest) for rest in _product_of(others))


def _products(shape):
    """Yield the combinations (i, f, o) of all axes that meet, by looking at every one."""
    pairs = [
        [
            (i, f)
            for i in range(axis.size)
            for f in range(axis.taps)
            for o in range(axis.outputs)
            if i == o * axis.stride - axis.before + f * axis.dilation
        ]
        for axis in shape.axes
    ]
    yield from np.ndindex(*map(len, pairs))


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("backend", ["cpu", "steps"])
def test_layouts_views_batches_and_out(axes, backend):
    rng = np.random.default_rng(axes)
    sizes, last, first = (7, 6, 5)[:axes], *LAYOUTS[axes]
    x, w = rng.integers(-4, 5, (2, *sizes, 4)).astype(float), rng.integers(-4, 5, (6, *[3] * axes, 2)).astype(float)
    conv, keys = getattr(cks, f"conv{axes}d"), {"padding": 1, "stride": 2, "groups": 2, "backend": backend}
    y = conv(x, w, **keys)
    assert y.shape == (2, *(-(-size // 2) for size in sizes), 6)
    to_first = lambda array: np.moveaxis(array, -1, 1)  # noqa: E731
    np.testing.assert_array_equal(conv(to_first(x), to_first(w), layout=first, **keys), to_first(y))
    np.testing.assert_array_equal(conv(x[1], w, layout=last, **keys), y[1])
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(conv(wide, w, **keys), y)
    np.testing.assert_array_equal(
        conv(x[:, ::-1], w[:, ::-1], **keys | {"stride": 1})[:, ::-1], conv(x, w, **keys | {"stride": 1})
    )
    out = np.full(y.shape, np.nan)
    assert conv(x, w, np.ones(6), out=out, **keys) is out
    np.testing.assert_array_equal(out, y + 1)
    empty = conv(x[:0], w, **keys)
    assert empty.shape == (0, *y.shape[1:])
    weight = getattr(cks, f"conv{axes}d_weight")(x[:0], w.shape, y[:0], **keys)
    assert weight.shape == w.shape and not weight.any()


@pytest.mark.parametrize("backend", ["cpu", "steps"])
def test_sixteen_bits_of_a_signal(backend):
    x = np.array([60000, 60000, -60000, 1], np.float16).reshape(1, 4, 1)
    y = cks.conv1d(x, np.ones((1, 3, 1), np.float16), backend=backend)
    assert y.dtype == np.float16 and y.ravel().tolist() == [60000, 1]


@pytest.mark.parametrize("axes", [1, 3])
def test_every_form_of_padding(axes):
    shape = (1, *[6] * axes, 1)
    x, w, conv = np.ones(shape), np.ones((1, *[3] * axes, 1)), getattr(cks, f"conv{axes}d")
    forms = [1, [1], (1,) * axes, ((1, 1),) * axes, (1, 1) * axes, "same"]
    results = [conv(x, w, padding=form, backend="cpu") for form in forms]
    assert all(np.array_equal(result, results[0]) for result in results)
    assert conv(x, w, padding="valid", backend="cpu").shape == (1, *[4] * axes, 1)
    uneven = conv(x, w, padding=(0, 2) * axes, backend="cpu")
    assert uneven.shape == shape and uneven.ravel()[0] == 3**axes and uneven.ravel()[-1] == 1


X1, W1, X3, W3 = np.ones((1, 8, 2)), np.ones((4, 3, 2)), np.ones((1, 4, 4, 4, 2)), np.ones((4, 3, 3, 3, 2))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: cks.conv1d(X1, W1, stride=(1, 2)), ValueError, "stride must be an int or a list of one, got (1, 2)"),
        (lambda: cks.conv3d(X3, W3, stride=(1, 2)), ValueError, "stride must be an int or three ints, got (1, 2)"),
        (lambda: cks.conv1d(X1, W1, padding=(1, 2, 3)), ValueError, "padding must be an int, (left, right), "),
        (lambda: cks.conv3d(X3, W3, padding=(1, 2)), ValueError, "int, three ints, three pairs, six ints"),
        (lambda: cks.conv1d(X1, W1, layout="NHWC"), ValueError, "layout must be one of 'NWC', 'NCW', got 'NHWC'"),
        (lambda: cks.conv2d(X1, W1, layout="NWC"), ValueError, "layout must be one of 'NHWC', 'NCHW', got 'NWC'"),
        (lambda: cks.conv1d(X1, W1, 2), TypeError, "write conv1d(x, w, stride=2)"),
        (lambda: cks.conv1d(X1[0, 0], W1), ValueError, "(N, IW, IC), or 2 unbatched (IW, IC), got shape (2,)"),
        (lambda: cks.conv1d(X1[0, :, 0], W1), ValueError, "a signal of one channel is x[..., None]"),
        (lambda: cks.conv3d(X3, W1), ValueError, "w must have 5 axes (OC, FD, FH, FW, IC/groups), got shape (4, 3, 2)"),
        (lambda: cks.conv3d(X3[:, :2], W3), ValueError, "fd=3 with dilation 1 spans 3, id=2 padded is 2"),
        (lambda: cks.conv1d(X1.swapaxes(1, 2), W1.swapaxes(1, 2)), ValueError, '; layout="NCW" would fit'),
        (lambda: cks.conv1d(X1, np.ones((3, 2, 9))), ValueError, "; w.transpose(2, 0, 1) would fit"),
        (lambda: cks.conv_transpose1d(X1, W1[:2], stride=2, output_padding=2), ValueError, "output_padding must be"),
        (lambda: cks.conv3d_input((1, 9, 4, 4, 2), W3, X3[..., :1].repeat(4, -1), padding=1), ValueError, "depths"),
        (lambda: ConvShape.of((1, 4, 2), (4, 3, 3, 2)), ValueError, "x and w must both have 3, 4 or 5 axes"),
    ],
)  # fmt: skip
def test_wrong_arguments(wrong, error, message):
    with pytest.raises(error) as raised:
        wrong()
    assert message in str(raised.value)
