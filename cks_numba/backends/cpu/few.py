"""The second kernel of conv2d_weight on the CPU, for few channels on one side, which would fill a part of a tile only.

The module `weight` compares the two kernels, and chooses between them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...geometry import ConvShape, plan
from ...plan_table import group_table
from .compiled import (
    NEXT_TASK,
    SCRATCH_HEAD,
    Sizes,
    Steps,
    Strides,
    TableRow,
    arguments_of,
    ceil_div,
    even_part,
    own_arguments,
    own_scratch,
    record,
    round_up,
)
from .registers import (
    LANE_BYTES,
    TILE_ROWS,
    addresses_in,
    bytes_of,
    helper,
    next_number,
    number_at,
    write_number,
    zeros,
)
from .tile import ADD, PART_GAP, loops, pack_images, put, sum_of_products, unpack

CHUNK_TERMS = 384  # products of a result that are added up in registers at a time
RESULT_BYTES = 256 * 2**10  # largest size of the results of a task, which each chunk adds to
PARTS_BYTES = 1536 * 2**10  # largest size of the results of all parts of a sum together


# --- what the kernel is given --------------------------------------------------------------------
class FewAddresses(NamedTuple):
    """The addresses of the first elements of the arrays, and of the memory for a sum in parts."""

    a: int
    b: int
    out: int
    kept: int


class FewOutSteps(NamedTuple):
    """Bytes from an element of dw to the next one along each axis, and to the next channel group."""

    h: int
    w: int
    channel: int
    lane: int
    channel_group: int


class FewSizes(NamedTuple):
    """The other arguments of `few`: channels are those of a, lanes those of b."""

    table: int
    groups: int
    blocks: int
    parts: int
    result_bytes: int
    images: int
    fh: int
    fw: int
    channels: int
    lanes: int
    block_lanes: int
    chunk_terms: int
    a: Steps
    b: Steps
    out: FewOutSteps


# --- the sizes -----------------------------------------------------------------------------------


def parts_of(dw_bytes: int, most: int) -> int:
    """Return in how many parts to cut the sum: at most `most`.

    The number depends on the shape alone, so that any number of threads gives the same bits.
    """
    return max(part for part in (1, 2, 4) if part == 1 or (part * dw_bytes <= PARTS_BYTES and part <= most))


def sizes_of(way: str, shape: ConvShape, a: Strides, b: Strides, dw: Strides, itemsize: int, threads: int) -> Sizes:
    """Return the sizes for `few`.

    One of x and dy has few channels: it is a, and the other is b. `way` is the operator whose plan is used: "conv2d"
    if a is x, "conv2d_input" if a is dy. The arrays are given by their strides.
    """
    groups = plan(way, shape)
    table = group_table(groups, [0] * len(groups.groups), np.int64)
    wide = LANE_BYTES // itemsize
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    rows, lanes = (ic, oc) if way == "conv2d" else (oc, ic)
    columns, (row, lane) = (shape.ow, (dw[3], dw[0])) if way == "conv2d" else (shape.iw, (dw[0], dw[3]))
    lane_bytes = shape.fh * shape.fw * rows * itemsize  # results of one lane
    blocks = [
        block
        for block in range(wide, min(8 * wide, round_up(lanes, wide)) + 1, wide)
        if block == wide or block * lane_bytes <= RESULT_BYTES
    ]

    parts = parts_of(shape.groups * lane_bytes * round_up(lanes, wide), shape.n)

    def busiest(block: int) -> tuple[int, int]:
        """Lanes of the busiest thread; between equals, the larger block comes first."""
        return ceil_div(shape.groups * ceil_div(lanes, block) * parts, threads) * block, -block

    block = min(blocks, key=busiest)
    result_bytes = round_up(block * lane_bytes, 64)
    sizes = FewSizes(
        table=table.ctypes.data,
        groups=len(groups.groups),
        blocks=shape.groups * ceil_div(lanes, block),
        parts=parts,
        result_bytes=result_bytes,
        images=shape.n,
        fh=shape.fh,
        fw=shape.fw,
        channels=rows,
        lanes=lanes,
        block_lanes=block,
        chunk_terms=CHUNK_TERMS,
        a=Steps(*a),
        b=Steps(*b),
        out=FewOutSteps(h=dw[1], w=dw[2], channel=row, lane=lane, channel_group=oc * dw[0]),
    )
    packed_bytes = max(CHUNK_TERMS, columns) * block * itemsize + block // wide * PART_GAP
    scratch = SCRATCH_HEAD + packed_bytes + (result_bytes if parts == 1 else 0)
    return Sizes(sizes, arguments_of(FewAddresses, sizes), scratch, table)


# --- the kernel ----------------------------------------------------------------------------------
@helper
def place_taps(taps_w, first, rows, channels, a_steps, out, out_steps, a_rows, out_rows):
    """Write the addresses of a tile's rows, which are (tap of h, tap of w, channel) in a and in the results.

    Rows after the last one repeat it.
    """
    channel, tap_h, tap_w = first % channels, first // channels // taps_w, first // channels % taps_w
    for r in range(TILE_ROWS):
        a_rows[r] = tap_h * a_steps[0] + tap_w * a_steps[1] + channel * a_steps[2]
        out_rows[r] = out + tap_h * out_steps[0] + tap_w * out_steps[1] + channel * out_steps[2]
        if first + r < rows - 1:
            channel += 1
            if channel == channels:
                channel, tap_w = 0, tap_w + 1
                if tap_w == taps_w:
                    tap_h, tap_w = tap_h + 1, 0


def few(zero, arguments):
    """Kernel: do tasks of conv2d_weight until none is left, where one of x and dy (a) has few channels.

    A task is a block of channels of the other array (b) and, if the sum is cut into parts, a part of the images.
    The kernel reads a in place, one number at a time. It reads b in place too if the channels of b are neighbours
    in memory and fill whole rows of a tile; otherwise it packs b. The results stay in memory of their own until they
    are complete.
    """
    size = bytes_of(zero)
    addresses, sizes = own_arguments(arguments, FewAddresses, FewSizes)
    blocks, parts, result_bytes, fw = sizes.blocks, sizes.parts, sizes.result_bytes, sizes.fw
    images, channels, lanes, block = sizes.images, sizes.channels, sizes.lanes, sizes.block_lanes
    a_steps, b_steps, out_steps = sizes.a, sizes.b, sizes.out
    a_rows, out_rows, tile_rows, results = own_scratch(arguments)
    packed = results + (result_bytes if parts == 1 else 0)
    width, lane_blocks = LANE_BYTES // size, ceil_div(lanes, block)
    row_step = block * size  # bytes of a row of results, which are (fh, fw, channel, lane)
    tap_h, tap_w = fw * channels * row_step, channels * row_step
    while True:
        # 1. a task: some channels of b and a part of the images; its results begin as 0
        task = next_number(arguments, NEXT_TASK)
        if task >= blocks * parts:
            return
        g, lane0 = task // parts // lane_blocks, task // parts % lane_blocks * block
        first_image, last_image = task % parts * images // parts, (task % parts + 1) * images // parts
        if parts > 1:
            results = addresses.kept + round_up(8 * blocks, 64) + task * result_bytes
        task_lanes = min(block, lanes - lane0)
        for k in range(sizes.fh * fw * channels * block):
            write_number(zero, results + k * size)
        for group in range(sizes.groups):
            line = record(sizes.table, group, TableRow)
            h, w = line.h, line.w
            rows = h.terms * w.terms * channels
            if rows == 0:
                continue
            # Steps in a and b from one position of the group to the next, and in a and the results from tap to tap.
            a_by = a_steps.n, h.third_fixed * a_steps.h, w.third_fixed * a_steps.w
            b_by = b_steps.n, h.fixed_step * b_steps.h, w.fixed_step * b_steps.w
            a_taps = h.third_term * a_steps.h, w.third_term * a_steps.w, a_steps.c
            taps = h.summed_step * tap_h, w.summed_step * tap_w, row_step
            a_group = addresses.a + h.third * a_steps.h + w.third * a_steps.w + g * channels * a_steps.c
            b_group = addresses.b + h.fixed * b_steps.h + w.fixed * b_steps.w + (g * lanes + lane0) * b_steps.c
            at = results + h.summed * tap_h + w.summed * tap_w
            chunk_images = even_part(last_image - first_image, sizes.chunk_terms // (h.count * w.count))
            chunk_rows = even_part(h.count, sizes.chunk_terms // w.count)
            for n0 in range(first_image, last_image, chunk_images):
                n = min(chunk_images, last_image - n0)
                for h0 in range(0, h.count, chunk_rows):
                    terms = n, min(chunk_rows, h.count - h0), w.count
                    # 2. a chunk of b, packed unless its lanes are neighbours already
                    a_chunk, b_chunk = a_group + n0 * a_by[0] + h0 * a_by[1], b_group + n0 * b_by[0] + h0 * b_by[1]
                    b_terms, part = b_by, int(LANE_BYTES)
                    if b_steps.c != size or task_lanes % width != 0:
                        image = terms[1] * terms[2] * LANE_BYTES
                        steps = b_by[0], b_by[1], b_by[2], b_steps.c
                        counts = terms[0], terms[1], terms[2], task_lanes
                        pack_images(zero, packed, (image, LANE_BYTES), b_chunk, steps, counts, width)
                        b_chunk, b_terms = packed, (image, terms[2] * LANE_BYTES, int(LANE_BYTES))
                        part = n * image + PART_GAP
                    # 3. its terms
                    counts, a_loops, b_loops = loops(terms, a_by, b_terms)
                    for lane in range(0, task_lanes, width):
                        b_lanes = b_chunk + lane // width * part
                        for first in range(0, rows, TILE_ROWS):
                            place_taps(w.terms, first, rows, channels, a_taps, at + lane * size, taps, a_rows, out_rows)
                            tile = sum_of_products(
                                zeros(zero), addresses_in(a_rows), a_chunk, b_lanes, counts, a_loops, b_loops
                            )
                            put(tile, zero, out_rows, int(TILE_ROWS), width, size, bool(ADD), tile_rows)
        # 4. the results to dw, by the thread that finishes the last part of a block
        if parts > 1:
            if next_number(addresses.kept, task // parts) < parts - 1:
                continue
            results -= task % parts * result_bytes
            for part in range(1, parts):
                for k in range(0, result_bytes, size):
                    there = number_at(zero, results + k) + number_at(zero, results + part * result_bytes + k)
                    write_number(there, results + k)
        at = addresses.out + g * out_steps.channel_group + lane0 * out_steps.lane
        for tap in range(sizes.fh * fw):
            place = at + tap // fw * out_steps.h + tap % fw * out_steps.w
            there = results + tap * channels * row_step
            unpack(zero, place, out_steps.channel, out_steps.lane, there, row_step, channels, task_lanes)
