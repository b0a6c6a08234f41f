"""Convolutions and transposed ones as in `torch.nn.functional`, over one, two and three axes: one code for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import sub
from typing import Any

import torch
from torch import Tensor, nn

from .. import buffers, checks
from ..arrays.call import axis_names
from ..arrays.readings import Reading
from ..buffers import LAYOUTS
from ..checks import Ints, Padding
from ..operators.fitting import W, X, transposed_size
from . import repeated
from .operators import apply, apply_known, y_size

INSTEAD = "use torch.export, or call cks_numba.torch.revert(model) first"
"""What to do where TorchScript cannot have our operators."""


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv1d`, computed by C-K-S, forward and backward.

    Parameters
    ----------
    input : Tensor (N, IC, IW), or (IC, IW) for one signal
    weight : Tensor (OC, IC/groups, FW)
    bias : Tensor (OC,), optional
    stride, dilation : int
    padding : int, (left, right), "same" or "valid"
    groups : int

    Returns
    -------
    Tensor (N, OC, OW), or (OC, OW)

    Raises
    ------
    ValueError, TypeError
        As `conv2d`.

    Examples
    --------
    >>> import torch
    >>> conv1d(torch.ones(1, 2, 8), torch.ones(4, 2, 3), padding=1)[0, 0].tolist()
    [4.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 4.0]
    """
    return _convolution(conv1d, 1, input, weight, bias, stride, padding, dilation, groups)


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
    return _convolution(conv2d, 2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv3d`, computed by C-K-S, forward and backward.

    Parameters
    ----------
    input : Tensor (N, IC, ID, IH, IW), or (IC, ID, IH, IW) for one volume
    weight : Tensor (OC, IC/groups, FD, FH, FW)
    bias : Tensor (OC,), optional
    stride, dilation : int or (int, int, int)
    padding : int, three ints, three pairs, six ints, "same" or "valid"
    groups : int

    Returns
    -------
    Tensor (N, OC, OD, OH, OW), or (OC, OD, OH, OW)
        channels_last_3d where `input` or `weight` is.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`.

    Examples
    --------
    >>> import torch
    >>> y = conv3d(torch.ones(1, 2, 4, 4, 4), torch.ones(8, 2, 3, 3, 3), padding=1)
    >>> y.shape, y[0, 0, 0, 0].tolist()
    (torch.Size([1, 8, 4, 4, 4]), [16.0, 24.0, 24.0, 16.0])
    """
    return _convolution(conv3d, 3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose1d`, computed by C-K-S, forward and backward.

    Parameters
    ----------
    input : Tensor (N, IN, W), or (IN, W) for one signal
    weight : Tensor (IN, OUT/groups, FW)
    bias : Tensor (OUT,), optional
    stride, padding, dilation, groups
        As in `conv1d`; the padding crops the result.
    output_padding : int
        Positions added at the end; smaller than stride or dilation.

    Returns
    -------
    Tensor (N, OUT, OW), or (OUT, OW)

    Raises
    ------
    ValueError, TypeError
        For a wrong argument.

    Examples
    --------
    >>> import torch
    >>> conv_transpose1d(torch.ones(1, 3, 4), torch.ones(3, 5, 4), stride=2, padding=1).shape
    torch.Size([1, 5, 8])
    """
    how = stride, padding, output_padding, groups, dilation
    return _transposed(conv_transpose1d, 1, input, weight, bias, *how)


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
    how = stride, padding, output_padding, groups, dilation
    return _transposed(conv_transpose2d, 2, input, weight, bias, *how)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose3d`, computed by C-K-S, forward and backward.

    Parameters
    ----------
    input : Tensor (N, IN, D, H, W), or (IN, D, H, W) for one volume
    weight : Tensor (IN, OUT/groups, FD, FH, FW)
    bias : Tensor (OUT,), optional
    stride, padding, dilation, groups
        As in `conv3d`; the padding crops the result.
    output_padding : int or (int, int, int)
        Positions added at the end of each axis; smaller than stride or dilation.

    Returns
    -------
    Tensor (N, OUT, OD, OH, OW), or (OUT, OD, OH, OW)
        channels_last_3d where `input` or `weight` is.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument.

    Examples
    --------
    >>> import torch
    >>> conv_transpose3d(torch.ones(1, 3, 2, 2, 2), torch.ones(3, 5, 4, 4, 4), stride=2, padding=1).shape
    torch.Size([1, 5, 4, 4, 4])
    """
    how = stride, padding, output_padding, groups, dilation
    return _transposed(conv_transpose3d, 3, input, weight, bias, *how)


# --- what they share -------------------------------------------------------------------------------
AXES = {axes: (axis_names(X, first), axis_names(W, first)) for axes, (_, first) in LAYOUTS.items()}
"""Axes of input and weight in messages, for each number of spatial axes."""

TRANSPOSED_AXES = {
    axes: (axis_names("N * IN", first), axis_names("IN F* OUT/groups", first)) for axes, (_, first) in LAYOUTS.items()
}
"""The same for a transposed convolution."""


def _convolution(
    function: Callable[..., Tensor],
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
) -> Tensor:
    """Check the arguments of a convolution and compute it; `function` is the public one."""
    if torch.overrides.has_torch_function((input, weight, bias)):  # torch.fx gives a proxy, for example
        options: Any = dict(bias=bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
        y: Tensor = torch.overrides.handle_torch_function(function, (input, weight, bias), input, weight, **options)
        return y
    given = stride, padding, dilation, groups
    key, known = repeated.find_call(function, given, input, weight, bias)
    if known is not None:
        return apply_known(known, input, weight, bias)
    input, weight, bias = _checked(input, weight, bias, *AXES[axes])
    unbatched = input.dim() == axes + 1
    x = input[None] if unbatched else input
    how = _how(weight, stride, padding, dilation, groups)
    if x.shape[1] != weight.shape[1] * how[3]:
        _refuse(_channels, x, weight, unbatched, how[3])
    _check_bias(bias, weight.shape[0])
    y = _written(x, weight, bias, how) if torch.onnx.is_in_onnx_export() else apply(2, x, weight, *how, bias)
    if not unbatched:
        repeated.remember(key, given, 2, (x, weight), how, bias)
    return y[0] if unbatched else y


def _transposed(
    function: Callable[..., Tensor],
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Padding,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> Tensor:
    """Check the arguments of a transposed convolution and compute it; `function` is the public one."""
    if torch.overrides.has_torch_function((input, weight, bias)):
        options: Any = dict(bias=bias, stride=stride, padding=padding, output_padding=output_padding, groups=groups)
        options["dilation"] = dilation
        x: Tensor = torch.overrides.handle_torch_function(function, (input, weight, bias), input, weight, **options)
        return x
    given = stride, padding, output_padding, groups, dilation
    key, known = repeated.find_call(function, given, weight, input, bias)
    if known is not None:
        return apply_known(known, weight, input, bias)
    input, weight, bias = _checked(input, weight, bias, *TRANSPOSED_AXES[axes])
    jit: Any = torch.jit  # The types of torch.jit do not list all its functions.
    exports = torch.onnx.is_in_onnx_export()
    if jit.is_tracing() and not exports:  # A trace has no place for a size that may change.
        raise NotImplementedError(f"torch.jit.trace does not record conv_transpose{axes}d: {INSTEAD}")
    unbatched = input.dim() == axes + 1
    y = input[None] if unbatched else input
    how = _how(weight, stride, padding, dilation, groups)
    if y.shape[1] != weight.shape[0] or y.shape[1] % how[3]:
        _refuse(_transposed_channels, y, weight, unbatched, how[3])
    strides, pads, dilations, _ = how
    mapped = transposed_size(y.shape[2:], weight.shape[2:], strides, pads, dilations, output_padding)
    size = (y.shape[0], weight.shape[1] * how[3], *mapped)
    _check_bias(bias, size[1])
    added = checks.integers("output_padding", output_padding, 0, axes)
    if exports:
        x = _written_transposed(y, weight, bias, how, added)
    else:
        reaching = _reaching(y, size, weight, how, added)
        x = apply(0, size, weight, reaching, *how, bias)
        if reaching is input:
            repeated.remember(key, given, 0, (size, weight, input), how, bias)
    return x[0] if unbatched else x


def _checked(
    input: Tensor, weight: Tensor, bias: Tensor | None, axes: str, filter_axes: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors, cast as autocast does where it is on."""
    for name, given in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(given, Tensor) and (given is not None or name != "bias"):
            raise TypeError(
                f"{name} must be a PyTorch tensor, got {type(given).__name__}: take torch.as_tensor({name})"
            )
        if given is not None and given.is_nested:
            raise TypeError(f"{name} must be a dense tensor, got a nested one: take {name}.to_padded_tensor(0)")
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
    layout = LAYOUTS[weight.dim() - 2][1]
    shapes = {name: buffers.channels_last(tuple(tensor.shape), layout) for name, tensor in named.items()}
    try:
        check(*shapes.values(), groups)
    except ValueError as error:
        meant = Reading(layout, shapes, (groups,), "permute", unbatched, fixed=True)
        raise ValueError(f"{error}{meant.way_out(check)}") from None


def _channels(input: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    checks.channels("input", input[-1], weight[-1], groups, "weight")


def _transposed_channels(input: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    if input[-1] != weight[0]:
        raise ValueError(
            f"channels do not match: input has {input[-1]} channels, weight is for {weight[0]} (its first axis)"
        )
    checks.divides(groups, "input", input[-1])


def _how(
    weight: Tensor, stride: Ints, padding: Padding, dilation: Ints, groups: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Stride, padding, dilation and groups in the one form that the operators of torch take."""
    axes = weight.dim() - 2
    strides, dilations = checks.integers("stride", stride, 1, axes), checks.integers("dilation", dilation, 1, axes)
    pads = checks.paddings(padding, tuple(weight.shape[2:]), strides, dilations)
    return strides, tuple(side for pad in pads for side in pad), dilations, checks.integer("groups", groups, 1)


def _written(x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...]) -> Tensor:
    """The convolution as torch's own operator, for an ONNX file; that operator pads both ends alike."""
    stride, padding, dilation, groups = how
    before, after = padding[::2], padding[1::2]
    if before != after:
        x, before = nn.functional.pad(x, _from_last(before, after)), (0,) * len(stride)
    y: Tensor = getattr(nn.functional, f"conv{len(stride)}d")(x, weight, bias, stride, before, dilation, groups)
    return y


def _written_transposed(
    y: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...], added: tuple[int, ...]
) -> Tensor:
    """The transposed convolution as torch's own operator, for an ONNX file; that operator crops both ends alike."""
    stride, padding, dilation, groups = how
    before, after = padding[::2], padding[1::2]
    both = tuple(map(min, before, after))
    function = getattr(nn.functional, f"conv_transpose{len(stride)}d")
    x: Tensor = function(y, weight, bias, stride, both, added, groups, dilation)
    for axis, (first, last) in enumerate(zip(map(sub, before, both), map(sub, after, both), strict=True), 2):
        x = x.narrow(axis, first, x.shape[axis] - first - last) if first or last else x
    return x


def _from_last(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Padding before and after each axis as torch's `pad` takes it, which begins with the last axis."""
    return [side for pair in reversed([*zip(before, after, strict=True)]) for side in pair]


def _reaching(y: Tensor, size: tuple[Any, ...], weight: Tensor, how: tuple[Any, ...], added: tuple[int, ...]) -> Tensor:
    """Pad y to the size of the output of a convolution whose input has this size.

    Nothing is missing unless output_padding is at least the stride; then a few positions of zeros are added at the end.
    """
    if all(more < step for more, step in zip(added, how[0], strict=True)):
        return y
    wanted = y_size(size, weight.shape, how)
    missing = [more - there for more, there in zip(wanted[2:], y.shape[2:], strict=True)]
    return nn.functional.pad(y, _from_last([0] * len(missing), missing))


def _check_bias(bias: Tensor | None, channels: int) -> None:
    if bias is not None:
        checks.bias(tuple(bias.shape), channels)
