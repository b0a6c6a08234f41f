"""conv2d_weight on the CPU, by one of two kernels: the one that fills its tiles better.

==========  ==========================  ===================  ============  ==========================
kernel      rows of a tile              lanes                sum over      a group of
==========  ==========================  ===================  ============  ==========================
``weight``  channels of dy              channels of x        n, oh, ow     plan("conv2d_weight")
``few``     taps, and channels of x     channels of dy       n, oh, ow     plan("conv2d")
``few``     taps, and channels of dy    channels of x        n, ih, iw     plan("conv2d_input")
==========  ==========================  ===================  ============  ==========================

``few`` is for few channels on one side, which would fill a part of a tile. Positions that meet the same taps
are a group of the other operators' plans: in it all taps share tiles, and still no zero is multiplied.

Both work on a chunk of the sum at a time, always the same ones in the same order, and pack its lanes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
from numba import carray, njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from ...geometry import Axis, ConvShape, plan
from ...tables import (
    COLUMNS,
    COUNT,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    SUMMED_STEP,
    TABLE_WIDTH,
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
from .registers import (
    LANE_BYTES,
    TILE_ROWS,
    addresses_in,
    bytes_of,
    integers_at,
    next_number,
    number_at,
    write_number,
    zeros,
)
from .tile import copy_part, pack, put, sum_and_fetch, sum_of_products

Strides = tuple[int, ...]
Slices = tuple[slice, ...]
Sizes = tuple[Array, int, Array]  # the arguments of a kernel, its scratch memory, the table that they point to

CHUNK_TERMS = 384  # products of a result that are added up in registers
RESULT_BYTES = 256 * 2**10  # of results of a task, which each chunk adds to
PACKED_BYTES = 768 * 2**10  # of a chunk, about, in ``weight``
FEW_BYTES = 2**20  # of results of a task of ``few``, at most
PACKING = 16  # cost of packing a number, in multiply-adds of a vector lane
SAVING = 0.9  # of the work of ``weight``, which ``few`` must stay below
STARTING = 32  # cost of placing a tile and adding it to its results, in terms of its sum
ARGUMENTS, FEW_ARGUMENTS = OWN + 36, OWN + 27


# --- the sizes -----------------------------------------------------------------------------------
def run(shape: ConvShape, x: Array, dy: Array, dw: Array) -> None:
    shape, x_used, dy_used = used(shape)
    x, dy = x[x_used], dy[dy_used]
    threads = number_of_threads("conv2d_weight", shape)
    way, (sizes, scratch, _) = sizes_of(shape, x.strides, dy.strides, dw.strides, dw.itemsize, threads)
    a, b = (dy, x) if way == "conv2d_input" else (x, dy)
    kernel = weight if way == "conv2d_weight" else few
    start(kernel, dw.dtype, threads, sizes, (a.ctypes.data, b.ctypes.data, dw.ctypes.data), scratch)


@lru_cache(maxsize=1024)
def used(shape: ConvShape) -> tuple[ConvShape, Slices, Slices]:
    """Where the rows and columns of x and of dy are that have a product, and the shape over those alone.

    Only of axes with one tap. A stride leaves most of x out there, and padding some of dy.
    """
    axes, x_used, dy_used = [], [slice(None)], [slice(None)]
    for axis in (shape.h, shape.w):
        first = axis.runs("conv2d_weight")[0]
        if axis.taps == 1 and first.terms:
            x_used.append(slice(first.i.base, first.i.at(0, first.terms - 1) + 1, axis.stride))
            dy_used.append(slice(first.o.base, first.o.base + first.terms))
            axis = Axis(size=first.terms, taps=1, stride=1, before=0, after=0, dilation=1)
        else:
            x_used.append(slice(None))
            dy_used.append(slice(None))
        axes.append(axis)
    return shape.with_axes(*axes), tuple(x_used), tuple(dy_used)


@lru_cache(maxsize=1024)
def sizes_of(shape: ConvShape, x: Strides, dy: Strides, dw: Strides, itemsize: int, threads: int) -> tuple[str, Sizes]:
    """The plan to go by and the sizes; of all that, only the size of a task depends on the number of threads."""
    way = best_way(shape, itemsize)
    if way == "conv2d_weight":
        return way, sizes_of_weight(shape, x, dy, dw, itemsize, threads)
    a, b = (x, dy) if way == "conv2d" else (dy, x)
    return way, sizes_of_few(way, shape, a, b, dw, itemsize, threads)


def best_way(shape: ConvShape, itemsize: int) -> str:
    """The plan to go by: that of the operator, unless the tiles of another one are clearly fewer."""
    high, wide = TILE_ROWS, LANE_BYTES // itemsize
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups

    def work(way: str) -> int:
        """Terms of all tiles."""
        total = 0
        for group in plan(way, shape).groups:
            if way == "conv2d_weight":
                tiles, terms = group.positions * ceil_div(oc, high) * ceil_div(ic, wide), shape.n * group.terms
            else:
                rows, lanes = (ic, oc) if way == "conv2d" else (oc, ic)
                tiles, terms = ceil_div(group.terms * rows, high) * ceil_div(lanes, wide), shape.n * group.positions
            total += tiles * (terms + STARTING * ceil_div(terms, CHUNK_TERMS))
        return total

    best, least = "conv2d_weight", work("conv2d_weight") * SAVING
    for way, rows in (("conv2d", ic), ("conv2d_input", oc)):
        if shape.fh * shape.fw * rows * LANE_BYTES <= FEW_BYTES and work(way) < least:
            best, least = way, work(way)
    return best


def sizes_of_few(way: str, shape: ConvShape, a: Strides, b: Strides, dw: Strides, itemsize: int, threads: int) -> Sizes:
    """The sizes for ``few``; a is the side with few channels, b the other one."""
    groups = plan(way, shape)
    table = group_table(groups, [0] * len(groups.groups), np.int64)
    wide = LANE_BYTES // itemsize
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    rows, lanes = (ic, oc) if way == "conv2d" else (oc, ic)
    columns, dw_steps = (shape.ow, (dw[3], dw[0])) if way == "conv2d" else (shape.iw, (dw[0], dw[3]))
    lane_bytes = shape.fh * shape.fw * rows * itemsize  # of results
    blocks = [
        block
        for block in range(wide, min(8 * wide, round_up(lanes, wide)) + 1, wide)
        if block == wide or block * lane_bytes <= RESULT_BYTES
    ]

    def busiest(block: int) -> tuple[int, int]:
        """Lanes of the thread that has most; of blocks that are the same in that, the largest."""
        return ceil_div(shape.groups * ceil_div(lanes, block), threads) * block, -block

    block = min(blocks, key=busiest)
    result_bytes = round_up(block * lane_bytes, 64)
    arguments = arguments_of(
        table,
        (shape.n, shape.groups, shape.fh, shape.fw, rows, lanes, block, CHUNK_TERMS, result_bytes),
        a,
        b,
        (dw[1], dw[2], *dw_steps, oc * dw[0]),
    )
    return arguments, SCRATCH_HEAD + result_bytes + max(CHUNK_TERMS, columns) * block * itemsize, table


def sizes_of_weight(shape: ConvShape, x: Strides, dy: Strides, dw: Strides, itemsize: int, threads: int) -> Sizes:
    """The sizes for ``weight``."""
    groups = plan("conv2d_weight", shape)
    table = group_table(groups, [0] * len(groups.groups), np.int64)
    taps = sum(group.positions for group in groups.groups if group.terms)
    high, wide = TILE_ROWS, LANE_BYTES // itemsize
    rows, lanes = shape.oc // shape.groups, shape.ic // shape.groups

    def busiest(block: tuple[int, int]) -> float:
        """Work of the thread that has most, in multiply-adds of a vector lane."""
        tasks = shape.groups * ceil_div(rows, block[0]) * ceil_div(lanes, block[1])
        return ceil_div(tasks, threads) * (taps * prod(block) + PACKING * sum(block))

    def parts(whole: int, width: int) -> set[int]:
        """Sizes that cut the channels evenly."""
        return {round_up(ceil_div(whole, count), width) for count in range(1, ceil_div(whole, width) + 1)}

    blocks = [
        block
        for block in sorted(product(parts(rows, high), parts(lanes, wide)))
        if block == (high, wide)
        or (
            taps * min(rows, block[0]) * min(lanes, block[1]) * itemsize <= RESULT_BYTES
            and CHUNK_TERMS * sum(block) * itemsize <= PACKED_BYTES
        )
    ]
    block_rows, block_lanes = min(blocks, key=busiest)
    images = even_part(shape.n, CHUNK_TERMS // (shape.oh * shape.ow))
    output_rows = even_part(shape.oh, CHUNK_TERMS // shape.ow)
    input_rows = min(shape.ih, (output_rows - 1) * shape.h.stride + shape.h.span)
    x_image = spread(input_rows * shape.iw * LANE_BYTES)  # one image of the channels of a tile
    dy_image = spread(output_rows * shape.ow * high * itemsize)
    x_bytes = round_up(block_lanes // wide * images * x_image, 64)
    dy_bytes = block_rows // high * images * dy_image
    arguments = arguments_of(
        table,
        (shape.n, shape.groups, rows, lanes, block_rows, block_lanes),
        (images, output_rows, x_image, dy_image, x_bytes),
        (shape.ih, shape.iw, shape.oh, shape.ow, shape.h.stride, shape.h.before, shape.h.span),
        x,
        dy,
        (*dw, rows * dw[0]),
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
            for part in range(whole, ceil_div(channels, together)):
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
def add_group(zero, h, w, terms, x, dy, x_by, dy_by, out, out_steps, rows, lanes, add, own):
    """Add the terms of one chunk to the results of a group of taps."""
    size = bytes_of(zero)
    a_rows, out_rows, tile_rows, _ = own
    width = LANE_BYTES // size
    x_part, dy_part = terms[0] * x_by[0], terms[0] * dy_by[0]  # from one part of the channels to the next
    counts, dy_loops, x_loops = longest_last(terms, dy_by, x_by)
    for kh in range(h[COUNT]):
        for kw in range(w[COUNT]):
            x_tap = x + kh * h[THIRD_FIXED] * x_by[3] + kw * w[THIRD_FIXED] * x_by[4]
            at_tap = out + kh * h[FIXED_STEP] * out_steps[1] + kw * w[FIXED_STEP] * out_steps[2]
            for lane in range(0, lanes, width):
                at = at_tap + lane * out_steps[3]
                for first in range(0, rows, TILE_ROWS):
                    count = place_channels(first, rows, size, at, out_steps[0], a_rows, out_rows)
                    tile = sum_of_products(
                        zeros(zero), addresses_in(a_rows), dy + first // TILE_ROWS * dy_part,
                        x_tap + lane // width * x_part, counts, dy_loops, x_loops,
                    )  # fmt: skip
                    put(tile, zero, out_rows, count, min(width, lanes - lane), out_steps[3], add, tile_rows)


def weight(zero, arguments):
    """Kernel: run conv2d_weight until no task is left; a task is a block of rows and lanes, with all taps and terms."""
    size = bytes_of(zero)
    arguments = carray(integers_at(arguments), ARGUMENTS)
    x, dy, out, groups_at, groups = to_fixed_tuple(arguments[OWN : OWN + 5], 5)
    images, channel_groups, rows, lanes, block_rows, block_lanes = to_fixed_tuple(arguments[OWN + 5 : OWN + 11], 6)
    chunk_images, chunk_rows, x_image, dy_image, x_bytes = to_fixed_tuple(arguments[OWN + 11 : OWN + 16], 5)
    ih, iw, oh, ow, stride, before, span = to_fixed_tuple(arguments[OWN + 16 : OWN + 23], 7)
    x_steps = to_fixed_tuple(arguments[OWN + 23 : OWN + 27], 4)
    dy_steps = to_fixed_tuple(arguments[OWN + 27 : OWN + 31], 4)
    out_steps = to_fixed_tuple(arguments[OWN + 31 : OWN + 36], 5)
    own = own_scratch(arguments)
    x_packed, dy_packed = own[3], own[3] + x_bytes
    table = table_at(groups_at, groups, TABLE_WIDTH)
    row_blocks, lane_blocks = ceil_div(rows, block_rows), ceil_div(lanes, block_lanes)
    width = LANE_BYTES // size
    x_step, dy_step = LANE_BYTES, TILE_ROWS * size
    while True:
        # 1. a task: some channels of dy, some of x
        task = next_number(arguments, NEXT_TASK)
        if task >= channel_groups * row_blocks * lane_blocks:
            return
        g, block = task // (row_blocks * lane_blocks), task % (row_blocks * lane_blocks)
        row, lane = block // lane_blocks * block_rows, block % lane_blocks * block_lanes
        task_rows, task_lanes = min(block_rows, rows - row), min(block_lanes, lanes - lane)
        x_first, dy_first = x + (g * lanes + lane) * x_steps[3], dy + (g * rows + row) * dy_steps[3]
        at = out + g * out_steps[4] + row * out_steps[0] + lane * out_steps[3]
        for n0 in range(0, images, chunk_images):
            n = min(chunk_images, images - n0)
            for oh0 in range(0, oh, chunk_rows):
                oh1 = min(oh, oh0 + chunk_rows)
                ih0 = max(0, oh0 * stride - before)
                ih1 = max(ih0, min(ih, (oh1 - 1) * stride - before + span))
                add = n0 > 0 or oh0 > 0
                # 2. a chunk of both, packed
                pack_images(
                    zero, x_packed, x_image, x_first + n0 * x_steps[0] + ih0 * x_steps[1],
                    x_steps, n, ih1 - ih0, iw, task_lanes, width,
                )  # fmt: skip
                pack_images(
                    zero, dy_packed, dy_image, dy_first + n0 * dy_steps[0] + oh0 * dy_steps[1],
                    dy_steps, n, oh1 - oh0, ow, task_rows, TILE_ROWS,
                )  # fmt: skip
                # 3. its terms, group by group
                for group in range(groups):
                    h, w = table[group, ROWS:COLUMNS], table[group, COLUMNS:]
                    skipped = max(0, oh0 - h[SUMMED])  # output rows of the group in chunks before this one
                    terms = max(0, min(h[TERMS], oh1 - h[SUMMED]) - skipped)
                    if add and terms == 0:
                        continue
                    x_h, dy_h = h[THIRD] + skipped * h[THIRD_TERM] - ih0, h[SUMMED] + skipped - oh0
                    add_group(
                        zero, h, w, (n, terms, w[TERMS]),
                        x_packed + (x_h * iw + w[THIRD]) * x_step, dy_packed + (dy_h * ow + w[SUMMED]) * dy_step,
                        (x_image, h[THIRD_TERM] * iw * x_step, w[THIRD_TERM] * x_step, iw * x_step, x_step),
                        (dy_image, ow * dy_step, dy_step),
                        at + h[FIXED] * out_steps[1] + w[FIXED] * out_steps[2], out_steps,
                        task_rows, task_lanes, add, own,
                    )  # fmt: skip


# --- few channels on one side --------------------------------------------------------------------
@njit
def place_taps(w, first, rows, channels, a_steps, out, out_steps, a_rows, out_rows):
    """Place the tile's rows, which are (tap of h, tap of w, channel); rows past the last repeat it."""
    channel, tap_h, tap_w = first % channels, first // channels // w[TERMS], first // channels % w[TERMS]
    for r in range(TILE_ROWS):
        a_rows[r] = tap_h * a_steps[0] + tap_w * a_steps[1] + channel * a_steps[2]
        out_rows[r] = out + tap_h * out_steps[0] + tap_w * out_steps[1] + channel * out_steps[2]
        if first + r < rows - 1:
            channel += 1
            if channel == channels:
                channel, tap_w = 0, tap_w + 1
                if tap_w == w[TERMS]:
                    tap_h, tap_w = tap_h + 1, 0


def few(zero, arguments):
    """Kernel: the same for few channels of a, which is x or dy; a task is a block of channels of b, the other one.

    a is read where it is, one number at a time, and b is packed. The results stay in the scratch memory until
    they are complete.
    """
    size = bytes_of(zero)
    arguments = carray(integers_at(arguments), FEW_ARGUMENTS)
    a, b, out, groups_at, groups = to_fixed_tuple(arguments[OWN : OWN + 5], 5)
    images, channel_groups, fh, fw, channels, lanes = to_fixed_tuple(arguments[OWN + 5 : OWN + 11], 6)
    block, chunk_terms, result_bytes = to_fixed_tuple(arguments[OWN + 11 : OWN + 14], 3)
    a_steps = to_fixed_tuple(arguments[OWN + 14 : OWN + 18], 4)
    b_steps = to_fixed_tuple(arguments[OWN + 18 : OWN + 22], 4)
    out_steps = to_fixed_tuple(arguments[OWN + 22 : OWN + 27], 5)
    a_rows, out_rows, tile_rows, results = own_scratch(arguments)
    packed = results + result_bytes
    table = table_at(groups_at, groups, TABLE_WIDTH)
    width, blocks = LANE_BYTES // size, ceil_div(lanes, block)
    row_step = block * size  # of the results, which are (fh, fw, channel, lane)
    tap_h, tap_w = fw * channels * row_step, channels * row_step
    while True:
        # 1. a task: some channels of b; its results begin as 0
        task = next_number(arguments, NEXT_TASK)
        if task >= channel_groups * blocks:
            return
        g, lane0 = task // blocks, task % blocks * block
        task_lanes = min(block, lanes - lane0)
        for k in range(fh * fw * channels * block):
            write_number(zero, results + k * size)
        for group in range(groups):
            h, w = table[group, ROWS:COLUMNS], table[group, COLUMNS:]
            rows = h[TERMS] * w[TERMS] * channels
            if rows == 0:
                continue
            # Steps of both sides from one position of the group to the next, and of a and the results from tap to tap.
            a_by = a_steps[0], h[THIRD_FIXED] * a_steps[1], w[THIRD_FIXED] * a_steps[2]
            b_by = b_steps[0], h[FIXED_STEP] * b_steps[1], w[FIXED_STEP] * b_steps[2]
            a_taps = h[THIRD_TERM] * a_steps[1], w[THIRD_TERM] * a_steps[2], a_steps[3]
            taps = h[SUMMED_STEP] * tap_h, w[SUMMED_STEP] * tap_w, row_step
            a_group = a + h[THIRD] * a_steps[1] + w[THIRD] * a_steps[2] + g * channels * a_steps[3]
            b_group = b + h[FIXED] * b_steps[1] + w[FIXED] * b_steps[2] + (g * lanes + lane0) * b_steps[3]
            at = results + h[SUMMED] * tap_h + w[SUMMED] * tap_w
            chunk_images = even_part(images, chunk_terms // (h[COUNT] * w[COUNT]))
            chunk_rows = even_part(h[COUNT], chunk_terms // w[COUNT])
            tiles = ceil_div(rows, TILE_ROWS)
            for n0 in range(0, images, chunk_images):
                n = min(chunk_images, images - n0)
                for h0 in range(0, h[COUNT], chunk_rows):
                    terms = n, min(chunk_rows, h[COUNT] - h0), w[COUNT]
                    # 2. a chunk of b, packed
                    image = terms[1] * terms[2] * LANE_BYTES
                    a_chunk, b_chunk = a_group + n0 * a_by[0] + h0 * a_by[1], b_group + n0 * b_by[0] + h0 * b_by[1]
                    pack_images(
                        zero, packed, image, b_chunk, (b_by[0], b_by[1], b_by[2], b_steps[3]), *terms, task_lanes, width
                    )
                    # 3. its terms, while the next chunk is fetched
                    counts, a_loops, b_loops = longest_last(terms, a_by, (image, terms[2] * LANE_BYTES, LANE_BYTES))
                    _, _, ahead_loops = longest_last(terms, a_by, b_by)
                    next_row = h0 + terms[1] < h[COUNT]
                    ahead = b_chunk + terms[1] * b_by[1] if next_row else b_group + (n0 + n) * b_by[0]
                    fetched = counts[2] if next_row or n0 + n < images else 0  # terms of the next chunk, in a row
                    across = 0 if b_steps[3] == size else width - 1
                    for lane in range(0, task_lanes, width):
                        b_lanes = packed + lane // width * n * image
                        for tile_number in range(tiles):
                            first = tile_number * TILE_ROWS
                            place_taps(w, first, rows, channels, a_taps, at + lane * size, taps, a_rows, out_rows)
                            tile = sum_and_fetch(
                                zeros(zero), addresses_in(a_rows), a_chunk, b_lanes, counts, a_loops, b_loops,
                                ahead + lane * b_steps[3], tile_number * fetched // tiles,
                                (tile_number + 1) * fetched // tiles, ahead_loops, across, b_steps[3],
                            )  # fmt: skip
                            put(tile, zero, out_rows, TILE_ROWS, width, size, True, tile_rows)
        # 4. the results to where they belong
        at = out + g * out_steps[4] + lane0 * out_steps[3]
        for k in range(fh * fw * channels):
            tap, channel = k // channels, k % channels
            place = at + tap // fw * out_steps[0] + tap % fw * out_steps[1] + channel * out_steps[2]
            for lane in range(task_lanes):
                write_number(number_at(zero, results + k * row_step + lane * size), place + lane * out_steps[3])
