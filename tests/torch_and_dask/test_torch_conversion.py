"""`convert` and layers that are more than torch's own: subclasses, parametrised filters, hooks, frozen ones."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

import cks_numba.torch as ct  # noqa: E402
from cks_numba.models.pytorch import SUBCLASS, of_torch  # noqa: E402
from cks_numba.torch import conversion  # noqa: E402

pytestmark = pytest.mark.torch
DOUBLE = torch.float64
KINDS = pytest.mark.parametrize(
    "kind", [f"{name}{axes}d" for axes in (1, 2, 3) for name in ("Conv", "ConvTranspose")], ids=str
)


def layer_and_input(kind, cls=None):
    torch.manual_seed(0)
    axes = int(kind[-2])
    layer = (cls or getattr(nn, kind))(3, 4, 3, stride=2, padding=1, dtype=DOUBLE)
    return layer, torch.randn(2, 3, *(6, 5, 4)[:axes], dtype=DOUBLE, requires_grad=True)


def results(layer, x):
    """The result and all gradients; y is a copy, because the layer may change its state as it runs."""
    y = layer(x)
    return [y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))]


def same_before_and_after(layer, x, **options):
    """Convert a layer; check its results and gradients, and that it is the same object."""
    before = results(copy.deepcopy(layer), x)
    plain = copy.deepcopy(layer)
    same, report = ct.convert(layer, x.detach(), **options)
    assert same is layer and report.swapped == ["(the model)"] and layer.skips_zeros
    torch.testing.assert_close(results(layer, x), before)
    torch.testing.assert_close(results(copy.deepcopy(layer), x), before)
    assert not hasattr(plain, "skips_zeros")  # a copy from before has a class of its own
    torch.testing.assert_close(results(plain, x), before)


# --- networks of signals and volumes ----------------------------------------------------------
class Waves(nn.Module):
    """Dilated convolutions of a signal with gates and a residual, as in WaveNet, and an upsampled result."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(3, 8, 1)
        self.gates = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=2**k, padding=2**k) for k in range(3))
        self.up = nn.ConvTranspose1d(8, 2, 8, 4, 2)

    def forward(self, x):
        x = self.first(x)
        for gate in self.gates:
            a, b = gate(x)[..., : x.shape[-1]].chunk(2, 1)
            x = x + a.tanh() * b.sigmoid()
        return self.up(x)


def volumes():
    """An encoder and a decoder of volumes, as in a 3-D U-Net without its skips."""
    down = [nn.Conv3d(3, 4, 3, 2, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*down, nn.ConvTranspose3d(8, 4, 2, 2), nn.Conv3d(4, 2, 1))


@pytest.mark.parametrize(
    ("make", "size", "format_"),
    [
        (Waves, (2, 3, 20), torch.contiguous_format),
        (volumes, (2, 3, 6, 4, 8), torch.contiguous_format),
        (volumes, (2, 3, 6, 4, 8), torch.channels_last_3d),
    ],
    ids=["signals", "volumes", "volumes, channels last"],
)
def test_networks_of_signals_and_volumes(make, size, format_):
    torch.manual_seed(0)
    model, x = (item.to(dtype=DOUBLE, memory_format=format_) for item in (make(), torch.randn(size)))
    before = results(model, x.requires_grad_())
    _, report = ct.convert(model, tuple(x.shape), threshold=1)
    assert len(report.swapped) == (5 if make is Waves else 4)
    torch.testing.assert_close(results(model, x), before)
    ct.revert(model)
    torch.testing.assert_close(results(model, x), before)


# --- filters that are computed ------------------------------------------------------------------
NORMALISED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": lambda layer: parametrizations.spectral_norm(layer).eval(),
    "orthogonal": parametrizations.orthogonal,
    "bias": lambda layer: parametrize.register_parametrization(layer, "bias", nn.Softplus()),
    "both": lambda layer: parametrizations.weight_norm(NORMALISED["bias"](layer)),
}


@KINDS
@pytest.mark.parametrize("normalise", NORMALISED)
def test_parametrised_layers(kind, normalise):
    layer, x = layer_and_input(kind)
    layer = NORMALISED[normalise](layer)
    names = dict(layer.named_parameters())
    same_before_and_after(layer, x)
    assert isinstance(layer, getattr(ct, f"CKS{kind}")) and parametrize.is_parametrized(layer)
    assert all(value is names[name] for name, value in layer.named_parameters())
    wanted = results(layer, x)
    assert ct.revert(layer) is layer and not hasattr(layer, "skips_zeros") and parametrize.is_parametrized(layer)
    torch.testing.assert_close(results(layer, x), wanted)


def test_a_parametrisation_is_removed_from_a_converted_layer():
    layer, x = layer_and_input("Conv2d")
    layer, _ = ct.convert(parametrizations.weight_norm(layer), x.detach())
    y = layer(x)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is ct.CKSConv2d and isinstance(layer.weight, nn.Parameter)
    torch.testing.assert_close(layer(x), y)
    parametrizations.weight_norm(layer)  # and one may be added again
    torch.testing.assert_close(layer(x), y)
    assert type(ct.revert(layer)).__bases__ == (nn.Conv2d,)


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*")
@pytest.mark.parametrize("normalise", [nn.utils.weight_norm, lambda layer: nn.utils.spectral_norm(layer).eval()])
def test_filters_of_old_hooks(normalise):
    """The hooks keep a tensor that is no parameter as the weight, which torch itself does not copy after a run."""
    layer, x = layer_and_input("Conv2d")
    layer = normalise(layer)
    before = results(layer, x)
    same, report = ct.convert(layer, x.detach())
    assert type(same) is ct.CKSConv2d and report.swapped == ["(the model)"]
    torch.testing.assert_close(results(layer, x), before)


# --- subclasses -----------------------------------------------------------------------------------
class Named(nn.Conv2d):
    """A layer with a way to be made, a method and an attribute of its own."""

    def __init__(self, *arguments, label="none", **options):
        super().__init__(*arguments, **options)
        self.label = label

    def told(self):
        return f"{self.label}: {type(self).__name__}"


class Up(nn.ConvTranspose3d):
    pass


class Standardised(nn.Conv2d):
    """A layer whose forward pass is its own."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Shut(nn.Conv1d):
    def __init_subclass__(cls):
        raise TypeError("nobody inherits from Shut")


class Slotted(nn.Conv1d):
    __slots__ = ("note",)


class Counting(type):
    """A metaclass that names what it makes."""

    def __new__(cls, name, bases, own):
        return super().__new__(cls, name, bases, own | {"made_as": name})


class OfAMetaclass(nn.Conv2d, metaclass=Counting):
    pass


@pytest.mark.parametrize("cls", [Named, Up, Slotted, OfAMetaclass])
def test_subclasses_are_swapped_if_asked(cls):
    kind = cls.__bases__[0].__name__
    layer, x = layer_and_input(kind, cls)
    assert of_torch(layer, x.detach())[0].why() == f"no: {SUBCLASS}" and ct.convert(layer, x.detach())[1].swapped == []
    same_before_and_after(layer, x, subclasses=True)
    assert isinstance(layer, cls) and isinstance(layer, getattr(ct, f"CKS{kind}"))
    again, _ = ct.convert(layer_and_input(kind, cls)[0], x.detach(), subclasses=True)
    assert type(again) is type(layer)  # one class for both, whose layers are equal to torch.compile, for example
    assert type(ct.revert(layer)) is cls


def test_subclasses_keep_what_they_have_and_are_saved():
    layer = Named(3, 4, 3, stride=2, padding=1, label="first")
    x = torch.randn(1, 3, 8, 8)
    model, _ = ct.convert(nn.Sequential(layer, nn.ReLU()), x, subclasses=True)
    assert model[0] is layer and layer.told() == "first: CKSNamed"
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert type(again[0]) is type(layer) and again[0].told() == "first: CKSNamed"
        torch.testing.assert_close(again(x), model(x))
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x))
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["0", "1"]


def test_a_parametrised_subclass():
    layer, x = layer_and_input("Conv2d", Named)
    layer = parametrizations.weight_norm(layer)
    assert ct.convert(layer, x.detach())[1].swapped == []
    same_before_and_after(layer, x, subclasses=True)
    assert layer.told() == "none: ParametrizedCKSNamed" and isinstance(layer, ct.CKSConv2d)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(ct.revert(layer)) is Named


def test_subclasses_that_cannot_be_swapped():
    layer, x = layer_and_input("Conv2d", Standardised)
    assert ct.convert(layer, x.detach(), subclasses=True)[1].rows[0].why() == "no: not torch.nn's own"
    shut, x = layer_and_input("Conv1d", Shut)
    model = nn.Sequential(nn.Conv1d(3, 3, 1, stride=2, dtype=DOUBLE), shut)
    with pytest.raises(TypeError, match="Shut and CKSConv1d have no common subclass: nobody inherits from Shut"):
        ct.convert(model, (1, 3, 16), threshold=1, subclasses=True)
    assert [type(part) for part in model] == [nn.Conv1d, Shut]  # nothing was changed


def test_a_subclass_of_ours_is_left_alone():
    class Own(ct.CKSConv2d):
        pass

    layer = Own(3, 4, 3, stride=2)
    _, report = ct.convert(layer, (1, 3, 8, 8), subclasses=True)
    assert report.rows[0].why() == "no: skips its zeros already" and type(ct.revert(layer)) is Own


# --- gradients that nobody computes ---------------------------------------------------------------
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_frozen_layers_are_judged_without_their_gradients(axes):
    """The forward pass of a stride multiplies few zeros; only the gradients are worth it, where there are any."""
    conv, x = getattr(nn, f"Conv{axes}d"), (1, 3, *[16] * axes)
    frozen = [nn.Sequential(conv(3, 3, 2, 2), conv(3, 3, 2, 2)).requires_grad_(False) for _ in range(2)]
    frozen[1][0].requires_grad_(True)
    assert [ct.convert(model, x)[1].swapped for model in frozen] == [[], ["0", "1"]]
    trained = nn.Sequential(conv(3, 3, 2, 2), conv(3, 3, 2, 2))
    assert ct.convert(trained, x, train=False)[1].swapped == []
    assert ct.convert(trained, x)[1].swapped == ["0", "1"]


# --- convert by the clock ------------------------------------------------------------------------
def by_clock(monkeypatch, transposed=0.5, model_after=1.0):
    """Let a clock tell that our layers take half the time of torch's, and so on for transposed ones and the model."""
    timed = []

    def told(calls):
        if list(calls) == ["before", "after"]:
            for call in calls.values():
                call()
            return {"before": 2.0, "after": 2.0 * model_after}
        for call in calls.values():
            call()
        plain, own = calls
        timed.append(type(own))
        return {plain: 1.0, own: transposed if "Transpose" in type(plain).__name__ else 0.5}

    monkeypatch.setattr(conversion, "milliseconds", told)
    return timed


def small_model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 4, 2), nn.Conv2d(4, 4, 3)]
    return nn.Sequential(*layers, nn.Conv2d(4, 4, 3))


@pytest.mark.parametrize("train", [True, False])
def test_what_gains_by_the_clock_is_swapped(monkeypatch, train):
    timed = by_clock(monkeypatch, transposed=1.0)
    model, x = small_model(), torch.randn(2, 3, 9, 9)
    called = []
    model[0].register_forward_hook(lambda *given: called.append(1))
    before = results(copy.deepcopy(model), x.requires_grad_())
    uses = len(called)
    same, report = ct.convert(model, x.detach(), train=train, measure=True)
    assert same is model and report.swapped == ["0", "1", "3", "4"]  # a depthwise layer too
    assert timed == [ct.CKSConv2d] * 2 + [ct.CKSConvTranspose2d] + [ct.CKSConv2d] * 2
    assert [type(layer).__name__[:3] for layer in model] == ["CKS", "CKS", "Con", "CKS", "CKS"]
    assert report.rows[0].why() == "swap: 0.50 ms, torch's 1.00" and report.rows[2].why().startswith("no: 1.00 ms")
    assert report.measured == {"before": 2.0, "after": 2.0}
    assert "measured: 2.00 ms before, 2.00 ms after" in str(report)
    assert len(called) == uses + 4  # The model was counted, looked at, and timed both ways.
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training and all(layer.training for layer in model)
    torch.testing.assert_close(results(model, x), before)


def test_layers_of_the_same_sizes_are_timed_once(monkeypatch):
    timed = by_clock(monkeypatch)
    layer, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 5, 5)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), layer, nn.ReLU(), layer, copy.deepcopy(layer), nn.MaxPool2d(2), layer)
    _, report = ct.convert(model, x, measure=True)
    assert report.swapped == ["0", "1", "4"]
    assert len(timed) == 3  # 1x1, and 3x3 on maps of two sizes
    assert {row.name: row.measured for row in report.rows}["1"] == (3.0, 1.5)  # it is used three times


@pytest.mark.parametrize("threshold, swapped", [(1.9, ["0"]), (2.1, [])])
def test_with_a_clock_the_threshold_is_one_of_time(monkeypatch, threshold, swapped):
    by_clock(monkeypatch)
    _, report = ct.convert(nn.Sequential(nn.Conv2d(4, 4, 1)), (1, 4, 5, 5), threshold, measure=True)
    assert report.swapped == swapped


def test_a_model_that_does_not_gain_as_a_whole_stays_as_it_was(monkeypatch):
    by_clock(monkeypatch, model_after=1.1)
    model, report = ct.convert(small_model(), (2, 3, 9, 9), measure=True)
    assert report.swapped == [] and not any(hasattr(layer, "skips_zeros") for layer in model)
    assert "no layer is swapped, because the whole model does not gain" in str(report)


@KINDS
def test_measuring_runs_layers_of_every_kind(monkeypatch, kind):
    by_clock(monkeypatch)
    layer, x = layer_and_input(kind)
    before = results(copy.deepcopy(layer), x)
    for model in (layer, parametrizations.weight_norm(copy.deepcopy(layer))):
        _, report = ct.convert(model, x.detach(), measure=True)
        assert report.swapped == ["(the model)"] and model.skips_zeros
    torch.testing.assert_close(results(layer, x), before)


class Decoder(nn.Module):
    """A transposed layer that is told its size, by keyword, and a result in a dict."""

    def __init__(self):
        super().__init__()
        self.up, self.frozen = nn.ConvTranspose2d(4, 4, 3, 2), nn.Conv2d(4, 4, 3).requires_grad_(False)

    def forward(self, x, size):
        return {"y": [self.frozen(input=self.up(x, output_size=size))], "about": "it"}


def test_the_clock_runs():
    _, report = ct.convert(nn.Conv2d(3, 4, 3), (1, 3, 5, 5), measure=True)
    assert min(report.rows[0].measured) > 0 and set(report.measured) in (set(), {"before", "after"})


def test_measuring_gives_layers_the_arguments_that_they_get(monkeypatch):
    by_clock(monkeypatch)
    model, sample = Decoder(), {"x": torch.randn(1, 4, 5, 5), "size": (12, 12)}
    _, report = ct.convert(model, sample, measure=True)
    assert [row.name for row in report.rows if row.measured] == ["up", "frozen"]


def test_only_models_on_the_cpu_are_measured():
    model = nn.Conv2d(3, 4, 3, device="meta")
    with pytest.raises(ValueError, match=r"measure=True times models on the CPU, got parameters on meta"):
        ct.convert(model, (1, 3, 5, 5), measure=True)
    assert type(model) is nn.Conv2d
