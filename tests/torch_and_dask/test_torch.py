"""The operators in PyTorch: gradients of every order, compilation, autocast, memory formats, layers, conversion."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

import cks_numba.backends as cks_backends

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
import torch_networks  # noqa: E402
from torch import nn  # noqa: E402

import cks_numba.torch as ct  # noqa: E402
from cks_numba import ConvShape, flops  # noqa: E402
from cks_numba.models import pytorch  # noqa: E402
from cks_numba.models.found import THRESHOLD  # noqa: E402
from cks_numba.torch import operators  # noqa: E402

F = torch.nn.functional
pytestmark = pytest.mark.torch
DOUBLE = torch.float64
HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
LAYERS = (  # sizes of x and w, and torch's keyword arguments
    ((2, 4, 6, 5), (6, 4, 3, 3), dict(stride=2, padding=1)),
    ((1, 4, 5, 6), (6, 2, 3, 2), dict(stride=(1, 3), padding=(2, 0), dilation=(2, 1), groups=2)),
    ((3, 2, 4, 4), (3, 2, 5, 3), dict(padding="same")),
    ((2, 3, 3, 4), (3, 1, 1, 1), dict(padding="valid", groups=3)),
    ((2, 4, 9), (6, 2, 4), dict(stride=2, padding=1, dilation=2, groups=2)),
    ((2, 3, 7), (3, 3, 3), dict(padding="same")),
    ((2, 2, 4, 3, 5), (4, 2, 3, 2, 3), dict(stride=(2, 1, 3), padding=(1, 0, 2))),
    ((1, 4, 3, 4, 2), (4, 2, 2, 3, 1), dict(dilation=(1, 2, 1), padding=1, groups=2)),
)
AXES = pytest.mark.parametrize("axes", [1, 2, 3])
UNEVEN = dict(stride=(2, 1), padding=((1, 2), (0, 1)), dilation=(1, 2))


def randn(*size, grad=True):
    return torch.randn(*size, dtype=DOUBLE, requires_grad=grad)


def last(tensor):
    """The tensor with channels last in memory: in a format of torch, but for signals, which have none."""
    axes = tensor.dim() - 2
    order = (0, *range(2, axes + 2), 1)
    return tensor.detach().permute(order).contiguous().permute(0, axes + 1, *range(1, axes + 1)).requires_grad_()


def both(name, axes):
    """Our function and that of torch, for a name without the number of axes."""
    return (getattr(module, f"{name}{axes}d") for module in (ct, F))


def same_result_and_gradients(ours, theirs, inputs):
    results = [function(*inputs) for function in (ours, theirs)]
    torch.testing.assert_close(*results)
    dy = torch.randn_like(results[0])
    torch.testing.assert_close(*(torch.autograd.grad(result, inputs, dy) for result in results))


# --- functions -------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_convolutions_are_those_of_torch(case):
    x_size, w_size, keys = case
    ours, theirs = (partial(function, **keys) for function in both("conv", len(w_size) - 2))
    torch.manual_seed(0)
    x, w, bias = randn(*x_size), randn(*w_size), randn(w_size[0])
    for first in (x, last(x)):
        same_result_and_gradients(ours, theirs, (first, w, bias))
    same_result_and_gradients(ours, theirs, (x, w))
    torch.testing.assert_close(ours(x[0], w, bias), theirs(x[0], w, bias))


@pytest.mark.parametrize(
    "keys",
    [
        dict(stride=2, padding=1, output_padding=1),
        dict(stride=3, padding=0, output_padding=2, groups=2),
        dict(stride=1, padding=1, output_padding=2, dilation=3),  # more rows than any convolution has
    ],
    ids=str,
)
@AXES
def test_transposed_convolutions_are_those_of_torch(axes, keys):
    torch.manual_seed(1)
    ours, theirs = (partial(function, **keys) for function in both("conv_transpose", axes))
    w, outputs = randn(4, 3, *(3, 2, 3)[:axes]), 3 * keys.get("groups", 1)
    x, bias = randn(2, 4, *(4, 5, 3)[:axes]), randn(outputs)
    for first in (x, last(x)):
        same_result_and_gradients(ours, theirs, (first, w, bias))
    torch.testing.assert_close(ours(x[0], w, bias), theirs(x[0], w, bias))


def test_sides_of_transposed_convolutions():
    torch.manual_seed(1)
    keys = dict(stride=(1, 3), padding=(1, 0), output_padding=(0, 2), groups=2)
    ours, theirs = (partial(function, **keys) for function in both("conv_transpose", 2))
    same_result_and_gradients(ours, theirs, (randn(2, 4, 4, 5), randn(4, 3, 3, 2), randn(6)))


@AXES
@pytest.mark.parametrize("transposed", [False, True])
def test_random_layers(axes, transposed):
    """60 layers for each class, of random sizes, batched or not, in both formats: results and all gradients."""
    name = f"Conv{'Transpose' if transposed else ''}{axes}d"
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        arguments, size = random_layer(np.random.default_rng(seed), axes, transposed)
        ours, theirs = (getattr(*at)(**arguments, dtype=DOUBLE) for at in ((ct, f"CKS{name}"), (nn, name)))
        theirs.load_state_dict(ours.state_dict())
        x = last(randn(*size)) if seed % 2 else randn(*size)
        results = [layer(x[0] if seed % 5 == 0 else x) for layer in (ours, theirs)]
        torch.testing.assert_close(*results)
        dy = torch.randn_like(results[1])
        given = ((x, *layer.parameters()) for layer in (ours, theirs))
        torch.testing.assert_close(*map(torch.autograd.grad, results, given, (dy, dy)))
        seen.add((arguments["groups"] > 1, arguments["bias"], max(arguments["stride"]) > 1))
    assert len(seen) == 8


def random_layer(rng, axes, transposed):
    """Arguments of a layer, and the size of an input that it takes."""
    taps, stride, dilation = (tuple(map(int, rng.integers(1, top, axes))) for top in (8 - axes, 4, 3))
    stride = (1,) * axes if rng.random() < 0.3 else stride
    padding = tuple(int(rng.integers(0, f + 1)) for f in taps)
    groups = int(rng.choice([1, 1, 2, 3]))
    arguments = dict(kernel_size=taps, stride=stride, padding=padding, dilation=dilation, groups=groups)
    arguments |= dict(in_channels=groups * int(rng.integers(1, 4)), out_channels=groups * int(rng.integers(1, 4)))
    arguments["bias"] = bool(rng.integers(2))
    spans = [(f - 1) * d + 1 - 2 * p for f, d, p in zip(taps, dilation, padding, strict=True)]
    if transposed:
        arguments["output_padding"] = tuple(int(rng.integers(max(s, d))) for s, d in zip(stride, dilation, strict=True))
        least = [max(0, -(-(1 - span) // s)) + 1 for span, s in zip(spans, stride, strict=True)]
    else:
        least = [max(1, span) for span in spans]
    sizes = [n + int(rng.integers(0, 5)) for n in least]
    return arguments, (int(rng.integers(1, 4)), arguments["in_channels"], *sizes)


def test_uneven_padding():
    torch.manual_seed(2)
    x, w = randn(2, 3, 5, 6), randn(4, 3, 3, 2)
    keys = {**UNEVEN, "padding": 0}
    same_result_and_gradients(
        lambda x, w: ct.conv2d(x, w, **UNEVEN), lambda x, w: F.conv2d(F.pad(x, (0, 1, 1, 2)), w, **keys), (x, w)
    )


# --- gradients of every order ----------------------------------------------------------------------
@pytest.mark.parametrize("case", [*LAYERS, ((1, 2, 3, 4), (2, 2, 3, 2), UNEVEN)], ids=str)
def test_gradients_of_both_orders(case):
    x_size, w_size, keys = case
    torch.manual_seed(3)
    inputs = randn(1, *x_size[1:]), randn(*w_size), randn(w_size[0])
    function = partial(getattr(ct, f"conv{len(w_size) - 2}d"), **keys)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("keys", [dict(stride=2, padding=1, output_padding=1), dict(dilation=2, output_padding=1)])
@AXES
def test_gradients_of_the_transposed(axes, keys):
    torch.manual_seed(4)
    inputs = randn(1, 2, *(2, 3, 1)[:axes]), randn(2, 2, *(3, 2, 3)[:axes]), randn(2)
    function = partial(getattr(ct, f"conv_transpose{axes}d"), **keys)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_third_order():
    """The gradients of each operator are the other two, so there are gradients of every order."""
    torch.manual_seed(5)
    x, w = randn(1, 2, 4, 4), randn(2, 2, 3, 3)

    def third(function):
        grad = (function(x, w, stride=2, padding=1) ** 4).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(grad, x, create_graph=True)
            grad = grad.square().sum()
        return grad

    torch.testing.assert_close(third(ct.conv2d), third(F.conv2d), rtol=1e-9, atol=0)


@pytest.mark.parametrize("by", ["", "_input", "_weight"])
@pytest.mark.parametrize("images", [2, 0])
@pytest.mark.parametrize("format_", [torch.Tensor.contiguous, last])
@AXES
def test_opcheck(by, images, format_, axes):
    torch.manual_seed(6)
    how = ([2, 1, 1][:axes], [1, 2, 0, 1, 1, 0][: 2 * axes], [1, 2, 1][:axes], 2)
    x, w = randn(images, 4, *(5, 6, 3)[:axes], grad=False), randn(6, 2, *(3, 2, 2)[:axes], grad=False)
    x, w = format_(x).detach(), format_(w).detach()
    dy = torch.randn_like(getattr(torch.ops.cks, f"conv{axes}d")(x, w, *how))
    x, w, dy = (t.requires_grad_() for t in (x, w, dy))
    three = {"": (x, w), "_input": (x.shape, w, dy), "_weight": (x, w.shape, dy)}[by]
    found = torch.library.opcheck(getattr(torch.ops.cks, f"conv{axes}d{by}").default, (*three, *how))
    assert set(found.values()) == {"SUCCESS"}, found


def test_only_gradients_that_are_needed_are_computed(monkeypatch):
    ran = []
    right = cks_backends.run
    monkeypatch.setattr(cks_backends, "run", lambda *a: ran.append(a[1]) or right(*a))
    x, w = randn(1, 2, 4, 4, grad=False), randn(3, 2, 3, 3)
    ct.conv2d(x, w).sum().backward()
    assert ran == ["conv2d", "conv2d_weight"]


# --- memory formats --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("axes", "format_"),
    [*product([1, 2, 3], [torch.contiguous_format]), (2, torch.channels_last), (3, torch.channels_last_3d)],
    ids=str,
)
def test_operators_see_the_memory_of_the_tensors(monkeypatch, axes, format_):
    seen = []
    right = cks_backends.run

    def spy(backend, operator, shape, first, second, out, *options):
        seen.append((operator, first, second, out))
        right(backend, operator, shape, first, second, out, *options)

    monkeypatch.setattr(cks_backends, "run", spy)
    sizes = (2, 4, *[6] * axes), (8, 4, *[3] * axes)
    x, w = (torch.randn(size).contiguous(memory_format=format_).requires_grad_() for size in sizes)
    y = getattr(ct, f"conv{axes}d")(x, w, stride=2, padding=1)
    dy = torch.randn_like(y)
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    wanted = {"conv2d": (x, w, y), "conv2d_input": (w, dy, dx), "conv2d_weight": (x, dy, dw)}
    assert [operator for operator, *_ in seen] == ["conv2d", "conv2d_input", "conv2d_weight"]
    for operator, *arrays in seen:
        for array, tensor in zip(arrays, wanted[operator], strict=True):
            assert array.ctypes.data == tensor.data_ptr()
            assert array.shape == tuple(tensor.movedim(1, -1).shape)
            assert tensor.is_contiguous(memory_format=format_)
            assert format_ == torch.contiguous_format or array.flags.c_contiguous


@pytest.mark.parametrize("which", list(product([False, True], repeat=2)), ids=str)
@AXES
def test_format_of_the_result_is_that_of_torch(axes, which):
    ours, theirs = both("conv", axes)
    x, w = torch.randn(2, 4, *[6] * axes), torch.randn(8, 4, *[3] * axes)
    x, w = (last(t) if is_last else t for t, is_last in zip((x, w), which, strict=True))
    wanted = theirs(x, w) if axes > 1 else theirs(x, w).contiguous()  # torch has no format of signals
    assert ours(x, w).stride() == wanted.stride()
    x, w = (t[:, :, ::2] for t in (x, w))  # contiguous in neither format
    torch.testing.assert_close(ours(x, w), theirs(x, w), atol=1e-4, rtol=1e-4)


# --- torch.compile and autocast --------------------------------------------------------------------
def step(x, w, bias, up):
    down, back = (getattr(ct, f"{name}{w.dim() - 2}d") for name in ("conv", "conv_transpose"))
    y = F.relu(down(x, w, bias, stride=2, padding=1))
    return back(y, up, stride=2, padding=1, output_padding=1).sin()


def compiled_equals_eager(backend, sizes, axes=2, **options):
    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend, fullgraph=True, **options)
    for images, side in sizes:
        torch.manual_seed(images)
        x, taps = randn(images, 4, *(side, 6, 4)[:axes]), [3] * axes
        same_result_and_gradients(compiled, step, (x, randn(6, 4, *taps), randn(6), randn(6, 3, *taps)))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("dynamic", [None, True, False])
def test_compiled(backend, dynamic):
    compiled_equals_eager(backend, ((2, 5), (3, 5), (4, 7)), dynamic=dynamic)


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_volumes_are_compiled(axes):
    compiled_equals_eager("aot_eager", ((2, 5), (3, 5), (4, 7)), axes)


@pytest.mark.slow
def test_compiled_by_inductor():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own modules warn
        compiled_equals_eager("inductor", ((2, 5), (3, 5)))


def test_a_batch_of_another_size_does_not_compile_anew():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    w, bias, up = randn(6, 4, 3, 3), randn(6), randn(6, 3, 3, 3)
    for images in (2, 3, 5, 8):
        compiled(randn(images, 4, 6, 6), w, bias, up)
    assert counter.frame_count == 1


@HALVES
@AXES
def test_autocast_casts_as_for_the_layers_of_torch(axes, half):
    torch.manual_seed(7)
    ours, theirs = (
        nn.Sequential(
            getattr(module, f"{prefix}Conv{axes}d")(3, 4, 3, padding=1),
            getattr(module, f"{prefix}ConvTranspose{axes}d")(4, 2, 2, 2),
        )
        for module, prefix in ((ct, "CKS"), (nn, ""))
    )
    theirs.load_state_dict(ours.state_dict())
    for dtypes in product((torch.float32, half), repeat=2):  # of the input and of the parameters
        x, results = torch.randn(2, 3, *[6] * axes, dtype=dtypes[0]), []
        for model in (ours, theirs):
            inputs = x.clone().requires_grad_(), *model.to(dtypes[1]).parameters()
            with torch.autocast("cpu", dtype=half):
                y = model(inputs[0])
            results.append([y, *torch.autograd.grad(y.sum(), inputs)])
        for got, wanted in zip(*results, strict=True):
            torch.testing.assert_close(got, wanted, atol=0.02, rtol=0.02)  # and the dtype


@HALVES
def test_autocast_is_compiled(half):
    def autocast(x, w, bias, up):
        with torch.autocast("cpu", dtype=half):
            return step(x, w, bias, up)

    torch.manual_seed(8)
    torch._dynamo.reset()
    compiled = torch.compile(autocast, backend="aot_eager", fullgraph=True)
    inputs = [torch.randn(size, requires_grad=True) for size in ((2, 4, 5, 6), (6, 4, 3, 3), (6,), (6, 3, 3, 3))]
    same_result_and_gradients(compiled, autocast, inputs)


def test_autocast_leaves_float64_alone():
    x, layer = torch.randn(1, 3, 5, 5, dtype=DOUBLE), ct.CKSConv2d(3, 4, 3, dtype=DOUBLE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == DOUBLE
        with pytest.raises(TypeError, match="input and weight must have the same dtype, got float64 and bfloat16"):
            layer.float()(x)


# --- 16 bits ---------------------------------------------------------------------------------------
def rounded_once(got, exact):
    """The result is a float64 one rounded to the dtype, but for the few that float32 moves over a rounding edge."""
    assert got.shape == exact.shape and got.dtype in (torch.float16, torch.bfloat16)
    got, exact, step = got.detach().double(), exact.detach(), torch.finfo(got.dtype).eps
    step = step * torch.exp2(torch.frexp(exact).exponent.double() - 1)  # to the next number of the dtype
    assert ((got - exact).abs() <= 0.501 * step + 1e-6).all()


@HALVES
@pytest.mark.parametrize("format_", [torch.Tensor.contiguous, last])
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_half_models_and_their_gradients(case, format_, half):
    """Each result is as if it were computed in float64 and rounded: forward with the bias, and both gradients."""
    x_size, w_size, keys = case
    ours, theirs = both("conv", len(w_size) - 2)
    torch.manual_seed(11)
    narrow = [torch.randn(size).to(half) for size in (x_size, w_size, w_size[:1])]
    narrow = [format_(t).detach() if t.dim() > 1 else t for t in narrow]
    wide = [t.double().requires_grad_() for t in narrow]
    narrow = [t.requires_grad_() for t in narrow]
    y, exact = ours(*narrow, **keys), theirs(*wide, **keys)
    rounded_once(y, exact)
    dy = torch.randn_like(y)
    gradients = torch.autograd.grad(y, narrow, dy, create_graph=True)
    exact_gradients = torch.autograd.grad(exact, wide, dy.double(), create_graph=True)
    for got, wanted in zip(gradients, exact_gradients, strict=True):
        rounded_once(got, wanted)
    (second,) = torch.autograd.grad(gradients[1].sum(), narrow[0])
    (exact_second,) = torch.autograd.grad(exact_gradients[1].sum(), wide[0])
    rounded_once(second, exact_second)
    rounded_once(ours(narrow[0][0], *narrow[1:], **keys), exact[0])


@HALVES
@pytest.mark.parametrize(
    "keys",
    [
        dict(stride=2, padding=1, output_padding=1),
        dict(stride=2, padding=1, groups=2, dilation=2),
        dict(padding=1, output_padding=2, dilation=3),
    ],
    ids=str,
)
def test_half_transposed(keys, half):
    torch.manual_seed(12)
    outputs = 3 * keys.get("groups", 1)
    narrow = [torch.randn(size).to(half) for size in ((2, 4, 4, 5), (4, 3, 3, 3), (outputs,))]
    wide = [t.double().requires_grad_() for t in narrow]
    narrow = [t.requires_grad_() for t in narrow]
    y, exact = ct.conv_transpose2d(*narrow, **keys), F.conv_transpose2d(*wide, **keys)
    rounded_once(y, exact)
    dy = torch.randn_like(y)
    gradients = zip(torch.autograd.grad(y, narrow, dy), torch.autograd.grad(exact, wide, dy.double()), strict=True)
    for got, wanted in gradients:
        rounded_once(got, wanted)


@HALVES
def test_half_networks(half):
    """A model that was converted and made half gives what torch's own gives, within the dtype; so do its gradients."""
    torch.manual_seed(13)
    theirs = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)).to(half)
    ours, report = ct.convert(copy.deepcopy(theirs), (1, 3, 8, 8))
    assert report.swapped == ["0", "2"]
    x, results = torch.randn(2, 3, 8, 8, dtype=half), []
    for model in (ours, theirs):
        y = model(x)
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), tuple(model.parameters()))])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, atol=0.05 * float(wanted.abs().max()), rtol=0)


@HALVES
def test_opcheck_of_half_with_a_bias(half):
    how = ([2, 1], [1, 2, 0, 1], [1, 2], 2)
    x, w, bias = (randn(*size, grad=False).to(half) for size in ((2, 4, 5, 6), (6, 2, 3, 2), (6,)))
    x, w, bias = (t.requires_grad_() for t in (x, w, bias))
    found = torch.library.opcheck(torch.ops.cks.conv2d.default, (x, w, *how, bias))
    assert set(found.values()) == {"SUCCESS"}, found


def test_tf32_follows_torch(monkeypatch):
    """float32 on CUDA is multiplied as cudnn's flag says when the operator runs; everything else as it is."""
    cuda = SimpleNamespace(is_cuda=True, dtype=torch.float32)
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert operators._precision(cuda) == ("tf32" if allowed else "float32")
        for is_cuda, dtype in ((False, torch.float32), (True, DOUBLE), (True, torch.float16), (True, torch.bfloat16)):
            assert operators._precision(SimpleNamespace(is_cuda=is_cuda, dtype=dtype)) == "float32"
    for name, wanted in (("ieee", "float32"), ("tf32", "tf32")):
        new = SimpleNamespace(conv=SimpleNamespace(fp32_precision=name))
        monkeypatch.setattr(torch.backends, "cudnn", new)
        assert operators._precision(cuda) == wanted
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=True))  # torch before 2.9
    assert operators._precision(cuda) == "tf32"


# --- errors ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("function", "sizes", "keys", "message"),
    [
        (ct.conv2d, ((2, 3), (4, 3, 3, 3)), {}, r"input must have 4 axes \(N, IC, IH, IW\), or 3 unbatched"),
        (ct.conv2d, ((1, 3, 5, 5), (4, 3, 3)), {}, r"weight must have 4 axes \(OC, IC/groups, FH, FW\)"),
        (ct.conv2d, ((1, 3, 5, 5), (4, 2, 3, 3)), {}, "input has 3 channels, so with groups=1 weight must have 3"),
        (ct.conv2d, ((1, 3, 5, 5), (6, 1, 3, 3)), {}, "; groups=3 would fit"),
        (ct.conv2d, ((1, 5, 6, 2), (4, 2, 3, 3)), {}, r"; input.permute\(0, 3, 1, 2\) would fit"),
        (
            ct.conv2d,
            ((1, 5, 6, 4), (5, 3, 3, 4)),
            {},
            r"; input.permute\(0, 3, 1, 2\) and weight.permute\(0, 3, 1, 2\) would fit",
        ),
        (ct.conv_transpose2d, ((4, 5, 5), (3, 4, 3, 3)), {}, r"; weight.permute\(1, 0, 2, 3\) would fit"),
        (ct.conv_transpose2d, ((4, 5, 5), (4, 3, 3, 3)), dict(groups=3), "and 4 channels: take 1, 2 or 4"),
        (ct.conv2d, ((1, 3, 5, 5), (4, 3, 9, 9)), {}, "filter is larger than the padded input"),
        (ct.conv2d, ((1, 3, 5, 5), (4, 3, 3, 3), (5,)), {}, r"bias must have shape \(4,\) one for each output channel"),
        (ct.conv2d, ((1, 3, 5, 5), (4, 3, 3, 3)), dict(stride=0), "stride must be at least 1, got 0"),
        (ct.conv2d, ((1, 3, 5, 5), (4, 3, 3, 3)), dict(padding="full"), 'padding must be ints, "same" or "valid"'),
        (ct.conv_transpose2d, ((1, 3, 5, 5), (4, 3, 3, 3)), {}, "input has 3 channels, weight is for 4"),
        (ct.conv_transpose2d, ((1, 4, 5, 5), (4, 3, 3, 3)), dict(output_padding=1), "output_padding must be smaller"),
        (ct.conv_transpose2d, ((1, 4, 1, 1), (4, 3, 3, 3)), dict(padding=2), "result would have -1 rows"),
        (ct.conv1d, ((5,), (4, 3, 3)), {}, r"input must have 3 axes \(N, IC, IW\), or 2 unbatched \(IC, IW\)"),
        (ct.conv1d, ((1, 8, 2), (4, 2, 3)), {}, r"; input.permute\(0, 2, 1\) would fit"),
        (ct.conv3d, ((1, 3, 5, 5, 5), (4, 2, 3, 3, 3)), {}, "input has 3 channels, so with groups=1 weight must have"),
        (ct.conv3d, ((1, 3, 5, 5, 5), (4, 3, 3, 3, 3)), dict(stride=(1, 2)), "stride must be an int or three ints"),
        (ct.conv3d, ((1, 3, 5, 5), (4, 3, 9, 9)), {}, r"weight must have 5 axes \(OC, IC/groups, FD, FH, FW\)"),
        (ct.conv_transpose1d, ((1, 3, 5), (4, 3, 3)), {}, "input has 3 channels, weight is for 4"),
        (ct.conv_transpose3d, ((1, 4, 1, 1, 1), (4, 3, 3, 3, 3)), dict(padding=2), "result would have -1 depths"),
    ],
)
def test_wrong_arguments(function, sizes, keys, message):
    with pytest.raises(ValueError, match=message):
        function(*(torch.zeros(size) for size in sizes), **keys)


def test_wrong_dtypes_and_types():
    x, w = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    with pytest.raises(TypeError, match="input and weight must have the same dtype, got float32 and float64"):
        ct.conv2d(x, w.double())
    with pytest.raises(
        TypeError, match=r"weight must be a PyTorch tensor, got ndarray: take torch.as_tensor\(weight\)"
    ):
        ct.conv2d(x, w.numpy())
    with pytest.raises(TypeError, match="stride must be an int, got 1.5"):
        ct.conv2d(x, w, stride=1.5)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got int"):
        ct.convert(3, (1, 3, 8, 8))
    with pytest.raises(ValueError, match="threshold must be a number of at least 1, got 0.5"):
        ct.convert(nn.Conv2d(1, 1, 1), (1, 1, 8, 8), threshold=0.5)
    with pytest.raises(ValueError, match="threshold must be a number of at least 1, got 'all'"):
        ct.convert(nn.Conv2d(1, 1, 1), (1, 1, 8, 8), threshold="all")
    with pytest.raises(ValueError, match="the model does not take an input of 1x3x8x8"):
        ct.convert(nn.Conv2d(1, 1, 1), (1, 3, 8, 8))
    with pytest.raises(TypeError, match="input must be a size such as"):
        ct.convert(nn.Conv2d(1, 1, 1), 8)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, cks_numba, cks_numba.operators; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- layers ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@AXES
def test_layer_has_the_state_of_torch(axes, mode):
    torch.manual_seed(8)
    keys = dict(kernel_size=(4, 3, 2)[:axes], stride=2, padding=(2, 1, 1)[:axes], padding_mode=mode, dtype=DOUBLE)
    ours, theirs = (getattr(*at)(4, 6, **keys) for at in ((ct, f"CKSConv{axes}d"), (nn, f"Conv{axes}d")))
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    same_result_and_gradients(ours, theirs, (randn(2, 4, *(7, 8, 5)[:axes]),))
    assert repr(ours) == f"CKS{theirs!r}"


@AXES
def test_transposed_layer_has_the_state_of_torch(axes):
    torch.manual_seed(9)
    kinds = (getattr(*at) for at in ((ct, f"CKSConvTranspose{axes}d"), (nn, f"ConvTranspose{axes}d")))
    ours, theirs = (kind(4, 6, 3, 2, 1, dtype=DOUBLE) for kind in kinds)
    theirs.load_state_dict(ours.state_dict())
    x, size = randn(2, 4, *(5, 6, 4)[:axes]), [10, 12, 8][:axes]
    same_result_and_gradients(ours, theirs, (x,))
    torch.testing.assert_close(ours(x, output_size=size), theirs(x, output_size=size))


# --- conversion ------------------------------------------------------------------------------------
SIZES = {"resnet18": (2, 3, 32, 32), "dcgan-generator": (2, 100, 1, 1), "dcgan-discriminator": (2, 3, 64, 64)}


def network(name):
    torch.manual_seed(10)
    return torch_networks.NETWORKS[name](True).to(DOUBLE)


@pytest.mark.parametrize("threshold", [1, THRESHOLD])
@pytest.mark.parametrize("name", SIZES)
def test_networks_compute_the_same_after_conversion(name, threshold):
    model, x = network(name), torch.randn(SIZES[name], dtype=DOUBLE)
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def run():
        model.zero_grad()
        y = model(x)
        y.square().mean().backward()
        return [y.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    before = run()
    parameters = list(model.parameters())
    same, report = ct.convert(model, SIZES[name], threshold=threshold)
    assert same is model and all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    for wanted, got in zip(before, run(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))
    layers = {key: layer for key, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))}
    ours = [key for key, layer in layers.items() if isinstance(layer, (ct.CKSConv2d, ct.CKSConvTranspose2d))]
    assert ours and sorted(ours) == sorted(report.swapped) and (len(ours) == len(layers) or threshold > 1)
    assert len(report.rows) == len(layers) and all(line in str(report) for line in layers)
    model.load_state_dict(state)
    network(name).load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "dcgan-generator"])
def test_counts_are_those_of_flops(name):
    found = pytorch.of_torch(network(name), (1, *SIZES[name][1:]))
    counted = flops.network(name, 32 if name == "resnet18" else 64)
    assert sorted(row.total.regular for row in found) == sorted(layer.total.regular for layer in counted.layers)
    assert sum(row.total.useful for row in found) == counted.total.useful


@AXES
def test_what_the_threshold_promises(axes):
    """A filter of 3 taps an axis with padding 1 is swapped up to a size, and any filter with a stride."""
    conv, most = getattr(nn, f"Conv{axes}d"), {1: 5, 2: 9, 3: 14}[axes]
    for side in range(1, 20):
        layer = conv(2, 2, 3, padding=1)
        _, report = ct.convert(nn.Sequential(nn.Identity(), layer), (1, 2, *[side] * axes))
        assert (report.swapped == ["1"]) == (side <= most), side
        for taps in (1, 2, 3, 4):
            strided = conv(2, 2, taps, stride=2, padding=taps // 2)
            assert pytorch.of_torch(strided, (1, 2, *[side + 3] * axes))[0].swaps()


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(4, 4, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.w, padding=1)


class Sub(nn.Conv2d):
    pass


class Zoo(nn.Module):
    """A module with one layer of every kind."""

    def __init__(self):
        super().__init__()
        self.first, self.reflect = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1, padding_mode="reflect")
        self.depthwise, self.shared = nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.Conv2d(4, 4, 3, padding=1)
        self.own, self.sub, self.up = Own(), Sub(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.one, self.three, self.lost = nn.Conv1d(4, 4, 3, 2), nn.Conv3d(1, 1, (1, 3, 3)), nn.Conv2d(1, 1, 1)
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout()

    def forward(self, x):
        x = self.norm(self.drop(self.own(self.sub(self.depthwise(self.reflect(self.first(x)))))))
        x = self.up(self.shared(self.shared(input=x)))
        return self.one(x.flatten(2)), self.three(x[:, None, :1])


def test_every_layer_is_listed_with_the_reason():
    model = Zoo()
    model.norm.eval()
    model, report = ct.convert(model, (1, 3, 32, 32))
    assert {row.name: row.why() for row in report.rows} == {
        "first": "swap",
        "reflect": "swap",
        "depthwise": "no: depthwise",
        "sub": f"no: {pytorch.SUBCLASS}",
        "own": "no: not torch.nn's own",
        "shared": "swap",
        "up": "swap",
        "one": "swap",
        "three": "swap",
        "lost": "no: not reached",
    }
    rows = {row.name: row for row in report.rows}
    assert len(rows["shared"].counts) == 2 and rows["reflect"].kind == "Conv2d, reflect"
    assert rows["reflect"].of("forward").redundant == 0  # reflected padding has real elements
    assert "input gradient" not in rows["first"].counts[0].passes and rows["own"].total.useful > 0
    assert model.training and not model.norm.training and not model.norm.running_mean.any()
    again = {row.name: row.why() for row in pytorch.of_torch(model, torch.zeros(1, 3, 32, 32))}
    assert {name for name, why in again.items() if why == "no: skips its zeros already"} == set(report.swapped)
    assert all(len(line) <= 120 for line in str(report).splitlines())


def test_parameters_that_the_operators_do_not_take():
    layer, report = ct.convert(nn.Conv2d(3, 4, 3, 2, 1, dtype=torch.complex64), (1, 3, 8, 8))
    assert type(layer) is nn.Conv2d and report.rows[0].why() == "no: complex64 parameters"
    assert ct.convert(nn.Conv2d(3, 4, 3, 2, 1, device="meta"), (1, 3, 8, 8))[1].swapped


@AXES
def test_converted_models_are_copied_saved_and_exported(axes):
    x = torch.randn(1, 3, *[8] * axes)
    model, _ = ct.convert(nn.Sequential(getattr(nn, f"Conv{axes}d")(3, 4, 3, 2, 1)), tuple(x.shape))
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert type(again[0]) is getattr(ct, f"CKSConv{axes}d")
    torch.testing.assert_close(again(x), model(x))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def test_a_model_that_is_one_layer_and_one_image():
    layer, report = ct.convert(nn.Conv2d(3, 4, 3, 2, 1), (3, 8, 8))
    assert isinstance(layer, ct.CKSConv2d) and report.swapped == ["(the model)"]
    shape = ConvShape(n=1, ih=8, iw=8, ic=3, oc=4, fh=3, fw=3, stride=2, padding=1)
    assert report.rows[0].of("forward") == flops.count("conv2d", shape)
    np.testing.assert_equal(tuple(layer(torch.zeros(3, 8, 8)).shape), (4, 4, 4))
