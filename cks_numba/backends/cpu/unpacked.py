"""conv2d and conv2d_input with few positions on the CPU: the filters are read once, in the order in which they are.

To pack filters costs more than to use them, if only few windows meet them. And where filters are as large as the map,
each position is a group of its own, so `gather` would read all filters for each. There are two kinds of tiles::

    along     tile[r, v, l] += x[position r, k + l] * w[channel v, k + l]       for the terms k of a tap, in vectors
    across    tile[r, l] += source[position r, k] * w[k, channel l]             for the terms k of a tap

Along is for conv2d: the terms of a tap lie side by side in w, so lanes hold neighbouring terms of one sum, which are
added up in the end; a tile has two positions. Across is the tile of `sum_of_products`. The channels of conv2d_input lie
side by side in w; those of conv2d are brought into that order, a chunk at a time.

The taps are outermost, and each meets the positions that have it: those are the groups of conv2d_weight's plan. So
a chunk of filters is read from memory once, and meets all of its positions in the first-level cache; between taps, the
tiles are kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from ...geometry import ConvShape, Group, plan
from .compiled import (
    NEXT_TASK,
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
    even_part,
    first_of,
    five,
    group_row,
    is_little,
    number_of_threads,
    numbers_of,
    own_scratch,
    record,
    round_up,
    start,
    with_three_axes,
)
from .gather import COPY_BYTES, FEW_PANELS, PACKING, copied_channels_last, read_in_place, work_of
from .packed import AXES, FilterSteps, filter_steps
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    add_memory,
    addresses_in,
    after,
    bytes_of,
    fetch,
    fill_vector,
    helper,
    integers_at,
    next_number,
    products_along,
    store,
    zeros,
)
from .tile import LINE_BYTES, WRITE, copy_part, pack, put, put_sums, sum_of_products, sums_of

# A product takes so many times as long as with packed filters, and to keep a tile between taps takes as long as so many
# steps of a sum.
SLOWER = {"along": 1.3, "across": 1.15}
KEEPING = {"along": 8, "across": 4}
REORDERING = 4  # `across` brings a filter of conv2d into its order in the time of products for so many positions.
AHEAD = 8  # Number of terms from the one that is being copied to the one that is fetched into the cache.
PAIR = 2  # Positions of a tile along the terms.
CHANNELS = TILE_ROWS // PAIR * TILE_VECTORS  # Channels of such a tile.
CHUNK_BYTES = {"along": 2048, "across": 512}  # So many terms at a time stay in the first-level cache for all channels.


# --- what the kernels are given ------------------------------------------------------------------
class UnpackedSizes(NamedTuple):
    """The arguments, named as in `GatherSizes`; d, h, w are sizes of the result.

    A row of the table is a group of taps that the same positions have: these are its terms, and its taps are what
    `GroupRow` calls positions.
    """

    call: Call
    table: int
    groups: int
    images: int
    channel_groups: int
    terms: int
    lanes: int
    tile_lanes: int
    ready: int
    chunk: int
    d: int
    h: int
    w: int
    source: Steps
    out: Steps
    filters: FilterSteps


# --- the sizes -----------------------------------------------------------------------------------
def way_of(operator: str, shape: ConvShape, source: Array, w: Array, panels: Array | None = None) -> str:
    """Return "along" or "across", if a kernel of this module takes less time than `gather`, or "".

    There may be panels of packed filters, for all but "along".
    """
    if source.strides[-1] != source.itemsize and source.size * source.itemsize > COPY_BYTES:
        return ""
    whole = shape.ic // shape.groups * w.itemsize % VECTOR_BYTES == 0 and w.strides[-1] == w.itemsize
    strides = (w if panels is None else panels).strides
    in_place = read_in_place(operator, shape, shape.n, strides, w.itemsize)
    return best_way(operator, shape, w.itemsize, operator == "conv2d" and whole, in_place, panels is not None)


@lru_cache(maxsize=1024)
def best_way(
    operator: str, shape: ConvShape, itemsize: int, may_be_along: bool, in_place: bool = False, ready: bool = False
) -> str:
    """Compare estimates for all terms of some channels, in products of a position with packed filters."""
    shape = with_three_axes(shape)
    taps = prod(shape.w_shape[1:-1])
    ic, oc = shape.ic // shape.groups, shape.oc // shape.groups
    lanes, terms, out = (oc, ic, shape.y_shape) if operator == "conv2d" else (ic, oc, shape.x_shape)
    panels = min(FEW_PANELS, ceil_div(lanes * itemsize, LANE_BYTES))
    packing = 0 if ready or in_place else PACKING[operator] * taps
    costs = {"": work_of(plan(operator, shape).groups, shape.n, panels) + packing}
    for way in ("along", "across")[not may_be_along :]:
        positions, steps = (PAIR, terms * itemsize / VECTOR_BYTES) if way == "along" else (TILE_ROWS, terms)
        kept = prod(out[:-1]) * LANE_BYTES * TILE_ROWS // positions
        if kept > L2_BYTES // 2 or (way == "across" and 4 * lanes * itemsize <= LANE_BYTES):
            continue
        groups = plan("conv2d_weight", shape).groups
        here = sum(round_up(shape.n * group.terms, positions) * group.positions for group in groups)
        costs[way] = here * SLOWER[way] * (1 + KEEPING[way] / steps)
        if way == "across":
            tasks = shape.groups * ceil_div(lanes * itemsize, LANE_BYTES)
            costs[way] += REORDERING * taps if operator == "conv2d" and not ready else 0
            costs[way] *= 1 if is_little(operator, shape) else round_up(tasks, 2) / tasks  # Two threads share them.
    return min(costs, key=costs.__getitem__)


def run(way: str, operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator; a source whose channels are not last is copied."""
    threads = number_of_threads(operator, shape)
    if source.strides[-1] != source.itemsize:
        source = copied_channels_last(source, threads)
    sizes = sizes_of(way, operator, shape, source.strides, w.strides, out.strides, out.itemsize)
    kernel = along if way == "along" else across
    start(kernel, out.dtype, threads, sizes, source=source, filters=w, out=out)


@lru_cache(maxsize=1024)
def sizes_of(
    way: str, operator: str, shape: ConvShape, source: Strides, w: Strides, out: Strides, itemsize: int
) -> Sizes:
    """Return the sizes for a kernel; source, w and out are strides of the arrays."""
    shape = with_three_axes(shape)
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    if operator == "conv2d":
        lanes, terms, lengths = oc, ic, [axis.outputs for axis in shape.axes]
    else:
        lanes, terms, lengths = ic, oc, [axis.size for axis in shape.axes]
    tile_positions, tile_lanes = (PAIR, CHANNELS) if way == "along" else (TILE_ROWS, LANE_BYTES // itemsize)
    depths, rows, columns = lengths
    filters, step = filter_steps(operator, w, oc, itemsize), TILE_ROWS // tile_positions * LANE_BYTES
    chunk = round_up(CHUNK_BYTES[way], VECTOR_BYTES) // itemsize
    together = max(1, chunk // max(1, terms))
    groups = [part for group in plan("conv2d_weight", shape).groups for part in parts_of(operator, group, together)]
    steps = five(source)[1:4], (filters.d, filters.h, filters.w), (rows * columns * step, columns * step, step)
    lines = sorted((group_row(operator, group, *steps) for group in groups), key=lambda line: line.filters.first)
    table = np.array([numbers_of(line) for line in lines], np.int64)
    sizes = UnpackedSizes(
        call=NO_CALL,
        table=table.ctypes.data,
        groups=len(groups),
        images=shape.n,
        channel_groups=shape.groups,
        terms=terms,
        lanes=lanes,
        tile_lanes=tile_lanes,
        ready=len(w) == AXES,
        chunk=chunk,
        d=depths,
        h=rows,
        w=columns,
        source=Steps(*five(source)),
        out=Steps(*five(out)),
        filters=filters,
    )
    positions = shape.n * prod(lengths)
    scratch = SCRATCH_HEAD + round_up(16 * positions, LINE_BYTES)
    scratch += (positions + 1) * step + chunk * LANE_BYTES
    return Sizes.of(sizes, scratch, table)


def parts_of(operator: str, group: Group, together: int) -> Iterator[Group]:
    """Cut a group of taps into parts of some taps that add to the same results."""
    ranges = []
    for run in reversed(group):
        moves = run.positions > 1 and (run.o if operator == "conv2d" else run.i).fixed
        length = even_part(run.positions, 1 if moves else together)
        together //= length
        ranges.append([run.part(k, min(k + length, run.positions)) for k in range(0, run.positions, length)])
    for runs in product(*reversed(ranges)):
        yield Group(runs)


# --- the kernels ---------------------------------------------------------------------------------
sum_of_products_along: Any = sums_of(products_along(PAIR))


@helper
def positions_of(group, images, source_n, kept_n, found):
    """Write where the positions of a group are, in the source and among the kept tiles; returns how many they are."""
    (d, h, w), source, kept, count = group.terms, group.source.term, group.out.term, 0
    for n in range(images):
        for k in range(d):
            for j in range(h):
                at = n * source_n + k * source[0] + j * source[1]
                there = n * kept_n + k * kept[0] + j * kept[1]
                for _ in range(w):
                    found[2 * count], found[2 * count + 1] = at, there
                    at, there, count = at + source[2], there + kept[2], count + 1
    return count


@helper
def filters_along(zero, memory, b, steps, taps, by_tap, count, lanes, tiles):
    """The filters of a chunk, where they are, and their steps; the last one is from channel to channel."""
    return b, by_tap, steps.lane


@helper
def sum_along(zero, rows, a, filters, lanes, taps, by_tap, count):
    """The products of `count` terms of some taps, neighbouring ones in the lanes."""
    columns, counts = (filters[2], lanes - 1), and_last(taps, count * bytes_of(zero) // VECTOR_BYTES)
    a_steps, b_steps = and_last(by_tap, int(VECTOR_BYTES)), and_last(filters[1], int(VECTOR_BYTES))
    return sum_of_products_along(zeros(zero), addresses_in(rows), a, filters[0], columns, counts, a_steps, b_steps)


@helper
def put_along(tile, zero, rows, count, lanes, step, tile_rows):
    """Add up the lanes, and write the sums."""
    put_sums(tile, zero, rows, count, lanes, step, tile_rows, int(CHANNELS))


@helper
def filters_across(zero, memory, b, steps, taps, by_tap, count, lanes, tiles):
    """The filters of a chunk, where they are or in memory of their own, and their steps; the last is that of terms.

    For several tiles they are copied: rows a power of two apart would push each other out of the first-level cache.
    """
    size = bytes_of(zero)
    width = LANE_BYTES // size
    if tiles == 1 and steps.lane == size and lanes >= width:
        return b, by_tap, steps.term
    (d, h, w), step = taps, count * LANE_BYTES
    for tap in range(d * h * w):
        at = b + tap // w // h * by_tap[0] + tap // w % h * by_tap[1] + tap % w * by_tap[2]
        there = memory + tap * step
        if steps.lane != size or lanes < width:
            pack(zero, there, int(LANE_BYTES), at, steps.term, steps.lane, count, lanes, width)
            continue
        for k in range(count):
            for line in range(0, LANE_BYTES, LINE_BYTES):
                fetch(at + (k + AHEAD) * steps.term + line)
            copy_part(zero, there + k * LANE_BYTES, at + k * steps.term, width)
    return memory, (h * w * step, w * step, step), int(LANE_BYTES)


@helper
def sum_across(zero, rows, a, filters, lanes, taps, by_tap, count):
    """The products of `count` terms of some taps, with channels in the lanes."""
    a_steps, b_steps, counts = and_last(by_tap, bytes_of(zero)), and_last(filters[1], filters[2]), and_last(taps, count)
    return sum_of_products(zeros(zero), addresses_in(rows), a, filters[0], counts, a_steps, b_steps)


@helper
def put_across(tile, zero, rows, count, lanes, step, tile_rows):
    """Write the sums."""
    put(tile, zero, rows, count, lanes, step, WRITE, tile_rows)


def _tasks_with(together, filters_of, products, put_tile):
    """Return a helper that does tasks until none is left; a task is some channels of the result, at all positions.

    A tile has so many positions `together`, with as many rows of lanes for each as fill it.
    """
    per = TILE_ROWS // together

    @helper
    def place_kept(first, count, found, kept, nowhere, rows):
        """Write the addresses of the rows of a kept tile, whose positions are found[first] and those after it."""
        for p in range(together):
            at = kept + found[2 * (first + p) + 1] if first + p < count else nowhere
            for r in range(per):
                rows[p * per + r] = at + r * LANE_BYTES

    @helper
    def do_tasks(zero, arguments):
        size = bytes_of(zero)
        sizes = record(arguments, 0, UnpackedSizes)
        call = sizes.call
        source_rows, rows, tile_rows, free = own_scratch(arguments)
        terms, lanes, filters, source, width = sizes.terms, sizes.lanes, sizes.filters, sizes.source, sizes.tile_lanes
        positions = sizes.images * sizes.d * sizes.h * sizes.w
        step = per * LANE_BYTES  # bytes of the kept sums of a position
        found = carray(integers_at(free), 2 * positions)
        kept = after(free, round_up(16 * positions, LINE_BYTES))
        nowhere = kept + positions * step  # Place for the results that a tile has too many.
        memory = after(kept, (positions + 1) * step)
        blocks = ceil_div(lanes, width)
        while True:
            task = next_number(arguments, NEXT_TASK)
            if task >= sizes.channel_groups * blocks:
                return
            # If the last block of channels is not full, it overlaps the one before, but for packed filters.
            g, lane = task // blocks, task % blocks * width
            if not sizes.ready:
                lane = min(lane, max(0, lanes - width))
            here = min(width, lanes - lane)
            for k in range(positions * per):
                for v in range(0, LANE_BYTES, VECTOR_BYTES):
                    fill_vector(zero, kept + k * LANE_BYTES + v)
            # 1. the products of each tap, for the positions that have it
            for number in range(sizes.groups):
                line = record(sizes.table, number, GroupRow)
                count = positions_of(line, sizes.images, source.n, positions // sizes.images * step, found)
                a = call.a + g * terms * size + line.source.first
                b = call.b + g * filters.channel_group + line.filters.first
                b += lane // width * filters.panel if sizes.ready else lane * filters.lane
                taps, by_tap, to = line.positions, line.source.position, kept + line.out.first
                for k in range(0, terms, sizes.chunk):
                    some = min(sizes.chunk, terms - k)
                    tiles = 1 if sizes.ready else ceil_div(count, together)
                    read = filters_of(
                        zero, memory, b + k * filters.term, filters, taps, line.filters.position, some,
                        width if sizes.ready else here, tiles,
                    )  # fmt: skip
                    for p in range(0, count, together):
                        for r in range(together):
                            source_rows[r] = found[2 * min(p + r, count - 1)]
                        place_kept(p, count, found, to, nowhere, rows)
                        tile = products(zero, source_rows, a + k * size, read, here, taps, by_tap, some)
                        store(add_memory(tile, addresses_in(rows)), addresses_in(rows))
            # 2. the sums
            for p in range(0, positions, together):
                for r in range(together):
                    q = min(p + r, positions - 1)
                    for part in range(per):
                        rows[r * per + part] = kept + q * step + part * LANE_BYTES
                tile = add_memory(zeros(zero), addresses_in(rows))
                for r in range(together):
                    q = min(p + r, positions - 1)
                    row = q // sizes.w
                    n, at_d, at_h = row // sizes.h // sizes.d, row // sizes.h % sizes.d, row % sizes.h
                    rows[r] = call.out + n * sizes.out.n + first_of((at_d, at_h, q % sizes.w), sizes.out)
                    rows[r] += (g * lanes + lane) * sizes.out.c
                put_tile(tile, zero, rows, min(together, positions - p), here, sizes.out.c, tile_rows)

    return do_tasks


do_along: Any = _tasks_with(PAIR, filters_along, sum_along, put_along)
do_across: Any = _tasks_with(TILE_ROWS, filters_across, sum_across, put_across)


def along(zero: Any, arguments: Any) -> None:
    """Kernel: do tasks of conv2d until none is left, with neighbouring terms in the lanes."""
    do_along(zero, arguments)


def across(zero: Any, arguments: Any) -> None:
    """Kernel: do tasks of conv2d or conv2d_input until none is left, with channels in the lanes."""
    do_across(zero, arguments)
