"""conv2d and conv2d_input on the CPU: rows of a tile are positions, its lanes output channels, from packed filters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numba import carray, njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from ...geometry import Affine, ConvShape, Group, Run, plan
from ...tables import (
    COLUMNS,
    COUNT,
    FIRST_BLOCK,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    SUMMED_STEP,
    TERMS,
    THIRD,
    THIRD_FIXED,
    THIRD_TERM,
    group_table,
)
from .compiled import (
    NEXT_TASK,
    OWN,
    SCRATCH_HEAD,
    Array,
    arguments_of,
    ceil_div,
    even_part,
    number_of_threads,
    own_scratch,
    start,
    table_at,
)
from .registers import (
    LANE_BYTES,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    addresses_in,
    bytes_of,
    integers_at,
    next_number,
    zeros,
)
from .tile import copy_part, pack, put, put_sums, sum_of_products, sum_of_products_along

Strides = tuple[int, ...]

# Sizes are for a core with 32 KiB of L1 and 512 KiB of L2 cache, which is little for a CPU of today.
PANEL_BYTES = {"conv2d": 256 * 2**10, "conv2d_input": 128 * 2**10}  # of packed filters of a panel
PANELS_BYTES = 320 * 2**10  # of all panels of a task
NARROW = 4  # output channels, at most, for which lanes hold terms
COPY_BYTES = 4 * 2**20  # of images copied to channels last at a time
ARGUMENTS, COPY_ARGUMENTS = OWN + 30, OWN + 10


# --- the sizes -----------------------------------------------------------------------------------
def run(operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator: all at once, or where channels are not last, parts of the images that are copied first."""
    threads = number_of_threads(operator, shape)
    if source.strides[3] == source.itemsize:
        sizes, scratch, _, _ = sizes_of(
            operator, shape, shape.n, (0, out.shape[1]), source.strides, w.strides, out.strides, threads
        )
        start(gather, out.dtype, threads, sizes, (source.ctypes.data, w.ctypes.data, out.ctypes.data), scratch)
        return
    images, rows = _copied_at_once(source, out)
    for n in range(0, shape.n, images):
        for row in range(0, out.shape[1], rows):
            _run_copied(operator, shape, source[n : n + images], w, out[n : n + images], row, rows, threads)


def _copied_at_once(source: Array, out: Array) -> tuple[int, int]:
    """How many images are copied to channels last at a time, and for how many rows of the result."""
    image_bytes = source[0].size * source.itemsize
    if image_bytes <= COPY_BYTES:
        return COPY_BYTES // image_bytes, out.shape[1]
    return 1, max(1, COPY_BYTES * out.shape[1] // image_bytes)


def _run_copied(
    operator: str, shape: ConvShape, source: Array, w: Array, out: Array, row: int, rows: int, threads: int
) -> None:
    """Copy what some rows of the result of some images need, and compute these rows."""
    n, _, columns, channels = source.shape
    band = (row, min(row + rows, out.shape[1]))
    steps = (columns * channels * source.itemsize, channels * source.itemsize, source.itemsize)
    first, last = sizes_of(operator, shape, n, band, (0, *steps), w.strides, out.strides, threads)[3]
    buffer = np.empty((n, last - first, columns, channels), source.dtype)
    part = source[:, first:last]
    copy = np.array([0] * (OWN + 2) + [*part.shape, *part.strides], np.int64)
    start(to_channels_last, out.dtype, threads, copy, (part.ctypes.data, buffer.ctypes.data), 0)
    image_step = (last - first) * steps[0]
    sizes, scratch, _, _ = sizes_of(operator, shape, n, band, (image_step, *steps), w.strides, out.strides, threads)
    addresses = buffer.ctypes.data - first * steps[0], w.ctypes.data, out.ctypes.data
    start(gather, out.dtype, threads, sizes, addresses, scratch)


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
) -> tuple[Array, int, Array, tuple[int, int]]:
    """What depends on sizes alone, for the results in a band of rows.

    Arguments of ``gather`` but for the addresses, bytes of scratch memory, the table that the arguments
    refer to, and the rows of the source that are needed.
    """
    everything = plan(operator, shape)
    fixed, third = ("o", "i") if operator == "conv2d" else ("i", "o")
    runs = {group.h: _within(group.h, getattr(group.h, fixed), band) for group in everything.groups}
    groups = replace(everything, groups=tuple(Group(runs[h], w) for h, w in everything.groups if runs[h].positions))
    blocks = [ceil_div(images * group.positions, TILE_ROWS) for group in groups.groups]
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    lanes, terms = (oc, ic) if operator == "conv2d" else (ic, oc)
    lane_step, term_step = (w[0], w[3]) if operator == "conv2d" else (w[3], w[0])
    (fh0, fh1), (fw0, fw1) = (_reach((group[k] for group in groups.groups), "f") for k in (0, 1))
    taps = (fh1 - fh0) * (fw1 - fw0)
    column_bytes = taps * terms * source[3]  # of all filters of one lane
    narrow = lanes <= NARROW and terms * source[3] % VECTOR_BYTES == 0 and lanes * column_bytes <= PANELS_BYTES
    term_bytes = max(1, taps) * LANE_BYTES  # of one term of a panel
    panels = ceil_div(lanes * source[3], LANE_BYTES)
    chunk = terms if narrow else even_part(terms, PANEL_BYTES[operator] // term_bytes)
    together = even_part(panels, PANELS_BYTES // (chunk * term_bytes))
    tiles = sum(blocks)
    blocks_wanted = ceil_div(4 * threads, ceil_div(panels, together) * shape.groups)
    tiles_together = min(64, max(8, ceil_div(tiles, blocks_wanted)))
    table = group_table(groups, blocks, np.int64)
    arguments = arguments_of(
        table,
        (images, shape.groups, terms, lanes, together, tiles_together, chunk),
        (fh0, fw0, fh1 - fh0, fw1 - fw0),
        source,
        out,
        (lane_step, term_step, w[1], w[2], oc * w[0]),
        (int(narrow),),
    )
    packed_bytes = lanes * column_bytes if narrow else together * chunk * term_bytes
    return arguments, SCRATCH_HEAD + packed_bytes, table, _reach((run for run, _ in groups.groups), third)


def _within(run: Run, fixed: Affine, band: tuple[int, int]) -> Run:
    """The part of a run whose fixed index lies in a band."""
    first, last = (min(max(0, ceil_div(end - fixed.base, fixed.fixed or 1)), run.positions) for end in band)
    return run.part(first, last)


def _reach(runs: Iterable[Run], index: str) -> tuple[int, int]:
    """First and past-the-last "i", "f" or "o" that any run uses."""
    ends = [
        getattr(run, index).at(k, t)
        for run in runs
        if run.terms
        for k in (0, run.positions - 1)
        for t in (0, run.terms - 1)
    ]
    return (min(ends), max(ends) + 1) if ends else (0, 0)


# --- the kernels ---------------------------------------------------------------------------------
@njit
def place_rows(h, w, first, images, source_steps, out_steps, source_rows, out_rows):
    """Offsets of the tile's rows, which are (n, kh, kw) of a group; returns how many there are.

    Rows past the last repeat it.
    """
    per_image = h[COUNT] * w[COUNT]
    n, k = first // per_image, first % per_image
    kh, kw = k // w[COUNT], k % w[COUNT]
    count = min(TILE_ROWS, images * per_image - first)
    source_h, source_w = h[THIRD_FIXED] * source_steps[1], w[THIRD_FIXED] * source_steps[2]
    out_h, out_w = h[FIXED_STEP] * out_steps[1], w[FIXED_STEP] * out_steps[2]
    for r in range(TILE_ROWS):
        source_rows[r] = n * source_steps[0] + kh * source_h + kw * source_w
        out_rows[r] = n * out_steps[0] + kh * out_h + kw * out_w
        if r < count - 1:
            kw += 1
            if kw == w[COUNT]:
                kw, kh = 0, kh + 1
                if kh == h[COUNT]:
                    kh, n = 0, n + 1
    return count


@njit
def pack_columns(zero, panel, filters, w_steps, taps, terms, lanes):
    """Copy filters to (lane, fh, fw, term): the form for `sum_of_products_along`."""
    w_lane, w_term, w_fh, w_fw, _ = w_steps
    first_fh, first_fw, fhs, fws = taps
    step = terms * bytes_of(zero)
    for fh in range(first_fh, first_fh + fhs):
        for fw in range(first_fw, first_fw + fws):
            pack(zero, panel, fhs * fws * step, filters + fh * w_fh + fw * w_fw, w_lane, w_term, lanes, terms, terms)
            panel += step


@njit
def pack_panels(zero, panel, filters, w_steps, taps, terms, lanes):
    """Copy filters to (lane // width, fh, fw, term, lane % width); lanes past the last become 0."""
    w_lane, w_term, w_fh, w_fw, _ = w_steps
    first_fh, first_fw, fhs, fws = taps
    size = bytes_of(zero)
    width = LANE_BYTES // size
    whole = lanes // width if w_lane == size else 0
    for k in range(terms if whole else 0):  # in the order of memory, which is what a cache foresees
        for tap in range(fhs * fws):
            at = filters + k * w_term + (first_fh + tap // fws) * w_fh + (first_fw + tap % fws) * w_fw
            for part in range(whole):
                there = panel + ((part * fhs * fws + tap) * terms + k) * LANE_BYTES
                copy_part(zero, there, at + part * LANE_BYTES, width)
    panel += whole * fhs * fws * terms * LANE_BYTES
    for first_lane in range(whole * width, lanes, width):
        for fh in range(first_fh, first_fh + fhs):
            for fw in range(first_fw, first_fw + fws):
                at = filters + first_lane * w_lane + fh * w_fh + fw * w_fw
                pack(zero, panel, LANE_BYTES, at, w_term, w_lane, terms, min(width, lanes - first_lane), width)
                panel += terms * LANE_BYTES


def gather(zero, arguments):
    """Kernel: run conv2d or conv2d_input until no task is left.

    A task is a block of tiles and some panels, a panel being the filters of as many lanes as a tile has. The
    terms are cut into chunks, so that the panels of a chunk fit the cache. Where there are so few output
    channels that most lanes would be empty (`narrow`), the lanes hold terms of the sum instead.
    """
    size = bytes_of(zero)
    arguments = carray(integers_at(arguments), ARGUMENTS)
    source, filters, out, groups_at, groups = to_fixed_tuple(arguments[OWN : OWN + 5], 5)
    images, channel_groups, terms, lanes, together, tiles_together = to_fixed_tuple(arguments[OWN + 5 : OWN + 11], 6)
    chunk, narrow = arguments[OWN + 11], arguments[OWN + 29]
    first_fh, first_fw, fhs, fws = taps = to_fixed_tuple(arguments[OWN + 12 : OWN + 16], 4)
    source_steps, out_steps = (
        to_fixed_tuple(arguments[OWN + 16 : OWN + 20], 4),
        to_fixed_tuple(arguments[OWN + 20 : OWN + 24], 4),
    )
    w_steps = to_fixed_tuple(arguments[OWN + 24 : OWN + 29], 5)
    source_rows, out_rows, tile_rows, panel = own_scratch(arguments)
    packed = -1  # which panels and chunk it holds
    table = table_at(groups_at, groups)
    tiles = table[groups, FIRST_BLOCK]
    width = LANE_BYTES // size
    chunks, blocks = -(-terms // chunk), -(-tiles // tiles_together)
    lane_blocks = -(-lanes // (together * width))
    tasks = channel_groups * lane_blocks * blocks
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= tasks:
            return
        which, block = task // blocks, task % blocks
        g, first_lane = which // lane_blocks, which % lane_blocks * together * width
        last_lane = min(first_lane + together * width, lanes)
        for c in range(chunks):
            first_term = c * chunk
            count = min(chunk, terms - first_term)
            if packed != which * chunks + c:
                packed = which * chunks + c
                from_w = filters + g * w_steps[4] + first_lane * w_steps[0] + first_term * w_steps[1]
                if narrow:
                    pack_columns(zero, panel, from_w, w_steps, taps, count, last_lane - first_lane)
                else:
                    pack_panels(zero, panel, from_w, w_steps, taps, count, last_lane - first_lane)
            group = 0
            for tile_number in range(block * tiles_together, min(tiles, (block + 1) * tiles_together)):
                while table[group + 1, FIRST_BLOCK] <= tile_number:
                    group += 1
                h, w = table[group, ROWS:COLUMNS], table[group, COLUMNS:]
                first_row = (tile_number - table[group, FIRST_BLOCK]) * TILE_ROWS
                rows = place_rows(h, w, first_row, images, source_steps, out_steps, source_rows, out_rows)
                a = source + h[THIRD] * source_steps[1] + w[THIRD] * source_steps[2]
                a += (g * terms + first_term) * source_steps[3]
                unit = size if narrow else LANE_BYTES  # of packed filters, from one term to the next
                b = panel + ((h[SUMMED] - first_fh) * fws + w[SUMMED] - first_fw) * count * unit
                y = out + h[FIXED] * out_steps[1] + w[FIXED] * out_steps[2]
                y += (g * lanes + first_lane) * out_steps[3]
                for r in range(TILE_ROWS):
                    out_rows[r] += y
                a_h, a_w = h[THIRD_TERM] * source_steps[1], w[THIRD_TERM] * source_steps[2]
                b_h, b_w = h[SUMMED_STEP] * fws * count * unit, w[SUMMED_STEP] * count * unit
                w_terms, inner = w[TERMS], count
                if a_w == count * size and b_w == count * unit:  # neighbouring taps: one longer loop
                    w_terms, inner = min(w_terms, 1), w_terms * count
                column = fhs * fws * count * unit  # of one panel, or of one lane
                for lane in range(first_lane, last_lane, TILE_VECTORS if narrow else width):
                    if narrow:
                        here = min(TILE_VECTORS, last_lane - lane)
                        tile = sum_of_products_along(
                            zeros(zero), addresses_in(source_rows), a, b, (here - 1) * column,
                            (h[TERMS], w_terms, inner * size), (a_h, a_w), (b_h, b_w),
                        )  # fmt: skip
                        put_sums(tile, zero, out_rows, rows, here, out_steps[3], c > 0, tile_rows)
                        b += here * column
                    else:
                        here = min(width, last_lane - lane)
                        tile = sum_of_products(
                            zeros(zero), addresses_in(source_rows), a, b,
                            (h[TERMS], w_terms, inner), (a_h, a_w, size), (b_h, b_w, unit),
                        )  # fmt: skip
                        put(tile, zero, out_rows, rows, here, out_steps[3], c > 0, tile_rows)
                        b += column
                    for r in range(TILE_ROWS):
                        out_rows[r] += here * out_steps[3]


def to_channels_last(zero, arguments):
    """Kernel: copy (n, h, w, c) of any steps to contiguous memory, a row of an image at a time, until none is left."""
    arguments = carray(integers_at(arguments), COPY_ARGUMENTS)
    source, target, images, rows, columns, channels = to_fixed_tuple(arguments[OWN : OWN + 6], 6)
    steps = to_fixed_tuple(arguments[OWN + 6 : OWN + 10], 4)
    step = channels * bytes_of(zero)
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= images * rows:
            return
        at = source + task // rows * steps[0] + task % rows * steps[1]
        pack(zero, target + task * columns * step, step, at, steps[2], steps[3], columns, channels, channels)
