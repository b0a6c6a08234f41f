"""Faults planted one at a time: what the report says of each, in every order of the threads."""

from __future__ import annotations

import inspect
import linecache
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from by_hand import run
from numba import cuda, float32

from cks_numba.emulator import KernelFault, check_kernel, emulate
from cks_numba.kernels.tiled import vectors

ORDERS = ("forward", "reverse", 3)
WEIGHTS = np.arange(4, dtype=np.float32)


class Planted(NamedTuple):
    """A kernel with one fault; the lines to quote end in ``# here``."""

    kernel: Any
    grid: Any
    block: Any
    arguments: Any
    kind: str
    says: tuple[str, ...]
    options: dict[str, Any]

    @property
    def lines(self):
        lines, first = inspect.getsourcelines(self.kernel.py_func)
        return {first + k for k, line in enumerate(lines) if line.rstrip().endswith("# here")}


PLANTED: dict[str, Planted] = {}


def planted(kind, grid, block, arguments, *says, **options):
    """Put a kernel into the table: the report of its one fault holds all of these words."""

    def put(kernel):
        PLANTED[kernel.py_func.__name__] = Planted(kernel, grid, block, arguments, kind, says, options)
        return kernel

    return put


def numbers(*shape, dtype=np.float32):
    return np.arange(1, 1 + np.prod(shape), dtype=dtype).reshape(shape)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


# --- memory ----------------------------------------------------------------------------------------
@planted("out of bounds", 1, 8, lambda: (zeros(8), numbers(6)), "reads x[", "], but x has 6 elements", "(2 times)")
@cuda.jit
def past_the_end(out, x):
    out[cuda.threadIdx.x] = x[cuda.threadIdx.x]  # here


@planted(
    "out of bounds",
    2,
    4,
    lambda: (numbers(2, 3, 4),),
    "writes x[2, 0, 1], but x has shape (2, 3, 4)",
    "(8 times)",
)
@cuda.jit
def in_three_dimensions(x):
    if cuda.threadIdx.x >= 0:
        x[2, 0, 1] = 0  # here


@planted(
    "out of bounds",
    1,
    5,
    lambda: (zeros(5),),
    "writes element 4 of the shared array, but it has 4 elements",
    "thread 4 of block 0, in",
)
@cuda.jit
def in_shared(out):
    tile = cuda.shared.array(4, float32)
    t = cuda.threadIdx.x
    tile[t] = t  # here
    cuda.syncthreads()
    out[t] = tile[t & 3]


@planted(
    "out of bounds",
    1,
    5,
    lambda: (zeros(5),),
    "writes element 4 of the shared array, but it has 4 elements",
    "thread 4 of block 0, in",
    shared=16,
)
@cuda.jit
def in_dynamic_shared(out):
    tile = cuda.shared.array(0, float32)
    t = cuda.threadIdx.x
    tile[t] = t  # here
    cuda.syncthreads()
    out[t] = tile[t & 3]


@planted(
    "out of bounds",
    1,
    3,
    lambda: (zeros(3), numbers(3, dtype=np.int64)),
    "reads bytes 12 to 15 of local memory, but it has 12 bytes",
    "thread 2 of block 0",
)
@cuda.jit
def in_local(out, x):
    kept = cuda.local.array(3, float32)
    for k in range(3):
        kept[k] = x[k]
    out[cuda.threadIdx.x] = kept[x[cuda.threadIdx.x]]  # here


@planted("out of bounds", 1, 5, lambda: (zeros(5),), "reads 4 bytes that are of no array", "thread 4 of block 0, in")
@cuda.jit
def in_constant(out):
    weights = cuda.const.array_like(WEIGHTS)
    out[cuda.threadIdx.x] = weights[cuda.threadIdx.x]  # here


@planted("out of bounds", 1, 1, lambda: (numbers(5)[:0], numbers(3)), "empty[0]", "but empty has 0 elements")
@cuda.jit
def in_an_empty_array(empty, x):
    empty[0] = x[0]  # here


@planted(
    "misaligned",
    1,
    2,
    lambda: (zeros(8), shifted(8)),
    "a 16-byte read at byte",
    "whose own address is no multiple of 16",
    "(2 times)",
)
@cuda.jit
def a_vector_of_a_shifted_view(out, x):
    a, b, c, d = vectors.load4(x, cuda.threadIdx.x)  # here
    vectors.store4(out, cuda.threadIdx.x, a, b, c, d)


def shifted(size):
    """An array one element behind a multiple of 16 bytes."""
    memory = np.ones(size + 8, np.float32)
    return memory[1 + (-memory.ctypes.data // 4) % 4 :][:size]


@planted(
    "uninitialised",
    2,
    8,
    lambda: (zeros(16),),
    "reads element 7 of the shared array, which nobody has written",
    "(2 times)",
    "thread 7 of block",
    "never filled",
)
@cuda.jit
def not_filled(out):
    tile = cuda.shared.array(8, float32)
    t = cuda.threadIdx.x
    if t < 7:
        tile[t] = t
    cuda.syncthreads()
    out[cuda.grid(1)] = tile[t]  # here


@planted(
    "never written",
    2,
    4,
    lambda: (np.full(9, np.nan, np.float32),),
    "1 of the 9 elements of out",
    "the first is out[8]",
    poison=np.nan,
)
@cuda.jit
def one_is_left_out(out):
    out[cuda.grid(1)] = 1


# --- races -----------------------------------------------------------------------------------------
@planted(
    "race",
    1,
    64,
    lambda: (zeros(64),),
    "one thread writes element",
    "of the shared array, another reads it",
    "writes it in",
    "reads it in",
    "cuda.syncthreads() between the two lines?",
)
@cuda.jit
def across_warps(out):
    tile = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    tile[t] = t + 1  # here
    out[t] = tile[63 - t]  # here


@planted("race", 1, 32, lambda: (zeros(32),), "one thread writes element", "cuda.syncwarp() between the two lines?")
@cuda.jit
def within_a_warp(out):
    tile = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    tile[t] = t + 1  # here
    out[t] = tile[31 - t]  # here


@planted(
    "race",
    1,
    64,
    lambda: (zeros(64), zeros(64)),
    "one thread writes work[",
    "], another reads it",
    "cuda.syncthreads() between the two lines?",
    "of block 0 writes it in",
    "of block 0 reads it in",
)
@cuda.jit
def in_global_memory(out, work):
    t = cuda.threadIdx.x
    work[t] = t + 1  # here
    out[t] = work[63 - t]  # here


@planted(
    "race",
    2,
    32,
    lambda: (zeros(64), zeros(64)),
    "one thread writes work[",
    "], another reads it",
    "blocks run in any order",
    "of block 0",
    "of block 1",
)
@cuda.jit
def between_blocks(out, work):
    i = cuda.grid(1)
    work[i] = i + 1  # here
    out[i] = work[63 - i]  # here


@planted("race", 1, 64, lambda: (zeros(1, dtype=np.int32),), "total[0]", "a case for cuda.atomic?")
@cuda.jit
def a_sum_without_atomics(total):
    total[0] += cuda.threadIdx.x  # here


@planted("race", 2, 1, lambda: (zeros(1),), "two threads write out[0]", "which value stays is chance")
@cuda.jit
def two_writers(out):
    out[0] = cuda.blockIdx.x + 1  # here


@planted("race", 1, 64, lambda: (zeros(64),), "one thread writes", "cuda.syncthreads() at the end of the loop?")
@cuda.jit
def the_second_barrier_of_a_loop(out):
    tile = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    total = float32(0)
    for k in range(4):
        tile[t] = t + k + 1  # here
        cuda.syncthreads()
        total += tile[63 - t]  # here
    out[t] = total


# --- barriers and warps ----------------------------------------------------------------------------
@planted(
    "divergent barrier",
    1,
    64,
    lambda: (zeros(64),),
    "threads of block 0 wait at different barriers",
    "does it stand in an if?",
    "waits at",
)
@cuda.jit
def a_barrier_in_each_branch(out):
    if cuda.threadIdx.x < 32:
        out[cuda.threadIdx.x] = 1
        cuda.syncthreads()  # here
    else:
        out[cuda.threadIdx.x] = 2
        cuda.syncthreads()  # here
    out[cuda.threadIdx.x] += 1


@planted(
    "missing threads",
    3,
    40,
    lambda: (zeros(40),),
    "10 of the 40 threads of block",
    "never reach a barrier",
    "has returned",
    "(3 times)",
)
@cuda.jit
def a_barrier_after_return(out):
    t = cuda.threadIdx.x
    if t >= 30:
        return
    cuda.syncthreads()  # here
    if cuda.blockIdx.x == 0:
        out[t] = 1


@planted(
    "missing lanes",
    1,
    32,
    lambda: (zeros(32),),
    "16 lanes are named in the mask of a warp operation, but not there",
    "the mask must name just the threads that come here",
)
@cuda.jit
def half_a_warp(out):
    t = cuda.threadIdx.x
    value = float32(t)
    if t < 16:
        value = cuda.shfl_down_sync(0xFFFFFFFF, value, 1)  # here
        out[t] = value
    cuda.syncthreads()


# --- loops and exceptions --------------------------------------------------------------------------
@planted(
    "endless loop", 1, 1, lambda: (zeros(1, dtype=np.int64),), "a loop does not end", "thread 0 of block 0 is still in"
)
@cuda.jit
def never_done(out):
    k = 1
    while k != 0:  # here
        k = (k * 3 + out[0]) | 1  # here
    out[0] = k


@planted("endless loop", 1, 256, lambda: (zeros(1, dtype=np.int64),), "a loop does not end", limit=10**6)
@cuda.jit
def never_done_with_a_barrier(out):
    while out[0] == 0:  # here
        cuda.syncthreads()  # here


@planted("endless loop", 1, 256, lambda: (zeros(1, dtype=np.int32),), "a loop does not end", limit=10**6)
@cuda.jit
def never_unlocked(lock):
    while cuda.atomic.cas(lock, 0, 1, 2) == 0:  # here
        pass


@planted("assertion", 1, 4, lambda: (zeros(4),), "raises ValueError: too large", "thread 3 of block 0, in")
@cuda.jit
def raises(x):
    if cuda.threadIdx.x == 3:
        raise ValueError("too large")  # here
    x[cuda.threadIdx.x] = 1


# --- asynchronous copies, in PTX -------------------------------------------------------------------
COPY = """
shl.b32 %r2, %r0, 4; cvt.u64.u32 %d2, %r2; add.u64 %d1, %a1, %d2; mov.u32 %r3, tile; add.u32 %r4, %r3, %r2;
cp.async.ca.shared.global [%r4], [%d1], 16;
cp.async.commit_group;
WAIT
bar.sync 0;
xor.b32 %r5, %r2, 16; add.u32 %r6, %r3, %r5; add.u64 %d3, %a0, %d2;
ld.shared.v4.b32 {%r10, %r11, %r12, %r13}, [%r6];
st.global.v4.b32 [%d3], {%r10, %r11, %r12, %r13};
"""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("wait", ["", "cp.async.wait_group 1;", "cp.async.wait_group 0;", "cp.async.wait_all;"])
def test_a_copy_that_nobody_waits_for(wait, order):
    x, out = numbers(16), zeros(16)
    result = run(COPY.replace("WAIT", wait), out, x, block=4, shared=64, order=order)
    if wait in ("", "cp.async.wait_group 1;"):
        (fault,) = result.faults
        assert fault.kind == "race" and "one thread writes element" in str(fault)
        assert "an asynchronous copy of block 0 writes it in\n    PTX line" in str(fault)
        assert "cp.async.ca.shared.global [%r4], [%d1], 16" in str(fault) and "ld.shared.v4.b32" in str(fault)
        assert "the copy may still be under way: wait for it before the barrier" in str(fault)
    else:
        assert not result.faults
        np.testing.assert_array_equal(out.reshape(4, 4), x.reshape(4, 4)[[1, 0, 3, 2]])


# --- what every report has in common ---------------------------------------------------------------
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PLANTED)
def test_report_of_a_planted_fault(name, order):
    one = PLANTED[name]
    start = time.perf_counter()
    result = check_kernel(one.kernel, one.grid, one.block, *one.arguments(), seed=order, **one.options)
    assert time.perf_counter() - start < 30
    assert [fault.kind for fault in result.faults] == [one.kind], str(result)
    (fault,) = result.faults
    text = str(fault)
    assert text.startswith(f"{one.kind}: ") and result.title == f"1 fault in {result.launch}"
    for words in one.says:
        assert words in text or order != "forward" and "thread" in words, text
    places = {place for place in (fault.source, fault.other) if place}
    assert {Path(file) for file, _ in places} <= {Path(__file__)}
    if one.kind == "endless loop":
        assert {line for _, line in places} <= one.lines
    else:
        assert {line for _, line in places} == one.lines, text
    for file, line in places:
        assert f"test_faults.py:{line}:  {linecache.getline(file, line).strip()}" in text


def test_an_endless_loop_ends_within_seconds_without_a_limit_of_the_user():
    start = time.perf_counter()
    assert [
        fault.kind for fault in check_kernel(never_done_with_a_barrier, 1, 1024, zeros(1, dtype=np.int64)).faults
    ] == ["endless loop"]
    assert time.perf_counter() - start < 30


@cuda.jit
def three_faults(out, x):
    tile = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    tile[t] = x[t + 1] + t
    out[t] = tile[31 - t]
    cuda.syncthreads()
    if t < 31:
        out[t] = x[t]


def test_the_run_goes_on_after_a_fault():
    out, x = zeros(32), numbers(32)
    result = check_kernel(three_faults, 1, 32, out, x)
    assert sorted(fault.kind for fault in result.faults) == ["out of bounds", "race"]
    assert result.title == "2 faults in three_faults[1, 32]"
    np.testing.assert_array_equal(out[:31], x[:31])


def test_one_fault_is_told_once():
    result = check_kernel(two_writers, 50, 1, zeros(1))
    assert len(result.faults) == 1 and result.faults[0].count == 49 and "(49 times)" in str(result)


def test_emulate_raises_what_was_found():
    x = numbers(6)
    with emulate(), pytest.raises(KernelFault, match="out of bounds: reads x") as caught:
        past_the_end[1, 8](zeros(8), x)
    assert caught.value.result.faults[0].kind == "out of bounds"
    assert str(caught.value) == str(caught.value.result)
