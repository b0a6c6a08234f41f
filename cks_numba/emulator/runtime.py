"""The scheduler of a launch, and what checked code asks at each access: plain Python, compiled by Numba.

A worker runs block after block, and of a block one thread after another, each up to where it has to wait. Time goes
on at barriers and atomics. Each granule of memory remembers who wrote it last and who read it since; an access that
meets one of another thread, one of them a write, is a race unless something orders the two: a barrier of the block
between them, a warp operation that synchronises, or an atomic after the first and one before the second.

What compiled kernels, the scheduler and the checks share are tables of 64-bit integers; names in capitals are mostly
places in one.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

# The context of a worker, which runs some of the blocks of a launch.
(
    # for the kernel itself
    PARAMETERS, CONSTANTS, SHARED, SHARED_BYTES, GRID_X, GRID_Y, GRID_Z, BLOCK_X, BLOCK_Y, BLOCK_Z, BLOCK_ID_X,
    BLOCK_ID_Y, BLOCK_ID_Z, LIMIT,
    # for the scheduler
    KERNEL, PERFORM, POINTS, PLACES, FRAMES, FRAME_BYTES, LOCAL_AT, LOCAL_BYTES, BLOCKS, FIRST_BLOCK, BLOCK_STEP,
    BLOCK, BLOCK_ORDER, ORDER, RANDOM, CHECKED, STOP, MEMBERS, EXISTING, SCRATCH,
    # for the checks
    SITES, RANGES, RANGE_COUNT, LANDING, TIME, SINCE, BLOCK_SINCE, BLOCK_TIMES, FINDINGS, ACCESSES,
    COPIES,
    # for accesses that warp operations or atomics put in order
    CLOCKS, CLOCKS_SINCE, RELEASED, ACQUIRED, BLOCK_RELEASED, BLOCK_ACQUIRED,
    # for what the accesses of a warp cost together
    COUNTS, LOG, SEEN, MOST, SITE_COUNT, BARRIERS, RUN,
) = range(58)  # fmt: skip
CONTEXT_WORDS = 58

# The frame of a thread.
TID_X, TID_Y, TID_Z, THREAD, STATE, STEPS, MASK, DETAIL = range(8)
EXCHANGE, EXCHANGED = 8, 16  # operands of a warp operation, then its results
FRAME = EXCHANGE + EXCHANGED
DONE = -1  # a value of STATE; 0 is the start, and another the number of the point where the thread waits
RUNS, YIELDED, EVERYBODY = 0, -2, -1  # values of MASK; another names the lanes that must come to a warp operation

# What a thread waits for at a point, in the table of points.
BARRIER, YIELD, SYNC, SHUFFLE, VOTE, MATCH, ACTIVE, REDUCE, LDMATRIX, MMA = range(10)

# A row of the table of sites, each an instruction that touches memory.
SITE_BYTES, SITE_ACTION, SITE_SHARED, SITE_FIRST = range(4)
SITE = 4
READ, WRITE, ATOMIC, VOLATILE = range(4)

# A row of the table of ranges: shared memory, local memory of the thread that runs, no memory, then each array.
RANGE_START, RANGE_END, RANGE_SHADOW, RANGE_GRANULE = range(4)
RANGE = 4
SHARED_SPACE, LOCAL_SPACE, GLOBAL_SPACE, GENERIC = range(4)
NOWHERE, FIRST_ARRAY = 2, 3

# A row of the shadow, what is known of a granule of memory: stamps of the last write and of two reads, and the time
# of the last atomic.
WROTE, HAS_READ, READ_TOO, ATOMIC_AT = range(4)
SHADOW_ROW = 4

# A stamp says who touched memory, where and when.
TIME_SHIFT, SITE_SHIFT, THREAD_SHIFT = 34, 20, 9
SITE_BITS, THREAD_BITS, IS_ATOMIC, CLOCK_BITS = (1 << 14) - 1, (1 << 11) - 1, 1 << 8, (1 << 8) - 1
END_OF_TIME = (1 << 29) - 1  # the last that fits into a stamp
COPY = THREAD_BITS  # stands for the unit that makes asynchronous copies

# A row of the findings: kind, site, other site and array, which make two of them the same, then block, thread, other
# block, other thread, address and size of an example, how far apart its threads are, and how often.
APART, COUNT, FINDING, MOST_FINDINGS = 10, 11, 12, 64
KINDS = (
    "out of bounds", "misaligned", "negative index", "uninitialised", "race", "divergent barrier", "missing threads",
    "missing lanes", "endless loop", "assertion", "never written",
)  # fmt: skip
BOUNDS, MISALIGNED, NEGATIVE, UNINITIALISED, RACE, DIVERGENT, MISSING_THREADS, MISSING_LANES, ENDLESS, ASSERTION = (
    range(10)
)

# A row of the counts of a site.
WARP_ACCESSES, LANES, COST, LEAST, WORST = range(5)
COUNTED = 5
CAP = 64  # accesses of a site by a thread that are counted between two places where the thread waits

# Copies of a thread that are under way: how many groups it has committed, how many copies wait, and for each its group,
# place in shared memory, bytes and site.
COMMITTED, WAITING, FIRST_COPY = range(3)
COPY_GROUP, COPY_TO, COPY_BYTES, COPY_SITE = range(4)
COPY_ROW, MOST_COPIES = 4, 128
COPIES_OF_THREAD = FIRST_COPY + COPY_ROW * MOST_COPIES


# --- from Python to machine code -------------------------------------------------------------------
CONTEXT = types.CPointer(types.int64)


def _cast(how: str, result: Any, given: Any = None) -> Any:
    """Make the function that casts a value by an instruction of LLVM."""

    @intrinsic
    def cast(typing, value):
        def code(context, builder, signature, args):
            return getattr(builder, how)(args[0], context.get_value_type(result))

        return result(given or value), code

    return cast


words: Any = _cast("inttoptr", types.CPointer(types.int64), types.int64)
floats: Any = _cast("inttoptr", types.CPointer(types.float32), types.int64)
halves: Any = _cast("inttoptr", types.CPointer(types.uint16), types.int64)
octets: Any = _cast("inttoptr", types.CPointer(types.uint8), types.int64)
address_of: Any = _cast("ptrtoint", types.int64)


@intrinsic
def call(typing, function, context, frame):
    """Call a function of a context and a frame at an address: a kernel, or `perform`, which only some kernels need."""

    def code(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(64), [context.get_value_type(CONTEXT)] * 2)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(types.int64, CONTEXT, CONTEXT), code


helper: Any = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


FUNCTIONS: dict[str, tuple[Any, Any]] = {}
"""Functions that compiled kernels call by their names, with their signatures."""
_kept: list[Any] = []


def exported(function: Any) -> Any:
    """Let compiled kernels call a function of a context, a frame and numbers, which returns a number or nothing."""
    kinds = [CONTEXT, CONTEXT, *[types.int64] * 9][: function.__code__.co_argcount]
    FUNCTIONS[function.__name__] = (
        function,
        (types.int64 if function.__annotations__["return"] == "int" else types.void)(*kinds),
    )
    return helper(function)


@cache
def address(name: str) -> int:
    """Address of an exported function; Numba compiles it when it is first asked for."""
    function, signature = FUNCTIONS[name]
    try:
        compiled = cfunc(signature, cache=True, error_model="numpy")(function)
    except Exception:  # Numba has no folder for its cache, or it is full, or damaged: then it begins anew
        with suppress(Exception):
            FunctionCache(function).flush()
        compiled = cfunc(signature, error_model="numpy")(function)
    _kept.append(compiled)
    return int(compiled.address)


@helper
def row(table: int, number: int, size: int) -> Any:
    """A row of a table, whose rows have so many words."""
    return words(table + 8 * size * number)


@helper
def frame_of(context: Any, thread: int) -> Any:
    return words(context[FRAMES] + thread * context[FRAME_BYTES])


# --- findings --------------------------------------------------------------------------------------
@helper
def first_like(context: Any, site: int) -> Any:
    """The first site of the same Python line that does the same, as of a loop whose body the compiler has repeated."""
    return site if site < 0 else row(context[SITES], site, SITE)[SITE_FIRST]


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
) -> None:
    """Note a fault, or count it if the same one is known; as its example, keep the threads furthest apart."""
    block, site, other = context[BLOCK], first_like(context, site), first_like(context, other)
    apart = 2 if block != other_block else 1 if thread >> 5 != other_thread >> 5 else 0
    new = (kind, site, other, array, block, thread, other_block, other_thread, address, size, apart)
    for k in range(MOST_FINDINGS):
        known = row(context[FINDINGS], k, FINDING)
        if known[COUNT] == 0 or known[0] == kind and known[1] == site and known[2] == other and known[3] == array:
            if known[COUNT] == 0 or apart > known[APART]:
                for j in range(COUNT):
                    known[j] = new[j]
            known[COUNT] += 1
            return


@helper
def report_here(context: Any, kind: int, site: int, thread: int, address: int, size: int, array: int) -> None:
    report(context, kind, site, -1, thread, context[BLOCK], thread, address, size, array)


@exported
def report_event(context: Any, frame: Any, kind: int, site: int, value: int) -> None:
    """Report what the kernel itself has found: a loop without end, a failed assertion, an index below zero."""
    report_here(context, kind, site, frame[THREAD], value, 0, NOWHERE)
    if kind == ENDLESS:
        context[STOP] = 1


# --- what orders two accesses ----------------------------------------------------------------------
@helper
def clocks_of(context: Any, warp: int) -> Any:
    """How often each lane of a warp has been synchronised in this barrier interval, as far as each lane knows.

    A table of 32 rows, or 0 if no warp operation has yet synchronised the warp.
    """
    if context[CLOCKS] == 0 or words(context[CLOCKS_SINCE])[warp] != context[SINCE]:
        return 0
    return context[CLOCKS] + warp * (8 * 32 * 32)


@helper
def stamp_of(context: Any, thread: int, site: int) -> Any:
    """What an access leaves in the shadow."""
    stamp = context[TIME] << TIME_SHIFT | site << SITE_SHIFT | thread << THREAD_SHIFT
    clocks = clocks_of(context, thread >> 5) if thread != COPY else 0
    return stamp | min(words(clocks)[33 * (thread & 31)], CLOCK_BITS) if clocks else stamp


@helper
def block_of(context: Any, time: int) -> Any:
    """The block that ran at a time: the last one that began before."""
    times = words(context[BLOCK_TIMES])
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
    other, time = stamp >> THREAD_SHIFT & THREAD_BITS, stamp >> TIME_SHIFT
    if time < context[BLOCK_SINCE]:
        released = words(context[BLOCK_RELEASED])[block_of(context, time)]
        return released > time and context[BLOCK_ACQUIRED] > time
    if other == thread or time < context[SINCE]:
        return True
    if other >> 5 == thread >> 5:
        clocks = clocks_of(context, thread >> 5)
        if clocks and row(clocks, thread & 31, 32)[other & 31] > stamp & CLOCK_BITS:
            return True
    return words(context[RELEASED])[other] > time and words(context[ACQUIRED])[thread] > time


@helper
def synchronise_lanes(context: Any, warp: int, members: int) -> None:
    """Let the lanes know of all that the others have done so far."""
    if context[CLOCKS] == 0:
        return
    clocks = row(context[CLOCKS], warp, 32 * 32)
    if clocks_of(context, warp) == 0:
        for k in range(32 * 32):
            clocks[k] = 0
        words(context[CLOCKS_SINCE])[warp] = context[SINCE]
    for lane in range(32):
        clocks[33 * lane] += members >> lane & 1
    for other in range(32):
        most = 0
        for lane in range(32):
            if members >> lane & 1:
                most = max(most, clocks[32 * lane + other])
        for lane in range(32):
            if members >> lane & 1:
                clocks[32 * lane + other] = most


@helper
def synchronise_atomic(context: Any, thread: int, shadow: Any, writes: int) -> None:
    """An atomic takes over what the one before it at the same place had to tell, and tells what this thread has done.

    A volatile read, as in a loop that waits for a flag, only takes over.
    """
    acquired = words(context[ACQUIRED])
    acquired[thread] = max(acquired[thread], shadow[ATOMIC_AT])
    context[BLOCK_ACQUIRED] = max(context[BLOCK_ACQUIRED], shadow[ATOMIC_AT])
    if writes:
        context[TIME] += 1
        shadow[ATOMIC_AT] = words(context[RELEASED])[thread] = context[TIME]
        words(context[BLOCK_RELEASED])[context[BLOCK]] = context[TIME]


# --- accesses --------------------------------------------------------------------------------------
@helper
def races(context: Any, thread: int, action: int, stamp: int, array: int) -> Any:
    """Whether nothing orders an access and the one that left a stamp, and they are not both atomic."""
    if stamp == 0 or action >= ATOMIC and stamp & IS_ATOMIC:
        return False
    if array == SHARED_SPACE and stamp >> TIME_SHIFT < context[BLOCK_SINCE]:
        return False
    return not ordered(context, thread, stamp)


@helper
def report_race(context: Any, thread: int, site: int, stamp: int, address: int, size: int, array: int) -> None:
    other_site, other = stamp >> SITE_SHIFT & SITE_BITS, stamp >> THREAD_SHIFT & THREAD_BITS
    block = block_of(context, stamp >> TIME_SHIFT)
    report(context, RACE, site, other_site, thread, block, other, address, size, array)


@helper
def same_bytes(address: int, size: int, low: int, high: int) -> Any:
    """Whether memory holds what is about to be written."""
    data = octets(address)
    for k in range(size):
        if data[k] != (low if k < 8 else high) >> (k & 7) * 8 & 255:
            return False
    return True


@helper
def touch(context: Any, thread: int, site: int, array: int, address: int, low: int, high: int) -> None:
    """Compare an access with the last ones of the same memory, and remember it."""
    about, memory = row(context[SITES], site, SITE), row(context[RANGES], array, RANGE)
    size, action, granule = about[SITE_BYTES], about[SITE_ACTION], memory[RANGE_GRANULE]
    since, block_since = context[SINCE], context[BLOCK_SINCE]
    now = stamp_of(context, thread, site)
    if action >= ATOMIC:
        now |= IS_ATOMIC
    first = (address - memory[RANGE_START]) >> granule
    for k in range(first, first + max(size >> granule, 1)):
        shadow = row(memory[RANGE_SHADOW], k, SHADOW_ROW)
        wrote, seen = shadow[WROTE], shadow[HAS_READ]
        time, before = wrote >> TIME_SHIFT, seen >> TIME_SHIFT
        offset = address - memory[RANGE_START] + (k - first << granule)
        if array == SHARED_SPACE and time < block_since:
            if action != WRITE:
                report_here(context, UNINITIALISED, site, thread, offset, size, array)
        elif (time >= since or time < block_since) and races(context, thread, action, wrote, array):
            if not (action == WRITE and same_bytes(address, size, low, high)):
                report_race(context, thread, site, wrote, offset, size, array)
        if action == WRITE or action == ATOMIC:
            if seen != 0:
                for stamp in (seen, shadow[READ_TOO]):
                    if races(context, thread, action, stamp, array):
                        report_race(context, thread, site, stamp, offset, size, array)
                shadow[HAS_READ] = shadow[READ_TOO] = 0
            shadow[WROTE] = now
            continue
        shadow[HAS_READ] = now
        if before < since:  # keep of older reads only one of another block
            if before < block_since:
                shadow[READ_TOO] = 0 if array == SHARED_SPACE else seen
            elif shadow[READ_TOO] >> TIME_SHIFT >= block_since:
                shadow[READ_TOO] = 0
        elif seen >> THREAD_SHIFT & THREAD_BITS != thread:
            shadow[READ_TOO] = seen
    if action >= ATOMIC:
        synchronise_atomic(context, thread, row(memory[RANGE_SHADOW], first, SHADOW_ROW), action == ATOMIC)


@helper
def touch_local(context: Any, thread: int, site: int, address: int) -> None:
    """Mark bytes of local memory as written, or report those that are not."""
    about, written = row(context[SITES], site, SITE), octets(address + context[LOCAL_BYTES])
    for k in range(about[SITE_BYTES]):
        if about[SITE_ACTION] == WRITE:
            written[k] = 1
        elif written[k] == 0:
            offset = address - row(context[RANGES], LOCAL_SPACE, RANGE)[RANGE_START]
            report_here(context, UNINITIALISED, site, thread, offset, about[SITE_BYTES], LOCAL_SPACE)
            return


@helper
def note(context: Any, thread: int, site: int, address: int) -> None:
    """Remember an address for `account`: the k-th one of this site since the thread last waited."""
    seen = row(context[SEEN], site, 2)
    k = seen[1] if seen[0] == context[RUN] else 0
    seen[0], seen[1] = context[RUN], k + 1
    if k < CAP:
        row(context[LOG], site * CAP + k, 32)[thread & 31] = address
        words(context[MOST])[site] = max(words(context[MOST])[site], k + 1)


@helper
def find(context: Any, space: int, address: int) -> Any:
    """The number of the range that holds an address, or of the array that is nearest to it."""
    nearest, least = NOWHERE, 1 << 62
    for k in range(0 if space == GENERIC else FIRST_ARRAY, context[RANGE_COUNT]):
        memory = row(context[RANGES], k, RANGE)
        if memory[RANGE_START] <= address and address < memory[RANGE_END]:
            return k
        far = memory[RANGE_START] - address if address < memory[RANGE_START] else address - memory[RANGE_END]
        if far < least and k >= FIRST_ARRAY:
            nearest, least = k, far
    return nearest


@exported
def access(context: Any, frame: Any, space: int, address: int, site: int, low: int, high: int) -> int:
    """Check an access, and return the address that it may go to; `low` and `high` are the bits that a write brings."""
    size, thread = row(context[SITES], site, SITE)[SITE_BYTES], frame[THREAD]
    if space == SHARED_SPACE:
        address = context[SHARED] + (address & 0xFFFFFFFF)
    k = find(context, space, address) if space >= GLOBAL_SPACE else space
    memory = row(context[RANGES], k, RANGE)
    inside = memory[RANGE_START] <= address and address <= memory[RANGE_END] - size  # a sum could be too large
    context[ACCESSES] += k != LOCAL_SPACE
    if not inside or address & (size - 1):
        kind = MISALIGNED if inside else BOUNDS
        report_here(context, kind, site, thread, address - memory[RANGE_START], size, k)
        return context[LANDING]
    if k == LOCAL_SPACE:
        touch_local(context, thread, site, address)
        return address
    if memory[RANGE_SHADOW]:
        touch(context, thread, site, k, address, low, high)
    note(context, thread, site, address)
    return address


# --- asynchronous copies ---------------------------------------------------------------------------
@helper
def copy_of(context: Any, thread: int, k: int) -> Any:
    """The k-th copy of a thread that is under way."""
    return row(context[COPIES] + thread * (8 * COPIES_OF_THREAD) + 8 * FIRST_COPY, k, COPY_ROW)


@helper
def stamp_copy(context: Any, thread: int, copy: Any) -> None:
    """Say that a thread, or the unit for copies, has just written shared memory."""
    memory, now = row(context[RANGES], SHARED_SPACE, RANGE), stamp_of(context, thread, copy[COPY_SITE])
    first = (copy[COPY_TO] - memory[RANGE_START]) >> memory[RANGE_GRANULE]
    for k in range(first, first + (copy[COPY_BYTES] >> memory[RANGE_GRANULE])):
        shadow = row(memory[RANGE_SHADOW], k, SHADOW_ROW)
        shadow[WROTE], shadow[HAS_READ], shadow[READ_TOO] = now, 0, 0


@exported
def copy_bytes(context: Any, frame: Any, to: int, source: int, size: int, filled: int) -> None:
    """Copy, and write zeros behind what is copied."""
    for k in range(size):
        octets(to)[k] = octets(source)[k] if k < filled else 0


@exported
def copy_checked(context: Any, frame: Any, to: int, source: int, site: int, filled: int) -> None:
    """Copy to shared memory at a site, from global memory at the next one: no more bytes than are not filled up.

    A copy may arrive at once, or not before the thread waits for it: until then nobody may touch where it goes.
    """
    about = row(context[SITES], site + 1, SITE)
    size = about[SITE_BYTES]
    to = access(context, frame, SHARED_SPACE, to, site, 0, -1)
    if filled > 0:
        if source & (size - 1) == 0:
            about[SITE_BYTES] = min(filled, size)
        source = access(context, frame, GLOBAL_SPACE, source, site + 1, 0, 0)
        about[SITE_BYTES] = size
    copy_bytes(context, frame, to, source, size, filled)
    mine = row(context[COPIES], frame[THREAD], COPIES_OF_THREAD)
    k = mine[WAITING]
    if to != context[LANDING] and k < MOST_COPIES:
        copy = copy_of(context, frame[THREAD], k)
        copy[COPY_GROUP], copy[COPY_TO], copy[COPY_BYTES], copy[COPY_SITE] = mine[COMMITTED], to, size, site
        stamp_copy(context, COPY, copy)
        mine[WAITING] = k + 1


@exported
def copies_done(context: Any, frame: Any, pending: int) -> None:
    """Commit a group of copies (-1), or wait until at most so many groups are under way; 0 waits for all."""
    mine = row(context[COPIES], frame[THREAD], COPIES_OF_THREAD)
    if pending < 0:
        mine[COMMITTED] += 1
        return
    left = 0
    for k in range(mine[WAITING]):
        copy, to = copy_of(context, frame[THREAD], k), copy_of(context, frame[THREAD], left)
        if copy[COPY_GROUP] < mine[COMMITTED] - pending:
            stamp_copy(context, frame[THREAD], copy)
        else:
            for m in range(COPY_ROW):
                to[m] = copy[m]
            left += 1
    mine[WAITING] = left


# --- what the accesses of a warp cost --------------------------------------------------------------
@helper
def count_units(context: Any, addresses: Any, shift: int, group: int, banks: Any) -> Any:
    """What serves the addresses of a warp: how many units, and how many would do if none had to wait for another.

    So many lanes take turns. Each bank gives one unit of 2**shift bytes at a time, and lanes may share it.
    """
    table = words(context[SCRATCH])
    units = least = 0
    for first in range(0, 32, group):
        worst = 0
        for b in range(banks):
            table[b * 33] = 0
        for i in range(first, first + group):
            if addresses[i] >= 0:
                unit = addresses[i] >> shift
                bank = (unit & (banks - 1)) * 33
                k = table[bank]
                while k > 0 and table[bank + k] != unit:
                    k -= 1
                if k == 0:
                    table[bank] += 1
                    table[bank + table[bank]] = unit
                    worst = max(worst, table[bank])
        units += worst
        least += min(worst, 1)
    return units, least


@helper
def account(context: Any) -> None:
    """Add up what the accesses that a warp has just made cost: sectors of global memory, or passes of shared memory.

    A sector has 32 bytes. In one pass each of the 32 banks gives a word of 4 bytes. Of wider accesses 16 or 8 lanes
    share a pass, as if the banks were fewer and wider.
    """
    for site in range(context[SITE_COUNT]):
        about, counts, most = row(context[SITES], site, SITE), row(context[COUNTS], site, COUNTED), words(context[MOST])
        size = about[SITE_BYTES]
        shift = 5 if not about[SITE_SHARED] else 2 if size <= 4 else 3 if size == 8 else 4
        group, banks = (128 >> shift, 128 >> shift) if about[SITE_SHARED] else (32, 1)
        for k in range(most[site]):
            addresses, lanes = row(context[LOG], site * CAP + k, 32), 0
            cost, least = count_units(context, addresses, shift, group, banks)
            for i in range(32):
                lanes += addresses[i] >= 0
                addresses[i] = -1
            counts[WARP_ACCESSES] += 1
            counts[LANES] += lanes
            counts[COST] += cost
            counts[LEAST] += least if about[SITE_SHARED] else min(cost, (lanes * size + 31) >> 5)
            counts[WORST] = max(counts[WORST], cost)
        most[site] = 0


# --- warp operations: the result of one lane, from the operands of all -----------------------------
@helper
def shuffle(context: Any, given: Any, frame: Any, lane: int, members: int) -> None:
    """The value of another lane, and whether there is one in the segment."""
    b, clamp, segment = frame[EXCHANGE + 1] & 31, frame[EXCHANGE + 2] & 31, frame[EXCHANGE + 2] >> 8 & 31
    last, mode = (lane & segment) | (clamp & ~segment), frame[DETAIL]
    source = ((lane & segment) | (b & ~segment), lane - b, lane + b, lane ^ b)[mode]
    inside = source >= last if mode == 1 else source <= last
    source = source if inside else lane
    if not members >> source & 1:
        if context[CHECKED] and context[EXISTING] >> source & 1:
            thread, other = frame[THREAD], frame[THREAD] - lane + source
            report(context, MISSING_LANES, -1 - frame[STATE], -1, thread, context[BLOCK], other, -1, 1, NOWHERE)
        source = lane
    frame[EXCHANGE], frame[EXCHANGE + 1] = given[source * EXCHANGED], inside


@helper
def lanes_with(given: Any, members: int, mask: int, value: int) -> Any:
    """The lanes whose operand has a value, as bits."""
    found = 0
    for lane in range(32):
        if members >> lane & 1 and given[lane * EXCHANGED] & mask == value:
            found |= 1 << lane
    return found


@helper
def vote(given: Any, members: int, mode: int) -> Any:
    ballot = lanes_with(given, members, 1, 1)
    every, some = types.int64(ballot == members), types.int64(ballot != 0)
    return (every, some, every | 1 - some, ballot)[mode]


@helper
def match(given: Any, frame: Any, members: int) -> None:
    same = lanes_with(given, members, -1, frame[EXCHANGE])
    frame[EXCHANGE] = same if frame[DETAIL] == 0 or same == members else 0
    frame[EXCHANGE + 1] = same == members


@helper
def reduce(given: Any, members: int, mode: int) -> Any:
    x, first = 0, True
    for lane in range(32):
        if members >> lane & 1:
            y = given[lane * EXCHANGED]
            if mode & 8 and y >= 1 << 31:
                y -= 1 << 32
            x = y if first else (x + y, min(x, y), max(x, y), x & y, x | y, x ^ y)[mode & 7]
            first = False
    return x & 0xFFFFFFFF


@helper
def load_matrices(given: Any, frame: Any, lane: int) -> None:
    """ldmatrix: eight lanes name the rows of a matrix, 8x8 elements of 16 bits; each lane gets two elements."""
    r, c = lane >> 2, 2 * (lane & 3)
    for m in range(frame[DETAIL] & 7):
        frame[EXCHANGE + m] = 0
        for part in range(2):
            i, j = (c + part, r) if frame[DETAIL] >> 3 else (r, c + part)
            frame[EXCHANGE + m] |= types.int64(halves(given[(8 * m + i) * EXCHANGED])[j]) << 16 * part


@helper
def element(context: Any, word: int, index: int, kind: int) -> Any:
    """An element of a register: a float32 cut to tf32, or one of two elements of 16 bits."""
    half, bits, scale = word >> 16 * index & 0xFFFF, word & 0xFFFFE000, 1.0
    if kind == 2:
        bits = half << 16
    elif kind == 1:  # the number is first made as if its exponent had the offset of float32
        infinite = 0x7F800000 if half & 0x7C00 == 0x7C00 else 0
        bits, scale = half >> 15 << 31 | (half & 0x7FFF) << 13 | infinite, 2.0**112
    scratch = context[SCRATCH] + 8 * 32 * EXCHANGED
    words(scratch)[0] = bits
    return floats(scratch)[0] * scale


@helper
def multiply_matrices(context: Any, given: Any, frame: Any, lane: int) -> None:
    """mma: 16x8 results, each the sum of 8 (tf32) or 16 products and what was there; the sum is made in float64."""
    kind, scratch = frame[DETAIL], context[SCRATCH] + 8 * 32 * EXCHANGED
    for c in range(4):
        i, j = (lane >> 2) + 8 * (c >> 1), 2 * (lane & 3) + (c & 1)
        words(scratch)[0] = given[lane * EXCHANGED + 6 + c]
        total = types.float64(floats(scratch)[0])
        for t in range(4):
            a, b = ((i & 7) * 4 + t) * EXCHANGED + (i >> 3), (j * 4 + t) * EXCHANGED + 4
            for part in range(2):
                for e in range(1 if kind == 0 else 2):
                    left = element(context, given[a + 2 * part], e, kind)
                    total += left * element(context, given[b + part], e, kind)
        words(scratch)[0] = 0
        floats(scratch)[0] = total
        frame[EXCHANGE + c] = words(scratch)[0]


@exported
def perform(context: Any, frame: Any) -> int:
    """Carry out the warp operation that a thread waits for, for the lanes that take part, and let them go on."""
    kind, members = words(context[POINTS])[frame[STATE]], context[MEMBERS]
    first, given = frame[THREAD] & ~31, words(context[SCRATCH])
    for lane in range(32):
        if members >> lane & 1:
            for k in range(EXCHANGED if kind == MMA else 1):
                given[lane * EXCHANGED + k] = frame_of(context, first + lane)[EXCHANGE + k]
    same = members  # the result of operations that have one for all lanes
    if kind == SYNC:
        synchronise_lanes(context, first >> 5, members)
    elif kind == VOTE:
        same = vote(given, members, frame[DETAIL])
    elif kind == REDUCE:
        same = reduce(given, members, frame[DETAIL])
    for lane in range(32):
        if not members >> lane & 1:
            continue
        mine = frame_of(context, first + lane)
        mine[MASK] = RUNS
        if kind == SHUFFLE:
            shuffle(context, given, mine, lane, members)
        elif kind == MATCH:
            match(given, mine, members)
        elif kind == VOTE or kind == REDUCE or kind == ACTIVE:
            mine[EXCHANGE] = same
        elif members == 0xFFFFFFFF:  # matrices: without all lanes there is no result
            if kind == LDMATRIX:
                load_matrices(given, mine, lane)
            elif kind == MMA:
                multiply_matrices(context, given, mine, lane)
    return 0


@helper
def complete(context: Any, warp: int, count: int, forced: int) -> Any:
    """Carry out a warp operation whose lanes have all come; `forced` goes on without those that cannot come."""
    points, existing = words(context[POINTS]), (1 << count) - 1
    for lane in range(count):
        frame = frame_of(context, warp * 32 + lane)
        state, mask = frame[STATE], frame[MASK]
        if state <= 0 or mask == RUNS or points[state] <= YIELD:
            continue
        kind, active = points[state], points[state] == ACTIVE
        named = existing if mask == EVERYBODY else mask & existing
        members = missing = 0
        absent = warp * 32 + lane
        for other in range(count):
            theirs = frame_of(context, warp * 32 + other)
            waits = theirs[STATE] > 0 and theirs[MASK] == mask and theirs[DETAIL] == frame[DETAIL]
            if not named >> other & 1:
                continue
            if waits and points[theirs[STATE]] == kind and (not active or theirs[STATE] == state):
                members |= 1 << other
            elif theirs[STATE] != DONE and not active:
                missing += 1
                absent = warp * 32 + other
        alone = not members >> lane & 1
        if (alone or missing) and not forced:
            continue
        if alone or kind >= LDMATRIX and members != 0xFFFFFFFF:
            missing = max(missing, 1)
        if missing and context[CHECKED]:
            thread, block = warp * 32 + lane, context[BLOCK]
            report(context, MISSING_LANES, -1 - state, -1, thread, block, absent, -1, missing, NOWHERE)
        context[MEMBERS], context[EXISTING] = members | 1 << lane, existing
        call(context[PERFORM], context, frame)
        return True
    return False


# --- the scheduler ---------------------------------------------------------------------------------
@helper
def turns(context: Any) -> Any:
    """Where to start and how far to go each time, modulo 32, to come once to each lane or warp."""
    if context[ORDER] < 2:
        return (0, 1) if context[ORDER] == 0 else (31, -1)
    context[RANDOM] = (context[RANDOM] * 6364136223846793005 + 1442695040888963407) & ((1 << 63) - 1)
    return context[RANDOM] >> 32, context[RANDOM] >> 20 | 1


@helper
def run_thread(context: Any, frame: Any) -> Any:
    """Run a thread up to the next point where it has to wait; return whether it only makes room for others there."""
    context[RUN] += 1
    if context[CHECKED]:
        local = row(context[RANGES], LOCAL_SPACE, RANGE)
        local[RANGE_START] = address_of(frame) + context[LOCAL_AT]
        local[RANGE_END] = local[RANGE_START] + context[LOCAL_BYTES]
    state = frame[STATE] = call(context[KERNEL], context, frame)
    if state > 0 and words(context[POINTS])[state] == YIELD:
        frame[MASK] = YIELDED
        return True
    return False


@helper
def run_warp(context: Any, warp: int, count: int) -> Any:
    """Run the threads of a warp until none can go on alone; return whether one has made room for other warps."""
    yielded = False
    while True:
        ran = False
        start, step = turns(context)
        for k in range(32):
            lane = (start + k * step) & 31
            frame = frame_of(context, warp * 32 + lane)
            if lane < count and frame[STATE] != DONE and frame[MASK] == RUNS:
                ran = True
                yielded |= run_thread(context, frame)
                if context[STOP]:
                    return False
        if context[CHECKED]:
            account(context)
        if not complete(context, warp, count, False) and not ran:
            if yielded or not complete(context, warp, count, True):
                return yielded


@helper
def go_on(context: Any, frame: Any, threads: int) -> None:
    frame[MASK] = RUNS
    frame[STEPS] += threads >> 2  # waiting takes that much longer than a jump


@helper
def pass_barrier(context: Any, threads: int) -> Any:
    """All threads wait at a barrier, or are done: compare where, and let them go on. Return how many live on."""
    alive = ones = 0
    first = done = -1
    for t in range(threads):
        frame = frame_of(context, t)
        if frame[STATE] == DONE:
            done = t
        else:
            first = t if first < 0 else first
            alive += 1
            ones += frame[EXCHANGE] & 1
    if alive == 0:
        return 0
    mine, places, block = frame_of(context, first)[STATE], words(context[PLACES]), context[BLOCK]
    for t in range(threads):
        frame = frame_of(context, t)
        if frame[STATE] == DONE:
            continue
        if context[CHECKED] and places[frame[STATE]] != places[mine]:
            report(context, DIVERGENT, -1 - mine, -1 - frame[STATE], first, block, t, -1, 0, NOWHERE)
        mode = frame[DETAIL] & 7
        if mode:
            frame[EXCHANGE] = ones if mode == 1 else ones == alive if mode == 2 else ones > 0
        go_on(context, frame, threads)
    if context[CHECKED] and done >= 0:
        report(context, MISSING_THREADS, -1 - mine, -1, first, block, done, -1, threads - alive, NOWHERE)
    return alive


@helper
def start_checks(context: Any, block: int, threads: int) -> None:
    """Forget what was known of shared and local memory, and of the threads."""
    context[TIME] += 1
    context[SINCE] = context[BLOCK_SINCE] = context[TIME]
    context[BLOCK_ACQUIRED] = 0
    times = words(context[BLOCK_TIMES])
    times[1 + 2 * times[0]], times[2 + 2 * times[0]] = context[TIME], block
    times[0] += 1
    for k in range(context[SHARED_BYTES]):
        octets(context[SHARED])[k] = 255
    for t in range(threads):
        words(context[RELEASED])[t] = words(context[ACQUIRED])[t] = 0
        for k in range(context[LOCAL_BYTES]):
            octets(context[FRAMES] + t * context[FRAME_BYTES] + context[LOCAL_AT] + context[LOCAL_BYTES])[k] = 0
        if context[COPIES]:
            mine = row(context[COPIES], t, COPIES_OF_THREAD)
            mine[COMMITTED] = mine[WAITING] = 0


@helper
def start_block(context: Any, block: int, threads: int) -> None:
    """Set the frames of a block's threads to their start."""
    context[BLOCK] = block
    context[BLOCK_ID_X] = block % context[GRID_X]
    context[BLOCK_ID_Y] = block // context[GRID_X] % context[GRID_Y]
    context[BLOCK_ID_Z] = block // context[GRID_X] // context[GRID_Y]
    width, height = context[BLOCK_X], context[BLOCK_Y]
    for t in range(threads):
        frame = frame_of(context, t)
        frame[TID_X], frame[TID_Y], frame[TID_Z] = t % width, t // width % height, t // width // height
        frame[THREAD] = t
        frame[STATE] = frame[STEPS] = frame[MASK] = 0
    if context[CHECKED]:
        start_checks(context, block, threads)


@helper
def run_block(context: Any, block: int, threads: int) -> None:
    start_block(context, block, threads)
    while True:
        yielded = False
        start, step = turns(context)
        for k in range(32):
            warp = (start + k * step) & 31
            if 32 * warp < threads:
                yielded |= run_warp(context, warp, min(32, threads - 32 * warp))
            if context[STOP] or context[TIME] >= END_OF_TIME:
                context[STOP] = 1
                return
        if yielded:
            for t in range(threads):
                if frame_of(context, t)[MASK] == YIELDED:
                    go_on(context, frame_of(context, t), threads)
            continue
        if pass_barrier(context, threads) == 0:
            return
        context[BARRIERS] += 1
        context[TIME] += 1
        context[SINCE] = context[TIME]
        if context[COPIES]:  # a barrier does not wait for copies
            for t in range(threads):
                for k in range(row(context[COPIES], t, COPIES_OF_THREAD)[WAITING]):
                    stamp_copy(context, COPY, copy_of(context, t, k))


@exported
def run(context: Any) -> None:
    """Run every block of a worker."""
    threads = context[BLOCK_X] * context[BLOCK_Y] * context[BLOCK_Z]
    for k in range(context[FIRST_BLOCK], context[BLOCKS], context[BLOCK_STEP]):
        run_block(context, words(context[BLOCK_ORDER])[k] if context[BLOCK_ORDER] else k, threads)
        if context[STOP]:
            return
