"""The operators in JAX: functions that work under jit, grad and vmap, with gradients of every order, on the CPU.

As in `cks_numba.torch`, each operator is a derivative of S(x, w, dy), the sum of x * w * dy over every real product, so
that the gradients of one are the other two. A call leaves JAX by a callback, which gives the arrays to the operators as
they are and copies the result once. Forward mode (``jax.jvp``, ``jax.hessian``) is not there: nest ``jax.grad`` or
``jax.jacrev``. A batch of vmap is a batch of images, unless every element has filters of its own.

Needs JAX: ``pip install jax``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import buffers, checks, operators
from .arrays.call import axis_names
from .buffers import Layout
from .checks import Ints, Padding, Pair
from .geometry import ConvShape
from .operators.fitting import W, X, fitting, fitting_transposed
from .operators.other_axes import like
from .operators.two_axes import over

try:
    import jax
except ModuleNotFoundError as _missing:
    raise ImportError("cks_numba.jax needs JAX: pip install jax") from _missing

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


class How(NamedTuple):
    """Everything about a layer that is no array."""

    stride: tuple[int, ...]
    padding: tuple[Pair, ...]
    dilation: tuple[int, ...]
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
    operands, axes = [np.asarray(first), np.asarray(second)], len(size)
    fronts = [operand.shape[:-axes] for operand in operands]
    batch = np.broadcast_shapes(*fronts)
    if by != 1 and set(fronts[0 if by == 0 else 1]) <= {1}:  # one filter for all images
        images = [operand.reshape(-1, *operand.shape[1 - axes :]) for operand in operands]
        n = images[1 if by == 0 else 0].shape[0]
        return _operator(by, (n, *size[1:]), how, *images).reshape(*batch, *size)
    out = np.empty((*batch, *size), operands[0].dtype)
    spread = [np.broadcast_to(operand, (*batch, *operand.shape[-axes:])) for operand in operands]
    for place in np.ndindex(batch):
        out[place] = _operator(by, size, how, spread[0][place], spread[1][place])
    return out


def _operator(by: int, size: tuple[int, ...], how: How, first: Any, second: Any) -> Any:
    options: dict[str, Any] = how._asdict() | {"backend": "cpu"}
    name = f"conv{len(size) - 2}d"
    if by == 0:
        return getattr(operators, f"{name}_input")(size, first, second, **options)
    if by == 1:
        return getattr(operators, f"{name}_weight")(first, size, second, **options)
    return getattr(operators, name)(first, second, **options)


# --- functions -------------------------------------------------------------------------------------
@over(2)
def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
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
    x_shape, w_shape = _shapes(x, w, layout, X, W)
    how = _how(w_shape, stride, padding, dilation, groups, layout)
    shape = fitting(x_shape, w_shape, how.stride, how.padding, how.dilation, how.groups)
    return _finish(_derivative(2, buffers.own_order(shape.y_shape, layout), how, x, w), bias, layout)


@over(2)
def conv_transpose2d(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
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
    x_shape, w_shape = _shapes(x, w, layout, "N * IN", "IN F* OUT/groups")
    how = _how(w_shape, stride, padding, dilation, groups, layout)
    size = fitting_transposed(
        x_shape, w_shape, how.stride, how.padding, output_padding, how.dilation, how.groups
    ).x_shape
    # The convolution of an input of this size has more outputs than x only if output_padding is at least the stride.
    y_size = ConvShape.of(size, w_shape, how.stride, how.padding, how.dilation, how.groups).y_shape
    more = [(0, wanted - found) for wanted, found in zip(y_size, x_shape, strict=True)]
    dy = jax.numpy.pad(x, buffers.own_order(more, layout))
    return _finish(_derivative(0, buffers.own_order(size, layout), how, w, dy), bias, layout)


def _arrays(x: Any, w: Any, bias: Any) -> list[Any]:
    """Return the arguments as arrays of JAX, traced or not, after checking that they have one dtype."""
    given = {"x": x, "w": w, "bias": bias}
    arrays = [None if value is None else jax.numpy.asarray(value) for value in given.values()]
    checks.dtypes({name: array.dtype.name for name, array in zip(given, arrays, strict=True) if array is not None})
    return arrays


def _shapes(x: Any, w: Any, layout: Layout, axes: str, filter_axes: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of x and w in the order of channels last."""
    for name, array, letters in (("x", x, axes), ("w", w, filter_axes)):
        checks.rank(name, array.shape, axis_names(letters, layout))
    if 0 in w.shape:
        raise ValueError(f"w must not be empty, got shape {w.shape}")
    return buffers.channels_last(x.shape, layout), buffers.channels_last(w.shape, layout)


def _how(w_shape: tuple[int, ...], stride: Ints, padding: Padding, dilation: Ints, groups: int, layout: Layout) -> How:
    axes = len(layout) - 2
    strides, dilations = checks.integers("stride", stride, 1, axes), checks.integers("dilation", dilation, 1, axes)
    pads = checks.paddings(padding, w_shape[1:-1], strides, dilations)
    return How(strides, pads, dilations, checks.integer("groups", groups, 1), layout)


def _finish(result: Any, bias: Any, layout: Layout) -> Any:
    if bias is None:
        return result
    checks.bias(bias.shape, buffers.channels_last(result.shape, layout)[-1])
    return result + (bias if buffers.is_last(layout) else bias.reshape(-1, *[1] * (len(layout) - 2)))


# --- one axis and three ----------------------------------------------------------------------------
_TEXT = "`cks_numba.{}` for JAX, traced or not; see the function of two axes here."
conv1d: Callable[..., Any] = like(conv2d, 1, __name__, _TEXT.format("conv1d"))
conv3d: Callable[..., Any] = like(conv2d, 3, __name__, _TEXT.format("conv3d"))
conv_transpose1d: Callable[..., Any] = like(conv_transpose2d, 1, __name__, _TEXT.format("conv_transpose1d"))
conv_transpose3d: Callable[..., Any] = like(conv_transpose2d, 3, __name__, _TEXT.format("conv_transpose3d"))
