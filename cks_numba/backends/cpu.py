"""The operators on a CPU: the plan's groups as one grouped GEMM, compiled by Numba.

`gemm` holds the compiled kernels; here their sizes are chosen and their arguments put together.
CKS_NUMBA_CPU=numpy selects `blas`, plain NumPy, in their place.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from math import prod
from typing import Any

import numba
import numpy as np

from ..geometry import ConvShape, plan
from ..tables import group_table
from . import gemm

Array = np.ndarray[Any, Any]
Steps = tuple[int, ...]

PANELS_BYTES = 320 * 2**10
PANEL_BYTES = 256 * 2**10  # of packed filters, a part of the cache of a core
CHUNK_BYTES = 320 * 2**10  # of packed x and dy
CHUNK_TERMS = 384
PACKING = 8
RESULT_BYTES = 256 * 2**10
SERIAL_BELOW = 500_000  # multiply-adds: less is done before other threads have woken up

_one_at_a_time = threading.Lock()  # not every threading layer of Numba can be entered by two threads


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def run(operator: str, shape: ConvShape, first: Array, second: Array, out: Array) -> None:
    threads = numba.get_num_threads() if plan(operator, shape).useful > SERIAL_BELOW else 1
    counter = np.zeros(1, np.int64)
    zero = out.dtype.type(0)
    if operator == "conv2d_weight":
        sizes = _weight(shape, first.strides, second.strides, out.strides, out.itemsize, threads)
        args = (zero, counter, *sizes, first.ctypes.data, second.ctypes.data, out.ctypes.data)
        serial, parallel = gemm.weight, gemm.weight_on_threads
    else:
        w, source = (second, first) if operator == "conv2d" else (first, second)
        sizes = _gather(operator, shape, source.strides, w.strides, out.strides, out.itemsize, threads)
        args = (zero, counter, *sizes, source.ctypes.data, w.ctypes.data, out.ctypes.data)
        serial, parallel = gemm.gather, gemm.gather_on_threads
    if threads == 1:
        serial(*args)
    else:
        with _one_at_a_time:
            parallel(threads, *args)


@lru_cache(maxsize=1024)
def _gather(
    operator: str, shape: ConvShape, source: Steps, w: Steps, out: Steps, itemsize: int, threads: int
) -> tuple[Any, ...]:
    groups = plan(operator, shape)
    blocks = [_ceil_div(shape.n * group.positions, gemm.TILE_ROWS) for group in groups.groups]
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    lanes, terms = (oc, ic) if operator == "conv2d" else (ic, oc)
    steps = (w[0], w[3]) if operator == "conv2d" else (w[3], w[0])
    (fh0, fh1), (fw0, fw1) = (_taps(axis) for axis in zip(*groups.groups, strict=True))
    width = gemm.LANE_BYTES // itemsize
    panels = _ceil_div(lanes, width)
    row_bytes = max(1, (fh1 - fh0) * (fw1 - fw0)) * gemm.LANE_BYTES
    chunk = max(1, min(terms, PANEL_BYTES // row_bytes))
    chunk = _ceil_div(terms, _ceil_div(terms, chunk))
    together = max(1, min(panels, PANELS_BYTES // (chunk * row_bytes)))
    together = _ceil_div(panels, _ceil_div(panels, together))
    tiles = sum(blocks)
    wanted = _ceil_div(4 * threads, _ceil_div(panels, together) * shape.groups)
    per_block = min(64, max(8, _ceil_div(tiles, wanted)))
    sizes = (shape.n, shape.groups, terms, lanes, together, per_block, chunk)
    taps = (fh0, fw0, fh1 - fh0, fw1 - fw0)
    return group_table(groups, blocks, np.int64), sizes, taps, source, (*steps, w[1], w[2], oc * w[0]), out


def _taps(runs: Any) -> tuple[int, int]:
    """First and past-the-last tap that any run uses."""
    used = [(run.f.at(0, 0), run.f.at(0, run.terms - 1)) for run in runs if run.terms]
    return (min(min(u) for u in used), max(max(u) for u in used) + 1) if used else (0, 0)


@lru_cache(maxsize=1024)
def _weight(shape: ConvShape, x: Steps, dy: Steps, dw: Steps, itemsize: int, threads: int) -> tuple[Any, ...]:
    groups = plan("conv2d_weight", shape)
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    width, high = gemm.LANE_BYTES // itemsize, gemm.TILE_ROWS

    def padded(rows: int, lanes: int) -> int:
        return _ceil_div(rows, high) * high * _ceil_div(lanes, width) * width

    turned = padded(ic, oc) < 0.8 * padded(oc, ic)
    rows, lanes = (ic, oc) if turned else (oc, ic)
    taps = sum(group.positions for group in groups.groups if group.terms)

    def makespan(block: tuple[int, int]) -> float:
        """Time of the busiest thread, in multiply-adds of a vector lane."""
        tasks = shape.groups * _ceil_div(rows, block[0]) * _ceil_div(lanes, block[1])
        a, b = min(_ceil_div(rows, block[0]), 2), 0
        return _ceil_div(tasks, threads) * (taps * padded(*block) + PACKING * (block[0] + block[1]))

    choices = [
        (min(i * high, _ceil_div(rows, high) * high), min(j * width, _ceil_div(lanes, width) * width)) for i in range(1, 17) for j in range(1, 9)
        if i * j == 1 or taps * i * high * j * width * itemsize <= RESULT_BYTES
    ]
    block_rows, block_lanes = min(choices, key=makespan)
    per_image = shape.oh * shape.ow
    chunk_images = max(1, min(shape.n, CHUNK_TERMS // per_image))
    chunk_rows = max(1, min(shape.oh, CHUNK_TERMS // shape.ow))
    sizes = (shape.n, shape.groups, rows, lanes, block_rows, block_lanes, chunk_images, chunk_rows, int(turned))
    h = shape.h
    axis = (shape.ih, shape.iw, shape.oh, shape.ow, h.stride, h.before, h.span)
    group_step = oc * dw[0]
    steps = (dw[3], dw[0]) if turned else (dw[0], dw[3])
    table = group_table(groups, [0] * len(groups.groups), np.int64)
    return table, sizes, axis, x, dy, (*steps, dw[1], dw[2], group_step)
