"""conv2d and conv2d_input with few result channels on the CPU: tiles that are one vector wide, and have more rows.

Sixteen channels of float32 fill a vector, which is half of a row of a tile of `gather`. Here a tile has twice the rows,
of a vector each::

    tile[r, l] += source[position r, k] * w[k, channel l]        for the taps and channels k of a sum

So many addresses of rows would not fit into registers. Therefore the positions of a tile are evenly spaced: they lie on
a line, along the longest axis of a group, and the last tile of a line overlaps the one before. A line that is shorter
than a tile has a tile for each position.

More channels are several tiles side by side, of which the last may be half as wide, or overlap the one before. Nothing
is copied but the filters, and every result is written once from the registers.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf, prod
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from ...buffers import LINE_BYTES
from ...geometry import ConvShape, plan
from . import planes
from .compiled import (
    NO_CALL,
    SCRATCH_HEAD,
    Array,
    Call,
    GroupRow,
    Sizes,
    Steps,
    Strides,
    and_last,
    ceil_div,
    first_of,
    five,
    group_row,
    lanes_and_terms,
    next_task,
    number_of_threads,
    numbers_of,
    own_scratch,
    record,
    register_jitable,
    start,
    with_three_axes,
)
from .gather import PANELS_BYTES, STREAM_BYTES
from .packed import FilterSteps, filter_steps
from .registers import (
    LANE_BYTES,
    ONLY_IN_KERNELS,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    after,
    bytes_of,
    helper,
    products_of,
    put_rows,
    wait_for_streams,
    zeros,
)
from .tile import loops, pack, plain_sums_of, unpack

HEIGHT = TILE_ROWS * TILE_VECTORS  # rows of a tile
TASK_TILES = 256  # most tiles of a task
STARTING = 6  # Time to begin and end a tile, in steps of a sum.
SAVING = 0.03  # Tall tiles must save this share of the work.
# A tile loads a number for each of its sums, which takes as long as the products of shorter vectors.
SLOWER = 1.0 if VECTOR_BYTES == 64 else 1.1
PLANES_SLOWER = 1.1  # `planes` takes so many times as long as its estimate says.
HALF_SAVES = 0.5 if VECTOR_BYTES == 64 else 0.0  # Share of the time of a vector that half of one saves.


# --- what the kernel is given --------------------------------------------------------------------
class TallSizes(NamedTuple):
    """The arguments, named as in `GatherSizes`."""

    call: Call
    table: int
    groups: int
    channel_groups: int
    terms: int
    lanes: int
    tiles_together: int
    streams: int
    fd: int
    fh: int
    fw: int
    source: Steps
    out: Steps
    filters: FilterSteps


class TallRow(NamedTuple):
    """A row of the table: a group, the last of whose axes of positions is the longest."""

    first_tile: int
    group: GroupRow


# --- the sizes -----------------------------------------------------------------------------------
@register_jitable(**ONLY_IN_KERNELS)
def tiles_of_line(length: int) -> int:
    """Return how many tiles a line of so many positions has."""
    return ceil_div(length, HEIGHT) if length >= HEIGHT else length


@register_jitable(**ONLY_IN_KERNELS)
def lanes_at_once(lane: int, lanes: int, width: int) -> tuple[int, int]:
    """Return the first lane and the number of lanes of the next tile: a vector of them, or half of one.

    If fewer are left than it has, it overlaps the one before.
    """
    count = width if lanes >= width and 2 * (lanes - lane) > width else width // 2
    return min(lane, lanes - count), count


@register_jitable(**ONLY_IN_KERNELS)
def panels_of(lanes: int, width: int) -> int:
    """Return how many tiles side by side have so many lanes."""
    return ceil_div(lanes, width if lanes >= width else width // 2)


@lru_cache(maxsize=1024)
def fits(operator: str, shape: ConvShape, source: Strides, out: Strides, itemsize: int) -> bool:
    """Whether `gather` would leave lanes empty, and an estimate for tall tiles is less than for it and for `planes`."""
    if lanes_and_terms(operator, shape)[0] * itemsize % LANE_BYTES == 0:
        return False
    with_planes = PLANES_SLOWER * planes.work_of(operator, shape, itemsize)
    others = min(with_planes, planes.work_of_gather(operator, shape, itemsize))
    return work_of(operator, shape, source, out, itemsize) < (1 - SAVING) * others


def work_of(operator: str, shape: ConvShape, source: Strides, out: Strides, itemsize: int) -> float:
    """Estimate the time of tall tiles, in steps of a sum of a tile; it is infinite if they do not serve."""
    shape = with_three_axes(shape)
    lanes, terms = lanes_and_terms(operator, shape)
    width = VECTOR_BYTES // itemsize
    panels = panels_of(lanes, width)
    # Tiles are turned for results whose channels are not last; that is quick for whole vectors.
    turned = out[-1] != itemsize
    filters = panels * prod(shape.w_shape[1:-1]) * terms * VECTOR_BYTES
    if 2 * lanes < width or filters > PANELS_BYTES or (turned and lanes % width):
        return inf
    halves = sum(lanes_at_once(k * width, lanes, width)[1] < width for k in range(panels))
    rows, ends = rows_of(operator, shape, source, out, (0, 0, 0))
    work = 0.0
    for row, end in zip(rows, ends, strict=True):
        sums = SLOWER * prod(row.group.terms) * terms * (panels - halves * HALF_SAVES)
        work += (end - row.first_tile) * (sums + STARTING * panels)
    return work


def rows_of(
    operator: str, shape: ConvShape, source: Strides, out: Strides, taps: Strides
) -> tuple[list[TallRow], list[int]]:
    """Return the rows of the table, and the number of tiles of all groups up to and with each one."""
    source, out = five(source), five(out)
    rows: list[TallRow] = []
    ends: list[int] = []
    for group in plan(operator, shape).groups:
        row = group_row(operator, group, source[1:4], taps, out[1:4])
        lines, row = _in_lines(row, (shape.n, source[0], out[0]))
        rows.append(TallRow(ends[-1] if ends else 0, row))
        ends.append(rows[-1].first_tile + lines * tiles_of_line(row.positions[2]))
    return rows, ends


def _in_lines(row: GroupRow, images: tuple[int, int, int]) -> tuple[int, GroupRow]:
    """The number of lines of a group, and its row with other axes of positions, the last of which are the lines.

    An axis is a number of positions and the steps in the source and in the result. Axes that go on evenly are joined.
    """
    *outer, line = images, *zip(row.positions, row.source.position, row.out.position, strict=True)
    while outer:
        count, *steps = outer[-1]
        if line[0] == 1:
            line = outer[-1]
        elif count != 1 and steps != [line[0] * step for step in line[1:]]:
            break
        else:
            line = (count * line[0], *line[1:])
        outer.pop()
    axes = sorted([(1, 0, 0), (1, 0, 0), *outer[1:], line], key=itemgetter(0))[-3:]
    positions, source, out = zip(*axes, strict=True)
    row = row._replace(
        positions=positions, source=row.source._replace(position=source), out=row.out._replace(position=out)
    )
    return prod(positions[:2]) * (outer[0][0] if outer else 1), row


def run(operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator on arrays of any strides, channels last."""
    threads = number_of_threads(operator, shape)
    sizes = sizes_of(operator, shape, source.strides, w.strides, out.strides, out.itemsize, threads)
    start(tall, out.dtype, threads, sizes, source=source, filters=w, out=out)


@lru_cache(maxsize=1024)
def sizes_of(
    operator: str, shape: ConvShape, source: Strides, w: Strides, out: Strides, itemsize: int, threads: int
) -> Sizes:
    """Return the sizes for the kernel; source, w and out are strides of the arrays."""
    shape = with_three_axes(shape)
    lanes, terms = lanes_and_terms(operator, shape)
    fd, fh, fw = (axis.taps for axis in shape.axes)
    tap_bytes = terms * VECTOR_BYTES
    taps = fh * fw * tap_bytes, fw * tap_bytes, tap_bytes
    rows, ends = rows_of(operator, shape, source, out, taps)
    end = rows[0]._replace(first_tile=ends[-1])  # It ends the search for a tile.
    table = np.array([numbers_of(row) for row in (*rows, end)], np.int64)
    width = VECTOR_BYTES // itemsize
    # A tile is streamed if all rows begin at a multiple of their bytes, and its lines are whole cache lines.
    row_bytes = VECTOR_BYTES // 2 if 2 * lanes == width else VECTOR_BYTES
    whole = out[-1] == itemsize and not any(step % row_bytes for step in (lanes * itemsize, *out[:-1]))
    whole = whole and (row_bytes % LINE_BYTES == 0 or any(row.group.out.position[2] == row_bytes for row in rows))
    sizes = TallSizes(
        call=NO_CALL,
        table=table.ctypes.data,
        groups=len(rows),
        channel_groups=shape.groups,
        terms=terms,
        lanes=lanes,
        tiles_together=max(1, min(TASK_TILES, ceil_div(ends[-1] * shape.groups, 4 * threads))),
        streams=whole and shape.n * out[0] >= STREAM_BYTES,
        fd=fd,
        fh=fh,
        fw=fw,
        source=Steps(*five(source)),
        out=Steps(*five(out)),
        filters=filter_steps(operator, w, shape.oc // shape.groups, itemsize),
    )
    packed = panels_of(lanes, width) * fd * taps[0]
    return Sizes.of(sizes, SCRATCH_HEAD + packed + HEIGHT * VECTOR_BYTES, table)


# --- the kernel ----------------------------------------------------------------------------------
def _tiles_with(part):
    """Return a helper that computes a tile and writes it; a row is a vector, or one `part` of it."""
    sum_of_products = plain_sums_of(products_of(HEIGHT, part))
    write, stream = (put_rows(HEIGHT, how, vectors=1, part=part) for how in ("write", "stream"))

    @helper
    def put_tile(zero, a, a_step, b, counts, a_steps, b_steps, out, out_step, streams):
        tile = sum_of_products(zeros(zero), a_step, a, b, counts, a_steps, b_steps)
        if streams and out % (VECTOR_BYTES // part) == 0:
            stream(tile, out, out_step, int(VECTOR_BYTES))
        else:
            write(tile, out, out_step, int(VECTOR_BYTES))

    return put_tile


put_whole: Any = _tiles_with(1)
put_half: Any = _tiles_with(2)


@helper
def pack_filters(zero, panels, panel_bytes, filters, sizes):
    """Copy filters to (panel, fd, fh, fw, term, lane)."""
    steps, lanes, lane = sizes.filters, sizes.lanes, 0
    while lane < lanes:
        lane, count = lanes_at_once(lane, lanes, VECTOR_BYTES // bytes_of(zero))
        for tap in range(sizes.fd * sizes.fh * sizes.fw):
            at = tap // (sizes.fh * sizes.fw), tap // sizes.fw % sizes.fh, tap % sizes.fw
            source, there = filters + first_of(at, steps) + lane * steps.lane, panels + tap * sizes.terms * VECTOR_BYTES
            pack(zero, there, int(VECTOR_BYTES), source, steps.term, steps.lane, sizes.terms, count, count)
        lane, panels = lane + count, panels + panel_bytes


def tall(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d or conv2d_input until none is left; a task is some tiles of a channel group."""
    size = bytes_of(zero)
    sizes = record(arguments, 0, TallSizes)
    call, terms, lanes, together = sizes.call, sizes.terms, sizes.lanes, sizes.tiles_together
    width, panel_bytes = VECTOR_BYTES // size, sizes.fd * sizes.fh * sizes.fw * terms * VECTOR_BYTES
    panels = own_scratch(arguments)[3]
    turned = after(panels, panels_of(lanes, width) * panel_bytes)
    tiles = record(sizes.table, sizes.groups, TallRow).first_tile
    blocks, packed = ceil_div(tiles, together), -1
    while True:
        # 1. a task: its tiles, and its filters
        task = next_task(arguments, thread, sizes.channel_groups * blocks)
        if task < 0:
            wait_for_streams()
            return
        g, number = task // blocks, task % blocks * together
        last = min(tiles, number + together)
        if packed != g:
            packed = g
            pack_filters(zero, panels, panel_bytes, call.b + g * sizes.filters.channel_group, sizes)
        group, next_group = -1, 0
        while number < last:
            # 2. a line: the positions of a group that differ along its longest axis alone
            while number >= next_group:
                group += 1
                next_group = record(sizes.table, group + 1, TallRow).first_tile
            line = record(sizes.table, group, TallRow)
            (d, h, length), source, out = line.group.positions, line.group.source, line.group.out
            in_line = tiles_of_line(length)
            row, first = (number - line.first_tile) // in_line, (number - line.first_tile) % in_line
            end = min(in_line, first + last - number)
            number += end - first
            n, kd, kh = row // (d * h), row // h % d, row % h
            a = call.a + n * sizes.source.n + g * terms * sizes.source.c + source.first
            a += kd * source.position[0] + kh * source.position[1]
            y = call.out + n * sizes.out.n + g * lanes * sizes.out.c + out.first
            y += kd * out.position[0] + kh * out.position[1]
            counts, a_steps, b_steps = loops(
                and_last(line.group.terms, terms),
                and_last(source.term, sizes.source.c),
                and_last(line.group.filters.term, int(VECTOR_BYTES)),
            )
            # The rows of a tile are the same if it has one position.
            rows = int(HEIGHT) if length >= HEIGHT else 1
            a_step, y_step = (source.position[2], out.position[2]) if rows > 1 else (0, 0)
            for k in range(first, end):
                # 3. the tiles of some positions
                place, lane, b = min(k * rows, length - rows), 0, panels + line.group.filters.first
                while lane < lanes:
                    lane, count = lanes_at_once(lane, lanes, width)
                    at, to = a + place * source.position[2], y + place * out.position[2] + lane * sizes.out.c
                    there, there_step = (to, y_step) if sizes.out.c == size else (turned, int(VECTOR_BYTES))
                    if count == width:
                        put_whole(zero, at, a_step, b, counts, a_steps, b_steps, there, there_step, sizes.streams)
                    else:
                        put_half(zero, at, a_step, b, counts, a_steps, b_steps, there, there_step, sizes.streams)
                    if sizes.out.c != size:
                        unpack(zero, to, y_step, sizes.out.c, turned, int(VECTOR_BYTES), rows, count)
                    lane, b = lane + count, b + panel_bytes
