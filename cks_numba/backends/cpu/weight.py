"""conv2d_weight on the CPU: rows and lanes of a tile are channels of dy and x, packed a chunk of the sum at a time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import carray, njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from ...geometry import ConvShape, plan
from ...tables import (
    COLUMNS,
    COUNT,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    TERMS,
    THIRD,
    THIRD_FIXED,
    THIRD_TERM,
    group_table,
)
from .compiled import (
    NEXT_TASK,
    OWN,
    SCRATCH_HEAD,
    Array,
    arguments_of,
    ceil_div,
    even_part,
    number_of_threads,
    own_scratch,
    round_up,
    start,
    table_at,
)
from .registers import LANE_BYTES, TILE_ROWS, addresses_in, bytes_of, integers_at, next_number, zeros
from .tile import copy_part, pack, put, sum_of_products

Strides = tuple[int, ...]

CHUNK_TERMS = 384  # products of a result that are added up in registers
RESULT_BYTES = 256 * 2**10  # of results of a task, which each chunk adds to
PACKING = 8  # cost of packing a number, in multiply-adds of a vector lane
ARGUMENTS = OWN + 37


# --- the sizes -----------------------------------------------------------------------------------
def run(shape: ConvShape, x: Array, dy: Array, dw: Array) -> None:
    threads = number_of_threads("conv2d_weight", shape)
    sizes, scratch, _ = sizes_of(shape, x.strides, dy.strides, dw.strides, dw.itemsize, threads)
    start(weight, dw.dtype, threads, sizes, (x.ctypes.data, dy.ctypes.data, dw.ctypes.data), scratch)


@lru_cache(maxsize=1024)
def sizes_of(
    shape: ConvShape, x: Strides, dy: Strides, dw: Strides, itemsize: int, threads: int
) -> tuple[Array, int, Array]:
    """The same for ``weight``; of all that, only the size of a task depends on the number of threads."""
    groups = plan("conv2d_weight", shape)
    table = group_table(groups, [0] * len(groups.groups), np.int64)
    taps = sum(group.positions for group in groups.groups if group.terms)
    high, wide = TILE_ROWS, LANE_BYTES // itemsize
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups

    def in_tiles(rows: int, lanes: int) -> int:
        return round_up(rows, high) * round_up(lanes, wide)

    turned = in_tiles(ic, oc) < 0.8 * in_tiles(oc, ic)  # not for little: dw is then written number by number
    rows, lanes = (ic, oc) if turned else (oc, ic)

    def busiest(block: tuple[int, int]) -> float:
        """Work of the thread that has most, in multiply-adds of a vector lane."""
        tasks = shape.groups * ceil_div(rows, block[0]) * ceil_div(lanes, block[1])
        return ceil_div(tasks, threads) * (taps * in_tiles(*block) + PACKING * sum(block))

    blocks = [
        (min(i * high, round_up(rows, high)), min(j * wide, round_up(lanes, wide)))
        for i in range(1, 17)
        for j in range(1, 9)
        if i * j == 1 or taps * i * high * j * wide * itemsize <= RESULT_BYTES
    ]
    block_rows, block_lanes = min(blocks, key=busiest)
    images = even_part(shape.n, CHUNK_TERMS // (shape.oh * shape.ow))
    output_rows = even_part(shape.oh, CHUNK_TERMS // shape.ow)
    input_rows = min(shape.ih, (output_rows - 1) * shape.h.stride + shape.h.span)
    x_channels, dy_channels = (high, wide) if turned else (wide, high)  # side by side
    x_image = spread(input_rows * shape.iw * x_channels * itemsize)  # one image of so many channels
    dy_image = spread(output_rows * shape.ow * dy_channels * itemsize)
    row_parts, lane_parts = block_rows // high, block_lanes // wide
    x_parts, dy_parts = (row_parts, lane_parts) if turned else (lane_parts, row_parts)
    x_bytes, dy_bytes = round_up(x_parts * images * x_image, 64), dy_parts * images * dy_image
    arguments = arguments_of(
        table,
        (shape.n, shape.groups, rows, lanes, block_rows, block_lanes),
        (images, output_rows, int(turned), x_image, dy_image, x_bytes),
        (shape.ih, shape.iw, shape.oh, shape.ow, shape.h.stride, shape.h.before, shape.h.span),
        x,
        dy,
        (dw[3], dw[0]) if turned else (dw[0], dw[3]),
        (dw[1], dw[2], oc * dw[0]),
    )
    return arguments, SCRATCH_HEAD + x_bytes + dy_bytes, table


def spread(count: int) -> int:
    """The bytes, or if many an odd number of cache lines: steps of this size go all over the cache."""
    return count if count < 1024 else (ceil_div(count, 64) | 1) * 64


# --- the kernel ----------------------------------------------------------------------------------
@njit
def pack_images(zero, target, image_step, source, steps, images, rows, columns, channels, together):
    """Copy (n, h, w, c) of any steps to (c // together, n, h, w, c % together); the last part is filled with zeros."""
    step, part_step = together * bytes_of(zero), images * image_step
    if steps[1] == columns * steps[2]:  # rows, and perhaps images, that follow each other are one long row
        columns, rows = rows * columns, 1
        if steps[0] == columns * steps[2] and image_step == columns * step:
            columns, images = images * columns, 1
    whole = channels // together if steps[3] == bytes_of(zero) else 0
    for n in range(images):
        for h in range(rows):
            at, there = source + n * steps[0] + h * steps[1], target + n * image_step + h * columns * step
            for w in range(columns):  # in the order of memory, which is what a cache foresees
                for part in range(whole):
                    copy_part(zero, there + part * part_step + w * step, at + w * steps[2] + part * step, together)
            for part in range(whole, -(-channels // together)):
                pack(
                    zero, there + part * part_step, step, at + part * together * steps[3], steps[2], steps[3],
                    columns, min(together, channels - part * together), together,
                )  # fmt: skip


@njit
def longest_last(counts, a_steps, b_steps):
    """The same three loops, with the longest innermost."""
    n, h, w = counts
    if n >= h and n > w:
        order = (2, 1, 0)
    elif h > w:
        order = (0, 2, 1)
    else:
        order = (0, 1, 2)
    x, y, z = order
    return (
        (counts[x], counts[y], counts[z]),
        (a_steps[x], a_steps[y], a_steps[z]),
        (b_steps[x], b_steps[y], b_steps[z]),
    )


@njit
def place_channels(first, rows, size, out, out_step, a_rows, out_rows):
    """Place the tile's rows, which are channels from `first` on; rows past the last repeat it. Returns their number."""
    count = min(TILE_ROWS, rows - first)
    for r in range(TILE_ROWS):
        a_rows[r] = min(r, count - 1) * size
        out_rows[r] = out + (first + min(r, count - 1)) * out_step
    return count


@njit
def place_taps(w, first, rows, channels, part, a_steps, out, out_steps, a_rows, out_rows):
    """The same for rows which are (kh, kw, channel)."""
    kh, kw, channel = 0, 0, first
    count = min(TILE_ROWS, rows - first)
    for r in range(TILE_ROWS):
        while channel >= channels:
            channel, kw = channel - channels, kw + 1
            if kw == w[COUNT]:
                kw, kh = 0, kh + 1
        a_rows[r] = channel // TILE_ROWS * part + channel % TILE_ROWS * a_steps[2] + kh * a_steps[0] + kw * a_steps[1]
        out_rows[r] = out + channel * out_steps[0] + kh * out_steps[1] + kw * out_steps[2]
        if r < count - 1:
            channel += 1
    return count


@njit
def add_group(zero, h, w, terms, turned, x, dy, x_by, dy_by, out, out_steps, rows, lanes, add, own):
    """Add the terms of one chunk to the results of a group of taps.

    Where x is in the lanes every tap has tiles of its own; `turned`, where x is in the rows, the rows of
    all taps of the group share tiles, because they meet the same dy.
    """
    size = bytes_of(zero)
    a_rows, out_rows, tile_rows, _ = own
    width = LANE_BYTES // size
    a, b, a_by, b_by = (x, dy, x_by, dy_by) if turned else (dy, x, dy_by, x_by)
    n = terms[0]
    a_part, b_part = n * a_by[0], n * b_by[0]  # from one part of the channels to the next
    counts, a_loops, b_loops = longest_last(terms, a_by, b_by)
    x_h, x_w = h[THIRD_FIXED] * x_by[3], w[THIRD_FIXED] * x_by[4]  # from one tap of the group to the next
    out_h, out_w = h[FIXED_STEP] * out_steps[2], w[FIXED_STEP] * out_steps[3]
    a_steps, steps = (x_h, x_w, size), (out_steps[0], out_h, out_w)
    together = h[COUNT] * w[COUNT] if turned else 1
    for k in range(0, h[COUNT] * w[COUNT], together):
        kh, kw = k // w[COUNT], k % w[COUNT]
        b_k = b if turned else b + kh * x_h + kw * x_w
        for lane in range(0, lanes, width):
            at = out + kh * out_h + kw * out_w + lane * out_steps[1]
            for first in range(0, together * rows, TILE_ROWS):
                if turned:
                    a_first = a
                    count = place_taps(w, first, together * rows, rows, a_part, a_steps, at, steps, a_rows, out_rows)
                else:
                    a_first = a + first // TILE_ROWS * a_part
                    count = place_channels(first, rows, size, at, out_steps[0], a_rows, out_rows)
                tile = sum_of_products(
                    zeros(zero), addresses_in(a_rows), a_first, b_k + lane // width * b_part, counts, a_loops, b_loops
                )
                put(tile, zero, out_rows, count, min(width, lanes - lane), out_steps[1], add, tile_rows)


def weight(zero, arguments):
    """Kernel: run conv2d_weight until no task is left; a task is a block of rows and lanes, with all taps and terms.

    The sum goes over chunks of images and output rows, always the same ones in the same order.
    """
    size = bytes_of(zero)
    arguments = carray(integers_at(arguments), ARGUMENTS)
    x, dy, out, groups_at, groups = to_fixed_tuple(arguments[OWN : OWN + 5], 5)
    images, channel_groups, rows, lanes, block_rows, block_lanes = to_fixed_tuple(arguments[OWN + 5 : OWN + 11], 6)
    chunk_images, chunk_rows, turned, x_image, dy_image, x_bytes = to_fixed_tuple(arguments[OWN + 11 : OWN + 17], 6)
    ih, iw, oh, ow, stride, before, span = to_fixed_tuple(arguments[OWN + 17 : OWN + 24], 7)
    x_steps = to_fixed_tuple(arguments[OWN + 24 : OWN + 28], 4)
    dy_steps = to_fixed_tuple(arguments[OWN + 28 : OWN + 32], 4)
    out_steps = to_fixed_tuple(arguments[OWN + 32 : OWN + 37], 5)
    own = own_scratch(arguments)
    x_packed, dy_packed = own[3], own[3] + x_bytes
    table = table_at(groups_at, groups)
    width = LANE_BYTES // size
    row_blocks, lane_blocks = -(-rows // block_rows), -(-lanes // block_lanes)
    x_part, dy_part = (TILE_ROWS, width) if turned else (width, TILE_ROWS)  # channels side by side
    x_step, dy_step = x_part * size, dy_part * size
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= channel_groups * row_blocks * lane_blocks:
            return
        g, block = task // (row_blocks * lane_blocks), task % (row_blocks * lane_blocks)
        row, lane = block // lane_blocks * block_rows, block % lane_blocks * block_lanes
        task_rows, task_lanes = min(block_rows, rows - row), min(block_lanes, lanes - lane)
        x_first, dy_first = (g * rows + row, g * lanes + lane) if turned else (g * lanes + lane, g * rows + row)
        x_channels, dy_channels = (task_rows, task_lanes) if turned else (task_lanes, task_rows)
        at = out + g * out_steps[4] + row * out_steps[0] + lane * out_steps[1]
        for n0 in range(0, images, chunk_images):
            n = min(chunk_images, images - n0)
            for oh0 in range(0, oh, chunk_rows):
                oh1 = min(oh, oh0 + chunk_rows)
                ih0 = max(0, oh0 * stride - before)
                ih1 = max(ih0, min(ih, (oh1 - 1) * stride - before + span))
                add = n0 > 0 or oh0 > 0
                pack_images(
                    zero, x_packed, x_image, x + n0 * x_steps[0] + ih0 * x_steps[1] + x_first * x_steps[3],
                    x_steps, n, ih1 - ih0, iw, x_channels, x_part,
                )  # fmt: skip
                pack_images(
                    zero, dy_packed, dy_image, dy + n0 * dy_steps[0] + oh0 * dy_steps[1] + dy_first * dy_steps[3],
                    dy_steps, n, oh1 - oh0, ow, dy_channels, dy_part,
                )  # fmt: skip
                for group in range(groups):
                    h, w = table[group, ROWS:COLUMNS], table[group, COLUMNS:]
                    skipped = max(0, oh0 - h[SUMMED])  # output rows of the group in chunks before this one
                    terms = max(0, min(h[TERMS], oh1 - h[SUMMED]) - skipped)
                    if add and terms == 0:
                        continue
                    x_h, dy_h = h[THIRD] + skipped * h[THIRD_TERM] - ih0, h[SUMMED] + skipped - oh0
                    add_group(
                        zero, h, w, (n, terms, w[TERMS]), turned,
                        x_packed + (x_h * iw + w[THIRD]) * x_step, dy_packed + (dy_h * ow + w[SUMMED]) * dy_step,
                        (x_image, h[THIRD_TERM] * iw * x_step, w[THIRD_TERM] * x_step, iw * x_step, x_step),
                        (dy_image, ow * dy_step, dy_step, ow * dy_step, dy_step),
                        at + h[FIXED] * out_steps[2] + w[FIXED] * out_steps[3], out_steps,
                        task_rows, task_lanes, add, own,
                    )  # fmt: skip
