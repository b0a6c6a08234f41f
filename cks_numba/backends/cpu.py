"""The operators on a CPU: the plan's groups as one grouped GEMM, compiled by Numba.

`gemm` holds the compiled kernels; here their sizes are chosen and their arguments put together.
The environment variable CKS_NUMBA_CPU=numpy selects `blas`, plain NumPy, in their place; it is also
what is left where Numba cannot compile.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba.core.errors import NumbaError

from .. import checks
from ..geometry import ConvShape, Run, plan
from ..tables import group_table
from . import blas, gemm

Array = np.ndarray[Any, Any]
Strides = tuple[int, ...]
Addresses = tuple[int, ...]

_CHOICE = checks.choice("CKS_NUMBA_CPU", os.environ.get("CKS_NUMBA_CPU", "numba"), ("numba", "numpy"))
COMPILED = _CHOICE == "numba" and not numba.config.DISABLE_JIT

ZERO = {"f": np.float32(0), "d": np.float64(0)}

# Sizes are for a core with 32 KiB of L1 and 512 KiB of L2 cache, which is little for a CPU of today.
PANEL_BYTES = {"conv2d": 256 * 2**10, "conv2d_input": 128 * 2**10}  # of packed filters of a panel
PANELS_BYTES = 320 * 2**10  # of all panels of a task
NARROW = 4  # output channels, at most, for which lanes hold terms
CHUNK_TERMS = 384  # products of a result of conv2d_weight that are added up in registers
RESULT_BYTES = 256 * 2**10  # of results of a task of conv2d_weight, which each chunk adds to
PACKING = 8  # cost of packing a number, in multiply-adds of a vector lane
SERIAL_BELOW = 400_000  # multiply-adds: they are done before another thread has woken up
COPY_BYTES = 4 * 2**20  # of images copied to channels last at a time


def run(operator: str, shape: ConvShape, first: Array, second: Array, out: Array) -> None:
    """Run an operator on NHWC arrays of any strides.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        With at least one image.
    first, second : numpy.ndarray
        (x, w), (w, dy) or (x, dy), in the order of the operators above; of one dtype, aligned.
    out : numpy.ndarray
        y, dx or dw; every element is written.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> y = np.empty(shape.y_shape)
    >>> run("conv2d", shape, np.ones(shape.x_shape), np.ones(shape.w_shape), y)
    >>> y.ravel()
    array([4., 4., 4., 4.])
    """
    if not COMPILED:
        blas.run(operator, shape, first, second, out)
        return
    try:
        if operator == "conv2d_weight":
            _weight(shape, first, second, out)
        elif operator == "conv2d":
            _gather(operator, shape, first, second, out)
        else:
            _gather(operator, shape, second, first, out)
    except NumbaError as error:  # raised by the compiler, so nothing has been written
        warnings.warn(f"Numba cannot compile the CPU kernels, NumPy takes over: {error}", RuntimeWarning, stacklevel=2)
        blas.run(operator, shape, first, second, out)


# --- threads -------------------------------------------------------------------------------------
class _Threads:
    """Numba's threads: which may be entered by one Python thread at a time, and not in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.started = False
        self.lost = False

    def after_fork(self) -> None:
        self.lock, self.lost = threading.Lock(), self.started


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.after_fork)


def _number_of_threads(shape: ConvShape, operator: str) -> int:
    if _threads.lost or plan(operator, shape).useful < SERIAL_BELOW:
        return 1
    return numba.get_num_threads()


def _start(name: str, dtype: np.dtype[Any], threads: int, sizes: Array, addresses: Addresses, scratch: int) -> None:
    """Run a kernel of `gemm` on some threads, which share its arguments; each has so many bytes of scratch memory."""
    kernel = gemm.kernel(name, dtype.char)
    step = _round_up(scratch, 64)
    memory = np.empty(len(sizes) + (threads * step + 64) // 8, np.int64)  # the arguments, then the scratch memory
    memory[: len(sizes)] = sizes
    memory[gemm.OWN : gemm.OWN + len(addresses)] = addresses
    arguments = memory.ctypes.data
    memory[gemm.SCRATCH], memory[gemm.SCRATCH_STEP] = _round_up(arguments + sizes.nbytes, 64), step
    if threads == 1:
        kernel.call(0, arguments)
        return
    on_threads = gemm.on_threads()
    with _threads.lock:
        _threads.started = True
        on_threads(threads, kernel.address, ZERO[dtype.char], arguments)


# --- conv2d and conv2d_input ---------------------------------------------------------------------
def _gather(operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    threads = _number_of_threads(shape, operator)
    together = shape.n
    copied = source.strides[3] != source.itemsize
    if copied:  # some images at a time, to channels last
        together = max(1, min(shape.n, COPY_BYTES // (source[0].size * source.itemsize)))
        buffer = np.empty((together, *source.shape[1:]), source.dtype)
    for n in range(0, shape.n, together):
        images = source if together == shape.n else source[n : n + together]
        if copied:
            copy = np.array([0] * (gemm.OWN + 2) + [*images.shape, *images.strides], np.int64)
            _start("to_channels_last", out.dtype, threads, copy, (images.ctypes.data, buffer.ctypes.data), 0)
            images = buffer[: len(images)]
        sizes, scratch, _ = _gather_sizes(
            operator, shape, len(images), images.strides, w.strides, out.strides, threads
        )
        addresses = images.ctypes.data, w.ctypes.data, out.ctypes.data + n * out.strides[0]
        _start("gather", out.dtype, threads, sizes, addresses, scratch)


@lru_cache(maxsize=1024)
def _gather_sizes(
    operator: str, shape: ConvShape, images: int, source: Strides, w: Strides, out: Strides, threads: int
) -> tuple[Array, int, Array]:
    """Arguments of ``gemm.gather`` but for the addresses, bytes of scratch memory, and the table that they refer to."""
    groups = plan(operator, shape)
    blocks = [_ceil_div(images * group.positions, gemm.TILE_ROWS) for group in groups.groups]
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    lanes, terms = (oc, ic) if operator == "conv2d" else (ic, oc)
    lane_step, term_step = (w[0], w[3]) if operator == "conv2d" else (w[3], w[0])
    (fh0, fh1), (fw0, fw1) = _taps(g.h for g in groups.groups), _taps(g.w for g in groups.groups)
    taps = (fh1 - fh0) * (fw1 - fw0)
    column_bytes = taps * terms * source[3]  # of all filters of one lane
    narrow = lanes <= NARROW and terms * source[3] % gemm.VECTOR_BYTES == 0 and lanes * column_bytes <= PANELS_BYTES
    term_bytes = max(1, taps) * gemm.LANE_BYTES  # of one term of a panel
    panels = _ceil_div(lanes * source[3], gemm.LANE_BYTES)
    chunk = terms if narrow else _even_part(terms, PANEL_BYTES[operator] // term_bytes)
    together = _even_part(panels, PANELS_BYTES // (chunk * term_bytes))
    tiles = sum(blocks)
    blocks_wanted = _ceil_div(4 * threads, _ceil_div(panels, together) * shape.groups)
    tiles_together = min(64, max(8, _ceil_div(tiles, blocks_wanted)))
    table = group_table(groups, blocks, np.int64)
    arguments = _arguments(
        table,
        (images, shape.groups, terms, lanes, together, tiles_together, chunk),
        (fh0, fw0, fh1 - fh0, fw1 - fw0),
        source,
        out,
        (lane_step, term_step, w[1], w[2], oc * w[0]),
        (int(narrow),),
    )
    packed_bytes = lanes * column_bytes if narrow else together * chunk * term_bytes
    return arguments, gemm.SCRATCH_HEAD + packed_bytes, table


def _taps(runs: Iterable[Run]) -> tuple[int, int]:
    """First and past-the-last tap that any run uses."""
    ends = [run.f.at(k, t) for run in runs if run.terms for k in (0, run.positions - 1) for t in (0, run.terms - 1)]
    return (min(ends), max(ends) + 1) if ends else (0, 0)


# --- conv2d_weight -------------------------------------------------------------------------------
def _weight(shape: ConvShape, x: Array, dy: Array, dw: Array) -> None:
    threads = _number_of_threads(shape, "conv2d_weight")
    sizes, scratch, _ = _weight_sizes(shape, x.strides, dy.strides, dw.strides, dw.itemsize, threads)
    _start("weight", dw.dtype, threads, sizes, (x.ctypes.data, dy.ctypes.data, dw.ctypes.data), scratch)


@lru_cache(maxsize=1024)
def _weight_sizes(
    shape: ConvShape, x: Strides, dy: Strides, dw: Strides, itemsize: int, threads: int
) -> tuple[Array, int, Array]:
    """The same for ``gemm.weight``; of all that, only the size of a task depends on the number of threads."""
    groups = plan("conv2d_weight", shape)
    table = group_table(groups, [0] * len(groups.groups), np.int64)
    taps = sum(group.positions for group in groups.groups if group.terms)
    high, wide = gemm.TILE_ROWS, gemm.LANE_BYTES // itemsize
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups

    def in_tiles(rows: int, lanes: int) -> int:
        return _round_up(rows, high) * _round_up(lanes, wide)

    turned = in_tiles(ic, oc) < 0.8 * in_tiles(oc, ic)  # not for little: dw is then written number by number
    rows, lanes = (ic, oc) if turned else (oc, ic)

    def busiest(block: tuple[int, int]) -> float:
        """Work of the thread that has most, in multiply-adds of a vector lane."""
        tasks = shape.groups * _ceil_div(rows, block[0]) * _ceil_div(lanes, block[1])
        return _ceil_div(tasks, threads) * (taps * in_tiles(*block) + PACKING * sum(block))

    blocks = [
        (min(i * high, _round_up(rows, high)), min(j * wide, _round_up(lanes, wide)))
        for i in range(1, 17)
        for j in range(1, 9)
        if i * j == 1 or taps * i * high * j * wide * itemsize <= RESULT_BYTES
    ]
    block_rows, block_lanes = min(blocks, key=busiest)
    images = max(1, min(shape.n, CHUNK_TERMS // (shape.oh * shape.ow)))
    output_rows = max(1, min(shape.oh, CHUNK_TERMS // shape.ow))
    input_rows = min(shape.ih, (output_rows - 1) * shape.h.stride + shape.h.span)
    x_channels, dy_channels = (high, wide) if turned else (wide, high)  # side by side
    x_image = _spread(input_rows * shape.iw * x_channels * itemsize)  # one image of so many channels
    dy_image = _spread(output_rows * shape.ow * dy_channels * itemsize)
    row_parts, lane_parts = block_rows // high, block_lanes // wide
    x_parts, dy_parts = (row_parts, lane_parts) if turned else (lane_parts, row_parts)
    x_bytes, dy_bytes = _round_up(x_parts * images * x_image, 64), dy_parts * images * dy_image
    arguments = _arguments(
        table,
        (shape.n, shape.groups, rows, lanes, block_rows, block_lanes),
        (images, output_rows, int(turned), x_image, dy_image, x_bytes),
        (shape.ih, shape.iw, shape.oh, shape.ow, shape.h.stride, shape.h.before, shape.h.span),
        x,
        dy,
        (dw[3], dw[0]) if turned else (dw[0], dw[3]),
        (dw[1], dw[2], oc * dw[0]),
    )
    return arguments, gemm.SCRATCH_HEAD + x_bytes + dy_bytes, table


# --- what they share -----------------------------------------------------------------------------
def _arguments(table: Array, *sizes: tuple[int, ...]) -> Array:
    """The int64 arguments of a kernel: those of all kernels, three addresses to be filled in, the table, the sizes."""
    flat = [size for group in sizes for size in group]
    return np.array([0] * (gemm.OWN + 3) + [table.ctypes.data, len(table) - 1, *flat], np.int64)


def _spread(count: int) -> int:
    """The bytes, or if many an odd number of cache lines: steps of this size go all over the cache."""
    return count if count < 1024 else (_ceil_div(count, 64) | 1) * 64


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(a: int, b: int) -> int:
    return _ceil_div(a, b) * b


def _even_part(whole: int, most: int) -> int:
    """Size of a part when `whole` is cut into parts of `most` or a little less."""
    return _ceil_div(whole, _ceil_div(whole, max(1, most)))
