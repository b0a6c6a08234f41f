"""conv2d, conv2d_input, conv_transpose2d and conv2d_weight: check everything, allocate, dispatch to a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from inspect import getfullargspec
from typing import Any, TypeVar, cast

from .. import backends, checks
from ..arrays import known
from ..arrays.call import Call, Operand
from ..arrays.packed import Packed
from ..backends import Backend
from ..buffers import LAYOUTS, ArrayT, Layout, channels_last
from ..checks import Ints, Padding, Precision
from ..geometry import ConvShape
from .fitting import W, X, Y, fitting, fitting_input, fitting_transposed, fitting_weight
from .fitting import input_size as input_size_of

Operator = TypeVar("Operator", bound=Callable[..., Any])


def over(axes: int) -> Callable[[Operator], Operator]:
    """Return a decorator for an operator of arrays with so many spatial axes, in their two layouts.

    If the operator is given an option by position, the error names the keywords.
    """
    allowed = LAYOUTS[axes]

    def decorate(operator: Operator) -> Operator:
        names = getfullargspec(operator).args

        def checked(*arrays: Any, layout: Layout = allowed[0], **options: Any) -> Any:
            if len(arrays) >= len(names):
                checks.by_position(call.__name__, names, arrays)
            return operator(*arrays, layout=checks.choice("layout", layout, allowed), **options)

        @wraps(operator)
        def call(*arrays: Any, **options: Any) -> Any:
            return known.call(checked, names, arrays, options)

        return cast(Operator, call)

    return decorate


@over(2)
def conv2d(
    x: ArrayT,
    w: ArrayT | Packed,
    bias: ArrayT | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
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
    w : array (OC, FH, FW, IC/groups), or what `pack` made of it
        Of the dtype of x, like all arrays here.
    bias : array (OC,), optional
        Added to the result, before that is rounded to 16 bits.
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
    call = Call(layout, out, stream, x_operand, w_operand, bias=bias, precision=precision, operator="conv2d")
    call.check_batched(x_operand, X)
    call.check_filter(w_operand, W)
    groups = checks.integer("groups", groups, 1)
    shapes = {"x": x_operand.shape, "w": w_operand.shape}
    shape = call.fitted(fitting, shapes, (stride, padding, dilation, groups))
    call.check_bias(shape.oc)
    call.check_out(shape.y_shape)
    backend = _chosen(backend, call, shape, w_operand.packed)
    # 2. allocate
    y = call.allocate(shape.y_shape, backend)
    # 3. dispatch
    _run(call, backend, "conv2d", shape, x_operand, w_operand, y)
    return call.finish(y)


@over(2)
def conv2d_input(
    input_size: Sequence[int],
    w: ArrayT | Packed,
    dy: ArrayT,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
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
    w : array (OC, FH, FW, IC/groups), or what `pack` made of it
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
    call = Call(layout, out, stream, w_operand, dy_operand, precision=precision, operator="conv2d_input")
    call.check_filter(w_operand, W)
    call.check_batched(dy_operand, Y)
    groups = checks.integer("groups", groups, 1)
    shapes = {"input_size": input_size_of(call, input_size), "w": w_operand.shape, "dy": dy_operand.shape}
    shape = call.fitted(partial(fitting_input, call.shown), shapes, (stride, padding, dilation, groups))
    call.check_out(shape.x_shape)
    backend = _chosen(backend, call, shape, w_operand.packed)
    # 2. allocate
    dx = call.allocate(shape.x_shape, backend)
    # 3. dispatch
    _run(call, backend, "conv2d_input", shape, w_operand, dy_operand, dx)
    return call.finish(dx)


@over(2)
def conv_transpose2d(
    x: ArrayT,
    w: ArrayT | Packed,
    bias: ArrayT | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
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
    w : array (IN, FH, FW, OUT/groups), or what `pack` made of it
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
    call = Call(layout, out, stream, x_operand, w_operand, bias=bias, precision=precision, operator="conv2d_input")
    call.check_filter(w_operand, "IN F* OUT/groups")
    call.check_batched(x_operand, "N * IN")
    groups = checks.integer("groups", groups, 1)
    shapes = {"x": x_operand.shape, "w": w_operand.shape}
    shape = call.fitted(fitting_transposed, shapes, (stride, padding, output_padding, dilation, groups))
    call.check_bias(shape.ic)
    call.check_out(shape.x_shape)
    backend = _chosen(backend, call, shape, w_operand.packed)
    # 2. allocate
    y = call.allocate(shape.x_shape, backend)
    # 3. dispatch
    _run(call, backend, "conv2d_input", shape, w_operand, x_operand, y)
    return call.finish(y)


@over(2)
def conv2d_weight(
    x: ArrayT,
    weight_size: Sequence[int],
    dy: ArrayT,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
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
    shape = call.fitted(partial(fitting_weight, call.shown), shapes, (stride, padding, dilation, groups))
    call.check_out(shape.w_shape, batch=False)
    backend = backends.choose(backend, call.library.on_gpu, call.dtype)
    # 2. allocate
    dw = call.allocate(shape.w_shape, backend)
    # 3. dispatch
    _run(call, backend, "conv2d_weight", shape, x_operand, dy_operand, dw)
    return call.finish(dw, batch=False)


# --- what the operators share ---------------------------------------------------------------------
def _chosen(backend: Backend, call: Call[ArrayT], shape: ConvShape, packed: Packed | None) -> Backend:
    """Return the backend to use, which is "cpu" for packed filters."""
    if packed is not None:
        if packed.groups != shape.groups:
            raise ValueError(f"w is packed for groups={packed.groups}, got groups={shape.groups}")
        if call.library.on_gpu or checks.choice("backend", backend, backends.BACKENDS) not in ("auto", "cpu"):
            raise ValueError(
                f'packed filters need backend="cpu" and arrays in host memory, got backend={backend!r}: '
                "give w as an array"
            )
        backend = "cpu"
    return backends.choose(backend, call.library.on_gpu, call.dtype)


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
        return
    arrays = (call.view(first), call.view(second), call.library.raw(buffer))
    if backend == "steps":
        backends.run(backend, operator, shape, *arrays)
        call.add_bias(buffer)
    else:
        backends.run(backend, operator, shape, *arrays, call.bias_view(), call.stream, call.precision)
