"""Layers that never multiply an added zero, with torch's own arguments, parameters and state dicts."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from . import functions


# --- what the layers share, whatever the number of axes ------------------------------------------
def _not_scripted(layer: nn.Module) -> nn.Module:
    """Refuse torch.jit.script, which asks for the module to compile."""
    raise TypeError(f"torch.jit.script does not compile {type(layer).__name__}: {functions.INSTEAD}")


class _SkipsZeros(_ConvNd):
    """What all layers here have: the class whose forward pass a layer computes in its own way, and the function."""

    skips_zeros = True
    replaces: ClassVar[type[_ConvNd]]
    function: ClassVar[Callable[..., Tensor]]
    __prepare_scriptable__ = _not_scripted

    def _is_traced(self, input: Any) -> bool:
        """Whether torch.fx traces a model of which the layer is a part."""
        return isinstance(input, fx.Proxy) and input.tracer.root is not self  # type: ignore[attr-defined]

    def _leaf(self, *arguments: Any) -> Any:
        """Let torch.fx call the layer as one node, as it does with layers of torch.nn."""
        tracer = arguments[0].tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(self), arguments, {})


class _Convolution(_SkipsZeros):
    """The forward pass of a convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        if self._is_traced(input):
            result: Tensor = self._leaf(input)
            return result
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            around = self._reversed_padding_repeated_twice
            input, padding = nn.functional.pad(input, around, mode=self.padding_mode), 0
        return self.function(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class _Transposed(_SkipsZeros, _ConvTransposeNd):
    """The forward pass of a transposed convolution."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the layer; `output_size` chooses one of the sizes that the stride leaves open."""
        if self._is_traced(input):
            result: Tensor = self._leaf(input, output_size)
            return result
        axes = len(self.kernel_size)
        sizes: tuple[Any, ...] = self.stride, self.padding, self.kernel_size, axes, self.dilation
        added = self._output_padding(input, output_size, *sizes)
        how = self.stride, self.padding, added, self.groups, self.dilation
        return self.function(input, self.weight, self.bias, *how)


# --- layers ----------------------------------------------------------------------------------------
class CKSConv1d(_Convolution, nn.Conv1d):
    """`torch.nn.Conv1d` that never multiplies an added zero; see `CKSConv2d`.

    Examples
    --------
    >>> import torch
    >>> CKSConv1d(3, 8, 5, stride=2, padding=2)(torch.randn(2, 3, 100)).shape
    torch.Size([2, 8, 50])
    """

    replaces: ClassVar[type[_ConvNd]] = nn.Conv1d
    function: ClassVar[Callable[..., Tensor]] = staticmethod(functions.conv1d)


class CKSConv2d(_Convolution, nn.Conv2d):
    """`torch.nn.Conv2d` that never multiplies an added zero: same arguments, parameters and state dict.

    With a padding_mode other than "zeros" the padding is made of real elements, which torch adds first.

    Examples
    --------
    >>> import torch
    >>> layer = CKSConv2d(3, 8, 3, stride=2, padding=1)
    >>> plain = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
    >>> plain.load_state_dict(layer.state_dict())
    <All keys matched successfully>
    >>> x = torch.randn(2, 3, 6, 6)
    >>> torch.allclose(layer(x), plain(x), atol=1e-5)
    True
    """

    replaces: ClassVar[type[_ConvNd]] = nn.Conv2d
    function: ClassVar[Callable[..., Tensor]] = staticmethod(functions.conv2d)


class CKSConv3d(_Convolution, nn.Conv3d):
    """`torch.nn.Conv3d` that never multiplies an added zero; see `CKSConv2d`.

    Examples
    --------
    >>> import torch
    >>> CKSConv3d(3, 8, 3, stride=2, padding=1)(torch.randn(2, 3, 6, 6, 6)).shape
    torch.Size([2, 8, 3, 3, 3])
    """

    replaces: ClassVar[type[_ConvNd]] = nn.Conv3d
    function: ClassVar[Callable[..., Tensor]] = staticmethod(functions.conv3d)


class CKSConvTranspose1d(_Transposed, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` that never multiplies an added zero; see `CKSConvTranspose2d`.

    Examples
    --------
    >>> import torch
    >>> CKSConvTranspose1d(3, 8, 4, stride=2, padding=1)(torch.randn(2, 3, 50)).shape
    torch.Size([2, 8, 100])
    """

    replaces: ClassVar[type[_ConvNd]] = nn.ConvTranspose1d
    function: ClassVar[Callable[..., Tensor]] = staticmethod(functions.conv_transpose1d)


class CKSConvTranspose2d(_Transposed, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` that never multiplies an added zero: same arguments, parameters and state dict.

    Examples
    --------
    >>> import torch
    >>> CKSConvTranspose2d(3, 8, 4, stride=2, padding=1)(torch.randn(2, 3, 6, 6)).shape
    torch.Size([2, 8, 12, 12])
    """

    replaces: ClassVar[type[_ConvNd]] = nn.ConvTranspose2d
    function: ClassVar[Callable[..., Tensor]] = staticmethod(functions.conv_transpose2d)


class CKSConvTranspose3d(_Transposed, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` that never multiplies an added zero; see `CKSConvTranspose2d`.

    Examples
    --------
    >>> import torch
    >>> CKSConvTranspose3d(3, 8, 4, stride=2, padding=1)(torch.randn(2, 3, 6, 6, 6)).shape
    torch.Size([2, 8, 12, 12, 12])
    """

    replaces: ClassVar[type[_ConvNd]] = nn.ConvTranspose3d
    function: ClassVar[Callable[..., Tensor]] = staticmethod(functions.conv_transpose3d)


# --- subclasses of torch's own layers -------------------------------------------------------------
OURS = {
    kind.replaces: kind
    for kind in (CKSConv1d, CKSConv2d, CKSConv3d, CKSConvTranspose1d, CKSConvTranspose2d, CKSConvTranspose3d)
}
"""Our classes by those of torch."""


@cache
def skipping(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class that computes the forward pass of a class without zeros: ours, or one of both for a subclass."""
    if kind in OURS:
        return OURS[kind]
    ours = next(found for plain, found in OURS.items() if issubclass(kind, plain))
    own = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce_ex__": _reduce, "replaces": kind}
    try:
        return type(f"CKS{kind.__name__}", (ours, kind), own)
    except Exception as error:
        raise TypeError(f"{kind.__name__} and {ours.__name__} have no common subclass: {error}") from error


def _reduce(layer: Any, protocol: Any) -> Any:
    """Pickle or copy a layer of both classes, which have no name in a module, by the class that it replaces."""
    made, arguments, *state = super(_SkipsZeros, layer).__reduce_ex__(protocol)
    if made is copyreg.__newobj__:  # type: ignore[attr-defined]  # not a way of the subclass's own
        made, arguments = _new, (type(layer).replaces, *arguments[1:])
    return made, arguments, *state


def _new(kind: Any, *arguments: Any) -> Any:
    return skipping(kind).__new__(skipping(kind), *arguments)
