"""Grouped GEMMs on a CPU: a tile of results in vector registers, and the two kernels made of it.

Everything rests on one loop, `sum_of_products`::

    tile[r, l] += A[row r, k] * B[k, lane l]        for the k of three nested loops

ROWS x LANES results stay in registers while k runs over the terms of a group of the plan, and all
three loops step evenly through A and B, because every run of the plan is affine. What A and B are:

=================  ==========================  =============================  ======================
operator           rows, from A                lanes, from B                  the three loops
=================  ==========================  =============================  ======================
``conv2d``         positions, from x           output channels, from w        fh, fw, ic
``conv2d_input``   positions, from dy          input channels, from w         fh, fw, oc
``conv2d_weight``  output channels, from dy    input channels, from x         n, oh, ow
=================  ==========================  =============================  ======================

`gather` is the first two, `weight` the third. A thread takes one task after the other from a counter
that all of them share. A kernel is a C function of a zero, which tells the dtype, and of one array of
int64 arguments; addresses and steps are in bytes. It allocates nothing and cannot fail. This file holds
all that is compiled, so that Numba's cache on disk, which looks at the time of one file, is never older
than any of it.
"""

from __future__ import annotations

import ctypes
import platform
from functools import lru_cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import carray, cfunc, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numba.np.unsafe.ndarray import to_fixed_tuple

from ..tables import (
    COLUMNS,
    COUNT,
    FIRST_BLOCK,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    SUMMED_STEP,
    TABLE_WIDTH,
    TERMS,
    THIRD,
    THIRD_FIXED,
    THIRD_TERM,
)


def _registers() -> tuple[int, int, int]:
    """Bytes of a vector, and the tile as rows and vectors, so that all of it fits the registers of this CPU."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 8, 2
    if features.get("avx"):
        return 32, 6, 2
    return 16, (8 if platform.machine().lower() in ("arm64", "aarch64") else 6), 2


VECTOR_BYTES, TILE_ROWS, TILE_VECTORS = _registers()
LANE_BYTES = TILE_VECTORS * VECTOR_BYTES  # of a row of the tile
I32, I64 = ir.IntType(32), ir.IntType(64)




# --- values in registers: two Numba types and what can be done with them -------------------------
class Tile(types.Type):
    """TILE_ROWS x TILE_VECTORS vectors, all in registers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Tile({dtype}, {TILE_ROWS}x{TILE_VECTORS}x{VECTOR_BYTES})")


class Addresses(types.Type):
    """An address for each row of a tile."""

    def __init__(self) -> None:
        super().__init__(name=f"Addresses({TILE_ROWS})")


ADDRESSES = Addresses()


def _scalar(dtype: Any) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def _vector(dtype: Any) -> ir.VectorType:
    return ir.VectorType(_scalar(dtype), VECTOR_BYTES * 8 // dtype.bitwidth)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: Tile) -> None:
        super().__init__(manager, tile, ir.ArrayType(_vector(tile.dtype), TILE_ROWS * TILE_VECTORS))


@register_model(Addresses)
class _AddressesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, addresses: Addresses) -> None:
        super().__init__(manager, addresses, ir.ArrayType(I64, TILE_ROWS))


def _load(b: Any, address: Any, kind: ir.Type, align: int) -> Any:
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _store(b: Any, value: Any, address: Any, align: int) -> None:
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = align


def _plus_bytes(b: Any, address: Any, count: int) -> Any:
    return b.add(address, ir.Constant(I64, count))


def _fma(b: Any, vector: ir.VectorType) -> Any:
    """x*y + z of vectors, fused where the CPU can."""
    name = f"llvm.fmuladd.v{vector.count}f{32 if vector.element == ir.FloatType() else 64}"
    return cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector] * 3), name)


@intrinsic
def zeros(typing, like):
    """A tile of zeros, of the type of the number `like`."""

    def codegen(context, b, signature, args):
        return ir.Constant(context.get_value_type(signature.return_type), None)

    return Tile(like)(like), codegen


@intrinsic
def addresses_in(typing, array):
    """The addresses that stand in an int64 array."""

    def codegen(context, b, signature, args):
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        return b.load(b.bitcast(data, ir.ArrayType(I64, TILE_ROWS).as_pointer()))

    return ADDRESSES(array), codegen


@intrinsic
def add_products(typing, tile, rows, a, b_address):
    """tile[r, l] + A[r] * B[l]: A is one number at each row's address + a, B a row of lanes at b_address."""
    size = tile.dtype.bitwidth // 8
    vector = _vector(tile.dtype)

    def codegen(context, b, signature, args):
        result, row_addresses, offset, at = args
        lanes = [_load(b, _plus_bytes(b, at, v * VECTOR_BYTES), vector, size) for v in range(TILE_VECTORS)]
        first_lane = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
        nothing = ir.Constant(vector, ir.Undefined)
        for r in range(TILE_ROWS):
            number = _load(b, b.add(b.extract_value(row_addresses, r), offset), _scalar(tile.dtype), size)
            number = b.insert_element(nothing, number, ir.Constant(I32, 0))
            number = b.shuffle_vector(number, nothing, first_lane)  # in every lane
            for v in range(TILE_VECTORS):
                k = r * TILE_VECTORS + v
                result = b.insert_value(result, b.call(_fma(b, vector), [number, lanes[v], b.extract_value(result, k)]), k)
        return result

    return tile(tile, rows, types.int64, types.int64), codegen


@intrinsic
def add_products_along(typing, tile, rows, a, b_first, b_second):
    """tile[r, v] + A[r] * B[v], number by number: a vector from each row and one from each of two addresses.

    The other use of a tile: its lanes are terms of one sum, which is for later to add up.
    """
    vector, size = _vector(tile.dtype), tile.dtype.bitwidth // 8

    def codegen(context, b, signature, args):
        result, row_addresses, offset = args[:3]
        columns = [_load(b, at, vector, size) for at in args[3:]]
        for r in range(TILE_ROWS):
            row = _load(b, b.add(b.extract_value(row_addresses, r), offset), vector, size)
            for v in range(TILE_VECTORS):
                k = r * TILE_VECTORS + v
                total = b.call(_fma(b, vector), [row, columns[v], b.extract_value(result, k)])
                result = b.insert_value(result, total, k)
        return result

    return tile(tile, rows, types.int64, types.int64, types.int64), codegen


@intrinsic
def add_memory(typing, tile, rows):
    """The tile plus the rows of lanes that stand at the addresses."""

    def codegen(context, b, signature, args):
        result, row_addresses = args
        for r in range(TILE_ROWS):
            for v in range(TILE_VECTORS):
                k, at = r * TILE_VECTORS + v, b.extract_value(row_addresses, r)
                there = _load(b, _plus_bytes(b, at, v * VECTOR_BYTES), _vector(tile.dtype), tile.dtype.bitwidth // 8)
                result = b.insert_value(result, b.fadd(b.extract_value(result, k), there), k)
        return result

    return tile(tile, rows), codegen


@intrinsic
def store(typing, tile, rows):
    """Write the rows of the tile to the addresses."""

    def codegen(context, b, signature, args):
        for r in range(TILE_ROWS):
            for v in range(TILE_VECTORS):
                at = _plus_bytes(b, b.extract_value(args[1], r), v * VECTOR_BYTES)
                _store(b, b.extract_value(args[0], r * TILE_VECTORS + v), at, tile.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(tile, rows), codegen


@intrinsic
def bytes_of(typing, like):
    """Size of the number, a constant."""

    def codegen(context, b, signature, args):
        return ir.Constant(I64, like.bitwidth // 8)

    return types.int64(like), codegen


@intrinsic
def number_at(typing, like, address):
    """The number at an address, of the type of `like`."""

    def codegen(context, b, signature, args):
        return _load(b, args[1], _scalar(like), like.bitwidth // 8)

    return like(like, types.int64), codegen


@intrinsic
def write_number(typing, number, address):
    """Write a number to an address."""

    def codegen(context, b, signature, args):
        _store(b, args[0], args[1], number.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(number, types.int64), codegen


def _copy(like, count):
    """Copy `count` numbers of the type of `like` at once."""

    def codegen(context, b, signature, args):
        numbers = ir.VectorType(_scalar(like), count)
        _store(b, _load(b, args[2], numbers, like.bitwidth // 8), args[1], like.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64), codegen


@intrinsic
def copy_vector(typing, like, target, source):
    """Copy as many numbers as a vector has lanes."""
    return _copy(like, _vector(like).count)


@intrinsic
def copy_rows(typing, like, target, source):
    """Copy as many numbers as a tile has rows."""
    return _copy(like, TILE_ROWS)


@intrinsic
def copy_transposed(typing, like, target, target_step, source, source_step):
    """target[c, r] = source[r, c] for a square of as many rows as a vector has lanes; steps between rows."""
    vector, align = _vector(like), like.bitwidth // 8
    count = vector.count

    def codegen(context, b, signature, args):
        def row(first, step, r):
            return b.add(first, b.mul(step, ir.Constant(I64, r)))

        def picked(x, y, lanes):
            return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, count), lanes))

        rows = [_load(b, row(args[3], args[4], r), vector, align) for r in range(count)]
        half = 1
        while half < count:  # swap the off-diagonal blocks of size 1, 2, 4, ...
            for r in range(count):
                if not r & half:
                    x, y = rows[r], rows[r + half]
                    rows[r] = picked(x, y, [c if not c & half else count + c - half for c in range(count)])
                    rows[r + half] = picked(x, y, [c + half if not c & half else count + c for c in range(count)])
            half *= 2
        for r in range(count):
            _store(b, rows[r], row(args[1], args[2], r), align)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 4), codegen


@intrinsic
def next_number(typing, array, index):
    """Take the number array[index], which threads share, and leave one more there."""

    def codegen(context, b, signature, args):
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        return b.atomic_rmw("add", b.gep(data, [args[1]]), ir.Constant(I64, 1), "monotonic")

    return types.int64(array, types.int64), codegen


@intrinsic
def integers_at(typing, address):
    """The address of int64 numbers, for ``numba.carray``."""

    def codegen(context, b, signature, args):
        return b.inttoptr(args[0], I64.as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


@intrinsic
def call_kernel(typing, address, zero, arguments):
    """Call the kernel at an address."""

    def codegen(context, b, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_scalar(zero), I64.as_pointer()])
        b.call(b.inttoptr(args[0], kind.as_pointer()), [args[1], b.inttoptr(args[2], I64.as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64, zero, types.int64), codegen


# --- the inner loop ------------------------------------------------------------------------------
@njit
def sum_of_products(tile, rows, a, b, counts, a_steps, b_steps):
    """tile + sum of A[row, k] * B[k, lane] over three nested loops; the last is the innermost."""
    for i in range(counts[0]):
        for j in range(counts[1]):
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
            for k in range(0, counts[2], VECTOR_BYTES):
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


# --- the arguments of a kernel ---------------------------------------------------------------------
NEXT_TASK, NEXT_THREAD, SCRATCH, SCRATCH_STEP, OWN = range(5)  # those of all kernels, and where its own begin
GATHER_ARGUMENTS, WEIGHT_ARGUMENTS, COPY_ARGUMENTS = OWN + 30, OWN + 37, OWN + 10
SCRATCH_HEAD = 256 + TILE_ROWS * LANE_BYTES


@njit
def own_scratch(arguments):
    """This thread's part of the scratch memory: three arrays for addresses of rows, and where the rest begins.

    The third holds the addresses of the rows of a tile in the scratch memory itself.
    """
    first = arguments[SCRATCH] + next_number(arguments, NEXT_THREAD) * arguments[SCRATCH_STEP]
    a_rows = carray(integers_at(first), TILE_ROWS)
    out_rows = carray(integers_at(first + 64), TILE_ROWS)
    tile_rows = carray(integers_at(first + 128), TILE_ROWS)
    for r in range(TILE_ROWS):
        tile_rows[r] = first + 256 + r * LANE_BYTES
    return a_rows, out_rows, tile_rows, first + SCRATCH_HEAD


@njit
def table_at(address, groups):
    """The table of a plan, of which the kernel has the address."""
    return carray(integers_at(address), (groups + 1, TABLE_WIDTH))


# --- conv2d and conv2d_input ---------------------------------------------------------------------
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
    arguments = carray(arguments, GATHER_ARGUMENTS)
    source, filters, out, groups_at, groups = to_fixed_tuple(arguments[OWN : OWN + 5], 5)
    images, channel_groups, terms, lanes, together, tiles_together = to_fixed_tuple(arguments[OWN + 5 : OWN + 11], 6)
    chunk, narrow = arguments[OWN + 11], arguments[OWN + 29]
    first_fh, first_fw, fhs, fws = taps = to_fixed_tuple(arguments[OWN + 12 : OWN + 16], 4)
    source_steps, out_steps = to_fixed_tuple(arguments[OWN + 16 : OWN + 20], 4), to_fixed_tuple(arguments[OWN + 20 : OWN + 24], 4)
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


# --- conv2d_weight -------------------------------------------------------------------------------
@njit
def pack_images(zero, target, image_step, source, steps, images, rows, columns, channels, together):
    """Copy (n, h, w, c) of any steps to (c // together, n, h, w, c % together); the last part is filled with zeros."""
    step, part_step = together * bytes_of(zero), images * image_step
    if steps[1] == columns * steps[2]:  # rows, and perhaps images, that follow each other are one long row
        columns, rows = rows * columns, 1
        if steps[0] == columns * steps[2] and image_step == columns * step:
            columns, images = images * columns, 1
    whole = channels // together if steps[3] == bytes_of(zero) else 0
    for n in range(images):
        for h in range(rows):
            at, there = source + n * steps[0] + h * steps[1], target + n * image_step + h * columns * step
            for w in range(columns):  # in the order of memory, which is what a cache foresees
                for part in range(whole):
                    copy_part(zero, there + part * part_step + w * step, at + w * steps[2] + part * step, together)
            for part in range(whole, -(-channels // together)):
                pack(
                    zero, there + part * part_step, step, at + part * together * steps[3], steps[2], steps[3],
                    columns, min(together, channels - part * together), together,
                )  # fmt: skip


@njit
def longest_last(counts, a_steps, b_steps):
    """The same three loops, with the longest innermost."""
    n, h, w = counts
    if n >= h and n > w:
        order = (2, 1, 0)
    elif h > w:
        order = (0, 2, 1)
    else:
        order = (0, 1, 2)
    x, y, z = order
    return (
        (counts[x], counts[y], counts[z]),
        (a_steps[x], a_steps[y], a_steps[z]),
        (b_steps[x], b_steps[y], b_steps[z]),
    )


@njit
def place_results(h, w, first, rows, channels, k, part, a_steps, out_steps, a_rows, out_rows):
    """Offsets of the tile's rows, which are (kh, kw, channel) from `first` on; returns how many there are.

    `rows` of them are there, from position `k` of the group on. Rows past the last repeat it.
    """
    k += first // channels
    channel = first % channels
    kh, kw = k // w[COUNT], k % w[COUNT]
    count = min(TILE_ROWS, rows - first)
    for r in range(TILE_ROWS):
        a_rows[r] = channel // TILE_ROWS * part + channel % TILE_ROWS * a_steps[2] + kh * a_steps[0] + kw * a_steps[1]
        out_rows[r] = channel * out_steps[0] + kh * h[FIXED_STEP] * out_steps[2] + kw * w[FIXED_STEP] * out_steps[3]
        if r < count - 1:
            channel += 1
            if channel == channels:
                channel, kw = 0, kw + 1
                if kw == w[COUNT]:
                    kw, kh = 0, kh + 1
    return count


@njit
def add_group(zero, h, w, terms, turned, x, dy, x_by, dy_by, out, out_steps, rows, lanes, add, own):
    """Add the terms of one chunk to the results of a group of taps.

    Where x is in the lanes every tap has tiles of its own; `turned`, where x is in the rows, the rows of
    all taps of the group share tiles, because they meet the same dy.
    """
    size = bytes_of(zero)
    a_rows, out_rows, tile_rows, _ = own
    width = LANE_BYTES // size
    a, b, a_by, b_by = (x, dy, x_by, dy_by) if turned else (dy, x, dy_by, x_by)
    n = terms[0]
    a_part, b_part = n * a_by[0], n * b_by[0]  # from one part of the channels to the next
    counts, a_loops, b_loops = longest_last(terms, a_by, b_by)
    x_h, x_w = h[THIRD_FIXED] * x_by[3], w[THIRD_FIXED] * x_by[4]  # from one tap of the group to the next
    a_steps = (x_h, x_w, size) if turned else (0, 0, size)
    taps = h[COUNT] * w[COUNT]
    together = taps if turned else 1
    for k in range(0, taps, together):
        b_k = b if turned else b + k // w[COUNT] * x_h + k % w[COUNT] * x_w
        for lane in range(0, lanes, width):
            for first in range(0, together * rows, TILE_ROWS):
                count = place_results(
                    h, w, first, together * rows, rows, k, a_part, a_steps, out_steps, a_rows, out_rows
                )  # fmt: skip
                for r in range(TILE_ROWS):
                    out_rows[r] += out + lane * out_steps[1]
                tile = sum_of_products(
                    zeros(zero), addresses_in(a_rows), a, b_k + lane // width * b_part, counts, a_loops, b_loops
                )
                put(tile, zero, out_rows, count, min(width, lanes - lane), out_steps[1], add, tile_rows)


def weight(zero, arguments):
    """Kernel: run conv2d_weight until no task is left; a task is a block of rows and lanes, with all taps and terms.

    The sum goes over chunks of images and output rows, always the same ones in the same order.
    """
    size = bytes_of(zero)
    arguments = carray(arguments, WEIGHT_ARGUMENTS)
    x, dy, out, groups_at, groups = to_fixed_tuple(arguments[OWN : OWN + 5], 5)
    images, channel_groups, rows, lanes, block_rows, block_lanes = to_fixed_tuple(arguments[OWN + 5 : OWN + 11], 6)
    chunk_images, chunk_rows, turned, x_image, dy_image, x_bytes = to_fixed_tuple(arguments[OWN + 11 : OWN + 17], 6)
    ih, iw, oh, ow, stride, before, span = to_fixed_tuple(arguments[OWN + 17 : OWN + 24], 7)
    x_steps = to_fixed_tuple(arguments[OWN + 24 : OWN + 28], 4)
    dy_steps = to_fixed_tuple(arguments[OWN + 28 : OWN + 32], 4)
    out_steps = to_fixed_tuple(arguments[OWN + 32 : OWN + 37], 5)
    own = own_scratch(arguments)
    x_packed, dy_packed = own[3], own[3] + x_bytes
    table = table_at(groups_at, groups)
    width = LANE_BYTES // size
    row_blocks, lane_blocks = -(-rows // block_rows), -(-lanes // block_lanes)
    x_part, dy_part = (TILE_ROWS, width) if turned else (width, TILE_ROWS)  # channels side by side
    x_step, dy_step = x_part * size, dy_part * size
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= channel_groups * row_blocks * lane_blocks:
            return
        g, block = task // (row_blocks * lane_blocks), task % (row_blocks * lane_blocks)
        row, lane = block // lane_blocks * block_rows, block % lane_blocks * block_lanes
        task_rows, task_lanes = min(block_rows, rows - row), min(block_lanes, lanes - lane)
        x_first, dy_first = (g * rows + row, g * lanes + lane) if turned else (g * lanes + lane, g * rows + row)
        x_channels, dy_channels = (task_rows, task_lanes) if turned else (task_lanes, task_rows)
        at = out + g * out_steps[4] + row * out_steps[0] + lane * out_steps[1]
        for n0 in range(0, images, chunk_images):
            n = min(chunk_images, images - n0)
            for oh0 in range(0, oh, chunk_rows):
                oh1 = min(oh, oh0 + chunk_rows)
                ih0 = max(0, oh0 * stride - before)
                ih1 = max(ih0, min(ih, (oh1 - 1) * stride - before + span))
                add = n0 > 0 or oh0 > 0
                pack_images(
                    zero, x_packed, x_image, x + n0 * x_steps[0] + ih0 * x_steps[1] + x_first * x_steps[3],
                    x_steps, n, ih1 - ih0, iw, x_channels, x_part,
                )  # fmt: skip
                pack_images(
                    zero, dy_packed, dy_image, dy + n0 * dy_steps[0] + oh0 * dy_steps[1] + dy_first * dy_steps[3],
                    dy_steps, n, oh1 - oh0, ow, dy_channels, dy_part,
                )  # fmt: skip
                for group in range(groups):
                    h, w = table[group, ROWS:COLUMNS], table[group, COLUMNS:]
                    skipped = max(0, oh0 - h[SUMMED])  # output rows of the group in chunks before this one
                    terms = max(0, min(h[TERMS], oh1 - h[SUMMED]) - skipped)
                    if add and terms == 0:
                        continue
                    x_h, dy_h = h[THIRD] + skipped * h[THIRD_TERM] - ih0, h[SUMMED] + skipped - oh0
                    add_group(
                        zero, h, w, (n, terms, w[TERMS]), turned,
                        x_packed + (x_h * iw + w[THIRD]) * x_step, dy_packed + (dy_h * ow + w[SUMMED]) * dy_step,
                        (x_image, h[THIRD_TERM] * iw * x_step, w[THIRD_TERM] * x_step, iw * x_step, x_step),
                        (dy_image, ow * dy_step, dy_step, ow * dy_step, dy_step),
                        at + h[FIXED] * out_steps[2] + w[FIXED] * out_steps[3], out_steps,
                        task_rows, task_lanes, add, own,
                    )  # fmt: skip


# --- any layout ----------------------------------------------------------------------------------
def to_channels_last(zero, arguments):
    """Kernel: copy (n, h, w, c) of any steps to contiguous memory, a row of an image at a time, until none is left."""
    arguments = carray(arguments, COPY_ARGUMENTS)
    source, target, images, rows, columns, channels = to_fixed_tuple(arguments[OWN : OWN + 6], 6)
    steps = to_fixed_tuple(arguments[OWN + 6 : OWN + 10], 4)
    step = channels * bytes_of(zero)
    while True:
        task = next_number(arguments, NEXT_TASK)
        if task >= images * rows:
            return
        at = source + task // rows * steps[0] + task % rows * steps[1]
        pack(zero, target + task * columns * step, step, at, steps[2], steps[3], columns, channels, channels)


# --- kernels as C functions, on several threads ---------------------------------------------------
KERNELS = {"gather": gather, "weight": weight, "to_channels_last": to_channels_last}


_keep: list[Any] = []  # compiled functions, whose code would go with them


class Kernel(NamedTuple):
    """A compiled kernel: as an address, and as a function of a zero and the address of the arguments."""

    address: int
    call: Any


@lru_cache(maxsize=None)
def kernel(name: str, kind: str) -> Kernel:
    """Compile a kernel, once; `kind` is the ``char`` of the dtype."""
    number, c_number = (types.float32, ctypes.c_float) if kind == "f" else (types.float64, ctypes.c_double)
    signature = types.void(number, types.CPointer(types.int64))
    try:
        compiled = cfunc(signature, cache=True)(KERNELS[name])
    except RuntimeError:  # Numba found no folder for its cache
        compiled = cfunc(signature)(KERNELS[name])
    call = ctypes.CFUNCTYPE(None, c_number, ctypes.c_void_p)(compiled.address)
    _keep.append(compiled)
    return Kernel(compiled.address, call)


def _on_threads(threads, address, zero, arguments):
    for _ in prange(threads):
        call_kernel(address, zero, arguments)


@lru_cache(maxsize=None)
def on_threads() -> Any:
    """The function that calls a kernel on several threads of Numba at once."""
    try:
        return njit(parallel=True, nogil=True, cache=True)(_on_threads)
    except RuntimeError:  # Numba found no folder for its cache
        return njit(parallel=True, nogil=True)(_on_threads)
