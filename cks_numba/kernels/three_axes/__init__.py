"""The first five rungs of conv3d, conv3d_input and conv3d_weight: those of two axes with one loop more.

Read conv_v2.py, ks_deconv.py and sk_dilated.py first: each explains the rungs of one operator over two axes.

``gather``    conv3d and conv3d_input: one code for both
``weight``    conv3d_weight
``equation``  an axis as numbers, and the equation solved along it
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ...geometry import ConvShape
from ...plan_table import ceil_div
from ..elementwise import padded, zeros_inserted
from ..grouped import launch_groups
from ..launch import TILE, Launch, one_thread_each
from ..register_tile import BM, BN
from . import gather, weight
from .equation import axes_table

__all__ = ["BY_OPERATOR"]

TILES = {"grouped": (TILE, TILE), "register_tile": (BM, BN)}
"""Rows and columns of results of a block, in the rungs that take the groups of a plan."""


def kernel_of(operator: str, rung: str) -> Any:
    """Return the kernel of a rung; it takes the operands in the order of `operands`."""
    if operator == "conv2d_weight":
        return getattr(weight, rung)
    return getattr(gather, rung)(forward=operator == "conv2d")


def operands(operator: str, first: Any, second: Any) -> tuple[Any, Any]:
    """Return what the filter slides over, and then the filter; x and dy for the filter gradient."""
    return (second, first) if operator == "conv2d_input" else (first, second)


def launch_with_zeros(operator: str, shape: ConvShape, *arrays: Any) -> list[Launch]:
    """A thread for each result, on tensors that were really padded and zero-inserted."""
    (src, other), out = operands(operator, *arrays[:2]), arrays[2]
    made = []
    if operator == "conv2d_input":
        around = [axis.span - 1 for axis in shape.axes]
        size = [axis.size + reach for axis, reach in zip(shape.axes, around, strict=True)]
        before = [reach - axis.before for axis, reach in zip(shape.axes, around, strict=True)]
        src, insert = zeros_inserted("insert zeros in dy", src, size, before, shape.stride)
        made.append(insert)
    else:
        src, pad = padded(src, shape)
        made.append(pad)
    if operator == "conv2d_weight":
        size = [(axis.outputs - 1) * axis.stride + 1 for axis in shape.axes]
        other, insert = zeros_inserted("insert zeros in dy", other, size, (0, 0, 0), shape.stride)
        made.append(insert)
    args = src, other, out, axes_table(operator, shape, out)
    return [*made, one_thread_each(f"{operator} with_zeros", kernel_of(operator, "with_zeros"), out, args)]


def launch_skip_zeros(operator: str, shape: ConvShape, *arrays: Any) -> list[Launch]:
    """A thread for each result, which skips all added zeros."""
    args = *operands(operator, *arrays[:2]), arrays[2], axes_table(operator, shape, arrays[2])
    return [one_thread_each(f"{operator} skip_zeros", kernel_of(operator, "skip_zeros"), arrays[2], args)]


def launch_shared(operator: str, shape: ConvShape, *arrays: Any) -> list[Launch]:
    """A block for each position (or tap) of the result, and TILE x TILE of its other indices."""
    first, depths, rows, columns, last = arrays[2].shape
    if operator == "conv2d_weight":
        first //= shape.groups
    else:
        last //= shape.groups
    grid = depths * rows * columns * ceil_div(first, TILE), shape.groups * ceil_div(last, TILE)
    args = *operands(operator, *arrays[:2]), arrays[2], axes_table(operator, shape, arrays[2])
    return [Launch(f"{operator} shared", kernel_of(operator, "shared"), grid, (TILE, TILE), args)]


def launch_plan(rung: str, operator: str, shape: ConvShape, *arrays: Any) -> list[Launch]:
    """A block for each tile of each group of the plan: the rungs grouped and register_tile."""
    ordered = *operands(operator, *arrays[:2]), arrays[2]
    return launch_groups(operator, rung, kernel_of(operator, rung), shape, ordered, TILES[rung])


def _rungs(operator: str) -> dict[str, Callable[..., list[Launch]]]:
    builders = {"with_zeros": launch_with_zeros, "skip_zeros": launch_skip_zeros, "shared": launch_shared}
    builders |= {rung: partial(launch_plan, rung) for rung in TILES}
    return {rung: partial(build, operator) for rung, build in builders.items()}


BY_OPERATOR = {operator: _rungs(operator) for operator in ("conv2d", "conv2d_input", "conv2d_weight")}
"""The builders of launches, by operator and rung: of a shape and its three arrays, as in `kernels.launches`."""
