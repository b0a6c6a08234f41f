"""``cks-numba bench``: this library, PyTorch and the regular way, alternated in one process over the table of layers.

Every contender is first checked, then timed as `timing` says. What uses NumPy's BLAS has rounds of its own, after
the others, because its threads stay awake for a while and slow down everything else: the regular way, and one large
matrix product, whose rate is the limit.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np

from ..buffers import is_last
from ..flops.text import put_between
from ..steps import regular
from . import accuracy, cases
from .calls import call_bars
from .results import BLAS_SIDE, LIMIT, OURS, PEER, REGULAR, Row, bars, markers, median_of, row_of, summary, write
from .timing import AFTER_BLAS, Probe, burst, clean_rounds, keep_memory


# --- contenders ----------------------------------------------------------------------------------
def ours_call(case: cases.Case, first: Any, second: Any, layout: Any) -> Callable[[], Any]:
    """Return a call of this library on arrays with channels last, which for channels first are copied first."""
    if not is_last(layout):
        first, second = (accuracy.at_line(np.moveaxis(array, -1, 1)) for array in (first, second))
    return lambda: accuracy.call(case.operator, case.shape, first, second, "cpu", layout)


def peer_in_layout(case: cases.Case, first: Any, second: Any, layout: Any) -> Callable[[], Any]:
    """Return a call of PyTorch on copies of arrays with channels last, in this layout."""
    import torch

    form = _memory_form(len(case.shape.axes), is_last(layout))
    tensors = (torch.from_numpy(a).movedim(-1, 1).contiguous(memory_format=form) for a in (first, second))
    return peer_call(case, *tensors)


def _memory_form(axes: int, last: bool) -> Any:
    """PyTorch's order of axes in memory; it has no channels last for one axis."""
    torch = sys.modules["torch"]
    forms = {2: torch.channels_last, 3: torch.channels_last_3d}
    return forms.get(axes, torch.contiguous_format) if last else torch.contiguous_format


def peer_call(case: cases.Case, first: Any, second: Any) -> Callable[[], Any]:
    """Return a call of PyTorch's operator on tensors in its own order of axes, on any device, in any memory order."""
    import torch

    shape, (names, _) = case.shape, zip(*case.shape.arrays(case.operator)[:2], strict=True)
    given = dict(zip(names, (first, second), strict=True))
    pads = tuple(before for before, _ in shape.padding)
    if case.operator == "conv2d":
        how = (None, shape.stride, pads, shape.dilation, shape.groups)
        conv = getattr(torch.nn.functional, f"conv{len(pads)}d")
        return lambda: conv(given["x"], given["w"], *how)
    x = given["x"] if "x" in given else _unread(first, shape.x_shape)
    w = given["w"] if "w" in given else _unread(first, shape.w_shape)
    wanted = (case.operator == "conv2d_input", case.operator == "conv2d_weight", False)
    rest = (None, shape.stride, pads, shape.dilation, False, (0,) * len(pads), shape.groups, wanted)
    return lambda: torch.ops.aten.convolution_backward(given["dy"], x, w, *rest)[wanted.index(True)]


def _unread(like: Any, last: tuple[int, ...]) -> Any:
    """A tensor from which PyTorch reads only the sizes, given with channels last, and the memory order."""
    n, *spatial, c = last
    empty = like.new_empty((n, c, *spatial))
    return empty.contiguous(memory_format=_memory_form(len(spatial), like.stride()[1] == 1))


def _regular(case: cases.Case, first: Any, second: Any, layout: str) -> Callable[[], Any]:
    return lambda: regular.BY_OPERATOR[case.operator](first, second, case.shape)


def _blas(case: cases.Case, first: Any, second: Any, layout: str) -> Callable[[], Any]:
    a, b = np.ones((2, BLAS_SIDE, BLAS_SIDE), np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


CONTENDERS = (
    (OURS, "NHWC", ours_call),
    (PEER, "NHWC", peer_in_layout),
    (OURS, "NCHW", ours_call),
    (PEER, "NCHW", peer_in_layout),
)
WITH_BLAS = ((REGULAR, "NHWC", _regular), (LIMIT, "", _blas))


def has_peer() -> bool:
    """Whether PyTorch is installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def prepare(threads: int) -> None:
    """Set the threads of this library and of PyTorch, which then keeps no gradients; freed memory stays."""
    numba.set_num_threads(threads)
    keep_memory()
    if has_peer():
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)


# --- one case ------------------------------------------------------------------------------------
def _checked(case: cases.Case, calls: dict[tuple[str, str], Callable[[], Any]]) -> None:
    """Check that all contenders give the same result, up to rounding."""
    want = calls[REGULAR, "NHWC"]()
    scale = float(np.abs(want).max()) or 1.0
    for (name, layout), call in calls.items():
        if name in (LIMIT, REGULAR):
            continue
        got = np.asarray(call())
        got = got.transpose(0, 2, 3, 1) if name == PEER or layout == "NCHW" else got
        error = float(np.abs(got - want).max()) / scale
        if not error < 1e-3:
            raise RuntimeError(f"{name} ({layout}) differs from the regular way by {error:.1e}: {case}")


def extra_memory(call: Callable[[], Any]) -> int:
    """Bytes that a call allocates at its peak, without its result."""
    tracemalloc.start()
    try:
        result = call()
        return max(0, tracemalloc.get_traced_memory()[1] - int(result.nbytes))
    finally:
        tracemalloc.stop()


def measure(case: cases.Case, rounds: int, probe: Probe) -> tuple[dict[tuple[str, str], list[float]], int]:
    """Seconds of every contender in each clean round, and the extra bytes of ours."""
    first, second = accuracy.operands(case.operator, case.shape, np.random.default_rng(0), np.float32)
    together, with_blas = (
        {(name, layout): make(case, first, second, layout) for name, layout, make in rows if name != PEER or has_peer()}
        for rows in (CONTENDERS, WITH_BLAS)
    )
    _checked(case, {**together, **with_blas})
    extra = max(extra_memory(call) for (name, _), call in together.items() if name == OURS)
    time.sleep(AFTER_BLAS)
    alone, after = ({key: partial(burst, call) for key, call in calls.items()} for calls in (together, with_blas))
    times = clean_rounds(alone, rounds, probe) | clean_rounds(after, min(rounds, 3))
    time.sleep(AFTER_BLAS)
    return times, extra


# --- the command ---------------------------------------------------------------------------------
def time_cases(listed: Sequence[cases.Case], rounds: int, threads: int) -> list[Row]:
    """Time all contenders on all cases, and print a line for each case."""
    prepare(threads)
    rows: list[Row] = []
    probe = Probe(threads)
    print(f"{'case':<64} {'rate':>6} {'of BLAS':>8} {'PyTorch':>8} {'regular':>8}  (times as long as ours)")
    for case in listed:
        times, extra = measure(case, rounds, probe)
        here = [
            replace(
                row_of(case, name, layout, seconds, 2 * BLAS_SIDE**3 if name == LIMIT else 0),
                extra_bytes=extra if name == OURS else 0,
                threads=threads,
            )
            for (name, layout), seconds in times.items()
        ]
        rows += here
        print(_line(case, here), flush=True)
    return rows


def vectors(row: Row) -> str:
    """Return the width of the vectors that a row was timed with, such as "512-bit vectors"; each has a table."""
    return row.device.rpartition(" with ")[2]


def _line(case: cases.Case, rows: list[Row]) -> str:
    ours, blas = median_of(rows, OURS), median_of(rows, LIMIT)
    others = (median_of(rows, name) for name in (PEER, REGULAR))
    ratios = " ".join(f"{other / ours:8.2f}" if other else "       -" for other in others)
    rate = next(row.rate for row in rows if row.contender == OURS)
    share = rate / (2 * BLAS_SIDE**3 / blas / 1e6)
    return f"{case.operator:<13} {case.name:<50} {rate:6.1f} {share:8.2f} {ratios}"


def run(
    rounds: int, threads: int, quick: bool, check: bool, csv_file: Path | None, readme: Path | None, only: str
) -> int:
    """Run the benchmark of the CPU backend.

    Parameters
    ----------
    rounds : int
        Clean rounds of each case.
    threads : int
        Threads of each contender.
    quick : bool
        Use small batches and every tenth case, to see that everything works.
    check : bool
        Fail when a bar is missed; needs PyTorch.
    csv_file, readme : Path, optional
        File to write the rows to; file with markers to put the summary between.
    only : str
        Time only cases with this text in their line.

    Returns
    -------
    int
        0, or 1 when a bar was missed.
    """
    if (check or readme) and not has_peer():
        raise RuntimeError("--check and --readme compare with PyTorch, which is not installed: pip install torch")
    if check and (quick or only):
        raise RuntimeError("--check needs all cases: leave out --quick and --only")
    listed = cases.table(flop=2e7, batch=2)[::10] if quick else cases.table()
    listed = [case for case in listed if only in f"{case.source} {case.operator} {case.shape}"]
    if not listed:
        raise RuntimeError(f"no case has {only!r} in it")
    rows = time_cases(listed, rounds, threads)
    if has_peer():
        print(f"\n{summary(rows)}")
    if csv_file:
        write(rows, csv_file)
        print(f"\nwrote {csv_file}")
    if readme:
        put_between(readme, summary(rows), markers(vectors(rows[0])))
    print()
    missed = 0
    found = [] if quick or only or not has_peer() else bars(rows)
    for bar in (*found, *call_bars(threads)):
        print(bar)
        missed += bar.missed
    kept = [row.rounds for row in rows if row.contender == OURS]
    print(f"{len(listed)} cases, {len(rows)} rows; {min(kept)} to {max(kept)} clean rounds of a case, {rounds} wanted")
    return int(check and missed > 0)
