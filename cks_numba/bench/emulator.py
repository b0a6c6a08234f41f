"""What the emulator takes to compile a kernel and to run it: ``cks-numba bench --emulator``.

Nothing is taken from the cache on disk where the PTX is timed, and everything where a call is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import numpy as np
from numba import cuda

from .. import flops, kernels
from ..backends import emulator as backend
from ..emulator import check_kernel, hooks, machine, run_kernel
from ..geometry import OPERATORS, ConvShape
from ..kernels import Launch, tiled
from ..kernels.tiled.sizes import Tile
from .results import Bar
from .timing import burst

ONE_BLOCK = {  # layers whose results are one tile of 128x128, and so one block, which runs on one core
    "conv2d": ConvShape(n=8, ih=6, iw=6, ic=256, oc=128, fh=3, fw=3),
    "conv2d_input": ConvShape(n=8, ih=4, iw=4, ic=128, oc=2048, fh=1, fw=1),
    "conv2d_weight": ConvShape(n=128, ih=5, iw=5, ic=32, oc=128, fh=2, fw=2),
}
SMALL = ConvShape(n=1, ih=8, iw=8, ic=8, oc=8, fh=3, fw=3, padding=1)
"""A layer that the simulator runs in seconds."""
TRIES = 5
"""Most times that something is compiled; the least time counts, because the machine is sometimes busy."""


def arrays_of(operator: str, shape: ConvShape) -> tuple[Any, Any, Any]:
    """The arrays of an operator, full of ones."""
    first, second, out = (np.ones(size, np.float32) for _, size in shape.arrays(operator))
    return first, second, out


def tiled_launch(operator: str, shape: ConvShape, tile: Tile = tiled.TILES[0]) -> Launch:
    """The launch of the tiled rung with a tile, the sum in one part."""
    choice = tiled.Choice(operator, shape, tile, 1, tiled.DEFAULT_SMS)
    return tiled.launches(operator, shape, arrays_of(operator, shape), choice)[0]


def seconds_of(call: Callable[[], Any], limit: float) -> float:
    """Seconds of a call; if it takes longer than the limit, the least of several."""
    least = float("inf")
    for _ in range(TRIES):
        begin = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - begin)
        if least <= limit:
            break
    return least


# --- from source to machine code -------------------------------------------------------------------
def every_tiled_launch() -> Iterator[tuple[str, Launch]]:
    """The tiled launches of every tile, for loads of four elements and of one."""
    for operator, tile, channels in product(OPERATORS, tiled.TILES, (32, 33)):
        shape = ConvShape(n=2, ih=4, iw=4, ic=channels, oc=channels, fh=3, fw=3, padding=1)
        yield operator, tiled_launch(operator, shape, tile)


def compiled_anew(launch: Launch) -> str:
    """Compile a kernel that nothing has compiled before."""
    kernel = cuda.jit(**launch.kernel.targetoptions)(launch.kernel.py_func)
    return hooks.ptx_of(kernel, launch.args, cached=False)


def to_ptx() -> Iterator[Bar]:
    """The bars from source to PTX."""
    slowest: dict[str, float] = dict.fromkeys(OPERATORS, 0.0)
    for operator, launch in every_tiled_launch():
        slowest[operator] = max(slowest[operator], seconds_of(partial(compiled_anew, launch), 3))
    for operator, seconds in slowest.items():
        yield Bar(f"{operator} tiled: seconds from source to PTX, the slowest kernel", seconds, 3, at_most=True)


def to_machine_code() -> Iterator[Bar]:
    """The bars from PTX to machine code."""
    small = [launch for op in OPERATORS for launch in kernels.launches(op, SMALL, arrays_of(op, SMALL), "with_zeros")]
    large = [launch for _, launch in every_tiled_launch()]
    for checked, (name, launches, limit) in product((False, True), (("tiled", large, 0.5), ("with_zeros", small, 0.1))):
        texts = [hooks.ptx_of(launch.kernel, launch.args, watched=checked) for launch in launches]
        seconds = max(seconds_of(partial(machine.Program, text, checked), limit) for text in texts)
        mode = "checked" if checked else "fast"
        yield Bar(f"{name}: seconds from PTX to machine code, {mode}, the slowest", seconds, limit, at_most=True)


# --- reports ---------------------------------------------------------------------------------------
def reporting() -> Iterator[Bar]:
    """The bars from a call to its report, the PTX being on disk."""
    (launch,) = kernels.launches("conv2d", SMALL, arrays_of("conv2d", SMALL), "skip_zeros")

    def report() -> str:
        kernel = cuda.jit(**launch.kernel.targetoptions)(launch.kernel.py_func)
        return str(check_kernel(kernel, launch.grid, launch.block, *launch.args))

    seconds = median(burst(report, times=5))
    yield Bar("conv2d skip_zeros: seconds from the call to the report", seconds, 0.2, at_most=True)
    process = partial(subprocess.run, [sys.executable, "-m", "cks_numba.emulator"], check=True, capture_output=True)
    seconds = min(burst(process, times=TRIES))
    yield Bar("the same in a new process, with the start of Python", seconds, 2, at_most=True)


# --- speed -----------------------------------------------------------------------------------------
def rate(operator: str, shape: ConvShape, checked: bool) -> float:
    """Thousands of millions of multiply-adds a second, useful ones alone."""
    launch = tiled_launch(operator, shape)
    run = check_kernel if checked else run_kernel
    seconds = burst(partial(run, launch.kernel, launch.grid, launch.block, *launch.args), times=3 if checked else 10)
    return flops.count(operator, shape).useful / median(seconds) / 1e9


def running() -> Iterator[Bar]:
    """The bars of speed: on one core, on all, and beside the simulator."""
    for operator, shape in ONE_BLOCK.items():
        for checked, least in ((False, 1.5), (True, 0.1)):
            mode = "checked" if checked else "fast"
            name = f"{operator} tiled: G multiply-adds/s on one core, {mode}"
            yield Bar(name, rate(operator, shape, checked), least)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores > 1:
        one = ONE_BLOCK["conv2d"]
        many = ConvShape(n=one.n * 4 * cores, ih=one.ih, iw=one.iw, ic=one.ic, oc=one.oc, fh=one.fh, fw=one.fw)
        gain = rate("conv2d", many, False) / rate("conv2d", one, False)
        yield Bar(f"conv2d tiled: the same, fast, on {cores} cores over one", gain, 0.6 * cores)


SIMULATED = """
import time
import numpy as np
from cks_numba import ConvShape, kernels
shape = ConvShape(n=1, ih=8, iw=8, ic=8, oc=8, fh=3, fw=3, padding=1)
arrays = [np.ones(size, np.float32) for _, size in shape.arrays("conv2d")]
(launch,) = kernels.launches("conv2d", shape, arrays, "shared")
seconds = []
for _ in range(2):
    start = time.perf_counter()
    launch.run()
    seconds.append(time.perf_counter() - start)
print(min(seconds))
"""


def beside_the_simulator() -> Iterator[Bar]:
    """The bars of time in the simulator, in a process of its own, over time here."""
    (launch,) = kernels.launches("conv2d", SMALL, arrays_of("conv2d", SMALL), "shared")
    command = [sys.executable, "-c", SIMULATED]
    variables = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    simulated = float(subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout)
    for mode, run in (("checked", check_kernel), ("fast", run_kernel)):
        seconds = median(burst(partial(run, launch.kernel, launch.grid, launch.block, *launch.args), times=9))
        yield Bar(f"conv2d shared: the simulator's time over ours, {mode}", simulated / seconds, 100)


def run() -> int:
    """Print every figure with its bar; return 1 if one is missed.

    Raises
    ------
    RuntimeError
        In Numba's simulator.
    """
    backend.require()
    missed = False
    for part in (to_ptx, to_machine_code, reporting, running, beside_the_simulator):
        for bar in part():
            print(bar, flush=True)
            missed |= bar.missed
    return int(missed)
