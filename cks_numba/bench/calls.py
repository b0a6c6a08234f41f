"""Cost of a call on the CPU besides its work: in calls of almost no work, the first one, and right after BLAS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import operators
from ..geometry import OPERATORS, ConvShape, plan
from . import accuracy
from .results import Bar
from .timing import AFTER_BLAS, WARM, Probe, burst, clean_rounds


def overhead(blocks: int = 10, repeats: int = 100) -> dict[str, float]:
    """Microseconds of a call beyond a bare matrix product of the same work, for layers under 1 MFLOP.

    It is the least of several blocks of calls, because the machine is sometimes busy with something else.
    """
    found = {}
    for operator in OPERATORS:
        shape = ConvShape(n=2, ih=4, iw=4, ic=16, oc=16, fh=3, fw=3, padding=1)
        first, second = accuracy.operands(operator, shape, np.random.default_rng(0), np.float32)
        terms = plan(operator, shape).useful // (shape.oc * shape.n * shape.oh * shape.ow)
        a, b = np.ones((shape.n * shape.oh * shape.ow, terms), np.float32), np.ones((terms, shape.oc), np.float32)
        x, w = shape.x_shape, shape.w_shape
        ours = {
            "conv2d": lambda: operators.conv2d(first, second, padding=1, backend="cpu"),  # noqa: B023
            "conv2d_input": lambda: operators.conv2d_input(x, first, second, padding=1, backend="cpu"),  # noqa: B023
            "conv2d_weight": lambda: operators.conv2d_weight(first, w, second, padding=1, backend="cpu"),  # noqa: B023
        }[operator]
        calls = (ours, lambda: a @ b)  # noqa: B023
        pairs = (_medians(calls, repeats) for _ in range(blocks))
        found[operator] = 1e6 * min(ours - product for ours, product in pairs)
    return found


def _medians(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each call; they alternate."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [*map(median, times)]


FIRST_CALL = """
import sys, time
import numba
import numpy as np
start = time.perf_counter()
import cks_numba
import_seconds = time.perf_counter() - start
x, w = np.ones((8, 16, 16, 32), np.float32), np.ones((32, 3, 3, 32), np.float32)
given = {"conv2d": (x, w), "conv2d_input": (x.shape, w, x), "conv2d_weight": (x, w.shape, x)}[sys.argv[1]]
start = time.perf_counter()
getattr(cks_numba, sys.argv[1])(*given, padding=1, backend="cpu")
print(import_seconds, time.perf_counter() - start)
"""


def first_calls() -> dict[str, tuple[float, float, float]]:
    """Seconds in a new process: to import, of the first call with nothing compiled, and with all compiled before.

    It is the least of two compilations, and of four calls after them, because the machine is sometimes busy.
    """
    found = {}
    for operator in OPERATORS:
        runs = []
        for _ in range(2):
            with TemporaryDirectory() as folder:
                environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
                runs.append([_first_call(operator, environment) for _ in range(3)])
        found[operator] = (
            min(imports for run in runs for imports, _ in run),
            min(run[0][1] for run in runs),
            min(seconds for run in runs for _, seconds in run[1:]),
        )
    return found


def _first_call(operator: str, environment: dict[str, str]) -> tuple[float, float]:
    command = (sys.executable, "-c", FIRST_CALL, operator)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    imports, seconds = map(float, done.stdout.split())
    return imports, seconds


NEIGHBOURS = (  # layers of about half a millisecond and more on two cores, which come right after a matrix product
    ConvShape(n=4, ih=4, iw=4, ic=256, oc=256, fh=3, fw=3, padding=1),
    ConvShape(n=16, ih=8, iw=8, ic=64, oc=64, fh=3, fw=3, padding=1),
    ConvShape(n=16, ih=16, iw=16, ic=64, oc=128, fh=3, fw=3, stride=2, padding=1),
)


def after_blas(threads: int, rounds: int = 20) -> list[float]:
    """Times of calls right after a matrix product of NumPy, over the median time of the same calls alone.

    OpenBLAS's threads stay awake for a while, on the cores that ours need.
    """
    found: list[float] = []
    for shape in NEIGHBOURS:
        x, w = accuracy.operands("conv2d", shape, np.random.default_rng(0), np.float32)
        rows, square = x.reshape(-1, shape.ic), np.ones((shape.ic, 4 * shape.ic), np.float32)
        call = partial(accuracy.call, "conv2d", shape, x, w, "cpu")
        bursts = {
            "after": partial(burst, call, times=10, before=partial(np.matmul, rows, square)),
            "alone": partial(burst, call, times=10, pause=AFTER_BLAS, warm=WARM),
        }
        times = clean_rounds(bursts, rounds, Probe(threads))
        found += [seconds / median(times["alone"]) for seconds in times["after"]]
    return found


TINY = ConvShape(n=1, ih=4, iw=4, ic=8, oc=8, fh=3, fw=3, padding=1)


def torch_calls(blocks: int = 10, repeats: int = 100) -> dict[str, tuple[float, float]]:
    """Microseconds of a call of our layer and of torch's own on a tiny map, forward and with the backward pass.

    Empty without PyTorch. It is the least of several blocks of calls, because the machine is sometimes busy.
    """
    try:
        import torch
    except ImportError:
        return {}
    from ..torch import CKSConv2d  # This module needs PyTorch, which is optional.

    found = {}
    with torch.enable_grad():  # `cpu.prepare` turns it off.
        for format_ in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(TINY.n, TINY.ic, TINY.ih, TINY.iw).to(memory_format=format_).requires_grad_()
            layers: list[Any] = [kind(TINY.ic, TINY.oc, 3, padding=1) for kind in (CKSConv2d, torch.nn.Conv2d)]
            layers = [layer.to(memory_format=format_) for layer in layers]
            dy = torch.ones_like(x)
            ways: dict[str, list[Callable[[], Any]]] = {
                "forward": [partial(layer, x) for layer in layers],
                "forward and backward": [partial(_step, layer, x, dy) for layer in layers],
            }
            for way, pair in ways.items():
                blocks_of = [_medians(pair, repeats) for _ in range(blocks)]
                name = f"{way}, {str(format_).removeprefix('torch.')}"
                found[name] = (1e6 * min(ours for ours, _ in blocks_of), 1e6 * min(torchs for _, torchs in blocks_of))
    return found


def _step(layer: Any, x: Any, dy: Any) -> None:
    layer(x).backward(dy)


def call_bars(threads: int) -> Iterator[Bar]:
    """The bars for what a call costs besides its work."""
    after = after_blas(threads)
    yield Bar("a call right after a product by BLAS, over one alone: median", median(after), 1.3, at_most=True)
    tenths = quantiles(after, n=10)
    yield Bar("the same, ninetieth percentile", tenths[-1], 2, at_most=True)
    for operator, microseconds in overhead().items():
        yield Bar(f"{operator}: microseconds of a tiny call beyond its matrix product", microseconds, 30, at_most=True)
    for way, (ours, torchs) in torch_calls().items():
        yield Bar(f"CKSConv2d on a tiny map over nn.Conv2d: {way}", ours / torchs, 1.5, at_most=True)
    for operator, (imported, cold, warm) in first_calls().items():
        yield Bar(f"{operator}: seconds to import cks_numba, after numba", imported, 0.4, at_most=True)
        yield Bar(f"{operator}: seconds of the first call, nothing compiled", cold, 4, at_most=True)
        yield Bar(f"{operator}: seconds of the first call, compiled before", warm, 0.4, at_most=True)


if __name__ == "__main__":
    for name, cost in overhead().items():
        print(f"{name}: {cost:.0f} microseconds beyond its matrix product")
    for name, (cost, plain) in torch_calls().items():
        print(f"CKSConv2d, {name}: {cost:.0f} microseconds, nn.Conv2d {plain:.0f}")
