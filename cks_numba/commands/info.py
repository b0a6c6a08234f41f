"""``cks-numba info``: versions, the cores, the GPU, and the backend that will be used."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata

from ..backends import emulator
from ..backends.cpu import compiled, threads
from ..backends.cuda import available
from ..kernels.jit import NO_NUMBA_CUDA, NUMBA_CUDA, SIMULATED, cuda


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def version(package: str) -> str:
    """Return the installed version of a package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def gpu_name() -> str | None:
    """Return the name of the GPU that will be used, or None."""
    if SIMULATED or not available():
        return None
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def cpu_limits() -> str:
    """Return how many cores this process may use, what limits it, and how many threads a call uses."""
    limit = f" by a quota of {threads.quota():g}" if threads.quota() < (os.cpu_count() or 1) else ""
    count = compiled.affordable(compiled.threads_of_numba())
    return f"{threads.cores()} of {os.cpu_count()} cores{limit}; a call uses up to {count} thread{'s'[: count > 1]}"


def run(arguments: argparse.Namespace) -> int:
    """Print versions, cores and threads, the GPU, and what backend="auto" will use."""
    for name in ("cks-numba", "numpy", "numba", "numba-cuda"):
        print(f"{name:<12} {version(name)}")
    print(f"{'python':<12} {platform.python_version()} on {platform.machine()}")
    print(f"{'CPU':<12} {cpu_limits()}")
    gpu = gpu_name()
    print(f"{'GPU':<12} {gpu or 'none found'}")
    print(f"{'simulator':<12} {'on: kernels run on the CPU, for tiny shapes' if SIMULATED else 'off'}")
    can = 'backend="emulator" runs the compiled kernels on the CPU' if emulator.available() else "off"
    print(f"{'emulator':<12} {can}")
    if gpu:
        print(f'backend="auto" uses "cuda", on {gpu}')
    elif not NUMBA_CUDA:
        print('backend="auto" uses "cpu"')
        print(f"{NO_NUMBA_CUDA}: there are no")
        print("kernels on a GPU and no `cks-numba sass`. All else works, the emulator too")
    else:
        print('backend="auto" uses "cpu"')
    return 0
