"""conv2d and conv2d_input with few positions on the CPU: the filters are read once, in the order in which they are.

To pack filters costs more than to use them, if only few windows meet them. And where filters are as large as the map,
each position is a group of its own, so `gather` would read all filters for each. There are two kinds of tiles::

    along     tile[r, v, l] += x[position r, k + l] * w[channel v, k + l]       for the terms k of a tap, in vectors
    across    tile[r, l] += source[position r, k] * w[k, channel l]             for the terms k of a tap

Along is for conv2d: the terms of a tap lie side by side in w, so lanes hold neighbouring terms of one sum, which are
added up in the end; a tile has two positions. Across has the tiles of `gather`: few positions take several panels of
channels at once. The channels of conv2d_input lie side by side in w; those of conv2d are brought into that order, a
chunk at a time.

The taps are outermost, and each meets the positions that have it: those are the groups of conv2d_weight's plan. So
a chunk of filters is read from memory once, and meets all of its positions in the first-level cache; between chunks,
the tiles are kept in memory. A chunk has some taps of a group, if these add to the same results, or some terms of one.
The chunks come in the order of memory.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from ...buffers import LINE_BYTES
from ...geometry import ConvShape, Group, plan
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
    even_part,
    first_of,
    five,
    group_row,
    is_little,
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
from .gather import (
    COPY_BYTES,
    FEW_PANELS,
    FEW_ROWS,
    HALF_PANELS,
    HALF_ROWS,
    PACKING,
    copied_channels_last,
    may_be_turned,
    panels_at_once,
    read_in_place,
    rows_at_once,
    sum_of_few_rows,
    sum_of_half,
    tiles_of,
    work_of,
)
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
    products_along,
    store,
    zeros,
)
from .tile import SET_BYTES, WRITE, copy_part, pack, put, put_sums, sum_of_products, sums_of

# A product takes so many times as long as with packed filters, and to keep a tile between chunks takes as long as so
# many steps of a sum.
SLOWER = {"along": 1.4, "across": 1.1}
KEEPING = {"along": 8, "across": 4}
# `across` brings a filter of conv2d, or one of lanes that are no whole panels, into its order in the time of products
# for so many positions.
REORDERING = 8 if VECTOR_BYTES == 64 else 4
TURNING = 24  # The same for filters whose taps are last, of which `across` reads one tap at a time, and `gather` all.
IN_PLACE = 4 * TILE_ROWS  # `across` copies rows of lanes that more positions meet, even if they lie side by side.
AHEAD = 8  # Number of terms from the one that is being copied to the one that is fetched into the cache.
PAIR = 2  # Positions of a tile along the terms.
CHANNELS = TILE_ROWS // PAIR * TILE_VECTORS  # Channels of such a tile.
CHUNK_BYTES = {"along": 2048, "across": 1024}  # So many terms at a time stay in the first-level cache for all channels.


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
    kept: int
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
    threads = 1 if is_little(operator, shape) else 2  # The order of a sum must not depend on how many there are.
    may_be_along = operator == "conv2d" and whole
    apart = operator == "conv2d_input" and in_place and panels is None and w.strides[0] % SET_BYTES == 0
    turned = panels is None and may_be_turned(operator, shape, w.strides, w.itemsize)
    return best_way(operator, shape, w.itemsize, threads, may_be_along, in_place, panels is not None, apart, turned)


@lru_cache(maxsize=1024)
def best_way(
    operator: str,
    shape: ConvShape,
    itemsize: int,
    threads: int,
    may_be_along: bool,
    in_place: bool = False,
    ready: bool = False,
    apart: bool = False,
    turned: bool = False,
) -> str:
    """Compare estimates for all terms of some channels, in products of a position with packed filters.

    If rows of lanes are so far `apart` that they push each other out of the cache, `across` copies those that more than
    a tile of positions meet, and `gather` reads them in place. Filters are `turned` if their taps are last in memory.
    """
    shape = with_three_axes(shape)
    taps = prod(shape.w_shape[1:-1])
    lanes, terms = lanes_and_terms(operator, shape)
    out = shape.y_shape if operator == "conv2d" else shape.x_shape
    panels = min(FEW_PANELS, ceil_div(lanes * itemsize, LANE_BYTES))
    packing = 0 if ready or in_place else PACKING[operator] * taps
    costs = {"": work_of(plan(operator, shape).groups, shape.n, panels) + packing}
    kept = prod(out[:-1]) * LANE_BYTES
    if may_be_along and kept * TILE_ROWS // PAIR <= L2_BYTES // 2:
        keeping = KEEPING["along"] * VECTOR_BYTES / (terms * itemsize)
        parts = parts_of("along", operator, shape, itemsize)
        here = sum(round_up(shape.n * part.terms, PAIR) * (part.positions + keeping) for part in parts)
        costs["along"] = SLOWER["along"] * here
    if 4 * lanes * itemsize > LANE_BYTES:
        panels, here = across_work(operator, shape, itemsize, threads, ready)
        groups = plan("conv2d_weight", shape).groups
        copied = sum(group.positions for group in groups if apart and shape.n * group.terms > TILE_ROWS)
        if not ready and (operator == "conv2d" or lanes * itemsize % LANE_BYTES):
            copied = taps
        reordering = TURNING * taps if turned else REORDERING * copied
        if kept * panels <= L2_BYTES // 2:
            costs["across"] = SLOWER["across"] * here + reordering
    return min(costs, key=costs.__getitem__)


def run(way: str, operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator; a source whose channels are not last is copied."""
    threads = number_of_threads(operator, shape)
    if source.strides[-1] != source.itemsize:
        source = copied_channels_last(source, threads)
    sizes = sizes_of(way, operator, shape, source.strides, w.strides, out.strides, threads)
    kernel = along if way == "along" else across
    start(kernel, out.dtype, threads, sizes, source=source, filters=w, out=out)


@lru_cache(maxsize=1024)
def sizes_of(
    way: str, operator: str, shape: ConvShape, source: Strides, w: Strides, out: Strides, threads: int
) -> Sizes:
    """Return the sizes for a kernel; source, w and out are strides of the arrays."""
    shape, itemsize = with_three_axes(shape), source[-1]
    lanes, terms = lanes_and_terms(operator, shape)
    lengths = [axis.outputs if operator == "conv2d" else axis.size for axis in shape.axes]
    depths, rows, columns = lengths
    filters = filter_steps(operator, w, shape.oc // shape.groups, itemsize)
    # Channels of a task, and bytes of the kept sums of a position.
    tile_lanes, step = CHANNELS, TILE_ROWS // PAIR * LANE_BYTES
    if way == "across":
        panels, _ = across_work(operator, shape, itemsize, threads, len(w) == AXES)
        tile_lanes, step = panels * LANE_BYTES // itemsize, panels * LANE_BYTES
    chunk = chunk_of(way, itemsize)
    groups = parts_of(way, operator, shape, itemsize)
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
        kept=step,
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
    scratch += (positions + 1) * step
    if way == "across" and len(w) != AXES:
        scratch += min(chunk, terms) * max((group.positions for group in groups), default=0) * step
    return Sizes.of(sizes, scratch, table)


def chunk_of(way: str, itemsize: int) -> int:
    """Return how many terms are multiplied at a time, those of one tap or of several."""
    return round_up(CHUNK_BYTES[way], VECTOR_BYTES) // itemsize


def parts_of(way: str, operator: str, shape: ConvShape, itemsize: int) -> list[Group]:
    """Cut each group of taps into parts of some taps that add to the same results, in a chunk of terms."""
    terms = (shape.ic if operator == "conv2d" else shape.oc) // shape.groups
    parts = []
    for group in plan("conv2d_weight", shape).groups:
        together, ranges = max(1, chunk_of(way, itemsize) // terms), []
        for run in reversed(group):
            moves = run.positions > 1 and (run.o if operator == "conv2d" else run.i).fixed
            length = even_part(run.positions, 1 if moves else together)
            together //= length
            ranges.append([run.part(k, min(k + length, run.positions)) for k in range(0, run.positions, length)])
        parts += [Group(runs) for runs in product(*reversed(ranges))]
    return parts


def across_work(operator: str, shape: ConvShape, itemsize: int, threads: int, ready: bool) -> tuple[int, float]:
    """Return how many panels a task of `across` has, and its time for each panel, in products of a position."""
    lanes, terms = lanes_and_terms(operator, shape)
    width = LANE_BYTES // itemsize
    all_panels, best = ceil_div(lanes, width), (1, float("inf"))
    parts = parts_of("across", operator, shape, itemsize)
    for panels in (1, HALF_PANELS, FEW_PANELS):
        if panels > (all_panels if ready else max(1, lanes // width)):
            break
        tasks = round_up(shape.groups * ceil_div(all_panels, panels), threads)
        keeping = KEEPING["across"] / terms
        tiles = sum(tiles_of(shape.n * part.terms, panels) * (part.positions + keeping) for part in parts)
        work = tiles * TILE_ROWS * tasks / (shape.groups * all_panels)
        best = min(best, (panels, work), key=itemgetter(1))
    return best


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


@helper(inline="always")
def multiply_along(zero, sizes, found, count, line, taps, memory, source_rows, rows):
    """Add the products of some terms to the kept sums, with neighbouring terms in the lanes."""
    a, b, kept, nowhere, lanes, some = taps
    columns, counts = (sizes.filters.lane, lanes - 1), and_last(line.positions, some * bytes_of(zero) // VECTOR_BYTES)
    a_steps = and_last(line.source.position, int(VECTOR_BYTES))
    b_steps = and_last(line.filters.position, int(VECTOR_BYTES))
    for p in range(0, count, PAIR):
        for r in range(PAIR):
            source_rows[r] = found[2 * min(p + r, count - 1)]
            at = kept + found[2 * (p + r) + 1] if p + r < count else nowhere
            for part in range(int(TILE_ROWS // PAIR)):
                rows[r * (TILE_ROWS // PAIR) + part] = at + part * LANE_BYTES
        there = addresses_in(source_rows)
        tile = sum_of_products_along(zeros(zero), there, a, b, columns, counts, a_steps, b_steps)
        store(add_memory(tile, addresses_in(rows)), addresses_in(rows))


@helper
def put_along(tile, zero, rows, count, lanes, step, tile_rows):
    """Add up the lanes, and write the sums."""
    put_sums(tile, zero, rows, count, lanes, step, tile_rows, int(CHANNELS))


@helper
def copy_filters(zero, memory, row_bytes, b, steps, line, count, lanes):
    """Copy the filters of some terms of some taps to (tap, term, lane); zeros fill the last panel."""
    (d, h, w), by_tap = line.positions, line.filters.position
    size = bytes_of(zero)
    for tap in range(d * h * w):
        at = b + tap // w // h * by_tap[0] + tap // w % h * by_tap[1] + tap % w * by_tap[2]
        there = memory + tap * count * row_bytes
        if steps.lane != size or lanes * size % LANE_BYTES:
            pack(zero, there, row_bytes, at, steps.term, steps.lane, count, lanes, row_bytes // size)
            continue
        for k in range(count):
            for first in range(0, row_bytes, LANE_BYTES):
                for line_first in range(first, first + LANE_BYTES, LINE_BYTES):
                    fetch(at + (k + AHEAD) * steps.term + line_first)
                copy_part(zero, there + k * row_bytes + first, at + k * steps.term + first, LANE_BYTES // size)


@helper(inline="always")
def multiply_across(zero, sizes, found, count, line, taps, memory, source_rows, rows):
    """Add the products of some terms to the kept sums, with channels in the lanes.

    For several tiles the filters are copied, above all if rows of lanes would push each other out of the cache.
    """
    a, b, kept, nowhere, lanes, some = taps
    size = bytes_of(zero)
    panels = ceil_div(lanes * size, int(LANE_BYTES))
    by_tap, term, panel = line.filters.position, sizes.filters.term, sizes.filters.panel
    most = TILE_ROWS if term % SET_BYTES == 0 else IN_PLACE
    if not sizes.ready and (count > most or sizes.filters.lane != size or lanes * size % LANE_BYTES):
        term, panel = panels * LANE_BYTES, int(LANE_BYTES)
        copy_filters(zero, memory, term, b, sizes.filters, line, some, lanes)
        step = some * term
        b, by_tap = memory, (line.positions[1] * line.positions[2] * step, line.positions[2] * step, step)
    counts = and_last(line.positions, some)
    a_steps, b_steps = and_last(line.source.position, size), and_last(by_tap, term)
    p = 0
    while p < count:
        here = rows_at_once(min(count - p, int(TILE_ROWS)), panels)
        for r in range(TILE_ROWS):
            source_rows[r] = found[2 * min(p + r, p + here - 1)]
        there, first = addresses_in(source_rows), 0
        while first < panels:
            now, at = panels_at_once(here, panels - first), b + first * panel
            if now == 1:
                each, tile = TILE_ROWS, sum_of_products(zeros(zero), there, a, at, counts, a_steps, b_steps)
            elif now == HALF_PANELS:
                each, tile = HALF_ROWS, sum_of_half(zeros(zero), there, a, at, panel, counts, a_steps, b_steps)
            else:
                each, tile = FEW_ROWS, sum_of_few_rows(zeros(zero), there, a, at, panel, counts, a_steps, b_steps)
            r, lane = 0, first * LANE_BYTES
            for k in range(TILE_ROWS):
                rows[k] = kept + found[2 * (p + r) + 1] + lane if r < here else nowhere
                r += 1
                if r == each:
                    r, lane = 0, lane + LANE_BYTES
            store(add_memory(tile, addresses_in(rows)), addresses_in(rows))
            first += now
        p += here


@helper
def put_across(tile, zero, rows, count, lanes, step, tile_rows):
    """Write the sums."""
    put(tile, zero, rows, count, lanes, step, WRITE, tile_rows)


def _tasks_with(together, multiply, put_tile):
    """Return a helper that does tasks until none is left; a task is some channels of the result, at all positions.

    A tile has the sums of so many positions `together`, with as many rows of lanes for each as fill it.
    """
    per = TILE_ROWS // together

    @helper
    def do_tasks(zero, arguments, thread):
        size = bytes_of(zero)
        sizes = record(arguments, 0, UnpackedSizes)
        call = sizes.call
        source_rows, rows, tile_rows, free = own_scratch(arguments)
        terms, lanes, filters, source, width = sizes.terms, sizes.lanes, sizes.filters, sizes.source, sizes.tile_lanes
        positions = sizes.images * sizes.d * sizes.h * sizes.w
        step = sizes.kept  # bytes of the kept sums of a position
        found = carray(integers_at(free), 2 * positions)
        kept = after(free, round_up(16 * positions, LINE_BYTES))
        nowhere = kept + positions * step  # Place for the results that a tile has too many.
        memory = after(kept, (positions + 1) * step)
        blocks, panel = ceil_div(lanes, width), LANE_BYTES // size
        while True:
            task = next_task(arguments, thread, sizes.channel_groups * blocks)
            if task < 0:
                return
            # If the last block of channels is not full, it overlaps the one before; packed ones are whole panels.
            g, lane = task // blocks, task % blocks * width
            lane = min(lane, max(0, (round_up(lanes, panel) if sizes.ready else lanes) - width))
            here = min(width, lanes - lane)
            for k in range(kept, nowhere, VECTOR_BYTES):
                fill_vector(zero, k)
            # 1. the products of each part of a group of taps, for the positions that have it
            for number in range(sizes.groups):
                line = record(sizes.table, number, GroupRow)
                count = positions_of(line, sizes.images, source.n, positions // sizes.images * step, found)
                a = call.a + g * terms * size + line.source.first
                b = call.b + g * filters.channel_group + line.filters.first
                b += lane // panel * filters.panel if sizes.ready else lane * filters.lane
                for k in range(0, terms, sizes.chunk):
                    some = min(sizes.chunk, terms - k)
                    taps = a + k * size, b + k * filters.term, kept + line.out.first, nowhere, here, some
                    multiply(zero, sizes, found, count, line, taps, memory, source_rows, rows)
            # 2. the sums
            for p in range(0, positions, together):
                for first in range(0, step, per * LANE_BYTES):
                    for r in range(together):
                        q = min(p + r, positions - 1)
                        for part in range(per):
                            rows[r * per + part] = kept + q * step + first + part * LANE_BYTES
                    tile = add_memory(zeros(zero), addresses_in(rows))
                    at = lane + first // LANE_BYTES * panel
                    for r in range(together):
                        q = min(p + r, positions - 1)
                        row = q // sizes.w
                        n, at_d, at_h = row // sizes.h // sizes.d, row // sizes.h % sizes.d, row % sizes.h
                        rows[r] = call.out + n * sizes.out.n + first_of((at_d, at_h, q % sizes.w), sizes.out)
                        rows[r] += (g * lanes + at) * sizes.out.c
                    some = min(width if first == 0 and step == per * LANE_BYTES else panel, lanes - at)
                    put_tile(tile, zero, rows, min(together, positions - p), some, sizes.out.c, tile_rows)

    return do_tasks


do_along: Any = _tasks_with(PAIR, multiply_along, put_along)
do_across: Any = _tasks_with(TILE_ROWS, multiply_across, put_across)


def along(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d until none is left, with neighbouring terms in the lanes."""
    do_along(zero, arguments, thread)


def across(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d or conv2d_input until none is left, with channels in the lanes."""
    do_across(zero, arguments, thread)
