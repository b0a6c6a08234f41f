"""Sums, extremes and other reductions, by trees, by warp shuffles and by atomics."""

import math

import numpy as np
from foreign.cases import blank, case, numbers, zeros
from numba import cuda, float32

FULL = 0xFFFFFFFF  # mask of all lanes of a warp
BLOCK = 64
WARPS = 4


@case(3, BLOCK, lambda: (blank(3), numbers(192)), lambda out, x: x.reshape(3, 64).sum(1))
@cuda.jit
def sum_by_tree(out, x):
    """Halve the number of threads that add, until one is left."""
    part = cuda.shared.array(BLOCK, float32)  # wrong c: part = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    part[t] = x[cuda.grid(1)]  # c: out of bounds
    cuda.syncthreads()
    half = BLOCK // 2
    while half > 0:
        if t < half:
            part[t] += part[t + half]  # a: race  # c: out of bounds
            # wrong b: cuda.syncthreads()  # b: missing threads
        cuda.syncthreads()  # wrong a: pass  # wrong b: pass
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


@case(4, BLOCK, lambda: (zeros(1), numbers(1000)), lambda out, x: [x.sum()])
@cuda.jit
def sum_with_stride(out, x):
    """Walk over an array of any length, then add what the blocks have found."""
    part = cuda.shared.array(BLOCK, float32)
    t, total, i = cuda.threadIdx.x, float32(0), cuda.grid(1)
    while i < x.size:  # b: endless loop
        total += x[i]  # b: endless loop
        i += cuda.gridsize(1)  # wrong b: i += 0  # b: endless loop
    part[t] = total
    for level in range(5, -1, -1):
        cuda.syncthreads()
        if t < 1 << level:
            part[t] += part[t + (1 << level)]
    if t == 0:
        cuda.atomic.add(out, 0, part[0])  # wrong a: out[0] += part[0]  # a: race


@case(2, (32, WARPS), lambda: (blank(7), numbers(7, 45)), lambda out, x: x.sum(1))
@cuda.jit
def sum_of_rows_by_warps(out, x):
    """Give a warp to each row and exchange by butterflies: in the end every lane knows the sum."""
    lane, row = cuda.threadIdx.x, cuda.blockIdx.x * WARPS + cuda.threadIdx.y
    if row >= x.shape[0]:
        return
    total = float32(0)
    for column in range(lane, x.shape[1], 32):  # wrong a: for column in range(lane, x.shape[1] + 1, 32):
        total += x[row, column]  # a: out of bounds
    for offset in (16, 8, 4, 2, 1):
        total += cuda.shfl_xor_sync(FULL, total, offset)
    if lane == 0:
        out[row] = total


@case(2, 32, lambda: (zeros(1), numbers(60)), lambda out, x: [x.sum()])
@cuda.jit
def sum_by_warp(out, x):
    """Shift downwards within the warp; lanes beyond the end bring zeros."""
    i = cuda.grid(1)
    if i >= x.size:  # wrong a: if False:
        value = float32(0)  # wrong b: return
    else:
        value = x[i]  # a: out of bounds
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(FULL, value, offset)  # b: missing lanes
    if cuda.laneid == 0:
        cuda.atomic.add(out, 0, value)


@case(3, 96, lambda: (blank(3), numbers(288)), lambda out, x: x.reshape(3, 96).max(1))
@cuda.jit
def maximum_by_block(out, x):
    """Reduce in each warp, then let the first warp reduce the results of all."""
    best = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    value = x[cuda.grid(1)]
    for offset in (16, 8, 4, 2, 1):
        value = max(value, cuda.shfl_down_sync(FULL, value, offset))
    if t % 32 == 0:
        best[t // 32] = value  # a: race
    cuda.syncthreads()  # wrong a: pass
    if t < 32:
        value = float32(-np.inf)
        if t < 3:  # wrong b: if t < 4:
            value = best[t]  # a: race  # b: uninitialised
        for offset in (16, 8, 4, 2, 1):
            value = max(value, cuda.shfl_down_sync(FULL, value, offset))
        if t == 0:
            out[cuda.blockIdx.x] = value


@case(3, 32, lambda: (blank(1), zeros(1, dtype="i4"), blank(3), numbers(96)), lambda out, done, parts, x: [x.sum()])
@cuda.jit
def sum_by_last_block(out, done, parts, x):
    """Let the block that takes the last ticket add the sums of all blocks: one launch, and no atomic on floats."""
    value = x[cuda.grid(1)]
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(FULL, value, offset)
    if cuda.threadIdx.x == 0:
        parts[cuda.blockIdx.x] = value  # a: race
        cuda.threadfence()
        if cuda.atomic.add(done, 0, 1) == cuda.gridDim.x - 1:  # wrong a: if cuda.blockIdx.x == cuda.gridDim.x - 1:
            cuda.threadfence()
            total = float32(0)
            for k in range(cuda.gridDim.x):
                total += parts[k]  # a: race
            out[0] = total


@case(1, BLOCK, lambda: (blank(5), numbers(320)), lambda out, parts: parts.reshape(5, 64).sum(1))
@cuda.jit
def second_pass(out, parts):
    """Add, in one block, what the blocks of a first launch have left: the tile is filled again for each result."""
    tile = cuda.shared.array(BLOCK, float32)
    t = cuda.threadIdx.x
    for k in range(out.size):
        tile[t] = parts[k * BLOCK + t]  # a: race  # b: race
        cuda.syncthreads()  # wrong b: pass
        if t == k:
            total = float32(0)
            for j in range(BLOCK):
                total += tile[j]  # a: race  # b: race
            out[k] = total
        cuda.syncthreads()  # wrong a: pass


@case(4, BLOCK, lambda: (np.array([99, -99], "f4"), numbers(250)), lambda out, x: [x.min(), x.max()])
@cuda.jit
def extremes(out, x):
    """Keep the least and the greatest by atomics."""
    i = cuda.grid(1)
    if i < x.size:  # wrong a: if i <= x.size:
        cuda.atomic.min(out, 0, x[i])  # a: out of bounds
        cuda.atomic.max(out, 1, x[i])  # wrong b: out[1] = max(out[1], x[i])  # b: race  # a: out of bounds


def softmax(x):
    """Divide the exponentials of each row by their sum."""
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@case(3, BLOCK, lambda: (blank(3, 50), numbers(3, 50)), lambda out, x: softmax(x))
@cuda.jit
def softmax_of_rows(out, x):
    """Use one shared array for two reductions, one after the other."""
    work = cuda.shared.array(BLOCK, float32)
    row, t, n = cuda.blockIdx.x, cuda.threadIdx.x, x.shape[1]
    value = x[row, t] if t < n else float32(-np.inf)
    work[t] = value
    for level in range(5, -1, -1):
        cuda.syncthreads()  # wrong b: if t < 32: cuda.syncthreads()  # b: divergent barrier
        if t < 1 << level:
            work[t] = max(work[t], work[t + (1 << level)])
    cuda.syncthreads()  # b: divergent barrier
    largest = work[0]  # a: race
    cuda.syncthreads()  # wrong a: pass  # b: divergent barrier
    power = math.exp(value - largest)
    work[t] = power  # a: race
    for level in range(5, -1, -1):
        cuda.syncthreads()  # b: divergent barrier
        if t < 1 << level:
            work[t] += work[t + (1 << level)]
    cuda.syncthreads()  # b: divergent barrier
    if t < n:
        out[row, t] = power / work[0]
