"""The second kernel of conv2d_weight on the CPU, for few channels on one side, which would fill a part of a tile only::

    dw[f, row, lane] = sum of a[n, p, row] * b[n, q, lane]     over images n, and all (p, q) that meet f

One of x and dy has few channels: it is a, and the other is b; p and q are their positions. Positions i of x and o of dy
meet f where i = o*stride - before + f*dilation on each axis. The rows of a tile are taps and channels of a, its lanes
are channels of b. Where b would leave lanes empty, a tile has rows of one vector instead, and more of them. The module
`weight` compares the two kernels, and chooses between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from ...geometry import ConvShape, Group, plan
from .compiled import (
    NO_CALL,
    SCRATCH_HEAD,
    Call,
    GroupRow,
    Sizes,
    Steps,
    Strides,
    and_last,
    ceil_div,
    even_part,
    first_of,
    group_row,
    next_task,
    numbers_of,
    own_scratch,
    record,
    round_up,
)
from .registers import (
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
    write_number,
    zeros,
)
from .tile import PART_GAP, add_parts, loops, pack_images, sum_of_products, unpack

MOST_ROWS = TILE_VECTORS * TILE_ROWS  # rows of a tile whose rows have one vector
CHUNK_TERMS = 384  # products of a result that are added up in registers at a time
RESULT_BYTES = 256 * 2**10  # largest size of the results of a task, which each chunk adds to
PARTS_BYTES = 2**21  # largest size of the results of all parts of a sum together


# --- what the kernel is given --------------------------------------------------------------------
class FewOutSteps(NamedTuple):
    """Bytes from an element of dw to the next one along each axis, and to the next channel group."""

    d: int
    h: int
    w: int
    channel: int
    lane: int
    channel_group: int


class FewSizes(NamedTuple):
    """The arguments of `few`: channels are those of A, lanes those of B."""

    call: Call
    table: int
    groups: int
    blocks: int
    parts: int
    result_bytes: int
    images: int
    fd: int
    fh: int
    fw: int
    channels: int
    lanes: int
    block_lanes: int
    tile_rows: int
    tile_lanes: int
    chunk_terms: int
    a: Steps
    b: Steps
    out: FewOutSteps


# --- the sizes -----------------------------------------------------------------------------------
def columns_at_once(columns: int, terms: int) -> int:
    """Return into how many columns to cut rows for chunks of so many terms: only rows that are far longer are cut."""
    return even_part(columns, terms) if columns > 4 * terms else columns


def parts_of(dw_bytes: int, most: int) -> int:
    """Return in how many parts to cut the sum: at most `most`.

    The number depends on the shape alone, so that any number of threads gives the same bits.
    """
    return max(part for part in (1, 2, 4) if part == 1 or (part * dw_bytes <= PARTS_BYTES and part <= most))


def tile_of(groups: Iterable[Group], rows: int, lanes: int, itemsize: int) -> tuple[int, int]:
    """Return rows and lanes of a tile: TILE_ROWS of all its vectors, or more rows of one vector if this saves tiles.

    `rows` are the channels of a.
    """
    width = VECTOR_BYTES // itemsize

    def tiles(tile: tuple[int, int]) -> int:
        rows_of_tiles = sum(ceil_div(group.terms * rows, tile[0]) * group.positions for group in groups)
        return rows_of_tiles * ceil_div(lanes, tile[1])

    return min((TILE_ROWS, TILE_VECTORS * width), (MOST_ROWS, width), key=tiles)


def sizes_of(way: str, shape: ConvShape, a: Strides, b: Strides, dw: Strides, itemsize: int, threads: int) -> Sizes:
    """Return the sizes for `few`.

    One of x and dy has few channels: it is a, and the other is b. `way` is the operator whose plan is used: "conv2d"
    if a is x, "conv2d_input" if a is dy. The arrays are given by their strides.
    """
    groups = plan(way, shape)
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    rows, lanes = (ic, oc) if way == "conv2d" else (oc, ic)
    high, wide = tile_of(groups.groups, rows, lanes, itemsize)
    columns, (row, lane) = (shape.ow, (dw[4], dw[0])) if way == "conv2d" else (shape.iw, (dw[0], dw[4]))
    fd, fh, fw = (axis.taps for axis in shape.axes)
    lane_bytes = fd * fh * fw * rows * itemsize  # results of one lane
    blocks = [
        block
        for block in range(wide, min(8 * wide, round_up(lanes, wide)) + 1, wide)
        if block == wide or block * lane_bytes <= RESULT_BYTES
    ]

    # One image is cut by its chunks.
    most = shape.n if shape.n > 1 else sum(group.positions for group in groups.groups) // (2 * CHUNK_TERMS)
    parts = parts_of(shape.groups * lane_bytes * round_up(lanes, wide), most)

    def busiest(block: int) -> tuple[int, int]:
        """Lanes of the busiest thread; between equals, the larger block comes first."""
        return ceil_div(shape.groups * ceil_div(lanes, block) * parts, threads) * block, -block

    block = min(blocks, key=busiest)
    result_bytes = round_up(block * lane_bytes, 64)
    tap_bytes = rows * block * itemsize  # Results are (fd, fh, fw, channel, lane).
    taps = fh * fw * tap_bytes, fw * tap_bytes, tap_bytes
    rows_of_table = [group_row(way, group, a[1:4], taps, b[1:4]) for group in groups.groups]
    table = np.array([numbers_of(row) for row in rows_of_table], np.int64)
    sizes = FewSizes(
        call=NO_CALL,
        table=table.ctypes.data,
        groups=len(groups.groups),
        blocks=shape.groups * ceil_div(lanes, block),
        parts=parts,
        result_bytes=result_bytes,
        images=shape.n,
        fd=fd,
        fh=fh,
        fw=fw,
        channels=rows,
        lanes=lanes,
        block_lanes=block,
        tile_rows=high,
        tile_lanes=wide,
        chunk_terms=CHUNK_TERMS,
        a=Steps(*a),
        b=Steps(*b),
        out=FewOutSteps(d=dw[1], h=dw[2], w=dw[3], channel=row, lane=lane, channel_group=oc * dw[0]),
    )
    packed_bytes = max(CHUNK_TERMS, min(columns, 4 * CHUNK_TERMS)) * block * itemsize + block // wide * PART_GAP
    scratch = SCRATCH_HEAD + 2 * MOST_ROWS * 8 + packed_bytes + (result_bytes if parts == 1 else 0)
    return Sizes.of(sizes, scratch, table)


# --- the kernel ----------------------------------------------------------------------------------
@helper
def tap_step(tap, fh, fw, steps):
    """Bytes from the first tap of a filter to another one, of which `tap` others are before it."""
    return first_of((tap // (fh * fw), tap // fw % fh, tap % fw), steps)


@helper
def place_taps(taps, first, count, rows, channels, a_steps, out, out_steps, a_rows, out_rows):
    """Write the addresses in a and in the results of `count` rows, which are (tap of d, of h, of w, channel).

    Rows after the last one repeat it.
    """
    taps_h, taps_w = taps
    channel, tap_w, row = first % channels, first // channels % taps_w, first // channels // taps_w
    tap_d, tap_h = row // taps_h, row % taps_h
    for r in range(count):
        a_rows[r] = tap_d * a_steps[0] + tap_h * a_steps[1] + tap_w * a_steps[2] + channel * a_steps[3]
        out_rows[r] = out + tap_d * out_steps[0] + tap_h * out_steps[1] + tap_w * out_steps[2] + channel * out_steps[3]
        if first + r < rows - 1:
            channel += 1
            if channel == channels:
                channel, tap_w = 0, tap_w + 1
                if tap_w == taps_w:
                    tap_h, tap_w = tap_h + 1, 0
                    if tap_h == taps_h:
                        tap_d, tap_h = tap_d + 1, 0


@helper
def of_vectors(rows):
    """Addresses for each of a tile's two vectors, if each is a row."""
    return addresses_in(rows), addresses_in(rows[TILE_ROWS:])


@helper
def chunk_of_group(images, counts, terms):
    """Images, depths, rows and columns of a group that are about so many terms together."""
    d, h, w = counts
    columns = even_part(w, terms) if w > 4 * terms else w
    images = even_part(images, terms // (d * h * w))
    return images, even_part(d, terms // (h * w)), even_part(h, terms // w), columns


def few(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d_weight until none is left, where one of x and dy (a) has few channels.

    A task is a block of channels of the other array (b) and, if the sum is cut into parts, a part of the images, or of
    the chunks of one image.
    The kernel reads a in place, one number at a time. It reads b in place too if the channels of b are neighbours
    in memory and fill whole rows of a tile; otherwise it packs b. The results stay in memory of their own until they
    are complete.
    """
    size = bytes_of(zero)
    sizes = record(arguments, 0, FewSizes)
    call = sizes.call
    blocks, parts, result_bytes = sizes.blocks, sizes.parts, sizes.result_bytes
    fd, fh, fw = sizes.fd, sizes.fh, sizes.fw
    images, channels, lanes, block = sizes.images, sizes.channels, sizes.lanes, sizes.block_lanes
    a_steps, b_steps, out_steps = sizes.a, sizes.b, sizes.out
    high, width, lane_blocks = sizes.tile_rows, sizes.tile_lanes, ceil_div(lanes, block)
    free = own_scratch(arguments)[3]
    a_rows, out_rows = carray(integers_at(free), (2, MOST_ROWS))
    results = after(free, 2 * MOST_ROWS * 8)
    packed = after(results, result_bytes if parts == 1 else 0)
    row_step = block * size  # bytes of a row of results, which are (fd, fh, fw, channel, lane)
    while True:
        # 1. a task: some channels of b and a part of the sum; its results begin as 0
        task = next_task(arguments, thread, blocks * parts)
        if task < 0:
            return
        g, lane0 = task // parts // lane_blocks, task // parts % lane_blocks * block
        which, cuts = (task % parts, parts) if images > 1 else (0, 1)
        first_image, last_image = which * images // cuts, (which + 1) * images // cuts
        if parts > 1:
            results = call.kept + task * result_bytes
        task_lanes = min(block, lanes - lane0)
        for k in range(fd * fh * fw * channels * block):
            write_number(zero, results + k * size)
        for group in range(sizes.groups):
            line = record(sizes.table, group, GroupRow)
            source, filters, out, met = line.source, line.filters, line.out, line.terms
            rows = met[0] * met[1] * met[2] * channels
            if rows == 0:
                continue
            # Steps in a and b from one position of the group to the next, and in a and the results from tap to tap.
            a_by = a_steps.n, source.position[0], source.position[1], source.position[2]
            b_by = b_steps.n, out.position[0], out.position[1], out.position[2]
            a_taps, taps = and_last(source.term, a_steps.c), and_last(filters.term, row_step)
            a_group = call.a + source.first + g * channels * a_steps.c
            b_group = call.b + out.first + (g * lanes + lane0) * b_steps.c
            at = results + filters.first
            d, h, w = line.positions
            most = chunk_of_group(last_image - first_image, line.positions, sizes.chunk_terms)
            n_cuts, d_cuts = ceil_div(last_image - first_image, most[0]), ceil_div(d, most[1])
            h_cuts, w_cuts = ceil_div(h, most[2]), ceil_div(w, most[3])
            chunks = n_cuts * d_cuts * h_cuts * w_cuts
            which, cuts = (task % parts, parts) if images == 1 else (0, 1)
            for chunk in range(which * chunks // cuts, (which + 1) * chunks // cuts):
                n0, d0 = chunk // (d_cuts * h_cuts * w_cuts) * most[0], chunk // (h_cuts * w_cuts) % d_cuts * most[1]
                h0, w0 = chunk // w_cuts % h_cuts * most[2], chunk % w_cuts * most[3]
                n0 += first_image
                terms = (
                    min(most[0], last_image - n0), min(most[1], d - d0), min(most[2], h - h0), min(most[3], w - w0)
                )  # fmt: skip
                # 2. a chunk of b, packed unless its lanes are neighbours already
                a_chunk = a_group + n0 * a_by[0] + d0 * a_by[1] + h0 * a_by[2] + w0 * a_by[3]
                b_chunk = b_group + n0 * b_by[0] + d0 * b_by[1] + h0 * b_by[2] + w0 * b_by[3]
                part = width * size
                b_terms = b_by
                # All tasks do the same: the order of a sum follows from the steps.
                if b_steps.c != size or lanes % width != 0:
                    row = terms[3] * part
                    plane = terms[2] * row
                    image = terms[1] * plane
                    steps = Steps(b_by[0], b_by[1], b_by[2], b_by[3], b_steps.c)
                    counts = terms[0], terms[1], terms[2], terms[3], task_lanes
                    pack_images(zero, packed, (image, part), b_chunk, steps, counts, width)
                    b_chunk, b_terms = packed, (image, plane, row, part)
                    part = terms[0] * image + PART_GAP
                # 3. its terms
                counts, a_loops, b_loops = loops(terms, a_by, b_terms)
                for lane in range(0, task_lanes, width):
                    b_lanes = b_chunk + lane // width * part
                    for first in range(0, rows, high):
                        to = at + lane * size
                        place_taps(met[1:], first, high, rows, channels, a_taps, to, taps, a_rows, out_rows)
                        if high == TILE_ROWS:
                            of_a, there = addresses_in(a_rows), addresses_in(out_rows)
                            tile = sum_of_products(zeros(zero), of_a, a_chunk, b_lanes, counts, a_loops, b_loops)
                            store(add_memory(tile, there), there)
                        else:
                            of_all, theirs = of_vectors(a_rows), of_vectors(out_rows)
                            tile = sum_of_products(zeros(zero), of_all, a_chunk, b_lanes, counts, a_loops, b_loops)
                            store(add_memory(tile, theirs), theirs)
        # 4. the results to dw, by the thread that finishes the last part of a block
        if parts > 1:
            if next_number(call.done, task // parts) < parts - 1:
                continue
            results -= task % parts * result_bytes
            add_parts(zero, results, result_bytes, parts)
        at = call.out + g * out_steps.channel_group + lane0 * out_steps.lane
        for tap in range(fd * fh * fw):
            place = at + tap_step(tap, fh, fw, out_steps)
            there = results + tap * channels * row_step
            unpack(zero, place, out_steps.channel, out_steps.lane, there, row_step, channels, task_lanes)
