"""Run compiled CUDA kernels on this computer, checked: no GPU, no simulator.

A kernel is compiled as for a GPU, to PTX, and its PTX becomes machine code of the CPU. A checked run finds what is
wrong with the kernel: races, missing barriers, accesses out of bounds, memory that nobody has written and more.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from . import hooks, machine, ptx
from .faults import Fault
from .ptx import PTXError
from .report import KernelFault, Result

__all__ = ["Fault", "KernelFault", "PTXError", "Result", "check_kernel", "emulate", "run_kernel"]

LIMIT = 20_000_000
"""Jumps back in loops after which a thread of a checked run is stopped; a wait at a barrier counts as several."""

_programs: WeakKeyDictionary[Any, dict[Any, machine.Program]] = WeakKeyDictionary()
_lock = threading.Lock()


def check_kernel(
    kernel: Any,
    grid: Any,
    block: Any = None,
    *arguments: Any,
    shared: int = 0,
    seed: str | int = "forward",
    poison: Any = None,
    limit: int = LIMIT,
) -> Result:
    """Run a kernel on this computer, checked, and return what is wrong with it.

    Parameters
    ----------
    kernel : function with ``@cuda.jit`` above it
    grid : int, tuple of up to 3 int, or what stands in a launch's brackets
        Blocks; ``(grid, block, stream, shared bytes)`` is taken too, and then `block` is the first argument.
    block : int or tuple of up to 3 int
        Threads of a block.
    *arguments
        NumPy arrays, which the kernel may write to, scalars, and tuples of them.
    shared : int
        Bytes of dynamic shared memory.
    seed : "forward", "reverse" or int
        The order in which blocks and threads run: as they are numbered, backwards, or by chance from that seed.
    poison
        A value of results before the launch, such as NaN: elements of an array full of it that no thread writes are
        a fault.
    limit : int
        Jumps back in loops after which a thread counts as running without end. A wait at a barrier counts as a
        quarter of the block's threads.

    Returns
    -------
    Result
        It prints as a report; ``result.faults`` is empty if the kernel did nothing wrong.

    Raises
    ------
    PTXError
        For an instruction that the emulator does not know; names it and the Python line.
    ValueError, TypeError
        For a grid, block or argument that no launch can have.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import cuda
    >>> @cuda.jit
    ... def double(x):
    ...     i = cuda.grid(1)
    ...     if i <= x.size:
    ...         x[i] *= 2
    >>> result = check_kernel(double, 1, 64, np.ones(40, np.float32))
    >>> result.faults[0].kind
    'out of bounds'
    """
    if isinstance(grid, tuple) and len(grid) == 4:
        if block is not None:
            arguments = (block, *arguments)
        grid, block, _, shared = grid
    sizes = hooks.dimensions(grid, block)
    order, number = _order(seed)
    if shared < 0 or limit < 1:
        raise ValueError(f"shared must be at least 0 and limit at least 1, got {shared} and {limit}")
    launch = _launch(kernel, *sizes, shared, arguments, checked=True)
    poisoned = launch.poisoned(poison)
    seconds = launch.run(1, order, number, limit)
    result = launch.result(kernel.py_func.__name__, seconds, poisoned)
    result.gpu_ptx = partial(hooks.ptx_of, kernel, tuple(map(hooks.plain, arguments)))
    return result


def run_kernel(kernel: Any, grid: Any, block: Any, *arguments: Any, shared: int = 0, cores: int | None = None) -> None:
    """Run a kernel on this computer as fast as it goes, without checks, on so many cores, by default on all."""
    launch = _launch(kernel, *hooks.dimensions(grid, block), shared, arguments, checked=False)
    launch.run(_cores() if cores is None else cores, 0, 0, 0)


@contextmanager
def emulate(checked: bool = True) -> Iterator[None]:
    """Let ``kernel[grid, block](...)`` and the arrays of ``numba.cuda`` run on this computer.

    Parameters
    ----------
    checked : bool
        Raise `KernelFault` for a kernel that does something wrong. False is faster, and trusts the kernel.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import cuda
    >>> @cuda.jit
    ... def double(x):
    ...     i = cuda.grid(1)
    ...     if i < x.size:
    ...         x[i] *= 2
    >>> x = np.ones(40, np.float32)
    >>> with emulate():
    ...     double[1, 64](x)
    >>> float(x.sum())
    80.0
    """

    def run(kernel: Any, grid: Any, block: Any, shared: int, arguments: Any) -> None:
        if not checked:
            run_kernel(kernel, grid, block, *arguments, shared=shared)
            return
        result = check_kernel(kernel, grid, block, *arguments, shared=shared)
        print(end="".join(result.printed))
        if result.faults:
            raise KernelFault(result)

    with hooks.redirected(run):
        yield


def _launch(kernel: Any, grid: Any, block: Any, shared: int, arguments: Any, checked: bool) -> machine.Launch:
    arguments = tuple(map(hooks.plain, arguments))
    list(hooks.flatten(arguments, lambda array: 0))  # so that what no kernel takes is an error before all else
    text = hooks.ptx_of(kernel, arguments, watched=checked)
    if checked and not ptx.watches(text):  # the same without marks, which keep compilers from some of their work
        text = hooks.ptx_of(kernel, arguments)
    with _lock:
        known = _programs.setdefault(kernel, {})
        if (text, checked) not in known:
            known[text, checked] = machine.Program(text, checked)
        program = known[text, checked]
    names = list(inspect.signature(kernel.py_func).parameters)
    return machine.Launch(program, grid, block, shared, arguments, names, hooks.flatten)


def _order(seed: str | int) -> tuple[int, int]:
    if isinstance(seed, str):
        if seed not in ("forward", "reverse"):
            raise ValueError(f'seed must be "forward", "reverse" or a number, got {seed!r}')
        return ("forward", "reverse").index(seed), 0
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f'seed must be "forward", "reverse" or a number from 0 on, got {seed!r}')
    return 2, int(seed)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
