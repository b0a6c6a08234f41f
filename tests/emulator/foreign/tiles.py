"""Transpositions, stencils and matrix products."""

import numpy as np
from foreign.cases import blank, case, numbers, zeros
from numba import cuda, float32

FULL = 0xFFFFFFFF
TILE = 8
PITCH = TILE + 1
DOUBLE = 2 * TILE
RADIUS = 3
BLOCK = 32
SPAN = BLOCK + 2 * RADIUS


@case((3, 2), (8, 4), lambda: (blank(20, 5), numbers(5, 20)), lambda out, x: x.T)
@cuda.jit
def transpose(out, x):
    """Write columns as rows."""
    column, row = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:  # wrong a: if row < out.shape[0] and column < out.shape[1]:
        out[column, row] = x[row, column]  # wrong b: out[row, column] = x[row, column]
        # a: out of bounds  # b: race  # b: never written


@case((3, 2), (TILE, TILE), lambda: (blank(19, 13), numbers(13, 19)), lambda out, x: x.T)
@cuda.jit
def transpose_by_tiles(out, x):
    """Read rows and write rows: the tile turns in shared memory, and its odd pitch spares bank conflicts."""
    tile = cuda.shared.array((TILE, PITCH), float32)
    left, top = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    if top + ty < x.shape[0] and left + tx < x.shape[1]:
        tile[ty, tx] = x[top + ty, left + tx]  # a: race
    cuda.syncthreads()  # wrong a: pass
    if left + ty < out.shape[0] and top + tx < out.shape[1]:  # wrong b: if left + ty < out.shape[0]:
        out[left + ty, top + tx] = tile[tx, ty]  # a: race  # b: uninitialised


@case((4, 4), (4, 4), lambda: (numbers(13, 13),), lambda x: x.T)
@cuda.jit
def transpose_in_place(x):
    """Swap pairs; only the thread below the diagonal does it."""
    j, i = cuda.grid(2)
    if j < i < x.shape[0]:  # wrong a: if max(i, j) < x.shape[0]:
        kept = x[i, j]  # a: race
        x[i, j] = x[j, i]  # a: race
        x[j, i] = kept  # a: race


def window_sums(x, radius):
    """Add each element and `radius` neighbours on both sides."""
    return np.convolve(x, np.ones(2 * radius + 1), "valid")


@case(3, BLOCK, lambda: (blank(90), numbers(96)), lambda out, x: window_sums(x, RADIUS))
@cuda.jit
def stencil_1d(out, x):
    """Keep a halo on both sides of a block's elements in shared memory."""
    tile = cuda.shared.array(SPAN, float32)  # wrong d: tile = cuda.shared.array(BLOCK, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    if i < x.size:
        tile[t] = x[i]  # b: race
    if t < 2 * RADIUS and i + BLOCK < x.size:  # wrong a: if t < RADIUS and i + BLOCK < x.size:
        tile[t + BLOCK] = x[i + BLOCK]  # b: race  # d: out of bounds
    cuda.syncthreads()  # wrong b: pass
    if i < out.size:  # wrong c: if i < x.size:
        total = float32(0)
        for k in range(2 * RADIUS + 1):
            total += tile[t + k]  # a: uninitialised  # b: race  # c: uninitialised  # d: out of bounds
        out[i] = total  # c: out of bounds


def five_points(x):
    """Take the four neighbours of every inner element from four times itself; the border stays zero."""
    inner = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
    return np.pad(inner, 1)


@case((2, 3), (10, 4), lambda: (zeros(9, 14), numbers(9, 14)), lambda out, x: five_points(x))
@cuda.jit
def stencil_2d(out, x):
    """Read five neighbours from global memory."""
    j, i = cuda.grid(2)  # wrong b: j, i = cuda.grid(2); out = x
    if 0 < i < x.shape[0] - 1 and 0 < j < x.shape[1] - 1:  # wrong a: if i < x.shape[0] and j < x.shape[1]:
        out[i, j] = 4 * x[i, j] - x[i - 1, j] - x[i + 1, j] - x[i, j - 1] - x[i, j + 1]  # a: out of bounds
        # a: negative index  # b: race


@case((2, 3), (8, 4), lambda: (zeros(9, 14), numbers(9, 14)), lambda out, x: five_points(x))
@cuda.jit
def stencil_2d_shared(out, x):
    """Fill a tile and its frame in a loop over all its elements."""
    tile = cuda.shared.array((6, 10), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    left, top = cuda.blockIdx.x * 8, cuda.blockIdx.y * 4
    for k in range(ty * 8 + tx, 60, 32):  # wrong a: for k in range(ty * 8 + tx, 50, 32):
        i, j = top + k // 10 - 1, left + k % 10 - 1
        inside = 0 <= i < x.shape[0] and 0 <= j < x.shape[1]  # wrong c: inside = i < x.shape[0] and j < x.shape[1]
        tile[k // 10, k % 10] = x[i, j] if inside else float32(0)  # b: race  # c: negative index
    cuda.syncthreads()  # wrong b: pass
    i, j = top + ty, left + tx
    if 0 < i < x.shape[0] - 1 and 0 < j < x.shape[1] - 1:
        total = 4 * tile[ty + 1, tx + 1] - tile[ty, tx + 1] - tile[ty + 1, tx]  # b: race
        out[i, j] = total - tile[ty + 2, tx + 1] - tile[ty + 1, tx + 2]  # a: uninitialised  # b: race


@case((2, 2, 2), (5, 3, 2), lambda: (blank(4, 5, 6), numbers(4, 5, 6)),
      lambda out, x: x + np.roll(x, -1, 0) + np.roll(x, -1, 2))  # fmt: skip
@cuda.jit
def stencil_3d(out, x):
    """Use grids, blocks and arrays of three dimensions; the array goes on where it began."""
    k, j, i = cuda.grid(3)  # wrong a: i, j, k = cuda.grid(3)  # a: never written
    if i < x.shape[0] and j < x.shape[1] and k < x.shape[2]:  # wrong b: if i < x.shape[0] and j < x.shape[1]:
        out[i, j, k] = x[i, j, k] + x[(i + 1) % x.shape[0], j, k] + x[i, j, (k + 1) % x.shape[2]]  # b: out of bounds


def generation(x):
    """Compute a generation of the game of life on a torus."""
    around = sum(np.roll(x, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) - x
    return (around == 3) | (x & (around == 2))


@case((2, 2), (4, 4), lambda: (blank(6, 7, dtype="i2"), numbers(6, 7, dtype="u1") % 2), lambda out, x: generation(x))
@cuda.jit
def game_of_life(out, x):
    """Go round at the edges by remainders; bytes come in, two bytes go out."""
    j, i = cuda.grid(2)
    rows, columns = x.shape
    if i >= rows or j >= columns:
        return
    around = 0
    for p in range(i - 1, i + 2):
        for q in range(j - 1, j + 2):
            if p != i or q != j:
                around += x[p % rows, q % columns]  # wrong a: around += x[p, q]  # a: negative index
                # a: out of bounds
    out[i, j] = around == 3 or (around == 2 and x[i, j] == 1)


@case((3, 2), (3, 4), lambda: (blank(6, 8), numbers(6, 5), numbers(5, 8, seed=1)), lambda out, a, b: a @ b)
@cuda.jit
def matmul(out, a, b):
    """Multiply matrices, a thread for each element of the result."""
    j, i = cuda.grid(2)
    if i < out.shape[0] and j < out.shape[1]:
        total = float32(0)
        for k in range(a.shape[1]):  # wrong a: for k in range(b.shape[1]):
            total += a[i, k] * b[k, j]  # wrong b: total += a[i, k] * b[j, k]  # a: out of bounds  # b: out of bounds
        out[i, j] = total


@case((2, 1), (TILE, TILE), lambda: (blank(16, 32), numbers(16, 11), numbers(11, 32, seed=1)), lambda out, a, b: a @ b)
@cuda.jit
def matmul_in_registers(out, a, b):
    """Compute two by two elements in each thread: each number read from shared memory is used twice."""
    a_tile = cuda.shared.array((DOUBLE, TILE), float32)
    b_tile = cuda.shared.array((TILE, DOUBLE), float32)
    sums = cuda.local.array((2, 2), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    left, depth = cuda.blockIdx.x * 2 * TILE, a.shape[1]
    for u in range(2):
        for v in range(2):
            sums[u, v] = 0
    for start in range(0, depth, TILE):
        for u in range(2):
            row, column = ty + u * TILE, tx + u * TILE
            a_tile[row, tx] = a[row, start + tx] if start + tx < depth else float32(0)  # a: race  # b: race
            inside = start + ty < depth
            b_tile[ty, column] = b[start + ty, left + column] if inside else float32(0)  # a: race  # b: race
        cuda.syncthreads()  # wrong b: cuda.syncwarp()
        for k in range(min(TILE, depth - start)):  # wrong c: for k in range(TILE + 1):
            for u in range(2):
                for v in range(2):
                    sums[u, v] += a_tile[2 * ty + u, k] * b_tile[k, 2 * tx + v]  # a: race  # b: race
                    # c: out of bounds
        cuda.syncthreads()  # wrong a: cuda.threadfence_block()
    for u in range(2):
        for v in range(2):
            out[2 * ty + u, left + 2 * tx + v] = sums[u, v]


@case(3, (32, 2), lambda: (blank(6, 40), numbers(6, 40), numbers(40, 40, seed=1)), lambda out, a, b: a @ b)
@cuda.jit
def matmul_by_broadcast(out, a, b):
    """Give a warp to each row of a; its lanes tell each other the numbers that they have read."""
    lane, row = cuda.threadIdx.x, cuda.blockIdx.x * 2 + cuda.threadIdx.y
    n = b.shape[1]
    for first in range(0, n, 32):
        j = first + lane
        # wrong a: if j >= n: return
        total = float32(0)
        for start in range(0, a.shape[1], 32):
            own = a[row, start + lane] if start + lane < a.shape[1] else float32(0)
            for k in range(min(32, a.shape[1] - start)):
                value = cuda.shfl_sync(FULL, own, k)  # a: missing lanes
                if j < n:
                    total += value * b[start + k, j]
        if j < n:
            out[row, j] = total
