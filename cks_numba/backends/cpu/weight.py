"""conv2d_weight on the CPU::

    dw[c, f, k] = sum of dy[n, o, c] * x[n, i, k]     over images n, and all (i, o) that meet f

where i = o*stride - before + f*dilation on each axis, by one of two kernels: the one that fills its tiles better.

==========  ==========================  ===================  ============  ==========================
kernel      rows of a tile              lanes                sum over      a group of
==========  ==========================  ===================  ============  ==========================
``weight``  channels of dy              channels of x        n, o          plan("conv2d_weight")
``few``     taps, and channels of x     channels of dy       n, o          plan("conv2d")
``few``     taps, and channels of dy    channels of x        n, i          plan("conv2d_input")
==========  ==========================  ===================  ============  ==========================

o and i are positions of dy and of x, on all spatial axes.

`few` is for few channels on one side, which would fill a part of a tile only. The positions that meet the same taps
are a group of the other operators' plans, so all taps of a group can share tiles, and still no zero is multiplied.

Both kernels pack and add up one chunk of the sum at a time. The chunks and their order never depend on the threads.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...geometry import ConvShape, Run, plan
from . import few
from .compiled import (
    NO_CALL,
    SCRATCH_HEAD,
    Array,
    Call,
    Sizes,
    Steps,
    Strides,
    ceil_div,
    even_part,
    first_of,
    five,
    next_task,
    number_of_threads,
    numbers_of,
    own_scratch,
    record,
    round_up,
    start,
    with_three_axes,
)
from .few import columns_at_once, parts_of, tap_step
from .packed import taps_are_last
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    TILE_ROWS,
    VECTOR_BYTES,
    add_memory,
    after,
    bytes_of,
    helper,
    next_number,
    store,
    zeros,
)
from .tile import FEWEST_TAPS, PART_GAP, join_taps, loops, pack_images, sum_of_products, unpack

CHUNK_TERMS = 384  # products of a result that are added up in registers at a time
RESULT_BYTES = 3 * L2_BYTES // 2  # largest size of the results of a task, which each chunk adds to
PACKED_BYTES = max(2**20, 3 * L2_BYTES // 2)  # largest size of a packed chunk of `weight`
TASK_BYTES = 2**21 - SCRATCH_HEAD  # largest size of both together, unless the smallest block needs more
FEW_BYTES = 2**20  # largest size of the results of a task of `few`
# Estimated cost of packing a number, or of adding it from memory to that of another part, in multiply-adds of a lane.
PACKING = 16
SAVING = 0.9  # `few` is used if its estimated work is below this share of the work of `weight`.
STARTING = 32  # estimated cost of placing a tile and adding it to its results, in terms of the sum


# --- what the kernel is given --------------------------------------------------------------------
class AxisSizes(NamedTuple):
    """What the kernel needs to know of an axis of the convolution.

    A chunk has at most `chunk` of its outputs, and `span` indices of x for each: all of them if the axis is not cut.
    """

    size: int
    taps: int
    outputs: int
    stride: int
    before: int
    dilation: int
    span: int
    phases: int
    chunk: int


class OutSteps(NamedTuple):
    """Bytes from an element of dw to the next one along each axis, and to the next channel group."""

    oc: int
    d: int
    h: int
    w: int
    ic: int
    channel_group: int


class AxisPart(NamedTuple):
    """The first and the past-the-last index of x, and the same of dy, that a chunk has of an axis."""

    i0: int
    i1: int
    o0: int
    o1: int


class TapRow(NamedTuple):
    """A row of the table: a group of taps, as indices. A chunk is a part of it, which has no even place in memory."""

    d: Run
    h: Run
    w: Run


class WeightSizes(NamedTuple):
    """The arguments of `weight`: rows are channels of dy (A), lanes channels of x (B)."""

    call: Call
    table: int
    groups: int
    blocks: int
    parts: int
    result_bytes: int
    turned: int
    images: int
    rows: int
    lanes: int
    block_rows: int
    block_lanes: int
    chunk_images: int
    phase_bytes: int
    x_bytes: int
    axis_d: AxisSizes
    axis_h: AxisSizes
    axis_w: AxisSizes
    x: Steps
    dy: Steps
    out: OutSteps


# --- the sizes -----------------------------------------------------------------------------------
def run(shape: ConvShape, x: Array, dy: Array, dw: Array) -> None:
    """Run conv2d_weight on arrays of any strides, channels last."""
    threads = number_of_threads("conv2d_weight", shape)
    way, sizes = sizes_of(shape, x.strides, dy.strides, dw.strides, dw.itemsize, threads)
    if way == "conv2d_weight":
        start(weight, dw.dtype, threads, sizes, dy=dy, x=x, out=dw)
    else:
        a, b = (x, dy) if way == "conv2d" else (dy, x)
        start(few.few, dw.dtype, threads, sizes, a=a, b=b, out=dw)


@lru_cache(maxsize=1024)
def sizes_of(shape: ConvShape, x: Strides, dy: Strides, dw: Strides, itemsize: int, threads: int) -> tuple[str, Sizes]:
    """Return the operator whose plan is used, and the sizes for the kernel of `best_way`.

    The number of threads changes only the size of a task. x, dy and dw are the strides of the arrays.
    """
    x, dy, dw = five(x), five(dy), five(dw)
    shape = with_three_axes(shape)
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
        groups = plan(way, with_three_axes(shape)).groups
        rows, lanes = (ic, oc) if way == "conv2d" else (oc, ic)
        few_high, few_wide = few.tile_of(groups, rows, lanes, itemsize)
        for group in groups:
            if way == "conv2d_weight":
                tiles, terms = group.positions * ceil_div(oc, high) * ceil_div(ic, wide), shape.n * group.terms
            else:
                tiles = ceil_div(group.terms * rows, few_high) * ceil_div(lanes, few_wide)
                terms = shape.n * group.positions
            total += tiles * (terms + STARTING * ceil_div(terms, CHUNK_TERMS))
        return total

    best, least = "conv2d_weight", work("conv2d_weight") * SAVING
    for way, rows, lanes in (("conv2d", ic, oc), ("conv2d_input", oc, ic)):
        row_bytes = LANE_BYTES if lanes * itemsize > VECTOR_BYTES else VECTOR_BYTES
        if prod(axis.taps for axis in shape.axes) * rows * row_bytes <= FEW_BYTES and work(way) < least:
            best, least = way, work(way)
    return best


def sizes_of_weight(shape: ConvShape, x: Strides, dy: Strides, dw: Strides, itemsize: int, threads: int) -> Sizes:
    """Return the sizes for `weight`."""
    groups = plan("conv2d_weight", shape)
    table = np.array([numbers_of(TapRow(*group)) for group in groups.groups], np.int64)
    taps = sum(group.positions for group in groups.groups if group.terms)
    high, wide = TILE_ROWS, LANE_BYTES // itemsize
    rows, lanes = shape.oc // shape.groups, shape.ic // shape.groups
    phases = [min(axis.taps, axis.phase_step) for axis in shape.axes]

    images, *outputs = _chunk(shape)
    axes = [
        AxisSizes(
            size=axis.size,
            taps=axis.taps,
            outputs=axis.outputs,
            stride=axis.stride,
            before=axis.before,
            dilation=axis.dilation,
            span=axis.span if chunk < axis.outputs else axis.before + axis.size,
            phases=count,
            chunk=chunk,
        )
        for axis, count, chunk in zip(shape.axes, phases, outputs, strict=True)
    ]
    terms = images * prod(outputs)
    chunks = ceil_div(shape.n, images) * prod(ceil_div(axis.outputs, axis.chunk) for axis in axes)
    all_taps = prod(axis.taps for axis in axes)
    turned = lanes * itemsize % VECTOR_BYTES == 0 and all_taps >= FEWEST_TAPS
    turned = turned and taps_are_last(shape, dw, itemsize)
    # Sums of one chunk are complete in registers, and need no memory of their own, unless they change their order.
    at_once = chunks == 1 and not turned
    dw_bytes = all_taps * round_up(rows, high) * round_up(lanes, wide) * shape.groups * itemsize
    parts = parts_of(dw_bytes, chunks // 2)

    def packed(block: tuple[int, int]) -> int:
        """Numbers to pack for a term: one for each channel of dy, and one for each phase and channel of x."""
        return block[0] + prod(phases) * block[1]

    def busiest(block: tuple[int, int]) -> float:
        """Work of the busiest thread, in multiply-adds of a vector lane."""
        count, results = blocks_of(block), taps * prod(block)
        tasks = ceil_div(count * parts, threads)
        done = count * chunks // threads if count % threads == 0 else tasks * ceil_div(chunks, parts)  # chunks
        adding = 0 if parts == 1 else ceil_div(count, threads) * parts * PACKING * results
        return done * terms * (results + PACKING * packed(block)) + adding

    def blocks_of(block: tuple[int, int]) -> int:
        return shape.groups * ceil_div(rows, block[0]) * ceil_div(lanes, block[1])

    def even(whole: int, width: int) -> set[int]:
        """Multiples of `width` that cut the channels into even blocks."""
        return {round_up(ceil_div(whole, count), width) for count in range(1, ceil_div(whole, width) + 1)}

    inputs = [min(axis.size, (axis.chunk - 1) * axis.stride + axis.span) for axis in axes]  # indices of x in a chunk
    x_image = prod(ceil_div(size, axis.stride) for size, axis in zip(inputs, axes, strict=True)) * LANE_BYTES

    def needed(block: tuple[int, int]) -> tuple[int, int, int]:
        """Bytes of a phase of packed x, of packed dy and of the results."""
        x_phase = ceil_div(block[1], wide) * (images * x_image + PART_GAP)
        dy_bytes = block[0] * images * prod(outputs) * itemsize + block[0] // high * PART_GAP
        return x_phase, dy_bytes, 0 if at_once else round_up(all_taps * (prod(block) * itemsize + PART_GAP), 64)

    def fits(block: tuple[int, int]) -> bool:
        x_phase, dy_bytes, result_bytes = needed(block)
        packed_bytes = prod(phases) * x_phase + dy_bytes
        both, most = result_bytes + packed_bytes, L2_BYTES // 2 if chunks == 1 else RESULT_BYTES
        return result_bytes <= most and packed_bytes <= PACKED_BYTES and both <= TASK_BYTES

    all_blocks = sorted(product(even(rows, high), even(lanes, wide)))
    blocks = [block for block in all_blocks if fits(block)] or all_blocks[:1]
    # Results that go to dw at once are cut into rows, if x fits: cores slow each other down if they write to one row.
    block_rows, block_lanes = min(blocks, key=lambda block: (chunks == 1 and block[1] < lanes, busiest(block)))
    x_phase, dy_bytes, result_bytes = needed((block_rows, block_lanes))
    x_bytes = prod(phases) * x_phase
    sizes = WeightSizes(
        call=NO_CALL,
        table=table.ctypes.data,
        groups=len(groups.groups),
        blocks=blocks_of((block_rows, block_lanes)),
        parts=parts,
        result_bytes=result_bytes,
        turned=turned,
        images=shape.n,
        rows=rows,
        lanes=lanes,
        block_rows=block_rows,
        block_lanes=block_lanes,
        chunk_images=images,
        phase_bytes=x_phase,
        x_bytes=x_bytes,
        axis_d=axes[0],
        axis_h=axes[1],
        axis_w=axes[2],
        x=Steps(*x),
        dy=Steps(*dy),
        out=OutSteps(oc=dw[0], d=dw[1], h=dw[2], w=dw[3], ic=dw[4], channel_group=rows * dw[0]),
    )
    own_bytes = x_bytes + dy_bytes + (result_bytes if parts == 1 else 0)
    return Sizes.of(sizes, SCRATCH_HEAD + own_bytes, table)


def _chunk(shape: ConvShape) -> tuple[int, int, int, int]:
    """Images, depths, rows and columns of dy whose products are a chunk; rows are whole unless they are very long."""
    od, oh, ow = (axis.outputs for axis in shape.axes)
    columns = columns_at_once(ow, CHUNK_TERMS)
    rows = even_part(oh, CHUNK_TERMS // ow)
    depths = even_part(od, CHUNK_TERMS // (oh * ow))
    return even_part(shape.n, CHUNK_TERMS // (od * oh * ow)), depths, rows, columns


# --- the kernel ----------------------------------------------------------------------------------
@helper
def first_met(tap, axis, start):
    """The first index of x from `start` on that a tap meets; the others follow a stride apart."""
    return start + (tap * axis.dilation - axis.before - start) % axis.stride


@helper(inline="always")
def put_channels(zero, tile, out, row_step, lane_step, rows, lanes, tile_rows):
    """Write as many rows and lanes of a tile to dw as there are channels."""
    size = bytes_of(zero)
    if rows >= TILE_ROWS and lanes * size >= LANE_BYTES and lane_step == size:
        store(tile, (out, row_step))
        return
    store(tile, (tile_rows[0], int(LANE_BYTES)))
    rows, lanes = min(rows, TILE_ROWS), min(lanes, LANE_BYTES // size)
    unpack(zero, out, row_step, lane_step, tile_rows[0], int(LANE_BYTES), rows, lanes)


@helper
def terms_in(row, part):
    """How many terms of a group are in earlier chunks, and how many in this one, along one axis."""
    earlier = max(0, part.o0 - row.o.base)
    return earlier, max(0, min(row.terms, part.o1 - row.o.base) - earlier)


@helper
def tap_in(row, k, earlier, part, axis):
    """The k-th tap of a group on an axis, the first index of packed x that it meets, and the length of x there."""
    tap = row.f.base + k * row.f.fixed
    at = (row.i.base + k * row.i.fixed + earlier * row.i.term - part.i0) // axis.stride
    return tap, at, ceil_div(part.i1 - first_met(tap, axis, part.i0), axis.stride)


@helper
def add_group(zero, group, n, chunk, axes, packed, results, out, out_steps, add, last, tile_rows):
    """Add the terms of one chunk of n images to the results of a group of taps; `last` writes the sums to dw."""
    size = bytes_of(zero)
    width = LANE_BYTES // size
    d, h, w = group
    chunk_d, chunk_h, chunk_w = chunk
    axis_d, axis_h, axis_w = axes
    x, phase_bytes, dy = packed
    kept, rows, lanes = results
    high, wide = round_up(rows, TILE_ROWS), round_up(lanes, width)
    earlier_d, terms_d = terms_in(d, chunk_d)
    earlier_h, terms_h = terms_in(h, chunk_h)
    earlier_w, terms_w = terms_in(w, chunk_w)
    dy_w, x_w = n * TILE_ROWS * size, n * LANE_BYTES
    dy_h = (chunk_w.o1 - chunk_w.o0) * dy_w
    dy_d = (chunk_h.o1 - chunk_h.o0) * dy_h
    dy_part = (chunk_d.o1 - chunk_d.o0) * dy_d + PART_GAP
    dy += (d.o.base + earlier_d - chunk_d.o0) * dy_d + (h.o.base + earlier_h - chunk_h.o0) * dy_h
    dy += (w.o.base + earlier_w - chunk_w.o0) * dy_w
    for k in range(d.positions * h.positions * w.positions):
        # 1. the addresses of this tap in the results, and in x, where each phase is packed as an image of its own
        tap_d, depth, x_depths = tap_in(d, k // (h.positions * w.positions), earlier_d, chunk_d, axis_d)
        tap_h, row, x_rows = tap_in(h, k // w.positions % h.positions, earlier_h, chunk_h, axis_h)
        tap_w, column, x_columns = tap_in(w, k % w.positions, earlier_w, chunk_w, axis_w)
        x_h = x_columns * x_w
        x_d = x_rows * x_h
        x_part = x_depths * x_d + PART_GAP
        phase = (tap_d % axis_d.phases * axis_h.phases + tap_h % axis_h.phases) * axis_w.phases + tap_w % axis_w.phases
        x_tap = x + phase * phase_bytes + depth * x_d + row * x_h + column * x_w
        counts, dy_loops, x_loops = loops(  # images and columns are always one loop
            (1, terms_d, terms_h, terms_w * n), (0, dy_d, dy_h, TILE_ROWS * size), (0, x_d, x_h, LANE_BYTES)
        )
        tap = (tap_d * axis_h.taps + tap_h) * axis_w.taps + tap_w
        at_tap = kept + tap * (wide * high * size + PART_GAP)
        out_tap = out + tap_step(tap, axis_h.taps, axis_w.taps, out_steps)
        # 2. its tiles
        for first in range(0, rows, TILE_ROWS):
            for lane in range(0, lanes, width):
                tile = sum_of_products(
                    zeros(zero), size, dy + first // TILE_ROWS * dy_part, x_tap + lane // width * x_part,
                    counts, dy_loops, x_loops,
                )  # fmt: skip
                there = at_tap + (lane * high + first * width) * size, int(LANE_BYTES)
                if add:
                    tile = add_memory(tile, there)
                if last:
                    place = out_tap + first * out_steps.oc + lane * out_steps.ic
                    put_channels(zero, tile, place, out_steps.oc, out_steps.ic, rows - first, lanes - lane, tile_rows)
                else:
                    store(tile, there)


@helper
def finish(zero, tap, kept, kept_step, parts, out, out_steps, rows, lanes, tile_rows, turned):
    """Add up the parts of the results of one tap in order, and write the sums to dw, or to the first part."""
    size = bytes_of(zero)
    width = LANE_BYTES // size
    at = kept + tap * (ceil_div(lanes, width) * round_up(rows, TILE_ROWS) * LANE_BYTES + PART_GAP)
    for lane in range(0, lanes, width):
        for first in range(0, rows, TILE_ROWS):
            tile = zeros(zero)
            for part in range(parts):
                tile = add_memory(tile, (at + part * kept_step, int(LANE_BYTES)))
            if turned:
                store(tile, (at, int(LANE_BYTES)))
            else:
                place = out + first * out_steps.oc + lane * out_steps.ic
                put_channels(zero, tile, place, out_steps.oc, out_steps.ic, rows - first, lanes - lane, tile_rows)
            at += TILE_ROWS * LANE_BYTES


@helper
def put_turned(zero, kept, taps, out, out_steps, rows, lanes):
    """Write the results to dw, whose taps are last: for each row and some lanes, all taps."""
    size = bytes_of(zero)
    high = round_up(rows, TILE_ROWS)
    tap_bytes = ceil_div(lanes * size, int(LANE_BYTES)) * high * LANE_BYTES + PART_GAP
    for row in range(rows):
        for lane in range(0, lanes, VECTOR_BYTES // size):
            at = kept + (lane * size // LANE_BYTES * high + row) * LANE_BYTES + lane * size % LANE_BYTES
            join_taps(zero, out + row * out_steps.oc + lane * out_steps.ic, at, tap_bytes, taps)


@helper
def cuts(axis):
    """Into how many parts an axis is cut."""
    return ceil_div(axis.outputs, axis.chunk)


@helper
def part_of(k, axis):
    """Part k of an axis. Parts differ by one output at most, so equal numbers of chunks are about equal work."""
    parts = cuts(axis)
    o0, o1 = k * axis.outputs // parts, (k + 1) * axis.outputs // parts
    i0 = min(axis.size, max(0, o0 * axis.stride - axis.before))
    i1 = max(i0, min(axis.size, (o1 - 1) * axis.stride - axis.before + axis.span))
    return AxisPart(i0, i1, o0, o1)


@helper
def chunk_of(c, images, chunk_images, axes):
    """First image and number of images of a chunk, and its part of each axis."""
    by_images = ceil_div(images, chunk_images)
    by_depths, by_rows, by_columns = cuts(axes[0]), cuts(axes[1]), cuts(axes[2])
    k = c // (by_depths * by_rows * by_columns)
    n = k * images // by_images
    parts = (
        part_of(c // (by_rows * by_columns) % by_depths, axes[0]),
        part_of(c // by_columns % by_rows, axes[1]),
        part_of(c % by_columns, axes[2]),
    )
    return n, (k + 1) * images // by_images - n, parts


@helper
def block_of(block, sizes):
    """The addresses in x, dy and dw at which a block begins, and how many rows and lanes it has."""
    rows, lanes, block_rows, block_lanes = sizes.rows, sizes.lanes, sizes.block_rows, sizes.block_lanes
    row_blocks, lane_blocks = ceil_div(rows, block_rows), ceil_div(lanes, block_lanes)
    g, row, lane = block // (row_blocks * lane_blocks), block // lane_blocks % row_blocks, block % lane_blocks
    row, lane = row * block_rows, lane * block_lanes
    x = sizes.call.b + (g * lanes + lane) * sizes.x.c
    dy = sizes.call.a + (g * rows + row) * sizes.dy.c
    out = sizes.call.out + g * sizes.out.channel_group + row * sizes.out.oc + lane * sizes.out.ic
    return x, dy, out, min(block_rows, rows - row), min(block_lanes, lanes - lane)


def weight(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d_weight until none is left.

    A task is a block of rows and lanes and, if the sum is cut into parts, a part of the chunks. x is packed phase by
    phase: the positions that a tap meets, which are a stride apart, are put side by side. The images of a chunk
    come innermost, so that images and columns are one long loop even if padding leaves columns out. The results stay
    in memory of their own, tap by tap and tile by tile, until they are complete.
    """
    size = bytes_of(zero)
    sizes = record(arguments, 0, WeightSizes)
    blocks, parts, result_bytes = sizes.blocks, sizes.parts, sizes.result_bytes
    axes = axis_d, axis_h, axis_w = sizes.axis_d, sizes.axis_h, sizes.axis_w
    x_steps, dy_steps, out_steps = sizes.x, sizes.dy, sizes.out
    _, _, tile_rows, kept = own_scratch(arguments)
    x_packed = kept if parts > 1 else after(kept, result_bytes)
    dy_packed = after(x_packed, sizes.x_bytes)
    width, taps = LANE_BYTES // size, axis_d.taps * axis_h.taps * axis_w.taps
    chunks = ceil_div(sizes.images, sizes.chunk_images) * cuts(axis_d) * cuts(axis_h) * cuts(axis_w)
    while True:
        # 1. a task: some channels of dy, some of x, some chunks of the sum
        task = next_task(arguments, thread, blocks * parts)
        if task < 0:
            return
        x, dy, out, rows, lanes = block_of(task // parts, sizes)
        first_chunk, last_chunk = task % parts * chunks // parts, (task % parts + 1) * chunks // parts
        if parts > 1:
            kept = sizes.call.kept + task * result_bytes
        results = kept, rows, lanes
        for c in range(first_chunk, last_chunk):
            # 2. a chunk of both, packed
            n0, n, chunk = chunk_of(c, sizes.images, sizes.chunk_images, axes)
            chunk_d, chunk_h, chunk_w = chunk
            step = int(LANE_BYTES)
            for phase in range(axis_d.phases * axis_h.phases * axis_w.phases):
                first_d = first_met(phase // (axis_h.phases * axis_w.phases), axis_d, chunk_d.i0)
                first_h = first_met(phase // axis_w.phases % axis_h.phases, axis_h, chunk_h.i0)
                first_w = first_met(phase % axis_w.phases, axis_w, chunk_w.i0)
                at = x + n0 * x_steps.n + first_of((first_d, first_h, first_w), x_steps)
                steps = Steps(
                    x_steps.n, axis_d.stride * x_steps.d, axis_h.stride * x_steps.h, axis_w.stride * x_steps.w,
                    x_steps.c,
                )  # fmt: skip
                counts = (
                    n, ceil_div(chunk_d.i1 - first_d, axis_d.stride), ceil_div(chunk_h.i1 - first_h, axis_h.stride),
                    ceil_div(chunk_w.i1 - first_w, axis_w.stride), lanes,
                )  # fmt: skip
                pack_images(zero, x_packed + phase * sizes.phase_bytes, (step, n * step), at, steps, counts, width)
            at = dy + n0 * dy_steps.n + first_of((chunk_d.o0, chunk_h.o0, chunk_w.o0), dy_steps)
            counts = n, chunk_d.o1 - chunk_d.o0, chunk_h.o1 - chunk_h.o0, chunk_w.o1 - chunk_w.o0, rows
            step = TILE_ROWS * size
            pack_images(zero, dy_packed, (step, n * step), at, dy_steps, counts, int(TILE_ROWS))
            # 3. the terms of the chunk, group by group
            for group in range(sizes.groups):
                line = record(sizes.table, group, TapRow)
                met = terms_in(line.d, chunk_d)[1] * terms_in(line.h, chunk_h)[1] * terms_in(line.w, chunk_w)[1]
                last = parts == 1 and c == last_chunk - 1 and not sizes.turned
                if met == 0 and c > first_chunk and not last:
                    continue
                add_group(
                    zero, (line.d, line.h, line.w), n, chunk, axes, (x_packed, sizes.phase_bytes, dy_packed),
                    results, out, out_steps, c > first_chunk, last, tile_rows,
                )  # fmt: skip
        # 4. a sum in parts: the results to dw, by the thread that finishes the last part of a block
        if parts > 1:
            if next_number(sizes.call.done, task // parts) < parts - 1:
                continue
            kept -= task % parts * result_bytes
            for tap in range(taps):
                at = out + tap_step(tap, axis_h.taps, axis_w.taps, out_steps)
                finish(zero, tap, kept, result_bytes, parts, at, out_steps, rows, lanes, tile_rows, sizes.turned)
        # 5. results whose taps are last in dw
        if sizes.turned:
            put_turned(zero, kept, taps, out, out_steps, rows, lanes)
