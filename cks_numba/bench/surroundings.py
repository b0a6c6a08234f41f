"""The same call in other surroundings: after a pause, beside busy processes, with half a core, in a forked child.

``python -m cks_numba.bench.surroundings`` prints a table. Each row is measured in a forked child of a
process that has used its threads before, as a web server's worker is.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numba
import numpy as np

from .. import operators
from ..backends.cpu import compiled, threads
from ..geometry import ConvShape
from . import accuracy, results

LAYER = ConvShape(n=32, ih=16, iw=16, ic=64, oc=64, fh=3, fw=3, padding=1)
CALLS = 40
PAUSES = 0.001, 0.02, 1.0
"""Seconds."""
HALF = 0.5
"""Cores' worth of CPU time of the quota."""


@cache
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return the operands of all calls."""
    return accuracy.operands("conv2d", LAYER, np.random.default_rng(0), np.float32)


def call() -> float:
    """Seconds of one call."""
    x, w = arrays()
    begin = time.perf_counter()
    operators.conv2d(x, w, padding=1, backend="cpu")
    return time.perf_counter() - begin


def calls(pause: float, count: int) -> list[float]:
    """Seconds of some calls, each after a pause, and after one that is not counted."""
    call()
    found = []
    for _ in range(count):
        time.sleep(pause)
        found.append(call())
    return found


def first_call() -> list[float]:
    """Seconds of the first call of this process."""
    return [call()]


def spin() -> None:
    """Keep a core busy until the parent ends this process."""
    while True:
        pass


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep all cores busy with other processes."""
    others = [get_context("fork").Process(target=spin, daemon=True) for _ in range(threads.cores())]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


@contextmanager
def half_a_core() -> Iterator[Path]:
    """Make a cgroup with a quota, which a process joins by its name in the file that this gives.

    Raises
    ------
    OSError
        Without cgroups, or without the right to make one.
    """
    version_1 = Path("/sys/fs/cgroup/cpu")
    folder = (version_1 if version_1.exists() else Path("/sys/fs/cgroup")) / f"cks_numba_{os.getpid()}"
    period = 100_000
    folder.mkdir()
    try:
        if version_1.exists():
            (folder / "cpu.cfs_quota_us").write_text(str(int(HALF * period)), encoding="utf-8")
        else:
            (folder / "cpu.max").write_text(f"{int(HALF * period)} {period}", encoding="utf-8")
        yield folder / "cgroup.procs"
    finally:
        with suppress(OSError):
            folder.rmdir()


def join(group: Path, chosen: int = 0) -> None:
    """Put this process into a cgroup; `chosen` is the number of threads as if the user had set it."""
    group.write_text(str(os.getpid()), encoding="utf-8")
    threads.quota.cache_clear()
    compiled.affordable.cache_clear()
    os.environ.pop("NUMBA_NUM_THREADS", None)
    if chosen:
        os.environ["NUMBA_NUM_THREADS"] = str(chosen)


def in_a_child(work: Callable[[], list[float]], prepare: Callable[[], object] | None = None) -> list[float]:
    """Do some work in a forked child of this process."""
    with warnings.catch_warnings():  # newer versions of Python warn about a fork while threads run
        warnings.simplefilter("ignore", DeprecationWarning)
        with ProcessPoolExecutor(1, get_context("fork"), initializer=prepare) as pool:
            return pool.submit(work).result()


def rows() -> Iterator[tuple[str, list[float]]]:
    """Name each of the surroundings and yield the seconds of its calls."""
    at_once = partial(calls, 0, CALLS)
    yield "one call after the other", in_a_child(at_once)
    yield "the first call of a forked child", [in_a_child(first_call)[0] for _ in range(9)]
    for pause in PAUSES:
        count = min(CALLS, round(10 / pause))
        yield f"each after {1000 * pause:g} ms without work", in_a_child(partial(calls, pause, count))
    with busy_cores():
        yield "beside a busy process on each core", in_a_child(at_once)
        yield "the same under nice -n 19", in_a_child(partial(calls, 0, 5), partial(os.nice, 19))
    with ExitStack() as stack:
        try:
            group = stack.enter_context(half_a_core())
        except OSError as error:
            print(f"half a core is not measured: {error}", file=sys.stderr)
            return
        yield f"a quota of {HALF:g} cores, 1 thread (the default there)", in_a_child(at_once, partial(join, group))
        chosen = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        yield f"the same with {chosen} threads", in_a_child(at_once, partial(join, group, chosen))


def main() -> None:
    """Print the table."""
    calls(0, 3)  # The first call compiles and starts threads.
    count = compiled.affordable(compiled.threads_of_numba())
    print(f"{results.machine()}, {count} threads, {results.versions(('numba',))}\n")
    print("| surroundings | median ms | worst ms |\n|---|---|---|")
    for name, seconds in rows():
        print(f"| {name} | {1000 * median(seconds):.2f} | {1000 * max(seconds):.2f} |", flush=True)


if __name__ == "__main__":
    main()
