"""float16 and bfloat16: sums in float32, rounded once; and `precision`, which lets float32 use tensor cores."""

from __future__ import annotations

import random
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from reference import HARD_SHAPES, WARNINGS_ARE_ERRORS, brute_force, integers, random_shape

import cks_numba as cks
from cks_numba import ConvShape, backends
from cks_numba.backends import cuda as cuda_backend
from cks_numba.emulator import run_kernel
from cks_numba.kernels import elementwise

if find_spec("ml_dtypes"):
    import ml_dtypes

    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
    EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
else:
    EPS = {"float16": 2.0**-10}

NO_BFLOAT16 = "ml_dtypes is not installed (pip install ml_dtypes)"
OPERATORS = ("conv2d", "conv2d_input", "conv2d_weight")
BACKENDS = ("cpu", "steps", "emulator")
ON_CPU = ("cpu", "steps")
DRAWN = {"cpu": 8, "steps": 8, "emulator": 2}  # random layers of each backend
HALVES = pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        pytest.param(
            "bfloat16",
            marks=pytest.mark.skipif("bfloat16" not in EPS, reason=NO_BFLOAT16),
        ),
    ],
)
LAYOUTS = pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
SHAPE = ConvShape(n=2, ih=5, iw=6, ic=3, oc=5, fh=3, fw=2, stride=2, padding=((1, 0), (0, 1)))


def call(operator, shape, first, second, layout="NHWC", **keys):
    """Call an operator on NHWC arrays, in the layout; the result comes back as NHWC."""
    keys |= dict(stride=shape.stride, padding=shape.padding, dilation=shape.dilation, groups=shape.groups)
    own, last = ((0, 3, 1, 2), (0, 2, 3, 1)) if layout == "NCHW" else ((0, 1, 2, 3),) * 2
    first, second = first.transpose(own), second.transpose(own)
    sizes = [tuple(size[axis] for axis in own) for size in (shape.x_shape, shape.w_shape)]
    keys = {"layout": layout, "backend": "cpu"} | keys
    if operator == "conv2d":
        return cks.conv2d(first, second, **keys).transpose(last)
    if operator == "conv2d_input":
        return cks.conv2d_input(sizes[0], first, second, **keys).transpose(last)
    return cks.conv2d_weight(first, sizes[1], second, **keys).transpose(last)


def normal(shape, operator, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(size).astype(dtype) for _, size in shape.arrays(operator)[:2])


def rounded_once(got, operator, shape, first, second, bias=0.0):
    """The result is half a step of its dtype from the exact sum, and from there what float32 may be off, at most."""
    exact = brute_force(operator, shape, first, second) + bias
    assert got.shape == exact.shape and got.dtype.name in EPS
    step = EPS[got.dtype.name] * 2.0 ** (np.frexp(exact)[1] - 1)  # to the next number of the dtype
    in_float32 = 4 * np.finfo(np.float32).eps * (brute_force(operator, shape, abs(first), abs(second)) + abs(bias))
    assert (abs(got.astype(np.float64) - exact) <= step / 2 + in_float32 + 2.0**-25).all()  # float16 ends at 2**-24


# --- the results ----------------------------------------------------------------------------------
@HALVES
@LAYOUTS
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_of_small_integers_are_exact(operator, backend, layout, dtype):
    rng = random.Random(0)
    shapes = [*HARD_SHAPES.values(), *(random_shape(rng) for _ in range(DRAWN[backend]))]
    for seed, shape in enumerate(shapes):
        first, second, _ = integers(operator, shape, dtype, seed)
        got = call(operator, shape, first, second, layout, backend=backend)
        assert got.dtype == dtype and got.dtype.isnative and got.shape == shape.arrays(operator)[2][1]
        wanted = brute_force(operator, shape, first, second).astype(np.float32).astype(dtype)
        np.testing.assert_array_equal(got, wanted)


@HALVES
@LAYOUTS
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_are_rounded_once(operator, backend, layout, dtype):
    rng = random.Random(1)
    long = ConvShape(n=4, ih=9, iw=9, ic=40, oc=33, fh=3, fw=3, padding=1)  # rounding every product would show
    for seed, shape in enumerate([long, *HARD_SHAPES.values(), *(random_shape(rng) for _ in range(DRAWN[backend]))]):
        first, second = normal(shape, operator, dtype, seed)
        got = call(operator, shape, first, second, layout, backend=backend)
        rounded_once(got, operator, shape, first, second)


@HALVES
@LAYOUTS
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bias_is_added_before_the_sum_is_rounded(backend, layout, dtype):
    shape = ConvShape(n=8, ih=9, iw=9, ic=5, oc=7, fh=3, fw=3, padding=1)
    (x, w), bias = normal(shape, "conv2d", dtype), np.linspace(-30, 30, 7).astype(dtype)
    got = call("conv2d", shape, x, w, layout, bias=bias, backend=backend)
    rounded_once(got, "conv2d", shape, x, w, bias.astype(np.float64))
    transposed = ConvShape(n=8, ih=9, iw=9, ic=7, oc=5, fh=3, fw=3, padding=1)  # its dy is x
    flipped = w.transpose(3, 1, 2, 0)
    own, last = ((0, 3, 1, 2), (0, 2, 3, 1)) if layout == "NCHW" else ((0, 1, 2, 3),) * 2
    keys = dict(padding=1, layout=layout, backend=backend)
    got = cks.conv_transpose2d(x.transpose(own), flipped.transpose(own), bias, **keys).transpose(last)
    rounded_once(got, "conv2d_input", transposed, flipped, x, bias.astype(np.float64))


@HALVES
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [1, 6])
def test_every_backend_gives_the_same_bits_with_a_bias(groups, backend, dtype):
    """Sums of products of eighths are exact in float32, but not in 16 bits."""
    shape = ConvShape(n=2, ih=9, iw=9, ic=6, oc=12, fh=3, fw=3, stride=2, padding=1, groups=groups)
    rng = np.random.default_rng(0)
    x, w, dy = ((rng.integers(-64, 65, size) / 8).astype(dtype) for _, size in shape.arrays("conv2d"))
    keys = dict(stride=2, padding=1, groups=groups, backend=backend)
    bias = (np.arange(12) * 3.25 - 20).astype(dtype)
    wanted = (brute_force("conv2d", shape, x, w) + bias.astype(float)).astype(dtype)
    np.testing.assert_array_equal(cks.conv2d(x, w, bias, **keys), wanted)
    wanted = (brute_force("conv2d_input", shape, w, dy) + bias[:6].astype(float)).astype(dtype)
    np.testing.assert_array_equal(cks.conv_transpose2d(dy, w, bias[:6], **keys), wanted)


@HALVES
@pytest.mark.parametrize("backend", BACKENDS)
def test_out_and_one_image(backend, dtype):
    x, w = normal(SHAPE, "conv2d", dtype)
    bias = np.arange(5).astype(dtype)
    for layout in ("NHWC", "NCHW"):
        own = (0, 3, 1, 2) if layout == "NCHW" else (0, 1, 2, 3)
        wanted = call("conv2d", SHAPE, x, w, layout, bias=bias, backend=backend).transpose(own)
        keys = dict(stride=2, padding=SHAPE.padding, layout=layout, backend=backend)
        out = np.full(wanted.shape, np.nan, dtype)
        assert cks.conv2d(x.transpose(own), w.transpose(own), bias, out=out, **keys) is out
        np.testing.assert_array_equal(out, wanted)
        one = np.full(wanted.shape[1:], np.nan, dtype)
        assert cks.conv2d(x.transpose(own)[1], w.transpose(own), bias, out=one, **keys) is one
        np.testing.assert_array_equal(one, wanted[1])
        np.testing.assert_array_equal(cks.conv2d(x.transpose(own)[1], w.transpose(own), bias, **keys), wanted[1])


@HALVES
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides_byte_order_and_read_only(operator, backend, dtype):
    first, second = normal(SHAPE, operator, dtype)
    wanted = call(operator, SHAPE, first, second, backend=backend)
    odd = [np.flip(np.flip(array, 1).copy(), 1) for array in (np.repeat(first, 2, axis=3)[..., ::2], second)]
    odd[0] = np.lib.stride_tricks.as_strided(np.repeat(first, 2, axis=3)[..., ::2])
    if dtype == "float16":
        odd = [array.astype(">f2") for array in odd]
    for array in odd:
        array.flags.writeable = False
    got = call(operator, SHAPE, *odd, backend=backend)
    assert got.dtype == dtype and got.dtype.isnative
    np.testing.assert_array_equal(got, wanted)


@HALVES
@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend, dtype):
    x, w, dy, bias = (np.ones(size, dtype) for size in ((0, 5, 5, 2), (3, 3, 3, 2), (0, 3, 3, 3), (3,)))
    y = cks.conv2d(x, w, bias, backend=backend)
    assert y.shape == (0, 3, 3, 3) and y.dtype == dtype
    dx = cks.conv2d_input(x.shape, w, dy, backend=backend)
    assert dx.shape == x.shape and dx.dtype == dtype
    dw = cks.conv2d_weight(x, w.shape, dy, backend=backend)
    assert dw.shape == w.shape and dw.dtype == dtype and not dw.any()


@HALVES
@pytest.mark.parametrize("backend", BACKENDS)
def test_too_large_is_infinity_and_no_warning(backend, dtype):
    large = {"float16": 3e4, "bfloat16": 3e38}[dtype]
    x, w = np.full((1, 3, 3, 1), large, dtype), np.ones((1, 2, 2, 1), dtype)
    np.testing.assert_array_equal(cks.conv2d(x, w, backend=backend).astype(np.float32), np.inf)
    minus = np.full(1, -np.inf, dtype)
    with np.errstate(all="raise"):
        assert np.isneginf(cks.conv2d(x / 8, w, minus, backend=backend).astype(np.float32)).all()
    x[0, 1, 1] = np.nan
    assert np.isnan(cks.conv2d(x, w, backend=backend).astype(np.float32)).all()


def test_sums_are_not_limited_by_float16():
    """The sum passes what float16 can hold, and comes back."""
    x = np.array([6e4, 6e4, -6e4], np.float16).reshape(1, 1, 1, 3)
    for backend in BACKENDS:
        assert cks.conv2d(x, np.ones((1, 1, 1, 3), np.float16), backend=backend).item() == np.float16(6e4)


# --- errors ---------------------------------------------------------------------------------------
@HALVES
def test_errors_leave_out_as_it_was(dtype):
    x, w = normal(SHAPE, "conv2d", dtype)
    keys = dict(stride=2, padding=SHAPE.padding, backend="cpu")
    out = np.full(SHAPE.y_shape, 7, dtype)
    for bad, error, message in (
        (
            {"x": x.astype(np.float32)},
            TypeError,
            f"x and w must have the same dtype, got float32 and {dtype}",
        ),
        ({"bias": np.zeros(5)}, TypeError, f"x and bias must have the same dtype, got {dtype} and float64"),
        ({"out": np.zeros(SHAPE.y_shape, np.float32)}, TypeError, f"out must be {dtype} like the inputs, got float32"),
        ({"out": out[::-1]}, ValueError, "out must be C-contiguous"),
        (
            {"precision": "tf32"},
            ValueError,
            f'precision="tf32" is for float32 arrays, got {dtype}: leave',
        ),
        ({"precision": dtype}, ValueError, f"precision must be one of 'float32', 'tf32', got '{dtype}'"),
    ):
        with pytest.raises(error, match=message):
            cks.conv2d(**{"x": x, "w": w, "out": out} | keys | bad)
    memory = np.zeros(x.size + out.size, dtype)
    with pytest.raises(ValueError, match="out must not overlap an input, it shares memory with x"):
        cks.conv2d(memory[: x.size].reshape(x.shape), w, **keys, out=memory[x.size - 1 : -1].reshape(out.shape))
    assert (out == 7).all()


@pytest.mark.skipif("bfloat16" not in EPS, reason=NO_BFLOAT16)
def test_float16_and_bfloat16_do_not_mix():
    x, w = np.ones((1, 3, 3, 1), BFLOAT16), np.ones((1, 3, 3, 1), np.float16)
    with pytest.raises(TypeError, match=r'take x.astype\("float32"\) and w.astype\("float32"\)$'):
        cks.conv2d(x, w, backend="cpu")


UNASKED = """
import sys
import numpy as np
import cks_numba as cks
for backend in ("cpu", "steps"):
    cks.conv2d(np.ones((1, 3, 3, 1), np.float16), np.ones((1, 3, 3, 1), np.float16), backend=backend)
assert "ml_dtypes" not in sys.modules
"""


def test_ml_dtypes_is_never_imported_unasked():
    command = [sys.executable, *WARNINGS_ARE_ERRORS, "-c", UNASKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


# --- tf32, and GPUs with and without tensor cores -------------------------------------------------
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", ON_CPU)
def test_tf32_is_float32_on_a_cpu(operator, backend):
    first, second = normal(SHAPE, operator, "float32")
    wanted, got = (call(operator, SHAPE, first, second, backend=backend, precision=p) for p in ("float32", "tf32"))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("operator", OPERATORS)
def test_tf32_rounds_the_operands_on_tensor_cores(operator):
    shape = ConvShape(n=2, ih=8, iw=8, ic=32, oc=32, fh=3, fw=3, padding=1)
    whole, exactly = integers(operator, shape, "float32")[:2], normal(shape, operator, "float32")
    keys = dict(backend="emulator", precision="tf32")
    np.testing.assert_array_equal(call(operator, shape, *whole, **keys), brute_force(operator, shape, *whole))
    got, wanted = call(operator, shape, *exactly, **keys), brute_force(operator, shape, *exactly)
    assert got.dtype == np.float32
    error = abs(got - wanted).max() / np.sqrt((wanted**2).mean())
    assert 1e-5 < error < 3e-3  # float32 is closer: tensor cores did multiply


class Gpu:
    """A stand-in for the module numba.cuda, with a GPU of some compute capability."""

    def __init__(self, capability):
        self.compute_capability = capability

    def get_current_device(self):
        return self


@pytest.mark.parametrize(("capability", "tensor"), [((7, 5), False), ((8, 0), True), ((12, 0), True)], ids=str)
def test_what_a_gpu_is_used_for(capability, tensor, monkeypatch):
    """16 bits need tensor cores; "auto" leaves them to the CPU where there are none, and float32 does without."""
    monkeypatch.setattr(cuda_backend.tensor_rung, "cuda", Gpu(capability))
    monkeypatch.setattr(cuda_backend, "available", lambda: True)
    monkeypatch.setattr(cuda_backend, "SIMULATED", False)
    for dtype in ("float32", "float64"):
        assert backends.choose("auto", False, dtype) == backends.choose("cuda", False, dtype) == "cuda"
    for dtype in ("float16", "bfloat16"):
        assert backends.choose("auto", False, dtype) == ("cuda" if tensor else "cpu")
        for on_gpu, backend in ((False, "cuda"), (True, "auto")):
            if tensor:
                assert backends.choose(backend, on_gpu, dtype) == "cuda"
                continue
            with pytest.raises(RuntimeError, match=rf"^{dtype} arrays need .* 8.0 or newer, found 7.5: give"):
                backends.choose(backend, on_gpu, dtype)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)], ids=str)
@pytest.mark.parametrize("tensor", [False, True])
def test_which_rung_runs(capability, tensor, monkeypatch):
    ran = []
    monkeypatch.setattr(cuda_backend.tensor_rung, "cuda", Gpu(capability))
    monkeypatch.setattr(cuda_backend, "available", lambda: True)
    for name in ("tiled", "tensor_rung"):
        rung = getattr(cuda_backend, name)
        monkeypatch.setattr(rung, "launches", lambda *arrays, scratch, bias=None, name=name: ran.append(name) or [])
    cuda_backend._launch("conv2d", SHAPE, (None, None, np.empty(SHAPE.y_shape)), None, 0, tensor)
    assert ran == ["tensor_rung" if tensor and capability >= (8, 0) else "tiled"]


# --- copies between the layouts -------------------------------------------------------------------
@pytest.mark.parametrize("to_first", [False, True])
def test_copies_between_the_layouts_keep_the_bits(to_first):
    rng = np.random.default_rng(0)
    for dtype in (np.float16, np.int16):
        source = rng.integers(-999, 999, (2, 3, 4, 5)).astype(dtype)
        axes = (0, 3, 1, 2) if to_first else (0, 2, 3, 1)
        out = np.zeros(source.transpose(axes).shape, dtype)
        launch = elementwise.launch_copy(source, out, not to_first, to_first)
        run_kernel(launch.kernel, launch.grid, launch.block, *launch.args)
        np.testing.assert_array_equal(out, source.transpose(axes))
