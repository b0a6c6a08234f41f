"""The tiled rung: every group of the plan is a dense GEMM, and one launch runs them all.

A block makes a BM x BN tile of results of one group, a thread TM x TN of them in registers, and the
sum goes in chunks of BK terms through two shared buffers, so that one barrier a chunk is enough:
while one buffer is multiplied the next chunk is on its way. Which group, and where its indices
start and step, stands in a small table; inside the loop nothing asks whether an index is padding.

``gather_gemm`` serves conv2d and conv2d_input (sum over taps and channels), ``weight_gemm`` serves
conv2d_weight (sum over images and positions, split over blocks).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import int64, uint32

from ..geometry import ConvShape, plan
from ..tables import (
    COLUMNS,
    COUNT,
    FIRST_BLOCK,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    SUMMED_STEP,
    TERMS,
    THIRD,
    THIRD_FIXED,
    THIRD_TERM,
    ceil_div,
    group_table,
)
from .jit import ALIGN, SIMULATED, cuda, device
from .launch import Launch, one_thread_each, scratch

BK = 8  # terms of a chunk
TARGET_BLOCKS = 128  # enough to occupy a large GPU
CHUNKS_OF_A_SPLIT = 32  # a split sums at least this many, so that its own start-up does not count
MAX_SPLITS = 64


class Tile(NamedTuple):
    """Results of a block, and of a thread."""

    bm: int
    bn: int
    tm: int
    tn: int

    @property
    def threads(self) -> int:
        return (self.bm // self.tm) * (self.bn // self.tn)


TILES = (Tile(128, 128, 8, 8), Tile(64, 64, 8, 8), Tile(32, 32, 4, 4))


@lru_cache(maxsize=256)
def tile_blocks(operator: str, shape: ConvShape, tile: Tile) -> tuple[int, ...]:
    """Blocks of each group along its positions: rows are (n, position), for conv2d_weight columns (tap, ic)."""
    groups = plan(operator, shape).groups
    if operator == "conv2d_weight":
        return tuple(ceil_div(group.positions * (shape.ic // shape.groups), tile.bn) for group in groups)
    return tuple(ceil_div(shape.n * group.positions, tile.bm) for group in groups)


@lru_cache(maxsize=256)
def gather_tile(operator: str, shape: ConvShape) -> Tile:
    """The largest tile that still gives enough blocks."""
    columns = (shape.oc if operator == "conv2d" else shape.ic) // shape.groups
    for tile in TILES:
        blocks = sum(tile_blocks(operator, shape, tile)) * shape.groups * ceil_div(columns, tile.bn)
        if blocks >= TARGET_BLOCKS:
            return tile
    return TILES[-1]


@lru_cache(maxsize=256)
def weight_tile(shape: ConvShape) -> tuple[Tile, int]:
    """The largest tile that is not mostly empty, and the splits of the sum."""
    rows, columns = shape.oc // shape.groups, shape.ic // shape.groups
    roomy = (tile for tile in TILES if 2 * rows > tile.bm and 2 * columns > tile.bn)
    tile = next(roomy, TILES[-1])
    together = sum(tile_blocks("conv2d_weight", shape, tile)) * shape.groups * ceil_div(rows, tile.bm)
    longest = ceil_div(shape.n * max(group.terms for group in plan("conv2d_weight", shape).groups), BK)  # chunks
    splits = min(ceil_div(TARGET_BLOCKS, together), ceil_div(longest, CHUNKS_OF_A_SPLIT), MAX_SPLITS)
    return tile, max(1, splits)


def _thread_tile(tile: Tile) -> tuple[Any, Any, Any]:
    """Which results are a thread's own, and how it adds a chunk to them: the inner loop of both kernels."""
    bm, bn, tm, tn = tile
    across, down = bn // tn, bm // tm  # threads along a row and a column of the tile

    @device
    def row_of(i, t):
        """Runs of four, so that four neighbours travel in one load; unsigned, so that no index can wrap around."""
        return uint32(i // 4 * (4 * down) + t // across * 4 + i % 4)

    @device
    def column_of(j, t):
        return uint32(j // 4 * (4 * across) + t % across * 4 + j % 4)

    @device
    def multiply_chunk(acc, a_tile, b_tile, buffer, a, b, t):
        for k in range(BK):
            for i in range(tm):
                a[i] = a_tile[buffer, k, row_of(i, t)]
            for j in range(tn):
                b[j] = b_tile[buffer, k, column_of(j, t)]
            for i in range(tm):
                for j in range(tn):
                    acc[i, j] += a[i] * b[j]

    return row_of, column_of, multiply_chunk


@lru_cache(maxsize=16)
def _gather_kernel(tile: Tile, column_major: bool) -> Any:
    """Compile-time sizes of ``gather_gemm``. `column_major`: neighbouring columns are neighbours in w."""
    bm, bn, tm, tn = tile
    threads, a_loads, b_loads = tile.threads, bm * BK // tile.threads, bn * BK // tile.threads
    row_of, column_of, multiply_chunk = _thread_tile(tile)

    @cuda.jit
    def gather_gemm(
        src, w, out, table, images, src_h, src_w, src_c, out_h, out_w, out_c,
        depth, columns, taps_w, w_tap, w_depth, w_column,
    ):  # fmt: skip
        """out[n, position, column] = sum over taps and depth of src[n, position + tap, k] * w[tap, k, column]."""
        a_tile = cuda.shared.array((2, BK, bm), src.dtype, ALIGN)
        b_tile = cuda.shared.array((2, BK, bn), src.dtype, ALIGN)
        acc = cuda.local.array((tm, tn), src.dtype)
        a, b = cuda.local.array(tm, src.dtype), cuda.local.array(tn, src.dtype)
        a_next, b_next = cuda.local.array(a_loads, src.dtype), cuda.local.array(b_loads, src.dtype)
        a_at = cuda.local.array(a_loads, int64)
        t = uint32(cuda.threadIdx.x)
        zero = src.dtype.type(0)

        # 1. The group of this block, its tile, and its channel group.
        g = 0
        while table[g + 1, FIRST_BLOCK] <= cuda.blockIdx.x:
            g += 1
        rows_w = table[g, COLUMNS + COUNT]
        positions = table[g, ROWS + COUNT] * rows_w
        rows = images * positions
        m0 = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bm
        column_blocks = (columns + bn - 1) // bn
        c_group, n0 = cuda.blockIdx.y // column_blocks, cuda.blockIdx.y % column_blocks * bn

        # 2. Where the rows that this thread loads start in src; -1 for a row past the end.
        for j in range(a_loads):
            m = m0 + (t + j * threads) // BK
            a_at[j] = -1
            if m < rows:
                n, kh, kw = m // positions, m % positions // rows_w, m % rows_w
                h = table[g, ROWS + THIRD] + kh * table[g, ROWS + THIRD_FIXED]
                v = table[g, COLUMNS + THIRD] + kw * table[g, COLUMNS + THIRD_FIXED]
                a_at[j] = ((n * src_h + h) * src_w + v) * src_c + c_group * depth
        terms_h, terms_w = table[g, ROWS + TERMS], table[g, COLUMNS + TERMS]
        chunks = terms_h * terms_w * ((depth + BK - 1) // BK)
        w_group = c_group * (columns * w_column if w_depth == 1 else depth * w_depth)
        for i in range(tm):
            for j in range(tn):
                acc[i, j] = zero

        # 3. Chunk by chunk: fetch the next one, multiply the last one, put the next one in the other buffer.
        th, tw, k0, buffer = 0, 0, 0, uint32(0)
        for chunk in range(chunks + 1):
            if chunk < chunks:
                src_step = (th * table[g, ROWS + THIRD_TERM] * src_w + tw * table[g, COLUMNS + THIRD_TERM]) * src_c + k0
                fh = table[g, ROWS + SUMMED] + th * table[g, ROWS + SUMMED_STEP]
                fw = table[g, COLUMNS + SUMMED] + tw * table[g, COLUMNS + SUMMED_STEP]
                w_at = w_group + (fh * taps_w + fw) * w_tap + k0 * w_depth
                for j in range(a_loads):
                    k = (t + j * threads) % BK
                    a_next[j] = src[a_at[j] + src_step + k] if a_at[j] >= 0 and k0 + k < depth else zero
                for j in range(b_loads):
                    e = t + j * threads
                    k, c = (e // bn, e % bn) if column_major else (e % BK, e // BK)
                    inside = k0 + k < depth and n0 + c < columns
                    b_next[j] = w[w_at + k * w_depth + (n0 + c) * w_column] if inside else zero
                k0 += BK
                if k0 >= depth:
                    k0 = 0
                    tw += 1
                    if tw == terms_w:
                        tw = 0
                        th += 1
            if chunk > 0:
                multiply_chunk(acc, a_tile, b_tile, buffer, a, b, t)
            if chunk < chunks:
                buffer ^= uint32(1)
                for j in range(a_loads):
                    e = t + j * threads
                    a_tile[buffer, e % BK, e // BK] = a_next[j]
                for j in range(b_loads):
                    e = t + j * threads
                    if column_major:
                        b_tile[buffer, e // bn, e % bn] = b_next[j]
                    else:
                        b_tile[buffer, e % BK, e // BK] = b_next[j]
            cuda.syncthreads()

        # 4. Write the results that exist.
        for i in range(tm):
            m = m0 + row_of(i, t)
            if m < rows:
                n, kh, kw = m // positions, m % positions // rows_w, m % rows_w
                h = table[g, ROWS + FIXED] + kh * table[g, ROWS + FIXED_STEP]
                v = table[g, COLUMNS + FIXED] + kw * table[g, COLUMNS + FIXED_STEP]
                at = ((n * out_h + h) * out_w + v) * out_c + c_group * columns
                for j in range(tn):
                    c = n0 + column_of(j, t)
                    if c < columns:
                        out[at + c] = acc[i, j]

    return gather_gemm


def gather_gemm(operator: str, shape: ConvShape, src: Any, w: Any, out: Any, tile: Tile | None = None) -> list[Launch]:
    """The launch of ``tiled`` conv2d (src = x, out = y) or conv2d_input (src = dy, out = dx)."""
    tile = tile or gather_tile(operator, shape)
    blocks = tile_blocks(operator, shape, tile)
    ic, oc = shape.ic // shape.groups, shape.oc // shape.groups
    tap = shape.fh * shape.fw * ic  # from one output channel of w to the next
    forward = operator == "conv2d"
    depth, columns, w_depth, w_column = (ic, oc, 1, tap) if forward else (oc, ic, tap, 1)
    table = _device_table(operator, shape, blocks, src)
    sizes = (shape.n, *src.shape[1:], *out.shape[1:], depth, columns, shape.fw, ic, w_depth, w_column)
    grid = (sum(blocks), shape.groups * ceil_div(columns, tile.bn))
    args = (src.reshape(-1), w.reshape(-1), out.reshape(-1), table, *sizes)
    return [
        Launch(f"{operator} tiled {tile.bm}x{tile.bn}", _gather_kernel(tile, not forward), grid, (tile.threads,), args)
    ]


@lru_cache(maxsize=16)
def _weight_kernel(tile: Tile) -> Any:
    """Compile-time sizes of ``weight_gemm``."""
    bm, bn, tm, tn = tile
    threads, a_loads, b_loads = tile.threads, bm * BK // tile.threads, bn * BK // tile.threads
    row_of, column_of, multiply_chunk = _thread_tile(tile)

    @cuda.jit
    def weight_gemm(
        x, dy, out, table, images, in_h, in_w, in_c, out_h, out_w, out_c, rows, depth, taps_h, taps_w
    ):  # fmt: skip
        """out[split, oc, tap, ic] = sum over the split's (n, oh, ow) of dy[n, oh, ow, oc] * x[n, ih, iw, ic]."""
        a_tile = cuda.shared.array((2, BK, bm), x.dtype, ALIGN)
        b_tile = cuda.shared.array((2, BK, bn), x.dtype, ALIGN)
        acc = cuda.local.array((tm, tn), x.dtype)
        a, b = cuda.local.array(tm, x.dtype), cuda.local.array(tn, x.dtype)
        a_next, b_next = cuda.local.array(a_loads, x.dtype), cuda.local.array(b_loads, x.dtype)
        t = uint32(cuda.threadIdx.x)
        zero = x.dtype.type(0)

        # 1. The group of this block, its tile, its channel group, and the part of the sum that is its own.
        g = 0
        while table[g + 1, FIRST_BLOCK] <= cuda.blockIdx.x:
            g += 1
        taps_across = table[g, COLUMNS + COUNT]
        columns = table[g, ROWS + COUNT] * taps_across * depth  # (fh, fw, ic)
        n0 = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * bn
        row_blocks = (rows + bm - 1) // bm
        c_group, m0 = cuda.blockIdx.y // row_blocks, cuda.blockIdx.y % row_blocks * bm
        terms_w = table[g, COLUMNS + TERMS]
        terms = table[g, ROWS + TERMS] * terms_w
        length = images * terms
        chunks_of_split = ((length + BK - 1) // BK + cuda.gridDim.z - 1) // cuda.gridDim.z
        first = cuda.blockIdx.z * chunks_of_split * BK
        last = min(length, first + chunks_of_split * BK)
        chunks = max(0, last - first + BK - 1) // BK

        # 2. Where the row and the column that this thread loads start.
        row, column = m0 + t % bm, n0 + t % bn
        a_at, b_at = c_group * rows + row, c_group * depth
        if column < columns:
            tap, ic = column // depth, column % depth
            h = table[g, ROWS + THIRD] + tap // taps_across * table[g, ROWS + THIRD_FIXED]
            v = table[g, COLUMNS + THIRD] + tap % taps_across * table[g, COLUMNS + THIRD_FIXED]
            b_at += (h * in_w + v) * in_c + ic
        for i in range(tm):
            for j in range(tn):
                acc[i, j] = zero

        # 3. Chunk by chunk: fetch the next one, multiply the last one, put the next one in the other buffer.
        buffer = uint32(0)
        for chunk in range(chunks + 1):
            if chunk < chunks:
                for j in range(a_loads):
                    k = first + chunk * BK + (t + j * threads) // bm
                    a_next[j] = zero
                    if row < rows and k < last:
                        n, oh, ow = k // terms, k % terms // terms_w, k % terms_w
                        oh = table[g, ROWS + SUMMED] + oh * table[g, ROWS + SUMMED_STEP]
                        ow = table[g, COLUMNS + SUMMED] + ow * table[g, COLUMNS + SUMMED_STEP]
                        a_next[j] = dy[((n * out_h + oh) * out_w + ow) * out_c + a_at]
                for j in range(b_loads):
                    k = first + chunk * BK + (t + j * threads) // bn
                    b_next[j] = zero
                    if column < columns and k < last:
                        n, h, v = k // terms, k % terms // terms_w, k % terms_w
                        h, v = h * table[g, ROWS + THIRD_TERM], v * table[g, COLUMNS + THIRD_TERM]
                        b_next[j] = x[((n * in_h + h) * in_w + v) * in_c + b_at]
            if chunk > 0:
                multiply_chunk(acc, a_tile, b_tile, buffer, a, b, t)
            if chunk < chunks:
                buffer ^= uint32(1)
                for j in range(a_loads):
                    a_tile[buffer, (t + j * threads) // bm, t % bm] = a_next[j]
                for j in range(b_loads):
                    b_tile[buffer, (t + j * threads) // bn, t % bn] = b_next[j]
            cuda.syncthreads()

        # 4. Write the results that exist, to this split's own array.
        for j in range(tn):
            column = n0 + column_of(j, t)
            if column < columns:
                tap, ic = column // depth, column % depth
                fh = table[g, ROWS + FIXED] + tap // taps_across * table[g, ROWS + FIXED_STEP]
                fw = table[g, COLUMNS + FIXED] + tap % taps_across * table[g, COLUMNS + FIXED_STEP]
                for i in range(tm):
                    row = m0 + row_of(i, t)
                    if row < rows:
                        oc = cuda.blockIdx.z * out_c + c_group * rows + row
                        out[((oc * taps_h + fh) * taps_w + fw) * depth + ic] = acc[i, j]

    return weight_gemm


@cuda.jit
def sum_splits(partial, out):
    """out = partial[0] + partial[1] + ..., always in this order; one thread an element."""
    index = cuda.grid(1)
    if index < out.size:
        acc = partial[0, index]
        for split in range(1, partial.shape[0]):
            acc += partial[split, index]
        out[index] = acc


def weight_gemm(
    shape: ConvShape, x: Any, dy: Any, dw: Any, tile: Tile | None = None, splits: int | None = None
) -> list[Launch]:
    """The launches of ``tiled`` conv2d_weight: the GEMMs, and where the sum is split, the second pass."""
    tile, splits = tile or weight_tile(shape)[0], splits or weight_tile(shape)[1]
    blocks = tile_blocks("conv2d_weight", shape, tile)
    rows, depth = shape.oc // shape.groups, shape.ic // shape.groups
    flat = dw.reshape(-1)
    partial = scratch(dw, (splits, flat.shape[0])) if splits > 1 else flat
    table = _device_table("conv2d_weight", shape, blocks, x)
    sizes = (shape.n, *x.shape[1:], *dy.shape[1:], rows, depth, shape.fh, shape.fw)
    grid = (sum(blocks), shape.groups * ceil_div(rows, tile.bm), splits)
    args = (x.reshape(-1), dy.reshape(-1), partial.reshape(-1), table, *sizes)
    launches = [Launch(f"conv2d_weight tiled {tile.bm}x{tile.bn}", _weight_kernel(tile), grid, (tile.threads,), args)]
    if splits > 1:
        launches.append(one_thread_each(f"sum of {splits} splits", sum_splits, flat, (partial, flat)))
    return launches


@lru_cache(maxsize=256)
def _table(operator: str, shape: ConvShape, blocks: tuple[int, ...]) -> np.ndarray:
    return group_table(plan(operator, shape), blocks)


@lru_cache(maxsize=256)
def _uploaded(operator: str, shape: ConvShape, blocks: tuple[int, ...], device: int) -> Any:
    return cuda.to_device(_table(operator, shape, blocks))


def _device_table(operator: str, shape: ConvShape, blocks: tuple[int, ...], like: Any) -> Any:
    """The group table where `like` lives, uploaded once for a shape and a device."""
    if isinstance(like, np.ndarray):
        return _table(operator, shape, blocks)
    return _uploaded(operator, shape, blocks, 0 if SIMULATED else cuda.get_current_device().id)
