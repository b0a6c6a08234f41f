"""PyTorch models in ``cks-numba report``: whatever convolves is listed, counted or with the reason why not."""

from __future__ import annotations

import contextlib
import warnings

import pytest

from cks_numba import ConvShape, flops

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from cks_numba import torch as ct  # noqa: E402
from cks_numba.models import page, text  # noqa: E402
from cks_numba.models.pytorch import SUBCLASS, of_torch  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*torch:DeprecationWarning")]
SIZE = (1, 3, 9, 9)


def stack():
    """Three layers: down, same, up."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 2)
    )


def useful(rows, *passes):
    return sum(row.of(*passes or flops.PASSES).useful for row in rows)


def passes(rows):
    return {row.name: [list(count.passes) for count in row.counts] for row in rows}


class Parts(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part, self.last = part, nn.Conv2d(2, 2, 3)

    def forward(self, x):
        return self.last(self.part(x))


# --- what hides a layer --------------------------------------------------------------------------------------
def scripted():
    return torch.jit.script(stack())


def traced():
    return torch.jit.trace(stack(), torch.zeros(SIZE))


def exported():
    return torch.export.export(stack(), (torch.zeros(SIZE),)).module()


def graph():
    return torch.fx.symbolic_trace(stack())


@pytest.mark.parametrize("hide", [scripted, traced, exported, graph, lambda: torch.compile(stack())])
def test_a_model_in_another_form_has_the_same_rows(hide):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        hidden = hide()
    rows, plain = of_torch(hidden, SIZE), of_torch(stack(), SIZE)
    assert [row.name.removeprefix("_orig_mod.") for row in rows] == [row.name for row in plain] == ["0", "2", "3"]
    assert [row.total for row in rows] == [row.total for row in plain]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        part = of_torch(Parts(hide()), SIZE)
    assert useful(part[:-1]) == useful(plain) and part[-1].name == "last"


def test_a_frozen_script_is_counted_forward():
    rows = of_torch(torch.jit.freeze(scripted().eval()), SIZE)
    assert useful(rows) == useful(rows, "forward") == useful(of_torch(stack(), SIZE), "forward")


def test_a_script_that_ran_before_counts_the_same():
    model = scripted()
    for _ in range(4):
        model(torch.zeros(SIZE)).sum().backward()
    assert passes(of_torch(model, SIZE)) == passes(of_torch(stack(), SIZE))


def quantised():
    quantization = pytest.importorskip("torch.ao.quantization", reason="this PyTorch has no torch.ao.quantization")
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this PyTorch has no engine for quantised layers")
    engines = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if not engines:
        pytest.skip("this PyTorch has no engine for quantised layers")
    model = nn.Sequential(quantization.QuantStub(), nn.Conv2d(3, 4, 3, 2, 1), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.QConfig(quantization.default_observer, quantization.default_weight_observer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.prepare(model, inplace=True)
        model(torch.rand(SIZE))
        quantization.convert(model, inplace=True)
    return model


def test_quantised_layers_are_listed():
    (row,) = of_torch(quantised(), SIZE)
    assert (row.name, row.kind, row.counts) == ("1", "QuantizedConv2d", ())
    assert row.why() == "no: not counted: quantized::conv2d"
    unreached = Parts(nn.Conv2d(3, 2, 1))
    unreached.other = quantised()
    assert of_torch(unreached, SIZE)[-1].why() == "no: not reached"


class OwnConv(nn.Module):
    """A convolution that torch does not dispatch as one."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 27))

    def forward(self, x):
        return (self.w @ F.unfold(x, 3)).unflatten(2, (7, 7))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(4, 3, 3, 3)), nn.Parameter(torch.ones(4, 4, 1, 1))

    def forward(self, x):
        return ct.conv2d(ct.conv2d(x, self.a, padding=1), self.b)


def test_other_ways_to_convolve():
    rows = of_torch(nn.Sequential(OwnConv(), nn.Conv2d(2, 2, 1)), SIZE)
    assert {row.name: row.why() for row in rows}["0"] == "no: no operator of torch that convolves ran in it"
    rows = of_torch(Functional(), SIZE)
    assert [row.why() for row in rows] == ["no: skips its zeros already"] * 2
    shape = ConvShape(n=1, ih=9, iw=9, ic=3, oc=4, fh=3, fw=3, padding=1)
    assert rows[0].of("forward") == flops.count("conv2d", shape)
    lazy = of_torch(nn.Sequential(nn.LazyConv2d(4, 3, 2, 1)), SIZE)
    assert [row.why() for row in lazy] == ["swap"]


class Padded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), w)


class Roundabout(nn.Module):
    """A layer that is called in ways which a hook does not see, after one that is not."""

    def __init__(self, way):
        super().__init__()
        self.way, self.plain, self.layer = way, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3, padding=1, bias=False)

    def forward(self, x):
        return self.way(self.layer, self.plain(x))


def caught(layer, x):
    with contextlib.suppress(RuntimeError):
        layer(x[:, :1])
    return F.conv2d(x, layer.weight, padding=1)


WAYS = {
    "forward": lambda layer, x: layer.forward(x),
    "_conv_forward": lambda layer, x: layer._conv_forward(x, layer.weight, None),
    "vmap": lambda layer, x: torch.func.vmap(lambda image: F.conv2d(image, layer.weight, padding=1))(x),
    "functional_call": lambda layer, x: torch.func.functional_call(layer, dict(layer.named_parameters()), (x,)),
    "Function": lambda layer, x: Padded.apply(x, layer.weight),
    "ours": lambda layer, x: ct.conv2d(x, layer.weight, padding=1),
    "caught": caught,
}


@pytest.mark.parametrize("way", WAYS)
def test_layers_that_are_called_another_way(way):
    rows = {row.name: row for row in of_torch(Roundabout(WAYS[way]), SIZE)}
    plain = {row.name: row for row in of_torch(Roundabout(nn.Conv2d.__call__), SIZE)}
    assert passes([rows["plain"]]) == {"plain": [["forward", "weight gradient"]]}
    assert passes([rows["layer"]]) == passes([plain["layer"]])
    if way != "Function":  # it pads by itself
        assert rows["layer"].total == plain["layer"].total


def test_a_model_that_computes_a_gradient():
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.conv(x).square().sum(), x, create_graph=True)[0]

    rows = of_torch(Energy(), SIZE)
    assert [row.why() for row in rows] == ["swap", "no: not counted: aten::convolution_backward"]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_layers_of_every_number_of_axes_are_counted(axes):
    plain, transposed = (getattr(nn, f"{kind}{axes}d") for kind in ("Conv", "ConvTranspose"))
    size, short = (11, 6, 7)[:axes], (6, 3, 4)[:axes]
    shape = ConvShape.of((2, *size, 3), (4, *[5] * axes, 3), stride=2, padding=2)
    (row,) = of_torch(plain(3, 4, 5, stride=2, padding=2), (2, 3, *size))
    assert row.why() == "swap" and row.of("forward") == flops.count("conv2d", shape)
    added = [n - 2 * k + 1 for n, k in zip(size, short, strict=True)]
    (row,) = of_torch(transposed(4, 3, 5, stride=2, padding=2, output_padding=added), (2, 4, *short))
    assert row.why() == "swap" and row.of("forward") == flops.count("conv2d_input", shape)
    (row,) = of_torch(plain(3, 4, 5, padding=(2, 1, 0)[:axes], padding_mode="circular"), (2, 3, *size))
    around = [n + 2 * p for n, p in zip(size, (2, 1, 0), strict=False)]
    assert row.of("forward") == flops.count("conv2d", ConvShape.of((2, *around, 3), (4, *[5] * axes, 3)))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_functions_of_every_number_of_axes_are_counted(axes):
    """Called outside of a layer, torch's own and ours."""

    class Called(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function, self.w = function, nn.Parameter(torch.ones(4, 4, *[3] * axes))

        def forward(self, x):
            return self.function(x, self.w, stride=2, padding=1)

    size = (5, 6, 7)[:axes]
    for name in (f"conv{axes}d", f"conv_transpose{axes}d"):
        layer = getattr(nn, "Conv" + ("Transpose" if "_" in name else "") + f"{axes}d")(4, 4, 3, 2, 1, bias=False)
        (wanted,) = of_torch(layer, (1, 4, *size))
        for module, note in ((F, "not torch.nn's own"), (ct, "skips its zeros already")):
            (row,) = of_torch(Called(getattr(module, name)), (1, 4, *size))
            assert row.total == wanted.total and row.why() == f"no: {note}"


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding", ["same", 1])
@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_layers_and_subclasses_count_as_their_parents(normalise, padding):
    class Sub(nn.Conv2d):
        pass

    plain = of_torch(nn.Conv2d(3, 4, 4, padding=padding), SIZE)[0]
    for layer in (normalise(nn.Conv2d(3, 4, 4, padding=padding)), Sub(3, 4, 4, padding=padding)):
        (row,) = of_torch(layer, SIZE)
        assert row.total == plain.total and row.why() == (plain.why() if type(layer) is not Sub else f"no: {SUBCLASS}")
    (row,) = of_torch(Sub(3, 4, 4, padding=padding), SIZE, subclasses=True)
    assert row.why() == plain.why()


def test_one_rule_for_one_size():
    layer = nn.ConvTranspose2d(2, 2, 3, stride=1, padding=2, output_padding=2, dilation=3)
    (row,) = of_torch(layer, (1, 2, 6, 6))
    ones = layer.requires_grad_(False)
    ones.weight.fill_(1), ones.bias.fill_(0)
    real = int(ones(torch.ones(1, 2, 6, 6)).sum())  # a product of ones for every real pair
    assert row.of("forward").useful == real == 1024
    assert of_torch(layer.requires_grad_(True), (1, 2, 6, 6))[0].of("weight gradient").useful == 1024


# --- inputs --------------------------------------------------------------------------------------------------
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 3), nn.Conv2d(1, 2, 3)

    def forward(self, image, mask=None, scale=1.0):
        image, mask = (image["image"], image["mask"]) if isinstance(image, dict) else (image, mask)
        return scale * self.a(image) + self.b(mask)


@pytest.mark.parametrize(
    "sample",
    [
        ((1, 3, 8, 8), (1, 1, 8, 8)),
        [(1, 3, 8, 8), [1, 1, 8, 8]],
        {"image": (1, 3, 8, 8), "mask": (1, 1, 8, 8)},
        {"image": torch.zeros(1, 3, 8, 8), "mask": torch.zeros(1, 1, 8, 8), "scale": 2.0},
        ({"image": (1, 3, 8, 8), "mask": (1, 1, 8, 8)},),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)),
    ],
)
def test_inputs_of_every_form(sample):
    rows = of_torch(Two(), sample)
    assert passes(rows) == {"a": [["forward", "weight gradient"]], "b": [["forward", "weight gradient"]]}


def test_what_is_no_input():
    for sample in ({}, (), None, 3, "1x3"):
        with pytest.raises(TypeError, match="input must be a size such as"):
            of_torch(Two(), sample)
    with pytest.raises(ValueError, match="sizes of at least 1, got"):
        of_torch(Two(), ((1, 3, 8, 8), (1, 0, 8, 8)))
    with pytest.raises(ValueError, match=r"does not take an input of image 1x3x8x8, mask 1x2x8x8"):
        of_torch(Two(), {"image": (1, 3, 8, 8), "mask": (1, 2, 8, 8)})


# --- gradients that nobody computes -------------------------------------------------------------------------
def test_train_false_counts_and_judges_the_forward_pass():
    rows = of_torch(stack(), (1, 3, 33, 33), train=False)
    assert passes(rows) == {name: [["forward"]] for name in ("0", "2", "3")}
    assert (
        of_torch(stack(), (1, 3, 33, 33))[0].swaps() and not rows[0].swaps()
    )  # the stride costs in the gradients alone
    assert text.text(rows).splitlines()[-1].endswith("saves 0.0 of 83.2 k multiply-adds of a forward pass (0%)")
    assert "training step" not in text.text(rows) and "training step" not in page.page("x", rows)


def test_frozen_layers_have_no_gradients_that_nobody_computes():
    model = stack()
    model[0].requires_grad_(False)
    assert passes(of_torch(model, SIZE)) == {
        "0": [["forward"]],
        "2": [["forward", "weight gradient"]],
        "3": [["forward", "input gradient", "weight gradient"]],
    }
    model[2].requires_grad_(False)
    model[0].requires_grad_(True)
    assert passes(of_torch(model, SIZE))["2"] == [["forward", "input gradient"]]
    model.requires_grad_(False)
    assert not any("gradient" in str(found) for found in passes(of_torch(model, SIZE)).values())
    image = torch.zeros(SIZE, requires_grad=True)  # An adversarial example needs its gradient.
    assert passes(of_torch(model, image))["0"] == [["forward", "input gradient"]]


def test_layers_under_no_grad_and_behind_a_normalised_image():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            with torch.no_grad():
                x = self.body((x - 0.5) / 0.2)
            return self.head(x)

    assert passes(of_torch(Backbone(), SIZE)) == {
        "body": [["forward"]],
        "head": [["forward", "weight gradient"]],
    }


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_hides_no_gradient(reentrant):
    class Saved(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.body = nn.Conv2d(3, 3, 1), stack()

        def forward(self, x):
            return checkpoint(self.body, self.first(x), use_reentrant=reentrant)

    model = Saved()
    plain = of_torch(nn.Sequential(model.first, model.body), SIZE)
    assert [row.total for row in of_torch(model, SIZE)] == [row.total for row in plain]


def test_a_model_that_only_runs_without_gradients_says_what_to_do():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.conv = nn.Parameter(torch.ones(1)), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.w.add_(1)
            return self.conv(x)

    with pytest.raises(ValueError, match="forward pass alone needs no gradients: train=False"):
        of_torch(InPlace(), SIZE)
    assert len(of_torch(InPlace(), SIZE, train=False)) == 1


def test_the_model_is_left_as_it_was():
    model = stack()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    of_torch(model, SIZE)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_last_line_says_how_many_are_not_counted():
    rows = of_torch(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), OwnConv()), SIZE)
    assert text.text(rows).splitlines()[-1].endswith("; 1 is not counted")
    assert "; 1 is not counted." in page.page("x", rows)
