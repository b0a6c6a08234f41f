"""The fourteen tasks of GPU-Puzzles (github.com/srush/GPU-Puzzles), told anew."""

import numpy as np
from foreign.cases import blank, case, numbers, zeros
from numba import cuda, float32

WIDTH = 8  # threads in a block, and elements in its shared memory
HALO = WIDTH + 3
TILE = 4


@case(1, 4, lambda: (blank(4), numbers(4)), lambda out, a: a + 10)
@cuda.jit
def puzzle_map(out, a):
    """Add ten to every element, one thread each."""
    i = cuda.threadIdx.x
    out[i] = a[i] + 10  # wrong a: out[i] = a[i + 1] + 10  # a: out of bounds


@case(1, 4, lambda: (blank(4), numbers(4), numbers(4, seed=1)), lambda out, a, b: a + b)
@cuda.jit
def puzzle_zip(out, a, b):
    """Add two arrays."""
    i = cuda.threadIdx.x  # wrong a: i = cuda.threadIdx.x + 1
    out[i] = a[i] + b[i]  # a: out of bounds  # a: never written


@case(1, 8, lambda: (blank(5), numbers(5)), lambda out, a: a + 10)
@cuda.jit
def puzzle_guard(out, a):
    """Use more threads than there are elements."""
    i = cuda.threadIdx.x
    if i < a.size:  # wrong a: if i <= a.size:
        out[i] = a[i] + 10  # a: out of bounds


@case(1, (5, 5), lambda: (blank(3, 5), numbers(3, 5)), lambda out, a: a + 10)
@cuda.jit
def puzzle_map_2d(out, a):
    """Use threads in two dimensions."""
    row, column = cuda.threadIdx.y, cuda.threadIdx.x
    if row < a.shape[0] and column < a.shape[1]:  # wrong a: if row < a.shape[1] and column < a.shape[0]:
        out[row, column] = a[row, column] + 10  # a: out of bounds  # a: never written


@case(1, (8, 8), lambda: (blank(3, 5), numbers(3, 1), numbers(1, 5, seed=1)), lambda out, a, b: a + b)
@cuda.jit
def puzzle_broadcast(out, a, b):
    """Add a column and a row: every pair."""
    column, row = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = a[row, 0] + b[0, column]  # wrong a: out[row, column] = a[column, 0]  # a: out of bounds


@case(3, 4, lambda: (blank(9), numbers(9)), lambda out, a: a + 10)
@cuda.jit
def puzzle_blocks(out, a):
    """Use several blocks, of which the last is not full."""
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x  # wrong a: i = cuda.threadIdx.x
    if i < a.size:
        out[i] = a[i] + 10  # a: never written


@case((2, 3), (3, 2), lambda: (blank(4, 6), numbers(4, 6)), lambda out, a: a + 10)
@cuda.jit
def puzzle_blocks_2d(out, a):
    """Use blocks in two dimensions."""
    column, row = cuda.grid(2)
    if row < a.shape[0] and column < a.shape[1]:  # wrong a: if column < a.shape[1]:
        out[row, column] = a[row, column] + 10  # a: out of bounds


@case(3, WIDTH, lambda: (blank(21), numbers(21)), lambda out, a: np.r_[a[7::-1], a[15:7:-1], a[:15:-1]])
@cuda.jit
def puzzle_shared(out, a):
    """Turn the order round in every block, by way of shared memory."""
    tile = cuda.shared.array(WIDTH, float32)
    first, t = cuda.blockIdx.x * WIDTH, cuda.threadIdx.x
    last = min(WIDTH, a.size - first) - 1  # wrong b: last = WIDTH - 1
    if t <= last:  # wrong b: if first + t < a.size:
        tile[t] = a[first + t]  # a: race
    cuda.syncthreads()  # wrong a: pass
    if t <= last:  # wrong b: if first + t < a.size:
        out[first + t] = tile[last - t]  # a: race  # b: uninitialised


@case(1, WIDTH, lambda: (blank(8), numbers(8)), lambda out, a: np.convolve(a, np.ones(3))[:8])
@cuda.jit
def puzzle_pooling(out, a):
    """Add each element and the two before it."""
    tile = cuda.shared.array(WIDTH, float32)
    t = cuda.threadIdx.x
    tile[t] = a[t]  # a: race
    cuda.syncthreads()  # wrong a: pass
    total = tile[t]
    if t >= 1:
        total += tile[t - 1]  # a: race
    if t >= 2:  # wrong b: if t >= 1:
        total += tile[t - 2]  # a: race  # b: negative index
    out[t] = total


@case(1, WIDTH, lambda: (blank(1), numbers(8), numbers(8, seed=1)), lambda out, a, b: [a @ b])
@cuda.jit
def puzzle_dot(out, a, b):
    """Let one thread add what all have multiplied."""
    products = cuda.shared.array(WIDTH, float32)
    t = cuda.threadIdx.x
    products[t] = a[t] * b[t]  # a: race  # wrong b: products[t + 1] = a[t]  # b: out of bounds
    cuda.syncthreads()  # wrong a: pass
    if t == 0:
        total = float32(0)
        for k in range(WIDTH):
            total += products[k]  # a: race  # b: uninitialised
        out[0] = total


@case(2, WIDTH, lambda: (blank(15), numbers(15), numbers(4, seed=1)),
      lambda out, a, b: np.correlate(np.r_[a, 0, 0, 0], b))  # fmt: skip
@cuda.jit
def puzzle_convolution(out, a, b):
    """Slide a filter of four over the array, with zeros behind the end; the tile has a halo on its right."""
    tile = cuda.shared.array(HALO, float32)
    weights = cuda.shared.array(4, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    tile[t] = a[i] if i < a.size else float32(0)  # b: race
    if t < 3:  # wrong a: if t < 2:
        tile[WIDTH + t] = a[i + WIDTH] if i + WIDTH < a.size else float32(0)  # b: race
    if t < 4:
        weights[t] = b[t]  # b: race
    cuda.syncthreads()  # wrong b: pass
    total = float32(0)
    for k in range(4):
        total += tile[t + k] * weights[k]  # a: uninitialised  # b: race
    if i < a.size:
        out[i] = total


@case(2, WIDTH, lambda: (blank(2), numbers(13)), lambda out, a: [a[:8].sum(), a[8:].sum()])
@cuda.jit
def puzzle_prefix_sum(out, a):
    """Add the elements of each block by a tree that grows upwards."""
    tile = cuda.shared.array(WIDTH, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    tile[t] = a[i] if i < a.size else float32(0)
    cuda.syncthreads()
    step = 1
    while step < WIDTH:  # b: endless loop
        if t % (2 * step) == 0:  # b: endless loop
            tile[t] += tile[t + step]  # a: race  # b: endless loop
        cuda.syncthreads()  # wrong a: pass  # b: endless loop
        step *= 2  # wrong b: step *= 1  # b: endless loop
    if t == 0:
        out[cuda.blockIdx.x] = tile[0]


@case((1, 4), WIDTH, lambda: (blank(4, 1), numbers(4, 6)), lambda out, a: a.sum(1, keepdims=True))
@cuda.jit
def puzzle_axis_sum(out, a):
    """Give a block to each row."""
    tile = cuda.shared.array(WIDTH, float32)
    t, row = cuda.threadIdx.x, cuda.blockIdx.y
    if t >= a.shape[1]:  # wrong a: if False:
        tile[t] = 0  # wrong b: return
    else:
        tile[t] = a[row, t]  # a: out of bounds
    cuda.syncthreads()  # b: missing threads
    half = WIDTH // 2
    while half:
        if t < half:
            tile[t] += tile[t + half]
        cuda.syncthreads()  # b: missing threads
        half //= 2
    if t == 0:
        out[row, 0] = tile[0]


@case((2, 2), (TILE, TILE), lambda: (blank(5, 7), numbers(5, 6), numbers(6, 7, seed=1)), lambda out, a, b: a @ b)
@cuda.jit
def puzzle_matmul(out, a, b):
    """Multiply matrices of any size, tile by tile."""
    a_tile = cuda.shared.array((TILE, TILE), float32)
    b_tile = cuda.shared.array((TILE, TILE), float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0)
    for k in range(0, a.shape[1], TILE):
        inside = row < a.shape[0] and k + x < a.shape[1]
        a_tile[y, x] = a[row, k + x] if inside else float32(0)  # a: race  # b: race
        inside = k + y < b.shape[0] and column < b.shape[1]  # wrong c: inside = column < b.shape[1]
        b_tile[y, x] = b[k + y, column] if inside else float32(0)  # a: race  # b: race  # c: out of bounds
        cuda.syncthreads()  # wrong b: pass
        for j in range(TILE):
            total += a_tile[y, j] * b_tile[j, x]  # a: race  # b: race
        cuda.syncthreads()  # wrong a: pass
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = total


@case(1, 4, lambda: (zeros(1), numbers(4)), lambda out, a: [a.sum()])
@cuda.jit
def sum_by_atomics(out, a):
    """Let every thread add its element to one result."""
    cuda.atomic.add(out, 0, a[cuda.threadIdx.x])  # wrong a: out[0] += a[cuda.threadIdx.x]  # a: race
