"""The convolutions of a PyTorch model, as one forward pass meets them. PyTorch is imported where it is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from .. import checks
from ..buffers import dtype_name
from ..flops import LayerCount
from ..flops.networks import Layer
from ..geometry import ConvShape
from .found import Found, found, used

WHOLE = "(the model)"
"""Name of a layer that is the model itself."""
OTHER = "not torch.nn's own"
"""Note of a convolution that no layer of torch's own computes."""
SUBCLASS = "unless subclasses=True"
"""Note of a layer whose class is not torch's own, but whose forward pass is."""
PLAIN = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
"""Classes of torch.nn whose layers are swapped."""
NAMED = re.compile("conv(?!er|ex|oy)", re.IGNORECASE)
"""Names of classes and operators that convolve, without words such as convert and convex."""
OURS = re.compile("cks::conv[123]d(_input)?")
"""Operators of ours whose result is a map."""


def of_torch(model: Any, sample: Any, train: bool = True, subclasses: bool = False) -> list[Found]:
    """Run a model once and list its convolutions, in their order.

    Parameters
    ----------
    model : torch.nn.Module
        Run as in evaluation; it is left as it was. TorchScript, graphs of torch.fx and torch.export, and compiled
        models are read as well.
    sample : tensor, size, or a tuple, list or dict of them
        Input: a size in torch's order, (N, C, H, W), stands for zeros of the dtype and on the device of the parameters.
        A tuple or list has the positional arguments, a dict those by keyword. If there is a tensor anywhere in it, all
        of it is given to the model as it is.
    train : bool
        Whether the gradients of a training step are counted: those that autograd would compute, so none for a
        frozen filter, and none for an input that no trained parameter comes before.
    subclasses : bool
        Whether layers of a subclass may be swapped, if its forward pass is that of torch's own class.

    Returns
    -------
    list of Found
        Layers that the pass did not reach come last.

    Raises
    ------
    ValueError
        If the model does not take the input.
    TypeError
        If the input is none.
    """
    arguments, keywords = arguments_of(model, sample)
    try:
        return _watched(_Watch(model, train, subclasses), arguments, keywords, _forget)
    except ValueError as error:
        if "unpack_hook" not in str(error):
            raise
    again = _Watch(model, train, subclasses)
    return _watched(again, arguments, keywords, lambda tensor: tensor)  # It computes a gradient as it runs.


def inputs_of(model: Any, sample: Any, layers: Mapping[str, Any]) -> dict[str, list[tuple[Any, Any]]]:
    """Run a model once, as `of_torch` does, and return what some of its layers are given.

    Parameters
    ----------
    model, sample
        As in `of_torch`.
    layers : dict of torch.nn.Module
        Layers of the model by name.

    Returns
    -------
    dict of list of (tuple, dict)
        Positional arguments and those by keyword of each call of a layer.
    """
    arguments, keywords = arguments_of(model, sample)
    found: dict[str, list[tuple[Any, Any]]] = {name: [] for name in layers}
    with ExitStack() as stack:
        for name, layer in layers.items():

            def note(module: Any, *given: Any, name: str = name) -> None:
                found[name].append((given[0], given[1]))

            stack.callback(layer.register_forward_pre_hook(note, with_kwargs=True).remove)
        with evaluating(model, False, _forget):
            model(*arguments, **keywords)
    return found


def _watched(watch: _Watch, arguments: Any, keywords: Any, save: Callable[[Any], Any]) -> list[Found]:
    """Run a model and list its convolutions, with what becomes of tensors that are saved for gradients."""
    model, train = watch.modules[""], watch.train
    with evaluating(model, train, save), watch.installed():
        try:
            model(*arguments, **keywords)
        except Exception as error:
            told = _told([*arguments, keywords])
            way = ". The forward pass alone needs no gradients: train=False, --forward"
            known = train and re.search("grad|backward", str(error))
            raise ValueError(f"the model does not take an input of {told}: {error}{way if known else ''}") from error
    return watch.result()


def arguments_of(model: Any, sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional arguments and those by keyword."""
    import torch

    if not isinstance(sample, (torch.Tensor, tuple, list, Mapping)) or (
        not isinstance(sample, torch.Tensor) and not sample
    ):
        raise TypeError(f"input must be a size such as (1, 3, 32, 32), tensors, or a dict of them, got {sample!r}")
    parameters = (p for p in model.parameters() if p.is_floating_point() or p.is_complex())
    given = sample if _has_tensor(sample) else _zeros(sample, next(parameters, torch.empty(0)))
    if isinstance(given, Mapping):
        return (), dict(given)
    return ((given,) if isinstance(given, torch.Tensor) else tuple(given)), {}


def _has_tensor(sample: Any) -> bool:
    import torch

    if isinstance(sample, Mapping):
        return any(map(_has_tensor, sample.values()))
    return isinstance(sample, torch.Tensor) or (isinstance(sample, (tuple, list)) and any(map(_has_tensor, sample)))


def _zeros(sample: Any, like: Any) -> Any:
    """The sample with zeros for its sizes."""
    import torch

    if isinstance(sample, Mapping):
        return {name: _zeros(item, like) for name, item in sample.items()}
    if not isinstance(sample, (tuple, list)):
        return sample
    if not all(type(size) is int for size in sample):
        return tuple(_zeros(item, like) for item in sample)
    if min(sample, default=0) < 1:
        raise ValueError(f"input must have sizes of at least 1, got {tuple(sample)}")
    return torch.zeros(tuple(sample), dtype=like.dtype, device=like.device)


def _told(argument: Any) -> str:
    """An argument in words, by the sizes of its tensors."""
    if isinstance(argument, Mapping):
        return ", ".join(f"{name} {_told(item)}" for name, item in argument.items())
    if isinstance(argument, (tuple, list)):
        return ", ".join(filter(None, map(_told, argument)))
    return "x".join(map(str, argument.shape)) if hasattr(argument, "shape") else repr(argument)[:40]


def _forget(tensor: Any) -> None:
    """Save nothing: the gradients are only counted."""


@contextmanager
def evaluating(model: Any, train: bool, save: Callable[[Any], Any]) -> Iterator[None]:
    """Switch off batch statistics and dropout; afterwards restore the mode of every module.

    TorchScript does not optimize, because its optimized code hides which tensors have a gradient; nor does a part with
    a checkpoint, which runs again for its gradients, hide them.
    """
    import torch
    from torch.utils.checkpoint import CheckpointFunction

    jit: Any = torch.jit  # Its types do not list all that it has.
    training = {module: module.training for module in model.modules() if hasattr(module, "training")}
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(train))
        stack.enter_context(jit.optimized_execution(False))
        stack.enter_context(mock.patch.object(CheckpointFunction, "apply", lambda run, _, *args: run(*args)))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(save, lambda saved: saved))
        try:
            for module in training:  # The method eval may be overridden, or refused.
                module.training = False
            yield
        finally:
            for module, mode in training.items():
                module.training = mode


class _Watch:
    """A record of the convolutions of a forward pass: layers by hooks, others as torch dispatches them."""

    def __init__(self, model: Any, train: bool, subclasses: bool) -> None:
        self.train, self.subclasses = train, subclasses
        self.owners = {id(value): (value, name.rpartition(".")[0]) for name, value in model.named_parameters()}
        self.modules = dict(model.named_modules())
        self.inside: list[tuple[str, Any]] = []  # the modules whose forward is running
        self.entered: set[str] = set()
        self.functions: list[set[int]] = []  # the arguments of running functions that have a backward pass of their own
        self.layers: dict[tuple[str, ...], list[LayerCount]] = {}  # the key begins with name and kind
        self.notes: dict[tuple[str, ...], str] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module in self.modules.items():
                for hook in self._hooks(name, module):
                    stack.callback(hook.remove)
            stack.enter_context(_calls(self._note_call, self._note_other))
            stack.enter_context(self._functions())
            yield

    def _functions(self) -> Any:
        """Watch calls of torch.autograd.Function, inside which torch does not say what has a gradient."""
        import torch

        apply: Any = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]

        def watched(kind: Any, *arguments: Any, **keywords: Any) -> Any:
            has = any(getattr(argument, "requires_grad", False) for argument in arguments)
            if not (torch.is_grad_enabled() and has):
                return apply(kind, *arguments, **keywords)
            self.functions.append(set(map(id, arguments)))
            try:
                return apply(kind, *arguments, **keywords)
            finally:
                self.functions.pop()

        return mock.patch.object(torch.autograd.Function, "apply", classmethod(watched))

    def _hooks(self, name: str, module: Any) -> tuple[Any, ...]:
        import torch

        def enter(module: Any, inputs: Any) -> None:
            self.inside.append((name, module))
            self.entered.add(name)

        def leave(module: Any, inputs: Any, keywords: Any, output: Any) -> None:
            self.inside.pop()
            if output is not None and _is_read(module):
                x = inputs[0] if inputs else keywords["input"]
                layer = _layer(name, module, x, output)
                self._note(name, module, self._used(layer, x, module.weight), _no_swap(module, self.subclasses))

        if isinstance(module, torch.jit.ScriptModule):  # It takes no hooks, or does not call them.
            return ()
        after = module.register_forward_hook(leave, with_kwargs=True, always_call=True)  # Models may catch an error.
        return module.register_forward_pre_hook(enter), after

    def _used(self, layer: Layer, x: Any, w: Any) -> LayerCount:
        """Count the layer, with the gradients that a training step needs."""
        return used(layer, *(not (self.train and self._has_gradient(tensor)) for tensor in (x, w)))

    def _has_gradient(self, tensor: Any) -> bool:
        """Whether autograd needs the gradient; of what a function computes inside, it does."""
        import torch

        if torch.is_grad_enabled():
            return bool(tensor.requires_grad)
        return bool(self.functions) and (tensor.requires_grad or id(tensor) not in self.functions[-1])

    def _note(self, name: str, module: Any, layer: LayerCount | None, note: str = "", size: Any = ()) -> None:
        key = name or WHOLE, _kind(module), *map(str, size)
        self.layers.setdefault(key, []).extend([layer] if layer else [])
        if note or getattr(module, "skips_zeros", False):
            self.notes[key] = note or "skips its zeros already"

    def _note_call(self, x: Any, w: Any, y: Any, options: tuple[Any, ...], note: str) -> None:
        """Note a convolution that torch dispatches, unless a hook notes its layer."""
        if self._is_hooked():
            return
        name, module = self._place(w)
        stride, padding, dilation, transposed, _, groups = options
        maps = (y, x) if transposed else (x, y)
        shape = _shape(maps, w.shape[2:], stride, padding, dilation, groups)
        self._note(name, module, self._used(Layer(name, shape, transposed), x, w), note, tuple(w.shape))

    def _note_other(self, operator: str) -> None:
        """Note an operator that convolves by its name, and whose sizes are not known here."""
        if self._is_hooked():
            return
        name, module = self.inside[-1] if self.inside else ("", self.modules[""])
        self._note(name, module, None, f"not counted: {operator}")

    def _is_hooked(self) -> bool:
        """Whether the innermost module is a layer that its hook notes."""
        return bool(self.inside) and _is_read(self.inside[-1][1])

    def _place(self, w: Any) -> tuple[str, Any]:
        """Name and module of a running convolution: the innermost that is known, and in a graph the owner of w."""
        name, module = self.inside[-1] if self.inside else ("", self.modules[""])
        owner = self.owners.get(id(w), (w, name))[1]
        within = not name or owner.startswith(f"{name}.")
        return (owner, self.modules[owner]) if within else (name, module)

    def result(self) -> list[Found]:
        rows = [found(key[0], key[1], layers, self.notes.get(key, "")) for key, layers in self.layers.items()]
        seen = {key[0] for key in self.layers}
        for name, module in self.modules.items():
            if _convolves(module) and (name or WHOLE) not in seen:
                note = "no operator of torch that convolves ran in it" if name in self.entered else "not reached"
                rows.append(Found(name or WHOLE, _kind(module), note=note))
        return rows


def class_of(module: Any) -> Any:
    """Return the class of a module, without the one that torch puts before it where a parameter is parametrised."""
    from torch.nn.utils import parametrize

    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def _plain() -> list[Any]:
    from torch import nn

    return [getattr(nn, name) for name in PLAIN]


def _is_layer(module: Any) -> bool:
    """Whether a module is one of torch's own, or of ours; a subclass may compute something else."""
    return class_of(module) in _plain() or getattr(module, "skips_zeros", False)


def _is_read(module: Any) -> bool:
    """Whether the forward pass of a module is that of torch's own, or of ours, so that its options say all."""
    if _is_layer(module):
        return True
    for kind in _plain():
        if isinstance(module, kind) and "forward" not in vars(module):
            methods = [name for name in ("forward", "_conv_forward") if hasattr(kind, name)]
            return all(getattr(type(module), method) is getattr(kind, method) for method in methods)
    return False


def _no_swap(module: Any, subclasses: bool) -> str:
    """Reason why a layer is not swapped whatever its count; empty if it may be."""
    return _unfit(module.weight) if subclasses or _is_layer(module) else SUBCLASS


def _kind(module: Any) -> str:
    mode = getattr(module, "padding_mode", "zeros")
    name = getattr(module, "original_name", "") or module._get_name()  # TorchScript has a class of its own
    return name + (f", {mode}" if mode != "zeros" else "")


def _unfit(weight: Any) -> str:
    """Reason why our layers cannot compute with these parameters; empty if they can."""
    dtype = dtype_name(weight)
    if dtype not in checks.DTYPES:
        return f"{dtype} parameters"
    return "" if weight.device.type in ("cpu", "cuda", "meta") else f"on {weight.device.type}"


def _convolves(module: Any) -> bool:
    """Whether a module is a layer that convolves, as far as its class or the name of its class says."""
    from torch.nn.modules.conv import _ConvNd

    return isinstance(module, _ConvNd) or (bool(NAMED.search(_kind(module))) and not any(module.children()))


def _layer(name: str, module: Any, x: Any, y: Any) -> Layer:
    transposed, padding = module.transposed, module.padding
    added = [0] * len(module.kernel_size)
    if module.padding_mode != "zeros":  # torch adds real elements first
        around = module._reversed_padding_repeated_twice
        added, padding = [sum(around[k : k + 2]) for k in reversed(range(0, len(around), 2))], 0
    maps = (y, x) if transposed else (x, y)
    options = module.stride, padding, module.dilation, module.groups
    return Layer(name, _shape(maps, module.kernel_size, *options, added=added), transposed)


def _shape(
    maps: tuple[Any, Any],
    taps: Sequence[int],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    added: Sequence[int] = (0, 0, 0),
) -> ConvShape:
    """The convolution from the first map to the second, in torch's order, batched or not."""
    (ic, *sizes), (oc, *outputs) = (found.shape[-1 - len(taps) :] for found in maps)
    n = maps[0].shape[0] if len(maps[0].shape) > len(taps) + 1 else 1
    sizes = [size + more for size, more in zip(sizes, added, strict=False)]
    pad: Any = padding if isinstance(padding, (str, int)) else tuple(padding)
    options = dict(stride=tuple(stride), padding=pad, dilation=tuple(dilation), groups=groups)
    return ConvShape.of((n, *sizes, ic), (oc, *taps, ic // groups), **options).with_outputs(*outputs)


def _calls(note: Callable[..., None], note_other: Callable[[str], None]) -> Any:
    """Return a mode in which torch reports every operator that convolves, in a layer or not."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            operator = function.name().partition(".")[0]
            if operator in ("aten::convolution", "aten::_convolution"):
                note(args[0], args[1], result, args[3:9], OTHER)
            elif OURS.fullmatch(operator):
                note(*_ours(operator, args, result), "skips its zeros already")
            elif NAMED.search(operator):
                note_other(operator)
            return result

    mode: Any = Mode  # PyTorch leaves its constructor without types
    return mode()


def _ours(operator: str, args: Any, result: Any) -> tuple[Any, ...]:
    """Operands, result and options of one of our operators, as torch orders those of its own."""
    transposed = operator.endswith("_input")
    x, options = (args[2], args[3:7]) if transposed else (args[0], args[2:6])
    stride, padding, dilation, groups = options
    return x, args[1], result, (stride, padding, dilation, transposed, 0, groups)
