"""conv2d and conv2d_input on the CPU.

The rows of a tile are positions of the result, its lanes are channels of the result, and the filters are packed first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...geometry import Affine, ConvShape, Group, Run, plan
from ...plan_table import TABLE_WIDTH, group_table
from .compiled import (
    NEXT_TASK,
    SCRATCH_HEAD,
    Array,
    AxisRow,
    Sizes,
    Steps,
    Strides,
    arguments_of,
    ceil_div,
    count_of,
    even_part,
    number_of_threads,
    numbers_of,
    own_arguments,
    own_scratch,
    record,
    start,
)
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    addresses_in,
    bytes_of,
    fetch,
    helper,
    next_number,
    stream,
    wait_for_streams,
    zeros,
)
from .tile import LINE_BYTES, copy_part, pack, put, put_sums, sum_of_products, sums_along

# The largest panel of packed filters, and all panels of a task together.
PANEL_BYTES = {"conv2d": L2_BYTES // 2, "conv2d_input": 3 * L2_BYTES // 8}
PANELS_BYTES = 5 * L2_BYTES // 8
STREAM_BYTES = 2**20  # Results of at least this size are written past the caches.
NARROW = 4  # With at most so many channels of the result, the lanes of a tile hold terms of one sum.
AHEAD = 16  # Number of terms from the one that is being packed to the one that is fetched into the cache.
COPY_BYTES = 3 * 2**20  # Images are copied to channels last in pieces of about this size.
sum_of_products_along = sums_along(TILE_ROWS)


# --- what the kernels are given ------------------------------------------------------------------
class FilterSteps(NamedTuple):
    """Bytes from an element of w to the next one along each axis, and to the next channel group."""

    lane: int
    term: int
    h: int
    w: int
    channel_group: int


class GatherAddresses(NamedTuple):
    """The addresses of the first elements of the arrays."""

    source: int
    filters: int
    out: int


class GatherSizes(NamedTuple):
    """The other arguments of `gather`: lanes are channels of the result, terms those that are summed over."""

    table: int
    groups: int
    images: int
    channel_groups: int
    terms: int
    lanes: int
    panels_together: int
    tiles_together: int
    chunk: int
    narrow: int
    streams: int
    source: Steps
    out: Steps
    filters: FilterSteps


class CopyAddresses(NamedTuple):
    """The addresses of the first elements of the arrays."""

    source: int
    target: int


class CopySizes(NamedTuple):
    """The other arguments of `to_channels_last`."""

    images: int
    rows: int
    columns: int
    channels: int
    source: Steps


class Taps(NamedTuple):
    """Evenly spaced taps of one axis."""

    first: int
    step: int
    number: int


class PackedTaps(NamedTuple):
    """The number of a class of groups, the first tap of one of them, and the taps that are packed for all of them."""

    number: int
    first: int
    h: Taps
    w: Taps


class GatherRow(NamedTuple):
    """A row of the table: a group of the plan as in `TableRow`, and the taps that are packed for it."""

    first_block: int
    h: AxisRow
    w: AxisRow
    packed: PackedTaps


# --- the sizes -----------------------------------------------------------------------------------
def run(operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator on the whole source or, if its channels are not last, piece by piece on copies of its images."""
    threads = number_of_threads(operator, shape)
    if source.strides[3] == source.itemsize:
        sizes = sizes_of(operator, shape, shape.n, (0, out.shape[1]), source.strides, w.strides, out.strides, threads)
        addresses = GatherAddresses(source=source.ctypes.data, filters=w.ctypes.data, out=out.ctypes.data)
        start(gather, out.dtype, threads, sizes.arguments, addresses, sizes.scratch)
        return
    images, rows = _copied_at_once(source, out)
    for n in range(0, shape.n, images):
        for row in range(0, out.shape[1], rows):
            _run_copied(operator, shape, source[n : n + images], w, out[n : n + images], row, rows, threads)


def _copied_at_once(source: Array, out: Array) -> tuple[int, int]:
    """How many images, and for how many rows of the result, are copied to channels last at a time."""
    image_bytes = source[0].size * source.itemsize
    if image_bytes <= COPY_BYTES:
        return COPY_BYTES // image_bytes, out.shape[1]
    return 1, max(1, COPY_BYTES * out.shape[1] // image_bytes)


def _run_copied(
    operator: str, shape: ConvShape, source: Array, w: Array, out: Array, row: int, rows: int, threads: int
) -> None:
    """Copy the rows of some images that some rows of the result need, and compute these."""
    n, _, columns, channels = source.shape
    band = (row, min(row + rows, out.shape[1]))
    steps = (columns * channels * source.itemsize, channels * source.itemsize, source.itemsize)
    first, last = needed(operator, shape, band)
    buffer = np.empty((n, last - first, columns, channels), source.dtype)
    part = source[:, first:last]
    copy = CopySizes(images=n, rows=last - first, columns=columns, channels=channels, source=Steps(*part.strides))
    to_copy = CopyAddresses(source=part.ctypes.data, target=buffer.ctypes.data)
    start(to_channels_last, out.dtype, threads, arguments_of(CopyAddresses, copy), to_copy, 0)
    image_step = (last - first) * steps[0]
    sizes = sizes_of(operator, shape, n, band, (image_step, *steps), w.strides, out.strides, threads)
    row_0 = buffer.ctypes.data - first * steps[0]  # The buffer begins with row `first`.
    addresses = GatherAddresses(source=row_0, filters=w.ctypes.data, out=out.ctypes.data)
    start(gather, out.dtype, threads, sizes.arguments, addresses, sizes.scratch)


@lru_cache(maxsize=1024)
def sizes_of(
    operator: str,
    shape: ConvShape,
    images: int,
    band: tuple[int, int],
    source: Strides,
    w: Strides,
    out: Strides,
    threads: int,
) -> Sizes:
    """Return the sizes for `gather` on a band of rows of the result; source, w and out are strides of the arrays."""
    classes = _classes(operator, shape, band)
    groups = [group for members in classes.values() for group in members]
    blocks = [ceil_div(images * group.positions, TILE_ROWS) for group in groups]
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    lanes, terms = (oc, ic) if operator == "conv2d" else (ic, oc)
    lane_step, term_step = (w[0], w[3]) if operator == "conv2d" else (w[3], w[0])
    taps = max(rows.number * columns.number for rows, columns in classes)
    column_bytes = taps * terms * source[3]  # packed filters of one lane
    narrow = lanes <= NARROW and terms * source[3] % VECTOR_BYTES == 0 and lanes * column_bytes <= PANELS_BYTES
    term_bytes = max(1, taps) * LANE_BYTES  # one term of a panel
    panels = ceil_div(lanes * source[3], LANE_BYTES)
    chunk = terms if narrow else even_part(terms, PANEL_BYTES[operator] // term_bytes)
    together = even_part(panels, PANELS_BYTES // (chunk * term_bytes))
    tiles = sum(blocks)
    blocks_wanted = ceil_div(4 * threads, ceil_div(panels, together) * shape.groups)
    tiles_together = min(64, max(8, ceil_div(tiles, blocks_wanted)))
    # Large results that are whole cache lines are written past the caches, which are too small for them.
    whole_lines = out[3] == source[3] and not any(step % LINE_BYTES for step in (LANE_BYTES, *out[:3]))
    streams = whole_lines and chunk == terms and images * out[0] >= STREAM_BYTES
    table = np.zeros((len(groups) + 1, count_of(GatherRow)), np.int64)
    table[:, :TABLE_WIDTH] = group_table(replace(plan(operator, shape), groups=tuple(groups)), blocks, np.int64)
    table[:-1, TABLE_WIDTH:] = [
        numbers_of(_packed_taps(group, k, *axes)) for k, axes in enumerate(classes) for group in classes[axes]
    ]
    sizes = GatherSizes(
        table=table.ctypes.data,
        groups=len(groups),
        images=images,
        channel_groups=shape.groups,
        terms=terms,
        lanes=lanes,
        panels_together=together,
        tiles_together=tiles_together,
        chunk=chunk,
        narrow=narrow,
        streams=streams,
        source=Steps(*source),
        out=Steps(*out),
        filters=FilterSteps(lane=lane_step, term=term_step, h=w[1], w=w[2], channel_group=oc * w[0]),
    )
    packed_bytes = lanes * column_bytes if narrow else together * chunk * term_bytes
    return Sizes(sizes, arguments_of(GatherAddresses, sizes), SCRATCH_HEAD + packed_bytes, table)


@lru_cache(maxsize=1024)
def needed(operator: str, shape: ConvShape, band: tuple[int, int]) -> tuple[int, int]:
    """Return the first and the past-the-last row of the source that a band of rows of the result needs."""
    runs = (group.h for groups in _classes(operator, shape, band).values() for group in groups)
    return reach(runs, "i" if operator == "conv2d" else "o")


def _classes(operator: str, shape: ConvShape, band: tuple[int, int]) -> dict[tuple[Taps, Taps], list[Group]]:
    """The groups with results in the band, sorted into classes that share packed taps: the phases of conv2d_input."""
    steps = (1, 1) if operator == "conv2d" else (shape.h.phase_step, shape.w.phase_step)
    phases: dict[tuple[int, ...], list[Group]] = {}
    for h, w in plan(operator, shape).groups:  # a group without terms may be in any class
        part = within(h, h.o if operator == "conv2d" else h.i, band)
        if part.positions:
            phase = h.f.base % steps[0], w.f.base % steps[1]
            phases.setdefault(phase, []).append(Group((part, w)))
    classes: dict[tuple[Taps, Taps], list[Group]] = {}
    for groups in phases.values():
        axes = []
        for k, step in enumerate(steps):
            first, end = reach((group[k] for group in groups), "f")
            axes.append(Taps(first, step, ceil_div(end - first, step)))
        classes.setdefault((axes[0], axes[1]), []).extend(groups)
    return classes


def _packed_taps(group: Group, number: int, h: Taps, w: Taps) -> PackedTaps:
    """The taps that are packed for class `number`, and which of them a group of that class begins with."""
    first = (group.h.f.base - h.first) // h.step * w.number + (group.w.f.base - w.first) // w.step
    return PackedTaps(number=number, first=first if group.terms else 0, h=h, w=w)


def within(run: Run, fixed: Affine, band: tuple[int, int]) -> Run:
    """The part of a run whose fixed index lies in a band."""
    first, last = (min(max(0, ceil_div(end - fixed.base, fixed.fixed or 1)), run.positions) for end in band)
    return run.part(first, last)


def reach(runs: Iterable[Run], index: str) -> tuple[int, int]:
    """The first and the past-the-last "i", "f" or "o" that any of the runs uses."""
    ends = [
        getattr(run, index).at(k, t)
        for run in runs
        if run.terms
        for k in (0, run.positions - 1)
        for t in (0, run.terms - 1)
    ]
    return (min(ends), max(ends) + 1) if ends else (0, 0)


# --- the kernels ---------------------------------------------------------------------------------
@helper
def place_rows(h, w, place, count, source_steps, out_steps, source_rows, out_rows):
    """Write the addresses of `count` rows of a tile, the positions (n, kh, kw) of a group from `place` on.

    Returns the place after them. The other rows of the tile repeat the last one.
    """
    n, kh, kw = place
    source_h, source_w = h.third_fixed * source_steps.h, w.third_fixed * source_steps.w
    out_h, out_w = h.fixed_step * out_steps.h, w.fixed_step * out_steps.w
    for r in range(TILE_ROWS):
        if r < count:
            source_at = n * source_steps.n + kh * source_h + kw * source_w
            out_at = n * out_steps.n + kh * out_h + kw * out_w
            kw += 1
            if kw == w.count:
                kw, kh = 0, kh + 1
                if kh == h.count:
                    kh, n = 0, n + 1
        source_rows[r], out_rows[r] = source_at, out_at
    return n, kh, kw


@helper
def pack_columns(zero, panel, filters, steps, taps_h, taps_w, terms, lanes):
    """Copy filters to (lane, fh, fw, term), the form that `sums_along` reads."""
    step, count = terms * bytes_of(zero), taps_h.number * taps_w.number
    for tap in range(count):
        at = filters + tap_offset(tap, taps_h, taps_w, steps)
        pack(zero, panel + tap * step, count * step, at, steps.lane, steps.term, lanes, terms, terms)


@helper
def pack_panels(zero, panel, filters, steps, taps_h, taps_w, terms, lanes):
    """Copy filters to (lane // width, fh, fw, term, lane % width); lanes past the last become 0."""
    size, count = bytes_of(zero), taps_h.number * taps_w.number
    width = LANE_BYTES // size
    whole = lanes // width if steps.lane == size else 0
    for tap in range(count if whole else 0):
        to, at = panel + tap * terms * LANE_BYTES, filters + tap_offset(tap, taps_h, taps_w, steps)
        for k in range(terms):
            for part in range(whole):
                for line in range(part * LANE_BYTES, (part + 1) * LANE_BYTES, LINE_BYTES):
                    fetch(at + line + AHEAD * steps.term)
                copy_part(zero, to + (part * count * terms + k) * LANE_BYTES, at + part * LANE_BYTES, width)
            at += steps.term
    for part in range(whole, ceil_div(lanes, width)):
        for tap in range(count):
            pack(
                zero, panel + (part * count + tap) * terms * LANE_BYTES, int(LANE_BYTES),
                filters + part * width * steps.lane + tap_offset(tap, taps_h, taps_w, steps), steps.term, steps.lane,
                terms, min(width, lanes - part * width), width,
            )  # fmt: skip


@helper
def tap_offset(tap, taps_h, taps_w, steps):
    """Bytes from the first number of the filters to those of a packed tap."""
    fh = taps_h.first + tap // taps_w.number * taps_h.step
    fw = taps_w.first + tap % taps_w.number * taps_w.step
    return fh * steps.h + fw * steps.w


def gather(zero, arguments):
    """Kernel: do tasks of conv2d or conv2d_input until none is left.

    A task is a block of tiles and some panels; a panel is the packed filters of as many channels as a tile has lanes.
    The terms are cut into chunks, so that the panels of a chunk fit into the cache. If the result has so few channels
    that most lanes would be empty (`narrow`), the lanes hold terms of one sum instead.
    """
    size = bytes_of(zero)
    addresses, sizes = own_arguments(arguments, GatherAddresses, GatherSizes)
    terms, lanes, chunk, groups = sizes.terms, sizes.lanes, sizes.chunk, sizes.groups
    together, tiles_together, narrow = sizes.panels_together, sizes.tiles_together, sizes.narrow
    source_rows, out_rows, tile_rows, panel = own_scratch(arguments)
    packed = -1  # number of the panels, the chunk and the class of taps that are packed now
    tiles = record(sizes.table, groups, GatherRow).first_block
    width = LANE_BYTES // size
    unit = size if narrow else LANE_BYTES  # bytes of packed filters from one term to the next
    chunks, blocks = ceil_div(terms, chunk), ceil_div(tiles, tiles_together)
    lane_blocks = ceil_div(lanes, together * width)
    while True:
        # 1. a task: some panels, some tiles
        task = next_number(arguments, NEXT_TASK)
        if task >= sizes.channel_groups * lane_blocks * blocks:
            wait_for_streams()
            return
        which, block = task // blocks, task % blocks
        g, first_lane = which // lane_blocks, which % lane_blocks * together * width
        last_lane = min(first_lane + together * width, lanes)
        for c in range(chunks):
            count = min(chunk, terms - c * chunk)
            group, next_block, place = -1, 0, (0, 0, 0)
            for number in range(block * tiles_together, min(tiles, (block + 1) * tiles_together)):
                # 2. a new group: what its tiles share, and its filters
                if number >= next_block:
                    while number >= next_block:
                        group += 1
                        next_block = record(sizes.table, group + 1, GatherRow).first_block
                    line = record(sizes.table, group, GatherRow)
                    h, w = line.h, line.w
                    per_image = h.count * w.count
                    row = (number - line.first_block) * TILE_ROWS
                    place = row // per_image, row % per_image // w.count, row % w.count
                    row_end = sizes.images * per_image
                    a = addresses.source + h.third * sizes.source.h + w.third * sizes.source.w
                    a += (g * terms + c * chunk) * sizes.source.c
                    y = addresses.out + h.fixed * sizes.out.h + w.fixed * sizes.out.w
                    y += (g * lanes + first_lane) * sizes.out.c
                    packed_taps = line.packed.h.number * line.packed.w.number
                    column = packed_taps * count * unit  # bytes of one panel, or of one lane
                    first_b = panel + line.packed.first * count * unit
                    a_h, a_w = h.third_term * sizes.source.h, w.third_term * sizes.source.w
                    b_h, b_w = line.packed.w.number * count * unit, count * unit
                    loops = (h.terms, w.terms, count)
                    if a_w == count * size:  # neighbouring taps lie side by side in both: one longer loop
                        loops = (h.terms, min(w.terms, 1), w.terms * count)
                    key = (which * chunks + c) * groups + line.packed.number
                    if packed != key:
                        packed = key
                        steps, taps_h, taps_w = sizes.filters, line.packed.h, line.packed.w
                        at = addresses.filters + g * steps.channel_group
                        at += first_lane * steps.lane + c * chunk * steps.term
                        if narrow:
                            pack_columns(zero, panel, at, steps, taps_h, taps_w, count, last_lane - first_lane)
                        else:
                            pack_panels(zero, panel, at, steps, taps_h, taps_w, count, last_lane - first_lane)
                # 3. the addresses of the rows of a tile
                rows = min(TILE_ROWS, row_end - row)
                row += rows
                place = place_rows(h, w, place, rows, sizes.source, sizes.out, source_rows, out_rows)
                for r in range(TILE_ROWS):
                    out_rows[r] += y
                # 4. the tile, for each panel
                b = first_b
                for lane in range(first_lane, last_lane, TILE_VECTORS if narrow else width):
                    if narrow:
                        here = min(TILE_VECTORS, last_lane - lane)
                        tile = sum_of_products_along(
                            zeros(zero), addresses_in(source_rows), a, b, (column, here - 1),
                            loops, (a_h, a_w, size), (b_h, b_w, size),
                        )  # fmt: skip
                        put_sums(tile, zero, out_rows, rows, here, sizes.out.c, c > 0, tile_rows, int(TILE_VECTORS))
                        b += here * column
                    else:
                        here = min(width, last_lane - lane)
                        tile = sum_of_products(
                            zeros(zero), addresses_in(source_rows), a, b,
                            loops, (a_h, a_w, size), (b_h, b_w, LANE_BYTES),
                        )  # fmt: skip
                        if sizes.streams and here == width and out_rows[0] % LINE_BYTES == 0:
                            stream(tile, addresses_in(out_rows))
                        else:
                            put(tile, zero, out_rows, rows, here, sizes.out.c, c > 0, tile_rows)
                        b += column
                    for r in range(TILE_ROWS):
                        out_rows[r] += here * sizes.out.c


def to_channels_last(zero, arguments):
    """Kernel: copy an array (n, h, w, c) of any steps to contiguous memory; a task is a row of an image."""
    addresses, sizes = own_arguments(arguments, CopyAddresses, CopySizes)
    steps, rows, columns, channels = sizes.source, sizes.rows, sizes.columns, sizes.channels
    step = channels * bytes_of(zero)
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= sizes.images * rows:
            return
        at = addresses.source + task // rows * steps.n + task % rows * steps.h
        pack(
            zero, addresses.target + task * columns * step, step, at, steps.w, steps.c, columns, channels, channels
        )  # fmt: skip
