"""A whole model: its layers are swapped for those that skip zeros where that pays, and back."""

from __future__ import annotations

from typing import Any

from torch import nn

from .. import checks
from ..models import pytorch
from ..models.found import THRESHOLD, Found
from ..models.text import text
from .layers import skipping


class Report:
    """What `convert` did with every layer that convolves: ``print(report)``, or read `rows`.

    Attributes
    ----------
    rows : list of cks_numba.models.found.Found
    threshold : float
    swapped : list of str
        Names of the layers that are ours now.
    """

    def __init__(self, rows: list[Found], threshold: float) -> None:
        self.rows: list[Found] = rows
        self.threshold: float = threshold
        self.swapped: list[str] = [row.name for row in rows if row.swaps(threshold)]

    def __str__(self) -> str:
        return text(self.rows, self.threshold)


def convert(
    model: nn.Module, input_size: Any, threshold: float = THRESHOLD, train: bool = True, subclasses: bool = False
) -> tuple[nn.Module, Report]:
    """Let the layers of a model skip zeros where that pays according to their plans.

    A layer is swapped if its part of a training step the regular way takes at least `threshold` times the useful
    multiply-adds. Parameters, hooks, state dict and everything else of the model stay the same objects.

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

    Returns
    -------
    model : torch.nn.Module
    report : Report

    Raises
    ------
    ValueError, TypeError
        If the model does not take the input, an argument is wrong, or a subclass cannot be inherited from.

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
    report = Report(pytorch.of_torch(model, input_size, train, subclasses), threshold)
    found = [model.get_submodule("" if name == pytorch.WHOLE else name) for name in report.swapped]
    kinds = [skipping(pytorch.class_of(layer)) for layer in found]  # Errors come before anything is changed.
    for layer, kind in zip(found, kinds, strict=True):
        _set_class(layer, kind)
    return model, report


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
