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
from numba import carray

from ...geometry import Axis, ConvShape, plan
from ...plan_table import (
    COLUMNS,
    COUNT,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    TABLE_WIDTH,
    TERMS,
    THIRD,
    THIRD_FIXED,
    THIRD_TERM,
    group_table,
)
from . import few
from .compiled import (
    NEXT_TASK,
    OWN,
    SCRATCH_HEAD,
    Array,
    Sizes,
    Strides,
    arguments_of,
    ceil_div,
    even_part,
    number_of_threads,
    own_scratch,
    round_up,
    start,
    table_at,
)
from .few import BLOCKS, PARTS, RESULT_SIZE, parts_of
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    TILE_ROWS,
    add_memory,
    addresses_in,
    bytes_of,
    fetch,
    helper,
    integers,
    integers_at,
    next_number,
    store,
    zeros,
)
from .tile import LINE_BYTES, PART_GAP, WRITE, loops, pack_images, put, sum_of_products

Slices = tuple[slice, ...]

CHUNK_TERMS = 384  # products of a result that are added up in registers
RESULT_BYTES = 3 * L2_BYTES // 2  # of results of a task, which each chunk adds to
PACKED_BYTES = max(2**20, 3 * L2_BYTES // 2)  # of a chunk, about, in ``weight``
FEW_BYTES = 2**20  # of results of a task of ``few``, at most
PACKING = 16  # cost of packing a number, in multiply-adds of a vector lane
SAVING = 0.9  # of the work of ``weight``, which ``few`` must stay below
STARTING = 32  # cost of placing a tile and adding it to its results, in terms of its sum
SIZES = OWN + 9  # arguments: where the other sizes begin, and the steps
X_STEPS, DY_STEPS, OUT_STEPS, ARGUMENTS = SIZES + 24, SIZES + 28, SIZES + 32, SIZES + 37


# --- the sizes -----------------------------------------------------------------------------------
def run(shape: ConvShape, x: Array, dy: Array, dw: Array) -> None:
    shape, x_used, dy_used = used(shape)
    x, dy = x[x_used], dy[dy_used]
    threads = number_of_threads("conv2d_weight", shape)
    way, (sizes, scratch, _) = sizes_of(shape, x.strides, dy.strides, dw.strides, dw.itemsize, threads)
    a, b = (dy, x) if way == "conv2d_input" else (x, dy)
    addresses: tuple[int, ...] = (a.ctypes.data, b.ctypes.data, dw.ctypes.data)
    if sizes[PARTS] > 1:
        done_size = round_up(8 * sizes[BLOCKS], 64)  # a count of done parts for each block, then their results
        kept = np.empty((done_size + sizes[BLOCKS] * sizes[PARTS] * sizes[RESULT_SIZE] + 64) // 8, np.int64)
        kept[: done_size // 8 + 8] = 0
        addresses = (*addresses, round_up(kept.ctypes.data, 64))
    start(weight if way == "conv2d_weight" else few.few, dw.dtype, threads, sizes, addresses, scratch)


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
    return way, few.sizes_of(way, shape, a, b, dw, itemsize, threads)


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


def sizes_of_weight(shape: ConvShape, x: Strides, dy: Strides, dw: Strides, itemsize: int, threads: int) -> Sizes:
    """The sizes for ``weight``."""
    groups = plan("conv2d_weight", shape)
    table = group_table(groups, [0] * len(groups.groups), np.int64)
    taps = sum(group.positions for group in groups.groups if group.terms)
    high, wide = TILE_ROWS, LANE_BYTES // itemsize
    rows, lanes = shape.oc // shape.groups, shape.ic // shape.groups
    phases = [min(axis.taps, axis.phase_step) for axis in (shape.h, shape.w)]

    images = even_part(shape.n, CHUNK_TERMS // (shape.oh * shape.ow))
    output_rows = even_part(shape.oh, CHUNK_TERMS // shape.ow)
    chunks = ceil_div(shape.n, images) * ceil_div(shape.oh, output_rows)
    dw_bytes = shape.fh * shape.fw * round_up(rows, high) * round_up(lanes, wide) * shape.groups * itemsize
    parts = parts_of(dw_bytes, chunks // 2)

    def packed(block: tuple[int, int]) -> int:
        """Numbers to pack for a term: one for each channel of dy, and of x one for each phase."""
        return block[0] + prod(phases) * block[1]

    def busiest(block: tuple[int, int]) -> float:
        """Work of the thread that has most, in multiply-adds of a vector lane."""
        return ceil_div(blocks_of(block) * parts, threads) * (taps * prod(block) + PACKING * packed(block))

    def blocks_of(block: tuple[int, int]) -> int:
        return shape.groups * ceil_div(rows, block[0]) * ceil_div(lanes, block[1])

    def even(whole: int, width: int) -> set[int]:
        """Sizes that cut the channels evenly."""
        return {round_up(ceil_div(whole, count), width) for count in range(1, ceil_div(whole, width) + 1)}

    blocks = [
        block
        for block in sorted(product(even(rows, high), even(lanes, wide)))
        if block == (high, wide)
        or (taps * prod(block) * itemsize <= RESULT_BYTES and CHUNK_TERMS * packed(block) * itemsize <= PACKED_BYTES)
    ]
    block_rows, block_lanes = min(blocks, key=busiest)
    input_rows = min(shape.ih, (output_rows - 1) * shape.h.stride + shape.h.span)
    x_image = ceil_div(input_rows, shape.h.stride) * ceil_div(shape.iw, shape.w.stride) * LANE_BYTES
    x_phase = block_lanes // wide * (images * x_image + PART_GAP)
    x_bytes = prod(phases) * x_phase
    dy_bytes = block_rows * images * output_rows * shape.ow * itemsize + block_rows // high * PART_GAP
    result_bytes = round_up(shape.fh * shape.fw * block_rows * block_lanes * itemsize, 64)
    arguments = arguments_of(
        4,
        table,
        (blocks_of((block_rows, block_lanes)), parts, result_bytes),
        (shape.n, rows, lanes, block_rows, block_lanes),
        (shape.fh, shape.fw, images, output_rows, x_phase, x_bytes),
        (shape.ih, shape.iw, shape.oh, shape.ow, shape.h.span),
        (shape.h.stride, shape.h.before, shape.h.dilation, phases[0]),
        (shape.w.stride, shape.w.before, shape.w.dilation, phases[1]),
        x,
        dy,
        (*dw, rows * dw[0]),
    )
    own_bytes = x_bytes + dy_bytes + (result_bytes if parts == 1 else 0)
    return arguments, SCRATCH_HEAD + own_bytes, table


# --- the kernel ----------------------------------------------------------------------------------
@helper
def first_met(tap, axis, start):
    """The first index from `start` on that a tap meets; the others of it follow a stride apart."""
    stride, before, dilation, _ = axis
    return start + (tap * dilation - before - start) % stride


@helper
def place_channels(first, rows, out, out_step, out_rows, tile_rows):
    """Place the tile's rows, which are channels from `first` on; those past the last go to the scratch memory."""
    for r in range(TILE_ROWS):
        out_rows[r] = out + (first + r) * out_step if first + r < rows else tile_rows[r]
    return min(TILE_ROWS, rows - first)


@helper
def add_group(zero, group, chunk, axes, packed, results, add, own):
    """Add the terms of one chunk to the results of a group of taps."""
    size = bytes_of(zero)
    width = LANE_BYTES // size
    h, w = group
    rows_of_tile = own[1]
    n, ih0, ih1, iw, oh0, oh1, ow = chunk
    x, x_phase, dy = packed
    kept, fw, rows, lanes = results
    (stride_h, _, _, phases_h), (stride_w, _, _, phases_w) = axes
    skipped = max(0, oh0 - h[SUMMED])  # output rows of the group in chunks before this one
    terms = max(0, min(h[TERMS], oh1 - h[SUMMED]) - skipped), w[TERMS], n
    dy_by = ow * n * TILE_ROWS * size, n * TILE_ROWS * size, TILE_ROWS * size
    dy_part = (oh1 - oh0) * dy_by[0] + PART_GAP
    dy += (h[SUMMED] + skipped - oh0) * dy_by[0] + w[SUMMED] * dy_by[1]
    for kh in range(h[COUNT]):
        for kw in range(w[COUNT]):
            # 1. where in x, of which each phase is an image of its own, and in the results this tap is
            tap_h, tap_w = h[FIXED] + kh * h[FIXED_STEP], w[FIXED] + kw * w[FIXED_STEP]
            x_rows = ceil_div(ih1 - first_met(tap_h, axes[0], ih0), stride_h)
            x_columns = ceil_div(iw - first_met(tap_w, axes[1], 0), stride_w)
            x_by = x_columns * n * LANE_BYTES, n * LANE_BYTES, LANE_BYTES
            x_part = x_rows * x_by[0] + PART_GAP
            row = (h[THIRD] + kh * h[THIRD_FIXED] + skipped * h[THIRD_TERM] - ih0) // stride_h
            column = (w[THIRD] + kw * w[THIRD_FIXED]) // stride_w
            x_tap = x + (tap_h % phases_h * phases_w + tap_w % phases_w) * x_phase + row * x_by[0] + column * x_by[1]
            counts, dy_loops, x_loops = loops(terms, dy_by, x_by)
            at_tap = kept + (tap_h * fw + tap_w) * lanes * rows * size
            # 2. its tiles
            for lane in range(0, lanes, width):
                for first in range(0, rows, TILE_ROWS):
                    for r in range(TILE_ROWS):
                        rows_of_tile[r] = at_tap + (lane * rows + first * width + r * width) * size
                        for line in range(0, LANE_BYTES, LINE_BYTES):
                            fetch(rows_of_tile[r] + line)
                    tile = sum_of_products(
                        zeros(zero), size, dy + first // TILE_ROWS * dy_part, x_tap + lane // width * x_part,
                        counts, dy_loops, x_loops,
                    )  # fmt: skip
                    there = addresses_in(rows_of_tile)
                    if add:
                        tile = add_memory(tile, there)
                    store(tile, there)


@helper
def finish(zero, tap, kept, kept_step, parts, out, out_steps, rows, lanes, own):
    """Add up the parts of the results of one tap, in order, and write them to where they belong."""
    size = bytes_of(zero)
    kept_rows, out_rows, tile_rows, _ = own
    width = LANE_BYTES // size
    at = kept + tap * ceil_div(lanes, width) * round_up(rows, TILE_ROWS) * LANE_BYTES
    for lane in range(0, lanes, width):
        for first in range(0, rows, TILE_ROWS):
            place = out + lane * out_steps[3]
            count = place_channels(first, rows, place, out_steps[0], out_rows, tile_rows)
            tile = zeros(zero)
            for part in range(parts):
                for r in range(TILE_ROWS):
                    kept_rows[r] = at + part * kept_step + r * LANE_BYTES
                tile = add_memory(tile, addresses_in(kept_rows))
            put(tile, zero, out_rows, count, min(width, lanes - lane), out_steps[3], bool(WRITE), tile_rows)
            at += TILE_ROWS * LANE_BYTES


@helper
def chunk_of(c, images, chunk_images, axis, span, chunk_rows, ih, oh):
    """Images from n on, their number, rows of x and of dy of a chunk, each as first and past-the-last.

    Chunks differ by an image or a row at most, so that parts of as many chunks are as much work.
    """
    stride, before, _, _ = axis
    by_images, by_rows = ceil_div(images, chunk_images), ceil_div(oh, chunk_rows)
    k, r = c // by_rows, c % by_rows
    n = k * images // by_images
    oh0, oh1 = r * oh // by_rows, (r + 1) * oh // by_rows
    ih0 = min(ih, max(0, oh0 * stride - before))
    ih1 = max(ih0, min(ih, (oh1 - 1) * stride - before + span))
    return n, (k + 1) * images // by_images - n, ih0, ih1, oh0, oh1


@helper
def block_of(block, arguments):
    """Where in x, dy and dw a block of rows and lanes begins, and its rows and lanes."""
    x, dy, out = integers(arguments, OWN, 3)
    rows, lanes, block_rows, block_lanes = integers(arguments, SIZES + 1, 4)
    row_blocks, lane_blocks = ceil_div(rows, block_rows), ceil_div(lanes, block_lanes)
    g, row, lane = block // (row_blocks * lane_blocks), block // lane_blocks % row_blocks, block % lane_blocks
    row, lane = row * block_rows, lane * block_lanes
    x += (g * lanes + lane) * arguments[X_STEPS + 3]
    dy += (g * rows + row) * arguments[DY_STEPS + 3]
    out += g * arguments[OUT_STEPS + 4] + row * arguments[OUT_STEPS] + lane * arguments[OUT_STEPS + 3]
    return x, dy, out, min(block_rows, rows - row), min(block_lanes, lanes - lane)


def weight(zero, arguments):
    """Kernel: run conv2d_weight until no task is left; a task is a block of rows and lanes and a part of the chunks.

    x is packed phase by phase: the rows and columns that a tap meets, a stride apart, come to lie side by side. The
    images of a chunk are innermost, so that those of all columns are one long loop, whatever padding leaves out.
    The results stay in the scratch memory, tap by tap and tile by tile, until they are complete.
    """
    size = bytes_of(zero)
    arguments = carray(integers_at(arguments), ARGUMENTS)
    kept_parts, table_address, groups, blocks, parts, result_bytes = integers(arguments, OWN + 3, 6)
    images, fh, fw = arguments[SIZES], arguments[SIZES + 5], arguments[SIZES + 6]
    chunk_images, chunk_rows, x_phase, x_bytes = integers(arguments, SIZES + 7, 4)
    ih, iw, oh, ow, span = integers(arguments, SIZES + 11, 5)
    axes = integers(arguments, SIZES + 16, 4), integers(arguments, SIZES + 20, 4)
    x_steps = integers(arguments, X_STEPS, 4)
    dy_steps = integers(arguments, DY_STEPS, 4)
    out_steps = integers(arguments, OUT_STEPS, 5)
    own = own_scratch(arguments)
    kept = own[3]
    x_packed = kept if parts > 1 else kept + result_bytes
    dy_packed = x_packed + x_bytes
    done = carray(integers_at(kept_parts), blocks)
    table = table_at(table_address, groups, TABLE_WIDTH)
    width = LANE_BYTES // size
    (stride_h, _, _, phases_h), (stride_w, _, _, phases_w) = axes
    sizes = images, chunk_images, axes[0], span, chunk_rows, ih, oh
    chunks = ceil_div(images, chunk_images) * ceil_div(oh, chunk_rows)
    while True:
        # 1. a task: some channels of dy, some of x, some chunks of the sum
        task = next_number(arguments, NEXT_TASK)
        if task >= blocks * parts:
            return
        x, dy, out, rows, lanes = block_of(task // parts, arguments)
        first_chunk, last_chunk = task % parts * chunks // parts, (task % parts + 1) * chunks // parts
        if parts > 1:
            kept = kept_parts + round_up(8 * blocks, 64) + task * result_bytes
        results = kept, fw, round_up(rows, TILE_ROWS), round_up(lanes, width)
        for c in range(first_chunk, last_chunk):
            # 2. a chunk of both, packed
            n0, n, ih0, ih1, oh0, oh1 = chunk_of(c, *sizes)
            step = int(LANE_BYTES)
            for phase in range(phases_h * phases_w):
                first_h, first_w = first_met(phase // phases_w, axes[0], ih0), first_met(phase % phases_w, axes[1], 0)
                at = x + n0 * x_steps[0] + first_h * x_steps[1] + first_w * x_steps[2]
                steps = x_steps[0], stride_h * x_steps[1], stride_w * x_steps[2], x_steps[3]
                counts = n, ceil_div(ih1 - first_h, stride_h), ceil_div(iw - first_w, stride_w), lanes
                pack_images(zero, x_packed + phase * x_phase, (step, n * step), at, steps, counts, width)
            at, counts = dy + n0 * dy_steps[0] + oh0 * dy_steps[1], (n, oh1 - oh0, ow, rows)
            step = TILE_ROWS * size
            pack_images(zero, dy_packed, (step, n * step), at, dy_steps, counts, int(TILE_ROWS))
            # 3. its terms, group by group
            for group in range(groups):
                h, w = table[group, ROWS:COLUMNS], table[group, COLUMNS:]
                missed = h[SUMMED] >= oh1 or h[SUMMED] + h[TERMS] <= oh0 or w[TERMS] == 0
                if missed and c > first_chunk:
                    continue
                add_group(
                    zero, (h, w), (n, ih0, ih1, iw, oh0, oh1, ow), axes, (x_packed, x_phase, dy_packed),
                    results, c > first_chunk, own,
                )  # fmt: skip
        # 4. kept results to where they belong, by whoever is done with the last part of a block
        if parts > 1 and next_number(done, task // parts) < parts - 1:
            continue
        if parts > 1:
            kept -= task % parts * result_bytes
        for tap in range(fh * fw):
            at = out + tap // fw * out_steps[1] + tap % fw * out_steps[2]
            finish(zero, tap, kept, result_bytes, parts, at, out_steps, rows, lanes, own)
