"""conv2d_weight on the CPU, by one of two kernels: the one that fills its tiles better.

==========  ==========================  ===================  ============  ==========================
kernel      rows of a tile              lanes                sum over      a group of
==========  ==========================  ===================  ============  ==========================
``weight``  channels of dy              channels of x        n, oh, ow     plan("conv2d_weight")
``few``     taps, and channels of x     channels of dy       n, oh, ow     plan("conv2d")
``few``     taps, and channels of dy    channels of x        n, ih, iw     plan("conv2d_input")
==========  ==========================  ===================  ============  ==========================

`few` is for few channels on one side, which would fill a part of a tile only. The positions that meet the same taps
are a group of the other operators' plans, so all taps of a group can share tiles, and still no zero is multiplied.

Both kernels pack and add up one chunk of the sum at a time. The chunks and their order never depend on the threads.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from ...geometry import ConvShape, plan
from ...plan_table import group_table
from . import few
from .compiled import (
    NEXT_TASK,
    SCRATCH_HEAD,
    Array,
    Sizes,
    Steps,
    Strides,
    TableRow,
    arguments_of,
    ceil_div,
    even_part,
    number_of_threads,
    own_arguments,
    own_scratch,
    record,
    round_up,
    start,
)
from .few import parts_of
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    TILE_ROWS,
    add_memory,
    addresses_in,
    bytes_of,
    fetch,
    helper,
    next_number,
    store,
    zeros,
)
from .tile import LINE_BYTES, PART_GAP, WRITE, loops, pack_images, put, sum_of_products

CHUNK_TERMS = 384  # products of a result that are added up in registers at a time
RESULT_BYTES = 3 * L2_BYTES // 2  # largest size of the results of a task, which each chunk adds to
PACKED_BYTES = max(2**20, 3 * L2_BYTES // 2)  # largest size of a packed chunk of `weight`, roughly
FEW_BYTES = 2**20  # largest size of the results of a task of `few`
PACKING = 16  # estimated cost of packing a number, in multiply-adds of a vector lane
SAVING = 0.9  # `few` is used if its estimated work is below this share of the work of `weight`.
STARTING = 32  # estimated cost of placing a tile and adding it to its results, in terms of the sum


# --- what the kernel is given --------------------------------------------------------------------
class WeightAddresses(NamedTuple):
    """The addresses of the first elements of the arrays, and of the memory for a sum in parts."""

    x: int
    dy: int
    out: int
    kept: int


class AxisSizes(NamedTuple):
    """What the kernel needs to know of an axis of the convolution."""

    stride: int
    before: int
    dilation: int
    phases: int


class OutSteps(NamedTuple):
    """Bytes from an element of dw to the next one along each axis, and to the next channel group."""

    oc: int
    h: int
    w: int
    ic: int
    channel_group: int


class WeightSizes(NamedTuple):
    """The other arguments of `weight`: rows are channels of dy, lanes channels of x."""

    table: int
    groups: int
    blocks: int
    parts: int
    result_bytes: int
    images: int
    rows: int
    lanes: int
    block_rows: int
    block_lanes: int
    fh: int
    fw: int
    chunk_images: int
    chunk_rows: int
    phase_bytes: int
    x_bytes: int
    ih: int
    iw: int
    oh: int
    ow: int
    span: int
    axis_h: AxisSizes
    axis_w: AxisSizes
    x: Steps
    dy: Steps
    out: OutSteps


# --- the sizes -----------------------------------------------------------------------------------
def run(shape: ConvShape, x: Array, dy: Array, dw: Array) -> None:
    """Run conv2d_weight on NHWC arrays of any strides."""
    threads = number_of_threads("conv2d_weight", shape)
    way, sizes = sizes_of(shape, x.strides, dy.strides, dw.strides, dw.itemsize, threads)
    kept = (
        memory_for_parts(sizes.named.blocks, sizes.named.parts, sizes.named.result_bytes)
        if sizes.named.parts > 1
        else None
    )
    kept_at = 0 if kept is None else round_up(kept.ctypes.data, 64)
    x_at, dy_at, out_at = x.ctypes.data, dy.ctypes.data, dw.ctypes.data
    if way == "conv2d_weight":
        addresses = WeightAddresses(x=x_at, dy=dy_at, out=out_at, kept=kept_at)
        start(weight, dw.dtype, threads, sizes.arguments, addresses, sizes.scratch)
    else:
        a, b = (x_at, dy_at) if way == "conv2d" else (dy_at, x_at)
        few_addresses = few.FewAddresses(a=a, b=b, out=out_at, kept=kept_at)
        start(few.few, dw.dtype, threads, sizes.arguments, few_addresses, sizes.scratch)


def memory_for_parts(blocks: int, parts: int, result_bytes: int) -> Array:
    """Memory for a sum that is cut into parts, empty for one part.

    From its first multiple of 64 bytes on, it holds how many parts of each block are done, and then the results
    of each part of each block.
    """
    if parts == 1:
        return np.empty(0, np.int64)
    counts = round_up(8 * blocks, 64)  # bytes
    memory = np.empty((counts + blocks * parts * result_bytes + 64) // 8, np.int64)
    memory[: counts // 8 + 8] = 0
    return memory


@lru_cache(maxsize=1024)
def sizes_of(shape: ConvShape, x: Strides, dy: Strides, dw: Strides, itemsize: int, threads: int) -> tuple[str, Sizes]:
    """Return the operator whose plan is used, and the sizes for the kernel of `best_way`.

    The number of threads changes only the size of a task. x, dy and dw are the strides of the arrays.
    """
    way = best_way(shape, itemsize)
    if way == "conv2d_weight":
        return way, sizes_of_weight(shape, x, dy, dw, itemsize, threads)
    a, b = (x, dy) if way == "conv2d" else (dy, x)
    return way, few.sizes_of(way, shape, a, b, dw, itemsize, threads)


def best_way(shape: ConvShape, itemsize: int) -> str:
    """Return the operator whose plan to use: conv2d_weight, unless another one has clearly less work in its tiles."""
    high, wide = TILE_ROWS, LANE_BYTES // itemsize
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups

    def work(way: str) -> int:
        """Terms of all tiles together, the cost of starting each chunk included."""
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
    """Return the sizes for `weight`."""
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
        """Numbers to pack for a term: one for each channel of dy, and one for each phase and channel of x."""
        return block[0] + prod(phases) * block[1]

    def busiest(block: tuple[int, int]) -> float:
        """Work of the busiest thread, in multiply-adds of a vector lane."""
        return ceil_div(blocks_of(block) * parts, threads) * (taps * prod(block) + PACKING * packed(block))

    def blocks_of(block: tuple[int, int]) -> int:
        return shape.groups * ceil_div(rows, block[0]) * ceil_div(lanes, block[1])

    def even(whole: int, width: int) -> set[int]:
        """Multiples of `width` that cut the channels into even blocks."""
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
    axis_h, axis_w = (
        AxisSizes(stride=axis.stride, before=axis.before, dilation=axis.dilation, phases=count)
        for axis, count in zip((shape.h, shape.w), phases, strict=True)
    )
    sizes = WeightSizes(
        table=table.ctypes.data,
        groups=len(groups.groups),
        blocks=blocks_of((block_rows, block_lanes)),
        parts=parts,
        result_bytes=result_bytes,
        images=shape.n,
        rows=rows,
        lanes=lanes,
        block_rows=block_rows,
        block_lanes=block_lanes,
        fh=shape.fh,
        fw=shape.fw,
        chunk_images=images,
        chunk_rows=output_rows,
        phase_bytes=x_phase,
        x_bytes=x_bytes,
        ih=shape.ih,
        iw=shape.iw,
        oh=shape.oh,
        ow=shape.ow,
        span=shape.h.span,
        axis_h=axis_h,
        axis_w=axis_w,
        x=Steps(*x),
        dy=Steps(*dy),
        out=OutSteps(oc=dw[0], h=dw[1], w=dw[2], ic=dw[3], channel_group=rows * dw[0]),
    )
    own_bytes = x_bytes + dy_bytes + (result_bytes if parts == 1 else 0)
    return Sizes(sizes, arguments_of(WeightAddresses, sizes), SCRATCH_HEAD + own_bytes, table)


# --- the kernel ----------------------------------------------------------------------------------
@helper
def first_met(tap, axis, start):
    """The first index of x from `start` on that a tap meets; the others follow a stride apart."""
    return start + (tap * axis.dilation - axis.before - start) % axis.stride


@helper
def place_channels(first, rows, out, out_step, out_rows, tile_rows):
    """Write the addresses of the tile's rows, the channels from `first` on; returns how many rows there are.

    Rows after the last channel get addresses in the scratch memory.
    """
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
    x, phase_bytes, dy = packed
    kept, fw, rows, lanes = results
    axis_h, axis_w = axes
    skipped = max(0, oh0 - h.summed)  # output rows of the group in earlier chunks
    terms = max(0, min(h.terms, oh1 - h.summed) - skipped), w.terms, n
    dy_by = ow * n * TILE_ROWS * size, n * TILE_ROWS * size, TILE_ROWS * size
    dy_part = (oh1 - oh0) * dy_by[0] + PART_GAP
    dy += (h.summed + skipped - oh0) * dy_by[0] + w.summed * dy_by[1]
    for kh in range(h.count):
        for kw in range(w.count):
            # 1. the addresses of this tap in the results, and in x, where each phase is packed as an image of its own
            tap_h, tap_w = h.fixed + kh * h.fixed_step, w.fixed + kw * w.fixed_step
            x_rows = ceil_div(ih1 - first_met(tap_h, axis_h, ih0), axis_h.stride)
            x_columns = ceil_div(iw - first_met(tap_w, axis_w, 0), axis_w.stride)
            x_by = x_columns * n * LANE_BYTES, n * LANE_BYTES, LANE_BYTES
            x_part = x_rows * x_by[0] + PART_GAP
            row = (h.third + kh * h.third_fixed + skipped * h.third_term - ih0) // axis_h.stride
            column = (w.third + kw * w.third_fixed) // axis_w.stride
            phase = tap_h % axis_h.phases * axis_w.phases + tap_w % axis_w.phases
            x_tap = x + phase * phase_bytes + row * x_by[0] + column * x_by[1]
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
    """Add up the parts of the results of one tap in order, and write the sums to dw."""
    size = bytes_of(zero)
    kept_rows, out_rows, tile_rows, _ = own
    width = LANE_BYTES // size
    at = kept + tap * ceil_div(lanes, width) * round_up(rows, TILE_ROWS) * LANE_BYTES
    for lane in range(0, lanes, width):
        for first in range(0, rows, TILE_ROWS):
            place = out + lane * out_steps.ic
            count = place_channels(first, rows, place, out_steps.oc, out_rows, tile_rows)
            tile = zeros(zero)
            for part in range(parts):
                for r in range(TILE_ROWS):
                    kept_rows[r] = at + part * kept_step + r * LANE_BYTES
                tile = add_memory(tile, addresses_in(kept_rows))
            put(tile, zero, out_rows, count, min(width, lanes - lane), out_steps.ic, bool(WRITE), tile_rows)
            at += TILE_ROWS * LANE_BYTES


@helper
def chunk_of(c, sizes):
    """First image and number of images of a chunk, then first and past-the-last row in x, and the same in dy.

    Chunks differ by one image or one row at most, so equal numbers of chunks are about equal work.
    """
    images, ih, oh, axis = sizes.images, sizes.ih, sizes.oh, sizes.axis_h
    by_images, by_rows = ceil_div(images, sizes.chunk_images), ceil_div(oh, sizes.chunk_rows)
    k, r = c // by_rows, c % by_rows
    n = k * images // by_images
    oh0, oh1 = r * oh // by_rows, (r + 1) * oh // by_rows
    ih0 = min(ih, max(0, oh0 * axis.stride - axis.before))
    ih1 = max(ih0, min(ih, (oh1 - 1) * axis.stride - axis.before + sizes.span))
    return n, (k + 1) * images // by_images - n, ih0, ih1, oh0, oh1


@helper
def block_of(block, addresses, sizes):
    """The addresses in x, dy and dw at which a block begins, and how many rows and lanes it has."""
    rows, lanes, block_rows, block_lanes = sizes.rows, sizes.lanes, sizes.block_rows, sizes.block_lanes
    row_blocks, lane_blocks = ceil_div(rows, block_rows), ceil_div(lanes, block_lanes)
    g, row, lane = block // (row_blocks * lane_blocks), block // lane_blocks % row_blocks, block % lane_blocks
    row, lane = row * block_rows, lane * block_lanes
    x = addresses.x + (g * lanes + lane) * sizes.x.c
    dy = addresses.dy + (g * rows + row) * sizes.dy.c
    out = addresses.out + g * sizes.out.channel_group + row * sizes.out.oc + lane * sizes.out.ic
    return x, dy, out, min(block_rows, rows - row), min(block_lanes, lanes - lane)


def weight(zero, arguments):
    """Kernel: do tasks of conv2d_weight until none is left.

    A task is a block of rows and lanes and, if the sum is cut into parts, a part of the chunks. x is packed phase by
    phase: the rows and columns that a tap meets, which are a stride apart, are put side by side. The images of a chunk
    come innermost, so that images and columns are one long loop even if padding leaves columns out. The results stay
    in memory of their own, tap by tap and tile by tile, until they are complete.
    """
    size = bytes_of(zero)
    addresses, sizes = own_arguments(arguments, WeightAddresses, WeightSizes)
    blocks, parts, result_bytes = sizes.blocks, sizes.parts, sizes.result_bytes
    iw, ow, fw, axis_h, axis_w = sizes.iw, sizes.ow, sizes.fw, sizes.axis_h, sizes.axis_w
    x_steps, dy_steps, out_steps = sizes.x, sizes.dy, sizes.out
    own = own_scratch(arguments)
    kept = own[3]
    x_packed = kept if parts > 1 else kept + result_bytes
    dy_packed = x_packed + sizes.x_bytes
    width = LANE_BYTES // size
    chunks = ceil_div(sizes.images, sizes.chunk_images) * ceil_div(sizes.oh, sizes.chunk_rows)
    while True:
        # 1. a task: some channels of dy, some of x, some chunks of the sum
        task = next_number(arguments, NEXT_TASK)
        if task >= blocks * parts:
            return
        x, dy, out, rows, lanes = block_of(task // parts, addresses, sizes)
        first_chunk, last_chunk = task % parts * chunks // parts, (task % parts + 1) * chunks // parts
        if parts > 1:
            kept = addresses.kept + round_up(8 * blocks, 64) + task * result_bytes
        results = kept, fw, round_up(rows, TILE_ROWS), round_up(lanes, width)
        for c in range(first_chunk, last_chunk):
            # 2. a chunk of both, packed
            n0, n, ih0, ih1, oh0, oh1 = chunk_of(c, sizes)
            step = int(LANE_BYTES)
            for phase in range(axis_h.phases * axis_w.phases):
                first_h = first_met(phase // axis_w.phases, axis_h, ih0)
                first_w = first_met(phase % axis_w.phases, axis_w, 0)
                at = x + n0 * x_steps.n + first_h * x_steps.h + first_w * x_steps.w
                steps = x_steps.n, axis_h.stride * x_steps.h, axis_w.stride * x_steps.w, x_steps.c
                counts = n, ceil_div(ih1 - first_h, axis_h.stride), ceil_div(iw - first_w, axis_w.stride), lanes
                pack_images(zero, x_packed + phase * sizes.phase_bytes, (step, n * step), at, steps, counts, width)
            at, counts = dy + n0 * dy_steps.n + oh0 * dy_steps.h, (n, oh1 - oh0, ow, rows)
            step, steps = TILE_ROWS * size, (dy_steps.n, dy_steps.h, dy_steps.w, dy_steps.c)
            pack_images(zero, dy_packed, (step, n * step), at, steps, counts, int(TILE_ROWS))
            # 3. the terms of the chunk, group by group
            for group in range(sizes.groups):
                line = record(sizes.table, group, TableRow)
                h, w = line.h, line.w
                missed = h.summed >= oh1 or h.summed + h.terms <= oh0 or w.terms == 0
                if missed and c > first_chunk:
                    continue
                add_group(
                    zero, (h, w), (n, ih0, ih1, iw, oh0, oh1, ow), (axis_h, axis_w),
                    (x_packed, sizes.phase_bytes, dy_packed),
                    results, c > first_chunk, own,
                )  # fmt: skip
        # 4. the results to dw, by the thread that finishes the last part of a block
        if parts > 1 and next_number(addresses.kept, task // parts) < parts - 1:
            continue
        if parts > 1:
            kept -= task % parts * result_bytes
        for tap in range(sizes.fh * fw):
            at = out + tap // fw * out_steps.h + tap % fw * out_steps.w
            finish(zero, tap, kept, result_bytes, parts, at, out_steps, rows, lanes, own)
