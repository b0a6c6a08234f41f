"""`setup`: the first call of every notebook, before Numba is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.util import find_spec

QUIET = ("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", "NUMBA_CUDA_WARN_ON_IMPLICIT_COPY")
"""Warnings to switch off, because the lessons use tiny NumPy arrays on purpose."""
DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def gpus() -> int:
    """Number of CUDA GPUs according to NVIDIA's driver; 0 if there is no driver."""
    for name in DRIVERS:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        found = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(found)) == 0:
            return found.value
    return 0


def setup() -> None:
    """Choose the GPU, or Numba's simulator if there is none or numba-cuda is not installed, and say so.

    Numba reads the variable NUMBA_ENABLE_CUDASIM once, at its import, so this must come first. Where
    the variable is set already, it is left as it is.
    """
    for warning in QUIET:
        os.environ.setdefault(warning, "0")
    found = gpus() if find_spec("numba_cuda") else 0
    if not found and "numba" not in sys.modules:
        os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")
    simulated = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
    if simulated:
        print("Kernels run in Numba's CUDA simulator, on the CPU: right for tiny arrays, slow for others.")
    elif found:
        print("Kernels run on this machine's GPU.")
    else:
        print("Numba was imported before setup(), so no kernel can run here: restart the kernel, then run this first.")
    print(f'backend="auto" uses the {"GPU" if found and not simulated else "CPU"}.')
