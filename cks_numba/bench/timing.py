"""Timing with little influence of chance: one way for everything that compares contenders.

Contenders take turns: a round has a burst of calls of each. A burst begins with a pause, in which the threads of the
contender before it fall asleep, and one untimed call. Where a probe is given, a loop of multiply-adds runs on all
threads before and after each burst. It shows whether the machine was busy with something else, as that of a virtual
machine may be for seconds; such a burst does not count, and is made again. Memory that is freed stays with the process
(with glibc): fresh pages can cost as much as a layer, and chance would decide which contender gets them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from math import inf
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from ..backends.cpu.compiled import NO_CALL, Call, Sizes, next_task, record, start
from ..backends.cpu.registers import LANE_BYTES, TILE_ROWS, addresses_in, integers_at, store, zeros
from ..backends.cpu.tile import sum_of_products

PAUSE = 0.002
"""Seconds of the pause at the start of a burst."""
LONGEST = 0.3
"""Seconds after which a burst has no further call. The first call is timed too if it takes as long."""
AFTER_BLAS = 0.05
"""Seconds of a pause after BLAS: OpenBLAS's threads stay awake for 2**26 ticks and slow down everything else."""
WARM = 0.02
"""Seconds of untimed calls after which threads that slept through a long pause run on cores of their own."""
CLEAN = 1.08
"""Most that the probe may take beside a burst that counts, as a multiple of its best time."""
SETTLE = 0.01
"""Seconds between a burst and the probe after it: threads that spin would slow it down."""
REPEATS, TERMS = 500, 512
"""Sums that the probe makes for each result, and their terms."""


def keep_memory() -> None:
    """Make malloc of glibc keep what is freed, whatever its size."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for option, most in ((-1, 2**31 - 1), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(option, most)


def burst(
    call: Callable[[], Any],
    times: int = 1,
    pause: float = PAUSE,
    warm: float = 0.0,
    before: Callable[[], Any] | None = None,
) -> list[float]:
    """Seconds of each of `times` calls, after a pause and untimed calls; `before` runs untimed before each.

    There is at least one untimed call, and there are as many as begin within `warm` seconds. Long calls are fewer: none
    begins when the burst has taken `LONGEST` seconds, but one is always timed. If the first call takes that long, it is
    the one: threads that wake up change little of it.
    """
    time.sleep(pause)
    start = time.perf_counter()
    call()
    if before is None and (first := time.perf_counter() - start) >= LONGEST:
        return [first]
    while time.perf_counter() < start + warm:
        call()
    found: list[float] = []
    while len(found) < times and (not found or time.perf_counter() < start + LONGEST):
        if before is not None:
            before()
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return found


def clean_rounds(
    bursts: Mapping[Any, Callable[[], list[float]]], rounds: int, probe: Probe | None = None
) -> dict[Any, list[float]]:
    """Seconds of each contender; their bursts alternate.

    With a probe, only bursts count beside which the machine was about as fast as it has been at best. If there are too
    few of them after four times as many rounds, those in which it was fastest are added, up to three.
    """
    seen: dict[Any, list[tuple[float, list[float]]]] = {key: [] for key in bursts}

    def clean(key: Any) -> list[tuple[float, list[float]]]:
        return [each for each in seen[key] if probe is None or each[0] <= CLEAN * probe.best]

    def kept(key: Any) -> list[tuple[float, list[float]]]:
        found, least = clean(key), min(3, rounds)
        return found if len(found) >= least else sorted(seen[key], key=itemgetter(0))[:least]

    before = probe.seconds() if probe else 0.0
    for _ in range(4 * rounds):
        for key in [key for key in bursts if len(clean(key)) < rounds]:
            seconds, after = bursts[key](), 0.0
            if probe:
                time.sleep(SETTLE)
                after = probe.seconds()
            seen[key].append((max(before, after), seconds))
            before = after
    return {key: [taken for _, seconds in kept(key) for taken in seconds] for key in bursts}


class ProbeSizes(NamedTuple):
    """The arguments of `multiply_adds`: A has the addresses of the rows of all tiles, B the numbers there."""

    call: Call
    tasks: int


def multiply_adds(zero, arguments, thread):  # type: ignore[no-untyped-def]
    """Kernel: nothing but multiply-adds, on numbers that stay in the L1 cache; a task is a tile of results."""
    sizes = record(arguments, 0, ProbeSizes)
    while True:
        task = next_task(arguments, thread, sizes.tasks)
        if task < 0:
            return
        rows = carray(integers_at(sizes.call.a + task * 8 * TILE_ROWS), TILE_ROWS)
        tile, there = zeros(zero), addresses_in(rows)
        for _ in range(REPEATS):
            tile = sum_of_products(tile, there, 0, rows[0], (1, 1, 1, TERMS), (0, 0, 0, 4), (0, 0, 0, 0))
        store(tile, there)


class Probe:
    """The loop of multiply-adds on so many threads, each on its own numbers."""

    def __init__(self, threads: int) -> None:
        self.best: float = inf  # the least seconds so far
        self.numbers: np.ndarray[Any, Any] = np.zeros((threads, TILE_ROWS, 1024), np.float32)
        first, (thread_step, row_step, _) = self.numbers.ctypes.data, self.numbers.strides
        self.rows: np.ndarray[Any, Any] = first + np.add.outer(
            np.arange(threads) * thread_step, np.arange(TILE_ROWS) * row_step
        )
        self.sizes: Sizes = Sizes.of(ProbeSizes(NO_CALL, tasks=threads))

    @property
    def operations(self) -> int:
        """Operations in float32 of a run, two for each multiply-add."""
        return 2 * REPEATS * TERMS * TILE_ROWS * LANE_BYTES // self.numbers.itemsize * len(self.rows)

    def seconds(self) -> float:
        """The best of three runs; the first one wakes the threads."""
        runs = []
        for _ in range(3):
            begin = time.perf_counter()
            start(multiply_adds, self.numbers.dtype, len(self.rows), self.sizes, rows=self.rows, numbers=self.numbers)
            runs.append(time.perf_counter() - begin)
        self.best = min(self.best, *runs)
        return min(runs)
