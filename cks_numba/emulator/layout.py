"""Where things lie: numbers that the compiled kernel, the scheduler and the checks read and write in common tables.

A table is an array of 64-bit integers, and most names here are places in one.
"""

from __future__ import annotations

# The context of a worker, which runs some of the blocks of a launch.
(
    # for the kernel itself
    PARAMETERS, CONSTANTS, SHARED, GRID_X, GRID_Y, GRID_Z, BLOCK_X, BLOCK_Y, BLOCK_Z, BLOCK_ID_X, BLOCK_ID_Y,
    BLOCK_ID_Z, LIMIT, SHARED_BYTES, LANDING,
    # for the scheduler
    KERNEL, PERFORM, POINTS, PLACES, FRAMES, FRAME_BYTES, LOCAL_AT, LOCAL_BYTES, BLOCKS, FIRST_BLOCK, BLOCK_STEP,
    BLOCK, BLOCK_ORDER, ORDER, RANDOM, CHECKED, STOP,
    # for the checks
    SITES, RANGES, RANGE_COUNT, GRANULE, SHARED_GRANULE, SHADOW, TIME, SINCE, BLOCK_SINCE, BLOCK_TIMES,
    FINDINGS, FINDING_COUNT, ACCESSES, COPIES,
    # for accesses that warp operations or atomics put in order
    CLOCKS, CLOCKS_SINCE, RELEASED, ACQUIRED, BLOCK_RELEASED, BLOCK_ACQUIRED,
    # for what the accesses of a warp cost together
    COUNTS, LOG, SEEN, MOST, TOUCHED, TOUCHED_COUNT, RUN, BANKS,
) = range(60)  # fmt: skip
CONTEXT = 60

# The frame of a thread.
TID_X, TID_Y, TID_Z, THREAD, STATE, STEPS, MASK, DETAIL = range(8)
EXCHANGE, EXCHANGED = 8, 16  # operands of a warp operation, then its results
FRAME = EXCHANGE + EXCHANGED
START, DONE = 0, -1  # values of STATE; another is the number of the point where the thread waits
RUNS, YIELDED, EVERYBODY = 0, -2, -1  # values of MASK; another names the lanes that must come to a warp operation

# What a thread waits for at a point, in the table of points.
BARRIER, YIELD, SYNC, SHUFFLE, VOTE, MATCH, ACTIVE, REDUCE, LDMATRIX, MMA = range(10)

# A row of the table of sites, each an instruction that touches memory.
SITE_BYTES, SITE_ACTION, SITE_SHARED, SITE_FIRST = range(4)
SITE = 4
READ, WRITE, ATOMIC, VOLATILE = range(4)
GENERIC, GLOBAL_SPACE, SHARED_SPACE, LOCAL_SPACE = range(4)

# A row of the table of ranges, each an array in global memory.
RANGE_START, RANGE_END, RANGE_SHADOW = range(3)
RANGE = 3

# A row of the shadow, what is known of a granule of memory: stamps of the last write and of two reads, and the time
# of the last atomic.
WROTE, HAS_READ, READ_TOO, ATOMIC_AT = range(4)
SHADOW_ROW = 4

# A stamp says who touched memory, where and when.
TIME_SHIFT, SITE_SHIFT, THREAD_SHIFT = 34, 20, 9
SITE_BITS, THREAD_BITS, IS_ATOMIC, CLOCK_BITS = (1 << 14) - 1, (1 << 11) - 1, 1 << 8, (1 << 8) - 1
END_OF_TIME = (1 << 29) - 1  # the last that fits into a stamp
COPY = THREAD_BITS  # stands for the unit that makes asynchronous copies

# A row of the findings.
KIND, AT_SITE, OTHER_SITE, AT_BLOCK, AT_THREAD, OTHER_BLOCK, OTHER_THREAD, ADDRESS, SIZE, ARRAY, COUNT = range(11)
FINDING = 11
MOST_FINDINGS = 64
IN_SHARED, IN_LOCAL = -2, -3  # values of ARRAY
KINDS = (
    "out of bounds", "misaligned", "negative index", "uninitialised", "race", "divergent barrier", "missing threads",
    "missing lanes", "endless loop", "assertion", "never written",
)  # fmt: skip
(
    BOUNDS, MISALIGNED, NEGATIVE, UNINITIALISED, RACE, DIVERGENT, MISSING_THREADS, MISSING_LANES, ENDLESS, ASSERTION,
    NEVER_WRITTEN,
) = range(11)  # fmt: skip

# A row of the counts of a site.
WARP_ACCESSES, LANES, COST, LEAST, WORST = range(5)
COUNTED = 5
CAP = 64  # accesses of a site by a thread that are counted between two places where the thread waits

# Copies of a thread that are under way: how many groups it has committed, how many copies wait, and for each its group,
# address, bytes and site.
COMMITTED, WAITING, FIRST_COPY = range(3)
COPY_ROW, MOST_COPIES = 4, 128
COPIES_OF_THREAD = FIRST_COPY + COPY_ROW * MOST_COPIES
