"""The operators in JAX: functions that work under jit, grad and vmap, with gradients of every order, on the CPU.

As in `cks_numba.torch`, each operator is a derivative of S(x, w, dy), the sum of x * w * dy over every real product, so
that the gradients of one are the other two. A call leaves JAX by a callback, which gives the arrays to the operators as
they are and copies the result once. Forward mode (``jax.jvp``, ``jax.hessian``) is not there: nest ``jax.grad`` or
``jax.jacrev``. A batch of vmap is a batch of images, unless every element has filters of its own.

Needs JAX: ``pip install jax``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import buffers, checks, operators
from .buffers import Layout
from .checks import IntPair, Padding, Pair
from .geometry import ConvShape

try:
    import jax
except ModuleNotFoundError as _missing:
    raise ImportError("cks_numba.jax needs JAX: pip install jax") from _missing

__all__ = ["conv2d", "conv_transpose2d"]


class How(NamedTuple):
    """Everything about a layer that is no array."""

    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int
    layout: Layout


# --- three operators, each other's gradients ------------------------------------------------------
@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _derivative(by: int, size: tuple[int, ...], how: How, first: Any, second: Any) -> Any:
    """Derivative of S(x, w, dy) with respect to one of the three, of this size, from the other two."""
    result = jax.ShapeDtypeStruct(size, first.dtype)
    run = partial(_run, by, size, how)
    return jax.pure_callback(run, result, first, second, vmap_method="expand_dims")


def _forward(by: int, size: tuple[int, ...], how: How, first: Any, second: Any) -> tuple[Any, Any]:
    return _derivative(by, size, how, first, second), (first, second)


def _backward(by: int, size: tuple[int, ...], how: How, saved: Any, gradient: Any) -> tuple[Any, Any]:
    """The gradient takes the place of the result, and S is differentiated by each operand."""
    three = list(saved)
    three.insert(by, gradient)
    first, second = (
        _derivative(k, three[k].shape, how, *(three[j] for j in range(3) if j != k)) for k in range(3) if k != by
    )
    return first, second


_derivative.defvjp(_forward, _backward)


def _run(by: int, size: tuple[int, ...], how: How, first: Any, second: Any) -> Any:
    """Compute on arrays in host memory; vmap has put axes in front, of length 1 where an operand has no batch."""
    operands = [np.asarray(first), np.asarray(second)]
    fronts = [operand.shape[:-4] for operand in operands]
    batch = np.broadcast_shapes(*fronts)
    if by != 1 and set(fronts[0 if by == 0 else 1]) <= {1}:  # one filter for all images
        images = [operand.reshape(-1, *operand.shape[-3:]) for operand in operands]
        n = images[1 if by == 0 else 0].shape[0]
        return _operator(by, (n, *size[1:]), how, *images).reshape(*batch, *size)
    out = np.empty((*batch, *size), operands[0].dtype)
    spread = [np.broadcast_to(operand, (*batch, *operand.shape[-4:])) for operand in operands]
    for place in np.ndindex(batch):
        out[place] = _operator(by, size, how, spread[0][place], spread[1][place])
    return out


def _operator(by: int, size: tuple[int, ...], how: How, first: Any, second: Any) -> Any:
    options: dict[str, Any] = how._asdict() | {"backend": "cpu"}
    if by == 0:
        return operators.conv2d_input(size, first, second, **options)
    if by == 1:
        return operators.conv2d_weight(first, size, second, **options)
    return operators.conv2d(first, second, **options)


# --- functions -------------------------------------------------------------------------------------
def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    layout: Layout = "NHWC",
) -> Any:
    """`cks_numba.conv2d` for JAX, traced or not.

    Parameters
    ----------
    x : array (N, IH, IW, IC)
        float16, bfloat16, float32 or float64, like all arrays here.
    w : array (OC, FH, FW, IC/groups)
    bias : array (OC,), optional
    stride, padding, dilation, groups, layout
        As in `cks_numba.conv2d`; they are constants of a trace.

    Returns
    -------
    array (N, OH, OW, OC)

    Raises
    ------
    ValueError, TypeError
        For a wrong argument.

    Examples
    --------
    >>> import jax
    >>> x, w = jax.numpy.ones((1, 4, 4, 3)), jax.numpy.ones((8, 3, 3, 3))
    >>> jax.jit(lambda x: conv2d(x, w, padding=1))(x)[0, 0, :, 0].tolist()
    [12.0, 18.0, 18.0, 12.0]
    >>> jax.grad(lambda x: conv2d(x, w, padding=1).sum())(x)[0, 0, :, 0].tolist()
    [32.0, 48.0, 48.0, 32.0]
    """
    x, w, bias = _arrays(x, w, bias)
    x_shape, w_shape = _shapes(x, w, layout, "N IH IW IC", "OC FH FW IC/groups")
    how = _how(w_shape, stride, padding, dilation, groups, layout)
    shape = _shape(x_shape, w_shape, how)
    checks.channels("x", x_shape[3], w_shape[3], how.groups, "w")
    return _finish(_derivative(2, buffers.own_order(shape.y_shape, layout), how, x, w), bias, layout)


def conv_transpose2d(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: IntPair = 1,
    padding: Padding = 0,
    output_padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    layout: Layout = "NHWC",
) -> Any:
    """`cks_numba.conv_transpose2d` for JAX, traced or not.

    Parameters
    ----------
    x : array (N, H, W, IN)
        float16, bfloat16, float32 or float64, like all arrays here.
    w : array (IN, FH, FW, OUT/groups)
    bias : array (OUT,), optional
    stride, padding, output_padding, dilation, groups, layout
        As in `cks_numba.conv_transpose2d`; they are constants of a trace.

    Returns
    -------
    array (N, OH, OW, OUT)

    Raises
    ------
    ValueError, TypeError
        For a wrong argument.

    Examples
    --------
    >>> import jax
    >>> x, w = jax.numpy.ones((1, 2, 2, 1)), jax.numpy.ones((1, 3, 3, 5))
    >>> conv_transpose2d(x, w, stride=2, padding=1, output_padding=1).shape
    (1, 4, 4, 5)
    """
    x, w, bias = _arrays(x, w, bias)
    x_shape, w_shape = _shapes(x, w, layout, "N H W IN", "IN FH FW OUT/groups")
    how = _how(w_shape, stride, padding, dilation, groups, layout)
    if x_shape[3] != w_shape[0]:
        raise ValueError(f"channels do not match: x has {x_shape[3]} channels, w is for {w_shape[0]} (its first axis)")
    checks.divides(how.groups, "x", x_shape[3])
    sizes = how.stride, how.padding, how.dilation, output_padding
    rows, columns = operators.transposed_size(x_shape[1:3], w_shape[1:3], *sizes)
    size = (x_shape[0], rows, columns, w_shape[3] * how.groups)
    y_size = _shape(size, w_shape, how).y_shape
    more = [(0, wanted - found) for wanted, found in zip(y_size, x_shape, strict=True)]
    dy = jax.numpy.pad(x, buffers.own_order(more, layout))  # by nothing, unless output_padding is at least the stride
    return _finish(_derivative(0, buffers.own_order(size, layout), how, w, dy), bias, layout)


def _arrays(x: Any, w: Any, bias: Any) -> list[Any]:
    """Return the arguments as arrays of JAX, traced or not, after checking that they have one dtype."""
    given = {"x": x, "w": w, "bias": bias}
    arrays = [None if value is None else jax.numpy.asarray(value) for value in given.values()]
    checks.dtypes({name: array.dtype.name for name, array in zip(given, arrays, strict=True) if array is not None})
    return arrays


def _shapes(x: Any, w: Any, layout: Layout, axes: str, filter_axes: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of x and w in the order of channels last."""
    checks.choice("layout", layout, buffers.LAYOUTS)
    for name, array, letters in (("x", x, axes), ("w", w, filter_axes)):
        checks.rank(name, array.shape, f"({', '.join(buffers.own_order(letters.split(), layout))})")
    if 0 in w.shape:
        raise ValueError(f"w must not be empty, got shape {w.shape}")
    return buffers.channels_last(x.shape, layout), buffers.channels_last(w.shape, layout)


def _how(
    w_shape: tuple[int, ...], stride: IntPair, padding: Padding, dilation: IntPair, groups: int, layout: Layout
) -> How:
    strides, dilations = checks.pair("stride", stride, 1), checks.pair("dilation", dilation, 1)
    pads = checks.paddings(padding, (w_shape[1], w_shape[2]), strides, dilations)
    return How(strides, pads, dilations, checks.integer("groups", groups, 1), layout)


def _shape(x_shape: tuple[int, ...], w_shape: tuple[int, ...], how: How) -> ConvShape:
    (n, ih, iw, ic), (oc, fh, fw, _) = x_shape, w_shape
    options: dict[str, Any] = dict(stride=how.stride, padding=how.padding, dilation=how.dilation, groups=how.groups)
    return ConvShape(n=n, ih=ih, iw=iw, ic=ic, oc=oc, fh=fh, fw=fw, **options)


def _finish(result: Any, bias: Any, layout: Layout) -> Any:
    if bias is None:
        return result
    channels = buffers.channels_last(result.shape, layout)[3]
    checks.bias(bias.shape, channels)
    return result + (bias if layout == "NHWC" else bias[:, None, None])
