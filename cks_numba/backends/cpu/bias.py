"""The bias: a kernel of its own adds it to a result, so that a call that comes again needs no other library for it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .compiled import (
    NO_CALL,
    SCRATCH_HEAD,
    Call,
    Sizes,
    affordable,
    ceil_div,
    next_task,
    own_scratch,
    record,
    start,
    threads_of_numba,
)
from .plain import add_bias
from .registers import VECTOR_BYTES, add_vector, bytes_of, fill_vector, number_at, write_number
from .repeats import not_again

Array = np.ndarray[Any, Any]
TASK_BYTES = 2**16  # Bytes of the lines of a task.
SERIAL_BELOW = 50_000  # Fewer numbers than these are added by one thread.


class BiasSizes(NamedTuple):
    """The arguments of `plus_bias`. A line of the result is a number for each channel, or all numbers of one channel.

    Its A is the bias, its B the result. `channels` is 0 if a line has all of them.
    """

    call: Call
    lines: int
    lines_together: int
    numbers: int
    channels: int


def add(out: Array, bias: Array) -> None:
    """Add a bias to a result with channels last."""
    planes = np.moveaxis(out, -1, 1)
    if not (out.flags.c_contiguous or planes.flags.c_contiguous):
        not_again()
        add_bias(out, bias)
        return
    threads = 1 if out.size < SERIAL_BELOW else affordable(threads_of_numba())
    shape = out.shape if out.flags.c_contiguous else planes.shape
    sizes = sizes_of(shape, out.flags.c_contiguous, out.itemsize, threads)
    start(plus_bias, out.dtype, threads, sizes, bias=bias, out=out)


@lru_cache(maxsize=1024)
def sizes_of(shape: tuple[int, ...], is_last: bool, itemsize: int, threads: int) -> Sizes:
    """Return the sizes for `plus_bias` on a result of this shape, whose channels are last in memory or follow n."""
    n, second, *others = shape
    channels = others[-1] if is_last else second
    positions = int(np.prod(shape)) // (n * channels)
    numbers = channels if is_last else positions
    lines = n * (positions if is_last else channels)
    together = max(1, min(TASK_BYTES // (numbers * itemsize), ceil_div(lines, threads)))
    sizes = BiasSizes(NO_CALL, lines, together, numbers, 0 if is_last else channels)
    return Sizes.of(sizes, scratch=SCRATCH_HEAD + VECTOR_BYTES)


def plus_bias(zero: Any, arguments: Any, thread: Any) -> None:
    """Kernel: add a bias to a result whose lines follow each other in memory; a task is some of them."""
    sizes = record(arguments, 0, BiasSizes)
    size, numbers = bytes_of(zero), sizes.numbers
    width = int(VECTOR_BYTES) // size
    _, _, _, own = own_scratch(arguments)
    while True:
        task = next_task(arguments, thread, ceil_div(sizes.lines, sizes.lines_together))
        if task < 0:
            return
        first = task * sizes.lines_together
        for line in range(first, min(first + sizes.lines_together, sizes.lines)):
            target, source, step = sizes.call.b + line * numbers * size, sizes.call.a, size
            if sizes.channels > 0:
                fill_vector(number_at(zero, source + line % sizes.channels * size), own)
                source, step = own, 0
            whole = numbers // width * width
            for k in range(0, whole, width):
                add_vector(zero, target + k * size, source + k * step)
            for k in range(whole, numbers):
                write_number(number_at(zero, target + k * size) + number_at(zero, source + k * step), target + k * size)
