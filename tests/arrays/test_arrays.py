"""Arrays of other libraries, read without a copy: DLPack in host memory, the CUDA array interface on a GPU."""

from __future__ import annotations

from math import prod
from types import SimpleNamespace

import numpy as np
import pytest

import cks_numba as cks
from cks_numba import backends
from cks_numba.backends import cuda as cuda_backend
from cks_numba.kernels import jit

KEYS = dict(stride=2, padding=1)


def operands(dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(size).astype(dtype) for size in ((2, 5, 6, 3), (4, 3, 3, 3), (2, 3, 3, 4))]


def calls(x, w, dy, **keys):
    """Call the three operators on these arrays."""
    keys = KEYS | keys
    return [
        cks.conv2d(x, w, **keys),
        cks.conv2d_input(x.shape, w, dy, **keys),
        cks.conv2d_weight(x, w.shape, dy, **keys),
    ]


says_who_may_write = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy before 2.1 reads through DLPack only"
)


class Foreign:
    """An array that can only be read through DLPack: every other access to its elements is an error."""

    def __init__(self, array, device=1):
        self.array, self.device, self.shown = array, device, 0

    @property
    def shape(self):
        return self.array.shape

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if copy:
            raise BufferError("refused: a copy")
        self.shown += 1
        if max_version is None:  # NumPy 1.26 does not know this argument
            return self.array.__dlpack__(stream=stream)
        return self.array.__dlpack__(stream=stream, max_version=max_version, copy=False)

    def __dlpack_device__(self):
        return (self.device, 0)

    def __array__(self, *args, **kwargs):
        raise AssertionError("refused: a copy to NumPy")

    __len__ = __iter__ = __getitem__ = __array__


class Spaced(Foreign):
    """A foreign array whose library has the ``from_dlpack`` of the array API standard."""

    def __array_namespace__(self):
        return SimpleNamespace(from_dlpack=lambda array: Spaced(np.from_dlpack(array)))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("kind", [Foreign, Spaced])
def test_dlpack_is_read_in_place(monkeypatch, kind, layout):
    arrays = operands()
    if layout == "NCHW":
        arrays = [array.transpose(0, 3, 1, 2) for array in arrays]
    wanted = calls(*arrays, layout=layout, backend="cpu")
    seen = []
    right = backends.run
    monkeypatch.setattr(backends, "run", lambda *a: seen.append([o.ctypes.data for o in a[3:5]]) or right(*a))
    for got, result in zip(calls(*map(kind, arrays), layout=layout, backend="cpu"), wanted, strict=True):
        assert type(got) is (Spaced if kind is Spaced else np.ndarray)
        np.testing.assert_array_equal(getattr(got, "array", got), result)
    x, w, dy = (array.ctypes.data for array in arrays)
    assert seen == [[x, w], [w, dy], [x, dy]]


@says_who_may_write
def test_dlpack_one_image_bias_and_out():
    x, w, _ = operands(np.float64)
    wanted = cks.conv2d(x[0], w, np.ones(4), backend="cpu")
    got = cks.conv2d(Spaced(x[0]), Spaced(w), Spaced(np.ones(4)), backend="cpu")
    np.testing.assert_array_equal(got.array, wanted)
    out = Foreign(np.full(wanted.shape, np.nan))
    assert cks.conv2d(Foreign(x[0]), Foreign(w), Foreign(np.ones(4)), backend="cpu", out=out) is out
    np.testing.assert_array_equal(out.array, wanted)


@says_who_may_write
def test_dlpack_out_that_may_not_be_written():
    x, w, _ = operands()
    out = np.full((2, 3, 4, 4), np.nan, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable, got a read-only array"):
        cks.conv2d(Foreign(x), Foreign(w), backend="cpu", out=Foreign(out))
    with pytest.raises(ValueError, match="out must not overlap an input, it shares memory with x"):
        cks.conv2d(Foreign(x), Foreign(w[:3, :1, :1].copy()), backend="cpu", out=Foreign(x))


def test_dlpack_errors():
    x, w, _ = operands()
    with pytest.raises(TypeError, match="x and w must be of one kind, got test_arrays arrays for x and NumPy arrays"):
        cks.conv2d(Foreign(x), w, backend="cpu")
    with pytest.raises(
        TypeError, match=r"x must be in host memory, .* got DLPack device 2: take cupy.from_dlpack\(x\)"
    ):
        cks.conv2d(Foreign(x, device=2), Foreign(w))
    with pytest.raises(TypeError, match="x must be float16, bfloat16, float32 or float64, got int64"):
        cks.conv2d(Foreign(x.astype(np.int64)), Foreign(w))
    broken = Foreign(np.array(["text"]))
    with pytest.raises(TypeError, match="x cannot be read through DLPack: "):
        cks.conv2d(broken, Foreign(w))
    with pytest.raises(
        TypeError, match="x must be a NumPy array, .* or have DLPack or the CUDA array .* got MaskedArray"
    ):
        cks.conv2d(np.ma.ones((1, 3, 3, 1)), w)


# --- the CUDA array interface, without a GPU: the backend must get the very memory that was given ---------------
class OnGpu:
    """An array of some GPU library, with a made-up address; every copy to the host is an error."""

    def __init__(self, address, shape):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (address, False),
            "version": 3,
        }

    def __dlpack__(self, **options):
        raise AssertionError("refused: a copy")

    __array__ = __len__ = __iter__ = __getitem__ = copy_to_host = get = __dlpack__


class View:
    """A stand-in for the device array that Numba makes of it, at the same address."""

    def __init__(self, owner):
        interface = owner.__cuda_array_interface__
        self.__cuda_array_interface__ = self.__cuda_ndarray__ = interface
        self.shape, self.dtype, self.stream = interface["shape"], np.dtype(np.float32), 7
        self.strides, self.size = np.empty(self.shape, np.float32).strides, prod(self.shape)
        self.address = interface["data"][0]

    def is_c_contiguous(self):
        return True


def test_device_arrays_are_never_copied(monkeypatch):
    if jit.SIMULATED:
        pytest.skip("the simulator has no CUDA array interface")
    seen = []
    made = iter(range(0x9000_0000, 0xF000_0000, 0x1000_0000))
    monkeypatch.setattr(jit.cuda, "as_cuda_array", View, raising=False)
    monkeypatch.setattr(jit.cuda, "device_array", lambda shape, **options: View(OnGpu(next(made), shape)))
    monkeypatch.setattr(cuda_backend, "available", lambda: True)
    monkeypatch.setattr(backends, "run", lambda *a: seen.append((*a[:2], *(o.address for o in a[3:6]), a[7])))
    addresses = 0x1000_0000, 0x2000_0000, 0x3000_0000
    x, w, dy = (OnGpu(address, array.shape) for address, array in zip(addresses, operands(), strict=True))
    for array, size in ((x, (2, 5, 6, 3)), (w, (4, 3, 3, 3))):
        array.shape = size
    results = calls(x, w, dy)
    assert [type(result) for result in results] == [View] * 3
    expected = [("conv2d", *addresses[:2]), ("conv2d_input", *addresses[1:]), ("conv2d_weight", *addresses[::2])]
    stream = 7  # the stream of every View
    assert seen == [("cuda", *call, r.address, stream) for call, r in zip(expected, results, strict=True)]
    out = OnGpu(0x4000_0000, (2, 3, 3, 4))
    assert cks.conv2d(x, w, **KEYS, out=out) is out
    assert seen[-1][4] == 0x4000_0000


# --- JAX -------------------------------------------------------------------------------------------
@pytest.mark.jax
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_jax_arrays_in_and_out(layout, monkeypatch):
    jax = pytest.importorskip("jax", reason="JAX is not installed (pip install jax)")
    axes = (0, 1, 2, 3) if layout == "NHWC" else (0, 3, 1, 2)
    x, w, dy = (jax.numpy.asarray(array.transpose(axes)) for array in operands())
    numbers = {"lhs": x, "rhs": w, "window_strides": (2, 2), "padding": ((1, 1), (1, 1))}
    names = ("NHWC", "OHWI", "NHWC") if layout == "NHWC" else ("NCHW", "OIHW", "NCHW")
    y, back = jax.vjp(
        lambda a, b: jax.lax.conv_general_dilated(**numbers | {"lhs": a, "rhs": b}, dimension_numbers=names), x, w
    )
    for got, wanted in zip(calls(x, w, dy, layout=layout, backend="cpu"), (y, *back(dy)), strict=True):
        assert isinstance(got, jax.Array) and got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    with pytest.raises(ValueError, match="out must be writeable, got a read-only array"):
        cks.conv2d(x, w, **KEYS, layout=layout, out=jax.numpy.zeros_like(y))
    with pytest.raises(TypeError, match="x must be float16, bfloat16, float32 or float64, got int32"):
        cks.conv2d(x.astype("int32"), w, layout=layout)
    with pytest.raises(
        TypeError, match="x and w must be of one kind, got jaxlib arrays for x and NumPy arrays for w: take jax"
    ):
        cks.conv2d(x, np.asarray(w), layout=layout)


@pytest.mark.jax
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_jax_arrays_of_16_bits(layout, dtype):
    """JAX's arrays of bfloat16 have DLPack, but NumPy cannot read it; what comes out is the rounded sum."""
    jax = pytest.importorskip("jax", reason="JAX is not installed (pip install jax)")
    axes = (0, 1, 2, 3) if layout == "NHWC" else (0, 3, 1, 2)
    given = [jax.numpy.asarray(array.transpose(axes), dtype) for array in operands()]
    exact = calls(*(np.asarray(array, np.float64) for array in given), layout=layout, backend="cpu")
    for got, wanted in zip(calls(*given, layout=layout, backend="cpu"), exact, strict=True):
        assert isinstance(got, jax.Array) and got.dtype == dtype
        step = float(jax.numpy.finfo(dtype).eps) * 2.0 ** (np.frexp(wanted)[1] - 1)
        assert (abs(np.asarray(got, np.float64) - wanted) <= 0.501 * step + 1e-6).all()
    with pytest.raises(ValueError, match="out must be writeable, got a read-only array"):
        cks.conv2d(*given[:2], **KEYS, layout=layout, out=calls(*given, layout=layout, backend="cpu")[0])


def test_bfloat16_that_numpy_is_not_given():
    class Own(Foreign):
        dtype = "bfloat16"

        def __array__(self, dtype=None, copy=None):
            return self.array

    x, w, _ = operands()
    with pytest.raises(TypeError, match="x cannot be read through DLPack: NumPy gets float32 for bfloat16"):
        cks.conv2d(Own(x), Own(w), **KEYS)


@pytest.mark.torch
@pytest.mark.parametrize("backend", ["cpu", "steps"])
def test_tensors_with_the_negative_bit(backend):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
    x, w, bias = (torch.randn(size, dtype=torch.complex64).conj().imag for size in ((1, 5, 5, 2), (3, 3, 3, 2), (3,)))
    assert x.is_neg() and w.is_neg() and bias.is_neg()
    plain = [each.resolve_neg().numpy() for each in (x, w, bias)]
    got = cks.conv2d(x, w, bias, backend=backend)
    np.testing.assert_allclose(got, cks.conv2d(*plain, backend=backend), rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match=r"out has PyTorch's negative bit.*out.resolve_neg\(\)"):
        cks.conv2d(x, w, out=torch._neg_view(torch.zeros(1, 3, 3, 3)), backend=backend)
