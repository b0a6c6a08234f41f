"""What the rung ``register_tile`` adds, for all three operators: a thread makes TM x TN results and not one.

In ``grouped`` a thread reads two numbers from shared memory for each multiply-add. Here it reads TM + TN numbers for
TM * TN multiply-adds, and keeps the sums in registers. The block, of as many threads as before, makes TM times the rows
and TN times the columns, so an element that it loads from global memory serves more results as well.

Thread (tx, ty) has the rows ty, ty + TILE, ty + 2*TILE and so on, and the columns tx, tx + TILE and so on. So threads
side by side read numbers side by side, from different banks of shared memory. Both tiles lie there term by term.
"""

from __future__ import annotations

from .jit import cuda, device
from .launch import TILE

TM, TN = 8, 8  # rows and columns of results of a thread
BM, BN = TM * TILE, TN * TILE  # rows and columns of results of a block
# Elements of shared memory from a term to the next. A warp is 8 threads wide and 4 high. The 32 elements that it writes
# at once should lie in different banks (in float32): 4 of each of 8 terms (ACROSS), or 8 of each of 4 terms (ALONG).
ACROSS, ALONG = BM + 4, BM + 8


@device
def clear(acc):
    """Set all sums of a thread to 0."""
    for i in range(TM):
        for j in range(TN):
            acc[i, j] = acc.dtype.type(0)


@device
def add_term(acc, a_tile, b_tile, k, a, b):
    """Multiply each of this thread's rows with each of its columns at term k; a and b hold them in registers."""
    for i in range(TM):
        a[i] = a_tile[k, cuda.threadIdx.y + i * TILE]
    for j in range(TN):
        b[j] = b_tile[k, cuda.threadIdx.x + j * TILE]
    for i in range(TM):
        for j in range(TN):
            acc[i, j] += a[i] * b[j]
