"""Depthwise convolution on the CPU: all three operators of layers whose channels each have one filter of their own.

No sum runs over channels, so the lanes of a tile are channels of everything, and both factors are rows of lanes::

    tile[r, l] += A[r + t, l] * B[t, l]

================================  ===========================================  ===================================
kernel                            r, from A                                    t, from B
================================  ===========================================  ===================================
``depthwise`` (conv2d)            positions, from x                            taps of a row, from w
``depthwise`` (conv2d_input)      positions, from dy                           taps of a row, from w
``of_filters`` (conv2d_weight)    taps of a row, from x                        positions, from dy
================================  ===========================================  ===================================

With stride 1 a position meets with one tap what its neighbour meets with the next one: a row of A is loaded once for
up to three products. Elsewhere each t is a step of its own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...geometry import ConvShape, Group, Plan, plan
from ...plan_table import group_table
from . import weight
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
from .gather import reach, within
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    TILE_ROWS,
    VECTOR_BYTES,
    bytes_of,
    fill_vector,
    helper,
    next_number,
    number_at,
    put_rows,
    row_products,
    wait_for_streams,
    write_number,
    zeros,
)
from .tile import LINE_BYTES, pack, pack_images, unpack

HALF = TILE_ROWS // 2
CHUNK_BYTES = L2_BYTES // 2  # Source and result of a task, roughly.
MOST_BYTES = 4 * 2**20  # Packed rows of an image that a row of the result needs, or a packed filter.
STREAM_BYTES = 2**24  # If source and result together have at least so many, the result is written past the caches.
MOST_IMAGES = 2 * TILE_ROWS  # So many images of a task fill tiles, however few positions a group has.
LEAST_ROWS = 4  # A band has at least so many rows of an image, because neighbouring bands read the same source.
REUSE = 8  # So many products of a number of the source pay for packing it.
POSITIONS = 48  # Positions whose rows of lanes stay in the first-level cache while all taps meet them.
PARTS = 16  # A filter gradient is cut into about so many tasks: a number that does not depend on the threads.


# --- what the kernels are given ------------------------------------------------------------------
class DepthwiseAddresses(NamedTuple):
    """The addresses of the first elements of the arrays, and of the memory for a sum in parts."""

    source: int
    filters: int
    out: int
    kept: int


class FilterSteps(NamedTuple):
    """Bytes from an element of w or dw to the next one along each axis."""

    channel: int
    h: int
    w: int


class DepthwiseSizes(NamedTuple):
    """The other arguments: of_filters takes dy for `out`, and its result for `filters`."""

    table: int
    bands: int
    bands_count: int
    images: int
    images_together: int
    channels: int
    blocks: int
    parts: int
    result_bytes: int
    fh: int
    fw: int
    source_columns: int
    out_columns: int
    source_packed: int
    out_packed: int
    source_bytes: int
    streams: int
    source: Steps
    out: Steps
    filters: FilterSteps


class BandRow(NamedTuple):
    """Some rows of the result: their groups in the table, which rows they are, and which rows of the source they need.

    Each is given by the first one and the past-the-last one.
    """

    first_group: int
    last_group: int
    first_out: int
    last_out: int
    first_source: int
    last_source: int


# --- the sizes -----------------------------------------------------------------------------------
def fits(shape: ConvShape) -> bool:
    """Whether every channel has one filter of its own, and rows of images and filters are short enough to be packed."""
    row = max(shape.iw, shape.ow) * (min(shape.h.span, shape.ih) + 1)
    short = max(row, shape.fh * shape.fw) * LANE_BYTES <= MOST_BYTES
    return short and shape.groups > 1 and shape.groups == shape.ic == shape.oc


def run(operator: str, shape: ConvShape, first: Array, second: Array, out: Array) -> None:
    """Run an operator on NHWC arrays of any strides."""
    if operator == "conv2d":
        source, filters = first, second
    elif operator == "conv2d_input":
        filters, source = first, second
    else:  # the kernel reads dy at the places at which conv2d writes y
        source, filters, out = first, out, second
    threads = number_of_threads(operator, shape)
    sizes = sizes_of(operator, shape, source.strides, filters.strides, out.strides, out.itemsize, threads)
    blocks, parts, result_bytes = sizes.named.blocks, sizes.named.parts, sizes.named.result_bytes
    kept = weight.memory_for_parts(blocks, parts, result_bytes)
    addresses = DepthwiseAddresses(
        source=source.ctypes.data,
        filters=filters.ctypes.data,
        out=out.ctypes.data,
        kept=round_up(kept.ctypes.data, 64),
    )
    kernel = of_filters if operator == "conv2d_weight" else depthwise
    start(kernel, out.dtype, threads, sizes.arguments, addresses, sizes.scratch)


@lru_cache(maxsize=1024)
def sizes_of(
    operator: str, shape: ConvShape, source: Strides, filters: Strides, out: Strides, itemsize: int, threads: int
) -> Sizes:
    """Return the sizes for a kernel; the arrays are given by their strides."""
    groups = plan("conv2d" if operator == "conv2d_weight" else operator, shape)
    small, large = (shape.oh, shape.ow), (shape.ih, shape.iw)
    (source_rows, source_columns), (rows, columns) = (small, large) if operator == "conv2d_input" else (large, small)
    width = LANE_BYTES // itemsize
    source_packed, out_packed = (step != itemsize or shape.groups < width for step in (source[3], out[3]))
    blocks = ceil_div(shape.groups, width)
    run_length = max(run.positions for run in shape.w.runs(groups.operator))
    if run_length < HALF <= shape.n:
        # Tiles lie along the images, and a row of lanes is loaded for every product: from aligned memory, if often.
        source_packed = source_packed or groups.useful >= REUSE * shape.n * shape.groups * source_rows * source_columns
    image_bytes = LANE_BYTES * (source_rows * source_columns + rows * columns)  # one image of a block of channels
    images = even_part(shape.n, min(MOST_IMAGES, CHUNK_BYTES // image_bytes))
    wanted = PARTS if operator == "conv2d_weight" else (4 * threads if threads > 1 else 1)
    tasks = blocks * ceil_div(shape.n, images)
    band_rows = max(LEAST_ROWS, ceil_div(rows, ceil_div(wanted, tasks)))
    if source_packed or out_packed:
        band_rows = min(band_rows, max(1, rows * CHUNK_BYTES // (image_bytes * images)))
    bands, found = _bands(groups, rows, min(band_rows, rows))
    table = group_table(replace(groups, groups=tuple(found)), [0] * len(found), np.int64)
    memory = np.concatenate([table.ravel(), np.array(bands, np.int64).ravel()])
    whole_lines = not out_packed and not any(step % LINE_BYTES for step in (LANE_BYTES, *out[:3]))
    source_bytes = max(band.last_source - band.first_source for band in bands) * source_columns * images * LANE_BYTES
    out_bytes = max(band.last_out - band.first_out for band in bands) * columns * images * LANE_BYTES
    chunks = len(bands) * ceil_div(shape.n, images)
    parts = min(chunks, ceil_div(PARTS, blocks)) if operator == "conv2d_weight" else 1
    sizes = DepthwiseSizes(
        table=memory.ctypes.data,
        bands=memory.ctypes.data + table.nbytes,
        bands_count=len(bands),
        images=shape.n,
        images_together=images,
        channels=shape.groups,
        blocks=blocks,
        parts=parts,
        result_bytes=shape.fh * shape.fw * LANE_BYTES,
        fh=shape.fh,
        fw=shape.fw,
        source_columns=source_columns,
        out_columns=columns,
        source_packed=source_packed,
        out_packed=out_packed,
        source_bytes=source_bytes if source_packed else 0,
        streams=whole_lines and image_bytes // LANE_BYTES * shape.n * shape.groups * itemsize >= STREAM_BYTES,
        source=Steps(*source),
        out=Steps(*out),
        filters=FilterSteps(channel=filters[0], h=filters[1], w=filters[2]),
    )
    scratch = SCRATCH_HEAD + shape.fh * shape.fw * LANE_BYTES
    scratch += source_packed * source_bytes + out_packed * out_bytes
    return Sizes(sizes, arguments_of(DepthwiseAddresses, sizes), scratch, memory)


def _bands(groups: Plan, rows: int, band_rows: int) -> tuple[list[BandRow], list[Group]]:
    """Cut the result into bands of rows; returns these, and the groups of all of them."""
    bands: list[BandRow] = []
    found: list[Group] = []
    for first in range(0, rows, band_rows):
        last, first_group = min(first + band_rows, rows), len(found)
        for h, w in groups.groups:
            part = within(h, h.o if groups.operator == "conv2d" else h.i, (first, last))
            if part.positions:
                found.append(Group((part, w)))
        needed = reach((group.h for group in found[first_group:]), "i" if groups.operator == "conv2d" else "o")
        bands.append(BandRow(first_group, len(found), first, last, *needed))
    return bands, found


# --- the kernels ---------------------------------------------------------------------------------
@helper
def task_of(task, sizes, width):
    """First channel and number of channels of a task, its first image and number of images, and its band."""
    blocks = ceil_div(sizes.images, sizes.images_together) * sizes.bands_count
    # If the last block of lanes is not full, it overlaps the one before.
    channel = min(task // blocks * width, max(0, sizes.channels - width))
    n = task % blocks // sizes.bands_count * sizes.images_together
    images = min(sizes.images_together, sizes.images - n)
    return channel, min(width, sizes.channels - channel), n, images, task % sizes.bands_count


@helper
def placed_images(zero, array, steps, first, counts, packed, memory):
    """The address of the first image in an array, as if its rows began with row 0, and the steps from there.

    `first` is the first image, the first row and the first channel that are used, `counts` how many (n, h, w, c).
    With `packed` these are copied to (n, h, w, lane) in other memory, whose steps are returned.
    """
    n, row, channel = first
    images, rows, columns, lanes = counts
    at = array + n * steps.n + channel * steps.c
    if not packed:
        return at, steps
    size = bytes_of(zero)
    inside = packed_steps(rows, columns, size)
    at += row * steps.h
    pack_images(zero, memory, (inside.n, inside.w), at, steps, counts, LANE_BYTES // size)
    return memory - row * inside.h, inside


@helper
def packed_steps(rows, columns, size):
    """The steps of packed images (n, h, w, lane)."""
    return Steps(rows * columns * LANE_BYTES, columns * LANE_BYTES, int(LANE_BYTES), size)


@helper
def unpack_images(zero, target, steps, source, counts, lanes):
    """Copy (n, h, w, lane) to an array of any steps."""
    n, h, w = counts
    rows, columns = (1, h * w) if steps.h == w * steps.w else (h, w)
    for row in range(n * rows):
        there = target + row // rows * steps.n + row % rows * steps.h
        unpack(zero, there, steps.w, steps.c, source + row * columns * LANE_BYTES, int(LANE_BYTES), columns, lanes)


@helper
def pack_filters(zero, target, source, steps, fh, fw, lanes):
    """Copy filters to (fh, fw, lane)."""
    padded = LANE_BYTES // bytes_of(zero)
    rows, columns = (1, fh * fw) if steps.h == fw * steps.w else (fh, fw)
    for row in range(rows):
        there, at = target + row * columns * LANE_BYTES, source + row * steps.h
        pack(zero, there, int(LANE_BYTES), at, steps.w, steps.channel, columns, lanes, padded)


@helper
def unpack_filters(zero, target, steps, source, fh, fw, lanes):
    """Copy (fh, fw, lane) to filters of any steps."""
    rows, columns = (1, fh * fw) if steps.h == fw * steps.w else (fh, fw)
    for row in range(rows):
        there, at = target + row * steps.h, source + row * columns * LANE_BYTES
        unpack(zero, there, steps.w, steps.channel, at, int(LANE_BYTES), columns, lanes)


def _tile_of(rows):
    """Return a helper that computes and writes a tile of so many rows."""
    add_one, add_two, add_three = (row_products(rows, taps) for taps in (1, 2, 3))
    write_rows, stream_rows = (put_rows(rows, how) for how in ("write", "stream"))

    @helper
    def put_tile(zero, a, a_step, b, out, out_step, sums):
        counts, a_steps, b_steps, slides, streams = sums
        tile = zeros(zero)
        for i in range(counts[0]):
            at, b_at, left = a + i * a_steps[0], b + i * b_steps[0], counts[1]
            if slides:
                while left >= 3:
                    tile = add_three(tile, at, a_step, b_at, b_steps[1])
                    at, b_at, left = at + 3 * a_steps[1], b_at + 3 * b_steps[1], left - 3
                if left == 2:
                    tile = add_two(tile, at, a_step, b_at, b_steps[1])
                    left = 0
            for t in range(left):
                tile = add_one(tile, at + t * a_steps[1], a_step, b_at + t * b_steps[1], 0)
        if streams and out % LINE_BYTES == 0:
            stream_rows(tile, out, out_step)
        else:
            write_rows(tile, out, out_step)

    return put_tile


put_whole, put_half, put_row = _tile_of(TILE_ROWS), _tile_of(HALF), _tile_of(1)


@helper
def put_tiles(zero, a, a_step, b, out, out_step, count, sums):
    """Compute and write `count` neighbouring positions; a tile that would reach past the last one begins earlier."""
    k = 0
    while k < count:
        if count >= TILE_ROWS and count - k > HALF:
            k = min(k, count - TILE_ROWS)
            put_whole(zero, a + k * a_step, a_step, b, out + k * out_step, out_step, sums)
            k += TILE_ROWS
        elif count >= HALF and count - k > 1:
            k = min(k, count - HALF)
            put_half(zero, a + k * a_step, a_step, b, out + k * out_step, out_step, sums)
            k += HALF
        else:
            put_row(zero, a + k * a_step, a_step, b, out + k * out_step, out_step, sums)
            k += 1


@helper
def tile_axes(n, h, w):
    """The order of three axes of positions: tiles lie along the last one, which is w unless its run is short."""
    if w >= HALF or (w >= n and w >= h):
        return 0, 1, 2
    if h >= n:
        return 0, 2, 1
    return 1, 2, 0


def depthwise(zero, arguments):
    """Kernel: do tasks of conv2d or conv2d_input until none is left.

    A task is a block of channels, some images and a band of rows of the result. Channels that are not neighbours in
    memory, or fewer than a tile has lanes, are packed first, and the results are unpacked.
    """
    size = bytes_of(zero)
    addresses, sizes = own_arguments(arguments, DepthwiseAddresses, DepthwiseSizes)
    filters = own_scratch(arguments)[3]
    width, fh, fw = LANE_BYTES // size, sizes.fh, sizes.fw
    source_memory = filters + fh * fw * LANE_BYTES
    out_memory = source_memory + sizes.source_bytes
    packed = -1  # first channel of the filters that are packed now
    tasks = sizes.blocks * ceil_div(sizes.images, sizes.images_together) * sizes.bands_count
    while True:
        # 1. a task, its filters, and its source
        task = next_number(arguments, NEXT_TASK)
        if task >= tasks:
            wait_for_streams()
            return
        channel, lanes, n, images, number = task_of(task, sizes, width)
        band = record(sizes.bands, number, BandRow)
        if packed != channel:
            packed = channel
            pack_filters(
                zero, filters, addresses.filters + channel * sizes.filters.channel, sizes.filters, fh, fw, lanes
            )
        rows, columns = band.last_source - band.first_source, sizes.source_columns
        source, source_steps = placed_images(
            zero, addresses.source, sizes.source, (n, band.first_source, channel), (images, rows, columns, lanes),
            sizes.source_packed, source_memory,
        )  # fmt: skip
        rows, columns = band.last_out - band.first_out, sizes.out_columns
        out, out_steps = addresses.out + n * sizes.out.n + channel * sizes.out.c, sizes.out
        if sizes.out_packed:
            out_steps = packed_steps(rows, columns, size)
            out = out_memory - band.first_out * out_steps.h
        for group in range(band.first_group, band.last_group):
            # 2. a group of the plan
            line = record(sizes.table, group, TableRow)
            h, w = line.h, line.w
            a = source + h.third * source_steps.h + w.third * source_steps.w
            b = filters + (h.summed * fw + w.summed) * LANE_BYTES
            first_out = out + h.fixed * out_steps.h + w.fixed * out_steps.w
            counts = h.terms, w.terms
            a_h, a_w = h.third_term * source_steps.h, w.third_term * source_steps.w
            b_h, b_w = h.summed_step * fw * LANE_BYTES, w.summed_step * LANE_BYTES
            a_fixed = source_steps.n, h.third_fixed * source_steps.h, w.third_fixed * source_steps.w
            out_fixed = out_steps.n, h.fixed_step * out_steps.h, w.fixed_step * out_steps.w
            if a_w == -a_fixed[2]:  # the last tap comes first, so that taps and positions go the same way
                a, b = a + (w.terms - 1) * a_w, b + (w.terms - 1) * b_w
                a_w, b_w = -a_w, -b_w
            x, y, z = tile_axes(images, h.count, w.count)
            axes = images, h.count, w.count
            sums = counts, (a_h, a_w), (b_h, b_w), z == 2 and a_w == a_fixed[2], sizes.streams
            # 3. its tiles: neighbouring positions
            for i in range(axes[x]):
                for j in range(axes[y]):
                    a_row = a + i * a_fixed[x] + j * a_fixed[y]
                    out_row = first_out + i * out_fixed[x] + j * out_fixed[y]
                    put_tiles(zero, a_row, a_fixed[z], b, out_row, out_fixed[z], axes[z], sums)
        # 4. the results to their places
        if sizes.out_packed:
            target = addresses.out + n * sizes.out.n + band.first_out * sizes.out.h + channel * sizes.out.c
            unpack_images(zero, target, sizes.out, out_memory, (images, rows, columns), lanes)


def _sum_of(taps):
    """Return a helper that adds a sum over positions to the results of so many neighbouring taps."""
    add_one, add_two, add_three = (row_products(taps, positions) for positions in (1, 2, 3))
    add_rows = put_rows(taps, "add")

    @helper
    def add_sum(zero, a, a_step, b, results, sums):
        counts, a_steps, b_steps, slides = sums
        tile = zeros(zero)
        for i in range(counts[0]):
            for j in range(counts[1]):
                at, b_at = a + i * a_steps[0] + j * a_steps[1], b + i * b_steps[0] + j * b_steps[1]
                left = counts[2]
                if slides:
                    while left >= 3:
                        tile = add_three(tile, at, a_step, b_at, b_steps[2])
                        at, b_at, left = at + 3 * a_steps[2], b_at + 3 * b_steps[2], left - 3
                    if left == 2:
                        tile = add_two(tile, at, a_step, b_at, b_steps[2])
                        left = 0
                for k in range(left):
                    tile = add_one(tile, at + k * a_steps[2], a_step, b_at + k * b_steps[2], 0)
        add_rows(tile, results, int(LANE_BYTES))

    return add_sum


add_to_four, add_to_three, add_to_one = _sum_of(4), _sum_of(3), _sum_of(1)


@helper
def add_taps(zero, a, tap_steps, b, results, result_step, taps, sums):
    """Add the sum over some positions to the results of all taps of a group."""
    for h in range(taps[0]):
        at, there, left = a + h * tap_steps[0], results + h * result_step, taps[1]
        while left > 0:
            if left >= 4 and left != 5 and left != 6:  # 5 is done as 3, 1 and 1, and 6 as 3 and 3
                count = 4
                add_to_four(zero, at, tap_steps[1], b, there, sums)
            elif left >= 3:
                count = 3
                add_to_three(zero, at, tap_steps[1], b, there, sums)
            else:
                count = 1
                add_to_one(zero, at, tap_steps[1], b, there, sums)
            at, there, left = at + count * tap_steps[1], there + count * LANE_BYTES, left - count


def of_filters(zero, arguments):
    """Kernel: do tasks of conv2d_weight until none is left.

    A task is a block of channels and, if the sum is cut into parts, a part of the chunks. A chunk is some images and a
    band of rows of dy. The results stay in memory of their own, tap by tap, until they are complete.
    """
    size = bytes_of(zero)
    addresses, sizes = own_arguments(arguments, DepthwiseAddresses, DepthwiseSizes)
    results = own_scratch(arguments)[3]
    width, fh, fw = LANE_BYTES // size, sizes.fh, sizes.fw
    source_memory = results + fh * fw * LANE_BYTES
    out_memory = source_memory + sizes.source_bytes
    parts, chunks = sizes.parts, ceil_div(sizes.images, sizes.images_together) * sizes.bands_count
    while True:
        # 1. a task: its results begin as 0
        task = next_number(arguments, NEXT_TASK)
        if task >= sizes.blocks * parts:
            return
        block = task // parts
        if parts > 1:
            results = addresses.kept + round_up(8 * sizes.blocks, 64) + task * sizes.result_bytes
        for k in range(0, sizes.result_bytes, VECTOR_BYTES):
            fill_vector(zero, results + k)
        channel, lanes = 0, 0
        for chunk in range(task % parts * chunks // parts, (task % parts + 1) * chunks // parts):
            # 2. a chunk of x and dy
            channel, lanes, n, images, number = task_of(block * chunks + chunk, sizes, width)
            band = record(sizes.bands, number, BandRow)
            rows, columns = band.last_source - band.first_source, sizes.source_columns
            source, source_steps = placed_images(
                zero, addresses.source, sizes.source, (n, band.first_source, channel), (images, rows, columns, lanes),
                sizes.source_packed, source_memory,
            )  # fmt: skip
            rows, columns = band.last_out - band.first_out, sizes.out_columns
            out, out_steps = placed_images(
                zero, addresses.out, sizes.out, (n, band.first_out, channel), (images, rows, columns, lanes),
                sizes.out_packed, out_memory,
            )  # fmt: skip
            for group in range(band.first_group, band.last_group):
                # 3. a group: some taps of each row of the filter at a time
                line = record(sizes.table, group, TableRow)
                h, w = line.h, line.w
                a = source + h.third * source_steps.h + w.third * source_steps.w
                b = out + h.fixed * out_steps.h + w.fixed * out_steps.w
                at = results + (h.summed * fw + w.summed) * LANE_BYTES
                axes = images, h.count, w.count
                a_fixed = source_steps.n, h.third_fixed * source_steps.h, w.third_fixed * source_steps.w
                b_fixed = out_steps.n, h.fixed_step * out_steps.h, w.fixed_step * out_steps.w
                x, y, z = tile_axes(images, h.count, w.count)
                a_steps, b_steps = (a_fixed[x], a_fixed[y], a_fixed[z]), (b_fixed[x], b_fixed[y], b_fixed[z])
                a_h, a_w = h.third_term * source_steps.h, w.third_term * source_steps.w
                by_x, by_y = max(1, POSITIONS // (axes[y] * axes[z])), min(axes[y], ceil_div(POSITIONS, axes[z]))
                for i in range(0, axes[x], by_x):
                    for j in range(0, axes[y], by_y):
                        counts = min(by_x, axes[x] - i), min(by_y, axes[y] - j), axes[z]
                        sums = counts, a_steps, b_steps, z == 2 and a_w == a_fixed[2]
                        a_at, b_at = a + i * a_steps[0] + j * a_steps[1], b + i * b_steps[0] + j * b_steps[1]
                        add_taps(zero, a_at, (a_h, a_w), b_at, at, fw * LANE_BYTES, (h.terms, w.terms), sums)
        # 4. the results to dw, by the thread that finishes the last part of a block
        if parts > 1:
            if next_number(addresses.kept, block) < parts - 1:
                continue
            results -= task % parts * sizes.result_bytes
            for part in range(1, parts):
                for k in range(0, sizes.result_bytes, size):
                    there = number_at(zero, results + k) + number_at(zero, results + part * sizes.result_bytes + k)
                    write_number(there, results + k)
        unpack_filters(zero, addresses.filters + channel * sizes.filters.channel, sizes.filters, results, fh, fw, lanes)
