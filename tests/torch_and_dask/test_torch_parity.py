"""The operators against PyTorch on a CPU: more than 200 random shapes for each number of axes, in both layouts."""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
import pytest

import cks_numba as cks
from cks_numba.backends.cpu import compiled
from cks_numba.buffers import LAYOUTS

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
F = torch.nn.functional
torch.set_num_threads(1)  # the layers are tiny: more threads only wait for each other

pytestmark = pytest.mark.torch

CASES = 220
CASES_OF_OTHER_AXES = 300


def assert_same(got, wanted, terms, dtype=np.float64):
    """Check equality up to the rounding of sums of `terms` products of numbers of about 1."""
    assert got.shape == tuple(wanted.shape)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, wanted, rtol=0, atol=16 * np.finfo(dtype).eps * (10 + terms))


@cache
def random_case(seed, dtype, axes=2):
    """Return the case of a seed, which all three operators share."""
    return Case(seed, dtype, axes)


def channels_last(array):
    """Return a view of (N, C, ...) as (N, ..., C)."""
    return np.moveaxis(array, 1, -1)


class Case:
    """A random layer: x, w and dy in torch's order, and the results of torch and its autograd."""

    def __init__(self, seed, dtype=np.float64, axes=2):
        rng, self.axes = np.random.default_rng(seed), axes
        self.groups = int(rng.choice([1, 1, 1, 2, 3]))
        icg, ocg = (int(k) for k in rng.integers(1, 5, 2))
        if seed % 10 == 0:  # depthwise
            self.groups, icg = int(rng.integers(2, 5)), 1
        taps, self.stride = rng.integers(1, 8 - axes, axes), tuple(map(int, rng.integers(1, 5, axes)))
        self.dilation = tuple(int(d) for d in rng.choice([1, 1, 2, 3], axes))
        if seed % 10 == 1:  # the shortcut of a residual network
            taps, self.stride, self.dilation = np.ones(axes, int), (2,) * axes, (1,) * axes
        self.padding = tuple(tuple(int(p) for p in rng.integers(0, f + 1, 2)) for f in taps)
        if seed % 3:  # symmetric padding, which torch takes
            self.padding = tuple((p[0], p[0]) for p in self.padding)
        size = [
            max(1, (int(f) - 1) * d + 1 - sum(p)) + int(rng.integers(0, 9 if axes < 3 else 5))
            for f, d, p in zip(taps, self.dilation, self.padding, strict=True)
        ]
        n = 0 if seed % 25 == 24 else int(rng.integers(1, 4))
        self.x = self.tensor(rng, (n, icg * self.groups, *size), dtype)
        self.w = self.tensor(rng, (ocg * self.groups, icg, *map(int, taps)), dtype)
        y = self.forward(self.x, self.w)
        self.dy = self.tensor(rng, tuple(y.shape), dtype)
        self.y = y.detach()
        self.dx, self.dw = torch.autograd.grad(y, (self.x, self.w), self.dy)
        self.layout = LAYOUTS[axes][seed % 2]
        self.terms = max(self.w.numel(), self.dy.numel())

    @staticmethod
    def tensor(rng, shape, dtype):
        return torch.tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)

    def forward(self, x, w):
        padded = F.pad(x, [side for pads in reversed(self.padding) for side in pads])
        conv = getattr(F, f"conv{self.axes}d")
        return conv(padded, w, stride=self.stride, dilation=self.dilation, groups=self.groups)

    def own(self, tensor):
        """Return a tensor as a NumPy array in the layout of this case."""
        array = tensor.detach().numpy()
        return channels_last(array) if self.layout == LAYOUTS[self.axes][0] else array

    @property
    def keys(self):
        keys = {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups", "layout")}
        return keys | {"backend": "cpu"}

    def run(self, operator):
        x, w, dy = (self.own(tensor) for tensor in (self.x, self.w, self.dy))
        function = getattr(cks, operator.replace("2d", f"{self.axes}d"))
        if operator == "conv2d":
            return function(x, w, **self.keys), self.own(self.y)
        if operator == "conv2d_input":
            return function(x.shape, w, dy, **self.keys), self.own(self.dx)
        return function(x, w.shape, dy, **self.keys), self.own(self.dw)


@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input", "conv2d_weight"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parity(operator, dtype, threads, monkeypatch):
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)  # the smallest layers use threads too
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    seen = set()
    for seed in range(CASES if dtype is np.float64 else CASES // 4):
        case = random_case(seed, dtype)
        assert_same(*case.run(operator), case.terms, dtype)
        seen.add((case.layout, case.groups > 1, case.dilation != (1, 1)))
    assert len(seen) == 8  # both layouts, with and without channel groups, with and without dilation


@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input", "conv2d_weight"])
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_parity_of_signals_and_volumes(operator, axes, threads, monkeypatch):
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    seen = set()
    for seed in range(CASES_OF_OTHER_AXES):
        case = random_case(seed, np.float64, axes)
        assert_same(*case.run(operator), case.terms)
        seen.add((case.layout, case.groups > 1, set(case.dilation) != {1}))
    assert len(seen) == 8


def test_bias_and_torch_padding_words():
    rng = np.random.default_rng(0)
    for seed in range(40):
        x, w, bias = (rng.standard_normal(s) for s in ((2, 4, 7, 8), (3, 4, *rng.choice([1, 3, 5], 2)), (3,)))
        padding = ("same", "valid", 1, (0, 2))[seed % 4]
        wanted = F.conv2d(*map(torch.tensor, (x, w, bias)), padding=padding)
        got = cks.conv2d(x, w, bias, padding=padding, layout="NCHW", backend="cpu")
        assert_same(got, wanted, terms=100)


def random_transposed(seed, axes=2):
    """Draw arrays and keyword arguments for torch.nn.functional.conv_transpose2d, or for that of other axes."""
    rng = np.random.default_rng(seed)
    groups, inner, outer = (int(k) for k in rng.integers(1, 4, 3))
    taps, strides, dilations = (rng.integers(1, high, axes) for high in (6, 5, 5))
    added = [int(rng.integers(0, max(s, d))) for s, d in zip(strides, dilations, strict=True)]
    pads = [int(rng.integers(0, f + 1)) for f in taps]
    size = []
    for f, s, d, p, a in zip(taps, strides, dilations, pads, added, strict=True):  # large enough for one row of output
        size.append(max(1, int(-(-(2 * p - d * (f - 1) - a) // s)) + 1) + int(rng.integers(0, 5)))
    x = rng.standard_normal((int(rng.integers(1, 3)), inner * groups, *size))
    w, bias = rng.standard_normal((inner * groups, outer, *taps)), rng.standard_normal(outer * groups)
    keys = {"stride": strides, "padding": pads, "output_padding": added, "dilation": dilations}
    return x, w, bias, {name: tuple(map(int, value)) for name, value in keys.items()} | {"groups": groups}


@pytest.mark.parametrize("layout", [layout for pair in LAYOUTS.values() for layout in pair])
@pytest.mark.parametrize("backend", ["cpu", "steps"])
def test_transposed(layout, backend):
    axes = len(layout) - 2
    name = f"conv_transpose{axes}d"
    for seed in range(CASES if backend == "cpu" else 30):
        x, w, bias, keys = random_transposed(seed, axes)
        wanted = getattr(F, name)(*map(torch.tensor, (x, w, bias)), **keys).numpy()
        if layout[-1] == "C":
            x, w, wanted = map(channels_last, (x, w, wanted))
        got = getattr(cks, name)(x, w, bias, layout=layout, backend=backend, **keys)
        assert_same(got, wanted, terms=w.size)


def test_conv2d_input_takes_every_size_that_torch_takes():
    """Among the sizes near the possible ones, exactly those that torch accepts are accepted."""
    for seed in range(40):
        case = Case(seed * 3 + 1)  # symmetric padding
        if case.x.shape[0] == 0:
            continue
        case.layout = "NCHW"
        w, dy = case.w.detach(), case.dy.detach()
        n, ic, ih, iw = case.x.shape
        for rows in range(max(1, ih - 5), ih + 6):
            x = torch.zeros((n, ic, rows, iw), dtype=torch.float64, requires_grad=True)
            pads = case.padding
            span = (w.shape[2] - 1) * case.dilation[0] + 1
            accepted = rows + sum(pads[0]) >= span and case.forward(x, w).shape == dy.shape
            if not accepted:
                with pytest.raises(ValueError, match="input_size rows must be"):
                    cks.conv2d_input(tuple(x.shape), w.numpy(), dy.numpy(), **case.keys)
                continue
            symmetric = case.keys | {"padding": (pads[0][0], pads[1][0])}
            del symmetric["layout"], symmetric["backend"]
            wanted = torch.nn.grad.conv2d_input(tuple(x.shape), w, dy, **symmetric)
            got = cks.conv2d_input(tuple(x.shape), w.numpy(), dy.numpy(), **case.keys)
            assert_same(got, wanted, case.terms)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_of_x_and_dy_propagate_as_in_torch(poison):
    for seed in range(30):
        case = Case(seed)
        if case.x.shape[0] == 0:
            continue
        rng = np.random.default_rng(seed)
        for tensor in (case.x, case.dy):
            flat = tensor.detach().view(-1)
            flat[int(rng.integers(flat.numel()))] = poison
        y = case.forward(case.x, case.w)
        got = cks.conv2d(case.own(case.x), case.own(case.w), **case.keys)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(case.own(y)))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(case.own(y)))
        case.dx, case.dw = torch.autograd.grad(y, (case.x, case.w), case.dy)
        dx, wanted = case.run("conv2d_input")
        np.testing.assert_array_equal(np.isfinite(dx), np.isfinite(wanted))


def test_tensors_in_tensors_out():
    torch.manual_seed(0)
    x, w, bias = torch.randn(2, 4, 6, 5), torch.randn(3, 4, 3, 3), torch.randn(3)
    wanted = F.conv2d(x, w, bias, stride=2, padding=1)
    keys = {"stride": 2, "padding": 1, "layout": "NCHW", "backend": "cpu"}
    for format_ in (torch.contiguous_format, torch.channels_last):
        first = [tensor.contiguous(memory_format=format_) for tensor in (x, w)]
        got = cks.conv2d(*first, bias, **keys)
        assert isinstance(got, torch.Tensor) and got.dtype == torch.float32 and got.is_contiguous()
        torch.testing.assert_close(got, wanted)
    out = torch.full_like(wanted, float("nan"))
    assert cks.conv2d(x, w, bias, out=out, **keys) is out
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(cks.conv2d(x[0], w, bias, **keys), wanted[0])


def test_tensors_of_the_gradients():
    torch.manual_seed(1)
    x, w, dy = torch.randn(2, 6, 5, 4), torch.randn(3, 3, 3, 4), torch.randn(2, 3, 3, 3)
    keys = {"stride": 2, "padding": 1, "backend": "cpu"}
    dx, dw = cks.conv2d_input(tuple(x.shape), w, dy, **keys), cks.conv2d_weight(x, w.shape, dy, **keys)
    x4, w4, dy4 = (tensor.permute(0, 3, 1, 2).contiguous() for tensor in (x, w, dy))
    wanted_dx = torch.nn.grad.conv2d_input(x4.shape, w4, dy4, stride=2, padding=1)
    wanted_dw = torch.nn.grad.conv2d_weight(x4, w4.shape, dy4, stride=2, padding=1)
    torch.testing.assert_close(dx.permute(0, 3, 1, 2), wanted_dx)
    torch.testing.assert_close(dw.permute(0, 3, 1, 2), wanted_dw)
    empty = cks.conv2d_weight(x[:0], w.shape, dy[:0], **keys)
    assert empty.shape == w.shape and not empty.any()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "steps"])
def test_tensors_of_16_bits(backend, half):
    torch.manual_seed(2)
    x, w, bias = (torch.randn(size).to(half) for size in ((2, 4, 6, 5), (6, 4, 3, 3), (6,)))
    exact = torch.nn.functional.conv2d(x.double(), w.double(), bias.double(), stride=2, padding=1)
    keys = {"stride": 2, "padding": 1, "backend": backend}
    for layout, axes in (("NCHW", (0, 1, 2, 3)), ("NHWC", (0, 2, 3, 1))):
        given = x.permute(axes), w.permute(axes), bias
        y = cks.conv2d(*given, **keys, layout=layout)
        assert y.dtype == half and y.is_contiguous()
        step = torch.finfo(half).eps * torch.exp2(torch.frexp(exact).exponent.double() - 1)
        assert ((y.double() - exact.permute(axes)).abs() <= (0.501 * step + 1e-6).permute(axes)).all()
        out = torch.full_like(y, float("nan"))
        assert cks.conv2d(*given, **keys, layout=layout, out=out) is out
        torch.testing.assert_close(out, y, rtol=0, atol=0)
        one = cks.conv2d(given[0][1], *given[1:], **keys, layout=layout)
        torch.testing.assert_close(one, y[1], rtol=0, atol=0)
    memory = torch.zeros(x.numel() + y.numel(), dtype=half)
    for name, begin in (("x", x.numel() - 1), (None, x.numel())):
        x, out = memory[: x.numel()].reshape(x.shape), memory[begin : begin + y.numel()].reshape(exact.shape)
        if name is None:
            cks.conv2d(x, w, **keys, layout="NCHW", out=out)
            continue
        with pytest.raises(ValueError, match="out must not overlap an input, it shares memory with x"):
            cks.conv2d(x, w, **keys, layout="NCHW", out=out)


def test_tensor_errors():
    x, w = torch.ones(1, 3, 3, 2), torch.ones(4, 3, 3, 2)
    with pytest.raises(ValueError, match=r"w requires grad, .* lost: cks_numba.torch.conv2d .*w.detach\(\)"):
        cks.conv2d(x, w.requires_grad_(), backend="cpu")
    with torch.no_grad():
        assert cks.conv2d(x, w, backend="cpu").shape == (1, 1, 1, 4)
    with pytest.raises(TypeError, match=r"x must be float16, .* or float64, got int64: take x.float\(\)"):
        cks.conv2d(x.long(), w.detach(), backend="cpu")
    with pytest.raises(TypeError, match=r"the same dtype, got bfloat16 and float32: take x.float\(\)"):
        cks.conv2d(x.bfloat16(), w.detach(), backend="cpu")
    with pytest.raises(TypeError, match=r"CPU tensors for x and NumPy arrays for w: take torch.as_tensor\(w, device="):
        cks.conv2d(x, w.detach().numpy(), backend="cpu")
    with pytest.raises(TypeError, match=r"NumPy arrays for x and PyTorch CPU tensors for w: take numpy.asarray\(w\)"):
        cks.conv2d(x.numpy(), w.detach(), backend="cpu")
    with pytest.raises(ValueError, match=r"; w.permute\(0, 2, 3, 1\) would fit$"):
        cks.conv2d(x, w.detach().permute(0, 3, 1, 2), backend="cpu")
    layer = torch.nn.Conv2d(2, 4, 3)
    with pytest.raises(TypeError, match=r"got Conv2d: w.weight.detach\(\) is a tensor, and cks_numba.torch.convert"):
        cks.conv2d(x, layer, backend="cpu")
    with pytest.raises(TypeError, match=r"got Sequential: cks_numba.torch.convert makes a whole model skip zeros"):
        cks.conv2d(x, torch.nn.Sequential(layer), backend="cpu")
    with pytest.raises(TypeError, match="x must be on the CPU or a CUDA GPU, got device meta"):
        cks.conv2d(x.to("meta"), w.detach(), backend="cpu")
    with pytest.raises(TypeError, match="x must be a dense tensor, got layout torch.sparse_coo"):
        cks.conv2d(x.to_sparse(), w.detach(), backend="cpu")
    with pytest.raises(ValueError, match="out must not overlap an input, it shares memory with x"):
        cks.conv2d(x, torch.ones(2, 1, 1, 2), backend="cpu", out=x)
