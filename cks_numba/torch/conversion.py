"""A whole model: its layers are swapped for those that skip zeros where that pays, and back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from .. import checks
from ..models import pytorch
from ..models.found import DEPTHWISE, THRESHOLD, Found
from ..models.text import text
from .layers import skipping
from .measuring import Input, milliseconds, pass_of


class Report:
    """What `convert` did with every layer that convolves: ``print(report)``, or read `rows`.

    Attributes
    ----------
    rows : list of cks_numba.models.found.Found
    threshold : float
    swapped : list of str
        Names of the layers that are ours now.
    measured : dict of float
        Milliseconds of the whole model "before" and "after" its layers are swapped; empty if nothing was measured.
    """

    def __init__(self, rows: list[Found], threshold: float) -> None:
        self.rows: list[Found] = rows
        self.threshold: float = threshold
        self.swapped: list[str] = [row.name for row in rows if row.swaps(threshold)]
        self.measured: dict[str, float] = {}

    def __str__(self) -> str:
        lines = [text(self.rows, self.threshold)]
        if self.measured:
            back = "" if self.swapped else "; no layer is swapped, because the whole model does not gain"
            times = (f"{taken:.2f} ms {when}" for when, taken in self.measured.items())
            lines.append(f"measured: {', '.join(times)}{back}")
        return "\n".join(lines)


def convert(
    model: nn.Module,
    input_size: Any,
    threshold: float = THRESHOLD,
    train: bool = True,
    subclasses: bool = False,
    measure: bool = False,
) -> tuple[nn.Module, Report]:
    """Let the layers of a model skip zeros where that pays, according to their plans or to a clock.

    A layer is swapped if its part of a training step the regular way takes at least `threshold` times the useful
    multiply-adds; with `measure`, if it takes at least `threshold` times as long. Parameters, hooks, state dict and
    everything else of the model stay the same objects.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. Its `Conv1d`, `Conv2d`, `Conv3d` and transposed layers are swapped, those with a parametrised
        filter too (`torch.nn.utils.parametrizations`, such as weight_norm).
    input_size : tensor, size, or a tuple, list or dict of them
        The input of one forward pass, which finds the size of every map; see `cks_numba.models.pytorch.of_torch`.
    threshold : float
        Factor from which a layer is swapped; 1 swaps every layer that can be.
    train : bool
        False judges the forward pass alone.
    subclasses : bool
        True swaps layers of subclasses too, if the forward pass of the subclass is that of torch's own class. Their new
        class inherits from both, so they are still instances of the subclass, with its methods.
    measure : bool
        True times each layer that can be swapped as torch's and as ours, on what it gets when the model runs on
        `input_size`, in the model's memory format. Then the whole model is timed: if it is not faster, no layer is
        swapped. For a model on the CPU. It takes some seconds; nothing else should run meanwhile.

    Returns
    -------
    model : torch.nn.Module
    report : Report

    Raises
    ------
    ValueError, TypeError
        If the model does not take the input, an argument is wrong, a subclass cannot be inherited from, or a model is
        to be measured that is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3, stride=2, padding=1))
    >>> model, report = convert(model, (1, 3, 8, 8))
    >>> report.swapped
    ['1']
    >>> type(model[1]).__name__
    'CKSConv2d'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    threshold = checks.factor("threshold", threshold)
    devices = {str(parameter.device) for parameter in model.parameters()} if measure else set()
    if devices - {"cpu"}:
        raise ValueError(f"measure=True times models on the CPU, got parameters on {', '.join(sorted(devices))}")
    rows = pytorch.of_torch(model, input_size, train, subclasses)
    report = Report(_measured(model, input_size, rows, train) if measure else rows, threshold)
    found = list(_layers(model, report.swapped).values())
    before = [*map(pytorch.class_of, found)]
    _set_classes(found, [*map(skipping, before)])  # Errors come before anything is changed.
    if measure and found:
        report.measured = _both_ways(model, input_size, found, before, train)
        if report.measured["after"] > report.measured["before"]:
            _set_classes(found, before)
            report.swapped = []
    return model, report


def _layers(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    return {name: model.get_submodule("" if name == pytorch.WHOLE else name) for name in names}


# --- measuring -------------------------------------------------------------------------------------
def _measured(model: nn.Module, sample: Any, rows: list[Found], train: bool) -> list[Found]:
    """Add its times to each layer that can be swapped; layers of the same sizes are timed once."""
    names = [row.name for row in rows if row.counts and row.note in ("", DEPTHWISE)]
    layers, known = _layers(model, names), {}
    given = pytorch.inputs_of(model, sample, layers)
    found = []
    for row in rows:
        total = [0.0, 0.0]
        for count, each in zip(row.counts, given.get(row.name, ()), strict=False):
            key = _key(layers[row.name], each), tuple(count.passes)
            if key not in known:
                known[key] = _timed(layers[row.name], each, train, "input gradient" in count.passes)
            total = [sum(pair) for pair in zip(total, known[key], strict=True)]
        found.append(replace(row, measured=(total[0], total[1])) if row.name in layers else row)
    return found


def _key(layer: nn.Module, given: Input) -> tuple[Any, ...]:
    """All that the time of a layer depends on."""
    tensors = [each for each in (*given[0], *given[1].values(), *layer.parameters()) if hasattr(each, "stride")]
    seen = [(tuple(each.shape), each.stride(), each.dtype, each.requires_grad) for each in tensors]
    return str(layer), *seen


def _timed(layer: nn.Module, given: Input, train: bool, by_input: bool) -> tuple[float, float]:
    """Milliseconds of torch's layer and of ours, without their hooks."""
    plain, ours = _twin(layer), _twin(layer)
    _set_class(ours, skipping(pytorch.class_of(layer)))
    given = tuple(given[0]) or (given[1]["input"],), {key: value for key, value in given[1].items() if key != "input"}
    taken = milliseconds({each: pass_of(each, given, train, by_input) for each in (plain, ours)})
    return taken[plain], taken[ours]


def _twin(layer: nn.Module) -> nn.Module:
    """Another layer with the same parameters, without the hooks. `copy.copy` refuses parametrised layers."""
    twin = object.__new__(type(layer))
    none: Any = {"_forward_hooks": OrderedDict(), "_forward_pre_hooks": OrderedDict()}
    vars(twin).update(vars(layer) | none)
    return twin


def _both_ways(
    model: nn.Module, sample: Any, layers: list[nn.Module], before: list[type[nn.Module]], train: bool
) -> dict[str, float]:
    """Milliseconds of the whole model with other classes of the swapped layers, and as it is; it ends as it is."""
    kinds = {"before": before, "after": [*map(pytorch.class_of, layers)]}
    run = pass_of(model, pytorch.arguments_of(model, sample), train)

    def with_classes(when: str) -> None:
        if [*map(pytorch.class_of, layers)] != kinds[when]:
            _set_classes(layers, kinds[when])
        run()

    with pytorch.evaluating(model, train, lambda saved: saved):
        return milliseconds({when: partial(with_classes, when) for when in kinds})


# --- classes ---------------------------------------------------------------------------------------
def _set_classes(layers: Iterable[nn.Module], kinds: Iterable[type[nn.Module]]) -> None:
    for layer, kind in zip(layers, kinds, strict=True):
        _set_class(layer, kind)


def _set_class(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Give a layer another class; it stays the same object, so its hooks and all references to it stay valid.

    A layer with a parametrised parameter has a class of its own, a subclass with a property for each of them.
    """
    now = type(layer)
    if pytorch.class_of(layer) is not now:
        own = {name: value for name, value in vars(now).items() if name not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), own)
    layer.__class__ = kind


def revert(model: nn.Module) -> nn.Module:
    """Give a model torch's own layers back: the same objects with the same parameters and hooks.

    Tools that ask for the very class of a layer need it, such as torch.jit.script and the fusing of a convolution
    with batch normalisation: revert, fuse, and `convert` again.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.

    Returns
    -------
    torch.nn.Module
        The model.

    Examples
    --------
    >>> import torch
    >>> model, _ = convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2)), (1, 3, 8, 8))
    >>> revert(model)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2))
    )
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for layer in model.modules():
        replaced = vars(pytorch.class_of(layer)).get("replaces")  # A user's class that inherits from ours has none.
        if replaced is not None:
            _set_class(layer, replaced)
    return model
