"""A launch is data: which kernel, on what grid, with which arguments. Building a list of them needs no GPU."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..geometry import ConvShape
from ..plan_table import ceil_div
from .jit import cuda, unravel

THREADS = 128  # of a block, where one thread makes one result


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
    """A launch with one thread for every element of `out`."""
    return Launch(name, kernel, (ceil_div(prod(out.shape), THREADS),), (THREADS,), args)


def scratch(like: Any, shape: tuple[int, ...]) -> Any:
    """Memory between launches, uninitialised, where `like` lives."""
    make: Callable[..., Any] = np.empty if isinstance(like, np.ndarray) else cuda.device_array
    return make(shape, dtype=like.dtype)


def beside(like: Any, table: np.ndarray) -> Any:
    """`table` where `like` lives."""
    return table if isinstance(like, np.ndarray) else cuda.to_device(table)


@cuda.jit
def insert_zeros(src, out, before_h, before_w, step_h, step_w):
    """The regular way's first step: src in an array of zeros, `before` from its start, `step` apart.

    Steps of 1 pad; larger ones insert zeros; a negative `before` crops. One thread an element of `out`.
    """
    index = cuda.grid(1)
    if index >= out.size:
        return
    n, h, w, c = unravel(index, out.shape[1], out.shape[2], out.shape[3])
    sh, sw = (h - before_h) // step_h, (w - before_w) // step_w
    real = h - before_h == sh * step_h and w - before_w == sw * step_w
    real = real and 0 <= sh and sh < src.shape[1] and 0 <= sw and sw < src.shape[2]
    if real:
        out[n, h, w, c] = src[n, sh, sw, c]
    else:
        out[n, h, w, c] = 0


def zeros_inserted(name: str, src: Any, height: int, width: int, before: Any, step: Any) -> tuple[Any, Launch]:
    """An array of src with zeros around or between, and the launch that fills it."""
    out = scratch(src, (src.shape[0], height, width, src.shape[3]))
    return out, one_thread_each(name, insert_zeros, out, (src, out, *before, *step))


def padded(x: Any, shape: ConvShape) -> tuple[Any, Launch]:
    """x really padded."""
    height, width = (axis.before + axis.size + axis.after for axis in (shape.h, shape.w))
    return zeros_inserted("pad x", x, height, width, (shape.h.before, shape.w.before), (1, 1))
