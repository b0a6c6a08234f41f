"""conv2d with few positions on the CPU: the filters are read once, where they are.

To pack filters costs more than to use them, if only few windows meet them. The terms of a tap lie side by side in w
and in x, so the lanes of a tile hold neighbouring terms of one sum. Its rows are two positions, its vectors channels of
the result::

    tile[r, v, l] += x[position r, k + l] * w[channel v, k + l]        for the terms k of a tap, in whole vectors

The taps are outermost, and each meets the positions that have it: those are the groups of conv2d_weight's plan. So
a chunk of filters is read from memory once, and meets all of its positions in the first-level cache; between taps, the
tiles are kept in memory. In the end their lanes are added up.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
from numba import carray

from ...geometry import ConvShape, plan
from .compiled import (
    NEXT_TASK,
    SCRATCH_HEAD,
    Array,
    Sizes,
    Steps,
    Strides,
    TableRow,
    address_of,
    arguments_of,
    ceil_div,
    five,
    number_of_threads,
    own_arguments,
    own_scratch,
    record,
    round_up,
    start,
    table_of,
    with_three_axes,
)
from .gather import COPY_BYTES, FilterSteps, GatherAddresses
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
    helper,
    integers_at,
    next_number,
    store,
    zeros,
)
from .tile import LINE_BYTES, WRITE, put_sums, sums_along

SLOWER = 1.5  # A product takes so many times as long as in a tile that reads packed filters.
KEEPING = 8  # To keep a tile between taps takes as long as so many vectors of terms.
PACKING = 8  # To pack a filter takes as long as its products for so many positions.
PAIR, HALF = 2, TILE_ROWS // 2  # Positions of a tile, and rows of vectors for each of them.
CHANNELS = HALF * TILE_VECTORS  # Channels of a tile.
KEPT_BYTES = HALF * LANE_BYTES  # The sums of a position that are kept between taps.
CHUNK_BYTES = 2048  # So many terms at a time: for all channels of a tile they stay in the first-level cache.


class UnpackedSizes(NamedTuple):
    """The other arguments of `unpacked`, named as in `GatherSizes`."""

    table: int
    groups: int
    images: int
    channel_groups: int
    terms: int
    lanes: int
    chunk_bytes: int
    od: int
    oh: int
    ow: int
    source: Steps
    out: Steps
    filters: FilterSteps


# --- the sizes -----------------------------------------------------------------------------------
def fits(shape: ConvShape, source: Array, w: Array) -> bool:
    """Whether this is a layer for the kernel: the terms of a tap are whole vectors in memory, and it pays."""
    if w.strides[-1] != w.itemsize or shape.ic // shape.groups * w.itemsize % VECTOR_BYTES:
        return False
    if source.strides[-1] != source.itemsize and source.size * source.itemsize > COPY_BYTES:
        return False
    return pays(shape, w.itemsize)


@lru_cache(maxsize=1024)
def pays(shape: ConvShape, itemsize: int) -> bool:
    """Whether a kernel that packs filters would take longer: its tiles have empty rows if groups are small."""
    if prod(shape.y_shape[:-1]) * KEPT_BYTES > L2_BYTES // 2:
        return False
    useful = full = 0
    for group in plan("conv2d", with_three_axes(shape)).groups:
        useful += shape.n * group.positions * group.terms
        full += ceil_div(shape.n * group.positions, TILE_ROWS) * TILE_ROWS * group.terms
    vectors = shape.ic // shape.groups * itemsize / VECTOR_BYTES
    return useful * SLOWER * (1 + KEEPING / vectors) < full + PACKING * prod(shape.w_shape[1:-1])


def run(shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run conv2d; a source whose channels are not last is copied."""
    if source.strides[-1] != source.itemsize:
        source = np.ascontiguousarray(source)
    sizes = sizes_of(shape, source.strides, w.strides, out.strides)
    addresses = GatherAddresses(source=address_of(source), filters=address_of(w), out=address_of(out))
    start(unpacked, out.dtype, number_of_threads("conv2d", shape), sizes, addresses)


@lru_cache(maxsize=1024)
def sizes_of(shape: ConvShape, source: Strides, w: Strides, out: Strides) -> Sizes:
    """Return the sizes for the kernel; source, w and out are strides of the arrays."""
    shape = with_three_axes(shape)
    found = plan("conv2d_weight", shape)  # The groups of this plan say which positions have which taps.
    table = table_of(found, [0] * len(found.groups))
    (od, oh, ow), w = (axis.outputs for axis in shape.axes), five(w)
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    sizes = UnpackedSizes(
        table=table.ctypes.data,
        groups=len(found.groups),
        images=shape.n,
        channel_groups=shape.groups,
        terms=ic,
        lanes=oc,
        chunk_bytes=round_up(CHUNK_BYTES, VECTOR_BYTES),
        od=od,
        oh=oh,
        ow=ow,
        source=Steps(*five(source)),
        out=Steps(*five(out)),
        filters=FilterSteps(lane=w[0], term=w[4], d=w[1], h=w[2], w=w[3], channel_group=oc * w[0]),
    )
    positions = shape.n * od * oh * ow
    scratch = SCRATCH_HEAD + round_up(16 * positions + 16, LINE_BYTES) + (positions + 2) * KEPT_BYTES
    return Sizes(sizes, arguments_of(GatherAddresses, sizes), scratch, table)


# --- the kernel ----------------------------------------------------------------------------------
sum_of_products_along = sums_along(PAIR)


@helper
def place_kept(rows, first, second):
    """Write the addresses of the rows of a tile that lies in memory as the vectors of two positions."""
    for r in range(HALF):
        rows[r], rows[HALF + r] = first + r * LANE_BYTES, second + r * LANE_BYTES


@helper
def positions_of(axes, images, sizes, found):
    """Write where the positions of a group are, in the source and among the kept tiles; returns how many they are.

    An odd number gets a further one, whose sums nobody reads.
    """
    (d, h, w), count = axes, 0
    for n in range(images):
        for k in range(d.terms):
            image = n * sizes.od + d.summed + k * d.summed_step
            for i in range(h.terms):
                row = image * sizes.oh + h.summed + i * h.summed_step
                at = n * sizes.source.n + k * d.third_term * sizes.source.d + i * h.third_term * sizes.source.h
                for j in range(w.terms):
                    found[2 * count] = at + j * w.third_term * sizes.source.w
                    found[2 * count + 1] = (row * sizes.ow + w.summed + j * w.summed_step) * KEPT_BYTES
                    count += 1
    if count % PAIR:
        found[2 * count] = found[2 * count - 2]
        found[2 * count + 1] = images * sizes.od * sizes.oh * sizes.ow * KEPT_BYTES
        count += 1
    return count


def unpacked(zero, arguments):
    """Kernel: do tasks of conv2d until none is left; a task is some channels of the result, at all positions."""
    size = bytes_of(zero)
    addresses, sizes = own_arguments(arguments, GatherAddresses, UnpackedSizes)
    source_rows, rows, tile_rows, free = own_scratch(arguments)
    terms, lanes, filters, source = sizes.terms, sizes.lanes, sizes.filters, sizes.source
    positions = sizes.images * sizes.od * sizes.oh * sizes.ow
    found = carray(integers_at(free), 2 * positions + 2)
    kept = after(free, round_up(16 * positions + 16, LINE_BYTES))
    blocks = ceil_div(lanes, CHANNELS)
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= sizes.channel_groups * blocks:
            return
        g, lane = task // blocks, task % blocks * CHANNELS
        here = min(CHANNELS, lanes - lane)
        for p in range(0, positions, PAIR):
            place_kept(rows, kept + p * KEPT_BYTES, kept + (p + 1) * KEPT_BYTES)
            store(zeros(zero), addresses_in(rows))
        # 1. the products of each tap, for the positions that have it
        for group in range(sizes.groups):
            line = record(sizes.table, group, TableRow)
            d, h, w = line.d, line.h, line.w
            count = positions_of((d, h, w), sizes.images, sizes, found)
            for tap in range(d.count * h.count * w.count):
                kd, kh, kw = tap // w.count // h.count, tap // w.count % h.count, tap % w.count
                a = addresses.source + g * terms * size + (d.third + kd * d.third_fixed) * source.d
                a += (h.third + kh * h.third_fixed) * source.h + (w.third + kw * w.third_fixed) * source.w
                b = addresses.filters + g * filters.channel_group + (d.fixed + kd * d.fixed_step) * filters.d
                b += (h.fixed + kh * h.fixed_step) * filters.h + (w.fixed + kw * w.fixed_step) * filters.w
                b += lane * filters.lane
                for k in range(0, terms * size, sizes.chunk_bytes):
                    counts = (1, 1, 1, min(sizes.chunk_bytes, terms * size - k) // size)
                    for p in range(0, count, PAIR):
                        source_rows[0], source_rows[1] = found[2 * p], found[2 * p + 2]
                        place_kept(rows, kept + found[2 * p + 1], kept + found[2 * p + 3])
                        tile = sum_of_products_along(
                            zeros(zero), addresses_in(source_rows), a + k, b + k, (filters.lane, here - 1),
                            counts, (0, 0, 0, size), (0, 0, 0, size),
                        )  # fmt: skip
                        store(add_memory(tile, addresses_in(rows)), addresses_in(rows))
        # 2. the sums
        for p in range(0, positions, PAIR):
            place_kept(rows, kept + p * KEPT_BYTES, kept + (p + 1) * KEPT_BYTES)
            tile = add_memory(zeros(zero), addresses_in(rows))
            for r in range(PAIR):
                row, column = (p + r) // sizes.ow, (p + r) % sizes.ow
                n, depth, row = row // sizes.oh // sizes.od, row // sizes.oh % sizes.od, row % sizes.oh
                rows[r] = addresses.out + n * sizes.out.n + depth * sizes.out.d + row * sizes.out.h
                rows[r] += column * sizes.out.w + (g * lanes + lane) * sizes.out.c
            there = min(PAIR, positions - p)
            put_sums(tile, zero, rows, there, here, sizes.out.c, WRITE, tile_rows, int(CHANNELS))
