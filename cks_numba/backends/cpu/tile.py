"""The inner loop, and the copies between a tile and memory.

Everything rests on `sum_of_products`::

    tile[r, l] += A[row r, k] * B[k, lane l]        for the k of four nested loops

The TILE_ROWS x lanes results of a tile stay in registers while k runs over the terms of a group of the plan. All
loops step evenly through A and B, because every run of the plan is affine. A and B are:

=================  ==========================  =============================  ======================
operator           rows, from A                lanes, from B                  the four loops
=================  ==========================  =============================  ======================
``conv2d``         positions, from x           output channels, from w        fd, fh, fw, ic
``conv2d_input``   positions, from dy          input channels, from w         fd, fh, fw, oc
``conv2d_weight``  output channels, from dy    input channels, from x         n, od, oh, ow
=================  ==========================  =============================  ======================

A layer of two axes has one depth, so that loop runs once. `few` has another form of conv2d_weight, for few channels on
one side.
"""

from __future__ import annotations

from typing import Any

from ...buffers import LINE_BYTES
from .compiled import ceil_div
from .registers import (
    LANE_BYTES,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    add_memory,
    add_products,
    addresses_in,
    bytes_of,
    copy_rows,
    copy_some_columns,
    copy_transposed,
    copy_vector,
    fetch,
    fill_vector,
    helper,
    number_at,
    store,
    store_columns,
    store_sums,
    stream_vector,
    write_number,
)

SET_BYTES = 2048  # Lines a multiple of this apart share one of two sets of the first-level cache.
# Bytes between the parts of packed images. Without a gap all parts would begin in the same sets of the cache.
PART_GAP = LINE_BYTES
AHEAD = 16  # Number of pixels from the one that is being packed to the one that is fetched into the cache.
WRITE, ADD = False, True  # values of the parameter `add` of `put`
FEWEST_TAPS = 4  # Filters of fewer taps are not brought into another order in vectors.


# --- the inner loop ------------------------------------------------------------------------------
def plain_sums_of(add):
    """Return a helper that adds A[row, k] * B[k, lane] to a tile, for the k of four nested loops.

    `add` is an intrinsic for the products of one k. The two outer loops are written as one: around a fourth loop, LLVM
    would not keep the tile in registers.
    """

    @helper(inline="always")
    def sum_of_products(tile, rows, a, b, counts, a_steps, b_steps):
        i, a_jump, b_jump = 0, a_steps[0] - counts[1] * a_steps[1], b_steps[0] - counts[1] * b_steps[1]
        for _ in range(counts[0] * counts[1]):
            for j in range(counts[2]):
                a_first, b_first = a + j * a_steps[2], b + j * b_steps[2]
                for k in range(counts[3]):
                    tile = add(tile, rows, a_first + k * a_steps[3], b_first + k * b_steps[3])
            i, a, b = i + 1, a + a_steps[1], b + b_steps[1]
            if i == counts[1]:
                i, a, b = 0, a + a_jump, b + b_jump
        return tile

    return sum_of_products


sum_of_products: Any = plain_sums_of(add_products)


def sums_of(add):
    """Return the same for an intrinsic that is given `columns` too."""

    @helper
    def sum_of_products(tile, rows, a, b, columns, counts, a_steps, b_steps):
        i, a_jump, b_jump = 0, a_steps[0] - counts[1] * a_steps[1], b_steps[0] - counts[1] * b_steps[1]
        for _ in range(counts[0] * counts[1]):
            for j in range(counts[2]):
                a_first, b_first = a + j * a_steps[2], b + j * b_steps[2]
                for k in range(counts[3]):
                    tile = add(tile, rows, a_first + k * a_steps[3], b_first + k * b_steps[3], columns)
            i, a, b = i + 1, a + a_steps[1], b + b_steps[1]
            if i == counts[1]:
                i, a, b = 0, a + a_jump, b + b_jump
        return tile

    return sum_of_products


@helper
def loops(counts, a_steps, b_steps):
    """Four loops with the same terms: the longest is the innermost.

    Loops whose steps follow each other without a gap in both A and B are joined.
    """
    n, d, h, w = counts
    if a_steps[2] == w * a_steps[3] and b_steps[2] == w * b_steps[3]:
        h, w = 1, h * w
    if h == 1 and a_steps[1] == w * a_steps[3] and b_steps[1] == w * b_steps[3]:
        d, w = 1, d * w
    if h == d == 1 and a_steps[0] == w * a_steps[3] and b_steps[0] == w * b_steps[3]:
        n, w = 1, n * w
    if n >= d and n >= h and n > w:
        x, y, z, last = 1, 3, 2, 0
    elif d >= h and d > w:
        x, y, z, last = 0, 3, 2, 1
    elif h > w:
        x, y, z, last = 0, 1, 3, 2
    else:
        x, y, z, last = 0, 1, 2, 3
    counts = (n, d, h, w)
    return (
        (counts[x], counts[y], counts[z], counts[last]),
        (a_steps[x], a_steps[y], a_steps[z], a_steps[last]),
        (b_steps[x], b_steps[y], b_steps[z], b_steps[last]),
    )


# --- memory --------------------------------------------------------------------------------------
@helper
def copy_part(zero, target, source, count):
    """Copy `count` numbers: as many as a tile has rows, as a vector has lanes, or as a tile has."""
    if count == TILE_ROWS:
        copy_rows(zero, target, source)
    elif count * bytes_of(zero) == VECTOR_BYTES:
        copy_vector(zero, target, source)
    else:
        for v in range(TILE_VECTORS):
            copy_vector(zero, target + v * VECTOR_BYTES, source + v * VECTOR_BYTES)


@helper
def stream_numbers(zero, target, source, count):
    """Copy neighbouring numbers past the caches, whole lines of them."""
    size, done = bytes_of(zero), 0
    while done < count and (target + done * size) % LINE_BYTES:
        write_number(number_at(zero, source + done * size), target + done * size)
        done += 1
    together = max(LINE_BYTES, VECTOR_BYTES) // size
    while count - done >= together:
        for k in range(0, together * size, VECTOR_BYTES):
            stream_vector(zero, target + done * size + k, source + done * size + k)
        done += together
    while done < count:
        write_number(number_at(zero, source + done * size), target + done * size)
        done += 1


@helper
def copy_numbers(zero, target, target_row, target_lane, source, source_row, source_lane, rows, lanes):
    """target[r, l] = source[r, l], number by number; neighbours of the source, which share a cache line, in a row."""
    if source_lane < source_row:
        rows, source_row, target_row, lanes, source_lane, target_lane = (
            lanes, source_lane, target_lane, rows, source_row, target_row,
        )  # fmt: skip
    together = LINE_BYTES // bytes_of(zero)
    for first in range(0, rows, together):
        for lane in range(lanes):
            there, at = target + lane * target_lane, source + lane * source_lane
            for r in range(first, min(rows, first + together)):
                write_number(number_at(zero, at + r * source_row), there + r * target_row)


@helper
def pack(zero, target, target_step, source, row_step, lane_step, rows, lanes, padded):
    """target[r, l] = source[r, l] for a source with any steps; lanes from `lanes` to `padded` become 0."""
    size = bytes_of(zero)
    width = VECTOR_BYTES // size
    whole = lanes // width * width
    done = 0
    if lane_step == size:
        for r in range(rows):
            for lane in range(0, whole, width):
                copy_vector(zero, target + r * target_step + lane * size, source + r * row_step + lane * size)
        done = whole
    elif row_step == size and rows >= width:
        for lane in range(0, whole, width):
            r, at = 0, source + lane * lane_step
            while True:  # Copy squares; the last one may overlap the one before.
                there = at + r * size
                copy_transposed(zero, target + r * target_step + lane * size, target_step, there, lane_step)
                if r == rows - width:
                    break
                # Lanes in the same cache set evict each other, so each line should be read only once.
                before = there % VECTOR_BYTES if lane_step % SET_BYTES == 0 else 0
                r = min(r + width - before // size, rows - width)
        done = whole
    filled = lanes < padded and (padded - done) % width == 0
    for r in range(rows if lanes < padded else 0):
        there = target + r * target_step
        for lane in range(done, padded if filled else done, width):
            fill_vector(zero, there + lane * size)
        for lane in range(padded if filled else lanes, padded):
            write_number(zero, there + lane * size)
    if lane_step == size and lanes - done >= TILE_ROWS:
        for r in range(rows):
            copy_rows(zero, target + r * target_step + done * size, source + r * row_step + done * size)
        done += TILE_ROWS
    left = source + done * lane_step
    copy_numbers(zero, target + done * size, target_step, size, left, row_step, lane_step, rows, lanes - done)


@helper
def pack_images(zero, target, target_steps, source, steps, counts, together):
    """Copy (n, d, h, w, c) with any steps to (c // together, n, d, h, w, c % together); zeros fill the last part.

    `target_steps` are the steps from image to image and from pixel to pixel; either may be the smaller one.
    """
    images, depths, rows, columns, channels = counts
    size = bytes_of(zero)
    part_step = images * depths * rows * columns * together * size + PART_GAP
    by_image, by_pixel = target_steps
    if rows == 1 or steps[2] == columns * steps[3]:  # rows without gaps, depths and perhaps images are one long row
        columns, rows = rows * columns, 1
        if depths == 1 or steps[1] == columns * steps[3]:
            columns, depths = depths * columns, 1
            if steps[0] == columns * steps[3] and by_image == columns * by_pixel:
                columns, images = images * columns, 1
    whole = channels // together if steps[4] == size else 0
    for n in range(images):
        for row in range(depths * rows):
            at = source + n * steps[0] + row // rows * steps[1] + row % rows * steps[2]
            there = target + n * by_image + row * columns * by_pixel
            for w in range(columns):  # in the order of memory, which the CPU prefetches best
                for part in range(whole):
                    for line in range(0, together * size, LINE_BYTES):
                        fetch(at + (w + AHEAD) * steps[3] + part * together * size + line)
                    copy_part(
                        zero,
                        there + part * part_step + w * by_pixel,
                        at + w * steps[3] + part * together * size,
                        together,
                    )
            for part in range(whole, ceil_div(channels, together)):
                pack(
                    zero, there + part * part_step, by_pixel, at + part * together * steps[4], steps[3], steps[4],
                    columns, min(together, channels - part * together), together,
                )  # fmt: skip


@helper
def unpack(zero, target, row_step, lane_step, source, source_step, rows, lanes):
    """target[r, l] = source[r, l] for a target with any steps."""
    size = bytes_of(zero)
    if lane_step == size:
        pack(zero, target, row_step, source, source_step, size, rows, lanes, lanes)
        return
    if row_step == size:
        pack(zero, target, lane_step, source, size, source_step, lanes, rows, rows)
        return
    copy_numbers(zero, target, row_step, lane_step, source, source_step, size, rows, lanes)


copies_of_eight: Any = copy_some_columns(8)
copies_of_four: Any = copy_some_columns(4)
eight_back: Any = copy_some_columns(8, back=True)
four_back: Any = copy_some_columns(4, back=True)


@helper
def part_taps(zero, target, tap_step, source, taps):
    """target[tap, c] = source[c, tap] for as many channels c as a vector has lanes, and FEWEST_TAPS or more.

    The channels of the source follow each other without a gap.
    """
    size, t = bytes_of(zero), 0
    side = min(8 if taps >= 8 else 4, VECTOR_BYTES // size)
    while True:  # The last columns may overlap those before.
        if taps >= 8:
            copies_of_eight(zero, target + t * tap_step, tap_step, source + t * size, taps * size)
        else:
            copies_of_four(zero, target + t * tap_step, tap_step, source + t * size, taps * size)
        if t + side >= taps:
            return
        t = min(t + side, taps - side)


@helper
def join_taps(zero, target, source, tap_step, taps):
    """target[c, tap] = source[tap, c], the reverse of `part_taps`."""
    size, t = bytes_of(zero), 0
    side = min(8 if taps >= 8 else 4, VECTOR_BYTES // size)
    while True:
        if taps >= 8:
            eight_back(zero, target + t * size, taps * size, source + t * tap_step, tap_step)
        else:
            four_back(zero, target + t * size, taps * size, source + t * tap_step, tap_step)
        if t + side >= taps:
            return
        t = min(t + side, taps - side)


@helper
def side_by_side(rows, size):
    """Whether the addresses of a tile's rows are those of neighbouring numbers."""
    found = True
    for r in range(1, TILE_ROWS):
        found &= rows[r] == rows[0] + r * size
    return found


@helper
def add_parts(zero, results, part_bytes, parts):
    """Add the results of all parts of a sum to those of the first one, in order."""
    for part in range(1, parts):
        for k in range(0, part_bytes, bytes_of(zero)):
            sum_so_far = number_at(zero, results + k) + number_at(zero, results + part * part_bytes + k)
            write_number(sum_so_far, results + k)


@helper
def put(tile, zero, out_rows, rows, lanes, lane_step, add, tile_rows):
    """Write the first rows and lanes of a tile to memory, or add them to the numbers there."""
    size = bytes_of(zero)
    if lane_step == size and lanes * size == LANE_BYTES:  # further rows repeat the last one, or are never read
        there = addresses_in(out_rows)
        if add:
            tile = add_memory(tile, there)
        store(tile, there)
        return
    if lanes * size == LANE_BYTES and not add and side_by_side(out_rows, size):
        store_columns(tile, out_rows[0], lane_step)
        return
    store(tile, addresses_in(tile_rows))
    for lane in range(lanes):
        for r in range(rows):
            at = out_rows[r] + lane * lane_step
            value = number_at(zero, tile_rows[r] + lane * size)
            if add:
                value += number_at(zero, at)
            write_number(value, at)


@helper
def put_sums(tile, zero, out_rows, rows, lanes, lane_step, tile_rows, columns):
    """Add up the lanes of a tile of `products_along`, with `columns` sums in a row, and write them to memory."""
    store_sums(tile, tile_rows[0])
    for r in range(rows):
        for v in range(lanes):
            value = number_at(zero, tile_rows[0] + (r * columns + v) * bytes_of(zero))
            write_number(value, out_rows[r] + v * lane_step)
