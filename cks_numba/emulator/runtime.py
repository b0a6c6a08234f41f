"""The scheduler of a launch, and what checked code asks at each access: plain Python, compiled by Numba.

A worker runs block after block, and of a block one thread after another, each up to where it has to wait. Time goes
on at barriers and atomics. Each granule of memory remembers who wrote it last and who read it since; an access that
meets one of another thread, one of them a write, is a race unless something orders the two: a barrier of the block
between them, a warp operation that synchronises, or an atomic after the first and one before the second.
"""

from __future__ import annotations

import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core.datamodel.models import PointerModel
from numba.extending import intrinsic, register_model

from . import layout as at


class Words(types.CPointer):
    """A pointer to 64-bit integers.

    Numba's cache on disk notices a change of this file, but not one of layout.py. This type is part of every
    function's signature, and the stamp in its name keeps out what was compiled for another layout.
    """

    def __init__(self) -> None:
        super().__init__(types.int64)
        self.name = f"int64*({zlib.crc32(Path(at.__file__).read_bytes()):08x})"


register_model(Words)(PointerModel)
CONTEXT = Words()


def _pointer(bits: int) -> Any:
    """Make the function that reads an address as that of numbers with so many bits."""
    kind = CONTEXT if bits == 64 else types.CPointer({8: types.uint8, 16: types.uint16, 32: types.uint32}[bits])

    @intrinsic
    def pointer(typing, address):
        def code(context, builder, signature, args):
            return builder.inttoptr(args[0], ir.IntType(bits).as_pointer())

        return kind(types.int64), code

    return pointer


def _bits(bits: int) -> Any:
    """Make the functions that turn a float into the integer of the same bits, and back."""
    whole, real = (types.uint32, types.float32) if bits == 32 else (types.uint64, types.float64)

    @intrinsic
    def to_float(typing, value):
        def code(context, builder, signature, args):
            return builder.bitcast(args[0], ir.FloatType() if bits == 32 else ir.DoubleType())

        return real(whole), code

    @intrinsic
    def to_bits(typing, value):
        def code(context, builder, signature, args):
            return builder.bitcast(args[0], ir.IntType(bits))

        return whole(real), code

    return to_float, to_bits


words, halves, octets = _pointer(64), _pointer(16), _pointer(8)
words32 = _pointer(32)
float_of, bits_of = _bits(32)


@intrinsic
def address_of(typing, pointer):
    """The address that a pointer holds."""

    def code(context, builder, signature, args):
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(pointer), code


@intrinsic
def call_perform(typing, function, context, warp, members, existing, kind, detail, point):
    """Call `perform`, which is compiled only for kernels with warp operations."""

    def code(context, builder, signature, args):
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [word.as_pointer()] + [word] * 6)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, CONTEXT, *[types.int64] * 6), code


@intrinsic
def call_kernel(typing, function, context, frame):
    """Run a thread up to the next point where it has to wait."""

    def code(context, builder, signature, args):
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word.as_pointer(), word.as_pointer()])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(types.int64, CONTEXT, CONTEXT), code


helper = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Exported:
    """A function that compiled kernels call by its name; Numba compiles it when its address is first asked for."""

    def __init__(self, function: Any, signature: Any) -> None:
        self.function, self.signature = function, signature

    @cached_property
    def address(self) -> int:
        """Address of the compiled function."""
        try:
            self.compiled = cfunc(self.signature, cache=True, error_model="numpy")(self.function)
        except Exception:  # no folder for the cache of Numba, or what is in it is damaged
            self.compiled = cfunc(self.signature, error_model="numpy")(self.function)
        return int(self.compiled.address)


FUNCTIONS: dict[str, Exported] = {}


def exported(*kinds: Any, result: Any = types.void) -> Any:
    """Let a function be called from compiled kernels."""

    def export(function: Any) -> Any:
        FUNCTIONS[function.__name__] = Exported(function, result(*kinds))
        return function

    return export


# --- findings --------------------------------------------------------------------------------------
@helper
def same_line(context: Any, site: int) -> Any:
    """The first site of the same Python line that does the same, as of a loop whose body the compiler has repeated."""
    return site if site < 0 else words(context[at.SITES] + site * (8 * at.SITE))[at.SITE_FIRST]


@helper
def distance(block: int, thread: int, other_block: int, other_thread: int) -> Any:
    """How far two threads are apart: 0 in one warp, 1 in one block, 2 in different blocks."""
    return 2 if block != other_block else 1 if thread >> 5 != other_thread >> 5 else 0


@helper
def report(
    context: Any,
    kind: int,
    site: int,
    other: int,
    thread: int,
    other_block: int,
    other_thread: int,
    address: int,
    size: int,
    array: int,
) -> Any:
    """Note a fault, or count it if the same one is known; as its example, keep the threads furthest apart."""
    site, other = same_line(context, site), same_line(context, other)
    rows, block = words(context[at.FINDINGS]), context[at.BLOCK]
    k, count = 0, context[at.FINDING_COUNT]
    while k < count:
        row = k * at.FINDING
        if rows[row] == kind and rows[row + at.AT_SITE] == site and rows[row + at.OTHER_SITE] == other:
            if rows[row + at.ARRAY] == array:
                break
        k += 1
    if k == at.MOST_FINDINGS:
        return
    row = k * at.FINDING
    if k == count:
        context[at.FINDING_COUNT] = count + 1
    else:
        before = distance(
            rows[row + at.AT_BLOCK], rows[row + at.AT_THREAD], rows[row + at.OTHER_BLOCK], rows[row + at.OTHER_THREAD]
        )
        if distance(block, thread, other_block, other_thread) <= before:
            rows[row + at.COUNT] += 1
            return
    rows[row + at.KIND], rows[row + at.AT_SITE], rows[row + at.OTHER_SITE] = kind, site, other
    rows[row + at.AT_BLOCK], rows[row + at.AT_THREAD] = block, thread
    rows[row + at.OTHER_BLOCK], rows[row + at.OTHER_THREAD] = other_block, other_thread
    rows[row + at.ADDRESS], rows[row + at.SIZE], rows[row + at.ARRAY] = address, size, array
    rows[row + at.COUNT] += 1


@helper
def report_here(context: Any, kind: int, site: int, thread: int, address: int, size: int, array: int) -> Any:
    report(context, kind, site, -1, thread, context[at.BLOCK], thread, address, size, array)


@exported(CONTEXT, CONTEXT, *[types.int64] * 3)
def report_event(context: Any, frame: Any, kind: int, site: int, value: int) -> Any:
    """Report what the kernel itself has found: a loop without end, a failed assertion, an index below zero."""
    report_here(context, kind, site, frame[at.THREAD], value, 0, -1)
    if kind == at.ENDLESS:
        context[at.STOP] = 1


# --- what orders two accesses ----------------------------------------------------------------------
@helper
def clock_of(context: Any, thread: int) -> Any:
    """How often the warp operations of this barrier interval have synchronised a thread."""
    if context[at.CLOCKS] == 0 or words(context[at.CLOCKS_SINCE])[thread >> 5] != context[at.SINCE]:
        return 0
    return words(context[at.CLOCKS])[thread * 33 + 32]


@helper
def block_of(context: Any, time: int) -> Any:
    """The block that ran at a time: the last one that began before."""
    times = words(context[at.BLOCK_TIMES])
    low, high = 0, times[0]  # times[1 + 2k] is when the k-th block began, times[2 + 2k] its number
    while high - low > 1:
        middle = (low + high) // 2
        if times[1 + 2 * middle] <= time:
            low = middle
        else:
            high = middle
    return times[2 + 2 * low]


@helper
def ordered(context: Any, thread: int, stamp: int) -> Any:
    """Whether something orders the access that left a stamp and one by this thread now."""
    other = stamp >> at.THREAD_SHIFT & at.THREAD_BITS
    time = stamp >> at.TIME_SHIFT
    if time >= context[at.BLOCK_SINCE]:
        if other == thread or time < context[at.SINCE]:
            return True
        same_warp = other >> 5 == thread >> 5
        if same_warp and context[at.CLOCKS] and words(context[at.CLOCKS_SINCE])[thread >> 5] == context[at.SINCE]:
            if words(context[at.CLOCKS])[thread * 33 + (other & 31)] > stamp & at.CLOCK_BITS:
                return True
        return words(context[at.RELEASED])[other] > time and words(context[at.ACQUIRED])[thread] > time
    released = words(context[at.BLOCK_RELEASED])[block_of(context, time)]
    return released > time and context[at.BLOCK_ACQUIRED] > time


@helper
def synchronise_lanes(context: Any, warp: int, members: int) -> Any:
    """Let the lanes know of all that the others have done so far."""
    if context[at.CLOCKS] == 0:
        return
    clocks = words(context[at.CLOCKS])
    since = words(context[at.CLOCKS_SINCE])
    first = warp * 32
    if since[warp] != context[at.SINCE]:
        for k in range(first * 33, (first + 32) * 33):
            clocks[k] = 0
        since[warp] = context[at.SINCE]
    for j in range(32):
        most = 0
        for i in range(32):
            if members >> i & 1:
                most = max(most, clocks[(first + i) * 33 + j])
        if members >> j & 1:
            most = max(most, clocks[(first + j) * 33 + 32] + 1)
        for i in range(32):
            if members >> i & 1:
                clocks[(first + i) * 33 + j] = most
    for i in range(32):
        if members >> i & 1:
            clocks[(first + i) * 33 + 32] = min(clocks[(first + i) * 33 + 32] + 1, at.CLOCK_BITS)


@helper
def synchronise_atomic(context: Any, thread: int, row: Any, writes: int) -> Any:
    """An atomic takes over what the one before it at the same place had to tell, and tells what this thread has done.

    A volatile read, as in a loop that waits for a flag, only takes over.
    """
    acquired = words(context[at.ACQUIRED])
    acquired[thread] = max(acquired[thread], row[at.ATOMIC_AT])
    context[at.BLOCK_ACQUIRED] = max(context[at.BLOCK_ACQUIRED], row[at.ATOMIC_AT])
    if not writes:
        return
    context[at.TIME] += 1
    row[at.ATOMIC_AT] = context[at.TIME]
    words(context[at.RELEASED])[thread] = context[at.TIME]
    words(context[at.BLOCK_RELEASED])[context[at.BLOCK]] = context[at.TIME]


# --- accesses --------------------------------------------------------------------------------------
@helper
def race(context: Any, thread: int, site: int, stamp: int, address: int, size: int, array: int) -> Any:
    time = stamp >> at.TIME_SHIFT
    other_block = block_of(context, time)
    other = stamp >> at.THREAD_SHIFT & at.THREAD_BITS
    report(
        context, at.RACE, site, stamp >> at.SITE_SHIFT & at.SITE_BITS, thread, other_block, other, address, size, array
    )


@helper
def same_bytes(address: int, size: int, low: int, high: int) -> Any:
    """Whether memory holds what is about to be written."""
    data = octets(address)
    for k in range(size):
        word = low if k < 8 else high
        if data[k] != word >> (k & 7) * 8 & 255:
            return False
    return True


@helper
def race_with_read(
    context: Any, thread: int, site: int, action: int, stamp: int, offset: int, size: int, array: int
) -> Any:
    """Report a write where another thread has read, if nothing orders the two."""
    if stamp == 0 or action == at.ATOMIC and stamp & at.IS_ATOMIC:
        return
    if array == at.IN_SHARED and stamp >> at.TIME_SHIFT < context[at.BLOCK_SINCE]:
        return
    if not ordered(context, thread, stamp):
        race(context, thread, site, stamp, offset, size, array)


@helper
def touch(
    context: Any,
    thread: int,
    shadow: int,
    granule: int,
    granules: int,
    site: int,
    action: int,
    at_offset: int,
    size: int,
    array: int,
    real: int,
    low: int,
    high: int,
) -> Any:
    """Compare an access with the last ones of the same memory, and remember it."""
    since, block_since = context[at.SINCE], context[at.BLOCK_SINCE]
    now = context[at.TIME] << at.TIME_SHIFT | site << at.SITE_SHIFT | thread << at.THREAD_SHIFT
    if context[at.CLOCKS]:
        now |= clock_of(context, thread)
    if action >= at.ATOMIC:
        now |= at.IS_ATOMIC
    shared = array == at.IN_SHARED
    reads = action == at.READ or action == at.VOLATILE
    for k in range(granules):
        row = words(shadow + k * (8 * at.SHADOW_ROW))
        wrote, seen = row[at.WROTE], row[at.HAS_READ]
        time = wrote >> at.TIME_SHIFT
        offset = at_offset + (k << granule)
        if time < block_since and shared:
            if action != at.WRITE:
                report_here(context, at.UNINITIALISED, site, thread, offset, size, array)
        elif wrote != 0 and (time >= since or time < block_since) and not ordered(context, thread, wrote):
            both = action >= at.ATOMIC and wrote & at.IS_ATOMIC != 0
            if not both and not (action == at.WRITE and same_bytes(real, size, low, high)):
                race(context, thread, site, wrote, offset, size, array)
        if not reads:
            if seen != 0:
                race_with_read(context, thread, site, action, seen, offset, size, array)
                race_with_read(context, thread, site, action, row[at.READ_TOO], offset, size, array)
                row[at.HAS_READ] = row[at.READ_TOO] = 0
            row[at.WROTE] = now
            continue
        row[at.HAS_READ] = now
        if seen >> at.TIME_SHIFT < since:  # keep of older reads only one of another block
            if seen >> at.TIME_SHIFT < block_since:
                row[at.READ_TOO] = 0 if shared else seen
            elif row[at.READ_TOO] >> at.TIME_SHIFT >= block_since:
                row[at.READ_TOO] = 0
        elif seen >> at.THREAD_SHIFT & at.THREAD_BITS != thread:
            row[at.READ_TOO] = seen
    if action >= at.ATOMIC:
        synchronise_atomic(context, thread, words(shadow), action == at.ATOMIC)


@helper
def note(context: Any, thread: int, site: int, address: int) -> Any:
    """Remember an address for `account`: the k-th one of this site since the thread last waited."""
    seen = words(context[at.SEEN])
    k = seen[2 * site + 1] if seen[2 * site] == context[at.RUN] else 0
    seen[2 * site], seen[2 * site + 1] = context[at.RUN], k + 1
    if k < at.CAP:
        words(context[at.LOG])[(site * at.CAP + k) * 32 + (thread & 31)] = address
        most = words(context[at.MOST])
        if k >= most[site]:
            if most[site] == 0:
                words(context[at.TOUCHED])[context[at.TOUCHED_COUNT]] = site
                context[at.TOUCHED_COUNT] += 1
            most[site] = k + 1


@helper
def shared_access(context: Any, frame: Any, address: int, site: int, low: int, high: int) -> Any:
    row = words(context[at.SITES] + site * (8 * at.SITE))
    size = row[at.SITE_BYTES]
    thread = frame[at.THREAD]
    context[at.ACCESSES] += 1
    address &= 0xFFFFFFFF
    if address + size > context[at.SHARED_BYTES]:
        report_here(context, at.BOUNDS, site, thread, address, size, at.IN_SHARED)
        return context[at.LANDING]
    if address & (size - 1):
        report_here(context, at.MISALIGNED, site, thread, address, size, at.IN_SHARED)
        return context[at.LANDING]
    granule = context[at.SHARED_GRANULE]
    shadow = context[at.SHADOW] + (address >> granule) * (8 * at.SHADOW_ROW)
    granules = max(size >> granule, 1)
    real = context[at.SHARED] + address
    touch(
        context,
        thread,
        shadow,
        granule,
        granules,
        site,
        row[at.SITE_ACTION],
        address,
        size,
        at.IN_SHARED,
        real,
        low,
        high,
    )
    note(context, thread, site, address)
    return real


@helper
def global_access(context: Any, frame: Any, address: int, site: int, low: int, high: int) -> Any:
    row = words(context[at.SITES] + site * (8 * at.SITE))
    size = row[at.SITE_BYTES]
    thread = frame[at.THREAD]
    context[at.ACCESSES] += 1
    nearest, least = -1, 1 << 62
    for k in range(context[at.RANGE_COUNT]):
        array = words(context[at.RANGES] + k * (8 * at.RANGE))
        start, end = array[at.RANGE_START], array[at.RANGE_END]
        if start <= address and address <= end - size:  # a sum could be too large
            offset = address - start
            if address & (size - 1):
                report_here(context, at.MISALIGNED, site, thread, offset, size, k)
                return context[at.LANDING]
            if array[at.RANGE_SHADOW]:
                granule = context[at.GRANULE]
                shadow = array[at.RANGE_SHADOW] + (offset >> granule) * (8 * at.SHADOW_ROW)
                granules = max(size >> granule, 1)
                touch(
                    context,
                    thread,
                    shadow,
                    granule,
                    granules,
                    site,
                    row[at.SITE_ACTION],
                    offset,
                    size,
                    k,
                    address,
                    low,
                    high,
                )
            note(context, thread, site, address)
            return address
        distance = start - address if address < start else address - end
        if distance < least:
            nearest, least = k, distance
    offset = address if nearest < 0 else address - words(context[at.RANGES] + nearest * (8 * at.RANGE))[at.RANGE_START]
    report_here(context, at.BOUNDS, site, thread, offset, size, nearest)
    return context[at.LANDING]


@helper
def local_access(context: Any, frame: Any, address: int, site: int) -> Any:
    row = words(context[at.SITES] + site * (8 * at.SITE))
    size = row[at.SITE_BYTES]
    first = address_of(frame) + context[at.LOCAL_AT]
    offset = address - first
    if offset < 0 or offset > context[at.LOCAL_BYTES] - size or address & (size - 1):
        kind = at.MISALIGNED if 0 <= offset and offset <= context[at.LOCAL_BYTES] - size else at.BOUNDS
        report_here(context, kind, site, frame[at.THREAD], offset, size, at.IN_LOCAL)
        return context[at.LANDING]
    written = octets(address + context[at.LOCAL_BYTES])  # a mark for each byte, behind the memory
    if row[at.SITE_ACTION] == at.WRITE:
        for k in range(size):
            written[k] = 1
    else:
        for k in range(size):
            if written[k] == 0:
                report_here(context, at.UNINITIALISED, site, frame[at.THREAD], offset, size, at.IN_LOCAL)
                break
    return address


@exported(CONTEXT, CONTEXT, *[types.int64] * 5, result=types.int64)
def access(context: Any, frame: Any, space: int, address: int, site: int, low: int, high: int) -> Any:
    """Check an access, and return the address that it may go to.

    `low` and `high` are the bits that a write brings. A generic address may be of any space: shared memory and the
    frames of threads have places of their own.
    """
    if space == at.GENERIC:
        shared = address - context[at.SHARED]
        local = address - address_of(frame) - context[at.LOCAL_AT]
        if 0 <= shared and shared < context[at.SHARED_BYTES]:
            space, address = at.SHARED_SPACE, shared
        elif 0 <= local and local < context[at.LOCAL_BYTES]:
            space = at.LOCAL_SPACE
    if space == at.SHARED_SPACE:
        return shared_access(context, frame, address, site, low, high)
    if space == at.LOCAL_SPACE:
        return local_access(context, frame, address, site)
    return global_access(context, frame, address, site, low, high)


# --- asynchronous copies ---------------------------------------------------------------------------
@exported(*[types.int64] * 4)
def copy_bytes(to: int, source: int, size: int, filled: int) -> Any:
    """Copy, and write zeros behind what is copied."""
    data, result = octets(source), octets(to)
    for k in range(size):
        result[k] = data[k] if k < filled else 0


@exported(CONTEXT, CONTEXT, *[types.int64] * 3, result=types.int64)
def copy_source(context: Any, frame: Any, address: int, site: int, filled: int) -> Any:
    """Check the bytes that a copy reads, fewer than it writes if it fills up with zeros; return where they are."""
    row = words(context[at.SITES] + site * (8 * at.SITE))
    size = row[at.SITE_BYTES]
    if filled <= 0:
        return context[at.LANDING]
    if address & (size - 1) == 0:
        row[at.SITE_BYTES] = min(filled, size)
    real = global_access(context, frame, address, site, 0, 0)
    row[at.SITE_BYTES] = size
    return real


@helper
def stamp_copy(context: Any, thread: int, address: int, size: int, site: int) -> Any:
    """Say that a thread, or the unit for copies, has just written shared memory."""
    granule = context[at.SHARED_GRANULE]
    now = context[at.TIME] << at.TIME_SHIFT | site << at.SITE_SHIFT | thread << at.THREAD_SHIFT
    if thread != at.COPY:
        now |= clock_of(context, thread)
    for k in range(address >> granule, (address + size) >> granule):
        row = words(context[at.SHADOW] + k * (8 * at.SHADOW_ROW))
        row[at.WROTE] = now
        row[at.HAS_READ] = row[at.READ_TOO] = 0


@exported(CONTEXT, CONTEXT, *[types.int64] * 2)
def copy_begun(context: Any, frame: Any, to: int, site: int) -> Any:
    """A copy may arrive at once, or not before the thread waits for it: until then nobody may touch where it goes."""
    size = words(context[at.SITES] + site * (8 * at.SITE))[at.SITE_BYTES]
    to &= 0xFFFFFFFF
    mine = words(context[at.COPIES] + frame[at.THREAD] * (8 * at.COPIES_OF_THREAD))
    k = mine[at.WAITING]
    if to + size > context[at.SHARED_BYTES] or to & (size - 1) or k == at.MOST_COPIES:
        return
    stamp_copy(context, at.COPY, to, size, site)
    row = at.FIRST_COPY + k * at.COPY_ROW
    mine[row], mine[row + 1], mine[row + 2], mine[row + 3] = mine[at.COMMITTED], to, size, site
    mine[at.WAITING] = k + 1


@exported(CONTEXT, CONTEXT, types.int64)
def copies_done(context: Any, frame: Any, pending: int) -> Any:
    """Commit a group of copies (-1), or wait until at most so many groups are under way; 0 waits for all."""
    mine = words(context[at.COPIES] + frame[at.THREAD] * (8 * at.COPIES_OF_THREAD))
    if pending < 0:
        mine[at.COMMITTED] += 1
        return
    left = 0
    for k in range(mine[at.WAITING]):
        row = at.FIRST_COPY + k * at.COPY_ROW
        if mine[row] < mine[at.COMMITTED] - pending:
            stamp_copy(context, frame[at.THREAD], mine[row + 1], mine[row + 2], mine[row + 3])
        else:
            to = at.FIRST_COPY + left * at.COPY_ROW
            for m in range(at.COPY_ROW):
                mine[to + m] = mine[row + m]
            left += 1
    mine[at.WAITING] = left


@helper
def copies_of_thread_go_on(context: Any, thread: int) -> Any:
    """A barrier does not wait for copies."""
    mine = words(context[at.COPIES] + thread * (8 * at.COPIES_OF_THREAD))
    for k in range(mine[at.WAITING]):
        row = at.FIRST_COPY + k * at.COPY_ROW
        stamp_copy(context, at.COPY, mine[row + 1], mine[row + 2], mine[row + 3])


# --- what the accesses of a warp cost --------------------------------------------------------------
@helper
def passes(context: Any, row: Any, size: int) -> Any:
    """Passes that shared memory needs for the addresses of a warp, and the least that would do.

    In one pass each of the 32 banks gives one word of 4 bytes; lanes that want the same word share it. Of wider
    accesses 16 or 8 lanes share a pass, as if the banks were fewer and wider.
    """
    shift = 2 if size <= 4 else 3 if size == 8 else 4
    group, banks = 128 >> shift, words(context[at.BANKS])
    cost = least = 0
    for first in range(0, 32, group):
        for b in range(group):
            banks[b * 33] = 0
        worst = 0
        for i in range(first, first + group):
            if row[i] >= 0:
                place = row[i] >> shift
                bank = (place & (group - 1)) * 33
                count, k = banks[bank], 0
                while k < count and banks[bank + 1 + k] != place:
                    k += 1
                if k == count:
                    banks[bank], banks[bank + 1 + k] = count + 1, place
                    worst = max(worst, count + 1)
        cost += worst
        least += min(worst, 1)
    return cost, least


@helper
def sectors(context: Any, row: Any, size: int, lanes: int) -> Any:
    """Sectors of 32 bytes that hold the addresses of a warp, and the least that would do."""
    found, cost = words(context[at.BANKS]), 0
    for i in range(32):
        if row[i] >= 0:
            sector, k = row[i] >> 5, cost - 1
            while k >= 0 and found[k] != sector:
                k -= 1
            if k < 0:
                found[cost] = sector
                cost += 1
    return cost, min(cost, (lanes * size + 31) >> 5)


@helper
def account(context: Any) -> Any:
    """Add up what the accesses that a warp has just made cost."""
    touched, most = words(context[at.TOUCHED]), words(context[at.MOST])
    for m in range(context[at.TOUCHED_COUNT]):
        site = touched[m]
        about = words(context[at.SITES] + site * (8 * at.SITE))
        counts = words(context[at.COUNTS] + site * (8 * at.COUNTED))
        for k in range(most[site]):
            row = words(context[at.LOG] + (site * at.CAP + k) * (8 * 32))
            lanes = 0
            for i in range(32):
                lanes += row[i] >= 0
            if about[at.SITE_SHARED]:
                cost, least = passes(context, row, about[at.SITE_BYTES])
            else:
                cost, least = sectors(context, row, about[at.SITE_BYTES], lanes)
            counts[at.WARP_ACCESSES] += 1
            counts[at.LANES] += lanes
            counts[at.COST] += cost
            counts[at.LEAST] += least
            counts[at.WORST] = max(counts[at.WORST], cost)
            for i in range(32):
                row[i] = -1
        most[site] = 0
    context[at.TOUCHED_COUNT] = 0


# --- warp operations -------------------------------------------------------------------------------
@helper
def frame_of(context: Any, thread: int) -> Any:
    return words(context[at.FRAMES] + thread * context[at.FRAME_BYTES])


@helper
def shuffle(context: Any, warp: int, lane: int, members: int, alive: int) -> Any:
    """The lane whose value a lane takes, or -1 if it keeps its own."""
    frame = frame_of(context, warp * 32 + lane)
    b, c = frame[at.EXCHANGE + 1] & 31, frame[at.EXCHANGE + 2]
    clamp, segment = c & 31, c >> 8 & 31
    last = (lane & segment) | (clamp & ~segment)
    mode = frame[at.DETAIL]
    if mode == 0:
        source = (lane & segment) | (b & ~segment)
    elif mode == 1:
        source = lane - b
    elif mode == 2:
        source = lane + b
    else:
        source = lane ^ b
    inside = source >= last if mode == 1 else source <= last
    return source if inside else -1


@helper
def shuffle_all(context: Any, warp: int, members: int, existing: int, site: int) -> Any:
    """Shuffle: first find all results, then write them."""
    found = words(context[at.BANKS])
    for lane in range(32):
        if members >> lane & 1:
            source = shuffle(context, warp, lane, members, existing)
            taken = lane if source < 0 else source
            if not members >> taken & 1:
                if context[at.CHECKED] and existing >> taken & 1:
                    thread, block = warp * 32 + lane, context[at.BLOCK]
                    report(context, at.MISSING_LANES, site, -1, thread, block, warp * 32 + taken, -1, 1, -1)
                taken = lane
            found[2 * lane] = frame_of(context, warp * 32 + taken)[at.EXCHANGE]
            found[2 * lane + 1] = source >= 0
    for lane in range(32):
        if members >> lane & 1:
            frame = frame_of(context, warp * 32 + lane)
            frame[at.EXCHANGE], frame[at.EXCHANGE + 1] = found[2 * lane], found[2 * lane + 1]


@helper
def vote_all(context: Any, warp: int, members: int, mode: int) -> Any:
    ballot = 0
    for lane in range(32):
        if members >> lane & 1 and frame_of(context, warp * 32 + lane)[at.EXCHANGE] & 1:
            ballot |= 1 << lane
    result = ballot
    if mode == 0:
        result = ballot == members
    elif mode == 1:
        result = ballot != 0
    elif mode == 2:
        result = ballot == 0 or ballot == members
    for lane in range(32):
        if members >> lane & 1:
            frame_of(context, warp * 32 + lane)[at.EXCHANGE] = result


@helper
def match_all(context: Any, warp: int, members: int, mode: int) -> Any:
    found = words(context[at.BANKS])
    for lane in range(32):
        found[lane] = 0
        if members >> lane & 1:
            mine = frame_of(context, warp * 32 + lane)[at.EXCHANGE]
            for other in range(32):
                if members >> other & 1 and frame_of(context, warp * 32 + other)[at.EXCHANGE] == mine:
                    found[lane] |= 1 << other
    for lane in range(32):
        if members >> lane & 1:
            frame = frame_of(context, warp * 32 + lane)
            same = found[lane] == members
            frame[at.EXCHANGE] = found[lane] if mode == 0 or same else 0
            frame[at.EXCHANGE + 1] = same


@helper
def reduce_all(context: Any, warp: int, members: int, mode: int) -> Any:
    first = True
    result = 0
    for lane in range(32):
        if members >> lane & 1:
            value = frame_of(context, warp * 32 + lane)[at.EXCHANGE]
            if mode & 8 and value >= 1 << 31:
                value -= 1 << 32
            kind = mode & 7
            if first:
                result = value
            elif kind == 0:
                result += value
            elif kind == 1:
                result = min(result, value)
            elif kind == 2:
                result = max(result, value)
            elif kind == 3:
                result &= value
            elif kind == 4:
                result |= value
            else:
                result ^= value
            first = False
    for lane in range(32):
        if members >> lane & 1:
            frame_of(context, warp * 32 + lane)[at.EXCHANGE] = result & 0xFFFFFFFF


@helper
def load_matrices(context: Any, warp: int, detail: int) -> Any:
    """ldmatrix: eight lanes name the rows of a matrix, 8x8 elements of 16 bits; each lane gets two elements."""
    count, transposed = detail & 7, detail >> 3
    rows = words(context[at.BANKS])
    for lane in range(8 * count):
        rows[lane] = frame_of(context, warp * 32 + lane)[at.EXCHANGE]
    for lane in range(32):
        frame = frame_of(context, warp * 32 + lane)
        for m in range(count):
            if transposed:
                low = halves(rows[8 * m + 2 * (lane & 3)])[lane >> 2]
                high = halves(rows[8 * m + 2 * (lane & 3) + 1])[lane >> 2]
                frame[at.EXCHANGE + m] = types.int64(low) | types.int64(high) << 16
            else:
                frame[at.EXCHANGE + m] = types.int64(words32(rows[8 * m + (lane >> 2)])[lane & 3])


@helper
def value_of(word: int, index: int, kind: int) -> Any:
    """An element of a register: a float32 cut to tf32, or one of two elements of 16 bits."""
    if kind == 0:
        return float_of(types.uint32(word & 0xFFFFE000))
    half = word >> 16 * index & 0xFFFF
    if kind == 2:
        return float_of(types.uint32(half << 16))
    sign, exponent, fraction = half >> 15, half >> 10 & 31, half & 1023
    if exponent == 0:
        value = types.float32(fraction) * types.float32(2.0**-24)
        return -value if sign else value
    exponent = 255 if exponent == 31 else exponent + 112
    return float_of(types.uint32(sign << 31 | exponent << 23 | fraction << 13))


@helper
def multiply_matrices(context: Any, warp: int, kind: int) -> Any:
    """mma: 16x8 results, each the sum of 8 (tf32) or 16 products and what was there; the sum is made in float64."""
    per_word = 1 if kind == 0 else 2
    results = words(context[at.BANKS])
    for lane in range(32):
        for c in range(4):
            row, column = (lane >> 2) + 8 * (c >> 1), 2 * (lane & 3) + (c & 1)
            total = types.float64(float_of(types.uint32(frame_of(context, warp * 32 + lane)[at.EXCHANGE + 6 + c])))
            for t in range(4):
                a = frame_of(context, warp * 32 + (row & 7) * 4 + t)
                b = frame_of(context, warp * 32 + column * 4 + t)
                for part in range(2):
                    for e in range(per_word):
                        left = value_of(a[at.EXCHANGE + (row >> 3) + 2 * part], e, kind)
                        total += types.float64(left) * types.float64(value_of(b[at.EXCHANGE + 4 + part], e, kind))
            results[4 * lane + c] = types.int64(bits_of(types.float32(total)))
    for lane in range(32):
        for c in range(4):
            frame_of(context, warp * 32 + lane)[at.EXCHANGE + c] = results[4 * lane + c]


@exported(CONTEXT, *[types.int64] * 6)
def perform(context: Any, warp: int, members: int, existing: int, kind: int, detail: int, point: int) -> Any:
    """Carry a warp operation out for the lanes that take part, and let them go on."""
    if kind == at.SYNC:
        synchronise_lanes(context, warp, members)
    elif kind == at.SHUFFLE:
        shuffle_all(context, warp, members, existing, -1 - point)
    elif kind == at.VOTE:
        vote_all(context, warp, members, detail)
    elif kind == at.MATCH:
        match_all(context, warp, members, detail)
    elif kind == at.REDUCE:
        reduce_all(context, warp, members, detail)
    elif kind == at.LDMATRIX:
        load_matrices(context, warp, detail)
    elif kind == at.MMA:
        multiply_matrices(context, warp, detail)
    for lane in range(32):
        if members >> lane & 1:
            frame = frame_of(context, warp * 32 + lane)
            if kind == at.ACTIVE:
                frame[at.EXCHANGE] = members
            frame[at.MASK] = at.RUNS


@helper
def complete(context: Any, warp: int, count: int, forced: int) -> Any:
    """Carry out a warp operation whose lanes have all come; `forced` goes on without those that cannot come."""
    points = words(context[at.POINTS])
    existing = (1 << count) - 1
    for lane in range(count):
        frame = frame_of(context, warp * 32 + lane)
        state = frame[at.STATE]
        if state <= 0 or frame[at.MASK] == at.RUNS or points[state] <= at.YIELD:
            continue
        kind, mask, detail = points[state], frame[at.MASK], frame[at.DETAIL]
        named = existing if mask == at.EVERYBODY else mask & existing
        members = missing = 0
        absent = warp * 32 + lane
        for other in range(count):
            if not named >> other & 1:
                continue
            theirs = frame_of(context, warp * 32 + other)
            waits = theirs[at.STATE] > 0 and theirs[at.MASK] != at.RUNS and points[theirs[at.STATE]] == kind
            waits = waits and theirs[at.DETAIL] == detail
            if waits and theirs[at.MASK] == mask and (kind != at.ACTIVE or theirs[at.STATE] == state):
                members |= 1 << other
            elif theirs[at.STATE] != at.DONE and kind != at.ACTIVE:
                missing += 1
                absent = warp * 32 + other
        alone = not members >> lane & 1
        if alone or missing and not forced:
            if not (alone and forced):
                continue
        if kind >= at.LDMATRIX and members != 0xFFFFFFFF:
            missing = max(missing, 1)
        if (missing or alone) and context[at.CHECKED]:
            thread, block = warp * 32 + lane, context[at.BLOCK]
            report(context, at.MISSING_LANES, -1 - state, -1, thread, block, absent, -1, max(missing, 1), -1)
        if kind >= at.LDMATRIX and members != 0xFFFFFFFF:
            for other in range(count):  # without all lanes there is no result
                if members >> other & 1:
                    frame_of(context, warp * 32 + other)[at.MASK] = at.RUNS
        else:
            call_perform(context[at.PERFORM], context, warp, members | 1 << lane, existing, kind, detail, state)
        return True
    return False


# --- the scheduler ---------------------------------------------------------------------------------
@helper
def random(context: Any) -> Any:
    """The next of a row of numbers below 2**31."""
    context[at.RANDOM] = (context[at.RANDOM] * 6364136223846793005 + 1442695040888963407) & ((1 << 63) - 1)
    return context[at.RANDOM] >> 32


@helper
def place(context: Any, k: int, count: int, start: int, step: int) -> Any:
    """The k-th number below a power of two, `count`, in the order of this round."""
    if context[at.ORDER] == 0:
        return k
    if context[at.ORDER] == 1:
        return count - 1 - k
    return (start + k * step) & (count - 1)


@helper
def run_warp(context: Any, warp: int, count: int) -> Any:
    """Run the threads of a warp until none can go on alone; return whether one has made room for other warps."""
    points = words(context[at.POINTS])
    yielded = False
    while True:
        ran = False
        start, step = random(context), random(context) | 1
        for k in range(32):
            lane = place(context, k, 32, start, step)
            if lane >= count:
                continue
            frame = frame_of(context, warp * 32 + lane)
            if frame[at.STATE] == at.DONE or frame[at.MASK] != at.RUNS:
                continue
            context[at.RUN] += 1
            state = call_kernel(context[at.KERNEL], context, frame)
            frame[at.STATE] = state
            ran = True
            if state > 0 and points[state] == at.YIELD:
                frame[at.MASK] = at.YIELDED
                yielded = True
            if context[at.STOP]:
                return False
        if context[at.CHECKED]:
            account(context)
        if not complete(context, warp, count, False) and not ran:
            if yielded or not complete(context, warp, count, True):
                return yielded


@helper
def pass_barrier(context: Any, threads: int) -> Any:
    """All threads wait at a barrier, or are done: compare where, and let them go on. Return how many live on."""
    alive = ones = 0
    first = -1
    for t in range(threads):
        frame = frame_of(context, t)
        if frame[at.STATE] != at.DONE:
            if first < 0:
                first = t
            alive += 1
            ones += frame[at.EXCHANGE] & 1
    if alive == 0:
        return 0
    mine, places = frame_of(context, first)[at.STATE], words(context[at.PLACES])
    done = -1
    for t in range(threads):
        frame = frame_of(context, t)
        if frame[at.STATE] == at.DONE:
            done = t
            continue
        if context[at.CHECKED]:
            if places[frame[at.STATE]] != places[mine]:
                report(
                    context, at.DIVERGENT, -1 - mine, -1 - frame[at.STATE], first, context[at.BLOCK], t, -1, 0, -1
                )  # fmt: skip
        mode = frame[at.DETAIL] & 7
        if mode:
            frame[at.EXCHANGE] = ones if mode == 1 else ones == alive if mode == 2 else ones > 0
        frame[at.MASK] = at.RUNS
        frame[at.STEPS] += threads >> 2  # waiting takes that much longer than a jump
    if context[at.CHECKED] and done >= 0:
        report(context, at.MISSING_THREADS, -1 - mine, -1, first, context[at.BLOCK], done, -1, threads - alive, -1)
    return alive


@helper
def start_block(context: Any, block: int, threads: int) -> Any:
    """Set the frames of a block's threads to their start."""
    context[at.BLOCK] = block
    context[at.BLOCK_ID_X] = block % context[at.GRID_X]
    context[at.BLOCK_ID_Y] = block // context[at.GRID_X] % context[at.GRID_Y]
    context[at.BLOCK_ID_Z] = block // context[at.GRID_X] // context[at.GRID_Y]
    width, height = context[at.BLOCK_X], context[at.BLOCK_Y]
    for t in range(threads):
        frame = frame_of(context, t)
        frame[at.TID_X], frame[at.TID_Y], frame[at.TID_Z] = t % width, t // width % height, t // width // height
        frame[at.THREAD] = t
        frame[at.STATE] = frame[at.STEPS] = frame[at.MASK] = 0
        if context[at.CHECKED]:
            written = octets(address_of(frame) + context[at.LOCAL_AT] + context[at.LOCAL_BYTES])
            for k in range(context[at.LOCAL_BYTES]):
                written[k] = 0
    if not context[at.CHECKED]:
        return
    context[at.TIME] += 1
    context[at.SINCE] = context[at.BLOCK_SINCE] = context[at.TIME]
    context[at.BLOCK_ACQUIRED] = 0
    times = words(context[at.BLOCK_TIMES])
    times[1 + 2 * times[0]], times[2 + 2 * times[0]] = context[at.TIME], block
    times[0] += 1
    for t in range(1 << 11):
        words(context[at.RELEASED])[t] = words(context[at.ACQUIRED])[t] = 0
    memory = octets(context[at.SHARED])
    for k in range(context[at.SHARED_BYTES]):
        memory[k] = 255
    if context[at.COPIES]:
        for t in range(threads):
            mine = words(context[at.COPIES] + t * (8 * at.COPIES_OF_THREAD))
            mine[at.COMMITTED] = mine[at.WAITING] = 0


@helper
def run_block(context: Any, block: int, threads: int) -> Any:
    start_block(context, block, threads)
    warps = (threads + 31) // 32
    rounded = 1
    while rounded < warps:
        rounded *= 2
    while True:
        yielded = False
        start, step = random(context), random(context) | 1
        for k in range(rounded):
            warp = place(context, k, rounded, start, step)
            if warp < warps and run_warp(context, warp, min(32, threads - 32 * warp)):
                yielded = True
            if context[at.STOP] or context[at.TIME] >= at.END_OF_TIME:
                context[at.STOP] = 1
                return
        if yielded:
            for t in range(threads):
                frame = frame_of(context, t)
                if frame[at.MASK] == at.YIELDED:
                    frame[at.MASK] = at.RUNS
                    frame[at.STEPS] += threads >> 2
            continue
        if pass_barrier(context, threads) == 0:
            return
        context[at.TIME] += 1
        context[at.SINCE] = context[at.TIME]
        if context[at.COPIES]:
            for t in range(threads):
                copies_of_thread_go_on(context, t)


@exported(CONTEXT)
def run(context: Any) -> Any:
    """Run every block of a worker."""
    threads = context[at.BLOCK_X] * context[at.BLOCK_Y] * context[at.BLOCK_Z]
    for k in range(context[at.FIRST_BLOCK], context[at.BLOCKS], context[at.BLOCK_STEP]):
        block = words(context[at.BLOCK_ORDER])[k] if context[at.BLOCK_ORDER] else k
        run_block(context, block, threads)
        if context[at.STOP]:
            return
