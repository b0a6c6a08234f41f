"""The tensor rung: the dense matrix products of every group of the plan on tensor cores.

float32 arrays are multiplied as tf32, which keeps 10 of the 23 bits after the point, float16 and bfloat16 arrays as
they are. Sums are float32, and are rounded once at the end. It needs a GPU of compute capability 8.0 or later.

``gemm``       the kernels
``operands``   how A and B come to shared memory, and to the registers in which a tensor core takes them
``ptx``        the instructions, a line of PTX each
``sizes``      the tiles that there are, and the formats
``depthwise``  channel groups of one channel, without tensor cores
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ... import checks
from ...geometry import ConvShape
from ...plan_table import ceil_div, group_table
from .. import tiled
from ..axes import over
from ..elementwise import as_images, launch_add_bias, pad_channels
from ..jit import SIMULATED, cuda
from ..launch import Launch, one_thread_each, scratch
from ..tiled.choice import BYTES_PER_CYCLE, SECOND_LAUNCH, Choice, choose
from . import depthwise, gemm
from .sizes import FORMATS, TILES, Format, Tile

__all__ = ["FORMATS", "LEAST_CAPABILITY", "TILES", "Format", "Tile", "capability", "launches"]

LEAST_CAPABILITY = (8, 0)
NO_SIMULATOR = "the tensor rung is written in PTX, which Numba's simulator does not run: unset NUMBA_ENABLE_CUDASIM"


def launches(
    operator: str,
    shape: ConvShape,
    arrays: Any,
    choice: Choice | None = None,
    bias: Any = None,
    scratch: Callable[[Any, tuple[int, ...]], Any] = scratch,
) -> list[Launch]:
    """Build the launches of the tensor rung.

    The product itself is one. Before it others pad the channels of operands to a multiple of 16 bytes, where they are
    none; after it another adds up the parts of a split sum.

    Parameters
    ----------
    operator, shape, arrays
        As in `kernels.launches`, which checks them. The dtype bfloat16 is that of ``ml_dtypes``. Numba has no name for
        it, so the launches get views of all arrays of 16 bits as uint16.
    choice : Choice, optional
        With a tile of this rung. By default the fastest one by the model of the time; and if that finds the tiled rung
        faster for float32 arrays, or there is no tensor core, the launches are those of the tiled rung.
    bias : array (OC,), optional
        Added to the sums of conv2d or conv2d_input before these are rounded, an element for each channel of the result.
    scratch : function of an array and a shape
        Allocates memory on the device of the array. It is called once at most.

    Raises
    ------
    ValueError
        For arrays whose offsets do not fit in 32 bits.
    RuntimeError
        In Numba's simulator, and for arrays of 16 bits on a GPU older than compute capability 8.0.
    """
    if SIMULATED:
        raise RuntimeError(NO_SIMULATOR)
    number, device = FORMATS[str(arrays[2].dtype)], tiled.device_of(arrays[2])
    capable = device is None or capability() >= LEAST_CAPABILITY
    if number.lanes == 8 and not capable:
        raise RuntimeError(f"{number.name} arrays need a GPU of compute capability 8.0 or later")
    first, second, out = (array if number.lanes == 4 else array.view(np.uint16) for array in arrays)
    if bias is not None and number.lanes == 8:
        bias = bias.view(np.uint16)
    if capable and shape.groups == shape.ic > 1:
        return depthwise.launches(operator, shape, (first, second, out), number, bias)
    whole = padded_shape(operator, shape, number.lanes)
    operands = [first, second]
    sizes = [size for _, size in whole.arrays(operator)[:2]]
    padded = [size for size, array in zip(sizes, operands, strict=True) if not _fits(array, size)]
    if choice is None:
        choice = choose(operator, whole, tiled.multiprocessors(device), unit=number.unit, tiles=TILES)
        if number.lanes == 4 and not (capable and _is_faster(choice, shape, padded)):
            built = tiled.launches(operator, shape, (first, second, out), scratch=scratch)
            return built if bias is None else [*built, launch_add_bias(out, bias)]
    choice = replace(choice, shape=whole)
    partial_size = (choice.parts * shape.oc, *out.shape[1:])
    memory = _memory(scratch, out, padded, prod(partial_size) if choice.parts > 1 else 0)
    built = []
    for k, ((name, _), size) in enumerate(zip(shape.arrays(operator)[:2], sizes, strict=True)):
        if not _fits(operands[k], size):
            array, operands[k] = operands[k], next(memory).reshape(size)
            built.append(_padding(name, array, operands[k], shape.groups))
    result = out if choice.parts == 1 else next(memory).view(np.float32).reshape(partial_size)
    biased = bias is not None
    name, kernel, grid, block, table, steps = _prepared(choice, out.shape, number, tiled.aligned(out), biased, device)
    added = () if operator == "conv2d_weight" else (bias if biased else out,)
    if operator == "conv2d_input":
        operands.reverse()
    built.append(Launch(name, kernel, grid, block, (*operands, result, *added, table, *steps)))
    if choice.parts > 1:
        args = result, out
        built.append(one_thread_each(f"sum of {choice.parts} parts", gemm.adder(number), out, args))
    return built


def capability() -> tuple[int, int]:
    """Return the compute capability of the current GPU."""
    major, minor = cuda.get_current_device().compute_capability
    return major, minor


# --- channels that are no multiple of 16 bytes ----------------------------------------------------
def padded_shape(operator: str, shape: ConvShape, lanes: int) -> ConvShape:
    """Return the shape that the kernels run: where channels lie side by side, a group has a multiple of `lanes`.

    No image becomes one, which is all padding: zeros.
    """
    ic, oc = (ceil_div(channels // shape.groups, lanes) * lanes * shape.groups for channels in (shape.ic, shape.oc))
    oc = shape.oc if operator == "conv2d" else oc  # those of w are on its first axis
    sizes = {"n": max(shape.n, 1), "ic": ic, "oc": oc, "groups": shape.groups}
    return ConvShape(ih=1, iw=1, fh=1, fw=1, **sizes).with_axes(*shape.axes)


def _fits(array: Any, size: tuple[int, ...]) -> bool:
    """Whether the kernels can copy 16 bytes at once from an array as it is."""
    return tuple(array.shape) == size and tiled.aligned(array)


def _is_faster(choice: Choice, shape: ConvShape, padded: Sequence[tuple[int, ...]]) -> bool:
    """Whether a choice of this rung is faster than the tiled one by the model, with the operands that are padded."""
    moved = sum(2 * 4 * prod(size) / BYTES_PER_CYCLE + SECOND_LAUNCH for size in padded)
    return choice.cycles + moved < choose(choice.operator, shape, choice.sms).cycles


def _memory(scratch: Any, out: Any, padded: Sequence[tuple[int, ...]], sums: int) -> Iterator[Any]:
    """Allocate one piece of memory, and yield parts of it: for operands of these sizes, and for so many sums."""
    lengths = [*map(prod, padded), sums * 4 // out.dtype.itemsize]
    whole: Any = scratch(out, (sum(lengths),)) if sum(lengths) else out
    begin = 0
    for length in lengths:
        yield whole[begin : begin + length]
        begin += length


def _padding(name: str, array: Any, out: Any, groups: int) -> Launch:
    """The launch that copies an operand to where the channels of each group are followed by zeros."""
    array, out = as_images(array), as_images(out)
    first = (array.shape[0] // groups, out.shape[0] // groups) if name == "w" else (1, 1)
    last = (array.shape[3], out.shape[3]) if name == "w" else (array.shape[3] // groups, out.shape[3] // groups)
    return one_thread_each(f"pad {name}", pad_channels, out, (array, out, *first, *last))


# --- the launch of the product --------------------------------------------------------------------
@lru_cache(maxsize=1024)
def _prepared(
    choice: Choice, size: tuple[int, ...], number: Format, aligned: bool, biased: bool, device: int | None
) -> tuple[Any, ...]:
    """All of the launch but its arrays: name, kernel, grid, block, table of the plan, and sizes. `size` is that of out.

    A thread has eight neighbouring columns of conv2d, else two. Where these are always whole, it stores them at once.
    """
    operator, shape, tile, axes = choice.operator, choice.shape, choice.tile, over(len(choice.shape.axes))
    checks.offsets(shape, number.lanes)
    checks.grid(f"{operator} tensor", choice.grid)
    table = group_table(choice.plan, choice.blocks)
    if device is not None:
        table = cuda.to_device(table)
    if operator == "conv2d_weight":
        result = number if choice.parts == 1 else FORMATS["float32"]
        kernel = gemm.weight_kernel(axes, tile, number, result, aligned and size[-1] % 2 == 0)
        rows, *steps = tiled.weight_sizes(shape, number.lanes)
        steps = [size[0] // shape.groups, shape.ic // shape.groups, *steps]
    else:
        forward = operator == "conv2d"
        whole = size[-1] // shape.groups % (8 if forward else 2) == 0
        kernel = gemm.gather_kernel(axes, tile, number, forward, aligned and whole, biased)
        depth, _, *steps = tiled.gather_sizes(operator, shape, number.lanes)
        steps = [depth, *steps]
    name = f"{operator} {choice.unit.name} {tile}"
    return name, kernel, choice.grid, (tile.threads,), table, tuple(steps)
