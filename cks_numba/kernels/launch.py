"""A launch is data: which kernel, on what grid, with which arguments. Building a list of them needs no GPU."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..plan_table import ceil_div
from .jit import cuda

THREADS = 128  # threads of a block in kernels where the threads of a block share nothing
TILE = 8  # threads along each side of a block in kernels where they share tiles; also the terms of a tile


class Launch(NamedTuple):
    """One kernel launch.

    Attributes
    ----------
    name : str
        What the launch does.
    kernel : numba.cuda dispatcher
    grid, block : tuple of int
    args : tuple
        Arrays and scalars, each of which ``numba.typeof`` can type.
    """

    name: str
    kernel: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: tuple[Any, ...]

    def __str__(self) -> str:
        shown = ", ".join(
            f"{arg.dtype}{list(arg.shape)}" if hasattr(arg, "shape") and arg.shape else str(arg) for arg in self.args
        )
        return f"{self.name}[{self.grid}, {self.block}]({shown})"

    def run(self, stream: Any = 0) -> None:
        """Launch the kernel: on a GPU, or in Numba's simulator."""
        self.kernel[self.grid, self.block, stream](*self.args)


def one_thread_each(name: str, kernel: Any, out: Any, args: tuple[Any, ...]) -> Launch:
    """Build a launch with one thread for every element of `out`."""
    return Launch(name, kernel, (ceil_div(prod(out.shape), THREADS),), (THREADS,), args)


def scratch(like: Any, shape: tuple[int, ...]) -> Any:
    """Allocate uninitialised memory for what one launch hands to the next, on the device of `like`."""
    make: Callable[..., Any] = np.empty if isinstance(like, np.ndarray) else cuda.device_array
    return make(shape, dtype=like.dtype)


def beside(like: Any, table: np.ndarray) -> Any:
    """Return a table on the device of `like`."""
    return table if isinstance(like, np.ndarray) else cuda.to_device(table)
