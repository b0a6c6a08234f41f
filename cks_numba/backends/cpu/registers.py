"""Values in vector registers: two Numba types, and the operations on them.

A `Tile` is TILE_ROWS x TILE_VECTORS vectors: the results that a kernel works on. `Addresses` holds an address for each
row of a tile. The functions are Numba intrinsics, each of which writes a few instructions of LLVM: Numba has no other
way to name a vector register. The parameters `like` and `zero` are numbers that only tell the dtype; addresses and
steps are int64, in bytes.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.lowering import Lower
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model


def _registers() -> tuple[int, int, int]:
    """Bytes of a vector, and rows and vectors of a row of the largest tile that fits into the CPU's registers.

    Numba compiles for this CPU, or for the one that its settings NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name. So what
    counts are the registers in the machine code of a sum of 64 bytes.
    """
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    module = llvm.parse_assembly(
        "define <16 x float> @f(<16 x float> %x) { %y = fadd <16 x float> %x, %x ret <16 x float> %y }"
    )
    code = machine.emit_assembly(module)
    if "%zmm" in code:
        return 64, 8, 2
    if "%ymm" in code:
        return 32, 6, 2
    return 16, (6 if "%xmm" in code else 8), 2


VECTOR_BYTES, TILE_ROWS, TILE_VECTORS = _registers()
LANE_BYTES = TILE_VECTORS * VECTOR_BYTES  # one row of a tile
L2_BYTES = 2**20 if VECTOR_BYTES == 64 else 2**19  # assumed second-level cache of a core; newer CPUs have more
I32, I64 = ir.IntType(32), ir.IntType(64)

# Whether each load and store of the kernels is tested (see `bounds`).
CHECKED = os.environ.get("CKS_NUMBA_CPU") == "checked" and not config.DISABLE_JIT
INSIDE, SPLIT = "cks_numba_inside", "cks_numba_split"  # Names that functions of `bounds` have in compiled code.

# Options for all compiled code: divisors are never 0, and the checked build tests the indices of arrays too.
OPTIONS = {"error_model": "numpy", "boundscheck": CHECKED}


class _Part(JITCodeLibrary):
    """The code of a helper. It is linked to the kernels as it is: LLVM optimizes and translates it there.

    Numba would do that for each helper alone, too, and with each other helper that calls it.
    """

    # A helper has no machine code of its own into which Numba could write the address of its environment.
    codegen = SimpleNamespace(set_env=lambda name, env: None)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _HelperCompiler(Compiler):
    """Numba's compiler, for code that is a part of kernels."""

    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, library or _Part(target.codegen(), "helper"), *rest)


# Options for functions that only kernels call. Wrappers for Python and C, and an exception for each division, would
# take a good part of the time to compile a kernel.
ONLY_IN_KERNELS = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _HelperCompiler,
    **OPTIONS,
}
_made: Counter[str] = Counter()


def helper(function: Any = None, **options: Any) -> Any:
    """Decorate a function that only kernels call.

    Kernels from the cache on disk may have been compiled by several processes, and link functions by their names. Numba
    tells functions of one name apart by a number that is new in each process. So functions that are made by one
    function, with different constants, get names of their own, which are those of any process.
    """
    if function is None:
        return partial(helper, **options)
    if "<locals>" in function.__qualname__:
        name = f"{function.__module__}.{function.__qualname__}"
        _made[name] += 1
        function.__qualname__ += f"_{_made[name]}"
    return njit(**ONLY_IN_KERNELS, **options)(function)


# --- the two Numba types -------------------------------------------------------------------------
class Tile(types.Type):
    """TILE_ROWS x TILE_VECTORS vectors in registers."""

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


# --- memory --------------------------------------------------------------------------------------
def check(context: Any, b: Any, address: Any, kind: ir.Type, align: int, writes: bool = False) -> None:
    """Write code that raises an IndexError unless a number, vector or record in memory belongs to the call.

    It writes nothing unless this is the checked build. Every operation calls it before it reads or writes memory.
    """
    if not CHECKED:
        return
    if isinstance(address.type, ir.PointerType):
        address = b.ptrtoint(address, I64)
    vector = isinstance(kind, ir.VectorType)  # Its length is that of its lanes: LLVM takes 6 numbers for 8.
    size = kind.count * context.get_abi_sizeof(kind.element) if vector else context.get_abi_sizeof(kind)
    where = b.ptrtoint(context.insert_const_string(b.module, _line_of_kernel()), I64)
    inside = call(b, INSIDE, address, I64(size), I64(align), I64(int(writes)), where)
    with cgutils.if_unlikely(b, b.icmp_signed("==", inside, I64(0))):
        context.call_conv.return_user_exc(b, IndexError, ())


def call(b: Any, name: str, *args: Any) -> Any:
    """Write a call of a function of `bounds`."""
    return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(I64, [I64] * len(args)), name), args)


def _line_of_kernel() -> str:
    """The line of Python that Numba is compiling."""
    frame: Any = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), Lower):
        frame = frame.f_back
    where = frame.f_locals["self"].loc
    return f"{Path(where.filename).name} line {where.line}, `{linecache.getline(where.filename, where.line).strip()}`"


def _load(context: Any, b: Any, address: Any, kind: ir.Type, align: int) -> Any:
    check(context, b, address, kind, align)
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _store(context: Any, b: Any, value: Any, address: Any, align: int, streams: bool = False) -> None:
    """Write a vector or number to memory; with `streams` past the caches, to a multiple of its bytes."""
    align = context.get_abi_sizeof(value.type) if streams else align
    check(context, b, address, value.type, align, writes=True)
    written = b.store(value, b.inttoptr(address, value.type.as_pointer()))
    written.align = align
    if streams:
        written.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))


def _plus_bytes(b: Any, address: Any, count: int) -> Any:
    return b.add(address, ir.Constant(I64, count))


def _fma(b: Any, vector: ir.VectorType) -> Any:
    """The function x*y + z of vectors, fused on CPUs that can do so."""
    name = f"llvm.fmuladd.v{vector.count}f{32 if vector.element == ir.FloatType() else 64}"
    return cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector] * 3), name)


def _place(b: Any, rows: Any, kind: Any, r: int, v: int) -> Any:
    """The address of vector v of row r.

    `rows` are Addresses; or Addresses for each vector, if the rows of a tile have one vector and are more; or two
    numbers, the address of the first row and the step to the next one.
    """
    if kind != ADDRESSES and kind[0] == ADDRESSES:
        return b.extract_value(rows, (v, r))
    if kind == ADDRESSES:
        row = b.extract_value(rows, r)
    else:
        row = b.add(b.extract_value(rows, 0), b.mul(b.extract_value(rows, 1), I64(r)))
    return _plus_bytes(b, row, v * VECTOR_BYTES)


# --- operations ----------------------------------------------------------------------------------
@intrinsic
def zeros(typing, like):
    """A tile of zeros of the dtype of `like`."""

    def codegen(context, b, signature, args):
        return ir.Constant(context.get_value_type(signature.return_type), None)

    return Tile(like)(like), codegen


@intrinsic
def addresses_in(typing, array):
    """The first TILE_ROWS numbers of an int64 array, as addresses of rows."""

    def codegen(context, b, signature, args):
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        check(context, b, data, ir.ArrayType(I64, TILE_ROWS), 8)
        return b.load(b.bitcast(data, ir.ArrayType(I64, TILE_ROWS).as_pointer()))

    return ADDRESSES(array), codegen


@intrinsic
def add_products(typing, tile, rows, a, b_address):
    """tile[r, l] + A[r] * B[l], where A[r] is the number at address rows[r] + a, and B the row of lanes at b_address.

    `rows` are Addresses, or one step: rows[r] is then r times the step. A tile whose rows have one vector has Addresses
    for each vector, as `_place` has, and reads one of B.
    """
    tall = isinstance(rows, types.BaseTuple)
    size = tile.dtype.bitwidth // 8
    vector = _vector(tile.dtype)

    def codegen(context, b, signature, args):
        result, row_addresses, offset, at = args
        vectors = 1 if tall else TILE_VECTORS
        lanes = [_load(context, b, _plus_bytes(b, at, v * VECTOR_BYTES), vector, size) for v in range(vectors)]
        first_lane = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
        nothing = ir.Constant(vector, ir.Undefined)
        for part, r in product(range(TILE_VECTORS // vectors), range(TILE_ROWS)):
            if rows == types.int64:
                row = b.mul(row_addresses, I64(r))
            else:
                row = b.extract_value(row_addresses, (part, r) if tall else r)
            number = _load(context, b, b.add(row, offset), _scalar(tile.dtype), size)
            number = b.insert_element(nothing, number, ir.Constant(I32, 0))
            number = b.shuffle_vector(number, nothing, first_lane)  # The number is in every lane now.
            for v in range(vectors):
                k = r * TILE_VECTORS + part + v
                total = b.call(_fma(b, vector), [number, lanes[v], b.extract_value(result, k)])
                result = b.insert_value(result, total, k)
        return result

    return tile(tile, rows, types.int64, types.int64), codegen


def products_in_panels(count):
    """Return the intrinsic tile[q*count + r, l] + A[r] * B[q, l] for `count` rows r, and panels q that fill the tile.

    A[r] is the number at rows[r] + a, and B[q] the row of lanes at b + q*panel_step.
    """

    @intrinsic
    def add_products_in_panels(typing, tile, rows, a, b_first, panel_step):
        vector, size = _vector(tile.dtype), tile.dtype.bitwidth // 8

        def codegen(context, b, signature, args):
            result, row_addresses, offset, first, step = args
            numbers = []
            for r in range(count):
                at = b.add(b.extract_value(row_addresses, r), offset)
                number = _load(context, b, at, _scalar(tile.dtype), size)
                number = b.insert_element(ir.Constant(vector, ir.Undefined), number, I32(0))
                numbers.append(b.shuffle_vector(number, number, ir.Constant(ir.VectorType(I32, vector.count), None)))
            for q, v in product(range(TILE_ROWS // count), range(TILE_VECTORS)):
                lanes = _load(
                    context, b, _plus_bytes(b, b.add(first, b.mul(step, I64(q))), v * VECTOR_BYTES), vector, size
                )
                for r, number in enumerate(numbers):
                    k = (q * count + r) * TILE_VECTORS + v
                    total = b.call(_fma(b, vector), [number, lanes, b.extract_value(result, k)])
                    result = b.insert_value(result, total, k)
            return result

        return tile(tile, rows, *[types.int64] * 3), codegen

    return add_products_in_panels


def products_of(count, part=1):
    """Return the intrinsic tile[r, l] + A[r] * B[l] of a tile of `count` rows: the fewer, the more lanes has each.

    A[r] is the number at a + r*a_step, and B is the row of lanes at b. Only the first lanes of each vector are used,
    one in `part` of them.
    """
    columns = TILE_ROWS * TILE_VECTORS // count

    @intrinsic
    def add_products_of(typing, tile, a_step, a, b_first):
        size = tile.dtype.bitwidth // 8
        vector = ir.VectorType(_scalar(tile.dtype), _vector(tile.dtype).count // part)

        def codegen(context, b, signature, args):
            result, step, a, first = args
            lanes = [_load(context, b, _plus_bytes(b, first, v * VECTOR_BYTES), vector, size) for v in range(columns)]
            for r in range(count):
                number = _load(context, b, b.add(a, b.mul(step, I64(r))), _scalar(tile.dtype), size)
                number = b.insert_element(ir.Constant(vector, ir.Undefined), number, I32(0))
                number = b.shuffle_vector(number, number, ir.Constant(ir.VectorType(I32, vector.count), None))
                for v in range(columns):
                    k = r * columns + v
                    so_far = _first_lanes(b, b.extract_value(result, k), vector.count)
                    total = b.call(_fma(b, vector), [number, lanes[v], so_far])
                    result = b.insert_value(result, _first_lanes(b, total, vector.count * part), k)
            return result

        return tile(tile, *[types.int64] * 3), codegen

    return add_products_of


def _first_lanes(b: Any, vector: Any, count: int) -> Any:
    """A vector of the first `count` lanes of another one; if it has fewer, the others are not defined."""
    if vector.type.count == count:
        return vector
    return b.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, count), list(range(count))))


def products_along(count):
    """Return the intrinsic tile[r, v] + A[r] * B[v], lane by lane, for the first `count` rows of A.

    A[r] is a vector at rows[r] + a, and B[v] one at b + min(v, last)*step, where `columns` are (step, last). The fewer
    rows, the more vectors has each. This is the other use of a tile: its lanes hold terms of one sum and are added up
    at the end.
    """
    vectors = TILE_ROWS * TILE_VECTORS // count

    @intrinsic
    def add_products_along(typing, tile, rows, a, b_first, columns):
        vector, size = _vector(tile.dtype), tile.dtype.bitwidth // 8

        def codegen(context, b, signature, args):
            result, (step, last) = args[0], cgutils.unpack_tuple(b, args[4], 2)

            def column(v):
                v = b.select(b.icmp_signed("<", last, I64(v)), last, I64(v))
                return _load(context, b, b.add(args[3], b.mul(step, v)), vector, size)

            b_columns = [column(v) for v in range(vectors)]
            for r in range(count):
                row = _load(context, b, b.add(b.extract_value(args[1], r), args[2]), vector, size)
                for v in range(vectors):
                    k = r * vectors + v
                    total = b.call(_fma(b, vector), [row, b_columns[v], b.extract_value(result, k)])
                    result = b.insert_value(result, total, k)
            return result

        return tile(tile, rows, types.int64, types.int64, columns), codegen

    return add_products_along


def row_products(count, taps, stride=1, twice=False):
    """Return the intrinsic tile[r, l] + the sum of A[stride*r + t, l] * B[t, l] over some taps t, for r below `count`.

    Both A and B are rows of lanes. Row j of A is at a + j*a_step, and is loaded once, whatever the number of taps; that
    of B is at b + t*b_step. The vectors of a row of A are `a_vector` bytes apart, those of B `b_vector`. If `twice`,
    the next `count` rows get the same sum with B[t, l ^ 1].
    """

    @intrinsic
    def add_row_products(typing, tile, a, a_step, a_vector, b_first, b_step, b_vector):
        vector, size = _vector(tile.dtype), tile.dtype.bitwidth // 8

        def codegen(context, b, signature, args):
            def lanes(first, step, by_vector, k):
                row = b.add(first, b.mul(step, I64(k))) if k else first
                places = [b.add(row, b.mul(by_vector, I64(v))) if v else row for v in range(TILE_VECTORS)]
                return [_load(context, b, place, vector, size) for place in places]

            result, a, a_step, a_vector, b_first, b_step, b_vector = args
            b_lanes = [[lanes(b_first, b_step, b_vector, t) for t in range(taps)]]
            if twice:
                b_lanes.append([[_swapped(b, lane, 1) for lane in row] for row in b_lanes[0]])
            for j in range(stride * (count - 1) + taps):
                a_lanes = lanes(a, a_step, a_vector, j)
                for t, part, v in product(range(taps), range(len(b_lanes)), range(TILE_VECTORS)):
                    r, rest = divmod(j - t, stride)
                    if rest or not 0 <= r < count:
                        continue
                    k = (part * count + r) * TILE_VECTORS + v
                    total = b.call(_fma(b, vector), [a_lanes[v], b_lanes[part][t][v], b.extract_value(result, k)])
                    result = b.insert_value(result, total, k)
            return result

        return tile(tile, *[types.int64] * 6), codegen

    return add_row_products


def row_products_within(count, taps, row_of):
    """Return the intrinsic tile[row_of(j, t), l] + the sum of A[j, l] * B[t, l], for rows of A that may not all exist.

    Only rows j of A with first <= j < last are loaded and multiplied, each in a branch of its own. ``row_of(j, t)`` is
    the row of the tile, or a number that is not below `count` or negative if A[j] and B[t] do not meet.
    """
    # Wide enough for a step of at most two rows of A from one row of the tile to the next.
    met = {j: [(t, row_of(j, t)) for t in range(taps) if 0 <= row_of(j, t) < count] for j in range(-taps, 3 * count)}

    @intrinsic
    def add_row_products(typing, tile, a, a_step, a_vector, b_first, b_step, b_vector, first, last):
        vector, size = _vector(tile.dtype), tile.dtype.bitwidth // 8

        def codegen(context, b, signature, args):
            def lanes(row, by_vector):
                places = [b.add(row, b.mul(by_vector, I64(v))) if v else row for v in range(TILE_VECTORS)]
                return [_load(context, b, place, vector, size) for place in places]

            result, a, a_step, a_vector, b_first, b_step, b_vector, first, last = args
            b_lanes = [lanes(b.add(b_first, b.mul(b_step, I64(t))), b_vector) for t in range(taps)]
            sums = [b.extract_value(result, k) for k in range(count * TILE_VECTORS)]
            for j, pairs in met.items():
                if not pairs:
                    continue
                here, inside, after_it = b.block, b.append_basic_block(), b.append_basic_block()
                exists = b.and_(b.icmp_signed("<=", first, I64(j)), b.icmp_signed("<", I64(j), last))
                b.cbranch(exists, inside, after_it)
                b.position_at_end(inside)
                a_lanes = lanes(b.add(a, b.mul(a_step, I64(j))), a_vector)
                added = {}
                for (t, r), v in product(pairs, range(TILE_VECTORS)):
                    k = r * TILE_VECTORS + v
                    added[k] = b.call(_fma(b, vector), [a_lanes[v], b_lanes[t][v], sums[k]])
                end = b.block
                b.branch(after_it)
                b.position_at_end(after_it)
                for k, total in added.items():
                    either = b.phi(vector)
                    either.add_incoming(sums[k], here)
                    either.add_incoming(total, end)
                    sums[k] = either
            for k, total in enumerate(sums):
                result = b.insert_value(result, total, k)
            return result

        return tile(tile, *[types.int64] * 8), codegen

    return add_row_products


def _swapped(b: Any, vector: Any, distance: int) -> Any:
    """A vector in which each two lanes l and l ^ distance have changed places."""
    lanes = [lane ^ distance if distance < vector.type.count else lane for lane in range(vector.type.count)]
    return b.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def swap_lanes(count, distance):
    """Return the intrinsic that swaps each two lanes l and l ^ distance of the first `count` rows of a tile."""

    @intrinsic
    def swap(typing, tile):
        def codegen(context, b, signature, args):
            result = args[0]
            for k in range(count * TILE_VECTORS):
                result = b.insert_value(result, _swapped(b, b.extract_value(result, k), distance), k)
            return result

        return tile(tile), codegen

    return swap


def change_lanes(*lanes_of):
    """Return the intrinsic that changes a row of lanes in memory: lane l becomes the sum of the lanes f(l).

    There are one or two functions f. It takes their results modulo the number of lanes.
    """

    @intrinsic
    def change(typing, like, address):
        vector, size = _vector(like), like.bitwidth // 8
        count = vector.count

        def codegen(context, b, signature, args):
            places = [_plus_bytes(b, args[1], v * VECTOR_BYTES) for v in range(TILE_VECTORS)]
            row = [_load(context, b, place, vector, size) for place in places]
            for v, place in enumerate(places):
                lanes = range(v * count, (v + 1) * count)
                masks = [[f(lane) % (TILE_VECTORS * count) for lane in lanes] for f in lanes_of]
                parts = [b.shuffle_vector(*row, ir.Constant(ir.VectorType(I32, count), mask)) for mask in masks]
                _store(context, b, b.fadd(*parts) if len(parts) > 1 else parts[0], place, size)
            return context.get_dummy_value()

        return types.void(like, types.int64), codegen

    return change


def put_rows(count, how, first_row=0, vectors=TILE_VECTORS, part=1):
    """Return the intrinsic that puts `count` rows of a tile, of so many vectors, to memory.

    Rows are `step` bytes apart, the vectors of a row `vector_step`.
    `how` is "write", "add" (to the numbers there), or "stream" (past the caches; each vector must begin at a multiple
    of its bytes). Only the first lanes of each vector are put, one in `part` of them.
    """

    @intrinsic
    def put(typing, tile, first, step, vector_step):
        def codegen(context, b, signature, args):
            values, start, by_row, by_vector = args
            size = tile.dtype.bitwidth // 8
            for r, v in product(range(count), range(vectors)):
                at = b.add(b.add(start, b.mul(by_row, I64(r))), b.mul(by_vector, I64(v)))
                value = b.extract_value(values, (first_row + r) * vectors + v)
                value = _first_lanes(b, value, value.type.count // part)
                if how == "add":
                    value = b.fadd(value, _load(context, b, at, value.type, size))
                _store(context, b, value, at, size, streams=how == "stream")
            return context.get_dummy_value()

        return types.void(tile, *[types.int64] * 3), codegen

    return put


@intrinsic
def add_memory(typing, tile, rows):
    """The tile plus the rows of lanes in memory; `rows` are those of `_place`."""

    def codegen(context, b, signature, args):
        result, size = args[0], tile.dtype.bitwidth // 8
        for r, v in product(range(TILE_ROWS), range(TILE_VECTORS)):
            k = r * TILE_VECTORS + v
            there = _load(context, b, _place(b, args[1], rows, r, v), _vector(tile.dtype), size)
            result = b.insert_value(result, b.fadd(b.extract_value(result, k), there), k)
        return result

    return tile(tile, rows), codegen


def _rows_to_memory(streams):
    """Return the intrinsic that writes each row of a tile to its address; `rows` are those of `_place`.

    Streaming past the caches saves reading the lines from memory first. It needs multiples of VECTOR_BYTES.
    """

    @intrinsic
    def write(typing, tile, rows):
        def codegen(context, b, signature, args):
            for r, v in product(range(TILE_ROWS), range(TILE_VECTORS)):
                at = _place(b, args[1], rows, r, v)
                value = b.extract_value(args[0], r * TILE_VECTORS + v)
                _store(context, b, value, at, tile.dtype.bitwidth // 8, streams)
            return context.get_dummy_value()

        return types.void(tile, rows), codegen

    return write


store, stream = _rows_to_memory(False), _rows_to_memory(True)


@intrinsic
def store_sums(typing, tile, address):
    """Add up the lanes of each vector of a tile, and write the sums to neighbouring places from an address on.

    Vectors are added in pairs: half of the lanes of what comes out belong to each of the two. A vector without another
    one is its own.
    """
    vector = _vector(tile.dtype)

    def codegen(context, b, signature, args):
        def picked(x, y, half, k):
            lanes = [c - (c & half) + half * k + (vector.count if c & half else 0) for c in range(vector.count)]
            return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, vector.count), lanes))

        sums = [b.extract_value(args[0], k) for k in range(TILE_ROWS * TILE_VECTORS)]
        half = 1
        while half < vector.count:
            pairs = zip(sums[::2], [*sums[1::2], sums[-1]], strict=False)
            sums = [b.fadd(picked(x, y, half, 0), picked(x, y, half, 1)) for x, y in pairs]
            half *= 2
        for k, numbers in enumerate(sums):
            _store(context, b, numbers, _plus_bytes(b, args[1], k * VECTOR_BYTES), tile.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(tile, types.int64), codegen


@intrinsic
def wait_for_streams(typing):
    """Wait until everything that was streamed is in memory, where other threads see it."""

    def codegen(context, b, signature, args):
        b.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def bytes_of(typing, like):
    """The bytes of a number of the dtype of `like`, as a constant."""

    def codegen(context, b, signature, args):
        return ir.Constant(I64, like.bitwidth // 8)

    return types.int64(like), codegen


@intrinsic
def number_at(typing, like, address):
    """The number at an address, of the dtype of `like`."""

    def codegen(context, b, signature, args):
        return _load(context, b, args[1], _scalar(like), like.bitwidth // 8)

    return like(like, types.int64), codegen


@intrinsic
def write_number(typing, number, address):
    """Write a number to an address."""

    def codegen(context, b, signature, args):
        _store(context, b, args[0], args[1], number.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(number, types.int64), codegen


def _copy(like, count, streams=False):
    """The signature and code of a function that copies `count` numbers of the dtype of `like` at once."""

    def codegen(context, b, signature, args):
        size = like.bitwidth // 8
        numbers = _load(context, b, args[2], ir.VectorType(_scalar(like), count), size)
        _store(context, b, numbers, args[1], size, streams)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64), codegen


@intrinsic
def copy_vector(typing, like, target, source):
    """Copy as many numbers as a vector has lanes."""
    return _copy(like, _vector(like).count)


@intrinsic
def stream_vector(typing, like, target, source):
    """Copy as many numbers as a vector has lanes past the caches, to a multiple of its bytes."""
    return _copy(like, _vector(like).count, streams=True)


@intrinsic
def add_vector(typing, like, target, source):
    """Add as many numbers as a vector has lanes to those at another address."""

    def codegen(context, b, signature, args):
        align = like.bitwidth // 8
        old, more = (_load(context, b, address, _vector(like), align) for address in args[1:])
        _store(context, b, b.fadd(old, more), args[1], align)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64), codegen


@intrinsic
def fill_vector(typing, number, address):
    """Write a number as many times as a vector has lanes, to neighbouring places from an address on."""

    def codegen(context, b, signature, args):
        lanes = ir.Constant(_vector(number), ir.Undefined)
        for k in range(_vector(number).count):
            lanes = b.insert_element(lanes, args[0], ir.Constant(I32, k))
        _store(context, b, lanes, args[1], number.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(number, types.int64), codegen


@intrinsic
def copy_rows(typing, like, target, source):
    """Copy as many numbers as a tile has rows."""
    return _copy(like, TILE_ROWS)


@intrinsic
def copy_transposed(typing, like, target, target_step, source, source_step):
    """target[c, r] = source[r, c] for a square with as many rows as a vector has lanes; the steps are those of rows."""
    vector, align = _vector(like), like.bitwidth // 8
    count = vector.count

    def codegen(context, b, signature, args):
        def row(first, step, r):
            return b.add(first, b.mul(step, ir.Constant(I64, r)))

        rows = _transposed(b, [_load(context, b, row(args[3], args[4], r), vector, align) for r in range(count)])
        for r in range(count):
            _store(context, b, rows[r], row(args[1], args[2], r), align)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 4), codegen


def copy_some_columns(most, back=False):
    """Return the intrinsic target[c, r] = source[r, c] for as many rows r as a vector has lanes, and few columns c.

    They are `most`, or as many as there are rows if these are fewer. With `back` it is target[r, c] = source[c, r]. The
    steps are those of the first index.
    """

    @intrinsic
    def copy(typing, like, target, target_step, source, source_step):
        vector, align = _vector(like), like.bitwidth // 8
        count = vector.count
        side = min(most, count)

        def codegen(context, b, signature, args):
            def row(first, step, r):
                return b.add(first, b.mul(step, I64(r)))

            def lanes(x, y, first, last):
                return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, last - first), list(range(first, last))))

            if back:
                rows = _transposed(b, [_load(context, b, row(args[3], args[4], c), vector, align) for c in range(side)])
                for r in range(count):
                    first = r - r % side
                    value = lanes(rows[r % side], rows[r % side], first, first + side)
                    _store(context, b, value, row(args[1], args[2], r), align)
                return context.get_dummy_value()
            rows = []
            for k in range(side):
                parts = []
                for r in range(k, count, side):
                    at = row(args[3], args[4], r)
                    parts.append(_load(context, b, at, ir.VectorType(vector.element, side), align))
                while len(parts) > 1:  # Neighbours are joined to vectors of twice the length.
                    parts = [lanes(x, y, 0, 2 * x.type.count) for x, y in zip(parts[::2], parts[1::2], strict=True)]
                rows.append(parts[0])
            for c, value in enumerate(_transposed(b, rows)):
                _store(context, b, value, row(args[1], args[2], c), align)
            return context.get_dummy_value()

        return types.void(like, *[types.int64] * 4), codegen

    return copy


def copy_diagonals(into, along_rows):
    """Return the intrinsic target[t, l] = source[l ^ code(t), l] for a square of vectors, or back without `into`.

    code(t) is number t of the Gray code. With `along_rows`, it is source[l, l ^ code(t)]. The steps are those of rows.
    """

    @intrinsic
    def copy(typing, like, target, target_step, source, source_step):
        vector, align = _vector(like), like.bitwidth // 8
        count = vector.count

        def codegen(context, b, signature, args):
            def row(first, step, r):
                return b.add(first, b.mul(step, I64(r)))

            code = [t ^ t >> 1 for t in range(count)]
            places = range(count) if into else [code.index(r) for r in range(count)]
            rows = [_load(context, b, row(args[3], args[4], places[r]), vector, align) for r in range(count)]
            for half in (1 << k for k in range(count.bit_length() - 1)):
                for r in (r for r in range(count) if not r & half):
                    x, y = rows[r], rows[r + half]
                    # The lanes whose number has the bit `half` change places between the two rows.
                    for k, pair in ((r, (x, y)), (r + half, (y, x))):
                        lanes = [lane + (count if lane & half else 0) for lane in range(count)]
                        rows[k] = b.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, count), lanes))
            for r in range(count):
                from_row = code[r] if into else r
                value = _swapped(b, rows[from_row], from_row) if along_rows else rows[from_row]
                _store(context, b, value, row(args[1], args[2], r), align)
            return context.get_dummy_value()

        return types.void(like, *[types.int64] * 4), codegen

    return copy


@intrinsic
def store_columns(typing, tile, address, step):
    """Write a tile with rows and lanes exchanged: the numbers of lane l side by side at address + l * step."""
    vector, size = _vector(tile.dtype), tile.dtype.bitwidth // 8
    side = min(vector.count, 8)

    def codegen(context, b, signature, args):
        for first, v in product(range(0, TILE_ROWS, side), range(TILE_VECTORS)):
            rows = [b.extract_value(args[0], r * TILE_VECTORS + v) for r in range(first, min(first + side, TILE_ROWS))]
            there = len(rows)
            rows += [ir.Constant(vector, ir.Undefined)] * (side - there)
            for r, row in enumerate(_transposed(b, rows)):
                for block in range(0, vector.count, side):
                    picked = ir.Constant(ir.VectorType(I32, there), [block + c for c in range(there)])
                    at = b.add(args[1], b.mul(args[2], I64(v * vector.count + block + r)))
                    _store(context, b, b.shuffle_vector(row, row, picked), _plus_bytes(b, at, first * size), size)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64), codegen


def _transposed(b, rows):
    """Exchange rows and lanes of vectors, in blocks of as many lanes as there are rows."""
    count, half = rows[0].type.count, 1

    def picked(x, y, lanes):
        return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, count), lanes))

    while half < len(rows):  # Off-diagonal blocks of size 1, 2, 4, ... change places.
        for r in range(len(rows)):
            if not r & half:
                x, y = rows[r], rows[r + half]
                rows[r] = picked(x, y, [c if not c & half else count + c - half for c in range(count)])
                rows[r + half] = picked(x, y, [c + half if not c & half else count + c for c in range(count)])
        half *= 2
    return rows


def dealt(count, back=False):
    """Return the intrinsic that deals numbers out in turn: number r of rows a step apart gets source[l*count + r].

    It does so for `count` vectors. With `back` the source is the rows, and the target gets their numbers in turn.
    """

    @intrinsic
    def copy_dealt(typing, like, target, source, step):
        vector, align = _vector(like), like.bitwidth // 8
        lanes = vector.count

        def codegen(context, b, signature, args):
            def place(address, k, in_rows):
                return b.add(address, b.mul(args[3], I64(k))) if in_rows else _plus_bytes(b, address, k * VECTOR_BYTES)

            given = [_load(context, b, place(args[2], k, back), vector, align) for k in range(count)]
            for r in range(count):
                numbers = range(r * lanes, (r + 1) * lanes)
                wanted = [k % count * lanes + k // count for k in numbers] if back else range(r, count * lanes, count)
                value = given[0]
                # A step takes the numbers of one more vector.
                for v in range(1, count):
                    picked = [
                        k if k // lanes < v == 1 else lanes + k % lanes if k // lanes == v else lane
                        for lane, k in enumerate(wanted)
                    ]
                    value = b.shuffle_vector(value, given[v], ir.Constant(ir.VectorType(I32, lanes), picked))
                _store(context, b, value, place(args[1], r, not back), align)
            return context.get_dummy_value()

        return types.void(like, *[types.int64] * 3), codegen

    return copy_dealt


@intrinsic
def fetch(typing, address):
    """Begin to fetch a cache line that is needed later. Any address is allowed, even an invalid one."""

    def codegen(context, b, signature, args):
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        function = b.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        b.call(function, [b.inttoptr(args[0], pointer), I32(0), I32(3), I32(1)])  # a read of data that is used soon
        return context.get_dummy_value()

    return types.void(address), codegen


@intrinsic
def take(typing, address, index, count):
    """Return number `index` of the int64 numbers at an address, which threads share, and leave so many more there.

    Whatever a thread wrote before it took a number is seen by every thread that takes a later one.
    """

    def codegen(context, b, signature, args):
        number = b.gep(b.inttoptr(args[0], I64.as_pointer()), [args[1]])
        check(context, b, number, I64, 8, writes=True)
        return b.atomic_rmw("add", number, args[2], "acq_rel")

    return types.int64(address, types.int64, types.int64), codegen


@helper
def next_number(address, index):
    """Take number `index` of the int64 numbers at an address, and leave one more there."""
    return take(address, index, 1)


@intrinsic
def after(typing, address, count):
    """The address in the scratch memory after a buffer of so many bytes; the checked build leaves a gap there."""

    def codegen(context, b, signature, args):
        return call(b, SPLIT, *args) if CHECKED else b.add(*args, flags=["nsw"])

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def integers_at(typing, address):
    """A pointer to the int64 numbers at an address, for ``numba.carray``."""

    def codegen(context, b, signature, args):
        return b.inttoptr(args[0], I64.as_pointer())

    return types.CPointer(types.int64)(address), codegen


@intrinsic
def call_kernel(typing, address, arguments, thread):
    """Call the kernel at an address, on a thread of this number.

    The zero of a double in a register is that of a float too.
    """

    def codegen(context, b, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [ir.DoubleType(), I64, I64])
        b.call(b.inttoptr(args[0], kind.as_pointer()), [ir.Constant(ir.DoubleType(), 0.0), *args[1:]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
