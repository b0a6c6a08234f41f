"""The public operators: conv2d, conv2d_input, conv_transpose2d, conv2d_weight.

Each is three steps: check everything, allocate, dispatch to a backend.

Names and meaning are those of ``torch.nn.functional`` and ``torch.nn.grad``; what follows the arrays
is keyword-only. The arrays may be NumPy arrays, PyTorch tensors, or GPU arrays of Numba, CuPy or
PyTorch, all of one kind; the result is of that kind too. Any other array in host memory with DLPack (JAX) is read
in place, and the result is handed to its own library. Any other array with the CUDA array interface gives
Numba device arrays. `out` may be of any kind that can be written to; JAX arrays cannot. All have one dtype: float16,
bfloat16, float32 or float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial, wraps
from inspect import getfullargspec
from typing import Any, TypeVar, cast

from . import backends, checks
from .arrays.call import Call, Operand
from .backends import Backend
from .buffers import ArrayT, Layout, channels_last
from .checks import IntPair, Padding, Precision
from .geometry import Axis, ConvShape

X, W, Y = "N IH IW IC", "OC FH FW IC/groups", "N OH OW OC"  # axes of the arrays, in NHWC order
Shape = tuple[int, ...]  # in the order NHWC or OHWI
Operator = TypeVar("Operator", bound=Callable[..., Any])
ToShape = TypeVar("ToShape", bound=Callable[..., ConvShape])


def _options_by_name(operator: Operator) -> Operator:
    """Make an operator name the keywords, if it is given an option by position."""
    names = getfullargspec(operator).args

    @wraps(operator)
    def call(*arrays: Any, **options: Any) -> Any:
        if len(arrays) >= len(names):
            checks.by_position(operator.__name__, names, arrays)
        return operator(*arrays, **options)

    return cast(Operator, call)


@_options_by_name
def conv2d(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None = None,
    *,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    layout: Layout = "NHWC",
    backend: Backend = "auto",
    precision: Precision = "float32",
    out: ArrayT | None = None,
    stream: Any = None,
) -> ArrayT:
    """Convolution (cross-correlation), ConvV2 in the paper: the padding around x is never multiplied.

    ``y[n, oh, ow, oc] = sum over fh, fw, ic of x[n, oh*s - p + fh*d, ow*s - p + fw*d, ic] * w[oc, fh, fw, ic]``

    Parameters
    ----------
    x : array (N, IH, IW, IC), or (IH, IW, IC) for one image
        float16, bfloat16 (of ml_dtypes, PyTorch or JAX), float32 or float64. Sums of 16 bits are made in float32 and
        rounded once.
    w : array (OC, FH, FW, IC/groups)
        Of the dtype of x, like all arrays here.
    bias : array (OC,), optional
        Added to the result; on "cuda" and "emulator" after a result of 16 bits was rounded, which is then done again.
    stride, dilation : int or (int, int)
        Vertical, horizontal.
    padding : int, (int, int), ((top, bottom), (left, right)), four ints, "same" or "valid"
        Zeros around x. "same" needs stride 1.
    groups : int
        Channel groups; divides IC and OC.
    layout : {"NHWC", "NCHW"}
        "NCHW" is PyTorch's: x (N, IC, IH, IW), w (OC, IC/groups, FH, FW), y (N, OC, OH, OW).
    backend : {"auto", "cuda", "cpu", "emulator", "steps"}
        "auto": cuda if the arrays are on a GPU or a GPU is present, else cpu. "emulator" runs the compiled CUDA kernels
        on the CPU. "steps" is slow.
    precision : {"float32", "tf32"}
        "tf32", for float32 arrays, lets the kernels of a GPU (and of "emulator") round x and w to 11 significant bits
        and multiply with tensor cores. "cpu" and "steps", and a GPU without such cores, stay at float32.
    out : array, optional
        C-contiguous buffer for the result; must not overlap an input.
    stream : Numba CUDA stream, optional
        For the cuda backend. CuPy and PyTorch arrays use the current stream of their library.

    Returns
    -------
    array (N, OH, OW, OC), or (OH, OW, OC) for one image
        Of the kind and dtype of x; `out` if given.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, before anything is written.
    RuntimeError
        For backend="cuda" with no GPU, or with arrays of 16 bits and a GPU older than compute capability 8.0, and for
        backend="emulator" in Numba's simulator.

    References
    ----------
    C-K-S, arXiv 2306.15951: ConvV2.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((1, 4, 4, 3), np.float32)
    >>> w = np.ones((8, 3, 3, 3), np.float32)
    >>> y = conv2d(x, w, padding=1, backend="cpu")
    >>> y.shape
    (1, 4, 4, 8)
    >>> y[0, :, :, 0]
    array([[12., 18., 18., 12.],
           [18., 27., 27., 18.],
           [18., 27., 27., 18.],
           [12., 18., 18., 12.]], dtype=float32)

    With 16 bits the sum is made in float32, so 60000 + 60000 - 60000 is no infinity:

    >>> x = np.array([60000, 60000, -60000], np.float16).reshape(1, 1, 1, 3)
    >>> conv2d(x, np.ones((1, 1, 1, 3), np.float16), backend="cpu").item()
    60000.0
    """
    # 1. check: everything, before anything is written
    x_operand, w_operand = Operand("x", x), Operand("w", w)
    call = Call(layout, out, stream, x_operand, w_operand, bias=bias, precision=precision)
    call.check_batched(x_operand, X)
    call.check_filter(w_operand, W)
    groups = checks.integer("groups", groups, 1)
    shapes = {"x": x_operand.shape, "w": w_operand.shape}
    shape = call.fitted(_fitting, shapes, (stride, padding, dilation, groups))
    call.check_bias(shape.oc)
    call.check_out(shape.y_shape)
    backend = backends.choose(backend, call.library.on_gpu, call.dtype)
    # 2. allocate
    y = call.allocate(shape.y_shape, backend)
    # 3. dispatch
    _run(call, backend, "conv2d", shape, x_operand, w_operand, y)
    return call.finish(y)


@_options_by_name
def conv2d_input(
    input_size: Sequence[int],
    w: ArrayT,
    dy: ArrayT,
    *,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    layout: Layout = "NHWC",
    backend: Backend = "auto",
    precision: Precision = "float32",
    out: ArrayT | None = None,
    stream: Any = None,
) -> ArrayT:
    """Gradient of `conv2d` with respect to x, KS-deconv in the paper: inserted zeros are never multiplied.

    ``dx[n, ih, iw, ic] = sum of dy[n, oh, ow, oc] * w[oc, fh, fw, ic]`` over all oc and all (fh, oh) and
    (fw, ow) with ``ih = oh*s - p + fh*d`` and ``iw = ow*s - p + fw*d``.

    Parameters
    ----------
    input_size : (N, IH, IW, IC), or (IH, IW, IC) for one image
        Shape of x, in the order of `layout`. Needed because `stride` sizes of x share one size of y.
    w : array (OC, FH, FW, IC/groups)
    dy : array (N, OH, OW, OC), or (OH, OW, OC)
        Gradient of y.
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv2d`.

    Returns
    -------
    array of shape `input_size`
        Positions that no product reaches hold exactly 0.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, before anything is written; an impossible `input_size` names the valid range.
    RuntimeError
        For backend="cuda" with no GPU, or with arrays of 16 bits and a GPU older than compute capability 8.0, and for
        backend="emulator" in Numba's simulator.

    References
    ----------
    C-K-S, arXiv 2306.15951: KS-deconv.

    Examples
    --------
    >>> import numpy as np
    >>> w, dy = np.ones((1, 3, 3, 1)), np.ones((1, 2, 2, 1))
    >>> dx = conv2d_input((1, 4, 4, 1), w, dy, stride=2, padding=1, backend="cpu")
    >>> dx[0, :, :, 0]
    array([[1., 2., 1., 1.],
           [2., 4., 2., 2.],
           [1., 2., 1., 1.],
           [1., 2., 1., 1.]])
    """
    # 1. check
    w_operand, dy_operand = Operand("w", w), Operand("dy", dy)
    call = Call(layout, out, stream, w_operand, dy_operand, precision=precision)
    call.check_filter(w_operand, W)
    call.check_batched(dy_operand, Y)
    groups = checks.integer("groups", groups, 1)
    shapes = {"input_size": _input_size(call, input_size), "w": w_operand.shape, "dy": dy_operand.shape}
    shape = call.fitted(partial(_fitting_input, call.shown), shapes, (stride, padding, dilation, groups))
    call.check_out(shape.x_shape)
    backend = backends.choose(backend, call.library.on_gpu, call.dtype)
    # 2. allocate
    dx = call.allocate(shape.x_shape, backend)
    # 3. dispatch
    _run(call, backend, "conv2d_input", shape, w_operand, dy_operand, dx)
    return call.finish(dx)


@_options_by_name
def conv_transpose2d(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None = None,
    *,
    stride: IntPair = 1,
    padding: Padding = 0,
    output_padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    layout: Layout = "NHWC",
    backend: Backend = "auto",
    precision: Precision = "float32",
    out: ArrayT | None = None,
    stream: Any = None,
) -> ArrayT:
    """Transposed convolution: `conv2d_input` with x in the place of dy, plus a bias.

    Parameters
    ----------
    x : array (N, H, W, IN), or (H, W, IN) for one image
    w : array (IN, FH, FW, OUT/groups)
        Layout "NCHW": (IN, OUT/groups, FH, FW), as in PyTorch.
    bias : array (OUT,), optional
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv2d`; the padding is that of the convolution whose gradient this is, so it crops.
    output_padding : int or (int, int)
        Rows and columns added at the end; smaller than stride or dilation. They are computed, not zeros.

    Returns
    -------
    array (N, OH, OW, OUT)
        OH = (H - 1)*stride - top - bottom + dilation*(FH - 1) + output_padding + 1.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, before anything is written.
    RuntimeError
        For backend="cuda" with no GPU, or with arrays of 16 bits and a GPU older than compute capability 8.0, and for
        backend="emulator" in Numba's simulator.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 2, 2, 1)), np.ones((1, 3, 3, 5))
    >>> conv_transpose2d(x, w, stride=2, padding=1, output_padding=1, backend="cpu").shape
    (1, 4, 4, 5)
    """
    # 1. check
    x_operand, w_operand = Operand("x", x), Operand("w", w)
    call = Call(layout, out, stream, x_operand, w_operand, bias=bias, precision=precision)
    call.check_filter(w_operand, "IN FH FW OUT/groups")
    call.check_batched(x_operand, "N H W IN")
    groups = checks.integer("groups", groups, 1)
    shapes = {"x": x_operand.shape, "w": w_operand.shape}
    shape = call.fitted(_fitting_transposed, shapes, (stride, padding, output_padding, dilation, groups))
    call.check_bias(shape.ic)
    call.check_out(shape.x_shape)
    backend = backends.choose(backend, call.library.on_gpu, call.dtype)
    # 2. allocate
    y = call.allocate(shape.x_shape, backend)
    # 3. dispatch
    _run(call, backend, "conv2d_input", shape, w_operand, x_operand, y)
    return call.finish(y)


@_options_by_name
def conv2d_weight(
    x: ArrayT,
    weight_size: Sequence[int],
    dy: ArrayT,
    *,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    layout: Layout = "NHWC",
    backend: Backend = "auto",
    precision: Precision = "float32",
    out: ArrayT | None = None,
    stream: Any = None,
) -> ArrayT:
    """Gradient of `conv2d` with respect to w, Sk-dilated in the paper: inserted zeros are never multiplied.

    ``dw[oc, fh, fw, ic] = sum over n, oh, ow of x[n, oh*s - p + fh*d, ow*s - p + fw*d, ic] * dy[n, oh, ow, oc]``

    The paper calls this a dilated convolution, because the regular way dilates dy with zeros. It has
    nothing to do with `dilation` > 1.

    Parameters
    ----------
    x : array (N, IH, IW, IC), or (IH, IW, IC) for one image
    weight_size : (OC, FH, FW, IC/groups)
        Shape of w, in the order of `layout`.
    dy : array (N, OH, OW, OC), or (OH, OW, OC)
        Gradient of y.
    stride, padding, dilation, groups, layout, backend, precision, out, stream
        As in `conv2d`.

    Returns
    -------
    array of shape `weight_size`
        Taps that no product reaches hold exactly 0.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, before anything is written.
    RuntimeError
        For backend="cuda" with no GPU, or with arrays of 16 bits and a GPU older than compute capability 8.0, and for
        backend="emulator" in Numba's simulator.

    References
    ----------
    C-K-S, arXiv 2306.15951: Sk-dilated.

    Examples
    --------
    >>> import numpy as np
    >>> x, dy = np.ones((2, 4, 4, 1)), np.ones((2, 4, 4, 1))
    >>> dw = conv2d_weight(x, (1, 3, 3, 1), dy, padding=1, backend="cpu")
    >>> dw[0, :, :, 0]
    array([[18., 24., 18.],
           [24., 32., 24.],
           [18., 24., 18.]])
    """
    # 1. check
    x_operand, dy_operand = Operand("x", x), Operand("dy", dy)
    call = Call(layout, out, stream, x_operand, dy_operand, precision=precision)
    call.check_batched(x_operand, X)
    call.check_batched(dy_operand, Y)
    groups = checks.integer("groups", groups, 1)
    size = checks.sizes("weight_size", weight_size, call.axes(W), unbatched=False)
    shapes = {"x": x_operand.shape, "weight_size": channels_last(size, call.layout), "dy": dy_operand.shape}
    shape = call.fitted(partial(_fitting_weight, call.shown), shapes, (stride, padding, dilation, groups))
    call.check_out(shape.w_shape, batch=False)
    backend = backends.choose(backend, call.library.on_gpu, call.dtype)
    # 2. allocate
    dw = call.allocate(shape.w_shape, backend)
    # 3. dispatch
    _run(call, backend, "conv2d_weight", shape, x_operand, dy_operand, dw)
    return call.finish(dw, batch=False)


# --- do the arguments fit each other? --------------------------------------------------------------
def _fitting(x: Shape, w: Shape, *how: Any) -> ConvShape:
    """Return the layer of conv2d; how = stride, padding, dilation, groups."""
    checks.channels("x", x[3], w[3], how[3])
    return _shape(x, w, *how)


def _fitting_input(shown: Callable[[Shape], Shape], x: Shape, w: Shape, dy: Shape, *how: Any) -> ConvShape:
    """Return the layer of conv2d_input; `shown` brings a shape to the caller's order for a message."""
    checks.channels("input_size", x[3], w[3], how[3])
    checks.shape_of("dy", shown(dy), shown((x[0], *dy[1:3], w[0])), "for this input_size and w")
    return _input_shape(x, w, dy, *how)


def _fitting_transposed(x: Shape, w: Shape, *how: Any) -> ConvShape:
    """Return the layer of conv_transpose2d; how = stride, padding, output_padding, dilation, groups."""
    if x[3] != w[0]:
        raise ValueError(f"channels do not match: x has {x[3]} channels, w is for {w[0]} (its first axis)")
    checks.divides(how[4], "x", x[3])
    return _transposed_shape(x, w, *how)


def _fitting_weight(shown: Callable[[Shape], Shape], x: Shape, w: Shape, dy: Shape, *how: Any) -> ConvShape:
    """Return the layer of conv2d_weight."""
    checks.channels("x", x[3], w[3], how[3], "weight_size")
    shape = _shape(x, w, *how)
    checks.shape_of("dy", shown(dy), shown(shape.y_shape), "for this x and weight_size")
    return shape


# --- what the operators share ---------------------------------------------------------------------
def _run(
    call: Call[ArrayT],
    backend: Backend,
    operator: str,
    shape: ConvShape,
    first: Operand[ArrayT],
    second: Operand[ArrayT],
    buffer: Any,
) -> None:
    """Fill an NHWC buffer: with the backend's result and the bias, or with zeros if there is no image."""
    if shape.n == 0:
        call.library.zero(buffer, call.stream)
    else:
        arrays = call.view(first), call.view(second), call.library.raw(buffer)
        backends.run(backend, operator, shape, *arrays, call.stream, call.precision)
    call.add_bias(buffer)


def _remembered(function: ToShape) -> ToShape:
    """Cache a function of x_shape, w_shape and the caller's arguments, if these are made of ints, strings and tuples.

    Others are not looked up: 1.0 and True are equal to 1, but are errors.
    """
    known = lru_cache(maxsize=1024)(function)

    def is_plain(value: Any) -> bool:
        kind = type(value)
        return kind is int or kind is str or (kind is tuple and all(map(is_plain, value)))

    @wraps(function)
    def call(*arguments: Any) -> ConvShape:
        return (known if is_plain(arguments[2:]) else function)(*arguments)

    return cast(ToShape, call)


@_remembered
def _shape(
    x_shape: Shape, w_shape: Shape, stride: IntPair, padding: Padding, dilation: IntPair, groups: int
) -> ConvShape:
    (n, ih, iw, ic), (oc, fh, fw, _) = x_shape, w_shape
    return ConvShape(
        n=n, ih=ih, iw=iw, ic=ic, oc=oc, fh=fh, fw=fw, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def _axes(x_shape: Shape, w_shape: Shape, stride: IntPair, padding: Padding, dilation: IntPair) -> tuple[Axis, Axis]:
    """Return rows and columns as axes, without checking the size of x."""
    strides, dilations = checks.pair("stride", stride, 1), checks.pair("dilation", dilation, 1)
    pads = checks.paddings(padding, (w_shape[1], w_shape[2]), strides, dilations)
    h, w = (Axis(x_shape[1 + k], w_shape[1 + k], strides[k], *pads[k], dilations[k]) for k in (0, 1))
    return h, w


def _least_size(axis: Axis, outputs: int) -> int:
    """Return the smallest input size that has this many outputs."""
    return (outputs - 1) * axis.stride + axis.span - axis.before - axis.after


def _input_size(call: Call[ArrayT], input_size: Sequence[int]) -> Shape:
    """Return the argument `input_size` as NHWC; it must be unbatched exactly if dy is."""
    size = checks.sizes("input_size", input_size, call.axes(X), unbatched=True)
    if len(size) != (3 if call.unbatched else 4):
        raise ValueError(f"input_size and dy must both be batched or both not, got input_size {size}")
    return channels_last((1, *size) if call.unbatched else size, call.layout)


@_remembered
def _input_shape(
    x_shape: Shape,
    w_shape: Shape,
    dy_shape: Shape,
    stride: IntPair,
    padding: Padding,
    dilation: IntPair,
    groups: int,
) -> ConvShape:
    """Return the convolution of an input of this size, after checking that its output has the size of dy."""
    axes = _axes(x_shape, w_shape, stride, padding, dilation)
    for name, axis, outputs in zip(("rows", "columns"), axes, dy_shape[1:3], strict=True):
        detail = f"filter {axis.taps}, stride {axis.stride}, padding ({axis.before}, {axis.after})"
        detail += f", dilation {axis.dilation}" if axis.dilation > 1 else ""
        checks.input_size(name, axis.size, _least_size(axis, outputs), axis.stride, outputs, detail)
    return _shape(x_shape, w_shape, stride, padding, dilation, groups)


def transposed_size(
    x_size: Sequence[int],
    filter_size: Sequence[int],
    stride: IntPair,
    padding: Padding,
    dilation: IntPair,
    output_padding: IntPair,
) -> tuple[int, int]:
    """Return the rows and columns of a transposed convolution, from those of x and of the filter."""
    axes = _axes((0, *x_size), (0, *filter_size), stride, padding, dilation)
    added = checks.output_padding(
        output_padding, (axes[0].stride, axes[1].stride), (axes[0].dilation, axes[1].dilation)
    )
    rows, columns = (_least_size(axis, axis.size) + extra for axis, extra in zip(axes, added, strict=True))
    if min(rows, columns) < 1 or 0 in tuple(x_size):
        raise ValueError(f"result would have {rows} rows and {columns} columns, for x of {x_size[0]} by {x_size[1]}")
    return rows, columns


def added_size(
    size: Sequence[int],
    x_size: Sequence[int],
    filter_size: Sequence[int],
    stride: IntPair,
    padding: Padding,
    dilation: IntPair,
) -> tuple[int, int]:
    """Return the output_padding with which a transposed convolution gives these rows and columns."""
    h, w = _axes((0, *x_size), (0, *filter_size), stride, padding, dilation)
    return size[0] - _least_size(h, h.size), size[1] - _least_size(w, w.size)


@_remembered
def _transposed_shape(
    x_shape: Shape,
    w_shape: Shape,
    stride: IntPair,
    padding: Padding,
    output_padding: IntPair,
    dilation: IntPair,
    groups: int,
) -> ConvShape:
    """Return the convolution whose input gradient the transposed one is: its y is x, and its x is the result."""
    sizes = transposed_size(x_shape[1:3], w_shape[1:3], stride, padding, dilation, output_padding)
    size = (x_shape[0], *sizes, w_shape[3] * groups)
    shape = _shape(size, w_shape, stride, padding, dilation, groups)
    # If output_padding is at least the stride, the added rows reach past the padding.
    h, w = (
        replace(axis, after=axis.after - (axis.outputs - outputs) * axis.stride) if axis.outputs > outputs else axis
        for axis, outputs in ((shape.h, x_shape[1]), (shape.w, x_shape[2]))
    )
    return shape.with_axes(h, w)
