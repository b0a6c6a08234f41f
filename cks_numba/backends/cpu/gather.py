"""conv2d and conv2d_input on the CPU: rows of a tile are positions, its lanes output channels, from packed filters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import carray

from ...geometry import Affine, ConvShape, Group, Run, plan
from ...plan_table import (
    COLUMNS,
    COUNT,
    FIRST_BLOCK,
    FIXED,
    FIXED_STEP,
    ROWS,
    TABLE_WIDTH,
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
    Sizes,
    Strides,
    arguments_of,
    ceil_div,
    even_part,
    number_of_threads,
    own_scratch,
    start,
    table_at,
)
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    addresses_in,
    bytes_of,
    fetch,
    helper,
    integers,
    integers_at,
    next_number,
    stream,
    wait_for_streams,
    zeros,
)
from .tile import LINE_BYTES, copy_part, pack, put, put_sums, sum_of_products, sum_of_products_along

PANEL_BYTES = {"conv2d": L2_BYTES // 2, "conv2d_input": 3 * L2_BYTES // 8}  # of packed filters of a panel
PANELS_BYTES = 5 * L2_BYTES // 8  # of all panels of a task
STREAM_BYTES = 2**20  # of results, at least, that go past the caches
NARROW = 4  # output channels, at most, for which lanes hold terms
AHEAD = 16  # terms after the one that is packed, which are fetched for later
COPY_BYTES = 3 * 2**20  # of images copied to channels last at a time
ARGUMENTS, COPY_ARGUMENTS = OWN + 27, OWN + 10
CLASS, FIRST_PACKED, PACKED_TAPS = TABLE_WIDTH, TABLE_WIDTH + 1, TABLE_WIDTH + 2  # more columns of the table
CPU_TABLE_WIDTH = TABLE_WIDTH + 8


# --- the sizes -----------------------------------------------------------------------------------
def run(operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator: all at once, or where channels are not last, parts of the images that are copied first."""
    threads = number_of_threads(operator, shape)
    if source.strides[3] == source.itemsize:
        sizes, scratch, _ = sizes_of(
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
    first, last = needed(operator, shape, band)
    buffer = np.empty((n, last - first, columns, channels), source.dtype)
    part = source[:, first:last]
    copy = np.array([0] * (OWN + 2) + [*part.shape, *part.strides], np.int64)
    start(to_channels_last, out.dtype, threads, copy, (part.ctypes.data, buffer.ctypes.data), 0)
    image_step = (last - first) * steps[0]
    sizes, scratch, _ = sizes_of(operator, shape, n, band, (image_step, *steps), w.strides, out.strides, threads)
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
) -> Sizes:
    """What depends on sizes alone, for the results in a band of rows.

    Arguments of ``gather`` but for the addresses, bytes of scratch memory, and the table that the arguments refer to.
    """
    classes = _classes(operator, shape, band)
    groups = [group for members in classes.values() for group in members]
    blocks = [ceil_div(images * group.positions, TILE_ROWS) for group in groups]
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    lanes, terms = (oc, ic) if operator == "conv2d" else (ic, oc)
    lane_step, term_step = (w[0], w[3]) if operator == "conv2d" else (w[3], w[0])
    taps = max(rows.number * columns.number for rows, columns in classes)
    column_bytes = taps * terms * source[3]  # of all filters of one lane
    narrow = lanes <= NARROW and terms * source[3] % VECTOR_BYTES == 0 and lanes * column_bytes <= PANELS_BYTES
    term_bytes = max(1, taps) * LANE_BYTES  # of one term of a panel
    panels = ceil_div(lanes * source[3], LANE_BYTES)
    chunk = terms if narrow else even_part(terms, PANEL_BYTES[operator] // term_bytes)
    together = even_part(panels, PANELS_BYTES // (chunk * term_bytes))
    tiles = sum(blocks)
    blocks_wanted = ceil_div(4 * threads, ceil_div(panels, together) * shape.groups)
    tiles_together = min(64, max(8, ceil_div(tiles, blocks_wanted)))
    # Large results, in whole cache lines, go past the caches, in which they would find no room.
    whole_lines = out[3] == source[3] and not any(step % LINE_BYTES for step in (LANE_BYTES, *out[:3]))
    streams = whole_lines and chunk == terms and images * out[0] >= STREAM_BYTES
    table = np.zeros((len(groups) + 1, CPU_TABLE_WIDTH), np.int64)
    table[:, :TABLE_WIDTH] = group_table(replace(plan(operator, shape), groups=tuple(groups)), blocks)
    table[:-1, TABLE_WIDTH:] = [
        _packed_taps(group, k, *axes) for k, axes in enumerate(classes) for group in classes[axes]
    ]
    arguments = arguments_of(
        3,
        table,
        (images, shape.groups, terms, lanes, together, tiles_together, chunk, int(narrow), int(streams)),
        source,
        out,
        (lane_step, term_step, w[1], w[2], oc * w[0]),
    )
    packed_bytes = lanes * column_bytes if narrow else together * chunk * term_bytes
    return arguments, SCRATCH_HEAD + packed_bytes, table


@lru_cache(maxsize=1024)
def needed(operator: str, shape: ConvShape, band: tuple[int, int]) -> tuple[int, int]:
    """First and past-the-last row of the source that the results in a band of rows need."""
    runs = (group.h for groups in _classes(operator, shape, band).values() for group in groups)
    return _reach(runs, "i" if operator == "conv2d" else "o")


class Taps(NamedTuple):
    """Taps of one axis, evenly spaced."""

    first: int
    step: int
    number: int


def _classes(operator: str, shape: ConvShape, band: tuple[int, int]) -> dict[tuple[Taps, Taps], list[Group]]:
    """The groups with results in the band, by the taps that are packed for them: the phases of conv2d_input."""
    steps = (1, 1) if operator == "conv2d" else (shape.h.phase_step, shape.w.phase_step)
    phases: dict[tuple[int, ...], list[Group]] = {}
    for h, w in plan(operator, shape).groups:  # those without a term go with any phase
        part = _within(h, h.o if operator == "conv2d" else h.i, band)
        if part.positions:
            phase = h.f.base % steps[0], w.f.base % steps[1]
            phases.setdefault(phase, []).append(Group(part, w))
    classes: dict[tuple[Taps, Taps], list[Group]] = {}
    for groups in phases.values():
        axes = []
        for k, step in enumerate(steps):
            first, end = _reach((group[k] for group in groups), "f")
            axes.append(Taps(first, step, ceil_div(end - first, step)))
        classes.setdefault((axes[0], axes[1]), []).extend(groups)
    return classes


def _packed_taps(group: Group, number: int, rows: Taps, columns: Taps) -> tuple[int, ...]:
    """Columns of the table that say which taps are packed for a group, and which of them is its first."""
    at = (group.h.f.base - rows.first) // rows.step * columns.number + (group.w.f.base - columns.first) // columns.step
    return (number, at if group.terms else 0, *rows, *columns)


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
@helper
def place_rows(h, w, place, count, source_steps, out_steps, source_rows, out_rows):
    """Place `count` rows of a tile, which are (n, kh, kw) of a group from `place` on; returns the next place.

    Rows past the last repeat it.
    """
    n, kh, kw = place
    source_h, source_w = h[THIRD_FIXED] * source_steps[1], w[THIRD_FIXED] * source_steps[2]
    out_h, out_w = h[FIXED_STEP] * out_steps[1], w[FIXED_STEP] * out_steps[2]
    for r in range(TILE_ROWS):
        if r < count:
            source_at = n * source_steps[0] + kh * source_h + kw * source_w
            out_at = n * out_steps[0] + kh * out_h + kw * out_w
            kw += 1
            if kw == w[COUNT]:
                kw, kh = 0, kh + 1
                if kh == h[COUNT]:
                    kh, n = 0, n + 1
        source_rows[r], out_rows[r] = source_at, out_at
    return n, kh, kw


@helper
def pack_columns(zero, panel, filters, w_steps, taps, terms, lanes):
    """Copy filters to (lane, fh, fw, term): the form for `sum_of_products_along`."""
    step, count = terms * bytes_of(zero), taps[2] * taps[5]
    for tap in range(count):
        at = filters + tap_offset(tap, taps, w_steps)
        pack(zero, panel + tap * step, count * step, at, w_steps[0], w_steps[1], lanes, terms, terms)


@helper
def pack_panels(zero, panel, filters, w_steps, taps, terms, lanes):
    """Copy filters to (lane // width, fh, fw, term, lane % width); lanes past the last become 0."""
    size, count = bytes_of(zero), taps[2] * taps[5]
    width = LANE_BYTES // size
    whole = lanes // width if w_steps[0] == size else 0
    for tap in range(count if whole else 0):
        to, at = panel + tap * terms * LANE_BYTES, filters + tap_offset(tap, taps, w_steps)
        for k in range(terms):
            for part in range(whole):
                for line in range(part * LANE_BYTES, (part + 1) * LANE_BYTES, LINE_BYTES):
                    fetch(at + line + AHEAD * w_steps[1])
                copy_part(zero, to + (part * count * terms + k) * LANE_BYTES, at + part * LANE_BYTES, width)
            at += w_steps[1]
    for part in range(whole, ceil_div(lanes, width)):
        for tap in range(count):
            pack(
                zero, panel + (part * count + tap) * terms * LANE_BYTES, int(LANE_BYTES),
                filters + part * width * w_steps[0] + tap_offset(tap, taps, w_steps), w_steps[1], w_steps[0],
                terms, min(width, lanes - part * width), width,
            )  # fmt: skip


@helper
def tap_offset(tap, taps, w_steps):
    """Where in the filters a packed tap is; `taps` are first, step and count of the rows, then of the columns."""
    fh, fw = taps[0] + tap // taps[5] * taps[1], taps[3] + tap % taps[5] * taps[4]
    return fh * w_steps[2] + fw * w_steps[3]


def gather(zero, arguments):
    """Kernel: run conv2d or conv2d_input until no task is left.

    A task is a block of tiles and some panels, a panel being the filters of as many lanes as a tile has. The
    terms are cut into chunks, so that the panels of a chunk fit the cache. Where there are so few output
    channels that most lanes would be empty (`narrow`), the lanes hold terms of the sum instead.
    """
    size = bytes_of(zero)
    arguments = carray(integers_at(arguments), ARGUMENTS)
    source, filters, out, groups_at, groups = integers(arguments, OWN, 5)
    images, channel_groups, terms, lanes, together, tiles_together = integers(arguments, OWN + 5, 6)
    chunk, narrow, streams = integers(arguments, OWN + 11, 3)
    source_steps = integers(arguments, OWN + 14, 4)
    out_steps = integers(arguments, OWN + 18, 4)
    w_steps = integers(arguments, OWN + 22, 5)
    source_rows, out_rows, tile_rows, panel = own_scratch(arguments)
    packed = -1  # which panels, chunk and class of taps it holds
    table = table_at(groups_at, groups, CPU_TABLE_WIDTH)
    tiles = table[groups, FIRST_BLOCK]
    width = LANE_BYTES // size
    unit = size if narrow else LANE_BYTES  # of packed filters, from one term to the next
    chunks, blocks = ceil_div(terms, chunk), ceil_div(tiles, tiles_together)
    lane_blocks = ceil_div(lanes, together * width)
    while True:
        # 1. a task: some panels, some tiles
        task = next_number(arguments, NEXT_TASK)
        if task >= channel_groups * lane_blocks * blocks:
            wait_for_streams()
            return
        which, block = task // blocks, task % blocks
        g, first_lane = which // lane_blocks, which % lane_blocks * together * width
        last_lane = min(first_lane + together * width, lanes)
        for c in range(chunks):
            count = min(chunk, terms - c * chunk)
            group, place = -1, (0, 0, 0)
            for number in range(block * tiles_together, min(tiles, (block + 1) * tiles_together)):
                # 2. a new group: what all of its tiles share, and its filters
                if group < 0 or table[group + 1, FIRST_BLOCK] <= number:
                    group += 1
                    while table[group + 1, FIRST_BLOCK] <= number:
                        group += 1
                    h, w = table[group, ROWS:COLUMNS], table[group, COLUMNS:TABLE_WIDTH]
                    per_image = h[COUNT] * w[COUNT]
                    row = (number - table[group, FIRST_BLOCK]) * TILE_ROWS
                    place = row // per_image, row % per_image // w[COUNT], row % w[COUNT]
                    row_end = images * per_image
                    a = source + h[THIRD] * source_steps[1] + w[THIRD] * source_steps[2]
                    a += (g * terms + c * chunk) * source_steps[3]
                    y = out + h[FIXED] * out_steps[1] + w[FIXED] * out_steps[2]
                    y += (g * lanes + first_lane) * out_steps[3]
                    taps = integers(table[group, PACKED_TAPS:], 0, 6)
                    column = taps[2] * taps[5] * count * unit  # of one panel, or of one lane
                    first_b = panel + table[group, FIRST_PACKED] * count * unit
                    a_h, a_w = h[THIRD_TERM] * source_steps[1], w[THIRD_TERM] * source_steps[2]
                    b_h, b_w = taps[5] * count * unit, count * unit
                    loops = (h[TERMS], w[TERMS], count)
                    if a_w == count * size:  # neighbouring taps are neighbours in both: one longer loop
                        loops = (h[TERMS], min(w[TERMS], 1), w[TERMS] * count)
                    key = (which * chunks + c) * groups + table[group, CLASS]
                    if packed != key:
                        packed = key
                        from_w = filters + g * w_steps[4] + first_lane * w_steps[0] + c * chunk * w_steps[1]
                        if narrow:
                            pack_columns(zero, panel, from_w, w_steps, taps, count, last_lane - first_lane)
                        else:
                            pack_panels(zero, panel, from_w, w_steps, taps, count, last_lane - first_lane)
                # 3. where the rows of a tile are
                rows = min(TILE_ROWS, row_end - row)
                row += rows
                place = place_rows(h, w, place, rows, source_steps, out_steps, source_rows, out_rows)
                for r in range(TILE_ROWS):
                    out_rows[r] += y
                # 4. the tile, for each panel
                b = first_b
                for lane in range(first_lane, last_lane, TILE_VECTORS if narrow else width):
                    if narrow:
                        here = min(TILE_VECTORS, last_lane - lane)
                        tile = sum_of_products_along(
                            zeros(zero), addresses_in(source_rows), a, b, (here - 1) * column,
                            loops, (a_h, a_w, size), (b_h, b_w, size),
                        )  # fmt: skip
                        put_sums(tile, zero, out_rows, rows, here, out_steps[3], c > 0, tile_rows)
                        b += here * column
                    else:
                        here = min(width, last_lane - lane)
                        tile = sum_of_products(
                            zeros(zero), addresses_in(source_rows), a, b,
                            loops, (a_h, a_w, size), (b_h, b_w, LANE_BYTES),
                        )  # fmt: skip
                        if streams and here == width and out_rows[0] % LINE_BYTES == 0:
                            stream(tile, addresses_in(out_rows))
                        else:
                            put(tile, zero, out_rows, rows, here, out_steps[3], c > 0, tile_rows)
                        b += column
                    for r in range(TILE_ROWS):
                        out_rows[r] += here * out_steps[3]


def to_channels_last(zero, arguments):
    """Kernel: copy (n, h, w, c) of any steps to contiguous memory, a row of an image at a time, until none is left."""
    arguments = carray(integers_at(arguments), COPY_ARGUMENTS)
    source, target, images, rows, columns, channels = integers(arguments, OWN, 6)
    steps = integers(arguments, OWN + 6, 4)
    step = channels * bytes_of(zero)
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= images * rows:
            return
        at = source + task // rows * steps[0] + task % rows * steps[1]
        pack(zero, target + task * columns * step, step, at, steps[2], steps[3], columns, channels, channels)
