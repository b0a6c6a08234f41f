"""``cks-numba verify``: random shapes, every backend that runs here, against the regular way in float64."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import cuda, emulator
from ..bench.accuracy import call, operands, random_shape, relative_error, tolerance
from ..geometry import OPERATORS, ConvShape
from ..kernels.jit import SIMULATED
from ..steps import regular
from .arguments import at_least

DTYPES = (np.float32, np.float64, np.float16)
SILENCE = 2.0  # seconds from one line about the progress to the next


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add = command.add_argument
    add("--cases", type=at_least(1), help="number of random shapes (default 100; 3 in the simulator)")
    add("--seed", type=at_least(0), default=0, help="seed of the random numbers (default 0)")
    names = ("steps", "cpu", "emulator", "cuda")
    add("--backend", action="append", choices=names, help="only this one; may be repeated")


def run(arguments: argparse.Namespace) -> int:
    """Check random shapes; return 1 if an error was above its tolerance or a backend broke."""
    return verify(arguments.cases, arguments.seed, arguments.backend)


@dataclass
class Worst:
    """The largest error of one backend and operator, and where it was."""

    ratio: float = -1.0  # error over tolerance; the limit is 1
    error: float = 0.0
    dtype: str = ""
    shape: ConvShape | None = None
    checks: int = 0
    failed: int = 0
    message: str = ""

    def add(self, error: float, tolerance: float, dtype: str, shape: ConvShape, message: str = "") -> None:
        """Count one check; an error that is no number counts as infinite."""
        ratio = error / tolerance if np.isfinite(error) else float("inf")
        self.checks += 1
        self.failed += ratio > 1
        if ratio > self.ratio:
            self.ratio, self.error, self.dtype, self.shape, self.message = ratio, error, dtype, shape, message


class Progress:
    """A line about what is being checked: at the first call of each kernel, which compiles, and every few seconds."""

    def __init__(self, cases: int) -> None:
        self.cases = cases
        self.case = 0
        self.start = time.perf_counter()
        self.last = self.start
        self.seen: set[tuple[str, str]] = set()

    def now(self, operator: str, backend: str) -> None:
        """Tell that an operator is about to run on a backend."""
        if (operator, backend) not in self.seen or time.perf_counter() - self.last > SILENCE:
            self.seen.add((operator, backend))
            self._tell(f"shape {self.case + 1} of {self.cases}: {operator} on {backend}")

    def end(self) -> None:
        """Tell that all shapes are done."""
        self._tell(f"{self.cases} of {self.cases} shapes done")

    def _tell(self, text: str) -> None:
        self.last = time.perf_counter()
        print(f"  {self.last - self.start:5.1f} s  {text}", flush=True)


def check(
    operator: str,
    shape: ConvShape,
    rng: np.random.Generator,
    backends: Sequence[str],
    table: Any,
    progress: Progress,
) -> None:
    """Check one operator and shape: every dtype, every backend, against one regular float64 result."""
    for dtype in DTYPES:
        first, second = operands(operator, shape, rng, dtype)
        wide = first.astype(np.float64), second.astype(np.float64)
        regularly = regular.BY_OPERATOR[operator]
        expected, scale = regularly(*wide, shape), regularly(abs(wide[0]), abs(wide[1]), shape)
        limit, name = tolerance(operator, shape, dtype), np.dtype(dtype).name
        for backend in backends:
            if dtype == np.float16 and backend == "cuda" and not cuda.tensor_cores():
                continue  # they alone take 16 bits on a GPU
            progress.now(operator, backend)
            error, message = _one(operator, shape, first, second, backend, expected, scale)
            table[backend, operator].add(error, limit, name, shape, message)


def _one(
    operator: str, shape: ConvShape, first: Any, second: Any, backend: str, expected: Any, scale: Any
) -> tuple[float, str]:
    """Error of one call; infinite, with a message, if it fails or returns another shape or dtype."""
    try:
        got = call(operator, shape, first, second, backend)
    except Exception as error:  # a broken backend is a finding, and the others still have to be checked
        return float("inf"), f"{type(error).__name__}: {error}"
    if got.shape != expected.shape or got.dtype != first.dtype:
        return float("inf"), f"expected {first.dtype} {expected.shape}, got {got.dtype} {got.shape}"
    return relative_error(got, expected, scale), ""


def backends_here(chosen: Sequence[str] | None = None) -> list[str]:
    """Return the chosen backends, or all that run on this machine but the emulator, which compiles for minutes."""
    here = ["steps", "cpu"]
    for name, module in (("emulator", emulator), ("cuda", cuda)):
        if name in (chosen or ()):
            module.require()
            here.append(name)
        elif name == "cuda" and module.available():
            here.append(name)
    return [name for name in here if not chosen or name in chosen]


def verify(cases: int | None, seed: int, chosen: Sequence[str] | None = None) -> int:
    """Check random shapes and print the worst error of every backend and operator.

    Parameters
    ----------
    cases : int or None
        If None: 100, or 3 with the simulator, which needs seconds for each.
    seed : int
    chosen : sequence of str, optional
        Backends; if not given, every one that runs here but the emulator.

    Returns
    -------
    int
        0, or 1 when an error was above its tolerance or a backend broke.

    Raises
    ------
    RuntimeError
        For backend "cuda" with no GPU and no simulator, and for "emulator" in the simulator.
    """
    backends = backends_here(chosen)
    small = "cuda" in backends and SIMULATED
    cases = cases or (3 if small else 100)
    dtypes = ", ".join(np.dtype(dtype).name for dtype in DTYPES)
    print(f"{cases} random shapes, seed {seed}, {dtypes}, backends: {', '.join(backends)}", flush=True)
    rng, table = np.random.default_rng(seed), {(b, op): Worst() for b in backends for op in OPERATORS}
    progress = Progress(cases)
    for progress.case in range(cases):
        shape = random_shape(rng, small)
        for operator in OPERATORS:
            check(operator, shape, rng, backends, table, progress)
    progress.end()
    return report(table)


def report(table: dict[tuple[str, str], Worst]) -> int:
    """Print one line per backend and operator; return the exit code."""
    print("\nworst error, relative to the sum of absolute products")
    print("limit: eps * (4 + 2 sqrt(terms)); with 16 bits that of float32, and half a step of the dtype")
    print(f"{'backend':<8} {'operator':<14} {'checks':>6} {'failed':>6}  {'error':>8} {'of limit':>8}  where")
    for (backend, operator), worst in table.items():
        print(
            f"{backend:<8} {operator:<14} {worst.checks:>6} {worst.failed:>6}  {worst.error:>8.1e} {worst.ratio:>8.2f}"
            f"  {worst.dtype} {worst.shape}"
        )
        if worst.message:
            print(f"         {worst.message}")
    failed = sum(worst.failed for worst in table.values())
    print("all correct" if not failed else f"{failed} checks FAILED")
    return 1 if failed else 0
