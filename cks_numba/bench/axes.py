"""``cks-numba bench --axes``: layers of one axis and of three, against PyTorch's better layout.

A burst has calls of one contender alone, after a pause and an untimed call, and the bursts of the contenders alternate.
Both read the same numbers, from memory that begins at a cache line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import geometric_mean, median
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ..buffers import LAYOUTS
from . import cases
from .cases import Case
from .cpu import has_peer, ours_call, peer_in_layout
from .timing import burst, clean_rounds, keep_memory

CALLS = 5
"""Calls of a burst."""


class LayerSet(NamedTuple):
    """Cases, and the bars: least geometric mean of PyTorch's time over ours for each operator, and least of a case."""

    cases: Callable[[], Iterator[Case]]
    mean: float
    least: float


SETS = {
    1: LayerSet(cases.signals, 1.25, 0.0),
    3: LayerSet(cases.volumes, 2.0, 1.0),
}


def _numbers(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Standard normal numbers in memory that begins at a cache line."""
    count = int(np.prod(size))
    memory = np.empty(count + 16, np.float32)
    first = -memory.ctypes.data % 64 // 4
    array = memory[first : first + count].reshape(size)
    array[...] = rng.standard_normal(size, np.float32)
    return array


def ratio(case: Case, rounds: int) -> float:
    """Return PyTorch's median time over ours, after a check that the results agree.

    Raises
    ------
    RuntimeError
        If they differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    first, second = (_numbers(size, rng) for _, size in case.shape.arrays(case.operator)[:2])
    layouts = LAYOUTS[len(case.shape.axes)]
    ours = ours_call(case, first, second, layouts[0])
    peers: dict[str, Callable[[], Any]] = {layout: peer_in_layout(case, first, second, layout) for layout in layouts}
    got, want = ours(), np.moveaxis(np.asarray(peers[layouts[0]]()), 1, -1)
    error = float(np.abs(got - want).max()) / float(np.abs(want).max())
    if not error < 1e-4:
        raise RuntimeError(f"PyTorch differs by {error:.1e}: {case}")
    calls: dict[str, Callable[[], Any]] = {"ours": ours, **peers}
    times = clean_rounds({key: partial(burst, call, CALLS) for key, call in calls.items()}, rounds)
    taken = {key: median(seconds) for key, seconds in times.items()}
    print(f"{case.operator:<13} {case.name:<42} {1e6 * taken['ours']:9.1f} us", end=" ")
    found = min(taken[layout] for layout in peers) / taken["ours"]
    print(f"{found:6.2f}", flush=True)
    return found


def run(count: int, rounds: int, threads: int, quick: bool, check: bool, only: str) -> int:
    """Run the benchmark of a set of layers; returns 1 if `check` and a bar is missed.

    Parameters
    ----------
    count : {1, 3}
        Number of axes.
    rounds : int
        Rounds of each case.
    threads : int
        Threads of each contender.
    quick, check : bool
        Time every 20th case only; fail when a bar is missed.
    only : str
        Time only cases with this text in their line.
    """
    if not has_peer():
        raise RuntimeError("--axes compares with PyTorch, which is not installed: pip install torch")
    import torch

    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    keep_memory()
    chosen = [case for case in SETS[count].cases() if only in f"{case.operator} {case.name}"][:: 20 if quick else 1]
    if not chosen:
        raise RuntimeError(f"no case has {only!r} in it")
    print("PyTorch's time, better layout, over ours")
    found: dict[str, list[float]] = {}
    for case in chosen:
        found.setdefault(case.operator, []).append(ratio(case, rounds))
    missed, (_, bar, bar_of_least) = 0, SETS[count]
    for operator, ratios in found.items():
        mean, least = geometric_mean(ratios), min(ratios)
        missed += mean < bar or least < bar_of_least
        print(f"{operator:<13} geometric mean {mean:.2f} (bar {bar:g}), least {least:.2f} (bar {bar_of_least:g})")
    return int(check and missed > 0)
