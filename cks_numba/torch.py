"""The operators in PyTorch: functions and layers in torch's own order and names, with gradients of every order.

Write S(x, w, dy) for the sum of x * w * dy over every real product of a layer. It is linear in each of the three,
and each operator is its derivative with respect to one of them (`DERIVATIVES`). So the gradients of an operator are
the other two operators, and their gradients again: one rule, `_backward`, serves all, to any order.

Tensors may be contiguous or channels_last, in host memory or on a GPU; neither needs a copy on the CPU. As in torch,
the result is channels_last where an operand is. Tensors are float16, bfloat16, float32 or float64, and so is the
result; sums of 16 bits are made in float32. Autocast casts the tensors as it does for torch's own convolutions. On
CUDA, float32 is multiplied as TF32 where `torch.backends.cudnn` lets torch's own do so (`allow_tf32`, which is torch's
default). A batch may change its size under torch.compile; a new size of the map compiles anew, because it has another
plan. The transforms of torch.func and forward-mode differentiation work too, in any order: the tangent of an operator
is the operator itself, and a batch of `vmap` is a batch of images, or of groups where every sample has its own filter.

Needs PyTorch: ``pip install 'cks-numba[torch]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import buffers, checks, operators
from .arrays.readings import Reading
from .buffers import Layout
from .checks import Ints, Padding, Precision
from .geometry import ConvShape
from .models import pytorch
from .models.found import THRESHOLD, Found
from .models.text import text

try:
    import torch
    from torch import Tensor, fx, nn
    from torch.autograd import forward_ad
except ModuleNotFoundError as _missing:
    raise ImportError("cks_numba.torch needs PyTorch: pip install 'cks-numba[torch]'") from _missing

__all__ = ["CKSConv2d", "CKSConvTranspose2d", "conv2d", "conv_transpose2d", "convert", "revert"]

# --- three operators, each other's gradients ------------------------------------------------------
DERIVATIVES = (
    ("conv2d_input", "SymInt[] input_size, Tensor w, Tensor dy"),
    ("conv2d_weight", "Tensor x, SymInt[] weight_size, Tensor dy"),
    ("conv2d", "Tensor x, Tensor w"),
)
"""The derivatives of S with respect to x, w and dy, each with its arguments.

An operator takes the other two tensors, and the size of its result where they leave it open.
"""
HOW = "int[] stride, int[] padding, int[] dilation, int groups"
"""Arguments that all three operators share; the padding is top, bottom, left, right."""

BIAS = ", Tensor? bias=None"
"""The last argument of the two whose result is a map: added before the sum is rounded."""


def _parts(by: int, arguments: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Tensor | None]:
    """The operands, stride to groups, and the bias of an operator's arguments."""
    count = 1 + DERIVATIVES[by][1].count(",")
    bias = arguments[count + 4] if len(arguments) > count + 4 else None
    return arguments[:count], arguments[count : count + 4], bias


def _derivative(by: int, three: Sequence[Tensor], how: Sequence[Any]) -> Tensor:
    """Derivative of S(x, w, dy) with respect to one of the three, of which only the size is used."""
    arguments = [tensor.shape if place == by else tensor for place, tensor in enumerate(three)]
    return _apply(by, *_parts(by, arguments)[0], *how)


def _apply(by: int, *arguments: Any) -> Tensor:
    """Call an operator; with `_Transformed` where torch asks for rules that its custom operators cannot have."""
    tensors = _tensors(arguments)
    dual = any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    if not torch.compiler.is_compiling() and (dual or torch._C._are_functorch_transforms_active()):
        transformed: Tensor = TRANSFORMED[by].apply(*arguments)
        return transformed
    result: Tensor = getattr(torch.ops.cks, DERIVATIVES[by][0])(*arguments)
    return result


def _backward(by: int) -> Callable[..., tuple[Any, ...]]:
    """Make the backward pass: the gradient takes the place of the result, and S is differentiated by each operand."""

    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        three = list(ctx.saved_tensors)
        three.insert(by, gradient)
        needed, how, _ = _parts(by, ctx.needs_input_grad)
        found = [_derivative(k, three, ctx.how) if need else None for k, need in enumerate(needed)]
        by_bias = [gradient.sum((0, 2, 3)) if need else None for need in ctx.needs_input_grad[len(needed) + len(how) :]]
        return (*found, *(None for _ in how), *by_bias)

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
        terms = [_apply(by, *operands[:k], tangent, *operands[k + 1 :], *ctx.how) for k, tangent in moved]
        terms += [] if bias is None else [bias[:, None, None].expand(ctx.result_size)]
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
        result = _apply(by, *joined, *how, groups, *([] if bias is None else [bias]))
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
    return any(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in operands)


def _empty(by: int) -> Callable[..., Tensor]:
    """Make the function that allocates a result; torch needs no more of an operator when it only traces."""

    def empty(*arguments: Any) -> Tensor:
        given, how, _ = _parts(by, arguments)
        operands = _tensors(given)
        size = given[by] if by < 2 else _y_size(operands[0], operands[1], how)
        last = torch.channels_last if _is_last(operands) else torch.contiguous_format
        like = operands[0]
        return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=last)

    return empty


def _y_size(x: Tensor, w: Tensor, how: Sequence[Any]) -> tuple[Any, ...]:
    """Size of y; the number of images may be symbolic, the other sizes are known."""
    _, ic, ih, iw = x.shape
    oc, _, fh, fw = map(int, w.shape)
    sizes = dict(n=1, ih=int(ih), iw=int(iw), ic=int(ic), oc=oc, fh=fh, fw=fw)
    shape = ConvShape(**sizes, **_named(how))
    return x.shape[0], oc, shape.oh, shape.ow


def _run(by: int) -> Callable[..., Tensor]:
    """Make the kernel, which takes channels_last tensors as NHWC views, and all others as they are."""
    empty = _empty(by)

    def run(*arguments: Any) -> Tensor:
        function, operands, options = _call(by, arguments)
        out, last = empty(*arguments), _is_last(_tensors(operands))
        operands = [_seen(operand, last) for operand in operands]
        layout: Layout = "NHWC" if last else "NCHW"
        with torch.no_grad():  # autograd works one level above and records what it needs
            function(*operands, **options, layout=layout, precision=_precision(out), out=_seen(out, last))
        return out

    return run


def _call(by: int, arguments: Sequence[Any]) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    """The operator of `operators`, its operands, and its options but for the layout."""
    operands, how, bias = _parts(by, arguments)
    options = _named(how)
    if bias is None:
        return getattr(operators, DERIVATIVES[by][0]), operands, options
    options["bias"] = bias
    if by == 2:
        return operators.conv2d, operands, options
    size, w, dy = operands  # with a bias, conv2d_input is the transposed convolution
    maps = size[2:], dy.shape[2:], w.shape[2:]
    options["output_padding"] = operators.added_size(*maps, *(options[k] for k in ("stride", "padding", "dilation")))
    return operators.conv_transpose2d, (dy, w), options


def _precision(out: Tensor) -> Precision:
    """As torch's own convolutions multiply: on CUDA, TF32 may take the place of float32."""
    if not out.is_cuda or out.dtype != torch.float32:
        return "float32"
    cudnn: Any = torch.backends.cudnn
    new = getattr(cudnn, "conv", None)  # has no allow_tf32 of its own; torch before 2.9 has that alone
    allowed = cudnn.allow_tf32 if new is None else new.fp32_precision == "tf32"
    return "tf32" if allowed else "float32"


def _named(how: Sequence[Any]) -> dict[str, Any]:
    stride, padding, dilation, groups = how
    return dict(stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation), groups=groups)


def _seen(argument: Any, last: bool) -> Any:
    """A tensor, or a size, in the order of axes of the layout that the operator is given."""
    if isinstance(argument, Tensor):
        return argument.permute(buffers.TO_LAST["NCHW"]) if last else argument
    return buffers.channels_last(tuple(argument), "NCHW") if last else tuple(argument)


def _define(by: int) -> None:
    name, operands = DERIVATIVES[by]
    schema = f"({operands}, {HOW}{BIAS if name != 'conv2d_weight' else ''}) -> Tensor"
    operator = torch.library.custom_op(f"cks::{name}", _run(by), mutates_args=(), schema=schema)
    operator.register_fake(_empty(by))
    operator.register_autograd(_backward(by), setup_context=_save(by))
    operator.register_vmap(_vmap(by))


def _transformed(by: int) -> Any:
    """Make the operator for torch.func and for forward mode: a custom operator has no rule for a tangent."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(by)(ctx, inputs, output)
        ctx.result_size = tuple(output.shape)
        ctx.save_for_forward(*_tensors(_parts(by, inputs)[0]))
        ctx.set_materialize_grads(False)  # the tangent of a constant is None

    rules = {
        "forward": getattr(torch.ops.cks, DERIVATIVES[by][0]),
        "setup_context": setup_context,
        "backward": _backward(by),
        "jvp": _jvp(by),
        "vmap": _vmap(by),
    }
    return type("Transformed", (torch.autograd.Function,), {name: staticmethod(rule) for name, rule in rules.items()})


for _by in range(len(DERIVATIVES)):
    _define(_by)
TRANSFORMED = tuple(map(_transformed, range(len(DERIVATIVES))))
"""The three operators once more, with rules for forward mode and torch.func."""


INSTEAD = "use torch.export, or call cks_numba.torch.revert(model) first"
"""What to do where TorchScript cannot have our operators."""


# --- functions -------------------------------------------------------------------------------------
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, computed by C-K-S, forward and backward.

    Parameters
    ----------
    input : Tensor (N, IC, IH, IW), or (IC, IH, IW) for one image
        float16, bfloat16, float32 or float64; under autocast, all but float64 become its dtype.
    weight : Tensor (OC, IC/groups, FH, FW)
    bias : Tensor (OC,), optional
    stride, dilation : int or (int, int)
    padding : int, (int, int), ((top, bottom), (left, right)), four ints, "same" or "valid"
    groups : int

    Returns
    -------
    Tensor (N, OC, OH, OW), or (OC, OH, OW)
        channels_last where `input` or `weight` is.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument. Sizes are named as in `cks_numba.ConvShape`.

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(1, 3, 4, 4, requires_grad=True)
    >>> y = conv2d(x, torch.ones(8, 3, 3, 3), padding=1)
    >>> y[0, 0, 0].tolist()
    [12.0, 18.0, 18.0, 12.0]
    >>> torch.autograd.grad(y.sum(), x)[0][0, 0, 0].tolist()
    [32.0, 48.0, 48.0, 32.0]
    """
    if torch.overrides.has_torch_function((input, weight, bias)):  # torch.fx gives a proxy, for example
        options: Any = dict(bias=bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
        y: Tensor = torch.overrides.handle_torch_function(conv2d, (input, weight, bias), input, weight, **options)
        return y
    input, weight, bias = _checked(input, weight, bias, "(N, IC, IH, IW)", "(OC, IC/groups, FH, FW)")
    x = input if input.dim() == 4 else input[None]
    how = _how(weight, stride, padding, dilation, groups)
    if x.shape[1] != weight.shape[1] * how[3]:
        _refuse(_channels, x, weight, input.dim() == 3, how[3])
    _check_bias(bias, weight.shape[0])
    y = _apply(2, x, weight, *how, bias)
    return y[0] if input.dim() == 3 else y


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d`, computed by C-K-S, forward and backward.

    Parameters
    ----------
    input : Tensor (N, IN, H, W), or (IN, H, W) for one image
        float16, bfloat16, float32 or float64; under autocast, all but float64 become its dtype.
    weight : Tensor (IN, OUT/groups, FH, FW)
    bias : Tensor (OUT,), optional
    stride, padding, dilation, groups
        As in `conv2d`; the padding crops the result.
    output_padding : int or (int, int)
        Rows and columns added at the end; smaller than stride or dilation.

    Returns
    -------
    Tensor (N, OUT, OH, OW), or (OUT, OH, OW)
        channels_last where `input` or `weight` is.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument.

    Examples
    --------
    >>> import torch
    >>> x, w = torch.ones(1, 1, 2, 2), torch.ones(1, 5, 3, 3)
    >>> conv_transpose2d(x, w, stride=2, padding=1, output_padding=1).shape
    torch.Size([1, 5, 4, 4])
    """
    if torch.overrides.has_torch_function((input, weight, bias)):
        options: Any = dict(bias=bias, stride=stride, padding=padding, output_padding=output_padding, groups=groups)
        options["dilation"] = dilation
        given = (input, weight, bias)
        x: Tensor = torch.overrides.handle_torch_function(conv_transpose2d, given, input, weight, **options)
        return x
    input, weight, bias = _checked(input, weight, bias, "(N, IN, H, W)", "(IN, OUT/groups, FH, FW)")
    jit: Any = torch.jit  # The types of torch.jit do not list all its functions.
    if jit.is_tracing():  # A trace has no place for a size that may change.
        raise NotImplementedError(f"torch.jit.trace does not record conv_transpose2d: {INSTEAD}")
    y = input if input.dim() == 4 else input[None]
    how = _how(weight, stride, padding, dilation, groups)
    if y.shape[1] != weight.shape[0] or y.shape[1] % how[3]:
        _refuse(_transposed_channels, y, weight, input.dim() == 3, how[3])
    maps = y.shape[2:], weight.shape[2:]
    strides, pads, dilations, _ = how
    mapped = operators.transposed_size(*maps, strides, pads, dilations, output_padding)
    size = (y.shape[0], weight.shape[1] * how[3], *mapped)
    _check_bias(bias, size[1])
    x = _apply(0, size, weight, _reaching(y, size, weight, how), *how, bias)
    return x[0] if input.dim() == 3 else x


def _checked(
    input: Tensor, weight: Tensor, bias: Tensor | None, axes: str, filter_axes: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors, cast as autocast does where it is on."""
    for name, given in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(given, Tensor) and (given is not None or name != "bias"):
            raise TypeError(
                f"{name} must be a PyTorch tensor, got {type(given).__name__}: take torch.as_tensor({name})"
            )
    checks.rank("input", tuple(input.shape), axes, unbatched=True)
    checks.rank("weight", tuple(weight.shape), filter_axes)
    kind = input.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        input, weight = _autocast(input, dtype), _autocast(weight, dtype)
        bias = None if bias is None else _autocast(bias, dtype)
    named = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    checks.dtypes({name: buffers.dtype_name(tensor) for name, tensor in named.items()}, ".float()")
    return input, weight, bias


def _autocast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as autocast gives it to torch's own convolutions: in its dtype of 16 bits, save for float64."""
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor


def _refuse(check: Callable[..., None], input: Tensor, weight: Tensor, unbatched: bool, groups: int) -> None:
    """Raise the error of a check of channels, which also says what else the caller may have meant."""
    named = {"input": input, "weight": weight}
    shapes = {name: buffers.channels_last(tuple(tensor.shape), "NCHW") for name, tensor in named.items()}
    try:
        check(*shapes.values(), groups)
    except ValueError as error:
        meant = Reading("NCHW", shapes, (groups,), "permute", unbatched, fixed=True)
        raise ValueError(f"{error}{meant.way_out(check)}") from None


def _channels(input: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    checks.channels("input", input[3], weight[3], groups, "weight")


def _transposed_channels(input: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    if input[3] != weight[0]:
        raise ValueError(
            f"channels do not match: input has {input[3]} channels, weight is for {weight[0]} (its first axis)"
        )
    checks.divides(groups, "input", input[3])


def _how(
    weight: Tensor, stride: Ints, padding: Padding, dilation: Ints, groups: int
) -> tuple[tuple[int, ...], tuple[int, int, int, int], tuple[int, ...], int]:
    """Stride, padding, dilation and groups in the one form that the operators of torch take."""
    strides, dilations = checks.integers("stride", stride, 1, 2), checks.integers("dilation", dilation, 1, 2)
    rows, columns = checks.paddings(padding, (weight.shape[2], weight.shape[3]), strides, dilations)
    return strides, (*rows, *columns), dilations, checks.integer("groups", groups, 1)


def _reaching(y: Tensor, size: tuple[Any, ...], weight: Tensor, how: tuple[Any, ...]) -> Tensor:
    """Pad y to the rows and columns of the output of a convolution whose input has this size.

    Nothing is missing unless output_padding is at least the stride; then a few rows or columns of zeros are added.
    """
    wanted = _y_size(torch.empty(size, device="meta"), weight, how)
    below, right = wanted[2] - y.shape[2], wanted[3] - y.shape[3]
    return nn.functional.pad(y, (0, right, 0, below)) if below or right else y


def _check_bias(bias: Tensor | None, channels: int) -> None:
    if bias is not None:
        checks.bias(tuple(bias.shape), channels)


def _leaf(layer: nn.Module, *arguments: Any) -> Any:
    """Let torch.fx call the layer as one node, as it does with layers of torch.nn."""
    tracer = arguments[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), arguments, {})


def _is_traced(layer: nn.Module, input: Any) -> bool:
    """Whether torch.fx traces a model of which the layer is a part."""
    tracer: Any = input.tracer if isinstance(input, fx.Proxy) else None
    return tracer is not None and tracer.root is not layer


def _not_scripted(layer: nn.Module) -> nn.Module:
    """Refuse torch.jit.script, which asks for the module to compile."""
    raise TypeError(f"torch.jit.script does not compile {type(layer).__name__}: {INSTEAD}")


# --- layers ----------------------------------------------------------------------------------------
class CKSConv2d(nn.Conv2d):
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

    skips_zeros = True
    __prepare_scriptable__ = _not_scripted

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = _leaf(self, input) if _is_traced(self, input) else super().forward(input)
        return result

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.onnx.is_in_onnx_export():  # the file has a Conv
            result: Tensor = super()._conv_forward(input, weight, bias)
            return result
        how: tuple[Any, Any, Any] = self.stride, self.padding, self.dilation
        stride, padding, dilation = how
        if self.padding_mode != "zeros":
            around = self._reversed_padding_repeated_twice
            input, padding = nn.functional.pad(input, around, mode=self.padding_mode), 0
        return conv2d(input, weight, bias, stride, padding, dilation, self.groups)


class CKSConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` that never multiplies an added zero: same arguments, parameters and state dict.

    Examples
    --------
    >>> import torch
    >>> CKSConvTranspose2d(3, 8, 4, stride=2, padding=1)(torch.randn(2, 3, 6, 6)).shape
    torch.Size([2, 8, 12, 12])
    """

    skips_zeros = True
    __prepare_scriptable__ = _not_scripted

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the layer; `output_size` chooses one of the sizes that the stride leaves open."""
        if _is_traced(self, input):
            result: Tensor = _leaf(self, input, output_size)
            return result
        if torch.onnx.is_in_onnx_export():  # the file has a ConvTranspose
            return super().forward(input, output_size)
        how: tuple[Any, Any, Any, Any] = self.stride, self.padding, self.kernel_size, self.dilation
        stride, padding, kernel_size, dilation = how
        added: Any = self._output_padding(input, output_size, stride, padding, kernel_size, 2, dilation)
        return conv_transpose2d(input, self.weight, self.bias, stride, padding, added, self.groups, dilation)


# --- a whole model ---------------------------------------------------------------------------------
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
    model: nn.Module, input_size: Any, threshold: float = THRESHOLD, train: bool = True
) -> tuple[nn.Module, Report]:
    """Let the layers of a model skip zeros where that pays according to their plans.

    A layer is swapped if its part of a training step the regular way takes at least `threshold` times the useful
    multiply-adds. Parameters, hooks, state dict and everything else of the model stay the same objects.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. Its `Conv2d` and `ConvTranspose2d` are swapped, subclasses of them are not.
    input_size : tensor, size, or a tuple, list or dict of them
        The input of one forward pass, which finds the size of every map; see `cks_numba.models.pytorch.of_torch`.
    threshold : float
        Factor from which a layer is swapped; 1 swaps every layer that can be.
    train : bool
        False judges the forward pass alone.

    Returns
    -------
    model : torch.nn.Module
    report : Report

    Raises
    ------
    ValueError, TypeError
        If the model does not take the input, or an argument is wrong.

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
    if not threshold >= 1:
        raise ValueError(f"threshold must be at least 1, got {threshold}")
    report = Report(pytorch.of_torch(model, input_size, train), threshold)
    for name in report.swapped:
        layer = model.get_submodule("" if name == pytorch.WHOLE else name)
        # the layer stays the same object, so its hooks and all references to it stay valid
        layer.__class__ = CKSConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else CKSConv2d
    return model, report


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
    plain: dict[type[nn.Module], Any] = {CKSConv2d: nn.Conv2d, CKSConvTranspose2d: nn.ConvTranspose2d}
    for layer in model.modules():
        layer.__class__ = plain.get(type(layer), type(layer))
    return model
