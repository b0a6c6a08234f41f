"""Converted layers and the operators inside other tools of PyTorch: torch.func, torch.fx, TorchScript, ONNX."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
from torch import nn  # noqa: E402

import cks_numba.torch as ct  # noqa: E402

F = nn.functional
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # TorchScript warns
KEYS = dict(stride=2, padding=1, groups=2)
NAMES = [f"{name}{axes}d" for axes in (1, 2, 3) for name in ("conv", "conv_transpose")]
PAIRS = pytest.mark.parametrize(
    "ours, theirs, size",
    [(getattr(ct, name), getattr(F, name), (4, 3) if "transpose" in name else (6, 2)) for name in NAMES],
    ids=NAMES,
)
AXES = pytest.mark.parametrize("axes", [1, 2, 3])


def operands(function, channels):
    torch.manual_seed(0)
    axes = int(function.__name__[-2])
    sizes = (2, 4, *(5, 4, 3)[:axes]), (*channels, *[3] * axes), (6,)
    return [torch.randn(*size, dtype=torch.float64) for size in sizes]


def squared(function):
    return lambda *inputs: function(*inputs, **KEYS).square().sum()


TRANSFORMS = {
    "grad": lambda f, inputs: torch.func.grad(squared(f), (0, 1, 2))(*inputs),
    "jacrev": lambda f, inputs: torch.func.jacrev(lambda *a: f(*a, **KEYS), (0, 1, 2))(*inputs),
    "jacfwd": lambda f, inputs: torch.func.jacfwd(lambda *a: f(*a, **KEYS), (0, 1, 2))(*inputs),
    "jvp": lambda f, inputs: torch.func.jvp(lambda *a: f(*a, **KEYS), tuple(inputs), tuple(t.cos() for t in inputs)),
    "forward over reverse": lambda f, inputs: torch.func.jvp(
        torch.func.grad(squared(f), (0, 1)), tuple(inputs), tuple(t.cos() for t in inputs)
    ),
    "hessian": lambda f, inputs: torch.func.hessian(lambda x: f(x[:1], *inputs[1:], **KEYS).pow(3).sum())(inputs[0]),
    "gradients of each sample": lambda f, inputs: torch.func.vmap(
        torch.func.grad(squared(f), (1, 2)), in_dims=(0, None, None)
    )(*inputs),
}
"""Transforms by name; the last is what Opacus computes."""


@PAIRS
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_torch_func(ours, theirs, size, transform):
    inputs = operands(ours, size)
    torch.testing.assert_close(*(TRANSFORMS[transform](function, inputs) for function in (ours, theirs)))


@PAIRS
@pytest.mark.parametrize(
    "dims", [(0, None, None), (2, None, None), (None, 0, None), (0, 3, None), (0, None, 0), (None, None, 0), (1, 2, 1)]
)
def test_vmap_over_every_operand(ours, theirs, size, dims):
    inputs = operands(ours, size)
    inputs = [t if d is None else torch.stack([t, t.cos(), 2 * t], d) for t, d in zip(inputs, dims, strict=True)]
    results = (torch.func.vmap(lambda *a, f=f: f(*a, **KEYS), dims)(*inputs) for f in (ours, theirs))
    torch.testing.assert_close(*results)


@PAIRS
def test_forward_mode(ours, theirs, size):
    x, w, bias = operands(ours, size)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x.cos())
        results = [function(dual, w, bias, **KEYS) for function in (ours, theirs)]
        torch.testing.assert_close(*(torch.autograd.forward_ad.unpack_dual(y).tangent for y in results))


@PAIRS
def test_meta_tensors_give_shapes(ours, theirs, size):
    inputs = [tensor.to("meta") for tensor in operands(ours, size)]
    assert ours(*inputs, **KEYS).shape == theirs(*inputs, **KEYS).shape


def converted(axes=2):
    conv, norm, up = (getattr(nn, f"{name}{axes}d") for name in ("Conv", "BatchNorm", "ConvTranspose"))
    model, x = nn.Sequential(conv(3, 4, 3, 2, 1), norm(4), nn.ReLU(), up(4, 3, 4, 2, 1)), torch.randn(2, 3, *[8] * axes)
    model, report = ct.convert(model.eval(), tuple(x.shape))
    assert report.swapped == ["0", "3"]
    return model, x


@AXES
def test_fx_sees_leaves(axes):
    model, x = converted(axes)
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["0", "1", "2", "3"]
    torch.testing.assert_close(graph(x), model(x))


@AXES
def test_fx_sees_the_functions(axes):
    (down, up), plain = ([getattr(m, f"{n}{axes}d") for n in ("conv", "conv_transpose")] for m in (ct, F))
    graph = torch.fx.symbolic_trace(lambda x, w: up(down(x, w), w))
    assert [n.target for n in graph.graph.nodes if n.op == "call_function"] == [down, up]
    x, w = torch.randn(1, 3, *[5] * axes), torch.randn(4, 3, *[2] * axes)
    torch.testing.assert_close(graph(x, w), plain[1](plain[0](x, w), w))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # a trace is of one size
@AXES
def test_torchscript_works_or_says_what_to_do(axes):
    model, x = converted(axes)
    torch.testing.assert_close(torch.jit.trace(model[0], x)(x), model[0](x))
    with pytest.raises(NotImplementedError, match=f"trace does not record conv_transpose{axes}d: use torch.export"):
        torch.jit.trace(model, x)
    with pytest.raises(TypeError, match=f"torch.jit.script does not compile CKSConv{axes}d: use torch.export, or"):
        torch.jit.script(model)
    torch.testing.assert_close(torch.jit.script(ct.revert(model))(x), model(x))


class Called(nn.Module):
    """A convolution and a transposed one by functions, with more padding at one end than at the other."""

    def __init__(self, axes):
        super().__init__()
        self.axes, self.w = axes, nn.Parameter(torch.randn(4, 3, *[3] * axes) / 3**axes)

    def forward(self, x):
        down, up = (getattr(ct, f"{name}{self.axes}d") for name in ("conv", "conv_transpose"))
        padding = ((1, 2), (0, 1), (2, 0))[: self.axes]
        y = up(down(x, self.w, stride=2, padding=padding), self.w, stride=2, padding=padding, output_padding=1)
        return up(down(y, self.w, padding="same"), self.w)


def called(axes):
    torch.manual_seed(0)
    return Called(axes), torch.randn(2, 3, *[8] * axes)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch's exporters warn about each other
@pytest.mark.parametrize("make", [converted, called])
@AXES
def test_onnx_has_the_nodes_of_torch(axes, make, dynamo):
    """Both exporters write torch's own operators, and the file computes what the model does."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install cks-numba[onnx])")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install onnxscript)")
    from onnx.reference import ReferenceEvaluator

    model, x = make(axes)
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=dynamo)
    written = onnx.load_from_string(file.getvalue())
    kinds = [node.op_type for node in written.graph.node]
    assert "Conv" in kinds and "ConvTranspose" in kinds and not any("cks" in kind.lower() for kind in kinds)
    (name,) = (value.name for value in written.graph.input)
    (y,) = ReferenceEvaluator(written).run(None, {name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x), atol=1e-4, rtol=1e-4)


@AXES
def test_revert_gives_the_same_objects_back(axes):
    model, x = converted(axes)
    layers, wanted = list(model.modules()), model(x)
    assert ct.revert(model) is model and all(a is b for a, b in zip(model.modules(), layers, strict=True))
    assert [type(layer) for layer in (model[0], model[3])] == [
        getattr(nn, f"{name}{axes}d") for name in ("Conv", "ConvTranspose")
    ]
    torch.testing.assert_close(model(x), wanted)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got int"):
        ct.revert(3)


def test_fusing_after_revert():
    model, x = converted()
    fused = torch.ao.quantization.fuse_modules(ct.revert(copy.deepcopy(model)), [["0", "1", "2"]])
    again, report = ct.convert(fused, (2, 3, 8, 8))
    assert report.swapped == ["0.0", "3"]
    torch.testing.assert_close(again(x), model(x))


def test_convert_judges_the_forward_pass_alone():
    """The forward pass of a stride without padding multiplies no zero; its gradient does."""
    layers = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 2, 2)) for _ in range(2)]
    reports = [
        ct.convert(model, (1, 3, 8, 8), train=train)[1] for model, train in zip(layers, (True, False), strict=True)
    ]
    assert [report.swapped for report in reports] == [["1"], []]


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, first, *, second):
        return self.conv(first) + self.conv(second)


def test_convert_takes_inputs_by_keyword_and_several_sizes():
    model, report = ct.convert(Adds(), {"first": (1, 3, 8, 8), "second": (1, 3, 8, 8)})
    assert report.swapped == ["conv"] and type(model.conv) is ct.CKSConv2d
    model, report = ct.convert(nn.Bilinear(2, 3, 4), [(5, 2), (5, 3)])
    assert report.rows == []
