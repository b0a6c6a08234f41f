"""Depthwise and grouped convolution on the CPU: all three operators of layers with small channel groups.

The lanes of a tile are channels of several groups, and both factors are rows of lanes::

    tile[r, l] += A[r + t, l] * B[t, l]

================================  ===========================================  ===================================
kernel                            r, from A                                    t, from B
================================  ===========================================  ===================================
``depthwise`` (conv2d)            positions, from x                            taps of a row, from w
``depthwise`` (conv2d_input)      positions, from dy                           taps of a row, from w
``of_filters`` (conv2d_weight)    taps of a row, from x                        positions, from dy
================================  ===========================================  ===================================

With stride 1 a position meets with one tap what its neighbour meets with the next one: a row of A is loaded once for
up to three products. Elsewhere each t is a step of its own.

In a group of one channel, that is all. Larger groups have kernels of their own, `in_groups` and `of_filters_in_groups`,
which take longer to compile. In a group of c channels, a power of two, each channel meets c others. The same sum is
done c times, in turns. In turn k, with g = k ^ k >> 1, lane l of A meets lane l ^ g of the other side: the result, or
dy for conv2d_weight. g is the Gray code, so from turn to turn one bit of it changes, and lanes that are 1, 2, 4 or 8
apart change places: those of the tile, or those of dy in memory. Other numbers of channels are padded with zeros. If
one side has fewer channels (a depthwise multiplier), they fill the lanes of the group several times, and results that
are in several lanes are added up at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from ...buffers import LINE_BYTES
from ...geometry import Affine, ConvShape, Group, Plan, Run, plan
from .compiled import (
    NO_CALL,
    SCRATCH_HEAD,
    Array,
    Call,
    GroupRow,
    Sizes,
    Steps,
    Strides,
    ceil_div,
    even_part,
    first_of,
    five,
    group_row,
    next_task,
    number_of_threads,
    numbers_of,
    own_scratch,
    record,
    round_up,
    start,
    with_three_axes,
)
from .gather import reach, within
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    TILE_ROWS,
    VECTOR_BYTES,
    add_vector,
    after,
    bytes_of,
    change_lanes,
    copy_diagonals,
    fetch,
    fill_vector,
    helper,
    integers_at,
    next_number,
    number_at,
    put_rows,
    row_products,
    row_products_within,
    swap_lanes,
    wait_for_streams,
    write_number,
    zeros,
)
from .tile import add_parts, pack, pack_images, stream_numbers, unpack

HALF = TILE_ROWS // 2
LINE_TAPS = (3, 5, 7)  # For so many taps in a row there are tiles that are parts of whole rows.
LINE_WASTE = 0.2  # The tiles of a row may overlap by at most this share of the row.
CHUNK_BYTES = L2_BYTES // 2  # Source and result of a task, roughly.
MOST_BYTES = 4 * 2**20  # Packed rows of an image that a row of the result needs, or a packed filter.
# If source and result together have at least STREAM_BYTES, the result is written past the caches, and what the next
# band reads is fetched. Results that are no whole cache lines are put together first, which pays from GATHER_BYTES on.
STREAM_BYTES = 2**24
GATHER_BYTES = 3 * 2**23
FILTER_BYTES = L2_BYTES // 2  # A thread keeps packed filters of as many blocks of lanes as fit into so many bytes.
SUM_IMAGES = 2 * TILE_ROWS  # Most images that are packed together for a filter gradient, whose loop runs over them.
LEAST_ROWS = 4  # A band has at least so many rows of an image, because neighbouring bands read the same source.
REUSE = 8  # So many products of a number of the source pay for packing it.
POSITIONS = 48  # Positions whose rows of lanes stay in the first-level cache while all taps meet them.
# Numba compiles a helper for None and for such a constant, and leaves out what is for the other.
IN_GROUPS, IN_LINES = 1, 1
# A filter gradient is cut into about so many tasks, a large one into more: parts of the sum that stay in the cache from
# one block of lanes to the next, as far as their results have at most so many bytes. Threads change no number of these.
PARTS = 16
PARTS_BYTES = 2**20


# --- what the kernels are given ------------------------------------------------------------------
class FilterSteps(NamedTuple):
    """Bytes from an element of w or dw to the next one, of another channel group, channel or tap."""

    group: int
    source: int
    out: int
    d: int
    h: int
    w: int


class Lanes(NamedTuple):
    """The lanes of a channel group, a power of two, its turns, and its channels in the source and in the result.

    The side with fewer channels has as many lanes as there are turns, again and again.
    """

    group: int
    turns: int
    source: int
    out: int


class Lines(NamedTuple):
    """A kind of tiles that are parts of whole rows.

    A tile has `positions` of them. From one position to the next the source moves on by `moves` / `by` elements. Of a
    row of `taps` taps, tap t meets element j of the source at position ``row_of(taps, j, t)`` of the tile, if there is
    such a position. Elements are numbered from a tile's first address; j may be negative.
    """

    positions: int
    moves: int
    by: int
    row_of: Callable[[int, int, int], int]


class DepthwiseSizes(NamedTuple):
    """The arguments: of_filters takes dy for `out`, and its result for `filters`."""

    call: Call
    table: int
    bands: int
    bands_count: int
    images: int
    images_together: int
    all_lanes: int
    last_lanes: int
    blocks: int
    parts: int
    result_bytes: int
    fd: int
    fh: int
    fw: int
    source_packed: int
    out_packed: int
    source_bytes: int
    streams: int
    gathers: int
    ahead: int
    lines: int
    line_first: int
    line_size: int
    blocks_together: int
    blocks_kept: int
    source: Steps
    out: Steps
    filters: FilterSteps
    lanes: Lanes


class Box(NamedTuple):
    """A part of each image: its first depth, row and column, and how many there are of each."""

    d: int
    h: int
    w: int
    depths: int
    rows: int
    columns: int

    @property
    def positions(self) -> int:
        return self.depths * self.rows * self.columns

    @property
    def packed_steps(self) -> tuple[int, int, int]:
        """Bytes to the next depth, row and column where it is packed."""
        return self.rows * self.columns * LANE_BYTES, self.columns * LANE_BYTES, LANE_BYTES


class BandRow(NamedTuple):
    """A band of the result: its groups in the table (the first and the past-the-last), and what it needs of the source.

    A band has all of each axis but the layer's first one.
    """

    first_group: int
    last_group: int
    out: Box
    source: Box


# --- the sizes -----------------------------------------------------------------------------------
def fits(shape: ConvShape, itemsize: int) -> bool:
    """Whether the lanes of a group fit into a vector, and rows of images and filters are short enough to be packed."""
    first, *others = shape.axes
    if not others:
        row = min(first.span, first.size) + 1  # A signal can be cut anywhere.
    else:
        row = prod(max(axis.size, axis.outputs) for axis in others) * (min(first.span, first.size) + 1)
    lanes = _lanes_of("conv2d", shape)
    short = max(row, prod(axis.taps for axis in shape.axes) * lanes.turns) * LANE_BYTES <= MOST_BYTES
    return short and shape.groups > 1 and lanes.group * itemsize <= VECTOR_BYTES


def _lanes_of(operator: str, shape: ConvShape) -> Lanes:
    channels = shape.ic // shape.groups, shape.oc // shape.groups
    source, out = reversed(channels) if operator == "conv2d_input" else channels
    turns, group = sorted(1 << (count - 1).bit_length() for count in channels)
    return Lanes(group, turns, source, out)


def run(operator: str, shape: ConvShape, first: Array, second: Array, out: Array) -> None:
    """Run an operator on NHWC arrays of any strides."""
    if operator == "conv2d":
        source, filters = first, second
    elif operator == "conv2d_input":
        filters, source = first, second
    else:  # the kernel reads dy at the places at which conv2d writes y
        source, filters, out = first, out, second
    threads = number_of_threads(operator, shape)
    sizes = sizes_of(operator, shape, source.strides, filters.strides, out.strides, out.itemsize, threads)
    plain, grouped = (of_filters, of_filters_in_groups) if operator == "conv2d_weight" else (depthwise, in_groups)
    kernel = in_lines if sizes.named.lines else plain if sizes.named.lanes.group == 1 else grouped
    start(kernel, out.dtype, threads, sizes, source=source, filters=filters, out=out)


@lru_cache(maxsize=1024)
def sizes_of(
    operator: str, shape: ConvShape, source: Strides, filters: Strides, out: Strides, itemsize: int, threads: int
) -> Sizes:
    """Return the sizes for a kernel; the arrays are given by their strides."""
    groups = plan("conv2d" if operator == "conv2d_weight" else operator, with_three_axes(shape))
    source, filters, out = five(source), five(filters), five(out)
    source_lengths, out_lengths = [axis.size for axis in shape.axes], [axis.outputs for axis in shape.axes]
    if operator == "conv2d_input":
        source_lengths, out_lengths = out_lengths, source_lengths
    source_positions, positions, length = prod(source_lengths), prod(out_lengths), out_lengths[0]
    width = LANE_BYTES // itemsize
    lanes = _lanes_of(operator, shape)
    all_lanes = shape.groups * lanes.group
    # If the channels of the last block fit into one vector, its tiles hold them for two positions at once.
    pairs = lanes.group == 1 and all_lanes >= width // 2
    pairs = pairs and source[4] == out[4] == itemsize and 0 < all_lanes % width <= width // 2
    last_lanes = width // 2 if pairs else width
    source_packed, out_packed = (
        step != itemsize or all_lanes < last_lanes or channels != lanes.group
        for step, channels in ((source[4], lanes.source), (out[4], lanes.out))
    )
    out_packed = out_packed or (operator == "conv2d_weight" and lanes.turns > 1)
    blocks = ceil_div(all_lanes, width)
    run_length = max(run.positions for run in shape.w.runs(groups.operator))
    # A tile may have all positions of a part of a row, with the taps that each of them meets. Sources whose columns
    # repeat one number (a step of 0) are left out, because the kernel sees by that step in which order the taps come.
    may_have_lines = operator != "conv2d_weight" and len(shape.axes) > 1 and lanes.group == 1 and source[3]
    lines = _lines_of(groups) if may_have_lines else 0
    if lines:
        groups = _with_whole_rows(groups)
    if not lines and (run_length < HALF <= shape.n or lanes.turns > 1):
        # Tiles lie along the images, or there are turns: a row of lanes is loaded often, from aligned memory then.
        source_packed = source_packed or groups.useful >= REUSE * shape.n * all_lanes * source_positions
    image_bytes = LANE_BYTES * (source_positions + positions)  # one image of a block of channels
    all_bytes = (source_positions + positions) * shape.n * all_lanes * itemsize
    large = all_bytes >= STREAM_BYTES
    most = SUM_IMAGES if operator == "conv2d_weight" and source_packed else TILE_ROWS
    images = even_part(shape.n, min(most, CHUNK_BYTES // image_bytes))
    if lines or large and run_length >= TILE_ROWS and not (source_packed or out_packed or operator == "conv2d_weight"):
        images = 1  # The rows of one image are nearer to each other in memory than those of several.
    bands_of_thread = 2 if lines and source_packed else 4  # The rows that two bands read are packed twice.
    wanted = PARTS if operator == "conv2d_weight" else (bands_of_thread * threads if threads > 1 else 1)
    # A task has all blocks of lanes if there are enough tasks; one of conv2d_weight has one block and shorter bands.
    together = blocks if ceil_div(shape.n, images) * ceil_div(length, LEAST_ROWS) >= wanted else 1
    tasks = blocks // together * ceil_div(shape.n, images)
    band_length = max(LEAST_ROWS, ceil_div(length, ceil_div(wanted, tasks)))
    if source_packed or out_packed:
        band_length = min(band_length, max(1, length * CHUNK_BYTES // (image_bytes * images)))
    elif together > 1 and operator != "conv2d_weight":
        # All lanes of a band stay in the cache from one block to the next.
        together_bytes = images * ceil_div(all_bytes, shape.n)
        band_length = min(band_length, max(LEAST_ROWS, length * CHUNK_BYTES // together_bytes))
    bands, found = _bands(groups, 3 - len(shape.axes), min(band_length, length))
    fd, fh, fw = (axis.taps for axis in groups.shape.axes)
    tap_steps = fh * fw * LANE_BYTES, fw * LANE_BYTES, LANE_BYTES
    rows = [
        group_row(
            groups.operator,
            group,
            band.source.packed_steps if source_packed else source[1:4],
            tap_steps,
            band.out.packed_steps if out_packed else out[1:4],
        )
        for band in bands
        for group in found[band.first_group : band.last_group]
    ]
    table = np.array([numbers_of(row) for row in rows], np.int64)
    memory = np.concatenate([table.ravel(), np.array([numbers_of(band) for band in bands], np.int64).ravel()])
    whole_lines = not out_packed and not any(step % LINE_BYTES for step in (last_lanes * itemsize, *out[:4]))
    source_bytes, out_bytes = (
        max(box.positions for box in boxes) * images * LANE_BYTES
        for boxes in ([band.source for band in bands], [band.out for band in bands])
    )
    by_channel = (filters[0], filters[4]) if operator == "conv2d_input" else (filters[4], filters[0])
    # The blocks of a band are done in turn, while what the next band reads is fetched. Results that are no whole lines
    # are put together, all blocks of a band, and then written past the caches.
    in_turn = large and together == blocks and operator != "conv2d_weight"
    ahead = in_turn and not source_packed and _side_by_side(source, source_lengths, all_lanes * itemsize)
    rows_bytes = max(band.out.positions for band in bands) * images * all_lanes * itemsize
    gathers = in_turn and all_bytes >= GATHER_BYTES and rows_bytes <= CHUNK_BYTES and not (out_packed or whole_lines)
    gathers = gathers and _side_by_side(out, out_lengths, all_lanes * itemsize)
    chunks = len(bands) * ceil_div(shape.n, images)
    result_bytes = lanes.turns * fd * fh * fw * LANE_BYTES
    if operator == "conv2d_weight":
        result_bytes *= 1 + pairs  # What has no pair is added up apart.
    parts = 1
    if operator == "conv2d_weight":
        parts = ceil_div(PARTS, blocks)
        if large:
            parts = max(parts, min(all_bytes // CHUNK_BYTES, PARTS_BYTES // (blocks * result_bytes)))
        parts = min(chunks, parts)
    # Other filters than those of the last block are of use only where a thread has a second part of the call.
    again = operator != "conv2d_weight" and chunks > threads
    blocks_kept = max(1, min(blocks, FILTER_BYTES // result_bytes)) if again else 1
    sizes = DepthwiseSizes(
        call=NO_CALL,
        table=memory.ctypes.data,
        bands=memory.ctypes.data + table.nbytes,
        bands_count=len(bands),
        images=shape.n,
        images_together=images,
        all_lanes=all_lanes,
        last_lanes=last_lanes,
        blocks=blocks,
        parts=parts,
        result_bytes=result_bytes,
        fd=fd,
        fh=fh,
        fw=fw,
        source_packed=source_packed,
        out_packed=out_packed,
        source_bytes=source_bytes if source_packed else 0,
        streams=whole_lines and large,
        gathers=gathers,
        ahead=ahead,
        lines=lines,
        line_first=_first_element(groups) if lines else 0,
        line_size=source_lengths[-1],
        blocks_together=together,
        blocks_kept=blocks_kept,
        source=Steps(*source),
        out=Steps(*out),
        filters=FilterSteps(filters[0] * (shape.oc // shape.groups), *by_channel, *filters[1:4]),
        lanes=lanes,
    )
    scratch = SCRATCH_HEAD + round_up(8 * blocks_kept, LINE_BYTES) + blocks_kept * result_bytes
    scratch += source_packed * source_bytes + out_packed * out_bytes + gathers * rows_bytes
    return Sizes.of(sizes, scratch, memory)


def _bands(groups: Plan, axis: int, band_length: int) -> tuple[list[BandRow], list[Group]]:
    """Cut the result into bands of one axis; returns these, and the groups of all of them."""
    bands: list[BandRow] = []
    found: list[Group] = []
    source, out = [one.size for one in groups.shape.axes], [one.outputs for one in groups.shape.axes]
    if groups.operator == "conv2d_input":
        source, out = out, source
    for first in range(0, out[axis], band_length):
        last, first_group = min(first + band_length, out[axis]), len(found)
        parts = (within(group, groups.operator, axis, (first, last)) for group in groups.groups)
        found += [part for part in parts if part.positions]
        needed = reach((group[axis] for group in found[first_group:]), "i" if groups.operator == "conv2d" else "o")
        boxes = _box(out, axis, first, last), _box(source, axis, *needed)
        bands.append(BandRow(first_group, len(found), *boxes))
    return bands, found


def _lines_of(groups: Plan) -> int:
    """The number of a kind of LINES that the rows of a plan are cut into, or 0 if there is none."""
    w, forward = groups.shape.w, groups.operator == "conv2d"
    length = w.outputs if forward else w.size
    number = (FORWARD_BY_TWO if forward else INPUT_BY_TWO) if w.stride == 2 else BY_ONE
    positions = LINES[number].positions
    if w.taps not in LINE_TAPS or w.dilation > 1 or w.stride > 2 or positions > TILE_ROWS:
        return 0
    if number == INPUT_BY_TWO and (w.size % 2 or (w.before - _first_tap(w.taps)) % 2):
        # Tiles begin at even positions, the last one too, and there they must meet `_first_tap`, not its neighbour.
        return 0
    return number if positions <= length >= round_up(length, positions) / (1 + LINE_WASTE) else 0


def _first_element(groups: Plan) -> int:
    """The number j, in the first tile of a row, of the row's first element: negative if it counts from a later one."""
    w = groups.shape.w
    if groups.operator == "conv2d":
        return w.before
    return w.taps - 1 - w.before if w.stride == 1 else (_first_tap(w.taps) - w.before) // 2


def _with_whole_rows(groups: Plan) -> Plan:
    """The plan with groups of whole rows: all columns, and all taps of a row, of which the kernel leaves some out."""
    w = groups.shape.w
    first = _first_element(groups)
    if groups.operator == "conv2d":
        row = Run(w.outputs, w.taps, Affine(-first, w.stride, 1), Affine(0, 0, 1), Affine(0, 1, 0))
    elif w.stride == 1:
        row = Run(w.size, w.taps, Affine(0, 1, 0), Affine(0, 0, 1), Affine(w.before, 1, -1))
    else:  # The steps are from element to element and from tap to tap; `row_of` says which of them meet.
        row = Run(w.size, w.taps, Affine(0, 1, 0), Affine(0, 0, 1), Affine(-first, 1, 1))
    others = dict.fromkeys(tuple(group)[:-1] for group in groups.groups)
    return Plan(groups.operator, groups.shape, tuple(Group((*other, row)) for other in others))


def _side_by_side(steps: Strides, lengths: Sequence[int], position_bytes: int) -> bool:
    """Whether the positions of an image follow each other without gaps. An axis of one may have any step."""
    wanted = [position_bytes * prod(lengths[k + 1 :]) for k in range(len(lengths))]
    found = steps[4 - len(lengths) : 4]
    return all(length == 1 or step == want for length, step, want in zip(lengths, found, wanted, strict=True))


def _box(lengths: list[int], axis: int, first: int, last: int) -> Box:
    """The whole of each axis but one, of which only a part."""
    firsts, counts = [0] * 3, lengths.copy()
    firsts[axis], counts[axis] = first, last - first
    return Box(*firsts, *counts)


# --- the kernels ---------------------------------------------------------------------------------
@helper
def part_of(number, block, sizes, width):
    """First lane and number of lanes of a block, first image and number of images of a part of a call, and its band."""
    # If the last block of lanes is not full, it overlaps the one before.
    most = sizes.last_lanes if block == sizes.blocks - 1 else width
    lane = min(block * width, max(0, sizes.all_lanes - most))
    n = number // sizes.bands_count * sizes.images_together
    images = min(sizes.images_together, sizes.images - n)
    return lane, min(most, sizes.all_lanes - lane), n, images, number % sizes.bands_count


@helper
def placed_images(zero, array, steps, first, box, lanes, groups, group, packed, memory):
    """The address of the first image in an array, as if each image began with position 0, and the steps from there.

    `first` is the first image, how many there are, and the first lane; `group` the lanes and the channels of a group.
    With `packed` the box of each image is copied to (n, d, h, w, lane) in other memory, whose steps are returned.
    """
    n, images, lane = first
    at = array + n * steps.n + lane // group[0] * group[1] * steps.c
    if not packed:
        return at, steps
    size = bytes_of(zero)
    inside = packed_steps(box, size)
    at += first_of((box.d, box.h, box.w), steps)
    counts = images, box.depths, box.rows, box.columns
    if groups is None or group[0] == group[1]:
        pack_images(zero, memory, (inside.n, inside.w), at, steps, (*counts, lanes), LANE_BYTES // size)
    else:
        pack_groups(zero, memory, at, steps, counts, lanes, group)
    return memory - first_of((box.d, box.h, box.w), inside), inside


def _changes_of(*makers):
    """Return a helper that changes rows of lanes in memory; each maker makes a map of lanes from the distance."""
    by_one, by_two, by_four, by_eight = (change_lanes(*(make(d) for make in makers)) for d in (1, 2, 4, 8))

    @helper
    def change(zero, at, step, count, distance):
        for k in range(count):
            if distance == 1:
                by_one(zero, at + k * step)
            elif distance == 2:
                by_two(zero, at + k * step)
            elif distance == 4:
                by_four(zero, at + k * step)
            else:
                by_eight(zero, at + k * step)

    return change


def _even(distance):
    """The map from lanes to the parts with even numbers among parts of so many lanes."""
    return lambda lane: lane // distance * 2 * distance + lane % distance


swap: Any = _changes_of(lambda distance: lambda lane: lane ^ distance)
spread: Any = _changes_of(lambda distance: lambda lane: lane // (2 * distance) * distance + lane % distance)
fold: Any = _changes_of(_even, lambda distance: lambda lane: _even(distance)(lane) + distance)


@helper
def filled_lanes(lanes, group):
    """Lanes that hold all channels of a block once, how many of them are packed together, and so many channels."""
    padded = 1
    while padded < group[1]:
        padded *= 2
    filled = lanes // group[0] * padded
    return (filled, padded, filled, filled) if padded == group[1] else (filled, padded, padded, group[1])


@helper
def pack_groups(zero, target, source, steps, counts, lanes, group):
    """Copy (n, d, h, w, c) to (n, d, h, w, lane): the channels of a group fill its lanes, as often as they fit."""
    size = bytes_of(zero)
    filled, padded, together, channels = filled_lanes(lanes, group)
    d, h, w = rows_of(counts[1:], steps)
    rows = counts[0] * d * h
    for row in range(rows):
        first = source + row // (d * h) * steps.n + row // h % d * steps.d + row % h * steps.h
        there = target + row * w * LANE_BYTES
        for lane in range(0, filled, together):
            at = first + lane // padded * group[1] * steps.c
            pack(zero, there + lane * size, int(LANE_BYTES), at, steps.w, steps.c, w, channels, together)
    repeats = group[0] // padded
    while repeats > 1:
        spread(zero, target, int(LANE_BYTES), rows * w, padded)
        repeats //= 2


@helper
def packed_steps(box, size):
    """The steps of packed images (n, d, h, w, lane)."""
    row = box.columns * LANE_BYTES
    plane = box.rows * row
    return Steps(box.depths * plane, plane, row, int(LANE_BYTES), size)


@helper
def rows_of(counts, steps):
    """Depths, rows and columns: rows that follow each other without gaps are one long row, and so are depths."""
    d, h, w = counts
    if h == 1 or steps.h == w * steps.w:
        h, w = 1, h * w
        if d == 1 or steps.d == w * steps.w:
            d, w = 1, d * w
    return d, h, w


@helper
def unpack_images(zero, target, steps, source, box, images, lanes, groups, group):
    """Copy the boxes (n, d, h, w, lane) to the images of an array of any steps; a result is the sum of its lanes."""
    size = bytes_of(zero)
    target += first_of((box.d, box.h, box.w), steps)
    d, h, w = rows_of((box.depths, box.rows, box.columns), steps)
    rows = images * d * h
    if groups is None:
        for row in range(rows):
            first = target + row // (d * h) * steps.n + row // h % d * steps.d + row % h * steps.h
            unpack(zero, first, steps.w, steps.c, source + row * w * LANE_BYTES, int(LANE_BYTES), w, lanes)
        return
    filled, padded, together, channels = filled_lanes(lanes, group)
    repeats = group[0] // padded
    while repeats > 1:
        fold(zero, source, int(LANE_BYTES), rows * w, padded)
        repeats //= 2
    for row in range(rows):
        first = target + row // (d * h) * steps.n + row // h % d * steps.d + row % h * steps.h
        there = source + row * w * LANE_BYTES
        for lane in range(0, filled, together):
            at = first + lane // padded * group[1] * steps.c
            unpack(zero, at, steps.w, steps.c, there + lane * size, int(LANE_BYTES), w, channels)


@helper
def pack_filters(zero, target, source, steps, taps, lanes, groups, group, pairs):
    """Copy filters to (turn, fd, fh, fw, lane); those of `pairs` twice, to each of the two vectors."""
    padded = (VECTOR_BYTES if pairs else LANE_BYTES) // bytes_of(zero)
    d, h, w = rows_of(taps, steps)
    if groups is None:
        for row in range(d * h):
            there, at = target + row * w * LANE_BYTES, source + row // h * steps.d + row % h * steps.h
            pack(zero, there, int(LANE_BYTES), at, steps.w, steps.group, w, lanes, padded)
            if pairs:
                pack(zero, there + VECTOR_BYTES, int(LANE_BYTES), at, steps.w, steps.group, w, lanes, padded)
        return
    for k in range(0, group.turns * d * h * w * LANE_BYTES, VECTOR_BYTES):
        fill_vector(zero, target + k)
    move_filters(zero, target, source, steps, (d, h, w), lanes, group, True)


@helper
def unpack_filters(zero, target, steps, source, taps, lanes, groups, group):
    """Copy (turn, fd, fh, fw, lane) to filters of any steps."""
    d, h, w = rows_of(taps, steps)
    if groups is None:
        for row in range(d * h):
            there, at = target + row // h * steps.d + row % h * steps.h, source + row * w * LANE_BYTES
            unpack(zero, there, steps.w, steps.group, at, int(LANE_BYTES), w, lanes)
        return
    move_filters(zero, source, target, steps, (d, h, w), lanes, group, False)


pack_by_source: Any = copy_diagonals(True, False)
pack_by_out: Any = copy_diagonals(True, True)
unpack_by_source: Any = copy_diagonals(False, False)


@helper
def move_filters(zero, packed, filters, steps, taps, lanes, group, into):
    """Copy the filter of each two channels of a group to its lane and turn, or back from there."""
    size = bytes_of(zero)
    d, h, w = taps
    by_source = steps.source == size
    if group.source == group.out == VECTOR_BYTES // size and (by_source or (into and steps.out == size)):
        for first in range(0, lanes, group.group):
            for tap in range(d * h * w):
                at = filters + first // group.group * steps.group
                at += tap // (h * w) * steps.d + tap // w % h * steps.h + tap % w * steps.w
                there = packed + tap * LANE_BYTES + first * size
                if by_source and into:
                    pack_by_source(zero, there, d * h * w * LANE_BYTES, at, steps.out)
                elif into:
                    pack_by_out(zero, there, d * h * w * LANE_BYTES, at, steps.source)
                else:
                    unpack_by_source(zero, at, steps.out, there, d * h * w * LANE_BYTES)
        return
    all_lanes, some = group.group - 1, group.turns - 1
    source_mask, out_mask = (all_lanes, some) if group.source >= group.out else (some, all_lanes)
    for lane in range(lanes):
        first, here, there = filters + lane // group.group * steps.group, lane & all_lanes, packed + lane * size
        for turn in range(group.turns):
            source, out = here & source_mask, (here ^ turn ^ turn >> 1) & out_mask
            if source >= group.source or out >= group.out:
                there += d * h * w * LANE_BYTES
                continue
            for row in range(d * h):
                at = first + source * steps.source + out * steps.out
                if d * h > 1:
                    at += row // h * steps.d + row % h * steps.h
                for t in range(w):
                    if into:
                        write_number(number_at(zero, at + t * steps.w), there)
                    else:
                        write_number(number_at(zero, there), at + t * steps.w)
                    there += LANE_BYTES


def _tile_of(rows, in_turns):
    """Return a helper that computes and writes a tile of so many rows; without turns it has less to prepare."""
    add_one, add_two, add_three = (row_products(rows, taps) for taps in (1, 2, 3))
    add_spread = row_products(rows, 3, stride=2)
    write_rows, stream_rows = (put_rows(rows, how) for how in ("write", "stream"))
    swap_one, swap_two, swap_four, swap_eight = (swap_lanes(rows, distance) for distance in (1, 2, 4, 8))

    @helper
    def put_tile(zero, a_first, a_step, b_first, out, out_step, sums):
        counts, a_steps, b_steps, slides, (a_vector, out_vector), (streams, ahead), turns, turn_bytes = sums
        if ahead and slides == 1:  # The next block of lanes needs the lines beside these: the CPU does not foresee it.
            for r in range(rows):
                for line in range(0, LANE_BYTES, LINE_BYTES):
                    fetch(a_first + r * a_step + LANE_BYTES + line)
        b_vector, tile = int(VECTOR_BYTES), zeros(zero)
        turn = turns - 1 if in_turns else 0
        while True:
            i, a, b = 0, a_first, b_first + turn * turn_bytes
            for _ in range(counts[0]):  # rows of taps, of all depths
                at, b_at, left = a, b, counts[2]
                if slides == 1:
                    while left >= 3:
                        tile = add_three(tile, at, a_step, a_vector, b_at, b_steps[2], b_vector)
                        at, b_at, left = at + 3 * a_steps[2], b_at + 3 * b_steps[2], left - 3
                    if left == 2:
                        tile = add_two(tile, at, a_step, a_vector, b_at, b_steps[2], b_vector)
                        left = 0
                elif in_turns and slides == 2:
                    while left >= 3:
                        tile = add_spread(tile, at, a_steps[2], a_vector, b_at, b_steps[2], b_vector)
                        at, b_at, left = at + 3 * a_steps[2], b_at + 3 * b_steps[2], left - 3
                for t in range(left):
                    tile = add_one(tile, at + t * a_steps[2], a_step, a_vector, b_at + t * b_steps[2], 0, b_vector)
                i, a, b = i + 1, a + a_steps[1], b + b_steps[1]
                if i == counts[1]:
                    i, a, b = 0, a + a_steps[0], b + b_steps[0]
            if in_turns:
                if turn == 0:
                    break
                if turn & 1:
                    tile = swap_one(tile)
                elif turn & 2:
                    tile = swap_two(tile)
                elif turn & 4:
                    tile = swap_four(tile)
                else:
                    tile = swap_eight(tile)
                turn -= 1
            else:
                break
        if streams and out % LINE_BYTES == 0:
            stream_rows(tile, out, out_step, out_vector)
        else:
            write_rows(tile, out, out_step, out_vector)

    return put_tile


def _tiles_of(in_turns):
    put_whole, put_half, put_row = (_tile_of(rows, in_turns) for rows in (TILE_ROWS, HALF, 1))

    @helper
    def put_tiles(zero, a, a_step, b, out, out_step, count, sums):
        """Compute and write `count` neighbouring positions; a tile that would reach past the last begins earlier."""
        k = 0
        while k < count:
            if count >= TILE_ROWS and count - k > HALF:
                k = min(k, count - TILE_ROWS)
                put_whole(zero, a + k * a_step, a_step, b, out + k * out_step, out_step, sums)
                k += TILE_ROWS
            elif count >= HALF and count - k > 1:
                k = min(k, count - HALF)
                put_half(zero, a + k * a_step, a_step, b, out + k * out_step, out_step, sums)
                k += HALF
            else:
                put_row(zero, a + k * a_step, a_step, b, out + k * out_step, out_step, sums)
                k += 1

    return put_tiles


def _first_tap(taps):
    """The tap of conv2d_input with stride 2 that a tile's first position meets in element 0.

    It is 0 or 1, that of a layer padded by (taps - 1) // 2; other paddings must differ by an even number.
    """
    return (taps - 1) // 2 % 2


# The kinds of lines: with stride 1, and with stride 2 of conv2d and of conv2d_input. Maps of 7x7 and 14x14 are common;
# tiles of conv2d_input with stride 2 begin at even positions. CPUs with six rows in a tile have none.
BY_ONE, FORWARD_BY_TWO, INPUT_BY_TWO = 1, 2, 3
LINES = {
    BY_ONE: Lines(7, 1, 1, lambda taps, j, t: j - t),
    FORWARD_BY_TWO: Lines(7, 2, 1, lambda taps, j, t: -1 if (j - t) % 2 else (j - t) // 2),
    INPUT_BY_TWO: Lines(8, 1, 2, lambda taps, j, t: 2 * j + t - _first_tap(taps)),
}


def _put_lines(kind):
    """Return a helper that computes and writes whole rows of positions, tile by tile."""
    count, moves, by, row_of = kind
    count = min(count, TILE_ROWS)  # On CPUs with six rows this is compiled, but never used.
    add_three, add_five, add_seven = (row_products_within(count, taps, partial(row_of, taps)) for taps in LINE_TAPS)
    write_rows, stream_rows = (put_rows(count, how) for how in ("write", "stream"))

    @helper
    def put_lines(zero, a_first, a_steps, b_first, out_first, out_steps, counts, sums, edges):
        (tap_rows, in_depth, taps), a_taps, b_taps, _, (a_vector, out_vector), (streams, ahead), _, _ = sums
        a_step, out_step, b_step, b_vector = a_taps[2], out_steps[2], b_taps[2], int(VECTOR_BYTES)
        first_element, size = edges
        column = 0
        while column < counts[2]:
            # The tiles of a column leave out the same positions, so they come one after the other: the CPU foresees it.
            column = min(column, counts[2] - count)  # A tile that would reach past the last position begins earlier.
            moved = column * moves // by
            first, last = first_element - moved, first_element + size - moved
            for row in range(counts[0] * counts[1]):
                i, j = row // counts[1], row % counts[1]
                a = a_first + i * a_steps[0] + j * a_steps[1] + moved * a_step
                out = out_first + i * out_steps[0] + j * out_steps[1] + column * out_step
                if ahead:  # The next block of lanes needs the lines beside these: the CPU does not foresee that.
                    for r in range(count * moves // by):
                        for line in range(0, LANE_BYTES, LINE_BYTES):
                            fetch(a + r * a_step + LANE_BYTES + line)
                tile, b, h = zeros(zero), b_first, 0
                for _ in range(tap_rows):
                    if taps == LINE_TAPS[0]:
                        tile = add_three(tile, a, a_step, a_vector, b, b_step, b_vector, first, last)
                    elif taps == LINE_TAPS[1]:
                        tile = add_five(tile, a, a_step, a_vector, b, b_step, b_vector, first, last)
                    else:
                        tile = add_seven(tile, a, a_step, a_vector, b, b_step, b_vector, first, last)
                    h, a, b = h + 1, a + a_taps[1], b + b_taps[1]
                    if h == in_depth:
                        h, a, b = 0, a + a_taps[0], b + b_taps[0]
                if streams and out % LINE_BYTES == 0:
                    stream_rows(tile, out, out_step, out_vector)
                else:
                    write_rows(tile, out, out_step, out_vector)
            column += count

    return put_lines


put_lines: Any = _put_lines(LINES[BY_ONE])
put_lines_by_two: Any = _put_lines(LINES[FORWARD_BY_TWO])
put_lines_of_input_by_two: Any = _put_lines(LINES[INPUT_BY_TWO])
put_tiles: Any = _tiles_of(False)
put_tiles_in_turns: Any = _tiles_of(True)


@helper
def tile_axes(n, h, w):
    """The order of three axes of positions: tiles lie along the last one, which is w unless its run is short."""
    if w >= TILE_ROWS or w == HALF or (w >= HALF and n < HALF) or (w >= n and w >= h):
        return 0, 1, 2
    if h >= n:
        return 0, 2, 1
    return 1, 2, 0


@helper
def fetch_part(sizes, part, block, parts, size):
    """Begin to fetch what a part of a call reads, as much of it as one of the blocks of lanes is of all."""
    if part < 0 or part >= parts:
        return
    n = part // sizes.bands_count * sizes.images_together
    images = min(sizes.images_together, sizes.images - n)
    box, steps = record(sizes.bands, part % sizes.bands_count, BandRow).source, sizes.source
    count = box.depths * box.rows * box.columns * sizes.all_lanes * size
    for k in range(n, n + images):
        first = sizes.call.a + k * steps.n + first_of((box.d, box.h, box.w), steps)
        for at in range(block * count // sizes.blocks, (block + 1) * count // sizes.blocks, LINE_BYTES):
            fetch(first + at)


@helper
def do_tasks(zero, arguments, thread, groups, lines):
    """Do tasks of `depthwise`, for which `groups` and `lines` are None, of `in_groups`, or of `in_lines`."""
    size = bytes_of(zero)
    sizes = record(arguments, 0, DepthwiseSizes)
    width, taps = LANE_BYTES // size, (sizes.fd, sizes.fh, sizes.fw)
    # The numbers of the blocks whose packed filters this thread keeps, and then those filters.
    first = own_scratch(arguments)[3]
    kept = carray(integers_at(first), sizes.blocks_kept)
    filters_memory = after(first, round_up(8 * sizes.blocks_kept, LINE_BYTES))
    source_memory = after(filters_memory, sizes.blocks_kept * sizes.result_bytes)
    out_memory = after(source_memory, sizes.source_bytes)
    for k in range(sizes.blocks_kept):
        kept[k] = -1
    group, turn_bytes = sizes.lanes.group, taps[0] * taps[1] * taps[2] * LANE_BYTES
    parts, together = ceil_div(sizes.images, sizes.images_together) * sizes.bands_count, sizes.blocks_together
    tasks = parts * sizes.blocks // together
    step, left = 0, 0  # Steps are numbered too; so many are left of a task.
    while True:
        # 1. a step: a block of lanes, its filters, and a part of the source
        if left == 0:
            task = next_task(arguments, thread, tasks)
            if task < 0:
                wait_for_streams()
                return
            step, left = task * together, together
        block = step % sizes.blocks
        lane, lanes, n, images, number = part_of(step // sizes.blocks, block, sizes, width)
        pairs = groups is None and sizes.last_lanes < width and block == sizes.blocks - 1
        band = record(sizes.bands, number, BandRow)
        place = block % sizes.blocks_kept
        filters = filters_memory + place * sizes.result_bytes
        if kept[place] != block:
            kept[place] = block
            at = sizes.call.b + lane // group * sizes.filters.group
            pack_filters(zero, filters, at, sizes.filters, taps, lanes, groups, sizes.lanes, pairs)
        source, source_steps = placed_images(
            zero, sizes.call.a, sizes.source, (n, images, lane), band.source, lanes, groups,
            (group, sizes.lanes.source), sizes.source_packed, source_memory,
        )  # fmt: skip
        if sizes.ahead:
            fetch_part(sizes, step // sizes.blocks + (-1 if thread & 1 else 1), block, parts, size)
        target = sizes.call.out + n * sizes.out.n + lane // group * sizes.lanes.out * sizes.out.c
        out, out_steps = target, sizes.out
        if sizes.out_packed:
            out_steps = packed_steps(band.out, size)
            out = out_memory - first_of((band.out.d, band.out.h, band.out.w), out_steps)
        step, left = step + 1, left - 1
        band_bytes = band.out.depths * band.out.rows * band.out.columns * sizes.all_lanes * size
        first_out = first_of((band.out.d, band.out.h, band.out.w), sizes.out)
        if sizes.gathers:
            out_steps = Steps(band_bytes, sizes.out.d, sizes.out.h, sizes.out.w, sizes.out.c)
            out = out_memory - first_out + lane * size
        for row in range(band.first_group, band.last_group):
            # 2. a group of the plan
            line = record(sizes.table, row, GroupRow)
            (d, h, w), (depths, rows, columns) = line.terms, line.positions
            a, b, to = source + line.source.first, filters + line.filters.first, out + line.out.first
            (a_d, a_h, a_w), (b_d, b_h, b_w) = line.source.term, line.filters.term
            a_fixed = source_steps.n, line.source.position[1], line.source.position[2]
            out_fixed = out_steps.n, line.out.position[1], line.out.position[2]
            if a_w == -a_fixed[2]:  # the last tap comes first, so that taps and positions go the same way
                a, b = a + (w - 1) * a_w, b + (w - 1) * b_w
                a_w, b_w = -a_w, -b_w
            x, y, z = tile_axes(images, rows, columns)
            if lines is not None:
                x, y, z = 0, 1, 2
            axes, counts = (images, rows, columns), (d * h, h, w)
            # The steps from past the last row of a depth to the first row of the next one.
            a_jump, b_jump = a_d - h * a_h, b_d - h * b_h
            slides = 0
            if z == 2:
                slides = 1 if a_w == a_fixed[2] else 2 if 2 * a_w == a_fixed[2] else 0
            # The vectors of a row of lanes; those of a pair are of two positions along y or x, or of a lone one.
            count_x, count_y, vectors = axes[x], axes[y], (int(VECTOR_BYTES), int(VECTOR_BYTES))
            if pairs and count_y > 1:
                count_y, apart = ceil_div(count_y, 2), count_y // 2
                vectors = apart * a_fixed[y], apart * out_fixed[y]
            elif pairs:
                count_x, apart = ceil_div(count_x, 2), count_x // 2
                vectors = apart * a_fixed[x], apart * out_fixed[x]
            memory = sizes.streams, sizes.ahead
            sums = (
                counts, (a_jump, a_h, a_w), (b_jump, b_h, b_w), slides, vectors, memory, sizes.lanes.turns, turn_bytes
            )  # fmt: skip
            # 3. its tiles: neighbouring positions
            for k in range(depths):
                a_depth = a + k * line.source.position[0]
                out_depth = to + k * line.out.position[0]
                if lines is not None:
                    edges, some = (sizes.line_first, sizes.line_size), (count_x, count_y, axes[2])
                    if sizes.lines == BY_ONE:
                        put_lines(zero, a_depth, a_fixed, b, out_depth, out_fixed, some, sums, edges)
                    elif sizes.lines == FORWARD_BY_TWO:
                        put_lines_by_two(zero, a_depth, a_fixed, b, out_depth, out_fixed, some, sums, edges)
                    else:
                        put_lines_of_input_by_two(zero, a_depth, a_fixed, b, out_depth, out_fixed, some, sums, edges)
                    continue
                for i in range(count_x):
                    for j in range(count_y):
                        a_row = a_depth + i * a_fixed[x] + j * a_fixed[y]
                        out_row = out_depth + i * out_fixed[x] + j * out_fixed[y]
                        if groups is None:
                            put_tiles(zero, a_row, a_fixed[z], b, out_row, out_fixed[z], axes[z], sums)
                        else:
                            put_tiles_in_turns(zero, a_row, a_fixed[z], b, out_row, out_fixed[z], axes[z], sums)
        # 4. the results to their places
        if sizes.out_packed:
            unpack_images(
                zero, target, sizes.out, out_memory, band.out, images, lanes, groups, (group, sizes.lanes.out)
            )
        if sizes.gathers and left == 0:
            for k in range(images):
                there = sizes.call.out + (n + k) * sizes.out.n + first_out
                stream_numbers(zero, there, out_memory + k * band_bytes, band_bytes // size)


def depthwise(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d or conv2d_input until none is left::

        y[n, o, c] = sum of x[n, i, c] * w[c, f]          over all (i, f) that meet o
        dx[n, i, c] = sum of dy[n, o, c] * w[c, f]        over all (f, o) that meet i

    where i = o*stride - before + f*dilation on each axis.
    A task is some images, a band of rows of the result, and all blocks of channels, or one of them. The blocks of a
    band are done in turn: a cache line may have channels of two of them, and threads that both write to it wait for
    each other. Channels that are not neighbours in memory, or fewer than a vector has lanes, are packed first, and the
    results are unpacked.
    """
    do_tasks(zero, arguments, thread, None, None)


def in_lines(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: as `depthwise`, with tiles that are parts of whole rows, edges included."""
    do_tasks(zero, arguments, thread, None, IN_LINES)


def in_groups(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: as `depthwise`, for groups of several channels on either side."""
    do_tasks(zero, arguments, thread, IN_GROUPS, None)


def _sum_of(taps, twice=False):
    """Return a helper that adds a sum over positions to the results of so many neighbouring taps.

    If `twice`, it does so for two turns, between which neighbouring lanes of B change places.
    """
    add_one, add_two, add_three = (row_products(taps, positions, twice=twice) for positions in (1, 2, 3))
    add_rows, add_others = put_rows(taps, "add"), put_rows(taps, "add", taps if twice else 0)

    @helper
    def add_sum(zero, a, a_step, b, results, sums):
        counts, a_steps, b_steps, slides, (a_vector, b_vector), other = sums
        tile = zeros(zero)
        for i in range(counts[0]):
            for j in range(counts[1]):
                at, b_at = a + i * a_steps[0] + j * a_steps[1], b + i * b_steps[0] + j * b_steps[1]
                left = counts[2]
                if slides:
                    while left >= 3:
                        tile = add_three(tile, at, a_step, a_vector, b_at, b_steps[2], b_vector)
                        at, b_at, left = at + 3 * a_steps[2], b_at + 3 * b_steps[2], left - 3
                    if left == 2:
                        tile = add_two(tile, at, a_step, a_vector, b_at, b_steps[2], b_vector)
                        left = 0
                for k in range(left):
                    tile = add_one(tile, at + k * a_steps[2], a_step, a_vector, b_at + k * b_steps[2], 0, b_vector)
        add_rows(tile, results, int(LANE_BYTES), int(VECTOR_BYTES))
        if twice:
            add_others(tile, results + other, int(LANE_BYTES), int(VECTOR_BYTES))

    return add_sum


add_to_four: Any = _sum_of(4)
add_to_three: Any = _sum_of(3)
add_to_one: Any = _sum_of(1)
add_twice_to_three: Any = _sum_of(3, twice=True)
add_twice_to_one: Any = _sum_of(1, twice=True)


@helper
def add_taps(zero, a, tap_steps, b, results, result_steps, taps, sums):
    """Add the sum over some positions to the results of all taps of a group."""
    for d in range(taps[0]):
        for h in range(taps[1]):
            at, left = a + d * tap_steps[0] + h * tap_steps[1], taps[2]
            there = results + d * result_steps[0] + h * result_steps[1]
            while left > 0:
                if left >= 4 and left != 5 and left != 6:  # 5 is done as 3, 1 and 1, and 6 as 3 and 3
                    count = 4
                    add_to_four(zero, at, tap_steps[2], b, there, sums)
                elif left >= 3:
                    count = 3
                    add_to_three(zero, at, tap_steps[2], b, there, sums)
                else:
                    count = 1
                    add_to_one(zero, at, tap_steps[2], b, there, sums)
                at, there, left = at + count * tap_steps[2], there + count * LANE_BYTES, left - count


@helper
def add_taps_twice(zero, a, tap_steps, b, results, result_steps, taps, sums):
    """As `add_taps`, for two turns."""
    for d in range(taps[0]):
        for h in range(taps[1]):
            at, left = a + d * tap_steps[0] + h * tap_steps[1], taps[2]
            there = results + d * result_steps[0] + h * result_steps[1]
            while left > 0:
                count = 3 if left >= 3 else 1
                if count == 3:
                    add_twice_to_three(zero, at, tap_steps[2], b, there, sums)
                else:
                    add_twice_to_one(zero, at, tap_steps[2], b, there, sums)
                at, there, left = at + count * tap_steps[2], there + count * LANE_BYTES, left - count


@helper
def swap_positions(zero, b, counts, b_steps, distance):
    """Swap the lanes of some positions with those at a distance."""
    for i in range(counts[0]):
        for j in range(counts[1]):
            swap(zero, b + i * b_steps[0] + j * b_steps[1], b_steps[2], counts[2], distance)


@helper
def pairs_of(x, y, a_steps, b_steps, left):
    """Pairs of positions along y, or along x if y has one: how many, how far apart, and the offsets of the first.

    With `left`: the one that has no partner, or none. Both vectors hold it then, and the sum of the first is used.
    """
    along_y = y > 1
    many = y if along_y else x
    a_step, b_step = (a_steps[1], b_steps[1]) if along_y else (a_steps[0], b_steps[0])
    count, apart, first = (many % 2, 0, many - 1) if left else (many // 2, many // 2, 0)
    counts = (x, count) if along_y else (count, y)
    return counts, (apart * a_step, apart * b_step), (first * a_step, first * b_step)


@helper
def do_filters(zero, arguments, thread, groups):
    """Do tasks of `of_filters`, for which `groups` is None, or of `of_filters_in_groups`."""
    size = bytes_of(zero)
    sizes = record(arguments, 0, DepthwiseSizes)
    results = own_scratch(arguments)[3]
    width, taps = LANE_BYTES // size, (sizes.fd, sizes.fh, sizes.fw)
    source_memory = after(results, sizes.result_bytes)
    out_memory = after(source_memory, sizes.source_bytes)
    group, turn_bytes = sizes.lanes.group, taps[0] * taps[1] * taps[2] * LANE_BYTES
    parts, chunks = sizes.parts, ceil_div(sizes.images, sizes.images_together) * sizes.bands_count
    while True:
        # 1. a task: its results begin as 0
        task = next_task(arguments, thread, sizes.blocks * parts)
        if task < 0:
            return
        block, part = task % sizes.blocks, task // sizes.blocks
        if parts > 1:
            results = sizes.call.kept + (block * parts + part) * sizes.result_bytes
        for k in range(0, sizes.result_bytes, VECTOR_BYTES):
            fill_vector(zero, results + k)
        lane, lanes = part_of(0, block, sizes, width)[:2]
        pairs = groups is None and sizes.last_lanes < width and block == sizes.blocks - 1
        for chunk in range(part * chunks // parts, (part + 1) * chunks // parts):
            # 2. a chunk of x and dy
            n, images, number = part_of(chunk, block, sizes, width)[2:]
            band = record(sizes.bands, number, BandRow)
            source, source_steps = placed_images(
                zero, sizes.call.a, sizes.source, (n, images, lane), band.source, lanes, groups,
                (group, sizes.lanes.source), sizes.source_packed, source_memory,
            )  # fmt: skip
            out, out_steps = placed_images(
                zero, sizes.call.out, sizes.out, (n, images, lane), band.out, lanes, groups,
                (group, sizes.lanes.out), sizes.out_packed, out_memory,
            )  # fmt: skip
            # With pairs there are two steps for a group: all pairs, and the row or image that is left alone.
            for step in range(band.first_group * (1 + pairs), band.last_group * (1 + pairs)):
                # 3. a group of the plan: some taps of each row of the filter at a time
                line = record(sizes.table, step // (1 + pairs), GroupRow)
                depths, rows, columns = line.positions
                a, b, at = source + line.source.first, out + line.out.first, results + line.filters.first
                axes = images, rows, columns
                a_fixed = source_steps.n, line.source.position[1], line.source.position[2]
                b_fixed = out_steps.n, line.out.position[1], line.out.position[2]
                x, y, z = tile_axes(images, rows, columns)
                a_steps, b_steps = (a_fixed[x], a_fixed[y], a_fixed[z]), (b_fixed[x], b_fixed[y], b_fixed[z])
                tap_steps, result_steps = line.source.term, line.filters.term
                counts_xy, vectors = (axes[x], axes[y]), (int(VECTOR_BYTES), int(VECTOR_BYTES))
                if pairs:
                    counts_xy, vectors, (a_left, b_left) = pairs_of(axes[x], axes[y], a_steps, b_steps, step % 2)
                    a, b, at = a + a_left, b + b_left, at + step % 2 * turn_bytes
                count_x, count_y = counts_xy
                by_x, by_y = max(1, POSITIONS // max(1, count_y * axes[z])), min(count_y, ceil_div(POSITIONS, axes[z]))
                for k in range(depths):
                    a_depth = a + k * line.source.position[0]
                    b_depth = b + k * line.out.position[0]
                    for i in range(0, count_x, by_x):
                        for j in range(0, count_y, max(1, by_y)):
                            counts = min(by_x, count_x - i), min(by_y, count_y - j), axes[z]
                            slides = z == 2 and tap_steps[2] == a_fixed[2]
                            a_at = a_depth + i * a_steps[0] + j * a_steps[1]
                            b_at = b_depth + i * b_steps[0] + j * b_steps[1]
                            if groups is None:
                                sums = counts, a_steps, b_steps, slides, vectors, 0
                                add_taps(zero, a_at, tap_steps, b_at, at, result_steps, line.terms, sums)
                                continue
                            for turn in range(0, sizes.lanes.turns, 2):
                                if turn:
                                    swap_positions(zero, b_at, counts, b_steps, turn & -turn)
                                # The lanes of dy are those of this turn, or of the next one.
                                here = turn | turn >> 1 & 1
                                other = 0 if sizes.lanes.turns == 1 else -turn_bytes if here & 1 else turn_bytes
                                sums = counts, a_steps, b_steps, slides, vectors, other
                                there = at + here * turn_bytes
                                if other:
                                    add_taps_twice(zero, a_at, tap_steps, b_at, there, result_steps, line.terms, sums)
                                else:
                                    add_taps(zero, a_at, tap_steps, b_at, there, result_steps, line.terms, sums)
        # 4. the results to dw, by the thread that finishes the last part of a block
        if parts > 1:
            if next_number(sizes.call.done, block) < parts - 1:
                continue
            results -= part * sizes.result_bytes
            add_parts(zero, results, sizes.result_bytes, parts)
        if pairs:  # The results of the two vectors, and of what was left alone.
            for k in range(0, turn_bytes, LANE_BYTES):
                add_vector(zero, results + k, results + k + VECTOR_BYTES)
                add_vector(zero, results + k, results + k + turn_bytes)
        # The lanes that a last block of pairs shares with the block before are that block's, which has no pairs.
        shared = block * width - lane if pairs else 0
        at, results_at = sizes.call.b + (lane + shared) // group * sizes.filters.group, results + shared * size
        unpack_filters(zero, at, sizes.filters, results_at, taps, lanes - shared, groups, sizes.lanes)


def of_filters(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d_weight until none is left::

        dw[c, f] = sum of dy[n, o, c] * x[n, i, c]        over images n, and all (i, o) that meet f

    where i = o*stride - before + f*dilation on each axis.
    A task is a block of channels and, if the sum is cut into parts, a part of the chunks. A chunk is some images and a
    band of rows of dy. The results stay in memory of their own, tap by tap, until they are complete.
    """
    do_filters(zero, arguments, thread, None)


def of_filters_in_groups(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: as `of_filters`, for groups of several channels on either side."""
    do_filters(zero, arguments, thread, IN_GROUPS)
