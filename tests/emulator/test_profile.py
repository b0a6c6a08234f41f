"""What accesses of a warp cost, by the counts of a checked run beside those that one finds on paper."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, float32, float64, uint8

from cks_numba.emulator import check_kernel


@cuda.jit
def strided(out, x, stride):
    i = cuda.grid(1)
    if i * stride < x.size:
        out[i] = x[i * stride]


@cuda.jit
def shifted(out, x):
    i = cuda.grid(1)
    out[i] = x[i + 1]


@cuda.jit
def reversed_pairs(out, x):
    i = cuda.grid(1)
    out[i] = x[31 - i // 2]


@cuda.jit
def vectors(out, x):
    tile = cuda.shared.array(128, float32, alignment=16)
    i = cuda.grid(1)
    for k in range(4):
        tile[32 * k + i] = x[32 * k + i]
    cuda.syncthreads()
    out[i] = tile[4 * i] + tile[4 * i + 1] + tile[4 * i + 2] + tile[4 * i + 3]


@cuda.jit
def transpose(out, x):
    i, j = cuda.grid(2)
    out[i, j] = x[j, i]


def by_tile(width, kind):
    """Make a transpose of 32x32 elements through shared memory, whose rows have `width` elements."""

    @cuda.jit
    def transpose_by_tile(out, x):
        tile = cuda.shared.array((32, width), kind)
        i, j = cuda.threadIdx.x, cuda.threadIdx.y
        tile[j, i] = x[j, i]
        cuda.syncthreads()
        out[j, i] = tile[i, j]

    return transpose_by_tile


@cuda.jit
def one_word(out, x):
    tile = cuda.shared.array(32, float32)
    i = cuda.threadIdx.x
    tile[i] = x[i]
    cuda.syncthreads()
    out[i] = tile[5]


@cuda.jit
def every_second_word(out, x):
    tile = cuda.shared.array(64, float32)
    i = cuda.threadIdx.x
    tile[2 * i] = x[i]
    cuda.syncthreads()
    out[i] = tile[2 * i]


@cuda.jit
def some_lanes(out, x):
    i = cuda.threadIdx.x
    if i % 4 == 0:
        out[i] = x[i]


@cuda.jit
def long_loop(out, x):
    total = float32(0)
    for k in range(100):
        total += x[k * 32 + cuda.threadIdx.x]
    out[cuda.threadIdx.x] = total


def costs(kernel, grid, block, *arguments):
    """Give per kind of access: (warps, lanes, units, least, worst); a kernel here has one line of each kind."""
    result = check_kernel(kernel, grid, block, *arguments)
    assert not result.faults, result
    return {f"{cost.site.space} {cost.site.action}": tuple(cost)[1:] for cost in result.costs}


@pytest.mark.parametrize(
    ("kind", "stride", "sectors", "least"),
    [
        ("f4", 1, 4, 4),  # 32 lanes * 4 bytes / 32
        ("f4", 2, 8, 4),
        ("f4", 8, 32, 4),  # a sector for each lane
        ("f4", 0, 1, 1),  # all lanes read one element
        ("f8", 1, 8, 8),
        ("f8", 2, 16, 8),
        ("u1", 1, 1, 1),
        ("u1", 2, 2, 1),
    ],
)
def test_strides(kind, stride, sectors, least):
    x, out = np.ones(64 * max(stride, 1), kind), np.zeros(64, kind)
    found = costs(strided, 2, 32, out, x, stride)
    assert found["global read"] == (2, 64, 2 * sectors, 2 * least, sectors)
    contiguous = np.dtype(kind).itemsize
    assert found["global write"] == (2, 64, 2 * contiguous, 2 * contiguous, contiguous)


def test_an_array_that_begins_within_a_sector():
    found = costs(shifted, 1, 32, np.zeros(32, np.float32), np.ones(33, np.float32))
    assert found["global read"] == (1, 32, 5, 4, 5)


def test_the_order_of_lanes_does_not_matter_and_lanes_may_share():
    found = costs(reversed_pairs, 1, 32, np.zeros(32, np.float32), np.ones(32, np.float32))
    assert found["global read"] == (1, 32, 2, 2, 2)


def test_vectors_of_four():
    """NVVM joins the four into one access of 16 bytes a lane: the 512 bytes take 4 passes. Alone, each takes 4."""
    result = check_kernel(vectors, 1, 32, np.zeros(32, np.float32), np.ones(128, np.float32))
    (read,) = (cost for cost in result.costs if (cost.site.space, cost.site.action) == ("shared", "read"))
    assert not result.faults and tuple(read)[1:] == {16: (1, 32, 4, 4, 4), 4: (4, 128, 16, 4, 4)}[read.site.bytes]


def test_partial_warps_and_idle_lanes():
    found = costs(strided, 1, 40, np.zeros(36, np.float32), np.ones(36, np.float32), 1)
    assert found["global read"] == (2, 36, 5, 5, 4)  # 32 lanes, then 4
    found = costs(some_lanes, 1, 32, np.zeros(32, np.float32), np.ones(32, np.float32))
    assert found["global read"] == (1, 8, 4, 1, 4)  # each sector has 8 elements, and two of them are read


def test_transpose_without_shared_memory():
    found = costs(transpose, (1, 32), (32, 1), np.zeros((32, 32), np.float32), np.ones((32, 32), np.float32))
    assert found == {"global read": (32, 1024, 128, 128, 4), "global write": (32, 1024, 1024, 128, 32)}


@pytest.mark.parametrize(
    ("width", "kind", "passes", "least"),
    [
        (32, float32, 32, 1),  # a column is in one bank
        (33, float32, 1, 1),
        (34, float32, 2, 1),
        (32, float64, 32, 2),  # halves of a warp take turns, and a row is as long as all banks, twice
        (33, float64, 2, 2),
        (32, uint8, 8, 1),  # rows are 8 words apart: lanes 0, 4, 8... meet in a bank
        (36, uint8, 1, 1),  # rows are 9 words apart
    ],
)
def test_columns_of_a_tile(width, kind, passes, least):
    dtype = np.dtype(str(kind))
    found = costs(by_tile(width, kind), 1, (32, 32), np.zeros((32, 32), dtype), np.ones((32, 32), dtype))
    assert found["shared read"] == (32, 1024, 32 * passes, 32 * least, passes)
    assert found["shared write"] == (32, 1024, 32 * least, 32 * least, least)  # rows


def test_words_that_lanes_share_and_words_of_one_bank():
    x = np.ones(32, np.float32)
    assert costs(one_word, 1, 32, np.zeros(32, np.float32), x)["shared read"] == (1, 32, 1, 1, 1)
    assert costs(every_second_word, 1, 32, np.zeros(32, np.float32), x)["shared read"] == (1, 32, 2, 1, 2)


def test_all_accesses_are_counted():
    result = check_kernel(long_loop, 1, 32, np.zeros(32, np.float32), np.ones(3200, np.float32))
    assert str(result) == "no fault found in long_loop[1, 32]\nchecked: 3232 accesses, at 2 source lines"
    assert all(cost.times == 1 and cost.lanes == 32 * cost.warps for cost in result.costs)
    assert "global read: 4 sectors" in result.profile()


def test_the_profile_names_the_wasteful_line_and_a_remedy():
    result = check_kernel(by_tile(32, float32), 1, (32, 32), *np.ones((2, 32, 32), np.float32))
    _, first, *_, hint = result.profile().splitlines()
    assert first.startswith("  shared read: 32 passes, 1 would do: 32×") and first.endswith("out[j, i] = tile[i, j]")
    assert hint.startswith("shared memory: ") and "32 passes, 1 would do" in result.html()


@cuda.jit
def three_barriers(x):
    for _ in range(3):
        cuda.syncthreads()
    x[cuda.grid(1)] = 0


def test_barriers_are_counted_by_block():
    assert check_kernel(three_barriers, 5, 64, np.ones(320, np.float32)).barriers == 3 * 5
    assert check_kernel(shifted, 1, 32, *(np.ones(n, np.float32) for n in (32, 33))).barriers == 0
