"""``cks-numba bench --axes``: layers of one axis and of three, against PyTorch's better layout and the CPU's peak.

A burst has calls of one contender alone, after a pause and untimed calls, and the bursts of the contenders alternate.
A burst counts if the machine was about as fast beside it as at best. Both read the same numbers, from memory that
begins at a cache line. The peak is the rate of multiply-adds on numbers that stay in registers. A ratio cannot be
larger than that of code at the peak, so each bar has a second form: a share of the peak that is enough where PyTorch
leaves little to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ..buffers import LAYOUTS
from ..flops.text import put_between
from . import cases
from .cases import Case
from .cpu import has_peer, ours_call, peer_in_layout
from .results import OURS, PEAK, PEER, Row, markers, row_of, write
from .timing import WARM, Probe, burst, clean_rounds, keep_memory

CALLS = 5
"""Calls of a burst."""


class LayerSet(NamedTuple):
    """Cases, and the bars, of which one in each pair has to be cleared.

    `mean` and `least` are the geometric mean for each operator and the least of PyTorch's time over ours. `of_peak` and
    `least_of_peak` are the same of our rate over the peak.
    """

    cases: Callable[[], Iterator[Case]]
    mean: float
    least: float
    of_peak: float = 0.7
    least_of_peak: float = 0.85


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


def measure(case: Case, rounds: int, probe: Probe) -> list[Row]:
    """Time ours, both layouts of PyTorch, and the peak, after a check that the results agree.

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
    calls = {(OURS, layouts[0]): ours, **{(PEER, layout): call for layout, call in peers.items()}}
    bursts: dict[tuple[str, str], Callable[[], list[float]]] = {
        key: partial(burst, call, CALLS, warm=WARM) for key, call in calls.items()
    }
    bursts[PEAK, ""] = lambda: [probe.seconds()]
    found = clean_rounds(bursts, rounds, probe)
    found[PEAK, ""] = [min(found[PEAK, ""])]
    return [
        row_of(case, name, layout, seconds, probe.operations if name == PEAK else 0)
        for (name, layout), seconds in found.items()
    ]


class Shares(NamedTuple):
    """The rates of both in a case as shares of the peak, PyTorch's in its better layout."""

    ours: float
    peer: float

    @property
    def ratio(self) -> float:
        """PyTorch's time over ours."""
        return self.ours / self.peer


def shares(rows: Sequence[Row]) -> list[Shares]:
    """Return the shares of each case."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        best = found.setdefault(row.case, {})
        best[row.contender] = max(row.rate, best.get(row.contender, 0.0))
    return [Shares(best[OURS] / best[PEAK], best[PEER] / best[PEAK]) for best in found.values()]


def by_operator(rows: Sequence[Row]) -> Iterator[tuple[str, list[Shares], Shares]]:
    """Yield each operator with the shares of its cases, and their geometric means."""
    for operator in dict.fromkeys(row.operator for row in rows):
        mine = shares([row for row in rows if row.operator == operator])
        yield operator, mine, Shares(*(geometric_mean(values) for values in zip(*mine, strict=True)))


def summary(rows: Sequence[Row]) -> str:
    """Summarise the rows in one table, in Markdown."""
    first = rows[0]
    lines = [
        f"PyTorch's time over ours, its better layout ({first.device}, {first.threads} threads, float32, "
        f"{first.versions}):",
        "",
        "| operator | cases | mean | range | code at the peak would reach | our share of the peak | PyTorch's |",
        "|---|---|---|---|---|---|---|",
    ]
    for operator, mine, mean in by_operator(rows):
        ratios = [each.ratio for each in mine]
        cells = f"{mean.ratio:.2f} | {min(ratios):.2f}-{max(ratios):.2f} | {1 / mean.peer:.2f}"
        lines.append(f"| `{operator}` | {len(mine)} | {cells} | {mean.ours:.2f} | {mean.peer:.2f} |")
    return "\n".join(lines)


def missed(rows: Sequence[Row], layer_set: LayerSet) -> list[str]:
    """Return the bars that are missed, a line for each."""
    _, ratio, least, of_peak, least_of_peak = layer_set
    found = []
    for operator, mine, mean in by_operator(rows):
        if mean.ratio < ratio and mean.ours < of_peak:
            found.append(
                f"{operator}: mean {mean.ratio:.2f} < {ratio:g}, and {mean.ours:.2f} < {of_peak:g} of the peak"
            )
        low = [each for each in mine if each.ratio < least and each.ours < least_of_peak]
        for each in sorted(low, key=lambda each: each.ratio)[:1]:
            found.append(
                f"{operator}: {len(low)} cases < {least:g} with < {least_of_peak:g} of the peak; "
                f"the least {each.ratio:.2f} with {each.ours:.2f}"
            )
    return found


def run(
    count: int,
    rounds: int,
    threads: int,
    quick: bool,
    check: bool,
    csv_file: Path | None,
    readme: Path | None,
    only: str,
) -> int:
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
    csv_file, readme : Path, optional
        File to write the rows to; file with markers to put the summary between.
    only : str
        Time only cases with this text in their line.
    """
    if not has_peer():
        raise RuntimeError("--axes compares with PyTorch, which is not installed: pip install torch")
    chosen = [case for case in SETS[count].cases() if only in f"{case.operator} {case.name}"][:: 20 if quick else 1]
    if not chosen:
        raise RuntimeError(f"no case has {only!r} in it")
    import torch

    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    keep_memory()
    probe = Probe(threads)
    print(
        f"{'case':<56} {'time':>12} {'PyTorch':>8} {'of the peak':>12} {'PyTorch':>8}  (its time over ours; its share)"
    )
    rows: list[Row] = []
    for case in chosen:
        here = [replace(row, threads=threads) for row in measure(case, rounds, probe)]
        rows += here
        share = shares(here)[0]
        print(f"{case.operator:<13} {case.name:<42} {1e3 * here[0].median_ms:9.1f} us", end=" ")
        print(f"{share.ratio:8.2f} {share.ours:12.2f} {share.peer:8.2f}", flush=True)
    print(f"\n{summary(rows)}\n")
    if csv_file:
        write(rows, csv_file)
        print(f"wrote {csv_file}\n")
    if readme:
        put_between(readme, summary(rows), markers(f"axes {count}"))
    found = missed(rows, SETS[count])
    print("\n".join(f"MISSED {line}" for line in found) or "ok     all bars")
    return int(check and bool(found))
