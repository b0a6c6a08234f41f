"""`setup`: the first call of every notebook decides where its kernels run."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from numba import config

from ..backends import gpu
from ..emulator import emulate

SIMULATED = (
    "NUMBA_ENABLE_CUDASIM is set, so that nothing can be compiled, and the course compiles your kernels. Unset it, and "
    "start Python again."
)
_emulating = ExitStack()


def setup() -> None:
    """Let kernels run on the GPU, or in the emulator if there is none, and say so.

    Raises
    ------
    RuntimeError
        Inside Numba's simulator, which compiles nothing.
    """
    settings: Any = config
    if getattr(settings, "ENABLE_CUDASIM", False):
        raise RuntimeError(SIMULATED)
    settings.CUDA_LOW_OCCUPANCY_WARNINGS = settings.CUDA_WARN_ON_IMPLICIT_COPY = 0  # the arrays are tiny on purpose
    if on_gpu():
        print("Kernels run on this machine's GPU.")
        print('backend="auto" uses the GPU.')
        return
    _emulate()
    print("Kernels run in the emulator: compiled as for a GPU, run on the CPU, and checked.")
    print('backend="auto" uses the CPU.')


def on_gpu() -> bool:
    """Whether kernels run on a GPU; asked by `setup` before it switches the emulator on, and kept."""
    return bool(gpu().available())


def _emulate() -> None:
    """Switch the emulator on: for every cell of a notebook, elsewhere for good.

    A cell may run in a context of its own, in which nothing is left of what earlier cells have switched on.
    """
    _begin()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        for name, function in (("pre_run_cell", _begin), ("post_run_cell", _end)):
            if function not in shell.events.callbacks[name]:
                shell.events.register(name, function)


def _begin(*_: Any) -> None:
    _emulating.close()
    _emulating.enter_context(emulate())


def _end(*_: Any) -> None:
    _emulating.close()
