"""Operands of an operator, calls of it, and how far a result may be from the regular way in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import operators
from ..buffers import Layout, empty, own_order
from ..geometry import ConvShape, plan


def random_shape(rng: np.random.Generator, small: bool = False) -> ConvShape:
    """Draw a problem size, often an awkward one: odd channels, uneven padding, strides that leave a rest.

    Parameters
    ----------
    rng : numpy.random.Generator
    small : bool
        Whether to draw far smaller sizes, for the CUDA simulator.

    Returns
    -------
    ConvShape
    """
    top = 4 if small else 9
    while True:
        groups = int(rng.choice((1, 1, 1, 2, 3)))
        size = dict(zip(("ih", "iw"), rng.integers(1, top + 1, 2).tolist(), strict=True))
        taps = dict(zip(("fh", "fw"), rng.integers(1, (4 if small else 6), 2).tolist(), strict=True))
        channels = {name: groups * int(rng.integers(1, 3 if small else 8)) for name in ("ic", "oc")}
        n = 0 if rng.random() < 0.03 else int(rng.integers(1, 2 if small else 4))
        if rng.random() < 0.1:
            taps = {"fh": 1, "fw": 1}  # with a stride, most inputs meet no tap
        steps = {name: tuple(rng.integers(1, 4, 2).tolist()) for name in ("stride", "dilation")}
        if rng.random() < 0.6:
            steps["dilation"] = (1, 1)
        padding = tuple(int(rng.integers(0, f + 1)) for f in taps.values() for _ in range(2))
        try:
            return ConvShape(n=n, **size, **taps, **channels, **steps, padding=padding, groups=groups)  # type: ignore[arg-type]
        except ValueError:
            continue  # the filter is larger than the padded input: draw again


def operands(operator: str, shape: ConvShape, rng: np.random.Generator, dtype: Any) -> tuple[Any, Any]:
    """Draw the two arrays of an operator: (x, w), (w, dy) or (x, dy), standard normal, each at a cache line."""
    sizes = [size for _, size in shape.arrays(operator)[:2]]
    return tuple(at_line(rng.standard_normal(size).astype(dtype)) for size in sizes)  # type: ignore[return-value]


def at_line(array: NDArray[Any]) -> NDArray[Any]:
    """Copy an array to contiguous memory. If it is large, that begins at a cache line for all contenders."""
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def call(
    operator: str, shape: ConvShape, first: Any, second: Any, backend: str, layout: Layout = "NHWC"
) -> NDArray[Any]:
    """Run a public operator on the two arrays that `operands` names."""
    options: dict[str, Any] = dict(
        stride=shape.stride, padding=shape.padding, dilation=shape.dilation, groups=shape.groups, backend=backend
    )
    options["layout"] = layout
    function: Callable[..., NDArray[Any]] = getattr(operators, operator.replace("2d", f"{len(shape.axes)}d"))
    if operator == "conv2d":
        return function(first, second, **options)
    if operator == "conv2d_input":
        return function(own_order(shape.x_shape, layout), first, second, **options)
    return function(first, own_order(shape.w_shape, layout), second, **options)


def tolerance(operator: str, shape: ConvShape, dtype: Any) -> float:
    """Return the largest error allowed, in units of the sum of absolute products.

    Rounding errors of a sum of K products behave like a random walk, hence the square root. A result of 16 bits is a
    sum in float32, rounded once: half a step of the dtype comes on top.
    """
    channels = {"conv2d": shape.ic, "conv2d_input": shape.oc}.get(operator, shape.n * shape.groups) // shape.groups
    terms = channels * max(group.terms for group in plan(operator, shape).groups)
    summed = np.finfo(np.float32 if np.dtype(dtype).itemsize == 2 else dtype)
    return float(summed.eps * (4 + 2 * np.sqrt(terms)) + (np.finfo(dtype).eps / 2 if summed.dtype != dtype else 0))


def relative_error(got: NDArray[Any], expected: NDArray[Any], scale: NDArray[Any]) -> float:
    """Return the largest error over the sum of absolute products, which bounds what rounding can do.

    Where that sum is 0 (no product, or only zeros), any error counts as infinite. Below the smallest number that its
    dtype has with all bits, a result may be off by as much as there.
    """
    if got.size == 0:
        return 0.0
    scale = np.where(scale > 0, np.maximum(scale, np.finfo(got.dtype).smallest_normal), 0)
    error = np.abs(got.astype(np.float64) - expected)
    ratio = np.divide(error, scale, out=np.where(error == 0, 0.0, np.inf), where=scale > 0)
    return float(ratio.max()) if np.isfinite(ratio).all() else float("inf")
