"""conv2d and conv2d_input on the CPU::

    y[n, o, c] = sum of x[n, i, k] * w[c, f, k]       over all (i, f) that meet o, and channels k
    dx[n, i, c] = sum of dy[n, o, k] * w[k, f, c]     over all (f, o) that meet i, and channels k

where i = o*stride - before + f*dilation on each axis. The rows of a tile are positions of the result, its lanes are
channels of the result, and the filters are packed first. An array whose channels are not last is copied::

    copy[n, i, c] = source[n, i, c]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray
from numba.extending import register_jitable

from ...buffers import LINE_BYTES
from ...geometry import Affine, Axis, ConvShape, Group, Run, plan
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
    five,
    group_row,
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
from .packed import AXES, NARROW, FilterSteps, filter_steps, taps_are_last
from .registers import (
    L2_BYTES,
    LANE_BYTES,
    ONLY_IN_KERNELS,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    addresses_in,
    after,
    bytes_of,
    fetch,
    fill_vector,
    helper,
    integers_at,
    products_along,
    products_in_panels,
    stream,
    wait_for_streams,
    zeros,
)
from .repeats import not_again, temporary
from .tile import (
    FEWEST_TAPS,
    PART_GAP,
    SET_BYTES,
    WRITE,
    pack,
    pack_images,
    part_taps,
    put,
    put_sums,
    sum_of_products,
    sums_of,
)

# About so many tasks for each thread, if they have enough tiles: the more, the less a thread waits for the last one.
TASKS = 32
# The packed panels of a task have at most so many bytes, unless there is one alone, or short tiles save work.
PANELS_BYTES = 5 * L2_BYTES // 8
SHORT_SAVING = 0.05  # Short tiles must save this share of the work, if their panels have more bytes than that.
FILTERS_AHEAD = 6  # Number of filters from the one that is being packed to the one that is fetched into the cache.
PACKING = {"conv2d": 12, "conv2d_input": 8}  # To pack a filter takes as long as its products for so many positions.
FEW_SLOWER = 1.2  # A tile of few rows, which loads the most numbers of filters, takes so many times as long.
# Filters that more positions meet are packed, even if their lanes lie side by side; the second number is for rows of
# lanes that are a multiple of SET_BYTES apart, which push each other out of the cache.
IN_PLACE = 256, 16
STREAM_BYTES = 2**20  # Results of at least this size are written past the caches.
COPY_BYTES = 3 * 2**20  # Images are copied to channels last in pieces of about this size.
# Results of at most this size whose channels are not last, and whose neighbours are not in one tile because there is a
# stride, are turned at the end.
LATER_BYTES = 2**19
LEAST_COLUMNS, COPY_COLUMNS = 16, 1024  # A thread copies so many columns of a row at a time.
FEW_ROWS, HALF_ROWS = 2, TILE_ROWS // 2  # Rows of short tiles, which have several panels.
FEW_PANELS, HALF_PANELS = TILE_ROWS // FEW_ROWS, 2
MOST_PANELS = FEW_PANELS  # most panels of a tile
IN_COLUMNS = 1  # Numba compiles a helper for None and for this constant, and leaves out what is for the other.
sum_of_products_along: Any = sums_of(products_along(TILE_ROWS))
sum_of_few_rows: Any = sums_of(products_in_panels(FEW_ROWS))
sum_of_half: Any = sums_of(products_in_panels(HALF_ROWS))


# --- what the kernels are given ------------------------------------------------------------------
class GatherSizes(NamedTuple):
    """The arguments of `gather`: lanes are channels of the result, terms those that are summed over.

    `turned` is the number of taps that a panel has for each term, or 1 if it has all terms of a tap side by side.
    """

    call: Call
    table: int
    groups: int
    images: int
    channel_groups: int
    terms: int
    lanes: int
    panels_together: int
    tile_panels: int
    tiles_together: int
    narrow: int
    in_place: int
    turned: int
    streams: int
    source: Steps
    out: Steps
    filters: FilterSteps


class CopySizes(NamedTuple):
    """The arguments of `to_channels_last`; its A is the source, its B the copy."""

    call: Call
    images: int
    depths: int
    rows: int
    columns: int
    columns_together: int
    channels: int
    source: Steps


class Taps(NamedTuple):
    """Evenly spaced taps of one axis."""

    first: int
    step: int
    number: int


class PackedTaps(NamedTuple):
    """The taps that are packed for a class of groups: how many along each axis, and bytes to them in the filters.

    `packed_steps` are those from tap to tap in a panel, and `panel` its bytes, or those of a lane if they are narrow.
    """

    number: int
    counts: tuple[int, int, int]
    first: int
    steps: tuple[int, int, int]
    packed_steps: tuple[int, int, int]
    panel: int


class GatherRow(NamedTuple):
    """A row of the table: a group, with its taps where they are packed, and what is packed for it."""

    first_block: int
    group: GroupRow
    packed: PackedTaps


# --- the sizes -----------------------------------------------------------------------------------
def run(operator: str, shape: ConvShape, source: Array, w: Array, out: Array) -> None:
    """Run an operator on the whole source or, if its channels are not last, piece by piece on copies."""
    threads = number_of_threads(operator, shape)
    if source.strides[-1] == source.itemsize:
        _run(operator, shape, source, w, out, threads)
        return
    for part_shape, part, result in _pieces(operator, shape, source, out):
        if result.size < out.size:
            not_again()  # Copies of the pieces would be kept until the call ends.
        _run(operator, part_shape, copied_channels_last(part, threads), w, result, threads)


def _run(operator: str, shape: ConvShape, source: Array, w: Array, out: Array, threads: int) -> None:
    planes, strided = np.moveaxis(out, -1, 1), operator == "conv2d_input" and prod(shape.stride) > 1
    if strided and out.strides[-1] > out.itemsize and planes.flags.c_contiguous and out.nbytes <= LATER_BYTES:
        result = temporary(out.shape, out.dtype)
        _run(operator, shape, source, w, result, threads)
        n, c = planes.shape[:2]
        copy_to(planes.reshape(n, c, -1), result.reshape(n, -1, c).transpose(0, 2, 1), threads)
        return
    sizes = sizes_of(operator, shape, len(source), source.strides, w.strides, out.strides, threads)
    kernel = gather_narrow if sizes.named.narrow else gather
    start(kernel, out.dtype, threads, sizes, source=source, filters=w, out=out)


def _pieces(operator: str, shape: ConvShape, source: Array, out: Array) -> Iterator[tuple[ConvShape, Array, Array]]:
    """Cut a layer into layers whose source has about COPY_BYTES: some images, or a band of the first axis of one."""
    image_bytes, whole = source[0].size * source.itemsize, out.shape[1]
    images, length = max(1, COPY_BYTES // image_bytes), min(whole, max(1, COPY_BYTES * whole // image_bytes))
    for n, first in product(range(0, shape.n, images), range(0, whole, length)):
        last = min(first + length, whole)
        axis, begin, end = band(operator, shape.axes[0], first, last)
        some = slice(n, n + images)
        yield shape.with_axes(axis, *shape.axes[1:]), source[some, begin:end], out[some, first:last]


def band(operator: str, axis: Axis, first: int, last: int) -> tuple[Axis, int, int]:
    """The axis whose results are those from `first` to before `last`, and the part of the source that it has."""
    stride, before = axis.stride, axis.before
    if operator == "conv2d":
        begin = min(max(0, first * stride - before), axis.size - 1)
        end = min(max(begin + 1, (last - 1) * stride - before + axis.span), axis.size)
        size, outputs, before = end - begin, last - first, before + begin - first * stride
    else:
        at = first + before  # The output that lies there must have begun, so that the padding is not negative.
        begin = max(0, min(ceil_div(at - axis.span + 1, stride), at // stride, axis.outputs - 1))
        end = max(begin + 1, min(axis.outputs, (last - 1 + before) // stride + 1))
        size, outputs, before = last - first, end - begin, at - begin * stride
    after = (outputs - 1) * stride + axis.span - size - before
    return replace(axis, size=size, before=before, after=after), begin, end


def copied_channels_last(source: Array, threads: int) -> Array:
    """Copy an array to contiguous memory, on some threads."""
    copy = temporary(source.shape, source.dtype)
    copy_to(copy, source, threads)
    return copy


def copy_to(target: Array, source: Array, threads: int) -> None:
    """Copy an array to contiguous memory of its shape, on some threads."""
    images, *lengths, channels = source.shape
    depths, rows, columns = [1] * (3 - len(lengths)) + lengths
    steps = five(source.strides)
    if rows == 1 or steps[2] == columns * steps[3]:  # Rows without a gap are one long row.
        rows, columns = 1, rows * columns
    together = max(LEAST_COLUMNS, min(COPY_COLUMNS, images * depths * rows * columns // (4 * threads)))
    sizes = CopySizes(
        call=NO_CALL,
        images=images,
        depths=depths,
        rows=rows,
        columns=columns,
        columns_together=even_part(columns, together),
        channels=channels,
        source=Steps(*steps),
    )
    start(to_channels_last, target.dtype, threads, Sizes.of(sizes), source=source, target=target)


@lru_cache(maxsize=1024)
def sizes_of(
    operator: str, shape: ConvShape, images: int, source: Strides, w: Strides, out: Strides, threads: int
) -> Sizes:
    """Return the sizes for `gather` on some images; source, w and out are strides of the arrays."""
    source, out = five(source), five(out)
    size = source[4]
    in_place = read_in_place(operator, shape, images, w, size)
    lanes, terms = lanes_and_terms(operator, shape)
    filters = filter_steps(operator, w, shape.oc // shape.groups, size)
    turned = not in_place and may_be_turned(operator, shape, w, size)
    classes = _classes(operator, shape, turned)
    term_bytes = terms * max(1, *(prod(axis.number for axis in axes) for axes in classes))  # all terms of a lane
    narrow = not in_place and not turned and lanes <= NARROW and terms * size % VECTOR_BYTES == 0
    narrow = narrow and lanes * term_bytes * size <= PANELS_BYTES
    panels = ceil_div(lanes * size, LANE_BYTES)
    whole = [group for groups in classes.values() for group in groups]
    packing = 0 if in_place else PACKING[operator] * prod(axis.taps for axis in shape.axes)

    def work(count: int) -> float:
        """The work of a thread, if so many panels are together."""
        blocks = ceil_div(panels, count) * shape.groups
        return work_of(whole, images, count) / threads + packing * ceil_div(blocks, threads) / blocks

    together = even_part(panels, PANELS_BYTES // (term_bytes * LANE_BYTES))
    for count in (HALF_PANELS, FEW_PANELS):
        if turned and count * term_bytes * LANE_BYTES > L2_BYTES:
            break
        if together < count <= panels and work(count) < (1 - SHORT_SAVING) * work(together):
            together = count
    few_left = any(0 < images * group.positions % TILE_ROWS <= HALF_ROWS + FEW_ROWS for group in whole)
    rows: list[GatherRow] = []
    tiles = 0
    for number, (axes, groups) in enumerate(classes.items()):
        tap_bytes = LANE_BYTES if turned else terms * (size if narrow else LANE_BYTES)
        packed = _packed_taps(number, axes, filters, tap_bytes, terms if turned else 1, narrow)
        for group in groups:
            rows.append(GatherRow(tiles, _row(operator, group, axes, packed, (source, filters, out), in_place), packed))
            tiles += ceil_div(images * group.positions, TILE_ROWS)
    end = rows[0]._replace(first_block=tiles)  # It ends the search for a tile.
    table = np.array([numbers_of(row) for row in (*rows, end)], np.int64)
    panel_blocks = ceil_div(panels, together) * shape.groups
    # Tasks of the same panels pack all of their taps, if these are turned.
    blocks = 1 if turned and panel_blocks % threads == 0 else ceil_div(TASKS * threads, panel_blocks)
    least = 1 if in_place else 8  # Each thread packs filters once, which a task of fewer tiles would not be worth.
    # Large results that are whole cache lines are written past the caches, which are too small for them.
    whole_lines = out[4] == size and not any(step % LINE_BYTES for step in (LANE_BYTES, *out[:4]))
    sizes = GatherSizes(
        call=NO_CALL,
        table=table.ctypes.data,
        groups=len(rows),
        images=images,
        channel_groups=shape.groups,
        terms=terms,
        lanes=lanes,
        panels_together=together,
        tile_panels=min(MOST_PANELS, together) if few_left else 1,
        tiles_together=min(64, max(least, ceil_div(tiles, blocks))),
        narrow=narrow,
        in_place=in_place,
        turned=prod(axis.taps for axis in shape.axes) if turned else 1,
        streams=whole_lines and images * out[0] >= STREAM_BYTES,
        source=Steps(*source),
        out=Steps(*out),
        filters=filters,
    )
    most = max(row.packed.panel for row in rows)
    packed_bytes = 0 if in_place else (lanes if narrow else together) * most
    return Sizes.of(sizes, SCRATCH_HEAD + LINE_BYTES + packed_bytes, table)


def read_in_place(operator: str, shape: ConvShape, images: int, w: Strides, itemsize: int) -> bool:
    """Whether filters of these strides need no packing: panels, or whole rows of lanes that few positions meet."""
    if len(w) == AXES:
        return True
    groups = plan(operator, with_three_axes(shape)).groups
    positions = sum(images * group.positions * group.terms for group in groups)
    lane, term, lanes = (w[0], w[-1], shape.oc) if operator == "conv2d" else (w[-1], w[0], shape.ic)
    whole = lane == itemsize and lanes // shape.groups * itemsize % LANE_BYTES == 0
    return whole and positions <= IN_PLACE[term % SET_BYTES == 0] * prod(axis.taps for axis in shape.axes)


def may_be_turned(operator: str, shape: ConvShape, w: Strides, itemsize: int) -> bool:
    """Whether filters of these strides have their taps last, and are packed in whole vectors.

    Panels then have all taps, because these share cache lines, unless phases of them alone fit into the cache.
    """
    lanes, terms = lanes_and_terms(operator, shape)
    taps = prod(axis.taps for axis in shape.axes)
    whole = lanes * itemsize % VECTOR_BYTES == 0 and terms * taps * itemsize >= VECTOR_BYTES
    together = operator == "conv2d" or prod(shape.stride) == 1 or terms * taps * LANE_BYTES <= L2_BYTES
    return whole and together and taps >= FEWEST_TAPS and taps_are_last(shape, w, itemsize)


def work_of(groups: Iterable[Group], images: int, panels: int) -> float:
    """The time of all tiles, for each panel if so many are together, in products of a row of a tile."""
    return sum(tiles_of(images * group.positions, panels) * group.terms for group in groups) * TILE_ROWS / panels


def tiles_of(rows: int, panels: int) -> float:
    """How many tiles have so many rows of some panels; those of few rows count for more."""
    count, rest = float(rows // TILE_ROWS * panels), rows % TILE_ROWS
    while rest:
        now, left = rows_at_once(rest, min(panels, MOST_PANELS)), panels
        while left:
            here = panels_at_once(now, min(left, MOST_PANELS))
            left, count = left - here, count + (FEW_SLOWER if here == FEW_PANELS else 1)
        rest -= now
    return count


def _packed_taps(
    number: int, axes: tuple[Taps, ...], filters: FilterSteps, tap_bytes: int, times: int, narrow: bool
) -> PackedTaps:
    """The taps of a class of groups, each of so many bytes in a panel, which has all of them so many times."""
    strides = filters.d, filters.h, filters.w
    first = sum(taps.first * stride for taps, stride in zip(axes, strides, strict=True))
    by_d, by_h, by_w = (taps.step * stride for taps, stride in zip(axes, strides, strict=True))
    d, h, w = (taps.number for taps in axes)
    packed = (h * w * tap_bytes, w * tap_bytes, tap_bytes)
    panel = times * d * packed[0] + (0 if narrow else PART_GAP)
    return PackedTaps(number, (d, h, w), first, (by_d, by_h, by_w), packed, panel)


def _row(
    operator: str, group: Group, axes: tuple[Taps, ...], packed: PackedTaps, arrays: Any, in_place: bool
) -> GroupRow:
    """The row of a group, with its taps where they are packed."""
    source, filters, out = arrays
    steps = (filters.d, filters.h, filters.w) if in_place else packed.packed_steps
    if not in_place and group.terms:
        places = [
            Affine((run.f.base - taps.first) // taps.step, 0, run.f.term // taps.step)
            for run, taps in zip(group, axes, strict=True)
        ]
        group = Group(run._replace(f=place) for run, place in zip(group, places, strict=True))
    return group_row(operator, group, source[1:4], steps, out[1:4])


def _classes(operator: str, shape: ConvShape, together: bool) -> dict[tuple[Taps, ...], list[Group]]:
    """The groups of the plan, sorted into classes that share packed taps: the phases of conv2d_input.

    If they are `together`, one class has all taps.
    """
    whole = plan(operator, with_three_axes(shape))
    if together:
        return {tuple(Taps(0, 1, axis.taps) for axis in whole.shape.axes): list(whole.groups)}
    steps = [1 if operator == "conv2d" else axis.phase_step for axis in whole.shape.axes]
    phases: dict[tuple[int, ...], list[Group]] = {}
    for group in whole.groups:  # a group without terms may be in any class
        phases.setdefault(tuple(run.f.base % step for run, step in zip(group, steps, strict=True)), []).append(group)
    classes: dict[tuple[Taps, ...], list[Group]] = {}
    for groups in phases.values():
        axes = []
        for runs, step in zip(zip(*groups, strict=True), steps, strict=True):
            first, end = reach(runs, "f")
            axes.append(Taps(first, step, ceil_div(end - first, step)))
        classes.setdefault(tuple(axes), []).extend(groups)
    return classes


def within(group: Group, operator: str, axis: int, band: tuple[int, int]) -> Group:
    """The part of a group of conv2d or conv2d_input whose results lie in a band of an axis."""
    run = group[axis]
    fixed = run.o if operator == "conv2d" else run.i
    first, last = (min(max(0, ceil_div(end - fixed.base, fixed.fixed or 1)), run.positions) for end in band)
    return Group((*group[:axis], run.part(first, last), *group[axis + 1 :]))


def reach(runs: Iterable[Run], index: str) -> tuple[int, int]:
    """The first and the past-the-last "i", "f" or "o" that any of the runs uses."""
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
def jumps(counts, n, steps):
    """Bytes from a position (n, kd, kh, kw) to the next one: of the same row, of the same depth, image, and any."""
    d, h, w = steps
    return w, h - counts[2] * w, d - counts[1] * h, n - counts[0] * d


@helper
def place_of(counts, row, source_n, source_steps, out, out_n, out_steps):
    """The place, as in `place_rows`, of position `row` of a group in all images."""
    d, h, w = counts
    n, kd, kh, kw = row // (d * h * w), row // (h * w) % d, row // w % h, row % w
    source = n * source_n + kd * source_steps[0] + kh * source_steps[1] + kw * source_steps[2]
    out += n * out_n + kd * out_steps[0] + kh * out_steps[1] + kw * out_steps[2]
    return kd, kh, kw, source, out


@helper
def place_rows(counts, place, count, source_jumps, out_jumps, source_rows, out_rows):
    """Write the addresses of `count` rows of a tile, the positions of a group from `place` on.

    A place is a position (kd, kh, kw), and its addresses in the source and in the result. Returns the one after the
    rows. The other rows of the tile repeat the last one.
    """
    kd, kh, kw, source, out = place
    for r in range(TILE_ROWS):
        if r < count:
            at, to = source, out
            kw, source, out = kw + 1, source + source_jumps[0], out + out_jumps[0]
            if kw == counts[2]:
                kw, kh, source, out = 0, kh + 1, source + source_jumps[1], out + out_jumps[1]
                if kh == counts[1]:
                    kh, kd, source, out = 0, kd + 1, source + source_jumps[2], out + out_jumps[2]
                    if kd == counts[0]:
                        kd, source, out = 0, source + source_jumps[3], out + out_jumps[3]
        source_rows[r], out_rows[r] = at, to
    return kd, kh, kw, source, out


@register_jitable(**ONLY_IN_KERNELS)
def rows_at_once(rows, panels):
    """How many of the last rows of a group the next tile has: all, unless two short tiles are less work."""
    cut = HALF_ROWS < rows <= HALF_ROWS + FEW_ROWS and panels >= FEW_PANELS
    return rows - FEW_ROWS if cut else rows


@register_jitable(**ONLY_IN_KERNELS)
def panels_at_once(rows, panels):
    """How many of the panels that are left a tile of so many rows has."""
    if rows <= FEW_ROWS and panels >= FEW_PANELS:
        return FEW_PANELS
    return HALF_PANELS if rows <= HALF_ROWS and panels >= HALF_PANELS else 1


@helper
def place_panels(rows, first, count, panel_step, tile_rows):
    """Write the addresses of a tile's rows, which are those of the first `count` rows in one panel after the other."""
    r = 0
    for k in range(TILE_ROWS):
        tile_rows[k] = rows[r] + first
        r += 1
        if r == count:
            r, first = 0, first + panel_step


@helper
def pack_columns(zero, panel, filters, steps, packed, terms, lanes):
    """Copy filters to (lane, fd, fh, fw, term), the form that `products_along` reads."""
    step = terms * bytes_of(zero)
    for tap in range(packed.counts[0] * packed.counts[1] * packed.counts[2]):
        h, w = packed.counts[1:]
        at = tap // (h * w) * packed.steps[0] + tap // w % h * packed.steps[1] + tap % w * packed.steps[2]
        pack(zero, panel + tap * step, packed.panel, filters + at, steps.lane, steps.term, lanes, terms, terms)


@helper
def pack_panels(zero, panel, filters, steps, packed, terms, lanes):
    """Copy filters to (lane // width, fd, fh, fw, term, lane % width); lanes past the last become 0."""
    (d, h, w), width = packed.counts, LANE_BYTES // bytes_of(zero)
    by_depth = h * w * terms * LANE_BYTES
    by = packed.steps[0], packed.steps[1], packed.steps[2], steps.term, steps.lane
    pack_images(zero, panel, (by_depth, int(LANE_BYTES)), filters, by, (d, h, w, terms, lanes), width)


@helper
def pack_turned(zero, panel, filters, steps, packed, terms, lanes):
    """Copy filters whose taps are last to (lane // width, term, fd, fh, fw, lane % width): the terms keep their order.

    Lanes past the last become 0.
    """
    size, rows = bytes_of(zero), packed.counts[0] * packed.counts[1] * packed.counts[2]
    if steps.lane != rows * size:
        by = 0, 0, 0, size, steps.lane
        pack_images(zero, panel, (0, int(LANE_BYTES)), filters, by, (1, 1, 1, terms * rows, lanes), LANE_BYTES // size)
        return
    for term in range(terms):
        for lane in range(0, round_up(lanes * size, int(LANE_BYTES)) // size, VECTOR_BYTES // size):
            there = panel + lane * size // LANE_BYTES * packed.panel + lane * size % LANE_BYTES
            there += term * rows * LANE_BYTES
            at = filters + lane * steps.lane + term * steps.term
            if lane < lanes:
                for line in range(0, rows * VECTOR_BYTES, LINE_BYTES):
                    fetch(at + FILTERS_AHEAD * steps.term + line)
                part_taps(zero, there, int(LANE_BYTES), at, rows)
            else:
                for row in range(rows):
                    fill_vector(zero, there + row * LANE_BYTES)


@helper
def do_gather(zero, arguments, thread, narrow):
    """Do tasks of `gather`, for which `narrow` is None, or of `gather_narrow`."""
    size = bytes_of(zero)
    sizes = record(arguments, 0, GatherSizes)
    call, terms, lanes = sizes.call, sizes.terms, sizes.lanes
    source_rows, out_rows, tile_rows, free = own_scratch(arguments)
    tile_out, panel = carray(integers_at(free), TILE_ROWS), after(free, int(LINE_BYTES))
    packed = -1  # number of the panels and of the class of taps that are packed now
    tiles = record(sizes.table, sizes.groups, GatherRow).first_block
    width = LANE_BYTES // size
    # Bytes of the filters from one term to the next.
    unit = sizes.filters.term if sizes.in_place else LANE_BYTES * sizes.turned
    if narrow is not None:
        unit = size
    together, blocks = sizes.panels_together * width, ceil_div(tiles, sizes.tiles_together)
    lane_blocks = ceil_div(lanes, together)
    while True:
        # 1. a task: some panels, some tiles
        task = next_task(arguments, thread, sizes.channel_groups * lane_blocks * blocks)
        if task < 0:
            wait_for_streams()
            return
        which, block = task // blocks, task % blocks
        g, first_lane = which // lane_blocks, which % lane_blocks * together
        last_lane = min(first_lane + together, lanes)
        group, next_block, place = -1, 0, (0, 0, 0, 0, 0)
        for number in range(block * sizes.tiles_together, min(tiles, (block + 1) * sizes.tiles_together)):
            # 2. a new group: what its tiles share, and its filters
            if number >= next_block:
                while number >= next_block:
                    group += 1
                    next_block = record(sizes.table, group + 1, GatherRow).first_block
                line = record(sizes.table, group, GatherRow)
                source, filters, out, taps = line.group.source, line.group.filters, line.group.out, line.packed
                counts = line.group.positions
                row = (number - line.first_block) * TILE_ROWS
                row_end = sizes.images * counts[0] * counts[1] * counts[2]
                a = call.a + source.first + g * terms * sizes.source.c
                y = call.out + out.first + (g * lanes + first_lane) * sizes.out.c
                place = place_of(counts, row, sizes.source.n, source.position, y, sizes.out.n, out.position)
                source_jumps = jumps(counts, sizes.source.n, source.position)
                out_jumps = jumps(counts, sizes.out.n, out.position)
                at = call.b + g * sizes.filters.channel_group
                if sizes.in_place:
                    column = sizes.filters.panel
                    first_b = at + first_lane // width * column + filters.first
                else:
                    column = taps.panel
                    first_b = panel + filters.first
                    if packed != which * sizes.groups + taps.number:
                        packed = which * sizes.groups + taps.number
                        at += taps.first + first_lane * sizes.filters.lane
                        if narrow is not None:
                            pack_columns(zero, panel, at, sizes.filters, taps, terms, last_lane - first_lane)
                        elif sizes.turned > 1:
                            pack_turned(zero, panel, at, sizes.filters, taps, terms, last_lane - first_lane)
                        else:
                            pack_panels(zero, panel, at, sizes.filters, taps, terms, last_lane - first_lane)
                loops = and_last(line.group.terms, terms)
                if source.term[2] == terms * size and filters.term[2] == terms * unit:
                    loops = (loops[0], loops[1], min(loops[2], 1), loops[2] * terms)  # Taps lie side by side.
                a_steps, b_steps = and_last(source.term, size), and_last(filters.term, unit)
                if narrow is not None:  # A step is a vector of terms.
                    step, loops = int(VECTOR_BYTES), and_last(loops, loops[3] * size // VECTOR_BYTES)
                    a_steps, b_steps = and_last(source.term, step), and_last(filters.term, step)
            end = min(row + TILE_ROWS, row_end)
            while row < end:
                # 3. the addresses of the rows of a tile
                rows = rows_at_once(end - row, min((last_lane - first_lane) // width, sizes.tile_panels))
                row += rows
                place = place_rows(counts, place, rows, source_jumps, out_jumps, source_rows, out_rows)
                # 4. the tile, for each panel, or for several at once
                b, lane = first_b, first_lane
                while lane < last_lane:
                    there, to = addresses_in(source_rows), (lane - first_lane) * sizes.out.c
                    if narrow is not None:
                        here = min(TILE_VECTORS, last_lane - lane)
                        columns = column, here - 1
                        tile = sum_of_products_along(zeros(zero), there, a, b, columns, loops, a_steps, b_steps)
                        place_panels(out_rows, to, int(TILE_ROWS), 0, tile_out)
                        put_sums(tile, zero, tile_out, rows, here, sizes.out.c, tile_rows, int(TILE_VECTORS))
                        lane, b = lane + here, b + here * column
                        continue
                    panels = panels_at_once(rows, min((last_lane - lane) // width, sizes.tile_panels))
                    if panels == 1:
                        tile = sum_of_products(zeros(zero), there, a, b, loops, a_steps, b_steps)
                    elif panels == HALF_PANELS:
                        tile = sum_of_half(zeros(zero), there, a, b, column, loops, a_steps, b_steps)
                    else:
                        tile = sum_of_few_rows(zeros(zero), there, a, b, column, loops, a_steps, b_steps)
                    here = min(width, last_lane - lane)
                    place_panels(out_rows, to, TILE_ROWS // panels, width * sizes.out.c, tile_out)
                    # With `streams`, all addresses of a tile differ by whole cache lines.
                    if sizes.streams and here == width and out_rows[0] % LINE_BYTES == 0:
                        stream(tile, addresses_in(tile_out))
                    else:
                        tile_count = rows if panels == 1 else TILE_ROWS
                        put(tile, zero, tile_out, tile_count, here, sizes.out.c, bool(WRITE), tile_rows)
                    lane, b = lane + panels * width, b + panels * column


def gather(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: do tasks of conv2d or conv2d_input until none is left.

    A task is a block of tiles and some panels; a panel is the packed filters of as many channels as a tile has lanes.
    The last rows of a group take several panels at once (`panels_at_once`).
    """
    do_gather(zero, arguments, thread, None)


def gather_narrow(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: as `gather`, if the result has so few channels that most lanes would be empty.

    The lanes hold terms of one sum instead.
    """
    do_gather(zero, arguments, thread, IN_COLUMNS)


def to_channels_last(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: copy an array (n, d, h, w, c) of any steps to contiguous memory; a task is a row, or a part of one."""
    sizes = record(arguments, 0, CopySizes)
    steps, depths, rows, columns, channels = sizes.source, sizes.depths, sizes.rows, sizes.columns, sizes.channels
    together, step = sizes.columns_together, channels * bytes_of(zero)
    parts = ceil_div(columns, together)
    while True:
        task = next_task(arguments, thread, sizes.images * depths * rows * parts)
        if task < 0:
            return
        row, first = task // parts, task % parts * together
        at = sizes.call.a + row // (depths * rows) * steps.n + first * steps.w
        at += row // rows % depths * steps.d + row % rows * steps.h
        target = sizes.call.b + (row * columns + first) * step
        pack(zero, target, step, at, steps.w, steps.c, min(together, columns - first), channels, channels)
