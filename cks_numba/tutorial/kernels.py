"""Try a learner's kernel: run it, compare, and count its products."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.cuda import small_grids_allowed
from ..geometry import Axis
from ..trace.elements import REAL, Log, Number, Operand, Watched, blank
from ..trace.machine import Machine
from .checking import Open, Wrong

THREADS = 32  # of a block; always more than there are results, so that a kernel needs its guard


def run(kernel: Any, results: int, *args: Any) -> None:
    """Launch a kernel with a thread for every result, and some more.

    Raises
    ------
    Wrong
        Where it is no kernel, or raises.
    """
    if not hasattr(kernel, "__getitem__"):
        raise Wrong("This should be a kernel: keep the line @cuda.jit above it.")
    try:
        with small_grids_allowed():
            kernel[results // THREADS + 1, THREADS](*args)
    except IndexError as error:
        message = "It reads or writes outside an array. On a GPU nobody would tell you. Which index needs a test?"
        raise Wrong(message) from error
    except Exception as error:
        raise Wrong(f"Running it raised {type(error).__name__}: {error}") from error


def products(kernel: Any, results: int, *args: Any) -> int | None:
    """Count the multiplications of elements that a kernel does; None where its source cannot be traced."""
    log = Log()
    watched = tuple(_watched(arg, log) if isinstance(arg, np.ndarray) else arg for arg in args)
    try:
        Machine(log).launch(kernel, (results // THREADS + 1,), (THREADS,), watched)
    except Exception:  # only the praise needs it, and what a learner may write is not limited
        return None
    return len(log.events) + log.outside


def _watched(array: Any, log: Log) -> Watched:
    made = blank(array.shape, array.dtype, log)
    for index, value in np.ndenumerate(array):
        made.cells[index] = Number(float(value), log, Operand("", index, REAL))
    return made


def compare(name: str, got: Any, expected: Any, axis: Axis) -> None:
    """Raise `Open` if nothing was written, and `Wrong` at the first element that is wrong."""
    where = f"With stride {axis.stride}, padding {axis.before}, {axis.taps} taps and {axis.size} inputs"
    if np.isnan(got).all():
        raise Open
    if np.isnan(got).any():
        raise Wrong(f"{where}, {name}[{int(np.argmax(np.isnan(got)))}] was never written. A sum of nothing is 0.")
    if not np.allclose(got, expected):
        k = int(np.argmax(~np.isclose(got, expected)))
        hint = "A negative index reads from the end of an array, here and on a GPU: is one of yours negative?"
        raise Wrong(f"{where}, {name}[{k}] should be {expected[k]:g}, and is {got[k]:g}. {hint}")
