"""The inner loop, and the ways of a tile's numbers from memory and back.

Everything rests on `sum_of_products`::

    tile[r, l] += A[row r, k] * B[k, lane l]        for the k of three nested loops

TILE_ROWS x lanes results stay in registers while k runs over the terms of a group of the plan. All three
loops step evenly through A and B, because every run of the plan is affine. What A and B are:

=================  ==========================  =============================  ======================
operator           rows, from A                lanes, from B                  the three loops
=================  ==========================  =============================  ======================
``conv2d``         positions, from x           output channels, from w        fh, fw, ic
``conv2d_input``   positions, from dy          input channels, from w         fh, fw, oc
``conv2d_weight``  output channels, from dy    input channels, from x         n, oh, ow
=================  ==========================  =============================  ======================

The filter gradient of few channels has another form, in `weight`.
"""

from __future__ import annotations

from numba import njit

from .registers import (
    LANE_BYTES,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    add_memory,
    add_products,
    add_products_along,
    addresses_in,
    bytes_of,
    copy_rows,
    copy_transposed,
    copy_vector,
    fetch,
    number_at,
    store,
    write_number,
)


# --- the inner loop ------------------------------------------------------------------------------
@njit(inline="always")
def sum_of_products(tile, rows, a, b, counts, a_steps, b_steps):
    """tile + sum of A[row, k] * B[k, lane] over three nested loops; the last is the innermost."""
    for i in range(counts[0]):
        for j in range(counts[1]):
            a_first = a + i * a_steps[0] + j * a_steps[1]
            b_first = b + i * b_steps[0] + j * b_steps[1]
            for k in range(counts[2]):
                tile = add_products(tile, rows, a_first + k * a_steps[2], b_first + k * b_steps[2])
    return tile


@njit(inline="always")
def sum_and_fetch(tile, rows, a, b, counts, a_steps, b_steps, ahead, first, last, ahead_steps, across, lane_step):
    """`sum_of_products`, which on the way fetches lanes of later terms: those from `first` to before `last` of a row.

    Memory is as slow as the sum itself, so they must not wait for each other. A line has all lanes of a term or,
    where `across` is lanes - 1 and not 0, one lane of as many terms: then it is theirs in turn.
    """
    for i in range(counts[0]):
        for j in range(counts[1]):
            there = ahead + i * ahead_steps[0] + j * ahead_steps[1]
            for k in range(first, last):
                fetch(there + (k & ~across) * ahead_steps[2] + (k & across) * lane_step)
            a_first = a + i * a_steps[0] + j * a_steps[1]
            b_first = b + i * b_steps[0] + j * b_steps[1]
            for k in range(counts[2]):
                tile = add_products(tile, rows, a_first + k * a_steps[2], b_first + k * b_steps[2])
    return tile


@njit
def sum_of_products_along(tile, rows, a, b, second, counts, a_steps, b_steps):
    """The same for two sums a row, with neighbouring terms in the lanes; `second` is the way from B[0] to B[1]."""
    for i in range(counts[0]):
        for j in range(counts[1]):
            a_first = a + i * a_steps[0] + j * a_steps[1]
            b_first = b + i * b_steps[0] + j * b_steps[1]
            for k in range(0, counts[2] * b_steps[2], VECTOR_BYTES):
                tile = add_products_along(tile, rows, a_first + k, b_first + k, b_first + second + k)
    return tile


# --- memory --------------------------------------------------------------------------------------
@njit
def copy_part(zero, target, source, count):
    """Copy `count` numbers, which are a row of lanes of a tile or one number for each of its rows."""
    if count == TILE_ROWS:
        copy_rows(zero, target, source)
    else:
        for v in range(TILE_VECTORS):
            copy_vector(zero, target + v * VECTOR_BYTES, source + v * VECTOR_BYTES)


@njit
def pack(zero, target, target_step, source, row_step, lane_step, rows, lanes, padded):
    """target[r, l] = source[r, l], of any steps; lanes from `lanes` to `padded` become 0."""
    size = bytes_of(zero)
    width = VECTOR_BYTES // size
    whole = lanes // width * width
    done = 0
    if lane_step == size:
        for r in range(rows):
            for lane in range(0, whole, width):
                copy_vector(zero, target + r * target_step + lane * size, source + r * row_step + lane * size)
        done = whole
    elif row_step == size:
        done_rows = rows // width * width
        for lane in range(0, whole, width):
            for r in range(0, done_rows, width):
                copy_transposed(
                    zero, target + r * target_step + lane * size, target_step,
                    source + r * size + lane * lane_step, lane_step,
                )  # fmt: skip
            for r in range(done_rows, rows):
                for further in range(lane, lane + width):
                    value = number_at(zero, source + r * size + further * lane_step)
                    write_number(value, target + r * target_step + further * size)
        done = whole
    for r in range(rows):
        for lane in range(done, lanes):
            value = number_at(zero, source + r * row_step + lane * lane_step)
            write_number(value, target + r * target_step + lane * size)
        for lane in range(lanes, padded):
            write_number(zero, target + r * target_step + lane * size)


@njit
def put(tile, zero, out_rows, rows, lanes, lane_step, add, tile_rows):
    """Write the first rows and lanes of a tile, or add them to what is there."""
    size = bytes_of(zero)
    if lane_step == size and lanes * size == LANE_BYTES:  # rows past the last repeat it: written twice, the same
        there = addresses_in(out_rows)
        if add:
            tile = add_memory(tile, there)
        store(tile, there)
        return
    store(tile, addresses_in(tile_rows))
    for r in range(rows):
        for lane in range(lanes):
            at = out_rows[r] + lane * lane_step
            value = number_at(zero, tile_rows[r] + lane * size)
            if add:
                value += number_at(zero, at)
            write_number(value, at)


@njit
def put_sums(tile, zero, out_rows, rows, lanes, lane_step, add, tile_rows):
    """Add up the lanes of `sum_of_products_along`, and write the sums, or add them to what is there."""
    store(tile, addresses_in(tile_rows))
    for r in range(rows):
        for v in range(lanes):
            value = zero
            for k in range(0, VECTOR_BYTES, bytes_of(zero)):
                value += number_at(zero, tile_rows[r] + v * VECTOR_BYTES + k)
            at = out_rows[r] + v * lane_step
            if add:
                value += number_at(zero, at)
            write_number(value, at)
