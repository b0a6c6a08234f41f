"""``cks-numba verify``: random shapes, every backend that runs here, against the regular way in float64."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import operators, regular
from .backends import cuda
from .buffers import Layout, own_order
from .geometry import OPERATORS, ConvShape, plan

DTYPES = (np.float32, np.float64)


@dataclass
class Worst:
    """The largest error of one backend and operator, and where it was."""

    ratio: float = -1.0  # error over tolerance: 1 is the limit
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


def random_shape(rng: np.random.Generator, small: bool = False) -> ConvShape:
    """Draw a problem size that tends to the awkward: odd channels, uneven padding, steps that do not divide.

    Parameters
    ----------
    rng : numpy.random.Generator
    small : bool
        Far smaller sizes, for the CUDA simulator.

    Returns
    -------
    ConvShape
    """
    top = 4 if small else 9
    while True:
        groups = int(rng.choice((1, 1, 1, 2, 3)))
        size = dict(zip(("ih", "iw"), rng.integers(1, top + 1, 2).tolist(), strict=True))
        taps = dict(zip(("fh", "fw"), rng.integers(1, (4 if small else 6), 2).tolist(), strict=True))
        channels = {name: groups * int(rng.integers(1, 3 if small else 8)) for name in ("ic", "oc")}
        n = 0 if rng.random() < 0.03 else int(rng.integers(1, 2 if small else 4))
        if rng.random() < 0.1:
            taps = {"fh": 1, "fw": 1}  # with a stride, most inputs meet no tap
        steps = {name: tuple(rng.integers(1, 4, 2).tolist()) for name in ("stride", "dilation")}
        if rng.random() < 0.6:
            steps["dilation"] = (1, 1)
        padding = tuple(int(rng.integers(0, f + 1)) for f in taps.values() for _ in range(2))
        try:
            return ConvShape(n=n, **size, **taps, **channels, **steps, padding=padding, groups=groups)  # type: ignore[arg-type]
        except ValueError:
            continue  # the filter is larger than the padded input: draw again


def operands(operator: str, shape: ConvShape, rng: np.random.Generator, dtype: Any) -> tuple[Any, Any]:
    """Draw the two arrays of an operator: (x, w), (w, dy) or (x, dy), standard normal."""
    sizes = [size for _, size in shape.arrays(operator)[:2]]
    return tuple(rng.standard_normal(size).astype(dtype) for size in sizes)  # type: ignore[return-value]


def call(
    operator: str, shape: ConvShape, first: Any, second: Any, backend: str, layout: Layout = "NHWC"
) -> NDArray[Any]:
    """Run a public operator on the two arrays that `operands` names."""
    options: dict[str, Any] = dict(
        stride=shape.stride, padding=shape.padding, dilation=shape.dilation, groups=shape.groups, backend=backend
    )
    options["layout"] = layout
    if operator == "conv2d":
        return operators.conv2d(first, second, **options)
    if operator == "conv2d_input":
        return operators.conv2d_input(own_order(shape.x_shape, layout), first, second, **options)
    return operators.conv2d_weight(first, own_order(shape.w_shape, layout), second, **options)


def tolerance(operator: str, shape: ConvShape, dtype: Any) -> float:
    """Return the largest error allowed, in units of the sum of absolute products.

    Rounding errors of a sum of K products behave like a random walk, hence the square root.
    """
    channels = {"conv2d": shape.ic, "conv2d_input": shape.oc}.get(operator, shape.n * shape.groups) // shape.groups
    terms = channels * max(group.terms for group in plan(operator, shape).groups)
    return float(np.finfo(dtype).eps * (4 + 2 * np.sqrt(terms)))


def relative_error(got: NDArray[Any], expected: NDArray[Any], scale: NDArray[Any]) -> float:
    """Return the largest error over the sum of absolute products, which bounds what rounding can do.

    Where that sum is 0 (no product, or only zeros) any error at all is infinite.
    """
    if got.size == 0:
        return 0.0
    error = np.abs(got.astype(np.float64) - expected)
    ratio = np.divide(error, scale, out=np.where(error == 0, 0.0, np.inf), where=scale > 0)
    return float(ratio.max()) if np.isfinite(ratio).all() else float("inf")


def check(operator: str, shape: ConvShape, rng: np.random.Generator, backends: Sequence[str], table: Any) -> None:
    """Check one operator and shape: both dtypes, every backend, against one regular float64 result."""
    for dtype in DTYPES:
        first, second = operands(operator, shape, rng, dtype)
        wide = first.astype(np.float64), second.astype(np.float64)
        regularly = regular.BY_OPERATOR[operator]
        expected, scale = regularly(*wide, shape), regularly(abs(wide[0]), abs(wide[1]), shape)
        limit, name = tolerance(operator, shape, dtype), np.dtype(dtype).name
        for backend in backends:
            error, message = _one(operator, shape, first, second, backend, expected, scale)
            table[backend, operator].add(error, limit, name, shape, message)


def _one(
    operator: str, shape: ConvShape, first: Any, second: Any, backend: str, expected: Any, scale: Any
) -> tuple[float, str]:
    """Error of one call; infinite, with a message, where it fails or returns another shape or dtype."""
    try:
        got = call(operator, shape, first, second, backend)
    except Exception as error:  # a backend that breaks is a finding, and the others still have to be checked
        return float("inf"), f"{type(error).__name__}: {error}"
    if got.shape != expected.shape or got.dtype != first.dtype:
        return float("inf"), f"expected {first.dtype} {expected.shape}, got {got.dtype} {got.shape}"
    return relative_error(got, expected, scale), ""


def backends_here(chosen: Sequence[str] | None = None) -> list[str]:
    """Return the backends that run on this machine, or those of them that were chosen."""
    here = ["steps", "cpu"] + (["cuda"] if cuda.available() else [])
    missing = [name for name in chosen or () if name not in here]
    if missing:
        raise RuntimeError(cuda.NO_GPU)
    return [name for name in here if not chosen or name in chosen]


def run(cases: int | None, seed: int, chosen: Sequence[str] | None = None) -> int:
    """Check random shapes and print the worst error of every backend and operator.

    Parameters
    ----------
    cases : int or None
        None: 100, or 3 where the simulator takes part, which needs seconds for each.
    seed : int
    chosen : sequence of str, optional
        Backends; every one that runs here if not given.

    Returns
    -------
    int
        0, or 1 when an error was above its tolerance or a backend broke.

    Raises
    ------
    RuntimeError
        For backend "cuda" with no GPU and no simulator.
    """
    backends = backends_here(chosen)
    small = "cuda" in backends and cuda.SIMULATED
    cases = cases or (3 if small else 100)
    print(f"{cases} random shapes, seed {seed}, float32 and float64, backends: {', '.join(backends)}")
    rng, table = np.random.default_rng(seed), {(b, op): Worst() for b in backends for op in OPERATORS}
    start = last = time.perf_counter()
    for case in range(cases):
        shape = random_shape(rng, small)
        for operator in OPERATORS:
            check(operator, shape, rng, backends, table)
        if time.perf_counter() - last > 2 or case == cases - 1:
            last = time.perf_counter()
            print(f"  {case + 1:>{len(str(cases))}} of {cases} shapes, {last - start:.1f} s", flush=True)
    return report(table)


def report(table: dict[tuple[str, str], Worst]) -> int:
    """Print one line a backend and operator; return the exit code."""
    print("\nworst error, relative to the sum of absolute products (limit: eps * (4 + 2 sqrt(terms)))")
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
