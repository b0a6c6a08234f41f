"""cks_numba.jax under jit, grad and vmap, against the convolutions of JAX itself."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from reference import in_a_process

jax = pytest.importorskip("jax", reason="JAX is not installed (pip install jax)")
from jax import lax  # noqa: E402

import cks_numba as cks  # noqa: E402
from cks_numba import jax as cj  # noqa: E402

pytestmark = pytest.mark.jax

CASES = [  # size, filters, groups, stride, padding, dilation
    ((2, 7, 6, 3), (4, 3, 3, 3), 1, 1, (1, 1, 1, 1), 1),
    ((1, 9, 8, 4), (6, 3, 2, 2), 2, (2, 1), (1, 0, 2, 1), (1, 2)),
    ((1, 6, 6, 3), (3, 4, 4, 1), 3, 3, (2, 2, 2, 2), 1),
]


def random(*shape, dtype=np.float32):
    return jax.numpy.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), dtype)


def reference(x, w, groups, stride, padding, dilation, layout="NHWC"):
    """The convolution of JAX."""
    strides, dilations = ((k, k) if isinstance(k, int) else k for k in (stride, dilation))
    names = ("NHWC", "OHWI", "NHWC") if layout == "NHWC" else ("NCHW", "OIHW", "NCHW")
    options = dict(rhs_dilation=dilations, feature_group_count=groups, dimension_numbers=names)
    return lax.conv_general_dilated(x, w, strides, [padding[:2], padding[2:]], **options)


def pair(case, layout="NHWC", dtype=np.float32):
    """Our function of x and w, JAX's, and the two operands."""
    size, filters, groups, stride, padding, dilation = case
    pads = (padding[:2], padding[2:])
    options = dict(groups=groups, stride=stride, padding=pads, dilation=dilation, layout=layout)
    ours = lambda x, w: cj.conv2d(x, w, **options)  # noqa: E731
    theirs = lambda x, w: reference(x, w, groups, stride, padding, dilation, layout)  # noqa: E731
    axes = (0, 1, 2, 3) if layout == "NHWC" else (0, 3, 1, 2)
    return ours, theirs, random(*size, dtype=dtype).transpose(axes), random(*filters, dtype=dtype).transpose(axes)


def same(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, wanted)


def energy(function):
    return lambda x, w: (function(x, w) ** 2).sum()


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_jax(case, layout):
    ours, theirs, x, w = pair(case, layout)
    for wrap in (lambda f: f, jax.jit):
        same(wrap(ours)(x, w), theirs(x, w))
        same(wrap(jax.grad(energy(ours), (0, 1)))(x, w), jax.grad(energy(theirs), (0, 1))(x, w))
    second = [jax.grad(lambda w, f=f: (jax.grad(energy(f))(x, w) ** 2).sum())(w) for f in (ours, theirs)]
    np.testing.assert_allclose(*second, rtol=1e-3, atol=1e-3 * float(abs(second[1]).max()))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_float64_stays_float64(layout):
    with jax.enable_x64(True):  # in this thread alone, and callbacks run in others
        ours, theirs, x, w = pair(CASES[1], layout, np.float64)
        for f in (lambda g: g, lambda g: jax.grad(energy(g), (0, 1))):
            for got, wanted in zip(
                jax.tree.leaves(jax.jit(f(ours))(x, w)), jax.tree.leaves(f(theirs)(x, w)), strict=True
            ):
                assert got.dtype == np.float64
                np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits(dtype):
    ours, theirs, x, w = pair(CASES[1], dtype=dtype)
    got = jax.jit(ours)(x, w)
    assert got.dtype == dtype
    wide = theirs(x.astype(np.float32), w.astype(np.float32))
    np.testing.assert_allclose(got.astype(np.float32), wide, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_images_filters_and_both(axes):
    ours, theirs, x, w = pair(CASES[1])
    pairs = zip((x, w), axes, strict=True)
    operands = [v if axis is None else jax.numpy.stack([v, 2 * v, v - 1]) for v, axis in pairs]
    same(jax.jit(jax.vmap(ours, axes))(*operands), jax.vmap(theirs, axes)(*operands))
    gradients = [jax.vmap(jax.grad(energy(f), (0, 1)), axes)(*operands) for f in (ours, theirs)]
    same(*gradients)  # gradients of every sample


def test_the_transposed_layer_is_the_gradient_of_the_other():
    def ours(x, w):
        return cj.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)

    def theirs(x, w):
        forward = lambda z: reference(z, w, 1, 2, (1, 1, 1, 1), 1)  # noqa: E731
        return jax.vjp(forward, jax.numpy.zeros((2, 10, 8, 2)))[1](x)[0]

    x, w = random(2, 5, 4, 6), random(6, 3, 3, 2)
    same(jax.jit(ours)(x, w), theirs(x, w))
    same(jax.grad(energy(ours), (0, 1))(x, w), jax.grad(energy(theirs), (0, 1))(x, w))


def test_layouts_bias_and_an_output_padding_of_the_stride():
    x, w, b = random(1, 6, 5, 2), random(2, 3, 3, 2), random(2)
    options = dict(padding=2, output_padding=2, dilation=3)
    last = cj.conv_transpose2d(x, w, b, **options)
    first = cj.conv_transpose2d(x.transpose(0, 3, 1, 2), w.transpose(0, 3, 1, 2), b, **options, layout="NCHW")
    same(first.transpose(0, 2, 3, 1), last)
    assert last.shape == (1, 10, 9, 2)
    same(cj.conv2d(x, w, b, padding="same"), reference(x, w, 1, 1, (1, 1, 1, 1), 1) + b)


@pytest.mark.parametrize(
    ("x", "w", "options", "message"),
    [
        ((1, 4, 4, 3), (2, 3, 3, 2), {}, "channels do not match"),
        ((4, 4, 3), (2, 3, 3, 3), {}, "x must have"),
        ((1, 4, 4, 3), (2, 3, 3, 3), {"stride": 0}, "stride"),
        ((1, 4, 4, 3), (2, 3, 3, 3), {"layout": "HWCN"}, "layout must be one of"),
    ],
)
def test_wrong_arguments_are_refused_while_tracing(x, w, options, message):
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x, w: cj.conv2d(x, w, **options))(jax.numpy.ones(x), jax.numpy.ones(w))


@pytest.mark.parametrize("wrap", [jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())])
def test_the_plain_operators_point_here_while_jax_traces(wrap):
    x, w = random(1, 1, 4, 4, 3), np.ones((2, 3, 3, 3), np.float32)
    x = x if wrap is jax.vmap else x[0]
    with pytest.raises(TypeError, match=r"x is an array that JAX is tracing .*: cks_numba.jax has conv2d"):
        wrap(lambda x: cks.conv2d(x, jax.numpy.asarray(w)))(x)
    with pytest.raises(TypeError, match="w is an array that JAX is tracing"):
        jax.jit(lambda w: cks.conv2d(np.ones((1, 4, 4, 3), np.float32), w))(w)


def test_lists_numpy_arrays_and_a_bias_of_another_dtype():
    x, w = np.ones((1, 3, 3, 1), np.float32), np.ones((1, 3, 3, 1), np.float32)
    assert cj.conv2d(x.tolist(), w).item() == 9
    with pytest.raises(TypeError, match="x and bias must have the same dtype"):
        cj.conv2d(x, w, np.ones(1, np.float16))
    with pytest.raises(ValueError, match="bias must have shape"):
        jax.jit(cj.conv2d)(x, w, np.ones(2, np.float32))


def test_a_training_step_is_one_computation_and_learns():
    x, target = random(4, 8, 8, 3), random(4, 4, 4, 6)
    weights = [random(5, 3, 3, 3), random(5), random(5, 3, 3, 6)]

    def loss(weights):
        hidden = jax.nn.relu(cj.conv2d(x, weights[0], weights[1], stride=4, padding=1))
        return ((cj.conv_transpose2d(hidden, weights[2], stride=2, padding=1, output_padding=1) - target) ** 2).mean()

    @jax.jit
    def step(weights):
        value, gradients = jax.value_and_grad(loss)(weights)
        return value, jax.tree.map(lambda w, g: w - 0.05 * g, weights, gradients)

    losses = []
    for _ in range(20):
        value, weights = step(weights)
        losses.append(float(value))
    assert losses[-1] < 0.9 * losses[0]


def many_computations_at_once(images):
    """Start jitted computations, each with callbacks that depend on one another, from several threads."""
    x, w = random(images, 16, 16, 16), random(16, 3, 3, 16)
    twice = jax.jit(lambda x, w, k: cj.conv2d(cj.conv2d(x * k, w, padding=1), w, padding=1).sum())
    slope = jax.jit(jax.grad(lambda w: twice(x, w, 2.0) + (cj.conv2d(x, w) ** 2).mean()))
    jax.block_until_ready([*(twice(x, w, float(k)) for k in range(8)), *(slope(w) for _ in range(4))])
    call = lambda: jax.block_until_ready([twice(x, w, float(k)) for k in range(4)])  # noqa: E731
    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("images", [1, 64])
def test_computations_do_not_wait_for_each_other(images):
    in_a_process("test_jax", f"many_computations_at_once({images})")


@pytest.mark.parametrize("axes", [1, 3])
def test_one_axis_and_three(axes):
    conv, transposed = getattr(cj, f"conv{axes}d"), getattr(cj, f"conv_transpose{axes}d")
    spatial = "DHW"[-axes:]
    names = (f"N{spatial}C", f"O{spatial}I", f"N{spatial}C")

    def theirs(x, w):
        padding = [(1, 2)] * axes
        return lax.conv_general_dilated(
            x, w, (2,) * axes, padding, rhs_dilation=(2,) * axes, feature_group_count=2, dimension_numbers=names
        )

    def ours(x, w):
        return conv(x, w, stride=2, padding=((1, 2),) * axes, dilation=2, groups=2)

    x, w = random(2, *(7, 6, 5)[:axes], 4), random(6, *[3] * axes, 2)
    same(jax.jit(ours)(x, w), theirs(x, w))
    same(jax.jit(jax.grad(energy(ours), (0, 1)))(x, w), jax.grad(energy(theirs), (0, 1))(x, w))
    xs = jax.numpy.stack([x, x - 1])
    same(jax.vmap(ours, (0, None))(xs, w), jax.vmap(theirs, (0, None))(xs, w))
    to_first = lambda array: jax.numpy.moveaxis(array, -1, 1)  # noqa: E731
    layout = f"NC{spatial}"
    y = conv(to_first(x), to_first(w), jax.numpy.ones(6), layout=layout, padding=1, groups=2)
    same(jax.numpy.moveaxis(y, 1, -1), conv(x, w, padding=1, groups=2) + 1)
    forward = lambda z: conv(z, w, stride=2, padding=1, groups=2)  # noqa: E731
    y = forward(x)
    same(
        transposed(y, w, stride=2, padding=1, output_padding=[(size - 1) % 2 for size in x.shape[1:-1]], groups=2),
        jax.vjp(forward, x)[1](y)[0],
    )
