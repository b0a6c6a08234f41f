"""Do the arguments of an operator fit each other? Either a layer comes out, or an error that says what to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

from .. import checks
from ..arrays.call import Call
from ..buffers import ArrayT, channels_last
from ..checks import Ints, Padding
from ..geometry import AXIS_NAMES, Axis, ConvShape

X, W, Y = "N I* IC", "OC F* IC/groups", "N O* OC"  # axes of the arrays; * stands for the spatial ones, such as H, W
Shape = tuple[int, ...]  # channels last
ToShape = TypeVar("ToShape", bound=Callable[..., ConvShape])


def fitting(x: Shape, w: Shape, *how: Any) -> ConvShape:
    """Return the layer of conv2d; how = stride, padding, dilation, groups."""
    checks.channels("x", x[-1], w[-1], how[3])
    return _shape(x, w, *how)


def fitting_input(shown: Callable[[Shape], Shape], x: Shape, w: Shape, dy: Shape, *how: Any) -> ConvShape:
    """Return the layer of conv2d_input; `shown` brings a shape to the caller's order for a message."""
    checks.channels("input_size", x[-1], w[-1], how[3])
    checks.shape_of("dy", shown(dy), shown((x[0], *dy[1:-1], w[0])), "for this input_size and w")
    return _input_shape(x, w, dy, *how)


def fitting_transposed(x: Shape, w: Shape, *how: Any) -> ConvShape:
    """Return the layer of conv_transpose2d; how = stride, padding, output_padding, dilation, groups."""
    if x[-1] != w[0]:
        raise ValueError(f"channels do not match: x has {x[-1]} channels, w is for {w[0]} (its first axis)")
    checks.divides(how[4], "x", x[-1])
    return _transposed_shape(x, w, *how)


def fitting_weight(shown: Callable[[Shape], Shape], x: Shape, w: Shape, dy: Shape, *how: Any) -> ConvShape:
    """Return the layer of conv2d_weight."""
    checks.channels("x", x[-1], w[-1], how[3], "weight_size")
    shape = _shape(x, w, *how)
    checks.shape_of("dy", shown(dy), shown(shape.y_shape), "for this x and weight_size")
    return shape


def _remembered(function: ToShape) -> ToShape:
    """Cache a function of x_shape, w_shape and the caller's arguments, if these are constants."""
    known = lru_cache(maxsize=1024)(function)

    @wraps(function)
    def call(*arguments: Any) -> ConvShape:
        return (known if checks.is_constant(arguments[2:]) else function)(*arguments)

    return cast(ToShape, call)


@_remembered
def _shape(x_shape: Shape, w_shape: Shape, stride: Ints, padding: Padding, dilation: Ints, groups: int) -> ConvShape:
    return ConvShape.of(x_shape, w_shape, stride, padding, dilation, groups)


def _axes(x_shape: Shape, w_shape: Shape, stride: Ints, padding: Padding, dilation: Ints) -> tuple[Axis, ...]:
    """Return the spatial axes, without checking the size of x."""
    sizes, taps = x_shape[1:-1], w_shape[1:-1]
    strides, dilations = (
        checks.integers(name, value, 1, len(taps)) for name, value in (("stride", stride), ("dilation", dilation))
    )
    pads = checks.paddings(padding, taps, strides, dilations)
    return tuple(
        Axis(size, count, step, before, after, apart)
        for size, count, step, (before, after), apart in zip(sizes, taps, strides, pads, dilations, strict=True)
    )


def _least_size(axis: Axis, outputs: int) -> int:
    """Return the smallest input size that has this many outputs."""
    return (outputs - 1) * axis.stride + axis.span - axis.before - axis.after


def input_size(call: Call[ArrayT], given: Sequence[int]) -> Shape:
    """Return the argument `input_size` with channels last; it must be unbatched exactly if dy is."""
    size = checks.sizes("input_size", given, call.axes(X), unbatched=True)
    if len(size) != len(call.layout) - call.unbatched:
        raise ValueError(f"input_size and dy must both be batched or both not, got input_size {size}")
    return channels_last((1, *size) if call.unbatched else size, call.layout)


@_remembered
def _input_shape(
    x_shape: Shape,
    w_shape: Shape,
    dy_shape: Shape,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
) -> ConvShape:
    """Return the convolution of an input of this size, after checking that its output has the size of dy."""
    axes = _axes(x_shape, w_shape, stride, padding, dilation)
    for name, axis, outputs in zip(AXIS_NAMES[-len(axes) :], axes, dy_shape[1:-1], strict=True):
        detail = f"filter {axis.taps}, stride {axis.stride}, padding ({axis.before}, {axis.after})"
        detail += f", dilation {axis.dilation}" if axis.dilation > 1 else ""
        checks.input_size(name, axis.size, _least_size(axis, outputs), axis.stride, outputs, detail)
    return _shape(x_shape, w_shape, stride, padding, dilation, groups)


def transposed_size(
    x_size: Sequence[int],
    filter_size: Sequence[int],
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    output_padding: Ints,
) -> tuple[int, ...]:
    """Return the spatial sizes of a transposed convolution, from those of x and of the filter."""
    axes = _axes((0, *x_size, 0), (0, *filter_size, 0), stride, padding, dilation)
    added = checks.output_padding(
        output_padding, tuple(axis.stride for axis in axes), tuple(axis.dilation for axis in axes)
    )
    sizes = tuple(_least_size(axis, axis.size) + extra for axis, extra in zip(axes, added, strict=True))
    if min(sizes) < 1 or 0 in tuple(x_size):
        named = " and ".join(f"{size} {name}" for size, name in zip(sizes, AXIS_NAMES[-len(axes) :], strict=True))
        raise ValueError(f"result would have {named}, for x of {' by '.join(map(str, x_size))}")
    return sizes


def added_size(
    size: Sequence[int],
    x_size: Sequence[int],
    filter_size: Sequence[int],
    stride: Ints,
    padding: Padding,
    dilation: Ints,
) -> tuple[int, ...]:
    """Return the output_padding with which a transposed convolution gives these spatial sizes."""
    axes = _axes((0, *x_size, 0), (0, *filter_size, 0), stride, padding, dilation)
    return tuple(wanted - _least_size(axis, axis.size) for wanted, axis in zip(size, axes, strict=True))


@_remembered
def _transposed_shape(
    x_shape: Shape,
    w_shape: Shape,
    stride: Ints,
    padding: Padding,
    output_padding: Ints,
    dilation: Ints,
    groups: int,
) -> ConvShape:
    """Return the convolution whose input gradient the transposed one is: its y is x, and its x is the result."""
    sizes = transposed_size(x_shape[1:-1], w_shape[1:-1], stride, padding, dilation, output_padding)
    size = (x_shape[0], *sizes, w_shape[-1] * groups)
    # If output_padding is at least the stride, the added rows reach past the padding.
    return _shape(size, w_shape, stride, padding, dilation, groups).with_outputs(*x_shape[1:-1])
