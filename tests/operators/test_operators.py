"""The operators against SciPy and against brute force over the equation, on every backend, without PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from reference import WARNINGS_ARE_ERRORS
from scipy.signal import correlate2d

import cks_numba as cks
from cks_numba.backends import cpu

CASES = {"cpu": 60, "steps": 20, "emulator": 20}  # random layers of each backend
BACKENDS = tuple(CASES)


def tolerance(dtype, terms):
    """Return a bound for the rounding of a sum of `terms` products of numbers of about 1."""
    return 8 * np.finfo(dtype).eps * (10 + terms)


def assert_same(got, wanted, terms):
    assert got.shape == wanted.shape
    assert got.dtype in (np.float32, np.float64)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance(got.dtype, terms))


def axis_size(rng, taps, stride, dilation, before, after):
    least = max(1, (taps - 1) * dilation + 1 - before - after)
    return int(least + rng.integers(0, 8))


def random_case(seed, dtype=np.float64):
    """Draw arrays and keyword arguments of a small layer."""
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2, 3]))
    n, icg, ocg = (int(k) for k in rng.integers(1, 4, 3))
    taps, strides, dilations = rng.integers(1, 5, 2), rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    pads = [tuple(int(p) for p in rng.integers(0, f + 1, 2)) for f in taps]
    size = [axis_size(rng, f, s, d, *p) for f, s, d, p in zip(taps, strides, dilations, pads, strict=True)]
    x = rng.standard_normal((n, *size, icg * groups)).astype(dtype)
    w = rng.standard_normal((ocg * groups, *taps, icg)).astype(dtype)
    keys = {"stride": tuple(map(int, strides)), "dilation": tuple(map(int, dilations)), "padding": tuple(pads)}
    return rng, x, w, keys | {"groups": groups}


def triples(size, taps, outputs, stride, before, dilation):
    """Find every (i, f, o) of the equation by trying them all."""
    found = product(range(size), range(taps), range(outputs))
    return [(i, f, o) for i, f, o in found if i == o * stride - before + f * dilation]


@np.errstate(invalid="ignore")  # some BLAS libraries multiply zeros past the end of a row, and infinity times 0 warns
def brute_force(operator, x, w, dy, stride, padding, dilation, groups):
    """Add up one product after the other."""
    (_, ih, iw, _), (oc, fh, fw, icg), (_, oh, ow, _) = x.shape, w.shape, dy.shape
    y, dx, dw = (np.zeros(a.shape) for a in (dy, x, w))
    rows = triples(ih, fh, oh, stride[0], padding[0][0], dilation[0])
    cols = triples(iw, fw, ow, stride[1], padding[1][0], dilation[1])
    for (i, f, o), (j, e, q), g in product(rows, cols, range(groups)):
        ics, ocs = slice(g * icg, (g + 1) * icg), slice(g * (oc // groups), (g + 1) * (oc // groups))
        y[:, o, q, ocs] += x[:, i, j, ics] @ w[ocs, f, e].T
        dx[:, i, j, ics] += dy[:, o, q, ocs] @ w[ocs, f, e]
        dw[ocs, f, e] += dy[:, o, q, ocs].T @ x[:, i, j, ics]
    return {"conv2d": y, "conv2d_input": dx, "conv2d_weight": dw}[operator]


def call(operator, x, w, dy, **keys):
    if operator == "conv2d":
        return cks.conv2d(x, w, **keys)
    if operator == "conv2d_input":
        return cks.conv2d_input(x.shape, w, dy, **keys)
    return cks.conv2d_weight(x, w.shape, dy, **keys)


OPERATORS = ("conv2d", "conv2d_input", "conv2d_weight")


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_brute_force(operator, backend, dtype):
    for seed in range(CASES[backend]):
        rng, x, w, keys = random_case(seed, dtype)
        y = cks.conv2d(x, w, backend=backend, **keys)
        dy = rng.standard_normal(y.shape).astype(dtype)
        got = call(operator, x, w, dy, backend=backend, **keys)
        assert got.dtype == dtype
        wide = (array.astype(np.float64) for array in (x, w, dy))
        assert_same(got, brute_force(operator, *wide, **keys), terms=max(x.size, dy.size))


@pytest.mark.parametrize("seed", range(20))
def test_conv2d_against_scipy(seed):
    """SciPy slides over the padded picture at stride 1; every stride-th position is kept."""
    rng = np.random.default_rng(seed)
    fh, fw, p, s = (int(k) for k in rng.integers([1, 1, 0, 1], [5, 5, 4, 4]))
    x, w = rng.standard_normal((2, fh + 4, fw + 6, 3)), rng.standard_normal((4, fh, fw, 3))
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    wanted = np.stack(
        [[sum(correlate2d(a[..., c], b[..., c], "valid")[::s, ::s] for c in range(3)) for b in w] for a in padded]
    )
    got = cks.conv2d(x, w, stride=s, padding=p, backend="cpu")
    assert_same(got, wanted.transpose(0, 2, 3, 1), terms=fh * fw * 3)


@pytest.mark.parametrize("seed", range(20))
def test_conv2d_input_against_scipy(seed):
    """The regular way: zeros inserted into dy, then a full correlation with the flipped filter, then a crop."""
    rng = np.random.default_rng(seed)
    fh, fw, s = (int(k) for k in rng.integers([1, 1, 1], [5, 5, 4]))
    p = int(rng.integers(0, min(fh, fw)))
    w, dy = rng.standard_normal((4, fh, fw, 3)), rng.standard_normal((2, 3, 5, 4))
    spread = np.zeros((2, 2 * s + 1, 4 * s + 1, 4))
    spread[:, ::s, ::s] = dy
    flipped = w[:, ::-1, ::-1]
    full = np.stack(
        [[sum(correlate2d(a[..., o], flipped[o, ..., i], "full") for o in range(4)) for i in range(3)] for a in spread]
    )
    wanted = full[:, :, p : full.shape[2] - p, p : full.shape[3] - p].transpose(0, 2, 3, 1)
    got = cks.conv2d_input(wanted.shape, w, dy, stride=s, padding=p, backend="cpu")
    assert_same(got, wanted, terms=fh * fw * 4)
    assert_same(cks.conv_transpose2d(dy, w, stride=s, padding=p, backend="cpu"), wanted, terms=fh * fw * 4)


@pytest.mark.parametrize("seed", range(20))
def test_conv2d_weight_against_scipy(seed):
    """The regular way: the padded picture correlated with a dy that had zeros inserted."""
    rng = np.random.default_rng(seed)
    fh, fw, p, s = (int(k) for k in rng.integers([1, 1, 0, 1], [5, 5, 4, 4]))
    x = rng.standard_normal((2, fh + 2 * s, fw + 3 * s, 3))
    dy = rng.standard_normal(cks.conv2d(x, np.ones((4, fh, fw, 3)), stride=s, padding=p, backend="cpu").shape)
    spread = np.zeros((2, (dy.shape[1] - 1) * s + 1, (dy.shape[2] - 1) * s + 1, 4))
    spread[:, ::s, ::s] = dy
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    wanted = np.zeros((4, fh, fw, 3))
    for n, o, i in product(range(2), range(4), range(3)):
        wanted[o, ..., i] += correlate2d(padded[n, ..., i], spread[n, ..., o], "valid")[:fh, :fw]
    got = cks.conv2d_weight(x, wanted.shape, dy, stride=s, padding=p, backend="cpu")
    assert_same(got, wanted, terms=dy.size)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_nchw_is_the_transpose(operator, backend):
    for seed in range(20):
        rng, x, w, keys = random_case(seed)
        dy = rng.standard_normal(cks.conv2d(x, w, backend=backend, **keys).shape)
        wanted = call(operator, x, w, dy, backend=backend, **keys)
        first = [array.transpose(0, 3, 1, 2) for array in (x, w, dy)]  # views, not contiguous
        got = call(operator, *first, backend=backend, layout="NCHW", **keys)
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got.transpose(0, 2, 3, 1), wanted)


@pytest.mark.parametrize(
    ("padding", "four"),
    [
        (1, ((1, 1), (1, 1))),
        ((2, 1), ((2, 2), (1, 1))),
        ((0, 1, 2, 0), ((0, 1), (2, 0))),
        ([[0, 1], [2, 0]], ((0, 1), (2, 0))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 1), (0, 1))),
    ],
)
def test_paddings(padding, four):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((4, 3, 2, 3))
    wanted = cks.conv2d(np.pad(x, ((0, 0), *four, (0, 0))), w, backend="cpu")
    assert_same(cks.conv2d(x, w, padding=padding, backend="cpu"), wanted, terms=18)


def test_padding_same_keeps_the_size():
    x, w = np.ones((1, 7, 4, 1)), np.ones((1, 4, 5, 1))
    assert cks.conv2d(x, w, padding="same", dilation=2, backend="cpu").shape == x.shape


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_bias_out_and_one_image(layout, backend):
    rng = np.random.default_rng(1)
    x, w, bias = rng.standard_normal((2, 5, 5, 3)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    wanted = cks.conv2d(x, w, padding=1, backend=backend) + bias
    if layout == "NCHW":
        x, w, wanted = (array.transpose(0, 3, 1, 2) for array in (x, w, wanted))
    keys = {"padding": 1, "layout": layout, "backend": backend}
    assert_same(cks.conv2d(x, w, bias, **keys), wanted, terms=27)
    out = np.full(wanted.shape, np.nan)
    assert cks.conv2d(x, w, bias, out=out, **keys) is out
    assert_same(out, wanted, terms=27)
    one = np.full(wanted.shape[1:], np.nan)
    assert cks.conv2d(x[1], w, bias, out=one, **keys) is one
    assert_same(one, wanted[1], terms=27)
    assert_same(cks.conv2d(x[1], w, bias, **keys), wanted[1], terms=27)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_image_of_the_gradients(backend):
    rng = np.random.default_rng(2)
    x, w, dy = (rng.standard_normal(shape) for shape in ((1, 6, 5, 2), (3, 3, 3, 2), (1, 3, 3, 3)))
    keys = {"stride": 2, "padding": 1, "backend": backend}
    dx = cks.conv2d_input(x.shape, w, dy, **keys)
    np.testing.assert_array_equal(cks.conv2d_input(x.shape[1:], w, dy[0], **keys), dx[0])
    dw = cks.conv2d_weight(x, w.shape, dy, **keys)
    np.testing.assert_array_equal(cks.conv2d_weight(x[0], w.shape, dy[0], **keys), dw)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_out_is_filled_everywhere(operator, backend):
    for seed in range(30 if backend == "cpu" else 10):
        rng, x, w, keys = random_case(seed)
        dy = rng.standard_normal(cks.conv2d(x, w, backend=backend, **keys).shape)
        wanted = call(operator, x, w, dy, backend=backend, **keys)
        out = np.full(wanted.shape, np.nan)
        assert call(operator, x, w, dy, backend=backend, out=out, **keys) is out
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides_byte_order_and_read_only(operator, backend):
    rng, x, w, keys = random_case(5)
    dy = rng.standard_normal(cks.conv2d(x, w, backend=backend, **keys).shape)
    wanted = call(operator, x, w, dy, backend=backend, **keys)
    odd = [np.flip(np.flip(a, 1).copy(), 1).astype(">f8") for a in (x, w, dy)]
    odd[0] = np.repeat(x, 2, axis=3)[..., ::2]
    for array in odd:
        array.flags.writeable = False
    got = call(operator, *odd, backend=backend, **keys)
    assert got.dtype == np.float64 and got.dtype.isnative
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    x, w, dy = np.ones((0, 5, 5, 2), np.float32), np.ones((3, 3, 3, 2), np.float32), np.ones((0, 3, 3, 3), np.float32)
    y = cks.conv2d(x, w, np.ones(3, np.float32), backend=backend)
    assert y.shape == (0, 3, 3, 3) and y.dtype == np.float32
    assert cks.conv2d_input(x.shape, w, dy, backend=backend).shape == x.shape
    dw = cks.conv2d_weight(x, w.shape, dy, backend=backend)
    assert dw.shape == w.shape and not dw.any()


def test_positions_that_nothing_reaches_are_exactly_zero():
    rng = np.random.default_rng(3)
    w, dy = np.full((2, 1, 1, 3), np.inf), rng.standard_normal((1, 3, 3, 2))
    dx = cks.conv2d_input((1, 6, 6, 3), w, dy, stride=2, backend="cpu")
    reached = np.zeros(dx.shape, bool)
    reached[:, ::2, ::2] = True
    assert not np.isfinite(dx[reached]).any()
    np.testing.assert_array_equal(dx[~reached], 0)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_and_infinity_reach_real_products_only(operator, poison):
    for seed in range(30):
        rng, x, w, keys = random_case(seed)
        dy = rng.standard_normal(cks.conv2d(x, w, backend="cpu", **keys).shape)
        arrays = {"x": x, "w": w, "dy": dy}
        names = {"conv2d": ("x", "w"), "conv2d_input": ("w", "dy"), "conv2d_weight": ("x", "dy")}[operator]
        target = arrays[names[seed % 2]]
        target.flat[rng.integers(target.size)] = poison
        got = call(operator, x, w, dy, backend=BACKENDS[seed // 2 % 3], **keys)
        wanted = brute_force(operator, x, w, dy, **keys)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(wanted))


@pytest.mark.parametrize("operator", OPERATORS)
def test_small_scratch_gives_the_same(operator, monkeypatch):
    """Plain NumPy gives the same result if it has to work in chunks of images, and of rows of one image."""
    for seed, scratch in product(range(10), (1, 2000)):
        rng, x, w, keys = random_case(seed)
        dy = rng.standard_normal(cks.conv2d(x, w, backend="cpu", **keys).shape)
        wanted = call(operator, x, w, dy, backend="cpu", **keys)
        monkeypatch.setattr(cpu, "COMPILED", False)
        monkeypatch.setattr(cpu.plain, "SCRATCH_BYTES", scratch)
        got = call(operator, x, w, dy, backend="cpu", **keys)
        monkeypatch.undo()
        assert_same(got, wanted, terms=max(x.size, dy.size))


@pytest.mark.parametrize("backend", BACKENDS)
def test_overflow_is_infinity_and_no_warning(backend):
    x, w = np.full((1, 3, 3, 1), 1e30, np.float32), np.full((1, 2, 2, 1), 1e30, np.float32)
    np.testing.assert_array_equal(cks.conv2d(x, w, backend=backend), np.inf)
    bias = np.full(1, -np.inf, np.float32)
    assert np.isnan(cks.conv2d(x, w, bias, backend=backend)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_bits_twice(backend):
    rng = np.random.default_rng(4)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in ((3, 9, 9, 5), (7, 3, 3, 5), (3, 5, 5, 7)))
    for operator in OPERATORS:
        runs = [call(operator, x, w, dy, stride=2, padding=1, backend=backend).tobytes() for _ in range(2)]
        assert runs[0] == runs[1]


def test_names_of_the_paper_and_public_names():
    assert cks.conv_v2 is cks.conv2d and cks.ks_deconv is cks.conv2d_input and cks.sk_dilated is cks.conv2d_weight
    assert cks.__version__ == "0.1.0"
    assert set(cks.__all__) == {"__version__", *cks._HOMES}
    for name in cks.__all__:
        assert getattr(cks, name) is not None and name in dir(cks)
    with pytest.raises(AttributeError, match="no attribute 'conv4d'"):
        _ = cks.conv4d


SIMULATED = """
import numpy as np
from numba import cuda
import cks_numba as cks
rng = np.random.default_rng(0)
x, w, bias, dy = (rng.standard_normal(s).astype(np.float32) for s in ((1, 5, 4, 2), (3, 3, 2, 2), (3,), (1, 3, 3, 3)))
keys = {"stride": 2, "padding": (1, 1)}
calls = {
    "conv2d": lambda x, w, bias, dy, **k: cks.conv2d(x, w, bias, **keys, **k),
    "conv2d_input": lambda x, w, bias, dy, **k: cks.conv2d_input(ORDER, w, dy, **keys, **k),
    "conv2d_weight": lambda x, w, bias, dy, **k: cks.conv2d_weight(x, FILTER, dy, **keys, **k),
}
for layout in ("NHWC", "NCHW"):
    axes = (0, 1, 2, 3) if layout == "NHWC" else (0, 3, 1, 2)
    first = [a.transpose(axes).copy() if a.ndim == 4 else a for a in (x, w, bias, dy)]
    ORDER, FILTER = first[0].shape, first[1].shape
    for name, call in calls.items():
        wanted = call(*first, layout=layout, backend="steps")  # compiles nothing
        there = [cuda.to_device(a) for a in first]
        if layout == "NHWC":
            got = call(*first, layout=layout, backend="cuda")
            assert type(got) is np.ndarray and got.dtype == np.float32
        elif name == "conv2d":
            got = call(*there, layout=layout)  # "auto"
            assert not isinstance(got, np.ndarray)
            got = got.copy_to_host()
        else:
            out = cuda.to_device(np.full(wanted.shape, np.nan, np.float32))
            assert call(*there, layout=layout, out=out) is out
            got = out.copy_to_host()
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, atol=1e-5)
one = cks.conv2d(cuda.to_device(x[0]), cuda.to_device(w), cuda.to_device(bias), **keys)
np.testing.assert_allclose(one.copy_to_host(), cks.conv2d(x[0], w, bias, backend="steps", **keys), atol=1e-5)
added = {"stride": 1, "dilation": 3, "output_padding": 2}  # rows past the padding
both = [cks.conv_transpose2d(x[:, :2, :2, :1].copy(), w[:1], backend=b, **added) for b in ("cuda", "steps")]
np.testing.assert_allclose(*both, atol=1e-5)
same = [cks.conv2d(x, w, backend="cuda", precision=p) for p in ("float32", "tf32")]  # there are no tensor cores
np.testing.assert_array_equal(*same)
half = [a.astype(np.float16) for a in (x, w)]
assert cks.conv2d(*half).dtype == np.float16  # "auto" is the CPU
for arrays, keys in ((half, {"backend": "cuda"}), (map(cuda.to_device, half), {})):
    try:
        cks.conv2d(*arrays, **keys)
    except RuntimeError as error:
        assert "found Numba's simulator" in str(error), error
    else:
        raise AssertionError("16 bits in the simulator")
try:
    cks.conv2d(cuda.to_device(x), cuda.to_device(w), backend="cpu")
except ValueError as error:
    assert "host memory" in str(error), error
else:
    raise AssertionError("GPU arrays on the cpu backend")
print("simulated")
"""


def test_cuda_backend_in_the_simulator():
    """Runs in a process of its own: the simulator must be chosen before numba is imported."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, *WARNINGS_ARE_ERRORS, "-c", SIMULATED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "simulated"


@pytest.mark.parametrize("one", [[2], (2,)])
def test_a_list_of_one_is_for_both_axes_as_in_pytorch(one):
    x, w = np.ones((1, 7, 7, 2)), np.ones((2, 3, 3, 2))
    for name in ("stride", "padding", "dilation"):
        np.testing.assert_array_equal(cks.conv2d(x, w, **{name: one}), cks.conv2d(x, w, **{name: 2}))
    y = cks.conv_transpose2d(x, w, stride=[2], output_padding=[1])
    np.testing.assert_array_equal(y, cks.conv_transpose2d(x, w, stride=2, output_padding=1))
