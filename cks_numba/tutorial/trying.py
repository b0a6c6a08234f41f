"""What the lessons about kernels share: run a learner's kernel, and tell the usual mistakes apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.cuda import small_grids_allowed
from .checking import Open, Wrong

UNTOUCHED = -777.0  # what results hold before the kernel runs


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
        raise Wrong("This should be a kernel: a function with @cuda.jit above it.")
    out[...] = UNTOUCHED
    try:
        with small_grids_allowed():
            kernel[grid, block](*args)
    except Exception as error:  # whatever a learner's kernel does
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
    """What an error in the simulator usually comes from."""
    if isinstance(error, IndexError):
        return (
            f"A thread used an index past the end of an array ({error}). Either a thread that has no result to make "
            "does not stop at once, or a bound is one too large. A GPU would not have told you."
        )
    if isinstance(error, TypeError) and "argument" in str(error):
        return f"The kernel does not take the arguments that it is launched with: {error}"
    return f"Your kernel raised {type(error).__name__}: {error}"


def compare(got: Any, expected: Any, hints: dict[str, Any] | None = None) -> None:
    """Raise `Wrong` if results differ, with the hint whose array they equal instead.

    Parameters
    ----------
    got, expected : ndarray
    hints : dict
        From a helpful message to the array that this kind of mistake gives.
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
        f"and it should be {expected[at]:.4g}."
    )


def first(mask: Any) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(index) for index in np.argwhere(mask)[0])
