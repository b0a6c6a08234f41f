"""conv2d and conv2d_input on the CPU.

The rows of a tile are positions of the result, its lanes are channels of the result, and the filters are packed first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from ...geometry import ConvShape, Group, Run, plan
from .compiled import (
    NEXT_TASK,
    SCRATCH_HEAD,
    Array,
    AxisRow,
    Sizes,
    Steps,
    Strides,
    address_of,
    arguments_of,
    ceil_div,
    count_of,
    even_part,
    first_of,
    five,
    number_of_threads,
    numbers_of,
    own_arguments,
    own_scratch,
    record,
    start,
    table_of,
    with_three_axes,
)
from .packed import AXES, NARROW, FilterSteps, filter_steps
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
from .repeats import not_again, temporary
from .tile import LINE_BYTES, copy_part, pack, put, put_sums, sum_of_products, sums_along

# The largest panel of packed filters, and all panels of a task together.
PANEL_BYTES = {"conv2d": L2_BYTES // 2, "conv2d_input": 3 * L2_BYTES // 8}
PANELS_BYTES = 5 * L2_BYTES // 8
STREAM_BYTES = 2**20  # Results of at least this size are written past the caches.
AHEAD = 16  # Number of terms from the one that is being packed to the one that is fetched into the cache.
COPY_BYTES = 3 * 2**20  # Images are copied to channels last in pieces of about this size.
COPY_COLUMNS = 1024  # A thread copies so many columns of a row at a time.
sum_of_products_along = sums_along(TILE_ROWS)


# --- what the kernels are given ------------------------------------------------------------------
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
    ready: int
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
    depths: int
    rows: int
    columns: int
    columns_together: int
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
    d: Taps
    h: Taps
    w: Taps


class GatherRow(NamedTuple):
    """A row of the table: a group of the plan as in `TableRow`, and the taps that are packed for it."""

    first_block: int
    h: AxisRow
    w: AxisRow
    d: AxisRow
    packed: PackedTaps


# --- the sizes -----------------------------------------------------------------------------------
def run(operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator on the whole source or, if its channels are not last, piece by piece on copies of its images."""
    threads = number_of_threads(operator, shape)
    if source.strides[-1] == source.itemsize:
        sizes = sizes_of(operator, shape, shape.n, (0, out.shape[1]), source.strides, w.strides, out.strides, threads)
        addresses = GatherAddresses(source=address_of(source), filters=address_of(w), out=address_of(out))
        start(gather, out.dtype, threads, sizes, addresses)
        return
    images, length = _copied_at_once(source, out)
    for n in range(0, shape.n, images):
        for first in range(0, out.shape[1], length):
            band = first, min(first + length, out.shape[1])
            _run_copied(operator, shape, source[n : n + images], w, out[n : n + images], band, threads)


def _copied_at_once(source: Array, out: Array) -> tuple[int, int]:
    """How many images, and for how much of the first axis of the result, are copied to channels last at a time."""
    image_bytes = source[0].size * source.itemsize
    if image_bytes <= COPY_BYTES:
        return COPY_BYTES // image_bytes, out.shape[1]
    return 1, max(1, COPY_BYTES * out.shape[1] // image_bytes)


def _run_copied(
    operator: str, shape: ConvShape, source: Array, w: Array, out: Array, band: tuple[int, int], threads: int
) -> None:
    """Copy the part of some images that a band of the result needs, and compute the band."""
    first, last = needed(operator, shape, band)
    part = source[:, first:last]
    buffer = temporary(part.shape, source.dtype)
    images, *lengths, channels = part.shape
    depths, rows, columns = [1] * (3 - len(lengths)) + lengths
    copy = CopySizes(
        images=images,
        depths=depths,
        rows=rows,
        columns=columns,
        columns_together=even_part(columns, COPY_COLUMNS) if columns else 1,
        channels=channels,
        source=Steps(*five(part.strides)),
    )
    to_copy = CopyAddresses(source=address_of(part), target=address_of(buffer))
    copy_sizes = Sizes(copy, arguments_of(CopyAddresses, copy))
    start(to_channels_last, out.dtype, threads, copy_sizes, to_copy)
    steps = tuple(source.itemsize * prod(part.shape[k:]) for k in range(1, part.ndim + 1))
    sizes = sizes_of(operator, shape, images, band, steps, w.strides, out.strides, threads)
    index_0 = address_of(buffer) - first * steps[1]  # The buffer begins with index `first`.
    if first:
        not_again()
    addresses = GatherAddresses(source=index_0, filters=address_of(w), out=address_of(out))
    start(gather, out.dtype, threads, sizes, addresses)


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
    """Return the sizes for `gather` on a band of the result; source, w and out are strides of the arrays.

    The band is a part of the layer's first spatial axis: its first index, and the past-the-last one.
    """
    ready = len(w) == AXES
    source, out = five(source), five(out)
    classes = _classes(operator, shape, band)
    groups = [group for members in classes.values() for group in members]
    blocks = [ceil_div(images * group.positions, TILE_ROWS) for group in groups]
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    lanes, terms = (oc, ic) if operator == "conv2d" else (ic, oc)
    taps = max(prod(axis.number for axis in axes) for axes in classes)
    column_bytes = taps * terms * source[4]  # packed filters of one lane
    narrow = (
        not ready and lanes <= NARROW and terms * source[4] % VECTOR_BYTES == 0 and lanes * column_bytes <= PANELS_BYTES
    )
    term_bytes = max(1, taps) * LANE_BYTES  # one term of a panel
    panels = ceil_div(lanes * source[4], LANE_BYTES)
    chunk = terms if narrow else even_part(terms, PANEL_BYTES[operator] // term_bytes)
    together = even_part(panels, PANELS_BYTES // (chunk * term_bytes))
    tiles = sum(blocks)
    blocks_wanted = ceil_div(4 * threads, ceil_div(panels, together) * shape.groups)
    tiles_together = min(64, max(8, ceil_div(tiles, blocks_wanted)))
    # Large results that are whole cache lines are written past the caches, which are too small for them.
    whole_lines = out[4] == source[4] and not any(step % LINE_BYTES for step in (LANE_BYTES, *out[:4]))
    streams = whole_lines and chunk == terms and images * out[0] >= STREAM_BYTES
    packed = [_packed_taps(group, k, *axes) for k, axes in enumerate(classes) for group in classes[axes]]
    last = [[0] * count_of(PackedTaps)]
    whole = plan(operator, with_three_axes(shape))
    rows = table_of(replace(whole, groups=tuple(groups)), blocks)
    table = np.hstack([rows, np.array([numbers_of(taps) for taps in packed] + last, np.int64)])
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
        ready=ready,
        streams=streams,
        source=Steps(*source),
        out=Steps(*out),
        filters=filter_steps(operator, w, oc, source[4]),
    )
    packed_bytes = 0 if ready else lanes * column_bytes if narrow else together * chunk * term_bytes
    return Sizes(sizes, arguments_of(GatherAddresses, sizes), SCRATCH_HEAD + packed_bytes, table)


@lru_cache(maxsize=1024)
def needed(operator: str, shape: ConvShape, band: tuple[int, int]) -> tuple[int, int]:
    """Return the first and the past-the-last index of the source's first axis that a band of the result needs."""
    first_axis = 3 - len(shape.axes)
    runs = (group[first_axis] for groups in _classes(operator, shape, band).values() for group in groups)
    return reach(runs, "i" if operator == "conv2d" else "o")


def _classes(operator: str, shape: ConvShape, band: tuple[int, int]) -> dict[tuple[Taps, ...], list[Group]]:
    """The groups with results in the band, sorted into classes that share packed taps: the phases of conv2d_input."""
    whole = plan(operator, with_three_axes(shape))
    steps = [1 if operator == "conv2d" else axis.phase_step for axis in whole.shape.axes]
    phases: dict[tuple[int, ...], list[Group]] = {}
    for group in whole.groups:  # a group without terms may be in any class
        part = within(group, operator, 3 - len(shape.axes), band)
        if part.positions:
            phase = tuple(run.f.base % step for run, step in zip(group, steps, strict=True))
            phases.setdefault(phase, []).append(part)
    classes: dict[tuple[Taps, ...], list[Group]] = {}
    for groups in phases.values():
        axes = []
        for runs, step in zip(zip(*groups, strict=True), steps, strict=True):
            first, end = reach(runs, "f")
            axes.append(Taps(first, step, ceil_div(end - first, step)))
        classes.setdefault(tuple(axes), []).extend(groups)
    return classes


def _packed_taps(group: Group, number: int, *axes: Taps) -> PackedTaps:
    """The taps that are packed for class `number`, and which of them a group of that class begins with."""
    first = 0
    for run, taps in zip(group, axes, strict=True):
        first = first * taps.number + (run.f.base - taps.first) // taps.step
    return PackedTaps(number, first if group.terms else 0, *axes)


def within(group: Group, operator: str, axis: int, band: tuple[int, int]) -> Group:
    """The part of a group of conv2d or conv2d_input whose results lie in a band of an axis."""
    run = group[axis]
    fixed = run.o if operator == "conv2d" else run.i
    first, last = (min(max(0, ceil_div(end - fixed.base, fixed.fixed or 1)), run.positions) for end in band)
    return Group((*group[:axis], run.part(first, last), *group[axis + 1 :]))


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
def jumps(counts, n, d, h, w):
    """Bytes from a position (n, kd, kh, kw) to the next one: of the same row, of the same depth, image, and any."""
    return w, h - counts[2] * w, d - counts[1] * h, n - counts[0] * d


@helper
def place_rows(counts, place, count, source_jumps, out_jumps, source_rows, out_rows):
    """Write the addresses of `count` rows of a tile, the positions of a group from `place` on.

    A place is a position (kd, kh, kw), and its addresses in the source and in the result. Returns the one after the
    rows. The other rows of the tile repeat the last one.
    """
    kd, kh, kw, source, out = place
    for r in range(TILE_ROWS):
        if r < count:
            at, to = source, out
            kw, source, out = kw + 1, source + source_jumps[0], out + out_jumps[0]
            if kw == counts[2]:
                kw, kh, source, out = 0, kh + 1, source + source_jumps[1], out + out_jumps[1]
                if kh == counts[1]:
                    kh, kd, source, out = 0, kd + 1, source + source_jumps[2], out + out_jumps[2]
                    if kd == counts[0]:
                        kd, source, out = 0, source + source_jumps[3], out + out_jumps[3]
        source_rows[r], out_rows[r] = at, to
    return kd, kh, kw, source, out


@helper
def packed_count(packed):
    """How many taps are packed together."""
    return packed.d.number * packed.h.number * packed.w.number


@helper
def pack_columns(zero, panel, filters, steps, packed, terms, lanes):
    """Copy filters to (lane, fd, fh, fw, term), the form that `sums_along` reads."""
    step, count = terms * bytes_of(zero), packed_count(packed)
    for tap in range(count):
        at = filters + tap_offset(tap, packed, steps)
        pack(zero, panel + tap * step, count * step, at, steps.lane, steps.term, lanes, terms, terms)


@helper
def pack_panels(zero, panel, filters, steps, packed, terms, lanes):
    """Copy filters to (lane // width, fd, fh, fw, term, lane % width); lanes past the last become 0."""
    size, count = bytes_of(zero), packed_count(packed)
    width = LANE_BYTES // size
    whole = lanes // width if steps.lane == size else 0
    for tap in range(count if whole else 0):
        to, at = panel + tap * terms * LANE_BYTES, filters + tap_offset(tap, packed, steps)
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
                filters + part * width * steps.lane + tap_offset(tap, packed, steps), steps.term, steps.lane,
                terms, min(width, lanes - part * width), width,
            )  # fmt: skip


@helper
def tap_offset(tap, packed, steps):
    """Bytes from the first number of the filters to those of a packed tap."""
    d, h, w = packed.d, packed.h, packed.w
    fd = d.first + tap // (h.number * w.number) * d.step
    fh = h.first + tap // w.number % h.number * h.step
    fw = w.first + tap % w.number * w.step
    return fd * steps.d + fh * steps.h + fw * steps.w


def gather(zero, arguments):
    """Kernel: do tasks of conv2d or conv2d_input until none is left::

        y[n, o, c] = sum of x[n, i, k] * w[c, f, k]       over all (i, f) that meet o, and channels k
        dx[n, i, c] = sum of dy[n, o, k] * w[k, f, c]     over all (f, o) that meet i, and channels k

    where i = o*stride - before + f*dilation on each axis.
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
            group, next_block, place = -1, 0, (0, 0, 0, 0, 0)
            for number in range(block * tiles_together, min(tiles, (block + 1) * tiles_together)):
                # 2. a new group: what its tiles share, and its filters
                if number >= next_block:
                    while number >= next_block:
                        group += 1
                        next_block = record(sizes.table, group + 1, GatherRow).first_block
                    line = record(sizes.table, group, GatherRow)
                    d, h, w = line.d, line.h, line.w
                    counts = d.count, h.count, w.count
                    per_image = d.count * h.count * w.count
                    row = (number - line.first_block) * TILE_ROWS
                    row_end = sizes.images * per_image
                    n, kd = row // per_image, row // (h.count * w.count) % d.count
                    kh, kw = row // w.count % h.count, row % w.count
                    steps = sizes.source
                    by = d.third_fixed * steps.d, h.third_fixed * steps.h, w.third_fixed * steps.w
                    source_jumps = jumps(counts, steps.n, by[0], by[1], by[2])
                    first_row = n * steps.n + kd * by[0] + kh * by[1] + kw * by[2]
                    a = addresses.source + first_of((d.third, h.third, w.third), steps)
                    a += (g * terms + c * chunk) * steps.c
                    steps = sizes.out
                    by = d.fixed_step * steps.d, h.fixed_step * steps.h, w.fixed_step * steps.w
                    out_jumps = jumps(counts, steps.n, by[0], by[1], by[2])
                    y = addresses.out + first_of((d.fixed, h.fixed, w.fixed), steps)
                    y += (g * lanes + first_lane) * steps.c
                    y += n * steps.n + kd * by[0] + kh * by[1] + kw * by[2]
                    place = kd, kh, kw, first_row, y
                    strides = sizes.filters
                    at = addresses.filters + g * strides.channel_group + c * chunk * strides.term
                    a_d, a_h = d.third_term * sizes.source.d, h.third_term * sizes.source.h
                    a_w = w.third_term * sizes.source.w
                    if sizes.ready:
                        column = strides.panel
                        first_b = at + first_lane // width * column
                        first_b += d.summed * strides.d + h.summed * strides.h + w.summed * strides.w
                        b_w, b_h = w.summed_step * strides.w, h.summed_step * strides.h
                        b_d = d.summed_step * strides.d
                    else:
                        column = packed_count(line.packed) * count * unit  # bytes of one panel, or of one lane
                        first_b = panel + line.packed.first * count * unit
                        b_w = count * unit
                        b_h = line.packed.w.number * b_w
                        b_d = line.packed.h.number * b_h
                    loops = (d.terms, h.terms, w.terms, count)
                    if a_w == count * size and b_w == count * unit:  # Taps lie side by side: one long loop.
                        loops = (d.terms, h.terms, min(w.terms, 1), w.terms * count)
                    key = (which * chunks + c) * groups + line.packed.number
                    if packed != key and not sizes.ready:
                        packed = key
                        at += first_lane * strides.lane
                        if narrow:
                            pack_columns(zero, panel, at, strides, line.packed, count, last_lane - first_lane)
                        else:
                            pack_panels(zero, panel, at, strides, line.packed, count, last_lane - first_lane)
                # 3. the addresses of the rows of a tile
                rows = min(TILE_ROWS, row_end - row)
                row += rows
                place = place_rows(counts, place, rows, source_jumps, out_jumps, source_rows, out_rows)
                # 4. the tile, for each panel
                b = first_b
                for lane in range(first_lane, last_lane, TILE_VECTORS if narrow else width):
                    if narrow:
                        here = min(TILE_VECTORS, last_lane - lane)
                        tile = sum_of_products_along(
                            zeros(zero), addresses_in(source_rows), a, b, (column, here - 1),
                            loops, (a_d, a_h, a_w, size), (b_d, b_h, b_w, size),
                        )  # fmt: skip
                        put_sums(tile, zero, out_rows, rows, here, sizes.out.c, c > 0, tile_rows, int(TILE_VECTORS))
                        b += here * column
                    else:
                        here = min(width, last_lane - lane)
                        tile = sum_of_products(
                            zeros(zero), addresses_in(source_rows), a, b,
                            loops, (a_d, a_h, a_w, size), (b_d, b_h, b_w, LANE_BYTES),
                        )  # fmt: skip
                        if sizes.streams and here == width and out_rows[0] % LINE_BYTES == 0:
                            stream(tile, addresses_in(out_rows))
                        else:
                            put(tile, zero, out_rows, rows, here, sizes.out.c, c > 0, tile_rows)
                        b += column
                    for r in range(TILE_ROWS):
                        out_rows[r] += here * sizes.out.c


def to_channels_last(zero, arguments):
    """Kernel: copy an array (n, d, h, w, c) of any steps to contiguous memory; a task is a row, or a part of one."""
    addresses, sizes = own_arguments(arguments, CopyAddresses, CopySizes)
    steps, depths, rows, columns, channels = sizes.source, sizes.depths, sizes.rows, sizes.columns, sizes.channels
    together, step = sizes.columns_together, channels * bytes_of(zero)
    parts = ceil_div(columns, together)
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= sizes.images * depths * rows * parts:
            return
        row, first = task // parts, task % parts * together
        at = addresses.source + row // (depths * rows) * steps.n + first * steps.w
        at += row // rows % depths * steps.d + row % rows * steps.h
        target = addresses.target + (row * columns + first) * step
        pack(zero, target, step, at, steps.w, steps.c, min(together, columns - first), channels, channels)
