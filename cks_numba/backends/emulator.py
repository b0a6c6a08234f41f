"""The operators by their compiled CUDA kernels, on this CPU: `emulator` runs the launches that `kernels` builds."""

from __future__ import annotations

from typing import Any

from ..emulator import run_kernel
from ..geometry import ConvShape
from ..kernels import launches
from ..kernels.jit import SIMULATED
from .cpu.threads import cores

NO_EMULATOR = (
    'backend="emulator" needs compiled kernels, which Numba\'s simulator does without: unset NUMBA_ENABLE_CUDASIM and '
    'start Python again, or use backend="cpu" (or "auto")'
)


def available() -> bool:
    """Whether kernels can be compiled: everywhere but in Numba's simulator."""
    return not SIMULATED


def require() -> None:
    """Raise the one error that says how to go on in the simulator."""
    if not available():
        raise RuntimeError(NO_EMULATOR)


def run(
    operator: str, shape: ConvShape, first: Any, second: Any, out: Any, bias: Any = None, tensor: bool = False
) -> None:
    """Run an operator on contiguous NHWC arrays of NumPy, on all cores that a quota allows; `bias` may be None."""
    for launch in launches(operator, shape, (first, second, out), "tensor" if tensor else "tiled", bias):
        run_kernel(launch.kernel, launch.grid, launch.block, *launch.args, cores=cores())
