"""Votes, matches, shuffles, warp barriers, and what else depends on lanes and blocks: locks, atomics, memory spaces."""

import numpy as np
from foreign.cases import blank, case, numbers, zeros
from numba import cuda, float32, int32, uint32

FULL = 0xFFFFFFFF
WEIGHTS = np.array([1, -2, 5, 3], np.float32)


def votes_of(x):
    """Answer for each warp: do all, do any, are all alike, and which lanes have a positive number."""
    positive = x.reshape(-1, 32) > 0
    every, some = positive.all(1), positive.any(1)
    return np.stack([every, some, every | ~some, positive @ (1 << np.arange(32))], 1)


@case(2, 64, lambda: (blank(4, 4, dtype="i8"), np.r_[np.ones(32), -np.ones(32), numbers(64)]),
      lambda out, x: votes_of(x))  # fmt: skip
@cuda.jit
def votes(out, x):
    """Ask a warp."""
    i = cuda.grid(1)
    vote = x[i] > 0
    answers = (
        cuda.all_sync(FULL, vote),  # a: missing lanes  # wrong a: cuda.all_sync(FULL, vote) if vote else False,
        cuda.any_sync(FULL, vote),  # a: missing lanes
        cuda.eq_sync(FULL, vote),  # a: missing lanes
    )
    ballot = cuda.ballot_sync(FULL, vote)  # a: missing lanes
    if cuda.laneid == 0:
        for k in range(3):
            out[i // 32, k] = 1 if answers[k] else 0
        out[i // 32, 3] = ballot & FULL


@case(2, 32, lambda: (blank(64, dtype="i4"), numbers(64, dtype="i4")),
      lambda out, x: np.r_[equals(x[:32]), equals(x[32:])])  # fmt: skip
@cuda.jit
def match(out, x):
    """Count the lanes that hold the same number."""
    i = cuda.grid(1)
    value = x[i]  # wrong a: value = x[i + 1]  # a: out of bounds
    out[i] = cuda.popc(cuda.match_any_sync(FULL, value))


def equals(x):
    """Count for each element how many are equal to it."""
    return (x[:, None] == x).sum(1)


@case(2, 64, lambda: (blank(128), numbers(128)), lambda out, x: x.reshape(4, 32)[:, ::-1].ravel())
@cuda.jit
def reverse_in_warps(out, x):
    """Exchange by shared memory that belongs to one warp: its own barrier is enough."""
    tile = cuda.shared.array(64, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    tile[t] = x[i]  # a: race  # b: race
    cuda.syncwarp()  # wrong a: pass
    out[i] = tile[t ^ 31]  # wrong b: out[i] = tile[63 - t]  # a: race  # b: race


@case(1, 32, lambda: (blank(32), numbers(32)), lambda out, x: np.full(32, x.sum()))
@cuda.jit
def sum_in_warp_memory(out, x):
    """Add pairs of lanes that lie further and further apart; reading and writing are kept apart too."""
    tile = cuda.shared.array(32, float32)
    lane, offset = cuda.laneid, 16
    tile[lane] = x[lane]  # a: race
    while offset > 0:
        cuda.syncwarp(FULL)  # wrong a: pass
        other = tile[lane ^ offset]  # a: race  # b: race
        cuda.syncwarp(FULL)  # wrong b: pass
        tile[lane] += other  # a: race  # b: race
        offset >>= 1
    out[lane] = tile[lane]


@case(1, 32, lambda: (blank(32), numbers(32)), lambda out, x: np.where(np.arange(32) < 16, np.roll(x, -1), x))
@cuda.jit
def part_of_a_warp(out, x):
    """Let the first 17 lanes shift among themselves, within a branch, by a mask that names just them."""
    lane = cuda.laneid
    value = x[lane]
    mask = 0x1FFFF
    if lane <= 16:  # wrong a: if lane < 16:
        value = cuda.shfl_sync(mask, value, min(lane + 1, 16))  # a: missing lanes
    out[lane] = value


def bits_of(x):
    """Count the ones, and the zeros before the first one from the left; find the first one from the right; mirror."""
    text = [f"{value:032b}" for value in x]
    return np.array([[t.count("1"), t.index("1"), 32 - t.rindex("1"), int(t[::-1], 2)] for t in text])


@case(1, 40, lambda: (blank(40, 4, dtype="i8"), numbers(40, dtype="u4") * 99991 + 7), lambda out, x: bits_of(x))
@cuda.jit
def bits(out, x):
    """Look at single bits."""
    i = cuda.grid(1)
    value = uint32(x[i])
    out[i, 0] = cuda.popc(value)
    out[i, 1] = cuda.clz(value)
    out[i, 2] = cuda.ffs(value)
    out[i, 3] = cuda.brev(value)  # wrong a: out[i, 4] = cuda.brev(value)  # a: out of bounds  # a: never written


@case(2, 40, lambda: (blank(2, 3, dtype="i4"), numbers(80)),
      lambda out, x: [[(h > 0).sum(), (h > -10).all(), (h > 8).any()] for h in (x[:40], x[40:])])  # fmt: skip
@cuda.jit
def voting_barriers(out, x):
    """Ask a block."""
    value, t = x[cuda.grid(1)], cuda.threadIdx.x
    # wrong a: if value < 0: return
    count = cuda.syncthreads_count(1 if value > 0 else 0)  # a: missing threads
    every = cuda.syncthreads_and(1 if value > -10 else 0)  # a: missing threads
    some = cuda.syncthreads_or(1 if value > 8 else 0)  # a: missing threads
    if t == 0:
        out[cuda.blockIdx.x, 0] = count
        out[cuda.blockIdx.x, 1] = 1 if every else 0
        out[cuda.blockIdx.x, 2] = 1 if some else 0


@case(2, 32, lambda: (zeros(1, dtype="i8"), zeros(1, dtype="i4"), numbers(64, dtype="i8")),
      lambda out, lock, x: [x.sum()])  # fmt: skip
@cuda.jit
def sum_under_lock(out, lock, x):
    """Add, without an atomic addition, while no other thread does: taking and giving back stand in one loop body."""
    i, waiting = cuda.grid(1), True
    while waiting:
        if cuda.atomic.cas(lock, 0, 0, 1) == 0:  # wrong a: if cuda.atomic.cas(lock, 0, 0, 0) == 0:
            cuda.threadfence()
            out[0] += x[i]  # a: race
            cuda.threadfence()
            cuda.atomic.exch(lock, 0, 0)
            waiting = False


def atomics_of(x):
    """Apply every atomic operation by NumPy."""
    total, turns = int(x.sum()), x.size % 8
    bitwise = [int(function.reduce(x)) for function in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)]
    return [total, 2**32 - total, x.min(), x.max(), *bitwise, turns, 7 - turns]


@case(3, 25, lambda: (np.array([0, 0, 99, 0, 255, 0, 0, 0, 7], np.uint32), numbers(75, dtype="u4")),
      lambda out, x: atomics_of(x))  # fmt: skip
@cuda.jit
def all_atomics(out, x):
    """Call every atomic operation on whole numbers."""
    value = x[cuda.grid(1)]
    cuda.atomic.add(out, 0, value)
    cuda.atomic.sub(out, 1, value)
    cuda.atomic.min(out, 2, value)
    cuda.atomic.max(out, 3, value)
    cuda.atomic.and_(out, 4, value)
    cuda.atomic.or_(out, 5, value)
    cuda.atomic.xor(out, 6, value)  # wrong a: out[6] ^= value  # a: race
    cuda.atomic.inc(out, 7, 7)  # wrong b: cuda.atomic.inc(out, 9, 7)  # b: out of bounds
    cuda.atomic.dec(out, 8, 7)


@case(2, 64, lambda: (blank(128), blank(128, dtype="i4"), numbers(128)),
      lambda out, places, x: (x.reshape(2, 64)[:, ::-1].ravel(), 63 - np.arange(128) % 64), shared=64 * 8)  # fmt: skip
@cuda.jit
def two_arrays_in_one(out, places, x):
    """Divide dynamic shared memory, whose size the launch gives, into two arrays of different types."""
    n = cuda.blockDim.x
    values = cuda.shared.array(0, float32)[:n]
    indices = cuda.shared.array(0, int32)[n : 2 * n]  # wrong a: indices = cuda.shared.array(0, int32)[:n]
    i, t = cuda.grid(1), cuda.threadIdx.x
    values[t] = x[i]  # a: race
    indices[n - 1 - t] = t  # a: race  # wrong b: indices[n + t] = t  # b: out of bounds
    cuda.syncthreads()
    out[i] = values[n - 1 - t]
    places[i] = indices[t]  # b: uninitialised


@case(2, 16, lambda: (blank(29), numbers(32)), lambda out, x: np.correlate(x, WEIGHTS))
@cuda.jit
def constant_weights(out, x):
    """Read the weights from constant memory."""
    weights = cuda.const.array_like(WEIGHTS)
    i = cuda.grid(1)
    if i < out.size:  # wrong b: if i < x.size:
        total = float32(0)
        for k in range(weights.size):
            total += weights[k] * x[i + k]  # b: out of bounds  # wrong a: total += weights[k + i % 2] * x[i + k]
            # a: out of bounds
        out[i] = total  # b: out of bounds


@case(1, 5, lambda: (blank(5), numbers(5, 7)), lambda out, x: np.median(x, 1))
@cuda.jit
def median_of_seven(out, x):
    """Sort by insertion in a local array, which each thread has for itself."""
    row, n = cuda.threadIdx.x, x.shape[1]
    kept = cuda.local.array(7, float32)  # wrong a: kept = cuda.local.array(6, float32)
    for k in range(n):
        value, j = x[row, k], k
        while j > 0 and kept[j - 1] > value:  # wrong b: while kept[j - 1] > value:
            # b: negative index
            kept[j] = kept[j - 1]  # a: out of bounds  # b: negative index
            j -= 1
        kept[j] = value  # a: out of bounds
    out[row] = kept[n // 2]
