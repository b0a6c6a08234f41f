"""conv2d and conv2d_input with few result channels on the CPU: lanes are positions, rows are result channels.

Sixteen channels would fill half of the lanes of `gather`'s tiles, and three a tenth. So the tile is turned::

    tile[r, l] += w[channel r, k] * source[position l, k]        for the taps and channels k of a sum

Neighbouring positions must then be neighbours in memory, so a band of the source is copied to planes first: one for
each channel and phase, where the step from position to position is one number. The rows of a plane follow each other,
and lanes may go on from row to row: what lies between the positions of a group is computed and not kept. The results
are planes too, and are turned back when a group is complete.

Groups that are columns (those of the left and the right edge) have no neighbours along a row: for them rows and columns
change their places, which costs another copy of the few columns that they need.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray
from numba.extending import register_jitable

from ...geometry import ConvShape, Group, Run, plan
from .compiled import (
    NO_CALL,
    SCRATCH_HEAD,
    Array,
    Call,
    Sizes,
    Steps,
    Strides,
    ceil_div,
    first_of,
    five,
    lanes_and_terms,
    next_task,
    number_of_threads,
    numbers_of,
    own_scratch,
    record,
    round_up,
    start,
    with_three_axes,
)
from .gather import reach, within
from .packed import NARROW, FilterSteps, filter_steps
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    ONLY_IN_KERNELS,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    after,
    bytes_of,
    dealt,
    helper,
    integers_at,
    number_at,
    products_of,
    put_rows,
    write_number,
    zeros,
)
from .tile import pack, unpack
from .weight import TapRow

LEAST_ROWS, FLAT_ROWS = 2, 4  # A tile has TILE_ROWS, or so many to so many rows, which are longer the fewer they are.
LONGEST = TILE_ROWS * TILE_VECTORS // LEAST_ROWS * VECTOR_BYTES  # bytes of the longest row of a tile
TASK_BYTES = L2_BYTES // 2  # Planes and results of a task, roughly.
MOST_BYTES = 4 * 2**20  # Planes of what one row of the result needs.
COPYING = 1 / 20  # Time to copy a number, in steps of a sum.
STARTING = 12  # Time to begin and end a tile of `gather`, in steps of a sum.
STRAIGHT, TURNED = (0, 1, 2), (0, 2, 1)  # The axes (depth, row, column) as they are, and with rows for columns.


# --- what the kernel is given --------------------------------------------------------------------
class Three(NamedTuple):
    """A number for each axis."""

    d: int
    h: int
    w: int


class Band(NamedTuple):
    """A band, with rows for columns or not: its groups in the table, and what it needs of the source.

    Positions a `split` apart are neighbours in a plane. `taps` are filter elements from a tap to the next one.
    """

    first_group: int
    last_group: int
    first: Three
    counts: Three
    split: Three
    taps: Three
    source: Steps
    out: Steps


class PlanesSizes(NamedTuple):
    """The arguments, named as in `GatherSizes`."""

    call: Call
    table: int
    bands: int
    bands_count: int
    images: int
    channel_groups: int
    terms: int
    lanes: int
    filter_bytes: int
    source_bytes: int
    result_bytes: int
    most_terms: int
    fd: int
    fh: int
    fw: int
    filters: FilterSteps


# --- the sizes -----------------------------------------------------------------------------------
@register_jitable(**ONLY_IN_KERNELS)
def rows_of_tile(left: int) -> int:
    """Return how many rows the next tile has if so many channels are left."""
    return max(left, LEAST_ROWS) if left <= FLAT_ROWS else TILE_ROWS


def rows_of_tiles(lanes: int) -> list[int]:
    """Rows of each of the tiles of so many channels."""
    return [rows_of_tile(lanes - first) for first in range(0, lanes, TILE_ROWS)]


@register_jitable(**ONLY_IN_KERNELS)
def lines_of(h: int, w: int, columns: int, size: int) -> tuple[int, int]:
    """Into how many lines of lanes the rows of a group are put, and the length of one.

    It is one line with what lies between the rows, or a line for each row, whatever has less lanes.
    """
    width = LANE_BYTES // size
    together = (h - 1) * columns + w
    if ceil_div(together, width) < h * ceil_div(w, width):
        return 1, together
    return h, w


@register_jitable(**ONLY_IN_KERNELS)
def bytes_of_line(length: int) -> int:
    """Return the bytes of a line of results of so many bytes, with place for what a tile computes past its end."""
    return round_up(length, VECTOR_BYTES) + LONGEST


def tiles_of(group: Group, column: int, lanes: int, itemsize: int) -> int:
    """How many tiles hold the results of a group, in planes of so many columns."""
    d, h, w = (run.positions for run in group)
    lines, length = lines_of(h, w, column, itemsize)
    longs = (TILE_ROWS * TILE_VECTORS // high * VECTOR_BYTES for high in rows_of_tiles(lanes))
    return d * lines * sum(ceil_div(length * itemsize, long) for long in longs)


def _source_axes(operator: str, shape: ConvShape) -> tuple[list[int], list[int]]:
    """Lengths of the axes of the source, and the steps from position to position in it."""
    if operator == "conv2d":
        return [axis.size for axis in shape.axes], [axis.stride for axis in shape.axes]
    return [axis.outputs for axis in shape.axes], [1] * 3


def _in_orders(operator: str, shape: ConvShape, itemsize: int) -> list[tuple[tuple[int, ...], list[Group]]]:
    """Groups whose lanes lie along rows, and those whose lanes lie along columns, apart for each run of columns."""
    lengths, split = _source_axes(operator, shape)
    columns = [ceil_div(length, step) for length, step in zip(lengths, split, strict=True)]
    found: dict[Run | None, list[Group]] = {None: []}
    for group in plan(operator, shape).groups:
        turned = Group(group[k] for k in TURNED)
        by_row, by_column = (tiles_of(*one, TILE_ROWS, itemsize) for one in ((group, columns[2]), (turned, columns[1])))
        if 2 * by_column < by_row:
            found.setdefault(group.w, []).append(turned)
        else:
            found[None].append(group)
    return [(TURNED if run else STRAIGHT, groups) for run, groups in found.items()]


@lru_cache(maxsize=1024)
def fits(operator: str, shape: ConvShape, itemsize: int) -> bool:
    """Whether an estimate for tiles of positions is less than for `gather`'s tiles."""
    return work_of(operator, shape, itemsize) < work_of_gather(operator, shape, itemsize)


def work_of(operator: str, shape: ConvShape, itemsize: int) -> float:
    """Estimate the time of tiles of positions, in steps of a sum of a tile; it is infinite if they do not serve."""
    first, *others = range(3 - len(shape.axes), 3)
    shape = with_three_axes(shape)
    lanes, terms = lanes_and_terms(operator, shape)
    lengths, split = _source_axes(operator, shape)
    width = LANE_BYTES // itemsize
    if lanes > 2 * width or lanes % width == 0:  # `gather` leaves few lanes empty.
        return inf
    row = prod(lengths[k] for k in others) * (min(shape.axes[first].span, lengths[first]) + split[first]) * terms
    filters = prod(shape.w_shape[1:-1]) * terms * sum(rows_of_tiles(lanes))
    if max(row, filters) * itemsize > MOST_BYTES:
        return inf
    columns = [ceil_div(length, step) for length, step in zip(lengths, split, strict=True)]
    work = COPYING * (prod(lengths) * terms + prod(shape.axes[k].outputs for k in range(3)) * lanes) * shape.n
    for order, groups in _in_orders(operator, shape, itemsize):
        for group in groups:
            work += shape.n * tiles_of(group, columns[order[2]], lanes, itemsize) * group.terms * terms
    return work


def work_of_gather(operator: str, shape: ConvShape, itemsize: int) -> float:
    """Estimate the time of `gather`'s tiles, in the same steps."""
    shape = with_three_axes(shape)
    lanes, terms = lanes_and_terms(operator, shape)
    narrow = lanes <= NARROW and terms * itemsize % VECTOR_BYTES == 0  # `gather` has neighbouring terms in the lanes
    steps, columns = (terms * itemsize / VECTOR_BYTES, TILE_VECTORS) if narrow else (terms, LANE_BYTES // itemsize)
    work = 0.0
    for group in plan(operator, shape).groups:
        work += ceil_div(shape.n * group.positions, TILE_ROWS) * (group.terms * steps + STARTING)
    return work * ceil_div(lanes, columns)


def run(operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator on arrays of any strides, channels last."""
    threads = number_of_threads(operator, shape)
    sizes = sizes_of(operator, shape, source.strides, w.strides, out.strides, out.itemsize, threads)
    start(planes, out.dtype, threads, sizes, source=source, filters=w, out=out)


@lru_cache(maxsize=1024)
def sizes_of(
    operator: str, shape: ConvShape, source: Strides, w: Strides, out: Strides, itemsize: int, threads: int
) -> Sizes:
    """Return the sizes for the kernel; source, w and out are strides of the arrays."""
    first_axis = 3 - len(shape.axes)
    shape = with_three_axes(shape)
    lanes, terms = lanes_and_terms(operator, shape)
    source, out = five(source), five(out)
    lengths, split = _source_axes(operator, shape)
    fd, fh, fw = (axis.taps for axis in shape.axes)
    bands: list[Band] = []
    found: list[Group] = []
    source_bytes = result_bytes = most_terms = 0
    for order, groups in _in_orders(operator, shape, itemsize):
        turned = shape.with_axes(*(shape.axes[k] for k in order))
        by, taps = [split[k] for k in order], [(fh * fw, fw, 1)[k] for k in order]
        steps = [Steps(*(one[k] for k in (0, *(1 + k for k in order), 4))) for one in (source, out)]
        for parts in _cut(operator, turned, groups, first_axis, terms, lanes, itemsize, threads):
            ends = [reach((part[k] for part in parts), "i" if operator == "conv2d" else "o") for k in range(3)]
            counts = [end - first for first, end in ends]
            planes_of = [ceil_div(count, step) for count, step in zip(counts, by, strict=True)]
            plane = round_up(prod(planes_of) * by[0] * by[1] * itemsize, 128) + 64
            source_bytes = max(source_bytes, terms * by[2] * plane + LONGEST)
            for part in parts:
                depths, rows, columns = (run.positions for run in part)
                lines, length = lines_of(rows, columns, planes_of[2], itemsize)
                plane = depths * lines * bytes_of_line(length * itemsize) + 64
                result_bytes = max(result_bytes, sum(rows_of_tiles(lanes)) * plane)
                most_terms = max(most_terms, prod(run.terms for run in part[: 3 if by[2] > 1 else 2]) * terms)
            firsts = Three(*(first for first, _ in ends))
            ends_of_groups = len(found), len(found) + len(parts)
            bands.append(Band(*ends_of_groups, firsts, Three(*counts), Three(*by), Three(*taps), *steps))
            found += parts
    if operator == "conv2d_input":  # i are indices of the source
        found = [Group(run._replace(i=run.o, o=run.i) for run in group) for group in found]
    table = np.array([numbers_of(TapRow(*group)) for group in found], np.int64)
    memory = np.concatenate([table.ravel(), np.array([numbers_of(band) for band in bands], np.int64).ravel()])
    sizes = PlanesSizes(
        call=NO_CALL,
        table=memory.ctypes.data,
        bands=memory.ctypes.data + table.nbytes,
        bands_count=len(bands),
        images=shape.n,
        channel_groups=shape.groups,
        terms=terms,
        lanes=lanes,
        filter_bytes=round_up(fd * fh * fw * terms * sum(rows_of_tiles(lanes)) * itemsize, 64),
        source_bytes=round_up(source_bytes, 64),
        result_bytes=round_up(result_bytes, 64),
        most_terms=most_terms,
        fd=fd,
        fh=fh,
        fw=fw,
        filters=filter_steps(operator, w, shape.oc // shape.groups, itemsize),
    )
    scratch = SCRATCH_HEAD + sizes.filter_bytes + sizes.source_bytes + sizes.result_bytes + 16 * most_terms
    return Sizes.of(sizes, scratch, memory)


def _cut(
    operator: str,
    shape: ConvShape,
    groups: list[Group],
    axis: int,
    terms: int,
    lanes: int,
    itemsize: int,
    threads: int,
) -> Iterator[list[Group]]:
    """Cut groups into bands of an axis, each with its parts of the groups."""
    lengths, split = _source_axes(operator, shape)
    out = [one.outputs if operator == "conv2d" else one.size for one in shape.axes]
    others = [k for k in range(3) if k != axis]
    source_bytes, out_bytes = (prod(of[k] for k in others) * itemsize for of in (lengths, out))
    most = TASK_BYTES // (split[axis] * terms * source_bytes + sum(rows_of_tiles(lanes)) * out_bytes)
    wanted = ceil_div(4 * threads if threads > 1 else 1, shape.n * shape.groups)
    most = min(most, ceil_div(out[axis], wanted))
    length = max(1, most, ceil_div(shape.axes[axis].span, 2 * shape.axes[axis].stride))
    for first in range(0, out[axis], length):
        parts = [within(group, operator, axis, (first, first + length)) for group in groups]
        if any(part.positions for part in parts):
            yield [part for part in parts if part.positions]


# --- the kernel ----------------------------------------------------------------------------------
deal_2: Any = dealt(2)
deal_3: Any = dealt(3)
deal_4: Any = dealt(4)
deal_6: Any = dealt(6)
deal_8: Any = dealt(8)
back_2: Any = dealt(2, back=True)
back_3: Any = dealt(3, back=True)
back_4: Any = dealt(4, back=True)
back_8: Any = dealt(8, back=True)


@helper
def deal(zero, target, step, source, count, length):
    """target[r, l] = source[l*count + r] for the rows r < count, a step apart, and l < length."""
    size = bytes_of(zero)
    done = 0
    if count == 2 or count == 3 or count == 4 or count == 6 or count == 8:
        while (length - done) * size >= VECTOR_BYTES:
            to, at = target + done * size, source + done * count * size
            if count == 2:
                deal_2(zero, to, at, step)
            elif count == 3:
                deal_3(zero, to, at, step)
            elif count == 4:
                deal_4(zero, to, at, step)
            elif count == 6:
                deal_6(zero, to, at, step)
            else:
                deal_8(zero, to, at, step)
            done += VECTOR_BYTES // size
    row_step, lanes = count * size, length - done
    pack(zero, target + done * size, step, source + done * row_step, size, row_step, count, lanes, lanes)


@helper
def deal_back(zero, target, source, step, count, length):
    """target[l*count + r] = source[r, l], the other way round."""
    size = bytes_of(zero)
    done = 0
    if count == 2 or count == 3 or count == 4 or count == 8:
        while (length - done) * size >= VECTOR_BYTES:
            to, at = target + done * count * size, source + done * size
            if count == 2:
                back_2(zero, to, at, step)
            elif count == 3:
                back_3(zero, to, at, step)
            elif count == 4:
                back_4(zero, to, at, step)
            else:
                back_8(zero, to, at, step)
            done += VECTOR_BYTES // size
    row_step, rows = count * size, length - done
    pack(zero, target + done * row_step, row_step, source + done * size, size, step, rows, count, count)


@helper
def copy_line(zero, target, step, source, steps, channels, columns, split):
    """Copy a row (w, c) to (phase, c, w), a step apart."""
    size = bytes_of(zero)
    whole = columns // split
    if steps.w == size and columns > 1 and split > 1:
        for k in range(channels):
            deal(zero, target + k * step, channels * step, source + k * steps.c, split, whole)
    elif steps.c == size and steps.w == channels * size:
        deal(zero, target, step, source, split * channels, whole)
    else:
        for p in range(split):
            at = source + p * steps.w
            pack(zero, target + p * channels * step, step, at, steps.c, split * steps.w, channels, whole, whole)
    for p in range(columns - whole * split):
        at = source + (whole * split + p) * steps.w
        for k in range(channels):
            write_number(number_at(zero, at + k * steps.c), target + (p * channels + k) * step + whole * size)


@helper
def place_in(i, phases, phase, step):
    """Bytes from the first index of an axis to index i in a plane, of which each phase is a part of its own."""
    return i % phases * phase + i // phases * step


@helper
def plane_steps(counts, split, size):
    """Bytes from phase to phase and from index to index of depths and of rows, and from plane to plane."""
    row = ceil_div(counts.w, split.w) * size
    phase_h = ceil_div(counts.h, split.h) * row
    step_d = split.h * phase_h
    phase_d = ceil_div(counts.d, split.d) * step_d
    # Planes a power of two apart would push each other out of the first-level cache.
    return phase_d, step_d, phase_h, row, round_up(split.d * phase_d, 128) + 64


@helper
def copy_planes(zero, target, source, band, terms):
    """Copy what a band needs of the source to planes (phase of w, channel, d, h, w)."""
    first, counts, split, steps = band.first, band.counts, band.split, band.source
    phase_d, step_d, phase_h, row, plane = plane_steps(counts, split, bytes_of(zero))
    for k in range(counts.d * counts.h):
        d, h = k // counts.h, k % counts.h
        there = target + place_in(d, split.d, phase_d, step_d) + place_in(h, split.h, phase_h, row)
        at = source + first_of((first.d + d, first.h + h, first.w), steps)
        copy_line(zero, there, plane, at, steps, terms, counts.w, split.w)


@helper
def write_terms(zero, places, line, band, terms):
    """Write where each term of a group's sums is: its number in the filters, and bytes in the planes.

    Taps of a row that are evenly spaced in the planes are one term here. Returns how many terms there are.
    """
    d, h, w, first, split, taps = line.d, line.h, line.w, band.first, band.split, band.taps
    size = bytes_of(zero)
    phase_d, step_d, phase_h, row, plane = plane_steps(band.counts, split, size)
    count = 0
    for t_d in range(d.terms):
        for t_h in range(h.terms):
            at = place_in(d.i.base + t_d * d.i.term - first.d, split.d, phase_d, step_d)
            at += place_in(h.i.base + t_h * h.i.term - first.h, split.h, phase_h, row)
            tap = (d.f.base + t_d * d.f.term) * taps.d + (h.f.base + t_h * h.f.term) * taps.h
            for t_w in range(w.terms if split.w > 1 else min(w.terms, 1)):
                there = at + place_in(w.i.base + t_w * w.i.term - first.w, split.w, terms * plane, size)
                number = (tap + (w.f.base + t_w * w.f.term) * taps.w) * terms
                for k in range(terms):
                    places[2 * count], places[2 * count + 1] = number + k, there + k * plane
                    count += 1
    return count


def _sums_with(high):
    """Return a helper that computes the results of `high` channels at some neighbouring positions."""
    vectors = TILE_ROWS * TILE_VECTORS // high
    add_products_of, put = products_of(high), put_rows(high, "write", vectors=vectors)

    @helper
    def put_sums_of(zero, filters, source, out, out_step, length, places, terms, in_row):
        size = bytes_of(zero)
        count, a_step, b_step = in_row
        for done in range(0, length * size, vectors * VECTOR_BYTES):
            tile = zeros(zero)
            for t in range(terms):
                a, b = filters + places[2 * t] * high * size, source + done + places[2 * t + 1]
                for k in range(count):
                    tile = add_products_of(tile, size, a + k * a_step * high * size, b + k * b_step)
            put(tile, out + done, out_step, int(VECTOR_BYTES))

    return put_sums_of


put_whole: Any = _sums_with(TILE_ROWS)
put_4: Any = _sums_with(4)
put_3: Any = _sums_with(3)
put_2: Any = _sums_with(2)


@helper
def pack_rows(zero, target, filters, sizes):
    """Copy filters to (tile, fd, fh, fw, term, row); rows past the last become 0."""
    size, taps, steps = bytes_of(zero), sizes.fd * sizes.fh * sizes.fw, sizes.filters
    first = 0
    while first < sizes.lanes:
        high = rows_of_tile(sizes.lanes - first)
        for tap in range(taps):
            at = (tap // (sizes.fh * sizes.fw), tap // sizes.fw % sizes.fh, tap % sizes.fw)
            pack(
                zero, target + (first * taps + tap * high) * sizes.terms * size, high * size,
                filters + first_of(at, steps) + first * steps.lane, steps.term, steps.lane,
                sizes.terms, min(high, sizes.lanes - first), high,
            )  # fmt: skip
        first += high


def planes(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d or conv2d_input until none is left, as `gather` does.

    A task is a band of an image, of all channels of a channel group.
    """
    size = bytes_of(zero)
    sizes = record(arguments, 0, PlanesSizes)
    call = sizes.call
    filters = own_scratch(arguments)[3]
    source = after(filters, sizes.filter_bytes)
    results = after(source, sizes.source_bytes)
    places = carray(integers_at(after(results, sizes.result_bytes)), 2 * sizes.most_terms)
    terms, lanes, taps = sizes.terms, sizes.lanes, sizes.fd * sizes.fh * sizes.fw
    packed = -1
    while True:
        # 1. a task: its filters, and the planes of its source
        task = next_task(arguments, thread, sizes.channel_groups * sizes.images * sizes.bands_count)
        if task < 0:
            return
        g, n = task // (sizes.images * sizes.bands_count), task // sizes.bands_count % sizes.images
        band = record(sizes.bands, task % sizes.bands_count, Band)
        if packed != g:
            packed = g
            pack_rows(zero, filters, call.b + g * sizes.filters.channel_group, sizes)
        split, steps = band.split, band.out
        at = call.a + n * band.source.n + g * terms * band.source.c
        copy_planes(zero, source, at, band, terms)
        phase_d, step_d, phase_h, row, plane = plane_steps(band.counts, split, size)
        for group in range(band.first_group, band.last_group):
            # 2. the results of a group, as planes
            line = record(sizes.table, group, TapRow)
            d, h, w = line.d, line.h, line.w
            count = write_terms(zero, places, line, band, terms)
            taps_together = min(w.terms, 1) if split.w > 1 else w.terms
            in_row = taps_together, w.f.term * band.taps.w * terms, w.i.term * size
            lines, length = lines_of(h.positions, w.positions, row // size, size)
            line_step = bytes_of_line(length * size)
            plane_step = d.positions * lines * line_step + 64
            for k in range(d.positions * lines):
                first = 0
                while first < lanes:
                    a, b = filters + first * taps * terms * size, source + k // lines * step_d + k % lines * row
                    to = results + first * plane_step + k * line_step
                    high = rows_of_tile(lanes - first)
                    if high == TILE_ROWS:
                        put_whole(zero, a, b, to, plane_step, length, places, count, in_row)
                    elif high == 4:
                        put_4(zero, a, b, to, plane_step, length, places, count, in_row)
                    elif high == 3:
                        put_3(zero, a, b, to, plane_step, length, places, count, in_row)
                    else:
                        put_2(zero, a, b, to, plane_step, length, places, count, in_row)
                    first += high
            # 3. the results to their places
            to = call.out + n * steps.n + g * lanes * steps.c + first_of((d.o.base, h.o.base, w.o.base), steps)
            step = w.o.fixed * steps.w
            for k in range(d.positions * h.positions):
                k_d, k_h = k // h.positions, k % h.positions
                at = results + (k * line_step if lines > 1 else k_d * line_step + k_h * row)
                there = to + k_d * d.o.fixed * steps.d + k_h * h.o.fixed * steps.h
                if steps.c == size and step == lanes * size:
                    deal_back(zero, there, at, plane_step, lanes, w.positions)
                else:
                    unpack(zero, there, steps.c, step, at, plane_step, lanes, w.positions)
