"""The one place that imports numba.cuda, and how the kernels of this package are compiled."""

from __future__ import annotations

from typing import Any

import numba
from numba import cuda

from .. import geometry

SIMULATED: bool = bool(getattr(numba.config, "ENABLE_CUDASIM", False))
"""True where NUMBA_ENABLE_CUDASIM=1 was set before numba was first imported."""

ALIGN = None if SIMULATED else 16
"""Alignment of shared tiles in bytes: lets four neighbours travel in one load. The simulator has none."""


def device(function: Any) -> Any:
    """Compile a function to be inlined into kernels (a plain call would need a driver to compile)."""
    return cuda.jit(device=True, inline="always")(function)


def kernel(threads: int, blocks: int) -> Any:
    """Compile a kernel for so many threads of a block and blocks of a multiprocessor, which bounds its registers."""
    options: dict[str, Any] = {} if SIMULATED else {"launch_bounds": (threads, blocks)}
    return cuda.jit(**options)


# The kernels trim with the very functions that the plan is made with.
taps_of_output = device(geometry.taps_of_output)
outputs_of_tap = device(geometry.outputs_of_tap)
taps_of_input = device(geometry.taps_of_input)


@device
def unravel(index, size1, size2, size3):
    """Four indices of a flat one; sizes are those of the last three axes."""
    rest = index // size3
    return rest // size2 // size1, rest // size2 % size1, rest % size2, index % size3
