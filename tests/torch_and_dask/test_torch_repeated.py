"""The short way of eager calls: who takes it, who must not, and that both give the results of torch."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import numba
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")

from torch import nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import cks_numba.torch as ct  # noqa: E402
from cks_numba.backends.cpu import compiled, repeats  # noqa: E402
from cks_numba.torch import repeated  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # TorchScript warns
F = nn.functional
FUNCTIONS = {f"{name}{axes}d": axes for name in ("conv", "conv_transpose") for axes in (1, 2, 3)}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """The calls of this test that were made the short way; none is known at its beginning."""
    found, run = [], repeated.Known.run

    def noted(call, *tensors):
        found.append(call)
        return run(call, *tensors)

    monkeypatch.setattr(repeated.Known, "run", noted)
    monkeypatch.setattr(repeated, "calls", {})
    return found


def integers(*size, dtype=torch.float32):
    return torch.randint(-3, 4, size).to(dtype)


def two_dimensional():
    """An image, filters and a bias."""
    return integers(2, 3, 5, 6), integers(4, 3, 3, 3), integers(4)


def with_gradients(function, *tensors, **options):
    """The result, and the gradients of its weighted sum."""
    given = [tensor.detach().requires_grad_() for tensor in tensors]
    y = function(*given, **options)
    weights = torch.arange(y.numel(), dtype=y.dtype).view(y.shape) % 5
    return [y, *torch.autograd.grad((y * weights).sum(), given)]


# --- who takes it ----------------------------------------------------------------------------------
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_second_call_and_its_gradients_take_the_short_way(name, dtype, last, taken):
    axes, ours, theirs = FUNCTIONS[name], getattr(ct, name), getattr(F, name)
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    kept = dict(memory_format=formats[axes]) if last and axes in formats else {}
    how = dict(stride=2, padding=1)
    for calls in (0, 3, 3):
        x, w, b = integers(2, 3, *[5] * axes), integers(3, 3, *[3] * axes), integers(3)
        tensors = [tensor.to(dtype) for tensor in (x.contiguous(**kept), w, b)]
        taken.clear()
        got = with_gradients(ours, *tensors, **how)
        assert len(taken) == calls
        for one, right in zip(got, with_gradients(theirs, *tensors, **how), strict=True):
            assert one.dtype == right.dtype and one.shape == right.shape and torch.equal(one, right)


@pytest.mark.parametrize("name", ["_modes", "_tracing", "_profiling", "_transforms"])
def test_a_torch_without_a_function_that_is_not_public_takes_the_long_way(monkeypatch, name, taken):
    monkeypatch.setattr(repeated, name, repeated._is_unknown)
    x, w, b = two_dimensional()
    assert repeated.is_eager([x, w]) == (name == "_transforms")
    for _ in range(2):
        assert torch.equal(ct.conv2d(x, w, b, padding=1), F.conv2d(x, w, b, padding=1))
    assert not any(call.options for found in repeated.calls.values() for call in found)


@pytest.mark.parametrize("guards", [None, lambda *tensors: None, lambda *tensors, **dims: None])
def test_a_torch_without_these_guards_takes_the_long_way(guards, monkeypatch, taken):
    monkeypatch.setattr(repeated, "_guards", guards)
    x, w, b = two_dimensional()
    for _ in range(2):
        assert torch.equal(ct.conv2d(x, w, b, padding=1), F.conv2d(x, w, b, padding=1))
    assert not repeated.calls


def test_second_derivatives(taken):
    x, w, b = (tensor.double().requires_grad_() for tensor in two_dimensional())
    for _ in range(2):
        taken.clear()
        assert torch.autograd.gradgradcheck(lambda *given: ct.conv2d(*given, padding=1), (x, w, b))
    assert taken


def test_no_gradient_is_wanted(taken):
    x, w, b = two_dimensional()
    w.requires_grad_()
    for _ in range(3):
        with torch.no_grad():
            y = ct.conv2d(x, w, b)
        assert not y.requires_grad
        assert ct.conv2d(x, w, b).requires_grad
    assert len(taken) == 5  # The tensors are the same with and without gradients.


def test_options_are_the_very_same(taken):
    x, w, b = two_dimensional()
    layer = ct.CKSConv2d(3, 4, 3, padding=1)
    plain = nn.Conv2d(3, 4, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    for change in ({}, {"stride": (2, 1)}, {"padding": (0, 2)}, {"dilation": (2, 2)}, {"padding_mode": "circular"}):
        for name, value in change.items():
            setattr(layer, name, value)
            setattr(plain, name, value)
        for _ in range(2):
            torch.testing.assert_close(layer(x), plain(x))
    ct.conv2d(x, w, b, 1)
    taken.clear()
    for wrong in (1.0, True):
        with pytest.raises(TypeError):
            ct.conv2d(x, w, b, wrong)
    stride = [1, 1]
    for _ in range(2):
        ct.conv2d(x, w, b, stride)
    stride[0] = 2
    assert ct.conv2d(x, w, b, stride).shape == (2, 4, 2, 4)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_threads_that_are_set_later_are_used(monkeypatch, taken):
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    x, w, b = two_dimensional()
    started = []
    monkeypatch.setattr(compiled, "_share", lambda *job: started.append(job[-1]))
    before = numba.get_num_threads()
    repeats.forget()
    try:
        for threads in (1, 1, 2, 2, 1):
            numba.set_num_threads(threads)
            ct.conv2d(x, w, b)
            assert bool(started) == (threads == 2), threads
            started.clear()
    finally:
        numba.set_num_threads(before)
        repeats.forget()
    assert [call.threads for call in taken] == [1, 2, 1]


# --- tensors that must not -------------------------------------------------------------------------
class Own(torch.Tensor):
    """A subclass."""


def with_memory(x, other):
    """The same tensor with other memory, as `Module.to` gives it to a parameter."""
    x.data = other
    return x


OTHERS = {
    "a view with gaps": lambda x: integers(2, 6, 5, 6)[:, ::2],
    "one that repeats its numbers": lambda x: integers(1, 3, 5, 6).expand(2, 3, 5, 6),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "a subclass": lambda x: x.as_subclass(Own),
    "a subclass of a parameter": lambda x: type("Own", (nn.Parameter,), {})(x),
    "the negative bit": lambda x: torch._neg_view(x),
    "new memory of another size": lambda x: with_memory(x, torch.ones(2, 3, 7, 6)),
    "new memory of another dtype": lambda x: with_memory(x, x.double()),
    "new memory of other strides": lambda x: with_memory(x, integers(2, 3, 6, 5).transpose(2, 3)),
    "one image": lambda x: x[0],
    "no image": lambda x: x[:0],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_tensors_are_not_taken_for_known_ones(name, taken):
    x, w, b = two_dimensional()
    for _ in range(2):
        ct.conv2d(x, w, b, padding=1)
    other = OTHERS[name](x)
    w, b = w.to(other.dtype), b.to(other.dtype)
    assert taken
    taken.clear()
    got, right = ct.conv2d(other, w, b, padding=1), F.conv2d(other, w, b, padding=1)
    assert not taken
    assert type(got) is type(right) and got.dtype == right.dtype and torch.equal(got, right)


def test_wrong_tensors_are_errors_as_before():
    x, w, b = two_dimensional()
    for _ in range(2):
        ct.conv2d(x, w, b, padding=1)
    for wrong in ((x, w.half(), b), (x, w, b[:3]), (x[:, :2], w, b)):
        with pytest.raises((TypeError, ValueError)):
            ct.conv2d(*wrong, padding=1)


def test_what_is_no_tensor():
    x, w, b = two_dimensional()
    for _ in range(2):
        ct.conv2d(x, w, b)
    for wrong in ((x.numpy(), w, b), (x, w.numpy(), b), (x, w, b.numpy()), (None, w, b), ([[1]], w, b), (x, w, 0)):
        with pytest.raises(TypeError, match="must be a PyTorch tensor"):
            ct.conv2d(*wrong)


def test_more_kinds_of_tensors_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(repeated, "MOST", 3)
    monkeypatch.setattr(repeated, "MOST_ALIKE", 2)
    for n in (1, 2, 3, 4):
        for wanted in ((), (0,), (1,), (0, 1), (0, 1, 2)):
            tensors = [integers(n, 3, 5, 5), integers(4, 3, 3, 3), integers(4)]
            for k in wanted:
                tensors[k].requires_grad_()
            for _ in range(2):
                assert torch.equal(ct.conv2d(*tensors), F.conv2d(*tensors))
            assert len(repeated.calls) <= 3 and max(map(len, repeated.calls.values())) <= 2


# --- modes that must not ---------------------------------------------------------------------------
class Dispatch(TorchDispatchMode):
    """Sees the operators."""

    seen: list

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **kwargs or {})


class Functions(TorchFunctionMode):
    """Sees the functions."""

    seen: list

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.__name__)
        return function(*args, **kwargs or {})


@contextmanager
def seeing(mode, name):
    mode.seen = []
    with mode():
        yield
    assert any(name in each for each in mode.seen)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # a trace is of one size
def test_modes_see_the_operators(taken):
    x, w, b = two_dimensional()
    want = F.conv2d(x, w, b)
    for _ in range(2):
        ct.conv2d(x, w, b)
    taken.clear()
    with seeing(Dispatch, "cks.conv2d"):
        assert torch.equal(ct.conv2d(x, w, b), want)
    with seeing(Functions, "conv2d"):
        assert torch.equal(ct.conv2d(x, w, b), want)
    with torch.profiler.profile() as profile:
        assert torch.equal(ct.conv2d(x, w, b), want)
    assert any("cks::conv2d" in each.key for each in profile.key_averages())
    with torch.autocast("cpu", torch.bfloat16):
        assert ct.conv2d(x, w, b).dtype == torch.bfloat16
    assert torch.equal(torch.jit.trace(lambda x: ct.conv2d(x, w, b), (x,))(2 * x), F.conv2d(2 * x, w, b))
    exported = torch.export.export(nn.Sequential(layer := ct.CKSConv2d(3, 4, 3)), (x,))
    assert "cks.conv2d" in str(exported.graph) and torch.equal(exported.module()(x), layer(x))


def test_transforms_and_tangents(taken):
    x, w, b = (tensor.double() for tensor in two_dimensional())
    for _ in range(2):
        ct.conv2d(x, w, b)
    taken.clear()
    tangent = torch.ones_like(x)
    ours, theirs = ((lambda x, function=function: function(x, w, b)) for function in (ct.conv2d, F.conv2d))
    for got, right in zip(*(torch.func.jvp(one, (x,), (tangent,)) for one in (ours, theirs)), strict=True):
        assert torch.equal(got, right)
    with forward_ad.dual_level():
        tangents = [forward_ad.unpack_dual(one(forward_ad.make_dual(x, tangent))).tangent for one in (ours, theirs)]
    assert torch.equal(*tangents)
    assert torch.equal(*(torch.func.grad(lambda x, one=one: (one(x) ** 2).sum())(x) for one in (ours, theirs)))
    many = torch.stack([x, 2 * x])
    assert torch.equal(*(torch.func.vmap(one)(many) for one in (ours, theirs)))


def test_fake_tensors_have_sizes_alone():
    from torch._subclasses import FakeTensorMode

    x, w, b = two_dimensional()
    for _ in range(2):
        ct.conv2d(x, w, b)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for given in (x, mode.from_tensor(x)):
            y = ct.conv2d(given, w, b)
            assert type(y).__name__ == "FakeTensor" and y.shape == (2, 4, 3, 4)


def test_a_known_call_is_compiled():
    torch._dynamo.reset()
    x, w, b = two_dimensional()
    for _ in range(2):
        ct.conv2d(x, w, b)
    made = torch.compile(lambda x: ct.conv2d(x, w, b), backend="eager", fullgraph=True)
    for _ in range(2):
        assert torch.equal(made(x), F.conv2d(x, w, b))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad, nullcontext])
def test_modes_of_gradients(mode):
    x, w, b = two_dimensional()
    w.requires_grad_()
    for other in (torch.inference_mode, torch.enable_grad, mode):
        for _ in range(2):
            with other():
                y, want = ct.conv2d(x, w, b), F.conv2d(x, w, b)
            assert torch.equal(y, want)
            assert y.requires_grad == want.requires_grad and y.is_inference() == want.is_inference()


# --- what autograd promises ------------------------------------------------------------------------
def test_hooks_and_versions_of_what_is_saved(taken):
    x, w, b = two_dimensional()
    x.requires_grad_()
    right = torch.autograd.grad(F.conv2d(x, w, b).sum(), x)[0]
    for _ in range(3):
        packed = []

        def pack(tensor, packed=packed):
            packed.append(tensor)
            return tensor.double()

        with torch.autograd.graph.saved_tensors_hooks(pack, torch.Tensor.float):
            y = ct.conv2d(x, w, b)
        assert len(packed) == 2 and torch.equal(torch.autograd.grad(y.sum(), x)[0], right)
    y = ct.conv2d(x, w, b)
    w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    assert taken


def test_gradients_of_other_strides(taken):
    """A gradient that is expanded, or channels last, is not the one that is known."""
    x, w, _ = two_dimensional()
    x.requires_grad_(), w.requires_grad_()
    for make in (torch.clone, torch.Tensor.contiguous, lambda g: g.to(memory_format=torch.channels_last)):
        for dy in (make(integers(2, 4, 3, 4)), torch.ones(1, 1, 1, 1).expand(2, 4, 3, 4)):
            for _ in range(2):
                found = [torch.autograd.grad(function(x, w), (x, w), dy) for function in (ct.conv2d, F.conv2d)]
                assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_hooks_of_layers_run():
    layer, seen = ct.CKSConv2d(3, 4, 3), []
    x = integers(2, 3, 5, 6).requires_grad_()
    layer.register_forward_hook(lambda *given: seen.append("after"))
    layer.register_full_backward_hook(lambda *given: seen.append("backward"))
    for _ in range(3):
        layer(x).sum().backward()
    assert seen == ["after", "backward"] * 3
