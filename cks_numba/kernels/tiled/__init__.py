"""The tiled rung: the launches that run every group of the plan as a dense matrix product, in large tiles.

``choice``            which tile, and how many parts of the sum
``gemm``              the kernels
``device_functions``  what each thread does in them
``sizes``             the tiles that there are
``vectors``           loads and stores of four neighbours
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ... import checks
from ...buffers import address
from ...geometry import ConvShape
from ...plan_table import group_table
from ..axes import over
from ..jit import SIMULATED, cuda
from ..launch import Launch, one_thread_each, scratch
from . import gemm
from .choice import DEFAULT_SMS, Choice, choose
from .sizes import TILES

__all__ = [
    "DEFAULT_SMS", "TILES", "Choice", "aligned", "choose", "device_of", "gather_sizes", "launches", "multiprocessors",
    "weight_sizes",
]  # fmt: skip


@lru_cache(maxsize=8)
def multiprocessors(device: int | None) -> int:
    """Count the multiprocessors of a device; where there is none, of the GPU to plan for."""
    return DEFAULT_SMS if device is None else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def device_of(array: Any) -> int | None:
    """Return the number of the device that an array lives on; None for NumPy arrays and in the simulator."""
    return None if SIMULATED or isinstance(array, np.ndarray) else int(cuda.get_current_device().id)


def launches(
    operator: str,
    shape: ConvShape,
    arrays: Any,
    choice: Choice | None = None,
    scratch: Callable[[Any, tuple[int, ...]], Any] = scratch,
) -> list[Launch]:
    """Build the launches of the tiled rung: one, and a second one where the sum is in parts.

    Parameters
    ----------
    operator, shape, arrays
        As in `kernels.launches`, which checks them.
    choice : Choice, optional
        By default, what `choose` returns.
    scratch : function of an array and a shape
        Allocates memory for the parts of a sum, on the device of the array.

    Raises
    ------
    ValueError
        For arrays whose offsets do not fit in 32 bits.
    """
    first, second, out = arrays
    device = device_of(out)
    vectors = aligned(first) and aligned(second) and aligned(out)
    name, kernel, grid, block, table, sizes, choice = _prepared(
        operator, shape, out.dtype.itemsize, vectors, device, choice
    )
    if operator == "conv2d_input":
        first, second = second, first
    if choice.parts == 1:
        return [Launch(name, kernel, grid, block, (first, second, out, table, *sizes))]
    partial = scratch(out, (choice.parts * shape.oc, *out.shape[1:]))
    together = one_thread_each(f"sum of {choice.parts} parts", gemm.sum_parts, out, (partial, out))
    return [Launch(name, kernel, grid, block, (first, second, partial, table, *sizes)), together]


def aligned(array: Any) -> bool:
    """Whether the array begins at a multiple of 16 bytes, so that vectors may be loaded from it."""
    return SIMULATED or address(array) % 16 == 0


@lru_cache(maxsize=1024)
def _prepared(
    operator: str, shape: ConvShape, itemsize: int, vectors: bool, device: int | None, choice: Choice | None
) -> tuple[Any, ...]:
    """All of a launch but its arrays: name, kernel, grid, block, table of the plan, sizes, and the choice."""
    choice = choice or choose(operator, shape, multiprocessors(device), itemsize)
    ic, oc = choice.channels
    width = 4 if vectors and ic % 4 == 0 and oc % 4 == 0 else 1
    checks.offsets(shape, width)
    checks.grid(f"{operator} tiled", choice.grid)
    table = group_table(choice.plan, choice.blocks)
    if device is not None or SIMULATED:
        table = cuda.to_device(table)
    axes = over(len(shape.axes))
    if operator == "conv2d_weight":
        kernel, sizes = gemm.weight_kernel(axes, choice.tile, width), weight_sizes(shape, width)
    else:
        kernel = gemm.gather_kernel(axes, choice.tile, width, operator == "conv2d")
        sizes = gather_sizes(operator, shape, width)
    name = f"{operator} tiled {choice.tile}"
    return name, kernel, choice.grid, (choice.tile.threads,), table, sizes, choice


def gather_sizes(operator: str, shape: ConvShape, width: int) -> tuple[int, ...]:
    """The sizes that gather_gemm takes: depth, columns, and how far steps of taps and of output channels go.

    The steps along the axis of depth come last. They are 0 where there is none.
    """
    ic, oc = shape.ic // shape.groups, shape.oc // shape.groups
    w_w, w_h, w_d = steps_along(shape.w_shape, width)
    w_oc = prod(shape.w_shape[1:]) // width
    d = shape.axes[0]
    if operator == "conv2d":
        x_w, x_h, x_d = steps_along(shape.x_shape, width)
        src = shape.h.dilation * x_h, shape.w.dilation * x_w
        return ic, oc, *src, w_h, w_w, w_oc, d.dilation * x_d, w_d
    dy_w, dy_h, dy_d = steps_along(shape.y_shape, width)
    src = -shape.h.output_step * dy_h, -shape.w.output_step * dy_w
    taps = shape.h.phase_step * w_h, shape.w.phase_step * w_w
    return oc, ic, *src, *taps, w_oc, -d.output_step * dy_d, d.phase_step * w_d


def weight_sizes(shape: ConvShape, width: int) -> tuple[int, ...]:
    """The sizes that weight_gemm takes: rows of a channel group, and how far steps of (n, output) go in x and dy.

    The steps along the axis of depth come last. They are 0 where there is none.
    """
    x_w, x_h, x_d = steps_along(shape.x_shape, width)
    dy_w, dy_h, dy_d = steps_along(shape.y_shape, width)
    in_x = prod(shape.x_shape[1:]) // width, shape.h.stride * x_h, shape.w.stride * x_w
    in_dy = prod(shape.y_shape[1:]) // width, dy_h, dy_w
    return shape.oc // shape.groups, *in_x, *in_dy, shape.axes[0].stride * x_d, dy_d


def steps_along(size: tuple[int, ...], width: int) -> tuple[int, int, int]:
    """How far a column, a row and a depth of an array lies from the one before it, in runs of `width` elements."""
    column = size[-1] // width
    row = size[-2] * column
    return column, row, size[-3] * row if len(size) > 4 else 0
