"""Timing that chance has little part in.

Contenders take turns, one call of each a round. Before a timed call come a pause, in which the threads of the
contender before it fall asleep, and one untimed call. A round begins and ends with a loop of multiply-adds on all
threads, which shows whether the machine was busy with something else; such a round is not counted. Memory that is
freed stays with the process (with glibc): or else it were chance whose result comes in fresh pages, which cost as
much as many a layer.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from ..backends.cpu.registers import TILE_ROWS, addresses_in, store, zeros
from ..backends.cpu.tile import sum_of_products

PAUSE, LONG_PAUSE = 0.002, 0.15  # seconds; the long one after BLAS
CLEAN = 1.08  # a round is not counted if the loop of multiply-adds took so many times as long as in the best round


def keep_memory() -> None:
    """Make malloc of glibc keep what is freed, whatever its size."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for option, most in ((-1, 2**31 - 1), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(option, most)


def clean_rounds(calls: Any, rounds: int, probe: Probe | None) -> dict[Any, list[float]]:
    """Seconds of each call in the rounds in which the machine was about as fast as in the best one."""
    seen: list[tuple[float, dict[tuple[str, str], float]]] = []
    kept: list[dict[tuple[str, str], float]] = []
    while len(kept) < rounds and len(seen) < 4 * rounds:
        before = probe.seconds() if probe else 0.0
        seconds = {key: _alone(call) for key, call in calls.items()}
        seen.append((max(before, probe.seconds() if probe else 0.0), seconds))
        seen.sort(key=lambda round_: round_[0])
        limit = CLEAN * seen[0][0]
        kept = [seconds for k, (worst, seconds) in enumerate(seen) if worst <= limit or k < 3]
    return {key: [seconds[key] for seconds in kept] for key in calls}


def _alone(call: Callable[[], Any]) -> float:
    """Seconds of a call, after a pause and one untimed call."""
    time.sleep(PAUSE)
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@numba.njit(parallel=True)
def _multiply_adds(zero, rows):  # type: ignore[no-untyped-def]
    """A tile of results for each thread: nothing but multiply-adds, on numbers that stay in the L1 cache."""
    for thread in numba.prange(len(rows)):
        tile, there = zeros(zero), addresses_in(rows[thread])
        for _ in range(500):
            tile = sum_of_products(tile, there, 0, rows[thread, 0], (1, 1, 512), (0, 0, 4), (0, 0, 0))
        store(tile, there)


class Probe:
    """The loop of multiply-adds, on its own numbers."""

    def __init__(self, threads: int) -> None:
        self.numbers = np.zeros((threads, TILE_ROWS, 1024), np.float32)
        first, (thread_step, row_step, _) = self.numbers.ctypes.data, self.numbers.strides
        self.rows = first + np.add.outer(np.arange(threads) * thread_step, np.arange(TILE_ROWS) * row_step)

    def seconds(self) -> float:
        """The best of three runs; the first one wakes the threads."""
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            _multiply_adds(np.float32(0), self.rows)
            runs.append(time.perf_counter() - start)
        return min(runs)
