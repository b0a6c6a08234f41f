"""The convolutions of a PyTorch model, as one forward pass meets them. PyTorch is imported where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from .. import checks
from ..buffers import dtype_name
from ..flops.networks import Layer
from ..geometry import ConvShape
from .found import Found, found

WHOLE = "(the model)"
"""Name of a layer that is the model itself."""


def of_torch(model: Any, sample: Any) -> list[Found]:
    """Run a model once and list its convolutions, in their order.

    Parameters
    ----------
    model : torch.nn.Module
        Run as in evaluation, without gradients; it is left as it was.
    sample : tuple of int, tensor, or tuple of tensors
        Input: a size in torch's order, (N, C, H, W), for zeros of the dtype and on the device of the parameters; or the
        arguments themselves. A layer that reads one of them directly is a first layer, which needs no input gradient.

    Returns
    -------
    list of Found
        Layers that the pass did not reach come last.

    Raises
    ------
    ValueError
        If the model does not take the input.
    """
    arguments = _arguments(model, sample)
    watch = _Watch(arguments)
    with _evaluating(model), watch.installed(model):
        try:
            model(*arguments)
        except Exception as error:
            sizes = ", ".join("x".join(map(str, getattr(a, "shape", ()))) for a in arguments)
            raise ValueError(f"the model does not take an input of {sizes}: {error}") from error
    return watch.result(model)


def _arguments(model: Any, sample: Any) -> tuple[Any, ...]:
    import torch

    if isinstance(sample, torch.Tensor):
        return (sample,)
    if not isinstance(sample, (tuple, list)) or not sample:
        raise TypeError(f"input must be a size such as (1, 3, 32, 32), or tensors, got {sample!r}")
    if not all(type(size) is int for size in sample):
        return tuple(sample)
    if min(sample) < 1:
        raise ValueError(f"input must have sizes of at least 1, got {tuple(sample)}")
    like = next(model.parameters(), torch.empty(0))
    return (torch.zeros(tuple(sample), dtype=like.dtype, device=like.device),)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch off gradients, batch statistics and dropout; afterwards restore the mode of every module."""
    import torch

    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


class _Watch:
    """A record of the convolutions of a forward pass: layers by hooks, others as torch dispatches them."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments = arguments
        self.inside: list[tuple[str, Any]] = []  # the modules whose forward is running
        self.layers: dict[tuple[str, str], list[Layer]] = {}  # the key is name and kind
        self.notes: dict[tuple[str, str], str] = {}

    @contextmanager
    def installed(self, model: Any) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module in model.named_modules():
                for hook in self._hooks(name, module):
                    stack.callback(hook.remove)
            stack.enter_context(_calls(self._note_call))
            yield

    def _hooks(self, name: str, module: Any) -> tuple[Any, Any]:
        def enter(module: Any, inputs: Any) -> None:
            self.inside.append((name, module))

        def leave(module: Any, inputs: Any, keywords: Any, output: Any) -> None:
            self.inside.pop()
            if is_layer(module):
                x = inputs[0] if inputs else keywords["input"]
                first = any(x is argument for argument in self.arguments)
                self._note(name, module, _layer(name, module, x, output, first), _unfit(module.weight))

        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave, with_kwargs=True)

    def _note(self, name: str, module: Any, layer: Layer | None, note: str = "") -> None:
        key = name or WHOLE, _kind(module)
        self.layers.setdefault(key, []).extend([layer] if layer else [])
        if note or getattr(module, "skips_zeros", False):
            self.notes[key] = note or "skips its zeros already"

    def _note_call(self, x: Any, w: Any, y: Any, options: tuple[Any, ...]) -> None:
        """Note a convolution that torch dispatches, unless a hook notes its layer."""
        name, module = self.inside[-1] if self.inside else ("", None)
        if is_layer(module):
            return
        axes = w.dim() - 2
        if axes != 2:
            self._note(name, module, None, f"{axes} ax{'i' if axes == 1 else 'e'}s")
            return
        stride, padding, dilation, transposed, _, groups = options
        shape = _shape((y, x) if transposed else (x, y), w.shape[2:], stride, padding, dilation, groups)
        self._note(name, module, Layer(name, shape, transposed), "not torch.nn's own")

    def result(self, model: Any) -> list[Found]:
        rows = [found(*key, layers, self.notes.get(key, "")) for key, layers in self.layers.items()]
        seen = {name for name, _ in self.layers}
        for name, module in model.named_modules():
            if _convolves(module) and (name or WHOLE) not in seen:
                rows.append(Found(name, _kind(module), note="not reached"))
        return rows


def is_layer(module: Any) -> bool:
    """Whether a module is one of torch's own two, or of ours; a subclass may compute something else."""
    from torch import nn

    return type(module) in (nn.Conv2d, nn.ConvTranspose2d) or getattr(module, "skips_zeros", False)


def _kind(module: Any) -> str:
    mode = getattr(module, "padding_mode", "zeros")
    return type(module).__name__ + (f", {mode}" if mode != "zeros" else "")


def _unfit(weight: Any) -> str:
    """Reason why our layers cannot compute with these parameters; empty if they can."""
    dtype = dtype_name(weight)
    if dtype not in checks.DTYPES:
        return f"{dtype} parameters"
    return "" if weight.device.type in ("cpu", "cuda", "meta") else f"on {weight.device.type}"


def _convolves(module: Any) -> bool:
    from torch.nn.modules.conv import _ConvNd

    return isinstance(module, _ConvNd)


def _layer(name: str, module: Any, x: Any, y: Any, first: bool) -> Layer:
    from torch import nn

    transposed, padding = isinstance(module, nn.ConvTranspose2d), module.padding
    added = (0, 0)
    if module.padding_mode != "zeros":  # torch adds real elements first
        left, right, top, bottom = module._reversed_padding_repeated_twice
        added, padding = (top + bottom, left + right), 0
    maps = (y, x) if transposed else (x, y)
    options = module.stride, padding, module.dilation, module.groups
    return Layer(name, _shape(maps, module.kernel_size, *options, added=added), transposed, first)


def _shape(
    maps: tuple[Any, Any], taps: Any, stride: Any, padding: Any, dilation: Any, groups: int, added: Any = (0, 0)
) -> ConvShape:
    """The convolution from the first map to the second, in torch's order, batched or not."""
    *batch, ic, ih, iw = maps[0].shape
    sizes = dict(n=batch[0] if batch else 1, ih=ih + added[0], iw=iw + added[1], ic=ic, oc=maps[1].shape[-3])
    pad: Any = padding if isinstance(padding, (str, int)) else tuple(padding)
    return ConvShape(
        **sizes, fh=taps[0], fw=taps[1], stride=tuple(stride), padding=pad, dilation=tuple(dilation), groups=groups
    )


def _calls(note: Callable[..., None]) -> Any:
    """Return a mode in which torch reports every convolution that it dispatches, in a layer or not."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.convolution.default:
                note(args[0], args[1], result, args[3:9])
            return result

    mode: Any = Mode  # PyTorch leaves its constructor without types
    return mode()
