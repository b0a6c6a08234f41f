"""Helpers of the lessons about kernels: run a learner's kernel, and tell the usual mistakes apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.cuda import launching
from ..geometry import Axis
from ..trace.elements import REAL, Element, Log, Number, Watched, blank
from ..trace.machine import Machine
from .answers import Open, Wrong

UNTOUCHED = -777.0
"""Value of all results before the kernel runs."""
THREADS = 32
"""Threads of a block; always more than there are results, so that a kernel needs its guard."""


def run_kernel(kernel: Any, grid: Any, block: Any, args: tuple[Any, ...], out: Any) -> None:
    """Run a kernel that should fill `out`, one of its arguments.

    Raises
    ------
    Open
        If it wrote nothing at all.
    Wrong
        If it is no kernel, raised, or left results untouched.
    """
    if not hasattr(kernel, "__getitem__"):
        raise Wrong("This should be a kernel: keep the line @cuda.jit above it.")
    out[...] = UNTOUCHED
    try:
        with launching:
            kernel[grid, block](*args)
    except Exception as error:  # a learner's kernel may raise anything
        raise Wrong(explained(error)) from error
    if (out == UNTOUCHED).all():
        raise Open
    if (out == UNTOUCHED).any():
        raise Wrong(
            f"{int((out == UNTOUCHED).sum())} of {out.size} results were never written, such as "
            f"{first(out == UNTOUCHED)}. Is there a path through your kernel on which a thread ends without writing, "
            "or does a thread write to the place of another?"
        )


def explained(error: Exception) -> str:
    """Tell what an error in the simulator usually comes from."""
    if isinstance(error, IndexError):
        return (
            f"A thread used an index past the end of an array ({error}). Either a thread that has no result to make "
            "does not stop at once, or a bound is one too large. A GPU would not have told you."
        )
    if isinstance(error, TypeError) and "argument" in str(error):
        return f"The kernel does not take the arguments that it is launched with: {error}"
    return f"Your kernel raised {type(error).__name__}: {error}"


def compare(got: Any, expected: Any, hints: dict[str, Any] | None = None, advice: str = "") -> None:
    """Raise `Wrong` if results differ, with the hint whose array they equal instead.

    Parameters
    ----------
    got, expected : ndarray
    hints : dict
        From a helpful message to the array that this kind of mistake gives.
    advice : str
        Where to look if it is none of these mistakes.
    """
    if np.allclose(got, expected, rtol=1e-4, atol=1e-5):
        return
    for message, array in (hints or {}).items():
        if np.shape(array) == got.shape and np.allclose(got, array, rtol=1e-4, atol=1e-5):
            raise Wrong(message)
    wrong = ~np.isclose(got, expected, rtol=1e-4, atol=1e-5)
    at = first(wrong)
    raise Wrong(
        f"{int(wrong.sum())} of {got.size} results are wrong. The first one: at {at} you have {got[at]:.4g}, "
        f"and it should be {expected[at]:.4g}. {advice}".rstrip()
    )


def first(mask: Any) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(index) for index in np.argwhere(mask)[0])


# --- kernels of one axis ----------------------------------------------------------------------------
def one_axis(kernel: Any, operator: str, axes: list[Axis], seed: int) -> None:
    """Try a kernel of one axis that takes x (dy), w, y (dx), stride and padding; it may do no product too many.

    Raises
    ------
    Open, Wrong
        As in `run_kernel` and `compare`; also if it does more products than are useful.
    """
    rng = np.random.default_rng(seed)
    forward = operator == "conv2d"
    for axis in axes:
        given, made = (axis.size, axis.outputs) if forward else (axis.outputs, axis.size)
        a, w = (rng.integers(1, 9, size).astype(np.float32) for size in (given, axis.taps))
        out, expected = np.empty(made, np.float32), np.zeros(made)
        for run in axis.runs(operator):
            for i, f, o in run.triples():
                expected[o if forward else i] += (a[i] if forward else a[o]) * w[f]
        args = a, w, out, axis.stride, axis.before
        run_kernel(kernel, made // THREADS + 1, THREADS, args, out)
        where = f"Stride {axis.stride}, padding {axis.before}, {axis.taps} taps, {axis.size} inputs."
        compare(
            out, expected, advice=f"{where} A negative index reads from the end of an array: is one of yours negative?"
        )
        done = products(kernel, made, *args)
        if done is not None and done > axis.triples:
            raise Wrong(f"The results are right, but it does {done} products where {axis.triples} are useful.")


def products(kernel: Any, results: int, *args: Any) -> int | None:
    """Count the multiplications of elements that a kernel does; None where its source cannot be traced."""
    log = Log()
    watched = tuple(_watched(arg, log) if isinstance(arg, np.ndarray) else arg for arg in args)
    try:
        Machine(log).launch(kernel, (results // THREADS + 1,), (THREADS,), watched)
    except Exception:  # only the praise needs this count, and a learner may write anything
        return None
    return len(log.events) + log.outside


def _watched(array: Any, log: Log) -> Watched:
    made = blank(array.shape, array.dtype, log)
    for index, value in np.ndenumerate(array):
        made.cells[index] = Number(float(value), log, Element("", index, REAL))
    return made
