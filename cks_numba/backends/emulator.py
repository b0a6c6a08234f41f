"""The operators by their compiled CUDA kernels, on this CPU: `emulator` runs the launches that `kernels` builds."""

from __future__ import annotations

from typing import Any

from ..emulator import run_kernel
from ..geometry import ConvShape
from ..kernels import launches
from ..kernels.jit import NO_NUMBA_CUDA, NUMBA_CUDA, SIMULATED

WHY_NOT = (
    "the simulator takes the place of compiled kernels: unset NUMBA_ENABLE_CUDASIM"
    if SIMULATED
    else f"{NO_NUMBA_CUDA}: pip install numba-cuda"
)
NO_EMULATOR = f'backend="emulator" cannot run: {WHY_NOT}. Use backend="cpu" (or "auto")'


def available() -> bool:
    """Whether kernels can be compiled here, which needs no GPU and no CUDA."""
    return NUMBA_CUDA and not SIMULATED


def require() -> None:
    """Raise the one error that says what to install."""
    if not available():
        raise RuntimeError(NO_EMULATOR)


def run(operator: str, shape: ConvShape, first: Any, second: Any, out: Any) -> None:
    """Run an operator on contiguous NHWC arrays of NumPy, on all cores and without checks."""
    for launch in launches(operator, shape, (first, second, out)):
        run_kernel(launch.kernel, launch.grid, launch.block, *launch.args)
