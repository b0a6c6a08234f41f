"""Prefix sums, sorts, compaction and histograms."""

import numpy as np
from foreign.cases import blank, case, numbers, zeros
from numba import cuda, float32, int32, uint8

FULL = 0xFFFFFFFF
BLOCK = 64
BINS = 19


@case(1, BLOCK, lambda: (blank(64), numbers(64)), lambda out, x: x.cumsum())
@cuda.jit
def scan_with_two_buffers(out, x):
    """Scan as Hillis and Steele do: read one buffer and write the other, then swap them."""
    buffer = cuda.shared.array((2, BLOCK), float32)
    t, source, step = cuda.threadIdx.x, 0, 1
    buffer[0, t] = x[t]
    cuda.syncthreads()
    while step < BLOCK:
        target = 1 - source  # wrong a: target = source
        if t >= step:  # wrong b: if t > step:
            buffer[target, t] = buffer[source, t] + buffer[source, t - step]  # a: race  # b: uninitialised  # c: race
        else:  # wrong b: elif t < step:
            buffer[target, t] = buffer[source, t]  # a: race  # b: uninitialised  # c: race
        cuda.syncthreads()  # wrong c: pass
        source = target
        step *= 2
    out[t] = buffer[source, t]


@case(1, BLOCK // 2, lambda: (blank(64), numbers(64)), lambda out, x: np.r_[0, x.cumsum()[:-1]])
@cuda.jit
def exclusive_scan(out, x):
    """Scan as Blelloch does: sums go up a tree, then prefixes come down."""
    tree = cuda.shared.array(BLOCK, float32)
    t = cuda.threadIdx.x
    tree[2 * t] = x[2 * t]  # a: race
    tree[2 * t + 1] = x[2 * t + 1]  # a: race
    offset, count = 1, BLOCK // 2
    while count > 0:
        cuda.syncthreads()  # wrong a: pass  # wrong d: if t < count: cuda.syncthreads()  # d: divergent barrier
        if t < count:
            tree[offset * (2 * t + 2) - 1] += tree[offset * (2 * t + 1) - 1]  # a: race  # b: race
        offset *= 2
        count //= 2
    if t == 0:
        tree[BLOCK - 1] = 0  # a: race  # b: race
    count = 1
    while count < BLOCK:
        offset //= 2
        cuda.syncthreads()  # wrong b: pass  # d: divergent barrier
        if t < count:
            left, right = offset * (2 * t + 1) - 1, offset * (2 * t + 2) - 1
            # wrong c: right = left + offset + (t == 31)
            kept = tree[left]  # b: race
            tree[left] = tree[right]  # b: race  # c: out of bounds
            tree[right] += kept  # b: race  # c: out of bounds
        count *= 2
    cuda.syncthreads()  # d: divergent barrier
    out[2 * t] = tree[2 * t]
    out[2 * t + 1] = tree[2 * t + 1]


@case(2, BLOCK, lambda: (blank(2, 64), numbers(2, 64)), lambda out, x: x.cumsum(1))
@cuda.jit
def scan_by_warps(out, x):
    """Scan in each warp by shuffles; a warp then adds the totals of the warps before it."""
    totals = cuda.shared.array(2, float32)
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    lane, warp = t % 32, t // 32
    value = x[row, t]
    offset = 1
    while offset < 32:
        before = cuda.shfl_up_sync(FULL, value, offset)
        if lane >= offset:
            value += before
        offset *= 2
    if lane == 31:
        totals[warp] = value  # a: race  # wrong b: totals[warp + 1] = value  # b: out of bounds
    cuda.syncthreads()  # wrong a: pass
    for k in range(warp):  # wrong c: for k in range(warp + 2):
        value += totals[k]  # a: race  # b: uninitialised  # c: out of bounds
    out[row, t] = value


@case(1, BLOCK, lambda: (numbers(64),), lambda x: np.sort(x))
@cuda.jit
def bitonic_sort(x):
    """Sort a block by comparing partners at distances that are powers of two."""
    tile = cuda.shared.array(BLOCK, float32)
    t = cuda.threadIdx.x
    tile[t] = x[t]
    cuda.syncthreads()
    size = 2
    while size <= BLOCK:
        distance = size // 2
        while distance > 0:
            partner = t ^ distance
            if partner > t:  # wrong b: if partner != t:
                first, second = tile[t], tile[partner]  # a: race  # b: race
                if (first > second) == ((t & size) == 0):
                    tile[t] = second  # a: race  # b: race
                    tile[partner] = first  # a: race  # b: race
            cuda.syncthreads()  # wrong a: pass
            distance //= 2
        size *= 2
    x[t] = tile[t]  # a: race


@case(1, 33, lambda: (numbers(66),), lambda x: np.sort(x))
@cuda.jit
def odd_even_sort(x):
    """Swap neighbours in global memory, pairs at even and at odd places in turn, until nothing has changed twice."""
    t, calm, parity = cuda.threadIdx.x, 0, 0
    while calm < 2:
        i = 2 * t + parity
        swap = i + 1 < x.size and x[i] > x[i + 1]  # wrong a: swap = x[i] > x[i + 1]  # a: out of bounds
        # b: race
        if swap:
            x[i], x[i + 1] = x[i + 1], x[i]  # a: out of bounds  # b: race
        changed = cuda.syncthreads_or(1 if swap else 0)  # wrong b: changed = swap
        calm = 0 if changed else calm + 1
        parity = 1 - parity


def positive(x):
    """Give the count of the positive elements, and the elements."""
    kept = x[x > 0]
    return [kept.size], np.sort(np.r_[kept, np.full(x.size - kept.size, np.nan)])


@case(2, BLOCK, lambda: (zeros(1, dtype="i4"), blank(90), numbers(90)), lambda *a: positive(a[2]), any_order=True)
@cuda.jit
def compact(count, out, x):
    """Keep the positive elements, in any order: one atomic for each warp, and a place for each lane by its vote."""
    i = cuda.grid(1)
    if i >= x.size:
        return
    keep = x[i] > 0
    mask = cuda.activemask()
    votes = cuda.ballot_sync(mask, keep)  # wrong a: votes = cuda.ballot_sync(mask, keep) if keep else 0
    # a: missing lanes
    base = 0
    leader = cuda.ffs(mask) - 1
    if cuda.laneid == leader:
        base = cuda.atomic.add(count, 0, cuda.popc(votes))
    base = cuda.shfl_sync(mask, base, leader)  # a: missing lanes
    if keep:
        before = votes & ((1 << cuda.laneid) - 1)  # wrong b: before = votes
        out[base + cuda.popc(before)] = x[i]  # b: race


@case(2, BLOCK, lambda: (blank(2, dtype="i4"), numbers(2, 100)), lambda out, x: (x > 0).sum(1))
@cuda.jit
def count_of_positive(out, x):
    """Count by the barrier that counts."""
    row, t, total = cuda.blockIdx.x, cuda.threadIdx.x, 0
    for k in range(t, 128, BLOCK):  # wrong a: for k in range(t, x.shape[1], BLOCK):
        positive = k < x.shape[1] and x[row, k] > 0
        total += cuda.syncthreads_count(1 if positive else 0)  # a: missing threads
    if t == 0:
        out[row] = total


@case(3, BLOCK, lambda: (zeros(BINS, dtype="i4"), numbers(150, dtype="u1")),
      lambda out, x: np.bincount(x, minlength=BINS))  # fmt: skip
@cuda.jit
def histogram(out, x):
    """Count in global memory."""
    i = cuda.grid(1)
    if i < x.size:
        cuda.atomic.add(out, x[i], 1)  # wrong a: out[x[i]] += 1  # a: race  # wrong b: out[x[i + 1]] += 1
        # b: out of bounds


@case(3, BLOCK, lambda: (zeros(BINS, dtype="i4"), numbers(500, dtype="i2")),
      lambda out, x: np.bincount(x + 9, minlength=BINS))  # fmt: skip
@cuda.jit
def private_histogram(out, x):
    """Count in shared memory, then add the counts of the blocks."""
    counts = cuda.shared.array(BINS, int32)
    t = cuda.threadIdx.x
    if t < BINS:  # wrong a: if t < BINS - 1:
        counts[t] = 0  # b: race
    cuda.syncthreads()  # wrong b: pass  # wrong e: if t < BINS: cuda.syncthreads()  # e: divergent barrier
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        cuda.atomic.add(counts, x[i] + 9, 1)  # a: uninitialised  # b: race  # c: race
    cuda.syncthreads()  # wrong c: pass  # e: divergent barrier
    if t < BINS:  # wrong d: if t <= BINS:
        cuda.atomic.add(out, t, counts[t])  # c: race  # d: out of bounds


@case(1, 32, lambda: (blank(4, dtype="i4"), numbers(300, dtype="u1")), lambda out, x: np.bincount(x % 4))
@cuda.jit
def histogram_in_bytes(out, x):
    """Count in bytes, a column for each thread: neighbouring bytes of different threads are no race."""
    counts = cuda.shared.array((4, 32), uint8)  # wrong a: counts = cuda.shared.array((4, 31), uint8)
    t = cuda.threadIdx.x
    for k in range(4):
        counts[k, t] = 0  # a: race  # b: race
    for i in range(t, x.size, 32):
        counts[x[i] % 4, t] += 1  # a: race  # b: race
    cuda.syncthreads()  # wrong b: pass
    if t < 4:
        total = 0
        for k in range(32):
            total += counts[t, k]  # b: race
        out[t] = total
