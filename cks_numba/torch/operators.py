"""The custom operators ``torch.ops.cks``: derivatives of S(x, w, dy), each with its rules for torch's transforms.

S is the sum of x * w * dy over every real product of a layer. It is linear in each of the three, and each operator is
its derivative with respect to one of them (`DERIVATIVES`). So the gradients of an operator are the other two operators,
and their gradients again: one rule, `_backward`, serves all, to any order.

One code serves every number of spatial axes: the arguments of an operator have a stride for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import buffers, operators
from ..buffers import LAYOUTS
from ..checks import Precision
from ..geometry import ConvShape
from . import repeated
from .repeated import Known, is_eager

DERIVATIVES = (
    ("conv{}d_input", "SymInt[] input_size, Tensor w, Tensor dy"),
    ("conv{}d_weight", "Tensor x, SymInt[] weight_size, Tensor dy"),
    ("conv{}d", "Tensor x, Tensor w"),
)
"""The derivatives of S with respect to x, w and dy: names, with a place for the number of axes, and arguments.

An operator takes the other two tensors, and the size of its result where they leave it open.
"""
HOW = "int[] stride, int[] padding, int[] dilation, int groups"
"""Arguments that all operators share; the padding is before and after each axis: top, bottom, left, right for two."""

BIAS = ", Tensor? bias=None"
"""The last argument of those whose result is a map: added before the sum is rounded."""

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The memory format of channels last, by the number of axes of a tensor; torch has none for signals."""


def _parts(by: int, arguments: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Tensor | None]:
    """The operands, stride to groups, and the bias of an operator's arguments."""
    count = 1 + DERIVATIVES[by][1].count(",")
    bias = arguments[count + 4] if len(arguments) > count + 4 else None
    return arguments[:count], arguments[count : count + 4], bias


def _operator(by: int, arguments: Sequence[Any]) -> Any:
    """The custom operator for as many axes as the stride has."""
    stride = _parts(by, arguments)[1][0]
    return getattr(torch.ops.cks, DERIVATIVES[by][0].format(len(stride)))


def _derivative(by: int, three: Sequence[Tensor], how: Sequence[Any]) -> Tensor:
    """Derivative of S(x, w, dy) with respect to one of the three, of which only the size is used."""
    first, second = (tensor for place, tensor in enumerate(three) if place != by)
    key, known = repeated.find_call((by, three[by].shape), how, first, second, None)
    if known is not None:
        return apply_known(known, first, second)
    arguments = [tensor.shape if place == by else tensor for place, tensor in enumerate(three)]
    operands = _parts(by, arguments)[0]
    result = apply(by, *operands, *how)
    repeated.remember(key, (*how,), by, operands, how, None)
    return result


def _dual(arguments: Sequence[Any]) -> bool:
    """Whether a tensor has a tangent. Not to be asked under vmap, which has no rule for the question."""
    inside: int = forward_ad._current_level  # -1 outside of all levels
    return inside >= 0 and any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in _tensors(arguments))


def apply(by: int, *arguments: Any) -> Tensor:
    """Call an operator; as in `TRANSFORMED` where torch asks for rules that its custom operators cannot have.

    In eager mode the kernel is called at once, by `_SHORT` where a gradient may be wanted.
    """
    result: Tensor
    if not torch.compiler.is_compiling():
        if torch._C._are_functorch_transforms_active() or _dual(arguments):
            result = TRANSFORMED[by].apply(*arguments)
            return result
        tensors = _tensors(arguments)
        if is_eager(tensors):
            wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
            result = (_SHORT if wanted else KERNELS)[by](*arguments)
            return result
    result = _operator(by, arguments)(*arguments)
    return result


def apply_known(call: Known, first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
    """Call an operator as before, on other tensors of the same sizes and strides."""
    wanted = first.requires_grad or second.requires_grad or (bias is not None and bias.requires_grad)
    if not wanted or not torch.is_grad_enabled():
        return call.run(first, second, bias)
    result: Tensor = _apply_known(first, second, bias, call)
    return result


class _Known(torch.autograd.Function):
    """A call of `apply_known`, with the backward pass of the operators."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, bias: Tensor | None, call: Known) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.call = call
        return call.run(first, second, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        call: Known = ctx.call
        *needed, bias, _ = ctx.needs_input_grad
        needed.insert(call.by, False)
        found = _gradients(call.by, ctx.saved_tensors, call.how, gradient, needed)
        del found[call.by]
        return (*found, _sum_of_positions(gradient) if bias else None, None)


_apply_known: Any = super(torch.autograd.Function, _Known).apply  # It does not search for transforms.


def _gradients(by: int, saved: Sequence[Tensor], how: Sequence[Any], gradient: Tensor, needed: Any) -> list[Any]:
    """Gradients of operands: the gradient takes the place of the result, and S is differentiated by each operand."""
    three = list(saved)
    three.insert(by, gradient)
    return [_derivative(k, three, how) if need else None for k, need in enumerate(needed)]


def _sum_of_positions(gradient: Tensor) -> Tensor:
    """Gradient of the bias."""
    return gradient.sum((0, *range(2, gradient.dim())))


def _backward(by: int) -> Callable[..., tuple[Any, ...]]:
    """Make the backward pass of an operator."""

    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Any, ...]:
        if gradient is None:  # Nothing depends on the result.
            return (None,) * len(ctx.needs_input_grad)
        needed, how, _ = _parts(by, ctx.needs_input_grad)
        found = _gradients(by, ctx.saved_tensors, ctx.how, gradient, needed)
        biases = ctx.needs_input_grad[len(needed) + len(how) :]
        return (*found, *(None for _ in how), *(_sum_of_positions(gradient) if need else None for need in biases))

    return backward


def _save(by: int) -> Callable[..., None]:
    """Make the function that keeps what the backward pass needs."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        operands, ctx.how, _ = _parts(by, inputs)
        ctx.save_for_backward(*_tensors(operands))

    return save


def _jvp(by: int) -> Callable[..., Tensor]:
    """Make the rule of forward mode: S is linear in each operand, so the tangent of one takes its place."""

    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        operands = list(ctx.saved_tensors)
        if by < 2:
            operands.insert(by, ctx.result_size)
        given, _, bias = _parts(by, tangents)
        moved = [(k, tangent) for k, tangent in enumerate(given) if tangent is not None]
        terms = [apply(by, *operands[:k], tangent, *operands[k + 1 :], *ctx.how) for k, tangent in moved]
        if bias is not None:
            terms.append(bias.reshape(-1, *[1] * (len(ctx.result_size) - 2)).expand(ctx.result_size))
        return sum(terms[1:], terms[0])

    return jvp


def _vmap(by: int) -> Callable[..., tuple[Tensor, int]]:
    """Make the rule of vmap: samples become images, or groups of channels where each has filters or a bias of its own.

    Filters are the second argument of all three operators, or stand there for their size.
    """

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
        operands, (*how, groups), bias = _parts(by, arguments)
        samples = info.batch_size
        by_groups = by == 1 or in_dims[1] is not None or (bias is not None and in_dims[-1] is not None)
        axes = [0 if place == 1 else int(by_groups) for place in range(3)]
        joined = [
            argument if place == 1 and not by_groups else _join(argument, in_dims[place], axes[place], samples)
            for place, argument in enumerate(operands)
        ]
        if bias is not None and by_groups:
            bias = _join(bias, in_dims[-1], 0, samples)
        groups *= samples if by_groups else 1
        result = apply(by, *joined, *how, groups, *([] if bias is None else [bias]))
        axis = axes[by] if by < 2 else int(by_groups)
        return result.unflatten(axis, (samples, result.shape[axis] // samples)), axis

    return rule


def _join(argument: Any, dim: int | None, axis: int, samples: int) -> Any:
    """Make one axis of the samples and another; of a size, the size of that axis."""
    if not isinstance(argument, Tensor):
        return [size * samples if place == axis else size for place, size in enumerate(argument)]
    if dim is None:
        apart = argument.unsqueeze(axis).expand(*argument.shape[:axis], samples, *argument.shape[axis:])
    else:
        apart = argument.movedim(dim, axis)
    return apart.flatten(axis, axis + 1)


def _tensors(operands: Sequence[Any]) -> list[Tensor]:
    return [operand for operand in operands if isinstance(operand, Tensor)]


def _is_last(operands: Sequence[Tensor]) -> bool:
    """Whether the result is channels_last: by torch's rule, if an operand is channels_last and not contiguous too."""
    return any(
        t.dim() in LAST and t.is_contiguous(memory_format=LAST[t.dim()]) and not t.is_contiguous() for t in operands
    )


def _empty(by: int) -> Callable[..., Tensor]:
    """Make the function that allocates a result; torch needs no more of an operator when it only traces."""

    def empty(*arguments: Any) -> Tensor:
        given, how, _ = _parts(by, arguments)
        operands = _tensors(given)
        size = given[by] if by < 2 else _y_size(operands[0].shape, operands[1].shape, how)
        like = operands[0]
        format_ = LAST[like.dim()] if _is_last(operands) else torch.contiguous_format
        return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=format_)

    return empty


def y_size(x: Sequence[Any], w: Sequence[Any], how: Sequence[Any]) -> tuple[Any, ...]:
    """Size of y for those of x and w; the number of images may be symbolic, the other sizes are known."""
    layout = LAYOUTS[len(w) - 2][1]
    image, filters = (buffers.channels_last([*map(int, size)], layout) for size in ((1, *x[1:]), w))
    shape = ConvShape.of(image, filters, **_named(how))
    return x[0], shape.oc, *(axis.outputs for axis in shape.axes)


def _y_size(x: Sequence[Any], w: Sequence[Any], how: Sequence[Any]) -> tuple[Any, ...]:
    """The same from a table of the sizes that are known already, which torch.compile would not look into."""
    return x[0], *_known_y_size((*map(int, x[1:]),), (*map(int, w),), *_named(how).values())


@lru_cache(maxsize=1024)
def _known_y_size(x: tuple[int, ...], w: tuple[int, ...], *how: Any) -> tuple[int, ...]:
    return y_size((1, *x), w, how)[1:]


def _run(by: int) -> Callable[..., Tensor]:
    """Make the kernel, which takes tensors in a format of channels last as views, and all others as they are."""
    empty = _empty(by)

    def run(*arguments: Any) -> Tensor:
        given, how, bias = _parts(by, arguments)
        tensors = _tensors(given)
        key, known = repeated.find_operator(by, given, how, bias)
        if known is not None:
            first, second = tensors
            return known.run(first, second, bias)
        function, operands, options = _call(by, arguments)
        out, last = empty(*arguments), _is_last(tensors)
        operands = [_seen(operand, last) for operand in operands]
        layout = LAYOUTS[out.dim() - 2][0 if last else 1]
        with torch.no_grad():  # autograd works one level above and records what it needs
            function(*operands, **options, layout=layout, precision=_precision(out), out=_seen(out, last))
        repeated.note(key, by, given, how, bias, out)
        return out

    return run


def _call(by: int, arguments: Sequence[Any]) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    """The operator of `operators`, its operands, and its options but for the layout."""
    operands, how, bias = _parts(by, arguments)
    options, axes = _named(how), len(how[0])
    if bias is not None:
        options["bias"] = bias
    if bias is None or by == 2:
        return getattr(operators, DERIVATIVES[by][0].format(axes)), operands, options
    size, w, dy = operands  # with a bias, the gradient of the input is the transposed convolution
    maps = size[2:], dy.shape[2:], w.shape[2:]
    options["output_padding"] = operators.added_size(*maps, *(options[k] for k in ("stride", "padding", "dilation")))
    return getattr(operators, f"conv_transpose{axes}d"), (dy, w), options


def _precision(out: Tensor) -> Precision:
    """As torch's own convolutions multiply: on CUDA, TF32 may take the place of float32."""
    if not out.is_cuda or out.dtype != torch.float32:
        return "float32"
    cudnn: Any = torch.backends.cudnn
    new = getattr(cudnn, "conv", None)  # Before torch 2.9 there is allow_tf32 alone.
    allowed = cudnn.allow_tf32 if new is None else new.fp32_precision == "tf32"
    return "tf32" if allowed else "float32"


def _named(how: Sequence[Any]) -> dict[str, Any]:
    stride, padding, dilation, groups = how
    return dict(stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation), groups=groups)


def _seen(argument: Any, last: bool) -> Any:
    """A tensor, or a size, in the order of axes of the layout that the operator is given."""
    size = argument.shape if isinstance(argument, Tensor) else argument
    own = LAYOUTS[len(size) - 2][1]
    if isinstance(argument, Tensor):
        return argument.permute(buffers.TO_LAST[own]) if last else argument
    return buffers.channels_last(size, own) if last else tuple(size)


def _define(by: int, axes: int) -> None:
    name, operands = DERIVATIVES[by]
    schema = f"({operands}, {HOW}{BIAS if by != 1 else ''}) -> Tensor"
    operator = torch.library.custom_op(f"cks::{name.format(axes)}", KERNELS[by], mutates_args=(), schema=schema)
    operator.register_fake(_empty(by))
    operator.register_autograd(_backward(by), setup_context=_save(by))
    operator.register_vmap(_vmap(by))


def _transformed(by: int) -> Any:
    """Make the operator for torch.func and for forward mode: a custom operator has no rule for a tangent."""

    def forward(*arguments: Any) -> Tensor:
        eager = is_eager(_tensors(arguments))
        result: Tensor = (KERNELS[by] if eager else _operator(by, arguments))(*arguments)
        return result

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(by)(ctx, inputs, output)
        ctx.result_size = tuple(output.shape)
        ctx.save_for_forward(*_tensors(_parts(by, inputs)[0]))
        ctx.set_materialize_grads(False)  # the tangent of a constant is None

    rules: dict[str, Callable[..., Any]] = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": _backward(by),
        "jvp": _jvp(by),
        "vmap": _vmap(by),
    }
    return type("Transformed", (torch.autograd.Function,), {name: staticmethod(rule) for name, rule in rules.items()})


KERNELS = tuple(map(_run, range(len(DERIVATIVES))))
"""What computes the operators, for any number of axes."""
for _by in range(len(DERIVATIVES)):
    for _axes in LAYOUTS:
        _define(_by, _axes)
TRANSFORMED = tuple(map(_transformed, range(len(DERIVATIVES))))
"""The operators once more, for any number of axes, with rules for forward mode and torch.func."""
# The same without torch's search for transforms, which takes longer than a tiny layer.
_SHORT = tuple(super(torch.autograd.Function, kind).apply for kind in TRANSFORMED)
